/*
 * Who runs next: the ready sessions in order of urgency, and the batch formed of them. Scheduler's
 * thread.
 *
 * Order: tenants by virtual time, that is by what they had of the device (sched_share.c); inside a
 * tenant by class, then deadline (earliest first, none last), then turns: its clients by the rows
 * they were given, a client's sessions one after the other. So classes and deadlines order what a
 * tenant's share allows, and no flood of urgent requests takes another's share. What has no deadline
 * goes behind all that has one where that could not wait (sched_promises_tight). Who has waited
 * longer than SCHED_AGED_NS goes before all others of its tenant, one per step, of the tenant whose turn
 * it is, so that no class and no deadline can starve anybody.
 *
 * A step belongs to one model: that of the most urgent session of the tenant whose turn it is. Of
 * a tenant it takes decodes (one row) first, but leaves a quarter of its rows to waiting prefills;
 * then chunks of prefill. It is filled as far as there is work for it, so that nothing that could be
 * had for little stays idle; but not beyond their turn with work of tenants that are ahead of one
 * that this step cannot serve. Order decides when a row runs, never what it computes.
 */
#include "sched/sched_private.h"

enum { AHEAD = 4 }; /* candidates whose memory is asked for before their turn comes */

/* Tenants with work that this step leaves behind: the one furthest back, and the next one, for whom
 * the first one's own work is no reason to wait. */
struct behind {
	uint32_t tenant;
	int64_t virtual_ns, next_ns;
};

struct waiting_turn { /* of a heap, with what it is ordered by */
	int64_t virtual_ns;
	uint32_t tenant, number; /* of sched.turns */
};

struct forming {
	struct sched_flight *flight;
	const struct kern_program *program;
	const struct sched_cost_units *units; /* of the flight's model */
	uint32_t rows_left, outs_left;
	uint32_t rows, decode_rows, misfits;
	int64_t until_ns; /* when the step is to have ended, as predicted, for a deadline in it */
	int64_t until_deadline_ns; /* of that one; so are these: */
	uint32_t until_class, until_tenant;
	struct behind behind;
	struct waiting_turn turns[SCHED_TENANTS_MAX]; /* a heap, the least virtual time at the top */
	uint32_t turn_count;
	uint8_t flags; /* of any member's request */
	const unsigned char *shared; /* the first member's first block, if others have it too; NULL: they do not */
};

/* ---- whose turn it is ----------------------------------------------------------------- */

static uint32_t remaining(const struct sched_request *request)
{
	return request->rows - request->rows_done;
}

/* Its virtual time if those that were taken had been charged already. A division: not for each row where nobody asks. */
static inline int64_t virtual_ns(const struct sched_turn *turn)
{
	return turn->virtual_ns + (int64_t)turn->spent_ns / turn->use->weight;
}

static void leave_behind(struct behind *behind, const struct sched_turn *turn)
{
	const int64_t ns = virtual_ns(turn);

	if (turn->tenant == behind->tenant) {
		if (ns < behind->virtual_ns)
			behind->virtual_ns = ns;
	} else if (ns < behind->virtual_ns) {
		behind->next_ns = behind->virtual_ns;
		behind->tenant = turn->tenant;
		behind->virtual_ns = ns;
	} else if (ns < behind->next_ns) {
		behind->next_ns = ns;
	}
}

/* Nobody goes further than one step ahead of a tenant whose work has to wait for the next. */
static bool too_far(const struct sched *sched, const struct forming *f, const struct sched_turn *turn)
{
	const int64_t least_ns =
		turn->tenant == f->behind.tenant ? f->behind.next_ns : f->behind.virtual_ns;

	return least_ns != INT64_MAX &&
		virtual_ns(turn) > least_ns + sched->slack_ns / turn->use->weight;
}

static inline bool turn_empty(const struct sched_turn *turn)
{
	return turn->decodes.count + turn->prefills.count == 0;
}

