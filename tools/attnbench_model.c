/*
 * attnbench model: tokens per second of a whole model, prefill and decode, client to client, in the manner of
 * llama-bench: ppP is a request of P tokens behind D tokens of context, tgN a stream of N tokens behind as many.
 *
 * One thread that sleeps while it waits, so that all processors are left to the daemon's compute threads. The context
 * is filled once per depth and restored by TRUNCATE before each repeat. A private daemon is started for it, sized for
 * the test, unless --address names one.
 */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_rand.h"
#include "tools/attnbench.h"
#include "tools/attnbench_model.h"
#include "tools/tool_args.h"
#include "tools/tool_text.h"

enum {
	TOKENS_MAX = 1 << 20,
	FILL_TOKENS = 2048, /* of one request that fills the context */
	SETTING_BYTES = 64,
	PAGE_TOKENS = ATTND_PAGE_TOKENS,
	/* Free pages beyond the session's own: TRUNCATE gives pages back when the device is done with them. */
	SPARE_TOKENS = 1024,
};

enum { KEY_DECODE = 0x300 };

static const char *const decodes[] = { "stream", "step", NULL };

static const struct argp_option option_table[] = {
	{ "n-prompt", 'p', "P", 0, "tokens of the prefill (512); 0: no prefill", 1 },
	{ "n-gen", 'n', "N", 0, "tokens of the decode (128); 0: no decode", 1 },
	{ "n-depth", 'd', "D,...", 0, "tokens of context that stand before, one depth or several (0)", 1 },
	{ "kv", 'k', "FORMAT", 0, "of the KV cache, or K,V where they differ (the daemon's default)", 1 },
	{ "threads", 't', "T", 0,
		"compute threads of the private daemon in all; its scheduler's thread is one of them (all cores)", 1 },
	{ "batch", 'b', "ROWS", 0, "most rows of one step of the private daemon (512)", 1 },
	{ "repeats", 'r', "R", 0, "of each test (5)", 1 },
	{ "decode", KEY_DECODE, "HOW", 0, "stream (default) or step", 1 },
	{ "seed", 's', "S", 0, "of the tokens (1)", 1 },
	{ "json", 'j', NULL, 0, "print one JSON object instead of a table", 1 },
	{ 0 },
};

/* Several depths, in ascending order, so that each builds on the one before. */
static void parse_depths(struct attnbench_model *test, char *list)
{
	uint32_t count = 0;

	for (char *part = strtok(list, ","); part; part = strtok(NULL, ",")) {
		uint32_t depth = (uint32_t)tool_args_u64("--n-depth", part, 0, TOKENS_MAX), at = count;

		if (count == ATTNBENCH_MODEL_DEPTHS)
			tool_die(TOOL_USAGE, "--n-depth takes at most %d depths", ATTNBENCH_MODEL_DEPTHS);
		for (; at > 0 && test->depths[at - 1] > depth; at--)
			test->depths[at] = test->depths[at - 1];
		test->depths[at] = depth;
		count++;
	}
	if (count == 0)
		tool_die(TOOL_USAGE, "--n-depth takes a whole number, or several with commas between");
	test->depth_count = count;
}

static void parse_kv(struct attnbench_model *test, char *value)
{
	char *comma = strchr(value, ',');

	if (comma)
		*comma = '\0';
	test->kv_k = tool_args_choice("--kv", value, tool_args_kv);
	test->kv_v = comma ? tool_args_choice("--kv", comma + 1, tool_args_kv) : test->kv_k;
}

/* A private daemon is the rule here; --address is the exception. */
static void check(struct attnbench_model *test, const struct argp_state *state)
{
	struct tool_daemon *daemon = &test->daemon;

	if (!daemon->address)
		daemon->spawn = true;
	if (daemon->spawn && !daemon->model)
		argp_error(state, "which model? --model FILE.gguf");
	if (daemon->address && (test->threads || test->batch))
		argp_error(state, "--threads and --batch are for a private daemon; the one at --address has its own");
	if (test->prompt == 0 && test->generated == 0)
		argp_error(state, "neither prefill nor decode: nothing to measure");
}

