/*
 * The same attention in float64. See attnrun_check.h.
 */
#include "tools/attnrun_check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "tools/tool_text.h"

static double score(const struct attnrun_options *options, const float *q, const float *k)
{
	double scale = options->scale > 0 ? options->scale : 1 / sqrt(options->head_dim);
	double sum = 0;

	for (uint32_t i = 0; i < options->head_dim; i++)
		sum += (double)q[i] * k[i];
	sum *= scale;
	return options->soft_cap > 0 ? options->soft_cap * tanh(sum / options->soft_cap) : sum;
}

/* One query of one head over the keys [first, end). */
static void attend(const struct attnrun_options *options, const float *q, const float *k,
	const float *v, uint32_t first, uint32_t end, double *weights, double *o)
{
	size_t stride = (size_t)options->kv_heads * options->head_dim;
	double largest = -INFINITY, sum = 0;

	for (uint32_t t = first; t < end; t++) {
		weights[t] = score(options, q, k + t * stride);
		largest = fmax(largest, weights[t]);
	}
	for (uint32_t i = 0; i < options->head_dim; i++)
		o[i] = 0;
	for (uint32_t t = first; t < end; t++) {
		double weight = exp(weights[t] - largest);

		sum += weight;
		for (uint32_t i = 0; i < options->head_dim; i++)
			o[i] += weight * v[t * stride + i];
	}
	for (uint32_t i = 0; i < options->head_dim; i++)
		o[i] /= sum;
}

struct comparison {
	double dot, ours, theirs, error;
};

static void compare(
	struct comparison *sums, const double *expected, const float *got, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		sums->dot += expected[i] * got[i];
		sums->ours += expected[i] * expected[i];
		sums->theirs += (double)got[i] * got[i];
		sums->error = fmax(sums->error, fabs(expected[i] - got[i]));
	}
}

static double largest_of(const float *v, size_t count)
{
	double largest = 0;

	for (size_t i = 0; i < count; i++)
		largest = fmax(largest, fabs((double)v[i]));
	return largest;
}

bool attnrun_check(const struct attnrun_options *options, const float *q, const float *k,
	const float *v, const float *o)
{
	uint32_t dim = options->head_dim, group = options->heads / options->kv_heads;
	double *weights = malloc(options->kv_rows * sizeof(double)), expected[ATTND_HEAD_DIM_MAX];
	struct comparison sums = { 0 };

	if (!weights)
		tool_die(TOOL_FAILED, "out of memory");
	for (uint32_t row = 0; row < options->q_rows; row++) {
		uint32_t end = options->dense ? options->kv_rows :
						options->kv_rows - options->q_rows + row + 1;
		uint32_t first =
			options->window && options->window < end ? end - options->window : 0;

		for (uint32_t head = 0; head < options->heads; head++) {
			size_t at = ((size_t)row * options->heads + head) * dim;

			attend(options, q + at, k + head / group * dim, v + head / group * dim,
				first, end, weights, expected);
			compare(&sums, expected, o + at, dim);
		}
	}
	free(weights);
	double cosine = sums.dot / sqrt(sums.ours * sums.theirs);
	double relative =
		sums.error / largest_of(v, (size_t)options->kv_rows * options->kv_heads * dim);
	bool good = options->kv == ATTND_KV_F32 ? relative <= 1e-5 : cosine >= 0.9999;

	printf("against float64: cosine %.9f, largest error %.3g (%.3g of max|V|): %s\n", cosine,
		sums.error, relative, good ? "good" : "NOT GOOD");
	return good;
}
