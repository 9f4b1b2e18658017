/*
 * The page functions of attention for AVX-512 with VNNI. See cpu_attention_kernels.h; cpu_attention_scalar.c says
 * the same plainly.
 *
 * Blocks of query vectors share what is loaded of a page; `rows` and `vecs` are constants wherever they appear, so that
 * a block's sums stay in registers (at most 24 of 32). How vectors are cut into blocks does not show in the result.
 */
#include <immintrin.h>

#include "kernels/cpu/cpu_attention_rows.h"

enum { LANES = 16, PAGE_VECS = KERN_PAGE_TOKENS / LANES, HALF_VECS = PAGE_VECS / 2, BLOCK_ROWS = 6, BLOCK_ROWS_INT8 = 3 };

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

static void transpose(float *tile, const void *k, enum kern_kv format, uint32_t tokens, uint32_t dim)
{
	for (uint32_t token = 0; token < tokens; token += LANES) {
		if (format == KERN_KV_F32)
			transpose_f32(tile + (size_t)token * dim, (const float *)k + (size_t)token * dim, dim);
		else
			transpose_bf16(tile + (size_t)token * dim, (const uint16_t *)k + (size_t)token * dim, dim);
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

static inline __m512i broadcast4(const uint8_t *from)
{
	int32_t word;

	memcpy(&word, from, sizeof(word));
	return _mm512_set1_epi32(word);
}

/* 32 tokens: with 64 gcc 12 no longer finds registers for the sums. */
static inline __attribute__((always_inline)) void product_int8_block(const int rows, float *products,
	const struct cpu_attention_int8 *page, const uint8_t *q, const float *scale, const float *mean_product,
	uint32_t token, uint32_t dim)
{
	__m512i high[BLOCK_ROWS_INT8][HALF_VECS], low[BLOCK_ROWS_INT8][HALF_VECS], k[HALF_VECS];

	for (int r = 0; r < rows; r++) {
		for (int i = 0; i < HALF_VECS; i++)
			high[r][i] = low[r][i] = _mm512_setzero_si512();
	}
	for (uint32_t d = 0; d < dim; d += 4) {
		for (int i = 0; i < HALF_VECS; i++)
			k[i] = _mm512_loadu_si512(page->k + (size_t)d * KERN_PAGE_TOKENS + (size_t)token * 4 + i * 64);
		for (int r = 0; r < rows; r++) {
			const __m512i upper = broadcast4(q + (size_t)r * 2 * dim + d);
			const __m512i lower = broadcast4(q + (size_t)r * 2 * dim + dim + d);

			for (int i = 0; i < HALF_VECS; i++) {
				high[r][i] = _mm512_dpbusd_epi32(high[r][i], upper, k[i]);
				low[r][i] = _mm512_dpbusd_epi32(low[r][i], lower, k[i]);
			}
		}
	}
	for (int i = 0; i < HALF_VECS; i++) {
		const uint32_t at = token + (uint32_t)i * LANES;
		const __m512i surplus = _mm512_mullo_epi32(_mm512_loadu_si512(page->sum + at), _mm512_set1_epi32(OFFSET_PRODUCT));
		const __m512 k_scale = _mm512_loadu_ps(page->scale + at);

		for (int r = 0; r < rows; r++) {
			__m512i sum = _mm512_add_epi32(_mm512_slli_epi32(high[r][i], 7), low[r][i]);
			__m512 whole = _mm512_cvtepi32_ps(_mm512_sub_epi32(sum, surplus));
			__m512 factor = _mm512_mul_ps(_mm512_set1_ps(scale[r]), k_scale);

			_mm512_storeu_ps(products + r * KERN_PAGE_TOKENS + at,
				_mm512_fmadd_ps(whole, factor, _mm512_set1_ps(mean_product[r])));
		}
	}
}

static inline __attribute__((always_inline)) void product_int8_rows(const int rows, float *products,
	const struct cpu_attention_int8 *k, const uint8_t *q, const float *scale, const float *mean_product, uint32_t dim)
{
	for (uint32_t token = 0; token < KERN_PAGE_TOKENS; token += HALF_VECS * LANES)
		product_int8_block(rows, products, k, q, scale, mean_product, token, dim);
}

static void product_int8(float *products, const struct cpu_attention_int8 *k, const struct cpu_attention_query8 *query,
	uint32_t vectors, uint32_t dim)
{
	const uint8_t *q = query->packed;
	const float *scale = query->scale, *mean_product = query->mean_product;

	for (uint32_t rows; vectors > 0; vectors -= rows) {
		rows = block_rows(vectors, BLOCK_ROWS_INT8);
		if (rows == 1)
			product_int8_rows(1, products, k, q, scale, mean_product, dim);
		else if (rows == 2)
			product_int8_rows(2, products, k, q, scale, mean_product, dim);
		else
			product_int8_rows(3, products, k, q, scale, mean_product, dim);
		products += rows * KERN_PAGE_TOKENS;
		q += (size_t)rows * 2 * dim;
		scale += rows;
		mean_product += rows;
	}
}

/* ---- softmax ------------------------------------------------------------------------------------------------ */

/* As row_exp. */
static inline __m512 exp16(__m512 x)
{
	const __mmask16 not_zero = _mm512_cmp_ps_mask(x, _mm512_set1_ps(EXP_LOWEST), _CMP_NLT_UQ);
	const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(EXP_LOG2E)), 0);
	__m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(EXP_LN2_HIGH), x), p = _mm512_set1_ps(EXP_C0);

	r = _mm512_fnmadd_ps(n, _mm512_set1_ps(EXP_LN2_LOW), r);
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(EXP_C1));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(EXP_C2));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(EXP_C3));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(EXP_C4));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(EXP_C5));
	p = _mm512_fmadd_ps(_mm512_mul_ps(r, r), p, r);
	p = _mm512_add_ps(p, _mm512_set1_ps(1.0f));
	return _mm512_maskz_scalef_ps(not_zero, p, n);
}

