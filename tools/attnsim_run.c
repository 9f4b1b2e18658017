/*
 * One replay. See attnsim_run.h.
 *
 *   arrival -> HELD -> OPENING -> RUNNING -> CLOSING -> DONE
 *
 * A request is a client's OPEN, GENERATE and CLOSE, as they would come from outside. Every tenant is
 * one client of every device.
 */
#include "tools/attnsim_run.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"
#include "base/base_rand.h"
#include "sched/sched.h"
#include "tools/attnsim_world.h"

const char *const attnsim_policies[] = { "ours", "fifo", "edf", "budget", NULL };
const char *const attnsim_urgencies[] = { "tight", "normal", "none", NULL };

enum { SAMPLE = 3000, PROGRESS_EVERY = 4096, POLLS_MOST = 100000 };
static const int64_t START_NS = 1000000000;

/* ---- jobs ------------------------------------------------------------------------------------- */

static int64_t ideal_ns(const struct attnsim_world *world, uint32_t prompt)
{
	return attnsim_ideal_ns(
		&world->setup->machine, world->setup->model, &world->program.kv, prompt, world->setup->step_rows);
}

static enum attnsim_urgency urgency_of(const struct attnsim_setup *setup, size_t index)
{
	double u = base_rand_at(setup->seed ^ 0x75726765u, index);

	if (u < setup->share[ATTNSIM_TIGHT])
		return ATTNSIM_TIGHT;
	return u < setup->share[ATTNSIM_TIGHT] + setup->share[ATTNSIM_NORMAL] ? ATTNSIM_NORMAL : ATTNSIM_NONE;
}

static void job_init(const struct attnsim_world *world, struct attnsim_job *job, size_t index, double stretch)
{
	const struct attnsim_setup *setup = world->setup;
	const struct attnsim_request *request = &setup->trace->requests[index];
	const uint64_t blocks = ((uint64_t)request->prompt + request->output + KERN_PAGE_TOKENS - 1) / KERN_PAGE_TOKENS;
	const struct kern_kv_geometry *kv = &world->program.kv;
	/* Who goes on with a text is who began it: prompts that are alike beyond their first block. */
	const uint64_t text = request->hash_count > 1 ? setup->trace->hashes[request->hash_first + 1] : ~(uint64_t)index;

	*job = (struct attnsim_job){ .arrival_ns = START_NS +
			(setup->all_at_once ? 0 : (int64_t)((double)request->arrival_ns * stretch)),
		.prompt = request->prompt,
		.output = request->output,
		.urgency = urgency_of(setup, index),
		.tenant = (uint32_t)(base_rand_at(setup->seed ^ 0x74656e61u, text) * setup->tenants),
		.cache_bytes = kv->block_bytes[0] + (blocks - 1) * kv->block_bytes[1] };
	job->prefill_ns = ideal_ns(world, job->prompt);
	if (job->urgency != ATTNSIM_NONE)
		job->deadline_ns = job->arrival_ns + (int64_t)(setup->slack[job->urgency] * (double)job->prefill_ns);
}

/* The order of those that are held: the policy's own. */
static bool goes_before(const struct attnsim_world *world, uint32_t left, uint32_t right)
{
	const struct attnsim_job *a = &world->jobs[left], *b = &world->jobs[right];
	const enum attnsim_policy policy = world->setup->policy;

	if ((policy == ATTNSIM_OURS || policy == ATTNSIM_EDF) && a->deadline_ns != b->deadline_ns)
		return a->deadline_ns && (!b->deadline_ns || a->deadline_ns < b->deadline_ns);
	return left < right;
}

static void held_push(struct attnsim_world *world, uint32_t job)
{
	uint32_t at = world->held_count++;

	for (; at > 0 && goes_before(world, job, world->held[(at - 1) / 2]); at = (at - 1) / 2)
		world->held[at] = world->held[(at - 1) / 2];
	world->held[at] = job;
	if (world->held_count > world->result->held_most)
		world->result->held_most = world->held_count;
}

