/*
 * The text mode: prompt to ids, a session, one GENERATE whose tokens are shown as they come.
 *
 * One thread. It uses the asynchronous calls, because the text of the last tokens is asked for
 * while the next ones are computed.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/attnrun.h"
#include "tools/attnrun_stats.h"
#include "tools/attnrun_stream.h"
#include "tools/tool_text.h"

enum { ID_GENERATE = 1, ID_CANCEL = 3, WAIT_NS = 50000000, COMPLETIONS = 64 };

struct text_run {
	struct attnd_client *client;
	struct attnrun_options *options;
	struct attnd_model_info about;
	uint32_t model;
	uint32_t *prompt, prompt_count;
	uint32_t *ids, count; /* generated */
	uint64_t session;
	void *input; /* the loan that holds parameters and prompt */
	struct attnrun_stream stream;
	struct attnrun_stats stats;
	struct attnd_completion end;
	bool ended, cancelled;
};

static char *read_standard_input(void)
{
	size_t room = 64 << 10, length = 0;
	char *text = malloc(room);

	if (isatty(STDIN_FILENO))
		fputs("Your prompt, then Ctrl-D:\n", stderr);
	while (text) {
		length += fread(text + length, 1, room - 1 - length, stdin);
		if (length + 1 < room)
			break;
		if (length > ATTND_TEXT_BYTES_MAX)
			tool_die(TOOL_FAILED, "the prompt is longer than %d bytes",
				ATTND_TEXT_BYTES_MAX);
		text = realloc(text, room *= 2);
	}
	if (!text)
		tool_die(TOOL_FAILED, "out of memory");
	text[length] = '\0';
	return text;
}

static int64_t tokenize(struct text_run *run, const char *text, size_t capacity)
{
	const struct attnrun_options *options = run->options;
	struct attnd_message messages[2];
	size_t count = 0;

	if (!options->chat) {
		unsigned flags =
			ATTND_REQ_SPECIAL | (options->parse_special ? ATTND_REQ_PARSE_SPECIAL : 0);

		return attnd_tokenize(
			run->client, run->model, text, strlen(text), flags, run->prompt, capacity);
	}
	if (options->system)
		messages[count++] = (struct attnd_message){ ATTND_ROLE_SYSTEM, options->system };
	messages[count++] = (struct attnd_message){ ATTND_ROLE_USER, text };
	return attnd_chat_tokenize(run->client, run->model, messages, count, run->prompt, capacity);
}

/* Prompt text to ids. A token is at least a byte, or one of the few that the model adds. */
static int make_prompt(struct text_run *run)
{
	const struct attnrun_options *options = run->options;
	char *own = options->prompt ? NULL : read_standard_input();
	const char *text = own ? own : options->prompt;
	size_t capacity = strlen(text) + (options->system ? strlen(options->system) : 0) + 256;
	int64_t begin_ns = attnd_now_ns(run->client);

	run->prompt = malloc(capacity * sizeof(*run->prompt));
	if (!run->prompt)
		tool_die(TOOL_FAILED, "out of memory");

	int64_t count = tokenize(run, text, capacity);

	free(own);
	if (count < 0)
		return tool_daemon_failed((int)count, "reading the prompt");
	if ((size_t)count > capacity) {
		tool_say("the prompt has %lld tokens, more than its bytes", (long long)count);
		return TOOL_FAILED;
	}
	if (count == 0) {
		/* A model without a beginning token starts from its end-of-text, as it was
		 * trained. */
		uint32_t start = run->about.bos != UINT32_MAX ? run->about.bos : run->about.eos;

		if (start == UINT32_MAX) {
			tool_say("the prompt is empty, and this model has no token to begin with");
			return TOOL_FAILED;
		}
		run->prompt[count++] = start;
	}
	run->prompt_count = (uint32_t)count;
	run->stats.tokenize_ns = attnd_now_ns(run->client) - begin_ns;
	return TOOL_OK;
}

static int open_session(struct text_run *run)
{
	struct attnd_open_params params;
	int64_t begin_ns = attnd_now_ns(run->client);

	attnd_open_defaults(&params);
	params.kind = ATTND_SESSION_MODEL;
	params.model = run->model;
	params.kv_k = params.kv_v = (uint8_t)run->options->kv;
	int err = attnd_session_open(run->client, &params, &run->session);

	if (err)
		return tool_daemon_failed(err, "opening a session");
	run->stats.open_ns = attnd_now_ns(run->client) - begin_ns;
	return TOOL_OK;
}

