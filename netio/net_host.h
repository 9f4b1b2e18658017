/*
 * The daemon's side of connections: handshakes, who somebody is, sealing. Between a transport (net_port.h) and the owner of clients, who
 * deals in bodies of chunks and knows neither keys nor bytes of packets.
 *
 *   stream: OPENED -(HELLO)-> WELCOMED -(first DATA that opens)-> CONFIRMED -> gone
 *   datagram:     -(HELLO)-> WELCOMED -(first DATA that opens)-> CONFIRMED -> gone
 *
 * A link is what a connection has of the transport; who resumes a connection comes by a new link. What is not confirmed is half open: there
 * are few such places, and the oldest one makes room for the next, those first that have not said HELLO.
 *
 * Pure over transport, clock and randomness. One thread; nothing is allocated after create.
 */
#ifndef NET_HOST_H
#define NET_HOST_H

#include <stdatomic.h>

#include "base/base_clock.h"
#include "netio/net_hello.h"
#include "netio/net_inbox.h"
#include "netio/net_port.h"

enum { NET_KEYS_MAX = 64 };

#define NET_NO_OWNER UINT32_MAX

/* Beside the reasons of enum net_why, where chunks are handed in: the other side has said CLOSE, and is not to hear another one. */
enum { NET_WHY_SAID = NET_WHY_END };

struct net_host_key {
	unsigned char key[NET_KEY_BYTES];
	uint32_t tenant;
};

/* What is taken at a listener of the transport besides sealed connections. */
struct net_host_listener {
	bool plain;      /* connections without a key */
	uint32_t tenant; /* whose these are */
};

/* Whom the host tells. */
struct net_host_above {
	void *context;
	/* Somebody who has proved to be of `tenant` says hello: for a new connection, or to go on with an old one (hello->resume). Sets
	 * *owner, which comes with all that follows, and in `welcome` everything but features, clock_ns, now_ns, datagram_bytes and name.
	 * NET_WHY_BYE, or why not. */
	uint32_t (*welcome)(void *context, uint32_t link, uint32_t tenant, const struct net_hello *hello, struct net_welcome *welcome,
		uint32_t *owner);
	/* The link has shown that it is alive: it is the owner's from now on. features: of WELCOME. */
	void (*confirmed)(void *context, uint32_t owner, uint32_t link, uint64_t features);
	/* Chunks have come. NET_WHY_BYE, or why to end it, which the host says to the other side; NET_WHY_SAID. */
	uint32_t (*body)(void *context, uint32_t owner, uint32_t link, struct net_reader *chunks);
	/* A link that was welcomed is gone, confirmed or not; not called for net_host_close. */
	void (*gone)(void *context, uint32_t owner, uint32_t link);
	/* A link to which not all could be sent has room. */
	void (*writable)(void *context, uint32_t owner, uint32_t link);
};

struct net_host_counters {
	_Atomic uint64_t opened, welcomed, confirmed; /* streams that were accepted; links */
	_Atomic uint64_t refused[NET_WHY_END];        /* by reason; a wrong key among them */
	_Atomic uint64_t cookies;                     /* sent */
	_Atomic uint64_t hellos_again;                /* datagrams' HELLOs that had come, answered once more */
	_Atomic uint64_t hellos_waited;               /* streams' HELLOs that were not answered in the poll in which they came */
	_Atomic uint64_t unanswered;                  /* strangers' datagrams, HELLOs under a key among them: too many in a poll */
	_Atomic uint64_t timed_out;                   /* half open for too long */
	_Atomic uint64_t pushed_out;                  /* half open, and the place was wanted */
	_Atomic uint64_t idle;                        /* datagrams: not heard of for too long */
	_Atomic uint64_t bad_packets;                 /* not sealed by the other side, or changed on the way */
	_Atomic uint64_t replays;                     /* datagrams that had come before */
	_Atomic uint64_t moves_asked, moves;          /* datagrams from another address: what was asked there, who has answered there */
	_Atomic uint64_t malformed;                   /* packets that are none, or come out of turn */
	_Atomic uint64_t oversized;                   /* streams that announced a packet longer than any may be */
	_Atomic uint64_t broken;                      /* ended for breaking the protocol inside its packets */
	_Atomic uint64_t truncated;                   /* streams that ended within a packet, or said nothing */
	_Atomic uint64_t abandoned;                   /* streams that ended after WELCOME: whoever said HELLO may only have repeated it */
	_Atomic uint64_t no_memory;                   /* streams ended because there was no block for a packet in two pieces */
};

struct net_host_options {
	struct base_clock *clock;
	void (*random)(void *context, void *to, size_t bytes); /* not to be guessed */
	void *random_context;
	const struct net_host_key *keys; /* [key_count], copied */
	uint32_t key_count;
	const struct net_host_listener *listeners; /* [listener_count], as the transport's; copied */
	uint32_t listener_count;
	uint32_t links_max, half_open_max;
	int64_t hello_ns; /* how long a link may be half open */
	int64_t idle_ns;  /* how long a datagram link may be silent */
	bool cookies;     /* always; otherwise only when many are half open */
	struct net_blocks blocks; /* for packets that come in pieces */
	struct net_host_above above;
};

struct net_host;

/* -EINVAL, -ENOMEM with a message. */
int net_host_create(struct net_host **host, const struct net_host_options *options);
void net_host_destroy(struct net_host *host);
/* What the transport is to tell. */
struct net_above net_host_above(struct net_host *host);
/* Before the first poll. The port stays the caller's, and is destroyed after the host. */
void net_host_attach(struct net_host *host, const struct net_port *port);

/* The transport's poll, and what time has brought about. The amount of work done. */
int net_host_poll(struct net_host *host);
int64_t net_host_next_event_ns(const struct net_host *host);
/* From now on everybody is refused with it. */
void net_host_refuse_all(struct net_host *host, uint32_t why);

/* Writes chunks into a body; whether something is left to be said. */
typedef bool net_host_fill(void *context, struct net_writer *body);
/* Sends what `fill` writes until nothing is left (true), or there is no room (false): then `writable` follows; for datagrams, try again in
 * the next poll. */
bool net_host_send(struct net_host *host, uint32_t link, net_host_fill *fill, void *context);
/* Says why, and is done with the link. Not from within `body` for the link that it is about: return why there. */
void net_host_close(struct net_host *host, uint32_t link, uint32_t why);

/* Forgets a link that was welcomed and has said nothing since, without a word: its place is wanted. `gone` is called. */
void net_host_push_out(struct net_host *host, uint32_t link);

/* What a client's PONG repeats, from within `body`: it receives where it was asked. false: it was never asked. */
bool net_host_pong(struct net_host *host, uint32_t link, int64_t word);

bool net_host_is_datagram(const struct net_host *host, uint32_t link);
const struct net_host_counters *net_host_counters(const struct net_host *host);
uint32_t net_host_links(const struct net_host *host);

#endif
