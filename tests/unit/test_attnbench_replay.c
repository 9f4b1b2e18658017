/*
 * The arithmetic of attnbench replay, without a daemon: lengths, prompts, deadlines, arrivals, the line of ideal times, the
 * capacity, and what counts as refused, missed and good.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tools/attnbench_replay_plan.h"

enum { VOCAB = 1000, MS = 1000000 };

static uint64_t names[] = { 7, 8, 9, 7, 8, 5 };
/* A request a second, and a late one; the first two have two blocks of three in common. */
static struct attnsim_request requests[] = {
	{ .arrival_ns = 0, .prompt = 1500, .output = 100, .hash_count = 3, .hash_first = 0 },
	{ .arrival_ns = 1000000000, .prompt = 1500, .output = 20, .hash_count = 3, .hash_first = 3 },
	{ .arrival_ns = 2000000000, .prompt = 1500, .output = 3 },
	{ .arrival_ns = 9000000000, .prompt = 8, .output = 1 },
};
static const struct attnsim_trace trace = { .kind = "mooncake", .requests = requests, .count = 4, .hashes = names, .hash_count = 6 };

static struct attnbench_replay_plan plan_of(double scale)
{
	return (struct attnbench_replay_plan){ .trace = &trace,
		.scale = scale,
		.load = 1,
		.seconds = 60,
		.share = { 0.3, 0.5, 0.2 },
		.slack = { 5, 20 },
		.seed = 3,
		.vocab = VOCAB,
		.ideal = { .fixed_ns = 10 * MS, .token_ns = 1 * MS } };
}

static void lengths(void **state)
{
	(void)state;
	assert_int_equal(attnbench_replay_length(160, 16), 10);
	assert_int_equal(attnbench_replay_length(175, 16), 10);
	assert_int_equal(attnbench_replay_length(1, 16), 1);
	assert_int_equal(attnbench_replay_length(1, 1), 1);
}

static void scale_that_fits(void **state)
{
	(void)state;
	/* All of it has room. */
	assert_true(attnbench_replay_scale(&trace, 5000) == 1.0);
	for (uint32_t tokens = 2; tokens < 2000; tokens += 13) {
		const struct attnbench_replay_plan plan = plan_of(attnbench_replay_scale(&trace, tokens));

		assert_true(attnbench_replay_longest(&plan) <= tokens);
		/* And is not cut by much more than that needs. */
		assert_true(plan.scale <= 1.0 || tokens < 100 || attnbench_replay_longest(&plan) >= tokens - tokens / 10);
	}
}

static void prompts_share_what_has_one_name(void **state)
{
	static const double scales[] = { 1, 3.7, 16 };
	static uint32_t a[1500], b[1500], c[1500];

	(void)state;
	for (unsigned s = 0; s < 3; s++) {
		const struct attnbench_replay_plan plan = plan_of(scales[s]);
		struct attnbench_replay_job job = { .prompt = attnbench_replay_length(1500, scales[s]), .request = 0, .named = true };
		const uint32_t alike = (uint32_t)(1024 / scales[s]);
		uint32_t differ = 0;

		attnbench_replay_prompt(&plan, &job, a);
		job.request = 1;
		attnbench_replay_prompt(&plan, &job, b);
		assert_memory_equal(a, b, alike * sizeof(*a));
		for (uint32_t i = alike + 1; i < job.prompt; i++)
			differ += a[i] != b[i];
		assert_true(differ > (job.prompt - alike) * 9 / 10);
		/* Without a name it is like no other; the same twice. */
		job.request = 2;
		attnbench_replay_prompt(&plan, &job, c);
		assert_memory_not_equal(a, c, alike * sizeof(*a));
		attnbench_replay_prompt(&plan, &job, b);
		assert_memory_equal(b, c, job.prompt * sizeof(*b));
		for (uint32_t i = 0; i < job.prompt; i++)
			assert_true(b[i] < VOCAB);
		/* What is not to be found again has other tokens in spite of its names. */
		job.request = 0;
		job.named = false;
		attnbench_replay_prompt(&plan, &job, c);
		assert_memory_not_equal(a, c, alike * sizeof(*a));
	}
}

