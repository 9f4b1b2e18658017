/*
 * The page functions of attention over integers on AMX tiles; the rest of their table is AVX-512's, and the bits are the
 * same: sums of integers are exact, and what follows are the same operations on floats. Run by any thread within a unit, where
 * cpu_attention.c hands them out: the process has leave to use tiles, there are a block of 16 vectors or more, and heads are a
 * multiple of 16 channels. All else is AVX-512's: heads of other sizes (8, 24, 40, ...), and pages of floats (bf16, f16, f32, fp8,
 * and the first block of every session), whose sums would come out in another order.
 *
 * K and V lie as the right operand of a tile's product wants them, and the limbs of queries and weights as the left one. One
 * tile of sums is a block of 16 vectors by 16 tokens, or by 16 channels: a *column*. Tile and vector instructions take turns
 * by small pieces: while a column is multiplied, the integers of the one before it are stored, and those of the one before
 * that become floats. Two buffers take turns, which lie within 4096 bytes, as the processor would take a load for one of a
 * store that is 4096 bytes away, and wait.
 *
 * The last block of a call may have fewer vectors than 16. What its rows beyond these read and multiply are whatever the arrays
 * hold there (CPU_ATTENTION_ROOM is for that); of products they write as much as they read, of o nothing.
 */
#include <immintrin.h>
#include <string.h>

#include "kernels/cpu/cpu_attention_int4.h"

enum { LANES = 16, ROWS = CPU_ATTENTION_BLOCK, COLUMNS = KERN_PAGE_TOKENS / LANES, LINE = 64 };

/* Bytes from one quad of K's channels to the next. */
enum { K_STRIDE = 4 * KERN_PAGE_TOKENS };

/* An integer of q is 128 * high + low, both signed; one of weights 256 * high + low, low unsigned. */
#define QUERY_LIMB 128.0f
#define WEIGHT_LIMB 256.0f

/* The operand of LDTILECFG, palette 1. */
struct tile_config {
	uint8_t palette, start_row, reserved[14];
	uint16_t row_bytes[16];
	uint8_t rows[16];
};

_Static_assert(sizeof(struct tile_config) == LINE, "the processor reads 64 bytes");

/*
 * Tile registers; their numbers are part of the instructions. Where heads are multiples of 64 channels all have the same
 * shape, and q may take some of those of weights and V.
 *   0 to 2   sums; the two of a column and one of the next
 *   3        one limb of q; the high one of the first step
 *   4 and 5  limbs of weights; q's low limb of the first step, its high one of the second
 *   6        K
 *   7        V; q's low limb of the second step
 */
enum { SUMS_END = 3, Q_TILE = 3, WEIGHTS_END = 6, K_TILE = 6, TILES_END = 8 };

/* Channels of K in a tile, at most 64. Of int8 as many as cut a head into equal tiles; of int4 as many as cut each of its groups, of which
 * the last may be smaller. */
static inline uint32_t k_step(enum kern_kv k_format, uint32_t dim)
{
	const uint32_t even = dim & -dim;
	uint32_t steps = (dim + LINE - 1) / LINE;

	if (k_format == KERN_KV_INT4)
		return even < KERN_KV_GROUP ? even : KERN_KV_GROUP;
	while (dim % (4 * steps) != 0)
		steps++;
	return dim / steps;
}

_Static_assert((int)KERN_KV_GROUP <= (int)LINE, "a group's channels fit a tile");

void cpu_attention_begin_amx(enum kern_kv k_format, uint32_t dim)
{
	struct tile_config config = { .palette = 1 };

	for (uint32_t i = 0; i < TILES_END; i++) {
		const bool is_k = i == Q_TILE || i == K_TILE;
		const uint32_t depth = is_k ? k_step(k_format, dim) : KERN_PAGE_TOKENS;

		config.rows[i] = (uint8_t)(i < WEIGHTS_END ? ROWS : depth / 4);
		config.row_bytes[i] = (uint16_t)(i >= SUMS_END && i < WEIGHTS_END ? depth : LINE);
	}
	/* gcc believes that the instruction reads eight bytes, and would drop the rest. */
	__asm__ volatile("" : : "r"(&config) : "memory");
	_tile_loadconfig(&config);
}

/* Switching threads is cheaper without tiles. */
void cpu_attention_end_amx(void)
{
	_tile_release();
}

/* From here on what was stored before is in memory: tile loads do not tell the compiler that they read it. */
static inline void settle(void)
{
	__asm__ volatile("" : : : "memory");
}

/* The integers of a tile's sums. */
struct limbs { int32_t high[ROWS][LANES], low[ROWS][LANES]; };

