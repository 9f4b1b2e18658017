/*
 * Products with integer weights for any machine: 4 lanes.
 */
#include "kernels/cpu/cpu_integer_scalar.inc"

/* Rows whose sums are in registers at once. */
enum { FAT_ROWS = 4 };

#include "kernels/cpu/cpu_products_integer.inc"

const struct cpu_products cpu_products_integer_scalar = {
	.name = "scalar",
	.isa = BASE_ISA_SCALAR,
	.lanes = LANES,
	.tile_groups = 1,
	.tile_rows = 4,
	.scratch_bytes = CPU_PRODUCT_ROWS * LANES * sizeof(float),
	.run = run,
	.quantize = quantize,
};
