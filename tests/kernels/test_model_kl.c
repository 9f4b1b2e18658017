/*
 * Models against an independent float64 implementation on the same weights (tests/golden/make-model-golden.py): the tiny
 * models that attnquant makes, for each architecture, and SmolLM2-135M-Instruct where its file is found: in the
 * environment's ATTND_DEMO_MODEL, or where `make run` keeps it.
 *
 * A golden holds the largest logits of each position and the log-sum-exp of all. The KL divergence is taken over these
 * tokens and one class for all others, which can only make it smaller; largest differences of logits stand beside it.
 */
#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/kernels/model_rig.h"

struct golden {
	unsigned char *bytes;
	uint32_t positions, kept;
};

/* One position of a golden, copied out because nothing is aligned there. */
struct position { uint32_t token; float sum; uint16_t ids[256]; float logits[256]; };

static struct golden read_golden(const char *name)
{
	struct golden golden;
	char path[256];
	FILE *file;
	long size;

	snprintf(path, sizeof(path), "tests/golden/%s", name);
	file = fopen(path, "rb");
	if (!file)
		fail_msg("%s is not there; run the tests from the project's root", path);
	fseek(file, 0, SEEK_END);
	size = ftell(file);
	rewind(file);
	golden.bytes = malloc((size_t)size);
	assert_non_null(golden.bytes);
	assert_int_equal(fread(golden.bytes, 1, (size_t)size, file), (size_t)size);
	fclose(file);
	memcpy(&golden.positions, golden.bytes, 4);
	memcpy(&golden.kept, golden.bytes + 4, 4);
	assert_true(golden.kept <= 256);
	assert_int_equal(size, 8 + (long)golden.positions * (8 + 6 * (long)golden.kept));
	return golden;
}

static void golden_at(const struct golden *golden, uint32_t index, struct position *position)
{
	const unsigned char *at = golden->bytes + 8 + (size_t)index * (8 + 6 * (size_t)golden->kept);

	memcpy(&position->token, at, 4);
	memcpy(&position->sum, at + 4, 4);
	memcpy(position->ids, at + 8, 2 * (size_t)golden->kept);
	memcpy(position->logits, at + 8 + 2 * (size_t)golden->kept, 4 * (size_t)golden->kept);
}

static double log_sum_exp(const float *logits, uint32_t vocab)
{
	double largest = -INFINITY, sum = 0;

	for (uint32_t i = 0; i < vocab; i++)
		largest = fmax(largest, (double)logits[i]);
	for (uint32_t i = 0; i < vocab; i++)
		sum += exp((double)logits[i] - largest);
	return largest + log(sum);
}

struct result { double divergence, worst_logit; uint32_t same_best; };

static void compare(const struct position *position, uint32_t kept, const float *logits, uint32_t vocab,
	struct result *result)
{
	double sum = log_sum_exp(logits, vocab), p_rest = 1, q_rest = 1;

	for (uint32_t i = 0; i < kept; i++) {
		double ours = (double)logits[position->ids[i]], theirs = (double)position->logits[i];
		double log_p = theirs - (double)position->sum, log_q = ours - sum;

		result->divergence += exp(log_p) * (log_p - log_q);
		p_rest -= exp(log_p);
		q_rest -= exp(log_q);
		result->worst_logit = fmax(result->worst_logit, fabs(ours - theirs));
	}
	if (p_rest > 1e-9 && q_rest > 1e-9)
		result->divergence += p_rest * log(p_rest / q_rest);
	result->same_best += logits[position->ids[0]] >= logits[position->ids[1]];
}

/* Feeds the golden's tokens in pieces and compares every position. */
static struct result run(struct model_rig *rig, const struct golden *golden, uint32_t piece)
{
	float *logits = malloc(sizeof(*logits) * MODEL_RIG_ROWS * rig->vocab);
	struct result result = { 0 };
	struct position position;

	assert_non_null(logits);
	model_rig_restart(rig);
	for (uint32_t at = 0; at < golden->positions; at += piece) {
		uint32_t tokens[MODEL_RIG_ROWS], count = golden->positions - at < piece ? golden->positions - at : piece;

		for (uint32_t i = 0; i < count; i++) {
			golden_at(golden, at + i, &position);
			tokens[i] = position.token;
		}
		model_rig_step(rig, tokens, count, false, logits);
		for (uint32_t i = 0; i < count; i++) {
			golden_at(golden, at + i, &position);
			compare(&position, golden->kept, logits + (size_t)i * rig->vocab, rig->vocab, &result);
		}
	}
	result.divergence /= golden->positions;
	free(logits);
	return result;
}

static void say(const char *what, const struct golden *golden, struct result result)
{
	print_message("# %s: mean KL divergence %.2g, largest difference of a logit %.2g, same best token %u of %u\n", what,
		result.divergence, result.worst_logit, result.same_best, golden->positions);
}

