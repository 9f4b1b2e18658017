/*
 * Making and ending a scheduler: options checked, every table taken once, and given back in
 * reverse. Control thread, or the owner's; cold.
 */
#include <stdlib.h>

#include "base/base_error.h"
#include "base/base_rand.h"
#include "sched/sched_private.h"

enum { LINE_BYTES = 64 }; /* of a cache */

static int check_sizes(const struct sched_options *o)
{
	if (o->sessions_max == 0 || o->sessions_max > 1u << SCHED_INDEX_BITS || o->requests_max == 0 ||
		o->client_requests_max == 0)
		return base_fail(EINVAL,
			"scheduler for %u sessions (at most %u), %u requests, %u per client: none may be 0",
			o->sessions_max, 1u << SCHED_INDEX_BITS, o->requests_max, o->client_requests_max);
	if (o->tokens_max == 0 || o->tokens_max > 1u << 24 || o->step_rows_max == 0 ||
		o->prefill_chunk == 0 || o->out_rows_max == 0)
		return base_fail(EINVAL,
			"scheduler with %u tokens per session (at most %u), %u rows per step, chunks of %u, %u output rows: "
			"none may be 0",
			o->tokens_max, 1u << 24, o->step_rows_max, o->prefill_chunk,
			o->out_rows_max);
	if (o->speculate > SCHED_DRAFT_MOST)
		return base_fail(EINVAL, "streams that guess %u tokens ahead: at most %d", o->speculate, SCHED_DRAFT_MOST);
	if (o->device >= 1u << SCHED_DEVICE_BITS)
		return base_fail(
			EINVAL, "device %u: at most %u", o->device, (1u << SCHED_DEVICE_BITS) - 1);
	return 0;
}

static int check_lane(const struct sched_lane *lane, uint32_t requests_max)
{
	const uint64_t needed = (uint64_t)lane->clients + requests_max + 64;

	if (!lane->in || !lane->out || lane->clients == 0)
		return base_fail(EINVAL, "it needs two queues and at least one client");
	if (lane->out->element_bytes != sizeof(struct sched_reply) || lane->in->element_bytes != sizeof(struct sched_message))
		return base_fail(EINVAL, "its queues have elements of %zu and %zu bytes, not %zu and %zu", lane->in->element_bytes,
			lane->out->element_bytes, sizeof(struct sched_message), sizeof(struct sched_reply));
	if (lane->out->capacity_mask + 1 < needed)
		return base_fail(EINVAL, "its reply queue holds %llu elements; %llu are needed for %u clients and %u requests",
			(unsigned long long)lane->out->capacity_mask + 1, (unsigned long long)needed, lane->clients, requests_max);
	return 0;
}

static int check_lanes(const struct sched_options *o)
{
	uint64_t clients = 0;

	if (o->lane_count == 0 || o->lane_count > SCHED_LANES_MAX)
		return base_fail(EINVAL, "scheduler with %u lanes: 1 to %d", o->lane_count, SCHED_LANES_MAX);
	for (uint32_t i = 0; i < o->lane_count; i++) {
		if (check_lane(&o->lanes[i], o->requests_max) < 0)
			return base_fail_within(EINVAL, "the scheduler's lane %u", i);
		clients += o->lanes[i].clients;
	}
	return clients <= UINT32_MAX ? 0 : base_fail(EINVAL, "the scheduler's lanes have more clients than there are numbers");
}

static int check_models(const struct sched_options *o)
{
	if (o->model_count > SCHED_MODELS_MAX || o->tenant_count == 0 ||
		o->tenant_count > SCHED_TENANTS_MAX)
		return base_fail(EINVAL,
			"scheduler with %u models (at most %d) and %u tenants (1 to %d)",
			o->model_count, SCHED_MODELS_MAX, o->tenant_count, SCHED_TENANTS_MAX);
	for (uint32_t i = 0; i < o->model_count; i++) {
		const struct kern_program *program = o->models[i].program;

		if (!program || !o->models[i].info)
			return base_fail(EINVAL, "model %u has no program or no description", i);
		if (program->max_rows < o->step_rows_max || program->max_out_rows < o->out_rows_max)
			return base_fail(EINVAL,
				"model %u takes %u rows and %u output rows per step; the scheduler wants %u and %u",
				i, program->max_rows, program->max_out_rows, o->step_rows_max,
				o->out_rows_max);
	}
	return 0;
}

