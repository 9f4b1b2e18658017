/*
 * The page functions of attention for AVX-512 with VNNI. See cpu_attention_kernels.h; cpu_attention_scalar.c says
 * the same plainly.
 *
 * Blocks of query vectors share what is loaded of a page; `rows` and `vecs` are constants wherever they appear, so that
 * a block's sums stay in registers (at most 24 of 32). How vectors are cut into blocks does not show in the result.
 */
#include <immintrin.h>

#include "kernels/cpu/cpu_attention_codes.h"

enum { LANES = 16, PAGE_VECS = KERN_PAGE_TOKENS / LANES, BLOCK_ROWS = 6, BLOCK_ROWS_INT8 = 4 };

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

static inline __m512i broadcast4(const uint8_t *from)
{
	int32_t word;

	memcpy(&word, from, sizeof(word));
	return _mm512_set1_epi32(word);
}

/* sum += u8 * s8 over four neighbours. As an instruction, because gcc 12 keeps the intrinsic's operands in the lower 16
 * registers, and moves them to and from memory. */
static inline __attribute__((always_inline)) void add_dots(__m512i *sum, __m512i left, __m512i right)
{
	__asm__("vpdpbusd %2, %1, %0" : "+v"(*sum) : "v"(left), "v"(right));
}

/* Sums of products of `rows` times two limbs with vecs * 64 bytes, over `quads` steps of `stride` bytes: K's channels or
 * V's tokens, four at a time. Row r's limbs begin at left + r * row_bytes, and limb_bytes behind. */
static inline __attribute__((always_inline)) void multiply_quads(const int rows, const int vecs,
	__m512i high[BLOCK_ROWS_INT8][PAGE_VECS], __m512i low[BLOCK_ROWS_INT8][PAGE_VECS], const uint8_t *left,
	size_t row_bytes, size_t limb_bytes, const uint8_t *right, size_t stride, uint32_t quads, __mmask16 mask,
	const uint8_t *ahead)
{
	__m512i right_vec[PAGE_VECS];

	for (int r = 0; r < rows; r++) {
		for (int i = 0; i < vecs; i++)
			high[r][i] = low[r][i] = _mm512_setzero_si512();
	}
	for (uint32_t quad = 0; quad < quads; quad++, left += 4, right += stride, ahead += stride) {
		for (int i = 0; i < vecs; i++) {
			right_vec[i] = vecs > 1 ? _mm512_loadu_si512(right + i * 64) : _mm512_maskz_loadu_epi32(mask, right);
			__builtin_prefetch(ahead + i * 64, 0, 2);
		}
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
	uint32_t dim, const uint8_t *ahead)
{
	__m512i high[BLOCK_ROWS_INT8][PAGE_VECS], low[BLOCK_ROWS_INT8][PAGE_VECS];

	multiply_quads(rows, vecs, high, low, (const uint8_t *)q->packed + (size_t)first * 2 * dim, (size_t)2 * dim, dim,
		(const uint8_t *)page->k + (size_t)token * 4, KERN_PAGE_TOKENS * 4, dim / 4, 0xffff, ahead + (size_t)token * 4);
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
	const uint8_t *ahead)
{
	if (rows <= 2) {
		product_int8_block(rows, PAGE_VECS, products, k, q, first, 0, dim, ahead);
		return;
	}
	for (uint32_t token = 0; token < KERN_PAGE_TOKENS; token += 2 * LANES)
		product_int8_block(rows, 2, products, k, q, first, token, dim, ahead);
}

/* Only the first block asks for what is ahead; for the others it is K itself, which they touch anyway. */
static void product_int8(float *products, const struct cpu_attention_int8 *k, const struct cpu_attention_query8 *q,
	uint32_t vectors, uint32_t dim, const void *ahead)
{
	if (ahead == NULL)
		ahead = k->k;
	for (uint32_t first = 0, rows; first < vectors; first += rows, ahead = k->k) {
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

static inline __m512 load_bf16(const uint16_t *from)
{
	return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)from)), 16));
}

/* 32 tokens from `token`. Sums of a group begin with what the codes' bias of 8 has too much. */
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
			const int32_t surplus = 8 * q->sums[(first + (uint32_t)r) * CPU_ATTENTION_GROUPS + group];

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

/* ---- softmax ------------------------------------------------------------------------------------------------ */

enum { SOFTMAX_ROWS = 4 };

