/*
 * Products with integer weights on AVX-512 with VNNI: 16 lanes. Runs only where base_cpu() says so.
 */
#include "kernels/cpu/cpu_integer_avx512.inc"

/* Rows whose sums are in registers at once. */
enum { FAT_ROWS = 8 };

#include "kernels/cpu/cpu_products_integer.inc"

const struct cpu_products cpu_products_integer_avx512 = {
	.name = "avx512",
	.isa = BASE_ISA_AVX512,
	.lanes = LANES,
	.tile_groups = 1,
	.tile_rows = 4,
	.scratch_bytes = CPU_PRODUCT_ROWS * LANES * sizeof(float),
	.run = run,
	.quantize = quantize,
};
