/*
 * UTF-8 and the classes of code points that texts are split by.
 */
#include "model/model_unicode.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>

#include <cmocka.h>

static void test_every_code_point_comes_back(void **state)
{
	uint32_t code;

	(void)state;
	for (code = 0; code < MODEL_UNICODE_BYTE; code++) {
		bool surrogate = code >= 0xd800 && code < 0xe000;
		char text[4];
		size_t len = model_unicode_encode(code, text), taken, cut;

		assert_int_equal(model_unicode_decode(text, len, &taken), surrogate ? MODEL_UNICODE_BYTE + 0xed : code);
		assert_int_equal(taken, surrogate ? 1 : len);
		/* Cut short, the first byte stands for itself. */
		for (cut = 1; cut < len; cut++) {
			assert_int_equal(model_unicode_decode(text, cut, &taken), MODEL_UNICODE_BYTE + (unsigned char)text[0]);
			assert_int_equal(taken, 1);
		}
	}
}

static void test_invalid_bytes_stand_for_themselves(void **state)
{
	static const char *const invalid[] = { "\x80", "\xbf", "\xc0\x80", "\xc1\xbf", "\xc3(", "\xe0\x9f\xbf", "\xe4\xb8(",
		"\xed\xa0\x80", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff\xff\xff\xff", "\xf0\x9f\xa6(" };
	size_t i, taken;

	(void)state;
	for (i = 0; i < sizeof(invalid) / sizeof(invalid[0]); i++) {
		unsigned char first = (unsigned char)invalid[i][0];
		char back[4];

		assert_int_equal(model_unicode_decode(invalid[i], strlen(invalid[i]), &taken), MODEL_UNICODE_BYTE + first);
		assert_int_equal(taken, 1);
		assert_int_equal(model_unicode_encode(MODEL_UNICODE_BYTE + first, back), 1);
		assert_int_equal((unsigned char)back[0], first);
	}
}

static void test_classes(void **state)
{
	static const struct { uint32_t code; enum model_unicode_class class; } known[] = {
		{ 'a', MODEL_UNICODE_LETTER }, { 'Z', MODEL_UNICODE_LETTER }, { '0', MODEL_UNICODE_NUMBER },
		{ ' ', MODEL_UNICODE_SPACE }, { '\n', MODEL_UNICODE_SPACE }, { '!', MODEL_UNICODE_PUNCTUATION },
		{ '$', MODEL_UNICODE_OTHER }, { 0, MODEL_UNICODE_OTHER }, { 0x1f, MODEL_UNICODE_OTHER },
		{ 0x85, MODEL_UNICODE_SPACE }, { 0xa0, MODEL_UNICODE_SPACE }, { 0xb2, MODEL_UNICODE_NUMBER },
		{ 0xbd, MODEL_UNICODE_NUMBER }, { 0xe9, MODEL_UNICODE_LETTER }, { 0x301, MODEL_UNICODE_OTHER },
		{ 0x660, MODEL_UNICODE_NUMBER }, { 0x200b, MODEL_UNICODE_OTHER }, { 0x2028, MODEL_UNICODE_SPACE },
		{ 0x201c, MODEL_UNICODE_PUNCTUATION }, { 0x2160, MODEL_UNICODE_NUMBER }, { 0x3000, MODEL_UNICODE_SPACE },
		{ 0x4e2d, MODEL_UNICODE_LETTER }, { 0x4e00, MODEL_UNICODE_LETTER }, { 0x9fff, MODEL_UNICODE_LETTER },
		{ 0xac00, MODEL_UNICODE_LETTER }, { 0xff11, MODEL_UNICODE_NUMBER }, { 0x1f999, MODEL_UNICODE_OTHER },
		{ 0x10400, MODEL_UNICODE_LETTER }, { 0x20000, MODEL_UNICODE_LETTER }, { 0x10ffff, MODEL_UNICODE_OTHER },
		{ MODEL_UNICODE_BYTE + 0xff, MODEL_UNICODE_OTHER }, { UINT32_MAX, MODEL_UNICODE_OTHER },
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (model_unicode_class(known[i].code) != known[i].class)
			fail_msg("U+%04X is of class %d, not %d", known[i].code, model_unicode_class(known[i].code), known[i].class);
}

/* How many there are of each, counted from Unicode 16.0's own list. */
static void test_class_sizes(void **state)
{
	uint32_t counts[5] = { 0 }, code;

	(void)state;
	for (code = 0; code < MODEL_UNICODE_BYTE; code++)
		counts[model_unicode_class(code)]++;
	assert_int_equal(counts[MODEL_UNICODE_LETTER], 141028);
	assert_int_equal(counts[MODEL_UNICODE_NUMBER], 1911);
	assert_int_equal(counts[MODEL_UNICODE_SPACE], 25);
	assert_int_equal(counts[MODEL_UNICODE_PUNCTUATION], 855);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_code_point_comes_back),
		cmocka_unit_test(test_invalid_bytes_stand_for_themselves),
		cmocka_unit_test(test_classes),
		cmocka_unit_test(test_class_sizes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