static void held_pop(struct attnsim_world *world)
{
	uint32_t last = world->held[--world->held_count], at = 0;

	for (uint32_t child = 1; child < world->held_count; child = 2 * at + 1) {
		if (child + 1 < world->held_count && goes_before(world, world->held[child + 1], world->held[child]))
			child++;
		if (!goes_before(world, world->held[child], last))
			break;
		world->held[at] = world->held[child];
		at = child;
	}
	world->held[at] = last;
}

/* ---- messages --------------------------------------------------------------------------------- */

static void send(struct attnsim_world *world, struct attnsim_node *node, const struct attnsim_job *job,
	struct attnd_request record, const void *in)
{
	struct sched_message message = { .record = record,
		.kind = SCHED_REQUEST,
		.client = job->tenant,
		.received_ns = world->clock.fake_ns,
		.in = in };

	message.record.version = ATTND_VERSION;
	message.record.request_id = (uint64_t)(job - world->jobs);
	/* The queue has room for every request of every session. */
	if (!base_spsc_push(&node->in, &message))
		world->broken = base_fail(EPROTO, "a device's queue is full");
	node->due = true;
}

static void open_session(struct attnsim_world *world, struct attnsim_job *job, uint32_t device)
{
	struct attnsim_node *node = &world->nodes[device];

	job->device = device;
	job->state = JOB_OPENING;
	node->sessions++;
	node->cache_bytes += job->cache_bytes;
	node->ahead_ns += job->prefill_ns + job->output * world->token_ns;
	job->open = (struct attnd_open_params){ .struct_bytes = sizeof(job->open),
		.kind = ATTND_SESSION_MODEL,
		.max_tokens = job->prompt + job->output };
	send(world, node, job, (struct attnd_request){ .op = ATTND_OP_OPEN, .in_bytes = sizeof(job->open) }, &job->open);
}

static void generate(struct attnsim_world *world, struct attnsim_job *job)
{
	const bool ours = world->setup->policy == ATTNSIM_OURS;
	const struct attnd_generate_params params = { .struct_bytes = sizeof(params), .max_tokens = job->output };
	const size_t bytes = sizeof(params) + sizeof(uint32_t) * (size_t)job->prompt;
	uint32_t *tokens;

	job->in = malloc(bytes);
	if (!job->in) {
		world->broken = base_fail(ENOMEM, "no memory for a prompt of %u tokens", job->prompt);
		return;
	}
	memcpy(job->in, &params, sizeof(params));
	tokens = (uint32_t *)(void *)(job->in + sizeof(params));
	attnsim_prefix_tokens(world->setup->trace, (size_t)(job - world->jobs), job->tenant, tokens);
	job->state = JOB_RUNNING;
	world->waiting[job->tenant]++;
	send(world, &world->nodes[job->device], job,
		(struct attnd_request){ .op = ATTND_OP_GENERATE,
			/* What has no deadline may wait; else the deadline says all. */
			.priority_class = ours && job->deadline_ns == 0 ? ATTND_CLASS_BULK : ATTND_CLASS_INTERACTIVE,
			.session = job->session,
			.deadline_ns = job->deadline_ns,
			.argument = job->prompt,
			.in_bytes = (uint32_t)bytes },
		job->in);
}

/* A tenant waits while one of its requests has no first token. */
static void waits_no_longer(struct attnsim_world *world, struct attnsim_job *job)
{
	if (!job->waited)
		world->waiting[job->tenant]--;
	job->waited = true;
}

static void close_session(struct attnsim_world *world, struct attnsim_job *job)
{
	job->state = JOB_CLOSING;
	waits_no_longer(world, job);
	free(job->in);
	job->in = NULL;
	send(world, &world->nodes[job->device], job,
		(struct attnd_request){ .op = ATTND_OP_CLOSE, .session = job->session }, NULL);
}

static void done(struct attnsim_world *world, struct attnsim_job *job)
{
	job->state = JOB_DONE;
	world->done++;
	if (world->setup->progress && world->done % PROGRESS_EVERY == 0)
		world->setup->progress(world->setup->context, (double)world->done / (double)world->count);
}

