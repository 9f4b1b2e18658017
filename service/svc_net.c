/*
 * The network front as a role. See svc_net.h.
 */
#include "service/svc_net.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"
#include "service/svc_net_internal.h"

/* How often it is looked whether somebody sits on memory that others want; and how often while somebody is let go of. */
#define SLOW_LOOK_NS INT64_C(250000000)
#define SLOW_NEXT_NS INT64_C(1000000)

void svc_net_touch(struct svc_net *net, struct net_client *client)
{
	if (client->touched)
		return;
	client->touched = true;
	net->touched[net->touched_count++] = svc_net_index(net, client);
}

void svc_net_wait(struct svc_net *net, struct net_client *client)
{
	if (client->waiting)
		return;
	client->waiting = true;
	net->waiting[net->waiting_count++] = svc_net_index(net, client);
}

/* ---- replies ---------------------------------------------------------------------------------------------- */

static void take_reply(struct svc_net *net, const struct sched_reply *reply, uint32_t device)
{
	struct net_client *client = &net->clients[reply->client - net->options.client_first];

	if (reply->kind == SCHED_CLIENT_QUIESCED)
		svc_net_quiet(net, client);
	else if (client->state != NET_CLIENT_LIVE)
		svc_count(&net->counters.dropped);
	else
		svc_net_reply(net, client, &reply->completion, device);
}

static int take_replies(struct svc_net *net, struct base_spsc *queue, uint32_t device)
{
	const struct sched_reply *reply;
	int taken = 0;

	while (taken < SVC_NET_REPLIES_PER_POLL && (reply = base_spsc_peek(queue))) {
		if (reply->client - net->options.client_first < net->options.clients_max)
			take_reply(net, reply, device);
		else
			svc_count(&net->counters.unowed);
		base_spsc_release(queue);
		taken++;
	}
	return taken;
}

/* ---- clients that have something to do -------------------------------------------------------------------- */

static void wake_waiting(struct svc_net *net)
{
	if (!net->released)
		return;
	net->released = false;
	for (uint32_t i = 0; i < net->waiting_count; i++) {
		struct net_client *client = &net->clients[net->waiting[i]];

		client->waiting = false;
		client->short_of_memory = false;
		svc_net_touch(net, client);
	}
	net->waiting_count = 0;
}

/* Those to whom not all was sent, for want of room for datagrams or because it waits for the next poll, stay in the list. */
static void serve_touched(struct svc_net *net)
{
	const uint32_t count = net->touched_count;

	net->touched_count = 0;
	for (uint32_t i = 0; i < count; i++) {
		struct net_client *client = &net->clients[net->touched[i]];

		client->touched = false;
		if (client->state != NET_CLIENT_LIVE)
			continue;
		svc_net_return_credits(net, client);
		svc_net_deliver(net, client);
		if ((!svc_net_send(net, client) && net_host_is_datagram(net->host, client->link)) || svc_net_says_later(net, client))
			svc_net_touch(net, client);
	}
}

static void on_writable(void *context, uint32_t owner, uint32_t link)
{
	struct svc_net *net = context;

	if (net->clients[owner].link == link)
		svc_net_touch(net, &net->clients[owner]);
}

/* Whether a pool had nothing for somebody. Who only waits for a window of his own wants nothing of others. */
static bool is_memory_wanted(const struct svc_net *net)
{
	for (uint32_t i = 0; i < net->waiting_count; i++) {
		const struct net_client *client = &net->clients[net->waiting[i]];

		if (client->short_of_memory && client->state == NET_CLIENT_LIVE)
			return true;
	}
	return false;
}

/* What a client has and has let lie for long: results that it does not take, requests that it does not end. Asking for more is not
 * taking. */
