/*
 * attnbench's parts: the options that its commands share, and what each command is.
 */
#ifndef ATTNBENCH_H
#define ATTNBENCH_H

#include <argp.h>
#include <stdbool.h>
#include <stdint.h>

#include "tools/tool_daemon.h"

struct attnbench_options {
	struct tool_daemon daemon;
	bool json, poisson;
	const char *out_file; /* the raw histogram */
	double seconds;       /* measured, over all rounds */
	unsigned rounds;
	double rate;        /* requests per second; 0: the command decides */
	double deadline_us; /* 0: none */
	uint32_t in_flight; /* of the closed loop */
	unsigned priority_class;
	bool client_sleeps; /* while it waits, and is not pinned: the private daemon has all processors */
	uint64_t seed;
};

/* The options that every command takes; a child parser whose input is a struct
 * attnbench_options. */
extern const struct argp attnbench_argp;

void attnbench_defaults(struct attnbench_options *options);

/* Commands: each takes its own command line and returns an exit code. */
int attnbench_echo(int argc, char **argv);
int attnbench_step(int argc, char **argv);
int attnbench_generate(int argc, char **argv);
int attnbench_attend(int argc, char **argv);
int attnbench_load(int argc, char **argv);
int attnbench_siege(int argc, char **argv);
int attnbench_replay(int argc, char **argv);
int attnbench_model(int argc, char **argv);

#endif
