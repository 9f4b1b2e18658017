/*
 * AMX tiles give the bits that AVX-512 gives: every head dimension and format, 1 to 70 query rows anywhere in a session whose
 * last page is partly filled, windows, soft caps, sinks, groups of all sizes, many threads, and sessions that share a step's
 * pages. What no token has filled yet of a page holds junk. A planted fault shows that the comparison would see one byte.
 * Time limit: 400 s (with sanitizers).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu_attention_unit.h"
#include "kernels/cpu/cpu_products.h"
#include "tests/kernels/attention_rig.h"

/* Two splits, and a last page of 24 tokens. */
enum { TOKENS = 600, ROWS_MOST = 70 };

struct outcome { float *o, *lse; size_t o_bytes, lse_bytes; };

static struct outcome run(struct attention_rig *rig, bool tiles, uint32_t position, uint32_t rows, const float *q)
{
	const size_t width = (size_t)rig->kv.heads * rig->kv.head_dim;
	struct outcome out = { .o_bytes = rows * width * sizeof(float), .lse_bytes = (size_t)rows * rig->kv.heads * sizeof(float) };

	out.o = guarded_alloc(out.o_bytes);
	out.lse = guarded_alloc(out.lse_bytes);
	rig->amx = tiles;
	attention_rig_run(rig, TOKENS, 0, NULL, NULL, position, rows, q, out.o, out.lse);
	return out;
}

static void release(struct outcome *out)
{
	guarded_free(out->o, out->o_bytes);
	guarded_free(out->lse, out->lse_bytes);
}

static bool same(const struct outcome *a, const struct outcome *b)
{
	return memcmp(a->o, b->o, a->o_bytes) == 0 && memcmp(a->lse, b->lse, a->lse_bytes) == 0;
}

/* K and V for all tokens, over junk. */
static void fill(struct attention_rig *rig)
{
	const size_t n = (size_t)TOKENS * rig->kv.kv_heads * rig->kv.head_dim;
	float *k = new_normal(n, 2), *v = new_normal(n, 3);

	for (uint32_t i = 1; i < rig->block_count; i++)
		memset(rig->blocks[i], 0xc5 + (int)i, rig->kv.block_bytes[1]);
	attention_rig_run(rig, 0, TOKENS, k, v, 0, 0, NULL, NULL, NULL);
	free(k);
	free(v);
}

static bool takes_tiles(const struct attention_rig *rig, uint32_t vectors)
{
	const struct cpu_attention_job job = { .isa = BASE_ISA_AVX512, .amx = true, .kv = &rig->kv };

	return cpu_attention_kernels_of(&job, vectors) == &cpu_attention_amx;
}

/* What is asked of a session beside its shape. */
struct how { uint32_t window; float soft_cap; bool sinks, whole; uint32_t participants; size_t partial_bytes; };

static const struct how hows[] = {
	{ .participants = 1 },
	{ .participants = 1, .partial_bytes = 64 },
	{ .window = 100, .participants = 3 },
	{ .soft_cap = 2, .participants = 1 },
	{ .sinks = true, .window = 530, .participants = 2, .partial_bytes = 64 },
	{ .whole = true, .soft_cap = 30, .sinks = true, .participants = 16 },
	{ .window = 1, .participants = 1 },
};

/* Rows 1 .. ROWS_MOST in steps, each time elsewhere. */
static void check_shape(struct attention_shape shape, uint32_t step)
{
	float *q = new_normal((size_t)ROWS_MOST * shape.heads * shape.head_dim, 1), *sinks = new_normal(shape.heads, 4);
	struct attention_rig rig;

	attention_rig_open(&rig, shape, 1, TOKENS);
	fill(&rig);
	rig.sinks = NULL;
	assert_true(takes_tiles(&rig, CPU_ATTENTION_BLOCK));
	for (uint32_t rows = 1, turn = shape.head_dim; rows <= ROWS_MOST; rows += step, turn++) {
		const struct how *how = &hows[turn % (sizeof(hows) / sizeof(*hows))];
		const uint32_t position = rows % 3 == 0 ? TOKENS - rows : turn * 7919 % (TOKENS - rows);
		struct outcome plain, tiles;

		rig.window = how->window;
		rig.soft_cap = how->soft_cap;
		rig.sinks = how->sinks ? sinks : NULL;
		rig.causal = !how->whole;
		rig.participants = how->participants;
		rig.partial_bytes = how->partial_bytes != 0 ? how->partial_bytes : 32u << 20;
		plain = run(&rig, false, position, rows, q);
		tiles = run(&rig, true, position, rows, q);
		if (!same(&plain, &tiles))
			fail_msg("K %d, V %d, heads %u/%u x %u, %u rows from %u, window %u, cap %g, sinks %d: tiles differ", (int)shape.k,
				(int)shape.v, shape.heads, shape.kv_heads, shape.head_dim, rows, position, how->window,
				(double)how->soft_cap, how->sinks);
		release(&plain);
		release(&tiles);
	}
	attention_rig_close(&rig);
	free(q);
	free(sinks);
}