static uint64_t idle_bytes(const struct svc_net *net, const struct net_client *client)
{
	const bool waits_for_us = client->open > 0 || net_inbox_peek(client->inbox);
	uint64_t bytes = 0;

	if (client->state != NET_CLIENT_LIVE)
		return 0;
	if (client->out_moved_ns + net->options.slow_ns <= net->now_ns)
		bytes += net_outbox_bytes(client->outbox);
	if (!waits_for_us && client->in_moved_ns + net->options.slow_ns <= net->now_ns)
		bytes += client->in_bytes;
	return bytes;
}

/* Others wait for memory: who lets most of it lie is let go of. The next one not before it has turned out that this did not do: somebody
 * who has yet to say that a small result has come is not to go with those who have it all. */
static int drop_slow(struct svc_net *net)
{
	struct net_client *slowest = NULL;
	uint64_t most = 0;

	if (net->waiting_count == 0 || net->now_ns < net->slow_look_ns)
		return 0;
	net->slow_look_ns = net->now_ns + (net->slowest_leaves ? SLOW_NEXT_NS : SLOW_LOOK_NS);
	if (net->slowest_leaves && net->slowest_leaves->state == NET_CLIENT_LEAVING)
		return 0;
	net->slowest_leaves = NULL;
	if (!is_memory_wanted(net))
		return 0;
	for (uint32_t i = 0; i < net->options.clients_max; i++) {
		const uint64_t bytes = idle_bytes(net, &net->clients[i]);

		slowest = bytes > most ? &net->clients[i] : slowest;
		most = bytes > most ? bytes : most;
	}
	if (!slowest)
		return 0;
	svc_count(&net->counters.slow);
	svc_net_leave(net, slowest, NET_WHY_FULL);
	net->slowest_leaves = slowest;
	net->slow_look_ns = net->now_ns + SLOW_NEXT_NS;
	return 1;
}

static int follow_drain(struct svc_net *net)
{
	const uint32_t wanted = atomic_load_explicit(&net->draining, memory_order_acquire);

	if (wanted == net->drained)
		return 0;
	net->drained = wanted;
	if (wanted != DRAIN_ALL)
		return 1;
	net_host_refuse_all(net->host, NET_WHY_DRAINING);
	for (uint32_t i = 0; i < net->options.clients_max; i++)
		svc_net_leave(net, &net->clients[i], NET_WHY_DRAINING);
	return 1;
}

/* ---- the role --------------------------------------------------------------------------------------------- */

static int serve(struct svc_net *net)
{
	const int work = (int)net->touched_count;

	wake_waiting(net);
	serve_touched(net);
	return work;
}

int svc_net_poll(void *self)
{
	struct svc_net *net = self;
	int work = 0;

	net->now_ns = base_clock_now(net->options.clock);
	net->polls++;
	/* Answers go out with the call that looks what has come. */
	for (uint32_t i = 0; i < net->options.device_count; i++)
		work += take_replies(net, net->options.from_device[i], i);
	work += take_replies(net, net->options.from_text, SVC_FROM_TEXT);
	work += serve(net);
	work += net_host_poll(net->host);
	work += svc_net_expire(net) + drop_slow(net) + follow_drain(net) + serve(net);
	/* What was answered at once: the next poll may be far away, after a device's step. */
	net->port->flush(net->port->self);
	return work;
}

int64_t svc_net_next_event_ns(void *self)
{
	struct svc_net *net = self;
	int64_t next_ns = net_host_next_event_ns(net->host);

	if (net->touched_count > 0)
		return 0;
	if (net->away_first != SVC_NO_CLIENT) {
		const int64_t expires_ns = net->clients[net->away_first].away_since_ns + net->options.resume_ns;

		next_ns = expires_ns < next_ns ? expires_ns : next_ns;
	}
	if (net->waiting_count > 0 && net->slow_look_ns < next_ns)
		next_ns = net->slow_look_ns;
	return next_ns;
}

