/*
 * attnctl: asks a running daemon what it does, and tells it to reload or to drain.
 *
 * One command, one question on the control socket, one answer. On a terminal the answer becomes
 * tables; with --json it is passed through as it came. Only `view` goes on without asking.
 */
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"
#include "tools/attnctl_show.h"
#include "tools/attnctl_view.h"
#include "tools/tool_args.h"
#include "tools/tool_control.h"
#include "tools/tool_daemon.h"
#include "tools/tool_text.h"

struct command {
	const char *name;
	void (*show)(const cJSON *answer); /* NULL: view */
	const char *what;
};

static const struct command commands[] = {
	{ "status", attnctl_show_status, "what it is, what it lacks, its counters and clients" },
	{ "view", NULL, "load, queues, refusals and predictions, read from its memory; --watch goes on" },
	{ "sessions", attnctl_show_sessions, "every session with its tokens and cache" },
	{ "topology", attnctl_show_topology,
		"the machine, where each thread runs and where memory lies" },
	{ "models", attnctl_show_models, "the models it serves" },
	{ "reload", attnctl_show_done, "read the configuration again" },
	{ "drain", attnctl_show_done, "finish what was accepted, take nothing new, and end" },
};

enum { COMMANDS = sizeof(commands) / sizeof(commands[0]) };

struct control {
	struct tool_daemon daemon;
	const struct command *command;
	bool json;
	double watch_s;
};

static const struct argp_option options[] = {
	{ "json", 'j', NULL, 0, "print the daemon's answer as it came; view: an object on a line", 0 },
	{ "watch", 'w', "SECONDS", 0, "view: again and again, what happened since the last time", 0 },
	{ 0 },
};

static error_t parse(int key, char *value, struct argp_state *state)
{
	struct control *control = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &control->daemon;
		return 0;
	case 'j':
		control->json = true;
		return 0;
	case 'w':
		control->watch_s = tool_args_double("--watch", value, 0.01, 86400);
		return 0;
	case ARGP_KEY_ARG:
		if (control->command)
			argp_error(state, "one command at a time");
		for (size_t i = 0; i < COMMANDS; i++)
			if (strcmp(value, commands[i].name) == 0)
				control->command = &commands[i];
		if (!control->command)
			argp_error(state, "no command '%s'", value);
		return 0;
	case ARGP_KEY_END:
		if (!control->command)
			argp_usage(state);
		if (control->watch_s > 0 && control->command->show)
			argp_error(state, "--watch goes with view");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* The list of commands stands in the help text, made from the table above. */
static char *list_commands(int key, const char *text, void *input)
{
	(void)input;
	if (key != ARGP_KEY_HELP_POST_DOC)
		return (char *)(size_t)text;

	size_t room = 1024, length = 0;
	char *list = malloc(room);

	for (size_t i = 0; list && i < COMMANDS; i++)
		length += (size_t)snprintf(list + length, room - length, "%s  %-10s %s\n",
			i ? "" : "Commands:\n", commands[i].name, commands[i].what);
	return list;
}

static const struct argp_child children[] = { { &tool_daemon_argp, 0, NULL, 0 }, { 0 } };
static const struct argp argp = { .options = options,
	.parser = parse,
	.args_doc = "COMMAND",
	.doc = "Ask a running attnd what it does, or tell it what to do.\v ",
	.children = children,
	.help_filter = list_commands };

/* A daemon that cannot do what it was told answers {"error": sentence}. */
static int show(const struct control *control, const char *text)
{
	cJSON *answer = cJSON_Parse(text);
	const cJSON *error = tool_json_member(answer, "error");

	if (!answer) {
		tool_say("the daemon's answer is not JSON: %.60s", text);
		return TOOL_FAILED;
	}
	if (control->json)
		fputs(text, stdout);
	else if (error)
		tool_say("%s", tool_json_string(answer, "error"));
	else
		control->command->show(answer);
	cJSON_Delete(answer);
	return error ? TOOL_FAILED : TOOL_OK;
}

int main(int argc, char **argv)
{
	struct control control = { 0 };
	char path[PATH_MAX], *text;
	int status = TOOL_NO_DAEMON;

	tool_args_parse(&argp, argc, argv, &control);
	tool_daemon_open(&control.daemon);
	tool_daemon_control_path(&control.daemon, path, sizeof(path));
	if (!control.command->show)
		status = attnctl_view(tool_daemon_shm_address(&control.daemon), control.watch_s, control.json);
	else if (tool_control_ask(path, control.command->name, &text) == 0) {
		status = show(&control, text);
		free(text);
	} else {
		tool_say("%s", base_error_message());
	}
	return tool_daemon_close(&control.daemon, status);
}
