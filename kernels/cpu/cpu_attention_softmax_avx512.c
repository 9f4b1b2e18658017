/*
 * The softmax of attention for AVX-512: products of a page with up to four query vectors at once become weights of V,
 * as floats or as integers. See cpu_attention_kernels.h. Whatever number of vectors shares a call, each one's sums and maxima
 * are folded by the same tree.
 */
#include <immintrin.h>

#include "kernels/cpu/cpu_attention_math.h"

enum { LANES = 16, PAGE_VECS = KERN_PAGE_TOKENS / LANES };

static inline __m512 load_bf16(const uint16_t *from)
{
	return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)from)), 16));
}

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
		rows = vectors - first < SOFTMAX_ROWS ? vectors - first : SOFTMAX_ROWS;
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

void cpu_attention_softmax_avx512(float *products, uint32_t vectors, const struct cpu_attention_softmax *how,
	const struct cpu_attention_running *running)
{
	softmax_all(false, products, vectors, how, running, NULL);
}

void cpu_attention_softmax_int8_avx512(const struct cpu_attention_weights8 *weights, float *products, uint32_t vectors,
	const struct cpu_attention_softmax *how, const struct cpu_attention_running *running)
{
	softmax_all(true, products, vectors, how, running, weights);
}
