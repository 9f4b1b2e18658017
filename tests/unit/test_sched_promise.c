/*
 * Whether what was admitted with a deadline makes it, and whether what could be made is admitted: beside newcomers with and without
 * deadlines, backlogs, other models, other tenants, quotas, chunks smaller than steps, stalls; and that nobody else is held up
 * for it. On a modelled device and a fake clock.
 * Time limit: 400 s (with sanitizers).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/base_rand.h"
#include "sched/sched_private.h"
#include "tests/unit/sched_rig.h"

enum { BACKLOG = 40 };

static struct rig rig;
static const uint32_t zeros[1024];

static void init(void)
{
	rig_init(&rig);
	rig.options.kv_bytes = 64 << 20;
}

/* ---- who comes later ------------------------------------------------------------------ */

enum newcomer { SAME_MODEL, OTHER_MODEL, NO_DEADLINE, DEADLINE_FOR_EVER };

/* Whatever comes after a promise, of a more urgent class: with a deadline it is refused, without one it waits. */
static void promises_hold_beside(enum newcomer newcomer)
{
	uint64_t sessions[RIG_MODELS][2], first, second;
	const uint32_t other = newcomer == OTHER_MODEL;
	int64_t alone_ns, deadline_ns;

	rig_start_plain(&rig);
	for (uint32_t m = 0; m < RIG_MODELS; m++)
		for (uint32_t i = 0; i < 2; i++)
			sessions[m][i] = rig_open(&rig, 0, m);
	rig_learn(&rig, 0, sessions[1][0], 500, 4);
	alone_ns = rig_learn(&rig, 0, sessions[0][0], 500, 4);
	first = rig_ask(&rig, 0, sessions[0][0], 500, ATTND_CLASS_INTERACTIVE, rig.clock.fake_ns + alone_ns * 15 / 10);
	rig_settle(&rig);
	deadline_ns = newcomer == NO_DEADLINE ? 0 : newcomer == DEADLINE_FOR_EVER ? INT64_MAX : rig.clock.fake_ns + alone_ns * 6;
	second = rig_ask(&rig, 0, sessions[other][1], 500, ATTND_CLASS_LATENCY, deadline_ns);
	rig_settle(&rig);
	assert_false(rig_has(&rig, first));
	assert_int_equal(rig_has(&rig, second), newcomer < NO_DEADLINE);
	rig_run(&rig);
	rig_kept(&rig, first);
	if (newcomer < NO_DEADLINE)
		assert_int_equal(rig_take(&rig, second).status, ATTND_REFUSED_DEADLINE);
	else
		assert_int_equal(rig_take(&rig, second).status, ATTND_OK);
	rig_stop(&rig);
}

static void beside_any_newcomer(void **state)
{
	(void)state;
	for (enum newcomer n = SAME_MODEL; n <= DEADLINE_FOR_EVER; n++)
		promises_hold_beside(n);
}

/* Nor does it matter that another tenant has a row waiting, or how much that one weighs; and a newcomer that breaks nothing is not refused
 * for that. */
static void beside_a_neighbours_row(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 6; i++) {
		const bool timed = i < 3, row = i % 3 > 0;
		uint64_t sessions[4], first, second, small;
		int64_t alone_ns;

		init();
		rig.tenants[1].weight = i % 3 == 2 ? 10 : 1;
		rig_start(&rig);
		for (uint32_t c = 0; c < 2; c++)
			rig_add(&rig, c, c, 1000);
		for (uint32_t s = 0; s < 4; s++)
			sessions[s] = rig_open_now(&rig, s == 2, 0);
		alone_ns = rig_learn(&rig, 0, sessions[0], 500, 20);
		first = rig_ask(&rig, 0, sessions[0], 500, ATTND_CLASS_INTERACTIVE, rig.clock.fake_ns + alone_ns * 15 / 10);
		rig_settle(&rig);
		if (row)
			rig_ask(&rig, 1, sessions[2], 1, ATTND_CLASS_BULK, 0);
		rig_settle(&rig);
		second = rig_ask(&rig, 0, sessions[1], 500, ATTND_CLASS_LATENCY, timed ? rig.clock.fake_ns + alone_ns * 12 : 0);
		small = rig_ask(&rig, 0, sessions[3], 10, ATTND_CLASS_LATENCY, rig.clock.fake_ns + alone_ns * 2);
		rig_run(&rig);
		rig_kept(&rig, first);
		rig_kept(&rig, small);
		assert_int_equal(rig_take(&rig, second).status, timed ? ATTND_REFUSED_DEADLINE : ATTND_OK);
		rig.reply_count = 0;
		rig_stop(&rig);
	}
}