static error_t parse(int key, char *value, struct argp_state *state)
{
	struct attnbench_model *test = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &test->daemon;
		return 0;
	case 'p':
		test->prompt = (uint32_t)tool_args_u64("--n-prompt", value, 0, TOKENS_MAX);
		return 0;
	case 'n':
		test->generated = (uint32_t)tool_args_u64("--n-gen", value, 0, TOKENS_MAX);
		return 0;
	case 'd':
		parse_depths(test, value);
		return 0;
	case 'k':
		parse_kv(test, value);
		return 0;
	case 't':
		test->threads = (uint32_t)tool_args_u64("--threads", value, 1, 256);
		return 0;
	case 'b':
		test->batch = (uint32_t)tool_args_u64("--batch", value, 1, 8192);
		return 0;
	case 'r':
		test->repeats = (uint32_t)tool_args_u64("--repeats", value, 1, ATTNBENCH_MODEL_REPEATS);
		return 0;
	case 's':
		test->random = tool_args_u64("--seed", value, 0, UINT64_MAX);
		return 0;
	case KEY_DECODE:
		test->by_steps = tool_args_choice("--decode", value, decodes) == 1;
		return 0;
	case 'j':
		test->json = true;
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "what is '%s'?", value);
		return 0;
	case ARGP_KEY_END:
		check(test, state);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_child children[] = { { &tool_daemon_argp, 0, NULL, 0 }, { 0 } };
static const struct argp argp = { .options = option_table,
	.parser = parse,
	.children = children,
	.doc = "Tokens per second of a whole model, client to client, in the manner of llama-bench.\v"
	       "Prefill (pp) is one request of P random tokens; the daemon cuts it into steps of at most --batch rows, and "
	       "computes the logits of the last. Decode (tg) is, as a stream, one GENERATE request: the daemon feeds its "
	       "own greedy choice back N times, and each token goes to the client. That is N dependent passes with the "
	       "logits of each, as llama-bench's, and choosing and delivering on top, which llama-bench leaves out. With "
	       "--decode step the client itself sends each token when the last one's answer is there: N round trips of a "
	       "sleeping client on top. Times are medians over the repeats, from the client's submission until the client "
	       "has the last result." };

/* ---- the daemon -------------------------------------------------------------------------------------------- */

static uint32_t deepest(const struct attnbench_model *test)
{
	uint32_t most = test->prompt > test->generated ? test->prompt : test->generated;

	return test->depths[test->depth_count - 1] + (most ? most : 1);
}

/* An option of the private daemon; the text must live as long as the daemon. */
static void set(struct attnbench_model *test, const char *name, uint64_t value)
{
	char *text = test->settings[test->setting_count++];

	snprintf(text, ATTNBENCH_MODEL_SETTING_BYTES, "%s=%" PRIu64, name, value);
	tool_daemon_default(&test->daemon, text);
}

/* Steps as large as asked for, and sessions as long as the test; what the user sets by --daemon-option still wins. */
static void configure(struct attnbench_model *test)
{
	uint32_t batch = test->batch ? test->batch : ATTNBENCH_MODEL_BATCH;

	set(test, "limits.step_rows", batch);
	set(test, "limits.prefill_chunk", batch);
	set(test, "limits.out_rows", batch < 64 ? batch : 64);
	set(test, "limits.tokens", (deepest(test) + PAGE_TOKENS) / PAGE_TOKENS * PAGE_TOKENS);
	if (test->threads)
		set(test, "placement.workers", test->threads - 1);
	tool_daemon_default(&test->daemon, "placement.nodes=first");
	tool_daemon_default(&test->daemon, "kv.prefix_cache=no");
	tool_daemon_default(&test->daemon, "limits.speculate=0");
}

static unsigned most_bytes(unsigned kv)
{
	return kv == ATTND_KV_F32 || kv == ATTND_KV_DEFAULT ? 4 : 2;
}

/* No less than the caches of the test take, whatever the format. */
static uint64_t cache_bytes(const struct attnbench_model *test)
{
	const struct attnd_model_info *model = &test->model;
	uint64_t tokens = deepest(test) + SPARE_TOKENS;

	return tokens * model->layers * model->kv_heads * model->head_dim *
		(most_bytes(test->kv_k) + most_bytes(test->kv_v));
}

