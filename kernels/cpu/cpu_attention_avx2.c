/*
 * The page functions of attention for AVX2 with FMA. See cpu_attention_kernels.h; cpu_attention_scalar.c says the
 * same plainly.
 *
 * Blocks of query vectors share what is loaded of a page; `rows` and `vecs` are constants wherever they appear, so that
 * a block's sums stay in registers (at most 12 of 16). How vectors are cut into blocks does not show in the result.
 */
#include <immintrin.h>

#include "kernels/cpu/cpu_attention_codes.h"

enum { LANES = 8, PAGE_VECS = KERN_PAGE_TOKENS / LANES, TILE_TOKENS = CPU_ATTENTION_TILE_TOKENS, TILE_VECS = 2 };
enum { BLOCK_ROWS = 6, BLOCK_ROWS_INT8 = 3 };

/* Cuts n into blocks as equal as possible, none larger than most: the size of the first. */
static inline uint32_t block_rows(uint32_t n, uint32_t most)
{
	uint32_t blocks = (n + most - 1) / most;

	return (n + blocks - 1) / blocks;
}

static inline float add_lanes(__m256 x)
{
	__m128 sum = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));

	sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
	return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

static inline float max_lanes(__m256 x)
{
	__m128 max = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));

	max = _mm_max_ps(max, _mm_movehl_ps(max, max));
	return _mm_cvtss_f32(_mm_max_ss(max, _mm_movehdup_ps(max)));
}

static float dot(const float *a, const float *b, uint32_t n)
{
	__m256 sum = _mm256_setzero_ps();

	for (uint32_t i = 0; i < n; i += LANES)
		sum = _mm256_fmadd_ps(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i), sum);
	return add_lanes(sum);
}

static void dots(float *products, const float *q, uint32_t vectors, const float *b, uint32_t n)
{
	for (uint32_t i = 0; i < vectors; i++)
		products[i] = dot(q + (size_t)i * n, b, n);
}

/* ---- K ------------------------------------------------------------------------------------------------------ */

/* Four words from each of 8 tokens, `stride` words apart: r[j] becomes word j of all tokens. Lane n of part i takes token
 * 4 n + i as it is loaded, which leaves a transposition of 4 x 4 within each lane. */
static inline __attribute__((always_inline)) void transpose_words(__m256i r[4], const uint32_t *from, uint32_t stride)
{
	__m256i part[4], low[2], high[2];

	for (int i = 0; i < 4; i++)
		part[i] = _mm256_inserti128_si256(
			_mm256_castsi128_si256(_mm_loadu_si128((const void *)(from + (size_t)i * stride))),
			_mm_loadu_si128((const void *)(from + (size_t)(i + 4) * stride)), 1);
	for (int i = 0; i < 2; i++) {
		low[i] = _mm256_unpacklo_epi32(part[2 * i], part[2 * i + 1]);
		high[i] = _mm256_unpackhi_epi32(part[2 * i], part[2 * i + 1]);
	}
	r[0] = _mm256_unpacklo_epi64(low[0], low[1]);
	r[1] = _mm256_unpackhi_epi64(low[0], low[1]);
	r[2] = _mm256_unpacklo_epi64(high[0], high[1]);
	r[3] = _mm256_unpackhi_epi64(high[0], high[1]);
}

static inline void store(float *to, __m256i x)
{
	_mm256_storeu_si256((void *)to, x);
}

static void transpose_f32(float *tile, const float *k, uint32_t dim)
{
	__m256i r[4];

	for (uint32_t d = 0; d < dim; d += 4, tile += 4 * TILE_TOKENS) {
		transpose_words(r, (const uint32_t *)k + d, dim);
		for (int i = 0; i < 4; i++)
			store(tile + i * TILE_TOKENS, r[i]);
	}
}

/* Pairs of channels are moved as one word and parted at the end. */
static void transpose_bf16(float *tile, const uint16_t *k, uint32_t dim)
{
	const __m256i high = _mm256_set1_epi32((int)0xffff0000);
	__m256i r[4];

	for (uint32_t d = 0; d < dim; d += 8, tile += 8 * TILE_TOKENS) {
		transpose_words(r, (const uint32_t *)k + d / 2, dim / 2);
		for (int i = 0; i < 4; i++) {
			store(tile + 2 * i * TILE_TOKENS, _mm256_slli_epi32(r[i], 16));
			store(tile + (2 * i + 1) * TILE_TOKENS, _mm256_and_si256(r[i], high));
		}
	}
}

