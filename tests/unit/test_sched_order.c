/*
 * Who runs when: batches, classes, deadlines first, fair turns between clients and sessions, nobody
 * starving, two models, two steps in the air, deadlines refused, missed and expired.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/base_rand.h"
#include "tests/unit/sched_rig.h"

static struct rig rig;
static const uint32_t zeros[1024];

/* A STEP of `count` tokens, the first of which is `mark`, with a class and a deadline. */
static uint64_t marked(uint32_t client, uint64_t session, uint32_t count, uint32_t mark,
	uint8_t class, int64_t deadline_ns)
{
	struct attnd_request record = rig_step_record(session, count, ATTND_OUT_ARGMAX);
	uint32_t *in = rig_loan(&rig, client, sizeof(*in) * count);

	memcpy(in, zeros, sizeof(*in) * count);
	in[0] = mark;
	record.priority_class = class;
	record.deadline_ns = deadline_ns;
	return rig_send(&rig, client, record, in, rig_loan(&rig, client, 64));
}

/* Keeps the device busy while a test lines up its requests; they are formed into a step when it
 * lands. */
static void hold(void)
{
	marked(1, rig_open_now(&rig, 1, 1), 1, 0, ATTND_CLASS_LATENCY, 0);
	rig_settle(&rig);
}

static void next_step(void)
{
	rig_land(&rig);
	rig_settle(&rig);
}

static bool in_step(uint32_t mark)
{
	const struct sim_device_step *step = sim_device_last_step(rig.device);

	for (uint32_t s = 0; s < step->seq_count; s++)
		if (step->seqs[s].token == mark)
			return true;
	return false;
}

static void decodes_first_then_prefill(void **state)
{
	const struct sim_device_step *step;
	uint64_t prefill;

	(void)state;
	rig_start_plain(&rig);
	prefill = rig_open_now(&rig, 0, 0);
	hold();
	marked(0, prefill, 300, 60, ATTND_CLASS_INTERACTIVE, 0);
	for (uint32_t i = 0; i < 10; i++)
		marked(0, rig_open_now(&rig, 0, 0), 1, 10 + i, ATTND_CLASS_INTERACTIVE, 0);
	next_step();
	step = sim_device_last_step(rig.device);
	assert_int_equal(step->seq_count, 11);
	for (uint32_t i = 0; i < 10; i++)
		assert_int_equal(step->seqs[i].rows, 1);
	assert_int_equal(step->seqs[10].rows, rig.options.prefill_chunk);
	rig_stop(&rig);
}

/* However many streams there are, a waiting prefill gets its quarter of a step. */
static void decodes_leave_room(void **state)
{
	(void)state;
	rig_init(&rig);
	rig.options.out_rows_max = rig.options.step_rows_max;
	rig_start(&rig);
	rig_add(&rig, 0, 0, 10);
	rig_add(&rig, 1, 0, 10);
	hold();
	for (uint32_t i = 0; i < 80; i++)
		marked(i % 2, rig_open_now(&rig, i % 2, 0), 1, 1, ATTND_CLASS_LATENCY, 0);
	marked(0, rig_open_now(&rig, 0, 0), 300, 63, ATTND_CLASS_BULK, 0);
	next_step();
	assert_true(in_step(63));
	assert_int_equal(sim_device_stats(rig.device)->most_rows, rig.options.step_rows_max);
	rig_stop(&rig);
}

static void more_urgent_classes_first(void **state)
{
	(void)state;
	rig_init(&rig);
	rig.options.step_rows_max = 4;
	rig_start(&rig);
	rig_add(&rig, 0, 0, 10);
	rig_add(&rig, 1, 0, 10);
	hold();
	for (uint32_t i = 0; i < 12; i++)
		marked(0, rig_open_now(&rig, 0, 0), 1, i + 1, (uint8_t)(2 - i / 4), 0);
	for (uint32_t class = 0; class < 3; class ++) {
		next_step();
		for (uint32_t i = 0; i < 12; i++)
			assert_int_equal(in_step(i + 1), 2 - i / 4 == class);
	}
	rig_stop(&rig);
}

