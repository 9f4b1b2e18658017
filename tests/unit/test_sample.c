/*
 * Sampling against a straightforward float64 implementation that sorts everything: the same draw from the same random
 * number, for every combination of filters; frequencies by a chi-square test; ties, NaN and infinities.
 */
#include "model/model_sample.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/base_rand.h"

enum { VOCAB_MAX = 50000 };

static float logits[VOCAB_MAX];
static void *scratch;

static const struct model_sampling PLAIN = { .seed = 1, .temperature = 1, .top_p = 1, .repeat_penalty = 1 };

static int make_scratch(void **state)
{
	(void)state;
	scratch = malloc(model_sample_scratch_bytes(VOCAB_MAX));
	return scratch ? 0 : -1;
}

static int free_scratch(void **state)
{
	(void)state;
	free(scratch);
	return 0;
}

/* About normal, spread 3: what a language model's logits look like. */
static void fill(uint32_t vocab, uint64_t seed, double spread)
{
	for (uint32_t i = 0; i < vocab; i++) {
		double sum = 0;

		for (int j = 0; j < 6; j++)
			sum += base_rand_at(seed, 6 * (uint64_t)i + (uint64_t)j) - 0.5;
		logits[i] = (float)(sum * spread * 1.4);
	}
}

/* ---- the naive implementation ----------------------------------------------------------------------------- */

struct naive { double logit, weight; uint32_t id; };

static int by_rank(const void *left, const void *right)
{
	const struct naive *a = left, *b = right;

	if (a->logit != b->logit)
		return a->logit < b->logit ? 1 : -1;
	return a->id < b->id ? -1 : 1;
}

static int by_id(const void *left, const void *right)
{
	const struct naive *a = left, *b = right;

	return a->id < b->id ? -1 : 1;
}

/* The candidates that pass all filters, best first, with their weights. */
static uint32_t naive_filter(const struct model_sampling *sampling, uint32_t vocab, struct naive *all)
{
	double total = 0, passed = 0;
	uint32_t keep = vocab, cut = 0;

	for (uint32_t i = 0; i < vocab; i++)
		all[i] = (struct naive){ (double)logits[i], 0, i };
	qsort(all, vocab, sizeof(*all), by_rank);
	if (sampling->top_k > 0 && sampling->top_k < keep)
		keep = sampling->top_k;
	for (uint32_t i = 0; i < keep; i++) {
		all[i].weight = exp((all[i].logit - all[0].logit) / (double)sampling->temperature);
		total += all[i].weight;
	}
	while (cut < keep && (cut == 0 || passed < (double)sampling->top_p * total))
		passed += all[cut++].weight;
	while (cut > 1 && all[cut - 1].weight < (double)sampling->min_p)
		cut--;
	return cut;
}

/* Draws in the order of rank (few candidates) or of ids. *margin: how far the random number is from another answer. */
static uint32_t naive_draw(struct naive *kept, uint32_t count, bool few, double random, double *margin)
{
	double total = 0, passed = 0;

	if (!few)
		qsort(kept, count, sizeof(*kept), by_id);
	for (uint32_t i = 0; i < count; i++)
		total += kept[i].weight;
	for (uint32_t i = 0; i < count; i++) {
		double before = passed;

		passed += kept[i].weight;
		if (passed > random * total || i + 1 == count) {
			*margin = fmin(random - before / total, passed / total - random);
			return kept[i].id;
		}
	}
	return 0;
}

/* Differences are allowed where the random number, or the cut of top-p, lies within float32's rounding of a boundary:
 * they are counted, and must be very rare. */
static void same_as_naive(uint32_t vocab, struct model_sampling sampling, uint32_t draws)
{
	struct naive *all = malloc(vocab * sizeof(*all)), *work = malloc(vocab * sizeof(*work));
	bool few = sampling.top_k > 0 && sampling.top_k <= 256 && sampling.top_k < vocab;
	uint32_t count, differ = 0;

	assert_non_null(all);
	assert_non_null(work);
	count = naive_filter(&sampling, vocab, all);
	for (uint32_t position = 0; position < draws; position++) {
		double margin = 0;
		uint32_t mine = model_sample(&sampling, logits, vocab, NULL, 0, position, scratch), wanted;

		memcpy(work, all, count * sizeof(*all));
		wanted = naive_draw(work, count, few, base_rand_at(sampling.seed, position), &margin);
		if (mine != wanted && margin > 2e-6)
			differ++;
	}
	free(work);
	free(all);
	if (differ > 0)
		fail_msg("%u of %u draws differ: vocab %u, T %g, k %u, p %g, min_p %g", differ, draws, vocab,
			(double)sampling.temperature, sampling.top_k, (double)sampling.top_p,
			(double)sampling.min_p);
}

