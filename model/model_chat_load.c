/*
 * Chat templates at load. A file's template is a Jinja program; it is not run, but recognised by its marks as one of
 * the forms below. Control thread.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"
#include "model/model_token_internal.h"

/* ---- the forms ------------------------------------------------------------------------------- */

static const struct model_chat CHATML = {
	.before = { "<|im_start|>system\n", "<|im_start|>user\n", "<|im_start|>assistant\n" },
	.after = { "<|im_end|>\n", "<|im_end|>\n", "<|im_end|>\n" },
	.open = "<|im_start|>assistant\n",
};

static const struct model_chat LLAMA_3 = {
	.before = { "<|start_header_id|>system<|end_header_id|>\n\n", "<|start_header_id|>user<|end_header_id|>\n\n",
		"<|start_header_id|>assistant<|end_header_id|>\n\n" },
	.after = { "<|eot_id|>", "<|eot_id|>", "<|eot_id|>" },
	.open = "<|start_header_id|>assistant<|end_header_id|>\n\n",
};

static const struct model_chat PHI_3 = {
	.before = { "<|system|>\n", "<|user|>\n", "<|assistant|>\n" },
	.after = { "<|end|>\n", "<|end|>\n", "<|end|>\n" },
	.open = "<|assistant|>\n",
};

static const struct model_chat ZEPHYR = {
	.before = { "<|system|>\n", "<|user|>\n", "<|assistant|>\n" },
	.after = { MODEL_CHAT_EOS "\n", MODEL_CHAT_EOS "\n", MODEL_CHAT_EOS "\n" },
	.open = "<|assistant|>\n",
};

static const struct model_chat LLAMA_2 = {
	.turn = "[INST] ", .turn_more = MODEL_CHAT_BOS "[INST] ",
	.before = { "<<SYS>>\n", "", " " },
	.after = { "\n<</SYS>>\n\n", " [/INST]", " " MODEL_CHAT_EOS },
	.open = "",
};

/* The spaces around the marks differ from version to version: see mistral(). */
static const struct model_chat MISTRAL = {
	.turn = "[INST] ", .turn_more = "[INST] ",
	.before = { "", "", "" },
	.after = { "\n\n", "[/INST]", MODEL_CHAT_EOS },
	.open = "",
};

/* ---- recognising a template ------------------------------------------------------------------ */

static const char *find(struct model_text text, const char *mark)
{
	return memmem(text.bytes, text.len, mark, strlen(mark));
}

static bool has(struct model_text text, const char *mark)
{
	return find(text, mark) != NULL;
}

/* Whether `mark` begins within `most` bytes behind the first `from`. */
static bool has_near(struct model_text text, const char *from, const char *mark, size_t most)
{
	struct model_text near = { .bytes = find(text, from) };
	size_t left;

	if (!near.bytes)
		return false;
	left = (size_t)(text.bytes + text.len - near.bytes);
	near.len = strlen(from) + most + strlen(mark);
	if (near.len > left)
		near.len = left;
	return has(near, mark);
}

static struct model_chat mistral(struct model_text template)
{
	struct model_chat chat = MISTRAL;

	if (has(template, "' [INST] '") || has(template, "\" [INST] \""))
		chat.turn = chat.turn_more = " [INST] ";
	else if (!has(template, "[INST] "))
		chat.turn = chat.turn_more = "[INST]";
	if (has(template, " [/INST]"))
		chat.after[MODEL_CHAT_USER] = " [/INST]";
	if (has(template, "' ' + message") || has(template, "\" \" + message"))
		chat.before[MODEL_CHAT_ASSISTANT] = " ";
	return chat;
}

/* The form whose marks the template has. `known` is false in what is returned for a template that has none. */
static struct model_chat recognise(const struct model_tokenizer *tokenizer, struct model_text template)
{
	struct model_chat chat = { .known = false };

	if (has(template, "<|im_start|>") && !has(template, "<|im_sep|>")) {
		chat = CHATML;
	} else if (has(template, "<|start_header_id|>") && has(template, "<|end_header_id|>")) {
		chat = LLAMA_3;
		chat.trim = has(template, "| trim") || has(template, "|trim");
	} else if (has(template, "[INST]") && has(template, "<<SYS>>")) {
		chat = LLAMA_2;
		chat.trim = has(template, ".strip()") || has(template, "trim");
	} else if (has(template, "[INST]") && !has(template, "[SYSTEM_PROMPT]")) {
		chat = mistral(template);
	} else if (has(template, "<|assistant|>") && has(template, "<|end|>")) {
		chat = PHI_3;
		/* The SentencePiece vocabulary of Phi 3 is used so that marks swallow the white space behind them. */
		chat.strip_after = !tokenizer->split;
	} else if (has(template, "<|assistant|>") && (has_near(template, "<|user|>", "eos_token", 64) ||
			has_near(template, "<|user|>", "<|endoftext|>", 64))) {
		chat = ZEPHYR;
	}
	chat.known = chat.open != NULL;
	return chat;
}

