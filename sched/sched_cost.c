/*
 * The cost model. See the header; scheduler's thread.
 *
 * The fit works on ratios: with raw the sum of all terms, actual / raw is explained by each term's share of raw times its
 * factor. So errors count in relation to the length of a work, all factors begin at one, and a term that is no part of
 * a work is left alone by it. Old samples are forgotten only along the direction in which a new one speaks (directional
 * forgetting: Kulhavy and Karny, 1984), or a long run of equal steps would make the other factors wild.
 */
#include "sched/sched_cost.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

/* Of a submit and its parts, before anything is measured. */
static const double OVERHEAD_NS = 3000.0;
/* What a modest core does, for a backend that measured nothing. */
static const double PRODUCTS_PER_NS = 20.0, BYTES_PER_NS = 10.0;

/* A sample counts as at most so many times what was predicted: one preempted step must not make the daemon refuse
 * everything. */
static const double SAMPLE_MOST = 4.0;
static const double RATIO_LEAST = 1e-3, RATIO_MOST = 1e4;
/* At first a device is thought to be off by one factor for all terms, less by one for each: what small works teach holds
 * for large ones until these have spoken. The first sample is believed almost wholly, later ones by a tenth. */
static const double SPREAD_COMMON = 30.0, SPREAD_OWN = 10.0, REMEMBERED = 0.9;

/* The fit is a mean that forgets, and as far off as one of (1 + REMEMBERED) / (1 - REMEMBERED) works, over however many. */
static const double DOUBT = (1.0 - 0.9) / (1.0 + 0.9);

enum { SAMPLES_LEARNT = 4 };
/* So many works may have an accident among them. */
enum { ERRORS_ACCIDENT = 128 };
enum { ERRORS_PER_DOUBLING = 64, ERRORS_ZERO = SCHED_COST_ERRORS / 2, ERRORS_KEPT = 512 };

static void fit_init(struct sched_cost_fit *fit)
{
	for (uint32_t i = 0; i < SCHED_COST_TERMS; i++) {
		fit->factor[i] = 1.0;
		for (uint32_t j = 0; j < SCHED_COST_TERMS; j++)
			fit->spread[i][j] = SPREAD_COMMON + (i == j ? SPREAD_OWN : 0.0);
	}
}

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
	cost->rates[SCHED_COST_MODELS - 1] = (struct sched_cost_rates){
		.visit_ns = 1.0 / cost->products_per_ns,
		.byte_ns = 1.0 / cost->bytes_per_ns,
	};
	for (uint32_t m = 0; m < SCHED_COST_MODELS; m++)
		for (uint32_t b = 0; b < SCHED_COST_BUCKETS; b++)
			fit_init(&cost->fits[m][b]);
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
		.byte_ns = 1.0 / cost->bytes_per_ns,
	};
}

static uint32_t bucket_of(const struct sched_load *load)
{
	uint32_t rows = load->rows ? load->rows : 1;
	uint32_t bucket = 31u - (uint32_t)__builtin_clz(rows);

	return bucket < SCHED_COST_BUCKETS ? bucket : SCHED_COST_BUCKETS - 1;
}

/* Each term's share of their sum, which is returned in nanoseconds. */
static double shares_of(const struct sched_cost *cost, uint32_t model, const struct sched_load *load,
	double share[SCHED_COST_TERMS])
{
	const struct sched_cost_rates *rates = &cost->rates[model];
	const double rows_ns = load->rows * rates->row_ns;
	double raw_ns = 0.0;

	share[0] = OVERHEAD_NS;
	share[1] = rows_ns > rates->weights_ns ? rows_ns : rates->weights_ns;
	share[2] = (double)load->visits * rates->visit_ns;
	share[3] = load->outs * rates->out_ns;
	share[4] = (double)load->kv_bytes * rates->byte_ns;
	for (uint32_t i = 0; i < SCHED_COST_TERMS; i++)
		raw_ns += share[i];
	for (uint32_t i = 0; i < SCHED_COST_TERMS; i++)
		share[i] /= raw_ns;
	return raw_ns;
}

/* Of the nearest size that was ever measured, else of the size itself. */
static uint32_t nearest(const struct sched_cost *cost, uint32_t model, uint32_t bucket)
{
	const struct sched_cost_fit *fits = cost->fits[model];

	for (uint32_t d = 0; d < SCHED_COST_BUCKETS; d++) {
		if (bucket + d < SCHED_COST_BUCKETS && fits[bucket + d].samples)
			return bucket + d;
		if (bucket >= d && fits[bucket - d].samples)
			return bucket - d;
	}
	return bucket;
}

static double ratio_of(const struct sched_cost_fit *fit, const double share[SCHED_COST_TERMS])
{
	double ratio = 0.0;

	for (uint32_t i = 0; i < SCHED_COST_TERMS; i++)
		ratio += fit->factor[i] * share[i];
	return ratio < RATIO_LEAST ? RATIO_LEAST : ratio > RATIO_MOST ? RATIO_MOST : ratio;
}

