/*
 * How tools speak: their messages on standard error, their exit codes, and numbers as people
 * read them.
 *
 * Any thread; cold paths only.
 */
#ifndef TOOL_TEXT_H
#define TOOL_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* Exit codes, the same for every tool. */
enum tool_exit {
	TOOL_OK = 0,
	TOOL_FAILED = 1,        /* it was asked, and the answer is an error */
	TOOL_USAGE = 2,         /* the command line is wrong */
	TOOL_NO_DAEMON = 3,     /* nothing answers at the address, or the daemon went away */
	TOOL_INTERRUPTED = 130, /* Ctrl-C, as a shell would say it */
};

enum { TOOL_NUMBER_BYTES = 32 };

/* "attnrun: sentence" on standard error. */
void tool_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The same, then exit(code): for what leaves nothing to do. A spawned daemon goes with its tool. */
void tool_die(enum tool_exit code, const char *format, ...)
	__attribute__((format(printf, 2, 3), noreturn));

/* True where colour is welcome: a terminal, and NO_COLOR is not set. */
bool tool_wants_colour(FILE *stream);

/* A line about what goes on now, on standard error where that is a terminal; the next one
 * replaces it, NULL removes it. */
void tool_progress(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Each writes to out (TOOL_NUMBER_BYTES) and returns it: "118 ns", "1.25 µs", "12.1 ms", "3.2
 * s". */
const char *tool_duration(char *out, int64_t ns);
/* "512 B", "16.0 MiB" */
const char *tool_bytes(char *out, uint64_t bytes);
/* "1,234,567" */
const char *tool_count(char *out, uint64_t count);

#endif
