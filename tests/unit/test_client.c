/*
 * The client library against a fake daemon on a thread of this process: the asynchronous calls
 * and their limits, every synchronous helper, and every way in which a daemon ends. The same over
 * shared memory and over every kind of socket, where the daemon's own network front answers.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "attnd/attnd.h"
#include "base/base_clock.h"
#include "tests/unit/client_fake_daemon.h"

static const int64_t second = 1000000000;

struct way { const char *name; enum fake_way way; bool sealed; };

static const struct way ways[] = {
	{ "shm", FAKE_SHM, false },
	{ "unix", FAKE_UNIX, false },
	{ "unix, sealed", FAKE_UNIX, true },
	{ "tcp", FAKE_TCP, false },
	{ "tcp, sealed", FAKE_TCP, true },
	{ "udp", FAKE_UDP, false },
	{ "udp, sealed", FAKE_UDP, true },
};

/* Which one the test that runs is over. */
static const struct way *way = &ways[0];

/* Of the sealed ones. */
static char key_file[] = "/tmp/attnd-test-key-XXXXXX";

/* ---- the answers ----------------------------------------------------------------------------- */

/* GENERATE: tokens 1000, 1001, ... up to max_tokens, until cancelled. */
static bool generate(struct fake_daemon *daemon, const struct attnd_request *request, const void *in,
	struct attnd_completion *completion)
{
	const struct attnd_generate_params *params = in;
	const uint32_t *ids = (const uint32_t *)(params + 1);
	uint32_t i, first = request->argument ? ids[0] : 0;

	if (request->in_bytes != sizeof(*params) + 4 * (request->argument + params->stop_count)) {
		completion->status = ATTND_BAD_SHAPE;
		return true;
	}
	for (i = 0; i < params->max_tokens; i++) {
		const struct attnd_completion token = { .request_id = request->request_id, .sequence = i,
			.value = first + i };

		if (fake_daemon_cancelled(daemon, request->request_id)) {
			completion->status = ATTND_CANCELLED;
			return true;
		}
		if (!fake_daemon_stream(daemon, &token))
			return false;
		if (params->stop_count && ids[request->argument] == first + i) {
			completion->value = ATTND_STOP_TOKEN;
			return true;
		}
	}
	completion->value = ATTND_STOP_LENGTH;
	return true;
}

/* TOKENIZE: one id per byte. DETOKENIZE: the reverse. */
static void convert(const struct attnd_request *request, const void *in, void *out,
	struct attnd_completion *completion)
{
	bool tokenize = request->op == ATTND_OP_TOKENIZE;
	uint32_t count = tokenize ? request->in_bytes : request->in_bytes / 4;
	uint32_t bytes = tokenize ? count * 4 : count;

	if (bytes > request->out_capacity) {
		completion->status = ATTND_NO_OUTPUT_ROOM;
		completion->value = bytes;
		return;
	}
	for (uint32_t i = 0; i < count; i++)
		if (tokenize)
			((uint32_t *)out)[i] = ((const unsigned char *)in)[i];
		else
			((char *)out)[i] = (char)((const uint32_t *)in)[i];
	completion->result_bytes = bytes;
	completion->value = count;
}

static void describe(const struct attnd_request *request, void *out, struct attnd_completion *completion)
{
	struct attnd_daemon_info daemon = { .struct_bytes = sizeof(daemon), .models = 3 };
	struct attnd_model_info model = { .struct_bytes = sizeof(model), .index = (uint32_t)request->args };
	struct attnd_session_info session = { .struct_bytes = sizeof(session), .position = (uint32_t)request->session };

	model.name[0] = (char)('a' + request->args);
	if (request->argument == ATTND_DESCRIBE_DAEMON) {
		memcpy(out, &daemon, sizeof(daemon));
		completion->result_bytes = sizeof(daemon);
	} else if (request->argument == ATTND_DESCRIBE_MODEL && request->args < 3) {
		memcpy(out, &model, sizeof(model));
		completion->result_bytes = sizeof(model);
	} else if (request->argument == ATTND_DESCRIBE_SESSION) {
		memcpy(out, &session, sizeof(session));
		completion->result_bytes = sizeof(session);
	} else {
		completion->status = ATTND_BAD_MODEL;
	}
}

