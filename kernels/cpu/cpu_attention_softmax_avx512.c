/*
 * The softmax of attention for AVX-512: products of a page with query vectors become weights of V, as floats or as
 * integers. See cpu_attention_kernels.h. Sixteen vectors at a time go through three passes, so that no vector waits for its
 * own maximum; where one number comes of 64 tokens, lanes are folded for all vectors at once. Whatever number of vectors
 * shares a call, each one's sums and maxima are folded by the same tree.
 */
#include <immintrin.h>

#include "kernels/cpu/cpu_attention_math.h"

enum { LANES = 16, PAGE_VECS = KERN_PAGE_TOKENS / LANES, ROWS = 16, QUADS = 4 };

static inline __m512 load_bf16(const uint16_t *from)
{
	return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)from)), 16));
}

/* As row_exp2, in the lanes of the mask; 0 in the others. */
static inline __m512 exp2_16(__mmask16 mask, __m512 x)
{
	const __mmask16 not_zero = _mm512_mask_cmp_ps_mask(mask, x, _mm512_set1_ps(EXP2_LOWEST), _CMP_NLT_UQ);
	const __m512 r = _mm512_reduce_ps(x, 0), n = _mm512_sub_ps(x, r); /* to and from the nearest integer */
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

/* One vector of lanes for each row of a pass, to be folded. */
struct lanes { _Alignas(64) float of[ROWS][LANES]; };

/* Folds of four rows: lane n of the result belongs to row n % 4, and the sixteen of a row have become four. */
static inline __m512 max_of_quad(const float from[][LANES])
{
	const __m512 a = _mm512_load_ps(from[0]), b = _mm512_load_ps(from[1]);
	const __m512 c = _mm512_load_ps(from[2]), d = _mm512_load_ps(from[3]);
	const __m512 ab = _mm512_max_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
	const __m512 cd = _mm512_max_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));

	return _mm512_max_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
}

static inline __m512 sum_of_quad(const float from[][LANES])
{
	const __m512 a = _mm512_load_ps(from[0]), b = _mm512_load_ps(from[1]);
	const __m512 c = _mm512_load_ps(from[2]), d = _mm512_load_ps(from[3]);
	const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
	const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));

	return _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
}

static inline __m512i max_bits_of_quad(const float from[][LANES])
{
	const __m512i a = _mm512_load_si512(from[0]), b = _mm512_load_si512(from[1]);
	const __m512i c = _mm512_load_si512(from[2]), d = _mm512_load_si512(from[3]);
	const __m512i ab = _mm512_max_epu32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
	const __m512i cd = _mm512_max_epu32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));

	return _mm512_max_epu32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
}

/* Lane n of the result is what becomes of row n. Rows beyond the last quad that has one come out as anything. */
static inline __m512 max_of_rows(const struct lanes *lanes, uint32_t rows)
{
	__m512 quad[QUADS], low, high;

	for (uint32_t i = 0; i < QUADS; i++)
		quad[i] = i * 4 < rows ? max_of_quad(lanes->of + i * 4) : _mm512_setzero_ps();
	low = _mm512_max_ps(_mm512_shuffle_f32x4(quad[0], quad[1], 0x44), _mm512_shuffle_f32x4(quad[0], quad[1], 0xee));
	high = _mm512_max_ps(_mm512_shuffle_f32x4(quad[2], quad[3], 0x44), _mm512_shuffle_f32x4(quad[2], quad[3], 0xee));
	return _mm512_max_ps(_mm512_shuffle_f32x4(low, high, 0x88), _mm512_shuffle_f32x4(low, high, 0xdd));
}

