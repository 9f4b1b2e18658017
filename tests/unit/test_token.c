/*
 * Tokenizers on small vocabularies: which merge wins, special tokens, flags, limits, round trips, worst cases.
 */
#include "model/model_token.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base_rand.h"
#include "tests/unit/token_build.h"

enum { TEXT_MAX = 1 << 20, IDS_MAX = TEXT_MAX + 16 };

static struct model_tokenizer *spm, *bpe;
static struct model_token_scratch *scratch;
static uint32_t ids[IDS_MAX];
static char shown[4 * TEXT_MAX];

static int set_up(void **state)
{
	(void)state;
	spm = token_build_spm();
	bpe = token_build_bpe("gpt-2");
	return spm && bpe && model_token_scratch_create(&scratch, TEXT_MAX) == 0 ? 0 : -1;
}

static int tear_down(void **state)
{
	(void)state;
	model_token_scratch_destroy(scratch);
	model_tokenizer_destroy(bpe);
	model_tokenizer_destroy(spm);
	return 0;
}

/* The text's tokens, each as it is shown, with | behind it. */
static const char *pieces(const struct model_tokenizer *tokenizer, const char *text, uint32_t flags)
{
	static char list[4096];
	int64_t count = model_tokenize(tokenizer, scratch, text, strlen(text), flags, ids, IDS_MAX), i;
	size_t used = 0, bad;

	for (i = 0; i < count; i++) {
		used += (size_t)model_detokenize(tokenizer, &ids[i], 1, false, true, list + used, sizeof(list) - used, &bad);
		list[used++] = '|';
	}
	list[used] = '\0';
	return list;
}

/* ---- merges -------------------------------------------------------------------------------------- */

static void test_spm_highest_score_first(void **state)
{
	(void)state;
	assert_string_equal(pieces(spm, "hello", 0), " hello|");
	assert_string_equal(pieces(spm, "abc", 0), " |abc|");
	/* bc scores above ab, and then nothing is left for a. */
	assert_string_equal(pieces(spm, "abcb", 0), " |abc|b|");
	assert_string_equal(pieces(spm, "abb", 0), " |ab|b|");
	/* Of equals the leftmost. */
	assert_string_equal(pieces(spm, "aaa", 0), " |aa|a|");
	assert_string_equal(pieces(spm, "hell", 0), " |he|ll|");
	assert_string_equal(pieces(spm, "uvw", 0), " |uv|w|");
}

/* x and y are no tokens, but xy is. */
static void test_spm_parts_that_are_no_tokens(void **state)
{
	(void)state;
	assert_string_equal(pieces(spm, "xy", 0), " |xy|");
	assert_string_equal(pieces(spm, "xxy", 0), " |x|xy|");
	assert_int_equal(ids[1], 3 + 'x');
}

static void test_spm_falls_back_to_bytes(void **state)
{
	(void)state;
	assert_int_equal(model_tokenize(spm, scratch, "é\xe4\xb8\xad\xff", 6, 0, ids, IDS_MAX), 6);
	assert_int_equal(ids[2], 3 + 0xe4);
	assert_int_equal(ids[3], 3 + 0xb8);
	assert_int_equal(ids[4], 3 + 0xad);
	assert_int_equal(ids[5], 3 + 0xff);
}

/* Ordinary text becomes neither a control token nor a byte token by merging, however high these score. */
static void test_spm_merges_make_no_control_token(void **state)
{
	(void)state;
	assert_string_equal(pieces(spm, "<s>", 0), " |<|s>|");
	assert_string_equal(pieces(spm, "<0x61>", 0), " |<|0|x|6|1|>|");
	assert_int_equal(ids[1], 3 + '<');
	assert_string_equal(pieces(spm, "z", 0), " |z|");
	assert_int_equal(ids[1], 3 + 'z');
}

