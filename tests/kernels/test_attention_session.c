/*
 * What a session may do with attention: truncate and go on, hold nothing, attend without appending, merge parts by their
 * log-sum-exp, rotate, bring and take float16 and bfloat16; and which geometries are refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"
#include "kernels/cpu/cpu_attention_kernels.h"
#include "kernels/kern_type.h"
#include "kernels/ref/ref_attention.h"
#include "tests/kernels/attention_rig.h"

static const enum kern_kv formats[] = { KERN_KV_F32, KERN_KV_BF16, KERN_KV_INT8, KERN_KV_F16, KERN_KV_FP8, KERN_KV_INT4 };

enum { FORMATS = sizeof(formats) / sizeof(*formats) };

enum { HEADS = 4, KV_HEADS = 2, DIM = 48, Q_WIDTH = HEADS * DIM, KV_WIDTH = KV_HEADS * DIM, TOKENS = 300 };

struct rows { float *q, *k, *v, *o, *lse; };

static struct rows rows_new(uint64_t seed)
{
	return (struct rows){
		.q = new_normal((size_t)TOKENS * Q_WIDTH, seed),
		.k = new_normal((size_t)TOKENS * KV_WIDTH, seed + 1),
		.v = new_normal((size_t)TOKENS * KV_WIDTH, seed + 2),
		.o = new_zeroed((size_t)TOKENS * Q_WIDTH * sizeof(float)),
		.lse = new_zeroed((size_t)TOKENS * HEADS * sizeof(float)),
	};
}

static void rows_free(struct rows *r)
{
	free(r->q);
	free(r->k);
	free(r->v);
	free(r->o);
	free(r->lse);
}

static void open_rig(struct attention_rig *rig, enum kern_kv format, enum base_isa isa)
{
	attention_rig_open(rig, (struct attention_shape){ HEADS, KV_HEADS, DIM, format, format }, 1, TOKENS);
	rig->isa = isa;
}

static void step(const struct attention_rig *rig, const struct rows *r, uint32_t at, uint32_t end)
{
	attention_rig_step(rig, at, end - at, r->q, r->k, r->v, r->o, r->lse);
}

/* As a scheduler truncates: where the tokens end on another page than rows have reached, blocks ahead come back zeroed. */
static void truncate(const struct attention_rig *rig, uint32_t reached, uint32_t keep)
{
	if (kern_kv_filled(reached) == kern_kv_filled(keep) || !kern_kv_has_low(&rig->kv))
		return;
	for (uint32_t i = kern_kv_filled(keep); i < rig->block_count; i++)
		memset(rig->blocks[i], 0, rig->kv.block_bytes[i > 0]);
}

/* Rows begin <= row < end of both are the same. */
static bool same_rows(const float *a, const float *b, uint32_t begin, uint32_t end)
{
	return memcmp(a + begin * Q_WIDTH, b + begin * Q_WIDTH, (size_t)(end - begin) * Q_WIDTH * sizeof(float)) == 0;
}

/* After a truncation other tokens come; the bits are those of a session that never held the first ones. Only tokens of pages
 * whose low halves were lost look different, to the rows of two pages. */
static void truncation_leaves_nothing(void **state)
{
	static const struct { uint32_t reached, keep; } cuts[] = { { TOKENS, 0 }, { TOKENS, 40 }, { TOKENS, 63 }, { TOKENS, 64 },
		{ TOKENS, 130 }, { 190, 130 }, { TOKENS, 290 } };
	enum base_isa isas[3];
	const uint32_t isa_count = attention_isas(isas), cut_count = sizeof(cuts) / sizeof(*cuts);
	struct rows first = rows_new(1), second = rows_new(5);
	float *expected = new_zeroed((size_t)TOKENS * Q_WIDTH * sizeof(float));

	(void)state;
	for (uint32_t i = 0; i < isa_count * FORMATS * cut_count; i++) {
		const uint32_t keep = cuts[i / isa_count / FORMATS].keep, reached = cuts[i / isa_count / FORMATS].reached;
		const enum kern_kv format = formats[i / isa_count % FORMATS];
		const bool loses = format == KERN_KV_INT4 && keep > KERN_PAGE_TOKENS && kern_kv_filled(keep) < kern_kv_filled(reached);
		const uint32_t same = loses ? (kern_kv_filled(keep) + 1) * KERN_PAGE_TOKENS : keep;
		struct attention_rig fresh, reused;

		open_rig(&fresh, format, isas[i % isa_count]);
		open_rig(&reused, format, isas[i % isa_count]);
		if (keep > 0)
			step(&fresh, &first, 0, keep);
		step(&fresh, &second, keep, TOKENS);
		memcpy(expected, second.o, (size_t)TOKENS * Q_WIDTH * sizeof(float));
		step(&reused, &first, 0, reached);
		truncate(&reused, reached, keep);
		step(&reused, &second, keep, keep + 9);
		step(&reused, &second, keep + 9, TOKENS);
		assert_true(same < TOKENS && same_rows(expected, second.o, same, TOKENS));
		assert_true(!loses || !same_rows(expected, second.o, keep, same));
		attention_rig_close(&fresh);
		attention_rig_close(&reused);
	}
	rows_free(&first);
	rows_free(&second);
	free(expected);
}

