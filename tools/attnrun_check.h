/*
 * The same attention in float64, computed here and in the plainest way, to compare the daemon's
 * answer with.
 */
#ifndef ATTNRUN_CHECK_H
#define ATTNRUN_CHECK_H

#include <stdbool.h>

#include "tools/attnrun.h"

/* Prints the comparison to standard output. False when it is worse than the gate of the cache's
 * format: f32 an error of at most 1e-5 of the largest |V|, bf16 a cosine of at least 0.9999,
 * int8 (and the daemon's default) of at least 0.9999. */
bool attnrun_check(const struct attnrun_options *options, const float *q, const float *k,
	const float *v, const float *o);

#endif
