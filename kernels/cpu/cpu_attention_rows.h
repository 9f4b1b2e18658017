/*
 * The row functions of struct cpu_attention_kernels in plain C, for the compiler to vectorize: the file of each
 * instruction set includes this and so compiles its own copy. No reduction of floats is left to the compiler and
 * nothing is contracted, so these give the same bits on every instruction set; in particular the stored K and V are
 * the same everywhere.
 */
#ifndef CPU_ATTENTION_ROWS_H
#define CPU_ATTENTION_ROWS_H

#include "kernels/cpu/cpu_attention_math.h"

static void row_load(float *restrict to, const void *from, uint32_t n, enum kern_dtype dtype)
{
	const uint16_t *from16 = from;

	switch (dtype) {
	case KERN_DTYPE_F32:
		memcpy(to, from, n * sizeof(float));
		break;
	case KERN_DTYPE_F16:
		for (uint32_t i = 0; i < n; i++)
			to[i] = row_from_f16(from16[i]);
		break;
	case KERN_DTYPE_BF16:
		for (uint32_t i = 0; i < n; i++)
			to[i] = row_from_bf16(from16[i]);
		break;
	}
}

static void row_store(void *restrict to, const float *from, uint32_t n, enum kern_dtype dtype)
{
	uint16_t *to16 = to;

	switch (dtype) {
	case KERN_DTYPE_F32:
		memcpy(to, from, n * sizeof(float));
		break;
	case KERN_DTYPE_F16:
		for (uint32_t i = 0; i < n; i++)
			to16[i] = row_to_f16(from[i]);
		break;
	case KERN_DTYPE_BF16:
		for (uint32_t i = 0; i < n; i++)
			to16[i] = row_to_bf16(from[i]);
		break;
	}
}

/* ---- the rows ---------------------------------------------------------------------------------------------- */

static void row_rope(float *restrict x, const float *restrict cos_sin, enum kern_rope rope, uint32_t rotated)
{
	const uint32_t half = rotated / 2;

	for (uint32_t i = 0; rope == KERN_ROPE_PAIRS && i < half; i++) {
		float cosine = cos_sin[2 * i], sine = cos_sin[2 * i + 1], x0 = x[2 * i], x1 = x[2 * i + 1];

		x[2 * i] = x0 * cosine - x1 * sine;
		x[2 * i + 1] = x0 * sine + x1 * cosine;
	}
	for (uint32_t i = 0; rope == KERN_ROPE_HALVES && i < half; i++) {
		float cosine = cos_sin[2 * i], sine = cos_sin[2 * i + 1], x0 = x[i], x1 = x[i + half];

		x[i] = x0 * cosine - x1 * sine;
		x[i + half] = x0 * sine + x1 * cosine;
	}
}

/* The largest magnitude, of non-negative floats in the order of their bits; a NaN is above all. */
static inline uint32_t row_largest_bits(const float *x, uint32_t n)
{
	uint32_t largest = 0;

	for (uint32_t i = 0; i < n; i++) {
		uint32_t magnitude = row_bits(x[i]) & FLOAT_MAGNITUDE_BITS;

		largest = magnitude > largest ? magnitude : largest;
	}
	return largest;
}

/* Scale of a row that is to become integers of +-limit, and what to multiply by: 0 for a row that becomes zeros. */
static inline float row_scale(const float *x, uint32_t n, float limit, float *inverse)
{
	const uint32_t bits = row_largest_bits(x, n);
	const float largest = row_float(bits);

	*inverse = 0.0f;
	if (bits >= FLOAT_INFINITY_BITS)
		return NAN;
	if (largest < 0x1p-100f) /* the inverse might be infinite */
		return 0.0f;
	*inverse = limit / largest;
	return largest / limit;
}