static void nothing_to_see(void **state)
{
	enum base_isa isas[3];
	const uint32_t isa_count = attention_isas(isas);
	struct rows r = rows_new(1);

	(void)state;
	for (uint32_t i = 0; i < isa_count * FORMATS; i++) {
		struct attention_rig rig;

		open_rig(&rig, formats[i / isa_count], isas[i % isa_count]);
		memset(r.o, 0xff, 5 * Q_WIDTH * sizeof(float));
		attention_rig_run(&rig, 0, 0, NULL, NULL, 0, 5, r.q, r.o, r.lse);
		for (uint32_t at = 0; at < 5 * Q_WIDTH; at++)
			assert_true(r.o[at] == 0);
		for (uint32_t at = 0; at < 5 * HEADS; at++)
			assert_true(r.lse[at] == -INFINITY);
		attention_rig_run(&rig, 0, 0, NULL, NULL, 0, 0, NULL, NULL, NULL); /* no rows at all */
		attention_rig_close(&rig);
	}
	rows_free(&r);
}

/* Queries may stand anywhere; those past the keys see all of them. */
static void far_queries(void **state)
{
	struct rows r = rows_new(1);
	struct attention_rig rig;
	float far[Q_WIDTH], near[Q_WIDTH];

	(void)state;
	open_rig(&rig, KERN_KV_INT8, base_cpu()->isa);
	step(&rig, &r, 0, TOKENS);
	attention_rig_run(&rig, TOKENS, 0, NULL, NULL, TOKENS - 1, 1, r.q, near, NULL);
	attention_rig_run(&rig, TOKENS, 0, NULL, NULL, UINT32_MAX, 1, r.q, far, NULL);
	assert_memory_equal(near, far, sizeof(far));
	attention_rig_close(&rig);
	rows_free(&r);
}

/* Two sessions with half the keys each, merged by the caller as the contract says. */
static void halves_merge_by_lse(void **state)
{
	enum base_isa isas[3];
	const uint32_t isa_count = attention_isas(isas), half = 117;
	struct rows r = rows_new(1), a = rows_new(1), b = rows_new(1);

	(void)state;
	for (uint32_t i = 0; i < isa_count; i++) {
		struct attention_rig whole, left, right;

		open_rig(&whole, KERN_KV_F32, isas[i]);
		open_rig(&left, KERN_KV_F32, isas[i]);
		open_rig(&right, KERN_KV_F32, isas[i]);
		whole.causal = left.causal = right.causal = false;
		attention_rig_run(&whole, 0, TOKENS, r.k, r.v, 0, 20, r.q, r.o, r.lse);
		attention_rig_run(&left, 0, half, r.k, r.v, 0, 20, r.q, a.o, a.lse);
		attention_rig_run(&right, 0, TOKENS - half, r.k + half * KV_WIDTH, r.v + half * KV_WIDTH, 0, 20, r.q, b.o, b.lse);
		for (uint32_t at = 0; at < 20 * Q_WIDTH; at++) {
			double x = exp((double)a.lse[at / DIM]), y = exp((double)b.lse[at / DIM]);

			assert_true(fabs((x * (double)a.o[at] + y * (double)b.o[at]) / (x + y) - (double)r.o[at]) < 2e-6);
			assert_true(fabs(log(x + y) - (double)r.lse[at / DIM]) < 2e-6);
		}
		attention_rig_close(&whole);
		attention_rig_close(&left);
		attention_rig_close(&right);
	}
	rows_free(&r);
	rows_free(&a);
	rows_free(&b);
}

/* ---- rotation ------------------------------------------------------------------------------------------------- */

static float *new_cos_sin(const float *inverse_freq, uint32_t rotated)
{
	float *table = new_zeroed((size_t)TOKENS * rotated * sizeof(*table));

	for (uint32_t i = 0; i < TOKENS * rotated / 2; i++) {
		double angle = (double)((float)(i / (rotated / 2)) * inverse_freq[i % (rotated / 2)]);

		table[2 * i] = (float)cos(angle);
		table[2 * i + 1] = (float)sin(angle);
	}
	return table;
}

