/*
 * The client's side of a connection against a daemon made of the same parts: handshakes, refusals, requests, clocks, timers, resuming.
 * What a bad way does to it is in test_net_caller_way.c, and what a bad daemon does in test_net_caller_hostile.c.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/net_pair.h"

static const int64_t ms = 1000000;

static struct net_pair *create(bool datagram)
{
	struct net_pair *pair = calloc(1, sizeof(*pair));

	assert_non_null(pair);
	pair->options.datagram = datagram;
	return pair;
}

static struct net_pair *opened(bool datagram)
{
	struct net_pair *pair = create(datagram);

	net_pair_create(pair);
	net_pair_open(pair);
	return pair;
}

static void destroy(struct net_pair *pair)
{
	net_pair_destroy(pair);
	free(pair);
}

static int send_nop(struct net_pair *pair, uint64_t id)
{
	const struct attnd_request request = { .op = ATTND_OP_NOP, .request_id = id, .args = ~id };

	return net_caller_send(pair->caller, &request, NULL, NULL);
}

static void check_nop(struct net_pair *pair, uint64_t id)
{
	const struct attnd_completion completion = net_pair_receive(pair);

	assert_int_equal(completion.request_id, id);
	assert_int_equal(completion.value, ~id);
	assert_int_equal(completion.flags, ATTND_CPL_FINAL);
	assert_int_equal(completion.lap, 0);
}

/* ---- handshake ---------------------------------------------------------------------------------------------- */

static void shake(bool datagram, bool plain, uint32_t ciphers, bool cookie)
{
	struct net_pair *pair = create(datagram);

	pair->options.plain = pair->peer.plain = plain;
	pair->peer.ciphers = ciphers;
	pair->peer.wants_cookie = cookie;
	net_pair_create(pair);
	assert_int_equal(send_nop(pair, 1), -ENOTCONN);
	net_pair_open(pair);
	assert_int_equal(net_caller_welcome(pair->caller)->boot_id, 99);
	assert_int_equal(send_nop(pair, 7), 0);
	check_nop(pair, 7);
	assert_int_equal(pair->peer.errors, 0);
	destroy(pair);
}

static void handshakes(void **state)
{
	(void)state;
	for (int datagram = 0; datagram < 2; datagram++) {
		shake(datagram, false, 0, false);
		shake(datagram, false, 1u << NET_CIPHER_CHACHA, false);
		shake(datagram, true, 0, false);
	}
	shake(true, false, 0, true);
	shake(true, false, 1u << NET_CIPHER_CHACHA, true);
	shake(true, true, 0, true);
}

static void refused(bool datagram, uint32_t refuses, uint32_t why)
{
	struct net_pair *pair = create(datagram);

	pair->peer.refuses = refuses;
	pair->options.plain = why == NET_WHY_KEY; /* it wants a key */
	net_pair_create(pair);
	net_pair_start(pair, false);
	net_pair_pass(pair, 1000 * ms);
	assert_int_equal(net_caller_state(pair->caller), NET_CALLER_REFUSED);
	assert_int_equal(net_caller_why(pair->caller), why);
	assert_int_equal(send_nop(pair, 1), -ENOTCONN);
	destroy(pair);
}

static void refusals(void **state)
{
	(void)state;
	for (int datagram = 0; datagram < 2; datagram++) {
		refused(datagram, NET_WHY_FULL, NET_WHY_FULL);
		refused(datagram, NET_WHY_DRAINING, NET_WHY_DRAINING);
		refused(datagram, 0, NET_WHY_KEY);
	}
}

/* Anybody can say it; whoever can say WELCOME is right. */
static void a_refusal_that_somebody_else_sent(void **state)
{
	struct net_pair *pair = create(true);
	unsigned char packet[64];

	(void)state;
	net_pair_create(pair);
	net_pair_start(pair, false);
	pair->peer.deaf = true;
	net_pair_pass(pair, 5 * ms);
	net_refused_write(packet + NET_DATAGRAM_HEAD_BYTES, &(struct net_refused){ .why = NET_WHY_FULL });
	net_pair_inject(pair, packet, net_packet_clear(packet, true, NET_REFUSED, 0, NET_REFUSED_BYTES));
	assert_int_equal(net_caller_state(pair->caller), NET_CALLER_SHAKING);
	pair->peer.deaf = false;
	net_pair_pass(pair, 100 * ms);
	assert_int_equal(net_caller_state(pair->caller), NET_CALLER_OPEN);
	destroy(pair);
}