static int check_options(const struct sched_options *o)
{
	if (!o || o->struct_bytes != sizeof(*o))
		return base_fail(EINVAL, "scheduler options of %zu bytes, not %zu",
			o ? o->struct_bytes : 0, sizeof(*o));
	if (!o->clock || !o->backend || !o->tenants || (o->model_count > 0 && !o->models))
		return base_fail(EINVAL,
			"the scheduler needs a clock, a backend, tenants, and models where it counts some");
	return check_sizes(o) < 0 || check_lanes(o) < 0 || check_models(o) < 0 ? -EINVAL : 0;
}

/* The largest block a model's session can have: f32, later blocks. */
static int largest_block(const struct sched_options *o, size_t *bytes)
{
	*bytes = 0;
	for (uint32_t i = 0; i < o->model_count; i++) {
		struct kern_kv_geometry kv = o->models[i].program->kv;

		kv.k = kv.v = KERN_KV_F32;
		if (kern_kv_init(&kv) < 0)
			return base_fail_within(EINVAL, "model %u", i);
		for (uint32_t later = 0; later < 2; later++)
			if (kv.block_bytes[later] > *bytes)
				*bytes = kv.block_bytes[later];
	}
	return 0;
}

/* Extents: 1/64 of the pool, so that several block sizes live side by side, but each holds the
 * largest block of every model; and at least a megabyte, for raw sessions, where the pool is not
 * tiny. */
static int pool_create(struct sched *sched)
{
	const struct sched_options *o = &sched->options;
	uint64_t extent_bytes = o->kv_extent_bytes;
	size_t largest;

	if (largest_block(o, &largest) < 0)
		return -EINVAL;
	if (extent_bytes == 0) {
		extent_bytes = o->kv_bytes / 64;
		if (extent_bytes < 1 << 20)
			extent_bytes = o->kv_bytes < 1 << 20 ? o->kv_bytes : 1 << 20;
		if (extent_bytes < largest)
			extent_bytes = largest;
		extent_bytes = (extent_bytes + 4095) / 4096 * 4096;
	}
	if (extent_bytes < largest)
		return base_fail(EINVAL,
			"KV extents of %llu bytes are smaller than a block of %zu that a model needs",
			(unsigned long long)extent_bytes, largest);
	return sched_kv_create(&sched->kv, o->backend, o->kv_bytes, extent_bytes);
}

/* ---- the prefix cache ----------------------------------------------------------------- */

/* As many pages as the pool can hold of the smallest. */
static int smallest_page(const struct sched_options *o, size_t *bytes)
{
	*bytes = SIZE_MAX;
	for (uint32_t i = 0; i < o->model_count; i++) {
		struct kern_kv_geometry kv = o->models[i].program->kv;

		kv.k = kv.v = KERN_KV_INT4;
		if (kern_kv_init(&kv) < 0)
			return base_fail_within(EINVAL, "model %u", i);
		if (kv.block_bytes[1] < *bytes)
			*bytes = kv.block_bytes[1];
	}
	return 0;
}

static uint32_t group_of(const struct sched_options *o, uint32_t tenant)
{
	uint32_t first = 0;

	if (o->tenants[tenant].prefix_group == 0)
		return tenant;
	while (o->tenants[first].prefix_group != o->tenants[tenant].prefix_group)
		first++;
	return first;
}

static int prefix_create(struct sched *sched)
{
	const struct sched_options *o = &sched->options;
	struct sched_prefix_tenant tenants[SCHED_TENANTS_MAX];
	struct sched_prefix_options options = { .share_bytes = o->kv_bytes,
		.tenants = tenants,
		.tenant_count = o->tenant_count,
		.key = { o->secret[0], o->secret[1] },
		.least_recent = o->prefix_least_recent };
	size_t page_bytes;

	if (!o->prefix_cache || o->model_count == 0)
		return 0;
	if (smallest_page(o, &page_bytes) < 0)
		return -EINVAL;
	options.pages_max = o->kv_bytes / page_bytes < SCHED_PREFIX_PAGES_MAX ? (uint32_t)(o->kv_bytes / page_bytes)
									     : SCHED_PREFIX_PAGES_MAX;
	for (uint32_t t = 0; t < o->tenant_count; t++)
		tenants[t] = (struct sched_prefix_tenant){ .weight = o->tenants[t].weight ? o->tenants[t].weight : 1,
			.group = group_of(o, t) };
	return options.pages_max > 0 ? sched_prefix_create(&sched->prefix, &options) : 0;
}

