/*
 * Vocabularies of attnquant: the table, its GGUF form, and the readers of llama2.c's
 * tokenizer.bin and of SentencePiece models. One thread. Files are not trusted: every length is
 * checked before it is used.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"
#include "tools/attnquant.h"

enum { TOKENS_MAX = 1 << 20, TOKEN_BYTES_MAX = 4096 };

void attnquant_vocab_init(struct attnquant_vocab *vocab, const char *model, const char *pre)
{
	*vocab = (struct attnquant_vocab){
		.model = model, .pre = pre, .bos = -1, .eos = -1, .unknown = -1, .padding = -1
	};
}

void attnquant_vocab_free(struct attnquant_vocab *vocab)
{
	for (uint32_t i = 0; i < vocab->count; i++)
		free(vocab->tokens[i].bytes);
	for (uint64_t i = 0; i < vocab->merge_count; i++)
		free(vocab->merges[i]);
	free(vocab->tokens);
	free(vocab->merges);
	free(vocab->chat_template);
	*vocab = (struct attnquant_vocab){ 0 };
}

int attnquant_vocab_grow(struct attnquant_vocab *vocab, uint32_t count)
{
	struct attnquant_token *grown;
	char name[32];

	if (count <= vocab->count)
		return 0;
	if (count > TOKENS_MAX)
		return base_fail(E2BIG, "a vocabulary of %" PRIu32 " tokens; at most %d are read",
			count, TOKENS_MAX);
	grown = realloc(vocab->tokens, count * sizeof(*grown));
	if (!grown)
		return base_fail(ENOMEM, "no memory for a vocabulary of %" PRIu32 " tokens", count);
	vocab->tokens = grown;
	memset(grown + vocab->count, 0, (count - vocab->count) * sizeof(*grown));
	while (vocab->count < count) {
		int len = snprintf(name, sizeof(name), "[UNUSED_%" PRIu32 "]", vocab->count);
		int rc = attnquant_vocab_set(
			vocab, vocab->count, name, (size_t)len, 0, TOKEN_UNUSED);

		if (rc < 0)
			return rc;
		vocab->count++;
	}
	return 0;
}

int attnquant_vocab_set(struct attnquant_vocab *vocab, uint32_t id, const char *bytes, size_t len,
	float score, enum attnquant_token_type type)
{
	struct attnquant_token *token = &vocab->tokens[id];
	char *copy = malloc(len + 1);

	if (!copy)
		return base_fail(ENOMEM, "no memory for token %" PRIu32, id);
	memcpy(copy, bytes, len);
	copy[len] = '\0';
	free(token->bytes);
	*token = (struct attnquant_token){ copy, len, score, (int32_t)type };
	return 0;
}

/* ---- as GGUF ------------------------------------------------------------------------------------------- */

static void put_id(struct model_gguf_writer *writer, const char *key, int64_t id)
{
	if (id >= 0)
		model_gguf_put_u32(writer, key, (uint32_t)id);
}

static void put_tokens(const struct attnquant_vocab *vocab, struct model_gguf_writer *writer)
{
	float *scores = calloc(vocab->count + 1, sizeof(*scores));
	int32_t *types = calloc(vocab->count + 1, sizeof(*types));

	model_gguf_put_array_text(writer, "tokenizer.ggml.tokens", vocab->count);
	for (uint32_t i = 0; i < vocab->count; i++) {
		model_gguf_put_element(writer, vocab->tokens[i].bytes, vocab->tokens[i].len);
		if (scores && types) {
			scores[i] = vocab->tokens[i].score;
			types[i] = vocab->tokens[i].type;
		}
	}
	if (strcmp(vocab->model, "llama") == 0)
		model_gguf_put_array_f32(
			writer, "tokenizer.ggml.scores", scores, scores ? vocab->count : 0);
	model_gguf_put_array_i32(
		writer, "tokenizer.ggml.token_type", types, types ? vocab->count : 0);
	free(scores);
	free(types);
}

void attnquant_vocab_put(const struct attnquant_vocab *vocab, struct model_gguf_writer *writer)
{
	if (!vocab->model)
		return;
	model_gguf_put_text(writer, "tokenizer.ggml.model", vocab->model, strlen(vocab->model));
	model_gguf_put_text(writer, "tokenizer.ggml.pre", vocab->pre, strlen(vocab->pre));
	put_tokens(vocab, writer);
	if (vocab->merge_count > 0) {
		model_gguf_put_array_text(writer, "tokenizer.ggml.merges", vocab->merge_count);
		for (uint64_t i = 0; i < vocab->merge_count; i++)
			model_gguf_put_element(writer, vocab->merges[i], strlen(vocab->merges[i]));
	}
	put_id(writer, "tokenizer.ggml.bos_token_id", vocab->bos);
	put_id(writer, "tokenizer.ggml.eos_token_id", vocab->eos);
	put_id(writer, "tokenizer.ggml.unknown_token_id", vocab->unknown);
	put_id(writer, "tokenizer.ggml.padding_token_id", vocab->padding);
	model_gguf_put_bool(writer, "tokenizer.ggml.add_bos_token", vocab->add_bos);
	model_gguf_put_bool(writer, "tokenizer.ggml.add_eos_token", vocab->add_eos);
	model_gguf_put_bool(writer, "tokenizer.ggml.add_space_prefix", vocab->add_space_prefix);
	if (vocab->chat_template)
		model_gguf_put_text(writer, "tokenizer.chat_template", vocab->chat_template,
			strlen(vocab->chat_template));
}

