/*
 * A daemon that sleeps, with clients over shared memory and over sockets on the same thread: whoever calls wakes it, whatever else it was
 * asleep for, and once nobody calls any more it stays asleep. Over io_uring, which sleeps in the ring, and over plain calls.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "tests/system/sys_net.h"

enum { ROUNDS = 30, REST_MS = 500, SLEEPS_AT_REST = 50 };

static struct sys_net net;

/* Sleeps that were begun while nobody called. */
static double sleeps_at_rest(void)
{
	double before;

	sys_sleep_ms(50); /* what was under way is done */
	before = sys_daemon_number(&net.daemon, "front.sleeps");
	sys_sleep_ms(REST_MS);
	return sys_daemon_number(&net.daemon, "front.sleeps") - before;
}

static void rests_after_each_call(const char *transport)
{
	const char *const options[] = { "placement.idle=sleep", "placement.workers=0", "kv.pool=16M", transport, NULL };
	struct attnd_client *clients[SYS_WAYS];

	sys_net_start(&net, options);
	for (int way = 0; way < SYS_WAYS; way++) {
		struct attnd_options how = sys_net_options(&net, way);

		how.spin_ns = 1; /* it rings, and is rung for */
		assert_int_equal(attnd_connect(&clients[way], &how), 0);
	}
	for (int way = 0; way < SYS_WAYS; way++) {
		double sleeps;

		assert_int_equal(attnd_nop(clients[way]), 0);
		sleeps = sleeps_at_rest();
		if (sleeps > SLEEPS_AT_REST)
			fail_msg("%s: after a request over %s it went to sleep %.0f times in %d ms", transport, sys_way_name(way), sleeps, REST_MS);
	}
	for (int round = 0; round < ROUNDS; round++)
		for (int way = 0; way < SYS_WAYS; way++) {
			if (round % 3 == 0)
				sys_sleep_ms(2);
			assert_int_equal(attnd_nop(clients[way]), 0);
		}
	assert_true(sleeps_at_rest() <= SLEEPS_AT_REST);
	for (int way = 0; way < SYS_WAYS; way++)
		attnd_disconnect(clients[way]);
	sys_net_stop(&net);
}

static void asleep_in_the_ring(void **state)
{
	(void)state;
	rests_after_each_call("net.transport=auto");
}

static void asleep_over_plain_calls(void **state)
{
	(void)state;
	rests_after_each_call("net.transport=sockets");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(asleep_in_the_ring),
		cmocka_unit_test(asleep_over_plain_calls),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
