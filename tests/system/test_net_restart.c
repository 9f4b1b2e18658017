/*
 * Time limit: 240 s
 *
 * A daemon that is killed and comes back at the same address while clients work, over every way in. Each call succeeds or says within
 * dead_after_ns that the daemon is gone; reconnecting works; old sessions are lost and say so; a session whose tokens are pushed again
 * answers as before, and a step at a wrong position is refused. A daemon that is asked to end tells its clients, and completes what it
 * has accepted.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "attnd/attnd.h"
#include "base/base_rand.h"
#include "sched/sched_handle.h"
#include "tests/system/sys_net.h"

enum { WORKERS = 3, HISTORY = 200, LIVES = 3, ECHO_BYTES = 3000, STREAM_TOKENS = 400, NOPS_MAX = 40, RESULTS = 6 };

#define MS INT64_C(1000000)
#define SECOND (1000 * MS)
#define DEAD_AFTER (400 * MS)
/* Beyond what is promised: other processes want the processor, too. */
#define SLACK (2 * SECOND)

static const char *const options[] = { "kv.pool=128M", "limits.tokens=512", "placement.workers=0", "placement.spin_us=50",
	"daemon.log_level=error", NULL };

static struct sys_net net;

/* What everybody pushes, and the arg max behind each of these tokens. */
static uint32_t history[HISTORY], answers[HISTORY];

/* ---- one who works ---------------------------------------------------------------------------------------- */

struct worker {
	enum sys_way way;
	pthread_t thread;
	_Atomic bool stop;
	_Atomic uint64_t done; /* calls that succeeded */
	uint64_t lost, reconnects;
	int64_t longest_ns;    /* until a call said that the daemon is gone */
	struct attnd_client *client;
	uint64_t session;
	uint32_t position;
	uint64_t random;
	char wrong[200]; /* "": nothing */
};

static void complain(struct worker *worker, const char *what, int64_t value)
{
	if (!worker->wrong[0])
		snprintf(worker->wrong, sizeof(worker->wrong), "%s: %s (%lld; %s)", sys_way_name(worker->way), what, (long long)value,
			attnd_error());
}

/* What became of a call that began at begin_ns: whether it succeeded. */
static bool judge(struct worker *worker, const char *what, int rc, int64_t begin_ns)
{
	const int64_t took_ns = sys_now_ns() - begin_ns;

	if (rc == 0) {
		worker->done++;
		return true;
	}
	worker->lost++;
	if (rc != -ENOTCONN)
		complain(worker, what, rc);
	if (took_ns > worker->longest_ns)
		worker->longest_ns = took_ns;
	return false;
}

/* A STEP that counts only at this position. As attnd_call. */
static int step_at(struct attnd_client *client, uint64_t session, uint32_t position, uint32_t count, uint32_t *answer)
{
	const struct attnd_step_args args = { .output = ATTND_OUT_ARGMAX };
	struct attnd_request request = { .op = ATTND_OP_STEP, .flags = ATTND_REQ_CHECK_POSITION, .session = session, .position = position,
		.argument = count, .in_bytes = count * 4, .out_capacity = 4 };
	uint32_t *in = attnd_loan(client, HISTORY * 4), *out = attnd_loan(client, 4);
	int rc = -ENOMEM;

	memcpy(&request.args, &args, sizeof(args));
	if (in && out) {
		memcpy(in, history + position, count * 4);
		request.in_offset = attnd_offset(client, in);
		request.out_offset = attnd_offset(client, out);
		rc = attnd_call(client, &request, NULL);
		*answer = *out;
	}
	attnd_return(client, out);
	attnd_return(client, in);
	return rc;
}

static bool push(struct worker *worker, uint32_t count)
{
	const int64_t begin_ns = sys_now_ns();
	uint32_t answer = 0;

	if (!judge(worker, "a step", step_at(worker->client, worker->session, worker->position, count, &answer), begin_ns))
		return false;
	worker->position += count;
	if (answer != answers[worker->position - 1])
		complain(worker, "a step has another answer", worker->position);
	return true;
}

