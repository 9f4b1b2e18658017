/*
 * Reads a tokenizer out of a GGUF file. Control thread, at load. Everything is copied, and checked as it is copied:
 * counts against each other, ids against the count, sizes against the limits in model_token_internal.h. Time and
 * memory are proportional to the vocabulary's size.
 */
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"
#include "model/model_token_internal.h"

static bool text_is(struct model_text text, const char *wanted)
{
	return text.len == strlen(wanted) && memcmp(text.bytes, wanted, text.len) == 0;
}

static struct model_text token_text(const struct model_tokenizer *tokenizer, uint32_t id)
{
	uint32_t start = tokenizer->text_starts[id];

	return (struct model_text){ .bytes = tokenizer->texts + start, .len = tokenizer->text_starts[id + 1] - start };
}

/* ---- the kind -------------------------------------------------------------------------------- */

/* Finds out which kind of tokenizer it is, and what such ones do unless the file says otherwise. */
static int read_kind(struct model_tokenizer *tokenizer, const struct model_gguf *gguf)
{
	struct model_text kind, pre = { .bytes = "default", .len = 7 };
	int rc = model_gguf_text(gguf, "tokenizer.ggml.model", &kind);

	if (rc == -ENOENT)
		return base_fail(ENOENT, "the file has no tokenizer (no key tokenizer.ggml.model)");
	if (rc < 0)
		return rc;
	if (text_is(kind, "llama")) {
		tokenizer->add_space_prefix = true;
		tokenizer->add_bos = true;
		return 0;
	}
	if (!text_is(kind, "gpt2"))
		return base_fail(ENOTSUP, "tokenizers of the kind '%.*s' are not supported, only 'llama' and 'gpt2'",
			(int)(kind.len < 32 ? kind.len : 32), kind.bytes);
	rc = model_gguf_text(gguf, "tokenizer.ggml.pre", &pre);
	if (rc < 0 && rc != -ENOENT)
		return rc;
	tokenizer->split = model_token_split_find(pre);
	if (!tokenizer->split)
		return base_fail(ENOTSUP, "the pre-tokenizer '%.*s' (tokenizer.ggml.pre) is not supported",
			(int)(pre.len < 32 ? pre.len : 32), pre.bytes);
	tokenizer->add_bos = tokenizer->split->add_bos;
	return 0;
}

/* ---- tokens ---------------------------------------------------------------------------------- */

/* Adds one token's text to what there is; *room bytes are allocated. */
static int append_text(struct model_tokenizer *tokenizer, uint32_t id, struct model_text text, size_t *room)
{
	size_t used = tokenizer->text_starts[id];

	if (text.len > MODEL_TOKEN_BYTES_MAX)
		return base_fail(EBADMSG, "token %u is %zu bytes long, more than %d", id, text.len, MODEL_TOKEN_BYTES_MAX);
	if (used + text.len > MODEL_TOKEN_TEXT_BYTES_MAX)
		return base_fail(EBADMSG, "the tokens up to %u have more than %d bytes of text", id,
			MODEL_TOKEN_TEXT_BYTES_MAX);
	if (used + text.len > *room) {
		size_t more = 2 * *room + MODEL_TOKEN_BYTES_MAX;
		char *texts = realloc(tokenizer->texts, more);

		if (!texts)
			return base_fail(ENOMEM, "no memory for %zu bytes of tokens", more);
		tokenizer->texts = texts;
		*room = more;
	}
	memcpy(tokenizer->texts + used, text.bytes, text.len);
	tokenizer->text_starts[id + 1] = (uint32_t)(used + text.len);
	return 0;
}

