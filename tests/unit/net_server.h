/*
 * The daemon of net_peer.h behind a real socket, on a thread of its own: one connection at a time, the newest. For tests of the library's
 * network transports.
 */
#ifndef NET_SERVER_H
#define NET_SERVER_H

#include <pthread.h>
#include <stdatomic.h>

#include "tests/unit/net_peer.h"

enum net_server_kind { SERVER_TCP, SERVER_UDP, SERVER_UNIX };

struct net_server {
	/* the test's */
	enum net_server_kind kind;
	bool ip6;
	struct net_peer peer; /* while the thread runs only what is _Atomic below may be touched */
	_Atomic bool breaks;  /* drop the stream, once */
	_Atomic bool deaf;    /* hear and say nothing */
	_Atomic bool forgets;
	_Atomic bool finishes; /* what is held, once */

	/* what it says */
	char address[128], folder[64], path[80];
	char key_file[80]; /* the peer's key */
	_Atomic uint64_t executed, resumed, closes, hellos, repeated;

	/* its own */
	pthread_t thread;
	_Atomic bool stops;
	int listen_fd, fd;
	unsigned char from[128];
	unsigned from_bytes;
	unsigned char out[NET_PACKET_BYTES_MAX];
	size_t out_begin, out_end;
};

/* Listens, and starts the thread. Fails the test when something cannot be made. */
void net_server_start(struct net_server *server);
/* The socket goes without a word. What was counted stays. */
void net_server_stop(struct net_server *server);

#endif
