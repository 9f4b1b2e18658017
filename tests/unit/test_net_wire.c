/*
 * Chunks: what is written is read again, at every size of room; what is cut, padded or flagged otherwise is refused.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/base_rand.h"
#include "netio/net_wire.h"

enum { ROOM = NET_BODY_BYTES_MAX };

static _Alignas(8) unsigned char body[ROOM], payload[100000], back[100000];

static struct net_writer whole_body(size_t room)
{
	memset(body, 0xee, sizeof(body));
	return (struct net_writer){ body, body + room };
}

static struct net_reader written(const struct net_writer *writer)
{
	return (struct net_reader){ body, writer->at };
}

static void one_chunk(const struct net_writer *writer, struct net_chunk *chunk)
{
	struct net_reader reader = written(writer);

	assert_int_equal(net_chunk_next(&reader, chunk), 1);
	assert_ptr_equal(reader.at, writer->at);
	assert_int_equal(net_chunk_next(&reader, chunk), 0);
}

/* A message of so many bytes through packets with so much room: every part is read, and all parts together are the message. */
static void carry(uint32_t bytes, size_t room)
{
	struct attnd_request record = { .op = ATTND_OP_NOP, .request_id = 77, .in_bytes = bytes };
	uint32_t offset = 0;
	bool again = true;

	memset(back, 0, sizeof(back));
	while (again) {
		struct net_writer writer = whole_body(room);
		struct net_chunk chunk;
		struct net_part part;
		uint32_t taken;

		assert_true(net_part_put(&writer, NET_REQUEST, 5, &record, payload, bytes, offset, &taken));
		one_chunk(&writer, &chunk);
		assert_int_equal(chunk.kind, offset == 0 ? NET_REQUEST : NET_REQUEST_MORE);
		assert_int_equal(net_part_read(&chunk, &part), 0);
		assert_int_equal(part.number, 5);
		assert_int_equal(part.message_bytes, bytes);
		assert_int_equal(part.offset, offset);
		assert_int_equal(part.bytes, taken);
		if (offset == 0)
			assert_memory_equal(part.record, &record, sizeof(record));
		else
			assert_null(part.record);
		memcpy(back + offset, part.payload, part.bytes);
		again = offset + taken < bytes;
		/* A first part without payload would begin at 0 once more. */
		assert_true(!again || taken > 0);
		offset += taken;
	}
	assert_memory_equal(back, payload, bytes);
}

static void messages_of_all_sizes(void **state)
{
	static const uint32_t sizes[] = { 0, 1, 7, 8, 63, 64, 1000, 1023, 1024, 1025, 2048, 16000, 16384, 50000, 99999 };
	static const size_t rooms[] = { 1104, 1200, 2200, 8000, ROOM };
	uint64_t seed = 1;

	(void)state;
	for (size_t i = 0; i < sizeof(payload); i++)
		payload[i] = (unsigned char)base_rand_next(&seed);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++)
		for (size_t r = 0; r < sizeof(rooms) / sizeof(*rooms); r++)
			carry(sizes[i], rooms[r]);
}

static void no_room_leaves_nothing(void **state)
{
	struct attnd_request record = { .op = ATTND_OP_NOP, .in_bytes = 5000 };
	const struct net_come come = { .number = 1, .words = 3 };
	const struct net_times times = { .sender_ns = 1 };
	uint32_t taken;

	(void)state;
	for (size_t room = 0; room < 32; room++) {
		struct net_writer writer = whole_body(room);

		assert_false(net_part_put(&writer, NET_REQUEST, 1, &record, payload, 5000, 0, &taken));
		assert_false(net_part_put(&writer, NET_REQUEST, 1, &record, payload, 5000, 1024, &taken));
		assert_true(room >= 40 || !net_come_put(&writer, NET_ACK, 0, &come));
		assert_true(room >= 32 || !net_times_put(&writer, NET_PONG, &times));
		assert_ptr_equal(writer.at, body);
		for (size_t i = 0; i < sizeof(body); i++)
			assert_int_equal(body[i], 0xee);
	}
}

static void what_has_come(void **state)
{
	struct net_come come = { .number = 4294967290u, .credits = 9, .words = NET_BITMAP_WORDS_MAX }, read;
	struct net_writer writer = whole_body(ROOM);
	struct net_chunk chunk;

	(void)state;
	for (uint32_t i = 0; i < come.words; i++)
		come.bitmap[i] = UINT64_C(0x0123456789abcdef) * (i + 1);
	assert_true(net_come_put(&writer, NET_ACK, NET_ACK_PROBE, &come));
	one_chunk(&writer, &chunk);
	assert_int_equal(chunk.flags, NET_ACK_PROBE);
	assert_int_equal(net_come_read(&chunk, &read), 0);
	assert_memory_equal(&come, &read, sizeof(come));
}

