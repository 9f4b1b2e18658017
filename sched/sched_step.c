/*
 * Who runs next: the ready sessions in order of urgency, and the batch formed of them. Scheduler's
 * thread.
 *
 * Order: class, then deadline (earliest first, none last), then fair share. Fair share is
 * start-time fair queueing over clients: a client's virtual time advances by the rows it was given,
 * divided by its tenant's weight; its sessions take turns. Who has waited longer than SCHED_AGED_NS
 * goes before all others, one per step, so that no class and no deadline can starve anybody.
 *
 * A step belongs to one model: that of the most urgent session. It takes decodes (one row) first,
 * but leaves a quarter of its rows to waiting prefills; then chunks of prefill. Order decides when
 * a row runs, never what it computes.
 */
#include "sched/sched_private.h"

enum { FAIR_UNIT = 256 }; /* virtual time of a row at weight 1 */

struct forming {
	struct sched_flight *flight;
	const struct kern_program *program;
	uint32_t rows_left, outs_left;
	uint32_t rows, outs;
	int64_t until_ns; /* the earliest deadline in the step that it can still make */
	uint32_t until_class;
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

static uint64_t fair_cost(
	const struct sched *sched, const struct sched_client *client, uint32_t rows)
{
	uint32_t weight = sched->tenants[client->tenant].weight;

	return (uint64_t)rows * FAIR_UNIT / (weight ? weight : 1) + 1;
}

/* The ready sessions of a client, in turn; what is past its deadline ends here. */
static uint32_t gather_client(struct sched *sched, struct sched_client *client, uint32_t count)
{
	uint64_t fair = client->served;
	struct sched_list *link, *next;

	for (link = client->ready.next; link != &client->ready; link = next) {
		struct sched_session *session = sched_session_of_place(link);
		struct sched_request *request = sched_session_head(session);
		uint32_t rows = remaining(request) < sched->options.prefill_chunk
			? remaining(request)
			: sched->options.prefill_chunk;

		next = link->next;
		if (request->deadline_ns <= sched->now_ns) {
			sched_request_complete(sched, request, ATTND_EXPIRED);
			continue;
		}
		sched->decodes[count++] = (struct sched_candidate){ .session = session,
			.deadline_ns = request->deadline_ns,
			.fair = fair,
			.class = request->record.priority_class };
		fair += fair_cost(sched, client, rows ? rows : 1);
	}
	return count;
}

static uint32_t gather(struct sched *sched)
{
	struct sched_list *link, *next;
	uint32_t count = 0;

	for (link = sched->active.next; link != &sched->active; link = next) {
		next = link->next;
		count = gather_client(sched, sched_client_of_active(link), count);
	}
	return count;
}

/* The most urgent of all; the one that waited too long is made so. */
static const struct sched_candidate *most_urgent(struct sched *sched, uint32_t count)
{
	struct sched_candidate *best = &sched->decodes[0], *oldest = best;

	for (uint32_t i = 1; i < count; i++)
		if (sched->decodes[i].session->waiting_since_ns < oldest->session->waiting_since_ns)
			oldest = &sched->decodes[i];
	if (sched->now_ns - oldest->session->waiting_since_ns > SCHED_AGED_NS) {
		oldest->class = ATTND_CLASS_LATENCY;
		oldest->deadline_ns = INT64_MIN;
		return oldest;
	}
	for (uint32_t i = 1; i < count; i++)
		if (before(&sched->decodes[i], best))
			best = &sched->decodes[i];
	return best;
}

/* Keeps those of one model: decodes stay, prefills move beside. */
static void divide(
	struct sched *sched, uint32_t count, uint32_t model, uint32_t *decodes, uint32_t *prefills)
{
	*decodes = *prefills = 0;
	for (uint32_t i = 0; i < count; i++) {
		struct sched_candidate candidate = sched->decodes[i];

		if (candidate.session->model != model)
			continue;
		if (remaining(sched_session_head(candidate.session)) == 1)
			sched->decodes[(*decodes)++] = candidate;
		else
			sched->prefills[(*prefills)++] = candidate;
	}
}

/* ---- a heap of candidates, the most urgent at the top --------------------------------- */

static void sift(struct sched_candidate *heap, uint32_t count, uint32_t at)
{
	for (;;) {
		uint32_t least = at, child = 2 * at + 1;
		struct sched_candidate swapped;

		if (child < count && before(&heap[child], &heap[least]))
			least = child;
		if (child + 1 < count && before(&heap[child + 1], &heap[least]))
			least = child + 1;
		if (least == at)
			return;
		swapped = heap[at];
		heap[at] = heap[least];
		heap[least] = swapped;
		at = least;
	}
}

static void heap_make(struct sched_candidate *heap, uint32_t count)
{
	for (uint32_t i = count / 2; i-- > 0;)
		sift(heap, count, i);
}

static struct sched_candidate heap_pop(struct sched_candidate *heap, uint32_t *count)
{
	struct sched_candidate top = heap[0];

