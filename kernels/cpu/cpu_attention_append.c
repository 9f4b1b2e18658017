/*
 * The APPEND phase: new K and V rows of one KV head are rotated, quantized and stored in their pages, in order of
 * position, so that a chunk that crosses token 63 finds the survey of block 0 when it needs it.
 */
#include "kernels/cpu/cpu_attention_kernels.h"

#include <string.h>

/* A page of the job's layer and KV head, what it is made of, and where its low halves lie; NULL: it has none. */
struct page {
	unsigned char *at, *low;
	const struct kern_kv_layout *layout;
};

static struct page page_of(const struct cpu_attention_job *job, uint32_t kv_head, uint32_t block)
{
	return (struct page){
		.at = kern_kv_page(job->kv, job->blocks[block], block, job->layer, kv_head),
		.low = block > 0 && kern_kv_has_low(job->kv) ?
			kern_kv_page(job->kv, job->blocks[block + KERN_KV_AHEAD], block, job->layer, kv_head) : NULL,
		.layout = kern_kv_layout(job->kv, block),
	};
}

static void store_plain(const struct cpu_attention_kernels *kernels, unsigned char *array, enum kern_kv format,
	uint32_t token, const float *x, uint32_t dim)
{
	if (format == KERN_KV_F32)
		kernels->store(array + (size_t)token * dim * sizeof(float), x, dim, KERN_DTYPE_F32);
	else
		kernels->store(array + (size_t)token * dim * sizeof(uint16_t), x, dim,
			format == KERN_KV_F16 ? KERN_DTYPE_F16 : KERN_DTYPE_BF16);
}

/* int8 K lies as the dot product unit reads it, [dim/4][64][4]. */
static void store_k_int8(const struct cpu_attention_kernels *kernels, const struct page *page, uint32_t token,
	const float *x, uint32_t dim)
{
	int8_t row[CPU_ATTENTION_DIM_MAX], *k = (int8_t *)(page->at + page->layout->k) + (size_t)token * 4;
	int32_t sum;

	((float *)(page->at + page->layout->k_scale))[token] = kernels->quantize(row, x, dim, &sum);
	((int32_t *)(page->at + page->layout->k_sum))[token] = sum;
	for (uint32_t d = 0; d < dim; d += 4)
		memcpy(k + (size_t)d * KERN_PAGE_TOKENS, row + d, 4);
}

/* [64/16][dim][16] */
static void store_k_fp8(const struct cpu_attention_kernels *kernels, const struct page *page, uint32_t token,
	const float *x, uint32_t dim)
{
	enum { NEIGHBOURS = CPU_ATTENTION_TILE_TOKENS };
	uint8_t row[CPU_ATTENTION_DIM_MAX];
	uint8_t *k = page->at + page->layout->k + (size_t)(token / NEIGHBOURS) * NEIGHBOURS * dim + token % NEIGHBOURS;

	((float *)(page->at + page->layout->k_scale))[token] = kernels->quantize_fp8(row, x, dim);
	for (uint32_t d = 0; d < dim; d++)
		k[(size_t)d * NEIGHBOURS] = row[d];
}

/* The scales of a token, among those of the page: [groups][64]. */
static void store_group_scales(unsigned char *array, const uint16_t *scales, uint32_t token, uint32_t dim)
{
	for (uint32_t group = 0; group < kern_kv_groups(dim); group++)
		((uint16_t *)array)[group * KERN_PAGE_TOKENS + token] = scales[group];
}

/* [dim/8][64][4] */
static void store_k_codes(unsigned char *k, const uint8_t *codes, uint32_t token, uint32_t dim)
{
	k += (size_t)token * 4;
	for (uint32_t d = 0; d < dim; d += 8, k += 4 * KERN_PAGE_TOKENS) {
		for (uint32_t i = 0; i < 4; i++)
			k[i] = (uint8_t)(codes[d + i] | codes[d + 4 + i] << 4);
	}
}

static void store_k_int4(const struct cpu_attention_kernels *kernels, const struct page *page, uint32_t token, float *x,
	uint32_t dim)
{
	uint8_t row[CPU_ATTENTION_DIM_MAX], low[CPU_ATTENTION_DIM_MAX];
	uint16_t scales[CPU_ATTENTION_GROUPS];

	kernels->rotate(x, dim);
	kernels->quantize_int4(row, low, scales, x, dim);
	store_group_scales(page->at + page->layout->k_scale, scales, token, dim);
	store_k_codes(page->at + page->layout->k, row, token, dim);
	store_k_codes(page->low + page->layout->k, low, token, dim);
}

/* The mean of a page of int4 K, before its first token: the first one's is that of block 0. */
static void begin_k_int4(const struct cpu_attention_job *job, const struct cpu_attention_kernels *kernels,
	const struct page *page, uint32_t kv_head, uint32_t block, float *scratch)
{
	const struct page first = page_of(job, kv_head, 0);
	const uint32_t dim = job->kv->head_dim;
	float *mean = scratch;
	uint8_t *codes = (uint8_t *)(scratch + CPU_ATTENTION_DIM_MAX);

	if (block == 1) {
		memcpy(mean, first.at + first.layout->mean, dim * sizeof(*mean));
	} else {
		const unsigned char *before = kern_kv_page(job->kv, job->blocks[block - 1], block - 1, job->layer, kv_head);

		kernels->load(mean, before + page->layout->k_mean, dim, KERN_DTYPE_BF16);
		kernels->unpack_k(codes, before + page->layout->k, dim, &(struct cpu_ahead){.bytes = 0});
		kernels->follow(mean, (const float *)(first.at + first.layout->width), codes,
			(const uint16_t *)(before + page->layout->k_scale), dim);
	}
	kernels->store(page->at + page->layout->k_mean, mean, dim, KERN_DTYPE_BF16);
}

