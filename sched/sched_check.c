/*
 * What can be read of a scheduler, and the check of its invariants. Owner's thread; cold: tests,
 * the simulator, attnctl.
 */
#include <stdlib.h>

#include "base/base_error.h"
#include "sched/sched_private.h"

void sched_counters_read(const struct sched *sched, struct sched_counters *counters)
{
	struct sched_kv_usage usage;

	sched_kv_usage(sched->kv, &usage);
	*counters = sched->counters;
	counters->kv_bytes_used = usage.used_bytes;
	counters->kv_bytes_free = usage.free_bytes;
	counters->kv_bytes_dirty = usage.dirty_bytes;
	counters->blocks_used = usage.blocks_used;
	if (sched->prefix) {
		const struct sched_prefix_counters *prefix = sched_prefix_counters(sched->prefix);

		counters->kv_bytes_cached = prefix->idle_bytes;
		counters->kv_bytes_used -= prefix->idle_bytes;
		counters->prefix_lookups = prefix->lookups;
		counters->prefix_hits = prefix->hits;
		counters->prefix_tokens = prefix->pages_found * KERN_PAGE_TOKENS;
		counters->prefix_evictions = prefix->pages_evicted;
		counters->prefix_pages = prefix->pages;
	}
	counters->fair_bound_ns = (uint64_t)sched_share_bound(sched);
	counters->error_median = sched_cost_error_size(&sched->cost, 0.5);
	counters->error_p99 = sched_cost_error_size(&sched->cost, 0.99);
}

uint32_t sched_sessions_view(
	const struct sched *sched, struct sched_session_view *views, uint32_t capacity)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < sched->options.sessions_max && count < capacity; i++) {
		const struct sched_session *session = &sched->sessions[i];

		if (!session->client)
			continue;
		views[count++] = (struct sched_session_view){
			.handle = sched_session_handle(sched, session),
			.client = session->client->number,
			.tenant = session->client->tenant,
			.kind = session->kind,
			.model = session->model,
			.position = session->position,
			.blocks = session->block_count,
			.queued = session->queued,
			.kv_k = (uint8_t)session->kv.k,
			.kv_v = (uint8_t)session->kv.v,
		};
	}
	return count;
}

uint32_t sched_tenants_view(
	const struct sched *sched, struct sched_tenant_view *views, uint32_t capacity)
{
	uint32_t count = sched->options.tenant_count < capacity ? sched->options.tenant_count : capacity;

	for (uint32_t t = 0; t < count; t++) {
		const struct sched_tenant_use *use = &sched->uses[t];

		views[t] = (struct sched_tenant_view){
			.used_ns = use->used_ns,
			.backlogs = use->backlogs,
			.weight = use->weight,
			.sessions = use->sessions,
			.requests = use->requests,
			.ready = !sched_list_empty(&use->of_active),
			.held = use->held,
		};
	}
	return count;
}

/* ---- invariants ----------------------------------------------------------------------- */

struct census {
	uint32_t requests, clients, sessions;
	uint64_t promised[SCHED_LANES_MAX];
	struct sched_tenant_use uses[SCHED_TENANTS_MAX];
	struct sched_streams streams_of[SCHED_MODELS_MAX];
	uint32_t *references; /* per block number */
	uint32_t *holders;    /* per page of the prefix cache */
};

static uint32_t length(const struct sched_list *list, uint32_t most)
{
	uint32_t count = 0;

	for (const struct sched_list *link = list->next; link != list && count <= most;
		link = link->next)
		count++;
	return count;
}

static bool in_flight(const struct sched *sched, const struct sched_session *session)
{
	for (uint32_t f = 0; f < SCHED_FLIGHTS; f++) {
		const struct sched_flight *flight = &sched->flights[f];

		for (uint32_t i = flight->finished;
			flight->state != FLIGHT_FREE && i < flight->member_count; i++)
			if (flight->members[i].session == session)
				return true;
	}
	return false;
}