/* ---- members -------------------------------------------------------------------------- */

/* How many of at most `rows` rows fit into `outs` output rows; *used says how many outputs they
 * have. */
static uint32_t fit_outs(
	const struct sched_request *request, uint32_t rows, uint32_t outs, uint32_t *used)
{
	uint32_t from = request->rows_done;

	*used = 0;
	if (sched_last_only(request)) {
		*used = from + rows == request->rows && outs > 0;
		return rows - (from + rows == request->rows && outs == 0);
	}
	for (uint32_t i = 0; i < rows; i++) {
		if (!sched_row_selected(request, from + i))
			continue;
		if (*used == outs)
			return i;
		++*used;
	}
	return rows;
}

static void park(struct sched *sched, struct sched_request *request)
{
	const struct sched_client *client = request->client;

	if (client->credits > 0)
		sched->lanes_full |= sched_lane_bit(sched, client->lane);
	/* The clock between tokens stands still; sched_client_unpark starts it anew. */
	if (request->generate.generated > 0)
		sched_request_deadline(sched, request, INT64_MAX);
	sched_session_enter_place(sched, request->session, PLACE_PARKED);
}

/* A stream's token needs a credit of its client, and a slot of its lane's `out` beyond those
 * that are promised. Who lacks one is parked, so that nobody of another lane waits for him. */
static inline bool stream_promise(struct sched *sched, struct sched_request *request)
{
	struct sched_client *client = request->client;

	if (client->credits == 0 || !sched_lane_room(client->lane, 1)) {
		park(sched, request);
		return false;
	}
	client->credits--;
	client->promised++;
	client->lane->promised++;
	request->streams = 1;
	return true;
}

/* Whole rows go straight to where the client wants them; the rest is computed here from private logits. */
static inline void place_out(struct forming *f, const struct sched_request *request, uint32_t row, uint64_t *done_bytes)
{
	struct kern_step *step = &f->flight->work.step;
	struct kern_out *out = &f->flight->outs[step->out_count];
	const uint8_t output = request->record.op == ATTND_OP_GENERATE ? ATTND_OUT_SAMPLED : request->step.output;

	*out = (struct kern_out){ .row = row };
	if (output == ATTND_OUT_LOGITS) {
		out->logits = (float *)(void *)(request->out + *done_bytes);
		*done_bytes += sizeof(float) * (uint64_t)f->program->vocab;
	} else if (output == ATTND_OUT_HIDDEN) {
		out->hidden = (float *)(void *)(request->out + *done_bytes);
		*done_bytes += sizeof(float) * (uint64_t)f->program->width;
	} else {
		out->logits = f->flight->logits + (uint64_t)step->out_count * f->program->vocab;
	}
	step->out_count++;
}

static inline void place_outs(struct forming *f, const struct sched_member *member, const uint32_t rows)
{
	const struct sched_request *request = member->request;
	const bool last_ones = rows == 1 || sched_last_only(request);
	const uint32_t known = rows - member->drafts;
	uint64_t done_bytes = request->result_bytes;

	for (uint32_t i = last_ones ? rows - member->outs : 0; i < rows; i++)
		if (last_ones || i >= known || sched_row_selected(request, request->rows_done + i))
			place_out(f, request, member->row + i, &done_bytes);
}

static inline void place_tokens(struct forming *f, const struct sched_member *member, const uint32_t rows)
{
	const struct sched_request *request = member->request;
	const struct sched_session *session = member->session;
	uint32_t *tokens = f->flight->tokens + member->row;
	const float **embeddings = f->flight->embeddings + member->row;
	const uint32_t known = rows - member->drafts;
	const uint32_t *history = session->tokens + session->position;
	const bool embedded = request->record.flags & ATTND_REQ_ROWS;

	for (uint32_t i = 0; i < rows; i++) {
		uint64_t row = (uint64_t)request->rows_done + i;

		tokens[i] = embedded || i >= known ? 0 : history[i];
		embeddings[i] = embedded ? (const float *)(const void *)request->in + row * f->program->width : NULL;
	}
	if (member->drafts > 0)
		sched_draft_tokens(&session->draft, session->tokens, session->position + known, member->drafts, tokens + known);
}

