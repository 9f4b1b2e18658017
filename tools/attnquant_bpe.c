/*
 * Reads a Hugging Face tokenizer.json of byte-level BPE: vocabulary, merges, added tokens, and
 * which of the known pre-tokenizers it uses. One thread. The file is not trusted.
 */
#include <cjson/cJSON.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"
#include "tools/attnquant.h"
#include "tools/tool_text.h"

static const cJSON *get(const cJSON *object, const char *name)
{
	return cJSON_GetObjectItemCaseSensitive(object, name);
}

static bool text_is(const cJSON *item, const char *text)
{
	return cJSON_IsString(item) && strcmp(item->valuestring, text) == 0;
}

/* ---- pre-tokenizers ------------------------------------------------------------------------------------ */

/* What the steps of a pre-tokenizer tell. */
struct steps {
	bool byte_level, digits;
	const char *pattern;
};

static void read_step(struct steps *steps, const cJSON *step)
{
	const cJSON *type = get(step, "type");

	if (text_is(type, "ByteLevel"))
		steps->byte_level = true;
	if (text_is(type, "Digits"))
		steps->digits = cJSON_IsTrue(get(step, "individual_digits"));
	if (text_is(type, "Split"))
		steps->pattern = cJSON_GetStringValue(get(get(step, "pattern"), "Regex"));
}

/* The name that GGUF gives to a pre-tokenizer, known by the steps it is made of; NULL for one
 * not known here. */
static const char *name_of_steps(const struct steps *steps)
{
	if (!steps->byte_level)
		return NULL;
	if (!steps->pattern)
		return steps->digits ? "smollm" : "gpt-2";
	if (strstr(steps->pattern, "\\p{N}{1,3}"))
		return "llama-bpe";
	if (strstr(steps->pattern, "(?i:'s") && strstr(steps->pattern, "\\p{N}|"))
		return "qwen2";
	return NULL;
}

static int read_pre_tokenizer(struct attnquant_vocab *vocab, const cJSON *root)
{
	const cJSON *pre = get(root, "pre_tokenizer"), *list = get(pre, "pretokenizers"), *step;
	struct steps steps = { 0 };

	if (cJSON_IsArray(list)) {
		cJSON_ArrayForEach(step, list)
			read_step(&steps, step);
	} else {
		read_step(&steps, pre);
	}
	vocab->pre = name_of_steps(&steps);
	if (!vocab->pre)
		return base_fail(ENOTSUP,
			"its pre-tokenizer is none of the known ones (gpt-2, smollm, llama-bpe, qwen2); a "
			"SentencePiece vocabulary is read from tokenizer.model instead");
	return 0;
}

/* ---- tokens and merges --------------------------------------------------------------------------------- */

static bool token_id(const cJSON *item, uint32_t *id)
{
	if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0) || item->valuedouble >= 1 << 20)
		return false;
	*id = (uint32_t)item->valuedouble;
	return (double)*id == item->valuedouble;
}

static int add_token(struct attnquant_vocab *vocab, const char *text, const cJSON *id_item,
	enum attnquant_token_type type)
{
	uint32_t id;
	int rc;

	if (!text || !token_id(id_item, &id))
		return base_fail(EBADMSG, "a token without a text or with an id out of range");
	rc = attnquant_vocab_grow(vocab, id + 1);
	return rc < 0 ? rc : attnquant_vocab_set(vocab, id, text, strlen(text), 0, type);
}

static int read_tokens(struct attnquant_vocab *vocab, const cJSON *root)
{
	const cJSON *item;
	int rc = 0;

	cJSON_ArrayForEach(item, get(get(root, "model"), "vocab"))
		if (rc == 0)
			rc = add_token(vocab, item->string, item, TOKEN_NORMAL);
	cJSON_ArrayForEach(item, get(root, "added_tokens"))
		if (rc == 0)
			rc = add_token(vocab, cJSON_GetStringValue(get(item, "content")),
				get(item, "id"),
				cJSON_IsTrue(get(item, "special")) ? TOKEN_CONTROL :
								     TOKEN_USER_DEFINED);
	if (rc == 0 && vocab->count == 0)
		rc = base_fail(EBADMSG, "it has no vocabulary");
	return rc;
}

/* "left right", or since 2024 ["left", "right"]. */
static char *merge_text(const cJSON *item)
{
	const char *left = cJSON_GetStringValue(cJSON_GetArrayItem(item, 0));
	const char *right = cJSON_GetStringValue(cJSON_GetArrayItem(item, 1));
	char *text = NULL;

	if (cJSON_IsString(item))
		return strdup(item->valuestring);
	if (left && right && asprintf(&text, "%s %s", left, right) < 0)
		tool_die(TOOL_FAILED, "out of memory");
	return text;
}

static int read_merges(struct attnquant_vocab *vocab, const cJSON *root)
{
	const cJSON *merges = get(get(root, "model"), "merges"), *item;

	vocab->merges = calloc((size_t)cJSON_GetArraySize(merges) + 1, sizeof(*vocab->merges));
	if (!vocab->merges)
		return base_fail(ENOMEM, "no memory for its merges");
	cJSON_ArrayForEach(item, merges) {
		char *text = merge_text(item);

		if (!text)
			return base_fail(
				EBADMSG, "merge %" PRIu64 " is no pair", vocab->merge_count);
		vocab->merges[vocab->merge_count++] = text;
	}
	return 0;
}

int attnquant_bpe_read(struct attnquant_vocab *vocab, const char *path)
{
	struct attnquant_file file;
	cJSON *root;
	int rc = attnquant_file_open(&file, path);

	if (rc < 0)
		return rc;
	root = cJSON_ParseWithLength((const char *)file.bytes, file.size);
	attnquant_file_close(&file);
	attnquant_vocab_init(vocab, "gpt2", "default");
	if (!text_is(get(get(root, "model"), "type"), "BPE"))
		rc = base_fail(ENOTSUP, "it is no BPE tokenizer");
	if (rc == 0)
		rc = read_pre_tokenizer(vocab, root);
	if (rc == 0)
		rc = read_tokens(vocab, root);
	if (rc == 0)
		rc = read_merges(vocab, root);
	cJSON_Delete(root);
	if (rc < 0) {
		attnquant_vocab_free(vocab);
		return base_fail_within(-rc, "tokenizer %s", path);
	}
	return 0;
}
