/*
 * Links, their packets and their time. See net_host.h.
 */
#include "netio/net_host.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"
#include "netio/net_host_internal.h"

/* Who says that he is elsewhere now is not asked there more often. */
#define PATH_NS INT64_C(20000000)
/* A sealed body with a PING. */
enum { PING_BODY_BYTES = NET_CHUNK_BYTES + 8 + NET_TAG_BYTES };

/* ---- queues ----------------------------------------------------------------------------------------------- */

static struct link_queue *queue_of(struct net_host *host, const struct link *link)
{
	return link->state == LINK_CONFIRMED ? &host->silent : link->state == LINK_WAITING ? &host->waiting : &host->half_open;
}

static void queue_add(struct net_host *host, struct link *link)
{
	struct link_queue *queue = queue_of(host, link);
	const uint32_t index = (uint32_t)(link - host->links);

	link->since_ns = host->now_ns;
	link->next = NET_NO_LINK;
	link->before = queue->last;
	if (queue->last == NET_NO_LINK)
		queue->first = index;
	else
		host->links[queue->last].next = index;
	queue->last = index;
	queue->count++;
	link->listed = true;
}

static void queue_remove(struct net_host *host, struct link *link)
{
	struct link_queue *queue = queue_of(host, link);

	if (!link->listed)
		return;
	if (link->before == NET_NO_LINK)
		queue->first = link->next;
	else
		host->links[link->before].next = link->next;
	if (link->next == NET_NO_LINK)
		queue->last = link->before;
	else
		host->links[link->next].before = link->before;
	queue->count--;
	link->listed = false;
}

/* ---- links ------------------------------------------------------------------------------------------------ */

static void link_gone(struct net_host *host, struct link *link)
{
	const struct net_host_above *above = &host->options.above;
	const uint32_t owner = link->owner, index = (uint32_t)(link - host->links);
	const bool was_welcomed = link->state >= LINK_WELCOMED;

	net_host_link_free(host, link);
	if (was_welcomed)
		above->gone(above->context, owner, index);
}

static void link_drop(struct net_host *host, struct link *link)
{
	const uint32_t stream = link->way.stream;

	link_gone(host, link);
	if (stream != NET_NO_STREAM)
		host->port->close(host->port->self, stream);
}

/* The oldest that has said nothing yet; where all have shown a key, the oldest of these. */
static void push_out(struct net_host *host)
{
	uint32_t index = host->half_open.first;
	const uint32_t known = index != NET_NO_LINK ? index : host->waiting.first;

	while (index != NET_NO_LINK && host->links[index].state != LINK_OPENED)
		index = host->links[index].next;
	net_count(&host->counters.pushed_out);
	link_drop(host, &host->links[index != NET_NO_LINK ? index : known]);
}

void net_host_push_out(struct net_host *host, uint32_t index)
{
	if (host->links[index].state != LINK_WELCOMED)
		return;
	net_count(&host->counters.pushed_out);
	link_drop(host, &host->links[index]);
}

struct link *net_host_link_take(struct net_host *host, const struct net_way *way)
{
	struct link *link;

	if (host->half_open.count + host->waiting.count >= host->options.half_open_max)
		push_out(host);
	if (host->free_first == NET_NO_LINK)
		return NULL;
	link = &host->links[host->free_first];
	host->free_first = link->next;
	host->used++;
	link->state = LINK_OPENED;
	link->owner = NET_NO_OWNER;
	link->way = *way;
	link->part = NULL;
	link->part_bytes = 0;
	link->path_word = link->path_ns = 0;
	link->welcome_waits = false;
	queue_add(host, link);
	return link;
}

void net_host_link_turn(struct net_host *host, struct link *link, enum link_state state)
{
	queue_remove(host, link);
	link->state = (uint8_t)state;
	queue_add(host, link);
}

/* NULL is fine. */
static void part_give(struct net_host *host, const struct link *link, unsigned char *part)
{
	if (part && part != link->hello)
		host->options.blocks.give(host->options.blocks.context, part);
}

