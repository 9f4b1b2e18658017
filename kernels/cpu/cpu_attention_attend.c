/*
 * The ATTEND phase of one tile: flash attention (online softmax: Milakov and Gimelshein 2018; Dao et al. 2022) over the
 * pages that its rows see. Runs on any thread within a unit; touches the job's pages, its partial results, its
 * output and the participant's scratch.
 */
#include "kernels/cpu/cpu_attention_unit.h"

#include <math.h>
#include <string.h>

#define LOG2_E 1.44269504f
#define LOG_2 0.693147181f

enum { SPLIT_PAGES = CPU_ATTENTION_SPLIT_TOKENS / KERN_PAGE_TOKENS };

/* From so many query vectors on, a page's V is converted once and not by each block of vectors. */
enum { WIDEN_VECTORS = 8 };

static size_t element_bytes(enum kern_dtype dtype)
{
	return dtype == KERN_DTYPE_F32 ? sizeof(float) : sizeof(uint16_t);
}

static void begin_pages(const struct cpu_attention_tile *tile)
{
	if (tile->kernels->begin != NULL)
		tile->kernels->begin(tile->job->kv->k, tile->job->kv->head_dim);
}

static void end_pages(const struct cpu_attention_tile *tile)
{
	if (tile->kernels->end != NULL)
		tile->kernels->end();
}

/* Loads and rotates the tile's query vectors, behind those of `before` rows, and notes what each row sees. */
static void load_queries(const struct cpu_attention_tile *tile, struct cpu_attention_scratch *scratch, uint32_t before)
{
	const struct cpu_attention_job *job = tile->job;
	const uint32_t dim = job->kv->head_dim;

	for (uint32_t i = 0; i < tile->rows; i++) {
		const uint32_t row = tile->first_row + i;
		const size_t from = row * job->q_stride + (size_t)tile->first_head * dim;
		float *q = scratch->q + (size_t)(before + i) * tile->heads * dim;

		scratch->range[before + i] = cpu_attention_visible(job, row);
		tile->kernels->load(q, (const unsigned char *)job->q + from * element_bytes(job->dtype), tile->heads * dim,
			job->dtype);
		for (uint32_t head = 0; job->rope != KERN_ROPE_NONE && head < tile->heads; head++)
			tile->kernels->rope(q + (size_t)head * dim, job->rope_cos_sin + (size_t)row * job->rotated, job->rope,
				job->rotated);
	}
}

/* For pages of int8 or int4 K: integers of q; and q.mean, which int8's lack. */
static void quantize_queries(const struct cpu_attention_tile *tile, struct cpu_attention_scratch *scratch)
{
	const struct cpu_attention_job *job = tile->job;
	const struct kern_kv_layout *first = kern_kv_layout(job->kv, 0);
	const unsigned char *page = kern_kv_page(job->kv, job->blocks[0], 0, job->layer, tile->kv_head);
	const float *mean = (const float *)(page + first->mean), *width = (const float *)(page + first->width);
	const uint32_t dim = job->kv->head_dim;
	float turned[CPU_ATTENTION_DIM_MAX];

	for (uint32_t i = 0; i < tile->vectors; i++) {
		const float *q = scratch->q + (size_t)i * dim;

		if (job->kv->k == KERN_KV_INT4) {
			for (uint32_t d = 0; d < dim; d++)
				turned[d] = q[d] * width[d];
			tile->kernels->rotate(turned, dim);
			scratch->q_scale[i] = tile->kernels->quantize_query4((int8_t *)scratch->packed + (size_t)i * dim,
				scratch->group_sums + (size_t)i * CPU_ATTENTION_GROUPS, turned, dim);
			continue;
		}
		scratch->q_scale[i] = tile->kernels->quantize_query(scratch->packed + (size_t)i * dim, q, width, dim);
		scratch->mean_product[i] = tile->kernels->dot(q, mean, dim);
	}
}

struct page {
	const unsigned char *at, *low; /* low: its low halves, or NULL */
	const struct kern_kv_layout *layout;
	uint32_t base; /* position of its first token */
};

