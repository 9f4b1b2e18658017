/*
 * Time limit: 120 s
 *
 * A machine with two NUMA nodes is two devices, each with a scheduler and weights of its own; nothing is bound, because the
 * topology is synthetic. Sessions spread over both, stay where they were opened, give the same answers, and streams
 * of both flow through one completion ring.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "attnd/attnd.h"
#include "base/base_features.h"
#include "sched/sched_handle.h"
#include "tests/system/sys_daemon.h"

enum { SESSIONS = 4, TOKENS = 40, ROUNDS = 8 };

static const char *const options[] = { "kv.pool=64M", "placement.workers=0", "placement.spin_us=50",
	"daemon.log_level=error", NULL };

struct heard {
	uint32_t ids[TOKENS], count, stop_after;
};

static int hear(void *context, uint32_t id, const struct attnd_completion *completion)
{
	struct heard *heard = context;

	(void)completion;
	heard->ids[heard->count++] = id;
	return heard->count == heard->stop_after;
}

static void test_two_devices(void **state)
{
	struct attnd_generate_params params;
	struct attnd_open_params open;
	struct heard first = { .count = 0 };
	uint32_t prompt[70], devices_seen = 0;
	struct attnd_client *client;
	struct sys_daemon daemon;

	(void)state;
	if (!BASE_HAVE_HWLOC)
		skip();
	setenv("HWLOC_SYNTHETIC", "numa:2 core:2 pu:1", 1);
	sys_daemon_start(&daemon, true, options);
	unsetenv("HWLOC_SYNTHETIC");
	/* A ring so small that streams run out of credits again and again. */
	const struct attnd_options attach = { .struct_bytes = sizeof(attach), .address = daemon.address,
		.arena_bytes = 1 << 20, .completion_slots = 64, .submission_slots = 16 };

	assert_int_equal(attnd_connect(&client, &attach), 0);
	attnd_open_defaults(&open);
	attnd_generate_defaults(&params);
	params.max_tokens = TOKENS;
	params.sampling.temperature = 1;
	for (uint32_t i = 0; i < 70; i++)
		prompt[i] = 3 + i * 5 % 200;
	for (int i = 0; i < SESSIONS * ROUNDS; i++) {
		struct heard heard = { .count = 0, .stop_after = i % 4 == 3 ? 5 : 0 };
		uint64_t session;
		int64_t tokens;

		assert_int_equal(attnd_session_open(client, &open, &session), 0);
		devices_seen |= 1u << sched_handle_device(session);
		tokens = attnd_generate(client, session, &params, prompt, 70, NULL, hear, &heard, NULL);
		if (i == 0)
			first = heard;
		assert_true(first.count > 10); /* it may end before TOKENS, by its own end token */
		if (heard.stop_after) /* cancelled, on either device */
			assert_true(tokens < (int64_t)first.count);
		else
			assert_int_equal(tokens, first.count);
		assert_memory_equal(heard.ids, first.ids,
			(heard.stop_after ? heard.stop_after : first.count) * sizeof(uint32_t));
		assert_int_equal(attnd_session_close(client, session), 0);
	}
	assert_int_equal(devices_seen, 3);
	attnd_disconnect(client);
	assert_true(sys_daemon_wait_number(&daemon, "counters.clients", 0, 5000));
	assert_int_equal((int)sys_daemon_number(&daemon, "front.unowed"), 0);
	sys_daemon_stop(&daemon);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_two_devices) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
