/*
 * Rows of float32 into super-blocks of 256 elements (Q2_K to Q5_K, IQ4_XS) and into IQ4_NL. Each scale, and minimum where
 * there is one, is the best by weighted least squares of a few tries; then the scales of a super-block are rounded to its own
 * steps, and codes are chosen anew for what the rounded ones stand for. Layouts: kern_dequantize.c. Any thread; cold.
 */
#include <math.h>
#include <string.h>

#include "kernels/kern_block.h"
#include "kernels/kern_quantize.h"

enum { UNIT_MAX = 32, UNITS_MAX = 16, NIBBLE = 15 };

/* ---- a scale and a minimum: x is about scale * code - minimum ------------------------------------------------ */

struct line { float scale, minimum; };

/* Elements count by their magnitude, and all of them somewhat. */
static void weigh(const float *x, uint32_t count, float *weights)
{
	float average = 0.0f;

	for (uint32_t i = 0; i < count; i++)
		average += fabsf(x[i]) / (float)count;
	for (uint32_t i = 0; i < count; i++)
		weights[i] = average + fabsf(x[i]);
}

/* The line through (code, x), with a minimum that is not negative. */
static struct line fit_line(const float *x, const float *weights, const int *codes, uint32_t count)
{
	double w = 0.0, wq = 0.0, wqq = 0.0, wx = 0.0, wqx = 0.0, determinant;
	struct line line = { 0.0f, 0.0f };

	for (uint32_t i = 0; i < count; i++) {
		const double weight = (double)weights[i], q = codes[i], value = (double)x[i];

		w += weight;
		wq += weight * q;
		wqq += weight * q * q;
		wx += weight * value;
		wqx += weight * q * value;
	}
	determinant = w * wqq - wq * wq;
	if (determinant > 0.0) {
		line.scale = (float)((w * wqx - wq * wx) / determinant);
		line.minimum = (float)((wq * wqx - wqq * wx) / determinant);
	}
	if (!(line.minimum > 0.0f))
		line = (struct line){ wqq > 0.0 ? (float)(wqx / wqq) : 0.0f, 0.0f };
	return line;
}

static double line_error(const float *x, const float *weights, const int *codes, uint32_t count, struct line line)
{
	double error = 0.0;

	for (uint32_t i = 0; i < count; i++) {
		const double off = (double)line.scale * codes[i] - (double)line.minimum - (double)x[i];

		error += (double)weights[i] * off * off;
	}
	return error;
}

/* The best of 13 ranges that the codes 0 .. last are laid over. */
static struct line best_line(const float *x, uint32_t count, int last)
{
	float low = 0.0f, high = 0.0f, weights[UNIT_MAX];
	struct line best = { 0.0f, 0.0f };
	double least = INFINITY;
	int codes[UNIT_MAX];

	for (uint32_t i = 0; i < count; i++) {
		low = x[i] < low ? x[i] : low;
		high = x[i] > high ? x[i] : high;
	}
	if (!(high - low > KERN_SCALE_LEAST))
		return best;
	weigh(x, count, weights);
	for (int step = -6; step <= 6; step++) {
		const float inverse = ((float)last + 0.13f * (float)step * (last > 3 ? 1.0f : 0.5f)) / (high - low);
		struct line line;
		double error;

		for (uint32_t i = 0; i < count; i++)
			codes[i] = kern_code_nearest(inverse * (x[i] - low), 0, last);
		line = fit_line(x, weights, codes, count);
		error = line_error(x, weights, codes, count, line);
		if (line.scale > 0.0f && error < least) {
			least = error;
			best = line;
		}
	}
	return best;
}

/* The unit of a super-block's scales, of which `most` stands for the largest. */
static float unit_of(const float *scales, uint32_t count, int most, uint16_t *half)
{
	float largest = 0.0f;

	for (uint32_t i = 0; i < count; i++)
		largest = scales[i] > largest ? scales[i] : largest;
	*half = kern_f32_to_f16(largest / (float)most);
	return kern_f16_to_f32(*half);
}

static int in_units(float value, float unit, int low, int high)
{
	return unit != 0.0f ? kern_code_nearest(value / unit, low, high) : 0;
}

