/*
 * What other tenants are expected to want when a request with a deadline is predicted: what they really sent, and what their quotas
 * allow; nothing that was taken back, was nonsense, or cannot run. On a modelled device and a fake clock.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "sched/sched_private.h"
#include "tests/unit/sched_rig.h"

static struct rig rig;
static const uint32_t zeros[1024];
static uint64_t quiet, others[20];
static int64_t alone_ns; /* what 500 rows of the quiet one take */

static uint64_t step(uint32_t client, uint64_t session, uint32_t count, int64_t deadline_ns)
{
	struct attnd_request record = rig_step_record(session, count, ATTND_OUT_ARGMAX);

	record.deadline_ns = deadline_ns;
	return rig_send(&rig, client, record, zeros, rig_loan(&rig, client, 64));
}

static void cancel(uint32_t client, uint64_t id)
{
	rig_send(&rig, client, (struct attnd_request){ .op = ATTND_OP_CANCEL, .args = id }, NULL, NULL);
}

/* Room in the context again. */
static void clear(uint32_t client, uint64_t session)
{
	rig_rewind(&rig, client);
	rig_send(&rig, client, rig_session_record(ATTND_OP_TRUNCATE, session, 0), NULL, NULL);
	rig_run(&rig);
	rig.reply_count = 0;
}

static void init(void)
{
	rig_init(&rig);
	rig.options.kv_bytes = 64 << 20;
	rig.options.client_requests_max = 512;
	rig.device_options.no_results = true;
}

/* Client 0 of tenant 0 is the quiet one, client 1 of tenant 1 the other. */
static void start(void)
{
	rig_start(&rig);
	for (uint32_t c = 0; c < 2; c++)
		rig_add(&rig, c, c, 1000);
	quiet = rig_open_now(&rig, 0, 0);
	for (uint32_t i = 0; i < 20; i++)
		others[i] = rig_open_now(&rig, 1, 0);
	for (uint32_t i = 0; i < 20; i++) {
		const uint64_t id = step(0, quiet, 500, 0);

		alone_ns = rig.clock.fake_ns;
		rig_run(&rig);
		alone_ns = rig_take(&rig, id).done_ns - alone_ns;
		clear(0, quiet);
	}
}

/* Whether half as long again as alone can be promised now; it is taken back. */
static bool promised(void)
{
	const uint64_t id = step(0, quiet, 500, rig.clock.fake_ns + alone_ns * 3 / 2);
	bool refused;

	rig_settle(&rig);
	refused = rig_has(&rig, id) && rig_take(&rig, id).status == ATTND_REFUSED_DEADLINE;
	cancel(0, id);
	return !refused;
}

static void stop(void)
{
	rig_message(&rig, SCHED_CLIENT_GONE, 1, 0, 0);
	rig_run(&rig);
	rig.reply_count = 0;
	rig_stop(&rig);
}

/* ---- crowds --------------------------------------------------------------------------- */

/* What came together may come again, for a minute or two; the clock's first minute is like any other. */
static void a_crowd_may_come_again(void **state)
{
	(void)state;
	for (uint32_t late = 0; late < 2; late++) {
		init();
		rig.clock.fake_ns = late ? INT64_C(1000000000000) : INT64_C(1000000000);
		start();
		assert_true(promised());
		rig_run(&rig);
		clear(0, quiet);
		for (uint32_t i = 0; i < 20; i++)
			step(1, others[i], 500, 0);
		rig_run(&rig);
		assert_false(promised());
		rig_run(&rig);
		clear(0, quiet);
		rig.clock.fake_ns += 2 * SCHED_RECENT_NS;
		assert_true(promised());
		stop();
	}
}

/* ---- what counts for nobody ----------------------------------------------------------- */

enum decoy { CANCELLED_AT_ONCE, CANCELLED_WAITING, WRONG_SHAPE, DECOYS };

static void send_decoys(enum decoy decoy)
{
	uint64_t ids[20];

	for (uint32_t i = 0; i < 20; i++) {
		struct attnd_request record = rig_step_record(others[i], 500, ATTND_OUT_ARGMAX);

		if (decoy == WRONG_SHAPE)
			record.in_bytes += 4;
		ids[i] = rig_send(&rig, 1, record, zeros, rig.arenas[1]);
		if (decoy == CANCELLED_AT_ONCE)
			cancel(1, ids[i]);
	}
	rig_settle(&rig);
	for (uint32_t i = 0; i < 20 && decoy == CANCELLED_WAITING; i++)
		cancel(1, ids[i]);
	rig_settle(&rig);
}