static void earliest_deadlines_first(void **state)
{
	int64_t far_ns;

	(void)state;
	rig_init(&rig);
	rig.options.step_rows_max = 2;
	rig_start(&rig);
	rig_add(&rig, 0, 0, 10);
	rig_add(&rig, 1, 0, 10);
	far_ns = rig.clock.fake_ns + 100000000;
	hold();
	marked(0, rig_open_now(&rig, 0, 0), 1, 9, ATTND_CLASS_BULK, 0);
	marked(0, rig_open_now(&rig, 0, 0), 1, 8, ATTND_CLASS_BULK, 0);
	for (uint32_t i = 0; i < 6; i++)
		marked(0, rig_open_now(&rig, 0, 0), 1, 1 + (i * 5 + 2) % 6, ATTND_CLASS_BULK,
			far_ns + (i * 5 + 2) % 6);
	for (uint32_t turn = 0; turn < 4; turn++) {
		next_step();
		assert_true(turn < 3 ? in_step(turn * 2 + 1) && in_step(turn * 2 + 2)
				     : in_step(8) && in_step(9));
	}
	rig_stop(&rig);
}

/* One client with 30 sessions, another with one: half of the steps' rows each, and the 30 in turn.
 */
static void clients_share_fairly(void **state)
{
	struct attnd_generate_params params = { .max_tokens = 200 };
	struct attnd_completion completion;
	uint32_t counts[31] = { 0 }, least = UINT32_MAX, most = 0;
	uint64_t ids[31];

	(void)state;
	rig_init(&rig);
	rig.options.step_rows_max = 2;
	rig_start(&rig);
	rig_add(&rig, 0, 0, 100000);
	rig_add(&rig, 1, 0, 100000);
	for (uint32_t i = 0; i < 31; i++)
		ids[i] = rig_generate(&rig, i == 30, rig_open_now(&rig, i == 30, 0), zeros, 1,
			params, NULL, (struct attnd_request){ 0 });
	for (uint32_t i = 0; i < 150; i++)
		next_step();
	for (uint32_t i = 0; i < 31; i++) {
		while (rig_has(&rig, ids[i])) {
			completion = rig_take(&rig, ids[i]);
			assert_int_equal(completion.status, ATTND_OK);
			counts[i]++;
		}
		if (i < 30) {
			least = counts[i] < least ? counts[i] : least;
			most = counts[i] > most ? counts[i] : most;
		}
	}
	assert_true(counts[30] >= 140); /* one of two rows of every step */
	assert_true(least >= 4 && most - least <= 1);
	rig_stop(&rig);
}

/* Who was away long is not given what he missed: both go on side by side. */
static void absence_is_not_saved_up(void **state)
{
	struct attnd_generate_params params = { .max_tokens = 500 };
	uint32_t tokens[2] = { 0 };

	(void)state;
	rig_init(&rig);
	rig.options.step_rows_max = 4;
	rig_start(&rig);
	rig_add(&rig, 0, 0, 100000);
	rig_add(&rig, 1, 0, 100000);
	for (uint32_t i = 0; i < 4; i++)
		rig_generate(&rig, 0, rig_open_now(&rig, 0, 0), zeros, 1, params, NULL,
			(struct attnd_request){ 0 });
	for (uint32_t i = 0; i < 100; i++)
		next_step();
	for (uint32_t i = 0; i < 4; i++)
		rig_generate(&rig, 1, rig_open_now(&rig, 1, 0), zeros, 1, params, NULL,
			(struct attnd_request){ 0 });
	rig.reply_count = 0;
	for (uint32_t i = 0; i < 20; i++)
		next_step();
	for (uint32_t i = 0; i < rig.reply_count; i++)
		tokens[rig.replies[i].client]++;
	assert_in_range(tokens[0], 35, 45);
	assert_in_range(tokens[1], 35, 45);
	rig_stop(&rig);
}

static void weights_count(void **state)
{
	struct attnd_generate_params params = { .max_tokens = 1000 };
	uint32_t tokens[2] = { 0 };

	(void)state;
	rig_init(&rig);
	rig.options.step_rows_max = 4;
	rig.tenants[1].weight = 3;
	rig_start(&rig);
	rig_add(&rig, 0, 0, 100000);
	rig_add(&rig, 1, 1, 100000);
	for (uint32_t i = 0; i < 20; i++)
		rig_generate(&rig, i % 2, rig_open_now(&rig, i % 2, 0), zeros, 1, params, NULL,
			(struct attnd_request){ 0 });
	for (uint32_t i = 0; i < 200; i++)
		next_step();
	for (uint32_t i = 0; i < rig.reply_count; i++)
		tokens[rig.replies[i].client]++;
	assert_true(tokens[1] > tokens[0] * 5 / 2 && tokens[1] < tokens[0] * 7 / 2);
	rig_stop(&rig);
}

