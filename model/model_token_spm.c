/*
 * SentencePiece, the kind with scores (tokenizer.ggml.model = "llama"): symbols begin as code points, and the two
 * neighbours merge first whose text together is the token of highest score. Spaces are written U+2581; what is no
 * token falls back to byte tokens. Any thread, on its own scratch.
 *
 * Kudo, Richardson: SentencePiece, 2018.
 */
#include "model/model_token_internal.h"
#include "model/model_unicode.h"

enum { SPACE_MARK = 0x2581 };

uint32_t model_token_spm_symbol(const struct model_tokenizer *tokenizer, uint32_t code)
{
	uint32_t low = 0, high = tokenizer->char_count;

	while (low < high) {
		uint32_t middle = (low + high) / 2;

		if (tokenizer->chars[middle] < code)
			low = middle + 1;
		else
			high = middle;
	}
	return low < tokenizer->char_count && tokenizer->chars[low] == code ? tokenizer->char_symbols[low] :
		MODEL_TOKEN_ABSENT;
}

/* A symbol that is no token, as byte tokens; as the unknown token where one of these is missing. */
static void put_bytes(const struct model_tokenizer *tokenizer, const char *bytes, size_t len,
	struct model_token_output *output)
{
	size_t i;

	for (i = 0; i < len; i++)
		if (tokenizer->byte_ids[(unsigned char)bytes[i]] == MODEL_TOKEN_ABSENT) {
			if (tokenizer->unknown != MODEL_TOKEN_NONE)
				model_token_put(output, (uint32_t)tokenizer->unknown);
			return;
		}
	for (i = 0; i < len; i++)
		model_token_put(output, tokenizer->byte_ids[(unsigned char)bytes[i]]);
}

static void put_symbol(const struct model_tokenizer *tokenizer, const struct model_token_symbol *symbol,
	const char *text, size_t end, struct model_token_output *output)
{
	if (symbol->id < tokenizer->count) {
		model_token_put(output, symbol->id);
	} else if (symbol->at >= end || text[symbol->at] == ' ') {
		put_bytes(tokenizer, "\xe2\x96\x81", 3, output);
	} else {
		size_t len;

		model_unicode_decode(text + symbol->at, end - symbol->at, &len);
		put_bytes(tokenizer, text + symbol->at, len, output);
	}
}

void model_token_spm_text(const struct model_tokenizer *tokenizer, struct model_token_scratch *scratch,
	const char *text, size_t at, size_t end, bool space_before, struct model_token_output *output)
{
	struct model_token_symbol *symbols = scratch->symbols;
	uint32_t space = model_token_spm_symbol(tokenizer, SPACE_MARK), count = 0, i;
	size_t len;

	/* The space before the text has its place at the end, where no byte of the text is. */
	if (space_before)
		symbols[count++] = (struct model_token_symbol){ .id = space, .at = (uint32_t)end };
	for (; at < end; at += len) {
		uint32_t code = model_unicode_decode(text + at, end - at, &len);

		symbols[count++] = (struct model_token_symbol){
			.id = code == ' ' ? space : model_token_spm_symbol(tokenizer, code), .at = (uint32_t)at };
	}
	model_token_merge(&tokenizer->pairs, symbols, count, scratch->heap);
	for (i = count > 0 ? 0 : MODEL_TOKEN_ABSENT; i != MODEL_TOKEN_ABSENT; i = symbols[i].next)
		put_symbol(tokenizer, &symbols[i], text, end, output);
}
