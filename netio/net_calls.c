/*
 * Requests without an answer. See net_calls.h.
 */
#include "netio/net_calls.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"

enum { PLACE_BITS = 16 };

struct call {
	uint64_t id;            /* the caller's */
	unsigned char *out;
	uint32_t out_capacity;
	uint32_t in_bytes;
	uint32_t number;        /* of the message */
	uint32_t next_free;
	uint8_t op;
	bool is_open;
};

struct net_calls {
	uint32_t most, count;
	uint64_t in_bytes;
	uint32_t first_free; /* most: none */
	struct call calls[]; /* [most] */
};

/* Numbers begin at 1, so that no id is 0. */
static uint64_t wire_id(const struct net_calls *calls, const struct call *call)
{
	return (uint64_t)call->number << PLACE_BITS | (uint64_t)(call - calls->calls);
}

uint32_t net_calls_count(const struct net_calls *calls)
{
	return calls->count;
}

uint64_t net_calls_in_bytes(const struct net_calls *calls)
{
	return calls->in_bytes;
}

/* ---- on the way out ----------------------------------------------------------------------------------------- */

/* The id on the way of what the caller knows as `id`; 0, which none has, where nothing is open under it. */
static uint64_t translated(const struct net_calls *calls, uint64_t id)
{
	for (uint32_t i = 0; i < calls->most; i++)
		if (calls->calls[i].is_open && calls->calls[i].id == id)
			return wire_id(calls, &calls->calls[i]);
	return 0;
}

void net_calls_add(struct net_calls *calls, struct attnd_request *record, void *out, uint32_t number)
{
	struct call *call = &calls->calls[calls->first_free];

	if (record->op == ATTND_OP_CANCEL)
		record->args = translated(calls, record->args);
	calls->first_free = call->next_free;
	calls->count++;
	calls->in_bytes += record->in_bytes;
	*call = (struct call){ .id = record->request_id, .out = out, .out_capacity = record->out_capacity, .in_bytes = record->in_bytes,
		.number = number, .op = record->op, .is_open = true };
	record->version = ATTND_VERSION;
	record->lap = 0;
	record->request_id = wire_id(calls, call);
	record->in_offset = record->out_offset = 0;
}

/* ---- on the way in ------------------------------------------------------------------------------------------ */

static struct call *call_of(struct net_calls *calls, uint64_t id)
{
	const uint64_t place = id & ((1 << PLACE_BITS) - 1);
	struct call *call = place < calls->most ? &calls->calls[place] : NULL;

	return call && call->is_open && call->number == id >> PLACE_BITS ? call : NULL;
}

static void finish(struct net_calls *calls, struct call *call)
{
	call->is_open = false;
	call->next_free = calls->first_free;
	calls->first_free = (uint32_t)(call - calls->calls);
	calls->count--;
	calls->in_bytes -= call->in_bytes;
}

/* A token of a GENERATE brings no result but itself: its place in the output range follows from its sequence. */
static void put_token(const struct call *call, struct attnd_completion *completion)
{
	const uint32_t token = (uint32_t)completion->value, places = call->out_capacity / (uint32_t)sizeof(token);

	if (completion->sequence < places)
		memcpy(call->out + (size_t)completion->sequence * sizeof(token), &token, sizeof(token));
	completion->result_bytes = (completion->sequence < places ? completion->sequence + 1 : places) * (uint32_t)sizeof(token);
}

int net_calls_answer(struct net_calls *calls, const struct net_inbox_message *reply, struct attnd_completion *completion, uint32_t *number)
{
	struct call *call;

	memcpy(completion, reply->record, sizeof(*completion));
	call = call_of(calls, completion->request_id);
	if (!call || reply->bytes > call->out_capacity)
		return -EPROTO;
	*number = call->number;
	completion->request_id = call->id;
	completion->lap = 0;
	if (reply->bytes > 0)
		memcpy(call->out, reply->payload, reply->bytes);
	else if (call->op == ATTND_OP_GENERATE && !(completion->flags & ATTND_CPL_FINAL))
		put_token(call, completion);
	if (completion->flags & ATTND_CPL_FINAL)
		finish(calls, call);
	return 0;
}

/* ---- the whole of it ---------------------------------------------------------------------------------------- */

void net_calls_reset(struct net_calls *calls)
{
	for (uint32_t i = 0; i < calls->most; i++)
		calls->calls[i] = (struct call){ .next_free = i + 1 };
	calls->first_free = calls->count = 0;
	calls->in_bytes = 0;
}

int net_calls_create(struct net_calls **calls_out, uint32_t most)
{
	struct net_calls *calls;

	if (most == 0 || most > NET_WINDOW_MAX)
		return base_fail(EINVAL, "calls: %u are not 1 to %d", most, NET_WINDOW_MAX);
	calls = calloc(1, sizeof(*calls) + most * sizeof(calls->calls[0]));
	if (!calls)
		return base_fail(ENOMEM, "calls: out of memory for %u", most);
	calls->most = most;
	net_calls_reset(calls);
	*calls_out = calls;
	return 0;
}

void net_calls_destroy(struct net_calls *calls)
{
	free(calls);
}
