/*
 * Messages on their way in. See net_inbox.h.
 */
#include "netio/net_inbox.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_assert.h"
#include "base/base_error.h"

enum { WORD_BITS = 64, NONE = UINT16_MAX };

struct slot {
	struct net_inbox_message message;
	uint64_t *units;     /* bits of those that have come; in the payload's block, behind it */
	uint32_t units_left;
	uint32_t first_left; /* the first one that has not come */
	bool has_record;
	uint16_t next_free;
};

struct net_inbox {
	uint16_t *at;        /* [window]: which slot message n has, at n % window; NONE: nothing of it has come */
	struct slot *slots;  /* [window] */
	uint16_t free_first; /* the one that was given back last is taken first: it is in the cache; NONE: one that was never used */
	uint16_t used;       /* slots that ever were: the rest of the memory was never touched */
	bool is_own;         /* the memory */
	uint32_t window, bytes_max;
	uint32_t next;      /* number of the message that is delivered next */
	uint32_t end;       /* no message from here on has begun */
	struct net_blocks blocks;
};

static uint32_t divide_up(uint32_t value, uint32_t unit)
{
	return value / unit + (value % unit != 0);
}

static uint16_t *place_of(const struct net_inbox *inbox, uint32_t number)
{
	return &inbox->at[number & (inbox->window - 1)];
}

/* NULL: nothing of it has come. */
static struct slot *slot_of(const struct net_inbox *inbox, uint32_t number)
{
	const uint16_t at = *place_of(inbox, number);

	return at == NONE ? NULL : &inbox->slots[at];
}

static bool is_whole(const struct slot *slot)
{
	return slot && slot->has_record && slot->units_left == 0;
}

static struct slot *slot_take(struct net_inbox *inbox, uint32_t number)
{
	const uint16_t at = inbox->free_first != NONE ? inbox->free_first : inbox->used++;

	BASE_ASSERT(at < inbox->window); /* there is one for each message of the window */
	if (at == inbox->free_first)
		inbox->free_first = inbox->slots[at].next_free;
	*place_of(inbox, number) = at;
	return &inbox->slots[at];
}

static void slot_give(struct net_inbox *inbox, uint32_t number)
{
	const uint16_t at = *place_of(inbox, number);

	inbox->slots[at].next_free = inbox->free_first;
	inbox->free_first = at;
	*place_of(inbox, number) = NONE;
}

/* ---- parts ------------------------------------------------------------------------------------------------ */

static int begin(struct net_inbox *inbox, const struct net_part *part)
{
	const uint32_t units = divide_up(part->message_bytes, NET_UNIT_BYTES);
	unsigned char *block = NULL;
	uint64_t *bits = NULL;
	struct slot *slot;

	if (part->message_bytes > inbox->bytes_max)
		return -EMSGSIZE;
	if (units > 0) {
		const uint32_t payload_bytes = divide_up(part->message_bytes, sizeof(*bits)) * sizeof(*bits);
		const uint32_t bits_bytes = divide_up(units, WORD_BITS) * sizeof(*bits);

		block = inbox->blocks.take(inbox->blocks.context, payload_bytes + bits_bytes);
		if (!block)
			return NET_PART_NO_BLOCK;
		bits = (uint64_t *)(void *)(block + payload_bytes);
		memset(bits, 0, bits_bytes);
	}
	slot = slot_take(inbox, part->number);
	slot->message.payload = block;
	slot->message.number = part->number;
	slot->message.bytes = part->message_bytes;
	slot->units = bits;
	slot->units_left = units;
	slot->first_left = 0;
	slot->has_record = false;
	if (part->number - inbox->next >= inbox->end - inbox->next)
		inbox->end = part->number + 1;
	return NET_PART_KEPT;
}

static bool has_unit(const struct slot *slot, uint32_t unit)
{
	return slot->units[unit / WORD_BITS] >> unit % WORD_BITS & 1;
}

/* Notes a unit; whether it is new. */
static bool is_new_unit(struct slot *slot, uint32_t unit)
{
	const uint64_t bit = UINT64_C(1) << unit % WORD_BITS;
	uint64_t *word = &slot->units[unit / WORD_BITS];
	const bool is_new = !(*word & bit);

	*word |= bit;
	slot->units_left -= is_new;
	while (slot->units_left > 0 && has_unit(slot, slot->first_left))
		slot->first_left++;
	return is_new;
}

/* What has come stands: of a unit that comes again nothing is looked at. */
static int fill(struct slot *slot, const struct net_part *part)
{
	int fate = NET_PART_AGAIN;

	for (uint32_t at = 0; at < part->bytes; at += NET_UNIT_BYTES) {
		const uint32_t left = part->bytes - at;

		if (!is_new_unit(slot, (part->offset + at) / NET_UNIT_BYTES))
			continue;
		memcpy(slot->message.payload + part->offset + at, part->payload + at, left < NET_UNIT_BYTES ? left : NET_UNIT_BYTES);
		fate = NET_PART_KEPT;
	}
	if (part->record && !slot->has_record) {
		memcpy(slot->message.record, part->record, NET_RECORD_BYTES);
		slot->has_record = true;
		fate = NET_PART_KEPT;
	}
	return fate;
}

int net_inbox_part(struct net_inbox *inbox, const struct net_part *part)
{
	const uint32_t ahead = part->number - inbox->next;
	const struct slot *slot = slot_of(inbox, part->number);

	if (ahead >= inbox->window)
		return ahead > UINT32_MAX / 2 ? NET_PART_AGAIN : -EPROTO;
	if (!slot) {
		int fate = begin(inbox, part);

		if (fate != NET_PART_KEPT)
			return fate;
	} else if (part->message_bytes != slot->message.bytes) {
		return -EPROTO;
	}
	return fill(slot_of(inbox, part->number), part);
}

