/*
 * Prefill attention on one thread: 512 rows, with nothing before them and behind 4,096 tokens, with tiles and without, in turn
 * A B A B. `bench_attention_prefill [HEAD_DIM [FORMAT]]`. Shown are medians in operations of the products alone: 4 per key that a row
 * sees, head and channel.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/kernels/attention_rig.h"

enum { ROWS = 512, DEPTH = 4096, TURNS = 9 };

static const struct { const char *name; enum kern_kv k, v; } formats[] = {
	{ "int8", KERN_KV_INT8, KERN_KV_INT8 }, { "int4", KERN_KV_INT4, KERN_KV_INT4 }, { "bf16", KERN_KV_BF16, KERN_KV_BF16 },
};
static const struct attention_shape shapes[] = { { 8, 1, 64, 0, 0 }, { 8, 2, 128, 0, 0 } };

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
	const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return (x > y) - (x < y);
}

static int64_t median(int64_t times[TURNS])
{
	qsort(times, TURNS, sizeof(*times), ascending);
	return times[TURNS / 2];
}

static void measure(struct attention_rig *rig, const char *name, uint32_t before, const float *q, const float *k, float *o)
{
	const double seen = ROWS * (before + (ROWS + 1) / 2.0), operations = seen * rig->kv.heads * rig->kv.head_dim * 4;
	const bool has_tiles = rig->amx;
	int64_t times[2][TURNS], best[2];

	for (uint32_t turn = 0; turn < TURNS; turn++) {
		for (uint32_t tiles = 0; tiles <= has_tiles; tiles++) {
			const int64_t begin = now_ns();

			rig->amx = tiles;
			attention_rig_run(rig, before + ROWS, 0, k, k, before, ROWS, q, o, NULL);
			times[tiles][turn] = now_ns() - begin;
		}
	}
	for (uint32_t tiles = 0; tiles <= has_tiles; tiles++)
		best[tiles] = median(times[tiles]);
	printf("%-5s %u/%u x %3u, %u rows behind %4u  %s %6.1f", name, rig->kv.heads, rig->kv.kv_heads, rig->kv.head_dim, ROWS, before,
		base_isa_name(rig->isa), operations / (double)best[0]);
	if (has_tiles)
		printf(", with tiles %6.1f, %4.2f times as fast", operations / (double)best[1], (double)best[0] / (double)best[1]);
	puts("");
}

int main(int argc, char **argv)
{
	puts("Gop/s of one thread");
	for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes) * sizeof(formats) / sizeof(*formats); i++) {
		struct attention_shape shape = shapes[i / (sizeof(formats) / sizeof(*formats))];
		const size_t format = i % (sizeof(formats) / sizeof(*formats));
		const size_t q_width = (size_t)shape.heads * shape.head_dim, kv_width = (size_t)shape.kv_heads * shape.head_dim;
		struct attention_rig rig;
		float *q, *k, *o;

		if (argc > 1 && (uint32_t)atoi(argv[1]) != shape.head_dim)
			continue;
		if (argc > 2 && strcmp(argv[2], formats[format].name) != 0)
			continue;
		q = new_normal(ROWS * q_width, 1);
		k = new_normal((DEPTH + ROWS) * kv_width, 2);
		o = new_zeroed(ROWS * q_width * sizeof(*o));
		shape.k = formats[format].k;
		shape.v = formats[format].v;
		attention_rig_open(&rig, shape, 1, DEPTH + ROWS);
		attention_rig_run(&rig, 0, DEPTH + ROWS, k, k, 0, 0, NULL, NULL, NULL);
		measure(&rig, formats[format].name, 0, q, k, o);
		measure(&rig, formats[format].name, DEPTH, q, k, o);
		attention_rig_close(&rig);
		free(q);
		free(k);
		free(o);
	}
	return 0;
}
