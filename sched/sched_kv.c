/*
 * The pool of KV blocks at work: take, share, release, zero. Scheduler's thread; no allocation, no
 * system call.
 *
 * Finding the class of a block size walks the sizes in use: a handful, since every one owns an
 * extent.
 */
#include "sched/sched_kv_internal.h"

#include "base/base_assert.h"

static uint32_t class_find(const struct sched_kv *kv, size_t block_bytes)
{
	for (uint32_t c = 0; c < kv->class_end; c++)
		if (kv->classes[c].block_bytes == block_bytes)
			return c;
	return KV_NONE;
}

static uint32_t class_new(struct sched_kv *kv, size_t block_bytes)
{
	uint32_t c = class_find(kv, 0);

	if (c == KV_NONE) {
		if (kv->class_end == KV_CLASSES_MAX)
			return KV_NONE;
		c = kv->class_end++;
	}
	kv->classes[c] = (struct kv_class){
		.block_bytes = block_bytes, .head = KV_NONE, .dirty_head = KV_NONE, .dirty_tail = KV_NONE
	};
	return c;
}

static void extent_link(struct sched_kv *kv, uint32_t e)
{
	struct kv_extent *extent = &kv->extents[e];
	struct kv_class *class = &kv->classes[extent->class];

	extent->previous = KV_NONE;
	extent->next = class->head;
	if (class->head != KV_NONE)
		kv->extents[class->head].previous = e;
	class->head = e;
}

static void extent_unlink(struct sched_kv *kv, uint32_t e)
{
	struct kv_extent *extent = &kv->extents[e];

	if (extent->previous != KV_NONE)
		kv->extents[extent->previous].next = extent->next;
	else
		kv->classes[extent->class].head = extent->next;
	if (extent->next != KV_NONE)
		kv->extents[extent->next].previous = extent->previous;
}

/* Cuts an untouched extent into blocks of this class: the one call that is not O(1). */
static bool extent_cut(struct sched_kv *kv, uint32_t c)
{
	uint32_t e = kv->untouched_head;
	struct kv_extent *extent;

	if (e == KV_NONE)
		return false;
	extent = &kv->extents[e];
	kv->untouched_head = extent->next;
	kv->untouched--;
	extent->class = c;
	extent->blocks = (uint32_t)(kv->extent_bytes / kv->classes[c].block_bytes);
	extent->free = extent->blocks;
	extent->free_head = e * kv->stride;
	for (uint32_t b = 0; b < extent->blocks; b++)
		kv->blocks[e * kv->stride + b] =
			(struct kv_block){ .next = b + 1 < extent->blocks ? e * kv->stride + b + 1
									  : KV_NONE,
				.state = KV_FREE };
	kv->classes[c].extents++;
	kv->classes[c].free += extent->blocks;
	extent_link(kv, e);
	return true;
}

/* All blocks are clean again: any size may have the extent now. */
static void extent_give_back(struct sched_kv *kv, uint32_t e)
{
	struct kv_extent *extent = &kv->extents[e];
	struct kv_class *class = &kv->classes[extent->class];

	extent_unlink(kv, e);
	for (uint32_t b = 0; b < extent->blocks; b++)
		kv->blocks[e * kv->stride + b].state = KV_OUTSIDE;
	class->free -= extent->blocks;
	if (--class->extents == 0)
		class->block_bytes = 0;
	*extent = (struct kv_extent){ .class = KV_NONE,
		.free_head = KV_NONE,
		.previous = KV_NONE,
		.next = kv->untouched_head };
	kv->untouched_head = e;
	kv->untouched++;
}

uint64_t sched_kv_available(const struct sched_kv *kv, size_t block_bytes)
{
	uint32_t c = class_find(kv, block_bytes);
	uint64_t per_extent = kv->extent_bytes / block_bytes;

	return (c == KV_NONE ? 0 : kv->classes[c].free) + kv->untouched * per_extent;
}

