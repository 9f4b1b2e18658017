/*
 * Pre-tokenizers: see model_token_split.h. Every stage looks at a code point a fixed number of times, so that a
 * text takes time in proportion to its length.
 */
#include "model/model_token_split.h"

#include <stdint.h>
#include <string.h>

#include "model/model_unicode.h"

/* ---- code points ----------------------------------------------------------------------------- */

/* The class of the code point at `at`, *next behind it. At the end: OTHER, and *next = end. */
static enum model_unicode_class class_at(const char *text, size_t at, size_t end, size_t *next)
{
	size_t len;
	uint32_t code;

	*next = end;
	if (at >= end)
		return MODEL_UNICODE_OTHER;
	code = model_unicode_decode(text + at, end - at, &len);
	*next = at + len;
	return model_unicode_class(code);
}

/* What the expressions tell apart: letters, numbers, white space, and [^\s\p{L}\p{N}]. */
static enum model_unicode_class kind_at(const char *text, size_t at, size_t end, size_t *next)
{
	enum model_unicode_class class = class_at(text, at, end, next);

	return class == MODEL_UNICODE_PUNCTUATION ? MODEL_UNICODE_OTHER : class;
}

/* Behind the run of `kind` that begins at `at`, of at most `most` code points. */
static size_t run_end(const char *text, size_t at, size_t end, enum model_unicode_class kind, size_t most)
{
	size_t next;

	while (at < end && most-- > 0 && kind_at(text, at, end, &next) == kind)
		at = next;
	return at;
}

static bool is_line_break(char byte)
{
	return byte == '\n' || byte == '\r';
}

/* ---- the parts that the expressions share ---------------------------------------------------- */

static char lower(char byte)
{
	return byte >= 'A' && byte <= 'Z' ? (char)(byte - 'A' + 'a') : byte;
}

/* 's 't 're 've 'm 'll 'd: its bytes, or 0. */
static size_t contraction(const char *text, size_t at, size_t end, bool any_case)
{
	char first, second;

	if (text[at] != '\'' || end - at < 2)
		return 0;
	first = any_case ? lower(text[at + 1]) : text[at + 1];
	if (first == 's' || first == 't' || first == 'm' || first == 'd')
		return 2;
	/* Without regard to case, the long s is an s. */
	if (any_case && end - at >= 3 && memcmp(text + at + 1, "\xc5\xbf", 2) == 0)
		return 3;
	if (end - at < 3)
		return 0;
	second = any_case ? lower(text[at + 2]) : text[at + 2];
	if ((first == 'r' && second == 'e') || (first == 'v' && second == 'e') || (first == 'l' && second == 'l'))
		return 3;
	return 0;
}

/* \s+(?!\S)|\s+ : the run without its last code point, which goes with what follows; all of it when nothing
 * follows or when it is alone. */
static size_t spaces_end(const char *text, size_t at, size_t end)
{
	size_t last = at, next = at;

	while (next < end && kind_at(text, next, end, &next) == MODEL_UNICODE_SPACE) {
		size_t after;

		if (next >= end)
			return end;
		if (kind_at(text, next, end, &after) != MODEL_UNICODE_SPACE)
			return last > at ? last : next;
		last = next;
	}
	return next;
}

/* ---- stages ---------------------------------------------------------------------------------- */

/* GPT-2: 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
static size_t stage_gpt2(const char *text, size_t at, size_t end)
{
	size_t len = contraction(text, at, end, false), next, body = at;
	enum model_unicode_class kind;

	if (len > 0)
		return at + len;
	if (text[at] == ' ' && at + 1 < end)
		body = at + 1;
	kind = kind_at(text, body, end, &next);
	if (kind != MODEL_UNICODE_SPACE)
		return run_end(text, next, end, kind, SIZE_MAX);
	return spaces_end(text, at, end);
}

/*
 * Llama 3 and Qwen 2: (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,DIGITS}
 * | ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
 */
static size_t modern(const char *text, size_t at, size_t end, size_t digits)
{
	size_t len = contraction(text, at, end, true), next, after, body = at, run, breaks = at;
	enum model_unicode_class kind, following;

	if (len > 0)
		return at + len;
	kind = kind_at(text, at, end, &next);
	if (kind == MODEL_UNICODE_LETTER)
		return run_end(text, next, end, kind, SIZE_MAX);
	if (kind == MODEL_UNICODE_NUMBER)
		return run_end(text, next, end, kind, digits - 1);
	following = kind_at(text, next, end, &after);
	if (following == MODEL_UNICODE_LETTER && !is_line_break(text[at]))
		return run_end(text, after, end, following, SIZE_MAX);
	if (text[at] == ' ' && next < end && following == MODEL_UNICODE_OTHER)
		body = next, kind = following;
	if (kind == MODEL_UNICODE_OTHER) {
		run = run_end(text, body, end, kind, SIZE_MAX);
		while (run < end && is_line_break(text[run]))
			run++;
		return run;
	}
	run = run_end(text, at, end, MODEL_UNICODE_SPACE, SIZE_MAX);
	for (next = at; next < run; next++)
		if (is_line_break(text[next]))
			breaks = next + 1;
	return breaks > at ? breaks : spaces_end(text, at, end);
}

static size_t stage_llama3(const char *text, size_t at, size_t end)
{
	return modern(text, at, end, 3);
}

static size_t stage_qwen2(const char *text, size_t at, size_t end)
{
	return modern(text, at, end, 1);
}

