/*
 * SentencePiece at load: the symbols of code points, and every way to cut a token in two, which are the merges.
 * Control thread.
 *
 * Pairs of symbols instead of texts: whether two neighbours together are a token's text is the same question as
 * whether that token can be cut between them.
 */
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"
#include "model/model_token_internal.h"
#include "model/model_unicode.h"

/* ---- symbols for code points ----------------------------------------------------------------- */

/* One bit for each code point that some token has. */
static void mark_chars(const struct model_tokenizer *tokenizer, uint8_t *marks)
{
	uint32_t id;

	for (id = 0; id < tokenizer->count; id++) {
		uint32_t at = tokenizer->text_starts[id], end = tokenizer->text_starts[id + 1];
		size_t len;

		for (; model_token_is_text(tokenizer, id) && at < end; at += (uint32_t)len) {
			uint32_t code = model_unicode_decode(tokenizer->texts + at, end - at, &len);

			marks[code / 8] |= (uint8_t)(1u << code % 8);
		}
	}
}

/* The token that is this text, if ordinary text may become it. */
static uint32_t text_token(const struct model_tokenizer *tokenizer, uint64_t hash, const char *text, size_t len)
{
	uint32_t id = model_token_index_find_hashed(&tokenizer->index, hash, text, len);

	return id != MODEL_TOKEN_ABSENT && model_token_is_text(tokenizer, id) ? id : MODEL_TOKEN_ABSENT;
}

static void list_chars(struct model_tokenizer *tokenizer, const uint8_t *marks)
{
	uint32_t code, count = 0;

	for (code = 0; code < MODEL_UNICODE_END; code++) {
		char text[4];
		size_t len;
		uint32_t id;

		if (!(marks[code / 8] >> code % 8 & 1))
			continue;
		len = model_unicode_encode(code, text);
		id = text_token(tokenizer, model_token_hash(&tokenizer->index, text, len), text, len);
		tokenizer->chars[count] = code;
		tokenizer->char_symbols[count] = id != MODEL_TOKEN_ABSENT ? id : tokenizer->count + count;
		count++;
	}
}

static int make_chars(struct model_tokenizer *tokenizer)
{
	uint8_t *marks = calloc(MODEL_UNICODE_END / 8, 1);
	uint32_t i, count = 0;

	if (!marks)
		return base_fail(ENOMEM, "no memory for the characters of a vocabulary");
	mark_chars(tokenizer, marks);
	for (i = 0; i < MODEL_UNICODE_END / 8; i++)
		count += (uint32_t)__builtin_popcount(marks[i]);
	tokenizer->char_count = count;
	tokenizer->chars = malloc((count + 1) * sizeof(*tokenizer->chars));
	tokenizer->char_symbols = malloc((count + 1) * sizeof(*tokenizer->char_symbols));
	if (tokenizer->chars && tokenizer->char_symbols)
		list_chars(tokenizer, marks);
	free(marks);
	return tokenizer->chars && tokenizer->char_symbols ? 0 :
		base_fail(ENOMEM, "no memory for %u characters of a vocabulary", count);
}

/* ---- every way to cut a token in two --------------------------------------------------------- */

struct cutter {
	struct model_tokenizer *tokenizer;
	uint32_t *ranks;
	uint64_t powers[MODEL_TOKEN_BYTES_MAX + 1];
	uint64_t hashes[MODEL_TOKEN_BYTES_MAX + 1]; /* of the token's prefixes */
	uint64_t cuts;
	bool add; /* second pass: into the table; first: count */
};

/* The symbol of the part [from, to) of a token's text. */
static uint32_t part_symbol(const struct cutter *cutter, const char *text, size_t from, size_t to)
{
	size_t len;
	uint32_t code = model_unicode_decode(text + from, to - from, &len);

	if (len == to - from)
		return model_token_spm_symbol(cutter->tokenizer, code);
	return text_token(cutter->tokenizer, model_token_hash_rest(cutter->hashes[to], cutter->hashes[from],
		cutter->powers[to - from]), text + from, to - from);
}

static void cut_token(struct cutter *cutter, uint32_t id)
{
	struct model_tokenizer *tokenizer = cutter->tokenizer;
	const char *text = tokenizer->texts + tokenizer->text_starts[id];
	size_t len = tokenizer->text_starts[id + 1] - tokenizer->text_starts[id], at, next;

	for (at = 0; at < len; at++)
		cutter->hashes[at + 1] = model_token_hash_extend(&tokenizer->index, cutter->hashes[at],
			(unsigned char)text[at]);
	for (at = 0; at < len; at += next) {
		uint32_t left, right;

		model_unicode_decode(text + at, len - at, &next);
		if (at == 0)
			continue;
		left = part_symbol(cutter, text, 0, at);
		right = left != MODEL_TOKEN_ABSENT ? part_symbol(cutter, text, at, len) : MODEL_TOKEN_ABSENT;
		if (right == MODEL_TOKEN_ABSENT)
			continue;
		cutter->cuts++;
		if (cutter->add)
			model_token_pairs_add(&tokenizer->pairs, (struct model_token_pair){
				.left = left, .right = right, .rank = cutter->ranks[id], .merged = id });
	}
}