/* However much waits behind a promise that has no deadline, the promise is looked after. */
static void behind_a_backlog(void **state)
{
	(void)state;
	for (uint32_t count = 0; count <= BACKLOG; count += 10) {
		uint64_t sessions[3], backlog[BACKLOG], first, second;
		int64_t alone_ns;

		init();
		rig.options.prefill_chunk = 64;
		rig_start(&rig);
		rig_add(&rig, 0, 0, 1000);
		for (uint32_t i = 0; i < 3; i++)
			sessions[i] = rig_open(&rig, 0, 0);
		for (uint32_t i = 0; i < count; i++)
			backlog[i] = rig_open_now(&rig, 0, 0);
		alone_ns = rig_learn(&rig, 0, sessions[2], 500, 6);
		first = rig_ask(&rig, 0, sessions[0], 500, ATTND_CLASS_INTERACTIVE, rig.clock.fake_ns + alone_ns * 15 / 10);
		rig_settle(&rig);
		for (uint32_t i = 0; i < count; i++)
			rig_ask(&rig, 0, backlog[i], 500, ATTND_CLASS_BULK, 0);
		rig_settle(&rig);
		second = rig_ask(&rig, 0, sessions[1], 500, ATTND_CLASS_LATENCY, rig.clock.fake_ns + alone_ns * 60);
		rig_settle(&rig);
		assert_true(rig_has(&rig, second));
		rig_run(&rig);
		rig_kept(&rig, first);
		rig.reply_count = 0;
		rig_stop(&rig);
	}
}

/* ---- before it in its session, and without credit --------------------------------------- */

/* What has to wait until a stream has ended is not promised to be done before, whether the stream has begun or not. */
static void behind_a_stream(void **state)
{
	const struct attnd_generate_params params = { .max_tokens = 500 };

	(void)state;
	for (uint32_t i = 0; i < 4; i++) {
		const bool begun = i % 2, long_enough = i / 2;
		uint64_t session, id;
		int64_t alone_ns;

		rig_start_plain(&rig);
		session = rig_open_now(&rig, 0, 0);
		rig_learn(&rig, 0, session, 1, 20);
		alone_ns = rig_learn(&rig, 0, session, 30, 20);
		rig_generate(&rig, 0, session, zeros, 1, params, NULL, (struct attnd_request){ 0 });
		if (begun)
			rig_settle(&rig);
		id = rig_ask(&rig, 0, session, 30, ATTND_CLASS_LATENCY, rig.clock.fake_ns + (long_enough ? 500 * alone_ns : 4 * alone_ns));
		rig_run(&rig);
		if (long_enough)
			rig_kept(&rig, id);
		else
			assert_int_equal(rig_take(&rig, id).status, ATTND_REFUSED_DEADLINE);
		rig.reply_count = 0;
		rig_stop(&rig);
	}
}