/* A flood of the most urgent class with deadlines delays a bulk request of another client, but for
 * no longer than SCHED_AGED_NS. */
static void nobody_starves(void **state)
{
	uint64_t sessions[8], ids[8], bulk;
	int64_t began_ns;

	(void)state;
	rig_init(&rig);
	rig.options.step_rows_max = 4;
	rig.device_options.work_ns = 1000000;
	rig_start(&rig);
	rig_add(&rig, 0, 0, 10);
	rig_add(&rig, 1, 0, 10);
	for (uint32_t i = 0; i < 8; i++) {
		sessions[i] = rig_open_now(&rig, 0, 0);
		ids[i] = marked(
			0, sessions[i], 1, 1, ATTND_CLASS_LATENCY, rig.clock.fake_ns + 10000000000);
	}
	rig_settle(&rig);
	began_ns = rig.clock.fake_ns;
	bulk = marked(1, rig_open_now(&rig, 1, 1), 1, 2, ATTND_CLASS_BULK, 0);
	while (!rig_has(&rig, bulk)) {
		assert_true(rig.clock.fake_ns - began_ns < 300000000);
		next_step();
		for (uint32_t i = 0; i < 8; i++) {
			if (!rig_has(&rig, ids[i]))
				continue;
			assert_int_equal(rig_take(&rig, ids[i]).status, ATTND_OK);
			rig_rewind(&rig, 0);
			ids[i] = marked(0, sessions[i], 1, 1, ATTND_CLASS_LATENCY,
				rig.clock.fake_ns + 10000000000);
		}
	}
	assert_int_equal(rig_take(&rig, bulk).status, ATTND_OK);
	assert_true(rig.clock.fake_ns - began_ns > 200000000);
	rig_stop(&rig);
}

static void two_steps_in_the_air(void **state)
{
	struct attnd_generate_params params = { .max_tokens = 50 };
	uint64_t ids[20];

	(void)state;
	rig_init(&rig);
	rig.device_options.host_memory = false;
	rig_start(&rig);
	rig_add(&rig, 0, 0, 10000);
	for (uint32_t i = 0; i < 20; i++)
		ids[i] = rig_generate(&rig, 0, rig_open_now(&rig, 0, i % 2), zeros, 1 + i, params,
			NULL, (struct attnd_request){ 0 });
	rig_run(&rig);
	assert_int_equal(sim_device_stats(rig.device)->most_flying, 2);
	for (uint32_t i = 0; i < 20; i++) {
		uint32_t history[100] = { 0 }, total = 1 + i;

		for (uint32_t t = 0; t < 50; t++) {
			history[total] = (uint32_t)rig_take(&rig, ids[i]).value;
			assert_int_equal(history[total],
				sim_argmax(sim_row_hash(history, total), RIG_VOCAB));
			total++;
		}
		assert_int_equal(rig_take(&rig, ids[i]).value, ATTND_STOP_LENGTH);
	}
	rig_stop(&rig);
}

/* A backend that takes one work at a time answers -EAGAIN; nothing is lost. */
static void a_full_backend(void **state)
{
	(void)state;
	rig_init(&rig);
	rig.device_options.host_memory = false;
	rig.device_options.depth = 1;
	rig_start(&rig);
	rig_add(&rig, 0, 0, 10000);
	for (uint32_t i = 0; i < 20; i++)
		marked(0, rig_open_now(&rig, 0, i % 2), 50, 1, ATTND_CLASS_BULK, 0);
	rig_run(&rig);
	assert_int_equal(rig.reply_count, 20);
	rig_stop(&rig);
}

/* ---- deadlines ------------------------------------------------------------------------ */

