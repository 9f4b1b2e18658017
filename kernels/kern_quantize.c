/*
 * Rows of float32 into the formats of weights, as ggml's reference quantizers do it: round to nearest, the scale from the
 * element of the largest magnitude with its sign (so that the most negative code is used), minimum and range for the
 * formats with an offset, and a small search for the best scale in Q6_K. kern_quantize_super.c has the other super-blocks. Any
 * thread; cold.
 */
#include <errno.h>
#include <math.h>
#include <string.h>

#include "kernels/kern_block.h"
#include "kernels/kern_quantize.h"

void kern_write_u16(unsigned char *to, uint16_t value)
{
	to[0] = (unsigned char)value;
	to[1] = (unsigned char)(value >> 8);
}

/* Towards zero, clamped; NaN becomes low. */
static int code(float value, int low, int high)
{
	if (!(value > (float)low))
		return low;
	return value < (float)high ? (int)value : high;
}

int kern_code_nearest(float value, int low, int high)
{
	return code(rintf(value), low, high);
}

float kern_signed_max(const float *from, size_t count)
{
	float magnitude = 0.0f, value = 0.0f;

	for (size_t i = 0; i < count; i++)
		if (fabsf(from[i]) > magnitude) {
			magnitude = fabsf(from[i]);
			value = from[i];
		}
	return value;
}

static void range(const float *from, size_t count, float *low, float *high)
{
	*low = *high = from[0];
	for (size_t i = 1; i < count; i++) {
		*low = from[i] < *low ? from[i] : *low;
		*high = from[i] > *high ? from[i] : *high;
	}
}

static void write_nibbles(unsigned char *to, const int *codes)
{
	for (int i = 0; i < 16; i++)
		to[i] = (unsigned char)((codes[i] & 15) | (codes[i + 16] & 15) << 4);
}

static void write_fifth_bits(unsigned char *to, const int *codes)
{
	memset(to, 0, 4);
	for (int i = 0; i < 32; i++)
		to[i / 8] = (unsigned char)(to[i / 8] | (codes[i] >> 4 & 1) << (i % 8));
}

/* Q4_0 and Q5_0: codes 0..2*half-1 around half. */
static void codes_symmetric(const float *from, int half, unsigned char *scale, int *codes)
{
	float d = kern_signed_max(from, 32) / (float)-half;
	float inverse = d != 0.0f ? 1.0f / d : 0.0f;

	kern_write_u16(scale, kern_f32_to_f16(d));
	for (int i = 0; i < 32; i++)
		codes[i] = code(from[i] * inverse + ((float)half + 0.5f), 0, 2 * half - 1);
}

/* Q4_1 and Q5_1: codes 0..last from the minimum up; scale and minimum are written side by side. */
static void codes_offset(const float *from, int last, unsigned char *scale, int *codes)
{
	float low, high, d, inverse;

	range(from, 32, &low, &high);
	d = (high - low) / (float)last;
	inverse = d != 0.0f ? 1.0f / d : 0.0f;
	kern_write_u16(scale, kern_f32_to_f16(d));
	kern_write_u16(scale + 2, kern_f32_to_f16(low));
	for (int i = 0; i < 32; i++)
		codes[i] = code((from[i] - low) * inverse + 0.5f, 0, last);
}

static void quantize_q8_0(const float *from, unsigned char *to)
{
	float d = fabsf(kern_signed_max(from, 32)) / 127.0f;
	float inverse = d != 0.0f ? 1.0f / d : 0.0f;

	kern_write_u16(to, kern_f32_to_f16(d));
	for (int i = 0; i < 32; i++)
		to[2 + i] = (unsigned char)(int8_t)code(roundf(from[i] * inverse), -127, 127);
}

/* Least squares, weighted by x^2, of x over the codes that inverse_scale gives. */
static void fit(const float *x, float inverse_scale, float *xq, float *qq)
{
	*xq = *qq = 0.0f;
	for (int i = 0; i < 16; i++) {
		float weight = x[i] * x[i];
		float q = (float)kern_code_nearest(inverse_scale * x[i], -32, 31);

		*xq += weight * x[i] * q;
		*qq += weight * q * q;
	}
}