static void token(struct attnsim_world *world, struct attnsim_job *job, const struct attnd_completion *completion)
{
	struct attnsim_node *node = &world->nodes[job->device];

	if (job->generated++ == 0) {
		job->first_ns = completion->done_ns;
		node->ahead_ns -= job->prefill_ns;
		waits_no_longer(world, job);
	}
	node->ahead_ns -= world->token_ns;
	job->last_ns = completion->done_ns;
	if (completion->done_ns <= world->end_ns)
		world->tokens++;
}

static void reply(struct attnsim_world *world, const struct sched_reply *reply_)
{
	const struct attnd_completion *completion = &reply_->completion;
	struct attnsim_job *job = &world->jobs[completion->request_id];
	struct attnsim_node *node = &world->nodes[job->device];

	if (!(completion->flags & ATTND_CPL_FINAL)) {
		token(world, job, completion);
		return;
	}
	switch (job->state) {
	case JOB_OPENING:
		if (completion->status != ATTND_OK) {
			world->broken = base_fail(EPROTO, "a session was answered with status %u", completion->status);
			return;
		}
		job->session = completion->value;
		generate(world, job);
		return;
	case JOB_RUNNING:
		job->status = completion->status;
		if (job->first_ns == 0)
			node->ahead_ns -= job->prefill_ns;
		node->ahead_ns -= (int64_t)(job->output - job->generated) * world->token_ns;
		close_session(world, job);
		return;
	case JOB_CLOSING:
		node->sessions--;
		node->cache_bytes -= job->cache_bytes;
		done(world, job);
		return;
	case JOB_HELD:
	case JOB_DONE: break;
	}
	world->broken = base_fail(EPROTO, "a completion for a request that has none to come");
}

/* ---- where a request goes --------------------------------------------------------------------- */

/* The device with the least predicted work that has room; UINT32_MAX: none. What has no deadline leaves a quarter of the
 * room to what has one, where the policy knows of them. */
static uint32_t place_for(const struct attnsim_world *world, const struct attnsim_job *job)
{
	const bool modest = world->setup->policy == ATTNSIM_OURS && job->deadline_ns == 0;
	const uint32_t sessions = world->setup->sessions - (modest ? world->setup->sessions / 4 : 0);
	const uint64_t bytes = world->cache_bytes - (modest ? world->cache_bytes / 4 : 0);
	uint32_t best = UINT32_MAX;

	for (uint32_t d = 0; d < world->setup->machine.devices; d++) {
		const struct attnsim_node *node = &world->nodes[d];
		const bool alone = node->sessions == 0;

		if (node->sessions >= sessions || (!alone && node->cache_bytes + job->cache_bytes > bytes))
			continue;
		if (best == UINT32_MAX || node->ahead_ns < world->nodes[best].ahead_ns)
			best = d;
	}
	return best;
}

/* Held ones that will never be served leave here. Ours answers at once where there is no room for a deadline, as an OPEN without room is
 * answered; to be held until it has passed would be no refusal. */
static bool hopeless(struct attnsim_world *world, struct attnsim_job *job)
{
	const bool late = job->deadline_ns && job->deadline_ns <= world->clock.fake_ns;

	if (job->cache_bytes > world->cache_bytes) {
		job->status = ATTND_TOO_LARGE;
		world->result->unservable++;
	} else if (job->deadline_ns && world->setup->policy == ATTNSIM_OURS && place_for(world, job) == UINT32_MAX) {
		job->status = ATTND_REFUSED_DEADLINE;
	} else if (late && world->setup->give_up) {
		job->status = ATTND_CANCELLED;
		world->result->gave_up++;
	} else {
		return false;
	}
	done(world, job);
	return true;
}

static void dispatch(struct attnsim_world *world)
{
	while (world->held_count > 0) {
		struct attnsim_job *job = &world->jobs[world->held[0]];
		uint32_t device;

		if (hopeless(world, job)) {
			held_pop(world);
			continue;
		}
		device = place_for(world, job);
		if (device == UINT32_MAX)
			return;
		held_pop(world);
		open_session(world, job, device);
	}
}

