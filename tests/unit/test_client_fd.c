/*
 * A client of the library in somebody else's event loop: attnd_fd and attnd_next_ns say when to poll, and polls at other times are not
 * needed, whatever the way to the daemon and whatever happens on it.
 */
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "attnd/attnd.h"
#include "base/base_clock.h"
#include "netio/net_secure.h"
#include "tests/unit/client_fake_daemon.h"
#include "tests/unit/net_server.h"

#define MS INT64_C(1000000)
#define SECOND (1000 * MS)

static const enum net_server_kind kinds[] = { SERVER_TCP, SERVER_UDP, SERVER_UNIX };

struct rig {
	struct net_server server;
	struct attnd_client *client;
	unsigned polls; /* that were called for */
	int fd;         /* as it was last */
};

static struct rig *rig_start(enum net_server_kind kind, int64_t dead_after_ns)
{
	struct rig *rig = calloc(1, sizeof(*rig));
	struct attnd_options options = { .struct_bytes = sizeof(options), .dead_after_ns = dead_after_ns };

	assert_non_null(rig);
	assert_int_equal(net_secure_init(), 0);
	rig->server.kind = kind;
	options.key_file = rig->server.key_file;
	options.address = rig->server.address;
	net_server_start(&rig->server);
	if (attnd_connect(&rig->client, &options))
		fail_msg("%s", attnd_error());
	rig->fd = attnd_fd(rig->client);
	assert_true(rig->fd >= 0);
	return rig;
}

static void rig_end(struct rig *rig)
{
	attnd_disconnect(rig->client);
	net_server_stop(&rig->server);
	free(rig);
}

/* One turn of an event loop, at most wait_ns long. What poll returned; 0 also where it was not called for. */
static int turn(struct rig *rig, struct attnd_completion *completion, int64_t wait_ns)
{
	const int64_t next_ns = attnd_next_ns(rig->client);
	struct pollfd what = { .fd = attnd_fd(rig->client), .events = POLLIN };
	const int64_t until_ns = next_ns < wait_ns ? next_ns : wait_ns;
	const struct timespec timeout = { .tv_sec = until_ns / SECOND, .tv_nsec = until_ns % SECOND };
	int count;

	assert_true(next_ns >= 0);
	assert_true(what.fd >= 0 || what.fd == -EAGAIN);
	/* Nothing else may move what has come: the descriptor alone says it. */
	count = ppoll(&what, 1, &timeout, NULL);
	if (count == 0 && next_ns > wait_ns)
		return 0;
	rig->polls++;
	return attnd_poll(rig->client, completion, 1);
}

/* The next completion, or what else poll returned. */
static int next_completion(struct rig *rig, struct attnd_completion *completion, int64_t wait_ns)
{
	const int64_t until_ns = base_monotonic_ns() + wait_ns;
	int got = 0;

	while (got == 0 && base_monotonic_ns() < until_ns)
		got = turn(rig, completion, until_ns - base_monotonic_ns());
	return got;
}

static void answers_come_by_the_descriptor(void **state)
{
	enum { ROUNDS = 300 };

	(void)state;
	for (size_t i = 0; i < 3; i++) {
		struct rig *rig = rig_start(kinds[i], 4 * SECOND);

		for (uint64_t n = 0; n < ROUNDS; n++) {
			const struct attnd_request request = { .op = ATTND_OP_NOP, .request_id = n, .args = n };
			struct attnd_completion completion;

			assert_int_equal(attnd_submit(rig->client, &request, 1), 1);
			assert_int_equal(next_completion(rig, &completion, 5 * SECOND), 1);
			assert_int_equal(completion.value, n);
		}
		/* A poll for an answer, and few beside it: nobody spins. */
		assert_in_range(rig->polls, ROUNDS, 4 * ROUNDS);
		assert_int_equal(attnd_fd(rig->client), rig->fd);
		rig_end(rig);
	}
}

