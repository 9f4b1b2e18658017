/*
 * The page functions of attention in plain C: for processors without AVX2, and the plainest statement of what the
 * vector files do. See cpu_attention_kernels.h.
 */
#include "kernels/cpu/cpu_attention_codes.h"

static float quantize_query(void *packed, const float *q, const float *width, uint32_t n)
{
	return row_quantize_query(packed, q, width, n);
}

static float dot(const float *a, const float *b, uint32_t n)
{
	float sum = 0.0f;

	for (uint32_t i = 0; i < n; i++)
		sum += a[i] * b[i];
	return sum;
}

static void dots(float *products, const float *q, uint32_t vectors, const float *b, uint32_t n)
{
	for (uint32_t i = 0; i < vectors; i++)
		products[i] = dot(q + (size_t)i * n, b, n);
}

enum { LANES = CPU_ATTENTION_TILE_TOKENS };

/* Channel d of a token, of any format that is not of integers. */
static float plain_k(const struct cpu_attention_plain *k, uint32_t t, uint32_t d, uint32_t dim)
{
	switch (k->format) {
	case KERN_KV_BF16:
		return row_from_bf16(((const uint16_t *)k->k)[t * dim + d]);
	case KERN_KV_F16:
		return row_from_f16(((const uint16_t *)k->k)[t * dim + d]);
	case KERN_KV_FP8:
		return row_from_fp8(((const uint8_t *)k->k)[t / LANES * LANES * dim + d * LANES + t % LANES]) * k->scale[t] *
			k->width[d] + k->mean[d];
	default:
		return ((const float *)k->k)[t * dim + d];
	}
}

static void transpose(float *restrict tile, const struct cpu_attention_plain *k, uint32_t tokens, uint32_t dim)
{
	for (uint32_t t = 0; t < tokens; t++) {
		float *to = tile + t / LANES * LANES * dim + t % LANES;

		for (uint32_t d = 0; d < dim; d++)
			to[d * LANES] = plain_k(k, t, d, dim);
	}
}

static void product(float *restrict products, const float *restrict tile, const float *restrict q, uint32_t vectors,
	uint32_t tokens, uint32_t dim)
{
	for (uint32_t i = 0; i < vectors; i++) {
		for (uint32_t token = 0; token < tokens; token += LANES) {
			float sum[LANES] = { 0 };

			for (uint32_t d = 0; d < dim; d++) {
				for (uint32_t t = 0; t < LANES; t++)
					sum[t] += q[i * dim + d] * tile[token * dim + d * LANES + t];
			}
			memcpy(products + i * KERN_PAGE_TOKENS + token, sum, sizeof(sum));
		}
	}
}

static void product_int8(float *restrict products, const struct cpu_attention_int8 *k,
	const struct cpu_attention_query8 *query, uint32_t vectors, uint32_t dim, struct cpu_ahead *ahead)
{
	(void)ahead;
	for (uint32_t i = 0; i < vectors; i++) {
		const int16_t *q = (const int16_t *)query->packed + (size_t)i * dim;
		int32_t sum[KERN_PAGE_TOKENS] = { 0 };

		for (uint32_t d = 0; d < dim; d += 4) {
			const int8_t *quad = k->k + (size_t)d * KERN_PAGE_TOKENS;

			for (uint32_t t = 0; t < KERN_PAGE_TOKENS; t++, quad += 4)
				sum[t] += q[d] * quad[0] + q[d + 1] * quad[1] + q[d + 2] * quad[2] + q[d + 3] * quad[3];
		}
		for (uint32_t t = 0; t < KERN_PAGE_TOKENS; t++)
			products[i * KERN_PAGE_TOKENS + t] =
				(float)sum[t] * (query->scale[i] * k->scale[t]) + query->mean_product[i];
	}
}

/* Pairs of quads of so many bytes: the low nibbles are the first quad's, the high ones the second's. */
static void unpack(uint8_t *restrict to, const uint8_t *restrict from, uint32_t quad, uint32_t pairs, int32_t zero)
{
	static const int8_t levels[INT4_CODES] = { INT4_LEVELS };

	for (uint32_t pair = 0; pair < pairs; pair++, to += 2 * quad, from += quad) {
		for (uint32_t i = 0; i < quad; i++) {
			to[i] = (uint8_t)(levels[from[i] & 15] + zero);
			to[quad + i] = (uint8_t)(levels[from[i] >> 4] + zero);
		}
	}
}