void net_host_link_free(struct net_host *host, struct link *link)
{
	queue_remove(host, link);
	part_give(host, link, link->part);
	link->part = NULL;
	link->state = LINK_FREE;
	/* What is left of its keys and its name. */
	memset(&link->packets, 0, sizeof(link->packets));
	link->next = host->free_first;
	host->free_first = (uint32_t)(link - host->links);
	host->used--;
}

/* ---- sending ---------------------------------------------------------------------------------------------- */

/* Fills memory with packets. Sets the bytes; whether something is left to be said. */
static bool fill_packets(struct link *link, unsigned char *memory, size_t room, size_t *bytes, net_host_fill *fill, void *context)
{
	bool more = true;

	*bytes = 0;
	while (more && room - *bytes >= NET_DATAGRAM_BYTES_LEAST) {
		unsigned char *packet = memory + *bytes;
		struct net_writer body;

		net_packet_begin(&link->packets, packet, room - *bytes, &body);
		more = fill(context, &body);
		if (body.at == packet + net_packet_head_bytes(link->packets.datagram))
			break;
		*bytes += net_packet_end(&link->packets, packet, &body);
		if (link->packets.datagram)
			break;
	}
	return more;
}

bool net_host_send(struct net_host *host, uint32_t index, net_host_fill *fill, void *context)
{
	struct link *link = &host->links[index];
	const struct net_port *port = host->port;
	bool more = true;

	while (more) {
		size_t room, bytes;
		unsigned char *memory = port->room(port->self, &link->way, NET_PACKET_BYTES_MAX, &room);

		if (!memory)
			return false;
		if (link->packets.datagram && room > link->datagram_bytes)
			room = link->datagram_bytes;
		more = fill_packets(link, memory, room, &bytes, fill, context);
		port->put(port->self, &link->way, bytes);
		if (bytes == 0)
			break;
	}
	return true;
}

static bool fill_close(void *context, struct net_writer *body)
{
	(void)net_close_put(body, *(const uint32_t *)context);
	return false;
}

/* As the last thing on a link. */
static void say_close(struct net_host *host, const struct link *link, uint32_t why)
{
	(void)net_host_send(host, (uint32_t)(link - host->links), fill_close, &why);
}

void net_host_close(struct net_host *host, uint32_t index, uint32_t why)
{
	struct link *link = &host->links[index];
	const uint32_t stream = link->way.stream;

	if (link->state == LINK_FREE)
		return;
	if (link->state >= LINK_WELCOMED)
		say_close(host, link, why);
	net_host_link_free(host, link);
	if (stream != NET_NO_STREAM)
		host->port->close(host->port->self, stream);
}

/* ---- packets ---------------------------------------------------------------------------------------------- */

static void confirm(struct net_host *host, struct link *link)
{
	const struct net_host_above *above = &host->options.above;

	queue_remove(host, link);
	link->state = LINK_CONFIRMED;
	if (link->packets.datagram)
		queue_add(host, link);
	net_count(&host->counters.confirmed);
	above->confirmed(above->context, link->owner, (uint32_t)(link - host->links), link->features);
}

/* Chunks that opened. Whether the link goes on. */
static bool take_body(struct net_host *host, struct link *link, struct net_reader *body)
{
	const struct net_host_above *above = &host->options.above;
	uint32_t why;

	if (link->state == LINK_WELCOMED)
		confirm(host, link);
	why = above->body(above->context, link->owner, (uint32_t)(link - host->links), body);
	if (why == NET_WHY_PROTOCOL)
		net_count(&host->counters.broken);
	if (why != NET_WHY_BYE && why != NET_WHY_SAID)
		say_close(host, link, why);
	return why == NET_WHY_BYE;
}

