/*
 * Clients of the network front: who comes, goes away, comes back, is let go of. See svc_net.h.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"
#include "service/svc_net_internal.h"

enum { LINE_BYTES = 64 };

/* ---- memory ----------------------------------------------------------------------------------------------- */

static void *take_in(void *context, uint32_t bytes)
{
	struct net_client *client = context;
	struct net_pool *pool = client->net->options.in;
	/* One request may always come, however long; beside it, what the window takes, in blocks that are up to twice their contents. The
	 * next one waits for no later ones, which wait for it. */
	const bool is_next = client->part_number == net_inbox_awaited(client->inbox);
	const uint64_t beside = is_next ? client->call_bytes : client->in_bytes;
	void *block;

	if (beside > 0 && beside + bytes > client->net->in_bytes_max)
		return NULL;
	/* Of all clients together, too: half of the memory is for requests before which all others have come. */
	if (net_pool_free_bytes(pool) <= net_pool_bytes(pool) / 2 && client->part_number != net_inbox_missing(client->inbox))
		return NULL;
	block = net_pool_take(pool, bytes);
	if (block)
		client->in_bytes += net_pool_block_bytes(pool, block);
	else
		client->short_of_memory = true;
	return block;
}

void *svc_net_take_out(struct net_client *client, uint32_t bytes)
{
	void *block = net_pool_take(client->net->options.out, bytes);

	if (block)
		return block;
	client->short_of_memory = true;
	svc_net_wait(client->net, client);
	return NULL;
}

static void give_in(void *context, void *block)
{
	struct net_client *client = context;
	struct net_pool *pool = client->net->options.in;

	client->in_bytes -= net_pool_block_bytes(pool, block);
	net_pool_give(pool, block);
	client->net->released = true;
	client->in_moved_ns = client->net->now_ns;
}

/* A result's that its client has taken. */
static void give_out(void *context, void *block)
{
	struct net_client *client = context;

	svc_net_give_out(client, block);
	client->out_moved_ns = client->net->now_ns;
}

void svc_net_give_in(struct net_client *client, void *block)
{
	if (block)
		give_in(client, block);
}

void svc_net_give_out(struct net_client *client, void *block)
{
	if (!block)
		return;
	net_pool_give(client->net->options.out, block);
	client->net->released = true;
}

/* ---- those without a link --------------------------------------------------------------------------------- */

static void away_add(struct svc_net *net, struct net_client *client)
{
	const uint32_t index = svc_net_index(net, client);

	client->link = SVC_NO_LINK;
	client->away = true;
	client->away_since_ns = net->now_ns;
	client->next = SVC_NO_CLIENT;
	client->before = net->away_last;
	if (net->away_last == SVC_NO_CLIENT)
		net->away_first = index;
	else
		net->clients[net->away_last].next = index;
	net->away_last = index;
}

static void away_remove(struct svc_net *net, struct net_client *client)
{
	if (!client->away)
		return;
	if (client->before == SVC_NO_CLIENT)
		net->away_first = client->next;
	else
		net->clients[client->before].next = client->next;
	if (client->next == SVC_NO_CLIENT)
		net->away_last = client->before;
	else
		net->clients[client->next].before = client->before;
	client->away = false;
}

int svc_net_expire(struct svc_net *net)
{
	int expired = 0;

	while (net->away_first != SVC_NO_CLIENT &&
		net->clients[net->away_first].away_since_ns + net->options.resume_ns <= net->now_ns) {
		svc_count(&net->counters.expired);
		svc_net_leave(net, &net->clients[net->away_first], NET_WHY_BYE);
		expired++;
	}
	return expired;
}

/* ---- who comes -------------------------------------------------------------------------------------------- */

/* Whose token it is; a token begins with its client's number. NULL: nobody's any more. */
static struct net_client *client_of_token(struct svc_net *net, const unsigned char token[NET_NAME_BYTES], uint32_t tenant)
{
	struct net_client *client;
	uint32_t index;

