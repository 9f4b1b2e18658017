/*
 * Time limit: 300 s
 *
 * What sharing a prefix saves: one decode step's attention, a layer after the other, of sessions that were forked behind a
 * prefix, beside the same sessions with blocks of their own. Both ways in turn, medians, and the bytes of K and V that each
 * goes through. The results are compared bit by bit.
 *
 *   bench_shared_prefix [FORMAT [TOKENS [SESSIONS [ROWS]]]]
 *
 * Without arguments: int8, 4K and 16K tokens, 16 sessions, a row each.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_clock.h"
#include "base/base_cpu.h"
#include "base/base_error.h"
#include "kernels/cpu/cpu_backend.h"
#include "tests/kernels/attention_rig.h"

enum {
	HEADS = 32, KV_HEADS = 8, DIM = 128, Q_WIDTH = HEADS * DIM, KV_WIDTH = KV_HEADS * DIM,
	LAYERS = 4,    /* so that the shared pages of all of them are beyond the last cache */
	SESSIONS_MAX = 64, ROWS_MAX = 32,
	TAIL = 64,     /* tokens of a session's own; a few more from session to session */
	FILL_ROWS = 1024,
	SAMPLES = 7,
};

struct bench {
	struct kern_backend *backend;
	struct kern_kv_geometry kv;
	uint32_t prefix, sessions, rows;
	unsigned char **shared[SESSIONS_MAX], **own[SESSIONS_MAX]; /* block lists */
	uint32_t blocks[SESSIONS_MAX], tokens[SESSIONS_MAX];
	float *q, *k, *o[2];
};

static void *alloc(struct bench *bench, size_t bytes)
{
	void *memory = bench->backend->ops->alloc(bench->backend, bytes, "a benchmark");

	if (!memory) {
		fprintf(stderr, "bench_shared_prefix: %s\n", base_error_message());
		exit(1);
	}
	return memory;
}

static void run(struct bench *bench, const struct kern_attend *items, uint32_t count)
{
	const struct kern_work work = { .kind = KERN_WORK_ATTEND, .attend = { .items = items, .count = count } };
	kern_ticket ticket;

	if (bench->backend->ops->submit(bench->backend, &work, &ticket) != 0)
		abort();
	while (bench->backend->ops->poll(bench->backend, ticket) == 0)
		;
}

static struct kern_attend item_of(const struct bench *bench, unsigned char **blocks, uint32_t layer)
{
	return (struct kern_attend){ .kv = &bench->kv, .blocks = blocks, .layer = layer, .causal = true,
		.scale = 1 / sqrtf((float)DIM), .k = bench->k, .v = bench->k };
}

static void fill(struct bench *bench, unsigned char **blocks, uint32_t begin, uint32_t end)
{
	for (uint32_t layer = 0; layer < LAYERS; layer++)
		for (uint32_t at = begin; at < end; at += FILL_ROWS) {
			struct kern_attend item = item_of(bench, blocks, layer);

			item.kv_position = at;
			item.kv_rows = end - at < FILL_ROWS ? end - at : FILL_ROWS;
			run(bench, &item, 1);
		}
}

/* Session 0 fills the prefix; the others take its blocks, or copies of them, and go on by themselves. */
static void open_sessions(struct bench *bench)
{
	const uint32_t prefix_blocks = bench->prefix / KERN_PAGE_TOKENS;

	for (uint32_t s = 0; s < bench->sessions; s++) {
		bench->tokens[s] = bench->prefix + TAIL + 3 * s;
		bench->blocks[s] = bench->tokens[s] / KERN_PAGE_TOKENS + 1;
		bench->shared[s] = new_zeroed(bench->blocks[s] * sizeof(*bench->shared[s]));
		bench->own[s] = new_zeroed(bench->blocks[s] * sizeof(*bench->own[s]));
		for (uint32_t i = 0; i < bench->blocks[s]; i++)
			bench->shared[s][i] = s > 0 && i < prefix_blocks ? bench->shared[0][i] : alloc(bench, bench->kv.block_bytes[i > 0]);
		if (s == 0)
			fill(bench, bench->shared[s], 0, bench->prefix);
		fill(bench, bench->shared[s], bench->prefix, bench->tokens[s]);
		for (uint32_t i = 0; i < bench->blocks[s]; i++) {
			bench->own[s][i] = alloc(bench, bench->kv.block_bytes[i > 0]);
			memcpy(bench->own[s][i], bench->shared[s][i], bench->kv.block_bytes[i > 0]);
		}
	}
}

static void close_sessions(struct bench *bench)
{
	for (uint32_t s = bench->sessions; s-- > 0;) {
		for (uint32_t i = 0; i < bench->blocks[s]; i++) {
			bench->backend->ops->free(bench->backend, bench->own[s][i]);
			if (s == 0 || i >= bench->prefix / KERN_PAGE_TOKENS)
				bench->backend->ops->free(bench->backend, bench->shared[s][i]);
		}
		free(bench->own[s]);
		free(bench->shared[s]);
	}
}

