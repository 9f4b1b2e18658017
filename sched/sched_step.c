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
#include <math.h>

#include "sched/sched_private.h"

/* Tenants with work that this step leaves behind: the one furthest back, and the next one, for whom
 * the first one's own work is no reason to wait. */
struct behind {
	uint32_t tenant;
	int64_t virtual_ns, next_ns;
};

struct forming {
	struct sched_flight *flight;
	const struct kern_program *program;
	uint32_t rows_left, outs_left;
	uint32_t rows, decode_rows, misfits;
	int64_t until_ns; /* when the step is to have ended, as predicted, for a deadline in it */
	int64_t until_deadline_ns; /* of that one; so are these: */
	uint32_t until_class, until_tenant;
	struct behind behind;
	struct sched_turn *turns[SCHED_TENANTS_MAX]; /* a heap, the least virtual time at the top */
	uint32_t turn_count;
	bool embeddings;
};

/* ---- candidates ----------------------------------------------------------------------- */

static uint32_t remaining(const struct sched_request *request)
{
	return request->rows - request->rows_done;
}

static bool before(const struct sched_candidate *a, const struct sched_candidate *b)
{
	if (a->class != b->class)
		return a->class < b->class;
	if (a->deadline_ns != b->deadline_ns)
		return a->deadline_ns < b->deadline_ns;
	return a->fair < b->fair;
}

/* What stands in a candidate's place of the deadline, by the policy. */
static int64_t order_ns(const struct sched *sched, const struct sched_session *session)
{
	const struct sched_request *request;

	if (sched->options.policy == SCHED_POLICY_PROMISE)
		return session->head_deadline_ns;
	request = sched_session_head(session);
	if (sched->options.policy == SCHED_POLICY_ARRIVAL)
		return request->admitted_ns;
	return request->record.deadline_ns ? request->record.deadline_ns : INT64_MAX;
}

/* The ready sessions of a client, in turn; what is past its deadline ends here. Of what it passes it reads one cache line
 * each. */
static void gather_client(struct sched *sched, struct sched_client *client, struct sched_turn *turn)
{
	const uint32_t chunk = sched->options.prefill_chunk;
	uint64_t fair = client->served;
	struct sched_list *link, *next;

	for (link = client->ready.next; link != &client->ready; link = next) {
		struct sched_session *session = sched_session_of_place(link);
		const uint32_t rows = session->head_rows;

		next = link->next;
		if (session->head_deadline_ns <= sched->now_ns) {
			sched_request_complete(sched, sched_session_head(session), ATTND_EXPIRED);
			continue;
		}
		if (session->waiting_since_ns < turn->oldest_ns) {
			turn->oldest_ns = session->waiting_since_ns;
			turn->oldest = turn->decode_count;
		}
		turn->decodes[turn->decode_count++] = (struct sched_candidate){ .session = session,
			.deadline_ns = order_ns(sched, session),
			.fair = fair,
			.model = (uint16_t)session->model,
			.class = session->head_class + (session->head_deadline_ns == INT64_MAX ? turn->free_class : 0),
			.decode = rows == 1 };
		fair += rows > chunk ? chunk : rows > 0 ? rows : 1;
	}
}

/* Of the tenant whose turn it is the one that waited too long is made the most urgent: one per step. */
static void favour_aged(const struct sched *sched, struct sched_turn *turn)
{
	if (turn->decode_count == 0 || sched->now_ns - turn->oldest_ns <= SCHED_AGED_NS ||
		sched->options.policy != SCHED_POLICY_PROMISE)
		return;
	turn->decodes[turn->oldest].class = ATTND_CLASS_LATENCY;
	turn->decodes[turn->oldest].deadline_ns = INT64_MIN;
}

