/*
 * Doorbells: the rate limit, held wakes, and that each side's sleep ends for each of its
 * reasons. (Lost wake-ups are the stress test's.)
 */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base_clock.h"
#include "shm-ipc/shm_bell.h"
#include "tests/unit/shm_pair.h"

static const int64_t second = 1000000000;
static const struct attnd_request nop = { .op = ATTND_OP_NOP };
static const struct attnd_completion stream = { .request_id = 1 };

static int setup(void **state)
{
	static struct shm_pair pair;

	shm_pair_create(&pair, 16, 64, 8);
	*state = &pair;
	return 0;
}

static int teardown(void **state)
{
	shm_pair_destroy(*state);
	return 0;
}

static void put_and_check(struct shm_pair *pair, int64_t now_ns)
{
	struct attnd_completion drop;
	struct shm_daemon_end *end = &pair->daemon;

	assert_true(shm_cpl_put(end, &stream));
	shm_bell_check_all(&end, 1, now_ns);
	assert_true(shm_cpl_take(&pair->client, &drop));
}

static void nobody_is_rung_who_does_not_sleep(void **state)
{
	struct shm_pair *pair = *state;
	uint64_t count;

	put_and_check(pair, 0);
	assert_int_equal(pair->daemon.wakes, 0);
	assert_true(shm_sub_put(&pair->client, &nop));
	shm_bell_notify(&pair->client);
	assert_int_equal(read(pair->bell_fd, &count, sizeof(count)), -1);
}

static void a_batch_rings_once(void **state)
{
	struct shm_pair *pair = *state;
	struct shm_daemon_end *end = &pair->daemon;
	uint64_t count;

	atomic_store(&pair->client.line->sleeping, 1);
	for (unsigned i = 0; i < 5; i++)
		assert_true(shm_cpl_put(end, &stream));
	shm_bell_check_all(&end, 1, 0);
	shm_bell_check_all(&end, 1, 0);
	assert_int_equal(end->wakes, 1);
	assert_int_equal(atomic_load(&end->line->bell), 1);

	shm_bell_sleep_intend(end);
	for (unsigned i = 0; i < 5; i++)
		assert_true(shm_sub_put(&pair->client, &nop));
	shm_bell_notify(&pair->client);
	shm_bell_notify(&pair->client);
	assert_int_equal(read(pair->bell_fd, &count, sizeof(count)), sizeof(count));
	assert_int_equal(count, 1);
}

/* A client that keeps its flag up costs at most so many system calls, and gets its held wake
 * when its time comes. */
static void wakes_are_limited_and_held_not_lost(void **state)
{
	struct shm_pair *pair = *state;
	struct shm_daemon_end *end = &pair->daemon;
	const int64_t period_ns = second / 1000;
	int64_t retry_ns;

	shm_daemon_end_destroy(end);
	assert_int_equal(shm_daemon_end_create(end, &pair->segment, 1000, 4), 0);
	atomic_store(&pair->client.line->sleeping, 1);
	assert_true(shm_bell_retry_ns(end) == INT64_MAX);
	for (unsigned i = 0; i < 20; i++)
		put_and_check(pair, second);
	assert_int_equal(end->wakes, 4);
	assert_int_equal(end->wakes_held, 1);
	retry_ns = shm_bell_retry_ns(end);
	assert_true(retry_ns == second + period_ns);
	shm_bell_retry(end, retry_ns - 1);
	assert_int_equal(end->wakes, 4);
	shm_bell_retry(end, retry_ns);
	assert_int_equal(end->wakes, 5);
	assert_true(shm_bell_retry_ns(end) == INT64_MAX);
	/* Over a long time the rate holds: 10 seconds, 1000 a second, and the burst. */
	for (int64_t now_ns = 2 * second; now_ns < 12 * second; now_ns += period_ns / 10)
		put_and_check(pair, now_ns);
	assert_in_range(end->wakes, 9990, 10020);
	/* A held wake for a client that woke by itself is dropped. */
	for (unsigned i = 0; i < 10; i++)
		put_and_check(pair, 12 * second);
	assert_true(end->wake_held);
	atomic_store(&pair->client.line->sleeping, 0);
	uint64_t wakes = end->wakes;
	shm_bell_retry(end, 13 * second);
	assert_int_equal(end->wakes, wakes);
	assert_false(end->wake_held);
}

