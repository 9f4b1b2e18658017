/*
 * What replays came to: tables for people, JSON for programs, curves as SVG. Main thread; cold.
 */
#ifndef ATTNSIM_REPORT_H
#define ATTNSIM_REPORT_H

#include "tools/attnsim_run.h"

/* A replay and its result; of a sweep, one of many. */
struct attnsim_point {
	struct attnsim_setup setup;
	struct attnsim_result result;
	int rc;
	char message[256]; /* why, when rc < 0 */
};

void attnsim_report_table(
	const struct attnsim_point *point, const struct attnsim_prefix_rates *prefixes, const char *trace_name);
void attnsim_report_sweep(const struct attnsim_point *points, size_t count, const char *trace_name);
/* One object, or for a sweep one with a list of points. */
void attnsim_report_json(const struct attnsim_point *points, size_t count, bool sweep,
	const struct attnsim_prefix_rates *prefixes, const char *trace_name);
/* Goodput, misses and p99 of the first token over load, a curve for each policy. An exit code. */
int attnsim_report_svg(const char *path, const struct attnsim_point *points, size_t count, const char *trace_name);

#endif
