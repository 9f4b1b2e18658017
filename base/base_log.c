/*
 * One line per event, made in a buffer on the stack and written by one write(2). Any thread, no lock.
 * A line has at most 2048 bytes; a longer one is cut. Bytes that could fake a line or drive a terminal are
 * replaced, because values may come from clients and files.
 */
#include "base/base_log.h"

#include "base/base_error.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LINE_BYTES = 2048 };

enum log_style { STYLE_PLAIN, STYLE_COLOUR, STYLE_JOURNAL };

struct level {
	const char *name;
	const char *colour;
	int priority; /* as syslog counts */
};

static const struct level levels[] = {
	[BASE_LOG_DEBUG] = {"debug", "\033[2m", 7},
	[BASE_LOG_INFO] = {"info", "\033[32m", 6},
	[BASE_LOG_WARN] = {"warn", "\033[33m", 4},
	[BASE_LOG_ERROR] = {"error", "\033[31m", 3},
};

/* Set before threads start and read by all of them; relaxed is enough, since nothing else hangs on them. */
static _Atomic int lowest_level = BASE_LOG_INFO;
static _Atomic int log_fd = STDERR_FILENO;
static _Atomic int log_style = -1;

void base_log_set_level(enum base_log_level level)
{
	atomic_store_explicit(&lowest_level, (int)level, memory_order_relaxed);
}

int base_log_level_parse(const char *name, enum base_log_level *level)
{
	for (int i = BASE_LOG_DEBUG; i <= BASE_LOG_ERROR; i++) {
		if (strcmp(name, levels[i].name) == 0) {
			*level = (enum base_log_level)i;
			return 0;
		}
	}
	return base_fail(EINVAL, "'%.32s' is no log level: use debug, info, warn or error", name);
}

static enum log_style style_for(int fd)
{
	if (isatty(fd))
		return STYLE_COLOUR;
	return getenv("JOURNAL_STREAM") && fd == STDERR_FILENO ? STYLE_JOURNAL : STYLE_PLAIN;
}

void base_log_to(int fd)
{
	atomic_store_explicit(&log_fd, fd, memory_order_relaxed);
	atomic_store_explicit(&log_style, (int)style_for(fd), memory_order_relaxed);
}

static enum log_style current_style(int fd)
{
	int style = atomic_load_explicit(&log_style, memory_order_relaxed);

	if (style < 0) {
		style = (int)style_for(fd);
		atomic_store_explicit(&log_style, style, memory_order_relaxed);
	}
	return (enum log_style)style;
}

const char *base_log_quote(char *out, size_t out_bytes, const char *value)
{
	size_t used = 0;

	if (out_bytes < 3)
		return "";
	if (*value && !strpbrk(value, " \"\\=\t\n\r")) {
		snprintf(out, out_bytes, "%s", value);
		return out;
	}
	out[used++] = '"';
	/* Leaves room for an escaped byte, the closing quote and the end. */
	for (; *value && used + 4 <= out_bytes; value++) {
		if (*value == '"' || *value == '\\')
			out[used++] = '\\';
		out[used++] = *value;
	}
	out[used++] = '"';
	out[used] = '\0';
	return out;
}

/* A growing line; a piece that does not fit is cut. */
struct line {
	char text[LINE_BYTES];
	size_t used;
};

__attribute__((format(printf, 2, 0)))
static void line_add_va(struct line *line, const char *format, va_list arguments)
{
	size_t room = sizeof(line->text) - 1 - line->used;
	int length = vsnprintf(line->text + line->used, room, format, arguments);

	if (length > 0)
		line->used += (size_t)length < room ? (size_t)length : room - 1;
}

__attribute__((format(printf, 2, 3)))
static void line_add(struct line *line, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	line_add_va(line, format, arguments);
	va_end(arguments);
}

static void line_add_time(struct line *line)
{
	struct timespec now;
	struct tm parts;
	char text[32];

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &parts);
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &parts);
	line_add(line, "%s.%03ldZ ", text, now.tv_nsec / 1000000);
}

static void line_add_head(struct line *line, enum log_style style, const struct level *level)
{
	if (style == STYLE_JOURNAL)
		line_add(line, "<%d>", level->priority);
	else
		line_add_time(line);
	line_add(line, "%s%-5s%s ", style == STYLE_COLOUR ? level->colour : "", level->name,
		style == STYLE_COLOUR ? "\033[0m" : "");
}

static void replace_control_bytes(char *text, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
			text[i] = '?';
}

void base_log(enum base_log_level level, const char *role, const char *event, const char *format, ...)
{
	struct line line = {.used = 0};
	int fd = atomic_load_explicit(&log_fd, memory_order_relaxed);
	va_list arguments;
	size_t body;

	if ((int)level < atomic_load_explicit(&lowest_level, memory_order_relaxed))
		return;
	line_add_head(&line, current_style(fd), &levels[level]);
	body = line.used;
	line_add(&line, "%s %s%s", role, event, *format ? " " : "");
	va_start(arguments, format);
	line_add_va(&line, format, arguments);
	va_end(arguments);
	replace_control_bytes(line.text + body, line.used - body);
	line.text[line.used++] = '\n';
	/* A log that cannot be written has nowhere to complain. */
	if (write(fd, line.text, line.used) < 0)
		return;
}
