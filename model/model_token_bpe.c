/*
 * Byte-level BPE (tokenizer.ggml.model = "gpt2"): text is cut into words, a word's symbols begin as bytes, and a
 * list of merges, most important first, joins them. In the file each byte is written as a printable code point.
 *
 * Sennrich, Haddow, Birch: Neural Machine Translation of Rare Words with Subword Units, 2016; the alphabet of bytes
 * is GPT-2's. Load: control thread. Text: any thread, on its own scratch.
 */
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"
#include "model/model_token_internal.h"
#include "model/model_unicode.h"

/* ---- the alphabet of bytes ---------------------------------------------------------------------------------------- */

/* Printable bytes of Latin-1 stand for themselves; the others follow from U+0100, in order. */
static uint32_t byte_code(unsigned byte)
{
	if (byte <= 32)
		return 256 + byte;
	if (byte >= 127 && byte <= 160)
		return 256 + 33 + byte - 127;
	if (byte == 173)
		return 256 + 33 + 34;
	return byte;
}

/* -1 for a code point that stands for no byte. */
static int code_byte(uint32_t code)
{
	if (code >= 256 && code <= 256 + 32)
		return (int)code - 256;
	if (code >= 256 + 33 && code < 256 + 33 + 34)
		return (int)code - 256 - 33 + 127;
	if (code == 256 + 33 + 34)
		return 173;
	return code < 256 && byte_code(code) == code ? (int)code : -1;
}

size_t model_token_bpe_spelled(const char *text, size_t len, char *bytes)
{
	size_t at, code_bytes, count = 0;

	for (at = 0; at < len; at += code_bytes) {
		int byte = code_byte(model_unicode_decode(text + at, len - at, &code_bytes));

		/* A text that spells no bytes is meant as it stands. */
		if (byte < 0) {
			memcpy(bytes, text, len);
			return len;
		}
		bytes[count++] = (char)byte;
	}
	return count;
}

/* The token that spells exactly these bytes, if ordinary text may become it. */
static uint32_t spelling_token(const struct model_tokenizer *tokenizer, const char *bytes, size_t len)
{
	char text[MODEL_TOKEN_BYTES_MAX + 4];
	size_t at, text_bytes = 0;
	uint32_t id;

	for (at = 0; at < len && text_bytes <= MODEL_TOKEN_BYTES_MAX; at++)
		text_bytes += model_unicode_encode(byte_code((unsigned char)bytes[at]), text + text_bytes);
	if (text_bytes > MODEL_TOKEN_BYTES_MAX)
		return MODEL_TOKEN_ABSENT;
	id = model_token_index_find(&tokenizer->index, text, text_bytes);
	return id != MODEL_TOKEN_ABSENT && model_token_is_text(tokenizer, id) ? id : MODEL_TOKEN_ABSENT;
}

/* ---- load ------------------------------------------------------------------------------------------------------------- */

/* "LEFT RIGHT": all three tokens must exist. What would become a control token is left out. */
static int add_merge(struct model_tokenizer *tokenizer, uint32_t rank, struct model_text line)
{
	const struct model_token_index *index = &tokenizer->index;
	char joined[2 * MODEL_TOKEN_BYTES_MAX];
	const char *space = line.len > 2 ? memchr(line.bytes + 1, ' ', line.len - 2) : NULL;
	size_t left_bytes = space ? (size_t)(space - line.bytes) : 0, right_bytes = line.len - left_bytes - 1;
	struct model_token_pair pair = { .rank = rank };

	if (!space)
		return base_fail(EBADMSG, "merge %u is not two tokens with a space between", rank);
	if (left_bytes > MODEL_TOKEN_BYTES_MAX || right_bytes > MODEL_TOKEN_BYTES_MAX)
		return base_fail(EBADMSG, "merge %u is %zu bytes long, more than two tokens may be", rank, line.len);
	/* Copied first: the file may change while it is read. */
	memcpy(joined, line.bytes, left_bytes);
	memcpy(joined + left_bytes, space + 1, right_bytes);
	pair.left = model_token_index_find(index, joined, left_bytes);
	pair.right = model_token_index_find(index, joined + left_bytes, right_bytes);
	pair.merged = model_token_index_find(index, joined, left_bytes + right_bytes);
	if (pair.left == MODEL_TOKEN_ABSENT || pair.right == MODEL_TOKEN_ABSENT || pair.merged == MODEL_TOKEN_ABSENT)
		return base_fail(EBADMSG, "merge %u names %s, which is not in the vocabulary", rank,
			pair.left == MODEL_TOKEN_ABSENT ? "a left token" :
			pair.right == MODEL_TOKEN_ABSENT ? "a right token" : "two tokens that together are a third");
	if (model_token_is_text(tokenizer, pair.merged))
		model_token_pairs_add(&tokenizer->pairs, pair);
	return 0;
}

