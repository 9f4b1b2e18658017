/*
 * What attnctl shows: one line in, one JSON object out. Control thread.
 */
#ifndef SVC_STATUS_H
#define SVC_STATUS_H

#include "service/svc_control.h"

/* The answer to "status", "sessions", "topology", "models", "reload" or "drain" as text (free(3)
 * it); {"error": ...} for anything else. NULL when memory is short. */
char *svc_status_answer(struct svc_control *control, const char *command);

#endif
