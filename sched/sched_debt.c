/*
 * What accepted requests still ask of the device, kept as sums, so that a prediction need not look at each of them.
 * Scheduler's thread; brought up to date wherever a request moves.
 *
 *   promised   has a deadline and rows that are not in the air: in its tenant's tree, by class and deadline
 *   free       has rows and no deadline: a sum for each tenant and class
 *   stream     a GENERATE behind its prompt, a row of every step: a sum for each model, and one for each tenant
 *
 * The tree is a treap (Seidel, Aragon: "Randomized search trees", 1996), whose links are in the requests and whose nodes
 * know the sums of all below them: what goes before a deadline, and whether everybody behind it can wait, is found in
 * logarithmic time whatever deadlines clients choose, as they cannot know its heights. Of work that takes no rows (raw
 * attention) a slice counts as a whole step's.
 *
 * What waits behind a stream that has no credit is in no sum that other tenants see, since it cannot run. Its promises stay in the
 * tree: nobody else of its tenant is promised their place. Each session has sums of its own, by which it goes in and out as a whole.
 */
#include "base/base_rand.h"
#include "sched/sched_private.h"

/* ---- the tree ------------------------------------------------------------------------- */

static bool before(const struct sched_debt *a, const struct sched_debt *b)
{
	if (a->class != b->class)
		return a->class < b->class;
	if (a->deadline_ns != b->deadline_ns)
		return a->deadline_ns < b->deadline_ns;
	return (uintptr_t)a < (uintptr_t)b;
}

/* A child's sums, which begin so much later than those of the node. */
static void add_below(struct sched_debt *node, const struct sched_debt *child, int64_t later_ns)
{
	if (!child)
		return;
	node->below = sched_work_sum(node->below, child->below);
	if (child->all_by_ns - later_ns < node->all_by_ns)
		node->all_by_ns = child->all_by_ns - later_ns;
	if (child->any_by_ns - later_ns > node->any_by_ns)
		node->any_by_ns = child->any_by_ns - later_ns;
}

static struct sched_debt *summed(struct sched_debt *node)
{
	const int64_t until_ns = node->own.ns + (node->left ? node->left->below.ns : 0);

	node->below = node->own;
	node->all_by_ns = node->any_by_ns = node->deadline_ns - until_ns;
	add_below(node, node->left, 0);
	add_below(node, node->right, until_ns);
	return node;
}

/* Those before the node, and those behind it. */
static void split(struct sched_debt *tree, const struct sched_debt *at, struct sched_debt **left, struct sched_debt **right)
{
	if (!tree) {
		*left = *right = NULL;
	} else if (before(tree, at)) {
		split(tree->right, at, &tree->right, right);
		*left = summed(tree);
	} else {
		split(tree->left, at, left, &tree->left);
		*right = summed(tree);
	}
}

static struct sched_debt *joined(struct sched_debt *left, struct sched_debt *right)
{
	if (!left || !right)
		return left ? left : right;
	if (left->height > right->height) {
		left->right = joined(left->right, right);
		return summed(left);
	}
	right->left = joined(left, right->left);
	return summed(right);
}

static struct sched_debt *with(struct sched_debt *tree, struct sched_debt *node)
{
	if (!tree)
		return summed(node);
	if (node->height > tree->height) {
		split(tree, node, &node->left, &node->right);
		return summed(node);
	}
	if (before(node, tree))
		tree->left = with(tree->left, node);
	else
		tree->right = with(tree->right, node);
	return summed(tree);
}

static struct sched_debt *without(struct sched_debt *tree, const struct sched_debt *node)
{
	BASE_ASSERT(tree != NULL);
	if (tree == node)
		return joined(tree->left, tree->right);
	if (before(node, tree))
		tree->left = without(tree->left, node);
	else
		tree->right = without(tree->right, node);
	return summed(tree);
}

struct sched_work sched_debts_before(const struct sched_tenant_use *use, uint8_t class, int64_t deadline_ns)
{
	struct sched_work sum = { 0 };

