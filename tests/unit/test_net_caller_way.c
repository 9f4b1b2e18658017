/*
 * The client's side over bad ways: packets are lost, doubled, late and changed, sockets break at any moment. Every request is executed once
 * and completes once, with its own result. What happens follows from seeds; a failure says its own.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base_rand.h"
#include "tests/unit/net_pair.h"

enum { SLOTS = 16, PAYLOAD_MAX = 40000, TOKENS_MAX = 40, LONG_BYTES = 1 << 20 };

static const int64_t ms = 1000000;

struct slot {
	struct attnd_request request;
	unsigned char in[PAYLOAD_MAX], out[PAYLOAD_MAX];
	uint32_t tokens; /* that have come */
	bool busy;
};

struct walk {
	struct net_pair pair;
	struct slot slots[SLOTS];
	uint64_t seed, sent, done;
	uint32_t payload_max;
};

static uint32_t below(struct walk *walk, uint32_t n)
{
	return (uint32_t)base_rand_below(&walk->seed, n);
}

/* ---- requests ----------------------------------------------------------------------------------------------- */

static void begin_request(struct walk *walk, struct slot *slot)
{
	const uint32_t kind = below(walk, 8), bytes = below(walk, 3) ? below(walk, 200) : below(walk, walk->payload_max);
	struct attnd_request request = { .op = ATTND_OP_NOP, .request_id = (uint64_t)(slot - walk->slots) };
	int rc;

	if (kind == 0) {
		request.op = ATTND_OP_DESCRIBE;
		request.session = walk->sent;
		request.argument = request.out_capacity = bytes;
	} else if (kind == 1) {
		request.op = ATTND_OP_GENERATE;
		request.session = walk->sent;
		request.argument = 1 + below(walk, TOKENS_MAX);
		request.out_capacity = 4 * request.argument;
	} else {
		request.args = walk->sent;
		request.in_bytes = request.out_capacity = bytes;
		for (uint32_t i = 0; i < bytes; i++)
			slot->in[i] = (unsigned char)base_mix64(walk->sent * 40000 + i);
	}
	memset(slot->out, 0, sizeof(slot->out));
	rc = net_caller_send(walk->pair.caller, &request, slot->in, slot->out);
	assert_true(rc == 0 || rc == -EAGAIN); /* the window of inputs is full */
	if (rc)
		return;
	slot->request = request;
	slot->tokens = 0;
	slot->busy = true;
	walk->sent++;
}

static void check_result(const struct slot *slot)
{
	const struct attnd_request *request = &slot->request;
	uint32_t token;

	if (request->op == ATTND_OP_NOP)
		assert_memory_equal(slot->in, slot->out, request->in_bytes);
	for (uint32_t i = 0; request->op == ATTND_OP_DESCRIBE && i < request->argument; i++)
		assert_int_equal(slot->out[i], (unsigned char)(i * 7 + request->session));
	for (uint32_t i = 0; request->op == ATTND_OP_GENERATE && i < request->argument; i++) {
		memcpy(&token, slot->out + (size_t)i * 4, sizeof(token));
		assert_int_equal(token, (uint32_t)request->session + i);
	}
}

static void end_request(struct walk *walk, const struct attnd_completion *completion)
{
	struct slot *slot = &walk->slots[completion->request_id];

	assert_true(completion->request_id < SLOTS && slot->busy);
	assert_int_equal(completion->status, ATTND_OK);
	if (!(completion->flags & ATTND_CPL_FINAL)) {
		assert_int_equal(slot->request.op, ATTND_OP_GENERATE);
		assert_int_equal(completion->sequence, slot->tokens++);
		assert_int_equal(completion->value, slot->request.session + completion->sequence);
		return;
	}
	if (slot->request.op == ATTND_OP_NOP)
		assert_int_equal(completion->value, slot->request.args);
	if (slot->request.op == ATTND_OP_GENERATE)
		assert_int_equal(slot->tokens, slot->request.argument);
	assert_int_equal(completion->result_bytes, slot->request.out_capacity);
	check_result(slot);
	slot->busy = false;
	walk->done++;
}

/* ---- a walk ------------------------------------------------------------------------------------------------- */

static void come_back_if_lost(struct walk *walk)
{
	const enum net_caller_state state = net_caller_state(walk->pair.caller);

	assert_int_not_equal(state, NET_CALLER_ENDED);
	assert_int_not_equal(state, NET_CALLER_REFUSED);
	if (state == NET_CALLER_LOST)
		net_pair_start(&walk->pair, true);
}

