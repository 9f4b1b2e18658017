/*
 * Row operations for any machine, and the choice between the instruction sets.
 */
#include "kernels/cpu/cpu_vector_scalar.inc"

#include "kernels/cpu/cpu_rows.inc"

const struct cpu_rows cpu_rows_scalar = {
	.isa = BASE_ISA_SCALAR,
	.rmsnorm = rmsnorm,
	.layernorm = layernorm,
	.silu_mul = silu_mul,
	.gelu = gelu,
	.add = add,
};

const struct cpu_rows *cpu_rows_for(enum base_isa isa)
{
#if defined(__x86_64__)
	if (isa == BASE_ISA_AVX512)
		return &cpu_rows_avx512;
	if (isa == BASE_ISA_AVX2)
		return &cpu_rows_avx2;
#endif
	(void)isa;
	return &cpu_rows_scalar;
}