/* One HELLO may have been changed on the way, and be refused as none; three were not. */
static void a_refusal_is_believed_the_third_time(void **state)
{
	struct net_pair *pair = create(true);
	unsigned char packet[64];

	(void)state;
	net_pair_create(pair);
	net_pair_start(pair, false);
	pair->peer.deaf = true;
	for (int i = 0; i < 3; i++) {
		net_pair_pass(pair, 1000 * ms);
		assert_int_equal(net_caller_state(pair->caller), NET_CALLER_SHAKING);
		net_refused_write(packet + NET_DATAGRAM_HEAD_BYTES, &(struct net_refused){ .why = NET_WHY_PROTOCOL });
		net_pair_inject(pair, packet, net_packet_clear(packet, true, NET_REFUSED, 0, NET_REFUSED_BYTES));
	}
	net_pair_pass(pair, 1000 * ms);
	assert_int_equal(net_caller_state(pair->caller), NET_CALLER_REFUSED);
	destroy(pair);
}

static void a_daemon_that_is_not_there_is_asked_again(void **state)
{
	struct net_pair *pair = create(true);

	(void)state;
	net_pair_create(pair);
	net_pair_start(pair, false);
	pair->peer.deaf = true;
	net_pair_pass(pair, 1000 * ms);
	assert_int_equal(net_caller_state(pair->caller), NET_CALLER_SHAKING);
	assert_in_range(net_caller_counts(pair->caller)->hellos, 5, 10);
	pair->peer.deaf = false;
	net_pair_pass(pair, 300 * ms);
	assert_int_equal(net_caller_state(pair->caller), NET_CALLER_OPEN);
	destroy(pair);
}

/* The same HELLO again is the same bytes; another one has another key. */
static void a_key_for_each_hello(void **state)
{
	static unsigned char first[NET_PACKET_BYTES_MAX], again[NET_PACKET_BYTES_MAX], cookie[64];
	struct net_pair *pair = create(true);
	const size_t key = NET_DATAGRAM_HEAD_BYTES + NET_CLEAR_BYTES;

	(void)state;
	net_pair_create(pair);
	net_pair_start(pair, false);
	assert_int_equal(net_caller_next_packet(pair->caller, pair->now_ns, first), NET_HELLO_DATAGRAM_BYTES);
	assert_int_equal(net_caller_next_packet(pair->caller, pair->now_ns, again), 0);
	pair->now_ns = net_caller_event_ns(pair->caller);
	assert_int_equal(net_caller_next_packet(pair->caller, pair->now_ns, again), NET_HELLO_DATAGRAM_BYTES);
	assert_memory_equal(first, again, NET_HELLO_DATAGRAM_BYTES);
	memset(cookie + NET_DATAGRAM_HEAD_BYTES, 5, NET_COOKIE_BYTES);
	net_pair_inject(pair, cookie, net_packet_clear(cookie, true, NET_COOKIE, 0, NET_COOKIE_BYTES));
	assert_int_equal(net_caller_next_packet(pair->caller, pair->now_ns, again), NET_HELLO_DATAGRAM_BYTES);
	assert_memory_equal(again + key - NET_COOKIE_BYTES, cookie + NET_DATAGRAM_HEAD_BYTES, NET_COOKIE_BYTES);
	assert_memory_not_equal(first + key, again + key, NET_KEY_BYTES);
	net_pair_inject(pair, cookie, NET_DATAGRAM_HEAD_BYTES + NET_COOKIE_BYTES); /* the answer to the first HELLO's second time */
	assert_int_equal(net_caller_next_packet(pair->caller, pair->now_ns, again), 0);
	destroy(pair);
}

