/*
 * Requests on their way in, completions on their way out. See svc_net.h.
 *
 * Three promises are kept by counting, before a request is handed on: its completion has a place in the log of replies; its result has
 * memory; and what a client may have in memory stays within its window. What waits for memory holds at most memory for requests, and what a
 * device has never waits for any: so there is always something that goes on.
 */
#include <errno.h>
#include <string.h>

#include "sched/sched_handle.h"
#include "service/svc_net_internal.h"
#include "service/svc_record.h"

/* ---- to the devices --------------------------------------------------------------------------------------- */

static struct base_spsc *queue_to(const struct svc_net *net, uint32_t device)
{
	return device == SVC_FROM_TEXT ? net->options.to_text : net->options.to_device[device];
}

/* The last places of a queue are for clients that come and go: nothing else may shut them out. */
static bool has_room(const struct svc_net *net, uint32_t device)
{
	return base_spsc_room(queue_to(net, device), 2 * (uint64_t)net->options.clients_max + 1);
}

void svc_net_tell(struct svc_net *net, uint32_t device, const struct sched_message *message)
{
	const struct svc_waker *waker = device == SVC_FROM_TEXT ? &net->options.text_waker : &net->options.device_waker[device];

	if (!base_spsc_push(queue_to(net, device), message)) {
		svc_count(&net->counters.unowed);
		return;
	}
	if (waker->wake)
		waker->wake(waker->context);
}

static uint32_t device_of(struct svc_net *net, const struct attnd_request *record)
{
	const uint32_t devices = net->options.device_count;

	if (svc_record_is_text(record))
		return SVC_FROM_TEXT;
	if (devices == 1)
		return 0;
	if (record->op == ATTND_OP_OPEN)
		return net->open_turn++ % devices;
	/* A wrong device number only finds no session there. */
	return record->session ? sched_handle_device(record->session) % devices : 0;
}

void svc_net_return_credits(struct svc_net *net, struct net_client *client)
{
	/* What is given back may be sent at once, and takes a place in the log of replies. */
	const uint32_t taken = net_outbox_kept(client->outbox) + client->open + client->credits_out;
	uint32_t credits = client->credits_due, by_device[SVC_DEVICES_MAX] = { 0 };

	if (credits > net->outbox_max - taken)
		credits = net->outbox_max - taken;
	for (uint32_t i = 0; i < net->options.device_count; i++)
		if (!has_room(net, i)) {
			/* Nobody else would ask again. */
			if (credits > 0)
				svc_net_touch(net, client);
			return;
		}
	for (uint32_t i = 0; i < credits; i++)
		by_device[client->stream_device ? client->stream_device[(client->streams_consumed - client->credits_due + i) & net->streams_mask] :
			0]++;
	client->credits_due -= credits;
	client->credits_out += credits;
	for (uint32_t i = 0; i < net->options.device_count; i++)
		if (by_device[i])
			svc_net_tell(net, i, &(struct sched_message){ .kind = SCHED_CREDIT,
				.client = net->options.client_first + svc_net_index(net, client), .credits = by_device[i] });
}

/* ---- what comes back -------------------------------------------------------------------------------------- */

static void keep_reply(struct svc_net *net, struct net_client *client, const struct attnd_completion *completion, void *result)
{
	const bool final = completion->flags & ATTND_CPL_FINAL;

	if (net_outbox_bytes(client->outbox) == 0)
		client->out_moved_ns = net->now_ns;
	svc_count(final ? &net->counters.completions : &net->counters.streams);
	net_outbox_add(client->outbox, completion, result, completion->result_bytes);
	atomic_fetch_add_explicit(&net->counters.kept, 1, memory_order_relaxed);
	svc_net_touch(net, client);
}

static void call_end(struct svc_net *net, struct net_client *client, struct net_call *call)
{
	if (call->in)
		client->call_bytes -= net_pool_block_bytes(net->options.in, call->in);
	svc_net_give_in(client, call->in);
	client->out_reserved -= call->out_capacity;
	*call = (struct net_call){ .next_free = client->call_free };
	client->call_free = (uint32_t)(call - client->calls);
	client->open--;
	atomic_fetch_sub_explicit(&net->counters.in_flight, 1, memory_order_relaxed);
}

static void reply_stream(struct svc_net *net, struct net_client *client, struct attnd_completion *completion, uint32_t device)
{
	if (client->credits_out == 0) {
		svc_count(&net->counters.unowed);
		return;
	}
	client->credits_out--;
	if (client->stream_device)
		client->stream_device[client->streams_sent & net->streams_mask] = (uint8_t)device;
	client->streams_sent++;
	completion->result_bytes = 0; /* what it has written so far comes with the last one */
	keep_reply(net, client, completion, NULL);
}

