/*
 * How much longer or shorter works take than expected. See attnsim_device.h.
 */
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"
#include "tools/attnsim_device.h"

enum { BUILTIN_RATIOS = 4096, RATIOS_MAX = 1 << 22, NUMBER_BYTES = 64 };

/* A device that takes no time, or for ever, is none. */
static const double RATIO_LEAST = 0.01, RATIO_MOST = 100.0;

struct quantile {
	double at, ratio;
};

static const char BUILTIN_SOURCE[] =
	"built in: what 578 steps of 48 rows of a 15M model in f32 took, seen by a client on one of two shared virtual cores, time / median";
static const struct quantile BUILTIN[] = {
	{ 0, 0.740 }, { 0.001, 0.740 }, { 0.01, 0.857 }, { 0.05, 0.896 }, { 0.1, 0.913 }, { 0.2, 0.935 },
	{ 0.3, 0.957 }, { 0.4, 0.978 }, { 0.5, 1.000 }, { 0.6, 1.022 }, { 0.7, 1.056 }, { 0.8, 1.104 },
	{ 0.9, 1.176 }, { 0.95, 1.236 }, { 0.98, 1.462 }, { 0.99, 1.783 }, { 0.995, 1.922 }, { 0.999, 2.148 },
	{ 1, 2.148 },
};

void attnsim_noise_builtin(struct attnsim_noise *noise)
{
	static double ratios[BUILTIN_RATIOS];
	const struct quantile *high = BUILTIN + 1;

	for (uint32_t i = 0; i < BUILTIN_RATIOS; i++) {
		double at = (double)i / (BUILTIN_RATIOS - 1);
		const struct quantile *low;

		while (high->at < at)
			high++;
		low = high - 1;
		ratios[i] = low->ratio + (high->ratio - low->ratio) * (at - low->at) / (high->at - low->at);
	}
	*noise = (struct attnsim_noise){ .ratios = ratios, .count = BUILTIN_RATIOS, .source = BUILTIN_SOURCE };
}

static int by_ratio(const void *left, const void *right)
{
	const double *a = left, *b = right;

	return (*a > *b) - (*a < *b);
}

/* A number and nothing else. */
static bool ratio_of(const char *text, size_t length, double *ratio)
{
	char copy[NUMBER_BYTES], *end;

	if (length >= sizeof(copy))
		return false;
	memcpy(copy, text, length);
	copy[length] = '\0';
	*ratio = strtod(copy, &end);
	while (isspace((unsigned char)*end))
		end++;
	return end != copy && end == copy + length && *ratio >= RATIO_LEAST && *ratio <= RATIO_MOST;
}

int attnsim_noise_parse(struct attnsim_noise *noise, const char *name, const char *text, size_t size)
{
	/* Not more ratios than lines. */
	size_t lines = 1, number = 0;

	for (size_t i = 0; i < size; i++)
		lines += text[i] == '\n';
	*noise = (struct attnsim_noise){ .source = "the file given" };
	if (lines > RATIOS_MAX)
		return base_fail(EINVAL, "%s: more than %d residuals", name, RATIOS_MAX);
	noise->ratios = malloc(lines * sizeof(*noise->ratios));
	if (!noise->ratios)
		return base_fail(ENOMEM, "no memory for %zu residuals", lines);
	for (size_t at = 0; at < size;) {
		const char *end = memchr(text + at, '\n', size - at);
		size_t length = end ? (size_t)(end - text) - at : size - at;
		double *ratio = &noise->ratios[noise->count];

		number++;
		if (length > 0 && text[at] != '#' && text[at] != '\r') {
			if (!ratio_of(text + at, length, ratio)) {
				attnsim_noise_free(noise);
				return base_fail(EINVAL, "%s:%zu: '%.*s' is no ratio from %g to %g", name, number,
					(int)(length < 40 ? length : 40), text + at, RATIO_LEAST, RATIO_MOST);
			}
			noise->count++;
		}
		at += length + 1;
	}
	if (noise->count == 0) {
		attnsim_noise_free(noise);
		return base_fail(EINVAL, "%s: no residuals in it", name);
	}
	qsort(noise->ratios, noise->count, sizeof(*noise->ratios), by_ratio);
	return 0;
}

void attnsim_noise_free(struct attnsim_noise *noise)
{
	if (noise->source != BUILTIN_SOURCE)
		free(noise->ratios);
	*noise = (struct attnsim_noise){ 0 };
}

double attnsim_noise_at(const struct attnsim_noise *noise, double u)
{
	double at = u * (double)(noise->count - 1);
	size_t low = (size_t)at;

	if (low + 1 >= noise->count)
		return noise->ratios[noise->count - 1];
	return noise->ratios[low] + (noise->ratios[low + 1] - noise->ratios[low]) * (at - (double)low);
}
