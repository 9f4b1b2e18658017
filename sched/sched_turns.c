/*
 * Whose turn it is: the ready sessions as candidates, in order of urgency, tenant by tenant. Scheduler's thread, while a work is
 * formed; sched_step.c says what the order is.
 *
 * All that are ready are looked at for each work: of each session one cache line, and once, unless they do not come in order.
 */
#include "sched/sched_private.h"

/* ---- candidates ----------------------------------------------------------------------- */

static bool before(const struct sched_candidate *a, const struct sched_candidate *b)
{
	if (a->class != b->class)
		return a->class < b->class;
	if (a->deadline_ns != b->deadline_ns)
		return a->deadline_ns < b->deadline_ns;
	return a->fair < b->fair;
}

/* What stands in a candidate's place of the deadline, by policies that promise nothing. */
static int64_t order_ns(const struct sched *sched, const struct sched_session *session)
{
	const struct sched_request *request = sched_session_head(session);

	if (sched->options.policy == SCHED_POLICY_ARRIVAL)
		return request->admitted_ns;
	return request->record.deadline_ns ? request->record.deadline_ns : INT64_MAX;
}

/* The ready sessions of a client, in turn; what is past its deadline ends here. Of what it passes it reads one cache line
 * each, and notes what spares another look at all of them. */
static void gather_client(struct sched *sched, struct sched_client *client, struct sched_turn *turn)
{
	const uint32_t chunk = sched->options.prefill_chunk;
	const bool promise = sched->options.policy == SCHED_POLICY_PROMISE;
	struct sched_heap *all = &turn->decodes;
	struct sched_candidate *put = all->at + all->count;
	bool ordered = all->ordered, alike = turn->alike;
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
			turn->oldest = (uint32_t)(put - all->at);
		}
		*put = (struct sched_candidate){ .session = session,
			.deadline_ns = promise ? session->head_deadline_ns : order_ns(sched, session),
			.fair = fair,
			.model = (uint16_t)session->model,
			.class = session->head_class + (session->head_deadline_ns == INT64_MAX ? turn->free_class : 0),
			.decode = rows == 1 };
		alike = alike && rows == 1 && put->model == all->at->model;
		ordered = ordered && (put == all->at || !before(put, put - 1));
		fair += rows > chunk ? chunk : rows > 0 ? rows : 1;
		put++;
	}
	all->count = (uint32_t)(put - all->at);
	all->ordered = ordered;
	turn->alike = alike;
}

/* Of the tenant whose turn it is the one that waited too long is made the most urgent: one per step. */
static void favour_aged(const struct sched *sched, struct sched_turn *turn)
{
	if (turn->decodes.count == 0 || sched->now_ns - turn->oldest_ns <= SCHED_AGED_NS ||
		sched->options.policy != SCHED_POLICY_PROMISE)
		return;
	turn->decodes.at[turn->oldest].class = ATTND_CLASS_LATENCY;
	turn->decodes.at[turn->oldest].deadline_ns = INT64_MIN;
	turn->decodes.ordered = turn->decodes.ordered && turn->oldest == 0;
}

void sched_turns_gather(struct sched *sched)
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
			.decodes = { .at = sched->decodes + count, .ordered = true },
			.prefills = { .at = sched->prefills + count },
			.virtual_ns = use->virtual_ns,
			.oldest_ns = INT64_MAX,
			.alike = true,
			.free_class = tight >> (use - sched->uses) & 1 ? ATTND_CLASS_END : 0 };
		for (c = use->active.next; c != &use->active; c = next_client) {
			next_client = c->next;
			gather_client(sched, sched_client_of_active(c), turn);
		}
		count += turn->decodes.count;
		sched->turn_count += turn->decodes.count > 0;
	}
}

/* The tenant whose turn it is first. */
static struct sched_turn *next_turn(struct sched *sched)
{
	struct sched_turn *next = NULL;

	for (uint32_t i = 0; i < sched->turn_count; i++) {
		struct sched_turn *turn = &sched->turns[i];

		if (!next || turn->virtual_ns < next->virtual_ns)
			next = turn;
	}
	return next;
}

static const struct sched_candidate *most_urgent(const struct sched_turn *turn)
{
	const struct sched_heap *all = &turn->decodes;
	const struct sched_candidate *best = all->at;

	for (uint32_t i = 1; !all->ordered && i < all->count; i++)
		if (before(&all->at[i], best))
			best = &all->at[i];
	return best;
}

uint32_t sched_turns_model(struct sched *sched)
{
	struct sched_turn *first = next_turn(sched);

	favour_aged(sched, first);
	return most_urgent(first)->model;
}

/* ---- a heap of candidates, the most urgent at the top --------------------------------- */

/* A hole at `at` moves down until what is to be put there fits. */
static void sift(struct sched_heap *heap, uint32_t at, struct sched_candidate put)
{
	for (uint32_t child = 2 * at + 1; child < heap->count; child = 2 * at + 1) {
		if (child + 1 < heap->count && before(&heap->at[child + 1], &heap->at[child]))
			child++;
		if (!before(&heap->at[child], &put))
			break;
		heap->at[at] = heap->at[child];
		at = child;
	}
	heap->at[at] = put;
}

/* One client's streams come in order already: these are taken from the front. */
static bool in_order(const struct sched_heap *heap)
{
	uint32_t i = 1;

	while (i < heap->count && !before(&heap->at[i], &heap->at[i - 1]))
		i++;
	return i >= heap->count;
}

static void heap_make(struct sched_heap *heap)
{
	heap->ordered = heap->ordered || in_order(heap);
	for (uint32_t i = heap->count / 2; !heap->ordered && i-- > 0;)
		sift(heap, i, heap->at[i]);
}

const struct sched_candidate *sched_heap_pop_moving(struct sched_heap *heap)
{
	struct sched_candidate *end = heap->at + --heap->count, last = *end;

	*end = *heap->at;
	sift(heap, 0, last);
	return end;
}

/* ---- one model's ---------------------------------------------------------------------- */

bool sched_turn_divide(struct sched_turn *turn, uint32_t model, bool attends)
{
	struct sched_heap *decodes = &turn->decodes, *prefills = &turn->prefills;
	const uint32_t count = decodes->count;

	if (turn->alike && decodes->at->model == model) {
		heap_make(decodes);
		return false;
	}
	prefills->ordered = decodes->ordered;
	decodes->count = 0;
	for (uint32_t i = 0; i < count; i++) {
		struct sched_candidate candidate = decodes->at[i];

		if (candidate.model != model)
			continue;
		if (attends || candidate.decode)
			decodes->at[decodes->count++] = candidate;
		else
			prefills->at[prefills->count++] = candidate;
	}
	heap_make(decodes);
	heap_make(prefills);
	return decodes->count + prefills->count < count;
}