/* As row_exp2, in the lanes of the mask; 0 in the others. */
static inline __m512 exp2_16(__mmask16 mask, __m512 x)
{
	const __mmask16 not_zero = _mm512_mask_cmp_ps_mask(mask, x, _mm512_set1_ps(EXP2_LOWEST), _CMP_NLT_UQ);
	const __m512 n = _mm512_roundscale_ps(x, 0), r = _mm512_sub_ps(x, n);
	__m512 p = _mm512_set1_ps(EXP2_C0);

	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(EXP2_C1));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(EXP2_C2));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(EXP2_C3));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(EXP2_C4));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(EXP2_C5));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
	return _mm512_maskz_scalef_ps(not_zero, p, n);
}

/* As row_tanh. */
static inline __m512 tanh16(__m512 x)
{
	const __m512 magnitude = _mm512_abs_ps(x), one = _mm512_set1_ps(1.0f), z = _mm512_mul_ps(x, x);
	const __m512 t = exp2_16(0xffff, _mm512_mul_ps(magnitude, _mm512_set1_ps(TANH_SCALE)));
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

/* Folds of four vectors' lanes at once: lane n of the result belongs to vector n % 4. Always the same tree. */
static inline __m512 max_of_rows(const __m512 x[SOFTMAX_ROWS])
{
	const __m512 ab = _mm512_max_ps(_mm512_unpacklo_ps(x[0], x[1]), _mm512_unpackhi_ps(x[0], x[1]));
	const __m512 cd = _mm512_max_ps(_mm512_unpacklo_ps(x[2], x[3]), _mm512_unpackhi_ps(x[2], x[3]));
	__m512 all = _mm512_max_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));

	all = _mm512_max_ps(all, _mm512_shuffle_f32x4(all, all, 0x4e));
	return _mm512_max_ps(all, _mm512_shuffle_f32x4(all, all, 0xb1));
}

static inline __m512 sum_of_rows(const __m512 x[SOFTMAX_ROWS])
{
	const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(x[0], x[1]), _mm512_unpackhi_ps(x[0], x[1]));
	const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(x[2], x[3]), _mm512_unpackhi_ps(x[2], x[3]));
	__m512 all = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));

	all = _mm512_add_ps(all, _mm512_shuffle_f32x4(all, all, 0x4e));
	return _mm512_add_ps(all, _mm512_shuffle_f32x4(all, all, 0xb1));
}

static inline __m512i max_bits_of_rows(const __m512i x[SOFTMAX_ROWS])
{
	const __m512i ab = _mm512_max_epu32(_mm512_unpacklo_epi32(x[0], x[1]), _mm512_unpackhi_epi32(x[0], x[1]));
	const __m512i cd = _mm512_max_epu32(_mm512_unpacklo_epi32(x[2], x[3]), _mm512_unpackhi_epi32(x[2], x[3]));
	__m512i all = _mm512_max_epu32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));

	all = _mm512_max_epu32(all, _mm512_shuffle_i32x4(all, all, 0x4e));
	return _mm512_max_epu32(all, _mm512_shuffle_i32x4(all, all, 0xb1));
}

/* Vector r's value of a fold, in all lanes. */
static inline __attribute__((always_inline)) __m512 of_row(__m512 fold, const int r)
{
	switch (r) {
	case 0:
		return _mm512_shuffle_ps(fold, fold, 0x00);
	case 1:
		return _mm512_shuffle_ps(fold, fold, 0x55);
	case 2:
		return _mm512_shuffle_ps(fold, fold, 0xaa);
	default:
		return _mm512_shuffle_ps(fold, fold, 0xff);
	}
}

static inline __m512 load_fold(const float *from, __mmask8 mask)
{
	return _mm512_broadcast_f32x4(_mm_maskz_loadu_ps(mask, from));
}

static inline void store_fold(float *to, __mmask8 mask, __m512 fold)
{
	_mm_mask_storeu_ps(to, mask, _mm512_castps512_ps128(fold));
}

