/*
 * The client library's names and sentences: every operation and status has its own.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "attnd/attnd.h"

static void every_code_has_a_name(void **state)
{
	unsigned named = 0;

	(void)state;
	for (unsigned op = 1; op < ATTND_OP_END; op++)
		assert_string_not_equal(attnd_op_name(op), "unknown-op");
	assert_string_equal(attnd_op_name(0), "unknown-op");
	assert_string_equal(attnd_op_name(ATTND_OP_END), "unknown-op");
	assert_string_equal(attnd_op_name(UINT32_MAX), "unknown-op");
	for (unsigned status = 0; status < ATTND_STATUS_END; status++) {
		assert_non_null(attnd_status_text(status));
		if (!strcmp(attnd_status_name(status), "unknown-status"))
			continue;
		named++;
		for (unsigned other = 0; other < status; other++)
			assert_string_not_equal(attnd_status_name(other), attnd_status_name(status));
	}
	assert_int_equal(named, 6 + 13 + 7 + 1);
	assert_string_equal(attnd_status_name(ATTND_REFUSED_DEADLINE), "refused-deadline");
	assert_string_equal(attnd_status_name(ATTND_STATUS_END), "unknown-status");
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(every_code_has_a_name) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
