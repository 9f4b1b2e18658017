/*
 * Time limit: 120 s
 *
 * Prompts that begin as earlier ones did, through the whole daemon: the logits are bit by bit those of a daemon that keeps no
 * prefixes, for every KV format, wherever the prompts part; and what was found was not computed again, also for a client that the
 * daemon has never seen.
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
#include "base/base_rand.h"
#include "tests/system/sys_daemon.h"

enum { PROMPT = 300, SHARED = 200, AFTER = 140, SESSIONS = 8, ROWS = 1 + AFTER };

static const char *const WITH[] = { "kv.pool=256M", "placement.workers=1", "daemon.log_level=warn", NULL };
static const char *const WITHOUT[] = { "kv.pool=256M", "placement.workers=0", "daemon.log_level=warn", "kv.prefix_cache=no", NULL };

/* How many tokens session i shares with those before: the same prompt twice, then prompts that part inside a page, one of them
 * twice, one that is shorter, and one of whole pages twice. */
static const struct {
	uint32_t seed, tokens;
	uint32_t reused, reused_int4; /* int4: where the low halves of the last page were kept */
} PLAYED[SESSIONS] = {
	{ 1, PROMPT, 0, 0 },
	{ 1, PROMPT, 256, 256 },
	{ 2, PROMPT, 192, 64 },
	{ 3, PROMPT, 192, 192 },
	{ 2, PROMPT, 256, 256 },
	{ 1, 150, 128, 128 }, /* where session 2 parted, it stood between two pages: the low halves of both were there */
	{ 4, 256, 192, 192 },
	{ 4, 256, 192, 192 },
};

static void fill(uint32_t *tokens, uint32_t seed, uint32_t vocab)
{
	uint64_t shared = 77, own = seed;

	for (uint32_t i = 0; i < PROMPT + AFTER; i++)
		tokens[i] = (uint32_t)base_rand_below(i < SHARED ? &shared : &own, vocab);
}

static void step(struct attnd_client *client, uint64_t session, const uint32_t *tokens, uint32_t count, uint32_t selected,
	float *logits, uint32_t vocab)
{
	const struct attnd_step_args args = { .output = ATTND_OUT_LOGITS,
		.select = selected == 1 ? ATTND_SELECT_LAST : ATTND_SELECT_ALL };

	assert_int_equal(attnd_step(client, session, tokens, count, args, logits, sizeof(*logits) * selected * vocab),
		(int64_t)sizeof(*logits) * selected * vocab);
}

/* The last row of each prompt, and all rows of what follows. logits: [SESSIONS][ROWS][vocab]. */
static void play(const char *const *options, enum attnd_kv kv, float **logits, uint32_t *vocab)
{
	const bool keeps = options == WITH;
	uint32_t tokens[PROMPT + AFTER];
	struct attnd_session_info session_info;
	struct attnd_model_info model;
	struct attnd_open_params open;
	struct attnd_client *client;
	struct sys_daemon daemon;
	uint64_t session;

	sys_daemon_start(&daemon, true, options);
	const struct attnd_options attach = {
		.struct_bytes = sizeof(attach), .address = daemon.address, .arena_bytes = 16 << 20
	};

	assert_int_equal(attnd_connect(&client, &attach), 0);
	assert_int_equal(attnd_describe_model(client, 0, &model), 0);
	*vocab = model.vocab;
	*logits = calloc((size_t)SESSIONS * ROWS * model.vocab, sizeof(**logits));
	assert_non_null(*logits);
	attnd_open_defaults(&open);
	open.kv_k = open.kv_v = (uint8_t)kv;
	for (uint32_t i = 0; i < SESSIONS; i++) {
		float *out = *logits + (size_t)i * ROWS * model.vocab;

		fill(tokens, PLAYED[i].seed, model.vocab);
		assert_int_equal(attnd_session_open(client, &open, &session), 0);
		step(client, session, tokens, PLAYED[i].tokens, 1, out, model.vocab);
		step(client, session, tokens + PLAYED[i].tokens, AFTER, AFTER, out + model.vocab, model.vocab);
		assert_int_equal(attnd_describe_session(client, session, &session_info), 0);
		assert_int_equal(session_info.reused_tokens,
			!keeps ? 0 : kv == ATTND_KV_INT4 ? PLAYED[i].reused_int4 : PLAYED[i].reused);
		assert_int_equal(attnd_session_close(client, session), 0);
	}
	attnd_disconnect(client);
	sys_daemon_stop(&daemon);
}

static void test_bits(void **state)
{
	float *with, *without;
	uint32_t vocab;

	(void)state;
	for (enum attnd_kv kv = ATTND_KV_F32; kv < ATTND_KV_END; kv++) {
		if (sys_sanitized() && kv != ATTND_KV_INT4)
			continue;
		play(WITHOUT, kv, &without, &vocab);
		play(WITH, kv, &with, &vocab);
		for (uint32_t i = 0; i < SESSIONS * ROWS; i++)
			if (memcmp(with + (size_t)i * vocab, without + (size_t)i * vocab, sizeof(*with) * vocab))
				fail_msg("KV format %u, session %u, row %u: the bits tell that there was a hit", kv, i / ROWS, i % ROWS);
		free(with);
		free(without);
	}
}

/* Its first token comes sooner, by the rows that were not computed. */
static void test_stranger(void **state)
{
	uint32_t tokens[PROMPT + AFTER], answer[2];
	struct attnd_model_info model;
	struct attnd_open_params open;
	struct attnd_client *client;
	struct sys_daemon daemon;
	double rows[3];

	(void)state;
	sys_daemon_start(&daemon, true, WITH);
	const struct attnd_options attach = { .struct_bytes = sizeof(attach), .address = daemon.address };

	attnd_open_defaults(&open);
	rows[0] = 0;
	for (uint32_t i = 0; i < 2; i++) {
		const struct attnd_step_args args = { .output = ATTND_OUT_ARGMAX };
		uint64_t session;

		assert_int_equal(attnd_connect(&client, &attach), 0);
		assert_int_equal(attnd_describe_model(client, 0, &model), 0);
		fill(tokens, 5, model.vocab);
		assert_int_equal(attnd_session_open(client, &open, &session), 0);
		assert_int_equal(
			attnd_step(client, session, tokens, PROMPT, args, &answer[i], sizeof(answer[i])), sizeof(answer[i]));
		attnd_disconnect(client);
		rows[1 + i] = sys_daemon_number(&daemon, "counters.step_rows");
	}
	assert_int_equal(rows[1], PROMPT);
	assert_int_equal(rows[2] - rows[1], PROMPT - 256);
	assert_int_equal(answer[0], answer[1]);
	assert_int_equal(sys_daemon_number(&daemon, "counters.prefix_lookups"), 2);
	assert_int_equal(sys_daemon_number(&daemon, "counters.prefix_hits"), 1);
	assert_int_equal(sys_daemon_number(&daemon, "counters.prefix_tokens"), 256);
	assert_true(sys_daemon_wait_number(&daemon, "kv.used", 0, 2000));
	assert_true(sys_daemon_number(&daemon, "kv.cached") > 0);
	assert_int_equal(sys_daemon_number(&daemon, "kv.cached") + sys_daemon_number(&daemon, "kv.free") +
			sys_daemon_number(&daemon, "kv.dirty"),
		sys_daemon_number(&daemon, "kv.total"));
	sys_daemon_stop(&daemon);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bits),
		cmocka_unit_test(test_stranger),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
