/*
 * What the parts of net_caller share: net_caller_hello.c (handshake), net_caller_way.c (how long datagrams are), net_caller.c (the rest).
 */
#ifndef NET_CALLER_PRIVATE_H
#define NET_CALLER_PRIVATE_H

#include "netio/net_caller.h"
#include "netio/net_calls.h"
#include "netio/net_outbox.h"

/* Everything about saying HELLO; of no use once WELCOME has come. */
struct caller_hello {
	struct net_noise noise;
	unsigned char body[NET_HELLO_DATAGRAM_BYTES];
	size_t bytes;
	unsigned char cookie[NET_COOKIE_BYTES];
	int64_t clock_ns;      /* as it says */
	struct net_again again;
	/* Datagrams: how often it was refused, first when, and when to believe that it was; NET_NEVER. */
	uint32_t refusals;
	int64_t refused_first_ns, refused_ns;
	uint8_t cipher;
	bool fell_back;        /* to a cipher that the daemon has */
	bool resume, said;
};

struct net_caller {
	enum net_caller_state state;
	uint32_t why;
	struct net_packets packets;
	struct net_inbox *inbox;
	struct net_outbox *outbox;
	struct net_calls *calls;
	uint32_t datagram_bytes;

	/* what is to be said, and when */
	bool ack_due, probe_due, ping_due, pong_due, close_due;
	bool again_due;        /* holes in long replies are to be filled */
	struct net_again resend, probe;
	int64_t ack_ns;        /* when to acknowledge, if nothing goes out before; NET_NEVER */
	bool answered;         /* DATA has come since the connection was new: the daemon has taken it for confirmed */
	int64_t heard_ns;      /* when the last word came that was the daemon's */
	int64_t pinged_ns;     /* the last PING; its sender's clock */
	bool ping_open;        /* its PONG has not come */
	int64_t asked_ns;      /* the first PING since then; NET_NEVER: none */
	int64_t unknown_ns;    /* when to believe that the daemon does not know us; NET_NEVER */
	int64_t probed_ns;     /* the last PROBE, or HAVE with AGAIN */
	int64_t holes_ns;      /* when holes in a request were filled last */
	uint64_t numbers_end;  /* of datagrams: one more than the highest */
	struct net_times pong;

	/* what was acknowledged */
	uint32_t acked, delivered;          /* replies: numbers up to which */
	uint32_t credits_acked, credits;    /* completions without FINAL, in all */
	uint64_t unacked_bytes;             /* of results delivered */
	bool haves;                         /* both sides say HAVE */
	uint32_t units_unsaid;              /* of replies that have come since then */

	/* Datagrams: whether long ones come through. */
	struct {
		bool is_narrow;    /* no */
		bool is_open;      /* this socket was welcomed, */
		bool has_moved;    /* and a part of a message has come through since, or was said to have */
		unsigned gaps;     /* numbers left out since then */
	} way;

	struct net_pace pace;
	struct net_welcome welcome;
	uint32_t window;                    /* of replies */
	struct net_caller_counts counts;
	bool starved;                       /* a part was dropped for want of a block */

	size_t partial_bytes;
	struct net_caller_options options;
	/* below here is not touched per request */
	struct caller_hello hello;
	unsigned char partial[NET_PACKET_BYTES_MAX]; /* of a stream: the beginning of a packet */
};

/* ---- net_caller_hello.c ---- */

/* Makes a HELLO; it goes out with the next packet. */
void caller_hello_start(struct net_caller *caller, int64_t now_ns, bool resume);
/* Packets of the handshake. */
void caller_hello_packet(struct net_caller *caller, int64_t now_ns, const struct net_packet_head *head, const unsigned char *body);
/* HELLO, where it is to be said, or said again. */
size_t caller_hello_next(struct net_caller *caller, int64_t now_ns, unsigned char *packet);
int64_t caller_hello_event_ns(const struct net_caller *caller);

/* ---- net_caller_way.c ---- */

/* Before HELLO: how long datagrams will be. */
void caller_way_start(struct net_caller *caller, bool resume, uint32_t datagram_bytes);
/* After WELCOME. */
void caller_way_open(struct net_caller *caller);
/* A part came through, or was said to have. */
void caller_way_moved(struct net_caller *caller);
/* A packet did not. The connection may be lost then, to begin anew with short datagrams. */
void caller_way_gap(struct net_caller *caller);
/* The same of what was sent in vain. */
void caller_way_look(struct net_caller *caller, int64_t now_ns);

/* ---- net_caller.c ---- */

/* WELCOME has come: the connection is open. */
void caller_open(struct net_caller *caller, int64_t now_ns);
/* The daemon has broken the protocol. */
void caller_broken(struct net_caller *caller);

#endif
