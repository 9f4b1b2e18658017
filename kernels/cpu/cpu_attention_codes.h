/*
 * The row functions of the narrow formats, fp8 and int4, in plain C as in cpu_attention_rows.h: each instruction set
 * compiles its own copy, and all give the same bits.
 */
#ifndef CPU_ATTENTION_CODES_H
#define CPU_ATTENTION_CODES_H

#include "kernels/cpu/cpu_attention_rows.h"

enum { ROW_LANES = 8 }; /* of the sums below, so that the compiler need not reorder any; head dimensions are multiples */

/* ---- e4m3 -------------------------------------------------------------------------------------------------- */

#define FP8_MAX 448.0f
#define FP8_SUBNORMAL 0x1p-6f
#define FP8_AS_F16_MAX 1.75f
enum { FP8_EXPONENT_SHIFT = 120 << 3 };

/* |x| <= 448, rounded to nearest even. */
static inline uint8_t row_to_fp8(float x)
{
	const uint32_t bits = row_bits(x), magnitude = bits & FLOAT_MAGNITUDE_BITS;
	const uint32_t normal = ((magnitude + 0x7ffff + (magnitude >> 20 & 1)) >> 20) - FP8_EXPONENT_SHIFT;
	const uint32_t subnormal = (uint32_t)row_round(row_float(magnitude) * 0x1p9f);

	return (uint8_t)((row_float(magnitude) < FP8_SUBNORMAL ? subnormal : normal) | (bits >> 24 & 0x80));
}

/* The float16 whose upper bits the code is: 2^-8 of e4m3. */
static inline float row_from_fp8(uint8_t code)
{
	return row_from_f16((uint16_t)((code & 0x80) << 8 | (code & 0x7f) << 7));
}

static float row_quantize_fp8(uint8_t *restrict to, const float *restrict x, uint32_t n)
{
	float inverse, scale = row_scale(x, n, FP8_MAX, &inverse);

	if (inverse == 0.0f)
		memset(to, 0, n);
	for (uint32_t i = 0; inverse != 0.0f && i < n; i++)
		to[i] = row_to_fp8(x[i] * inverse);
	return scale * (FP8_MAX / FP8_AS_F16_MAX);
}

/* ---- int4 -------------------------------------------------------------------------------------------------- */

enum { INT4_ZERO = 8, INT4_MOST = 15 };

#define SIGN_BIT 0x80000000u

/* A group's scale shrinks by this before it meets the sum of integers, and the query's grows, so that whatever float32 K
 * would survive this does. */
#define INT4_SHRINK 0x1p-12f
#define INT4_GROW 0x1p12f

/* Of runs of as many as the largest power of two that divides n. */
static void row_rotate(float *x, uint32_t n)
{
	const uint32_t run = n & -n;
	const float scale = 1.0f / sqrtf((float)run);

	/* First, so that sums of large numbers stay finite. */
	for (uint32_t i = 0; i < n; i++)
		x[i] *= scale;
	for (uint32_t half = 1; half < run; half *= 2) {
		for (uint32_t first = 0; first < n; first += 2 * half) {
			float *restrict low = x + first, *restrict high = x + first + half;

			for (uint32_t i = 0; i < half; i++) {
				float a = low[i], b = high[i];

				low[i] = a + b;
				high[i] = a - b;
			}
		}
	}
}

static inline float row_int4_code(float x, float inverse)
{
	float code = x * inverse + (ROUND_MAGIC + INT4_ZERO);

	code = code - ROUND_MAGIC;
	code = code > 0.0f ? code : 0.0f;
	return code < INT4_MOST ? code : INT4_MOST;
}

