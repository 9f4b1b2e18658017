/*
 * A daemon of one client at a time, for tests of the client library: real socket, segments,
 * rings and bells, or the daemon's own network front over real sockets; what it answers is the
 * test's. Runs on a thread of its own.
 */
#ifndef CLIENT_FAKE_DAEMON_H
#define CLIENT_FAKE_DAEMON_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "attnd/record.h"
#include "shm-ipc/shm_segment.h"

struct fake_daemon;

/* Answers a request: fills in *completion (zeroed, but for request_id, status OK and FINAL).
 * False: no answer at all. Stream completions are sent before by fake_daemon_stream. in and out
 * are the ranges, NULL when empty. */
typedef bool fake_answer_fn(struct fake_daemon *daemon, const struct attnd_request *request, const void *in, void *out,
	struct attnd_completion *completion);

enum fake_end { FAKE_RUNS, FAKE_CLOSES, FAKE_DIES };

enum fake_way { FAKE_SHM, FAKE_UNIX, FAKE_TCP, FAKE_UDP };

struct fake_network;

struct fake_daemon {
	fake_answer_fn *answer;
	enum fake_way way;
	const char *key_file;   /* not over FAKE_SHM: who comes needs this key; NULL: none */
	bool spins;             /* never sleeps */
	uint32_t max_in_flight; /* 0: as the rings allow */
	uint64_t boot_id;
	char folder[64], path[80]; /* the socket of FAKE_SHM and FAKE_UNIX */
	char address[96];

	/* the rest is the daemon's own */
	_Atomic int end;           /* enum fake_end: what to do next */
	_Atomic uint32_t cancelled; /* CANCEL requests seen; for answers */
	int listen_fd, stop_fd, socket, bell_fd;
	struct shm_segment segment;
	struct shm_daemon_end ring;
	struct fake_network *network; /* NULL: FAKE_SHM */
	pthread_t thread;
};

/* answer, way, key_file, spins, max_in_flight and boot_id are set by the caller. Fails the test when
 * something cannot be made. Once it has ended it may be started again, at the same address. */
void fake_daemon_start(struct fake_daemon *daemon);
/* FAKE_CLOSES: says so and goes. FAKE_DIES: drops the socket without a word, as a killed process
 * does. Both take the socket's file along. */
void fake_daemon_end(struct fake_daemon *daemon, enum fake_end end);

/* For answers: sends a stream completion, waiting while there is no credit. False when the
 * client or the daemon has ended meanwhile. */
bool fake_daemon_stream(struct fake_daemon *daemon, const struct attnd_completion *completion);
/* For answers that stream: whether a CANCEL of this request has come; it is answered here. */
bool fake_daemon_cancelled(struct fake_daemon *daemon, uint64_t request_id);

#endif
