/*
 * What attnctl shows: one line in, one JSON object out. Control thread.
 */
#ifndef SVC_STATUS_H
#define SVC_STATUS_H

#include "service/svc_control.h"

/* The answer to "status", "sessions", "topology", "models", "view", "reload" or "drain" as text (free(3)
 * it); {"error": ...} for anything else. NULL when memory is short. *fd: goes with it, and stays ours; -1: none does. */
char *svc_status_answer(struct svc_control *control, const char *command, int *fd);

#endif
