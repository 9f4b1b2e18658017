/*
 * The network front's requests: at most once and in order, each reply once; what has no room waits and goes on later; and in
 * the end every block is back.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/net_front_rig.h"

/* ---- there and back --------------------------------------------------------------------------------------- */

static void expect_no_reply(struct front_client *client)
{
	struct attnd_completion completion;

	front_hear(client);
	assert_false(front_reply(client, &completion));
}

static void one_request(struct front_rig *rig, struct front_client *client, uint32_t in_bytes, uint32_t out_bytes)
{
	const uint64_t id = UINT64_C(0xf00d00000000) + in_bytes;
	struct front_call call;

	front_request(client, (struct attnd_request){ .request_id = id, .session = 3, .position = 9, .lap = 77, .out_capacity = 20000 },
		in_bytes);
	front_send(client, 0);
	front_poll(rig);
	assert_true(front_next(rig, 0, &call));
	assert_int_equal(call.message.record.in_bytes, in_bytes);
	assert_int_equal(call.message.record.out_capacity, 20000);
	assert_int_equal(call.message.record.lap, 0);
	assert_int_equal(call.message.received_ns, rig->clock.fake_ns);
	assert_true(call.message.record.request_id < rig->limits.in_flight);
	assert_int_equal(FRONT_COUNTER(rig, in_flight), 1);
	expect_no_reply(client);
	front_final(rig, &call, ATTND_OK, out_bytes);
	front_poll(rig);
	front_expect(client, id, ATTND_OK, out_bytes);
	assert_int_equal(FRONT_COUNTER(rig, in_flight), 0);
	front_ack(client, 0);
	front_poll(rig);
	assert_int_equal(net_pool_free_bytes(rig->in), net_pool_bytes(rig->in));
	assert_int_equal(net_pool_free_bytes(rig->out), net_pool_bytes(rig->out));
}

static void there_and_back(void **state)
{
	(void)state;
	for (int datagram = 0; datagram < 2; datagram++)
		for (enum net_cipher cipher = NET_CIPHER_PLAIN; cipher < NET_CIPHER_END; cipher++) {
			struct front_rig *rig = front_rig_create(&front_usual);
			struct front_client client;
			struct front_call call;

			if (cipher && !net_cipher_here(cipher))
				continue;
			assert_true(front_connect(rig, &client, datagram, cipher, cipher ? 1 : 2));
			assert_int_equal(client.pong.sender_ns, 99);
			assert_int_equal(client.pong.sent_ns, rig->clock.fake_ns);
			assert_false(front_next(rig, 0, &call));
			assert_false(front_next(rig, FRONT_TEXT, &call));
			assert_int_equal(rig->knows[0][0].tenant, cipher ? 1 : 2);
			assert_int_equal(rig->knows[0][0].credits, front_usual.streams);
			assert_true(rig->knows[FRONT_TEXT][0].there);
			one_request(rig, &client, 0, 0);
			one_request(rig, &client, 1, 1);
			one_request(rig, &client, 1024, 1024);
			one_request(rig, &client, 32 << 10, 20000);
			one_request(rig, &client, 5000, 3);
			assert_int_equal(FRONT_COUNTER(rig, requests), 5);
			assert_int_equal(FRONT_COUNTER(rig, completions), 5);
			assert_int_equal(FRONT_COUNTER(rig, again), 0);
			front_client_free(&client);
			front_rig_destroy(rig);
		}
}

