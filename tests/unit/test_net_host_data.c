/*
 * What happens on links that are made: packets cut anywhere, packets that are none, that were changed or come twice; peers that move to
 * another address, break the protocol, take nothing or are let go of.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base_rand.h"
#include "tests/unit/net_host_rig.h"

/* ---- streams in pieces ------------------------------------------------------------------------------------ */

static void come_in_pieces(struct host_rig *rig, const struct net_guest *peer, const unsigned char *bytes, size_t count, size_t first,
	size_t second)
{
	fake_come(&rig->fake, &peer->way, bytes, first);
	host_rig_poll(rig);
	fake_come(&rig->fake, &peer->way, bytes + first, second - first);
	host_rig_poll(rig);
	fake_come(&rig->fake, &peer->way, bytes + second, count - second);
	host_rig_poll(rig);
}

/* HELLO, cut into two or three. */
static void hello_in_pieces(void **state)
{
	struct host_rig *rig = host_rig_create(NULL);
	struct net_guest peer;

	(void)state;
	for (size_t first = 0; first <= 156; first++) {
		const size_t second = first + first % 7 < 156 ? first + first % 7 : 156;

		host_rig_peer(rig, &peer, false, NET_CIPHER_CHACHA, 1);
		come_in_pieces(rig, &peer, peer.packet, peer.packet_bytes, first, second);
		assert_int_equal(net_guest_hear(&peer), NET_WELCOME);
		fake_end(&rig->fake, &peer.way);
		host_rig_poll(rig);
		assert_true(host_rig_last(rig)->gone);
	}
	host_rig_destroy(rig);
}

/* Three packets one after the other, as one run of bytes. */
static size_t three_packets(struct net_guest *peer, unsigned char *to)
{
	static const size_t chunks[] = { 8, 0, 24 }; /* nothing but heads of CLOSE chunks */
	struct net_guest_data data;
	size_t bytes = 0;

	for (size_t i = 0; i < 3; i++) {
		net_guest_begin(peer, &data);
		for (size_t j = 0; j < chunks[i] / 8; j++)
			(void)net_close_put(&data.body, 0);
		net_guest_end(peer, &data, false);
		memcpy(to + bytes, data.packet, data.bytes);
		bytes += data.bytes;
	}
	return bytes;
}

static void data_in_pieces(void **state)
{
	static const enum net_cipher ciphers[] = { NET_CIPHER_PLAIN, NET_CIPHER_CHACHA };

	(void)state;
	for (size_t i = 0; i < 2; i++) {
		struct host_rig *rig = host_rig_create(NULL);
		unsigned char bytes[256];
		struct net_guest peer;
		uint32_t bodies = 0;
		size_t count = 1;

		host_rig_welcome(rig, &peer, false, ciphers[i]);
		for (size_t first = 0; first <= count; first++)
			for (size_t second = first; second <= count; second++) {
				count = three_packets(&peer, bytes);
				come_in_pieces(rig, &peer, bytes, count, first, second);
				bodies += 3;
				assert_int_equal(host_rig_last(rig)->bodies, bodies);
				assert_int_equal(net_pool_free_bytes(rig->parts), RIG_PARTS_BYTES);
			}
		assert_int_equal(host_rig_last(rig)->chunks, bodies / 3 * 4);
		assert_int_equal(RIG_COUNTER(rig, bad_packets) + RIG_COUNTER(rig, malformed), 0);
		host_rig_destroy(rig);
	}
}

/* Byte by byte, the longest that there are. */
static void longest_in_pieces(void **state)
{
	struct host_rig *rig = host_rig_create(NULL);
	struct net_guest_data data;
	struct net_guest peer;

	(void)state;
	host_rig_welcome(rig, &peer, false, NET_CIPHER_CHACHA);
	net_guest_begin(&peer, &data);
	while (net_close_put(&data.body, 0))
		;
	net_guest_end(&peer, &data, false);
	assert_int_equal(data.bytes, 4 + 16400);
	for (size_t i = 0; i < data.bytes; i++) {
		fake_come(&rig->fake, &peer.way, data.packet + i, 1);
		if (i % 1000 == 0)
			host_rig_poll(rig);
	}
	host_rig_poll(rig);
	assert_int_equal(host_rig_last(rig)->chunks, 2048);
	host_rig_destroy(rig);
}

