/*
 * The library's inside: what a client is, the table of functions behind which a transport hides,
 * and the arena's allocator. Not installed.
 *
 *   attnd_client.c   connect, disconnect, liveness      attnd_submit.c  submit, poll, wait (the hot path)
 *   attnd_shm.c      the shared-memory transport        attnd_sync.c    synchronous helpers
 *   attnd_arena.c    loans                              attnd_names.c   names and texts of codes
 *   attnd_net.c      the network transports             attnd_view.c    what the daemon shows without being asked
 *
 * One thread at a time per client; nothing here is shared between clients.
 */
#ifndef ATTND_CLIENT_H
#define ATTND_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "attnd/attnd.h"
#include "attnd/view.h"
#include "base/base_clock.h"
#include "shm-ipc/shm_view.h"

enum {
	ATTND_ADDRESS_BYTES = 256,
	ATTND_LIVENESS_POLLS = 256, /* failed polls between two looks at the clock; a power of two */
};
#define ATTND_LIVENESS_NS INT64_C(100000000) /* and at most one look at the socket in this time */

/* ---- transports ------------------------------------------------------------------------------ */

/* Lies in memory that the daemon writes. */
struct client_view {
	const struct shm_counters *counters;
	struct shm_view_own own;
};

/* A way to the daemon. Another transport is another table; no caller of these changes. */
struct client_transport {
	const char *scheme; /* "shm": addresses read "shm:place" */
	/* Sets client->link, arena memory, max_in_flight and boot_id. 0 or -errno with a message,
	 * nothing left behind. */
	int (*connect)(struct attnd_client *client, const char *place);
	void (*disconnect)(struct attnd_client *client);
	/* Takes up to count requests, as one batch; how many. The limit on requests in flight is the
	 * caller's. */
	unsigned (*submit)(void *link, const struct attnd_request *requests, unsigned count);
	unsigned (*poll)(void *link, struct attnd_completion *completions, unsigned max);
	/* Whether poll would return something. */
	bool (*ready)(void *link);
	/* Waits until poll may return something, at most timeout_ns. */
	void (*sleep)(void *link, int64_t timeout_ns);
	/* 0, or -ENOTCONN when the daemon said that it is closed. No system call. */
	int (*said_closed)(void *link);
	/* 0, or -ENOTCONN when the daemon is gone. One system call that does not wait. */
	int (*alive)(void *link);
	/* What the daemon shows of this client's requests. NULL: a transport without. -ENOTSUP, -EPROTO with a message. */
	int (*view)(const void *link, struct client_view *view);
	/* The daemon's clock less this machine's, and by how much that may be wrong. NULL: they are the same. */
	int64_t (*clock)(const void *link, int64_t now_ns, int64_t *error_ns);
	/* For who waits on many: a descriptor that is readable when something has come, -EAGAIN while there is none; and in how long from
	 * now_ns poll has to be called although it is not. Both NULL: a transport without. Such a one says that it is closed without being
	 * asked often. */
	int (*fd)(const void *link);
	int64_t (*next_ns)(const void *link, int64_t now_ns);
};

extern const struct client_transport client_shm_transport, client_tcp_transport, client_udp_transport, client_unix_transport;

/* ---- arena ----------------------------------------------------------------------------------- */

/*
 * Two-level segregated fit (Masmano, Ripoll, Crespo, Real 2004): loan and return take constant
 * time. The bookkeeping lies beside the arena, never in it, because the daemon and its devices
 * write there. Memory is counted in granules of 64 bytes; in arenas above 1 GiB a granule is
 * larger, so that there are at most 2^24 of them and the table of blocks stays below 256 MiB of
 * address space, touched only where blocks begin.
 */
enum { ARENA_CLASS_BITS = 4, ARENA_CLASSES = 1 << ARENA_CLASS_BITS, ARENA_GRANULES_BITS = 24,
	ARENA_LEVELS = ARENA_GRANULES_BITS - ARENA_CLASS_BITS + 2 };

struct client_arena_block;

struct client_arena {
	unsigned char *memory;
	uint64_t bytes;
	unsigned granule_shift;
	uint32_t granules, free_granules;
	uint32_t levels;                /* bit l: level l has a free block */
	uint32_t classes[ARENA_LEVELS]; /* bit c: class c of the level has one */
	uint32_t heads[ARENA_LEVELS][ARENA_CLASSES];
	struct client_arena_block *blocks; /* [granules + 1] */
};

/* -ENOMEM with a message. */
int client_arena_create(struct client_arena *arena, void *memory, uint64_t bytes);
void client_arena_destroy(struct client_arena *arena);
void *client_arena_take(struct client_arena *arena, size_t bytes);
/* -EINVAL with a message when this is not the beginning of a loan; nothing changes then. */
int client_arena_give(struct client_arena *arena, void *loan);
/* Checks every invariant, for tests: blocks tile the arena, free neighbours are merged, lists
 * and counts agree. 0, or -EINVAL with a message. */
int client_arena_check(const struct client_arena *arena);

/* ---- client ---------------------------------------------------------------------------------- */

struct attnd_client {
	const struct client_transport *transport;
	void *link; /* the transport's */
	unsigned in_flight, max_in_flight;
	unsigned failed_polls;
	bool gone;
	int64_t spin_ns, dead_after_ns;
	int64_t liveness_ns;  /* between two looks at the socket */
	int64_t looked_ns;    /* the last one */
	struct base_clock *clock;
	unsigned char *arena_memory;
	uint64_t arena_bytes;

	/* below here is not touched per request */
	struct client_arena arena;
	uint64_t boot_id;
	uint64_t next_id; /* of the synchronous helpers */
	struct attnd_completion last;
	struct attnd_options options; /* defaults filled in */
	char address[ATTND_ADDRESS_BYTES];
	char *key_file;                 /* a copy; NULL: none was named */
	struct base_clock clock_state;
};

/* Looks whether the daemon is still there, the cheap way, and by its socket when that is due. 0
 * or -ENOTCONN with a message; completions that have arrived come first. */
int client_look(struct attnd_client *client);

#endif