static int read_texts(struct model_tokenizer *tokenizer, const struct model_gguf *gguf)
{
	enum model_gguf_value type;
	struct model_text text;
	uint64_t count, cursor = 0;
	uint32_t id = 0;
	size_t room = MODEL_TOKEN_BYTES_MAX;
	int rc = model_gguf_array(gguf, "tokenizer.ggml.tokens", &type, &count);

	if (rc == -ENOENT)
		return base_fail(EBADMSG, "the file names a kind of tokenizer but has no tokenizer.ggml.tokens");
	if (rc < 0)
		return rc;
	if (type != MODEL_GGUF_STRING || count == 0 || count > MODEL_TOKEN_COUNT_MAX)
		return base_fail(EBADMSG, "tokenizer.ggml.tokens is not a list of 1 to %d texts", MODEL_TOKEN_COUNT_MAX);
	tokenizer->count = (uint32_t)count;
	tokenizer->text_starts = calloc(count + 1, sizeof(*tokenizer->text_starts));
	tokenizer->texts = malloc(room);
	if (!tokenizer->text_starts || !tokenizer->texts)
		return base_fail(ENOMEM, "no memory for %u tokens", tokenizer->count);
	while (id < count && (rc = model_gguf_array_text(gguf, "tokenizer.ggml.tokens", &cursor, &text)) > 0) {
		rc = append_text(tokenizer, id++, text, &room);
		if (rc < 0)
			return rc;
	}
	if (rc < 0)
		return rc;
	return id == count ? 0 : base_fail(EBADMSG, "the file changed while its tokens were read");
}

static int read_types(struct model_tokenizer *tokenizer, const struct model_gguf *gguf)
{
	uint32_t count = tokenizer->count, id;
	int32_t *types = malloc(count * sizeof(*types));
	int rc;

	tokenizer->types = malloc(count);
	tokenizer->ends = calloc(count, sizeof(*tokenizer->ends));
	if (!types || !tokenizer->types || !tokenizer->ends) {
		free(types);
		return base_fail(ENOMEM, "no memory for the types of %u tokens", count);
	}
	memset(tokenizer->types, MODEL_TOKEN_NORMAL, count);
	rc = model_gguf_array_i32(gguf, "tokenizer.ggml.token_type", types, count);
	if (rc == -ERANGE)
		rc = base_fail(EBADMSG, "tokenizer.ggml.token_type has not as many values as there are tokens (%u)", count);
	for (id = 0; rc == 0 && id < count; id++) {
		if (types[id] < 0 || types[id] >= MODEL_TOKEN_TYPE_END)
			rc = base_fail(EBADMSG, "token %u is of the type %d, which there is not", id, types[id]);
		else
			tokenizer->types[id] = types[id] == MODEL_TOKEN_UNDEFINED ? MODEL_TOKEN_NORMAL : (uint8_t)types[id];
	}
	free(types);
	return rc == -ENOENT ? 0 : rc;
}

/* Empty tokens, which some files have as padding, cannot be found and may repeat. */
static int make_index(struct model_tokenizer *tokenizer)
{
	uint32_t id;
	int rc = model_token_index_create(&tokenizer->index, tokenizer->count, tokenizer->texts, tokenizer->text_starts);

	for (id = 0; rc == 0 && id < tokenizer->count; id++) {
		uint32_t other = MODEL_TOKEN_ABSENT;

		if (token_text(tokenizer, id).len > 0)
			other = model_token_index_add(&tokenizer->index, id);
		if (other != MODEL_TOKEN_ABSENT)
			rc = base_fail(EBADMSG, "tokens %u and %u have the same text", other, id);
	}
	return rc;
}

/* ---- tokens with a meaning ------------------------------------------------------------------- */

/* Tokens that end a turn or a text, by the names that published models give them. */
static const char *const ENDS[] = {
	"<|eot_id|>", "<|im_end|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>", "<|eom_id|>", "<|return|>", "</s>",
	"<end_of_turn>", "<end_of_utterance>", "<eos>", "<EOT>", "[EOT]", "[EOS]", "<｜end▁of▁sentence｜>"
};

void model_token_make_control(struct model_tokenizer *tokenizer, uint32_t id)
{
	struct model_text text = token_text(tokenizer, id);

	if (model_token_is_text(tokenizer, id) && text.len > 2 && (text.bytes[0] == '<' || text.bytes[0] == '['))
		tokenizer->types[id] = MODEL_TOKEN_CONTROL;
}

