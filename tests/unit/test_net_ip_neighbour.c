/*
 * The table of neighbours: what a flood cannot do, ages, and who is asked how often.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/base_rand.h"
#include "netio/net_neighbour.h"

enum { PLACES = 256, FLOOD = 20000, VLAN = 7 };

static const int64_t second_ns = 1000000000;

static struct net_neighbours *make(uint32_t count)
{
	const struct net_neighbour_options options = { .count = count, .reachable_ns = 30 * second_ns, .in_use_ns = 10 * second_ns,
		.forget_ns = 600 * second_ns, .ask_ns = second_ns, .ask_slow_ns = 10 * second_ns, .secret = { 1, 2, 3 } };
	struct net_neighbours *neighbours;

	assert_int_equal(net_neighbours_create(&neighbours, &options), 0);
	return neighbours;
}

static struct net_ip_address address_of(uint32_t number)
{
	unsigned char bytes[4];

	net_store_be32(bytes, 0x0a000000 + number);
	return net_ip4_address(bytes);
}

static void mac_of(uint32_t number, unsigned char *mac)
{
	mac[0] = 2;
	mac[1] = 0;
	net_store_be32(mac + 2, number);
}

static int use(struct net_neighbours *neighbours, uint32_t number, int64_t now_ns, unsigned char *mac)
{
	const struct net_ip_address address = address_of(number);

	return net_neighbours_use(neighbours, VLAN, &address, now_ns, mac);
}

/* `number` says that he is at `mac_number`. */
static bool hear(struct net_neighbours *neighbours, uint32_t number, uint32_t mac_number, enum net_neighbour_word word, int64_t now_ns)
{
	const struct net_ip_address address = address_of(number);
	unsigned char mac[NET_MAC_BYTES];

	mac_of(mac_number, mac);
	return net_neighbours_hear(neighbours, VLAN, &address, mac, word, now_ns);
}

static void assert_at(struct net_neighbours *neighbours, uint32_t number, uint32_t mac_number, int64_t now_ns)
{
	unsigned char mac[NET_MAC_BYTES], wanted[NET_MAC_BYTES];

	mac_of(mac_number, wanted);
	assert_true(use(neighbours, number, now_ns, mac) & NET_NEIGHBOUR_KNOWN);
	assert_memory_equal(mac, wanted, sizeof(mac));
}

