/*
 * From an outbox to an inbox: over a way that loses, doubles, delays and shuffles packets in both directions, every message
 * arrives whole, once and in order, and nothing is left behind.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base_rand.h"
#include "netio/net_outbox.h"

enum { WINDOW = 16, MESSAGE_MAX = 9000, PACKETS = 32, BODY_MAX = 5000 };

static uint32_t blocks_out;

static void *take(void *context, uint32_t bytes)
{
	(void)context;
	blocks_out++;
	return malloc(bytes);
}

static void give(void *context, void *block)
{
	(void)context;
	blocks_out--;
	free(block);
}

static const struct net_blocks blocks = { NULL, take, give };

/* ---- a bad way -------------------------------------------------------------------------------------------- */

struct way {
	struct packet { _Alignas(8) unsigned char body[BODY_MAX]; size_t bytes; } packets[PACKETS];
	uint32_t count;
	uint64_t seed;
	bool is_good;
};

static void send_packet(struct way *way, const unsigned char *body, size_t bytes)
{
	uint32_t copies = base_rand_next(&way->seed) % 5 == 0 ? 0 : base_rand_next(&way->seed) % 10 == 0 ? 2 : 1;

	if (way->is_good)
		copies = 1;
	for (; copies > 0 && way->count < PACKETS; copies--) {
		struct packet *packet = &way->packets[way->count++];

		memcpy(packet->body, body, bytes);
		packet->bytes = bytes;
	}
}

/* Any one of those under way, or none for now. */
static bool receive_packet(struct way *way, struct packet *packet)
{
	uint32_t which;

	if (way->count == 0 || (!way->is_good && base_rand_next(&way->seed) % 3 == 0))
		return false;
	which = (uint32_t)(base_rand_next(&way->seed) % way->count);
	*packet = way->packets[which];
	way->packets[which] = way->packets[--way->count];
	return true;
}

/* ---- messages --------------------------------------------------------------------------------------------- */

static uint32_t bytes_of(uint32_t number)
{
	uint64_t seed = number;
	const uint64_t kind = base_rand_next(&seed) % 4;

	return kind == 0 ? 0 : (uint32_t)(base_rand_next(&seed) % (kind == 1 ? 200 : MESSAGE_MAX));
}

static void add(struct net_outbox *outbox, uint32_t number)
{
	const uint32_t bytes = bytes_of(number);
	struct attnd_request record = { .op = ATTND_OP_NOP, .request_id = number, .in_bytes = bytes };
	unsigned char *payload = bytes > 0 ? take(NULL, bytes) : NULL;
	uint64_t seed = number + UINT64_C(1000000);

	for (uint32_t i = 0; i < bytes; i++)
		payload[i] = (unsigned char)base_rand_next(&seed);
	assert_int_equal(net_outbox_add(outbox, &record, payload, bytes), number);
}

static void check(const struct net_inbox_message *message, uint32_t number)
{
	uint64_t seed = number + UINT64_C(1000000);
	struct attnd_request record;

	memcpy(&record, message->record, sizeof(record));
	assert_int_equal(message->number, number);
	assert_int_equal(record.request_id, number);
	assert_int_equal(message->bytes, bytes_of(number));
	for (uint32_t i = 0; i < message->bytes; i++)
		assert_int_equal(message->payload[i], (unsigned char)base_rand_next(&seed));
	if (message->payload)
		give(NULL, message->payload);
}

/* ---- both ends -------------------------------------------------------------------------------------------- */

struct ends {
	struct net_outbox *outbox;
	struct net_inbox *inbox;
	struct way there, back;
	uint32_t delivered;
};

static void send_parts(struct ends *ends, uint64_t *seed)
{
	static _Alignas(8) unsigned char body[BODY_MAX];
	struct net_writer writer = { body, body + NET_BODY_BYTES_LEAST + base_rand_next(seed) % (BODY_MAX - NET_BODY_BYTES_LEAST) };

	(void)net_outbox_fill(ends->outbox, NET_REQUEST, &writer);
	if (writer.at > body)
		send_packet(&ends->there, body, (size_t)(writer.at - body));
}

static void receive_parts(struct ends *ends)
{
	static struct packet packet;
	struct net_inbox_message message;
	struct net_reader reader;
	struct net_chunk chunk;
	struct net_part part;

	if (!receive_packet(&ends->there, &packet))
		return;
	reader = (struct net_reader){ packet.body, packet.body + packet.bytes };
	while (net_chunk_next(&reader, &chunk) == 1) {
		assert_int_equal(net_part_read(&chunk, &part), 0);
		assert_in_range(net_inbox_part(ends->inbox, &part), NET_PART_KEPT, NET_PART_AGAIN);
		while (net_inbox_next(ends->inbox, &message))
			check(&message, ++ends->delivered);
	}
	assert_ptr_equal(reader.at, reader.end);
}