/* ATTEND: O is Q plus the first values of K and V; the log-sum-exp is 7. */
static uint32_t attend(const struct attnd_request *request, const void *in, void *out)
{
	const struct attnd_attend_params *params = in;
	const unsigned char *bytes = in;
	const float *q = (const float *)(const void *)(bytes + 64), *k, *v;
	uint32_t q_count = params->q_rows * 2 * 8, kv_count = params->kv_rows * 1 * 8;
	float *o = out, *lse;

	k = (const float *)(const void *)(bytes + 64 + (q_count * 4 + 63) / 64 * 64);
	v = (const float *)(const void *)((const unsigned char *)k + (kv_count * 4 + 63) / 64 * 64);
	for (uint32_t i = 0; i < q_count; i++)
		o[i] = q[i] + (kv_count ? k[0] + v[0] : 0);
	if (!(params->flags & ATTND_ATTEND_LSE))
		return q_count * 4;
	lse = (float *)(void *)((unsigned char *)out + (q_count * 4 + 63) / 64 * 64);
	for (uint32_t i = 0; i < params->q_rows * 2; i++)
		lse[i] = (float)request->session;
	return (q_count * 4 + 63) / 64 * 64 + params->q_rows * 2 * 4;
}

/* The session whose STEPs are never answered. */
enum { SILENT = 666 };

static bool answer(struct fake_daemon *daemon, const struct attnd_request *request, const void *in, void *out,
	struct attnd_completion *completion)
{
	switch (request->op) {
	case ATTND_OP_NOP:
		if (request->in_bytes && request->in_bytes <= request->out_capacity)
			memcpy(out, in, request->in_bytes);
		completion->result_bytes = request->in_bytes;
		completion->value = request->args;
		return true;
	case ATTND_OP_DESCRIBE:
		describe(request, out, completion);
		return true;
	case ATTND_OP_OPEN:
		completion->value = 4000 + ((const struct attnd_open_params *)in)->max_tokens;
		return true;
	case ATTND_OP_FORK:
		completion->value = request->session + request->argument;
		return true;
	case ATTND_OP_TRUNCATE:
	case ATTND_OP_CLOSE:
		completion->status = request->session == 4100 ? ATTND_OK : ATTND_BAD_SESSION;
		return true;
	case ATTND_OP_STEP:
		if (request->session == SILENT)
			return false;
		memcpy(out, in, request->in_bytes <= request->out_capacity ? request->in_bytes : request->out_capacity);
		completion->result_bytes = request->in_bytes;
		completion->value = request->args;
		return true;
	case ATTND_OP_GENERATE:
		return generate(daemon, request, in, completion);
	case ATTND_OP_TOKENIZE:
	case ATTND_OP_DETOKENIZE:
		convert(request, in, out, completion);
		return true;
	case ATTND_OP_ATTEND:
		completion->result_bytes = attend(request, in, out);
		return true;
	case ATTND_OP_APPEND:
		return true;
	case ATTND_OP_CANCEL:
		return true;
	default:
		return false;
	}
}

static const struct attnd_request never_answered = { .op = ATTND_OP_STEP, .session = SILENT };

/* ---- both ends ------------------------------------------------------------------------------- */

struct rig {
	struct fake_daemon daemon;
	struct attnd_options options;
	struct attnd_client *client;
};

static struct rig *rig_start(const struct attnd_options *options, uint32_t max_in_flight)
{
	struct rig *rig = calloc(1, sizeof(*rig));

	assert_non_null(rig);
	rig->daemon.answer = answer;
	rig->daemon.boot_id = 555;
	rig->daemon.way = way->way;
	rig->daemon.key_file = way->sealed ? key_file : NULL;
	rig->daemon.max_in_flight = max_in_flight;
	fake_daemon_start(&rig->daemon);
	if (options)
		rig->options = *options;
	rig->options.struct_bytes = sizeof(rig->options);
	rig->options.address = rig->daemon.address;
	rig->options.key_file = rig->daemon.key_file;
	if (attnd_connect(&rig->client, &rig->options))
		fail_msg("%s", attnd_error());
	return rig;
}