/* All candidates, tenant by tenant, among the decodes for now; those of a tenant over its quota are none. */
static void gather(struct sched *sched)
{
	const uint64_t tight = sched_promises_tight(sched);
	struct sched_list *t, *next_tenant, *c, *next_client;
	uint32_t count = 0;

	sched->turn_count = 0;
	for (t = sched->active.next; t != &sched->active; t = next_tenant) {
		struct sched_tenant_use *use = sched_use_of_active(t);
		struct sched_turn *turn = &sched->turns[sched->turn_count];

		next_tenant = t->next;
		if (!sched_share_may(sched, use))
			continue;
		*turn = (struct sched_turn){ .use = use,
			.tenant = (uint32_t)(use - sched->uses),
			.decodes = sched->decodes + count,
			.prefills = sched->prefills + count,
			.virtual_ns = use->virtual_ns,
			.oldest_ns = INT64_MAX,
			.free_class = tight >> (use - sched->uses) & 1 ? ATTND_CLASS_END : 0 };
		for (c = use->active.next; c != &use->active; c = next_client) {
			next_client = c->next;
			gather_client(sched, sched_client_of_active(c), turn);
		}
		count += turn->decode_count;
		sched->turn_count += turn->decode_count > 0;
	}
}

/* The tenant whose turn it is first. */
static struct sched_turn *next_turn(struct sched *sched)
{
	struct sched_turn *next = NULL;

	for (uint32_t i = 0; i < sched->turn_count; i++) {
		struct sched_turn *turn = &sched->turns[i];

		if (turn->decode_count + turn->prefill_count > 0 &&
			(!next || turn->virtual_ns < next->virtual_ns))
			next = turn;
	}
	return next;
}

static const struct sched_candidate *most_urgent(const struct sched_turn *turn)
{
	const struct sched_candidate *best = turn->decodes;

	for (uint32_t i = 1; i < turn->decode_count; i++)
		if (before(&turn->decodes[i], best))
			best = &turn->decodes[i];
	return best;
}

static void leave_behind(struct behind *behind, const struct sched_turn *turn)
{
	if (turn->tenant == behind->tenant) {
		if (turn->virtual_ns < behind->virtual_ns)
			behind->virtual_ns = turn->virtual_ns;
	} else if (turn->virtual_ns < behind->virtual_ns) {
		behind->next_ns = behind->virtual_ns;
		behind->tenant = turn->tenant;
		behind->virtual_ns = turn->virtual_ns;
	} else if (turn->virtual_ns < behind->next_ns) {
		behind->next_ns = turn->virtual_ns;
	}
}

/* Nobody goes further than one step ahead of a tenant whose work has to wait for the next. */
static bool too_far(const struct sched *sched, const struct forming *f, const struct sched_turn *turn)
{
	const int64_t least_ns =
		turn->tenant == f->behind.tenant ? f->behind.next_ns : f->behind.virtual_ns;

	return least_ns != INT64_MAX &&
		turn->virtual_ns > least_ns + sched->slack_ns / turn->use->weight;
}

/* Keeps those of one model: decodes stay, prefills move beside; those of others are left behind. */
static void divide(struct sched_turn *turn, uint32_t model, bool attends, struct behind *behind)
{
	const uint32_t count = turn->decode_count;

	turn->decode_count = turn->prefill_count = 0;
	for (uint32_t i = 0; i < count; i++) {
		struct sched_candidate candidate = turn->decodes[i];

		if (candidate.model != model)
			continue;
		if (attends || candidate.decode)
			turn->decodes[turn->decode_count++] = candidate;
		else
			turn->prefills[turn->prefill_count++] = candidate;
	}
	if (turn->decode_count + turn->prefill_count < count)
		leave_behind(behind, turn);
}

/* ---- a heap of candidates, the most urgent at the top --------------------------------- */

/* A hole at `at` moves down until what is to be put there fits. */
static void sift(struct sched_candidate *heap, uint32_t count, uint32_t at, struct sched_candidate put)
{
	for (uint32_t child = 2 * at + 1; child < count; child = 2 * at + 1) {
		if (child + 1 < count && before(&heap[child + 1], &heap[child]))
			child++;
		if (!before(&heap[child], &put))
			break;
		heap[at] = heap[child];
		at = child;
	}
	heap[at] = put;
}

/* One client's streams come in order already: these are taken from the front. */
static bool in_order(const struct sched_candidate *heap, uint32_t count)
{
	uint32_t i = 1;

	while (i < count && !before(&heap[i], &heap[i - 1]))
		i++;
	return i >= count;
}

