/*
 * Conversations. A file's template is a Jinja program; it is not run here, but recognised by its marks as one of the
 * forms below, whose texts are then rendered straight to ids. Only these texts are searched for control tokens;
 * messages are plain text, so that nobody can forge a turn.
 *
 * model_chat_load: control thread, at load. model_chat_tokenize: any thread, on its own scratch.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"
#include "model/model_token_internal.h"

enum { SYSTEM, USER, ASSISTANT };

/* In the texts of a form: the tokens that begin and end a sequence. */
#define BOS "\2"
#define EOS "\3"

/* ---- the forms ------------------------------------------------------------------------------------------------------ */

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
	.after = { EOS "\n", EOS "\n", EOS "\n" },
	.open = "<|assistant|>\n",
};

static const struct model_chat LLAMA_2 = {
	.turn = "[INST] ", .turn_more = BOS "[INST] ",
	.before = { "<<SYS>>\n", "", " " },
	.after = { "\n<</SYS>>\n\n", " [/INST]", " " EOS },
	.open = "",
};

/* The spaces around the marks differ from version to version: see mistral(). */
static const struct model_chat MISTRAL = {
	.turn = "[INST] ", .turn_more = "[INST] ",
	.before = { "", "", "" },
	.after = { "\n\n", "[/INST]", EOS },
	.open = "",
};

/* ---- recognising a template ------------------------------------------------------------------------------------------- */

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
	const char *begin = find(text, from), *end = text.bytes + text.len;

	if (!begin)
		return false;
	most += strlen(from) + strlen(mark);
	return has((struct model_text){ .bytes = begin, .len = (size_t)(end - begin) < most ? (size_t)(end - begin) : most },
		mark);
}

static struct model_chat mistral(struct model_text template)
{
	struct model_chat chat = MISTRAL;

	if (has(template, "' [INST] '") || has(template, "\" [INST] \""))
		chat.turn = chat.turn_more = " [INST] ";
	else if (!has(template, "[INST] "))
		chat.turn = chat.turn_more = "[INST]";
	if (has(template, " [/INST]"))
		chat.after[USER] = " [/INST]";
	if (has(template, "' ' + message") || has(template, "\" \" + message"))
		chat.before[ASSISTANT] = " ";
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

/* ---- the template's own system message ------------------------------------------------------------------------------------ */

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

/* ---- load ------------------------------------------------------------------------------------------------------------------- */

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

bool model_chat_known(const struct model_tokenizer *tokenizer)
{
	return tokenizer->chat.known;
}

/* ---- rendering ------------------------------------------------------------------------------------------------------------------ */

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

		if (text[at] == BOS[0] || text[at] == EOS[0]) {
			put_control(render, text[at] == BOS[0] ? tokenizer->bos : tokenizer->eos);
			len = 1;
		} else if (id != MODEL_TOKEN_ABSENT) {
			put_control(render, (int32_t)id);
		} else {
			put_text(render, text + at, len = 1);
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

	if (count > 0 && messages[0].role != SYSTEM && chat->system_bytes > 0)
		put_message(render, SYSTEM, chat->system, chat->system_bytes);
	for (i = 0; i < count && !render->overflow; i++) {
		if (chat->turn && !in_turn && messages[i].role != ASSISTANT)
			put_form(render, i > 0 ? chat->turn_more : chat->turn);
		in_turn = messages[i].role != ASSISTANT;
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
