/*
 * Packets: heads by their bytes, DATA there and back in every manner of sealing, and nothing that was changed, repeated or cut is opened.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/base_bytes.h"
#include "netio/net_packet.h"

enum { BODY_MAX = NET_BODY_BYTES_MAX + NET_TAG_BYTES };

static const uint64_t epoch = UINT64_C(1) << NET_REKEY_SHIFT;

static int set_up(void **state)
{
	(void)state;
	assert_int_equal(net_secure_init(), 0);
	return 0;
}

/* ---- heads ------------------------------------------------------------------------------------------------ */

static void stream_heads(void **state)
{
	/* 3 bytes of length, then the kind. */
	const unsigned char data[4] = { 0x34, 0x12, 0x00, 0x04 }, longest[4] = { 0x10, 0x40, 0x00, 0x04 };
	const unsigned char too_long[4] = { 0x11, 0x40, 0x00, 0x04 }, much_too_long[4] = { 0xff, 0xff, 0xff, 0x01 };
	struct net_packet_head head;

	(void)state;
	assert_int_equal(net_packet_stream_head(data, 4, &head), 1);
	assert_int_equal(head.kind, NET_DATA);
	assert_int_equal(head.body_bytes, 0x1234);
	assert_true(head.name == 0 && head.number == 0);
	for (size_t cut = 0; cut < 4; cut++)
		assert_int_equal(net_packet_stream_head(data, cut, &head), 0);
	assert_int_equal(net_packet_stream_head(longest, 4, &head), 1);
	assert_int_equal(head.body_bytes, 16400);
	assert_int_equal(net_packet_stream_head(too_long, 4, &head), -EMSGSIZE);
	assert_int_equal(net_packet_stream_head(much_too_long, 4, &head), -EMSGSIZE);
	for (int kind = 0; kind < 256; kind++) {
		const unsigned char bytes[4] = { 1, 0, 0, (unsigned char)kind };

		assert_int_equal(net_packet_stream_head(bytes, 4, &head), kind >= 1 && kind <= 5 ? 1 : -EPROTO);
	}
}

/* A datagram's head with every field its own value. */
static void datagram_head_of(unsigned char *bytes, uint8_t kind, uint64_t name, uint64_t number)
{
	memset(bytes, 0, NET_DATAGRAM_HEAD_BYTES);
	bytes[0] = kind;
	base_store64(bytes + 8, name);
	base_store64(bytes + 16, number);
}

static void datagram_heads(void **state)
{
	static unsigned char bytes[NET_PACKET_BYTES_MAX + 1];
	struct net_packet_head head;

	(void)state;
	datagram_head_of(bytes, NET_DATA, UINT64_C(0x1122334455667788), UINT64_C(0x0102030405060708));
	assert_int_equal(bytes[8], 0x88);
	assert_int_equal(bytes[16], 8);
	assert_int_equal(net_packet_datagram_head(bytes, 100, &head), 0);
	assert_int_equal(head.kind, NET_DATA);
	assert_int_equal(head.body_bytes, 76);
	assert_true(head.name == UINT64_C(0x1122334455667788) && head.number == UINT64_C(0x0102030405060708));
	for (size_t cut = 0; cut < NET_DATAGRAM_HEAD_BYTES; cut++)
		assert_int_equal(net_packet_datagram_head(bytes, cut, &head), -EPROTO);
	assert_int_equal(net_packet_datagram_head(bytes, NET_DATAGRAM_HEAD_BYTES, &head), 0);
	assert_int_equal(head.body_bytes, 0);
	assert_int_equal(net_packet_datagram_head(bytes, NET_PACKET_BYTES_MAX, &head), 0);
	assert_int_equal(net_packet_datagram_head(bytes, NET_PACKET_BYTES_MAX + 1, &head), -EPROTO);
	for (int reserved = 1; reserved < 8; reserved++) {
		bytes[reserved] = 1;
		assert_int_equal(net_packet_datagram_head(bytes, 100, &head), -EPROTO);
		bytes[reserved] = 0;
	}
	for (int kind = 0; kind < 256; kind++) {
		datagram_head_of(bytes, (uint8_t)kind, 0, 0);
		assert_int_equal(net_packet_datagram_head(bytes, 100, &head), kind >= 1 && kind <= 5 ? 0 : -EPROTO);
	}
}

