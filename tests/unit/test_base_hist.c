/*
 * The histogram against sorted values: quantiles within the promised 1/128, exact extremes, lossless merge.
 */
#include "base/base_hist.h"

#include "base/base_rand.h"

#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { VALUES = 20000 };

static struct base_hist hist, other;
static int64_t values[VALUES];

static int by_value(const void *left, const void *right)
{
	int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;

	return (a > b) - (a < b);
}

/* Spread over all powers of two, as latencies are. */
static void draw_values(uint64_t seed)
{
	for (int i = 0; i < VALUES; i++)
		values[i] = (int64_t)(base_rand_next(&seed) >> (24 + base_rand_below(&seed, 40)));
}

static int64_t exact_quantile(double quantile)
{
	double rank = ceil(quantile * VALUES);

	return values[rank < 1 ? 0 : (int)rank - 1];
}

static void test_quantiles_against_sorted(void **state)
{
	static const double quantiles[] = {0, 0.001, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 0.9999, 1};

	(void)state;
	for (uint64_t seed = 1; seed <= 5; seed++) {
		draw_values(seed);
		base_hist_clear(&hist);
		for (int i = 0; i < VALUES; i++)
			base_hist_add(&hist, values[i]);
		qsort(values, VALUES, sizeof(values[0]), by_value);
		for (size_t i = 0; i < sizeof(quantiles) / sizeof(quantiles[0]); i++) {
			int64_t exact = exact_quantile(quantiles[i]);
			int64_t seen = base_hist_quantile(&hist, quantiles[i]);

			assert_true(llabs(seen - exact) * 128 <= exact);
		}
		assert_int_equal(hist.min, values[0]);
		assert_int_equal(hist.max, values[VALUES - 1]);
		assert_int_equal(hist.count, VALUES);
	}
}

static void test_small_values_are_exact(void **state)
{
	(void)state;
	base_hist_clear(&hist);
	for (int64_t value = 0; value < 256; value++)
		base_hist_add(&hist, value);
	for (int64_t value = 0; value < 256; value++)
		assert_int_equal(base_hist_quantile(&hist, (double)(value + 1) / 256), value);
	assert_true(base_hist_mean(&hist) == 127.5);
}

static void test_empty_and_outside(void **state)
{
	(void)state;
	base_hist_clear(&hist);
	assert_int_equal(base_hist_quantile(&hist, 0.5), 0);
	assert_true(base_hist_mean(&hist) == 0);
	base_hist_add_n(&hist, 7, 0);
	assert_int_equal(hist.count, 0);
	base_hist_add(&hist, INT64_MAX);
	assert_int_equal(hist.max, INT64_MAX);
	assert_int_equal(hist.buckets[BASE_HIST_BUCKETS - 1], 1);
	base_hist_add_n(&hist, -5, 9);
	assert_int_equal(hist.min, -5);
	assert_int_equal(hist.buckets[0], 9);
	assert_int_equal(base_hist_quantile(&hist, 0.5), 0);
}

static void test_quantile_stays_within_extremes(void **state)
{
	(void)state;
	base_hist_clear(&hist);
	base_hist_add(&hist, 1000001);
	assert_int_equal(base_hist_quantile(&hist, 0), 1000001);
	assert_int_equal(base_hist_quantile(&hist, 0.5), 1000001);
	assert_int_equal(base_hist_quantile(&hist, 1), 1000001);
}

/* Two halves merged are the same bytes as the whole. */
static void test_merge_loses_nothing(void **state)
{
	static struct base_hist whole;

	(void)state;
	draw_values(99);
	base_hist_clear(&whole);
	base_hist_clear(&hist);
	base_hist_clear(&other);
	for (int i = 0; i < VALUES; i++) {
		base_hist_add(&whole, 5 + (values[i] >> 12));
		base_hist_add(i < VALUES / 3 ? &hist : &other, 5 + (values[i] >> 12));
	}
	base_hist_merge(&hist, &other);
	assert_memory_equal(hist.buckets, whole.buckets, sizeof(whole.buckets));
	assert_int_equal(hist.count, whole.count);
	assert_int_equal(hist.min, whole.min);
	assert_int_equal(hist.max, whole.max);
	assert_true(hist.sum == whole.sum);

	base_hist_clear(&other);
	base_hist_merge(&hist, &other);
	assert_int_equal(hist.min, whole.min);
	base_hist_merge(&other, &hist);
	assert_memory_equal(&other, &hist, sizeof(hist));
}

static void test_dump(void **state)
{
	char *text = NULL;
	size_t length = 0;
	FILE *file = open_memstream(&text, &length);

	(void)state;
	base_hist_clear(&hist);
	base_hist_add_n(&hist, 3, 2);
	base_hist_add(&hist, 257);
	assert_int_equal(base_hist_dump(&hist, file), 0);
	fclose(file);
	assert_string_equal(text, "3 2\n256 1\n");
	free(text);

	file = fopen("/dev/full", "w");
	if (!file)
		return;
	setvbuf(file, NULL, _IONBF, 0);
	assert_true(base_hist_dump(&hist, file) < 0);
	fclose(file);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_quantiles_against_sorted),
		cmocka_unit_test(test_small_values_are_exact),
		cmocka_unit_test(test_empty_and_outside),
		cmocka_unit_test(test_quantile_stays_within_extremes),
		cmocka_unit_test(test_merge_loses_nothing),
		cmocka_unit_test(test_dump),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
