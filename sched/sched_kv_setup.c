/*
 * The pool of KV blocks: its making, its end, and the check of its books. Owner's thread; cold.
 */
#include "sched/sched_kv_internal.h"

#include <stdlib.h>

#include "base/base_error.h"

int sched_kv_create(struct sched_kv **out, struct kern_backend *backend, uint64_t pool_bytes,
	uint64_t extent_bytes)
{
	struct sched_kv *kv;
	uint64_t extents, records;

	extent_bytes -= extent_bytes % KV_BLOCK_ALIGN;
	if (extent_bytes == 0 || pool_bytes / extent_bytes == 0)
		return base_fail(EINVAL,
			"a KV pool of %llu bytes in extents of %llu: it must hold at least one, and an extent "
			"at least %d bytes",
			(unsigned long long)pool_bytes, (unsigned long long)extent_bytes,
			KV_BLOCK_ALIGN);
	extents = pool_bytes / extent_bytes;
	records = extents * (extent_bytes / KV_BLOCK_ALIGN);
	if (extents > KV_EXTENTS_MAX || records >= KV_NONE)
		return base_fail(EINVAL,
			"a KV pool of %llu bytes in extents of %llu: at most %d extents; make them larger",
			(unsigned long long)pool_bytes, (unsigned long long)extent_bytes,
			KV_EXTENTS_MAX);
	kv = calloc(1, sizeof(*kv));
	if (!kv)
		return base_fail(ENOMEM, "no memory for the KV pool's books");
	kv->backend = backend;
	kv->extent_bytes = extent_bytes;
	kv->extent_count = (uint32_t)extents;
	kv->stride = (uint32_t)(extent_bytes / KV_BLOCK_ALIGN);
	kv->extents = calloc(extents, sizeof(*kv->extents));
	kv->blocks = calloc(records, sizeof(*kv->blocks));
	kv->classes = calloc(KV_CLASSES_MAX, sizeof(*kv->classes));
	if (!kv->extents || !kv->blocks || !kv->classes) {
		sched_kv_destroy(kv);
		return base_fail(ENOMEM, "no memory for the books of %llu KV extents",
			(unsigned long long)extents);
	}
	kv->memory = backend->ops->alloc(backend, extents * extent_bytes, "KV cache");
	if (!kv->memory) {
		sched_kv_destroy(kv);
		return base_fail_within(ENOMEM, "KV pool of %llu bytes",
			(unsigned long long)(extents * extent_bytes));
	}
	for (uint32_t e = 0; e < kv->extent_count; e++)
		kv->extents[e] = (struct kv_extent){ .class = KV_NONE,
			.free_head = KV_NONE,
			.previous = KV_NONE,
			.next = e + 1 < kv->extent_count ? e + 1 : KV_NONE };
	kv->untouched = kv->extent_count;
	*out = kv;
	return 0;
}

void sched_kv_destroy(struct sched_kv *kv)
{
	if (!kv)
		return;
	if (kv->memory)
		kv->backend->ops->free(kv->backend, kv->memory);
	free(kv->classes);
	free(kv->blocks);
	free(kv->extents);
	free(kv);
}

size_t sched_kv_extent_bytes(const struct sched_kv *kv)
{
	return kv->extent_bytes;
}

uint32_t sched_kv_limit(const struct sched_kv *kv)
{
	return kv->extent_count * kv->stride;
}

uint32_t sched_kv_number(const struct sched_kv *kv, const unsigned char *block)
{
	return kv_number(kv, block);
}

uint32_t sched_kv_references_at(const struct sched_kv *kv, uint32_t number)
{
	return kv->blocks[number].references;
}

struct tally {
	uint64_t blocks[KV_ZEROING + 1], bytes[KV_ZEROING + 1];
};

