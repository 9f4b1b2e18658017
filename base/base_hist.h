/*
 * A high dynamic range histogram of 64-bit values with a fixed relative error, after HdrHistogram (Gil Tene):
 * buckets of powers of two, each cut into 2^(precision) equal parts. Fixed memory, no allocation after init,
 * lossless merge. Own code because Debian packages no C version.
 *
 * One writer; not shared between threads while written.
 */
#ifndef BASE_HIST_H
#define BASE_HIST_H

#include <stdint.h>
#include <stdio.h>

/* 2^7 parts per power of two: an error of at most 1/128. Values up to 2^40 (18 minutes in ns); larger ones
 * count in the last bucket and are still seen exactly by max. */
enum { BASE_HIST_SUB_BITS = 7, BASE_HIST_VALUE_BITS = 40,
	BASE_HIST_BUCKETS = (BASE_HIST_VALUE_BITS - BASE_HIST_SUB_BITS + 1) << BASE_HIST_SUB_BITS };

struct base_hist {
	uint64_t count;
	int64_t min, max;
	double sum;
	uint64_t buckets[BASE_HIST_BUCKETS];
};

void base_hist_clear(struct base_hist *hist);
void base_hist_add(struct base_hist *hist, int64_t value);
void base_hist_add_n(struct base_hist *hist, int64_t value, uint64_t n);
void base_hist_merge(struct base_hist *into, const struct base_hist *from);
/* quantile in [0, 1]; 0 for an empty histogram. Returns the midpoint of the bucket, never above max. */
int64_t base_hist_quantile(const struct base_hist *hist, double quantile);
double base_hist_mean(const struct base_hist *hist);
/* Writes "value count" lines, one per non-empty bucket. 0 or -errno. */
int base_hist_dump(const struct base_hist *hist, FILE *file);

#endif
