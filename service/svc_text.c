/*
 * TOKENIZE and DETOKENIZE. See svc_text.h.
 */
#include "service/svc_text.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"

enum {
	TEXT_IDS_MAX = ATTND_TEXT_BYTES_MAX +
		64, /* a text has at most one id per byte, and the special ones around it */
	TEXT_MESSAGES_MAX = 1024, /* of one chat */
};

struct svc_text {
	struct svc_text_options options;
	struct model_token_scratch *scratch;
	uint32_t *client_tenant; /* [clients of all lanes] */
	uint32_t clients_first[SCHED_LANES_MAX];
	uint32_t lane_first;     /* who is looked at first by the next poll */
	char *copy;              /* [ATTND_TEXT_BYTES_MAX + 1]: of the client's input */
	uint32_t *ids;           /* [TEXT_IDS_MAX] */
	struct model_chat_message *messages;
};

/* Numbers the lanes' clients; returns how many there are. */
static uint32_t clients_number(struct svc_text *text)
{
	uint32_t clients = 0;

	for (uint32_t i = 0; i < text->options.lane_count; i++) {
		text->clients_first[i] = clients;
		clients += text->options.lanes[i].clients;
	}
	return clients;
}

int svc_text_create(struct svc_text **text_out, const struct svc_text_options *options)
{
	struct svc_text *text = calloc(1, sizeof(*text));

	if (!text)
		return base_fail(ENOMEM, "text role: out of memory");
	text->options = *options;
	text->client_tenant = calloc(clients_number(text), sizeof(*text->client_tenant));
	text->copy = malloc(ATTND_TEXT_BYTES_MAX + 1);
	text->ids = malloc(TEXT_IDS_MAX * sizeof(*text->ids));
	text->messages = calloc(TEXT_MESSAGES_MAX, sizeof(*text->messages));
	int rc = model_token_scratch_create(&text->scratch, ATTND_TEXT_BYTES_MAX);

	if (!rc && (!text->client_tenant || !text->copy || !text->ids || !text->messages))
		rc = base_fail(ENOMEM, "text role: out of memory");
	if (rc) {
		svc_text_destroy(text);
		return rc;
	}
	*text_out = text;
	return 0;
}

void svc_text_destroy(struct svc_text *text)
{
	if (!text)
		return;
	if (text->scratch)
		model_token_scratch_destroy(text->scratch);
	free(text->messages);
	free(text->ids);
	free(text->copy);
	free(text->client_tenant);
	free(text);
}

/* Splits the copied input into messages. Returns their number, or -1. */
static int64_t chat_parse(struct svc_text *text, size_t bytes)
{
	size_t at = 0;
	int64_t count = 0;

	while (at < bytes) {
		struct attnd_chat_message head;

		if (bytes - at < sizeof(head) || count == TEXT_MESSAGES_MAX)
			return -1;
		memcpy(&head, text->copy + at, sizeof(head));
		at += sizeof(head);
		if (head.role >= ATTND_ROLE_END || head.text_bytes > bytes - at)
			return -1;
		text->messages[count++] =
			(struct model_chat_message){ head.role, text->copy + at, head.text_bytes };
		at += ((size_t)head.text_bytes + 7) & ~(size_t)7;
	}
	return count;
}

static uint8_t do_tokenize(struct svc_text *text, const struct model_tokenizer *tokenizer,
	const struct sched_message *message, struct attnd_completion *completion)
{
	const struct attnd_request *record = &message->record;
	uint32_t flags = (record->flags & ATTND_REQ_SPECIAL ? MODEL_TOKEN_ADD_SPECIAL : 0) |
		(record->flags & ATTND_REQ_PARSE_SPECIAL ? MODEL_TOKEN_PARSE_SPECIAL : 0);
	int64_t count;

	if (record->in_bytes > ATTND_TEXT_BYTES_MAX)
		return ATTND_TOO_LARGE;
	if (record->in_bytes)
		memcpy(text->copy, message->in, record->in_bytes);
	if (record->flags & ATTND_REQ_CHAT) {
		int64_t messages = chat_parse(text, record->in_bytes);

		if (messages < 0 || !model_chat_known(tokenizer))
			return ATTND_BAD_TEXT;
		count = model_chat_tokenize(tokenizer, text->scratch, text->messages,
			(size_t)messages, text->ids, TEXT_IDS_MAX);
	} else {
		count = model_tokenize(tokenizer, text->scratch, text->copy, record->in_bytes,
			flags, text->ids, TEXT_IDS_MAX);
	}
	if (count < 0)
		return count == -E2BIG ? ATTND_TOO_LARGE : ATTND_BAD_TEXT;
	completion->value = (uint64_t)count;
	if (count > TEXT_IDS_MAX || (uint64_t)count * 4 > record->out_capacity) {
		completion->value = (uint64_t)count * 4;
		return ATTND_NO_OUTPUT_ROOM;
	}
	if (count)
		memcpy(message->out, text->ids, (size_t)count * 4);
	completion->result_bytes = (uint32_t)count * 4;
	return ATTND_OK;
}