static bool echo(struct worker *worker)
{
	const uint32_t bytes = (uint32_t)base_rand_below(&worker->random, ECHO_BYTES);
	unsigned char *in = attnd_loan(worker->client, ECHO_BYTES), *out = attnd_loan(worker->client, ECHO_BYTES);
	const struct attnd_request request = { .op = ATTND_OP_NOP, .in_bytes = bytes, .out_capacity = bytes,
		.in_offset = attnd_offset(worker->client, in), .out_offset = attnd_offset(worker->client, out) };
	const int64_t begin_ns = sys_now_ns();
	bool good;

	for (uint32_t i = 0; i < bytes; i++)
		in[i] = (unsigned char)(worker->random >> (i & 31));
	good = judge(worker, "an echo", attnd_call(worker->client, &request, NULL), begin_ns);
	if (good && memcmp(in, out, bytes))
		complain(worker, "an echo has other bytes", bytes);
	attnd_return(worker->client, out);
	attnd_return(worker->client, in);
	return good;
}

static bool open_session(struct worker *worker)
{
	const int64_t begin_ns = sys_now_ns();
	struct attnd_open_params open;

	attnd_open_defaults(&open);
	worker->position = 0;
	return judge(worker, "an open", attnd_session_open(worker->client, &open, &worker->session), begin_ns);
}

static bool work_on(struct worker *worker)
{
	const uint32_t left = HISTORY - worker->position, count = 1 + (uint32_t)base_rand_below(&worker->random, 6);
	const int64_t begin_ns = sys_now_ns();

	if (!echo(worker))
		return false;
	if (left > 0)
		return push(worker, count < left ? count : left);
	return judge(worker, "a close", attnd_session_close(worker->client, worker->session), begin_ns) && open_session(worker);
}

/* Until there is a daemon again. */
static bool reconnect(struct worker *worker)
{
	const int64_t until_ns = sys_now_ns() + 30 * SECOND;
	int rc = -1;

	while (!worker->stop && rc && sys_now_ns() < until_ns) {
		const int64_t begin_ns = sys_now_ns();

		rc = attnd_reconnect(worker->client);
		if (sys_now_ns() - begin_ns > SECOND + SLACK)
			complain(worker, "reconnecting took too long", sys_now_ns() - begin_ns);
		if (rc)
			sys_sleep_ms(10);
	}
	if (rc && !worker->stop)
		complain(worker, "no connection", rc);
	worker->reconnects += rc == 0;
	return rc == 0;
}

/* With a daemon that knows nothing of us: the old session is lost; the new one, told the same, stands where that stood. */
static bool recover(struct worker *worker)
{
	const uint64_t old = worker->session;
	const uint32_t position = worker->position;
	uint32_t answer;
	int rc;

	if (!open_session(worker))
		return false;
	rc = step_at(worker->client, old, 0, 1, &answer);
	if (rc == -ENOTCONN)
		return false;
	/* One time in 4,096 two lives have the same tag. */
	if (rc != -EIO || attnd_last_completion(worker->client)->status !=
			((old ^ worker->session) >> SCHED_BOOT_AT ? ATTND_SESSION_LOST : ATTND_BAD_SESSION))
		complain(worker, "an old session is not lost", rc);
	if (position > 0 && !push(worker, position))
		return false;
	rc = step_at(worker->client, worker->session, (position + 1) % HISTORY, 1, &answer);
	if (rc == -ENOTCONN)
		return false;
	if (rc != -EIO || attnd_last_completion(worker->client)->status != ATTND_BAD_POSITION ||
		attnd_last_completion(worker->client)->position != position)
		complain(worker, "a step at a wrong position is not refused", rc);
	return true;
}

static void *work(void *argument)
{
	struct worker *worker = argument;
	struct attnd_options how = sys_net_options(&net, worker->way);
	bool good;

	how.arena_bytes = 1 << 20;
	how.dead_after_ns = DEAD_AFTER;
	how.connect_timeout_ns = SECOND;
	if (attnd_connect(&worker->client, &how)) {
		complain(worker, "no connection", 0);
		return NULL;
	}
	good = open_session(worker);
	while (!worker->stop && !worker->wrong[0])
		good = good ? work_on(worker) : reconnect(worker) && recover(worker);
	attnd_disconnect(worker->client);
	return NULL;
}