	memcpy(&index, token, sizeof(index));
	if (index >= net->options.clients_max)
		return NULL;
	client = &net->clients[index];
	if (client->state != NET_CLIENT_LIVE || client->tenant != tenant || memcmp(client->token, token, NET_NAME_BYTES) != 0)
		return NULL;
	return client;
}

/* Who is only promised a place does not count: a HELLO that was overheard brings nobody in, however often it is repeated, and is not to
 * keep anybody out. */
static bool is_full(const struct svc_net *net, uint32_t tenant)
{
	return net->tenant_clients[tenant] >= net->tenant_clients_max[tenant];
}

/* Whose promise is the oldest, and has not come, makes room for the next one: there are fewer places than may be half open. False: all are
 * there. */
static bool make_place(struct svc_net *net)
{
	const struct net_client *first = NULL;

	for (uint32_t i = 0; i < net->options.clients_max; i++) {
		const struct net_client *client = &net->clients[i];

		if (client->state == NET_CLIENT_PROMISED && (!first || client->promise < first->promise))
			first = client;
	}
	if (first)
		net_host_push_out(net->host, first->promised_link);
	return net->free_first != SVC_NO_CLIENT;
}

/* Keeps a place for a client whose link is not confirmed yet. NULL: there is none. */
static struct net_client *promise(struct svc_net *net, uint32_t link, uint32_t tenant)
{
	struct net_client *client;
	uint32_t index;

	if (is_full(net, tenant) || (net->free_first == SVC_NO_CLIENT && !make_place(net)))
		return NULL;
	index = net->free_first;
	client = &net->clients[index];
	net->free_first = client->next;
	net->used++;
	client->state = NET_CLIENT_PROMISED;
	client->tenant = tenant;
	client->link = SVC_NO_LINK;
	client->promised_link = link;
	client->promise = net->promises++;
	net->options.host.random(net->options.host.random_context, client->token, sizeof(client->token));
	memcpy(client->token, &index, sizeof(index));
	return client;
}

static void client_free(struct svc_net *net, struct net_client *client)
{
	net->tenant_clients[client->tenant] -= client->state != NET_CLIENT_PROMISED;
	client->state = NET_CLIENT_FREE;
	net->used--;
	client->next = net->free_first;
	net->free_first = svc_net_index(net, client);
}

uint32_t svc_net_on_welcome(void *context, uint32_t link, uint32_t tenant, const struct net_hello *hello, struct net_welcome *welcome,
	uint32_t *owner)
{
	struct svc_net *net = context;
	struct net_client *client = client_of_token(net, hello->resume, tenant);
	struct net_come come = { .number = 0 };

	if (!client && net->drained)
		return NET_WHY_DRAINING;
	if (client) {
		welcome->flags = NET_RESUMED;
		net_inbox_come(client->inbox, &come);
	} else {
		client = promise(net, link, tenant);
		if (!client)
			return NET_WHY_FULL;
	}
	net->link_life[link] = client->life;
	memcpy(welcome->token, client->token, NET_NAME_BYTES);
	welcome->boot_id = net->options.boot_id;
	welcome->max_in_flight = net->options.in_flight;
	welcome->stream_credits = net->options.streams;
	welcome->window_bytes = net->options.window_bytes;
	welcome->message_bytes = net->options.message_bytes;
	welcome->requests = come.number;
	welcome->resume_ms = (uint32_t)(net->options.resume_ns / 1000000);
	*owner = svc_net_index(net, client);
	return NET_WHY_BYE;
}

static void tell_all(struct svc_net *net, const struct net_client *client, uint32_t kind, uint32_t argument, uint32_t credits)
{
	const struct sched_message message = {
		.kind = kind, .client = net->options.client_first + svc_net_index(net, client), .argument = argument, .credits = credits };

	for (uint32_t i = 0; i < net->options.device_count; i++)
		svc_net_tell(net, i, &message);
	svc_net_tell(net, SVC_FROM_TEXT, &message);
}

