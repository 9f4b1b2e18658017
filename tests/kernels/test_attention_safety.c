/*
 * Attention under bad data: unreadable memory behind every input and page, NaN, infinities and random bits, pages full
 * of garbage behind the last token, and inputs that another thread changes meanwhile. Nothing may crash, and what a
 * row does not see must not change a bit of it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kernels/attention_rig.h"

enum { TOKENS = 180, BAD = 130 };

static const enum kern_kv formats[] = { KERN_KV_F32, KERN_KV_BF16, KERN_KV_INT8, KERN_KV_F16, KERN_KV_FP8, KERN_KV_INT4 };

enum { FORMATS = sizeof(formats) / sizeof(*formats) };

/* Bytes that are random, but the same for the same seed. */
static void fill_random(void *to, size_t bytes, uint64_t seed)
{
	unsigned char *at = to;

	for (size_t i = 0; i < bytes; i++) {
		seed = seed * 6364136223846793005u + 1442695040888963407u;
		at[i] = (unsigned char)(seed >> 56);
	}
}

/* q, k, v and o of exactly their size, each before an unreadable page. */
struct arrays {
	size_t q_bytes, kv_bytes;
	void *q, *k, *v, *o;
};

static struct arrays arrays_new(const struct kern_kv_geometry *kv, uint32_t rows, enum kern_dtype dtype)
{
	const size_t element = dtype == KERN_DTYPE_F32 ? 4 : 2;
	struct arrays a = {
		.q_bytes = (size_t)rows * kv->heads * kv->head_dim * element,
		.kv_bytes = (size_t)rows * kv->kv_heads * kv->head_dim * element,
	};

	a.q = guarded_alloc(a.q_bytes);
	a.k = guarded_alloc(a.kv_bytes);
	a.v = guarded_alloc(a.kv_bytes);
	a.o = guarded_alloc(a.q_bytes);
	return a;
}

static void arrays_free(struct arrays *a)
{
	guarded_free(a->q, a->q_bytes);
	guarded_free(a->k, a->kv_bytes);
	guarded_free(a->v, a->kv_bytes);
	guarded_free(a->o, a->q_bytes);
}

static void random_bits_and_guards(void **state)
{
	static const uint32_t dims[] = { 8, 24, 40, 64, 72, 256 };
	enum base_isa isas[3];
	const uint32_t isa_count = attention_isas(isas);

	(void)state;
	for (uint32_t i = 0; i < FORMATS * FORMATS * isa_count * 6; i++) {
		const uint32_t dim = dims[i / (FORMATS * FORMATS) / isa_count];
		struct attention_rig rig;
		struct arrays a;

		attention_rig_open(&rig, (struct attention_shape){ 3, 1, dim, formats[i % FORMATS],
			formats[i / FORMATS % FORMATS] }, 1, 100);
		rig.dtype = (enum kern_dtype)((i + i / FORMATS) % 3);
		rig.isa = isas[i / (FORMATS * FORMATS) % isa_count];
		rig.soft_cap = i % 2 == 0 ? 0.0f : 3.0f;
		a = arrays_new(&rig.kv, 100, rig.dtype);
		fill_random(a.q, a.q_bytes, i);
		fill_random(a.k, a.kv_bytes, i + 1000);
		fill_random(a.v, a.kv_bytes, i + 2000);
		attention_rig_run(&rig, 0, 100, a.k, a.v, 0, 100, a.q, a.o, NULL);
		arrays_free(&a);
		attention_rig_close(&rig);
	}
}

struct session { float *q, *k, *v, *o; struct attention_rig rig; };

static struct session session_new(struct attention_shape shape, enum base_isa isa)
{
	const size_t q_count = (size_t)TOKENS * shape.heads * shape.head_dim;
	const size_t kv_count = (size_t)TOKENS * shape.kv_heads * shape.head_dim;
	struct session s = {
		.q = new_normal(q_count, 1), .k = new_normal(kv_count, 2), .v = new_normal(kv_count, 3),
		.o = new_zeroed(q_count * sizeof(float)),
	};