/* ---- tables: each is one allocation, so that a sanitizer sees its ends ---------------- */

/* All of it is written now, so that no request pays for a page fault. */
static void *table(size_t count, size_t element_bytes)
{
	const size_t bytes = ((count ? count : 1) * element_bytes + LINE_BYTES - 1) / LINE_BYTES * LINE_BYTES;
	void *memory = aligned_alloc(LINE_BYTES, bytes);

	return memory ? memset(memory, 0, bytes) : NULL;
}

/* Of so many elements for each session: an odd number of cache lines. Sessions that stand at the same position would all meet in a
 * few sets of a cache where these tables are powers of two apart. */
static size_t apart(size_t count, size_t element_bytes)
{
	return ((count * element_bytes + LINE_BYTES - 1) / LINE_BYTES | 1) * LINE_BYTES / element_bytes;
}

static bool flight_create(struct sched *sched, struct sched_flight *flight, uint32_t vocab_max)
{
	const struct sched_options *o = &sched->options;

	return (flight->members = table(sched->members_max, sizeof(*flight->members))) != NULL &&
		(flight->tokens = table(o->step_rows_max, sizeof(*flight->tokens))) != NULL &&
		(flight->embeddings = table(o->step_rows_max, sizeof(*flight->embeddings))) !=
		NULL &&
		(flight->seqs = table(o->step_rows_max, sizeof(*flight->seqs))) != NULL &&
		(flight->outs = table(o->out_rows_max, sizeof(*flight->outs))) != NULL &&
		(flight->logits = table(
			 (size_t)o->out_rows_max * vocab_max, sizeof(*flight->logits))) != NULL;
}

static void flight_destroy(struct sched_flight *flight)
{
	free(flight->logits);
	free(flight->outs);
	free(flight->seqs);
	free(flight->embeddings);
	free(flight->tokens);
	free(flight->members);
}

static size_t blocks_apart(const struct sched *sched)
{
	return apart(sched->blocks_max, sizeof(*sched->block_tables));
}

static size_t tokens_apart(const struct sched_options *o)
{
	return apart(o->tokens_max, sizeof(uint32_t));
}

static size_t choices_apart(const struct sched_options *o)
{
	return apart((o->tokens_max + 63) / 64, sizeof(uint64_t));
}

static bool drafts_create(struct sched *sched)
{
	const size_t slots = (size_t)SCHED_DRAFT_GRAMS * sched_draft_slots(sched->options.tokens_max);

	return sched->options.speculate == 0 || sched->options.model_count == 0 ||
		(sched->draft_slots = table(sched->options.sessions_max * slots, sizeof(*sched->draft_slots))) != NULL;
}

static bool tables_create(struct sched *sched)
{
	const struct sched_options *o = &sched->options;
	size_t sessions = o->sessions_max, scratch = 1;
	uint32_t vocab_max = 1;

	for (uint32_t i = 0; i < o->model_count; i++) {
		uint32_t vocab = o->models[i].program->vocab;
		size_t bytes = model_sample_scratch_bytes(vocab);

		vocab_max = vocab > vocab_max ? vocab : vocab_max;
		scratch = bytes > scratch ? bytes : scratch;
	}
	for (uint32_t i = 0; i < SCHED_FLIGHTS; i++)
		if (!flight_create(sched, &sched->flights[i], vocab_max))
			return false;
	return (sched->clients = table(sched->clients_max, sizeof(*sched->clients))) != NULL &&
		(sched->requests = table(o->requests_max, sizeof(*sched->requests))) != NULL &&
		(sched->sessions = table(sessions, sizeof(*sched->sessions))) != NULL &&
		(sched->uses = table(o->tenant_count, sizeof(*sched->uses))) != NULL &&
		(sched->decodes = table(sessions, sizeof(*sched->decodes))) != NULL &&
		(sched->prefills = table(sessions, sizeof(*sched->prefills))) != NULL &&
		(sched->block_tables = table(sessions * blocks_apart(sched), sizeof(*sched->block_tables))) != NULL &&
		(sched->histories = table(sessions * tokens_apart(o), sizeof(*sched->histories))) != NULL &&
		(sched->choices = table(sessions * choices_apart(o), sizeof(*sched->choices))) != NULL &&
		(sched->layer_tables = table(
			 sessions * ATTND_LAYERS_MAX, sizeof(*sched->layer_tables))) != NULL &&
		(sched->sample_scratch = table(scratch, 1)) != NULL && drafts_create(sched);
}

