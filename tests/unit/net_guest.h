/*
 * The other end of a connection, for tests: says HELLO, hears WELCOME, seals and opens, and knows nothing of numbers, windows or timers. It
 * speaks over a fake port.
 */
#ifndef NET_GUEST_H
#define NET_GUEST_H

#include "netio/net_hello.h"
#include "tests/unit/net_fake_port.h"

struct net_guest {
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

/* fills in what every guest has; `way` is the caller's. */
void net_guest_init(struct net_guest *guest, struct fake_port *fake, enum net_cipher cipher, const unsigned char *key, uint64_t seed);
/* Makes a HELLO with a new ephemeral key: guest->packet. */
void net_guest_make_hello(struct net_guest *guest);
/* Sends it (again). */
void net_guest_say_hello(struct net_guest *guest);
/* The kind of the next packet that came for it; 0: none; -EBADMSG: it does not open. */
int net_guest_hear(struct net_guest *guest);

/* Memory for the chunks of the next DATA. */
struct net_guest_data { unsigned char packet[NET_PACKET_BYTES_MAX]; size_t bytes; struct net_writer body; };
void net_guest_begin(struct net_guest *guest, struct net_guest_data *data);
/* Heads and seals it, and sends it unless told not to: data->packet, data->bytes. */
void net_guest_end(struct net_guest *guest, struct net_guest_data *data, bool send);
/* DATA with one PING. */
void net_guest_ping(struct net_guest *guest);
/* DATA with these bytes. */
void net_guest_say(struct net_guest *guest, const void *chunks, size_t bytes);

#endif
