/*
 * When a request that arrives now would finish, and whether it would break an earlier promise. Scheduler's thread; asked for
 * requests with a deadline, and once for each step (sched_promises_tight).
 *
 * The device is taken for a fluid that is served in full steps. A step carries every stream, which is what it costs at least, and
 * fills what is left of its rows with what waits. Of that goes before the request, all of it sums that sched_debt.c keeps:
 *
 *   what is in the air; of its own tenant what is more urgent, and the earlier ones of its own session;
 *   of another tenant what waits or, going by what came of late, will have come by then, but no more than its share:
 *   until the request's tenant has had the time it needs the other one gets as much by weight, from where both stand in
 *   virtual time, and one step.
 *
 * On top comes a band, by which works of late have been longer than predicted: over several of them errors make up for each
 * other, as far as they are noise. And the time for which the tenant's quota of device time holds it up.
 *
 * Classes and deadlines order the work of one tenant, so what a request may break are its own tenant's promises: those
 * behind it move back by its work, and where one that is within reach, taking the device at its word (no band, nobody new, no
 * other tenant), would then be late with the band and beside the others, the request is refused. Work without a deadline breaks
 * none: sched_step.c lets it pass only promises that can wait. Beyond its share a tenant's promises are as good as the guess of
 * what others will do; within its share it depends on nobody.
 *
 * The question is asked of subtrees, which are passed where all of it can wait, or none of it is to be saved. Both are judged by
 * its work's own time, which is the greater part of what it takes, so that a subtree is looked into only where its promises are
 * nearly late.
 */
#include <math.h>

#include "sched/sched_private.h"

static const double FINISH_NS_MOST = 1e17;

enum { LOOKS_MOST = 256, LOOKS_TIGHT = 64 }; /* of one question, and of the one for each step; who needs more is answered no */

/* How the device serves one tenant's work from now on. */
struct pace {
	double start_ns, flying_ns; /* now; left of what is in the air */
	double flying_band_ns;      /* and the band of that */
	double step_ns, partial_ns; /* a step's time beside the rows that fill it; what a step of few rows takes longer than its rows say */
	double small_ns;            /* the same of the last step, as measured */
	double row_ns;
	double stream_ns;           /* what another stream adds to each step */
	double per_step, chunk;     /* rows of a step that are filled; of one request */
	const struct sched_cost *cost; /* for the band; of this model: */
	uint32_t model;
	double others;              /* ns of other tenants for one of this tenant's, */
	double others_most_ns;      /* but no more than that, */
	double others_ns;           /* and so much in any case */
	double quota, quota_from_ns; /* ns for one of device time; 0: no quota */
};

/* What a request finds. */
struct question {
	struct pace word, sure;  /* of what was promised: where it is of several models, at best and at worst */
	struct sched_work extra; /* would be put before those behind */
	uint8_t class;
	int64_t deadline_ns;
	uint32_t looks_left;
};

static inline double greater(double a, double b)
{
	return a > b ? a : b;
}

/* ---- the pace ------------------------------------------------------------------------- */

static double streams_ns(const struct sched_cost_units *units, const struct sched_streams *streams)
{
	return (double)streams->count * (units->row_ns + units->out_ns) + (double)streams->visits * units->visit_ns +
		(double)streams->kv_bytes * units->byte_ns;
}

/* Streams of other models have steps of their own, which come between. */
static double other_models_ns(const struct sched *sched, uint32_t model)
{
	double ns = 0.0;

	for (uint32_t m = 0; m < sched->options.model_count; m++)
		if (m != model && sched->streams[m].count > 0)
			ns += sched->units[m].step_ns +
				greater(streams_ns(&sched->units[m], &sched->streams[m]), sched->units[m].weights_ns);
	return ns;
}

