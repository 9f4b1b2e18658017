/*
 * The network transports: a connection (netio/net_caller.h) over a plain socket, behind the library's table of functions. Client's thread;
 * no other. submit and poll make a system call or two, no allocation.
 *
 * The arena is memory of this process. Inputs are sent from where they lie; results are copied to where the request wants them. When the
 * socket breaks or the daemon is silent, poll makes a new one and goes on with the connection's token, for as long as the daemon keeps it
 * and dead_after_ns allows; only then the daemon counts as gone.
 */
#include "client-lib/attnd_net.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/base_error.h"
#include "client-lib/attnd_client.h"
#include "netio/net_caller.h"

#define AGAIN_NS INT64_C(10000000)     /* between two attempts to make a socket */
#define ANSWER_NS INT64_C(200000000)   /* how long one may take to be answered, when a connection is resumed */
#define POOL_SLACK_BYTES (1 << 20)

enum {
	SEND_ROUNDS = 16, /* batches that are sent before what has come is looked at */
	PAGE_BYTES = 4096,
	DEATH_SHARE = 2,  /* of dead_after_ns: silence. The rest is for a new socket. */
	LOOKS_WHILE_FULL = 8,
	LAST_LOOKS = 64,
};
#define FULL_NS INT64_C(1000000)       /* a descriptor does not tell when a socket takes more */

struct net_link {
	struct net_caller *caller;
	struct base_clock *clock;
	unsigned char *arena_memory;
	uint64_t arena_bytes;
	/* Completions of requests that were never sent. */
	unsigned local_first, local_count;
	bool gone;
	bool lost;                /* a new socket is wanted, or tried */
	int64_t give_up_ns, again_ns, dead_after_ns;
	struct client_socket socket;

	/* below here is not touched per request */
	struct client_arena pool; /* where results come in */
	void *pool_memory;
	uint64_t pool_bytes;
	struct client_place place;
	unsigned which;           /* of the place's addresses */
	bool was_open;
	pid_t process;            /* a fork's child has the socket, too, and must not speak for us */
	struct attnd_completion local[NET_WINDOW_MAX];
};

static int64_t now_of(const struct net_link *link)
{
	return base_clock_now(link->clock);
}

/* ---- memory -------------------------------------------------------------------------------------------------- */

static void *map(uint64_t bytes)
{
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return memory == MAP_FAILED ? NULL : memory;
}

static void *take(void *context, uint32_t bytes)
{
	struct net_link *link = context;

	return client_arena_take(&link->pool, bytes);
}

static void give(void *context, void *block)
{
	struct net_link *link = context;

	(void)client_arena_give(&link->pool, block);
}

static void draw(void *context, void *to, size_t bytes)
{
	(void)context;
	/* Up to 256 bytes come whole. */
	if (getrandom(to, bytes, 0) != (ssize_t)bytes)
		abort();
}

/* As much as the daemon may have under way, twice, so that it fits however it is cut up. */
static int pool_create(struct net_link *link)
{
	const struct net_welcome *welcome = net_caller_welcome(link->caller);
	const uint64_t message = welcome->message_bytes < link->arena_bytes ? welcome->message_bytes : link->arena_bytes;
	int error;

	link->pool_bytes = 2 * (message > welcome->window_bytes ? message : welcome->window_bytes) + POOL_SLACK_BYTES;
	link->pool_memory = map(link->pool_bytes);
	if (!link->pool_memory)
		return base_fail(ENOMEM, "no memory for %llu bytes of results", (unsigned long long)link->pool_bytes);
	error = client_arena_create(&link->pool, link->pool_memory, link->pool_bytes);
	if (error)
		munmap(link->pool_memory, link->pool_bytes);
	return error;
}

static void pool_destroy(struct net_link *link)
{
	client_arena_destroy(&link->pool);
	munmap(link->pool_memory, link->pool_bytes);
}

/* ---- packets ------------------------------------------------------------------------------------------------- */

/* Whether the socket is worth keeping. A datagram socket only tells what somebody said about an earlier datagram. */
static bool is_harmless(const struct net_link *link, int error)
{
	return error == -EAGAIN || error == -EMSGSIZE ||
		(link->place.kind == CLIENT_PLACE_UDP && link->was_open);
}

