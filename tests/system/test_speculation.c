/*
 * Time limit: 200 s
 *
 * A daemon whose streams guess ahead says, bit for bit, what one says whose streams do not: on a real model and with real kernels,
 * for every KV format, drawn at several temperatures, over page boundaries, and with streams beside each other that end at different
 * times. Compared are all tokens, and all logits of a step behind them, which see every key and value that the streams left.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "attnd/attnd.h"
#include "base/base_rand.h"
#include "tests/system/sys_daemon.h"

enum { STREAMS = 3, PROMPT = 60, TOKENS = 150, VOCAB_MAX = 4096, ROUNDS = 4, UNIT_BYTES = 64 };

struct said {
	uint32_t tokens[STREAMS][TOKENS];
	float logits[STREAMS][VOCAB_MAX];
};

/* Where a stream's request and its answer lie in the arena. */
struct paper {
	struct attnd_generate_params params;
	uint32_t prompt[PROMPT];
	_Alignas(UNIT_BYTES) uint32_t out[TOKENS];
	_Alignas(UNIT_BYTES) uint32_t last[UNIT_BYTES / 4];
};

static void write_prompt(uint32_t *prompt, uint64_t seed, uint32_t vocab)
{
	for (uint32_t i = 0; i < PROMPT; i++)
		prompt[i] = i < PROMPT / 3 ? (uint32_t)base_rand_below(&seed, vocab) : prompt[i - PROMPT / 3];
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
		count -= completion.flags & ATTND_CPL_FINAL ? 1 : 0;
	}
}

static void play(struct attnd_client *client, enum attnd_kv kv, uint32_t round, uint32_t vocab, struct said *said)
{
	/* A model of random weights repeats itself only where that is made likely. */
	static const float temperatures[ROUNDS] = { 0.0f, 0.5f, 3.0f, 6.0f },
			   penalties[ROUNDS] = { 0.5f, 0.3f, 0.1f, 0.1f };
	struct paper *papers = attnd_loan(client, sizeof(*papers) * STREAMS);
	float *logits = attnd_loan(client, sizeof(float) * VOCAB_MAX);
	uint64_t sessions[STREAMS];
	struct attnd_open_params open;

	assert_non_null(papers);
	assert_non_null(logits);
	attnd_open_defaults(&open);
	open.kv_k = open.kv_v = (uint8_t)kv;
	for (uint32_t s = 0; s < STREAMS; s++)
		assert_int_equal(attnd_session_open(client, &open, &sessions[s]), 0);
	for (uint32_t s = 0; s < STREAMS; s++) {
		struct paper *paper = &papers[s];

		attnd_generate_defaults(&paper->params);
		paper->params.max_tokens = TOKENS - 20 * s;
		paper->params.sampling = (struct attnd_sampling){ .seed = s, .temperature = temperatures[round], .top_p = 1.0f,
			.repeat_penalty = penalties[round], .repeat_window = 30 };
		write_prompt(paper->prompt, 100 * round + s, vocab);
		const struct attnd_request request = { .op = ATTND_OP_GENERATE,
			.request_id = s,
			.session = sessions[s],
			.argument = PROMPT,
			.in_offset = attnd_offset(client, paper),
			.in_bytes = sizeof(paper->params) + sizeof(paper->prompt),
			.out_offset = attnd_offset(client, paper->out),
			.out_capacity = sizeof(paper->out) };

		memset(paper->out, 0, sizeof(paper->out));
		submit(client, &request);
	}
	finish(client, STREAMS);
	for (uint32_t s = 0; s < STREAMS; s++) {
		const struct attnd_step_args args = { .output = ATTND_OUT_LOGITS };
		struct attnd_request request = { .op = ATTND_OP_STEP,
			.session = sessions[s],
			.argument = 1,
			.in_offset = attnd_offset(client, papers[s].last),
			.in_bytes = 4,
			.out_offset = attnd_offset(client, logits),
			.out_capacity = vocab * 4 };

		memcpy(said->tokens[s], papers[s].out, sizeof(papers[s].out));
		papers[s].last[0] = papers[s].out[papers[s].params.max_tokens - 1];
		memcpy(&request.args, &args, sizeof(args));
		submit(client, &request);
		finish(client, 1);
		memcpy(said->logits[s], logits, vocab * sizeof(float));
		assert_int_equal(attnd_session_close(client, sessions[s]), 0);
	}
	attnd_return(client, logits);
	attnd_return(client, papers);
}

/* All formats and rounds; how many tokens were guessed, and how many of these were right. */
static void run(const char *speculate, const char *workers, struct said *said, double *guessed, double *right)
{
	const char *const options[] = { "kv.pool=128M", "daemon.log_level=warn", "limits.sessions=16", speculate, workers, NULL };
	struct attnd_model_info info;
	struct attnd_client *client;
	struct sys_daemon daemon;

	sys_daemon_start(&daemon, true, options);
	const struct attnd_options attach = {
		.struct_bytes = sizeof(attach), .address = daemon.address, .arena_bytes = 4 << 20
	};

	assert_int_equal(attnd_connect(&client, &attach), 0);
	assert_int_equal(attnd_describe_model(client, 0, &info), 0);
	assert_true(info.vocab <= VOCAB_MAX);
	for (enum attnd_kv kv = ATTND_KV_F32; kv < ATTND_KV_END; kv++)
		for (uint32_t round = 0; round < ROUNDS; round++)
			play(client, kv, round, info.vocab, said++);
	*guessed = sys_daemon_number(&daemon, "counters.draft_rows");
	*right = sys_daemon_number(&daemon, "counters.drafts_accepted");
	attnd_disconnect(client);
	sys_daemon_stop(&daemon);
}

static void test_speculation(void **state)
{
	enum { RUNS = (ATTND_KV_END - ATTND_KV_F32) * ROUNDS };
	struct said *plain = calloc(RUNS, sizeof(*plain)), *guessed = calloc(RUNS, sizeof(*guessed));
	static const char *const workers[] = { "placement.workers=0", "placement.workers=1" };
	double count, right;

	(void)state;
	assert_true(plain && guessed);
	run("limits.speculate=0", workers[0], plain, &count, &right);
	assert_true(count == 0.0);
	for (uint32_t w = 0; w < 2; w++) {
		run("limits.speculate=15", workers[w], guessed, &count, &right);
		printf("# %s: %.0f tokens guessed, %.0f of them right\n", workers[w], count, right);
		assert_true(right > 100 && count > right + 20);
		for (uint32_t r = 0; r < RUNS; r++) {
			assert_memory_equal(plain[r].tokens, guessed[r].tokens, sizeof(plain[r].tokens));
			assert_memory_equal(plain[r].logits, guessed[r].logits, sizeof(plain[r].logits));
		}
	}
	free(guessed);
	free(plain);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_speculation) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