/* Its rows and outputs get their places behind those of the members before it. Inlined for single rows, of which a step may have a
 * thousand. */
static inline __attribute__((always_inline)) void place_member(struct forming *f, struct sched_member *member, const uint32_t rows)
{
	struct kern_step *step = &f->flight->work.step;

	member->row = step->rows;
	member->out = step->out_count;
	f->flight->seqs[step->seq_count++] = (struct kern_seq){ .row = member->row,
		.rows = rows,
		.position = member->session->position,
		.blocks = member->session->blocks,
		.kv = &member->session->kv };
	place_tokens(f, member, rows);
	place_outs(f, member, rows);
	step->rows += rows;
}

static void place_none(struct forming *f)
{
	struct sched_flight *flight = f->flight;

	flight->work.step = (struct kern_step){
		.program = f->program, .tokens = flight->tokens, .seqs = flight->seqs, .outs = flight->outs
	};
}

/* Some have more rows by now. */
static void place_again(struct forming *f)
{
	place_none(f);
	for (uint32_t i = 0; i < f->flight->member_count; i++)
		place_member(f, &f->flight->members[i], f->flight->members[i].rows);
}

/* What goes into the air is asked for no longer; a stream asks for the next row. */
static void follow_debt(struct sched *sched, struct sched_request *request, uint32_t rows)
{
	if (request->debt.kind == DEBT_STREAM)
		return;
	if (request->rows_done + rows == request->rows && request->record.op != ATTND_OP_GENERATE)
		sched_debt_drop(sched, request);
	else
		sched_debt_set(sched, request, rows);
}

/* The member is in; its tenant moves on by about what it will be charged, by a step at most. */
static inline __attribute__((always_inline)) void take_off(struct sched *sched, struct forming *f, struct sched_turn *turn,
	const struct sched_candidate *candidate, struct sched_request *request, uint32_t rows, uint32_t turn_rows,
	const struct sched_load *load)
{
	struct sched_part *part = &f->flight->parts[turn->tenant];
	const struct sched_cost_units *units = f->units;
	const double ns = units->step_ns / 16 + units->row_ns * load->rows + units->visit_ns * (double)(int64_t)load->visits +
		units->out_ns * load->outs + units->byte_ns * (double)(int64_t)load->kv_bytes;

	sched_session_leave_ready(sched, candidate->session);
	candidate->session->busy = true;
	sched_request_run(sched, request);
	follow_debt(sched, request, rows);
	request->client->served += turn_rows;
	if (turn->use->turn < candidate->fair)
		turn->use->turn = candidate->fair;
	sched_load_add(&f->flight->load, load);
	sched_load_add(&part->load, load);
	part->members++;
	turn->spent_ns = sched_lesser(turn->spent_ns + ns, (double)sched->slack_ns);
}

/* What a session holds for positions begin to end in the same blocks as the flight's first member:
 * backends read that once for single rows of both. */
static uint64_t bytes_in_common(const struct sched_flight *flight,
	const struct sched_session *session, uint32_t begin, uint32_t end)
{
	uint32_t common = KERN_PAGE_TOKENS * sched_blocks_common(flight->members[0].session, session);

	common = common < end ? common : end;
	return common > begin ? sched_session_bytes(session, common - begin) : 0;
}

/* How long the step may take for a member's deadline: its part of the time left, where other chunks follow, less a band. What
 * cannot be made any more holds up nobody. */