static int check_place(const struct sched *sched, const struct sched_session *session)
{
	const struct sched_request *head = sched_session_head(session);
	bool placed = session->place != PLACE_NONE;

	if (placed == sched_list_empty(&session->of_place))
		return base_fail(EINVAL, "session %u has place %u but its link says otherwise",
			session->index, session->place);
	if (session->busy != in_flight(sched, session))
		return base_fail(EINVAL, "session %u: busy %d, in a flight %d", session->index,
			session->busy, in_flight(sched, session));
	if (!head)
		return placed || session->busy
			? base_fail(EINVAL, "session %u has no request and place %u, busy %d",
				  session->index, session->place, session->busy)
			: 0;
	if ((head->state == REQUEST_ACTIVE) != placed ||
		(head->state == REQUEST_RUNNING) != session->busy)
		return base_fail(EINVAL,
			"session %u: its head is in state %u, its place %u, busy %d",
			session->index, head->state, session->place, session->busy);
	if (head->state == REQUEST_QUEUED && !session->closing &&
		sched_list_empty(&session->of_kicked))
		return base_fail(EINVAL,
			"session %u waits for nobody: its head is queued and was not kicked",
			session->index);
	if (session->place == PLACE_READY &&
		(session->head_deadline_ns != head->deadline_ns ||
			session->head_rows != head->rows - head->rows_done ||
			session->head_class != head->record.priority_class))
		return base_fail(EINVAL, "session %u is ready for something else than its head", session->index);
	if (session->place == PLACE_READY && sched_list_empty(&session->client->of_active))
		return base_fail(EINVAL, "session %u is ready, its client %u is not active",
			session->index, session->client->number);
	return 0;
}

/* The pages that it holds in the prefix cache are its own first blocks. */
static int check_prefix(const struct sched *sched, const struct sched_session *session, struct census *census)
{
	uint32_t n = session->prefix_node;

	if (n == SCHED_PREFIX_NONE)
		return 0;
	if (!sched->prefix || session->kind != ATTND_SESSION_MODEL ||
		sched_prefix_pages(sched->prefix, n) > session->position / KERN_PAGE_TOKENS)
		return base_fail(EINVAL, "session %u stands at %u tokens and holds %u cached pages", session->index,
			session->position, sched->prefix ? sched_prefix_pages(sched->prefix, n) : 0);
	for (; n != SCHED_PREFIX_NONE; n = sched_prefix_parent(sched->prefix, n)) {
		const uint32_t at = sched_prefix_pages(sched->prefix, n) - 1;

		census->holders[n]++;
		if (session->blocks[at] != sched_prefix_block(sched->prefix, n))
			return base_fail(EINVAL, "session %u: its block %u is not the cached page that it holds", session->index, at);
	}
	return 0;
}

static int check_own(const struct sched *sched, const struct sched_session *session)
{
	if (session->token_bytes != sched_kv_bytes(&session->kv, 1))
		return base_fail(EINVAL, "session %u takes %llu bytes for a token, not %llu", session->index,
			(unsigned long long)session->token_bytes, (unsigned long long)sched_kv_bytes(&session->kv, 1));
	for (uint32_t i = session->position / KERN_PAGE_TOKENS; i < kern_kv_filled(session->own_until); i++)
		if (i >= session->block_count || sched_kv_references(sched->kv, session->blocks[i]) != 1)
			return base_fail(EINVAL, "session %u takes block %u for its own", session->index, i);
	return 0;
}

static int check_session(
	const struct sched *sched, const struct sched_session *session, struct census *census)
{
	struct sched_tenant_use *use = &census->uses[session->client->tenant];
	uint32_t needed = kern_kv_filled(session->position);

	if (length(&session->queue, session->queued) != session->queued)
		return base_fail(EINVAL,
			"session %u counts %u requests, its queue has another number",
			session->index, session->queued);
	for (const struct sched_list *link = session->queue.next; link != &session->queue;
		link = link->next) {
		const struct sched_request *request = sched_request_of_session(link);

		if (request->session != session || request->client != session->client)
			return base_fail(
				EINVAL, "session %u queues a request of another", session->index);
		if (link != session->queue.next && request->state != REQUEST_QUEUED)
			return base_fail(EINVAL,
				"session %u: a request behind its head is in state %u",
				session->index, request->state);
	}
	if (session->position > session->max_tokens || session->block_count < needed ||
		session->block_count > sched->blocks_max)
		return base_fail(EINVAL, "session %u stands at %u of %u tokens with %u blocks",
			session->index, session->position, session->max_tokens,
			session->block_count);
	/* Of the blocks ahead some may be missing: those of a layer that stands behind the others are not taken anew. */
	if (!session->queued && (session->block_count < needed ||
			session->block_count > kern_kv_blocks(&session->kv, session->position)))
		return base_fail(EINVAL, "session %u is at rest at %u tokens and holds %u blocks",
			session->index, session->position, session->block_count);
	for (uint32_t i = 0; i < session->block_count; i++) {
		census->references[sched_kv_number(sched->kv, session->blocks[i])]++;
		use->kv_bytes += session->take_bytes[i > 0];
	}
	use->sessions++;
	census->sessions++;
	if (check_own(sched, session) < 0 || check_prefix(sched, session, census) < 0)
		return -EINVAL;
	return check_place(sched, session);
}

