/*
 * attnbench step: tokens pushed through a model, each request one STEP of a session that has a
 * past.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/base_rand.h"
#include "tools/attnbench_open.h"
#include "tools/tool_args.h"
#include "tools/tool_control.h"
#include "tools/tool_text.h"

enum { SESSIONS_MAX = 256, SLOTS = 64, STEP_TOKENS_MAX = 512 };

static const char *const outputs[] = { "none", "logits", "top", "argmax", "hidden", "sampled",
	NULL };

struct step {
	struct attnbench_options options;
	struct attnbench_work work;
	struct attnd_client *client;
	struct attnd_model_info about;
	uint32_t model;
	uint32_t tokens, sessions, context;
	unsigned output, kv;
	uint64_t random;
	uint64_t handles[SESSIONS_MAX];
	uint32_t positions[SESSIONS_MAX]; /* where each stands once all that was sent is done */
	uint32_t limit;                   /* no session goes beyond */
	uint32_t next;                    /* whose turn it is */
	uint32_t *in[SLOTS];
	void *out[SLOTS];
	uint32_t out_bytes;
};

enum { KEY_TOKENS = 0x300, KEY_SESSIONS, KEY_CONTEXT, KEY_OUTPUT, KEY_KV };

static const struct argp_option option_table[] = {
	{ "tokens", KEY_TOKENS, "N", 0, "in one request (1)", 1 },
	{ "sessions", KEY_SESSIONS, "N", 0, "that take turns (1)", 1 },
	{ "context", KEY_CONTEXT, "N", 0, "tokens that each session holds before (64)", 1 },
	{ "output", KEY_OUTPUT, "WHAT", 0, "none, logits, top, argmax (default), hidden or sampled",
		1 },
	{ "kv", KEY_KV, "FORMAT", 0, "of the KV cache: f32, bf16, int8, f16, fp8, int4, or the daemon's default",
		1 },
	{ 0 },
};

