/*
 * Round trips, clocks, asking again. See net_pace.h.
 */
#include "netio/net_pace.h"

enum {
	DRIFT_SHIFT = 13, /* clocks drift apart by less than 2^-13, 122 millionths */
	TRIP_SHIFT = 3,   /* an eighth of a new round trip goes into the smoothed one, as in TCP (RFC 6298) */
	TRIES_MAX = 20,   /* doublings that are counted */
};
#define OFFSET_MAX_NS (INT64_MAX / 4) /* no sum with a time overflows */

static int64_t drifted(const struct net_pace *pace, int64_t now_ns)
{
	return pace->half_ns + ((now_ns - pace->sampled_ns) >> DRIFT_SHIFT);
}

bool net_pace_sample(struct net_pace *pace, int64_t now_ns, const struct net_times *times, bool was_said_again)
{
	int64_t there_ns, held_ns, trip_ns = now_ns - times->sender_ns;

	if (__builtin_sub_overflow(times->received_ns, times->sender_ns, &there_ns) || there_ns > OFFSET_MAX_NS || there_ns < -OFFSET_MAX_NS)
		return false;
	if (__builtin_sub_overflow(times->sent_ns, times->received_ns, &held_ns) || held_ns < 0 || held_ns > trip_ns)
		return false;
	trip_ns -= held_ns;
	if (!was_said_again)
		pace->trip_ns += pace->trip_ns > 0 ? (trip_ns - pace->trip_ns) >> TRIP_SHIFT : trip_ns;
	/* The shortest way says most about the clock, until it is so old that a longer one says more. */
	if (!pace->is_sampled || trip_ns / 2 <= drifted(pace, now_ns)) {
		pace->offset_ns = there_ns - trip_ns / 2;
		pace->half_ns = trip_ns / 2;
		pace->sampled_ns = now_ns;
	}
	pace->is_sampled = true;
	return true;
}

int64_t net_pace_error_ns(const struct net_pace *pace, int64_t now_ns)
{
	return pace->is_sampled ? drifted(pace, now_ns) : NET_NEVER;
}

/* ---- asking again ------------------------------------------------------------------------------------------- */

void net_again_start(struct net_again *again, int64_t now_ns, int64_t wait_ns)
{
	*again = (struct net_again){ .at_ns = now_ns + wait_ns };
}

bool net_again_due(struct net_again *again, int64_t now_ns, int64_t wait_ns, int64_t most_ns)
{
	if (now_ns < again->at_ns)
		return false;
	again->tries += again->tries < TRIES_MAX;
	wait_ns = wait_ns < most_ns >> again->tries ? wait_ns << again->tries : most_ns;
	again->at_ns = now_ns + wait_ns;
	return true;
}