static void find_rows(const struct sched *sched, uint32_t model, struct pace *pace)
{
	const double most = sched->options.step_rows_max, spare = sched->options.step_rows_max < 4 ? 1.0 : floor(most / 4);
	const struct sched_streams *streams = &sched->streams[model];
	const struct sched_cost_units *units = &sched->units[model];
	double count = (double)streams->count, part = 1.0;

	/* Streams fill three quarters of a step at most while a prefill waits; the others are in other steps. */
	if (count > most - spare) {
		part = (most - spare) / count;
		count = most - spare;
	}
	pace->per_step = greater(most - count, 1.0);
	pace->row_ns = units->row_ns;
	pace->stream_ns = units->row_ns + units->out_ns;
	pace->step_ns = units->step_ns + part * streams_ns(units, streams) + other_models_ns(sched, model);
	pace->partial_ns = greater(units->weights_ns - count * units->row_ns, 0.0);
}

/* What is the same for all tenants. */
static struct pace device_pace(const struct sched *sched, uint32_t model, int64_t now_ns)
{
	struct pace pace = { .start_ns = (double)now_ns, .cost = &sched->cost, .model = model, .others_most_ns = INFINITY };
	int64_t flying_most_ns;

	pace.flying_ns = (double)sched_flights_remaining_ns(
		sched, now_ns, sched_cost_band(&sched->cost, model, 1.0), &flying_most_ns);
	pace.flying_band_ns = (double)flying_most_ns - pace.flying_ns;
	if (model < SCHED_COST_MODELS - 1) {
		find_rows(sched, model, &pace);
	} else {
		pace.per_step = sched->options.step_rows_max;
		pace.step_ns = other_models_ns(sched, model);
	}
	return pace;
}

/* Of a tenant beside others that take their whole shares, as far as they have something waiting. */
static void serve_tenant(const struct sched *sched, const struct sched_tenant_use *use, int64_t now_ns, struct pace *pace)
{
	const uint64_t others = sched->waiting_weight - (use->waiting.rows > 0 ? use->weight : 0);
	const double aged = sched_aged_rows(sched);

	/* Who has waited too long goes first with his part of each step. */
	for (uint32_t c = 0; c < ATTND_CLASS_END && pace->model < SCHED_COST_MODELS - 1; c++) {
		if (use->free[c].rows > 0 && pace->per_step > 2 * aged) {
			pace->per_step -= aged;
			break;
		}
	}
	pace->chunk = pace->model < SCHED_COST_MODELS - 1 ? sched_lesser(sched->options.prefill_chunk, pace->per_step) : pace->per_step;
	pace->others = (double)others / use->weight;
	if (use->capped && !sched->draining) {
		const int64_t paid_ns = use->paid_until_ns > now_ns ? use->paid_until_ns : now_ns;

		pace->quota = greater(1e9 / (double)sched->tenants[use - sched->uses].device_ns_per_s, 1.0);
		pace->quota_from_ns = (double)(paid_ns - use->paid_until_ns) + (double)sched_share_free_ns(sched, use);
	}
}

/* Steps that so much work takes, the last of which is one request's rows. */
static double steps_of(const struct pace *pace, struct sched_work work, double rows, double others_ns)
{
	const double before = greater((double)work.rows - rows, 0.0) +
		(pace->row_ns > 0.0 ? others_ns / pace->row_ns : others_ns / SCHED_ATTEND_NS * pace->per_step);

	/* A request's own rows come by chunks, and so do steps, whatever else fills them. */
	return greater(ceil(before / pace->per_step + rows / pace->chunk - 1e-6), 1.0);
}

/* partial_ns: what its last step takes longer than its rows say. */
static double end_ns(const struct pace *pace, struct sched_work work, double others_ns, double steps, double partial_ns, bool sure)
{
	const double own_ns = (double)work.ns + partial_ns + pace->small_ns +
		steps * (pace->step_ns + (double)work.streams * pace->stream_ns);
	const double ns = own_ns + others_ns;
	double end_ns = pace->start_ns + pace->flying_ns + ns;

	if (sure)
		end_ns += hypot(pace->flying_band_ns, ns * (sched_cost_band(pace->cost, pace->model, steps) - 1.0));
	if (pace->quota > 0.0)
		end_ns = greater(end_ns, pace->quota_from_ns + own_ns * pace->quota);
	return sched_lesser(end_ns, pace->start_ns + FINISH_NS_MOST);
}

static double others_of(const struct pace *pace, struct sched_work work, bool sure)
{
	return sure ? pace->others_ns + sched_lesser(pace->others * (double)work.ns, pace->others_most_ns) : 0.0;
}