unsigned char *sched_kv_take(struct sched_kv *kv, size_t block_bytes)
{
	uint32_t c = class_find(kv, block_bytes), e, number;
	struct kv_extent *extent;

	if (block_bytes == 0 || block_bytes > kv->extent_bytes)
		return NULL;
	if (c == KV_NONE && (kv->untouched == 0 || (c = class_new(kv, block_bytes)) == KV_NONE))
		return NULL;
	if (kv->classes[c].head == KV_NONE && !extent_cut(kv, c))
		return NULL;
	e = kv->classes[c].head;
	extent = &kv->extents[e];
	number = extent->free_head;
	extent->free_head = kv->blocks[number].next;
	kv->classes[c].free--;
	if (--extent->free == 0)
		extent_unlink(kv, e);
	kv->blocks[number] =
		(struct kv_block){ .references = 1, .next = KV_NONE, .state = KV_USED };
	kv->blocks_used++;
	kv->used_bytes += block_bytes;
	return kv_address(kv, number);
}

void sched_kv_reference(struct sched_kv *kv, unsigned char *block)
{
	struct kv_block *b = &kv->blocks[kv_number(kv, block)];

	BASE_ASSERT(b->state == KV_USED && b->references < UINT32_MAX);
	b->references++;
}

uint32_t sched_kv_references(const struct sched_kv *kv, const unsigned char *block)
{
	return kv->blocks[kv_number(kv, block)].references;
}

static void dirty_push(struct sched_kv *kv, uint32_t number)
{
	struct kv_class *class = &kv->classes[kv->extents[number / kv->stride].class];

	kv->blocks[number].state = KV_DIRTY;
	kv->blocks[number].next = KV_NONE;
	if (class->dirty_tail == KV_NONE)
		class->dirty_head = number;
	else
		kv->blocks[class->dirty_tail].next = number;
	class->dirty_tail = number;
	class->dirty++;
	kv->blocks_dirty++;
}

static uint32_t dirty_pop(struct sched_kv *kv, struct kv_class *class)
{
	const uint32_t number = class->dirty_head;

	class->dirty_head = kv->blocks[number].next;
	if (class->dirty_head == KV_NONE)
		class->dirty_tail = KV_NONE;
	class->dirty--;
	class->zeroing++;
	kv->blocks[number].next = KV_NONE;
	kv->blocks[number].state = KV_ZEROING;
	kv->blocks_dirty--;
	kv->blocks_zeroing++;
	return number;
}

/* With something to zero, and the least part of its extents clean or about to be. */
static struct kv_class *dirty_class(struct sched_kv *kv)
{
	struct kv_class *shortest = NULL;
	double least = 0.0;

	for (uint32_t c = 0; c < kv->class_end; c++) {
		struct kv_class *class = &kv->classes[c];
		double part;

		if (class->block_bytes == 0 || class->dirty == 0)
			continue;
		part = (double)(class->free + class->zeroing) * (double)class->block_bytes / class->extents;
		if (shortest && part >= least)
			continue;
		shortest = class;
		least = part;
	}
	return shortest;
}

/* With something to zero, in turn, so that a class that is never the shortest is zeroed, too. */
static struct kv_class *dirty_in_turn(struct sched_kv *kv)
{
	for (uint32_t i = 0; i < kv->class_end; i++) {
		kv->zero_last = kv->zero_last + 1 < kv->class_end ? kv->zero_last + 1 : 0;
		if (kv->classes[kv->zero_last].block_bytes > 0 && kv->classes[kv->zero_last].dirty > 0)
			return &kv->classes[kv->zero_last];
	}
	return NULL;
}

void sched_kv_release(struct sched_kv *kv, unsigned char *block)
{
	uint32_t number = kv_number(kv, block);
	struct kv_block *b = &kv->blocks[number];
	size_t block_bytes = kv_bytes_of(kv, number);

	BASE_ASSERT(b->state == KV_USED && b->references > 0);
	if (--b->references > 0)
		return;
	kv->blocks_used--;
	kv->used_bytes -= block_bytes;
	kv->dirty_bytes += block_bytes;
	dirty_push(kv, number);
}

uint32_t sched_kv_dirty(
	struct sched_kv *kv, struct kern_span *spans, uint32_t capacity, size_t bytes_max)
{
	struct kv_class *class = kv->zero_turns++ % KV_TURNS == KV_TURNS - 1 ? dirty_in_turn(kv) : NULL;
	uint32_t count = 0;
	size_t bytes = 0;