static int submit_generate(struct text_run *run)
{
	const struct attnrun_options *options = run->options;
	struct attnd_generate_params params;
	size_t prompt_bytes = run->prompt_count * sizeof(uint32_t);
	size_t bytes = sizeof(params) + prompt_bytes;
	unsigned char *input = attnd_loan(run->client, bytes);

	if (!input) {
		tool_say("the prompt of %u tokens does not fit into the arena", run->prompt_count);
		return TOOL_FAILED;
	}
	attnd_generate_defaults(&params);
	params.max_tokens = options->tokens;
	params.between_ns = (int64_t)(options->between_ms * 1e6);
	params.sampling = options->sampling;
	memcpy(input, &params, sizeof(params));
	memcpy(input + sizeof(params), run->prompt, prompt_bytes);
	run->input = input;

	int64_t now_ns = attnd_now_ns(run->client);
	struct attnd_request request = {
		.op = ATTND_OP_GENERATE,
		.priority_class = (uint8_t)options->priority_class,
		.request_id = ID_GENERATE,
		.session = run->session,
		.deadline_ns = options->deadline_ms > 0 ?
			now_ns + (int64_t)(options->deadline_ms * 1e6) :
			0,
		.argument = run->prompt_count,
		.in_offset = attnd_offset(run->client, input),
		.in_bytes = (uint32_t)bytes,
	};

	run->stats.sent_ns = now_ns;
	int taken = attnd_submit(run->client, &request, 1);

	return taken == 1 ? TOOL_OK : tool_daemon_failed(taken, "asking for tokens");
}

static void take_generate(struct text_run *run, const struct attnd_completion *completion)
{
	if (completion->flags & ATTND_CPL_FINAL) {
		run->end = *completion;
		run->ended = true;
		return;
	}
	if (run->count == run->options->tokens)
		return;
	attnrun_stats_token(&run->stats, completion, attnd_now_ns(run->client));
	run->ids[run->count++] = (uint32_t)completion->value;
	run->stream.count = run->count;
}

static void cancel(struct text_run *run)
{
	struct attnd_request request = {
		.op = ATTND_OP_CANCEL, .request_id = ID_CANCEL, .args = ID_GENERATE
	};

	if (!run->cancelled && attnd_submit(run->client, &request, 1) == 1)
		run->cancelled = true;
}

/* Until the last token has come and is shown. */
static int stream_tokens(struct text_run *run)
{
	struct attnd_completion completions[COMPLETIONS];

	while (!run->ended || !attnrun_stream_done(&run->stream)) {
		int got = attnd_wait(run->client, completions, COMPLETIONS, WAIT_NS);

		if (got < 0 && got != -EINTR)
			return tool_daemon_failed(got, "waiting for tokens");
		for (int i = 0; i < got; i++) {
			int err = 0;

			if (completions[i].request_id == ID_GENERATE)
				take_generate(run, &completions[i]);
			else if (completions[i].request_id == run->stream.request_id)
				err = attnrun_stream_take(&run->stream, &completions[i]);
			if (err) {
				tool_say("cannot turn tokens into text: %s",
					attnd_status_text(completions[i].status));
				return TOOL_FAILED;
			}
		}
		int err = attnrun_stream_ask(&run->stream);

		if (err)
			return tool_daemon_failed(err, "asking for text");
		if (attnrun_interrupted && !run->ended)
			cancel(run);
	}
	return TOOL_OK;
}

/* After the text: a new line for a person, and the reason where it ended early. */
static int conclude(struct text_run *run)
{
	putchar('\n'); /* a text ends with its line, also in a file */
	fflush(stdout);
	if (run->options->stats)
		attnrun_stats_print(&run->stats, run->prompt_count, stderr);
	if (run->end.status == ATTND_CANCELLED && attnrun_interrupted)
		return TOOL_INTERRUPTED;
	if (run->end.status != ATTND_OK) {
		tool_say("%s (%s)", attnd_status_text(run->end.status),
			attnd_status_name(run->end.status));
		return TOOL_FAILED;
	}
	if (run->end.value == ATTND_STOP_CONTEXT)
		tool_say("stopped: the context of %u tokens is full", run->end.position);
	return TOOL_OK;
}

static int generate(struct text_run *run)
{
	int status = make_prompt(run);

	if (status == TOOL_OK)
		status = open_session(run);
	if (status != TOOL_OK)
		return status;
	int err = attnrun_stream_open(
		&run->stream, run->client, run->model, run->prompt[run->prompt_count - 1], stdout);

	if (err)
		return tool_daemon_failed(err, "turning tokens into text");
	run->stream.ids = run->ids;
	attnrun_catch_interrupt();
	status = submit_generate(run);
	if (status == TOOL_OK)
		status = stream_tokens(run);
	attnrun_stream_close(&run->stream);
	attnd_return(run->client, run->input);
	return status == TOOL_OK ? conclude(run) : status;
}

int attnrun_text(struct attnd_client *client, struct attnrun_options *options)
{
	struct text_run run = { .client = client, .options = options };

	run.model = tool_daemon_model(&options->daemon, client, &run.about);
	if (!run.about.has_tokenizer) {
		tool_say("the model %s has no tokenizer, so it takes no text", run.about.name);
		return TOOL_FAILED;
	}
	if (options->chat_if_known)
		options->chat = run.about.has_chat_template;
	if (options->chat && !run.about.has_chat_template) {
		tool_say("the model %s has no chat template; leave --chat out", run.about.name);
		return TOOL_FAILED;
	}
	/* No more tokens than the context has can come. */
	if (run.about.context && options->tokens > run.about.context)
		options->tokens = run.about.context;
	run.ids = malloc(options->tokens * sizeof(*run.ids));
	if (!run.ids || attnrun_stats_open(&run.stats, options->tokens))
		tool_die(TOOL_FAILED, "out of memory");
	int status = generate(&run);

	attnrun_stats_close(&run.stats);
	free(run.prompt);
	free(run.ids);
	return status;
}
