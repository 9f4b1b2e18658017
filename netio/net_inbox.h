/*
 * Messages on their way in: parts in any order, some of them twice, become whole messages in the order of their numbers, each once.
 *
 * Pure; one thread. All memory is taken at creation but for the payloads, which lie in blocks that the owner gives. A
 * window's worth of messages can be under way; whoever sends beyond it breaks the protocol.
 *
 *   free -> begun (some part is there, and a block) -> whole -> delivered, free for number + window
 */
#ifndef NET_INBOX_H
#define NET_INBOX_H

#include "base/base_arena.h"
#include "netio/net_wire.h"

enum { NET_WINDOW_MAX = 1024, NET_MESSAGE_BYTES_MAX = 1 << 30 };

/* Where payloads go. take: a block of at least so many bytes (a little more than the payload's), aligned to 8, or NULL for
 * now; give: back. */
struct net_blocks {
	void *context;
	void *(*take)(void *context, uint32_t bytes);
	void (*give)(void *context, void *block);
};

struct net_inbox_message {
	_Alignas(8) unsigned char record[NET_RECORD_BYTES]; /* a copy */
	unsigned char *payload; /* NULL where there is none; the owner's from delivery on */
	uint32_t number, bytes; /* of the payload */
};

struct net_inbox;

/* window: a power of two, at most NET_WINDOW_MAX. arena: zeroed memory that has room for net_inbox_memory more, and outlives the inbox;
 * NULL: it takes its own. -EINVAL, -ENOMEM with a message. */
int net_inbox_create(struct net_inbox **inbox, uint32_t window, uint32_t message_bytes_max, const struct net_blocks *blocks,
	struct base_arena *arena);
/* What it takes of an arena, alignment included. */
size_t net_inbox_memory(uint32_t window);
void net_inbox_destroy(struct net_inbox *inbox);

enum net_inbox_fate {
	NET_PART_KEPT,
	NET_PART_AGAIN,    /* nothing new: the other side has not heard yet that it came */
	NET_PART_NO_BLOCK, /* dropped for want of memory; it will come again */
};

/* Takes a part. A net_inbox_fate, or -EPROTO: outside of the window, or not the message that an earlier part was of;
 * -EMSGSIZE: longer than what was agreed on. */
int net_inbox_part(struct net_inbox *inbox, const struct net_part *part);

/* The next message in order once it is whole, to look at; NULL: it is not. */
const struct net_inbox_message *net_inbox_peek(const struct net_inbox *inbox);
/* Takes it; false: it is not whole. */
bool net_inbox_next(struct net_inbox *inbox, struct net_inbox_message *message);

/* The number of the message that is delivered next; and of the first one that is not whole. */
uint32_t net_inbox_awaited(const struct net_inbox *inbox);
uint32_t net_inbox_missing(const struct net_inbox *inbox);

/* What has come, for ACK or TAKEN: the caller sets `credits`. */
void net_inbox_come(const struct net_inbox *inbox, struct net_come *come);

/* What has come of a message of which some but not all has, for HAVE: the first one that is *ahead or more of the next one to be delivered.
 * Moves *ahead, at first 0, behind it. False: there is none. */
bool net_inbox_have(const struct net_inbox *inbox, uint32_t *ahead, struct net_have *have);
/* Whether nothing has come of a message, but something of a later one. */
bool net_inbox_misses(const struct net_inbox *inbox);

/* Forgets everything and gives all blocks back; numbers begin at 1 again. */
void net_inbox_reset(struct net_inbox *inbox);

#endif
