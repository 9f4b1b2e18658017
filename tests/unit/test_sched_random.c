/*
 * 200,000 random operations by clients that open, step, stream, fork, truncate, close, cancel,
 * starve themselves of credits, miss deadlines and die, on a small pool and a device that fails now
 * and then; with every other seed by two fronts that fall behind now and then. After every poll all
 * invariants hold; every request is completed exactly once; every result is what its session's
 * history alone says.
 *
 * SEED=n in the environment replays one seed; OPS=n changes how long each runs. Time limit: 300 s.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base_rand.h"
#include "tests/unit/sched_rig.h"

enum {
	SEEDS = 20,
	OPS_PER_SEED = 10000,
	CLIENTS = 8,
	SLOTS = 24,
	SLOT_BYTES = 40 << 10,
	SESSIONS = 63,
	SHADOWS = SESSIONS + CLIENTS * SLOTS, /* replies that say that one is closed may be read late */
	TOKENS = 320,
	REQUESTS_MAX = 1 << 20
};

/* A session as its client knows it. */
struct shadow {
	uint64_t handle;
	uint32_t client;
	bool live, raw, closing;  /* closing: a CLOSE is on its way */
	uint32_t position, total; /* total: with a drawn token that was not fed */
	uint32_t tokens[TOKENS + 1];
};

/* A request on its way, and its part of the client's arena. */
struct slot {
	bool busy;
	uint64_t id;
	struct attnd_request record;
	struct shadow *session;
	uint32_t count;              /* tokens */
	uint32_t drawn;              /* GENERATE: delivered so far */
	uint32_t tokens[TOKENS + 1]; /* what was sent, and then drawn */
	unsigned char *memory;
};

static struct rig rig;
static uint64_t random_state;
static struct shadow sessions[SHADOWS];
static struct slot slots[CLIENTS][SLOTS];
static uint8_t *finals; /* by request id */
static uint64_t statuses[ATTND_STATUS_END], tokens_checked, rows_checked, tokens_reused, evictions, drafts,
	drafts_accepted;

static uint32_t below(uint32_t n)
{
	return (uint32_t)base_rand_below(&random_state, n);
}

/* ---- replies -------------------------------------------------------------------------- */

static struct slot *slot_of(uint32_t client, uint64_t id)
{
	for (uint32_t s = 0; s < SLOTS; s++)
		if (slots[client][s].busy && slots[client][s].id == id)
			return &slots[client][s];
	return NULL;
}

static struct shadow *shadow_new(uint32_t client, uint64_t handle)
{
	for (uint32_t s = 0; s < SHADOWS; s++) {
		if (sessions[s].live)
			continue;
		memset(&sessions[s], 0, sizeof(sessions[s]));
		sessions[s].live = true;
		sessions[s].client = client;
		sessions[s].handle = handle;
		return &sessions[s];
	}
	fail_msg("more sessions than there are");
	return NULL;
}

/* The tokens that a request fed, by what its completion says, go to the end of the history. */
static void feed(
	struct shadow *shadow, const struct slot *slot, const struct attnd_completion *completion)
{
	uint32_t fed = completion->position - shadow->position;

	assert_true(completion->position >= shadow->position && fed <= slot->count + slot->drawn);
	memcpy(shadow->tokens + shadow->position, slot->tokens, sizeof(uint32_t) * fed);
	shadow->position += fed;
}

static void check_step(const struct shadow *shadow, const struct slot *slot,
	const struct attnd_completion *completion)
{
	struct attnd_step_args args;
	const uint32_t regular = rig.device_options.regular_permille;
	uint64_t hash = sim_regular_hash(sim_row_hash(shadow->tokens, shadow->position), shadow->position, regular), first_hash;
	const unsigned char *out = slot->memory + SLOT_BYTES / 4;
	uint32_t first = shadow->position - slot->count + 1, id = RIG_VOCAB / 2;

	memcpy(&args, &slot->record.args, sizeof(args));
	first_hash = args.select == ATTND_SELECT_LAST ? hash
							    : sim_regular_hash(sim_row_hash(shadow->tokens, first), first, regular);
	rows_checked++;
	if (args.output == ATTND_OUT_LOGITS)
		assert_true(((const float *)(const void *)out)[id] == sim_logit(first_hash, id));
	else if (args.output == ATTND_OUT_HIDDEN)
		assert_true(((const float *)(const void *)out)[3] == sim_hidden(first_hash, 3));
	else if (args.output == ATTND_OUT_TOP)
		assert_int_equal(((const struct attnd_top *)(const void *)out)->id,
			sim_argmax(first_hash, RIG_VOCAB));
	else if (args.output != ATTND_OUT_NONE)
		assert_true(
			*(const uint32_t *)(const void *)out == sim_argmax(first_hash, RIG_VOCAB) &&
			completion->value == sim_argmax(hash, RIG_VOCAB));
}

