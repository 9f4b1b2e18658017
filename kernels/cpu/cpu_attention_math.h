/*
 * The arithmetic that every instruction set's attention shares: constants of exp2 and tanh, their plain forms, and single
 * elements of the formats. Pure functions, any thread.
 */
#ifndef CPU_ATTENTION_MATH_H
#define CPU_ATTENTION_MATH_H

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

#endif
