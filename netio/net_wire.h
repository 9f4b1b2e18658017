/*
 * What a packet holds: chunks, and what they mean. docs/PROTOCOL.md, Network, has the bytes.
 *
 * Pure: bytes in, bytes out; nothing is kept, allocated or looked up. What is read comes from anybody, and each field is read
 * once; what does not fit is refused with -EPROTO, and the caller counts it. Any thread.
 */
#ifndef NET_WIRE_H
#define NET_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "attnd/record.h"

enum {
	NET_UNIT_BYTES = 1024,          /* payload is cut at multiples of it, so that a bit per unit says what has come */
	NET_BODY_BYTES_MAX = 16 * 1024, /* chunks of one packet */
	NET_BODY_BYTES_LEAST = 1104,    /* room that takes any part: a record and a unit of payload */
	NET_CHUNK_BYTES = 8,            /* the head of a chunk */
	NET_RECORD_BYTES = 64,
	NET_OFFSET_BYTES = 8,           /* what stands before the payload in later parts of a message */
	NET_BITMAP_WORDS_MAX = 16,      /* of ACK and TAKEN: the widest window that they can speak of is 1,024 */
};

enum net_kind {
	NET_REQUEST = 1,
	NET_REQUEST_MORE,
	NET_REPLY,
	NET_REPLY_MORE,
	NET_ACK,
	NET_TAKEN,
	NET_PING,
	NET_PONG,
	NET_CLOSE,
	NET_HAVE,
	NET_KIND_END
};

enum { NET_ACK_PROBE = 1, NET_TAKEN_AGAIN = 1, NET_HAVE_AGAIN = 1 };

/* One chunk as it lies in a body. */
struct net_chunk {
	uint8_t kind, flags;
	uint16_t bytes;  /* of content */
	uint32_t number; /* of the request or reply, by kind */
	const unsigned char *content;
};

/* A part of a message. The first one carries the record. */
struct net_part {
	uint32_t number;
	const unsigned char *record;  /* NET_RECORD_BYTES; NULL in later parts */
	uint32_t message_bytes;       /* of the whole message's payload; any number */
	uint32_t offset, bytes;       /* of the payload that this part has, which lies within the message */
	const unsigned char *payload;
};

/* What has come of the other side's messages: all up to `number`, and those behind it whose bits are set: bit i is number + 1 + i. */
struct net_come {
	uint32_t number;
	uint32_t credits; /* ACK only: stream replies consumed since the connection began */
	uint32_t words;
	uint64_t bitmap[NET_BITMAP_WORDS_MAX];
};

/* What has come of one message that is not whole: all units before `first`, which has not, and those behind it whose bits are set: bit i is
 * unit first + 1 + i. */
struct net_have {
	uint32_t number, first;
	uint32_t words;
	uint64_t bitmap[NET_BITMAP_WORDS_MAX];
};

struct net_times { int64_t sender_ns, received_ns, sent_ns; }; /* PING has the first only */

/* ---- reading ---------------------------------------------------------------------------------------------- */

struct net_reader { const unsigned char *at, *end; };

/* 1 and the next chunk, whose content lies whole within the body; 0 at the end; -EPROTO. */
int net_chunk_next(struct net_reader *reader, struct net_chunk *chunk);

/* What a chunk of the matching kind says. 0 or -EPROTO. A part's payload begins at a multiple of NET_UNIT_BYTES, and ends at one or at the
 * message's end. */
int net_part_read(const struct net_chunk *chunk, struct net_part *part);
int net_come_read(const struct net_chunk *chunk, struct net_come *come);
int net_have_read(const struct net_chunk *chunk, struct net_have *have);
int net_times_read(const struct net_chunk *chunk, struct net_times *times);

/* ---- writing ---------------------------------------------------------------------------------------------- */

/* Room of one body. Each function writes a whole chunk or, for want of room, nothing and says so. */
struct net_writer { unsigned char *at, *end; };

/* Puts the part of a message that begins at `offset`: the record with it where that is 0, and as much payload as there is room
 * for, at least a unit or the rest. Sets the payload bytes that went in. false: that does not fit. */
bool net_part_put(struct net_writer *writer, enum net_kind first_kind, uint32_t number, const void *record, const void *payload,
	uint32_t message_bytes, uint32_t offset, uint32_t *taken);
bool net_come_put(struct net_writer *writer, enum net_kind kind, uint8_t flags, const struct net_come *come);
bool net_have_put(struct net_writer *writer, uint8_t flags, const struct net_have *have);
bool net_times_put(struct net_writer *writer, enum net_kind kind, const struct net_times *times);
bool net_close_put(struct net_writer *writer, uint32_t why);

#endif
