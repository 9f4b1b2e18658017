/*
 * The modelled device: shapes, machines, and time. See attnsim_device.h.
 */
#include "tools/attnsim_device.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/base_assert.h"
#include "base/base_rand.h"

enum { DEPTH = 4, VOCAB = 64 };

_Static_assert((int)ATTNSIM_TENANTS_MAX <= (int)VOCAB, "a token is the number of its tenant");

/* ---- what there is ---------------------------------------------------------------------------- */

const struct attnsim_model attnsim_models[] = {
	{ "135m", "SmolLM2-135M", 134515008, 30, 9, 3, 64, 49152, 576, true },
	{ "1.1b", "TinyLlama-1.1B", 1100048384, 22, 32, 4, 64, 32000, 2048, false },
	{ "8b", "Llama-3.1-8B", 8030261248, 32, 32, 8, 128, 128256, 4096, false },
	{ 0 },
};

/* What kernels reach of the limits, rather than the limits: four fifths of an H100's 3.35 TB/s, a third of its 1,979 TOPS
 * in 8 bits; the cores' figures are those of docs/BENCHMARKS.md for one and two cores. */
const struct attnsim_machine attnsim_machines[] = {
	{ "cpu2", "two cores with VNNI", 1, 18e9, 1.0e12, 20000, UINT64_C(8) << 30, 128 },
	{ "cpu16", "sixteen cores with VNNI", 1, 130e9, 7.5e12, 30000, UINT64_C(64) << 30, 256 },
	{ "gpu", "one H100", 1, 2.7e12, 0.65e15, 150000, UINT64_C(80) << 30, 512 },
	{ "gpu8", "eight H100", 8, 2.7e12, 0.65e15, 150000, UINT64_C(80) << 30, 512 },
	{ 0 },
};

const struct attnsim_model *attnsim_model_find(const char *name)
{
	for (const struct attnsim_model *model = attnsim_models; model->name; model++)
		if (strcmp(model->name, name) == 0)
			return model;
	return NULL;
}

const struct attnsim_machine *attnsim_machine_find(const char *name)
{
	for (const struct attnsim_machine *machine = attnsim_machines; machine->name; machine++)
		if (strcmp(machine->name, name) == 0)
			return machine;
	return NULL;
}

static uint64_t output_weights(const struct attnsim_model *model)
{
	return (uint64_t)model->vocab * model->width;
}

uint64_t attnsim_weight_bytes(const struct attnsim_model *model)
{
	/* Of an embedding that is no output matrix only single rows are read. */
	uint64_t read = model->parameters - (model->tied ? 0 : output_weights(model));

	return read / 32 * 34;
}

uint64_t attnsim_row_weights(const struct attnsim_model *model)
{
	return model->parameters - output_weights(model) * (model->tied ? 1 : 2);
}

void attnsim_program(struct kern_program *program, const struct attnsim_model *model, enum kern_kv kv,
	uint32_t max_rows, uint32_t max_outs)
{
	*program = (struct kern_program){
		.vocab = VOCAB,
		.width = (uint32_t)(output_weights(model) / VOCAB),
		.kv = { .layers = model->layers,
			.heads = model->heads,
			.kv_heads = model->kv_heads,
			.head_dim = model->head_dim,
			.k = kv,
			.v = kv },
		.rope_magnitude = 1.0f,
		.max_rows = max_rows,
		.max_out_rows = max_outs,
	};
	BASE_ASSERT(kern_kv_init(&program->kv) == 0);
}

/* ---- time ------------------------------------------------------------------------------------- */

int64_t attnsim_step_ns(
	const struct attnsim_machine *machine, const struct attnsim_model *model, const struct attnsim_load *load)
{
	double channels = (double)model->layers * model->heads * model->head_dim;
	double operations = 2.0 * (double)load->rows * (double)attnsim_row_weights(model) +
		2.0 * (double)load->outs * (double)output_weights(model) + 4.0 * (double)load->visits * channels;
	double bytes = (double)attnsim_weight_bytes(model) + (double)load->kv_bytes;
	double seconds = fmax(bytes / machine->bytes_per_s, operations / machine->operations_per_s);

	return machine->overhead_ns + (int64_t)(seconds * 1e9);
}

static uint64_t kv_bytes(const struct kern_kv_geometry *kv, uint64_t tokens)
{
	return tokens * kv->block_bytes[1] / KERN_PAGE_TOKENS;
}