/* ---- streams that are none -------------------------------------------------------------------------------- */

/* What a confirmed or a new stream sends, and which counter says that it was ended for it. */
static void ends_stream(bool confirmed, const unsigned char *bytes, size_t count, size_t cut, size_t counter)
{
	struct host_rig *rig = host_rig_create(NULL);
	const _Atomic uint64_t *counted = (const _Atomic uint64_t *)(const void *)((const char *)net_host_counters(rig->host) + counter);
	struct net_guest peer;

	if (confirmed) {
		host_rig_confirm(rig, &peer, false, NET_CIPHER_CHACHA);
	} else {
		host_rig_peer(rig, &peer, false, NET_CIPHER_CHACHA, 1);
		host_rig_poll(rig);
	}
	assert_int_equal(atomic_load(counted), 0);
	come_in_pieces(rig, &peer, bytes, count, cut, count);
	assert_true(fake_is_closed(&rig->fake, &peer.way));
	assert_int_equal(atomic_load(counted), 1);
	assert_int_equal(net_host_links(rig->host), 0);
	if (confirmed)
		assert_true(host_rig_last(rig)->gone);
	host_rig_destroy(rig);
}

static void bad_streams(void **state)
{
	static const unsigned char no_kind[64] = { 8, 0, 0, 9 }, too_long[64] = { 0x11, 0x40, 0, NET_DATA };
	static const unsigned char huge[64] = { 0xff, 0xff, 0xff, NET_HELLO }, data[36] = { 32, 0, 0, NET_DATA };
	static const unsigned char cookie[36] = { 32, 0, 0, NET_COOKIE }, welcome[36] = { 32, 0, 0, NET_WELCOME };
	static const unsigned char empty[4] = { 0, 0, 0, NET_DATA };
	static const unsigned char http[] = "GET / HTTP/1.1\r\nHost: here\r\n\r\n";

	(void)state;
	for (int confirmed = 0; confirmed < 2; confirmed++)
		for (size_t cut = 0; cut < 6; cut++) {
			ends_stream(confirmed, no_kind, 12, cut, offsetof(struct net_host_counters, malformed));
			ends_stream(confirmed, http, sizeof(http), cut, offsetof(struct net_host_counters, malformed));
			ends_stream(confirmed, too_long, 12, cut, offsetof(struct net_host_counters, oversized));
			ends_stream(confirmed, huge, 12, cut, offsetof(struct net_host_counters, oversized));
			ends_stream(confirmed, cookie, 36, cut, offsetof(struct net_host_counters, malformed));
			ends_stream(confirmed, welcome, 36, cut, offsetof(struct net_host_counters, malformed));
			ends_stream(confirmed, data, 36, cut,
				confirmed ? offsetof(struct net_host_counters, bad_packets) : offsetof(struct net_host_counters, malformed));
			ends_stream(confirmed, empty, 4, cut < 4 ? cut : 4,
				confirmed ? offsetof(struct net_host_counters, bad_packets) : offsetof(struct net_host_counters, malformed));
		}
}

/* Ends within a packet, within its head, or having said nothing. */
static void truncated(void **state)
{
	struct host_rig *rig = host_rig_create(NULL);
	struct net_guest_data data;
	struct net_guest peer;
	uint64_t count = 0;

	(void)state;
	host_rig_peer(rig, &peer, false, NET_CIPHER_CHACHA, 1);
	fake_end(&rig->fake, &peer.way);
	host_rig_poll(rig);
	assert_int_equal(RIG_COUNTER(rig, truncated), ++count);
	for (size_t cut = 0; cut < 40; cut++) {
		host_rig_confirm(rig, &peer, false, NET_CIPHER_CHACHA);
		net_guest_begin(&peer, &data);
		(void)net_times_put(&data.body, NET_PING, &(struct net_times){ .sender_ns = 1 });
		net_guest_end(&peer, &data, false);
		fake_come(&rig->fake, &peer.way, data.packet, cut % data.bytes);
		fake_end(&rig->fake, &peer.way);
		host_rig_poll(rig);
		count += cut % data.bytes != 0;
		assert_int_equal(RIG_COUNTER(rig, truncated), count);
		assert_true(host_rig_last(rig)->gone);
	}
	assert_int_equal(net_pool_free_bytes(rig->parts), RIG_PARTS_BYTES);
	assert_int_equal(RIG_COUNTER(rig, abandoned), 0);
	host_rig_destroy(rig);
}

