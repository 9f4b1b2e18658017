/*
 * The rings, one thread: laps, order, content, room, and what a lying client can do to the counts.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/base_rand.h"
#include "tests/unit/shm_pair.h"

static struct attnd_request request_of(uint64_t n)
{
	uint64_t words[8];
	struct attnd_request request;

	for (unsigned i = 0; i < 8; i++)
		words[i] = base_mix64(n * 8 + i);
	memcpy(&request, words, sizeof(request));
	request.lap = 0;
	return request;
}

static struct attnd_completion completion_of(uint64_t n, bool final)
{
	uint64_t words[8];
	struct attnd_completion completion;

	for (unsigned i = 0; i < 8; i++)
		words[i] = base_mix64(~n * 8 + i);
	memcpy(&completion, words, sizeof(completion));
	completion.lap = 0;
	completion.flags = final ? ATTND_CPL_FINAL : 0;
	return completion;
}

static void the_lap_steps_as_the_layout_says(void **state)
{
	(void)state;
	for (uint32_t slots = 16; slots <= 64; slots *= 2) {
		uint64_t index = 0;
		uint16_t lap = shm_lap(0, slots);

		for (uint64_t i = 0; i < UINT64_C(65537) * slots; i++) {
			if (lap == 0 || lap != shm_lap(index, slots))
				fail_msg("lap %u at index %llu of %u slots", lap, (unsigned long long)index, slots);
			shm_step(&index, &lap, slots - 1);
		}
	}
}

static void records_arrive_once_in_order_unchanged(void **state)
{
	struct shm_pair pair;
	uint64_t random = 1, put = 0, taken = 0, answered = 0, seen = 0;

	(void)state;
	shm_pair_create(&pair, 16, 32, 16);
	while (seen < 2000000) {
		struct attnd_request request = request_of(put), copy;
		struct attnd_completion completion = completion_of(answered, true), got;

		switch (base_rand_below(&random, 4)) {
		case 0:
			if (put - seen < pair.segment.head.max_in_flight && shm_sub_put(&pair.client, &request))
				put++;
			break;
		case 1:
			if (!shm_sub_take(&pair.daemon, &copy))
				break;
			request = request_of(taken++);
			assert_memory_equal(&copy, &request, sizeof(copy));
			break;
		case 2:
			if (answered < taken) {
				assert_true(shm_cpl_put(&pair.daemon, &completion));
				answered++;
			}
			break;
		default:
			if (!shm_cpl_take(&pair.client, &got))
				break;
			completion = completion_of(seen++, true);
			assert_memory_equal(&got, &completion, sizeof(got));
		}
		assert_true(seen <= answered && answered <= taken && taken <= put);
		assert_int_equal(pair.daemon.open, taken - answered);
	}
	shm_pair_destroy(&pair);
}

static void a_full_submission_ring_says_so(void **state)
{
	struct attnd_request request = request_of(1), copy;
	struct shm_pair pair;

	(void)state;
	shm_pair_create(&pair, 16, 64, 32);
	for (unsigned i = 0; i < 16; i++)
		assert_true(shm_sub_put(&pair.client, &request));
	assert_false(shm_sub_put(&pair.client, &request));
	/* The daemon publishes its index once per quarter of the ring. */
	for (unsigned i = 0; i < 4; i++) {
		assert_false(shm_sub_put(&pair.client, &request));
		assert_true(shm_sub_take(&pair.daemon, &copy));
	}
	for (unsigned i = 0; i < 4; i++)
		assert_true(shm_sub_put(&pair.client, &request));
	assert_false(shm_sub_put(&pair.client, &request));
	shm_pair_destroy(&pair);
}

/* However the client is late, every request that was taken can be completed, and streams stop at
 * their share. */
static void a_final_completion_always_has_room(void **state)
{
	struct shm_pair pair;
	uint64_t random = 7, streams = 0, credits, consumed = 0;
	unsigned in_flight = 0;

	(void)state;
	shm_pair_create(&pair, 16, 16, 16);
	assert_int_equal(pair.segment.head.max_in_flight, 8);
	credits = pair.daemon.streams_max;
	for (unsigned i = 0; i < 1000000; i++) {
		struct attnd_request request = request_of(i), copy;
		struct attnd_completion final = completion_of(i, true), stream = completion_of(i, false), got;

		switch (base_rand_below(&random, 6)) {
		case 0:
			if (in_flight < 8 && shm_sub_put(&pair.client, &request))
				in_flight++;
			break;
		case 1:
			shm_sub_take(&pair.daemon, &copy);
			break;
		case 2:
			if (pair.daemon.open)
				assert_true(shm_cpl_put(&pair.daemon, &final));
			break;
		case 3:
			if (credits) {
				assert_true(shm_cpl_put(&pair.daemon, &stream));
				credits--;
				streams++;
			}
			break;
		case 4:
			credits += shm_cpl_credits(&pair.daemon);
			break;
		default:
			if (!shm_cpl_take(&pair.client, &got))
				break;
			consumed++;
			in_flight -= got.flags & ATTND_CPL_FINAL;
		}
		assert_true(pair.daemon.completions_put - consumed <= 16);
		assert_true(pair.daemon.streams_unread + credits + pair.daemon.credits_due == pair.daemon.streams_max);
	}
	assert_true(streams > 10000);
	shm_pair_destroy(&pair);
}

