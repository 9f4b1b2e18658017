/*
 * The client's side of a connection: requests in, completions out, and between them packets to and from a socket that its owner has.
 * docs/PROTOCOL.md, Network, is what it speaks.
 *
 *            start                WELCOME                 silence, bad stream, UNKNOWN
 *   created -------> SHAKING -----------------> OPEN -----------------------------------> LOST
 *                     |   ^                       |                                         |
 *                     |   '---------------------- | --------- start, to resume ------------'
 *                     v REFUSED                   v CLOSE, the protocol broken, not resumed
 *                  REFUSED                      ENDED
 *
 * Pure: times, random bytes and packets are given; nothing waits. One thread. All memory is taken at creation, but for the results of
 * replies, which lie in blocks that the owner gives until they are copied to where their caller wants them. The daemon is believed no
 * further than its answers go: what it sends cannot reach any memory but the output range of a request that it answers.
 *
 * Limits: 1,024 messages each way (NET_WINDOW_MAX), and what WELCOME says below that.
 */
#ifndef NET_CALLER_H
#define NET_CALLER_H

#include "netio/net_hello.h"
#include "netio/net_inbox.h"
#include "netio/net_pace.h"

enum net_caller_state {
	NET_CALLER_SHAKING, /* HELLO is said, or nothing yet */
	NET_CALLER_OPEN,
	NET_CALLER_REFUSED, /* for the reason `why` */
	NET_CALLER_LOST,    /* it may be resumed over another socket */
	NET_CALLER_ENDED,   /* for good, for the reason `why`; what has come is still delivered */
};

struct net_caller_options {
	bool datagram, plain;
	unsigned char key[NET_KEY_BYTES];   /* unless plain */
	uint32_t message_bytes_max;         /* no result is longer */
	int64_t dead_after_ns;              /* without a word for so long a connection is lost */
	struct net_blocks blocks;           /* of results that have come */
	void *random_context;
	void (*random)(void *context, void *to, size_t bytes); /* such that nobody guesses it */
};

/* What went wrong on the way, and what was done about it. */
struct net_caller_counts {
	uint64_t packets_in, packets_out;
	uint64_t bad_head;    /* datagrams that are no packets */
	uint64_t not_ours;    /* of another connection, or at the wrong time */
	uint64_t not_opened;  /* not sealed by the daemon, or changed on the way */
	uint64_t replayed;    /* datagrams that came before, or too late */
	uint64_t gaps;        /* numbers of datagrams that were skipped */
	uint64_t no_block;    /* parts dropped for want of memory */
	uint64_t resends, probes, pings, hellos, resumes;
	uint64_t narrowed;    /* connections with short datagrams, because long ones did not come through */
};

struct net_caller;

/* -EINVAL, -ENOMEM, -ENOTSUP with a message. */
int net_caller_create(struct net_caller **caller, const struct net_caller_options *options);
/* Requests are forgotten; the daemon hears nothing of it. */
void net_caller_destroy(struct net_caller *caller);

/* ---- connection --------------------------------------------------------------------------------------------- */

/* Begins over a new socket. resume: goes on with what the last one had, which was open; otherwise all is forgotten. datagram_bytes: the
 * longest datagram that the way takes, at least NET_DATAGRAM_BYTES_LEAST; streams: 0. */
void net_caller_start(struct net_caller *caller, int64_t now_ns, bool resume, uint32_t datagram_bytes);
/* The way turned out to take shorter datagrams. */
void net_caller_shorten(struct net_caller *caller, uint32_t datagram_bytes);
/* The socket broke. */
void net_caller_broke(struct net_caller *caller);
/* Ends the connection: the next packet says why, if one can. */
void net_caller_end(struct net_caller *caller, enum net_why why);

enum net_caller_state net_caller_state(const struct net_caller *caller);
uint32_t net_caller_why(const struct net_caller *caller);
/* What WELCOME said; all zero before. */
const struct net_welcome *net_caller_welcome(const struct net_caller *caller);
const struct net_caller_counts *net_caller_counts(const struct net_caller *caller);
/* The daemon's clock, which WELCOME and PINGs tell. */
const struct net_pace *net_caller_pace(const struct net_caller *caller);

/* ---- packets ------------------------------------------------------------------------------------------------ */

/* Takes a datagram, or the next bytes of a stream, which end anywhere; they are changed. */
void net_caller_packet(struct net_caller *caller, int64_t now_ns, unsigned char *bytes, size_t count);

/* Makes the next packet that is to be sent now; room: NET_PACKET_BYTES_MAX. Its bytes; 0: nothing more for now. Timers are looked at
 * here, so that it is called at net_caller_event_ns at the latest. */
size_t net_caller_next_packet(struct net_caller *caller, int64_t now_ns, unsigned char *packet);
/* Looks at timers alone: for whoever has a socket that takes no packets, so that its end is noticed. */
void net_caller_pass(struct net_caller *caller, int64_t now_ns);

/* When net_caller_next_packet has something to do, if nothing happens before; 0: now; NET_NEVER. */
int64_t net_caller_event_ns(const struct net_caller *caller);

/* ---- requests ----------------------------------------------------------------------------------------------- */

/* Sends a request. Its record's offsets do not count: `in` has in_bytes that stay as they are until its final completion, `out` has
 * room for out_capacity. 0; -EAGAIN: as many as may be are unfinished, or their inputs fill the daemon's window; -EMSGSIZE: its input is
 * longer than the daemon takes; -ENOTCONN. */
int net_caller_send(struct net_caller *caller, const struct attnd_request *request, void *in, void *out);

/* The next completion, its result in place. False: none. */
bool net_caller_receive(struct net_caller *caller, struct attnd_completion *completion);
/* Whether net_caller_receive would have one. */
bool net_caller_ready(const struct net_caller *caller);

/* The caller goes to sleep: what it has received is acknowledged by the next packet, though nothing else is to be said. */
void net_caller_rest(struct net_caller *caller);

#endif