/* Both limbs' sums as one float: one rounding, as of the whole integer, since each is exact. */
static inline __m512 join(const struct limbs *sums, uint32_t row, float limb)
{
	return _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums->high[row])), _mm512_set1_ps(limb),
		_mm512_cvtepi32_ps(_mm512_load_si512(sums->low[row])));
}

/* ---- sums in turn ------------------------------------------------------------------------------------------- */

/* Registers of a column's sums: those of the column before are stored just before they are needed again. */
struct turn { int high, low; };

static inline __attribute__((always_inline)) struct turn turn_of(uint32_t column)
{
	static const struct turn turns[] = { { 0, 1 }, { 2, 0 }, { 1, 2 } };

	return turns[column % 3];
}

static inline __attribute__((always_inline)) void clear(const int sums)
{
	if (sums == 0)
		_tile_zero(0);
	else if (sums == 1)
		_tile_zero(1);
	else
		_tile_zero(2);
}

static inline __attribute__((always_inline)) void store(const int sums, int32_t to[ROWS][LANES])
{
	if (sums == 0)
		_tile_stored(0, to, LINE);
	else if (sums == 1)
		_tile_stored(1, to, LINE);
	else
		_tile_stored(2, to, LINE);
}

/* Weights by V. */
static inline __attribute__((always_inline)) void multiply_high(const int sums)
{
	if (sums == 0)
		_tile_dpbssd(0, 4, 7);
	else if (sums == 1)
		_tile_dpbssd(1, 4, 7);
	else
		_tile_dpbssd(2, 4, 7);
}

static inline __attribute__((always_inline)) void multiply_low(const int sums)
{
	if (sums == 0)
		_tile_dpbusd(0, 5, 7);
	else if (sums == 1)
		_tile_dpbusd(1, 5, 7);
	else
		_tile_dpbusd(2, 5, 7);
}

/* Asks for one of `parts` parts of so many bytes. */
static inline void look_ahead(struct cpu_ahead *ahead, uint32_t parts, uint32_t bytes)
{
	cpu_ahead_ask(ahead, (bytes / parts + LINE - 1) / LINE);
}

/* ---- int8 K ------------------------------------------------------------------------------------------------- */

/* [high[n]][low[n]], signed: AVX-512 stores both with 128 added. */
float cpu_attention_quantize_query_amx(void *packed, const float *q, const float *width, uint32_t n)
{
	const float scale = cpu_attention_avx512.quantize_query(packed, q, width, n);
	uint8_t *limbs = packed;

	for (uint32_t i = 0; i < 2 * n; i++)
		limbs[i] ^= 0x80;
	return scale;
}

/* Which of q's limbs stay in tiles while a block passes a page: those of one step that is all, of two steps, none. */
enum k_way { K_ONE_STEP, K_TWO_STEPS, K_MANY_STEPS };

static inline enum k_way k_way(uint32_t dim)
{
	return dim == LINE ? K_ONE_STEP : dim == 2 * LINE ? K_TWO_STEPS : K_MANY_STEPS;
}

/* Vectors against a page; q: those of the block at hand. */
struct k_operands {
	const int8_t *q, *k;
	uint32_t dim, step;
};

static inline __attribute__((always_inline)) void load_queries(const enum k_way way, const struct k_operands *o)
{
	const size_t stride = (size_t)2 * o->dim;

	if (way == K_MANY_STEPS)
		return;
	_tile_loadd(3, o->q, stride);
	_tile_loadd(4, o->q + o->dim, stride);
	if (way == K_TWO_STEPS) {
		_tile_loadd(5, o->q + LINE, stride);
		_tile_loadd(7, o->q + o->dim + LINE, stride);
	}
}

/* Steps begin <= step < end of a column, where q's limbs are loaded each time. */
static inline void multiply_steps(const struct k_operands *o, uint32_t column, uint32_t begin, uint32_t end)
{
	const size_t stride = (size_t)2 * o->dim;

	for (uint32_t channel = begin * o->step; channel < end * o->step; channel += o->step) {
		_tile_loadd(6, o->k + (size_t)channel * KERN_PAGE_TOKENS + (size_t)column * LINE, K_STRIDE);
		_tile_loadd(3, o->q + channel, stride);
		_tile_dpbssd(0, 3, 6);
		_tile_loadd(3, o->q + o->dim + channel, stride);
		_tile_dpbssd(1, 3, 6);
	}
}

enum { PARTS = 4, PART_ROWS = ROWS / PARTS };