static void a_final_completion_needs_an_open_request(void **state)
{
	const struct attnd_completion final = completion_of(1, true);
	struct attnd_request request = request_of(1), copy;
	struct shm_pair pair;

	(void)state;
	shm_pair_create(&pair, 16, 16, 4);
	assert_false(shm_cpl_put(&pair.daemon, &final));
	assert_true(shm_sub_put(&pair.client, &request));
	assert_true(shm_sub_take(&pair.daemon, &copy));
	assert_true(shm_cpl_put(&pair.daemon, &final));
	assert_false(shm_cpl_put(&pair.daemon, &final));
	shm_pair_destroy(&pair);
}

/* A client that keeps to its limit is served although it publishes only once per quarter. */
static void an_honest_client_never_waits_for_its_own_index(void **state)
{
	(void)state;
	for (uint32_t slots = 16; slots <= 256; slots *= 4) {
		struct shm_pair pair;

		shm_pair_create(&pair, slots, slots, slots / 2);
		for (unsigned round = 0; round < 1000; round++) {
			struct attnd_request request = request_of(round), copy;
			struct attnd_completion final = completion_of(round, true), got;

			for (unsigned i = 0; i < slots / 2; i++)
				assert_true(shm_sub_put(&pair.client, &request));
			for (unsigned i = 0; i < slots / 2; i++)
				assert_true(shm_sub_take(&pair.daemon, &copy));
			for (unsigned i = 0; i < slots / 2; i++)
				assert_true(shm_cpl_put(&pair.daemon, &final));
			for (unsigned i = 0; i < slots / 2; i++)
				assert_true(shm_cpl_take(&pair.client, &got));
		}
		shm_pair_destroy(&pair);
	}
}

static void a_lying_index_is_nothing_new(void **state)
{
	const struct attnd_completion stream = completion_of(1, false);
	struct shm_client_line *line;
	struct shm_pair pair;

	(void)state;
	shm_pair_create(&pair, 16, 16, 4);
	line = pair.client.line;
	for (unsigned i = 0; i < 3; i++)
		assert_true(shm_cpl_put(&pair.daemon, &stream));
	const uint64_t lies[] = { 4, 5, 1000, UINT64_MAX, UINT64_MAX - 3, UINT64_C(1) << 63 };
	for (unsigned i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		atomic_store(&line->completions_taken, lies[i]);
		assert_int_equal(shm_cpl_credits(&pair.daemon), 0);
		assert_int_equal(pair.daemon.streams_unread, 3);
	}
	atomic_store(&line->completions_taken, 2);
	assert_int_equal(shm_cpl_credits(&pair.daemon), 2);
	atomic_store(&line->completions_taken, 1); /* backwards */
	assert_int_equal(shm_cpl_credits(&pair.daemon), 0);
	atomic_store(&line->completions_taken, 3);
	assert_int_equal(shm_cpl_credits(&pair.daemon), 1);
	assert_int_equal(pair.daemon.streams_unread, 0);
	shm_pair_destroy(&pair);
}

/* A client that ignores max_in_flight is left waiting, and served again as it consumes. */
static void nobody_gets_more_than_the_limit_in_flight(void **state)
{
	struct attnd_request request = request_of(1), copy;
	struct attnd_completion final = completion_of(1, true), got;
	struct shm_pair pair;
	unsigned taken = 0;

	(void)state;
	shm_pair_create(&pair, 16, 16, 3);
	for (unsigned i = 0; i < 16; i++)
		assert_true(shm_sub_put(&pair.client, &request));
	while (shm_sub_take(&pair.daemon, &copy))
		taken++;
	assert_int_equal(taken, 3);
	/* It consumes nothing: completions fill their share of the ring, and then nothing is taken
	 * any more. */
	for (unsigned i = 0; i < 100; i++)
		if (pair.daemon.open)
			assert_true(shm_cpl_put(&pair.daemon, &final));
		else if (!shm_sub_take(&pair.daemon, &copy))
			break;
	assert_int_equal(pair.daemon.finals_unread, pair.daemon.finals_max);
	assert_false(shm_daemon_has_work(&pair.daemon));
	for (unsigned i = 0; i < 7; i++)
		assert_true(shm_cpl_take(&pair.client, &got));
	assert_true(shm_daemon_has_work(&pair.daemon));
	assert_true(shm_sub_take(&pair.daemon, &copy));
	shm_pair_destroy(&pair);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_lap_steps_as_the_layout_says),
		cmocka_unit_test(records_arrive_once_in_order_unchanged),
		cmocka_unit_test(a_full_submission_ring_says_so),
		cmocka_unit_test(a_final_completion_always_has_room),
		cmocka_unit_test(a_final_completion_needs_an_open_request),
		cmocka_unit_test(an_honest_client_never_waits_for_its_own_index),
		cmocka_unit_test(a_lying_index_is_nothing_new),
		cmocka_unit_test(nobody_gets_more_than_the_limit_in_flight),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
