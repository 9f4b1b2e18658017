/*
 * Two fronts, each with its lane: what comes by which, that neither is held up by the other's flood or by the replies that the other
 * does not drain, and that neither can speak for the other's clients. The rig looks that every reply comes by its client's lane.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/base_error.h"
#include "sched/sched_private.h"
#include "tests/unit/sched_rig.h"

enum { EACH = 3, FIRST_OF_SECOND = EACH, CLIENTS = 2 * EACH };

static struct rig rig;

/* Clients 0 .. EACH-1 of lane 0 are of tenant 0, those of lane 1 of tenant 1. */
static void start(void)
{
	rig_two_lanes(&rig, EACH, EACH);
	rig_start(&rig);
	for (uint32_t c = 0; c < CLIENTS; c++)
		rig_add(&rig, c, c / EACH, 1000);
}

static void start_plain(void)
{
	rig_init(&rig);
	start();
}

static uint64_t nop(uint32_t client)
{
	return rig_send(&rig, client, (struct attnd_request){ .op = ATTND_OP_NOP }, NULL, NULL);
}

static uint64_t stream(uint32_t client, uint64_t session, uint32_t tokens)
{
	static const uint32_t prompt[3] = { 1, 2, 3 };

	return rig_generate(&rig, client, session, prompt, 3, (struct attnd_generate_params){ .max_tokens = tokens }, NULL,
		(struct attnd_request){ 0 });
}

static uint32_t replies_to(uint64_t id, bool finals)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < rig.reply_count; i++)
		count += rig.replies[i].completion.request_id == id && !(rig.replies[i].completion.flags & ATTND_CPL_FINAL) == !finals;
	return count;
}

/* Of all kinds, by turns between the lanes; clients leave by their lanes too (rig_stop). */
static void replies_come_by_their_clients_lane(void **state)
{
	enum { ROUNDS = 40, TOKENS = 7 };
	uint64_t sessions[CLIENTS], nops[ROUNDS][CLIENTS], streams[ROUNDS][CLIENTS];

	(void)state;
	start_plain();
	for (uint32_t c = 0; c < CLIENTS; c++)
		sessions[c] = rig_open(&rig, c, c % 2);
	for (uint32_t i = 0; i < ROUNDS; i++)
		for (uint32_t c = 0; c < CLIENTS; c++) {
			const uint32_t client = c / 2 + c % 2 * EACH;

			nops[i][client] = nop(client);
			streams[i][client] = stream(client, sessions[client], TOKENS);
			if (c == i % CLIENTS)
				rig_poll(&rig);
		}
	rig_run(&rig);
	for (uint32_t i = 0; i < ROUNDS; i++)
		for (uint32_t c = 0; c < CLIENTS; c++) {
			assert_int_equal(replies_to(nops[i][c], true), 1);
			assert_int_equal(replies_to(streams[i][c], true), 1);
			assert_int_equal(replies_to(streams[i][c], false), TOKENS);
		}
	assert_int_equal(rig.reply_count, ROUNDS * CLIENTS * (TOKENS + 2));
	rig.reply_count = 0;
	rig_stop(&rig);
	for (uint32_t c = 0; c < CLIENTS; c++)
		assert_int_equal(rig.quiesced[c], 1);
}

/* The first lane's queue is full of NOPs of this many bytes; how many polls until the second lane's client is answered. */
static uint32_t polls_behind_flood(uint32_t bytes)
{
	struct sched_message message = { .record = { .version = ATTND_VERSION, .op = ATTND_OP_NOP, .in_bytes = bytes, .out_capacity = bytes },
		.kind = SCHED_REQUEST,
		.out = rig_loan(&rig, 0, bytes) };
	uint32_t polls = 0, sent;
	uint64_t id;

	memset(message.out, 0, bytes);
	message.in = message.out;
	for (sent = 0; base_spsc_push(&rig.in[0], &message);)
		sent++;
	id = nop(FIRST_OF_SECOND);
	while (!rig_has(&rig, id)) {
		rig_poll(&rig);
		polls++;
	}
	assert_true(base_spsc_count(&rig.in[0]) >= sent - (uint64_t)polls * SCHED_MESSAGES_PER_POLL);
	rig_run(&rig);
	rig_rewind(&rig, 0);
	rig.reply_count = 0;
	return polls;
}

static void a_flood_holds_up_its_own_lane_alone(void **state)
{
	(void)state;
	start_plain();
	rig_run(&rig);
	assert_int_equal(polls_behind_flood(64), 1);
	/* Each of these is all that one poll takes, so lanes take turns. */
	for (uint32_t i = 0; i < 3; i++) {
		assert_true(polls_behind_flood(100 << 10) <= 2);
		rig_poll(&rig);
	}
	rig_stop(&rig);
}

/* The first front drains nothing any more: streams of its clients wait, and its requests in the queue. The second one's clients,
 * which are of another tenant, get all they ask for meanwhile; then all that is owed to the first comes, once. */