static inline __m512 sum_of_rows(const struct lanes *lanes, uint32_t rows)
{
	__m512 quad[QUADS], low, high;

	for (uint32_t i = 0; i < QUADS; i++)
		quad[i] = i * 4 < rows ? sum_of_quad(lanes->of + i * 4) : _mm512_setzero_ps();
	low = _mm512_add_ps(_mm512_shuffle_f32x4(quad[0], quad[1], 0x44), _mm512_shuffle_f32x4(quad[0], quad[1], 0xee));
	high = _mm512_add_ps(_mm512_shuffle_f32x4(quad[2], quad[3], 0x44), _mm512_shuffle_f32x4(quad[2], quad[3], 0xee));
	return _mm512_add_ps(_mm512_shuffle_f32x4(low, high, 0x88), _mm512_shuffle_f32x4(low, high, 0xdd));
}

static inline __m512i max_bits_of_rows(const struct lanes *lanes, uint32_t rows)
{
	__m512i quad[QUADS], low, high;

	for (uint32_t i = 0; i < QUADS; i++)
		quad[i] = i * 4 < rows ? max_bits_of_quad(lanes->of + i * 4) : _mm512_setzero_si512();
	low = _mm512_max_epu32(_mm512_shuffle_i32x4(quad[0], quad[1], 0x44), _mm512_shuffle_i32x4(quad[0], quad[1], 0xee));
	high = _mm512_max_epu32(_mm512_shuffle_i32x4(quad[2], quad[3], 0x44), _mm512_shuffle_i32x4(quad[2], quad[3], 0xee));
	return _mm512_max_epu32(_mm512_shuffle_i32x4(low, high, 0x88), _mm512_shuffle_i32x4(low, high, 0xdd));
}

/* What is the same for all vectors of a call: V's scales as floats, of each group, and each token's largest. */
struct v_scales {
	_Alignas(64) float of[CPU_ATTENTION_GROUPS][KERN_PAGE_TOKENS];
	_Alignas(64) float largest[KERN_PAGE_TOKENS];
};

/* What a call is for. */
enum weights_kind { WEIGHTS_FLOAT, WEIGHTS_FP8, WEIGHTS_INT8, WEIGHTS_INT4 };

/* Up to sixteen vectors. */
struct chunk {
	float *products;
	const uint64_t *visible; /* NULL: all is */
	uint32_t rows;
	__mmask16 mask; /* of the rows */
	float scale;    /* of products to logits; positive */
	const float *v_scale; /* of tokens; the largest of the groups' for int4 */
	struct lanes lanes, bits;
	_Alignas(64) float shift[ROWS], inverse[ROWS];
};

static inline __mmask16 seen_of(const struct chunk *chunk, const bool edges, uint32_t row, int i)
{
	return edges ? (__mmask16)(chunk->visible[row] >> i * LANES) : 0xffff;
}

/* First pass: the states' maxima move on. As the scale is positive, the largest product has the largest logit. */
static inline __attribute__((always_inline)) void find_maxima(const bool edges, struct chunk *chunk,
	const struct cpu_attention_running *running, uint32_t first)
{
	const __m512 none = _mm512_set1_ps(-INFINITY), old = _mm512_maskz_loadu_ps(chunk->mask, running->max + first);
	__m512 max, shift;

	for (uint32_t row = 0; row < chunk->rows; row++) {
		const float *products = chunk->products + (size_t)row * KERN_PAGE_TOKENS;
		__m512 x[PAGE_VECS];

		for (int i = 0; i < PAGE_VECS; i++)
			x[i] = edges ? _mm512_mask_loadu_ps(none, seen_of(chunk, true, row, i), products + i * LANES) :
				_mm512_loadu_ps(products + i * LANES);
		_mm512_store_ps(chunk->lanes.of[row], _mm512_max_ps(_mm512_max_ps(x[0], x[1]), _mm512_max_ps(x[2], x[3])));
	}
	max = _mm512_mul_ps(max_of_rows(&chunk->lanes, chunk->rows), _mm512_set1_ps(chunk->scale));
	max = _mm512_max_ps(old, max);
	shift = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(max, none, _CMP_NEQ_UQ), max);
	_mm512_store_ps(chunk->shift, shift);
	_mm512_mask_storeu_ps(running->max + first, chunk->mask, max);
	_mm512_mask_storeu_ps(running->factor + first, chunk->mask, exp2_16(0xffff, _mm512_sub_ps(old, shift)));
}