	for (const struct sched_debt *node = use->promised; node;) {
		const bool counts = node->class != class ? node->class < class : node->deadline_ns <= deadline_ns;

		if (counts) {
			sum = sched_work_sum(sum, node->own);
			if (node->left)
				sum = sched_work_sum(sum, node->left->below);
		}
		node = counts ? node->right : node->left;
	}
	return sum;
}

/* ---- what a request asks for ---------------------------------------------------------- */

static struct sched_work raw_work(const struct sched *sched, const struct sched_load *load)
{
	const int64_t ns = sched_cost_predict(&sched->cost, SCHED_COST_MODELS - 1, load);

	return (struct sched_work){ ns, (ns / SCHED_ATTEND_NS + 1) * sched->options.step_rows_max, 0 };
}

struct sched_work sched_work_of_rows(
	const struct sched *sched, const struct sched_session *session, uint64_t position, uint64_t rows)
{
	const struct sched_cost_units *units = &sched->units[session->model];
	const uint64_t chunk = sched->options.prefill_chunk, steps = (rows + chunk - 1) / chunk;
	const double visits = (double)rows * (double)position + (double)rows * (double)(rows + 1) / 2;
	/* What is cut into several steps is read in each of them, as far as it has grown. */
	const double tokens = (double)steps * (double)position + (double)rows * (double)(steps + 1) / 2;

	if (rows == 0)
		return (struct sched_work){ 0 };
	return (struct sched_work){ .ns = 1 +
			sched_work_ns(units->row_ns * (double)rows + units->visit_ns * visits + units->out_ns +
				units->byte_ns * tokens * (double)session->token_bytes),
		.rows = (int64_t)rows };
}

/* Before the parameters are copied and checked for good: wrong ones mislead their own request alone. */
struct sched_work sched_work_of_attend(
	const struct sched *sched, const struct sched_session *session, const void *in, uint32_t in_bytes)
{
	struct attnd_attend_params params;
	uint64_t q_rows, kv_rows, keys;
	struct sched_load load;

	if (in_bytes < sizeof(params))
		return (struct sched_work){ 0 };
	sched_copy_in(&params, in, sizeof(params));
	q_rows = params.q_rows < ATTND_ATTEND_ROWS_MAX ? params.q_rows : ATTND_ATTEND_ROWS_MAX;
	kv_rows = params.kv_rows < ATTND_ATTEND_ROWS_MAX ? params.kv_rows : ATTND_ATTEND_ROWS_MAX;
	keys = session->position + kv_rows;
	load.visits = (2 * q_rows * keys + kv_rows) * session->kv.heads * session->kv.head_dim;
	load.rows = (uint32_t)(load.visits >> 16) + 1;
	load.outs = 0;
	load.kv_bytes = sched_session_bytes(session, keys) / session->kv.layers;
	return raw_work(sched, &load);
}

uint64_t sched_rows_asked(const struct sched_session *session, const struct attnd_request *record)
{
	const uint64_t ids = record->in_bytes / sizeof(uint32_t);
	const uint64_t rows = record->argument < session->max_tokens ? record->argument : session->max_tokens;

	return rows < ids ? rows : ids;
}

static struct sched_work work_left(const struct sched *sched, const struct sched_request *request, uint32_t flying)
{
	const struct sched_session *session = request->session;
	const struct attnd_request *record = &request->record;

	if (record->op == ATTND_OP_STEP || record->op == ATTND_OP_GENERATE) {
		uint64_t rows = sched_rows_asked(session, record);

		if (request->state >= REQUEST_ACTIVE)
			rows = request->rows - request->rows_done - flying;
		return sched_work_of_rows(sched, session, (uint64_t)session->position + flying, rows);
	}
	if (record->op != ATTND_OP_APPEND && record->op != ATTND_OP_ATTEND)
		return (struct sched_work){ 0 };
	if (request->state < REQUEST_ACTIVE)
		return sched_work_of_attend(sched, session, request->in, record->in_bytes);
	if (request->rows > 0 && request->rows_done + flying == request->rows)
		return (struct sched_work){ 0 };
	const struct sched_load load = sched_attend_load(
		&request->attend.item, request->rows_done + flying, request->rows - request->rows_done - flying);