	heap[0] = heap[--*count];
	sift(heap, *count, 0);
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

/* A stream's token needs a credit of its client, and a slot of `out` beyond those that are
 * promised. */
static bool stream_promise(struct sched *sched, struct sched_request *request)
{
	struct sched_client *client = request->client;

	if (client->credits == 0) {
		/* The clock between tokens stands still; sched_client_unpark starts it anew. */
		if (request->generate.generated > 0)
			sched_request_deadline(sched, request, INT64_MAX);
		sched_session_enter_place(sched, request->session, PLACE_PARKED);
		return false;
	}
	if (!base_spsc_room(sched->out, sched->promised + 1))
		return false;
	client->credits--;
	client->promised++;
	sched->promised++;
	request->streams = true;
	return true;
}

static void add_outs(struct forming *f, struct sched_member *member, float *private_logits)
{
	const struct sched_request *request = member->request;
	enum attnd_output output = request->record.op == ATTND_OP_GENERATE
		? ATTND_OUT_SAMPLED
		: (enum attnd_output)request->step.output;
	uint64_t done = request->result_bytes;

	for (uint32_t i = 0; i < member->rows; i++) {
		struct kern_out *out;

		if (!sched_row_selected(request, request->rows_done + i))
			continue;
		out = &f->flight->outs[f->outs];
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
			out->logits = private_logits + (uint64_t)f->outs * f->program->vocab;
		}
		f->outs++;
		member->outs++;
	}
}

static void add_tokens(struct forming *f, const struct sched_member *member)
{
	const struct sched_request *request = member->request;
	const struct sched_session *session = member->session;
	uint32_t *tokens = f->flight->tokens + member->row;
	const float **embeddings = f->flight->embeddings + member->row;
	bool rows = request->record.flags & ATTND_REQ_ROWS;

	for (uint32_t i = 0; i < member->rows; i++) {
		uint64_t row = (uint64_t)request->rows_done + i;

		tokens[i] = rows ? 0 : session->tokens[session->position + i];
		embeddings[i] = rows
			? (const float *)(const void *)request->in + row * f->program->width
			: NULL;
	}
	f->embeddings = f->embeddings || rows;
}

static void take_off(
	struct sched *sched, struct sched_session *session, uint32_t rows, uint64_t fair)
{
	struct sched_client *client = session->client;