static void check_rotation(enum kern_rope rope, uint32_t rotated, enum base_isa isa)
{
	struct rows r = rows_new(1), turned = rows_new(1);
	float inverse_freq[DIM / 2], *table;
	double *o = new_zeroed((size_t)TOKENS * Q_WIDTH * sizeof(*o)), logits[TOKENS], worst = 0;
	const struct ref_attention ref = {
		.heads = HEADS, .kv_heads = KV_HEADS, .head_dim = DIM, .q_rows = TOKENS, .keys = TOKENS, .causal = true,
		.scale = 1 / sqrt(DIM), .q = turned.q, .k = turned.k, .v = turned.v, .o = o, .logits = logits,
	};
	struct attention_rig rig;

	for (uint32_t i = 0; i < rotated / 2; i++)
		inverse_freq[i] = (float)pow(10000, -2.0 * i / rotated);
	table = new_cos_sin(inverse_freq, rotated);
	for (uint32_t i = 0; i < TOKENS * HEADS; i++)
		ref_rope(turned.q + i * DIM, rotated, rope == KERN_ROPE_HALVES, i / HEADS, inverse_freq, 1);
	for (uint32_t i = 0; i < TOKENS * KV_HEADS; i++)
		ref_rope(turned.k + i * DIM, rotated, rope == KERN_ROPE_HALVES, i / KV_HEADS, inverse_freq, 1);
	ref_attention(&ref);
	open_rig(&rig, KERN_KV_F32, isa);
	rig.rope = rope;
	rig.rotated = rotated;
	rig.rope_cos_sin = table;
	step(&rig, &r, 0, 100);
	step(&rig, &r, 100, TOKENS);
	for (uint32_t i = 0; i < TOKENS * Q_WIDTH; i++)
		worst = fmax(worst, fabs((double)r.o[i] - o[i]));
	assert_true(worst < 1e-5);
	attention_rig_close(&rig);
	rows_free(&r);
	rows_free(&turned);
	free(table);
	free(o);
}

static void rotation(void **state)
{
	enum base_isa isas[3];
	const uint32_t isa_count = attention_isas(isas);

	(void)state;
	for (uint32_t i = 0; i < isa_count; i++) {
		check_rotation(KERN_ROPE_PAIRS, DIM, isas[i]);
		check_rotation(KERN_ROPE_HALVES, DIM, isas[i]);
		check_rotation(KERN_ROPE_PAIRS, 20, isas[i]);
		check_rotation(KERN_ROPE_HALVES, 12, isas[i]);
	}
}

/* ---- element types -------------------------------------------------------------------------------------------- */

static bool same_or_both_nan(float a, float b)
{
	return memcmp(&a, &b, sizeof(a)) == 0 || (isnan(a) && isnan(b));
}

static void every_half_loads(void **state)
{
	enum base_isa isas[3];
	const uint32_t isa_count = attention_isas(isas), count = 65536;
	uint16_t *halves = new_zeroed(count * sizeof(*halves));
	float *loaded = new_zeroed(count * sizeof(*loaded));

	(void)state;
	for (uint32_t i = 0; i < count; i++)
		halves[i] = (uint16_t)i;
	for (uint32_t j = 0; j < isa_count; j++) {
		const struct cpu_attention_kernels *kernels = cpu_attention_kernels(isas[j]);

		kernels->load(loaded, halves, count, KERN_DTYPE_F16);
		for (uint32_t i = 0; i < count; i++)
			assert_true(same_or_both_nan(loaded[i], kern_f16_to_f32(halves[i])));
		kernels->load(loaded, halves, count, KERN_DTYPE_BF16);
		for (uint32_t i = 0; i < count; i++)
			assert_true(same_or_both_nan(loaded[i], kern_bf16_to_f32(halves[i])));
	}
	free(halves);
	free(loaded);
}

/* Every 4096th float, among them all ties, and its neighbour above. */
static void floats_round_to_nearest_even(void **state)
{
	enum { COUNT = 1 << 20 };
	enum base_isa isas[3];
	const uint32_t isa_count = attention_isas(isas);
	float *values = new_zeroed(2 * COUNT * sizeof(*values));
	uint16_t *stored = new_zeroed(2 * COUNT * sizeof(*stored));
	uint32_t wrong = 0;

	(void)state;
	for (uint32_t i = 0; i < COUNT; i++) {
		uint32_t bits[2] = { i << 12, (i << 12) + 1 };

		memcpy(values + 2 * i, bits, sizeof(bits));
	}
	for (uint32_t j = 0; j < isa_count; j++) {
		const struct cpu_attention_kernels *kernels = cpu_attention_kernels(isas[j]);

		kernels->store(stored, values, 2 * COUNT, KERN_DTYPE_F16);
		for (uint32_t i = 0; i < 2 * COUNT; i++)
			wrong += isnan(values[i]) ? (stored[i] & 0x7fff) <= 0x7c00 : stored[i] != kern_f32_to_f16(values[i]);
		kernels->store(stored, values, 2 * COUNT, KERN_DTYPE_BF16);
		for (uint32_t i = 0; i < 2 * COUNT; i++)
			wrong += isnan(values[i]) ? (stored[i] & 0x7fff) <= 0x7f80 : stored[i] != kern_f32_to_bf16(values[i]);
	}
	assert_int_equal(wrong, 0);
	free(values);
	free(stored);
}