static int read_merges(struct model_tokenizer *tokenizer, const struct model_gguf *gguf, uint64_t count)
{
	struct model_text line;
	uint64_t cursor = 0;
	uint32_t rank = 0;
	int rc = 0;

	while (rc == 0 && (rc = model_gguf_array_text(gguf, "tokenizer.ggml.merges", &cursor, &line)) > 0)
		rc = rank < count ? add_merge(tokenizer, rank++, line) :
			base_fail(EBADMSG, "the file changed while its merges were read");
	return rc;
}

int model_token_bpe_load(struct model_tokenizer *tokenizer, const struct model_gguf *gguf)
{
	enum model_gguf_value type;
	uint64_t count;
	uint32_t byte;
	int rc = model_gguf_array(gguf, "tokenizer.ggml.merges", &type, &count);

	if (rc == -ENOENT)
		return base_fail(EBADMSG, "a BPE vocabulary needs tokenizer.ggml.merges, the file has none");
	if (rc < 0)
		return rc;
	if (type != MODEL_GGUF_STRING || count > MODEL_TOKEN_MERGES_MAX)
		return base_fail(EBADMSG, "tokenizer.ggml.merges is not a list of at most %d texts",
			MODEL_TOKEN_MERGES_MAX);
	rc = model_token_pairs_create(&tokenizer->pairs, (uint32_t)count);
	if (rc == 0)
		rc = read_merges(tokenizer, gguf, count);
	for (byte = 0; byte < 256; byte++) {
		char text = (char)byte;

		tokenizer->byte_ids[byte] = spelling_token(tokenizer, &text, 1);
	}
	return rc;
}

/* ---- text -------------------------------------------------------------------------------------------------------------- */

struct run {
	const struct model_tokenizer *tokenizer;
	struct model_token_scratch *scratch;
	struct model_token_output *output;
};

/* One word. A byte that has no token is left out, and what stands around it does not merge across it. */
static void put_word(void *context, const char *text, size_t at, size_t end)
{
	const struct run *run = context;
	const struct model_tokenizer *tokenizer = run->tokenizer;
	struct model_token_symbol *symbols = run->scratch->symbols;
	uint32_t count = (uint32_t)(end - at), i;

	if (tokenizer->split->ignore_merges) {
		uint32_t id = spelling_token(tokenizer, text + at, end - at);

		if (id != MODEL_TOKEN_ABSENT) {
			model_token_put(run->output, id);
			return;
		}
	}
	for (i = 0; i < count; i++)
		symbols[i].id = tokenizer->byte_ids[(unsigned char)text[at + i]];
	model_token_merge(&tokenizer->pairs, symbols, count, run->scratch->heap);
	for (i = 0; i != MODEL_TOKEN_ABSENT; i = symbols[i].next)
		if (symbols[i].id != MODEL_TOKEN_ABSENT)
			model_token_put(run->output, symbols[i].id);
}

void model_token_bpe_text(const struct model_tokenizer *tokenizer, struct model_token_scratch *scratch,
	const char *text, size_t at, size_t end, struct model_token_output *output)
{
	struct run run = { .tokenizer = tokenizer, .scratch = scratch, .output = output };

	model_token_split_walk(tokenizer->split->stages, text, at, end, put_word, &run);
}