static void unpack_k(uint8_t *to, const uint8_t *from, uint32_t dim, struct cpu_ahead *ahead)
{
	(void)ahead;
	unpack(to, from, 4 * KERN_PAGE_TOKENS, dim / 8, INT4_ZERO);
}

static void unpack_v(uint8_t *to, const uint8_t *from, uint32_t dim, struct cpu_ahead *ahead)
{
	(void)ahead;
	unpack(to, from, 4 * dim, KERN_PAGE_TOKENS / 8, 0);
}

static void product_int4(float *restrict products, const struct cpu_attention_int4 *k,
	const struct cpu_attention_query4 *query, uint32_t vectors, uint32_t dim)
{
	for (uint32_t i = 0; i < vectors; i++) {
		const int8_t *q = query->packed + (size_t)i * dim;

		for (uint32_t t = 0; t < KERN_PAGE_TOKENS; t++) {
			float total = 0.0f;

			for (uint32_t group = 0; group < kern_kv_groups(dim); group++) {
				const uint32_t end = (group + 1) * KERN_KV_GROUP < dim ? (group + 1) * KERN_KV_GROUP : dim;
				int32_t sum = -INT4_ZERO * query->sums[i * CPU_ATTENTION_GROUPS + group];

				for (uint32_t d = group * KERN_KV_GROUP; d < end; d++)
					sum += q[d] * k->k[(d / 4 * KERN_PAGE_TOKENS + t) * 4 + d % 4];
				total += (float)sum * (row_from_bf16(k->scale[group * KERN_PAGE_TOKENS + t]) * INT4_SHRINK);
			}
			products[i * KERN_PAGE_TOKENS + t] = total * (query->scale[i] * INT4_GROW) + query->mean_product[i];
		}
	}
}

static float plain_v(const void *v, enum kern_kv format, size_t at)
{
	switch (format) {
	case KERN_KV_BF16:
		return row_from_bf16(((const uint16_t *)v)[at]);
	case KERN_KV_F16:
		return row_from_f16(((const uint16_t *)v)[at]);
	case KERN_KV_FP8:
		return row_from_fp8(((const uint8_t *)v)[at]);
	default:
		return ((const float *)v)[at];
	}
}

static void widen(float *restrict to, const void *v, enum kern_kv format, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		to[i] = plain_v(v, format, i);
}

static uint64_t visible_to(const struct cpu_attention_softmax *how, uint32_t vector)
{
	return how->visible ? how->visible[vector] : UINT64_MAX;
}

/* Products of the tokens that are seen become probabilities, the others zeros. */
static void softmax_one(float *restrict products, uint64_t visible, const struct cpu_attention_softmax *how, float *max,
	float *sum, float *factor)
{
	float largest = *max, total = 0.0f, shift;

	for (uint32_t t = 0; t < KERN_PAGE_TOKENS; t++) {
		float logit = products[t] * how->scale;

		if (!(visible >> t & 1))
			continue;

		if (how->cap != 0.0f)
			logit = how->cap * row_tanh(logit);
		products[t] = logit;
		largest = logit > largest ? logit : largest;
	}
	shift = largest == -INFINITY ? 0.0f : largest;
	for (uint32_t t = 0; t < KERN_PAGE_TOKENS; t++) {
		products[t] = visible >> t & 1 ? row_exp2(products[t] - shift) : 0.0f;
		total += products[t];
	}
	*factor = row_exp2(*max - shift);
	*sum = *sum * *factor + total;
	*max = largest;
}

static void softmax_states(float *products, uint32_t vectors, const struct cpu_attention_softmax *how,
	const struct cpu_attention_running *running)
{
	for (uint32_t i = 0; i < vectors; i++)
		softmax_one(products + (size_t)i * KERN_PAGE_TOKENS, visible_to(how, i), how, &running->max[i], &running->sum[i],
			&running->factor[i]);
}

/* V's scale of a token that is seen; that of others may be anything. */
static float v_scale_at(const struct cpu_attention_softmax *how, uint64_t visible, uint32_t group, uint32_t t)
{
	if (!(visible >> t & 1))
		return 0.0f;
	if (how->v_format == KERN_KV_INT4)
		return fabsf(row_from_bf16(((const uint16_t *)how->v_scale)[group * KERN_PAGE_TOKENS + t]));
	return ((const float *)how->v_scale)[t];
}