static void test_same_as_naive(void **state)
{
	static const uint32_t vocabs[] = { 1, 2, 15, 16, 17, 63, 64, 65, 512, 5003 };
	static const float temperatures[] = { 0.05f, 0.7f, 1.0f, 3.0f };
	static const uint32_t ks[] = { 0, 1, 5, 40, 256, 257, 1000 };
	static const float ps[] = { 1.0f, 0.95f, 0.5f, 0.01f };
	static const float min_ps[] = { 0.0f, 0.05f, 1.0f };

	(void)state;
	for (size_t v = 0; v < sizeof(vocabs) / sizeof(*vocabs); v++) {
		fill(vocabs[v], 1000 + v, 3);
		for (size_t i = 0; i < 4 * 7 * 4 * 3; i++) {
			struct model_sampling sampling = PLAIN;

			sampling.seed = i;
			sampling.temperature = temperatures[i % 4];
			sampling.top_k = ks[i / 4 % 7];
			sampling.top_p = ps[i / 28 % 4];
			sampling.min_p = min_ps[i / 112];
			same_as_naive(vocabs[v], sampling, vocabs[v] < 5000 ? 8 : 2);
		}
	}
}

/* Logits of 8 different values: the cuts fall among equals, and the lower ids must win. */
static void test_ties(void **state)
{
	struct model_sampling sampling = PLAIN;

	(void)state;
	for (uint32_t i = 0; i < 3000; i++)
		logits[i] = (float)(base_mix64(i) % 8) / 4;
	logits[5] = -0.0f;
	for (uint32_t k = 1; k < 1000; k += 83) {
		sampling.top_k = k;
		same_as_naive(3000, sampling, 50);
	}
	sampling.top_k = 0;
	for (float p = 0.05f; p < 1; p += 0.09f) {
		sampling.top_p = p;
		same_as_naive(3000, sampling, 50);
	}
	for (uint32_t i = 0; i < 3000; i++)
		logits[i] = 2;
	sampling.top_p = 0.5f;
	for (uint64_t position = 0; position < 200; position++)
		assert_true(model_sample(&sampling, logits, 3000, NULL, 0, position, scratch) < 1500);
}

/* 40,000 draws from 12 outcomes: chi-square with 11 degrees of freedom exceeds 37.4 once in 10,000 times. The seed is
 * fixed, so this either always passes or always fails. */
static void chi_square(struct model_sampling sampling)
{
	enum { OUTCOMES = 12, DRAWS = 40000 };
	double total = 0, sum = 0;
	uint32_t seen[OUTCOMES] = { 0 };

	for (uint32_t i = 0; i < OUTCOMES; i++) {
		logits[i] = (float)(i % 5) * 0.4f;
		total += exp((double)logits[i]);
	}
	for (uint64_t position = 0; position < DRAWS; position++)
		seen[model_sample(&sampling, logits, OUTCOMES, NULL, 0, position, scratch)]++;
	for (uint32_t i = 0; i < OUTCOMES; i++) {
		double expected = DRAWS * exp((double)logits[i]) / total;

		sum += (seen[i] - expected) * (seen[i] - expected) / expected;
	}
	if (sum > 37.4)
		fail_msg("chi-square is %g", sum);
}

static void test_distribution(void **state)
{
	struct model_sampling sampling = PLAIN;

	(void)state;
	for (uint64_t seed = 0; seed < 5; seed++) {
		sampling.seed = seed * 7919;
		chi_square(sampling);
	}
	chi_square(sampling);
	logits[12] = -INFINITY; /* a thirteenth that never comes, so that k = 12 takes the way of the few */
	sampling.top_k = 12;
	chi_square(sampling);
}

