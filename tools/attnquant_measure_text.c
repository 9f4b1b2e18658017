/*
 * The text that a model is measured on, as tokens in chunks. Main thread.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"
#include "model/model_token.h"
#include "tools/attnquant.h"
#include "tools/attnquant_measure.h"
#include "tools/tool_text.h"

static const char standard_text[] = "data/text/wikitext-2.test.txt";

static char *find_standard_text(void)
{
	const char *folder = getenv("ATTND_DATA");
	char *path = attnquant_join(folder && *folder ? folder : "../shared", standard_text);

	if (!attnquant_exists(path))
		tool_die(TOOL_FAILED, "%s is not there; name a text with --text, or the folder that has %s in ATTND_DATA",
			path, standard_text);
	return path;
}

/* All tokens of a file; returns how many. */
static uint64_t tokenize(const char *path, const struct model_tokenizer *tokenizer, uint32_t **tokens)
{
	struct attnquant_file file;
	struct model_token_scratch *scratch;
	int64_t count;

	if (attnquant_file_open(&file, path) < 0 || model_token_scratch_create(&scratch, file.size) < 0)
		tool_die(TOOL_FAILED, "%s", base_error_message());
	/* No token is shorter than a byte, but for a blank that may be put in front. */
	*tokens = measure_alloc(file.size + 1, sizeof(**tokens));
	count = model_tokenize(tokenizer, scratch, (const char *)file.bytes, file.size, 0, *tokens, file.size + 1);
	if (count < 0 || (uint64_t)count > file.size + 1)
		tool_die(TOOL_FAILED, "%s cannot be tokenized", path);
	model_token_scratch_destroy(scratch);
	attnquant_file_close(&file);
	return (uint64_t)count;
}

/* The token that the tokenizer puts before every text, or -1. */
static int64_t first_token(const struct model_tokenizer *tokenizer)
{
	struct model_token_scratch *scratch;
	uint32_t ids[4];
	int64_t count;

	if (model_token_scratch_create(&scratch, 16) < 0)
		tool_die(TOOL_FAILED, "%s", base_error_message());
	count = model_tokenize(tokenizer, scratch, "", 0, MODEL_TOKEN_ADD_SPECIAL, ids, 4);
	model_token_scratch_destroy(scratch);
	return count > 0 && (int64_t)ids[0] == model_tokenizer_bos(tokenizer) ? (int64_t)ids[0] : -1;
}

void measure_text_open(struct measure_text *text, const char *path, const struct model_tokenizer *tokenizer,
	uint32_t vocab, uint32_t context, uint32_t tokens)
{
	const int64_t first = first_token(tokenizer);
	char *standard = path ? NULL : find_standard_text();
	uint64_t count, wanted;

	*text = (struct measure_text){ .path = path ? path : standard, .context = context };
	count = tokenize(text->path, tokenizer, &text->tokens);
	wanted = tokens == 0 ? count : tokens > context ? tokens : context;
	text->chunks = (uint32_t)((wanted < count ? wanted : count) / context);
	if (text->chunks == 0)
		tool_die(TOOL_FAILED, "%s has only %" PRIu64 " tokens; a chunk has %u, as --context says", text->path, count,
			context);
	for (uint64_t i = 0; i < (uint64_t)text->chunks * context; i++)
		if (text->tokens[i] >= vocab)
			tool_die(TOOL_FAILED, "the tokenizer makes token %u, and the model has %u", text->tokens[i], vocab);
	for (uint32_t i = 0; first >= 0 && i < text->chunks; i++)
		text->tokens[(size_t)i * context] = (uint32_t)first;
}

void measure_text_close(struct measure_text *text)
{
	free(text->tokens);
	/* The path may be the command line's; the program ends soon. */
	text->tokens = NULL;
}
