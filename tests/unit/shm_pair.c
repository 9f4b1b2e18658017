/*
 * See shm_pair.h.
 */
#include "tests/unit/shm_pair.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/base_error.h"
#include "shm-ipc/shm_bell.h"

static void need(bool condition)
{
	if (condition)
		return;
	fprintf(stderr, "shm_pair: %s\n", base_error_message());
	exit(1);
}

void shm_pair_create(struct shm_pair *pair, uint32_t submission_slots, uint32_t completion_slots,
	uint32_t max_in_flight)
{
	const struct shm_segment_options options = { .submission_slots = submission_slots,
		.completion_slots = completion_slots, .arena_bytes = SHM_ARENA_BYTES_MIN, .boot_id = 1,
		.max_in_flight = max_in_flight, .node = -1 };
	struct shm_connection connection = { .socket = -1 };

	need(shm_segment_create(&pair->segment, &options) == 0);
	need(shm_daemon_end_create(&pair->daemon, &pair->segment, 0, 0) == 0);
	pair->bell_fd = shm_bell_create();
	need(pair->bell_fd >= 0);
	connection.bell_fd = pair->bell_fd;
	connection.write_memory = pair->segment.write_memory;
	connection.read_memory = pair->segment.read_memory;
	connection.head = pair->segment.head;
	shm_client_end_init(&pair->client, &connection);
}

void shm_pair_destroy(struct shm_pair *pair)
{
	close(pair->bell_fd);
	shm_daemon_end_destroy(&pair->daemon);
	shm_segment_destroy(&pair->segment);
}