/* One step of all sessions through all layers. Returns nanoseconds; *visits: bytes that units go through. */
static double step(struct bench *bench, bool shared, double *visits)
{
	struct kern_attend items[SESSIONS_MAX];
	int64_t begin_ns = base_monotonic_ns();

	*visits = 0;
	for (uint32_t layer = 0; layer < LAYERS; layer++) {
		for (uint32_t s = 0; s < bench->sessions; s++) {
			items[s] = item_of(bench, shared ? bench->shared[s] : bench->own[s], layer);
			items[s].kv_position = bench->tokens[s];
			items[s].q_position = bench->tokens[s] - bench->rows;
			items[s].q_rows = bench->rows;
			items[s].q = bench->q + (size_t)s * bench->rows * Q_WIDTH;
			items[s].o = bench->o[shared] + ((size_t)layer * bench->sessions + s) * bench->rows * Q_WIDTH;
		}
		run(bench, items, bench->sessions);
		*visits += (double)cpu_of(bench->backend)->batch->page_visits * (double)bench->kv.page_bytes[1];
	}
	return (double)(base_monotonic_ns() - begin_ns);
}

/* Bytes of all pages that are there, each once. */
static double distinct_bytes(const struct bench *bench, bool shared)
{
	double pages = 0;

	for (uint32_t s = 0; s < bench->sessions; s++)
		pages += bench->blocks[s] - (shared && s > 0 ? bench->prefix / KERN_PAGE_TOKENS : 0);
	return pages * LAYERS * KV_HEADS * (double)bench->kv.page_bytes[1];
}

static int ascending(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static bool measure(struct bench *bench, const char *format, uint32_t threads)
{
	const size_t o_count = (size_t)LAYERS * bench->sessions * bench->rows * Q_WIDTH;
	double ns[2][SAMPLES], visits[2], unused;

	for (int way = 0; way < 2; way++) {
		bench->o[way] = new_zeroed(o_count * sizeof(float));
		step(bench, way, &unused);
	}
	for (int i = 0; i < SAMPLES; i++)
		for (int way = 0; way < 2; way++)
			ns[way][i] = step(bench, way, &visits[way]);
	for (int way = 0; way < 2; way++) {
		qsort(ns[way], SAMPLES, sizeof(double), ascending);
		printf("%-5s %u/%ux%u, %2u sessions, %2u row%s, %5u shared, %u thread%s  %-8s %8.2f ms a layer  %8.1f MB of KV, %8.1f MB gone "
			"through  spread %2.0f %%%s", format, HEADS, KV_HEADS, DIM, bench->sessions, bench->rows,
			bench->rows == 1 ? "" : "s", bench->prefix, threads, threads == 1 ? " " : "s", way ? "shared" : "unshared",
			ns[way][SAMPLES / 2] / LAYERS / 1e6, distinct_bytes(bench, way) / LAYERS / 1e6, visits[way] / LAYERS / 1e6,
			100 * (ns[way][SAMPLES - 1] - ns[way][0]) / ns[way][SAMPLES / 2], way ? "" : "\n");
	}
	printf("  %.2f times as fast\n", ns[0][SAMPLES / 2] / ns[1][SAMPLES / 2]);
	if (memcmp(bench->o[0], bench->o[1], o_count * sizeof(float)) == 0)
		return true;
	fprintf(stderr, "bench_shared_prefix: the results differ\n");
	return false;
}

static bool measure_on(uint32_t threads, enum kern_kv format, uint32_t prefix, uint32_t sessions, uint32_t rows)
{
	const struct kern_cpu_options options = {
		.struct_bytes = sizeof(options), .workers = threads - 1, .node = -1, .spin_us = 200, .measure = true };
	struct bench bench = { .prefix = prefix, .sessions = sessions, .rows = rows,
		.kv = { .layers = LAYERS, .heads = HEADS, .kv_heads = KV_HEADS, .head_dim = DIM, .k = format, .v = format } };
	bool good;

	if (kern_kv_init(&bench.kv) != 0 || kern_cpu_create(&bench.backend, &options) != 0) {
		fprintf(stderr, "bench_shared_prefix: %s\n", base_error_message());
		return false;
	}
	bench.q = new_normal((size_t)sessions * rows * Q_WIDTH, 1);
	bench.k = new_normal((size_t)FILL_ROWS * KV_WIDTH, 2);
	open_sessions(&bench);
	good = measure(&bench, kern_kv_name(format), threads);
	close_sessions(&bench);
	free(bench.q);
	free(bench.k);
	free(bench.o[0]);
	free(bench.o[1]);
	bench.backend->ops->destroy(bench.backend);
	return good;
}

static uint32_t argument(int argc, char **argv, int i, uint32_t otherwise, uint32_t most)
{
	const unsigned long value = argc > i ? strtoul(argv[i], NULL, 10) : otherwise;

	return value < 1 ? 1 : value > most ? most : (uint32_t)value;
}

int main(int argc, char **argv)
{
	const enum kern_kv format = argc > 1 ? kern_kv_by_name(argv[1], strlen(argv[1])) : KERN_KV_INT8;
	const uint32_t sessions = argument(argc, argv, 3, 16, SESSIONS_MAX), rows = argument(argc, argv, 4, 1, ROWS_MAX);
	bool good = true;

	if (format == 0) {
		fprintf(stderr, "bench_shared_prefix: %s is no format of KV\n", argv[1]);
		return 1;
	}
	printf("%s, %s\n", base_cpu()->brand, base_isa_name(base_cpu()->isa));
	for (uint32_t threads = 2; threads >= 1; threads--) {
		if (argc > 2) {
			good = measure_on(threads, format, argument(argc, argv, 2, 4096, 1 << 20) / KERN_PAGE_TOKENS * KERN_PAGE_TOKENS,
				sessions, rows) && good;
			continue;
		}
		for (uint32_t prefix = 4096; prefix <= 16384; prefix *= 4)
			good = measure_on(threads, format, prefix, sessions, rows) && good;
	}
	return !good;
}
