/*
 * Attention on a session's cache as ATTEND runs it: one query row over 4K and 16K tokens, each time in another layer, so
 * that keys and values come from memory; and 512 rows over 4K tokens. First the result is held against float64. See
 * kernels.h.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"
#include "kernels/ref/ref_attention.h"
#include "tests/bench/kernels.h"

enum {
	QUERIES = 512,
	LONG = 16384,
	SHORT = 4096,
	FILL_ROWS = 4096, /* of one append */
	LAYERS_MAX = 128,
	BLOCKS_MAX = LONG / KERN_PAGE_TOKENS + QUERIES / KERN_PAGE_TOKENS + 1 + KERN_KV_AHEAD,
	MEMORY_BYTES = 256 << 20, /* of all layers: beyond the last cache */
	CHECKED = 3,              /* query rows that are held against the reference */
	FORMATS = 8,
};

/* By number, as the contract has them; a format without a name here is shown by its number. */
static const char *const format_names[FORMATS] = { NULL, "f32", "bf16", "int8", "f16", "fp8", "int4" };

static const struct { uint32_t heads, kv_heads, head_dim; } shapes[] = { { 32, 4, 64 }, { 32, 8, 128 } };

struct attention {
	struct kern_kv_geometry kv;
	unsigned char *blocks[BLOCKS_MAX];
	uint32_t block_count, tokens; /* that every layer holds */
	float *q, *k, *v, *o;
	struct kern_attend item;
	uint32_t layers_used; /* of one sample */
};

/* ---- the session ------------------------------------------------------------------------------------------------- */

static size_t kv_width(const struct attention *a)
{
	return (size_t)a->kv.kv_heads * a->kv.head_dim;
}

/* Bytes of one layer's keys and values. */
static double layer_bytes(const struct attention *a, uint32_t tokens)
{
	double later = (double)(tokens / KERN_PAGE_TOKENS) - 1;

	return a->kv.kv_heads * ((double)a->kv.page_bytes[0] + later * (double)a->kv.page_bytes[1]);
}

static struct kern_attend item_of(const struct attention *a, uint32_t layer)
{
	return (struct kern_attend){ .kv = &a->kv, .blocks = a->blocks, .layer = layer, .causal = true,
		.scale = 1 / sqrtf((float)a->kv.head_dim) };
}

static void fill_layer(struct kernels *kernels, struct attention *a, uint32_t layer)
{
	struct kern_attend item = item_of(a, layer);
	const struct kern_work work = { .kind = KERN_WORK_ATTEND, .attend = { .items = &item, .count = 1 } };

	for (uint32_t at = 0; at < a->tokens; at += item.kv_rows) {
		item.kv_position = at;
		item.kv_rows = a->tokens - at < FILL_ROWS ? a->tokens - at : FILL_ROWS;
		item.k = a->k + at * kv_width(a);
		item.v = a->v + at * kv_width(a);
		kernels_run(kernels, &work);
	}
}

/* False where the kernels do not take the format. */
static bool open_session(struct kernels *kernels, struct attention *a, uint32_t tokens)
{
	uint32_t layers;

	a->kv.layers = 1;
	if (kern_kv_init(&a->kv) != 0)
		return false;
	layers = (uint32_t)(MEMORY_BYTES / layer_bytes(a, tokens)) + 1;
	a->kv.layers = layers < LAYERS_MAX ? layers : LAYERS_MAX;
	if (kern_kv_init(&a->kv) != 0)
		return false;
	a->tokens = tokens;
	a->block_count = kern_kv_blocks(&a->kv, tokens);
	for (uint32_t i = 0; i < a->block_count; i++) {
		a->blocks[i] = kernels->backend->ops->alloc(kernels->backend, a->kv.block_bytes[i > 0], "a block");
		if (!a->blocks[i]) {
			fprintf(stderr, "bench_kernels: %s\n", base_error_message());
			exit(1);
		}
	}
	for (uint32_t layer = 0; layer < a->kv.layers; layer++)
		fill_layer(kernels, a, layer);
	return true;
}

static void close_session(struct kernels *kernels, struct attention *a)
{
	for (uint32_t i = 0; i < a->block_count; i++)
		kernels->backend->ops->free(kernels->backend, a->blocks[i]);
	a->block_count = 0;
}

/* ---- the work ---------------------------------------------------------------------------------------------------- */

static void run(struct kernels *kernels, void *context)
{
	struct attention *a = context;
	const struct kern_work work = { .kind = KERN_WORK_ATTEND, .attend = { .items = &a->item, .count = 1 } };

	for (uint32_t layer = 0; layer < a->layers_used; layer++) {
		a->item.layer = layer;
		kernels_run(kernels, &work);
	}
}

