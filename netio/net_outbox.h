/*
 * Messages on their way out: numbered from 1, cut into parts that fill packets, and kept until the other side says that they
 * have come. The daemon's log of replies is one, and so are a client's requests; who asks for what is missing is always the
 * client (docs/PROTOCOL.md, Network).
 *
 * Pure; one thread. Memory is taken at creation; payloads are the owner's blocks, which the outbox gives back. Messages take
 * turns, so that a small one does not wait for all of a large one.
 */
#ifndef NET_OUTBOX_H
#define NET_OUTBOX_H

#include "netio/net_inbox.h"

struct net_outbox;

/* messages_max: kept at once, a power of two, at most the other side's window. bytes_max: of payloads kept. arena: zeroed memory that has
 * room for net_outbox_memory more, and outlives the outbox; NULL: it takes its own. -EINVAL, -ENOMEM with a message. */
int net_outbox_create(struct net_outbox **outbox, uint32_t messages_max, uint64_t bytes_max, const struct net_blocks *blocks,
	struct base_arena *arena);
/* What it takes of an arena, alignment included. */
size_t net_outbox_memory(uint32_t messages_max);
void net_outbox_destroy(struct net_outbox *outbox);

/* Whether a message with so much payload may be added. One always may, however long, where no payload is kept, and so may those without. */
bool net_outbox_room(const struct net_outbox *outbox, uint32_t bytes);
/* Adds one, for which there is room. The record is copied; payload: a block, NULL where bytes is 0, the outbox's from now
 * on. Returns its number. */
uint32_t net_outbox_add(struct net_outbox *outbox, const void *record, void *payload, uint32_t bytes);

/* The number that the next one will have. */
uint32_t net_outbox_next(const struct net_outbox *outbox);

/* Puts parts of what is to be sent into a packet, of the kind of first parts. Whether something is left for another packet. */
bool net_outbox_fill(struct net_outbox *outbox, enum net_kind first_kind, struct net_writer *writer);
/* Whether something is to be sent, and may be now. */
bool net_outbox_waiting(const struct net_outbox *outbox);

/* The other side's word for what has come. -EPROTO: it speaks of what was never there. */
int net_outbox_come(struct net_outbox *outbox, const struct net_come *come);

/* What a HAVE has told. */
enum {
	NET_HAVE_MORE = 1,  /* something has come that was not known to have */
	NET_HAVE_HOLES = 2, /* something is missing before the last unit that has come */
};

/* The other side's word for what has come of one message. The bits above, or -EPROTO: it speaks of what was never there. */
int net_outbox_have(struct net_outbox *outbox, const struct net_have *have);
/* What is missing of a message before the last unit that has come is to be sent again. Nothing where no HAVE has told. */
void net_outbox_again(struct net_outbox *outbox, uint32_t number);
/* All that has not come, as far as the other side has said, is to be sent again. */
void net_outbox_resend(struct net_outbox *outbox);
/* Whether of long messages only so much is under way, beyond their first parts, as the way takes: 64 KiB at first, more while nothing is
 * lost, half of it when something is; at most 1 MiB. The other side has to say HAVE then. At first: no. */
void net_outbox_limit(struct net_outbox *outbox, bool limited);

/* Messages that have not come yet, and what is kept of their payloads. */
uint32_t net_outbox_kept(const struct net_outbox *outbox);
uint64_t net_outbox_bytes(const struct net_outbox *outbox);
/* Forgets everything and gives all blocks back; numbers begin at 1 again. */
void net_outbox_reset(struct net_outbox *outbox);

#endif
