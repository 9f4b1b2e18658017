/*
 * The same session gives the same bits: token by token or in chunks of any size, whatever the number of threads, the
 * room for partial results and the order of units; and the stored cache is the same, on every instruction set too.
 * Two planted faults show that the comparison would see a wrong order of merging and a wrong mean. Time limit: 400 s (with sanitizers).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu_attention_unit.h"
#include "tests/kernels/attention_rig.h"

/* Across token 63, and one or two boundaries of splits. */
enum { TOKENS = 560, MANY_TOKENS = 1060 };

struct session {
	struct attention_shape shape;
	uint32_t tokens, window, rotated;
	float soft_cap;
	enum base_isa isa;
	/* how it is run */
	uint32_t chunk, participants;
	size_t partial_bytes;
	uint64_t order;
	float *q, *k, *v, *cos_sin;
};

struct outcome {
	float *o, *lse;
	size_t o_count, lse_count, cache_bytes;
	unsigned char *cache;
};

static void copy_cache(const struct attention_rig *rig, struct outcome *out)
{
	out->cache_bytes = rig->kv.block_bytes[0] + (rig->block_count - 1) * rig->kv.block_bytes[1];
	out->cache = new_zeroed(out->cache_bytes);
	for (uint32_t i = 0; i < rig->block_count; i++)
		memcpy(out->cache + (i > 0 ? rig->kv.block_bytes[0] + (i - 1) * rig->kv.block_bytes[1] : 0), rig->blocks[i],
			rig->kv.block_bytes[i > 0]);
}

static struct outcome run(const struct session *s)
{
	struct outcome out = {
		.o_count = (size_t)s->tokens * s->shape.heads * s->shape.head_dim,
		.lse_count = (size_t)s->tokens * s->shape.heads,
	};
	struct attention_rig rig;

	out.o = new_zeroed(out.o_count * sizeof(*out.o));
	out.lse = new_zeroed(out.lse_count * sizeof(*out.lse));
	attention_rig_open(&rig, s->shape, 2, s->tokens);
	rig.layer = 1;
	rig.isa = s->isa;
	rig.window = s->window;
	rig.soft_cap = s->soft_cap;
	rig.participants = s->participants;
	rig.order = s->order;
	if (s->partial_bytes != 0)
		rig.partial_bytes = s->partial_bytes;
	if (s->rotated != 0) {
		rig.rope = KERN_ROPE_HALVES;
		rig.rotated = s->rotated;
		rig.rope_cos_sin = s->cos_sin;
	}
	for (uint32_t at = 0; at < s->tokens; at += s->chunk) {
		uint32_t rows = s->tokens - at < s->chunk ? s->tokens - at : s->chunk;

		attention_rig_step(&rig, at, rows, s->q, s->k, s->v, out.o, out.lse);
	}
	copy_cache(&rig, &out);
	attention_rig_close(&rig);
	return out;
}

static void release(struct outcome *out)
{
	free(out->o);
	free(out->lse);
	free(out->cache);
}

/* Number of rows (query vectors) whose bits differ. */
static size_t different_rows(const struct outcome *a, const struct outcome *b)
{
	const size_t width = a->o_count / a->lse_count;
	size_t count = 0;

	for (size_t i = 0; i < a->lse_count; i++)
		count += memcmp(a->o + i * width, b->o + i * width, width * sizeof(float)) != 0 ||
			memcmp(a->lse + i, b->lse + i, sizeof(float)) != 0;
	return count;
}

static void make_inputs(struct session *s)
{
	const size_t kv_count = (size_t)s->tokens * s->shape.kv_heads * s->shape.head_dim;

	s->q = new_normal((size_t)s->tokens * s->shape.heads * s->shape.head_dim, 11);
	s->k = new_normal(kv_count, 12);
	s->v = new_normal(kv_count, 13);
	s->cos_sin = new_zeroed((size_t)s->tokens * s->shape.head_dim * sizeof(float));
	for (size_t i = 0; s->rotated != 0 && i < (size_t)s->tokens * s->rotated / 2; i++) {
		double angle = (double)(i / (s->rotated / 2)) * pow(10000, -(double)(i % (s->rotated / 2)) / (s->rotated / 2));

		s->cos_sin[2 * i] = (float)cos(angle);
		s->cos_sin[2 * i + 1] = (float)sin(angle);
	}
}

static void free_inputs(struct session *s)
{
	free(s->q);
	free(s->k);
	free(s->v);
	free(s->cos_sin);
}

/* Ways to run a session; the first is the reference: one token at a time. */
static const struct { uint32_t chunk, participants; size_t partial_bytes; uint64_t order; } ways[] = {
	{ 1, 1, 0, 0 }, { 7, 3, 0, 1 }, { 64, 1, 0, 2 }, { 100, 16, 64, 3 }, { MANY_TOKENS, 2, 0, 4 }, { MANY_TOKENS, 1, 64, 0 },
};

