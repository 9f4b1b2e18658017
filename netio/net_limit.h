/*
 * So many a second and so many at once, without a division: the time at which all that was taken will have been paid for (the virtual
 * scheduling form of the generic cell rate algorithm, ITU-T I.371, annex A). One thread.
 */
#ifndef NET_LIMIT_H
#define NET_LIMIT_H

#include <stdbool.h>
#include <stdint.h>

struct net_limit {
	int64_t paid_ns;             /* when what was taken is paid for */
	int64_t interval_ns, burst_ns;
};

/* per_second = 0: never one. At start: it divides. */
static inline void net_limit_init(struct net_limit *limit, uint32_t per_second, uint32_t burst)
{
	const int64_t interval_ns = per_second > 0 ? INT64_C(1000000000) / per_second : 0;

	*limit = (struct net_limit){ 0, interval_ns, per_second > 0 && burst > 0 ? interval_ns * (burst - 1) : -1 };
}

/* Takes one. false: not now. now_ns >= 0 never goes back. */
static inline bool net_limit_take(struct net_limit *limit, int64_t now_ns)
{
	const int64_t from_ns = limit->paid_ns > now_ns ? limit->paid_ns : now_ns;

	if (from_ns - now_ns > limit->burst_ns)
		return false;
	limit->paid_ns = from_ns + limit->interval_ns;
	return true;
}

#endif
