/*
 * The page functions of attention for AVX-512 with VNNI. See cpu_attention_kernels.h; cpu_attention_scalar.c says
 * the same plainly.
 *
 * Blocks of query vectors share what is loaded of a page; `rows` and `vecs` are constants wherever they appear, so that
 * a block's sums stay in registers (at most 24 of 32). How vectors are cut into blocks does not show in the result.
 */
#include <immintrin.h>

#include "kernels/cpu/cpu_attention_codes.h"
#include "kernels/cpu/cpu_attention_avx512.inc"

enum { PAGE_VECS = KERN_PAGE_TOKENS / LANES, BLOCK_ROWS = 6, BLOCK_ROWS_INT8 = 4 };

/* Cuts n into blocks as equal as possible, none larger than most: the size of the first. */
static inline uint32_t block_rows(uint32_t n, uint32_t most)
{
	uint32_t blocks = (n + most - 1) / most;

	return (n + blocks - 1) / blocks;
}

static float dot(const float *a, const float *b, uint32_t n)
{
	__m512 sum = _mm512_setzero_ps();

	for (uint32_t i = 0; i < n; i += LANES) {
		const __mmask16 mask = n - i < LANES ? 0xff : 0xffff;

		sum = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(mask, a + i), _mm512_maskz_loadu_ps(mask, b + i), sum);
	}
	return _mm512_reduce_add_ps(sum);
}

/* ---- K ------------------------------------------------------------------------------------------------------ */

/* Four words from each of 16 tokens, `stride` words apart: r[j] becomes word j of all tokens. Lane n of part i takes token
 * 4 n + i as it is loaded, which leaves a transposition of 4 x 4 within each lane. */
static inline __attribute__((always_inline)) void transpose_words(__m512i r[4], const uint32_t *from, uint32_t stride)
{
	__m512i part[4], low[2], high[2];

	for (int i = 0; i < 4; i++) {
		const uint32_t *token = from + (size_t)i * stride;

		part[i] = _mm512_castsi128_si512(_mm_loadu_si128((const void *)token));
		for (int n = 1; n < 4; n++)
			part[i] = _mm512_mask_broadcast_i32x4(part[i], (__mmask16)(0xf << 4 * n),
				_mm_loadu_si128((const void *)(token + (size_t)n * 4 * stride)));
	}
	for (int i = 0; i < 2; i++) {
		low[i] = _mm512_unpacklo_epi32(part[2 * i], part[2 * i + 1]);
		high[i] = _mm512_unpackhi_epi32(part[2 * i], part[2 * i + 1]);
	}
	r[0] = _mm512_unpacklo_epi64(low[0], low[1]);
	r[1] = _mm512_unpackhi_epi64(low[0], low[1]);
	r[2] = _mm512_unpacklo_epi64(high[0], high[1]);
	r[3] = _mm512_unpackhi_epi64(high[0], high[1]);
}

static void transpose_f32(float *tile, const float *k, uint32_t dim)
{
	__m512i r[4];

	for (uint32_t d = 0; d < dim; d += 4, tile += 4 * LANES) {
		transpose_words(r, (const uint32_t *)k + d, dim);
		for (int i = 0; i < 4; i++)
			_mm512_storeu_si512(tile + i * LANES, r[i]);
	}
}

/* Pairs of channels are moved as one word and parted at the end. */
static void transpose_bf16(float *tile, const uint16_t *k, uint32_t dim)
{
	const __m512i high = _mm512_set1_epi32((int)0xffff0000);
	__m512i r[4];

	for (uint32_t d = 0; d < dim; d += 8, tile += 8 * LANES) {
		transpose_words(r, (const uint32_t *)k + d / 2, dim / 2);
		for (int i = 0; i < 4; i++) {
			_mm512_storeu_si512(tile + 2 * i * LANES, _mm512_slli_epi32(r[i], 16));
			_mm512_storeu_si512(tile + (2 * i + 1) * LANES, _mm512_and_si512(r[i], high));
		}
	}
}