/* ---- requests ----------------------------------------------------------------------------------------------- */

static void as_many_as_may_be(void **state)
{
	struct net_pair *pair = opened(false);
	uint64_t sent = 0, done = 0;

	(void)state;
	for (int round = 0; round < 500; round++) {
		while (send_nop(pair, sent) == 0)
			sent++;
		assert_int_equal(send_nop(pair, sent), -EAGAIN);
		assert_int_equal(sent - done, 16);
		for (int i = 0; i < 1 + round % 16; i++)
			check_nop(pair, done++);
	}
	while (done < sent)
		check_nop(pair, done++);
	assert_int_equal(pair->peer.executed, sent);
	assert_int_equal(pair->peer.repeated, 0);
	destroy(pair);
}

static void payload(bool datagram)
{
	struct net_pair *pair = opened(datagram);
	unsigned char *in = malloc(100000), *out = malloc(100000);

	for (unsigned i = 0; i < 100000; i++)
		in[i] = (unsigned char)(i * 11);
	for (uint32_t bytes = 1; bytes < 100000; bytes = bytes * 3 + 1) {
		const struct attnd_request request = { .op = ATTND_OP_NOP, .request_id = bytes, .in_offset = 5, .in_bytes = bytes, .out_offset = 9,
			.out_capacity = bytes };
		struct attnd_completion completion;

		memset(out, 0, 100000);
		assert_int_equal(net_caller_send(pair->caller, &request, in, out), 0);
		completion = net_pair_receive(pair);
		assert_int_equal(completion.result_bytes, bytes);
		assert_memory_equal(in, out, bytes);
		assert_int_equal(out[bytes], 0);
	}
	destroy(pair);
	free(in);
	free(out);
}

static void payloads(void **state)
{
	(void)state;
	payload(false);
	payload(true);
}

static void what_is_too_long(void **state)
{
	struct net_pair *pair = opened(false);
	struct attnd_request request = { .op = ATTND_OP_NOP, .in_bytes = (1 << 18) + 1 };
	unsigned char out[100];

	(void)state;
	assert_int_equal(net_caller_send(pair->caller, &request, out, NULL), -EMSGSIZE);
	/* Room beyond what can come does no harm. */
	request = (struct attnd_request){ .op = ATTND_OP_DESCRIBE, .argument = 100, .out_capacity = UINT32_MAX };
	assert_int_equal(net_caller_send(pair->caller, &request, NULL, out), 0);
	assert_int_equal(net_pair_receive(pair).result_bytes, 100);
	destroy(pair);
}

/* More tokens than credits, and more than the output has room for. */
static void tokens(bool datagram)
{
	const struct attnd_request request = { .op = ATTND_OP_GENERATE, .request_id = 3, .session = 1000, .argument = 200,
		.out_capacity = 403 };
	struct net_pair *pair = opened(datagram);
	struct attnd_completion completion;
	uint32_t out[101] = { 0 };

	assert_int_equal(net_caller_send(pair->caller, &request, NULL, out), 0);
	for (uint32_t i = 0; i < 200; i++) {
		completion = net_pair_receive(pair);
		assert_int_equal(completion.request_id, 3);
		assert_int_equal(completion.sequence, i);
		assert_int_equal(completion.value, 1000 + i);
		assert_int_equal(completion.flags, 0);
		assert_int_equal(completion.result_bytes, i < 100 ? 4 * (i + 1) : 400);
		assert_int_equal(out[i < 100 ? i : 99], 1000 + (i < 100 ? i : 99));
		assert_int_equal(out[100], 0);
	}
	memset(out, 0, sizeof(out));
	completion = net_pair_receive(pair);
	assert_int_equal(completion.flags, ATTND_CPL_FINAL);
	assert_int_equal(completion.result_bytes, 400);
	assert_int_equal(out[0], 1000);
	assert_int_equal(out[99], 1099);
	assert_int_equal(out[100], 0);
	destroy(pair);
}

static void streams(void **state)
{
	(void)state;
	tokens(false);
	tokens(true);
}

