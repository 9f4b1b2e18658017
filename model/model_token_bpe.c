/*
 * Byte-level BPE (tokenizer.ggml.model = "gpt2"): text is cut into words, a word's symbols begin as bytes, and a
 * list of merges, most important first, joins them. In the file each byte is written as a printable code point.
 * Any thread, on its own scratch.
 *
 * Sennrich, Haddow, Birch: Neural Machine Translation of Rare Words with Subword Units, 2016; the alphabet of bytes
 * is GPT-2's.
 */
#include "model/model_token_internal.h"
#include "model/model_unicode.h"

/* Printable bytes of Latin-1 stand for themselves; the others follow from U+0100, in order. */
uint32_t model_token_bpe_code(unsigned byte)
{
	if (byte <= 32)
		return 256 + byte;
	if (byte >= 127 && byte <= 160)
		return 256 + 33 + byte - 127;
	if (byte == 173)
		return 256 + 33 + 34;
	return byte;
}

/* The token that spells exactly these bytes, if ordinary text may become it. */
uint32_t model_token_bpe_find(const struct model_tokenizer *tokenizer, const char *bytes, size_t len)
{
	char text[MODEL_TOKEN_BYTES_MAX + 4];
	size_t at, text_bytes = 0;
	uint32_t id;

	for (at = 0; at < len && text_bytes <= MODEL_TOKEN_BYTES_MAX; at++)
		text_bytes += model_unicode_encode(model_token_bpe_code((unsigned char)bytes[at]), text + text_bytes);
	if (text_bytes > MODEL_TOKEN_BYTES_MAX)
		return MODEL_TOKEN_ABSENT;
	id = model_token_index_find(&tokenizer->index, text, text_bytes);
	return id != MODEL_TOKEN_ABSENT && model_token_is_text(tokenizer, id) ? id : MODEL_TOKEN_ABSENT;
}

struct run {
	const struct model_tokenizer *tokenizer;
	struct model_token_scratch *scratch;
	struct model_token_output *output;
};

/* One word. A byte that has no token is left out, as if it were not there. */
static void put_word(void *context, const char *text, size_t at, size_t end)
{
	const struct run *run = context;
	const struct model_tokenizer *tokenizer = run->tokenizer;
	struct model_token_symbol *symbols = run->scratch->symbols;
	uint32_t count = 0, i;

	if (tokenizer->split->ignore_merges) {
		uint32_t id = model_token_bpe_find(tokenizer, text + at, end - at);

		if (id != MODEL_TOKEN_ABSENT) {
			model_token_put(run->output, id);
			return;
		}
	}
	for (; at < end; at++) {
		symbols[count].id = tokenizer->byte_ids[(unsigned char)text[at]];
		count += symbols[count].id != MODEL_TOKEN_ABSENT;
	}
	model_token_merge(&tokenizer->pairs, symbols, count, run->scratch->heap);
	for (i = count > 0 ? 0 : MODEL_TOKEN_ABSENT; i != MODEL_TOKEN_ABSENT; i = symbols[i].next)
		model_token_put(run->output, symbols[i].id);
}

void model_token_bpe_text(const struct model_tokenizer *tokenizer, struct model_token_scratch *scratch,
	const char *text, size_t at, size_t end, struct model_token_output *output)
{
	struct run run = { .tokenizer = tokenizer, .scratch = scratch, .output = output };

	model_token_split_walk(tokenizer->split->stages, text, at, end, put_word, &run);
}
