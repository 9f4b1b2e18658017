/*
 * The row functions of the narrow formats, fp8 and int4, in plain C as in cpu_attention_rows.h: each instruction set
 * compiles its own copy, and all give the same bits.
 */
#ifndef CPU_ATTENTION_CODES_H
#define CPU_ATTENTION_CODES_H

#include "kernels/cpu/cpu_attention_int4.h"
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

static void row_rotate(float *x, uint32_t n)
{
	const uint32_t run = n & -n;
	const float scale = 1.0f / sqrtf((float)run);

	/* First, so that sums of large numbers stay finite. */
	for (uint32_t i = 0; i < n; i++)
		x[i] *= scale;
	row_hadamard(x, n, run);
	if (run < n)
		row_reflect(x, n, run);
}

/* The borders between the levels of one sign, and by what these ascend there from 3 on. */
#define INT4_BORDERS(STEP) STEP(5.5f, 5) STEP(10.5f, 5) STEP(16.0f, 6) STEP(22.5f, 7) STEP(29.5f, 7) STEP(37.5f, 9) STEP(49.0f, 14)

static inline float row_int4_level(float magnitude)
{
	float level = 3.0f;

#define INT4_STEP(border, ascent) level += magnitude > (border) ? (float)(ascent) : 0.0f;
	INT4_BORDERS(INT4_STEP)
#undef INT4_STEP
	return level;
}

/* The number of borders below. */
static inline int32_t row_int4_rank(float magnitude)
{
	int32_t rank = 0;

#define INT4_STEP(border, ascent) rank += magnitude > (border);
	INT4_BORDERS(INT4_STEP)
#undef INT4_STEP
	return rank;
}

/* Magnitudes of a group's elements, filled up with zeros. */
struct row_group {
	float magnitudes[KERN_KV_GROUP];
	uint32_t count, padded;
};

enum { INT4_LANES = 16 };

static inline float row_lanes_sum(const float sum[INT4_LANES])
{
	float half[INT4_LANES / 2];

	for (uint32_t i = 0; i < INT4_LANES / 2; i++)
		half[i] = sum[i] + sum[i + INT4_LANES / 2];
	return ((half[0] + half[4]) + (half[2] + half[6])) + ((half[1] + half[5]) + (half[3] + half[7]));
}

/* What the levels of a group times `factor` have in common with it: their product, and the levels' own square. */
static inline float row_int4_fit(const struct row_group *group, float factor, float *square)
{
	float product[INT4_LANES] = { 0 }, own[INT4_LANES] = { 0 };

	for (uint32_t i = 0; i < group->padded; i += INT4_LANES) {
		for (uint32_t lane = 0; lane < INT4_LANES; lane++) {
			const float magnitude = group->magnitudes[i + lane] * factor, level = row_int4_level(magnitude);

			product[lane] += magnitude * level;
			own[lane] += level * level;
		}
	}
	/* Squares are exact; those of the filling do not count. */
	*square = row_lanes_sum(own) - 9.0f * (float)(group->padded - group->count);
	return row_lanes_sum(product);
}

/* The largest magnitude is put at several places around the largest level. Levels that are chosen fit best with the scale of
 * least squares, which leaves the error |x|^2 - product^2 / square. Returns that scale as bf16, and by what x is multiplied for
 * the choice of levels. */
static uint16_t row_int4_scale(const struct row_group *group, float *inverse)
{
	static const float places[] = { 56.0f, 48.5f, 52.0f, 60.0f, 64.5f, 70.0f };
	const float largest = row_float(row_largest_bits(group->magnitudes, group->count));
	float most = 0.0f, scale = 0.0f;

	*inverse = 0.0f;
	if (largest < 0x1p-100f)
		return 0;
	for (uint32_t i = 0; i < sizeof(places) / sizeof(*places); i++) {
		const float factor = places[i] / largest;
		float square, product = row_int4_fit(group, factor, &square), fit = product / square, explained;

		/* In units of x's largest magnitude, whatever the factor. */
		explained = product * fit / (places[i] * places[i]);
		if (explained > most) {
			most = explained;
			*inverse = factor;
			scale = fit * (largest / places[i]);
		}
	}
	return row_to_bf16(scale);
}

static inline float row_clamp_low(float rest)
{
	rest = rest < INT4_HALF - 1 ? rest : INT4_HALF - 1;
	return rest > 1 - INT4_HALF ? rest : 1 - INT4_HALF;
}

/* Codes ascend with their levels; `low` takes two's complements of 4 bits. */
static void row_int4_codes(uint8_t *restrict to, uint8_t *restrict low, const float *restrict x, const struct row_group *group,
	float inverse, float fine)
{
	int32_t codes[KERN_KV_GROUP], rests[KERN_KV_GROUP];

	for (uint32_t i = 0; i < group->count; i++) {
		const float magnitude = group->magnitudes[i] * inverse;
		const float rest = row_clamp_low(group->magnitudes[i] * fine - row_int4_level(magnitude));
		const int32_t rank = row_int4_rank(magnitude), whole = row_round(rest);
		const int32_t sign = (int32_t)row_bits(x[i]) >> 31; /* 0 or -1 */

		codes[i] = INT4_HALF + (rank ^ sign);
		rests[i] = ((whole ^ sign) - sign) & 15;
	}
	for (uint32_t i = 0; i < group->count; i++) {
		to[i] = (uint8_t)codes[i];
		low[i] = (uint8_t)rests[i];
	}
}