static void reply_final(struct svc_net *net, struct net_client *client, struct attnd_completion *completion, struct net_call *call)
{
	void *result = call->out;

	if (completion->result_bytes > call->out_capacity) {
		svc_count(&net->counters.unowed);
		completion->result_bytes = 0;
	}
	if (completion->result_bytes == 0) {
		svc_net_give_out(client, result);
		result = NULL;
	} else {
		net_pool_shrink(net->options.out, result, completion->result_bytes);
		net->released = true;
	}
	call_end(net, client, call);
	keep_reply(net, client, completion, result);
}

void svc_net_reply(struct svc_net *net, struct net_client *client, const struct attnd_completion *from, uint32_t device)
{
	struct attnd_completion completion = *from;
	struct net_call *call = from->request_id < net->options.in_flight ? &client->calls[from->request_id] : NULL;

	if (!call || !call->used) {
		svc_count(&net->counters.unowed);
		return;
	}
	completion.request_id = call->request_id;
	if (!(completion.flags & ATTND_CPL_FINAL)) {
		reply_stream(net, client, &completion, device);
		return;
	}
	client->text_open -= device == SVC_FROM_TEXT;
	reply_final(net, client, &completion, call);
}

/* Answers a request that nobody else gets to see. */
static void answer(struct svc_net *net, struct net_client *client, const struct attnd_request *record, enum attnd_status status)
{
	const struct attnd_completion completion = { .request_id = record->request_id,
		.status = (uint8_t)status,
		.flags = ATTND_CPL_FINAL,
		.received_ns = net->now_ns,
		.done_ns = net->now_ns };

	keep_reply(net, client, &completion, NULL);
}

/* ---- whole requests --------------------------------------------------------------------------------------- */

static enum attnd_status check(struct svc_net *net, const struct attnd_request *record, const struct net_inbox_message *message)
{
	const enum attnd_status status = svc_record_check(record);

	if (status != ATTND_OK) {
		svc_count(status == ATTND_BAD_OP ? &net->counters.bad_op : &net->counters.bad_record);
		return status;
	}
	if (record->in_offset || record->out_offset || record->in_bytes != message->bytes) {
		svc_count(&net->counters.bad_range);
		return ATTND_BAD_RANGE;
	}
	if (record->out_capacity > net->options.message_bytes) {
		svc_count(&net->counters.too_large);
		return ATTND_TOO_LARGE;
	}
	return ATTND_OK;
}

/* What a request is called by the devices: the number of its call. Requests of one client may have the same id: the first one is meant. */
static uint64_t call_named(const struct svc_net *net, const struct net_client *client, uint64_t request_id)
{
	for (uint32_t i = 0; i < net->options.in_flight; i++)
		if (client->calls[i].used && client->calls[i].request_id == request_id)
			return i;
	return UINT64_MAX;
}

static void hand_on(struct svc_net *net, struct net_client *client, const struct attnd_request *record, void *in, void *out)
{
	struct net_call *call = &client->calls[client->call_free];
	const uint32_t device = device_of(net, record);
	struct sched_message message = { .record = *record,
		.kind = SCHED_REQUEST,
		.client = net->options.client_first + svc_net_index(net, client),
		.received_ns = net->now_ns,
		.in = in,
		.out = out };

	message.record.request_id = client->call_free;
	message.record.lap = 0;
	if (record->op == ATTND_OP_CANCEL)
		message.record.args = call_named(net, client, record->args);
	client->call_free = call->next_free;
	*call = (struct net_call){ .in = in, .out = out, .request_id = record->request_id, .out_capacity = record->out_capacity, .used = true };
	client->out_reserved += record->out_capacity;
	if (in)
		client->call_bytes += net_pool_block_bytes(net->options.in, in);
	client->open++;
	client->text_open += device == SVC_FROM_TEXT;
	atomic_fetch_add_explicit(&net->counters.in_flight, 1, memory_order_relaxed);
	svc_net_tell(net, device, &message);
}

static bool queue_is_full(struct svc_net *net, const struct net_client *client, const struct attnd_request *record)
{
	/* Every device, since which one it will be is not known before. */
	for (uint32_t i = 0; i < net->options.device_count; i++)
		if (!has_room(net, i))
			return true;
	return svc_record_is_text(record) && (client->text_open >= SVC_NET_TEXT_OPEN_MAX || !has_room(net, SVC_FROM_TEXT));
}

