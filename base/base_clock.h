/*
 * Time, injected. Everything that asks for the time holds a struct base_clock; the daemon gives it one that
 * reads the time stamp counter where that is safe (invariant TSC) and CLOCK_MONOTONIC elsewhere, the simulator
 * gives it one that it moves itself.
 *
 * All values are nanoseconds of the daemon's CLOCK_MONOTONIC. One clock belongs to one thread: re-anchoring
 * against the kernel's clock writes to it.
 */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>

#include "base/base_int.h"

enum base_clock_kind { BASE_CLOCK_MONOTONIC, BASE_CLOCK_TSC, BASE_CLOCK_FAKE };

struct base_clock {
	enum base_clock_kind kind;
	uint64_t anchor_tsc;
	int64_t anchor_ns;
	uint64_t ns_per_tick_q32; /* nanoseconds per counter tick, 32 fractional bits */
	uint64_t reanchor_ticks;  /* re-anchor after so many ticks (about 100 ms) */
	int64_t last_ns;          /* never goes back */
	int64_t fake_ns;          /* BASE_CLOCK_FAKE: set by its owner */
};

/* Starts a clock for the calling thread: TSC where /proc/cpuinfo's flags allow it, else monotonic. The TSC
 * rate is measured once per process (about 10 ms, on the first call). */
void base_clock_init(struct base_clock *clock);
void base_clock_init_fake(struct base_clock *clock, int64_t start_ns);

/* Slow path of base_clock_now; not for callers. */
int64_t base_clock_now_slow(struct base_clock *clock);

/* Now, in nanoseconds. No system call except once per re-anchor interval. */
static inline int64_t base_clock_now(struct base_clock *clock)
{
#if defined(__x86_64__)
	if (clock->kind == BASE_CLOCK_TSC) {
		uint64_t ticks = __builtin_ia32_rdtsc() - clock->anchor_tsc;

		if (ticks < clock->reanchor_ticks) {
			int64_t now_ns = clock->anchor_ns +
				(int64_t)(((base_u128)ticks * clock->ns_per_tick_q32) >> 32);

			if (now_ns < clock->last_ns)
				now_ns = clock->last_ns;
			clock->last_ns = now_ns;
			return now_ns;
		}
	}
#endif
	if (clock->kind == BASE_CLOCK_FAKE)
		return clock->fake_ns;
	return base_clock_now_slow(clock);
}

/* CLOCK_MONOTONIC straight from the kernel, for cold paths. */
int64_t base_monotonic_ns(void);

#endif