static void connect_to(struct attnbench_model *test)
{
	/* The client sleeps at once: every processor belongs to the daemon's compute threads. */
	const struct attnd_options options = { .struct_bytes = sizeof(options), .spin_ns = 1 };

	tool_progress("loading the model");
	tool_daemon_open(&test->daemon);
	test->client = tool_daemon_connect(&test->daemon, &options);
	if (attnd_describe_daemon(test->client, &test->about))
		tool_die(TOOL_NO_DAEMON, "cannot ask the daemon what it is: %s", attnd_error());
	test->model_index = tool_daemon_model(&test->daemon, test->client, &test->model);
}

/* How large its caches must be is known when the model is; where the daemon's own choice is too small it starts
 * again. */
static int open_daemon(struct attnbench_model *test)
{
	uint64_t wanted, limit;
	char has[TOOL_NUMBER_BYTES], wants[TOOL_NUMBER_BYTES];

	if (test->daemon.spawn)
		configure(test);
	connect_to(test);
	wanted = cache_bytes(test);
	if (test->daemon.spawn && test->about.kv_bytes < wanted) {
		attnd_disconnect(test->client);
		test->client = NULL;
		if (tool_daemon_close(&test->daemon, TOOL_OK) != TOOL_OK)
			return TOOL_FAILED;
		set(test, "kv.pool", wanted);
		connect_to(test);
	}
	tool_progress(NULL);
	/* A daemon that was there before may remember the prompts of an earlier run. */
	if (!test->daemon.spawn)
		test->random ^= (uint64_t)attnd_now_ns(test->client);
	if (test->about.kv_bytes_free < wanted && !test->daemon.spawn) {
		tool_say("%s free for caches, and the test may take %s", tool_bytes(has, test->about.kv_bytes_free),
			tool_bytes(wants, wanted));
		return TOOL_FAILED;
	}
	limit = test->model.context < test->about.max_tokens ? test->model.context : test->about.max_tokens;
	if (deepest(test) > limit) {
		tool_say("%" PRIu32 " tokens in all: a session of %s has a context of at most %" PRIu64, deepest(test),
			test->model.name, limit);
		return TOOL_FAILED;
	}
	return TOOL_OK;
}

/* ---- one measurement --------------------------------------------------------------------------------------- */

static void draw(struct attnbench_model *test, uint32_t *ids, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		ids[i] = (uint32_t)base_rand_below(&test->random, test->model.vocab);
}

static int push(struct attnbench_model *test, const uint32_t *ids, uint32_t count, enum attnd_output output,
	uint32_t *answer)
{
	const struct attnd_step_args args = { .output = (uint8_t)output };
	int64_t done = attnd_step(test->client, test->session, ids, count, args, answer,
		output == ATTND_OUT_ARGMAX ? sizeof(*answer) : 0);

	return done < 0 ? (int)done : 0;
}

/* The context grows to `depth`; what stood there before stays. */
static int fill(struct attnbench_model *test, uint32_t depth)
{
	int rc = attnd_session_truncate(test->client, test->session, test->filled);

	while (rc == 0 && test->filled < depth) {
		uint32_t part = depth - test->filled < FILL_TOKENS ? depth - test->filled : FILL_TOKENS;

		tool_progress("context: %" PRIu32 " of %" PRIu32 " tokens", test->filled, depth);
		draw(test, test->ids, part);
		rc = push(test, test->ids, part, ATTND_OUT_NONE, NULL);
		test->filled += part;
	}
	return rc;
}

static int run_prefill(struct attnbench_model *test)
{
	uint32_t answer;

	return push(test, test->ids, test->prompt, ATTND_OUT_ARGMAX, &answer);
}

static int keep_last(void *context, uint32_t id, const struct attnd_completion *completion)
{
	uint32_t *last = context;

	(void)completion;
	*last = id;
	return 0;
}

/* A stream ends at the model's end-of-text token, which says nothing here: the next one goes on from it. */
static int run_stream(struct attnbench_model *test)
{
	struct attnd_generate_params params;
	uint32_t left = test->generated, last = test->ids[0];

	attnd_generate_defaults(&params);
	while (left > 0) {
		int64_t came;

		params.max_tokens = left;
		came = attnd_generate(test->client, test->session, &params, &last, 1, NULL, keep_last, &last, NULL);
		if (came <= 0)
			return came < 0 ? (int)came : -EIO;
		left -= (uint32_t)came < left ? (uint32_t)came : left;
	}
	return 0;
}