static void a_cancel_finds_its_request(void **state)
{
	const struct attnd_request held = { .op = ATTND_OP_STEP, .request_id = UINT64_MAX };
	struct attnd_request cancel = { .op = ATTND_OP_CANCEL, .request_id = 5, .args = UINT64_MAX - 1 };
	struct net_pair *pair = opened(false);
	struct attnd_completion completion;

	(void)state;
	assert_int_equal(net_caller_send(pair->caller, &held, NULL, NULL), 0);
	assert_int_equal(net_caller_send(pair->caller, &cancel, NULL, NULL), 0);
	completion = net_pair_receive(pair);
	assert_int_equal(completion.request_id, 5);
	assert_int_equal(completion.value, 0);
	cancel.args = UINT64_MAX;
	assert_int_equal(net_caller_send(pair->caller, &cancel, NULL, NULL), 0);
	completion = net_pair_receive(pair);
	assert_int_equal(completion.request_id, UINT64_MAX);
	assert_int_equal(completion.status, ATTND_CANCELLED);
	assert_int_equal(net_pair_receive(pair).value, 1);
	destroy(pair);
}

/* ---- what is said without being asked ----------------------------------------------------------------------- */

/* Two packets per request: acknowledgements go along with the next one. */
static void acknowledgements_go_along(void **state)
{
	struct net_pair *pair = opened(true);
	uint64_t there, back;

	(void)state;
	net_pair_pass(pair, ms);
	there = pair->there.sent;
	back = pair->back.sent;
	for (uint64_t id = 0; id < 1000; id++) {
		assert_int_equal(send_nop(pair, id), 0);
		check_nop(pair, id);
	}
	assert_in_range(pair->there.sent - there, 1000, 1005);
	assert_in_range(pair->back.sent - back, 1000, 1005);
	assert_in_range(pair->peer.acks, 990, 1010);
	destroy(pair);
}

static void an_acknowledgement_goes_alone(void **state)
{
	struct net_pair *pair = opened(true);
	uint64_t there, acks;

	(void)state;
	assert_int_equal(send_nop(pair, 1), 0);
	check_nop(pair, 1);
	there = pair->there.sent;
	acks = pair->peer.acks;
	net_pair_pass(pair, 10 * ms);
	assert_int_equal(pair->there.sent, there + 1);
	assert_int_equal(pair->peer.acks, acks + 1);
	assert_int_equal(send_nop(pair, 2), 0);
	check_nop(pair, 2);
	net_caller_rest(pair->caller);
	net_pair_pass(pair, ms / 10);
	assert_int_equal(pair->peer.acks, acks + 2);
	assert_int_equal(net_outbox_kept(pair->peer.outbox), 0);
	destroy(pair);
}

static void the_clock(void **state)
{
	struct net_pair *pair = opened(true);
	const struct net_pace *pace = net_caller_pace(pair->caller);

	(void)state;
	assert_in_range(pace->trip_ns, pair->trip_ns, pair->trip_ns + 1000);
	assert_in_range(pace->offset_ns - pair->peer.offset_ns + pair->trip_ns, 0, 2 * pair->trip_ns);
	assert_in_range(net_pace_error_ns(pace, pair->now_ns), 0, pair->trip_ns);
	/* Both clocks drift; what is said of the error stays true. */
	for (int i = 0; i < 100; i++) {
		int64_t off_ns;

		net_pair_pass(pair, 50 * ms);
		pair->peer.offset_ns += 2000;
		off_ns = pace->offset_ns - pair->peer.offset_ns;
		assert_in_range(off_ns < 0 ? -off_ns : off_ns, 0, net_pace_error_ns(pace, pair->now_ns) + 2000);
		assert_in_range(net_pace_error_ns(pace, pair->now_ns), 0, 100000);
	}
	destroy(pair);
}

static void sample(struct net_pace *pace, int64_t now_ns, int64_t trip_ns, int64_t offset_ns)
{
	const struct net_times times = { .sender_ns = now_ns - trip_ns, .received_ns = now_ns + offset_ns, .sent_ns = now_ns + offset_ns };

	assert_true(net_pace_sample(pace, now_ns, &times, false));
}