/* Q2_K, Q4_K, Q5_K: codes 0 .. last, scales and minimums 0 .. most. */
static void encode_lines(const float *from, uint32_t unit, int last, int most, struct kern_block *block)
{
	const uint32_t units = KERN_SUPER_ELEMENTS / unit;
	float scales[UNITS_MAX], minimums[UNITS_MAX], d, m;

	for (uint32_t i = 0; i < units; i++) {
		const struct line line = best_line(from + i * unit, unit, last);

		scales[i] = line.scale;
		minimums[i] = line.minimum;
	}
	d = unit_of(scales, units, most, &block->d);
	m = unit_of(minimums, units, most, &block->m);
	for (uint32_t i = 0; i < units; i++) {
		block->s[i] = (int8_t)in_units(scales[i], d, 0, most);
		block->t[i] = (uint8_t)in_units(minimums[i], m, 0, most);
		for (uint32_t j = i * unit; j < (i + 1) * unit; j++)
			block->q[j] = (int8_t)in_units(from[j] + m * block->t[i], d * block->s[i], 0, last);
	}
}

/* ---- a scale alone: x is about scale * level ------------------------------------------------------------------ */

/* Levels ascend, the first one is the largest in magnitude. */
struct levels { const int8_t *values; int count; };

static const int8_t eight_values[] = { -4, -3, -2, -1, 0, 1, 2, 3 };
static const struct levels eight = { eight_values, 8 }, iq4 = { kern_iq4_values, 16 };

/* The number of the level nearest to x; NaN has the first. */
static int nearest(struct levels levels, float x)
{
	int rank = 0;

	for (int i = 1; i < levels.count; i++)
		rank += 2.0f * x > (float)(levels.values[i - 1] + levels.values[i]);
	return rank;
}

/* Least squares, weighted by x^2, of the levels that an inverse scale gives: their scale, and how much of x it explains. */
static double fit_levels(const float *x, uint32_t count, struct levels levels, float inverse, float *scale)
{
	double xq = 0.0, qq = 0.0;

	for (uint32_t i = 0; i < count; i++) {
		const double weight = (double)x[i] * (double)x[i], q = levels.values[nearest(levels, inverse * x[i])];

		xq += weight * (double)x[i] * q;
		qq += weight * q * q;
	}
	*scale = qq > 0.0 ? (float)(xq / qq) : 0.0f;
	return qq > 0.0 ? xq * xq / qq : 0.0;
}

/* The best of scales that put the largest element near the first level, or near the last one. */
static float best_scale(const float *x, uint32_t count, struct levels levels)
{
	const float largest = kern_signed_max(x, count), first = levels.values[0], last = levels.values[levels.count - 1];
	float best = 0.0f, scale;
	double most = 0.0;

	if (!(fabsf(largest) > KERN_SCALE_LEAST))
		return 0.0f;
	for (int step = -5; step <= 5; step++) {
		for (int end = 0; end < 2; end++) {
			const float inverse = (end ? last : first) * (1.0f + 0.04f * (float)step) / largest;
			const double explained = fit_levels(x, count, levels, inverse, &scale);

			if (explained > most) {
				most = explained;
				best = scale;
			}
		}
	}
	return best;
}

/* Q3_K, IQ4_XS: scales -32 .. 31, the largest in magnitude being -32. Leaves the numbers of levels in q. */
static void encode_levels(const float *from, uint32_t unit, struct levels levels, struct kern_block *block)
{
	const uint32_t units = KERN_SUPER_ELEMENTS / unit;
	float scales[UNITS_MAX], d;

	for (uint32_t i = 0; i < units; i++)
		scales[i] = best_scale(from + i * unit, unit, levels);
	block->d = kern_f32_to_f16(kern_signed_max(scales, units) / -32.0f);
	d = kern_f16_to_f32(block->d);
	for (uint32_t i = 0; i < units; i++) {
		float step;

		block->s[i] = (int8_t)in_units(scales[i], d, -32, 31);
		step = d * block->s[i];
		for (uint32_t j = i * unit; j < (i + 1) * unit; j++)
			block->q[j] = (int8_t)nearest(levels, step != 0.0f ? from[j] / step : 0.0f);
	}
}

/* ---- layouts -------------------------------------------------------------------------------------------------- */

static void write_q2_k(const struct kern_block *block, unsigned char *to)
{
	memset(to, 0, 80);
	for (int i = 0; i < 16; i++)
		to[i] = (unsigned char)(block->s[i] | block->t[i] << 4);
	for (int i = 0; i < 256; i++)
		to[16 + i / 128 * 32 + i % 32] |= (unsigned char)(block->q[i] << (2 * (i / 32 % 4)));
	kern_write_u16(to + 80, block->d);
	kern_write_u16(to + 82, block->m);
}