/* The packets of two requests in every manner of order and repetition: each is taken once, the first one first. */
static void at_most_once(void **state)
{
	static const uint8_t orders[][8] = { { 0, 1, 2, 3, 4, 5, 6, 7 }, { 7, 6, 5, 4, 3, 2, 1, 0 }, { 3, 5, 1, 7, 0, 2, 4, 6 } };
	static struct net_guest_data packets[64];

	(void)state;
	for (size_t order = 0; order < 3; order++) {
		struct front_rig *rig = front_rig_create(&front_usual);
		struct front_client client;
		struct front_call call;
		uint32_t count;

		assert_true(front_connect(rig, &client, true, NET_CIPHER_PLAIN, 2));
		front_request(&client, (struct attnd_request){ .request_id = 1, .session = 1 }, 5000);
		front_request(&client, (struct attnd_request){ .request_id = 2, .session = 2 }, 3000);
		count = front_pack(&client, packets, 64);
		assert_int_equal(count, 8);
		for (uint32_t i = 0; i < 2 * count; i++)
			fake_come(&rig->fake, &client.peer.way, packets[orders[order][i % count]].packet, packets[orders[order][i % count]].bytes);
		front_poll(rig);
		for (uint32_t id = 1; id <= 2; id++) {
			assert_true(front_next(rig, 0, &call));
			assert_int_equal(call.message.record.session, id);
			front_final(rig, &call, ATTND_OK, 0);
		}
		assert_false(front_next(rig, 0, &call));
		assert_int_equal(FRONT_COUNTER(rig, again), count);
		front_poll(rig);
		/* Once more, though they are done. */
		for (uint32_t i = 0; i < count; i++)
			fake_come(&rig->fake, &client.peer.way, packets[i].packet, packets[i].bytes);
		front_poll(rig);
		assert_false(front_next(rig, 0, &call));
		assert_int_equal(FRONT_COUNTER(rig, requests), 2);
		front_expect(&client, 1, ATTND_OK, 0);
		front_expect(&client, 2, ATTND_OK, 0);
		expect_no_reply(&client);
		front_client_free(&client);
		front_rig_destroy(rig);
	}
}

/* A reply that was lost comes with PROBE, the same again, and nothing is done twice. */
static void probes(void **state)
{
	(void)state;
	for (int datagram = 0; datagram < 2; datagram++) {
		struct front_rig *rig = front_rig_create(&front_usual);
		struct front_client client;
		struct front_call call;

		assert_true(front_connect(rig, &client, datagram, NET_CIPHER_CHACHA, 0));
		front_request(&client, (struct attnd_request){ .request_id = 1, .position = 4, .out_capacity = 9000 }, 100);
		front_send(&client, 0);
		front_poll(rig);
		assert_true(front_next(rig, 0, &call));
		front_final(rig, &call, ATTND_OK, 9000);
		/* The device's side of it may be anything by now: what is kept is the log's. */
		front_poll(rig);
		if (datagram)
			fake_take_all(&rig->fake);
		else
			front_hear(&client), assert_int_equal(client.takens, 1); /* it went along with the reply */
		front_ack(&client, NET_ACK_PROBE);
		front_poll(rig);
		front_hear(&client);
		assert_true(client.takens >= 1);
		assert_int_equal(client.taken.number, 1);
		assert_int_equal(net_outbox_kept(client.outbox), 0);
		front_expect(&client, 1, ATTND_OK, 9000);
		assert_int_equal(FRONT_COUNTER(rig, probes), 1);
		/* Covered: not said again. */
		front_ack(&client, NET_ACK_PROBE);
		front_poll(rig);
		client.replies_parts = 0;
		front_hear(&client);
		assert_int_equal(client.replies_parts, 0);
		assert_false(front_next(rig, 0, &call));
		front_client_free(&client);
		front_rig_destroy(rig);
	}
}

/* ---- what the front answers itself ------------------------------------------------------------------------ */

static void expect_answer(struct front_rig *rig, struct front_client *client, struct attnd_request record, enum attnd_status status)
{
	struct front_call call;

	record.request_id = 77;
	front_request(client, record, 8);
	front_send(client, 0);
	front_poll(rig);
	assert_false(front_next(rig, 0, &call));
	front_expect(client, 77, status, 0);
	assert_int_equal(net_pool_free_bytes(rig->in), net_pool_bytes(rig->in));
}

