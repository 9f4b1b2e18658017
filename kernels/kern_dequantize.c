/*
 * The definition of the formats: blocks taken apart into codes and scales, and rows turned into float32. The layouts
 * are GGUF's (ggml's block structures). Any thread; any bit pattern is safe.
 */
#include <errno.h>
#include <string.h>

#include "kernels/kern_block.h"

static uint16_t read_u16(const unsigned char *from)
{
	return (uint16_t)(from[0] | from[1] << 8);
}

static uint32_t read_u32(const unsigned char *from)
{
	return read_u16(from) | (uint32_t)read_u16(from + 2) << 16;
}

/* 16 bytes: low nibbles are elements 0..15, high nibbles 16..31. */
static void decode_nibbles(const unsigned char *from, int offset, int8_t *q)
{
	for (int i = 0; i < 16; i++) {
		q[i] = (int8_t)((from[i] & 15) - offset);
		q[i + 16] = (int8_t)((from[i] >> 4) - offset);
	}
}

/* As above, and a fifth bit for each element in a 32-bit word. */
static void decode_five_bits(const unsigned char *from, uint32_t high, int offset, int8_t *q)
{
	decode_nibbles(from, 0, q);
	for (int i = 0; i < 32; i++)
		q[i] = (int8_t)((q[i] | (int)(high >> i & 1) << 4) - offset);
}

/* Q4_K and Q5_K: eight 6-bit scales and eight 6-bit minimums in 12 bytes. */
static void decode_scales_k4(const unsigned char *from, int8_t *s, uint8_t *t)
{
	for (int i = 0; i < 4; i++) {
		s[i] = (int8_t)(from[i] & 63);
		t[i] = from[i + 4] & 63;
		s[i + 4] = (int8_t)((from[i + 8] & 15) | (from[i] >> 6) << 4);
		t[i + 4] = (uint8_t)((from[i + 8] >> 4) | (from[i + 4] >> 6) << 4);
	}
}

static void decode_q4_k(const unsigned char *from, struct kern_block *block)
{
	block->d = read_u16(from);
	block->m = read_u16(from + 2);
	decode_scales_k4(from + 4, block->s, block->t);
	for (int pair = 0; pair < 4; pair++)
		for (int i = 0; i < 32; i++) {
			unsigned char byte = from[16 + 32 * pair + i];

			block->q[64 * pair + i] = byte & 15;
			block->q[64 * pair + 32 + i] = (int8_t)(byte >> 4);
		}
}

static void decode_q5_k(const unsigned char *from, struct kern_block *block)
{
	const unsigned char *high = from + 16, *low = from + 48;

	block->d = read_u16(from);
	block->m = read_u16(from + 2);
	decode_scales_k4(from + 4, block->s, block->t);
	for (int pair = 0; pair < 4; pair++)
		for (int i = 0; i < 32; i++) {
			int byte = low[32 * pair + i];

			block->q[64 * pair + i] = (int8_t)((byte & 15) | (high[i] >> (2 * pair) & 1) << 4);
			block->q[64 * pair + 32 + i] = (int8_t)(byte >> 4 | (high[i] >> (2 * pair + 1) & 1) << 4);
		}
}

static void decode_q6_k(const unsigned char *from, struct kern_block *block)
{
	for (int half = 0; half < 2; half++) {
		const unsigned char *low = from + 64 * half, *high = from + 128 + 32 * half;
		int8_t *q = block->q + 128 * half;

		for (int i = 0; i < 32; i++) {
			q[i] = (int8_t)(((low[i] & 15) | (high[i] & 3) << 4) - 32);
			q[i + 32] = (int8_t)(((low[i + 32] & 15) | (high[i] >> 2 & 3) << 4) - 32);
			q[i + 64] = (int8_t)((low[i] >> 4 | (high[i] >> 4 & 3) << 4) - 32);
			q[i + 96] = (int8_t)((low[i + 32] >> 4 | (high[i] >> 6) << 4) - 32);
		}
	}
	memcpy(block->s, from + 192, 16);
	block->d = read_u16(from + 208);
}

/* Sixteen scales and minimums of four bits, then codes of two bits: byte i of a half holds elements i, i+32, i+64, i+96. */
static void decode_q2_k(const unsigned char *from, struct kern_block *block)
{
	for (int i = 0; i < 16; i++) {
		block->s[i] = from[i] & 15;
		block->t[i] = from[i] >> 4;
	}
	for (int i = 0; i < 256; i++)
		block->q[i] = from[16 + i / 128 * 32 + i % 32] >> (2 * (i / 32 % 4)) & 3;
	block->d = read_u16(from + 80);
	block->m = read_u16(from + 82);
}

/* Codes of two bits as above behind a third bit that says "do not subtract 4": bit j of byte i is element 32 j + i. Scales of
 * six bits in 12 bytes: low nibbles in the first eight, two high bits in the last four. */