static void arrive(struct attnsim_world *world)
{
	while (world->next < world->count && world->jobs[world->next].arrival_ns <= world->clock.fake_ns)
		held_push(world, (uint32_t)world->next++);
}

/* Who is late without a first token goes away. */
static void give_up(struct attnsim_world *world)
{
	for (; world->waiting_first < world->next && world->jobs[world->waiting_first].state == JOB_DONE;)
		world->waiting_first++;
	for (size_t i = world->waiting_first; i < world->next; i++) {
		struct attnsim_job *job = &world->jobs[i];
		struct sched_message message = { .kind = SCHED_REQUEST, .client = job->tenant };

		if (job->state != JOB_RUNNING || job->first_ns || job->cancelled || job->deadline_ns == 0 ||
			job->deadline_ns > world->clock.fake_ns)
			continue;
		job->cancelled = true;
		world->result->gave_up++;
		/* Its answer is told from the request's by an id that no request has. */
		message.record = (struct attnd_request){ .op = ATTND_OP_CANCEL,
			.version = ATTND_VERSION,
			.request_id = UINT64_MAX,
			.args = i };
		if (!base_spsc_push(&world->nodes[job->device].in, &message))
			world->broken = base_fail(EPROTO, "a device's queue is full");
		world->nodes[job->device].due = true;
	}
}

/* ---- time ------------------------------------------------------------------------------------- */

static void take_replies(struct attnsim_world *world, struct attnsim_node *node)
{
	const struct sched_reply *next;

	while ((next = base_spsc_peek(&node->out)) != NULL) {
		if (next->completion.request_id != UINT64_MAX)
			reply(world, next);
		base_spsc_release(&node->out);
	}
}

/* Polls until nothing moves without time passing. */
static void settle(struct attnsim_world *world, struct attnsim_node *node)
{
	for (uint32_t polls = 0; !world->broken; polls++) {
		int64_t lands_ns = attnsim_device_next_ns(node->device);
		int work = sched_poll(node->sched);

		take_replies(world, node);
		if (base_spsc_count(&node->in) == 0 && lands_ns == attnsim_device_next_ns(node->device) &&
			(work == 0 || (work == 1 && lands_ns != INT64_MAX && lands_ns > world->clock.fake_ns)))
			break;
		if (polls == POLLS_MOST)
			world->broken = base_fail(EPROTO, "the scheduler moves without end");
	}
	node->due = false;
}

static void follow_drift(struct attnsim_world *world)
{
	int64_t served[ATTNSIM_TENANTS_MAX] = { 0 };

	for (uint32_t d = 0; d < world->setup->machine.devices; d++)
		for (uint32_t t = 0; t < world->setup->tenants; t++)
			served[t] += attnsim_device_stats(world->nodes[d].device)->tenant_ns[t];
	for (uint32_t a = 0; a < world->setup->tenants; a++) {
		for (uint32_t b = 0; b < a; b++) {
			struct attnsim_pair *pair = &world->pairs[a][b];
			const int64_t ahead_ns = served[a] - served[b];

			if (world->waiting[a] == 0 || world->waiting[b] == 0) {
				pair->both = false;
				continue;
			}
			if (!pair->both)
				*pair = (struct attnsim_pair){ true, ahead_ns, ahead_ns };
			pair->least_ns = ahead_ns < pair->least_ns ? ahead_ns : pair->least_ns;
			pair->most_ns = ahead_ns > pair->most_ns ? ahead_ns : pair->most_ns;
			if (pair->most_ns - pair->least_ns > world->drift_ns)
				world->drift_ns = pair->most_ns - pair->least_ns;
		}
	}
}

/* When something happens next; INT64_MAX: nothing ever. */
static int64_t next_ns(const struct attnsim_world *world)
{
	int64_t next = world->next < world->count ? world->jobs[world->next].arrival_ns : INT64_MAX;

	for (uint32_t d = 0; d < world->setup->machine.devices; d++) {
		const struct attnsim_node *node = &world->nodes[d];
		int64_t node_ns = attnsim_device_next_ns(node->device);

		if (node_ns == INT64_MAX)
			node_ns = sched_next_event_ns(node->sched);
		/* Busy and nothing in the air: it waits for what only a message brings. */
		if (node_ns > world->clock.fake_ns && node_ns < next)
			next = node_ns;
	}
	return next;
}

