/*
 * The IP stack's own matters: options, counters and their names, the queue, ways, frames of every length; what it says to which frame is in
 * test_net_ip_script.c.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/base_error.h"
#include "base/base_rand.h"
#include "tests/unit/net_ip_host.h"

enum { PEER = 10, OWN_FRAMES = 64 };

static const struct net_ip_verdict unknown = { NET_IP_SUM_UNKNOWN, NET_IP_SUM_UNKNOWN };

static uint64_t value(const _Atomic uint64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

/* A datagram from a peer to host 1, as that peer's stack makes it. Returns its bytes. */
static size_t datagram_from(uint8_t number, bool is_ip4, uint16_t port, const void *payload, size_t count, unsigned char *frame)
{
	static unsigned char memory[NET_IP_HEADROOM_BYTES + 2048];
	struct net_ip_host host;
	struct net_ip_static fixed = { .address = net_ip_host_address(1, is_ip4), .mac = { 2, 0, 0, 0, 0, 1 } };
	struct net_ip_frame made;
	struct net_way way;

	net_ip_host_options(&host, number, 0);
	host.options.statics = &fixed;
	host.options.static_count = 1;
	net_ip_host_create(&host);
	memcpy(memory + NET_IP_HEADROOM_BYTES, payload, count);
	assert_int_equal(net_ip_way(host.ip, 0, is_ip4 ? HOST_LOCAL4 : HOST_LOCAL6, &fixed.address, port, &way), 0);
	assert_int_equal(net_ip_send(host.ip, &way, memory + NET_IP_HEADROOM_BYTES, count, 0, 0, &made), 0);
	memcpy(frame, made.at, made.bytes);
	net_ip_host_destroy(&host);
	return made.bytes;
}

/* ---- options ---------------------------------------------------------------------------------------------- */

static void assert_refused(struct net_ip_host *host, int rc)
{
	base_error_clear();
	assert_int_equal(net_ip_create(&host->ip, &host->options), rc);
	assert_true(base_error_message()[0] != '\0');
	net_ip_host_options(host, 1, 0);
}

static void addresses_are_checked(void **state)
{
	struct net_ip_host host;

	(void)state;
	net_ip_host_options(&host, 1, 0);
	host.locals[0].prefix_bits = 33;
	assert_refused(&host, -EINVAL);
	host.locals[1].prefix_bits = 129;
	assert_refused(&host, -EINVAL);
	host.locals[1].prefix_bits = 0;
	assert_refused(&host, -EINVAL);
	host.locals[2].vlan = 4095;
	assert_refused(&host, -EINVAL);
	host.locals[0].address = net_ip_host_address(255, true);
	assert_refused(&host, -EINVAL);
	host.locals[1].address = (struct net_ip_address){ { [15] = 1 } };
	assert_refused(&host, -EINVAL);
	host.locals[1] = host.locals[0];
	assert_refused(&host, -EINVAL);
	host.locals[0].gateway = net_ip_host_address(254, false);
	assert_refused(&host, -EINVAL);
	host.locals[0].gateway = host.locals[0].address;
	assert_refused(&host, -EINVAL);
	host.locals[0].gateway.bytes[NET_IP4_AT] = 10;
	assert_refused(&host, -EINVAL);
	host.options.local_count = 0;
	assert_refused(&host, -EINVAL);
	host.options.local_count = NET_IP_LOCALS_MAX + 1;
	assert_refused(&host, -EINVAL);
}

/* The ends of a net are nobody's, where it has any. */
static void ends_of_nets(void **state)
{
	struct net_ip_host host;

	(void)state;
	for (uint8_t bits = 24; bits <= 32; bits++) {
		for (uint8_t number = 1; number < 3; number++) {
			net_ip_host_options(&host, number == 1 ? 0 : 255, 0);
			host.options.mac[5] = 1;
			host.locals[0].prefix_bits = bits;
			host.locals[0].has_gateway = false;
			assert_int_equal(net_ip_create(&host.ip, &host.options), bits > 30 ? 0 : -EINVAL);
			if (bits > 30)
				net_ip_host_destroy(&host);
		}
	}
}

