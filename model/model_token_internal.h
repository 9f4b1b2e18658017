/*
 * What the files of the tokenizer share. At load: model_token_load.c reads a vocabulary, model_token_spm_load.c and
 * model_token_bpe_load.c make its merges, model_chat_load.c recognises a template. For a request: model_token.c has
 * the public calls, model_token_spm.c and model_token_bpe.c cut plain text into symbols, model_token_merge.c merges
 * them, model_chat.c renders conversations; none of these allocates.
 *
 * SentencePiece and byte-level BPE come down to one thing here: symbols with ids, and a table that says which two
 * neighbours become which third, in which order. SentencePiece's table is worked out at load: every way to cut a
 * token in two, ranked by the token's score.
 */
#ifndef MODEL_TOKEN_INTERNAL_H
#define MODEL_TOKEN_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/model_token.h"
#include "model/model_token_split.h"
#include "model/model_token_table.h"

/* Limits of a vocabulary. The largest published ones have 262,144 tokens, 280,147 merges, 512 bytes in a token and
 * 2 MiB of text; a SentencePiece vocabulary of 32,000 has two cuts a token. */
enum {
	MODEL_TOKEN_COUNT_MAX = 1 << 20,
	MODEL_TOKEN_BYTES_MAX = 1024,
	MODEL_TOKEN_TEXT_BYTES_MAX = 1 << 25,
	MODEL_TOKEN_MERGES_MAX = 1 << 21,
	MODEL_TOKEN_CUTS_PER_TOKEN_MAX = 16,
	MODEL_TOKEN_CUTS_MORE = 1 << 16, /* small vocabularies may have more a token */
	MODEL_CHAT_TEMPLATE_BYTES_MAX = 1 << 18,
	MODEL_CHAT_SYSTEM_BYTES_MAX = 1 << 14
};

/* As files number them. */
enum model_token_type {
	MODEL_TOKEN_UNDEFINED, MODEL_TOKEN_NORMAL, MODEL_TOKEN_UNKNOWN, MODEL_TOKEN_CONTROL, MODEL_TOKEN_USER_DEFINED,
	MODEL_TOKEN_UNUSED, MODEL_TOKEN_BYTE, MODEL_TOKEN_TYPE_END
};

/* ---- chat ------------------------------------------------------------------------------------ */

enum { MODEL_CHAT_SYSTEM, MODEL_CHAT_USER, MODEL_CHAT_ASSISTANT, MODEL_CHAT_ROLES };

/* In the texts of a form: the tokens that begin and end a sequence. */
#define MODEL_CHAT_BOS "\2"
#define MODEL_CHAT_EOS "\3"

/* A form: the texts around messages. What is a control token's text in them becomes that token. */
struct model_chat {
	bool known;
	bool bos;            /* the conversation begins with one */
	bool trim;           /* messages lose white space at both ends */
	bool strip_after;    /* text loses white space behind a control token */
	const char *turn;    /* before a system or user message that begins a turn; NULL: no such thing */
	const char *turn_more; /* the same from the second turn on */
	const char *before[MODEL_CHAT_ROLES], *after[MODEL_CHAT_ROLES];
	const char *open;    /* the assistant's turn begins */
	char *system;        /* a system message for conversations that have none, or NULL */
	size_t system_bytes;
};

struct model_tokenizer;

/* Recognises the template, and makes its marks control tokens; a file without a template, or with one that is not
 * known here, is no error. -EBADMSG, -ENOMEM with a message. */
int model_chat_load(struct model_tokenizer *tokenizer, const struct model_gguf *gguf);

/* ---- the tokenizer --------------------------------------------------------------------------- */

struct model_tokenizer {
	uint32_t count;
	const struct model_token_split *split; /* byte-level BPE; NULL: SentencePiece */
	bool add_bos, add_eos, add_space_prefix;
	bool has_user_defined;
	int32_t bos, eos, unknown;
	uint8_t *types; /* enum model_token_type */
	bool *ends;
	struct model_token_pairs pairs;
	uint32_t byte_ids[256]; /* BPE: the first symbols; SentencePiece: the byte tokens. MODEL_TOKEN_ABSENT */

	/* SentencePiece: code points that tokens are made of, ascending, and their symbols. One that is no token has
	 * a number above all ids. */
	uint32_t char_count;
	uint32_t *chars, *char_symbols;

	/* Tokens found in text before all else, by text: control, user-defined, unknown. Those that begin with byte b
	 * are [special_from[b], special_from[b + 1]). */
	uint32_t *specials;
	uint32_t special_from[257];

