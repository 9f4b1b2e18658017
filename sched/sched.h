/*
 * The scheduler of one device: sessions, KV blocks, queues, batches. It decides what runs when; the
 * backend runs it.
 *
 * Pure over its clock, its backend and its lanes: no ring, packet, thread, file or system call
 * is known here, so the simulator polls it like everything else. One thread, its owner, calls
 * sched_poll; everything else reaches it as a message. Nothing is allocated after sched_create.
 *
 *   front --- sched_message ---> [ in ]         [ out ] --- sched_reply ---> the same front
 *                                        sched
 *   front --- sched_message ---> [ in ]         [ out ] --- sched_reply ---> the same front
 *
 * Each front has a lane: a pair of queues of its own, for clients of its own. Every poll takes from
 * each lane, and a lane that nobody drains holds up no other.
 *
 * The life of a request (the daemon's private bookkeeping; each arrow is taken by sched_poll
 * alone):
 *
 *   message -> QUEUED -> ACTIVE <-> RUNNING -> completed (exactly one final reply)
 *                 \---------\----------\----> cancelled | expired | refused | client gone
 *
 * QUEUED: copied, validated, behind earlier requests of its session. ACTIVE: head of its session,
 * its input copied, its blocks held. RUNNING: rows of it are in a submitted step.
 */
#ifndef SCHED_H
#define SCHED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "attnd/record.h"
#include "base/base_clock.h"
#include "base/base_spsc.h"
#include "base/base_view.h"
#include "kernels/kern_backend.h"
#include "model/model.h"

/* ---- what comes in -------------------------------------------------------------------- */

enum sched_message_kind {
	SCHED_REQUEST,
	SCHED_CLIENT_ADD,  /* argument: tenant; credits: stream completions it may receive; out, slots: what it sees of its
			      requests, a base_view_own_device and how many timelines that has; NULL: nothing */
	SCHED_CLIENT_GONE, /* ends and frees all it had; answered by SCHED_CLIENT_QUIESCED */
	SCHED_CREDIT,      /* credits: so many stream completions were consumed */
	SCHED_DRAIN,       /* refuse new work with DRAINING, finish what was accepted */
};

struct sched_message {               /* 128 bytes */
	struct attnd_request record; /* the front's private copy */
	uint32_t kind;
	uint32_t client; /* a number of the lane that it comes by; reused only after quiescence.
			    Of another lane's clients nothing is obeyed */
	uint32_t argument, credits;
	int64_t received_ns;
	/* The ranges that the record names, already checked against the client's arena; NULL when
	 * empty. What indexes or sizes is copied from here once and the copy validated; numeric
	 * payload is read in place by kernels. */
	const void *in;
	void *out;
	uint64_t slots;
	uint64_t reserved[2];
};
_Static_assert(sizeof(struct sched_message) == 128, "two cache lines");

/* ---- what goes out -------------------------------------------------------------------- */

enum sched_reply_kind { SCHED_COMPLETION, SCHED_CLIENT_QUIESCED };

struct sched_reply {                        /* 128 bytes */
	struct attnd_completion completion; /* lap is the front's to fill */
	uint32_t kind;
	uint32_t client;
	uint64_t reserved[7];
};
_Static_assert(sizeof(struct sched_reply) == 128, "two cache lines");

/* ---- lanes ---------------------------------------------------------------------------- */

enum { SCHED_LANES_MAX = 4 };

/* What lies between one front and the scheduler. Clients are numbered through all lanes: those of lane 0 are
 * 0 .. lanes[0].clients - 1, those of lane 1 follow, and so on. What a client is owed comes out of the lane that it came by.
 *
 * The front must always drain `out`; the scheduler takes a request from `in` only while `out` has room for its final completion
 * and for those of all it accepted by this lane, so it never waits and never drops. Where there is no room for more, the lane's
 * messages stay in `in` and its streams are parked; those of other lanes go on. `out` holds at least clients + requests_max + 64
 * elements: one for each final completion, which may all be this lane's, one for each client's quiescence, and some for
 * streams. */
struct sched_lane {
	struct base_spsc *in, *out; /* of struct sched_message, struct sched_reply */
	uint32_t clients;
};

/* ---- configuration -------------------------------------------------------------------- */

enum { SCHED_TENANTS_MAX = 64, SCHED_MODELS_MAX = 16 };

struct sched_tenant {
	uint64_t models; /* bit i: may use model i */
	bool attention;  /* may open attention sessions */
	uint32_t sessions_max;
	uint64_t kv_bytes_max;
	uint32_t weight;       /* share of device time beside others that want it; 1 = normal, 0 counts as 1 */
	uint32_t requests_max; /* accepted and not completed, of all its clients; 0: no limit */
	/* Device time in a second, averaged, however idle the device is; what was not used is saved up to device_burst_ns.
	 * 0: no limit, and a tenth of a second's. */
	uint64_t device_ns_per_s, device_burst_ns;
	uint32_t prefix_group; /* tenants with the same number find each other's prefixes; 0: nobody else's */
};

/* A model as the scheduler needs it, all constant while it lives. */
struct sched_model {
	const struct kern_program
		*program; /* prepared on `backend`, with max_rows >= step_rows_max */
	const struct model_info *info;
	const struct model_tokenizer *tokenizer; /* end tokens; NULL: none */
	const struct model *file; /* asked whether its file was damaged; NULL: never */
	const char *name;         /* what clients ask for; NULL: the name in its file */
};

/* Who goes first inside a class. The last two are here to be compared with: they admit everything, stop nothing that is late,
 * and know neither fair shares (but between equals) nor the age of what waits. */
enum sched_policy {
	SCHED_POLICY_PROMISE, /* by deadline; what would be late is refused */
	SCHED_POLICY_ARRIVAL, /* by arrival */
	SCHED_POLICY_EARLIEST /* by deadline */
};