static void add_rows(
	struct attnsim_load *load, const struct kern_kv_geometry *kv, uint64_t position, uint64_t rows)
{
	load->rows += rows;
	load->visits += rows * position + rows * (rows + 1) / 2;
	load->kv_bytes += kv_bytes(kv, position + rows);
}

int64_t attnsim_ideal_ns(const struct attnsim_machine *machine, const struct attnsim_model *model,
	const struct kern_kv_geometry *kv, uint32_t prompt, uint32_t step_rows)
{
	int64_t ns = 0;

	for (uint32_t at = 0; at < prompt;) {
		uint32_t rows = prompt - at < step_rows ? prompt - at : step_rows;
		struct attnsim_load load = { .outs = at + rows == prompt };

		add_rows(&load, kv, at, rows);
		ns += attnsim_step_ns(machine, model, &load);
		at += rows;
	}
	return ns;
}

/* ---- the backend ------------------------------------------------------------------------------ */

struct flying {
	struct kern_work work;
	int64_t end_ns;
	kern_ticket ticket;
};

struct attnsim_device {
	struct kern_backend backend;
	struct attnsim_device_options options;
	struct flying flying[DEPTH];
	uint32_t first, count;
	kern_ticket next_ticket;
	int64_t idle_from_ns;
	struct attnsim_device_stats stats;
};

static struct attnsim_device *device_of(struct kern_backend *backend)
{
	return (struct attnsim_device *)backend;
}

/* The cache is as large as a real one and never touched; the size stands before it. */
static void *sim_alloc(struct kern_backend *backend, size_t bytes, const char *what)
{
	size_t *memory = mmap(NULL, bytes + 4096, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	(void)backend, (void)what;
	if (memory == MAP_FAILED)
		return NULL;
	*memory = bytes + 4096;
	return (unsigned char *)memory + 4096;
}

static void sim_free(struct kern_backend *backend, void *memory)
{
	size_t *start = (size_t *)(void *)((unsigned char *)memory - 4096);

	(void)backend;
	munmap(start, *start);
}

static int sim_register(struct kern_backend *backend, void *memory, size_t bytes)
{
	(void)backend, (void)memory, (void)bytes;
	return 0;
}

static void sim_unregister(struct kern_backend *backend, void *memory)
{
	(void)backend, (void)memory;
}

static int sim_weight_create(struct kern_backend *backend, enum kern_type type, uint32_t n, uint32_t k,
	const void *source, struct kern_weight **weight)
{
	(void)backend, (void)type, (void)n, (void)k, (void)source, (void)weight;
	return -ENOTSUP;
}

static void sim_weight_destroy(struct kern_backend *backend, struct kern_weight *weight)
{
	(void)backend, (void)weight;
}

static int sim_program_prepare(struct kern_backend *backend, struct kern_program *program)
{
	(void)backend, (void)program;
	return 0;
}

static void sim_program_release(struct kern_backend *backend, struct kern_program *program)
{
	(void)backend, (void)program;
}

static int64_t step_ns(const struct attnsim_device *device, const struct kern_step *step)
{
	struct attnsim_load load = { .outs = step->out_count };

	for (uint32_t s = 0; s < step->seq_count; s++)
		add_rows(&load, step->seqs[s].kv, step->seqs[s].position, step->seqs[s].rows);
	return attnsim_step_ns(device->options.machine, device->options.model, &load);
}

/* Clearing and copying: a short launch, and the bytes. */
static int64_t spans_ns(const struct attnsim_device *device, const struct kern_work *work)
{
	const struct attnsim_machine *machine = device->options.machine;
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < work->copy.count; i++)
		bytes += work->copy.spans[i].bytes * (work->kind == KERN_WORK_COPY ? 2 : 1);
	return machine->overhead_ns / 10 + (int64_t)((double)bytes / machine->bytes_per_s * 1e9);
}

static int64_t duration_ns(const struct attnsim_device *device, const struct kern_work *work)
{
	int64_t ns = work->kind == KERN_WORK_STEP ? step_ns(device, &work->step) : spans_ns(device, work);
	double u = base_rand_at(device->options.seed, device->stats.works);

	if (device->options.noise)
		ns = (int64_t)((double)ns * attnsim_noise_at(device->options.noise, u));
	return ns > 0 ? ns : 1;
}

