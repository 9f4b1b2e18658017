/*
 * The other end of a connection, for tests: says HELLO, hears WELCOME, seals and opens, and knows nothing of numbers, windows or timers. It
 * speaks over a fake port.
 */
#ifndef NET_PEER_H
#define NET_PEER_H

#include "netio/net_hello.h"
#include "tests/unit/net_fake_port.h"

struct net_peer {
	struct fake_port *fake;
	struct net_way way;
	enum net_cipher cipher;
	unsigned char key[NET_KEY_BYTES]; /* where not plain */
	unsigned char cookie[NET_COOKIE_BYTES];
	struct net_hello hello; /* what it is to say */
	uint64_t seed;
	/* The last HELLO, whole. */
	unsigned char packet[NET_HELLO_DATAGRAM_BYTES];
	size_t packet_bytes;
	struct net_noise noise;
	bool welcomed;
	struct net_packets packets; /* once welcomed */
	struct net_welcome welcome;
	struct net_refused refused;
	unsigned char heard[NET_PACKET_BYTES_MAX]; /* the packet that was heard last */
	struct net_reader body;                    /* of DATA */
};

/* fills in what every peer has; `way` is the caller's. */
void net_peer_init(struct net_peer *peer, struct fake_port *fake, enum net_cipher cipher, const unsigned char *key, uint64_t seed);
/* Makes a HELLO with a new ephemeral key: peer->packet. */
void net_peer_make_hello(struct net_peer *peer);
/* Sends it (again). */
void net_peer_say_hello(struct net_peer *peer);
/* The kind of the next packet that came for it; 0: none; -EBADMSG: it does not open. */
int net_peer_hear(struct net_peer *peer);

/* Memory for the chunks of the next DATA. */
struct net_peer_data { unsigned char packet[NET_PACKET_BYTES_MAX]; size_t bytes; struct net_writer body; };
void net_peer_begin(struct net_peer *peer, struct net_peer_data *data);
/* Heads and seals it, and sends it unless told not to: data->packet, data->bytes. */
void net_peer_end(struct net_peer *peer, struct net_peer_data *data, bool send);
/* DATA with one PING. */
void net_peer_ping(struct net_peer *peer);
/* DATA with these bytes. */
void net_peer_say(struct net_peer *peer, const void *chunks, size_t bytes);

#endif