static uint8_t do_detokenize(struct svc_text *text, const struct model_tokenizer *tokenizer,
	const struct sched_message *message, struct attnd_completion *completion)
{
	const struct attnd_request *record = &message->record;
	size_t bad = 0, count = record->in_bytes / 4;

	if (record->in_bytes % 4)
		return ATTND_BAD_SHAPE;
	if (record->in_bytes > ATTND_TEXT_BYTES_MAX)
		return ATTND_TOO_LARGE;
	if (count)
		memcpy(text->ids, message->in, record->in_bytes);
	int64_t bytes = model_detokenize(tokenizer, text->ids, count, record->position == 0,
		record->flags & ATTND_REQ_SPECIAL, text->copy, ATTND_TEXT_BYTES_MAX, &bad);

	if (bytes < 0) {
		completion->value = bad;
		return ATTND_BAD_TOKEN;
	}
	completion->value = (uint64_t)bytes;
	if (bytes > ATTND_TEXT_BYTES_MAX)
		return ATTND_TOO_LARGE;
	if ((uint64_t)bytes > record->out_capacity)
		return ATTND_NO_OUTPUT_ROOM;
	if (bytes)
		memcpy(message->out, text->copy, (size_t)bytes);
	completion->result_bytes = (uint32_t)bytes;
	return ATTND_OK;
}

static uint8_t do_request(struct svc_text *text, const struct sched_message *message,
	struct attnd_completion *completion)
{
	const struct attnd_request *record = &message->record;
	uint32_t tenant = text->client_tenant[message->client];

	if (record->argument >= text->options.model_count)
		return ATTND_BAD_MODEL;
	if (tenant < text->options.tenant_count &&
		!(text->options.tenant_models[tenant] >> record->argument & 1))
		return ATTND_DENIED;
	const struct model_tokenizer *tokenizer = text->options.tokenizers[record->argument];

	if (!tokenizer)
		return ATTND_BAD_TEXT;
	if (record->deadline_ns && record->deadline_ns <= completion->admitted_ns) {
		completion->value = (uint64_t)completion->admitted_ns;
		return ATTND_REFUSED_DEADLINE;
	}
	return record->op == ATTND_OP_TOKENIZE
		? do_tokenize(text, tokenizer, message, completion)
		: do_detokenize(text, tokenizer, message, completion);
}

static void answer(
	struct svc_text *text, const struct sched_message *message, struct sched_reply *reply)
{
	struct attnd_completion *completion = &reply->completion;
	int64_t now_ns = base_clock_now(text->options.clock);

	memset(reply, 0, sizeof(*reply));
	reply->client = message->client;
	if (message->kind == SCHED_CLIENT_GONE) {
		reply->kind = SCHED_CLIENT_QUIESCED;
		return;
	}
	reply->kind = SCHED_COMPLETION;
	completion->request_id = message->record.request_id;
	completion->received_ns = message->received_ns;
	completion->admitted_ns = completion->started_ns = now_ns;
	completion->status = do_request(text, message, completion);
	completion->done_ns = base_clock_now(text->options.clock);
	completion->flags = ATTND_CPL_FINAL;
	if (completion->status == ATTND_OK && message->record.deadline_ns &&
		completion->done_ns > message->record.deadline_ns)
		completion->flags |= ATTND_CPL_MISSED;
}

/* Whether the message may be released: false, where its reply finds no room. */
static bool take(struct svc_text *text, const struct sched_message *message, struct base_spsc *out)
{
	if (message->kind == SCHED_CLIENT_ADD) {
		text->client_tenant[message->client] = message->argument;
	} else if (message->kind == SCHED_REQUEST || message->kind == SCHED_CLIENT_GONE) {
		struct sched_reply *reply = base_spsc_claim(out);

		if (!reply)
			return false; /* the front is behind: it will drain */
		answer(text, message, reply);
		base_spsc_publish(out);
	}
	return true;
}

/* first: the number of the lane's first client. */
static bool take_from(struct svc_text *text, const struct sched_lane *lane, uint32_t first)
{
	const struct sched_message *message = base_spsc_peek(lane->in);

	/* What is about a client of another lane is nobody's. */
	if (!message || (message->client - first < lane->clients && !take(text, message, lane->out)))
		return false;
	base_spsc_release(lane->in);
	return true;
}

int svc_text_poll(void *self)
{
	struct svc_text *text = self;
	const uint32_t count = text->options.lane_count;

	for (uint32_t i = 0; i < count; i++) {
		const uint32_t at = (text->lane_first + i) % count;

		if (!take_from(text, &text->options.lanes[at], text->clients_first[at]))
			continue;
		text->lane_first = at + 1;
		return 1;
	}
	return 0;
}