static void go(struct walk *walk, uint32_t requests, uint32_t breaks_of_1000)
{
	struct attnd_completion completion;

	while (walk->done < requests) {
		struct slot *slot = &walk->slots[below(walk, SLOTS)];

		if (!slot->busy && walk->sent < requests)
			begin_request(walk, slot);
		(void)net_pair_step(&walk->pair, walk->pair.now_ns + 1000 + below(walk, 500000));
		if (breaks_of_1000 && below(walk, 1000) < breaks_of_1000)
			net_caller_broke(walk->pair.caller);
		come_back_if_lost(walk);
		while (net_caller_receive(walk->pair.caller, &completion))
			end_request(walk, &completion);
		if (below(walk, 20) == 0)
			net_caller_rest(walk->pair.caller);
		assert_true(walk->pair.now_ns < 600000 * ms);
	}
	assert_int_equal(walk->pair.peer.executed, requests);
	assert_int_equal(walk->pair.peer.errors, 0);
	assert_false(net_caller_receive(walk->pair.caller, &completion));
	net_caller_rest(walk->pair.caller);
	walk->pair.faults = (struct net_faults){ .lost = 0 };
	for (int i = 0; i < 10; i++) {
		net_pair_pass(&walk->pair, 100 * ms);
		come_back_if_lost(walk);
	}
	assert_int_equal(net_outbox_kept(walk->pair.peer.outbox), 0);
	assert_false(net_caller_receive(walk->pair.caller, &completion));
}

static struct walk *walk_create(bool datagram, bool plain, struct net_faults faults, uint64_t seed, bool no_haves)
{
	struct walk *walk = calloc(1, sizeof(*walk));

	assert_non_null(walk);
	walk->pair.options.datagram = datagram;
	walk->pair.options.plain = walk->pair.peer.plain = plain;
	walk->pair.peer.wants_cookie = seed % 2;
	walk->pair.peer.no_haves = no_haves;
	walk->pair.faults = faults;
	walk->pair.seed = walk->seed = seed;
	walk->pair.datagram_bytes = datagram ? (seed % 3 ? 1232 : 9000) : 0;
	walk->pair.peer.message_bytes = walk->pair.options.message_bytes_max = PAYLOAD_MAX;
	walk->pair.peer.window_bytes = 3 * PAYLOAD_MAX;
	walk->payload_max = PAYLOAD_MAX;
	net_pair_create(&walk->pair);
	net_pair_open(&walk->pair);
	return walk;
}

static void walk_end(struct walk *walk)
{
	net_pair_destroy(&walk->pair);
	free(walk);
}

static void many_walks(bool datagram, bool plain, struct net_faults faults, uint32_t breaks_of_1000, uint64_t seeds, uint32_t requests)
{
	for (uint64_t seed = 1; seed <= seeds; seed++) {
		struct walk *walk = walk_create(datagram, plain, faults, seed, false);

		go(walk, requests, breaks_of_1000);
		walk_end(walk);
	}
}

/* ---- ways --------------------------------------------------------------------------------------------------- */

static void a_good_way(void **state)
{
	(void)state;
	many_walks(true, false, (struct net_faults){ .lost = 0 }, 0, 2, 1000);
	many_walks(false, false, (struct net_faults){ .lost = 0 }, 0, 2, 1000);
}

static void packets_are_lost(void **state)
{
	(void)state;
	many_walks(true, false, (struct net_faults){ .lost = 20 }, 0, 4, 500);
	many_walks(true, false, (struct net_faults){ .lost = 150 }, 0, 4, 300);
}

static void packets_are_late_and_doubled(void **state)
{
	(void)state;
	many_walks(true, false, (struct net_faults){ .late = 300, .doubled = 200 }, 0, 6, 400);
	many_walks(true, true, (struct net_faults){ .late = 300, .doubled = 200 }, 0, 6, 400);
}

static void packets_are_changed(void **state)
{
	(void)state;
	many_walks(true, false, (struct net_faults){ .changed = 50 }, 0, 6, 400);
}

static void everything_happens(void **state)
{
	(void)state;
	many_walks(true, false, (struct net_faults){ .lost = 50, .doubled = 50, .late = 100, .changed = 20 }, 2, 10, 300);
	many_walks(true, true, (struct net_faults){ .lost = 50, .doubled = 50, .late = 100 }, 2, 10, 300);
}

static void sockets_break(void **state)
{
	(void)state;
	many_walks(false, false, (struct net_faults){ .late = 100 }, 10, 10, 500);
	many_walks(false, true, (struct net_faults){ .late = 100 }, 10, 10, 500);
	many_walks(true, false, (struct net_faults){ .late = 100 }, 10, 10, 500);
}

