/*
 * How the pool of KV blocks keeps its books; private to sched_kv.c and sched_kv_setup.c.
 *
 * The pool is one piece of backend memory, cut into extents of one size. Beside it, in host memory,
 * every extent has an array of block records, as many as the smallest blocks would need. Links are
 * block numbers: extent * stride + block.
 *
 *   extent: untouched -> cut into blocks of one class -> (all free again) -> untouched
 *   block:  free -> used -> dirty -> zeroing -> free
 */
#ifndef SCHED_KV_INTERNAL_H
#define SCHED_KV_INTERNAL_H

#include "sched/sched_kv.h"

enum {
	KV_BLOCK_ALIGN = 4096, /* kern_kv_init rounds blocks up to this */
	KV_CLASSES_MAX =
		1024, /* distinct block sizes in use at one time; each owns an extent at least */
	KV_EXTENTS_MAX = 4096,
	KV_TURNS = 4, /* of so many calls that take dirty blocks, one begins with the class whose turn it is */
};
#define KV_NONE UINT32_MAX

enum kv_state { KV_OUTSIDE, KV_FREE, KV_USED, KV_DIRTY, KV_ZEROING };

struct kv_block {
	uint32_t references;
	uint32_t next; /* in its extent's free list, or in its class's list of dirty ones */
	uint32_t state;
};

struct kv_extent {
	uint32_t class;           /* KV_NONE: untouched */
	uint32_t blocks;          /* that it is cut into */
	uint32_t free, free_head; /* clean ones */
	uint32_t next, previous;  /* extents of its class with clean blocks; untouched extents (next
				     alone) */
};

struct kv_class {
	size_t block_bytes; /* 0: unused */
	uint32_t extents;   /* cut for it */
	uint32_t head;      /* extents with clean blocks */
	uint64_t free;      /* clean blocks in them */
	uint64_t dirty, zeroing;
	uint32_t dirty_head, dirty_tail;
};

struct sched_kv {
	unsigned char *memory;
	size_t extent_bytes;
	uint32_t extent_count, stride; /* stride: block records of one extent */
	struct kv_extent *extents;
	struct kv_block *blocks;
	struct kv_class *classes;
	uint32_t class_end; /* classes beyond were never used */
	uint32_t untouched, untouched_head;
	uint32_t blocks_used, blocks_dirty, blocks_zeroing;
	uint32_t zero_turns, zero_last; /* calls that took dirty blocks; the class whose turn it was last */
	uint64_t used_bytes, dirty_bytes; /* dirty: waiting and being zeroed */
	/* below here is not touched per request */
	struct kern_backend *backend;
};

static inline uint32_t kv_number(const struct sched_kv *kv, const unsigned char *block)
{
	size_t offset = (size_t)(block - kv->memory);
	uint32_t extent = (uint32_t)(offset / kv->extent_bytes);
	size_t block_bytes = kv->classes[kv->extents[extent].class].block_bytes;

	return extent * kv->stride + (uint32_t)(offset % kv->extent_bytes / block_bytes);
}

static inline size_t kv_bytes_of(const struct sched_kv *kv, uint32_t number)
{
	return kv->classes[kv->extents[number / kv->stride].class].block_bytes;
}

static inline unsigned char *kv_address(const struct sched_kv *kv, uint32_t number)
{
	return kv->memory + (size_t)(number / kv->stride) * kv->extent_bytes +
		(size_t)(number % kv->stride) * kv_bytes_of(kv, number);
}

#endif
