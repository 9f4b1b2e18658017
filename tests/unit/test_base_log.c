/*
 * The log: the form of a line, levels, the journal's form, and hostile values that stay on their line.
 */
#include "base/base_log.h"

#include "base/base_error.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static int pipe_ends[2];

/* What has been written to the log, as text. */
static const char *written(void)
{
	static char text[8192];
	ssize_t length = read(pipe_ends[0], text, sizeof(text) - 1);

	text[length > 0 ? length : 0] = '\0';
	return text;
}

static void test_form_of_a_line(void **state)
{
	const char *line;
	int year, end = 0;

	(void)state;
	base_log(BASE_LOG_WARN, "control", "attach", "client=%d uid=%d", 7, 1000);
	line = written();
	assert_int_equal(sscanf(line, "%d-%*d-%*dT%*d:%*d:%*d.%*3dZ %n", &year, &end), 1);
	assert_true(year >= 2024);
	assert_string_equal(line + end, "warn  control attach client=7 uid=1000\n");
}

static void test_levels(void **state)
{
	enum base_log_level level;

	(void)state;
	base_log(BASE_LOG_DEBUG, "control", "quiet", "n=%d", 1);
	base_log_set_level(BASE_LOG_ERROR);
	base_log(BASE_LOG_WARN, "control", "quiet", "n=%d", 2);
	base_log(BASE_LOG_ERROR, "control", "loud", "n=%d", 3);
	base_log_set_level(BASE_LOG_INFO);
	assert_non_null(strstr(written(), "loud n=3\n"));
	assert_int_equal(base_log_level_parse("debug", &level), 0);
	assert_int_equal(level, BASE_LOG_DEBUG);
	assert_int_equal(base_log_level_parse("error", &level), 0);
	assert_int_equal(level, BASE_LOG_ERROR);
	assert_int_equal(base_log_level_parse("chatty", &level), -EINVAL);
	assert_non_null(strstr(base_error_message(), "chatty"));
}

static void test_hostile_values(void **state)
{
	char value[4096];
	const char *line;

	(void)state;
	base_log(BASE_LOG_INFO, "front", "hello", "name=%s", "a\nfaked line\033[31m\177");
	line = written();
	assert_ptr_equal(strchr(line, '\n'), line + strlen(line) - 1);
	assert_non_null(strstr(line, "name=a?faked line?[31m?\n"));

	memset(value, 'x', sizeof(value) - 1);
	value[sizeof(value) - 1] = '\0';
	base_log(BASE_LOG_INFO, "front", "hello", "name=%s", value);
	line = written();
	assert_in_range(strlen(line), 2000, 2048);
	assert_int_equal(line[strlen(line) - 1], '\n');
}

static void test_quoting(void **state)
{
	char out[16];

	(void)state;
	assert_string_equal(base_log_quote(out, sizeof(out), "plain"), "plain");
	assert_string_equal(base_log_quote(out, sizeof(out), ""), "\"\"");
	assert_string_equal(base_log_quote(out, sizeof(out), "two words"), "\"two words\"");
	assert_string_equal(base_log_quote(out, sizeof(out), "a\"b\\"), "\"a\\\"b\\\\\"");
	assert_string_equal(base_log_quote(out, sizeof(out), "k=v"), "\"k=v\"");
	assert_true(strlen(base_log_quote(out, sizeof(out), "a longer text with spaces")) < sizeof(out));
	assert_int_equal(out[strlen(out) - 1], '"');
	assert_string_equal(base_log_quote(out, 2, "x"), "");
}

static void test_journal(void **state)
{
	int saved = dup(STDERR_FILENO);

	(void)state;
	setenv("JOURNAL_STREAM", "8:1", 1);
	dup2(pipe_ends[1], STDERR_FILENO);
	base_log_to(STDERR_FILENO);
	base_log(BASE_LOG_ERROR, "control", "gone", "n=%d", 1);
	base_log_to(pipe_ends[1]);
	dup2(saved, STDERR_FILENO);
	close(saved);
	unsetenv("JOURNAL_STREAM");
	assert_string_equal(written(), "<3>error control gone n=1\n");
}

static int set_up(void **state)
{
	(void)state;
	if (pipe(pipe_ends) != 0)
		return -1;
	base_log_to(pipe_ends[1]);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_form_of_a_line),
		cmocka_unit_test(test_levels),
		cmocka_unit_test(test_hostile_values),
		cmocka_unit_test(test_quoting),
		cmocka_unit_test(test_journal),
	};

	return cmocka_run_group_tests(tests, set_up, NULL);
}
