/*
 * Messages on their way out. See net_outbox.h.
 *
 *   added -> sent (in parts) -> come -> forgotten, once all before it have come
 *     ^-------- resend -------'
 */
#include "netio/net_outbox.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"

struct entry {
	_Alignas(8) unsigned char record[NET_RECORD_BYTES];
	unsigned char *payload;
	uint32_t bytes, sent; /* of the payload */
	bool waiting;         /* some part is to be sent */
	bool come;
};

struct net_outbox {
	struct entry *entries; /* [messages_max]: number n lies at n % messages_max */
	uint32_t messages_max;
	uint32_t first, next;  /* kept: first <= number < next, which may wrap */
	uint32_t turn;         /* whose part goes out next */
	uint32_t waiting;
	uint64_t bytes, bytes_max; /* of payloads kept */
	struct net_blocks blocks;
};

static struct entry *entry_of(const struct net_outbox *outbox, uint32_t number)
{
	return &outbox->entries[number & (outbox->messages_max - 1)];
}

static void set_waiting(struct net_outbox *outbox, struct entry *entry, bool waiting)
{
	outbox->waiting += waiting;
	outbox->waiting -= entry->waiting;
	entry->waiting = waiting;
}

/* ---- adding, sending -------------------------------------------------------------------------------------- */

uint32_t net_outbox_kept(const struct net_outbox *outbox)
{
	return outbox->next - outbox->first;
}

uint64_t net_outbox_bytes(const struct net_outbox *outbox)
{
	return outbox->bytes;
}

bool net_outbox_room(const struct net_outbox *outbox, uint32_t bytes)
{
	if (net_outbox_kept(outbox) == outbox->messages_max)
		return false;
	return bytes == 0 || outbox->bytes == 0 || (outbox->bytes <= outbox->bytes_max && bytes <= outbox->bytes_max - outbox->bytes);
}

uint32_t net_outbox_add(struct net_outbox *outbox, const void *record, void *payload, uint32_t bytes)
{
	const uint32_t number = outbox->next++;
	struct entry *entry = entry_of(outbox, number);

	memcpy(entry->record, record, sizeof(entry->record));
	entry->payload = payload;
	entry->bytes = bytes;
	entry->sent = 0;
	entry->come = false;
	set_waiting(outbox, entry, true);
	outbox->bytes += bytes;
	return number;
}

uint32_t net_outbox_next(const struct net_outbox *outbox)
{
	return outbox->next;
}

bool net_outbox_waiting(const struct net_outbox *outbox)
{
	return outbox->waiting > 0;
}

bool net_outbox_fill(struct net_outbox *outbox, enum net_kind first_kind, struct net_writer *writer)
{
	while (outbox->waiting > 0) {
		uint32_t number = outbox->turn - outbox->first < net_outbox_kept(outbox) ? outbox->turn : outbox->first, taken;
		struct entry *entry = entry_of(outbox, number);

		outbox->turn = number + 1;
		if (!entry->waiting)
			continue;
		if (!net_part_put(writer, first_kind, number, entry->record, entry->payload, entry->bytes, entry->sent, &taken)) {
			outbox->turn = number;
			break;
		}
		entry->sent += taken;
		set_waiting(outbox, entry, entry->sent < entry->bytes);
	}
	return outbox->waiting > 0;
}

/* ---- what has come ---------------------------------------------------------------------------------------- */

static void note_come(struct net_outbox *outbox, struct entry *entry)
{
	if (entry->come)
		return;
	entry->come = true;
	set_waiting(outbox, entry, false);
	outbox->bytes -= entry->bytes;
	if (entry->payload)
		outbox->blocks.give(outbox->blocks.context, entry->payload);
	entry->payload = NULL;
}

int net_outbox_come(struct net_outbox *outbox, const struct net_come *come)
{
	const uint32_t kept = net_outbox_kept(outbox), up_to = come->number - outbox->first + 1; /* messages from first on */

	/* Said before, and overtaken by what was said later. */
	if (up_to > UINT32_MAX / 2)
		return 0;
	if (up_to > kept)
		return -EPROTO;
	for (uint32_t i = 0; i < up_to; i++)
		note_come(outbox, entry_of(outbox, outbox->first + i));
	for (uint32_t i = 0; i < come->words * 64; i++)
		if (come->bitmap[i / 64] >> i % 64 & 1) {
			if (up_to + i >= kept)
				return -EPROTO;
			note_come(outbox, entry_of(outbox, outbox->first + up_to + i));
		}
	while (outbox->first != outbox->next && entry_of(outbox, outbox->first)->come)
		outbox->first++;
	return 0;
}

void net_outbox_resend(struct net_outbox *outbox)
{
	for (uint32_t number = outbox->first; number != outbox->next; number++) {
		struct entry *entry = entry_of(outbox, number);

		if (entry->come)
			continue;
		entry->sent = 0;
		set_waiting(outbox, entry, true);
	}
	outbox->turn = outbox->first;
}

/* ---- the whole of it -------------------------------------------------------------------------------------- */

void net_outbox_reset(struct net_outbox *outbox)
{
	for (uint32_t number = outbox->first; number != outbox->next; number++)
		note_come(outbox, entry_of(outbox, number));
	outbox->first = outbox->next = outbox->turn = 1;
}

int net_outbox_create(struct net_outbox **outbox_out, uint32_t messages_max, uint64_t bytes_max, const struct net_blocks *blocks)
{
	struct net_outbox *outbox;

	if (messages_max == 0 || messages_max > NET_WINDOW_MAX || (messages_max & (messages_max - 1)) != 0)
		return base_fail(EINVAL, "outbox: %u messages are not a power of two up to %d", messages_max, NET_WINDOW_MAX);
	outbox = calloc(1, sizeof(*outbox));
	if (!outbox)
		return base_fail(ENOMEM, "outbox: out of memory");
	outbox->entries = calloc(messages_max, sizeof(*outbox->entries));
	if (!outbox->entries) {
		free(outbox);
		return base_fail(ENOMEM, "outbox: out of memory for %u messages", messages_max);
	}
	outbox->messages_max = messages_max;
	outbox->bytes_max = bytes_max;
	outbox->blocks = *blocks;
	net_outbox_reset(outbox);
	*outbox_out = outbox;
	return 0;
}

void net_outbox_destroy(struct net_outbox *outbox)
{
	if (!outbox)
		return;
	net_outbox_reset(outbox);
	free(outbox->entries);
	free(outbox);
}
