/*
 * When a request that arrives now would finish: what is in the air, the more urgent work of its
 * tenant that is ready, what its own session has queued, and then its own rows, cut into steps as
 * sched_step.c would cut them; and longer than that by as much as predictions have lately been
 * wrong. Scheduler's thread; asked for requests with a deadline only.
 *
 * Other tenants take their shares meanwhile, whatever their classes and deadlines: until its own
 * tenant has had the time that the request needs, another one gets as much by weight, from where it
 * stands in virtual time, and one step. Of that, what it has ready counts, and as much as it used of
 * late where that is more: who has been busy is expected to come back. Its streams count whole.
 * And the time counts for which its own tenant's quota of device time will hold it up.
 */
#include <math.h>

#include "sched/sched_private.h"

/* Works that last no longer than the band says. */
static const double PROMISED_SHARE = 0.99;

/* What stands before it. */
struct ahead {
	uint64_t rows, visits, kv_bytes; /* of its own model */
	uint32_t streams;      /* decodes that take a row of every step, and what these see */
	uint64_t stream_visits, stream_bytes;
	int64_t other_ns;      /* other models, raw attention, tokens still to be drawn in its own
				  session */
	double row_ns;         /* what a row of its model costs at least, in a full step */
};

/* Another tenant's work, as far as its share lets it go first. */
struct rival {
	double left_ns, counted_ns;
};

static bool more_urgent(uint8_t class, int64_t deadline_ns, const struct attnd_request *record)
{
	return class < record->priority_class ||
		(class == record->priority_class && deadline_ns < record->deadline_ns);
}

static uint64_t visits_of(uint64_t position, uint64_t rows)
{
	return rows * position + rows * (rows + 1) / 2;
}

static void add_rows(const struct sched *sched, struct ahead *ahead, const struct sched_session *session,
	uint32_t own_model, uint32_t rows)
{
	const uint64_t position = session->position;
	struct sched_load load = {
		.rows = rows,
		.visits = visits_of(position, rows),
		.outs = 1,
		.kv_bytes = sched_kv_bytes(&session->kv, position + rows),
	};

	if (session->model == own_model) {
		ahead->rows += rows;
		ahead->visits += load.visits;
		ahead->kv_bytes += load.kv_bytes;
	} else {
		ahead->other_ns += sched_cost_predict(&sched->cost, session->model, &load);
	}
}

static int64_t attend_rest_ns(const struct sched *sched, const struct sched_request *request)
{
	struct sched_load load =
		sched_attend_load(request, request->rows_done, request->rows - request->rows_done);

	return sched_cost_predict(&sched->cost, SCHED_COST_MODELS - 1, &load);
}

/* A decode: a row of every step. */
static void add_stream(struct ahead *ahead, const struct sched_session *session)
{
	ahead->streams++;
	ahead->stream_visits += session->position + 1;
	ahead->stream_bytes += sched_kv_bytes(&session->kv, session->position + 1);
}

static bool is_stream(const struct sched_request *request, uint32_t rows, uint32_t own_model)
{
	return request->record.op == ATTND_OP_GENERATE && rows <= 1 && request->session->model == own_model;
}

/* rows: those that are left beyond what is in the air. */
static void add_request(const struct sched *sched, struct ahead *ahead,
	const struct sched_request *request, uint32_t own_model, uint32_t rows)
{
	const struct sched_session *session = request->session;

	if (session->kind == ATTND_SESSION_ATTENTION)
		ahead->other_ns += attend_rest_ns(sched, request);
	else if (is_stream(request, rows, own_model))
		add_stream(ahead, session);
	else if (rows > 0)
		add_rows(sched, ahead, session, own_model, rows);
}