bool svc_net_sleep_begin(void *self)
{
	struct svc_net *net = self;
	bool work = net->port->sleep_begin(net->port->self) || base_spsc_peek(net->options.from_text) ||
		atomic_load_explicit(&net->draining, memory_order_relaxed) != net->drained;

	for (uint32_t i = 0; i < net->options.device_count; i++)
		work |= base_spsc_peek(net->options.from_device[i]) != NULL;
	return work;
}

bool svc_net_sleep(void *self, int others, int ms)
{
	struct svc_net *net = self;

	return net->port->sleep(net->port->self, others, ms);
}

void svc_net_drain(struct svc_net *net, bool close)
{
	atomic_store_explicit(&net->draining, close ? DRAIN_ALL : DRAIN_NEW, memory_order_release);
}

struct net_above svc_net_above(struct svc_net *net)
{
	return net_host_above(net->host);
}

void svc_net_attach(struct svc_net *net, const struct net_port *port)
{
	net->port = port;
	net_host_attach(net->host, port);
}

const struct svc_net_counters *svc_net_counters(const struct svc_net *net)
{
	return &net->counters;
}

const struct net_host_counters *svc_net_host_counters(const struct svc_net *net)
{
	return net_host_counters(net->host);
}

/* ---- making and unmaking ---------------------------------------------------------------------------------- */

static int check_options(const struct svc_net_options *options)
{
	if (options->clients_max == 0 || options->in_flight == 0 || options->streams < options->device_count ||
		options->in_flight + options->streams > NET_WINDOW_MAX)
		return base_fail(EINVAL, "net: %u clients with %u requests and %u stream completions each: at least 1, 1 and one per device, and "
			"the last two at most %d together", options->clients_max, options->in_flight, options->streams, NET_WINDOW_MAX);
	if (options->message_bytes > NET_MESSAGE_BYTES_MAX || options->tenant_count > SCHED_TENANTS_MAX)
		return base_fail(EINVAL, "net: messages of %u bytes, %u tenants: at most %u and %d", options->message_bytes, options->tenant_count,
			NET_MESSAGE_BYTES_MAX, SCHED_TENANTS_MAX);
	/* What no pool could ever have would be waited for for ever. */
	if (options->message_bytes * 2ULL > net_pool_bytes(options->in) || options->message_bytes > net_pool_bytes(options->out))
		return base_fail(EINVAL, "net: a message of %u bytes does not fit into %llu bytes for requests and %llu for results; raise [net] "
			"memory", options->message_bytes, (unsigned long long)net_pool_bytes(options->in),
			(unsigned long long)net_pool_bytes(options->out));
	return 0;
}

static uint32_t links_of(const struct svc_net_options *options)
{
	return options->clients_max + options->host.half_open_max;
}

static int host_create(struct svc_net *net)
{
	struct net_host_options options = net->options.host;

	options.clock = net->options.clock;
	options.links_max = links_of(&net->options);
	options.blocks = net_pool_blocks(net->options.parts);
	options.above = (struct net_host_above){ .context = net,
		.welcome = svc_net_on_welcome,
		.confirmed = svc_net_on_confirmed,
		.body = svc_net_on_body,
		.gone = svc_net_on_gone,
		.writable = on_writable };
	return net_host_create(&net->host, &options);
}

int svc_net_create(struct svc_net **net_out, const struct svc_net_options *options)
{
	struct svc_net *net;
	int rc = check_options(options);

	if (rc)
		return rc;
	net = calloc(1, sizeof(*net));
	if (!net)
		return base_fail(ENOMEM, "net: out of memory");
	net->options = *options;
	memcpy(net->tenant_clients_max, options->tenant_clients_max, options->tenant_count * sizeof(*net->tenant_clients_max));
	net->touched = calloc(options->clients_max, sizeof(*net->touched));
	net->waiting = calloc(options->clients_max, sizeof(*net->waiting));
	net->link_life = calloc(links_of(options), sizeof(*net->link_life));
	rc = net->touched && net->waiting && net->link_life ? svc_net_clients_create(net) : base_fail(ENOMEM, "net: out of memory");
	if (!rc)
		rc = host_create(net);
	if (rc) {
		svc_net_destroy(net);
		return rc;
	}
	*net_out = net;
	return 0;
}

