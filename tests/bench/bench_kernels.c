/*
 * Time limit: 300 s
 *
 * Every kernel's fraction of what this machine can do: first the limits (reading memory and caches, peaks of arithmetic),
 * then matrix products and attention through the backend's table, each held against float64 before it is timed, then
 * other programs beside, where they are on PATH.
 *
 *   bench_kernels [--quick] [--json FILE] [limits|products|attention|peers]...
 *
 * MODEL=FILE.gguf: whole models beside llama-bench. One thread and all cores; medians. Exit 1 when a result is wrong.
 */
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_clock.h"
#include "base/base_cpu.h"
#include "base/base_error.h"
#include "tests/bench/kernels.h"

enum part { LIMITS, PRODUCTS, ATTENTION, PEERS, PARTS };

static const char *const part_names[PARTS] = { "limits", "products", "attention", "peers" };

/* ---- limits ------------------------------------------------------------------------------------------------------ */

static void add_limit(struct kernels *kernels, const struct limits *limits, const char *name, const char *shape,
	double rate, const char *unit)
{
	struct kernels_row row = { .threads = limits->threads, .achieved = rate };

	if (rate <= 0)
		return;
	snprintf(row.name, sizeof(row.name), "limit:%s", name);
	snprintf(row.shape, sizeof(row.shape), "%s", shape);
	snprintf(row.unit, sizeof(row.unit), "%s", unit);
	kernels_add(kernels, &row);
}

static void measure_limits(struct kernels *kernels)
{
	struct limits_machine *machine = &kernels->machine;
	char how[64];

	kernels_print_heading("What this machine can do");
	for (uint32_t i = 0; i < kernels->thread_kinds; i++) {
		struct limits *limits = &kernels->limits[i];

		limits_measure(machine, i == 0 ? 1 : machine->cpu_count, limits);
		snprintf(how, sizeof(how), "1 GiB, %u runs, %zu B ahead", machine->reading.runs, machine->reading.ahead);
		add_limit(kernels, limits, "memory", how, limits->stream, "B/s");
		add_limit(kernels, limits, "L3", "", limits->l3, "B/s");
		add_limit(kernels, limits, "L2", "", limits->l2, "B/s");
		add_limit(kernels, limits, "int8", limits->int8_name ? limits->int8_name : "", limits->int8, "op/s");
		add_limit(kernels, limits, "int8 AMX", "tdpbssd", limits->int8_amx, "op/s");
		add_limit(kernels, limits, "bf16", limits->bf16_name ? limits->bf16_name : "", limits->bf16, "op/s");
		add_limit(kernels, limits, "bf16 AMX", "tdpbf16ps", limits->bf16_amx, "op/s");
		add_limit(kernels, limits, "f32", "multiply and add", limits->f32, "op/s");
	}
}

/* ---- kernels ----------------------------------------------------------------------------------------------------- */

/* The owner computes on the last core, as the daemon's scheduler does; workers on the others. */
static void open_backend(struct kernels *kernels, const struct limits *limits)
{
	const struct limits_machine *machine = &kernels->machine;
	const struct kern_cpu_options options = { .struct_bytes = sizeof(options), .workers = limits->threads - 1,
		.worker_pus = machine->cpus, .node = -1, .spin_us = 200 };
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(machine->cpus[machine->cpu_count - 1], &set);
	(void)sched_setaffinity(0, sizeof(set), &set);
	kernels->now = limits;
	if (kern_cpu_create(&kernels->backend, &options) != 0) {
		fprintf(stderr, "bench_kernels: %s\n", base_error_message());
		exit(1);
	}
}

/* All cores first: that is what time must be left for. */
static void measure_kernels(struct kernels *kernels, const bool *wanted)
{
	char heading[128];

	kernels->until_ns = base_monotonic_ns() + KERNELS_SECONDS * INT64_C(1000000000);
	for (uint32_t i = kernels->thread_kinds; i-- > 0;) {
		if (!wanted[PRODUCTS] && !wanted[ATTENTION])
			return;
		open_backend(kernels, &kernels->limits[i]);
		snprintf(heading, sizeof(heading), "Kernels, %s, %u thread%s", kernels->backend->properties.name,
			kernels->now->threads, kernels->now->threads == 1 ? "" : "s");
		kernels_print_heading(heading);
		if (wanted[ATTENTION])
			kernels_attention(kernels);
		if (wanted[PRODUCTS])
			kernels_products(kernels);
		kernels->backend->ops->destroy(kernels->backend);
	}
	if (kernels->left_out > 0)
		printf("  %u formats were left out after %d s; name a part, or give --quick\n", kernels->left_out,
			KERNELS_SECONDS);
}

/* ---- the command line -------------------------------------------------------------------------------------------- */

static int usage(const char *program)
{
	fprintf(stderr, "usage: %s [--quick] [--json FILE] [limits|products|attention|peers]...\n", program);
	return 2;
}

static bool parse_part(const char *word, bool *wanted)
{
	for (int i = 0; i < PARTS; i++)
		if (strcmp(word, part_names[i]) == 0)
			return wanted[i] = true;
	return false;
}

/* The programs are two folders above this one. */
static void tools_folder(char *folder, size_t room, const char *program)
{
	const char *slash = strrchr(program, '/');

	snprintf(folder, room, "%.*s/../..", slash ? (int)(slash - program) : 1, slash ? program : ".");
}

int main(int argc, char **argv)
{
	static struct kernels kernels;
	const char *json = NULL, *model = getenv("MODEL");
	bool wanted[PARTS] = { false }, any = false;
	char folder[PATH_MAX];
	cpu_set_t all;

	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--quick") == 0)
			kernels.quick = true;
		else if (strcmp(argv[i], "--json") == 0 && i + 1 < argc)
			json = argv[++i];
		else if (parse_part(argv[i], wanted))
			any = true;
		else
			return usage(argv[0]);
	}
	for (int i = 0; i < PARTS && !any; i++)
		wanted[i] = true;
	sched_getaffinity(0, sizeof(all), &all);
	limits_open(&kernels.machine);
	kernels.thread_kinds = kernels.machine.cpu_count > 1 ? 2 : 1;
	printf("%s, %u cores, %s\n", base_cpu()->brand, kernels.machine.cpu_count, base_isa_name(base_cpu()->isa));
	measure_limits(&kernels);
	measure_kernels(&kernels, wanted);
	limits_close(&kernels.machine);
	(void)sched_setaffinity(0, sizeof(all), &all); /* what is started now inherits it */
	tools_folder(folder, sizeof(folder), argv[0]);
	if (wanted[PEERS])
		kernels_peers(&kernels, model && *model ? model : NULL, folder);
	if (json)
		kernels_write_json(&kernels, json);
	return kernels.failed > 0;
}
