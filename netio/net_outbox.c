/*
 * Messages on their way out. See net_outbox.h.
 *
 *   added -> sent (in parts) -> come -> forgotten, once all before it have come
 *     ^-------- resend -------'
 *
 * Payload counts in units. Of one message:
 *
 *   0 ........ left ............ next ............ top ............ units
 *     come      |  some may have   |  sent before    |  never sent
 *               '- the first that has not come, as far as the other side has said
 *
 * next and top differ only while holes are sent again: up to `holes_end`, where next goes on at top.
 */
#include "netio/net_outbox.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_assert.h"
#include "base/base_error.h"

enum {
	WORD_BITS = 64,
	NONE = UINT16_MAX,
	KNOWN = 4,      /* messages of which it is known what has come of them: there are few long ones at a time */
	RUN_MAX = NET_BODY_BYTES_MAX / NET_UNIT_BYTES, /* units in a part */
	LIMIT_FIRST = 64, LIMIT_LEAST = 16, LIMIT_MOST = 1024, /* units under way; the most that a HAVE can speak of */
	LIMIT_STEP = 8, /* by which it grows in a round trip, once something was lost */
};

struct entry {
	_Alignas(8) unsigned char record[NET_RECORD_BYTES];
	unsigned char *payload;
	uint32_t bytes;               /* of the payload */
	uint32_t left, next, top;     /* units */
	uint32_t holes_end;           /* 0: no holes are being sent */
	uint32_t flight;              /* units sent that may be under way */
	bool waiting;                 /* some part is to be sent */
	bool unbound;                 /* and that even if no more may be under way */
	uint16_t next_free;
};

/* What the other side has said of a message: as in struct net_have. words 0: nothing, of none. */
struct known {
	uint32_t number, first, words;
	uint64_t bitmap[NET_BITMAP_WORDS_MAX];
};

struct net_outbox {
	uint16_t *at;          /* [messages_max]: which entry message n has, at n % messages_max; NONE: it has come */
	struct entry *entries; /* [messages_max] */
	uint16_t free_first;   /* the one that was given back last is taken first: it is in the cache; NONE: one that was never used */
	uint16_t used;         /* entries that ever were: the rest of the memory was never touched */
	bool is_own;           /* the memory */
	uint32_t messages_max;
	uint32_t first, next;  /* kept: first <= number < next, which may wrap */
	uint32_t turn;         /* whose part goes out next */
	uint32_t waiting, unbound;
	uint32_t flight, limit; /* units under way, and how many may be; limit 0: any number */
	uint32_t grown;        /* units that have come since the limit grew */
	bool has_lost;
	uint64_t bytes, bytes_max; /* of payloads kept */
	struct net_blocks blocks;
	uint32_t known_count;  /* of these: in use */
	struct known known[KNOWN];
};

static uint16_t *place_of(const struct net_outbox *outbox, uint32_t number)
{
	return &outbox->at[number & (outbox->messages_max - 1)];
}

/* Of a message from `first` on and before `next`. NULL: it has come. */
static struct entry *entry_of(const struct net_outbox *outbox, uint32_t number)
{
	const uint16_t at = *place_of(outbox, number);

	return at == NONE ? NULL : &outbox->entries[at];
}

static uint32_t units_of(uint32_t bytes)
{
	return bytes / NET_UNIT_BYTES + (bytes % NET_UNIT_BYTES != 0);
}

/* First parts are small, and so are holes: they do not wait for what is under way. */
static void set_waiting(struct net_outbox *outbox, struct entry *entry, bool waiting)
{
	const bool unbound = waiting && (entry->next == 0 || entry->holes_end > 0);

	outbox->waiting += waiting;
	outbox->waiting -= entry->waiting;
	outbox->unbound += unbound;
	outbox->unbound -= entry->unbound;
	entry->waiting = waiting;
	entry->unbound = unbound;
}

static void set_flight(struct net_outbox *outbox, struct entry *entry, uint32_t flight)
{
	outbox->flight += flight;
	outbox->flight -= entry->flight;
	entry->flight = flight;
}

/* ---- how much may be under way ---------------------------------------------------------------------------- */

/* Doubles in a round trip until something is lost, then grows slowly (Jacobson 1988). */
static void limit_grow(struct net_outbox *outbox, uint32_t units)
{
	if (outbox->limit == 0)
		return;
	if (!outbox->has_lost) {
		outbox->limit += units;
	} else {
		outbox->grown += units;
		if (outbox->grown >= outbox->limit) {
			outbox->grown = 0;
			outbox->limit += LIMIT_STEP;
		}
	}
	if (outbox->limit > LIMIT_MOST)
		outbox->limit = LIMIT_MOST;
}

