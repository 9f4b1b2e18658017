/*
 * Small tokenizers for tests: GGUF files made in memory, key by key, good or bad on purpose.
 */
#ifndef TESTS_TOKEN_BUILD_H
#define TESTS_TOKEN_BUILD_H

#include <stddef.h>
#include <stdint.h>

#include "model/model_token.h"

/* Types of tokens as files number them. */
enum { TOKEN_NORMAL = 1, TOKEN_UNKNOWN, TOKEN_CONTROL, TOKEN_USER, TOKEN_UNUSED, TOKEN_BYTE };

enum { TOKEN_BUILD_TOKENS = 2048, TOKEN_BUILD_BYTES = 1 << 17 };

/* One token each, gathered before they are written as arrays. */
struct token_build {
	uint8_t file[TOKEN_BUILD_BYTES];
	size_t size;
	uint64_t keys;
	bool spm;
	uint32_t tokens, merges;
	char *texts[TOKEN_BUILD_TOKENS];
	size_t lens[TOKEN_BUILD_TOKENS];
	float scores[TOKEN_BUILD_TOKENS];
	int32_t types[TOKEN_BUILD_TOKENS];
	char *merge[TOKEN_BUILD_TOKENS];
};

/* An empty file with the kind of tokenizer; pre may be NULL. Freed by token_build_free. */
struct token_build *token_build_new(const char *kind, const char *pre);
void token_build_free(struct token_build *build);

/* Returns its id. */
uint32_t token_build_add(struct token_build *build, const char *text, size_t len, int32_t type, float score);
void token_build_merge(struct token_build *build, const char *merge);
/* A merge of two tokens and the token that it makes. */
void token_build_join(struct token_build *build, const char *left, const char *right);
/* The tokens of all 256 bytes: <0x00> and so on for SentencePiece, GPT-2's letters for BPE. */
void token_build_bytes(struct token_build *build);

void token_build_text(struct token_build *build, const char *key, const char *bytes, size_t len);
void token_build_u32(struct token_build *build, const char *key, uint32_t value);
void token_build_bool(struct token_build *build, const char *key, bool value);

/* The arrays with fewer or more elements than there are tokens, where that is tested. */
struct token_build_counts { int types, scores; };

/* Writes the arrays and makes the tokenizer; what model_tokenizer_create returns. */
int token_build_make(struct token_build *build, struct model_tokenizer **tokenizer);
int token_build_make_counts(struct token_build *build, struct token_build_counts more,
	struct model_tokenizer **tokenizer);

/* Ready-made: SentencePiece with <unk> <s> </s>, the bytes, and a few words; BPE with a few merges, <|im_start|>,
 * <|im_end|>, <|endoftext|> and a ChatML template. NULL when it cannot be made. */
struct model_tokenizer *token_build_spm(void);
struct model_tokenizer *token_build_bpe(const char *pre);

#endif