static void multiply_int8(const struct cpu_attention_tile *tile, struct cpu_attention_scratch *scratch,
	const struct page *page, uint32_t first, uint32_t count)
{
	const uint32_t dim = tile->job->kv->head_dim;
	const struct cpu_attention_int8 k = {
		.k = (const int8_t *)(page->at + page->layout->k),
		.scale = (const float *)(page->at + page->layout->k_scale),
		.sum = (const int32_t *)(page->at + page->layout->k_sum),
	};
	const struct cpu_attention_query8 q = {
		.packed = scratch->packed + (size_t)first * dim,
		.scale = scratch->q_scale + first,
		.mean_product = scratch->mean_product + first,
	};

	tile->kernels->product_int8(scratch->weights + (size_t)first * KERN_PAGE_TOKENS, &k, &q, count, dim, &scratch->ahead);
}

/* q.mean of a page of int4, which has a mean of its own. */
static void multiply_mean(const struct cpu_attention_tile *tile, struct cpu_attention_scratch *scratch,
	const struct page *page, uint32_t first, uint32_t count)
{
	const uint32_t dim = tile->job->kv->head_dim;
	float mean[CPU_ATTENTION_DIM_MAX];

	tile->kernels->load(mean, page->at + page->layout->k_mean, dim, KERN_DTYPE_BF16);
	tile->kernels->dots(scratch->mean_product + first, scratch->q + (size_t)first * dim, count, mean, dim);
}

static void multiply_int4(const struct cpu_attention_tile *tile, struct cpu_attention_scratch *scratch,
	const struct page *page, uint32_t first, uint32_t count)
{
	const uint32_t dim = tile->job->kv->head_dim;
	struct cpu_attention_int4 k = {
		.k = page->at + page->layout->k,
		.scale = (const uint16_t *)(page->at + page->layout->k_scale),
	};
	const struct cpu_attention_query4 q = {
		.packed = (const int8_t *)scratch->packed + (size_t)first * dim,
		.sums = scratch->group_sums + (size_t)first * CPU_ATTENTION_GROUPS,
		.scale = scratch->q_scale + first,
		.mean_product = scratch->mean_product + first,
	};

	multiply_mean(tile, scratch, page, first, count);
	if (count <= CPU_ATTENTION_FEW && page->low == NULL && tile->kernels->product_codes != NULL) {
		tile->kernels->product_codes(scratch->weights + (size_t)first * KERN_PAGE_TOKENS, &k, &q, count, dim, &scratch->ahead);
		return;
	}
	tile->kernels->unpack_k((uint8_t *)scratch->k, k.k, dim, &scratch->ahead);
	k.k = (const uint8_t *)scratch->k;
	if (page->low != NULL)
		tile->kernels->add_low((uint8_t *)scratch->k, page->low + page->layout->k, 4 * KERN_PAGE_TOKENS, dim / 8);
	tile->kernels->product_int4(scratch->weights + (size_t)first * KERN_PAGE_TOKENS, &k, &q, count, dim);
}

static void multiply_plain(const struct cpu_attention_tile *tile, struct cpu_attention_scratch *scratch,
	const struct page *page, uint32_t first, uint32_t count, uint32_t tokens)
{
	const struct cpu_attention_job *job = tile->job;
	const struct kern_kv_layout *block0 = kern_kv_layout(job->kv, 0);
	const unsigned char *page0 = kern_kv_page(job->kv, job->blocks[0], 0, job->layer, tile->kv_head);
	const uint32_t dim = job->kv->head_dim;
	const struct cpu_attention_plain k = {
		.k = page->at + page->layout->k,
		.format = page->layout->k_format,
		.scale = (const float *)(page->at + page->layout->k_scale),
		.mean = (const float *)(page0 + block0->mean),
		.width = (const float *)(page0 + block0->width),
	};

	tile->kernels->transpose(scratch->k, &k, tokens, dim);
	tile->kernels->product(scratch->weights + (size_t)first * KERN_PAGE_TOKENS, scratch->k,
		scratch->q + (size_t)first * dim, count, tokens, dim);
}