/* Makes packets until there are none, or no room for one. */
static bool fill(struct net_link *link, int64_t now_ns)
{
	unsigned char *packet;
	size_t bytes = 1;

	while (bytes > 0 && (packet = client_socket_room(&link->socket))) {
		bytes = net_caller_next_packet(link->caller, now_ns, packet);
		if (bytes > 0)
			client_socket_put(&link->socket, bytes);
	}
	return client_socket_is_full(&link->socket);
}

/* Sends all there is to be said, as far as the socket takes it. 0, or why it broke. */
static int send_all(struct net_link *link, int64_t now_ns)
{
	int error = 0;

	if (link->socket.fd < 0)
		return 0;
	if (client_socket_is_full(&link->socket))
		error = client_socket_send(&link->socket);
	for (unsigned round = 0; !error && round < SEND_ROUNDS && fill(link, now_ns); round++)
		error = client_socket_send(&link->socket);
	if (error == -EMSGSIZE)
		net_caller_shorten(link->caller, client_socket_datagram_bytes(&link->socket));
	net_caller_pass(link->caller, now_ns);
	if (is_harmless(link, error))
		error = 0;
	if (error)
		net_caller_broke(link->caller);
	return error;
}

/* Takes what one call brings. How much; -errno: it broke. */
static int receive(struct net_link *link)
{
	int64_t now_ns;
	int count;

	if (link->socket.fd < 0)
		return 0;
	count = client_socket_receive(&link->socket);
	if (count == 0)
		return 0;
	if (count < 0) {
		if (is_harmless(link, count))
			return 0;
		net_caller_broke(link->caller);
		return count;
	}
	now_ns = now_of(link); /* when it has come, not when it was asked for: clocks are compared by it */
	for (int i = 0; i < count; i++)
		net_caller_packet(link->caller, now_ns, link->socket.runs[i].bytes, link->socket.runs[i].count);
	return count;
}

/* ---- a new socket -------------------------------------------------------------------------------------------- */

static void lose(struct net_link *link, int64_t now_ns)
{
	const int64_t kept_ns = (int64_t)net_caller_welcome(link->caller)->resume_ms * 1000000;
	const int64_t left_ns = link->dead_after_ns / DEATH_SHARE;

	link->lost = true;
	link->again_ns = now_ns;
	link->give_up_ns = now_ns + (kept_ns < left_ns ? kept_ns : left_ns);
}

/* One attempt after the other; each has a while. */
static void come_back(struct net_link *link, int64_t now_ns)
{
	if (now_ns >= link->give_up_ns) {
		link->gone = true;
		return;
	}
	if (now_ns < link->again_ns)
		return;
	link->again_ns = now_ns + AGAIN_NS;
	if (client_socket_open(&link->socket, &link->place, link->which))
		return;
	link->again_ns = now_ns + ANSWER_NS;
	net_caller_start(link->caller, now_ns, true, client_socket_datagram_bytes(&link->socket));
	(void)send_all(link, now_ns);
}

/* Follows what has become of the connection. */
static void follow(struct net_link *link, int64_t now_ns)
{
	const enum net_caller_state state = net_caller_state(link->caller);

	if (state == NET_CALLER_OPEN) {
		link->lost = false;
	} else if (state == NET_CALLER_REFUSED || state == NET_CALLER_ENDED) {
		link->gone = true;
	} else if (!link->lost) {
		lose(link, now_ns);
		client_socket_close(&link->socket);
	} else if (state == NET_CALLER_LOST && link->socket.fd >= 0) {
		/* This attempt failed before its time was over. The socket would be readable for ever. */
		client_socket_close(&link->socket);
		link->again_ns = now_ns + AGAIN_NS;
	} else if (state == NET_CALLER_LOST || now_ns >= link->again_ns) {
		come_back(link, now_ns);
	} else if (now_ns >= link->give_up_ns) {
		link->gone = true;
	}
}