static void transpose_f16(float *tile, const uint16_t *k, uint32_t dim)
{
	__m512i r[4];

	for (uint32_t d = 0; d < dim; d += 8, tile += 8 * LANES) {
		transpose_words(r, (const uint32_t *)k + d / 2, dim / 2);
		for (int i = 0; i < 4; i++) {
			_mm512_storeu_ps(tile + 2 * i * LANES, _mm512_cvtph_ps(_mm512_cvtepi32_epi16(r[i])));
			_mm512_storeu_ps(tile + (2 * i + 1) * LANES,
				_mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(r[i], 16))));
		}
	}
}

/* The f16 of 16 codes, as float32. */
static inline __m512 widen_fp8(__m128i codes)
{
	const __m256i high = _mm256_slli_epi16(_mm256_cvtepu8_epi16(codes), 8);

	return _mm512_cvtph_ps(_mm256_and_si256(_mm256_srai_epi16(high, 1), _mm256_set1_epi16((short)0xbf80)));
}

static void restore_fp8(float *tile, const struct cpu_attention_plain *k, uint32_t token, uint32_t dim)
{
	const uint8_t *from = (const uint8_t *)k->k + (size_t)token * dim;
	const __m512 scale = _mm512_loadu_ps(k->scale + token);

	for (uint32_t d = 0; d < dim; d++, from += LANES, tile += LANES) {
		const __m512 x = _mm512_mul_ps(widen_fp8(_mm_loadu_si128((const void *)from)), scale);

		_mm512_storeu_ps(tile, _mm512_fmadd_ps(x, _mm512_set1_ps(k->width[d]), _mm512_set1_ps(k->mean[d])));
	}
}

static void transpose(float *tile, const struct cpu_attention_plain *k, uint32_t tokens, uint32_t dim)
{
	for (uint32_t token = 0; token < tokens; token += LANES) {
		const size_t at = (size_t)token * dim;

		if (k->format == KERN_KV_F32)
			transpose_f32(tile + at, (const float *)k->k + at, dim);
		else if (k->format == KERN_KV_BF16)
			transpose_bf16(tile + at, (const uint16_t *)k->k + at, dim);
		else if (k->format == KERN_KV_F16)
			transpose_f16(tile + at, (const uint16_t *)k->k + at, dim);
		else
			restore_fp8(tile + at, k, token, dim);
	}
}

static inline __attribute__((always_inline)) void product_block(const int rows, const int vecs, float *products,
	const float *tile, const float *q, uint32_t dim)
{
	__m512 sum[BLOCK_ROWS][PAGE_VECS], k[PAGE_VECS];

	for (int r = 0; r < rows; r++) {
		for (int i = 0; i < vecs; i++)
			sum[r][i] = _mm512_setzero_ps();
	}
	for (uint32_t d = 0; d < dim; d++) {
		for (int i = 0; i < vecs; i++)
			k[i] = _mm512_loadu_ps(tile + ((size_t)i * dim + d) * LANES);
		for (int r = 0; r < rows; r++) {
			const __m512 channel = _mm512_set1_ps(q[(size_t)r * dim + d]);

			for (int i = 0; i < vecs; i++)
				sum[r][i] = _mm512_fmadd_ps(channel, k[i], sum[r][i]);
		}
	}
	for (int r = 0; r < rows; r++) {
		for (int i = 0; i < vecs; i++)
			_mm512_storeu_ps(products + r * KERN_PAGE_TOKENS + i * LANES, sum[r][i]);
	}
}