/* Products of `count` vectors from `first` with a page, of whose tokens the first `tokens` matter. */
static void multiply_page(const struct cpu_attention_tile *tile, struct cpu_attention_scratch *scratch,
	const struct page *page, uint32_t first, uint32_t count, uint32_t tokens)
{
	if (page->layout->k_format == KERN_KV_INT8)
		multiply_int8(tile, scratch, page, first, count);
	else if (page->layout->k_format == KERN_KV_INT4)
		multiply_int4(tile, scratch, page, first, count);
	else
		multiply_plain(tile, scratch, page, first, count, tokens);
}

/* What a range has within the page that begins at `base`, from the start of the page. */
static struct cpu_attention_range clip(struct cpu_attention_range range, uint32_t base)
{
	uint32_t begin = range.begin > base ? range.begin - base : 0, end = range.end > base ? range.end - base : 0;

	end = end < KERN_PAGE_TOKENS ? end : KERN_PAGE_TOKENS;
	return (struct cpu_attention_range){ begin < end ? begin : end, end };
}

static struct cpu_attention_weights8 packed_weights(const struct cpu_attention_tile *tile,
	struct cpu_attention_scratch *scratch, enum kern_kv v_format, uint32_t first)
{
	const uint32_t groups = v_format == KERN_KV_INT4 ? kern_kv_groups(tile->job->kv->head_dim) : 1;

	return (struct cpu_attention_weights8){
		.packed = scratch->packed_weights + (size_t)first * groups * KERN_PAGE_TOKENS,
		.scale = scratch->weight_scale + first,
		.groups = groups,
	};
}

/* Weights of V for the vectors that see something of a page. */
static void weigh_page(const struct cpu_attention_tile *tile, struct cpu_attention_scratch *scratch,
	const struct page *page, uint32_t first, uint32_t count, const uint64_t *visible)
{
	const struct cpu_attention_job *job = tile->job;
	const struct cpu_attention_softmax how = {
		.scale = job->soft_cap != 0.0f ? job->scale / job->soft_cap : job->scale * LOG2_E,
		.cap = job->soft_cap * LOG2_E,
		.visible = visible,
		.v_format = page->layout->v_format,
		.v_scale = page->at + page->layout->v_scale,
	};
	const struct cpu_attention_running running = { scratch->max + first, scratch->sum + first, scratch->factor + first };
	const struct cpu_attention_weights8 weights = packed_weights(tile, scratch, how.v_format, first);
	float *products = scratch->weights + (size_t)first * KERN_PAGE_TOKENS;

	if (cpu_attention_has_integers(how.v_format))
		tile->kernels->softmax_int8(&weights, products, count, &how, &running);
	else
		tile->kernels->softmax(products, count, &how, &running);
}

static uint64_t mask_of(struct cpu_attention_range part)
{
	const uint64_t below = part.end == KERN_PAGE_TOKENS ? UINT64_MAX : (UINT64_C(1) << part.end) - 1;

	return part.begin == KERN_PAGE_TOKENS ? 0 : below & UINT64_MAX << part.begin;
}

/* Which tokens of a page each vector sees; NULL if all see it whole. */
static const uint64_t *see_page(const struct cpu_attention_tile *tile, struct cpu_attention_scratch *scratch,
	const struct page *page, uint32_t first, uint32_t last)
{
	const struct cpu_attention_range *range = scratch->range;

	if (range[last - 1].begin <= page->base && range[first].end >= page->base + KERN_PAGE_TOKENS)
		return NULL;
	for (uint32_t row = first; row < last; row++) {
		const uint64_t visible = mask_of(clip(range[row], page->base));

		for (uint32_t head = 0; head < tile->heads; head++)
			scratch->visible[row * tile->heads + head] = visible;
	}
	return scratch->visible + (size_t)first * tile->heads;
}