static void row_quantize_int4(uint8_t *restrict to, uint8_t *restrict low, uint16_t *restrict scales, const float *restrict x,
	uint32_t n)
{
	const bool bad = row_largest_bits(x, n) >= FLOAT_INFINITY_BITS;
	struct row_group group;

	for (uint32_t first = 0; first < n; first += group.count, scales++) {
		float inverse;

		group.count = n - first < KERN_KV_GROUP ? n - first : KERN_KV_GROUP;
		group.padded = (group.count + INT4_LANES - 1) / INT4_LANES * INT4_LANES;
		memset(group.magnitudes, 0, sizeof(group.magnitudes));
		for (uint32_t i = 0; i < group.count; i++)
			group.magnitudes[i] = bad ? 0.0f : fabsf(x[first + i]);
		*scales = row_int4_scale(&group, &inverse);
		/* Zeros come out as small levels times nothing. */
		row_int4_codes(to + first, low + first, x + first, &group, inverse,
			inverse != 0.0f ? 1.0f / row_from_bf16(*scales) : 0.0f);
		*scales = bad ? 0x7fc0 : *scales;
	}
}

/* The lower median of a page's scales; what is NaN counts as the largest. */
static inline float row_median(const uint16_t *scales)
{
	uint16_t median = 0x7fff;

	/* Of non-negative numbers the bits ascend too. */
	for (uint32_t i = 0; i < KERN_PAGE_TOKENS; i++) {
		uint16_t below = 0;

		for (uint32_t j = 0; j < KERN_PAGE_TOKENS; j++)
			below = (uint16_t)(below + (scales[j] <= scales[i]));
		median = below >= KERN_PAGE_TOKENS / 2 && scales[i] < median ? scales[i] : median;
	}
	return row_from_bf16(median);
}

/* A page's mean follows the tokens of the page before it: half way from that one's mean, which `mean` holds, to where its
 * codes put them. Codes lie as in a page, unpacked, rotated. A token with a scale far above the others counts as one of four
 * times the median, so that no single token carries the mean away; one that is not finite does not count. */
static void row_follow(float *restrict mean, const float *restrict width, const uint8_t *restrict codes, const uint16_t *scales,
	uint32_t dim)
{
	float sum[CPU_ATTENTION_DIM_MAX] = { 0 }, weights[KERN_PAGE_TOKENS];

	for (uint32_t d = 0; d < dim; d += 4) {
		const uint8_t *quad = codes + (size_t)d * KERN_PAGE_TOKENS;

		if (d % KERN_KV_GROUP == 0) {
			const uint16_t *of_group = scales + d / KERN_KV_GROUP * KERN_PAGE_TOKENS;
			const float most = 4.0f * row_median(of_group);

			for (uint32_t t = 0; t < KERN_PAGE_TOKENS; t++) {
				weights[t] = row_from_bf16(of_group[t]);
				weights[t] = weights[t] < most ? weights[t] : of_group[t] < FLOAT_INFINITY_BITS >> 16 ? most : 0.0f;
			}
		}
		for (uint32_t t = 0; t < KERN_PAGE_TOKENS; t++, quad += 4) {
			for (uint32_t i = 0; i < 4; i++)
				sum[d + i] += weights[t] * (float)(quad[i] - INT4_ZERO);
		}
	}
	for (uint32_t d = 0; d < dim; d++)
		sum[d] *= 0.5f / KERN_PAGE_TOKENS;
	row_rotate(sum, dim);
	for (uint32_t d = 0; d < dim; d++) {
		const float next = mean[d] + sum[d] * width[d];

		mean[d] = fabsf(next) < 0x1p100f ? next : 0.0f;
	}
}

/* q is rotated, and has the widths in it. */
static float row_quantize_query4(int8_t *restrict packed, int32_t *restrict sums, const float *restrict q, uint32_t n)
{
	const float scale = row_quantize(packed, q, n, NULL);

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

/* Bytes get the low halves of what they stand for: both lie alike, quads in pairs. `quad` is bytes of a quad of all tokens, or
 * of all channels. */
static void row_add_low(uint8_t *restrict to, const uint8_t *restrict low, uint32_t quad, uint32_t pairs)
{
	for (uint32_t pair = 0; pair < pairs; pair++, to += 2 * quad, low += quad) {
		uint8_t *restrict second = to + quad;

		for (uint32_t i = 0; i < quad; i++) {
			to[i] = (uint8_t)(to[i] + ((low[i] & 15) ^ INT4_HALF) - INT4_HALF);
			second[i] = (uint8_t)(second[i] + (low[i] >> 4 ^ INT4_HALF) - INT4_HALF);
		}
	}
}

#endif