static bool heap_make(struct sched_candidate *heap, uint32_t count)
{
	if (in_order(heap, count))
		return true;
	for (uint32_t i = count / 2; i-- > 0;)
		sift(heap, count, i, heap[i]);
	return false;
}

static struct sched_candidate heap_pop(struct sched_candidate **heap, uint32_t *count, bool ordered)
{
	struct sched_candidate top = **heap;

	--*count;
	if (ordered)
		++*heap;
	else
		sift(*heap, *count, 0, (*heap)[*count]);
	return top;
}

/* ---- members -------------------------------------------------------------------------- */

/* How many of at most `rows` rows fit into `outs` output rows; *used says how many outputs they
 * have. */
static uint32_t fit_outs(
	const struct sched_request *request, uint32_t rows, uint32_t outs, uint32_t *used)
{
	uint32_t from = request->rows_done;

	*used = 0;
	for (uint32_t i = 0; i < rows; i++) {
		if (!sched_row_selected(request, from + i))
			continue;
		if (*used == outs)
			return i;
		++*used;
	}
	return rows;
}

static uint64_t visits_of(uint32_t position, uint32_t rows)
{
	return (uint64_t)rows * position + (uint64_t)rows * (rows + 1) / 2;
}

/* A stream's token needs a credit of its client, and a slot of its lane's `out` beyond those
 * that are promised. Who lacks one is parked, so that nobody of another lane waits for him. */
static bool stream_promise(struct sched *sched, struct sched_request *request)
{
	struct sched_client *client = request->client;
	const bool room = sched_lane_room(client->lane, 1);

	if (client->credits == 0 || !room) {
		if (client->credits > 0)
			sched->lanes_full |= sched_lane_bit(sched, client->lane);
		/* The clock between tokens stands still; sched_client_unpark starts it anew. */
		if (request->generate.generated > 0)
			sched_request_deadline(sched, request, INT64_MAX);
		sched_session_enter_place(sched, request->session, PLACE_PARKED);
		return false;
	}
	client->credits--;
	client->promised++;
	client->lane->promised++;
	request->streams = 1;
	return true;
}

static void place_outs(struct forming *f, struct sched_member *member)
{
	struct kern_step *step = &f->flight->work.step;
	const struct sched_request *request = member->request;
	enum attnd_output output = request->record.op == ATTND_OP_GENERATE
		? ATTND_OUT_SAMPLED
		: (enum attnd_output)request->step.output;
	uint64_t done = request->result_bytes;

	member->out = step->out_count;
	for (uint32_t i = 0; i < member->rows; i++) {
		struct kern_out *out;

		if (i < member->rows - member->drafts && !sched_row_selected(request, request->rows_done + i))
			continue;
		out = &f->flight->outs[step->out_count];
		*out = (struct kern_out){ .row = member->row + i };
		/* Whole rows go straight to where the client wants them; the rest is computed here
		 * from private logits. */
		if (output == ATTND_OUT_LOGITS) {
			out->logits = (float *)(void *)(request->out + done);
			done += sizeof(float) * (uint64_t)f->program->vocab;
		} else if (output == ATTND_OUT_HIDDEN) {
			out->hidden = (float *)(void *)(request->out + done);
			done += sizeof(float) * (uint64_t)f->program->width;
		} else {
			out->logits = f->flight->logits + (uint64_t)step->out_count * f->program->vocab;
		}
		step->out_count++;
	}
	member->outs = step->out_count - member->out;
}

static void place_tokens(struct forming *f, const struct sched_member *member)
{
	const struct sched_request *request = member->request;
	const struct sched_session *session = member->session;
	uint32_t *tokens = f->flight->tokens + member->row;
	const float **embeddings = f->flight->embeddings + member->row;
	const uint32_t known = member->rows - member->drafts;
	bool rows = request->record.flags & ATTND_REQ_ROWS;

	for (uint32_t i = 0; i < known; i++) {
		uint64_t row = (uint64_t)request->rows_done + i;

		tokens[i] = rows ? 0 : session->tokens[session->position + i];
		embeddings[i] = rows
			? (const float *)(const void *)request->in + row * f->program->width
			: NULL;
	}
	sched_draft_tokens(&session->draft, session->tokens, session->position + known, member->drafts, tokens + known);
	for (uint32_t i = known; i < member->rows; i++)
		embeddings[i] = NULL;
	f->embeddings = f->embeddings || rows;
}