/* Ends once it is welcomed: whoever said HELLO may have overheard it. */
static void abandoned(void **state)
{
	struct host_rig *rig = host_rig_create(NULL);
	struct net_guest peer;

	(void)state;
	host_rig_welcome(rig, &peer, false, NET_CIPHER_CHACHA);
	fake_end(&rig->fake, &peer.way);
	host_rig_poll(rig);
	assert_int_equal(RIG_COUNTER(rig, abandoned), 1);
	assert_true(host_rig_last(rig)->gone);
	host_rig_confirm(rig, &peer, false, NET_CIPHER_CHACHA);
	fake_end(&rig->fake, &peer.way);
	host_rig_poll(rig);
	assert_int_equal(RIG_COUNTER(rig, abandoned), 1);
	assert_int_equal(RIG_COUNTER(rig, truncated), 0);
	host_rig_destroy(rig);
}

enum { HOLDERS = RIG_PARTS_BYTES / (32 << 10) };

/* The beginning of the longest packet, which is all that comes. */
static void begin_packet(struct host_rig *rig, const struct net_guest *peer)
{
	static const unsigned char head[8] = { 0x10, 0x40, 0, NET_DATA };

	fake_come(&rig->fake, &peer->way, head, sizeof(head));
	host_rig_wait(rig, 1000);
}

static void take_all_pieces(struct host_rig *rig, struct net_guest holders[HOLDERS], uint32_t confirmed)
{
	for (uint32_t i = 0; i < HOLDERS; i++) {
		if (i < confirmed)
			host_rig_confirm(rig, &holders[i], false, NET_CIPHER_CHACHA);
		else
			host_rig_welcome(rig, &holders[i], false, NET_CIPHER_CHACHA);
		begin_packet(rig, &holders[i]);
	}
	assert_int_equal(net_pool_free_bytes(rig->parts), 0);
}

/* Where packets in pieces have all the memory, who began first makes room for the next one: nobody else's packets are hurt by those who let
 * theirs lie. */
static void no_memory_for_pieces(void **state)
{
	struct host_rig *rig = host_rig_create(NULL);
	struct net_guest holders[HOLDERS], next;

	(void)state;
	take_all_pieces(rig, holders, HOLDERS);
	for (uint32_t i = 0; i < HOLDERS; i++) {
		host_rig_confirm(rig, &next, false, NET_CIPHER_CHACHA);
		begin_packet(rig, &next);
		assert_false(fake_is_closed(&rig->fake, &next.way));
		assert_int_equal(RIG_COUNTER(rig, no_memory), i + 1);
		for (uint32_t j = 0; j < HOLDERS; j++)
			assert_int_equal(fake_is_closed(&rig->fake, &holders[j].way), j <= i);
		assert_true(rig->owners[i].gone);
	}
	/* What comes whole needs none. */
	for (uint32_t i = 0; i < 3; i++)
		host_rig_confirm(rig, &next, false, NET_CIPHER_CHACHA);
	assert_int_equal(RIG_COUNTER(rig, no_memory), HOLDERS);
	host_rig_destroy(rig);
}

/* Who has not shown that the HELLO was his goes before those who have, however late he began. */
static void half_open_pieces_go_first(void **state)
{
	struct host_rig *rig = host_rig_create(NULL);
	struct net_guest holders[HOLDERS], next;

	(void)state;
	take_all_pieces(rig, holders, HOLDERS - 1);
	host_rig_confirm(rig, &next, false, NET_CIPHER_CHACHA);
	begin_packet(rig, &next);
	for (uint32_t i = 0; i < HOLDERS; i++)
		assert_int_equal(fake_is_closed(&rig->fake, &holders[i].way), i == HOLDERS - 1);
	assert_int_equal(RIG_COUNTER(rig, no_memory), 1);
	host_rig_destroy(rig);
}