static void stream(struct slot *slot, const struct attnd_completion *completion)
{
	uint32_t history[TOKENS + 1], total = slot->session->position + slot->count + slot->drawn;

	assert_int_equal(completion->sequence, slot->drawn);
	assert_int_equal(completion->position, total);
	memcpy(history, slot->session->tokens, sizeof(uint32_t) * slot->session->position);
	memcpy(history + slot->session->position, slot->tokens,
		sizeof(uint32_t) * (slot->count + slot->drawn));
	assert_int_equal(completion->value, rig_argmax(&rig, history, total));
	slot->tokens[slot->count + slot->drawn++] = (uint32_t)completion->value;
	tokens_checked++;
}

static void ended(struct slot *slot, uint32_t client, const struct attnd_completion *completion)
{
	struct shadow *shadow = slot->session;
	bool ok = completion->status == ATTND_OK;

	if (completion->status == ATTND_DEVICE_FAILED || completion->status == ATTND_BAD_SESSION)
		shadow->live = false;
	switch ((enum attnd_op)slot->record.op) {
	case ATTND_OP_OPEN:
		if (ok)
			shadow_new(client, completion->value)->raw = slot->count == 1;
		break;
	case ATTND_OP_STEP:
	case ATTND_OP_GENERATE:
		if (completion->started_ns != 0 && shadow->live)
			feed(shadow, slot, completion);
		if (ok && slot->record.op == ATTND_OP_STEP)
			check_step(shadow, slot, completion);
		break;
	case ATTND_OP_FORK:
		if (ok) {
			struct shadow *child = shadow_new(client, completion->value);

			child->raw = shadow->raw;
			child->position =
				slot->record.argument ? slot->record.argument : shadow->position;
			memcpy(child->tokens, shadow->tokens, sizeof(child->tokens));
		}
		break;
	case ATTND_OP_TRUNCATE:
		if (ok && !shadow->raw)
			shadow->position = slot->record.argument;
		break;
	case ATTND_OP_CLOSE:
		if (ok)
			shadow->live = false;
		break;
	default: break;
	}
	slot->busy = false;
}

static void read_replies(void)
{
	for (uint32_t i = 0; i < rig.reply_count; i++) {
		const struct attnd_completion *completion = &rig.replies[i].completion;
		uint32_t client = rig.replies[i].client;
		struct slot *slot = slot_of(client, completion->request_id);

		assert_true(completion->request_id < REQUESTS_MAX);
		if (completion->flags & ATTND_CPL_FINAL) {
			statuses[completion->status]++;
			assert_int_equal(finals[completion->request_id]++, 0);
		}
		if (!slot)
			continue; /* a NOP or a CANCEL */
		if (completion->flags & ATTND_CPL_FINAL)
			ended(slot, client, completion);
		else
			stream(slot, completion);
	}
	rig.reply_count = 0;
}

/* ---- operations ----------------------------------------------------------------------- */

static struct slot *slot_free(uint32_t client)
{
	for (uint32_t s = 0; s < SLOTS; s++) {
		if (!slots[client][s].busy) {
			slots[client][s].memory = rig.arenas[client] + s * SLOT_BYTES;
			slots[client][s].count = slots[client][s].drawn = 0;
			return &slots[client][s];
		}
	}
	return NULL;
}

static struct shadow *any_session(uint32_t client, bool raw)
{
	uint32_t from = below(SHADOWS);

	for (uint32_t s = 0; s < SHADOWS; s++) {
		struct shadow *shadow = &sessions[(from + s) % SHADOWS];

		if (shadow->live && shadow->client == client && shadow->raw == raw &&
			!shadow->closing)
			return shadow;
	}
	return NULL;
}