static int check_client(const struct sched *sched, const struct sched_client *client, struct census *census)
{
	uint32_t streams = 0;

	if (length(&client->requests, client->request_count) != client->request_count ||
		length(&client->sessions, client->session_count) != client->session_count)
		return base_fail(EINVAL,
			"client %u counts %u requests and %u sessions, its lists have other numbers",
			client->number, client->request_count, client->session_count);
	if (client->state == CLIENT_FREE)
		return client->request_count || client->session_count
			? base_fail(EINVAL, "client %u is gone and has %u requests, %u sessions",
				  client->number, client->request_count, client->session_count)
			: 0;
	if (client->state == CLIENT_LEAVING && client->request_count == 0 &&
		client->session_count == 0)
		return base_fail(EINVAL, "client %u has nothing left and was not said to be quiet",
			client->number);
	for (const struct sched_list *link = client->requests.next; link != &client->requests;
		link = link->next)
		streams += sched_request_of_client(link)->streams;
	if (streams != client->promised ||
		client->credits + (uint64_t)client->promised + client->credits_spent !=
			client->credits_given)
		return base_fail(EINVAL,
			"client %u: %u streams in flight, %u credits promised, %u left, %llu spent, of %llu given",
			client->number, streams, client->promised, client->credits,
			(unsigned long long)client->credits_spent,
			(unsigned long long)client->credits_given);
	if (sched_list_empty(&client->ready) != sched_list_empty(&client->of_active))
		return base_fail(EINVAL,
			"client %u: its ready sessions and its being active disagree",
			client->number);
	if (!sched_list_empty(&client->parked) && !(sched->lanes_full & sched_lane_bit(sched, client->lane)) &&
		client->credits > length(&client->ready, client->credits))
		return base_fail(EINVAL, "client %u has %u credits and parked streams",
			client->number, client->credits);
	census->uses[client->tenant].requests += client->request_count;
	census->clients++;
	census->requests += client->request_count;
	census->promised[client->lane - sched->lanes] += 1 + (uint64_t)client->request_count + streams;
	return 0;
}

static int check_totals(const struct sched *sched, const struct census *census)
{
	const struct sched_counters *c = &sched->counters;
	uint32_t free_requests = length(&sched->free_requests, sched->options.requests_max);
	uint32_t free_sessions = length(&sched->free_sessions, sched->options.sessions_max);

	if (census->requests != c->requests || c->accepted - c->completed != c->requests ||
		free_requests + census->requests != sched->options.requests_max)
		return base_fail(EINVAL,
			"requests: %u live, %u counted, %llu accepted, %llu completed, %u of %u free",
			census->requests, c->requests, (unsigned long long)c->accepted,
			(unsigned long long)c->completed, free_requests,
			sched->options.requests_max);
	if (census->sessions != c->sessions ||
		free_sessions + census->sessions != sched->options.sessions_max)
		return base_fail(EINVAL, "sessions: %u live, %u counted, %u of %u free",
			census->sessions, c->sessions, free_sessions, sched->options.sessions_max);
	if (census->clients != c->clients)
		return base_fail(
			EINVAL, "clients: %u live, %u counted", census->clients, c->clients);
	for (uint32_t t = 0; t < sched->options.tenant_count; t++)
		if (census->uses[t].sessions != sched->uses[t].sessions ||
			census->uses[t].requests != sched->uses[t].requests ||
			census->uses[t].kv_bytes != sched->uses[t].kv_bytes)
			return base_fail(EINVAL,
				"tenant %u: %u sessions with %llu bytes, %u requests, counted %u with %llu, %u", t,
				census->uses[t].sessions,
				(unsigned long long)census->uses[t].kv_bytes,
				census->uses[t].requests, sched->uses[t].sessions,
				(unsigned long long)sched->uses[t].kv_bytes,
				sched->uses[t].requests);
	return 0;
}