static void test_bpe_lowest_rank_first(void **state)
{
	(void)state;
	assert_string_equal(pieces(bpe, "hello hello", 0), "hello| hello|");
	assert_string_equal(pieces(bpe, "hell", 0), "he|ll|");
	assert_string_equal(pieces(bpe, "aaa", 0), "aa|a|");
	assert_string_equal(pieces(bpe, "é", 0), "é|");
	assert_string_equal(pieces(bpe, "12 12", 0), "12| |12|");
}

static void test_pre_tokenizers_differ(void **state)
{
	struct model_tokenizer *digits = token_build_bpe("smollm"), *llama = token_build_bpe("llama-bpe");

	(void)state;
	assert_non_null(digits);
	assert_non_null(llama);
	assert_string_equal(pieces(bpe, "a12", 0), "a|12|");
	assert_string_equal(pieces(digits, "a12", 0), "a|1|2|");
	assert_string_equal(pieces(bpe, "aa\n  hello", 0), "aa|\n| | hello|");
	assert_string_equal(pieces(llama, "\t\nhello", 0), "\t|\n|hello|");
	/* A word that is a token as it stands is not merged from its parts. */
	assert_string_equal(pieces(bpe, "q qrs qrst", 0), "q| |q|r|s| |q|r|s|t|");
	assert_string_equal(pieces(llama, "q qrs qrst", 0), "q| qrs| |q|r|s|t|");
	model_tokenizer_destroy(digits);
	model_tokenizer_destroy(llama);
}

/* They are left out, and what stands around them is together. */
static void test_bpe_bytes_without_token(void **state)
{
	struct token_build *build = token_build_new("gpt2", "gpt-2");
	struct model_tokenizer *few;

	(void)state;
	token_build_add(build, "a", 1, TOKEN_NORMAL, 0);
	token_build_add(build, "b", 1, TOKEN_NORMAL, 0);
	token_build_join(build, "a", "b");
	assert_int_equal(token_build_make(build, &few), 0);
	assert_string_equal(pieces(few, "axb", 0), "ab|");
	assert_string_equal(pieces(few, "xyz a\xff", 0), "a|");
	assert_string_equal(pieces(few, "...", 0), "");
	model_tokenizer_destroy(few);
	token_build_free(build);
}

/* One unknown token for each character that has no bytes. */
static void test_spm_bytes_without_token(void **state)
{
	struct token_build *build = token_build_new("llama", NULL);
	struct model_tokenizer *few;

	(void)state;
	token_build_add(build, "<unk>", 5, TOKEN_UNKNOWN, 0);
	token_build_add(build, "▁", 3, TOKEN_NORMAL, 0);
	token_build_add(build, "a", 1, TOKEN_NORMAL, 0);
	token_build_u32(build, "tokenizer.ggml.unknown_token_id", 0);
	assert_int_equal(token_build_make(build, &few), 0);
	assert_string_equal(pieces(few, "a中b", 0), " |a|<unk>|<unk>|");
	model_tokenizer_destroy(few);
	token_build_free(build);
}

/* ---- special tokens --------------------------------------------------------------------------------- */

static void test_special_tokens_only_when_asked(void **state)
{
	(void)state;
	assert_int_equal(model_tokenize(bpe, scratch, "<|im_end|>", 10, 0, ids, IDS_MAX), 10);
	assert_int_equal(model_tokenize(bpe, scratch, "<|im_end|>", 10, MODEL_TOKEN_PARSE_SPECIAL, ids, IDS_MAX), 1);
	assert_true(model_tokenizer_is_end(bpe, ids[0]));
	assert_string_equal(pieces(bpe, "a<|im_end|>b<|im_end|", MODEL_TOKEN_PARSE_SPECIAL),
		"a|<|im_end|>|b|<|||i|m|_|e|n|d|||");
	assert_string_equal(pieces(spm, "a<s>b", MODEL_TOKEN_PARSE_SPECIAL), " |a|<s>| |b|");
	assert_string_equal(pieces(spm, "</s>", MODEL_TOKEN_PARSE_SPECIAL), "</s>|");
}

static void test_longest_special_token_wins(void **state)
{
	(void)state;
	assert_string_equal(pieces(bpe, "<|im_end|>x<|im_end|>y", MODEL_TOKEN_PARSE_SPECIAL), "<|im_end|>x|<|im_end|>|y|");
}

