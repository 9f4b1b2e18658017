/*
 * A client that does not behave: a socket of its own, and the packets that the library would send, of which it sends what it likes,
 * changed, again, or in part. `attnbench siege` and tests/system/test_net_siege.c are made of such.
 *
 * One thread for each. Sockets do not wait; functions here do, but never longer than SIEGE_WAIT_MS.
 */
#ifndef ATTNBENCH_SIEGE_ENEMY_H
#define ATTNBENCH_SIEGE_ENEMY_H

#include <sys/socket.h>

#include "netio/net_caller.h"

enum {
	SIEGE_WAIT_MS = 10000,
	SIEGE_ASK_BYTES_MAX = 64 << 10,
	SIEGE_DATAGRAM_BYTES = 1400, /* the longest that an enemy takes */
};

/* Whom it is against: a listener of the daemon, on an address of IPv4, and the key of one of its tenants. */
struct siege_target {
	bool datagram;
	struct sockaddr_storage address;
	socklen_t address_bytes;
	unsigned char key[NET_KEY_BYTES];
};

struct siege_enemy {
	const struct siege_target *target;
	int fd; /* -1: none */
	struct net_caller *caller;
	uint64_t asked;
	/* The packet that was made last. */
	size_t bytes;
	unsigned char packet[NET_PACKET_BYTES_MAX];
};

/* -EINVAL, -errno with a message. */
int siege_target_set(struct siege_target *target, const char *host, uint16_t port, bool datagram, const char *key_file);

/* ---- sockets ------------------------------------------------------------------------------------------------ */

/* Connected; receive_bytes: how little the kernel is to keep of what is not read, 0: as usual. -errno with a message. */
int siege_connect(const struct siege_target *target, int receive_bytes);
/* All of it, or as one datagram. 0; -errno: the other side has closed, or takes nothing. */
int siege_send(int fd, const void *bytes, size_t count);
/* What has come, at most `room` bytes. 0: nothing for wait_ms, or the end. */
size_t siege_receive(int fd, void *bytes, size_t room, int wait_ms);
/* Whether the other side has ended the stream, or does within SIEGE_WAIT_MS. */
bool siege_is_closed(int fd);

/* ---- enemies ------------------------------------------------------------------------------------------------ */

/* One that makes packets, and has no socket. -errno with a message. */
int siege_enemy_make(struct siege_enemy *enemy, const struct siege_target *target);
/* One that is connected. -errno with a message; nothing is left to be closed then. */
int siege_enemy_open(struct siege_enemy *enemy, const struct siege_target *target, int receive_bytes);
/* A stream ends without a word; by datagrams, where nobody would notice, it says so. Also of what was never opened, if it is all zero. */
void siege_enemy_close(struct siege_enemy *enemy);

/* Makes a HELLO of its own: enemy->packet. */
void siege_enemy_hello(struct siege_enemy *enemy);
/* The same, but for what only who has the key could have sealed. */
void siege_enemy_wrong_hello(struct siege_enemy *enemy);
/* Says HELLO, hears WELCOME, and says the first word, by which it is confirmed. 0; -EACCES: it was refused; -ETIMEDOUT; -errno. */
int siege_enemy_enter(struct siege_enemy *enemy);
/* Up to where WELCOME has come. */
int siege_enemy_half_enter(struct siege_enemy *enemy);
/* Asks for an echo of so many bytes: it lies in the packets that come next. 0 or -errno: as many as may be are under way. */
int siege_enemy_ask(struct siege_enemy *enemy, uint32_t bytes);
/* Makes the next packet. false: there is none. */
bool siege_enemy_next(struct siege_enemy *enemy);
/* Sends all of them. 0 or -errno. */
int siege_enemy_talk(struct siege_enemy *enemy);

#endif
