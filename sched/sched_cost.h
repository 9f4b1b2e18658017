/*
 * How long a work will take on this device: a few linear terms from the backend's properties, and a
 * ratio of actual to predicted per model and size of step that follows what is measured.
 *
 *   step = overhead + max(reading the weights, rows * products of a row) + visits * products of a
 * visit + outs * products of an output
 *
 * A visit is one row seeing one key. Scheduler's thread; pure arithmetic.
 */
#ifndef SCHED_COST_H
#define SCHED_COST_H

#include <stdint.h>

#include "kernels/kern_backend.h"

enum {
	SCHED_COST_MODELS = 17,
	SCHED_COST_BUCKETS = 24
}; /* 16 models, and raw attention; powers of two of the size */

struct sched_cost_rates {
	double weights_ns, row_ns, visit_ns, out_ns;
};

struct sched_cost_ratio {
	double ratio;
	uint32_t samples;
};

struct sched_cost {
	double products_per_ns, integer_products_per_ns, bytes_per_ns;
	struct sched_cost_rates rates[SCHED_COST_MODELS];
	struct sched_cost_ratio ratios[SCHED_COST_MODELS][SCHED_COST_BUCKETS];
};

/* What a work consists of. ATTEND: rows are query and key rows, visits are products. */
struct sched_load {
	uint32_t rows, outs;
	uint64_t visits;
};

void sched_cost_init(struct sched_cost *cost, const struct kern_properties *properties);
/* weight_bytes are read once per step; row_products are multiplied per row, output_products per
 * output row. */
void sched_cost_model(struct sched_cost *cost, uint32_t model, uint64_t weight_bytes,
	uint64_t row_products, uint64_t output_products, const struct kern_kv_geometry *kv);
/* Nanoseconds, at least 1. */
int64_t sched_cost_predict(
	const struct sched_cost *cost, uint32_t model, const struct sched_load *load);
/* A work of this load took actual_ns. */
void sched_cost_learn(
	struct sched_cost *cost, uint32_t model, const struct sched_load *load, int64_t actual_ns);

#endif
