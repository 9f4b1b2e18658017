/*
 * Element formats: sizes, the 16-bit floats exhaustively, dequantized values and quantized bytes against hashes made with
 * another implementation (the `gguf` Python package, numpy), the error of each quantizer, and inputs that are not numbers.
 */
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/kern_type.h"
#include "tests/kernels/attention_rig.h"

enum { ELEMENTS = 512 };

static uint64_t fnv1a(const void *memory, size_t bytes)
{
	const unsigned char *at = memory;
	uint64_t hash = 0xcbf29ce484222325u;

	for (size_t i = 0; i < bytes; i++)
		hash = (hash ^ at[i]) * 0x100000001b3u;
	return hash;
}

static void sizes(void **state)
{
	(void)state;
	assert_int_equal(kern_row_bytes(KERN_F32, 7), 28);
	assert_int_equal(kern_row_bytes(KERN_BF16, 7), 14);
	assert_int_equal(kern_row_bytes(KERN_Q4_0, 64), 36);
	assert_int_equal(kern_row_bytes(KERN_Q4_1, 64), 40);
	assert_int_equal(kern_row_bytes(KERN_Q8_0, 64), 68);
	assert_int_equal(kern_row_bytes(KERN_Q6_K, 512), 420);
	assert_int_equal(kern_row_bytes(KERN_Q4_0, 33), 0);
	assert_int_equal(kern_row_bytes(KERN_F32, UINT64_MAX), 0);
	assert_int_equal(kern_row_bytes(KERN_TYPE_END, 32), 0);
	assert_int_equal(kern_row_bytes((enum kern_type)4, 32), 0);
	assert_null(kern_type_info(0xffffffffu));
	assert_int_equal(kern_type_by_name("q4_1"), KERN_Q4_1);
	assert_int_equal(kern_type_by_name("Q6_K"), KERN_Q6_K);
	assert_int_equal(kern_type_by_name("Q9"), KERN_TYPE_END);
}

/* Every half and every bfloat16 survives the way through float32, and what lies between two goes to the nearer one. */
static void sixteen_bits(void **state)
{
	(void)state;
	for (uint32_t bits = 0; bits < 0x10000; bits++) {
		const float half = kern_f16_to_f32((uint16_t)bits), brain = kern_bf16_to_f32((uint16_t)bits);

		if (isnan(half))
			assert_true(isnan(kern_f16_to_f32(kern_f32_to_f16(half))));
		else
			assert_int_equal(kern_f32_to_f16(half), bits);
		if (isnan(brain))
			assert_true(isnan(kern_bf16_to_f32(kern_f32_to_bf16(brain))));
		else
			assert_int_equal(kern_f32_to_bf16(brain), bits);
	}
	for (uint32_t bits = 0; bits < 0x7bff; bits++) {
		const float low = kern_f16_to_f32((uint16_t)bits), high = kern_f16_to_f32((uint16_t)(bits + 1));
		const float middle = (float)(((double)low + high) / 2);

		assert_int_equal(kern_f32_to_f16(middle), bits + (bits & 1));
		assert_int_equal(kern_f32_to_f16(nextafterf(middle, 0.0f)), bits);
		assert_int_equal(kern_f32_to_f16(nextafterf(middle, 1e9f)), bits + 1);
		assert_int_equal(kern_f32_to_f16(-nextafterf(middle, 1e9f)), (bits + 1) | 0x8000);
	}
	assert_int_equal(kern_f32_to_f16(65519.0f), 0x7bff);
	assert_int_equal(kern_f32_to_f16(65520.0f), 0x7c00);
	assert_int_equal(kern_f32_to_f16(INFINITY), 0x7c00);
	assert_int_equal(kern_f32_to_bf16(-INFINITY), 0xff80);
	assert_true(kern_f16_to_f32(0x3c00) == 1.0f && kern_f16_to_f32(0xc000) == -2.0f);
	assert_true(kern_f16_to_f32(1) == 0x1p-24f && kern_bf16_to_f32(0x3f80) == 1.0f);
}

/* Made with gguf 0.19 (gguf.quants.dequantize and quantize); 0: it has no such quantizer. */
static const struct golden {
	enum kern_type type;
	uint64_t dequantized, quantized;
} goldens[] = {
	{KERN_Q4_0, 0x67f4d05251a3239e, 0x3c27062562183cca},
	{KERN_Q4_1, 0xad4af9ea05d3e8cf, 0x4eb0b503ba1753de},
	{KERN_Q5_0, 0x0b4a211fc04ae97e, 0x99a80023e8321821},
	{KERN_Q5_1, 0xf18f2329d8c1566d, 0x72df3fcfdade674e},
	{KERN_Q8_0, 0x901dfc7340fa86b4, 0xef77a3e93947d9de},
	{KERN_Q4_K, 0xd96a9b02819c8c99, 0},
	{KERN_Q5_K, 0xfb372e4a5a31ca42, 0},
	{KERN_Q6_K, 0x8b6f7c1f6feff925, 0},
	{KERN_IQ4_NL, 0x116948e8d360bcc0, 0},
	{KERN_IQ4_XS, 0x519af98bc81001a2, 0},
	{KERN_Q2_K, 0x710b7aa0d5238998, 0},
	{KERN_Q3_K, 0x8e98a7e2d3bdb365, 0},
};

