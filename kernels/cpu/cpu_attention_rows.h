/*
 * The row functions of struct cpu_attention_kernels in plain C, for the compiler to vectorize: the file of each
 * instruction set includes this and so compiles its own copy. No reduction of floats is left to the compiler and
 * nothing is contracted, so these give the same bits on every instruction set; in particular the stored K and V are
 * the same everywhere.
 */
#ifndef CPU_ATTENTION_ROWS_H
#define CPU_ATTENTION_ROWS_H

#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu_attention_kernels.h"

/* Of exp2 and tanh: Cephes' single precision constants (Moshier, 1989), used by every instruction set. */
#define EXP2_LOWEST (-100.0f) /* below, the result is 0: nothing that matters, and nothing subnormal comes of it later */
#define EXP2_C0 1.535336188319500e-4f
#define EXP2_C1 1.339887440266574e-3f
#define EXP2_C2 9.618437357674640e-3f
#define EXP2_C3 5.550332471162809e-2f
#define EXP2_C4 2.402264791363012e-1f
#define EXP2_C5 6.931472028550421e-1f
#define TANH_SCALE (-2.88539008f) /* -2 / log 2 */
#define TANH_SMALL 0.625f
#define TANH_C0 (-5.70498872745e-3f)
#define TANH_C1 2.06390887954e-2f
#define TANH_C2 (-5.37397155531e-2f)
#define TANH_C3 1.33314422036e-1f
#define TANH_C4 (-3.33332819422e-1f)

/* Adding this to |x| < 2^22 leaves the nearest integer (ties to even) in the low bits of the sum. */
#define ROUND_MAGIC 0x1.8p23f
enum { ROUND_MAGIC_BITS = 0x4b400000 };

enum { FLOAT_INFINITY_BITS = 0x7f800000, FLOAT_MAGNITUDE_BITS = 0x7fffffff };

static inline uint32_t row_bits(float x)
{
	uint32_t bits;

	memcpy(&bits, &x, sizeof(bits));
	return bits;
}

static inline float row_float(uint32_t bits)
{
	float x;

	memcpy(&x, &bits, sizeof(x));
	return x;
}

static inline int32_t row_round(float x)
{
	return (int32_t)(row_bits(x + ROUND_MAGIC) - ROUND_MAGIC_BITS);
}

/* 2^x for x <= 0; exactly 0 below EXP2_LOWEST, exactly 1 at 0, NaN for NaN. */
static inline float row_exp2(float x)
{
	float whole = x + ROUND_MAGIC, r = x - (whole - ROUND_MAGIC), p = EXP2_C0;
	uint32_t exponent = row_bits(whole) - ROUND_MAGIC_BITS;

	p = p * r + EXP2_C1;
	p = p * r + EXP2_C2;
	p = p * r + EXP2_C3;
	p = p * r + EXP2_C4;
	p = p * r + EXP2_C5;
	p = p * r + 1.0f;
	p *= row_float((exponent + 127) << 23);
	return x < EXP2_LOWEST ? 0.0f : p;
}

static inline float row_tanh(float x)
{
	float magnitude = row_float(row_bits(x) & FLOAT_MAGNITUDE_BITS), z = x * x;
	float t = row_exp2(TANH_SCALE * magnitude);
	float large = (1.0f - t) / (1.0f + t), small = TANH_C0;

	small = small * z + TANH_C1;
	small = small * z + TANH_C2;
	small = small * z + TANH_C3;
	small = small * z + TANH_C4;
	small = small * z * x + x;
	return magnitude < TANH_SMALL ? small : copysignf(large, x);
}

/* ---- element formats ------------------------------------------------------------------------------------- */

/* The mantissa and exponent are moved into place; a multiplication corrects the bias and normalizes subnormals. */
static inline float row_from_f16(uint16_t half)
{
	uint32_t magnitude = (uint32_t)(half & 0x7fff) << 13, sign = (uint32_t)(half & 0x8000) << 16;
	uint32_t bits = row_bits(row_float(magnitude) * 0x1p112f);

	bits = magnitude >= 0x7c00u << 13 ? FLOAT_INFINITY_BITS | magnitude : bits;
	return row_float(bits | sign);
}

/* Rounding is left to a float addition whose last place is that of the half: M. Dukhan's FP16 library. */
static inline uint16_t row_to_f16(float x)
{
	uint32_t bits = row_bits(x), twice = bits + bits, exponent = twice & 0xff000000u, result;
	float base = row_float(bits & FLOAT_MAGNITUDE_BITS) * 0x1p112f * 0x1p-110f;

	exponent = exponent < 0x71000000u ? 0x71000000u : exponent;
	result = row_bits(row_float((exponent >> 1) + 0x07800000u) + base);
	result = (result >> 13 & 0x7c00) + (result & 0x0fff);
	result = twice > 0xff000000u ? 0x7e00 : result;
	return (uint16_t)(result | (bits >> 16 & 0x8000));
}

static inline float row_from_bf16(uint16_t brain)
{
	return row_float((uint32_t)brain << 16);
}

static inline uint16_t row_to_bf16(float x)
{
	uint32_t bits = row_bits(x), rounded = bits + 0x7fff + (bits >> 16 & 1);

	return (uint16_t)(((bits & FLOAT_MAGNITUDE_BITS) > FLOAT_INFINITY_BITS ? bits | 0x400000 : rounded) >> 16);
}

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

/* Widths from mean absolute deviations. A channel is never narrowed: one that happened to be still so far must not
 * swamp the others when it wakes up. */
static void row_survey(float *restrict mean, float *restrict width, const void *rows, enum kern_kv format, uint32_t dim)
{
	float row[CPU_ATTENTION_DIM_MAX], average = 0.0f;

	memset(mean, 0, dim * sizeof(*mean));
	memset(width, 0, dim * sizeof(*width));
	for (uint32_t t = 0; t < KERN_PAGE_TOKENS; t++) {
		row_page_row(row, rows, format, t, dim);
		for (uint32_t d = 0; d < dim; d++)
			mean[d] += row[d];
	}
	for (uint32_t d = 0; d < dim; d++) {
		mean[d] *= 1.0f / KERN_PAGE_TOKENS;
		mean[d] = row_is_finite(mean[d]) ? mean[d] : 0.0f;
	}
	for (uint32_t t = 0; t < KERN_PAGE_TOKENS; t++) {
		row_page_row(row, rows, format, t, dim);
		for (uint32_t d = 0; d < dim; d++)
			width[d] += fabsf(row[d] - mean[d]);
	}
	for (uint32_t d = 0; d < dim; d++)
		average += width[d];
	average /= (float)dim;
	for (uint32_t d = 0; d < dim; d++) {
		float ratio = width[d] / average * 1.41421356f;

		/* The exponent alone: with the factor above, the nearest power of two. */
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
