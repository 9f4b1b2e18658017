/*
 * Tokenizers against other people's ids: the vocabulary files of llama.cpp with their texts and ids (in the data
 * folder, vocab/), and the pieces and ids that Hugging Face's tokenizers give (tests/golden/token_*.txt; how they were
 * made is in make-token-golden.py beside them). Text also comes back from its ids as it was.
 *
 * SmolLM2's vocabulary is not in the data folder: its test runs where ATTND_SMOLLM2 names the model's GGUF file, or
 * $XDG_CACHE_HOME/attnd (~/.cache/attnd) has it.
 */
#include "model/model_token.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base_error.h"
#include "model/model_token_split.h"

enum { TEXT_MAX = 1 << 16, IDS_MAX = TEXT_MAX + 16, MESSAGES_MAX = 16 };

static struct model_token_scratch *scratch;
static uint32_t ids[IDS_MAX];

static int set_up(void **state)
{
	(void)state;
	return model_token_scratch_create(&scratch, TEXT_MAX);
}

static int tear_down(void **state)
{
	(void)state;
	model_token_scratch_destroy(scratch);
	return 0;
}

/* ---- files ------------------------------------------------------------------------------------- */

/* The path of a file of the data folder; skips the test when it is not there. */
static const char *data_path(const char *name)
{
	static char path[1024];
	const char *folder = getenv("ATTND_DATA");

	snprintf(path, sizeof(path), "%s/data/vocab/%s", folder ? folder : "../shared", name);
	if (access(path, R_OK) != 0) {
		print_message("# skip: no %s (set ATTND_DATA to the data folder)\n", path);
		skip();
	}
	return path;
}

static char *read_file(const char *path, size_t *size)
{
	FILE *file = fopen(path, "rb");
	char *bytes = malloc(1 << 20);

	if (!file)
		fail_msg("cannot read %s", path);
	assert_non_null(bytes);
	*size = fread(bytes, 1, (1 << 20) - 1, file);
	bytes[*size] = '\0';
	fclose(file);
	return bytes;
}

static struct model_tokenizer *load(const char *path)
{
	struct model_tokenizer *tokenizer = NULL;
	struct model_gguf *gguf;

	if (model_gguf_open(&gguf, path) < 0 || model_tokenizer_create(&tokenizer, gguf) < 0)
		fail_msg("%s: %s", path, base_error_message());
	model_gguf_close(gguf);
	return tokenizer;
}

/* ---- comparing --------------------------------------------------------------------------------------- */

/* The numbers at *line up to the line's end, which *line is moved behind. */
static size_t read_ids(char **line, uint32_t *values)
{
	size_t count = 0, used;

	while (**line && **line != '\n') {
		used = strspn(*line, " ");
		*line += used;
		if (**line >= '0' && **line <= '9')
			values[count++] = (uint32_t)strtoul(*line, line, 10);
		else if (used == 0)
			fail_msg("no id: %.40s", *line);
	}
	*line += **line == '\n';
	return count;
}

static void compare(const char *what, const char *text, size_t len, int64_t count, const uint32_t *wanted,
	size_t wanted_count)
{
	size_t i;

	assert_true(count >= 0 && count <= IDS_MAX);
	for (i = 0; i < wanted_count && i < (size_t)count; i++)
		if (ids[i] != wanted[i])
			fail_msg("%s: '%.*s': id %zu is %u, not %u", what, (int)len, text, i, ids[i], wanted[i]);
	if ((size_t)count != wanted_count)
		fail_msg("%s: '%.*s': %lld ids, not %zu", what, (int)len, text, (long long)count, wanted_count);
}

static void comes_back(const struct model_tokenizer *tokenizer, const char *text, size_t len, int64_t count, bool control)
{
	static char shown[2 * TEXT_MAX];
	size_t bad;

	assert_int_equal(model_detokenize(tokenizer, ids, (size_t)count, true, control, shown, sizeof(shown), &bad), len);
	assert_memory_equal(shown, text, len);
}