static void numbers_are_checked(void **state)
{
	const struct net_ip_listener twice[] = { { 5, 0 }, { 5, NET_IP_ANY } }, nowhere = { 5, HOST_LOCALS }, port_0 = { 0, 0 };
	struct net_ip_static fixed[2] = { { .address = net_ip_host_address(9, true), .mac = { 1 } } };
	struct net_ip_host host;

	(void)state;
	net_ip_host_options(&host, 1, 0);
	host.options.mac[0] = 3;
	assert_refused(&host, -EINVAL);
	memset(host.options.mac, 0, NET_MAC_BYTES);
	assert_refused(&host, -EINVAL);
	host.options.mtu = NET_IP_MTU_LEAST - 1;
	assert_refused(&host, -EINVAL);
	host.options.mtu = NET_IP_MTU_MAX + 1;
	assert_refused(&host, -EINVAL);
	host.options.random = NULL;
	assert_refused(&host, -EINVAL);
	host.options.neighbour_count = 100;
	assert_refused(&host, -EINVAL);
	host.options.listeners = twice;
	host.options.listener_count = 2;
	assert_refused(&host, -EINVAL);
	host.options.listeners = &nowhere;
	assert_refused(&host, -EINVAL);
	host.options.listeners = &port_0;
	assert_refused(&host, -EINVAL);
	host.options.listener_count = NET_LISTENERS_MAX + 1;
	assert_refused(&host, -EINVAL);
	host.options.statics = fixed;
	host.options.static_count = 1;
	assert_refused(&host, -EINVAL);
	fixed[0].mac[0] = 2;
	fixed[1] = fixed[0];
	host.options.statics = fixed;
	host.options.static_count = 2;
	assert_refused(&host, -EEXIST);
	host.options.static_count = NET_IP_STATICS_MAX + 1;
	assert_refused(&host, -EINVAL);
	net_ip_destroy(NULL);
}

/* Each counter has a name, and each name its own place. */
static void counters_have_names(void **state)
{
	bool seen[NET_IP_COUNTERS] = { false };

	(void)state;
	for (uint32_t i = 0; i < NET_IP_COUNTERS; i++) {
		assert_non_null(net_ip_counter_names[i].name);
		assert_false(seen[net_ip_counter_names[i].offset / sizeof(_Atomic uint64_t)]);
		seen[net_ip_counter_names[i].offset / sizeof(_Atomic uint64_t)] = true;
	}
}

/* ---- ways ------------------------------------------------------------------------------------------------- */

static void ways_that_are_none(void **state)
{
	const struct net_ip_address here = net_ip_host_address(PEER, true), group = net_ip4_address((const unsigned char[]){ 224, 0, 0, 1 });
	const struct net_ip_address everybody = net_ip_host_address(255, true), far = net_ip4_address((const unsigned char[]){ 9, 9, 9, 9 });
	const struct net_ip_address six = net_ip_host_address(PEER, false);
	struct net_ip_host host;
	struct net_way way;

	(void)state;
	net_ip_host_options(&host, 1, 0);
	host.locals[0].has_gateway = false;
	net_ip_host_create(&host);
	assert_int_equal(net_ip_way(host.ip, 0, 0, &here, 1, &way), 0);
	assert_int_equal(net_ip_way(host.ip, 1, 0, &here, 1, &way), -EINVAL);
	assert_int_equal(net_ip_way(host.ip, 0, HOST_LOCALS, &here, 1, &way), -EINVAL);
	assert_int_equal(net_ip_way(host.ip, 0, 0, &here, 0, &way), -EINVAL);
	assert_int_equal(net_ip_way(host.ip, 0, 0, &six, 1, &way), -EINVAL);
	assert_int_equal(net_ip_way(host.ip, 0, 0, &host.locals[0].address, 1, &way), -EINVAL);
	assert_int_equal(net_ip_way(host.ip, 0, 1, &here, 1, &way), -EINVAL);
	assert_int_equal(net_ip_way(host.ip, 0, 0, &group, 1, &way), -EINVAL);
	assert_int_equal(net_ip_way(host.ip, 0, 0, &everybody, 1, &way), -EINVAL);
	assert_int_equal(net_ip_way(host.ip, 0, 0, &far, 1, &way), -ENETUNREACH);
	net_ip_host_destroy(&host);
}