static void bad_records(void **state)
{
	struct front_rig *rig = front_rig_create(&front_usual);
	struct front_client client;

	(void)state;
	assert_true(front_connect(rig, &client, false, NET_CIPHER_CHACHA, 0));
	expect_answer(rig, &client, (struct attnd_request){ .version = 9 }, ATTND_BAD_RECORD);
	expect_answer(rig, &client, (struct attnd_request){ .reserved = 1 }, ATTND_BAD_RECORD);
	expect_answer(rig, &client, (struct attnd_request){ .flags = 0x80 }, ATTND_BAD_RECORD);
	expect_answer(rig, &client, (struct attnd_request){ .priority_class = 3 }, ATTND_BAD_RECORD);
	assert_int_equal(FRONT_COUNTER(rig, bad_record), 4);
	expect_answer(rig, &client, (struct attnd_request){ .op = ATTND_OP_END }, ATTND_BAD_OP);
	expect_answer(rig, &client, (struct attnd_request){ .op = 255 }, ATTND_BAD_OP);
	assert_int_equal(FRONT_COUNTER(rig, bad_op), 2);
	expect_answer(rig, &client, (struct attnd_request){ .in_offset = 1 }, ATTND_BAD_RANGE);
	expect_answer(rig, &client, (struct attnd_request){ .out_offset = 1 }, ATTND_BAD_RANGE);
	assert_int_equal(FRONT_COUNTER(rig, bad_range), 2);
	expect_answer(rig, &client, (struct attnd_request){ .out_capacity = front_usual.message_bytes + 1 }, ATTND_TOO_LARGE);
	expect_answer(rig, &client, (struct attnd_request){ .out_capacity = UINT32_MAX }, ATTND_TOO_LARGE);
	assert_int_equal(FRONT_COUNTER(rig, too_large), 2);
	one_request(rig, &client, 10, 10);
	front_client_free(&client);
	front_rig_destroy(rig);
}

/* One client's texts do not fill the queue that all share, and devices' queues keep places for those that come and go. */
static void full_queues(void **state)
{
	struct front_limits limits = front_usual;
	struct front_rig *rig;
	struct front_client client, other;
	struct front_call call;
	uint32_t passed = 0;

	(void)state;
	limits.in_flight = 64;
	limits.queue = 24; /* and 2 for each of 4: 32 */
	rig = front_rig_create(&limits);
	assert_true(front_connect(rig, &client, false, NET_CIPHER_CHACHA, 0));
	assert_false(front_next(rig, 0, &call) || front_next(rig, FRONT_TEXT, &call));
	for (uint32_t i = 0; i < 9; i++)
		front_request(&client, (struct attnd_request){ .op = ATTND_OP_TOKENIZE, .request_id = i }, 0);
	front_send(&client, 0);
	front_poll(rig);
	front_expect(&client, 8, ATTND_QUEUE_FULL, 0);
	assert_int_equal(FRONT_COUNTER(rig, queue_full), 1);
	while (front_next(rig, FRONT_TEXT, &call)) {
		front_final(rig, &call, ATTND_OK, 0);
		passed++;
	}
	assert_int_equal(passed, 8);
	front_poll(rig);
	for (uint32_t i = 0; i < 8; i++)
		front_expect(&client, i, ATTND_OK, 0);
	/* 32 places, 9 of them kept free before one goes in. */
	for (uint32_t i = 0; i < 30; i++)
		front_request(&client, (struct attnd_request){ .op = ATTND_OP_NOP, .request_id = i }, 0);
	front_send(&client, 0);
	front_poll(rig);
	for (uint32_t i = 24; i < 30; i++)
		front_expect(&client, i, ATTND_QUEUE_FULL, 0);
	expect_no_reply(&client);
	assert_true(front_connect(rig, &other, false, NET_CIPHER_CHACHA, 0));
	for (passed = 0; front_next(rig, 0, &call); passed++)
		front_final(rig, &call, ATTND_OK, 0);
	assert_int_equal(passed, 24);
	front_poll(rig);
	front_expect(&client, 0, ATTND_OK, 0);
	front_client_free(&other);
	front_client_free(&client);
	front_rig_destroy(rig);
}

/* ---- windows ---------------------------------------------------------------------------------------------- */