/* The whole page at once, or as many 16 tokens as are wanted. */
static inline __attribute__((always_inline)) void product_rows(const int rows, float *products, const float *tile,
	const float *q, uint32_t tokens, uint32_t dim)
{
	if (tokens > KERN_PAGE_TOKENS - LANES) {
		product_block(rows, PAGE_VECS, products, tile, q, dim);
		return;
	}
	for (uint32_t token = 0; token < tokens; token += LANES)
		product_block(rows, 1, products + token, tile + (size_t)token * dim, q, dim);
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

/* An integer of q is 128 * high + low, high within +-127 and low within -64 .. 63; both are stored with 128 added,
 * because the product takes unsigned by signed bytes: [high[n]][low[n]]. */
enum { OFFSET = 128, OFFSET_PRODUCT = 128 * OFFSET + OFFSET };

static float quantize_query(void *packed, const float *q, const float *width, uint32_t n)
{
	uint8_t *high = packed, *low = high + n;
	int16_t whole[CPU_ATTENTION_DIM_MAX];
	float scale = row_quantize_query(whole, q, width, n);

	for (uint32_t i = 0; i < n; i++) {
		int32_t upper = (whole[i] + 64) >> 7;

		high[i] = (uint8_t)(upper + OFFSET);
		low[i] = (uint8_t)(whole[i] - upper * 128 + OFFSET);
	}
	return scale;
}

/* Sums of products of `rows` times two limbs with vecs * 64 bytes, over `quads` steps of `stride` bytes: K's channels or
 * V's tokens, four at a time. Row r's limbs begin at left + r * row_bytes, and limb_bytes behind. */
static inline __attribute__((always_inline)) void multiply_quads(const int rows, const int vecs,
	__m512i high[BLOCK_ROWS_INT8][PAGE_VECS], __m512i low[BLOCK_ROWS_INT8][PAGE_VECS], const uint8_t *left,
	size_t row_bytes, size_t limb_bytes, const uint8_t *right, size_t stride, uint32_t quads, __mmask16 mask,
	struct cpu_ahead *ahead)
{
	__m512i right_vec[PAGE_VECS];

	for (int r = 0; r < rows; r++) {
		for (int i = 0; i < vecs; i++)
			high[r][i] = low[r][i] = _mm512_setzero_si512();
	}
	for (uint32_t quad = 0; quad < quads; quad++, left += 4, right += stride) {
		cpu_ahead_part(ahead, quad, (uint32_t)vecs * 64);
		for (int i = 0; i < vecs; i++)
			right_vec[i] = vecs > 1 ? _mm512_loadu_si512(right + i * 64) : _mm512_maskz_loadu_epi32(mask, right);
		for (int r = 0; r < rows; r++) {
			const __m512i upper = broadcast4(left + r * row_bytes), lower = broadcast4(left + r * row_bytes + limb_bytes);

			for (int i = 0; i < vecs; i++) {
				add_dots(&high[r][i], upper, right_vec[i]);
				add_dots(&low[r][i], lower, right_vec[i]);
			}
		}
	}
}

/* vecs * 16 tokens from `token`. */
static inline __attribute__((always_inline)) void product_int8_block(const int rows, const int vecs, float *products,
	const struct cpu_attention_int8 *page, const struct cpu_attention_query8 *q, uint32_t first, uint32_t token,
	uint32_t dim, struct cpu_ahead *ahead)
{
	__m512i high[BLOCK_ROWS_INT8][PAGE_VECS], low[BLOCK_ROWS_INT8][PAGE_VECS];

	multiply_quads(rows, vecs, high, low, (const uint8_t *)q->packed + (size_t)first * 2 * dim, (size_t)2 * dim, dim,
		(const uint8_t *)page->k + (size_t)token * 4, KERN_PAGE_TOKENS * 4, dim / 4, 0xffff, ahead);
	for (int i = 0; i < vecs; i++) {
		const uint32_t at = token + (uint32_t)i * LANES;
		const __m512i surplus = _mm512_mullo_epi32(_mm512_loadu_si512(page->sum + at), _mm512_set1_epi32(OFFSET_PRODUCT));
		const __m512 k_scale = _mm512_loadu_ps(page->scale + at);

		for (int r = 0; r < rows; r++) {
			__m512i sum = _mm512_add_epi32(_mm512_slli_epi32(high[r][i], 7), low[r][i]);
			__m512 whole = _mm512_cvtepi32_ps(_mm512_sub_epi32(sum, surplus));
			__m512 factor = _mm512_mul_ps(_mm512_set1_ps(q->scale[first + (uint32_t)r]), k_scale);

			_mm512_storeu_ps(products + (first + (uint32_t)r) * KERN_PAGE_TOKENS + at,
				_mm512_fmadd_ps(whole, factor, _mm512_set1_ps(q->mean_product[first + (uint32_t)r])));
		}
	}
}

/* As many tokens at once as there are registers for the sums. */
static inline __attribute__((always_inline)) void product_int8_rows(const int rows, float *products,
	const struct cpu_attention_int8 *k, const struct cpu_attention_query8 *q, uint32_t first, uint32_t dim,
	struct cpu_ahead *ahead)
{
	if (rows <= 2) {
		product_int8_block(rows, PAGE_VECS, products, k, q, first, 0, dim, ahead);
		return;
	}
	for (uint32_t token = 0; token < KERN_PAGE_TOKENS; token += 2 * LANES)
		product_int8_block(rows, 2, products, k, q, first, token, dim, ahead);
}

/* Only the first block asks for what is ahead. */
static void product_int8(float *products, const struct cpu_attention_int8 *k, const struct cpu_attention_query8 *q,
	uint32_t vectors, uint32_t dim, struct cpu_ahead *ahead)
{
	struct cpu_ahead nothing = {.bytes = 0};

	for (uint32_t first = 0, rows; first < vectors; first += rows, ahead = &nothing) {
		rows = block_rows(vectors - first, BLOCK_ROWS_INT8);
		switch (rows) {
		case 1:
			product_int8_rows(1, products, k, q, first, dim, ahead);
			break;
		case 2:
			product_int8_rows(2, products, k, q, first, dim, ahead);
			break;
		case 3:
			product_int8_rows(3, products, k, q, first, dim, ahead);
			break;
		default:
			product_int8_rows(4, products, k, q, first, dim, ahead);
			break;
		}
	}
}

/* ---- int4 K ------------------------------------------------------------------------------------------------- */

/* 32 tokens from `token`. Sums of a group begin with what the bias of K has too much. */
static inline __attribute__((always_inline)) void product_int4_block(const int rows, float *products,
	const struct cpu_attention_int4 *page, const struct cpu_attention_query4 *q, uint32_t first, uint32_t token,
	uint32_t dim)
{
	enum { VECS = 2 };
	__m512 total[BLOCK_ROWS_INT8][VECS];

	for (int r = 0; r < rows; r++) {
		for (int i = 0; i < VECS; i++)
			total[r][i] = _mm512_setzero_ps();
	}
	for (uint32_t d = 0, group = 0; d < dim; group++) {
		const uint32_t end = d + KERN_KV_GROUP < dim ? d + KERN_KV_GROUP : dim;
		__m512i sum[BLOCK_ROWS_INT8][VECS];

		for (int r = 0; r < rows; r++) {
			const int32_t surplus = INT4_ZERO * q->sums[(first + (uint32_t)r) * CPU_ATTENTION_GROUPS + group];

			for (int i = 0; i < VECS; i++)
				sum[r][i] = _mm512_set1_epi32(-surplus);
		}
		for (; d < end; d += 4) {
			const uint8_t *from = page->k + ((size_t)d * KERN_PAGE_TOKENS + (size_t)token * 4);
			const __m512i left[VECS] = { _mm512_loadu_si512(from), _mm512_loadu_si512(from + 64) };

			for (int r = 0; r < rows; r++) {
				const __m512i right = broadcast4((const uint8_t *)q->packed + (first + (uint32_t)r) * dim + d);

				for (int i = 0; i < VECS; i++)
					add_dots(&sum[r][i], left[i], right);
			}
		}
		for (uint32_t i = 0; i < VECS; i++) {
			const __m512 scale = _mm512_mul_ps(_mm512_set1_ps(INT4_SHRINK),
				load_bf16(page->scale + group * KERN_PAGE_TOKENS + token + i * LANES));

			for (int r = 0; r < rows; r++)
				total[r][i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][i]), scale, total[r][i]);
		}
	}
	for (int r = 0; r < rows; r++) {
		const __m512 scale = _mm512_set1_ps(q->scale[first + (uint32_t)r] * INT4_GROW);
		const __m512 mean_product = _mm512_set1_ps(q->mean_product[first + (uint32_t)r]);

		for (int i = 0; i < VECS; i++)
			_mm512_storeu_ps(products + (first + (uint32_t)r) * KERN_PAGE_TOKENS + token + i * LANES,
				_mm512_fmadd_ps(total[r][i], scale, mean_product));
	}
}

