/*
 * The rig of the scheduler's unit tests. See the header.
 */
#include "tests/unit/sched_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base_error.h"
#include "base/base_rand.h"

static const int64_t START_NS = 1000000000;

void rig_init(struct rig *rig)
{
	memset(rig, 0, sizeof(*rig));
	rig->vocab = RIG_VOCAB;
	base_clock_init_fake(&rig->clock, START_NS);
	rig->device_options = (struct sim_device_options){ .clock = &rig->clock,
		.work_ns = 10000,
		.row_ns = 1000,
		.visit_ps = 10,
		.kib_ns = 20,
		.host_memory = true };
	for (uint32_t t = 0; t < 4; t++)
		rig->tenants[t] = (struct sched_tenant){ .models = ~UINT64_C(0),
			.attention = true,
			.sessions_max = 1000,
			.kv_bytes_max = UINT64_MAX / 2,
			.weight = 1 };
	rig->options = (struct sched_options){
		.struct_bytes = sizeof(rig->options),
		.clock = &rig->clock,
		.lanes = { { &rig->in[0], &rig->out[0], RIG_CLIENTS } },
		.lane_count = 1,
		.models = rig->models,
		.model_count = RIG_MODELS,
		.tenants = rig->tenants,
		.tenant_count = 4,
		.device = 3,
		.boot_id = 0x1234567890abcdef,
		.kv_default = KERN_KV_F32,
		.kv_bytes = 4 << 20,
		.kv_extent_bytes = 64 << 10,
		.sessions_max = 128,
		.requests_max = 512,
		.client_requests_max = 64,
		.tokens_max = 1024,
		.step_rows_max = 64,
		.prefill_chunk = 32,
		.out_rows_max = 48,
		.build = "rig",
	};
}

void rig_two_lanes(struct rig *rig, uint32_t first, uint32_t second)
{
	rig->options.lanes[0].clients = first;
	rig->options.lanes[1] = (struct sched_lane){ &rig->in[1], &rig->out[1], second };
	rig->options.lane_count = 2;
}

static void lanes_create(struct rig *rig)
{
	for (uint32_t i = 0; i < rig->options.lane_count; i++) {
		const struct sched_lane *lane = &rig->options.lanes[i];

		assert_int_equal(base_spsc_create(lane->in, 4096, sizeof(struct sched_message)), 0);
		assert_int_equal(base_spsc_create(lane->out, (size_t)lane->clients + rig->options.requests_max + 64,
					 sizeof(struct sched_reply)),
			0);
	}
}

static uint32_t lane_of(const struct rig *rig, uint32_t client)
{
	return rig->options.lane_count > 1 && client >= rig->options.lanes[0].clients;
}

static void push(struct rig *rig, const struct sched_message *message)
{
	while (!base_spsc_push(&rig->in[lane_of(rig, message->client)], message))
		rig_poll(rig);
}

void rig_start(struct rig *rig)
{
	rig->device = sim_device_create(&rig->device_options);
	rig->options.backend = sim_device_backend(rig->device);
	rig->replies = malloc(sizeof(*rig->replies) * RIG_REPLIES);
	assert_non_null(rig->replies);
	for (uint32_t m = 0; m < RIG_MODELS; m++) {
		sim_program_init(&rig->programs[m], rig->vocab, RIG_WIDTH,
			rig->options.step_rows_max, rig->options.out_rows_max);
		if (rig->head_dim) {
			rig->programs[m].kv.head_dim = rig->head_dim;
			assert_int_equal(kern_kv_init(&rig->programs[m].kv), 0);
		}
		rig->infos[m] = (struct model_info){ .name = "rig",
			.architecture = "none",
			.weights = "F32",
			.parameters = 20000,
			.weight_bytes = 80000,
			.vocab = rig->vocab,
			.width = RIG_WIDTH,
			.layers = 1,
			.heads = 2,
			.kv_heads = 1,
			.head_dim = 8,
			.context = 2048 };
		rig->models[m] = (struct sched_model){ .program = &rig->programs[m],
			.info = &rig->infos[m] };
	}
	lanes_create(rig);
	if (sched_create(&rig->sched, &rig->options) != 0)
		fail_msg("%s", base_error_message());
}

void rig_start_plain(struct rig *rig)
{
	rig_init(rig);
	rig_start(rig);
	rig_add(rig, 0, 0, 1000);
	rig_add(rig, 1, 0, 1000);
}

