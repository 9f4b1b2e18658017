/*
 * The network transport's inside: places and keys (attnd_net_place.c), sockets (attnd_net_socket.c), the connection and its table of
 * functions (attnd_net.c). Not installed.
 */
#ifndef ATTND_NET_H
#define ATTND_NET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "netio/net_packet.h"

/* ---- places -------------------------------------------------------------------------------------------------- */

enum client_place_kind { CLIENT_PLACE_TCP, CLIENT_PLACE_UDP, CLIENT_PLACE_UNIX };

enum { CLIENT_PORT = 7747, CLIENT_PLACES_MAX = 8 };

/* What an address names: a host may have several addresses. */
struct client_place {
	enum client_place_kind kind;
	unsigned count;
	struct { struct sockaddr_storage address; socklen_t bytes; } at[CLIENT_PLACES_MAX];
};

/* "//host", "//host:port", "//[::1]:port"; Unix: "///path" or "/path". Asks the resolver, which may take its time. -EINVAL, -ENOENT with a
 * message. */
int client_place_find(struct client_place *place, enum client_place_kind kind, const char *text);
/* A key from a file; path NULL: $ATTND_KEY_FILE, and without that there is none. -errno with a message. */
int client_key_read(const char *path, unsigned char key[NET_KEY_BYTES], bool *is_there);

/* ---- sockets ------------------------------------------------------------------------------------------------- */

enum {
	CLIENT_SOCKET_BATCH = 16,                /* datagrams in one call */
	CLIENT_SOCKET_OUT_BYTES = 64 << 10,      /* streams: beyond it no packet is begun before the last ones are sent */
	CLIENT_SOCKET_IN_BYTES = 256 << 10,
};

/* What one call has brought: a datagram, or bytes of a stream. */
struct client_run { unsigned char *bytes; size_t count; };

struct client_socket {
	int fd; /* -1: none */
	int last_fd; /* of this one, or the one before: the next has another number, so that whoever waits on it sees that it is another */
	enum client_place_kind kind;
	int family;
	unsigned char *in, *out;
	struct client_run runs[CLIENT_SOCKET_BATCH];
	/* to be sent: a stream's bytes, or datagrams one behind the other */
	size_t out_begin, out_end;
	uint32_t lengths[CLIENT_SOCKET_BATCH]; /* of datagrams */
	unsigned out_first, out_count;
};

/* The memory, for any number of sockets one after the other. -ENOMEM with a message. */
int client_socket_create(struct client_socket *socket);
void client_socket_destroy(struct client_socket *socket);

/* A socket that is connected, or on its way. -errno with a message. */
int client_socket_open(struct client_socket *socket, const struct client_place *place, unsigned which);
void client_socket_close(struct client_socket *socket);
/* The longest datagram that the way takes, as far as the kernel knows; streams: 0. */
uint32_t client_socket_datagram_bytes(const struct client_socket *socket);

/* Memory for one more packet; NULL: send first. */
unsigned char *client_socket_room(struct client_socket *socket);
void client_socket_put(struct client_socket *socket, size_t bytes);
/* Sends what was put. 0: all of it; -EAGAIN: not now; -EMSGSIZE: a datagram was too long, and is dropped; other -errno: the socket
 * broke. */
int client_socket_send(struct client_socket *socket);
/* Receives once, without waiting. How many of socket->runs; 0: nothing is there; -errno: the socket broke. */
int client_socket_receive(struct client_socket *socket);
/* Until it is readable (or takes what is left to be sent), at most wait_ns. */
void client_socket_wait(const struct client_socket *socket, int64_t wait_ns);

static inline bool client_socket_is_full(const struct client_socket *socket)
{
	return socket->out_count > 0 || socket->out_end > socket->out_begin;
}

#endif