static void note_deadline(struct sched *sched, struct forming *f, const struct sched_turn *turn,
	const struct sched_candidate *candidate, uint32_t rows_left)
{
	const uint32_t chunk = sched->options.prefill_chunk;
	const int64_t steps = 1 + (rows_left + chunk - 1) / chunk;
	int64_t part_ns, until_ns;

	part_ns = sched_work_ns((double)((candidate->session->head_deadline_ns - sched->now_ns) / steps));
	until_ns = sched->now_ns +
		(int64_t)((double)part_ns / sched_cost_band(&sched->cost, f->flight->model, (double)steps));
	if (until_ns >= f->until_ns || sched_cost_predict(&sched->cost, f->flight->model, &f->flight->load) > part_ns)
		return;
	f->until_ns = until_ns;
	f->until_deadline_ns = candidate->deadline_ns;
	f->until_class = candidate->class;
	f->until_tenant = turn->tenant;
}

/* Sessions of models write to their last blocks alone, so who has any in common with another has the first one: here of the
 * step's first member; NULL: nobody has. */
static const unsigned char *shared_block(const struct sched *sched, const struct sched_session *session)
{
	return session->block_count > 0 && sched_kv_references(sched->kv, session->blocks[0]) > 1 ? session->blocks[0] : NULL;
}

static inline __attribute__((always_inline)) void add_member(struct sched *sched, struct forming *f, struct sched_turn *turn,
	const struct sched_candidate *candidate, struct sched_request *request, const uint32_t rows, uint32_t outs)
{
	struct sched_session *session = candidate->session;
	struct sched_flight *flight = f->flight;
	struct sched_member *member = &flight->members[flight->member_count];
	struct sched_load load = {
		.rows = rows,
		.outs = outs,
		.visits = sched_visits(session->position, rows),
		.kv_bytes = sched_session_bytes(session, (uint64_t)session->position + rows),
	};

	if (flight->member_count == 0)
		f->shared = shared_block(sched, session);
	else if (rows == 1 && f->shared && session->block_count > 0 && session->blocks[0] == f->shared)
		load.kv_bytes -= bytes_in_common(flight, session, 0, session->position + rows);
	*member = (struct sched_member){ .session = session, .request = request, .rows = rows, .outs = outs };
	place_member(f, member, rows);
	flight->member_count++;
	f->flags |= request->record.flags;
	f->rows += rows;
	f->rows_left -= rows;
	f->outs_left -= outs;
	take_off(sched, f, turn, candidate, request, rows, rows, &load);
	if (session->head_deadline_ns != INT64_MAX && sched->options.policy == SCHED_POLICY_PROMISE)
		note_deadline(sched, f, turn, candidate, remaining(request) - rows);
}

/* Rows that leave the step short enough for the deadlines in it, unless the one that binds is of the same tenant and of a lesser
 * class or later than the candidate's. */
static uint32_t fit_deadline(const struct sched *sched, const struct forming *f,
	const struct sched_turn *turn, const struct sched_candidate *candidate, uint32_t rows)
{
	if (f->until_ns == INT64_MAX ||
		(turn->tenant == f->until_tenant &&
			(candidate->class < f->until_class || candidate->deadline_ns <= f->until_deadline_ns)))
		return rows;
	for (;;) {
		struct sched_load load = f->flight->load;

		load.rows += rows;
		load.visits += sched_visits(candidate->session->position, rows);
		load.kv_bytes += sched_session_bytes(candidate->session, (uint64_t)candidate->session->position + rows);
		if (sched->now_ns + sched_cost_predict(&sched->cost, f->flight->model, &load) <=
			f->until_ns)
			return rows;
		if (rows <= SCHED_SLICE_ROWS_MIN)
			return 0;
		rows = rows / 2 > SCHED_SLICE_ROWS_MIN ? rows / 2 : SCHED_SLICE_ROWS_MIN;
	}
}