	sched_session_leave_place(sched, session);
	session->busy = true;
	sched_session_head(session)->state = REQUEST_RUNNING;
	client->served += fair_cost(sched, client, rows);
	if (sched->virtual_time < fair)
		sched->virtual_time = fair;
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

static void add_member(struct sched *sched, struct forming *f,
	const struct sched_candidate *candidate, uint32_t rows)
{
	struct sched_session *session = candidate->session;
	struct sched_flight *flight = f->flight;
	struct sched_member *member = &flight->members[flight->member_count];
	uint64_t common_bytes =
		rows == 1 ? bytes_in_common(flight, session, 0, session->position + rows) : 0;

	*member = (struct sched_member){ .session = session,
		.request = sched_session_head(session),
		.row = f->rows,
		.rows = rows,
		.out = f->outs };
	flight->seqs[flight->member_count++] = (struct kern_seq){ .row = f->rows,
		.rows = rows,
		.position = session->position,
		.blocks = session->blocks,
		.kv = &session->kv };
	add_tokens(f, member);
	add_outs(f, member, flight->logits);
	f->rows += rows;
	f->rows_left -= rows;
	f->outs_left -= member->outs;
	flight->load.rows += rows;
	flight->load.outs += member->outs;
	flight->load.visits += visits_of(session->position, rows);
	flight->load.kv_bytes += sched_kv_bytes(&session->kv, (uint64_t)session->position + rows);
	flight->load.kv_bytes -= common_bytes;
	if (candidate->deadline_ns > sched->now_ns && candidate->deadline_ns < f->until_ns) {
		f->until_ns = candidate->deadline_ns;
		f->until_class = candidate->class;
	}
	take_off(sched, session, rows, candidate->fair);
}

/* Rows that leave the step's earliest deadline reachable, unless that deadline is of a lesser class
 * or later than the candidate's. */
static uint32_t fit_deadline(const struct sched *sched, const struct forming *f,
	const struct sched_candidate *candidate, uint32_t rows)
{
	if (f->until_ns == INT64_MAX || candidate->class < f->until_class ||
		candidate->deadline_ns <= f->until_ns)
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

static void try_member(
	struct sched *sched, struct forming *f, const struct sched_candidate *candidate)
{
	struct sched_request *request = sched_session_head(candidate->session);
	uint32_t rows = remaining(request), outs;

	if (rows > sched->options.prefill_chunk)
		rows = sched->options.prefill_chunk;
	if (rows > f->rows_left)
		rows = f->rows_left;
	if (rows > 1)
		rows = fit_deadline(sched, f, candidate, rows);
	rows = fit_outs(request, rows, f->outs_left, &outs);
	if (rows == 0)
		return;
	if (request->record.op == ATTND_OP_GENERATE && outs > 0 && !stream_promise(sched, request))
		return;
	add_member(sched, f, candidate, rows);
}

/* ---- the work ------------------------------------------------------------------------- */

static void form_model(
	struct sched *sched, struct sched_flight *flight, uint32_t decodes, uint32_t prefills)
{
	struct forming f = {
		.flight = flight,
		.program = sched->models[flight->model].program,
		.rows_left = sched->options.step_rows_max,
		.outs_left = sched->options.out_rows_max,
		.until_ns = INT64_MAX,
	};
	uint32_t kept = prefills ? sched->options.step_rows_max / 4 : 0, decode_rows;
	/* Of the outputs too: a prefill whose every row is wanted would never find room. */
	uint32_t kept_outs = prefills ? sched->options.out_rows_max / 4 : 0;

	heap_make(sched->decodes, decodes);
	while (decodes > 0 && f.rows_left > kept && f.outs_left > kept_outs) {
		struct sched_candidate candidate = heap_pop(sched->decodes, &decodes);

		try_member(sched, &f, &candidate);
	}
	decode_rows = f.rows;
	heap_make(sched->prefills, prefills);
	while (prefills > 0 && f.rows_left > 0) {
		struct sched_candidate candidate = heap_pop(sched->prefills, &prefills);

		try_member(sched, &f, &candidate);
	}
	flight->work.kind = KERN_WORK_STEP;
	flight->work.step = (struct kern_step){
		.program = f.program,
		.rows = f.rows,
		.seq_count = flight->member_count,
		.out_count = f.outs,
		.tokens = flight->tokens,
		.embeddings = f.embeddings ? flight->embeddings : NULL,
		.seqs = flight->seqs,
		.outs = flight->outs,
	};
	sched->counters.steps += f.rows > 0;
	sched->counters.step_rows += f.rows;
	sched->counters.decode_rows += decode_rows;
	sched->counters.prefill_rows += f.rows - decode_rows;
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

static void add_attend(struct sched *sched, struct sched_flight *flight,
	const struct sched_candidate *candidate, uint32_t rows)
{
	struct sched_session *session = candidate->session;
	struct sched_request *request = sched_session_head(session);
	struct sched_load load = attend_load(flight, request, rows);

	flight->load.rows += load.rows;
	flight->load.visits += load.visits;
	flight->load.kv_bytes += load.kv_bytes;
	flight->attends[flight->member_count] =
		sched_attend_slice(request, request->rows_done, rows);
	flight->members[flight->member_count++] =
		(struct sched_member){ .session = session, .request = request, .rows = rows };
	take_off(sched, session, rows + request->attend.item.kv_rows, candidate->fair);
}

static void form_attend(
	struct sched *sched, struct sched_flight *flight, uint32_t decodes, uint32_t prefills)
{
	uint32_t count = decodes + prefills;

	/* Both kinds are one here; the second list follows the first. */
	memcpy(sched->decodes + decodes, sched->prefills, sizeof(*sched->prefills) * prefills);
	heap_make(sched->decodes, count);
	while (count > 0 && flight->member_count < SCHED_ATTENDS) {
		struct sched_candidate candidate = heap_pop(sched->decodes, &count);
		struct sched_request *request = sched_session_head(candidate.session);
		uint32_t rows = attend_rows(sched, flight, request);

		if (rows == 0 && request->rows > 0)
			break;
		add_attend(sched, flight, &candidate, rows);
	}
	flight->work.kind = KERN_WORK_ATTEND;
	flight->work.attend.items = flight->attends;
	flight->work.attend.count = flight->member_count;
	sched->counters.attends += flight->member_count;
}

int sched_step_form(struct sched *sched)
{
	struct sched_flight *flight;
	uint32_t count, decodes, prefills;

	if (sched_list_empty(&sched->active) || !sched_flight_computes_free(sched))
		return 0;
	flight = sched_flight_free(sched);
	if (!flight)
		return 0;
	count = gather(sched);
	if (count == 0)
		return 0;
	flight->model = most_urgent(sched, count)->session->model;
	divide(sched, count, flight->model, &decodes, &prefills);
	if (flight->model == sched->options.model_count)
		form_attend(sched, flight, decodes, prefills);
	else
		form_model(sched, flight, decodes, prefills);
	if (flight->member_count == 0)
		return 0;
	sched_flight_launch(sched, flight);
	return 1;
}
