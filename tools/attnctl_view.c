/*
 * Reads the daemon's memory and says what changed. See attnctl_view.h.
 *
 * A reading becomes a JSON object: counts since the start, and, under names that say so, what happened in the interval. The tables
 * are made from that object (attnctl_show.c), so that both show the same.
 */
#include "tools/attnctl_view.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "attnd/attnd.h"
#include "attnd/view.h"
#include "tools/attnctl_show.h"
#include "tools/tool_args.h"
#include "tools/tool_control.h"
#include "tools/tool_daemon.h"
#include "tools/tool_text.h"

struct reading {
	struct attnd_view_daemon daemon;
	struct attnd_view_device *devices;
};

static void add(cJSON *object, const char *name, double value)
{
	cJSON_AddNumberToObject(object, name, value);
}

/* ---- reading ------------------------------------------------------------------------------------- */

static int64_t moment_of(const struct attnd_view_daemon *daemon)
{
	return daemon->stale ? daemon->alive_ns : daemon->read_ns;
}

static int read_all(const struct attnd_view *view, struct reading *reading)
{
	int err = attnd_view_read_daemon(view, &reading->daemon);

	if (!err && !reading->devices)
		reading->devices = calloc(reading->daemon.devices ? reading->daemon.devices : 1, sizeof(*reading->devices));
	if (!err && !reading->devices)
		tool_die(TOOL_FAILED, "out of memory");
	for (uint32_t i = 0; !err && i < reading->daemon.devices; i++)
		err = attnd_view_read_device(view, i, &reading->devices[i]);
	return err;
}

/* What a reading is compared with first: the daemon's start, when all counts were 0. */
static void begin_at_start(const struct reading *now, struct reading *before)
{
	before->daemon = (struct attnd_view_daemon){ .read_ns = now->daemon.started_ns };
	before->devices = calloc(now->daemon.devices ? now->daemon.devices : 1, sizeof(*before->devices));
	if (!before->devices)
		tool_die(TOOL_FAILED, "out of memory");
}

static void swap(struct reading *a, struct reading *b)
{
	const struct reading kept = *a;

	*a = *b;
	*b = kept;
}

/* ---- JSON ---------------------------------------------------------------------------------------- */

static void add_classes(cJSON *object, const char *name, const uint64_t counts[ATTND_VIEW_CLASSES])
{
	cJSON *classes = cJSON_AddObjectToObject(object, name);

	for (unsigned i = 0; i < ATTND_CLASS_END; i++)
		add(classes, tool_args_classes[i], (double)counts[i]);
}

static void add_device_time(cJSON *object, const struct reading *now, const struct reading *before, uint32_t device)
{
	const struct attnd_view_now *to = &now->devices[device].now, *from = &before->devices[device].now;
	const int64_t at_ns = moment_of(&now->daemon), since_ns = moment_of(&before->daemon);
	const double seconds = (double)(at_ns - since_ns) * 1e-9, steps = (double)(to->steps - from->steps);
	const uint64_t busy_ns = attnd_view_busy_ns(to, at_ns), busy_before_ns = attnd_view_busy_ns(from, since_ns);
	const int64_t idle_ns = at_ns - to->started_ns - (int64_t)busy_ns;
	/* Of works that landed, whatever they are. */
	const double landed = (double)(now->devices[device].counts.predictions - before->devices[device].counts.predictions);

	add(object, "busy_ns", (double)busy_ns);
	add(object, "idle_ns", idle_ns > 0 ? (double)idle_ns : 0);
	tool_json_add(object, "utilisation", seconds > 0 ? (double)(busy_ns - busy_before_ns) * 1e-9 / seconds : 0, 4);
	tool_json_add(object, "steps_per_s", seconds > 0 ? steps / seconds : 0, 2);
	tool_json_add(object, "rows_per_s", seconds > 0 ? (double)(to->step_rows - from->step_rows) / seconds : 0, 2);
	tool_json_add(object, "step_actual_ns", landed > 0 ? (double)(to->actual_ns - from->actual_ns) / landed : 0, 0);
	tool_json_add(object, "step_predicted_ns", landed > 0 ? (double)(to->predicted_ns - from->predicted_ns) / landed : 0, 0);
}

