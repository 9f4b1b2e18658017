/*
 * Session handles: what a client gets from OPEN and shows again with every request. The front reads
 * the device out of one to route the request; only the scheduler trusts none of it and looks the
 * session up.
 *
 *   63      52 51    44 43        20 19         0
 *   boot tag   device   generation   index        generation >= 1, so that a handle is never 0
 *
 * Generations begin where boot id and index say, so that a handle of an earlier life is nobody's even where the tags are the same.
 */
#ifndef SCHED_HANDLE_H
#define SCHED_HANDLE_H

#include <stdint.h>

enum {
	SCHED_INDEX_BITS = 20,
	SCHED_GENERATION_BITS = 24,
	SCHED_DEVICE_BITS = 8,
	SCHED_BOOT_BITS = 12
};
enum {
	SCHED_GENERATION_AT = SCHED_INDEX_BITS,
	SCHED_DEVICE_AT = SCHED_GENERATION_AT + SCHED_GENERATION_BITS,
	SCHED_BOOT_AT = SCHED_DEVICE_AT + SCHED_DEVICE_BITS
};
_Static_assert(SCHED_BOOT_AT + SCHED_BOOT_BITS == 64, "a handle is one word");

static inline uint32_t sched_handle_device(uint64_t handle)
{
	return (uint32_t)(handle >> SCHED_DEVICE_AT) & ((1u << SCHED_DEVICE_BITS) - 1);
}

#endif
