/*
 * Inputs for measuring attention: from harmless to what breaks formats. Every number is a function of the input's index
 * and the shape. Main thread.
 */
#include <math.h>
#include <stdlib.h>

#include "base/base_rand.h"
#include "tools/attnquant_measure.h"

const char *const measure_input_names[MEASURE_INPUTS] = { "random", "outlier-K", "sink-token", "flat" };
const char *const measure_input_texts[MEASURE_INPUTS] = {
	"Q, K and V of N(0, 1)",
	"four channels of K with means of 20, -20, 10 and -10, four others with a deviation of 8",
	"the first token takes nine tenths of the weight, and has a small V",
	"nearly the same weight for all tokens",
};

enum { RANDOM, OUTLIER_K, SINK_TOKEN, FLAT };

/* ---- numbers ------------------------------------------------------------------------------------------ */

/* Box and Muller, two at a time. */
static void fill_normal(float *to, size_t count, uint64_t seed)
{
	uint64_t state = base_mix64(seed);

	for (size_t i = 0; i < count; i += 2) {
		double u = ((double)(base_rand_next(&state) >> 11) + 0.5) * 0x1p-53;
		double angle = (double)(base_rand_next(&state) >> 11) * 0x1p-53 * 6.283185307179586;
		double radius = sqrt(-2 * log(u));

		to[i] = (float)(radius * cos(angle));
		if (i + 1 < count)
			to[i + 1] = (float)(radius * sin(angle));
	}
}

size_t measure_q_count(const struct measure_input *input)
{
	return (size_t)input->shape.rows * input->shape.heads * input->shape.head_dim;
}

size_t measure_kv_count(const struct measure_input *input)
{
	return (size_t)input->tokens * input->shape.kv_heads * input->shape.head_dim;
}

/* ---- what makes them hard ----------------------------------------------------------------------------- */

/* The channels differ from KV head to KV head. The wide ones would sharpen the softmax, which costs every format alike;
 * smaller queries keep the logits' variance at 1, as with random input. */
static void add_outliers(struct measure_input *input)
{
	static const float means[4] = { 20, -20, 10, -10 };
	const uint32_t dim = input->shape.head_dim, kv_heads = input->shape.kv_heads;
	const float calm = (float)sqrt(dim / (dim + 4 * (8.0 * 8.0 - 1)));

	for (size_t i = 0; i < measure_q_count(input); i++)
		input->q[i] *= calm;
	for (size_t row = 0; row < (size_t)input->tokens * kv_heads; row++) {
		const uint32_t head = (uint32_t)(row % kv_heads);

		for (uint32_t i = 0; i < 4; i++) {
			input->k[row * dim + (i * dim / 4 + head) % dim] += means[i];
			input->k[row * dim + (i * dim / 4 + dim / 8 + head) % dim] *= 8;
		}
	}
}

/*
 * The queries of a KV head share a direction, and the first key lies along it so that its weight is nine times that of all
 * others together: these have logits of a normal distribution with the variance |q|^2 / dim, and the mean of exp of such
 * is exp(variance / 2).
 */
static void add_sink(struct measure_input *input)
{
	const struct measure_shape *shape = &input->shape;
	const uint32_t dim = shape->head_dim, group = shape->heads / shape->kv_heads;
	const double along = 8, variance = (along * along + dim) / dim;
	const double logit = log(9.0 * input->tokens) + variance / 2;
	float direction[256]; /* the longest head; about sqrt(dim) long */

	for (uint32_t head = 0; head < shape->kv_heads; head++) {
		fill_normal(direction, dim, 1000 + head);
		for (uint32_t row = 0; row < shape->rows * group; row++) {
			const size_t at = (size_t)row / group * shape->heads + head * group + row % group;

			/* Along the direction a query has 8, give or take 1. */
			for (uint32_t d = 0; d < dim; d++)
				input->q[at * dim + d] += direction[d] * (float)(along / sqrt(dim));
		}
		for (uint32_t d = 0; d < dim; d++) {
			input->k[head * dim + d] = direction[d] * (float)(logit / along);
			input->v[head * dim + d] *= 0.05f;
		}
	}
}

static void flatten(struct measure_input *input)
{
	for (size_t i = 0; i < measure_q_count(input); i++)
		input->q[i] *= 0.1f;
}

void measure_input_make(
	struct measure_input *input, const struct measure_shape *shape, uint32_t index, uint32_t tokens)
{
	*input = (struct measure_input){ .shape = *shape, .tokens = tokens };
	input->q = measure_alloc(measure_q_count(input), sizeof(float));
	input->k = measure_alloc(measure_kv_count(input), sizeof(float));
	input->v = measure_alloc(measure_kv_count(input), sizeof(float));
	fill_normal(input->q, measure_q_count(input), 3 * index);
	fill_normal(input->k, measure_kv_count(input), 3 * index + 1);
	fill_normal(input->v, measure_kv_count(input), 3 * index + 2);
	if (index == OUTLIER_K)
		add_outliers(input);
	else if (index == SINK_TOKEN)
		add_sink(input);
	else if (index == FLAT)
		flatten(input);
}

void measure_input_free(struct measure_input *input)
{
	free(input->q);
	free(input->k);
	free(input->v);
}
