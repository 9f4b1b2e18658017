/*
 * How requests end before their time: cancel and the death of a client in every state that a
 * request can be in, with every block, slot and session back afterwards and nobody else the wiser.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/sched_rig.h"

static struct rig rig;

enum where { QUEUED, READY, RUNNING, BETWEEN_CHUNKS, STREAMING, PARKED, BLOCKED, COPYING, WHERES };

static const uint32_t zeros[1024];

static struct attnd_completion cancel(uint64_t id)
{
	uint64_t cancel_id = rig_send(
		&rig, 0, (struct attnd_request){ .op = ATTND_OP_CANCEL, .args = id }, NULL, NULL);

	rig_poll(&rig);
	return rig_take(&rig, cancel_id);
}

/* A session of client 0 and a request in it that stands where it is wanted. Client 1 keeps the
 * device busy where that helps. */
static uint64_t bring(enum where where, uint64_t *session, uint64_t *busy)
{
	struct attnd_generate_params params = { .max_tokens = 50 };
	uint64_t id = 0, other;

	*busy = 0;
	*session = rig_open(&rig, 0, 0);
	other = rig_open(&rig, 1, 0);
	switch (where) {
	case QUEUED:
		rig_step(&rig, 0, *session, zeros, 200);
		id = rig_step(&rig, 0, *session, zeros, 10);
		rig_settle(&rig);
		break;
	case READY:
		*busy = rig_step(&rig, 1, other, zeros, 10);
		rig_settle(&rig);
		id = rig_step(&rig, 0, *session, zeros, 10);
		rig_settle(&rig);
		break;
	case RUNNING:
		id = rig_step(&rig, 0, *session, zeros, 10);
		rig_settle(&rig);
		break;
	case BETWEEN_CHUNKS: /* client 1's other model takes the device when the first chunk has
				landed */
		id = rig_step(&rig, 0, *session, zeros, 200);
		rig_settle(&rig);
		*busy = rig_step(&rig, 1, rig_open_now(&rig, 1, 1), zeros, 10);
		rig_settle(&rig);
		rig_land(&rig);
		rig_settle(&rig);
		break;
	case STREAMING:
		id = rig_generate(
			&rig, 0, *session, zeros, 10, params, NULL, (struct attnd_request){ 0 });
		rig_settle(&rig);
		rig_land(&rig);
		rig_settle(&rig);
		rig_land(&rig);
		rig_settle(&rig);
		break;
	case PARKED:
		params.max_tokens = 500; /* credits: 100 */
		id = rig_generate(
			&rig, 0, *session, zeros, 10, params, NULL, (struct attnd_request){ 0 });
		rig_run(&rig);
		break;
	case BLOCKED: /* the pool is full of dirty blocks, and the device is busy */
		rig_step(&rig, 1, other, zeros, 1024);
		rig_run(&rig);
		rig_send(&rig, 1, rig_session_record(ATTND_OP_CLOSE, other, 0), NULL, NULL);
		id = rig_step(&rig, 0, *session, zeros, 1024);
		rig_settle(&rig);
		break;
	case COPYING:
		rig_step(&rig, 0, *session, zeros, 100);
		rig_send(&rig, 0, rig_session_record(ATTND_OP_FORK, *session, 0), NULL, NULL);
		rig_run(&rig);
		id = rig_step(&rig, 0, *session, zeros, 10);
		rig_settle(&rig);
		break;
	case WHERES: break;
	}
	return id;
}

static void start(void)
{
	rig_init(&rig);
	rig.options.kv_extent_bytes = 16 << 10;
	rig.options.kv_bytes = 128 << 10; /* one full session fits, two do not */
	rig_start(&rig);
	rig_add(&rig, 0, 0, 100);
	rig_add(&rig, 1, 0, 100);
}

static void cancel_everywhere(void **state)
{
	(void)state;
	for (enum where where = 0; where < WHERES; where++) {
		uint64_t session, busy, id;
		struct attnd_completion completion;
		uint32_t streamed = 0;

		start();
		id = bring(where, &session, &busy);
		while (rig_has(&rig, id)) {
			assert_int_equal(rig_take(&rig, id).flags, 0);
			streamed++;
		}
		assert_int_equal(cancel(id).value, 1);
		/* Only what is in the air is waited for. */
		assert_int_equal(rig_has(&rig, id),
			where == QUEUED || where == READY || where == BETWEEN_CHUNKS ||
				where == PARKED || where == BLOCKED);
		if (!rig_has(&rig, id)) {
			assert_int_equal(cancel(id).value, 0); /* it has ended already */
			rig_land(&rig);
			rig_settle(&rig);
		}
		completion = rig_take(&rig, id);
		assert_int_equal(completion.status, ATTND_CANCELLED);
		assert_int_equal(completion.flags, ATTND_CPL_FINAL);
		assert_int_equal(completion.sequence, streamed);
		if (where == BETWEEN_CHUNKS)
			assert_int_equal(completion.position, 32);
		if (where == RUNNING)
			assert_int_equal(completion.position, 10);
		rig_run(&rig);
		assert_false(rig_has(&rig, id));
		/* The session lives on, from where it stands. */
		if (where != QUEUED) {
			uint32_t history[512] = { 0 }, total = completion.position;

			/* A stream's own tokens are in the cache: only its position is known here.
			 */
			if (where != STREAMING && where != PARKED) {
				history[total] = 3;
				rig_step_check(&rig, 0, session, history, total + 1, 1);
			}
		}
		if (busy)
			assert_int_equal(rig_take(&rig, busy).status, ATTND_OK);
		assert_int_equal(cancel(id).value, 0);
		rig_stop(&rig);
	}
}