/* Products become logits, where there is a cap; returns each vector's largest visible logit. */
static inline __attribute__((always_inline)) __m512 largest_logits(const int rows, float *products, uint64_t visible,
	const struct cpu_attention_softmax *how)
{
	const __m512 scale = _mm512_set1_ps(how->scale), cap = _mm512_set1_ps(how->cap), none = _mm512_set1_ps(-INFINITY);
	__m512 largest[SOFTMAX_ROWS];

	for (int r = 0; r < rows; r++) {
		largest[r] = none;
		for (int i = 0; i < PAGE_VECS; i++) {
			__m512 x = _mm512_mul_ps(_mm512_loadu_ps(products + r * KERN_PAGE_TOKENS + i * LANES), scale);

			if (how->cap != 0.0f) {
				x = _mm512_mul_ps(cap, tanh16(x));
				_mm512_storeu_ps(products + r * KERN_PAGE_TOKENS + i * LANES, x);
			}
			largest[r] = _mm512_max_ps(largest[r], _mm512_mask_mov_ps(none, (__mmask16)(visible >> i * LANES), x));
		}
	}
	for (int r = rows; r < SOFTMAX_ROWS; r++)
		largest[r] = largest[0];
	return max_of_rows(largest);
}

/* V's scales of a group, of the tokens that are seen; the others may be anything. */
static inline __attribute__((always_inline)) __m512 load_v_scale(const struct cpu_attention_softmax *how, uint32_t group,
	uint64_t visible, uint32_t i)
{
	const __mmask16 mask = (__mmask16)(visible >> i * LANES);

	if (how->v_format == KERN_KV_INT4)
		return _mm512_maskz_mov_ps(mask,
			_mm512_abs_ps(load_bf16((const uint16_t *)how->v_scale + group * KERN_PAGE_TOKENS + i * LANES)));
	return _mm512_maskz_loadu_ps(mask, (const float *)how->v_scale + i * LANES);
}

/* Logits less max become probabilities, times v_scale where V has one and weights are no integers; returns their sums
 * without v_scale, and for integers the bits of the largest weight of any group. */
static inline __attribute__((always_inline)) __m512 exponentials(const int rows, const bool integers, float *products,
	uint64_t visible, const struct cpu_attention_softmax *how, uint32_t groups, __m512 max, __m512i *largest_bits)
{
	const __m512 scale = _mm512_set1_ps(how->cap != 0.0f ? 1.0f : how->scale);
	__m512 sum[SOFTMAX_ROWS], v_scale[PAGE_VECS];
	__m512i largest[SOFTMAX_ROWS];

	for (uint32_t i = 0; i < PAGE_VECS; i++) {
		v_scale[i] = _mm512_set1_ps(1.0f);
		if (integers || how->v_format == KERN_KV_FP8)
			v_scale[i] = load_v_scale(how, 0, visible, i);
		for (uint32_t group = 1; integers && group < groups; group++)
			v_scale[i] = _mm512_max_ps(v_scale[i], load_v_scale(how, group, visible, i));
	}
	for (int r = 0; r < rows; r++) {
		const __m512 row_max = of_row(max, r);
		__m512 p[PAGE_VECS], w[PAGE_VECS];

		for (int i = 0; i < PAGE_VECS; i++) {
			float *at = products + r * KERN_PAGE_TOKENS + i * LANES;

			/* Not in one operation: huge logits would come out above their rounded maximum. */
			p[i] = _mm512_sub_ps(_mm512_mul_ps(_mm512_loadu_ps(at), scale), row_max);
			p[i] = exp2_16((__mmask16)(visible >> i * LANES), p[i]);
			w[i] = _mm512_mul_ps(p[i], v_scale[i]);
			_mm512_storeu_ps(at, integers ? p[i] : w[i]);
		}
		sum[r] = _mm512_add_ps(_mm512_add_ps(p[0], p[1]), _mm512_add_ps(p[2], p[3]));
		largest[r] = _mm512_max_epu32(_mm512_max_epu32(_mm512_castps_si512(w[0]), _mm512_castps_si512(w[1])),
			_mm512_max_epu32(_mm512_castps_si512(w[2]), _mm512_castps_si512(w[3])));
	}
	for (int r = rows; r < SOFTMAX_ROWS; r++) {
		sum[r] = sum[0];
		largest[r] = largest[0];
	}
	if (integers)
		*largest_bits = max_bits_of_rows(largest);
	return sum_of_rows(sum);
}