/* Nor is there a byte of that memory for strangers: what is no HELLO, or longer than any, ends at its head; HELLO in pieces has a place of
 * its own. */
static void strangers_take_no_memory(void **state)
{
	static const unsigned char too_long[4] = { 0xfd, 1, 0, NET_HELLO }, longest[4] = { 0xfc, 1, 0, NET_HELLO };
	struct host_rig *rig = host_rig_create(NULL);
	struct net_guest peer;

	(void)state;
	host_rig_peer(rig, &peer, false, NET_CIPHER_CHACHA, 1);
	begin_packet(rig, &peer);
	assert_true(fake_is_closed(&rig->fake, &peer.way));
	assert_int_equal(RIG_COUNTER(rig, malformed), 1);
	host_rig_peer(rig, &peer, false, NET_CIPHER_CHACHA, 1);
	fake_come(&rig->fake, &peer.way, too_long, sizeof(too_long));
	host_rig_poll(rig);
	assert_true(fake_is_closed(&rig->fake, &peer.way));
	assert_int_equal(RIG_COUNTER(rig, oversized), 1);
	host_rig_peer(rig, &peer, false, NET_CIPHER_CHACHA, 1);
	fake_come(&rig->fake, &peer.way, longest, sizeof(longest));
	for (uint32_t i = 0; i < 508; i++) {
		host_rig_poll(rig);
		assert_false(fake_is_closed(&rig->fake, &peer.way));
		assert_int_equal(net_pool_free_bytes(rig->parts), RIG_PARTS_BYTES);
		fake_come(&rig->fake, &peer.way, &peer.packet[4 + i % 8], 1);
	}
	/* It is no good one, and hears so. */
	host_rig_poll(rig);
	assert_int_equal(net_guest_hear(&peer), NET_REFUSED);
	assert_int_equal(peer.refused.why, NET_WHY_VERSION);
	host_rig_destroy(rig);
}

/* ---- datagrams -------------------------------------------------------------------------------------------- */

static void bad_datagrams(void **state)
{
	struct host_rig *rig = host_rig_create(NULL);
	const struct net_way stranger = fake_way(RIG_SEALED, 4242);
	unsigned char packet[NET_PACKET_BYTES_MAX + 1] = { NET_DATA };
	struct net_guest peer;
	uint64_t malformed = 0;

	(void)state;
	host_rig_confirm(rig, &peer, true, NET_CIPHER_CHACHA);
	for (size_t bytes = 0; bytes < 24 + 16; bytes++) {
		/* Too short to be answered. */
		fake_come(&rig->fake, &stranger, packet, bytes);
		host_rig_poll(rig);
		assert_int_equal(RIG_COUNTER(rig, malformed), ++malformed);
	}
	fake_come(&rig->fake, &stranger, packet, sizeof(packet));
	for (uint8_t kind = 0; kind < 8; kind++) {
		packet[0] = kind;
		if (kind != NET_DATA)
			fake_come(&rig->fake, &stranger, packet, 100);
	}
	host_rig_poll(rig);
	assert_int_equal(RIG_COUNTER(rig, malformed), malformed + 8);
	assert_int_equal(fake_take(&rig->fake, &stranger, packet), 0);
	/* What the daemon says itself. */
	for (uint8_t kind = NET_COOKIE; kind < NET_PACKET_KIND_END; kind++) {
		net_packet_clear(packet, true, kind, 0, 100);
		if (kind != NET_DATA)
			fake_come(&rig->fake, &peer.way, packet, 124);
	}
	host_rig_poll(rig);
	assert_int_equal(RIG_COUNTER(rig, malformed), malformed + 11);
	assert_int_equal(host_rig_last(rig)->bodies, 1);
	host_rig_destroy(rig);
}