/* How many rows of a prefill may go into this step. */
static uint32_t cut(const struct sched *sched, const struct forming *f, const struct sched_turn *turn,
	const struct sched_candidate *candidate, const struct sched_request *request)
{
	uint32_t rows = remaining(request);

	if (rows > sched->options.prefill_chunk)
		rows = sched->options.prefill_chunk;
	if (request->stop_at > candidate->session->position && rows > request->stop_at - candidate->session->position)
		rows = request->stop_at - candidate->session->position;
	if (candidate->deadline_ns == INT64_MIN && rows > sched_aged_rows(sched))
		rows = sched_aged_rows(sched);
	if (rows > f->rows_left)
		rows = f->rows_left;
	return rows > 1 ? fit_deadline(sched, f, turn, candidate, rows) : rows;
}

/* It has to wait for another step, or for credit. */
static void pass_over(struct forming *f, const struct sched_turn *turn, const struct sched_candidate *candidate)
{
	if (candidate->session->place == PLACE_READY)
		leave_behind(&f->behind, turn);
	f->misfits++;
}

static void try_chunk(struct sched *sched, struct forming *f, struct sched_turn *turn,
	const struct sched_candidate *candidate, struct sched_request *request)
{
	uint32_t outs, rows = fit_outs(request, cut(sched, f, turn, candidate, request), f->outs_left, &outs);

	if (rows == 0 || (request->record.op == ATTND_OP_GENERATE && outs > 0 && !stream_promise(sched, request)))
		pass_over(f, turn, candidate);
	else
		add_member(sched, f, turn, candidate, request, rows, outs);
}

/* Its last row: nothing is to be cut. */
static void try_row(struct sched *sched, struct forming *f, struct sched_turn *turn,
	const struct sched_candidate *candidate, struct sched_request *request)
{
	const uint32_t outs = sched_last_only(request) || sched_row_selected(request, request->rows - 1);

	if (outs > f->outs_left || (request->record.op == ATTND_OP_GENERATE && !stream_promise(sched, request))) {
		pass_over(f, turn, candidate);
	} else {
		add_member(sched, f, turn, candidate, request, 1, outs);
		f->decode_rows++;
	}
}

/* ---- the work ------------------------------------------------------------------------- */

/* Decodes first; but a quarter of the rows is kept for prefills that wait, and of the outputs too: a prefill whose every
 * row is wanted would never find room. */
static bool decodes_next(const struct sched *sched, const struct forming *f, const struct sched_turn *turn)
{
	return turn->decodes.count > 0 &&
		(turn->prefills.count == 0 || (f->rows_left > sched->options.step_rows_max / 4 &&
						     f->outs_left > sched->options.out_rows_max / 4));
}

/* A step has hundreds of members, whose requests no cache may hold any more. */
static void look_ahead(const struct sched_heap *heap)
{
	if (heap->ordered && heap->count > 2 * AHEAD)
		__builtin_prefetch(&heap->at[2 * AHEAD].session->client);
	if (heap->ordered && heap->count > AHEAD) {
		const struct sched_session *session = heap->at[AHEAD].session;

		__builtin_prefetch(session->tokens + session->position);
		sched_request_prefetch(sched_session_head(session));
	}
}

/* The tenant's next one; a prefill that finds no row left is the last one looked at. */
static void take_next(struct sched *sched, struct forming *f, struct sched_turn *turn)
{
	struct sched_heap *heap = decodes_next(sched, f, turn) ? &turn->decodes : &turn->prefills;
	const struct sched_candidate *candidate = sched_heap_pop(heap);
	struct sched_request *request = sched_session_head(candidate->session);

	look_ahead(heap);
	if (remaining(request) == 1)
		try_row(sched, f, turn, candidate, request);
	else
		try_chunk(sched, f, turn, candidate, request);
}

/* Without branches: who of many tenants is first cannot be foreseen. */
static inline bool turn_before(const struct waiting_turn *a, const struct waiting_turn *b)
{
	return (a->virtual_ns < b->virtual_ns) | ((a->virtual_ns == b->virtual_ns) & (a->tenant < b->tenant));
}