/* 64 weights to integers of 15 bits: [high byte of 64 tokens][low byte of 64]. */
static inline __attribute__((always_inline)) void pack_row(uint8_t *packed, const float *p, const __m512 v_scale[PAGE_VECS],
	__m512 inverse)
{
	const __m512i byte = _mm512_set1_epi16(0xff);
	/* Packing leaves words of four tokens in the order 0 4 8 12, 1 5 9 13, ... */
	const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
	__m512i whole[PAGE_VECS], first, second;

	for (int i = 0; i < PAGE_VECS; i++)
		whole[i] = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_mul_ps(_mm512_loadu_ps(p + i * LANES), v_scale[i]), inverse));
	first = _mm512_packs_epi32(whole[0], whole[1]);
	second = _mm512_packs_epi32(whole[2], whole[3]);
	_mm512_storeu_si512(packed, _mm512_permutexvar_epi32(order,
		_mm512_packus_epi16(_mm512_srli_epi16(first, 8), _mm512_srli_epi16(second, 8))));
	_mm512_storeu_si512(packed + KERN_PAGE_TOKENS, _mm512_permutexvar_epi32(order,
		_mm512_packus_epi16(_mm512_and_si512(first, byte), _mm512_and_si512(second, byte))));
}

/* All groups' weights share a scale, that of the largest; as row_weight_scale. */
static inline __attribute__((always_inline)) void pack_weights(const int rows,
	const struct cpu_attention_weights8 *weights, uint32_t first, const float *products, uint64_t visible,
	const struct cpu_attention_softmax *how, __m512i largest_bits)
{
	const __m512i exponent_bits = _mm512_set1_epi32(FLOAT_INFINITY_BITS);
	const __m512i shift = _mm512_set1_epi32((CPU_ATTENTION_WEIGHT_BITS - 1) << 23);
	const __m512i exponent = _mm512_max_epu32(_mm512_and_si512(largest_bits, exponent_bits), _mm512_set1_epi32(27 << 23));
	const __mmask16 is_nan = _mm512_cmpge_epu32_mask(largest_bits, exponent_bits);
	const __m512 scale = _mm512_castsi512_ps(_mm512_sub_epi32(exponent, shift)), nan = _mm512_set1_ps(NAN);
	const __m512 inverse = _mm512_castsi512_ps(_mm512_sub_epi32(
		_mm512_add_epi32(_mm512_set1_epi32((int)(254u << 23)), shift), exponent));
	const size_t row_bytes = (size_t)weights->groups * 2 * KERN_PAGE_TOKENS;

	store_fold(weights->scale + first, (__mmask8)((1 << rows) - 1), _mm512_mask_mov_ps(scale, is_nan, nan));
	for (uint32_t group = 0; group < weights->groups; group++) {
		uint8_t *packed = (uint8_t *)weights->packed + first * row_bytes + (size_t)group * 2 * KERN_PAGE_TOKENS;
		__m512 v_scale[PAGE_VECS];

		for (uint32_t i = 0; i < PAGE_VECS; i++)
			v_scale[i] = load_v_scale(how, group, visible, i);
		for (int r = 0; r < rows; r++)
			pack_row(packed + (size_t)r * row_bytes, products + r * KERN_PAGE_TOKENS, v_scale, of_row(inverse, r));
	}
}

static inline __attribute__((always_inline)) void softmax_rows(const int rows, const bool integers, float *products,
	uint32_t first, const struct cpu_attention_softmax *how, const struct cpu_attention_running *running,
	const struct cpu_attention_weights8 *weights)
{
	const uint64_t visible = token_mask(how->begin, how->end);
	const __mmask8 mask = (__mmask8)((1 << rows) - 1);
	const __m512 old = load_fold(running->max + first, mask), none = _mm512_set1_ps(-INFINITY);
	__m512 max, shift, factor, sum;
	__m512i largest_bits;

	products += (size_t)first * KERN_PAGE_TOKENS;
	max = _mm512_max_ps(old, largest_logits(rows, products, visible, how));
	shift = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(max, none, _CMP_NEQ_UQ), max);
	factor = exp2_16(0xffff, _mm512_sub_ps(old, shift));
	sum = exponentials(rows, integers, products, visible, how, integers ? weights->groups : 1, shift, &largest_bits);
	store_fold(running->max + first, mask, max);
	store_fold(running->factor + first, mask, factor);
	store_fold(running->sum + first, mask, _mm512_fmadd_ps(load_fold(running->sum + first, mask), factor, sum));
	if (integers)
		pack_weights(rows, weights, first, products, visible, how, largest_bits);
}