/* Streams that wait for credit keep the places that they were promised, however late it comes; then they make their deadlines. */
static void without_credit(void **state)
{
	enum { STREAMS = 20 };
	const struct attnd_generate_params params = { .max_tokens = 1 };
	struct attnd_request record = { .priority_class = ATTND_CLASS_INTERACTIVE };
	uint64_t sessions[STREAMS], session, ids[STREAMS], behind, id;
	int64_t alone_ns;

	(void)state;
	init();
	rig_start(&rig);
	rig_add(&rig, 0, 0, 0);
	rig_add(&rig, 1, 0, 1000);
	for (uint32_t i = 0; i < STREAMS; i++)
		sessions[i] = rig_open_now(&rig, 0, 0);
	session = rig_open_now(&rig, 1, 0);
	alone_ns = rig_learn(&rig, 1, session, 500, 20);
	record.deadline_ns = rig.clock.fake_ns + alone_ns * 2;
	for (uint32_t i = 0; i < STREAMS; i++)
		ids[i] = rig_generate(&rig, 0, sessions[i], zeros, 32, params, NULL, record);
	behind = rig_ask(&rig, 0, sessions[0], 10, ATTND_CLASS_INTERACTIVE, rig.clock.fake_ns + alone_ns * 10);
	rig_settle(&rig);
	while (sim_device_next_ns(rig.device) != INT64_MAX) {
		rig_land(&rig);
		rig_settle(&rig);
	}
	id = rig_ask(&rig, 1, session, 500, ATTND_CLASS_LATENCY, rig.clock.fake_ns + alone_ns * 20);
	rig_settle(&rig);
	assert_int_equal(rig_take(&rig, id).status, ATTND_REFUSED_DEADLINE);
	assert_int_equal(rig.sched->uses[0].waiting.rows, 0);
	rig_message(&rig, SCHED_CREDIT, 0, 0, 100);
	rig_run(&rig);
	for (uint32_t i = 0; i < STREAMS; i++) {
		assert_false(rig_take(&rig, ids[i]).flags & ATTND_CPL_MISSED);
		rig_kept(&rig, ids[i]);
	}
	rig_kept(&rig, behind);
	rig_stop(&rig);
}

/* ---- other tenants -------------------------------------------------------------------- */

/* A row that waits is a row, not a share of the device for good. */
static void a_row_is_a_row(void **state)
{
	(void)state;
	for (uint32_t neighbours = 1; neighbours <= 3; neighbours++) {
		uint64_t session, id, held;
		int64_t alone_ns;

		init();
		rig.options.prefill_chunk = 64;
		rig_start(&rig);
		for (uint32_t c = 0; c < 4; c++)
			rig_add(&rig, c, c, 1000);
		session = rig_open_now(&rig, 0, 0);
		held = rig_open_now(&rig, 0, 0);
		alone_ns = rig_learn(&rig, 0, session, 640, 20);
		rig_ask(&rig, 0, held, 1, ATTND_CLASS_LATENCY, 0);
		rig_settle(&rig);
		for (uint32_t i = 1; i <= neighbours; i++)
			rig_ask(&rig, i, rig_open_now(&rig, i, 0), 1, ATTND_CLASS_BULK, 0);
		rig_settle(&rig);
		id = rig_ask(&rig, 0, session, 640, ATTND_CLASS_LATENCY, rig.clock.fake_ns + alone_ns * 16 / 10);
		rig_run(&rig);
		rig_kept(&rig, id);
		rig.reply_count = 0;
		rig_stop(&rig);
	}
}

/* Where a request gets a part of each step only, the steps are kept so short that it makes its deadline, or it is refused; with
 * time enough it is admitted. The rest of the steps is wanted by its own tenant or by another. */
static void chunks_smaller_than_steps(void **state)
{
	(void)state;
	for (uint32_t other = 0; other < 2; other++) {
		for (int64_t tenths = 12; tenths <= 44; tenths += 4) {
			uint64_t session, id, backlog[20];
			struct attnd_completion completion;
			int64_t alone_ns;

			init();
			rig.options.prefill_chunk = 16;
			rig_start(&rig);
			rig_add(&rig, 0, 0, 1000);
			rig_add(&rig, 1, other, 1000);
			session = rig_open(&rig, 0, 0);
			for (uint32_t i = 0; i < 20; i++)
				backlog[i] = rig_open_now(&rig, 1, 0);
			rig_learn(&rig, 1, backlog[0], 500, 3);
			alone_ns = rig_learn(&rig, 0, session, 160, 6);
			for (uint32_t i = 0; i < 20; i++)
				rig_ask(&rig, 1, backlog[i], 500, ATTND_CLASS_BULK, 0);
			rig_settle(&rig);
			rig_land(&rig);
			rig_settle(&rig);
			id = rig_ask(&rig, 0, session, 160, ATTND_CLASS_LATENCY, rig.clock.fake_ns + alone_ns * tenths / 10);
			rig_run(&rig);
			completion = rig_take(&rig, id);
			if (completion.status != ATTND_REFUSED_DEADLINE || tenths >= 36) {
				assert_int_equal(completion.status, ATTND_OK);
				assert_int_equal(completion.flags, ATTND_CPL_FINAL);
			}
			rig.reply_count = 0;
			rig_stop(&rig);
		}
	}
}