static float row_quantize(int8_t *restrict to, const float *restrict x, uint32_t n, int32_t *sum)
{
	float inverse, scale = row_scale(x, n, 127.0f, &inverse);
	int32_t total = 0;

	if (inverse == 0.0f)
		memset(to, 0, n);
	for (uint32_t i = 0; inverse != 0.0f && i < n; i++) {
		int32_t q = row_round(x[i] * inverse);

		to[i] = (int8_t)q;
		total += q;
	}
	if (sum != NULL)
		*sum = total;
	return scale;
}

static void row_smooth(float *restrict x, const float *restrict mean, const float *restrict width, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		x[i] = (x[i] - mean[i]) * row_float((254u << 23) - row_bits(width[i]));
}

/* Of non-negative weights whose largest has these bits: the power of two that one is divided by to become an integer of 15
 * bits. NaN if one of them is NaN or infinite, as their bits are above all. */
static inline float row_weight_scale(uint32_t largest, float *inverse)
{
	const uint32_t lowest = 27u << 23, shift = (CPU_ATTENTION_WEIGHT_BITS - 1) << 23;
	uint32_t exponent = largest & FLOAT_INFINITY_BITS;

	exponent = exponent > lowest ? exponent : lowest;
	*inverse = row_float((254u << 23) + shift - exponent);
	return largest >= FLOAT_INFINITY_BITS ? NAN : row_float(exponent - shift);
}

/* A NaN's integers do not matter, its scale is NaN; they are clamped before they become integers. */
static inline void row_pack_weights(int16_t *restrict to, const float *restrict weights, uint32_t n, float inverse)
{
	for (uint32_t t = 0; t < n; t++) {
		float w = weights[t] * inverse;
		int32_t whole;

		w = w < 0x1p15f ? w : 0.0f;
		whole = row_round(w);
		to[t] = (int16_t)(whole < INT16_MAX ? whole : INT16_MAX);
	}
}

static float row_quantize_query(int16_t *restrict to, const float *restrict q, const float *restrict width, uint32_t n)
{
	float wide[CPU_ATTENTION_DIM_MAX], inverse, scale;

	for (uint32_t i = 0; i < n; i++)
		wide[i] = q[i] * width[i];
	scale = row_scale(wide, n, (float)CPU_ATTENTION_QUERY_LIMIT, &inverse);
	if (inverse == 0.0f)
		memset(to, 0, n * sizeof(*to));
	for (uint32_t i = 0; inverse != 0.0f && i < n; i++)
		to[i] = (int16_t)row_round(wide[i] * inverse);
	return scale;
}

static inline bool row_is_finite(float x)
{
	return (row_bits(x) & FLOAT_MAGNITUDE_BITS) < FLOAT_INFINITY_BITS;
}

static void row_page_row(float *restrict to, const void *rows, enum kern_kv format, uint32_t token, uint32_t dim)
{
	if (format == KERN_KV_F32)
		row_load(to, (const float *)rows + (size_t)token * dim, dim, KERN_DTYPE_F32);
	else
		row_load(to, (const uint16_t *)rows + (size_t)token * dim, dim, KERN_DTYPE_BF16);
}

enum { SURVEY_EXTREMES = 2 }; /* tokens that may be anything without any say in the survey */

/* The limits of each channel's elements without the largest and the smallest SURVEY_EXTREMES of them. */
static void row_limits(float *restrict lowest, float *restrict highest, const void *rows, enum kern_kv format, uint32_t dim)
{
	float row[CPU_ATTENTION_DIM_MAX], low[SURVEY_EXTREMES + 1][CPU_ATTENTION_DIM_MAX],
		high[SURVEY_EXTREMES + 1][CPU_ATTENTION_DIM_MAX];

	for (uint32_t i = 0; i <= SURVEY_EXTREMES; i++) {
		for (uint32_t d = 0; d < dim; d++) {
			low[i][d] = INFINITY;
			high[i][d] = -INFINITY;
		}
	}
	for (uint32_t t = 0; t < KERN_PAGE_TOKENS; t++) {
		row_page_row(row, rows, format, t, dim);
		for (uint32_t d = 0; d < dim; d++) {
			float x = row[d], y = row[d];

			/* Each list stays sorted; comparisons with NaN are false and leave it as it was. */
			for (uint32_t i = 0; i <= SURVEY_EXTREMES; i++) {
				const float smaller = x < low[i][d] ? x : low[i][d], larger = y > high[i][d] ? y : high[i][d];

				x = x < low[i][d] ? low[i][d] : x;
				y = y > high[i][d] ? high[i][d] : y;
				low[i][d] = smaller;
				high[i][d] = larger;
			}
		}
	}
	memcpy(lowest, low[SURVEY_EXTREMES], dim * sizeof(*lowest));
	memcpy(highest, high[SURVEY_EXTREMES], dim * sizeof(*highest));
}

