/*
 * The CPU backend as others see it: creation, destruction, the table of functions, and the measured rates. Control
 * thread; afterwards everything belongs to the owner.
 */
#include "kernels/cpu/cpu_backend.h"

#include <string.h>

#include "base/base_clock.h"
#include "base/base_error.h"

/* First guesses per participant, where nothing is measured. */
static const double products_per_second[] = {4e9, 30e9, 60e9}, integer_products_per_second[] = {6e9, 60e9, 250e9};
static const double bytes_per_second = 12e9;

static int register_nothing(struct kern_backend *backend, void *memory, size_t bytes)
{
	(void)backend;
	(void)memory;
	(void)bytes;
	return 0;
}

static void unregister_nothing(struct kern_backend *backend, void *memory)
{
	(void)backend;
	(void)memory;
}

static void cpu_destroy(struct kern_backend *backend)
{
	struct kern_cpu *cpu = cpu_of(backend);
	struct base_region region = {.memory = cpu, .size_bytes = cpu->region_bytes, .huge = cpu->region_huge};

	/* What is still in flight ends first: its memory may go away after this call. */
	while (cpu->collected < cpu->submitted)
		(void)cpu_poll(backend, cpu->collected + 1);
	cpu_workers_stop(cpu);
	for (uint32_t i = 0; cpu->participants && i <= cpu->worker_count; i++)
		cpu_free(backend, cpu->participants[i].scratch);
	cpu_free(backend, cpu->participants);
	if (cpu->batch)
		cpu_free(backend, cpu->batch->partial);
	cpu_free(backend, cpu->batch);
	cpu_free(backend, cpu->attend_jobs);
	cpu_free(backend, cpu->attend_first_unit);
	base_region_destroy(&region);
}

static const struct kern_backend_ops cpu_ops = {
	.alloc = cpu_alloc,
	.free = cpu_free,
	.memory_visit = cpu_memory_visit,
	.register_memory = register_nothing,
	.unregister_memory = unregister_nothing,
	.weight_create = cpu_weight_create,
	.weight_destroy = cpu_weight_destroy,
	.program_prepare = cpu_program_prepare,
	.program_release = cpu_program_release,
	.submit = cpu_submit,
	.poll = cpu_poll,
	.destroy = cpu_destroy,
};

/* ---- measuring ---------------------------------------------------------------------------------------------------- */

/* Seconds of the best of a few runs of a program's step. */
static double best_seconds(struct kern_backend *backend, const struct kern_program *program, uint32_t rows)
{
	const struct kern_work work = {.kind = KERN_WORK_STEP, .step = {.program = program, .rows = rows}};
	double best = 1e9;

	for (int i = 0; i < 3; i++) {
		int64_t start_ns = base_monotonic_ns();
		kern_ticket ticket;
		double seconds;

		if (cpu_submit(backend, &work, &ticket) != 0)
			return best;
		while (cpu_poll(backend, ticket) == 0)
			;
		seconds = (double)(base_monotonic_ns() - start_ns) * 1e-9;
		best = seconds > 0.0 && seconds < best ? seconds : best;
	}
	return best;
}

/* Products of one type by one row (reading weights) and by many (computing), with all participants, in seconds. */
static int measure_type(struct kern_cpu *cpu, enum kern_type type, uint32_t width, uint32_t rows, double *one, double *many)
{
	struct kern_backend *backend = &cpu->backend;
	struct kern_op op = {.kind = KERN_OP_MATMUL, .src = 0, .dst = 1};
	struct kern_program program = {.op_count = 1, .slot_count = 2, .ops = &op, .slot_width = {width, width},
		.max_rows = rows};
	struct kern_weight *weight = NULL;
	void *source = cpu_alloc(backend, kern_row_bytes(type, width) * width, "a measurement");
	int err = source ? cpu_weight_create(backend, type, width, width, source, &weight) : -ENOMEM;

	op.weight = weight;
	cpu_free(backend, source);
	if (err == 0)
		err = cpu_program_prepare(backend, &program);
	if (err == 0) {
		*one = best_seconds(backend, &program, 1);
		*many = best_seconds(backend, &program, rows);
		cpu_program_release(backend, &program);
	}
	cpu_weight_destroy(backend, weight);
	return err;
}

static int measure(struct kern_cpu *cpu)
{
	enum { WIDTH = 2048, ROWS = 48 };
	const uint32_t participants = cpu->worker_count + 1;
	const double products = (double)ROWS * WIDTH * WIDTH;
	double read, floats, integers, unused;
	int err = measure_type(cpu, KERN_F32, WIDTH, ROWS, &read, &floats);

	if (err == 0)
		err = measure_type(cpu, KERN_Q8_0, WIDTH, ROWS, &unused, &integers);
	if (err != 0)
		return err;
	cpu->backend.properties.bytes_per_second = (double)WIDTH * WIDTH * sizeof(float) / read;
	cpu->backend.properties.products_per_second = products / floats;
	cpu->backend.properties.integer_products_per_second = products / integers;
	cpu->ns_per_byte = 1e9 * participants / cpu->backend.properties.bytes_per_second;
	cpu->ns_per_product = 1e9 * participants * floats / products;
	cpu->ns_per_integer_product = 1e9 * participants * integers / products;
	return 0;
}