/* ---- killed ----------------------------------------------------------------------------------------------- */

static void wait_for_work(struct worker *workers)
{
	uint64_t before[WORKERS];

	for (int i = 0; i < WORKERS; i++)
		before[i] = workers[i].done;
	for (int i = 0; i < WORKERS; i++)
		for (int waited_ms = 0; workers[i].done < before[i] + 20 && !workers[i].wrong[0]; waited_ms += 5) {
			assert_true(waited_ms < 30000);
			sys_sleep_ms(5);
		}
}

static void learn_answers(void)
{
	const struct attnd_step_args args = { .output = ATTND_OUT_ARGMAX, .select = ATTND_SELECT_ALL };
	struct attnd_client *client = sys_net_connect(&net, SYS_SHM);
	struct attnd_model_info model;
	struct attnd_open_params open;
	uint64_t session, seed = 11;

	assert_int_equal(attnd_describe_model(client, 0, &model), 0);
	for (uint32_t i = 0; i < HISTORY; i++)
		history[i] = 3 + (uint32_t)base_rand_below(&seed, model.vocab - 3);
	attnd_open_defaults(&open);
	assert_int_equal(attnd_session_open(client, &open, &session), 0);
	assert_int_equal(attnd_step(client, session, history, HISTORY, args, answers, sizeof(answers)), sizeof(answers));
	attnd_disconnect(client);
}

static void killed_under_load(void **state)
{
	const enum sys_way way = *(enum sys_way *)*state;
	struct worker workers[WORKERS] = { { .stop = false } };
	uint64_t done = 0, lost = 0;
	int64_t longest_ns = 0;

	sys_net_start(&net, options);
	learn_answers();
	for (unsigned i = 0; i < WORKERS; i++) {
		workers[i].way = way;
		workers[i].random = 1 + i;
		assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
	}
	for (int life = 0; life < LIVES; life++) {
		wait_for_work(workers);
		sys_daemon_crash(&net.daemon);
		sys_sleep_ms(life == 1 ? 1000 : 20); /* longer than it is waited for, and so short that it may go unnoticed */
		sys_daemon_again(&net.daemon);
	}
	wait_for_work(workers);
	for (int i = 0; i < WORKERS; i++) {
		workers[i].stop = true;
		pthread_join(workers[i].thread, NULL);
		done += workers[i].done;
		lost += workers[i].lost;
		longest_ns = workers[i].longest_ns > longest_ns ? workers[i].longest_ns : longest_ns;
		if (workers[i].wrong[0])
			fail_msg("%s", workers[i].wrong);
		assert_int_equal(workers[i].reconnects, LIVES);
	}
	printf("# %s: %llu calls, %llu of them lost; the longest until that was said %.0f ms\n", sys_way_name(way), (unsigned long long)done,
		(unsigned long long)lost, (double)longest_ns / 1e6);
	assert_true(longest_ns < DEAD_AFTER + SLACK);
	assert_true(sys_daemon_wait_number(&net.daemon, "counters.clients", 0, 5000));
	sys_net_stop(&net);
}

/* ---- asked to end ----------------------------------------------------------------------------------------- */

static void submit(struct attnd_client *client, const struct attnd_request *request)
{
	const int rc = attnd_submit(client, request, 1);

	if (rc != 1 && rc != -EAGAIN && rc != -ENOTCONN)
		fail_msg("submit: %d", rc);
}

static void stream_params(struct attnd_generate_params *params, uint64_t seed)
{
	attnd_generate_defaults(params);
	params->max_tokens = STREAM_TOKENS;
	params->sampling.temperature = 6;
	params->sampling.seed = seed;
}