static void transpose_f16(float *tile, const uint16_t *k, uint32_t dim)
{
	const __m256i low = _mm256_set1_epi32(0xffff);
	__m256i r[4];

	for (uint32_t d = 0; d < dim; d += 8, tile += 8 * TILE_TOKENS) {
		transpose_words(r, (const uint32_t *)k + d / 2, dim / 2);
		for (int i = 0; i < 4; i++) {
			const __m256i halves = _mm256_permute4x64_epi64(
				_mm256_packus_epi32(_mm256_and_si256(r[i], low), _mm256_srli_epi32(r[i], 16)), 0xd8);

			_mm256_storeu_ps(tile + 2 * i * TILE_TOKENS, _mm256_cvtph_ps(_mm256_castsi256_si128(halves)));
			_mm256_storeu_ps(tile + (2 * i + 1) * TILE_TOKENS, _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1)));
		}
	}
}

/* The f16 of 8 codes, as float32. */
static inline __m256 widen_fp8(const uint8_t *codes)
{
	const __m128i high = _mm_slli_epi16(_mm_cvtepu8_epi16(_mm_loadl_epi64((const void *)codes)), 8);

	return _mm256_cvtph_ps(_mm_and_si128(_mm_srai_epi16(high, 1), _mm_set1_epi16((short)0xbf80)));
}

/* 8 tokens from `token`. */
static void restore_fp8(float *tile, const struct cpu_attention_plain *k, uint32_t token, uint32_t dim)
{
	const uint8_t *from = (const uint8_t *)k->k + (size_t)(token / TILE_TOKENS) * TILE_TOKENS * dim + token % TILE_TOKENS;
	const __m256 scale = _mm256_loadu_ps(k->scale + token);

	for (uint32_t d = 0; d < dim; d++, from += TILE_TOKENS, tile += TILE_TOKENS) {
		const __m256 x = _mm256_mul_ps(widen_fp8(from), scale);

		_mm256_storeu_ps(tile, _mm256_fmadd_ps(x, _mm256_set1_ps(k->width[d]), _mm256_set1_ps(k->mean[d])));
	}
}

static void transpose(float *tile, const struct cpu_attention_plain *k, uint32_t tokens, uint32_t dim)
{
	for (uint32_t token = 0; token < (tokens + TILE_TOKENS - 1) / TILE_TOKENS * TILE_TOKENS; token += LANES) {
		float *to = tile + token / TILE_TOKENS * TILE_TOKENS * dim + token % TILE_TOKENS;
		const size_t at = (size_t)token * dim;

		if (k->format == KERN_KV_F32)
			transpose_f32(to, (const float *)k->k + at, dim);
		else if (k->format == KERN_KV_BF16)
			transpose_bf16(to, (const uint16_t *)k->k + at, dim);
		else if (k->format == KERN_KV_F16)
			transpose_f16(to, (const uint16_t *)k->k + at, dim);
		else
			restore_fp8(to, k, token, dim);
	}
}

static inline __attribute__((always_inline)) void product_rows(const int rows, float *products, const float *tile,
	const float *q, uint32_t tokens, uint32_t dim)
{
	__m256 sum[BLOCK_ROWS][TILE_VECS], k[TILE_VECS];

	for (uint32_t token = 0; token < tokens; token += TILE_TOKENS, products += TILE_TOKENS, tile += TILE_TOKENS * dim) {
		for (int r = 0; r < rows; r++)
			sum[r][0] = sum[r][1] = _mm256_setzero_ps();
		for (uint32_t d = 0; d < dim; d++) {
			k[0] = _mm256_loadu_ps(tile + (size_t)d * TILE_TOKENS);
			k[1] = _mm256_loadu_ps(tile + (size_t)d * TILE_TOKENS + LANES);
			for (int r = 0; r < rows; r++) {
				const __m256 channel = _mm256_broadcast_ss(q + (size_t)r * dim + d);

				sum[r][0] = _mm256_fmadd_ps(channel, k[0], sum[r][0]);
				sum[r][1] = _mm256_fmadd_ps(channel, k[1], sum[r][1]);
			}
		}
		for (int r = 0; r < rows; r++) {
			_mm256_storeu_ps(products + r * KERN_PAGE_TOKENS, sum[r][0]);
			_mm256_storeu_ps(products + r * KERN_PAGE_TOKENS + LANES, sum[r][1]);
		}
	}
}

