/*
 * Other programs beside ours, where PATH has them: llama-bench and our attnbench on one model, A B A B, and the figures of
 * llama.cpp's own test-backend-ops. Their names in the list begin with "peer:". See kernels.h.
 */
#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "tests/bench/kernels.h"

enum { OUTPUT_MAX = 1 << 20, TURNS = 2 };

/* A model's costs per token, as llama-bench tells them. */
struct model_cost {
	double bytes, parameters;
};

static bool on_path(const char *program)
{
	char command[128];

	snprintf(command, sizeof(command), "command -v %s >/dev/null 2>&1", program);
	return system(command) == 0;
}

/* What a command writes, up to its end or its failure, which is told. */
static const char *output_of(const char *command)
{
	static char output[OUTPUT_MAX];
	FILE *pipe = popen(command, "re");
	size_t len = pipe ? fread(output, 1, sizeof(output) - 1, pipe) : 0;
	int status = pipe ? pclose(pipe) : -1;

	output[len] = '\0';
	if (status == 0)
		return output;
	printf("  ended with status %d%s: %.60s ...\n", WEXITSTATUS(status),
		WEXITSTATUS(status) == 124 ? ", out of time" : "", command);
	return output;
}

static double number(const cJSON *object, const char *name)
{
	const cJSON *member = cJSON_GetObjectItem(object, name);

	return cJSON_IsNumber(member) ? member->valuedouble : 0;
}

static const char *text(const cJSON *object, const char *name)
{
	const cJSON *member = cJSON_GetObjectItem(object, name);

	return cJSON_IsString(member) ? member->valuestring : "";
}

/* ---- whole models ------------------------------------------------------------------------------------------------ */

/* Decode reads every weight for each token, prefill multiplies with each: that bounds tokens per second. */
static void add_test(struct kernels *kernels, const char *name, const cJSON *test, double rate, const char *kv,
	const struct model_cost *cost)
{
	const struct limits *limits = &kernels->limits[kernels->thread_kinds - 1];
	double prompt = number(test, "n_prompt"), generated = number(test, "n_gen");
	struct kernels_row row = { .threads = limits->threads, .achieved = rate };

	snprintf(row.name, sizeof(row.name), "%s", name);
	snprintf(row.shape, sizeof(row.shape), "%s%.0f", generated > 0 ? "tg" : "pp", generated > 0 ? generated : prompt);
	snprintf(row.format, sizeof(row.format), "kv %s", kv);
	snprintf(row.unit, sizeof(row.unit), "tokens/s");
	if (cost->bytes > 0)
		row.limit = generated > 0 ? limits->stream / cost->bytes : limits->int8 / (2 * cost->parameters);
	kernels_add(kernels, &row);
}

static void run_llama_bench(struct kernels *kernels, struct model_cost *cost)
{
	char command[256];
	cJSON *list;
	const cJSON *test;

	snprintf(command, sizeof(command), "timeout 120 llama-bench -m \"$MODEL\" -p 512 -n 128 -r 2 -t %u -o json "
		"2>/dev/null", kernels->limits[kernels->thread_kinds - 1].threads);
	list = cJSON_Parse(output_of(command));
	cJSON_ArrayForEach(test, list)
	{
		cost->bytes = number(test, "model_size");
		cost->parameters = number(test, "model_n_params");
		add_test(kernels, "peer:llama-bench", test, number(test, "avg_ts"), text(test, "type_k"), cost);
	}
	cJSON_Delete(list);
}

static void run_attnbench(struct kernels *kernels, const char *tools, const struct model_cost *cost)
{
	char command[4352];
	cJSON *object;
	const cJSON *test;

	snprintf(command, sizeof(command), "timeout 120 '%s/attnbench' model --model \"$MODEL\" -p 512 -n 128 -r 2 -t %u "
		"--json", tools, kernels->limits[kernels->thread_kinds - 1].threads);
	object = cJSON_Parse(output_of(command));
	cJSON_ArrayForEach(test, cJSON_GetObjectItem(object, "results"))
		add_test(kernels, "attnbench model", test, number(test, "tokens_per_s"), text(object, "kv_k"), cost);
	cJSON_Delete(object);
}

/* ---- test-backend-ops -------------------------------------------------------------------------------------------- */

