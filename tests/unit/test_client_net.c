/*
 * The library over real sockets against a daemon on a thread of this process: every kind of address, keys, ranges, results, broken and
 * silent connections, and their end.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "attnd/attnd.h"
#include "base/base_clock.h"
#include "netio/net_secure.h"
#include "tests/unit/net_server.h"

static const int64_t second = 1000000000, ms = 1000000;

static const enum net_server_kind kinds[] = { SERVER_TCP, SERVER_UDP, SERVER_UNIX };

struct rig {
	struct net_server server;
	struct attnd_options options;
	struct attnd_client *client;
};

static struct rig *rig_create(enum net_server_kind kind)
{
	struct rig *rig = calloc(1, sizeof(*rig));

	assert_non_null(rig);
	assert_int_equal(net_secure_init(), 0);
	rig->server.kind = kind;
	rig->options.struct_bytes = sizeof(rig->options);
	rig->options.key_file = rig->server.key_file;
	rig->options.address = rig->server.address;
	rig->options.dead_after_ns = 20 * second; /* nobody is to be taken for dead because others use the processor */
	return rig;
}

static void rig_connect(struct rig *rig)
{
	net_server_start(&rig->server);
	if (attnd_connect(&rig->client, &rig->options))
		fail_msg("%s", attnd_error());
}

static struct rig *rig_start(enum net_server_kind kind)
{
	struct rig *rig = rig_create(kind);

	rig_connect(rig);
	return rig;
}

static struct rig *rig_start_mortal(enum net_server_kind kind, int64_t dead_after_ns)
{
	struct rig *rig = rig_create(kind);

	rig->options.dead_after_ns = dead_after_ns;
	rig_connect(rig);
	return rig;
}

static void rig_end(struct rig *rig)
{
	attnd_disconnect(rig->client);
	net_server_stop(&rig->server);
	free(rig);
}

static void wait_for(_Atomic uint64_t *value, uint64_t least)
{
	for (int i = 0; i < 5000 && *value < least; i++)
		usleep(1000);
	assert_true(*value >= least);
}

/* ---- connecting --------------------------------------------------------------------------------------------- */

static void every_way(void **state)
{
	(void)state;
	for (size_t i = 0; i < 3; i++)
		for (int plain = 0; plain < 2; plain++) {
			struct rig *rig = rig_create(kinds[i]);

			rig->server.peer.plain = plain;
			rig->server.peer.wants_cookie = kinds[i] == SERVER_UDP;
			if (plain)
				rig->options.key_file = NULL;
			rig_connect(rig);
			assert_int_equal(attnd_boot_id(rig->client), 99);
			assert_true(attnd_arena_free_bytes(rig->client) >= 16 << 20);
			for (int n = 0; n < 1000; n++)
				assert_int_equal(attnd_nop(rig->client), 0);
			attnd_disconnect(rig->client);
			rig->client = NULL;
			wait_for(&rig->server.closes, 1); /* it said so */
			rig_end(rig);
		}
}

static void over_ip6(void **state)
{
	(void)state;
	if (access("/proc/net/if_inet6", R_OK))
		skip();
	for (size_t i = 0; i < 2; i++) {
		struct rig *rig = rig_create(kinds[i]);

		rig->server.ip6 = true;
		rig_connect(rig);
		assert_int_equal(attnd_nop(rig->client), 0);
		rig_end(rig);
	}
}

static int try(const char *address)
{
	struct attnd_options options = { .struct_bytes = sizeof(options), .address = address, .connect_timeout_ns = second };
	struct attnd_client *client;
	const int error = attnd_connect(&client, &options);

	assert_true(error == 0 || attnd_error()[0]);
	attnd_disconnect(client);
	return error;
}

static void addresses(void **state)
{
	(void)state;
	assert_int_equal(try("attnd:localhost"), -EINVAL);
	assert_int_equal(try("attnd://"), -EINVAL);
	assert_int_equal(try("attnd://:7747"), -EINVAL);
	assert_int_equal(try("attnd://localhost:"), -EINVAL);
	assert_int_equal(try("attnd://localhost:0"), -EINVAL);
	assert_int_equal(try("attnd://localhost:65536"), -EINVAL);
	assert_int_equal(try("attnd://localhost:77x"), -EINVAL);
	assert_int_equal(try("attnd://[::1:7747"), -EINVAL);
	assert_int_equal(try("attnd://[::1]7747"), -EINVAL);
	assert_int_equal(try("attnd+tcp://localhost"), -EINVAL);
	assert_int_equal(try("attnd+unix:relative"), -EINVAL);
	assert_int_equal(try("attnd+unix:///nowhere/at/all"), -ENOENT);
	assert_int_equal(try("attnd+unix:/nowhere/at/all"), -ENOENT);
	assert_int_equal(try("attnd://127.0.0.1:1"), -ECONNREFUSED);
	assert_int_equal(try("attnd+udp://127.0.0.1:1"), -ECONNREFUSED);
	assert_int_equal(try("attnd+udp://attnd.invalid:1"), -ENOENT);
	assert_true(strstr(attnd_error(), "attnd.invalid"));
}

