/*
 * What the scheduler writes for those who look without asking (attnd/view.h, base/base_view.h): to operators, counts and the
 * state of this moment; to each client, the timelines of its own requests. See sched_view.c.
 */
#ifndef SCHED_VIEW_H
#define SCHED_VIEW_H

#include "base/base_view.h"
#include "sched/sched.h"

struct sched_request;
struct sched_client;
struct sched_flight;

enum { SCHED_VIEW_POLLS = 32 }; /* of polls that do something, so many may go by before what they did is published */

struct sched_view {
	struct base_view_device *shared; /* never NULL */
	uint32_t due;                    /* polls that did something since the last publication */
	struct attnd_view_now now;       /* gauges, and the number of publications */
	struct base_view_device *own;    /* memory that nobody reads, where there are no operators */
};

/* Of a client: what it sees of its requests here. */
struct sched_view_client {
	struct attnd_timeline *timelines; /* [mask + 1]; NULL: it sees none */
	struct attnd_view_own *own;
	uint64_t mask;
	uint64_t records; /* begun */
};

/* Of a request, in private: its record is written and never read. */
struct sched_view_request {
	uint64_t number;  /* of its record; 0: it has none */
	uint32_t updates; /* of it */
	uint32_t steps, rows;
	int64_t predicted_ns, last_step_ns;
};

/* sched_create. -ENOMEM with a message. */
int sched_view_create(struct sched *sched);
void sched_view_destroy(struct sched *sched);
/* SCHED_CLIENT_ADD. */
void sched_view_client_add(struct sched_client *client, const struct sched_message *message);
/* A message was answered at once, by this completion. */
void sched_view_answered(struct sched *sched, const struct sched_message *message, const struct attnd_completion *completion);
/* A request was queued; predicted_ns: its finish, 0: nobody predicted it. */
void sched_view_admitted(struct sched *sched, struct sched_request *request, int64_t predicted_ns);
/* Its first work is being submitted. */
void sched_view_started(struct sched *sched, struct sched_request *request);
/* A work took so long, and its members have moved on. */
void sched_view_landed(struct sched *sched, const struct sched_flight *flight, int64_t actual_ns);
/* It ended. */
void sched_view_completed(struct sched *sched, struct sched_request *request, enum attnd_status status, int64_t done_ns);
/* At the end of every poll, with the work it did. */
void sched_view_poll(struct sched *sched, int work);

#endif
