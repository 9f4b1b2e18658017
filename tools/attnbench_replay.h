/*
 * What the parts of attnbench replay share: what was asked for, and what was found.
 */
#ifndef ATTNBENCH_REPLAY_H
#define ATTNBENCH_REPLAY_H

#include "attnd/attnd.h"
#include "attnd/view.h"
#include "tools/attnbench_replay_plan.h"
#include "tools/attnbench_replay_run.h"
#include "tools/tool_daemon.h"

/* What the daemon shows of its work, on all devices together. */
struct attnbench_replay_view {
	struct attnd_view_counts counts; /* errors and their sum alone */
	uint64_t prompt_tokens, found_tokens; /* of prompts that began, and of these found in cached prefixes */
};

struct attnbench_replay {
	/* from the command line */
	struct tool_daemon daemon;
	const char *trace_name;
	size_t requests; /* 0: all */
	uint32_t sample; /* requests that the capacity is measured with, at most */
	uint32_t sessions;
	bool ignores_deadlines; /* the daemon is told none */
	bool json;
	const char *out_file; /* each request by itself; NULL: not asked for */
	struct attnbench_replay_plan plan;
	double capacity_rps; /* 0 until it is measured */
	/* below here: what was found */
	double load_average; /* before; -1: unknown */
	struct attnsim_trace trace;
	struct attnd_daemon_info about;
	struct attnd_model_info model;
	uint32_t model_index, session_tokens;
	double between_ns;        /* from token to token, on the idle daemon */
	double capacity_tokens_s; /* prompt and answer; 0: the capacity was given */
	struct attnbench_replay_sender sender;
	struct attnbench_replay_jobs jobs;
	int64_t over_ns;          /* the replay's end, from its start */
	bool has_view;            /* the daemon's memory could be seen: */
	struct attnbench_replay_view view; /* while the trace was replayed */
};

/* A table or a JSON object on standard output, and --out. An exit code. */
int attnbench_replay_report(const struct attnbench_replay *replay);

#endif
