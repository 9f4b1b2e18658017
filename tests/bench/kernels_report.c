/*
 * Figures of bench_kernels: how they are taken, printed, kept and written. See kernels.h.
 */
#include <cjson/cJSON.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_clock.h"
#include "base/base_error.h"
#include "base/base_rand.h"
#include "tests/bench/kernels.h"

/* Samples go on until there are enough of them, and long enough in all; a slow kernel has no more than it needs. */
enum { SAMPLES_MAX = 64, LEAST_NS = 40000000 };

void *kernels_alloc(size_t bytes)
{
	void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);

	if (!memory) {
		fprintf(stderr, "bench_kernels: no memory for %zu bytes\n", bytes);
		exit(1);
	}
	return memory;
}

/* About normal: four uniform 16-bit numbers of one draw, less their mean. */
void kernels_normal(float *to, size_t count, uint64_t seed)
{
	for (size_t i = 0; i < count; i++) {
		uint64_t bits = base_rand_next(&seed);

		to[i] = ((float)(bits & 0xffff) + (float)(bits >> 16 & 0xffff) + (float)(bits >> 32 & 0xffff) +
			(float)(bits >> 48)) * (1.7320508f / 65536) - 2 * 1.7320508f;
	}
}

void kernels_run(struct kernels *kernels, const struct kern_work *work)
{
	const struct kern_backend_ops *ops = kernels->backend->ops;
	kern_ticket ticket;
	int rc = ops->submit(kernels->backend, work, &ticket);

	while (rc == 0)
		rc = ops->poll(kernels->backend, ticket);
	if (rc < 0) {
		fprintf(stderr, "bench_kernels: a work failed: %s\n", strerror(-rc));
		exit(1);
	}
}

void kernels_check(struct kernels *kernels, const char *what, const float *got, const double *wanted, size_t count,
	double error_max)
{
	double error = 0, power = 0;

	for (size_t i = 0; i < count; i++) {
		double difference = (double)got[i] - wanted[i];

		error += difference * difference;
		power += wanted[i] * wanted[i];
	}
	error = sqrt(error / power);
	if (error <= error_max)
		return;
	kernels->failed++;
	printf("  WRONG: %s: relative error %.2g, at most %.2g\n", what, error, error_max);
}

bool kernels_have_time(struct kernels *kernels)
{
	if (base_monotonic_ns() < kernels->until_ns)
		return true;
	kernels->left_out++;
	return false;
}

/* ---- one figure -------------------------------------------------------------------------------------------------- */

typedef uint64_t loop_fn(uint64_t rounds);

/* The vector loop that is the peak. Some processors multiply bf16 slower than f32, which it can be widened to. */
static loop_fn *peak_of(const struct kernels *kernels, enum kernels_peak peak, double *rate)
{
	const struct limits_loops *loops = kernels->machine.loops;
	const struct limits *limits = kernels->now;
	double narrow = peak == KERNELS_INT8 ? limits->int8 : peak == KERNELS_BF16 ? limits->bf16 : 0;

	*rate = narrow > limits->f32 ? narrow : limits->f32;
	if (narrow <= limits->f32)
		return loops->f32;
	return peak == KERNELS_INT8 ? loops->int8 : loops->bf16;
}

/* Quoted beside; 0 on machines without. */
static double amx_of(const struct limits *limits, enum kernels_peak peak)
{
	return peak == KERNELS_INT8 ? limits->int8_amx : peak == KERNELS_BF16 ? limits->bf16_amx : 0;
}

struct times {
	double median, spread; /* seconds; (most - least) / median */
};

static struct times take_times(struct kernels *kernels, kernels_fn *run, void *context)
{
	double seconds[SAMPLES_MAX];
	int64_t sum_ns = 0;
	uint32_t count = 0;
	struct times times;

	run(kernels, context);
	while (count < KERNELS_SAMPLES || (count < SAMPLES_MAX && sum_ns < LEAST_NS)) {
		int64_t begin_ns = base_monotonic_ns();

		run(kernels, context);
		begin_ns = base_monotonic_ns() - begin_ns;
		sum_ns += begin_ns;
		seconds[count++] = (double)begin_ns * 1e-9;
	}
	times.median = limits_median(seconds, count);
	times.spread = (seconds[count - 1] - seconds[0]) / times.median;
	return times;
}

/* The limit as it is now: the machine may be slower or faster than at the start. */
static double limit_now(const struct kernels *kernels, loop_fn *loop)
{
	uint32_t threads = kernels->now->threads;

	return loop ? limits_arithmetic(&kernels->machine, threads, loop) : limits_stream(&kernels->machine, threads);
}