/* Somewhere on the way long datagrams vanish without a word: with short ones everything completes. */
static void long_packets_vanish(void **state)
{
	(void)state;
	for (uint64_t seed = 3; seed <= 54; seed += 3) { /* those whose datagrams are long */
		const struct net_faults faults = {
			.longest_there = seed % 9 ? 1400 : 0, .longest_back = seed % 9 == 3 ? 0 : 1400, .lost = seed > 27 ? 20 : 0 };
		struct walk *walk = walk_create(true, seed % 2, faults, seed, seed % 5 == 0);

		go(walk, 100, 0);
		assert_true(net_caller_counts(walk->pair.caller)->narrowed > 0);
		walk_end(walk);
	}
}

/* A way that takes them is not taken for one that does not, though it loses a tenth, and somebody thinks for seconds. */
static void long_packets_arrive(void **state)
{
	(void)state;
	for (uint64_t seed = 3; seed <= 24; seed += 3) {
		struct walk *walk = walk_create(true, false, (struct net_faults){ .lost = 100, .late = 100 }, seed, false);

		go(walk, 200, 0);
		assert_int_equal(net_caller_counts(walk->pair.caller)->narrowed, 0);
		walk_end(walk);
	}
}

/* Daemons that do not say HAVE, or not yet. */
static void without_haves(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 4; seed++) {
		struct walk *walk = walk_create(true, false, (struct net_faults){ .lost = 50, .late = 100 }, seed, true);

		go(walk, 300, 0);
		assert_int_equal(walk->pair.peer.haves, 0);
		walk_end(walk);
	}
}

/* ---- long messages ------------------------------------------------------------------------------------------ */

struct carried { uint64_t there, back; int64_t took_ns; };

/* A megabyte to the daemon and back, a few times. */
static struct carried carry_long(struct net_faults faults, int64_t trip_ns)
{
	enum { TIMES = 4 };
	struct net_pair *pair = calloc(1, sizeof(*pair));
	unsigned char *in = malloc(LONG_BYTES), *out = malloc(LONG_BYTES);
	struct carried carried;

	pair->options.datagram = true;
	pair->trip_ns = trip_ns;
	pair->peer.message_bytes = pair->options.message_bytes_max = LONG_BYTES;
	pair->peer.window_bytes = 2 * LONG_BYTES;
	net_pair_create(pair);
	net_pair_open(pair);
	net_pair_pass(pair, 10 * ms);
	pair->faults = faults;
	carried = (struct carried){ .there = pair->there.sent, .back = pair->back.sent, .took_ns = pair->now_ns };
	for (uint32_t i = 0; i < TIMES; i++) {
		const struct attnd_request request = { .op = ATTND_OP_NOP, .request_id = i, .in_bytes = LONG_BYTES, .out_capacity = LONG_BYTES };

		memset(in, (int)i + 1, LONG_BYTES);
		memset(out, 0, LONG_BYTES);
		assert_int_equal(net_caller_send(pair->caller, &request, in, out), 0);
		assert_int_equal(net_pair_receive(pair).result_bytes, LONG_BYTES);
		assert_memory_equal(in, out, LONG_BYTES);
	}
	assert_int_equal(pair->peer.executed, TIMES);
	carried.there = (pair->there.sent - carried.there) / TIMES;
	carried.back = (pair->back.sent - carried.back) / TIMES;
	carried.took_ns = (pair->now_ns - carried.took_ns) / TIMES;
	net_pair_destroy(pair);
	free(pair);
	free(in);
	free(out);
	return carried;
}

/* 1,024 units each way, a packet each; acknowledgements; and little more than what was lost again. */
static void long_messages(void **state)
{
	static const struct { struct net_faults faults; uint64_t most; int64_t most_ns; } cases[] = {
		{ { .lost = 0 }, 1200, 2 * ms },
		{ { .lost = 10 }, 1200, 20 * ms },
		{ { .lost = 100 }, 1500, 100 * ms },
		{ { .late = 100 }, 1700, 20 * ms },
		{ { .lost = 20, .late = 20, .doubled = 20, .changed = 20 }, 1500, 50 * ms },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		const struct carried carried = carry_long(cases[i].faults, 50000);

		assert_in_range(carried.there, LONG_BYTES / NET_UNIT_BYTES, cases[i].most);
		assert_in_range(carried.back, LONG_BYTES / NET_UNIT_BYTES, cases[i].most);
		assert_in_range(carried.took_ns, 0, cases[i].most_ns);
	}
}

