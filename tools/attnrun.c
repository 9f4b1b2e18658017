/*
 * attnrun: a prompt in, streamed text out; or Q, K, V in, O out.
 *
 * It talks to a daemon over shared memory, or to a private one (--spawn). The text alone goes
 * to standard output; everything else goes to standard error.
 */
#include "tools/attnrun.h"

#include <float.h>
#include <stdlib.h>
#include <string.h>

#include "tools/tool_args.h"
#include "tools/tool_text.h"

volatile sig_atomic_t attnrun_interrupted;

enum {
	KEY_CHAT = 0x100,
	KEY_SYSTEM,
	KEY_PARSE_SPECIAL,
	KEY_TEMP,
	KEY_TOP_K,
	KEY_TOP_P,
	KEY_MIN_P,
	KEY_REPEAT_PENALTY,
	KEY_REPEAT_WINDOW,
	KEY_SEED,
	KEY_KV,
	KEY_CLASS,
	KEY_DEADLINE,
	KEY_BETWEEN,
	KEY_STATS,
	KEY_TIMELINE,
	KEY_ATTEND,
	KEY_Q,
	KEY_K,
	KEY_V,
	KEY_OUT,
	KEY_HEADS,
	KEY_KV_HEADS,
	KEY_HEAD_DIM,
	KEY_Q_ROWS,
	KEY_KV_ROWS,
	KEY_WINDOW,
	KEY_SCALE,
	KEY_SOFT_CAP,
	KEY_DENSE,
	KEY_CHECK,
};

static const struct argp_option option_table[] = {
	{ NULL, 0, NULL, 0, "Text:", 1 },
	{ "prompt", 'p', "TEXT", 0, "what the model reads (else standard input)", 1 },
	{ "tokens", 'n', "N", 0, "generate at most N tokens (128)", 1 },
	{ "chat", KEY_CHAT, "auto", OPTION_ARG_OPTIONAL,
		"put the prompt into the model's chat template; auto: if it has one", 1 },
	{ "system", KEY_SYSTEM, "TEXT", 0, "with --chat: how the model shall behave", 1 },
	{ "parse-special", KEY_PARSE_SPECIAL, NULL, 0,
		"text such as <|im_end|> becomes its control token", 1 },
	{ NULL, 0, NULL, 0, "Sampling:", 2 },
	{ "temp", KEY_TEMP, "T", 0, "temperature; 0, the default, always takes the likeliest token",
		2 },
	{ "top-k", KEY_TOP_K, "K", 0, "among the K likeliest", 2 },
	{ "top-p", KEY_TOP_P, "P", 0, "among the likeliest that together have probability P", 2 },
	{ "min-p", KEY_MIN_P, "P", 0, "among those at least P times as likely as the likeliest",
		2 },
	{ "repeat-penalty", KEY_REPEAT_PENALTY, "X", 0, "divides what was said lately; 1 is off",
		2 },
	{ "repeat-window", KEY_REPEAT_WINDOW, "N", 0, "lately is the last N tokens (64)", 2 },
	{ "seed", KEY_SEED, "N", 0, "of the draws, and of random tensors (0)", 2 },
	{ NULL, 0, NULL, 0, "How it is served:", 3 },
	{ "kv", KEY_KV, "FORMAT", 0, "of the KV cache: f32, bf16, int8, f16, fp8, int4, or the daemon's default",
		3 },
	{ "class", KEY_CLASS, "CLASS", 0, "latency, interactive (default) or bulk", 3 },
	{ "deadline", KEY_DEADLINE, "MS", 0, "for the first token, or for the attention", 3 },
	{ "between", KEY_BETWEEN, "MS", 0, "a deadline between two tokens", 3 },
	{ "stats", KEY_STATS, NULL, 0, "at the end say where the time went", 3 },
	{ "timeline", KEY_TIMELINE, NULL, 0, "at the end say what happened to each request, step by step", 3 },
	{ NULL, 0, NULL, 0, "Raw attention:", 4 },
	{ "attend", KEY_ATTEND, NULL, 0, "attend instead of text, to files or to random tensors",
		4 },
	{ "q", KEY_Q, "FILE", 0, "queries [rows][heads][dim], .npy or raw float32; so K and V", 4 },
	{ "k", KEY_K, "FILE", 0, "keys [rows][kv-heads][dim]", 4 },
	{ "v", KEY_V, "FILE", 0, "values, shaped as the keys", 4 },
	{ "out", KEY_OUT, "FILE", 0, "write O there, .npy or raw float32", 4 },
	{ "heads", KEY_HEADS, "N", 0, "of the queries (8)", 4 },
	{ "kv-heads", KEY_KV_HEADS, "N", 0, "of keys and values (2)", 4 },
	{ "head-dim", KEY_HEAD_DIM, "N", 0, "(64)", 4 },
	{ "q-rows", KEY_Q_ROWS, "N", 0, "(1)", 4 },
	{ "kv-rows", KEY_KV_ROWS, "N", 0, "(1024)", 4 },
	{ "window", KEY_WINDOW, "N", 0, "each query sees the last N keys alone", 4 },
	{ "scale", KEY_SCALE, "X", 0, "of the scores (1/sqrt(dim))", 4 },
	{ "soft-cap", KEY_SOFT_CAP, "X", 0, "scores become X tanh(score/X)", 4 },
	{ "dense", KEY_DENSE, NULL, 0, "every query sees every key (default: causal)", 4 },
	{ "check", KEY_CHECK, NULL, 0, "compare O with attention computed here in float64", 4 },
	{ 0 },
};