static void names_and_the_environment(void **state)
{
	struct rig *rig = rig_create(SERVER_TCP);
	char address[100];

	(void)state;
	net_server_start(&rig->server);
	snprintf(address, sizeof(address), "attnd://localhost%s", strrchr(rig->server.address, ':'));
	setenv("ATTND_ADDRESS", address, 1);
	setenv("ATTND_KEY_FILE", rig->server.key_file, 1);
	if (attnd_connect(&rig->client, NULL))
		fail_msg("%s", attnd_error());
	assert_int_equal(attnd_nop(rig->client), 0);
	unsetenv("ATTND_ADDRESS");
	unsetenv("ATTND_KEY_FILE");
	rig_end(rig);
}

static void keys(void **state)
{
	struct rig *rig = rig_create(SERVER_TCP);
	struct attnd_options options;
	FILE *file;

	(void)state;
	net_server_start(&rig->server);
	options = rig->options;
	options.key_file = "/nowhere/key";
	assert_int_equal(attnd_connect(&rig->client, &options), -ENOENT);
	options.key_file = rig->server.key_file;
	assert_int_equal(chmod(options.key_file, 0644), 0);
	assert_int_equal(attnd_connect(&rig->client, &options), -EPERM);
	assert_true(strstr(attnd_error(), "chmod 600"));
	assert_int_equal(chmod(options.key_file, 0600), 0);
	options.key_file = NULL; /* the daemon wants one */
	assert_int_equal(attnd_connect(&rig->client, &options), -EPERM);
	assert_true(strstr(attnd_error(), "key"));
	file = fopen(rig->server.key_file, "w");
	fprintf(file, "%064d\n", 7);
	fclose(file);
	options.key_file = rig->server.key_file;
	assert_int_equal(attnd_connect(&rig->client, &options), -EPERM);
	file = fopen(rig->server.key_file, "w");
	fprintf(file, "a key\n");
	fclose(file);
	assert_int_equal(attnd_connect(&rig->client, &options), -EINVAL);
	rig->client = NULL;
	rig_end(rig);
}

static void refusals(void **state)
{
	static const struct { uint32_t why; int error; } expected[] = {
		{ NET_WHY_FULL, -EBUSY }, { NET_WHY_DRAINING, -ECONNREFUSED }, { NET_WHY_VERSION, -EPROTO }, { 77, -ECONNREFUSED } };

	(void)state;
	for (size_t i = 0; i < sizeof(expected) / sizeof(*expected); i++)
		for (size_t k = 0; k < 2; k++) {
			struct rig *rig = rig_create(kinds[k]);

			rig->server.peer.refuses = expected[i].why;
			net_server_start(&rig->server);
			assert_int_equal(attnd_connect(&rig->client, &rig->options), expected[i].error);
			assert_null(rig->client);
			rig_end(rig);
		}
}

static void nobody_answers(void **state)
{
	(void)state;
	for (size_t i = 0; i < 3; i++) {
		struct rig *rig = rig_create(kinds[i]);
		const int64_t begin_ns = base_monotonic_ns();

		rig->server.deaf = true;
		rig->options.connect_timeout_ns = 300 * ms;
		net_server_start(&rig->server);
		assert_int_equal(attnd_connect(&rig->client, &rig->options), -ETIMEDOUT);
		assert_in_range(base_monotonic_ns() - begin_ns, 290 * ms, 4 * second);
		rig_end(rig);
	}
}

/* ---- requests ----------------------------------------------------------------------------------------------- */

