/*
 * Products with integer weights on AMX tiles, for tiles of many rows; fewer go to AVX-512, whose weights, integers and bits
 * these are. Runs only where cpu_products_amx() hands it out: there the process has leave to use tiles.
 *
 * One tile instruction multiplies 16 rows by 16 features over the 16 or 32 elements that share a scale. The integers are
 * stored, and scaled and added by vector instructions, while the tiles of the next 16 rows are on their way.
 */
#include "kernels/cpu/cpu_integer_avx512.inc"

enum { TILE_ROWS = 16, TILE_GROUPS = 2 };

struct scratch {
	float totals[TILE_GROUPS][CPU_PRODUCT_ROWS * LANES];
	_Alignas(64) int8_t codes[QUADS][V];
	/* Integers by sub-block, of two tiles of rows that take turns, by group. What one turn stores lies at other offsets
	 * within 4096 bytes than what is loaded of the other: the processor would take one for the other, and wait. */
	_Alignas(64) int32_t sums[2][2][TILE_GROUPS][TILE_ROWS][LANES];
};

_Static_assert(sizeof(struct scratch) <= CPU_INTEGER_SCRATCH_BYTES, "it is what participants get");

/* The operand of LDTILECFG, palette 1. */
struct tile_config {
	uint8_t palette, start_row, reserved[14];
	uint16_t row_bytes[16];
	uint8_t rows[16];
};

_Static_assert(sizeof(struct tile_config) == 64, "the processor reads 64 bytes");

/* Tile registers: 0 and 1 sums of both groups, 2 and 3 the elements of x of both sub-blocks, 4 to 7 weights: both sub-blocks of
 * the first group, then of the second. Their numbers are part of the instructions. */
enum { SUMS_END = 2, X_END = 4, TILES_END = 8 };

static void configure(uint32_t sub)
{
	struct tile_config config = {.palette = 1};

	for (int i = 0; i < TILES_END; i++) {
		config.rows[i] = (uint8_t)(i < X_END ? TILE_ROWS : sub / 4);
		config.row_bytes[i] = (uint16_t)(i >= SUMS_END && i < X_END ? sub : V);
	}
	/* gcc believes that the instruction reads eight bytes, and would drop the rest. */
	__asm__ volatile("" : : "r"(&config) : "memory");
	_tile_loadconfig(&config);
}

/* A block of one group as signed bytes in its tiles; what has no zero point is below 64. */
static inline __attribute__((always_inline)) void load_codes(const struct cpu_format format, const unsigned char *codes,
	const uint32_t group, struct scratch *scratch)
{
	for (uint32_t q = 0; q < QUADS; q++) {
		const bytes code = unpack_quad(format, codes, q);

		_mm512_store_si512(scratch->codes[q], (__m512i)(format.zero_point ? code ^ 0x80 : code));
	}
	/* The tile loads do not tell the compiler that they read memory. */
	__asm__ volatile("" : : "r"(scratch->codes) : "memory");
	if (group == 0) {
		_tile_loadd(4, scratch->codes[0], V);
		if (format.sub == 16)
			_tile_loadd(5, scratch->codes[4], V);
	} else {
		_tile_loadd(6, scratch->codes[0], V);
		if (format.sub == 16)
			_tile_loadd(7, scratch->codes[4], V);
	}
}

/* Products of 16 rows, from x on, with the block of each group. */
static inline __attribute__((always_inline)) void multiply(const struct cpu_format format, const uint32_t groups,
	const int8_t *x, uint32_t turn, struct scratch *scratch)
{
	_tile_zero(0);
	_tile_loadd(2, x, 32);
	_tile_dpbssd(0, 2, 4);
	if (groups == 2) {
		_tile_zero(1);
		_tile_dpbssd(1, 2, 6);
	}
	_tile_stored(0, scratch->sums[0][turn][0], V);
	if (groups == 2)
		_tile_stored(1, scratch->sums[0][turn][1], V);
	if (format.sub == 32)
		return;
	_tile_zero(0);
	_tile_loadd(3, x + 16, 32);
	_tile_dpbssd(0, 3, 5);
	if (groups == 2) {
		_tile_zero(1);
		_tile_dpbssd(1, 3, 7);
	}
	_tile_stored(0, scratch->sums[1][turn][0], V);
	if (groups == 2)
		_tile_stored(1, scratch->sums[1][turn][1], V);
}