static uint32_t u32(const char *name, const char *value, uint64_t low, uint64_t high)
{
	return (uint32_t)tool_args_u64(name, value, low, high);
}

static float number(const char *name, const char *value, double low, double high)
{
	return (float)tool_args_double(name, value, low, high);
}

static error_t parse_text(int key, char *value, struct attnrun_options *options)
{
	static const char *const chat_values[] = { "auto", NULL };
	struct attnd_sampling *sampling = &options->sampling;

	switch (key) {
	case 'p':
		options->prompt = value;
		return 0;
	case 'n':
		options->tokens = u32("-n", value, 1, UINT32_MAX);
		return 0;
	case KEY_CHAT:
		options->chat = true;
		options->chat_if_known =
			value && tool_args_choice("--chat", value, chat_values) == 0;
		return 0;
	case KEY_SYSTEM:
		options->system = value;
		return 0;
	case KEY_PARSE_SPECIAL:
		options->parse_special = true;
		return 0;
	case KEY_TEMP:
		sampling->temperature = number("--temp", value, 0, 100);
		return 0;
	case KEY_TOP_K:
		sampling->top_k = u32("--top-k", value, 0, UINT32_MAX);
		return 0;
	case KEY_TOP_P:
		sampling->top_p = number("--top-p", value, 1e-6, 1);
		return 0;
	case KEY_MIN_P:
		sampling->min_p = number("--min-p", value, 0, 1);
		return 0;
	case KEY_REPEAT_PENALTY:
		sampling->repeat_penalty = number("--repeat-penalty", value, 1e-3, 1e3);
		return 0;
	case KEY_REPEAT_WINDOW:
		sampling->repeat_window = u32("--repeat-window", value, 0, ATTND_REPEAT_WINDOW_MAX);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static error_t parse_attend(int key, char *value, struct attnrun_options *options)
{
	switch (key) {
	case KEY_ATTEND:
		options->attend = true;
		return 0;
	case KEY_Q:
		options->q_file = value;
		return 0;
	case KEY_K:
		options->k_file = value;
		return 0;
	case KEY_V:
		options->v_file = value;
		return 0;
	case KEY_OUT:
		options->out_file = value;
		return 0;
	case KEY_HEADS:
		options->heads = u32("--heads", value, 1, ATTND_HEADS_MAX);
		return 0;
	case KEY_KV_HEADS:
		options->kv_heads = u32("--kv-heads", value, 1, ATTND_HEADS_MAX);
		return 0;
	case KEY_HEAD_DIM:
		options->head_dim = u32("--head-dim", value, 1, ATTND_HEAD_DIM_MAX);
		return 0;
	case KEY_Q_ROWS:
		options->q_rows = u32("--q-rows", value, 1, ATTND_ATTEND_ROWS_MAX);
		return 0;
	case KEY_KV_ROWS:
		options->kv_rows = u32("--kv-rows", value, 1, 1 << 24);
		return 0;
	case KEY_WINDOW:
		options->window = u32("--window", value, 0, UINT32_MAX - 1);
		return 0;
	case KEY_SCALE:
		options->scale = tool_args_double("--scale", value, 0, FLT_MAX);
		return 0;
	case KEY_SOFT_CAP:
		options->soft_cap = tool_args_double("--soft-cap", value, 0, FLT_MAX);
		return 0;
	case KEY_DENSE:
		options->dense = true;
		return 0;
	case KEY_CHECK:
		options->check = true;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static error_t parse(int key, char *value, struct argp_state *state)
{
	struct attnrun_options *options = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &options->daemon;
		return 0;
	case KEY_SEED:
		options->seed = tool_args_u64("--seed", value, 0, UINT64_MAX);
		return 0;
	case KEY_KV:
		options->kv = tool_args_choice("--kv", value, tool_args_kv);
		return 0;
	case KEY_CLASS:
		options->priority_class = tool_args_choice("--class", value, tool_args_classes);
		return 0;
	case KEY_DEADLINE:
		options->deadline_ms = tool_args_double("--deadline", value, 0, 1e9);
		return 0;
	case KEY_BETWEEN:
		options->between_ms = tool_args_double("--between", value, 0, 1e9);
		return 0;
	case KEY_STATS:
		options->stats = true;
		return 0;
	case KEY_TIMELINE:
		options->timeline = true;
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "what is '%s'? A prompt stands after --prompt", value);
		return 0;
	case ARGP_KEY_END:
		if (options->system && !options->chat)
			argp_error(state, "--system needs --chat");
		return 0;
	default:
		if (parse_text(key, value, options) == 0)
			return 0;
		return parse_attend(key, value, options);
	}
}

static const struct argp_child children[] = { { &tool_daemon_argp, 0, NULL, 0 }, { 0 } };
static const struct argp argp = { .options = option_table,
	.parser = parse,
	.children = children,
	.doc = "Give a model a prompt and stream its answer, or attend to raw tensors.\v"
	       "Examples:\n"
	       "  attnrun --spawn --model m.gguf --chat --prompt 'Why is the sky blue?'\n"
	       "  attnrun --spawn --attend --kv int8 --kv-rows 4096 --check" };

static void on_interrupt(int signal_number)
{
	(void)signal_number;
	attnrun_interrupted = 1;
}

/* Until this is called Ctrl-C ends the program at once; a private daemon ends with it either
 * way. */
void attnrun_catch_interrupt(void)
{
	struct sigaction on_first = { .sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND };

	sigaction(SIGINT, &on_first, NULL);
}

int main(int argc, char **argv)
{
	struct attnrun_options options = { .tokens = 128,
		.priority_class = ATTND_CLASS_INTERACTIVE,
		.sampling = { .top_p = 1, .repeat_penalty = 1, .repeat_window = 64 },
		.heads = 8,
		.kv_heads = 2,
		.head_dim = 64,
		.q_rows = 1,
		.kv_rows = 1024 };

	tool_args_parse(&argp, argc, argv, &options);
	options.sampling.seed = options.seed;
	if (!options.attend && options.daemon.spawn && !options.daemon.model)
		tool_die(TOOL_USAGE, "a private daemon needs a model: --model FILE.gguf");

	tool_daemon_open(&options.daemon);
	struct attnd_client *client = tool_daemon_connect(&options.daemon, NULL);

	int status =
		options.attend ? attnrun_attend(client, &options) : attnrun_text(client, &options);

	if (options.timeline)
		attnrun_timeline_print(client, stderr);
	attnd_disconnect(client);
	return tool_daemon_close(&options.daemon, status);
}