/* Weighted sum of V that is not of integers, for the same. For many vectors V has been widened to where the transposed K was. */
static void add_rows(const struct cpu_attention_tile *tile, struct cpu_attention_scratch *scratch,
	const struct page *page, bool widened, uint32_t row, uint32_t rows, struct cpu_attention_range part)
{
	const uint32_t dim = tile->job->kv->head_dim, first = row * tile->heads, count = rows * tile->heads;
	const void *v = widened ? (const void *)scratch->k : page->at + page->layout->v;

	for (uint32_t i = first; i < first + count; i++) {
		if (scratch->factor[i] != 1.0f)
			tile->kernels->multiply(scratch->o + (size_t)i * dim, scratch->factor[i], dim);
	}
	tile->kernels->accumulate(scratch->o + (size_t)first * dim, scratch->weights + (size_t)first * KERN_PAGE_TOKENS,
		count, v, widened ? KERN_KV_F32 : page->layout->v_format, part.begin, part.end, dim);
}

/* Weighted sum of V of integers, for rows that may see different parts: what they do not see weighs 0. */
static void add_integers(const struct cpu_attention_tile *tile, struct cpu_attention_scratch *scratch,
	const struct page *page, uint32_t first, uint32_t count)
{
	const uint32_t dim = tile->job->kv->head_dim;
	const enum kern_kv format = page->layout->v_format;
	const struct cpu_attention_weights8 weights = packed_weights(tile, scratch, format, first);
	const void *v = page->at + page->layout->v;
	struct cpu_ahead *ahead = &scratch->ahead, nothing = {.bytes = 0};

	if (format == KERN_KV_INT4 && count <= CPU_ATTENTION_FEW && page->low == NULL && tile->kernels->accumulate_codes != NULL) {
		tile->kernels->accumulate_codes(scratch->o + (size_t)first * dim, scratch->factor + first, &weights, count, v, dim, ahead);
		return;
	}
	if (format == KERN_KV_INT4) {
		tile->kernels->unpack_v((uint8_t *)scratch->k, v, dim, ahead);
		if (page->low != NULL)
			tile->kernels->add_low((uint8_t *)scratch->k, page->low + page->layout->v, 4 * dim, KERN_PAGE_TOKENS / 8);
		v = scratch->k;
		ahead = &nothing;
	}
	tile->kernels->accumulate_int8(scratch->o + (size_t)first * dim, scratch->factor + first, &weights, count, v, dim,
		ahead);
}

static void attend_page(const struct cpu_attention_tile *tile, struct cpu_attention_scratch *scratch,
	const struct page *page)
{
	const struct cpu_attention_range *range = scratch->range;
	const struct kern_kv_layout *layout = page->layout;
	uint32_t first = 0, last = tile->rows, count;
	bool widened;

	while (first < last && range[first].end <= page->base)
		first++;
	while (first < last && range[last - 1].begin >= page->base + KERN_PAGE_TOKENS)
		last--;
	if (first == last)
		return;
	count = (last - first) * tile->heads;
	multiply_page(tile, scratch, page, first * tile->heads, count, clip(range[last - 1], page->base).end);
	widened = layout->v_format != KERN_KV_F32 && !cpu_attention_has_integers(layout->v_format) && count >= WIDEN_VECTORS;
	if (widened)
		tile->kernels->widen(scratch->k, page->at + layout->v, layout->v_format,
			KERN_PAGE_TOKENS * tile->job->kv->head_dim);
	weigh_page(tile, scratch, page, first * tile->heads, count, see_page(tile, scratch, page, first, last));
	if (cpu_attention_has_integers(layout->v_format)) {
		add_integers(tile, scratch, page, first * tile->heads, count);
		return;
	}
	for (uint32_t row = first, rows; row < last; row += rows) {
		struct cpu_attention_range part = clip(range[row], page->base);

		for (rows = 1; row + rows < last; rows++) {
			struct cpu_attention_range next = clip(range[row + rows], page->base);

			if (next.begin != part.begin || next.end != part.end)
				break;
		}
		add_rows(tile, scratch, page, widened, row, rows, part);
	}
}

