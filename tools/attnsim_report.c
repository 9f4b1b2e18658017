/*
 * What replays came to, as tables and as JSON. See attnsim_report.h.
 */
#include "tools/attnsim_report.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>

#include "tools/tool_table.h"
#include "tools/tool_text.h"

static double share_of(uint64_t part, uint64_t whole)
{
	return whole ? 100.0 * (double)part / (double)whole : 0.0;
}

/* ---- tables ----------------------------------------------------------------------------------- */

static void print_frame(const struct attnsim_point *point, const char *trace_name)
{
	const struct attnsim_setup *setup = &point->setup;
	const struct attnsim_machine *machine = &setup->machine;

	printf("\n  %s, %zu requests (%s); %s on %s (%u device%s, %.3g GB/s and %.3g TOPS each)\n", trace_name,
		setup->trace->count, setup->trace->kind, setup->model->what, machine->what, machine->devices,
		machine->devices == 1 ? "" : "s", machine->bytes_per_s * 1e-9, machine->operations_per_s * 1e-12);
	printf("  capacity %.4g requests/s; deadlines: %.0f %% at %g, %.0f %% at %g times the ideal, %.0f %% none; seed %llu\n",
		setup->capacity_rps, 100 * setup->share[ATTNSIM_TIGHT], setup->slack[ATTNSIM_TIGHT],
		100 * setup->share[ATTNSIM_NORMAL], setup->slack[ATTNSIM_NORMAL], 100 * setup->share[ATTNSIM_NONE],
		(unsigned long long)setup->seed);
	printf("  noise: %s\n\n", setup->noise ? setup->noise->source : "none");
}

static void group_row(struct tool_table *table, const char *name, const struct attnsim_group *group)
{
	char text[TOOL_NUMBER_BYTES];

	tool_table_row(table);
	tool_table_cell(table, "%s", name);
	tool_table_cell(table, "%s", tool_count(text, group->requests));
	tool_table_cell(table, "%s", tool_count(text, group->admitted));
	tool_table_cell(table, "%s", tool_count(text, group->refused));
	tool_table_cell(table, "%s", tool_count(text, group->missed));
	tool_table_cell(table, "%.3f %%", share_of(group->missed, group->admitted));
	tool_table_cell(table, "%s", tool_count(text, group->good));
	tool_table_cell(table, "%s", tool_duration(text, group->ttft_p50_ns));
	tool_table_cell(table, "%s", tool_duration(text, group->ttft_p99_ns));
	tool_table_cell(table, "%s", tool_duration(text, group->tpot_p50_ns));
	tool_table_cell(table, "%s", tool_duration(text, group->tpot_p99_ns));
}

static void print_prefixes(const struct attnsim_point *point, const struct attnsim_prefix_rates *rates)
{
	if (point->setup.prefix == ATTNSIM_PREFIX_NONE)
		printf("  prefixes are not shared\n");
	else
		printf("  %.1f %% of prompt tokens found in cached prefixes, %llu pages of these evicted\n",
			100 * point->result.prefix_hit_rate, (unsigned long long)point->result.prefix_evictions);
	if (rates->endless > 0.0)
		printf("  %llu pages to themselves, one request after the other: ours %.2f %%, lru %.2f %%, the best possible (Belady) "
		       "%.2f %%, an endless cache %.2f %%\n",
			(unsigned long long)rates->pages, 100 * rates->ours, 100 * rates->lru, 100 * rates->best,
			100 * rates->endless);
}

