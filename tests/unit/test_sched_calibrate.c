/*
 * Calibration before the first request: what is predicted and promised afterwards, beside what is without it; that nothing of it remains;
 * devices that fail or are too slow, and a pool without room. On a modelled device and a fake clock.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <errno.h>
#include <string.h>

#include <cmocka.h>

#include "base/base_error.h"
#include "sched/sched_calibrate.h"
#include "sched/sched_private.h"
#include "tests/unit/sched_rig.h"

#define BUDGET_NS INT64_C(300000000)

static struct rig rig;

/* Against what the cost model guesses of it; below 1 it is faster. */
static void start(double slower)
{
	rig_init(&rig);
	rig.device_options.work_ns = (int64_t)(10000 * slower);
	rig.device_options.row_ns = (int64_t)(1000 * slower);
	rig.device_options.visit_ps = (int64_t)(10 * slower);
	rig.options.kv_bytes = 16 << 20;
	rig_start(&rig);
}

static struct sched_calibrate *begin(int64_t budget_ns)
{
	struct sched_calibrate *calibrate;

	assert_int_equal(sched_calibrate_create(&calibrate, rig.sched, budget_ns), 0);
	return calibrate;
}

/* One step of it, and the clock moves to where the device is ready. */
static int poll(struct sched_calibrate *calibrate)
{
	const int64_t next_ns = sim_device_next_ns(rig.device);

	if (next_ns != INT64_MAX && next_ns > rig.clock.fake_ns)
		rig.clock.fake_ns = next_ns;
	return sched_calibrate_poll(calibrate);
}

static uint64_t works(void)
{
	const struct sim_device_stats *stats = sim_device_stats(rig.device);

	return stats->works[KERN_WORK_STEP] + stats->works[KERN_WORK_ATTEND] + stats->works[KERN_WORK_ZERO];
}

/* Returns what was learnt of model 0. */
static struct sched_calibrated calibrate(int64_t budget_ns)
{
	struct sched_calibrate *calibrate = begin(budget_ns);
	struct sched_calibrated result;

	while (poll(calibrate))
		;
	result = *sched_calibrate_result(calibrate, 0);
	sched_calibrate_destroy(calibrate);
	return result;
}

static void stop(void)
{
	rig_stop(&rig);
}

/* ---- what is known afterwards --------------------------------------------------------- */

static const struct { uint32_t rows, outs, position; } sizes[] = {
	{ 1, 1, 0 }, { 1, 1, 100 }, { 1, 1, 900 }, { 3, 3, 0 }, { 8, 1, 300 }, { 13, 13, 0 }, { 32, 1, 0 }, { 32, 1, 900 }, { 64, 48, 0 },
};
enum { SIZES = sizeof(sizes) / sizeof(sizes[0]) };

/* Actual by predicted. */
static double off_by(uint32_t model, uint32_t i)
{
	const struct sched_load load = { .rows = sizes[i].rows,
		.outs = sizes[i].outs,
		.visits = sched_visits(sizes[i].position, sizes[i].rows),
		.kv_bytes = sched_kv_bytes(&rig.programs[model].kv, sizes[i].position + sizes[i].rows) };
	const struct sim_device_options *device = &rig.device_options;

	return (double)(device->work_ns + device->row_ns * sizes[i].rows + (int64_t)load.visits * device->visit_ps / 1000) /
		(double)sched_cost_predict(&rig.sched->cost, model, &load);
}

/* Device time of so many rows of an empty session. */
static int64_t takes(uint32_t rows)
{
	return rig.device_options.work_ns + rows * rig.device_options.row_ns;
}

static void predictions_are_right(void)
{
	for (uint32_t m = 0; m < RIG_MODELS; m++) {
		struct sched_cost_units units;

		for (uint32_t i = 0; i < SIZES; i++)
			if (off_by(m, i) < 0.9 || off_by(m, i) > 1.1)
				fail_msg("model %u, size %u: %.3f times what was predicted", m, i, off_by(m, i));
		sched_cost_units(&rig.sched->cost, m, rig.options.step_rows_max, &units);
		assert_memory_equal(&rig.sched->units[m], &units, sizeof(units)); /* what admission goes by */
	}
}

static void predictions_begin_right(void **state)
{
	static const double slower[] = { 5.0, 0.2 };

	(void)state;
	for (uint32_t s = 0; s < 2; s++) {
		struct sched_calibrated result;

		start(slower[s]);
		for (uint32_t i = 0; i < SIZES; i++)
			assert_true(off_by(0, i) > 1.5 || off_by(0, i) < 1 / 1.5);
		result = calibrate(BUDGET_NS);
		assert_int_equal(result.error, 0);
		assert_true(result.works >= 20 && result.depth >= 256 && result.band >= 1.0 && result.band < 1.1);
		predictions_are_right();
		stop();
	}
}