static inline __attribute__((always_inline)) void product_int4_rows(const int rows, float *products,
	const struct cpu_attention_int4 *k, const struct cpu_attention_query4 *q, uint32_t first, uint32_t dim)
{
	for (uint32_t token = 0; token < KERN_PAGE_TOKENS; token += 2 * LANES)
		product_int4_block(rows, products, k, q, first, token, dim);
}

static void product_int4(float *products, const struct cpu_attention_int4 *k, const struct cpu_attention_query4 *q,
	uint32_t vectors, uint32_t dim)
{
	for (uint32_t first = 0, rows; first < vectors; first += rows) {
		rows = block_rows(vectors - first, BLOCK_ROWS_INT8);
		switch (rows) {
		case 1:
			product_int4_rows(1, products, k, q, first, dim);
			break;
		case 2:
			product_int4_rows(2, products, k, q, first, dim);
			break;
		case 3:
			product_int4_rows(3, products, k, q, first, dim);
			break;
		default:
			product_int4_rows(4, products, k, q, first, dim);
			break;
		}
	}
}

/* ---- V ------------------------------------------------------------------------------------------------------ */

static inline __attribute__((always_inline)) __m512 load_v(const enum kern_kv format, const void *v, size_t at,
	__mmask16 mask)
{
	if (format == KERN_KV_F32)
		return _mm512_maskz_loadu_ps(mask, (const float *)v + at);
	if (format == KERN_KV_F16)
		return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, (const uint16_t *)v + at));
	if (format == KERN_KV_FP8)
		return widen_fp8(_mm_maskz_loadu_epi8(mask, (const uint8_t *)v + at));
	return _mm512_castsi512_ps(_mm512_slli_epi32(
		_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, (const uint16_t *)v + at)), 16));
}

