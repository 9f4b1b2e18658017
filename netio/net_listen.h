/*
 * Sockets of the kernel that listen, for the transports that use them. Cold: at start and at the end, and once per accepted stream.
 */
#ifndef NET_LISTEN_H
#define NET_LISTEN_H

#include <sys/types.h>

#include "netio/net_port.h"

struct net_listening {
	int fd; /* non-blocking; -1: none */
	uint8_t kind;
	uint16_t port; /* the one that it got; 0: a Unix socket */
	char place[NET_PLACE_BYTES];
	/* The file of a Unix socket: only the one that was made here is removed at the end. */
	bool has_file;
	dev_t device;
	ino_t inode;
};

/* -errno with a message that names the listener. What a stale Unix socket left behind is removed; one that is served is not. */
int net_listen(struct net_listening *listening, const struct net_listener *listener);
void net_listen_end(struct net_listening *listening);

/* Waits until a port that a closed listener had can be had again, at most a second: what the kernel does after the last close may hold it
 * for a while longer. */
void net_listen_wait_free(const struct net_listening *was);

/* All of them, or none. */
int net_listen_all(struct net_listening *listening, const struct net_port_options *options);

/* Who is at the other end: the address and port of a stream over IP; of a Unix socket the family and, 4 bytes behind it, its struct
 * ucred. Zeros where it is not known. */
void net_listen_peer(int fd, uint8_t kind, unsigned char address[NET_ADDRESS_BYTES]);

#endif