static void send(
	uint32_t client, struct slot *slot, struct attnd_request record, struct shadow *session)
{
	record.priority_class = (uint8_t)below(ATTND_CLASS_END);
	record.session = session ? session->handle : 0;
	if (below(10) == 0 && record.op != ATTND_OP_OPEN)
		record.deadline_ns = rig.clock.fake_ns + 20000 + below(2000000);
	slot->record = record;
	slot->session = session;
	slot->busy = true;
	slot->id = rig_send(&rig, client, record, slot->memory, slot->memory + SLOT_BYTES / 4);
}

static void op_open(uint32_t client, struct slot *slot)
{
	struct attnd_open_params params = rig_open_params(below(RIG_MODELS));
	struct attnd_request record = { .op = ATTND_OP_OPEN, .in_bytes = sizeof(params) };

	if (below(5) == 0)
		params = rig_attention_params(2, 2, 1, 16 + 8 * below(3));
	else if (below(3) == 0)
		params.kv_k = params.kv_v = below(2) ? ATTND_KV_INT4 : ATTND_KV_INT8;
	slot->count = params.kind == ATTND_SESSION_ATTENTION;
	memcpy(slot->memory, &params, sizeof(params));
	send(client, slot, record, NULL);
}

/* Some prompts begin as others do. */
static void fill_tokens(struct slot *slot, const struct shadow *session, uint32_t most)
{
	const bool known = session->position == 0 && below(3) == 0;
	const uint32_t text = below(3);

	slot->count = known ? 1 + below(250) : below(3) ? 1 : 1 + below(most);
	for (uint32_t i = 0; i < slot->count; i++)
		slot->tokens[i] = known ? (text * 7 + i * (text + 1)) % RIG_VOCAB : below(RIG_VOCAB);
}

static void op_step(uint32_t client, struct slot *slot, struct shadow *session)
{
	struct attnd_step_args args = {
		.output = (uint8_t)below(ATTND_OUT_END), .select = (uint8_t)below(2), .top_k = 4
	};
	struct attnd_request record = { .op = ATTND_OP_STEP, .out_capacity = SLOT_BYTES * 3 / 4 };

	fill_tokens(slot, session, 100);
	memcpy(slot->memory, slot->tokens, sizeof(uint32_t) * slot->count);
	memcpy(&record.args, &args, sizeof(args));
	record.argument = slot->count;
	record.in_bytes = slot->count * (uint32_t)sizeof(uint32_t);
	send(client, slot, record, session);
}

static void op_generate(uint32_t client, struct slot *slot, struct shadow *session)
{
	struct attnd_generate_params params = { .struct_bytes = sizeof(params),
		.max_tokens = 1 + below(60),
		.between_ns = below(4) == 0 ? 50000 + below(500000) : 0 };
	struct attnd_request record = { .op = ATTND_OP_GENERATE };

	fill_tokens(slot, session, 60);
	memcpy(slot->memory, &params, sizeof(params));
	memcpy(slot->memory + sizeof(params), slot->tokens, sizeof(uint32_t) * slot->count);
	record.argument = slot->count;
	record.in_bytes = (uint32_t)sizeof(params) + slot->count * (uint32_t)sizeof(uint32_t);
	send(client, slot, record, session);
}

static void op_attend(uint32_t client, struct slot *slot, struct shadow *session)
{
	struct attnd_attend_params params = { .struct_bytes = sizeof(params),
		.layer = (uint16_t)below(2),
		.q_position = UINT32_MAX,
		.kv_rows = 1 + below(20),
		.flags = (uint8_t)below(4) };
	struct attnd_request record = { .out_capacity = SLOT_BYTES / 2 };
	uint32_t dim = 16 + 8 * below(3); /* often not the session's: BAD_SHAPE */

	params.q_rows = below(2) ? 1 + below(params.kv_rows) : 0;
	record.op = params.q_rows ? ATTND_OP_ATTEND : ATTND_OP_APPEND;
	record.in_bytes = 64 + (params.q_rows * 2 * dim * 4 + 63) / 64 * 64 +
		(params.kv_rows * dim * 4 + 63) / 64 * 64 + params.kv_rows * dim * 4;
	memcpy(slot->memory, &params, sizeof(params));
	send(client, slot, record, session);
}

