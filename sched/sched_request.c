/*
 * A request's way through the scheduler: accepted or refused, started at the head of its session,
 * waiting for blocks or running, completed once. Scheduler's thread.
 */
#include "sched/sched_private.h"

/* ---- in ------------------------------------------------------------------------------- */

enum {
	FLAGS_KNOWN = ATTND_REQ_CHECK_POSITION | ATTND_REQ_ROWS | ATTND_REQ_SPECIAL |
		ATTND_REQ_PARSE_SPECIAL | ATTND_REQ_CHAT
};

/* What each operation is: answered where it is taken, or queued in a session and started at its
 * head. */
struct op_rule {
	void (*answer)(struct sched *, const struct sched_message *, struct sched_client *);
	unsigned (*start)(struct sched *, struct sched_request *);
	uint8_t session_kind; /* it needs; 0: any */
	bool while_draining;
};

static unsigned start_close(struct sched *sched, struct sched_request *request)
{
	(void)sched;
	(void)request;
	return ATTND_OK; /* sched_request_start closes the session behind it */
}

static const struct op_rule RULES[ATTND_OP_END] = {
	[ATTND_OP_DESCRIBE] = { .answer = sched_describe, .while_draining = true },
	[ATTND_OP_OPEN] = { .answer = sched_session_open },
	[ATTND_OP_STEP] = { .start = sched_start_step, .session_kind = ATTND_SESSION_MODEL },
	[ATTND_OP_GENERATE] = { .start = sched_start_generate,
		.session_kind = ATTND_SESSION_MODEL },
	[ATTND_OP_APPEND] = { .start = sched_start_attend,
		.session_kind = ATTND_SESSION_ATTENTION },
	[ATTND_OP_ATTEND] = { .start = sched_start_attend,
		.session_kind = ATTND_SESSION_ATTENTION },
	[ATTND_OP_FORK] = { .start = sched_start_fork },
	[ATTND_OP_TRUNCATE] = { .start = sched_start_truncate },
	[ATTND_OP_CLOSE] = { .start = start_close, .while_draining = true },
	[ATTND_OP_CANCEL] = { .answer = sched_client_cancel, .while_draining = true },
};

static enum attnd_status check_record(
	const struct sched *sched, const struct sched_message *message)
{
	const struct attnd_request *record = &message->record;
	const struct op_rule *rule;

	if (record->version != ATTND_VERSION || record->reserved != 0 ||
		(record->flags & ~FLAGS_KNOWN) != 0 || record->priority_class >= ATTND_CLASS_END)
		return ATTND_BAD_RECORD;
	if (record->op == 0 || record->op >= ATTND_OP_END)
		return ATTND_BAD_OP;
	if ((record->in_bytes > 0 && !message->in) || (record->out_capacity > 0 && !message->out))
		return ATTND_BAD_RANGE;
	rule = &RULES[record->op];
	if (!rule->answer && !rule->start)
		return ATTND_UNSUPPORTED; /* text operations are another role's; a NOP with flags is
					     nobody's */
	if ((record->flags & ATTND_REQ_ROWS) && record->op != ATTND_OP_STEP)
		return ATTND_UNSUPPORTED;
	if (sched->draining && !rule->while_draining)
		return ATTND_DRAINING;
	return ATTND_OK;
}

static void enqueue(struct sched *sched, const struct sched_message *message,
	struct sched_client *client, struct sched_session *session, bool try, int64_t predicted_ns)
{
	/* The one freed last: it is still in the cache. */
	struct sched_request *request = sched_request_of_client(sched->free_requests.previous);

	sched_list_leave(&request->of_client);
	request->record = message->record;
	request->in = message->in;
	request->out = message->out;
	request->session = session;
	request->client = client;
	request->state = REQUEST_QUEUED;
	request->end_status = 0;
	request->missed = false;
	request->streams = 0;
	if (try)
		sched->tries[sched_session_cost_model(session)] = request;
	request->crowd_at_ns = request->crowd_ns = 0;
	request->received_ns = message->received_ns;
	request->admitted_ns = base_clock_now(sched->clock);
	request->started_ns = 0;
	request->rows = request->rows_done = request->selected_done = 0;
	request->rows_reused = request->stop_at = 0;
	request->block_first = request->block_rows = 0;
	request->sequence = request->result_bytes = 0;
	request->layer = UINT32_MAX;
	request->value = 0;
	sched_list_append(&session->queue, &request->of_session);
	sched_list_append(&client->requests, &request->of_client);
	session->queued++;
	client->request_count++;
	sched->uses[client->tenant].requests++;
	client->lane->promised++;
	sched->counters.accepted++;
	sched->counters.requests++;
	sched->counters.by_op[request->record.op]++;
	sched_view_admitted(sched, request, predicted_ns);
	sched_request_deadline(sched, request,
		message->record.deadline_ns && sched->options.policy == SCHED_POLICY_PROMISE
			? message->record.deadline_ns
			: INT64_MAX);
	sched_debt_set(sched, request, 0);
	sched_session_kick(sched, session);
}

