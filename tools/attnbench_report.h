/*
 * What was measured, as tables and as JSON.
 */
#ifndef ATTNBENCH_REPORT_H
#define ATTNBENCH_REPORT_H

#include <cjson/cJSON.h>
#include <stdint.h>

#include "tools/attnbench_frame.h"
#include "tools/tool_table.h"

/* A table of percentiles: "p50 p90 p99 p99.9 p99.99 max", a row for each histogram. */
struct tool_table *attnbench_report_table(const char *first_heading);
void attnbench_report_row(struct tool_table *table, const char *name, const struct base_hist *hist);
/* The parts of the way as such a table, printed. */
void attnbench_report_parts(const struct attnbench_result *result);
/* "TCP, sealed" */
const char *attnbench_report_way(const struct tool_daemon *daemon);
/* Where it was measured and how quiet it was; and what went wrong, if anything did. */
void attnbench_report_frame(const struct attnbench_frame *frame);
void attnbench_report_trouble(const struct attnbench_result *result);

/* The same for machines. hist members are PREFIX_p50_ns, _p90_ns, _p99_ns, _p999_ns, _p9999_ns,
 * _max_ns. */
void attnbench_json_hist(cJSON *object, const char *prefix, const struct base_hist *hist);
void attnbench_json_parts(cJSON *object, const struct attnbench_result *result);
void attnbench_json_load(cJSON *object, const struct attnbench_result *result);
/* A new object with what every command reports. */
cJSON *attnbench_json_new(const struct attnbench_frame *frame, const char *command);
/* Prints and frees. */
void attnbench_json_print(cJSON *object);

/* The raw histogram into --out, if that was asked for. An exit code. */
int attnbench_report_raw(
	const struct attnbench_frame *frame, const char *command, const struct base_hist *hist);

#endif