static void expect_unknown(struct host_rig *rig, struct net_guest *peer, uint64_t name, size_t bytes)
{
	unsigned char packet[NET_PACKET_BYTES_MAX] = { 0 };

	net_packet_clear(packet, true, NET_DATA, name, 0);
	fake_come(&rig->fake, &peer->way, packet, bytes);
	host_rig_poll(rig);
	assert_int_equal(net_guest_hear(peer), NET_REFUSED);
	assert_int_equal(peer->refused.why, NET_WHY_UNKNOWN);
}

static void unknown_names(void **state)
{
	struct host_rig *rig = host_rig_create(NULL);
	struct net_guest peer, stream, stranger;
	uint64_t count = 0;

	(void)state;
	host_rig_confirm(rig, &stream, false, NET_CIPHER_CHACHA);
	host_rig_confirm(rig, &peer, true, NET_CIPHER_CHACHA);
	host_rig_peer(rig, &stranger, true, NET_CIPHER_CHACHA, 1);
	expect_unknown(rig, &stranger, 0, 40);
	expect_unknown(rig, &stranger, 1, 40);
	expect_unknown(rig, &stranger, UINT32_MAX, 40);
	expect_unknown(rig, &stranger, UINT64_MAX, 1000);
	expect_unknown(rig, &stranger, peer.packets.name ^ UINT64_C(1) << 40, 1000);
	expect_unknown(rig, &stranger, peer.packets.name + 1, 1000);
	expect_unknown(rig, &stranger, stream.packets.name, 1000); /* of a stream */
	for (uint32_t i = 0; i < 7; i++)
		count++;
	assert_int_equal(RIG_COUNTER(rig, refused[NET_WHY_UNKNOWN]), count);
	assert_int_equal(RIG_COUNTER(rig, bad_packets), 0);
	host_rig_destroy(rig);
}

/* So many of them in one poll are answered, and all are counted. */
static void strangers_without_end(void **state)
{
	struct host_rig *rig = host_rig_create(NULL);
	const struct net_way stranger = fake_way(RIG_SEALED, 1);
	unsigned char packet[40];

	(void)state;
	net_packet_clear(packet, true, NET_DATA, 5, 16);
	for (uint32_t i = 0; i < 1000; i++)
		fake_come(&rig->fake, &stranger, packet, sizeof(packet));
	host_rig_poll(rig);
	assert_int_equal(rig->fake.puts, 64);
	assert_int_equal(RIG_COUNTER(rig, refused[NET_WHY_UNKNOWN]), 1000);
	assert_int_equal(RIG_COUNTER(rig, unanswered), 1000 - 64);
	fake_take_all(&rig->fake);
	host_rig_destroy(rig);
}

static void replays(void **state)
{
	struct host_rig *rig = host_rig_create(NULL);
	struct net_guest_data data;
	struct net_guest peer;

	(void)state;
	host_rig_confirm(rig, &peer, true, NET_CIPHER_CHACHA);
	net_guest_begin(&peer, &data);
	(void)net_close_put(&data.body, 0);
	net_guest_end(&peer, &data, true);
	for (uint32_t i = 0; i < 5; i++)
		fake_come(&rig->fake, &peer.way, data.packet, data.bytes);
	host_rig_poll(rig);
	assert_int_equal(host_rig_last(rig)->bodies, 2);
	assert_int_equal(RIG_COUNTER(rig, replays), 5);
	data.packet[30] ^= 1;
	data.packet[16] = 77;
	fake_come(&rig->fake, &peer.way, data.packet, data.bytes);
	host_rig_poll(rig);
	assert_int_equal(RIG_COUNTER(rig, bad_packets), 1);
	assert_int_equal(rig->fake.puts, 1); /* WELCOME: none of it is answered */
	host_rig_destroy(rig);
}

static bool fill_once(void *context, struct net_writer *body)
{
	bool *said = context;

	if (!*said)
		(void)net_close_put(body, NET_WHY_BYE);
	*said = true;
	return false;
}

/* Where what is sent to the peer arrives. */
static bool arrives_at(struct host_rig *rig, struct net_guest *peer, uint32_t from)
{
	const struct net_way way = fake_way(peer->way.listener, from);
	unsigned char packet[NET_PACKET_BYTES_MAX];
	bool said = false;

	assert_true(net_host_send(rig->host, host_rig_last(rig)->link, fill_once, &said));
	return fake_take(&rig->fake, &way, packet) > 0;
}