/* While some pages are worked on, as many are asked for that come next and begin before `end`. */
static void look_ahead(const struct cpu_attention_tile *tile, struct cpu_ahead *ahead, uint32_t block, uint32_t end)
{
	const struct cpu_attention_job *job = tile->job;
	const struct kern_kv_layout *layout = kern_kv_layout(job->kv, 1);
	const uint32_t next = (block / job->ahead_pages + 1) * job->ahead_pages;
	const unsigned char *pages[CPU_AHEAD_RUNS];
	uint32_t count = 0;

	for (; count < job->ahead_pages && (uint64_t)(next + count) * KERN_PAGE_TOKENS < end; count++)
		pages[count] = kern_kv_page(job->kv, job->blocks[next + count], next + count, job->layer, tile->kv_head);
	cpu_ahead_want(ahead, pages, count, job->ahead_runs, layout->bytes);
}

/* What the functions that go through K and V do not ask for: the scales, or everything. */
static void ask_rest(struct cpu_ahead *ahead, const struct kern_kv_layout *layout)
{
	size_t asked = 0;

	if (cpu_attention_has_integers(layout->k_format))
		asked += layout->k_scale - layout->k;
	if (cpu_attention_has_integers(layout->v_format))
		asked += layout->v_scale - layout->v;
	cpu_ahead_ask(ahead, (uint32_t)((layout->bytes - asked + CPU_AHEAD_LINE - 1) / CPU_AHEAD_LINE));
}

/* ahead_end: before this position pages are of use to those who go on behind the split. */
static void attend_split(const struct cpu_attention_tile *tile, struct cpu_attention_scratch *scratch, uint32_t split,
	uint32_t ahead_end)
{
	const struct cpu_attention_job *job = tile->job;
	const uint32_t end = scratch->range[tile->rows - 1].end;
	const uint32_t last = split * SPLIT_PAGES + SPLIT_PAGES;
	uint32_t first = scratch->range[0].begin / KERN_PAGE_TOKENS;

	first = first > split * SPLIT_PAGES ? first : split * SPLIT_PAGES;
	for (uint32_t i = 0; i < tile->vectors; i++) {
		scratch->max[i] = -INFINITY;
		scratch->sum[i] = 0.0f;
	}
	memset(scratch->o, 0, (size_t)tile->vectors * job->kv->head_dim * sizeof(*scratch->o));
	for (uint32_t block = first; block < last && (uint64_t)block * KERN_PAGE_TOKENS < end; block++) {
		struct page page = {
			.at = kern_kv_page(job->kv, job->blocks[block], block, job->layer, tile->kv_head),
			.low = cpu_attention_low(job, tile->kv_head, block),
			.layout = kern_kv_layout(job->kv, block),
			.base = block * KERN_PAGE_TOKENS,
		};

		if (block == first || block % job->ahead_pages == 0)
			look_ahead(tile, &scratch->ahead, block, ahead_end);
		ask_rest(&scratch->ahead, page.layout);
		attend_page(tile, scratch, &page);
	}
}

/* The tile's vectors lie behind `before` others. */
static void keep_parts(const struct cpu_attention_tile *tile, const struct cpu_attention_scratch *scratch, uint32_t before,
	uint32_t split)
{
	const uint32_t dim = tile->job->kv->head_dim;

	for (uint32_t i = 0; i < tile->vectors; i++) {
		struct cpu_attention_part part = cpu_attention_part(tile, i, split);

		*part.state = (struct cpu_attention_state){ scratch->max[before + i], scratch->sum[before + i] };
		memcpy(part.o, scratch->o + (size_t)(before + i) * dim, dim * sizeof(float));
	}
}

/* All splits in turn, for a job that keeps no partial results. */
static void attend_all(const struct cpu_attention_tile *tile, struct cpu_attention_scratch *scratch)
{
	const struct cpu_attention_job *job = tile->job;
	const uint32_t dim = job->kv->head_dim;

	for (uint32_t i = 0; i < tile->vectors; i++)
		scratch->total_state[i] = (struct cpu_attention_state){ .max = -INFINITY, .sum = 0.0f };
	memset(scratch->total, 0, (size_t)tile->vectors * dim * sizeof(*scratch->total));
	for (uint32_t split = job->first_split; split < job->first_split + job->splits; split++) {
		attend_split(tile, scratch, split, scratch->range[tile->rows - 1].end);
		for (uint32_t i = 0; i < tile->vectors; i++) {
			const struct cpu_attention_state state = { scratch->max[i], scratch->sum[i] };

			tile->kernels->fold(&scratch->total_state[i], scratch->total + (size_t)i * dim, &state,
				scratch->o + (size_t)i * dim, dim);
		}
	}
	cpu_attention_finish(tile, scratch->total_state, scratch->total);
}

