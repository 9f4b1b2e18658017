/*
 * Lost wake-ups, in two ways.
 *
 * Sleeping: client and daemon, a thread each, pass one record to and fro, and after a random
 * moment really go to sleep, so that again and again one publishes while the other lies down.
 * When a sleep lasts until its time-out although there is something in the ring, and the bell is
 * not rung for as long again (the other may have been off its processor), a wake-up is lost.
 *
 * Deciding: both sides meet, and then at the same moment one publishes and looks for a sleeper
 * while the other decides whether to sleep; millions of times, because nobody really sleeps. A
 * decision to sleep on a ring that is not empty, with no bell rung, is a lost wake-up. The same
 * code runs twice: with the fence nothing may be lost; with an empty function in its place
 * something must be, within a bounded time, or this test could not tell the difference. (x86
 * lets a load overtake an older store, which is what the fence forbids. To hold that store back,
 * each side first stores to lines that are in no cache: stores leave a processor in order.
 * ThreadSanitizer's own code fences, so the run without is not made under it.)
 */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base_clock.h"
#include "base/base_rand.h"
#include "shm-ipc/shm_bell.h"
#include "tests/unit/shm_pair.h"

#if defined(__SANITIZE_THREAD__)
enum { RACES_ARE_REAL = 0 };
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
enum { RACES_ARE_REAL = 0 };
#else
enum { RACES_ARE_REAL = 1 };
#endif
#else
enum { RACES_ARE_REAL = 1 };
#endif

static const int64_t second = 1000000000;
static const int64_t timeout_ns = 400000000; /* far beyond any wake that is not lost */
enum { DELAY_BITS = 13, SPINS = 20000, BALLAST_STORES = 10 };
#define BALLAST_BYTES (UINT64_C(64) << 20)

struct run {
	struct shm_pair pair;
	shm_fence_fn *fence;
	int64_t end_ns;
	_Atomic uint32_t stop;
	uint64_t rounds, daemon_sleeps, client_sleeps;
	_Atomic uint64_t lost;
	/* deciding only: how far each side has come */
	alignas(128) _Atomic uint64_t daemon_at;
	alignas(128) _Atomic uint64_t client_at;
	unsigned char *ballast; /* one half for each side */
};

static void no_fence(void)
{
}

static void delay(uint64_t *random)
{
	/* Of every order of magnitude, so that each side comes first now and then whatever the
	 * machine is doing. */
	for (uint64_t i = base_rand_below(random, UINT64_C(1) << base_rand_below(random, DELAY_BITS)); i > 0; i--)
		__asm__ volatile("" ::: "memory");
}

static void run_begin(struct run *run, shm_fence_fn *fence, int64_t limit_ns)
{
	*run = (struct run){ .fence = fence };
	shm_pair_create(&run->pair, 16, 16, 4);
	/* No limit on wakes: a held one would look like a lost one. */
	run->pair.daemon.wake_rate = (struct shm_rate){ .period_ns = 0, .burst_ns = INT64_MAX / 2 };
	run->end_ns = base_monotonic_ns() + limit_ns;
}

static void run_end(struct run *run)
{
	print_message("# %llu rounds, the daemon slept %llu times, the client %llu; lost: %llu\n",
		(unsigned long long)run->rounds, (unsigned long long)run->daemon_sleeps,
		(unsigned long long)run->client_sleeps, (unsigned long long)run->lost);
	shm_pair_destroy(&run->pair);
}

/* ---- sleeping -------------------------------------------------------------------------------- */

static void daemon_sleep(struct run *run, int epoll)
{
	struct shm_daemon_end *end = &run->pair.daemon;
	const int timeout_ms = (int)(timeout_ns / 1000000);
	struct epoll_event event;

	if (!shm_bell_prepare_sleep(&end, 1))
		return;
	run->daemon_sleeps++;
	if (epoll_wait(epoll, &event, 1, timeout_ms) == 0 && shm_daemon_has_work(end) &&
		epoll_wait(epoll, &event, 1, timeout_ms) == 0)
		atomic_fetch_add(&run->lost, 1);
	shm_bell_awake(&end, 1);
}

static void *sleeping_daemon(void *argument)
{
	struct run *run = argument;
	struct shm_daemon_end *end = &run->pair.daemon;
	struct epoll_event event = { .events = EPOLLIN | EPOLLET };
	struct attnd_completion completion = { .flags = ATTND_CPL_FINAL };
	struct attnd_request request;
	uint64_t random = 1;
	int epoll = epoll_create1(EPOLL_CLOEXEC);

	epoll_ctl(epoll, EPOLL_CTL_ADD, run->pair.bell_fd, &event);
	while (!atomic_load(&run->stop)) {
		delay(&random);
		if (!shm_sub_take(end, &request)) {
			daemon_sleep(run, epoll);
			continue;
		}
		completion.request_id = request.request_id;
		delay(&random);
		(void)shm_cpl_put(end, &completion);
		shm_bell_check_all(&end, 1, base_monotonic_ns());
	}
	close(epoll);
	return NULL;
}

static bool bell_comes(struct shm_client_end *end, uint32_t bell_before)
{
	int64_t end_ns = base_monotonic_ns() + timeout_ns;

	while (base_monotonic_ns() < end_ns) {
		if (atomic_load(&end->daemon_line->bell) != bell_before)
			return true;
		usleep(1000);
	}
	return false;
}