static int cut_all(struct cutter *cutter)
{
	struct model_tokenizer *tokenizer = cutter->tokenizer;
	uint64_t most = (uint64_t)tokenizer->count * MODEL_TOKEN_CUTS_PER_TOKEN_MAX + MODEL_TOKEN_CUTS_MORE;
	uint32_t id;

	cutter->cuts = 0;
	for (id = 0; id < tokenizer->count; id++) {
		if (model_token_is_text(tokenizer, id))
			cut_token(cutter, id);
		if (cutter->cuts > most)
			return base_fail(EBADMSG, "the vocabulary's tokens can be cut into other tokens in more than "
				"%llu ways, which no real one can", (unsigned long long)most);
	}
	return 0;
}

static int make_pairs(struct model_tokenizer *tokenizer, uint32_t *ranks)
{
	struct cutter *cutter = calloc(1, sizeof(*cutter));
	size_t i;
	int rc;

	if (!cutter)
		return base_fail(ENOMEM, "no memory to cut tokens");
	cutter->tokenizer = tokenizer;
	cutter->ranks = ranks;
	cutter->powers[0] = 1;
	for (i = 0; i < MODEL_TOKEN_BYTES_MAX; i++)
		cutter->powers[i + 1] = model_token_hash_times(cutter->powers[i], tokenizer->index.base);
	rc = cut_all(cutter);
	if (rc == 0)
		rc = model_token_pairs_create(&tokenizer->pairs, (uint32_t)cutter->cuts);
	cutter->add = true;
	if (rc == 0)
		rc = cut_all(cutter);
	free(cutter);
	return rc;
}

/* ---- scores and bytes ------------------------------------------------------------------------ */

struct scored { float score; uint32_t id; };

static int by_score(const void *a, const void *b)
{
	float left = ((const struct scored *)a)->score, right = ((const struct scored *)b)->score;

	return (left < right) - (left > right);
}

/* Equal scores have equal ranks; the highest has rank 0. */
static void rank_tokens(struct scored *scored, uint32_t count, uint32_t *ranks)
{
	uint32_t i, rank = 0;

	qsort(scored, count, sizeof(*scored), by_score);
	for (i = 0; i < count; i++) {
		if (i > 0 && scored[i].score < scored[i - 1].score)
			rank++;
		ranks[scored[i].id] = rank;
	}
}

static int read_scores(const struct model_gguf *gguf, float *scores, uint32_t count)
{
	int rc = model_gguf_array_f32(gguf, "tokenizer.ggml.scores", scores, count);

	if (rc == -ENOENT)
		return base_fail(EBADMSG, "a SentencePiece vocabulary needs tokenizer.ggml.scores, the file has none");
	if (rc == -ERANGE)
		return base_fail(EBADMSG, "tokenizer.ggml.scores has not as many values as there are tokens (%u)", count);
	return rc;
}

int model_token_spm_byte(const char *text, size_t len)
{
	int value = 0;
	size_t i;

	if (len != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>')
		return -1;
	for (i = 3; i < 5; i++) {
		if (text[i] >= '0' && text[i] <= '9')
			value = value * 16 + text[i] - '0';
		else if (text[i] >= 'A' && text[i] <= 'F')
			value = value * 16 + text[i] - 'A' + 10;
		else
			return -1;
	}
	return value;
}

static int find_bytes(struct model_tokenizer *tokenizer)
{
	uint32_t id;

	for (id = 0; id < 256; id++)
		tokenizer->byte_ids[id] = MODEL_TOKEN_ABSENT;
	for (id = 0; id < tokenizer->count; id++) {
		uint32_t start = tokenizer->text_starts[id];
		int byte = model_token_spm_byte(tokenizer->texts + start, tokenizer->text_starts[id + 1] - start);

		if (tokenizer->types[id] != MODEL_TOKEN_BYTE)
			continue;
		if (byte < 0)
			return base_fail(EBADMSG, "token %u is of the type byte, but is not written as one: <0x00>", id);
		tokenizer->byte_ids[byte] = id;
	}
	return 0;
}

int model_token_spm_load(struct model_tokenizer *tokenizer, const struct model_gguf *gguf)
{
	uint32_t count = tokenizer->count, i;
	float *scores = malloc(count * sizeof(*scores));
	struct scored *scored = malloc(count * sizeof(*scored));
	uint32_t *ranks = malloc(count * sizeof(*ranks));
	int rc = scores && scored && ranks ? 0 : base_fail(ENOMEM, "no memory for %u scores", count);

	if (rc == 0)
		rc = read_scores(gguf, scores, count);
	if (rc == 0)
		rc = find_bytes(tokenizer);
	if (rc == 0)
		rc = make_chars(tokenizer);
	for (i = 0; rc == 0 && i < count; i++)
		scored[i] = (struct scored){ .score = scores[i], .id = i };
	if (rc == 0) {
		rank_tokens(scored, count, ranks);
		rc = make_pairs(tokenizer, ranks);
	}
	free(ranks);
	free(scored);
	free(scores);
	return rc;
}