/* ---- llama.cpp's vocabulary tests ------------------------------------------------------------------------ */

static void vocabulary(const char *name)
{
	static const char separator[] = "\n__ggml_vocab_test__\n";
	static uint32_t wanted[IDS_MAX];
	char path[1100], *input, *output, *text, *line, *end;
	size_t size, entries = 0;
	struct model_tokenizer *tokenizer = load(data_path(name));

	snprintf(path, sizeof(path), "%s.inp", data_path(name));
	text = input = read_file(path, &size);
	snprintf(path, sizeof(path), "%s.out", data_path(name));
	line = output = read_file(path, &size);
	while ((end = strstr(text, separator)) != NULL) {
		size_t len = (size_t)(end - text), count = read_ids(&line, wanted);
		int64_t got = model_tokenize(tokenizer, scratch, text, len, 0, ids, IDS_MAX);

		compare(name, text, len, got, wanted, count);
		comes_back(tokenizer, text, len, got, false);
		text = end + sizeof(separator) - 1;
		entries++;
	}
	assert_int_equal(*line, '\0');
	assert_in_range(entries, 40, 1000);
	free(input);
	free(output);
	model_tokenizer_destroy(tokenizer);
}

static void test_vocabulary_llama_spm(void **state)
{
	(void)state;
	vocabulary("ggml-vocab-llama-spm.gguf");
}

static void test_vocabulary_phi_3(void **state)
{
	(void)state;
	vocabulary("ggml-vocab-phi-3.gguf");
}

static void test_vocabulary_gpt_2(void **state)
{
	(void)state;
	vocabulary("ggml-vocab-gpt-2.gguf");
}

/* ---- lines of golden files -------------------------------------------------------------------------------------------- */

/* Undoes \xNN in place, up to the tab; *next is behind that. */
static size_t read_text(char *line, char **next)
{
	char *to = line, *from = line;

	for (; *from != '\t'; to++) {
		unsigned byte = (unsigned char)*from;

		if (byte == '\0' || (byte == '\\' && sscanf(from, "\\x%2x", &byte) != 1))
			fail_msg("not of the form of a golden file: %.40s", from);
		from += *from == '\\' ? 4 : 1;
		*to = (char)byte;
	}
	*next = from + 1;
	return (size_t)(to - line);
}

static int64_t tokenize_chat(const struct model_tokenizer *tokenizer, char *text, size_t len)
{
	struct model_chat_message messages[MESSAGES_MAX];
	char *end = text + len;
	size_t count = 0;

	while (text < end) {
		char *stop = memchr(text, '\x1f', (size_t)(end - text));

		stop = stop ? stop : end;
		assert_in_range(count, 0, MESSAGES_MAX - 1);
		messages[count++] = (struct model_chat_message){ .role = *text == 's' ? 0 : *text == 'u' ? 1 : 2,
			.text = text + 1, .text_bytes = (size_t)(stop - text - 1) };
		text = stop + 1;
	}
	return model_chat_tokenize(tokenizer, scratch, messages, count, ids, IDS_MAX);
}

static bool has_control(const char *text, size_t len)
{
	size_t i;

	for (i = 0; i < len; i++)
		if ((unsigned char)text[i] < ' ' && !strchr("\n\r\t", text[i]))
			return true;
	return false;
}

/* Runs all lines of a golden file; a section's tokenizer comes from `begin`. lossy: the vocabulary lacks tokens for
 * some control characters, and texts that have them need not come back. */
