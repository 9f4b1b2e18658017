/*
 * Time limit: 300 s
 *
 * The same session gives the same bits: alone, in a batch with 31 others, with 0, 1 and 2 workers,
 * and whatever the chunks of its prefill; through the whole daemon, for every KV format. Compared
 * are all logits of a prompt that crosses page boundaries, and of tokens after it. Sessions that are
 * forks of one, whose prefix is read once for all of them, have the bits that they have apart. And an
 * ATTEND has the same bits whole, which the scheduler cuts as it thinks fit, and in pieces.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "attnd/attnd.h"
#include "base/base_rand.h"
#include "tests/system/sys_daemon.h"

enum { ATTEND_ROWS = 1024, ATTEND_HEADS = 32, ATTEND_KV_HEADS = 8, ATTEND_DIM = 128 };
enum { PROMPT = 150, AFTER = 8, OTHERS = 31, FORKS = 12, PREFIX = 1100, FORK_STEPS = 3 };

struct run {
	uint32_t vocab;
	float *logits; /* [PROMPT + AFTER][vocab] */
};

static void fill_tokens(uint32_t *tokens, uint32_t count, uint64_t seed, uint32_t vocab)
{
	for (uint32_t i = 0; i < count; i++)
		tokens[i] = (uint32_t)base_rand_below(&seed, vocab);
}

/* What a request reads or writes begins at a multiple of 64 bytes. */
enum { UNIT = 16 };

static struct attnd_request step(struct attnd_client *client, uint64_t id, uint64_t session,
	const uint32_t *tokens, uint32_t count, float *logits, uint32_t vocab)
{
	struct attnd_request request = { .op = ATTND_OP_STEP,
		.request_id = id,
		.session = session,
		.argument = count,
		.in_offset = attnd_offset(client, tokens),
		.in_bytes = count * 4 };
	const struct attnd_step_args args = { .output = logits ? ATTND_OUT_LOGITS : ATTND_OUT_NONE,
		.select = ATTND_SELECT_ALL };

	memcpy(&request.args, &args, sizeof(args));
	if (logits) {
		request.out_offset = attnd_offset(client, logits);
		request.out_capacity = count * vocab * 4;
	}
	return request;
}

static void submit(struct attnd_client *client, const struct attnd_request *request)
{
	int rc;

	while ((rc = attnd_submit(client, request, 1)) == -EAGAIN)
		;
	assert_int_equal(rc, 1);
}

static void finish(struct attnd_client *client, uint32_t count)
{
	struct attnd_completion completion;

	while (count) {
		assert_true(attnd_wait(client, &completion, 1, -1) == 1);
		assert_int_equal(completion.status, ATTND_OK);
		count--;
	}
}

/* Our session's prompt in pieces, then token after token, while `others` sessions do work of their
 * own in the same batches. */
static void play(struct attnd_client *client, const struct attnd_open_params *open, uint32_t others,
	const uint32_t *pieces, struct run *run)
{
	uint32_t all[PROMPT + AFTER];
	uint32_t *tokens = attnd_loan(client, PROMPT * 4),
		 *noise = attnd_loan(client, (PROMPT + AFTER) * 4);
	float *logits = attnd_loan(client, sizeof(float) * PROMPT * run->vocab);
	uint64_t sessions[1 + OTHERS];

	assert_non_null(logits);
	fill_tokens(all, PROMPT + AFTER, 5, run->vocab);
	fill_tokens(noise, PROMPT + AFTER, 6, run->vocab);
	for (uint32_t i = 0; i <= others; i++)
		assert_int_equal(attnd_session_open(client, open, &sessions[i]), 0);
	for (uint32_t at = 0, piece = 0, count; at < PROMPT + AFTER; at += count) {
		count = at < PROMPT ? pieces[piece++] : 1;
		if (at < PROMPT && count > PROMPT - at)
			count = PROMPT - at;
		memcpy(tokens, all + at, count * 4);
		const struct attnd_request ours =
			step(client, 1000, sessions[0], tokens, count, logits, run->vocab);

		for (uint32_t i = 0; i <= others; i++) { /* ours among the others; these ragged,
							    each with a length of its own */
			const struct attnd_request other = step(client, i, sessions[i],
				noise + i % 8 * 16, 1 + (count + i) % 20, NULL, 0);

			if (i == others / 2)
				submit(client, &ours);
			if (i)
				submit(client, &other);
		}
		finish(client, 1 + others);
		memcpy(run->logits + (size_t)at * run->vocab, logits,
			sizeof(float) * count * run->vocab);
	}
	for (uint32_t i = 0; i <= others; i++)
		assert_int_equal(attnd_session_close(client, sessions[i]), 0);
	attnd_return(client, logits);
	attnd_return(client, noise);
	attnd_return(client, tokens);
}

