/*
 * What attention should be, in float64; what llama.cpp's KV formats make of it; and the distance of two results.
 *
 * Rows are spread over threads. The peers' formats are those of their files: kern_quantize_row writes the same blocks.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/ref/ref_attention.h"
#include "tools/attnquant_measure.h"

/* ---- exact -------------------------------------------------------------------------------------------- */

struct exact {
	const struct measure_input *input;
	double *o, *logits; /* logits: [threads][tokens] */
};

static void exact_row(void *context, uint32_t row, uint32_t thread)
{
	const struct exact *exact = context;
	const struct measure_input *input = exact->input;
	const struct measure_shape *shape = &input->shape;
	const size_t width = (size_t)shape->heads * shape->head_dim;
	const struct ref_attention work = {
		.heads = shape->heads, .kv_heads = shape->kv_heads, .head_dim = shape->head_dim,
		.q_rows = 1, .keys = input->tokens, .q_position = input->tokens - shape->rows + row,
		.causal = true, .scale = 1 / sqrt((double)shape->head_dim),
		.q = input->q + row * width, .k = input->k, .v = input->v, .o = exact->o + row * width,
		.logits = exact->logits + (size_t)thread * input->tokens,
	};

	ref_attention(&work);
}

void measure_exact(const struct measure_input *input, double *o)
{
	struct exact exact = { .input = input, .o = o };

	exact.logits = measure_alloc((size_t)measure_processors() * input->tokens, sizeof(double));
	measure_parallel(input->shape.rows, exact_row, &exact);
	free(exact.logits);
}

/* ---- peers -------------------------------------------------------------------------------------------- */

enum { PEER_BLOCK = 32 };

const struct measure_peer measure_peers[MEASURE_PEERS] = {
	{ "llama.cpp q8_0", KERN_Q8_0, false, 8.5 },
	{ "llama.cpp q8_0, rotated", KERN_Q8_0, true, 8.5 },
	{ "llama.cpp q4_0", KERN_Q4_0, false, 4.5 },
	{ "llama.cpp q4_0, rotated", KERN_Q4_0, true, 4.5 },
};

bool measure_peer_fits(const struct measure_shape *shape)
{
	return shape->head_dim % PEER_BLOCK == 0;
}

/* The largest power of two that divides a head: one Hadamard matrix after the other turns it. */
static uint32_t rotation_of(uint32_t dim)
{
	return dim & (~dim + 1);
}

/* In place, sums and differences over doubling distances; its own inverse. */
static void rotate(double *x, uint32_t n)
{
	const double scale = 1 / sqrt((double)n);

	for (uint32_t step = 1; step < n; step *= 2)
		for (uint32_t i = 0; i < n; i++)
			if ((i & step) == 0) {
				double a = x[i], b = x[i + step];

				x[i] = a + b;
				x[i + step] = a - b;
			}
	for (uint32_t i = 0; i < n; i++)
		x[i] *= scale;
}

static void rotate_floats(float *x, uint32_t n)
{
	double wide[256]; /* the longest head */

	for (uint32_t i = 0; i < n; i++)
		wide[i] = (double)x[i];
	rotate(wide, n);
	for (uint32_t i = 0; i < n; i++)
		x[i] = (float)wide[i];
}

/* Some heads, to blocks of a type and back. KERN_F32 only turns them. */
static void store(float *x, size_t count, uint32_t dim, const struct measure_peer *peer, enum kern_type type)
{
	const uint32_t turned = rotation_of(dim);
	unsigned char blocks[256 * sizeof(float)];

	for (size_t at = 0; peer->rotate && at < count; at += turned)
		rotate_floats(x + at, turned);
	for (size_t at = 0; type != KERN_F32 && at < count; at += dim) {
		kern_quantize_row(type, x + at, blocks, dim);
		kern_dequantize_row(type, blocks, x + at, dim);
	}
}

struct storing {
	const struct measure_peer *peer;
	const struct measure_input *input;
};

static void store_token(void *context, uint32_t token, uint32_t thread)
{
	const struct storing *storing = context;
	const struct measure_input *input = storing->input;
	const uint32_t dim = input->shape.head_dim;
	const size_t width = (size_t)input->shape.kv_heads * dim;

	(void)thread;
	store(input->k + token * width, width, dim, storing->peer, storing->peer->type);
	store(input->v + token * width, width, dim, storing->peer, storing->peer->type);
}

static float *copy_of(const float *from, size_t count)
{
	float *copy = measure_alloc(count, sizeof(*copy));

	memcpy(copy, from, count * sizeof(*copy));
	return copy;
}

void measure_peer_run(
	const struct measure_peer *peer, const struct measure_input *input, bool exact_q, double *o)
{
	const size_t q_count = measure_q_count(input), kv_count = measure_kv_count(input);
	const uint32_t dim = input->shape.head_dim, turned = rotation_of(dim);
	struct measure_input stored = *input;
	struct storing storing = { .peer = peer, .input = &stored };

	stored.q = copy_of(input->q, q_count);
	stored.k = copy_of(input->k, kv_count);
	stored.v = copy_of(input->v, kv_count);
	measure_parallel(input->tokens, store_token, &storing);
	store(stored.q, q_count, dim, peer, exact_q ? KERN_F32 : KERN_Q8_0);
	measure_exact(&stored, o);
	for (size_t at = 0; peer->rotate && at < q_count; at += turned)
		rotate(o + at, turned);
	measure_input_free(&stored);
}

/* ---- distance ----------------------------------------------------------------------------------------- */

struct measure_score measure_compare(const double *o, const double *exact, size_t count, uint32_t dim)
{
	struct measure_score score = { .cosine_least = 1 };
	double error = 0, power = 0;

	for (size_t i = 0; i < count; i++) {
		const double *a = o + i * dim, *b = exact + i * dim;
		double dot = 0, aa = 0, bb = 0, cosine;

		for (uint32_t d = 0; d < dim; d++) {
			double difference = a[d] - b[d];

			dot += a[d] * b[d];
			aa += a[d] * a[d];
			bb += b[d] * b[d];
			error += difference * difference;
			score.max_error = fmax(score.max_error, fabs(difference));
		}
		power += bb;
		cosine = dot / sqrt(aa * bb);
		score.cosine += cosine / (double)count;
		/* A result that is no number is the worst there is. */
		if (!(cosine >= score.cosine_least))
			score.cosine_least = cosine;
	}
	score.rmse = sqrt(error / power);
	return score;
}
