/*
 * See sim_client.h.
 */
#include "tests/sim/sim_client.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_assert.h"
#include "base/base_error.h"
#include "base/base_rand.h"
#include "shm-ipc/shm_attach.h"
#include "tests/sim/sim_device.h"

enum {
	ARENA_BYTES = 1 << 18,
	SLOT_BYTES = 8192, /* of arena, for each request in flight: half input, half output */
	HISTORY = 600,
	CREDITS_RING = 64, /* completion slots */
	MEAN_PAUSE_NS = 300000000,
};

struct owed {
	bool live;
	uint8_t op;
	uint32_t session;    /* index here, or SIM_SESSIONS when none */
	uint64_t id, target; /* target: of a CANCEL */
	uint32_t count, sequence, fork_keep;
	uint32_t tokens[64];
	uint32_t streamed[64];
};

struct known {
	bool open;
	uint64_t handle;
	uint32_t queued;
	uint32_t length;
	uint32_t history[HISTORY];
};

struct sim_client {
	struct base_clock *clock;
	const struct sched_model *model;
	const struct sim_device_options *modelled; /* NULL: nothing is known of its results */
	uint64_t random, next_id;
	int64_t next_ns, stalled_until_ns;
	struct svc_rings rings;
	struct shm_client_end end;
	struct known sessions[SIM_SESSIONS];
	struct owed owed[SIM_IN_FLIGHT];
	uint32_t outstanding;
	char failure[256];
};

static uint64_t below(struct sim_client *client, uint64_t n)
{
	return base_rand_below(&client->random, n);
}

