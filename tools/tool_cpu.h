/*
 * Processors for a tool that measures: one for itself, one for the daemon, on two physical
 * cores next to each other.
 *
 * Main thread, at start; pinning works on the calling thread.
 */
#ifndef TOOL_CPU_H
#define TOOL_CPU_H

#include <stdbool.h>

struct tool_cpu_pair {
	int client, daemon; /* os indices */
	unsigned cores;     /* physical cores this process may use */
	/* Two cores; else client == daemon, and nothing should be pinned or spin for long. */
	bool apart;
};

/* 0, or -errno with a message. */
int tool_cpu_pick(struct tool_cpu_pair *pair);
/* Binds the calling thread to one processor; false where the kernel refuses. */
bool tool_cpu_pin(int cpu);
/* Leaves every processor but this one to the calling thread and its children. */
bool tool_cpu_avoid(int cpu);

#endif
