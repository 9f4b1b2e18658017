/*
 * The APPEND phase: new K and V rows of one KV head are rotated, quantized and stored in their pages, in order of
 * position, so that a chunk that crosses token 63 finds the survey of block 0 when it needs it.
 */
#include "kernels/cpu/cpu_attention_kernels.h"

#include <string.h>

/* A page of the job's layer and KV head, and what it is made of. */
struct page {
	unsigned char *at;
	struct kern_kv_layout layout;
};

static struct page page_of(const struct cpu_attention_job *job, uint32_t kv_head, uint32_t block)
{
	return (struct page){
		.at = kern_kv_page(job->kv, job->blocks[block], block, job->layer, kv_head),
		.layout = kern_kv_layout(job->kv, block),
	};
}

static void store_float(const struct cpu_attention_kernels *kernels, unsigned char *array, enum kern_kv format,
	uint32_t token, const float *x, uint32_t dim)
{
	if (format == KERN_KV_F32)
		kernels->store(array + (size_t)token * dim * sizeof(float), x, dim, KERN_DTYPE_F32);
	else
		kernels->store(array + (size_t)token * dim * sizeof(uint16_t), x, dim, KERN_DTYPE_BF16);
}

/* Smooths x by the session's first page. Int8 K lies as the dot product unit reads it, [dim/4][64][4]. */
static void store_k_int8(const struct cpu_attention_kernels *kernels, const struct page *page, uint32_t token, float *x,
	const struct page *first, uint32_t dim)
{
	const float *mean = (const float *)(first->at + first->layout.mean);
	const float *width = (const float *)(first->at + first->layout.width);
	int8_t row[CPU_ATTENTION_DIM_MAX];
	int8_t *k = (int8_t *)(page->at + page->layout.k) + (size_t)token * 4;
	int32_t sum;

	kernels->smooth(x, mean, width, dim);
	((float *)(page->at + page->layout.k_scale))[token] = kernels->quantize(row, x, dim, &sum);
	((int32_t *)(page->at + page->layout.k_sum))[token] = sum;
	for (uint32_t d = 0; d < dim; d += 4)
		memcpy(k + (size_t)d * KERN_PAGE_TOKENS, row + d, 4);
}

static void append_k(const struct cpu_attention_job *job, const struct cpu_attention_kernels *kernels,
	const struct page *first, const struct page *page, uint32_t token, float *x)
{
	const uint32_t dim = job->kv->head_dim;

	if (page->layout.k_format == KERN_KV_INT8) {
		store_k_int8(kernels, page, token, x, first, dim);
		return;
	}
	store_float(kernels, page->at + page->layout.k, page->layout.k_format, token, x, dim);
	/* Only a page of block 0 can be of another format than the session, and its last token completes the survey. */
	if (page->layout.k_format != job->kv->k && token == KERN_PAGE_TOKENS - 1)
		kernels->survey((float *)(page->at + page->layout.mean), (float *)(page->at + page->layout.width),
			page->at + page->layout.k, page->layout.k_format, dim);
}

static void append_v(const struct cpu_attention_kernels *kernels, const struct page *page, uint32_t token,
	const float *x, uint32_t dim)
{
	unsigned char *v = page->at + page->layout.v;

	if (page->layout.v_format == KERN_KV_INT8) {
		int8_t row[CPU_ATTENTION_DIM_MAX];

		((float *)(page->at + page->layout.v_scale))[token] = kernels->quantize(row, x, dim, NULL);
		kernels->interleave(v + (size_t)(token / 4) * dim * 4, row, dim, token % 4);
	} else {
		store_float(kernels, v, page->layout.v_format, token, x, dim);
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
		kernels->load(scratch, (const unsigned char *)job->k + k_at * element, dim, job->dtype);
		if (job->rope != KERN_ROPE_NONE)
			kernels->rope(scratch, job->rope_cos_sin + (size_t)row * job->rotated, job->rope, job->rotated);
		append_k(job, kernels, &first, &page, token, scratch);
		kernels->load(scratch, (const unsigned char *)job->v + v_at * element, dim, job->dtype);
		append_v(kernels, &page, token, scratch, dim);
	}
}
