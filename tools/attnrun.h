/*
 * attnrun's parts: options, the text mode, the raw attention mode.
 */
#ifndef ATTNRUN_H
#define ATTNRUN_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "attnd/attnd.h"
#include "tools/tool_daemon.h"

struct attnrun_options {
	struct tool_daemon daemon;
	/* both modes */
	unsigned kv; /* enum attnd_kv */
	unsigned priority_class;
	double deadline_ms, between_ms;
	uint64_t seed;
	bool stats, timeline;
	/* text */
	const char *prompt; /* NULL: standard input */
	const char *system;
	bool chat, chat_if_known, parse_special;
	uint32_t tokens;
	struct attnd_sampling sampling;
	/* raw attention */
	bool attend, check, dense;
	const char *q_file, *k_file, *v_file, *out_file;
	uint32_t heads, kv_heads, head_dim, q_rows, kv_rows, window;
	double scale, soft_cap;
};

/* Set by the first Ctrl-C; a second one ends the program. */
extern volatile sig_atomic_t attnrun_interrupted;
void attnrun_catch_interrupt(void);

/* Each returns an exit code, having said what went wrong. */
int attnrun_text(struct attnd_client *client, struct attnrun_options *options);
int attnrun_attend(struct attnd_client *client, struct attnrun_options *options);
/* The client's latest requests and their steps. */
void attnrun_timeline_print(const struct attnd_client *client, FILE *stream);

#endif