/* Made by a stack that had a gateway: without one nobody is asked who has no address. */
static void ways_of_another_stack(void **state)
{
	const struct net_ip_address far = net_ip4_address((const unsigned char[]){ 9, 9, 9, 9 });
	unsigned char memory[NET_IP_HEADROOM_BYTES + 1], own[NET_IP_OWN_BYTES];
	struct net_ip_host host;
	struct net_ip_frame frame;
	struct net_way way;

	(void)state;
	net_ip_host_options(&host, 1, 0);
	net_ip_host_create(&host);
	assert_int_equal(net_ip_way(host.ip, 0, HOST_LOCAL4, &far, 5, &way), 0);
	assert_int_equal(net_ip_send(host.ip, &way, memory + NET_IP_HEADROOM_BYTES, 1, 0, 0, &frame), -EHOSTUNREACH);
	net_ip_host_destroy(&host);
	host.locals[HOST_LOCAL4].has_gateway = false;
	net_ip_host_create(&host);
	assert_int_equal(net_ip_send(host.ip, &way, memory + NET_IP_HEADROOM_BYTES, 1, 0, 0, &frame), -EINVAL);
	assert_int_equal(net_ip_next(host.ip, own), 0);
	net_ip_host_destroy(&host);
}

/* A way's bytes are anybody's to keep: no bytes do harm, and what is not sent is not written. */
static void ways_of_any_bytes(void **state)
{
	unsigned char memory[NET_IP_HEADROOM_BYTES + 64], before[sizeof(memory)];
	struct net_ip_host host;
	uint64_t seed = 5, sent = 0;

	(void)state;
	net_ip_host_options(&host, 1, 0);
	net_ip_host_create(&host);
	for (uint32_t i = 0; i < 100000; i++) {
		struct net_way way = { .listener = (uint32_t)base_rand_below(&seed, 3), .stream = NET_NO_STREAM };
		struct net_ip_frame frame;
		unsigned char own[NET_IP_OWN_BYTES];

		for (uint32_t j = 0; j < NET_ADDRESS_BYTES; j++)
			way.address[j] = (unsigned char)base_rand_below(&seed, j < 14 ? 4 : 2);
		memset(memory, (int)i, sizeof(memory));
		memcpy(before, memory, sizeof(memory));
		if (net_ip_send(host.ip, &way, memory + NET_IP_HEADROOM_BYTES, 64, 0, 0, &frame) == 0) {
			assert_true(frame.at >= memory && frame.at + frame.bytes == memory + sizeof(memory));
			sent++;
		} else {
			assert_memory_equal(memory, before, sizeof(memory));
		}
		while (net_ip_next(host.ip, own) > 0)
			continue;
	}
	assert_true(sent > 0);
	assert_int_equal(value(&net_ip_counters(host.ip)->out.sent), sent);
	assert_true(value(&net_ip_counters(host.ip)->out.no_way) > 0);
	net_ip_host_destroy(&host);
}

/* Equal bytes for the same peer, others for another address or hardware address. */
static void ways_are_equal_by_their_bytes(void **state)
{
	unsigned char frame[2048];
	struct net_ip_datagram datagrams[5];
	struct net_ip_host host;
	size_t bytes;

	(void)state;
	net_ip_host_options(&host, 1, 0);
	net_ip_host_create(&host);
	for (uint32_t i = 0; i < 5; i++) {
		memset(&datagrams[i], (int)i, sizeof(datagrams[i]));
		bytes = datagram_from(i == 2 ? PEER + 1 : PEER, i != 4, HOST_PORT, "x", 1, frame);
		if (i == 3)
			frame[11] = 99;
		assert_true(net_ip_receive(host.ip, frame, bytes, unknown, 0, &datagrams[i]));
	}
	assert_memory_equal(datagrams[0].way.address, datagrams[1].way.address, NET_ADDRESS_BYTES);
	for (uint32_t i = 2; i < 5; i++)
		assert_memory_not_equal(datagrams[0].way.address, datagrams[i].way.address, NET_ADDRESS_BYTES);
	assert_int_equal(net_ip_payload_max(host.ip, &datagrams[0].way), 1472);
	assert_int_equal(net_ip_payload_max(host.ip, &datagrams[4].way), 1452);
	net_ip_host_destroy(&host);
}

/* ---- frames ----------------------------------------------------------------------------------------------- */

