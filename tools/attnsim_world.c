/*
 * A replay's parts, and what it comes to. See attnsim_world.h.
 */
#include "tools/attnsim_world.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"

enum { CREDITS = 1 << 30, TOKEN_BATCH = 32, LONG_STEPS = 4, MESSAGES = 4 };
/* Of a device's memory, what weights and cache may take. */
static const double MEMORY_SHARE = 0.9;

/* ---- making ----------------------------------------------------------------------------------- */

/* FIFO batches whole prompts, as long as a step may be; others cut them. */
static uint32_t rows_of_step(const struct attnsim_setup *setup)
{
	return setup->policy == ATTNSIM_FIFO ? setup->step_rows * LONG_STEPS : setup->step_rows;
}

/* What a token adds to its device's predicted work: its share of a step that decodes some. */
static int64_t token_ns(const struct attnsim_world *world)
{
	const struct attnsim_load load = { .rows = TOKEN_BATCH, .outs = TOKEN_BATCH };

	return attnsim_step_ns(&world->setup->machine, world->setup->model, &load) / TOKEN_BATCH;
}

/* A device's memory for caches. */
static int cache_bytes(const struct attnsim_setup *setup, uint64_t *bytes)
{
	const double memory = (double)setup->machine.memory_bytes * MEMORY_SHARE;
	const uint64_t weights = attnsim_weight_bytes(setup->model);

	if (memory < 1.1 * (double)weights)
		return base_fail(EINVAL, "a model of %llu MiB does not fit into the %llu MiB of a device of %s",
			(unsigned long long)weights >> 20, (unsigned long long)setup->machine.memory_bytes >> 20,
			setup->machine.name);
	*bytes = (uint64_t)memory - weights;
	return 0;
}

int attnsim_pages(const struct attnsim_setup *setup, uint64_t *pages)
{
	struct kern_program program;
	uint64_t bytes = 0;
	int rc = cache_bytes(setup, &bytes);

	attnsim_program(&program, setup->model, setup->kv, 1, 1);
	*pages = setup->machine.devices * (bytes / program.kv.block_bytes[1]);
	return rc;
}

int attnsim_world_tables(struct attnsim_world *world)
{
	const struct attnsim_setup *setup = world->setup;
	const struct attnsim_model *model = setup->model;
	const uint32_t rows = rows_of_step(setup);
	int rc = cache_bytes(setup, &world->cache_bytes);

	attnsim_program(&world->program, model, setup->kv, rows, rows);
	world->info = (struct model_info){ .name = "simulated",
		.architecture = "llama",
		.weights = "Q8_0",
		/* The scheduler takes the output matrix off, and finds what is multiplied for each row. */
		.parameters = attnsim_row_weights(model) + (uint64_t)model->vocab * model->width,
		.weight_bytes = attnsim_weight_bytes(model),
		.vocab = world->program.vocab,
		.width = world->program.width,
		.layers = model->layers,
		.heads = model->heads,
		.kv_heads = model->kv_heads,
		.head_dim = model->head_dim,
		.context = 2 * ATTNSIM_TOKENS_MAX };
	if (rc < 0)
		return rc;
	world->token_ns = token_ns(world);
	world->jobs = calloc(world->count, sizeof(*world->jobs));
	world->held = calloc(world->count, sizeof(*world->held));
	world->nodes = calloc(setup->machine.devices, sizeof(*world->nodes));
	if (!world->jobs || !world->held || !world->nodes)
		return base_fail(ENOMEM, "no memory for %zu requests", world->count);
	return 0;
}

static enum sched_policy policy_of(const struct attnsim_setup *setup)
{
	if (setup->policy == ATTNSIM_OURS)
		return SCHED_POLICY_PROMISE;
	return setup->policy == ATTNSIM_EDF ? SCHED_POLICY_EARLIEST : SCHED_POLICY_ARRIVAL;
}

