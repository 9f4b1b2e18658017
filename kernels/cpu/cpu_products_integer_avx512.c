/*
 * Products with integer weights on AVX-512 with VNNI: 16 lanes. Runs only where base_cpu() says so.
 */
#include "kernels/cpu/cpu_integer_avx512.inc"

/* Their sums are in registers at once, and their totals beside them. */
enum { FAT_ROWS = 4, FAT_GROUPS = 2 };

#include "kernels/cpu/cpu_products_integer.inc"

const struct cpu_products cpu_products_integer_avx512 = {
	.name = "avx512",
	.isa = BASE_ISA_AVX512,
	.lanes = LANES,
	.tile_groups = FAT_GROUPS,
	.tile_rows = FAT_ROWS,
	.scratch_bytes = CPU_INTEGER_SCRATCH_BYTES,
	.run = run,
	.quantize = quantize,
};
