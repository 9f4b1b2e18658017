/*
 * Clocks. The rate of the time stamp counter is measured once per process; each clock then reads counter and
 * kernel clock together every 100 ms, and takes both its new anchor and its new rate from that.
 *
 * Error: the two readings of a pair lie within about 30 ns of each other, so the rate over 100 ms is good to
 * 1 ppm, and a value is off by at most about 100 ns just before the next anchor. Where a new anchor lies
 * behind the last value, time stands still until it is passed; it never goes back.
 */
#include "base/base_clock.h"

#include "base/base_cpu.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

int64_t base_monotonic_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

#if defined(__x86_64__)

enum {
	CALIBRATION_NS = 10000000, /* for the first rate, and the first interval that relies on it */
	REANCHOR_NS = 100000000,
	PAIR_TRIES = 5,
	RATE_TOLERANCE_BITS = 10, /* the kernel's clock is slewed by 500 ppm at most; 1/1024 leaves room */
};

/* One instant, told by both clocks. */
struct clock_pair {
	uint64_t tsc;
	int64_t ns;
};

static pthread_once_t process_once = PTHREAD_ONCE_INIT;
static uint64_t process_rate_q32; /* 0: the counter is not to be used */

/* Of several tries the one with the least time between its two looks at the counter. */
static struct clock_pair read_pair(void)
{
	struct clock_pair best = {0, 0};
	uint64_t best_ticks = UINT64_MAX;

	for (int i = 0; i < PAIR_TRIES; i++) {
		uint64_t before = __builtin_ia32_rdtsc();
		int64_t ns = base_monotonic_ns();
		uint64_t ticks = __builtin_ia32_rdtsc() - before;

		if (ticks < best_ticks) {
			best_ticks = ticks;
			best = (struct clock_pair){before + ticks / 2, ns};
		}
	}
	return best;
}

static uint64_t rate_between(struct clock_pair from, struct clock_pair to)
{
	return (uint64_t)(((base_u128)(uint64_t)(to.ns - from.ns) << 32) / (to.tsc - from.tsc));
}

static uint64_t ticks_in(int64_t ns, uint64_t rate_q32)
{
	return (uint64_t)(((base_u128)(uint64_t)ns << 32) / rate_q32);
}

/* The first bytes of a file as text; "" where it cannot be read. */
static void read_head(const char *path, char *text, size_t text_bytes)
{
	FILE *file = fopen(path, "re");

	text[0] = '\0';
	if (!file)
		return;
	text[fread(text, 1, text_bytes - 1, file)] = '\0';
	fclose(file);
}

/* CPUID promises a steady counter; the kernel also knows whether it goes on in deep sleep, and it leaves the
 * counter for a slow clock where it has seen the sockets disagree. */
static bool counter_is_safe(void)
{
	static const char *const distrusting[] = {"hpet", "acpi_pm", "jiffies"};
	char text[8192];

	if (!base_cpu()->invariant_tsc)
		return false;
	read_head("/proc/cpuinfo", text, sizeof(text));
	if (!strstr(text, " constant_tsc ") || !strstr(text, " nonstop_tsc "))
		return false;
	read_head("/sys/devices/system/clocksource/clocksource0/current_clocksource", text, sizeof(text));
	for (size_t i = 0; i < sizeof(distrusting) / sizeof(distrusting[0]); i++)
		if (strstr(text, distrusting[i]))
			return false;
	return true;
}

static void calibrate_once(void)
{
	const struct timespec pause = {.tv_nsec = CALIBRATION_NS};
	struct clock_pair from, to;

	if (!counter_is_safe())
		return;
	from = read_pair();
	nanosleep(&pause, NULL);
	to = read_pair();
	if (to.tsc > from.tsc && to.ns > from.ns)
		process_rate_q32 = rate_between(from, to);
}

static void set_anchor(struct base_clock *clock, struct clock_pair at, int64_t interval_ns)
{
	clock->anchor_tsc = at.tsc;
	clock->anchor_ns = at.ns;
	clock->reanchor_ticks = ticks_in(interval_ns, clock->ns_per_tick_q32);
}

static bool rate_is_sane(uint64_t rate_q32)
{
	uint64_t tolerance = process_rate_q32 >> RATE_TOLERANCE_BITS;

	return rate_q32 > process_rate_q32 - tolerance && rate_q32 < process_rate_q32 + tolerance;
}

/* After a suspended or migrated machine the two clocks tell different stories; then only the anchor is new. */
static void reanchor(struct base_clock *clock)
{
	struct clock_pair from = {clock->anchor_tsc, clock->anchor_ns}, to = read_pair();

	if (to.tsc > from.tsc && to.ns - from.ns >= CALIBRATION_NS / 2) {
		uint64_t rate_q32 = rate_between(from, to);

		clock->ns_per_tick_q32 = rate_is_sane(rate_q32) ? rate_q32 : process_rate_q32;
	}
	set_anchor(clock, to, REANCHOR_NS);
}

void base_clock_init(struct base_clock *clock)
{
	*clock = (struct base_clock){.kind = BASE_CLOCK_MONOTONIC};
	pthread_once(&process_once, calibrate_once);
	if (process_rate_q32 == 0)
		return;
	clock->kind = BASE_CLOCK_TSC;
	clock->ns_per_tick_q32 = process_rate_q32;
	set_anchor(clock, read_pair(), CALIBRATION_NS);
	clock->last_ns = clock->anchor_ns;
}

#else

static void reanchor(struct base_clock *clock)
{
	(void)clock;
}

void base_clock_init(struct base_clock *clock)
{
	*clock = (struct base_clock){.kind = BASE_CLOCK_MONOTONIC};
}

#endif

void base_clock_init_fake(struct base_clock *clock, int64_t start_ns)
{
	*clock = (struct base_clock){.kind = BASE_CLOCK_FAKE, .fake_ns = start_ns};
}

int64_t base_clock_now_slow(struct base_clock *clock)
{
	int64_t now_ns;

	if (clock->kind != BASE_CLOCK_TSC)
		return base_monotonic_ns();
	reanchor(clock);
	now_ns = clock->anchor_ns;
	if (now_ns < clock->last_ns)
		now_ns = clock->last_ns;
	clock->last_ns = now_ns;
	return now_ns;
}
