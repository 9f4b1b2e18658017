/*
 * Products with float weights, for any machine: 4 lanes by the compiler's vector types, tiles of 4 rows by 8 features.
 */
#include "kernels/cpu/cpu_vector_scalar.inc"

enum { TILE_GROUPS = 2, TILE_ROWS = 4, SKINNY_ROWS = 2 };

#define TILES(T) T(1, 1) T(1, 2) T(2, 1) T(2, 2) T(3, 1) T(3, 2) T(4, 1) T(4, 2)
#define TILE_TABLE_ROW(r) {tile_##r##_1, tile_##r##_2}
#define TILE_TABLE TILE_TABLE_ROW(1), TILE_TABLE_ROW(2), TILE_TABLE_ROW(3), TILE_TABLE_ROW(4)

#include "kernels/cpu/cpu_products_float.inc"

const struct cpu_products cpu_products_float_scalar = {
	.name = "scalar",
	.isa = BASE_ISA_SCALAR,
	.lanes = LANES,
	.tile_groups = TILE_GROUPS,
	.tile_rows = TILE_ROWS,
	.scratch_bytes = sizeof(struct scratch),
	.run = run,
};