static void limit_shrink(struct net_outbox *outbox)
{
	if (outbox->limit == 0)
		return;
	outbox->has_lost = true;
	outbox->grown = 0;
	outbox->limit = outbox->limit / 2 > LIMIT_LEAST ? outbox->limit / 2 : LIMIT_LEAST;
}

void net_outbox_limit(struct net_outbox *outbox, bool limited)
{
	outbox->limit = limited ? LIMIT_FIRST : 0;
	outbox->has_lost = false;
	outbox->grown = 0;
}

/* Units that may be sent now. */
static uint32_t allowance(const struct net_outbox *outbox)
{
	if (outbox->limit == 0)
		return UINT32_MAX;
	return outbox->limit > outbox->flight ? outbox->limit - outbox->flight : 0;
}

/* ---- what has come of a message --------------------------------------------------------------------------- */

static const struct known *known_of(const struct net_outbox *outbox, uint32_t number)
{
	for (uint32_t i = 0; i < KNOWN && outbox->known_count > 0; i++)
		if (outbox->known[i].words > 0 && outbox->known[i].number == number)
			return &outbox->known[i];
	return NULL;
}

static bool has_come(const struct known *known, uint32_t unit)
{
	const uint32_t bit = unit - known->first - 1;

	if (unit <= known->first)
		return unit < known->first;
	return bit < known->words * WORD_BITS && known->bitmap[bit / WORD_BITS] >> bit % WORD_BITS & 1;
}

static void known_forget(struct net_outbox *outbox, uint32_t number)
{
	for (uint32_t i = 0; i < KNOWN && outbox->known_count > 0; i++)
		if (outbox->known[i].words > 0 && outbox->known[i].number == number) {
			outbox->known[i].words = 0;
			outbox->known_count--;
		}
}

/* Keeps the newest word about a message, if there is a place for it. */
static void known_set(struct net_outbox *outbox, const struct net_have *have)
{
	struct known *to = NULL;

	known_forget(outbox, have->number);
	for (uint32_t i = 0; i < KNOWN && have->words > 0 && !to; i++)
		if (outbox->known[i].words == 0)
			to = &outbox->known[i];
	if (!to)
		return;
	outbox->known_count++;
	*to = (struct known){ .number = have->number, .first = have->first, .words = have->words };
	memcpy(to->bitmap, have->bitmap, sizeof(to->bitmap));
}