/* Short ways say most, for a while. */
static void the_best_of_several_clocks(void **state)
{
	struct net_pace pace = { .trip_ns = 0 };

	(void)state;
	assert_int_equal(net_pace_error_ns(&pace, 5), NET_NEVER);
	sample(&pace, 1000 * ms, 10000, 7000);
	assert_int_equal(pace.offset_ns, 7000 + 5000);
	assert_int_equal(net_pace_error_ns(&pace, 1000 * ms), 5000);
	sample(&pace, 1001 * ms, 100000, 7000);
	assert_int_equal(pace.offset_ns, 7000 + 5000);
	assert_in_range(pace.trip_ns, 20000, 25000);
	sample(&pace, 1002 * ms, 8000, 7000);
	assert_int_equal(pace.offset_ns, 7000 + 4000);
	assert_int_equal(net_pace_error_ns(&pace, 1002 * ms + 819200), 4100); /* a little worse with time */
	sample(&pace, 3000 * ms, 100000, 7000); /* too old by now */
	assert_int_equal(pace.offset_ns, 7000 + 50000);
}

static void silence(bool datagram)
{
	struct net_pair *pair = opened(datagram);

	net_pair_pass(pair, 10000 * ms); /* nobody has anything to say but PING */
	assert_int_equal(net_caller_state(pair->caller), NET_CALLER_OPEN);
	assert_in_range(net_caller_counts(pair->caller)->pings, 38, 42);
	pair->peer.deaf = true;
	net_pair_pass(pair, 700 * ms);
	assert_int_equal(net_caller_state(pair->caller), NET_CALLER_OPEN);
	net_pair_pass(pair, 600 * ms);
	assert_int_equal(net_caller_state(pair->caller), NET_CALLER_LOST);
	assert_int_equal(net_caller_event_ns(pair->caller), NET_NEVER);
	destroy(pair);
}

static void silence_is_noticed(void **state)
{
	(void)state;
	silence(false);
	silence(true);
}

/* Who does not look does not hear, and must not take that for silence. */
static void whoever_looks_away(void **state)
{
	struct net_pair *pair = opened(true);

	(void)state;
	net_pair_pass(pair, 10 * ms);
	for (int i = 0; i < 5; i++) {
		pair->now_ns += 100000 * ms;
		net_pair_pass(pair, 10 * ms);
		assert_int_equal(net_caller_state(pair->caller), NET_CALLER_OPEN);
	}
	destroy(pair);
}

/* ---- what is lost ------------------------------------------------------------------------------------------- */

static void a_request_is_sent_again(void **state)
{
	struct net_pair *pair = opened(true);
	int64_t begin_ns;

	(void)state;
	net_pair_pass(pair, 5 * ms);
	pair->faults.lost = 1000;
	assert_int_equal(send_nop(pair, 1), 0);
	begin_ns = pair->now_ns;
	net_pair_pass(pair, ms);
	pair->faults.lost = 0;
	check_nop(pair, 1);
	assert_in_range(pair->now_ns - begin_ns, 2 * ms, 2 * ms + 2 * pair->trip_ns);
	assert_int_equal(pair->peer.executed, 1);
	destroy(pair);
}

/* Later and later, at most every 100 ms. */
static void a_request_is_not_sent_all_the_time(void **state)
{
	struct net_pair *pair = opened(true);
	uint64_t resends, probes;

	(void)state;
	net_pair_pass(pair, 5 * ms);
	pair->options.dead_after_ns = 0;
	assert_int_equal(send_nop(pair, 1), 0);
	pair->faults.lost = 1000;
	net_pair_pass(pair, 600 * ms);
	resends = net_caller_counts(pair->caller)->resends;
	probes = net_caller_counts(pair->caller)->probes;
	assert_in_range(resends, 8, 12);
	assert_in_range(probes, 8, 12);
	pair->faults.lost = 0;
	check_nop(pair, 1);
	assert_int_equal(pair->peer.executed, 1);
	destroy(pair);
}

