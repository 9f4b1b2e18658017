/*
 * Products with integer weights for any machine: 4 lanes.
 */
#include "kernels/cpu/cpu_integer_scalar.inc"

/* Their sums are in registers at once. */
enum { FAT_ROWS = 4, FAT_GROUPS = 1 };

#include "kernels/cpu/cpu_products_integer.inc"

const struct cpu_products cpu_products_integer_scalar = {
	.name = "scalar",
	.isa = BASE_ISA_SCALAR,
	.lanes = LANES,
	.tile_groups = FAT_GROUPS,
	.tile_rows = FAT_ROWS,
	.scratch_bytes = CPU_INTEGER_SCRATCH_BYTES,
	.run = run,
	.quantize = quantize,
};
