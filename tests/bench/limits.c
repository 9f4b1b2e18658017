/*
 * The machine's limits: threads, memory, and the choice of the best distance. See limits.h.
 */
#include "tests/bench/limits.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/base_clock.h"
#include "base/base_cpu.h"
#include "base/base_error.h"
#include "base/base_topo.h"

volatile float limits_sink;

enum { ROUNDS = 1 << 14, SPAN_NS = 15000000, TRIES = 3 };

static const struct limits_reading ways[] = {
	{ 1, 0 }, { 1, 1024 }, { 1, 4096 }, { 1, 16384 }, { 4, 0 }, { 4, 1024 }, { 8, 0 }, { 8, 512 }, { 8, 1024 }, { 8, 4096 },
};

/* Parts are whole steps of all runs, in pages of their own. */
enum { WAYS = sizeof(ways) / sizeof(*ways), PART_BYTES = 8 * 4096 };

/* What all threads of one measurement do: arithmetic, or read a part of memory, once or over and over. */
struct job {
	const struct limits_machine *machine;
	uint64_t (*arithmetic)(uint64_t rounds);
	size_t bytes; /* of each thread */
	bool once;
	uint32_t threads;
	_Atomic uint32_t ready;
	_Atomic uint64_t sink; /* results go here, so that nothing is left out */
};

struct worker {
	struct job *job;
	uint32_t index;
	pthread_t thread;
	double done; /* bytes or operations */
	int64_t begin_ns, end_ns;
};

static void fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, base_error_message());
	exit(1);
}

/* ---- threads --------------------------------------------------------------------------------------------------- */

static void pin(uint32_t cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	(void)sched_setaffinity(0, sizeof(set), &set);
}

static double one_round(struct worker *worker)
{
	struct job *job = worker->job;
	const struct limits_machine *machine = job->machine;

	if (job->arithmetic)
		return (double)job->arithmetic(ROUNDS);
	atomic_fetch_add_explicit(&job->sink,
		machine->loops->read(machine->memory + worker->index * job->bytes, job->bytes, machine->reading),
		memory_order_relaxed);
	return (double)job->bytes;
}

static void *work(void *argument)
{
	struct worker *worker = argument;
	struct job *job = worker->job;

	pin(job->machine->cpus[worker->index % job->machine->cpu_count]);
	/* Caches and clocks warm up before the start. */
	if (!job->once)
		(void)one_round(worker);
	atomic_fetch_add(&job->ready, 1);
	while (atomic_load(&job->ready) < job->threads)
		;
	worker->begin_ns = base_monotonic_ns();
	do {
		worker->done += one_round(worker);
		worker->end_ns = base_monotonic_ns();
	} while (!job->once && worker->end_ns - worker->begin_ns < SPAN_NS);
	return NULL;
}

/* What all threads did per second, from the first one's begin to the last one's end. */
static double run(struct job *job)
{
	static struct worker workers[LIMITS_CPUS_MAX];
	int64_t begin_ns = INT64_MAX, end_ns = 0;
	double done = 0;

	atomic_store(&job->ready, 0);
	for (uint32_t i = 0; i < job->threads; i++) {
		workers[i] = (struct worker){ .job = job, .index = i };
		if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0) {
			base_fail(EAGAIN, "no thread %u", i);
			fail("limits");
		}
	}
	for (uint32_t i = 0; i < job->threads; i++) {
		pthread_join(workers[i].thread, NULL);
		begin_ns = workers[i].begin_ns < begin_ns ? workers[i].begin_ns : begin_ns;
		end_ns = workers[i].end_ns > end_ns ? workers[i].end_ns : end_ns;
		done += workers[i].done;
	}
	return done * 1e9 / (double)(end_ns - begin_ns);
}

static int by_value(const void *a, const void *b)
{
	double left = *(const double *)a, right = *(const double *)b;

	return (left > right) - (left < right);
}

double limits_median(double *values, uint32_t count)
{
	qsort(values, count, sizeof(*values), by_value);
	return (values[(count - 1) / 2] + values[count / 2]) / 2;
}

