/*
 * How fast attention is on one thread: decode beside this machine's memory bandwidth, and prefill in floating point
 * operations. `bench_attention [isa]`. Numbers are the best of some repetitions.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/kernels/attention_rig.h"

enum { CONTEXT = 8192, PREFILL = 256, SESSIONS = 16, REPEATS = 5 };

static const struct { const char *name; enum kern_kv k, v; } formats[] = {
	{ "int8", KERN_KV_INT8, KERN_KV_INT8 }, { "bf16", KERN_KV_BF16, KERN_KV_BF16 }, { "f32", KERN_KV_F32, KERN_KV_F32 },
};
static const struct attention_shape shapes[] = { { 9, 3, 64, 0, 0 }, { 32, 8, 128, 0, 0 }, { 8, 8, 64, 0, 0 } };

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* Bytes per second of reading memory that no cache holds. */
static double read_rate(void)
{
	const size_t words = (size_t)(256u << 20) / sizeof(uint64_t);
	uint64_t *memory = new_zeroed(words * sizeof(*memory)), sum = 0;
	int64_t best = INT64_MAX;

	memset(memory, 1, words * sizeof(*memory));
	for (int repeat = 0; repeat < 3; repeat++) {
		int64_t begin = now_ns();

		for (size_t i = 0; i < words; i += 8)
			sum += memory[i] ^ memory[i + 1] ^ memory[i + 2] ^ memory[i + 3] ^ memory[i + 4] ^ memory[i + 5] ^
				memory[i + 6] ^ memory[i + 7];
		begin = now_ns() - begin;
		best = begin < best ? begin : best;
	}
	if (sum == 1)
		puts("");
	free(memory);
	return (double)(words * sizeof(*memory)) / (double)best;
}

/* Seconds * 1e9 of one token over a full context. Many layers, so that pages come from memory and not from a cache. */
static double decode_ns(struct attention_rig *rig, const float *q, const float *k, float *o)
{
	int64_t best = INT64_MAX;

	for (int repeat = 0; repeat < REPEATS; repeat++) {
		int64_t begin = now_ns();

		for (rig->layer = 0; rig->layer < rig->kv.layers; rig->layer++)
			attention_rig_run(rig, CONTEXT - 1, 1, k, k, CONTEXT - 1, 1, q, o, NULL);
		begin = now_ns() - begin;
		best = begin < best ? begin : best;
	}
	return (double)best / rig->kv.layers;
}

static double prefill_ns(struct attention_rig *rig, const float *q, const float *k, float *o)
{
	int64_t best = INT64_MAX;

	rig->layer = 0;
	for (int repeat = 0; repeat < REPEATS; repeat++) {
		int64_t begin = now_ns();

		attention_rig_run(rig, CONTEXT / 4 - PREFILL, PREFILL, k, k, CONTEXT / 4 - PREFILL, PREFILL, q, o, NULL);
		begin = now_ns() - begin;
		best = begin < best ? begin : best;
	}
	return (double)best;
}

static double append_ns(struct attention_rig *rig, const float *k)
{
	int64_t best = INT64_MAX;

	rig->layer = 0;
	for (int repeat = 0; repeat < REPEATS; repeat++) {
		int64_t begin = now_ns();

		attention_rig_run(rig, CONTEXT / 4, PREFILL, k, k, 0, 0, NULL, NULL, NULL);
		begin = now_ns() - begin;
		best = begin < best ? begin : best;
	}
	return (double)best / PREFILL;
}

static void measure(enum base_isa isa, struct attention_shape shape, const char *name, double rate)
{
	const size_t q_width = (size_t)shape.heads * shape.head_dim, kv_width = (size_t)shape.kv_heads * shape.head_dim;
	const double seen = PREFILL * (CONTEXT / 4 - PREFILL / 2.0), operations = seen * (double)q_width * 4;
	float *q = new_normal(PREFILL * q_width, 1), *k = new_normal(PREFILL * kv_width, 2);
	float *o = new_zeroed(PREFILL * q_width * sizeof(*o));
	struct attention_rig rig;
	double bytes, decode, prefill, append;
	uint32_t layers = (uint32_t)((400u << 20) / (CONTEXT * kv_width * 8)) + 1;

	attention_rig_open(&rig, shape, layers, CONTEXT);
	rig.isa = isa;
	for (rig.layer = 0; rig.layer < layers; rig.layer++) {
		for (uint32_t at = 0; at < CONTEXT; at += PREFILL)
			attention_rig_run(&rig, at, PREFILL, k, k, 0, 0, NULL, NULL, NULL);
	}
	bytes = (double)CONTEXT / KERN_PAGE_TOKENS * (double)rig.kv.page_bytes[1] * shape.kv_heads;
	decode = decode_ns(&rig, q, k, o);
	prefill = prefill_ns(&rig, q, k, o);
	append = append_ns(&rig, k);
	printf("%-7s %-5s %2u/%u x %3u  decode %8.1f us %6.2f GB/s (%3.0f %% of memory)  prefill %7.1f GFLOP/s  append %6.2f us/token\n",
		base_isa_name(isa), name, shape.heads, shape.kv_heads, shape.head_dim, decode / 1e3, bytes / decode,
		100 * bytes / decode / rate, operations / prefill, append / 1e3);
	attention_rig_close(&rig);
	free(q);
	free(k);
	free(o);
}

int main(int argc, char **argv)
{
	const double rate = read_rate();
	enum base_isa isas[3];
	uint32_t count = attention_isas(isas);

	printf("reading memory: %.2f GB/s\n", rate);
	for (uint32_t i = count; i-- > 0;) {
		if (argc > 1 ? strcmp(argv[1], base_isa_name(isas[i])) != 0 : isas[i] == BASE_ISA_SCALAR)
			continue;
		for (uint32_t j = 0; j < 9; j++) {
			struct attention_shape shape = shapes[j / 3];

			shape.k = formats[j % 3].k;
			shape.v = formats[j % 3].v;
			measure(isas[i], shape, formats[j % 3].name, rate);
		}
	}
	return 0;
}