/* What takes long is asked after now and then, and not sent twice. */
static void a_stream_resends_nothing(void **state)
{
	unsigned char in[5000] = { 1 };
	const struct attnd_request held = { .op = ATTND_OP_STEP, .request_id = 100, .in_bytes = sizeof(in) };
	struct net_pair *pair = opened(false);

	(void)state;
	assert_int_equal(net_caller_send(pair->caller, &held, in, NULL), 0);
	net_pair_pass(pair, 20000 * ms);
	assert_int_equal(net_caller_counts(pair->caller)->resends, 0);
	assert_in_range(net_caller_counts(pair->caller)->probes, 3, 6);
	net_peer_finish(&pair->peer, 0);
	assert_int_equal(net_pair_receive(pair).value, 77);
	assert_int_equal(pair->peer.repeated, 0);
	destroy(pair);
}

/* A reply that is lost before another one comes is asked for at once. */
static void a_gap_is_seen(void **state)
{
	struct net_pair *pair = opened(true);
	int64_t begin_ns;

	(void)state;
	net_pair_pass(pair, 5 * ms);
	assert_int_equal(send_nop(pair, 1), 0);
	while (pair->peer.executed == 0)
		net_pair_step(pair, NET_NEVER);
	begin_ns = pair->now_ns;
	pair->faults.lost = 1000;
	net_pair_step(pair, pair->now_ns + 1); /* its reply is gone */
	pair->faults.lost = 0;
	assert_int_equal(send_nop(pair, 2), 0);
	check_nop(pair, 1);
	check_nop(pair, 2);
	assert_in_range(pair->now_ns - begin_ns, 0, 3 * pair->trip_ns);
	assert_int_equal(net_caller_counts(pair->caller)->gaps, 1);
	assert_int_equal(pair->peer.executed, 2);
	destroy(pair);
}

/* A hole in a long request is filled before anybody waits for it. */
static void a_hole_is_seen(void **state)
{
	enum { BYTES = 40 * NET_UNIT_BYTES };
	const struct attnd_request request = { .op = ATTND_OP_NOP, .in_bytes = BYTES };
	unsigned char *in = calloc(1, BYTES);
	struct net_pair *pair = opened(true);
	unsigned char packet[NET_PACKET_BYTES_MAX];
	int64_t begin_ns;

	(void)state;
	net_pair_pass(pair, 5 * ms);
	begin_ns = pair->now_ns;
	assert_int_equal(net_caller_send(pair->caller, &request, in, NULL), 0);
	for (unsigned i = 0; i < 3; i++) {
		const size_t bytes = net_caller_next_packet(pair->caller, pair->now_ns, packet);

		if (i != 1) /* that one is lost */
			net_peer_packet(&pair->peer, pair->now_ns, packet, bytes);
	}
	(void)net_pair_receive(pair);
	assert_in_range(pair->now_ns - begin_ns, 0, ms);
	assert_int_equal(net_caller_counts(pair->caller)->resends, 1);
	destroy(pair);
	free(in);
}

/* What a daemon had no memory for comes again when it says so. */
static void the_daemon_asks_again(void **state)
{
	struct net_pair *pair = create(false);
	const struct net_come none = { .number = 0 };
	static unsigned char packet[NET_PACKET_BYTES_MAX];
	struct net_writer body;

	(void)state;
	pair->options.plain = pair->peer.plain = true; /* where what is dropped unseen breaks nothing */
	net_pair_create(pair);
	net_pair_open(pair);
	net_pair_pass(pair, ms);
	pair->peer.deaf = true;
	assert_int_equal(send_nop(pair, 1), 0);
	net_pair_pass(pair, ms);
	pair->peer.deaf = false;
	net_pair_pass(pair, 100 * ms);
	assert_int_equal(pair->peer.executed, 0);
	net_peer_begin(&pair->peer, packet, &body);
	assert_true(net_come_put(&body, NET_TAKEN, NET_TAKEN_AGAIN, &none));
	net_pair_inject(pair, packet, net_peer_end(&pair->peer, packet, &body));
	check_nop(pair, 1);
	destroy(pair);
}

