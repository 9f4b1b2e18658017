/*
 * Bad vocabularies: each is refused with its own message. Vocabularies that are odd but sound are taken. A hostile one
 * costs time and memory in proportion to its size.
 */
#include "model/model_token.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base_error.h"
#include "tests/unit/token_build.h"

static struct token_build *begin(const char *kind)
{
	struct token_build *build = token_build_new(kind, kind && strcmp(kind, "gpt2") == 0 ? "gpt-2" : NULL);

	token_build_bytes(build);
	return build;
}

/* Creation fails with this code and a message that holds `part`; frees the build. */
static void refused_counts(struct token_build *build, struct token_build_counts more, int code, const char *part)
{
	struct model_tokenizer *tokenizer = NULL;

	base_error_clear();
	assert_int_equal(token_build_make_counts(build, more, &tokenizer), code);
	assert_null(tokenizer);
	if (!strstr(base_error_message(), part))
		fail_msg("message '%s' does not speak of '%s'", base_error_message(), part);
	token_build_free(build);
}

static void refused(struct token_build *build, int code, const char *part)
{
	refused_counts(build, (struct token_build_counts){ 0, 0 }, code, part);
}

static void taken(struct token_build *build)
{
	struct model_tokenizer *tokenizer;

	if (token_build_make(build, &tokenizer) < 0)
		fail_msg("refused: %s", base_error_message());
	model_tokenizer_destroy(tokenizer);
	token_build_free(build);
}

static void test_kinds(void **state)
{
	struct token_build *build;

	(void)state;
	refused(token_build_new(NULL, NULL), -ENOENT, "no tokenizer");
	refused(token_build_new("bert", NULL), -ENOTSUP, "'bert'");
	refused(token_build_new("gpt2", "martian"), -ENOTSUP, "'martian'");
	refused(token_build_new("gpt2", "gpt-2"), -EBADMSG, "tokenizer.ggml.tokens");
	refused(token_build_new("gpt2", "gpt-2x"), -ENOTSUP, "'gpt-2x'");
	build = token_build_new(NULL, NULL);
	token_build_u32(build, "tokenizer.ggml.model", 7);
	refused(build, -EBADMSG, "tokenizer.ggml.model");
	/* Without a pre-tokenizer's name it is the default one. */
	build = token_build_new("gpt2", NULL);
	token_build_bytes(build);
	taken(build);
}

static void test_counts_that_differ(void **state)
{
	(void)state;
	refused_counts(begin("llama"), (struct token_build_counts){ .types = -1 }, -EBADMSG, "token_type");
	refused_counts(begin("llama"), (struct token_build_counts){ .types = 1 }, -EBADMSG, "token_type");
	refused_counts(begin("llama"), (struct token_build_counts){ .scores = -1 }, -EBADMSG, "scores");
	refused_counts(begin("llama"), (struct token_build_counts){ .scores = 1 }, -EBADMSG, "scores");
}

static void test_tokens(void **state)
{
	static char longest[2000];
	struct token_build *build = begin("llama");

	(void)state;
	token_build_add(build, "twice", 5, TOKEN_NORMAL, 0);
	token_build_add(build, "twice", 5, TOKEN_CONTROL, 0);
	refused(build, -EBADMSG, "tokens 256 and 257 have the same text");

	memset(longest, 'a', sizeof(longest));
	build = begin("llama");
	token_build_add(build, longest, 1025, TOKEN_NORMAL, 0);
	refused(build, -EBADMSG, "1025 bytes");
	build = begin("gpt2");
	token_build_add(build, longest, 1024, TOKEN_NORMAL, 0);
	taken(build);

	build = begin("llama");
	token_build_add(build, "a", 1, 77, 0);
	refused(build, -EBADMSG, "type 77");
	build = begin("llama");
	token_build_add(build, "a", 1, -1, 0);
	refused(build, -EBADMSG, "type -1");
	build = begin("llama");
	token_build_add(build, "<0xQQ>", 6, TOKEN_BYTE, 0);
	refused(build, -EBADMSG, "byte");
	build = begin("llama");
	token_build_add(build, "a", 1, TOKEN_NORMAL, NAN);
	refused(build, -EBADMSG, "scores");

	/* Padding. */
	build = begin("llama");
	token_build_add(build, "", 0, TOKEN_NORMAL, 0);
	token_build_add(build, "", 0, TOKEN_CONTROL, 0);
	token_build_add(build, "\xff\xfe", 2, TOKEN_USER, 0);
	taken(build);
}