static void say_what_has_come(struct ends *ends)
{
	_Alignas(8) unsigned char body[256];
	struct net_writer writer = { body, body + sizeof(body) };
	struct net_come come;

	net_inbox_come(ends->inbox, &come);
	assert_true(net_come_put(&writer, NET_TAKEN, 0, &come));
	send_packet(&ends->back, body, (size_t)(writer.at - body));
}

static void hear_what_has_come(struct ends *ends)
{
	static struct packet packet;
	struct net_reader reader;
	struct net_chunk chunk;
	struct net_come come;

	if (!receive_packet(&ends->back, &packet))
		return;
	reader = (struct net_reader){ packet.body, packet.body + packet.bytes };
	assert_int_equal(net_chunk_next(&reader, &chunk), 1);
	assert_int_equal(net_come_read(&chunk, &come), 0);
	assert_int_equal(net_outbox_come(ends->outbox, &come), 0);
}

static void carry(bool is_good, uint32_t messages, uint64_t seed)
{
	static struct ends ends;
	uint32_t added = 0, turns = 0;

	memset(&ends, 0, sizeof(ends));
	ends.there = (struct way){ .seed = seed, .is_good = is_good };
	ends.back = (struct way){ .seed = seed + 1, .is_good = is_good };
	assert_int_equal(net_outbox_create(&ends.outbox, WINDOW, 3 * MESSAGE_MAX, &blocks, NULL), 0);
	assert_int_equal(net_inbox_create(&ends.inbox, WINDOW, MESSAGE_MAX, &blocks, NULL), 0);
	while (ends.delivered < messages || net_outbox_kept(ends.outbox) > 0) {
		assert_true(++turns < 200 * messages); /* it comes to an end */
		if (added < messages && net_outbox_room(ends.outbox, bytes_of(added + 1)))
			add(ends.outbox, ++added);
		send_parts(&ends, &seed);
		receive_parts(&ends);
		if (turns % 4 == 0)
			say_what_has_come(&ends);
		hear_what_has_come(&ends);
		if (turns % 40 == 0 && !is_good)
			net_outbox_resend(ends.outbox);
	}
	assert_int_equal(ends.delivered, messages);
	net_outbox_destroy(ends.outbox);
	net_inbox_destroy(ends.inbox);
	assert_int_equal(blocks_out, 0);
}

static void a_good_way(void **state)
{
	(void)state;
	carry(true, 3000, 1);
}

static void a_bad_way(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 10; seed++)
		carry(false, 1000, seed * 100);
}

/* A small message behind a large one does not wait for all of it. */
static void messages_take_turns(void **state)
{
	struct attnd_request large = { .in_bytes = 100000 }, small = { .in_bytes = 0 };
	_Alignas(8) unsigned char body[NET_BODY_BYTES_LEAST];
	struct net_outbox *outbox;
	bool small_came = false;

	(void)state;
	assert_int_equal(net_outbox_create(&outbox, WINDOW, 1000, &blocks, NULL), 0);
	net_outbox_add(outbox, &large, calloc(1, 100000), 100000);
	blocks_out++;
	assert_false(net_outbox_room(outbox, 1));
	net_outbox_add(outbox, &small, NULL, 0);
	for (int packet = 0; packet < 3; packet++) {
		struct net_writer writer = { body, body + sizeof(body) };
		struct net_reader reader = { body, body };
		struct net_chunk chunk;

		assert_true(net_outbox_fill(outbox, NET_REPLY, &writer));
		reader.end = writer.at;
		while (net_chunk_next(&reader, &chunk) == 1)
			small_came |= chunk.number == 2;
	}
	assert_true(small_came);
	net_outbox_destroy(outbox);
	assert_int_equal(blocks_out, 0);
}

static void words_for_what_was_never_there(void **state)
{
	struct net_come come = { .number = 0, .words = 0 };
	struct attnd_request record = { .op = ATTND_OP_NOP };
	struct net_outbox *outbox;

	(void)state;
	assert_int_equal(net_outbox_create(&outbox, WINDOW, 1000, &blocks, NULL), 0);
	assert_int_equal(net_outbox_come(outbox, &come), 0);
	come.number = 1;
	assert_int_equal(net_outbox_come(outbox, &come), -EPROTO);
	net_outbox_add(outbox, &record, NULL, 0);
	net_outbox_add(outbox, &record, NULL, 0);
	assert_int_equal(net_outbox_come(outbox, &come), 0);
	assert_int_equal(net_outbox_kept(outbox), 1);
	come.words = 1;
	come.bitmap[0] = 2; /* the third */
	assert_int_equal(net_outbox_come(outbox, &come), -EPROTO);
	come.number = 0; /* what was said before */
	assert_int_equal(net_outbox_come(outbox, &come), 0);
	assert_int_equal(net_outbox_kept(outbox), 1);
	net_outbox_destroy(outbox);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_good_way),
		cmocka_unit_test(a_bad_way),
		cmocka_unit_test(messages_take_turns),
		cmocka_unit_test(words_for_what_was_never_there),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
