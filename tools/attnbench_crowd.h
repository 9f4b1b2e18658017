/*
 * A crowd: thousands of connections from one thread, which spins over one epoll and books every answer.
 *
 *   closed loop   each connection has so many requests out; the next goes when one comes back, those that come back together go together
 *   open loop     requests go at intended times, spread over the connections; latency counts from the intended time, as in
 *                 attnbench_load.h
 *
 * What a connection is, is a table of functions: a client of the library, or a bare one of a bare server, so that both are driven by the
 * same loop. Everything is allocated before a loop starts.
 */
#ifndef ATTNBENCH_CROWD_H
#define ATTNBENCH_CROWD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "attnd/attnd.h"
#include "base/base_clock.h"
#include "tools/attnbench_load.h"
#include "tools/tool_daemon.h"

enum {
	ATTNBENCH_CROWD_MAX = 60000,    /* connections */
	ATTNBENCH_CROWD_SLOTS = 1 << 16, /* requests that may be out */
	ATTNBENCH_CROWD_BATCH = 64,      /* of one connection, at once */
};

/* ---- connections --------------------------------------------------------------------------------------------- */

struct attnbench_crowd_way {
	/* The descriptor to wait on, for the moment; -EAGAIN: there is none; another -errno with a message. */
	int (*fd)(void *self, uint32_t number);
	/* Requests, at most ATTNBENCH_CROWD_BATCH. How many are on their way, from the first on; less: no room now; -errno with a message. */
	int (*send)(void *self, uint32_t number, const uint32_t *ids, const int64_t *intended_ns, unsigned count);
	/* Answers, of which request_id, status, flags and times count. How many; -errno with a message. Less than max: that is all. */
	int (*receive)(void *self, uint32_t number, struct attnd_completion *completions, unsigned max);
	/* For how long receive need not be called; NULL: it never need be. */
	int64_t (*next_ns)(void *self, uint32_t number);
};

/* Clients of the library. */
struct attnbench_crowd_clients {
	struct attnd_client **clients; /* [count] */
	uint32_t *in_offset, *out_offset;
	uint32_t count, size_bytes;
	uint8_t priority_class;
	int64_t deadline_ns, ahead_ns;
};
extern const struct attnbench_crowd_way attnbench_crowd_clients_way;
/* Connects `count` of them. size_bytes, class and deadline are set. Ends the program with a message when one cannot come in. */
void attnbench_crowd_clients_open(struct attnbench_crowd_clients *clients, struct tool_daemon *daemon, uint32_t count,
	struct base_clock *clock);
void attnbench_crowd_clients_close(struct attnbench_crowd_clients *clients);

/*
 * A bare server, in a process of its own, and clients of it: packets as long as the library's, with their length in front on streams, are
 * sent back as they come. One thread, one epoll, one receive and one send for each connection that has something; datagrams many at a time.
 */
struct attnbench_crowd_bare {
	enum tool_transport_kind transport;
	uint32_t count, size_bytes;
	bool sleeps; /* the server blocks in epoll_wait */
	int cpu;     /* the server's; -1: wherever */
	/* below here: while it is open */
	pid_t server;
	int *fds;               /* [count]; the clients' */
	uint32_t *have;         /* [count]; bytes of a packet that has not come whole */
	unsigned char *parts;   /* [count] of packet_bytes */
	unsigned char *batch;   /* [ATTNBENCH_CROWD_BATCH] of packet_bytes */
	uint32_t packet_bytes;
};
extern const struct attnbench_crowd_way attnbench_crowd_bare_way;
enum { ATTNBENCH_CROWD_BARE_BYTES_MAX = 16 << 10 };
/* 0 or -errno with a message. The server runs. */
int attnbench_crowd_bare_open(struct attnbench_crowd_bare *bare);
/* It stands still, or goes on; nobody else has its processor while it runs. */
void attnbench_crowd_bare_run(struct attnbench_crowd_bare *bare, bool runs);
void attnbench_crowd_bare_close(struct attnbench_crowd_bare *bare);

/* How a packet of either side looks: on streams its length less these 4 bytes, then (datagrams: at once) its number; filled up to what
 * the library's packet for such a request has. */
enum { ATTNBENCH_BARE_LENGTH_BYTES = 4 };
uint32_t attnbench_crowd_packet_bytes(enum tool_transport_kind transport, uint32_t size_bytes);
/* Of the bytes of a stream those that are whole packets; -EPROTO: they are none. */
int64_t attnbench_crowd_whole(const unsigned char *bytes, size_t count, uint32_t packet_bytes);
/* The server's process; never returns. */
void attnbench_crowd_serve(const struct attnbench_crowd_bare *bare, int fd) __attribute__((noreturn));

/* ---- the loops ----------------------------------------------------------------------------------------------- */

struct attnbench_crowd;

/* The first `talkers` connections of `count` are given requests; the others are only looked after. -errno with a message. */
int attnbench_crowd_create(struct attnbench_crowd **crowd, const struct attnbench_crowd_way *way, void *self, uint32_t count,
	uint32_t talkers, struct base_clock *clock);
void attnbench_crowd_destroy(struct attnbench_crowd *crowd);
/* What the daemon's clock is ahead of ours. */
void attnbench_crowd_set_ahead(struct attnbench_crowd *crowd, int64_t ahead_ns);

/* Each adds to result. 0, or -errno with a message. */
/* in_flight: of each connection, at most ATTNBENCH_CROWD_BATCH. */
int attnbench_crowd_closed(struct attnbench_crowd *crowd, uint32_t in_flight, int64_t span_ns, struct attnbench_result *result);
/* random: NULL: the connections take turns; else where randomness comes from. */
int attnbench_crowd_open(struct attnbench_crowd *crowd, struct attnbench_pace *pace, uint64_t *random, int64_t span_ns,
	struct attnbench_result *result);

#endif
