/*
 * The client's side against a daemon, or somebody in its place, that means harm: whatever comes, no memory but the output range of a
 * request in flight is written, nothing is answered twice, and the connection ends with a reason or goes on as if nothing had come.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base_bytes.h"
#include "base/base_rand.h"
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
	net_pair_pass(pair, ms);
	return pair;
}

static void destroy(struct net_pair *pair)
{
	net_pair_destroy(pair);
	free(pair);
}

static int send_request(struct net_pair *pair, uint8_t op, uint64_t id, void *out, uint32_t out_capacity)
{
	const struct attnd_request request = { .op = op, .request_id = id, .argument = 1000000, .out_capacity = out_capacity };

	return net_caller_send(pair->caller, &request, NULL, out);
}

/* ---- a daemon that has the key ------------------------------------------------------------------------------ */

/* Writes a body; the packet around it is sealed as it should be. */
typedef void write_body(struct net_pair *pair, struct net_writer *body);

/* A request is held; then comes what the test has written. */
static void say(struct net_pair *pair, write_body *write)
{
	static _Alignas(8) unsigned char packet[NET_PACKET_BYTES_MAX];
	struct net_writer body;

	net_peer_begin(&pair->peer, packet, &body);
	write(pair, &body);
	net_pair_inject(pair, packet, net_peer_end(&pair->peer, packet, &body));
}

static void put_reply(struct net_writer *body, uint32_t number, const struct attnd_completion *completion, const void *result)
{
	uint32_t taken;

	assert_true(net_part_put(body, NET_REPLY, number, completion, result, completion->result_bytes, 0, &taken));
}

/* The id on the way of the request that the daemon holds. */
static uint64_t held_id(const struct net_pair *pair)
{
	assert_true(pair->peer.held_count > 0);
	return pair->peer.held[0].request_id;
}

static void an_answer_to_nothing(struct net_pair *pair, struct net_writer *body)
{
	const struct attnd_completion completion = { .request_id = held_id(pair) ^ 1, .flags = ATTND_CPL_FINAL };

	put_reply(body, 1, &completion, NULL);
}

static void an_answer_to_an_id_far_off(struct net_pair *pair, struct net_writer *body)
{
	const struct attnd_completion completion = { .request_id = UINT64_MAX, .flags = ATTND_CPL_FINAL };

	(void)pair;
	put_reply(body, 1, &completion, NULL);
}

static void an_answer_to_a_later_request(struct net_pair *pair, struct net_writer *body)
{
	const struct attnd_completion completion = { .request_id = held_id(pair) + (1 << 16), .flags = ATTND_CPL_FINAL };

	put_reply(body, 1, &completion, NULL);
}

static void two_ends(struct net_pair *pair, struct net_writer *body)
{
	const struct attnd_completion completion = { .request_id = held_id(pair), .flags = ATTND_CPL_FINAL };

	put_reply(body, 1, &completion, NULL);
	put_reply(body, 2, &completion, NULL);
}

static void a_result_longer_than_its_room(struct net_pair *pair, struct net_writer *body)
{
	static const unsigned char result[101];
	const struct attnd_completion completion = { .request_id = held_id(pair), .result_bytes = sizeof(result) };

	put_reply(body, 1, &completion, result);
}

static void a_message_longer_than_any(struct net_pair *pair, struct net_writer *body)
{
	const struct attnd_completion completion = { .request_id = held_id(pair), .result_bytes = UINT32_MAX };
	static unsigned char result[NET_UNIT_BYTES];
	uint32_t taken;

	/* The record says how long the message is. */
	assert_true(net_part_put(body, NET_REPLY, 1, &completion, result, sizeof(result), 0, &taken));
}

static void a_number_beyond_the_window(struct net_pair *pair, struct net_writer *body)
{
	const struct attnd_completion completion = { .request_id = held_id(pair), .flags = ATTND_CPL_FINAL };

	put_reply(body, 1 + NET_WINDOW_MAX, &completion, NULL);
}