/* When so much of the tenant's work will be done, the last of which is one request's rows. sure: with the band, and beside others;
 * else the device is taken at its word. */
static double finish_ns(const struct pace *pace, struct sched_work work, double rows, bool sure)
{
	const double others_ns = others_of(pace, work, sure), steps = steps_of(pace, work, rows, others_ns);
	const double last = greater((double)work.rows - (steps - 1.0) * pace->per_step, 0.0);

	return end_ns(pace, work, others_ns, steps, greater(pace->partial_ns - last * pace->row_ns, 0.0), sure);
}

/* ---- promises ------------------------------------------------------------------------- */

/* Another model's steps come between, and there is one that they do not fill. */
static void mix(struct question *question, const struct pace *other)
{
	struct pace *word = &question->word, *sure = &question->sure;

	word->step_ns = sched_lesser(word->step_ns, other->step_ns);
	word->partial_ns = sched_lesser(word->partial_ns, other->partial_ns);
	word->row_ns = greater(word->row_ns, other->row_ns);
	word->stream_ns = sched_lesser(word->stream_ns, other->stream_ns);
	word->per_step = greater(word->per_step, other->per_step);
	word->chunk = greater(word->chunk, other->chunk);
	sure->small_ns += other->step_ns + other->partial_ns;
	sure->step_ns = greater(sure->step_ns, other->step_ns);
	sure->partial_ns = greater(sure->partial_ns, other->partial_ns);
	sure->row_ns = other->row_ns > 0.0 && (sure->row_ns <= 0.0 || other->row_ns < sure->row_ns) ? other->row_ns : sure->row_ns;
	sure->stream_ns = greater(sure->stream_ns, other->stream_ns);
	sure->per_step = sched_lesser(sure->per_step, other->per_step);
	sure->chunk = sched_lesser(sure->chunk, other->chunk);
	sure->flying_band_ns = greater(sure->flying_band_ns, other->flying_band_ns);
	if (sched_cost_band(sure->cost, other->model, 1.0) > sched_cost_band(sure->cost, sure->model, 1.0))
		sure->model = other->model;
}

/* Of a tenant that promised something. known: of a device, the last one that was asked for, or of model UINT32_MAX; with: of this
 * model and tenant, which counts in any case, or NULL. */
static void find_paces(const struct sched *sched, const struct sched_tenant_use *use, int64_t now_ns, struct pace *known,
	const struct pace *with, struct question *question)
{
	bool first = !with;

	if (with)
		question->word = question->sure = *with;
	for (uint32_t models = use->promised_models; models > 0; models &= models - 1) {
		const uint32_t m = (uint32_t)__builtin_ctz(models);
		struct pace pace;

		if (with && m == with->model)
			continue;
		if (known->model != m)
			*known = device_pace(sched, m, now_ns);
		pace = *known;
		serve_tenant(sched, use, now_ns, &pace);
		if (first)
			question->word = question->sure = pace;
		else
			mix(question, &pace);
		first = false;
	}
}

static bool asked(const struct question *question, const struct sched_debt *node)
{
	return node->class != question->class ? node->class > question->class : node->deadline_ns > question->deadline_ns;
}

static bool late(const struct question *question, const struct sched_debt *node, struct sched_work work)
{
	const double rows = (double)node->own.rows, deadline_ns = (double)node->deadline_ns;

	return finish_ns(&question->word, work, rows, false) <= deadline_ns &&
		finish_ns(&question->sure, sched_work_sum(work, question->extra), rows, true) > deadline_ns;
}

/* All that is below finishes no later than this, but for the time of the work behind it. */
static bool all_can_wait(const struct question *question, const struct sched_debt *tree, struct sched_work ahead)
{
	const struct pace *pace = &question->sure;
	const struct sched_work work = sched_work_sum(sched_work_sum(ahead, tree->below), question->extra);
	const double others_ns = others_of(pace, work, true), steps = steps_of(pace, work, (double)tree->below.rows, others_ns);

	return end_ns(pace, work, others_ns, steps, pace->partial_ns, true) - (double)tree->below.ns <= (double)tree->all_by_ns;
}

