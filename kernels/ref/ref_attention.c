/*
 * Attention by its definition, in float64. See ref_attention.h.
 */
#include "kernels/ref/ref_attention.h"

#include <math.h>
#include <string.h>

static double dot(const float *a, const float *b, uint32_t n)
{
	double sum = 0;

	for (uint32_t i = 0; i < n; i++)
		sum += (double)a[i] * (double)b[i];
	return sum;
}

static void attend_row(const struct ref_attention *a, uint32_t row, uint32_t head)
{
	const uint32_t dim = a->head_dim, kv_head = head / (a->heads / a->kv_heads);
	const size_t key_stride = (size_t)a->kv_heads * dim, at = (size_t)row * a->heads + head;
	const uint64_t seen = (uint64_t)a->q_position + row + 1;
	const uint32_t end = a->causal && seen < a->keys ? (uint32_t)seen : a->keys;
	const uint32_t begin = a->window != 0 && end > a->window ? end - a->window : 0;
	double max = a->sinks ? (double)a->sinks[head] : -INFINITY, sum = 0;

	for (uint32_t j = begin; j < end; j++) {
		double logit = a->scale * dot(a->q + at * dim, a->k + j * key_stride + (size_t)kv_head * dim, dim);

		if (a->soft_cap != 0)
			logit = a->soft_cap * tanh(logit / a->soft_cap);
		a->logits[j] = logit;
		max = fmax(max, logit);
	}
	memset(a->o + at * dim, 0, dim * sizeof(double));
	if (a->sinks)
		sum = exp((double)a->sinks[head] - max);
	for (uint32_t j = begin; j < end; j++) {
		const float *v = a->v + j * key_stride + (size_t)kv_head * dim;
		double p = exp(a->logits[j] - max);

		sum += p;
		for (uint32_t d = 0; d < dim; d++)
			a->o[at * dim + d] += p * (double)v[d];
	}
	for (uint32_t d = 0; end > begin && d < dim; d++)
		a->o[at * dim + d] /= sum;
	if (a->lse != NULL)
		a->lse[at] = sum > 0 ? max + log(sum) : -INFINITY;
}

void ref_attention(const struct ref_attention *a)
{
	for (uint32_t row = 0; row < a->q_rows; row++) {
		for (uint32_t head = 0; head < a->heads; head++)
			attend_row(a, row, head);
	}
}

void ref_rope(float *x, uint32_t rotated, bool halves, uint32_t position, const float *inverse_freq, double magnitude)
{
	for (uint32_t i = 0; i < rotated / 2; i++) {
		float *first = x + (halves ? i : 2 * i), *second = first + (halves ? rotated / 2 : 1);
		float angle = (float)position * inverse_freq[i];
		double cosine = cos((double)angle) * magnitude, sine = sin((double)angle) * magnitude;
		double x0 = (double)*first, x1 = (double)*second;

		*first = (float)(x0 * cosine - x1 * sine);
		*second = (float)(x0 * sine + x1 * cosine);
	}
}
