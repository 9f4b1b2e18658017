/*
 * The usual measurement of work that computes. See attnbench_open.h.
 */
#include "tools/attnbench_open.h"

#include <stdio.h>

#include "tools/attnbench_report.h"
#include "tools/tool_control.h"
#include "tools/tool_text.h"

/* The open loop's rate when none is asked for: half of what the closed loop reached, so that
 * queues stay short. */
static const double share_of_capacity = 0.5;

/* A third of the round finds the capacity, the rest is the open loop. */
static int round_of(void *context, struct attnbench_frame *frame, int64_t span_ns,
	struct attnbench_result *results)
{
	struct attnbench_work *work = context;
	const struct attnbench_options *options = frame->options;
	struct attnbench_pace pace;
	struct attnbench_result *closed = &results[ATTNBENCH_CLOSED];
	int err = attnbench_closed(frame->client, &frame->clock, &work->target, options->in_flight,
		span_ns / 3, closed);

	if (err)
		return err;
	work->capacity = (double)closed->answered * 1e9 / (double)closed->span_ns;
	work->rate = options->rate > 0 ? options->rate : work->capacity * share_of_capacity;
	/* Where every answer was an error there is no rate; the errors are reported. */
	if (work->rate <= 0)
		return 0;
	attnbench_pace_start(&pace, work->rate, options->poisson, options->seed + frame->rounds, 0);
	return attnbench_open(frame->client, &frame->clock, &work->target, &pace,
		span_ns - span_ns / 3, &results[ATTNBENCH_OPEN]);
}

static int warm_up(struct attnbench_work *work, struct attnbench_frame *frame)
{
	static struct attnbench_result warm;
	int err = attnbench_closed(frame->client, &frame->clock, &work->target, 1,
		(int64_t)(frame->options->seconds * 1e8), &warm);

	return err ? tool_daemon_failed(err, "warming up") : TOOL_OK;
}

int attnbench_work_measure(struct attnbench_work *work, struct attnbench_frame *frame)
{
	work->target.priority_class = (uint8_t)frame->options->priority_class;
	work->target.deadline_ns = (int64_t)(frame->options->deadline_us * 1e3);
	int status = warm_up(work, frame);

	return status == TOOL_OK ? attnbench_frame_measure(frame, round_of, work) : status;
}

static void print_json(struct attnbench_work *work, struct attnbench_frame *frame,
	const struct attnbench_extra *extra)
{
	cJSON *object = attnbench_json_new(frame, work->command), *closed, *open;

	extra->json(extra->context, object, work);
	closed = cJSON_AddObjectToObject(object, "closed");
	tool_json_add(closed, "in_flight", frame->options->in_flight, 0);
	attnbench_json_hist(closed, "latency", &frame->all[ATTNBENCH_CLOSED].latency);
	attnbench_json_load(closed, &frame->all[ATTNBENCH_CLOSED]);
	open = cJSON_AddObjectToObject(object, "open");
	tool_json_add(open, "rate", work->rate, 3);
	cJSON_AddBoolToObject(open, "poisson", frame->options->poisson);
	attnbench_json_hist(open, "latency", &frame->all[ATTNBENCH_OPEN].latency);
	attnbench_json_load(open, &frame->all[ATTNBENCH_OPEN]);
	attnbench_json_parts(open, &frame->all[ATTNBENCH_OPEN]);
	attnbench_json_print(object);
}

static void print_tables(struct attnbench_work *work, struct attnbench_frame *frame,
	const struct attnbench_extra *extra)
{
	struct tool_table *table = attnbench_report_table("");
	char name[64];

	tool_table_title(stdout, "%s", work->title);
	snprintf(name, sizeof(name), "closed loop, %u in flight", frame->options->in_flight);
	attnbench_report_row(table, name, &frame->all[ATTNBENCH_CLOSED].latency);
	snprintf(name, sizeof(name), "open loop, %.*f/s%s", work->rate < 100 ? 1 : 0, work->rate,
		frame->options->poisson ? " at random" : "");
	attnbench_report_row(table, name, &frame->all[ATTNBENCH_OPEN].latency);
	tool_table_colour(table, "green");
	tool_table_print(table, stdout);
	extra->text(extra->context, work, frame);
	attnbench_report_trouble(&frame->all[ATTNBENCH_CLOSED]);
	attnbench_report_trouble(&frame->all[ATTNBENCH_OPEN]);
	attnbench_report_parts(&frame->all[ATTNBENCH_OPEN]);
	attnbench_report_frame(frame);
}

int attnbench_work_report(struct attnbench_work *work, struct attnbench_frame *frame,
	const struct attnbench_extra *extra)
{
	if (frame->options->json)
		print_json(work, frame, extra);
	else
		print_tables(work, frame, extra);
	if (frame->all[ATTNBENCH_CLOSED].answered == 0) {
		tool_say("no request was answered with a result");
		return TOOL_FAILED;
	}
	return attnbench_report_raw(frame, work->command, &frame->all[ATTNBENCH_OPEN].latency);
}
