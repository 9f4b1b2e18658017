/*
 * The clock: it agrees with the kernel's, never goes back whatever its anchor says, and stands where a fake
 * one is put. Preemption cannot fail these tests: each reading is held between two of the kernel's.
 */
#include "base/base_clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>

#include <cmocka.h>

enum { TOLERANCE_NS = 5000, WATCH_NS = 350000000 };

static void pause_ns(int64_t ns)
{
	const struct timespec pause = {.tv_nsec = ns};

	nanosleep(&pause, NULL);
}

/* Long enough to pass the short first interval and three ordinary ones. */
static void test_agrees_with_the_kernel(void **state)
{
	struct base_clock clock;
	int64_t start_ns = base_monotonic_ns(), before_ns, now_ns, after_ns, last_ns = 0;

	(void)state;
	base_clock_init(&clock);
	do {
		before_ns = base_monotonic_ns();
		now_ns = base_clock_now(&clock);
		after_ns = base_monotonic_ns();
		assert_in_range(now_ns, before_ns - TOLERANCE_NS, after_ns + TOLERANCE_NS);
		assert_true(now_ns >= last_ns);
		last_ns = now_ns;
		pause_ns(20000);
	} while (after_ns - start_ns < WATCH_NS);
}

static void test_new_thread_of_time_starts_near(void **state)
{
	struct base_clock first, second;
	int64_t first_ns, second_ns;

	(void)state;
	base_clock_init(&first);
	pause_ns(3000000);
	first_ns = base_clock_now(&first);
	base_clock_init(&second);
	second_ns = base_clock_now(&second);
	assert_true(second_ns > first_ns - TOLERANCE_NS);
}

/* A clock that ran ahead stands still until the kernel's has caught up. */
static void test_never_goes_back(void **state)
{
	struct base_clock clock;
	int64_t ahead_ns, now_ns;

	(void)state;
	base_clock_init(&clock);
	if (clock.kind != BASE_CLOCK_TSC) {
		print_message("skip: this machine's time stamp counter is not used\n");
		skip();
	}
	clock.anchor_ns += 2000000;
	ahead_ns = base_clock_now(&clock);
	assert_true(ahead_ns > base_monotonic_ns());
	clock.reanchor_ticks = 0;
	now_ns = base_clock_now(&clock);
	assert_int_equal(now_ns, ahead_ns);
	for (int i = 0; i < 1000; i++)
		assert_true(base_clock_now(&clock) >= ahead_ns);
	pause_ns(4000000);
	now_ns = base_clock_now(&clock);
	assert_true(now_ns > ahead_ns);
	assert_true(now_ns <= base_monotonic_ns() + TOLERANCE_NS);
}

/* A rate that is wrong by half is put right by the next anchor; an absurd one is not taken over. */
static void test_rate_is_corrected(void **state)
{
	struct base_clock clock;
	uint64_t rate_q32;

	(void)state;
	base_clock_init(&clock);
	if (clock.kind != BASE_CLOCK_TSC)
		skip();
	rate_q32 = clock.ns_per_tick_q32;
	clock.ns_per_tick_q32 = rate_q32 / 2;
	pause_ns(20000000);
	base_clock_now(&clock);
	assert_in_range(clock.ns_per_tick_q32, rate_q32 - rate_q32 / 512, rate_q32 + rate_q32 / 512);

	clock.anchor_ns -= 1000000000;
	pause_ns(20000000);
	clock.reanchor_ticks = 0;
	base_clock_now(&clock);
	assert_in_range(clock.ns_per_tick_q32, rate_q32 - rate_q32 / 512, rate_q32 + rate_q32 / 512);
}

static void test_fake_moves_by_hand(void **state)
{
	struct base_clock clock;

	(void)state;
	base_clock_init_fake(&clock, 42);
	assert_int_equal(base_clock_now(&clock), 42);
	assert_int_equal(base_clock_now(&clock), 42);
	clock.fake_ns = INT64_C(1) << 40;
	assert_int_equal(base_clock_now(&clock), INT64_C(1) << 40);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_agrees_with_the_kernel),
		cmocka_unit_test(test_new_thread_of_time_starts_near),
		cmocka_unit_test(test_never_goes_back),
		cmocka_unit_test(test_rate_is_corrected),
		cmocka_unit_test(test_fake_moves_by_hand),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