static bool no_tiles(void)
{
	return cpu_products_amx() == NULL;
}

static void every_dim_and_format(void **state)
{
	static const struct { enum kern_kv k, v; } formats[] = { { KERN_KV_INT8, KERN_KV_INT8 }, { KERN_KV_INT4, KERN_KV_INT4 },
		{ KERN_KV_INT8, KERN_KV_BF16 }, { KERN_KV_F32, KERN_KV_INT8 }, { KERN_KV_INT8, KERN_KV_INT4 },
		{ KERN_KV_INT4, KERN_KV_INT8 }, { KERN_KV_FP8, KERN_KV_INT4 }, { KERN_KV_INT4, KERN_KV_F16 } };
	static const uint32_t dims[] = { 16, 32, 48, 64, 80, 96, 128, 192, 256 };

	(void)state;
	if (no_tiles())
		skip();
	for (uint32_t i = 0; i < sizeof(dims) / sizeof(*dims); i++)
		for (uint32_t j = 0; j < sizeof(formats) / sizeof(*formats); j++)
			check_shape((struct attention_shape){ 5, 1, dims[i], formats[j].k, formats[j].v }, j < 2 ? 1 : 5);
}

static void every_group(void **state)
{
	static const uint32_t groups[] = { 1, 2, 3, 7, 8, 16, 17, 31, 33, 64, 71 };

	(void)state;
	if (no_tiles())
		skip();
	for (uint32_t i = 0; i < sizeof(groups) / sizeof(*groups); i++) {
		check_shape((struct attention_shape){ groups[i], 1, 64, KERN_KV_INT8, KERN_KV_INT8 }, 3);
		check_shape((struct attention_shape){ 2 * groups[i], 2, 128, KERN_KV_INT4, KERN_KV_INT4 }, 23);
	}
}

/* Heads whose channels are no multiple of 16, pages of floats and small tiles are AVX-512's, and so is all without leave. */
static void others_take_none(void **state)
{
	struct kern_kv_geometry kv = { .heads = 1, .kv_heads = 1, .head_dim = 64, .k = KERN_KV_INT8, .v = KERN_KV_INT8 };
	struct cpu_attention_job job = { .isa = BASE_ISA_AVX512, .amx = true, .kv = &kv };

	(void)state;
	assert_ptr_equal(cpu_attention_kernels_of(&job, 16), &cpu_attention_amx);
	assert_ptr_equal(cpu_attention_kernels_of(&job, 15), &cpu_attention_avx512);
	kv.head_dim = 40;
	assert_ptr_equal(cpu_attention_kernels_of(&job, 16), &cpu_attention_avx512);
	kv.head_dim = 64;
	kv.k = kv.v = KERN_KV_BF16;
	assert_ptr_equal(cpu_attention_kernels_of(&job, 16), &cpu_attention_avx512);
	kv.v = KERN_KV_INT4;
	assert_ptr_equal(cpu_attention_kernels_of(&job, 16), &cpu_attention_amx);
	job.amx = false;
	assert_ptr_equal(cpu_attention_kernels_of(&job, 16), &cpu_attention_avx512);
	job.amx = true;
	job.isa = BASE_ISA_AVX2;
	assert_ptr_equal(cpu_attention_kernels_of(&job, 16), &cpu_attention_avx2);
}

/* One integer of K, and one of V, of a page in the middle. */
static void a_changed_byte_is_seen(void **state)
{
	const struct attention_shape shape = { 4, 1, 128, KERN_KV_INT8, KERN_KV_INT8 };
	struct attention_rig rig;
	struct outcome plain, tiles;
	float *q;

	(void)state;
	if (no_tiles())
		skip();
	q = new_normal((size_t)32 * shape.heads * shape.head_dim, 1);
	attention_rig_open(&rig, shape, 1, TOKENS);
	fill(&rig);
	plain = run(&rig, false, TOKENS - 32, 32, q);
	for (int i = 0; i < 2; i++) {
		const struct kern_kv_layout layout = *kern_kv_layout(&rig.kv, 1);
		unsigned char *byte = rig.blocks[3] + (i == 0 ? layout.k : layout.v) + 4321;

		*byte ^= 1;
		tiles = run(&rig, true, TOKENS - 32, 32, q);
		assert_false(same(&plain, &tiles));
		release(&tiles);
		*byte ^= 1;
	}
	tiles = run(&rig, true, TOKENS - 32, 32, q);
	assert_true(same(&plain, &tiles));
	release(&tiles);
	release(&plain);
	attention_rig_close(&rig);
	free(q);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_dim_and_format),
		cmocka_unit_test(every_group),
		cmocka_unit_test(others_take_none),
		cmocka_unit_test(a_changed_byte_is_seen),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