/* On a device whose works take up to twice as long, what is admitted still makes its deadline, and not because all is refused. */
static void promises_hold_on_a_noisy_device(void **state)
{
	uint64_t session, random = 1;
	uint32_t admitted = 0, missed = 0, sure = 0;

	(void)state;
	rig_init(&rig);
	rig.device_options.jitter_permille = 1000;
	rig_start(&rig);
	rig_add(&rig, 0, 0, 10000);
	session = rig_open_now(&rig, 0, 0);
	for (uint32_t i = 0; i < 2000; i++) {
		const int64_t slack_ns = 11000 + (int64_t)base_rand_below(&random, 22000);
		struct attnd_completion completion;
		uint64_t id;

		rig_rewind(&rig, 0);
		if (i % 100 == 99) {
			rig_send(&rig, 0, rig_session_record(ATTND_OP_CLOSE, session, 0), NULL, NULL);
			rig_run(&rig);
			session = rig_open_now(&rig, 0, 0);
		}
		/* A step of one row takes 11 to 22 us. */
		id = marked(0, session, 1, 5, ATTND_CLASS_LATENCY, rig.clock.fake_ns + slack_ns);
		rig_run(&rig);
		completion = rig_take(&rig, id);
		if (i < 200) /* the cost model learns */
			continue;
		sure += slack_ns > 25000;
		admitted += completion.status != ATTND_REFUSED_DEADLINE;
		missed += completion.status == ATTND_EXPIRED || (completion.flags & ATTND_CPL_MISSED);
	}
	assert_true(admitted > sure * 9 / 10 && missed * 50 <= admitted);
	rig_stop(&rig);
}

/* A request of a higher class that would take what another one was promised is refused; with time for both it is not. */
static void promises_are_not_broken(void **state)
{
	(void)state;
	for (int64_t patient = 0; patient < 2; patient++) {
		struct attnd_completion completion;
		uint64_t sessions[3], first, second;
		int64_t alone_ns;

		rig_start_plain(&rig);
		for (uint32_t i = 0; i < 3; i++)
			sessions[i] = rig_open(&rig, 0, 0);
		alone_ns = rig.clock.fake_ns;
		marked(0, sessions[2], 500, 1, ATTND_CLASS_INTERACTIVE, 0);
		rig_run(&rig);
		alone_ns = rig.clock.fake_ns - alone_ns;
		marked(0, sessions[2], 500, 1, ATTND_CLASS_INTERACTIVE, 0); /* the cost model learns */
		rig_run(&rig);
		first = marked(0, sessions[0], 500, 1, ATTND_CLASS_INTERACTIVE,
			rig.clock.fake_ns + alone_ns * (patient ? 60 : 15) / 10);
		rig_settle(&rig);
		second = marked(0, sessions[1], 500, 1, ATTND_CLASS_LATENCY, rig.clock.fake_ns + alone_ns * 6);
		rig_settle(&rig);
		assert_false(rig_has(&rig, first));
		assert_int_equal(rig_has(&rig, second), !patient);
		rig_run(&rig);
		completion = rig_take(&rig, second);
		assert_int_equal(completion.status, patient ? ATTND_OK : ATTND_REFUSED_DEADLINE);
		completion = rig_take(&rig, first);
		assert_int_equal(completion.status, ATTND_OK);
		assert_int_equal(completion.flags, ATTND_CPL_FINAL);
		rig_stop(&rig);
	}
}

static void refused_and_unchanged(void **state)
{
	uint32_t history[64];
	struct attnd_completion completion;
	uint64_t session, id;

	(void)state;
	rig_start_plain(&rig);
	rig_tokens(history, 64, 1);
	session = rig_open(&rig, 0, 0);
	for (uint32_t i = 1; i <= 10; i++) /* the cost model learns */
		rig_step_check(&rig, 0, session, history, i, 1);
	id = marked(0, session, 1, 5, ATTND_CLASS_LATENCY, rig.clock.fake_ns); /* now is too late */
	rig_run(&rig);
	completion = rig_take(&rig, id);
	assert_int_equal(completion.status, ATTND_REFUSED_DEADLINE);
	assert_true((int64_t)completion.value > rig.clock.fake_ns && completion.position == 10);
	assert_true(completion.admitted_ns == 0 && completion.started_ns == 0);
	id = marked(0, session, 1, 5, ATTND_CLASS_LATENCY, -1);
	rig_run(&rig);
	assert_int_equal(rig_take(&rig, id).status, ATTND_REFUSED_DEADLINE);
	/* A step of one row takes 11 us: half of that cannot be, twice that can. */
	id = marked(0, session, 1, 5, ATTND_CLASS_LATENCY, rig.clock.fake_ns + 5500);
	rig_run(&rig);
	assert_int_equal(rig_take(&rig, id).status, ATTND_REFUSED_DEADLINE);
	id = marked(0, session, 1, history[10], ATTND_CLASS_LATENCY, rig.clock.fake_ns + 22000);
	rig_run(&rig);
	completion = rig_take(&rig, id);
	assert_int_equal(completion.status, ATTND_OK);
	assert_int_equal(completion.flags, ATTND_CPL_FINAL);
	assert_int_equal(completion.value, sim_argmax(sim_row_hash(history, 11), RIG_VOCAB));
	/* Behind a long prefill of its own session it cannot. */
	marked(0, session, 500, 0, ATTND_CLASS_LATENCY, 0);
	rig_settle(&rig);
	id = marked(0, session, 1, 5, ATTND_CLASS_LATENCY, rig.clock.fake_ns + 22000);
	rig_settle(&rig);
	assert_int_equal(rig_take(&rig, id).status, ATTND_REFUSED_DEADLINE);
	rig_stop(&rig);
}

