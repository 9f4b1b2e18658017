/*
 * A trained model against an independent implementation: stories260K, converted by attnquant from llama2.c's checkpoint,
 * must write the 200 greedy tokens that llama2.c writes, and give its logits within 1e-3.
 *
 * The reference lies in the optional test data; without it the test is skipped.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/model_sample.h"
#include "tests/kernels/model_rig.h"

enum { VOCAB = 512, LOGIT_ROWS = 64, GREEDY = 200, BOS = 1 };

/* Converts the checkpoint; the tokenizer is read from the named file of the data. */
static const char *convert(const char *tokenizer, const char *type, const char *name)
{
	char checkpoint[4096], tokenizer_path[4096];
	const char *out = model_rig_path(name);

	snprintf(checkpoint, sizeof(checkpoint), "%s", model_rig_data("models/stories260K/stories260K.bin"));
	snprintf(tokenizer_path, sizeof(tokenizer_path), "%s", model_rig_data(tokenizer));
	assert_int_equal(model_rig_attnquant("convert", checkpoint, "--tokenizer", tokenizer_path, "-o", out, "--type",
		type, NULL), 0);
	return out;
}

static void need_data(void)
{
	if (!model_rig_data("models/stories260K/stories260K.bin") || !model_rig_data("data/golden/g260_greedy_64.txt")) {
		print_message("# skip: stories260K and its goldens are not in ATTND_DATA\n");
		skip();
	}
}

static char *read_text(const char *name)
{
	const char *path = model_rig_data(name);
	FILE *file = path ? fopen(path, "r") : NULL;
	char *text = calloc(1, 4096);

	assert_non_null(file);
	assert_non_null(text);
	assert_true(fread(text, 1, 4095, file) > 0);
	fclose(file);
	return text;
}

/* Greedy tokens from the begin token on; returns how many came before the end token. */
static uint32_t generate(struct model_rig *rig, uint32_t *tokens, uint32_t count)
{
	float logits[VOCAB];
	uint32_t token = BOS;

	for (uint32_t i = 0; i < count; i++) {
		model_rig_step(rig, &token, 1, true, logits);
		token = model_argmax(logits, VOCAB);
		if (token == BOS)
			return i;
		tokens[i] = token;
	}
	return count;
}

static void test_200_greedy_tokens(void **state)
{
	struct model_rig rig;
	uint32_t tokens[GREEDY], count;
	char text[4096] = "", *golden;
	int64_t bytes;
	size_t bad;

	(void)state;
	need_data();
	model_rig_open(&rig, convert("models/stories260K/tok512.bin", "F32", "bin.gguf"), KERN_KV_F32, 0);
	assert_non_null(model_tokenizer(rig.model));
	count = generate(&rig, tokens, GREEDY);
	bytes = model_detokenize(model_tokenizer(rig.model), tokens, count, true, false, text, sizeof(text) - 1, &bad);
	assert_true(bytes > 0 && bytes < (int64_t)sizeof(text));
	golden = read_text("data/golden/stories260K_greedy200.txt");
	golden[strlen(golden) - 1] = '\0'; /* the newline that a program prints at its end */
	assert_int_equal(count, GREEDY);
	assert_string_equal(text, golden);
	free(golden);
	model_rig_close(&rig);
}

/* Both tokenizers of the model give the same file. */
static void test_tokenizers_agree(void **state)
{
	const char *paths[2];
	char *bytes[2];
	size_t sizes[2];

	(void)state;
	need_data();
	paths[0] = convert("models/stories260K/tok512.bin", "F16", "a.gguf");
	paths[1] = convert("models/stories260K/tok512.model", "F16", "b.gguf");
	for (int i = 0; i < 2; i++) {
		FILE *file = fopen(paths[i], "rb");

		assert_non_null(file);
		bytes[i] = calloc(1, 4 << 20);
		assert_non_null(bytes[i]);
		sizes[i] = fread(bytes[i], 1, 4 << 20, file);
		fclose(file);
	}
	assert_true(sizes[0] > 500000);
	assert_int_equal(sizes[0], sizes[1]);
	assert_memory_equal(bytes[0], bytes[1], sizes[0]);
	free(bytes[0]);
	free(bytes[1]);
}

