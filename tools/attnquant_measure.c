/*
 * attnquant measure: what formats cost in quality. This file has the choice of what is measured, and what both
 * measurements share; see attnquant_measure.h.
 *
 * Main thread. Loops over threads start and join them each time: they last seconds.
 */
#include "tools/attnquant_measure.h"

#include <argp.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"
#include "tools/attnquant.h"
#include "tools/tool_args.h"
#include "tools/tool_text.h"

/* ---- formats of a cache ------------------------------------------------------------------------------- */

/* Far above the contract's numbers: a format that the kernels learn appears here by itself. */
enum { FORMATS_TRIED = 64 };

static bool known(enum kern_kv k, enum kern_kv v)
{
	struct kern_kv_geometry kv = {
		.layers = 1, .heads = 1, .kv_heads = 1, .head_dim = 64, .k = k, .v = v
	};

	return kern_kv_init(&kv) == 0;
}

static void name_of(char *out, size_t size, enum kern_kv format)
{
	const char *name = kern_kv_name(format);

	if (name != NULL)
		snprintf(out, size, "%s", name);
	else
		snprintf(out, size, "kv%u", (unsigned)format);
}

void measure_kv_all(struct measure_kv_list *list)
{
	list->count = 0;
	for (unsigned number = 1; number < FORMATS_TRIED && list->count < MEASURE_KV_MAX; number++) {
		enum kern_kv format = (enum kern_kv)number;
		struct measure_kv *kv = &list->list[list->count];

		if (!known(format, format))
			continue;
		kv->k = kv->v = format;
		name_of(kv->name, sizeof(kv->name), format);
		list->count++;
	}
	base_error_clear();
}

static enum kern_kv format_by_name(const char *text, size_t len)
{
	struct measure_kv_list all;
	char names[256] = "";

	measure_kv_all(&all);
	for (uint32_t i = 0; i < all.count; i++) {
		if (strlen(all.list[i].name) == len && memcmp(all.list[i].name, text, len) == 0)
			return all.list[i].k;
		snprintf(names + strlen(names), sizeof(names) - strlen(names), " %s", all.list[i].name);
	}
	tool_die(TOOL_USAGE, "no KV format '%.*s'; there are:%s", (int)len, text, names);
}

void measure_kv_argument(struct measure_kv_list *list, const char *text)
{
	list->count = 0;
	if (strcmp(text, "all") == 0) {
		measure_kv_all(list);
		return;
	}
	for (;;) {
		size_t len = strcspn(text, ","), k_len = strcspn(text, ",/");
		struct measure_kv *kv = &list->list[list->count];

		if (list->count == MEASURE_KV_MAX)
			tool_die(TOOL_USAGE, "more than %d KV formats", MEASURE_KV_MAX);
		kv->k = format_by_name(text, k_len);
		kv->v = k_len < len ? format_by_name(text + k_len + 1, len - k_len - 1) : kv->k;
		snprintf(kv->name, sizeof(kv->name), "%.*s", (int)len, text);
		if (!known(kv->k, kv->v))
			tool_die(TOOL_USAGE, "%s: %s", kv->name, base_error_message());
		list->count++;
		if (text[len] == '\0')
			return;
		text += len + 1;
	}
}

double measure_kv_bits(const struct kern_kv_geometry *kv)
{
	return 8.0 * (double)kv->page_bytes[1] / (2.0 * KERN_PAGE_TOKENS * kv->head_dim);
}

/* ---- work --------------------------------------------------------------------------------------------- */

void *measure_alloc(size_t count, size_t bytes)
{
	void *memory = calloc(count ? count : 1, bytes);

	if (!memory)
		tool_die(TOOL_FAILED, "out of memory for %zu times %zu bytes", count, bytes);
	return memory;
}

uint32_t measure_processors(void)
{
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set) < 0)
		return 1;
	return (uint32_t)CPU_COUNT(&set);
}

struct kern_backend *measure_backend(void)
{
	const struct kern_cpu_options options = { .struct_bytes = sizeof(options),
		.workers = measure_processors() - 1, .node = -1, .spin_us = 100 };
	struct kern_backend *backend;