/* ---- how long the way is ------------------------------------------------------------------------------------ */

static struct net_pair *opened(void)
{
	struct net_pair *pair = calloc(1, sizeof(*pair));

	assert_non_null(pair);
	pair->options.datagram = true;
	net_pair_create(pair);
	net_pair_open(pair);
	return pair;
}

static void destroy(struct net_pair *pair)
{
	net_pair_destroy(pair);
	free(pair);
}

static void send_nop(struct net_pair *pair, uint64_t id)
{
	const struct attnd_request request = { .op = ATTND_OP_NOP, .request_id = id };

	assert_int_equal(net_caller_send(pair->caller, &request, NULL, NULL), 0);
}

static void ask(struct net_pair *pair, uint64_t requests)
{
	for (uint64_t i = 0; i < requests; i++) {
		send_nop(pair, i);
		assert_int_equal(net_pair_receive(pair).request_id, i);
	}
}

/* What answers a HELLO that was said twice may answer the first one: how long the way is remains to be seen. */
static void a_repeated_hello_measures_nothing(void **state)
{
	struct net_pair *pair = calloc(1, sizeof(*pair));
	const struct net_pace *pace;

	(void)state;
	pair->options.datagram = true;
	net_pair_create(pair);
	net_pair_start(pair, false);
	pair->faults.lost = 1000;
	net_pair_pass(pair, 30 * ms);
	pair->faults.lost = 0;
	while (net_caller_state(pair->caller) == NET_CALLER_SHAKING)
		assert_true(net_pair_step(pair, pair->now_ns + 1000 * ms));
	pace = net_caller_pace(pair->caller);
	assert_int_equal(pace->trip_ns, 0);
	assert_in_range(net_pace_error_ns(pace, pair->now_ns), 10 * ms, 100 * ms); /* but so much is known of the clock */
	net_pair_pass(pair, ms);
	assert_in_range(pace->trip_ns, pair->trip_ns, pair->trip_ns + 1000);
	assert_in_range(net_pace_error_ns(pace, pair->now_ns), 0, pair->trip_ns);
	destroy(pair);
}

/* A busy connection measures it, too. A way that was long for a moment, when it was first measured, is not thought to be so for ever. */
static void a_way_changes(void **state)
{
	struct net_pair *pair = calloc(1, sizeof(*pair));
	const uint64_t *resends;
	uint64_t before;

	(void)state;
	pair->options.datagram = true;
	pair->trip_ns = 200 * ms;
	net_pair_create(pair);
	net_pair_open(pair);
	resends = &net_caller_counts(pair->caller)->resends;
	net_pair_pass(pair, 240 * ms);
	assert_in_range(net_caller_pace(pair->caller)->trip_ns, 200 * ms, 201 * ms);
	pair->trip_ns = ms;
	ask(pair, 1200);
	assert_in_range(net_caller_pace(pair->caller)->trip_ns, ms, 2 * ms);
	pair->trip_ns = 10 * ms;
	ask(pair, 300);
	assert_in_range(net_caller_pace(pair->caller)->trip_ns, 8 * ms, 11 * ms);
	before = *resends;
	ask(pair, 100);
	assert_int_equal(*resends, before);
	assert_int_equal(pair->peer.executed, 1600);
	destroy(pair);
}

/* Nor does what asks for an answer, again and again, hide that nobody is there. */
static void silence_is_noticed_while_something_is_awaited(void **state)
{
	struct net_pair *pair = opened();

	(void)state;
	net_pair_pass(pair, 10 * ms);
	send_nop(pair, 1);
	pair->peer.deaf = true;
	net_pair_pass(pair, 900 * ms);
	assert_int_equal(net_caller_state(pair->caller), NET_CALLER_OPEN);
	net_pair_pass(pair, 200 * ms);
	assert_int_equal(net_caller_state(pair->caller), NET_CALLER_LOST);
	destroy(pair);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_good_way),
		cmocka_unit_test(packets_are_lost),
		cmocka_unit_test(packets_are_late_and_doubled),
		cmocka_unit_test(packets_are_changed),
		cmocka_unit_test(everything_happens),
		cmocka_unit_test(sockets_break),
		cmocka_unit_test(long_packets_vanish),
		cmocka_unit_test(long_packets_arrive),
		cmocka_unit_test(without_haves),
		cmocka_unit_test(long_messages),
		cmocka_unit_test(a_repeated_hello_measures_nothing),
		cmocka_unit_test(a_way_changes),
		cmocka_unit_test(silence_is_noticed_while_something_is_awaited),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
