/*
 * Promises in large numbers: of several models in one tree, and two hundred that can each wait a little. On a modelled device and a
 * fake clock.
 * Time limit: 700 s (with sanitizers).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "sched/sched_private.h"
#include "tests/unit/sched_rig.h"

static struct rig rig;
static const uint32_t zeros[1024];

static void init(void)
{
	rig_init(&rig);
	rig.options.kv_bytes = 64 << 20;
}

/* A promise that takes many small steps is looked after, whichever model's promise is the root of the tree. */
static void among_two_models(void **state)
{
	const struct attnd_generate_params params = { .max_tokens = 900 };
	uint32_t roots = 0;

	(void)state;
	/* The tree's shape depends on the secret: these two make either one the root. */
	for (uint32_t secret = 0; secret < 2; secret++) {
		uint64_t sessions[3], first;
		struct attnd_completion told;

		init();
		rig.options.secret[0] = secret;
		rig.device_options.no_results = true;
		rig_start(&rig);
		rig_add(&rig, 0, 0, 1000000);
		rig_add(&rig, 1, 0, 1000000);
		for (uint32_t s = 0; s < 3; s++)
			sessions[s] = rig_open_now(&rig, 0, s == 1);
		rig_learn(&rig, 0, sessions[1], 500, 10);
		rig_learn(&rig, 0, sessions[0], 500, 10);
		for (uint32_t i = 0; i < 44; i++)
			rig_generate(&rig, 1, rig_open_now(&rig, 1, 0), zeros, 1, params, NULL, (struct attnd_request){ 0 });
		for (uint32_t i = 0; i < 50; i++) {
			rig_land(&rig);
			rig_settle(&rig);
			rig.reply_count = 0;
		}
		rig_ask(&rig, 0, sessions[1], 1, ATTND_CLASS_BULK, rig.clock.fake_ns + INT64_C(100000000));
		first = rig_ask(&rig, 0, sessions[0], 400, ATTND_CLASS_INTERACTIVE, rig.clock.fake_ns + 1);
		rig_settle(&rig);
		told = rig_take(&rig, first);
		first = rig_ask(&rig, 0, sessions[0], 400, ATTND_CLASS_INTERACTIVE, (int64_t)told.value);
		rig_settle(&rig);
		roots |= 1u << sched_request_of_debt(rig.sched->uses[0].promised)->session->model;
		rig_ask(&rig, 0, sessions[2], 900, ATTND_CLASS_LATENCY, 0);
		for (uint32_t left = 3; left > 0;) {
			rig_land(&rig);
			rig_settle(&rig);
			if (rig_has(&rig, first)) {
				rig_kept(&rig, first);
				left--;
			}
			for (uint32_t r = 0; r < rig.reply_count; r++)
				left -= rig.replies[r].client == 0;
			rig.reply_count = 0;
		}
		rig_stop(&rig);
	}
	assert_int_equal(roots, 3);
}

/* Many promises, each of which can wait a little: what breaks none is admitted, and breaks none. */
static void room_among_many(void **state)
{
	enum { MANY = 200 };
	uint64_t sessions[MANY + 1], ids[MANY + 1];
	uint32_t admitted = 0;

	(void)state;
	init();
	rig.options.kv_bytes = 256 << 20;
	rig.options.sessions_max = rig.options.client_requests_max = 2 * MANY;
	rig_start(&rig);
	rig_add(&rig, 0, 0, 1000);
	for (uint32_t i = 0; i <= MANY; i++)
		sessions[i] = rig_open_now(&rig, 0, 0);
	rig_learn(&rig, 0, sessions[MANY], 500, 20);
	for (uint32_t i = 0; i < MANY; i++) {
		int64_t told_ns;

		ids[i] = rig_ask(&rig, 0, sessions[i], 200, ATTND_CLASS_INTERACTIVE, rig.clock.fake_ns + 1);
		rig_poll(&rig);
		told_ns = (int64_t)rig_take(&rig, ids[i]).value - rig.clock.fake_ns;
		ids[i] = rig_ask(&rig, 0, sessions[i], 200, ATTND_CLASS_INTERACTIVE, rig.clock.fake_ns + told_ns * 106 / 100);
		rig_poll(&rig);
		admitted += !rig_has(&rig, ids[i]);
	}
	assert_int_equal(admitted, MANY);
	ids[MANY] = rig_ask(&rig, 0, sessions[MANY], 1, ATTND_CLASS_INTERACTIVE, rig.clock.fake_ns + 200000);
	rig_run(&rig);
	for (uint32_t i = 0; i <= MANY; i++)
		rig_kept(&rig, ids[i]);
	rig_stop(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(among_two_models),
		cmocka_unit_test(room_among_many),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
