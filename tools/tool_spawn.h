/*
 * A private daemon for the duration of one tool.
 *
 * The tool forks a keeper, and the keeper starts the daemon in a fresh folder that only this
 * user can enter. The keeper sees the tool's end by the end of a socket, whatever ended it
 * (return, exit, Ctrl-C, SIGKILL); then it takes the daemon down (SIGTERM, a bound, SIGKILL)
 * and removes the folder. So no path of a tool has to clean up.
 *
 *   tool ----- socket pair ----- keeper ----- PDEATHSIG, pidfd ----- attnd
 *
 * Main thread, before the tool starts threads of its own. One daemon per tool.
 */
#ifndef TOOL_SPAWN_H
#define TOOL_SPAWN_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

enum {
	TOOL_SPAWN_PATH_BYTES = 96, /* a socket's path must fit into sockaddr_un, 108 bytes */
	TOOL_SPAWN_OPTIONS_MAX = 64,
	TOOL_SPAWN_READY_MS = 60000, /* a large model is read and laid out by then */
	TOOL_SPAWN_STOP_MS = 5000,   /* from SIGTERM to SIGKILL */
};

struct tool_spawn {
	pid_t keeper; /* 0: none */
	int socket;
	char folder[TOOL_SPAWN_PATH_BYTES]; /* "": none */
};

/* Makes the folder, so that what the daemon is to find there can be put there before it starts.
 * 0 or -errno with a message. */
int tool_spawn_prepare(struct tool_spawn *spawn);
/* Starts the daemon in the folder. options: "section.key=value", as attnd -o takes them. verbose:
 * the daemon's log goes to standard error as it comes. 0; -EADDRINUSE: another process has the
 * place of a listener; other -errno; with a message, the folder gone, and (but for -EADDRINUSE)
 * the daemon's log, if it wrote any, on standard error. */
int tool_spawn_start(
	struct tool_spawn *spawn, const char *const *options, size_t count, bool verbose);

/* Stops the daemon's threads and lets them go on; nothing else on the machine notices. 0 or
 * -errno with a message. */
int tool_spawn_pause(struct tool_spawn *spawn);
int tool_spawn_resume(struct tool_spawn *spawn);

/* The daemon's last words on standard error, for when it failed. */
void tool_spawn_show_log(const struct tool_spawn *spawn);

/* Takes it down, or the folder where no daemon was started, and waits for that. -EIO with a message, and the log shown, when the daemon did
 * not end cleanly. */
int tool_spawn_stop(struct tool_spawn *spawn);

#endif