	if (kern_cpu_create(&backend, &options) < 0)
		tool_die(TOOL_FAILED, "%s", base_error_message());
	return backend;
}

int measure_run(struct kern_backend *backend, const struct kern_work *work)
{
	kern_ticket ticket;
	int rc = backend->ops->submit(backend, work, &ticket);

	while (rc == 0)
		rc = backend->ops->poll(backend, ticket);
	return rc < 0 ? rc : 0;
}

struct loop {
	void (*work)(void *context, uint32_t index, uint32_t thread);
	void *context;
	uint32_t count;
	atomic_uint next, threads;
};

static void *run_loop(void *argument)
{
	struct loop *loop = argument;
	uint32_t thread = atomic_fetch_add(&loop->threads, 1);

	/* The indices are all that is shared while it runs; create and join order the rest. */
	for (uint32_t index; (index = atomic_fetch_add(&loop->next, 1)) < loop->count;)
		loop->work(loop->context, index, thread);
	return NULL;
}

void measure_parallel(
	uint32_t count, void (*work)(void *context, uint32_t index, uint32_t thread), void *context)
{
	struct loop loop = { .work = work, .context = context, .count = count };
	uint32_t others = measure_processors() - 1, started = 0;
	pthread_t *threads = measure_alloc(others, sizeof(*threads));

	/* Where no thread can be had, those that there are do the work. */
	while (started < others && pthread_create(&threads[started], NULL, run_loop, &loop) == 0)
		started++;
	run_loop(&loop);
	for (uint32_t i = 0; i < started; i++)
		pthread_join(threads[i], NULL);
	free(threads);
}

enum { BAR_COLUMNS = 30 };

void measure_progress(uint64_t done, uint64_t total, const char *format, ...)
{
	int filled = total ? (int)(done * BAR_COLUMNS / total) : 0;
	char bar[BAR_COLUMNS + 1], text[128];
	va_list arguments;

	for (int i = 0; i < BAR_COLUMNS; i++)
		bar[i] = i < filled ? '#' : '.';
	bar[BAR_COLUMNS] = '\0';
	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	tool_progress("measuring [%s] %3d %%  %s", bar, total ? (int)(done * 100 / total) : 0, text);
}

void measure_progress_end(void)
{
	tool_progress(NULL);
}

/* ---- the command -------------------------------------------------------------------------------------- */

static const struct {
	const char *name;
	int (*run)(int argc, char **argv);
} kinds[] = {
	{ "attention", attnquant_measure_attention_command },
	{ "model", attnquant_measure_model_command },
};

enum { KINDS = sizeof(kinds) / sizeof(*kinds) };

static error_t parse(int key, char *value, struct argp_state *state)
{
	int *kind = state->input;

	switch (key) {
	case ARGP_KEY_ARG:
		for (int i = 0; i < KINDS; i++)
			if (strcmp(value, kinds[i].name) == 0)
				*kind = i;
		if (*kind < 0)
			argp_error(state, "nothing named '%s' can be measured", value);
		state->next = state->argc; /* the rest belongs to what is measured */
		return 0;
	case ARGP_KEY_NO_ARGS:
		argp_usage(state);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp measure_argp = {
	.parser = parse,
	.args_doc = "WHAT ...",
	.doc = "Measures what formats cost in quality, on the CPU of this machine.\v"
	       "What can be measured:\n"
	       "  attention        the KV formats against float64, on four kinds of input\n"
	       "  model            perplexity and divergence of a model under every KV and weight format\n"
	       "\n"
	       "Each explains itself: attnquant measure WHAT --help",
};

int attnquant_measure_command(int argc, char **argv)
{
	int kind = -1, first = 1;
	char *name;

	while (first < argc && argv[first][0] == '-')
		first++;
	tool_args_parse(&measure_argp, first < argc ? first + 1 : first, argv, &kind);
	if (asprintf(&name, "%s %s", argv[0], argv[first]) < 0)
		tool_die(TOOL_FAILED, "out of memory");
	argv[first] = name;
	return kinds[kind].run(argc - first, argv + first);
}