/* Results that there is no memory for come when there is. */
static void no_block_for_a_while(void **state)
{
	const struct attnd_request request = { .op = ATTND_OP_DESCRIBE, .argument = 2000, .out_capacity = 2000 };
	unsigned char out[2000];

	(void)state;
	for (int datagram = 0; datagram < 2; datagram++) {
		struct net_pair *pair = create(datagram);
		int64_t begin_ns;

		pair->blocks_max = 2;
		net_pair_create(pair);
		net_pair_open(pair);
		begin_ns = pair->now_ns;
		for (int i = 0; i < 10; i++)
			assert_int_equal(net_caller_send(pair->caller, &request, NULL, out), 0);
		for (int i = 0; i < 10; i++) {
			memset(out, 0xaa, sizeof(out));
			assert_int_equal(net_pair_receive(pair).result_bytes, 2000);
			assert_int_equal(out[1999], (unsigned char)(1999 * 7));
		}
		assert_in_range(pair->now_ns - begin_ns, 0, 10 * ms); /* asked for as soon as there is memory */
		assert_true(net_caller_counts(pair->caller)->no_block > 0);
		assert_int_equal(pair->peer.executed, 10);
		destroy(pair);
	}
}

/* ---- another socket ----------------------------------------------------------------------------------------- */

static void resume(bool datagram)
{
	const struct attnd_request held = { .op = ATTND_OP_STEP, .request_id = 100 };
	struct net_pair *pair = opened(datagram);

	assert_int_equal(net_caller_send(pair->caller, &held, NULL, NULL), 0);
	net_pair_pass(pair, ms);
	for (uint64_t id = 0; id < 10; id++)
		assert_int_equal(send_nop(pair, id), 0);
	net_pair_step(pair, pair->now_ns + 1); /* on the way, and lost there */
	net_caller_broke(pair->caller);
	assert_int_equal(net_caller_state(pair->caller), NET_CALLER_LOST);
	assert_int_equal(send_nop(pair, 10), 0);
	net_peer_finish(&pair->peer, 0); /* meanwhile */
	net_pair_start(pair, true);
	assert_int_equal(net_pair_receive(pair).value, 77);
	for (uint64_t id = 0; id <= 10; id++)
		check_nop(pair, id);
	assert_int_equal(pair->peer.resumed, 1);
	assert_int_equal(net_caller_counts(pair->caller)->resumes, 1);
	assert_int_equal(pair->peer.executed, 12);
	assert_int_equal(pair->peer.errors, 0);
	destroy(pair);
}

static void what_is_under_way_goes_on_over_another_socket(void **state)
{
	(void)state;
	resume(false);
	resume(true);
}

/* Replies that were sent and never came, at any moment. */
static void resumed_at_any_time(void **state)
{
	(void)state;
	for (unsigned steps = 0; steps < 60; steps++) {
		struct net_pair *pair = opened(steps % 2);
		uint64_t id = 0;

		for (; id < 10; id++)
			assert_int_equal(send_nop(pair, id), 0);
		for (unsigned i = 0; i < steps / 2; i++)
			net_pair_step(pair, pair->now_ns + ms);
		net_caller_broke(pair->caller);
		net_pair_start(pair, true);
		for (id = 0; id < 10; id++)
			check_nop(pair, id);
		assert_int_equal(pair->peer.executed, 10);
		destroy(pair);
	}
}

static void a_daemon_that_has_forgotten(void **state)
{
	(void)state;
	for (int datagram = 0; datagram < 2; datagram++) {
		struct net_pair *pair = opened(datagram);

		assert_int_equal(send_nop(pair, 1), 0);
		check_nop(pair, 1);
		net_caller_broke(pair->caller);
		pair->peer.forgets = true;
		net_pair_start(pair, true);
		net_pair_pass(pair, ms);
		assert_int_equal(net_caller_state(pair->caller), NET_CALLER_ENDED);
		assert_int_equal(net_caller_why(pair->caller), NET_WHY_UNKNOWN);
		assert_int_equal(send_nop(pair, 2), -ENOTCONN);
		net_pair_open(pair); /* as a new one */
		assert_int_equal(send_nop(pair, 3), 0);
		check_nop(pair, 3);
		destroy(pair);
	}
}

