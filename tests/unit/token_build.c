/*
 * Small tokenizers for tests: see token_build.h. Nothing here needs a test framework; fuzzers use it too.
 */
#include "tests/unit/token_build.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/model_unicode.h"

/* ---- the file, byte by byte ----------------------------------------------------------------- */

static void put(struct token_build *build, const void *bytes, size_t len)
{
	if (len > sizeof(build->file) - build->size)
		abort();
	memcpy(build->file + build->size, bytes, len);
	build->size += len;
}

static void put_u32(struct token_build *build, uint32_t value)
{
	put(build, &value, sizeof(value));
}

static void put_u64(struct token_build *build, uint64_t value)
{
	put(build, &value, sizeof(value));
}

static void put_text(struct token_build *build, const char *text, size_t len)
{
	put_u64(build, len);
	put(build, text, len);
}

static void put_key(struct token_build *build, const char *key, uint32_t type)
{
	put_text(build, key, strlen(key));
	put_u32(build, type);
	build->keys++;
}

static void put_array(struct token_build *build, const char *key, uint32_t type, uint64_t count)
{
	put_key(build, key, MODEL_GGUF_ARRAY);
	put_u32(build, type);
	put_u64(build, count);
}

void token_build_text(struct token_build *build, const char *key, const char *bytes, size_t len)
{
	put_key(build, key, MODEL_GGUF_STRING);
	put_text(build, bytes, len);
}

void token_build_u32(struct token_build *build, const char *key, uint32_t value)
{
	put_key(build, key, MODEL_GGUF_U32);
	put_u32(build, value);
}

void token_build_bool(struct token_build *build, const char *key, bool value)
{
	uint8_t byte = value;

	put_key(build, key, MODEL_GGUF_BOOL);
	put(build, &byte, 1);
}

struct token_build *token_build_new(const char *kind, const char *pre)
{
	struct token_build *build = calloc(1, sizeof(*build));

	if (!build)
		abort();
	put(build, "GGUF", 4);
	put_u32(build, 3);
	put_u64(build, 0); /* tensors */
	put_u64(build, 0); /* keys: written when they are known */
	build->spm = kind && strcmp(kind, "llama") == 0;
	if (kind)
		token_build_text(build, "tokenizer.ggml.model", kind, strlen(kind));
	if (pre)
		token_build_text(build, "tokenizer.ggml.pre", pre, strlen(pre));
	return build;
}

void token_build_free(struct token_build *build)
{
	uint32_t i;

	for (i = 0; i < build->tokens; i++)
		free(build->texts[i]);
	for (i = 0; i < build->merges; i++)
		free(build->merge[i]);
	free(build);
}

/* ---- tokens ------------------------------------------------------------------------------------ */

uint32_t token_build_add(struct token_build *build, const char *text, size_t len, int32_t type, float score)
{
	uint32_t id = build->tokens++;

	if (id >= TOKEN_BUILD_TOKENS || !(build->texts[id] = malloc(len + 1)))
		abort();
	memcpy(build->texts[id], text, len);
	build->lens[id] = len;
	build->types[id] = type;
	build->scores[id] = score;
	return id;
}

void token_build_merge(struct token_build *build, const char *merge)
{
	if (build->merges >= TOKEN_BUILD_TOKENS || !(build->merge[build->merges++] = strdup(merge)))
		abort();
}

void token_build_join(struct token_build *build, const char *left, const char *right)
{
	char text[256];

	snprintf(text, sizeof(text), "%s %s", left, right);
	token_build_merge(build, text);
	snprintf(text, sizeof(text), "%s%s", left, right);
	token_build_add(build, text, strlen(text), TOKEN_NORMAL, 0);
}

void token_build_bytes(struct token_build *build)
{
	unsigned byte, next = 256;

	for (byte = 0; byte < 256; byte++) {
		bool shown = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
		char text[8];
		size_t len;

		if (build->spm)
			len = (size_t)snprintf(text, sizeof(text), "<0x%02X>", byte);
		else
			len = model_unicode_encode(shown ? byte : next++, text);
		token_build_add(build, text, len, build->spm ? TOKEN_BYTE : TOKEN_NORMAL, 0);
	}
}

/* ---- the tokenizer ------------------------------------------------------------------------------- */

int token_build_make_counts(struct token_build *build, struct token_build_counts more,
	struct model_tokenizer **tokenizer)
{
	struct model_gguf *gguf;
	uint32_t i;
	int rc;

