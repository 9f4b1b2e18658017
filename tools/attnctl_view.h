/*
 * attnctl view: what the daemon does, out of its memory; it is asked for that memory once, and for nothing else.
 *
 * Main thread.
 */
#ifndef ATTNCTL_VIEW_H
#define ATTNCTL_VIEW_H

#include <stdbool.h>

/* Prints once (watch_s 0: since the daemon's start), or every so many seconds what happened since the time before, until it is
 * interrupted or the daemon is gone. address NULL: the usual places. Returns an exit code. */
int attnctl_view(const char *address, double watch_s, bool json);

#endif