/* A whole packet of a stream. Whether the stream goes on. */
static bool stream_packet(struct net_host *host, struct link *link, unsigned char *packet, const struct net_packet_head *head)
{
	struct net_reader body;

	if (link->state == LINK_OPENED && head->kind == NET_HELLO)
		return net_host_greet_stream(host, link, packet + NET_STREAM_HEAD_BYTES, head->body_bytes);
	if (link->state < LINK_WELCOMED || head->kind != NET_DATA) {
		net_count(&host->counters.malformed);
		return false;
	}
	if (net_packet_open(&link->packets, packet, head, &body)) {
		net_count(&host->counters.bad_packets);
		return false;
	}
	return take_body(host, link, &body);
}

/* ---- streams: packets out of bytes ------------------------------------------------------------------------ */

/* The head of a packet, as net_packet_stream_head. A stranger has nothing to say but HELLO. */
static int stream_head(const struct link *link, const unsigned char *bytes, size_t count, struct net_packet_head *head)
{
	const int rc = net_packet_stream_head(bytes, count, head);

	if (rc <= 0 || link->state >= LINK_WELCOMED)
		return rc;
	if (head->kind != NET_HELLO || link->state == LINK_WAITING)
		return -EPROTO;
	return NET_STREAM_HEAD_BYTES + head->body_bytes <= sizeof(link->hello) ? rc : -EMSGSIZE;
}

/* Whether a packet's beginning is rather to be dropped than another's: of who is half open, then who began first. */
static bool goes_before(const struct link *link, const struct link *other)
{
	const bool is_half_open = link->state != LINK_CONFIRMED;

	if (is_half_open != (other->state != LINK_CONFIRMED))
		return is_half_open;
	return link->part_since_ns < other->part_since_ns;
}

/* Packets come whole within a moment of their beginning; who lets theirs lie makes room for those that begin. False: nobody has any. */
static bool part_push_out(struct net_host *host)
{
	struct link *first = NULL;

	for (uint32_t i = 0; i < host->options.links_max; i++) {
		struct link *link = &host->links[i];

		if (link->part && link->part != link->hello && (!first || goes_before(link, first)))
			first = link;
	}
	if (!first)
		return false;
	net_count(&host->counters.no_memory);
	link_drop(host, first);
	return true;
}

/* Memory for a packet. NULL: there can be none. */
static void *part_take(struct net_host *host, struct link *link, uint32_t bytes)
{
	void *block = link->hello;

	if (link->state == LINK_OPENED)
		return block;
	while (!(block = host->options.blocks.take(host->options.blocks.context, bytes)) && part_push_out(host))
		;
	return block;
}

/* Adds bytes to a packet that is not whole. How many were taken; -EPROTO, -EMSGSIZE, -ENOMEM. */
static int64_t part_add(struct net_host *host, struct link *link, const unsigned char *bytes, size_t count, struct net_packet_head *head)
{
	const size_t left = link->part_bytes < NET_STREAM_HEAD_BYTES ? NET_STREAM_HEAD_BYTES - link->part_bytes : 0;
	const size_t of_head = count < left ? count : left;
	size_t more;
	int rc;

	memcpy(link->part_head + (left ? link->part_bytes : 0), bytes, of_head);
	link->part_bytes += (uint32_t)of_head;
	rc = link->part_bytes < NET_STREAM_HEAD_BYTES ? 0 : stream_head(link, link->part_head, NET_STREAM_HEAD_BYTES, head);
	if (rc <= 0)
		return rc < 0 ? rc : (int64_t)of_head;
	if (!link->part) {
		link->part = part_take(host, link, NET_STREAM_HEAD_BYTES + head->body_bytes);
		if (!link->part)
			return -ENOMEM;
		link->part_since_ns = host->now_ns;
		memcpy(link->part, link->part_head, NET_STREAM_HEAD_BYTES);
	}
	more = NET_STREAM_HEAD_BYTES + head->body_bytes - link->part_bytes;
	more = count - of_head < more ? count - of_head : more;
	memcpy(link->part + link->part_bytes, bytes + of_head, more);
	link->part_bytes += (uint32_t)more;
	return (int64_t)(of_head + more);
}