	put_array(build, "tokenizer.ggml.tokens", MODEL_GGUF_STRING, build->tokens);
	for (i = 0; i < build->tokens; i++)
		put_text(build, build->texts[i], build->lens[i]);
	put_array(build, "tokenizer.ggml.token_type", MODEL_GGUF_I32, (uint64_t)((int)build->tokens + more.types));
	put(build, build->types, (size_t)((int)build->tokens + more.types) * sizeof(build->types[0]));
	put_array(build, "tokenizer.ggml.scores", MODEL_GGUF_F32, (uint64_t)((int)build->tokens + more.scores));
	put(build, build->scores, (size_t)((int)build->tokens + more.scores) * sizeof(build->scores[0]));
	put_array(build, "tokenizer.ggml.merges", MODEL_GGUF_STRING, build->merges);
	for (i = 0; i < build->merges; i++)
		put_text(build, build->merge[i], strlen(build->merge[i]));
	memcpy(build->file + 16, &build->keys, sizeof(build->keys));
	rc = model_gguf_open_memory(&gguf, build->file, build->size);
	if (rc < 0)
		return rc;
	rc = model_tokenizer_create(tokenizer, gguf);
	model_gguf_close(gguf);
	return rc;
}

int token_build_make(struct token_build *build, struct model_tokenizer **tokenizer)
{
	return token_build_make_counts(build, (struct token_build_counts){ 0, 0 }, tokenizer);
}

static struct model_tokenizer *made(struct token_build *build)
{
	struct model_tokenizer *tokenizer = NULL;

	if (token_build_make(build, &tokenizer) < 0)
		tokenizer = NULL;
	token_build_free(build);
	return tokenizer;
}

struct model_tokenizer *token_build_spm(void)
{
	static const struct { const char *text; float score; } words[] = {
		{ "▁", -9 }, { "a", -20 }, { "b", -21 }, { "c", -22 }, { "d", -23 }, { "e", -24 }, { "h", -25 },
		{ "l", -26 }, { "o", -27 }, { "é", -28 }, { "ab", -5 }, { "bc", -4 }, { "abc", -3 }, { "aa", -6 },
		{ "he", -7 }, { "ll", -7 }, { "llo", -8 }, { "hello", -2 }, { "▁hello", -1 }, { "▁▁", -10 },
		{ "xy", -11 }, { "vw", -14 }, { "uv", -14 }, { "s>", -12 }, { "<s", -13 },
	};
	struct token_build *build = token_build_new("llama", NULL);
	size_t i;

	token_build_add(build, "<unk>", 5, TOKEN_UNKNOWN, 0);
	token_build_add(build, "<s>", 3, TOKEN_CONTROL, 0);
	token_build_add(build, "</s>", 4, TOKEN_CONTROL, 0);
	token_build_bytes(build);
	for (i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		token_build_add(build, words[i].text, strlen(words[i].text), TOKEN_NORMAL, words[i].score);
	token_build_add(build, "<user>", 6, TOKEN_USER, 0);
	token_build_add(build, "z", 1, TOKEN_CONTROL, 0);
	return made(build);
}

struct model_tokenizer *token_build_bpe(const char *pre)
{
	static const char template[] = "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
		"{{ '<|im_start|>system\\nBe kind, it\\'s free<|im_end|>\\n' }}{% endif %}{{ '<|im_start|>' + m['role'] }}";
	struct token_build *build = token_build_new("gpt2", pre);

	token_build_bytes(build);
	token_build_join(build, "h", "e");
	token_build_join(build, "l", "l");
	token_build_join(build, "ll", "o");
	token_build_join(build, "he", "llo");
	token_build_join(build, "Ġ", "hello");
	token_build_join(build, "1", "2");
	token_build_join(build, "a", "a");
	token_build_join(build, "Ġ", "Ġ");
	token_build_join(build, "Ã", "©");
	token_build_add(build, "Ġqrs", 5, TOKEN_NORMAL, 0);
	token_build_add(build, "<|im_start|>", 12, TOKEN_CONTROL, 0);
	token_build_add(build, "<|im_end|>", 10, TOKEN_CONTROL, 0);
	token_build_add(build, "<|im_end|>x", 11, TOKEN_CONTROL, 0);
	token_build_add(build, "<|endoftext|>", 13, TOKEN_CONTROL, 0);
	token_build_add(build, "<tool>", 6, TOKEN_USER, 0);
	token_build_text(build, "tokenizer.chat_template", template, sizeof(template) - 1);
	return made(build);
}