int64_t sched_cost_predict(
	const struct sched_cost *cost, uint32_t model, const struct sched_load *load)
{
	double share[SCHED_COST_TERMS], ns = shares_of(cost, model, load, share);

	ns *= ratio_of(&cost->fits[model][nearest(cost, model, bucket_of(load))], share);
	/* Bounded, so that sums of a few thousand of them stay in range. */
	return ns < 1.0 ? 1 : ns > 1e14 ? (int64_t)1e14 : (int64_t)ns;
}

double sched_cost_terms(const struct sched_cost *cost, uint32_t model, const struct sched_load *load,
	double terms[SCHED_COST_TERMS])
{
	const struct sched_cost_fit *fit = &cost->fits[model][nearest(cost, model, bucket_of(load))];
	double ns = shares_of(cost, model, load, terms), sum = 0.0;

	for (uint32_t i = 0; i < SCHED_COST_TERMS; i++)
		sum += terms[i] *= fit->factor[i] * ns;
	return sum;
}

bool sched_cost_learnt(const struct sched_cost *cost, uint32_t model, const struct sched_load *load)
{
	return cost->fits[model][bucket_of(load)].samples >= SAMPLES_LEARNT;
}

void sched_cost_units(const struct sched_cost *cost, uint32_t model, uint32_t rows, struct sched_cost_units *units)
{
	const struct sched_cost_rates *rates = &cost->rates[model];
	const struct sched_load load = { .rows = rows };
	const double *factor = cost->fits[model][nearest(cost, model, bucket_of(&load))].factor;
	const double row_ns = rows * rates->row_ns > rates->weights_ns ? rates->row_ns : rates->weights_ns / rows;

	*units = (struct sched_cost_units){ .step_ns = OVERHEAD_NS * factor[0],
		.weights_ns = rates->weights_ns * factor[1],
		.row_ns = row_ns * factor[1],
		.visit_ns = rates->visit_ns * factor[2],
		.out_ns = rates->out_ns * factor[3],
		.byte_ns = rates->byte_ns * factor[4] };
}

/* direction = spread * share; returns share * spread * share. */
static double direction_of(const struct sched_cost_fit *fit, const double share[SCHED_COST_TERMS],
	double direction[SCHED_COST_TERMS])
{
	double length = 0.0;

	for (uint32_t i = 0; i < SCHED_COST_TERMS; i++) {
		direction[i] = 0.0;
		for (uint32_t j = 0; j < SCHED_COST_TERMS; j++)
			direction[i] += fit->spread[i][j] * share[j];
		length += direction[i] * share[i];
	}
	return length;
}

static void add_to_spread(struct sched_cost_fit *fit, const double direction[SCHED_COST_TERMS], double weight)
{
	for (uint32_t i = 0; i < SCHED_COST_TERMS; i++)
		for (uint32_t j = 0; j < SCHED_COST_TERMS; j++)
			fit->spread[i][j] += weight * direction[i] * direction[j];
}

/* Where a factor was cut at nothing the others are scaled, so that the sample is explained as it would have been. Else what
 * is cut again and again would drive them away without end. */
static void keep_ratio(struct sched_cost_fit *fit, const double share[SCHED_COST_TERMS], double ratio)
{
	const double scale = ratio / ratio_of(fit, share);

	for (uint32_t i = 0; i < SCHED_COST_TERMS && scale > 0.0; i++)
		fit->factor[i] *= scale;
}

static void follow(struct sched_cost_fit *fit, const double share[SCHED_COST_TERMS], double ratio)
{
	const double expected = ratio_of(fit, share);
	double direction[SCHED_COST_TERMS], length = direction_of(fit, share, direction), error;
	bool cut = false;

	if (fit->samples > 0 && ratio > expected * SAMPLE_MOST)
		ratio = expected * SAMPLE_MOST;
	error = (ratio < RATIO_MOST ? ratio : RATIO_MOST) - expected;
	for (uint32_t i = 0; i < SCHED_COST_TERMS; i++) {
		fit->factor[i] += direction[i] / (1.0 + length) * error;
		/* No term is ever an advantage. */
		cut = cut || fit->factor[i] < 0.0;
		if (fit->factor[i] < 0.0)
			fit->factor[i] = 0.0;
	}
	if (cut)
		keep_ratio(fit, share, expected + length / (1.0 + length) * error);
	add_to_spread(fit, direction, -1.0 / (1.0 + length));
	length = direction_of(fit, share, direction);
	/* Rounding could make it nothing or less after very many samples. */
	if (length > 1e-9)
		add_to_spread(fit, direction, (1.0 / REMEMBERED - 1.0) / length);
	if (fit->samples < UINT32_MAX)
		fit->samples++;
}

