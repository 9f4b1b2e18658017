/*
 * Blocks for payloads: random taking, giving and shrinking beside a map of who owns which byte; nothing overlaps, nothing is lost, and what
 * was given back is one block again.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base_error.h"
#include "base/base_rand.h"
#include "netio/net_pool.h"

enum { UNIT = NET_POOL_LEAST_BYTES, BLOCKS = 64 };

struct held { unsigned char *at; uint32_t bytes; };

static void check(const struct net_pool *pool)
{
	if (net_pool_check(pool))
		fail_msg("%s", base_error_message());
}

static uint64_t size_of(uint32_t bytes)
{
	uint64_t size = UNIT;

	while (size < bytes)
		size *= 2;
	return size;
}

/* Each block is full of its own number, which another block's writes would change. */
static void mark(const struct held *held, uint32_t number)
{
	memset(held->at, (int)number, held->bytes);
}

static void check_mark(const struct held *held, uint32_t number)
{
	for (uint32_t i = 0; i < held->bytes; i++)
		assert_int_equal(held->at[i], number);
}

static void limits(void **state)
{
	struct net_pool *pool;

	(void)state;
	assert_int_equal(net_pool_create(&pool, 0, -1), -EINVAL);
	assert_int_equal(net_pool_create(&pool, (UINT64_C(1) << 40) + 1, -1), -EINVAL);
	assert_int_equal(net_pool_create(&pool, UINT64_MAX, -1), -EINVAL);
	assert_int_equal(net_pool_create(&pool, 1, -1), 0);
	assert_int_equal(net_pool_bytes(pool), UNIT);
	net_pool_destroy(pool);
	assert_int_equal(net_pool_create(&pool, 5 * UNIT, -1), 0);
	assert_int_equal(net_pool_bytes(pool), 8 * UNIT);
	assert_int_equal(net_pool_free_bytes(pool), 8 * UNIT);
	assert_null(net_pool_take(pool, 8 * UNIT + 1));
	assert_null(net_pool_take(pool, UINT32_MAX));
	check(pool);
	net_pool_destroy(pool);
	net_pool_destroy(NULL);
}

/* All of it in the least blocks, then in one. */
static void exhaustion(void **state)
{
	unsigned char *blocks[32];
	struct net_pool *pool;

	(void)state;
	assert_int_equal(net_pool_create(&pool, 32 * UNIT, -1), 0);
	for (uint32_t i = 0; i < 32; i++) {
		blocks[i] = net_pool_take(pool, 1 + i * UNIT / 32);
		assert_non_null(blocks[i]);
		assert_int_equal(net_pool_block_bytes(pool, blocks[i]), UNIT);
		check(pool);
	}
	assert_null(net_pool_take(pool, 1));
	assert_int_equal(net_pool_free_bytes(pool), 0);
	/* Every second one: as many bytes as half of it, and no two together. */
	for (uint32_t i = 0; i < 32; i += 2)
		net_pool_give(pool, blocks[i]);
	check(pool);
	assert_int_equal(net_pool_free_bytes(pool), 16 * UNIT);
	assert_null(net_pool_take(pool, UNIT + 1));
	for (uint32_t i = 1; i < 32; i += 2)
		net_pool_give(pool, blocks[i]);
	check(pool);
	blocks[0] = net_pool_take(pool, 32 * UNIT);
	assert_non_null(blocks[0]);
	assert_null(net_pool_take(pool, 1));
	net_pool_give(pool, blocks[0]);
	net_pool_destroy(pool);
}

static void alignment(void **state)
{
	struct net_pool *pool;

	(void)state;
	assert_int_equal(net_pool_create(&pool, 64 * UNIT, -1), 0);
	for (uint32_t bytes = 1; bytes <= 32 * UNIT; bytes = bytes * 3 / 2 + 1) {
		const uint64_t size = size_of(bytes);
		unsigned char *low = net_pool_take(pool, 1), *at = net_pool_take(pool, bytes);

		assert_non_null(at);
		assert_int_equal(net_pool_block_bytes(pool, at), size);
		assert_int_equal((uintptr_t)at % (size < 4096 ? size : 4096), 0);
		net_pool_give(pool, low);
		net_pool_give(pool, at);
	}
	assert_int_equal(net_pool_free_bytes(pool), 64 * UNIT);
	net_pool_destroy(pool);
}