void svc_net_destroy(struct svc_net *net)
{
	if (!net)
		return;
	net_host_destroy(net->host);
	svc_net_clients_destroy(net);
	free(net->link_life);
	free(net->waiting);
	free(net->touched);
	free(net);
}

/* ---- checking --------------------------------------------------------------------------------------------- */

static int check_client(const struct svc_net *net, const struct net_client *client)
{
	const uint32_t index = svc_net_index(net, client);
	uint32_t open = 0;
	uint64_t reserved = 0, call_bytes = 0;

	for (uint32_t i = 0; i < net->options.in_flight; i++) {
		if (client->calls[i].in)
			call_bytes += net_pool_block_bytes(net->options.in, client->calls[i].in);
		open += client->calls[i].used;
		reserved += client->calls[i].used ? client->calls[i].out_capacity : 0;
	}
	if (client->state == NET_CLIENT_FREE && (open || client->in_bytes || net_outbox_kept(client->outbox)))
		return base_fail(EINVAL, "net: client %u is free and holds something", index);
	if (call_bytes != client->call_bytes || call_bytes > client->in_bytes)
		return base_fail(EINVAL, "net: client %u has %llu bytes of requests with the devices, and says %llu of %llu", index,
			(unsigned long long)call_bytes, (unsigned long long)client->call_bytes, (unsigned long long)client->in_bytes);
	if (client->state != NET_CLIENT_LIVE)
		return 0;
	if (open != client->open || reserved != client->out_reserved)
		return base_fail(EINVAL, "net: client %u has %u calls with %llu bytes, and says %u with %llu", index, open,
			(unsigned long long)reserved, client->open, (unsigned long long)client->out_reserved);
	if (net_outbox_kept(client->outbox) + open + client->credits_out > net->outbox_max)
		return base_fail(EINVAL, "net: client %u may get more replies than it has places for", index);
	if (client->streams_sent - client->streams_consumed + client->credits_due + client->credits_out !=
		net->options.streams / net->options.device_count * net->options.device_count)
		return base_fail(EINVAL, "net: client %u has lost credits, or won some", index);
	return 0;
}

/* What is shown as of now is what there is. */
static int check_counters(const struct svc_net *net)
{
	uint64_t clients = 0, in_flight = 0, kept = 0;

	for (uint32_t i = 0; i < net->options.clients_max; i++) {
		const struct net_client *client = &net->clients[i];

		if (client->state != NET_CLIENT_LIVE)
			continue;
		clients++;
		in_flight += client->open;
		kept += net_outbox_kept(client->outbox);
	}
	if (clients == net->counters.clients && in_flight == net->counters.in_flight && kept == net->counters.kept)
		return 0;
	return base_fail(EINVAL, "net: %llu clients with %llu requests and %llu replies are not what is counted", (unsigned long long)clients,
		(unsigned long long)in_flight, (unsigned long long)kept);
}

int svc_net_check(const struct svc_net *net)
{
	uint64_t in_bytes = 0;
	uint32_t used = 0;

	for (uint32_t i = 0; i < net->options.clients_max; i++) {
		int rc = check_client(net, &net->clients[i]);

		if (rc)
			return rc;
		in_bytes += net->clients[i].in_bytes;
		used += net->clients[i].state != NET_CLIENT_FREE;
	}
	if (in_bytes + net_pool_free_bytes(net->options.in) != net_pool_bytes(net->options.in))
		return base_fail(EINVAL, "net: clients have %llu bytes of requests, and %llu are free of %llu", (unsigned long long)in_bytes,
			(unsigned long long)net_pool_free_bytes(net->options.in), (unsigned long long)net_pool_bytes(net->options.in));
	return used == net->used ? check_counters(net) : base_fail(EINVAL, "net: %u clients are there, %u counted", used, net->used);
}
