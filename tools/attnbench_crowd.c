/*
 * The load generator over many connections. See attnbench_crowd.h.
 */
#include "tools/attnbench_crowd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/base_error.h"
#include "base/base_rand.h"

enum { EVENTS = 256 };
#define TIMERS_NS INT64_C(1000000)    /* between two looks at all connections' timers, of which none is shorter */
#define DRAIN_NS INT64_C(10000000000) /* after the span is over, answers may take this long */

struct attnbench_crowd {
	const struct attnbench_crowd_way *way;
	void *self;
	struct base_clock *clock;
	struct attnbench_result *result;
	uint32_t count, talkers, turn;
	int epoll;
	bool goes_on; /* closed loop: an answer makes room for the next request */
	uint32_t out, free_count;
	int64_t timers_ns, ahead_ns;
	int *fds;        /* [count]; as they are watched; -1: not */
	int64_t *due_ns; /* [count] */
	uint32_t free_slots[ATTNBENCH_CROWD_SLOTS];
	int64_t intended_ns[ATTNBENCH_CROWD_SLOTS], sent_ns[ATTNBENCH_CROWD_SLOTS];
};

/* ---- connections --------------------------------------------------------------------------------------------- */

/* A connection that broke has another descriptor than before. */
static int watch(struct attnbench_crowd *crowd, uint32_t number)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u32 = number };
	const int fd = crowd->way->fd(crowd->self, number);

	if (fd == crowd->fds[number])
		return 0;
	crowd->fds[number] = fd >= 0 ? fd : -1;
	if (fd < 0)
		return fd == -EAGAIN ? 0 : fd;
	return epoll_ctl(crowd->epoll, EPOLL_CTL_ADD, fd, &event) ? base_fail(errno, "epoll_ctl: %s", strerror(errno)) : 0;
}

static void note_due(struct attnbench_crowd *crowd, uint32_t number, int64_t now_ns)
{
	const int64_t next_ns = crowd->way->next_ns ? crowd->way->next_ns(crowd->self, number) : INT64_MAX;

	crowd->due_ns[number] = next_ns < INT64_MAX - now_ns ? now_ns + next_ns : INT64_MAX;
}

/* intended_ns 0: now. How many were sent; less: no room; -errno. */
static int send_some(struct attnbench_crowd *crowd, uint32_t number, int64_t intended_ns, unsigned count)
{
	const int64_t now_ns = base_clock_now(crowd->clock);
	uint32_t slots[ATTNBENCH_CROWD_BATCH];
	int64_t intended[ATTNBENCH_CROWD_BATCH];
	int taken;

	for (unsigned i = 0; i < count; i++) {
		slots[i] = crowd->free_slots[crowd->free_count - 1 - i];
		crowd->sent_ns[slots[i]] = now_ns;
		crowd->intended_ns[slots[i]] = intended[i] = intended_ns ? intended_ns : now_ns;
	}
	taken = crowd->way->send(crowd->self, number, slots, intended, count);
	if (taken <= 0)
		return taken;
	crowd->free_count -= (uint32_t)taken;
	crowd->out += (uint32_t)taken;
	return taken;
}

/* In a closed loop all of them have to go. */
static int send_all(struct attnbench_crowd *crowd, uint32_t number, unsigned count)
{
	const int sent = count > 0 ? send_some(crowd, number, 0, count) : 0;

	if (sent >= 0 && (unsigned)sent < count)
		return base_fail(EAGAIN, "connection %u takes %d of %u requests", number, sent, count);
	return sent < 0 ? sent : 0;
}

/* Whether it made room for another request. */
static bool book(struct attnbench_crowd *crowd, const struct attnd_completion *completion, int64_t seen_ns)
{
	const uint32_t slot = (uint32_t)completion->request_id;

	if (!(completion->flags & ATTND_CPL_FINAL))
		return false;
	crowd->out--;
	crowd->free_slots[crowd->free_count++] = slot;
	if (completion->status == ATTND_OK)
		attnbench_result_add(crowd->result, completion, crowd->intended_ns[slot], crowd->sent_ns[slot], seen_ns, crowd->ahead_ns);
	else
		crowd->result->failed[completion->status]++;
	return crowd->goes_on;
}

/* Takes what a connection has, and looks after it. 0 or -errno. */
static int visit(struct attnbench_crowd *crowd, uint32_t number)
{
	struct attnd_completion completions[ATTNBENCH_CROWD_BATCH];
	int64_t now_ns;
	int got, err = 0;

	do {
		unsigned more = 0;

		got = crowd->way->receive(crowd->self, number, completions, ATTNBENCH_CROWD_BATCH);
		now_ns = base_clock_now(crowd->clock);
		for (int i = 0; i < got; i++)
			more += book(crowd, &completions[i], now_ns);
		err = send_all(crowd, number, more);
	} while (got == ATTNBENCH_CROWD_BATCH && !err);
	if (got == 0)
		err = watch(crowd, number);
	note_due(crowd, number, now_ns);
	return got < 0 ? got : err;
}

/* Connections whose time has come although nothing has come for them. */
static int visit_due(struct attnbench_crowd *crowd, int64_t now_ns)
{
	int err = 0;

	crowd->timers_ns = now_ns + TIMERS_NS;
	for (uint32_t i = 0; i < crowd->count && !err; i++)
		if (crowd->due_ns[i] <= now_ns)
			err = visit(crowd, i);
	return err;
}

