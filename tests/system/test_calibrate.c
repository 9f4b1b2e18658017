/*
 * Time limit: 120 s
 *
 * The daemon measures its devices before it says that it is ready: its log says what was found, and nothing of it is seen in what operators
 * read. Switched off, it says nothing. Time is not judged.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/system/sys_daemon.h"

enum { LOG_BYTES = 1 << 16 };

/* What the daemon said until it was ready; free it. */
static char *log_of(const char *calibrate, const char *workers)
{
	char path[] = "/tmp/attnd-calibrate-XXXXXX", file[64];
	const char *const options[] = { "kv.pool=64M", calibrate, workers, file, NULL };
	static const char *const none[] = { "counters.requests", "counters.sessions", "counters.steps", "counters.attends", "counters.busy_ns",
		"counters.accepted", "counters.prefix_pages", "counters.blocks_used", "kv.used", "kv.dirty", "kv.cached" };
	struct sys_daemon daemon;
	char *text = calloc(1, LOG_BYTES);
	const int fd = mkstemp(path);
	FILE *log;

	assert_true(fd >= 0 && text != NULL);
	close(fd);
	snprintf(file, sizeof(file), "daemon.log_file=%s", path);
	sys_daemon_start(&daemon, true, options);
	for (size_t i = 0; i < sizeof(none) / sizeof(none[0]); i++)
		if (sys_daemon_number(&daemon, none[i]) != 0.0)
			fail_msg("%s is not 0", none[i]);
	sys_daemon_stop(&daemon);
	log = fopen(path, "re");
	assert_non_null(log);
	assert_true(fread(text, 1, LOG_BYTES - 1, log) > 0);
	fclose(log);
	unlink(path);
	return text;
}

static void it_is_said_before_it_is_ready(void **state)
{
	static const char *const workers[] = { "placement.workers=0", "placement.workers=1" };

	(void)state;
	for (uint32_t w = 0; w < 2; w++) {
		char *log = log_of("limits.calibrate_ms=300", workers[w]);
		const char *ready = strstr(log, " ready "), *model = strstr(log, " calibrated model="), *raw = strstr(log, " model=attention ");

		assert_non_null(ready);
		assert_true(model != NULL && model < ready);
		assert_true(raw != NULL && raw < ready);
		assert_null(strstr(log, "calibration-failed"));
		free(log);
	}
}

static void nothing_is_said_without_it(void **state)
{
	char *log = log_of("limits.calibrate_ms=0", "placement.workers=0");

	(void)state;
	assert_non_null(strstr(log, " ready "));
	assert_null(strstr(log, "calibrat"));
	free(log);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(it_is_said_before_it_is_ready),
		cmocka_unit_test(nothing_is_said_without_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
