/*
 * What attnbench replay asks for, and what its answers come to: the arithmetic, without a daemon.
 *
 * A trace is made smaller (lengths divided by `scale`) and faster or slower (arrivals, to `load` times the capacity). Each request has a
 * deadline for its first token, as in attnsim: its arrival and so many times the time that an idle daemon takes for it. What is good,
 * missed and refused is counted as attnsim counts it, so that figures may be laid beside each other.
 *
 * Times are nanoseconds from the start of the replay. Main thread; memory is the caller's or the jobs'.
 */
#ifndef ATTNBENCH_REPLAY_PLAN_H
#define ATTNBENCH_REPLAY_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "attnd/record.h"
#include "tools/attnsim_trace.h"

enum attnbench_replay_urgency {
	ATTNBENCH_REPLAY_TIGHT,
	ATTNBENCH_REPLAY_NORMAL,
	ATTNBENCH_REPLAY_NONE,
	ATTNBENCH_REPLAY_URGENCIES
};
extern const char *const attnbench_replay_urgencies[];

/* First token of a prompt on an idle daemon: fixed_ns + token_ns * tokens of the prompt. */
struct attnbench_replay_line {
	double fixed_ns, token_ns;
};

struct attnbench_replay_plan {
	const struct attnsim_trace *trace;
	double scale; /* lengths are divided by it */
	double load;  /* of the capacity */
	double seconds; /* at most so long; what the trace has may be less */
	double share[ATTNBENCH_REPLAY_URGENCIES]; /* sum 1 */
	double slack[ATTNBENCH_REPLAY_NONE];      /* deadline = arrival + slack * ideal time */
	uint64_t seed;
	uint32_t vocab;
	struct attnbench_replay_line ideal;
};

struct attnbench_replay_job {
	int64_t arrival_ns, deadline_ns; /* deadline 0: none */
	uint32_t prompt, output;
	size_t request; /* of the trace; it names the prompt's blocks, if `named` */
	bool named;
	enum attnbench_replay_urgency urgency;
	/* below here: what became of it */
	int64_t sent_ns;
	int64_t first_ns, last_ns; /* done, by the daemon, of its tokens; 0: none yet */
	int64_t seen_ns;           /* the first one was here */
	int64_t predicted_ns;      /* the first one, when the daemon took or refused it; 0: it told none */
	uint32_t tokens;
	uint8_t status;            /* enum attnd_status, once `ended` */
	bool admitted, ended;
};

struct attnbench_replay_jobs {
	struct attnbench_replay_job *jobs; /* by arrival */
	size_t count;
};

/* Of one urgency, or of all. */
struct attnbench_replay_group {
	uint64_t offered, admitted, refused;
	uint64_t missed;      /* admitted with a deadline, and no first token by then */
	uint64_t missed_seen; /* the same by when the token was here */
	uint64_t good;        /* answered to the end, the first token in time; without deadline: before the last arrival */
	uint64_t failed;      /* admitted, and ended by an error */
	uint64_t unanswered;  /* admitted, and not ended when the replay was */
	int64_t ttft_p50_ns, ttft_p99_ns; /* from arrival until it was here; of those who got one */
};

/* ---- lengths and prompts --------------------------------------------------------------------- */

/* At least 1. */
uint32_t attnbench_replay_length(uint32_t tokens, double scale);
/* A scale (at least 1) at which every request of the trace has room in a session of so many tokens, at least 2. */
double attnbench_replay_scale(const struct attnsim_trace *trace, uint32_t session_tokens);
/* Of a prompt, and of prompt and answer together. */
uint32_t attnbench_replay_longest_prompt(const struct attnbench_replay_plan *plan);
uint32_t attnbench_replay_longest(const struct attnbench_replay_plan *plan);
/* Tokens of the trace's requests, prompt and answer, on the average. */
double attnbench_replay_mean(const struct attnbench_replay_plan *plan, size_t requests);
/* Writes the job's prompt. Blocks that the trace gives one name are equal, at the same place of the prompt; what has no names is like
 * no other prompt. */
void attnbench_replay_prompt(const struct attnbench_replay_plan *plan, const struct attnbench_replay_job *job, uint32_t *tokens);

/* ---- jobs; each returns 0 or -ENOMEM with a message -------------------------------------------- */

/* `points` lengths from the shortest prompt to the longest, each `repeats` times, by turns; one after the other is how to send them. The
 * first one is for warming up. output: tokens that each makes, less where a session has no room for them. */
int attnbench_replay_probes(const struct attnbench_replay_plan *plan, unsigned points, unsigned repeats, uint32_t output,
	uint32_t session_tokens, struct attnbench_replay_jobs *jobs);
/* An even sample of the trace, all there at once, without deadlines and names. */
int attnbench_replay_sample(const struct attnbench_replay_plan *plan, size_t most, struct attnbench_replay_jobs *jobs);
/* The replay. The capacity is in tokens a second (prompt and answer), or, where rps is not 0, in requests a second. *rps becomes what the
 * capacity is in requests like these. */
int attnbench_replay_make(
	const struct attnbench_replay_plan *plan, double capacity_tokens_s, double *rps, struct attnbench_replay_jobs *jobs);
void attnbench_replay_free(struct attnbench_replay_jobs *jobs);

/* ---- what came out ----------------------------------------------------------------------------- */

/* The line through `count` points that has the least relative error; never below 0. */
struct attnbench_replay_line attnbench_replay_fit(const double *tokens, const double *times_ns, unsigned count);
/* The line of probes that were run: through the medians of their lengths. -EIO with a message where one was not answered. */
int attnbench_replay_ideal(const struct attnbench_replay_jobs *probes, unsigned points, struct attnbench_replay_line *line);
/* The mean time between two tokens of all jobs; 0: there were none. */
double attnbench_replay_between_ns(const struct attnbench_replay_jobs *jobs);
/* Tokens a second of a sample, prompts and answers, of the jobs that ended between the first and the last fifth; 0: none ended well. */
double attnbench_replay_tokens_s(const struct attnbench_replay_jobs *jobs);
/* Until the last arrival; where all came at once, until the last answer. */
int64_t attnbench_replay_end_ns(const struct attnbench_replay_jobs *jobs);
/* urgency ATTNBENCH_REPLAY_URGENCIES: of all. now_ns: the end of the replay, for what has no answer. -ENOMEM with a message. */
int attnbench_replay_judge(
	const struct attnbench_replay_jobs *jobs, unsigned urgency, int64_t now_ns, struct attnbench_replay_group *group);
/* Requests by the status that refused them. */
void attnbench_replay_refusals(const struct attnbench_replay_jobs *jobs, uint64_t refused[ATTND_STATUS_END]);

#endif