/* An optional key that names a token. */
static int read_id(const struct model_tokenizer *tokenizer, const struct model_gguf *gguf, const char *key, int32_t *id)
{
	uint32_t value;
	int rc = model_gguf_u32(gguf, key, &value);

	if (rc < 0)
		return rc == -ENOENT ? 0 : rc;
	if (value >= tokenizer->count)
		return base_fail(EBADMSG, "%s is %u, but there are %u tokens", key, value, tokenizer->count);
	*id = (int32_t)value;
	return 0;
}

static int read_flag(const struct model_gguf *gguf, const char *key, bool *flag)
{
	int rc = model_gguf_bool(gguf, key, flag);

	return rc == -ENOENT ? 0 : rc;
}

/* What SentencePiece files mean when they do not say: 0, 1 and 2, if these are such tokens. */
static void default_ids(struct model_tokenizer *tokenizer)
{
	tokenizer->unknown = tokenizer->bos = tokenizer->eos = MODEL_TOKEN_NONE;
	if (tokenizer->split || tokenizer->count < 3)
		return;
	if (tokenizer->types[0] == MODEL_TOKEN_UNKNOWN)
		tokenizer->unknown = 0;
	if (tokenizer->types[1] == MODEL_TOKEN_CONTROL)
		tokenizer->bos = 1;
	if (tokenizer->types[2] == MODEL_TOKEN_CONTROL)
		tokenizer->eos = 2;
}

static void mark_end(struct model_tokenizer *tokenizer, int32_t id)
{
	if (id == MODEL_TOKEN_NONE)
		return;
	tokenizer->ends[id] = true;
	model_token_make_control(tokenizer, (uint32_t)id);
}

static int read_meanings(struct model_tokenizer *tokenizer, const struct model_gguf *gguf)
{
	int32_t end_of_turn = MODEL_TOKEN_NONE, end_of_message = MODEL_TOKEN_NONE;
	int32_t *const ids[] = { &tokenizer->bos, &tokenizer->eos, &tokenizer->unknown, &end_of_turn, &end_of_message };
	static const char *const keys[] = { "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
		"tokenizer.ggml.unknown_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id" };
	int rc = 0;
	size_t i;

	default_ids(tokenizer);
	for (i = 0; rc == 0 && i < sizeof(ids) / sizeof(ids[0]); i++)
		rc = read_id(tokenizer, gguf, keys[i], ids[i]);
	if (rc < 0)
		return rc;
	mark_end(tokenizer, tokenizer->eos);
	mark_end(tokenizer, end_of_turn);
	mark_end(tokenizer, end_of_message);
	if (tokenizer->bos != MODEL_TOKEN_NONE)
		model_token_make_control(tokenizer, (uint32_t)tokenizer->bos);
	for (i = 0; i < sizeof(ENDS) / sizeof(ENDS[0]); i++) {
		uint32_t id = model_token_index_find(&tokenizer->index, ENDS[i], strlen(ENDS[i]));

		if (id != MODEL_TOKEN_ABSENT)
			mark_end(tokenizer, (int32_t)id);
	}
	return 0;
}

static int read_flags(struct model_tokenizer *tokenizer, const struct model_gguf *gguf)
{
	int rc = 0;

	if (!tokenizer->split)
		rc = read_flag(gguf, "tokenizer.ggml.add_space_prefix", &tokenizer->add_space_prefix);
	if (rc == 0 && tokenizer->bos == MODEL_TOKEN_NONE)
		tokenizer->add_bos = false;
	if (rc == 0)
		rc = read_flag(gguf, "tokenizer.ggml.add_bos_token", &tokenizer->add_bos);
	if (rc == 0)
		rc = read_flag(gguf, "tokenizer.ggml.add_eos_token", &tokenizer->add_eos);
	if (rc < 0)
		return rc;
	if (tokenizer->add_bos && tokenizer->bos == MODEL_TOKEN_NONE)
		return base_fail(EBADMSG, "add_bos_token is set, but the file names no bos_token_id");
	if (tokenizer->add_eos && tokenizer->eos == MODEL_TOKEN_NONE)
		return base_fail(EBADMSG, "add_eos_token is set, but the file names no eos_token_id");
	return 0;
}