void attnsim_report_table(
	const struct attnsim_point *point, const struct attnsim_prefix_rates *prefixes, const char *trace_name)
{
	const struct attnsim_result *result = &point->result;
	struct tool_table *table = tool_table_new(
		"deadline|>requests|>admitted|>refused|>missed|>of admitted|>good|>ttft p50|>p99|>tpot p50|>p99");

	print_frame(point, trace_name);
	for (unsigned u = 0; u < ATTNSIM_URGENCIES; u++)
		group_row(table, attnsim_urgencies[u], &result->by[u]);
	group_row(table, "all", &result->all);
	tool_table_print(table, stdout);
	printf("\n  %s at load %g: goodput %.4g of %.4g requests/s, %.0f tokens/s after %.0f of prompts, utilisation %.1f %%\n",
		attnsim_policies[point->setup.policy], point->setup.load, result->goodput_rps, result->offered_rps,
		result->tokens_s, result->prompt_tokens_s, 100 * result->utilisation);
	printf("  %llu steps of %.0f rows and %.3g ms; predicted within %.1f %% (median), %.1f %% (p99); up to %llu held\n",
		(unsigned long long)result->steps, result->step_rows_mean, result->step_ms_mean,
		100 * result->prediction_median, 100 * result->prediction_p99, (unsigned long long)result->held_most);
	printf("  fair drift %.3g ms of device time\n", result->fair_drift_ms);
	print_prefixes(point, prefixes);
	if (result->failed || result->unservable || result->gave_up)
		printf("  %llu failed for want of pages, %llu were too large, %llu gave up\n",
			(unsigned long long)result->failed, (unsigned long long)result->unservable,
			(unsigned long long)result->gave_up);
}

void attnsim_report_sweep(const struct attnsim_point *points, size_t count, const char *trace_name)
{
	struct tool_table *table = tool_table_new(
		">load|policy|>admitted|>refused|>missed|>of admitted|>goodput/s|>ttft p50|>p99|>tpot p99|>tokens/s|>busy|>drift");
	char text[TOOL_NUMBER_BYTES];

	print_frame(points, trace_name);
	for (size_t i = 0; i < count; i++) {
		const struct attnsim_result *result = &points[i].result;

		tool_table_row(table);
		tool_table_cell(table, "%g", points[i].setup.load);
		tool_table_cell(table, "%s", attnsim_policies[points[i].setup.policy]);
		tool_table_cell(table, "%s", tool_count(text, result->all.admitted));
		tool_table_cell(table, "%s", tool_count(text, result->all.refused));
		tool_table_cell(table, "%s", tool_count(text, result->all.missed));
		tool_table_cell(table, "%.3f %%", share_of(result->all.missed, result->all.admitted));
		tool_table_cell(table, "%.4g", result->goodput_rps);
		tool_table_cell(table, "%s", tool_duration(text, result->all.ttft_p50_ns));
		tool_table_cell(table, "%s", tool_duration(text, result->all.ttft_p99_ns));
		tool_table_cell(table, "%s", tool_duration(text, result->all.tpot_p99_ns));
		tool_table_cell(table, "%.0f", result->tokens_s);
		tool_table_cell(table, "%.1f %%", 100 * result->utilisation);
		tool_table_cell(table, "%s", tool_duration(text, (int64_t)(result->fair_drift_ms * 1e6)));
	}
	tool_table_print(table, stdout);
}

/* ---- JSON ------------------------------------------------------------------------------------- */

/* Six digits: enough to compare, and the same wherever it is printed. */
static void put(cJSON *object, const char *name, double value)
{
	char digits[32];

	snprintf(digits, sizeof(digits), "%.6g", value);
	cJSON_AddNumberToObject(object, name, strtod(digits, NULL));
}

static void put_count(cJSON *object, const char *name, uint64_t count)
{
	cJSON_AddNumberToObject(object, name, (double)count);
}

static void put_group(cJSON *object, const struct attnsim_group *group)
{
	put_count(object, "requests", group->requests);
	put_count(object, "admitted", group->admitted);
	put_count(object, "refused", group->refused);
	put_count(object, "missed_admitted", group->missed);
	put_count(object, "good", group->good);
	put(object, "ttft_p50_ms", (double)group->ttft_p50_ns * 1e-6);
	put(object, "ttft_p99_ms", (double)group->ttft_p99_ns * 1e-6);
	put(object, "tpot_p50_ms", (double)group->tpot_p50_ns * 1e-6);
	put(object, "tpot_p99_ms", (double)group->tpot_p99_ns * 1e-6);
}

