/*
 * A device is measured before it serves (sched/sched_calibrate.h), and the log says what was found.
 */
#ifndef SVC_CALIBRATE_H
#define SVC_CALIBRATE_H

#include <stdint.h>

#include "sched/sched.h"

/* On the thread that will poll the scheduler, before it does. budget_ns of each model, and of raw attention; 0: not at all. role: who
 * says it in the log. What goes wrong is said there, and hinders nobody. */
void svc_calibrate(struct sched *sched, const struct sched_model *models, uint32_t model_count, int64_t budget_ns, const char *role);

#endif