/* A pause of the machine is not held against the tenant whose work was in the air. */
static void a_stall_is_nobodys(void **state)
{
	struct attnd_generate_params params = { .max_tokens = 1000 };
	struct sched_tenant_view before[4], after[4];
	int64_t begun_ns;

	(void)state;
	init();
	rig.tenants[1].weight = 10;
	rig.options.step_rows_max = 1;
	rig.options.client_requests_max = 64;
	rig.device_options.no_results = true;
	rig_start(&rig);
	for (uint32_t c = 0; c < 2; c++) {
		rig_add(&rig, c, c, 1000000);
		for (uint32_t i = 0; i < 60; i++)
			rig_generate(&rig, c, rig_open_now(&rig, c, 0), zeros, 1, params, NULL, (struct attnd_request){ 0 });
	}
	for (uint32_t i = 0; i < 100; i++) {
		rig_land(&rig);
		rig_settle(&rig);
		rig.reply_count = 0;
	}
	/* Until it was tenant 0's. */
	do {
		sched_tenants_view(rig.sched, before, 4);
		rig.clock.fake_ns += 5000000;
		rig_land(&rig);
		rig_settle(&rig);
		rig.reply_count = 0;
		sched_tenants_view(rig.sched, after, 4);
	} while (after[0].used_ns == before[0].used_ns);
	begun_ns = rig.clock.fake_ns;
	do {
		before[0] = after[0];
		rig_land(&rig);
		rig_settle(&rig);
		rig.reply_count = 0;
		sched_tenants_view(rig.sched, after, 4);
	} while (after[0].used_ns == before[0].used_ns);
	assert_true(rig.clock.fake_ns - begun_ns < 5000000);
	rig_stop(&rig);
}

/* ---- what was measured ---------------------------------------------------------------- */

/* One work that took far too long does not have everybody refused. */
static void one_accident(void **state)
{
	uint32_t refused = 0;
	uint64_t session;
	int64_t alone_ns;

	(void)state;
	rig_start_plain(&rig);
	session = rig_open(&rig, 0, 0);
	alone_ns = rig_learn(&rig, 0, session, 30, 200);
	rig_ask(&rig, 0, session, 30, ATTND_CLASS_LATENCY, 0);
	rig_settle(&rig);
	rig.clock.fake_ns += 8 * alone_ns;
	rig_run(&rig);
	for (uint32_t i = 0; i < 300; i++) {
		rig_rewind(&rig, 0);
		rig_send(&rig, 0, rig_session_record(ATTND_OP_TRUNCATE, session, 0), NULL, NULL);
		rig_run(&rig);
		rig.reply_count = 0;
		const uint64_t id = rig_ask(&rig, 0, session, 30, ATTND_CLASS_LATENCY, rig.clock.fake_ns + alone_ns * 3);

		rig_run(&rig);
		refused += rig_take(&rig, id).status == ATTND_REFUSED_DEADLINE;
	}
	assert_int_equal(refused, 0);
	rig_stop(&rig);
}

