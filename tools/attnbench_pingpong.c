/*
 * What two threads on two processors can do at all. See attnbench_pingpong.h.
 */
#include "tools/attnbench_pingpong.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/base_clock.h"
#include "base/base_error.h"
#include "tools/tool_cpu.h"

/* The two words are on line pairs of their own. STOP as the word's value ends the other side. */
struct table {
	alignas(128) _Atomic uint32_t ping;
	alignas(128) _Atomic uint32_t pong;
	alignas(128) int sockets[2];
	enum attnbench_pair pair;
	int other_cpu;
};

enum { STOP = 0, MESSAGE_BYTES = 64 };

static void futex(_Atomic uint32_t *word, int operation, uint32_t value)
{
	syscall(SYS_futex, word, operation | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}

/* ---- one side's wait and send, by kind. P1 stores a word with release; P2 loads it with
 * acquire. ---- */

/* Waits until the word is no longer `old`; returns what it is then. */
static uint32_t await_change(_Atomic uint32_t *word, uint32_t old, bool sleeps)
{
	uint32_t now;

	while ((now = atomic_load_explicit(word, memory_order_acquire)) ==
		old) { /* P2, pairs with P1 */
		if (sleeps)
			futex(word, FUTEX_WAIT, old);
	}
	return now;
}

static void publish(_Atomic uint32_t *word, uint32_t value, bool sleeps)
{
	atomic_store_explicit(word, value, memory_order_release); /* P1, pairs with P2 */
	if (sleeps)
		futex(word, FUTEX_WAKE, 1);
}

static bool pass(int fd, char *message, bool receive)
{
	ssize_t done = receive ? recv(fd, message, MESSAGE_BYTES, MSG_WAITALL) :
				 send(fd, message, MESSAGE_BYTES, MSG_NOSIGNAL);

	return done == MESSAGE_BYTES;
}

static void *other_side(void *context)
{
	struct table *table = context;
	bool sleeps = table->pair == ATTNBENCH_FUTEX;
	char message[MESSAGE_BYTES];
	uint32_t seen = 1;

	if (table->other_cpu >= 0)
		tool_cpu_pin(table->other_cpu);
	if (table->pair == ATTNBENCH_UNIX) {
		while (pass(table->sockets[1], message, true) &&
			pass(table->sockets[1], message, false))
			continue;
		return NULL;
	}
	while ((seen = await_change(&table->ping, seen, sleeps)) != STOP)
		publish(&table->pong, seen, sleeps);
	return NULL;
}

/* ---- this side ---- */

static void lines(
	struct table *table, struct base_clock *clock, int64_t end_ns, struct base_hist *hist)
{
	bool sleeps = table->pair == ATTNBENCH_FUTEX;
	uint32_t turn = 1;
	int64_t before_ns = base_clock_now(clock), now_ns = before_ns;

	while (now_ns < end_ns) {
		uint32_t old = turn;

		turn = turn == UINT32_MAX ? 2 : turn + 1;
		publish(&table->ping, turn, sleeps);
		await_change(&table->pong, old, sleeps);
		now_ns = base_clock_now(clock);
		base_hist_add(hist, now_ns - before_ns);
		before_ns = base_clock_now(clock);
	}
	publish(&table->ping, STOP, sleeps);
}

static void sockets(
	struct table *table, struct base_clock *clock, int64_t end_ns, struct base_hist *hist)
{
	char message[MESSAGE_BYTES] = "";
	int64_t before_ns, now_ns = 0;

	while (now_ns < end_ns) {
		before_ns = base_clock_now(clock);
		if (!pass(table->sockets[0], message, false) ||
			!pass(table->sockets[0], message, true))
			break;
		now_ns = base_clock_now(clock);
		base_hist_add(hist, now_ns - before_ns);
	}
	shutdown(table->sockets[0], SHUT_RDWR);
}

static int run(struct table *table, int64_t span_ns, struct base_hist *hist)
{
	struct base_clock clock;
	pthread_t thread;
	int err = pthread_create(&thread, NULL, other_side, table);

	if (err)
		return base_fail(err, "no thread for the ping-pong: %s", strerror(err));
	base_clock_init(&clock);
	int64_t end_ns = base_clock_now(&clock) + span_ns;

	if (table->pair == ATTNBENCH_UNIX)
		sockets(table, &clock, end_ns, hist);
	else
		lines(table, &clock, end_ns, hist);
	pthread_join(thread, NULL);
	return 0;
}

int attnbench_pingpong(
	enum attnbench_pair pair, int other_cpu, int64_t span_ns, struct base_hist *hist)
{
	struct table table = { .pair = pair, .other_cpu = other_cpu, .sockets = { -1, -1 } };

	atomic_init(&table.ping, 1);
	atomic_init(&table.pong, 1);
	if (pair == ATTNBENCH_UNIX &&
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, table.sockets))
		return base_fail(errno, "no socket pair: %s", strerror(errno));
	int err = run(&table, span_ns, hist);

	if (table.sockets[0] >= 0) {
		close(table.sockets[0]);
		close(table.sockets[1]);
	}
	return err;
}