static const uint32_t whole[] = { PROMPT },
		      small[] = { 1, 15, 17, 16, 14, 1, 1, 35, 16, 16, 16, 16, 16 },
		      mixed[] = { 63, 2, 64, 48 };

static bool same(const struct run *a, const struct run *b, const char *what)
{
	size_t count = (size_t)(PROMPT + AFTER) * a->vocab;

	for (size_t i = 0; i < count; i++)
		if (memcmp(&a->logits[i], &b->logits[i], sizeof(float))) {
			printf("# %s: position %zu, token %zu: %a is not %a\n", what, i / a->vocab,
				i % a->vocab, (double)b->logits[i], (double)a->logits[i]);
			return false;
		}
	return true;
}

static void try_daemon(
	const char *const *options, enum attnd_kv kv, struct run *reference, bool is_reference)
{
	struct sys_daemon daemon;
	struct attnd_client *client;
	struct attnd_open_params open;
	struct attnd_model_info info;
	struct run run;

	sys_daemon_start(&daemon, true, options);
	const struct attnd_options attach = {
		.struct_bytes = sizeof(attach), .address = daemon.address, .arena_bytes = 16 << 20
	};

	assert_int_equal(attnd_connect(&client, &attach), 0);
	assert_int_equal(attnd_describe_model(client, 0, &info), 0);
	attnd_open_defaults(&open);
	open.kv_k = open.kv_v = (uint8_t)kv;
	run.vocab = info.vocab;
	run.logits = malloc(sizeof(float) * (PROMPT + AFTER) * info.vocab);
	if (is_reference) {
		reference->vocab = info.vocab;
		reference->logits = malloc(sizeof(float) * (PROMPT + AFTER) * info.vocab);
		play(client, &open, 0, whole, reference);
	}
	const struct {
		const char *what;
		uint32_t others;
		const uint32_t *pieces;
	} cases[] = {
		{ "alone, whole prompt", 0, whole },
		{ "alone, small pieces", 0, small },
		{ "alone, mixed pieces", 0, mixed },
		{ "31 others, whole prompt", OTHERS, whole },
		{ "31 others, mixed pieces", OTHERS, mixed },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		play(client, &open, cases[i].others, cases[i].pieces, &run);
		assert_true(same(reference, &run, cases[i].what));
	}
	free(run.logits);
	attnd_disconnect(client);
	sys_daemon_stop(&daemon);
}

static void all_daemons(enum attnd_kv kv)
{
	static const char *const base[] = { "kv.pool=256M", "placement.workers=0",
		"daemon.log_level=warn", NULL };
	static const char *const one[] = { "kv.pool=256M", "placement.workers=1",
		"daemon.log_level=warn", "limits.prefill_chunk=48", "limits.step_rows=100",
		"limits.out_rows=40", NULL };
	static const char *const two[] = { "kv.pool=256M", "placement.workers=2",
		"daemon.log_level=warn", "limits.prefill_chunk=7", "limits.step_rows=33",
		"limits.out_rows=9", NULL };
	struct run reference;

	try_daemon(base, kv, &reference, true);
	if (!sys_sanitized()) /* there the extremes do: the bits are the plain suite's business */
		try_daemon(one, kv, &reference, false);
	try_daemon(two, kv, &reference, false);
	free(reference.logits);
}

/* Sessions behind one prefix, each a little shorter than the one before, go on together; either as
 * forks of the first or with caches of their own. logits: [FORK_STEPS][FORKS][vocab]. */