/* Who has no name yet names none, and only DATA is numbered. */
static void fields_that_are_zero(void **state)
{
	unsigned char bytes[64] = { 0 };
	struct net_packet_head head;

	(void)state;
	for (uint8_t kind = NET_HELLO; kind < NET_PACKET_KIND_END; kind++) {
		datagram_head_of(bytes, kind, 5, 0);
		assert_int_equal(net_packet_datagram_head(bytes, 64, &head), kind == NET_DATA || kind == NET_WELCOME ? 0 : -EPROTO);
		datagram_head_of(bytes, kind, 0, 5);
		assert_int_equal(net_packet_datagram_head(bytes, 64, &head), kind == NET_DATA ? 0 : -EPROTO);
	}
}

static void clear_packets(void **state)
{
	const unsigned char on_stream[] = { 0x20, 0, 0, NET_WELCOME, 0xaa };
	const unsigned char as_datagram[] = { NET_WELCOME, 0, 0, 0, 0, 0, 0, 0, 0x09, 0x08, 0, 0, 0, 0, 0, 0x07, 0, 0, 0, 0, 0, 0, 0, 0, 0xaa };
	unsigned char packet[64];

	(void)state;
	memset(packet, 0xaa, sizeof(packet));
	assert_int_equal(net_packet_clear(packet, false, NET_WELCOME, UINT64_C(0x0700000000000809), 32), 36);
	assert_memory_equal(packet, on_stream, sizeof(on_stream));
	memset(packet, 0xaa, sizeof(packet));
	assert_int_equal(net_packet_clear(packet, true, NET_WELCOME, UINT64_C(0x0700000000000809), 32), 56);
	assert_memory_equal(packet, as_datagram, sizeof(as_datagram));
	assert_int_equal(net_packet_head_bytes(false), 4);
	assert_int_equal(net_packet_head_bytes(true), 24);
}

/* ---- DATA ------------------------------------------------------------------------------------------------- */

/* Two ends of a connection that has been made. */
struct ends { struct net_packets client, daemon; };

static void connect_ends(struct ends *ends, bool datagram, enum net_cipher cipher)
{
	const unsigned char psk[NET_KEY_BYTES] = { 1 }, ours[NET_KEY_BYTES] = { 2 }, theirs[NET_KEY_BYTES] = { 3 };
	unsigned char message[NET_KEY_BYTES + NET_TAG_BYTES];
	struct net_noise client, daemon;

	*ends = (struct ends){ .client = { .name = 77, .datagram = datagram, .plain = cipher == NET_CIPHER_PLAIN } };
	ends->daemon = ends->client;
	if (cipher == NET_CIPHER_PLAIN)
		return;
	net_noise_begin(&client, cipher, true, NULL, 0, psk, ours);
	net_noise_begin(&daemon, cipher, false, NULL, 0, psk, theirs);
	net_noise_write(&client, "", 0, message);
	assert_int_equal(net_noise_read(&daemon, message, sizeof(message), message), 0);
	net_noise_write(&daemon, "", 0, message);
	assert_int_equal(net_noise_read(&client, message, sizeof(message), message), 0);
	net_noise_split(&client, &ends->client.send, &ends->client.receive);
	net_noise_split(&daemon, &ends->daemon.send, &ends->daemon.receive);
}

/* A packet with so many bytes of body, all of them `fill`. */
static size_t write_packet(struct net_packets *packets, unsigned char *packet, size_t bytes, int fill)
{
	struct net_writer body;

	net_packet_begin(packets, packet, NET_PACKET_BYTES_MAX, &body);
	assert_in_range(bytes, 0, body.end - body.at);
	memset(body.at, fill, bytes);
	body.at += bytes;
	return net_packet_end(packets, packet, &body);
}

static int open_packet(struct net_packets *packets, unsigned char *packet, size_t bytes, struct net_reader *body)
{
	struct net_packet_head head;

	if (packets->datagram) {
		if (net_packet_datagram_head(packet, bytes, &head))
			return -EPROTO;
	} else if (net_packet_stream_head(packet, bytes, &head) != 1 || NET_STREAM_HEAD_BYTES + head.body_bytes != bytes) {
		return -EPROTO;
	}
	return head.kind == NET_DATA ? net_packet_open(packets, packet, &head, body) : -EPROTO;
}

static void there_and_back(struct net_packets *from, struct net_packets *to, size_t bytes, int fill)
{
	static unsigned char packet[NET_PACKET_BYTES_MAX];
	const size_t around = net_packet_head_bytes(from->datagram) + (from->plain ? 0 : NET_TAG_BYTES);
	struct net_reader body;

	assert_int_equal(write_packet(from, packet, bytes, fill), around + bytes);
	if (!from->plain && bytes > 16)
		assert_true(packet[around - NET_TAG_BYTES] != fill || packet[around - NET_TAG_BYTES + 1] != fill ||
			packet[around - NET_TAG_BYTES + 2] != fill);
	assert_int_equal(open_packet(to, packet, around + bytes, &body), 0);
	assert_int_equal(body.end - body.at, bytes);
	for (size_t i = 0; i < bytes; i++)
		assert_int_equal(body.at[i], fill);
}