/* A quarter of what there is to do for a column's sums, so that other work fits between. */
static inline __attribute__((always_inline)) void multiply_part(const enum k_way way, const int part,
	const struct k_operands *o, uint32_t column, struct limbs *to)
{
	const uint32_t steps = o->dim / o->step;

	if (part == 0) {
		_tile_zero(0);
		_tile_zero(1);
	}
	if (part < 2 && way == K_MANY_STEPS) {
		multiply_steps(o, column, part == 0 ? 0 : (steps + 1) / 2, part == 0 ? (steps + 1) / 2 : steps);
	} else if (part == 0) {
		_tile_loadd(6, o->k + (size_t)column * LINE, K_STRIDE);
		_tile_dpbssd(0, 3, 6);
		_tile_dpbssd(1, 4, 6);
	} else if (part == 1 && way == K_TWO_STEPS) {
		_tile_loadd(6, o->k + (size_t)LINE * KERN_PAGE_TOKENS + (size_t)column * LINE, K_STRIDE);
		_tile_dpbssd(0, 5, 6);
		_tile_dpbssd(1, 7, 6);
	} else if (part == 2) {
		_tile_stored(0, to->high, LINE);
	} else if (part == 3) {
		_tile_stored(1, to->low, LINE);
	}
}

/* Where the sums of a column belong: the block from vector `first` on, tokens from `token` on. */
struct column { uint32_t first, token; };

/* Products of four rows of a column. */
static inline __attribute__((always_inline)) void scale_products(float *products, const struct limbs *sums, const int part,
	struct column column, const struct cpu_attention_int8 *page, const struct cpu_attention_query8 *query)
{
	const __m512 k_scale = _mm512_loadu_ps(page->scale + column.token);

	products += (size_t)column.first * KERN_PAGE_TOKENS + column.token;
#pragma GCC unroll 4
	for (uint32_t i = 0; i < PART_ROWS; i++) {
		const uint32_t row = (uint32_t)part * PART_ROWS + i;
		const __m512 factor = _mm512_mul_ps(_mm512_set1_ps(query->scale[column.first + row]), k_scale);

		_mm512_storeu_ps(products + row * KERN_PAGE_TOKENS,
			_mm512_fmadd_ps(join(sums, row, QUERY_LIMB), factor, _mm512_set1_ps(query->mean_product[column.first + row])));
	}
}

/* A column is multiplied while the one before it is scaled. */
static inline __attribute__((always_inline)) void product_int8_way(const enum k_way way, float *products,
	const struct cpu_attention_int8 *page, const struct cpu_attention_query8 *query, uint32_t vectors, uint32_t dim,
	struct cpu_ahead *ahead)
{
	_Alignas(LINE) struct limbs sums[2];
	struct k_operands o = { .k = page->k, .dim = dim, .step = k_step(KERN_KV_INT8, dim) };
	const uint32_t columns = (vectors + ROWS - 1) / ROWS * COLUMNS;
	struct column now = { 0, 0 }, before = now;

	for (uint32_t i = 0; i <= columns; i++) {
		if (i < columns && now.token == 0) {
			o.q = (const int8_t *)query->packed + (size_t)now.first * 2 * dim;
			load_queries(way, &o);
		}
#pragma GCC unroll 4
		for (int part = 0; part < PARTS; part++) {
			if (i < columns)
				multiply_part(way, part, &o, now.token / LANES, &sums[i % 2]);
			if (i > 0)
				scale_products(products, &sums[(i - 1) % 2], part, before, page, query);
		}
		look_ahead(ahead, columns, dim * KERN_PAGE_TOKENS);
		before = now;
		now.token = (now.token + LANES) % KERN_PAGE_TOKENS;
		now.first += now.token == 0 ? ROWS : 0;
	}
}

void cpu_attention_product_int8_amx(float *products, const struct cpu_attention_int8 *k, const struct cpu_attention_query8 *q,
	uint32_t vectors, uint32_t dim, struct cpu_ahead *ahead)
{
	settle();
	if (k_way(dim) == K_ONE_STEP)
		product_int8_way(K_ONE_STEP, products, k, q, vectors, dim, ahead);
	else if (k_way(dim) == K_TWO_STEPS)
		product_int8_way(K_TWO_STEPS, products, k, q, vectors, dim, ahead);
	else
		product_int8_way(K_MANY_STEPS, products, k, q, vectors, dim, ahead);
}

/* ---- int4 K ------------------------------------------------------------------------------------------------- */

static inline __m512 load_bf16(const uint16_t *from)
{
	return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)from)), 16));
}

