/*
 * The two segments of one client, byte for byte. Both are memfds that the daemon made, sealed
 * and handed over.
 *
 *   W, which the client writes:           R, which it can only read:
 *   +--------------------------+          +--------------------------+
 *   | shm_client_line          |          | shm_daemon_head          |
 *   | submission slots [n]     |          | shm_daemon_line          |
 *   | arena                    |          | completion slots [m]     |
 *   +--------------------------+          | timelines, by device     |
 *                                         +--------------------------+
 *
 * Rings. Slots are the records themselves; a slot is full when its `lap` equals the lap of the
 * index that its reader expects (lap = 1 + index / slots, modulo 2^16, skipping 0; memory starts
 * zeroed). So a round trip moves one cache line each way.
 *   R1  writer stores the record's other 62 bytes, then `lap` with release;
 *   A1  reader loads `lap` with acquire, then copies the record once. Pairs with R1.
 *   R2  reader publishes its consumer index with release, now and then (a quarter of the ring);
 *   A2  writer, when the ring looks full, loads that index with acquire. Pairs with R2. The daemon
 *       clamps what it reads: an index that claims more than was produced counts as "nothing new",
 *       and hurts that client alone.
 *
 * Sleeping. S1: a side that is about to sleep stores its `sleeping` word, then a full fence,
 * then looks at its ring once more (S2).
 * W1: a side that published does a full fence, then loads the other's `sleeping` (W2), and rings
 * if set. Either S2 sees the record or W2 sees the flag; the fence pairs with the fence. While
 * both spin there is no system call; the fence costs the writer some 20 cycles, so the daemon
 * does it once per batch of completions.
 *   client -> daemon: one eventfd per client, which the daemon watches edge-triggered by epoll and
 *     never reads, writes or blocks on.
 *   daemon -> client: futex wake on daemon_line.bell, which the client waits on through its
 *     read-only mapping. At most one per poll and client, and rate-limited.
 */
#ifndef SHM_LAYOUT_H
#define SHM_LAYOUT_H

#include <stdalign.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "attnd/record.h"

enum {
	SHM_VERSION = 1,
	SHM_SLOTS_MIN = 16,
	SHM_SLOTS_MAX = 65536, /* powers of two */
	SHM_ARENA_BYTES_MIN = 1 << 16,
};
#define SHM_MAGIC UINT64_C(0x31303064746e7461) /* "atntd001" */
#define SHM_ARENA_BYTES_MAX (UINT64_C(1) << 36)

/* W, offset 0: written by the client alone. */
struct shm_client_line {
	alignas(128) _Atomic uint64_t completions_taken; /* consumer index of the completion ring (R2) */
	_Atomic uint32_t sleeping;                       /* S1: 1 while the client is about to sleep or asleep */
	uint32_t reserved;
	alignas(128) unsigned char end[];
};

/* R, offset 0: constant after attach. */
struct shm_daemon_head {
	uint64_t magic;
	uint32_t version, struct_bytes;
	uint64_t boot_id;
	uint32_t client;              /* the daemon's number for this client, for logs */
	uint32_t max_in_flight;       /* accepted and not completed */
	uint32_t submission_slots, completion_slots;
	uint64_t submission_offset;   /* in W */
	uint64_t arena_offset, arena_bytes; /* in W */
	uint64_t line_offset;         /* struct shm_daemon_line, in R */
	uint64_t completion_offset;   /* in R */
	uint64_t write_bytes, read_bytes; /* whole segments */
	uint64_t counters_offset;     /* struct shm_counters, in R */
};

/* R: written by the daemon while it serves. */
struct shm_daemon_line {
	alignas(128) _Atomic uint64_t submissions_taken; /* consumer index of the submission ring (R2) */
	alignas(128) _Atomic uint32_t sleeping;          /* S1: 1 while the daemon's thread is about to sleep or asleep */
	_Atomic uint32_t bell;                           /* incremented, then futex-woken */
	_Atomic uint32_t state;                          /* enum shm_state */
	alignas(128) unsigned char end[];
};

enum shm_state { SHM_SERVING = 1, SHM_DRAINING = 2, SHM_CLOSED = 3 };

/* R: what a client can read of its own traffic without asking. Relaxed stores. */
struct shm_counters {
	alignas(128) _Atomic uint64_t requests, completions, stream_completions;
	_Atomic uint64_t rejected;    /* records that never reached the scheduler */
	_Atomic uint64_t wakes;       /* times the daemon rang */
	_Atomic uint64_t wakes_held;  /* rings suppressed by the rate limit */
	_Atomic uint64_t parked;      /* completions held back because the ring was full */
	_Atomic uint64_t view_offset; /* struct base_view_own_head, in R, a multiple of 64; 0: none. Constant after attach */
	_Atomic uint64_t reserved[8];
};

static inline uint16_t shm_lap(uint64_t index, uint32_t slots)
{
	return (uint16_t)(1 + (index / slots) % 65535);
}

#endif