/* They are text: found at any time, shown, and no space comes behind them. */
static void test_user_defined_tokens(void **state)
{
	(void)state;
	assert_string_equal(pieces(bpe, "a<tool>b", 0), "a|<tool>|b|");
	assert_string_equal(pieces(spm, "a<user>b", 0), " |a|<user>|b|");
	assert_string_equal(pieces(spm, "<user>b", 0), "<user>|b|");
}

static void test_bos_and_eos(void **state)
{
	struct token_build *build = token_build_new("gpt2", "gpt-2");
	struct model_tokenizer *both;

	(void)state;
	assert_int_equal(model_tokenizer_bos(spm), 1);
	assert_int_equal(model_tokenizer_eos(spm), 2);
	assert_int_equal(model_tokenizer_bos(bpe), MODEL_TOKEN_NONE);
	assert_string_equal(pieces(spm, "ab", MODEL_TOKEN_ADD_SPECIAL), "<s>| |ab|");
	assert_string_equal(pieces(spm, "", MODEL_TOKEN_ADD_SPECIAL), "<s>|");
	assert_string_equal(pieces(spm, "", 0), "");
	assert_string_equal(pieces(bpe, "ll", MODEL_TOKEN_ADD_SPECIAL), "ll|");
	token_build_bytes(build);
	token_build_u32(build, "tokenizer.ggml.bos_token_id", token_build_add(build, "<b>", 3, TOKEN_CONTROL, 0));
	token_build_u32(build, "tokenizer.ggml.eos_token_id", token_build_add(build, "<e>", 3, TOKEN_NORMAL, 0));
	token_build_bool(build, "tokenizer.ggml.add_bos_token", true);
	token_build_bool(build, "tokenizer.ggml.add_eos_token", true);
	assert_int_equal(token_build_make(build, &both), 0);
	assert_string_equal(pieces(both, "a", MODEL_TOKEN_ADD_SPECIAL), "<b>|a|<e>|");
	assert_string_equal(pieces(both, "a", 0), "a|");
	assert_true(model_tokenizer_is_end(both, 257));
	assert_false(model_tokenizer_is_end(both, 256));
	assert_false(model_tokenizer_is_end(both, 100000));
	model_tokenizer_destroy(both);
	token_build_free(build);
}

static void test_no_space_before_when_the_file_says_so(void **state)
{
	struct token_build *build = token_build_new("llama", NULL);
	struct model_tokenizer *plain;
	size_t bad;

	(void)state;
	token_build_bytes(build);
	token_build_add(build, "▁", 3, TOKEN_NORMAL, -1);
	token_build_add(build, "a", 1, TOKEN_NORMAL, -2);
	token_build_bool(build, "tokenizer.ggml.add_space_prefix", false);
	assert_int_equal(token_build_make(build, &plain), 0);
	assert_string_equal(pieces(plain, "a", 0), "a|");
	assert_string_equal(pieces(plain, " a", 0), " |a|");
	/* Nothing was put before it, so nothing is taken away. */
	assert_int_equal(model_detokenize(plain, ids, 2, true, false, shown, sizeof(shown), &bad), 2);
	model_tokenizer_destroy(plain);
	token_build_free(build);
}

/* ---- limits ------------------------------------------------------------------------------------------- */

static void test_capacity_too_small(void **state)
{
	(void)state;
	ids[0] = ids[1] = ids[2] = 77777;
	assert_int_equal(model_tokenize(bpe, scratch, "abcdef", 6, 0, ids, 2), 6);
	assert_int_equal(ids[0], 'a');
	assert_int_equal(ids[1], 'b');
	assert_int_equal(ids[2], 77777);
	assert_int_equal(model_tokenize(bpe, scratch, "abcdef", 6, 0, NULL, 0), 6);
}

