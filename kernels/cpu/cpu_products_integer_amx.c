/*
 * Products with integer weights on AMX tiles, for tiles of many rows; fewer go to AVX-512, whose weights, integers and bits
 * these are. Runs only where base_cpu()->amx_int8 says so.
 *
 * One tile instruction multiplies 16 rows by 16 features over the 16 or 32 elements that share a scale. The integers are
 * stored, and scaled and added by vector instructions, while the tiles of the next 16 rows are on their way.
 */
#include "kernels/cpu/cpu_integer_avx512.inc"

enum { TILE_ROWS = 16 };

struct scratch {
	float totals[CPU_PRODUCT_ROWS * LANES];
	_Alignas(64) int8_t codes[QUADS][V];
	_Alignas(64) int32_t sums[2][2][TILE_ROWS][LANES]; /* of two tiles of rows, by sub-block */
};

/* The operand of LDTILECFG, palette 1. */
struct tile_config {
	uint8_t palette, start_row, reserved[14];
	uint16_t row_bytes[16];
	uint8_t rows[16];
};

_Static_assert(sizeof(struct tile_config) == 64, "the processor reads 64 bytes");

/* Tile registers; their numbers are part of the instructions. */
enum { SUMS = 0, X = 1, WEIGHTS_FIRST = 2, WEIGHTS_SECOND = 3 };

static void configure(uint32_t sub)
{
	struct tile_config config = {.palette = 1};

	config.rows[SUMS] = TILE_ROWS;
	config.row_bytes[SUMS] = V;
	config.rows[X] = TILE_ROWS;
	config.row_bytes[X] = (uint16_t)sub;
	for (int i = WEIGHTS_FIRST; i <= WEIGHTS_SECOND; i++) {
		config.rows[i] = (uint8_t)(sub / 4);
		config.row_bytes[i] = V;
	}
	/* gcc believes that the instruction reads eight bytes, and would drop the rest. */
	__asm__ volatile("" : : "r"(&config) : "memory");
	_tile_loadconfig(&config);
}

/* The tile's codes as signed bytes; what has no zero point is below 64. */
static inline __attribute__((always_inline)) void fill_codes(const struct cpu_format format, const unsigned char *codes,
	struct scratch *scratch)
{
	for (uint32_t q = 0; q < QUADS; q++) {
		const bytes code = unpack_quad(format, codes, q);

		_mm512_store_si512(scratch->codes[q], (__m512i)(format.zero_point ? code ^ 0x80 : code));
	}
	_tile_loadd(2, scratch->codes[0], V);
	if (format.sub == 16)
		_tile_loadd(3, scratch->codes[4], V);
}

/* Products of 16 rows, from x on, with the block. */
static inline __attribute__((always_inline)) void multiply(const struct cpu_format format, const int8_t *x,
	int32_t (*sums)[TILE_ROWS][LANES])
{
	_tile_zero(0);
	_tile_loadd(1, x, 32);
	_tile_dpbssd(0, 1, 2);
	_tile_stored(0, sums[0], V);
	if (format.sub == 16) {
		_tile_zero(0);
		_tile_loadd(1, x + 16, 32);
		_tile_dpbssd(0, 1, 3);
		_tile_stored(0, sums[1], V);
	}
}

/* One row of a tile. The same operations, in the same order, as add_limb of cpu_products_integer.inc. */
static inline __attribute__((always_inline)) void scale_and_add(const struct cpu_format format, float *to,
	const struct scales *scales, float row_scale, const float *sum, size_t stride,
	const int32_t (*sums)[TILE_ROWS][LANES], size_t r)
{
	const bool has_offset = format.scaling == KERN_SCALING_DM || format.scaling == KERN_SCALING_SUPER_DM;
	const uint32_t subs = CPU_WEIGHT_BLOCK / format.sub;
	const vec scale = vec_set(row_scale);
	vec total = vec_load(to);

	for (uint32_t i = 0; i < subs; i++) {
		const __m512 products = _mm512_cvtepi32_ps(_mm512_load_si512(sums[i][r]));

		total = vec_fma((vec)products, scales->w[i] * scale, total);
		if (has_offset && sum)
			total = vec_fma(scales->m[i], vec_set(sum[(subs == 1 ? 0 : 1 + i) * stride]), total);
	}
	vec_store(to, total);
}