/* A hole at `at` moves down until what is to be put there fits. */
static void turns_sift(struct forming *f, uint32_t at, struct waiting_turn put)
{
	for (uint32_t child = 2 * at + 1; child < f->turn_count; child = 2 * at + 1) {
		if (child + 1 < f->turn_count)
			child += turn_before(&f->turns[child + 1], &f->turns[child]);
		if (!turn_before(&f->turns[child], &put))
			break;
		f->turns[at] = f->turns[child];
		at = child;
	}
	f->turns[at] = put;
}

static void turns_make(struct sched *sched, struct forming *f)
{
	f->turn_count = 0;
	for (uint32_t i = 0; i < sched->turn_count; i++)
		if (!turn_empty(&sched->turns[i]))
			f->turns[f->turn_count++] = (struct waiting_turn){ sched->turns[i].virtual_ns, sched->turns[i].tenant, i };
	for (uint32_t i = f->turn_count / 2; i-- > 0;)
		turns_sift(f, i, f->turns[i]);
}

static inline struct sched_turn *turns_first(struct sched *sched, const struct forming *f)
{
	return &sched->turns[f->turns[0].number];
}

/* The virtual time and the candidates of the first one have changed: it finds its place among the others, or leaves. */
static inline void turns_settle(struct forming *f, const struct sched_turn *turn)
{
	if (turn_empty(turn)) {
		if (--f->turn_count > 0)
			turns_sift(f, 0, f->turns[f->turn_count]);
	} else if (f->turn_count > 1) {
		f->turns[0].virtual_ns = virtual_ns(turn);
		turns_sift(f, 0, f->turns[0]);
	}
}

/* Whether nobody waits for anything: all that is ready is in, a row each, and nothing is about to be. */
static bool nobody_waits(const struct sched *sched, const struct forming *f)
{
	return f->rows == f->flight->member_count && f->misfits == 0 && f->turn_count == 0 && f->behind.virtual_ns == INT64_MAX &&
		sched_list_empty(&sched->kicked) && sched_list_empty(&sched->blocked);
}

static void form_model(struct sched *sched, struct forming *f)
{
	struct sched_flight *flight = f->flight;

	f->program = sched->models[flight->model].program;
	place_none(f);
	while (f->rows_left > 0 && f->misfits < SCHED_MISFITS && f->turn_count > 0) {
		struct sched_turn *turn = turns_first(sched, f);

		if (too_far(sched, f, turn))
			turn->decodes.count = turn->prefills.count = 0;
		else
			take_next(sched, f, turn);
		turns_settle(f, turn);
	}
	if (sched->draft_slots && flight->member_count > 0 && nobody_waits(sched, f) &&
		sched_speculate(sched, flight, &(struct sched_spare){ f->rows_left, f->outs_left, f->until_ns }))
		place_again(f);
	flight->work.step.embeddings = f->flags & ATTND_REQ_ROWS ? flight->embeddings : NULL;
	sched->counters.steps += f->rows > 0;
	sched->counters.step_rows += flight->work.step.rows;
	sched->counters.decode_rows += f->decode_rows;
	sched->counters.prefill_rows += f->rows - f->decode_rows;
	sched->counters.step_seqs += flight->member_count;
}

/* What a slice adds to the flight. */
static struct sched_load attend_load(const struct sched_flight *flight,
	const struct sched_request *request, uint32_t rows)
{
	struct sched_load load = sched_attend_load(&request->attend.item, request->rows_done, rows);
	const struct kern_attend *item = &request->attend.item;
	uint32_t keys = item->kv_position + item->kv_rows;
	uint32_t begin = item->window > 0 && item->window < keys ? keys - item->window : 0;

	if (rows == 1 && flight->member_count > 0 &&
		flight->members[0].request->attend.item.layer == item->layer)
		load.kv_bytes -= bytes_in_common(flight, request->session, begin, keys) /
			item->kv->layers;
	return load;
}

