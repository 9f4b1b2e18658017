/*
 * A transport in memory, for tests of what lies above one: what a test queues is told in the next poll, in order, in memory of exactly its
 * size; what is sent is kept until the test takes it. Room can be refused, to all or to one stream.
 *
 * It watches whom it answers: `amplified` counts answers to strangers' datagrams that are longer than what they answer, or more
 * than one, or unasked for.
 */
#ifndef NET_FAKE_PORT_H
#define NET_FAKE_PORT_H

#include "netio/net_packet.h"
#include "netio/net_port.h"

enum { FAKE_STREAMS = 2048 };

struct fake_message {
	struct fake_message *next;
	int kind; /* what is told, of those that wait for the poll */
	struct net_way way;
	size_t bytes;
	unsigned char data[];
};

struct fake_list { struct fake_message *first, **end; };

enum fake_state { FAKE_FREE, FAKE_OPEN, FAKE_CLOSED };

struct fake_stream {
	uint8_t state; /* enum fake_state; closed: by those above */
	bool told;     /* they know of it */
	bool blocked, wants_room;
	uint32_t name;
	unsigned char *out; /* sent, and not taken by the test */
	size_t out_bytes;
};

struct fake_port {
	struct net_port port;
	struct net_above above;
	struct fake_list coming, datagrams; /* datagrams: sent */
	uint32_t datagram_count;
	struct fake_stream streams[FAKE_STREAMS];
	uint32_t streams_end;   /* none from there on was ever used */
	uint32_t rooms_refused; /* so many calls for room to come are refused */
	bool no_room;           /* or all */
	size_t room_bytes;      /* of a room of a stream; 0: what was asked for */
	unsigned char *room;    /* the last one, until put */
	size_t room_has;
	uint32_t puts, flushes, refused;
	/* The datagram that is being told. */
	size_t told_bytes, answered;
	uint32_t amplified;
};

void fake_port_init(struct fake_port *fake);
void fake_port_free(struct fake_port *fake);

/* A datagram's way; from: who. */
struct net_way fake_way(uint32_t listener, uint32_t from);
/* Somebody connects. What is said on the way that is set comes after it. */
void fake_connect(struct fake_port *fake, uint32_t listener, struct net_way *way);
/* Bytes come: of a stream, or one datagram. */
void fake_come(struct fake_port *fake, const struct net_way *way, const void *bytes, size_t count);
/* The other side ends a stream. */
void fake_end(struct fake_port *fake, const struct net_way *way);
/* From now on a stream takes nothing, or takes again. */
void fake_block(struct fake_port *fake, const struct net_way *way, bool blocked);
/* Whether those above have closed it, or refused it. */
bool fake_is_closed(const struct fake_port *fake, const struct net_way *way);

/* The next packet that was sent on this way. Its bytes; 0: none. */
size_t fake_take(struct fake_port *fake, const struct net_way *way, unsigned char packet[NET_PACKET_BYTES_MAX]);
/* Loses, doubles and shuffles datagrams that are under way in either direction, each in one of `odds` cases. */
void fake_disturb(struct fake_port *fake, uint64_t *seed, uint32_t odds);
/* Throws away whatever was sent. */
void fake_take_all(struct fake_port *fake);

#endif
