/*
 * Attention over a paged cache, cut into units that the CPU backend's executor hands to its threads.
 *
 * A *job* is one session in one layer: new K and V rows to append (maybe none), and query rows that attend. It runs
 * in three phases, each of them a number of units; a phase begins when every unit of the phase before it is done,
 * for all jobs that run together. Units of one phase are independent: any thread runs any of them in any order.
 *
 *   APPEND  units over (KV head, block): rope K, quantize, store; the survey of block 0 when its 64th token arrives. One
 *           unit per KV head where later int8 tokens wait for that survey.
 *   ATTEND  units over (KV head or group, chunk of query rows, range of KV): rope Q, attend; writes o and lse, or
 *           a partial result where its KV range is a part of the whole.
 *   MERGE   combines partial results, in ascending order of KV. No units where nothing was split.
 *
 * Where the room for partial results is short, ATTEND and MERGE come in turn, in *rounds* of some splits each; a merge goes on
 * where the one of the round before has ended. cpu_attention_batch.h runs jobs side by side, and sees to rounds and to what
 * several jobs share.
 *
 * Slices: where pages have low halves (kern_kv.h), a job's rows go through all phases page by page, since those of a page make
 * way for a later page's codes. Jobs of one slice run together; a job without rows has no units.
 *
 * Bits: where the KV is split depends on token positions alone. Whether the parts are run by one unit in turn or by
 * several at once, for one job or for several (a matter of `participants`, of the room for partial results and of the
 * neighbours) never shows in the result.
 *
 * Limits: a unit is meant to take at most some 20 us, since the owner's poll is not interrupted within one; very long
 * contexts may exceed that when the room for partial results is short. No allocation, no lock, no system call in any
 * function here. Whatever q, k, v hold, also NaN and values that change while being read, is memory-safe: each element
 * is read once per unit that needs it; o and lse are never read.
 */
#ifndef CPU_ATTENTION_H
#define CPU_ATTENTION_H

#include "base/base_cpu.h"
#include "kernels/kern_backend.h"

enum cpu_attention_phase { CPU_ATTENTION_APPEND, CPU_ATTENTION_ATTEND, CPU_ATTENTION_MERGE, CPU_ATTENTION_PHASES };

struct cpu_attention_job {
	/* Given by the executor. Strides are in elements, from one row to the next; inside a row the heads follow
	 * each other: q and o [heads][head_dim], k and v [kv_heads][head_dim], lse [heads]. */
	enum base_isa isa; /* which code runs: base_cpu()->isa, or lower in tests */
	bool amx;          /* with AVX-512: tiles may be used, see cpu_products_amx */
	const struct kern_kv_geometry *kv;
	unsigned char *const *blocks;
	uint32_t layer;
	uint32_t q_rows, kv_rows;
	uint32_t kv_position; /* of the first new K row; the layer holds kv_position + kv_rows tokens afterwards */
	uint32_t q_position;
	uint32_t window; /* 0 none */
	bool causal;
	float scale, soft_cap; /* soft_cap 0: off */
	enum kern_dtype dtype; /* of q, k, v and o */
	const void *q, *k, *v;
	size_t q_stride, k_stride, v_stride;
	void *o;
	size_t o_stride;
	float *lse; /* NULL: not wanted; with sinks they count in it */
	size_t lse_stride;
	const float *sinks; /* [heads]: a logit of no key, which takes its share of each row's softmax; NULL: none */

	/* Rotation of the first `rotated` elements of each head of K and Q. Row r of K and row r of Q have the same position
	 * wherever rope is not NONE. rope_cos_sin [rows][rotated/2][2]: cosine, then sine, magnitude included. */
	enum kern_rope rope;
	uint32_t rotated;
	const float *rope_cos_sin;

	/* Filled by cpu_attention_slice: rows of later slices. */
	uint32_t q_rows_left, kv_rows_left;

	/* Filled by cpu_attention_cut and what follows it; the executor reads units only. */
	uint32_t units[CPU_ATTENTION_PHASES]; /* of the round at hand */
	float *partial; /* NULL: a unit goes through all splits in turn */
	uint32_t part_slots; /* of a query vector, one for each split of a round; the last one is for the total between rounds */
	uint32_t append_parts;
	uint32_t ahead_pages, ahead_runs; /* how the pages that come next are asked for, see cpu_ahead.h */
	uint32_t rows_per_unit, row_chunks, heads_per_unit, head_parts; /* head_parts: of the heads of one KV head */
	uint32_t first_split, splits; /* in units of CPU_ATTENTION_SPLIT_TOKENS */
	uint32_t shared_begin, shared_end; /* splits whose partial results units of the batch bring */
	uint32_t round_begin, round_end;   /* splits of the round at hand; the first round begins at 0 */
};

/* Leaves the job with the rows of its first slice, of all that it was given. */
void cpu_attention_slice(struct cpu_attention_job *job);

/* Goes on to the rows of the next slice, once the last one's are done; false where there is none. */
bool cpu_attention_slice_next(struct cpu_attention_job *job);

/* Cuts the job, or a slice of it, and plans it to run alone, in one round. `partial` is room for partial results that this job
 * may use until its MERGE is done (64-byte aligned, maybe too small or NULL: then the job is not split). Returns the bytes of it
 * that are taken, a multiple of 64. participants: threads that may share the work, at least 1. */
size_t cpu_attention_plan(struct cpu_attention_job *job, uint32_t participants, void *partial, size_t partial_bytes);

/* The parts of planning. Cuts the job into tiles and splits; it keeps no partial results and shares nothing. */
void cpu_attention_cut(struct cpu_attention_job *job, uint32_t participants);
/* Whether partial results are worth their writing. */
bool cpu_attention_wants_parts(const struct cpu_attention_job *job, uint32_t participants);
/* Bytes of the partial results of one split, a multiple of 64. */
size_t cpu_attention_part_bytes(const struct cpu_attention_job *job);
/* Pages of a KV head that its own units go through, at most. */
uint64_t cpu_attention_page_visits(const struct cpu_attention_job *job);
/* Query rows that a tile of its heads can hold. */
uint32_t cpu_attention_tile_rows(const struct cpu_attention_job *job);
/* The round of splits begin <= split < end: sets the units of ATTEND and MERGE. */
void cpu_attention_round(struct cpu_attention_job *job, uint32_t begin, uint32_t end);

/* Private memory that each participant needs while it runs a unit; 64-byte aligned, contents need not be kept. A bound
 * for every geometry that kern_kv_init takes. */
size_t cpu_attention_scratch_bytes(void);

/* Runs unit 0 <= unit < job->units[phase]. */
void cpu_attention_run(const struct cpu_attention_job *job, enum cpu_attention_phase phase, uint32_t unit, void *scratch);

#endif