/* ---- the tiny models --------------------------------------------------------------------------------------- */

static void check_tiny(const char *architecture)
{
	const char *path = model_rig_path(architecture);
	char golden_name[64];
	struct golden golden;
	struct model_rig rig;
	struct result result;

	snprintf(golden_name, sizeof(golden_name), "tiny_%s.bin", architecture);
	golden = read_golden(golden_name);
	assert_int_equal(model_rig_attnquant("make-tiny", "-a", architecture, "-o", path, NULL), 0);
	model_rig_open(&rig, path, KERN_KV_F32, 0);
	assert_string_equal(model_info(rig.model)->architecture, architecture);
	result = run(&rig, &golden, 19);
	say(architecture, &golden, result);
	assert_true(result.worst_logit < 1e-3);
	assert_true(result.divergence < 1e-6);
	model_rig_close(&rig);
	free(golden.bytes);
}

static void test_tiny_llama(void **state)
{
	(void)state;
	check_tiny("llama");
}

static void test_tiny_qwen2(void **state)
{
	(void)state;
	check_tiny("qwen2");
}

static void test_tiny_qwen3(void **state)
{
	(void)state;
	check_tiny("qwen3");
}

/* ---- SmolLM2 ------------------------------------------------------------------------------------------------ */

enum { DEMO_BYTES = 98362432 };

static bool is_demo_model(const char *path)
{
	FILE *file = fopen(path, "rb");
	long size = 0;

	if (!file)
		return false;
	if (fseek(file, 0, SEEK_END) == 0)
		size = ftell(file);
	fclose(file);
	return size == DEMO_BYTES;
}

/* The cache of `make run` may keep its model under any name; what counts is the size, then the goldens. */
static bool find_in_cache(char *path, size_t size)
{
	const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
	char folder[2048];
	struct dirent *entry;
	bool found = false;
	DIR *list;

	if (cache && *cache)
		snprintf(folder, sizeof(folder), "%s/attnd", cache);
	else
		snprintf(folder, sizeof(folder), "%s/.cache/attnd", home ? home : "");
	list = opendir(folder);
	while (list && !found && (entry = readdir(list))) {
		snprintf(path, size, "%s/%s", folder, entry->d_name);
		found = strstr(entry->d_name, ".gguf") && is_demo_model(path);
	}
	if (list)
		closedir(list);
	return found;
}

static bool find_demo_model(char *path, size_t size)
{
	const char *said = getenv("ATTND_DEMO_MODEL");

	if (!said)
		return find_in_cache(path, size);
	snprintf(path, size, "%s", said);
	return is_demo_model(path);
}

static void test_smollm2(void **state)
{
	static const char text[] =
		"The harbour town woke slowly. Two fishing boats had come back before dawn, and 14 crates of herring stood on "
		"the quay, shining like wet silver. Marta counted them twice: first aloud, then in her head, because the buyer "
		"from the city never paid for more than he could see. \"If it rains again on Friday,\" she said, \"we'll sell "
		"everything by 9 o'clock, or we won't sell at all.\" Her brother laughed. He had heard this every week since "
		"1987.";
	struct model_token_scratch *scratch;
	struct golden golden;
	struct model_rig rig;
	struct result result;
	struct position position;
	uint32_t ids[256];
	char path[4096];

	(void)state;
	if (getenv("ATTND_SUITE") && strcmp(getenv("ATTND_SUITE"), "plain") != 0) {
		print_message("# skip: 135 million weights are too many for a sanitizer; the plain suite runs them\n");
		skip();
	}
	if (!find_demo_model(path, sizeof(path))) {
		print_message("# skip: SmolLM2-135M-Instruct.Q4_1.gguf is neither ATTND_DEMO_MODEL nor in the cache of `make "
			"run`\n");
		skip();
	}
	golden = read_golden("smollm2_135m.bin");
	model_rig_open(&rig, path, KERN_KV_F32, 0);
	assert_int_equal(model_token_scratch_create(&scratch, sizeof(text)), 0);
	assert_int_equal(model_tokenize(model_tokenizer(rig.model), scratch, text, sizeof(text) - 1, 0, ids, 256),
		golden.positions);
	for (uint32_t i = 0; i < golden.positions; i++) {
		golden_at(&golden, i, &position);
		assert_int_equal(ids[i], position.token);
	}
	model_token_scratch_destroy(scratch);
	result = run(&rig, &golden, 37);
	say("SmolLM2-135M-Instruct Q4_1, f32 cache", &golden, result);
	assert_true(result.divergence <= 1e-3);
	assert_true(result.divergence > -1e-6);
	assert_true(result.same_best + 5 >= golden.positions);
	model_rig_close(&rig);
	free(golden.bytes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_tiny_llama),
		cmocka_unit_test(test_tiny_qwen2),
		cmocka_unit_test(test_tiny_qwen3),
		cmocka_unit_test(test_smollm2),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