/* One work takes a hundred times as long, whichever it is: nobody believes it. */
static void a_stall_is_not_believed(void **state)
{
	(void)state;
	for (uint64_t at = 0; at < 150; at += 3) {
		struct sched_calibrate *calibrate;

		start(5.0);
		calibrate = begin(BUDGET_NS);
		while (works() <= at && poll(calibrate))
			;
		rig.clock.fake_ns += 100 * takes(1);
		while (poll(calibrate))
			;
		assert_true(sched_calibrate_result(calibrate, 0)->band < 1.15);
		sched_calibrate_destroy(calibrate);
		predictions_are_right();
		stop();
	}
}

/* The first request of a life, and a second one beside it, on a device that is slower than guessed. What cannot be is refused, what can
 * be is kept. */
static void slow_device(bool calibrated)
{
	uint64_t session, id;
	int64_t deadline_ns;

	start(5.0);
	if (calibrated)
		calibrate(BUDGET_NS);
	rig_add(&rig, 0, 0, 1000);
	session = rig_open_now(&rig, 0, 0);
	deadline_ns = rig.clock.fake_ns + takes(32) * 7 / 10;
	id = rig_ask(&rig, 0, session, 32, ATTND_CLASS_LATENCY, deadline_ns);
	rig_run(&rig);
	if (calibrated)
		assert_int_equal(rig_take(&rig, id).status, ATTND_REFUSED_DEADLINE);
	else
		assert_true(rig_take(&rig, id).flags & ATTND_CPL_MISSED);
	if (calibrated) {
		id = rig_ask(&rig, 0, session, 32, ATTND_CLASS_LATENCY, rig.clock.fake_ns + takes(32) * 13 / 10);
		rig_run(&rig);
		rig_kept(&rig, id);
	}
	stop();
}

/* The same on a faster one: what can be made is not refused. The very first is let through even by guesses, to learn from. */
static void fast_device(bool calibrated)
{
	uint64_t sessions[2], ids[2];

	start(0.2);
	if (calibrated)
		calibrate(BUDGET_NS);
	rig_add(&rig, 0, 0, 1000);
	for (uint32_t i = 0; i < 2; i++)
		sessions[i] = rig_open_now(&rig, 0, i);
	for (uint32_t i = 0; i < 2; i++)
		ids[i] = rig_ask(&rig, 0, sessions[0], 16, ATTND_CLASS_LATENCY, rig.clock.fake_ns + takes(16) * 26 / 10);
	rig_run(&rig);
	rig_kept(&rig, ids[0]);
	if (calibrated)
		rig_kept(&rig, ids[1]);
	else
		assert_int_equal(rig_take(&rig, ids[1]).status, ATTND_REFUSED_DEADLINE);
	stop();
}

static void first_promises_are_kept(void **state)
{
	(void)state;
	slow_device(true);
	fast_device(true);
}

static void without_it_they_are_guesses(void **state)
{
	(void)state;
	slow_device(false);
	fast_device(false);
}

/* ---- what is left of it --------------------------------------------------------------- */

static void nothing_remains(void)
{
	struct sched_counters counters, none = { 0 };

	if (sched_check(rig.sched) != 0)
		fail_msg("%s", base_error_message());
	assert_true(sched_idle(rig.sched));
	sched_counters_read(rig.sched, &counters);
	assert_int_equal(counters.kv_bytes_free, rig.options.kv_bytes);
	assert_int_equal(counters.accepted + counters.steps + counters.attends + counters.busy_ns + counters.predicted_ns, 0);
	assert_int_equal(counters.sessions + counters.requests + counters.prefix_pages + counters.blocks_used, 0);
	assert_memory_equal(counters.by_op, none.by_op, sizeof(none.by_op));
	for (uint32_t t = 0; t < 4; t++)
		assert_true(rig.sched->uses[t].used_ns == 0 && rig.sched->uses[t].virtual_ns == 0 && rig.sched->uses[t].kv_bytes == 0);
}

static void it_leaves_no_trace(void **state)
{
	uint32_t tokens[200];

	(void)state;
	rig_tokens(tokens, 200, 1);
	for (enum kern_kv format = KERN_KV_F32; format < KERN_KV_END; format++) {
		uint64_t session;

		rig_init(&rig);
		rig.options.kv_default = format;
		rig.options.prefix_cache = format % 2;
		rig_start(&rig);
		assert_true(calibrate(BUDGET_NS).works > 0);
		nothing_remains();
		rig_add(&rig, 0, 0, 1000);
		session = rig_open_now(&rig, 0, 0);
		rig_step_check(&rig, 0, session, tokens, 200, 200);
		stop();
	}
}