static void decode_q3_k(const unsigned char *from, struct kern_block *block)
{
	const unsigned char *third = from, *codes = from + 32, *scales = from + 96;

	for (int i = 0; i < 256; i++) {
		const int low = codes[i / 128 * 32 + i % 32] >> (2 * (i / 32 % 4)) & 3;

		block->q[i] = (int8_t)(low - (third[i % 32] >> (i / 32) & 1 ? 0 : 4));
	}
	for (int i = 0; i < 16; i++) {
		const int low = i < 8 ? scales[i] & 15 : scales[i - 8] >> 4;

		block->s[i] = (int8_t)((low | (scales[8 + i % 4] >> (2 * (i / 4)) & 3) << 4) - 32);
	}
	block->d = read_u16(from + 108);
}

const int8_t kern_iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

static void decode_iq4(const unsigned char *from, int8_t *q)
{
	for (int i = 0; i < 16; i++) {
		q[i] = kern_iq4_values[from[i] & 15];
		q[i + 16] = kern_iq4_values[from[i] >> 4];
	}
}

/* Eight scales of six bits: low nibbles in four bytes, two high bits in a word. */
static void decode_iq4_xs(const unsigned char *from, struct kern_block *block)
{
	const uint32_t high = read_u16(from + 2);

	block->d = read_u16(from);
	for (int i = 0; i < 8; i++) {
		const uint32_t low = from[4 + i / 2] >> (4 * (i % 2)) & 15;

		block->s[i] = (int8_t)((int)(low | (high >> (2 * i) & 3) << 4) - 32);
		decode_iq4(from + 8 + 16 * i, block->q + 32 * i);
	}
}

void kern_block_decode(enum kern_type type, const unsigned char *from, struct kern_block *block)
{
	switch (type) {
	case KERN_Q4_0:
		block->d = read_u16(from);
		decode_nibbles(from + 2, 8, block->q);
		break;
	case KERN_Q4_1:
		block->d = read_u16(from);
		block->m = read_u16(from + 2);
		decode_nibbles(from + 4, 0, block->q);
		break;
	case KERN_Q5_0:
		block->d = read_u16(from);
		decode_five_bits(from + 6, read_u32(from + 2), 16, block->q);
		break;
	case KERN_Q5_1:
		block->d = read_u16(from);
		block->m = read_u16(from + 2);
		decode_five_bits(from + 8, read_u32(from + 4), 0, block->q);
		break;
	case KERN_Q8_0:
		block->d = read_u16(from);
		memcpy(block->q, from + 2, 32);
		break;
	case KERN_IQ4_NL:
		block->d = read_u16(from);
		decode_iq4(from + 2, block->q);
		break;
	case KERN_IQ4_XS:
		decode_iq4_xs(from, block);
		break;
	case KERN_Q2_K:
		decode_q2_k(from, block);
		break;
	case KERN_Q3_K:
		decode_q3_k(from, block);
		break;
	case KERN_Q4_K:
		decode_q4_k(from, block);
		break;
	case KERN_Q5_K:
		decode_q5_k(from, block);
		break;
	case KERN_Q6_K:
		decode_q6_k(from, block);
		break;
	default:
		memset(block, 0, sizeof(*block));
	}
}

static void block_values(enum kern_type type, const struct kern_block *block, size_t elements, float *to)
{
	const enum kern_scaling scaling = kern_type_scaling(type);
	const size_t unit = kern_type_scale_elements(type);
	float d = kern_f16_to_f32(block->d);
	float m = scaling == KERN_SCALING_D || scaling == KERN_SCALING_SUPER ? 0.0f : kern_f16_to_f32(block->m);

	switch (scaling) {
	case KERN_SCALING_D:
		for (size_t i = 0; i < elements; i++)
			to[i] = d * block->q[i];
		break;
	case KERN_SCALING_DM:
		for (size_t i = 0; i < elements; i++)
			to[i] = d * block->q[i] + m;
		break;
	case KERN_SCALING_SUPER:
		for (size_t i = 0; i < elements; i++)
			to[i] = (d * block->s[i / unit]) * block->q[i];
		break;
	case KERN_SCALING_SUPER_DM:
		for (size_t i = 0; i < elements; i++)
			to[i] = (d * block->s[i / unit]) * block->q[i] - m * block->t[i / unit];
		break;
	case KERN_SCALING_NONE:
		break;
	}
}

int kern_dequantize_row(enum kern_type type, const void *from, float *to, size_t elements)
{
	const struct kern_type_info *info = kern_type_info(type);
	enum kern_scaling scaling = kern_type_scaling(type);
	const unsigned char *bytes = from;
	struct kern_block block;

	if (!info || !info->products)
		return -ENOTSUP;
	if (elements % info->block_elements != 0)
		return -EINVAL;
	if (type == KERN_F32) {
		memcpy(to, from, elements * sizeof(float));
		return 0;
	}
	if (scaling == KERN_SCALING_NONE) {
		for (size_t i = 0; i < elements; i++) {
			uint16_t word = read_u16(bytes + 2 * i);

			to[i] = type == KERN_F16 ? kern_f16_to_f32(word) : kern_bf16_to_f32(word);
		}
		return 0;
	}
	for (size_t i = 0; i < elements; i += info->block_elements, bytes += info->block_bytes) {
		kern_block_decode(type, bytes, &block);
		block_values(type, &block, info->block_elements, to + i);
	}
	return 0;
}