static void moment(struct attnsim_world *world)
{
	bool due = true;

	arrive(world);
	if (world->setup->give_up)
		give_up(world);
	while (due && !world->broken) {
		due = false;
		dispatch(world);
		for (uint32_t d = 0; d < world->setup->machine.devices; d++) {
			struct attnsim_node *node = &world->nodes[d];

			if (!node->due && attnsim_device_next_ns(node->device) > world->clock.fake_ns &&
				sched_next_event_ns(node->sched) > world->clock.fake_ns)
				continue;
			if (node->due || attnsim_device_next_ns(node->device) <= world->clock.fake_ns)
				due = true;
			settle(world, node);
		}
	}
	follow_drift(world);
}

static int replay(struct attnsim_world *world)
{
	while (world->done < world->count && !world->broken) {
		int64_t next;

		moment(world);
		next = next_ns(world);
		if (world->done == world->count || world->broken)
			break;
		if (next == INT64_MAX)
			return base_fail(EPROTO, "the scheduler stands still with %zu of %zu requests unanswered",
				world->count - world->done, world->count);
		world->clock.fake_ns = next;
	}
	return world->broken;
}

/* ---- whole ------------------------------------------------------------------------------------ */

int attnsim_run(const struct attnsim_setup *setup, struct attnsim_result *result)
{
	const double rate = attnsim_trace_rate(setup->trace);
	struct attnsim_world *world = calloc(1, sizeof(*world));
	int rc;

	*result = (struct attnsim_result){ 0 };
	if (!world)
		return base_fail(ENOMEM, "no memory for a replay");
	world->setup = setup;
	world->result = result;
	world->count = setup->trace->count;
	base_clock_init_fake(&world->clock, START_NS);
	rc = attnsim_world_tables(world);
	if (rc == 0) {
		const double stretch = setup->capacity_rps > 0 ? rate / (setup->load * setup->capacity_rps) : 1.0;

		for (size_t i = 0; i < world->count; i++)
			job_init(world, &world->jobs[i], i, stretch);
		world->start_ns = START_NS;
		world->end_ns = world->jobs[world->count - 1].arrival_ns;
		if (world->end_ns == START_NS)
			world->end_ns = INT64_MAX;
		rc = attnsim_world_nodes(world);
	}
	if (rc == 0)
		rc = replay(world);
	if (rc == 0)
		rc = attnsim_world_result(world);
	attnsim_world_free(world);
	free(world);
	return rc;
}

/* Every so manieth request, so that its mix is the trace's. */
static int sample(const struct attnsim_trace *trace, struct attnsim_trace *part)
{
	size_t step = (trace->count + SAMPLE - 1) / SAMPLE;

	*part = (struct attnsim_trace){ .kind = trace->kind, .hashes = trace->hashes, .hash_count = trace->hash_count };
	part->requests = malloc(sizeof(*part->requests) * (trace->count / step + 1));
	if (!part->requests)
		return base_fail(ENOMEM, "no memory for a sample of the trace");
	for (size_t i = 0; i < trace->count; i += step)
		part->requests[part->count++] = trace->requests[i];
	return 0;
}

int attnsim_capacity(struct attnsim_setup *setup)
{
	struct attnsim_setup full = *setup;
	struct attnsim_trace part;
	struct attnsim_result result;
	int rc = sample(setup->trace, &part);

	if (rc < 0)
		return rc;
	full.trace = &part;
	full.noise = NULL;
	full.policy = ATTNSIM_BUDGET;
	full.prefix = ATTNSIM_PREFIX_NONE;
	full.all_at_once = true;
	full.give_up = false;
	full.capacity_rps = 0.0;
	rc = attnsim_run(&full, &result);
	free(part.requests);
	if (rc == 0)
		setup->capacity_rps = result.finished_rps;
	return rc;
}
