/*
 * Time limit: 600 s
 *
 * The seeded simulation: 100 seeds of 100 simulated seconds each over the modelled device, some
 * over the real CPU backend; the same seed gives the same completions; planted bugs are found, and
 * found again from their seeds. ATTND_SIM_SEED=N runs that seed alone and says what it did, ATTND_SIM_SEEDS=N the first N.
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

#include "tests/sim/sim_world.h"

enum { SEEDS = 100, SEEDS_SANITIZED = 12, SEEDS_CPU = 4, PLANT_SEEDS = 5 };

static const int64_t hundred_seconds_ns = INT64_C(100) * 1000000000;

static bool sanitized(void)
{
	const char *suite = getenv("ATTND_SUITE");

	return suite && strcmp(suite, "plain");
}

static void show(uint64_t seed, const struct sim_world_report *report)
{
	printf("# seed %llu: %llu accepted, %llu streamed, %llu steps, %llu deaths, %llu rounds%s%s\n",
		(unsigned long long)seed, (unsigned long long)report->accepted,
		(unsigned long long)report->streams, (unsigned long long)report->steps,
		(unsigned long long)report->deaths, (unsigned long long)report->rounds,
		report->failed ? "; FAILED: " : "", report->message);
}

static void test_seeds(void **state)
{
	const char *asked = getenv("ATTND_SIM_SEEDS");
	uint64_t seeds = asked ? strtoull(asked, NULL, 10) : sanitized() ? SEEDS_SANITIZED : SEEDS, accepted = 0, deaths = 0, drafts = 0,
		 drafts_accepted = 0, by_status[64] = { 0 };
	struct sim_world_report report;

	(void)state;
	for (uint64_t seed = 1; seed <= seeds; seed++) {
		const struct sim_world_options options = { .seed = seed,
			.duration_ns = hundred_seconds_ns };

		sim_world_run(&options, &report);
		if (report.failed) {
			show(seed, &report);
			fail_msg(
				"seed %llu after %.6f simulated seconds: %s (ATTND_SIM_SEED=%llu repeats it)",
				(unsigned long long)seed, (double)report.failed_at_ns * 1e-9,
				report.message, (unsigned long long)seed);
		}
		accepted += report.accepted;
		deaths += report.deaths;
		drafts += report.drafts;
		drafts_accepted += report.drafts_accepted;
		for (int i = 0; i < 64; i++)
			by_status[i] += report.by_status[i];
	}
	printf("# %llu seeds: %llu requests, %llu deaths of clients; final statuses:",
		(unsigned long long)seeds, (unsigned long long)accepted,
		(unsigned long long)deaths);
	for (int i = 0; i < 64; i++)
		if (by_status[i])
			printf(" %d:%llu", i, (unsigned long long)by_status[i]);
	printf("\n# %llu tokens guessed, %llu of them right\n", (unsigned long long)drafts, (unsigned long long)drafts_accepted);
	/* It must have been eventful, or it proves little: OK, refused, expired, cancelled, gone,
	 * no pages. */
	for (int i = 0; i <= 4; i++)
		assert_true(by_status[i] > 0);
	assert_true(by_status[34] > 0);
	assert_true(accepted > seeds * 1000);
	assert_true(drafts_accepted > seeds * 10 && drafts > drafts_accepted + seeds * 10);
}

static void test_replay(void **state)
{
	const struct sim_world_options options = { .seed = 77,
		.duration_ns = hundred_seconds_ns / 5 };
	struct sim_world_report first, second;

	(void)state;
	sim_world_run(&options, &first);
	sim_world_run(&options, &second);
	assert_false(first.failed);
	assert_true(first.digest == second.digest);
	assert_true(first.rounds == second.rounds);
}

static void planted(enum sim_plant plant, const char *says)
{
	for (uint64_t seed = 1; seed <= PLANT_SEEDS; seed++) {
		const struct sim_world_options options = {
			.seed = seed, .duration_ns = hundred_seconds_ns / 10, .plant = plant
		};
		struct sim_world_report first, again;

		sim_world_run(&options, &first);
		if (!first.failed)
			fail_msg("seed %llu: the planted bug was not found",
				(unsigned long long)seed);
		sim_world_run(&options, &again);
		assert_string_equal(first.message, again.message);
		assert_true(first.rounds == again.rounds);
		if (seed == 1)
			printf("# found after %llu rounds: %s\n", (unsigned long long)first.rounds,
				first.message);
		if (says && !strstr(first.message, says))
			fail_msg("\"%s\" does not say \"%s\"", first.message, says);
	}
}

static void test_double_completion(void **state)
{
	(void)state;
	planted(SIM_PLANT_DOUBLE_COMPLETION, "owed");
}
static void test_lost_completion(void **state)
{
	(void)state;
	planted(SIM_PLANT_LOST_COMPLETION, NULL);
}
static void test_page_leak(void **state)
{
	(void)state;
	planted(SIM_PLANT_PAGE_LEAK, NULL);
}

/* The real inline backend in the same world: no foretelling of results, but the same accounting. */
static void test_cpu(void **state)
{
	const char *build = getenv("ATTND_BUILD");
	char model[] = "/tmp/attnd-sim-XXXXXX", command[512];
	int fd = mkstemp(model);

	(void)state;
	close(fd);
	snprintf(command, sizeof(command), "%s/attnquant make-tiny -o %s >/dev/null",
		build ? build : "build", model);
	assert_int_equal(system(command), 0);
	for (uint64_t seed = 1; seed <= SEEDS_CPU; seed++) {
		const struct sim_world_options options = { .seed = seed,
			.duration_ns = hundred_seconds_ns / 20,
			.cpu = true,
			.model_path = model };
		struct sim_world_report report;

		sim_world_run(&options, &report);
		show(seed, &report);
		assert_false(report.failed);
		assert_true(report.steps > 0);
	}
	unlink(model);
}

int main(void)
{
	const char *one = getenv("ATTND_SIM_SEED");
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_seeds),
		cmocka_unit_test(test_replay),
		cmocka_unit_test(test_double_completion),
		cmocka_unit_test(test_lost_completion),
		cmocka_unit_test(test_page_leak),
		cmocka_unit_test(test_cpu),
	};

	if (one) {
		const struct sim_world_options options = { .seed = strtoull(one, NULL, 10),
			.duration_ns = hundred_seconds_ns };
		struct sim_world_report report;

		sim_world_run(&options, &report);
		show(options.seed, &report);
		return report.failed;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