/* Whether the reply to a request has a place, and its result a share of the window. */
static bool may_go_on(const struct svc_net *net, const struct net_client *client, uint32_t out_capacity)
{
	if (client->open == net->options.in_flight ||
		net_outbox_kept(client->outbox) + client->open + client->credits_out >= net->outbox_max)
		return false;
	if (out_capacity == 0 || out_capacity > net->options.message_bytes)
		return true;
	return (client->out_reserved == 0 || client->out_reserved + out_capacity <= net->options.window_bytes) &&
		net_outbox_room(client->outbox, (uint32_t)client->out_reserved + out_capacity);
}

/* The next request, or the end of it: whether it went on. */
static bool deliver_one(struct svc_net *net, struct net_client *client, const struct net_inbox_message *next)
{
	struct net_inbox_message message;
	struct attnd_request record;
	enum attnd_status status;
	void *out = NULL;

	memcpy(&record, next->record, sizeof(record));
	if (!may_go_on(net, client, record.out_capacity))
		return false;
	status = check(net, &record, next);
	if (status == ATTND_OK && queue_is_full(net, client, &record)) {
		svc_count(&net->counters.queue_full);
		status = ATTND_QUEUE_FULL;
	}
	if (status == ATTND_OK && record.out_capacity > 0 && !(out = svc_net_take_out(client, record.out_capacity)))
		return false;
	(void)net_inbox_next(client->inbox, &message);
	svc_count(&net->counters.requests);
	if (status == ATTND_OK) {
		hand_on(net, client, &record, message.payload, out);
		return true;
	}
	svc_net_give_in(client, message.payload);
	answer(net, client, &record, status);
	return true;
}

void svc_net_deliver(struct svc_net *net, struct net_client *client)
{
	const struct net_inbox_message *next;

	while ((next = net_inbox_peek(client->inbox)))
		if (!deliver_one(net, client, next))
			break;
}

/* ---- chunks ----------------------------------------------------------------------------------------------- */

static int take_part(struct svc_net *net, struct net_client *client, const struct net_chunk *chunk)
{
	struct net_part part;
	int rc = net_part_read(chunk, &part);

	if (!rc) {
		client->part_number = part.number;
		rc = net_inbox_part(client->inbox, &part);
	}
	switch (rc) {
	case NET_PART_KEPT: client->in_moved_ns = net->now_ns; break;
	case NET_PART_AGAIN: svc_count(&net->counters.again); break;
	case NET_PART_NO_BLOCK:
		svc_count(&net->counters.no_memory);
		client->say_again = true;
		svc_net_wait(net, client);
		break;
	}
	client->say_taken = true;
	client->say_have |= client->haves && rc >= 0 && part.bytes < part.message_bytes;
	client->taken_poll = net->polls;
	return rc < 0 ? rc : 0;
}

static int take_have(struct net_client *client, const struct net_chunk *chunk)
{
	struct net_have have;
	int rc = client->haves ? net_have_read(chunk, &have) : -EPROTO;

	if (!rc)
		rc = net_outbox_have(client->outbox, &have);
	if (rc >= 0 && chunk->flags & NET_HAVE_AGAIN)
		net_outbox_again(client->outbox, have.number);
	return rc < 0 ? rc : 0;
}

static int take_ack(struct svc_net *net, struct net_client *client, const struct net_chunk *chunk)
{
	const uint32_t kept = net_outbox_kept(client->outbox);
	struct net_come come;
	uint32_t consumed;
	int rc = net_come_read(chunk, &come);

	if (!rc)
		rc = net_outbox_come(client->outbox, &come);
	if (rc)
		return rc;
	atomic_fetch_sub_explicit(&net->counters.kept, kept - net_outbox_kept(client->outbox), memory_order_relaxed);
	consumed = come.credits - client->streams_consumed;
	/* Less than was said before: it was overtaken. */
	if (consumed <= UINT32_MAX / 2) {
		if (consumed > client->streams_sent - client->streams_consumed)
			return -EPROTO;
		client->streams_consumed += consumed;
		client->credits_due += consumed;
	}
	if (chunk->flags & NET_ACK_PROBE) {
		svc_count(&net->counters.probes);
		net_outbox_resend(client->outbox);
		client->must_say_taken = true;
	}
	return 0;
}

