/*
 * A reading of the daemon's memory as tables: devices, requests, refusals. See attnctl_show.h.
 */
#include <stdio.h>
#include <string.h>

#include "attnd/record.h"
#include "tools/attnctl_show.h"
#include "tools/tool_args.h"
#include "tools/tool_control.h"
#include "tools/tool_table.h"
#include "tools/tool_text.h"

static void cell_count(struct tool_table *table, double count)
{
	char text[TOOL_NUMBER_BYTES];

	tool_table_cell(table, "%s", tool_count(text, count > 0 ? (uint64_t)count : 0));
}

/* Small rates need their decimals, large ones do not. */
static void cell_rate(struct tool_table *table, double rate)
{
	if (rate > 0 && rate < 100)
		tool_table_cell(table, "%.1f", rate);
	else
		cell_count(table, rate);
}

static void cell_time(struct tool_table *table, double ns)
{
	char text[TOOL_NUMBER_BYTES];

	tool_table_cell(table, "%s", ns > 0 ? tool_duration(text, (int64_t)ns) : "-");
}

/* "0 / 3 / 120": latency, interactive, bulk. */
static void cell_classes(struct tool_table *table, const cJSON *classes)
{
	char counts[ATTND_CLASS_END][TOOL_NUMBER_BYTES];

	for (unsigned i = 0; i < ATTND_CLASS_END; i++)
		tool_count(counts[i], (uint64_t)tool_json_number(classes, tool_args_classes[i]));
	tool_table_cell(table, "%s / %s / %s", counts[0], counts[1], counts[2]);
}

static void show_head(const cJSON *reading)
{
	char up[TOOL_NUMBER_BYTES], silent[TOOL_NUMBER_BYTES], interval[TOOL_NUMBER_BYTES];
	const double clients = tool_json_number(reading, "clients"), uptime_s = tool_json_number(reading, "uptime_s"),
		     interval_s = tool_json_number(reading, "interval_s");

	tool_table_title(stdout, "attnd, pid %.0f, up %s, %.0f client%s", tool_json_number(reading, "pid"),
		tool_duration(up, (int64_t)(uptime_s * 1e9)), clients, clients == 1 ? "" : "s");
	if (interval_s < uptime_s)
		printf("  rates: of the last %s\n", tool_duration(interval, (int64_t)(interval_s * 1e9)));
	if (cJSON_IsTrue(tool_json_member(reading, "stale")))
		printf("%s  it has not been heard of for %s: it is dead or stopped, and these are its last values%s\n",
			tool_wants_colour(stdout) ? "\033[31m" : "",
			tool_duration(silent, (int64_t)(tool_json_number(reading, "silent_s") * 1e9)),
			tool_wants_colour(stdout) ? "\033[0m" : "");
	putchar('\n');
}

static void show_devices(const cJSON *devices)
{
	struct tool_table *table =
		tool_table_new(">device|>busy|>steps/s|>rows/s|>waiting (l/i/b)|>running (l/i/b)|>sessions|>KV used|>cached|>of");
	char used[TOOL_NUMBER_BYTES], cached[TOOL_NUMBER_BYTES], total[TOOL_NUMBER_BYTES];
	const cJSON *one;

	cJSON_ArrayForEach(one, devices) {
		tool_table_row(table);
		tool_table_cell(table, "%.0f", tool_json_number(one, "device"));
		tool_table_cell(table, "%.1f %%", tool_json_number(one, "utilisation") * 100.0);
		cell_rate(table, tool_json_number(one, "steps_per_s"));
		cell_rate(table, tool_json_number(one, "rows_per_s"));
		cell_classes(table, tool_json_member(one, "waiting"));
		cell_classes(table, tool_json_member(one, "running"));
		cell_count(table, tool_json_number(one, "sessions"));
		tool_table_cell(table, "%s", tool_bytes(used, (uint64_t)tool_json_number(one, "kv.used")));
		tool_table_cell(table, "%s", tool_bytes(cached, (uint64_t)tool_json_number(one, "kv.cached")));
		tool_table_cell(table, "%s", tool_bytes(total, (uint64_t)tool_json_number(one, "kv.total")));
	}
	tool_table_print(table, stdout);
}