	attention_rig_open(&s.rig, shape, 1, TOKENS);
	s.rig.isa = isa;
	return s;
}

static void session_free(struct session *s)
{
	attention_rig_close(&s->rig);
	free(s->q);
	free(s->k);
	free(s->v);
	free(s->o);
}

static const float poisons[] = { NAN, INFINITY, -INFINITY, 3e38f };

/* Token `bad` of KV head 0 is poisoned: rows before it, and all rows of the other heads, keep their bits. */
static void check_poison(struct attention_shape shape, enum base_isa isa, uint32_t bad, float poison)
{
	struct session clean = session_new(shape, isa), spoilt = session_new(shape, isa);
	const size_t dim = shape.head_dim, width = shape.heads * dim, group = shape.heads / shape.kv_heads;

	spoilt.k[bad * shape.kv_heads * dim + 3] = poison;
	spoilt.v[bad * shape.kv_heads * dim + 5] = poison;
	spoilt.q[bad * width + 7] = poison;
	attention_rig_step(&clean.rig, 0, TOKENS, clean.q, clean.k, clean.v, clean.o, NULL);
	attention_rig_step(&spoilt.rig, 0, TOKENS, spoilt.q, spoilt.k, spoilt.v, spoilt.o, NULL);
	for (size_t row = 0; row < TOKENS; row++) {
		const float *a = clean.o + row * width, *b = spoilt.o + row * width;

		if (row < bad)
			assert_memory_equal(a, b, width * sizeof(float));
		assert_memory_equal(a + group * dim, b + group * dim, (width - group * dim) * sizeof(float));
	}
	session_free(&clean);
	session_free(&spoilt);
}

static void poison_stays_where_it_is_seen(void **state)
{
	enum base_isa isas[3];
	const uint32_t isa_count = attention_isas(isas);

	(void)state;
	for (uint32_t i = 0; i < isa_count * FORMATS * 4; i++) {
		struct attention_shape shape = { 4, 2, 40, formats[i / isa_count % FORMATS], formats[i / isa_count % FORMATS] };

		check_poison(shape, isas[i % isa_count], BAD, poisons[i / isa_count / FORMATS]);
		check_poison(shape, isas[i % isa_count], 20, poisons[i / isa_count / FORMATS]);
	}
}

/* With a window, rows that no longer see the poisoned token are clean again, also when it is one that the survey of
 * block 0 has met. */
static void poison_leaves_the_window(void **state)
{
	enum base_isa isas[3];
	const uint32_t isa_count = attention_isas(isas);

	(void)state;
	for (uint32_t i = 0; i < isa_count * FORMATS * 4; i++) {
		struct attention_shape shape = { 3, 1, 64, formats[i / isa_count % FORMATS], formats[i / isa_count % FORMATS] };
		struct session s = session_new(shape, isas[i % isa_count]);

		s.rig.window = 50;
		s.k[20 * 64 + 3] = poisons[i / isa_count / FORMATS];
		s.v[20 * 64 + 3] = poisons[i / isa_count / FORMATS];
		attention_rig_step(&s.rig, 0, TOKENS, s.q, s.k, s.v, s.o, NULL);
		for (size_t at = 70 * 3 * 64; at < TOKENS * 3 * 64; at++)
			if (!isfinite(s.o[at]))
				fail_msg("%s, format %d, poison %g: row %zu", base_isa_name(s.rig.isa), (int)shape.k,
					(double)poisons[i / isa_count / FORMATS], at / 3 / 64);
		session_free(&s);
	}
}

