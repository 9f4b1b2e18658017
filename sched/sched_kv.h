/*
 * The pool of KV blocks of one device: fixed memory, taken once, cut into extents; an extent serves
 * blocks of one size at a time and is given back when all of them are free. Blocks are reference
 * counted (fork, later shared prefixes) and zeroed by the backend between two owners: free -> used
 * -> dirty -> zeroing -> free.
 *
 * Owner: the scheduler's thread. Nothing is allocated after create; every call is O(1) but for the
 * first use of an extent.
 */
#ifndef SCHED_KV_H
#define SCHED_KV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/kern_backend.h"

struct sched_kv;

int sched_kv_create(struct sched_kv **kv, struct kern_backend *backend, uint64_t pool_bytes,
	uint64_t extent_bytes);
void sched_kv_destroy(struct sched_kv *kv);

/* How many blocks of this size could be taken now (clean ones and untouched extents). */
uint64_t sched_kv_available(const struct sched_kv *kv, size_t block_bytes);
/* A zeroed block with one reference, or NULL. block_bytes <= extent size. */
unsigned char *sched_kv_take(struct sched_kv *kv, size_t block_bytes);
void sched_kv_reference(struct sched_kv *kv, unsigned char *block);
/* Drops a reference; the last one makes the block dirty. */
void sched_kv_release(struct sched_kv *kv, unsigned char *block);
uint32_t sched_kv_references(const struct sched_kv *kv, const unsigned char *block);

/* Dirty blocks to zero, of the size that is shortest of clean ones first, and now and then of each in turn: fills spans (at
 * most capacity, and bytes_max but for the first), marks them as being zeroed. sched_kv_zeroed gives those back as free;
 * sched_kv_still_dirty those whose zeroing failed. */
uint32_t sched_kv_dirty(
	struct sched_kv *kv, struct kern_span *spans, uint32_t capacity, size_t bytes_max);
void sched_kv_zeroed(struct sched_kv *kv, const struct kern_span *spans, uint32_t count);
void sched_kv_still_dirty(struct sched_kv *kv, const struct kern_span *spans, uint32_t count);

struct sched_kv_usage {
	uint64_t total_bytes, used_bytes, dirty_bytes, free_bytes;
	uint32_t blocks_used, blocks_dirty;
};
/* Of blocks that wait to be zeroed or are being zeroed. */
uint64_t sched_kv_dirty_bytes(const struct sched_kv *kv);
/* Whether counts[0] blocks of bytes[0] and counts[1] of bytes[1] can all be taken now. */
bool sched_kv_fits(const struct sched_kv *kv, const size_t bytes[2], const uint32_t counts[2]);
/* Of which of them more have to be released before they fit, all that is dirty being zeroed by then: a bit for each; 0: none. */
uint32_t sched_kv_lacks(const struct sched_kv *kv, const size_t bytes[2], const uint32_t counts[2]);
/* A size with less than 1/part of its extents clean or, with `dirty`, soon to be, and no untouched extents to make up for it; without
 * `dirty`, only where there is something to zero. Sizes are looked at from number *at on, which then is the next one; 0: no more. */
size_t sched_kv_short(const struct sched_kv *kv, uint32_t part, bool dirty, uint32_t *at);
void sched_kv_usage(const struct sched_kv *kv, struct sched_kv_usage *usage);
/* The pool itself; constant. */
const void *sched_kv_memory(const struct sched_kv *kv);
size_t sched_kv_extent_bytes(const struct sched_kv *kv);
/* A number below sched_kv_limit for every block in use, for checks of who holds it. */
uint32_t sched_kv_number(const struct sched_kv *kv, const unsigned char *block);
uint32_t sched_kv_limit(const struct sched_kv *kv);
/* References of the block with this number; 0 where none is in use. */
uint32_t sched_kv_references_at(const struct sched_kv *kv, uint32_t number);
/* Conservation: every block is in exactly one state. 0 or -EINVAL with a message. */
int sched_kv_check(const struct sched_kv *kv);

#endif