/* Takes all that has come. 0 or -errno. */
static int look(struct attnbench_crowd *crowd)
{
	struct epoll_event events[EVENTS];
	const int count = epoll_wait(crowd->epoll, events, EVENTS, 0);
	const int64_t now_ns = base_clock_now(crowd->clock);
	int err = 0;

	for (int i = 0; i < count && !err; i++)
		err = visit(crowd, events[i].data.u32);
	return !err && now_ns >= crowd->timers_ns ? visit_due(crowd, now_ns) : err;
}

/* ---- the loops ----------------------------------------------------------------------------------------------- */

static int drain(struct attnbench_crowd *crowd)
{
	const int64_t until_ns = base_clock_now(crowd->clock) + DRAIN_NS;
	int err = 0;

	while (!err && crowd->out > 0) {
		err = look(crowd);
		if (!err && base_clock_now(crowd->clock) > until_ns)
			err = base_fail(ETIMEDOUT, "%u requests are still unanswered 10 s after the last", crowd->out);
	}
	return err;
}

int attnbench_crowd_closed(struct attnbench_crowd *crowd, uint32_t in_flight, int64_t span_ns, struct attnbench_result *result)
{
	const int64_t begin_ns = base_clock_now(crowd->clock);
	int err = 0;

	crowd->result = result;
	crowd->goes_on = true;
	for (uint32_t i = 0; i < crowd->talkers && !err; i++)
		err = send_all(crowd, i, in_flight);
	while (!err && base_clock_now(crowd->clock) < begin_ns + span_ns)
		err = look(crowd);
	crowd->goes_on = false;
	result->span_ns += base_clock_now(crowd->clock) - begin_ns;
	/* What comes after the span is not of it. */
	if (!err) {
		static struct attnbench_result after;

		crowd->result = &after;
		err = drain(crowd);
	}
	return err;
}

/* Everything whose time has come, as long as there is room. */
static int send_due(struct attnbench_crowd *crowd, struct attnbench_pace *pace, uint64_t *random, int64_t end_ns)
{
	const int64_t now_ns = base_clock_now(crowd->clock);
	int taken = 1;

	while (taken > 0 && pace->next_ns < (double)end_ns && attnbench_pace_due(pace, now_ns)) {
		const uint32_t number = random ? (uint32_t)base_rand_below(random, crowd->talkers) : crowd->turn;

		crowd->turn = crowd->turn + 1 == crowd->talkers ? 0 : crowd->turn + 1;
		taken = crowd->free_count > 0 ? send_some(crowd, number, (int64_t)pace->next_ns, 1) : 0;
		if (taken > 0) {
			(void)attnbench_pace_take(pace);
			note_due(crowd, number, now_ns);
		} else if (taken == 0) {
			attnbench_pace_blocked(pace, now_ns);
		}
	}
	return taken < 0 ? taken : 0;
}

int attnbench_crowd_open(struct attnbench_crowd *crowd, struct attnbench_pace *pace, uint64_t *random, int64_t span_ns,
	struct attnbench_result *result)
{
	const int64_t begin_ns = base_clock_now(crowd->clock);
	int err = 0;

	crowd->result = result;
	crowd->goes_on = false;
	pace->next_ns = (double)begin_ns;
	while (!err && pace->next_ns < (double)(begin_ns + span_ns)) {
		err = send_due(crowd, pace, random, begin_ns + span_ns);
		if (!err)
			err = look(crowd);
	}
	if (!err)
		err = drain(crowd);
	result->span_ns += base_clock_now(crowd->clock) - begin_ns;
	result->scheduled += pace->scheduled;
	result->missed += pace->missed;
	result->held_back += pace->held_back;
	return err;
}

/* ---- life ---------------------------------------------------------------------------------------------------- */

int attnbench_crowd_create(struct attnbench_crowd **crowd_out, const struct attnbench_crowd_way *way, void *self, uint32_t count,
	uint32_t talkers, struct base_clock *clock)
{
	struct attnbench_crowd *crowd = calloc(1, sizeof(*crowd));
	int err = 0;

	if (!crowd)
		return base_fail(ENOMEM, "no memory for %u connections", count);
	*crowd = (struct attnbench_crowd){ .way = way, .self = self, .count = count, .talkers = talkers, .clock = clock };
	crowd->fds = malloc(count * sizeof(*crowd->fds));
	crowd->due_ns = calloc(count, sizeof(*crowd->due_ns));
	crowd->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (!crowd->fds || !crowd->due_ns || crowd->epoll < 0)
		err = base_fail(ENOMEM, "no memory, or no epoll, for %u connections", count);
	for (uint32_t i = 0; i < ATTNBENCH_CROWD_SLOTS; i++)
		crowd->free_slots[i] = ATTNBENCH_CROWD_SLOTS - 1 - i;
	crowd->free_count = ATTNBENCH_CROWD_SLOTS;
	for (uint32_t i = 0; i < count && !err; i++) {
		crowd->fds[i] = -1;
		err = watch(crowd, i);
	}
	if (err)
		attnbench_crowd_destroy(crowd);
	else
		*crowd_out = crowd;
	return err;
}

void attnbench_crowd_destroy(struct attnbench_crowd *crowd)
{
	if (!crowd)
		return;
	if (crowd->epoll >= 0)
		close(crowd->epoll);
	free(crowd->fds);
	free(crowd->due_ns);
	free(crowd);
}

void attnbench_crowd_set_ahead(struct attnbench_crowd *crowd, int64_t ahead_ns)
{
	crowd->ahead_ns = ahead_ns;
}