/* The word that the host has asked the peer for, where the peer is now. 0: it has asked nothing. */
static int64_t asked_word(struct net_guest *peer)
{
	struct net_times times;
	struct net_chunk chunk;

	if (net_guest_hear(peer) != NET_DATA)
		return 0;
	assert_int_equal(net_chunk_next(&peer->body, &chunk), 1);
	assert_int_equal(chunk.kind, NET_PING);
	assert_int_equal(net_times_read(&chunk, &times), 0);
	assert_int_not_equal(times.sender_ns, 0);
	return times.sender_ns;
}

/* From a new address nothing but the question goes there, and that not often. */
static void moving_has_to_be_proved(void **state)
{
	struct host_rig *rig = host_rig_create(NULL);
	struct net_guest peer;
	int64_t first, second;

	(void)state;
	host_rig_confirm(rig, &peer, true, NET_CIPHER_CHACHA);
	fake_take_all(&rig->fake);
	assert_false(net_host_pong(rig->host, host_rig_last(rig)->link, 1)); /* to no question */
	peer.way = fake_way(RIG_SEALED, 70001);
	for (uint32_t i = 0; i < 5; i++)
		net_guest_ping(&peer);
	host_rig_poll(rig);
	first = asked_word(&peer);
	assert_int_not_equal(first, 0);
	assert_int_equal(asked_word(&peer), 0);
	assert_int_equal(RIG_COUNTER(rig, moves_asked), 1);
	assert_false(arrives_at(rig, &peer, 70001));
	/* It moves on before it has answered: another address, another word. */
	host_rig_wait(rig, 20000000);
	peer.way = fake_way(RIG_SEALED, 70002);
	net_guest_ping(&peer);
	host_rig_poll(rig);
	second = asked_word(&peer);
	assert_int_not_equal(second, 0);
	assert_int_not_equal(second, first);
	assert_true(net_host_pong(rig->host, host_rig_last(rig)->link, first));
	assert_int_equal(RIG_COUNTER(rig, moves), 0);
	assert_true(net_host_pong(rig->host, host_rig_last(rig)->link, second));
	assert_int_equal(RIG_COUNTER(rig, moves), 1);
	assert_false(arrives_at(rig, &peer, 70001));
	assert_true(arrives_at(rig, &peer, 70002));
	/* Said again it changes nothing. */
	assert_true(net_host_pong(rig->host, host_rig_last(rig)->link, second));
	assert_int_equal(RIG_COUNTER(rig, moves), 1);
	fake_take_all(&rig->fake);
	host_rig_destroy(rig);
}

static void roaming(void **state)
{
	struct host_rig *rig = host_rig_create(NULL);
	struct net_guest_data older, data;
	struct net_guest peer;

	(void)state;
	host_rig_confirm(rig, &peer, true, NET_CIPHER_CHACHA);
	net_guest_begin(&peer, &older);
	net_guest_end(&peer, &older, false);
	net_guest_begin(&peer, &data);
	net_guest_end(&peer, &data, true);
	host_rig_poll(rig);
	/* What has come already, what is older though new, and what was changed moves nobody. */
	peer.way = fake_way(RIG_SEALED, 70001);
	fake_come(&rig->fake, &peer.way, data.packet, data.bytes);
	host_rig_poll(rig);
	assert_false(arrives_at(rig, &peer, 70001));
	fake_come(&rig->fake, &peer.way, older.packet, older.bytes);
	host_rig_poll(rig);
	assert_int_equal(host_rig_last(rig)->bodies, 3);
	assert_false(arrives_at(rig, &peer, 70001));
	net_guest_begin(&peer, &data);
	net_guest_end(&peer, &data, false);
	data.packet[data.bytes - 1] ^= 1;
	fake_come(&rig->fake, &peer.way, data.packet, data.bytes);
	host_rig_poll(rig);
	assert_false(arrives_at(rig, &peer, 70001));
	assert_int_equal(RIG_COUNTER(rig, moves_asked), 0);
	/* The newest does, once it has answered there. */
	net_guest_ping(&peer);
	host_rig_poll(rig);
	assert_true(net_host_pong(rig->host, host_rig_last(rig)->link, asked_word(&peer)));
	assert_true(arrives_at(rig, &peer, 70001));
	fake_take_all(&rig->fake);
	host_rig_destroy(rig);
}