/* By arrival, or by deadline: everything is admitted, and nothing that is late is stopped. */
static void policies_to_compare_with(void **state)
{
	const enum sched_policy policies[] = { SCHED_POLICY_ARRIVAL, SCHED_POLICY_EARLIEST };

	(void)state;
	for (uint32_t p = 0; p < 2; p++) {
		uint64_t early, late;

		rig_init(&rig);
		rig.options.policy = policies[p];
		rig_start(&rig);
		rig_add(&rig, 0, 0, 1000);
		rig_add(&rig, 1, 0, 1000);
		hold();
		late = marked(0, rig_open_now(&rig, 0, 0), 64, 1, ATTND_CLASS_BULK, rig.clock.fake_ns + 1000);
		rig.clock.fake_ns += 10;
		rig_settle(&rig);
		early = marked(0, rig_open_now(&rig, 0, 0), 64, 2, ATTND_CLASS_BULK, rig.clock.fake_ns + 500);
		rig_settle(&rig);
		rig_run(&rig);
		for (uint32_t i = 0; i < rig.reply_count; i++) {
			const uint64_t id = rig.replies[i].completion.request_id;

			/* Who is first to end was first to go. */
			if (id != early && id != late)
				continue;
			assert_int_equal(id, policies[p] == SCHED_POLICY_ARRIVAL ? late : early);
			break;
		}
		assert_int_equal(rig_take(&rig, early).status, ATTND_OK);
		assert_int_equal(rig_take(&rig, late).status, ATTND_OK);
		rig_stop(&rig);
	}
}

static void late_or_expired(void **state)
{
	struct attnd_completion completion;
	uint64_t first, second, id;

	(void)state;
	rig_start_plain(&rig);
	first = rig_open(&rig, 0, 0);
	second = rig_open(&rig, 0, 1);
	/* The last step lands after the deadline: the device is slower than anyone thought. */
	id = marked(0, first, 1, 1, ATTND_CLASS_BULK, rig.clock.fake_ns + 1000000);
	rig_settle(&rig);
	rig.clock.fake_ns += 2000000;
	rig_run(&rig);
	completion = rig_take(&rig, id);
	assert_int_equal(completion.status, ATTND_OK);
	assert_int_equal(completion.flags, ATTND_CPL_FINAL | ATTND_CPL_MISSED);
	assert_int_equal(completion.position, 1);
	/* Between two chunks. */
	id = marked(0, first, 100, 1, ATTND_CLASS_BULK, rig.clock.fake_ns + 1000000000);
	rig_settle(&rig);
	rig.clock.fake_ns += 2000000000;
	rig_run(&rig);
	completion = rig_take(&rig, id);
	assert_int_equal(completion.status, ATTND_EXPIRED);
	assert_int_equal(completion.position, 33);
	/* In the queue, behind other work, while the device does not come back: no message is
	 * needed to say so. */
	marked(0, second, 10, 1, ATTND_CLASS_LATENCY, 0);
	rig_settle(&rig);
	id = marked(0, first, 1, 1, ATTND_CLASS_BULK, rig.clock.fake_ns + 50000000);
	rig_settle(&rig);
	rig.clock.fake_ns += 50000000 + 60000;
	rig_poll(&rig);
	completion = rig_take(&rig, id);
	assert_int_equal(completion.status, ATTND_EXPIRED);
	assert_int_equal(completion.position, 33);
	assert_int_equal(completion.started_ns, 0);
	rig_stop(&rig);
}