/* What scales and adds the integers of one group's tile: arrays from the tile's first row on. */
struct addition {
	float *totals;           /* [16][LANES] */
	const int32_t *products; /* [16][LANES], and those of the second sub-block behind both turns and groups */
	const float *row_scale;  /* [16] */
	const float *sum;        /* [3][stride], or NULL: no offsets */
	size_t stride;
};

enum { SECOND_SUB = 2 * TILE_GROUPS * TILE_ROWS * LANES };

/* One row of a tile. The same operations, in the same order, as add_limb of cpu_products_integer.inc. */
static inline __attribute__((always_inline)) void add_row(const struct cpu_format format, const struct scales *scales,
	const struct addition *addition, size_t r)
{
	const uint32_t subs = CPU_WEIGHT_BLOCK / format.sub;
	const vec scale = vec_set(addition->row_scale[r]);
	vec total = vec_load(addition->totals + r * LANES);

	for (uint32_t i = 0; i < subs; i++) {
		const __m512i products = _mm512_load_si512(addition->products + r * LANES + i * SECOND_SUB);

		total = vec_fma((vec)_mm512_cvtepi32_ps(products), scales->w[i] * scale, total);
		if (addition->sum)
			total = vec_fma(scales->m[i], vec_set(addition->sum[(subs == 1 ? 0 : 1 + i) * addition->stride + r]), total);
	}
	vec_store(addition->totals + r * LANES, total);
}

static inline __attribute__((always_inline)) void add_tile(const struct cpu_format format, const struct scales *scales,
	const struct addition addition)
{
#pragma GCC unroll 4
	for (size_t r = 0; r < TILE_ROWS; r++)
		add_row(format, scales, &addition, r);
}

/* The wide ones of the sixteen rows from `row` on, which need not be a multiple of sixteen. */
static inline uint32_t wide_of(const struct cpu_rows8_block *x, size_t row)
{
	uint32_t wide = x->wide[row / 16] >> row % 16;

	return row % 16 == 0 ? wide : (wide | (uint32_t)x->wide[row / 16 + 1] << (16 - row % 16)) & 0xffff;
}

static inline __attribute__((always_inline)) void tiles(const enum kern_type type, const uint32_t groups, uint32_t rows,
	const struct kern_weight *weight, uint32_t group, const struct cpu_rows8 *x, uint32_t row, struct cpu_ahead *ahead,
	struct scratch *scratch)
{
	const struct cpu_format format = cpu_format_of(type);
	const uint32_t chunk_blocks = format.chunk / CPU_WEIGHT_BLOCK, blocks = weight->k / CPU_WEIGHT_BLOCK;
	const size_t chunk_bytes = cpu_chunk_layout(format).vectors * (size_t)V, stride = x->row_stride;
	const uint32_t block_lines = (uint32_t)(chunk_bytes / chunk_blocks + CPU_AHEAD_LINE - 1) / CPU_AHEAD_LINE;
	const bool offsets = format.scaling == KERN_SCALING_DM || format.scaling == KERN_SCALING_SUPER_DM;