static void in_flight(void **state)
{
	struct front_limits limits = front_usual;
	struct front_rig *rig;
	struct front_client client;
	struct front_call calls[8], call;

	(void)state;
	limits.in_flight = 5; /* a window of 8 */
	rig = front_rig_create(&limits);
	assert_true(front_connect(rig, &client, true, NET_CIPHER_CHACHA, 0));
	for (uint32_t i = 0; i < 8; i++)
		front_request(&client, (struct attnd_request){ .request_id = i }, 0);
	front_send(&client, 0);
	front_poll(rig);
	for (uint32_t i = 0; i < 5; i++)
		assert_true(front_next(rig, 0, &calls[i]));
	assert_false(front_next(rig, 0, &call));
	front_final(rig, &calls[3], ATTND_OK, 0);
	front_poll(rig);
	assert_true(front_next(rig, 0, &calls[5]));
	assert_false(front_next(rig, 0, &call));
	front_expect(&client, 3, ATTND_OK, 0);
	front_client_free(&client);
	front_rig_destroy(rig);
}

/* Results that are kept count against the window, and so do those to come: what is beyond waits for an ACK. */
static void kept_results(void **state)
{
	struct front_rig *rig = front_rig_create(&front_usual);
	struct front_client client;
	struct front_call calls[3], call;

	(void)state;
	assert_true(front_connect(rig, &client, false, NET_CIPHER_CHACHA, 0));
	for (uint32_t i = 0; i < 3; i++)
		front_request(&client, (struct attnd_request){ .request_id = i, .out_capacity = 32 << 10 }, 0);
	front_send(&client, 0);
	front_poll(rig);
	assert_true(front_next(rig, 0, &calls[0]) && front_next(rig, 0, &calls[1]));
	assert_false(front_next(rig, 0, &call));
	/* A small result gives the rest of its room back at once. */
	front_final(rig, &calls[0], ATTND_OK, 1);
	front_poll(rig);
	assert_int_equal(net_pool_free_bytes(rig->out), net_pool_bytes(rig->out) - (32 << 10) - NET_POOL_LEAST_BYTES);
	assert_false(front_next(rig, 0, &call)); /* 1 and 32 KiB and 32 KiB are too much */
	front_expect(&client, 0, ATTND_OK, 1);
	front_poll(rig);
	assert_false(front_next(rig, 0, &call));
	front_ack(&client, 0);
	front_poll(rig);
	assert_true(front_next(rig, 0, &calls[2]));
	front_client_free(&client);
	front_rig_destroy(rig);
}

/* As many replies as the client can keep, and not one more, whoever does not acknowledge them. */
static void kept_replies(void **state)
{
	struct front_rig *rig = front_rig_create(&front_usual);
	struct front_client client;
	struct front_call call;
	uint32_t passed = 0;

	(void)state;
	assert_true(front_connect(rig, &client, false, NET_CIPHER_CHACHA, 0));
	for (uint32_t round = 0; round < 4; round++) {
		for (uint32_t i = 0; i < 8 && net_outbox_room(client.outbox, 0); i++)
			front_request(&client, (struct attnd_request){ .request_id = i }, 0);
		do {
			struct net_guest_data data[4];
			const uint32_t count = front_pack(&client, data, 4);

			for (uint32_t i = 0; i < count; i++)
				fake_come(&rig->fake, &client.peer.way, data[i].packet, data[i].bytes);
		} while (net_outbox_waiting(client.outbox));
		front_poll(rig);
		for (; front_next(rig, 0, &call); passed++)
			front_final(rig, &call, ATTND_OK, 0);
		front_poll(rig);
		front_hear(&client); /* TAKEN comes with replies; there is no ACK */
	}
	/* 16 places, 8 of them for streams. */
	assert_int_equal(passed, 8);
	front_ack(&client, 0);
	front_poll(rig);
	assert_true(front_next(rig, 0, &call));
	front_client_free(&client);
	front_rig_destroy(rig);
}

/* ---- memory ----------------------------------------------------------------------------------------------- */

static const struct front_limits little_memory = { .clients = 4,
	.in_flight = 8,
	.streams = 8,
	.window_bytes = 64 << 10,
	.message_bytes = 16 << 10,
	.devices = 1,
	.half_open = 8,
	.in_bytes = 32 << 10,
	.out_bytes = 16 << 10,
	.parts_bytes = 128 << 10,
	.tenant_clients = { 4, 4, 4 },
	.queue = 64,
	.resume_ns = INT64_C(10000000000),
	.slow_ns = INT64_C(5000000000),
	.hello_ns = INT64_C(2000000000),
	.idle_ns = INT64_C(300000000000) };

