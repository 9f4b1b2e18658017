/*
 * The daemon's side of a client's two segments: made, mapped, sealed, and later thrown away;
 * never used for a second client.
 *
 * The control role calls these (they allocate and make system calls); the front's thread then
 * uses the pointers. Limits are the caller's policy: what is above SHM_SLOTS_MAX or
 * SHM_ARENA_BYTES_MAX is refused here, everything below is made.
 *
 * What the client gets: W, readable and writable, sealed against shrinking, growing and further
 * seals; R, a read-only descriptor of a file of mode 0400 that is sealed against future writing
 * too, so that reopening it for writing fails for other users and is useless for everyone.
 */
#ifndef SHM_SEGMENT_H
#define SHM_SEGMENT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/base_view.h"
#include "shm-ipc/shm_layout.h"
#include "shm-ipc/shm_ring.h"

struct shm_segment_options {
	uint32_t submission_slots, completion_slots; /* powers of two, SHM_SLOTS_MIN .. SHM_SLOTS_MAX */
	uint64_t arena_bytes;   /* SHM_ARENA_BYTES_MIN .. SHM_ARENA_BYTES_MAX; rounded up to whole pages */
	uint64_t boot_id;
	uint32_t client;        /* for logs */
	uint32_t max_in_flight; /* > 0; cut to half of completion_slots */
	int node;               /* NUMA node of the memory; < 0: anywhere */
	bool huge;              /* try 2 MB pages for W */
	uint32_t devices;       /* whose timelines lie in R, */
	uint32_t timelines;     /* so many of each: a power of two; 0: none */
};

struct shm_segment {
	int write_fd, read_fd;        /* what the client is given; -1 once closed */
	unsigned char *write_memory, *read_memory;
	struct shm_daemon_head head;  /* private copy; constant */
	unsigned char *arena;         /* in W */
	struct base_view_own_head *view; /* in R: what the client sees of its requests; NULL: nothing */
	bool huge;                    /* W lies on 2 MB pages */
	char huge_why[96];            /* asked for and not huge: why; else "" */
	int fault_handle;
	_Atomic int faulted;          /* 1 after a read of W raised SIGBUS: drop the client */
};

/* Memory that a client with these options costs, both segments; 0 when they are not valid. For
 * quotas, before anything is made. */
uint64_t shm_segment_cost(const struct shm_segment_options *options);

/* Makes both segments, maps and prefaults them, seals them, fills in R's head, and registers W
 * with base_fault. *segment must stay where it is until destroyed. -EINVAL, -ENOMEM, -ENOSPC,
 * -EMFILE with a message; nothing is left behind then. */
int shm_segment_create(struct shm_segment *segment, const struct shm_segment_options *options);
/* Closes the two descriptors once they were sent; the memory stays. */
void shm_segment_close_fds(struct shm_segment *segment);
/* Unmaps. The caller has made sure that no thread and no device still uses the memory. */
void shm_segment_destroy(struct shm_segment *segment);

/* The daemon's end of the rings. wakes_per_second and wakes_burst limit the futex wakes; 0:
 * 100,000 and 64. -ENOMEM with a message. */
int shm_daemon_end_create(struct shm_daemon_end *end, const struct shm_segment *segment,
	uint32_t wakes_per_second, uint32_t wakes_burst);
void shm_daemon_end_destroy(struct shm_daemon_end *end);

/* Tells the client (enum shm_state), and wakes it so that it notices. */
void shm_daemon_end_state(struct shm_daemon_end *end, enum shm_state state);

/* The memory that a record names: *memory is NULL for an empty range. False when it does not lie
 * in the arena. */
static inline bool shm_arena_range(const struct shm_segment *segment, uint32_t offset_units,
	uint32_t size_bytes, void **memory)
{
	uint64_t offset = (uint64_t)offset_units * ATTND_UNIT_BYTES;

	*memory = NULL;
	if (size_bytes == 0)
		return true;
	if (offset > segment->head.arena_bytes || size_bytes > segment->head.arena_bytes - offset)
		return false;
	*memory = segment->arena + offset;
	return true;
}

/* Whether a head is consistent: sizes in their limits, every part aligned and inside its
 * segment, no two overlapping. 0, or -EPROTO with a message. The client checks what it was sent;
 * the daemon what it made. */
int shm_head_check(const struct shm_daemon_head *head);

#endif