static void add_now(cJSON *object, const struct attnd_view_now *now)
{
	cJSON *kv = cJSON_AddObjectToObject(object, "kv"), *counters = cJSON_AddObjectToObject(object, "counters");
	const struct {
		const char *name;
		uint64_t value;
	} numbers[] = {
		{ "steps", now->steps },
		{ "step_rows", now->step_rows },
		{ "decode_rows", now->decode_rows },
		{ "prefill_rows", now->prefill_rows },
		{ "step_sequences", now->step_sequences },
		{ "attends", now->attends },
		{ "predicted_ns", now->predicted_ns },
		{ "actual_ns", now->actual_ns },
		{ "stream_completions", now->stream_completions },
		{ "parked", now->parked },
		{ "gone", now->gone },
		{ "prefix_lookups", now->prefix_lookups },
		{ "prefix_hits", now->prefix_hits },
		{ "prefix_prompt_tokens", now->prefix_prompt_tokens },
		{ "prefix_tokens", now->prefix_tokens },
		{ "prefix_evictions", now->prefix_evictions },
		{ "prefix_pages", now->prefix_pages },
		{ "fair_drift_ns", now->fair_drift_ns },
	};

	add_classes(object, "waiting", now->waiting);
	add_classes(object, "running", now->running);
	add(object, "sessions", (double)now->sessions);
	add(kv, "total", (double)now->kv_bytes);
	add(kv, "used", (double)now->kv_used);
	add(kv, "cached", (double)now->kv_cached);
	add(kv, "dirty", (double)now->kv_dirty);
	add(kv, "free", (double)now->kv_free);
	add(kv, "blocks", (double)now->kv_blocks);
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		add(counters, numbers[i].name, (double)numbers[i].value);
}

static void add_prediction(cJSON *object, const struct attnd_view_counts *now, const struct attnd_view_counts *before)
{
	cJSON *prediction = cJSON_AddObjectToObject(object, "prediction"), *bands = cJSON_AddArrayToObject(prediction, "band"), *band;
	struct attnd_view_counts lately = *now;

	for (unsigned i = 0; i < ATTND_VIEW_ERRORS; i++)
		lately.errors[i] -= before->errors[i];
	add(prediction, "steps", (double)now->predictions);
	tool_json_add(prediction, "error_median", attnd_view_error(&lately, 0.5), 4);
	tool_json_add(prediction, "error_p99", attnd_view_error(&lately, 0.99), 4);
	for (unsigned i = 0; i < ATTND_VIEW_MODELS; i++) {
		if (now->band[i] == 0)
			continue;
		band = cJSON_CreateObject();
		add(band, "model", i);
		tool_json_add(band, "band", (double)now->band[i] * 1e-6, 4);
		cJSON_AddItemToArray(bands, band);
	}
}

/* One operation on all devices together. */
static void add_op(cJSON *array, const struct reading *now, const struct reading *before, unsigned op, double seconds)
{
	uint64_t received = 0, admitted = 0, earlier = 0, ended[ATTND_VIEW_STATUSES] = { 0 };

	for (uint32_t d = 0; d < now->daemon.devices; d++) {
		const struct attnd_view_counts *counts = &now->devices[d].counts;

		received += counts->received[op];
		admitted += counts->admitted[op];
		earlier += before->devices[d].counts.received[op];
		for (unsigned s = 0; s < ATTND_VIEW_STATUSES; s++)
			ended[s] += counts->ended[op][s];
	}
	if (received == 0)
		return;
	cJSON *item = cJSON_CreateObject(), *statuses;

	cJSON_AddStringToObject(item, "op", op ? attnd_op_name(op) : "unknown");
	add(item, "received", (double)received);
	tool_json_add(item, "received_per_s", seconds > 0 ? (double)(received - earlier) / seconds : 0, 2);
	add(item, "admitted", (double)admitted);
	/* Nothing was executed. */
	add(item, "refused", (double)(received > admitted ? received - admitted : 0));
	statuses = cJSON_AddObjectToObject(item, "ended");
	for (unsigned s = 0; s < ATTND_STATUS_END; s++)
		if (ended[s])
			add(statuses, attnd_status_name(s), (double)ended[s]);
	cJSON_AddItemToArray(array, item);
}