/* A caller's 16-bit rows give what their float32 values give, rounded at the end. */
static void rows_of_16_bits(void **state)
{
	struct rows r = rows_new(1);
	uint16_t *q = new_zeroed(TOKENS * Q_WIDTH * 2), *k = new_zeroed(TOKENS * KV_WIDTH * 2);
	uint16_t *v = new_zeroed(TOKENS * KV_WIDTH * 2), *o = new_zeroed(TOKENS * Q_WIDTH * 2);

	(void)state;
	for (enum kern_dtype dtype = KERN_DTYPE_F16; dtype <= KERN_DTYPE_BF16; dtype++) {
		uint16_t (*narrow)(float) = dtype == KERN_DTYPE_F16 ? kern_f32_to_f16 : kern_f32_to_bf16;
		float (*wide)(uint16_t) = dtype == KERN_DTYPE_F16 ? kern_f16_to_f32 : kern_bf16_to_f32;
		struct attention_rig rig;

		for (uint32_t i = 0; i < TOKENS * Q_WIDTH; i++)
			r.q[i] = wide(q[i] = narrow(r.q[i]));
		for (uint32_t i = 0; i < TOKENS * KV_WIDTH; i++) {
			r.k[i] = wide(k[i] = narrow(r.k[i]));
			r.v[i] = wide(v[i] = narrow(r.v[i]));
		}
		open_rig(&rig, KERN_KV_INT8, base_cpu()->isa);
		step(&rig, &r, 0, TOKENS);
		rig.dtype = dtype;
		attention_rig_run(&rig, 0, TOKENS, k, v, 0, TOKENS, q, o, NULL);
		for (uint32_t i = 0; i < TOKENS * Q_WIDTH; i++)
			assert_int_equal(o[i], narrow(r.o[i]));
		attention_rig_close(&rig);
	}
	rows_free(&r);
	free(q);
	free(k);
	free(v);
	free(o);
}

/* ---- geometry -------------------------------------------------------------------------------------------------- */

static void geometries(void **state)
{
	static const struct kern_kv_geometry good[] = {
		{ .layers = 1, .heads = 1, .kv_heads = 1, .head_dim = 8, .k = KERN_KV_F32, .v = KERN_KV_F32 },
		{ .layers = 4096, .heads = 4096, .kv_heads = 4096, .head_dim = 256, .k = KERN_KV_F32, .v = KERN_KV_F32 },
		{ .layers = 30, .heads = 9, .kv_heads = 3, .head_dim = 64, .k = KERN_KV_INT8, .v = KERN_KV_BF16 },
	};
	struct kern_kv_geometry bad[10], kv;

	(void)state;
	for (uint32_t i = 0; i < 3; i++) {
		kv = good[i];
		assert_int_equal(kern_kv_init(&kv), 0);
		for (uint32_t later = 0; later < 2; later++) {
			assert_true(kv.page_bytes[later] % 64 == 0 && kv.block_bytes[later] % 4096 == 0);
			assert_true(kv.block_bytes[later] >= kv.page_bytes[later] * kv.layers * kv.kv_heads);
		}
	}
	for (uint32_t i = 0; i < 10; i++)
		bad[i] = good[2];
	bad[0].layers = 0;
	bad[1].layers = UINT32_MAX;
	bad[2].heads = 0;
	bad[3].heads = UINT32_MAX;
	bad[4].kv_heads = 0;
	bad[5].kv_heads = 4;
	bad[6].head_dim = 0;
	bad[7].head_dim = 60;
	bad[8].head_dim = 264;
	bad[9].v = (enum kern_kv)0;
	for (uint32_t i = 0; i < 10; i++) {
		base_error_clear();
		assert_int_equal(kern_kv_init(&bad[i]), -EINVAL);
		assert_true(base_error_message()[0] != '\0');
	}
	kv = good[2];
	kv.k = KERN_KV_END;
	assert_int_equal(kern_kv_init(&kv), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(truncation_leaves_nothing),
		cmocka_unit_test(nothing_to_see),
		cmocka_unit_test(far_queries),
		cmocka_unit_test(halves_merge_by_lse),
		cmocka_unit_test(rotation),
		cmocka_unit_test(every_half_loads),
		cmocka_unit_test(floats_round_to_nearest_even),
		cmocka_unit_test(rows_of_16_bits),
		cmocka_unit_test(geometries),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
