/*
 * The error buffer: messages, context, cutting, and one buffer per thread.
 */
#include "base/base_error.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void test_message_and_code(void **state)
{
	(void)state;
	base_error_clear();
	assert_string_equal(base_error_message(), "");
	assert_int_equal(base_fail(EINVAL, "value %d is too large, use at most %d", 7, 5), -EINVAL);
	assert_string_equal(base_error_message(), "value 7 is too large, use at most 5");
	base_error_clear();
	assert_string_equal(base_error_message(), "");
}

static void test_context_goes_before(void **state)
{
	(void)state;
	base_fail(ENOENT, "no tensor 'x'");
	assert_int_equal(base_fail_within(ENOENT, "model %s", "m.gguf"), -ENOENT);
	assert_string_equal(base_error_message(), "model m.gguf: no tensor 'x'");
}

/* The new message may quote the old one. */
static void test_message_about_itself(void **state)
{
	(void)state;
	base_fail(EIO, "disk");
	base_fail(EIO, "<%s>", base_error_message());
	assert_string_equal(base_error_message(), "<disk>");
}

static void test_long_messages_are_cut(void **state)
{
	char text[2 * BASE_ERROR_BYTES];

	(void)state;
	memset(text, 'a', sizeof(text));
	text[sizeof(text) - 1] = '\0';
	assert_int_equal(base_fail(E2BIG, "%s", text), -E2BIG);
	assert_int_equal(strlen(base_error_message()), BASE_ERROR_BYTES - 1);
	assert_int_equal(base_fail_within(E2BIG, "short"), -E2BIG);
	assert_int_equal(strlen(base_error_message()), BASE_ERROR_BYTES - 1);
	assert_memory_equal(base_error_message(), "short: aaa", 10);
	assert_int_equal(base_fail_within(E2BIG, "%s", text), -E2BIG);
	assert_int_equal(strlen(base_error_message()), BASE_ERROR_BYTES - 1);
}

static void *fail_in_thread(void *seen)
{
	*(int *)seen = (int)strlen(base_error_message());
	base_fail(EPERM, "of the other thread");
	return NULL;
}

static void test_one_buffer_per_thread(void **state)
{
	pthread_t thread;
	int seen = -1;

	(void)state;
	base_fail(EPERM, "of this thread");
	assert_int_equal(pthread_create(&thread, NULL, fail_in_thread, &seen), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(seen, 0);
	assert_string_equal(base_error_message(), "of this thread");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_message_and_code),
		cmocka_unit_test(test_context_goes_before),
		cmocka_unit_test(test_message_about_itself),
		cmocka_unit_test(test_long_messages_are_cut),
		cmocka_unit_test(test_one_buffer_per_thread),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