/* A device that was slow once, or was never measured, would be thought slow for ever if its refusals kept it from being
 * measured again. So after a while without a measurement a request that only the cost model is against goes through, and shows; one
 * at a time, and when it ends without a measurement, or has waited for as long (for credit, its quota, its session), the next one
 * may. */
static bool worth_a_try(const struct sched *sched, const struct sched_message *message, const struct sched_session *session)
{
	const uint32_t model = sched_session_cost_model(session);
	const struct sched_request *tries = sched->tries[model];
	const int64_t now_ns = base_clock_now(sched->clock);

	return message->record.deadline_ns > now_ns && (!tries || now_ns - tries->admitted_ns >= SCHED_DOUBT_NS) &&
		now_ns - sched->learnt_ns[model] >= SCHED_DOUBT_NS;
}

/* Where a request would be late its prompt is looked for in the cache: what was computed before may make the difference. */
static struct sched_forecast forecast(struct sched *sched, const struct sched_message *message, struct sched_session *session,
	uint32_t *reused)
{
	struct sched_forecast forecast = sched_predict(sched, message, session, 0);

	*reused = 0;
	if (forecast.breaks || forecast.finish_ns > message->record.deadline_ns)
		*reused = sched_reuse_expected(sched, message, session);
	return *reused > 0 ? sched_predict(sched, message, session, *reused) : forecast;
}

static void start(struct sched *sched, struct sched_session *session, struct sched_request *request);

void sched_request_take(struct sched *sched, const struct sched_message *message)
{
	struct sched_client *client = &sched->clients[message->client];
	const struct sched_tenant *tenant = &sched->tenants[client->tenant];
	enum attnd_status status = check_record(sched, message);
	const struct op_rule *rule;
	struct sched_session *session;
	uint64_t value = 0;
	int64_t predicted_ns = 0;
	uint32_t reused = 0;
	bool try = false;

	if (status != ATTND_OK) {
		sched_answer(sched, message, (struct sched_answer){ .status = status });
		return;
	}
	rule = &RULES[message->record.op];
	if (rule->answer) {
		rule->answer(sched, message, client);
		return;
	}
	session = sched_session_find(sched, client, message->record.session, &status);
	if (!session) {
		sched_answer(sched, message, (struct sched_answer){ .status = status });
		return;
	}
	if (rule->session_kind && rule->session_kind != session->kind)
		status = ATTND_UNSUPPORTED;
	else if (client->request_count >= sched->options.client_requests_max ||
		session->queued >= SCHED_SESSION_REQUESTS_MAX ||
		sched_list_empty(&sched->free_requests))
		status = ATTND_QUEUE_FULL;
	else if (tenant->requests_max > 0 && message->record.op != ATTND_OP_CLOSE &&
		sched->uses[client->tenant].requests >= tenant->requests_max)
		status = ATTND_OVER_QUOTA;
	else if (message->record.deadline_ns != 0 && message->record.deadline_ns != INT64_MAX &&
		sched->options.policy == SCHED_POLICY_PROMISE) {
		const struct sched_forecast said = forecast(sched, message, session, &reused);

		predicted_ns = said.finish_ns;
		try = said.finish_ns > message->record.deadline_ns && said.doubtful && worth_a_try(sched, message, session);
		if (said.breaks || (said.finish_ns > message->record.deadline_ns && !try)) {
			status = ATTND_REFUSED_DEADLINE;
			value = (uint64_t)said.finish_ns;
		}
	}
	if (status != ATTND_OK)
		sched_answer(sched, message,
			(struct sched_answer){
				.status = status, .position = session->position, .value = value });
	else
		enqueue(sched, message, client, session, try, predicted_ns);
	/* What it was admitted for is its own before anybody else's request makes room. */
	if (status == ATTND_OK && reused > 0)
		start(sched, session, sched_session_head(session));
}

/* ---- on its way ----------------------------------------------------------------------- */

void sched_request_time(struct sched *sched, struct sched_request *request, int64_t deadline_ns)
{
	request->deadline_ns = deadline_ns;
	sched_list_leave(&request->of_timed);
	if (deadline_ns == INT64_MAX)
		return;
	sched_list_append(&sched->timed, &request->of_timed);
	if (deadline_ns < sched->next_expiry_ns)
		sched->next_expiry_ns = deadline_ns;
}

static bool is_raw(const struct sched_request *request)
{
	return request->record.op == ATTND_OP_APPEND || request->record.op == ATTND_OP_ATTEND;
}

