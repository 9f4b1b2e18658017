/*
 * A daemon of one connection, made of netio's pure parts, for tests of the client's side: packets in, packets out, answers that follow from
 * the request. What a test wants to be wrong it writes itself, into packets that this one seals.
 *
 *   NOP        its input
 *   DESCRIBE   `argument` bytes, byte i being i * 7 + session
 *   GENERATE   tokens session, session + 1, ... , `argument` of them, as its credits allow; then FINAL with all of them
 *   STEP       nothing, until a CANCEL ends it
 *   CANCEL     ends a STEP; value: whether there was one
 */
#ifndef NET_PEER_H
#define NET_PEER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "netio/net_hello.h"
#include "netio/net_inbox.h"
#include "netio/net_outbox.h"

enum { PEER_HELD_MAX = 64 };

struct net_peer {
	/* the test's, before net_peer_start */
	bool datagram, plain, wants_cookie;
	uint32_t ciphers; /* bit by enum net_cipher: those it has */
	unsigned char key[NET_KEY_BYTES];
	uint32_t max_in_flight, stream_credits, window_bytes, message_bytes, datagram_bytes;
	uint64_t boot_id;
	bool no_haves;     /* as a daemon that does not know them */
	uint32_t refuses;  /* enum net_why: every HELLO; 0: none */
	bool forgets;      /* does not know any token */
	bool deaf;         /* hears nothing, says nothing */

	/* what it counts */
	uint64_t executed, hellos, resumed, probes, acks, closes, repeated, errors, haves, holes;
	uint32_t close_why;

	/* its own */
	bool open, confirmed, says_have;
	struct net_packets packets;
	struct net_inbox *inbox;
	struct net_outbox *outbox;
	unsigned char token[NET_NAME_BYTES], cookie[NET_COOKIE_BYTES];
	struct net_hello hello;
	unsigned char hello_body[NET_CLEAR_BYTES + NET_HELLO_BYTES]; /* the beginning of the last one */
	int64_t now_ns, offset_ns; /* of its clock to the one that it is told */
	unsigned char answer[1024]; /* to HELLO: a whole packet */
	size_t answer_bytes;
	bool answer_due, taken_due, have_due, pong_due;
	struct net_times pong;
	uint32_t window;        /* replies kept */
	uint32_t credits;       /* given back */
	uint32_t streamed;      /* replies without FINAL, in all */
	struct attnd_request held[PEER_HELD_MAX]; /* GENERATEs and STEPs under way */
	uint32_t held_done[PEER_HELD_MAX];
	uint32_t held_count;
	unsigned char partial[NET_PACKET_BYTES_MAX];
	size_t partial_bytes;
	uint64_t seed;
};

/* Fills in what is 0 with usual values. */
void net_peer_start(struct net_peer *peer);
void net_peer_stop(struct net_peer *peer);
/* A new socket: HELLO is awaited. */
void net_peer_socket(struct net_peer *peer);

/* A datagram, or bytes of a stream. */
void net_peer_packet(struct net_peer *peer, int64_t now_ns, const unsigned char *bytes, size_t count);
/* The next packet; 0: none. packet: NET_PACKET_BYTES_MAX. */
size_t net_peer_next_packet(struct net_peer *peer, int64_t now_ns, unsigned char *packet);

/* For hostile ones: a packet whose body the test writes between the two. Returns its bytes. */
void net_peer_begin(struct net_peer *peer, unsigned char *packet, struct net_writer *body);
size_t net_peer_end(struct net_peer *peer, unsigned char *packet, const struct net_writer *body);

/* Ends a STEP that is held, as if it were done. */
void net_peer_finish(struct net_peer *peer, uint32_t which);

#endif