/* It broke before the daemon had heard a word of it: nothing was executed, and the new one is as good. */
static void a_connection_that_was_never_there(void **state)
{
	(void)state;
	for (int datagram = 0; datagram < 2; datagram++) {
		struct net_pair *pair = opened(datagram);

		assert_int_equal(send_nop(pair, 1), 0);
		net_caller_broke(pair->caller);
		pair->peer.forgets = true;
		net_pair_start(pair, true);
		check_nop(pair, 1);
		assert_int_equal(net_caller_state(pair->caller), NET_CALLER_OPEN);
		destroy(pair);
	}
}

/* "No such connection" comes from anybody, and counts where the daemon does not say otherwise. */
static void a_late_refusal(void **state)
{
	struct net_pair *pair = opened(true);
	unsigned char packet[64];
	size_t bytes;

	(void)state;
	net_pair_pass(pair, 10 * ms);
	net_refused_write(packet + NET_DATAGRAM_HEAD_BYTES, &(struct net_refused){ .why = NET_WHY_UNKNOWN });
	bytes = net_packet_clear(packet, true, NET_REFUSED, 0, NET_REFUSED_BYTES);
	net_pair_inject(pair, packet, bytes);
	net_pair_pass(pair, 100 * ms);
	assert_int_equal(net_caller_state(pair->caller), NET_CALLER_OPEN);
	pair->peer.deaf = true;
	net_pair_inject(pair, packet, bytes);
	net_pair_pass(pair, 20 * ms);
	assert_int_equal(net_caller_state(pair->caller), NET_CALLER_LOST);
	destroy(pair);
}

static void a_farewell(void **state)
{
	(void)state;
	for (int datagram = 0; datagram < 2; datagram++) {
		struct net_pair *pair = opened(datagram);

		net_pair_pass(pair, ms);
		net_caller_end(pair->caller, NET_WHY_BYE);
		net_pair_pass(pair, ms);
		assert_int_equal(pair->peer.closes, 1);
		assert_int_equal(pair->peer.close_why, NET_WHY_BYE);
		assert_int_equal(net_caller_state(pair->caller), NET_CALLER_ENDED);
		assert_int_equal(send_nop(pair, 1), -ENOTCONN);
		destroy(pair);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(handshakes),
		cmocka_unit_test(refusals),
		cmocka_unit_test(a_refusal_that_somebody_else_sent),
		cmocka_unit_test(a_refusal_is_believed_the_third_time),
		cmocka_unit_test(a_daemon_that_is_not_there_is_asked_again),
		cmocka_unit_test(a_key_for_each_hello),
		cmocka_unit_test(as_many_as_may_be),
		cmocka_unit_test(payloads),
		cmocka_unit_test(what_is_too_long),
		cmocka_unit_test(streams),
		cmocka_unit_test(a_cancel_finds_its_request),
		cmocka_unit_test(acknowledgements_go_along),
		cmocka_unit_test(an_acknowledgement_goes_alone),
		cmocka_unit_test(the_clock),
		cmocka_unit_test(the_best_of_several_clocks),
		cmocka_unit_test(silence_is_noticed),
		cmocka_unit_test(whoever_looks_away),
		cmocka_unit_test(a_request_is_sent_again),
		cmocka_unit_test(a_request_is_not_sent_all_the_time),
		cmocka_unit_test(a_stream_resends_nothing),
		cmocka_unit_test(a_gap_is_seen),
		cmocka_unit_test(a_hole_is_seen),
		cmocka_unit_test(the_daemon_asks_again),
		cmocka_unit_test(no_block_for_a_while),
		cmocka_unit_test(what_is_under_way_goes_on_over_another_socket),
		cmocka_unit_test(resumed_at_any_time),
		cmocka_unit_test(a_daemon_that_has_forgotten),
		cmocka_unit_test(a_connection_that_was_never_there),
		cmocka_unit_test(a_late_refusal),
		cmocka_unit_test(a_farewell),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
