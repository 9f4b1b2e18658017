/*
 * The loop of a thread that polls roles. See svc_agent.h.
 */
#include "service/svc_agent.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/base_assert.h"
#include "base/base_error.h"
#include "base/base_fault.h"
#include "base/base_log.h"

enum {
	POLLS_BEFORE_PAUSE =
		4096,         /* a pause costs up to 70 ns, so the first idle moments do without */
	POLLS_PER_CLOCK = 64, /* idle polls between two looks at the clock */
	SLEEP_MAX_MS = 1000,  /* a bound, so that a lost wake-up would be a delay and not a hang */
	EVENTS = 64,
	WAKE = 1,             /* our own eventfd, among events; what roles add has 0 */
};

int svc_agent_create(struct svc_agent *agent, const char *name, enum svc_idle idle, int64_t spin_ns)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u32 = WAKE };

	memset(agent, 0, sizeof(*agent));
	snprintf(agent->name, sizeof(agent->name), "%s", name);
	agent->idle = idle;
	agent->spin_ns = spin_ns;
	agent->cpu = -1;
	sem_init(&agent->begun, 0, 0);
	base_clock_init(&agent->clock);
	agent->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (agent->epoll_fd < 0)
		return base_fail(errno, "agent %s: epoll_create1: %s", name, strerror(errno));
	agent->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (agent->wake_fd < 0 ||
		epoll_ctl(agent->epoll_fd, EPOLL_CTL_ADD, agent->wake_fd, &event)) {
		int err = errno;

		if (agent->wake_fd >= 0)
			close(agent->wake_fd);
		close(agent->epoll_fd);
		return base_fail(err, "agent %s: eventfd: %s", name, strerror(err));
	}
	return 0;
}

void svc_agent_add(struct svc_agent *agent, struct svc_role role)
{
	BASE_ASSERT(agent->role_count < SVC_AGENT_ROLES && !agent->started);
	agent->roles[agent->role_count++] = role;
}

static int poll_roles(struct svc_agent *agent)
{
	int work = 0;

	for (uint32_t i = 0; i < agent->role_count; i++)
		work += agent->roles[i].poll(agent->roles[i].self);
	return work;
}

/* Milliseconds until some role must be polled again; 0: at once. */
static int sleep_ms(struct svc_agent *agent)
{
	int64_t now_ns = base_clock_now(&agent->clock), next_ns = INT64_MAX;

	for (uint32_t i = 0; i < agent->role_count; i++) {
		const struct svc_role *role = &agent->roles[i];
		int64_t event_ns =
			role->next_event_ns ? role->next_event_ns(role->self) : INT64_MAX;

		if (event_ns < next_ns)
			next_ns = event_ns;
	}
	if (next_ns <= now_ns)
		return 0;
	if (next_ns - now_ns > (int64_t)SLEEP_MAX_MS * 1000000)
		return SLEEP_MAX_MS;
	return (int)((next_ns - now_ns) / 1000000);
}

/* Whether somebody has called for us. What our epoll has is taken from it even if another one slept for it: doorbells ring once. */
static bool doze(struct svc_agent *agent, int ms)
{
	struct epoll_event events[EVENTS];
	bool has_any = true, woken = false;
	int count;

	for (uint32_t i = 0; i < agent->role_count; i++)
		if (agent->roles[i].sleep) {
			has_any = agent->roles[i].sleep(agent->roles[i].self, agent->epoll_fd, ms);
			ms = 0;
		}
	count = has_any ? epoll_wait(agent->epoll_fd, events, EVENTS, ms) : 0;
	for (int i = 0; i < count; i++)
		woken |= events[i].data.u32 == WAKE;
	return woken;
}

