/*
 * How a job of attention is cut, shared by the files that plan, attend and merge.
 *
 * A *tile* is what one unit of ATTEND or MERGE works on: some query rows times some heads of one KV head, at most
 * CPU_ATTENTION_VECTORS query vectors, ordered by row, then head. A *split* is a range of CPU_ATTENTION_SPLIT_TOKENS
 * positions beginning at a multiple of that. The result of a row is defined as: one pass over each split that the row
 * sees, pages in ascending order, then the parts added in ascending order. Whoever runs the parts does just that.
 */
#ifndef CPU_ATTENTION_UNIT_H
#define CPU_ATTENTION_UNIT_H

#include "kernels/cpu/cpu_attention_kernels.h"

/* Positions begin <= j < end; begin == end for none. */
struct cpu_attention_range { uint32_t begin, end; };

struct cpu_attention_tile {
	const struct cpu_attention_job *job;
	const struct cpu_attention_kernels *kernels;
	uint32_t kv_head, first_head, heads;
	uint32_t first_row, rows;
	uint32_t vectors; /* rows * heads */
};

/* What a participant needs while it runs a unit. */
struct cpu_attention_scratch {
	struct cpu_ahead ahead; /* the pages that come next */
	_Alignas(64) float q[CPU_ATTENTION_VECTORS * CPU_ATTENTION_DIM_MAX];
	_Alignas(64) float o[CPU_ATTENTION_VECTORS * CPU_ATTENTION_DIM_MAX];     /* of the split in work */
	_Alignas(64) float total[CPU_ATTENTION_VECTORS * CPU_ATTENTION_DIM_MAX]; /* of the splits before it */
	_Alignas(64) float weights[CPU_ATTENTION_ROOM * KERN_PAGE_TOKENS];       /* products, then probabilities */
	_Alignas(64) float k[CPU_ATTENTION_DIM_MAX * KERN_PAGE_TOKENS];          /* a page's K, then V, converted */
	_Alignas(64) uint16_t packed[CPU_ATTENTION_ROOM * CPU_ATTENTION_DIM_MAX]; /* q as integers */
	_Alignas(64) int32_t group_sums[CPU_ATTENTION_ROOM * CPU_ATTENTION_GROUPS]; /* of q for int4 */
	_Alignas(64) float q_scale[CPU_ATTENTION_ROOM];
	_Alignas(64) float mean_product[CPU_ATTENTION_ROOM];
	_Alignas(64) uint16_t packed_weights[CPU_ATTENTION_ROOM * CPU_ATTENTION_GROUPS * KERN_PAGE_TOKENS];
	_Alignas(64) float weight_scale[CPU_ATTENTION_VECTORS];
	_Alignas(64) float max[CPU_ATTENTION_VECTORS], sum[CPU_ATTENTION_VECTORS], factor[CPU_ATTENTION_VECTORS];
	_Alignas(64) struct cpu_attention_state total_state[CPU_ATTENTION_VECTORS];
	uint64_t visible[CPU_ATTENTION_VECTORS];                 /* of the page in work */
	struct cpu_attention_range range[CPU_ATTENTION_VECTORS]; /* of each row of the tile */
};

/* A partial result, as it lies in job->partial: [q_rows][heads][part_slots] of `floats` floats. */
struct cpu_attention_part {
	struct cpu_attention_state *state;
	float *o;
};

enum { CPU_ATTENTION_PART_HEADER = 16 }; /* floats in front of o, so that it begins on a cache line */

static inline size_t cpu_attention_part_floats(uint32_t head_dim)
{
	return CPU_ATTENTION_PART_HEADER + (head_dim + 15) / 16 * 16;
}

static inline struct cpu_attention_part cpu_attention_part_at(const struct cpu_attention_tile *tile, uint32_t vector,
	uint32_t slot)
{
	const struct cpu_attention_job *job = tile->job;
	uint32_t row = tile->first_row + vector / tile->heads, head = tile->first_head + vector % tile->heads;
	size_t index = ((size_t)row * job->kv->heads + head) * job->part_slots + slot;
	float *at = job->partial + index * cpu_attention_part_floats(job->kv->head_dim);

	return (struct cpu_attention_part){ .state = (struct cpu_attention_state *)at, .o = at + CPU_ATTENTION_PART_HEADER };
}

/* That of a split of the round at hand. */
static inline struct cpu_attention_part cpu_attention_part(const struct cpu_attention_tile *tile, uint32_t vector,
	uint32_t split)
{
	const struct cpu_attention_job *job = tile->job;
	const uint32_t begin = job->first_split > job->round_begin ? job->first_split : job->round_begin;

	return cpu_attention_part_at(tile, vector, split - begin);
}

/* The keys that a query row sees. Both ends ascend from row to row. */
static inline struct cpu_attention_range cpu_attention_visible(const struct cpu_attention_job *job, uint32_t row)
{
	const uint64_t seen = (uint64_t)job->q_position + row + 1;
	const uint32_t keys = job->kv_position + job->kv_rows;
	const uint32_t end = job->causal && seen < keys ? (uint32_t)seen : keys;

	return (struct cpu_attention_range){ job->window != 0 && end > job->window ? end - job->window : 0, end };
}

/* Formats whose products are sums of integers. */
static inline bool cpu_attention_has_integers(enum kern_kv format)
{
	return format == KERN_KV_INT8 || format == KERN_KV_INT4;
}

/* The table for a tile of so many vectors. */
const struct cpu_attention_kernels *cpu_attention_kernels_of(const struct cpu_attention_job *job, uint32_t vectors);

/* The heads of a column (KV head, and which part of its heads) for some rows. */
struct cpu_attention_tile cpu_attention_tile_at(const struct cpu_attention_job *job, uint32_t column, uint32_t first_row,
	uint32_t rows);

/* Where a page's low halves lie, if it still has any. */
static inline const unsigned char *cpu_attention_low(const struct cpu_attention_job *job, uint32_t kv_head, uint32_t block)
{
	if (block == 0 || !kern_kv_has_low(job->kv) ||
			kern_kv_filled(job->kv_position + job->kv_rows) > block + KERN_KV_AHEAD || !job->blocks[block + KERN_KV_AHEAD])
		return NULL;
	return kern_kv_page(job->kv, job->blocks[block + KERN_KV_AHEAD], block, job->layer, kv_head);
}

/* Attends to one split, or to all in turn when the job keeps no partial results. */
void cpu_attention_attend(const struct cpu_attention_tile *tile, uint32_t split, struct cpu_attention_scratch *scratch);

/* Attends to one split whose pages are the same for several tiles, of different jobs, at once. Every row sees all of it; the
 * tiles are of the same heads, of jobs that differ in rows, rotation and element type at most, and have no more than
 * CPU_ATTENTION_VECTORS vectors together. */
void cpu_attention_attend_together(const struct cpu_attention_tile *tiles, uint32_t count, uint32_t split,
	struct cpu_attention_scratch *scratch);

/* Divides by the sum and writes o and lse of the tile's rows. Overwrites o. */
void cpu_attention_finish(const struct cpu_attention_tile *tile, const struct cpu_attention_state *state, float *o);

#endif