static void softmax(float *products, uint32_t vectors, const struct cpu_attention_softmax *how,
	const struct cpu_attention_running *running)
{
	softmax_states(products, vectors, how, running);
	for (uint32_t i = 0; how->v_format == KERN_KV_FP8 && i < vectors; i++) {
		for (uint32_t t = 0; t < KERN_PAGE_TOKENS; t++)
			products[i * KERN_PAGE_TOKENS + t] *= v_scale_at(how, visible_to(how, i), 0, t);
	}
}

/* All groups' weights share a scale, that of the largest. */
static void pack_weights(const struct cpu_attention_weights8 *weights, uint32_t i, const float *p,
	const struct cpu_attention_softmax *how)
{
	const uint64_t visible = visible_to(how, i);
	int16_t *packed = (int16_t *)weights->packed + (size_t)i * weights->groups * KERN_PAGE_TOKENS;
	float w[CPU_ATTENTION_GROUPS * KERN_PAGE_TOKENS], inverse;
	const uint32_t count = weights->groups * KERN_PAGE_TOKENS;

	for (uint32_t j = 0; j < count; j++)
		w[j] = p[j % KERN_PAGE_TOKENS] * v_scale_at(how, visible, j / KERN_PAGE_TOKENS, j % KERN_PAGE_TOKENS);
	weights->scale[i] = row_weight_scale(row_largest_bits(w, count), &inverse);
	row_pack_weights(packed, w, count, inverse);
}

static void softmax_int8(const struct cpu_attention_weights8 *weights, float *products, uint32_t vectors,
	const struct cpu_attention_softmax *how, const struct cpu_attention_running *running)
{
	softmax_states(products, vectors, how, running);
	for (uint32_t i = 0; i < vectors; i++)
		pack_weights(weights, i, products + (size_t)i * KERN_PAGE_TOKENS, how);
}

static void accumulate_one(float *restrict o, const float *weights, const void *v, enum kern_kv format,
	uint32_t begin, uint32_t end, uint32_t dim)
{
	for (uint32_t t = begin; t < end; t++) {
		for (uint32_t d = 0; d < dim; d++)
			o[d] += weights[t] * plain_v(v, format, (size_t)t * dim + d);
	}
}

static void accumulate(float *o, const float *weights, uint32_t vectors, const void *v, enum kern_kv format,
	uint32_t begin, uint32_t end, uint32_t dim)
{
	for (uint32_t i = 0; i < vectors; i++)
		accumulate_one(o + (size_t)i * dim, weights + (size_t)i * KERN_PAGE_TOKENS, v, format, begin, end, dim);
}

static void accumulate_int8(float *restrict o, const float *factor, const struct cpu_attention_weights8 *weights,
	uint32_t vectors, const int8_t *v, uint32_t dim, struct cpu_ahead *ahead)
{
	(void)ahead;
	for (uint32_t i = 0; i < vectors; i++, o += dim) {
		const int16_t *all = (const int16_t *)weights->packed + (size_t)i * weights->groups * KERN_PAGE_TOKENS;
		int32_t sum[CPU_ATTENTION_DIM_MAX] = { 0 };

		for (uint32_t t = 0; t < KERN_PAGE_TOKENS; t += 4) {
			const int8_t *quad = v + (size_t)t * dim;

			for (uint32_t d = 0; d < dim; d++, quad += 4) {
				const int16_t *w = all + (weights->groups > 1 ? d / KERN_KV_GROUP : 0) * KERN_PAGE_TOKENS + t;

				sum[d] += w[0] * quad[0] + w[1] * quad[1] + w[2] * quad[2] + w[3] * quad[3];
			}
		}
		for (uint32_t d = 0; d < dim; d++)
			o[d] = o[d] * factor[i] + (float)sum[d] * weights->scale[i];
	}
}

const struct cpu_attention_kernels cpu_attention_scalar = {
	.load = row_load,
	.store = row_store,
	.rope = row_rope,
	.smooth = row_smooth,
	.quantize = row_quantize,
	.quantize_fp8 = row_quantize_fp8,
	.quantize_int4 = row_quantize_int4,
	.follow = row_follow,
	.rotate = row_rotate,
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