void rig_stop(struct rig *rig)
{
	struct sched_counters counters;

	for (uint32_t c = 0; c < RIG_CLIENTS; c++)
		if (rig->arenas[c])
			rig_message(rig, SCHED_CLIENT_GONE, c, 0, 0);
	rig_run(rig);
	sched_counters_read(rig->sched, &counters);
	assert_true(sched_idle(rig->sched));
	assert_int_equal(counters.accepted, counters.completed);
	assert_int_equal(counters.sessions + counters.clients + counters.requests, 0);
	assert_int_equal(counters.kv_bytes_free + counters.kv_bytes_cached,
		rig->options.kv_bytes / rig->options.kv_extent_bytes *
			rig->options.kv_extent_bytes);
	for (uint32_t c = 0; c < RIG_CLIENTS; c++) {
		assert_null(rig->arenas[c]);
		free(rig->views[c]);
	}
	sched_destroy(rig->sched);
	for (uint32_t i = 0; i < RIG_LANES; i++) {
		base_spsc_destroy(&rig->in[i]);
		base_spsc_destroy(&rig->out[i]);
	}
	free(rig->replies);
	sim_device_destroy(rig->device);
}

/* ---- messages ------------------------------------------------------------------------- */

void rig_message(
	struct rig *rig, uint32_t kind, uint32_t client, uint32_t argument, uint32_t credits)
{
	struct sched_message message = {
		.kind = kind, .client = client, .argument = argument, .credits = credits
	};

	push(rig, &message);
}

void rig_add(struct rig *rig, uint32_t client, uint32_t tenant, uint32_t credits)
{
	assert_null(rig->arenas[client]);
	rig->arenas[client] = aligned_alloc(64, RIG_ARENA_BYTES);
	assert_non_null(rig->arenas[client]);
	rig->used[client] = 0;
	struct sched_message message = { .kind = SCHED_CLIENT_ADD,
		.client = client,
		.argument = tenant,
		.credits = credits,
		.slots = rig->timelines };

	if (rig->timelines) {
		free(rig->views[client]);
		rig->views[client] = calloc(1, sizeof(struct attnd_view_own) + sizeof(struct attnd_timeline) * rig->timelines);
		assert_non_null(rig->views[client]);
		message.out = rig->views[client];
	}
	push(rig, &message);
}

void *rig_loan(struct rig *rig, uint32_t client, size_t bytes)
{
	unsigned char *memory = rig->arenas[client] + rig->used[client];

	rig->used[client] += (bytes + 63) / 64 * 64;
	assert_true(rig->used[client] <= RIG_ARENA_BYTES);
	return memory;
}

void rig_rewind(struct rig *rig, uint32_t client)
{
	rig->used[client] = 0;
}

uint64_t rig_send(
	struct rig *rig, uint32_t client, struct attnd_request record, const void *in, void *out)
{
	struct sched_message message = { .record = record,
		.kind = SCHED_REQUEST,
		.client = client,
		.received_ns = rig->clock.fake_ns,
		.in = in,
		.out = out };

	if (message.record.request_id == 0)
		message.record.request_id = ++rig->next_id;
	if (message.record.version == 0)
		message.record.version = ATTND_VERSION;
	push(rig, &message);
	return message.record.request_id;
}

static void collect_from(struct rig *rig, uint32_t lane)
{
	const struct sched_reply *reply;

	while (!rig->stop_draining[lane] && (reply = base_spsc_peek(&rig->out[lane])) != NULL) {
		assert_int_equal(lane_of(rig, reply->client), lane);
		if (reply->kind == SCHED_CLIENT_QUIESCED) {
			rig->quiesced[reply->client]++;
			free(rig->arenas[reply->client]);
			rig->arenas[reply->client] = NULL;
		} else {
			assert_non_null(rig->arenas[reply->client]);
			assert_true(rig->reply_count < RIG_REPLIES);
			rig->replies[rig->reply_count++] = *reply;
		}
		base_spsc_release(&rig->out[lane]);
	}
}

int rig_poll(struct rig *rig)
{
	int work = sched_poll(rig->sched);

	if (sched_check(rig->sched) != 0)
		fail_msg("%s", base_error_message());
	for (uint32_t i = 0; i < rig->options.lane_count; i++)
		collect_from(rig, i);
	return work;
}

