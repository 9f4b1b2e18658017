/*
 * See svc_probe.h.
 */
#include "service/svc_probe.h"

#include <errno.h>
#include <time.h>

#include "base/base_error.h"

int svc_probe_poll(void *self)
{
	struct svc_probe *probe = self;

	if (atomic_load_explicit(&probe->state, memory_order_relaxed) != SVC_PROBE_ASKED)
		return 0;
	sched_counters_read(probe->sched, &probe->counters);
	probe->session_count =
		sched_sessions_view(probe->sched, probe->sessions, SVC_PROBE_SESSIONS);
	probe->tenant_count = sched_tenants_view(probe->sched, probe->tenants, SCHED_TENANTS_MAX);
	probe->idle = sched_idle(probe->sched);
	/* R1: publishes the copy; pairs with A1 in svc_probe_ask. */
	atomic_store_explicit(&probe->state, SVC_PROBE_ANSWERED, memory_order_release);
	return 1;
}

int svc_probe_ask(struct svc_probe *probe)
{
	const struct timespec nap = { .tv_nsec = 50000 };

	atomic_store_explicit(&probe->state, SVC_PROBE_ASKED, memory_order_relaxed);
	svc_agent_wake(probe->agent);
	for (int naps = 0; naps < 20000; naps++) {
		/* A1: sees the copy; pairs with R1 in svc_probe_poll. */
		if (atomic_load_explicit(&probe->state, memory_order_acquire) == SVC_PROBE_ANSWERED)
			return 0;
		nanosleep(&nap, NULL);
	}
	return base_fail(ETIMEDOUT, "the scheduler's thread did not answer within a second");
}