static void product(float *products, const float *tile, const float *q, uint32_t vectors, uint32_t tokens, uint32_t dim)
{
	for (uint32_t rows; vectors > 0; vectors -= rows, products += rows * KERN_PAGE_TOKENS, q += (size_t)rows * dim) {
		rows = block_rows(vectors, BLOCK_ROWS);
		switch (rows) {
		case 1:
			product_rows(1, products, tile, q, tokens, dim);
			break;
		case 2:
			product_rows(2, products, tile, q, tokens, dim);
			break;
		case 3:
			product_rows(3, products, tile, q, tokens, dim);
			break;
		case 4:
			product_rows(4, products, tile, q, tokens, dim);
			break;
		case 5:
			product_rows(5, products, tile, q, tokens, dim);
			break;
		default:
			product_rows(6, products, tile, q, tokens, dim);
			break;
		}
	}
}

/* ---- int8 K ------------------------------------------------------------------------------------------------- */

static float quantize_query(void *packed, const float *q, const float *width, uint32_t n)
{
	return row_quantize_query(packed, q, width, n);
}

static inline __m256i broadcast4(const int16_t *from)
{
	int64_t quad;

	memcpy(&quad, from, sizeof(quad));
	return _mm256_set1_epi64x(quad);
}

/* Integers of 8 tokens from two sums that hold pairs of parts of 4 tokens each, as floats. */
static inline __m256 join(__m256i first, __m256i second)
{
	return _mm256_cvtepi32_ps(_mm256_permute4x64_epi64(_mm256_hadd_epi32(first, second), 0xd8));
}

/* Sums of products of `rows` times 16-bit integers with 64 bytes, over `quads` steps of `stride` bytes: K's channels or
 * V's tokens, four at a time. Row r's integers begin at left + r * row_stride. Exact in 32 bits: 127 * 16256 * 256 and 127 *
 * 32767 * 64 are below 2^31. */
static inline __attribute__((always_inline)) void multiply_quads(const int rows, const int parts,
	__m256i sum[BLOCK_ROWS_INT8][4], const int16_t *left, size_t row_stride, const int8_t *right, size_t stride,
	uint32_t quads, struct cpu_ahead *ahead)
{
	for (int r = 0; r < rows; r++) {
		for (int i = 0; i < parts; i++)
			sum[r][i] = _mm256_setzero_si256();
	}
	for (uint32_t quad = 0; quad < quads; quad++, left += 4, right += stride) {
		cpu_ahead_part(ahead, quad, (uint32_t)parts * 16);
		for (int i = 0; i < parts; i++) {
			const __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)(right + i * 16)));

			for (int r = 0; r < rows; r++)
				sum[r][i] = _mm256_add_epi32(sum[r][i], _mm256_madd_epi16(wide, broadcast4(left + r * row_stride)));
		}
	}
}

static inline __attribute__((always_inline)) void product_int8_rows(const int rows, float *products,
	const struct cpu_attention_int8 *page, const struct cpu_attention_query8 *q, uint32_t first, uint32_t dim,
	struct cpu_ahead *ahead)
{
	__m256i sum[BLOCK_ROWS_INT8][4];

	products += (size_t)first * KERN_PAGE_TOKENS;
	for (uint32_t token = 0; token < KERN_PAGE_TOKENS; token += TILE_TOKENS) {
		multiply_quads(rows, 4, sum, (const int16_t *)q->packed + (size_t)first * dim, dim, page->k + (size_t)token * 4,
			KERN_PAGE_TOKENS * 4, dim / 4, ahead);
		for (uint32_t i = 0; i < TILE_VECS; i++) {
			const uint32_t at = token + i * LANES;
			const __m256 k_scale = _mm256_loadu_ps(page->scale + at);

			for (int r = 0; r < rows; r++) {
				__m256 factor = _mm256_mul_ps(_mm256_set1_ps(q->scale[first + (uint32_t)r]), k_scale);

				_mm256_storeu_ps(products + r * KERN_PAGE_TOKENS + at, _mm256_fmadd_ps(
					join(sum[r][2 * i], sum[r][2 * i + 1]), factor, _mm256_set1_ps(q->mean_product[first + (uint32_t)r])));
			}
		}
	}
}

/* Only the first block asks for what is ahead. */
static void product_int8(float *products, const struct cpu_attention_int8 *k, const struct cpu_attention_query8 *q,
	uint32_t vectors, uint32_t dim, struct cpu_ahead *ahead)
{
	struct cpu_ahead nothing = {.bytes = 0};

	for (uint32_t first = 0, rows; first < vectors; first += rows, ahead = &nothing) {
		rows = block_rows(vectors - first, BLOCK_ROWS_INT8);
		if (rows == 1)
			product_int8_rows(1, products, k, q, first, dim, ahead);
		else if (rows == 2)
			product_int8_rows(2, products, k, q, first, dim, ahead);
		else
			product_int8_rows(3, products, k, q, first, dim, ahead);
	}
}

/* ---- the rotation ------------------------------------------------------------------------------------------- */