static void rig_end(struct rig *rig)
{
	attnd_disconnect(rig->client);
	fake_daemon_end(&rig->daemon, FAKE_CLOSES);
	free(rig);
}

/* A test that is the same over every way is told which one it is. */
static int choose(void **state)
{
	way = *state ? *state : &ways[0];
	return 0;
}

static int setup(void **state)
{
	choose(state);
	*state = rig_start(NULL, 0);
	return 0;
}

static int teardown(void **state)
{
	rig_end(*state);
	return 0;
}

static struct attnd_client *client_of(void **state)
{
	return ((struct rig *)*state)->client;
}

/* ---- connecting ------------------------------------------------------------------------------ */

static void the_usual_options_are_filled_in(void **state)
{
	struct attnd_client *client = client_of(state);
	int64_t now_ns = base_monotonic_ns();

	assert_true(attnd_arena_free_bytes(client) >= 16 << 20);
	assert_int_equal(attnd_boot_id(client), 555);
	assert_int_equal(attnd_in_flight(client), 0);
	assert_in_range(attnd_now_ns(client) - now_ns + second, 0, 2 * second);
	assert_true(attnd_version()[0] >= '0');
}

static void addresses(void **state)
{
	struct rig *rig = *state;
	struct attnd_options options = { .struct_bytes = sizeof(options) };
	struct attnd_client *client;

	attnd_disconnect(rig->client); /* the fake daemon serves one at a time */
	rig->client = NULL;
	options.address = "tcp:localhost";
	assert_int_equal(attnd_connect(&client, &options), -EINVAL);
	assert_null(client);
	assert_true(strstr(attnd_error(), "tcp:localhost"));
	options.address = "shm:/nowhere/at/all.sock";
	assert_int_equal(attnd_connect(&client, &options), -ENOENT);
	options.struct_bytes = 3;
	assert_int_equal(attnd_connect(&client, &options), -EINVAL);

	setenv("ATTND_ADDRESS", rig->daemon.address, 1);
	assert_int_equal(attnd_connect(&client, NULL), 0);
	assert_int_equal(attnd_nop(client), 0);
	attnd_disconnect(client);
	unsetenv("ATTND_ADDRESS");
	options = (struct attnd_options){ .struct_bytes = sizeof(options), .address = rig->daemon.path };
	assert_int_equal(attnd_connect(&client, &options), 0); /* a bare path is shared memory */
	attnd_disconnect(client);
	attnd_disconnect(NULL);
}

static void a_refusal_has_its_reason(void **state)
{
	struct rig *rig = *state;
	struct attnd_options options = { .struct_bytes = sizeof(options), .address = rig->daemon.path,
		.completion_slots = 100 };
	struct attnd_client *client;

	attnd_disconnect(rig->client);
	rig->client = NULL;
	assert_int_equal(attnd_connect(&client, &options), -EINVAL);
	assert_true(strstr(attnd_error(), "refused"));
	assert_true(strstr(attnd_error(), "power of two"));
}

/* ---- asynchronous ---------------------------------------------------------------------------- */

static void requests_come_back_in_order_with_their_data(void **state)
{
	struct attnd_client *client = client_of(state);
	uint64_t next = 0, done = 0;
	unsigned char *loan = attnd_loan(client, 64 * 64);

	assert_non_null(loan);
	while (done < 50000) {
		struct attnd_request requests[7] = { { .op = ATTND_OP_NOP } };
		struct attnd_completion completions[5];
		int taken;

		for (unsigned i = 0; i < 7; i++)
			requests[i] = (struct attnd_request){ .op = ATTND_OP_NOP, .request_id = next + i, .args = ~(next + i) };
		taken = attnd_submit(client, requests, 7);
		assert_true(taken > 0 || taken == -EAGAIN);
		next += taken > 0 ? (unsigned)taken : 0;
		taken = attnd_poll(client, completions, 5);
		assert_true(taken >= 0);
		for (int i = 0; i < taken; i++, done++) {
			assert_int_equal(completions[i].request_id, done);
			assert_int_equal(completions[i].value, ~done);
			assert_int_equal(completions[i].status, ATTND_OK);
			assert_int_equal(completions[i].lap, 0);
		}
		assert_int_equal(attnd_in_flight(client), next - done);
	}
	attnd_return(client, loan);
}