/* A seed by which the stream is as long as it may be. */
static uint64_t learn_seed(void)
{
	struct attnd_client *client = sys_net_connect(&net, SYS_SHM);
	struct attnd_generate_params params;
	struct attnd_open_params open;
	uint64_t session, seed = 0;
	int64_t tokens = 0;

	attnd_open_defaults(&open);
	for (; tokens < STREAM_TOKENS && seed < 1000; seed++) {
		assert_int_equal(attnd_session_open(client, &open, &session), 0);
		stream_params(&params, seed);
		tokens = attnd_generate(client, session, &params, history, 3, NULL, NULL, NULL, NULL);
		assert_int_equal(attnd_session_close(client, session), 0);
	}
	attnd_disconnect(client);
	assert_int_equal(tokens, STREAM_TOKENS);
	return seed - 1;
}

/* A long stream, of which a little is read: the rest waits for that. */
static void begin_stream(struct attnd_client *client, uint64_t session, uint64_t seed, uint32_t read)
{
	struct {
		struct attnd_generate_params params;
		uint32_t prompt[3];
	} *in = attnd_loan(client, sizeof(*in));
	const struct attnd_request request = { .op = ATTND_OP_GENERATE, .request_id = 1000, .session = session, .argument = 3,
		.in_offset = attnd_offset(client, in), .in_bytes = sizeof(in->params) + sizeof(in->prompt) };
	struct attnd_completion completion;

	stream_params(&in->params, seed);
	memcpy(in->prompt, history, sizeof(in->prompt));
	assert_int_equal(attnd_submit(client, &request, 1), 1);
	for (uint32_t i = 0; i < read; i++) {
		assert_int_equal(attnd_wait(client, &completion, 1, 10 * SECOND), 1);
		assert_int_equal(completion.sequence, i);
	}
}

struct end { uint32_t tokens, draining, nops; bool streamed; int64_t told_ns; };

/* Reads on, asks for more, and does not stop before it is told. */
static void read_to_the_end(struct attnd_client *client, uint64_t session, struct end *end)
{
	struct attnd_request nop = { .op = ATTND_OP_NOP, .request_id = 1 };
	const struct attnd_request step = { .op = ATTND_OP_TRUNCATE, .request_id = 2, .session = session };
	struct attnd_completion completion;
	int rc;

	submit(client, &step);
	while ((rc = attnd_wait(client, &completion, 1, 30 * SECOND)) > 0) {
		if (completion.request_id == 2) {
			assert_int_equal(completion.status, ATTND_DRAINING);
			end->draining++;
		} else if (completion.request_id == 1) {
			assert_true(completion.status == ATTND_OK || completion.status == ATTND_DRAINING);
			end->nops++;
		} else if (completion.flags & ATTND_CPL_FINAL) {
			assert_int_equal(completion.status, ATTND_OK);
			assert_int_equal(completion.value, ATTND_STOP_LENGTH);
			end->streamed = true;
		} else {
			assert_int_equal(completion.sequence, end->tokens);
			end->tokens++;
		}
		if (attnd_in_flight(client) < NOPS_MAX)
			submit(client, &nop);
	}
	assert_int_equal(rc, -ENOTCONN);
	end->told_ns = sys_now_ns();
}

static void asked_to_end(void **state)
{
	const enum sys_way way = *(enum sys_way *)*state;
	struct attnd_client *client, *idle;
	struct attnd_options how;
	struct attnd_open_params open;
	struct attnd_completion completion;
	struct end end = { .tokens = 10 };
	uint64_t session, seed;
	int64_t begin_ns;

	sys_net_start(&net, options);
	learn_answers();
	seed = learn_seed();
	how = sys_net_options(&net, way);
	how.submission_slots = 16;
	how.completion_slots = 64;
	how.dead_after_ns = 60 * SECOND; /* it is not by silence that they know */
	assert_int_equal(attnd_connect(&client, &how), 0);
	assert_int_equal(attnd_connect(&idle, &how), 0);
	assert_int_equal(attnd_nop(idle), 0);
	attnd_open_defaults(&open);
	assert_int_equal(attnd_session_open(client, &open, &session), 0);
	begin_stream(client, session, seed, end.tokens);
	begin_ns = sys_now_ns();
	kill(net.daemon.pid, SIGTERM);
	sys_sleep_ms(100); /* it drains */
	read_to_the_end(client, session, &end);
	assert_int_equal(attnd_wait(idle, &completion, 1, 5 * SECOND), -ENOTCONN);
	printf("# %s: told after %.0f ms; %u tokens, %u requests beside them\n", sys_way_name(way), (double)(end.told_ns - begin_ns) / 1e6,
		end.tokens, end.nops);
	assert_true(end.streamed);
	assert_int_equal(end.tokens, STREAM_TOKENS);
	assert_int_equal(end.draining, 1);
	assert_true(end.told_ns - begin_ns < 9 * SECOND);
	assert_int_equal(sys_daemon_wait_end(&net.daemon, 10000), 0);
	assert_true(attnd_reconnect(client) < 0);
	attnd_disconnect(client);
	attnd_disconnect(idle);
	/* It comes up again where it was. */
	sys_daemon_again(&net.daemon);
	client = sys_net_connect(&net, way);
	assert_int_equal(attnd_nop(client), 0);
	attnd_disconnect(client);
	sys_net_stop(&net);
}