#define FOR_ALL(datagram, cipher)                                                                  \
	for (int datagram = 0; datagram < 2; datagram++)                                           \
		for (enum net_cipher cipher = NET_CIPHER_PLAIN; cipher < NET_CIPHER_END; cipher++) \
			if (cipher == NET_CIPHER_PLAIN || net_cipher_here(cipher))

static void data(void **state)
{
	static const size_t sizes[] = { 0, 1, 8, 16, 1000, 1104, NET_BODY_BYTES_MAX };
	struct ends ends;

	(void)state;
	FOR_ALL(datagram, cipher)
	{
		connect_ends(&ends, datagram, cipher);
		for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
			there_and_back(&ends.client, &ends.daemon, sizes[i], (int)i);
			there_and_back(&ends.daemon, &ends.client, sizes[i], (int)i + 100);
		}
		assert_int_equal(ends.client.sent, sizeof(sizes) / sizeof(*sizes));
		assert_int_equal(ends.daemon.received, sizeof(sizes) / sizeof(*sizes));
	}
}

/* What a body has of a packet's memory: the least that every way carries takes any part of a message. */
static void rooms(void **state)
{
	static unsigned char packet[2 * NET_PACKET_BYTES_MAX];
	struct net_writer body;
	struct ends ends;

	(void)state;
	FOR_ALL(datagram, cipher)
	{
		const size_t around = (size_t)(datagram ? 24 : 4) + (cipher ? 16 : 0);

		connect_ends(&ends, datagram, cipher);
		net_packet_begin(&ends.client, packet, NET_DATAGRAM_BYTES_LEAST, &body);
		assert_int_equal(body.end - packet, NET_DATAGRAM_BYTES_LEAST - (cipher ? 16 : 0));
		assert_int_equal(body.at - packet, datagram ? 24 : 4);
		assert_true(body.end - body.at >= NET_BODY_BYTES_LEAST);
		net_packet_begin(&ends.client, packet, around + NET_BODY_BYTES_MAX, &body);
		assert_int_equal(body.end - body.at, NET_BODY_BYTES_MAX);
		net_packet_begin(&ends.client, packet, sizeof(packet), &body);
		assert_int_equal(body.end - body.at, NET_BODY_BYTES_MAX);
	}
}

/* Head, body, tag: there is no bit that does not count, and a packet that is refused moves nothing on. */
static void changed_bits(void **state)
{
	unsigned char packet[128], changed[128];
	struct net_reader body;
	struct ends ends;

	(void)state;
	FOR_ALL(datagram, cipher)
	{
		size_t bytes;

		if (cipher == NET_CIPHER_PLAIN)
			continue;
		connect_ends(&ends, datagram, cipher);
		bytes = write_packet(&ends.client, packet, 24, 5);
		for (size_t bit = 0; bit < 8 * bytes; bit++) {
			memcpy(changed, packet, bytes);
			changed[bit / 8] ^= (unsigned char)(1 << bit % 8);
			assert_int_not_equal(open_packet(&ends.daemon, changed, bytes, &body), 0);
		}
		for (size_t cut = 0; cut < bytes; cut++) {
			memcpy(changed, packet, bytes);
			assert_int_not_equal(open_packet(&ends.daemon, changed, cut, &body), 0);
		}
		assert_int_equal(ends.daemon.received, 0);
		assert_int_equal(open_packet(&ends.daemon, packet, bytes, &body), 0);
	}
}

static void replays(void **state)
{
	unsigned char first[64], second[64], again[64];
	struct net_reader body;
	struct ends ends;

	(void)state;
	for (enum net_cipher cipher = NET_CIPHER_PLAIN; cipher < NET_CIPHER_END; cipher++) {
		size_t bytes;

		if (cipher && !net_cipher_here(cipher))
			continue;
		connect_ends(&ends, true, cipher);
		bytes = write_packet(&ends.client, first, 16, 1);
		write_packet(&ends.client, second, 16, 2);
		for (int i = 0; i < 2; i++) {
			memcpy(again, second, bytes);
			assert_int_equal(open_packet(&ends.daemon, again, bytes, &body), i && cipher ? -EALREADY : 0);
		}
		/* Late, and nevertheless new. */
		assert_int_equal(open_packet(&ends.daemon, first, bytes, &body), 0);
		if (!cipher)
			continue;
		/* Too old to know. */
		ends.client.sent = 1 + NET_REPLAY_BITS;
		write_packet(&ends.client, again, 16, 3);
		assert_int_equal(open_packet(&ends.daemon, again, bytes, &body), 0);
		ends.client.sent = 0;
		write_packet(&ends.client, again, 16, 3);
		assert_int_equal(open_packet(&ends.daemon, again, bytes, &body), -EALREADY);
	}
}