/* Query rows of the next slice, so that the work stays near its length; 0: no room left. */
static uint32_t attend_rows(const struct sched *sched, const struct sched_flight *flight,
	const struct sched_request *request)
{
	struct sched_load load = attend_load(flight, request, remaining(request));
	int64_t used_ns = flight->member_count
		? sched_cost_predict(&sched->cost, SCHED_COST_MODELS - 1, &flight->load)
		: 0;
	int64_t all_ns = sched_cost_predict(&sched->cost, SCHED_COST_MODELS - 1, &load);
	int64_t left_ns = SCHED_ATTEND_NS - used_ns;
	uint32_t rows;

	/* An append has no query rows to cut; it goes whole. */
	if (all_ns <= left_ns || request->rows == 0)
		return remaining(request);
	if (flight->member_count > 0 && left_ns < SCHED_ATTEND_NS / 2)
		return 0;
	rows = (uint32_t)((double)remaining(request) * (double)left_ns / (double)all_ns);
	return rows ? rows : 1;
}

static void add_attend(struct sched *sched, struct forming *f, struct sched_turn *turn,
	const struct sched_candidate *candidate, struct sched_request *request, uint32_t rows)
{
	struct sched_flight *flight = f->flight;
	struct sched_load load = attend_load(flight, request, rows);

	flight->attends[flight->member_count] =
		sched_attend_slice(request, request->rows_done, rows);
	flight->members[flight->member_count++] =
		(struct sched_member){ .session = candidate->session, .request = request, .rows = rows };
	take_off(sched, f, turn, candidate, request, rows, rows + request->attend.item.kv_rows, &load);
}

static void form_attend(struct sched *sched, struct forming *f)
{
	struct sched_flight *flight = f->flight;

	while (flight->member_count < SCHED_ATTENDS && f->turn_count > 0 && !too_far(sched, f, turns_first(sched, f))) {
		struct sched_turn *turn = turns_first(sched, f);
		const struct sched_candidate *candidate = sched_heap_pop(&turn->decodes);
		struct sched_request *request = sched_session_head(candidate->session);
		uint32_t rows = attend_rows(sched, flight, request);

		if (rows == 0 && request->rows > 0)
			break;
		add_attend(sched, f, turn, candidate, request, rows);
		turns_settle(f, turn);
	}
	flight->work.attend.items = flight->attends;
	flight->work.attend.count = flight->member_count;
	sched->counters.attends += flight->member_count;
}

/* Candidates of one model, each tenant's in heaps; who has others is left behind with these. */
static void choose_model(struct sched *sched, struct forming *f)
{
	const uint32_t model = sched_turns_model(sched);
	const bool attends = model == sched->options.model_count;

	f->flight->model = model;
	f->flight->work.kind = attends ? KERN_WORK_ATTEND : KERN_WORK_STEP;
	f->units = &sched->units[sched_flight_cost_model(f->flight)];
	for (uint32_t i = 0; i < sched->turn_count; i++)
		if (sched_turn_divide(&sched->turns[i], model, attends))
			leave_behind(&f->behind, &sched->turns[i]);
	turns_make(sched, f);
}

int sched_step_form(struct sched *sched)
{
	struct forming f = {
		.rows_left = sched->options.step_rows_max,
		.outs_left = sched->options.out_rows_max,
		.until_ns = INT64_MAX,
		.behind = { UINT32_MAX, INT64_MAX, INT64_MAX },
	};

	if (sched_list_empty(&sched->active) || !sched_flight_computes_free(sched))
		return 0;
	f.flight = sched_flight_free(sched);
	if (!f.flight)
		return 0;
	sched_turns_gather(sched);
	if (sched->turn_count == 0)
		return 0;
	choose_model(sched, &f);
	if (f.flight->work.kind == KERN_WORK_ATTEND)
		form_attend(sched, &f);
	else
		form_model(sched, &f);
	if (f.flight->member_count == 0)
		return 0;
	sched_flight_launch(sched, f.flight);
	return 1;
}