static void widen(float *to, const void *v, enum kern_kv format, uint32_t n)
{
	for (uint32_t i = 0; format == KERN_KV_BF16 && i < n; i += LANES)
		_mm512_storeu_ps(to + i, load_v(KERN_KV_BF16, v, i, 0xffff));
	for (uint32_t i = 0; format == KERN_KV_F16 && i < n; i += LANES)
		_mm512_storeu_ps(to + i, load_v(KERN_KV_F16, v, i, 0xffff));
	for (uint32_t i = 0; format == KERN_KV_FP8 && i < n; i += LANES)
		_mm512_storeu_ps(to + i, load_v(KERN_KV_FP8, v, i, 0xffff));
}

/* PAGE_VECS * 16 channels from `channel`. */
static inline __attribute__((always_inline)) void accumulate_block(const int rows, const enum kern_kv format, float *o,
	const float *weights, const void *v, uint32_t begin, uint32_t end, uint32_t dim, uint32_t channel)
{
	__m512 sum[BLOCK_ROWS][PAGE_VECS], value[PAGE_VECS];

	for (int r = 0; r < rows; r++) {
		for (int i = 0; i < PAGE_VECS; i++)
			sum[r][i] = _mm512_loadu_ps(o + (size_t)r * dim + channel + i * LANES);
	}
	for (uint32_t t = begin; t < end; t++) {
		for (int i = 0; i < PAGE_VECS; i++)
			value[i] = load_v(format, v, (size_t)t * dim + channel + (size_t)i * LANES, 0xffff);
		for (int r = 0; r < rows; r++) {
			const __m512 weight = _mm512_set1_ps(weights[r * KERN_PAGE_TOKENS + t]);

			for (int i = 0; i < PAGE_VECS; i++)
				sum[r][i] = _mm512_fmadd_ps(weight, value[i], sum[r][i]);
		}
	}
	for (int r = 0; r < rows; r++) {
		for (int i = 0; i < PAGE_VECS; i++)
			_mm512_storeu_ps(o + (size_t)r * dim + channel + i * LANES, sum[r][i]);
	}
}