static void add_front(cJSON *root, const struct attnd_view_daemon *daemon)
{
	cJSON *front = cJSON_AddObjectToObject(root, "front");

	add(front, "records", (double)daemon->records);
	add(front, "completions", (double)daemon->completions);
	add(front, "stream_completions", (double)daemon->stream_completions);
	add(front, "bad_record", (double)daemon->bad_record);
	add(front, "bad_op", (double)daemon->bad_op);
	add(front, "bad_range", (double)daemon->bad_range);
	add(front, "queue_full", (double)daemon->queue_full);
	add(front, "dropped", (double)daemon->dropped);
}

static cJSON *json_of(const struct reading *now, const struct reading *before)
{
	const struct attnd_view_daemon *daemon = &now->daemon;
	const double seconds = (double)(moment_of(daemon) - moment_of(&before->daemon)) * 1e-9;
	cJSON *root = cJSON_CreateObject(), *devices, *requests;
	char boot_id[24];

	snprintf(boot_id, sizeof(boot_id), "%016llx", (unsigned long long)daemon->boot_id);
	add(root, "pid", daemon->pid);
	cJSON_AddStringToObject(root, "boot_id", boot_id);
	tool_json_add(root, "uptime_s", (double)(moment_of(daemon) - daemon->started_ns) * 1e-9, 3);
	cJSON_AddBoolToObject(root, "stale", daemon->stale);
	tool_json_add(root, "silent_s", (double)(daemon->read_ns - daemon->alive_ns) * 1e-9, 3);
	tool_json_add(root, "interval_s", seconds, 3);
	add(root, "clients", (double)daemon->clients);
	add_front(root, daemon);
	requests = cJSON_AddArrayToObject(root, "requests");
	for (unsigned op = 0; op < ATTND_OP_END; op++)
		add_op(requests, now, before, op, seconds);
	devices = cJSON_AddArrayToObject(root, "devices");
	for (uint32_t d = 0; d < daemon->devices; d++) {
		cJSON *item = cJSON_CreateObject();

		add(item, "device", d);
		add_device_time(item, now, before, d);
		add_now(item, &now->devices[d].now);
		add_prediction(item, &now->devices[d].counts, &before->devices[d].counts);
		cJSON_AddItemToArray(devices, item);
	}
	return root;
}

/* ---- the command --------------------------------------------------------------------------------- */

static void print(const struct reading *now, const struct reading *before, bool json, bool again)
{
	cJSON *root = json_of(now, before);
	char *text = json ? cJSON_PrintUnformatted(root) : NULL;

	if (json && !text)
		tool_die(TOOL_FAILED, "out of memory");
	if (json)
		puts(text);
	/* A person sees one picture that changes; a file gets them one after the other. */
	else if (again && isatty(STDOUT_FILENO))
		fputs("\033[H\033[2J", stdout);
	else if (again)
		putchar('\n');
	if (!json)
		attnctl_show_view(root);
	fflush(stdout);
	free(text);
	cJSON_Delete(root);
}

static void wait_for(double seconds)
{
	struct timespec left = { .tv_sec = (time_t)seconds, .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9) };

	while (nanosleep(&left, &left))
		;
}

int attnctl_view(const char *address, double watch_s, bool json)
{
	struct reading now = { 0 }, before = { 0 };
	struct attnd_view *view;
	int err = attnd_view_open(&view, address);

	if (err)
		return tool_daemon_failed(err, "looking at what the daemon does");
	err = read_all(view, &now);
	if (!err)
		begin_at_start(&now, &before);
	if (!err && watch_s == 0)
		print(&now, &before, json, false);
	while (!err && watch_s > 0 && !now.daemon.stale) {
		swap(&now, &before);
		wait_for(watch_s);
		err = read_all(view, &now);
		if (!err)
			print(&now, &before, json, true);
	}
	if (err)
		tool_daemon_failed(err, "reading what the daemon does");
	attnd_view_close(view);
	free(now.devices);
	free(before.devices);
	return err ? TOOL_FAILED : now.daemon.stale ? TOOL_NO_DAEMON : TOOL_OK;
}
