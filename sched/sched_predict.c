/*
 * When a request that arrives now would finish: what is in the air, the more urgent work that is
 * ready, what its own session has queued, and then its own rows, cut into steps as sched_step.c
 * would cut them; and longer than that by as much as predictions have lately been wrong. Scheduler's
 * thread; asked for requests with a deadline only.
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
};

static bool more_urgent(const struct sched_request *request, const struct attnd_request *record)
{
	return request->record.priority_class < record->priority_class ||
		(request->record.priority_class == record->priority_class &&
			request->deadline_ns < record->deadline_ns);
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

static void add_attend(
	const struct sched *sched, struct ahead *ahead, const struct sched_request *request)
{
	struct sched_load load =
		sched_attend_load(request, request->rows_done, request->rows - request->rows_done);

	ahead->other_ns += sched_cost_predict(&sched->cost, SCHED_COST_MODELS - 1, &load);
}

/* A decode: a row of every step. */
static void add_stream(struct ahead *ahead, const struct sched_session *session)
{
	ahead->streams++;
	ahead->stream_visits += session->position + 1;
	ahead->stream_bytes += sched_kv_bytes(&session->kv, session->position + 1);
}

static void add_request(const struct sched *sched, struct ahead *ahead,
	const struct sched_request *request, uint32_t own_model)
{
	const struct sched_session *session = request->session;
	uint32_t rows = request->rows - request->rows_done;

	if (session->kind == ATTND_SESSION_ATTENTION)
		add_attend(sched, ahead, request);
	else if (request->record.op == ATTND_OP_GENERATE && rows == 1 && session->model == own_model)
		add_stream(ahead, session);
	else
		add_rows(sched, ahead, session, own_model, rows);
}

static void add_ready(const struct sched *sched, struct ahead *ahead,
	const struct attnd_request *record, const struct sched_session *own)
{
	for (struct sched_list *c = sched->active.next; c != &sched->active; c = c->next) {
		const struct sched_client *client = sched_client_of_active(c);

		for (struct sched_list *s = client->ready.next; s != &client->ready; s = s->next) {
			const struct sched_session *session = sched_session_of_place(s);
			const struct sched_request *request = sched_session_head(session);

			if (session != own && more_urgent(request, record))
				add_request(sched, ahead, request, own->model);
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
			add_request(sched, ahead, request, own->model);
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
	uint64_t most = sched->options.step_rows_max, streams = ahead->streams, per_step, chunk,
		 steps, total_steps;
	struct sched_load load;

	/* Streams fill three quarters of a step at most while a prefill waits. */
	if (streams > most - most / 4 - (most == 1))
		streams = most - most / 4 - (most == 1);
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
			ahead->stream_visits,
		/* What is cut into several steps is read in each of them. */
		.kv_bytes = (ahead->kv_bytes + steps * sched_kv_bytes(&session->kv, session->position + rows)) /
				total_steps +
			ahead->stream_bytes,
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

int64_t sched_predict(const struct sched *sched, const struct sched_message *message,
	const struct sched_session *session)
{
	const struct attnd_request *record = &message->record;
	struct ahead ahead = { 0 };
	int64_t own_ns = 0;

	add_ready(sched, &ahead, record, session);
	add_queue(sched, &ahead, session);
	if (record->op == ATTND_OP_STEP || record->op == ATTND_OP_GENERATE)
		own_ns = model_ns(sched, record, session, &ahead);
	else if (record->op == ATTND_OP_APPEND || record->op == ATTND_OP_ATTEND)
		own_ns = attend_ns(sched, message, session);
	return base_clock_now(sched->clock) + sched_flights_remaining_ns(sched) + ahead.other_ns +
		own_ns;
}