static void many_in_flight(void **state)
{
	(void)state;
	for (size_t i = 0; i < 3; i++) {
		struct rig *rig = rig_start(kinds[i]);
		uint64_t next = 0, done = 0;

		while (done < 20000) {
			struct attnd_request requests[7];
			struct attnd_completion completions[5];
			int taken;

			for (unsigned n = 0; n < 7; n++)
				requests[n] = (struct attnd_request){ .op = ATTND_OP_NOP, .request_id = next + n, .args = ~(next + n) };
			taken = attnd_submit(rig->client, requests, 7);
			assert_true(taken > 0 || taken == -EAGAIN);
			next += taken > 0 ? (unsigned)taken : 0;
			taken = attnd_poll(rig->client, completions, 5);
			assert_true(taken >= 0);
			for (int n = 0; n < taken; n++, done++) {
				assert_int_equal(completions[n].request_id, done);
				assert_int_equal(completions[n].value, ~done);
			}
			assert_int_equal(attnd_in_flight(rig->client), next - done);
			assert_true(next - done <= 16);
		}
		assert_int_equal(rig->server.peer.max_in_flight, 16);
		rig_end(rig);
	}
}

static void payloads(void **state)
{
	enum { MOST = 3 << 20 };

	(void)state;
	for (size_t i = 0; i < 3; i++) {
		struct rig *rig = rig_create(kinds[i]);
		unsigned char *in, *out;

		rig->server.peer.message_bytes = rig->server.peer.window_bytes = 4 << 20;
		rig_connect(rig);
		in = attnd_loan(rig->client, MOST);
		out = attnd_loan(rig->client, MOST);
		for (unsigned n = 0; n < MOST; n++)
			in[n] = (unsigned char)(n * 7 + (n >> 10));
		for (uint32_t bytes = 1; bytes < MOST; bytes = bytes * 4 + 3) {
			const struct attnd_request request = { .op = ATTND_OP_NOP, .request_id = bytes, .in_bytes = bytes, .out_capacity = bytes,
				.in_offset = attnd_offset(rig->client, in), .out_offset = attnd_offset(rig->client, out) };
			struct attnd_completion completion;

			memset(out, 0, MOST);
			assert_int_equal(attnd_call(rig->client, &request, &completion), 0);
			assert_int_equal(completion.result_bytes, bytes);
			assert_memory_equal(in, out, bytes);
		}
		rig_end(rig);
	}
}

static void ranges(void **state)
{
	struct rig *rig = rig_start(SERVER_TCP);
	const uint32_t units = 16 << 20 >> 6;
	struct attnd_completion completion;
	struct attnd_request request = { .op = ATTND_OP_NOP, .request_id = 5, .in_offset = units, .in_bytes = 1 };

	(void)state;
	assert_int_equal(attnd_call(rig->client, &request, &completion), -EIO);
	assert_int_equal(completion.status, ATTND_BAD_RANGE);
	assert_int_equal(completion.request_id, 5);
	request.in_offset = UINT32_MAX;
	assert_int_equal(attnd_call(rig->client, &request, &completion), -EIO);
	assert_int_equal(completion.status, ATTND_BAD_RANGE);
	request = (struct attnd_request){ .op = ATTND_OP_NOP, .out_offset = units - 1, .out_capacity = 65 };
	assert_int_equal(attnd_call(rig->client, &request, &completion), -EIO);
	assert_int_equal(completion.status, ATTND_BAD_RANGE);
	request = (struct attnd_request){ .op = ATTND_OP_NOP, .in_bytes = (1 << 18) + 1 };
	assert_int_equal(attnd_call(rig->client, &request, &completion), -EIO);
	assert_int_equal(completion.status, ATTND_TOO_LARGE);
	assert_int_equal(rig->server.executed, 0);
	request = (struct attnd_request){ .op = ATTND_OP_DESCRIBE, .argument = 64, .out_offset = units - 1, .out_capacity = 64 };
	assert_int_equal(attnd_call(rig->client, &request, &completion), 0);
	rig_end(rig);
}

static void tokens_in_a_stream(void **state)
{
	(void)state;
	for (size_t i = 0; i < 3; i++) {
		struct rig *rig = rig_start(kinds[i]);
		uint32_t *out = attnd_loan(rig->client, 4000), count = 0;
		const struct attnd_request request = { .op = ATTND_OP_GENERATE, .request_id = 8, .session = 500, .argument = 1000,
			.out_offset = attnd_offset(rig->client, out), .out_capacity = 4000 };
		struct attnd_completion completion = { .flags = 0 };

		assert_int_equal(attnd_submit(rig->client, &request, 1), 1);
		while (!(completion.flags & ATTND_CPL_FINAL)) {
			assert_int_equal(attnd_wait(rig->client, &completion, 1, 5 * second), 1);
			assert_int_equal(completion.request_id, 8);
			if (!(completion.flags & ATTND_CPL_FINAL))
				assert_int_equal(out[count], 500 + count);
			count++;
		}
		assert_int_equal(count, 1001);
		assert_int_equal(completion.result_bytes, 4000);
		rig_end(rig);
	}
}