static inline __attribute__((always_inline)) void softmax_all(const bool integers, float *products, uint32_t vectors,
	const struct cpu_attention_softmax *how, const struct cpu_attention_running *running,
	const struct cpu_attention_weights8 *weights)
{
	for (uint32_t first = 0, rows; first < vectors; first += rows) {
		rows = block_rows(vectors - first, SOFTMAX_ROWS);
		switch (rows) {
		case 1:
			softmax_rows(1, integers, products, first, how, running, weights);
			break;
		case 2:
			softmax_rows(2, integers, products, first, how, running, weights);
			break;
		case 3:
			softmax_rows(3, integers, products, first, how, running, weights);
			break;
		default:
			softmax_rows(4, integers, products, first, how, running, weights);
			break;
		}
	}
}

static void softmax(float *products, uint32_t vectors, const struct cpu_attention_softmax *how,
	const struct cpu_attention_running *running)
{
	softmax_all(false, products, vectors, how, running, NULL);
}

static void softmax_int8(const struct cpu_attention_weights8 *weights, float *products, uint32_t vectors,
	const struct cpu_attention_softmax *how, const struct cpu_attention_running *running)
{
	softmax_all(true, products, vectors, how, running, weights);
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
static inline const uint8_t *packed_weights(const struct cpu_attention_weights8 *weights, uint32_t vector, uint32_t channel)
{
	const uint32_t group = weights->groups > 1 ? channel / KERN_KV_GROUP : 0;

	return (const uint8_t *)weights->packed + ((size_t)vector * weights->groups + group) * 2 * KERN_PAGE_TOKENS;
}

/* vecs * 16 channels of one group from `channel`; mask says which of the 16 where there is but one vec. */
static inline __attribute__((always_inline)) void accumulate_int8_block(const int rows, const int vecs, float *o,
	const float *factor, const struct cpu_attention_weights8 *weights, uint32_t first, const uint8_t *v, uint32_t dim,
	uint32_t channel, __mmask16 mask, const uint8_t *ahead)
{
	__m512i high[BLOCK_ROWS_INT8][PAGE_VECS], low[BLOCK_ROWS_INT8][PAGE_VECS];

	multiply_quads(rows, vecs, high, low, packed_weights(weights, first, channel),
		(size_t)weights->groups * 2 * KERN_PAGE_TOKENS, KERN_PAGE_TOKENS, v + (size_t)channel * 4, (size_t)dim * 4, KERN_PAGE_TOKENS / 4, mask,
		ahead + (size_t)channel * 4);
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
	const struct cpu_attention_weights8 *weights, uint32_t first, const uint8_t *v, uint32_t dim, const uint8_t *ahead)
{
	uint32_t channel = 0;

	for (; rows <= 2 && weights->groups == 1 && channel + 4 * LANES <= dim; channel += 4 * LANES)
		accumulate_int8_block(rows, 4, o, factor, weights, first, v, dim, channel, 0xffff, ahead);
	for (; channel + 2 * LANES <= dim; channel += 2 * LANES)
		accumulate_int8_block(rows, 2, o, factor, weights, first, v, dim, channel, 0xffff, ahead);
	for (; channel < dim; channel += LANES)
		accumulate_int8_block(rows, 1, o, factor, weights, first, v, dim, channel, dim - channel < LANES ? 0xff : 0xffff,
			ahead);
}

static void accumulate_int8(float *o, const float *factor, const struct cpu_attention_weights8 *weights, uint32_t vectors,
	const int8_t *v, uint32_t dim, const void *ahead)
{
	const uint8_t *bytes = (const uint8_t *)v;

	if (ahead == NULL)
		ahead = v;
	for (uint32_t first = 0, rows; first < vectors; first += rows, ahead = v) {
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

const struct cpu_attention_kernels cpu_attention_avx512 = {
	.load = row_load,
	.store = row_store,
	.rope = row_rope,
	.smooth = row_smooth,
	.quantize = row_quantize,
	.quantize_fp8 = row_quantize_fp8,
	.quantize_int4 = row_quantize_int4,
	.rotate = row_rotate,
	.interleave = row_interleave,
	.survey = row_survey,
	.dot = dot,
	.quantize_query = quantize_query,
	.quantize_query4 = row_quantize_query4,
	.fold = row_fold,
	.multiply = row_multiply,
	.transpose = transpose,
	.product = product,
	.product_int8 = product_int8,
	.unpack_k = row_unpack_k,
	.unpack_v = row_unpack_v,
	.product_int4 = product_int4,
	.widen = widen,
	.softmax = softmax,
	.softmax_int8 = softmax_int8,
	.accumulate = accumulate,
	.accumulate_int8 = accumulate_int8,
};
