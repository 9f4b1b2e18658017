/*
 * Random numbers: known values (results must not change between releases), ranges, and keys that matter.
 */
#include "base/base_assert.h"
#include "base/base_rand.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* splitmix64 from seed 0, as published by Vigna. */
static void test_known_sequence(void **state)
{
	uint64_t seed = 0;

	(void)state;
	assert_true(base_rand_next(&seed) == 0xe220a8397b1dcdafu);
	assert_true(base_rand_next(&seed) == 0x6e789e6aa1b965f4u);
	assert_true(base_rand_next(&seed) == 0x06c45d188009454fu);
}

static void test_below(void **state)
{
	uint64_t seed = 7;
	int seen[5] = {0};

	(void)state;
	for (int i = 0; i < 5000; i++) {
		uint64_t drawn = base_rand_below(&seed, 5);

		assert_true(drawn < 5);
		seen[drawn]++;
	}
	for (int i = 0; i < 5; i++)
		assert_in_range(seen[i], 850, 1150);
	assert_int_equal(base_rand_below(&seed, 1), 0);
}

static void test_keyed_by_seed_and_position(void **state)
{
	double sum = 0;

	(void)state;
	for (uint64_t position = 0; position < 10000; position++) {
		double drawn = base_rand_at(42, position);

		assert_true(drawn >= 0 && drawn < 1);
		assert_true(drawn == base_rand_at(42, position));
		assert_true(drawn != base_rand_at(43, position));
		assert_true(drawn != base_rand_at(42, position + 1));
		sum += drawn;
	}
	assert_true(sum > 4800 && sum < 5200);
}

static void test_assertion_aborts(void **state)
{
	int status;
	pid_t child;

	(void)state;
	BASE_ASSERT(1 + 1 == 2);
	child = fork();
	if (child == 0) {
		const struct rlimit no_core = {0, 0};

		setrlimit(RLIMIT_CORE, &no_core);
		signal(SIGABRT, SIG_DFL);
		dup2(open("/dev/null", O_WRONLY | O_CLOEXEC), STDERR_FILENO);
		BASE_ASSERT(1 + 1 == 3);
		_exit(0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_known_sequence),
		cmocka_unit_test(test_below),
		cmocka_unit_test(test_keyed_by_seed_and_position),
		cmocka_unit_test(test_assertion_aborts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
