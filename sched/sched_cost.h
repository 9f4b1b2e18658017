/*
 * How long a work will take on this device: a few linear terms from the backend's properties, each with a factor that
 * follows what is measured, by recursive least squares, per model and size of step.
 *
 *   step = overhead + max(reading the weights, rows * products of a row) + visits * products of a
 *          visit + outs * products of an output + bytes of the cache that are read once
 *
 * A visit is one row seeing one key. How far off predictions were is counted as well, so that whoever relies on one can ask
 * for a band. Scheduler's thread; pure arithmetic.
 */
#ifndef SCHED_COST_H
#define SCHED_COST_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/kern_backend.h"

enum {
	SCHED_COST_MODELS = 17,  /* 16 models, and raw attention */
	SCHED_COST_BUCKETS = 24, /* powers of two of the size */
	SCHED_COST_TERMS = 5,
	SCHED_COST_ERRORS = 385, /* 64 to a doubling, from an eighth to eight times */
};

struct sched_cost_rates {
	double weights_ns, row_ns, visit_ns, out_ns, byte_ns;
};

/* What actually took factor times as long as its term says, and how sure that is (the inverse of the samples' correlation,
 * in units of their noise). */
struct sched_cost_fit {
	double factor[SCHED_COST_TERMS];
	double spread[SCHED_COST_TERMS][SCHED_COST_TERMS];
	uint32_t samples;
};

/* actual / predicted by its logarithm: of the works of late, 511 at most, and of 512 before them. */
struct sched_cost_error {
	uint32_t counts[2][SCHED_COST_ERRORS];
	uint32_t total[2];
	double band;
};

struct sched_cost {
	double products_per_ns, integer_products_per_ns, bytes_per_ns;
	struct sched_cost_rates rates[SCHED_COST_MODELS];
	struct sched_cost_fit fits[SCHED_COST_MODELS][SCHED_COST_BUCKETS];
	struct sched_cost_error errors[SCHED_COST_MODELS];
};

/* What one of each costs, in nanoseconds, in works of about one size. */
struct sched_cost_units {
	double step_ns, weights_ns; /* of a work; of reading the weights, where rows do not take longer */
	double row_ns, visit_ns, out_ns, byte_ns;
};

/* What a work consists of. ATTEND: rows are a measure of size, visits are products. */
struct sched_load {
	uint32_t rows, outs;
	uint64_t visits;
	uint64_t kv_bytes; /* of the cache, each sequence's once, what it shares with the first one not at all */
};

void sched_cost_init(struct sched_cost *cost, const struct kern_properties *properties);
/* weight_bytes are read once per step; row_products are multiplied per row, output_products per
 * output row. */
void sched_cost_model(struct sched_cost *cost, uint32_t model, uint64_t weight_bytes,
	uint64_t row_products, uint64_t output_products, const struct kern_kv_geometry *kv);
/* Nanoseconds, at least 1. */
int64_t sched_cost_predict(
	const struct sched_cost *cost, uint32_t model, const struct sched_load *load);
/* The same, term by term, in the order of the sum above; returns their sum. */
double sched_cost_terms(const struct sched_cost *cost, uint32_t model, const struct sched_load *load,
	double terms[SCHED_COST_TERMS]);
/* Whether works of about this size were measured often enough to be relied on. */
bool sched_cost_learnt(const struct sched_cost *cost, uint32_t model, const struct sched_load *load);
void sched_cost_units(const struct sched_cost *cost, uint32_t model, uint32_t rows, struct sched_cost_units *units);
/* Of what a work took, what is thought to be its own doing: at most so many times what was predicted, once works of its size
 * were measured. */
int64_t sched_cost_believed(const struct sched_cost *cost, uint32_t model, const struct sched_load *load, int64_t predicted_ns,
	int64_t actual_ns);
/* A work of this load, for which predicted_ns had been said, took actual_ns. */
void sched_cost_learn(struct sched_cost *cost, uint32_t model, const struct sched_load *load,
	int64_t predicted_ns, int64_t actual_ns);
/* The same without learning from it: how far off the prediction was counts for the band. */
void sched_cost_judge(struct sched_cost *cost, uint32_t model, int64_t predicted_ns, int64_t actual_ns);
/* What actual / predicted stays below in this share (0 to 1) of recent works; 1 before any. */
double sched_cost_error(const struct sched_cost *cost, uint32_t model, double share);
/* What actual / predicted of so many works together rarely exceeds, at least 1. Of recent works all count, but one that
 * was twice as far off as all others, which was an accident; over several of them errors make up for each other, as far as
 * they are noise. */
double sched_cost_band(const struct sched_cost *cost, uint32_t model, double works);
/* The same of |actual / predicted - 1|, over all models; 0 before any. */
double sched_cost_error_size(const struct sched_cost *cost, double share);

#endif
