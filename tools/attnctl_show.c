/*
 * The daemon's answers as tables. See attnctl_show.h.
 */
#include "tools/attnctl_show.h"

#include <stdio.h>
#include <string.h>

#include "tools/tool_control.h"
#include "tools/tool_table.h"
#include "tools/tool_text.h"

static uint64_t whole(const cJSON *object, const char *name)
{
	double value = tool_json_number(object, name);

	return value > 0 ? (uint64_t)value : 0;
}

static void cell_count(struct tool_table *table, const cJSON *object, const char *name)
{
	char text[TOOL_NUMBER_BYTES];

	tool_table_cell(table, "%s", tool_count(text, whole(object, name)));
}

static void cell_bytes(struct tool_table *table, const cJSON *object, const char *name)
{
	char text[TOOL_NUMBER_BYTES];

	tool_table_cell(table, "%s", tool_bytes(text, whole(object, name)));
}

static void cell_string(struct tool_table *table, const cJSON *object, const char *name)
{
	tool_table_cell(table, "%s", tool_json_string(object, name));
}

static void show_daemon(const cJSON *answer)
{
	char used[TOOL_NUMBER_BYTES], total[TOOL_NUMBER_BYTES], cached[TOOL_NUMBER_BYTES], up[TOOL_NUMBER_BYTES];
	const char *build = tool_json_string(answer, "build");
	double workers = tool_json_number(answer, "workers");

	tool_table_title(stdout, "attnd %s", tool_json_string(answer, "version"));
	printf("  pid %.0f, up %s%s%s\n", tool_json_number(answer, "pid"),
		tool_duration(up, (int64_t)(tool_json_number(answer, "uptime_s") * 1e9)),
		*build ? ", " : "", build);
	printf("  %s, %.0f worker%s, idle %s\n", tool_json_string(answer, "backend"), workers,
		workers == 1 ? "" : "s", tool_json_string(answer, "idle"));
	printf("  KV cache: %s of %s in use, %s of free room hold cached prefixes\n",
		tool_bytes(used, whole(answer, "kv.used")), tool_bytes(total, whole(answer, "kv.total")),
		tool_bytes(cached, whole(answer, "kv.cached")));
}

static void show_missing(const cJSON *missing)
{
	const cJSON *one;

	if (cJSON_GetArraySize(missing) == 0)
		return;
	putchar('\n');
	struct tool_table *table = tool_table_new("missing|why");

	cJSON_ArrayForEach(one, missing) {
		tool_table_row(table);
		cell_string(table, one, "what");
		cell_string(table, one, "why");
		tool_table_colour(table, "yellow");
	}
	tool_table_print(table, stdout);
}

/* Counters that never moved say nothing. */
static void show_counters(const cJSON *counters, const char *columns)
{
	struct tool_table *table = tool_table_new(columns);
	const cJSON *one;
	int shown = 0;

	cJSON_ArrayForEach(one, counters) {
		char text[TOOL_NUMBER_BYTES];

		if (!cJSON_IsNumber(one) || one->valuedouble == 0)
			continue;
		tool_table_row(table);
		tool_table_cell(table, "%s", one->string);
		if (one->valuedouble < 1.0) /* a fraction */
			tool_table_cell(table, "%.1f %%", one->valuedouble * 100.0);
		else
			tool_table_cell(table, "%s", tool_count(text, (uint64_t)one->valuedouble));
		shown++;
	}
	if (shown)
		putchar('\n');
	tool_table_print(table, stdout);
}

static void show_clients(const cJSON *clients)
{
	const cJSON *one;

	if (cJSON_GetArraySize(clients) == 0) {
		puts("\n  no client");
		return;
	}
	putchar('\n');
	struct tool_table *table =
		tool_table_new(">client|>pid|>uid|tenant|>requests|>completions|>in flight");

	cJSON_ArrayForEach(one, clients) {
		tool_table_row(table);
		tool_table_cell(table, "%.0f", tool_json_number(one, "id"));
		tool_table_cell(table, "%.0f", tool_json_number(one, "pid"));
		tool_table_cell(table, "%.0f", tool_json_number(one, "uid"));
		cell_string(table, one, "tenant");
		cell_count(table, one, "requests");
		cell_count(table, one, "completions");
		cell_count(table, one, "in_flight");
	}
	tool_table_print(table, stdout);
}

/* Who is alone shares with nobody. */
static void show_tenants(const cJSON *tenants)
{
	struct tool_table *table;
	const cJSON *one;

	if (cJSON_GetArraySize(tenants) < 2)
		return;
	putchar('\n');
	table = tool_table_new("tenant|>weight|>sessions|>requests|>device ms|quota");
	cJSON_ArrayForEach(one, tenants) {
		tool_table_row(table);
		cell_string(table, one, "tenant");
		tool_table_cell(table, "%.0f", tool_json_number(one, "weight"));
		cell_count(table, one, "sessions");
		cell_count(table, one, "requests");
		tool_table_cell(table, "%.0f", tool_json_number(one, "used_ns") * 1e-6);
		tool_table_cell(table, "%s", cJSON_IsTrue(tool_json_member(one, "held")) ? "used up" : "");
	}
	tool_table_print(table, stdout);
}