/* Plain ones stay where they said HELLO: anybody could say anything from anywhere. */
static void plain_does_not_roam(void **state)
{
	struct host_rig *rig = host_rig_create(NULL);
	struct net_guest peer;

	(void)state;
	host_rig_confirm(rig, &peer, true, NET_CIPHER_PLAIN);
	peer.way = fake_way(RIG_PLAIN, 70001);
	net_guest_ping(&peer);
	host_rig_poll(rig);
	assert_false(arrives_at(rig, &peer, 70001));
	peer.packets.sent = UINT64_MAX;
	net_guest_ping(&peer);
	host_rig_poll(rig);
	assert_int_equal(host_rig_last(rig)->bodies, 3);
	assert_false(arrives_at(rig, &peer, 70001));
	fake_take_all(&rig->fake);
	host_rig_destroy(rig);
}

/* ---- sending ---------------------------------------------------------------------------------------------- */

struct filling { uint32_t left, calls; };

/* CLOSE chunks until there are none left. */
static bool fill_chunks(void *context, struct net_writer *body)
{
	struct filling *filling = context;

	filling->calls++;
	while (filling->left > 0 && net_close_put(body, 0))
		filling->left--;
	return filling->left > 0;
}

static uint32_t hear_chunks(struct net_guest *peer)
{
	struct net_chunk chunk;
	uint32_t chunks = 0;
	int kind;

	while ((kind = net_guest_hear(peer)) > 0) {
		assert_int_equal(kind, NET_DATA);
		while (net_chunk_next(&peer->body, &chunk) > 0)
			chunks++;
	}
	assert_int_equal(kind, 0);
	return chunks;
}

static void sending(void **state)
{
	(void)state;
	for (int datagram = 0; datagram < 2; datagram++)
		for (size_t room = 0; room < 70000; room += 23000) {
			struct host_rig *rig = host_rig_create(NULL);
			struct filling filling = { .left = 10000 };
			struct net_guest peer;

			rig->fake.room_bytes = room;
			host_rig_confirm(rig, &peer, datagram, NET_CIPHER_CHACHA);
			assert_true(net_host_send(rig->host, host_rig_last(rig)->link, fill_chunks, &filling));
			assert_int_equal(hear_chunks(&peer), 10000);
			/* Nothing to say is nothing sent. */
			const uint32_t puts = rig->fake.puts;

			assert_true(net_host_send(rig->host, host_rig_last(rig)->link, fill_chunks, &filling));
			assert_int_equal(rig->fake.puts, puts);
			host_rig_destroy(rig);
		}
}

static void no_room(void **state)
{
	struct host_rig *rig = host_rig_create(NULL);
	struct filling filling = { .left = 3000 };
	struct net_guest peer;

	(void)state;
	host_rig_confirm(rig, &peer, false, NET_CIPHER_CHACHA);
	fake_block(&rig->fake, &peer.way, true);
	assert_false(net_host_send(rig->host, host_rig_last(rig)->link, fill_chunks, &filling));
	assert_int_equal(filling.calls, 0);
	host_rig_poll(rig);
	assert_int_equal(host_rig_last(rig)->writables, 0);
	fake_block(&rig->fake, &peer.way, false);
	host_rig_poll(rig);
	assert_int_equal(host_rig_last(rig)->writables, 1);
	assert_true(net_host_send(rig->host, host_rig_last(rig)->link, fill_chunks, &filling));
	assert_int_equal(hear_chunks(&peer), 3000);
	host_rig_destroy(rig);
}

/* ---- ending ----------------------------------------------------------------------------------------------- */

static void expect_close(struct net_guest *peer, uint32_t why)
{
	struct net_chunk chunk;

	assert_int_equal(net_guest_hear(peer), NET_DATA);
	assert_int_equal(net_chunk_next(&peer->body, &chunk), 1);
	assert_int_equal(chunk.kind, NET_CLOSE);
	assert_int_equal(chunk.number, why);
	assert_int_equal(chunk.bytes, 0);
	assert_int_equal(net_guest_hear(peer), 0);
}