/* The widest of its models'. */
static double band_of(const cJSON *prediction)
{
	const cJSON *one;
	double widest = 0;

	cJSON_ArrayForEach(one, tool_json_member(prediction, "band")) {
		const double band = tool_json_number(one, "band");

		widest = band > widest ? band : widest;
	}
	return widest;
}

static void show_predictions(const cJSON *devices)
{
	struct tool_table *table = tool_table_new(">device|>a step takes|>predicted|>off by, median|>p99|>band|>steps so far");
	const cJSON *one;

	cJSON_ArrayForEach(one, devices) {
		tool_table_row(table);
		tool_table_cell(table, "%.0f", tool_json_number(one, "device"));
		cell_time(table, tool_json_number(one, "step_actual_ns"));
		cell_time(table, tool_json_number(one, "step_predicted_ns"));
		tool_table_cell(table, "%.1f %%", tool_json_number(one, "prediction.error_median") * 100.0);
		tool_table_cell(table, "%.1f %%", tool_json_number(one, "prediction.error_p99") * 100.0);
		tool_table_cell(table, "%.2f", band_of(tool_json_member(one, "prediction")));
		cell_count(table, tool_json_number(one, "prediction.steps"));
	}
	putchar('\n');
	tool_table_print(table, stdout);
}

static void show_requests(const cJSON *requests)
{
	struct tool_table *table =
		tool_table_new("request|>per second|>received|>admitted|>refused|>ok|>expired|>cancelled|>client gone");
	const cJSON *one;

	if (cJSON_GetArraySize(requests) == 0) {
		puts("\n  no request yet");
		return;
	}
	cJSON_ArrayForEach(one, requests) {
		tool_table_row(table);
		tool_table_cell(table, "%s", tool_json_string(one, "op"));
		cell_rate(table, tool_json_number(one, "received_per_s"));
		cell_count(table, tool_json_number(one, "received"));
		cell_count(table, tool_json_number(one, "admitted"));
		cell_count(table, tool_json_number(one, "refused"));
		cell_count(table, tool_json_number(one, "ended.ok"));
		cell_count(table, tool_json_number(one, "ended.expired"));
		cell_count(table, tool_json_number(one, "ended.cancelled"));
		cell_count(table, tool_json_number(one, "ended.client-gone"));
	}
	putchar('\n');
	tool_table_print(table, stdout);
}

/* What is neither good news nor the client's own doing. */
static bool is_refusal(const char *status)
{
	return strcmp(status, "ok") && strcmp(status, "expired") && strcmp(status, "cancelled") && strcmp(status, "client-gone");
}

static void row_of(struct tool_table *table, const char *why, const char *what, double count)
{
	if (count <= 0)
		return;
	tool_table_row(table);
	tool_table_cell(table, "%s", why);
	tool_table_cell(table, "%s", what);
	cell_count(table, count);
	tool_table_colour(table, "yellow");
}

static void show_refusals(const cJSON *reading)
{
	static const char *const fronts[] = { "bad_record", "bad_op", "bad_range", "queue_full" };
	struct tool_table *table = tool_table_new("refused or failed|request|>so far");
	const cJSON *request, *status, *front = tool_json_member(reading, "front");
	double any = 0;

	cJSON_ArrayForEach(request, tool_json_member(reading, "requests"))
		cJSON_ArrayForEach(status, tool_json_member(request, "ended"))
			if (is_refusal(status->string)) {
				row_of(table, status->string, tool_json_string(request, "op"), status->valuedouble);
				any += status->valuedouble;
			}
	for (unsigned i = 0; i < sizeof(fronts) / sizeof(fronts[0]); i++) {
		row_of(table, fronts[i], "any, by the front", tool_json_number(front, fronts[i]));
		any += tool_json_number(front, fronts[i]);
	}
	if (any > 0)
		putchar('\n');
	tool_table_print(table, stdout);
}

void attnctl_show_view(const cJSON *reading)
{
	const cJSON *devices = tool_json_member(reading, "devices");

	show_head(reading);
	show_devices(devices);
	show_predictions(devices);
	show_requests(tool_json_member(reading, "requests"));
	show_refusals(reading);
}