/* Every cut of a good frame, in memory that ends where it ends. */
static void every_length(void **state)
{
	unsigned char frame[2048];
	struct net_ip_datagram datagram;
	struct net_ip_host host;

	(void)state;
	net_ip_host_options(&host, 1, 0);
	net_ip_host_create(&host);
	for (int is_ip4 = 0; is_ip4 < 2; is_ip4++) {
		const size_t bytes = datagram_from(PEER, is_ip4, HOST_PORT, "hello", 5, frame);

		for (size_t count = 0; count <= bytes; count++) {
			unsigned char *exact = malloc(count + (count == 0));

			memcpy(exact, frame, count);
			assert_int_equal(net_ip_receive(host.ip, exact, count, unknown, 0, &datagram), count == bytes);
			assert_memory_equal(exact, frame, count);
			free(exact);
		}
		assert_int_equal(datagram.bytes, 5);
		assert_memory_equal(frame + datagram.offset, "hello", 5);
		assert_true(net_ip_is_counted_once(host.ip));
	}
	net_ip_host_destroy(&host);
}

/* One bit changed anywhere in what the sums cover, and it is not delivered; the hardware addresses are the device's matter. */
static void every_bit(void **state)
{
	unsigned char frame[2048];
	struct net_ip_datagram datagram;
	struct net_ip_host host;

	(void)state;
	net_ip_host_options(&host, 1, 0);
	net_ip_host_create(&host);
	for (int is_ip4 = 0; is_ip4 < 2; is_ip4++) {
		const size_t bytes = datagram_from(PEER, is_ip4, HOST_PORT, "hello", 5, frame);
		uint32_t delivered = 0;

		for (size_t bit = NET_ETH_BYTES * 8; bit < bytes * 8; bit++) {
			frame[bit / 8] ^= (unsigned char)(1 << bit % 8);
			delivered += net_ip_receive(host.ip, frame, bytes, unknown, 0, &datagram);
			frame[bit / 8] ^= (unsigned char)(1 << bit % 8);
		}
		/* IPv6 has nothing over its traffic class, flow label and hop limit: 36 bits, of which one makes a hop limit of 64 none. */
		assert_int_equal(delivered, is_ip4 ? 0 : 8 + 20 + 7);
	}
	net_ip_host_destroy(&host);
}

/* As many as there is room for; the rest is counted, and the frames come in order. */
static void the_queue_is_bounded(void **state)
{
	unsigned char ask[NET_ETH_BYTES_LEAST] = { 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, PEER, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1,
		2, 0, 0, 0, 0, PEER, 192, 0, 2, PEER, 0, 0, 0, 0, 0, 0, 192, 0, 2, 1 };
	unsigned char own[NET_IP_OWN_BYTES];
	struct net_ip_datagram datagram;
	struct net_ip_host host;

	(void)state;
	net_ip_host_options(&host, 1, 0);
	host.options.answers = (struct net_ip_rate){ 1000000, 1000000 };
	net_ip_host_create(&host);
	for (uint32_t round = 0; round < 3; round++) {
		for (uint32_t i = 0; i < OWN_FRAMES + 10; i++) {
			ask[31] = (unsigned char)(i + 2);
			assert_false(net_ip_receive(host.ip, ask, sizeof(ask), unknown, 0, &datagram));
		}
		for (uint32_t i = 0; i < OWN_FRAMES; i++) {
			assert_int_equal(net_ip_next(host.ip, own), NET_ETH_BYTES_LEAST);
			assert_int_equal(own[41], i + 2);
		}
		assert_int_equal(net_ip_next(host.ip, own), 0);
		assert_int_equal(value(&net_ip_counters(host.ip)->out.queue_full), 10 * (round + 1));
	}
	assert_int_equal(value(&net_ip_counters(host.ip)->out.arp_answers), 3 * OWN_FRAMES);
	net_ip_host_destroy(&host);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(addresses_are_checked),
		cmocka_unit_test(ends_of_nets),
		cmocka_unit_test(numbers_are_checked),
		cmocka_unit_test(counters_have_names),
		cmocka_unit_test(ways_that_are_none),
		cmocka_unit_test(ways_of_another_stack),
		cmocka_unit_test(ways_of_any_bytes),
		cmocka_unit_test(ways_are_equal_by_their_bytes),
		cmocka_unit_test(every_length),
		cmocka_unit_test(every_bit),
		cmocka_unit_test(the_queue_is_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