static void fail(struct sim_client *client, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

static void fail(struct sim_client *client, const char *format, ...)
{
	va_list arguments;

	if (client->failure[0])
		return;
	va_start(arguments, format);
	vsnprintf(client->failure, sizeof(client->failure), format, arguments);
	va_end(arguments);
}

/* ---- life ----------------------------------------------------------------------------- */

struct sim_client *sim_client_create(uint64_t seed, uint32_t place, struct base_clock *clock,
	const struct sched_model *model, const struct sim_device_options *modelled)
{
	struct sim_client *client = calloc(1, sizeof(*client));
	const struct shm_segment_options options = { .submission_slots = 32,
		.completion_slots = CREDITS_RING,
		.arena_bytes = ARENA_BYTES,
		.boot_id = 1,
		.client = place,
		.max_in_flight = SIM_IN_FLIGHT,
		.node = -1 };

	BASE_ASSERT(client);
	client->clock = clock;
	client->model = model;
	client->modelled = modelled;
	client->random = seed;
	client->next_ns = clock->fake_ns;
	if (shm_segment_create(&client->rings.segment, &options) ||
		shm_daemon_end_create(&client->rings.end, &client->rings.segment, 0, 0))
		fail(client, "no rings: %s", base_error_message());
	const struct shm_connection connection = { .socket = -1,
		.bell_fd = -1,
		.write_memory = client->rings.segment.write_memory,
		.read_memory = client->rings.segment.read_memory,
		.head = client->rings.segment.head };

	shm_client_end_init(&client->end, &connection);
	return client;
}

void sim_client_destroy(struct sim_client *client)
{
	shm_daemon_end_destroy(&client->rings.end);
	shm_segment_destroy(&client->rings.segment);
	free(client);
}

struct svc_rings *sim_client_rings(struct sim_client *client)
{
	return &client->rings;
}
int64_t sim_client_next_ns(const struct sim_client *client)
{
	return client->next_ns;
}
uint32_t sim_client_outstanding(const struct sim_client *client)
{
	return client->outstanding;
}

bool sim_client_failure(const struct sim_client *client, char *message, size_t bytes)
{
	snprintf(message, bytes, "%s", client->failure);
	return client->failure[0];
}

/* ---- requests ------------------------------------------------------------------------- */

static struct owed *owe(struct sim_client *client, uint8_t op, uint32_t session)
{
	for (uint32_t i = 0; i < SIM_IN_FLIGHT; i++)
		if (!client->owed[i].live) {
			client->owed[i] = (struct owed){
				.live = true, .op = op, .session = session, .id = ++client->next_id
			};
			return &client->owed[i];
		}
	return NULL;
}

static unsigned char *input_of(struct sim_client *client, const struct owed *owed)
{
	return client->rings.segment.arena + (size_t)(owed - client->owed) * SLOT_BYTES;
}

static struct attnd_request record_of(struct sim_client *client, const struct owed *owed)
{
	uint32_t slot = (uint32_t)(owed - client->owed);
	struct attnd_request record = { .op = owed->op,
		.version = ATTND_VERSION,
		.request_id = owed->id,
		.priority_class = (uint8_t)below(client, ATTND_CLASS_END),
		.in_offset = slot * (SLOT_BYTES / 64),
		.out_offset = slot * (SLOT_BYTES / 64) + SLOT_BYTES / 128,
		.out_capacity = SLOT_BYTES / 2 };

	if (owed->session < SIM_SESSIONS)
		record.session = client->sessions[owed->session].handle;
	if (below(client, 4) == 0) /* some tight, some generous, some already past */
		record.deadline_ns =
			client->clock->fake_ns + (int64_t)below(client, 40000000) - 1000000;
	return record;
}

static void send(struct sim_client *client, struct owed *owed, const struct attnd_request *record)
{
	if (!shm_sub_put(&client->end, record)) { /* the ring is full: it was never sent */
		owed->live = false;
		return;
	}
	client->outstanding++;
	if (owed->session < SIM_SESSIONS)
		client->sessions[owed->session].queued++;
}

static void send_open(struct sim_client *client, uint32_t session)
{
	struct owed *owed = owe(client, ATTND_OP_OPEN, session);
	const struct attnd_open_params params = { .struct_bytes = sizeof(params),
		.kind = ATTND_SESSION_MODEL,
		.max_tokens = 512,
		.kv_k = (uint8_t)below(client, ATTND_KV_END),
		.kv_v = (uint8_t)below(client, ATTND_KV_END),
		.sampling = { .temperature = 0, .top_p = 1, .repeat_penalty = 1 } };

	if (!owed)
		return;
	memcpy(input_of(client, owed), &params, sizeof(params));
	struct attnd_request record = record_of(client, owed);

	record.session = 0;
	record.in_bytes = sizeof(params);
	send(client, owed, &record);
}

static void fill_tokens(struct sim_client *client, struct owed *owed, uint32_t most)
{
	owed->count = 1 + (uint32_t)below(client, most);
	for (uint32_t i = 0; i < owed->count; i++)
		owed->tokens[i] = (uint32_t)below(client, client->model->info->vocab);
}

static void send_step(struct sim_client *client, uint32_t session)
{
	struct owed *owed = owe(client, ATTND_OP_STEP, session);
	const struct attnd_step_args args = { .output = ATTND_OUT_ARGMAX };

	if (!owed)
		return;
	fill_tokens(client, owed, 60);
	memcpy(input_of(client, owed), owed->tokens, owed->count * 4);
	struct attnd_request record = record_of(client, owed);

	record.argument = owed->count;
	record.in_bytes = owed->count * 4;
	memcpy(&record.args, &args, sizeof(args));
	send(client, owed, &record);
}

static void send_generate(struct sim_client *client, uint32_t session)
{
	struct owed *owed = owe(client, ATTND_OP_GENERATE, session);
	const struct attnd_generate_params params = { .struct_bytes = sizeof(params),
		.max_tokens = 1 + (uint32_t)below(client, 60),
		.between_ns = below(client, 4) ? 0 : 200000 + (int64_t)below(client, 10000000),
		.sampling = { .temperature = 0, .top_p = 1, .repeat_penalty = 1 } };

	if (!owed)
		return;
	fill_tokens(client, owed, 30);
	memcpy(input_of(client, owed), &params, sizeof(params));
	memcpy(input_of(client, owed) + sizeof(params), owed->tokens, owed->count * 4);
	struct attnd_request record = record_of(client, owed);

	record.argument = owed->count;
	record.in_bytes = sizeof(params) + owed->count * 4;
	send(client, owed, &record);
}

static void send_simple(struct sim_client *client, uint8_t op, uint32_t session, uint32_t argument)
{
	struct owed *owed = owe(client, op, session);

	if (!owed)
		return;
	owed->fork_keep = argument;
	struct attnd_request record = record_of(client, owed);

	record.argument = argument;
	record.deadline_ns = 0;
	send(client, owed, &record);
}

static void send_cancel(struct sim_client *client)
{
	struct owed *owed = owe(client, ATTND_OP_CANCEL, SIM_SESSIONS);

	if (!owed)
		return;
	struct attnd_request record = record_of(client, owed);

	record.args = client->next_id - below(client, 12);
	record.deadline_ns = 0;
	send(client, owed, &record);
}

/* A record of random words with an id that we can recognise. Whatever it asks for is refused or
 * done; it must be answered once. It names no session, so that what we know of ours stays true. */
static void send_rubbish(struct sim_client *client)
{
	struct owed *owed = owe(client, 0, SIM_SESSIONS);
	struct attnd_request record;

	if (!owed)
		return;
	for (size_t i = 0; i < sizeof(record); i++)
		((unsigned char *)&record)[i] = (unsigned char)base_rand_next(&client->random);
	if (below(client, 2)) {
		record.version = ATTND_VERSION;
		record.reserved = 0;
		record.flags &= ATTND_REQ_ALL;
		record.priority_class %= ATTND_CLASS_END;
		record.op %= ATTND_OP_END;
		record.in_offset %= 1000;
		record.in_bytes %= 5000;
		record.out_capacity %= 5000;
	}
	/* Past the other requests' slots: what it may write must not be their input. */
	record.out_offset = SIM_IN_FLIGHT * SLOT_BYTES / 64 + record.out_offset % 4096;
	record.request_id = owed->id;
	record.session = below(client, 2) ? base_rand_next(&client->random) : 0;
	if (record.op == ATTND_OP_OPEN || record.op == ATTND_OP_CANCEL)
		record.op = ATTND_OP_NOP; /* these could succeed, and then we would not know our own
					     state */
	send(client, owed, &record);
}

/* ---- acting --------------------------------------------------------------------------- */

static void act_on_session(struct sim_client *client)
{
	uint32_t index = (uint32_t)below(client, SIM_SESSIONS);
	struct known *session = &client->sessions[index];
	uint64_t what = below(client, 100);

	if (!session->open) {
		if (!session->queued)
			send_open(client, index);
		return;
	}
	if (session->queued >= 3)
		return;
	if (what < 45)
		send_step(client, index);
	else if (what < 80)
		send_generate(client, index);
	else if (what < 86)
		send_simple(client, ATTND_OP_TRUNCATE, index,
			(uint32_t)below(client, session->length + 2));
	else if (what < 92)
		send_simple(client, ATTND_OP_CLOSE, index, 0);
	else
		send_simple(
			client, ATTND_OP_FORK, index, (uint32_t)below(client, session->length + 2));
}

bool sim_client_act(struct sim_client *client)
{
	uint64_t what = below(client, 1000);

	client->next_ns = client->clock->fake_ns + 1 + (int64_t)below(client, 2 * MEAN_PAUSE_NS);
	if (what < 4)
		return true;
	if (what < 60) { /* a flood: as much as it may, at once */
		for (int i = 0; i < SIM_IN_FLIGHT; i++)
			act_on_session(client);
	} else if (what < 80) {
		client->stalled_until_ns =
			client->clock->fake_ns + (int64_t)below(client, 2000000000);
	} else if (what < 160) {
		send_cancel(client);
	} else if (what < 220) {
		send_rubbish(client);
	} else if (what < 260) {
		send_simple(client, ATTND_OP_NOP, SIM_SESSIONS, 0);
	} else {
		act_on_session(client);
	}
	return false;
}

/* ---- consuming ------------------------------------------------------------------------ */

/* The session's history after tokens beyond its old ones, cut to where the completion says it
 * stands. */
static void history_extend(struct sim_client *client, struct known *session, const uint32_t *tokens,
	uint32_t count, uint32_t position)
{
	if (position < session->length || position > session->length + count) {
		fail(client, "a session of %u tokens that got %u more stands at %u",
			session->length, count, position);
		return;
	}
	memcpy(session->history + session->length, tokens, (position - session->length) * 4);
	session->length = position;
}

static void expect_token(struct sim_client *client, const struct known *session,
	const uint32_t *tokens, uint32_t count, uint64_t got, const char *what)
{
	uint32_t history[HISTORY + 128], total = session->length + count;

	if (!client->modelled || client->failure[0])
		return;
	memcpy(history, session->history, session->length * 4);
	memcpy(history + session->length, tokens, count * 4);
	uint32_t wanted = sim_argmax(sim_regular_hash(sim_row_hash(history, total), total, client->modelled->regular_permille),
		client->model->info->vocab);

	if (got != wanted)
		fail(client, "%s: token %llu, and %u was to come after %u tokens", what,
			(unsigned long long)got, wanted, total);
}

/* A request that expires or is cancelled behind another of its session never started: it changed
 * nothing, and .position is the other's. */
static bool stopped_midway(const struct attnd_completion *completion)
{
	return (completion->status == ATTND_CANCELLED || completion->status == ATTND_EXPIRED) &&
		completion->started_ns;
}

static void on_step(struct sim_client *client, const struct owed *owed,
	const struct attnd_completion *completion)
{
	struct known *session = &client->sessions[owed->session];

	if (completion->status == ATTND_OK) {
		expect_token(client, session, owed->tokens, owed->count, completion->value, "STEP");
		if (completion->position != session->length + owed->count)
			fail(client, "STEP of %u tokens at %u ended OK at %u", owed->count,
				session->length, completion->position);
	}
	if (completion->status == ATTND_OK || stopped_midway(completion))
		history_extend(client, session, owed->tokens, owed->count, completion->position);
}

static void on_stream(
	struct sim_client *client, struct owed *owed, const struct attnd_completion *completion)
{
	uint32_t all[128];

	if (owed->op != ATTND_OP_GENERATE || completion->sequence != owed->sequence ||
		owed->sequence >= 64) {
		fail(client, "request %llu: stream completion %u, expected %u",
			(unsigned long long)owed->id, completion->sequence, owed->sequence);
		return;
	}
	memcpy(all, owed->tokens, owed->count * 4);
	memcpy(all + owed->count, owed->streamed, owed->sequence * 4);
	expect_token(client, &client->sessions[owed->session], all, owed->count + owed->sequence,
		completion->value, "GENERATE");
	owed->streamed[owed->sequence++] = (uint32_t)completion->value;
}

static void on_generate(struct sim_client *client, const struct owed *owed,
	const struct attnd_completion *completion)
{
	uint32_t all[128];

	memcpy(all, owed->tokens, owed->count * 4);
	memcpy(all + owed->count, owed->streamed, owed->sequence * 4);
	if (completion->status == ATTND_OK || stopped_midway(completion) ||
		(completion->status == ATTND_NO_PAGES && completion->started_ns))
		history_extend(client, &client->sessions[owed->session], all,
			owed->count + owed->sequence, completion->position);
}

static void on_fork(struct sim_client *client, const struct owed *owed,
	const struct attnd_completion *completion)
{
	const struct known *parent = &client->sessions[owed->session];

	if (completion->status != ATTND_OK)
		return;
	for (uint32_t i = 0; i < SIM_SESSIONS; i++) {
		struct known *child = &client->sessions[i];

		if (child->open || child->queued)
			continue;
		memcpy(child->history, parent->history, sizeof(child->history));
		child->open = true;
		child->handle = completion->value;
		child->length = owed->fork_keep && owed->fork_keep < parent->length
			? owed->fork_keep
			: parent->length;
		return;
	}
	/* No place to remember it: it stays open until this client ends, which is part of the
	 * exercise. */
}

static void on_final(
	struct sim_client *client, struct owed *owed, const struct attnd_completion *completion)
{
	struct known *session =
		owed->session < SIM_SESSIONS ? &client->sessions[owed->session] : NULL;

	if (session)
		session->queued--;
	switch (owed->op) {
	case ATTND_OP_OPEN:
		session->open = completion->status == ATTND_OK;
		session->handle = completion->value;
		session->length = 0;
		break;
	case ATTND_OP_STEP: on_step(client, owed, completion); break;
	case ATTND_OP_GENERATE: on_generate(client, owed, completion); break;
	case ATTND_OP_FORK: on_fork(client, owed, completion); break;
	case ATTND_OP_TRUNCATE:
		if (completion->status == ATTND_OK)
			session->length = completion->position;
		break;
	default: break;
	}
	/* A session is gone after a CLOSE or a device's failure; its later requests answer
	 * BAD_SESSION. */
	if (session &&
		((owed->op == ATTND_OP_CLOSE && completion->status == ATTND_OK) ||
			completion->status == ATTND_DEVICE_FAILED))
		session->open = false;
	owed->live = false;
	client->outstanding--;
}

static void consume_one(struct sim_client *client, const struct attnd_completion *completion)
{
	for (uint32_t i = 0; i < SIM_IN_FLIGHT; i++) {
		struct owed *owed = &client->owed[i];

		if (!owed->live || owed->id != completion->request_id)
			continue;
		if (completion->flags & ATTND_CPL_FINAL)
			on_final(client, owed, completion);
		else
			on_stream(client, owed, completion);
		return;
	}
	fail(client, "a completion for request %llu, which is owed nothing",
		(unsigned long long)completion->request_id);
}

int sim_client_consume(struct sim_client *client, bool insist, uint64_t *digest)
{
	struct attnd_completion completion;
	int taken = 0;

	if (!insist && client->clock->fake_ns < client->stalled_until_ns)
		return 0;
	while (shm_cpl_take(&client->end, &completion)) {
		uint64_t words[8];

		memcpy(words, &completion, sizeof(words));
		words[1] &= ~(UINT64_C(0xffff) << 16);
		for (int i = 0; i < 8; i++)
			*digest = base_mix64(*digest ^ words[i]);
		consume_one(client, &completion);
		taken++;
	}
	if (taken)
		shm_client_publish(&client->end);
	return taken;
}