/* From the same state the same is learnt, to the bit. */
static void it_is_the_same_every_time(void **state)
{
	static struct sched_cost costs[2];

	(void)state;
	for (uint32_t i = 0; i < 2; i++) {
		start(3.0);
		calibrate(BUDGET_NS);
		costs[i] = rig.sched->cost;
		stop();
	}
	assert_memory_equal(&costs[0], &costs[1], sizeof(costs[0]));
}

/* ---- how long it takes ------------------------------------------------------------------ */

static void it_keeps_within_its_budget(void **state)
{
	/* Milliseconds of a work, and steps of model 0 that there is time for, at most: a first one cannot be foreseen. */
	static const struct { int64_t work_ms; uint64_t least, most; } cases[] = { { 50, 3, 6 }, { 140, 1, 2 }, { 1000, 1, 1 } };

	(void)state;
	for (uint32_t i = 0; i < 3; i++) {
		struct sched_calibrate *calibrate;
		int64_t begun_ns;
		uint32_t learnt;

		rig_init(&rig);
		rig.device_options.work_ns = cases[i].work_ms * 1000000;
		rig_start(&rig);
		begun_ns = rig.clock.fake_ns;
		calibrate = begin(BUDGET_NS);
		while (poll(calibrate))
			;
		learnt = sched_calibrate_result(calibrate, 0)->works;
		assert_in_range(learnt, cases[i].least, cases[i].most);
		/* At most what comes on top of the budget is the first work, and a work of a fill. */
		for (uint32_t m = 0; m <= RIG_MODELS; m++)
			assert_true(sched_calibrate_result(calibrate, m)->took_ns <= BUDGET_NS + 2 * rig.device_options.work_ns);
		assert_true(rig.clock.fake_ns - begun_ns <= 3 * (BUDGET_NS + 2 * rig.device_options.work_ns));
		sched_calibrate_destroy(calibrate);
		nothing_remains();
		stop();
	}
}

/* It is known beforehand that not even one row has time: nothing is run. */
static void a_model_too_large_is_left_alone(void **state)
{
	(void)state;
	start(1.0);
	assert_int_equal(calibrate(5000).works, 0);
	assert_int_equal(sim_device_stats(rig.device)->works[KERN_WORK_STEP], 0);
	nothing_remains();
	stop();
}

/* ---- what goes wrong ---------------------------------------------------------------------- */

/* The device fails once, at each work in turn: the daemon would go on. */
static void a_device_that_fails(void **state)
{
	uint64_t all;
	uint32_t tokens[100];

	(void)state;
	rig_tokens(tokens, 100, 2);
	start(1.0);
	calibrate(BUDGET_NS);
	all = works();
	stop();
	assert_true(all > 50);
	for (uint64_t at = 0; at < all; at++) {
		struct sched_calibrate *calibrate;
		int errors = 0;

		start(1.0);
		calibrate = begin(BUDGET_NS);
		while (works() < at)
			poll(calibrate);
		sim_device_fail(rig.device, -1, 1);
		while (poll(calibrate))
			;
		for (uint32_t m = 0; m <= RIG_MODELS; m++)
			errors += sched_calibrate_result(calibrate, m)->error == -EIO;
		assert_int_equal(errors, sim_device_stats(rig.device)->failed);
		sched_calibrate_destroy(calibrate);
		rig_run(&rig);
		nothing_remains();
		rig_add(&rig, 0, 0, 1000);
		rig_step_check(&rig, 0, rig_open_now(&rig, 0, 0), tokens, 100, 100);
		stop();
	}
}

static void a_pool_without_room(void **state)
{
	unsigned char *taken[1024];
	uint32_t count = 0;
	struct sched_calibrate *calibrate;

	(void)state;
	rig_init(&rig);
	rig_start(&rig);
	while ((taken[count] = sched_kv_take(rig.sched->kv, 64 << 10)) != NULL)
		count++;
	calibrate = begin(BUDGET_NS);
	while (poll(calibrate))
		;
	for (uint32_t m = 0; m <= RIG_MODELS; m++) {
		assert_int_equal(sched_calibrate_result(calibrate, m)->error, -ENOMEM);
		assert_int_equal(sched_calibrate_result(calibrate, m)->works, 0);
	}
	assert_int_equal(works(), 0);
	sched_calibrate_destroy(calibrate);
	while (count > 0)
		sched_kv_release(rig.sched->kv, taken[--count]);
	stop();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(predictions_begin_right),
		cmocka_unit_test(a_stall_is_not_believed),
		cmocka_unit_test(first_promises_are_kept),
		cmocka_unit_test(without_it_they_are_guesses),
		cmocka_unit_test(it_leaves_no_trace),
		cmocka_unit_test(it_is_the_same_every_time),
		cmocka_unit_test(it_keeps_within_its_budget),
		cmocka_unit_test(a_model_too_large_is_left_alone),
		cmocka_unit_test(a_device_that_fails),
		cmocka_unit_test(a_pool_without_room),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