/* The second limb of the sixteen rows from `row` on, where any is wide. */
static inline __attribute__((always_inline)) void add_wide(const struct cpu_format format, float *totals,
	const struct scales *scales, const struct cpu_rows8_block *x, size_t row, int32_t (*sums)[TILE_ROWS][LANES])
{
	uint32_t wide = x->wide[row / 16] >> row % 16;

	/* A tile need not begin at a multiple of sixteen. */
	if (row % 16 != 0)
		wide |= (uint32_t)x->wide[row / 16 + 1] << (16 - row % 16) & 0xffff;
	if (wide == 0)
		return;
	multiply(format, x->second.q + row * 32, sums);
	for (; wide != 0; wide &= wide - 1) {
		const size_t r = (size_t)__builtin_ctz(wide);

		scale_and_add(format, totals + r * LANES, scales, x->second.scale[row + r], NULL, 0,
			(const int32_t (*)[TILE_ROWS][LANES])sums, r);
	}
}

static inline __attribute__((always_inline)) void tiles(const enum kern_type type, uint32_t rows,
	const struct kern_weight *weight, const unsigned char *group, const struct cpu_rows8 *x, uint32_t row,
	struct scratch *scratch)
{
	const struct cpu_format format = cpu_format_of(type);
	const uint32_t chunk_blocks = format.chunk / CPU_WEIGHT_BLOCK, blocks = weight->k / CPU_WEIGHT_BLOCK;
	const size_t chunk_bytes = cpu_chunk_layout(format).vectors * (size_t)V, stride = x->row_stride;

	memset(scratch->totals, 0, rows * LANES * sizeof(float));
	for (uint32_t b = 0; b < blocks; b++) {
		const unsigned char *chunk = group + b / chunk_blocks * chunk_bytes;
		const struct cpu_rows8_block block = cpu_rows8_block(x, b);
		const struct scales scales = unpack_scales(format, chunk, b % chunk_blocks);

		fill_codes(format, chunk + (size_t)(b % chunk_blocks) * format.bits * V, scratch);
		multiply(format, block.first.q + (size_t)row * 32, scratch->sums[0]);
		for (uint32_t r = 0, turn = 0; r < rows; r += TILE_ROWS, turn ^= 1) {
			if (r + TILE_ROWS < rows)
				multiply(format, block.first.q + (size_t)(row + r + TILE_ROWS) * 32, scratch->sums[turn ^ 1]);
			for (uint32_t i = r; i < r + TILE_ROWS; i++)
				scale_and_add(format, scratch->totals + i * LANES, &scales, block.first.scale[row + i],
					block.sum + row + i, stride, (const int32_t (*)[TILE_ROWS][LANES])scratch->sums[turn], i - r);
		}
		for (uint32_t r = 0; r < rows; r += TILE_ROWS)
			add_wide(format, scratch->totals + r * LANES, &scales, &block, row + r, scratch->sums[0]);
	}
}

typedef void tiles_fn(uint32_t, const struct kern_weight *, const unsigned char *, const struct cpu_rows8 *, uint32_t,
	struct scratch *);

#define TILES(type)                                                                                                      \
	static void tiles_##type(uint32_t rows, const struct kern_weight *weight, const unsigned char *group,            \
		const struct cpu_rows8 *x, uint32_t row, struct scratch *scratch)                                        \
	{                                                                                                                \
		tiles(KERN_##type, rows, weight, group, x, row, scratch);                                                \
	}
#define TILES_ENTRY(type) [KERN_##type] = tiles_##type,

EACH_INTEGER_TYPE(TILES)

static tiles_fn *const tiles_table[KERN_TYPE_END] = {EACH_INTEGER_TYPE(TILES_ENTRY)};

static void run(const struct cpu_product *product, uint32_t row, uint32_t rows, uint32_t group, uint32_t groups, void *memory)
{
	const struct kern_weight *weight = product->weight;
	const uint32_t whole = rows / TILE_ROWS * TILE_ROWS;
	struct scratch *scratch = memory;

	if (whole > 0)
		configure(cpu_format_of(weight->type).sub);
	for (uint32_t g = group; g < group + groups && whole > 0; g++) {
		const uint32_t first = g * LANES, count = weight->n - first < LANES ? weight->n - first : LANES;

		tiles_table[weight->type](whole, weight, cpu_weight_group(weight, g), &product->rows8, row, scratch);
		cpu_product_finish(product, row, whole, first, count, scratch->totals, LANES);
	}
	/* Switching threads is cheaper without tiles. */
	if (whole > 0)
		_tile_release();
	if (whole < rows)
		cpu_products_integer_avx512.run(product, row + whole, rows - whole, group, groups, memory);
}

static void quantize(const struct cpu_rows8 *to, const float *x, size_t x_stride, uint32_t row, uint32_t rows, uint32_t k)
{
	cpu_products_integer_avx512.quantize(to, x, x_stride, row, rows, k);
}

const struct cpu_products cpu_products_integer_amx = {
	.name = "amx",
	.isa = BASE_ISA_AVX512,
	.lanes = LANES,
	.tile_groups = 1,
	.tile_rows = TILE_ROWS,
	.scratch_bytes = sizeof(struct scratch),
	.run = run,
	.quantize = quantize,
};