/* As row_tanh. */
static inline __m512 tanh16(__m512 x)
{
	const __m512 magnitude = _mm512_abs_ps(x), one = _mm512_set1_ps(1.0f), z = _mm512_mul_ps(x, x);
	const __m512 t = exp16(_mm512_mul_ps(magnitude, _mm512_set1_ps(-2.0f)));
	const __mmask16 is_small = _mm512_cmp_ps_mask(magnitude, _mm512_set1_ps(TANH_SMALL), _CMP_LT_OQ);
	const __m512 sign = _mm512_and_ps(x, _mm512_set1_ps(-0.0f));
	__m512 large = _mm512_or_ps(_mm512_div_ps(_mm512_sub_ps(one, t), _mm512_add_ps(one, t)), sign);
	__m512 small = _mm512_set1_ps(TANH_C0);

	small = _mm512_fmadd_ps(small, z, _mm512_set1_ps(TANH_C1));
	small = _mm512_fmadd_ps(small, z, _mm512_set1_ps(TANH_C2));
	small = _mm512_fmadd_ps(small, z, _mm512_set1_ps(TANH_C3));
	small = _mm512_fmadd_ps(small, z, _mm512_set1_ps(TANH_C4));
	small = _mm512_fmadd_ps(_mm512_mul_ps(small, z), x, x);
	return _mm512_mask_mov_ps(large, is_small, small);
}

static inline uint64_t token_mask(uint32_t begin, uint32_t end)
{
	const uint64_t below = end == KERN_PAGE_TOKENS ? UINT64_MAX : (UINT64_C(1) << end) - 1;

	return below & UINT64_MAX << begin;
}

static float softmax(float *products, uint32_t begin, uint32_t end, const struct cpu_attention_softmax *how,
	struct cpu_attention_state *state)
{
	const uint64_t visible = token_mask(begin, end);
	const __m512 scale = _mm512_set1_ps(how->scale), cap = _mm512_set1_ps(how->soft_cap);
	__m512 x[PAGE_VECS], largest = _mm512_set1_ps(state->max), sum;
	float max, factor;

	for (int i = 0; i < PAGE_VECS; i++) {
		x[i] = _mm512_mul_ps(_mm512_loadu_ps(products + i * LANES), scale);
		if (how->soft_cap != 0.0f)
			x[i] = _mm512_mul_ps(cap, tanh16(_mm512_div_ps(x[i], cap)));
		x[i] = _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), (__mmask16)(visible >> i * LANES), x[i]);
		largest = _mm512_max_ps(largest, x[i]);
	}
	max = _mm512_reduce_max_ps(largest);
	largest = _mm512_set1_ps(max == -INFINITY ? 0.0f : max);
	for (int i = 0; i < PAGE_VECS; i++)
		x[i] = exp16(_mm512_sub_ps(x[i], largest));
	sum = _mm512_add_ps(_mm512_add_ps(x[0], x[1]), _mm512_add_ps(x[2], x[3]));
	for (int i = 0; i < PAGE_VECS; i++) {
		if (how->v_scale != NULL)
			x[i] = _mm512_mul_ps(x[i], _mm512_loadu_ps(how->v_scale + i * LANES));
		_mm512_storeu_ps(products + i * LANES, x[i]);
	}
	factor = max == state->max ? 1.0f : row_exp(state->max - max);
	state->sum = state->sum * factor + _mm512_reduce_add_ps(sum);
	state->max = max;
	return factor;
}

