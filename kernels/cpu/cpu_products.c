/*
 * The choice of product kernels. Any thread; nothing is kept.
 */
#include "kernels/cpu/cpu_products.h"

const struct cpu_products *cpu_products_float(enum base_isa isa)
{
#if defined(__x86_64__)
	if (isa == BASE_ISA_AVX512)
		return &cpu_products_float_avx512;
	if (isa == BASE_ISA_AVX2)
		return &cpu_products_float_avx2;
#endif
	(void)isa;
	return &cpu_products_float_scalar;
}

const struct cpu_products *cpu_products_integer(enum base_isa isa)
{
#if defined(__x86_64__)
	if (isa == BASE_ISA_AVX512 && base_cpu()->amx_int8 && base_cpu()->avx512_vnni)
		return &cpu_products_integer_amx;
	if (isa == BASE_ISA_AVX512 && base_cpu()->avx512_vnni)
		return &cpu_products_integer_avx512;
	if (isa >= BASE_ISA_AVX2)
		return &cpu_products_integer_avx2;
#endif
	(void)isa;
	return &cpu_products_integer_scalar;
}
