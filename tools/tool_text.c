/*
 * How tools speak. See tool_text.h.
 */
#include "tools/tool_text.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void __attribute__((format(printf, 1, 0))) say(const char *format, va_list arguments)
{
	fflush(stdout);
	fprintf(stderr, "%s: ", program_invocation_short_name);
	vfprintf(stderr, format, arguments);
	fputc('\n', stderr);
}

void tool_say(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	say(format, arguments);
	va_end(arguments);
}

void tool_die(enum tool_exit code, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	say(format, arguments);
	va_end(arguments);
	exit(code);
}

bool tool_wants_colour(FILE *stream)
{
	const char *refused = getenv("NO_COLOR");
	const char *terminal = getenv("TERM");

	if ((refused && *refused) || (terminal && strcmp(terminal, "dumb") == 0))
		return false;
	return isatty(fileno(stream));
}

void tool_progress(const char *format, ...)
{
	va_list arguments;

	if (!isatty(STDERR_FILENO))
		return;
	fputs("\r\033[K", stderr);
	if (format) {
		va_start(arguments, format);
		vfprintf(stderr, format, arguments);
		va_end(arguments);
	}
	fflush(stderr);
}

/* value with three significant digits, at most two of them after the point. */
static const char *scaled(char *out, double value, const char *unit)
{
	int decimals = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;

	snprintf(out, TOOL_NUMBER_BYTES, "%.*f %s", decimals, value, unit);
	return out;
}

const char *tool_duration(char *out, int64_t ns)
{
	double value = (double)ns;

	if (ns > -1000 && ns < 1000) {
		snprintf(out, TOOL_NUMBER_BYTES, "%d ns", (int)ns);
		return out;
	}
	if (ns < 1000000)
		return scaled(out, value / 1e3, "µs");
	if (ns < 1000000000)
		return scaled(out, value / 1e6, "ms");
	return scaled(out, value / 1e9, "s");
}

const char *tool_bytes(char *out, uint64_t bytes)
{
	static const char *const units[] = { "KiB", "MiB", "GiB", "TiB" };
	double value = (double)bytes / 1024;
	size_t unit = 0;

	if (bytes < 1024) {
		snprintf(out, TOOL_NUMBER_BYTES, "%u B", (unsigned)bytes);
		return out;
	}
	for (; value >= 1023.95 && unit + 1 < sizeof(units) / sizeof(units[0]); unit++)
		value /= 1024;
	snprintf(out, TOOL_NUMBER_BYTES, "%.1f %s", value, units[unit]);
	return out;
}

const char *tool_count(char *out, uint64_t count)
{
	char digits[24];
	int length = snprintf(digits, sizeof(digits), "%llu", (unsigned long long)count);
	char *to = out;

	for (int i = 0; i < length; i++) {
		if (i > 0 && (length - i) % 3 == 0)
			*to++ = ',';
		*to++ = digits[i];
	}
	*to = '\0';
	return out;
}
