/*
 * The host's inside, shared by net_host.c (links, packets, time) and net_host_greet.c (handshakes).
 */
#ifndef NET_HOST_INTERNAL_H
#define NET_HOST_INTERNAL_H

#include "netio/net_host.h"

enum {
	NET_HELLO_ID_BYTES = 40, /* of what follows HELLO's clear part, plain or not: says whether it is the same HELLO again */
	NET_WELCOME_PACKET_BYTES = NET_DATAGRAM_HEAD_BYTES + NET_NOISE_BYTES + NET_WELCOME_BYTES,
};

#define NET_NO_LINK UINT32_MAX

enum link_state {
	LINK_FREE,
	LINK_OPENED,
	LINK_WAITING, /* its HELLO opened under a tenant's key, and is to be answered: streams */
	LINK_WELCOMED,
	LINK_CONFIRMED
};

struct link {
	uint8_t state; /* enum link_state */
	bool listed;   /* in the queue of its state */
	bool welcome_waits; /* streams: WELCOME is to be said once there is room */
	uint16_t datagram_bytes;
	uint32_t owner;
	uint64_t features;
	uint32_t next, before; /* in that queue, or (next) among the free */
	int64_t since_ns;      /* half open since, or heard of last */
	struct net_way way;
	struct net_packets packets;
	/* Sealed datagrams: where it says that it is now, what it was asked there, when. 0: it was never asked. */
	struct net_way path;
	int64_t path_word, path_ns;
	/* Streams: the beginning of a packet whose end has not come. */
	unsigned char *part;
	uint32_t part_bytes;
	int64_t part_since_ns;
	unsigned char part_head[NET_STREAM_HEAD_BYTES];
	/* Half open. Streams: HELLO as far as it has come, since memory for pieces is for those who have shown a key; then, to say it once
	 * more or later, WELCOME. */
	union {
		unsigned char hello[NET_HELLO_DATAGRAM_BYTES];
		unsigned char welcome[NET_WELCOME_PACKET_BYTES];
	};
	unsigned char hello_id[NET_HELLO_ID_BYTES];
	uint32_t hello_bytes, welcome_bytes;
};

/* Links by time, the oldest first. */
struct link_queue { uint32_t first, last, count; };

struct net_host {
	struct net_host_options options;
	const struct net_port *port;
	struct link *links; /* [links_max] */
	uint32_t free_first, used;
	struct link_queue half_open, waiting, silent; /* silent: confirmed datagram links */
	int64_t now_ns;
	uint32_t refuse_why; /* everybody, where not NET_WHY_BYE */
	unsigned char secret[32]; /* of cookies */
	uint32_t answers;         /* to strangers' datagrams, in this poll */
	uint32_t greets;          /* curve operations that this poll may still spend on HELLOs */
	int64_t hello_slot;       /* the second (or so) in which datagrams' HELLOs are counted */
	uint32_t hellos;          /* that were opened in it, or were to be */
	struct net_host_counters counters;
	struct net_host_key keys[NET_KEYS_MAX];
	unsigned char key_names[NET_KEYS_MAX][NET_NAME_BYTES];
	struct net_host_listener listeners[NET_LISTENERS_MAX];
};

static inline void net_count(_Atomic uint64_t *counter)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + 1, memory_order_relaxed);
}

/* ---- net_host.c ------------------------------------------------------------------------------------------- */

/* A place for a link, half open from now on; the oldest half-open one is pushed out for it. NULL: none. */
struct link *net_host_link_take(struct net_host *host, const struct net_way *way);
/* Goes on in another state, in the queue of that. */
void net_host_link_turn(struct net_host *host, struct link *link, enum link_state state);
/* Forgets a link. Its stream is the caller's to close. */
void net_host_link_free(struct net_host *host, struct link *link);

/* ---- net_host_greet.c ------------------------------------------------------------------------------------- */

/* A stream's first packet, which may lie in the link. Whether the stream goes on. */
bool net_host_greet_stream(struct net_host *host, struct link *link, const unsigned char *body, size_t bytes);
/* What this poll may spend on HELLOs. */
void net_host_greet_budget(struct net_host *host);
void net_host_greet_datagram(struct net_host *host, const struct net_way *way, const unsigned char *body, size_t bytes);
/* WELCOME, which lies in the link. */
void net_host_say_welcome(struct net_host *host, struct link *link);
/* Says REFUSED to whoever sent a datagram that nobody knows. */
void net_host_refuse_datagram(struct net_host *host, const struct net_way *way, uint32_t why);

#endif