static void play_forks(struct attnd_client *client, const struct attnd_open_params *open,
	bool forked, uint32_t vocab, float *logits)
{
	const uint32_t stride = (vocab + UNIT - 1) / UNIT * UNIT;
	uint32_t *tokens = attnd_loan(client, PREFIX * 4), *next_tokens = attnd_loan(client, FORKS * UNIT * 4);
	float *out = attnd_loan(client, sizeof(float) * FORKS * stride);
	uint64_t sessions[FORKS];

	assert_non_null(out);
	fill_tokens(tokens, PREFIX, 7, vocab);
	for (uint32_t i = 0; i < FORKS; i++) {
		if (i > 0 && forked) {
			assert_int_equal(attnd_session_fork(
						 client, sessions[0], PREFIX - i, &sessions[i]),
				0);
			continue;
		}
		assert_int_equal(attnd_session_open(client, open, &sessions[i]), 0);
		const struct attnd_request fill =
			step(client, i, sessions[i], tokens, PREFIX - i, NULL, vocab);

		submit(client, &fill);
		finish(client, 1);
	}
	for (uint32_t at = 0; at < FORK_STEPS; at++) {
		for (uint32_t i = 0; i < FORKS; i++) {
			next_tokens[i * UNIT] = tokens[17 * at + i];
			const struct attnd_request next = step(client, i, sessions[i],
				next_tokens + (size_t)i * UNIT, 1, out + (size_t)i * stride, vocab);

			submit(client, &next);
		}
		finish(client, FORKS);
		for (uint32_t i = 0; i < FORKS; i++)
			memcpy(logits + ((size_t)at * FORKS + i) * vocab, out + (size_t)i * stride,
				sizeof(float) * vocab);
	}
	for (uint32_t i = 0; i < FORKS; i++)
		assert_int_equal(attnd_session_close(client, sessions[i]), 0);
	attnd_return(client, out);
	attnd_return(client, next_tokens);
	attnd_return(client, tokens);
}

static void test_forks(void **state)
{
	/* Sessions with one prompt are to have blocks of their own. */
	static const char *const options[] = { "kv.pool=256M", "placement.workers=1", "kv.prefix_cache=no",
		"daemon.log_level=warn", NULL };
	static const enum attnd_kv formats[] = { ATTND_KV_INT8, ATTND_KV_BF16, ATTND_KV_INT4 };
	struct attnd_open_params open;
	struct attnd_model_info info;
	struct attnd_client *client;
	struct sys_daemon daemon;
	float *apart, *forked;

	(void)state;
	sys_daemon_start(&daemon, true, options);
	const struct attnd_options attach = {
		.struct_bytes = sizeof(attach), .address = daemon.address, .arena_bytes = 16 << 20
	};

	assert_int_equal(attnd_connect(&client, &attach), 0);
	assert_int_equal(attnd_describe_model(client, 0, &info), 0);
	apart = malloc(sizeof(float) * FORK_STEPS * FORKS * info.vocab);
	forked = malloc(sizeof(float) * FORK_STEPS * FORKS * info.vocab);
	for (uint32_t i = 0; i < sizeof(formats) / sizeof(*formats); i++) {
		attnd_open_defaults(&open);
		open.kv_k = open.kv_v = (uint8_t)formats[i];
		play_forks(client, &open, false, info.vocab, apart);
		play_forks(client, &open, true, info.vocab, forked);
		assert_memory_equal(
			apart, forked, sizeof(float) * FORK_STEPS * FORKS * info.vocab);
	}
	free(apart);
	free(forked);
	attnd_disconnect(client);
	sys_daemon_stop(&daemon);
}

/* ---- ATTEND ------------------------------------------------------------------------------------ */

static float *noise(size_t count, uint64_t seed)
{
	float *x = malloc(count * sizeof(*x));

	for (size_t i = 0; i < count; i++)
		x[i] = (float)base_rand_below(&seed, 1 << 20) / (1 << 18) - 2.0f;
	return x;
}