/* A packet of which a part lies in the link. How many bytes were taken, or an error. */
static int64_t take_part(struct net_host *host, struct link *link, unsigned char *bytes, size_t count)
{
	struct net_packet_head head = { .kind = 0 };
	const int64_t taken = part_add(host, link, bytes, count, &head);
	unsigned char *whole = link->part;
	bool goes_on;

	if (taken < 0 || !whole || link->part_bytes < NET_STREAM_HEAD_BYTES + head.body_bytes)
		return taken;
	link->part = NULL;
	link->part_bytes = 0;
	goes_on = stream_packet(host, link, whole, &head);
	part_give(host, link, whole);
	return goes_on ? taken : -ECANCELED;
}

/* Whole packets in place, as long as there are any. How many bytes they were, or an error. */
static int64_t take_whole(struct net_host *host, struct link *link, unsigned char *bytes, size_t count)
{
	size_t at = 0;

	while (link->part_bytes == 0) {
		struct net_packet_head head;
		const int rc = stream_head(link, bytes + at, count - at, &head);

		if (rc < 0)
			return rc;
		if (rc == 0 || count - at < NET_STREAM_HEAD_BYTES + head.body_bytes)
			break;
		if (!stream_packet(host, link, bytes + at, &head))
			return -ECANCELED;
		at += NET_STREAM_HEAD_BYTES + head.body_bytes;
	}
	return (int64_t)at;
}

static bool on_received(void *context, uint32_t name, unsigned char *bytes, size_t count)
{
	struct net_host *host = context;
	struct link *link = &host->links[name];
	int64_t taken = 0;

	for (size_t at = 0; at < count; at += (size_t)taken) {
		/* One of them takes something: what is no whole packet is part of one. */
		taken = take_whole(host, link, bytes + at, count - at);
		if (taken == 0)
			taken = take_part(host, link, bytes + at, count - at);
		if (taken < 0)
			break;
	}
	if (taken >= 0)
		return true;
	if (taken == -EPROTO)
		net_count(&host->counters.malformed);
	else if (taken == -EMSGSIZE)
		net_count(&host->counters.oversized);
	else if (taken == -ENOMEM)
		net_count(&host->counters.no_memory);
	link_gone(host, link);
	return false;
}

static bool on_opened(void *context, const struct net_way *way, uint32_t *name)
{
	struct net_host *host = context;
	struct link *link = net_host_link_take(host, way);

	net_count(&host->counters.opened);
	if (!link) {
		net_count(&host->counters.refused[NET_WHY_FULL]);
		return false;
	}
	*name = (uint32_t)(link - host->links);
	return true;
}

static void on_gone(void *context, uint32_t name)
{
	struct net_host *host = context;
	struct link *link = &host->links[name];

	if (link->part_bytes > 0 || link->state == LINK_OPENED)
		net_count(&host->counters.truncated);
	else if (link->state != LINK_CONFIRMED)
		net_count(&host->counters.abandoned);
	link_gone(host, link);
}

static void on_writable(void *context, uint32_t name)
{
	struct net_host *host = context;
	struct link *link = &host->links[name];

	if (link->state == LINK_WELCOMED && link->welcome_waits)
		net_host_say_welcome(host, link);
	if (link->state == LINK_CONFIRMED)
		host->options.above.writable(host->options.above.context, link->owner, name);
}

/* ---- datagrams: whose they are ---------------------------------------------------------------------------- */

static struct link *link_by_name(const struct net_host *host, uint64_t name)
{
	const uint32_t index = (uint32_t)name;
	struct link *link = index < host->options.links_max ? &host->links[index] : NULL;

	return link && name && link->state >= LINK_WELCOMED && link->packets.datagram && link->packets.name == name ? link : NULL;
}

/* ---- datagrams: from another address ----------------------------------------------------------------------- */

static bool is_same_way(const struct net_way *one, const struct net_way *other)
{
	return one->listener == other->listener && memcmp(one->address, other->address, sizeof(one->address)) == 0;
}

static bool fill_ping(void *context, struct net_writer *body)
{
	const struct net_times times = { .sender_ns = *(const int64_t *)context };

	(void)net_times_put(body, NET_PING, &times);
	return false;
}