/* Smooths x by the session's first page where the format wants it, and by its own page's mean for int4. */
static void append_k(const struct cpu_attention_job *job, const struct cpu_attention_kernels *kernels,
	const struct page *first, const struct page *page, uint32_t token, float *x)
{
	const enum kern_kv format = page->layout->k_format;
	const uint32_t dim = job->kv->head_dim;
	float *mean = (float *)(first->at + first->layout->mean), *width = (float *)(first->at + first->layout->width);
	float own[CPU_ATTENTION_DIM_MAX];

	switch (format) {
	case KERN_KV_INT8:
		kernels->smooth(x, mean, width, dim);
		store_k_int8(kernels, page, token, x, dim);
		return;
	case KERN_KV_FP8:
		kernels->smooth(x, mean, width, dim);
		store_k_fp8(kernels, page, token, x, dim);
		return;
	case KERN_KV_INT4:
		kernels->load(own, page->at + page->layout->k_mean, dim, KERN_DTYPE_BF16);
		kernels->smooth(x, own, width, dim);
		store_k_int4(kernels, page, token, x, dim);
		return;
	default:
		store_plain(kernels, page->at + page->layout->k, format, token, x, dim);
		break;
	}
	/* Only a page of block 0 can be of another format than the session, and its last token completes the survey. */
	if (format != job->kv->k && token == KERN_PAGE_TOKENS - 1)
		kernels->survey(mean, width, page->at + page->layout->k, format, dim, job->kv->k == KERN_KV_INT4);
}

static void append_v(const struct cpu_attention_job *job, const struct cpu_attention_kernels *kernels,
	const struct page *page, uint32_t token, float *x)
{
	const uint32_t dim = job->kv->head_dim;
	unsigned char *v = page->at + page->layout->v, *scale = page->at + page->layout->v_scale;
	const uint32_t shift = token % 4 * 8 + token / 4 % 2 * 4; /* of a nibble */
	uint8_t row[CPU_ATTENTION_DIM_MAX], low[CPU_ATTENTION_DIM_MAX];
	uint16_t scales[CPU_ATTENTION_GROUPS];

	if (job->kv->v == KERN_KV_INT4)
		kernels->rotate(x, dim);
	switch (page->layout->v_format) {
	case KERN_KV_INT8:
		((float *)scale)[token] = kernels->quantize((int8_t *)row, x, dim, NULL);
		kernels->interleave(v + (size_t)(token / 4) * dim * 4, row, dim, 8, token % 4 * 8);
		break;
	case KERN_KV_FP8:
		((float *)scale)[token] = kernels->quantize_fp8(v + (size_t)token * dim, x, dim);
		break;
	case KERN_KV_INT4:
		kernels->quantize_int4(row, low, scales, x, dim);
		store_group_scales(scale, scales, token, dim);
		kernels->interleave(v + (size_t)(token / 8) * dim * 4, row, dim, 4, shift);
		kernels->interleave(page->low + page->layout->v + (size_t)(token / 8) * dim * 4, low, dim, 4, shift);
		break;
	default:
		store_plain(kernels, v, page->layout->v_format, token, x, dim);
		break;
	}
}

void cpu_attention_append(const struct cpu_attention_job *job, uint32_t kv_head, uint32_t begin, uint32_t end,
	float *scratch)
{
	const struct cpu_attention_kernels *kernels = cpu_attention_kernels(job->isa);
	const uint32_t dim = job->kv->head_dim;
	const size_t element = job->dtype == KERN_DTYPE_F32 ? sizeof(float) : sizeof(uint16_t);
	const struct page first = page_of(job, kv_head, 0);
	struct page page = first;

	for (uint32_t row = begin; row < end; row++) {
		uint32_t position = job->kv_position + row, token = position % KERN_PAGE_TOKENS;
		size_t k_at = row * job->k_stride + (size_t)kv_head * dim, v_at = row * job->v_stride + (size_t)kv_head * dim;

		if (row == begin || token == 0)
			page = page_of(job, kv_head, position / KERN_PAGE_TOKENS);
		if (token == 0 && page.layout->k_format == KERN_KV_INT4)
			begin_k_int4(job, kernels, &page, kv_head, position / KERN_PAGE_TOKENS, scratch);
		kernels->load(scratch, (const unsigned char *)job->k + k_at * element, dim, job->dtype);
		if (job->rope != KERN_ROPE_NONE)
			kernels->rope(scratch, job->rope_cos_sin + (size_t)row * job->rotated, job->rope, job->rotated);
		append_k(job, kernels, &first, &page, token, scratch);
		kernels->load(scratch, (const unsigned char *)job->v + v_at * element, dim, job->dtype);
		append_v(job, kernels, &page, token, scratch);
	}
}