/* The limit is measured just before and just after. */
void kernels_measure(struct kernels *kernels, const struct kernels_row *about, const struct kernels_cost *cost,
	kernels_fn *run, void *context)
{
	const struct limits *limits = kernels->now;
	struct kernels_row row = *about;
	double peak;
	loop_fn *loop = peak_of(kernels, cost->peak, &peak);
	bool by_memory = cost->bytes / limits->stream > cost->operations / peak;
	struct times times;

	if (by_memory)
		loop = NULL;
	row.limit = limit_now(kernels, loop);
	times = take_times(kernels, run, context);
	row.limit = (row.limit + limit_now(kernels, loop)) / 2;
	row.threads = limits->threads;
	row.achieved = (by_memory ? cost->bytes : cost->operations) / times.median;
	row.amx_limit = by_memory ? 0 : amx_of(limits, cost->peak);
	row.spread = times.spread;
	row.milliseconds = times.median * 1e3;
	snprintf(row.unit, sizeof(row.unit), "%s", by_memory ? "B/s" : "op/s");
	kernels_add(kernels, &row);
}

/* ---- the list ---------------------------------------------------------------------------------------------------- */

void kernels_print_heading(const char *heading)
{
	printf("\n%s\n", heading);
}

/* "12.3 GB/s", "1.20 Top/s", "38.1 tokens/s" */
static void print_rate(double value, const char *unit)
{
	static const char *const prefixes[] = { "", "k", "M", "G", "T" };
	int prefix = 0;

	if (strcmp(unit, "tokens/s") != 0)
		for (; prefix < 4 && value >= 1000; prefix++)
			value /= 1000;
	printf("%8.2f %s%-*s", value, prefixes[prefix], 5 - (prefix > 0), unit);
}

struct kernels_row *kernels_add(struct kernels *kernels, const struct kernels_row *row)
{
	struct kernels_row *kept = &kernels->rows[kernels->row_count];

	if (kernels->row_count == KERNELS_ROWS_MAX)
		return NULL;
	kernels->row_count++;
	*kept = *row;
	printf("  %-22s %-26s %-7s %2u thread%s ", row->name, row->shape, row->format, row->threads,
		row->threads == 1 ? " " : "s");
	print_rate(row->achieved, row->unit);
	if (row->limit > 0) {
		printf("  %5.1f %% of ", 100 * row->achieved / row->limit);
		print_rate(row->limit, row->unit);
	}
	if (row->amx_limit > 0)
		printf(" (%.1f %% of AMX)", 100 * row->achieved / row->amx_limit);
	if (row->milliseconds > 0)
		printf("  %9.3f ms +- %.0f %%", row->milliseconds, 50 * row->spread);
	printf("\n");
	fflush(stdout);
	return kept;
}

static void add_number(cJSON *object, const char *name, double value)
{
	char text[32];

	snprintf(text, sizeof(text), "%.6g", value);
	cJSON_AddRawToObject(object, name, text);
}

void kernels_write_json(const struct kernels *kernels, const char *path)
{
	cJSON *list = cJSON_CreateArray();
	FILE *file = fopen(path, "we");
	char *text;

	for (uint32_t i = 0; i < kernels->row_count; i++) {
		const struct kernels_row *row = &kernels->rows[i];
		cJSON *object = cJSON_CreateObject();

		cJSON_AddStringToObject(object, "name", row->name);
		cJSON_AddStringToObject(object, "shape", row->shape);
		cJSON_AddStringToObject(object, "format", row->format);
		add_number(object, "threads", row->threads);
		add_number(object, "achieved", row->achieved);
		add_number(object, "limit", row->limit);
		cJSON_AddStringToObject(object, "unit", row->unit);
		add_number(object, "fraction", row->limit > 0 ? row->achieved / row->limit : 0);
		if (row->amx_limit > 0) {
			add_number(object, "amx_limit", row->amx_limit);
			add_number(object, "amx_fraction", row->achieved / row->amx_limit);
		}
		add_number(object, "spread", row->spread);
		add_number(object, "milliseconds", row->milliseconds);
		cJSON_AddItemToArray(list, object);
	}
	text = cJSON_Print(list);
	if (!file || !text || fprintf(file, "%s\n", text) < 0 || fclose(file) != 0) {
		fprintf(stderr, "bench_kernels: cannot write %s\n", path);
		exit(1);
	}
	free(text);
	cJSON_Delete(list);
}
