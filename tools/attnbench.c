/*
 * attnbench: how fast the daemon is, as a client sees it.
 *
 * One thread that spins. Where nothing else is asked for it measures in rounds, each between
 * two runs of a raw cache-line ping-pong on the same two processors, and quotes multiples of
 * that.
 */
#include "tools/attnbench.h"

#include <errno.h>
#include <float.h>
#include <stdio.h>
#include <string.h>

#include "tools/tool_args.h"
#include "tools/tool_text.h"

struct command {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *what;
};

static const struct command commands[] = {
	{ "echo", attnbench_echo, "round trip of a request that computes nothing: the floor" },
	{ "step", attnbench_step, "tokens pushed through a model, one request each" },
	{ "generate", attnbench_generate, "streams of tokens for several clients" },
	{ "attend", attnbench_attend, "raw attention on a session's KV cache" },
	{ "load", attnbench_load, "requests over thousands of connections at once" },
	{ "siege", attnbench_siege, "what good connections notice of floods and other attacks" },
	{ "replay", attnbench_replay, "a trace of requests, and what the daemon promised, kept and refused" },
	{ "model", attnbench_model, "tokens per second of prefill and decode, as llama-bench has it" },
};

enum { COMMANDS = sizeof(commands) / sizeof(commands[0]) };

enum {
	KEY_SECONDS = 0x200,
	KEY_ROUNDS,
	KEY_RATE,
	KEY_POISSON,
	KEY_DEADLINE,
	KEY_CLASS,
	KEY_OUT,
	KEY_IN_FLIGHT,
	KEY_SEED
};

static const struct argp_option option_table[] = {
	{ NULL, 0, NULL, 0, "How to measure:", 40 },
	{ "seconds", KEY_SECONDS, "S", 0, "measure for so long, over all rounds (1)", 40 },
	{ "rounds", KEY_ROUNDS, "N", 0,
		"cut the time into N rounds, each between two ping-pongs (5)", 40 },
	{ "rate", KEY_RATE, "R", 0,
		"open loop: send R requests a second at intended times, whatever happens", 40 },
	{ "poisson", KEY_POISSON, NULL, 0, "open loop: random intervals instead of equal ones",
		40 },
	{ "in-flight", KEY_IN_FLIGHT, "N", 0, "closed loop: keep N requests out (1)", 40 },
	{ "deadline", KEY_DEADLINE, "US", 0, "each request's, from its intended time", 40 },
	{ "class", KEY_CLASS, "CLASS", 0, "latency (default), interactive or bulk", 40 },
	{ "seed", KEY_SEED, "N", 0, "of whatever is random (1)", 40 },
	{ "json", 'j', NULL, 0, "print one JSON object instead of tables", 40 },
	{ "out", KEY_OUT, "FILE", 0, "write the raw latency histogram there", 40 },
	{ 0 },
};

static error_t parse(int key, char *value, struct argp_state *state)
{
	struct attnbench_options *options = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &options->daemon;
		return 0;
	case KEY_SECONDS:
		options->seconds = tool_args_double("--seconds", value, 0.001, 3600);
		return 0;
	case KEY_ROUNDS:
		options->rounds = (unsigned)tool_args_u64("--rounds", value, 1, 100);
		return 0;
	case KEY_RATE:
		options->rate = tool_args_double("--rate", value, 0.001, 1e8);
		return 0;
	case KEY_POISSON:
		options->poisson = true;
		return 0;
	case KEY_IN_FLIGHT:
		options->in_flight = (uint32_t)tool_args_u64("--in-flight", value, 1, 1024);
		return 0;
	case KEY_DEADLINE:
		options->deadline_us = tool_args_double("--deadline", value, 0, 1e12);
		return 0;
	case KEY_CLASS:
		options->priority_class = tool_args_choice("--class", value, tool_args_classes);
		return 0;
	case KEY_SEED:
		options->seed = tool_args_u64("--seed", value, 0, UINT64_MAX);
		return 0;
	case 'j':
		options->json = true;
		return 0;
	case KEY_OUT:
		options->out_file = value;
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "what is '%s'?", value);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_child children[] = { { &tool_daemon_argp, 0, NULL, 0 }, { 0 } };
const struct argp attnbench_argp = {
	.options = option_table, .parser = parse, .children = children
};

void attnbench_defaults(struct attnbench_options *options)
{
	*options = (struct attnbench_options){ .seconds = 1,
		.rounds = 5,
		.in_flight = 1,
		.seed = 1,
		.priority_class = ATTND_CLASS_LATENCY };
}

static void print_help(FILE *stream)
{
	fprintf(stream,
		"Usage: %s COMMAND [OPTION...]\n"
		"Measure how fast attnd is, as a client sees it.\n\n",
		program_invocation_short_name);
	for (size_t i = 0; i < COMMANDS; i++)
		fprintf(stream, "  %-10s %s\n", commands[i].name, commands[i].what);
	fprintf(stream, "\n`%s COMMAND --help` lists the options of a command.\n",
		program_invocation_short_name);
}

static error_t parse_nothing(int key, char *value, struct argp_state *state)
{
	(void)state;
	(void)value;
	return key == ARGP_KEY_ARG || key == ARGP_KEY_END ? 0 : ARGP_ERR_UNKNOWN;
}

int main(int argc, char **argv)
{
	const char *asked = argc > 1 ? argv[1] : "";
	char name[64];

	if (strcmp(asked, "--help") == 0 || strcmp(asked, "-?") == 0 ||
		strcmp(asked, "help") == 0) {
		print_help(stdout);
		return TOOL_OK;
	}
	for (size_t i = 0; i < COMMANDS; i++) {
		if (strcmp(asked, commands[i].name))
			continue;
		/* What argp prints as the name of the program. */
		snprintf(name, sizeof(name), "%s %s", program_invocation_short_name, asked);
		argv[1] = name;
		return commands[i].run(argc - 1, argv + 1);
	}
	if (strcmp(asked, "--version") == 0 || strcmp(asked, "-V") == 0) {
		static const struct argp version = { .parser = parse_nothing };

		tool_args_parse(&version, argc, argv, NULL);
	}
	if (*asked)
		tool_say("no command '%s'", asked);
	print_help(stderr);
	return TOOL_USAGE;
}