static void no_more_than_the_limit_are_in_flight(void **state)
{
	struct rig *rig = rig_start(NULL, 10);
	struct attnd_request requests[64];
	struct attnd_completion completions[64];
	unsigned done = 0;

	(void)state;
	for (unsigned i = 0; i < 64; i++)
		requests[i] = (struct attnd_request){ .op = ATTND_OP_NOP, .request_id = i };
	assert_int_equal(attnd_submit(rig->client, requests, 0), 0);
	assert_int_equal(attnd_submit(rig->client, requests, 64), 10);
	assert_int_equal(attnd_submit(rig->client, requests, 64), -EAGAIN);
	while (done < 10)
		done += (unsigned)attnd_wait(rig->client, completions, 64, -1);
	assert_int_equal(done, 10);
	assert_int_equal(attnd_in_flight(rig->client), 0);
	assert_int_equal(attnd_submit(rig->client, requests, 64), 10);
	rig_end(rig);
}

/* A submission ring smaller than the limit: the ring's end is -EAGAIN as well, and passes. Sockets have no rings; there the daemon's
 * limit is as small. */
static void a_small_ring_serves_many_requests(void **state)
{
	const struct attnd_options options = { .submission_slots = 16, .completion_slots = 1024 };
	struct rig *rig = rig_start(&options, way->way == FAKE_SHM ? 0 : 16);
	unsigned put = 0, done = 0, again = 0;

	(void)state;
	while (done < 20000) {
		struct attnd_request requests[32];
		struct attnd_completion completions[32];
		int taken;

		for (unsigned i = 0; i < 32; i++)
			requests[i] = (struct attnd_request){ .op = ATTND_OP_NOP, .request_id = put + i };
		taken = attnd_submit(rig->client, requests, 32);
		put += taken > 0 ? (unsigned)taken : 0;
		again += taken == -EAGAIN || taken < 32;
		taken = attnd_wait(rig->client, completions, 32, second);
		assert_true(taken > 0);
		done += (unsigned)taken;
	}
	assert_true(again > 0);
	rig_end(rig);
}

static void a_wait_ends_when_its_time_is_over(void **state)
{
	struct attnd_client *client = client_of(state);
	struct attnd_completion completion;
	int64_t start_ns = base_monotonic_ns();

	assert_int_equal(attnd_submit(client, &never_answered, 1), 1);
	assert_int_equal(attnd_wait(client, &completion, 1, 0), 0);
	assert_int_equal(attnd_wait(client, &completion, 1, 30000000), 0);
	assert_true(base_monotonic_ns() - start_ns >= 29000000);
	assert_int_equal(attnd_in_flight(client), 1);
	assert_int_equal(attnd_nop(client), -EBUSY);
}

/* Both sides sleep between any two requests. */
static void sleeping_sides_wake_each_other(void **state)
{
	const struct attnd_options options = { .spin_ns = 1 };
	struct rig *rig = rig_start(&options, 0);

	(void)state;
	for (unsigned i = 0; i < 50; i++) {
		int64_t start_ns = base_monotonic_ns();

		usleep(i % 5 * 1000);
		assert_int_equal(attnd_nop(rig->client), 0);
		assert_true(base_monotonic_ns() - start_ns < 4 * second);
	}
	rig_end(rig);
}

/* ---- synchronous ----------------------------------------------------------------------------- */

static void describing(void **state)
{
	struct attnd_client *client = client_of(state);
	struct attnd_daemon_info daemon;
	struct attnd_model_info model;
	struct attnd_session_info session;

	assert_int_equal(attnd_describe_daemon(client, &daemon), 0);
	assert_int_equal(daemon.models, 3);
	assert_int_equal(attnd_describe_model(client, 1, &model), 0);
	assert_string_equal(model.name, "b");
	assert_int_equal(attnd_describe_model(client, 9, &model), -EIO);
	assert_int_equal(attnd_last_completion(client)->status, ATTND_BAD_MODEL);
	assert_true(strstr(attnd_error(), "bad-model"));
	assert_int_equal(attnd_describe_session(client, 17, &session), 0);
	assert_int_equal(session.position, 17);
	assert_int_equal(attnd_model_by_name(client, "c"), 2);
	assert_int_equal(attnd_model_by_name(client, "z"), -ENOENT);
}

