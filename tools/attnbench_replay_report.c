/*
 * attnbench replay: what came out, as a table, as JSON and request by request, under the names that attnsim uses. Main
 * thread, after the replay.
 */
#include "tools/attnbench_replay.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/base_error.h"
#include "tools/attnbench_report.h"
#include "tools/tool_control.h"
#include "tools/tool_table.h"
#include "tools/tool_text.h"

static const double MS = 1e-6;

static struct attnbench_replay_group judge(const struct attnbench_replay *replay, unsigned urgency)
{
	struct attnbench_replay_group group;

	if (attnbench_replay_judge(&replay->jobs, urgency, replay->over_ns, &group))
		tool_die(TOOL_FAILED, "%s", base_error_message());
	return group;
}

static double share_of(uint64_t part, uint64_t whole)
{
	return whole ? (double)part / (double)whole : 0.0;
}

/* Until the last arrival. */
static double seconds_of(const struct attnbench_replay *replay)
{
	const int64_t end_ns = attnbench_replay_end_ns(&replay->jobs);

	return end_ns > 0 ? (double)end_ns * 1e-9 : 1e-9;
}

/* As for every open loop here: more than 0.1 % of the sends were late. */
static bool is_void(const struct attnbench_replay *replay)
{
	return replay->sender.late * 1000 > replay->jobs.count;
}

static const char *file_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* ---- JSON ----------------------------------------------------------------------------------- */

static void put_group(cJSON *object, const struct attnbench_replay_group *group)
{
	tool_json_add(object, "offered", (double)group->offered, 0);
	tool_json_add(object, "admitted", (double)group->admitted, 0);
	tool_json_add(object, "refused", (double)group->refused, 0);
	tool_json_add(object, "missed_admitted", (double)group->missed, 0);
	tool_json_add(object, "missed_share", share_of(group->missed, group->admitted), 6);
	tool_json_add(object, "missed_seen", (double)group->missed_seen, 0);
	tool_json_add(object, "good", (double)group->good, 0);
	tool_json_add(object, "failed", (double)group->failed, 0);
	tool_json_add(object, "unanswered", (double)group->unanswered, 0);
	tool_json_add(object, "ttft_p50_ms", (double)group->ttft_p50_ns * MS, 3);
	tool_json_add(object, "ttft_p99_ms", (double)group->ttft_p99_ns * MS, 3);
}

static void put_frame(cJSON *object, const struct attnbench_replay *replay)
{
	const struct attnbench_replay_plan *plan = &replay->plan;
	cJSON *ideal;

	cJSON_AddStringToObject(object, "command", "replay");
	cJSON_AddStringToObject(object, "trace", file_name(replay->trace_name));
	cJSON_AddStringToObject(object, "trace_kind", replay->trace.kind);
	cJSON_AddStringToObject(object, "transport", tool_transport_names[tool_daemon_transport(&replay->daemon)]);
	cJSON_AddBoolToObject(object, "sealed", tool_daemon_is_sealed(&replay->daemon));
	cJSON_AddStringToObject(object, "model", replay->model.name);
	cJSON_AddStringToObject(object, "weights", replay->model.weights);
	tool_json_add(object, "threads", replay->about.workers + 1, 0);
	cJSON_AddStringToObject(object, "isa", replay->about.isa);
	cJSON_AddStringToObject(object, "build", replay->about.build);
	tool_json_add(object, "load_average", replay->load_average, 2);
	tool_json_add(object, "seed", (double)plan->seed, 0);
	tool_json_add(object, "scale", plan->scale, 4);
	tool_json_add(object, "load", plan->load, 4);
	tool_json_add(object, "sessions", replay->sessions, 0);
	cJSON_AddBoolToObject(object, "deadlines", !replay->ignores_deadlines);
	tool_json_add(object, "capacity_rps", replay->capacity_rps, 4);
	if (replay->capacity_tokens_s > 0.0)
		tool_json_add(object, "capacity_tokens_s", replay->capacity_tokens_s, 2);
	ideal = cJSON_AddObjectToObject(object, "ideal");
	tool_json_add(ideal, "fixed_ms", plan->ideal.fixed_ns * MS, 6);
	tool_json_add(ideal, "prompt_token_ms", plan->ideal.token_ns * MS, 6);
	tool_json_add(ideal, "between_ms", replay->between_ns * MS, 6);
}