/* Where there is no memory for a request, the client is told when there is. */
static void memory_for_requests(void **state)
{
	(void)state;
	for (int datagram = 0; datagram < 2; datagram++) {
		struct front_rig *rig = front_rig_create(&little_memory);
		struct front_client first, second;
		struct front_call call;

		assert_true(front_connect(rig, &first, datagram, NET_CIPHER_CHACHA, 0));
		assert_true(front_connect(rig, &second, datagram, NET_CIPHER_CHACHA, 1));
		front_request(&first, (struct attnd_request){ .request_id = 1 }, 16 << 10);
		front_send(&first, 0);
		front_poll(rig);
		assert_true(front_next(rig, 0, &call));
		front_request(&second, (struct attnd_request){ .request_id = 2 }, 16 << 10);
		front_send(&second, 0);
		front_poll(rig);
		front_hear(&second);
		assert_false(second.again);
		assert_true(FRONT_COUNTER(rig, no_memory) > 0);
		front_final(rig, &call, ATTND_OK, 0);
		front_poll(rig);
		front_hear(&second);
		assert_true(second.again);
		assert_int_equal(second.taken.number, 0);
		net_outbox_resend(second.outbox);
		front_send(&second, 0);
		front_poll(rig);
		assert_true(front_next(rig, 0, &call));
		front_final(rig, &call, ATTND_OK, 0);
		front_poll(rig);
		front_expect(&second, 2, ATTND_OK, 0);
		front_client_free(&second);
		front_client_free(&first);
		front_rig_destroy(rig);
	}
}

static void memory_for_results(void **state)
{
	struct front_rig *rig = front_rig_create(&little_memory);
	struct front_client first, second;
	struct front_call call;

	(void)state;
	assert_true(front_connect(rig, &first, false, NET_CIPHER_CHACHA, 0));
	assert_true(front_connect(rig, &second, false, NET_CIPHER_CHACHA, 1));
	front_request(&first, (struct attnd_request){ .request_id = 1, .out_capacity = 16 << 10 }, 0);
	front_request(&second, (struct attnd_request){ .request_id = 2, .out_capacity = 1 }, 0);
	front_send(&first, 0);
	front_poll(rig);
	assert_true(front_next(rig, 0, &call));
	front_send(&second, 0);
	front_poll(rig);
	front_final(rig, &call, ATTND_OK, (16 << 10) - 1); /* all of it is needed until ACK */
	front_poll(rig);
	assert_false(front_next(rig, 0, &call));
	front_expect(&first, 1, ATTND_OK, (16 << 10) - 1);
	front_ack(&first, 0);
	front_poll(rig);
	assert_true(front_next(rig, 0, &call));
	front_final(rig, &call, ATTND_OK, 1);
	front_poll(rig);
	front_expect(&second, 2, ATTND_OK, 1);
	front_client_free(&second);
	front_client_free(&first);
	front_rig_destroy(rig);
}

/* Later requests may have come first, and have all of the window: the one that they wait for gets in all the same. */
static void later_ones_first(void **state)
{
	static struct net_guest_data packets[64];
	struct front_limits limits = front_usual;
	struct front_rig *rig;
	struct front_client client;
	struct front_call call;
	uint32_t count;

	(void)state;
	limits.window_bytes = 32 << 10;
	rig = front_rig_create(&limits);
	assert_true(front_connect(rig, &client, true, NET_CIPHER_CHACHA, 0));
	front_request(&client, (struct attnd_request){ .request_id = 1, .session = 1 }, 16 << 10);
	front_request(&client, (struct attnd_request){ .request_id = 2, .session = 2 }, 24 << 10);
	count = front_pack(&client, packets, 64);
	for (uint32_t i = count; i-- > 0;) {
		fake_come(&rig->fake, &client.peer.way, packets[i].packet, packets[i].bytes);
		front_poll(rig);
	}
	/* Turns were taken: what was dropped of either comes again. */
	net_outbox_resend(client.outbox);
	front_send(&client, 0);
	front_poll(rig);
	front_hear(&client);
	assert_true(front_next(rig, 0, &call));
	assert_int_equal(call.message.record.session, 1);
	front_final(rig, &call, ATTND_OK, 0);
	front_poll(rig);
	net_outbox_resend(client.outbox);
	front_send(&client, 0);
	front_poll(rig);
	assert_true(front_next(rig, 0, &call));
	assert_int_equal(call.message.record.session, 2);
	front_client_free(&client);
	front_rig_destroy(rig);
}