/* What is let through to measure a device that seems slow: nonsense hands it on. */
static void a_try_is_handed_on(void **state)
{
	uint64_t sessions[2], id;
	uint32_t refused = 0;

	(void)state;
	init();
	rig.options.prefill_chunk = 64;
	rig_start(&rig);
	for (uint32_t c = 0; c < 2; c++) {
		rig_add(&rig, c, c, 1000);
		sessions[c] = rig_open_now(&rig, c, 0);
	}
	rig_learn(&rig, 1, sessions[1], 64, 5);
	for (uint32_t i = 0; i < 20; i++) {
		rig.clock.fake_ns += 1000000001;
		rig_send(&rig, 0, (struct attnd_request){ .op = ATTND_OP_STEP, .session = sessions[0], .argument = 1000,
			.deadline_ns = rig.clock.fake_ns + 20 }, NULL, NULL);
		rig_settle(&rig);
		id = rig_ask(&rig, 1, sessions[1], 10, ATTND_CLASS_LATENCY, rig.clock.fake_ns + 10000);
		rig_run(&rig);
		refused += rig_take(&rig, id).status == ATTND_REFUSED_DEADLINE;
		rig_rewind(&rig, 1);
		rig.reply_count = 0;
	}
	assert_int_equal(refused, 0);
	rig_stop(&rig);
}

/* A stream that waits for credit does not keep the device from being measured by others. */
static void a_parked_try_is_handed_on(void **state)
{
	const struct attnd_generate_params params = { .max_tokens = 100 };
	uint32_t refused = 0;
	uint64_t sessions[2], id;
	int64_t alone_ns;

	(void)state;
	init();
	rig_start(&rig);
	for (uint32_t c = 0; c < 2; c++) {
		rig_add(&rig, c, c, c == 0 ? 1000 : 1);
		sessions[c] = rig_open_now(&rig, c, 0);
	}
	alone_ns = rig_learn(&rig, 0, sessions[0], 10, 20);
	rig.clock.fake_ns += 2000000000;
	rig_generate(&rig, 1, sessions[1], zeros, 1, params, NULL, (struct attnd_request){ .deadline_ns = rig.clock.fake_ns + 100 });
	rig_settle(&rig);
	assert_non_null(rig.sched->tries[0]);
	/* The machine is slow for a while, and then as it was. */
	for (uint32_t i = 0; i < 30; i++) {
		rig_ask(&rig, 0, sessions[0], 10, ATTND_CLASS_LATENCY, 0);
		rig_settle(&rig);
		rig.clock.fake_ns += 30 * alone_ns;
		rig_run(&rig);
		rig_rewind(&rig, 0);
		rig_send(&rig, 0, rig_session_record(ATTND_OP_TRUNCATE, sessions[0], 0), NULL, NULL);
		rig_run(&rig);
		rig.reply_count = 0;
	}
	for (uint32_t i = 0; i < 100; i++) {
		rig.clock.fake_ns += 1100000000;
		id = rig_ask(&rig, 0, sessions[0], 10, ATTND_CLASS_LATENCY, rig.clock.fake_ns + 5 * alone_ns);
		rig_run(&rig);
		refused += rig_take(&rig, id).status == ATTND_REFUSED_DEADLINE;
		rig_rewind(&rig, 0);
		rig_send(&rig, 0, rig_session_record(ATTND_OP_TRUNCATE, sessions[0], 0), NULL, NULL);
		rig_run(&rig);
		rig.reply_count = 0;
	}
	assert_true(refused < 20);
	rig_stop(&rig);
}

/* ---- what has no part in it ----------------------------------------------------------- */

/* A deadline between tokens that nobody could keep makes nobody's steps short. */
static void lost_deadlines_hold_up_nobody(void **state)
{
	uint64_t works[2];

	(void)state;
	for (uint32_t tight = 0; tight < 2; tight++) {
		struct attnd_generate_params params = { .max_tokens = 900, .between_ns = tight ? 3000 : 0 };
		uint64_t sessions[16];

		init();
		rig.options.prefill_chunk = 16;
		rig.device_options.work_ns = 100000;
		rig_start(&rig);
		rig_add(&rig, 0, 0, 1000);
		rig_add(&rig, 1, 1, 1000);
		for (uint32_t i = 0; i < 16; i++)
			sessions[i] = rig_open_now(&rig, 1, 0);
		rig_learn(&rig, 1, sessions[0], 64, 5);
		for (uint32_t i = 0; i < 3; i++)
			rig_generate(&rig, 0, rig_open_now(&rig, 0, 0), zeros, 1, params, NULL,
				(struct attnd_request){ .priority_class = ATTND_CLASS_BULK });
		rig_settle(&rig);
		works[tight] = sim_device_stats(rig.device)->works[KERN_WORK_STEP];
		for (uint32_t i = 0; i < 16; i++)
			rig_ask(&rig, 1, sessions[i], 500, ATTND_CLASS_LATENCY, 0);
		for (uint32_t left = 16; left > 0;) {
			rig_land(&rig);
			rig_settle(&rig);
			for (uint32_t i = 0; i < rig.reply_count; i++)
				left -= rig.replies[i].client == 1;
			rig.reply_count = 0;
		}
		works[tight] = sim_device_stats(rig.device)->works[KERN_WORK_STEP] - works[tight];
		rig_stop(&rig);
	}
	assert_true(works[1] <= works[0] * 11 / 10);
}

