/*
 * A transport with an echo above it, and clients of plain sockets, in one thread: whoever waits for something polls the transport
 * meanwhile.
 */
#ifndef NET_PORT_RIG_H
#define NET_PORT_RIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "netio/net_port.h"

enum { RIG_STREAMS_MAX = 512, RIG_LISTENERS_MAX = 8, RIG_FLOOD_PERIOD = 1009 };

typedef int port_rig_create_function(struct net_port *port, const struct net_port_options *options);

struct port_rig_transport {
	const char *name;
	port_rig_create_function *create;
	bool is_missing;
};

/* What is done with a new stream. */
enum port_rig_mode {
	RIG_ECHO,
	RIG_FLOOD,  /* sends without end: words that count up to RIG_FLOOD_PERIOD, a prime, and begin again */
	RIG_HUSH,   /* takes and says nothing */
	RIG_REFUSE, /* says no */
	RIG_QUIT,   /* echoes the first bytes, and says false */
	RIG_CLOSE,  /* echoes the first bytes, and closes from within */
};

struct port_rig_stream {
	struct net_way way;
	uint32_t name;
	enum port_rig_mode mode;
	bool is_open, is_waiting; /* for `writable` */
	unsigned char *queue;     /* what is to be echoed and had no room */
	size_t queue_bytes, queue_max;
	int first;                /* byte that came; -1: none has. RIG_ECHO with check_same: all others must be the same */
};

struct rig {
	struct net_port port;
	enum port_rig_mode mode;
	bool check_same;
	uint32_t opened, gone, received, writable, wrong;
	struct port_rig_stream streams[RIG_STREAMS_MAX]; /* by name, which is not the transport's number */
	struct net_listener listeners[RIG_LISTENERS_MAX];
	uint32_t listener_count;
	char folder[32];
};

/* A socket's listener: an address, or where it begins with '/' a Unix socket in the rig's folder. Before port_rig_start. */
uint32_t port_rig_listen(struct rig *rig, enum net_port_kind kind, const char *place);
int port_rig_start(struct rig *rig, port_rig_create_function *create, uint32_t streams_max);
void port_rig_stop(struct rig *rig);

/* One poll and what it made, flushed. */
int port_rig_step(struct rig *rig);
/* Polls for a while, or until `done` says so; a test that waits too long fails. */
void port_rig_steps(struct rig *rig, unsigned count);
void port_rig_until_gone(struct rig *rig, uint32_t count);
void port_rig_until_opened(struct rig *rig, uint32_t count);

/* A client that does not wait, connected; accepted where it is a stream. address: to connect to instead of the listener's; NULL: that. */
int port_rig_connect(struct rig *rig, uint32_t listener, const char *address);
/* The same for a transport that another thread polls: the client waits in its calls, at most 15 seconds in each. */
int port_rig_connect_waiting(struct rig *rig, uint32_t listener);
void port_rig_send(struct rig *rig, int fd, const void *bytes, size_t count);
/* Exactly so many. */
void port_rig_receive(struct rig *rig, int fd, void *bytes, size_t count);
/* The next datagram's length. */
size_t port_rig_receive_datagram(struct rig *rig, int fd, void *bytes, size_t most);
/* Reads the other side's end, and what comes before it. How many bytes. */
size_t port_rig_receive_end(struct rig *rig, int fd, void *bytes, size_t most);

void port_rig_fill(unsigned char *bytes, size_t count, uint64_t seed);
/* Sends so many bytes, and gets the same ones back. */
void port_rig_echo(struct rig *rig, int fd, size_t count, uint64_t seed);
void port_rig_echo_datagram(struct rig *rig, int fd, size_t count, uint64_t seed);

/* Runs the tests over each transport, which is their state; where this machine lacks one, port_rig_start_or_skip skips. */
struct CMUnitTest;
int port_rig_run(const struct CMUnitTest *each, unsigned count);
void port_rig_start_or_skip(struct rig *rig, const struct port_rig_transport *transport, uint32_t streams_max);

bool port_rig_has_ipv6(void);
unsigned port_rig_descriptors(void);

#endif