/* And no earlier than what is before it is done. */
static bool all_are_late(const struct question *question, const struct sched_debt *tree, struct sched_work ahead)
{
	const struct pace *pace = &question->word;

	return pace->start_ns + pace->flying_ns + (double)ahead.ns + (double)ahead.rows / pace->per_step * pace->step_ns >
		(double)tree->any_by_ns;
}

/* Whether one of these would be late. */
static bool breaks(struct question *question, const struct sched_debt *tree, struct sched_work ahead)
{
	struct sched_work here;

	if (!tree)
		return false;
	if (question->looks_left == 0)
		return true;
	question->looks_left--;
	if (all_can_wait(question, tree, ahead) || all_are_late(question, tree, ahead))
		return false;
	here = tree->left ? sched_work_sum(ahead, tree->left->below) : ahead;
	if (asked(question, tree) && breaks(question, tree->left, ahead))
		return true;
	here = sched_work_sum(here, tree->own);
	return (asked(question, tree) && late(question, tree, here)) || breaks(question, tree->right, here);
}

/* It is asked again for the next step: what others send until then need not be guessed. */
static bool tight(const struct sched *sched, const struct sched_tenant_use *use, int64_t now_ns, struct pace *known)
{
	struct question question = { .extra = { .ns = sched->slack_ns }, .deadline_ns = INT64_MIN, .looks_left = LOOKS_TIGHT };

	find_paces(sched, use, now_ns, known, NULL, &question);
	question.sure.others_most_ns = (double)(sched->waiting_ns - use->waiting.ns);
	return breaks(&question, use->promised, (struct sched_work){ 0 });
}

uint64_t sched_promises_tight(const struct sched *sched)
{
	const int64_t now_ns = base_clock_now(sched->clock);
	struct pace known = { .model = UINT32_MAX };
	uint64_t tenants = 0;

	_Static_assert(SCHED_TENANTS_MAX <= 64, "a bit for each");
	for (const struct sched_list *link = sched->active.next; link != &sched->active; link = link->next) {
		const struct sched_tenant_use *use = sched_use_of_active(link);

		if (use->promised && tight(sched, use, now_ns, &known))
			tenants |= UINT64_C(1) << (use - sched->uses);
	}
	return tenants;
}

/* ---- a request that arrives now ------------------------------------------------------- */

/* Tokens that are drawn one after the other take a step each, and see what is there by then. */
static int64_t tokens_ns(const struct sched *sched, const struct sched_session *session)
{
	const struct sched_cost_units *units = &sched->units[session->model];
	const double tokens = (double)session->tokens_asked;
	const double position = sched_lesser((double)session->position + tokens / 2, session->max_tokens);

	return sched_work_ns(tokens * (units->step_ns + greater(units->weights_ns, units->row_ns) + units->out_ns +
		units->visit_ns * position));
}

/* Of its own session's, which works in order, what is not more urgent and so is not counted yet. Where some deadlines of its class are
 * later all of them count, though the earlier ones are counted already: that misleads nobody else. */
static struct sched_work queue_work(const struct sched *sched, const struct sched_session *session,
	const struct attnd_request *record, struct sched_work ahead)
{
	const struct sched_asked *asked = &session->asked;
	const uint32_t class = record->priority_class;

	for (uint32_t c = session->place == PLACE_PARKED ? 0 : class; c < ATTND_CLASS_END; c++)
		ahead = sched_work_sum(ahead, asked->free[c]);
	for (uint32_t c = class; c < ATTND_CLASS_END; c++)
		if (c > class || asked->latest_ns[c] > record->deadline_ns)
			ahead = sched_work_sum(ahead, asked->promised[c]);
	if (session->tokens_asked > 0)
		ahead.ns += tokens_ns(sched, session);
	return ahead;
}

static struct sched_work own_work(const struct sched *sched, const struct sched_message *message, const struct sched_session *session,
	uint32_t reused)
{
	const struct attnd_request *record = &message->record;
	struct sched_work work;

	if (session->kind == ATTND_SESSION_ATTENTION)
		return sched_work_of_attend(sched, session, message->in, record->in_bytes);
	work = sched_work_of_rows(sched, session, (uint64_t)session->position + reused, sched_rows_asked(session, record) - reused);
	work.streams = record->op == ATTND_OP_GENERATE;
	return work;
}