static inline float row_clamp(float x, float lowest, float highest)
{
	x = x > lowest ? x : lowest;
	return x < highest ? x : highest;
}

/* Widths from mean absolute deviations. A channel is never narrowed: one that happened to be still so far must not
 * swamp the others when it wakes up. */
static void row_survey(float *restrict mean, float *restrict width, const void *rows, enum kern_kv format, uint32_t dim,
	bool rotated)
{
	float row[CPU_ATTENTION_DIM_MAX], lowest[CPU_ATTENTION_DIM_MAX], highest[CPU_ATTENTION_DIM_MAX], average = 0.0f;

	row_limits(lowest, highest, rows, format, dim);
	memset(mean, 0, dim * sizeof(*mean));
	memset(width, 0, dim * sizeof(*width));
	for (uint32_t t = 0; t < KERN_PAGE_TOKENS; t++) {
		row_page_row(row, rows, format, t, dim);
		for (uint32_t d = 0; d < dim; d++)
			mean[d] += row_clamp(row[d], lowest[d], highest[d]);
	}
	for (uint32_t d = 0; d < dim; d++) {
		mean[d] *= 1.0f / KERN_PAGE_TOKENS;
		/* A mean beyond any model's would leave nothing of the rows it is taken from; NaN neither. */
		mean[d] = fabsf(mean[d]) < 0x1p40f ? mean[d] : 0.0f;
	}
	for (uint32_t t = 0; t < KERN_PAGE_TOKENS; t++) {
		row_page_row(row, rows, format, t, dim);
		for (uint32_t d = 0; d < dim; d++)
			width[d] += fabsf(row_clamp(row[d], lowest[d], highest[d]) - mean[d]);
	}
	for (uint32_t d = 0; d < dim; d++)
		average += width[d];
	average /= (float)dim;
	for (uint32_t d = 0; d < dim; d++) {
		float ratio = width[d] / average;

		/* The exponent alone: with the factor, the nearest power of two. A rotation spreads what is wide anyway, and the query
		 * grows by what K shrinks: the square root is best there. */
		ratio = rotated ? sqrtf(ratio) : ratio * 1.41421356f;
		width[d] = ratio >= 2.0f && ratio < 0x1p20f ? row_float(row_bits(ratio) & FLOAT_INFINITY_BITS) : 1.0f;
	}
}

static void row_multiply(float *x, float factor, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		x[i] *= factor;
}

/* True for a part in which nothing was visible: adding it changes nothing. */
static inline bool row_part_is_empty(const struct cpu_attention_state *part)
{
	return part->sum == 0.0f && part->max == -INFINITY;
}

static void row_fold(struct cpu_attention_state *state, float *restrict o, const struct cpu_attention_state *part,
	const float *restrict part_o, uint32_t dim)
{
	if (row_part_is_empty(part))
		return;
	if (row_part_is_empty(state)) {
		*state = *part;
		memcpy(o, part_o, dim * sizeof(*o));
		return;
	}
	float max = state->max > part->max ? state->max : part->max;
	float old_factor = row_exp2(state->max - max), part_factor = row_exp2(part->max - max);

	state->max = max;
	state->sum = state->sum * old_factor + part->sum * part_factor;
	for (uint32_t d = 0; d < dim; d++)
		o[d] = o[d] * old_factor + part_o[d] * part_factor;
}

#endif