static void check_session(struct session s)
{
	struct outcome first = { 0 };

	make_inputs(&s);
	for (uint32_t i = 0; i < sizeof(ways) / sizeof(*ways); i++) {
		struct outcome other;
		size_t rows;

		s.chunk = ways[i].chunk;
		s.participants = ways[i].participants;
		s.partial_bytes = ways[i].partial_bytes;
		s.order = ways[i].order;
		other = run(&s);
		if (i == 0) {
			first = other;
			continue;
		}
		rows = different_rows(&first, &other);
		if (rows != 0 || memcmp(first.cache, other.cache, first.cache_bytes) != 0)
			fail_msg("%s, K %d, V %d, heads %u/%u x %u, window %u, cap %g, chunks of %u: %zu of %zu rows differ, cache %s",
				base_isa_name(s.isa), (int)s.shape.k, (int)s.shape.v, s.shape.heads, s.shape.kv_heads,
				s.shape.head_dim, s.window, (double)s.soft_cap, s.chunk, rows, first.lse_count,
				memcmp(first.cache, other.cache, first.cache_bytes) != 0 ? "differs" : "is equal");
		release(&other);
	}
	release(&first);
	free_inputs(&s);
}

static void chunks_and_threads(void **state)
{
	static const struct session sessions[] = {
		{ .shape = { 3, 1, 32, KERN_KV_INT8, KERN_KV_INT8 }, .tokens = MANY_TOKENS, .rotated = 32 },
		{ .shape = { 4, 4, 16, KERN_KV_INT8, KERN_KV_INT8 }, .tokens = TOKENS, .window = 100 },
		{ .shape = { 8, 1, 40, KERN_KV_INT8, KERN_KV_BF16 }, .tokens = TOKENS, .soft_cap = 2 },
		{ .shape = { 2, 2, 80, KERN_KV_BF16, KERN_KV_BF16 }, .tokens = TOKENS, .window = 300, .rotated = 40 },
		{ .shape = { 4, 1, 32, KERN_KV_F32, KERN_KV_F32 }, .tokens = TOKENS, .window = 500, .soft_cap = 2 },
		{ .shape = { 2, 1, 96, KERN_KV_F32, KERN_KV_INT8 }, .tokens = TOKENS },
		{ .shape = { 6, 2, 80, KERN_KV_INT4, KERN_KV_INT4 }, .tokens = TOKENS, .rotated = 80 },
		{ .shape = { 5, 1, 64, KERN_KV_FP8, KERN_KV_FP8 }, .tokens = TOKENS, .window = 100 },
		{ .shape = { 2, 1, 40, KERN_KV_F16, KERN_KV_INT4 }, .tokens = TOKENS, .soft_cap = 2 },
		{ .shape = { 3, 1, 48, KERN_KV_INT4, KERN_KV_F16 }, .tokens = TOKENS },
	};
	enum base_isa isas[3];
	const uint32_t isa_count = attention_isas(isas);

	(void)state;
	for (uint32_t i = 0; i < isa_count * sizeof(sessions) / sizeof(*sessions); i++) {
		struct session s = sessions[i / isa_count];

		s.isa = isas[i % isa_count];
		check_session(s);
	}
}

/* A group so large that its heads are cut into several tiles. */
static void large_group(void **state)
{
	(void)state;
	check_session((struct session){ .shape = { 40, 1, 8, KERN_KV_INT8, KERN_KV_INT8 }, .tokens = 200,
		.isa = base_cpu()->isa });
}

static void cache_on_every_isa(void **state)
{
	static const struct attention_shape shapes[] = { { 3, 1, 64, KERN_KV_INT8, KERN_KV_INT8 },
		{ 2, 2, 40, KERN_KV_BF16, KERN_KV_INT8 }, { 2, 2, 8, KERN_KV_F32, KERN_KV_BF16 },
		{ 2, 1, 80, KERN_KV_INT4, KERN_KV_INT4 }, { 2, 1, 24, KERN_KV_FP8, KERN_KV_FP8 },
		{ 2, 1, 128, KERN_KV_F16, KERN_KV_INT4 } };
	enum base_isa isas[3];
	const uint32_t isa_count = attention_isas(isas);

	(void)state;
	for (uint32_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++) {
		struct session s = { .shape = shapes[i], .tokens = 200, .rotated = shapes[i].head_dim, .chunk = 200,
			.participants = 1 };
		struct outcome first = { 0 };

		make_inputs(&s);
		s.isa = BASE_ISA_SCALAR;
		first = run(&s);
		for (uint32_t j = 1; j < isa_count; j++) {
			struct outcome other;

			s.isa = isas[j];
			other = run(&s);
			assert_memory_equal(first.cache, other.cache, first.cache_bytes);
			release(&other);
		}
		release(&first);
		free_inputs(&s);
	}
}