/* ---- special tokens, sorted ------------------------------------------------------------------ */

static int by_text(const void *a, const void *b, void *context)
{
	const struct model_tokenizer *tokenizer = context;
	struct model_text left = token_text(tokenizer, *(const uint32_t *)a);
	struct model_text right = token_text(tokenizer, *(const uint32_t *)b);
	int order = memcmp(left.bytes, right.bytes, left.len < right.len ? left.len : right.len);

	return order ? order : (left.len > right.len) - (left.len < right.len);
}

static bool is_special(const struct model_tokenizer *tokenizer, uint32_t id)
{
	return token_text(tokenizer, id).len > 0 &&
		(model_token_is_control(tokenizer, id) || tokenizer->types[id] == MODEL_TOKEN_USER_DEFINED);
}

static int sort_specials(struct model_tokenizer *tokenizer)
{
	uint32_t id, count = 0, byte;

	for (id = 0; id < tokenizer->count; id++) {
		count += is_special(tokenizer, id);
		tokenizer->has_user_defined |= tokenizer->types[id] == MODEL_TOKEN_USER_DEFINED;
	}
	tokenizer->specials = malloc((count + 1) * sizeof(*tokenizer->specials));
	if (!tokenizer->specials)
		return base_fail(ENOMEM, "no memory for %u special tokens", count);
	count = 0;
	for (id = 0; id < tokenizer->count; id++)
		if (is_special(tokenizer, id))
			tokenizer->specials[count++] = id;
	qsort_r(tokenizer->specials, count, sizeof(*tokenizer->specials), by_text, tokenizer);
	for (byte = 0, id = 0; byte < 256; byte++) {
		tokenizer->special_from[byte] = id;
		while (id < count && (unsigned char)token_text(tokenizer, tokenizer->specials[id]).bytes[0] == byte)
			id++;
	}
	tokenizer->special_from[256] = count;
	return 0;
}

/* ---- what tokens show ------------------------------------------------------------------------ */

/* U+2581 stands for a space. */
static size_t unescape_spaces(struct model_text text, char *bytes)
{
	size_t at, count = 0;

	for (at = 0; at < text.len; count++) {
		bool space = text.len - at >= 3 && memcmp(text.bytes + at, "\xe2\x96\x81", 3) == 0;

		bytes[count] = space ? ' ' : text.bytes[at];
		at += space ? 3 : 1;
	}
	return count;
}

/* Never longer than the token's text. */
static size_t make_piece(const struct model_tokenizer *tokenizer, uint32_t id, char *bytes)
{
	struct model_text text = token_text(tokenizer, id);
	uint8_t type = tokenizer->types[id];

	if (!tokenizer->split && type == MODEL_TOKEN_BYTE) {
		bytes[0] = (char)model_token_spm_byte(text.bytes, text.len);
		return 1;
	}
	if (type == MODEL_TOKEN_NORMAL || type == MODEL_TOKEN_UNUSED)
		return tokenizer->split ? model_token_bpe_spelled(text.bytes, text.len, bytes) : unescape_spaces(text, bytes);
	memcpy(bytes, text.bytes, text.len);
	return text.len;
}

static int make_pieces(struct model_tokenizer *tokenizer)
{
	uint32_t id;

	tokenizer->pieces = malloc(tokenizer->text_starts[tokenizer->count] + 1);
	tokenizer->piece_starts = calloc(tokenizer->count + 1, sizeof(*tokenizer->piece_starts));
	if (!tokenizer->pieces || !tokenizer->piece_starts)
		return base_fail(ENOMEM, "no memory for what %u tokens show", tokenizer->count);
	for (id = 0; id < tokenizer->count; id++)
		tokenizer->piece_starts[id + 1] = tokenizer->piece_starts[id] +
			(uint32_t)make_piece(tokenizer, id, tokenizer->pieces + tokenizer->piece_starts[id]);
	return 0;
}