/* The upper edge of a class of errors. */
static double edge(uint32_t index)
{
	return exp2(((double)index - ERRORS_ZERO + 0.5) / ERRORS_PER_DOUBLING);
}

static uint32_t counted(const struct sched_cost_error *error, uint32_t index)
{
	return error->counts[0][index] + error->counts[1][index];
}

/* The most that any of them was off; but where one of many is twice as far off as all others it was an accident. */
static double band_of(const struct sched_cost_error *error)
{
	uint32_t i = SCHED_COST_ERRORS, next;

	while (--i > 0 && counted(error, i) == 0)
		;
	for (next = i; next > 0 && counted(error, next) - (next == i) == 0;)
		next--;
	return error->total[0] + error->total[1] >= ERRORS_ACCIDENT && edge(i) - 1.0 > 2.0 * (edge(next) - 1.0) ? edge(next)
														     : edge(i);
}

static void count_error(struct sched_cost_error *error, double ratio)
{
	const double at = nearbyint(log2(ratio) * ERRORS_PER_DOUBLING) + ERRORS_ZERO;
	const double last = SCHED_COST_ERRORS - 1;

	error->counts[0][(uint32_t)(at < 0.0 ? 0.0 : at > last ? last : at)]++;
	error->band = band_of(error);
	if (++error->total[0] < ERRORS_KEPT)
		return;
	/* What is forgotten is forgotten whole: to halve the counts would lose the tail, where each class has one. */
	memcpy(error->counts[1], error->counts[0], sizeof(error->counts[1]));
	memset(error->counts[0], 0, sizeof(error->counts[0]));
	error->total[1] = error->total[0];
	error->total[0] = 0;
}

int64_t sched_cost_believed(const struct sched_cost *cost, uint32_t model, const struct sched_load *load, int64_t predicted_ns,
	int64_t actual_ns)
{
	const double most_ns = (double)predicted_ns * SAMPLE_MOST;

	if (!sched_cost_learnt(cost, model, load) || (double)actual_ns <= most_ns)
		return actual_ns;
	return (int64_t)most_ns;
}

void sched_cost_judge(struct sched_cost *cost, uint32_t model, int64_t predicted_ns, int64_t actual_ns)
{
	count_error(&cost->errors[model], (double)(actual_ns < 1 ? 1 : actual_ns) / (double)predicted_ns);
}

void sched_cost_learn(struct sched_cost *cost, uint32_t model, const struct sched_load *load,
	int64_t predicted_ns, int64_t actual_ns)
{
	double share[SCHED_COST_TERMS], raw_ns = shares_of(cost, model, load, share);
	const uint32_t bucket = bucket_of(load), from = nearest(cost, model, bucket);
	struct sched_cost_fit *fit = &cost->fits[model][bucket];

	if (actual_ns < 1)
		actual_ns = 1;
	/* The first guesses for a size are no errors of what was learnt. */
	if (predicted_ns > 0 && fit->samples >= SAMPLES_LEARNT)
		sched_cost_judge(cost, model, predicted_ns, actual_ns);
	/* A size that is new begins where its neighbour stands. */
	if (fit->samples == 0)
		memcpy(fit->factor, cost->fits[model][from].factor, sizeof(fit->factor));
	follow(fit, share, (double)actual_ns / raw_ns);
}

double sched_cost_error(const struct sched_cost *cost, uint32_t model, double share)
{
	const struct sched_cost_error *error = &cost->errors[model];
	const uint32_t total = error->total[0] + error->total[1];
	uint64_t seen = 0;

	for (uint32_t i = 0; i < SCHED_COST_ERRORS && total > 0; i++) {
		seen += counted(error, i);
		if ((double)seen >= share * total)
			return edge(i);
	}
	return 1.0;
}

double sched_cost_band(const struct sched_cost *cost, uint32_t model, double works)
{
	const double over = cost->errors[model].band - 1.0;

	return over > 0.0 ? 1.0 + over * sqrt(1.0 / works + DOUBT) : 1.0;
}

double sched_cost_error_size(const struct sched_cost *cost, double share)
{
	uint64_t total = 0, seen = 0;

	for (uint32_t m = 0; m < SCHED_COST_MODELS; m++)
		total += cost->errors[m].total[0] + cost->errors[m].total[1];
	/* Classes above and below zero together, outwards. */
	for (uint32_t d = 0; d <= ERRORS_ZERO && total > 0; d++) {
		for (uint32_t m = 0; m < SCHED_COST_MODELS; m++) {
			seen += counted(&cost->errors[m], ERRORS_ZERO + d);
			if (d > 0)
				seen += counted(&cost->errors[m], ERRORS_ZERO - d);
		}
		if ((double)seen >= share * (double)total)
			return edge(ERRORS_ZERO + d) - 1.0;
	}
	return 0.0;
}