/* Second pass: products become probabilities, or weights, which are zero for tokens that are not seen, whatever V's scales
 * are there; the states' sums move on. */
static inline __attribute__((always_inline)) void find_weights(const bool edges, const enum weights_kind kind,
	struct chunk *chunk, const struct cpu_attention_running *running, uint32_t first)
{
	const __m512 scale = _mm512_set1_ps(chunk->scale);
	__m512 sum, factor;

	for (uint32_t row = 0; row < chunk->rows; row++) {
		float *at = chunk->products + (size_t)row * KERN_PAGE_TOKENS;
		const __m512 shift = _mm512_set1_ps(chunk->shift[row]);
		__m512 p[PAGE_VECS], w[PAGE_VECS];

		for (int i = 0; i < PAGE_VECS; i++) {
			const __mmask16 seen = seen_of(chunk, edges, row, i);

			/* Not in one operation: huge logits would come out above their rounded maximum. */
			p[i] = exp2_16(seen, _mm512_sub_ps(_mm512_mul_ps(_mm512_loadu_ps(at + i * LANES), scale), shift));
			w[i] = p[i];
			if (kind != WEIGHTS_FLOAT)
				w[i] = _mm512_maskz_mul_ps(seen, p[i], _mm512_loadu_ps(chunk->v_scale + i * LANES));
			_mm512_storeu_ps(at + i * LANES, kind == WEIGHTS_INT4 ? p[i] : w[i]);
		}
		_mm512_store_ps(chunk->lanes.of[row], _mm512_add_ps(_mm512_add_ps(p[0], p[1]), _mm512_add_ps(p[2], p[3])));
		if (kind == WEIGHTS_INT8 || kind == WEIGHTS_INT4)
			_mm512_store_si512(chunk->bits.of[row],
				_mm512_max_epu32(_mm512_max_epu32(_mm512_castps_si512(w[0]), _mm512_castps_si512(w[1])),
				_mm512_max_epu32(_mm512_castps_si512(w[2]), _mm512_castps_si512(w[3]))));
	}
	sum = _mm512_maskz_loadu_ps(chunk->mask, running->sum + first);
	factor = _mm512_maskz_loadu_ps(chunk->mask, running->factor + first);
	sum = _mm512_fmadd_ps(sum, factor, sum_of_rows(&chunk->lanes, chunk->rows));
	_mm512_mask_storeu_ps(running->sum + first, chunk->mask, sum);
}

/* Scales of weights, from each row's largest; as row_weight_scale. */
static void find_scales(struct chunk *chunk, float *to)
{
	const __m512i exponent_bits = _mm512_set1_epi32(FLOAT_INFINITY_BITS);
	const __m512i shift = _mm512_set1_epi32((CPU_ATTENTION_WEIGHT_BITS - 1) << 23);
	const __m512i largest = max_bits_of_rows(&chunk->bits, chunk->rows);
	const __m512i exponent = _mm512_max_epu32(_mm512_and_si512(largest, exponent_bits), _mm512_set1_epi32(27 << 23));
	const __mmask16 is_nan = _mm512_cmpge_epu32_mask(largest, exponent_bits);
	const __m512 scale = _mm512_castsi512_ps(_mm512_sub_epi32(exponent, shift)), nan = _mm512_set1_ps(NAN);

	_mm512_mask_storeu_ps(to, chunk->mask, _mm512_mask_mov_ps(scale, is_nan, nan));
	_mm512_store_si512(chunk->inverse,
		_mm512_sub_epi32(_mm512_add_epi32(_mm512_set1_epi32((int)(254u << 23)), shift), exponent));
}