/* What never ran does not count as having come, while another one's step is in the air or not. */
static void what_never_ran(void **state)
{
	(void)state;
	for (enum decoy decoy = 0; decoy < DECOYS; decoy++) {
		init();
		rig.clock.fake_ns = INT64_C(1000000000000);
		rig.tenants[2].weight = 100;
		start();
		rig_add(&rig, 2, 2, 1000);
		step(2, rig_open_now(&rig, 2, 0), 10, 0);
		rig_settle(&rig);
		send_decoys(decoy);
		rig_run(&rig);
		rig.clock.fake_ns += SCHED_CROWD_NS;
		assert_true(promised());
		stop();
	}
}

/* A cancelled request asks for nothing any more, though a chunk of it is in the air. */
static void a_cancelled_one_in_the_air(void **state)
{
	uint64_t id;

	(void)state;
	init();
	start();
	id = step(1, others[0], 500, 0);
	rig_settle(&rig);
	assert_true(rig.sched->uses[1].waiting.rows > 0);
	cancel(1, id);
	rig_settle(&rig);
	assert_false(rig_has(&rig, id));
	assert_int_equal(rig.sched->uses[1].waiting.rows, 0);
	rig_run(&rig);
	assert_int_equal(rig_take(&rig, id).status, ATTND_CANCELLED);
	stop();
}

/* Who has used up his quota of device time has no part in what others are promised, however much of his waits. */
static void who_is_held(void **state)
{
	(void)state;
	init();
	rig.tenants[1].device_ns_per_s = 1000;
	rig.tenants[1].device_burst_ns = 1;
	start();
	for (uint32_t i = 0; i < 20; i++)
		step(1, others[i], 500, 0);
	rig_settle(&rig);
	for (uint32_t i = 0; i < 5 && sim_device_next_ns(rig.device) != INT64_MAX; i++) {
		rig_land(&rig);
		rig_settle(&rig);
	}
	assert_true(rig.sched->uses[1].held && rig.sched->uses[1].waiting.rows > 0);
	assert_true(promised());
	stop();
}

/* ---- what is charged to nobody ---------------------------------------------------------- */

/* A session of tenant 1 that refers to another one's pages; what it writes there is copied first. */
static uint64_t fork_of(uint64_t session)
{
	const uint64_t id = rig_send(&rig, 1, rig_session_record(ATTND_OP_FORK, session, 0), NULL, NULL);
	struct attnd_completion completion;

	for (int i = 0; i < 3; i++)
		rig_poll(&rig);
	completion = rig_take(&rig, id);
	assert_int_equal(completion.status, ATTND_OK);
	return completion.value;
}

/* However many copies one tenant has made, a step finds its place between them. */
static void copies_leave_room(void **state)
{
	uint64_t id, forks[60];
	uint32_t landed = 0;

	(void)state;
	init();
	rig.device_options.kib_ns = 10000;
	start();
	step(1, others[0], 10, 0);
	rig_run(&rig);
	rig.reply_count = 0;
	for (uint32_t i = 0; i < 60; i++)
		forks[i] = fork_of(others[0]);
	step(1, forks[0], 1, 0);
	rig_poll(&rig);
	step(1, forks[1], 1, 0);
	rig_poll(&rig);
	id = step(0, quiet, 10, 0);
	for (uint32_t i = 2; i < 60 && !rig_has(&rig, id); i++) {
		step(1, forks[i], 1, 0);
		for (int p = 0; p < 3; p++)
			rig_poll(&rig);
		rig_land(&rig);
		landed++;
	}
	assert_true(rig_has(&rig, id) && landed <= 8);
	stop();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_crowd_may_come_again),
		cmocka_unit_test(what_never_ran),
		cmocka_unit_test(a_cancelled_one_in_the_air),
		cmocka_unit_test(who_is_held),
		cmocka_unit_test(copies_leave_room),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