static void test_text_too_long(void **state)
{
	struct model_token_scratch *small;

	(void)state;
	assert_int_equal(model_token_scratch_create(&small, 8), 0);
	assert_int_equal(model_tokenize(bpe, small, "123456789", 9, 0, ids, IDS_MAX), -E2BIG);
	assert_int_equal(model_tokenize(bpe, small, "13456789", 8, 0, ids, IDS_MAX), 8);
	assert_int_equal(model_tokenize(spm, small, "13456789", 8, MODEL_TOKEN_ADD_SPECIAL, ids, IDS_MAX), 10);
	model_token_scratch_destroy(small);
	assert_int_equal(model_token_scratch_create(&small, (size_t)1 << 40), -EINVAL);
	assert_int_equal(model_token_scratch_create(&small, SIZE_MAX), -EINVAL);
	assert_int_equal(model_token_scratch_create(&small, 0), 0);
	assert_int_equal(model_tokenize(spm, small, NULL, 0, 0, ids, IDS_MAX), 0);
	model_token_scratch_destroy(small);
}

static void test_detokenize_checks_ids(void **state)
{
	uint32_t some[] = { 'a', 'b', model_tokenizer_size(bpe), UINT32_MAX };
	size_t bad = 99;

	(void)state;
	assert_int_equal(model_detokenize(bpe, some, 4, true, true, shown, sizeof(shown), &bad), -EINVAL);
	assert_int_equal(bad, 2);
	assert_int_equal(model_detokenize(bpe, some + 3, 1, true, true, shown, sizeof(shown), &bad), -EINVAL);
	assert_int_equal(bad, 0);
	shown[1] = '#';
	assert_int_equal(model_detokenize(bpe, some, 2, true, true, shown, 1, &bad), 2);
	assert_memory_equal(shown, "a#", 2);
	assert_int_equal(model_detokenize(bpe, NULL, 0, true, true, NULL, 0, &bad), 0);
}

static void test_detokenize_space_and_control(void **state)
{
	int64_t count = model_tokenize(spm, scratch, "hello", 5, MODEL_TOKEN_ADD_SPECIAL, ids, IDS_MAX);
	size_t bad;

	(void)state;
	assert_int_equal(count, 2);
	assert_int_equal(model_detokenize(spm, ids, 2, true, false, shown, sizeof(shown), &bad), 5);
	assert_memory_equal(shown, "hello", 5);
	assert_int_equal(model_detokenize(spm, ids, 2, false, false, shown, sizeof(shown), &bad), 6);
	assert_memory_equal(shown, " hello", 6);
	/* What is shown first is no space then. */
	assert_int_equal(model_detokenize(spm, ids, 2, true, true, shown, sizeof(shown), &bad), 9);
	assert_memory_equal(shown, "<s> hello", 9);
}

/* ---- properties ------------------------------------------------------------------------------------------- */

static const char *const FRAGMENTS[] = {
	"hello", " ", "  ", "\n", "a", "ab", "abc", "12", "é", "中", "🦙", "<s>", "</s", "<user>", "<tool>", "<|im_end|>", "xy", "'ll",
	"\xff", "\xc3", "\xe4\xb8", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xc0\x80", "\r\n", "\t",
};

static size_t random_text(uint64_t *seed, char *text)
{
	size_t len = 0, parts = base_rand_below(seed, 20), i;

	for (i = 0; i < parts; i++) {
		size_t count = sizeof(FRAGMENTS) / sizeof(FRAGMENTS[0]), pick = base_rand_below(seed, count + 1);

		if (pick == count) {
			text[len++] = (char)base_rand_below(seed, 256);
			continue;
		}
		memcpy(text + len, FRAGMENTS[pick], strlen(FRAGMENTS[pick]));
		len += strlen(FRAGMENTS[pick]);
	}
	return len;
}