/* The best of 19 scales for 16 elements. */
static float best_scale_q6(const float *x)
{
	float max = kern_signed_max(x, 16), scale, best, xq, qq;

	if (fabsf(max) < KERN_SCALE_LEAST)
		return 0.0f;
	fit(x, -32.0f / max, &xq, &qq);
	scale = qq != 0.0f ? xq / qq : 0.0f;
	best = scale * xq;
	for (int step = -9; step <= 9; step++) {
		if (step == 0)
			continue;
		fit(x, -(32.0f + 0.1f * (float)step) / max, &xq, &qq);
		if (qq > 0.0f && xq * xq > best * qq) {
			scale = xq / qq;
			best = scale * xq;
		}
	}
	return scale;
}

static void write_q6_codes(const uint8_t *codes, unsigned char *low, unsigned char *high)
{
	for (int half = 0; half < 2; half++, codes += 128, low += 64, high += 32)
		for (int i = 0; i < 32; i++) {
			low[i] = (unsigned char)((codes[i] & 15) | (codes[i + 64] & 15) << 4);
			low[i + 32] = (unsigned char)((codes[i + 32] & 15) | (codes[i + 96] & 15) << 4);
			high[i] = (unsigned char)(codes[i] >> 4 | codes[i + 32] >> 4 << 2 |
				codes[i + 64] >> 4 << 4 | codes[i + 96] >> 4 << 6);
		}
}

static void quantize_q6_k(const float *from, unsigned char *to)
{
	float scales[16], largest, inverse, d;
	uint8_t codes[256];

	for (int i = 0; i < 16; i++)
		scales[i] = best_scale_q6(from + 16 * i);
	largest = kern_signed_max(scales, 16);
	if (fabsf(largest) < KERN_SCALE_LEAST) {
		memset(to, 0, 210);
		return;
	}
	inverse = -128.0f / largest;
	kern_write_u16(to + 208, kern_f32_to_f16(1.0f / inverse));
	d = kern_f16_to_f32(kern_f32_to_f16(1.0f / inverse));
	for (int i = 0; i < 16; i++) {
		int scale = kern_code_nearest(inverse * scales[i], -128, 127);
		float step = d * (float)scale;

		to[192 + i] = (unsigned char)(int8_t)scale;
		/* A scale of zero makes the value zero whatever the code; 32 stands for code zero. */
		for (int j = 16 * i; j < 16 * i + 16; j++)
			codes[j] = (uint8_t)(step != 0.0f ? kern_code_nearest(from[j] / step, -32, 31) + 32 : 32);
	}
	write_q6_codes(codes, to, to + 128);
}

static void quantize_block(enum kern_type type, const float *from, unsigned char *to)
{
	int codes[32];

	switch (type) {
	case KERN_Q4_0:
		codes_symmetric(from, 8, to, codes);
		write_nibbles(to + 2, codes);
		break;
	case KERN_Q4_1:
		codes_offset(from, 15, to, codes);
		write_nibbles(to + 4, codes);
		break;
	case KERN_Q5_0:
		codes_symmetric(from, 16, to, codes);
		write_fifth_bits(to + 2, codes);
		write_nibbles(to + 6, codes);
		break;
	case KERN_Q5_1:
		codes_offset(from, 31, to, codes);
		write_fifth_bits(to + 4, codes);
		write_nibbles(to + 8, codes);
		break;
	case KERN_Q8_0:
		quantize_q8_0(from, to);
		break;
	case KERN_Q6_K:
		quantize_q6_k(from, to);
		break;
	default:
		kern_quantize_super(type, from, to);
		break;
	}
}

int kern_quantize_row(enum kern_type type, const float *from, void *to, size_t elements)
{
	const struct kern_type_info *info = kern_type_info(type);
	unsigned char *bytes = to;

	if (!info || !info->quantize)
		return -ENOTSUP;
	if (elements % info->block_elements != 0)
		return -EINVAL;
	if (type == KERN_F32) {
		memcpy(to, from, elements * sizeof(float));
		return 0;
	}
	if (type == KERN_F16 || type == KERN_BF16) {
		for (size_t i = 0; i < elements; i++)
			kern_write_u16(bytes + 2 * i, type == KERN_F16 ? kern_f32_to_f16(from[i]) :
				kern_f32_to_bf16(from[i]));
		return 0;
	}
	for (size_t i = 0; i < elements; i += info->block_elements, bytes += info->block_bytes)
		quantize_block(type, from + i, bytes);
	return 0;
}
