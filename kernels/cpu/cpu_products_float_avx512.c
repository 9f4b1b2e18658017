/*
 * Products with float weights, with AVX-512: 16 lanes, tiles of 6 rows by 64 features (24 sums, 4 weights and a broadcast in 32
 * registers). Runs only where base_cpu() says so.
 */
#include "kernels/cpu/cpu_vector_avx512.inc"

enum { TILE_GROUPS = 4, TILE_ROWS = 6, SKINNY_ROWS = 2 };

#define TILES(T)                                                                                                         \
	T(1, 1) T(1, 2) T(1, 3) T(1, 4) T(2, 1) T(2, 2) T(2, 3) T(2, 4) T(3, 1) T(3, 2) T(3, 3) T(3, 4)                  \
	T(4, 1) T(4, 2) T(4, 3) T(4, 4) T(5, 1) T(5, 2) T(5, 3) T(5, 4) T(6, 1) T(6, 2) T(6, 3) T(6, 4)
#define TILE_TABLE_ROW(r) {tile_##r##_1, tile_##r##_2, tile_##r##_3, tile_##r##_4}
#define TILE_TABLE                                                                                                       \
	TILE_TABLE_ROW(1), TILE_TABLE_ROW(2), TILE_TABLE_ROW(3), TILE_TABLE_ROW(4), TILE_TABLE_ROW(5), TILE_TABLE_ROW(6)

#include "kernels/cpu/cpu_products_float.inc"

const struct cpu_products cpu_products_float_avx512 = {
	.name = "avx512",
	.isa = BASE_ISA_AVX512,
	.lanes = LANES,
	.tile_groups = TILE_GROUPS,
	.tile_rows = TILE_ROWS,
	.scratch_bytes = sizeof(struct scratch),
	.run = run,
};
