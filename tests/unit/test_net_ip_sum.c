/*
 * The Internet checksum against one that adds word by word, and limits of so many a second.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/base_rand.h"
#include "netio/net_limit.h"
#include "netio/net_sum.h"

enum { BYTES_MAX = 2048, SECOND_NS = 1000000000 };

/* RFC 1071 as it is written: big-endian words, carries brought round after each. */
static uint16_t slow_sum(const unsigned char *bytes, size_t count)
{
	uint32_t sum = 0;

	for (size_t i = 0; i < count; i += 2) {
		sum += (uint32_t)bytes[i] << 8 | (i + 1 < count ? bytes[i + 1] : 0);
		sum = (sum & 0xffff) + (sum >> 16);
	}
	return (uint16_t)~sum;
}

static uint16_t stored_sum(uint64_t sum)
{
	unsigned char bytes[2];

	net_sum_store(bytes, net_sum_fold(sum));
	return (uint16_t)(bytes[0] << 8 | bytes[1]);
}

static void fill(unsigned char *bytes, size_t count, uint64_t *seed)
{
	for (size_t i = 0; i < count; i++)
		bytes[i] = (unsigned char)base_rand_next(seed);
}

/* RFC 1071, 3: the sum of these is ddf2. */
static void example_of_the_rfc(void **state)
{
	const unsigned char bytes[] = { 0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7 };

	(void)state;
	assert_int_equal(stored_sum(net_sum_add(0, bytes, sizeof(bytes))), (uint16_t)~0xddf2u);
}

/* Every length, at every alignment. */
static void every_length(void **state)
{
	static unsigned char bytes[BYTES_MAX + 8];
	uint64_t seed = 1;

	(void)state;
	for (size_t count = 0; count < 300; count++) {
		for (size_t at = 0; at < 8; at++) {
			fill(bytes, sizeof(bytes), &seed);
			assert_int_equal(stored_sum(net_sum_add(0, bytes + at, count)), slow_sum(bytes + at, count));
		}
	}
}

static void random_bytes(void **state)
{
	static unsigned char bytes[BYTES_MAX];
	uint64_t seed = 2;

	(void)state;
	for (uint32_t i = 0; i < 20000; i++) {
		const size_t count = base_rand_below(&seed, BYTES_MAX + 1);

		fill(bytes, count < 64 ? count : 64, &seed);
		bytes[base_rand_below(&seed, BYTES_MAX)] = (unsigned char)base_rand_next(&seed);
		assert_int_equal(stored_sum(net_sum_add(0, bytes, count)), slow_sum(bytes, count));
	}
}

static void carries_all_the_way(void **state)
{
	static unsigned char bytes[1 << 16];

	(void)state;
	memset(bytes, 0xff, sizeof(bytes));
	for (size_t count = 0; count <= sizeof(bytes); count += 4099)
		assert_int_equal(stored_sum(net_sum_add(0, bytes, count)), slow_sum(bytes, count));
	assert_int_equal(stored_sum(net_sum_add(0, bytes, sizeof(bytes))), 0);
	assert_int_equal(net_sum_fold(UINT64_MAX), 0xffff);
	assert_int_equal(net_sum_fold(UINT64_C(0x1ffff0000)), 1);
}

/* In pieces it comes to the same, and with its own checksum in it to all ones. */
static void pieces(void **state)
{
	unsigned char bytes[256];
	uint64_t seed = 3;

	(void)state;
	for (uint32_t i = 0; i < 5000; i++) {
		const size_t count = base_rand_below(&seed, sizeof(bytes) + 1), cut = base_rand_below(&seed, count / 2 + 1) * 2;

		fill(bytes, count, &seed);
		assert_int_equal(stored_sum(net_sum_add(net_sum_add(0, bytes, cut), bytes + cut, count - cut)), slow_sum(bytes, count));
		if (count < 4)
			continue;
		memset(bytes + 2, 0, 2);
		net_sum_store(bytes + 2, net_sum_fold(net_sum_add(0, bytes, count)));
		assert_int_equal(net_sum_fold(net_sum_add(0, bytes, count)), 0xffff);
	}
	assert_int_equal(stored_sum(net_sum_add_be16(net_sum_add_be16(0, 0x1234), 0xf000)), (uint16_t)~0x0235u);
}

/* ---- limits ----------------------------------------------------------------------------------------------- */

static uint32_t take_all(struct net_limit *limit, int64_t now_ns)
{
	uint32_t taken = 0;

	while (taken < 1000 && net_limit_take(limit, now_ns))
		taken++;
	return taken;
}

static void so_many_a_second(void **state)
{
	struct net_limit limit;

	(void)state;
	net_limit_init(&limit, 10, 4);
	assert_int_equal(take_all(&limit, 0), 4);
	assert_int_equal(take_all(&limit, SECOND_NS / 10 - 1), 0);
	assert_int_equal(take_all(&limit, SECOND_NS / 10), 1);
	assert_int_equal(take_all(&limit, SECOND_NS / 2), 4);
	assert_int_equal(take_all(&limit, SECOND_NS), 4);
	assert_int_equal(take_all(&limit, INT64_C(1000000) * SECOND_NS), 4);
}

/* Over any time no more than its share and the burst. */
static void never_more(void **state)
{
	struct net_limit limit;
	uint64_t seed = 4, taken = 0;
	int64_t now_ns = 0;

	(void)state;
	net_limit_init(&limit, 100, 7);
	for (uint32_t i = 0; i < 10000; i++) {
		now_ns += (int64_t)base_rand_below(&seed, 8000000);
		taken += net_limit_take(&limit, now_ns);
		assert_true(taken <= 7 + (uint64_t)now_ns / (SECOND_NS / 100));
	}
	assert_true(taken > 3000);
}

static void none_at_all(void **state)
{
	struct net_limit limit;

	(void)state;
	net_limit_init(&limit, 0, 5);
	assert_int_equal(take_all(&limit, 0), 0);
	assert_int_equal(take_all(&limit, SECOND_NS), 0);
	net_limit_init(&limit, 5, 0);
	assert_int_equal(take_all(&limit, SECOND_NS), 0);
	net_limit_init(&limit, UINT32_MAX, UINT32_MAX);
	assert_int_equal(take_all(&limit, SECOND_NS), 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(example_of_the_rfc),
		cmocka_unit_test(every_length),
		cmocka_unit_test(random_bytes),
		cmocka_unit_test(carries_all_the_way),
		cmocka_unit_test(pieces),
		cmocka_unit_test(so_many_a_second),
		cmocka_unit_test(never_more),
		cmocka_unit_test(none_at_all),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
