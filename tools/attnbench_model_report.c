/*
 * attnbench model: what came out, as a table and as JSON. Main thread, after the measurement.
 */
#include "tools/attnbench_model.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tools/attnbench_report.h"
#include "tools/tool_args.h"
#include "tools/tool_control.h"
#include "tools/tool_table.h"
#include "tools/tool_text.h"

/* Tokens per second over the repeats. */
struct rates {
	double median, mean, deviation, least, most;
};

static double rate_of(const struct attnbench_model_result *result, uint32_t i)
{
	return (double)result->tokens * 1e9 / (double)result->samples_ns[i];
}

static int by_value(const void *a, const void *b)
{
	double left = *(const double *)a, right = *(const double *)b;

	return (left > right) - (left < right);
}

static struct rates rates_of(const struct attnbench_model_result *result)
{
	double sorted[ATTNBENCH_MODEL_REPEATS], sum = 0, squares = 0;
	uint32_t count = result->count;
	struct rates rates = { 0 };

	for (uint32_t i = 0; i < count; i++) {
		sorted[i] = rate_of(result, i);
		sum += sorted[i];
	}
	qsort(sorted, count, sizeof(*sorted), by_value);
	rates.mean = sum / count;
	for (uint32_t i = 0; i < count; i++)
		squares += (sorted[i] - rates.mean) * (sorted[i] - rates.mean);
	rates.deviation = count > 1 ? sqrt(squares / (count - 1)) : 0;
	rates.median = (sorted[(count - 1) / 2] + sorted[count / 2]) / 2;
	rates.least = sorted[0];
	rates.most = sorted[count - 1];
	return rates;
}

/* "pp512 @ d4096", as llama-bench has it. */
static void name_of(const struct attnbench_model_result *result, char *name, size_t room)
{
	int len = snprintf(name, room, "%s%" PRIu32, result->decode ? "tg" : "pp", result->tokens);

	if (result->depth)
		snprintf(name + len, room - (size_t)len, " @ d%" PRIu32, result->depth);
}

static const char *kv_name(unsigned kv)
{
	unsigned i = 0;

	while (tool_args_kv[i] && i < kv)
		i++;
	return tool_args_kv[i] ? tool_args_kv[i] : "unknown";
}

static void add_result(cJSON *list, const struct attnbench_model_result *result)
{
	cJSON *object = cJSON_CreateObject(), *samples, *samples_ns;
	struct rates rates = rates_of(result);
	char name[48];

	name_of(result, name, sizeof(name));
	cJSON_AddStringToObject(object, "test", name);
	tool_json_add(object, "n_prompt", result->decode ? 0 : result->tokens, 0);
	tool_json_add(object, "n_gen", result->decode ? result->tokens : 0, 0);
	tool_json_add(object, "n_depth", result->depth, 0);
	tool_json_add(object, "tokens_per_s", rates.median, 3);
	tool_json_add(object, "mean", rates.mean, 3);
	tool_json_add(object, "stddev", rates.deviation, 3);
	tool_json_add(object, "min", rates.least, 3);
	tool_json_add(object, "max", rates.most, 3);
	samples = cJSON_AddArrayToObject(object, "samples_tokens_per_s");
	samples_ns = cJSON_AddArrayToObject(object, "samples_ns");
	for (uint32_t i = 0; i < result->count; i++) {
		cJSON_AddItemToArray(samples, cJSON_CreateNumber(round(rate_of(result, i) * 1000) / 1000));
		cJSON_AddItemToArray(samples_ns, cJSON_CreateNumber((double)result->samples_ns[i]));
	}
	cJSON_AddItemToArray(list, object);
}

static void print_json(const struct attnbench_model *test)
{
	cJSON *object = cJSON_CreateObject(), *list;

	cJSON_AddStringToObject(object, "command", "model");
	cJSON_AddStringToObject(object, "transport", tool_transport_names[tool_daemon_transport(&test->daemon)]);
	cJSON_AddBoolToObject(object, "sealed", tool_daemon_is_sealed(&test->daemon));
	cJSON_AddStringToObject(object, "model", test->model.name);
	cJSON_AddStringToObject(object, "weights", test->model.weights);
	tool_json_add(object, "parameters", (double)test->model.parameters, 0);
	tool_json_add(object, "weight_bytes", (double)test->model.weight_bytes, 0);
	cJSON_AddStringToObject(object, "kv_k", kv_name(test->session_about.kv_k));
	cJSON_AddStringToObject(object, "kv_v", kv_name(test->session_about.kv_v));
	tool_json_add(object, "threads", test->about.workers + 1, 0);
	tool_json_add(object, "batch", test->daemon.spawn ? (test->batch ? test->batch : ATTNBENCH_MODEL_BATCH) : 0, 0);
	cJSON_AddStringToObject(object, "decode", test->by_steps ? "step" : "stream");
	cJSON_AddStringToObject(object, "isa", test->about.isa);
	cJSON_AddStringToObject(object, "build", test->about.build);
	tool_json_add(object, "load_average", test->load_average, 2);
	list = cJSON_AddArrayToObject(object, "results");
	for (uint32_t i = 0; i < test->result_count; i++)
		add_result(list, &test->results[i]);
	attnbench_json_print(object);
}

static void print_table(const struct attnbench_model *test)
{
	struct tool_table *table = tool_table_new("model|weights|>size|>params|kv|>threads|>test|>tokens/s");
	char bytes[TOOL_NUMBER_BYTES], name[48];

	for (uint32_t i = 0; i < test->result_count; i++) {
		struct rates rates = rates_of(&test->results[i]);

		name_of(&test->results[i], name, sizeof(name));
		tool_table_row(table);
		tool_table_cell(table, "%s", test->model.name);
		tool_table_cell(table, "%s", test->model.weights);
		tool_table_cell(table, "%s", tool_bytes(bytes, test->model.weight_bytes));
		tool_table_cell(table, "%.2f M", (double)test->model.parameters / 1e6);
		if (test->session_about.kv_k == test->session_about.kv_v)
			tool_table_cell(table, "%s", kv_name(test->session_about.kv_k));
		else
			tool_table_cell(table, "%s,%s", kv_name(test->session_about.kv_k),
				kv_name(test->session_about.kv_v));
		tool_table_cell(table, "%" PRIu32, test->about.workers + 1);
		tool_table_cell(table, "%s", name);
		tool_table_cell(table, "%.2f ± %.2f", rates.median, rates.deviation);
	}
	tool_table_print(table, stdout);
	printf("  median and standard deviation of %" PRIu32 "; %s; over %s", test->repeats, test->about.isa,
		attnbench_report_way(&test->daemon));
	if (test->load_average >= 0)
		printf(", load average before %.2f", test->load_average);
	printf("\n");
}

void attnbench_model_report(const struct attnbench_model *test)
{
	if (test->json)
		print_json(test);
	else
		print_table(test);
}
