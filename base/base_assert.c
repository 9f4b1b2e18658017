/*
 * The end of a daemon that has lost its invariants: one line on standard error, then abort, so that a core
 * dump shows the place. Any thread; it allocates nothing and takes no lock.
 */
#include "base/base_assert.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void base_assert_failed(const char *expression, const char *file, int line)
{
	char text[512];
	int length = snprintf(text, sizeof(text), "attnd: assertion failed at %s:%d: %s\n", file, line,
		expression);
	size_t bytes = length < (int)sizeof(text) ? (size_t)length : sizeof(text) - 1;

	/* Nothing can be done about a failing write here. */
	if (write(STDERR_FILENO, text, bytes) < 0)
		abort();
	abort();
}
