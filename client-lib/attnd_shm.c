/*
 * The shared-memory transport: a client's two segments and its end of the rings. Client's
 * thread. submit, poll, ready and said_closed make no system call while the daemon is awake.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"
#include "client-lib/attnd_client.h"
#include "shm-ipc/shm_attach.h"
#include "shm-ipc/shm_bell.h"
#include "shm-ipc/shm_ring.h"

struct shm_link {
	struct shm_client_end end;
	struct shm_connection connection;
};

static int link_connect(struct attnd_client *client, const char *place)
{
	const struct shm_hello sizes = { .arena_bytes = client->options.arena_bytes,
		.submission_slots = client->options.submission_slots,
		.completion_slots = client->options.completion_slots };
	struct shm_link *link = aligned_alloc(_Alignof(struct shm_link), sizeof(*link));
	int error;

	if (!link)
		return base_fail(ENOMEM, "no memory for a connection");
	error = shm_connect(&link->connection, place, &sizes, client->options.connect_timeout_ns);
	if (error) {
		free(link);
		return error;
	}
	shm_client_end_init(&link->end, &link->connection);
	client->link = link;
	client->max_in_flight = link->connection.head.max_in_flight;
	client->boot_id = link->connection.head.boot_id;
	client->arena_memory = link->connection.write_memory + link->connection.head.arena_offset;
	client->arena_bytes = link->connection.head.arena_bytes;
	return 0;
}

static void link_disconnect(struct attnd_client *client)
{
	struct shm_link *link = client->link;

	shm_disconnect(&link->connection);
	free(link);
	client->link = NULL;
}

static unsigned link_submit(void *state, const struct attnd_request *requests, unsigned count)
{
	struct shm_link *link = state;
	unsigned taken;

	for (taken = 0; taken < count; taken++) {
		struct attnd_request request = requests[taken];

		request.version = ATTND_VERSION;
		if (!shm_sub_put(&link->end, &request))
			break;
	}
	shm_bell_notify(&link->end);
	return taken;
}

static unsigned link_poll(void *state, struct attnd_completion *completions, unsigned max)
{
	struct shm_link *link = state;
	unsigned taken = 0;

	while (taken < max && shm_cpl_take(&link->end, &completions[taken]))
		taken++;
	shm_bell_notify(&link->end);
	return taken;
}

static bool link_ready(void *state)
{
	const struct shm_link *link = state;

	return shm_cpl_ready(&link->end);
}

static void link_sleep(void *state, int64_t timeout_ns)
{
	struct shm_link *link = state;

	shm_bell_wait(&link->end, timeout_ns);
}

static int link_said_closed(void *state)
{
	struct shm_link *link = state;

	/* Who only polls and never sleeps must not sit on room that a stream waits for. */
	if (link->end.completions_unpublished) {
		shm_client_publish(&link->end);
		shm_bell_notify(&link->end);
	}
	/* Acquire: completions that were put before it are seen by the poll that follows; pairs with
	 * the release in shm_daemon_end_state. */
	return atomic_load_explicit(&link->end.daemon_line->state, memory_order_acquire) == SHM_CLOSED ?
		-ENOTCONN : 0;
}

static int link_alive(void *state)
{
	const struct shm_link *link = state;

	return shm_connection_alive(&link->connection);
}

static int link_view(const void *state, struct client_view *view)
{
	const struct shm_connection *connection = &((const struct shm_link *)state)->connection;

	view->counters = (const struct shm_counters *)(const void *)(connection->read_memory + connection->head.counters_offset);
	return shm_view_own_find(&view->own, connection->read_memory, &connection->head);
}

const struct client_transport client_shm_transport = {
	.scheme = "shm",
	.connect = link_connect,
	.disconnect = link_disconnect,
	.submit = link_submit,
	.poll = link_poll,
	.ready = link_ready,
	.sleep = link_sleep,
	.said_closed = link_said_closed,
	.alive = link_alive,
	.view = link_view,
};