/* When something is to be done, if nothing comes before. */
static int64_t event_ns(const struct net_link *link, int64_t now_ns)
{
	const int64_t caller_ns = net_caller_event_ns(link->caller);
	const int64_t attempt_ns = link->again_ns < link->give_up_ns ? link->again_ns : link->give_up_ns;
	const enum net_caller_state state = net_caller_state(link->caller);

	if (state != NET_CALLER_OPEN && state != NET_CALLER_SHAKING && !link->lost)
		return now_ns; /* it is to be followed up */
	/* What is to be said waits for the socket; only silence is to be noticed then. */
	if (client_socket_is_full(&link->socket))
		return now_ns + link->dead_after_ns / LOOKS_WHILE_FULL;
	return link->lost && attempt_ns < caller_ns ? attempt_ns : caller_ns;
}

/* Sends, and looks at the clocks, where that is due. */
static void serve(struct net_link *link, int64_t now_ns)
{
	if (link->gone)
		return;
	if (client_socket_is_full(&link->socket) || now_ns >= event_ns(link, now_ns))
		(void)send_all(link, now_ns);
	if (link->lost || net_caller_state(link->caller) != NET_CALLER_OPEN)
		follow(link, now_ns);
}

/* ---- requests ------------------------------------------------------------------------------------------------ */

/* A range of the arena, NULL where it is empty. False: it is not in there. */
static bool range_of(const struct net_link *link, uint32_t offset, uint32_t bytes, void **memory)
{
	const uint64_t begin = (uint64_t)offset * ATTND_UNIT_BYTES;

	*memory = bytes > 0 ? link->arena_memory + begin : NULL;
	return bytes == 0 || (begin <= link->arena_bytes && bytes <= link->arena_bytes - begin);
}

static void answer(struct net_link *link, const struct attnd_request *request, enum attnd_status status, int64_t now_ns)
{
	const int64_t there_ns = now_ns + net_caller_pace(link->caller)->offset_ns;

	link->local[(link->local_first + link->local_count++) % NET_WINDOW_MAX] = (struct attnd_completion){ .request_id = request->request_id,
		.status = (uint8_t)status, .flags = ATTND_CPL_FINAL, .received_ns = there_ns, .done_ns = there_ns };
}

static bool submit_one(struct net_link *link, const struct attnd_request *request, int64_t now_ns)
{
	void *in, *out;
	int error;

	if (!range_of(link, request->in_offset, request->in_bytes, &in) || !range_of(link, request->out_offset, request->out_capacity, &out)) {
		answer(link, request, ATTND_BAD_RANGE, now_ns);
		return true;
	}
	error = net_caller_send(link->caller, request, in, out);
	if (error == -EMSGSIZE)
		answer(link, request, ATTND_TOO_LARGE, now_ns);
	return error == 0 || error == -EMSGSIZE;
}

static unsigned link_submit(void *state, const struct attnd_request *requests, unsigned count)
{
	struct net_link *link = state;
	const int64_t now_ns = now_of(link);
	unsigned taken = 0;

	/* Each request in flight has a place for a completion of its own. */
	while (taken < count && link->local_count < NET_WINDOW_MAX && submit_one(link, &requests[taken], now_ns))
		taken++;
	(void)send_all(link, now_ns);
	return taken;
}

static unsigned take_local(struct net_link *link, struct attnd_completion *completions, unsigned max)
{
	unsigned taken = 0;

	for (; taken < max && link->local_count > 0; taken++, link->local_count--) {
		completions[taken] = link->local[link->local_first];
		link->local_first = (link->local_first + 1) % NET_WINDOW_MAX;
	}
	return taken;
}

static unsigned take_completions(struct net_link *link, struct attnd_completion *completions, unsigned max)
{
	unsigned taken = take_local(link, completions, max);

	while (taken < max && net_caller_receive(link->caller, &completions[taken]))
		taken++;
	return taken;
}

static unsigned link_poll(void *state, struct attnd_completion *completions, unsigned max)
{
	struct net_link *link = state;
	unsigned taken = take_completions(link, completions, max);

	if (taken == 0 && receive(link) > 0)
		taken = take_completions(link, completions, max);
	/* Whoever has got something comes again soon; only what the daemon waits for goes out before. */
	if (taken == 0 || net_caller_event_ns(link->caller) == 0)
		serve(link, now_of(link));
	return taken;
}

static bool link_ready(void *state)
{
	const struct net_link *link = state;

	return link->local_count > 0 || net_caller_ready(link->caller);
}

