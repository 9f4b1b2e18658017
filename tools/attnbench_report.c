/*
 * What was measured, as tables and as JSON. See attnbench_report.h.
 */
#include "tools/attnbench_report.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/base_cpu.h"
#include "base/base_features.h"
#include "tools/tool_control.h"
#include "tools/tool_text.h"

struct quantile {
	const char *json;
	double at;
};

static const struct quantile quantiles[] = { { "p50", 0.5 }, { "p90", 0.9 }, { "p99", 0.99 },
	{ "p999", 0.999 }, { "p9999", 0.9999 } };
static const char *const part_names[ATTNBENCH_PARTS] = { "way_in", "admit", "wait", "run",
	"way_out" };
static const char *const part_texts[ATTNBENCH_PARTS] = { "sent, until the daemon saw it",
	"until the scheduler took it", "until its work began", "until its result was complete",
	"until it was seen here" };

enum { QUANTILES = sizeof(quantiles) / sizeof(quantiles[0]) };

/* ---- tables --------------------------------------------------------------------------------- */

struct tool_table *attnbench_report_table(const char *first_heading)
{
	char headings[128];

	snprintf(headings, sizeof(headings), "%s|>p50|>p90|>p99|>p99.9|>p99.99|>max|>answers",
		first_heading);
	return tool_table_new(headings);
}

void attnbench_report_row(struct tool_table *table, const char *name, const struct base_hist *hist)
{
	char text[TOOL_NUMBER_BYTES];

	tool_table_row(table);
	tool_table_cell(table, "%s", name);
	for (size_t i = 0; i < QUANTILES; i++)
		tool_table_cell(table, "%s",
			tool_duration(text, base_hist_quantile(hist, quantiles[i].at)));
	tool_table_cell(table, "%s", tool_duration(text, hist->count ? hist->max : 0));
	tool_table_cell(table, "%s", tool_count(text, hist->count));
}

void attnbench_report_parts(const struct attnbench_result *result)
{
	struct tool_table *table = tool_table_new("where the time went|>p50|>p99|>max|");
	char text[TOOL_NUMBER_BYTES], name[16];

	for (int i = 0; i < ATTNBENCH_PARTS; i++) {
		const struct base_hist *hist = &result->parts[i];

		snprintf(name, sizeof(name), "%s", part_names[i]);
		for (char *at = name; *at; at++)
			*at = *at == '_' ? ' ' : *at;
		tool_table_row(table);
		tool_table_cell(table, "%s", name);
		if (hist->count == 0) {
			/* A request that computes nothing never meets the device. */
			for (int column = 0; column < 3; column++)
				tool_table_cell(table, "-");
		} else {
			tool_table_cell(
				table, "%s", tool_duration(text, base_hist_quantile(hist, 0.5)));
			tool_table_cell(
				table, "%s", tool_duration(text, base_hist_quantile(hist, 0.99)));
			tool_table_cell(table, "%s", tool_duration(text, hist->max));
		}
		tool_table_cell(table, "%s", part_texts[i]);
	}
	putchar('\n');
	tool_table_print(table, stdout);
}

void attnbench_report_trouble(const struct attnbench_result *result)
{
	for (unsigned i = 0; i < ATTND_STATUS_END; i++)
		if (result->failed[i])
			printf("  %llu requests were answered %s: %s\n",
				(unsigned long long)result->failed[i], attnd_status_name(i),
				attnd_status_text(i));
	if (result->late)
		printf("  %llu answers came after their deadline\n",
			(unsigned long long)result->late);
	if (result->held_back)
		printf("  %llu of %llu requests waited for room: the rate is too high\n",
			(unsigned long long)result->held_back,
			(unsigned long long)result->scheduled);
	if (attnbench_result_void(result))
		printf("  VOID: this program was late for %llu of %llu sends, more than 0.1 %%\n",
			(unsigned long long)result->missed, (unsigned long long)result->scheduled);
}

