/*
 * Structured log: one line per event, `time level role event key=value ...`, to standard error or a file.
 * Cold paths only (control, start, stop); any thread; one write(2) per line, so lines never interleave.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stddef.h>

enum base_log_level { BASE_LOG_DEBUG, BASE_LOG_INFO, BASE_LOG_WARN, BASE_LOG_ERROR };

void base_log_set_level(enum base_log_level level);
/* -EINVAL for an unknown name. */
int base_log_level_parse(const char *name, enum base_log_level *level);
/* Colour where the descriptor is a terminal; under a service manager (JOURNAL_STREAM set) no time stamp and a
 * <N> priority prefix. */
void base_log_to(int fd);

/* event is one word; format yields key=value pairs (quote values with spaces: use base_log_quote). */
void base_log(enum base_log_level level, const char *role, const char *event, const char *format, ...)
	__attribute__((format(printf, 4, 5), cold));

/* value as it stands in key=value: in quotes where it is empty or holds a space, a quote, a backslash or '='.
 * Writes to out, cut to fit, and returns it ("" when out_bytes < 3). */
const char *base_log_quote(char *out, size_t out_bytes, const char *value);

#endif