static void place_member(struct forming *f, struct sched_member *member, struct kern_seq *seq)
{
	struct kern_step *step = &f->flight->work.step;

	member->row = step->rows;
	*seq = (struct kern_seq){ .row = member->row,
		.rows = member->rows,
		.position = member->session->position,
		.blocks = member->session->blocks,
		.kv = &member->session->kv };
	place_tokens(f, member);
	place_outs(f, member);
	step->rows += member->rows;
}

/* Every row and output gets its place, in the order of the members. */
static void place(struct forming *f)
{
	struct sched_flight *flight = f->flight;

	flight->work.step = (struct kern_step){ .program = f->program,
		.seq_count = flight->member_count,
		.tokens = flight->tokens,
		.seqs = flight->seqs,
		.outs = flight->outs };
	for (uint32_t i = 0; i < flight->member_count; i++)
		place_member(f, &flight->members[i], &flight->seqs[i]);
	flight->work.step.embeddings = f->embeddings ? flight->embeddings : NULL;
}

/* What goes into the air is asked for no longer; a stream asks for the next row. */
static void follow_debt(struct sched *sched, struct sched_request *request, uint32_t rows)
{
	if (request->rows_done + rows == request->rows && request->record.op != ATTND_OP_GENERATE)
		sched_debt_drop(sched, request);
	else if (request->debt.kind != DEBT_STREAM)
		sched_debt_set(sched, request, rows);
}

/* The member is in; its tenant moves on by about what it will be charged, by a step at most. */
static void take_off(struct sched *sched, struct forming *f, struct sched_turn *turn,
	const struct sched_candidate *candidate, uint32_t rows, uint32_t turn_rows, const struct sched_load *load)
{
	struct sched_session *session = candidate->session;
	struct sched_client *client = session->client;
	const struct sched_cost_units *units = &sched->units[sched_flight_cost_model(f->flight)];
	const double ns = units->step_ns / 16 + units->row_ns * load->rows + units->visit_ns * (double)load->visits +
		units->out_ns * load->outs + units->byte_ns * (double)load->kv_bytes;

	sched_session_leave_place(sched, session);
	session->busy = true;
	sched_session_head(session)->state = REQUEST_RUNNING;
	follow_debt(sched, sched_session_head(session), rows);
	client->served += turn_rows;
	if (turn->use->turn < candidate->fair)
		turn->use->turn = candidate->fair;
	f->flight->load.rows += load->rows;
	f->flight->load.outs += load->outs;
	f->flight->load.visits += load->visits;
	f->flight->load.kv_bytes += load->kv_bytes;
	sched_share_join(f->flight, turn->tenant, load);
	turn->spent_ns = fmin(turn->spent_ns + ns, (double)sched->slack_ns);
	turn->virtual_ns = turn->use->virtual_ns + (int64_t)turn->spent_ns / turn->use->weight;
}

/* What a session holds for positions begin to end in the same blocks as the flight's first member:
 * backends read that once for single rows of both. */
static uint64_t bytes_in_common(const struct sched_flight *flight,
	const struct sched_session *session, uint32_t begin, uint32_t end)
{
	uint32_t common;

	if (flight->member_count == 0)
		return 0;
	common = KERN_PAGE_TOKENS * sched_blocks_common(flight->members[0].session, session);
	common = common < end ? common : end;
	return common > begin ? sched_kv_bytes(&session->kv, common - begin) : 0;
}

/* How long the step may take for a member's deadline: its part of the time left, where other chunks follow, less a band. What
 * cannot be made any more holds up nobody. */