static error_t parse(int key, char *value, struct argp_state *state)
{
	struct step *step = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &step->options;
		return 0;
	case KEY_TOKENS:
		step->tokens = (uint32_t)tool_args_u64("--tokens", value, 1, STEP_TOKENS_MAX);
		return 0;
	case KEY_SESSIONS:
		step->sessions = (uint32_t)tool_args_u64("--sessions", value, 1, SESSIONS_MAX);
		return 0;
	case KEY_CONTEXT:
		step->context = (uint32_t)tool_args_u64("--context", value, 0, 1 << 20);
		return 0;
	case KEY_OUTPUT:
		step->output = tool_args_choice("--output", value, outputs);
		return 0;
	case KEY_KV:
		step->kv = tool_args_choice("--kv", value, tool_args_kv);
		return 0;
	case ARGP_KEY_END:
		if (step->options.daemon.spawn && !step->options.daemon.model)
			argp_error(state, "a private daemon needs a model: --model FILE.gguf");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_child children[] = { { &attnbench_argp, 0, NULL, 0 }, { 0 } };
static const struct argp argp = {
	.options = option_table,
	.parser = parse,
	.children = children,
	.doc = "Tokens pushed through a model, one request each, with the answer that is asked for."
};

static void random_tokens(struct step *step, uint32_t *ids, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		ids[i] = (uint32_t)base_rand_below(&step->random, step->about.vocab);
}

/* A session that has reached its limit is first cut back to its context; both go in order. */
static unsigned fill(void *context, uint32_t slot, struct attnd_request requests[2])
{
	struct step *step = context;
	uint32_t turn = step->next;
	const struct attnd_step_args args = { .output = (uint8_t)step->output, .top_k = 8 };
	unsigned count = 0;

	step->next = turn + 1 == step->sessions ? 0 : turn + 1;
	if (step->positions[turn] + step->tokens > step->limit) {
		requests[count++] = (struct attnd_request){ .op = ATTND_OP_TRUNCATE,
			.session = step->handles[turn],
			.argument = step->context };
		step->positions[turn] = step->context;
	}
	random_tokens(step, step->in[slot], step->tokens);
	requests[count] = (struct attnd_request){
		.op = ATTND_OP_STEP,
		.session = step->handles[turn],
		.argument = step->tokens,
		.in_offset = attnd_offset(step->client, step->in[slot]),
		.in_bytes = step->tokens * (uint32_t)sizeof(uint32_t),
		.out_offset = attnd_offset(step->client, step->out[slot]),
		.out_capacity = step->out_bytes,
	};
	memcpy(&requests[count++].args, &args, sizeof(args));
	step->positions[turn] += step->tokens;
	return count;
}

static uint32_t output_bytes(const struct step *step)
{
	switch (step->output) {
	case ATTND_OUT_LOGITS:
		return step->about.vocab * (uint32_t)sizeof(float);
	case ATTND_OUT_TOP:
		return 8 * (uint32_t)sizeof(struct attnd_top);
	case ATTND_OUT_HIDDEN:
		return step->about.width * (uint32_t)sizeof(float);
	default:
		return sizeof(uint32_t);
	}
}

static int open_sessions(struct step *step)
{
	static uint32_t ids[STEP_TOKENS_MAX];
	const struct attnd_step_args quiet = { .output = ATTND_OUT_NONE };
	struct attnd_open_params params;

	attnd_open_defaults(&params);
	params.kind = ATTND_SESSION_MODEL;
	params.model = step->model;
	params.kv_k = params.kv_v = (uint8_t)step->kv;
	for (uint32_t i = 0; i < step->sessions; i++) {
		int err = attnd_session_open(step->client, &params, &step->handles[i]);

		if (err)
			return tool_daemon_failed(err, "opening a session");
		for (uint32_t part; step->positions[i] < step->context;
			step->positions[i] += part) {
			part = step->context - step->positions[i];
			part = part < STEP_TOKENS_MAX ? part : STEP_TOKENS_MAX;
			random_tokens(step, ids, part);
			int64_t done = attnd_step(
				step->client, step->handles[i], ids, part, quiet, NULL, 0);

			if (done < 0)
				return tool_daemon_failed((int)done, "filling the context");
		}
	}
	return TOOL_OK;
}

/* Sizes, memory and sessions. */
static int prepare(struct step *step, struct attnbench_frame *frame)
{
	uint32_t most;

	step->client = frame->client;
	step->model = tool_daemon_model(&step->options.daemon, step->client, &step->about);
	most = step->about.context < frame->about.max_tokens ? step->about.context :
							       frame->about.max_tokens;
	if (step->context + step->tokens > most) {
		tool_say("%u tokens of context and %u more: a session of %s holds at most %u",
			step->context, step->tokens, step->about.name, most);
		return TOOL_FAILED;
	}
	/* Sessions stay near their context, so that every request costs about the same. */
	step->limit =
		step->context + 64 * step->tokens < most ? step->context + 64 * step->tokens : most;
	step->out_bytes = output_bytes(step);
	for (uint32_t i = 0; i < SLOTS; i++) {
		step->in[i] = attnd_loan(step->client, step->tokens * sizeof(uint32_t));
		step->out[i] = attnd_loan(step->client, step->out_bytes);
		if (!step->in[i] || !step->out[i]) {
			tool_say("the arena has no room for %d requests", SLOTS);
			return TOOL_FAILED;
		}
	}
	snprintf(step->work.title, sizeof(step->work.title),
		"%u token%s through %s (%s), %u session%s with %u tokens before, %s out",
		step->tokens, step->tokens == 1 ? "" : "s", step->about.name, step->about.weights,
		step->sessions, step->sessions == 1 ? "" : "s", step->context,
		outputs[step->output]);
	return open_sessions(step);
}

static void add_json(void *context, cJSON *object, const struct attnbench_work *work)
{
	const struct step *step = context;

	cJSON_AddStringToObject(object, "model", step->about.name);
	cJSON_AddStringToObject(object, "weights", step->about.weights);
	tool_json_add(object, "parameters", (double)step->about.parameters, 0);
	tool_json_add(object, "tokens", step->tokens, 0);
	tool_json_add(object, "sessions", step->sessions, 0);
	tool_json_add(object, "context", step->context, 0);
	cJSON_AddStringToObject(object, "output", outputs[step->output]);
	tool_json_add(object, "tokens_per_s", work->capacity * step->tokens, 1);
	tool_json_add(
		object, "weight_bytes_per_s", work->capacity * (double)step->about.weight_bytes, 0);
}

static void add_text(
	void *context, const struct attnbench_work *work, const struct attnbench_frame *frame)
{
	const struct step *step = context;
	char bytes[TOOL_NUMBER_BYTES];

	(void)frame;
	printf("  closed loop: %.1f tokens/s, weights read at %s/s if once a request\n",
		work->capacity * step->tokens,
		tool_bytes(bytes, (uint64_t)(work->capacity * (double)step->about.weight_bytes)));
}

int attnbench_step(int argc, char **argv)
{
	static struct step step = {
		.tokens = 1, .sessions = 1, .context = 64, .output = ATTND_OUT_ARGMAX
	};
	const struct attnbench_extra extra = { add_json, add_text, &step };

	attnbench_defaults(&step.options);
	tool_args_parse(&argp, argc, argv, &step);
	step.random = step.options.seed;
	step.work.command = "step";
	step.work.target =
		(struct attnbench_target){ .context = &step, .slots = SLOTS, .fill = fill };

	struct attnbench_frame *frame = attnbench_frame_open(&step.options);
	int status = prepare(&step, frame);

	if (status == TOOL_OK)
		status = attnbench_work_measure(&step.work, frame);
	if (status == TOOL_OK)
		status = attnbench_work_report(&step.work, frame, &extra);
	return attnbench_frame_close(frame, status);
}
