/*
 * Pre-tokenizers of byte-level BPE: they cut text into words, and merges never cross a cut. Each is a chain of
 * stages; a stage cuts every piece that the one before it made. The regular expressions of the published
 * tokenizers are written out by hand here, over classes of code points. Pure functions, any thread.
 */
#ifndef MODEL_TOKEN_SPLIT_H
#define MODEL_TOKEN_SPLIT_H

#include <stdbool.h>
#include <stddef.h>

#include "model/model_gguf.h"

enum { MODEL_TOKEN_STAGES_MAX = 4 };

/* Where the piece that begins at `at` ends: in (at, end]. Looks at nothing outside [at, end). */
typedef size_t model_token_stage(const char *text, size_t at, size_t end);

struct model_token_split {
	model_token_stage *stages[MODEL_TOKEN_STAGES_MAX + 1]; /* ends with NULL */
	bool ignore_merges; /* a word that is a token as it stands is that token */
	bool add_bos;       /* what the file may override */
};

/* By the value of tokenizer.ggml.pre; NULL for a name that is not known here. */
const struct model_token_split *model_token_split_find(struct model_text name);

typedef void model_token_word(void *context, const char *text, size_t at, size_t end);
/* Calls `word` for every piece of [at, end), in order. */
void model_token_split_walk(model_token_stage *const *stages, const char *text, size_t at, size_t end,
	model_token_word *word, void *context);

#endif
