/*
 * The pool of KV blocks: sizes side by side, extents that come back, references, zeroing,
 * exhaustion, and a random walk.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/base_error.h"
#include "base/base_rand.h"
#include "sched/sched_kv.h"
#include "tests/sim/sim_device.h"

static struct base_clock clock;
static struct sim_device *device;
static struct sched_kv *kv;

static void start(uint64_t pool_bytes, uint64_t extent_bytes)
{
	const struct sim_device_options options = { .clock = &clock };

	base_clock_init_fake(&clock, 1);
	device = sim_device_create(&options);
	assert_int_equal(
		sched_kv_create(&kv, sim_device_backend(device), pool_bytes, extent_bytes), 0);
}

static void stop(void)
{
	assert_int_equal(sched_kv_check(kv), 0);
	sched_kv_destroy(kv);
	sim_device_destroy(device);
}

/* What the backend does with a ZERO. */
static uint32_t zero(uint32_t capacity, size_t bytes_max)
{
	struct kern_span spans[64];
	uint32_t count = sched_kv_dirty(kv, spans, capacity, bytes_max);

	assert_int_equal(sched_kv_check(kv), 0);
	for (uint32_t i = 0; i < count; i++)
		memset(spans[i].to, 0, spans[i].bytes);
	sched_kv_zeroed(kv, spans, count);
	assert_int_equal(sched_kv_check(kv), 0);
	return count;
}

static void bad_sizes(void **state)
{
	const struct sim_device_options options = { .clock = &clock };

	(void)state;
	device = sim_device_create(&options);
	assert_int_equal(sched_kv_create(&kv, sim_device_backend(device), 4096, 0), -EINVAL);
	assert_int_equal(sched_kv_create(&kv, sim_device_backend(device), 4096, 8192), -EINVAL);
	assert_int_equal(
		sched_kv_create(&kv, sim_device_backend(device), UINT64_C(1) << 40, 4096), -EINVAL);
	assert_int_not_equal(base_error_message()[0], 0);
	sim_device_destroy(device);
}

static void sizes_side_by_side(void **state)
{
	unsigned char *small[100], *large;
	uint32_t count = 0;

	(void)state;
	start(4 * 16384, 16384);
	assert_int_equal(sched_kv_available(kv, 4096), 16);
	assert_int_equal(sched_kv_available(kv, 12288), 4);
	assert_null(sched_kv_take(kv, 20480)); /* larger than an extent */
	large = sched_kv_take(kv, 12288);
	assert_non_null(large);
	assert_int_equal(sched_kv_available(kv, 4096), 12);
	while ((small[count] = sched_kv_take(kv, 4096)) != NULL)
		count++;
	assert_int_equal(count, 12);
	assert_null(sched_kv_take(kv, 12288));
	for (uint32_t i = 0; i < count; i++)
		sched_kv_release(kv, small[i]);
	assert_null(sched_kv_take(kv, 4096)); /* dirty */
	while (zero(5, SIZE_MAX) > 0)
		;
	/* Empty extents serve any size again. */
	assert_int_equal(sched_kv_available(kv, 12288), 3);
	assert_int_equal(sched_kv_available(kv, 8192), 6);
	sched_kv_release(kv, large);
	assert_int_equal(zero(64, SIZE_MAX), 1);
	assert_int_equal(sched_kv_available(kv, 16384), 4);
	stop();
}

static void fits_counts_both_sizes(void **state)
{
	const size_t bytes[2] = { 12288, 4096 }, same[2] = { 4096, 4096 };

	(void)state;
	start(4 * 16384, 16384);
	assert_true(sched_kv_fits(kv, bytes, (const uint32_t[2]){ 1, 12 }));
	assert_false(sched_kv_fits(kv, bytes, (const uint32_t[2]){ 1, 13 }));
	assert_true(sched_kv_fits(kv, bytes, (const uint32_t[2]){ 4, 0 }));
	assert_false(sched_kv_fits(kv, bytes, (const uint32_t[2]){ 4, 1 }));
	assert_true(sched_kv_fits(kv, same, (const uint32_t[2]){ 1, 15 }));
	assert_false(sched_kv_fits(kv, same, (const uint32_t[2]){ 2, 15 }));
	stop();
}

