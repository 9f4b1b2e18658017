/*
 * int4's levels, and the parts of its rotation: what every instruction set's files of attention share. Pure functions.
 */
#ifndef CPU_ATTENTION_INT4_H
#define CPU_ATTENTION_INT4_H

#include "kernels/cpu/cpu_attention_math.h"

/* K's bytes are levels with INT4_ZERO added; V's are levels as they are. */
enum { INT4_CODES = 16, INT4_ZERO = 64, INT4_HALF = 8 };

#define INT4_LEVELS -56, -42, -33, -26, -19, -13, -8, -3, 3, 8, 13, 19, 26, 33, 42, 56

/* A group's scale shrinks by this before it meets the sum of integers, and the query's grows, so that whatever float32 K
 * would survive this does. */
#define INT4_SHRINK 0x1p-12f
#define INT4_GROW 0x1p12f

/* The first three stages of a Hadamard transform, of runs of 8. */
static inline void row_hadamard8(float *x, uint32_t n)
{
	for (uint32_t i = 0; i < n; i += 8) {
		const float a0 = x[i] + x[i + 1], a1 = x[i] - x[i + 1], a2 = x[i + 2] + x[i + 3], a3 = x[i + 2] - x[i + 3];
		const float a4 = x[i + 4] + x[i + 5], a5 = x[i + 4] - x[i + 5], a6 = x[i + 6] + x[i + 7], a7 = x[i + 6] - x[i + 7];
		const float b0 = a0 + a2, b1 = a1 + a3, b2 = a0 - a2, b3 = a1 - a3;
		const float b4 = a4 + a6, b5 = a5 + a7, b6 = a4 - a6, b7 = a5 - a7;

		x[i] = b0 + b4;
		x[i + 1] = b1 + b5;
		x[i + 2] = b2 + b6;
		x[i + 3] = b3 + b7;
		x[i + 4] = b0 - b4;
		x[i + 5] = b1 - b5;
		x[i + 6] = b2 - b6;
		x[i + 7] = b3 - b7;
	}
}

/* Of runs of as many as the largest power of two that divides n, a multiple of 8. */
static inline void row_hadamard(float *x, uint32_t n, uint32_t run)
{
	row_hadamard8(x, n);
	for (uint32_t half = 8; half < run; half *= 2) {
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

/* Mixes runs: x less twice its mean over the runs. */
static inline void row_reflect(float *x, uint32_t n, uint32_t run)
{
	const float twice = 2.0f * (float)run / (float)n;
	float sum[CPU_ATTENTION_DIM_MAX] = { 0 };

	for (uint32_t first = 0; first < n; first += run) {
		for (uint32_t i = 0; i < run; i++)
			sum[i] += x[first + i];
	}
	for (uint32_t first = 0; first < n; first += run) {
		for (uint32_t i = 0; i < run; i++)
			x[first + i] -= twice * sum[i];
	}
}

#endif
