/*
 * The oracle of attention: the definition, in float64, over plain K and V arrays. Slow, obvious, for tests and for
 * measuring the loss of a format; nothing on a request path calls it.
 */
#ifndef REF_ATTENTION_H
#define REF_ATTENTION_H

#include <stdbool.h>
#include <stdint.h>

struct ref_attention {
	uint32_t heads, kv_heads, head_dim;
	uint32_t q_rows, keys; /* keys at positions 0 .. keys - 1 */
	uint32_t q_position;   /* of the first query row */
	bool causal;           /* row r sees positions <= q_position + r, else all */
	uint32_t window;       /* of the keys a row would see, only the last so many; 0 all */
	double scale, soft_cap; /* soft_cap 0: off */
	const float *sinks; /* [heads], a logit of no key; NULL none. lse includes it */
	const float *q; /* [q_rows][heads][head_dim], already rotated */
	const float *k; /* [keys][kv_heads][head_dim], already rotated */
	const float *v; /* [keys][kv_heads][head_dim] */
	double *o;      /* [q_rows][heads][head_dim]; zeros for a row that sees nothing */
	double *lse;    /* [q_rows][heads], -infinity for a row that sees nothing; may be NULL */
	double *logits; /* room for [keys] */
};

void ref_attention(const struct ref_attention *a);

/* Rotates the first `rotated` elements of x as a token at `position`. halves: (x[i], x[i + rotated/2]), else
 * (x[2i], x[2i+1]). The angle is the float32 product that models are trained with; the rest is float64. */
void ref_rope(float *x, uint32_t rotated, bool halves, uint32_t position, const float *inverse_freq, double magnitude);

#endif
