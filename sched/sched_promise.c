/*
 * Whether a request that arrives now can be promised its deadline without breaking a promise that was made before. Scheduler's
 * thread; asked for STEP and GENERATE with a deadline only, and after sched_predict.c found nothing against them.
 *
 * Classes and deadlines order the work of one tenant (sched_share.c), so the promises that a request may break are its own tenant's;
 * of each step's prefill the tenant is counted on to have its share beside those that have some waiting now.
 *
 * All prefill of the tenant that waits, what is in the air included, is put in the order in which steps take it, the new request at its
 * place, and laid out over full steps: each carries every stream that is decoding now, and those that the waiting ones will be.
 * The last step of each ends with its rows: sched_step.c adds no more than a deadline in the step allows. Whoever stands behind
 * the new one is pushed back by its rows; where that moves somebody beyond a deadline that was within reach, the answer is no.
 * Linear in the sessions of the model, but for the sorting of those that have a deadline.
 */
#include <math.h>

#include "sched/sched_private.h"

/* Works that last no longer than the band says: of a broken promise more is lost than of a request refused. */
static const double PROMISED_SHARE = 0.9999;

/* What steps consist of from now on. */
struct outlook {
	struct sched_candidate *waiting; /* prefills in the order of urgency; fair: rows */
	uint32_t count;
	uint64_t rows, visits, kv_bytes;
	uint64_t streams, stream_visits, stream_bytes;
	uint64_t free_rows; /* waiting and without a deadline of any class below */
	uint64_t others;    /* bit i: tenant i, not this one, has prefill waiting */
	uint32_t model, tenant, room;
};

static void add_stream(struct outlook *outlook, const struct sched_session *session)
{
	outlook->streams++;
	outlook->stream_visits += session->position + 1;
	outlook->stream_bytes += sched_kv_bytes(&session->kv, (uint64_t)session->position + 1);
}

/* rows: those that are left beyond what is in the air. */
static void add(struct outlook *outlook, const struct sched_request *request, uint64_t rows)
{
	const uint64_t position = request->session->position;

	if (rows == 0 || outlook->count == outlook->room)
		return;
	if (request->client->tenant != outlook->tenant) {
		outlook->others |= UINT64_C(1) << request->client->tenant;
		return;
	}
	outlook->rows += rows;
	outlook->visits += rows * position + rows * (rows + 1) / 2;
	outlook->kv_bytes += sched_kv_bytes(&request->session->kv, position + rows);
	outlook->waiting[outlook->count++] = (struct sched_candidate){ .session = request->session,
		.deadline_ns = request->deadline_ns,
		.fair = rows,
		.class = request->record.priority_class };
}

static void add_head(struct outlook *outlook, const struct sched_request *request, uint32_t flying)
{
	const uint32_t left = request->rows - request->rows_done - flying;

	if (request->session->model != outlook->model)
		return;
	if (request->record.op == ATTND_OP_GENERATE && (flying ? left == 0 : left == 1))
		add_stream(outlook, request->session);
	else
		add(outlook, request, left);
}

static void add_all(const struct sched *sched, struct outlook *outlook)
{
	for (uint32_t c = 0; c < sched->options.clients_max; c++) {
		const struct sched_list *ready = &sched->clients[c].ready;

		for (const struct sched_list *s = ready->next; s != ready; s = s->next)
			add_head(outlook, sched_session_head(sched_session_of_place(s)), 0);
	}
	for (uint32_t f = 0; f < sched->flight_count; f++) {
		const struct sched_flight *flight = &sched->flights[(sched->flight_first + f) % SCHED_FLIGHTS];

		if (flight->work.kind != KERN_WORK_STEP)
			continue;
		for (uint32_t i = flight->finished + flight->begun; i < flight->member_count; i++)
			add_head(outlook, flight->members[i].request, flight->members[i].rows);
	}
	/* Accepted a moment ago, and not begun; not those behind others of their session. */
	for (const struct sched_list *k = sched->kicked.next; k != &sched->kicked; k = k->next) {
		const struct sched_request *request = sched_session_head(sched_session_of_kicked(k));

		if (request && request->session->model == outlook->model &&
			(request->record.op == ATTND_OP_STEP || request->record.op == ATTND_OP_GENERATE))
			add(outlook, request,
				request->record.argument < request->session->max_tokens ? request->record.argument
											: request->session->max_tokens);
	}
}

static bool before(const struct sched_candidate *a, const struct sched_candidate *b)
{
	return a->class != b->class ? a->class < b->class : a->deadline_ns < b->deadline_ns;
}

/* Shell's, with the gaps of Ciura (2001). */
static void sort(struct sched_candidate *items, uint32_t count)
{
	static const uint32_t gaps[] = { 701, 301, 132, 57, 23, 10, 4, 1 };

	for (uint32_t g = 0; g < sizeof(gaps) / sizeof(gaps[0]); g++) {
		for (uint32_t i = gaps[g]; i < count; i++) {
			const struct sched_candidate item = items[i];
			uint32_t at = i;

			for (; at >= gaps[g] && before(&item, &items[at - gaps[g]]); at -= gaps[g])
				items[at] = items[at - gaps[g]];
			items[at] = item;
		}
	}
}

/* Of so many rows of prefill in a step, those that are this tenant's at least. */
static uint64_t share_of(const struct sched *sched, const struct outlook *outlook, uint64_t rows)
{
	const uint64_t own = sched_share_weight(sched, &sched->uses[outlook->tenant]);
	uint64_t all = own;

	for (uint32_t i = 0; i < sched->options.tenant_count; i++)
		all += outlook->others >> i & 1 ? sched_share_weight(sched, &sched->uses[i]) : 0;
	return rows * own / all > 0 ? rows * own / all : 1;
}