/* Until this one's last chunk is next. own_ns: device time that this one needs, of which last_ns is its last chunk; others: weight
 * of those with work, by its own. */
static struct sched_rivalry rivalry_of(const struct sched *sched, const struct sched_tenant_use *use, const struct pace *pace,
	double own_ns, double last_ns, double others)
{
	const int64_t least_ns = sched_share_least(sched);
	const int64_t start_ns = least_ns == INT64_MAX ? sched_share_start(sched, use)
		: (!sched_list_empty(&use->of_active) && !use->held) || use->virtual_ns > least_ns ? use->virtual_ns : least_ns;

	return (struct sched_rivalry){ .virtual_ns = (double)start_ns + (own_ns - last_ns) / use->weight,
		.least_ns = (double)(least_ns == INT64_MAX ? start_ns : least_ns),
		.step_ns = greater((double)sched->slack_ns, pace->step_ns + pace->per_step * pace->row_ns),
		.horizon_ns = own_ns * (1.0 + others),
		.now_ns = (int64_t)pace->start_ns };
}

/* No less than they can have: nobody stands further back than the least of those that are backlogged. */
static double rivals_most_ns(const struct sched *sched, const struct sched_tenant_use *use, const struct sched_rivalry *rivalry)
{
	return (rivalry->virtual_ns - rivalry->least_ns) * (double)(sched->weights - use->weight) +
		(sched->options.tenant_count - 1) * rivalry->step_ns;
}

/* The last step may be a small one: by how much longer, or shorter, it takes than the pace of full ones says. */
static double small_ns(const struct sched *sched, const struct sched_session *session, const struct pace *pace,
	struct sched_work work)
{
	const struct sched_cost_units *units = &sched->units[session->model];
	const struct sched_streams *streams = &sched->streams[session->model];
	const uint64_t rows = (uint64_t)sched_lesser((double)work.rows, pace->chunk);
	const uint64_t most = sched->options.step_rows_max - rows;
	const struct sched_load load = { .rows = (uint32_t)(rows + (streams->count < most ? streams->count : most)),
		.outs = (uint32_t)(streams->count < most ? streams->count : most) + 1,
		.visits = streams->visits + rows * session->position,
		.kv_bytes = streams->kv_bytes + sched_session_bytes(session, session->position + rows) };

	if (load.rows > sched->options.step_rows_max / 2)
		return 0.0;
	return (double)sched_cost_predict(&sched->cost, session->model, &load) - units->step_ns -
		greater(units->weights_ns, load.rows * units->row_ns) - load.outs * units->out_ns -
		(double)load.visits * units->visit_ns - (double)load.kv_bytes * units->byte_ns;
}

/* Others may be cut so that the request makes its deadline, and then all its chunks are in small steps. */
static double small_steps_ns(const struct sched *sched, const struct sched_session *session, const struct pace *pace,
	struct sched_work own, struct sched_work work)
{
	const double ns = small_ns(sched, session, pace, work);

	return ns > 0.0 ? ns * ceil((double)own.rows / pace->chunk) : ns;
}

/* Of a request's own work, what its last step has of it. */
static double last_ns(const struct pace *pace, struct sched_work own)
{
	const double rows = (double)own.rows;

	return rows > pace->chunk ? (double)own.ns * pace->chunk / rows : (double)own.ns;
}

/* When the request would be done beside the others; what these can have need not be known to the nanosecond where it is in time. */
static double finish_beside(const struct sched *sched, const struct sched_tenant_use *use, struct pace *pace, struct sched_work ahead,
	struct sched_work own, double others, double deadline_ns)
{
	const double rows = (double)own.rows, own_ns = finish_ns(pace, ahead, rows, false) - pace->start_ns - pace->flying_ns;
	struct sched_rivalry rivalry;
	double ns;