static void what_has_come_of_a_message(void **state)
{
	struct net_have have = { .number = 4294967290u, .first = UINT32_MAX, .words = NET_BITMAP_WORDS_MAX }, read;
	struct net_writer writer = whole_body(ROOM);
	struct net_chunk chunk;

	(void)state;
	for (uint32_t i = 0; i < have.words; i++)
		have.bitmap[i] = UINT64_C(0x0123456789abcdef) * (i + 1);
	assert_true(net_have_put(&writer, NET_HAVE_AGAIN, &have));
	one_chunk(&writer, &chunk);
	assert_int_equal(chunk.kind, NET_HAVE);
	assert_int_equal(chunk.flags, NET_HAVE_AGAIN);
	assert_int_equal(net_have_read(&chunk, &read), 0);
	assert_memory_equal(&have, &read, sizeof(have));
}

static void times_and_close(void **state)
{
	const struct net_times times = { .sender_ns = -5, .received_ns = INT64_MAX, .sent_ns = 17 };
	struct net_writer writer = whole_body(ROOM);
	struct net_chunk chunk;
	struct net_times read;

	(void)state;
	assert_true(net_times_put(&writer, NET_PONG, &times));
	one_chunk(&writer, &chunk);
	assert_int_equal(net_times_read(&chunk, &read), 0);
	assert_memory_equal(&times, &read, sizeof(times));
	writer = whole_body(ROOM);
	assert_true(net_close_put(&writer, 3));
	one_chunk(&writer, &chunk);
	assert_int_equal(chunk.kind, NET_CLOSE);
	assert_int_equal(chunk.number, 3);
}

/* ---- what is refused -------------------------------------------------------------------------------------- */

static int read_one(const unsigned char *bytes, size_t count, struct net_chunk *chunk)
{
	struct net_reader reader = { bytes, bytes + count };

	return net_chunk_next(&reader, chunk);
}

static void bad_chunks(void **state)
{
	unsigned char ping[16] = { NET_PING, 0, 5 };
	struct net_chunk chunk;

	(void)state;
	assert_int_equal(read_one(ping, 16, &chunk), 1);
	for (size_t cut = 1; cut < 16; cut++)
		assert_int_equal(read_one(ping, cut, &chunk), -EPROTO);
	ping[13] = 1; /* padding */
	assert_int_equal(read_one(ping, 16, &chunk), -EPROTO);
	ping[13] = 0;
	ping[1] = 1; /* a flag that the kind has not */
	assert_int_equal(read_one(ping, 16, &chunk), -EPROTO);
	ping[1] = 0;
	ping[0] = 0;
	assert_int_equal(read_one(ping, 16, &chunk), -EPROTO);
	ping[0] = NET_KIND_END;
	assert_int_equal(read_one(ping, 16, &chunk), -EPROTO);
	ping[0] = NET_PING;
	ping[3] = 255;
	assert_int_equal(read_one(ping, 16, &chunk), -EPROTO);
}

static void bad_parts(void **state)
{
	static const struct { uint32_t offset, message, bytes; } parts[] = {
		{ 0, 4096, 1024 },    /* a later part at the beginning */
		{ 1000, 4096, 1024 }, /* between units */
		{ 1024, 4096, 1000 }, /* half a unit in the middle */
		{ 4096, 4096, 1024 }, /* behind the end */
		{ 1024, 1500, 1024 }, /* beyond it */
		{ 1024, 4096, 0 },
		{ 4294966272u, 4294967295u, 1024 },
	};
	unsigned char content[8 + 1024];

	(void)state;
	for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++) {
		struct net_chunk chunk = { .kind = NET_REPLY_MORE, .bytes = (uint16_t)(8 + parts[i].bytes), .content = content };
		struct net_part part;

		memcpy(content, &parts[i].offset, 4);
		memcpy(content + 4, &parts[i].message, 4);
		assert_int_equal(net_part_read(&chunk, &part), -EPROTO);
	}
}

static void bad_bitmaps(void **state)
{
	unsigned char content[8 + 8 * (NET_BITMAP_WORDS_MAX + 1)] = { 0 };
	struct net_chunk chunk = { .kind = NET_TAKEN, .bytes = 8, .content = content };
	struct net_come come;
	struct net_have have;

	(void)state;
	assert_int_equal(net_come_read(&chunk, &come), 0);
	assert_int_equal(net_have_read(&chunk, &have), 0);
	content[4] = 1; /* a word that is not there */
	assert_int_equal(net_come_read(&chunk, &come), -EPROTO);
	assert_int_equal(net_have_read(&chunk, &have), -EPROTO);
	content[4] = NET_BITMAP_WORDS_MAX + 1;
	chunk.bytes = sizeof(content);
	assert_int_equal(net_come_read(&chunk, &come), -EPROTO);
	assert_int_equal(net_have_read(&chunk, &have), -EPROTO);
	content[4] = 0;
	content[0] = 1; /* TAKEN knows no credits */
	chunk.bytes = 8;
	assert_int_equal(net_come_read(&chunk, &come), -EPROTO);
	chunk.bytes = 7;
	assert_int_equal(net_come_read(&chunk, &come), -EPROTO);
	assert_int_equal(net_have_read(&chunk, &have), -EPROTO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(messages_of_all_sizes),
		cmocka_unit_test(no_room_leaves_nothing),
		cmocka_unit_test(what_has_come),
		cmocka_unit_test(what_has_come_of_a_message),
		cmocka_unit_test(times_and_close),
		cmocka_unit_test(bad_chunks),
		cmocka_unit_test(bad_parts),
		cmocka_unit_test(bad_bitmaps),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
