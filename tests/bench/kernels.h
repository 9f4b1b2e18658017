/*
 * What the parts of bench_kernels share: the machine and its limits, a backend, the list of figures, and the clock.
 *
 * Main thread. Failures end the program with a message: a benchmark that goes on without a part of itself misleads.
 */
#ifndef KERNELS_H
#define KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/kern_backend.h"
#include "tests/bench/limits.h"

enum {
	KERNELS_THREADS = 2,
	KERNELS_SAMPLES = 5,
	KERNELS_ROWS_MAX = 1024,
	KERNELS_SECONDS = 170, /* afterwards kernels are left out, and that is said */
};

/* One figure. `peer` figures come from another program; their limit is 0 where there is none to quote. */
struct kernels_row {
	char name[64], shape[64], format[16], unit[16];
	uint32_t threads;
	double achieved, limit, amx_limit, spread; /* spread: of the times, (most - least) / median */
	double milliseconds;
};

/* What one run of something costs at least. The slower of the two is what limits it. */
struct kernels_cost {
	double bytes, operations;
	enum kernels_peak { KERNELS_F32, KERNELS_BF16, KERNELS_INT8 } peak;
};

struct kernels {
	struct limits_machine machine;
	struct limits limits[KERNELS_THREADS]; /* by one thread, by all cores */
	uint32_t thread_kinds;
	/* While one kind of threads is measured. */
	const struct limits *now;
	struct kern_backend *backend;
	bool quick; /* fewer shapes */
	struct kernels_row rows[KERNELS_ROWS_MAX];
	uint32_t row_count;
	uint32_t failed; /* checks */
	int64_t until_ns; /* kernels are measured until then */
	uint32_t left_out;
};

/* Submits and polls to the end. */
void kernels_run(struct kernels *kernels, const struct kern_work *work);

/* Whether there is time for another figure; counts those for which there is none. */
bool kernels_have_time(struct kernels *kernels);

/* A sample is everything that `run` does; cost is that of one sample. Prints the figure and keeps it. */
typedef void kernels_fn(struct kernels *kernels, void *context);
void kernels_measure(struct kernels *kernels, const struct kernels_row *about, const struct kernels_cost *cost,
	kernels_fn *run, void *context);

/* A kernel's result against the reference: relative root mean square error. Says so, and counts, when it is too large. */
void kernels_check(struct kernels *kernels, const char *what, const float *got, const double *wanted, size_t count,
	double error_max);

struct kernels_row *kernels_add(struct kernels *kernels, const struct kernels_row *row);
void kernels_print_heading(const char *heading);
/* Writes all figures. */
void kernels_write_json(const struct kernels *kernels, const char *path);

/* Numbers of N(0, 1). */
void kernels_normal(float *to, size_t count, uint64_t seed);
void *kernels_alloc(size_t bytes);

void kernels_products(struct kernels *kernels);
void kernels_attention(struct kernels *kernels);
/* Other programs on PATH, and ours beside them; model: a file, or NULL. */
void kernels_peers(struct kernels *kernels, const char *model, const char *tools);

#endif
