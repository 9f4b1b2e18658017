/*
 * int4 pages for AVX-512: the rotation, codes to what they stand for, and products and sums of a few query vectors with codes as
 * they lie. See cpu_attention_kernels.h and cpu_attention_avx512.c. `rows` and `vecs` are constants wherever they appear.
 */
#include <immintrin.h>

#include "kernels/cpu/cpu_attention_int4.h"
#include "kernels/cpu/cpu_attention_avx512.inc"

/* ---- the rotation ------------------------------------------------------------------------------------------- */

/* Sums in the lanes whose neighbour, as `other` has it, comes behind them, and differences in those of the mask. */
static inline __m512 butterfly(__m512 x, __m512 other, __mmask16 behind)
{
	return _mm512_mask_sub_ps(_mm512_add_ps(x, other), behind, other, x);
}

/* As row_rotate, operation by operation. */
void cpu_attention_rotate_avx512(float *x, uint32_t n)
{
	const uint32_t run = n & -n;
	const __m512 scale = _mm512_set1_ps(1.0f / sqrtf((float)run));

	for (uint32_t i = 0; i < n; i += LANES) {
		const __mmask16 mask = n - i < LANES ? 0xff : 0xffff;
		__m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), scale);

		v = butterfly(v, _mm512_permute_ps(v, 0xb1), 0xaaaa);
		v = butterfly(v, _mm512_permute_ps(v, 0x4e), 0xcccc);
		v = butterfly(v, _mm512_shuffle_f32x4(v, v, 0xb1), 0xf0f0);
		if (run >= LANES)
			v = butterfly(v, _mm512_shuffle_f32x4(v, v, 0x4e), 0xff00);
		_mm512_mask_storeu_ps(x + i, mask, v);
	}
	for (uint32_t half = LANES; half < run; half *= 2) {
		for (uint32_t i = 0; i < n; i += i % half + LANES < half ? LANES : LANES + half) {
			const __m512 a = _mm512_loadu_ps(x + i), b = _mm512_loadu_ps(x + i + half);

			_mm512_storeu_ps(x + i, _mm512_add_ps(a, b));
			_mm512_storeu_ps(x + i + half, _mm512_sub_ps(a, b));
		}
	}
	if (run < n)
		row_reflect(x, n, run);
}

/* Four vectors at once, the last of them more than once where there are fewer: each one's lanes are added by the same tree. */
void cpu_attention_dots_avx512(float *products, const float *q, uint32_t vectors, const float *b, uint32_t n)
{
	for (uint32_t first = 0; first < vectors; first += 4) {
		const uint32_t count = vectors - first < 4 ? vectors - first : 4;
		__m512 sum[4] = { _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps() }, ab, cd, all;

		for (uint32_t i = 0; i < n; i += LANES) {
			const __mmask16 mask = n - i < LANES ? 0xff : 0xffff;
			const __m512 right = _mm512_maskz_loadu_ps(mask, b + i);

			for (uint32_t r = 0; r < 4; r++) {
				const float *left = q + (size_t)(first + (r < count ? r : count - 1)) * n + i;

				sum[r] = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(mask, left), right, sum[r]);
			}
		}
		ab = _mm512_add_ps(_mm512_unpacklo_ps(sum[0], sum[1]), _mm512_unpackhi_ps(sum[0], sum[1]));
		cd = _mm512_add_ps(_mm512_unpacklo_ps(sum[2], sum[3]), _mm512_unpackhi_ps(sum[2], sum[3]));
		all = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
		all = _mm512_add_ps(all, _mm512_shuffle_f32x4(all, all, 0x4e));
		all = _mm512_add_ps(all, _mm512_shuffle_f32x4(all, all, 0xb1));
		_mm_mask_storeu_ps(products + first, (__mmask8)((1 << count) - 1), _mm512_castps512_ps128(all));
	}
}

/* ---- codes -------------------------------------------------------------------------------------------------- */

/* 64 nibbles, in the low half of each byte, to what they stand for. */
static inline __attribute__((always_inline)) __m512i levels_of(__m512i codes, __m512i table)
{
	return _mm512_shuffle_epi8(table, _mm512_and_si512(codes, _mm512_set1_epi8(15)));
}

static inline __m512i level_table(int32_t zero)
{
	const __m128i levels = _mm_setr_epi8(INT4_LEVELS);

	return _mm512_broadcast_i32x4(_mm_add_epi8(levels, _mm_set1_epi8((char)zero)));
}