static void link_sleep(void *state, int64_t timeout_ns)
{
	struct net_link *link = state;
	int64_t now_ns = now_of(link), until_ns;

	if (link->gone)
		return;
	net_caller_rest(link->caller);
	(void)send_all(link, now_ns);
	until_ns = event_ns(link, now_ns);
	client_socket_wait(&link->socket, until_ns - now_ns < timeout_ns ? until_ns - now_ns : timeout_ns);
}

static int link_said_closed(void *state)
{
	const struct net_link *link = state;

	return link->gone ? -ENOTCONN : 0;
}

static int link_fd(const void *state)
{
	const struct net_link *link = state;

	return link->socket.fd >= 0 ? link->socket.fd : -EAGAIN;
}

static int64_t link_next_ns(const void *state, int64_t now_ns)
{
	const struct net_link *link = state;
	int64_t next_ns;

	if (link->gone || link->local_count > 0 || net_caller_ready(link->caller))
		return 0;
	next_ns = event_ns(link, now_ns);
	if (next_ns == NET_NEVER)
		return NET_NEVER;
	next_ns = next_ns > now_ns ? next_ns - now_ns : 0;
	return client_socket_is_full(&link->socket) && next_ns > FULL_NS ? FULL_NS : next_ns;
}

static int64_t link_clock(const void *state, int64_t now_ns, int64_t *error_ns)
{
	const struct net_pace *pace = net_caller_pace(((const struct net_link *)state)->caller);

	*error_ns = net_pace_error_ns(pace, now_ns);
	return pace->offset_ns;
}

/* ---- connecting ---------------------------------------------------------------------------------------------- */

static int refused(uint32_t why)
{
	static const int errors[NET_WHY_END] = {
		[NET_WHY_BYE] = ECONNREFUSED, [NET_WHY_VERSION] = EPROTO, [NET_WHY_CIPHER] = EPROTO, [NET_WHY_KEY] = EPERM, [NET_WHY_FULL] = EBUSY,
		[NET_WHY_DRAINING] = ECONNREFUSED, [NET_WHY_PROTOCOL] = EPROTO, [NET_WHY_UNKNOWN] = ECONNREFUSED, [NET_WHY_REPLACED] = ECONNREFUSED,
	};

	return base_fail(why < NET_WHY_END ? errors[why] : ECONNREFUSED, "%s", net_why_text(why));
}

/* Says HELLO to one of the place's addresses, and waits for what becomes of it. */
static int shake(struct net_link *link, unsigned which, int64_t until_ns)
{
	int error = client_socket_open(&link->socket, &link->place, which);
	int64_t now_ns = now_of(link);

	if (error)
		return error;
	net_caller_start(link->caller, now_ns, false, client_socket_datagram_bytes(&link->socket));
	for (; now_ns < until_ns; now_ns = now_of(link)) {
		int64_t wait_ns;

		error = send_all(link, now_ns);
		if (error || net_caller_state(link->caller) != NET_CALLER_SHAKING)
			break;
		wait_ns = event_ns(link, now_ns) - now_ns;
		client_socket_wait(&link->socket, wait_ns < until_ns - now_ns ? wait_ns : until_ns - now_ns);
		error = receive(link);
		if (error < 0)
			break;
	}
	if (net_caller_state(link->caller) == NET_CALLER_OPEN)
		return 0;
	if (net_caller_state(link->caller) == NET_CALLER_REFUSED)
		return refused(net_caller_why(link->caller));
	return error < 0 ? base_fail(-error, "%s", strerror(-error)) : base_fail(ETIMEDOUT, "no answer");
}

/* The first of its addresses that answers; each has its share of the time. */
static int shake_any(struct net_link *link, int64_t timeout_ns)
{
	const int64_t until_ns = now_of(link) + timeout_ns;
	int error = -ENOENT;

	for (link->which = 0; link->which < link->place.count; link->which++) {
		const int64_t now_ns = now_of(link);

		error = shake(link, link->which, now_ns + (until_ns - now_ns) / (link->place.count - link->which));
		if (error == 0)
			return 0;
	}
	return error;
}