static void test_merges(void **state)
{
	static const struct { const char *merge, *part; } bad[] = {
		{ "a zz", "a right token" }, { "zz a", "a left token" }, { "a b", "together" }, { "ab", "a space between" },
		{ "a", "a space between" }, { "", "a space between" }, { " a", "a space between" }, { "a ", "a space between" },
		{ "a b c", "a right token" },
	};
	static char longest[4000];
	struct token_build *build;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		build = begin("gpt2");
		token_build_merge(build, bad[i].merge);
		refused(build, -EBADMSG, bad[i].part);
	}
	memset(longest, 'a', sizeof(longest) - 1);
	longest[1500] = ' ';
	build = begin("gpt2");
	token_build_merge(build, longest);
	refused(build, -EBADMSG, "3999 bytes");
	/* Said twice, it counts once. */
	build = begin("gpt2");
	token_build_join(build, "a", "b");
	token_build_merge(build, "a b");
	taken(build);
}

static void test_special_ids(void **state)
{
	static const char *const keys[] = { "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
		"tokenizer.ggml.unknown_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id" };
	struct token_build *build;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
		build = begin("gpt2");
		token_build_u32(build, keys[i], build->tokens);
		refused(build, -EBADMSG, keys[i]);
		build = begin("gpt2");
		token_build_u32(build, keys[i], UINT32_MAX);
		refused(build, -EBADMSG, keys[i]);
	}
	build = begin("gpt2");
	token_build_bool(build, "tokenizer.ggml.add_bos_token", true);
	refused(build, -EBADMSG, "bos_token_id");
	build = begin("gpt2");
	token_build_bool(build, "tokenizer.ggml.add_eos_token", true);
	refused(build, -EBADMSG, "eos_token_id");
	build = begin("gpt2");
	token_build_u32(build, "tokenizer.ggml.add_bos_token", 1);
	refused(build, -EBADMSG, "add_bos_token");
}

/* A token of ordinary text may end a text; it stays text. */
static void test_an_ordinary_token_as_end(void **state)
{
	struct token_build *build = begin("gpt2");
	struct model_tokenizer *tokenizer;
	char byte;
	size_t bad;
	uint32_t id = 10;

	(void)state;
	token_build_u32(build, "tokenizer.ggml.eos_token_id", id);
	assert_int_equal(token_build_make(build, &tokenizer), 0);
	assert_true(model_tokenizer_is_end(tokenizer, id));
	assert_int_equal(model_detokenize(tokenizer, &id, 1, true, false, &byte, 1, &bad), 1);
	assert_int_equal(byte, '\n');
	model_tokenizer_destroy(tokenizer);
	token_build_free(build);
}

/* Every prefix of a long token is a token: as many cuts as can be. */
static void test_a_chain_of_tokens(void **state)
{
	static char text[400];
	struct token_build *build = begin("llama");
	struct model_token_scratch *scratch;
	struct model_tokenizer *tokenizer;
	static uint32_t ids[1000];
	static char many[300];
	size_t i;

	(void)state;
	memset(text, 'a', sizeof(text));
	memset(many, 'a', sizeof(many));
	for (i = 1; i <= 250; i++)
		token_build_add(build, text, i, TOKEN_NORMAL, (float)i);
	token_build_bool(build, "tokenizer.ggml.add_space_prefix", false);
	assert_int_equal(token_build_make(build, &tokenizer), 0);
	assert_int_equal(model_token_scratch_create(&scratch, 1000), 0);
	assert_int_equal(model_tokenize(tokenizer, scratch, many, sizeof(many), 0, ids, 1000), 2);
	assert_int_equal(ids[0], 256 + 249);
	assert_int_equal(ids[1], 256 + 49);
	model_token_scratch_destroy(scratch);
	model_tokenizer_destroy(tokenizer);
	token_build_free(build);
	/* Many more of them than there could be in earnest. */
	build = begin("llama");
	for (i = 1; i <= 400; i++)
		token_build_add(build, text, i, TOKEN_NORMAL, 0);
	refused(build, -EBADMSG, "ways");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_kinds),
		cmocka_unit_test(test_counts_that_differ),
		cmocka_unit_test(test_tokens),
		cmocka_unit_test(test_merges),
		cmocka_unit_test(test_special_ids),
		cmocka_unit_test(test_an_ordinary_token_as_end),
		cmocka_unit_test(test_a_chain_of_tokens),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
