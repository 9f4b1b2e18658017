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

/* Where zero lies among the codes of K, whose scales may be negative, and of V, whose scales may not. */
#define INT4_ZERO_K 8.0f
#define INT4_ZERO_V 7.5f
enum { INT4_MOST = 15 };

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
	for (uint32_t i = 0; i < n; i++)
		x[i] *= scale;
}

static inline float row_int4_code(float x, float inverse, float zero)
{
	float code = x * inverse + zero + ROUND_MAGIC;

	code = code - ROUND_MAGIC;
	code = code > 0.0f ? code : 0.0f;
	return code < INT4_MOST ? code : INT4_MOST;
}

/* Squared error of a group with a scale. */
static inline float row_int4_error(const float *restrict x, uint32_t n, float scale, float zero)
{
	const float inverse = 1.0f / scale;
	float sum[ROW_LANES] = { 0 };

	for (uint32_t i = 0; i < n; i += ROW_LANES) {
		for (uint32_t lane = 0; lane < ROW_LANES; lane++) {
			float error = x[i + lane] - (row_int4_code(x[i + lane], inverse, zero) - zero) * scale;

			sum[lane] += error * error;
		}
	}
	return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

/* The bf16 scale, of those that put the largest magnitude between 7 and 10.5 steps from zero, that errs least. K has one
 * code more below zero than above, so both signs are tried. */
static uint16_t row_int4_scale(const float *x, uint32_t n, float zero)
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
		uint16_t scale = row_to_bf16(zero == INT4_ZERO_K ? extreme / steps[i] : largest / fabsf(steps[i]));
		float error = row_int4_error(x, n, row_from_bf16(scale), zero);

		best = error < least || i == 0 ? scale : best;
		least = error < least ? error : least;
	}
	return best;
}

/* A step of V is two units of its scale, as codes are unpacked to odd integers. */
static void row_quantize_int4(uint8_t *restrict to, uint16_t *restrict scales, const float *restrict x, uint32_t n,
	bool is_v)
{
	const bool bad = row_largest_bits(x, n) >= FLOAT_INFINITY_BITS;
	const float zero = is_v ? INT4_ZERO_V : INT4_ZERO_K;

	for (uint32_t first = 0, count; first < n; first += count, scales++) {
		float step, inverse;

		count = n - first < KERN_KV_GROUP ? n - first : KERN_KV_GROUP;
		step = bad ? 0.0f : row_from_bf16(row_int4_scale(x + first, count, zero));
		inverse = step == 0.0f ? 0.0f : 1.0f / step;
		*scales = bad ? 0x7fc0 : row_to_bf16(is_v ? step * 0.5f : step);
		for (uint32_t i = first; i < first + count; i++)
			to[i] = bad ? 0 : (uint8_t)row_int4_code(x[i], inverse, zero);
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

static inline __attribute__((always_inline)) void row_unpack_as(uint8_t *restrict to, const uint8_t *restrict from,
	uint32_t row_bytes, uint32_t pairs, const int factor, const int bias, const uint8_t *ahead)
{
	enum { STEP = 32 };

	for (uint32_t pair = 0; pair < pairs; pair++, to += row_bytes) {
		for (uint32_t i = 0; i < row_bytes; i += STEP, from += STEP, to += STEP, ahead += STEP) {
			uint8_t *restrict second = to + row_bytes;

			__builtin_prefetch(ahead, 0, 2);
			for (uint32_t j = 0; j < STEP; j++) {
				to[j] = (uint8_t)((from[j] & 15) * factor - bias);
				second[j] = (uint8_t)((from[j] >> 4) * factor - bias);
			}
		}
	}
}

static void row_unpack(uint8_t *to, const uint8_t *from, uint32_t row_bytes, uint32_t pairs, bool is_v, const void *ahead)
{
	const uint8_t *next = ahead != NULL ? ahead : from;

	if (is_v)
		row_unpack_as(to, from, row_bytes, pairs, 2, INT4_MOST, next);
	else
		row_unpack_as(to, from, row_bytes, pairs, 1, 0, next);
}

#endif