static void write_q3_k(const struct kern_block *block, unsigned char *to)
{
	unsigned char *third = to, *codes = to + 32, *scales = to + 96;

	memset(to, 0, 108);
	for (int i = 0; i < 256; i++) {
		third[i % 32] |= (unsigned char)((block->q[i] >> 2) << (i / 32));
		codes[i / 128 * 32 + i % 32] |= (unsigned char)((block->q[i] & 3) << (2 * (i / 32 % 4)));
	}
	for (int i = 0; i < 16; i++) {
		const int scale = block->s[i] + 32;

		scales[i % 8] |= (unsigned char)((scale & NIBBLE) << (i < 8 ? 0 : 4));
		scales[8 + i % 4] |= (unsigned char)((scale >> 4) << (2 * (i / 4)));
	}
	kern_write_u16(to + 108, block->d);
}

/* Of Q4_K and Q5_K: eight scales and eight minimums of 6 bits. */
static void write_scales_k4(const struct kern_block *block, unsigned char *to)
{
	for (int i = 0; i < 4; i++) {
		const int scale = block->s[i + 4], minimum = block->t[i + 4];

		to[i] = (unsigned char)(block->s[i] | (scale >> 4) << 6);
		to[i + 4] = (unsigned char)(block->t[i] | (minimum >> 4) << 6);
		to[i + 8] = (unsigned char)((scale & NIBBLE) | (minimum & NIBBLE) << 4);
	}
}

/* `fifth`: where the fifth bits go; NULL: there are none. */
static void write_k4(const struct kern_block *block, unsigned char *to, unsigned char *fifth, unsigned char *low)
{
	kern_write_u16(to, block->d);
	kern_write_u16(to + 2, block->m);
	write_scales_k4(block, to + 4);
	if (fifth != NULL)
		memset(fifth, 0, 32);
	for (int pair = 0; pair < 4; pair++)
		for (int i = 0; i < 32; i++) {
			const int a = block->q[64 * pair + i], b = block->q[64 * pair + 32 + i];

			low[32 * pair + i] = (unsigned char)((a & NIBBLE) | (b & NIBBLE) << 4);
			if (fifth != NULL)
				fifth[i] |= (unsigned char)((a >> 4) << (2 * pair) | (b >> 4) << (2 * pair + 1));
		}
}

static void write_iq4_codes(const int8_t *ranks, unsigned char *to)
{
	for (int i = 0; i < 16; i++)
		to[i] = (unsigned char)(ranks[i] | ranks[i + 16] << 4);
}

static void write_iq4_xs(const struct kern_block *block, unsigned char *to)
{
	uint32_t high = 0;

	memset(to, 0, 8);
	for (int i = 0; i < 8; i++) {
		const uint32_t scale = (uint32_t)(block->s[i] + 32);

		to[4 + i / 2] |= (unsigned char)((scale & NIBBLE) << (4 * (i % 2)));
		high |= (scale >> 4) << (2 * i);
		write_iq4_codes(block->q + 32 * i, to + 8 + 16 * i);
	}
	kern_write_u16(to, block->d);
	kern_write_u16(to + 2, (uint16_t)high);
}

static void quantize_iq4_nl(const float *from, unsigned char *to)
{
	const uint16_t half = kern_f32_to_f16(best_scale(from, 32, iq4));
	const float d = kern_f16_to_f32(half);
	int8_t ranks[32];

	for (int i = 0; i < 32; i++)
		ranks[i] = (int8_t)nearest(iq4, d != 0.0f ? from[i] / d : 0.0f);
	kern_write_u16(to, half);
	write_iq4_codes(ranks, to + 2);
}

void kern_quantize_super(enum kern_type type, const float *from, unsigned char *to)
{
	struct kern_block block;

	switch (type) {
	case KERN_Q2_K:
		encode_lines(from, 16, 3, 15, &block);
		write_q2_k(&block, to);
		break;
	case KERN_Q3_K:
		encode_levels(from, 16, eight, &block);
		write_q3_k(&block, to);
		break;
	case KERN_Q4_K:
		encode_lines(from, 32, 15, 63, &block);
		write_k4(&block, to, NULL, to + 16);
		break;
	case KERN_Q5_K:
		encode_lines(from, 32, 31, 63, &block);
		write_k4(&block, to, to + 16, to + 48);
		break;
	case KERN_IQ4_XS:
		encode_levels(from, 32, iq4, &block);
		write_iq4_xs(&block, to);
		break;
	case KERN_IQ4_NL:
		quantize_iq4_nl(from, to);
		break;
	default:
		break;
	}
}