/* Anybody who can forge addresses can have said so: only who repeats a word that was sent there receives there (RFC 9000, 8.2). Until then
 * answers go where they went. */
static void ask_path(struct net_host *host, struct link *link, const struct net_way *way)
{
	const struct net_way known = link->way;

	if (link->path_word != 0 && link->path_ns + PATH_NS > host->now_ns)
		return;
	link->path = *way;
	link->path_ns = host->now_ns;
	host->options.random(host->options.random_context, &link->path_word, sizeof(link->path_word));
	link->path_word |= 1;
	net_count(&host->counters.moves_asked);
	link->way = *way;
	(void)net_host_send(host, (uint32_t)(link - host->links), fill_ping, &link->path_word);
	link->way = known;
}

bool net_host_pong(struct net_host *host, uint32_t index, int64_t word)
{
	struct link *link = &host->links[index];

	if (link->path_word == 0)
		return false;
	if (word == link->path_word && !is_same_way(&link->way, &link->path)) {
		net_count(&host->counters.moves);
		link->way = link->path;
	}
	return true;
}

/* ---- datagrams -------------------------------------------------------------------------------------------- */

static void data_datagram(struct net_host *host, struct link *link, const struct net_way *way, unsigned char *bytes,
	const struct net_packet_head *head)
{
	struct net_reader body;
	const int rc = net_packet_open(&link->packets, bytes, head, &body);

	if (rc) {
		net_count(rc == -EALREADY ? &host->counters.replays : &host->counters.bad_packets);
		return;
	}
	/* Who moves on to another address (a NAT forgets, a phone changes nets) is found there by the newest packet that opens. */
	if (!link->packets.plain && link->packets.replay.end == head->number + 1 &&
		head->body_bytes >= PING_BODY_BYTES && !is_same_way(way, &link->way))
		ask_path(host, link, way);
	if (link->state == LINK_CONFIRMED) {
		queue_remove(host, link);
		queue_add(host, link);
	}
	if (!take_body(host, link, &body))
		link_gone(host, link);
}

static void on_datagram(void *context, const struct net_way *way, unsigned char *bytes, size_t count)
{
	struct net_host *host = context;
	struct net_packet_head head;
	struct link *link;

	if (net_packet_datagram_head(bytes, count, &head)) {
		net_count(&host->counters.malformed);
		return;
	}
	if (head.kind == NET_HELLO) {
		net_host_greet_datagram(host, way, bytes + NET_DATAGRAM_HEAD_BYTES, head.body_bytes);
		return;
	}
	link = head.kind == NET_DATA ? link_by_name(host, head.name) : NULL;
	if (link)
		data_datagram(host, link, way, bytes, &head);
	else if (head.kind == NET_DATA && head.body_bytes >= NET_REFUSED_BYTES)
		net_host_refuse_datagram(host, way, NET_WHY_UNKNOWN);
	else
		net_count(&host->counters.malformed);
}

/* ---- time ------------------------------------------------------------------------------------------------- */

static int64_t queue_due_ns(const struct net_host *host, const struct link_queue *queue, int64_t after_ns)
{
	return queue->first == NET_NO_LINK ? INT64_MAX : host->links[queue->first].since_ns + after_ns;
}

int64_t net_host_next_event_ns(const struct net_host *host)
{
	const int64_t hello_ns = queue_due_ns(host, &host->half_open, host->options.hello_ns);
	const int64_t idle_ns = queue_due_ns(host, &host->silent, host->options.idle_ns);

	if (host->waiting.count > 0)
		return host->now_ns;
	return hello_ns < idle_ns ? hello_ns : idle_ns;
}

static int expire(struct net_host *host, const struct link_queue *queue, int64_t after_ns, _Atomic uint64_t *counter)
{
	int expired = 0;

	while (queue_due_ns(host, queue, after_ns) <= host->now_ns) {
		net_count(counter);
		link_drop(host, &host->links[queue->first]);
		expired++;
	}
	return expired;
}