static void clients_init(struct sched *sched)
{
	struct sched_lane_use *lane = sched->lanes;

	for (uint32_t i = 0; i < sched->clients_max; i++) {
		struct sched_client *client = &sched->clients[i];

		lane += i == lane->first + lane->clients;
		client->lane = lane;
		client->number = i;
		sched_list_init(&client->requests);
		sched_list_init(&client->sessions);
		sched_list_init(&client->ready);
		sched_list_init(&client->parked);
		sched_list_init(&client->of_active);
	}
}

/* The tag of a life is short, and now and then that of an earlier one: then handles still differ by this. */
static uint32_t first_generation(uint64_t boot_id, uint32_t index)
{
	return 1 + (uint32_t)(base_mix64(boot_id + index) % ((1u << SCHED_GENERATION_BITS) - 1));
}

static void sessions_init(struct sched *sched)
{
	const uint32_t slots = sched_draft_slots(sched->options.tokens_max);

	for (uint32_t i = 0; i < sched->options.sessions_max; i++) {
		struct sched_session *session = &sched->sessions[i];

		session->index = i;
		session->prefix_node = SCHED_PREFIX_NONE;
		session->generation = first_generation(sched->options.boot_id, i);
		session->blocks = sched->block_tables + i * blocks_apart(sched);
		session->tokens = sched->histories + i * tokens_apart(&sched->options);
		session->chosen = sched->choices + i * choices_apart(&sched->options);
		session->layers = sched->layer_tables + (size_t)i * ATTND_LAYERS_MAX;
		if (sched->draft_slots)
			sched_draft_init(&session->draft, sched->draft_slots + (size_t)i * SCHED_DRAFT_GRAMS * slots, slots);
		sched_list_init(&session->queue);
		sched_list_init(&session->of_place);
		sched_list_init(&session->of_kicked);
		sched_list_append(&sched->free_sessions, &session->of_client);
	}
}

static void requests_init(struct sched *sched)
{
	for (uint32_t i = 0; i < sched->options.requests_max; i++) {
		struct sched_request *request = &sched->requests[i];

		sched_list_init(&request->of_session);
		sched_list_init(&request->of_timed);
		sched_list_append(&sched->free_requests, &request->of_client);
	}
}

static void lists_init(struct sched *sched)
{
	sched_list_init(&sched->kicked);
	sched_list_init(&sched->blocked);
	sched_list_init(&sched->active);
	sched_list_init(&sched->timed);
	sched_list_init(&sched->free_requests);
	sched_list_init(&sched->free_sessions);
	for (uint32_t i = 0; i < sched->options.tenant_count; i++) {
		sched_list_init(&sched->uses[i].active);
		sched_list_init(&sched->uses[i].of_active);
		sched->uses[i].weight = sched->tenants[i].weight ? sched->tenants[i].weight : 1;
		sched->uses[i].capped = sched->tenants[i].device_ns_per_s > 0;
		sched->weights += sched->uses[i].weight;
	}
	clients_init(sched);
	sessions_init(sched);
	requests_init(sched);
}

static void costs_init(struct sched *sched)
{
	sched_cost_init(&sched->cost, &sched->backend->properties);
	for (uint32_t i = 0; i < SCHED_COST_MODELS; i++)
		sched->learnt_ns[i] = base_clock_now(sched->clock) - SCHED_DOUBT_NS;
	for (uint32_t i = 0; i < sched->options.model_count; i++) {
		const struct model_info *info = sched->models[i].info;
		const struct kern_program *program = sched->models[i].program;
		uint64_t output = (uint64_t)program->vocab * program->width;
		/* The embedding is looked up, not multiplied; where it is the output matrix too it
		 * is counted there. */
		uint64_t row =
			info->parameters > output ? info->parameters - output : info->parameters;

		sched_cost_model(&sched->cost, i, info->weight_bytes, row, output, &program->kv);
	}
	for (uint32_t i = 0; i < SCHED_COST_MODELS; i++)
		sched_cost_units(&sched->cost, i, sched->options.step_rows_max, &sched->units[i]);
}