/* The policy to compare with fills its steps, whatever the deadlines. */
static void earliest_first_fills_its_steps(void **state)
{
	uint64_t works[2];

	(void)state;
	for (uint32_t timed = 0; timed < 2; timed++) {
		uint64_t sessions[32];
		int64_t begun_ns;

		init();
		rig.options.policy = SCHED_POLICY_EARLIEST;
		rig.options.prefill_chunk = 64;
		rig.device_options.work_ns = 100000;
		rig_start(&rig);
		rig_add(&rig, 0, 0, 1000);
		for (uint32_t i = 0; i < 32; i++)
			sessions[i] = rig_open_now(&rig, 0, 0);
		rig_learn(&rig, 0, sessions[0], 64, 5);
		begun_ns = rig.clock.fake_ns;
		for (uint32_t i = 0; i < 32; i++)
			rig_ask(&rig, 0, sessions[i], 16, ATTND_CLASS_LATENCY, timed ? begun_ns + 110000 + 120000 * i : 0);
		rig_run(&rig);
		works[timed] = sim_device_stats(rig.device)->works[KERN_WORK_STEP];
		rig.reply_count = 0;
		rig_stop(&rig);
	}
	assert_int_equal(works[0], works[1]);
}

/* ---- what was computed before ----------------------------------------------------------- */

/* STEP of a text, of which every row is to be output, or the last. */
static uint64_t ask_text(uint64_t session, uint64_t text, enum attnd_select select, int64_t deadline_ns)
{
	struct attnd_request record = rig_step_record(session, 500, ATTND_OUT_ARGMAX);
	const struct attnd_step_args args = { .output = ATTND_OUT_ARGMAX, .select = (uint8_t)select };
	uint32_t *tokens = rig_loan(&rig, 0, 500 * sizeof(*tokens));

	rig_tokens(tokens, 500, text);
	memcpy(&record.args, &args, sizeof(args));
	record.deadline_ns = deadline_ns;
	record.out_capacity = 500 * sizeof(uint32_t);
	return rig_send(&rig, 0, record, tokens, rig_loan(&rig, 0, record.out_capacity));
}

/* Texts 0 to 7 pass through a session; how long one takes. */
static int64_t learn_texts(uint64_t session)
{
	int64_t ns = 0;

	for (uint32_t text = 0; text < 8; text++) {
		const int64_t since_ns = rig.clock.fake_ns;
		const uint64_t id = ask_text(session, text, ATTND_SELECT_LAST, 0);

		rig_run(&rig);
		ns = rig_take(&rig, id).done_ns - since_ns;
		rig_rewind(&rig, 0);
		rig_send(&rig, 0, rig_session_record(ATTND_OP_TRUNCATE, session, 0), NULL, NULL);
		rig_run(&rig);
		rig.reply_count = 0;
	}
	return ns;
}