/* How long a run of full steps takes, at worst as it seems. */
struct pace {
	int64_t base_ns, step_ns, streams_ns; /* a full step; one of streams alone */
	double over;
	uint64_t per_step, full_rows;
};

static int64_t finish_ns(const struct pace *pace, uint64_t rows)
{
	const uint64_t steps = (rows + pace->per_step - 1) / pace->per_step, rest = rows % pace->per_step;
	double ns = (double)(rows / pace->per_step) * (double)pace->step_ns;

	if (rest > 0)
		ns += (double)pace->streams_ns +
			(double)(pace->step_ns - pace->streams_ns) * fmin(1.0, (double)rest / (double)pace->full_rows);
	return pace->base_ns + (int64_t)(ns + ns * pace->over / sqrt((double)(steps ? steps : 1)));
}

static struct pace pace_of(const struct sched *sched, const struct outlook *outlook)
{
	const uint64_t most = sched->options.step_rows_max, spare = most < 4 ? 1 : most / 4;
	uint64_t streams = outlook->streams + outlook->count, rows;
	struct pace pace = { .over = sched_cost_error(&sched->cost, outlook->model, PROMISED_SHARE) - 1.0 };
	struct sched_load load;
	double part;

	if (pace.over < 0.0)
		pace.over = 0.0;
	if (streams > most - spare)
		streams = most - spare;
	pace.per_step = most > streams ? most - streams : 1;
	/* Who has waited too long goes first with his part of each step. */
	if (outlook->free_rows > 0 && pace.per_step > 2 * sched_aged_rows(sched))
		pace.per_step -= sched_aged_rows(sched);
	pace.full_rows = pace.per_step;
	pace.per_step = share_of(sched, outlook, pace.per_step);
	rows = outlook->others == 0 && outlook->rows < pace.full_rows ? outlook->rows : pace.full_rows;
	part = outlook->rows ? (double)rows / (double)outlook->rows : 0.0;
	load = (struct sched_load){ .rows = (uint32_t)(rows + streams),
		.outs = (uint32_t)streams + 1,
		.visits = outlook->stream_visits + (uint64_t)(part * (double)outlook->visits),
		.kv_bytes = outlook->stream_bytes + (uint64_t)(part * (double)outlook->kv_bytes) };
	/* A step that carries others' prefill too is a whole one, however little of it is this tenant's. */
	pace.full_rows = outlook->others == 0 ? rows : pace.per_step;
	pace.step_ns = sched_cost_predict(&sched->cost, outlook->model, &load);
	load = (struct sched_load){ .rows = (uint32_t)streams,
		.outs = (uint32_t)streams,
		.visits = outlook->stream_visits,
		.kv_bytes = outlook->stream_bytes };
	pace.streams_ns = sched_cost_predict(&sched->cost, outlook->model, &load);
	if (pace.streams_ns > pace.step_ns)
		pace.streams_ns = pace.step_ns;
	pace.base_ns = base_clock_now(sched->clock) +
		(int64_t)((double)sched_flights_remaining_ns(sched) * (1.0 + pace.over));
	return pace;
}

int64_t sched_promise(struct sched *sched, const struct sched_message *message, const struct sched_session *session)
{
	const struct attnd_request *record = &message->record;
	const struct sched_candidate own = { .deadline_ns = record->deadline_ns, .class = record->priority_class };
	const uint64_t rows = record->argument < session->max_tokens ? record->argument : session->max_tokens;
	struct outlook outlook = { .waiting = sched->prefills,
		.model = session->model,
		.tenant = session->client->tenant,
		.room = sched->options.sessions_max };
	struct pace pace;
	uint64_t ahead = 0;
	uint32_t i = 0;
	int64_t own_ns;

	if (session->kind != ATTND_SESSION_MODEL || rows == 0)
		return 0;
	add_all(sched, &outlook);
	sort(outlook.waiting, outlook.count);
	for (uint32_t w = 0; w < outlook.count; w++)
		if (outlook.waiting[w].deadline_ns == INT64_MAX && !before(&outlook.waiting[w], &own))
			outlook.free_rows += outlook.waiting[w].fair;
	outlook.rows += rows;
	outlook.visits += rows * session->position + rows * (rows + 1) / 2;
	outlook.kv_bytes += sched_kv_bytes(&session->kv, session->position + rows);
	pace = pace_of(sched, &outlook);
	for (; i < outlook.count && !before(&own, &outlook.waiting[i]); i++)
		ahead += outlook.waiting[i].fair;
	own_ns = finish_ns(&pace, ahead + rows);
	for (; i < outlook.count; i++) {
		const int64_t deadline_ns = outlook.waiting[i].deadline_ns;

		ahead += outlook.waiting[i].fair;
		if (deadline_ns != INT64_MAX && finish_ns(&pace, ahead) <= deadline_ns &&
			finish_ns(&pace, ahead + rows) > deadline_ns)
			own_ns = INT64_MAX;
	}
	/* Behind everybody it would break nothing; that is when it could be done. */
	if (own_ns == INT64_MAX) {
		own_ns = finish_ns(&pace, outlook.rows);
		own_ns = own_ns > record->deadline_ns ? own_ns : record->deadline_ns + 1;
	}
	return own_ns;
}