/* ---- creation ----------------------------------------------------------------------------------------------------- */

static const char *const names[] = {"cpu scalar", "cpu avx2", "cpu avx512"};

static int take_memory(struct kern_cpu *cpu)
{
	struct kern_backend *backend = &cpu->backend;
	const size_t sizes[] = {cpu->float_products->scratch_bytes, cpu->integer_products->scratch_bytes,
		cpu_attention_scratch_bytes()};
	size_t scratch_bytes = 0;
	const uint32_t participants = cpu->worker_count + 1;

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		scratch_bytes = sizes[i] > scratch_bytes ? sizes[i] : scratch_bytes;
	cpu->participants = cpu_alloc(backend, participants * sizeof(*cpu->participants), "participants");
	cpu->attend_jobs = cpu_alloc(backend, KERN_ATTEND_MAX * sizeof(*cpu->attend_jobs), "attention jobs");
	cpu->attend_first_unit = cpu_alloc(backend, (KERN_ATTEND_MAX + 1) * sizeof(uint32_t), "attention jobs");
	cpu->batch = cpu_alloc(backend, sizeof(*cpu->batch), "attention that runs together");
	if (!cpu->participants || !cpu->attend_jobs || !cpu->attend_first_unit || !cpu->batch)
		return -ENOMEM;
	cpu->batch->participants = participants;
	cpu->batch->partial_bytes = CPU_PARTIAL_BYTES;
	cpu->batch->partial = cpu_alloc(backend, CPU_PARTIAL_BYTES, "partial results of attention");
	if (!cpu->batch->partial)
		return -ENOMEM;
	for (uint32_t i = 0; i < participants; i++) {
		cpu->participants[i].cpu = cpu;
		cpu->participants[i].share = i % cpu->share_count;
		cpu->participants[i].scratch = cpu_alloc(backend, scratch_bytes, "scratch of a participant");
		if (!cpu->participants[i].scratch)
			return -ENOMEM;
	}
	return 0;
}

int kern_cpu_create(struct kern_backend **backend, const struct kern_cpu_options *options)
{
	const enum base_isa isa = base_cpu()->isa;
	struct base_region region;
	struct kern_cpu *cpu;
	int err;

	*backend = NULL;
	if (options->struct_bytes != sizeof(*options))
		return base_fail(EINVAL, "options of the CPU backend have %zu bytes, %zu are expected",
			options->struct_bytes, sizeof(*options));
	if (options->workers > CPU_WORKERS_MAX)
		return base_fail(EINVAL, "%u compute workers are asked for: %d are possible", options->workers,
			CPU_WORKERS_MAX);
	err = base_region_create(&region, sizeof(*cpu), options->node, true);
	if (err != 0)
		return err;

	cpu = region.memory;
	cpu->region_bytes = region.size_bytes;
	cpu->region_huge = region.huge;
	cpu->float_products = cpu_products_float(isa);
	cpu->integer_products = cpu_products_integer(isa);
	cpu->row_ops = cpu_rows_for(isa);
	cpu->isa = isa;
	cpu->amx = isa == BASE_ISA_AVX512 && cpu_products_amx() != NULL;
	cpu->worker_count = options->workers;
	cpu->share_count = options->workers < CPU_SHARES ? options->workers + 1 : CPU_SHARES;
	cpu->spin_ns = (uint64_t)options->spin_us * 1000;
	cpu->node = options->node;
	cpu->ns_per_byte = 1e9 / bytes_per_second;
	cpu->ns_per_product = 1e9 / products_per_second[isa];
	cpu->ns_per_integer_product = 1e9 / integer_products_per_second[isa];
	cpu->backend.ops = &cpu_ops;
	cpu->backend.properties = (struct kern_properties){
		.name = names[isa],
		.workers = options->workers,
		.host_memory = true,
		.bytes_per_second = bytes_per_second * (options->workers + 1),
		.products_per_second = products_per_second[isa] * (options->workers + 1),
		.integer_products_per_second = integer_products_per_second[isa] * (options->workers + 1),
	};
	err = take_memory(cpu);
	if (err == 0)
		err = cpu_workers_start(cpu, options);
	if (err == 0 && options->measure)
		err = measure(cpu);
	if (err != 0) {
		cpu_destroy(&cpu->backend);
		return err;
	}
	*backend = &cpu->backend;
	return 0;
}