static void the_daemon_sleeps_only_without_work(void **state)
{
	struct shm_pair *pair = *state;
	struct shm_daemon_end *ends[] = { NULL, &pair->daemon, NULL };
	struct attnd_request copy;
	struct attnd_completion drop;

	assert_true(shm_bell_prepare_sleep(ends, 3));
	assert_int_equal(atomic_load(&pair->daemon.line->sleeping), 1);
	shm_bell_awake(ends, 3);
	assert_int_equal(atomic_load(&pair->daemon.line->sleeping), 0);

	assert_true(shm_sub_put(&pair->client, &nop));
	assert_false(shm_bell_prepare_sleep(ends, 3));
	assert_int_equal(atomic_load(&pair->daemon.line->sleeping), 0);
	assert_true(shm_sub_take(&pair->daemon, &copy));
	assert_true(shm_bell_prepare_sleep(ends, 3));
	shm_bell_awake(ends, 3);

	/* Credits are work too. */
	for (unsigned i = 0; i < 16; i++)
		assert_true(shm_cpl_put(&pair->daemon, &stream));
	assert_true(shm_bell_prepare_sleep(ends, 3));
	shm_bell_awake(ends, 3);
	for (unsigned i = 0; i < 16; i++)
		assert_true(shm_cpl_take(&pair->client, &drop));
	assert_false(shm_bell_prepare_sleep(ends, 3));
	assert_int_equal(shm_cpl_credits(&pair->daemon), 16);
	assert_true(shm_bell_prepare_sleep(ends, 3));
}

/* A daemon that sleeps for want of room is woken by the client that makes room. */
static void consuming_rings_too(void **state)
{
	struct shm_pair *pair = *state;
	struct attnd_completion drop;
	uint64_t count;

	for (unsigned i = 0; i < 16; i++)
		assert_true(shm_cpl_put(&pair->daemon, &stream));
	shm_bell_sleep_intend(&pair->daemon);
	for (unsigned i = 0; i < 16; i++)
		assert_true(shm_cpl_take(&pair->client, &drop));
	shm_bell_notify(&pair->client);
	assert_int_equal(read(pair->bell_fd, &count, sizeof(count)), sizeof(count));
}

/* The daemon watches its bell by its edges alone, so a client that never lets it be empty, fills
 * it up, or makes it blocking changes nothing: every ring is an edge. */
static void a_bell_that_nobody_reads_still_rings(void **state)
{
	struct shm_pair *pair = *state;
	struct epoll_event event = { .events = EPOLLIN | EPOLLET };
	uint64_t almost_full = UINT64_MAX - 1 - 8;
	int epoll = epoll_create1(EPOLL_CLOEXEC);

	assert_true(epoll >= 0);
	assert_int_equal(epoll_ctl(epoll, EPOLL_CTL_ADD, pair->bell_fd, &event), 0);
	assert_int_equal(write(pair->bell_fd, &almost_full, sizeof(almost_full)), sizeof(almost_full));
	assert_int_equal(epoll_wait(epoll, &event, 1, 0), 1);
	for (unsigned i = 0; i < 8; i++) {
		assert_int_equal(epoll_wait(epoll, &event, 1, 0), 0);
		shm_bell_ring(&pair->client);
		assert_int_equal(epoll_wait(epoll, &event, 1, 0), 1);
	}
	/* Full now: ringing returns at once. */
	shm_bell_ring(&pair->client);
	assert_int_equal(epoll_wait(epoll, &event, 1, 0), 0);
	close(epoll);
}

/* ---- the client's sleep ---------------------------------------------------------------------- */