static void op_host(uint32_t client, struct slot *slot, struct shadow *session, enum attnd_op op)
{
	/* Later than what is queued, so the position to keep is a guess. */
	uint32_t keep = session->position ? below(session->position + 10) : 0;

	if (op == ATTND_OP_FORK && session->raw)
		keep = 0;
	session->closing = op == ATTND_OP_CLOSE;
	send(client, slot, (struct attnd_request){ .op = (uint8_t)op, .argument = keep }, session);
}

static void op_cancel(uint32_t client)
{
	const struct slot *slot = &slots[client][below(SLOTS)];

	rig_send(&rig, client, (struct attnd_request){ .op = ATTND_OP_CANCEL, .args = slot->id },
		NULL, NULL);
}

static void drain(void)
{
	rig.stop_draining[0] = rig.stop_draining[1] = false;
}

static void die(uint32_t client)
{
	/* What came late is looked at while the client's memory is there. */
	drain();
	rig_poll(&rig);
	read_replies();
	rig_message(&rig, SCHED_CLIENT_GONE, client, 0, 0);
	while (rig.arenas[client]) {
		rig_poll(&rig);
		read_replies();
		if (sim_device_next_ns(rig.device) != INT64_MAX)
			rig.clock.fake_ns = sim_device_next_ns(rig.device) > rig.clock.fake_ns
				? sim_device_next_ns(rig.device)
				: rig.clock.fake_ns;
	}
	for (uint32_t s = 0; s < SLOTS; s++)
		slots[client][s].busy = false;
	for (uint32_t s = 0; s < SHADOWS; s++)
		if (sessions[s].client == client)
			sessions[s].live = false;
}

static void operate(void)
{
	uint32_t client = below(CLIENTS), what = below(100);
	struct shadow *session = any_session(client, what >= 66 && what < 74);
	struct slot *slot;

	if (!rig.arenas[client]) {
		rig_add(&rig, client, client % 4, below(40));
		return;
	}
	slot = slot_free(client);
	if (what == 0 && below(8) == 0)
		die(client);
	else if (what < 10)
		rig_message(&rig, SCHED_CREDIT, client, 0, below(30));
	else if (what < 16)
		op_cancel(client);
	else if (what < 20)
		rig_send(&rig, client, (struct attnd_request){ .op = ATTND_OP_NOP }, NULL, NULL);
	else if (!slot)
		return;
	else if (!session || what < 22)
		below(4) ? (void)0 : op_open(client, slot);
	else if (what < 56)
		op_step(client, slot, session);
	else if (what < 66)
		op_generate(client, slot, session);
	else if (what < 74)
		op_attend(client, slot, session);
	else if (what < 78)
		op_host(client, slot, session, ATTND_OP_FORK);
	else if (what < 90)
		op_host(client, slot, session, ATTND_OP_TRUNCATE);
	else
		op_host(client, slot, session, ATTND_OP_CLOSE);
}

/* ---- runs ----------------------------------------------------------------------------- */

static void start(uint64_t seed)
{
	random_state = seed;
	memset(sessions, 0, sizeof(sessions));
	memset(slots, 0, sizeof(slots));
	memset(finals, 0, REQUESTS_MAX);
	rig_init(&rig);
	rig.device_options.host_memory = seed % 2;
	rig.device_options.depth = 1 + seed % 3;
	rig.device_options.errors_per_million = 1000;
	rig.device_options.seed = seed;
	rig.device_options.regular_permille = seed % 3 ? 900 : 0;
	rig.options.speculate = seed % 5 ? (uint32_t)(seed % 16) : 0;
	if (seed % 2)
		rig.options.lanes[0].clients = CLIENTS;
	else
		rig_two_lanes(&rig, CLIENTS / 4, CLIENTS - CLIENTS / 4);
	rig.options.sessions_max = SESSIONS;
	rig.options.tokens_max = TOKENS;
	rig.options.requests_max = 96;
	rig.options.client_requests_max = 20;
	rig.options.step_rows_max = 4 + below(60);
	rig.options.prefill_chunk = 1 + below(40);
	rig.options.out_rows_max = 1 + below(rig.options.step_rows_max);
	rig.options.kv_extent_bytes = 64 << 10;
	rig.options.kv_bytes = (4 + below(28)) * rig.options.kv_extent_bytes;
	rig.tenants[2].kv_bytes_max = 200 << 10;
	rig.options.prefix_cache = seed % 4 != 0;
	rig.options.secret[0] = seed;
	rig.tenants[0].prefix_group = rig.tenants[1].prefix_group = (uint32_t)(seed / 4 % 2);
	rig.tenants[3].sessions_max = 4;
	rig_start(&rig);
}

