/*
 * How long a round trip takes, next to the least it could: a bare cache line to and fro, the two
 * rings with nothing behind them, and a NOP through the client library to a fake daemon. Every
 * answer is checked; the times are only printed, because what they should be depends on the
 * machine's mood.
 */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "attnd/attnd.h"
#include "base/base_clock.h"
#include "base/base_hist.h"
#include "shm-ipc/shm_bell.h"
#include "tests/unit/client_fake_daemon.h"
#include "tests/unit/shm_pair.h"

static const int64_t run_ns = 300000000;
enum { SPINS = 20000 };

static struct base_hist hist;

static cpu_set_t allowed; /* before anything is bound */

/* The n-th processor that this process may run on; the only one when there is but one. */
static void bind_to(unsigned n)
{
	unsigned count = (unsigned)CPU_COUNT(&allowed), seen = 0;
	cpu_set_t one;

	CPU_ZERO(&one);
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &allowed) && seen++ == n % count)
			CPU_SET(cpu, &one);
	pthread_setaffinity_np(pthread_self(), sizeof(one), &one);
}

static void pause_sometimes(unsigned *spins)
{
	if (++*spins % SPINS == 0)
		sched_yield();
}

static int64_t report(const char *what)
{
	int64_t p50 = base_hist_quantile(&hist, 0.5);

	print_message("# %-24s p50 %5lld ns, p99 %5lld ns, %llu round trips\n", what, (long long)p50,
		(long long)base_hist_quantile(&hist, 0.99), (unsigned long long)hist.count);
	return p50;
}

/* ---- a bare cache line ----------------------------------------------------------------------- */

struct line { alignas(128) _Atomic uint64_t word; alignas(128) _Atomic uint32_t stop; };

static void *line_echo(void *argument)
{
	struct line *line = argument;
	unsigned spins = 0;
	uint64_t n;

	bind_to(1);
	while (!atomic_load_explicit(&line->stop, memory_order_relaxed)) {
		n = atomic_load_explicit(&line->word, memory_order_acquire);
		if (n % 2)
			atomic_store_explicit(&line->word, n + 1, memory_order_release);
		else
			pause_sometimes(&spins);
	}
	return NULL;
}

static int64_t measure_line(void)
{
	struct line line = { .word = 0 };
	struct base_clock clock;
	unsigned spins = 0;
	pthread_t thread;
	int64_t start_ns, now_ns;

	base_clock_init(&clock);
	base_hist_clear(&hist);
	assert_int_equal(pthread_create(&thread, NULL, line_echo, &line), 0);
	now_ns = base_clock_now(&clock);
	start_ns = now_ns;
	for (uint64_t n = 1; now_ns - start_ns < run_ns; n += 2) {
		int64_t sent_ns = now_ns;

		atomic_store_explicit(&line.word, n, memory_order_release);
		while (atomic_load_explicit(&line.word, memory_order_acquire) == n)
			pause_sometimes(&spins);
		now_ns = base_clock_now(&clock);
		base_hist_add(&hist, now_ns - sent_ns);
	}
	atomic_store(&line.stop, 1);
	pthread_join(thread, NULL);
	return report("cache line");
}

/* ---- the rings ------------------------------------------------------------------------------- */

struct echo { struct shm_pair pair; _Atomic uint32_t stop; };

static void *ring_echo(void *argument)
{
	struct echo *echo = argument;
	struct shm_daemon_end *end = &echo->pair.daemon;
	struct attnd_completion completion = { .flags = ATTND_CPL_FINAL };
	struct attnd_request request;
	unsigned spins = 0;

	bind_to(1);
	while (!atomic_load_explicit(&echo->stop, memory_order_relaxed)) {
		if (!shm_sub_take(end, &request)) {
			pause_sometimes(&spins);
			continue;
		}
		completion.request_id = request.request_id;
		(void)shm_cpl_put(end, &completion);
		shm_bell_check_all(&end, 1, 0);
	}
	return NULL;
}

static int64_t measure_rings(void)
{
	struct attnd_request request = { .op = ATTND_OP_NOP };
	struct attnd_completion completion;
	struct shm_client_end *end;
	struct base_clock clock;
	struct echo echo = { .stop = 0 };
	unsigned spins = 0;
	pthread_t thread;
	int64_t start_ns, now_ns;

	base_clock_init(&clock);
	base_hist_clear(&hist);
	shm_pair_create(&echo.pair, 256, 1024, 256);
	end = &echo.pair.client;
	assert_int_equal(pthread_create(&thread, NULL, ring_echo, &echo), 0);
	now_ns = base_clock_now(&clock);
	start_ns = now_ns;
	while (now_ns - start_ns < run_ns) {
		int64_t sent_ns = now_ns;

		request.request_id++;
		assert_true(shm_sub_put(end, &request));
		shm_bell_notify(end);
		while (!shm_cpl_take(end, &completion))
			pause_sometimes(&spins);
		now_ns = base_clock_now(&clock);
		if (completion.request_id != request.request_id)
			fail_msg("another request's answer");
		base_hist_add(&hist, now_ns - sent_ns);
	}
	atomic_store(&echo.stop, 1);
	pthread_join(thread, NULL);
	shm_pair_destroy(&echo.pair);
	return report("rings");
}

/* ---- the client library ---------------------------------------------------------------------- */

static bool answer(struct fake_daemon *daemon, const struct attnd_request *request, const void *in, void *out,
	struct attnd_completion *completion)
{
	(void)daemon, (void)in, (void)out;
	completion->value = request->args + 1;
	return true;
}

static int64_t measure_library(void)
{
	struct fake_daemon daemon = { .answer = answer, .spins = true };
	struct attnd_options options = { .struct_bytes = sizeof(options), .spin_ns = -1 };
	struct attnd_request request = { .op = ATTND_OP_NOP };
	struct attnd_completion completion;
	struct attnd_client *client;
	struct base_clock clock;
	int64_t start_ns, now_ns;

	base_clock_init(&clock);
	base_hist_clear(&hist);
	bind_to(1); /* the daemon's thread inherits it */
	fake_daemon_start(&daemon);
	bind_to(0);
	options.address = daemon.path;
	assert_int_equal(attnd_connect(&client, &options), 0);
	now_ns = base_clock_now(&clock);
	start_ns = now_ns;
	while (now_ns - start_ns < run_ns) {
		int64_t sent_ns = now_ns;

		request.args++;
		assert_int_equal(attnd_submit(client, &request, 1), 1);
		assert_int_equal(attnd_wait(client, &completion, 1, -1), 1);
		now_ns = base_clock_now(&clock);
		if (completion.value != request.args + 1)
			fail_msg("another request's answer");
		base_hist_add(&hist, now_ns - sent_ns);
	}
	attnd_disconnect(client);
	fake_daemon_end(&daemon, FAKE_CLOSES);
	return report("library, fake daemon");
}

static void round_trips(void **state)
{
	int64_t before, rings, library, after;

	(void)state;
	assert_int_equal(sched_getaffinity(0, sizeof(allowed), &allowed), 0);
	bind_to(0);
	before = measure_line();
	rings = measure_rings();
	library = measure_library();
	after = measure_line();
	print_message("# in cache-line round trips: rings %.2f, library %.2f%s\n",
		(double)rings * 2 / (double)(before + after), (double)library * 2 / (double)(before + after),
		before > after * 6 / 5 || after > before * 6 / 5 ? " (the machine was not quiet)" : "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trips),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
