/*
 * Works on the device: at most two in the air, landing in the order in which they were submitted.
 * Scheduler's thread.
 *
 *   FREE -> FORMED (the backend was full) -> FLYING -> LANDED (results go out, over several polls
 * if they are many) -> FREE
 */
#include <errno.h>

#include "sched/sched_private.h"

static const double SCHED_ZERO_SECONDS = 1e-4;

static struct sched_flight *flight_at(struct sched *sched, uint32_t i)
{
	return &sched->flights[(sched->flight_first + i) % SCHED_FLIGHTS];
}

static bool computes(const struct sched_flight *flight)
{
	return flight->work.kind == KERN_WORK_STEP || flight->work.kind == KERN_WORK_ATTEND;
}

struct sched_flight *sched_flight_free(struct sched *sched)
{
	struct sched_flight *flight;

	if (sched->flight_count == SCHED_FLIGHTS)
		return NULL;
	flight = flight_at(sched, sched->flight_count);
	flight->result = 0;
	flight->member_count = flight->finished = flight->finished_outs = flight->span_count = 0;
	flight->begun = false;
	flight->predicted_ns = 0;
	flight->load = (struct sched_load){ 0 };
	memset(flight->parts, 0, sizeof(*flight->parts) * sched->options.tenant_count);
	return flight;
}

bool sched_flight_computes_free(const struct sched *sched)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < SCHED_FLIGHTS; i++)
		count += sched->flights[i].state != FLIGHT_FREE && computes(&sched->flights[i]);
	return count < sched->computes_max;
}

bool sched_flight_has(const struct sched *sched, enum kern_work_kind kind)
{
	bool has = false;

	for (uint32_t i = 0; i < SCHED_FLIGHTS; i++)
		has = has || (sched->flights[i].state != FLIGHT_FREE && sched->flights[i].work.kind == kind);
	return has;
}

static void submit(struct sched *sched, struct sched_flight *flight)
{
	int rc = sched->backend->ops->submit(sched->backend, &flight->work, &flight->ticket);

	if (rc == -EAGAIN)
		return;
	flight->submitted_ns = base_clock_now(sched->clock);
	flight->result = rc < 0 ? rc : 0;
	flight->state = rc < 0 ? FLIGHT_LANDED : FLIGHT_FLYING;
	flight->landed_ns = flight->submitted_ns;
	/* It never ran: nobody pays. */
	if (rc < 0 && computes(flight))
		sched_share_settle(sched, flight, 0);
}

/* In the order in which they were formed: they land in the order in which they were submitted. */
static void submit_formed(struct sched *sched)
{
	for (uint32_t i = 0; i < sched->flight_count; i++) {
		struct sched_flight *flight = flight_at(sched, i);

		if (flight->state == FLIGHT_FORMED)
			submit(sched, flight);
		if (flight->state == FLIGHT_FORMED)
			return;
	}
}

void sched_flight_launch(struct sched *sched, struct sched_flight *flight)
{
	if (flight->work.kind == KERN_WORK_COPY || flight->work.kind == KERN_WORK_ZERO) {
		flight->work.copy.spans = flight->spans;
		flight->work.copy.count = flight->span_count;
	} else {
		flight->predicted_ns = sched_cost_predict(&sched->cost, sched_flight_cost_model(flight), &flight->load);
		sched_share_charge(sched, flight);
	}
	flight->state = FLIGHT_FORMED;
	flight->submitted_ns = sched->now_ns;
	sched->flight_count++;
	sched->view.due = SCHED_VIEW_POLLS;
	submit_formed(sched);
}

int64_t sched_flights_remaining_ns(const struct sched *sched, int64_t now_ns, double band, int64_t *most_ns)
{
	int64_t remaining_ns = 0;

	*most_ns = 0;
	for (uint32_t i = 0; i < sched->flight_count; i++) {
		const struct sched_flight *flight =
			&sched->flights[(sched->flight_first + i) % SCHED_FLIGHTS];
		const int64_t gone_ns = i == 0 ? now_ns - flight->submitted_ns : 0,
			      longest_ns = (int64_t)((double)flight->predicted_ns * band);

		if (flight->state == FLIGHT_LANDED)
			continue;
		remaining_ns += flight->predicted_ns > gone_ns ? flight->predicted_ns - gone_ns : 0;
		*most_ns += longest_ns > gone_ns ? longest_ns - gone_ns : 0;
	}
	return remaining_ns;
}