/* Nor do later ones of several clients, all of which wait for earlier ones, take all of the memory. */
static void later_ones_of_many(void **state)
{
	static struct net_guest_data packets[2][64];
	struct front_rig *rig = front_rig_create(&little_memory); /* two blocks for requests */
	struct front_client clients[2];
	struct front_call call;

	(void)state;
	for (uint32_t i = 0; i < 2; i++) {
		assert_true(front_connect(rig, &clients[i], true, NET_CIPHER_CHACHA, 0));
		front_request(&clients[i], (struct attnd_request){ .request_id = 1, .session = 1 }, 8 << 10);
		assert_int_equal(front_pack(&clients[i], packets[i], 64), 8);
		front_request(&clients[i], (struct attnd_request){ .request_id = 2, .session = 2 }, 8 << 10);
		front_send(&clients[i], 0);
		front_poll(rig);
	}
	assert_int_equal(net_pool_free_bytes(rig->in), 16 << 10);
	for (uint32_t i = 0; i < 2; i++) {
		for (uint32_t j = 0; j < 8; j++)
			fake_come(&rig->fake, &clients[i].peer.way, packets[i][j].packet, packets[i][j].bytes);
		front_poll(rig);
		while (front_next(rig, 0, &call))
			front_final(rig, &call, ATTND_OK, 0);
		front_poll(rig);
		front_expect(&clients[i], 1, ATTND_OK, 0);
		front_hear(&clients[i]);
		net_outbox_resend(clients[i].outbox);
		front_send(&clients[i], 0);
		front_poll(rig);
	}
	assert_int_equal(FRONT_COUNTER(rig, requests), 4);
	for (uint32_t i = 0; i < 2; i++)
		front_client_free(&clients[i]);
	front_rig_destroy(rig);
}

/* Requests that come one behind the other wait for nothing, though half of the memory is in use. */
static void one_behind_the_other(void **state)
{
	struct front_rig *rig = front_rig_create(&little_memory);
	struct front_client clients[2];
	struct front_call call;

	(void)state;
	assert_true(front_connect(rig, &clients[0], false, NET_CIPHER_CHACHA, 0));
	assert_true(front_connect(rig, &clients[1], false, NET_CIPHER_CHACHA, 0));
	front_request(&clients[0], (struct attnd_request){ .request_id = 1 }, 10 << 10);
	front_send(&clients[0], 0);
	front_poll(rig);
	assert_int_equal(net_pool_free_bytes(rig->in), 16 << 10);
	for (uint32_t i = 0; i < 4; i++)
		front_request(&clients[1], (struct attnd_request){ .request_id = i }, 3 << 10);
	front_send(&clients[1], 0);
	front_poll(rig);
	for (uint32_t i = 0; i < 5; i++)
		assert_true(front_next(rig, 0, &call));
	assert_int_equal(FRONT_COUNTER(rig, no_memory), 0);
	for (uint32_t i = 0; i < 2; i++)
		front_client_free(&clients[i]);
	front_rig_destroy(rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(there_and_back),
		cmocka_unit_test(at_most_once),
		cmocka_unit_test(probes),
		cmocka_unit_test(bad_records),
		cmocka_unit_test(full_queues),
		cmocka_unit_test(in_flight),
		cmocka_unit_test(kept_results),
		cmocka_unit_test(kept_replies),
		cmocka_unit_test(memory_for_requests),
		cmocka_unit_test(memory_for_results),
		cmocka_unit_test(later_ones_first),
		cmocka_unit_test(later_ones_of_many),
		cmocka_unit_test(one_behind_the_other),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