/* As row_rotate, operation by operation: sums, and differences in the lanes of the mask. */
static inline __m256 butterfly(__m256 x, __m256 other, __m256 behind)
{
	return _mm256_blendv_ps(_mm256_add_ps(x, other), _mm256_sub_ps(other, x), behind);
}

static void rotate(float *x, uint32_t n)
{
	const uint32_t run = n & -n;
	const __m256 scale = _mm256_set1_ps(1.0f / sqrtf((float)run));
	const __m256 odd = _mm256_castsi256_ps(_mm256_setr_epi32(0, -1, 0, -1, 0, -1, 0, -1));
	const __m256 second = _mm256_castsi256_ps(_mm256_setr_epi32(0, 0, -1, -1, 0, 0, -1, -1));
	const __m256 upper = _mm256_castsi256_ps(_mm256_setr_epi32(0, 0, 0, 0, -1, -1, -1, -1));

	for (uint32_t i = 0; i < n; i += LANES) {
		__m256 v = _mm256_mul_ps(_mm256_loadu_ps(x + i), scale);

		v = butterfly(v, _mm256_permute_ps(v, 0xb1), odd);
		v = butterfly(v, _mm256_permute_ps(v, 0x4e), second);
		v = butterfly(v, _mm256_permute2f128_ps(v, v, 1), upper);
		_mm256_storeu_ps(x + i, v);
	}
	for (uint32_t half = LANES; half < run; half *= 2) {
		for (uint32_t i = 0; i < n; i += i % half + LANES < half ? LANES : LANES + half) {
			const __m256 a = _mm256_loadu_ps(x + i), b = _mm256_loadu_ps(x + i + half);

			_mm256_storeu_ps(x + i, _mm256_add_ps(a, b));
			_mm256_storeu_ps(x + i + half, _mm256_sub_ps(a, b));
		}
	}
	if (run < n)
		row_reflect(x, n, run);
}

/* ---- int4 K ------------------------------------------------------------------------------------------------- */

static inline __m256 load_bf16(const uint16_t *from)
{
	return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)from)), 16));
}

static inline __m256i levels_of(__m256i codes, __m256i table)
{
	return _mm256_shuffle_epi8(table, _mm256_and_si256(codes, _mm256_set1_epi8(15)));
}

/* Pairs of quads of so many bytes, a multiple of 32: the low nibbles are the first quad's, the high ones the second's. */
static inline void unpack(uint8_t *to, const uint8_t *from, uint32_t quad, uint32_t pairs, int32_t zero, struct cpu_ahead *ahead)
{
	const __m128i levels = _mm_add_epi8(_mm_setr_epi8(INT4_LEVELS), _mm_set1_epi8((char)zero));
	const __m256i table = _mm256_broadcastsi128_si256(levels);
	uint32_t part = 0;

	for (uint32_t pair = 0; pair < pairs; pair++, to += quad) {
		for (uint32_t i = 0; i < quad; i += 32, to += 32, from += 32) {
			const __m256i codes = _mm256_loadu_si256((const void *)from);

			cpu_ahead_part(ahead, part++, 32);
			_mm256_storeu_si256((void *)to, levels_of(codes, table));
			_mm256_storeu_si256((void *)(to + quad), levels_of(_mm256_srli_epi16(codes, 4), table));
		}
	}
}

static void unpack_k(uint8_t *to, const uint8_t *from, uint32_t dim, struct cpu_ahead *ahead)
{
	unpack(to, from, 4 * KERN_PAGE_TOKENS, dim / 8, INT4_ZERO, ahead);
}

static void unpack_v(uint8_t *to, const uint8_t *from, uint32_t dim, struct cpu_ahead *ahead)
{
	unpack(to, from, 4 * dim, KERN_PAGE_TOKENS / 8, 0, ahead);
}

/* The largest sums of pairs are 2 * 127 * 127, which fits 16 bits. */
static inline __m256i group_products(const struct cpu_attention_int4 *page, const int8_t *q, uint32_t d, uint32_t end,
	uint32_t token)
{
	__m256i sum = _mm256_setzero_si256();

	for (; d < end; d += 4) {
		const __m256i codes = _mm256_loadu_si256((const void *)(page->k + (d * KERN_PAGE_TOKENS + token * 4)));
		int32_t word;

		memcpy(&word, q + d, sizeof(word));
		sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(codes, _mm256_set1_epi32(word)),
			_mm256_set1_epi16(1)));
	}
	return sum;
}