/* Valid text and any other bytes come back as they were. (Without U+2581, which SentencePiece takes for a space.) */
static void test_round_trip(void **state)
{
	const struct model_tokenizer *both[] = { spm, bpe };
	uint64_t seed = 1;
	char text[512];
	size_t bad;
	int run;

	(void)state;
	for (run = 0; run < 20000; run++) {
		const struct model_tokenizer *tokenizer = both[run % 2];
		size_t len = random_text(&seed, text);
		int64_t count, back;

		if (memmem(text, len, "\xe2\x96\x81", 3))
			continue;
		count = model_tokenize(tokenizer, scratch, text, len, MODEL_TOKEN_ADD_SPECIAL, ids, IDS_MAX);
		assert_in_range(count, 0, IDS_MAX);
		back = model_detokenize(tokenizer, ids, (size_t)count, true, false, shown, sizeof(shown), &bad);
		assert_int_equal(back, len);
		assert_memory_equal(shown, text, len);
	}
}

/* The same ids whatever ran before on the same scratch, on a new one, and with tables keyed anew. */
static void test_results_depend_on_the_text_alone(void **state)
{
	struct model_tokenizer *again = token_build_spm();
	struct model_token_scratch *fresh;
	uint64_t seed = 2;
	static uint32_t others[IDS_MAX];
	char text[512];
	int run;

	(void)state;
	assert_non_null(again);
	for (run = 0; run < 200; run++) {
		size_t len = random_text(&seed, text);
		int64_t count = model_tokenize(spm, scratch, text, len, 0, ids, IDS_MAX);

		assert_int_equal(model_token_scratch_create(&fresh, len), 0);
		assert_int_equal(model_tokenize(again, fresh, text, len, 0, others, IDS_MAX), count);
		assert_memory_equal(ids, others, (size_t)count * sizeof(ids[0]));
		model_token_scratch_destroy(fresh);
	}
	model_tokenizer_destroy(again);
}

/* A mebibyte each; were time quadratic, these would not end within the test's time. */
static void test_worst_cases_end(void **state)
{
	static const char *const patterns[] = { "a", " ", "ab", "hello", "\n", "1", "<", "<user", "é", "\xff", "'", " a", "abcaab" };
	static char text[TEXT_MAX];
	size_t i, at, bad;

	(void)state;
	for (i = 0; i < sizeof(patterns) / sizeof(patterns[0]); i++) {
		int64_t count;

		for (at = 0; at < sizeof(text); at++)
			text[at] = patterns[i][at % strlen(patterns[i])];
		count = model_tokenize(i % 2 ? spm : bpe, scratch, text, sizeof(text), 0, ids, IDS_MAX);
		assert_in_range(count, 1, sizeof(text) + 1);
		count = model_detokenize(i % 2 ? spm : bpe, ids, (size_t)count, true, false, shown, sizeof(shown), &bad);
		assert_int_equal(count, sizeof(text));
		assert_memory_equal(shown, text, sizeof(text));
		count = model_tokenize(i % 2 ? bpe : spm, scratch, text, sizeof(text), MODEL_TOKEN_PARSE_SPECIAL, ids, IDS_MAX);
		assert_in_range(count, 1, sizeof(text) + 1);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_spm_highest_score_first),
		cmocka_unit_test(test_spm_parts_that_are_no_tokens),
		cmocka_unit_test(test_spm_falls_back_to_bytes),
		cmocka_unit_test(test_spm_merges_make_no_control_token),
		cmocka_unit_test(test_bpe_lowest_rank_first),
		cmocka_unit_test(test_bpe_bytes_without_token),
		cmocka_unit_test(test_spm_bytes_without_token),
		cmocka_unit_test(test_pre_tokenizers_differ),
		cmocka_unit_test(test_special_tokens_only_when_asked),
		cmocka_unit_test(test_longest_special_token_wins),
		cmocka_unit_test(test_user_defined_tokens),
		cmocka_unit_test(test_bos_and_eos),
		cmocka_unit_test(test_no_space_before_when_the_file_says_so),
		cmocka_unit_test(test_capacity_too_small),
		cmocka_unit_test(test_text_too_long),
		cmocka_unit_test(test_detokenize_checks_ids),
		cmocka_unit_test(test_detokenize_space_and_control),
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_results_depend_on_the_text_alone),
		cmocka_unit_test(test_worst_cases_end),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