/* ---- the template's own system message ------------------------------------------------------- */

/* What stands behind a backslash; 0 for what is no escape. */
static char unescape(char byte)
{
	switch (byte) {
	case 'n':
		return '\n';
	case 't':
		return '\t';
	case 'r':
		return '\r';
	case '\\':
	case '\'':
	case '"':
		return byte;
	default:
		return '\0';
	}
}

/* Reads a string literal up to its closing quote, or what fits; returns its bytes. */
static size_t read_literal(struct model_text rest, char quote, char *to, size_t capacity)
{
	size_t at, count = 0;

	for (at = 0; at < rest.len && rest.bytes[at] != quote && count < capacity; at++) {
		char escaped = '\0';

		if (rest.bytes[at] == '\\' && at + 1 < rest.len)
			escaped = unescape(rest.bytes[at + 1]);
		if (escaped)
			at++;
		to[count++] = escaped ? escaped : rest.bytes[at];
	}
	return count;
}

/* ChatML templates may hold '<|im_start|>system\nTEXT<|im_end|>...': that text is meant for conversations that do
 * not begin with a system message. */
static size_t find_system(struct model_text template, char *to, size_t capacity)
{
	static const char begin[] = "<|im_start|>system\n", end[] = "<|im_end|>";
	struct model_text rest = template;
	const char *mark;

	while ((mark = find(rest, "<|im_start|>system")) != NULL) {
		char quote = mark > template.bytes ? mark[-1] : '\0';
		const char *closing;
		size_t count;

		rest.len -= (size_t)(mark - rest.bytes);
		rest.bytes = mark;
		count = quote == '\'' || quote == '"' ? read_literal(rest, quote, to, capacity) : 0;
		closing = count > 0 ? memmem(to, count, end, sizeof(end) - 1) : NULL;
		if (closing && memcmp(to, begin, sizeof(begin) - 1) == 0 && closing > to + sizeof(begin) - 1) {
			count = (size_t)(closing - to) - (sizeof(begin) - 1);
			memmove(to, to + sizeof(begin) - 1, count);
			return count;
		}
		rest.bytes++;
		rest.len--;
	}
	return 0;
}

/* ---- load ------------------------------------------------------------------------------------ */

/* Whatever in a form's text is a token in angle or square brackets is a mark. */
static void make_marks(struct model_tokenizer *tokenizer, const char *text)
{
	for (; text && *text; text++) {
		const char *end = *text == '<' ? strchr(text, '>') : *text == '[' ? strchr(text, ']') : NULL;
		uint32_t id = end ? model_token_index_find(&tokenizer->index, text, (size_t)(end + 1 - text)) :
			MODEL_TOKEN_ABSENT;

		if (id != MODEL_TOKEN_ABSENT)
			model_token_make_control(tokenizer, id);
	}
}

int model_chat_load(struct model_tokenizer *tokenizer, const struct model_gguf *gguf)
{
	struct model_chat *chat = &tokenizer->chat;
	struct model_text template;
	int rc = model_gguf_text(gguf, "tokenizer.chat_template", &template), role;

	if (rc < 0)
		return rc == -ENOENT ? 0 : rc;
	if (template.len > MODEL_CHAT_TEMPLATE_BYTES_MAX)
		return base_fail(EBADMSG, "tokenizer.chat_template is %zu bytes long, more than %d", template.len,
			MODEL_CHAT_TEMPLATE_BYTES_MAX);
	*chat = recognise(tokenizer, template);
	if (!chat->known)
		return 0;
	chat->bos = tokenizer->bos != MODEL_TOKEN_NONE && (tokenizer->add_bos || has(template, "bos_token"));
	make_marks(tokenizer, chat->turn);
	make_marks(tokenizer, chat->open);
	for (role = 0; role < MODEL_CHAT_ROLES; role++) {
		make_marks(tokenizer, chat->before[role]);
		make_marks(tokenizer, chat->after[role]);
	}
	chat->system = malloc(MODEL_CHAT_SYSTEM_BYTES_MAX);
	if (!chat->system)
		return base_fail(ENOMEM, "no memory for a chat template");
	chat->system_bytes = find_system(template, chat->system, MODEL_CHAT_SYSTEM_BYTES_MAX);
	return 0;
}