/* ---- whole messages --------------------------------------------------------------------------------------- */

const struct net_inbox_message *net_inbox_peek(const struct net_inbox *inbox)
{
	const struct slot *slot = slot_of(inbox, inbox->next);

	return is_whole(slot) ? &slot->message : NULL;
}

uint32_t net_inbox_awaited(const struct net_inbox *inbox)
{
	return inbox->next;
}

bool net_inbox_next(struct net_inbox *inbox, struct net_inbox_message *message)
{
	const struct slot *slot = slot_of(inbox, inbox->next);

	if (!is_whole(slot))
		return false;
	*message = slot->message;
	slot_give(inbox, inbox->next);
	inbox->next++;
	return true;
}

uint32_t net_inbox_missing(const struct net_inbox *inbox)
{
	uint32_t number = inbox->next;

	while (number != inbox->end && is_whole(slot_of(inbox, number)))
		number++;
	return number;
}

void net_inbox_come(const struct net_inbox *inbox, struct net_come *come)
{
	const uint32_t number = net_inbox_missing(inbox);

	*come = (struct net_come){ .words = 0 };
	come->number = number - 1;
	/* The one behind it has not come: its bit, the first one, stays 0. */
	for (uint32_t i = 0; number + i != inbox->end && i < NET_BITMAP_WORDS_MAX * WORD_BITS; i++)
		if (is_whole(slot_of(inbox, number + i))) {
			come->bitmap[i / WORD_BITS] |= UINT64_C(1) << i % WORD_BITS;
			come->words = i / WORD_BITS + 1;
		}
}

/* The units behind the first one that is missing, as far as the bitmap goes. */
static void write_bits(const struct slot *slot, struct net_have *have)
{
	const uint32_t units = divide_up(slot->message.bytes, NET_UNIT_BYTES), from = slot->first_left + 1;

	for (uint32_t i = 0; from + i < units && i < NET_BITMAP_WORDS_MAX * WORD_BITS; i++)
		if (has_unit(slot, from + i)) {
			have->bitmap[i / WORD_BITS] |= UINT64_C(1) << i % WORD_BITS;
			have->words = i / WORD_BITS + 1;
		}
}

bool net_inbox_have(const struct net_inbox *inbox, uint32_t *ahead, struct net_have *have)
{
	while (*ahead < inbox->end - inbox->next) {
		const uint32_t number = inbox->next + (*ahead)++;
		const struct slot *slot = slot_of(inbox, number);

		if (!slot || slot->units_left == 0)
			continue;
		*have = (struct net_have){ .number = number, .first = slot->first_left };
		write_bits(slot, have);
		return true;
	}
	return false;
}

bool net_inbox_misses(const struct net_inbox *inbox)
{
	for (uint32_t number = inbox->next; number != inbox->end; number++)
		if (!slot_of(inbox, number))
			return true;
	return false;
}

/* ---- the whole of it -------------------------------------------------------------------------------------- */

void net_inbox_reset(struct net_inbox *inbox)
{
	for (uint32_t number = inbox->next; number != inbox->end; number++) {
		const struct slot *slot = slot_of(inbox, number);

		if (slot && slot->message.payload)
			inbox->blocks.give(inbox->blocks.context, slot->message.payload);
		if (slot)
			slot_give(inbox, number);
	}
	inbox->next = inbox->end = 1;
}

/* What is needed of every message together, so that it takes few pages. */
size_t net_inbox_memory(uint32_t window)
{
	return sizeof(struct net_inbox) + window * (sizeof(uint16_t) + sizeof(struct slot)) + 2 * _Alignof(struct slot);
}

/* NULL with a message. */
static struct net_inbox *take_memory(uint32_t window, struct base_arena *arena)
{
	struct net_inbox *inbox = arena ? base_arena_take(arena, net_inbox_memory(window), 64) : calloc(1, net_inbox_memory(window));
	unsigned char *slots;

	if (!inbox) {
		(void)base_fail(ENOMEM, "inbox: out of memory for %u messages", window);
		return NULL;
	}
	slots = (unsigned char *)(inbox + 1) + window * sizeof(*inbox->at);
	slots += -(uintptr_t)slots % _Alignof(struct slot);
	inbox->at = (uint16_t *)(void *)(inbox + 1);
	inbox->slots = (struct slot *)(void *)slots;
	inbox->is_own = !arena;
	return inbox;
}

int net_inbox_create(struct net_inbox **inbox_out, uint32_t window, uint32_t message_bytes_max, const struct net_blocks *blocks,
	struct base_arena *arena)
{
	struct net_inbox *inbox;

	if (window == 0 || window > NET_WINDOW_MAX || (window & (window - 1)) != 0)
		return base_fail(EINVAL, "inbox: a window of %u messages is not a power of two up to %d", window, NET_WINDOW_MAX);
	if (message_bytes_max > NET_MESSAGE_BYTES_MAX)
		return base_fail(EINVAL, "inbox: messages of %u bytes are longer than %u", message_bytes_max, NET_MESSAGE_BYTES_MAX);
	inbox = take_memory(window, arena);
	if (!inbox)
		return -ENOMEM;
	inbox->window = window;
	inbox->bytes_max = message_bytes_max;
	inbox->blocks = *blocks;
	inbox->next = inbox->end = 1;
	inbox->free_first = NONE;
	memset(inbox->at, 0xff, window * sizeof(*inbox->at)); /* NONE */
	*inbox_out = inbox;
	return 0;
}

void net_inbox_destroy(struct net_inbox *inbox)
{
	if (!inbox)
		return;
	net_inbox_reset(inbox);
	if (inbox->is_own)
		free(inbox);
}