static void arrivals_at_a_load(void **state)
{
	struct attnbench_replay_plan plan = plan_of(1);
	struct attnbench_replay_jobs jobs;
	double rps = 0.5;

	(void)state;
	/* One in three seconds, to be two in a second; all of them have time in a minute. */
	plan.load = 4;
	assert_int_equal(attnbench_replay_make(&plan, 0, &rps, &jobs), 0);
	assert_int_equal(jobs.count, 4);
	assert_true(rps == 0.5);
	assert_int_equal(jobs.jobs[3].arrival_ns, 1500 * MS);
	assert_int_equal(attnbench_replay_end_ns(&jobs), 1500 * MS);
	attnbench_replay_free(&jobs);

	/* Only so many as a second takes at that rate; they alone are scaled to it. */
	plan.seconds = 1;
	assert_int_equal(attnbench_replay_make(&plan, 0, &rps, &jobs), 0);
	assert_int_equal(jobs.count, 2);
	assert_int_equal(jobs.jobs[1].arrival_ns, 500 * MS);
	attnbench_replay_free(&jobs);

	/* A capacity in tokens: 1600 + 1520 are a second's work of 3120. */
	plan.load = 1;
	rps = 0;
	assert_int_equal(attnbench_replay_make(&plan, 3120, &rps, &jobs), 0);
	assert_int_equal(jobs.count, 2);
	assert_true(rps > 1.999 && rps < 2.001);
	attnbench_replay_free(&jobs);
}

static void deadlines(void **state)
{
	struct attnbench_replay_plan plan = plan_of(1);
	static const double slack[] = { 5, 20 };
	struct attnbench_replay_jobs jobs;

	(void)state;
	for (unsigned u = 0; u < ATTNBENCH_REPLAY_URGENCIES; u++) {
		double rps = 1;

		for (unsigned i = 0; i < ATTNBENCH_REPLAY_URGENCIES; i++)
			plan.share[i] = i == u;
		assert_int_equal(attnbench_replay_make(&plan, 0, &rps, &jobs), 0);
		for (size_t i = 0; i < jobs.count; i++) {
			const struct attnbench_replay_job *job = &jobs.jobs[i];
			const double ideal_ns = 10.0 * MS + 1.0 * MS * job->prompt;

			assert_int_equal(job->urgency, u);
			assert_int_equal(job->deadline_ns,
				u == ATTNBENCH_REPLAY_NONE ? 0 : job->arrival_ns + (int64_t)(slack[u] * ideal_ns));
		}
		attnbench_replay_free(&jobs);
	}
}

static void a_sample_is_even(void **state)
{
	const struct attnbench_replay_plan plan = plan_of(1);
	struct attnbench_replay_jobs jobs;

	(void)state;
	assert_int_equal(attnbench_replay_sample(&plan, 2, &jobs), 0);
	assert_int_equal(jobs.count, 2);
	assert_int_equal(jobs.jobs[0].output, 100);
	assert_int_equal(jobs.jobs[1].output, 3);
	assert_true(!jobs.jobs[0].named && jobs.jobs[0].arrival_ns == 0 && jobs.jobs[0].deadline_ns == 0);
	attnbench_replay_free(&jobs);
	assert_int_equal(attnbench_replay_sample(&plan, 100, &jobs), 0);
	assert_int_equal(jobs.count, 4);
	attnbench_replay_free(&jobs);
}

static void close_to(double value, double wanted)
{
	assert_true(value > wanted * 0.999999 - 1e-9 && value < wanted * 1.000001 + 1e-9);
}