static double median_of(struct job *job)
{
	double rates[LIMITS_SAMPLES];

	for (int i = 0; i < LIMITS_SAMPLES; i++)
		rates[i] = run(job);
	return limits_median(rates, LIMITS_SAMPLES);
}

/* ---- what is measured ------------------------------------------------------------------------------------------- */

static double arithmetic(const struct limits_machine *machine, uint32_t threads, uint64_t (*loop)(uint64_t rounds))
{
	struct job job = { .machine = machine, .threads = threads, .arithmetic = loop };

	return loop ? median_of(&job) : 0;
}

double limits_stream(const struct limits_machine *machine, uint32_t threads)
{
	struct job job = { .machine = machine, .threads = threads, .once = true };

	job.bytes = LIMITS_MEMORY_BYTES / threads / PART_BYTES * PART_BYTES;
	return run(&job);
}

double limits_arithmetic(const struct limits_machine *machine, uint32_t threads, uint64_t (*loop)(uint64_t rounds))
{
	struct job job = { .machine = machine, .threads = threads, .arithmetic = loop };

	return run(&job);
}

/* The best way differs by a factor of two from the worst on some machines, so all of them are tried, in turns. */
static double stream(struct limits_machine *machine, uint32_t threads)
{
	double best = 0, rates[LIMITS_SAMPLES];
	struct limits_reading best_way = ways[0];

	for (int i = 0; i < TRIES * WAYS; i++) {
		double rate;

		machine->reading = ways[i % WAYS];
		rate = limits_stream(machine, threads);
		if (rate > best) {
			best = rate;
			best_way = machine->reading;
		}
	}
	machine->reading = best_way;
	for (int i = 0; i < LIMITS_SAMPLES; i++)
		rates[i] = limits_stream(machine, threads);
	return limits_median(rates, LIMITS_SAMPLES);
}

/* A cache by reading over and over what fits into it, and not into the one before. */
static double cache(struct limits_machine *machine, uint32_t threads, size_t bytes)
{
	struct job job = { .machine = machine, .threads = threads, .bytes = bytes / PART_BYTES * PART_BYTES };
	const struct limits_reading reading = machine->reading;
	double plain, ahead;

	if (job.bytes == 0 || job.bytes * threads > LIMITS_MEMORY_BYTES)
		return 0;
	machine->reading = (struct limits_reading){ .runs = 1, .ahead = 0 };
	plain = median_of(&job);
	machine->reading.ahead = 1024;
	ahead = median_of(&job);
	machine->reading = reading;
	return plain > ahead ? plain : ahead;
}

void limits_measure(struct limits_machine *machine, uint32_t threads, struct limits *limits)
{
	const struct limits_loops *loops = machine->loops;
	/* Between the private cache and a thread's share of the last one. */
	size_t share = machine->l3_bytes / threads / 2, inside_l3 = 4 * machine->l2_bytes;

	*limits = (struct limits){ .threads = threads, .int8_name = loops->int8_name, .bf16_name = loops->bf16_name };
	limits->stream = stream(machine, threads);
	limits->l2 = cache(machine, threads, machine->l2_bytes / 2);
	limits->l3 = cache(machine, threads, inside_l3 < share ? inside_l3 : 0);
	limits->f32 = arithmetic(machine, threads, loops->f32);
	limits->int8 = arithmetic(machine, threads, loops->int8);
	limits->bf16 = arithmetic(machine, threads, loops->bf16);
	if (machine->amx) {
		limits->int8_amx = arithmetic(machine, threads, base_cpu()->amx_int8 ? limits_amx_int8 : NULL);
		limits->bf16_amx = arithmetic(machine, threads, base_cpu()->amx_bf16 ? limits_amx_bf16 : NULL);
	}
}

/* ---- the machine ------------------------------------------------------------------------------------------------ */