/* "type_a" in "MUL_MAT(type_a=q8_0,m=4096,...)": "q8_0"; "" where it is not. */
static const char *parameter(const char *line, const char *name, char *value, size_t room)
{
	size_t len = strlen(name);

	value[0] = '\0';
	for (const char *at = strpbrk(line, "(,"); at; at = strpbrk(at + 1, "(,"))
		if (strncmp(at + 1, name, len) == 0 && at[1 + len] == '=') {
			snprintf(value, room, "%.*s", (int)strcspn(at + 2 + len, ",)"), at + 2 + len);
			break;
		}
	return value;
}

/* "... - 123.45 us/run - 117.44 MFLOP/run - ..." */
static bool parse_rate(const char *line, double *rate, double *microseconds)
{
	static const struct { const char *name; double factor; } units[] = { { "kFLOP", 1e3 }, { "MFLOP", 1e6 },
		{ "GFLOP", 1e9 }, { "TFLOP", 1e12 } };
	const char *at = strstr(line, " runs - ");
	double count;
	char unit[16];

	if (!at || sscanf(at, " runs - %lf us/run - %lf %15[a-zA-Z]/run", microseconds, &count, unit) != 3)
		return false;
	for (size_t i = 0; i < sizeof(units) / sizeof(*units); i++)
		if (strcmp(unit, units[i].name) == 0) {
			*rate = count * units[i].factor / *microseconds * 1e6;
			return true;
		}
	return false;
}

static void add_line(struct kernels *kernels, const char *line)
{
	struct kernels_row row = { .threads = kernels->limits[kernels->thread_kinds - 1].threads, .unit = "op/s" };
	char a[32], b[32], c[32], d[32];
	double microseconds;

	if (!parse_rate(line, &row.achieved, &microseconds))
		return;
	row.milliseconds = microseconds / 1e3;
	if (strstr(line, "MUL_MAT(")) {
		snprintf(row.name, sizeof(row.name), "peer:MUL_MAT");
		snprintf(row.shape, sizeof(row.shape), "%sx%s, %s rows", parameter(line, "m", a, sizeof(a)),
			parameter(line, "k", b, sizeof(b)), parameter(line, "n", c, sizeof(c)));
		snprintf(row.format, sizeof(row.format), "%s", parameter(line, "type_a", d, sizeof(d)));
	} else {
		snprintf(row.name, sizeof(row.name), "peer:FLASH_ATTN_EXT");
		snprintf(row.shape, sizeof(row.shape), "%s KV heads x%s, %s rows, %s", parameter(line, "nh", a, sizeof(a)),
			parameter(line, "hsk", b, sizeof(b)), parameter(line, "nb", c, sizeof(c)),
			parameter(line, "kv", d, sizeof(d)));
		snprintf(row.format, sizeof(row.format), "%s", parameter(line, "type_K", a, sizeof(a)));
	}
	kernels_add(kernels, &row);
}

static void run_backend_ops(struct kernels *kernels)
{
	static const char *const commands[] = {
		"timeout 45 stdbuf -oL test-backend-ops perf -b CPU -o MUL_MAT -p "
		"'type_a=(f16|q8_0|q4_0|q4_K),type_b=f32,m=4096,n=(1|512),k=14336,bs=.1,1.,nr=.1,1.' 2>/dev/null",
		"timeout 45 stdbuf -oL test-backend-ops perf -b CPU -o FLASH_ATTN_EXT -p "
		"'hsk=(64|128),hsv=(64|128),nh=8,nr23=.[48],1.,(kv=(4096|7680),nb=(1|512)|kv=16384,nb=1),' 2>/dev/null",
	};

	for (int i = 0; i < 2; i++) {
		char *rest = NULL, *output = strdup(output_of(commands[i]));

		for (char *line = strtok_r(output, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
			add_line(kernels, line);
		free(output);
	}
}

void kernels_peers(struct kernels *kernels, const char *model, const char *tools)
{
	struct model_cost cost = { 0 };
	bool llama_bench = on_path("llama-bench");

	if (model) {
		kernels_print_heading("A whole model, client to client");
		for (int turn = 0; turn < TURNS; turn++) {
			if (llama_bench)
				run_llama_bench(kernels, &cost);
			run_attnbench(kernels, tools, &cost);
		}
	} else if (llama_bench) {
		printf("\n  llama-bench is here: MODEL=file.gguf runs it beside attnbench\n");
	}
	if (on_path("test-backend-ops")) {
		kernels_print_heading("llama.cpp's own measurement of its kernels");
		run_backend_ops(kernels);
	}
}