	for (uint32_t g = 0; g < groups; g++)
		memset(scratch->totals[g], 0, rows * LANES * sizeof(float));
	for (uint32_t b = 0; b < blocks; b++) {
		const struct cpu_rows8_block block = cpu_rows8_block(x, b);
		struct scales scales[TILE_GROUPS];
		uint32_t turn = 0;

		for (uint32_t g = 0; g < groups; g++) {
			const unsigned char *chunk = cpu_weight_group(weight, group + g) + b / chunk_blocks * chunk_bytes;

			cpu_ahead_ask(ahead, block_lines);
			scales[g] = unpack_scales(format, chunk, b % chunk_blocks);
			load_codes(format, chunk + (size_t)(b % chunk_blocks) * format.bits * V, g, scratch);
		}
		/* A tile is scaled and added while the next is multiplied. */
		multiply(format, groups, block.first.q + (size_t)row * 32, 0, scratch);
		for (uint32_t r = 0; r < rows; r += TILE_ROWS, turn ^= 1) {
			if (r + TILE_ROWS < rows)
				multiply(format, groups, block.first.q + (size_t)(row + r + TILE_ROWS) * 32, turn ^ 1, scratch);
			/* The next block's rows come from further away than the processor looks ahead by itself. */
			for (size_t i = 0; i < TILE_ROWS * 32; i += 64)
				__builtin_prefetch(block.first.q + x->block_bytes + (size_t)(row + r) * 32 + i);
			__builtin_prefetch((const char *)(block.first.scale + row + r) + x->block_bytes);
			for (uint32_t g = 0; g < groups; g++)
				add_tile(format, &scales[g], (struct addition){scratch->totals[g] + r * LANES,
					scratch->sums[0][turn][g][0], block.first.scale + row + r,
					offsets ? block.sum + row + r : NULL, stride});
		}
		for (uint32_t r = 0; r < rows; r += TILE_ROWS) {
			uint32_t wide = wide_of(&block, row + r);

			if (wide == 0)
				continue;
			multiply(format, groups, block.second.q + (size_t)(row + r) * 32, 0, scratch);
			for (; wide != 0; wide &= wide - 1)
				for (uint32_t g = 0; g < groups; g++) {
					const struct addition addition = {scratch->totals[g] + r * LANES, scratch->sums[0][0][g][0],
						block.second.scale + row + r, NULL, 0};

					add_row(format, &scales[g], &addition, (size_t)__builtin_ctz(wide));
				}
		}
	}
}

typedef void tiles_fn(uint32_t, const struct kern_weight *, uint32_t, const struct cpu_rows8 *, uint32_t,
	struct cpu_ahead *, struct scratch *);

#define TILES(type, groups)                                                                                              \
	static void tiles_##type##_##groups(uint32_t rows, const struct kern_weight *weight, uint32_t group,             \
		const struct cpu_rows8 *x, uint32_t row, struct cpu_ahead *ahead, struct scratch *scratch)               \
	{                                                                                                                \
		tiles(KERN_##type, groups, rows, weight, group, x, row, ahead, scratch);                                 \
	}
#define TILES_TYPE(type) TILES(type, 1) TILES(type, 2)
#define TILES_ENTRY(type) [KERN_##type] = {tiles_##type##_1, tiles_##type##_2},

EACH_INTEGER_TYPE(TILES_TYPE)

static tiles_fn *const tiles_table[KERN_TYPE_END][TILE_GROUPS] = {EACH_INTEGER_TYPE(TILES_ENTRY)};

static void run(const struct cpu_product *product, uint32_t row, uint32_t rows, uint32_t group, uint32_t groups,
	struct cpu_ahead *ahead, void *memory)
{
	const struct kern_weight *weight = product->weight;
	const uint32_t whole = rows / TILE_ROWS * TILE_ROWS, end = group + groups;
	struct scratch *scratch = memory;

	if (whole < rows)
		cpu_products_integer_avx512.run(product, row + whole, rows - whole, group, groups,
			whole == 0 ? ahead : &(struct cpu_ahead){.bytes = 0}, memory);
	if (whole == 0)
		return;
	configure(cpu_format_of(weight->type).sub);
	for (uint32_t g = group, wide; g < end; g += wide) {
		wide = end - g < TILE_GROUPS ? end - g : TILE_GROUPS;
		tiles_table[weight->type][wide - 1](whole, weight, g, &product->rows8, row, ahead, scratch);
		for (uint32_t i = 0; i < wide; i++) {
			const uint32_t first = (g + i) * LANES, left = weight->n - first;

			cpu_product_finish(product, row, whole, first, left < LANES ? left : LANES, scratch->totals[i], LANES);
		}
	}
	/* Switching threads is cheaper without tiles. */
	_tile_release();
}

static void quantize(const struct cpu_rows8 *to, const float *x, size_t x_stride, uint32_t row, uint32_t rows, uint32_t k)
{
	cpu_products_integer_avx512.quantize(to, x, x_stride, row, rows, k);
}

const struct cpu_products cpu_products_integer_amx = {
	.name = "amx",
	.isa = BASE_ISA_AVX512,
	.lanes = LANES,
	.tile_groups = TILE_GROUPS,
	.tile_rows = TILE_ROWS,
	.scratch_bytes = CPU_INTEGER_SCRATCH_BYTES,
	.run = run,
	.quantize = quantize,
};