static void the_next_event_is_the_deadline(void **state)
{
	struct attnd_generate_params params = { .max_tokens = 50 };
	struct attnd_completion completion;
	int64_t deadline_ns;
	uint64_t id;

	(void)state;
	rig_init(&rig);
	rig_start(&rig);
	rig_add(&rig, 0, 0, 0);
	assert_int_equal(sched_next_event_ns(rig.sched), INT64_MAX);
	deadline_ns = rig.clock.fake_ns + 500000000;
	id = rig_generate(&rig, 0, rig_open(&rig, 0, 0), zeros, 1, params, NULL,
		(struct attnd_request){ .deadline_ns = deadline_ns });
	rig_settle(&rig); /* parked: no credit */
	assert_int_equal(sched_next_event_ns(rig.sched), deadline_ns);
	rig_run(&rig);
	completion = rig_take(&rig, id);
	assert_int_equal(completion.status, ATTND_EXPIRED);
	assert_int_equal(completion.done_ns, deadline_ns);
	rig_stop(&rig);
}

static void deadlines_between_tokens(void **state)
{
	struct attnd_generate_params params = { .max_tokens = 50, .between_ns = 100000 };
	struct attnd_completion completion;
	uint64_t id;

	(void)state;
	rig_start_plain(&rig);
	id = rig_generate(
		&rig, 0, rig_open(&rig, 0, 0), zeros, 5, params, NULL, (struct attnd_request){ 0 });
	for (uint32_t i = 0; i < 10; i++)
		rig_settle(&rig), rig_land(&rig);
	for (uint32_t i = 0; i < 10; i++)
		assert_int_equal(rig_take(&rig, id).flags, 0);
	/* One token comes late: it says so, and the stream goes on. */
	rig_settle(&rig);
	rig.clock.fake_ns += 150000;
	rig_poll(&rig);
	completion = rig_take(&rig, id);
	assert_int_equal(completion.status, ATTND_OK);
	assert_int_equal(completion.flags, ATTND_CPL_MISSED);
	/* One could not even begin. */
	rig.clock.fake_ns += 150000;
	rig_poll(&rig);
	completion = rig_take(&rig, id);
	assert_int_equal(completion.status, ATTND_EXPIRED);
	assert_int_equal(completion.sequence, 11);
	assert_int_equal(completion.position, 5 + 10);
	rig_stop(&rig);
}

/* A chunk beside a decode with a deadline is cut so that the decode makes it. */
static void prefill_makes_room_for_a_deadline(void **state)
{
	uint32_t history[64];
	uint64_t decode, prefill, id;

	(void)state;
	rig_init(&rig);
	rig.device_options.row_ns = 100000;
	rig_start(&rig);
	rig_add(&rig, 0, 0, 10);
	rig_add(&rig, 1, 0, 10);
	rig_tokens(history, 64, 1);
	decode = rig_open(&rig, 0, 0);
	prefill = rig_open(&rig, 0, 0);
	for (uint32_t i = 1; i <= 30; i++)
		rig_step_check(&rig, 0, decode, history, i, 1);
	rig_step_check(&rig, 0, prefill, zeros, 256, 256);
	hold();
	marked(0, prefill, 256, 1, ATTND_CLASS_LATENCY, 0);
	id = marked(0, decode, 1, 2, ATTND_CLASS_LATENCY, rig.clock.fake_ns + 2600000);
	next_step();
	assert_true(in_step(2));
	rig_run(&rig);
	assert_int_equal(rig_take(&rig, id).flags, ATTND_CPL_FINAL);
	rig_stop(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(decodes_first_then_prefill),
		cmocka_unit_test(decodes_leave_room),
		cmocka_unit_test(more_urgent_classes_first),
		cmocka_unit_test(earliest_deadlines_first),
		cmocka_unit_test(clients_share_fairly),
		cmocka_unit_test(absence_is_not_saved_up),
		cmocka_unit_test(weights_count),
		cmocka_unit_test(nobody_starves),
		cmocka_unit_test(two_steps_in_the_air),
		cmocka_unit_test(a_full_backend),
		cmocka_unit_test(refused_and_unchanged),
		cmocka_unit_test(promises_hold_on_a_noisy_device),
		cmocka_unit_test(promises_are_not_broken),
		cmocka_unit_test(policies_to_compare_with),
		cmocka_unit_test(late_or_expired),
		cmocka_unit_test(the_next_event_is_the_deadline),
		cmocka_unit_test(deadlines_between_tokens),
		cmocka_unit_test(prefill_makes_room_for_a_deadline),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
