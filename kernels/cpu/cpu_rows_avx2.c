/*
 * Row operations with AVX2 vectors.
 */
#include "kernels/cpu/cpu_vector_avx2.inc"

#include "kernels/cpu/cpu_rows.inc"

const struct cpu_rows cpu_rows_avx2 = {
	.isa = BASE_ISA_AVX2,
	.rmsnorm = rmsnorm,
	.layernorm = layernorm,
	.silu_mul = silu_mul,
	.gelu = gelu,
	.add = add,
};