/* Blocks of one size do not stand in for those of another: what lacks is said of each, and the shortest is zeroed first. */
static void each_size_has_its_own_room(void **state)
{
	const size_t bytes[2] = { 8192, 4096 };
	unsigned char *large[8], *small[16];
	struct kern_span spans[64];
	uint32_t at = 0;

	(void)state;
	start(8 * 16384, 16384);
	for (uint32_t i = 0; i < 8; i++)
		large[i] = sched_kv_take(kv, 8192);
	assert_int_equal(sched_kv_short(kv, 4, true, &at), 0); /* half of the extents are untouched */
	for (uint32_t i = 0; i < 16; i++)
		small[i] = sched_kv_take(kv, 4096);
	assert_int_equal(sched_kv_lacks(kv, bytes, (const uint32_t[2]){ 1, 1 }), 3);
	for (uint32_t i = 0; i < 12; i++)
		sched_kv_release(kv, small[i]);
	assert_int_equal(sched_kv_lacks(kv, bytes, (const uint32_t[2]){ 1, 12 }), 1);
	assert_int_equal(sched_kv_lacks(kv, bytes, (const uint32_t[2]){ 0, 13 }), 2);
	assert_int_equal(sched_kv_lacks(kv, bytes, (const uint32_t[2]){ 0, 12 }), 0);
	sched_kv_release(kv, large[0]);
	assert_int_equal(sched_kv_lacks(kv, bytes, (const uint32_t[2]){ 1, 12 }), 0);
	at = 0;
	assert_int_equal(sched_kv_short(kv, 4, true, &at), 8192); /* 8 of 64 KiB */
	assert_int_equal(sched_kv_short(kv, 4, true, &at), 0);
	assert_int_equal(sched_kv_dirty(kv, spans, 64, 4096), 1);
	sched_kv_zeroed(kv, spans, 1); /* of either, as none is clean */
	at = 0;
	assert_int_not_equal(sched_kv_short(kv, 4, false, &at), 0);
	assert_int_equal(sched_kv_dirty(kv, spans, 64, 4096), 1);
	sched_kv_zeroed(kv, spans, 1);
	assert_int_equal(sched_kv_available(kv, 8192), 1); /* the other one's turn came at once */
	assert_int_equal(sched_kv_available(kv, 4096), 1);
	for (uint32_t i = 1; i < 8; i++)
		sched_kv_release(kv, large[i]);
	for (uint32_t i = 12; i < 16; i++)
		sched_kv_release(kv, small[i]);
	while (zero(64, SIZE_MAX) > 0)
		;
	stop();
}

/* A size that always has less clean does not keep another one's blocks from being zeroed. */
static void no_size_waits_for_ever(void **state)
{
	unsigned char *large[2], *small[4];
	uint32_t rounds = 0;

	(void)state;
	start(2 * 16384, 16384);
	for (uint32_t i = 0; i < 2; i++)
		large[i] = sched_kv_take(kv, 8192);
	for (uint32_t i = 0; i < 4; i++)
		small[i] = sched_kv_take(kv, 4096);
	sched_kv_release(kv, small[0]);
	sched_kv_release(kv, small[1]);
	assert_int_equal(zero(1, SIZE_MAX), 1);
	for (uint32_t i = 0; i < 2; i++)
		sched_kv_release(kv, large[i]);
	for (; sched_kv_available(kv, 4096) < 2 && rounds < 100; rounds++) {
		assert_int_equal(zero(1, SIZE_MAX), 1);
		if (sched_kv_available(kv, 8192) > 0)
			sched_kv_release(kv, sched_kv_take(kv, 8192));
	}
	assert_in_range(rounds, 2, 8);
	stop();
}