static void sessions(void **state)
{
	struct attnd_client *client = client_of(state);
	size_t free_bytes = attnd_arena_free_bytes(client);
	struct attnd_open_params params;
	uint64_t session, fork;

	attnd_open_defaults(&params);
	assert_int_equal(params.struct_bytes, sizeof(params));
	params.max_tokens = 100;
	assert_int_equal(attnd_session_open(client, &params, &session), 0);
	assert_int_equal(session, 4100);
	assert_int_equal(attnd_session_fork(client, session, 7, &fork), 0);
	assert_int_equal(fork, 4107);
	assert_int_equal(attnd_session_truncate(client, session, 3), 0);
	assert_int_equal(attnd_session_close(client, session), 0);
	assert_int_equal(attnd_session_close(client, fork), -EIO);
	assert_int_equal(attnd_last_completion(client)->status, ATTND_BAD_SESSION);
	assert_int_equal(attnd_arena_free_bytes(client), free_bytes);
}

static void steps(void **state)
{
	struct attnd_client *client = client_of(state);
	const uint32_t tokens[5] = { 5, 6, 7, 0, 2 };
	struct attnd_step_args args = { .output = ATTND_OUT_ARGMAX, .select = ATTND_SELECT_CHOSEN, .select_count = 2 };
	uint32_t out[8] = { 0 };
	uint64_t word;

	assert_int_equal(attnd_step(client, 1, tokens, 3, args, out, sizeof(out)), 20);
	assert_memory_equal(out, tokens, 20);
	memcpy(&word, &args, 8);
	assert_int_equal(attnd_last_completion(client)->value, word);
	args.select = ATTND_SELECT_LAST;
	assert_int_equal(attnd_step(client, 1, tokens, 3, args, out, sizeof(out)), 12);
}

struct tokens { uint32_t count, stop_at; bool in_order; };

static int on_token(void *context, uint32_t id, const struct attnd_completion *completion)
{
	struct tokens *tokens = context;

	tokens->in_order = tokens->in_order && id == 1000 + tokens->count && completion->sequence == tokens->count;
	return ++tokens->count == tokens->stop_at;
}

static void generating(void **state)
{
	struct attnd_client *client = client_of(state);
	size_t free_bytes = attnd_arena_free_bytes(client);
	const uint32_t prompt[2] = { 1000, 1 }, stops[1] = { 1009 };
	struct attnd_generate_params params;
	struct tokens tokens = { .in_order = true };
	uint32_t stop;

	attnd_generate_defaults(&params);
	params.max_tokens = 5000; /* several rings full */
	assert_int_equal(attnd_generate(client, 1, &params, prompt, 2, NULL, on_token, &tokens, &stop), 5000);
	assert_int_equal(tokens.count, 5000);
	assert_true(tokens.in_order);
	assert_int_equal(stop, ATTND_STOP_LENGTH);

	params.stop_count = 1;
	tokens = (struct tokens){ .in_order = true };
	assert_int_equal(attnd_generate(client, 1, &params, prompt, 2, stops, on_token, &tokens, &stop), 10);
	assert_int_equal(stop, ATTND_STOP_TOKEN);

	params.stop_count = 0;
	params.max_tokens = 1000000;
	tokens = (struct tokens){ .in_order = true, .stop_at = 20 };
	assert_true(attnd_generate(client, 1, &params, prompt, 2, NULL, on_token, &tokens, &stop) >= 20);
	assert_true(tokens.in_order);
	assert_int_equal(tokens.count, 20); /* a cancelled callback hears no more */
	assert_int_equal(stop, 0);
	assert_int_equal(attnd_in_flight(client), 0);
	assert_int_equal(attnd_arena_free_bytes(client), free_bytes);
	assert_int_equal(attnd_nop(client), 0);
}

