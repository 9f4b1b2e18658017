/*
 * Tokenizers, from GGUF metadata: SentencePiece ("llama": SPM with byte fall-back, scores decide the merges),
 * byte-level BPE ("gpt2", with the pre-tokenizer named by tokenizer.ggml.pre: gpt-2, smollm, llama-bpe, qwen2, ...),
 * and chat templates.
 *
 * A tokenizer is constant after creation. A run works in a scratch that is allocated once for a maximum text length,
 * so that nothing is allocated per request; one scratch belongs to one thread. Text is any bytes: invalid UTF-8 is
 * encoded byte by byte, never refused; a byte that the vocabulary has no token for becomes the unknown token
 * (SentencePiece) or is left out (BPE). Time is O(n log n) in the text's length.
 */
#ifndef MODEL_TOKEN_H
#define MODEL_TOKEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/model_gguf.h"

struct model_tokenizer;
struct model_token_scratch;

enum { MODEL_TOKEN_NONE = -1 };

/* Copies what it needs out of the file. -ENOENT: the file has no tokenizer; -ENOTSUP: a kind this build does not
 * know; -EBADMSG; with a message each. */
int model_tokenizer_create(struct model_tokenizer **tokenizer, const struct model_gguf *gguf);
void model_tokenizer_destroy(struct model_tokenizer *tokenizer);

uint32_t model_tokenizer_size(const struct model_tokenizer *tokenizer);
int32_t model_tokenizer_bos(const struct model_tokenizer *tokenizer); /* or MODEL_TOKEN_NONE */
int32_t model_tokenizer_eos(const struct model_tokenizer *tokenizer);
/* End of sequence, end of turn, end of message: generation stops there. */
bool model_tokenizer_is_end(const struct model_tokenizer *tokenizer, uint32_t id);

int model_token_scratch_create(struct model_token_scratch **scratch, size_t text_bytes_max);
void model_token_scratch_destroy(struct model_token_scratch *scratch);

enum { MODEL_TOKEN_ADD_SPECIAL = 1, MODEL_TOKEN_PARSE_SPECIAL = 2 };

/* text to ids. Returns the number of ids the text has (which may exceed capacity: then only capacity were written);
 * -E2BIG when text is longer than the scratch allows. Control tokens are found in text only when asked for; tokens
 * of the type user-defined always. */
int64_t model_tokenize(const struct model_tokenizer *tokenizer, struct model_token_scratch *scratch, const char *text,
	size_t text_bytes, uint32_t flags, uint32_t *ids, size_t capacity);

/* ids to text. Returns the bytes the text has (may exceed capacity; what fits was written); -EINVAL for an id out of
 * range (*bad: its index). A first piece's leading space is removed as SentencePiece does when `first` is true.
 * Control tokens are shown only with show_special. */
int64_t model_detokenize(const struct model_tokenizer *tokenizer, const uint32_t *ids, size_t count, bool first,
	bool show_special, char *text, size_t capacity, size_t *bad);

/* ---- chat ------------------------------------------------------------------------------------------------ */

/* role: 0 system, 1 user, 2 assistant */
struct model_chat_message { uint32_t role; const char *text; size_t text_bytes; };

/* True when the file's template is one of the forms known here (ChatML, Llama 2, Llama 3, Mistral, Zephyr, Phi-3). */
bool model_chat_known(const struct model_tokenizer *tokenizer);
/* Renders the messages and the opening of the assistant's turn, straight to ids: control tokens come from the
 * template alone, so that a user's text cannot forge one. Same returns as model_tokenize; -E2BIG when what stands
 * between two control tokens is longer than the scratch allows; -ENOTSUP without a known template; -EINVAL for a role
 * that there is not. */
int64_t model_chat_tokenize(const struct model_tokenizer *tokenizer, struct model_token_scratch *scratch,
	const struct model_chat_message *messages, size_t count, uint32_t *ids, size_t capacity);

#endif