	return raw_work(sched, &load);
}

/* ---- the sums ------------------------------------------------------------------------- */

static void count_stream(struct sched_streams *streams, const struct sched_debt *debt, int64_t sign)
{
	streams->count += (uint64_t)sign;
	streams->visits += (uint64_t)(sign * (int64_t)debt->visits);
	streams->kv_bytes += (uint64_t)(sign * (int64_t)debt->kv_bytes);
}

static void add(struct sched_work *sum, struct sched_work work, int64_t sign)
{
	sum->ns += sign * work.ns;
	sum->rows += sign * work.rows;
	sum->streams += sign * work.streams;
}

static void count_waiting(struct sched *sched, struct sched_tenant_use *use, struct sched_work work, int64_t sign)
{
	const bool waited = use->waiting.rows > 0;

	add(&use->waiting, work, sign);
	sched->waiting_ns += sign * work.ns;
	if (waited != (use->waiting.rows > 0))
		sched->waiting_weight += waited ? -(uint64_t)use->weight : use->weight;
}

static void count_promised(struct sched_tenant_use *use, uint32_t model, int64_t sign)
{
	use->promised_of[model] += (uint32_t)sign;
	use->promised_models &= ~(1u << model);
	use->promised_models |= (uint32_t)(use->promised_of[model] > 0) << model;
}

/* Of one request with rows, in its session's sums and, unless it is parked, in its tenant's. */
static void count_work(struct sched *sched, const struct sched_request *request, int64_t sign)
{
	const struct sched_debt *debt = &request->debt;
	struct sched_tenant_use *use = &sched->uses[request->client->tenant];
	struct sched_asked *asked = &request->session->asked;
	const bool promised = debt->kind == DEBT_PROMISED, parked = request->session->place == PLACE_PARKED;

	add(promised ? &asked->promised[debt->class] : &asked->free[debt->class], debt->own, sign);
	if (!promised && !parked)
		add(&use->free[debt->class], debt->own, sign);
	if (!parked)
		count_waiting(sched, use, debt->own, sign);
	if (promised)
		count_promised(use, sched_session_cost_model(request->session), sign);
}

void sched_debt_park(struct sched *sched, const struct sched_session *session, bool parks)
{
	struct sched_tenant_use *use = &sched->uses[session->client->tenant];
	const int64_t sign = parks ? -1 : 1;

	for (uint32_t c = 0; c < ATTND_CLASS_END; c++) {
		add(&use->free[c], session->asked.free[c], sign);
		count_waiting(sched, use, sched_work_sum(session->asked.free[c], session->asked.promised[c]), sign);
	}
}

void sched_debt_drop(struct sched *sched, struct sched_request *request)
{
	struct sched_debt *debt = &request->debt;
	struct sched_tenant_use *use = &sched->uses[request->client->tenant];

	request->session->tokens_asked -= debt->tokens;
	debt->tokens = 0;
	switch ((enum sched_debt_kind)debt->kind) {
	case DEBT_NONE: return;
	case DEBT_PROMISED:
		use->promised = without(use->promised, debt);
		count_work(sched, request, -1);
		break;
	case DEBT_FREE: count_work(sched, request, -1); break;
	case DEBT_STREAM:
		count_stream(&sched->streams[request->session->model], debt, -1);
		count_stream(&use->streams, debt, -1);
		break;
	}
	debt->kind = DEBT_NONE;
}