/* A lane owes a reply to each of its clients, requests and streams in the air, and has room for all of them. */
static int check_lanes(const struct sched *sched, const struct census *census)
{
	for (uint32_t i = 0; i < sched->lane_count; i++) {
		const struct sched_lane_use *lane = &sched->lanes[i];

		if (lane->promised != census->promised[i])
			return base_fail(EINVAL, "lane %u: %llu reply slots promised, for %llu clients, requests and streams", i,
				(unsigned long long)lane->promised, (unsigned long long)census->promised[i]);
		if (!sched_lane_room(lane, 0))
			return base_fail(EINVAL, "lane %u: no room for %llu replies that were promised", i,
				(unsigned long long)lane->promised);
	}
	return 0;
}

/* A tenant is active while a client of it is. */
static int check_tenant(const struct sched *sched, uint32_t tenant)
{
	const struct sched_tenant_use *use = &sched->uses[tenant];
	uint32_t clients = 0, active = length(&use->active, sched->clients_max);

	for (uint32_t i = 0; i < sched->clients_max; i++)
		clients += sched->clients[i].tenant == tenant &&
			!sched_list_empty(&sched->clients[i].of_active);
	if (clients != active || (active > 0) == sched_list_empty(&use->of_active))
		return base_fail(EINVAL, "tenant %u: %u clients are active, %u in its list, which is %s", tenant,
			clients, active, sched_list_empty(&use->of_active) ? "in none" : "in the scheduler's");
	if (use->rest < 0 || use->rest >= use->weight)
		return base_fail(EINVAL, "tenant %u: %lld ns are left of a division by %u", tenant,
			(long long)use->rest, use->weight);
	return 0;
}

/* The bound of sched_share.c. */
static int check_pair(
	const struct sched *sched, const struct sched_tenant_use *a, const struct sched_tenant_use *b)
{
	const double flights = sched->computes_max, largest_ns = (double)sched->largest_ns;
	const double bound_ns = (flights + 1.0) * largest_ns / a->weight +
		flights * largest_ns / b->weight + 2.0;

	if ((double)(a->virtual_ns - b->virtual_ns) > bound_ns)
		return base_fail(EINVAL, "backlogged tenants %td and %td are %lld ns by weight apart, at most %.0f allowed",
			a - sched->uses, b - sched->uses, (long long)(a->virtual_ns - b->virtual_ns), bound_ns);
	return 0;
}

static int check_shares(const struct sched *sched)
{
	uint64_t used_ns = 0;
	int rc = 0;

	for (uint32_t t = 0; rc == 0 && t < sched->options.tenant_count; t++) {
		used_ns += sched->uses[t].used_ns;
		rc = check_tenant(sched, t);
	}
	if (rc == 0 && used_ns != sched->charged_ns)
		rc = base_fail(EINVAL, "tenants were charged %llu ns for works that took %llu",
			(unsigned long long)used_ns, (unsigned long long)sched->charged_ns);
	for (const struct sched_list *i = sched->active.next; i != &sched->active; i = i->next)
		for (const struct sched_list *j = sched->active.next; rc == 0 && j != &sched->active; j = j->next)
			if (!sched_use_of_active(i)->held && !sched_use_of_active(j)->held)
				rc = check_pair(sched, sched_use_of_active(i), sched_use_of_active(j));
	return rc;
}

/* ---- what is still asked for ---------------------------------------------------------- */

static void count(struct sched_work *sum, struct sched_work work)
{
	*sum = sched_work_sum(*sum, work);
}

static void count_stream(struct sched_streams *sum, const struct sched_debt *debt)
{
	sum->count++;
	sum->visits += debt->visits;
	sum->kv_bytes += debt->kv_bytes;
}

/* One request, in the sums of its session, its tenant and its model. */
static void count_debt(const struct sched_request *request, struct sched_asked *asked, uint64_t *tokens, struct census *census)
{
	const struct sched_debt *debt = &request->debt;
	struct sched_tenant_use *use = &census->uses[request->client->tenant];
	const bool parked = request->session->place == PLACE_PARKED, promised = debt->kind == DEBT_PROMISED;

	*tokens += debt->tokens;
	if (debt->kind == DEBT_STREAM) {
		count_stream(&use->streams, debt);
		count_stream(&census->streams_of[request->session->model], debt);
	}
	if (debt->kind == DEBT_NONE || debt->kind == DEBT_STREAM)
		return;
	count(promised ? &asked->promised[debt->class] : &asked->free[debt->class], debt->own);
	use->promised_of[sched_session_cost_model(request->session)] += promised;
	if (!parked)
		count(&use->waiting, debt->own);
	if (!parked && !promised)
		count(&use->free[debt->class], debt->own);
}