/* Squared error of a group with a scale. */
static inline float row_int4_error(const float *restrict x, uint32_t n, float scale)
{
	const float inverse = 1.0f / scale;
	float sum[ROW_LANES] = { 0 };

	for (uint32_t i = 0; i < n; i += ROW_LANES) {
		for (uint32_t lane = 0; lane < ROW_LANES; lane++) {
			float error = x[i + lane] - (row_int4_code(x[i + lane], inverse) - INT4_ZERO) * scale;

			sum[lane] += error * error;
		}
	}
	return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

/* The bf16 scale, of those that put the largest magnitude between 7 and 10.5 steps from zero, that errs least. There is
 * one code more below zero than above, so both signs are tried. */
static uint16_t row_int4_scale(const float *x, uint32_t n)
{
	static const float steps[] = { -8.0f, -7.5f, -7.0f, -8.5f, -9.0f, -9.75f, -10.5f, 7.0f, 7.5f, 8.25f };
	const uint32_t largest_bits = row_largest_bits(x, n);
	const float largest = row_float(largest_bits);
	uint16_t best = 0;
	float least = INFINITY, extreme = largest;

	if (largest < 0x1p-100f)
		return 0;
	for (uint32_t i = 0; i < n; i++)
		extreme = row_bits(x[i]) == (largest_bits | SIGN_BIT) ? x[i] : extreme;
	for (uint32_t i = 0; i < sizeof(steps) / sizeof(*steps); i++) {
		uint16_t scale = row_to_bf16(extreme / steps[i]);
		float error = row_int4_error(x, n, row_from_bf16(scale));

		best = error < least || i == 0 ? scale : best;
		least = error < least ? error : least;
	}
	return best;
}

/* Weights of V are not negative: there a negative scale stands for its magnitude, codes the other way round, and a zero
 * at 7 instead of 8. */
static void row_quantize_int4(uint8_t *restrict to, uint16_t *restrict scales, const float *restrict x, uint32_t n,
	bool is_v)
{
	const bool bad = row_largest_bits(x, n) >= FLOAT_INFINITY_BITS;

	for (uint32_t first = 0, count; first < n; first += count, scales++) {
		float scale, inverse;
		uint8_t flip;

		count = n - first < KERN_KV_GROUP ? n - first : KERN_KV_GROUP;
		*scales = bad ? 0x7fc0 : row_int4_scale(x + first, count);
		scale = row_from_bf16(*scales);
		inverse = bad || scale == 0.0f ? 0.0f : 1.0f / scale;
		flip = is_v && scale < 0.0f ? INT4_MOST : 0; /* 15 - code */
		for (uint32_t i = first; i < first + count; i++)
			to[i] = bad ? 0 : (uint8_t)row_int4_code(x[i], inverse) ^ flip;
	}
}

static float row_quantize_query4(int8_t *restrict packed, int32_t *restrict sums, const float *restrict q,
	const float *restrict width, uint32_t n)
{
	float rotated[CPU_ATTENTION_DIM_MAX], scale;

	for (uint32_t i = 0; i < n; i++)
		rotated[i] = q[i] * width[i];
	row_rotate(rotated, n);
	scale = row_quantize(packed, rotated, n, NULL);
	for (uint32_t group = 0; group < kern_kv_groups(n); group++) {
		const uint32_t end = (group + 1) * KERN_KV_GROUP < n ? (group + 1) * KERN_KV_GROUP : n;

		sums[group] = 0;
		for (uint32_t i = group * KERN_KV_GROUP; i < end; i++)
			sums[group] += packed[i];
	}
	return scale;
}

static void row_interleave(void *to, const void *from, uint32_t n, uint32_t bits, uint32_t shift)
{
	const uint32_t others = ~(((UINT32_C(1) << bits) - 1) << shift);
	const uint8_t *restrict codes = from;
	uint32_t *restrict words = to;

	for (uint32_t i = 0; i < n; i++)
		words[i] = (words[i] & others) | (uint32_t)codes[i] << shift;
}

enum { UNPACK_STEP = 32 };

static void row_unpack_k(uint8_t *restrict to, const uint8_t *restrict from, uint32_t dim, const void *ahead)
{
	const uint8_t *next = ahead != NULL ? ahead : from;

	for (uint32_t pair = 0; pair < dim / 8; pair++, to += 4 * KERN_PAGE_TOKENS) {
		uint8_t *restrict second = to + 4 * KERN_PAGE_TOKENS;

		for (uint32_t i = 0; i < 4 * KERN_PAGE_TOKENS; i += UNPACK_STEP, next += UNPACK_STEP)
			__builtin_prefetch(next, 0, 2);
		for (uint32_t i = 0; i < 4 * KERN_PAGE_TOKENS; i++) {
			to[i] = from[i] & 15;
			second[i] = from[i] >> 4;
		}
		to += 4 * KERN_PAGE_TOKENS;
		from += 4 * KERN_PAGE_TOKENS;
	}
}

/* Zeros of four tokens, side by side, as often as fit one step. */
static inline void row_int4_zeros(uint8_t *restrict zeros, const uint16_t *scales)
{
	uint32_t four = 0, all[UNPACK_STEP / 4];

	for (uint32_t i = 0; i < 4; i++)
		four |= (uint32_t)(INT4_ZERO - (scales[i] >> 15)) << 8 * i;
	for (uint32_t i = 0; i < UNPACK_STEP / 4; i++)
		all[i] = four;
	memcpy(zeros, all, UNPACK_STEP);
}

static void row_unpack_v(uint8_t *restrict to, const uint8_t *restrict from, const uint16_t *scales, uint32_t dim,
	const void *ahead)
{
	const uint8_t *next = ahead != NULL ? ahead : from;

	for (uint32_t token = 0; token < KERN_PAGE_TOKENS; token += 8, to += 4 * dim) {
		uint8_t low[UNPACK_STEP], high[UNPACK_STEP];

		for (uint32_t at = 0; at < 4 * dim; at += UNPACK_STEP, to += UNPACK_STEP, from += UNPACK_STEP) {
			uint8_t *restrict second = to + 4 * dim;

			if (at % (4 * KERN_KV_GROUP) == 0) {
				const uint16_t *group = scales + at / (4 * KERN_KV_GROUP) * KERN_PAGE_TOKENS + token;

				row_int4_zeros(low, group);
				row_int4_zeros(high, group + 4);
			}
			__builtin_prefetch(next, 0, 2);
			next += UNPACK_STEP;
			for (uint32_t i = 0; i < UNPACK_STEP; i++) {
				to[i] = (uint8_t)((from[i] & 15) - low[i]);
				second[i] = (uint8_t)((from[i] >> 4) - high[i]);
			}
		}
	}
}

#endif