static void lanes_keep(struct sched *sched, const struct sched_options *o)
{
	for (uint32_t i = 0; i < o->lane_count; i++) {
		sched->lanes[i] = (struct sched_lane_use){
			.in = o->lanes[i].in, .out = o->lanes[i].out, .first = sched->clients_max, .clients = o->lanes[i].clients
		};
		sched->clients_max += o->lanes[i].clients;
	}
	sched->lane_count = o->lane_count;
	sched->lane_messages = SCHED_MESSAGES_PER_POLL / o->lane_count;
}

/* What the caller owns only during the call is copied. */
static void options_keep(struct sched *sched, const struct sched_options *o)
{
	sched->options = *o;
	memcpy(sched->tenants, o->tenants, sizeof(*o->tenants) * o->tenant_count);
	if (o->model_count > 0)
		memcpy(sched->models, o->models, sizeof(*o->models) * o->model_count);
	if (o->build)
		memcpy(sched->build, o->build, strnlen(o->build, sizeof(sched->build) - 1));
	sched->options.tenants = sched->tenants;
	sched->options.models = sched->models;
	sched->options.build = sched->build;
	sched->clock = o->clock;
	sched->backend = o->backend;
	lanes_keep(sched, o);
	sched->next_expiry_ns = INT64_MAX;
	sched->boot_tag = base_mix64(o->boot_id) >> (64 - SCHED_BOOT_BITS);
	sched->started_ns = sched->now_ns = sched->last_landed_ns = base_clock_now(o->clock);
	sched->blocks_max = kern_kv_filled(o->tokens_max) + KERN_KV_AHEAD;
	sched->members_max = o->step_rows_max > SCHED_SPANS ? o->step_rows_max : SCHED_SPANS;
	/* Where host and device are one, a second step in the air would only be in the way of what
	 * comes next. */
	sched->computes_max = o->backend->properties.host_memory ? 1 : SCHED_FLIGHTS;
}

_Static_assert((int)SCHED_ATTENDS <= (int)SCHED_SPANS, "members_max covers the items of an ATTEND");
_Static_assert(ATTND_ATTEND_ROWS_MAX / KERN_PAGE_TOKENS + 1 + KERN_KV_AHEAD <= SCHED_SPANS,
	"one request's copies fit into one work");

int sched_create(struct sched **out, const struct sched_options *options)
{
	struct sched *sched;
	int rc = check_options(options);

	if (rc < 0)
		return rc;
	sched = calloc(1, sizeof(*sched));
	if (!sched)
		return base_fail(ENOMEM, "no memory for the scheduler");
	options_keep(sched, options);
	rc = pool_create(sched);
	if (rc == 0)
		rc = prefix_create(sched);
	if (rc == 0 && !tables_create(sched))
		rc = base_fail(ENOMEM,
			"no memory for the scheduler's tables: %u sessions of %u tokens, %u requests",
			options->sessions_max, options->tokens_max, options->requests_max);
	if (rc == 0)
		rc = sched_view_create(sched);
	if (rc < 0) {
		sched_destroy(sched);
		return rc;
	}
	lists_init(sched);
	costs_init(sched);
	*out = sched;
	return 0;
}

void sched_destroy(struct sched *sched)
{
	if (!sched)
		return;
	sched_view_destroy(sched);
	free(sched->draft_slots);
	free(sched->sample_scratch);
	free(sched->layer_tables);
	free(sched->choices);
	free(sched->histories);
	free(sched->block_tables);
	free(sched->prefills);
	free(sched->decodes);
	free(sched->uses);
	free(sched->sessions);
	free(sched->requests);
	free(sched->clients);
	for (uint32_t i = SCHED_FLIGHTS; i-- > 0;)
		flight_destroy(&sched->flights[i]);
	sched_prefix_destroy(sched->prefix);
	sched_kv_destroy(sched->kv);
	free(sched);
}