static int take_ping(struct svc_net *net, struct net_client *client, const struct net_chunk *chunk)
{
	int rc = net_times_read(chunk, &client->pong);

	/* Not the poll's time: that may be before the PING was sent, and the client would think the way shorter than it is. */
	client->pong.received_ns = base_clock_now(net->options.clock);
	client->say_pong |= rc == 0;
	return rc;
}

static int take_pong(struct svc_net *net, const struct net_client *client, const struct net_chunk *chunk)
{
	struct net_times times;

	if (net_times_read(chunk, &times))
		return -EPROTO;
	return net_host_pong(net->host, client->link, times.sender_ns) ? 0 : -EPROTO;
}

static int take_chunk(struct svc_net *net, struct net_client *client, const struct net_chunk *chunk)
{
	switch (chunk->kind) {
	case NET_REQUEST:
	case NET_REQUEST_MORE: return take_part(net, client, chunk);
	case NET_ACK: return take_ack(net, client, chunk);
	case NET_PING: return take_ping(net, client, chunk);
	case NET_PONG: return take_pong(net, client, chunk);
	case NET_HAVE: return take_have(client, chunk);
	case NET_CLOSE: client->bye = true; return chunk->bytes == 0 ? 0 : -EPROTO;
	}
	return -EPROTO;
}

uint32_t svc_net_on_body(void *context, uint32_t owner, uint32_t link, struct net_reader *chunks)
{
	struct svc_net *net = context;
	struct net_client *client = &net->clients[owner];
	struct net_chunk chunk;
	int rc;

	if (client->state != NET_CLIENT_LIVE || client->link != link)
		return svc_net_why_not(net, client, link);
	while ((rc = net_chunk_next(chunks, &chunk)) > 0 && (rc = take_chunk(net, client, &chunk)) == 0)
		;
	if (rc < 0) {
		client->bye = true; /* who breaks the protocol is not waited for */
		return NET_WHY_PROTOCOL;
	}
	svc_net_touch(net, client);
	return client->bye ? NET_WHY_SAID : NET_WHY_BYE;
}

/* ---- sending ---------------------------------------------------------------------------------------------- */

/* What has come of requests that are not whole. What does not fit is said when more has come. */
static void fill_haves(struct net_client *client, struct net_writer *body)
{
	struct net_have have;
	uint32_t ahead = 0;

	while (client->say_have && net_inbox_have(client->inbox, &ahead, &have) && net_have_put(body, 0, &have))
		continue;
	client->say_have = false;
}

/* What stands before replies: an answer to PING, and what has come. */
static void fill_first(struct svc_net *net, struct net_client *client, struct net_writer *body)
{
	struct net_come come;

	if (client->say_pong) {
		client->pong.sent_ns = base_clock_now(net->options.clock);
		client->say_pong = !net_times_put(body, NET_PONG, &client->pong);
	}
	fill_haves(client, body);
	if (!client->say_taken && !client->must_say_taken)
		return;
	net_inbox_come(client->inbox, &come);
	if (!net_come_put(body, NET_TAKEN, client->say_again && !client->waiting ? NET_TAKEN_AGAIN : 0, &come))
		return;
	client->say_taken = client->must_say_taken = false;
	client->say_again &= client->waiting;
}

static bool fill(void *context, struct net_writer *body)
{
	struct net_client *client = context;

	fill_first(client->net, client, body);
	return net_outbox_fill(client->outbox, NET_REPLY, body);
}

/* Of what has been taken nobody waits to hear on a stream: it goes along with the next reply. On a datagram socket it waits for one poll,
 * in which a quick answer comes that it can go along with. */
static bool has_to_say_taken(const struct svc_net *net, const struct net_client *client)
{
	return client->say_taken && net_host_is_datagram(net->host, client->link) && (client->open == 0 || client->taken_poll != net->polls);
}

bool svc_net_says_later(const struct svc_net *net, const struct net_client *client)
{
	return client->say_taken && client->link != SVC_NO_LINK && net_host_is_datagram(net->host, client->link);
}

static bool has_something_to_say(const struct svc_net *net, const struct net_client *client)
{
	return client->must_say_taken || client->say_pong || client->say_have || net_outbox_waiting(client->outbox) ||
		(client->say_again && !client->waiting) || has_to_say_taken(net, client);
}

bool svc_net_send(struct svc_net *net, struct net_client *client)
{
	if (client->link == SVC_NO_LINK || !has_something_to_say(net, client))
		return true;
	client->must_say_taken |= client->say_again && !client->waiting;
	return net_host_send(net->host, client->link, fill, client);
}
