/*
 * A thread that polls roles. A role is a struct with poll functions and knows nothing of threads;
 * placement decides which roles share an agent. The idle strategy is the agent's: spin, spin and
 * then sleep, or sleep at once.
 *
 * Sleeping. The agent sleeps in epoll_wait on its own eventfd and on what its roles add (clients'
 * doorbells); or in the one role that can wait for its own work and for that epoll's in one call.
 * S1: the agent stores `sleeping`, full fence, then each role's sleep_begin looks once more at its
 * inputs (S2). W1: whoever pushed to a queue of one of its roles calls svc_agent_wake: full fence,
 * load of `sleeping` (W2), and a write to the eventfd if it is set. Either S2 sees the element or W2
 * sees the flag.
 */
#ifndef SVC_AGENT_H
#define SVC_AGENT_H

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/base_clock.h"
#include "base/base_topo.h"
#include "service/svc_config.h"

struct svc_role {
	const char *name;
	void *self;
	void (*begin)(void *self);            /* NULL, or: once, before any role of the agent is polled; may take its time */
	int (*poll)(void *self);              /* work done; never blocks */
	int64_t (*next_event_ns)(void *self); /* NULL: none but messages. INT64_MAX: none; 0: now */
	bool (*sleep_begin)(void *self); /* announces sleep; true: there is work after all. NULL:
					    nothing to do */
	void (*sleep_end)(void *self);
	/* NULL, or, of one role at most: sleeps for so long, until it has work or others is readable, and says whether it is. */
	bool (*sleep)(void *self, int others, int ms);
};

enum { SVC_AGENT_ROLES = 8 };

struct svc_agent {
	/* hot */
	_Atomic uint32_t sleeping;
	_Atomic uint32_t stop;
	uint32_t role_count;
	enum svc_idle idle;
	int64_t spin_ns;
	struct svc_role roles[SVC_AGENT_ROLES];
	struct base_clock clock;
	/* below here is not touched per request */
	_Atomic uint64_t sleeps, wakes;
	sem_t begun; /* posted when all of its roles have begun */
	char name[16];
	int epoll_fd, wake_fd;
	int cpu; /* os index to bind to, -1: none */
	bool fifo;
	const struct base_topo *topo;
	pthread_t thread;
	bool started;
};

/* -errno with a message. The clock is ready afterwards (roles keep a pointer to it); the thread is
 * not started. */
int svc_agent_create(
	struct svc_agent *agent, const char *name, enum svc_idle idle, int64_t spin_ns);
void svc_agent_add(struct svc_agent *agent, struct svc_role role);
int svc_agent_start(struct svc_agent *agent);
/* Started: waits until its roles have begun. */
void svc_agent_await(struct svc_agent *agent);
/* Any thread: after a push to one of its roles' queues. A system call only when it sleeps. */
void svc_agent_wake(struct svc_agent *agent);
/* Joins the thread; undoes create. */
void svc_agent_destroy(struct svc_agent *agent);

#endif