/* The last rows of a->tokens; with several, each sees one more than the one before. */
static void aim(struct attention *a, uint32_t rows)
{
	a->item = item_of(a, 0);
	a->item.q_rows = rows;
	a->item.q_position = a->tokens - rows;
	a->item.kv_position = a->tokens;
	a->item.q = a->q;
	a->item.o = a->o;
}

static double error_max(const struct attention *a)
{
	enum kern_kv worst = a->kv.k > a->kv.v ? a->kv.k : a->kv.v;

	return worst == KERN_KV_F32 ? 1e-4 : worst == KERN_KV_BF16 ? 2e-2 : worst == KERN_KV_INT8 ? 4e-2 : 0.25;
}

/* The first rows of the run, in the first layer. */
static void check(struct kernels *kernels, struct attention *a, const char *format)
{
	const size_t width = (size_t)a->kv.heads * a->kv.head_dim;
	uint32_t rows = a->item.q_rows < CHECKED ? a->item.q_rows : CHECKED;
	struct ref_attention ref = { .heads = a->kv.heads, .kv_heads = a->kv.kv_heads, .head_dim = a->kv.head_dim,
		.q_rows = rows, .keys = a->tokens, .q_position = a->item.q_position, .causal = true,
		.scale = (double)a->item.scale, .q = a->q, .k = a->k, .v = a->v };
	char what[96];

	ref.o = kernels_alloc(rows * width * sizeof(*ref.o));
	ref.lse = kernels_alloc(rows * a->kv.heads * sizeof(*ref.lse));
	ref.logits = kernels_alloc(a->tokens * sizeof(*ref.logits));
	a->layers_used = 1;
	run(kernels, a);
	ref_attention(&ref);
	snprintf(what, sizeof(what), "attention %s, head dim %u, %u rows, %u tokens", format, a->kv.head_dim,
		a->item.q_rows, a->tokens);
	kernels_check(kernels, what, a->o, ref.o, rows * width, error_max(a));
	free(ref.logits);
	free(ref.lse);
	free(ref.o);
}

static void measure(struct kernels *kernels, struct attention *a, const char *format, uint32_t rows)
{
	double before = a->tokens - rows, visits = rows * (before + (rows + 1) / 2.0);
	struct kernels_row row = { .name = "attention" };
	struct kernels_cost cost = { .peak = a->kv.k == KERN_KV_F32 ? KERNELS_F32 : a->kv.k == KERN_KV_BF16 ? KERNELS_BF16 :
		KERNELS_INT8 };

	aim(a, rows);
	check(kernels, a, format);
	a->layers_used = rows > 1 ? 1 : a->kv.layers;
	cost.bytes = a->layers_used * layer_bytes(a, a->tokens);
	cost.operations = a->layers_used * visits * 4 * a->kv.heads * a->kv.head_dim;
	snprintf(row.shape, sizeof(row.shape), "%u/%ux%u, %u row%s, %.0fK", a->kv.heads, a->kv.kv_heads, a->kv.head_dim,
		rows, rows == 1 ? "" : "s", round(before / 1024));
	snprintf(row.format, sizeof(row.format), "%s", format);
	kernels_measure(kernels, &row, &cost, run, a);
}

static void measure_format(struct kernels *kernels, struct attention *a, const char *format)
{
	if (!kernels_have_time(kernels) || !open_session(kernels, a, SHORT + QUERIES))
		return;
	measure(kernels, a, format, QUERIES);
	close_session(kernels, a);
	for (uint32_t tokens = SHORT; tokens <= (kernels->quick ? SHORT : LONG); tokens += LONG - SHORT) {
		if (!open_session(kernels, a, tokens))
			return;
		measure(kernels, a, format, 1);
		close_session(kernels, a);
	}
}

void kernels_attention(struct kernels *kernels)
{
	static struct attention attention;
	struct attention *a = &attention;
	const size_t most = (size_t)LONG * 8 * 128;

	a->q = kernels_alloc(QUERIES * 32 * 128 * sizeof(*a->q));
	a->o = kernels_alloc(QUERIES * 32 * 128 * sizeof(*a->o));
	a->k = kernels_alloc(most * sizeof(*a->k));
	a->v = kernels_alloc(most * sizeof(*a->v));
	kernels_normal(a->q, QUERIES * 32 * 128, 1);
	kernels_normal(a->k, most, 2);
	kernels_normal(a->v, most, 3);
	for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++)
		for (uint32_t format = 1; format < FORMATS; format++) {
			char number[16];

			snprintf(number, sizeof(number), "kv%u", format);
			a->kv = (struct kern_kv_geometry){ .heads = shapes[i].heads, .kv_heads = shapes[i].kv_heads,
				.head_dim = shapes[i].head_dim, .k = (enum kern_kv)format, .v = (enum kern_kv)format };
			measure_format(kernels, a, format_names[format] ? format_names[format] : number);
		}
	free(a->v);
	free(a->k);
	free(a->o);
	free(a->q);
}