/* What lies in the pages behind the last token, or in blocks that a window has left, does not matter. */
static void garbage_outside_is_not_seen(void **state)
{
	enum base_isa isas[3];
	const uint32_t isa_count = attention_isas(isas);

	(void)state;
	for (uint32_t i = 0; i < isa_count * FORMATS * FORMATS; i++) {
		struct attention_shape shape = { 3, 1, 40, formats[i / isa_count % FORMATS], formats[i / isa_count / FORMATS] };
		struct session clean = session_new(shape, isas[i % isa_count]), spoilt = session_new(shape, isas[i % isa_count]);
		const size_t bytes = (size_t)TOKENS * 3 * 40 * sizeof(float);

		for (uint32_t block = 0; block < spoilt.rig.block_count; block++)
			fill_random(spoilt.rig.blocks[block], spoilt.rig.kv.block_bytes[block > 0], block);
		for (uint32_t at = 0; at < TOKENS; at += 9) {
			uint32_t rows = TOKENS - at < 9 ? TOKENS - at : 9;

			attention_rig_step(&clean.rig, at, rows, clean.q, clean.k, clean.v, clean.o, NULL);
			attention_rig_step(&spoilt.rig, at, rows, spoilt.q, spoilt.k, spoilt.v, spoilt.o, NULL);
		}
		assert_memory_equal(clean.o, spoilt.o, bytes);
		clean.rig.window = spoilt.rig.window = 30;
		fill_random(spoilt.rig.blocks[1], spoilt.rig.kv.block_bytes[1], 77);
		attention_rig_run(&clean.rig, TOKENS, 0, NULL, NULL, TOKENS - 20, 20, clean.q, clean.o, NULL);
		attention_rig_run(&spoilt.rig, TOKENS, 0, NULL, NULL, TOKENS - 20, 20, spoilt.q, spoilt.o, NULL);
		assert_memory_equal(clean.o, spoilt.o, bytes);
		session_free(&clean);
		session_free(&spoilt);
	}
}

/* ---- inputs that change meanwhile ------------------------------------------------------------------------------ */

struct scribbler { struct arrays *arrays; atomic_bool stop; };

static void *scribble(void *context)
{
	struct scribbler *s = context;

	for (uint64_t seed = 1; !atomic_load_explicit(&s->stop, memory_order_relaxed); seed++) {
		fill_random(s->arrays->q, s->arrays->q_bytes, seed);
		fill_random(s->arrays->k, s->arrays->kv_bytes, seed + 1);
		fill_random(s->arrays->v, s->arrays->kv_bytes, seed + 2);
	}
	return NULL;
}

static void inputs_that_change(void **state)
{
	enum base_isa isas[3];
	const uint32_t isa_count = attention_isas(isas);

	(void)state;
	for (uint32_t i = 0; i < isa_count * FORMATS; i++) {
		struct attention_rig victim;
		struct scribbler scribbler;
		struct arrays arrays;
		pthread_t thread;

		attention_rig_open(&victim, (struct attention_shape){ 4, 2, 64, formats[i % FORMATS], formats[i % FORMATS] }, 1, TOKENS);
		victim.isa = isas[i / FORMATS];
		victim.dtype = (enum kern_dtype)(i % 3);
		arrays = arrays_new(&victim.kv, TOKENS, victim.dtype);
		scribbler.arrays = &arrays;
		atomic_init(&scribbler.stop, false);
		assert_int_equal(pthread_create(&thread, NULL, scribble, &scribbler), 0);
		for (int repeat = 0; repeat < 10; repeat++)
			attention_rig_run(&victim, 0, TOKENS, arrays.k, arrays.v, 0, TOKENS, arrays.q, arrays.o, NULL);
		atomic_store_explicit(&scribbler.stop, true, memory_order_relaxed);
		pthread_join(thread, NULL);
		arrays_free(&arrays);
		attention_rig_close(&victim);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_bits_and_guards),
		cmocka_unit_test(poison_stays_where_it_is_seen),
		cmocka_unit_test(poison_leaves_the_window),
		cmocka_unit_test(garbage_outside_is_not_seen),
		cmocka_unit_test(inputs_that_change),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