/* Lines "step token_in next_token max_logit". */
static void read_greedy(uint32_t *tokens, uint32_t *next, float *best)
{
	FILE *file = fopen(model_rig_data("data/golden/g260_greedy_64.txt"), "r");

	assert_non_null(file);
	for (uint32_t i = 0; i < LOGIT_ROWS; i++) {
		uint32_t step;

		assert_int_equal(fscanf(file, "%u %u %u %f", &step, &tokens[i], &next[i], &best[i]), 4);
		assert_int_equal(step, i);
	}
	fclose(file);
}

static void read_logits(float *logits)
{
	FILE *file = fopen(model_rig_data("data/golden/g260_logits_64x512_f32.bin"), "rb");

	assert_non_null(file);
	assert_int_equal(fread(logits, sizeof(float) * VOCAB, LOGIT_ROWS, file), LOGIT_ROWS);
	fclose(file);
}

static double largest_difference(const float *a, const float *b, size_t count)
{
	double largest = 0;

	for (size_t i = 0; i < count; i++)
		largest = fmax(largest, fabs((double)a[i] - (double)b[i]));
	return largest;
}

/* One token at a time, all 64 at once, and in uneven pieces: all within 1e-3 of the golden logits, and equal among
 * themselves. */
static void test_logits(void **state)
{
	static float golden[LOGIT_ROWS * VOCAB], single[LOGIT_ROWS * VOCAB], other[LOGIT_ROWS * VOCAB];
	uint32_t tokens[LOGIT_ROWS], next[LOGIT_ROWS];
	float best[LOGIT_ROWS];
	struct model_rig rig;
	double difference;

	(void)state;
	need_data();
	read_greedy(tokens, next, best);
	read_logits(golden);
	model_rig_open(&rig, convert("models/stories260K/tok512.model", "F32", "logits.gguf"), KERN_KV_F32, 0);
	for (uint32_t i = 0; i < LOGIT_ROWS; i++) {
		model_rig_step(&rig, &tokens[i], 1, true, single + (size_t)i * VOCAB);
		assert_int_equal(model_argmax(single + (size_t)i * VOCAB, VOCAB), next[i]);
		assert_true(fabsf(single[(size_t)i * VOCAB + next[i]] - best[i]) < 1e-3f);
	}
	difference = largest_difference(single, golden, LOGIT_ROWS * VOCAB);
	print_message("# stories260K: largest difference of a logit %.2g\n", difference);
	assert_true(difference < 1e-3);
	model_rig_restart(&rig);
	model_rig_step(&rig, tokens, LOGIT_ROWS, false, other);
	assert_memory_equal(single, other, sizeof(single));
	model_rig_restart(&rig);
	model_rig_step(&rig, tokens, 5, false, other);
	model_rig_step(&rig, tokens + 5, 1, false, other + 5 * VOCAB);
	model_rig_step(&rig, tokens + 6, 33, false, other + 6 * VOCAB);
	model_rig_step(&rig, tokens + 39, 25, false, other + 39 * VOCAB);
	assert_memory_equal(single, other, sizeof(single));
	model_rig_close(&rig);
}

/* Weights of 8 bits and a cache of 16 or 8 bits stay near: this is a check of plumbing, the accuracy of formats has
 * tests of its own. */
static void test_quantized_stays_near(void **state)
{
	static const enum kern_kv formats[] = { KERN_KV_F32, KERN_KV_BF16, KERN_KV_INT8 };
	static float golden[LOGIT_ROWS * VOCAB], logits[LOGIT_ROWS * VOCAB];
	uint32_t tokens[LOGIT_ROWS], next[LOGIT_ROWS];
	float best[LOGIT_ROWS];
	const char *path;

	(void)state;
	need_data();
	read_greedy(tokens, next, best);
	read_logits(golden);
	path = convert("models/stories260K/tok512.model", "Q8_0", "q8.gguf");
	for (int i = 0; i < 3; i++) {
		struct model_rig rig;
		double difference;

		model_rig_open(&rig, path, formats[i], 0);
		model_rig_step(&rig, tokens, LOGIT_ROWS, false, logits);
		difference = largest_difference(logits, golden, LOGIT_ROWS * VOCAB);
		print_message("# Q8_0 weights, KV format %d: largest difference of a logit %.2g\n", (int)formats[i], difference);
		assert_true(difference > 1e-4 && difference < 1.5);
		model_rig_close(&rig);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_200_greedy_tokens),
		cmocka_unit_test(test_tokenizers_agree),
		cmocka_unit_test(test_logits),
		cmocka_unit_test(test_quantized_stays_near),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
