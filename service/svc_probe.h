/*
 * How the control thread looks at a scheduler that another thread owns: a mailbox. Control asks,
 * the owner's agent copies between two polls, control reads the copy. The data path pays one
 * relaxed load per poll.
 */
#ifndef SVC_PROBE_H
#define SVC_PROBE_H

#include <stdatomic.h>
#include <stdint.h>

#include "sched/sched.h"
#include "service/svc_agent.h"

enum { SVC_PROBE_SESSIONS = 4096 };

enum svc_probe_state { SVC_PROBE_IDLE, SVC_PROBE_ASKED, SVC_PROBE_ANSWERED };

struct svc_probe {
	_Atomic uint32_t state;
	struct sched *sched;
	struct svc_agent *agent;
	struct sched_counters counters;
	struct sched_tenant_view tenants[SCHED_TENANTS_MAX];
	uint32_t tenant_count;
	bool idle;
	uint32_t session_count;
	struct sched_session_view sessions[SVC_PROBE_SESSIONS];
};

/* The role: svc_agent polls it beside the scheduler. */
int svc_probe_poll(void *self);
/* Control thread: waits up to a second for a copy. -ETIMEDOUT with a message. */
int svc_probe_ask(struct svc_probe *probe);

#endif