struct sched_options {
	size_t struct_bytes;
	struct base_clock *clock;
	struct kern_backend *backend;
	struct sched_lane lanes[SCHED_LANES_MAX];
	uint32_t lane_count;
	const struct sched_model *models; /* [model_count] */
	uint32_t model_count;
	const struct sched_tenant *tenants;
	uint32_t tenant_count;
	uint32_t device;  /* this device's index, < 256: goes into session handles
			     (sched/sched_handle.h) */
	uint64_t boot_id; /* goes into session handles: a handle of another life answers
			     SESSION_LOST */
	enum kern_kv kv_default;
	uint64_t kv_bytes;        /* the KV pool */
	uint64_t kv_extent_bytes; /* 0: chosen from kv_bytes */
	uint32_t sessions_max, requests_max;
	uint32_t client_requests_max; /* accepted and not completed, of one client: the contract's
					 max_in_flight */
	uint32_t tokens_max;          /* of one session */
	uint32_t step_rows_max; /* token budget of one step; the models were loaded with max_rows >=
				   this */
	uint32_t prefill_chunk; /* rows of one sequence in one step at most */
	uint32_t
		out_rows_max; /* output rows of one step; a request with more is cut into several */
	uint32_t speculate;   /* tokens that a stream may guess ahead in one step, at most SCHED_DRAFT_MOST; 0: none */
	const char *build;    /* for DESCRIBE */
	enum sched_policy policy;
	bool prefix_cache;        /* pages of prompts and answers are kept for later prompts that begin so (sched_prefix.h) */
	bool prefix_least_recent; /* of these the least recently used go first: to be compared with */
	uint64_t secret[2];       /* drawn anew at every start: hashes of cached pages and the shape of trees depend on it */
	struct base_view_device *view; /* what operators see of it, zeroed; NULL: nobody looks */
};

/* ---- the role ------------------------------------------------------------------------- */

struct sched;

/* -EINVAL, -ENOMEM with a message. */
int sched_create(struct sched **sched, const struct sched_options *options);
/* Takes messages, makes progress on the device, forms steps, sends replies. Returns the amount of
 * work done; 0 = idle. Never blocks. */
int sched_poll(struct sched *sched);
/* True when nothing is queued, running, or waiting to be zeroed. */
bool sched_idle(const struct sched *sched);
/* When sched_poll has to be called next although no message arrives (a deadline): ns, INT64_MAX if
 * never. */
int64_t sched_next_event_ns(const struct sched *sched);
/* After the polling thread has ended: waits until nothing of this scheduler runs on the device, so
 * that clients' memory may go. Only sched_destroy may follow. */
void sched_flights_wait(struct sched *sched);
void sched_destroy(struct sched *sched);

/* ---- what can be read of it (owner's thread; the control role gets copies by way of svc)  */

struct sched_counters {
	uint64_t accepted, completed;         /* requests; equal when idle */
	uint64_t by_status[ATTND_STATUS_END]; /* final completions */
	uint64_t by_op[ATTND_OP_END];
	uint64_t stream_completions;
	uint64_t gone; /* completions that had no client left */
	uint64_t steps, step_rows, decode_rows, prefill_rows, step_seqs, attends;
	uint64_t draft_rows, drafts_accepted; /* rows of guessed tokens; of these, those that were right */
	uint64_t busy_ns;                     /* time with work on the device */
	uint64_t predicted_ns, actual_ns;     /* sums over steps */
	double error_median, error_p99;       /* of predictions, |actual / predicted - 1|, lately */
	/* How far backlogged tenants were apart at most, and may be: device time by weight. See sched/sched_share.c. */
	uint64_t fair_drift_ns, fair_bound_ns;
	uint64_t parked;                      /* times a stream had no credit, or its lane no room */
	uint32_t sessions, clients, requests; /* live now */
	uint64_t kv_bytes_used, kv_bytes_free, kv_bytes_dirty;
	uint64_t kv_bytes_cached; /* not used: pages that nobody holds; any request that wants them gets them */
	uint64_t prefix_lookups, prefix_hits;        /* prompts that began a session; those of which some pages were there */
	uint64_t prefix_prompt_tokens, prefix_tokens; /* of these prompts; of these, found */
	uint64_t prefix_evictions;
	uint32_t prefix_pages;    /* in the cache now, held ones too */
	uint32_t blocks_used;
};

void sched_counters_read(const struct sched *sched, struct sched_counters *counters);

/* Visits live sessions, for attnctl. */
struct sched_session_view {
	uint64_t handle;
	uint32_t client, tenant, kind, model, position, blocks, queued;
	uint8_t kv_k, kv_v;
};
uint32_t sched_sessions_view(
	const struct sched *sched, struct sched_session_view *views, uint32_t capacity);

/* Tenants by number, for attnctl; at most SCHED_TENANTS_MAX. */
struct sched_tenant_view {
	uint64_t used_ns;  /* device time of its works that have landed */
	uint64_t backlogs; /* times that its ready work ran out or was held up by its quota */
	uint32_t weight, sessions, requests;
	bool ready; /* some of its work waits for nothing but a step */
	bool held;  /* it waits for its quota of device time */
};
uint32_t sched_tenants_view(
	const struct sched *sched, struct sched_tenant_view *views, uint32_t capacity);

/* The KV pool's memory, for a look at where its pages lie. Constant. */
const void *sched_pool(const struct sched *sched, size_t *size_bytes);

/* Checks every invariant (conservation of blocks, requests and credits; reference counts against
 * block tables). 0, or -EINVAL with a message saying which one broke. For tests and the simulator;
 * not for the request path. */
int sched_check(const struct sched *sched);

#endif
