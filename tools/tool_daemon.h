/*
 * Which daemon a tool talks to: the one at an address, or a private one (--spawn). One set of
 * options for all tools.
 *
 * Main thread.
 */
#ifndef TOOL_DAEMON_H
#define TOOL_DAEMON_H

#include <argp.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "attnd/attnd.h"
#include "tools/tool_spawn.h"
#include "tools/tool_transport.h"

struct tool_daemon {
	/* from the command line */
	const char *address; /* NULL: the library looks in the usual places */
	const char *model;   /* with --spawn a file, else a name */
	const char *key_file; /* of a running daemon's tenant; NULL: $ATTND_KEY_FILE, or none */
	struct tool_transport transport;
	bool spawn, verbose;
	const char *options[TOOL_SPAWN_OPTIONS_MAX];
	size_t option_count;
	/* below here: while it is open */
	struct tool_spawn spawned;
	char shm_address[TOOL_SPAWN_PATH_BYTES + 16];
	char model_option[PATH_MAX + 64];
};

/* --spawn, --address, --transport, --sealed, --key-file, --model, --daemon-option, --verbose; a
 * child parser whose input is a struct tool_daemon. */
extern const struct argp tool_daemon_argp;

/* An option of the tool's own for a spawned daemon; it stands before the user's, which therefore
 * win. Before open. */
void tool_daemon_default(struct tool_daemon *daemon, const char *option);
/* One that the user asked for in other words; it stands behind all others. Before open. */
void tool_daemon_user_option(struct tool_daemon *daemon, const char *option);

/* Starts the private daemon if one is wanted; ends the program with a message when that fails. */
void tool_daemon_open(struct tool_daemon *daemon);

/* A client of it. options may be NULL; their address is filled in. Ends the program with
 * TOOL_NO_DAEMON when there is none. */
struct attnd_client *tool_daemon_connect(
	struct tool_daemon *daemon, const struct attnd_options *options);
/* The same; NULL, with attnd_error(), where there is none. */
struct attnd_client *tool_daemon_try(struct tool_daemon *daemon, const struct attnd_options *options);

/* How clients of it are connected: the kind, and whether what they say is encrypted. */
enum tool_transport_kind tool_daemon_transport(const struct tool_daemon *daemon);
bool tool_daemon_is_sealed(const struct tool_daemon *daemon);
/* What --daemon-option says of "section.key" in the end; fallback where it says nothing. */
const char *tool_daemon_option(
	const struct tool_daemon *daemon, const char *name, const char *fallback);

/* The model that --model names, or the first; ends the program with the models' names when there
 * is no such one. */
uint32_t tool_daemon_model(
	struct tool_daemon *daemon, struct attnd_client *client, struct attnd_model_info *info);

/* Says what a failed call of the library means, after what was being done; returns the exit code
 * for it. */
int tool_daemon_failed(int err, const char *doing);

/* Its shared memory: where views of it are. NULL: the library looks in the usual places. */
const char *tool_daemon_shm_address(const struct tool_daemon *daemon);
/* Where the control socket is: beside the socket of shared memory. Ends the program with TOOL_USAGE where the address is one of the
 * network. */
void tool_daemon_control_path(const struct tool_daemon *daemon, char *path, size_t path_bytes);

/* Takes the private daemon down. Says so, and returns TOOL_FAILED, when it did not end cleanly;
 * else status. */
int tool_daemon_close(struct tool_daemon *daemon, int status);

#endif