static void count_step(struct attnsim_device *device, const struct kern_step *step, int64_t ns)
{
	struct attnsim_device_stats *stats = &device->stats;

	stats->steps++;
	stats->rows += step->rows;
	stats->most_rows = step->rows > stats->most_rows ? step->rows : stats->most_rows;
	for (uint32_t s = 0; s < step->seq_count; s++)
		stats->tenant_ns[step->tokens[step->seqs[s].row] % ATTNSIM_TENANTS_MAX] +=
			(int64_t)((double)ns * step->seqs[s].rows / step->rows);
}

static void count_busy(struct attnsim_device *device, int64_t from_ns, int64_t until_ns)
{
	const struct attnsim_device_options *options = &device->options;

	from_ns = from_ns > options->busy_from_ns ? from_ns : options->busy_from_ns;
	until_ns = until_ns < options->busy_until_ns ? until_ns : options->busy_until_ns;
	device->stats.busy_ns += until_ns > from_ns ? until_ns - from_ns : 0;
}

static int sim_submit(struct kern_backend *backend, const struct kern_work *work, kern_ticket *ticket)
{
	struct attnsim_device *device = device_of(backend);
	int64_t now_ns = base_clock_now(device->options.clock), ns;

	if (work->kind == KERN_WORK_ATTEND)
		return -ENOTSUP;
	if (device->count == DEPTH)
		return -EAGAIN;
	ns = duration_ns(device, work);
	if (device->idle_from_ns < now_ns)
		device->idle_from_ns = now_ns;
	count_busy(device, device->idle_from_ns, device->idle_from_ns + ns);
	device->idle_from_ns += ns;
	device->stats.works++;
	if (work->kind == KERN_WORK_STEP)
		count_step(device, &work->step, ns);
	*ticket = ++device->next_ticket;
	device->flying[(device->first + device->count++) % DEPTH] =
		(struct flying){ .work = *work, .end_ns = device->idle_from_ns, .ticket = *ticket };
	return 0;
}

static void write_outs(const struct kern_step *step)
{
	for (uint32_t i = 0; i < step->out_count; i++) {
		const struct kern_out *out = &step->outs[i];

		if (!out->logits)
			continue;
		memset(out->logits, 0, sizeof(*out->logits) * VOCAB);
		out->logits[step->tokens[out->row] % VOCAB] = 1.0f;
	}
}

static int sim_poll(struct kern_backend *backend, kern_ticket ticket)
{
	struct attnsim_device *device = device_of(backend);
	struct flying *flying = &device->flying[device->first];

	BASE_ASSERT(device->count > 0 && flying->ticket == ticket);
	if (base_clock_now(device->options.clock) < flying->end_ns)
		return 0;
	device->first = (device->first + 1) % DEPTH;
	device->count--;
	if (flying->work.kind == KERN_WORK_STEP)
		write_outs(&flying->work.step);
	return 1;
}

static void sim_destroy(struct kern_backend *backend)
{
	free(device_of(backend));
}

static const struct kern_backend_ops OPS = {
	.alloc = sim_alloc,
	.free = sim_free,
	.register_memory = sim_register,
	.unregister_memory = sim_unregister,
	.weight_create = sim_weight_create,
	.weight_destroy = sim_weight_destroy,
	.program_prepare = sim_program_prepare,
	.program_release = sim_program_release,
	.submit = sim_submit,
	.poll = sim_poll,
	.destroy = sim_destroy,
};

struct attnsim_device *attnsim_device_create(const struct attnsim_device_options *options)
{
	struct attnsim_device *device = calloc(1, sizeof(*device));

	if (!device)
		return NULL;
	device->options = *options;
	device->backend.ops = &OPS;
	/* One step in the air: with the next token known only when a step has landed, a second one would be half a batch.
	 * The rates are what a measurement at start would find. */
	device->backend.properties = (struct kern_properties){ .name = "model",
		.host_memory = true,
		.bytes_per_second = options->machine->bytes_per_s,
		.products_per_second = options->machine->operations_per_s / 2.0,
		.integer_products_per_second = options->machine->operations_per_s / 2.0 };
	return device;
}

struct kern_backend *attnsim_device_backend(struct attnsim_device *device)
{
	return &device->backend;
}

int64_t attnsim_device_next_ns(const struct attnsim_device *device)
{
	return device->count ? device->flying[device->first].end_ns : INT64_MAX;
}

const struct attnsim_device_stats *attnsim_device_stats(const struct attnsim_device *device)
{
	return &device->stats;
}