/* One more than the last unit that has come; 0: of none behind the first one missing is it known. */
static uint32_t known_end(const struct known *known)
{
	for (uint32_t word = known ? known->words : 0; word-- > 0;)
		if (known->bitmap[word])
			return known->first + 2 + word * WORD_BITS + (WORD_BITS - 1 - (uint32_t)__builtin_clzll(known->bitmap[word]));
	return 0;
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

static struct entry *entry_take(struct net_outbox *outbox, uint32_t number)
{
	const uint16_t at = outbox->free_first != NONE ? outbox->free_first : outbox->used++;

	BASE_ASSERT(at < outbox->messages_max); /* whoever adds has asked whether there is room */
	if (at == outbox->free_first)
		outbox->free_first = outbox->entries[at].next_free;
	*place_of(outbox, number) = at;
	return &outbox->entries[at];
}

uint32_t net_outbox_add(struct net_outbox *outbox, const void *record, void *payload, uint32_t bytes)
{
	const uint32_t number = outbox->next++;
	struct entry *entry = entry_take(outbox, number);

	memcpy(entry->record, record, sizeof(entry->record));
	entry->payload = payload;
	entry->bytes = bytes;
	entry->left = entry->next = entry->top = entry->holes_end = 0;
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
	return outbox->unbound > 0 || (outbox->waiting > 0 && allowance(outbox) > 0);
}

/* The next units of a message that are to be sent in one part. 0: only its record, or none is left. */
static uint32_t next_run(const struct net_outbox *outbox, struct entry *entry, const struct known *known)
{
	uint32_t end = entry->holes_end > 0 ? entry->holes_end : units_of(entry->bytes), run = 0;

	while (known && entry->next < end && has_come(known, entry->next))
		entry->next++;
	/* Beyond it, where the other side has told meanwhile that all of these have come. */
	if (entry->next >= end && entry->holes_end > 0) {
		entry->next = entry->top;
		entry->holes_end = 0;
		end = units_of(entry->bytes);
	}
	if (entry->next > 0 && entry->holes_end == 0 && end - entry->next > allowance(outbox))
		end = entry->next + allowance(outbox);
	while (run < RUN_MAX && entry->next + run < end && !(known && has_come(known, entry->next + run)))
		run++;
	return run;
}

/* Puts one part. False: there is no room for it. */
static bool put_part(struct net_outbox *outbox, struct entry *entry, uint32_t number, enum net_kind first_kind, struct net_writer *writer)
{
	const uint32_t run = next_run(outbox, entry, known_of(outbox, number)), before = entry->next == 0 ? NET_RECORD_BYTES : NET_OFFSET_BYTES;
	const size_t most = NET_CHUNK_BYTES + before + (size_t)run * NET_UNIT_BYTES;
	struct net_writer part = *writer;
	uint32_t taken;

	if (entry->next > 0 && run == 0) {
		set_waiting(outbox, entry, entry->next < units_of(entry->bytes));
		return true;
	}
	if ((size_t)(part.end - part.at) > most)
		part.end = part.at + most;
	if (!net_part_put(&part, first_kind, number, entry->record, entry->payload, entry->bytes, entry->next * NET_UNIT_BYTES, &taken))
		return false;
	writer->at = part.at;
	entry->next += units_of(taken);
	if (entry->holes_end == 0) {
		set_flight(outbox, entry, entry->flight + units_of(taken));
		entry->top = entry->next;
	}
	set_waiting(outbox, entry, entry->next < units_of(entry->bytes) || entry->holes_end > 0);
	return true;
}

bool net_outbox_fill(struct net_outbox *outbox, enum net_kind first_kind, struct net_writer *writer)
{
	uint32_t passed = 0; /* messages that have nothing to send now, one after the other */

	while (net_outbox_waiting(outbox) && passed < net_outbox_kept(outbox)) {
		uint32_t number = outbox->turn - outbox->first < net_outbox_kept(outbox) ? outbox->turn : outbox->first;
		struct entry *entry = entry_of(outbox, number);

		outbox->turn = number + 1;
		passed++;
		if (!entry || (!entry->unbound && !(entry->waiting && allowance(outbox) > 0)))
			continue;
		if (!put_part(outbox, entry, number, first_kind, writer)) {
			outbox->turn = number;
			break;
		}
		passed = 0;
	}
	return net_outbox_waiting(outbox);
}

/* ---- what has come ---------------------------------------------------------------------------------------- */

static void entry_give(struct net_outbox *outbox, uint32_t number)
{
	const uint16_t at = *place_of(outbox, number);

	outbox->entries[at].next_free = outbox->free_first;
	outbox->free_first = at;
	*place_of(outbox, number) = NONE;
}

static void note_come(struct net_outbox *outbox, uint32_t number)
{
	struct entry *entry = entry_of(outbox, number);

	if (!entry)
		return;
	set_waiting(outbox, entry, false);
	limit_grow(outbox, entry->flight);
	set_flight(outbox, entry, 0);
	known_forget(outbox, number);
	outbox->bytes -= entry->bytes;
	if (entry->payload)
		outbox->blocks.give(outbox->blocks.context, entry->payload);
	entry_give(outbox, number);
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
		note_come(outbox, outbox->first + i);
	for (uint32_t i = 0; i < come->words * WORD_BITS; i++)
		if (come->bitmap[i / WORD_BITS] >> i % WORD_BITS & 1) {
			if (up_to + i >= kept)
				return -EPROTO;
			note_come(outbox, outbox->first + up_to + i);
		}
	while (outbox->first != outbox->next && !entry_of(outbox, outbox->first))
		outbox->first++;
	return 0;
}

/* Units of those sent that are not known to have come. */
static uint32_t flight_of(const struct entry *entry, const struct known *known)
{
	uint32_t flight = 0;

	if (!known)
		return entry->top - entry->left;
	for (uint32_t unit = entry->left; unit < entry->top; unit++)
		flight += !has_come(known, unit);
	return flight;
}

int net_outbox_have(struct net_outbox *outbox, const struct net_have *have)
{
	const uint32_t ahead = have->number - outbox->first;
	struct entry *entry;
	uint32_t before;

	if (ahead >= net_outbox_kept(outbox))
		return ahead > UINT32_MAX / 2 ? 0 : -EPROTO;
	entry = entry_of(outbox, have->number);
	if (entry && have->first >= units_of(entry->bytes))
		return -EPROTO;
	if (!entry || have->first < entry->left)
		return 0;
	known_set(outbox, have);
	before = entry->flight;
	entry->left = have->first;
	entry->top = entry->top > entry->left ? entry->top : entry->left;
	if (entry->next < entry->left)
		entry->next = entry->left;
	set_flight(outbox, entry, flight_of(entry, known_of(outbox, have->number)));
	set_waiting(outbox, entry, entry->waiting);
	if (entry->flight < before)
		limit_grow(outbox, before - entry->flight);
	return (entry->flight < before ? NET_HAVE_MORE : 0) | (known_end(known_of(outbox, have->number)) > 0 ? NET_HAVE_HOLES : 0);
}

void net_outbox_again(struct net_outbox *outbox, uint32_t number)
{
	struct entry *entry = number - outbox->first < net_outbox_kept(outbox) ? entry_of(outbox, number) : NULL;
	uint32_t end = known_end(known_of(outbox, number));

	if (!entry || end == 0)
		return;
	if (end > units_of(entry->bytes))
		end = units_of(entry->bytes);
	limit_shrink(outbox);
	entry->top = entry->top > end ? entry->top : end;
	entry->next = entry->left;
	entry->holes_end = end;
	set_waiting(outbox, entry, true);
}

void net_outbox_resend(struct net_outbox *outbox)
{
	if (outbox->flight > 0)
		limit_shrink(outbox);
	for (uint32_t number = outbox->first; number != outbox->next; number++) {
		struct entry *entry = entry_of(outbox, number);

		if (!entry)
			continue;
		entry->next = entry->top = entry->left;
		entry->holes_end = 0;
		set_flight(outbox, entry, 0);
		set_waiting(outbox, entry, true);
	}
	outbox->turn = outbox->first;
}

/* ---- the whole of it -------------------------------------------------------------------------------------- */

void net_outbox_reset(struct net_outbox *outbox)
{
	for (uint32_t number = outbox->first; number != outbox->next; number++)
		note_come(outbox, number);
	outbox->first = outbox->next = outbox->turn = 1;
	net_outbox_limit(outbox, outbox->limit > 0);
}

/* What is needed of every message together, so that it takes few pages. */
size_t net_outbox_memory(uint32_t messages_max)
{
	return sizeof(struct net_outbox) + messages_max * (sizeof(uint16_t) + sizeof(struct entry)) + 2 * _Alignof(struct entry);
}

/* NULL with a message. */
static struct net_outbox *take_memory(uint32_t messages_max, struct base_arena *arena)
{
	const size_t bytes = net_outbox_memory(messages_max);
	struct net_outbox *outbox = arena ? base_arena_take(arena, bytes, 64) : calloc(1, bytes);
	unsigned char *entries;

	if (!outbox) {
		(void)base_fail(ENOMEM, "outbox: out of memory for %u messages", messages_max);
		return NULL;
	}
	entries = (unsigned char *)(outbox + 1) + messages_max * sizeof(*outbox->at);
	entries += -(uintptr_t)entries % _Alignof(struct entry);
	outbox->at = (uint16_t *)(void *)(outbox + 1);
	outbox->entries = (struct entry *)(void *)entries;
	outbox->is_own = !arena;
	return outbox;
}

int net_outbox_create(struct net_outbox **outbox_out, uint32_t messages_max, uint64_t bytes_max, const struct net_blocks *blocks,
	struct base_arena *arena)
{
	struct net_outbox *outbox;

	if (messages_max == 0 || messages_max > NET_WINDOW_MAX || (messages_max & (messages_max - 1)) != 0)
		return base_fail(EINVAL, "outbox: %u messages are not a power of two up to %d", messages_max, NET_WINDOW_MAX);
	outbox = take_memory(messages_max, arena);
	if (!outbox)
		return -ENOMEM;
	outbox->messages_max = messages_max;
	outbox->bytes_max = bytes_max;
	outbox->blocks = *blocks;
	outbox->free_first = NONE;
	memset(outbox->at, 0xff, messages_max * sizeof(*outbox->at)); /* NONE */
	net_outbox_reset(outbox);
	*outbox_out = outbox;
	return 0;
}

void net_outbox_destroy(struct net_outbox *outbox)
{
	if (!outbox)
		return;
	net_outbox_reset(outbox);
	if (outbox->is_own)
		free(outbox);
}