static void put_frame(cJSON *object, const struct attnsim_setup *setup, const char *trace_name)
{
	cJSON_AddStringToObject(object, "trace", trace_name);
	cJSON_AddStringToObject(object, "trace_kind", setup->trace->kind);
	cJSON_AddStringToObject(object, "device", setup->machine.name);
	put_count(object, "devices", setup->machine.devices);
	cJSON_AddStringToObject(object, "model", setup->model->name);
	put_count(object, "seed", setup->seed);
	cJSON_AddStringToObject(object, "noise", setup->noise ? setup->noise->source : "none");
	put(object, "capacity_rps", setup->capacity_rps);
	put_count(object, "tenants", setup->tenants);
}

/* The cache alone, one request after the other. */
static void put_prefixes(cJSON *object, const struct attnsim_prefix_rates *rates)
{
	put_count(object, "prefix_pages", rates->pages);
	put(object, "prefix_alone_ours", rates->ours);
	put(object, "prefix_alone_lru", rates->lru);
	put(object, "prefix_alone_best", rates->best);
	put(object, "prefix_alone_endless", rates->endless);
}

static void put_result(cJSON *object, const struct attnsim_point *point)
{
	const struct attnsim_result *result = &point->result;
	cJSON *classes = cJSON_CreateObject();

	cJSON_AddStringToObject(object, "policy", attnsim_policies[point->setup.policy]);
	put(object, "load", point->setup.load);
	put_group(object, &result->all);
	put_count(object, "failed", result->failed);
	put_count(object, "unservable", result->unservable);
	put_count(object, "gave_up", result->gave_up);
	put(object, "seconds", result->seconds);
	put(object, "drained_seconds", result->drained_seconds);
	put(object, "offered_rps", result->offered_rps);
	put(object, "goodput_rps", result->goodput_rps);
	put(object, "tokens_per_s", result->tokens_s);
	put(object, "prompt_tokens_per_s", result->prompt_tokens_s);
	put(object, "utilisation", result->utilisation);
	put_count(object, "steps", result->steps);
	put(object, "step_rows", result->step_rows_mean);
	put(object, "step_ms", result->step_ms_mean);
	put(object, "prediction_error_median", result->prediction_median);
	put(object, "prediction_error_p99", result->prediction_p99);
	put_count(object, "held_most", result->held_most);
	put(object, "fair_drift", result->fair_drift_ms);
	cJSON_AddStringToObject(object, "fair_drift_unit", "ms of device time");
	put(object, "prefix_hit_rate", result->prefix_hit_rate);
	put_count(object, "prefix_evictions", result->prefix_evictions);
	cJSON_AddStringToObject(object, "prefix", attnsim_prefixes[point->setup.prefix]);
	for (unsigned u = 0; u < ATTNSIM_URGENCIES; u++) {
		cJSON *group = cJSON_CreateObject();

		put_group(group, &result->by[u]);
		cJSON_AddItemToObject(classes, attnsim_urgencies[u], group);
	}
	cJSON_AddItemToObject(object, "classes", classes);
}

void attnsim_report_json(const struct attnsim_point *points, size_t count, bool sweep,
	const struct attnsim_prefix_rates *prefixes, const char *trace_name)
{
	cJSON *object = cJSON_CreateObject(), *list;
	char *text;

	put_frame(object, &points[0].setup, trace_name);
	put_prefixes(object, prefixes);
	if (sweep) {
		list = cJSON_AddArrayToObject(object, "points");
		for (size_t i = 0; i < count; i++) {
			cJSON *item = cJSON_CreateObject();

			put_result(item, &points[i]);
			cJSON_AddItemToArray(list, item);
		}
	} else {
		put_result(object, &points[0]);
	}
	text = cJSON_Print(object);
	puts(text ? text : "{}");
	free(text);
	cJSON_Delete(object);
}