static void cancel_is_the_clients_own(void **state)
{
	uint64_t session, busy, id;

	(void)state;
	start();
	id = bring(READY, &session, &busy);
	assert_int_equal(cancel(busy).value, 0); /* client 1's */
	rig_run(&rig);
	assert_int_equal(rig_take(&rig, id).status, ATTND_OK);
	assert_int_equal(rig_take(&rig, busy).status, ATTND_OK);
	rig_stop(&rig);
}

static void death_everywhere(void **state)
{
	(void)state;
	for (enum where where = 0; where < WHERES; where++) {
		struct sched_counters counters;
		uint64_t session, busy, survivor;
		uint32_t history[40];
		bool in_the_air;

		start();
		rig_tokens(history, 40, where);
		bring(where, &session, &busy);
		rig_message(&rig, SCHED_CLIENT_GONE, 0, 0, 0);
		rig_poll(&rig);
		in_the_air = where == QUEUED || where == RUNNING || where == STREAMING ||
			where == COPYING;
		assert_int_equal(rig.quiesced[0], in_the_air ? 0 : 1);
		/* What it sends after its death has nobody to be answered. */
		rig_send(&rig, 0, (struct attnd_request){ .op = ATTND_OP_NOP }, NULL, NULL);
		rig_message(&rig, SCHED_CREDIT, 0, 0, 5);
		rig_message(&rig, SCHED_CLIENT_GONE, 0, 0, 0);
		rig_run(&rig);
		assert_int_equal(rig.quiesced[0], 1);
		sched_counters_read(rig.sched, &counters);
		assert_true(counters.by_status[ATTND_CLIENT_GONE] >= 1 && counters.gone >= 2);
		assert_int_equal(counters.clients, 1);
		if (busy)
			assert_int_equal(rig_take(&rig, busy).status, ATTND_OK);
		/* The slot serves another, and the blocks another's session. */
		rig_add(&rig, 0, 1, 10);
		survivor = rig_open(&rig, 0, 0);
		rig_step_check(&rig, 0, survivor, history, 40, 40);
		rig_stop(&rig);
		assert_int_equal(rig.quiesced[0], 2);
	}
}

static void close_ends_what_is_behind_it(void **state)
{
	uint64_t session, before, closing, behind, forked;

	(void)state;
	start();
	session = rig_open(&rig, 0, 0);
	before = rig_step(&rig, 0, session, zeros, 100);
	forked = rig_send(&rig, 0, rig_session_record(ATTND_OP_FORK, session, 0), NULL, NULL);
	closing = rig_send(&rig, 0, rig_session_record(ATTND_OP_CLOSE, session, 0), NULL, NULL);
	behind = rig_step(&rig, 0, session, zeros, 5);
	rig_run(&rig);
	assert_int_equal(rig_take(&rig, before).position, 100);
	forked = rig_take(&rig, forked).value;
	assert_int_equal(rig_take(&rig, closing).status, ATTND_OK);
	assert_int_equal(rig_take(&rig, behind).status, ATTND_BAD_SESSION);
	assert_int_equal(
		rig_call(&rig, 0, rig_session_record(ATTND_OP_TRUNCATE, forked, 50), NULL, NULL)
			.status,
		ATTND_OK);
	rig_step_check(&rig, 0, forked, zeros, 55, 5);
	rig_stop(&rig);
}

/* A thousand lives in a row on one slot: nothing grows. */
static void many_lives(void **state)
{
	struct sched_counters counters;

	(void)state;
	start();
	for (uint32_t life = 0; life < 1000; life++) {
		uint32_t slot = 2 + life % 3;

		rig_add(&rig, slot, life % 4, life % 7);
		for (uint32_t s = 0; s < 3; s++) {
			uint64_t session = rig_open_now(&rig, slot, s % 2);

			rig_step(&rig, slot, session, zeros, 1 + (life * 7 + s) % 150);
			rig_generate(&rig, slot, session, zeros, 3,
				(struct attnd_generate_params){ .max_tokens = 9 }, NULL,
				(struct attnd_request){ 0 });
		}
		for (uint32_t i = 0; i < life % 13; i++) {
			rig.clock.fake_ns += 20000;
			rig_poll(&rig);
		}
		rig_message(&rig, SCHED_CLIENT_GONE, slot, 0, 0);
		if (life % 2)
			rig_run(&rig);
		while (rig.arenas[2 + (life + 1) % 3])
			rig_run(&rig);
		rig.reply_count = 0;
	}
	rig_run(&rig);
	sched_counters_read(rig.sched, &counters);
	assert_int_equal(counters.blocks_used, 0);
	assert_int_equal(counters.sessions, 0);
	rig_stop(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cancel_everywhere),
		cmocka_unit_test(cancel_is_the_clients_own),
		cmocka_unit_test(death_everywhere),
		cmocka_unit_test(close_ends_what_is_behind_it),
		cmocka_unit_test(many_lives),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