/* A text that is cached is done in a fraction of the time, and promised so; but not where all its rows have to be computed. */
static void what_is_cached_is_not_counted(void **state)
{
	uint64_t sessions[4], ids[3];
	int64_t half_ns, by_ns;

	(void)state;
	init();
	rig.options.prefix_cache = true;
	rig.options.secret[0] = 1;
	rig_start(&rig);
	rig_add(&rig, 0, 0, 1000);
	for (uint32_t i = 0; i < 4; i++)
		sessions[i] = rig_open(&rig, 0, 0);
	half_ns = learn_texts(sessions[3]) / 2;
	by_ns = rig.clock.fake_ns + half_ns;
	ids[0] = ask_text(sessions[0], 99, ATTND_SELECT_LAST, by_ns);
	ids[1] = ask_text(sessions[1], 7, ATTND_SELECT_ALL, by_ns);
	ids[2] = ask_text(sessions[2], 7, ATTND_SELECT_LAST, by_ns);
	rig_run(&rig);
	assert_int_equal(rig_take(&rig, ids[0]).status, ATTND_REFUSED_DEADLINE);
	assert_int_equal(rig_take(&rig, ids[1]).status, ATTND_REFUSED_DEADLINE);
	rig_kept(&rig, ids[2]);
	/* Nor behind another request of its session, which changes what it goes on from. */
	rig_send(&rig, 0, rig_session_record(ATTND_OP_TRUNCATE, sessions[0], 0), NULL, NULL);
	ids[0] = ask_text(sessions[0], 7, ATTND_SELECT_LAST, rig.clock.fake_ns + half_ns);
	rig_run(&rig);
	assert_int_equal(rig_take(&rig, ids[0]).status, ATTND_REFUSED_DEADLINE);
	rig.reply_count = 0;
	rig_stop(&rig);
}

/* What the device has no part in is not predicted; a tenant at its limit of requests can still close. */
static void closing_is_not_refused(void **state)
{
	struct attnd_request record;
	uint64_t sessions[2], id;

	(void)state;
	init();
	rig.tenants[0].device_ns_per_s = 500000000;
	rig.tenants[0].requests_max = 1;
	rig_start(&rig);
	rig_add(&rig, 0, 0, 1000);
	for (uint32_t i = 0; i < 2; i++)
		sessions[i] = rig_open_now(&rig, 0, 0);
	rig_learn(&rig, 0, sessions[0], 10, 2);
	rig_ask(&rig, 0, sessions[0], 10, ATTND_CLASS_LATENCY, 0);
	rig_settle(&rig);
	record = rig_session_record(ATTND_OP_CLOSE, sessions[1], 0);
	id = rig_send(&rig, 0, record, NULL, NULL);
	rig_run(&rig);
	assert_int_equal(rig_take(&rig, id).status, ATTND_OK);
	rig_message(&rig, SCHED_DRAIN, 0, 0, 0);
	rig_settle(&rig);
	record = rig_session_record(ATTND_OP_CLOSE, sessions[0], 0);
	record.deadline_ns = rig.clock.fake_ns + 1000000000;
	id = rig_send(&rig, 0, record, NULL, NULL);
	rig_run(&rig);
	assert_int_equal(rig_take(&rig, id).status, ATTND_OK);
	rig.reply_count = 0;
	rig_stop(&rig);
}

/* ---- what is sent to mislead ---------------------------------------------------------- */

enum decoy { LONG_WITHOUT_INPUT, EMPTY_STREAMS, BEHIND_A_PARKED_HEAD, DECOYS };

static void send_decoys(enum decoy decoy, uint32_t client, uint64_t session)
{
	const struct attnd_request promptless = { .op = ATTND_OP_GENERATE, .session = session };

	if (decoy == LONG_WITHOUT_INPUT)
		rig_send(&rig, client, (struct attnd_request){ .op = ATTND_OP_STEP, .session = session, .argument = UINT32_MAX }, NULL, NULL);
	for (uint32_t i = 0; i < BACKLOG && decoy == EMPTY_STREAMS; i++)
		rig_send(&rig, client, promptless, NULL, NULL);
	for (uint32_t i = 0; i < BACKLOG && decoy == BEHIND_A_PARKED_HEAD; i++)
		rig_ask(&rig, client, session, 500, ATTND_CLASS_BULK, 0);
}