/* The same for another tenant, until it has had its share. */
static void add_rival(const struct sched *sched, struct ahead *ahead, struct rival *rival,
	const struct sched_request *request, uint32_t own_model, uint32_t rows)
{
	const bool same = request->session->kind == ATTND_SESSION_MODEL && request->session->model == own_model;
	const int64_t before_ns = ahead->other_ns;
	double ns;

	if (same && is_stream(request, rows, own_model)) {
		add_stream(ahead, request->session);
		return;
	}
	if (rival->left_ns <= 0.0)
		return;
	if (same && ahead->row_ns * rows > rival->left_ns)
		rows = (uint32_t)(rival->left_ns / ahead->row_ns) + 1;
	add_request(sched, ahead, request, own_model, rows);
	ns = same ? ahead->row_ns * rows : (double)(ahead->other_ns - before_ns);
	/* Of another model, or raw: no more of it than its share. */
	if (ns > rival->left_ns && !same)
		ahead->other_ns = before_ns + (int64_t)rival->left_ns;
	ns = ns < rival->left_ns ? ns : rival->left_ns;
	rival->left_ns -= ns;
	rival->counted_ns += ns;
}

static uint32_t rows_left(const struct sched_request *request)
{
	return request->rows - request->rows_done;
}

/* What of the tenant's ready work is counted: as another's, or, without a rival, the more urgent one's. */
static void add_ready(const struct sched *sched, struct ahead *ahead, const struct sched_tenant_use *use,
	const struct attnd_request *record, const struct sched_session *own, struct rival *rival)
{
	for (struct sched_list *c = use->active.next; c != &use->active; c = c->next) {
		const struct sched_client *client = sched_client_of_active(c);

		for (struct sched_list *s = client->ready.next; s != &client->ready; s = s->next) {
			const struct sched_session *session = sched_session_of_place(s);

			if (rival)
				add_rival(sched, ahead, rival, sched_session_head(session), own->model,
					session->head_rows);
			else if (session != own &&
				more_urgent(session->head_class, session->head_deadline_ns, record))
				add_request(sched, ahead, sched_session_head(session), own->model,
					session->head_rows);
		}
	}
}

/* The same of what is in the air and will want more steps. */
static void add_flying(const struct sched *sched, struct ahead *ahead, const struct sched_tenant_use *use,
	const struct attnd_request *record, const struct sched_session *own, struct rival *rival)
{
	for (uint32_t f = 0; f < sched->flight_count; f++) {
		const struct sched_flight *flight = &sched->flights[(sched->flight_first + f) % SCHED_FLIGHTS];

		if (flight->work.kind != KERN_WORK_STEP || flight->parts[use - sched->uses].members == 0)
			continue;
		for (uint32_t i = flight->finished + flight->begun; i < flight->member_count; i++) {
			const struct sched_member *member = &flight->members[i];
			const struct sched_request *request = member->request;
			uint32_t rows = rows_left(request) - member->rows;

			if (&sched->uses[member->session->client->tenant] != use || member->session == own ||
				(rows == 0 && request->record.op != ATTND_OP_GENERATE))
				continue;
			if (rival)
				add_rival(sched, ahead, rival, request, own->model, rows);
			else if (more_urgent(request->record.priority_class, request->deadline_ns, record))
				add_request(sched, ahead, request, own->model, rows);
		}
	}
}

/* Its own session works in order, whatever the urgency. */
static void add_queue(
	const struct sched *sched, struct ahead *ahead, const struct sched_session *own)
{
	for (struct sched_list *link = own->queue.next; link != &own->queue; link = link->next) {
		const struct sched_request *request = sched_request_of_session(link);
		struct sched_load token = {
			.rows = 1,
			.outs = 1,
			.visits = own->position + 1,
			.kv_bytes = sched_kv_bytes(&own->kv, (uint64_t)own->position + 1),
		};

		if (request->state >= REQUEST_ACTIVE) {
			add_request(sched, ahead, request, own->model, rows_left(request));
			if (request->record.op == ATTND_OP_GENERATE) {
				uint32_t left = request->generate.params.max_tokens -
					request->generate.generated;

				/* The context ends it, if nothing else does. */
				if (left > own->max_tokens - own->position)
					left = own->max_tokens - own->position;
				ahead->other_ns += (int64_t)left *
					sched_cost_predict(&sched->cost, own->model, &token);
			}
		} else if (request->record.op == ATTND_OP_STEP ||
			request->record.op == ATTND_OP_GENERATE) {
			uint32_t rows = request->record.argument < own->max_tokens
				? request->record.argument
				: own->max_tokens;

			add_rows(sched, ahead, own, own->model, rows);
		}
	}
}