static void put_sends(cJSON *object, const struct attnbench_replay *replay)
{
	const struct attnbench_replay_sender *sender = &replay->sender;

	tool_json_add(object, "scheduled", (double)replay->jobs.count, 0);
	tool_json_add(object, "late", (double)sender->late, 0);
	tool_json_add(object, "late_p99_ms", (double)base_hist_quantile(&sender->lateness, 0.99) * MS, 3);
	tool_json_add(object, "late_max_ms", (double)(sender->lateness.count ? sender->lateness.max : 0) * MS, 3);
	tool_json_add(object, "late_beyond_ms", (double)sender->tolerance_ns * MS, 3);
	tool_json_add(object, "waited_most", (double)sender->waited_most, 0);
	cJSON_AddBoolToObject(object, "void", is_void(replay));
}

static void put_view(cJSON *object, const struct attnbench_replay *replay)
{
	cJSON *prediction = cJSON_AddObjectToObject(object, "prediction");

	tool_json_add(prediction, "steps", (double)replay->view.counts.predictions, 0);
	tool_json_add(prediction, "error_median", attnd_view_error(&replay->view.counts, 0.5), 4);
	tool_json_add(prediction, "error_p99", attnd_view_error(&replay->view.counts, 0.99), 4);
	tool_json_add(object, "prefix_hit_rate", share_of(replay->view.found_tokens, replay->view.prompt_tokens), 4);
}

static void print_json(const struct attnbench_replay *replay)
{
	const struct attnbench_replay_group all = judge(replay, ATTNBENCH_REPLAY_URGENCIES);
	const double seconds = seconds_of(replay);
	uint64_t refused[ATTND_STATUS_END];
	cJSON *object = cJSON_CreateObject(), *part;

	put_frame(object, replay);
	tool_json_add(object, "seconds", seconds, 3);
	tool_json_add(object, "offered_rps", (double)all.offered / seconds, 4);
	put_group(object, &all);
	tool_json_add(object, "goodput_rps", (double)all.good / seconds, 4);
	part = cJSON_AddObjectToObject(object, "refused_by");
	attnbench_replay_refusals(&replay->jobs, refused);
	for (unsigned i = 0; i < ATTND_STATUS_END; i++)
		if (refused[i])
			tool_json_add(part, attnd_status_name(i), (double)refused[i], 0);
	part = cJSON_AddObjectToObject(object, "classes");
	for (unsigned u = 0; u < ATTNBENCH_REPLAY_URGENCIES; u++) {
		const struct attnbench_replay_group group = judge(replay, u);

		put_group(cJSON_AddObjectToObject(part, attnbench_replay_urgencies[u]), &group);
	}
	put_sends(object, replay);
	if (replay->has_view)
		put_view(object, replay);
	attnbench_json_print(object);
}

/* ---- the table -------------------------------------------------------------------------------- */

static void group_row(struct tool_table *table, const char *name, const struct attnbench_replay_group *group)
{
	char text[TOOL_NUMBER_BYTES];

	tool_table_row(table);
	tool_table_cell(table, "%s", name);
	tool_table_cell(table, "%s", tool_count(text, group->offered));
	tool_table_cell(table, "%s", tool_count(text, group->admitted));
	tool_table_cell(table, "%s", tool_count(text, group->refused));
	tool_table_cell(table, "%s", tool_count(text, group->missed));
	tool_table_cell(table, "%.3f %%", 100 * share_of(group->missed, group->admitted));
	tool_table_cell(table, "%s", tool_count(text, group->good));
	tool_table_cell(table, "%s", tool_duration(text, group->ttft_p50_ns));
	tool_table_cell(table, "%s", tool_duration(text, group->ttft_p99_ns));
}

static void print_trouble(const struct attnbench_replay *replay, const struct attnbench_replay_group *all)
{
	const struct attnbench_replay_sender *sender = &replay->sender;
	uint64_t refused[ATTND_STATUS_END];
	char most[TOOL_NUMBER_BYTES];

	attnbench_replay_refusals(&replay->jobs, refused);
	for (unsigned i = 0; i < ATTND_STATUS_END; i++)
		if (refused[i])
			printf("  %llu refused %s: %s\n", (unsigned long long)refused[i], attnd_status_name(i), attnd_status_text(i));
	if (all->failed)
		printf("  %llu were admitted and ended by an error\n", (unsigned long long)all->failed);
	if (all->unanswered)
		printf("  %llu had no answer when the replay was over\n", (unsigned long long)all->unanswered);
	if (sender->waited_most)
		printf("  up to %zu waited here for one of %u sessions\n", sender->waited_most, replay->sessions);
	if (is_void(replay))
		printf("  VOID: this program was late for %llu of %zu sends, more than 0.1 %%, at most by %s\n",
			(unsigned long long)sender->late, replay->jobs.count, tool_duration(most, sender->lateness.max));
}