static void add_work(struct sched *sched, struct sched_request *request, struct sched_work work)
{
	struct sched_debt *debt = &request->debt;
	struct sched_tenant_use *use = &sched->uses[request->client->tenant];
	struct sched_asked *asked = &request->session->asked;

	debt->own = work;
	debt->own.streams = request->record.op == ATTND_OP_GENERATE;
	debt->class = request->record.priority_class;
	debt->deadline_ns = request->deadline_ns;
	debt->kind = request->deadline_ns == INT64_MAX ? DEBT_FREE : DEBT_PROMISED;
	if (debt->kind == DEBT_PROMISED) {
		if (asked->promised[debt->class].rows == 0 || asked->latest_ns[debt->class] < debt->deadline_ns)
			asked->latest_ns[debt->class] = debt->deadline_ns;
		debt->left = debt->right = NULL;
		debt->height = (uint32_t)base_mix64(++sched->debts + sched->options.secret[0]);
		use->promised = with(use->promised, debt);
	}
	count_work(sched, request, 1);
}

static void add_stream(struct sched *sched, struct sched_request *request, uint32_t flying)
{
	const struct sched_session *session = request->session;
	struct sched_debt *debt = &request->debt;

	debt->kind = DEBT_STREAM;
	debt->visits = (uint64_t)session->position + flying + 1;
	debt->kv_bytes = sched_session_bytes(session, debt->visits);
	count_stream(&sched->streams[session->model], debt, 1);
	count_stream(&sched->uses[request->client->tenant].streams, debt, 1);
}

/* What a GENERATE may still draw. One that is queued was not checked yet: what it says is bounded by its session, and misleads those
 * alone that wait behind it there. */
static uint32_t tokens_left(const struct sched_request *request)
{
	const struct sched_session *session = request->session;
	struct attnd_generate_params params;
	uint32_t tokens, most = session->max_tokens;

	if (request->record.op != ATTND_OP_GENERATE)
		return 0;
	if (request->state >= REQUEST_ACTIVE) {
		tokens = request->generate.params.max_tokens - request->generate.generated;
		most -= session->position;
	} else {
		if (request->record.in_bytes < sizeof(params))
			return 0;
		sched_copy_in(&params, request->in, sizeof(params));
		tokens = params.max_tokens;
	}
	return tokens < most ? tokens : most;
}

static void lengthen(struct sched_streams *streams, uint64_t visits, uint64_t kv_bytes)
{
	streams->visits += visits;
	streams->kv_bytes += kv_bytes;
}

/* It was a stream, and is one: the sums follow by what has changed, as there may be a thousand in a step. */
static void follow_stream(struct sched *sched, struct sched_request *request)
{
	struct sched_session *session = request->session;
	struct sched_debt *debt = &request->debt;
	const uint64_t visits = (uint64_t)session->position + 1, kv_bytes = sched_session_bytes(session, visits);
	const uint32_t tokens = tokens_left(request);

	lengthen(&sched->streams[session->model], visits - debt->visits, kv_bytes - debt->kv_bytes);
	lengthen(&sched->uses[request->client->tenant].streams, visits - debt->visits, kv_bytes - debt->kv_bytes);
	session->tokens_asked += (uint64_t)tokens - debt->tokens;
	debt->visits = visits;
	debt->kv_bytes = kv_bytes;
	debt->tokens = tokens;
}

static void set(struct sched *sched, struct sched_request *request, uint32_t flying)
{
	struct sched_session *session = request->session;
	struct sched_work work;

	sched_debt_drop(sched, request);
	request->debt.own = (struct sched_work){ 0 };
	request->debt.tokens = tokens_left(request);
	session->tokens_asked += request->debt.tokens;
	work = request->record.op == ATTND_OP_GENERATE && request->state >= REQUEST_ACTIVE && request->generate.generated > 0
		? (struct sched_work){ 0 }
		: work_left(sched, request, flying);
	if (work.rows > 0)
		add_work(sched, request, work);
	else if (request->record.op == ATTND_OP_GENERATE && request->state >= REQUEST_ACTIVE && session->place != PLACE_PARKED)
		add_stream(sched, request, flying);
}

void sched_debt_set(struct sched *sched, struct sched_request *request, uint32_t flying)
{
	if (request->debt.kind == DEBT_STREAM && flying == 0 && request->session->place != PLACE_PARKED)
		follow_stream(sched, request);
	else
		set(sched, request, flying);
}
