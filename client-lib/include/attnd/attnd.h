/*
 * libattnd: the client's side.
 *
 * A client is a connection to the daemon: a submission ring, a completion ring, and an arena
 * whose memory the daemon's kernels read and write directly. Buffers are loaned from the arena,
 * filled, named in a request, and returned when its final completion has come.
 *
 * Over a network the calls and their meaning are the same. The arena is this process's own; inputs are sent from it and results put into
 * it. When a connection breaks the library makes a new one by itself, from within poll and wait, and requests in flight go on; only when
 * the daemon cannot be reached for dead_after_ns, or does not know them any more, they are lost: -ENOTCONN. So is whoever does not poll:
 * the daemon drops what is silent for minutes.
 *
 * attnd/view.h has what is seen of the daemon without a request: a client's own requests step by step, and for operators all of it.
 *
 * Threads: one thread at a time per client; different clients are independent. A client does not
 * survive fork(2): the child must only call attnd_disconnect on it, or nothing.
 *
 * Errors: 0 or a count on success, a negative errno otherwise; attnd_error() has the sentence.
 * -ENOTCONN: the daemon is gone; every request in flight is lost, and attnd_connect again gives
 * a fresh client whose daemon may answer SESSION_LOST to old handles. -EAGAIN: no room now (in
 * flight limit or ring); poll completions, then submit again. -EIO: the request completed with a
 * status that is not OK; attnd_last_completion() has it.
 */
#ifndef ATTND_ATTND_H
#define ATTND_ATTND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "attnd/record.h"

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

struct attnd_client;

struct attnd_options {
	size_t struct_bytes;       /* sizeof(struct attnd_options) */
	/* "shm:/run/attnd/attnd.sock"; "attnd://host:7747" (TCP), "attnd+udp://host:7747", "attnd+unix:///path": the network's protocol. NULL:
	 * $ATTND_ADDRESS, then the usual places of shared memory. */
	const char *address;
	uint64_t arena_bytes;      /* 0: 16 MiB */
	uint32_t submission_slots; /* 0: 256; power of two */
	uint32_t completion_slots; /* 0: 1024; power of two */
	int64_t spin_ns;           /* how long wait spins before it sleeps; 0: 50 us; < 0: for ever */
	int64_t connect_timeout_ns;/* 0: 5 s */
	int64_t dead_after_ns;     /* the daemon's death is noticed within this bound; 0: 1 s */
	/* Network: the file of the tenant's key, 64 hexadecimal digits that nobody else may read. NULL: $ATTND_KEY_FILE; if that is not
	 * set either the connection is plain, which daemons take on few listeners. */
	const char *key_file;
};

/* ---- connection ------------------------------------------------------------------------------ */

/* options may be NULL. -ENOENT, -ECONNREFUSED: no daemon at the address; -EPROTO: another
 * version; -EPERM: not allowed; -EBUSY: no place for one more; -ETIMEDOUT. */
int attnd_connect(struct attnd_client **client, const struct attnd_options *options);
/* Also ends every request and session of this client. NULL is fine. */
void attnd_disconnect(struct attnd_client *client);
/* Drops the old connection and makes a new one with the same options; loans of the old arena are
 * void. */
int attnd_reconnect(struct attnd_client *client);

/* This thread's last error, a sentence; "" if none. */
const char *attnd_error(void);
const char *attnd_version(void);
uint64_t attnd_boot_id(const struct attnd_client *client);
/* Now, on the clock that deadlines and completions use: the daemon's. */
int64_t attnd_now_ns(const struct attnd_client *client);
/* By how much that may be wrong: 0 over shared memory; over a network about half a round trip. -ENOTCONN. */
int64_t attnd_clock_error_ns(const struct attnd_client *client);
/* "ok", "refused-deadline", ...; never NULL. */
const char *attnd_status_name(unsigned status);
const char *attnd_op_name(unsigned op);
/* A sentence about a status: what it means and what to do. Never NULL. */
const char *attnd_status_text(unsigned status);

/* ---- the arena ------------------------------------------------------------------------------- */

/* 64-byte aligned memory of at least `bytes`, inside the arena; NULL when it is full. Contents
 * undefined. */
void *attnd_loan(struct attnd_client *client, size_t bytes);
void attnd_return(struct attnd_client *client, void *loan);
size_t attnd_arena_free_bytes(const struct attnd_client *client);
/* The offset, in 64-byte units, to write into a record. memory must lie in the arena at a multiple of
 * 64; UINT32_MAX, which the daemon answers with BAD_RANGE, where it does not. */
uint32_t attnd_offset(const struct attnd_client *client, const void *memory);

/* ---- asynchronous ---------------------------------------------------------------------------- */

/* Submits up to count requests in order, as one batch; returns how many were taken (maybe
 * fewer), or -EAGAIN when none, -ENOTCONN. version is filled in; everything else is the
 * caller's. */
int attnd_submit(struct attnd_client *client, const struct attnd_request *requests, unsigned count);
/* Takes what has arrived, at most max. Returns how many; 0 = nothing yet; -ENOTCONN. No system
 * call, but for one that wakes a daemon asleep for want of room, and, once polls have found
 * nothing for 100 ms (or dead_after_ns / 4), one look at the socket in that time. */
int attnd_poll(struct attnd_client *client, struct attnd_completion *completions, unsigned max);
/* As poll, but waits: spins spin_ns, then sleeps. timeout_ns < 0: for ever. 0 = timed out. */
int attnd_wait(struct attnd_client *client, struct attnd_completion *completions, unsigned max,
	int64_t timeout_ns);