static uint32_t position_of(const struct sched_request *request)
{
	const struct sched_session *session = request->session;

	return session->kind == ATTND_SESSION_ATTENTION && request->layer != UINT32_MAX ? session->layers[request->layer]
											 : session->position;
}

void sched_request_proceed(struct sched *sched, struct sched_request *request)
{
	struct sched_session *session = request->session;

	request->state = REQUEST_ACTIVE;
	if (request->deadline_ns < sched->next_expiry_ns)
		sched->next_expiry_ns = request->deadline_ns;
	switch (sched_blocks_take(
		sched, session, request->block_first, request->block_rows, NULL)) {
	case BLOCKS_THERE: sched_session_enter_place(sched, session, PLACE_READY); break;
	case BLOCKS_WAIT:
	case BLOCKS_COPYING: /* never without a flight */
		sched_session_enter_place(sched, session, PLACE_BLOCKED);
		break;
	case BLOCKS_NONE: sched_request_complete(sched, request, ATTND_NO_PAGES); break;
	case BLOCKS_OVER_QUOTA: sched_request_complete(sched, request, ATTND_OVER_QUOTA); break;
	}
}

static void start(struct sched *sched, struct sched_session *session, struct sched_request *request)
{
	unsigned status = ATTND_OK;

	/* Raw requests check their layer's position themselves. */
	if ((request->record.flags & ATTND_REQ_CHECK_POSITION) && !is_raw(request) &&
		request->record.position != session->position)
		status = ATTND_BAD_POSITION;
	else if (request->deadline_ns <= sched->now_ns)
		status = ATTND_EXPIRED;
	else
		status = RULES[request->record.op].start(sched, request);
	if (status == SCHED_STARTED) {
		sched_share_arrived(&sched->uses[request->client->tenant], request, sched->now_ns);
		sched_request_proceed(sched, request);
		return;
	}
	if (status == ATTND_OK && request->record.op == ATTND_OP_CLOSE) {
		sched_request_complete(sched, request, ATTND_OK);
		sched_session_close(sched, session, ATTND_BAD_SESSION);
		return;
	}
	sched_request_complete(sched, request, status);
}

int sched_requests_start(struct sched *sched)
{
	int started = 0;

	while (started < SCHED_STARTS_PER_POLL && !sched_list_empty(&sched->kicked)) {
		struct sched_session *session = sched_session_of_kicked(sched->kicked.next);
		struct sched_request *request = sched_session_head(session);

		sched_list_leave(&session->of_kicked);
		if (!request || session->busy || request->state != REQUEST_QUEUED)
			continue;
		start(sched, session, request);
		started++;
	}
	return started;
}

/* One waiting session tries again; true when it no longer waits. */
static bool unblock(struct sched *sched, struct sched_session *session, struct sched_flight *copy)
{
	struct sched_request *request = sched_session_head(session);

	switch (sched_blocks_take(
		sched, session, request->block_first, request->block_rows, copy)) {
	case BLOCKS_THERE: sched_session_enter_place(sched, session, PLACE_READY); return true;
	case BLOCKS_WAIT: return false;
	case BLOCKS_COPYING:
		sched_session_leave_place(sched, session);
		session->busy = true;
		sched_request_run(sched, request);
		copy->members[copy->member_count++] =
			(struct sched_member){ .session = session, .request = request };
		return true;
	case BLOCKS_NONE: sched_request_complete(sched, request, ATTND_NO_PAGES); return true;
	case BLOCKS_OVER_QUOTA:
		sched_request_complete(sched, request, ATTND_OVER_QUOTA);
		return true;
	}
	return true;
}

int sched_requests_unblock(struct sched *sched)
{
	struct sched_flight *copy;
	struct sched_list *link, *next;
	int moved = 0;

	if (!sched->retry_blocked)
		return 0;
	sched->retry_blocked = false;
	sched->want_zero = false;
	copy = sched_flight_has(sched, KERN_WORK_COPY) ? NULL : sched_flight_free(sched);
	if (copy)
		copy->work.kind = KERN_WORK_COPY;
	for (link = sched->blocked.next; link != &sched->blocked; link = next) {
		next = link->next;
		moved += unblock(sched, sched_session_of_place(link), copy);
	}
	if (copy && copy->span_count > 0)
		sched_flight_launch(sched, copy);
	return moved;
}

