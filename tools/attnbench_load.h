/*
 * The load generator: one spinning thread that asks over and over and books every answer.
 *
 *   closed loop   so many requests are kept out; the next goes when one comes back
 *   open loop     requests go at intended times, whatever the service does, and latency counts
 *                 from the intended time, so that a stall shows in every request that it delayed
 *                 (Gil Tene's "coordinated omission")
 *
 * Everything is allocated before a loop starts; a loop makes no system call.
 */
#ifndef ATTNBENCH_LOAD_H
#define ATTNBENCH_LOAD_H

#include <stdbool.h>
#include <stdint.h>

#include "attnd/attnd.h"
#include "base/base_clock.h"
#include "base/base_hist.h"

enum { ATTNBENCH_SLOTS_MAX = 1024 };

/* The parts of a request's way, cut at the times in its completion. */
enum attnbench_part {
	ATTNBENCH_WAY_IN,  /* sent, until the front saw it */
	ATTNBENCH_ADMIT,   /* until the scheduler took it */
	ATTNBENCH_WAIT,    /* until its first work went to the device */
	ATTNBENCH_RUN,     /* until its result was complete */
	ATTNBENCH_WAY_OUT, /* until it was seen here */
	ATTNBENCH_PARTS
};

/* What is asked. */
struct attnbench_target {
	void *context;
	uint32_t slots; /* requests that may be out at once, each with memory of its own */
	/* Writes the request that uses this slot's memory, and before it any that must go first
	 * (such as TRUNCATE); returns how many. request_id, class and deadline are filled in by
	 * the loop. NULL fields cost nothing. */
	unsigned (*fill)(void *context, uint32_t slot, struct attnd_request requests[2]);
	uint8_t priority_class;
	int64_t deadline_ns; /* from the intended time; 0: none */
};

struct attnbench_result {
	uint64_t answered; /* with ATTND_OK */
	uint64_t late;     /* of these: after their deadline, and flagged so */
	uint64_t failed[ATTND_STATUS_END];
	/* Open loop: intended sends, those that this generator itself was late for, and those that
	 * waited because the service had no room. */
	uint64_t scheduled, missed, held_back;
	int64_t span_ns;
	struct base_hist latency, parts[ATTNBENCH_PARTS];
	/* Streams: latency is to the first token; between two, and to the end of the answer. */
	struct base_hist between, whole;
	uint64_t tokens;
};

/* When the next request is intended to go. */
struct attnbench_pace {
	double interval_ns; /* mean */
	bool poisson;
	uint64_t random;
	double next_ns;
	int64_t tolerance_ns; /* later than this is a miss */
	int64_t excused_ns;   /* until then the service held us back */
	/* The next one: was judged for a miss; found no room. */
	bool looked, blocked;
	uint64_t scheduled, missed, held_back;
};

void attnbench_pace_start(
	struct attnbench_pace *pace, double rate, bool poisson, uint64_t seed, int64_t start_ns);
/* True when the next one is due; books a miss if that is noticed too late. */
bool attnbench_pace_due(struct attnbench_pace *pace, int64_t now_ns);
/* It was due, but there was no room for it. */
void attnbench_pace_blocked(struct attnbench_pace *pace, int64_t now_ns);
/* Its intended time; the next one takes its place. */
int64_t attnbench_pace_take(struct attnbench_pace *pace);

void attnbench_result_clear(struct attnbench_result *result);
void attnbench_result_merge(struct attnbench_result *into, const struct attnbench_result *from);
/* What the daemon's clock is ahead of ours; 0 where they are the same. */
int64_t attnbench_clock_ahead_ns(const struct attnd_client *client, struct base_clock *clock);
/* A final answer that is OK, seen at seen_ns; all times are of this side's clock but the completion's. */
void attnbench_result_add(struct attnbench_result *result, const struct attnd_completion *completion, int64_t intended_ns, int64_t sent_ns,
	int64_t seen_ns, int64_t ahead_ns);
/* More than 0.1 % of the schedule missed: the numbers say nothing. */
bool attnbench_result_void(const struct attnbench_result *result);

/* Each adds to result. 0, or -errno: the connection's error, with attnd_error(). */
int attnbench_closed(struct attnd_client *client, struct base_clock *clock,
	const struct attnbench_target *target, uint32_t in_flight, int64_t span_ns,
	struct attnbench_result *result);
int attnbench_open(struct attnd_client *client, struct base_clock *clock,
	const struct attnbench_target *target, struct attnbench_pace *pace, int64_t span_ns,
	struct attnbench_result *result);

#endif