void rig_settle(struct rig *rig)
{
	for (int i = 0; i < 50; i++)
		rig_poll(rig);
}

void rig_land(struct rig *rig)
{
	int64_t next_ns = sim_device_next_ns(rig->device);

	assert_true(next_ns != INT64_MAX);
	if (rig->clock.fake_ns < next_ns)
		rig->clock.fake_ns = next_ns;
	rig_poll(rig);
}

void rig_run(struct rig *rig)
{
	for (uint32_t still = 0; still < 3;) {
		int work = rig_poll(rig);
		int64_t next_ns = sim_device_next_ns(rig->device);

		if (next_ns == INT64_MAX && work == 0)
			next_ns = sched_next_event_ns(rig->sched);
		if (next_ns != INT64_MAX && next_ns > rig->clock.fake_ns)
			rig->clock.fake_ns = next_ns;
		else if (work == 0)
			still++;
	}
}

bool rig_has(const struct rig *rig, uint64_t request_id)
{
	for (uint32_t i = 0; i < rig->reply_count; i++)
		if (rig->replies[i].completion.request_id == request_id)
			return true;
	return false;
}

struct attnd_completion rig_take(struct rig *rig, uint64_t request_id)
{
	for (uint32_t i = 0; i < rig->reply_count; i++) {
		struct attnd_completion completion = rig->replies[i].completion;

		if (completion.request_id != request_id)
			continue;
		rig->reply_count--;
		memmove(&rig->replies[i], &rig->replies[i + 1],
			sizeof(*rig->replies) * (rig->reply_count - i));
		return completion;
	}
	fail_msg("no reply to request %llu", (unsigned long long)request_id);
	return (struct attnd_completion){ 0 };
}

struct attnd_completion rig_call(
	struct rig *rig, uint32_t client, struct attnd_request record, const void *in, void *out)
{
	uint64_t id = rig_send(rig, client, record, in, out);

	rig_run(rig);
	return rig_take(rig, id);
}

/* ---- requests ------------------------------------------------------------------------- */

struct attnd_open_params rig_open_params(uint32_t model)
{
	return (struct attnd_open_params){ .struct_bytes = sizeof(struct attnd_open_params),
		.kind = ATTND_SESSION_MODEL,
		.model = model };
}

struct attnd_open_params rig_attention_params(
	uint32_t layers, uint32_t heads, uint32_t kv_heads, uint32_t head_dim)
{
	return (struct attnd_open_params){ .struct_bytes = sizeof(struct attnd_open_params),
		.kind = ATTND_SESSION_ATTENTION,
		.layers = layers,
		.heads = heads,
		.kv_heads = kv_heads,
		.head_dim = head_dim };
}

struct attnd_completion rig_try_open(
	struct rig *rig, uint32_t client, const struct attnd_open_params *params)
{
	struct attnd_request record = { .op = ATTND_OP_OPEN, .in_bytes = sizeof(*params) };

	return rig_call(rig, client, record, params, NULL);
}

uint64_t rig_open_with(struct rig *rig, uint32_t client, const struct attnd_open_params *params)
{
	struct attnd_completion completion = rig_try_open(rig, client, params);

	assert_int_equal(completion.status, ATTND_OK);
	assert_int_not_equal(completion.value, 0);
	return completion.value;
}

uint64_t rig_open(struct rig *rig, uint32_t client, uint32_t model)
{
	struct attnd_open_params params = rig_open_params(model);

	return rig_open_with(rig, client, &params);
}

uint64_t rig_open_now(struct rig *rig, uint32_t client, uint32_t model)
{
	struct attnd_open_params params = rig_open_params(model);
	struct attnd_request record = { .op = ATTND_OP_OPEN, .in_bytes = sizeof(params) };
	uint64_t id = rig_send(rig, client, record, &params, NULL);
	struct attnd_completion completion;

	rig_settle(rig);
	completion = rig_take(rig, id);
	assert_int_equal(completion.status, ATTND_OK);
	return completion.value;
}

struct attnd_request rig_step_record(uint64_t session, uint32_t count, enum attnd_output output)
{
	struct attnd_step_args args = { .output = (uint8_t)output };
	struct attnd_request record = { .op = ATTND_OP_STEP,
		.session = session,
		.argument = count,
		.in_bytes = count * (uint32_t)sizeof(uint32_t),
		.out_capacity = 64 };