static int run_steps(struct attnbench_model *test)
{
	uint32_t token = test->ids[0];
	int rc = 0;

	for (uint32_t i = 0; rc == 0 && i < test->generated; i++)
		rc = push(test, &token, 1, ATTND_OUT_ARGMAX, &token);
	return rc;
}

typedef int run_fn(struct attnbench_model *test);

/* The first run is not counted: it finds caches cold and memory untouched. */
static int measure(struct attnbench_model *test, struct attnbench_model_result *result, run_fn *run)
{
	for (uint32_t i = 0; i <= test->repeats; i++) {
		int64_t begin_ns, end_ns;
		int rc;

		tool_progress("%s, depth %" PRIu32 ": repeat %" PRIu32 " of %" PRIu32, result->decode ? "decode" : "prefill",
			result->depth, i, test->repeats);
		draw(test, test->ids, result->decode ? 1 : result->tokens);
		rc = attnd_session_truncate(test->client, test->session, result->depth);
		begin_ns = attnd_now_ns(test->client);
		if (rc == 0)
			rc = run(test);
		end_ns = attnd_now_ns(test->client);
		if (rc < 0) {
			tool_progress(NULL);
			return tool_daemon_failed(rc, result->decode ? "decode" : "prefill");
		}
		if (i > 0)
			result->samples_ns[result->count++] = end_ns > begin_ns ? end_ns - begin_ns : 1;
	}
	return TOOL_OK;
}

static int measure_depth(struct attnbench_model *test, uint32_t depth)
{
	int rc = fill(test, depth), status = TOOL_OK;

	if (rc < 0) {
		tool_progress(NULL);
		return tool_daemon_failed(rc, "filling the context");
	}
	if (test->prompt) {
		struct attnbench_model_result *result = &test->results[test->result_count++];

		*result = (struct attnbench_model_result){ .tokens = test->prompt, .depth = depth };
		status = measure(test, result, run_prefill);
	}
	if (status == TOOL_OK && test->generated) {
		struct attnbench_model_result *result = &test->results[test->result_count++];

		*result = (struct attnbench_model_result){ .tokens = test->generated, .depth = depth, .decode = true };
		status = measure(test, result, test->by_steps ? run_steps : run_stream);
	}
	return status;
}

static int measure_all(struct attnbench_model *test)
{
	struct attnd_open_params params;
	uint32_t room = test->prompt > FILL_TOKENS ? test->prompt : FILL_TOKENS;
	int status = TOOL_OK, rc;

	attnd_open_defaults(&params);
	params.kind = ATTND_SESSION_MODEL;
	params.model = test->model_index;
	params.kv_k = (uint8_t)test->kv_k;
	params.kv_v = (uint8_t)test->kv_v;
	params.max_tokens = deepest(test);
	test->ids = calloc(room, sizeof(*test->ids));
	if (!test->ids)
		tool_die(TOOL_FAILED, "out of memory");
	rc = attnd_session_open(test->client, &params, &test->session);
	if (rc < 0)
		return tool_daemon_failed(rc, "opening a session");
	for (uint32_t i = 0; status == TOOL_OK && i < test->depth_count; i++)
		status = measure_depth(test, test->depths[i]);
	tool_progress(NULL);
	rc = attnd_describe_session(test->client, test->session, &test->session_about);
	return status == TOOL_OK && rc < 0 ? tool_daemon_failed(rc, "asking about the session") : status;
}

int attnbench_model(int argc, char **argv)
{
	static struct attnbench_model test = {
		.prompt = 512, .generated = 128, .depth_count = 1, .repeats = 5, .random = 1
	};
	int status;

	tool_args_parse(&argp, argc, argv, &test);
	if (getloadavg(&test.load_average, 1) != 1)
		test.load_average = -1;
	status = open_daemon(&test);
	if (status == TOOL_OK)
		status = measure_all(&test);
	if (status == TOOL_OK)
		attnbench_model_report(&test);
	free(test.ids);
	attnd_disconnect(test.client);
	return tool_daemon_close(&test.daemon, status);
}