static void attend(struct attnd_client *client, const struct attnd_open_params *shape,
	uint32_t piece, float *const qkvo[4])
{
	const size_t q_width = ATTEND_HEADS * ATTEND_DIM, kv_width = ATTEND_KV_HEADS * ATTEND_DIM;
	struct attnd_attend_params params;
	uint64_t session;

	assert_int_equal(attnd_session_open(client, shape, &session), 0);
	for (uint32_t at = 0, rows; at < ATTEND_ROWS; at += rows) {
		rows = ATTEND_ROWS - at < piece ? ATTEND_ROWS - at : piece;
		attnd_attend_defaults(&params);
		params.flags = ATTND_ATTEND_CAUSAL;
		params.q_rows = params.kv_rows = rows;
		assert_int_equal(attnd_attend(client, session, shape, &params, qkvo[0] + at * q_width,
			qkvo[1] + at * kv_width, qkvo[2] + at * kv_width, qkvo[3] + at * q_width, NULL), 0);
	}
	assert_int_equal(attnd_session_close(client, session), 0);
}

static void test_attend(void **state)
{
	static const char *const options[] = { "kv.pool=256M", "daemon.log_level=warn", NULL };
	static const enum attnd_kv formats[] = { ATTND_KV_INT8, ATTND_KV_INT4 };
	static const uint32_t pieces[] = { 64, ATTEND_ROWS, 500 };
	const size_t count = (size_t)ATTEND_ROWS * ATTEND_HEADS * ATTEND_DIM;
	float *const qkv[3] = { noise(count, 1), noise(count, 2), noise(count, 3) };
	float *const first = malloc(count * sizeof(float)), *const cut = malloc(count * sizeof(float));
	struct attnd_open_params open;
	struct attnd_client *client;
	struct sys_daemon daemon;

	(void)state;
	if (sys_sanitized()) {
		free(first), free(cut);
		for (uint32_t i = 0; i < 3; i++)
			free(qkv[i]);
		skip();
	}
	sys_daemon_start(&daemon, false, options);
	const struct attnd_options attach = {
		.struct_bytes = sizeof(attach), .address = daemon.address, .arena_bytes = 128 << 20
	};

	assert_int_equal(attnd_connect(&client, &attach), 0);
	attnd_open_defaults(&open);
	open.kind = ATTND_SESSION_ATTENTION;
	open.layers = 1;
	open.heads = ATTEND_HEADS;
	open.kv_heads = ATTEND_KV_HEADS;
	open.head_dim = ATTEND_DIM;
	for (uint32_t f = 0; f < 2; f++) {
		open.kv_k = open.kv_v = (uint8_t)formats[f];
		for (uint32_t i = 0; i < 3; i++) {
			attend(client, &open, pieces[i],
				(float *const[]){ qkv[0], qkv[1], qkv[2], i == 0 ? first : cut });
			if (i > 0)
				assert_memory_equal(first, cut, count * sizeof(float));
		}
	}
	attnd_disconnect(client);
	sys_daemon_stop(&daemon);
	free(first);
	free(cut);
	for (uint32_t i = 0; i < 3; i++)
		free(qkv[i]);
}

/* Under sanitizers int8 stands for all: it has the longest way. */
static void slow_if_sanitized(void)
{
	if (sys_sanitized())
		skip();
}

static void test_f32(void **state)
{
	(void)state;
	slow_if_sanitized();
	all_daemons(ATTND_KV_F32);
}
static void test_bf16(void **state)
{
	(void)state;
	slow_if_sanitized();
	all_daemons(ATTND_KV_BF16);
}
static void test_int8(void **state)
{
	(void)state;
	all_daemons(ATTND_KV_INT8);
}

/* The comparison can fail: one changed bit is seen. */
static void test_comparison(void **state)
{
	struct run a = { .vocab = 2 }, b = a;

	(void)state;
	a.logits = calloc((PROMPT + AFTER) * 2, sizeof(float));
	b.logits = calloc((PROMPT + AFTER) * 2, sizeof(float));
	assert_true(same(&a, &b, "equal"));
	b.logits[77] = -0.0f;
	assert_false(same(&a, &b, "planted difference"));
	free(a.logits);
	free(b.logits);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_comparison),
		cmocka_unit_test(test_f32),
		cmocka_unit_test(test_bf16),
		cmocka_unit_test(test_int8),
		cmocka_unit_test(test_forks),
		cmocka_unit_test(test_attend),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