/* Bytes without a pattern that a wrong layout would keep, and 1/32 for the half-precision scales. */
static void fill_blocks(enum kern_type type, unsigned char *to)
{
	const struct kern_type_info *info = kern_type_info(type);
	const size_t bytes = kern_row_bytes(type, ELEMENTS);
	const bool two = type == KERN_Q4_1 || type == KERN_Q5_1 || type == KERN_Q2_K ||
		type == KERN_Q4_K || type == KERN_Q5_K;

	for (size_t i = 0; i < bytes; i++)
		to[i] = (unsigned char)(i * 197 + (i >> 3) * 31 + 11);
	for (size_t at = 0; at < bytes; at += info->block_bytes) {
		unsigned char *scale = to + at + (type == KERN_Q6_K ? 208 : type == KERN_Q3_K ? 108 : type == KERN_Q2_K ? 80 : 0);

		scale[0] = 0x00;
		scale[1] = 0x28;
		if (two)
			memcpy(scale + 2, scale, 2);
	}
}

static void dequantized_values(void **state)
{
	unsigned char blocks[ELEMENTS * 4];
	float values[ELEMENTS];

	(void)state;
	for (size_t i = 0; i < sizeof(goldens) / sizeof(goldens[0]); i++) {
		fill_blocks(goldens[i].type, blocks);
		assert_int_equal(kern_dequantize_row(goldens[i].type, blocks, values, ELEMENTS), 0);
		assert_int_equal(fnv1a(values, sizeof(values)), goldens[i].dequantized);
	}
	assert_int_equal(kern_dequantize_row((enum kern_type)9, blocks, values, 256), -ENOTSUP);
	assert_int_equal(kern_dequantize_row(KERN_Q4_0, blocks, values, 31), -EINVAL);
}

static void quantized_bytes(void **state)
{
	unsigned char blocks[ELEMENTS * 4];
	float values[ELEMENTS];

	(void)state;
	for (uint32_t i = 0; i < ELEMENTS; i++)
		values[i] = (float)((int32_t)(i * 2654435761u >> 8 & 0xffff) - 32768) / 1024.0f;
	for (size_t i = 0; i < sizeof(goldens) / sizeof(goldens[0]); i++) {
		if (goldens[i].quantized == 0)
			continue;
		assert_int_equal(kern_quantize_row(goldens[i].type, values, blocks, ELEMENTS), 0);
		assert_int_equal(fnv1a(blocks, kern_row_bytes(goldens[i].type, ELEMENTS)), goldens[i].quantized);
	}
	assert_int_equal(kern_quantize_row((enum kern_type)9, values, blocks, 256), -ENOTSUP);
}

/* Relative RMS error on normal values; a few percent above what each format reaches. */
static void quantization_error(void **state)
{
	static const struct { enum kern_type type; double limit; } limits[] = {
		{KERN_F32, 0.0}, {KERN_F16, 2.5e-4}, {KERN_BF16, 2e-3}, {KERN_Q8_0, 6e-3}, {KERN_Q6_K, 2e-2},
		{KERN_Q5_1, 4e-2}, {KERN_Q5_0, 4.5e-2}, {KERN_Q4_1, 8e-2}, {KERN_Q4_0, 9.5e-2},
		{KERN_Q5_K, 3.7e-2}, {KERN_Q4_K, 7.4e-2}, {KERN_IQ4_NL, 7.9e-2}, {KERN_IQ4_XS, 8e-2}, {KERN_Q3_K, 1.6e-1}, {KERN_Q2_K, 2.9e-1},
	};
	enum { COUNT = 1 << 15 };
	float *from = new_normal(COUNT, 5), *to = new_zeroed(COUNT * sizeof(float));
	unsigned char *blocks = new_zeroed(COUNT * 4);

	(void)state;
	for (size_t t = 0; t < sizeof(limits) / sizeof(limits[0]); t++) {
		double error = 0.0, power = 0.0;

		assert_int_equal(kern_quantize_row(limits[t].type, from, blocks, COUNT), 0);
		assert_int_equal(kern_dequantize_row(limits[t].type, blocks, to, COUNT), 0);
		for (int i = 0; i < COUNT; i++) {
			error += ((double)to[i] - from[i]) * ((double)to[i] - from[i]);
			power += (double)from[i] * from[i];
		}
		if (!(sqrt(error / power) <= limits[t].limit))
			fail_msg("%s: %.3g", kern_type_info(limits[t].type)->name, sqrt(error / power));
	}
	free(blocks);
	free(to);
	free(from);
}

/* Zeros stay zeros, and what is not a number makes no code leave its range. Sanitizer builds look at the rest. */
static void odd_values(void **state)
{
	static const float odd[] = {NAN, INFINITY, -INFINITY, 3e38f, -3e38f, 1e-40f, -0.0f, 1.0f};
	unsigned char blocks[ELEMENTS * 4];
	float values[ELEMENTS];

	(void)state;
	for (uint32_t type = 0; type < KERN_TYPE_END; type++) {
		const struct kern_type_info *info = kern_type_info(type);

		if (!info || !info->quantize)
			continue;
		memset(values, 0, sizeof(values));
		assert_int_equal(kern_quantize_row((enum kern_type)type, values, blocks, ELEMENTS), 0);
		assert_int_equal(kern_dequantize_row((enum kern_type)type, blocks, values, ELEMENTS), 0);
		for (int i = 0; i < ELEMENTS; i++)
			assert_true(values[i] == 0.0f);
		for (size_t i = 0; i < ELEMENTS; i++)
			values[i] = odd[(i * 7 + i / 32) % 8];
		assert_int_equal(kern_quantize_row((enum kern_type)type, values, blocks, ELEMENTS), 0);
		assert_int_equal(kern_dequantize_row((enum kern_type)type, blocks, values, ELEMENTS), 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes),
		cmocka_unit_test(sixteen_bits),
		cmocka_unit_test(dequantized_values),
		cmocka_unit_test(quantized_bytes),
		cmocka_unit_test(quantization_error),
		cmocka_unit_test(odd_values),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