static void attending(void **state)
{
	struct attnd_client *client = client_of(state);
	struct attnd_open_params shape = { .heads = 2, .kv_heads = 1, .head_dim = 8 };
	struct attnd_attend_params params;
	float q[3 * 2 * 8], k[5 * 8], v[5 * 8], o[3 * 2 * 8], lse[3 * 2];

	for (unsigned i = 0; i < 48; i++)
		q[i] = (float)i;
	for (unsigned i = 0; i < 40; i++) {
		k[i] = 100 + (float)i;
		v[i] = 1000 + (float)i;
	}
	attnd_attend_defaults(&params);
	params.q_rows = 3;
	params.kv_rows = 5;
	params.flags |= ATTND_ATTEND_LSE;
	assert_int_equal(attnd_attend(client, 7, &shape, &params, q, k, v, o, lse), 0);
	for (unsigned i = 0; i < 48; i++)
		assert_true(o[i] == (float)i + 1100);
	for (unsigned i = 0; i < 6; i++)
		assert_true(lse[i] == 7);
	params.kv_rows = 0;
	params.flags = 0;
	assert_int_equal(attnd_attend(client, 7, &shape, &params, q, NULL, NULL, o, NULL), 0);
	assert_memory_equal(o, q, sizeof(q));
	params.q_rows = 0;
	params.kv_rows = 5;
	assert_int_equal(attnd_attend(client, 7, &shape, &params, NULL, k, v, NULL, NULL), 0);
	shape.heads = 100000;
	assert_int_equal(attnd_attend(client, 7, &shape, &params, NULL, k, v, NULL, NULL), -EINVAL);
}

static void text(void **state)
{
	struct attnd_client *client = client_of(state);
	size_t free_bytes = attnd_arena_free_bytes(client);
	const struct attnd_message messages[] = { { ATTND_ROLE_USER, "hi" }, { ATTND_ROLE_ASSISTANT, "12345678" } };
	uint32_t ids[64];
	char back[16] = "";

	assert_int_equal(attnd_tokenize(client, 0, "hello", 5, 0, ids, 64), 5);
	assert_int_equal(ids[4], 'o');
	/* Too little room: as much as fits is written, and all is counted. */
	memset(ids, 0, sizeof(ids));
	assert_int_equal(attnd_tokenize(client, 0, "hello", 5, 0, ids, 2), 5);
	assert_int_equal(ids[1], 'e');
	assert_int_equal(ids[2], 0);
	assert_int_equal(attnd_tokenize(client, 0, "hello", 5, 0, NULL, 0), 5);
	assert_int_equal(attnd_tokenize(client, 0, "", 0, 0, ids, 2), 0);
	attnd_tokenize(client, 0, "hello", 5, 0, ids, 64);
	assert_int_equal(attnd_detokenize(client, 0, ids, 5, 0, back, 3), 5);
	assert_string_equal(back, "hel");
	/* Header, text padded to 8, header, text. */
	assert_int_equal(attnd_chat_tokenize(client, 0, messages, 2, ids, 64), 8 + 8 + 8 + 8);
	assert_int_equal(ids[0], ATTND_ROLE_USER);
	assert_int_equal(ids[4], 2);
	assert_int_equal(ids[9], 'i');
	assert_int_equal(ids[10], 0);
	assert_int_equal(ids[16], ATTND_ROLE_ASSISTANT);
	assert_int_equal(ids[31], '8');
	assert_int_equal(attnd_arena_free_bytes(client), free_bytes);
}

static void what_does_not_fit_is_an_error(void **state)
{
	const struct attnd_options options = { .arena_bytes = 1 << 16 };
	struct rig *rig = rig_start(&options, 0);
	size_t free_bytes = attnd_arena_free_bytes(rig->client);
	uint32_t *tokens = calloc(1 << 16, sizeof(*tokens));
	const struct attnd_step_args args = { .output = ATTND_OUT_NONE };

	(void)state;
	assert_non_null(tokens);
	assert_int_equal(attnd_step(rig->client, 1, tokens, 1 << 16, args, tokens, 4), -ENOMEM);
	assert_int_equal(attnd_step(rig->client, 1, tokens, 1, args, tokens, 1 << 18), -ENOMEM);
	assert_true(strstr(attnd_error(), "arena"));
	assert_int_equal(attnd_arena_free_bytes(rig->client), free_bytes);
	assert_int_equal(attnd_nop(rig->client), 0);
	free(tokens);
	rig_end(rig);
}