/* 16 channels, or the 8 of the mask. Few chains would wait for themselves: tokens t, t + 4, ... make one of their own, whatever
 * the number of rows. */
static inline __attribute__((always_inline)) void accumulate_chains(const int rows, const enum kern_kv format, float *o,
	const float *weights, const void *v, uint32_t begin, uint32_t end, uint32_t dim, uint32_t channel, __mmask16 mask)
{
	enum { CHAINS = 4 };
	__m512 sum[BLOCK_ROWS][CHAINS];
	uint32_t t = begin;

	for (int r = 0; r < rows; r++) {
		sum[r][0] = _mm512_maskz_loadu_ps(mask, o + (size_t)r * dim + channel);
		for (int c = 1; c < CHAINS; c++)
			sum[r][c] = _mm512_setzero_ps();
	}
	for (; end - t >= CHAINS; t += CHAINS) {
		for (int c = 0; c < CHAINS; c++) {
			const __m512 value = load_v(format, v, (size_t)(t + (uint32_t)c) * dim + channel, mask);

			for (int r = 0; r < rows; r++)
				sum[r][c] = _mm512_fmadd_ps(_mm512_set1_ps(weights[r * KERN_PAGE_TOKENS + t + (uint32_t)c]), value, sum[r][c]);
		}
	}
	for (; t < end; t++) {
		const __m512 value = load_v(format, v, (size_t)t * dim + channel, mask);

		for (int r = 0; r < rows; r++)
			sum[r][0] = _mm512_fmadd_ps(_mm512_set1_ps(weights[r * KERN_PAGE_TOKENS + t]), value, sum[r][0]);
	}
	for (int r = 0; r < rows; r++)
		_mm512_mask_storeu_ps(o + (size_t)r * dim + channel, mask,
			_mm512_add_ps(_mm512_add_ps(sum[r][0], sum[r][1]), _mm512_add_ps(sum[r][2], sum[r][3])));
}

static inline __attribute__((always_inline)) void accumulate_rows(const int rows, const enum kern_kv format, float *o,
	const float *weights, const void *v, uint32_t begin, uint32_t end, uint32_t dim)
{
	uint32_t channel = 0;

	for (; channel + PAGE_VECS * LANES <= dim; channel += PAGE_VECS * LANES)
		accumulate_block(rows, format, o, weights, v, begin, end, dim, channel);
	for (; channel < dim; channel += LANES)
		accumulate_chains(rows, format, o, weights, v, begin, end, dim, channel, dim - channel < LANES ? 0xff : 0xffff);
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

/* vecs * 16 channels of one group from `channel`; mask says which of the 16 where there is but one vec. */
static inline __attribute__((always_inline)) void accumulate_int8_block(const int rows, const int vecs, float *o,
	const float *factor, const struct cpu_attention_weights8 *weights, uint32_t first, const uint8_t *v, uint32_t dim,
	uint32_t channel, __mmask16 mask, struct cpu_ahead *ahead)
{
	__m512i high[BLOCK_ROWS_INT8][PAGE_VECS], low[BLOCK_ROWS_INT8][PAGE_VECS];

	multiply_quads(rows, vecs, high, low, packed_weights(weights, first, channel),
		(size_t)weights->groups * 2 * KERN_PAGE_TOKENS, KERN_PAGE_TOKENS, v + (size_t)channel * 4, (size_t)dim * 4,
		KERN_PAGE_TOKENS / 4, mask, ahead);
	for (int r = 0; r < rows; r++) {
		const __m512 scale = _mm512_set1_ps(weights->scale[first + (uint32_t)r]);
		const __m512 old_factor = _mm512_set1_ps(factor[first + (uint32_t)r]);

		for (int i = 0; i < vecs; i++) {
			float *at = o + (size_t)(first + (uint32_t)r) * dim + channel + i * LANES;
			__m512 sum = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(high[r][i], 8), low[r][i]));

			_mm512_mask_storeu_ps(at, mask,
				_mm512_fmadd_ps(sum, scale, _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, at), old_factor)));
		}
	}
}

