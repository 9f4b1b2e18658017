/*
 * Products with float weights, with AVX2: 8 lanes, tiles of 6 rows by 16 features (12 sums, 2 weights and a broadcast in 16
 * registers). Runs only where base_cpu() says so.
 */
#include "kernels/cpu/cpu_vector_avx2.inc"

enum { TILE_GROUPS = 2, TILE_ROWS = 6, SKINNY_ROWS = 2 };

#define TILES(T)                                                                                                         \
	T(1, 1) T(1, 2) T(2, 1) T(2, 2) T(3, 1) T(3, 2) T(4, 1) T(4, 2) T(5, 1) T(5, 2) T(6, 1) T(6, 2)
#define TILE_TABLE_ROW(r) {tile_##r##_1, tile_##r##_2}
#define TILE_TABLE                                                                                                       \
	TILE_TABLE_ROW(1), TILE_TABLE_ROW(2), TILE_TABLE_ROW(3), TILE_TABLE_ROW(4), TILE_TABLE_ROW(5), TILE_TABLE_ROW(6)

#include "kernels/cpu/cpu_products_float.inc"

const struct cpu_products cpu_products_float_avx2 = {
	.name = "avx2",
	.isa = BASE_ISA_AVX2,
	.lanes = LANES,
	.tile_groups = TILE_GROUPS,
	.tile_rows = TILE_ROWS,
	.scratch_bytes = sizeof(struct scratch),
	.run = run,
};