	while (count < capacity) {
		if ((!class || class->dirty == 0) && !(class = dirty_class(kv)))
			break;
		if (count > 0 && bytes + class->block_bytes > bytes_max)
			break;
		bytes += class->block_bytes;
		spans[count++] =
			(struct kern_span){ .to = kv_address(kv, dirty_pop(kv, class)), .bytes = class->block_bytes };
	}
	return count;
}

void sched_kv_zeroed(struct sched_kv *kv, const struct kern_span *spans, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		uint32_t number = kv_number(kv, spans[i].to), e = number / kv->stride;
		struct kv_extent *extent = &kv->extents[e];

		BASE_ASSERT(kv->blocks[number].state == KV_ZEROING);
		kv->blocks[number].state = KV_FREE;
		kv->blocks[number].next = extent->free_head;
		extent->free_head = number;
		kv->classes[extent->class].free++;
		kv->classes[extent->class].zeroing--;
		kv->blocks_zeroing--;
		kv->dirty_bytes -= spans[i].bytes;
		if (extent->free++ == 0)
			extent_link(kv, e);
		if (extent->free == extent->blocks)
			extent_give_back(kv, e);
	}
}

void sched_kv_still_dirty(struct sched_kv *kv, const struct kern_span *spans, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		uint32_t number = kv_number(kv, spans[i].to);

		BASE_ASSERT(kv->blocks[number].state == KV_ZEROING);
		kv->classes[kv->extents[number / kv->stride].class].zeroing--;
		kv->blocks_zeroing--;
		dirty_push(kv, number);
	}
}

uint64_t sched_kv_dirty_bytes(const struct sched_kv *kv)
{
	return kv->dirty_bytes;
}

/* Beyond the blocks that are clean, or with `dirty` will be. */
static uint64_t extents_needed(const struct sched_kv *kv, size_t block_bytes, uint64_t count, bool dirty)
{
	uint32_t c = class_find(kv, block_bytes);
	uint64_t free = c == KV_NONE ? 0 : kv->classes[c].free + (dirty ? kv->classes[c].dirty + kv->classes[c].zeroing : 0);
	uint64_t per_extent = kv->extent_bytes / block_bytes;

	return count <= free ? 0 : (count - free + per_extent - 1) / per_extent;
}

static uint32_t lacks(const struct sched_kv *kv, const size_t bytes[2], const uint32_t counts[2], bool dirty)
{
	const bool same = bytes[0] == bytes[1];
	const uint64_t first = same ? 0 : extents_needed(kv, bytes[0], counts[0], dirty);
	const uint64_t later = extents_needed(kv, bytes[1], (same ? (uint64_t)counts[0] : 0) + counts[1], dirty);

	return first + later <= kv->untouched ? 0 : (first > 0 ? 1u : 0u) | (later > 0 ? 2u : 0u);
}

bool sched_kv_fits(const struct sched_kv *kv, const size_t bytes[2], const uint32_t counts[2])
{
	return lacks(kv, bytes, counts, false) == 0;
}

uint32_t sched_kv_lacks(const struct sched_kv *kv, const size_t bytes[2], const uint32_t counts[2])
{
	return lacks(kv, bytes, counts, true);
}

size_t sched_kv_short(const struct sched_kv *kv, uint32_t part, bool dirty, uint32_t *at)
{
	const uint64_t untouched_bytes = (uint64_t)kv->untouched * kv->extent_bytes;

	while (*at < kv->class_end) {
		const struct kv_class *class = &kv->classes[(*at)++];
		const uint64_t blocks = class->free + (dirty ? class->dirty + class->zeroing : 0);

		if (class->block_bytes > 0 && (dirty || class->dirty > 0) &&
			untouched_bytes + blocks * class->block_bytes < (uint64_t)class->extents * kv->extent_bytes / part)
			return class->block_bytes;
	}
	return 0;
}

void sched_kv_usage(const struct sched_kv *kv, struct sched_kv_usage *usage)
{
	uint64_t total = (uint64_t)kv->extent_count * kv->extent_bytes;

	*usage = (struct sched_kv_usage){
		.total_bytes = total,
		.used_bytes = kv->used_bytes,
		.dirty_bytes = kv->dirty_bytes,
		.free_bytes = total - kv->used_bytes - kv->dirty_bytes,
		.blocks_used = kv->blocks_used,
		.blocks_dirty = kv->blocks_dirty + kv->blocks_zeroing,
	};
}