static void golden(const char *path, struct model_tokenizer *(*begin)(const char *section), bool lossy)
{
	static uint32_t wanted[IDS_MAX];
	size_t size, lines = 0;
	char *bytes = read_file(path, &size), *line = bytes, section[64] = "", *end;
	struct model_tokenizer *tokenizer = NULL;

	while (*line) {
		char *text = line;
		size_t len, count;
		int64_t got;

		if (*line == '#' || (*line == '@' && sscanf(line, "@ %63s", section) == 1)) {
			if (*line == '@') {
				model_tokenizer_destroy(tokenizer);
				tokenizer = begin(section);
			}
			line = strchr(line, '\n') + 1;
			continue;
		}
		len = read_text(line, &end);
		line = end;
		count = read_ids(&line, wanted);
		if (strcmp(section, "chat") == 0) {
			got = tokenize_chat(tokenizer, text, len);
		} else {
			bool special = strcmp(section, "special") == 0;

			got = model_tokenize(tokenizer, scratch, text, len, special ? MODEL_TOKEN_PARSE_SPECIAL : 0, ids, IDS_MAX);
			if (!lossy || !has_control(text, len))
				comes_back(tokenizer, text, len, got, special);
		}
		compare(section, text, len, got, wanted, count);
		lines++;
	}
	assert_in_range(lines, 60, 1000);
	model_tokenizer_destroy(tokenizer);
	free(bytes);
}

/* ---- pieces ------------------------------------------------------------------------------------ */

struct pieces { size_t count; uint32_t bytes[IDS_MAX]; };

static void add_piece(void *context, const char *text, size_t at, size_t end)
{
	struct pieces *pieces = context;

	(void)text;
	pieces->bytes[pieces->count++] = (uint32_t)(end - at);
}

static void test_pre_tokenizers(void **state)
{
	static uint32_t wanted[IDS_MAX];
	static struct pieces pieces;
	size_t size, lines = 0, i;
	char *bytes = read_file("tests/golden/token_split.txt", &size), *line = bytes, name[64] = "";
	const struct model_token_split *split = NULL;

	(void)state;
	while (*line) {
		char *text = line;
		size_t len, count;

		if (*line == '#' || (*line == '@' && sscanf(line, "@ %63s", name) == 1)) {
			split = model_token_split_find((struct model_text){ .bytes = name, .len = strlen(name) });
			line = strchr(line, '\n') + 1;
			continue;
		}
		assert_non_null(split);
		len = read_text(line, &line);
		count = read_ids(&line, wanted);
		pieces.count = 0;
		model_token_split_walk(split->stages, text, 0, len, add_piece, &pieces);
		for (i = 0; i < count && i < pieces.count; i++)
			if (pieces.bytes[i] != wanted[i])
				fail_msg("%s: '%.*s': piece %zu has %u bytes, not %u", name, (int)len, text, i, pieces.bytes[i], wanted[i]);
		assert_int_equal(pieces.count, count);
		lines++;
	}
	assert_in_range(lines, 300, 1000);
	free(bytes);
}

static char smollm2_path[1024];

static struct model_tokenizer *smollm2(const char *section)
{
	(void)section;
	return load(smollm2_path);
}

static void test_smollm2(void **state)
{
	static const char name[] = "SmolLM2-135M-Instruct.Q4_1.gguf";
	const char *given = getenv("ATTND_SMOLLM2"), *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");

	(void)state;
	if (given)
		snprintf(smollm2_path, sizeof(smollm2_path), "%s", given);
	else if (cache)
		snprintf(smollm2_path, sizeof(smollm2_path), "%s/attnd/%s", cache, name);
	else
		snprintf(smollm2_path, sizeof(smollm2_path), "%s/.cache/attnd/%s", home ? home : "", name);
	if (access(smollm2_path, R_OK) != 0) {
		print_message("# skip: no %s (ATTND_SMOLLM2 names the file)\n", smollm2_path);
		skip();
	}
	golden("tests/golden/token_smollm2.txt", smollm2, true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_vocabulary_llama_spm),
		cmocka_unit_test(test_vocabulary_phi_3),
		cmocka_unit_test(test_vocabulary_gpt_2),
		cmocka_unit_test(test_pre_tokenizers),
		cmocka_unit_test(test_smollm2),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