/* What was received is acknowledged after a millisecond; then only the next PING is left. */
static void what_is_due_is_said(void **state)
{
	(void)state;
	for (size_t i = 0; i < 3; i++) {
		struct rig *rig = rig_start(kinds[i], 40 * SECOND);
		const struct attnd_request request = { .op = ATTND_OP_NOP };
		struct attnd_completion completion;

		assert_int_equal(attnd_submit(rig->client, &request, 1), 1);
		assert_int_equal(next_completion(rig, &completion, 5 * SECOND), 1);
		assert_in_range(attnd_next_ns(rig->client), 0, 5 * MS);
		rig->polls = 0;
		assert_int_equal(next_completion(rig, &completion, 300 * MS), 0);
		assert_in_range(rig->polls, 1, 20);
		assert_in_range(attnd_next_ns(rig->client), 1 * SECOND, 6 * SECOND);
		rig_end(rig);
	}
}

static void a_new_socket_has_another_number(void **state)
{
	static const enum net_server_kind streams[] = { SERVER_TCP, SERVER_UNIX };
	const struct attnd_request held = { .op = ATTND_OP_STEP, .request_id = 1000 };

	(void)state;
	for (size_t i = 0; i < 2; i++) {
		struct rig *rig = rig_start(streams[i], 4 * SECOND);
		struct attnd_completion completion;

		assert_int_equal(attnd_submit(rig->client, &held, 1), 1);
		for (unsigned round = 1; round <= 5; round++) {
			const int before = attnd_fd(rig->client);

			rig->server.breaks = true;
			for (int n = 0; n < 1000 && rig->server.resumed < round; n++)
				assert_int_equal(next_completion(rig, &completion, 5 * MS), 0);
			assert_int_equal(rig->server.resumed, round);
			assert_true(attnd_fd(rig->client) >= 0);
			assert_int_not_equal(attnd_fd(rig->client), before);
		}
		rig->server.finishes = true;
		assert_int_equal(next_completion(rig, &completion, 5 * SECOND), 1);
		assert_int_equal(completion.request_id, 1000);
		rig_end(rig);
	}
}

/* Nobody polls but as told, and still hears of it, within the bound and little more. */
static void the_end_is_heard(void **state)
{
	(void)state;
	for (size_t i = 0; i < 3; i++) {
		struct rig *rig = rig_start(kinds[i], 400 * MS);
		struct attnd_completion completion;
		const int64_t begin_ns = base_monotonic_ns();

		net_server_stop(&rig->server);
		assert_int_equal(next_completion(rig, &completion, 20 * SECOND), -ENOTCONN);
		assert_in_range(base_monotonic_ns() - begin_ns, 0, 5 * SECOND);
		assert_true(rig->polls < 1000);
		assert_int_equal(attnd_fd(rig->client), -ENOTCONN);
		assert_int_equal(attnd_next_ns(rig->client), 0);
		attnd_disconnect(rig->client);
		free(rig);
	}
}

static bool say_nothing(struct fake_daemon *daemon, const struct attnd_request *request, const void *in, void *out,
	struct attnd_completion *completion)
{
	(void)daemon;
	(void)request;
	(void)in;
	(void)out;
	(void)completion;
	return true;
}

static void shared_memory_has_none(void **state)
{
	struct fake_daemon daemon = { .answer = say_nothing };
	struct attnd_options options = { .struct_bytes = sizeof(options), .arena_bytes = 64 << 10 };
	struct attnd_client *client;
	char address[96];

	(void)state;
	fake_daemon_start(&daemon);
	snprintf(address, sizeof(address), "shm:%s", daemon.path);
	options.address = address;
	assert_int_equal(attnd_connect(&client, &options), 0);
	assert_int_equal(attnd_fd(client), -ENOTSUP);
	assert_true(strstr(attnd_error(), "attnd_wait"));
	assert_in_range(attnd_next_ns(client), 0, 100 * MS);
	attnd_disconnect(client);
	fake_daemon_end(&daemon, FAKE_CLOSES);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(answers_come_by_the_descriptor),
		cmocka_unit_test(what_is_due_is_said),
		cmocka_unit_test(a_new_socket_has_another_number),
		cmocka_unit_test(the_end_is_heard),
		cmocka_unit_test(shared_memory_has_none),
	};

	return cmocka_run_group_tests_name("client fd", tests, NULL, NULL);
}
