/*
 * Where the time of a generation went. See attnrun_stats.h.
 */
#include "tools/attnrun_stats.h"

#include <errno.h>
#include <stdlib.h>

#include "base/base_hist.h"
#include "tools/tool_table.h"
#include "tools/tool_text.h"

int attnrun_stats_open(struct attnrun_stats *stats, uint32_t tokens)
{
	stats->done_ns = calloc(tokens, sizeof(int64_t));
	stats->seen_ns = calloc(tokens, sizeof(int64_t));
	stats->capacity = tokens;
	return stats->done_ns && stats->seen_ns ? 0 : -ENOMEM;
}

void attnrun_stats_close(struct attnrun_stats *stats)
{
	free(stats->done_ns);
	free(stats->seen_ns);
}

void attnrun_stats_token(
	struct attnrun_stats *stats, const struct attnd_completion *completion, int64_t seen_ns)
{
	if (stats->count == stats->capacity)
		return;
	if (stats->count == 0)
		stats->first = *completion;
	stats->done_ns[stats->count] = completion->done_ns;
	stats->seen_ns[stats->count] = seen_ns;
	stats->count++;
}

static void row(struct tool_table *table, const char *name, int64_t ns, const char *what)
{
	char text[TOOL_NUMBER_BYTES];

	tool_table_row(table);
	tool_table_cell(table, "%s", name);
	tool_table_cell(table, "%s", tool_duration(text, ns));
	tool_table_cell(table, "%s", what);
}

static void first_token(
	const struct attnrun_stats *stats, struct tool_table *table, uint32_t prompt)
{
	const struct attnd_completion *first = &stats->first;
	char what[96];

	row(table, "way in", first->received_ns - stats->sent_ns, "sent, until the daemon saw it");
	row(table, "admit", first->admitted_ns - first->received_ns, "until the scheduler took it");
	row(table, "wait", first->started_ns - first->admitted_ns, "until its first step began");
	snprintf(what, sizeof(what), "%u tokens of prompt, and the first answer", prompt);
	row(table, "prompt", first->done_ns - first->started_ns, what);
	row(table, "way out", stats->seen_ns[0] - first->done_ns, "until it was seen here");
}

static void next_tokens(const struct attnrun_stats *stats, struct tool_table *table)
{
	struct base_hist *hist = calloc(1, sizeof(*hist));
	char what[128], p99[TOOL_NUMBER_BYTES], max[TOOL_NUMBER_BYTES];

	if (!hist)
		return;
	base_hist_clear(hist);
	for (uint32_t i = 1; i < stats->count; i++)
		base_hist_add(hist, stats->done_ns[i] - stats->done_ns[i - 1]);
	snprintf(what, sizeof(what), "median of %u; p99 %s, longest %s", stats->count - 1,
		tool_duration(p99, base_hist_quantile(hist, 0.99)), tool_duration(max, hist->max));
	row(table, "each token", base_hist_quantile(hist, 0.5), what);
	free(hist);
}

void attnrun_stats_print(const struct attnrun_stats *stats, uint32_t prompt_tokens, FILE *stream)
{
	if (stats->count == 0)
		return;
	struct tool_table *table = tool_table_new("phase|>time|");
	int64_t all_ns = stats->seen_ns[stats->count - 1] - stats->sent_ns;
	int64_t rest_ns = stats->seen_ns[stats->count - 1] - stats->seen_ns[0];
	char what[96];

	row(table, "tokenize", stats->tokenize_ns, "prompt to ids, asked of the daemon");
	row(table, "open", stats->open_ns, "a session");
	first_token(stats, table, prompt_tokens);
	if (stats->count > 1) {
		next_tokens(stats, table);
		snprintf(what, sizeof(what), "%u tokens, %.1f/s after the first", stats->count,
			(stats->count - 1) / ((double)rest_ns / 1e9));
	} else {
		snprintf(what, sizeof(what), "one token");
	}
	row(table, "in all", all_ns, what);
	fputc('\n', stream);
	tool_table_title(stream, "Where the time went");
	tool_table_print(table, stream);
}
