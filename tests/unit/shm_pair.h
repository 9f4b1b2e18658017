/*
 * Both ends of one client's rings in one process, over real segments, through one mapping: so
 * that ThreadSanitizer sees that the two ends use the same memory.
 */
#ifndef SHM_PAIR_H
#define SHM_PAIR_H

#include "shm-ipc/shm_attach.h"
#include "shm-ipc/shm_ring.h"
#include "shm-ipc/shm_segment.h"

struct shm_pair {
	struct shm_segment segment;
	struct shm_daemon_end daemon;
	struct shm_client_end client;
	int bell_fd;
};

/* Fails the test when something cannot be made. */
void shm_pair_create(struct shm_pair *pair, uint32_t submission_slots, uint32_t completion_slots,
	uint32_t max_in_flight);
void shm_pair_destroy(struct shm_pair *pair);

#endif