static void begin(struct svc_net *net, struct net_client *client)
{
	const uint32_t devices = net->options.device_count;

	client->state = NET_CLIENT_LIVE;
	net->tenant_clients[client->tenant]++;
	client->say_taken = client->must_say_taken = client->say_again = client->say_pong = client->bye = false;
	client->open = client->text_open = 0;
	client->credits_out = net->options.streams / devices * devices;
	client->streams_sent = client->streams_consumed = client->credits_due = 0;
	client->in_moved_ns = client->out_moved_ns = net->now_ns;
	tell_all(net, client, SCHED_CLIENT_ADD, client->tenant, net->options.streams / devices);
	atomic_fetch_add_explicit(&net->counters.clients, 1, memory_order_relaxed);
}

void svc_net_on_confirmed(void *context, uint32_t owner, uint32_t link, uint64_t features)
{
	struct svc_net *net = context;
	struct net_client *client = &net->clients[owner];
	const uint32_t old = client->link;

	/* While the link was half open its client went, and the place may be somebody else's by now; or everybody has to go, or others
	 * were quicker. What the link says next ends it. */
	if (net->link_life[link] != client->life || net->drained == DRAIN_ALL ||
		(client->state == NET_CLIENT_PROMISED && is_full(net, client->tenant)))
		return;
	if (client->state == NET_CLIENT_PROMISED) {
		begin(net, client);
	} else {
		svc_count(&net->counters.resumed);
		away_remove(net, client);
	}
	client->link = link;
	client->haves = features & NET_FEATURE_HAVE;
	client->say_have = false;
	net_outbox_limit(client->outbox, client->haves);
	if (old != SVC_NO_LINK)
		net_host_close(net->host, old, NET_WHY_REPLACED);
	svc_net_touch(net, client);
}

uint32_t svc_net_why_not(const struct svc_net *net, const struct net_client *client, uint32_t link)
{
	if (net->drained == DRAIN_ALL)
		return NET_WHY_DRAINING;
	return client->state == NET_CLIENT_PROMISED && client->promised_link == link ? NET_WHY_FULL : NET_WHY_UNKNOWN;
}

/* ---- who goes --------------------------------------------------------------------------------------------- */

void svc_net_on_gone(void *context, uint32_t owner, uint32_t link)
{
	struct svc_net *net = context;
	struct net_client *client = &net->clients[owner];

	if (client->state == NET_CLIENT_PROMISED && client->promised_link == link)
		client_free(net, client);
	else if (client->state == NET_CLIENT_LIVE && client->link == link) {
		away_add(net, client);
		if (client->bye || net->options.resume_ns == 0)
			svc_net_leave(net, client, NET_WHY_BYE);
	}
}

void svc_net_leave(struct svc_net *net, struct net_client *client, uint32_t why)
{
	if (client->state != NET_CLIENT_LIVE)
		return;
	away_remove(net, client);
	client->state = NET_CLIENT_LEAVING;
	client->life++;
	client->quiet_due = net->options.device_count + 1;
	if (client->link != SVC_NO_LINK)
		net_host_close(net->host, client->link, why);
	client->link = SVC_NO_LINK;
	atomic_fetch_sub_explicit(&net->counters.clients, 1, memory_order_relaxed);
	atomic_fetch_sub_explicit(&net->counters.in_flight, client->open, memory_order_relaxed);
	atomic_fetch_sub_explicit(&net->counters.kept, net_outbox_kept(client->outbox), memory_order_relaxed);
	tell_all(net, client, SCHED_CLIENT_GONE, 0, 0);
}

static void calls_reset(struct svc_net *net, struct net_client *client)
{
	for (uint32_t i = 0; i < net->options.in_flight; i++) {
		struct net_call *call = &client->calls[i];

		if (call->used) {
			svc_net_give_in(client, call->in);
			svc_net_give_out(client, call->out);
		}
		*call = (struct net_call){ .next_free = i + 1 };
	}
	client->call_free = 0;
	client->out_reserved = client->call_bytes = 0;
}