/* A time that works of this model rarely exceed: what is said to a client is a promise. Over several steps the errors make
 * up for each other, as far as they are noise. */
static int64_t with_band(const struct sched *sched, uint32_t model, uint64_t steps, int64_t ns)
{
	const double over = sched_cost_error(&sched->cost, model, PROMISED_SHARE) - 1.0;

	return over > 0.0 ? ns + (int64_t)((double)ns * over / sqrt((double)steps)) : ns;
}

static uint64_t steps_for(uint64_t rows, uint64_t per_step)
{
	return (rows + per_step - 1) / per_step;
}

static int64_t model_ns(const struct sched *sched, const struct attnd_request *record,
	const struct sched_session *session, const struct ahead *ahead)
{
	uint64_t rows =
		record->argument < session->max_tokens ? record->argument : session->max_tokens;
	uint64_t most = sched->options.step_rows_max, spare = most < 4 ? 1 : most / 4,
		 streams = ahead->streams, per_step, chunk,
		 steps, total_steps;
	struct sched_load load;
	double stream_part;

	/* Streams fill three quarters of a step at most while a prefill waits. */
	if (streams > most - spare)
		streams = most - spare;
	/* What the others see is read in other steps. */
	stream_part = ahead->streams ? (double)streams / ahead->streams : 0.0;
	per_step = most - streams;
	chunk = sched->options.prefill_chunk < per_step ? sched->options.prefill_chunk : per_step;
	if (rows == 0)
		return 0;
	steps = steps_for(rows, chunk);
	total_steps = steps_for(ahead->rows + rows, per_step);
	if (total_steps < steps)
		total_steps = steps;
	load = (struct sched_load){
		.rows = (uint32_t)((ahead->rows + rows + total_steps - 1) / total_steps + streams),
		.visits = (ahead->visits + visits_of(session->position, rows)) / total_steps +
			(uint64_t)(stream_part * (double)ahead->stream_visits),
		/* What is cut into several steps is read in each of them. */
		.kv_bytes = (ahead->kv_bytes + steps * sched_kv_bytes(&session->kv, session->position + rows)) /
				total_steps +
			(uint64_t)(stream_part * (double)ahead->stream_bytes),
		.outs = (uint32_t)streams + 1,
	};
	return with_band(sched, session->model, total_steps,
		(int64_t)total_steps * sched_cost_predict(&sched->cost, session->model, &load));
}

/* A look at the parameters, before they are copied and checked for good: wrong ones mislead their
 * own request alone. */
static int64_t attend_ns(const struct sched *sched, const struct sched_message *message,
	const struct sched_session *session)
{
	struct attnd_attend_params params;
	uint64_t q_rows, kv_rows, keys;
	struct sched_load load;

	if (message->record.in_bytes < sizeof(params))
		return 0;
	sched_copy_in(&params, message->in, sizeof(params));
	q_rows = params.q_rows < ATTND_ATTEND_ROWS_MAX ? params.q_rows : ATTND_ATTEND_ROWS_MAX;
	kv_rows = params.kv_rows < ATTND_ATTEND_ROWS_MAX ? params.kv_rows : ATTND_ATTEND_ROWS_MAX;
	keys = session->position + kv_rows;
	load.visits = (2 * q_rows * keys + kv_rows) * session->kv.heads * session->kv.head_dim;
	load.rows = (uint32_t)(load.visits >> 16) + 1;
	load.outs = 0;
	load.kv_bytes = sched_kv_bytes(&session->kv, keys) / session->kv.layers;
	return with_band(sched, SCHED_COST_MODELS - 1, 1,
		sched_cost_predict(&sched->cost, SCHED_COST_MODELS - 1, &load));
}