static const struct limits_loops *choose(void)
{
	static struct limits_loops chosen;
	const struct base_cpu *cpu = base_cpu();

	chosen = cpu->isa == BASE_ISA_SCALAR ? limits_scalar : cpu->isa == BASE_ISA_AVX2 ? limits_avx2 : limits_avx512;
	if (cpu->isa == BASE_ISA_AVX512 && !cpu->avx512_vnni) {
		chosen.int8 = limits_avx2.int8;
		chosen.int8_name = limits_avx2.int8_name;
	}
	if (cpu->isa == BASE_ISA_AVX512 && !cpu->avx512_bf16) {
		chosen.bf16 = NULL;
		chosen.bf16_name = NULL;
	}
	return &chosen;
}

void limits_open(struct limits_machine *machine)
{
	struct base_topo *topo = malloc(sizeof(*topo));
	const struct base_cpu *cpu = base_cpu();

	*machine = (struct limits_machine){ .loops = choose() };
	if (!topo || base_topo_read(topo) < 0)
		fail("topology");
	for (uint32_t i = 0; i < topo->core_count && i < LIMITS_CPUS_MAX; i++)
		machine->cpus[machine->cpu_count++] = topo->pus[topo->cores[i].first_pu];
	machine->l2_bytes = topo->l2_bytes;
	machine->l3_bytes = topo->l3_bytes;
	free(topo);
	machine->memory = mmap(NULL, LIMITS_MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (machine->memory == MAP_FAILED) {
		base_fail(ENOMEM, "no gigabyte of memory to read");
		fail("limits");
	}
	(void)madvise(machine->memory, LIMITS_MEMORY_BYTES, MADV_HUGEPAGE);
	memset(machine->memory, 1, LIMITS_MEMORY_BYTES);
	machine->amx = (cpu->amx_int8 || cpu->amx_bf16) && limits_amx_prepare() == 0;
}

void limits_close(struct limits_machine *machine)
{
	munmap(machine->memory, LIMITS_MEMORY_BYTES);
}

/* ---- any processor ---------------------------------------------------------------------------------------------- */

static uint64_t read_scalar(const void *memory, size_t bytes, struct limits_reading how)
{
	const size_t run = bytes / how.runs;
	uint64_t sum = 0;

	for (size_t done = 0; done < run; done += LIMITS_STEP)
		for (uint32_t r = 0; r < how.runs; r++) {
			const char *at = (const char *)memory + r * run + done;
			const uint64_t *words = (const uint64_t *)(const void *)at;

			for (size_t line = 0; how.ahead > 0 && line < LIMITS_STEP; line += 64)
				__builtin_prefetch(at + how.ahead + line);
			for (size_t i = 0; i < LIMITS_STEP / sizeof(*words); i += 4)
				sum ^= words[i] ^ words[i + 1] ^ words[i + 2] ^ words[i + 3];
		}
	return sum;
}

enum { CHAINS = 8 };

static uint64_t f32_scalar(uint64_t rounds)
{
	float sums[CHAINS] = { 0 }, factor = 0.999f;

	for (uint64_t i = 0; i < rounds; i++)
#pragma GCC unroll 32
		for (int j = 0; j < CHAINS; j++)
			sums[j] = sums[j] * factor + 1.0f;
#pragma GCC unroll 32
	for (int j = 0; j < CHAINS; j++)
		limits_sink += sums[j];
	return rounds * CHAINS * 2;
}

static uint64_t int8_scalar(uint64_t rounds)
{
	int32_t sums[CHAINS] = { 0 };
	volatile int8_t factor = 3;

	for (uint64_t i = 0; i < rounds; i++) {
		int8_t value = factor;

#pragma GCC unroll 32
		for (int j = 0; j < CHAINS; j++)
			sums[j] += value * (int8_t)(i + (uint64_t)j);
	}
#pragma GCC unroll 32
	for (int j = 0; j < CHAINS; j++)
		limits_sink += (float)sums[j];
	return rounds * CHAINS * 2;
}

const struct limits_loops limits_scalar = {
	.name = "scalar", .read = read_scalar, .f32 = f32_scalar, .int8 = int8_scalar, .int8_name = "multiply and add"
};
