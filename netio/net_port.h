/*
 * What a transport is to those above it: listeners, streams that were accepted, datagrams; bytes in, bytes out. It knows nothing of
 * the protocol.
 *
 * One thread, the owner of the transport, calls everything here, and is called; only create and destroy may be another one's, before
 * the first poll and after the last. Nothing is allocated after create. A transport is polled, and never waits.
 */
#ifndef NET_PORT_H
#define NET_PORT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum net_port_kind { NET_PORT_TCP, NET_PORT_UDP, NET_PORT_UNIX };

enum {
	NET_PLACE_BYTES = 128,
	NET_LISTENERS_MAX = 16,
	NET_STREAMS_MAX = 1 << 16,
	NET_ADDRESS_BYTES = 32,
	NET_ROOM_BYTES_MAX = 16424, /* the longest packet: the most that may be asked for, and the longest datagram */
};

#define NET_NO_STREAM UINT32_MAX

/* Where to listen. */
struct net_listener {
	uint8_t kind; /* enum net_port_kind */
	uint16_t port;
	uint16_t mode; /* of a Unix socket's file; 0: 0600 */
	char place[NET_PLACE_BYTES]; /* an address of this machine, IPv4 or IPv6 ("::" takes both), or the path of a Unix socket */
};

/* Where a packet came from, and where answers go. */
struct net_way {
	uint32_t listener; /* which of the transport's */
	uint32_t stream;   /* the transport's name for an accepted stream, < streams_max; NET_NO_STREAM: datagrams */
	unsigned char address[NET_ADDRESS_BYTES]; /* as the transport has it, equal where the bytes are. Of streams: who is at the other end, as
						     far as is known; answers do not need it */
};

/* Whom the transport tells, from within its poll. What is told may ask for room, put, flush, and close any stream. */
struct net_above {
	void *context;
	/* A stream was accepted. `name` is handed back with all that happens on it. false: it is closed at once. */
	bool (*opened)(void *context, const struct net_way *way, uint32_t *name);
	/* Bytes of a stream, in order; may be changed in place until the call returns, and are gone then. false: close it; `gone` is not
	 * called. */
	bool (*received)(void *context, uint32_t name, unsigned char *bytes, size_t count);
	/* The stream ended, or failed. Nothing more comes of it, and its number may be given to another one. What was put before is sent
	 * where the other side still takes it at once. */
	void (*gone)(void *context, uint32_t name);
	/* A stream that had no room has some again. */
	void (*writable)(void *context, uint32_t name);
	/* A datagram, as `received`. */
	void (*datagram)(void *context, const struct net_way *way, unsigned char *bytes, size_t count);
};

/* The transport's thread counts; any thread may look. */
struct net_port_counters {
	_Atomic uint64_t accepted, refused;   /* streams; refused: all places were taken, or `opened` said no */
	_Atomic uint64_t accept_paused;       /* times that descriptors or memory were lacking: who wants in waits */
	_Atomic uint64_t received, sent;      /* runs of bytes of streams, and datagrams */
	_Atomic uint64_t received_bytes, sent_bytes;
	_Atomic uint64_t received_cut;        /* datagrams that were longer than any packet, and dropped */
	_Atomic uint64_t send_dropped;        /* datagrams that the kernel did not take */
	_Atomic uint64_t no_room;             /* times that a stream had no room, because its other side is slow */
	_Atomic uint64_t ended_untold;        /* streams that were reset and of which the kernel did not say so */
	_Atomic uint64_t system_calls;
};

/* One thread counts, so that nobody's count is lost between the load and the store, and neither locks anything. */
static inline void net_port_count(_Atomic uint64_t *counter, uint64_t more)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + more, memory_order_relaxed);
}

/* They are counts of different moments: each is right, their sums may be off by what goes on meanwhile. */
static inline void net_port_counters_copy(struct net_port_counters *to, const struct net_port_counters *from)
{
	_Atomic uint64_t *out = (_Atomic uint64_t *)to;
	const _Atomic uint64_t *in = (const _Atomic uint64_t *)from;

	for (size_t i = 0; i < sizeof(*to) / sizeof(*out); i++)
		atomic_store_explicit(&out[i], atomic_load_explicit(&in[i], memory_order_relaxed), memory_order_relaxed);
}

/* A transport. Its functions take it as `self`. */
struct net_port {
	const char *name;
	void *self;
	/* Gives the kernel what was put, takes what has come, tells above, and goes on with what is being sent; where the transport can, all in
	 * one system call. The amount of work done; 0: nothing. */
	int (*poll)(void *self);
	/* Memory to write what is to be sent into, at least `least` bytes (at most NET_ROOM_BYTES_MAX), and how much it is. NULL: not now. A
	 * stream says `writable` later, once all that it was given is on its way; for datagrams, ask again in a later poll. Valid until put or
	 * the end of the poll; one at a time. */
	unsigned char *(*room)(void *self, const struct net_way *way, size_t least, size_t *bytes);
	/* Sends the first `bytes` of the last room: whole packets of a stream, or one datagram. 0: nothing after all. */
	void (*put)(void *self, const struct net_way *way, size_t bytes);
	/* Gives the kernel what was put and has not been given yet: once for many. */
	void (*flush)(void *self);
	/* Closes a stream after what was put is sent, or not. `gone` is not called; its number may be given to another one. */
	void (*close)(void *self, uint32_t stream);
	/* Before a sleep: whether there is work after all. */
	bool (*sleep_begin)(void *self);
	/* Who polls then sleeps until `wait_fd` is readable (level-triggered), which it is when there is work; or, where sleep is not NULL,
	 * sleeps in there until there is work, or for so long, or until another descriptor is readable, always the same one. Whether it
	 * is. */
	bool (*sleep)(void *self, int others, int ms);
	int wait_fd; /* -1 beside a sleep */
	/* Any thread. */
	void (*counters)(const void *self, struct net_port_counters *counters);
	/* The port that a listener got, where 0 was asked for. */
	uint16_t (*port_of)(const void *self, uint32_t listener);
	void (*destroy)(void *self);
};

struct net_port_options {
	const struct net_listener *listeners;
	uint32_t listener_count;
	uint32_t streams_max;
	struct net_above above;
};

/* Plain calls and epoll: any kernel. -errno with a message that names the listener. */
int net_sockets_create(struct net_port *port, const struct net_port_options *options);
/* io_uring. -ENOSYS, -EPERM or -EOPNOTSUPP with a message that names what the running kernel lacks; also where it was built without. */
int net_uring_create(struct net_port *port, const struct net_port_options *options);

#endif