static void test_deterministic_and_keyed(void **state)
{
	struct model_sampling sampling = PLAIN, other = PLAIN;
	uint32_t equal_seeds = 0, equal_positions = 0;

	(void)state;
	fill(512, 3, 1);
	other.seed = 2;
	for (uint64_t position = 0; position < 500; position++) {
		uint32_t id = model_sample(&sampling, logits, 512, NULL, 0, position, scratch);

		memset(scratch, 0xa5, model_sample_scratch_bytes(512));
		assert_int_equal(id, model_sample(&sampling, logits, 512, NULL, 0, position, scratch));
		equal_seeds += id == model_sample(&other, logits, 512, NULL, 0, position, scratch);
		equal_positions += id == model_sample(&sampling, logits, 512, NULL, 0, position + 1, scratch);
	}
	assert_true(equal_seeds < 25);
	assert_true(equal_positions < 25);
}

static void test_greedy_and_penalty(void **state)
{
	struct model_sampling sampling = { .temperature = 0, .repeat_penalty = 1, .top_p = 1 };
	uint32_t recent[] = { 7, 3, 3, 3, 9, 4000000000u };

	(void)state;
	fill(100, 4, 1);
	for (uint32_t i = 0; i < 100; i++)
		logits[i] = logits[i] > 2.9f ? 2.9f : logits[i];
	logits[3] = 4;
	logits[9] = 3;
	logits[50] = 3;
	assert_int_equal(model_sample(&sampling, logits, 100, recent, 6, 0, scratch), 3);
	sampling.repeat_penalty = 1.25f; /* 3: 4 / 1.25 = 3.2 however often it occurred; 9: 2.4; 50: 3 */
	sampling.repeat_window = 6;
	assert_int_equal(model_sample(&sampling, logits, 100, recent, 6, 0, scratch), 3);
	sampling.repeat_penalty = 1.5f;
	assert_int_equal(model_sample(&sampling, logits, 100, recent, 6, 0, scratch), 50);
	sampling.repeat_window = 2; /* only 9 is looked at */
	assert_int_equal(model_sample(&sampling, logits, 100, recent, 6, 0, scratch), 3);
	for (uint32_t i = 0; i < 100; i++)
		logits[i] = -1; /* negative logits are multiplied: 3 sinks, 0 is the lowest id */
	logits[3] = -0.9f;
	sampling.repeat_window = 6;
	assert_int_equal(model_sample(&sampling, logits, 100, recent, 6, 0, scratch), 0);
	assert_int_equal(model_sample(&sampling, logits, 100, recent, 0, 0, scratch), 3);
}

static void test_not_finite(void **state)
{
	struct model_sampling sampling = PLAIN;

	(void)state;
	for (uint32_t vocab = 1; vocab < 70; vocab += 23) {
		for (uint32_t i = 0; i < vocab; i++)
			logits[i] = NAN;
		for (uint32_t k = 0; k < 3; k++) {
			sampling.top_k = k;
			assert_int_equal(model_sample(&sampling, logits, vocab, NULL, 0, k, scratch), 0);
		}
		assert_int_equal(model_argmax(logits, vocab), 0);
		logits[vocab - 1] = -1e30f;
		for (uint32_t k = 0; k < 3; k++) {
			sampling.top_k = k;
			assert_int_equal(model_sample(&sampling, logits, vocab, NULL, 0, k, scratch), vocab - 1);
		}
		assert_int_equal(model_argmax(logits, vocab), vocab - 1);
		logits[vocab / 2] = INFINITY;
		assert_int_equal(model_argmax(logits, vocab), vocab / 2);
		for (uint32_t k = 0; k < 3; k++) {
			sampling.top_k = k;
			assert_int_equal(model_sample(&sampling, logits, vocab, NULL, 0, k, scratch), vocab / 2);
		}
	}
	for (uint32_t i = 0; i < 100; i++)
		logits[i] = -INFINITY;
	assert_int_equal(model_argmax(logits, 100), 0);
	assert_int_equal(model_sample(&sampling, logits, 100, NULL, 0, 0, scratch), 0);
}