static void closed_by_the_owner(void **state)
{
	(void)state;
	for (int datagram = 0; datagram < 2; datagram++) {
		struct host_rig *rig = host_rig_create(NULL);
		struct net_guest peer;

		host_rig_confirm(rig, &peer, datagram, NET_CIPHER_CHACHA);
		net_host_close(rig->host, host_rig_last(rig)->link, NET_WHY_DRAINING);
		expect_close(&peer, NET_WHY_DRAINING);
		assert_int_equal(net_host_links(rig->host), 0);
		if (!datagram)
			assert_true(fake_is_closed(&rig->fake, &peer.way));
		assert_false(host_rig_last(rig)->gone); /* it knows */
		net_host_close(rig->host, host_rig_last(rig)->link, NET_WHY_DRAINING);
		rig->close_on_confirm = 0;
		host_rig_destroy(rig);
	}
}

/* The owner ends an older link when a newer one is confirmed, within the poll that brought it. */
static void closed_when_another_comes(void **state)
{
	(void)state;
	for (int datagram = 0; datagram < 2; datagram++) {
		struct host_rig *rig = host_rig_create(NULL);
		struct net_guest old, new;

		host_rig_confirm(rig, &old, datagram, NET_CIPHER_CHACHA);
		rig->close_on_confirm = host_rig_last(rig)->link;
		host_rig_confirm(rig, &new, datagram, NET_CIPHER_CHACHA);
		expect_close(&old, NET_WHY_REPLACED);
		assert_int_equal(net_host_links(rig->host), 1);
		host_rig_destroy(rig);
	}
}

/* Whoever breaks the protocol inside a packet hears so, whoever says CLOSE hears nothing. */
static void ended_for_what_it_says(void **state)
{
	static const unsigned char no_chunk[8] = { 200 }, close[8] = { NET_CLOSE };

	(void)state;
	for (int datagram = 0; datagram < 2; datagram++) {
		struct host_rig *rig = host_rig_create(NULL);
		struct net_guest peer;

		host_rig_confirm(rig, &peer, datagram, NET_CIPHER_CHACHA);
		net_guest_say(&peer, no_chunk, sizeof(no_chunk));
		host_rig_poll(rig);
		expect_close(&peer, NET_WHY_PROTOCOL);
		assert_int_equal(RIG_COUNTER(rig, broken), 1);
		assert_true(host_rig_last(rig)->gone);
		host_rig_confirm(rig, &peer, datagram, NET_CIPHER_CHACHA);
		rig->body_why = NET_WHY_SAID;
		net_guest_say(&peer, close, sizeof(close));
		host_rig_poll(rig);
		assert_int_equal(net_guest_hear(&peer), 0);
		assert_true(host_rig_last(rig)->gone);
		assert_int_equal(RIG_COUNTER(rig, broken), 1);
		assert_int_equal(net_host_links(rig->host), 0);
		host_rig_destroy(rig);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(hello_in_pieces),
		cmocka_unit_test(data_in_pieces),
		cmocka_unit_test(longest_in_pieces),
		cmocka_unit_test(bad_streams),
		cmocka_unit_test(truncated),
		cmocka_unit_test(abandoned),
		cmocka_unit_test(no_memory_for_pieces),
		cmocka_unit_test(half_open_pieces_go_first),
		cmocka_unit_test(strangers_take_no_memory),
		cmocka_unit_test(bad_datagrams),
		cmocka_unit_test(unknown_names),
		cmocka_unit_test(strangers_without_end),
		cmocka_unit_test(replays),
		cmocka_unit_test(roaming),
		cmocka_unit_test(moving_has_to_be_proved),
		cmocka_unit_test(plain_does_not_roam),
		cmocka_unit_test(sending),
		cmocka_unit_test(no_room),
		cmocka_unit_test(closed_by_the_owner),
		cmocka_unit_test(closed_when_another_comes),
		cmocka_unit_test(ended_for_what_it_says),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