static void run_seed(uint64_t seed, uint32_t ops)
{
	struct sched_counters counters;
	uint64_t sent = 0;

	start(seed);
	for (uint32_t i = 0; i < ops; i++) {
		operate();
		if (rig.options.lane_count > 1 && below(100) == 0)
			rig.stop_draining[below(2)] ^= true;
		for (uint32_t polls = below(3); polls > 0; polls--) {
			rig_poll(&rig);
			read_replies();
		}
		if (below(3) > 0)
			rig.clock.fake_ns += below(20000);
	}
	drain();
	/* Give every stream what it needs, and let everything end. */
	for (uint32_t c = 0; c < CLIENTS; c++)
		if (rig.arenas[c])
			rig_message(&rig, SCHED_CREDIT, c, 0, 100000);
	rig_run(&rig);
	read_replies();
	assert_true(rig.next_id < REQUESTS_MAX);
	for (uint32_t c = 0; c < CLIENTS; c++)
		for (uint32_t s = 0; s < SLOTS; s++)
			if (slots[c][s].busy)
				fail_msg("request %llu of client %u was never completed",
					(unsigned long long)slots[c][s].id, c);
	for (uint64_t id = 1; id <= rig.next_id; id++)
		sent += finals[id];
	assert_true(sent > rig.next_id * 9 / 10); /* the others' clients died */
	sched_counters_read(rig.sched, &counters);
	tokens_reused += counters.prefix_tokens;
	drafts += counters.draft_rows;
	drafts_accepted += counters.drafts_accepted;
	evictions += counters.prefix_evictions;
	rig_stop(&rig);
}

static void random_operations(void **state)
{
	const char *seed = getenv("SEED"), *ops_text = getenv("OPS");
	uint32_t ops = ops_text ? (uint32_t)strtoul(ops_text, NULL, 0) : OPS_PER_SEED;

	(void)state;
	finals = malloc(REQUESTS_MAX);
	assert_non_null(finals);
	for (uint64_t s = 1; s <= SEEDS; s++) {
		if (seed && strtoull(seed, NULL, 0) != s)
			continue;
		print_message("# seed %llu\n", (unsigned long long)s);
		run_seed(s, ops);
	}
	free(finals);
	print_message("# %llu rows and %llu tokens checked, %llu tokens found in the prefix cache, %llu of its pages evicted\n",
		(unsigned long long)rows_checked, (unsigned long long)tokens_checked, (unsigned long long)tokens_reused,
		(unsigned long long)evictions);
	print_message("# %llu tokens guessed, %llu of them right\n", (unsigned long long)drafts, (unsigned long long)drafts_accepted);
	if (seed || ops_text)
		return;
	assert_true(drafts_accepted > 400 && drafts > drafts_accepted + 200);
	assert_true(rows_checked > 8000 && tokens_checked > 10000 && tokens_reused > 5000 && evictions > 1000);
	for (enum attnd_status s = 0; s < ATTND_STATUS_END; s++)
		if (statuses[s])
			print_message("# status %2u: %llu\n", s, (unsigned long long)statuses[s]);
	assert_true(statuses[ATTND_CANCELLED] && statuses[ATTND_EXPIRED] &&
		statuses[ATTND_REFUSED_DEADLINE] && statuses[ATTND_NO_PAGES] &&
		statuses[ATTND_OVER_QUOTA] && statuses[ATTND_QUEUE_FULL] &&
		statuses[ATTND_CONTEXT_FULL] && statuses[ATTND_DEVICE_FAILED] &&
		statuses[ATTND_BAD_SESSION] && statuses[ATTND_BAD_POSITION] &&
		statuses[ATTND_NO_SESSIONS]);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(random_operations) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