static void a_wait_times_out(void **state)
{
	struct shm_pair *pair = *state;
	int64_t start_ns = base_monotonic_ns(), took_ns;

	shm_bell_wait(&pair->client, 20000000);
	took_ns = base_monotonic_ns() - start_ns;
	assert_true(took_ns >= 19000000);
	assert_int_equal(atomic_load(&pair->client.line->sleeping), 0);
	shm_bell_wait(&pair->client, 0);
	shm_bell_wait(&pair->client, -5);
}

static void a_wait_with_something_there_does_not_sleep(void **state)
{
	struct shm_pair *pair = *state;
	int64_t start_ns = base_monotonic_ns();

	assert_true(shm_cpl_put(&pair->daemon, &stream));
	shm_bell_wait(&pair->client, 30 * second);
	shm_daemon_end_state(&pair->daemon, SHM_CLOSED);
	shm_bell_wait(&pair->client, 30 * second);
	assert_true(base_monotonic_ns() - start_ns < 10 * second);
}

struct sleeper {
	struct shm_pair *pair;
	struct shm_client_end *end;
	int64_t woke_ns;
};

static void *sleep_until_ready(void *argument)
{
	struct sleeper *sleeper = argument;

	for (int64_t end_ns = base_monotonic_ns() + 20 * second; base_monotonic_ns() < end_ns;) {
		shm_bell_wait(sleeper->end, 20 * second);
		if (shm_cpl_ready(sleeper->end) ||
			atomic_load(&sleeper->end->daemon_line->state) == SHM_CLOSED)
			break;
	}
	sleeper->woke_ns = base_monotonic_ns();
	return NULL;
}

static void wait_for_sleep(struct shm_pair *pair)
{
	while (!atomic_load(&pair->client.line->sleeping))
		usleep(1000);
	usleep(20000);
}

/* Through a read-only mapping of the descriptor that a client gets, as in another process. */
static void a_wake_reaches_a_read_only_mapping(void **state)
{
	struct shm_pair *pair = *state;
	struct shm_daemon_end *end = &pair->daemon;
	const struct shm_daemon_head *head = &pair->segment.head;
	struct shm_connection connection = { .socket = -1, .bell_fd = pair->bell_fd,
		.write_memory = pair->segment.write_memory, .head = *head };
	struct shm_client_end client;
	struct sleeper sleeper = { .pair = pair, .end = &client };
	int64_t start_ns = base_monotonic_ns();
	pthread_t thread;

	connection.read_memory = mmap(NULL, head->read_bytes, PROT_READ, MAP_SHARED, pair->segment.read_fd, 0);
	assert_true(connection.read_memory != MAP_FAILED);
	shm_client_end_init(&client, &connection);
	assert_int_equal(pthread_create(&thread, NULL, sleep_until_ready, &sleeper), 0);
	wait_for_sleep(pair);
	assert_true(shm_cpl_put(end, &stream));
	shm_bell_check_all(&end, 1, 0);
	pthread_join(thread, NULL);
	assert_true(sleeper.woke_ns - start_ns < 10 * second);
	assert_int_equal(end->wakes, 1);
	munmap(connection.read_memory, head->read_bytes);
}

static void closing_wakes(void **state)
{
	struct shm_pair *pair = *state;
	struct sleeper sleeper = { .pair = pair, .end = &pair->client };
	int64_t start_ns = base_monotonic_ns();
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, sleep_until_ready, &sleeper), 0);
	wait_for_sleep(pair);
	shm_daemon_end_state(&pair->daemon, SHM_CLOSED);
	pthread_join(thread, NULL);
	assert_true(sleeper.woke_ns - start_ns < 10 * second);
}

#define BELL_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		BELL_TEST(nobody_is_rung_who_does_not_sleep),
		BELL_TEST(a_batch_rings_once),
		BELL_TEST(wakes_are_limited_and_held_not_lost),
		BELL_TEST(the_daemon_sleeps_only_without_work),
		BELL_TEST(consuming_rings_too),
		BELL_TEST(a_bell_that_nobody_reads_still_rings),
		BELL_TEST(a_wait_times_out),
		BELL_TEST(a_wait_with_something_there_does_not_sleep),
		BELL_TEST(a_wake_reaches_a_read_only_mapping),
		BELL_TEST(closing_wakes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