void cpu_attention_attend(const struct cpu_attention_tile *tile, uint32_t split, struct cpu_attention_scratch *scratch)
{
	const struct cpu_attention_job *job = tile->job;

	load_queries(tile, scratch, 0);
	if (cpu_attention_has_integers(job->kv->k) && scratch->range[tile->rows - 1].end > KERN_PAGE_TOKENS)
		quantize_queries(tile, scratch);
	begin_pages(tile);
	if (job->partial == NULL) {
		attend_all(tile, scratch);
	} else {
		attend_split(tile, scratch, split, scratch->range[tile->rows - 1].end);
		keep_parts(tile, scratch, 0, split);
	}
	end_pages(tile);
}

void cpu_attention_attend_together(const struct cpu_attention_tile *tiles, uint32_t count, uint32_t split,
	struct cpu_attention_scratch *scratch)
{
	const struct kern_kv_geometry *kv = tiles[0].job->kv;
	const uint32_t begin = split * CPU_ATTENTION_SPLIT_TOKENS;
	struct cpu_attention_tile all = tiles[0];

	all.rows = all.vectors = 0;
	for (uint32_t i = 0; i < count; i++) {
		load_queries(&tiles[i], scratch, all.rows);
		all.rows += tiles[i].rows;
		all.vectors += tiles[i].vectors;
	}
	all.kernels = cpu_attention_kernels_of(all.job, all.vectors);
	/* What a row sees outside of the split is not asked here, and within it all see the same. */
	for (uint32_t i = 0; i < all.rows; i++)
		scratch->range[i] = (struct cpu_attention_range){ begin, begin + CPU_ATTENTION_SPLIT_TOKENS };
	if (cpu_attention_has_integers(kv->k))
		quantize_queries(&all, scratch);
	begin_pages(&all);
	attend_split(&all, scratch, split, all.job->shared_end * CPU_ATTENTION_SPLIT_TOKENS);
	end_pages(&all);
	for (uint32_t i = 0, before = 0; i < count; before += tiles[i++].vectors)
		keep_parts(&tiles[i], scratch, before, split);
}

/* A sink is one more logit, of a key whose V is zero. Returns what o is multiplied by beside 1 / sum. */
static float add_sink(struct cpu_attention_state *state, float sink)
{
	const float logit = sink * LOG2_E, max = state->max > logit ? state->max : logit;
	float factor;

	if (max == -INFINITY)
		return 1.0f;
	factor = exp2f(state->max - max);
	state->sum = state->sum * factor + exp2f(logit - max);
	state->max = max;
	return factor;
}

void cpu_attention_finish(const struct cpu_attention_tile *tile, const struct cpu_attention_state *state, float *o)
{
	const struct cpu_attention_job *job = tile->job;
	const uint32_t dim = job->kv->head_dim;

	for (uint32_t i = 0; i < tile->vectors; i++) {
		const uint32_t row = tile->first_row + i / tile->heads, head = tile->first_head + i % tile->heads;
		const size_t to = row * job->o_stride + (size_t)head * dim;
		struct cpu_attention_state all = state[i];
		const float factor = job->sinks != NULL ? add_sink(&all, job->sinks[head]) : 1.0f;

		/* A row that sees nothing has a sum of 0, but for its sink, and an o of zeros. */
		if (all.sum != 0.0f)
			tile->kernels->multiply(o + (size_t)i * dim, factor / all.sum, dim);
		if (job->kv->v == KERN_KV_INT4)
			tile->kernels->rotate(o + (size_t)i * dim, dim);
		tile->kernels->store((unsigned char *)job->o + to * element_bytes(job->dtype), o + (size_t)i * dim, dim,
			job->dtype);
		if (job->lse != NULL)
			job->lse[row * job->lse_stride + head] = (all.max + log2f(all.sum)) * LOG_2;
	}
}
