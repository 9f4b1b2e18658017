/*
 * The page functions of attention in plain C: for processors without AVX2, and the plainest statement of what the
 * vector files do. See cpu_attention_kernels.h.
 */
#include "kernels/cpu/cpu_attention_rows.h"

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

enum { LANES = CPU_ATTENTION_TILE_TOKENS };

static void transpose(float *restrict tile, const void *k, enum kern_kv format, uint32_t tokens, uint32_t dim)
{
	const float *f32 = k;
	const uint16_t *bf16 = k;

	for (uint32_t t = 0; t < tokens; t++) {
		float *to = tile + t / LANES * LANES * dim + t % LANES;

		for (uint32_t d = 0; format == KERN_KV_F32 && d < dim; d++)
			to[d * LANES] = f32[t * dim + d];
		for (uint32_t d = 0; format == KERN_KV_BF16 && d < dim; d++)
			to[d * LANES] = row_from_bf16(bf16[t * dim + d]);
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
	const struct cpu_attention_query8 *query, uint32_t vectors, uint32_t dim, const void *ahead)
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

static void widen(float *restrict to, const void *v, enum kern_kv format, uint32_t n)
{
	const uint16_t *bf16 = v;

	for (uint32_t i = 0; format == KERN_KV_BF16 && i < n; i++)
		to[i] = row_from_bf16(bf16[i]);
}

/* Products of the tokens that are seen become probabilities, the others zeros. */
static void softmax_one(float *restrict products, const struct cpu_attention_softmax *how, float *max, float *sum,
	float *factor)
{
	float largest = *max, total = 0.0f, shift;

	for (uint32_t t = how->begin; t < how->end; t++) {
		float logit = products[t] * how->scale;

		if (how->cap != 0.0f)
			logit = how->cap * row_tanh(logit);
		products[t] = logit;
		largest = logit > largest ? logit : largest;
	}
	shift = largest == -INFINITY ? 0.0f : largest;
	for (uint32_t t = 0; t < KERN_PAGE_TOKENS; t++) {
		products[t] = t >= how->begin && t < how->end ? row_exp2(products[t] - shift) : 0.0f;
		total += products[t];
	}
	*factor = row_exp2(*max - shift);
	*sum = *sum * *factor + total;
	*max = largest;
}

static void softmax(float *products, uint32_t vectors, const struct cpu_attention_softmax *how,
	const struct cpu_attention_running *running)
{
	for (uint32_t i = 0; i < vectors; i++)
		softmax_one(products + (size_t)i * KERN_PAGE_TOKENS, how, &running->max[i], &running->sum[i], &running->factor[i]);
}

static void softmax_int8(const struct cpu_attention_weights8 *weights, float *products, uint32_t vectors,
	const struct cpu_attention_softmax *how, const struct cpu_attention_running *running)
{
	softmax(products, vectors, how, running);
	for (uint32_t i = 0; i < vectors; i++, products += KERN_PAGE_TOKENS) {
		int16_t *packed = (int16_t *)weights->packed + (size_t)i * KERN_PAGE_TOKENS;
		float inverse;

		for (uint32_t t = how->begin; t < how->end; t++)
			products[t] *= how->v_scale[t];
		weights->scale[i] = row_weight_scale(row_largest_bits(products, KERN_PAGE_TOKENS), &inverse);
		row_pack_weights(packed, products, inverse);
	}
}

static void accumulate_one(float *restrict o, const float *weights, const void *v, enum kern_kv format,
	uint32_t begin, uint32_t end, uint32_t dim)
{
	for (uint32_t t = begin; t < end; t++) {
		const float *f32 = (const float *)v + (size_t)t * dim;
		const uint16_t *bf16 = (const uint16_t *)v + (size_t)t * dim;

		for (uint32_t d = 0; format == KERN_KV_F32 && d < dim; d++)
			o[d] += weights[t] * f32[d];
		for (uint32_t d = 0; format == KERN_KV_BF16 && d < dim; d++)
			o[d] += weights[t] * row_from_bf16(bf16[d]);
	}
}

static void accumulate(float *o, const float *weights, uint32_t vectors, const void *v, enum kern_kv format,
	uint32_t begin, uint32_t end, uint32_t dim)
{
	for (uint32_t i = 0; i < vectors; i++)
		accumulate_one(o + (size_t)i * dim, weights + (size_t)i * KERN_PAGE_TOKENS, v, format, begin, end, dim);
}

static void accumulate_int8(float *restrict o, const float *factor, const struct cpu_attention_weights8 *weights,
	uint32_t vectors, const int8_t *v, uint32_t dim, const void *ahead)
{
	const int16_t *w = weights->packed;

	(void)ahead;
	for (uint32_t i = 0; i < vectors; i++, o += dim, w += KERN_PAGE_TOKENS) {
		int32_t sum[CPU_ATTENTION_DIM_MAX] = { 0 };

		for (uint32_t t = 0; t < KERN_PAGE_TOKENS; t += 4) {
			const int8_t *quad = v + (size_t)t * dim;

			for (uint32_t d = 0; d < dim; d++, quad += 4)
				sum[d] += w[t] * quad[0] + w[t + 1] * quad[1] + w[t + 2] * quad[2] + w[t + 3] * quad[3];
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
	.interleave = row_interleave,
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
	.softmax_int8 = softmax_int8,
	.accumulate = accumulate,
	.accumulate_int8 = accumulate_int8,
};
