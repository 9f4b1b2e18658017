/*
 * How long the way to the daemon and back takes, how its clock stands against ours, and when to ask again.
 *
 * Pure; one thread. What the other side says about times may be anything: what cannot be is not taken.
 */
#ifndef NET_PACE_H
#define NET_PACE_H

#include "netio/net_wire.h"

#define NET_NEVER INT64_MAX

/* ---- round trips and clocks --------------------------------------------------------------------------------- */

/* All zero: nothing is known. */
struct net_pace {
	int64_t trip_ns;                 /* smoothed; 0: not measured */
	int64_t offset_ns;               /* the daemon's clock less ours */
	int64_t half_ns, sampled_ns;     /* of the sample that the offset comes from: half its round trip, and when */
	bool is_sampled;
};

/* Takes what came back at now_ns (our clock) of what was sent at times->sender_ns. What was sent more than once, the same each time, says
 * nothing about the length of a round trip (Karn, Partridge 1987), but between which two times the other clock was read. False: that
 * cannot be. */
bool net_pace_sample(struct net_pace *pace, int64_t now_ns, const struct net_times *times, bool was_said_again);
/* How far the offset may be off by now: half the round trip of its sample, and what clocks drift apart. NET_NEVER: not measured. */
int64_t net_pace_error_ns(const struct net_pace *pace, int64_t now_ns);

/* ---- asking again ------------------------------------------------------------------------------------------- */

/* A time to do something at, later and later as long as it does not help. */
struct net_again {
	int64_t at_ns; /* NET_NEVER: nothing is waited for */
	unsigned tries;
};

/* Begins to wait, from now on, with no tries. */
void net_again_start(struct net_again *again, int64_t now_ns, int64_t wait_ns);
/* Whether it is time; if so waits on, twice as long as the last time and at most most_ns. */
bool net_again_due(struct net_again *again, int64_t now_ns, int64_t wait_ns, int64_t most_ns);

static inline void net_again_stop(struct net_again *again)
{
	*again = (struct net_again){ .at_ns = NET_NEVER };
}

#endif