/* ---- all of it ------------------------------------------------------------------------------- */

/* The order matters: which tokens are control tokens must be settled before merges, specials and pieces are made. */
static int load(struct model_tokenizer *tokenizer, const struct model_gguf *gguf)
{
	int rc = read_kind(tokenizer, gguf);

	if (rc == 0)
		rc = read_texts(tokenizer, gguf);
	if (rc == 0)
		rc = read_types(tokenizer, gguf);
	if (rc == 0)
		rc = make_index(tokenizer);
	if (rc == 0)
		rc = read_meanings(tokenizer, gguf);
	if (rc == 0)
		rc = read_flags(tokenizer, gguf);
	if (rc == 0)
		rc = model_chat_load(tokenizer, gguf);
	if (rc == 0)
		rc = tokenizer->split ? model_token_bpe_load(tokenizer, gguf) : model_token_spm_load(tokenizer, gguf);
	if (rc == 0)
		rc = sort_specials(tokenizer);
	if (rc == 0)
		rc = make_pieces(tokenizer);
	if (rc == 0 && model_gguf_damaged(gguf))
		rc = base_fail(EBADMSG, "the file was truncated while its tokenizer was read");
	return rc;
}

int model_tokenizer_create(struct model_tokenizer **tokenizer, const struct model_gguf *gguf)
{
	struct model_tokenizer *made = calloc(1, sizeof(*made));
	int rc;

	if (!made)
		return base_fail(ENOMEM, "no memory for a tokenizer");
	rc = load(made, gguf);
	if (rc < 0) {
		model_tokenizer_destroy(made);
		return rc;
	}
	*tokenizer = made;
	return 0;
}

void model_tokenizer_destroy(struct model_tokenizer *tokenizer)
{
	if (!tokenizer)
		return;
	free(tokenizer->chat.system);
	model_token_index_destroy(&tokenizer->index);
	model_token_pairs_destroy(&tokenizer->pairs);
	free(tokenizer->piece_starts);
	free(tokenizer->pieces);
	free(tokenizer->specials);
	free(tokenizer->char_symbols);
	free(tokenizer->chars);
	free(tokenizer->ends);
	free(tokenizer->types);
	free(tokenizer->text_starts);
	free(tokenizer->texts);
	free(tokenizer);
}

/* ---- scratch --------------------------------------------------------------------------------- */

/* Positions are 32-bit, and every byte costs some 40 bytes of scratch. */
enum { TEXT_BYTES_MAX = 1 << 28 };

int model_token_scratch_create(struct model_token_scratch **scratch, size_t text_bytes_max)
{
	struct model_token_scratch *made;
	size_t symbols = text_bytes_max + 1;

	if (text_bytes_max > TEXT_BYTES_MAX)
		return base_fail(EINVAL, "texts of %zu bytes are too long for a tokenizer, use at most %d", text_bytes_max,
			TEXT_BYTES_MAX);
	made = calloc(1, sizeof(*made));
	if (made) {
		made->text_bytes_max = text_bytes_max;
		made->symbols = malloc(symbols * sizeof(*made->symbols));
		made->heap = malloc(2 * symbols * sizeof(*made->heap));
		made->text = malloc(text_bytes_max + 1);
	}
	if (!made || !made->symbols || !made->heap || !made->text) {
		model_token_scratch_destroy(made);
		return base_fail(ENOMEM, "no memory to tokenize texts of %zu bytes", text_bytes_max);
	}
	*scratch = made;
	return 0;
}

void model_token_scratch_destroy(struct model_token_scratch *scratch)
{
	if (!scratch)
		return;
	free(scratch->text);
	free(scratch->heap);
	free(scratch->symbols);
	free(scratch);
}