static const char *idle_states(void)
{
	return access("/sys/devices/system/cpu/cpu0/cpuidle/state1", F_OK) == 0 ? "idle states" :
										  "no idle states";
}

const char *attnbench_report_way(const struct tool_daemon *daemon)
{
	static const char *const ways[][2] = { { "shared memory", "shared memory" }, { "TCP", "TCP, sealed" }, { "UDP", "UDP, sealed" },
		{ "a Unix socket", "a Unix socket, sealed" } };

	return ways[tool_daemon_transport(daemon)][tool_daemon_is_sealed(daemon)];
}

static const char *daemon_text(const struct attnbench_frame *frame)
{
	if (!frame->options->daemon.spawn)
		return "a daemon that was running";
	if (strcmp(tool_daemon_option(&frame->options->daemon, "placement.idle", "spin"), "sleep") == 0)
		return "private daemon beside it, sleeping while nothing is to be done";
	return "private daemon beside it, spinning";
}

void attnbench_report_frame(const struct attnbench_frame *frame)
{
	struct utsname kernel;
	char pause[TOOL_NUMBER_BYTES], limit[TOOL_NUMBER_BYTES];

	uname(&kernel);
	printf("\n  %s, %u core%s, %s; Linux %s; load %.1f; idle spinner held up for at most %s\n",
		base_cpu()->brand, frame->cpus.cores, frame->cpus.cores == 1 ? "" : "s",
		idle_states(), kernel.release, frame->load_average,
		tool_duration(pause, frame->pause.max));
	if (frame->options->client_sleeps)
		printf("  client sleeping while it waits, %s, on all processors, over %s",
			frame->options->daemon.spawn ? "private daemon" : daemon_text(frame), attnbench_report_way(&frame->options->daemon));
	else if (frame->cpus.apart)
		printf("  client on cpu %d, %s, over %s; cache-line ping-pong p50 %s", frame->cpus.client,
			daemon_text(frame), attnbench_report_way(&frame->options->daemon),
			tool_duration(limit, attnbench_frame_limit_ns(frame, ATTNBENCH_LIMIT_LINE)));
	else
		printf("  one processor for both: nothing is pinned; over %s", attnbench_report_way(&frame->options->daemon));
	printf("; %u rounds, %u repeated\n", frame->rounds, frame->repeats);
	if (frame->noisy && frame->cpus.apart)
		puts("  NOISY: what the machine can do at best changed by more than 20 % during a round");
}

/* ---- JSON ----------------------------------------------------------------------------------- */

void attnbench_json_hist(cJSON *object, const char *prefix, const struct base_hist *hist)
{
	char name[64];

	for (size_t i = 0; i < QUANTILES; i++) {
		snprintf(name, sizeof(name), "%s_%s_ns", prefix, quantiles[i].json);
		tool_json_add(object, name, (double)base_hist_quantile(hist, quantiles[i].at), 0);
	}
	snprintf(name, sizeof(name), "%s_max_ns", prefix);
	tool_json_add(object, name, (double)(hist->count ? hist->max : 0), 0);
}

void attnbench_json_parts(cJSON *object, const struct attnbench_result *result)
{
	cJSON *parts = cJSON_AddObjectToObject(object, "where");

	for (int i = 0; i < ATTNBENCH_PARTS; i++)
		if (result->parts[i].count)
			attnbench_json_hist(parts, part_names[i], &result->parts[i]);
}

void attnbench_json_load(cJSON *object, const struct attnbench_result *result)
{
	cJSON *failed = cJSON_CreateObject();

	tool_json_add(object, "answered", (double)result->answered, 0);
	tool_json_add(object, "answered_per_s",
		result->span_ns ? (double)result->answered * 1e9 / (double)result->span_ns : 0, 1);
	for (unsigned i = 0; i < ATTND_STATUS_END; i++)
		if (result->failed[i])
			tool_json_add(failed, attnd_status_name(i), (double)result->failed[i], 0);
	cJSON_AddItemToObject(object, "failed", failed);
	tool_json_add(object, "late", (double)result->late, 0);
	if (!result->scheduled)
		return;
	tool_json_add(object, "scheduled", (double)result->scheduled, 0);
	tool_json_add(object, "missed", (double)result->missed, 0);
	tool_json_add(object, "held_back", (double)result->held_back, 0);
	cJSON_AddBoolToObject(object, "void", attnbench_result_void(result));
}