static void a_line_through_points(void **state)
{
	static const double tokens[] = { 1, 10, 100, 1000 };
	double times_ns[4];
	struct attnbench_replay_line line;

	(void)state;
	for (unsigned i = 0; i < 4; i++)
		times_ns[i] = 5000 + 70 * tokens[i];
	line = attnbench_replay_fit(tokens, times_ns, 4);
	close_to(line.fixed_ns, 5000);
	close_to(line.token_ns, 70);
	/* Never below 0, wherever the points lie. */
	times_ns[0] = 1;
	line = attnbench_replay_fit(tokens, times_ns, 4);
	assert_true(line.fixed_ns >= 0 && line.token_ns >= 0 && line.fixed_ns + line.token_ns > 0);
	for (unsigned i = 0; i < 4; i++)
		times_ns[i] = 4000 - tokens[i];
	line = attnbench_replay_fit(tokens, times_ns, 4);
	assert_true(line.token_ns == 0 && line.fixed_ns > 3000 && line.fixed_ns < 4000);
	/* All at one length. */
	line = attnbench_replay_fit((double[]){ 8, 8 }, (double[]){ 80, 80 }, 2);
	close_to(line.fixed_ns, 0);
	close_to(line.token_ns, 10);
	line = attnbench_replay_fit((double[]){ 8 }, (double[]){ 80 }, 1);
	close_to(line.fixed_ns + 8 * line.token_ns, 80);
}

static void probes_and_their_line(void **state)
{
	const struct attnbench_replay_plan plan = plan_of(1);
	struct attnbench_replay_jobs probes;
	struct attnbench_replay_line line;

	(void)state;
	assert_int_equal(attnbench_replay_probes(&plan, 4, 3, 8, 1503, &probes), 0);
	assert_int_equal(probes.count, 13);
	assert_int_equal(probes.jobs[0].prompt, 1500);
	assert_int_equal(probes.jobs[1].prompt, 8);
	assert_int_equal(probes.jobs[1].output, 8);
	assert_int_equal(probes.jobs[4].prompt, 1500);
	/* No more than the session has room for. */
	assert_int_equal(probes.jobs[4].output, 3);
	for (size_t i = 0; i < probes.count; i++) {
		struct attnbench_replay_job *job = &probes.jobs[i];

		job->sent_ns = 1000;
		job->first_ns = 1000 + 40000 + 300 * (int64_t)job->prompt;
		/* The one for warming up, and one of three of each length, are slow: they change nothing. */
		if (i == 0 || i == 4 || (i > 8 && i < 12))
			job->first_ns += 1000000;
		job->last_ns = job->first_ns + 500 * 7;
		job->tokens = 8;
	}
	assert_int_equal(attnbench_replay_ideal(&probes, 4, &line), 0);
	close_to(line.fixed_ns, 40000);
	close_to(line.token_ns, 300);
	close_to(attnbench_replay_between_ns(&probes), 500);
	probes.jobs[5].first_ns = 0;
	assert_true(attnbench_replay_ideal(&probes, 4, &line) < 0);
	attnbench_replay_free(&probes);
}

static void capacity_between_the_fifths(void **state)
{
	struct attnbench_replay_job list[10] = { 0 };
	struct attnbench_replay_jobs jobs = { list, 10 };

	(void)state;
	for (unsigned i = 0; i < 10; i++)
		list[i] = (struct attnbench_replay_job){ .prompt = 90, .output = 10, .ended = true, .last_ns = (i + 1) * INT64_C(100) * MS };
	/* Slow to begin and to end: only the middle counts, a hundred tokens in a tenth of a second. */
	list[0].last_ns = 1;
	list[9].last_ns = INT64_C(60000) * MS;
	close_to(attnbench_replay_tokens_s(&jobs), 1000);
	/* What was not answered well is no work. */
	list[4].status = ATTND_NO_PAGES;
	list[5].ended = false;
	assert_true(attnbench_replay_tokens_s(&jobs) < 1000);
	/* One alone: from the start. */
	jobs.count = 1;
	list[0].last_ns = 100 * MS;
	close_to(attnbench_replay_tokens_s(&jobs), 1000);
	list[0].status = ATTND_CANCELLED;
	assert_true(attnbench_replay_tokens_s(&jobs) == 0);
}