static void two_messages_of_one_number(struct net_pair *pair, struct net_writer *body)
{
	const uint32_t last = 5 * NET_UNIT_BYTES; /* where their ends begin */

	(void)pair;
	for (uint32_t i = 0; i < 2; i++) {
		const uint32_t bytes = NET_OFFSET_BYTES + 8 + i * 8;
		unsigned char *chunk = body->at;

		memset(chunk, 0, NET_CHUNK_BYTES + bytes);
		chunk[0] = NET_REPLY_MORE;
		base_store16(chunk + 2, (uint16_t)bytes);
		base_store32(chunk + 4, 1);
		base_store32(chunk + 8, last);
		base_store32(chunk + 12, last + bytes - NET_OFFSET_BYTES);
		body->at += NET_CHUNK_BYTES + bytes;
	}
}

static void more_taken_than_sent(struct net_pair *pair, struct net_writer *body)
{
	const struct net_come come = { .number = 7 };

	(void)pair;
	assert_true(net_come_put(body, NET_TAKEN, 0, &come));
}

static void later_ones_taken_than_sent(struct net_pair *pair, struct net_writer *body)
{
	const struct net_come come = { .number = 1, .words = 1, .bitmap = { 2 } };

	(void)pair;
	assert_true(net_come_put(body, NET_TAKEN, 0, &come));
}

static void a_request(struct net_pair *pair, struct net_writer *body)
{
	const struct attnd_request request = { .op = ATTND_OP_NOP };
	uint32_t taken;

	(void)pair;
	assert_true(net_part_put(body, NET_REQUEST, 1, &request, NULL, 0, 0, &taken));
}

static void an_acknowledgement(struct net_pair *pair, struct net_writer *body)
{
	const struct net_come come = { .number = 0 };

	(void)pair;
	assert_true(net_come_put(body, NET_ACK, 0, &come));
}

static void an_unknown_chunk(struct net_pair *pair, struct net_writer *body)
{
	(void)pair;
	memset(body->at, 0, NET_CHUNK_BYTES);
	body->at[0] = NET_KIND_END;
	body->at += NET_CHUNK_BYTES;
}

static void half_a_chunk(struct net_pair *pair, struct net_writer *body)
{
	(void)pair;
	memset(body->at, 0, 4);
	body->at += 4;
}

static void a_close_with_something_in_it(struct net_pair *pair, struct net_writer *body)
{
	(void)pair;
	memset(body->at, 0, 2 * NET_CHUNK_BYTES);
	body->at[0] = NET_CLOSE;
	body->at[2] = 8;
	body->at += 2 * NET_CHUNK_BYTES;
}

/* What is in flight stays unanswered; the daemon is told why. */
static void the_protocol_broken(void **state)
{
	static write_body *const writes[] = { an_answer_to_nothing, an_answer_to_an_id_far_off, an_answer_to_a_later_request, two_ends,
		a_result_longer_than_its_room, a_message_longer_than_any, a_number_beyond_the_window, two_messages_of_one_number,
		more_taken_than_sent, later_ones_taken_than_sent, a_request, an_acknowledgement, an_unknown_chunk, half_a_chunk,
		a_close_with_something_in_it };

	(void)state;
	for (size_t i = 0; i < 2 * sizeof(writes) / sizeof(*writes); i++) {
		struct net_pair *pair = opened(i % 2);
		struct attnd_completion completion;
		unsigned char out[100] = { 1 };
		unsigned ends = 0;

		assert_int_equal(send_request(pair, ATTND_OP_STEP, 1, out, sizeof(out)), 0);
		net_pair_pass(pair, ms);
		say(pair, writes[i / 2]);
		while (net_caller_receive(pair->caller, &completion))
			ends += completion.flags & ATTND_CPL_FINAL;
		assert_int_equal(ends, writes[i / 2] == two_ends);
		assert_int_equal(net_caller_state(pair->caller), NET_CALLER_ENDED);
		assert_int_equal(net_caller_why(pair->caller), NET_WHY_PROTOCOL);
		assert_int_equal(out[0], 1);
		assert_int_equal(send_request(pair, ATTND_OP_NOP, 2, NULL, 0), -ENOTCONN);
		net_pair_pass(pair, ms);
		assert_int_equal(pair->peer.closes, 1);
		assert_int_equal(pair->peer.close_why, NET_WHY_PROTOCOL);
		destroy(pair);
	}
}

static uint32_t token_sequence;

