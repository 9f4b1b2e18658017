/*
 * What the two parts of attnbench model share: the test as it was asked for, and what came out.
 */
#ifndef ATTNBENCH_MODEL_H
#define ATTNBENCH_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "attnd/attnd.h"
#include "tools/tool_daemon.h"

enum {
	ATTNBENCH_MODEL_DEPTHS = 8,
	ATTNBENCH_MODEL_REPEATS = 100,
	ATTNBENCH_MODEL_BATCH = 512, /* rows of a step, where nothing else is asked for: llama-bench's -ub */
	ATTNBENCH_MODEL_SETTINGS = 8,
	ATTNBENCH_MODEL_SETTING_BYTES = 64,
};

struct attnbench_model_result {
	bool decode;
	uint32_t tokens, depth, count;
	int64_t samples_ns[ATTNBENCH_MODEL_REPEATS];
};

struct attnbench_model {
	/* from the command line */
	struct tool_daemon daemon;
	uint32_t prompt, generated, repeats;
	uint32_t threads, batch; /* 0: the daemon's choice; ATTNBENCH_MODEL_BATCH */
	uint32_t depths[ATTNBENCH_MODEL_DEPTHS], depth_count;
	unsigned kv_k, kv_v; /* enum attnd_kv */
	bool by_steps, json;
	/* below here: while it runs */
	uint64_t random;
	double load_average; /* before; -1: unknown */
	char settings[ATTNBENCH_MODEL_SETTINGS][ATTNBENCH_MODEL_SETTING_BYTES];
	uint32_t setting_count;
	struct attnd_client *client;
	struct attnd_daemon_info about;
	struct attnd_model_info model;
	struct attnd_session_info session_about;
	uint32_t model_index;
	uint64_t session;
	uint32_t filled; /* tokens of context that stay */
	uint32_t *ids;
	struct attnbench_model_result results[2 * ATTNBENCH_MODEL_DEPTHS];
	uint32_t result_count;
};

/* A table or a JSON object on standard output. */
void attnbench_model_report(const struct attnbench_model *test);

#endif