void attnctl_show_status(const cJSON *answer)
{
	show_daemon(answer);
	show_missing(tool_json_member(answer, "missing"));
	show_counters(tool_json_member(answer, "counters"), "counter|>so far");
	show_counters(tool_json_member(answer, "network"), "network|>so far");
	show_counters(tool_json_member(answer, "network.port"), "sockets|>so far");
	show_tenants(tool_json_member(answer, "tenants"));
	show_clients(tool_json_member(answer, "clients"));
}

void attnctl_show_sessions(const cJSON *answer)
{
	const cJSON *sessions = tool_json_member(answer, "sessions"), *one;

	if (cJSON_GetArraySize(sessions) == 0) {
		puts("no session");
		return;
	}
	struct tool_table *table =
		tool_table_new("session|>client|tenant|kind|model|>tokens|>blocks|>queued|K|V");

	cJSON_ArrayForEach(one, sessions) {
		const cJSON *handle = tool_json_member(one, "handle"),
			    *model = tool_json_member(one, "model");

		tool_table_row(table);
		if (cJSON_IsString(handle))
			tool_table_cell(table, "%s", handle->valuestring);
		else
			tool_table_cell(table, "%llx", (unsigned long long)whole(one, "handle"));
		tool_table_cell(table, "%.0f", tool_json_number(one, "client"));
		cell_string(table, one, "tenant");
		cell_string(table, one, "kind");
		if (cJSON_IsString(model))
			tool_table_cell(table, "%s", model->valuestring);
		else
			tool_table_cell(table, "%.0f", tool_json_number(one, "model"));
		cell_count(table, one, "position");
		cell_count(table, one, "blocks");
		cell_count(table, one, "queued");
		cell_string(table, one, "kv_k");
		cell_string(table, one, "kv_v");
	}
	tool_table_print(table, stdout);
}

static void show_threads(const cJSON *threads)
{
	struct tool_table *table = tool_table_new("role|>thread|>cpu|>node");
	const cJSON *one;

	cJSON_ArrayForEach(one, threads) {
		const cJSON *cpu = tool_json_member(one, "cpu");

		tool_table_row(table);
		cell_string(table, one, "role");
		cell_string(table, one, "thread");
		/* A thread that is not bound has no processor. */
		if (cJSON_IsNumber(cpu) && cpu->valuedouble >= 0)
			tool_table_cell(table, "%.0f", cpu->valuedouble);
		else
			tool_table_cell(table, "any");
		tool_table_cell(table, "%.0f", tool_json_number(one, "node"));
	}
	tool_table_print(table, stdout);
}

static void show_memory(const cJSON *memory)
{
	struct tool_table *table = tool_table_new("memory|>size|pages|lies on");
	const cJSON *one, *node;

	cJSON_ArrayForEach(one, memory) {
		char lies[128] = "";

		tool_table_row(table);
		cell_string(table, one, "what");
		cell_bytes(table, one, "bytes");
		tool_table_cell(table, "%s",
			cJSON_IsTrue(tool_json_member(one, "huge")) ? "huge" : "4 KiB");
		cJSON_ArrayForEach(node, tool_json_member(one, "nodes")) {
			size_t length = strlen(lies);

			if (tool_json_number(node, "pages") == 0)
				continue;
			snprintf(lies + length, sizeof(lies) - length, "%snode %.0f: %.0f pages",
				length ? ", " : "", tool_json_number(node, "node"),
				tool_json_number(node, "pages"));
		}
		tool_table_cell(table, "%s", *lies ? lies : "not touched yet");
	}
	tool_table_print(table, stdout);
}

void attnctl_show_topology(const cJSON *answer)
{
	const char *text = tool_json_string(answer, "text");
	size_t length = strlen(text);

	printf("%s%s\n", text, length && text[length - 1] == '\n' ? "" : "\n");
	show_threads(tool_json_member(answer, "threads"));
	putchar('\n');
	show_memory(tool_json_member(answer, "memory"));
}

void attnctl_show_models(const cJSON *answer)
{
	const cJSON *models = tool_json_member(answer, "models"), *one;

	if (cJSON_GetArraySize(models) == 0) {
		puts("no model");
		return;
	}
	struct tool_table *table = tool_table_new(
		"name|architecture|weights|>parameters|>size|>vocabulary|>context|>layers|state");

	cJSON_ArrayForEach(one, models) {
		const cJSON *state = tool_json_member(one, "state");

		tool_table_row(table);
		cell_string(table, one, "name");
		cell_string(table, one, "architecture");
		cell_string(table, one, "weights");
		cell_count(table, one, "parameters");
		cell_bytes(table, one, "weight_bytes");
		cell_count(table, one, "vocab");
		cell_count(table, one, "context");
		cell_count(table, one, "layers");
		if (cJSON_IsString(state))
			tool_table_cell(table, "%s", state->valuestring);
		else
			tool_table_cell(table, "%s",
				tool_json_number(one, "state") == 0 ? "serving" : "failed");
	}
	tool_table_print(table, stdout);
}

void attnctl_show_done(const cJSON *answer)
{
	const char *said = tool_json_string(answer, "done");

	puts(*said ? said : "done");
}