/*
 * Waiting on many clients at once, or on a client and other things, for one thread that has them all: a poll, epoll or event loop on their
 * descriptors. Over shared memory there is no descriptor; attnd_wait sleeps there.
 *
 * attnd_fd's descriptor is readable when attnd_poll may have something to return. It is for waiting alone: level-triggered, for reading;
 * nobody but the library reads, writes or closes it. Poll until that returns 0 before waiting, because the library may have read more than it
 * has returned. The library replaces a connection that broke from within poll and wait: the old descriptor is closed then, which takes
 * it out of every epoll, and the new one has another number. So compare after a poll or wait that returned 0, and add the new one.
 * -EAGAIN: there is none until attnd_next_ns has passed and poll was called; -ENOTSUP: shared memory; -ENOTCONN.
 *
 * attnd_next_ns says for how long from now attnd_poll need not be called while the descriptor is not readable: what the other side waits
 * for, timers, a connection that is being made. 0: now; INT64_MAX: any time. It changes with every submit, poll and wait, and does not
 * change anything. Later than that costs nobody's answers, but the daemon may take a client that is late by seconds for dead.
 */
int attnd_fd(const struct attnd_client *client);
int64_t attnd_next_ns(const struct attnd_client *client);
/* Accepted by submit and not finally completed. */
unsigned attnd_in_flight(const struct attnd_client *client);

/* ---- synchronous helpers: one request, waited for -------------------------------------------- */
/* They may not be mixed with asynchronous requests in flight on the same client (-EBUSY). Each
 * returns 0 (or a count), -EIO with attnd_last_completion(), or an error of the connection.
 * timeout: none but the deadline given in the options of the call, where there is one. */

const struct attnd_completion *attnd_last_completion(const struct attnd_client *client);
/* Submits one request, waits for its final completion (stream completions before it are dropped). */
int attnd_call(struct attnd_client *client, const struct attnd_request *request,
	struct attnd_completion *completion);

int attnd_nop(struct attnd_client *client);
int attnd_describe_daemon(struct attnd_client *client, struct attnd_daemon_info *info);
int attnd_describe_model(struct attnd_client *client, uint32_t index, struct attnd_model_info *info);
int attnd_describe_session(struct attnd_client *client, uint64_t session,
	struct attnd_session_info *info);
/* The index of a model by name, or -ENOENT. */
int attnd_model_by_name(struct attnd_client *client, const char *name);

void attnd_open_defaults(struct attnd_open_params *params);
void attnd_generate_defaults(struct attnd_generate_params *params);
void attnd_attend_defaults(struct attnd_attend_params *params);

int attnd_session_open(struct attnd_client *client, const struct attnd_open_params *params,
	uint64_t *session);
int attnd_session_close(struct attnd_client *client, uint64_t session);
int attnd_session_fork(struct attnd_client *client, uint64_t session, uint32_t keep, uint64_t *fork);
int attnd_session_truncate(struct attnd_client *client, uint64_t session, uint32_t keep);

/* Pushes tokens; writes the output (see enum attnd_output) to `out`. Returns the bytes written.
 * With ATTND_SELECT_CHOSEN the row indices follow the tokens in the array. Copies through the
 * arena: the zero-copy way is attnd_loan and attnd_submit. */
int64_t attnd_step(struct attnd_client *client, uint64_t session, const uint32_t *tokens,
	uint32_t count, struct attnd_step_args args, void *out, size_t out_bytes);

/* Called per token; return non-zero to cancel. */
typedef int attnd_token_fn(void *context, uint32_t id, const struct attnd_completion *completion);
/* params->stop_count ids from stops. Returns how many tokens came; *stop (may be NULL): enum
 * attnd_stop. */
int64_t attnd_generate(struct attnd_client *client, uint64_t session,
	const struct attnd_generate_params *params, const uint32_t *prompt, uint32_t prompt_count,
	const uint32_t *stops, attnd_token_fn *on_token, void *context, uint32_t *stop);

/* Raw attention; shapes as in record.h; k, v may be NULL when params->kv_rows is 0, q and o when
 * q_rows is 0, lse when not asked. heads etc. come from the session's open parameters, which the
 * caller passes again. */
int attnd_attend(struct attnd_client *client, uint64_t session,
	const struct attnd_open_params *shape, const struct attnd_attend_params *params,
	const void *q, const void *k, const void *v, void *o, float *lse);

/* Return the number of ids (bytes); what exceeds capacity is not written. flags:
 * ATTND_REQ_SPECIAL, ATTND_REQ_PARSE_SPECIAL. */
int64_t attnd_tokenize(struct attnd_client *client, uint32_t model, const char *text,
	size_t text_bytes, unsigned flags, uint32_t *ids, size_t capacity);
int64_t attnd_detokenize(struct attnd_client *client, uint32_t model, const uint32_t *ids,
	size_t count, unsigned flags, char *text, size_t capacity);

struct attnd_message { uint32_t role; const char *text; }; /* enum attnd_role; NUL-terminated */
/* The model's chat template around the messages, up to where the assistant begins to speak. */
int64_t attnd_chat_tokenize(struct attnd_client *client, uint32_t model,
	const struct attnd_message *messages, size_t count, uint32_t *ids, size_t capacity);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif
