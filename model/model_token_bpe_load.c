/*
 * Byte-level BPE at load: the list of merges, the tokens of single bytes, and what tokens spell. Control thread.
 */
#include <string.h>

#include "base/base_error.h"
#include "model/model_token_internal.h"
#include "model/model_unicode.h"

/* -1 for a code point that stands for no byte. */
static int code_byte(uint32_t code)
{
	if (code >= 256 && code <= 256 + 32)
		return (int)code - 256;
	if (code >= 256 + 33 && code < 256 + 33 + 34)
		return (int)code - 256 - 33 + 127;
	if (code == 256 + 33 + 34)
		return 173;
	return code < 256 && model_token_bpe_code(code) == code ? (int)code : -1;
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

		tokenizer->byte_ids[byte] = model_token_bpe_find(tokenizer, &text, 1);
	}
	return rc;
}
