/*
 * Row operations with AVX-512 vectors.
 */
#include "kernels/cpu/cpu_vector_avx512.inc"

#include "kernels/cpu/cpu_rows.inc"

const struct cpu_rows cpu_rows_avx512 = {
	.isa = BASE_ISA_AVX512,
	.rmsnorm = rmsnorm,
	.layernorm = layernorm,
	.silu_mul = silu_mul,
	.gelu = gelu,
	.add = add,
};
