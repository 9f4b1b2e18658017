/*
 * Session handles: what a client gets from OPEN and shows again with every request. The front reads the device out of one to route the request;
 * only the scheduler trusts none of it and looks the session up.
 *
 *   63        40 39      28 27     20 19         0
 *   generation   boot tag   device    index        generation >= 1, so that a handle is never 0
 */
#ifndef SCHED_HANDLE_H
#define SCHED_HANDLE_H

#include <stdint.h>

#include "base/base_rand.h"

static inline uint32_t sched_boot_tag(uint64_t boot_id) { return (uint32_t)(base_mix64(boot_id) >> 52); }

static inline uint64_t sched_handle(uint32_t generation, uint32_t boot_tag, uint32_t device, uint32_t index)
{
	return (uint64_t)(generation & 0xffffff) << 40 | (uint64_t)(boot_tag & 0xfff) << 28 | (uint64_t)(device & 0xff) << 20 |
		(index & 0xfffff);
}

static inline uint32_t sched_handle_generation(uint64_t handle) { return (uint32_t)(handle >> 40); }
static inline uint32_t sched_handle_boot_tag(uint64_t handle) { return (uint32_t)(handle >> 28) & 0xfff; }
static inline uint32_t sched_handle_device(uint64_t handle) { return (uint32_t)(handle >> 20) & 0xff; }
static inline uint32_t sched_handle_index(uint64_t handle) { return (uint32_t)handle & 0xfffff; }

#endif