static void a_token(struct net_pair *pair, struct net_writer *body)
{
	static uint32_t number;
	const struct attnd_completion completion = { .request_id = held_id(pair), .sequence = token_sequence, .value = 0x1ffffffff };

	number = net_outbox_next(pair->peer.outbox);
	(void)net_outbox_add(pair->peer.outbox, &completion, NULL, 0); /* so that its ACK is understood */
	put_reply(body, number, &completion, NULL);
}

/* Tokens have a place in the output range, or none. */
static void tokens_anywhere(void **state)
{
	static const uint32_t sequences[] = { 0, 1, 2, 3, 0x3fffffff, 0x40000000, 0x7fffffff, 0x80000000, UINT32_MAX };
	struct net_pair *pair = create(false);
	unsigned char *out = malloc(11);

	(void)state;
	pair->peer.stream_credits = 1;
	net_pair_create(pair);
	net_pair_open(pair);
	assert_int_equal(send_request(pair, ATTND_OP_GENERATE, 1, out, 11), 0);
	net_pair_pass(pair, ms);
	for (size_t i = 0; i < sizeof(sequences) / sizeof(*sequences); i++) {
		struct attnd_completion completion;

		if (net_caller_receive(pair->caller, &completion))
			continue;
		token_sequence = sequences[i];
		say(pair, a_token);
		(void)net_caller_receive(pair->caller, &completion);
		assert_in_range(completion.result_bytes, 4, 8);
	}
	free(out);
	destroy(pair);
}

/* ---- CLOSE -------------------------------------------------------------------------------------------------- */

static uint32_t close_why;

static void a_close(struct net_pair *pair, struct net_writer *body)
{
	const struct attnd_completion completion = { .request_id = held_id(pair), .flags = ATTND_CPL_FINAL, .value = 5 };

	put_reply(body, 1, &completion, NULL);
	assert_true(net_close_put(body, close_why));
}

/* What came before it is delivered. */
static void closed(void **state)
{
	(void)state;
	for (close_why = 0; close_why < NET_WHY_END + 2; close_why++) {
		struct net_pair *pair = opened(close_why % 2);

		assert_int_equal(send_request(pair, ATTND_OP_STEP, 1, NULL, 0), 0);
		net_pair_pass(pair, ms);
		say(pair, a_close);
		assert_int_equal(net_caller_state(pair->caller), close_why == NET_WHY_UNKNOWN ? NET_CALLER_LOST : NET_CALLER_ENDED);
		assert_int_equal(net_caller_why(pair->caller), close_why);
		assert_int_equal(net_pair_receive(pair).value, 5);
		destroy(pair);
	}
}

/* ---- WELCOME ------------------------------------------------------------------------------------------------ */

static struct net_welcome good_welcome(const struct net_pair *pair)
{
	return (struct net_welcome){ .clock_ns = pair->now_ns, .max_in_flight = 16, .stream_credits = 16, .window_bytes = 1000,
		.message_bytes = 1000, .datagram_bytes = 1232 };
}

typedef void change_welcome(struct net_welcome *welcome);

static void no_requests(struct net_welcome *welcome) { welcome->max_in_flight = 0; }
static void too_many_requests(struct net_welcome *welcome) { welcome->max_in_flight = 1025; }
static void too_many_replies(struct net_welcome *welcome) { welcome->stream_credits = 1009; }
static void all_of_them(struct net_welcome *welcome) { welcome->max_in_flight = welcome->stream_credits = UINT32_MAX; }
static void another_clock(struct net_welcome *welcome) { welcome->clock_ns++; }
static void resumed(struct net_welcome *welcome) { welcome->flags = NET_RESUMED; }
static void unknown_flags(struct net_welcome *welcome) { welcome->flags = 2; }
static void nothing(struct net_welcome *welcome) { (void)welcome; }

static enum net_caller_state after_welcome(bool datagram, change_welcome *change)
{
	struct net_pair *pair = create(datagram);
	unsigned char packet[200], *body = packet + net_packet_head_bytes(datagram), hello[NET_PACKET_BYTES_MAX];
	enum net_caller_state state;
	struct net_welcome welcome;