static int check_asked(const struct sched_session *session, struct census *census)
{
	struct sched_asked asked = { 0 };
	uint64_t tokens = 0;

	for (const struct sched_list *link = session->queue.next; link != &session->queue; link = link->next) {
		const struct sched_request *request = sched_request_of_session(link);

		count_debt(request, &asked, &tokens, census);
		if (request->debt.kind == DEBT_PROMISED && session->asked.latest_ns[request->debt.class] < request->debt.deadline_ns)
			return base_fail(EINVAL, "session %u: the deadline of a promise is later than any that it knows", session->index);
	}
	if (memcmp(asked.promised, session->asked.promised, sizeof(asked.promised)) != 0 ||
		memcmp(asked.free, session->asked.free, sizeof(asked.free)) != 0 || tokens != session->tokens_asked)
		return base_fail(EINVAL, "session %u: its requests ask for something else than its sums say", session->index);
	return 0;
}

/* The sums of a part of a tree of promises, as they should be; false: they are not, or its order is broken. */
static bool check_tree(const struct sched_debt *node, const struct sched_debt **last, uint32_t *nodes, struct sched_debt *sum)
{
	struct sched_debt left = { .all_by_ns = INT64_MAX, .any_by_ns = INT64_MIN }, right = left;
	int64_t until_ns, own_by_ns;

	*sum = left;
	if (!node)
		return true;
	if (!check_tree(node->left, last, nodes, &left))
		return false;
	if (*last && ((*last)->class > node->class || ((*last)->class == node->class && (*last)->deadline_ns > node->deadline_ns)))
		return false;
	*last = node;
	++*nodes;
	if (!check_tree(node->right, last, nodes, &right))
		return false;
	until_ns = left.below.ns + node->own.ns;
	own_by_ns = node->deadline_ns - until_ns;
	sum->below = sched_work_sum(sched_work_sum(left.below, node->own), right.below);
	sum->all_by_ns = left.all_by_ns < own_by_ns ? left.all_by_ns : own_by_ns;
	sum->any_by_ns = left.any_by_ns > own_by_ns ? left.any_by_ns : own_by_ns;
	if (node->right && right.all_by_ns - until_ns < sum->all_by_ns)
		sum->all_by_ns = right.all_by_ns - until_ns;
	if (node->right && right.any_by_ns - until_ns > sum->any_by_ns)
		sum->any_by_ns = right.any_by_ns - until_ns;
	return memcmp(&sum->below, &node->below, sizeof(sum->below)) == 0 && sum->all_by_ns == node->all_by_ns &&
		sum->any_by_ns == node->any_by_ns && node->kind == DEBT_PROMISED;
}

static int check_promised(const struct sched *sched, const struct census *census, uint32_t tenant)
{
	const struct sched_tenant_use *use = &sched->uses[tenant], *found = &census->uses[tenant];
	const struct sched_debt *last = NULL;
	struct sched_debt sum;
	uint32_t nodes = 0, promised = 0;

	for (uint32_t m = 0; m < SCHED_COST_MODELS; m++) {
		promised += found->promised_of[m];
		if ((use->promised_models >> m & 1) != (found->promised_of[m] > 0))
			return base_fail(EINVAL, "tenant %u: of model %u %u are promised, its bit says otherwise", tenant, m,
				found->promised_of[m]);
	}
	if (!check_tree(use->promised, &last, &nodes, &sum) || nodes != promised ||
		memcmp(use->promised_of, found->promised_of, sizeof(use->promised_of)) != 0)
		return base_fail(EINVAL, "tenant %u: its tree of promises has %u for %u requests, or wrong sums or order", tenant, nodes,
			promised);
	return 0;
}