/* Both sides sleep between any two requests. */
static void sleeping(void **state)
{
	(void)state;
	for (size_t i = 0; i < 3; i++) {
		struct rig *rig = rig_create(kinds[i]);
		struct attnd_completion completion;
		const struct attnd_request held = { .op = ATTND_OP_STEP };
		int64_t begin_ns;

		rig->options.spin_ns = 1;
		rig_connect(rig);
		for (unsigned n = 0; n < 50; n++) {
			usleep(n % 5 * 1000);
			assert_int_equal(attnd_nop(rig->client), 0);
		}
		assert_int_equal(attnd_submit(rig->client, &held, 1), 1);
		begin_ns = base_monotonic_ns();
		assert_int_equal(attnd_wait(rig->client, &completion, 1, 50 * ms), 0);
		assert_in_range(base_monotonic_ns() - begin_ns, 50 * ms, 3 * second);
		rig_end(rig);
	}
}

static void the_clock(void **state)
{
	(void)state;
	for (size_t i = 0; i < 3; i++) {
		struct rig *rig = rig_create(kinds[i]);
		int64_t before_ns, now_ns, after_ns, error_ns;

		rig->server.peer.offset_ns = 1000 * second;
		rig_connect(rig);
		for (int n = 0; n < 100; n++)
			assert_int_equal(attnd_nop(rig->client), 0);
		before_ns = base_monotonic_ns() + 1000 * second;
		now_ns = attnd_now_ns(rig->client);
		after_ns = base_monotonic_ns() + 1000 * second;
		error_ns = attnd_clock_error_ns(rig->client);
		assert_in_range(error_ns, 1, second);
		/* The library's own clock is a few microseconds off. */
		assert_in_range(now_ns, before_ns - error_ns - 50000, after_ns + error_ns + 50000);
		rig_end(rig);
	}
}

/* ---- broken connections ------------------------------------------------------------------------------------- */

static void submit_nops(struct rig *rig, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		const struct attnd_request request = { .op = ATTND_OP_NOP, .request_id = i, .args = i };

		assert_int_equal(attnd_submit(rig->client, &request, 1), 1);
	}
}

static void what_is_in_flight_goes_on(void **state)
{
	const struct attnd_request held = { .op = ATTND_OP_STEP, .request_id = 1000 };

	(void)state;
	for (size_t i = 0; i < 3; i++) {
		struct rig *rig = rig_start(kinds[i]);
		struct attnd_completion completion;

		assert_int_equal(attnd_submit(rig->client, &held, 1), 1);
		wait_for(&rig->server.executed, 1);
		for (unsigned round = 1; round <= 5; round++) {
			if (kinds[i] == SERVER_UDP) { /* nothing breaks there; it is silent */
				rig->server.deaf = true;
				usleep(100000);
			}
			rig->server.breaks = true;
			submit_nops(rig, 10);
			rig->server.deaf = false;
			for (unsigned n = 0; n < 10; n++) {
				assert_int_equal(attnd_wait(rig->client, &completion, 1, 5 * second), 1);
				assert_int_equal(completion.request_id, n);
			}
			wait_for(&rig->server.executed, 1 + 10 * round);
			assert_int_equal(rig->server.executed, 1 + 10 * round);
		}
		rig->server.finishes = true;
		assert_int_equal(attnd_wait(rig->client, &completion, 1, 5 * second), 1);
		assert_int_equal(completion.request_id, 1000);
		assert_int_equal(completion.value, 77);
		assert_true(kinds[i] == SERVER_UDP || rig->server.resumed > 0);
		rig_end(rig);
	}
}

static void silent_for_a_while(void **state)
{
	(void)state;
	for (size_t i = 0; i < 3; i++) {
		struct rig *rig = rig_start_mortal(kinds[i], 2 * second);
		struct attnd_completion completion;
		const int64_t begin_ns = base_monotonic_ns();

		rig->server.deaf = true;
		submit_nops(rig, 3);
		while (base_monotonic_ns() - begin_ns < 1300 * ms) /* longer than it takes to try another socket */
			assert_int_equal(attnd_poll(rig->client, &completion, 1), 0);
		rig->server.deaf = false;
		for (unsigned n = 0; n < 3; n++) {
			assert_int_equal(attnd_wait(rig->client, &completion, 1, 5 * second), 1);
			assert_int_equal(completion.request_id, n);
		}
		wait_for(&rig->server.resumed, 1);
		wait_for(&rig->server.executed, 3);
		assert_int_equal(rig->server.executed, 3);
		rig_end(rig);
	}
}

