/*
 * The daemon's answers as tables.
 *
 * Each takes the parsed answer and prints to standard output. Members that are missing show as
 * empty or 0, so that an older or newer daemon can be asked.
 */
#ifndef ATTNCTL_SHOW_H
#define ATTNCTL_SHOW_H

#include <cjson/cJSON.h>

void attnctl_show_status(const cJSON *answer);
void attnctl_show_sessions(const cJSON *answer);
void attnctl_show_topology(const cJSON *answer);
void attnctl_show_models(const cJSON *answer);
/* What attnctl_view.c makes of a reading. */
void attnctl_show_view(const cJSON *reading);
/* For orders, whose answer is only that they were taken. */
void attnctl_show_done(const cJSON *answer);

#endif