static void product_int4(float *products, const struct cpu_attention_int4 *k, const struct cpu_attention_query4 *query,
	uint32_t vectors, uint32_t dim)
{
	for (uint32_t i = 0; i < vectors * PAGE_VECS; i++) {
		const uint32_t vector = i / PAGE_VECS, token = i % PAGE_VECS * LANES;
		__m256 total = _mm256_setzero_ps();

		for (uint32_t d = 0, group = 0; d < dim; d += KERN_KV_GROUP, group++) {
			const uint32_t end = d + KERN_KV_GROUP < dim ? d + KERN_KV_GROUP : dim;
			const int32_t surplus = INT4_ZERO * query->sums[vector * CPU_ATTENTION_GROUPS + group];
			const __m256i sum = _mm256_sub_epi32(group_products(k, query->packed + (size_t)vector * dim, d, end, token),
				_mm256_set1_epi32(surplus));
			const __m256 scale = _mm256_mul_ps(_mm256_set1_ps(INT4_SHRINK),
				load_bf16(k->scale + group * KERN_PAGE_TOKENS + token));

			total = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale, total);
		}
		_mm256_storeu_ps(products + vector * KERN_PAGE_TOKENS + token, _mm256_fmadd_ps(total,
			_mm256_set1_ps(query->scale[vector] * INT4_GROW), _mm256_set1_ps(query->mean_product[vector])));
	}
}

/* ---- softmax ------------------------------------------------------------------------------------------------ */

/* As row_exp2. */
static inline __m256 exp2_8(__m256 x)
{
	const __m256 is_zero = _mm256_cmp_ps(x, _mm256_set1_ps(EXP2_LOWEST), _CMP_LT_OQ);
	const __m256 n = _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), r = _mm256_sub_ps(x, n);
	const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
	__m256 p = _mm256_set1_ps(EXP2_C0);

	p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(EXP2_C1));
	p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(EXP2_C2));
	p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(EXP2_C3));
	p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(EXP2_C4));
	p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(EXP2_C5));
	p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
	p = _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
	return _mm256_andnot_ps(is_zero, p);
}

/* As row_tanh. */
static inline __m256 tanh8(__m256 x)
{
	const __m256 sign_bit = _mm256_set1_ps(-0.0f), one = _mm256_set1_ps(1.0f), z = _mm256_mul_ps(x, x);
	const __m256 magnitude = _mm256_andnot_ps(sign_bit, x);
	const __m256 t = exp2_8(_mm256_mul_ps(magnitude, _mm256_set1_ps(TANH_SCALE)));
	const __m256 is_small = _mm256_cmp_ps(magnitude, _mm256_set1_ps(TANH_SMALL), _CMP_LT_OQ);
	__m256 large = _mm256_div_ps(_mm256_sub_ps(one, t), _mm256_add_ps(one, t)), small = _mm256_set1_ps(TANH_C0);

	small = _mm256_fmadd_ps(small, z, _mm256_set1_ps(TANH_C1));
	small = _mm256_fmadd_ps(small, z, _mm256_set1_ps(TANH_C2));
	small = _mm256_fmadd_ps(small, z, _mm256_set1_ps(TANH_C3));
	small = _mm256_fmadd_ps(small, z, _mm256_set1_ps(TANH_C4));
	small = _mm256_fmadd_ps(_mm256_mul_ps(small, z), x, x);
	large = _mm256_or_ps(large, _mm256_and_ps(x, sign_bit));
	return _mm256_blendv_ps(large, small, is_small);
}

static inline uint64_t visible_to(const struct cpu_attention_softmax *how, uint32_t vector)
{
	return how->visible ? how->visible[vector] : UINT64_MAX;
}

/* All ones in the lanes of the 8 tokens from `token` that are visible. */
static inline __m256 visible8(uint64_t visible, uint32_t token)
{
	const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);

	return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int)(visible >> token)), bit), bit));
}

static void softmax_one(float *products, uint64_t seen, const struct cpu_attention_softmax *how, float *old_max,
	float *old_sum, float *factor)
{
	const __m256 scale = _mm256_set1_ps(how->scale), cap = _mm256_set1_ps(how->cap);
	__m256 x[PAGE_VECS], largest = _mm256_set1_ps(*old_max), visible, shift;
	float max;

	for (uint32_t i = 0; i < PAGE_VECS; i++) {
		x[i] = _mm256_mul_ps(_mm256_loadu_ps(products + i * LANES), scale);
		if (how->cap != 0.0f)
			x[i] = _mm256_mul_ps(cap, tanh8(x[i]));
		visible = visible8(seen, i * LANES);
		x[i] = _mm256_blendv_ps(_mm256_set1_ps(-INFINITY), x[i], visible);
		largest = _mm256_max_ps(largest, x[i]);
	}
	max = max_lanes(largest);
	shift = _mm256_set1_ps(max == -INFINITY ? 0.0f : max);
	for (uint32_t i = 0; i < PAGE_VECS; i++) {
		x[i] = exp2_8(_mm256_sub_ps(x[i], shift));
		_mm256_storeu_ps(products + i * LANES, x[i]);
	}
	*factor = _mm256_cvtss_f32(exp2_8(_mm256_sub_ps(_mm256_set1_ps(*old_max), shift)));
	*old_sum = *old_sum * *factor + add_lanes(_mm256_add_ps(
		_mm256_add_ps(_mm256_add_ps(x[0], x[1]), _mm256_add_ps(x[2], x[3])),
		_mm256_add_ps(_mm256_add_ps(x[4], x[5]), _mm256_add_ps(x[6], x[7]))));
	*old_max = max;
}

