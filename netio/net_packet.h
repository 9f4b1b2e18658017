/*
 * Packets: kind, number, sealing. A stream puts four bytes before each, a datagram is one. docs/PROTOCOL.md, Network, has the bytes.
 *
 * Pure; one thread per object. Nothing is allocated. What is read comes from anybody.
 */
#ifndef NET_PACKET_H
#define NET_PACKET_H

#include "netio/net_secure.h"
#include "netio/net_wire.h"

enum net_packet_kind { NET_HELLO = 1, NET_COOKIE, NET_WELCOME, NET_DATA, NET_REFUSED, NET_PACKET_KIND_END };

enum {
	NET_STREAM_HEAD_BYTES = 4,
	NET_DATAGRAM_HEAD_BYTES = 24,
	NET_PACKET_BYTES_MAX = NET_DATAGRAM_HEAD_BYTES + NET_BODY_BYTES_MAX + NET_TAG_BYTES,
	NET_DATAGRAM_BYTES_LEAST = 1232, /* what every way must carry: IPv6's least MTU. Takes NET_BODY_BYTES_LEAST. */
};

/* What stands before a body. */
struct net_packet_head {
	uint8_t kind;
	uint32_t body_bytes; /* with the tag, where there is one */
	uint64_t name;       /* datagrams: the daemon's name for the connection; 0 before it has one */
	uint64_t number;     /* datagrams: of DATA, from 0 in each direction */
};

/* The head at the beginning of what a stream brought. 1; 0: not all of it is there; -EPROTO: no such kind; -EMSGSIZE: too long. */
int net_packet_stream_head(const unsigned char *bytes, size_t count, struct net_packet_head *head);
/* Of a datagram. 0 or -EPROTO. */
int net_packet_datagram_head(const unsigned char *bytes, size_t count, struct net_packet_head *head);
/* Puts the head of a packet that is not sealed (all but DATA) before its body, which is there. Returns the packet's bytes. */
size_t net_packet_clear(unsigned char *packet, bool datagram, enum net_packet_kind kind, uint64_t name, size_t body_bytes);

/* DATA of one connection, both ways. */
struct net_packets {
	struct net_sealing send, receive; /* unused where plain */
	struct net_replay replay;         /* datagrams */
	uint64_t sent, received;          /* packets */
	uint64_t name;
	bool datagram, plain;
};

size_t net_packet_head_bytes(bool datagram);

/* Room for a body in a packet's memory of `bytes`, at least NET_DATAGRAM_BYTES_LEAST. */
void net_packet_begin(const struct net_packets *packets, unsigned char *packet, size_t bytes, struct net_writer *body);
/* Heads and seals what was written. Returns the packet's bytes. */
size_t net_packet_end(struct net_packets *packets, unsigned char *packet, const struct net_writer *body);

/* Opens a whole DATA packet in place: a reader of its chunks. 0; -EBADMSG: not sealed by the other side, or changed; -EALREADY: it came
 * before, or may have. */
int net_packet_open(struct net_packets *packets, unsigned char *packet, const struct net_packet_head *head, struct net_reader *body);

#endif
