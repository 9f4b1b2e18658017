/*
 * Doorbells: how a side that sleeps learns that there is something for it, and costs nothing
 * while it spins. shm_layout.h has the protocol:
 *
 *   the sleeper   S1: sleeping = 1;  full fence;  S2: looks at its ring once more;  sleeps
 *   the other     W1: publishes;     full fence;  W2: loads sleeping;               rings if it is set
 *
 * Whichever fence comes first in their common order, the side of the later one sees the other's
 * store: S2 finds the record, or W2 finds the flag.
 *
 * The daemon never reads, writes or waits on anything that a client could block: its bell is an
 * eventfd that it only watches with EPOLLIN | EPOLLET (each write of a client raises an edge,
 * whatever the counter holds), and it wakes a client by a futex in R.
 *
 * Daemon functions: the front's thread. Client functions: the client's thread.
 */
#ifndef SHM_BELL_H
#define SHM_BELL_H

#include <stdbool.h>
#include <stdint.h>

#include "shm-ipc/shm_layout.h"
#include "shm-ipc/shm_ring.h"

/* A full fence. The builtin rather than C11's fence, which gcc does not accept under
 * ThreadSanitizer; on x86 both are one locked instruction. */
static inline void shm_fence(void)
{
	__sync_synchronize();
}

/* Whoever goes to sleep or looks for a sleeper takes the fence as a parameter, so that a test
 * can leave it out and watch a wake-up get lost. Everyone else uses the functions without a
 * parameter. */
typedef void shm_fence_fn(void);

/* ---- daemon: waking clients ------------------------------------------------------------------ */

/* Slow halves of the two below; not for callers. */
void shm_bell_wake(struct shm_daemon_end *end, int64_t now_ns);

/* After a batch of completions, for each client that got some, with one shm_fence() between the
 * last put and the first check (W1). At most one futex wake; above the rate limit it is held,
 * and shm_bell_retry owes it. */
static inline void shm_bell_check(struct shm_daemon_end *end, int64_t now_ns)
{
	if (!end->wake_due)
		return;
	end->wake_due = false;
	/* W2 */
	if (atomic_load_explicit(&end->client_line->sleeping, memory_order_relaxed))
		shm_bell_wake(end, now_ns);
}

/* The same for several clients, fence included. */
static inline __attribute__((always_inline)) void shm_bell_check_all_with(
	struct shm_daemon_end *const *ends, uint32_t count, int64_t now_ns, shm_fence_fn *fence)
{
	if (count == 0)
		return;
	fence(); /* W1 */
	for (uint32_t i = 0; i < count; i++)
		shm_bell_check(ends[i], now_ns);
}

static inline void shm_bell_check_all(struct shm_daemon_end *const *ends, uint32_t count,
	int64_t now_ns)
{
	shm_bell_check_all_with(ends, count, now_ns, shm_fence);
}

/* When a held wake may be sent; INT64_MAX when none is held. The daemon must not sleep past it. */
static inline int64_t shm_bell_retry_ns(const struct shm_daemon_end *end)
{
	return end->wake_held ? end->wake_rate.next_ns - end->wake_rate.burst_ns : INT64_MAX;
}

/* Sends a held wake if its time has come and the client still sleeps. */
static inline void shm_bell_retry(struct shm_daemon_end *end, int64_t now_ns)
{
	if (end->wake_held && now_ns >= shm_bell_retry_ns(end)) {
		end->wake_held = false;
		if (atomic_load_explicit(&end->client_line->sleeping, memory_order_relaxed))
			shm_bell_wake(end, now_ns);
	}
}

/* ---- daemon: going to sleep ------------------------------------------------------------------ */

/* The three steps for one client: S1 for all clients, one shm_fence(), then S2 for all; if any
 * has work, or after the sleep, awake for all. */
static inline void shm_bell_sleep_intend(struct shm_daemon_end *end)
{
	atomic_store_explicit(&end->line->sleeping, 1, memory_order_relaxed);
}
static inline void shm_bell_sleep_awake(struct shm_daemon_end *end)
{
	atomic_store_explicit(&end->line->sleeping, 0, memory_order_relaxed);
}

/* All of it for an array (NULL entries are skipped). True: nothing to do, sleep now (epoll_wait
 * on the eventfds), then call shm_bell_awake. False: some client has work; the flags are down
 * again. */
bool shm_bell_prepare_sleep(struct shm_daemon_end *const *ends, uint32_t count);
bool shm_bell_prepare_sleep_with(struct shm_daemon_end *const *ends, uint32_t count,
	shm_fence_fn *fence);
void shm_bell_awake(struct shm_daemon_end *const *ends, uint32_t count);

/* An eventfd for one client, non-blocking, close-on-exec. -errno with a message. */
int shm_bell_create(void);

/* ---- client ---------------------------------------------------------------------------------- */

void shm_bell_ring(struct shm_client_end *end);

/* After a batch of submissions or of consumed completions: fence, look, ring. No system call
 * while the daemon is awake. */
static inline __attribute__((always_inline)) void shm_bell_notify_with(struct shm_client_end *end,
	shm_fence_fn *fence)
{
	if (!end->ring_due)
		return;
	end->ring_due = false;
	fence(); /* W1 */
	/* W2 */
	if (atomic_load_explicit(&end->daemon_line->sleeping, memory_order_relaxed))
		shm_bell_ring(end);
}

static inline void shm_bell_notify(struct shm_client_end *end)
{
	shm_bell_notify_with(end, shm_fence);
}

/* Sleeps until a completion may have come, or for timeout_ns; returns at once when there is one.
 * Spurious returns happen. */
void shm_bell_wait(struct shm_client_end *end, int64_t timeout_ns);
void shm_bell_wait_with(struct shm_client_end *end, int64_t timeout_ns, shm_fence_fn *fence);

#endif