static void softmax_states(float *products, uint32_t vectors, const struct cpu_attention_softmax *how,
	const struct cpu_attention_running *running)
{
	for (uint32_t i = 0; i < vectors; i++)
		softmax_one(products + (size_t)i * KERN_PAGE_TOKENS, visible_to(how, i), how, &running->max[i], &running->sum[i],
			&running->factor[i]);
}

/* V's scales of a group, of the tokens that are seen; the others may be anything. */
static inline __m256 load_v_scale(const struct cpu_attention_softmax *how, uint64_t visible, uint32_t group, uint32_t token)
{
	const __m256 seen = visible8(visible, token);

	if (how->v_format == KERN_KV_INT4)
		return _mm256_and_ps(_mm256_andnot_ps(_mm256_set1_ps(-0.0f), seen),
			load_bf16((const uint16_t *)how->v_scale + group * KERN_PAGE_TOKENS + token));
	return _mm256_and_ps(seen, _mm256_loadu_ps((const float *)how->v_scale + token));
}

static void softmax(float *products, uint32_t vectors, const struct cpu_attention_softmax *how,
	const struct cpu_attention_running *running)
{
	softmax_states(products, vectors, how, running);
	for (uint32_t i = 0; how->v_format == KERN_KV_FP8 && i < vectors * PAGE_VECS; i++)
		_mm256_storeu_ps(products + i * LANES,
			_mm256_mul_ps(_mm256_loadu_ps(products + i * LANES), load_v_scale(how, visible_to(how, i / PAGE_VECS), 0,
				i % PAGE_VECS * LANES)));
}

/* The bits of the largest weight of any group. */
static uint32_t largest_weight(const float *p, uint64_t visible, const struct cpu_attention_softmax *how, uint32_t groups)
{
	__m256i largest = _mm256_setzero_si256();
	uint32_t bits[LANES], most = 0;

	for (uint32_t i = 0; i < groups * PAGE_VECS; i++) {
		const uint32_t token = i % PAGE_VECS * LANES;
		const __m256 w = _mm256_mul_ps(_mm256_loadu_ps(p + token), load_v_scale(how, visible, i / PAGE_VECS, token));

		largest = _mm256_max_epu32(largest, _mm256_castps_si256(w));
	}
	_mm256_storeu_si256((void *)bits, largest);
	for (int i = 0; i < LANES; i++)
		most = bits[i] > most ? bits[i] : most;
	return most & FLOAT_MAGNITUDE_BITS;
}

static inline __m256i whole_weights(const float *p, uint64_t visible, const struct cpu_attention_softmax *how,
	uint32_t group, uint32_t token, __m256 inverse)
{
	const __m256 w = _mm256_mul_ps(_mm256_loadu_ps(p + token), load_v_scale(how, visible, group, token));

	return _mm256_cvtps_epi32(_mm256_mul_ps(w, inverse));
}

static void softmax_int8(const struct cpu_attention_weights8 *weights, float *products, uint32_t vectors,
	const struct cpu_attention_softmax *how, const struct cpu_attention_running *running)
{
	int16_t *packed = weights->packed;

	softmax_states(products, vectors, how, running);
	for (uint32_t i = 0; i < vectors; i++, products += KERN_PAGE_TOKENS) {
		const uint64_t visible = visible_to(how, i);
		__m256 factor;
		float inverse;

		weights->scale[i] = row_weight_scale(largest_weight(products, visible, how, weights->groups), &inverse);
		factor = _mm256_set1_ps(inverse);
		for (uint32_t j = 0; j < weights->groups * PAGE_VECS; j += 2, packed += 2 * LANES) {
			const uint32_t group = j / PAGE_VECS, token = j % PAGE_VECS * LANES;
			__m256i first = whole_weights(products, visible, how, group, token, factor);
			__m256i second = whole_weights(products, visible, how, group, token + LANES, factor);

			_mm256_storeu_si256((void *)packed, _mm256_permute4x64_epi64(_mm256_packs_epi32(first, second), 0xd8));
		}
	}
}