	pair->options.plain = true;
	net_pair_create(pair);
	net_pair_start(pair, false);
	assert_true(net_caller_next_packet(pair->caller, pair->now_ns, hello) > 0);
	welcome = good_welcome(pair);
	change(&welcome);
	net_welcome_write(body, &welcome);
	net_pair_inject(pair, packet, net_packet_clear(packet, datagram, NET_WELCOME, 0, NET_WELCOME_BYTES));
	state = net_caller_state(pair->caller);
	destroy(pair);
	return state;
}

static void strange_welcomes(void **state)
{
	static change_welcome *const changes[] = { no_requests, too_many_requests, too_many_replies, all_of_them, another_clock, resumed,
		unknown_flags };

	(void)state;
	for (int datagram = 0; datagram < 2; datagram++) {
		assert_int_equal(after_welcome(datagram, nothing), NET_CALLER_OPEN);
		for (size_t i = 0; i < sizeof(changes) / sizeof(*changes); i++)
			assert_int_equal(after_welcome(datagram, changes[i]), datagram ? NET_CALLER_SHAKING : NET_CALLER_REFUSED);
	}
}

/* Times that make no sense do not become the clock's. */
static void a_pong(struct net_pair *pair, struct net_writer *body)
{
	const int64_t pinged_ns = pair->peer.pong.sender_ns;
	const struct net_times times[] = {
		{ pinged_ns, INT64_MAX, INT64_MIN }, { pinged_ns, INT64_MIN, INT64_MAX }, { pinged_ns, INT64_MIN, INT64_MIN },
		{ pinged_ns, INT64_MAX, INT64_MAX }, { pinged_ns, 5, 4 }, { pinged_ns, 0, 3600000 * ms }, { pinged_ns + 1, 0, 0 } };

	for (size_t i = 0; i < sizeof(times) / sizeof(*times); i++)
		assert_true(net_times_put(body, NET_PONG, &times[i]));
}

static void strange_times(void **state)
{
	struct net_pair *pair = opened(true);
	const struct net_pace before = *net_caller_pace(pair->caller);

	(void)state;
	say(pair, a_pong);
	assert_int_equal(net_caller_state(pair->caller), NET_CALLER_OPEN);
	assert_memory_equal(net_caller_pace(pair->caller), &before, sizeof(before));
	destroy(pair);
}

/* ---- somebody without the key ------------------------------------------------------------------------------- */

static void draw(uint64_t *seed, unsigned char *to, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		to[i] = (unsigned char)base_rand_next(seed);
}

/* Datagrams of every kind, from anybody, before and after the handshake. */
static void garbage_in_datagrams(void **state)
{
	struct net_pair *pair = create(true);
	unsigned char packet[600];
	uint64_t seed = 4;

	(void)state;
	net_pair_create(pair);
	net_pair_start(pair, false);
	for (unsigned i = 0; i < 20000; i++) {
		const size_t bytes = base_rand_below(&seed, sizeof(packet));

		draw(&seed, packet, sizeof(packet));
		if (i % 4) { /* as if it were a packet, and the right one */
			base_store64(packet, 2 + base_rand_below(&seed, 4));
			base_store64(packet + 8, pair->peer.packets.name);
			base_store64(packet + 16, base_rand_below(&seed, 100));
		}
		if (packet[0] == NET_REFUSED || packet[0] == NET_COOKIE)
			packet[0] = NET_DATA; /* these are believed for a while */
		net_pair_inject(pair, packet, bytes);
		if (i == 10000)
			net_pair_pass(pair, 100 * ms);
	}
	assert_int_equal(net_caller_state(pair->caller), NET_CALLER_OPEN);
	assert_int_equal(send_request(pair, ATTND_OP_NOP, 1, NULL, 0), 0);
	assert_int_equal(net_pair_receive(pair).request_id, 1);
	assert_true(net_caller_counts(pair->caller)->bad_head > 100);
	assert_true(net_caller_counts(pair->caller)->not_opened > 100);
	assert_true(net_caller_counts(pair->caller)->not_ours > 100);
	destroy(pair);
}

