/*
 * Text to ids and back: see model_token.h. Any thread, on its own scratch; nothing is allocated here. A text is
 * cut at special tokens first; what lies between is plain text for SentencePiece or BPE.
 */
#include "model/model_token.h"

#include <errno.h>
#include <string.h>

#include "model/model_token_internal.h"

/* ---- the tokenizer --------------------------------------------------------------------------- */

uint32_t model_tokenizer_size(const struct model_tokenizer *tokenizer)
{
	return tokenizer->count;
}

int32_t model_tokenizer_bos(const struct model_tokenizer *tokenizer)
{
	return tokenizer->bos;
}

int32_t model_tokenizer_eos(const struct model_tokenizer *tokenizer)
{
	return tokenizer->eos;
}

bool model_tokenizer_is_end(const struct model_tokenizer *tokenizer, uint32_t id)
{
	return id < tokenizer->count && tokenizer->ends[id];
}

/* ---- special tokens -------------------------------------------------------------------------- */

/* Where among specials [low, high), which agree in their first `depth` bytes, byte number `depth` exceeds `byte`
 * (or reaches it, with `reach`). All are longer than depth. */
static uint32_t special_bound(const struct model_tokenizer *tokenizer, uint32_t low, uint32_t high, size_t depth,
	unsigned char byte, bool reach)
{
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		unsigned char other = (unsigned char)
			tokenizer->texts[tokenizer->text_starts[tokenizer->specials[middle]] + depth];

		if (other < byte || (other == byte && !reach))
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

uint32_t model_token_special_at(const struct model_tokenizer *tokenizer, const char *text, size_t at, size_t end,
	bool parse_special, size_t *len_bytes)
{
	unsigned char first = (unsigned char)text[at];
	uint32_t low = tokenizer->special_from[first], high = tokenizer->special_from[first + 1];
	uint32_t best = MODEL_TOKEN_ABSENT;
	size_t depth;

	for (depth = 1; low < high; depth++) {
		uint32_t id = tokenizer->specials[low];
		unsigned char byte;

		/* Of those that agree so far, the first in order may be at its end. */
		if (tokenizer->text_starts[id + 1] - tokenizer->text_starts[id] == depth) {
			if (parse_special || !model_token_is_control(tokenizer, id)) {
				best = id;
				*len_bytes = depth;
			}
			low++;
		}
		if (at + depth >= end)
			break;
		byte = (unsigned char)text[at + depth];
		low = special_bound(tokenizer, low, high, depth, byte, true);
		high = special_bound(tokenizer, low, high, depth, byte, false);
	}
	return best;
}

/* ---- text to ids ----------------------------------------------------------------------------- */

/* Where the next special token at or behind `at` begins, with its id and bytes; `end` and MODEL_TOKEN_ABSENT when
 * there is none. */
static size_t next_special(const struct model_tokenizer *tokenizer, const char *text, size_t at, size_t end,
	bool parse_special, uint32_t *id, size_t *len_bytes)
{
	*id = MODEL_TOKEN_ABSENT;
	*len_bytes = 0;
	if (!parse_special && !tokenizer->has_user_defined)
		return end;
	for (; at < end; at++) {
		*id = model_token_special_at(tokenizer, text, at, end, parse_special, len_bytes);
		if (*id != MODEL_TOKEN_ABSENT)
			break;
	}
	return at;
}

void model_token_text(const struct model_tokenizer *tokenizer, struct model_token_scratch *scratch, const char *text,
	size_t text_bytes, bool parse_special, struct model_token_output *output)
{
	bool space_before = tokenizer->add_space_prefix; /* at the beginning and behind control tokens */
	size_t at = 0;

	while (at < text_bytes) {
		uint32_t id;
		size_t len, found = next_special(tokenizer, text, at, text_bytes, parse_special, &id, &len);

		if (found > at && tokenizer->split)
			model_token_bpe_text(tokenizer, scratch, text, at, found, output);
		else if (found > at)
			model_token_spm_text(tokenizer, scratch, text, at, found, space_before, output);
		if (id != MODEL_TOKEN_ABSENT) {
			model_token_put(output, id);
			space_before = tokenizer->add_space_prefix && model_token_is_control(tokenizer, id);
		}
		at = found + len;
	}
}

int64_t model_tokenize(const struct model_tokenizer *tokenizer, struct model_token_scratch *scratch, const char *text,
	size_t text_bytes, uint32_t flags, uint32_t *ids, size_t capacity)
{
	struct model_token_output output = { .ids = ids, .capacity = capacity };

	if (text_bytes > scratch->text_bytes_max)
		return -E2BIG;
	if ((flags & MODEL_TOKEN_ADD_SPECIAL) && tokenizer->add_bos)
		model_token_put(&output, (uint32_t)tokenizer->bos);
	model_token_text(tokenizer, scratch, text, text_bytes, flags & MODEL_TOKEN_PARSE_SPECIAL, &output);
	if ((flags & MODEL_TOKEN_ADD_SPECIAL) && tokenizer->add_eos)
		model_token_put(&output, (uint32_t)tokenizer->eos);
	return (int64_t)output.count;
}

/* ---- ids to text ----------------------------------------------------------------------------- */

/* SentencePiece put a space before the text: the first piece that shows anything loses it. */
static bool begins_with_mark(const struct model_tokenizer *tokenizer, uint32_t id)
{
	uint8_t type = tokenizer->types[id];
	uint32_t start = tokenizer->text_starts[id];

	return tokenizer->add_space_prefix && (type == MODEL_TOKEN_NORMAL || type == MODEL_TOKEN_UNUSED) &&
		tokenizer->text_starts[id + 1] - start >= 3 &&
		memcmp(tokenizer->texts + start, "\xe2\x96\x81", 3) == 0;
}

int64_t model_detokenize(const struct model_tokenizer *tokenizer, const uint32_t *ids, size_t count, bool first,
	bool show_special, char *text, size_t capacity, size_t *bad)
{
	uint64_t total = 0;
	size_t i;

	for (i = 0; i < count; i++) {
		uint32_t id = ids[i], start, len;

		if (id >= tokenizer->count) {
			*bad = i;
			return -EINVAL;
		}
		if (model_token_is_control(tokenizer, id) && !show_special)
			continue;
		start = tokenizer->piece_starts[id];
		len = tokenizer->piece_starts[id + 1] - start;
		if (first && len > 0) {
			uint32_t skip = begins_with_mark(tokenizer, id);

			first = false;
			start += skip;
			len -= skip;
		}
		if (total < capacity)
			memcpy(text + total, tokenizer->pieces + start, len < capacity - total ? len : capacity - total);
		total += len;
	}
	return (int64_t)total;
}