/* Returns when the answer is there. */
static void client_sleep(struct run *run)
{
	struct shm_client_end *end = &run->pair.client;

	while (!shm_cpl_ready(end) && !atomic_load(&run->lost)) {
		uint32_t bell = atomic_load(&end->daemon_line->bell);
		int64_t start_ns = base_monotonic_ns();

		run->client_sleeps++;
		shm_bell_wait(end, timeout_ns);
		if (base_monotonic_ns() - start_ns >= timeout_ns && shm_cpl_ready(end) && !bell_comes(end, bell))
			atomic_fetch_add(&run->lost, 1);
	}
}

static void sleepers_are_always_woken(void **state)
{
	struct run run;
	struct shm_client_end *end = &run.pair.client;
	struct attnd_request request = { .op = ATTND_OP_NOP };
	struct attnd_completion completion;
	uint64_t random = 2;
	pthread_t thread;

	(void)state;
	run_begin(&run, shm_fence, 4 * second);
	assert_int_equal(pthread_create(&thread, NULL, sleeping_daemon, &run), 0);
	for (; base_monotonic_ns() < run.end_ns && !atomic_load(&run.lost); run.rounds++) {
		request.request_id++;
		delay(&random);
		assert_true(shm_sub_put(end, &request));
		shm_bell_notify(end);
		delay(&random);
		client_sleep(&run);
		assert_true(shm_cpl_take(end, &completion));
		assert_int_equal(completion.request_id, request.request_id);
	}
	atomic_store(&run.stop, 1);
	shm_bell_ring(end);
	pthread_join(thread, NULL);
	run_end(&run);
	assert_true(run.daemon_sleeps > 200);
	assert_true(run.client_sleeps > 200);
	assert_int_equal(run.lost, 0);
}

/* ---- deciding -------------------------------------------------------------------------------- */

/* Says how far this side is, and waits for the other to come as far. False when the run is over. */
static bool meet(struct run *run, _Atomic uint64_t *mine, const _Atomic uint64_t *other, uint64_t at)
{
	atomic_store(mine, at);
	for (unsigned i = 0; atomic_load(other) < at; i++) {
		if (atomic_load(&run->stop))
			return false;
		if (i % SPINS == SPINS - 1)
			sched_yield(); /* for a machine with one free processor */
	}
	return true;
}

/* A random moment, with stores under way that take their time. */
static void burdened_delay(uint64_t *random, unsigned char *ballast)
{
	delay(random);
	for (unsigned i = 0; i < BALLAST_STORES; i++)
		*(volatile unsigned char *)(ballast + base_rand_below(random, BALLAST_BYTES / 2)) = 1;
}

static void *deciding_client(void *argument)
{
	struct run *run = argument;
	struct shm_client_end *end = &run->pair.client;
	struct attnd_request request = { .op = ATTND_OP_NOP };
	struct attnd_completion completion;
	uint64_t random = 3;

	for (uint64_t at = 1; meet(run, &run->client_at, &run->daemon_at, at); at += 2) {
		burdened_delay(&random, run->ballast);
		(void)shm_sub_put(end, &request);
		shm_bell_notify_with(end, run->fence);
		if (!meet(run, &run->client_at, &run->daemon_at, at + 1))
			break;
		while (shm_cpl_take(end, &completion))
			;
		end->ring_due = false; /* consuming does not ring here: the decision is about the record */
	}
	return NULL;
}

/* Until the time is over, or until a wake-up is lost. */
static void decide(struct run *run, shm_fence_fn *fence, int64_t limit_ns)
{
	struct shm_daemon_end *end = &run->pair.daemon;
	struct attnd_completion completion = { .flags = ATTND_CPL_FINAL };
	struct attnd_request request;
	uint64_t random = 4, rings;
	pthread_t thread;

	run_begin(run, fence, limit_ns);
	run->ballast = calloc(1, BALLAST_BYTES);
	assert_non_null(run->ballast);
	assert_int_equal(pthread_create(&thread, NULL, deciding_client, run), 0);
	for (uint64_t at = 1; !run->lost && (run->rounds % 64 || base_monotonic_ns() < run->end_ns); at += 2) {
		bool sleeps, rung;

		meet(run, &run->daemon_at, &run->client_at, at);
		burdened_delay(&random, run->ballast + BALLAST_BYTES / 2);
		sleeps = shm_bell_prepare_sleep_with(&end, 1, fence);
		meet(run, &run->daemon_at, &run->client_at, at + 1);
		rung = read(run->pair.bell_fd, &rings, sizeof(rings)) == sizeof(rings);
		run->daemon_sleeps += sleeps;
		run->lost += sleeps && !rung;
		run->rounds++;
		shm_bell_awake(&end, 1);
		assert_true(shm_sub_take(end, &request));
		(void)shm_cpl_put(end, &completion);
	}
	atomic_store(&run->stop, 1);
	pthread_join(thread, NULL);
	free(run->ballast);
	run_end(run);
}

static void with_the_fence_no_wake_up_is_lost(void **state)
{
	struct run run;

	(void)state;
	decide(&run, shm_fence, 4 * second);
	assert_true(run.rounds > 0);
	assert_int_equal(run.lost, 0);
}

static void without_the_fence_one_is_lost(void **state)
{
	struct run run;

	(void)state;
	if (!RACES_ARE_REAL)
		skip();
	decide(&run, no_fence, 60 * second);
	assert_true(run.lost > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sleepers_are_always_woken),
		cmocka_unit_test(with_the_fence_no_wake_up_is_lost),
		cmocka_unit_test(without_the_fence_one_is_lost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