	memcpy(&record.args, &args, sizeof(args));
	return record;
}

uint64_t rig_step(
	struct rig *rig, uint32_t client, uint64_t session, const uint32_t *tokens, uint32_t count)
{
	uint32_t *in = rig_loan(rig, client, sizeof(*in) * (count ? count : 1));

	memcpy(in, tokens, sizeof(*in) * count);
	return rig_send(rig, client, rig_step_record(session, count, ATTND_OUT_ARGMAX), in,
		rig_loan(rig, client, 64));
}

uint32_t rig_argmax(const struct rig *rig, const uint32_t *history, uint32_t count)
{
	return sim_argmax(
		sim_regular_hash(sim_row_hash(history, count), count, rig->device_options.regular_permille), rig->vocab);
}

void rig_step_check(struct rig *rig, uint32_t client, uint64_t session, const uint32_t *history,
	uint32_t total, uint32_t count)
{
	uint64_t id = rig_step(rig, client, session, history + total - count, count);
	struct attnd_completion completion;

	rig_run(rig);
	completion = rig_take(rig, id);
	assert_int_equal(completion.status, ATTND_OK);
	assert_int_equal(completion.position, total);
	assert_int_equal(completion.result_bytes, sizeof(uint32_t));
	assert_int_equal(completion.value, rig_argmax(rig, history, total));
}

uint64_t rig_generate(struct rig *rig, uint32_t client, uint64_t session, const uint32_t *prompt,
	uint32_t count, struct attnd_generate_params params, const uint32_t *stops,
	struct attnd_request record)
{
	uint32_t stop_bytes = (uint32_t)sizeof(*stops) * params.stop_count;
	unsigned char *in;

	record.op = ATTND_OP_GENERATE;
	record.session = session;
	record.argument = count;
	record.in_bytes = (uint32_t)sizeof(params) + count * (uint32_t)sizeof(*prompt) + stop_bytes;
	params.struct_bytes = sizeof(params);
	in = rig_loan(rig, client, record.in_bytes);
	memcpy(in, &params, sizeof(params));
	memcpy(in + sizeof(params), prompt, count * sizeof(*prompt));
	if (stop_bytes)
		memcpy(in + sizeof(params) + count * sizeof(*prompt), stops, stop_bytes);
	return rig_send(rig, client, record, in,
		record.out_capacity ? rig_loan(rig, client, record.out_capacity) : NULL);
}

struct attnd_request rig_session_record(enum attnd_op op, uint64_t session, uint32_t argument)
{
	return (struct attnd_request){
		.op = (uint8_t)op, .session = session, .argument = argument
	};
}

void rig_tokens(uint32_t *tokens, uint32_t count, uint64_t seed)
{
	for (uint32_t i = 0; i < count; i++)
		tokens[i] = (uint32_t)base_rand_below(&seed, RIG_VOCAB);
}

uint64_t rig_ask(struct rig *rig, uint32_t client, uint64_t session, uint32_t count, uint8_t class, int64_t deadline_ns)
{
	static const uint32_t zeros[1024];
	struct attnd_request record = rig_step_record(session, count, ATTND_OUT_ARGMAX);

	record.priority_class = class;
	record.deadline_ns = deadline_ns;
	return rig_send(rig, client, record, zeros, rig_loan(rig, client, 64));
}

int64_t rig_learn(struct rig *rig, uint32_t client, uint64_t session, uint32_t count, uint32_t times)
{
	int64_t ns = 0;

	for (uint32_t i = 0; i < times; i++) {
		const uint64_t id = rig_ask(rig, client, session, count, ATTND_CLASS_LATENCY, 0);

		ns = rig->clock.fake_ns;
		rig_run(rig);
		ns = rig_take(rig, id).done_ns - ns;
		rig_rewind(rig, client);
		rig_send(rig, client, rig_session_record(ATTND_OP_TRUNCATE, session, 0), NULL, NULL);
		rig_run(rig);
		rig->reply_count = 0;
	}
	return ns;
}

void rig_kept(struct rig *rig, uint64_t id)
{
	const struct attnd_completion completion = rig_take(rig, id);

	assert_int_equal(completion.status, ATTND_OK);
	assert_int_equal(completion.flags, ATTND_CPL_FINAL);
}
