/*
 * Numbers that are free: the one that was given back last is taken first, so that few are warm and the rest is never touched.
 *
 * One thread. All memory is taken at creation.
 */
#ifndef NET_SLOTS_H
#define NET_SLOTS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

struct net_slots {
	uint32_t *numbers; /* [count] are free */
	uint32_t count;
};

/* All below `limit` are free, the lowest first. -1: no memory. */
static inline int net_slots_create(struct net_slots *slots, uint32_t limit)
{
	slots->numbers = calloc(limit > 0 ? limit : 1, sizeof(*slots->numbers));
	slots->count = limit;
	for (uint32_t i = 0; slots->numbers && i < limit; i++)
		slots->numbers[i] = limit - 1 - i;
	return slots->numbers ? 0 : -1;
}

static inline void net_slots_destroy(struct net_slots *slots)
{
	free(slots->numbers);
	slots->numbers = NULL;
	slots->count = 0;
}

static inline bool net_slots_take(struct net_slots *slots, uint32_t *number)
{
	if (slots->count == 0)
		return false;
	*number = slots->numbers[--slots->count];
	return true;
}

static inline void net_slots_give(struct net_slots *slots, uint32_t number)
{
	slots->numbers[slots->count++] = number;
}

#endif
