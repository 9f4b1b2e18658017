/*
 * A crowd of clients of the library. See attnbench_crowd.h.
 */
#include "tools/attnbench_crowd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"
#include "tools/tool_text.h"

enum { ARENA_LEAST_BYTES = 64 << 10, LINE_BYTES = 64 };
#define DEAD_NS INT64_C(120000000000) /* a daemon that stands still beside a baseline is not dead */

/* ---- the table ----------------------------------------------------------------------------------------------- */

static int client_fd(void *self, uint32_t number)
{
	const struct attnbench_crowd_clients *clients = self;

	return attnd_fd(clients->clients[number]);
}

static int client_send(void *self, uint32_t number, const uint32_t *ids, const int64_t *intended_ns, unsigned count)
{
	const struct attnbench_crowd_clients *clients = self;
	struct attnd_request requests[ATTNBENCH_CROWD_BATCH];
	int taken;

	for (unsigned i = 0; i < count; i++)
		requests[i] = (struct attnd_request){ .op = ATTND_OP_NOP,
			.priority_class = clients->priority_class,
			.request_id = ids[i],
			.deadline_ns = clients->deadline_ns ? intended_ns[i] + clients->deadline_ns + clients->ahead_ns : 0,
			.in_offset = clients->in_offset[number],
			.in_bytes = clients->size_bytes,
			.out_offset = clients->out_offset[number],
			.out_capacity = clients->size_bytes };
	taken = attnd_submit(clients->clients[number], requests, count);
	return taken == -EAGAIN ? 0 : taken;
}

static int client_receive(void *self, uint32_t number, struct attnd_completion *completions, unsigned max)
{
	const struct attnbench_crowd_clients *clients = self;

	return attnd_poll(clients->clients[number], completions, max);
}

static int64_t client_next_ns(void *self, uint32_t number)
{
	const struct attnbench_crowd_clients *clients = self;

	return attnd_next_ns(clients->clients[number]);
}

const struct attnbench_crowd_way attnbench_crowd_clients_way = {
	.fd = client_fd, .send = client_send, .receive = client_receive, .next_ns = client_next_ns };

/* ---- life ---------------------------------------------------------------------------------------------------- */

/* All requests of a client share one input and one output: nobody looks at what is echoed. */
static void take_memory(struct attnbench_crowd_clients *clients, uint32_t number)
{
	struct attnd_client *client = clients->clients[number];
	unsigned char *in, *out;

	if (clients->size_bytes == 0)
		return;
	in = attnd_loan(client, clients->size_bytes);
	out = attnd_loan(client, clients->size_bytes);
	if (!in || !out)
		tool_die(TOOL_FAILED, "%u bytes in and out do not fit into a client's arena", clients->size_bytes);
	memset(in, 0x5a, clients->size_bytes);
	clients->in_offset[number] = attnd_offset(client, in);
	clients->out_offset[number] = attnd_offset(client, out);
}

void attnbench_crowd_clients_open(struct attnbench_crowd_clients *clients, struct tool_daemon *daemon, uint32_t count,
	struct base_clock *clock)
{
	const uint64_t arena_bytes = 4 * ((uint64_t)clients->size_bytes + LINE_BYTES);
	const struct attnd_options options = { .struct_bytes = sizeof(options),
		.arena_bytes = arena_bytes > ARENA_LEAST_BYTES ? arena_bytes : ARENA_LEAST_BYTES,
		.dead_after_ns = DEAD_NS };

	clients->clients = calloc(count, sizeof(*clients->clients));
	clients->in_offset = calloc(count, sizeof(*clients->in_offset));
	clients->out_offset = calloc(count, sizeof(*clients->out_offset));
	if (!clients->clients || !clients->in_offset || !clients->out_offset)
		tool_die(TOOL_FAILED, "no memory for %u connections", count);
	for (; clients->count < count; clients->count++) {
		tool_progress("connection %u of %u", clients->count + 1, count);
		clients->clients[clients->count] = tool_daemon_try(daemon, &options);
		if (!clients->clients[clients->count])
			tool_die(TOOL_NO_DAEMON, "connection %u of %u: %s", clients->count + 1, count, attnd_error());
		take_memory(clients, clients->count);
	}
	tool_progress(NULL);
	clients->ahead_ns = attnbench_clock_ahead_ns(clients->clients[0], clock);
}

void attnbench_crowd_clients_close(struct attnbench_crowd_clients *clients)
{
	for (uint32_t i = 0; i < clients->count; i++)
		attnd_disconnect(clients->clients[i]);
	free(clients->clients);
	free(clients->in_offset);
	free(clients->out_offset);
	clients->count = 0;
}