/* Megabytes of results that nobody has read when it is asked to end: more than sockets hold. Each is what it is over shared memory. */
static void what_was_accepted_arrives(void **state)
{
	const enum sys_way way = *(enum sys_way *)*state;
	struct attnd_client *client;
	struct attnd_model_info model;
	struct attnd_options how;
	struct attnd_open_params open;
	struct attnd_completion completion;
	struct attnd_request sessions[RESULTS];
	unsigned char *results, *first;
	uint64_t session;
	uint32_t *tokens, seen = 0; /* a bit for each */
	size_t bytes;

	sys_net_start(&net, options);
	learn_answers();
	how = sys_net_options(&net, way);
	how.dead_after_ns = 60 * SECOND;
	assert_int_equal(attnd_connect(&client, &how), 0);
	assert_int_equal(attnd_describe_model(client, 0, &model), 0);
	attnd_open_defaults(&open);
	bytes = (size_t)HISTORY * model.vocab * 4;
	tokens = attnd_loan(client, HISTORY * 4);
	memcpy(tokens, history, HISTORY * 4);
	results = attnd_loan(client, RESULTS * bytes);
	assert_non_null(results);
	memset(results, 0, RESULTS * bytes);
	for (uint32_t i = 0; i < RESULTS; i++) {
		const struct attnd_step_args args = { .output = ATTND_OUT_LOGITS, .select = ATTND_SELECT_ALL };
		struct attnd_request step = { .op = ATTND_OP_STEP, .request_id = i, .argument = HISTORY, .in_offset = attnd_offset(client, tokens),
			.in_bytes = HISTORY * 4, .out_offset = attnd_offset(client, results + i * bytes), .out_capacity = (uint32_t)bytes };

		assert_int_equal(attnd_session_open(client, &open, &session), 0);
		step.session = session;
		memcpy(&step.args, &args, sizeof(args));
		sessions[i] = step;
	}
	assert_int_equal(attnd_submit(client, sessions, RESULTS), RESULTS);
	assert_true(sys_daemon_wait_number(&net.daemon, "counters.completed", sys_daemon_number(&net.daemon, "counters.accepted"), 10000));
	kill(net.daemon.pid, SIGTERM);
	sys_sleep_ms(300);
	first = malloc(bytes);
	for (uint32_t i = 0; i < RESULTS; i++) {
		const unsigned char *result;

		assert_int_equal(attnd_wait(client, &completion, 1, 10 * SECOND), 1);
		assert_int_equal(completion.status, ATTND_OK);
		assert_true(completion.request_id < RESULTS && !(seen & 1u << completion.request_id));
		seen |= 1u << completion.request_id;
		result = results + completion.request_id * bytes;
		if (i == 0)
			memcpy(first, result, bytes);
		assert_memory_equal(first, result, bytes);
	}
	free(first);
	assert_int_equal(attnd_wait(client, &completion, 1, 20 * SECOND), -ENOTCONN);
	attnd_disconnect(client);
	sys_net_stop(&net);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(killed_under_load),
		cmocka_unit_test(asked_to_end),
		cmocka_unit_test(what_was_accepted_arrives),
	};

	return sys_net_run_over_ways(tests, sizeof(tests) / sizeof(tests[0]), SYS_SHM, NULL, NULL);
}
