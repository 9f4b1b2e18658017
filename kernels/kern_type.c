/*
 * The table of element formats, sizes of rows, and the conversions between float32 and the 16-bit floats. Any thread;
 * plain code without side effects.
 */
#include "kernels/kern_type.h"

#include <string.h>
#include <strings.h>

#include "kernels/kern_block.h"

struct type_entry {
	struct kern_type_info info;
	enum kern_scaling scaling;
	uint32_t scale_elements;
};

static const struct type_entry types[KERN_TYPE_END] = {
	[KERN_F32] = {{"F32", 1, 4, true, true}, KERN_SCALING_NONE, 0},
	[KERN_F16] = {{"F16", 1, 2, true, true}, KERN_SCALING_NONE, 0},
	[KERN_BF16] = {{"BF16", 1, 2, true, true}, KERN_SCALING_NONE, 0},
	[KERN_Q4_0] = {{"Q4_0", 32, 18, true, true}, KERN_SCALING_D, 32},
	[KERN_Q4_1] = {{"Q4_1", 32, 20, true, true}, KERN_SCALING_DM, 32},
	[KERN_Q5_0] = {{"Q5_0", 32, 22, true, true}, KERN_SCALING_D, 32},
	[KERN_Q5_1] = {{"Q5_1", 32, 24, true, true}, KERN_SCALING_DM, 32},
	[KERN_Q8_0] = {{"Q8_0", 32, 34, true, true}, KERN_SCALING_D, 32},
	[KERN_IQ4_NL] = {{"IQ4_NL", 32, 18, true, true}, KERN_SCALING_D, 32},
	[KERN_Q2_K] = {{"Q2_K", 256, 84, true, true}, KERN_SCALING_SUPER_DM, 16},
	[KERN_Q3_K] = {{"Q3_K", 256, 110, true, true}, KERN_SCALING_SUPER, 16},
	[KERN_Q4_K] = {{"Q4_K", 256, 144, true, true}, KERN_SCALING_SUPER_DM, 32},
	[KERN_Q5_K] = {{"Q5_K", 256, 176, true, true}, KERN_SCALING_SUPER_DM, 32},
	[KERN_Q6_K] = {{"Q6_K", 256, 210, true, true}, KERN_SCALING_SUPER, 16},
	[KERN_IQ4_XS] = {{"IQ4_XS", 256, 136, true, true}, KERN_SCALING_SUPER, 32},
};

const struct kern_type_info *kern_type_info(uint32_t type)
{
	if (type >= KERN_TYPE_END || !types[type].info.name)
		return NULL;
	return &types[type].info;
}

enum kern_type kern_type_by_name(const char *name)
{
	for (uint32_t type = 0; type < KERN_TYPE_END; type++)
		if (types[type].info.name && strcasecmp(types[type].info.name, name) == 0)
			return (enum kern_type)type;
	return KERN_TYPE_END;
}

size_t kern_row_bytes(enum kern_type type, uint64_t elements)
{
	const struct kern_type_info *info = kern_type_info(type);
	size_t bytes;

	if (!info || elements % info->block_elements != 0)
		return 0;
	if (__builtin_mul_overflow(elements / info->block_elements, info->block_bytes, &bytes))
		return 0;
	return bytes;
}

enum kern_scaling kern_type_scaling(enum kern_type type)
{
	return (uint32_t)type < KERN_TYPE_END ? types[type].scaling : KERN_SCALING_NONE;
}

uint32_t kern_type_scale_elements(enum kern_type type)
{
	return (uint32_t)type < KERN_TYPE_END ? types[type].scale_elements : 0;
}

static float float_of_bits(uint32_t bits)
{
	float value;

	memcpy(&value, &bits, sizeof(value));
	return value;
}

static uint32_t bits_of_float(float value)
{
	uint32_t bits;

	memcpy(&bits, &value, sizeof(bits));
	return bits;
}

float kern_f16_to_f32(uint16_t half)
{
	uint32_t sign = (uint32_t)(half & 0x8000) << 16;
	uint32_t exponent = (half >> 10) & 0x1f;
	uint32_t mantissa = half & 0x3ff;

	if (exponent == 0) {
		/* Zero or subnormal: mantissa * 2^-24 is exact in float32. */
		float magnitude = (float)mantissa * 0x1p-24f;

		return sign ? -magnitude : magnitude;
	}
	if (exponent == 0x1f)
		return float_of_bits(sign | 0x7f800000 | mantissa << 13 | (mantissa ? 0x400000 : 0));
	return float_of_bits(sign | (exponent + 112) << 23 | mantissa << 13);
}

uint16_t kern_f32_to_f16(float value)
{
	uint32_t bits = bits_of_float(value);
	uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
	uint32_t magnitude = bits & 0x7fffffff;
	uint32_t rest, half;

	if (magnitude > 0x7f800000)
		return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x1ff));
	if (magnitude >= 0x477ff000) /* 65520 and more round to infinity */
		return sign | 0x7c00;
	if (magnitude < 0x38800000) {
		/* Below 2^-14: a multiple of 2^-24. Adding 0.5 puts it into the last bits, rounded by the FPU. */
		return (uint16_t)(sign | (bits_of_float(float_of_bits(magnitude) + 0.5f) - 0x3f000000));
	}
	half = (magnitude >> 13) - (112 << 10);
	rest = magnitude & 0x1fff;
	half += rest > 0x1000 || (rest == 0x1000 && (half & 1));
	return (uint16_t)(sign | half);
}

float kern_bf16_to_f32(uint16_t brain)
{
	return float_of_bits((uint32_t)brain << 16);
}

uint16_t kern_f32_to_bf16(float value)
{
	uint32_t bits = bits_of_float(value);

	if ((bits & 0x7fffffff) > 0x7f800000)
		return (uint16_t)(bits >> 16 | 0x40);
	return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