static void an_undrained_lane_waits_alone(void **state)
{
	enum { STREAMS = 80, TOKENS = 30, NOPS = 300 };
	uint64_t sessions[2][STREAMS], held[STREAMS], free[STREAMS], nops[NOPS], last;

	(void)state;
	rig_init(&rig);
	rig.options.requests_max = 2 * STREAMS;
	rig.options.client_requests_max = STREAMS;
	rig.options.sessions_max = 2 * STREAMS;
	start();
	for (uint32_t c = 0; c < CLIENTS; c++)
		rig_message(&rig, SCHED_CREDIT, c, 0, STREAMS * TOKENS);
	for (uint32_t i = 0; i < 2 * STREAMS; i++)
		sessions[i % 2][i / 2] = rig_open(&rig, i / 2 % EACH + i % 2 * EACH, 0);
	rig.stop_draining[0] = true;
	for (uint32_t i = 0; i < STREAMS; i++)
		held[i] = stream(i % EACH, sessions[0][i], TOKENS);
	for (uint32_t i = 0; i < NOPS; i++)
		nops[i] = nop(i % EACH);
	rig_run(&rig);
	assert_true(base_spsc_count(&rig.in[0]) > 0);
	for (uint32_t i = 0; i < STREAMS; i++)
		free[i] = stream(FIRST_OF_SECOND + i % EACH, sessions[1][i], TOKENS);
	rig_run(&rig);
	last = nop(FIRST_OF_SECOND);
	rig_poll(&rig);
	assert_int_equal(replies_to(last, true), 1);
	for (uint32_t i = 0; i < STREAMS; i++) {
		assert_int_equal(replies_to(free[i], false), TOKENS);
		assert_int_equal(replies_to(free[i], true), 1);
		assert_int_equal(replies_to(held[i], true), 0);
	}
	assert_false(sched_idle(rig.sched));
	rig.stop_draining[0] = false;
	rig_run(&rig);
	for (uint32_t i = 0; i < NOPS; i++)
		assert_int_equal(replies_to(nops[i], true), 1);
	for (uint32_t i = 0; i < STREAMS; i++) {
		assert_int_equal(replies_to(held[i], false), TOKENS);
		assert_int_equal(replies_to(held[i], true), 1);
	}
	rig_stop(&rig);
}

static void say(uint32_t lane, uint32_t kind, uint32_t client)
{
	const struct sched_message message = { .record = { .version = ATTND_VERSION, .op = ATTND_OP_NOP, .request_id = 77 },
		.kind = kind,
		.client = client,
		.credits = 5 };

	assert_true(base_spsc_push(&rig.in[lane], &message));
}

/* Not obeyed: requests, credits and departures of clients that are the other lane's, or nobody's. */
static void no_lane_speaks_for_anothers_clients(void **state)
{
	static const uint32_t strangers[2][4] = { { FIRST_OF_SECOND, CLIENTS - 1, CLIENTS, UINT32_MAX }, { 0, EACH - 1, CLIENTS, UINT32_MAX } };
	struct sched_counters before, after;
	uint64_t id;

	(void)state;
	rig_init(&rig);
	rig_two_lanes(&rig, EACH, EACH);
	rig_start(&rig);
	for (uint32_t c = 0; c < CLIENTS; c++)
		rig_add(&rig, c, c / EACH, 0);
	rig_run(&rig);
	sched_counters_read(rig.sched, &before);
	for (uint32_t lane = 0; lane < 2; lane++)
		for (uint32_t i = 0; i < 4; i++) {
			say(lane, SCHED_REQUEST, strangers[lane][i]);
			say(lane, SCHED_CREDIT, strangers[lane][i]);
			say(lane, SCHED_CLIENT_GONE, strangers[lane][i]);
		}
	rig_run(&rig);
	sched_counters_read(rig.sched, &after);
	assert_int_equal(after.gone, before.gone + 8);
	assert_int_equal(after.clients, CLIENTS);
	assert_int_equal(after.accepted, before.accepted);
	assert_int_equal(rig.reply_count, 0);
	assert_true(sched_idle(rig.sched));
	for (uint32_t c = 0; c < CLIENTS; c++) {
		nop(c);
		assert_false(sched_idle(rig.sched));
		id = stream(c, rig_open(&rig, c, 0), 2);
		rig_run(&rig);
		assert_false(rig_has(&rig, id)); /* it has no credit */
		rig_message(&rig, SCHED_CREDIT, c, 0, 2);
		rig_run(&rig);
		assert_int_equal(replies_to(id, true), 1);
	}
	rig_stop(&rig);
}

static void refused(const struct sched_options *options)
{
	struct sched *sched;

	assert_int_equal(sched_create(&sched, options), -EINVAL);
	assert_non_null(strstr(base_error_message(), "lane"));
}

static void lanes_are_checked(void **state)
{
	struct sched_options options;

	(void)state;
	start_plain();
	options = rig.options;
	options.lane_count = 0;
	refused(&options);
	options.lane_count = SCHED_LANES_MAX + 1;
	refused(&options);
	options = rig.options;
	options.lanes[1].in = NULL;
	refused(&options);
	options = rig.options;
	options.lanes[1].clients = 0;
	refused(&options);
	options.lanes[1].clients = 4096; /* `out` is too small for so many */
	refused(&options);
	options = rig.options;
	options.lanes[1].out = NULL;
	refused(&options);
	rig_stop(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(replies_come_by_their_clients_lane),
		cmocka_unit_test(a_flood_holds_up_its_own_lane_alone),
		cmocka_unit_test(an_undrained_lane_waits_alone),
		cmocka_unit_test(no_lane_speaks_for_anothers_clients),
		cmocka_unit_test(lanes_are_checked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
