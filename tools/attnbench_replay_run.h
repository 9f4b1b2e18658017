/*
 * The sender of attnbench replay: one thread and one connection with a session for each request that is out.
 *
 *   arrives -> waits for a session -> GENERATE -> tokens -> final answer -> TRUNCATE -> its session is free
 *
 * Open loop: each request goes at its intended time, whatever became of those before it. In between the thread sleeps until the next
 * one's time or until something comes, because on a small machine the daemon computes on every processor.
 *
 * Where no session is free a request with a deadline is refused here, as a daemon without room answers OPEN, and one without
 * waits here; such as these leave a quarter of the sessions to those with deadlines. attnsim does the same before its devices. A daemon
 * that is told no deadlines gets all in the order of arrival.
 */
#ifndef ATTNBENCH_REPLAY_RUN_H
#define ATTNBENCH_REPLAY_RUN_H

#include "attnd/attnd.h"
#include "base/base_hist.h"
#include "tools/attnbench_replay_plan.h"

enum {
	ATTNBENCH_REPLAY_CONNECTION_MAX = 1024, /* requests and tokens on their way, of one connection over a network */
	ATTNBENCH_REPLAY_SESSIONS_MAX = ATTNBENCH_REPLAY_CONNECTION_MAX - 16,
};

struct attnbench_replay_slot {
	uint64_t session;
	uint32_t *input; /* parameters, then the prompt */
	struct attnbench_replay_job *job;
};

/* Jobs that wait here, first in, first out. */
struct attnbench_replay_queue {
	size_t *jobs, first, count, room;
};

struct attnbench_replay_sender {
	struct attnd_client *client;
	struct attnbench_replay_slot slots[ATTNBENCH_REPLAY_SESSIONS_MAX];
	uint32_t slot_count;
	uint32_t free_slots[ATTNBENCH_REPLAY_SESSIONS_MAX], free_count;
	uint32_t used_slots[ATTNBENCH_REPLAY_SESSIONS_MAX], used_count; /* whose sessions are to be emptied */
	/* below here: of one run */
	const struct attnbench_replay_plan *plan;
	struct attnbench_replay_jobs *jobs;
	struct attnbench_replay_queue urgent, patient;
	uint32_t limit;        /* sessions that may be used at once */
	bool tells;            /* deadlines, to the daemon */
	bool is_blocked;       /* the connection took nothing the last time */
	size_t next, ended;
	int64_t start_ns;      /* the daemon's clock, as everything here */
	int64_t excused_ns;    /* until then the connection held this thread back */
	int64_t tolerance_ns;  /* a send later than this is late */
	uint64_t late, lost;   /* lost: sessions that were closed by an error */
	size_t waited_most;
	struct base_hist lateness;
};

/* How a run goes. */
struct attnbench_replay_way {
	uint32_t sessions;    /* used at once; 0: all */
	bool tells;           /* deadlines, to the daemon */
	int64_t stop_ns;      /* since the start: what has not been sent by then stays; 0: all is sent */
	int64_t patience_ns;  /* after the last arrival, until what is not answered is given up */
	const char *what;     /* goes on, for people who watch */
};

/* Opens so many sessions of so many tokens, with room for such prompts. The connection must have arena for them
 * (attnbench_replay_arena_bytes). 0 or an exit code, with a message said. */
int attnbench_replay_open(struct attnbench_replay_sender *sender, struct attnd_client *client, uint32_t model, uint32_t sessions,
	uint32_t session_tokens, uint32_t longest_prompt);
uint64_t attnbench_replay_arena_bytes(uint32_t sessions, uint32_t longest_prompt);

/* Sends all jobs and waits for their answers; what became of them is in the jobs then. 0 or -errno, with attnd_error(). Jobs without an
 * answer when it returns are not `ended`; only the last run on a sender may have such. */
int attnbench_replay_run(struct attnbench_replay_sender *sender, const struct attnbench_replay_plan *plan,
	struct attnbench_replay_jobs *jobs, const struct attnbench_replay_way *way);
/* Now, since the start of the run. */
int64_t attnbench_replay_now_ns(const struct attnbench_replay_sender *sender);

#endif
