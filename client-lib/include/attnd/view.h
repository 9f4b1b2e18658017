/*
 * What the daemon does, read from its memory without asking it: a client's own requests step by step, and, for who may open
 * the control socket, what all of it does.
 *
 * Reading makes no system call and costs the daemon nothing; it keeps writing meanwhile. Every struct that comes back is a copy. What
 * stands together in one is of one moment, unless said otherwise; nothing in it is trusted by the daemon. Times are nanoseconds of
 * CLOCK_MONOTONIC, 0 where it has not happened; counts begin at the daemon's start. When the daemon dies its memory stays as it
 * was until the reader lets go of it: the last values are still there, and `stale` says so.
 *
 * Valid C and C++; what the daemon shares is laid out like these structs, byte for byte.
 */
#ifndef ATTND_VIEW_H
#define ATTND_VIEW_H

#include <stddef.h>
#include <stdint.h>

#include "attnd/record.h"

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

struct attnd_client;
struct attnd_view;

enum {
	ATTND_TIMELINE_STEPS = 8,   /* of so many steps, the first ones, the times are kept one by one */
	ATTND_VIEW_OPS = 16,        /* indices below are enum attnd_op, ... */
	ATTND_VIEW_STATUSES = 64,   /* ... enum attnd_status, */
	ATTND_VIEW_CLASSES = 4,     /* and enum attnd_class, with room for more */
	ATTND_VIEW_MODELS = 24,     /* the daemon's models by index; number 16 is raw attention */
	ATTND_VIEW_ERRORS = 385,    /* classes of actual / predicted: class i is about 2^((i - 192) / 64); the ends take the rest */
	ATTND_VIEW_ERRORS_ZERO = 192,
	ATTND_VIEW_ERRORS_PER_DOUBLING = 64,
};

/* The daemon writes that it lives ten times a second; what is older than this is stale. */
#define ATTND_VIEW_STALE_NS INT64_C(2000000000)

/* ---- a client's own requests ----------------------------------------------------------------- */

enum {
	ATTND_TIMELINE_MISSED = 1 << 1, /* as ATTND_CPL_MISSED */
	/* While it ran so many others came that its record was given to one of them; this is a new one, written when it was done,
	 * without the times of single steps. */
	ATTND_TIMELINE_CUT = 1 << 7,
};

/* One request on its way. NOP has none, nor have text operations, nor what the front refused (malformed records). */
struct attnd_timeline { /* 256 bytes */
	uint64_t number;        /* of this client's records on this device, from 1, in the order of arrival */
	uint64_t request_id;
	int64_t last_step_ns;   /* its last step so far landed */
	uint32_t steps;         /* works on the device that it was part of, landed */
	uint32_t rows;          /* of it in these, tokens or queries */
	int64_t started_ns;     /* its first work was submitted */
	int64_t done_ns;        /* 0: it is on its way */
	uint8_t op, priority_class, status, flags; /* status and flags once it is done; flags: ATTND_TIMELINE_* */
	uint8_t device, reserved[3];
	uint32_t tokens;        /* stream completions, once it is done */
	uint32_t reserved2;
	uint64_t session;
	int64_t received_ns;    /* the front saw the record */
	int64_t admitted_ns;    /* the scheduler took it; 0: it refused it */
	int64_t deadline_ns;    /* as submitted; 0: none */
	int64_t predicted_ns;   /* the finish that was predicted when it came (GENERATE: of its first token); 0: it had no deadline,
				   and nothing was predicted. Of a REFUSED_DEADLINE: the one that could have been promised */
	uint64_t reserved3[3];
	/* Of step i < steps, i < ATTND_TIMELINE_STEPS, unless ATTND_TIMELINE_CUT: */
	int64_t step_ns[ATTND_TIMELINE_STEPS];       /* landed */
	uint32_t step_took_ns[ATTND_TIMELINE_STEPS]; /* since it was submitted; 4.29 s at most */
	uint32_t step_rows[ATTND_TIMELINE_STEPS];
};

/* Counts of one client; each is right by itself. */
struct attnd_view_own { /* 640 bytes */
	uint64_t records;       /* requests that have, or had, a timeline */
	uint64_t requests, completions, stream_completions, parked; /* of the rings; a moment behind while the daemon is busy */
	uint64_t stale;         /* 1: the daemon is gone, or has closed this connection */
	uint64_t reserved[10];
	uint64_t ended[ATTND_VIEW_STATUSES]; /* requests by status, all that reached a scheduler */
};

/* The calling thread's client, as all functions of attnd.h. Both work, too, when the daemon is gone, until attnd_reconnect or
 * attnd_disconnect. -ENOTSUP: a client that came over the network, or a daemon that keeps no timelines (by its configuration, or too
 * old). */
int attnd_view_read_own(const struct attnd_client *client, struct attnd_view_own *own);
/* The latest `max` records, oldest first by when they were received; returns how many. Each is of one moment; one that could not
 * be read so, because the daemon died or was stopped while writing it, is left out. */
int attnd_view_timelines(const struct attnd_client *client, struct attnd_timeline *timelines, unsigned max);
/* The latest record with this request id. -ENOENT: there is none (any more). */
int attnd_view_timeline(const struct attnd_client *client, uint64_t request_id, struct attnd_timeline *timeline);

/* ---- all of it, for operators ---------------------------------------------------------------- */

/* Of one moment, written after each step, and whenever the scheduler finds nothing to do. */
struct attnd_view_now { /* 512 bytes */
	uint64_t number;        /* of publications */
	int64_t published_ns, started_ns; /* started: of the counts */
	uint64_t busy_ns;       /* the device had work, all that has landed; idle is the rest: */
	int64_t begun_ns;       /* 0: it has none now; else since when it works on what has not landed */
	uint64_t predicted_ns, actual_ns; /* sums over steps */
	uint64_t steps, step_rows, decode_rows, prefill_rows, step_sequences, attends;
	uint64_t stream_completions, parked; /* parked: times that a stream waited for its client or front to read */
	uint64_t gone;          /* requests whose client had left when they ended */
	uint64_t waiting[ATTND_VIEW_CLASSES]; /* admitted, not yet begun: the queues */
	uint64_t running[ATTND_VIEW_CLASSES]; /* begun, not done */
	uint64_t clients, sessions;
	uint64_t kv_bytes, kv_used, kv_cached, kv_dirty, kv_free; /* dirty: to be zeroed; cached: taken from whoever comes */
	uint64_t kv_blocks;     /* used or cached; a block holds 64 tokens of a session */
	uint64_t prefix_lookups, prefix_hits, prefix_prompt_tokens, prefix_tokens, prefix_evictions, prefix_pages;
	uint64_t fair_drift_ns;
	uint64_t reserved[25];
};

/* Each count is right by itself, at once; they may be ahead of attnd_view_now by what happened since. */
struct attnd_view_counts { /* 11776 bytes */
	uint64_t received[ATTND_VIEW_OPS], admitted[ATTND_VIEW_OPS]; /* by operation; 0: unknown ones */
	uint64_t ended[ATTND_VIEW_OPS][ATTND_VIEW_STATUSES];
	uint64_t errors[ATTND_VIEW_ERRORS]; /* steps by actual / predicted time */
	uint64_t predictions;   /* their sum */
	uint64_t band[ATTND_VIEW_MODELS]; /* of the cost model, by model: what actual / predicted stays below, in millionths; 0: no step
					     of it yet */
	uint64_t reserved[6];
};

struct attnd_view_device { struct attnd_view_now now; struct attnd_view_counts counts; };

/* Each value is right by itself, and at most a tenth of a second old while the daemon lives. */
struct attnd_view_daemon { /* 256 bytes */
	uint64_t boot_id;
	int64_t started_ns;
	int64_t alive_ns;       /* when it last said that it lives */
	uint32_t pid, devices;
	uint64_t clients;
	/* of the front, which answers some records itself */
	uint64_t records, completions, stream_completions;
	uint64_t bad_record, bad_op, bad_range, queue_full;
	uint64_t dropped;       /* completions of clients that had left */
	uint64_t reserved[17];
	/* the reader's */
	int64_t read_ns;        /* now */
	uint64_t stale;         /* 1: it has not said so for ATTND_VIEW_STALE_NS; it is dead, or stopped */
};

/* The daemon whose data socket is at this address (NULL: as attnd_connect). It hands out its memory by way of the control
 * socket, which only its own user and root may open; that is the only time that it is asked. Any thread may read a view, several at a
 * time, too. -ENOENT, -ECONNREFUSED: no daemon there; -EACCES; -ENOTSUP: one without such memory, or an address of
 * the network; -EPROTO; -ETIMEDOUT. */
int attnd_view_open(struct attnd_view **view, const char *address);
void attnd_view_close(struct attnd_view *view);
int attnd_view_read_daemon(const struct attnd_view *view, struct attnd_view_daemon *daemon);
/* -EINVAL: no such device. */
int attnd_view_read_device(const struct attnd_view *view, uint32_t device, struct attnd_view_device *device_out);

/* How long the device has had work, from its start to this moment (read_ns; of a stale daemon alive_ns): what two readings differ in,
 * divided by the time between them, is the utilisation. */
static inline uint64_t attnd_view_busy_ns(const struct attnd_view_now *now, int64_t at_ns)
{
	return now->busy_ns + (now->begun_ns && at_ns > now->begun_ns ? (uint64_t)(at_ns - now->begun_ns) : 0);
}

/* What |actual / predicted - 1| stays within for this share (0 to 1) of steps: 0.5 gives the median; 0 before any step. */
double attnd_view_error(const struct attnd_view_counts *counts, double share);

ATTND_SIZE(struct attnd_timeline, 256);
ATTND_AT(struct attnd_timeline, op, 48);
ATTND_AT(struct attnd_timeline, session, 64);
ATTND_AT(struct attnd_timeline, step_ns, 128);
ATTND_AT(struct attnd_timeline, step_rows, 224);
ATTND_SIZE(struct attnd_view_own, 640);
ATTND_SIZE(struct attnd_view_now, 512);
ATTND_SIZE(struct attnd_view_counts, 11776);
ATTND_SIZE(struct attnd_view_daemon, 256);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif
