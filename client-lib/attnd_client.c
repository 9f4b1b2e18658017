/*
 * Connecting, disconnecting, and noticing that the daemon is gone. Client's thread; cold, except
 * that client_look is called once in so many failed polls.
 */
#include "client-lib/attnd_client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"
#include "base/base_features.h"

enum { DEFAULT_ARENA_BYTES = 16 << 20, DEFAULT_SUBMISSION_SLOTS = 256, DEFAULT_COMPLETION_SLOTS = 1024 };
#define DEFAULT_SPIN_NS INT64_C(50000)
#define DEFAULT_CONNECT_NS INT64_C(5000000000)
#define DEFAULT_DEAD_NS INT64_C(1000000000)

static const struct client_transport *const transports[] = {
	&client_shm_transport, &client_tcp_transport, &client_udp_transport, &client_unix_transport };

/* ---- options and addresses ------------------------------------------------------------------- */

/* A copy with defaults filled in. A caller built against an older, shorter struct gets defaults
 * for the rest. */
static int options_fill(struct attnd_options *to, const struct attnd_options *from)
{
	*to = (struct attnd_options){ .struct_bytes = sizeof(*to) };
	if (from && from->struct_bytes < sizeof(from->struct_bytes) + sizeof(from->address))
		return base_fail(EINVAL, "attnd_options.struct_bytes is %zu; set it to sizeof(struct attnd_options)",
			from->struct_bytes);
	if (from)
		memcpy(to, from, from->struct_bytes < sizeof(*to) ? from->struct_bytes : sizeof(*to));
	to->arena_bytes = to->arena_bytes ? to->arena_bytes : DEFAULT_ARENA_BYTES;
	to->submission_slots = to->submission_slots ? to->submission_slots : DEFAULT_SUBMISSION_SLOTS;
	to->completion_slots = to->completion_slots ? to->completion_slots : DEFAULT_COMPLETION_SLOTS;
	to->spin_ns = to->spin_ns ? to->spin_ns : DEFAULT_SPIN_NS;
	to->connect_timeout_ns = to->connect_timeout_ns > 0 ? to->connect_timeout_ns : DEFAULT_CONNECT_NS;
	to->dead_after_ns = to->dead_after_ns > 0 ? to->dead_after_ns : DEFAULT_DEAD_NS;
	return 0;
}

/* Splits "scheme:place"; a bare path is shared memory. */
static const struct client_transport *transport_of(const char *address, const char **place)
{
	for (size_t i = 0; i < sizeof(transports) / sizeof(transports[0]); i++) {
		size_t length = strlen(transports[i]->scheme);

		if (strncmp(address, transports[i]->scheme, length) == 0 && address[length] == ':') {
			*place = address + length + 1;
			return transports[i];
		}
	}
	*place = address;
	return address[0] == '/' || address[0] == '.' ? &client_shm_transport : NULL;
}

static int connect_to(struct attnd_client *client, const char *address)
{
	const char *place;
	int error;

	client->transport = transport_of(address, &place);
	if (!client->transport)
		return base_fail(EINVAL, "address \"%s\": this library knows shm:/path/of/the/socket, attnd://host:port, "
			"attnd+udp://host:port and attnd+unix:///path/of/the/socket", address);
	error = client->transport->connect(client, place);
	if (error)
		return error == -EACCES ? -EPERM : error;
	error = client_arena_create(&client->arena, client->arena_memory, client->arena_bytes);
	if (error) {
		client->transport->disconnect(client);
		return error;
	}
	client->in_flight = client->failed_polls = 0;
	client->gone = false;
	client->looked_ns = base_clock_now(client->clock);
	return 0;
}

/* The usual places, when nobody named one: the user's own daemon, then the system's. */
static int connect_default(struct attnd_client *client)
{
	const char *folder = getenv("XDG_RUNTIME_DIR");
	char address[ATTND_ADDRESS_BYTES];
	int error, length;

	if (folder && folder[0] == '/') {
		length = snprintf(address, sizeof(address), "%s/attnd/attnd.sock", folder);
		error = length < (int)sizeof(address) ? connect_to(client, address) : -ENOENT;
		if (error != -ENOENT && error != -ECONNREFUSED)
			return error;
	}
	return connect_to(client, "/run/attnd/attnd.sock");
}

static int connect_any(struct attnd_client *client)
{
	const char *named = getenv("ATTND_ADDRESS");

	if (client->address[0])
		return connect_to(client, client->address);
	return named && named[0] ? connect_to(client, named) : connect_default(client);
}

/* ---- life ------------------------------------------------------------------------------------ */