/* ---- llama2.c ------------------------------------------------------------------------------------------ */

/* "<0x41>", or as older exports have it the character of that number in UTF-8. */
static bool is_byte_piece(const char *bytes, size_t len, uint32_t value)
{
	char name[8], wide[2] = { (char)(0xc0 | value >> 6), (char)(0x80 | (value & 0x3f)) };

	snprintf(name, sizeof(name), "<0x%02X>", value & 0xff);
	if (len == 6)
		return memcmp(bytes, name, 6) == 0;
	return value < 0x80 ? len == 1 && (unsigned char)bytes[0] == value :
			      len == 2 && memcmp(bytes, wide, 2) == 0;
}

/* int32 longest token; then per token: float score, int32 length, bytes. Tokens 0, 1, 2 are
 * <unk>, <s>, </s>; the next 256 are bytes; blanks stand where SentencePiece has U+2581. */
static int set_llama2c_token(
	struct attnquant_vocab *vocab, uint32_t id, const char *bytes, size_t len, float score)
{
	static const char *const specials[] = { "<unk>", "<s>", "</s>" };
	char text[3 * TOKEN_BYTES_MAX];
	size_t text_len = 0;

	if (id < 3)
		return attnquant_vocab_set(vocab, id, specials[id], strlen(specials[id]), score,
			id == 0 ? TOKEN_UNKNOWN : TOKEN_CONTROL);
	if (id < 3 + 256 && is_byte_piece(bytes, len, id - 3)) {
		text_len = (size_t)snprintf(text, sizeof(text), "<0x%02X>", id - 3);
		return attnquant_vocab_set(vocab, id, text, text_len, score, TOKEN_BYTE);
	}
	for (size_t i = 0; i < len; i++) {
		if (bytes[i] == ' ') {
			memcpy(text + text_len, "\xe2\x96\x81", 3);
			text_len += 3;
		} else {
			text[text_len++] = bytes[i];
		}
	}
	return attnquant_vocab_set(vocab, id, text, text_len, score, TOKEN_NORMAL);
}

static int read_llama2c(struct attnquant_vocab *vocab, const struct attnquant_file *file)
{
	size_t at = sizeof(int32_t);
	uint32_t id = 0;
	int rc = 0;

	attnquant_vocab_init(vocab, "llama", "default");
	while (rc == 0 && at < file->size) {
		float score;
		int32_t len;

		if (file->size - at < sizeof(score) + sizeof(len))
			return base_fail(EBADMSG, "the file ends inside token %" PRIu32, id);
		memcpy(&score, file->bytes + at, sizeof(score));
		memcpy(&len, file->bytes + at + sizeof(score), sizeof(len));
		at += sizeof(score) + sizeof(len);
		if (len < 0 || len > TOKEN_BYTES_MAX || (size_t)len > file->size - at)
			return base_fail(EBADMSG,
				"token %" PRIu32 " has a length of %" PRId32 " bytes", id, len);
		rc = attnquant_vocab_grow(vocab, id + 1);
		if (rc == 0)
			rc = set_llama2c_token(
				vocab, id, (const char *)file->bytes + at, (size_t)len, score);
		at += (size_t)len;
		id++;
	}
	if (rc == 0 && id < 3)
		rc = base_fail(EBADMSG, "%" PRIu32 " tokens: fewer than <unk>, <s> and </s>", id);
	vocab->unknown = 0;
	vocab->bos = 1;
	vocab->eos = 2;
	vocab->add_bos = true;
	vocab->add_space_prefix = true;
	return rc;
}

/* Both begin with 0x0a where a longest token of 10 meets a first piece; only a tokenizer.bin
 * goes on with a zero. */
static bool is_sentencepiece(const struct attnquant_file *file)
{
	return file->size > 2 && file->bytes[0] == 0x0a && file->bytes[1] != 0;
}

int attnquant_vocab_read(struct attnquant_vocab *vocab, const char *path)
{
	struct attnquant_file file;
	int rc = attnquant_file_open(&file, path);

	if (rc < 0)
		return rc;
	rc = is_sentencepiece(&file) ? attnquant_sentencepiece_read(vocab, &file) :
				       read_llama2c(vocab, &file);
	attnquant_file_close(&file);
	if (rc < 0) {
		attnquant_vocab_free(vocab);
		return base_fail_within(-rc, "tokenizer %s", path);
	}
	return 0;
}