/* On a stream the order is the number: the same bytes twice, or one packet left out, do not open. */
static void out_of_order(void **state)
{
	unsigned char first[64], second[64], again[64];
	struct net_reader body;
	struct ends ends;
	size_t bytes;

	(void)state;
	connect_ends(&ends, false, NET_CIPHER_CHACHA);
	bytes = write_packet(&ends.client, first, 16, 1);
	write_packet(&ends.client, second, 16, 2);
	memcpy(again, second, bytes);
	assert_int_equal(open_packet(&ends.daemon, again, bytes, &body), -EBADMSG);
	memcpy(again, first, bytes);
	assert_int_equal(open_packet(&ends.daemon, again, bytes, &body), 0);
	memcpy(again, first, bytes);
	assert_int_equal(open_packet(&ends.daemon, again, bytes, &body), -EBADMSG);
	assert_int_equal(open_packet(&ends.daemon, second, bytes, &body), 0);
}

/* Beyond 2^24 packets each has another key, in both directions for itself; one that jumps an epoch is refused. */
static void keys_move_on(void **state)
{
	struct ends ends;

	(void)state;
	FOR_ALL(datagram, cipher)
	{
		connect_ends(&ends, datagram, cipher);
		there_and_back(&ends.client, &ends.daemon, 16, 1);
		ends.client.sent = ends.daemon.received = epoch - 2;
		for (int i = 0; i < 4; i++)
			there_and_back(&ends.client, &ends.daemon, 16, 10 + i);
		there_and_back(&ends.daemon, &ends.client, 16, 2);
		if (cipher) {
			assert_int_equal(ends.daemon.receive.epoch, 1);
			assert_int_equal(ends.daemon.send.epoch, 0);
		}
	}
}

static void epochs_apart(void **state)
{
	unsigned char packet[64], early[64];
	struct net_reader body;
	struct ends ends;
	size_t bytes;

	(void)state;
	connect_ends(&ends, true, NET_CIPHER_CHACHA);
	ends.client.sent = epoch - 1;
	bytes = write_packet(&ends.client, early, 16, 1);
	write_packet(&ends.client, packet, 16, 2);
	assert_int_equal(open_packet(&ends.daemon, packet, bytes, &body), 0);
	/* The last one under the old key comes too late. */
	assert_int_equal(open_packet(&ends.daemon, early, bytes, &body), -EBADMSG);
	ends.client.sent = 3 * epoch;
	write_packet(&ends.client, packet, 16, 3);
	assert_int_equal(open_packet(&ends.daemon, packet, bytes, &body), -EBADMSG);
	assert_int_equal(ends.daemon.receive.epoch, 1);
}

/* What is plain has no tag's bytes more. */
static void plain_and_too_long(void **state)
{
	static unsigned char packet[NET_PACKET_BYTES_MAX];
	struct net_reader body;
	struct ends ends;

	(void)state;
	connect_ends(&ends, false, NET_CIPHER_PLAIN);
	base_store32(packet, (uint32_t)NET_DATA << 24 | BODY_MAX);
	assert_int_equal(open_packet(&ends.daemon, packet, NET_STREAM_HEAD_BYTES + BODY_MAX, &body), -EBADMSG);
	base_store32(packet, (uint32_t)NET_DATA << 24 | NET_BODY_BYTES_MAX);
	assert_int_equal(open_packet(&ends.daemon, packet, NET_STREAM_HEAD_BYTES + NET_BODY_BYTES_MAX, &body), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(stream_heads),
		cmocka_unit_test(datagram_heads),
		cmocka_unit_test(fields_that_are_zero),
		cmocka_unit_test(clear_packets),
		cmocka_unit_test(data),
		cmocka_unit_test(rooms),
		cmocka_unit_test(changed_bits),
		cmocka_unit_test(replays),
		cmocka_unit_test(out_of_order),
		cmocka_unit_test(keys_move_on),
		cmocka_unit_test(epochs_apart),
		cmocka_unit_test(plain_and_too_long),
	};

	return cmocka_run_group_tests(tests, set_up, NULL);
}
