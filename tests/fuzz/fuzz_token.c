/*
 * Fuzzes the tokenizers. The first byte picks what the rest is for:
 *
 *   0..127   text for small fixed tokenizers (SentencePiece, and BPE with each pre-tokenizer): it must come back from
 *            its ids as it was; with special tokens, with little room, and as a conversation, nothing may break
 *   128..    a GGUF file: if it makes a tokenizer, some text is run through it
 *
 * The input is copied to a heap block of exactly its size, so that a sanitizer sees the first byte read past the end.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"
#include "model/model_token.h"
#include "tests/unit/token_build.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { TEXT_MAX = 1 << 16, IDS_MAX = 4 * TEXT_MAX };

static const char *const PRE[] = { "gpt-2", "smollm", "llama-bpe", "qwen2", "falcon", "default" };
enum { KINDS = 1 + sizeof(PRE) / sizeof(PRE[0]) };

static struct model_tokenizer *tokenizers[KINDS];
static struct model_token_scratch *scratch;
static uint32_t ids[IDS_MAX];
static char shown[4 * TEXT_MAX];

static void check(bool right)
{
	if (!right)
		abort();
}

static void begin(void)
{
	size_t i;

	if (scratch)
		return;
	check(model_token_scratch_create(&scratch, TEXT_MAX) == 0);
	tokenizers[0] = token_build_spm();
	for (i = 1; i < KINDS; i++)
		tokenizers[i] = token_build_bpe(PRE[i - 1]);
	for (i = 0; i < KINDS; i++)
		check(tokenizers[i] != NULL);
}

/* All flags, all the room and hardly any: the same count, ids in range, and text from them. */
static void run(const struct model_tokenizer *tokenizer, const char *text, size_t len)
{
	uint32_t flags, few[3];
	size_t bad;
	int64_t i;

	for (flags = 0; flags < 4; flags++) {
		int64_t count = model_tokenize(tokenizer, scratch, text, len, flags, ids, IDS_MAX), back;

		check(count >= 0 && count <= IDS_MAX);
		check(model_tokenize(tokenizer, scratch, text, len, flags, few, 3) == count);
		check(memcmp(few, ids, (count < 3 ? (size_t)count : 3) * sizeof(few[0])) == 0);
		for (i = 0; i < count; i++)
			check(ids[i] < model_tokenizer_size(tokenizer));
		back = model_detokenize(tokenizer, ids, (size_t)count, flags & 1, flags & 2, shown, sizeof(shown), &bad);
		check(back >= 0);
		check(model_detokenize(tokenizer, ids, (size_t)count, flags & 1, flags & 2, shown, 3, &bad) == back);
	}
}

/* A message cannot make more control tokens than an empty one does. */
static void converse(const struct model_tokenizer *tokenizer, const char *text, size_t len)
{
	struct model_chat_message message = { .role = 1, .text = text, .text_bytes = 0 };
	int64_t pass, count, i, ends[2] = { 0, 0 };

	for (pass = 0; pass < 2; pass++) {
		count = model_chat_tokenize(tokenizer, scratch, &message, 1, ids, IDS_MAX);
		check(count >= 0 && count <= IDS_MAX);
		for (i = 0; i < count; i++)
			ends[pass] += model_tokenizer_is_end(tokenizer, ids[i]);
		message.text_bytes = len;
	}
	check(ends[0] == ends[1]);
}

static void text_input(const char *text, size_t len)
{
	size_t i, bad;

	for (i = 0; i < KINDS; i++) {
		run(tokenizers[i], text, len);
		/* SentencePiece cannot tell U+2581 from a space. */
		if (i > 0 || !memmem(text, len, "\xe2\x96\x81", 3)) {
			int64_t count = model_tokenize(tokenizers[i], scratch, text, len, MODEL_TOKEN_ADD_SPECIAL, ids, IDS_MAX);

			check(count >= 0 && model_detokenize(tokenizers[i], ids, (size_t)count, true, false, shown,
				sizeof(shown), &bad) == (int64_t)len);
			check(memcmp(shown, text, len) == 0);
		}
		if (i > 0 && len < TEXT_MAX / 2)
			converse(tokenizers[i], text, len);
	}
}

static void file_input(const char *bytes, size_t len)
{
	static const char text[] = " Hello, w0rld 123\n\xff <s><|im_end|>\xe2\x96\x81";
	struct model_chat_message messages[] = { { .role = 1, .text = text, .text_bytes = sizeof(text) - 1 },
		{ .role = 2, .text = text, .text_bytes = sizeof(text) - 1 } };
	struct model_tokenizer *tokenizer;
	struct model_gguf *gguf;

	if (model_gguf_open_memory(&gguf, bytes, len) < 0)
		return;
	base_error_clear();
	if (model_tokenizer_create(&tokenizer, gguf) == 0) {
		run(tokenizer, text, sizeof(text) - 1);
		check(model_chat_tokenize(tokenizer, scratch, messages, 2, ids, IDS_MAX) >= 0 || !model_chat_known(tokenizer));
		model_tokenizer_destroy(tokenizer);
	} else {
		check(base_error_message()[0] != '\0');
	}
	model_gguf_close(gguf);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *copy;

	begin();
	if (size == 0 || size - 1 > TEXT_MAX)
		return 0;
	copy = malloc(size - 1 > 0 ? size - 1 : 1);
	if (!copy)
		return 0;
	memcpy(copy, data + 1, size - 1);
	if (data[0] < 128)
		text_input(copy, size - 1);
	else
		file_input(copy, size - 1);
	free(copy);
	return 0;
}