static void agent_sleep(struct svc_agent *agent)
{
	uint64_t value;
	bool work = false, woken = false;
	int ms = sleep_ms(agent);

	if (ms == 0)
		return;
	/* S1, S2: see svc_agent.h. The fence pairs with the one in svc_agent_wake. */
	atomic_store_explicit(&agent->sleeping, 1, memory_order_relaxed);
	atomic_thread_fence(memory_order_seq_cst);
	for (uint32_t i = 0; i < agent->role_count; i++)
		if (agent->roles[i].sleep_begin)
			work |= agent->roles[i].sleep_begin(agent->roles[i].self);
	if (!work && !atomic_load_explicit(&agent->stop, memory_order_relaxed)) {
		atomic_fetch_add_explicit(&agent->sleeps, 1, memory_order_relaxed);
		woken = doze(agent, ms);
	}
	atomic_store_explicit(&agent->sleeping, 0, memory_order_relaxed);
	for (uint32_t i = 0; i < agent->role_count; i++)
		if (agent->roles[i].sleep_end)
			agent->roles[i].sleep_end(agent->roles[i].self);
	if (woken)
		(void)!read(agent->wake_fd, &value, sizeof(value)); /* it does not wait */
}

static void agent_spin(struct svc_agent *agent)
{
	int64_t idle_since_ns = 0;
	uint32_t idle_polls = 0;

	while (!atomic_load_explicit(&agent->stop, memory_order_relaxed)) {
		if (poll_roles(agent)) {
			idle_polls = 0;
			continue;
		}
		if (++idle_polls == 1 && agent->idle != SVC_IDLE_SPIN)
			idle_since_ns = base_clock_now(&agent->clock);
		if (idle_polls > POLLS_BEFORE_PAUSE)
			__builtin_ia32_pause();
		if (agent->idle == SVC_IDLE_SPIN)
			continue;
		if (agent->idle == SVC_IDLE_ADAPTIVE &&
			(idle_polls % POLLS_PER_CLOCK != 0 ||
				base_clock_now(&agent->clock) - idle_since_ns < agent->spin_ns))
			continue;
		agent_sleep(agent);
		idle_polls = 0;
	}
}

static void *agent_run(void *context)
{
	struct svc_agent *agent = context;
	struct sched_param fifo = { .sched_priority = 10 };

	pthread_setname_np(pthread_self(), agent->name);
	if (agent->cpu >= 0 && base_topo_bind_self(agent->topo, (uint32_t)agent->cpu))
		base_log(BASE_LOG_WARN, agent->name, "not-bound", "cpu=%d reason=\"%s\"",
			agent->cpu, base_error_message());
	if (agent->fifo && pthread_setschedparam(pthread_self(), SCHED_FIFO, &fifo))
		base_log(BASE_LOG_WARN, agent->name, "no-fifo", "reason=\"%s\"", strerror(EPERM));
	if (base_fault_install())
		base_log(BASE_LOG_WARN, agent->name, "no-fault-stack", "reason=\"%s\"",
			base_error_message());
	for (uint32_t i = 0; i < agent->role_count; i++)
		if (agent->roles[i].begin)
			agent->roles[i].begin(agent->roles[i].self);
	sem_post(&agent->begun);
	agent_spin(agent);
	return NULL;
}

int svc_agent_start(struct svc_agent *agent)
{
	int err = pthread_create(&agent->thread, NULL, agent_run, agent);

	if (err)
		return base_fail(err, "thread %s: %s", agent->name, strerror(err));
	agent->started = true;
	return 0;
}

void svc_agent_await(struct svc_agent *agent)
{
	while (sem_wait(&agent->begun) && errno == EINTR)
		;
}

void svc_agent_wake(struct svc_agent *agent)
{
	uint64_t one = 1;

	/* W1, W2: see svc_agent.h. */
	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_load_explicit(&agent->sleeping, memory_order_relaxed)) {
		atomic_fetch_add_explicit(&agent->wakes, 1, memory_order_relaxed);
		(void)!write(agent->wake_fd, &one, sizeof(one));
	}
}

void svc_agent_destroy(struct svc_agent *agent)
{
	uint64_t one = 1;

	if (agent->started) {
		atomic_store_explicit(&agent->stop, 1, memory_order_relaxed);
		(void)!write(agent->wake_fd, &one, sizeof(one));
		pthread_join(agent->thread, NULL);
		agent->started = false;
	}
	if (agent->epoll_fd > 0)
		close(agent->epoll_fd);
	if (agent->wake_fd > 0)
		close(agent->wake_fd);
	agent->epoll_fd = agent->wake_fd = -1;
}
