/*
 * Asks the daemon's control socket: one word goes out, one JSON object comes back. And reading
 * of such objects.
 *
 * Main thread; every wait has a bound.
 */
#ifndef TOOL_CONTROL_H
#define TOOL_CONTROL_H

#include <cjson/cJSON.h>
#include <stdint.h>

enum { TOOL_CONTROL_TIMEOUT_MS = 10000, TOOL_CONTROL_ANSWER_MAX = 16 << 20 };

/* *answer is the text as it came (free it); NUL-terminated. 0; -ENOENT, -ECONNREFUSED, -EACCES:
 * no daemon for us there; -ETIMEDOUT; -EPROTO: it sent no end, or too much. With a message. */
int tool_control_ask(const char *path, const char *word, char **answer);

/* Members by a dotted name ("kv.used"); what is not there, or of another type, is 0 and "". */
double tool_json_number(const cJSON *object, const char *name);
const char *tool_json_string(const cJSON *object, const char *name);
const cJSON *tool_json_member(const cJSON *object, const char *name);

/* Adds a number rounded to so many decimals, so that no text of 17 digits appears. */
void tool_json_add(cJSON *object, const char *name, double value, int decimals);

#endif