/* ---- the daemon's end ------------------------------------------------------------------------ */

struct killer { struct fake_daemon *daemon; enum fake_end end; unsigned after_us; };

static void *kill_later(void *argument)
{
	struct killer *killer = argument;

	usleep(killer->after_us);
	fake_daemon_end(killer->daemon, killer->end);
	return NULL;
}

/* However the daemon ends, and whether the client then sleeps, spins or polls, it hears of it in
 * time. */
static void the_end_is_noticed(void **state)
{
	(void)state;
	for (unsigned how = 0; how < 6; how++) {
		const struct attnd_options options = { .spin_ns = how / 2 == 0 ? 1 : -1, .dead_after_ns = second / 5 };
		struct rig *rig = rig_start(&options, 0);
		struct killer killer = { &rig->daemon, how % 2 ? FAKE_DIES : FAKE_CLOSES, 30000 };
			struct attnd_completion completion;
		int64_t start_ns;
		pthread_t thread;
		int taken;

		assert_int_equal(attnd_nop(rig->client), 0);
		assert_int_equal(attnd_submit(rig->client, &never_answered, 1), 1);
		assert_int_equal(pthread_create(&thread, NULL, kill_later, &killer), 0);
		start_ns = base_monotonic_ns();
		do {
			taken = how / 2 < 2 ? attnd_wait(rig->client, &completion, 1, -1) :
				attnd_poll(rig->client, &completion, 1);
		} while (taken == 0);
		assert_int_equal(taken, -ENOTCONN);
		/* dead_after_ns, and time for a loaded machine. */
		assert_true(base_monotonic_ns() - start_ns < 5 * second);
		assert_true(strstr(attnd_error(), "gone"));
		assert_int_equal(attnd_submit(rig->client, &never_answered, 1), -ENOTCONN);
		assert_int_equal(attnd_poll(rig->client, &completion, 1), -ENOTCONN);
		assert_int_equal(attnd_wait(rig->client, &completion, 1, -1), -ENOTCONN);
		pthread_join(thread, NULL);
		attnd_disconnect(rig->client);
		free(rig);
	}
}

static void answers_from_before_the_end_are_delivered(void **state)
{
	(void)state;
	for (unsigned how = 0; how < 2; how++) {
		struct rig *rig = rig_start(NULL, 0);
		struct attnd_request requests[20];
		struct attnd_completion completions[4];
		unsigned done = 0;
		int taken;

		for (unsigned i = 0; i < 20; i++)
			requests[i] = (struct attnd_request){ .op = ATTND_OP_NOP, .request_id = i };
		assert_int_equal(attnd_submit(rig->client, requests, 20), 20);
		usleep(50000);
		fake_daemon_end(&rig->daemon, how ? FAKE_DIES : FAKE_CLOSES);
		while ((taken = attnd_wait(rig->client, completions, 4, -1)) > 0)
			done += (unsigned)taken;
		assert_int_equal(done, 20);
		assert_int_equal(taken, -ENOTCONN);
		attnd_disconnect(rig->client);
		free(rig);
	}
}

static void a_synchronous_call_ends_too(void **state)
{
	const struct attnd_options options = { .dead_after_ns = second / 5 };
	struct rig *rig = rig_start(&options, 0);
	struct killer killer = { &rig->daemon, FAKE_DIES, 30000 };
	struct attnd_completion completion;
	size_t free_bytes = attnd_arena_free_bytes(rig->client);
	uint32_t tokens[4] = { 0 };
	pthread_t thread;

	(void)state;
	assert_int_equal(pthread_create(&thread, NULL, kill_later, &killer), 0);
	assert_int_equal(attnd_call(rig->client, &never_answered, &completion), -ENOTCONN);
	pthread_join(thread, NULL);
	assert_int_equal(attnd_step(rig->client, 1, tokens, 4, (struct attnd_step_args){ 0 }, tokens, 16), -ENOTCONN);
	assert_int_equal(attnd_arena_free_bytes(rig->client), free_bytes);
	attnd_disconnect(rig->client);
	free(rig);
}