/* 64 weights to integers of 15 bits: [high byte of 64 tokens][low byte of 64]. */
static inline __attribute__((always_inline)) void pack_row(uint8_t *packed, const __m512 w[PAGE_VECS])
{
	const __m512i byte = _mm512_set1_epi16(0xff);
	/* Packing leaves words of four tokens in the order 0 4 8 12, 1 5 9 13, ... */
	const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
	const __m512i first = _mm512_packs_epi32(_mm512_cvtps_epi32(w[0]), _mm512_cvtps_epi32(w[1]));
	const __m512i second = _mm512_packs_epi32(_mm512_cvtps_epi32(w[2]), _mm512_cvtps_epi32(w[3]));

	_mm512_storeu_si512(packed, _mm512_permutexvar_epi32(order,
		_mm512_packus_epi16(_mm512_srli_epi16(first, 8), _mm512_srli_epi16(second, 8))));
	_mm512_storeu_si512(packed + KERN_PAGE_TOKENS, _mm512_permutexvar_epi32(order,
		_mm512_packus_epi16(_mm512_and_si512(first, byte), _mm512_and_si512(second, byte))));
}

/* Third pass, for int8: weights become integers. */
static void pack_weights(const struct chunk *chunk, uint8_t *packed)
{
	for (uint32_t row = 0; row < chunk->rows; row++, packed += 2 * KERN_PAGE_TOKENS) {
		const __m512 inverse = _mm512_set1_ps(chunk->inverse[row]);
		__m512 w[PAGE_VECS];

		for (int i = 0; i < PAGE_VECS; i++)
			w[i] = _mm512_mul_ps(_mm512_loadu_ps(chunk->products + row * KERN_PAGE_TOKENS + i * LANES), inverse);
		pack_row(packed, w);
	}
}

/* Third pass, for int4: probabilities become each group's integers. All share a scale, that of the largest. */
static inline __attribute__((always_inline)) void pack_groups(const bool edges, const struct chunk *chunk, uint8_t *packed,
	const struct v_scales *scales, uint32_t groups)
{
	for (uint32_t row = 0; row < chunk->rows; row++) {
		const __m512 inverse = _mm512_set1_ps(chunk->inverse[row]);
		__m512 p[PAGE_VECS], w[PAGE_VECS];

		for (int i = 0; i < PAGE_VECS; i++)
			p[i] = _mm512_mul_ps(_mm512_loadu_ps(chunk->products + row * KERN_PAGE_TOKENS + i * LANES), inverse);
		for (uint32_t group = 0; group < groups; group++, packed += 2 * KERN_PAGE_TOKENS) {
			for (int i = 0; i < PAGE_VECS; i++)
				w[i] = _mm512_maskz_mul_ps(seen_of(chunk, edges, row, i), p[i],
					_mm512_load_ps(scales->of[group] + i * LANES));
			pack_row(packed, w);
		}
	}
}

/* One call. */
struct softmax {
	const struct cpu_attention_softmax *how;
	const struct cpu_attention_running *running;
	const struct cpu_attention_weights8 *weights; /* NULL for floats */
	const struct v_scales *scales;                /* int4 only */
	float scale;
};

static inline __attribute__((always_inline)) void softmax_chunk(const bool edges, const enum weights_kind kind,
	const struct softmax *s, struct chunk *chunk, uint32_t first)
{
	const struct cpu_attention_weights8 *weights = s->weights;

	find_maxima(edges, chunk, s->running, first);
	find_weights(edges, kind, chunk, s->running, first);
	if (kind == WEIGHTS_INT8 || kind == WEIGHTS_INT4)
		find_scales(chunk, weights->scale + first);
	if (kind == WEIGHTS_INT8)
		pack_weights(chunk, (uint8_t *)weights->packed + (size_t)first * 2 * KERN_PAGE_TOKENS);
	if (kind == WEIGHTS_INT4)
		pack_groups(edges, chunk, (uint8_t *)weights->packed + (size_t)first * weights->groups * 2 * KERN_PAGE_TOKENS,
			s->scales, weights->groups);
}