static int check_extent(const struct sched_kv *kv, uint32_t e, struct tally *tally)
{
	const struct kv_extent *extent = &kv->extents[e];
	size_t block_bytes = kv->classes[extent->class].block_bytes;
	uint32_t listed = 0, free = 0;

	for (uint32_t n = extent->free_head; n != KV_NONE && listed <= extent->blocks;
		n = kv->blocks[n].next) {
		if (n / kv->stride != e || kv->blocks[n].state != KV_FREE)
			return base_fail(EINVAL,
				"KV extent %u lists block %u as free; its state is %u", e, n,
				kv->blocks[n].state);
		listed++;
	}
	for (uint32_t b = 0; b < extent->blocks; b++) {
		const struct kv_block *block = &kv->blocks[e * kv->stride + b];

		if (block->state == KV_OUTSIDE || block->state > KV_ZEROING)
			return base_fail(EINVAL, "KV block %u of extent %u is in no state (%u)", b,
				e, block->state);
		if ((block->references > 0) != (block->state == KV_USED))
			return base_fail(EINVAL,
				"KV block %u of extent %u: %u references in state %u", b, e,
				block->references, block->state);
		tally->blocks[block->state]++;
		tally->bytes[block->state] += block_bytes;
		free += block->state == KV_FREE;
	}
	if (listed != free || free != extent->free || free == extent->blocks)
		return base_fail(EINVAL,
			"KV extent %u: %u blocks free, %u listed, %u counted, of %u", e, free,
			listed, extent->free, extent->blocks);
	return 0;
}

static int check_class(const struct sched_kv *kv, uint32_t c)
{
	const struct kv_class *class = &kv->classes[c];
	uint32_t listed = 0;
	uint64_t free = 0, zeroing = 0;

	for (uint32_t n = class->dirty_head; n != KV_NONE && listed <= class->dirty; n = kv->blocks[n].next) {
		if (kv->blocks[n].state != KV_DIRTY || kv->extents[n / kv->stride].class != c)
			return base_fail(EINVAL, "KV block %u is listed as dirty of class %u; its state is %u", n, c,
				kv->blocks[n].state);
		listed++;
	}
	for (uint32_t e = 0; e < kv->extent_count; e++) {
		if (kv->extents[e].class != c)
			continue;
		free += kv->extents[e].free;
		for (uint32_t b = 0; b < kv->extents[e].blocks; b++)
			zeroing += kv->blocks[e * kv->stride + b].state == KV_ZEROING;
	}
	if (listed != class->dirty || free != class->free || zeroing != class->zeroing)
		return base_fail(EINVAL, "KV blocks of %zu bytes: %u dirty, %llu free, %llu being zeroed; counted %llu, %llu, %llu",
			class->block_bytes, listed, (unsigned long long)free, (unsigned long long)zeroing,
			(unsigned long long)class->dirty, (unsigned long long)class->free, (unsigned long long)class->zeroing);
	return 0;
}

int sched_kv_check(const struct sched_kv *kv)
{
	struct tally tally = { 0 };
	uint32_t untouched = 0, dirty = 0;

	for (uint32_t e = 0; e < kv->extent_count; e++) {
		int rc = kv->extents[e].class == KV_NONE ? 0 : check_extent(kv, e, &tally);

		if (rc < 0)
			return rc;
		untouched += kv->extents[e].class == KV_NONE;
	}
	for (uint32_t c = 0; c < kv->class_end; c++) {
		int rc = kv->classes[c].block_bytes == 0 ? 0 : check_class(kv, c);

		if (rc < 0)
			return rc;
		dirty += kv->classes[c].block_bytes == 0 ? 0 : (uint32_t)kv->classes[c].dirty;
	}
	if (untouched != kv->untouched)
		return base_fail(
			EINVAL, "%u untouched KV extents, %u counted", untouched, kv->untouched);
	if (dirty != kv->blocks_dirty || tally.blocks[KV_DIRTY] != dirty ||
		tally.blocks[KV_ZEROING] != kv->blocks_zeroing)
		return base_fail(EINVAL,
			"KV blocks: %llu dirty, %u listed, %u counted; %llu being zeroed, %u counted",
			(unsigned long long)tally.blocks[KV_DIRTY], dirty, kv->blocks_dirty,
			(unsigned long long)tally.blocks[KV_ZEROING], kv->blocks_zeroing);
	if (tally.blocks[KV_USED] != kv->blocks_used || tally.bytes[KV_USED] != kv->used_bytes ||
		tally.bytes[KV_DIRTY] + tally.bytes[KV_ZEROING] != kv->dirty_bytes)
		return base_fail(EINVAL, "KV blocks in use: %llu of %llu bytes, counted %u of %llu",
			(unsigned long long)tally.blocks[KV_USED],
			(unsigned long long)tally.bytes[KV_USED], kv->blocks_used,
			(unsigned long long)kv->used_bytes);
	return 0;
}

const void *sched_kv_memory(const struct sched_kv *kv)
{
	return kv->memory;
}
