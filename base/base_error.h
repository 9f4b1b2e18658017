/*
 * Errors of cold paths: a negative errno as the return value, and a sentence in a fixed buffer of the
 * calling thread that says what failed, with which value, and what to do about it.
 *
 * Any thread. Hot paths return the code alone and count it; they never come here.
 */
#ifndef BASE_ERROR_H
#define BASE_ERROR_H

#include <errno.h>

/* Longest message kept, including the final NUL; longer ones are cut. */
enum { BASE_ERROR_BYTES = 512 };

/* Records the message for this thread and returns -err. err is a positive errno. */
int base_fail(int err, const char *format, ...) __attribute__((format(printf, 2, 3), cold));

/* Puts "context: " before this thread's message and returns -err unchanged (err positive). */
int base_fail_within(int err, const char *format, ...) __attribute__((format(printf, 2, 3), cold));

/* The last message of this thread; "" when there is none. Valid until the thread's next failure. */
const char *base_error_message(void);

void base_error_clear(void);

#endif