static void what_counts_as_what(void **state)
{
	/* Arrives, deadline, ...: from top to bottom of the requests' fates. The last arrival is at 1000. */
	struct attnbench_replay_job list[] = {
		/* good */
		{ .deadline_ns = 100, .first_ns = 90, .seen_ns = 95, .last_ns = 5000, .tokens = 2, .admitted = true, .ended = true },
		/* in time there, late here */
		{ .deadline_ns = 100, .first_ns = 99, .seen_ns = 101, .last_ns = 99, .tokens = 1, .admitted = true, .ended = true },
		/* missed, and answered all the same */
		{ .deadline_ns = 100, .first_ns = 101, .seen_ns = 102, .last_ns = 101, .tokens = 1, .admitted = true, .ended = true },
		/* missed, and stopped for it */
		{ .deadline_ns = 100, .admitted = true, .ended = true, .status = ATTND_EXPIRED },
		/* refused by the daemon, and here */
		{ .deadline_ns = 100, .ended = true, .status = ATTND_REFUSED_DEADLINE },
		{ .deadline_ns = 100, .ended = true, .status = ATTND_NO_SESSIONS },
		/* no deadline: complete by the last arrival, and not */
		{ .urgency = ATTNBENCH_REPLAY_NONE, .first_ns = 1, .seen_ns = 1, .last_ns = 1000, .tokens = 9, .admitted = true, .ended = true },
		{ .urgency = ATTNBENCH_REPLAY_NONE, .first_ns = 1, .seen_ns = 1, .last_ns = 1001, .tokens = 9, .admitted = true, .ended = true },
		/* an error on the way */
		{ .urgency = ATTNBENCH_REPLAY_NONE, .first_ns = 1, .seen_ns = 1, .last_ns = 2, .tokens = 9, .admitted = true, .ended = true,
			.status = ATTND_NO_PAGES },
		/* no answer when all was over: its deadline has passed, or not */
		{ .deadline_ns = 100, .admitted = true },
		{ .arrival_ns = 1000, .deadline_ns = 9000 },
	};
	const struct attnbench_replay_jobs jobs = { list, sizeof(list) / sizeof(list[0]) };
	struct attnbench_replay_group all, group;
	uint64_t refused[ATTND_STATUS_END];

	(void)state;
	assert_int_equal(attnbench_replay_judge(&jobs, ATTNBENCH_REPLAY_URGENCIES, 8000, &all), 0);
	assert_int_equal(all.offered, 11);
	assert_int_equal(all.refused, 2);
	assert_int_equal(all.admitted, 9);
	assert_int_equal(all.missed, 3);
	assert_int_equal(all.missed_seen, 4);
	assert_int_equal(all.good, 3);
	assert_int_equal(all.failed, 1);
	assert_int_equal(all.unanswered, 2);
	assert_int_equal(all.ttft_p50_ns, 95);
	assert_int_equal(all.ttft_p99_ns, 102);
	assert_int_equal(attnbench_replay_judge(&jobs, ATTNBENCH_REPLAY_NONE, 8000, &group), 0);
	assert_int_equal(group.offered, 3);
	assert_int_equal(group.good, 1);
	assert_int_equal(group.missed, 0);
	attnbench_replay_refusals(&jobs, refused);
	assert_int_equal(refused[ATTND_REFUSED_DEADLINE], 1);
	assert_int_equal(refused[ATTND_NO_SESSIONS], 1);
	assert_int_equal(refused[ATTND_EXPIRED], 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lengths),
		cmocka_unit_test(scale_that_fits),
		cmocka_unit_test(prompts_share_what_has_one_name),
		cmocka_unit_test(arrivals_at_a_load),
		cmocka_unit_test(deadlines),
		cmocka_unit_test(a_sample_is_even),
		cmocka_unit_test(a_line_through_points),
		cmocka_unit_test(probes_and_their_line),
		cmocka_unit_test(capacity_between_the_fifths),
		cmocka_unit_test(what_counts_as_what),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