/* ---- V ------------------------------------------------------------------------------------------------------ */

static inline __attribute__((always_inline)) __m256 load_v(const enum kern_kv format, const void *v, size_t at)
{
	if (format == KERN_KV_F32)
		return _mm256_loadu_ps((const float *)v + at);
	if (format == KERN_KV_F16)
		return _mm256_cvtph_ps(_mm_loadu_si128((const void *)((const uint16_t *)v + at)));
	if (format == KERN_KV_FP8)
		return widen_fp8((const uint8_t *)v + at);
	return _mm256_castsi256_ps(_mm256_slli_epi32(
		_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)((const uint16_t *)v + at))), 16));
}

static void widen(float *to, const void *v, enum kern_kv format, uint32_t n)
{
	for (uint32_t i = 0; format == KERN_KV_BF16 && i < n; i += LANES)
		_mm256_storeu_ps(to + i, load_v(KERN_KV_BF16, v, i));
	for (uint32_t i = 0; format == KERN_KV_F16 && i < n; i += LANES)
		_mm256_storeu_ps(to + i, load_v(KERN_KV_F16, v, i));
	for (uint32_t i = 0; format == KERN_KV_FP8 && i < n; i += LANES)
		_mm256_storeu_ps(to + i, load_v(KERN_KV_FP8, v, i));
}

/* vecs * 8 channels from `channel`. */
static inline __attribute__((always_inline)) void accumulate_block(const int rows, const int vecs,
	const enum kern_kv format, float *o, const float *weights, const void *v, uint32_t begin, uint32_t end, uint32_t dim,
	uint32_t channel)
{
	__m256 sum[BLOCK_ROWS][TILE_VECS], value[TILE_VECS];

	for (int r = 0; r < rows; r++) {
		for (int i = 0; i < vecs; i++)
			sum[r][i] = _mm256_loadu_ps(o + (size_t)r * dim + channel + i * LANES);
	}
	for (uint32_t t = begin; t < end; t++) {
		for (int i = 0; i < vecs; i++)
			value[i] = load_v(format, v, (size_t)t * dim + channel + (size_t)i * LANES);
		for (int r = 0; r < rows; r++) {
			const __m256 weight = _mm256_broadcast_ss(weights + r * KERN_PAGE_TOKENS + t);

			for (int i = 0; i < vecs; i++)
				sum[r][i] = _mm256_fmadd_ps(weight, value[i], sum[r][i]);
		}
	}
	for (int r = 0; r < rows; r++) {
		for (int i = 0; i < vecs; i++)
			_mm256_storeu_ps(o + (size_t)r * dim + channel + i * LANES, sum[r][i]);
	}
}

static inline __attribute__((always_inline)) void accumulate_rows(const int rows, const enum kern_kv format, float *o,
	const float *weights, const void *v, uint32_t begin, uint32_t end, uint32_t dim)
{
	uint32_t channel = 0;

	for (; channel + TILE_VECS * LANES <= dim; channel += TILE_VECS * LANES)
		accumulate_block(rows, TILE_VECS, format, o, weights, v, begin, end, dim, channel);
	if (channel < dim)
		accumulate_block(rows, 1, format, o, weights, v, begin, end, dim, channel);
}

static inline __attribute__((always_inline)) void accumulate_format(const enum kern_kv format, float *o,
	const float *weights, uint32_t vectors, const void *v, uint32_t begin, uint32_t end, uint32_t dim)
{
	for (uint32_t rows; vectors > 0; vectors -= rows, weights += rows * KERN_PAGE_TOKENS, o += (size_t)rows * dim) {
		rows = block_rows(vectors, BLOCK_ROWS);
		switch (rows) {
		case 1:
			accumulate_rows(1, format, o, weights, v, begin, end, dim);
			break;
		case 2:
			accumulate_rows(2, format, o, weights, v, begin, end, dim);
			break;
		case 3:
			accumulate_rows(3, format, o, weights, v, begin, end, dim);
			break;
		case 4:
			accumulate_rows(4, format, o, weights, v, begin, end, dim);
			break;
		case 5:
			accumulate_rows(5, format, o, weights, v, begin, end, dim);
			break;
		default:
			accumulate_rows(6, format, o, weights, v, begin, end, dim);
			break;
		}
	}
}