	if (sched->options.tenant_count == 1)
		return finish_ns(pace, ahead, rows, true);
	rivalry = rivalry_of(sched, use, pace, own_ns, last_ns(pace, own), others);
	pace->others_ns = rivals_most_ns(sched, use, &rivalry);
	ns = finish_ns(pace, ahead, rows, true);
	if (ns <= deadline_ns)
		return ns;
	pace->others_ns = sched_share_rivals(sched, use, &rivalry);
	return finish_ns(pace, ahead, rows, true);
}

/* Asked with the others' whole shares first, which is cheap; then with what they can really have until all that was promised is
 * done. */
static bool breaks_promise(const struct sched *sched, const struct sched_tenant_use *use, const struct attnd_request *record,
	struct sched_work own, const struct pace *beside, struct pace *known)
{
	const struct sched_work all = sched_work_sum(use->promised->below, own);
	struct question question = {
		.extra = own, .class = record->priority_class, .deadline_ns = record->deadline_ns, .looks_left = LOOKS_MOST
	};
	struct sched_rivalry rivalry;
	double own_ns;

	find_paces(sched, use, (int64_t)beside->start_ns, known, beside, &question);
	if (!breaks(&question, use->promised, (struct sched_work){ 0 }))
		return false;
	if (beside->others <= 0.0)
		return true;
	own_ns = finish_ns(&question.sure, all, (double)own.rows, false) - beside->start_ns - beside->flying_ns;
	rivalry = rivalry_of(sched, use, &question.sure, own_ns, 0.0, beside->others);
	question.sure.others_most_ns = sched_share_rivals(sched, use, &rivalry);
	question.looks_left = LOOKS_MOST;
	return breaks(&question, use->promised, (struct sched_work){ 0 });
}

static struct sched_forecast forecast(const struct sched *sched, const struct sched_message *message,
	const struct sched_session *session, uint32_t reused)
{
	const struct attnd_request *record = &message->record;
	const struct sched_tenant_use *use = &sched->uses[session->client->tenant];
	const struct sched_work own = own_work(sched, message, session, reused);
	const int64_t now_ns = base_clock_now(sched->clock);
	struct pace known = device_pace(sched, sched_session_cost_model(session), now_ns), beside = known, pace;
	struct sched_work ahead = sched_debts_before(use, record->priority_class, record->deadline_ns);
	struct sched_forecast forecast = { 0 };

	serve_tenant(sched, use, now_ns, &beside);
	pace = beside;
	for (uint32_t c = 0; c < record->priority_class; c++)
		ahead = sched_work_sum(ahead, use->free[c]);
	ahead = sched_work_sum(queue_work(sched, session, record, ahead), own);
	ahead.streams -= own.streams;
	pace.others = 0.0;
	if (session->kind == ATTND_SESSION_MODEL && own.rows > 0)
		pace.small_ns = small_steps_ns(sched, session, &pace, own, ahead);
	forecast.doubtful = finish_ns(&pace, (struct sched_work){ own.ns, own.rows, 0 }, (double)own.rows, true) >
		(double)record->deadline_ns;
	forecast.finish_ns = (int64_t)finish_beside(sched, use, &pace, ahead, own, beside.others, (double)record->deadline_ns);
	forecast.breaks = use->promised && breaks_promise(sched, use, record, own, &beside, &known);
	/* Behind everybody it would break nothing; that is when it could be done. */
	if (forecast.breaks) {
		const int64_t last_ns =
			(int64_t)finish_ns(&beside, sched_work_sum(use->waiting, own), (double)own.rows, true);

		forecast.finish_ns = last_ns > forecast.finish_ns ? last_ns : forecast.finish_ns;
	}
	return forecast;
}

struct sched_forecast sched_predict(const struct sched *sched, const struct sched_message *message,
	const struct sched_session *session, uint32_t reused)
{
	const struct attnd_request *record = &message->record;

	/* What the device has no part in is done as soon as its turn in the session comes. */
	if (record->op != ATTND_OP_STEP && record->op != ATTND_OP_GENERATE && record->op != ATTND_OP_APPEND &&
		record->op != ATTND_OP_ATTEND)
		return (struct sched_forecast){ .finish_ns = base_clock_now(sched->clock) };
	return forecast(sched, message, session, reused);
}