static int check_debts(const struct sched *sched, const struct census *census)
{
	uint64_t weight = 0;
	int64_t waiting_ns = 0;

	for (uint32_t t = 0; t < sched->options.tenant_count; t++) {
		const struct sched_tenant_use *use = &sched->uses[t], *found = &census->uses[t];

		weight += use->waiting.rows > 0 ? use->weight : 0;
		waiting_ns += use->waiting.ns;
		if (memcmp(&use->waiting, &found->waiting, sizeof(use->waiting)) != 0 ||
			memcmp(use->free, found->free, sizeof(use->free)) != 0 ||
			memcmp(&use->streams, &found->streams, sizeof(use->streams)) != 0)
			return base_fail(EINVAL, "tenant %u: its requests ask for %lld ns in %lld rows, its sums say %lld in %lld, or differ", t,
				(long long)found->waiting.ns, (long long)found->waiting.rows, (long long)use->waiting.ns,
				(long long)use->waiting.rows);
		if (check_promised(sched, census, t) < 0)
			return -EINVAL;
	}
	if (weight != sched->waiting_weight || waiting_ns != sched->waiting_ns ||
		memcmp(sched->streams, census->streams_of, sizeof(sched->streams)) != 0)
		return base_fail(EINVAL, "all tenants: %lld ns of a weight of %llu wait, the sums say %lld of %llu, or streams differ",
			(long long)waiting_ns, (unsigned long long)weight, (long long)sched->waiting_ns,
			(unsigned long long)sched->waiting_weight);
	return 0;
}

/* What the prefix cache refers to, and who holds it. */
static int check_cached(const struct sched *sched, struct census *census)
{
	struct sched_prefix_view view;

	for (uint32_t n = 0; sched->prefix && (n = sched_prefix_next(sched->prefix, n, &view)) > 0;) {
		census->references[sched_kv_number(sched->kv, view.block)]++;
		if (view.ahead)
			census->references[sched_kv_number(sched->kv, view.ahead)]++;
		if (view.users != census->holders[view.node])
			return base_fail(EINVAL, "cached page %u counts %u holders and has %u", view.node, view.users,
				census->holders[view.node]);
	}
	return sched->prefix ? sched_prefix_check(sched->prefix) : 0;
}

/* Every reference of a block is an entry of a session's table or the prefix cache's, or held by a copy in the air. */
static int check_blocks(const struct sched *sched, struct census *census)
{
	if (check_cached(sched, census) < 0)
		return -EINVAL;
	for (uint32_t f = 0; f < SCHED_FLIGHTS; f++) {
		const struct sched_flight *flight = &sched->flights[f];

		if (flight->state == FLIGHT_FREE || flight->work.kind != KERN_WORK_COPY)
			continue;
		for (uint32_t i = 0; i < flight->span_count; i++)
			census->references[sched_kv_number(sched->kv, flight->replaced[i])]++;
	}
	for (uint32_t n = 0; n < sched_kv_limit(sched->kv); n++) {
		if (census->references[n] != sched_kv_references_at(sched->kv, n))
			return base_fail(EINVAL,
				"KV block %u has %u references and is referred to %u times", n,
				sched_kv_references_at(sched->kv, n), census->references[n]);
	}
	return sched_kv_check(sched->kv);
}

static int check_all(const struct sched *sched, struct census *census)
{
	int rc = 0;

	for (uint32_t i = 0; rc == 0 && i < sched->clients_max; i++)
		rc = check_client(sched, &sched->clients[i], census);
	for (uint32_t i = 0; rc == 0 && i < sched->options.sessions_max; i++)
		if (sched->sessions[i].client)
			rc = check_session(sched, &sched->sessions[i], census);
	for (uint32_t i = 0; rc == 0 && i < sched->options.sessions_max; i++)
		rc = check_asked(&sched->sessions[i], census);
	if (rc == 0)
		rc = check_totals(sched, census);
	if (rc == 0)
		rc = check_lanes(sched, census);
	if (rc == 0)
		rc = check_shares(sched);
	if (rc == 0)
		rc = check_debts(sched, census);
	return rc < 0 ? rc : check_blocks(sched, census);
}

int sched_check(const struct sched *sched)
{
	struct census census = { 0 };
	int rc;

	census.references = calloc(sched_kv_limit(sched->kv), sizeof(*census.references));
	census.holders = calloc(sched->prefix ? sched_prefix_limit(sched->prefix) : 1, sizeof(*census.holders));
	rc = census.references && census.holders ? check_all(sched, &census)
						 : base_fail(ENOMEM, "no memory to check the scheduler");
	free(census.holders);
	free(census.references);
	return rc;
}

const void *sched_pool(const struct sched *sched, size_t *size_bytes)
{
	struct sched_kv_usage usage;

	sched_kv_usage(sched->kv, &usage);
	*size_bytes = usage.total_bytes;
	return sched_kv_memory(sched->kv);
}
