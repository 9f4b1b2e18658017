/*
 * Values on a command line. See tool_args.h.
 */
#include "tools/tool_args.h"

#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_features.h"
#include "tools/tool_text.h"

const char *const tool_args_kv[] = { "default", "f32", "bf16", "int8", "f16", "fp8", "int4", NULL };
const char *const tool_args_classes[] = { "latency", "interactive", "bulk", NULL };

static void print_version(FILE *stream, struct argp_state *state)
{
	(void)state;
	fprintf(stream, "%s %s\n", program_invocation_short_name, BASE_VERSION);
}

void tool_args_parse(const struct argp *argp, int argc, char **argv, void *input)
{
	argp_program_version_hook = print_version;
	argp_err_exit_status = TOOL_USAGE;
	/* The help needs no note on short options; most have none. */
	setenv("ARGP_HELP_FMT", "no-dup-args-note", 0);
	argp_parse(argp, argc, argv, 0, NULL, input);
}

uint64_t tool_args_u64(const char *name, const char *text, uint64_t low, uint64_t high)
{
	char *end;

	errno = 0;
	uint64_t value = strtoull(text, &end, 10);

	if (errno || end == text || *end || strchr(text, '-') || value < low || value > high)
		tool_die(TOOL_USAGE, "%s takes a whole number from %llu to %llu, not '%s'", name,
			(unsigned long long)low, (unsigned long long)high, text);
	return value;
}

double tool_args_double(const char *name, const char *text, double low, double high)
{
	char *end;
	double value = strtod(text, &end);

	if (end == text || *end || !isfinite(value) || value < low || value > high) {
		if (high >= DBL_MAX)
			tool_die(TOOL_USAGE, "%s takes a number of at least %g, not '%s'", name,
				low, text);
		tool_die(TOOL_USAGE, "%s takes a number from %g to %g, not '%s'", name, low, high,
			text);
	}
	return value;
}

void tool_args_doubles(const char *name, char *text, size_t count, double low, double high, double *values)
{
	char *rest = text;

	for (size_t i = 0; i < count; i++) {
		char *part = strsep(&rest, ",");

		if (!part || (i + 1 < count) != (rest != NULL))
			tool_die(TOOL_USAGE, "%s takes %zu numbers with commas between them", name, count);
		values[i] = tool_args_double(name, part, low, high);
	}
}

void tool_args_shares(const char *name, char *text, size_t count, double *shares)
{
	double sum = 0.0;

	tool_args_doubles(name, text, count, 0.0, 100.0, shares);
	for (size_t i = 0; i < count; i++)
		sum += shares[i];
	if (sum < 99.999 || sum > 100.001)
		tool_die(TOOL_USAGE, "the parts of %s are percent and make 100, not %g", name, sum);
	for (size_t i = 0; i < count; i++)
		shares[i] /= 100.0;
}

uint64_t tool_args_size(const char *name, const char *text, uint64_t low, uint64_t high)
{
	static const char units[] = "kmgt";
	char *end;

	errno = 0;
	uint64_t value = strtoull(text, &end, 10);
	const char *unit = *end ? strchr(units, *end | 0x20) : NULL;
	unsigned shift = unit ? 10 * (unsigned)(unit - units + 1) : 0;
	bool bad = errno || end == text || strchr(text, '-') || (*end && !unit) || (unit && end[1]);

	if (bad || value > (UINT64_MAX >> shift) || value << shift < low || value << shift > high) {
		char from[TOOL_NUMBER_BYTES], to[TOOL_NUMBER_BYTES];

		tool_die(TOOL_USAGE, "%s takes a size (4096, 64k, 16M) from %s to %s, not '%s'",
			name, tool_bytes(from, low), tool_bytes(to, high), text);
	}
	return value << shift;
}

unsigned tool_args_choice(const char *name, const char *text, const char *const *choices)
{
	char all[128] = "";

	for (unsigned i = 0; choices[i]; i++) {
		if (strcmp(text, choices[i]) == 0)
			return i;
		snprintf(all + strlen(all), sizeof(all) - strlen(all), "%s%s", i ? ", " : "",
			choices[i]);
	}
	tool_die(TOOL_USAGE, "%s takes one of %s, not '%s'", name, all, text);
}