static void garbage_in_a_stream(void **state)
{
	uint64_t seed = 9;

	(void)state;
	for (unsigned i = 0; i < 500; i++) {
		struct net_pair *pair = i % 2 ? opened(false) : create(false);
		unsigned char bytes[3000];

		if (i % 2 == 0) {
			net_pair_create(pair);
			net_pair_start(pair, false);
		}
		for (unsigned n = 0; n < 20; n++) {
			draw(&seed, bytes, sizeof(bytes));
			if (i % 3) { /* a head that can be */
				base_store16(bytes, (uint16_t)base_rand_below(&seed, sizeof(bytes)));
				bytes[2] = 0;
				bytes[3] = (unsigned char)(1 + base_rand_below(&seed, 5));
			}
			net_pair_inject(pair, bytes, base_rand_below(&seed, sizeof(bytes)));
		}
		assert_int_not_equal(net_caller_state(pair->caller), NET_CALLER_OPEN);
		destroy(pair);
	}
}

/* What was recorded and is said once more. */
static void a_replay(void **state)
{
	static unsigned char packet[NET_PACKET_BYTES_MAX];
	struct net_pair *pair = opened(true);
	struct net_writer body;
	size_t bytes;

	(void)state;
	net_peer_begin(&pair->peer, packet, &body);
	assert_true(net_times_put(&body, NET_PING, &(struct net_times){ .sender_ns = 3 }));
	bytes = net_peer_end(&pair->peer, packet, &body);
	for (int i = 0; i < 5; i++)
		net_pair_inject(pair, packet, bytes);
	assert_int_equal(net_caller_counts(pair->caller)->replayed, 4);
	destroy(pair);
}

/* Where nothing is sealed, the connection's name is what others do not know. */
static void somebody_elses_name(void **state)
{
	static const struct net_come none;
	struct net_pair *pair = create(true);
	unsigned char packet[NET_DATAGRAM_BYTES_LEAST];
	struct net_writer body;
	size_t bytes;

	(void)state;
	pair->options.plain = pair->peer.plain = true;
	net_pair_create(pair);
	net_pair_open(pair);
	net_peer_begin(&pair->peer, packet, &body);
	assert_true(net_come_put(&body, NET_ACK, 0, &none)); /* which would end it */
	bytes = net_peer_end(&pair->peer, packet, &body);
	packet[8] ^= 1;
	net_pair_inject(pair, packet, bytes);
	assert_int_equal(net_caller_state(pair->caller), NET_CALLER_OPEN);
	packet[8] ^= 1;
	net_pair_inject(pair, packet, bytes);
	assert_int_equal(net_caller_state(pair->caller), NET_CALLER_ENDED);
	destroy(pair);
}

/* Anybody can claim that only a weaker way is left. */
static void nobody_talks_it_into_plain(void **state)
{
	(void)state;
	for (uint32_t ciphers = 0; ciphers < 8; ciphers++)
		for (int datagram = 0; datagram < 2; datagram++) {
			struct net_pair *pair = create(datagram);
			unsigned char packet[NET_PACKET_BYTES_MAX];
			struct net_clear clear;

			net_pair_create(pair);
			net_pair_start(pair, false);
			(void)net_caller_next_packet(pair->caller, pair->now_ns, packet);
			net_refused_write(packet + net_packet_head_bytes(datagram),
				&(struct net_refused){ .why = NET_WHY_CIPHER, .ciphers = ciphers });
			net_pair_inject(pair, packet, net_packet_clear(packet, datagram, NET_REFUSED, 0, NET_REFUSED_BYTES));
			if (net_caller_next_packet(pair->caller, pair->now_ns, packet) > 0) {
				assert_int_equal(net_clear_read(packet + net_packet_head_bytes(datagram), &clear), 0);
				assert_int_not_equal(clear.cipher, NET_CIPHER_PLAIN);
			}
			destroy(pair);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_protocol_broken),
		cmocka_unit_test(tokens_anywhere),
		cmocka_unit_test(closed),
		cmocka_unit_test(strange_welcomes),
		cmocka_unit_test(strange_times),
		cmocka_unit_test(garbage_in_datagrams),
		cmocka_unit_test(garbage_in_a_stream),
		cmocka_unit_test(a_replay),
		cmocka_unit_test(somebody_elses_name),
		cmocka_unit_test(nobody_talks_it_into_plain),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
