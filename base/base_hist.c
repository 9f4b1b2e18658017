/*
 * The histogram. A value below 2^7 has a bucket of its own; above, each power of two is cut into 2^7 buckets.
 *
 *   bucket group   0         1           2           ...   33
 *   values         0..127    128..255    256..511    ...   2^39..2^40-1
 *   width          1         1           2           ...   2^32
 */
#include "base/base_hist.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

enum { SUB_COUNT = 1 << BASE_HIST_SUB_BITS };

static uint32_t bucket_of(int64_t value)
{
	uint64_t bits = value > 0 ? (uint64_t)value : 0;
	uint32_t exponent;

	if (bits < SUB_COUNT)
		return (uint32_t)bits;
	if (bits >> BASE_HIST_VALUE_BITS)
		return BASE_HIST_BUCKETS - 1;
	exponent = 63u - (uint32_t)__builtin_clzll(bits) - BASE_HIST_SUB_BITS;
	return ((exponent + 1) << BASE_HIST_SUB_BITS) + (uint32_t)(bits >> exponent) - SUB_COUNT;
}

static int64_t bucket_middle(uint32_t bucket)
{
	uint32_t group = bucket >> BASE_HIST_SUB_BITS;
	int64_t part = bucket & (SUB_COUNT - 1);
	uint32_t exponent;

	if (group == 0)
		return part;
	exponent = group - 1;
	return ((SUB_COUNT + part) << exponent) + ((INT64_C(1) << exponent) - 1) / 2;
}

void base_hist_clear(struct base_hist *hist)
{
	memset(hist, 0, sizeof(*hist));
}

void base_hist_add(struct base_hist *hist, int64_t value)
{
	base_hist_add_n(hist, value, 1);
}

void base_hist_add_n(struct base_hist *hist, int64_t value, uint64_t n)
{
	if (n == 0)
		return;
	if (hist->count == 0 || value < hist->min)
		hist->min = value;
	if (hist->count == 0 || value > hist->max)
		hist->max = value;
	hist->count += n;
	hist->sum += (double)value * (double)n;
	hist->buckets[bucket_of(value)] += n;
}

void base_hist_merge(struct base_hist *into, const struct base_hist *from)
{
	if (from->count == 0)
		return;
	if (into->count == 0 || from->min < into->min)
		into->min = from->min;
	if (into->count == 0 || from->max > into->max)
		into->max = from->max;
	into->count += from->count;
	into->sum += from->sum;
	for (uint32_t i = 0; i < BASE_HIST_BUCKETS; i++)
		into->buckets[i] += from->buckets[i];
}

/* The rank of a quantile: how many values lie at or below it, at least one. */
static uint64_t rank_of(uint64_t count, double quantile)
{
	double rank = ceil(quantile * (double)count);

	if (!(rank >= 1))
		return 1;
	return rank >= (double)count ? count : (uint64_t)rank;
}

int64_t base_hist_quantile(const struct base_hist *hist, double quantile)
{
	uint64_t rank, seen = 0;
	uint32_t bucket = 0;
	int64_t value;

	if (hist->count == 0)
		return 0;
	rank = rank_of(hist->count, quantile);
	while (bucket < BASE_HIST_BUCKETS - 1 && seen + hist->buckets[bucket] < rank)
		seen += hist->buckets[bucket++];
	value = bucket_middle(bucket);
	if (value > hist->max)
		value = hist->max;
	return value < hist->min ? hist->min : value;
}

double base_hist_mean(const struct base_hist *hist)
{
	return hist->count ? hist->sum / (double)hist->count : 0;
}

int base_hist_dump(const struct base_hist *hist, FILE *file)
{
	for (uint32_t i = 0; i < BASE_HIST_BUCKETS; i++)
		if (hist->buckets[i] &&
			fprintf(file, "%" PRId64 " %" PRIu64 "\n", bucket_middle(i), hist->buckets[i]) < 0)
			return -EIO;
	return 0;
}