/* Those whose HELLO came when others were answered. */
static int greet_waiting(struct net_host *host)
{
	int greeted = 0;

	for (; host->greets > 0 && host->waiting.first != NET_NO_LINK; greeted++) {
		struct link *link = &host->links[host->waiting.first];

		net_host_link_turn(host, link, LINK_OPENED);
		if (!net_host_greet_stream(host, link, link->hello, link->hello_bytes))
			link_drop(host, link);
	}
	return greeted;
}

int net_host_poll(struct net_host *host)
{
	int work;

	host->now_ns = base_clock_now(host->options.clock);
	host->answers = 0;
	net_host_greet_budget(host);
	work = greet_waiting(host);
	work += host->port->poll(host->port->self);
	work += expire(host, &host->half_open, host->options.hello_ns, &host->counters.timed_out);
	work += expire(host, &host->waiting, host->options.hello_ns, &host->counters.timed_out);
	work += expire(host, &host->silent, host->options.idle_ns, &host->counters.idle);
	return work;
}

/* ---- the whole of it -------------------------------------------------------------------------------------- */

struct net_above net_host_above(struct net_host *host)
{
	return (struct net_above){ .context = host,
		.opened = on_opened,
		.received = on_received,
		.gone = on_gone,
		.writable = on_writable,
		.datagram = on_datagram };
}

void net_host_attach(struct net_host *host, const struct net_port *port)
{
	host->port = port;
}

void net_host_refuse_all(struct net_host *host, uint32_t why)
{
	host->refuse_why = why;
}

bool net_host_is_datagram(const struct net_host *host, uint32_t link)
{
	return host->links[link].packets.datagram;
}

const struct net_host_counters *net_host_counters(const struct net_host *host)
{
	return &host->counters;
}

uint32_t net_host_links(const struct net_host *host)
{
	return host->used;
}

static void copy_identities(struct net_host *host, const struct net_host_options *options)
{
	for (uint32_t i = 0; i < options->key_count; i++) {
		host->keys[i] = options->keys[i];
		net_key_name(options->keys[i].key, host->key_names[i]);
	}
	for (uint32_t i = 0; i < options->listener_count; i++)
		host->listeners[i] = options->listeners[i];
	host->options.keys = host->keys;
	host->options.listeners = host->listeners;
}

int net_host_create(struct net_host **host_out, const struct net_host_options *options)
{
	struct net_host *host;

	if (options->key_count > NET_KEYS_MAX || options->listener_count > NET_LISTENERS_MAX)
		return base_fail(EINVAL, "net: %u keys and %u listeners are more than %d and %d", options->key_count, options->listener_count,
			NET_KEYS_MAX, NET_LISTENERS_MAX);
	if (options->links_max == 0 || options->half_open_max == 0)
		return base_fail(EINVAL, "net: no place for a connection");
	host = calloc(1, sizeof(*host));
	if (!host)
		return base_fail(ENOMEM, "net: out of memory");
	host->options = *options;
	host->links = calloc(options->links_max, sizeof(*host->links));
	if (!host->links) {
		free(host);
		return base_fail(ENOMEM, "net: out of memory for %u connections", options->links_max);
	}
	copy_identities(host, options);
	options->random(options->random_context, host->secret, sizeof(host->secret));
	host->now_ns = base_clock_now(options->clock);
	host->half_open = host->waiting = host->silent = (struct link_queue){ .first = NET_NO_LINK, .last = NET_NO_LINK };
	host->free_first = NET_NO_LINK;
	for (uint32_t i = options->links_max; i-- > 0;) {
		host->links[i].next = host->free_first;
		host->free_first = i;
	}
	*host_out = host;
	return 0;
}

void net_host_destroy(struct net_host *host)
{
	if (!host)
		return;
	for (uint32_t i = 0; i < host->options.links_max; i++)
		part_give(host, &host->links[i], host->links[i].part);
	/* Keys: what is about to be freed a compiler would not clear. */
	explicit_bzero(host->links, host->options.links_max * sizeof(*host->links));
	free(host->links);
	explicit_bzero(host, sizeof(*host));
	free(host);
}