static void note_deadline(struct sched *sched, struct forming *f, const struct sched_turn *turn,
	const struct sched_candidate *candidate, uint32_t rows_left)
{
	const uint32_t chunk = sched->options.prefill_chunk;
	const int64_t steps = 1 + (rows_left + chunk - 1) / chunk;
	int64_t part_ns, until_ns;

	if (sched->options.policy != SCHED_POLICY_PROMISE || candidate->session->head_deadline_ns == INT64_MAX)
		return;
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

static void add_member(struct sched *sched, struct forming *f, struct sched_turn *turn,
	const struct sched_candidate *candidate, uint32_t rows, uint32_t outs)
{
	struct sched_session *session = candidate->session;
	struct sched_flight *flight = f->flight;
	struct sched_member *member = &flight->members[flight->member_count];
	uint64_t common_bytes =
		rows == 1 ? bytes_in_common(flight, session, 0, session->position + rows) : 0;
	struct sched_load load = {
		.rows = rows,
		.outs = outs,
		.visits = visits_of(session->position, rows),
		.kv_bytes = sched_kv_bytes(&session->kv, (uint64_t)session->position + rows) - common_bytes,
	};

	*member = (struct sched_member){
		.session = session, .request = sched_session_head(session), .rows = rows, .outs = outs
	};
	flight->member_count++;
	f->rows += rows;
	f->rows_left -= rows;
	f->outs_left -= outs;
	take_off(sched, f, turn, candidate, rows, rows, &load);
	note_deadline(sched, f, turn, candidate, remaining(member->request) - rows);
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
		load.visits += visits_of(candidate->session->position, rows);
		load.kv_bytes += sched_kv_bytes(
			&candidate->session->kv, (uint64_t)candidate->session->position + rows);
		if (sched->now_ns + sched_cost_predict(&sched->cost, f->flight->model, &load) <=
			f->until_ns)
			return rows;
		if (rows <= SCHED_SLICE_ROWS_MIN)
			return 0;
		rows = rows / 2 > SCHED_SLICE_ROWS_MIN ? rows / 2 : SCHED_SLICE_ROWS_MIN;
	}
}

static void try_member(struct sched *sched, struct forming *f, struct sched_turn *turn,
	const struct sched_candidate *candidate)
{
	struct sched_request *request = sched_session_head(candidate->session);
	uint32_t rows = remaining(request), outs;

	if (rows > sched->options.prefill_chunk)
		rows = sched->options.prefill_chunk;
	if (request->stop_at > candidate->session->position && rows > request->stop_at - candidate->session->position)
		rows = request->stop_at - candidate->session->position;
	if (candidate->deadline_ns == INT64_MIN && rows > sched_aged_rows(sched))
		rows = sched_aged_rows(sched);
	if (rows > f->rows_left)
		rows = f->rows_left;
	if (rows > 1)
		rows = fit_deadline(sched, f, turn, candidate, rows);
	rows = fit_outs(request, rows, f->outs_left, &outs);
	if (rows == 0 || (request->record.op == ATTND_OP_GENERATE && outs > 0 && !stream_promise(sched, request))) {
		if (candidate->session->place == PLACE_READY)
			leave_behind(&f->behind, turn);
		f->misfits++;
		return;
	}
	add_member(sched, f, turn, candidate, rows, outs);
}

/* ---- the work ------------------------------------------------------------------------- */

/* Decodes first; but a quarter of the rows is kept for prefills that wait, and of the outputs too: a prefill whose every
 * row is wanted would never find room. */
static bool decodes_next(const struct sched *sched, const struct forming *f, const struct sched_turn *turn)
{
	return turn->decode_count > 0 &&
		(turn->prefill_count == 0 || (f->rows_left > sched->options.step_rows_max / 4 &&
						     f->outs_left > sched->options.out_rows_max / 4));
}

/* The tenant's next one; a prefill that finds no row left is the last one looked at. */
static void take_next(struct sched *sched, struct forming *f, struct sched_turn *turn)
{
	const bool decode = decodes_next(sched, f, turn);
	const uint32_t rows = f->rows;
	struct sched_candidate candidate = decode ? heap_pop(&turn->decodes, &turn->decode_count, turn->decodes_ordered)
						  : heap_pop(&turn->prefills, &turn->prefill_count, turn->prefills_ordered);

	try_member(sched, f, turn, &candidate);
	f->decode_rows += decode ? f->rows - rows : 0;
}

static bool turn_before(const struct sched_turn *a, const struct sched_turn *b)
{
	return a->virtual_ns != b->virtual_ns ? a->virtual_ns < b->virtual_ns : a->tenant < b->tenant;
}