/* Sums of a block of vectors with 16 tokens, from k on, over the channels of a group. */
static inline __attribute__((always_inline)) void multiply_group(const int8_t *q, const int8_t *k, uint32_t dim,
	uint32_t group, uint32_t step)
{
	const uint32_t begin = group * KERN_KV_GROUP, end = begin + KERN_KV_GROUP < dim ? begin + KERN_KV_GROUP : dim;

	_tile_zero(0);
	for (uint32_t channel = begin; channel < end; channel += step) {
		_tile_loadd(3, q + channel, dim);
		_tile_loadd(6, k + (size_t)channel * KERN_PAGE_TOKENS, K_STRIDE);
		_tile_dpbssd(0, 3, 6);
	}
}

/* From the sums of a block with a group's channels to floats, as AVX-512 does: less what the bias of K has too much. */
static inline __attribute__((always_inline)) void add_group(__m512 total[ROWS], int32_t sums[ROWS][LANES],
	const int32_t *group_sums, __m512 scale)
{
#pragma GCC unroll 16
	for (uint32_t row = 0; row < ROWS; row++) {
		const __m512i surplus = _mm512_set1_epi32(INT4_ZERO * group_sums[row * CPU_ATTENTION_GROUPS]);
		const __m512i sum = _mm512_sub_epi32(_mm512_load_si512(sums[row]), surplus);

		total[row] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, total[row]);
	}
}

/* A group is multiplied while the one before it is added. The pointers are to a block's first vector. */
static void product_int4_block(float *products, const struct cpu_attention_int4 *page, const struct cpu_attention_query4 *query,
	uint32_t dim)
{
	_Alignas(LINE) int32_t sums[2][ROWS][LANES];
	const uint32_t groups = kern_kv_groups(dim), step = k_step(KERN_KV_INT4, dim);
	const int8_t *k = (const int8_t *)page->k;
	uint32_t turn = 0;

	multiply_group(query->packed, k, dim, 0, step);
	_tile_stored(0, sums[0], LINE);
	for (uint32_t token = 0; token < KERN_PAGE_TOKENS; token += LANES, k += LINE) {
		__m512 total[ROWS];

#pragma GCC unroll 16
		for (uint32_t row = 0; row < ROWS; row++)
			total[row] = _mm512_setzero_ps();
		for (uint32_t group = 0; group < groups; group++, turn ^= 1) {
			const bool in_column = group + 1 < groups, more = in_column || token + LANES < KERN_PAGE_TOKENS;
			const __m512 scale = _mm512_mul_ps(_mm512_set1_ps(INT4_SHRINK),
				load_bf16(page->scale + group * KERN_PAGE_TOKENS + token));

			if (more)
				multiply_group(query->packed, in_column ? k : k + LINE, dim, in_column ? group + 1 : 0, step);
			add_group(total, sums[turn], query->sums + group, scale);
			if (more)
				_tile_stored(0, sums[turn ^ 1], LINE);
		}
#pragma GCC unroll 16
		for (uint32_t row = 0; row < ROWS; row++)
			_mm512_storeu_ps(products + row * KERN_PAGE_TOKENS + token, _mm512_fmadd_ps(total[row],
				_mm512_set1_ps(query->scale[row] * INT4_GROW), _mm512_set1_ps(query->mean_product[row])));
	}
}

void cpu_attention_product_int4_amx(float *products, const struct cpu_attention_int4 *k, const struct cpu_attention_query4 *q,
	uint32_t vectors, uint32_t dim)
{
	settle();
	for (uint32_t first = 0; first < vectors; first += ROWS) {
		const struct cpu_attention_query4 block = {
			.packed = q->packed + (size_t)first * dim,
			.sums = q->sums + (size_t)first * CPU_ATTENTION_GROUPS,
			.scale = q->scale + first,
			.mean_product = q->mean_product + first,
		};

		product_int4_block(products + (size_t)first * KERN_PAGE_TOKENS, k, &block, dim);
	}
}

/* ---- V ------------------------------------------------------------------------------------------------------ */

static inline __attribute__((always_inline)) void add_row(float *o, const struct limbs *sums, uint32_t row, float scale,
	float factor)
{
	_mm512_storeu_ps(o, _mm512_fmadd_ps(join(sums, row, WEIGHT_LIMB), _mm512_set1_ps(scale),
		_mm512_mul_ps(_mm512_loadu_ps(o), _mm512_set1_ps(factor))));
}

/* Vectors against a page. */
struct accumulation {
	float *o;
	const float *factor;
	const struct cpu_attention_weights8 *weights;
	const int8_t *v;
	uint32_t dim, vectors;
	struct limbs *sums; /* [2] */
};

