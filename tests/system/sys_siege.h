/*
 * A town under siege, for system tests: a daemon that listens over TCP, UDP and a Unix socket; connections that are only held; citizens,
 * who work all the time over good connections and look at every answer; what the daemon has counted since a moment; and a tap, in
 * which a citizen's datagrams can be overheard.
 *
 * Citizens are threads; everything else is the test's one.
 */
#ifndef SYS_SIEGE_H
#define SYS_SIEGE_H

#include <cjson/cJSON.h>
#include <pthread.h>

#include "tests/system/sys_net.h"
#include "tools/attnbench_siege_enemy.h"

enum {
	SIEGE_CITIZENS = 6,
	SIEGE_HALF_OPEN = 64,        /* places */
	SIEGE_NET_BYTES = 16 << 20,  /* [net] memory */
	SIEGE_WINDOW_BYTES = 256 << 10,
	SIEGE_PARTS = 32,            /* packets in pieces that there is memory for */
	SIEGE_ROOM = 192,            /* places for connections beside those that are held */
	SIEGE_ROWS = 64,             /* of a session, until it begins anew */
	SIEGE_HEADS = 2, SIEGE_HEAD_DIM = 64,
	SIEGE_ROW = SIEGE_HEADS * SIEGE_HEAD_DIM,
};

/* A socket in between: what a client says to it goes on to the daemon, and back. */
struct sys_tap {
	pthread_t thread;
	pthread_mutex_t lock;
	_Atomic bool stop;
	int front, back; /* sockets: the client's side; the daemon's */
	uint16_t port;
	struct sockaddr_storage client;
	socklen_t client_bytes;
	/* Overheard: the last HELLO, and the last DATA, from the client. */
	size_t hello_bytes, data_bytes;
	unsigned char hello[NET_PACKET_BYTES_MAX], data[NET_PACKET_BYTES_MAX];
};

struct sys_citizen {
	struct sys_siege *siege;
	const char *name;
	enum sys_way way;
	const char *address;
	uint32_t echo_bytes;
	pthread_t thread;
	_Atomic bool stop, failed;
	_Atomic uint64_t rounds; /* of an echo, a step and a row of attention */
	struct attnd_client *client;
	struct attnd_open_params shape;
	uint64_t session, attention;
	uint32_t position, rows;
	uint64_t random;
	char wrong[200]; /* once failed */
};

struct sys_siege {
	struct sys_net net;
	struct siege_target tcp, udp;
	struct sys_tap tap;
	struct sys_citizen citizens[SIEGE_CITIZENS];
	struct attnd_client **held;
	uint32_t held_count;
	uint64_t rss_bytes;   /* before the first attack */
	cJSON *noted;         /* "network" of its status, at the last note */
	char tap_address[64];
	char settings[4][64];
	const char *options[24];
	/* What steps and rows of attention are answered, learned through shared memory. */
	uint32_t history[SIEGE_ROWS], answers[SIEGE_ROWS];
	float q[SIEGE_ROWS][SIEGE_ROW], k[SIEGE_ROWS][SIEGE_ROW], v[SIEGE_ROWS][SIEGE_ROW], o[SIEGE_ROWS][SIEGE_ROW];
};

/* All of it, at work. These fail the running test where they cannot. */
void sys_siege_start(struct sys_siege *siege);
/* Everybody who is held is asked whether he is there still; then all go, and the daemon ends well. */
void sys_siege_stop(struct sys_siege *siege);

/* ---- what was counted --------------------------------------------------------------------------------------- */

/* From now on it counts anew. */
void sys_siege_note(struct sys_siege *siege);
/* "network.NAME" since then. */
double sys_siege_counted(const struct sys_siege *siege, const char *name);
/* Waits until the names' sum is so much; not for ever. NULL-terminated. */
void sys_siege_await(const struct sys_siege *siege, double least, const char *const *names);

struct sys_siege_expected {
	const char *name;
	double least, most;
};

/* Each of these rose by so much, and nothing else that tells of an ill. An entry without a name is the last. */
void sys_siege_expect(const struct sys_siege *siege, const struct sys_siege_expected *expected);

/* ---- how the town does -------------------------------------------------------------------------------------- */

/* Every citizen goes on, and none has met with anything but good answers. */
void sys_siege_alive(struct sys_siege *siege);
/* The daemon has no more in memory than what it was given to have, and so much besides. */
void sys_siege_memory(const struct sys_siege *siege, uint64_t more_bytes);
/* Nobody is connected any more but the town. */
void sys_siege_await_peace(const struct sys_siege *siege);
/* Somebody new comes in over each way. */
void sys_siege_newcomers(const struct sys_siege *siege);

/* ---- the tap ------------------------------------------------------------------------------------------------ */

void sys_tap_start(struct sys_tap *tap, const struct siege_target *target);
void sys_tap_stop(struct sys_tap *tap);
/* Copies what was overheard. The bytes. */
size_t sys_tap_hello(struct sys_tap *tap, unsigned char packet[NET_PACKET_BYTES_MAX]);
size_t sys_tap_data(struct sys_tap *tap, unsigned char packet[NET_PACKET_BYTES_MAX]);
/* Says it again, as if it came from the client. */
void sys_tap_say(struct sys_tap *tap, const void *packet, size_t bytes);

#endif
