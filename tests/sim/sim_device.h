/*
 * A modelled device for tests and the simulator: a struct kern_backend that takes virtual time from
 * a formula, and whose results are a hash of what really lies in the KV blocks it was given. A
 * wrong block, a missed copy, a lost or doubled row, a wrong position: each changes the results,
 * and what they should be is computed here from a token history alone.
 *
 * In a block, word (layer * 64 + position % 64) holds the chain: a hash of every token up to that
 * position. A row's hash is its chain mixed with the last chain of every full block before it, so
 * that any block of the session being someone else's shows.
 *
 * One thread. Works land in order, when the clock has passed their end.
 */
#ifndef SIM_DEVICE_H
#define SIM_DEVICE_H

#include "base/base_clock.h"
#include "kernels/kern_backend.h"

struct sim_device_options {
	struct base_clock *clock;
	int64_t work_ns, row_ns;     /* of a STEP or ATTEND: per work and per row */
	int64_t visit_ps;            /* per row and key */
	int64_t kib_ns;              /* of a COPY or ZERO */
	bool host_memory;            /* false: the scheduler keeps two steps in the air */
	uint32_t depth;              /* works in flight before -EAGAIN; 0: 2 */
	uint64_t seed;               /* of injected errors and of jitter */
	uint32_t jitter_permille;    /* a work takes up to so much longer than it should */
	uint32_t errors_per_million; /* of works that fail */
	uint32_t regular_permille;   /* of rows, by their hash, that say what depends on their position alone: texts repeat themselves */
	bool no_results;             /* time passes, nothing is computed: for tests of order alone */
};

struct sim_device;

struct sim_device *sim_device_create(const struct sim_device_options *options);
struct kern_backend *sim_device_backend(struct sim_device *device);
/* Asserts that every allocation was given back. */
void sim_device_destroy(struct sim_device *device);

/* When the oldest work in flight lands; INT64_MAX: none. */
int64_t sim_device_next_ns(const struct sim_device *device);
/* So many works from now on fail, of this kind, or of any (-1). */
void sim_device_fail(struct sim_device *device, int kind, uint32_t count);

struct sim_device_stats {
	uint64_t works[4], failed; /* by enum kern_work_kind */
	uint64_t rows, outs;
	uint32_t most_seqs, most_rows, most_outs, most_flying;
};
const struct sim_device_stats *sim_device_stats(const struct sim_device *device);
/* What the last STEP consisted of, for tests of order: its sequences' first positions and rows. */
struct sim_device_step {
	uint32_t seq_count;
	struct {
		uint32_t position, rows, token;
		const void *program;
	} seqs[64];
};
const struct sim_device_step *sim_device_last_step(const struct sim_device *device);

/* A program without operations: enough for the scheduler and this device. */
void sim_program_init(struct kern_program *program, uint32_t vocab, uint32_t width,
	uint32_t max_rows, uint32_t max_out_rows);

/* ---- what the results should be ------------------------------------------------------- */

/* Hash of the row that is last in this history; embeddings take part as sim_embedding_token says.
 */
uint64_t sim_row_hash(const uint32_t *tokens, uint32_t count);
/* The same on a device of which so many of a thousand rows are regular. */
uint64_t sim_regular_hash(uint64_t row_hash, uint32_t count, uint32_t permille);
uint32_t sim_embedding_token(const float *row, uint32_t width);
float sim_logit(uint64_t row_hash, uint32_t id);
float sim_hidden(uint64_t row_hash, uint32_t i);
uint32_t sim_argmax(uint64_t row_hash, uint32_t vocab);

/* Raw attention: the chain after a key row; and an output element of a query row that sees keys up
 * to a chain. */
uint64_t sim_key_chain(
	uint64_t chain, const void *k, const void *v, size_t bytes, uint32_t position);
float sim_attend_value(
	uint64_t chain, const void *q, size_t bytes, const struct kern_attend *item, uint32_t i);

#endif