static int link_create(struct net_link *link, const struct client_place *place, const struct attnd_options *options)
{
	struct net_caller_options caller = { .datagram = place->kind == CLIENT_PLACE_UDP,
		.dead_after_ns = options->dead_after_ns / DEATH_SHARE,
		.blocks = { link, take, give },
		.random = draw };
	int error = client_key_read(options->key_file, caller.key, &caller.plain);

	if (error)
		return error;
	caller.plain = !caller.plain;
	link->place = *place;
	link->dead_after_ns = options->dead_after_ns;
	link->process = getpid();
	link->arena_bytes = (options->arena_bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
	caller.message_bytes_max = link->arena_bytes < NET_MESSAGE_BYTES_MAX ? (uint32_t)link->arena_bytes : NET_MESSAGE_BYTES_MAX;
	error = net_caller_create(&link->caller, &caller);
	explicit_bzero(caller.key, sizeof(caller.key));
	if (error)
		return error;
	error = client_socket_create(&link->socket);
	if (error)
		net_caller_destroy(link->caller);
	return error;
}

static void link_destroy(struct net_link *link)
{
	client_socket_destroy(&link->socket);
	net_caller_destroy(link->caller);
	free(link);
}

static int link_open(struct attnd_client *client, struct net_link *link)
{
	int error = shake_any(link, client->options.connect_timeout_ns);

	if (error)
		return error;
	link->arena_memory = map(link->arena_bytes);
	if (!link->arena_memory)
		return base_fail(ENOMEM, "no memory for an arena of %llu bytes", (unsigned long long)link->arena_bytes);
	error = pool_create(link);
	if (error)
		munmap(link->arena_memory, link->arena_bytes);
	else
		(void)send_all(link, now_of(link)); /* the daemon waits for a first word */
	link->was_open = true;
	return error;
}

static int connect_over(struct attnd_client *client, enum client_place_kind kind, const char *text)
{
	struct net_link *link = calloc(1, sizeof(*link));
	struct client_place place;
	int error = client_place_find(&place, kind, text);

	if (!link)
		return base_fail(ENOMEM, "no memory for a connection");
	link->clock = client->clock;
	if (!error)
		error = link_create(link, &place, &client->options);
	if (error) {
		free(link);
		return error;
	}
	error = link_open(client, link);
	if (error) {
		link_destroy(link);
		return base_fail_within(-error, "%s", text);
	}
	client->link = link;
	client->max_in_flight = net_caller_welcome(link->caller)->max_in_flight;
	client->boot_id = net_caller_welcome(link->caller)->boot_id;
	client->arena_memory = link->arena_memory;
	client->arena_bytes = link->arena_bytes;
	return 0;
}

static int tcp_connect(struct attnd_client *client, const char *text)
{
	return connect_over(client, CLIENT_PLACE_TCP, text);
}

static int udp_connect(struct attnd_client *client, const char *text)
{
	return connect_over(client, CLIENT_PLACE_UDP, text);
}

static int unix_connect(struct attnd_client *client, const char *text)
{
	return connect_over(client, CLIENT_PLACE_UNIX, text);
}

static void link_disconnect(struct attnd_client *client)
{
	struct net_link *link = client->link;

	if (link->process == getpid()) {
		net_caller_end(link->caller, NET_WHY_BYE);
		(void)send_all(link, now_of(link));
		/* What nobody has read makes the kernel take back what was sent. */
		for (unsigned i = 0; i < LAST_LOOKS && receive(link) > 0; i++)
			;
	}
	munmap(link->arena_memory, link->arena_bytes);
	/* The pool goes last: the connection gives blocks back. */
	net_caller_destroy(link->caller);
	link->caller = NULL;
	pool_destroy(link);
	link_destroy(link);
	client->link = NULL;
}

#define TRANSPORT(scheme_, connect_) { .scheme = scheme_, .connect = connect_, .disconnect = link_disconnect, .submit = link_submit, \
	.poll = link_poll, .ready = link_ready, .sleep = link_sleep, .said_closed = link_said_closed, .alive = link_said_closed, \
	.clock = link_clock, .fd = link_fd, .next_ns = link_next_ns }

const struct client_transport client_tcp_transport = TRANSPORT("attnd", tcp_connect);
const struct client_transport client_udp_transport = TRANSPORT("attnd+udp", udp_connect);
const struct client_transport client_unix_transport = TRANSPORT("attnd+unix", unix_connect);