/* Parameters that a careless caller may send do no harm. */
static void test_odd_parameters(void **state)
{
	static const float odd[] = { NAN, INFINITY, -INFINITY, -1, 0, 1e-45f, 1e30f, 2 };

	(void)state;
	fill(300, 5, 3);
	for (size_t i = 0; i < 8 * 8 * 8; i++) {
		struct model_sampling sampling = { .seed = i, .temperature = odd[i % 8], .top_p = odd[i / 8 % 8],
			.min_p = odd[i / 64], .repeat_penalty = odd[i % 7], .top_k = i % 3 * 150, .repeat_window = 9 };
		uint32_t recent[] = { 1, 2, 3 };

		assert_true(model_sample(&sampling, logits, 300, recent, 3, i, scratch) < 300);
	}
}

static void test_top(void **state)
{
	struct model_top top[256];
	struct naive all[5003];
	double total = 0;

	(void)state;
	fill(5003, 6, 3);
	logits[77] = NAN;
	logits[78] = logits[79];
	for (uint32_t i = 0; i < 5003; i++) {
		all[i] = (struct naive){ isnan(logits[i]) ? (double)-INFINITY : (double)logits[i], 0, i };
		total += exp(all[i].logit);
	}
	qsort(all, 5003, sizeof(*all), by_rank);
	for (uint32_t k = 1; k <= 256; k += 51) {
		model_top(logits, 5003, k, top, scratch);
		for (uint32_t i = 0; i < k; i++) {
			assert_int_equal(top[i].id, all[i].id);
			assert_true(top[i].logit == (float)all[i].logit);
			assert_true(fabs((double)top[i].log_probability - (all[i].logit - log(total))) < 2e-6);
		}
	}
	logits[0] = 1;
	logits[1] = NAN;
	logits[2] = 1;
	model_top(logits, 3, 3, top, scratch);
	assert_int_equal(top[0].id, 0);
	assert_int_equal(top[1].id, 2);
	assert_int_equal(top[2].id, 1);
	assert_true(top[2].logit == -INFINITY);
	assert_true(fabsf(top[0].log_probability + logf(2)) < 1e-6f);
}

/* The shortest of several runs, because other programs run too. */
static double microseconds(const struct model_sampling *sampling, uint32_t vocab)
{
	double best = INFINITY;

	for (uint64_t position = 0; position < 20; position++) {
		struct timespec start, end;

		clock_gettime(CLOCK_MONOTONIC, &start);
		model_sample(sampling, logits, vocab, NULL, 0, position, scratch);
		clock_gettime(CLOCK_MONOTONIC, &end);
		best = fmin(best, (double)(end.tv_sec - start.tv_sec) * 1e6 + (double)(end.tv_nsec - start.tv_nsec) / 1e3);
	}
	return best;
}

/* Equal logits are the worst case of a selection. Twelve times the vocabulary may take 36 times as long, where pairs
 * compared with each other would take 144 times. */
static void test_time(void **state)
{
	struct model_sampling sampling = PLAIN;

	(void)state;
	fill(49152, 7, 3);
	sampling.top_k = 40;
	sampling.top_p = 0.95f;
	print_message("# vocabulary of 49152: top-k 40 and top-p %.0f us", microseconds(&sampling, 49152));
	sampling.top_k = 0;
	print_message(", top-p alone %.0f us", microseconds(&sampling, 49152));
	for (uint32_t i = 0; i < 49152; i++)
		logits[i] = 1;
	print_message(", top-p among equals %.0f us", microseconds(&sampling, 49152));
	assert_true(microseconds(&sampling, 49152) < 36 * microseconds(&sampling, 4096));
	sampling.temperature = 0;
	print_message(", greedy %.0f us\n", microseconds(&sampling, 49152));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_same_as_naive),
		cmocka_unit_test(test_ties),
		cmocka_unit_test(test_distribution),
		cmocka_unit_test(test_deterministic_and_keyed),
		cmocka_unit_test(test_greedy_and_penalty),
		cmocka_unit_test(test_not_finite),
		cmocka_unit_test(test_odd_parameters),
		cmocka_unit_test(test_top),
		cmocka_unit_test(test_time),
	};

	return cmocka_run_group_tests(tests, make_scratch, free_scratch);
}