static int node_create(struct attnsim_world *world, struct attnsim_node *node, uint32_t index)
{
	const struct attnsim_setup *setup = world->setup;
	const uint32_t requests = setup->sessions + 1, rows = rows_of_step(setup);
	struct sched_tenant tenants[ATTNSIM_TENANTS_MAX];
	const struct sched_model model = { .program = &world->program, .info = &world->info };
	struct sched_options options = { .struct_bytes = sizeof(options),
		.clock = &world->clock,
		.lanes = { { &node->in, &node->out, setup->tenants } },
		.lane_count = 1,
		.models = &model,
		.model_count = 1,
		.tenants = tenants,
		.tenant_count = setup->tenants,
		.device = index,
		.boot_id = 1,
		.kv_default = setup->kv,
		/* A little over, for blocks that wait to be cleared. */
		.kv_bytes = world->cache_bytes + world->cache_bytes / 16,
		.sessions_max = setup->sessions,
		.requests_max = requests,
		.client_requests_max = requests,
		.tokens_max = attnsim_trace_longest(setup->trace),
		.step_rows_max = rows,
		.prefill_chunk = rows,
		.out_rows_max = rows,
		.build = "attnsim",
		.policy = policy_of(setup),
		.prefix_cache = setup->prefix != ATTNSIM_PREFIX_NONE,
		.prefix_least_recent = setup->prefix == ATTNSIM_PREFIX_LRU,
		.secret = { setup->seed, index } };
	const struct attnsim_device_options device = { .clock = &world->clock,
		.machine = &setup->machine,
		.model = setup->model,
		.noise = setup->noise,
		.seed = setup->seed * 64 + index,
		.busy_from_ns = world->start_ns,
		.busy_until_ns = world->end_ns };
	int rc;

	for (uint32_t t = 0; t < setup->tenants; t++)
		tenants[t] = (struct sched_tenant){
			.models = 1, .sessions_max = setup->sessions, .kv_bytes_max = UINT64_MAX / 2, .weight = 1
		};
	node->device = attnsim_device_create(&device);
	if (!node->device)
		return base_fail(ENOMEM, "no memory for a device");
	options.backend = attnsim_device_backend(node->device);
	rc = base_spsc_create(&node->in, (size_t)requests * MESSAGES + setup->tenants, sizeof(struct sched_message));
	if (rc == 0)
		rc = base_spsc_create(&node->out, (size_t)setup->tenants + 2 * (size_t)requests + 64 + rows,
			sizeof(struct sched_reply));
	return rc == 0 ? sched_create(&node->sched, &options) : rc;
}

int attnsim_world_nodes(struct attnsim_world *world)
{
	for (uint32_t d = 0; d < world->setup->machine.devices; d++) {
		struct attnsim_node *node = &world->nodes[d];
		int rc = node_create(world, node, d);

		if (rc < 0)
			return rc;
		for (uint32_t t = 0; t < world->setup->tenants; t++) {
			const struct sched_message message = {
				.kind = SCHED_CLIENT_ADD,
				.client = t,
				/* The policies to compare with know no shares. */
				.argument = world->setup->policy == ATTNSIM_OURS ? t : 0,
				.credits = CREDITS
			};

			base_spsc_push(&node->in, &message);
		}
		node->due = true;
	}
	return 0;
}

void attnsim_world_free(struct attnsim_world *world)
{
	for (uint32_t d = 0; world->nodes && d < world->setup->machine.devices; d++) {
		struct attnsim_node *node = &world->nodes[d];

		sched_destroy(node->sched);
		base_spsc_destroy(&node->in);
		base_spsc_destroy(&node->out);
		if (node->device)
			attnsim_device_backend(node->device)->ops->destroy(attnsim_device_backend(node->device));
	}
	for (size_t i = 0; world->jobs && i < world->count; i++)
		free(world->jobs[i].in);
	free(world->nodes);
	free(world->held);
	free(world->jobs);
}

/* ---- looking back ----------------------------------------------------------------------------- */

static int by_value(const void *left, const void *right)
{
	const int64_t *a = left, *b = right;

	return (*a > *b) - (*a < *b);
}

/* Nearest rank, of sorted values. */
static int64_t quantile(const int64_t *values, size_t count, double at)
{
	size_t rank = (size_t)(at * (double)count);

	return count == 0 ? 0 : values[rank < count ? rank : count - 1];
}

static bool is_refused(const struct attnsim_job *job)
{
	return job->status == ATTND_REFUSED_DEADLINE || job->status == ATTND_TOO_LARGE;
}

static bool is_missed(const struct attnsim_job *job)
{
	return job->deadline_ns && (job->first_ns == 0 || job->first_ns > job->deadline_ns);
}

static void count_job(
	const struct attnsim_world *world, const struct attnsim_job *job, struct attnsim_group *group)
{
	group->requests++;
	if (is_refused(job)) {
		group->refused++;
		return;
	}
	group->admitted++;
	group->missed += is_missed(job);
	group->good += job->status == ATTND_OK && !is_missed(job) && (job->deadline_ns || job->last_ns <= world->end_ns);
}

