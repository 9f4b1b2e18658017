/*
 * Conversations, rendered straight to ids. Only the texts of the template's form are searched for control tokens;
 * messages are plain text, so that nobody can forge a turn. Any thread, on its own scratch.
 */
#include <errno.h>
#include <string.h>

#include "model/model_token_internal.h"

bool model_chat_known(const struct model_tokenizer *tokenizer)
{
	return tokenizer->chat.known;
}

struct render {
	const struct model_tokenizer *tokenizer;
	struct model_token_scratch *scratch;
	struct model_token_output output;
	size_t text_bytes;  /* plain text gathered in the scratch since the last control token */
	bool after_control;
	bool overflow;      /* more of it than the scratch holds */
};

static bool is_space(char byte)
{
	return byte == ' ' || (byte >= '\t' && byte <= '\r');
}

static void put_text(struct render *render, const char *bytes, size_t len)
{
	if (len > render->scratch->text_bytes_max - render->text_bytes) {
		render->overflow = true;
		return;
	}
	if (len > 0)
		memcpy(render->scratch->text + render->text_bytes, bytes, len);
	render->text_bytes += len;
}

static void flush(struct render *render)
{
	const char *text = render->scratch->text;
	size_t skip = 0;

	while (render->after_control && render->tokenizer->chat.strip_after && skip < render->text_bytes &&
			is_space(text[skip]))
		skip++;
	model_token_text(render->tokenizer, render->scratch, text + skip, render->text_bytes - skip, false,
		&render->output);
	render->text_bytes = 0;
	render->after_control = false;
}

static void put_control(struct render *render, int32_t id)
{
	flush(render);
	if (id != MODEL_TOKEN_NONE)
		model_token_put(&render->output, (uint32_t)id);
	render->after_control = true;
}

/* Text of a form. */
static void put_form(struct render *render, const char *text)
{
	const struct model_tokenizer *tokenizer = render->tokenizer;
	size_t at, end = strlen(text), len;

	for (at = 0; at < end; at += len) {
		uint32_t id = model_token_special_at(tokenizer, text, at, end, true, &len);

		if (text[at] == MODEL_CHAT_BOS[0] || text[at] == MODEL_CHAT_EOS[0]) {
			put_control(render, text[at] == MODEL_CHAT_BOS[0] ? tokenizer->bos : tokenizer->eos);
			len = 1;
		} else if (id != MODEL_TOKEN_ABSENT) {
			put_control(render, (int32_t)id);
		} else {
			len = 1;
			put_text(render, text + at, len);
		}
	}
}

static void put_message(struct render *render, uint32_t role, const char *bytes, size_t len)
{
	const struct model_chat *chat = &render->tokenizer->chat;

	for (; chat->trim && len > 0 && is_space(bytes[0]); len--)
		bytes++;
	while (chat->trim && len > 0 && is_space(bytes[len - 1]))
		len--;
	put_form(render, chat->before[role]);
	put_text(render, bytes, len);
	put_form(render, chat->after[role]);
}

static void put_messages(struct render *render, const struct model_chat_message *messages, size_t count)
{
	const struct model_chat *chat = &render->tokenizer->chat;
	bool in_turn = false;
	size_t i;

	if (count > 0 && messages[0].role != MODEL_CHAT_SYSTEM && chat->system_bytes > 0)
		put_message(render, MODEL_CHAT_SYSTEM, chat->system, chat->system_bytes);
	for (i = 0; i < count && !render->overflow; i++) {
		if (chat->turn && !in_turn && messages[i].role != MODEL_CHAT_ASSISTANT)
			put_form(render, i > 0 ? chat->turn_more : chat->turn);
		in_turn = messages[i].role != MODEL_CHAT_ASSISTANT;
		put_message(render, messages[i].role, messages[i].text, messages[i].text_bytes);
	}
	put_form(render, chat->open);
	flush(render);
}

int64_t model_chat_tokenize(const struct model_tokenizer *tokenizer, struct model_token_scratch *scratch,
	const struct model_chat_message *messages, size_t count, uint32_t *ids, size_t capacity)
{
	struct render render = { .tokenizer = tokenizer, .scratch = scratch,
		.output = { .ids = ids, .capacity = capacity } };
	size_t i;

	if (!tokenizer->chat.known)
		return -ENOTSUP;
	for (i = 0; i < count; i++)
		if (messages[i].role >= MODEL_CHAT_ROLES)
			return -EINVAL;
	if (tokenizer->chat.bos)
		put_control(&render, tokenizer->bos);
	put_messages(&render, messages, count);
	return render.overflow ? -E2BIG : (int64_t)render.output.count;
}