/* Nobody is there: a socket's file is gone, or somebody says so; where nobody can, nothing is heard. */
static int nobody_there(void)
{
	return way->way == FAKE_SHM || way->way == FAKE_UNIX ? -ENOENT : -ECONNREFUSED;
}

static void a_client_reconnects(void **state)
{
	const struct attnd_options options = { .dead_after_ns = second / 5 };
	struct rig *rig = rig_start(&options, 0);

	(void)state;
	assert_non_null(attnd_loan(rig->client, 1000));
	fake_daemon_end(&rig->daemon, FAKE_DIES);
	assert_int_equal(attnd_reconnect(rig->client), nobody_there());
	assert_int_equal(attnd_nop(rig->client), -ENOTCONN);
	assert_null(attnd_loan(rig->client, 64));
	/* The next life of the daemon is at the same address. */
	rig->daemon.boot_id = 556;
	fake_daemon_start(&rig->daemon);
	assert_int_equal(attnd_reconnect(rig->client), 0);
	assert_int_equal(attnd_boot_id(rig->client), 556);
	assert_int_equal(attnd_nop(rig->client), 0);
	/* Also from a daemon that lives. */
	assert_int_equal(attnd_reconnect(rig->client), 0);
	assert_int_equal(attnd_nop(rig->client), 0);
	rig_end(rig);
}

/* ---- every way ------------------------------------------------------------------------------- */

#define WITH_DAEMON(name) { #name, name, setup, teardown, NULL }
#define ALONE(name) { #name, name, choose, NULL, NULL }

/* What differs by the way is in a test's own words; these are about addresses of shared memory, and its rings. */
static const struct CMUnitTest once[] = {
	WITH_DAEMON(addresses),
	WITH_DAEMON(a_refusal_has_its_reason),
};

static const struct CMUnitTest over_every_way[] = {
	WITH_DAEMON(the_usual_options_are_filled_in),
	WITH_DAEMON(requests_come_back_in_order_with_their_data),
	ALONE(no_more_than_the_limit_are_in_flight),
	ALONE(a_small_ring_serves_many_requests),
	WITH_DAEMON(a_wait_ends_when_its_time_is_over),
	ALONE(sleeping_sides_wake_each_other),
	WITH_DAEMON(describing),
	WITH_DAEMON(sessions),
	WITH_DAEMON(steps),
	WITH_DAEMON(generating),
	WITH_DAEMON(attending),
	WITH_DAEMON(text),
	ALONE(what_does_not_fit_is_an_error),
	ALONE(the_end_is_noticed),
	ALONE(answers_from_before_the_end_are_delivered),
	ALONE(a_synchronous_call_ends_too),
	ALONE(a_client_reconnects),
};

enum { WAYS = sizeof(ways) / sizeof(ways[0]), ONCE = sizeof(once) / sizeof(once[0]),
	EACH = sizeof(over_every_way) / sizeof(over_every_way[0]) };

static void write_key(void)
{
	int fd = mkstemp(key_file);

	if (fd < 0 || dprintf(fd, "%064d\n", 7747) != 65 || close(fd))
		exit(1);
}

int main(void)
{
	static struct CMUnitTest tests[ONCE + WAYS * EACH];
	static char names[WAYS * EACH][96];
	int rc;

	write_key();
	memcpy(tests, once, sizeof(once));
	for (unsigned i = 0; i < WAYS * EACH; i++) {
		struct CMUnitTest *test = &tests[ONCE + i];

		*test = over_every_way[i % EACH];
		snprintf(names[i], sizeof(names[i]), "%s: %s", ways[i / EACH].name, test->name);
		test->name = names[i];
		test->initial_state = (void *)(uintptr_t)&ways[i / EACH];
	}
	rc = cmocka_run_group_tests_name("client", tests, NULL, NULL);
	unlink(key_file);
	return rc;
}