static uint64_t value(const _Atomic uint64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

/* ---- floods ----------------------------------------------------------------------------------------------- */

/* Half the table is in use, some are written down; then everybody in the world asks for us, or says he were one of them. */
static void flood_leaves_what_is_in_use(void **state)
{
	struct net_neighbours *neighbours = make(PLACES);
	const struct net_neighbour_counters *counters = net_neighbour_counters(neighbours);
	int64_t now_ns = second_ns;
	uint64_t seed = 1;

	(void)state;
	for (uint32_t i = 0; i < 32; i++) {
		const struct net_ip_address address = address_of(1000 + i);
		unsigned char mac[NET_MAC_BYTES];

		mac_of(1000 + i, mac);
		assert_int_equal(net_neighbours_add_static(neighbours, VLAN, &address, mac), 0);
	}
	for (uint32_t i = 0; i < 96; i++) {
		unsigned char mac[NET_MAC_BYTES];

		assert_int_equal(use(neighbours, i, now_ns, mac), NET_NEIGHBOUR_ASK);
		assert_true(hear(neighbours, i, i, NET_NEIGHBOUR_ANSWERS, now_ns));
	}
	for (uint32_t i = 0; i < FLOOD; i++) {
		now_ns += 1000000;
		hear(neighbours, 5000 + (uint32_t)base_rand_below(&seed, 1 << 20), i, NET_NEIGHBOUR_ASKS_US, now_ns);
		hear(neighbours, 1000 + i % 32, 77, (enum net_neighbour_word)(i % 4), now_ns);
		assert_at(neighbours, i % 96, i % 96, now_ns);
		/* They are asked now and then, and answer. */
		hear(neighbours, i % 96, i % 96, NET_NEIGHBOUR_ANSWERS, now_ns);
	}
	for (uint32_t i = 0; i < 32; i++)
		assert_at(neighbours, 1000 + i, 1000 + i, now_ns);
	assert_int_equal(value(&counters->static_kept), FLOOD);
	assert_int_equal(value(&counters->asked), 96);
	assert_int_equal(value(&counters->unanswered), 0);
	/* Whatever came found a place that nobody used, or none. */
	assert_true(value(&counters->learned) + value(&counters->no_room) > FLOOD * 9 / 10);
	assert_true(value(&counters->pushed_out) > 0 && value(&counters->pushed_out) < value(&counters->learned));
	net_neighbours_destroy(neighbours);
}

/* Whom we ask for has a place in a table that strangers filled. */
static void whom_we_ask_pushes_out_strangers(void **state)
{
	struct net_neighbours *neighbours = make(PLACES);
	unsigned char mac[NET_MAC_BYTES];

	(void)state;
	for (uint32_t i = 0; i < FLOOD; i++)
		hear(neighbours, 5000 + i, i, NET_NEIGHBOUR_ASKS_US, 0);
	for (uint32_t i = 0; i < PLACES / 2; i++)
		assert_int_equal(use(neighbours, i, 1, mac), NET_NEIGHBOUR_ASK);
	/* Without a stranger coming in between. */
	for (uint32_t i = 0; i < FLOOD; i++)
		hear(neighbours, 50000 + i, i, NET_NEIGHBOUR_ASKS_US, 2);
	for (uint32_t i = 0; i < PLACES / 2; i++) {
		assert_true(hear(neighbours, i, i, NET_NEIGHBOUR_ANSWERS, 3));
		assert_at(neighbours, i, i, 3);
	}
	net_neighbours_destroy(neighbours);
}

/* Two sets to choose from: two thirds of all places are used before one address finds none. */
static void fills_up(void **state)
{
	struct net_neighbours *neighbours = make(1024);
	const struct net_neighbour_counters *counters = net_neighbour_counters(neighbours);
	unsigned char mac[NET_MAC_BYTES];
	uint32_t count = 0;

	(void)state;
	while (value(&counters->no_room) == 0)
		use(neighbours, count++, 0, mac);
	assert_in_range(count, 1024 * 2 / 3, 1025);
	assert_int_equal(use(neighbours, count - 1, 0, mac), 0);
	/* None of those in use was given up for it. */
	assert_int_equal(value(&counters->asked), count - 1);
	assert_int_equal(value(&counters->pushed_out), 0);
	net_neighbours_destroy(neighbours);
}

/* The oldest goes first, and what is long of no use is counted as such. */
static void oldest_goes_first(void **state)
{
	struct net_neighbours *neighbours = make(NET_NEIGHBOURS_LEAST);
	const struct net_neighbour_counters *counters = net_neighbour_counters(neighbours);

	(void)state;
	for (uint32_t i = 0; i < 16; i++)
		assert_true(hear(neighbours, i, i, NET_NEIGHBOUR_ASKS_US, (i + 3) % 16 * second_ns));
	assert_true(hear(neighbours, 100, 100, NET_NEIGHBOUR_ASKS_US, 20 * second_ns));
	assert_int_equal(value(&counters->pushed_out), 1);
	for (uint32_t i = 0; i < 16; i++)
		assert_int_equal(hear(neighbours, i, i, NET_NEIGHBOUR_NEWS, 20 * second_ns), i != 13);
	assert_true(hear(neighbours, 101, 101, NET_NEIGHBOUR_ASKS_US, 700 * second_ns));
	assert_int_equal(value(&counters->forgotten), 1);
	net_neighbours_destroy(neighbours);
}

/* ---- ages ------------------------------------------------------------------------------------------------- */

static void asked_found_old(void **state)
{
	struct net_neighbours *neighbours = make(PLACES);
	unsigned char mac[NET_MAC_BYTES];

	(void)state;
	assert_int_equal(use(neighbours, 1, 0, mac), NET_NEIGHBOUR_ASK);
	assert_int_equal(use(neighbours, 1, second_ns - 1, mac), 0);
	assert_int_equal(use(neighbours, 1, second_ns, mac), NET_NEIGHBOUR_ASK);
	assert_true(hear(neighbours, 1, 1, NET_NEIGHBOUR_ANSWERS, second_ns));
	assert_int_equal(use(neighbours, 1, 31 * second_ns - 1, mac), NET_NEIGHBOUR_KNOWN);
	assert_int_equal(use(neighbours, 1, 31 * second_ns, mac), NET_NEIGHBOUR_KNOWN | NET_NEIGHBOUR_ASK);
	assert_int_equal(use(neighbours, 1, 32 * second_ns - 1, mac), NET_NEIGHBOUR_KNOWN);
	assert_int_equal(use(neighbours, 1, 32 * second_ns, mac), NET_NEIGHBOUR_KNOWN | NET_NEIGHBOUR_ASK);
	assert_int_equal(use(neighbours, 1, 33 * second_ns, mac), NET_NEIGHBOUR_KNOWN | NET_NEIGHBOUR_ASK);
	assert_int_equal(use(neighbours, 1, 34 * second_ns, mac), NET_NEIGHBOUR_ASK);
	assert_int_equal(use(neighbours, 1, 35 * second_ns, mac), NET_NEIGHBOUR_ASK);
	assert_int_equal(use(neighbours, 1, 36 * second_ns, mac), NET_NEIGHBOUR_ASK);
	assert_int_equal(use(neighbours, 1, 46 * second_ns - 1, mac), 0);
	assert_int_equal(value(&net_neighbour_counters(neighbours)->unanswered), 1);
	net_neighbours_destroy(neighbours);
}

/* An answer that nobody asked for is news; news do not make reachable. */
static void unasked_answers(void **state)
{
	struct net_neighbours *neighbours = make(PLACES);
	unsigned char mac[NET_MAC_BYTES];

	(void)state;
	for (int word = NET_NEIGHBOUR_ANSWERS; word <= NET_NEIGHBOUR_NEWS; word++)
		assert_false(hear(neighbours, 1, 1, (enum net_neighbour_word)word, 0));
	assert_true(hear(neighbours, 1, 1, NET_NEIGHBOUR_ASKS_US, 0));
	assert_true(hear(neighbours, 1, 1, NET_NEIGHBOUR_ANSWERS, 0));
	assert_int_equal(use(neighbours, 1, 0, mac), NET_NEIGHBOUR_KNOWN | NET_NEIGHBOUR_ASK);
	assert_true(hear(neighbours, 1, 1, NET_NEIGHBOUR_ANSWERS, 0));
	assert_int_equal(use(neighbours, 1, 2 * second_ns, mac), NET_NEIGHBOUR_KNOWN);
	assert_true(hear(neighbours, 1, 2, NET_NEIGHBOUR_ANSWERS, 2 * second_ns));
	assert_int_equal(use(neighbours, 1, 2 * second_ns, mac), NET_NEIGHBOUR_KNOWN | NET_NEIGHBOUR_ASK);
	assert_at(neighbours, 1, 2, 2 * second_ns);
	net_neighbours_destroy(neighbours);
}

/* RFC 4861, 7.2.5: without the override flag. */
static void confirmations(void **state)
{
	struct net_neighbours *neighbours = make(PLACES);
	unsigned char mac[NET_MAC_BYTES];

	(void)state;
	assert_int_equal(use(neighbours, 1, 0, mac), NET_NEIGHBOUR_ASK);
	assert_true(hear(neighbours, 1, 1, NET_NEIGHBOUR_CONFIRMS, 0));
	assert_at(neighbours, 1, 1, 0);
	assert_int_equal(use(neighbours, 1, 0, mac), NET_NEIGHBOUR_KNOWN);
	assert_true(hear(neighbours, 1, 1, NET_NEIGHBOUR_CONFIRMS, 0));
	assert_int_equal(use(neighbours, 1, 0, mac), NET_NEIGHBOUR_KNOWN);
	assert_true(hear(neighbours, 1, 2, NET_NEIGHBOUR_CONFIRMS, 0));
	assert_int_equal(use(neighbours, 1, 0, mac), NET_NEIGHBOUR_KNOWN | NET_NEIGHBOUR_ASK);
	assert_at(neighbours, 1, 1, 0);
	assert_int_equal(use(neighbours, 1, 31 * second_ns, mac), NET_NEIGHBOUR_KNOWN | NET_NEIGHBOUR_ASK);
	assert_true(hear(neighbours, 1, 2, NET_NEIGHBOUR_CONFIRMS, 31 * second_ns));
	assert_at(neighbours, 1, 1, 31 * second_ns);
	assert_true(hear(neighbours, 1, 1, NET_NEIGHBOUR_CONFIRMS, 31 * second_ns));
	assert_int_equal(use(neighbours, 1, 33 * second_ns, mac), NET_NEIGHBOUR_KNOWN);
	net_neighbours_destroy(neighbours);
}

/* The same address on another VLAN is somebody else. */
static void vlans_are_apart(void **state)
{
	struct net_neighbours *neighbours = make(PLACES);
	const struct net_ip_address address = address_of(1);
	unsigned char mac[NET_MAC_BYTES];

	(void)state;
	assert_true(hear(neighbours, 1, 1, NET_NEIGHBOUR_ASKS_US, 0));
	assert_int_equal(net_neighbours_use(neighbours, VLAN + 1, &address, 0, mac), NET_NEIGHBOUR_ASK);
	assert_at(neighbours, 1, 1, 0);
	net_neighbours_destroy(neighbours);
}

static void options_are_checked(void **state)
{
	const struct net_neighbour_options good = { .count = 16, .reachable_ns = 1, .in_use_ns = 1, .forget_ns = 1, .ask_ns = 1,
		.ask_slow_ns = 1 };
	const uint32_t counts[] = { 0, 4, 8, 15, 17, 48, NET_NEIGHBOURS_MAX * 2 };
	const struct net_ip_address address = address_of(1);
	struct net_neighbour_options bad = good;
	struct net_neighbours *neighbours;
	unsigned char mac[NET_MAC_BYTES];

	(void)state;
	for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
		bad.count = counts[i];
		assert_int_equal(net_neighbours_create(&neighbours, &bad), -EINVAL);
	}
	bad = good;
	bad.forget_ns = 0;
	assert_int_equal(net_neighbours_create(&neighbours, &bad), -EINVAL);
	mac_of(1, mac);
	assert_int_equal(net_neighbours_create(&neighbours, &good), 0);
	assert_int_equal(net_neighbours_add_static(neighbours, 0, &address, mac), 0);
	assert_int_equal(net_neighbours_add_static(neighbours, 0, &address, mac), -EEXIST);
	for (uint32_t i = 2; i < 17; i++) {
		const struct net_ip_address other = address_of(i);

		assert_int_equal(net_neighbours_add_static(neighbours, 0, &other, mac), 0);
	}
	assert_int_equal(net_neighbours_add_static(neighbours, 1, &address, mac), -ENOSPC);
	net_neighbours_destroy(neighbours);
	net_neighbours_destroy(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(flood_leaves_what_is_in_use),
		cmocka_unit_test(whom_we_ask_pushes_out_strangers),
		cmocka_unit_test(fills_up),
		cmocka_unit_test(oldest_goes_first),
		cmocka_unit_test(asked_found_old),
		cmocka_unit_test(unasked_answers),
		cmocka_unit_test(confirmations),
		cmocka_unit_test(vlans_are_apart),
		cmocka_unit_test(options_are_checked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
