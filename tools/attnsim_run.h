/*
 * One replay: a trace, through the real scheduler, on modelled devices, in virtual time.
 *
 * Requests arrive when the trace says, scaled to the load; each gets a session on the device with the
 * least predicted work and room for its whole cache, else it is held before them in the policy's own
 * order. Nothing is random but by the seed: the same setup has the same result, to the bit. Any
 * thread, each its own replay.
 */
#ifndef ATTNSIM_RUN_H
#define ATTNSIM_RUN_H

#include <stdbool.h>
#include <stdint.h>

#include "tools/attnsim_device.h"
#include "tools/attnsim_prefix.h"
#include "tools/attnsim_trace.h"

/* In the order of the names that --policy takes. */
enum attnsim_policy {
	ATTNSIM_OURS,   /* admission, classes, deadlines */
	ATTNSIM_FIFO,   /* continuous batching: by arrival, long steps */
	ATTNSIM_EDF,    /* earliest deadline first, everything admitted */
	ATTNSIM_BUDGET, /* by arrival, chunks under the step's budget of tokens (Sarathi) */
	ATTNSIM_POLICIES
};
extern const char *const attnsim_policies[]; /* NULL at the end */

enum attnsim_urgency { ATTNSIM_TIGHT, ATTNSIM_NORMAL, ATTNSIM_NONE, ATTNSIM_URGENCIES };
extern const char *const attnsim_urgencies[];

struct attnsim_setup {
	const struct attnsim_trace *trace;
	const struct attnsim_model *model;
	struct attnsim_machine machine;
	const struct attnsim_noise *noise; /* NULL: none */
	enum attnsim_policy policy;
	double load;                             /* of capacity_rps */
	double capacity_rps;
	double share[ATTNSIM_URGENCIES];         /* sum 1 */
	double slack[ATTNSIM_NONE];              /* deadline = arrival + slack * ideal time */
	uint32_t tenants;
	uint32_t sessions;                       /* of one device */
	uint32_t step_rows;                      /* of one step */
	enum kern_kv kv;
	enum attnsim_prefix prefix;
	bool give_up;                            /* who is late without a first token goes away */
	bool all_at_once;                        /* all arrive at the start: how capacity is measured */
	uint64_t seed;
	void (*progress)(void *context, double share); /* now and then; may be NULL */
	void *context;
};

/* Of one urgency, or of all. */
struct attnsim_group {
	uint64_t requests, admitted, refused;
	uint64_t missed;    /* admitted with a deadline, and no first token by then */
	uint64_t good;      /* answered to the end, the first token in time; without deadline: within the trace's time */
	int64_t ttft_p50_ns, ttft_p99_ns; /* of those who got one */
	int64_t tpot_p50_ns, tpot_p99_ns; /* per request: mean time between its tokens */
};

struct attnsim_result {
	struct attnsim_group all, by[ATTNSIM_URGENCIES];
	uint64_t failed;        /* admitted and ended by an error: no pages */
	uint64_t gave_up;
	uint64_t unservable;    /* of the refused: larger than a device's whole cache */
	uint64_t held_most;     /* waiting before the devices at once */
	double seconds;         /* the trace's time at this load */
	double drained_seconds; /* until the last answer */
	double offered_rps, goodput_rps, finished_rps;
	double prompt_tokens_s, tokens_s; /* within the trace's time */
	double utilisation;
	double step_rows_mean, step_ms_mean;
	double prediction_median, prediction_p99; /* |actual / predicted - 1| of steps, lately */
	double fair_drift_ms;   /* the most device time that one tenant got more than another while both waited */
	uint64_t steps;
	double prefix_hit_rate;   /* of the tokens of prompts that began */
	uint64_t prefix_evictions;
};

/* -errno with a message. */
int attnsim_run(const struct attnsim_setup *setup, struct attnsim_result *result);
/* Pages that the caches of all devices hold. -errno with a message. */
int attnsim_pages(const struct attnsim_setup *setup, uint64_t *pages);
/* Fills setup->capacity_rps: what the devices finish a second when requests are never short, in order of arrival, in
 * chunks, without noise or cached prefixes: measured on an even sample of the trace, between the first and the last fifth of
 * its answers. */
int attnsim_capacity(struct attnsim_setup *setup);

#endif
