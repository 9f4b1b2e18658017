/*
 * Matrix products for any machine: 4 lanes by the compiler's vector types, tiles of 4 rows by 8 features. Also the
 * choice between the instruction sets.
 */
#include "kernels/cpu/cpu_vector_scalar.inc"

enum { TILE_GROUPS = 2, TILE_ROWS = 4, SKINNY_ROWS = 2 };

#define TILES(T) T(1, 1) T(1, 2) T(2, 1) T(2, 2) T(3, 1) T(3, 2) T(4, 1) T(4, 2)
#define TILE_TABLE_ROW(r) {tile_##r##_1, tile_##r##_2}
#define TILE_TABLE TILE_TABLE_ROW(1), TILE_TABLE_ROW(2), TILE_TABLE_ROW(3), TILE_TABLE_ROW(4)

#include "kernels/cpu/cpu_products.inc"

const struct cpu_products cpu_products_scalar = {
	.isa = BASE_ISA_SCALAR,
	.lanes = LANES,
	.tile_groups = TILE_GROUPS,
	.tile_rows = TILE_ROWS,
	.scratch_bytes = sizeof(struct scratch),
	.run = run,
};

const struct cpu_products *cpu_products_for(enum base_isa isa)
{
#if defined(__x86_64__)
	if (isa == BASE_ISA_AVX512)
		return &cpu_products_avx512;
	if (isa == BASE_ISA_AVX2)
		return &cpu_products_avx2;
#endif
	(void)isa;
	return &cpu_products_scalar;
}