static inline __attribute__((always_inline)) void softmax_all(const enum weights_kind kind, const struct softmax *s,
	float *products, uint32_t vectors)
{
	struct chunk chunk;

	chunk.scale = s->scale;
	chunk.v_scale = kind == WEIGHTS_INT4 ? s->scales->largest : s->how->v_scale;
	for (uint32_t first = 0; first < vectors; first += chunk.rows) {
		chunk.products = products + (size_t)first * KERN_PAGE_TOKENS;
		chunk.rows = vectors - first < ROWS ? vectors - first : ROWS;
		chunk.mask = (__mmask16)((1u << chunk.rows) - 1);
		for (uint32_t row = chunk.rows; row % 4 != 0; row++) {
			_mm512_store_ps(chunk.lanes.of[row], _mm512_setzero_ps());
			_mm512_store_ps(chunk.bits.of[row], _mm512_setzero_ps());
		}
		if (s->how->visible) {
			chunk.visible = s->how->visible + first;
			softmax_chunk(true, kind, s, &chunk, first);
		} else {
			softmax_chunk(false, kind, s, &chunk, first);
		}
	}
}

/* Where there is a cap, or a scale that is not positive, products become logits beforehand. */
static void prepare_logits(float *products, uint32_t vectors, const struct cpu_attention_softmax *how)
{
	const __m512 scale = _mm512_set1_ps(how->scale), cap = _mm512_set1_ps(how->cap);

	for (uint32_t i = 0; i < vectors * KERN_PAGE_TOKENS; i += LANES) {
		const __m512 x = _mm512_mul_ps(_mm512_loadu_ps(products + i), scale);

		_mm512_storeu_ps(products + i, how->cap != 0.0f ? _mm512_mul_ps(cap, tanh16(x)) : x);
	}
}

static void load_v_scales(struct v_scales *scales, const uint16_t *from, uint32_t groups)
{
	for (uint32_t i = 0; i < KERN_PAGE_TOKENS; i += LANES) {
		__m512 largest = _mm512_setzero_ps();

		for (uint32_t group = 0; group < groups; group++) {
			const __m512 scale = _mm512_abs_ps(load_bf16(from + group * KERN_PAGE_TOKENS + i));

			_mm512_store_ps(scales->of[group] + i, scale);
			largest = _mm512_castsi512_ps(_mm512_max_epu32(_mm512_castps_si512(largest), _mm512_castps_si512(scale)));
		}
		_mm512_store_ps(scales->largest + i, largest);
	}
}

static struct softmax softmax_of(float *products, uint32_t vectors, const struct cpu_attention_softmax *how,
	const struct cpu_attention_running *running)
{
	const bool plain = how->cap == 0.0f && how->scale > 0.0f;

	if (!plain)
		prepare_logits(products, vectors, how);
	return (struct softmax){ .how = how, .running = running, .scale = plain ? how->scale : 1.0f };
}

void cpu_attention_softmax_avx512(float *products, uint32_t vectors, const struct cpu_attention_softmax *how,
	const struct cpu_attention_running *running)
{
	const struct softmax s = softmax_of(products, vectors, how, running);

	if (how->v_format == KERN_KV_FP8)
		softmax_all(WEIGHTS_FP8, &s, products, vectors);
	else
		softmax_all(WEIGHTS_FLOAT, &s, products, vectors);
}

void cpu_attention_softmax_int8_avx512(const struct cpu_attention_weights8 *weights, float *products, uint32_t vectors,
	const struct cpu_attention_softmax *how, const struct cpu_attention_running *running)
{
	struct softmax s = softmax_of(products, vectors, how, running);
	struct v_scales scales;

	s.weights = weights;
	if (how->v_format != KERN_KV_INT4) {
		softmax_all(WEIGHTS_INT8, &s, products, vectors);
		return;
	}
	load_v_scales(&scales, how->v_scale, weights->groups);
	s.scales = &scales;
	softmax_all(WEIGHTS_INT4, &s, products, vectors);
}