/* Where the sums of a column belong: block from vector `first` on, channels from `channel` on. */
struct place { uint32_t first, channel; };

/* Rows begin <= row < begin + 8 of a column whose sums have been stored. */
static inline __attribute__((always_inline)) void add_rows(const struct accumulation *a, const struct limbs *sums,
	struct place place, const uint32_t begin)
{
	float *o = a->o + (size_t)place.first * a->dim + place.channel;

	if (a->vectors >= place.first + begin + ROWS / 2) {
#pragma GCC unroll 8
		for (uint32_t row = begin; row < begin + ROWS / 2; row++)
			add_row(o + (size_t)row * a->dim, sums, row, a->weights->scale[place.first + row], a->factor[place.first + row]);
		return;
	}
	for (uint32_t row = begin; row < begin + ROWS / 2; row++)
		if (place.first + row < a->vectors)
			add_row(o + (size_t)row * a->dim, sums, row, a->weights->scale[place.first + row], a->factor[place.first + row]);
}

/* Column i is multiplied, the one before it stored, and the one before that added to o. */
static inline __attribute__((always_inline)) void accumulate_column(const uint32_t turn, const struct accumulation *a,
	uint32_t i, const struct place places[3])
{
	const struct turn now = turn_of(turn), before = turn_of(turn + 2);
	struct limbs *to = &a->sums[(i + 1) % 2], *from = &a->sums[i % 2];

	_tile_loadd(7, a->v + (size_t)places[0].channel * 4, (size_t)a->dim * 4);
	clear(now.high);
	multiply_high(now.high);
	if (i > 0)
		store(before.high, to->high);
	if (i > 1)
		add_rows(a, from, places[2], 0);
	clear(now.low);
	multiply_low(now.low);
	if (i > 0)
		store(before.low, to->low);
	if (i > 1)
		add_rows(a, from, places[2], ROWS / 2);
}

/* Stores the last of `columns` columns, and adds the last two. */
static inline __attribute__((always_inline)) void accumulate_rest(const uint32_t turn, const struct accumulation *a,
	uint32_t columns, const struct place places[3])
{
	const struct turn last = turn_of(turn);

	store(last.high, a->sums[(columns + 1) % 2].high);
	store(last.low, a->sums[(columns + 1) % 2].low);
	for (uint32_t begin = 0; columns > 1 && begin < ROWS; begin += ROWS / 2)
		add_rows(a, &a->sums[columns % 2], places[2], begin);
	for (uint32_t begin = 0; begin < ROWS; begin += ROWS / 2)
		add_rows(a, &a->sums[(columns + 1) % 2], places[1], begin);
}

static void load_weights(const struct cpu_attention_weights8 *weights, struct place place)
{
	const size_t stride = (size_t)weights->groups * 2 * KERN_PAGE_TOKENS;
	const uint32_t group = weights->groups > 1 ? place.channel / KERN_KV_GROUP : 0;
	const uint8_t *packed = (const uint8_t *)weights->packed + place.first * stride + (size_t)group * 2 * KERN_PAGE_TOKENS;

	_tile_loadd(4, packed, stride);
	_tile_loadd(5, packed + KERN_PAGE_TOKENS, stride);
}

void cpu_attention_accumulate_int8_amx(float *o, const float *factor, const struct cpu_attention_weights8 *weights,
	uint32_t vectors, const int8_t *v, uint32_t dim, struct cpu_ahead *ahead)
{
	_Alignas(LINE) struct limbs sums[2];
	const struct accumulation a = { o, factor, weights, v, dim, vectors, sums };
	const uint32_t columns = (vectors + ROWS - 1) / ROWS * (dim / LANES), span = weights->groups > 1 ? KERN_KV_GROUP : dim;
	struct place places[3] = { { 0, 0 } };

	settle();
	for (uint32_t i = 0; i < columns; i++) {
		if (places[0].channel % span == 0)
			load_weights(weights, places[0]);
		if (i % 3 == 0)
			accumulate_column(0, &a, i, places);
		else if (i % 3 == 1)
			accumulate_column(1, &a, i, places);
		else
			accumulate_column(2, &a, i, places);
		look_ahead(ahead, columns, dim * KERN_PAGE_TOKENS);
		places[2] = places[1];
		places[1] = places[0];
		places[0].channel += LANES;
		if (places[0].channel == dim)
			places[0] = (struct place){ places[0].first + ROWS, 0 };
	}
	if (columns % 3 == 1)
		accumulate_rest(0, &a, columns, places);
	else if (columns % 3 == 2)
		accumulate_rest(1, &a, columns, places);
	else
		accumulate_rest(2, &a, columns, places);
}