static int64_t own_ns(const struct sched *sched, const struct sched_message *message,
	const struct sched_session *session, const struct ahead *ahead)
{
	switch ((enum attnd_op)message->record.op) {
	case ATTND_OP_STEP:
	case ATTND_OP_GENERATE: return model_ns(sched, &message->record, session, ahead);
	case ATTND_OP_APPEND:
	case ATTND_OP_ATTEND: return attend_ns(sched, message, session);
	default: return 0;
	}
}

/* What another tenant may get while this one gets needed_ns. */
static double share_ns(const struct sched *sched, const struct sched_tenant_use *use,
	const struct sched_tenant_use *other, int64_t needed_ns)
{
	const double ahead_ns = (double)(sched_share_start(sched, use) - sched_share_start(sched, other)) +
		(double)needed_ns / sched_share_weight(sched, use);

	return fmax(ahead_ns * sched_share_weight(sched, other), 0.0) + (double)sched->slack_ns;
}

/* Other tenants' work that goes first although this one needs no more than needed_ns. */
static void add_rivals(const struct sched *sched, struct ahead *ahead, const struct sched_message *message,
	const struct sched_session *session, int64_t needed_ns)
{
	const struct sched_tenant_use *use = &sched->uses[session->client->tenant];
	const int64_t now_ns = base_clock_now(sched->clock);

	for (uint32_t t = 0; t < sched->options.tenant_count; t++) {
		const struct sched_tenant_use *other = &sched->uses[t];
		struct rival rival = { 0 };
		double expected_ns;

		if (other == use || (other->used_ns == 0 && other->requests == 0))
			continue;
		rival.left_ns = share_ns(sched, use, other, needed_ns);
		expected_ns = fmin(sched_share_recent(other, now_ns) * (double)needed_ns, rival.left_ns);
		if (!other->held)
			add_ready(sched, ahead, other, &message->record, session, &rival);
		add_flying(sched, ahead, other, &message->record, session, &rival);
		if (expected_ns > rival.counted_ns)
			ahead->other_ns += (int64_t)(expected_ns - rival.counted_ns);
	}
}

/* For how long the tenant's quota of device time holds up work that takes so long. */
static int64_t quota_ns(const struct sched *sched, const struct sched_tenant_use *use, int64_t now_ns, int64_t needed_ns)
{
	const uint64_t per_s = sched->tenants[use - sched->uses].device_ns_per_s;
	const double used_ns = use->paid_until_ns > now_ns ? 0.0 : (double)(now_ns - use->paid_until_ns);
	double wait_ns;

	if (per_s == 0)
		return 0;
	wait_ns = (double)(sched_share_free_ns(sched, use) - now_ns) + used_ns + (double)needed_ns * 1e9 / (double)per_s -
		(double)needed_ns;
	return (int64_t)fmin(fmax(wait_ns, 0.0), 1e17);
}

int64_t sched_predict(const struct sched *sched, const struct sched_message *message,
	const struct sched_session *session)
{
	const struct sched_tenant_use *use = &sched->uses[session->client->tenant];
	const struct sched_load full = { .rows = sched->options.step_rows_max };
	const int64_t now_ns = base_clock_now(sched->clock);
	struct ahead ahead = { 0 };
	int64_t needed_ns;

	if (session->kind == ATTND_SESSION_MODEL)
		ahead.row_ns = (double)sched_cost_predict(&sched->cost, session->model, &full) / full.rows;
	add_ready(sched, &ahead, use, &message->record, session, NULL);
	add_flying(sched, &ahead, use, &message->record, session, NULL);
	add_queue(sched, &ahead, session);
	needed_ns = ahead.other_ns + own_ns(sched, message, session, &ahead);
	if (sched->options.tenant_count > 1)
		add_rivals(sched, &ahead, message, session, needed_ns);
	return now_ns + sched_flights_remaining_ns(sched) + quota_ns(sched, use, now_ns, needed_ns) +
		ahead.other_ns + own_ns(sched, message, session, &ahead);
}