int sched_requests_expire(struct sched *sched)
{
	int64_t next_ns = INT64_MAX;
	struct sched_list *link, *next;
	int expired = 0;

	if (sched->now_ns < sched->next_expiry_ns)
		return 0;
	/* What a completion below sets anew lowers it again. */
	sched->next_expiry_ns = INT64_MAX;
	for (link = sched->timed.next; link != &sched->timed; link = next) {
		struct sched_request *request = sched_request_of_timed(link);

		next = link->next;
		if (request->state == REQUEST_RUNNING)
			continue; /* it is looked at when it lands */
		if (request->deadline_ns <= sched->now_ns) {
			sched_request_complete(sched, request, ATTND_EXPIRED);
			expired++;
		} else if (request->deadline_ns < next_ns) {
			next_ns = request->deadline_ns;
		}
	}
	if (next_ns != INT64_MAX && next_ns < sched->now_ns + SCHED_EXPIRY_NS)
		next_ns = sched->now_ns + SCHED_EXPIRY_NS;
	if (next_ns < sched->next_expiry_ns)
		sched->next_expiry_ns = next_ns;
	return expired;
}

/* ---- out ------------------------------------------------------------------------------ */

/* Returns its done_ns. */
static int64_t reply(struct sched *sched, const struct sched_request *request,
	enum attnd_status status, uint8_t flags, uint64_t value)
{
	struct sched_lane_use *lane = request->client->lane;
	const int64_t now_ns = sched->stamp_ns ? sched->stamp_ns : base_clock_now(sched->clock);

	*sched_reply_claim(lane) = (struct sched_reply){
		.kind = SCHED_COMPLETION,
		.client = request->client->number,
		.completion = {
			.request_id = request->record.request_id,
			.status = (uint8_t)status,
			.flags = flags,
			.sequence = request->sequence,
			.result_bytes = request->result_bytes,
			.position = position_of(request),
			.received_ns = request->received_ns,
			.admitted_ns = request->admitted_ns,
			.started_ns = request->started_ns,
			.done_ns = now_ns,
			.value = value,
		},
	};
	sched_reply_send(lane);
	return now_ns;
}

void sched_request_release(struct sched *sched, struct sched_request *request)
{
	struct sched_client *client = request->client;
	const uint32_t streams = request->streams;

	request->streams = 0;
	client->lane->promised -= streams;
	client->promised -= streams;
	client->credits += streams;
	sched_client_unpark(sched, client);
}

void sched_request_stream(struct sched *sched, struct sched_request *request, uint32_t token)
{
	struct sched_client *client = request->client;
	bool late = request->deadline_ns < sched->now_ns;

	BASE_ASSERT(request->streams > 0);
	request->streams--;
	client->lane->promised--;
	client->promised--;
	client->credits_spent++;
	reply(sched, request, ATTND_OK, late ? ATTND_CPL_MISSED : 0, token);
	request->sequence++;
	sched->counters.stream_completions++;
}

void sched_request_complete(
	struct sched *sched, struct sched_request *request, enum attnd_status status)
{
	struct sched_session *session = request->session;
	struct sched_client *client = request->client;
	bool active = request->state >= REQUEST_ACTIVE;
	int64_t done_ns = sched->now_ns;

	BASE_ASSERT(request->state != REQUEST_FREE &&
		!(request->state == REQUEST_RUNNING && session->busy));
	sched_request_unpromise(sched, request);
	sched_debt_drop(sched, request);
	if (sched->tries[sched_session_cost_model(session)] == request)
		sched->tries[sched_session_cost_model(session)] = NULL;
	if (status != ATTND_OK && request->started_ns == 0)
		sched_share_withdrawn(&sched->uses[client->tenant], request);
	client->lane->promised--;
	if (status != ATTND_OK)
		sched_reuse_undo(sched, request);
	if (client->state == CLIENT_LIVE)
		done_ns = reply(sched, request, status,
			ATTND_CPL_FINAL | (request->missed ? ATTND_CPL_MISSED : 0), request->value);
	else
		sched->counters.gone++;
	sched_view_completed(sched, request, status, done_ns);
	if (active) {
		sched_session_leave_place(sched, session);
		sched_reuse_ended(sched, session, request);
		sched_blocks_trim(sched, session, session->position, session->position);
	}
	sched_list_leave(&request->of_session);
	sched_list_leave(&request->of_client);
	sched_list_leave(&request->of_timed);
	session->queued--;
	client->request_count--;
	sched->uses[client->tenant].requests--;
	request->state = REQUEST_FREE;
	sched_list_append(&sched->free_requests, &request->of_client);
	sched->counters.completed++;
	sched->counters.requests--;
	sched->counters.by_status[status]++;
	if (session->closing)
		sched_session_settle(sched, session);
	else
		sched_session_kick(sched, session);
	/* A stream that was given a credit to go on and ended instead leaves it to the next. */
	sched_client_unpark(sched, client);
	sched_client_settle(sched, client);
}

void sched_request_end(struct sched *sched, struct sched_request *request, enum attnd_status status)
{
	if (request->state != REQUEST_RUNNING) {
		sched_request_complete(sched, request, status);
		return;
	}
	/* What is in the air lands; the rest is not to come. */
	sched_debt_drop(sched, request);
	if (request->end_status == 0)
		request->end_status = (uint8_t)status;
}
