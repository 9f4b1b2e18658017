/*
 * The system calls of the doorbells, and the daemon's way to sleep over many clients. shm_bell.h
 * has the protocol and says who may call what.
 */
#include "shm-ipc/shm_bell.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/base_error.h"
#include "shm-ipc/shm_segment.h"

/* ---- daemon ---------------------------------------------------------------------------------- */

/* The bell moves before the wake, so that a client that read it and has yet to sleep does not. */
static void ring_client(struct shm_daemon_line *line)
{
	atomic_fetch_add_explicit(&line->bell, 1, memory_order_release);
	(void)syscall(SYS_futex, &line->bell, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static bool rate_allows(struct shm_rate *rate, int64_t now_ns)
{
	if (rate->next_ns - now_ns > rate->burst_ns)
		return false;
	rate->next_ns = (rate->next_ns > now_ns ? rate->next_ns : now_ns) + rate->period_ns;
	return true;
}

void shm_bell_wake(struct shm_daemon_end *end, int64_t now_ns)
{
	if (!rate_allows(&end->wake_rate, now_ns)) {
		end->wakes_held += !end->wake_held;
		end->wake_held = true;
		return;
	}
	end->wake_held = false;
	end->wakes++;
	ring_client(end->line);
}

void shm_daemon_end_state(struct shm_daemon_end *end, enum shm_state state)
{
	/* Release: whoever sees CLOSED sees every completion that was put before; pairs with the
	 * acquire load of state in the client library. */
	atomic_store_explicit(&end->line->state, (uint32_t)state, memory_order_release);
	ring_client(end->line);
}

bool shm_bell_prepare_sleep_with(struct shm_daemon_end *const *ends, uint32_t count, shm_fence_fn *fence)
{
	for (uint32_t i = 0; i < count; i++)
		if (ends[i])
			shm_bell_sleep_intend(ends[i]); /* S1 */
	fence();
	for (uint32_t i = 0; i < count; i++)
		if (ends[i] && shm_daemon_has_work(ends[i])) { /* S2 */
			shm_bell_awake(ends, count);
			return false;
		}
	return true;
}

bool shm_bell_prepare_sleep(struct shm_daemon_end *const *ends, uint32_t count)
{
	return shm_bell_prepare_sleep_with(ends, count, shm_fence);
}

void shm_bell_awake(struct shm_daemon_end *const *ends, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		if (ends[i])
			shm_bell_sleep_awake(ends[i]);
}

int shm_bell_create(void)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	return fd < 0 ? base_fail(errno, "eventfd: %s", strerror(errno)) : fd;
}

/* ---- client ---------------------------------------------------------------------------------- */

void shm_bell_ring(struct shm_client_end *end)
{
	uint64_t one = 1;

	/* Non-blocking. It can fail only when the counter is full, and then the daemon was rung before. */
	(void)!write(end->bell_fd, &one, sizeof(one));
}

void shm_bell_wait_with(struct shm_client_end *end, int64_t timeout_ns, shm_fence_fn *fence)
{
	struct timespec timeout = { .tv_sec = (time_t)(timeout_ns / 1000000000),
		.tv_nsec = (long)(timeout_ns % 1000000000) };
	const struct shm_daemon_line *line = end->daemon_line;
	uint32_t bell;

	if (timeout_ns <= 0)
		return;
	/* What was consumed must not stay unpublished while this side sleeps: the daemon may need
	 * the room. */
	if (end->completions_unpublished)
		shm_client_publish(end);
	shm_bell_notify_with(end, fence);
	/* Read before S1: a ring after this makes the futex return at once. */
	bell = atomic_load_explicit(&line->bell, memory_order_acquire);
	atomic_store_explicit(&end->line->sleeping, 1, memory_order_relaxed); /* S1 */
	fence();
	if (!shm_cpl_ready(end) && /* S2 */
		atomic_load_explicit(&line->state, memory_order_relaxed) != SHM_CLOSED)
		(void)syscall(SYS_futex, &line->bell, FUTEX_WAIT, bell, &timeout, NULL, 0);
	atomic_store_explicit(&end->line->sleeping, 0, memory_order_relaxed);
}

void shm_bell_wait(struct shm_client_end *end, int64_t timeout_ns)
{
	shm_bell_wait_with(end, timeout_ns, shm_fence);
}