/* \p{N} each alone, and what lies between them. */
static size_t stage_digits(const char *text, size_t at, size_t end)
{
	size_t next;

	if (kind_at(text, at, end, &next) == MODEL_UNICODE_NUMBER)
		return next;
	while (next < end) {
		size_t after;

		if (kind_at(text, next, end, &after) == MODEL_UNICODE_NUMBER)
			break;
		next = after;
	}
	return next;
}

/* \p{N}+, and what lies between. */
static size_t stage_numbers(const char *text, size_t at, size_t end)
{
	size_t next;
	bool number = kind_at(text, at, end, &next) == MODEL_UNICODE_NUMBER;

	while (next < end) {
		size_t after;

		if ((kind_at(text, next, end, &after) == MODEL_UNICODE_NUMBER) != number)
			break;
		next = after;
	}
	return next;
}

static bool is_three_digits(const char *text, size_t at, size_t end)
{
	size_t i;

	for (i = at; i < at + 3; i++)
		if (i >= end || text[i] < '0' || text[i] > '9')
			return false;
	return true;
}

/* [0-9][0-9][0-9], and what lies between. */
static size_t stage_thousands(const char *text, size_t at, size_t end)
{
	if (is_three_digits(text, at, end))
		return at + 3;
	for (at++; at < end && !is_three_digits(text, at, end); at++)
		continue;
	return at;
}

/* [\p{P}EXTRA]+, and what lies between. */
static size_t punctuation(const char *text, size_t at, size_t end, const char *extra)
{
	bool begun = false, inside = false;
	size_t next;

	for (; at < end; at = next) {
		bool mark = class_at(text, at, end, &next) == MODEL_UNICODE_PUNCTUATION ||
			(text[at] != '\0' && strchr(extra, text[at]));

		if (begun && mark != inside)
			break;
		begun = true;
		inside = mark;
	}
	return at;
}

static size_t stage_punctuation(const char *text, size_t at, size_t end)
{
	return punctuation(text, at, end, "$+<=>^~|");
}

static size_t stage_punctuation_falcon(const char *text, size_t at, size_t end)
{
	return punctuation(text, at, end, "$+<=>^~|`");
}

/* ---- the names ------------------------------------------------------------------------------- */

static const struct model_token_split SPLIT_GPT2 = { .stages = { stage_gpt2 } };
static const struct model_token_split SPLIT_DIGITS = { .stages = { stage_digits, stage_gpt2 } };
static const struct model_token_split SPLIT_LLAMA3 = {
	.stages = { stage_llama3 }, .ignore_merges = true, .add_bos = true
};
static const struct model_token_split SPLIT_LLAMA3_PLAIN = { .stages = { stage_llama3 } };
static const struct model_token_split SPLIT_QWEN2 = { .stages = { stage_qwen2 } };
static const struct model_token_split SPLIT_FALCON = {
	.stages = { stage_punctuation_falcon, stage_gpt2, stage_thousands }
};
static const struct model_token_split SPLIT_DEFAULT = {
	.stages = { stage_punctuation, stage_gpt2, stage_numbers, stage_thousands }
};

/* The names are those that converters write. */
static const struct { const char *name; const struct model_token_split *split; } NAMES[] = {
	{ "default", &SPLIT_DEFAULT },
	{ "gpt-2", &SPLIT_GPT2 },       { "phi-2", &SPLIT_GPT2 },        { "mpt", &SPLIT_GPT2 },
	{ "olmo", &SPLIT_GPT2 },        { "jais", &SPLIT_GPT2 },         { "trillion", &SPLIT_GPT2 },
	{ "exaone4", &SPLIT_GPT2 },     { "modern-bert", &SPLIT_GPT2 },  { "gigachat", &SPLIT_GPT2 },
	{ "smollm", &SPLIT_DIGITS },    { "starcoder", &SPLIT_DIGITS },  { "refact", &SPLIT_DIGITS },
	{ "command-r", &SPLIT_DIGITS }, { "codeshell", &SPLIT_DIGITS },  { "exaone", &SPLIT_DIGITS },
	{ "minerva-7b", &SPLIT_DIGITS },
	{ "llama-bpe", &SPLIT_LLAMA3 }, { "llama3", &SPLIT_LLAMA3 },     { "llama-v3", &SPLIT_LLAMA3 },
	{ "falcon3", &SPLIT_LLAMA3 },   { "lfm2", &SPLIT_LLAMA3 },       { "pixtral", &SPLIT_LLAMA3 },
	{ "dbrx", &SPLIT_LLAMA3_PLAIN }, { "smaug-bpe", &SPLIT_LLAMA3_PLAIN },
	{ "qwen2", &SPLIT_QWEN2 },      { "stablelm2", &SPLIT_QWEN2 },   { "deepseek-r1-qwen", &SPLIT_QWEN2 },
	{ "hunyuan", &SPLIT_QWEN2 },    { "megrez", &SPLIT_QWEN2 },
	{ "falcon", &SPLIT_FALCON },
};

const struct model_token_split *model_token_split_find(struct model_text name)
{
	size_t i;

	for (i = 0; i < sizeof(NAMES) / sizeof(NAMES[0]); i++)
		if (strlen(NAMES[i].name) == name.len && memcmp(NAMES[i].name, name.bytes, name.len) == 0)
			return NAMES[i].split;
	return NULL;
}

void model_token_split_walk(model_token_stage *const *stages, const char *text, size_t at, size_t end,
	model_token_word *word, void *context)
{
	if (!stages[0]) {
		word(context, text, at, end);
		return;
	}
	while (at < end) {
		size_t to = stages[0](text, at, end);

		/* At most MODEL_TOKEN_STAGES_MAX deep. */
		model_token_split_walk(stages + 1, text, at, to, word, context);
		at = to;
	}
}