static void accumulate(float *o, const float *weights, uint32_t vectors, const void *v, enum kern_kv format,
	uint32_t begin, uint32_t end, uint32_t dim)
{
	if (format == KERN_KV_F32)
		accumulate_format(KERN_KV_F32, o, weights, vectors, v, begin, end, dim);
	else if (format == KERN_KV_BF16)
		accumulate_format(KERN_KV_BF16, o, weights, vectors, v, begin, end, dim);
	else if (format == KERN_KV_F16)
		accumulate_format(KERN_KV_F16, o, weights, vectors, v, begin, end, dim);
	else
		accumulate_format(KERN_KV_FP8, o, weights, vectors, v, begin, end, dim);
}

/* A vector's weights for a channel. */
static inline const int16_t *packed_weights(const struct cpu_attention_weights8 *weights, uint32_t vector, uint32_t channel)
{
	const uint32_t group = weights->groups > 1 ? channel / KERN_KV_GROUP : 0;

	return (const int16_t *)weights->packed + ((size_t)vector * weights->groups + group) * KERN_PAGE_TOKENS;
}

/* vecs * 8 channels of one group from `channel`. */
static inline __attribute__((always_inline)) void accumulate_int8_block(const int rows, const int vecs, float *o,
	const float *factor, const struct cpu_attention_weights8 *weights, uint32_t first, const int8_t *v, uint32_t dim,
	uint32_t channel, struct cpu_ahead *ahead)
{
	__m256i sum[BLOCK_ROWS_INT8][4];

	multiply_quads(rows, 2 * vecs, sum, packed_weights(weights, first, channel),
		(size_t)weights->groups * KERN_PAGE_TOKENS, v + (size_t)channel * 4, (size_t)dim * 4,
		KERN_PAGE_TOKENS / 4, ahead);
	for (int r = 0; r < rows; r++) {
		const __m256 scale = _mm256_set1_ps(weights->scale[first + (uint32_t)r]);
		const __m256 old_factor = _mm256_set1_ps(factor[first + (uint32_t)r]);

		for (int i = 0; i < vecs; i++) {
			float *at = o + (size_t)(first + (uint32_t)r) * dim + channel + i * LANES;

			_mm256_storeu_ps(at, _mm256_fmadd_ps(join(sum[r][2 * i], sum[r][2 * i + 1]), scale,
				_mm256_mul_ps(_mm256_loadu_ps(at), old_factor)));
		}
	}
}

static inline __attribute__((always_inline)) void accumulate_int8_rows(const int rows, float *o, const float *factor,
	const struct cpu_attention_weights8 *weights, uint32_t first, const int8_t *v, uint32_t dim, struct cpu_ahead *ahead)
{
	uint32_t channel = 0;

	for (; channel + TILE_VECS * LANES <= dim; channel += TILE_VECS * LANES)
		accumulate_int8_block(rows, TILE_VECS, o, factor, weights, first, v, dim, channel, ahead);
	if (channel < dim)
		accumulate_int8_block(rows, 1, o, factor, weights, first, v, dim, channel, ahead);
}

static void accumulate_int8(float *o, const float *factor, const struct cpu_attention_weights8 *weights, uint32_t vectors,
	const int8_t *v, uint32_t dim, struct cpu_ahead *ahead)
{
	struct cpu_ahead nothing = {.bytes = 0};

	for (uint32_t first = 0, rows; first < vectors; first += rows, ahead = &nothing) {
		rows = block_rows(vectors - first, BLOCK_ROWS_INT8);
		if (rows == 1)
			accumulate_int8_rows(1, o, factor, weights, first, v, dim, ahead);
		else if (rows == 2)
			accumulate_int8_rows(2, o, factor, weights, first, v, dim, ahead);
		else
			accumulate_int8_rows(3, o, factor, weights, first, v, dim, ahead);
	}
}

const struct cpu_attention_kernels cpu_attention_avx2 = {
	.load = row_load,
	.store = row_store,
	.rope = row_rope,
	.smooth = row_smooth,
	.quantize = row_quantize,
	.quantize_fp8 = row_quantize_fp8,
	.quantize_int4 = row_quantize_int4,
	.follow = row_follow,
	.rotate = rotate,
	.interleave = row_interleave,
	.survey = row_survey,
	.dot = dot,
	.dots = dots,
	.quantize_query = quantize_query,
	.quantize_query4 = row_quantize_query4,
	.fold = row_fold,
	.multiply = row_multiply,
	.transpose = transpose,
	.product = product,
	.product_int8 = product_int8,
	.unpack_k = unpack_k,
	.unpack_v = unpack_v,
	.add_low = row_add_low,
	.product_int4 = product_int4,
	.widen = widen,
	.softmax = softmax,
	.softmax_int8 = softmax_int8,
	.accumulate = accumulate,
	.accumulate_int8 = accumulate_int8,
};