	/* What a token shows: pieces [piece_starts[id], piece_starts[id + 1]). */
	char *pieces;
	uint32_t *piece_starts;

	/* Tokens as the file spells them, and an index of them. */
	char *texts;
	uint32_t *text_starts;
	struct model_token_index index;

	struct model_chat chat;
};

/* May be made by merges: ordinary text may become it. */
static inline bool model_token_is_text(const struct model_tokenizer *tokenizer, uint32_t id)
{
	uint8_t type = tokenizer->types[id];

	return type == MODEL_TOKEN_NORMAL || type == MODEL_TOKEN_USER_DEFINED || type == MODEL_TOKEN_UNUSED;
}

/* Never shown, and taken from text only when asked. */
static inline bool model_token_is_control(const struct model_tokenizer *tokenizer, uint32_t id)
{
	return tokenizer->types[id] == MODEL_TOKEN_CONTROL || tokenizer->types[id] == MODEL_TOKEN_UNKNOWN;
}

/* Makes a token that looks like a mark (not like text) a control token. */
void model_token_make_control(struct model_tokenizer *tokenizer, uint32_t id);

/* Makes the pairs and what else each kind needs, at load. -EBADMSG, -ENOMEM with a message. */
int model_token_spm_load(struct model_tokenizer *tokenizer, const struct model_gguf *gguf);
int model_token_bpe_load(struct model_tokenizer *tokenizer, const struct model_gguf *gguf);

/* The symbol that a code point begins as; MODEL_TOKEN_ABSENT when no token has it. */
uint32_t model_token_spm_symbol(const struct model_tokenizer *tokenizer, uint32_t code);
/* The code point that stands for a byte in a file. */
uint32_t model_token_bpe_code(unsigned byte);
/* The token that spells exactly these bytes, if ordinary text may become it; else MODEL_TOKEN_ABSENT. */
uint32_t model_token_bpe_find(const struct model_tokenizer *tokenizer, const char *bytes, size_t len);
/* The bytes that a token of byte-level BPE spells, at most len of them; returns how many. */
size_t model_token_bpe_spelled(const char *text, size_t len, char *bytes);
/* The byte of "<0x0A>"; -1 when the text is not of that form. */
int model_token_spm_byte(const char *text, size_t len);

/* ---- a run ----------------------------------------------------------------------------------- */

struct model_token_symbol {
	uint32_t id;           /* MODEL_TOKEN_ABSENT: no symbol of the vocabulary */
	uint32_t at;           /* its first byte in the text */
	uint32_t prev, next;   /* neighbours, MODEL_TOKEN_ABSENT at the ends */
	uint32_t rank, merged; /* of the merge with the next; rank MODEL_TOKEN_ABSENT: none */
};

struct model_token_scratch {
	size_t text_bytes_max;
	struct model_token_symbol *symbols; /* text_bytes_max + 1: a space may go before the text */
	uint64_t *heap;                     /* two for each symbol, see model_token_merge.c */
	char *text;                         /* a conversation's plain text */
};

struct model_token_output {
	uint32_t *ids;
	size_t capacity;
	uint64_t count;
};

static inline void model_token_put(struct model_token_output *output, uint32_t id)
{
	if (output->count < output->capacity)
		output->ids[output->count] = id;
	output->count++;
}

/* Merges symbols[0 .. count) until nothing merges. Symbol 0 stays the first of the chain. id and at are set by the
 * caller, the rest here. */
void model_token_merge(const struct model_token_pairs *pairs, struct model_token_symbol *symbols, uint32_t count,
	uint64_t *heap);

/* Plain text [at, end): no control tokens in it. */
void model_token_spm_text(const struct model_tokenizer *tokenizer, struct model_token_scratch *scratch,
	const char *text, size_t at, size_t end, bool space_before, struct model_token_output *output);
void model_token_bpe_text(const struct model_tokenizer *tokenizer, struct model_token_scratch *scratch,
	const char *text, size_t at, size_t end, struct model_token_output *output);

/* A whole text, with its special tokens. */
void model_token_text(const struct model_tokenizer *tokenizer, struct model_token_scratch *scratch, const char *text,
	size_t text_bytes, bool parse_special, struct model_token_output *output);

/* The longest special token at text[at]: its id and bytes; MODEL_TOKEN_ABSENT when there is none. */
uint32_t model_token_special_at(const struct model_tokenizer *tokenizer, const char *text, size_t at, size_t end,
	bool parse_special, size_t *len_bytes);

#endif