static inline __attribute__((always_inline)) void accumulate_int8_rows(const int rows, float *o, const float *factor,
	const struct cpu_attention_weights8 *weights, uint32_t first, const uint8_t *v, uint32_t dim, struct cpu_ahead *ahead)
{
	uint32_t channel = 0;

	for (; rows <= 2 && weights->groups == 1 && channel + 4 * LANES <= dim; channel += 4 * LANES)
		accumulate_int8_block(rows, 4, o, factor, weights, first, v, dim, channel, 0xffff, ahead);
	for (; channel + 2 * LANES <= dim; channel += 2 * LANES)
		accumulate_int8_block(rows, 2, o, factor, weights, first, v, dim, channel, 0xffff, ahead);
	for (; channel < dim; channel += LANES)
		accumulate_int8_block(rows, 1, o, factor, weights, first, v, dim, channel,
			dim - channel < LANES ? 0xff : 0xffff, ahead);
}

static void accumulate_int8(float *o, const float *factor, const struct cpu_attention_weights8 *weights, uint32_t vectors,
	const int8_t *v, uint32_t dim, struct cpu_ahead *ahead)
{
	const uint8_t *bytes = (const uint8_t *)v;
	struct cpu_ahead nothing = {.bytes = 0};

	for (uint32_t first = 0, rows; first < vectors; first += rows, ahead = &nothing) {
		rows = block_rows(vectors - first, BLOCK_ROWS_INT8);
		switch (rows) {
		case 1:
			accumulate_int8_rows(1, o, factor, weights, first, bytes, dim, ahead);
			break;
		case 2:
			accumulate_int8_rows(2, o, factor, weights, first, bytes, dim, ahead);
			break;
		case 3:
			accumulate_int8_rows(3, o, factor, weights, first, bytes, dim, ahead);
			break;
		default:
			accumulate_int8_rows(4, o, factor, weights, first, bytes, dim, ahead);
			break;
		}
	}
}

/* What both tables have. */
#define COMMON                                                                                                          \
	.load = row_load,                                                                                               \
	.store = row_store,                                                                                             \
	.rope = row_rope,                                                                                               \
	.smooth = row_smooth,                                                                                           \
	.quantize = row_quantize,                                                                                       \
	.quantize_fp8 = row_quantize_fp8,                                                                               \
	.quantize_int4 = row_quantize_int4,                                                                             \
	.follow = row_follow,                                                                                           \
	.rotate = cpu_attention_rotate_avx512,                                                                          \
	.interleave = row_interleave,                                                                                   \
	.survey = row_survey,                                                                                           \
	.dot = dot,                                                                                                     \
	.dots = cpu_attention_dots_avx512,                                                                              \
	.quantize_query4 = row_quantize_query4,                                                                         \
	.fold = row_fold,                                                                                               \
	.multiply = row_multiply,                                                                                       \
	.transpose = transpose,                                                                                         \
	.product = product,                                                                                             \
	.unpack_k = cpu_attention_unpack_k_avx512,                                                                      \
	.unpack_v = cpu_attention_unpack_v_avx512,                                                                      \
	.add_low = row_add_low,                                                                                         \
	.product_codes = cpu_attention_product_codes_avx512,                                                            \
	.widen = widen,                                                                                                 \
	.softmax = cpu_attention_softmax_avx512,                                                                        \
	.softmax_int8 = cpu_attention_softmax_int8_avx512,                                                              \
	.accumulate = accumulate,                                                                                       \
	.accumulate_codes = cpu_attention_accumulate_codes_avx512

const struct cpu_attention_kernels cpu_attention_avx512 = {
	COMMON,
	.quantize_query = quantize_query,
	.product_int8 = product_int8,
	.product_int4 = product_int4,
	.accumulate_int8 = accumulate_int8,
};

const struct cpu_attention_kernels cpu_attention_amx = {
	COMMON,
	.begin = cpu_attention_begin_amx,
	.end = cpu_attention_end_amx,
	.quantize_query = cpu_attention_quantize_query_amx,
	.product_int8 = cpu_attention_product_int8_amx,
	.product_int4 = cpu_attention_product_int4_amx,
	.accumulate_int8 = cpu_attention_accumulate_int8_amx,
};