/* Pairs of quads of so many bytes, a multiple of 32: the low nibbles are the first quad's, the high ones the second's. */
static inline void unpack(uint8_t *to, const uint8_t *from, uint32_t quad, uint32_t pairs, int32_t zero, struct cpu_ahead *ahead)
{
	const __m512i table = level_table(zero);
	uint32_t part = 0;

	for (uint32_t pair = 0; pair < pairs; pair++, to += quad) {
		for (uint32_t i = 0; i < quad; i += 64, to += 64) {
			const __mmask64 mask = quad - i < 64 ? 0xffffffff : UINT64_MAX;
			const __m512i codes = _mm512_maskz_loadu_epi8(mask, from + i);

			cpu_ahead_part(ahead, part++, 64);
			_mm512_mask_storeu_epi8(to, mask, levels_of(codes, table));
			_mm512_mask_storeu_epi8(to + quad, mask, levels_of(_mm512_srli_epi16(codes, 4), table));
		}
		to -= (quad + 63) / 64 * 64 - quad;
		from += quad;
	}
}

void cpu_attention_unpack_k_avx512(uint8_t *to, const uint8_t *from, uint32_t dim, struct cpu_ahead *ahead)
{
	unpack(to, from, 4 * KERN_PAGE_TOKENS, dim / 8, INT4_ZERO, ahead);
}

void cpu_attention_unpack_v_avx512(uint8_t *to, const uint8_t *from, uint32_t dim, struct cpu_ahead *ahead)
{
	unpack(to, from, 4 * dim, KERN_PAGE_TOKENS / 8, 0, ahead);
}

/* ---- a few vectors ------------------------------------------------------------------------------------------ */

/* A few vectors take the codes as they lie, a pair of quads at once: the same sums, without the way through memory. */
static inline __attribute__((always_inline)) void product_codes_block(const int rows, float *products,
	const struct cpu_attention_int4 *page, const struct cpu_attention_query4 *q, uint32_t token, uint32_t dim,
	struct cpu_ahead *ahead)
{
	enum { VECS = 2 };
	const __m512i table = level_table(INT4_ZERO);
	__m512 total[CPU_ATTENTION_FEW][VECS];