static void references(void **state)
{
	struct sched_kv_usage usage;
	unsigned char *block;

	(void)state;
	start(65536, 65536);
	block = sched_kv_take(kv, 4096);
	sched_kv_reference(kv, block);
	sched_kv_reference(kv, block);
	assert_int_equal(sched_kv_references(kv, block), 3);
	sched_kv_release(kv, block);
	sched_kv_release(kv, block);
	assert_int_equal(zero(64, SIZE_MAX), 0);
	sched_kv_release(kv, block);
	sched_kv_usage(kv, &usage);
	assert_true(usage.used_bytes == 0 && usage.dirty_bytes == 4096 && usage.blocks_dirty == 1 &&
		usage.free_bytes == 61440);
	assert_int_equal(zero(64, SIZE_MAX), 1);
	stop();
}

static void zeroing_is_bounded_and_may_fail(void **state)
{
	struct kern_span spans[64];
	unsigned char *blocks[10];

	(void)state;
	start(65536, 65536);
	for (uint32_t i = 0; i < 10; i++)
		blocks[i] = sched_kv_take(kv, 4096);
	for (uint32_t i = 0; i < 10; i++)
		sched_kv_release(kv, blocks[i]);
	assert_int_equal(sched_kv_dirty(kv, spans, 64, 10000), 2);
	sched_kv_still_dirty(kv, spans, 2);
	assert_int_equal(sched_kv_dirty(kv, spans, 64, 1), 1); /* one at least */
	sched_kv_still_dirty(kv, spans, 1);
	assert_int_equal(sched_kv_dirty_bytes(kv), 40960);
	assert_int_equal(zero(64, SIZE_MAX), 10);
	assert_int_equal(sched_kv_dirty_bytes(kv), 0);
	stop();
}

struct held {
	unsigned char *block;
	size_t bytes;
	uint32_t references;
};

static void random_walk(void **state)
{
	static const size_t sizes[5] = { 4096, 8192, 12288, 40960, 65536 };
	static struct held held[256];
	uint32_t count = 0;
	uint64_t random = 1;

	(void)state;
	start(32 * 65536, 65536);
	for (uint32_t i = 0; i < 30000; i++) {
		uint32_t what = (uint32_t)base_rand_below(&random, 10),
			 h = count ? (uint32_t)base_rand_below(&random, count) : 0;

		if (what < 5 && count < 256) {
			size_t bytes = sizes[base_rand_below(&random, 5)];
			uint64_t available = sched_kv_available(kv, bytes);
			unsigned char *block = sched_kv_take(kv, bytes);

			assert_true((block != NULL) == (available > 0));
			if (!block)
				continue;
			/* Zeroed, and nobody else's: everybody writes his whole block. */
			for (size_t b = 0; b < bytes; b += 512)
				assert_int_equal(block[b], 0);
			memset(block, 1 + (int)(i % 255), bytes);
			held[count++] = (struct held){ block, bytes, 1 };
		} else if (what < 6 && count > 0) {
			sched_kv_reference(kv, held[h].block);
			held[h].references++;
		} else if (what < 9 && count > 0) {
			sched_kv_release(kv, held[h].block);
			if (--held[h].references == 0)
				held[h] = held[--count];
		} else {
			zero(1 + i % 20, 1 << 18);
		}
		if (i % 16 == 0)
			assert_int_equal(sched_kv_check(kv), 0);
	}
	while (count > 0) {
		sched_kv_release(kv, held[count - 1].block);
		if (--held[count - 1].references == 0)
			count--;
	}
	while (zero(64, SIZE_MAX) > 0)
		;
	assert_int_equal(sched_kv_available(kv, 65536), 32);
	stop();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bad_sizes),
		cmocka_unit_test(sizes_side_by_side),
		cmocka_unit_test(fits_counts_both_sizes),
		cmocka_unit_test(each_size_has_its_own_room),
		cmocka_unit_test(no_size_waits_for_ever),
		cmocka_unit_test(references),
		cmocka_unit_test(zeroing_is_bounded_and_may_fail),
		cmocka_unit_test(random_walk),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