void svc_net_quiet(struct svc_net *net, struct net_client *client)
{
	if (client->state != NET_CLIENT_LEAVING || --client->quiet_due)
		return;
	calls_reset(net, client);
	net_inbox_reset(client->inbox);
	net_outbox_reset(client->outbox);
	client_free(net, client);
}

/* ---- making and unmaking ---------------------------------------------------------------------------------- */

static uint32_t power_of_two(uint32_t least)
{
	uint32_t power = 1;

	while (power < least)
		power *= 2;
	return power;
}

static int client_create(struct svc_net *net, uint32_t index, struct base_arena *arena)
{
	const struct svc_net_options *options = &net->options;
	struct net_client *client = &net->clients[index];
	const struct net_blocks in = { client, take_in, give_in }, out = { client, NULL, give_out };
	int rc;

	client->net = net;
	client->link = SVC_NO_LINK;
	client->calls = net->calls + (size_t)index * options->in_flight;
	if (net->stream_devices)
		client->stream_device = net->stream_devices + (size_t)index * (net->streams_mask + 1);
	for (uint32_t i = 0; i < options->in_flight; i++)
		client->calls[i].next_free = i + 1;
	rc = net_inbox_create(&client->inbox, power_of_two(options->in_flight), options->message_bytes, &in, arena);
	return rc ? rc : net_outbox_create(&client->outbox, net->outbox_max, options->window_bytes, &out, arena);
}

/* In one piece, which is on huge pages where there are any: thousands of clients in turn are thousands of pages otherwise. */
static int take_memory(struct svc_net *net, struct base_arena *arena)
{
	const struct svc_net_options *options = &net->options;
	const size_t clients_bytes = options->clients_max * sizeof(*net->clients);
	const size_t calls_bytes = (size_t)options->clients_max * options->in_flight * sizeof(*net->calls);
	const size_t each = net_inbox_memory(power_of_two(options->in_flight)) + net_outbox_memory(net->outbox_max) + 2 * LINE_BYTES;
	const size_t bytes = clients_bytes + calls_bytes + 2 * LINE_BYTES + options->clients_max * each;
	int rc = base_region_create(&net->memory, bytes, options->node, true);

	if (rc)
		return base_fail_within(-rc, "net: %u clients; lower [net] connections", options->clients_max);
	base_arena_init(arena, net->memory.memory, net->memory.size_bytes);
	net->clients = base_arena_take(arena, clients_bytes, LINE_BYTES);
	net->calls = base_arena_take(arena, calls_bytes, LINE_BYTES);
	return 0;
}

int svc_net_clients_create(struct svc_net *net)
{
	const struct svc_net_options *options = &net->options;
	struct base_arena arena;
	int rc;

	net->outbox_max = power_of_two(options->in_flight + options->streams);
	net->in_bytes_max = 2 * ((uint64_t)options->window_bytes + (uint64_t)options->in_flight * NET_POOL_LEAST_BYTES);
	net->streams_mask = power_of_two(options->streams) - 1;
	rc = take_memory(net, &arena);
	if (rc)
		return rc;
	if (options->device_count > 1)
		net->stream_devices = calloc(options->clients_max, net->streams_mask + 1);
	if (options->device_count > 1 && !net->stream_devices)
		return base_fail(ENOMEM, "net: out of memory for %u clients; lower [net] connections", options->clients_max);
	net->free_first = net->away_first = net->away_last = SVC_NO_CLIENT;
	for (uint32_t i = options->clients_max; i-- > 0 && !rc;) {
		rc = client_create(net, i, &arena);
		net->clients[i].next = net->free_first;
		net->free_first = i;
	}
	return rc;
}

void svc_net_clients_destroy(struct svc_net *net)
{
	for (uint32_t i = 0; net->clients && i < net->options.clients_max; i++) {
		struct net_client *client = &net->clients[i];

		if (!client->net)
			continue;
		calls_reset(net, client);
		net_inbox_destroy(client->inbox);
		net_outbox_destroy(client->outbox);
	}
	free(net->stream_devices);
	base_region_destroy(&net->memory);
}