/* ---- V ------------------------------------------------------------------------------------------------------ */

static inline __attribute__((always_inline)) __m512 load_v(const enum kern_kv format, const void *v, size_t at,
	__mmask16 mask)
{
	if (format == KERN_KV_F32)
		return _mm512_maskz_loadu_ps(mask, (const float *)v + at);
	if (format == KERN_KV_BF16)
		return _mm512_castsi512_ps(_mm512_slli_epi32(
			_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, (const uint16_t *)v + at)), 16));
	return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, (const int8_t *)v + at)));
}

static void widen(float *to, const void *v, enum kern_kv format, uint32_t n)
{
	uint32_t i = 0;

	for (; format == KERN_KV_BF16 && i + LANES <= n; i += LANES)
		_mm512_storeu_ps(to + i, load_v(KERN_KV_BF16, v, i, 0xffff));
	for (; format == KERN_KV_INT8 && i + LANES <= n; i += LANES)
		_mm512_storeu_ps(to + i, load_v(KERN_KV_INT8, v, i, 0xffff));
}

/* vecs * 16 channels from `channel`; mask says which of the 16 where there is but one vec. */
static inline __attribute__((always_inline)) void accumulate_block(const int rows, const int vecs,
	const enum kern_kv format, float *o, const float *weights, const void *v, uint32_t begin, uint32_t end, uint32_t dim,
	uint32_t channel, __mmask16 mask)
{
	__m512 sum[BLOCK_ROWS][PAGE_VECS], value[PAGE_VECS];

	for (int r = 0; r < rows; r++) {
		for (int i = 0; i < vecs; i++)
			sum[r][i] = _mm512_maskz_loadu_ps(mask, o + (size_t)r * dim + channel + i * LANES);
	}
	for (uint32_t t = begin; t < end; t++) {
		for (int i = 0; i < vecs; i++)
			value[i] = load_v(format, v, (size_t)t * dim + channel + (size_t)i * LANES, mask);
		for (int r = 0; r < rows; r++) {
			const __m512 weight = _mm512_set1_ps(weights[r * KERN_PAGE_TOKENS + t]);

			for (int i = 0; i < vecs; i++)
				sum[r][i] = _mm512_fmadd_ps(weight, value[i], sum[r][i]);
		}
	}
	for (int r = 0; r < rows; r++) {
		for (int i = 0; i < vecs; i++)
			_mm512_mask_storeu_ps(o + (size_t)r * dim + channel + i * LANES, mask, sum[r][i]);
	}
}

static inline __attribute__((always_inline)) void accumulate_rows(const int rows, const enum kern_kv format, float *o,
	const float *weights, const void *v, uint32_t begin, uint32_t end, uint32_t dim)
{
	uint32_t channel = 0;

	for (; channel + PAGE_VECS * LANES <= dim; channel += PAGE_VECS * LANES)
		accumulate_block(rows, PAGE_VECS, format, o, weights, v, begin, end, dim, channel, 0xffff);
	for (; channel < dim; channel += LANES)
		accumulate_block(rows, 1, format, o, weights, v, begin, end, dim, channel,
			dim - channel < LANES ? 0xff : 0xffff);
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
	switch (format) {
	case KERN_KV_F32:
		accumulate_format(KERN_KV_F32, o, weights, vectors, v, begin, end, dim);
		break;
	case KERN_KV_BF16:
		accumulate_format(KERN_KV_BF16, o, weights, vectors, v, begin, end, dim);
		break;
	case KERN_KV_INT8:
		accumulate_format(KERN_KV_INT8, o, weights, vectors, v, begin, end, dim);
		break;
	}
}

const struct cpu_attention_kernels cpu_attention_avx512 = {
	.load = row_load,
	.store = row_store,
	.rope = row_rope,
	.quantize = row_quantize,
	.survey = row_survey,
	.dot = dot,
	.quantize_query = quantize_query,
	.fold = row_fold,
	.multiply = row_multiply,
	.transpose = transpose,
	.product = product,
	.product_int8 = product_int8,
	.widen = widen,
	.softmax = softmax,
	.accumulate = accumulate,
};