/* Integers of products are exact, so with q.mean left out the products are equal on all instruction sets. */
static void int8_products_are_exact(void **state)
{
	enum { VECTORS = 7 };
	enum base_isa isas[3];
	const uint32_t isa_count = attention_isas(isas);
	float *products[3], scale[VECTORS], none[VECTORS] = { 0 }, k_scale[KERN_PAGE_TOKENS], width[256];
	int8_t *k = new_zeroed(256 * KERN_PAGE_TOKENS);
	int32_t k_sum[KERN_PAGE_TOKENS];
	float *q = new_normal(VECTORS * 256, 5), *noise = new_normal(256 * KERN_PAGE_TOKENS, 6);

	(void)state;
	for (uint32_t i = 0; i < 256; i++)
		width[i] = 1;
	for (uint32_t i = 0; i < 256; i++)
		q[i] = i % 2 == 0 ? 1.0f : -1.0f; /* the largest integers */
	for (uint32_t dim = 8; dim <= 256; dim += 8) {
		uint16_t *packed = new_zeroed(VECTORS * dim * sizeof(*packed));

		memset(k_sum, 0, sizeof(k_sum));
		for (uint32_t i = 0; i < dim * KERN_PAGE_TOKENS; i++) {
			k[i] = (int8_t)(noise[i] > 3 || i % 1024 < 4 ? 127 : noise[i] < -3 ? -127 : noise[i] * 42);
			k_sum[i / 4 % KERN_PAGE_TOKENS] += k[i];
		}
		for (uint32_t i = 0; i < KERN_PAGE_TOKENS; i++)
			k_scale[i] = 0.01f + (float)i * 0.001f;
		for (uint32_t i = 0; i < isa_count; i++) {
			const struct cpu_attention_kernels *kernels = cpu_attention_kernels(isas[i]);
			const struct cpu_attention_int8 page = { k, k_scale, k_sum };
			const struct cpu_attention_query8 query = { packed, scale, none };

			products[i] = new_zeroed(VECTORS * KERN_PAGE_TOKENS * sizeof(float));
			for (uint32_t j = 0; j < VECTORS; j++)
				scale[j] = kernels->quantize_query(packed + (size_t)j * dim, q + (size_t)j * 256, width, dim);
			kernels->product_int8(products[i], &page, &query, VECTORS, dim, &(struct cpu_ahead){.bytes = 0});
			assert_memory_equal(products[0], products[i], VECTORS * KERN_PAGE_TOKENS * sizeof(float));
		}
		for (uint32_t i = 0; i < isa_count; i++)
			free(products[i]);
		free(packed);
	}
	free(k);
	free(q);
	free(noise);
}

/* ---- planted faults ----------------------------------------------------------------------------------------- */

static void swap_parts(struct cpu_attention_job *job)
{
	const size_t floats = cpu_attention_part_floats(job->kv->head_dim);

	for (size_t i = 0; i < (size_t)job->q_rows * job->kv->heads; i++) {
		float *first = job->partial + i * job->splits * floats, *last = first + 2 * floats;

		for (size_t j = 0; j < floats; j++) {
			float kept = first[j];

			first[j] = last[j];
			last[j] = kept;
		}
	}
}

/* The last token of a session, with a fault planted before it. */
static float *last_row(struct session *s, void (*before_merge)(struct cpu_attention_job *), float mean_fault)
{
	const size_t width = (size_t)s->shape.heads * s->shape.head_dim;
	float *o = new_zeroed(s->tokens * width * sizeof(*o)), *row = new_zeroed(width * sizeof(*row));
	struct attention_rig rig;

	attention_rig_open(&rig, s->shape, 1, s->tokens);
	attention_rig_step(&rig, 0, s->tokens - 1, s->q, s->k, s->v, o, NULL);
	rig.before_merge = before_merge;
	((float *)(rig.blocks[0] + kern_kv_layout(&rig.kv, 0)->mean))[3] += mean_fault;
	attention_rig_step(&rig, s->tokens - 1, 1, s->q, s->k, s->v, o, NULL);
	memcpy(row, o + (s->tokens - 1) * width, width * sizeof(*row));
	attention_rig_close(&rig);
	free(o);
	return row;
}

static void planted_faults_are_seen(void **state)
{
	struct session s = { .shape = { 2, 1, 64, KERN_KV_INT8, KERN_KV_INT8 }, .tokens = 1100 };
	const size_t width = (size_t)s.shape.heads * s.shape.head_dim;
	float *good, *same, *swapped, *shifted;

	(void)state;
	make_inputs(&s);
	good = last_row(&s, NULL, 0);
	same = last_row(&s, NULL, 0);
	swapped = last_row(&s, swap_parts, 0);
	shifted = last_row(&s, NULL, 1);
	assert_memory_equal(good, same, width * sizeof(float));
	assert_memory_not_equal(good, swapped, width * sizeof(float));
	assert_memory_not_equal(good, shifted, width * sizeof(float));
	free(good), free(same), free(swapped), free(shifted);
	free_inputs(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(chunks_and_threads),
		cmocka_unit_test(large_group),
		cmocka_unit_test(cache_on_every_isa),
		cmocka_unit_test(int8_products_are_exact),
		cmocka_unit_test(planted_faults_are_seen),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
