/*
 * What the tests of attention share: a session's pages, each block with an unreadable page behind it, jobs that are
 * planned and run as the executor would, in any order of units, and random inputs.
 */
#ifndef ATTENTION_RIG_H
#define ATTENTION_RIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/base_cpu.h"
#include "kernels/cpu/cpu_attention.h"

struct attention_rig {
	/* Chosen by the test; open sets scale to 1/sqrt(head_dim), causal, f32, the best instruction set, one
	 * participant, much room for partial results. */
	enum base_isa isa;
	bool amx; /* where the process may: open sets it */
	uint32_t layer, participants, window;
	bool causal;
	float scale, soft_cap;
	const float *sinks; /* [heads] or NULL */
	enum kern_dtype dtype;
	enum kern_rope rope;
	uint32_t rotated;
	const float *rope_cos_sin; /* [max_tokens][rotated/2][2], by position */
	size_t partial_bytes;      /* at most what open has set */
	uint64_t order;            /* seed of the order in which units run */
	void (*before_merge)(struct cpu_attention_job *job); /* NULL, or plants a fault */

	struct kern_kv_geometry kv;
	unsigned char **blocks;
	uint32_t block_count;
	void *scratch, *partial;
};

struct attention_shape { uint32_t heads, kv_heads, head_dim; enum kern_kv k, v; };

void attention_rig_open(struct attention_rig *rig, struct attention_shape shape, uint32_t layers, uint32_t max_tokens);
void attention_rig_close(struct attention_rig *rig);

/* Appends rows of K and V at kv_position (rows of the given arrays), then q_rows attend. Rows are of rig->dtype. lse
 * may be NULL. */
void attention_rig_run(const struct attention_rig *rig, uint32_t kv_position, uint32_t kv_rows, const void *k,
	const void *v, uint32_t q_position, uint32_t q_rows, const void *q, void *o, float *lse);

/* A model's step: rows at `position` are appended and attend. The arrays hold all rows of the session from 0. */
void attention_rig_step(const struct attention_rig *rig, uint32_t position, uint32_t rows, const float *q,
	const float *k, const float *v, float *o, float *lse);

/* Zeroed memory whose last byte lies before an unreadable page. */
void *guarded_alloc(size_t bytes);
void guarded_free(void *memory, size_t bytes);

/* Instruction sets that this machine runs, in ascending order; returns how many. */
uint32_t attention_isas(enum base_isa isas[3]);

/* n values of N(0, 1), a function of the seed. */
void fill_normal(float *to, size_t n, uint64_t seed);
float *new_normal(size_t n, uint64_t seed);
void *new_zeroed(size_t bytes);

#endif