/* Another tenant's stream has no credit, so that nothing behind it runs: it counts for nobody, then or later, until it can run. */
static void decoys_count_for_nobody(void **state)
{
	const struct attnd_generate_params params = { .max_tokens = 10 };
	uint64_t quiet, other, id;
	int64_t alone_ns;

	(void)state;
	for (enum decoy decoy = 0; decoy < DECOYS; decoy++) {
		init();
		rig.clock.fake_ns = INT64_C(1000000000000);
		rig_start(&rig);
		rig_add(&rig, 0, 0, 1000);
		rig_add(&rig, 1, 1, 0);
		quiet = rig_open_now(&rig, 0, 0);
		other = rig_open_now(&rig, 1, 0);
		alone_ns = rig_learn(&rig, 0, quiet, 500, 20);
		rig_generate(&rig, 1, other, zeros, 1, params, NULL, (struct attnd_request){ .priority_class = ATTND_CLASS_BULK });
		rig_run(&rig);
		send_decoys(decoy, 1, other);
		rig_run(&rig);
		assert_int_equal(rig.sched->uses[1].waiting.rows, 0);
		assert_int_equal(rig.sched->waiting_weight, 0);
		assert_int_equal(rig.sched->streams[0].count, 0);
		id = rig_ask(&rig, 0, quiet, 500, ATTND_CLASS_LATENCY, rig.clock.fake_ns + alone_ns * 3 / 2);
		rig_run(&rig);
		rig_kept(&rig, id);
		if (decoy == BEHIND_A_PARKED_HEAD) {
			sched_client_credit(rig.sched, &rig.sched->clients[1], 1);
			assert_true(rig.sched->uses[1].waiting.rows >= BACKLOG * 500);
		}
		rig.reply_count = 0;
		rig_stop(&rig);
	}
}

static uint32_t depth(const struct sched_debt *node)
{
	const uint32_t left = node ? depth(node->left) : 0, right = node ? depth(node->right) : 0;

	return node ? 1 + (left > right ? left : right) : 0;
}

/* Deadlines in the order of the heights that a tree without a secret would have make it a list. */
static uint32_t depth_by_secret(uint64_t secret)
{
	enum { SESSIONS = 8, EACH = 60 };
	uint64_t sessions[SESSIONS];
	uint32_t most;

	init();
	rig.options.secret[0] = secret;
	rig.options.client_requests_max = SESSIONS * EACH;
	rig_start(&rig);
	rig_add(&rig, 0, 0, 1000);
	for (uint32_t i = 0; i < SESSIONS; i++)
		sessions[i] = rig_open_now(&rig, 0, 0);
	for (uint32_t i = 0; i < SESSIONS * EACH; i++) {
		rig_ask(&rig, 0, sessions[i % SESSIONS], 1, ATTND_CLASS_BULK,
			rig.clock.fake_ns + INT64_C(1000000000000) + (uint32_t)base_mix64(rig.sched->debts + 1));
		sched_poll(rig.sched);
	}
	most = depth(rig.sched->uses[0].promised);
	rig_run(&rig);
	rig.reply_count = 0;
	rig_stop(&rig);
	return most;
}

static void deadlines_do_not_shape_the_tree(void **state)
{
	(void)state;
	assert_true(depth_by_secret(0) > 60);
	assert_true(depth_by_secret(UINT64_C(0x9e3779b97f4a7c15)) < 40);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(decoys_count_for_nobody),
		cmocka_unit_test(deadlines_do_not_shape_the_tree),
		cmocka_unit_test(beside_any_newcomer),
		cmocka_unit_test(beside_a_neighbours_row),
		cmocka_unit_test(behind_a_backlog),
		cmocka_unit_test(behind_a_stream),
		cmocka_unit_test(without_credit),
		cmocka_unit_test(a_row_is_a_row),
		cmocka_unit_test(chunks_smaller_than_steps),
		cmocka_unit_test(a_stall_is_nobodys),
		cmocka_unit_test(one_accident),
		cmocka_unit_test(a_try_is_handed_on),
		cmocka_unit_test(a_parked_try_is_handed_on),
		cmocka_unit_test(lost_deadlines_hold_up_nobody),
		cmocka_unit_test(earliest_first_fills_its_steps),
		cmocka_unit_test(what_is_cached_is_not_counted),
		cmocka_unit_test(closing_is_not_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