static void expect_the_end(struct rig *rig, int64_t within_ns)
{
	const int64_t begin_ns = base_monotonic_ns();
	struct attnd_completion completion;
	int rc;

	while ((rc = attnd_wait(rig->client, &completion, 1, 50 * ms)) == 0)
		assert_true(base_monotonic_ns() - begin_ns < within_ns + 10 * second);
	assert_int_equal(rc, -ENOTCONN);
	assert_int_equal(attnd_submit(rig->client, &(struct attnd_request){ .op = ATTND_OP_NOP }, 1), -ENOTCONN);
	assert_int_equal(attnd_nop(rig->client), -ENOTCONN);
}

static void silent_for_good(void **state)
{
	(void)state;
	for (size_t i = 0; i < 3; i++) {
		struct rig *rig = rig_start_mortal(kinds[i], second);

		submit_nops(rig, 3);
		usleep(10000);
		rig->server.deaf = true;
		submit_nops(rig, 3);
		for (unsigned n = 0; n < 3; n++) {
			struct attnd_completion completion;

			assert_int_equal(attnd_wait(rig->client, &completion, 1, 5 * second), 1);
		}
		expect_the_end(rig, second);
		rig_end(rig);
	}
}

static void a_daemon_that_has_forgotten(void **state)
{
	const struct attnd_request held = { .op = ATTND_OP_STEP, .request_id = 1000 };

	(void)state;
	for (size_t i = 0; i < 3; i += 2) {
		struct rig *rig = rig_start(kinds[i]);

		assert_int_equal(attnd_submit(rig->client, &held, 1), 1);
		wait_for(&rig->server.executed, 1);
		rig->server.forgets = true;
		rig->server.breaks = true;
		expect_the_end(rig, second);
		rig->server.forgets = false;
		assert_int_equal(attnd_reconnect(rig->client), 0);
		assert_int_equal(attnd_in_flight(rig->client), 0);
		assert_int_equal(attnd_nop(rig->client), 0);
		rig_end(rig);
	}
}

static void a_daemon_that_has_died(void **state)
{
	(void)state;
	for (size_t i = 0; i < 3; i++) {
		struct rig *rig = rig_start_mortal(kinds[i], second);

		assert_int_equal(attnd_nop(rig->client), 0);
		net_server_stop(&rig->server);
		expect_the_end(rig, second);
		assert_true(attnd_reconnect(rig->client) < 0);
		assert_int_equal(attnd_nop(rig->client), -ENOTCONN);
		assert_true(attnd_clock_error_ns(rig->client) < 0);
		attnd_disconnect(rig->client);
		free(rig);
	}
}

/* A child that was forked has the same socket; its end is not the parent's. */
static void a_fork(void **state)
{
	(void)state;
	for (size_t i = 0; i < 3; i++) {
		struct rig *rig = rig_start(kinds[i]);
		int status;
		pid_t child;

		assert_int_equal(attnd_nop(rig->client), 0);
		child = fork();
		if (child == 0) {
			attnd_disconnect(rig->client);
			_exit(0);
		}
		assert_int_equal(waitpid(child, &status, 0), child);
		assert_int_equal(status, 0);
		assert_int_equal(attnd_nop(rig->client), 0);
		assert_int_equal(rig->server.closes, 0);
		rig_end(rig);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_way),
		cmocka_unit_test(over_ip6),
		cmocka_unit_test(addresses),
		cmocka_unit_test(names_and_the_environment),
		cmocka_unit_test(keys),
		cmocka_unit_test(refusals),
		cmocka_unit_test(nobody_answers),
		cmocka_unit_test(many_in_flight),
		cmocka_unit_test(payloads),
		cmocka_unit_test(ranges),
		cmocka_unit_test(tokens_in_a_stream),
		cmocka_unit_test(sleeping),
		cmocka_unit_test(the_clock),
		cmocka_unit_test(what_is_in_flight_goes_on),
		cmocka_unit_test(silent_for_a_while),
		cmocka_unit_test(silent_for_good),
		cmocka_unit_test(a_daemon_that_has_forgotten),
		cmocka_unit_test(a_daemon_that_has_died),
		cmocka_unit_test(a_fork),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