static void turns_sift(struct forming *f, uint32_t at)
{
	for (;;) {
		uint32_t least = at, child = 2 * at + 1;
		struct sched_turn *swapped;

		if (child < f->turn_count && turn_before(f->turns[child], f->turns[least]))
			least = child;
		if (child + 1 < f->turn_count && turn_before(f->turns[child + 1], f->turns[least]))
			least = child + 1;
		if (least == at)
			return;
		swapped = f->turns[at];
		f->turns[at] = f->turns[least];
		f->turns[least] = swapped;
		at = least;
	}
}

static void turns_make(struct sched *sched, struct forming *f)
{
	f->turn_count = sched->turn_count;
	for (uint32_t i = 0; i < f->turn_count; i++)
		f->turns[i] = &sched->turns[i];
	for (uint32_t i = f->turn_count / 2; i-- > 0;)
		turns_sift(f, i);
}

/* Whose turn it is now that the first one's virtual time or candidates have changed; NULL: nobody's. */
static struct sched_turn *turns_first(struct forming *f)
{
	while (f->turn_count > 0) {
		turns_sift(f, 0);
		if (f->turns[0]->decode_count + f->turns[0]->prefill_count > 0)
			return f->turns[0];
		f->turns[0] = f->turns[--f->turn_count];
	}
	return NULL;
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
	struct sched_turn *turn;

	f->program = sched->models[flight->model].program;
	while (f->rows_left > 0 && f->misfits < SCHED_MISFITS && (turn = turns_first(f))) {
		if (too_far(sched, f, turn))
			turn->decode_count = turn->prefill_count = 0;
		else
			take_next(sched, f, turn);
	}
	if (sched->draft_slots && flight->member_count > 0 && nobody_waits(sched, f))
		sched_speculate(sched, flight, &(struct sched_spare){ f->rows_left, f->outs_left, f->until_ns });
	place(f);
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
	struct sched_load load = sched_attend_load(request, request->rows_done, rows);
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
	const struct sched_candidate *candidate, uint32_t rows)
{
	struct sched_session *session = candidate->session;
	struct sched_request *request = sched_session_head(session);
	struct sched_flight *flight = f->flight;
	struct sched_load load = attend_load(flight, request, rows);

	flight->attends[flight->member_count] =
		sched_attend_slice(request, request->rows_done, rows);
	flight->members[flight->member_count++] =
		(struct sched_member){ .session = session, .request = request, .rows = rows };
	take_off(sched, f, turn, candidate, rows, rows + request->attend.item.kv_rows, &load);
}

static void form_attend(struct sched *sched, struct forming *f)
{
	struct sched_flight *flight = f->flight;
	struct sched_turn *turn;

	while (flight->member_count < SCHED_ATTENDS && (turn = turns_first(f)) && !too_far(sched, f, turn)) {
		struct sched_candidate candidate = heap_pop(&turn->decodes, &turn->decode_count, turn->decodes_ordered);
		struct sched_request *request = sched_session_head(candidate.session);
		uint32_t rows = attend_rows(sched, flight, request);

		if (rows == 0 && request->rows > 0)
			break;
		add_attend(sched, f, turn, &candidate, rows);
	}
	flight->work.attend.items = flight->attends;
	flight->work.attend.count = flight->member_count;
	sched->counters.attends += flight->member_count;
}

/* Candidates of one model, each tenant's in heaps; who has others is left behind with these. */
static void choose_model(struct sched *sched, struct forming *f)
{
	struct sched_turn *first = next_turn(sched);
	uint32_t model;
	bool attends;

	favour_aged(sched, first);
	model = most_urgent(first)->model;
	attends = model == sched->options.model_count;
	f->flight->model = model;
	f->flight->work.kind = attends ? KERN_WORK_ATTEND : KERN_WORK_STEP;
	for (uint32_t i = 0; i < sched->turn_count; i++) {
		struct sched_turn *turn = &sched->turns[i];

		divide(turn, model, attends, &f->behind);
		turn->decodes_ordered = heap_make(turn->decodes, turn->decode_count);
		turn->prefills_ordered = heap_make(turn->prefills, turn->prefill_count);
	}
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
	gather(sched);
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
