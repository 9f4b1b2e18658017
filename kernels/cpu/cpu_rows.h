/*
 * Operations on rows of activations: norms, activations, sums. Every function takes one row (add and silu_mul: any
 * run of elements) and reduces in one fixed order, so a row's bits depend on the row alone. One source (cpu_rows.inc) is
 * compiled once per instruction set. Any thread; `to` may be the same row as `from`, and overlap in no other way.
 */
#ifndef CPU_ROWS_H
#define CPU_ROWS_H

#include <stddef.h>

#include "base/base_cpu.h"

struct cpu_rows {
	enum base_isa isa;
	/* to = from / sqrt(mean(from^2) + epsilon) * gain */
	void (*rmsnorm)(float *to, const float *from, const float *gain, size_t width, float epsilon);
	/* to = (from - mean) / sqrt(variance + epsilon) * gain + bias; bias may be NULL */
	void (*layernorm)(float *to, const float *from, const float *gain, const float *bias, size_t width,
		float epsilon);
	/* to = gate / (1 + exp(-gate)) * up */
	void (*silu_mul)(float *to, const float *gate, const float *up, size_t width);
	/* to = from / 2 * (1 + erf(from / sqrt(2))) */
	void (*gelu)(float *to, const float *from, size_t width);
	/* to += from */
	void (*add)(float *to, const float *from, size_t width);
};

extern const struct cpu_rows cpu_rows_scalar;
#if defined(__x86_64__)
extern const struct cpu_rows cpu_rows_avx2, cpu_rows_avx512;
#endif

/* The best that isa (base_cpu()->isa, or lower in tests) allows. */
const struct cpu_rows *cpu_rows_for(enum base_isa isa);

#endif