static cJSON *machine(const struct attnbench_frame *frame)
{
	cJSON *object = cJSON_CreateObject();
	struct utsname kernel;

	uname(&kernel);
	cJSON_AddStringToObject(object, "cpu", base_cpu()->brand);
	tool_json_add(object, "cores", frame->cpus.cores, 0);
	cJSON_AddStringToObject(object, "kernel", kernel.release);
	cJSON_AddStringToObject(object, "compiler", __VERSION__);
	cJSON_AddStringToObject(object, "idle", idle_states());
	tool_json_add(object, "load", frame->load_average, 2);
	tool_json_add(object, "pause_p999_ns", (double)base_hist_quantile(&frame->pause, 0.999), 0);
	tool_json_add(object, "pause_max_ns", (double)frame->pause.max, 0);
	return object;
}

cJSON *attnbench_json_new(const struct attnbench_frame *frame, const char *command)
{
	cJSON *object = cJSON_CreateObject();

	if (!object)
		tool_die(TOOL_FAILED, "out of memory");
	cJSON_AddStringToObject(object, "command", command);
	cJSON_AddStringToObject(object, "version", BASE_VERSION);
	cJSON_AddStringToObject(object, "transport", tool_transport_names[tool_daemon_transport(&frame->options->daemon)]);
	cJSON_AddBoolToObject(object, "sealed", tool_daemon_is_sealed(&frame->options->daemon));
	tool_json_add(object, "pingpong_p50_ns", (double)attnbench_frame_limit_ns(frame, ATTNBENCH_LIMIT_LINE), 0);
	cJSON_AddBoolToObject(object, "noisy", frame->noisy);
	tool_json_add(object, "rounds", frame->rounds, 0);
	tool_json_add(object, "repeats", frame->repeats, 0);
	cJSON_AddBoolToObject(object, "pinned", frame->cpus.apart && !frame->options->client_sleeps);
	tool_json_add(object, "client_cpu", frame->cpus.client, 0);
	tool_json_add(
		object, "daemon_cpu", frame->options->daemon.spawn ? frame->cpus.daemon : -1, 0);
	cJSON_AddStringToObject(object, "daemon_build", frame->about.build);
	cJSON_AddStringToObject(object, "isa", frame->about.isa);
	tool_json_add(object, "workers", frame->about.workers, 0);
	cJSON_AddItemToObject(object, "machine", machine(frame));
	return object;
}

void attnbench_json_print(cJSON *object)
{
	char *text = cJSON_Print(object);

	if (!text)
		tool_die(TOOL_FAILED, "out of memory");
	puts(text);
	free(text);
	cJSON_Delete(object);
}

/* ---- raw ------------------------------------------------------------------------------------ */

int attnbench_report_raw(
	const struct attnbench_frame *frame, const char *command, const struct base_hist *hist)
{
	const char *path = frame->options->out_file;

	if (!path)
		return TOOL_OK;
	FILE *file = fopen(path, "we");

	if (!file) {
		tool_say("cannot write %s: %s", path, strerror(errno));
		return TOOL_FAILED;
	}
	fprintf(file, "# attnbench %s: nanoseconds, count; ping-pong p50 %lld ns%s\n", command,
		(long long)attnbench_frame_limit_ns(frame, ATTNBENCH_LIMIT_LINE), frame->noisy ? "; noisy" : "");
	int err = base_hist_dump(hist, file);

	if (fclose(file) || err) {
		tool_say("cannot write all of %s", path);
		return TOOL_FAILED;
	}
	return TOOL_OK;
}