static void print_frame(const struct attnbench_replay *replay)
{
	const struct attnbench_replay_plan *plan = &replay->plan;
	char fixed[TOOL_NUMBER_BYTES], token[TOOL_NUMBER_BYTES], between[TOOL_NUMBER_BYTES];

	printf("\n  %s (%s): a prompt takes %s and %s a token, each token of an answer %s, on the idle daemon\n", replay->model.name,
		replay->model.weights, tool_duration(fixed, (int64_t)plan->ideal.fixed_ns),
		tool_duration(token, (int64_t)plan->ideal.token_ns), tool_duration(between, (int64_t)replay->between_ns));
	printf("  first token by: %.0f %% in %g, %.0f %% in %g times that, %.0f %% whenever; lengths 1/%.4g; seed %llu\n",
		100 * plan->share[ATTNBENCH_REPLAY_TIGHT], plan->slack[ATTNBENCH_REPLAY_TIGHT],
		100 * plan->share[ATTNBENCH_REPLAY_NORMAL], plan->slack[ATTNBENCH_REPLAY_NORMAL],
		100 * plan->share[ATTNBENCH_REPLAY_NONE], plan->scale, (unsigned long long)plan->seed);
	if (replay->has_view)
		printf("  step times were predicted with an error of %.1f %% (median), %.1f %% (p99); %.1f %% of prompts found in the cache\n",
			100 * attnd_view_error(&replay->view.counts, 0.5), 100 * attnd_view_error(&replay->view.counts, 0.99),
			100 * share_of(replay->view.found_tokens, replay->view.prompt_tokens));
	printf("  %u threads, %s; over %s", replay->about.workers + 1, replay->about.isa, attnbench_report_way(&replay->daemon));
	if (replay->load_average >= 0)
		printf("; load average before %.2f", replay->load_average);
	puts(replay->ignores_deadlines ? "; the daemon was told no deadlines" : "");
}

static void print_table(const struct attnbench_replay *replay)
{
	const struct attnbench_replay_group all = judge(replay, ATTNBENCH_REPLAY_URGENCIES);
	const double seconds = seconds_of(replay);
	struct tool_table *table = tool_table_new("|>offered|>admitted|>refused|>missed|>of admitted|>good|>first token p50|>p99");

	tool_table_title(stdout, "%s: %.4g requests/s for %.3g s, %.2f times the capacity of %.4g", file_name(replay->trace_name),
		(double)all.offered / seconds, seconds, replay->plan.load, replay->capacity_rps);
	group_row(table, "all", &all);
	tool_table_colour(table, "green");
	for (unsigned u = 0; u < ATTNBENCH_REPLAY_URGENCIES; u++) {
		const struct attnbench_replay_group group = judge(replay, u);

		group_row(table, attnbench_replay_urgencies[u], &group);
	}
	tool_table_print(table, stdout);
	printf("  goodput %.4g requests/s\n", (double)all.good / seconds);
	print_trouble(replay, &all);
	print_frame(replay);
}

/* ---- request by request ------------------------------------------------------------------------ */

/* Times in microseconds from the start of the replay; nothing where there is none. */
static void put_time(FILE *file, int64_t ns)
{
	fputc(',', file);
	if (ns)
		fprintf(file, "%.3f", (double)ns * 1e-3);
}

static int write_requests(const struct attnbench_replay *replay)
{
	FILE *file = fopen(replay->out_file, "we");
	bool is_bad;

	if (!file) {
		tool_say("cannot write %s: %s", replay->out_file, strerror(errno));
		return TOOL_FAILED;
	}
	fputs("urgency,prompt,output,tokens,status,arrival_us,sent_us,deadline_us,predicted_us,first_us,seen_us,last_us\n", file);
	for (size_t i = 0; i < replay->jobs.count; i++) {
		const struct attnbench_replay_job *job = &replay->jobs.jobs[i];

		fprintf(file, "%s,%u,%u,%u,%s,%.3f", attnbench_replay_urgencies[job->urgency], job->prompt, job->output, job->tokens,
			job->ended ? attnd_status_name(job->status) : "unanswered", (double)job->arrival_ns * 1e-3);
		put_time(file, job->sent_ns);
		put_time(file, job->deadline_ns);
		put_time(file, job->predicted_ns);
		put_time(file, job->first_ns);
		put_time(file, job->seen_ns);
		put_time(file, job->last_ns);
		fputc('\n', file);
	}
	is_bad = ferror(file) != 0;
	if (fclose(file) || is_bad) {
		tool_say("cannot write all of %s", replay->out_file);
		return TOOL_FAILED;
	}
	return TOOL_OK;
}

int attnbench_replay_report(const struct attnbench_replay *replay)
{
	if (replay->json)
		print_json(replay);
	else
		print_table(replay);
	return replay->out_file ? write_requests(replay) : TOOL_OK;
}