/* What the options point to is the caller's; copies count. */
static int options_keep(struct attnd_client *client)
{
	struct attnd_options *options = &client->options;

	if (options->address && strlen(options->address) >= sizeof(client->address))
		return base_fail(ENAMETOOLONG, "an address has at most %zu characters", sizeof(client->address) - 1);
	if (options->address)
		memcpy(client->address, options->address, strlen(options->address) + 1);
	options->address = NULL;
	if (options->key_file) {
		client->key_file = strdup(options->key_file);
		if (!client->key_file)
			return base_fail(ENOMEM, "no memory for a client");
	}
	options->key_file = client->key_file;
	return 0;
}

static void client_free(struct attnd_client *client)
{
	free(client->key_file);
	free(client);
}

int attnd_connect(struct attnd_client **client, const struct attnd_options *options)
{
	struct attnd_client *new = calloc(1, sizeof(*new));
	int error;

	*client = NULL;
	if (!new)
		return base_fail(ENOMEM, "no memory for a client");
	error = options_fill(&new->options, options);
	if (!error)
		error = options_keep(new);
	if (!error) {
		new->clock = &new->clock_state;
		base_clock_init(new->clock);
		new->spin_ns = new->options.spin_ns;
		new->dead_after_ns = new->options.dead_after_ns;
		new->liveness_ns = new->dead_after_ns / 4 < ATTND_LIVENESS_NS ? new->dead_after_ns / 4 :
			ATTND_LIVENESS_NS;
		error = connect_any(new);
	}
	if (error) {
		client_free(new);
		return error;
	}
	*client = new;
	return 0;
}

static void drop(struct attnd_client *client)
{
	if (!client->link)
		return;
	client_arena_destroy(&client->arena);
	client->transport->disconnect(client);
	client->arena_memory = NULL;
	client->arena_bytes = 0;
	client->in_flight = 0;
	client->gone = true;
}

void attnd_disconnect(struct attnd_client *client)
{
	if (!client)
		return;
	drop(client);
	client_free(client);
}

int attnd_reconnect(struct attnd_client *client)
{
	drop(client);
	return connect_any(client);
}

int client_look(struct attnd_client *client)
{
	int64_t now_ns = base_clock_now(client->clock);
	int error = client->transport->said_closed(client->link);

	if (!error && now_ns - client->looked_ns >= client->liveness_ns) {
		client->looked_ns = now_ns;
		error = client->transport->alive(client->link);
	}
	/* What the daemon still put before its end comes first; the next look finds it gone again. */
	if (!error || client->transport->ready(client->link))
		return 0;
	client->gone = true;
	return base_fail(ENOTCONN, "the daemon is gone and %u requests in flight with it; reconnect",
		client->in_flight);
}

/* ---- waiting on many --------------------------------------------------------------------------- */

int attnd_fd(const struct attnd_client *client)
{
	int fd;

	if (client->gone)
		return base_fail(ENOTCONN, "the daemon is gone; reconnect");
	if (!client->transport->fd)
		return base_fail(ENOTSUP, "shared memory has no descriptor to wait on: let attnd_wait sleep, or poll");
	fd = client->transport->fd(client->link);
	return fd >= 0 ? fd : base_fail(-fd, "the connection is being made anew: poll");
}

int64_t attnd_next_ns(const struct attnd_client *client)
{
	const int64_t now_ns = base_clock_now(client->clock);
	int64_t next_ns;

	if (client->gone)
		return 0;
	if (client->transport->next_ns)
		return client->transport->next_ns(client->link, now_ns);
	next_ns = client->looked_ns + client->liveness_ns - now_ns;
	return next_ns > 0 ? next_ns : 0;
}

/* ---- what is known of it --------------------------------------------------------------------- */

const char *attnd_error(void)
{
	return base_error_message();
}

const char *attnd_version(void)
{
	return BASE_VERSION;
}

uint64_t attnd_boot_id(const struct attnd_client *client)
{
	return client->boot_id;
}

int64_t attnd_now_ns(const struct attnd_client *client)
{
	const int64_t now_ns = base_clock_now(client->clock);
	int64_t error_ns;

	return client->link && client->transport->clock ? now_ns + client->transport->clock(client->link, now_ns, &error_ns) : now_ns;
}

int64_t attnd_clock_error_ns(const struct attnd_client *client)
{
	int64_t error_ns = 0;

	if (!client->link)
		return base_fail(ENOTCONN, "this client is not connected");
	if (client->transport->clock)
		(void)client->transport->clock(client->link, base_clock_now(client->clock), &error_ns);
	return error_ns;
}
