/*
 * Runs the packet scripts in tests/data/net_ip, and looks whether every way that a frame can end was among them. Their frames were made by
 * tests/golden/make-net-ip-scripts.py, which shares nothing with the stack; tests/unit/net_script.h says what the lines mean.
 */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/net_script.h"

#define FOLDER "tests/data/net_ip"

static struct net_script_seen seen;

static int is_script(const struct dirent *entry)
{
	const char *end = strrchr(entry->d_name, '.');

	return end && strcmp(end, ".script") == 0;
}

static void scripts(void **state)
{
	struct dirent **entries;
	const int count = scandir(FOLDER, &entries, is_script, alphasort);
	int failed = 0;

	(void)state;
	assert_true(count >= 12);
	for (int i = 0; i < count; i++) {
		char path[600];

		snprintf(path, sizeof(path), FOLDER "/%s", entries[i]->d_name);
		failed += !net_script_run(path, &seen);
		free(entries[i]);
	}
	free(entries);
	assert_int_equal(failed, 0);
}

static void every_outcome_was_seen(void **state)
{
	int unseen = 0;

	(void)state;
	for (uint32_t i = 0; i < NET_IP_COUNTERS; i++) {
		if (strncmp(net_ip_counter_names[i].name, "in.", 3) == 0 && !seen.outcomes[i]) {
			printf("# no script has %s\n", net_ip_counter_names[i].name);
			unseen++;
		}
	}
	assert_int_equal(unseen, 0);
}

/* A script that expects the wrong thing fails: a reader that passes everything would pass all of the above. */
static void wrong_scripts_fail(void **state)
{
	static const char *const wrong[] = { "is eth_type", "is no_such", "payload 00", "own 00", "counter frames 2", "unsent EINVAL",
		"sent 00", "advance", "no_such", "start", "listener 7", "receive 0", "send" };
	struct net_script_seen unused = { { false } };
	char path[] = "/tmp/attnd-script-XXXXXX";
	const int fd = mkstemp(path);

	(void)state;
	assert_true(fd >= 0);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		FILE *file = fopen(path, "w");

		assert_non_null(file);
		fprintf(file, "local 192.0.2.1/24\nlisten 1\nstart\nreceive 00\nis eth_short\nway 0 0 192.0.2.2 5\nsend\n%s\nunsent %s\n", wrong[i],
			i + 1 < sizeof(wrong) / sizeof(wrong[0]) ? "EHOSTUNREACH" : "EMSGSIZE");
		fclose(file);
		assert_false(net_script_run(path, &unused));
	}
	close(fd);
	unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(scripts),
		cmocka_unit_test(every_outcome_was_seen),
		cmocka_unit_test(wrong_scripts_fail),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