static void shrinking(void **state)
{
	struct net_pool *pool;
	unsigned char *at, *rest[3];

	(void)state;
	assert_int_equal(net_pool_create(&pool, 8 * UNIT, -1), 0);
	at = net_pool_take(pool, 8 * UNIT);
	net_pool_shrink(pool, at, 4 * UNIT + 1); /* more than half: all of it is needed */
	assert_int_equal(net_pool_block_bytes(pool, at), 8 * UNIT);
	net_pool_shrink(pool, at, 1);
	assert_int_equal(net_pool_block_bytes(pool, at), UNIT);
	assert_int_equal(net_pool_free_bytes(pool), 7 * UNIT);
	check(pool);
	for (uint32_t i = 0; i < 3; i++) {
		rest[i] = net_pool_take(pool, (4 >> i) * UNIT);
		assert_non_null(rest[i]);
	}
	assert_null(net_pool_take(pool, 1));
	for (uint32_t i = 0; i < 3; i++)
		net_pool_give(pool, rest[i]);
	net_pool_give(pool, at);
	check(pool);
	assert_non_null(net_pool_take(pool, 8 * UNIT));
	net_pool_destroy(pool);
}

static uint32_t some_bytes(uint64_t *seed)
{
	return 1 + (uint32_t)base_rand_below(seed, (uint64_t)UNIT << base_rand_below(seed, 7));
}

static uint64_t held_bytes(const struct held *held)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < BLOCKS; i++)
		bytes += held[i].at ? size_of(held[i].bytes) : 0;
	return bytes;
}

static void step(struct net_pool *pool, struct held *held, uint64_t *seed)
{
	const uint32_t which = (uint32_t)base_rand_below(seed, BLOCKS);
	struct held *one = &held[which];

	if (!one->at) {
		one->bytes = some_bytes(seed);
		one->at = net_pool_take(pool, one->bytes);
		if (one->at)
			mark(one, which);
		return;
	}
	check_mark(one, which);
	if (base_rand_below(seed, 3) == 0) {
		one->bytes = 1 + (uint32_t)base_rand_below(seed, one->bytes);
		net_pool_shrink(pool, one->at, one->bytes);
		check_mark(one, which);
		return;
	}
	net_pool_give(pool, one->at);
	one->at = NULL;
}

static void random_use(void **state)
{
	struct held held[BLOCKS] = { { NULL, 0 } };
	struct net_pool *pool;
	uint64_t seed = 3;

	(void)state;
	assert_int_equal(net_pool_create(&pool, 512 * UNIT, -1), 0);
	for (int i = 0; i < 20000; i++) {
		step(pool, held, &seed);
		check(pool);
		assert_int_equal(net_pool_free_bytes(pool), 512 * UNIT - held_bytes(held));
	}
	for (uint32_t i = 0; i < BLOCKS; i++) {
		if (!held[i].at)
			continue;
		check_mark(&held[i], i);
		net_pool_give(pool, held[i].at);
	}
	check(pool);
	assert_non_null(net_pool_take(pool, 512 * UNIT));
	net_pool_destroy(pool);
}

static void as_blocks(void **state)
{
	struct net_pool *pool;
	struct net_blocks blocks;
	void *at;

	(void)state;
	assert_int_equal(net_pool_create(&pool, 4 * UNIT, -1), 0);
	blocks = net_pool_blocks(pool);
	at = blocks.take(blocks.context, 3 * UNIT);
	assert_non_null(at);
	assert_null(blocks.take(blocks.context, 1));
	blocks.give(blocks.context, at);
	assert_int_equal(net_pool_free_bytes(pool), 4 * UNIT);
	net_pool_destroy(pool);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(limits),
		cmocka_unit_test(exhaustion),
		cmocka_unit_test(alignment),
		cmocka_unit_test(shrinking),
		cmocka_unit_test(random_use),
		cmocka_unit_test(as_blocks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