/* All of one urgency, or of all (ATTNSIM_URGENCIES); scratch has room for a value of each job. */
static void look_at_group(
	const struct attnsim_world *world, unsigned urgency, int64_t *scratch, struct attnsim_group *group)
{
	size_t first = 0, tokens = 0;

	for (size_t i = 0; i < world->count; i++) {
		const struct attnsim_job *job = &world->jobs[i];

		if (urgency != ATTNSIM_URGENCIES && job->urgency != (enum attnsim_urgency)urgency)
			continue;
		count_job(world, job, group);
		if (job->first_ns)
			scratch[first++] = job->first_ns - job->arrival_ns;
	}
	qsort(scratch, first, sizeof(*scratch), by_value);
	group->ttft_p50_ns = quantile(scratch, first, 0.5);
	group->ttft_p99_ns = quantile(scratch, first, 0.99);
	for (size_t i = 0; i < world->count; i++) {
		const struct attnsim_job *job = &world->jobs[i];

		if ((urgency == ATTNSIM_URGENCIES || job->urgency == (enum attnsim_urgency)urgency) && job->generated > 1)
			scratch[tokens++] = (job->last_ns - job->first_ns) / (job->generated - 1);
	}
	qsort(scratch, tokens, sizeof(*scratch), by_value);
	group->tpot_p50_ns = quantile(scratch, tokens, 0.5);
	group->tpot_p99_ns = quantile(scratch, tokens, 0.99);
}

/* Answers a second between the first and the last fifth of them. */
static double finished_rps(const struct attnsim_world *world, int64_t *scratch)
{
	size_t count = 0, from, to;

	for (size_t i = 0; i < world->count; i++)
		if (world->jobs[i].status == ATTND_OK && world->jobs[i].last_ns)
			scratch[count++] = world->jobs[i].last_ns;
	if (count == 0)
		return 0.0;
	qsort(scratch, count, sizeof(*scratch), by_value);
	from = count / 5;
	to = count - 1 - count / 5;
	/* Too few to tell: all of them, from the start. */
	if (to <= from || scratch[to] == scratch[from])
		return (double)count * 1e9 / (double)(scratch[count - 1] - world->start_ns);
	return (double)(to - from) * 1e9 / (double)(scratch[to] - scratch[from]);
}

static void look_at_devices(const struct attnsim_world *world, struct attnsim_result *result)
{
	const uint32_t devices = world->setup->machine.devices;
	double busy_ns = 0.0, step_ns = 0.0, rows = 0.0, median = 0.0, p99 = 0.0, prompts = 0.0, found = 0.0;

	for (uint32_t d = 0; d < devices; d++) {
		const struct attnsim_device_stats *stats = attnsim_device_stats(world->nodes[d].device);
		struct sched_counters counters;

		sched_counters_read(world->nodes[d].sched, &counters);
		result->steps += stats->steps;
		rows += (double)stats->rows;
		busy_ns += (double)stats->busy_ns;
		step_ns += (double)counters.actual_ns;
		prompts += (double)counters.prefix_prompt_tokens;
		found += (double)counters.prefix_tokens;
		result->prefix_evictions += counters.prefix_evictions;
		median = counters.error_median > median ? counters.error_median : median;
		p99 = counters.error_p99 > p99 ? counters.error_p99 : p99;
	}
	result->prefix_hit_rate = prompts > 0.0 ? found / prompts : 0.0;
	result->utilisation = busy_ns / (result->seconds * 1e9 * devices);
	result->step_rows_mean = result->steps ? rows / (double)result->steps : 0.0;
	result->step_ms_mean = result->steps ? step_ns / 1e6 / (double)result->steps : 0.0;
	result->prediction_median = median;
	result->prediction_p99 = p99;
}

int attnsim_world_result(struct attnsim_world *world)
{
	struct attnsim_result *result = world->result;
	int64_t *scratch = malloc(sizeof(*scratch) * world->count), last_ns = world->start_ns + 1;
	uint64_t prompt_tokens = 0;

	if (!scratch)
		return base_fail(ENOMEM, "no memory to sort %zu times", world->count);
	look_at_group(world, ATTNSIM_URGENCIES, scratch, &result->all);
	for (unsigned u = 0; u < ATTNSIM_URGENCIES; u++)
		look_at_group(world, u, scratch, &result->by[u]);
	for (size_t i = 0; i < world->count; i++) {
		const struct attnsim_job *job = &world->jobs[i];

		result->failed += job->status != ATTND_OK && !is_refused(job) && job->status != ATTND_EXPIRED &&
			job->status != ATTND_CANCELLED;
		last_ns = job->last_ns > last_ns ? job->last_ns : last_ns;
		if (job->first_ns && job->first_ns <= world->end_ns)
			prompt_tokens += job->prompt;
	}
	result->drained_seconds = (double)(last_ns - world->start_ns) * 1e-9;
	result->seconds =
		world->end_ns == INT64_MAX ? result->drained_seconds : (double)(world->end_ns - world->start_ns) * 1e-9;
	result->offered_rps = (double)world->count / result->seconds;
	result->goodput_rps = (double)result->all.good / result->seconds;
	result->finished_rps = finished_rps(world, scratch);
	result->tokens_s = (double)world->tokens / result->seconds;
	result->prompt_tokens_s = (double)prompt_tokens / result->seconds;
	result->fair_drift_ms = (double)world->drift_ns * 1e-6;
	look_at_devices(world, result);
	free(scratch);
	return 0;
}
