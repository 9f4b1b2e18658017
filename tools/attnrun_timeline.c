/*
 * What happened to one's own requests, step by step, out of the daemon's memory. See attnrun.h.
 */
#include <stdlib.h>

#include "attnd/view.h"
#include "tools/attnrun.h"
#include "tools/tool_args.h"
#include "tools/tool_table.h"
#include "tools/tool_text.h"

enum { SHOWN = 64 };

/* After the request was received; "-" for what never happened. */
static void cell_since(struct tool_table *table, const struct attnd_timeline *timeline, int64_t at_ns)
{
	char text[TOOL_NUMBER_BYTES];

	tool_table_cell(table, "%s", at_ns ? tool_duration(text, at_ns - timeline->received_ns) : "-");
}

static void show_requests(const struct attnd_timeline *timelines, int count, FILE *stream)
{
	struct tool_table *table = tool_table_new(
		">request|what|class|>admitted|>begun|>last step|>done|>predicted|>steps|>rows|>tokens|status");

	for (int i = 0; i < count; i++) {
		const struct attnd_timeline *timeline = &timelines[i];

		tool_table_row(table);
		tool_table_cell(table, "%llu", (unsigned long long)timeline->request_id);
		tool_table_cell(table, "%s", attnd_op_name(timeline->op));
		tool_table_cell(table, "%s", timeline->priority_class < ATTND_CLASS_END ? tool_args_classes[timeline->priority_class] : "?");
		cell_since(table, timeline, timeline->admitted_ns);
		cell_since(table, timeline, timeline->started_ns);
		cell_since(table, timeline, timeline->last_step_ns);
		cell_since(table, timeline, timeline->done_ns);
		cell_since(table, timeline, timeline->predicted_ns);
		tool_table_cell(table, "%u", timeline->steps);
		tool_table_cell(table, "%u", timeline->rows);
		tool_table_cell(table, "%u", timeline->tokens);
		tool_table_cell(table, "%s%s", timeline->done_ns ? attnd_status_name(timeline->status) : "on its way",
			timeline->flags & ATTND_TIMELINE_MISSED ? ", late" : "");
	}
	tool_table_title(stream, "Requests, times after each was received");
	tool_table_print(table, stream);
}

static void show_steps(const struct attnd_timeline *timelines, int count, FILE *stream)
{
	struct tool_table *table = tool_table_new(">request|>step|>rows|>landed|>after the one before|>was on the device for");
	bool any = false;

	for (int i = 0; i < count; i++) {
		const struct attnd_timeline *timeline = &timelines[i];

		for (uint32_t s = 0; s < timeline->steps && s < ATTND_TIMELINE_STEPS && !(timeline->flags & ATTND_TIMELINE_CUT); s++) {
			char text[TOOL_NUMBER_BYTES];

			any = true;
			tool_table_row(table);
			tool_table_cell(table, "%llu", (unsigned long long)timeline->request_id);
			tool_table_cell(table, "%u of %u", s + 1, timeline->steps);
			tool_table_cell(table, "%u", timeline->step_rows[s]);
			cell_since(table, timeline, timeline->step_ns[s]);
			tool_table_cell(table, "%s",
				s ? tool_duration(text, timeline->step_ns[s] - timeline->step_ns[s - 1]) : "-");
			tool_table_cell(table, "%s", tool_duration(text, timeline->step_took_ns[s]));
		}
	}
	if (any)
		tool_table_title(stream, "\nTheir first %d steps", ATTND_TIMELINE_STEPS);
	tool_table_print(table, stream);
}

void attnrun_timeline_print(const struct attnd_client *client, FILE *stream)
{
	struct attnd_timeline *timelines = malloc(sizeof(*timelines) * SHOWN);
	int count;

	if (!timelines)
		tool_die(TOOL_FAILED, "out of memory");
	count = attnd_view_timelines(client, timelines, SHOWN);
	if (count < 0) {
		tool_say("no timeline: %s", attnd_error());
	} else {
		show_requests(timelines, count, stream);
		show_steps(timelines, count, stream);
	}
	free(timelines);
}
