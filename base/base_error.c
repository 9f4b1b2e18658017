/*
 * The error buffer of each thread. Any thread; no allocation, no lock. The buffer is 512 bytes of
 * thread-local memory; a longer message is cut.
 */
#include "base/base_error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char error_text[BASE_ERROR_BYTES];

/* Arguments of a new message may point into the old one, so the new one is built beside it. */
int base_fail(int err, const char *format, ...)
{
	char text[BASE_ERROR_BYTES];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	memcpy(error_text, text, sizeof(text));
	return -err;
}

int base_fail_within(int err, const char *format, ...)
{
	char text[BASE_ERROR_BYTES];
	va_list arguments;
	int length;

	va_start(arguments, format);
	length = vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	return base_fail(err, "%s%s%s", text, length > 0 ? ": " : "", error_text);
}

const char *base_error_message(void)
{
	return error_text;
}

void base_error_clear(void)
{
	error_text[0] = '\0';
}
