/*
 * Products with integer weights on AVX2: 8 lanes. Runs only where base_cpu() says so.
 */
#include "kernels/cpu/cpu_integer_avx2.inc"

/* Their sums are in registers at once. */
enum { FAT_ROWS = 4, FAT_GROUPS = 1 };

#include "kernels/cpu/cpu_products_integer.inc"

const struct cpu_products cpu_products_integer_avx2 = {
	.name = "avx2",
	.isa = BASE_ISA_AVX2,
	.lanes = LANES,
	.tile_groups = FAT_GROUPS,
	.tile_rows = FAT_ROWS,
	.scratch_bytes = CPU_INTEGER_SCRATCH_BYTES,
	.run = run,
	.quantize = quantize,
};