	for (int r = 0; r < rows; r++) {
		for (int i = 0; i < VECS; i++)
			total[r][i] = _mm512_setzero_ps();
	}
	for (uint32_t d = 0, group = 0; d < dim; group++) {
		const uint32_t end = d + KERN_KV_GROUP < dim ? d + KERN_KV_GROUP : dim;
		__m512i sum[CPU_ATTENTION_FEW][VECS];

		for (int r = 0; r < rows; r++) {
			const int32_t surplus = INT4_ZERO * q->sums[(uint32_t)r * CPU_ATTENTION_GROUPS + group];

			for (int i = 0; i < VECS; i++)
				sum[r][i] = _mm512_set1_epi32(-surplus);
		}
		for (; d < end; d += 8) {
			const size_t at = (size_t)d / 2 * KERN_PAGE_TOKENS + (size_t)token * 4;
			const __m512i codes[VECS] = { _mm512_loadu_si512(page->k + at), _mm512_loadu_si512(page->k + at + 64) };

			cpu_ahead_part(ahead, d / 8, VECS * 64);
			for (int i = 0; i < VECS; i++) {
				const __m512i first = levels_of(codes[i], table), second = levels_of(_mm512_srli_epi16(codes[i], 4), table);

				for (int r = 0; r < rows; r++) {
					const uint8_t *right = (const uint8_t *)q->packed + (uint32_t)r * dim + d;

					add_dots(&sum[r][i], first, broadcast4(right));
					add_dots(&sum[r][i], second, broadcast4(right + 4));
				}
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
		const __m512 scale = _mm512_set1_ps(q->scale[r] * INT4_GROW), mean_product = _mm512_set1_ps(q->mean_product[r]);

		for (int i = 0; i < VECS; i++)
			_mm512_storeu_ps(products + (uint32_t)r * KERN_PAGE_TOKENS + token + i * LANES,
				_mm512_fmadd_ps(total[r][i], scale, mean_product));
	}
}

static inline __attribute__((always_inline)) void product_codes_rows(const int rows, float *products,
	const struct cpu_attention_int4 *k, const struct cpu_attention_query4 *q, uint32_t dim, struct cpu_ahead *ahead)
{
	for (uint32_t token = 0; token < KERN_PAGE_TOKENS; token += 2 * LANES)
		product_codes_block(rows, products, k, q, token, dim, ahead);
}

void cpu_attention_product_codes_avx512(float *products, const struct cpu_attention_int4 *k, const struct cpu_attention_query4 *q,
	uint32_t vectors, uint32_t dim, struct cpu_ahead *ahead)
{
	switch (vectors) {
	case 1:
		product_codes_rows(1, products, k, q, dim, ahead);
		break;
	case 2:
		product_codes_rows(2, products, k, q, dim, ahead);
		break;
	case 3:
		product_codes_rows(3, products, k, q, dim, ahead);
		break;
	default:
		product_codes_rows(4, products, k, q, dim, ahead);
		break;
	}
}

/* A few vectors, as in product_codes: vecs * 16 channels of one group from `channel`. */
static inline __attribute__((always_inline)) void accumulate_codes_block(const int rows, const int vecs, float *o,
	const float *factor, const struct cpu_attention_weights8 *weights, const uint8_t *v, uint32_t dim, uint32_t channel,
	__mmask16 mask, struct cpu_ahead *ahead)
{
	const __m512i table = level_table(0);
	const size_t row_bytes = (size_t)weights->groups * 2 * KERN_PAGE_TOKENS;
	const uint8_t *left = packed_weights(weights, 0, channel);
	__m512i high[CPU_ATTENTION_FEW][2], low[CPU_ATTENTION_FEW][2];

	for (int r = 0; r < rows; r++) {
		for (int i = 0; i < vecs; i++)
			high[r][i] = low[r][i] = _mm512_setzero_si512();
	}
	v += (size_t)channel * 4;
	for (uint32_t token = 0; token < KERN_PAGE_TOKENS; token += 8, v += (size_t)dim * 4) {
		__m512i first[2], second[2];

		cpu_ahead_part(ahead, token / 8, (uint32_t)vecs * 64);
		for (int i = 0; i < vecs; i++) {
			const __m512i codes = vecs > 1 ? _mm512_loadu_si512(v + i * 64) : _mm512_maskz_loadu_epi32(mask, v);

			first[i] = levels_of(codes, table);
			second[i] = levels_of(_mm512_srli_epi16(codes, 4), table);
		}
		for (int r = 0; r < rows; r++) {
			const uint8_t *at = left + (size_t)r * row_bytes + token;
			const __m512i upper[2] = { broadcast4(at), broadcast4(at + 4) };
			const __m512i lower[2] = { broadcast4(at + KERN_PAGE_TOKENS), broadcast4(at + KERN_PAGE_TOKENS + 4) };

			for (int i = 0; i < vecs; i++) {
				add_dots(&high[r][i], upper[0], first[i]);
				add_dots(&low[r][i], lower[0], first[i]);
				add_dots(&high[r][i], upper[1], second[i]);
				add_dots(&low[r][i], lower[1], second[i]);
			}
		}
	}
	for (int r = 0; r < rows; r++) {
		const __m512 scale = _mm512_set1_ps(weights->scale[r]), old_factor = _mm512_set1_ps(factor[r]);

		for (int i = 0; i < vecs; i++) {
			float *at = o + (size_t)(uint32_t)r * dim + channel + i * LANES;
			__m512 sum = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(high[r][i], 8), low[r][i]));

			_mm512_mask_storeu_ps(at, mask,
				_mm512_fmadd_ps(sum, scale, _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, at), old_factor)));
		}
	}
}

static inline __attribute__((always_inline)) void accumulate_codes_rows(const int rows, float *o, const float *factor,
	const struct cpu_attention_weights8 *weights, const uint8_t *v, uint32_t dim, struct cpu_ahead *ahead)
{
	uint32_t channel = 0;

	for (; channel + 2 * LANES <= dim; channel += 2 * LANES)
		accumulate_codes_block(rows, 2, o, factor, weights, v, dim, channel, 0xffff, ahead);
	for (; channel < dim; channel += LANES)
		accumulate_codes_block(rows, 1, o, factor, weights, v, dim, channel, dim - channel < LANES ? 0xff : 0xffff, ahead);
}

void cpu_attention_accumulate_codes_avx512(float *o, const float *factor, const struct cpu_attention_weights8 *weights, uint32_t vectors,
	const uint8_t *v, uint32_t dim, struct cpu_ahead *ahead)
{
	switch (vectors) {
	case 1:
		accumulate_codes_rows(1, o, factor, weights, v, dim, ahead);
		break;
	case 2:
		accumulate_codes_rows(2, o, factor, weights, v, dim, ahead);
		break;
	case 3:
		accumulate_codes_rows(3, o, factor, weights, v, dim, ahead);
		break;
	default:
		accumulate_codes_rows(4, o, factor, weights, v, dim, ahead);
		break;
	}
}
