/*
 * The cost model. See the header; scheduler's thread.
 */
#include "sched/sched_cost.h"

/* Of a submit and its parts, before anything is measured. */
static const double OVERHEAD_NS = 3000.0;
/* What a modest core does, for a backend that measured nothing. */
static const double PRODUCTS_PER_NS = 20.0, BYTES_PER_NS = 10.0;

/* A sample moves the ratio by an eighth, and counts as at most so many times the ratio: one
 * preempted step must not make the daemon refuse everything. */
static const double SAMPLE_WEIGHT = 0.125, SAMPLE_MOST = 4.0;
static const double RATIO_LEAST = 1e-3, RATIO_MOST = 1e4;

void sched_cost_init(struct sched_cost *cost, const struct kern_properties *properties)
{
	*cost = (struct sched_cost){
		.products_per_ns = properties->products_per_second > 0
			? properties->products_per_second * 1e-9
			: PRODUCTS_PER_NS,
		.bytes_per_ns = properties->bytes_per_second > 0
			? properties->bytes_per_second * 1e-9
			: BYTES_PER_NS,
	};
	cost->integer_products_per_ns = properties->integer_products_per_second > 0
		? properties->integer_products_per_second * 1e-9
		: cost->products_per_ns;
	/* Raw attention: its visits are products already. */
	cost->rates[SCHED_COST_MODELS - 1] =
		(struct sched_cost_rates){ .visit_ns = 1.0 / cost->products_per_ns };
	for (uint32_t m = 0; m < SCHED_COST_MODELS; m++)
		for (uint32_t b = 0; b < SCHED_COST_BUCKETS; b++)
			cost->ratios[m][b].ratio = 1.0;
}

void sched_cost_model(struct sched_cost *cost, uint32_t model, uint64_t weight_bytes,
	uint64_t row_products, uint64_t output_products, const struct kern_kv_geometry *kv)
{
	const double visit_products = 2.0 * kv->layers * kv->heads * kv->head_dim;
	/* Quantized weights have little more than a byte each, others at least two. */
	const bool quantized = 2 * weight_bytes < 3 * (row_products + output_products);
	const double products_per_ns = quantized ? cost->integer_products_per_ns : cost->products_per_ns;

	cost->rates[model] = (struct sched_cost_rates){
		.weights_ns = (double)weight_bytes / cost->bytes_per_ns,
		.row_ns = (double)row_products / products_per_ns,
		.visit_ns = visit_products / cost->products_per_ns,
		.out_ns = (double)output_products / products_per_ns,
	};
}

static uint32_t bucket_of(const struct sched_load *load)
{
	uint32_t rows = load->rows ? load->rows : 1;
	uint32_t bucket = 31u - (uint32_t)__builtin_clz(rows);

	return bucket < SCHED_COST_BUCKETS ? bucket : SCHED_COST_BUCKETS - 1;
}

static double raw_ns(const struct sched_cost *cost, uint32_t model, const struct sched_load *load)
{
	const struct sched_cost_rates *rates = &cost->rates[model];
	double rows_ns = load->rows * rates->row_ns;

	return OVERHEAD_NS + (rows_ns > rates->weights_ns ? rows_ns : rates->weights_ns) +
		(double)load->visits * rates->visit_ns + load->outs * rates->out_ns;
}

/* Of the nearest size that was ever measured. */
static double ratio_of(const struct sched_cost *cost, uint32_t model, uint32_t bucket)
{
	const struct sched_cost_ratio *ratios = cost->ratios[model];

	for (uint32_t d = 0; d < SCHED_COST_BUCKETS; d++) {
		if (bucket + d < SCHED_COST_BUCKETS && ratios[bucket + d].samples)
			return ratios[bucket + d].ratio;
		if (bucket >= d && ratios[bucket - d].samples)
			return ratios[bucket - d].ratio;
	}
	return 1.0;
}

int64_t sched_cost_predict(
	const struct sched_cost *cost, uint32_t model, const struct sched_load *load)
{
	double ns = raw_ns(cost, model, load) * ratio_of(cost, model, bucket_of(load));

	/* Bounded, so that sums of a few thousand of them stay in range. */
	return ns < 1.0 ? 1 : ns > 1e14 ? (int64_t)1e14 : (int64_t)ns;
}

void sched_cost_learn(
	struct sched_cost *cost, uint32_t model, const struct sched_load *load, int64_t actual_ns)
{
	struct sched_cost_ratio *ratio = &cost->ratios[model][bucket_of(load)];
	double sample = (double)actual_ns / raw_ns(cost, model, load);

	if (ratio->samples > 0 && sample > ratio->ratio * SAMPLE_MOST)
		sample = ratio->ratio * SAMPLE_MOST;
	if (ratio->samples == 0)
		ratio->ratio = sample;
	else
		ratio->ratio += (sample - ratio->ratio) * SAMPLE_WEIGHT;
	if (ratio->ratio < RATIO_LEAST)
		ratio->ratio = RATIO_LEAST;
	if (ratio->ratio > RATIO_MOST)
		ratio->ratio = RATIO_MOST;
	if (ratio->samples < UINT32_MAX)
		ratio->samples++;
}
