/*
 * The keeper of a private daemon: a small process between a tool and its attnd. It starts the
 * daemon, obeys one-byte orders, and when the tool's end of the socket closes takes the daemon
 * down and removes its folder.
 *
 * It is a fork of the tool and runs nothing else; its own process group keeps Ctrl-C away from
 * it and the daemon.
 */
#ifndef TOOL_KEEPER_H
#define TOOL_KEEPER_H

#include <stdbool.h>
#include <stddef.h>

/* Orders; each is answered by the same byte once it is done. */
enum { TOOL_KEEPER_PAUSE = 'p', TOOL_KEEPER_RESUME = 'r' };

struct tool_keeper {
	const char *program, *folder;
	const char *const *options;
	size_t option_count;
	bool verbose;
	/* Orders. End of file means: take it down; then the daemon's wait status goes back. */
	int socket;
	int ready_fd; /* handed to the daemon */
};

/* Never returns. */
void tool_keeper_run(const struct tool_keeper *keeper) __attribute__((noreturn));

/* Removes a daemon's folder and what is in it. */
void tool_keeper_remove(const char *folder);

#endif
