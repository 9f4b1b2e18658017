/*
 * How a tool talks to its daemon: through shared memory, or over a socket. A private daemon is given a listener for it, and where the
 * connection is to be sealed a key, both for this one tool.
 *
 * Main thread, at start.
 */
#ifndef TOOL_TRANSPORT_H
#define TOOL_TRANSPORT_H

#include <stdbool.h>

#include "tools/tool_spawn.h"

enum tool_transport_kind { TOOL_TRANSPORT_SHM, TOOL_TRANSPORT_TCP, TOOL_TRANSPORT_UDP, TOOL_TRANSPORT_UNIX };

enum {
	TOOL_TRANSPORT_OPTIONS = 4,
	TOOL_TRANSPORT_TEXT_BYTES = TOOL_SPAWN_PATH_BYTES + 64,
	TOOL_TRANSPORT_TRIES = 5, /* a port that was free may be taken before the daemon has it */
};

struct tool_transport {
	/* from the command line */
	unsigned kind; /* enum tool_transport_kind */
	bool is_chosen, sealed;
	/* below here: of the private daemon */
	char address[TOOL_TRANSPORT_TEXT_BYTES]; /* for attnd_connect */
	char key_file[TOOL_TRANSPORT_TEXT_BYTES]; /* "": the connection is plain */
	char options[TOOL_TRANSPORT_OPTIONS][TOOL_TRANSPORT_TEXT_BYTES]; /* that it starts with */
	unsigned option_count;
};

extern const char *const tool_transport_names[]; /* by kind; NULL-terminated */

/* Finds a place for a daemon that is about to start in `folder`, and writes its key there. 0, or -errno with a message. */
int tool_transport_prepare(struct tool_transport *transport, const char *folder);

/* The kind of connection that an address stands for. */
enum tool_transport_kind tool_transport_of(const char *address);

#endif