static void account(struct sched *sched, struct sched_flight *flight)
{
	/* The device began on it when it was submitted, or when the one before it landed. */
	int64_t begun_ns = flight->submitted_ns > sched->last_landed_ns ? flight->submitted_ns
									: sched->last_landed_ns;
	int64_t actual_ns = flight->landed_ns - begun_ns;

	sched->last_landed_ns = flight->landed_ns;
	sched->counters.busy_ns += (uint64_t)actual_ns;
	if (!computes(flight))
		return;
	/* A stall is nobody's doing. */
	sched_share_settle(sched, flight,
		sched_cost_believed(&sched->cost, sched_flight_cost_model(flight), &flight->load, flight->predicted_ns, actual_ns));
	if (flight->result < 0)
		return;
	sched->counters.predicted_ns += (uint64_t)flight->predicted_ns;
	sched->counters.actual_ns += (uint64_t)actual_ns;
	sched_cost_learn(&sched->cost, sched_flight_cost_model(flight), &flight->load, flight->predicted_ns, actual_ns);
	sched->learnt_ns[sched_flight_cost_model(flight)] = flight->landed_ns;
	sched_cost_units(&sched->cost, sched_flight_cost_model(flight), sched->options.step_rows_max,
		&sched->units[sched_flight_cost_model(flight)]);
	sched_view_landed(sched, flight, actual_ns);
}

static void finish_zero(struct sched *sched, struct sched_flight *flight)
{
	if (flight->result < 0)
		sched_kv_still_dirty(sched->kv, flight->spans, flight->span_count);
	else
		sched_kv_zeroed(sched->kv, flight->spans, flight->span_count);
}

static void finish_copy(struct sched *sched, struct sched_flight *flight)
{
	for (uint32_t i = 0; i < flight->span_count; i++)
		sched_kv_release(sched->kv, flight->replaced[i]);
	flight->span_count = 0;
	if (flight->result < 0) {
		sched_finish_failed(sched, flight);
		return;
	}
	for (uint32_t i = 0; i < flight->member_count; i++) {
		struct sched_request *request = flight->members[i].request;

		flight->members[i].session->busy = false;
		if (request->end_status)
			sched_request_complete(
				sched, request, (enum attnd_status)request->end_status);
		else
			sched_request_proceed(sched, request);
	}
}

/* True when everything that follows from this flight is done. */
static bool finish(struct sched *sched, struct sched_flight *flight)
{
	switch (flight->work.kind) {
	case KERN_WORK_ZERO: finish_zero(sched, flight); return true;
	case KERN_WORK_COPY: finish_copy(sched, flight); return true;
	case KERN_WORK_STEP:
	case KERN_WORK_ATTEND: break;
	}
	if (flight->result < 0) {
		sched_finish_failed(sched, flight);
		return true;
	}
	return flight->work.kind == KERN_WORK_STEP ? sched_finish_step(sched, flight)
						   : sched_finish_attend(sched, flight);
}

int sched_flights_poll(struct sched *sched)
{
	struct sched_flight *flight;

	if (sched->flight_count == 0)
		return 0;
	submit_formed(sched);
	flight = flight_at(sched, 0);
	if (flight->state == FLIGHT_FLYING) {
		int rc = sched->backend->ops->poll(sched->backend, flight->ticket);

		if (rc == 0)
			return 1;
		sched->now_ns = flight->landed_ns = base_clock_now(sched->clock);
		flight->result = rc < 0 ? rc : 0;
		flight->state = FLIGHT_LANDED;
		account(sched, flight);
	}
	if (flight->state == FLIGHT_LANDED && finish(sched, flight)) {
		flight->state = FLIGHT_FREE;
		sched->flight_first = (sched->flight_first + 1) % SCHED_FLIGHTS;
		sched->flight_count--;
		sched->retry_blocked = true;
	}
	return 1;
}

void sched_flights_wait(struct sched *sched)
{
	for (uint32_t i = 0; i < sched->flight_count; i++) {
		struct sched_flight *flight = flight_at(sched, i);

		while (flight->state == FLIGHT_FLYING &&
			sched->backend->ops->poll(sched->backend, flight->ticket) == 0)
			;
		if (flight->state == FLIGHT_FLYING)
			flight->state = FLIGHT_LANDED; /* a second call finds nothing to do */
	}
}

/* So much that an urgent step waits little for it: what this device clears in a tenth of a millisecond. */
static size_t zero_bytes(const struct sched *sched)
{
	const double bytes = sched->backend->properties.bytes_per_second * SCHED_ZERO_SECONDS;

	return bytes > SCHED_ZERO_BYTES ? (size_t)bytes : SCHED_ZERO_BYTES;
}

int sched_zero_form(struct sched *sched)
{
	struct sched_flight *flight;
	uint32_t at = 0;

	if (sched_kv_dirty_bytes(sched->kv) == 0)
		return 0;
	/* When the device has nothing better to do, when somebody waits, or when clean blocks of a size
	 * run short. */
	if (sched->flight_count > 0 && !sched->want_zero && sched_kv_short(sched->kv, SCHED_CLEAN_PART, false, &at) == 0)
		return 0;
	flight = sched_flight_has(sched, KERN_WORK_ZERO) ? NULL : sched_flight_free(sched);
	if (!flight)
		return 0;
	flight->work.kind = KERN_WORK_ZERO;
	flight->span_count =
		sched_kv_dirty(sched->kv, flight->spans, SCHED_SPANS, zero_bytes(sched));
	if (flight->span_count == 0)
		return 0;
	sched_flight_launch(sched, flight);
	return 1;
}
