/*
 * Time limit: 600 s
 *
 * The seeded simulation over a network: the clients of test_service, whose every result is checked, over streams that break and
 * datagrams of which 10 % are lost, 5 % doubled, 10 % late and so out of order, and 1 % changed. Every request is completed exactly once
 * and no step is applied twice, or a result would be wrong. ATTND_SIM_SEED=N runs that seed alone, ATTND_SIM_WAY=1, 2 or 3 by that way
 * (streams, datagrams, plain datagrams); ATTND_SIM_SEEDS=N runs so many: 400 are a million requests.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/sim/sim_world.h"

enum { SEEDS = 12, SEEDS_SANITIZED = 2 };

#define SECOND_NS INT64_C(1000000000)

static void show(const struct sim_world_options *options, const struct sim_world_report *report)
{
	printf("# way %d seed %llu: %llu accepted, %llu streamed, %llu deaths, %llu rounds; %llu packets, %llu lost, %llu doubled, %llu late, "
		"%llu changed, %llu connections broken%s%s\n", (int)options->way, (unsigned long long)options->seed,
		(unsigned long long)report->accepted, (unsigned long long)report->streams, (unsigned long long)report->deaths,
		(unsigned long long)report->rounds, (unsigned long long)report->packets, (unsigned long long)report->lost,
		(unsigned long long)report->doubled, (unsigned long long)report->late, (unsigned long long)report->changed,
		(unsigned long long)report->broken, report->failed ? "; FAILED: " : "", report->message);
}

static void run_seeds(enum sim_way way)
{
	const char *suite = getenv("ATTND_SUITE");
	const char *wanted = getenv("ATTND_SIM_SEEDS");
	const uint64_t seeds = wanted ? strtoull(wanted, NULL, 10) : suite && strcmp(suite, "plain") ? SEEDS_SANITIZED : SEEDS;
	struct sim_world_report report, sum = { .rounds = 0 };

	for (uint64_t seed = 1; seed <= seeds; seed++) {
		const struct sim_world_options options = { .seed = seed, .duration_ns = 50 * SECOND_NS, .way = way };

		sim_world_run(&options, &report);
		if (report.failed) {
			show(&options, &report);
			fail_msg("seed %llu after %.6f simulated seconds: %s (ATTND_SIM_SEED=%llu ATTND_SIM_WAY=%d repeats it)",
				(unsigned long long)seed, (double)report.failed_at_ns * 1e-9, report.message, (unsigned long long)seed, (int)way);
		}
		sum.accepted += report.accepted;
		sum.streams += report.streams;
		sum.deaths += report.deaths;
		sum.rounds += report.rounds;
		sum.packets += report.packets;
		sum.lost += report.lost;
		sum.doubled += report.doubled;
		sum.late += report.late;
		sum.changed += report.changed;
		sum.broken += report.broken;
	}
	show(&(struct sim_world_options){ .seed = seeds, .way = way }, &sum);
	/* It must have been eventful, or it proves little. */
	assert_true(sum.accepted > seeds * 500 && sum.broken > seeds);
	assert_true(way == SIM_WAY_STREAM || (sum.lost > seeds * 100 && sum.doubled > seeds * 50));
}

static void test_streams(void **state)
{
	(void)state;
	run_seeds(SIM_WAY_STREAM);
}

static void test_datagrams(void **state)
{
	(void)state;
	run_seeds(SIM_WAY_DATAGRAM);
}

static void test_plain_datagrams(void **state)
{
	(void)state;
	run_seeds(SIM_WAY_PLAIN_DATAGRAM);
}

static void test_replay(void **state)
{
	const struct sim_world_options options = { .seed = 77, .duration_ns = 20 * SECOND_NS, .way = SIM_WAY_DATAGRAM };
	struct sim_world_report first, second;

	(void)state;
	sim_world_run(&options, &first);
	sim_world_run(&options, &second);
	assert_false(first.failed);
	assert_true(first.digest == second.digest && first.rounds == second.rounds && first.packets == second.packets);
}

int main(void)
{
	const char *one = getenv("ATTND_SIM_SEED"), *way = getenv("ATTND_SIM_WAY");
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_streams),
		cmocka_unit_test(test_datagrams),
		cmocka_unit_test(test_plain_datagrams),
		cmocka_unit_test(test_replay),
	};

	if (one) {
		const struct sim_world_options options = { .seed = strtoull(one, NULL, 10),
			.duration_ns = 50 * SECOND_NS, .way = way ? (enum sim_way)atoi(way) : SIM_WAY_DATAGRAM };
		struct sim_world_report report;

		sim_world_run(&options, &report);
		show(&options, &report);
		return report.failed;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
