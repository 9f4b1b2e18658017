/*
 * Sessions of whole models and the prefix cache: where a prompt begins that was seen before, its session refers to the blocks that
 * are there and computes the rest. Scheduler's thread.
 *
 * What a session shows is what it would show without: stored bits are a function of tokens and positions (kern_kv.h), so a page
 * that another session computed from the same tokens is the page that this one would have computed. That is why
 *
 *   - pages are added when they are full, and only while all tokens of the session up to there are known as ids;
 *   - at least one row is always computed, and every row that is to be output;
 *   - where the KV format has low halves, a session goes on behind page n only with the low halves of page n, which lie in the
 *     second block after it: that block is kept beside the page, where some session stood on the page that follows when a
 *     prompt ended, or the session. A prompt that leaves known pages elsewhere stops there once, in a chunk of its own, so
 *     that the next one finds the block. A session that lost low halves to a truncation or a fork adds nothing.
 *
 * A session holds the pages of its chain (prefix_node) as the tree's own blocks: what it computed itself and somebody else had
 * added before is given back for the tree's. Pages that nobody holds stay until their blocks are wanted: taking blocks evicts
 * them first, so no request is refused or ended for a cached page's sake. A few are evicted early, of each size of blocks, so that
 * clean ones are there when a request comes: to wait for one is to wait for the step in the air at least, which no promise counts
 * with.
 */
#include "sched/sched_private.h"

enum {
	RELIEVED = 8, /* pages evicted early in one poll */
	MADE = 256,   /* and for a request that waits, which tries again when a block is clean */
};

static struct sched_prefix_space space_of(const struct sched_session *session)
{
	return (struct sched_prefix_space){ .tenant = session->client->tenant,
		.model = (uint16_t)session->model,
		.k = (uint8_t)session->kv.k,
		.v = (uint8_t)session->kv.v };
}

/* ---- a prompt that begins as another did ---------------------------------------------- */

/* Pages that nothing of the request is to be computed from: not its last row, and none that is output. */
static uint32_t reusable_pages(const struct sched_request *request)
{
	const struct attnd_step_args *step = &request->step;
	uint32_t row = request->rows - 1;

	if (request->record.op == ATTND_OP_STEP && step->output != ATTND_OUT_NONE && step->select != ATTND_SELECT_LAST)
		for (row = 0; !sched_row_selected(request, row); row++)
			;
	return row / KERN_PAGE_TOKENS;
}

static bool may_reuse(const struct sched *sched, const struct sched_request *request)
{
	return sched->prefix && request->session->position == 0 && !(request->record.flags & ATTND_REQ_ROWS);
}

/* Token ids of a request that was not checked yet; NULL: it has none that could be looked for. */
static const unsigned char *ids_of(const struct sched_message *message, uint64_t rows)
{
	const struct attnd_request *record = &message->record;
	struct attnd_step_args step;

	if (record->op == ATTND_OP_GENERATE)
		return record->in_bytes >= sizeof(struct attnd_generate_params) + sizeof(uint32_t) * rows
			? (const unsigned char *)message->in + sizeof(struct attnd_generate_params) : NULL;
	memcpy(&step, &record->args, sizeof(step));
	return record->op == ATTND_OP_STEP && (step.output == ATTND_OUT_NONE || step.select == ATTND_SELECT_LAST) ? message->in : NULL;
}

/* They go to the session's history, beyond its position, as they will again when it starts: what a client changes meanwhile misleads its
 * own request alone. */
uint32_t sched_reuse_expected(struct sched *sched, const struct sched_message *message, struct sched_session *session)
{
	const uint64_t rows = sched_rows_asked(session, &message->record);
	const unsigned char *ids = ids_of(message, rows);
	struct sched_prefix_found found;

	if (!sched->prefix || !ids || rows <= KERN_PAGE_TOKENS || session->kind != ATTND_SESSION_MODEL || session->position != 0 ||
		session->queued > 0 || session->busy || message->record.flags & ATTND_REQ_ROWS)
		return 0;
	sched_draft_keep(&session->draft, 0);
	sched_copy_in(session->tokens, ids, sizeof(*session->tokens) * rows);
	found = sched_prefix_find(sched->prefix, space_of(session), session->tokens, (uint32_t)(rows - 1) / KERN_PAGE_TOKENS,
		kern_kv_has_low(&session->kv));
	return found.pages * KERN_PAGE_TOKENS;
}

/* The block between the chain and the one ahead of it: the low halves that lay there are of no more use. */
static bool take_between(struct sched *sched, struct sched_session *session, uint32_t pages)
{
	session->blocks[pages] = sched_kv_take(sched->kv, session->take_bytes[1]);
	return session->blocks[pages] != NULL;
}

/* The blocks of the chain that ends at node, and the one ahead where it needs one. */
static bool refer(struct sched *sched, struct sched_session *session, uint32_t node, uint32_t pages)
{
	const bool ahead = kern_kv_has_low(&session->kv) && pages > 1;
	const uint32_t count = pages + (ahead ? KERN_KV_AHEAD : 0);
	const uint64_t bytes = session->take_bytes[0] + (uint64_t)(count - 1) * session->take_bytes[1];
	uint64_t *used = &sched->uses[session->client->tenant].kv_bytes;

	if (*used + bytes > sched->tenants[session->client->tenant].kv_bytes_max || (ahead && !take_between(sched, session, pages)))
		return false;
	if (ahead) {
		session->blocks[pages + 1] = sched_prefix_ahead(sched->prefix, node);
		sched_kv_reference(sched->kv, session->blocks[pages + 1]);
	}
	for (uint32_t n = node, i = pages; i-- > 0; n = sched_prefix_parent(sched->prefix, n)) {
		session->blocks[i] = sched_prefix_block(sched->prefix, n);
		sched_kv_reference(sched->kv, session->blocks[i]);
	}
	session->block_count = count;
	*used += bytes;
	return true;
}

void sched_reuse_prompt(struct sched *sched, struct sched_request *request)
{
	struct sched_session *session = request->session;
	const bool ahead = kern_kv_has_low(&session->kv);
	struct sched_prefix_found found;

	if (!may_reuse(sched, request))
		return;
	found = sched_prefix_find(sched->prefix, space_of(session), session->tokens, reusable_pages(request), ahead);
	if (found.pages > 0 && !refer(sched, session, found.node, found.pages))
		found.pages = found.known = 0;
	sched_prefix_asked(sched->prefix, found.pages);
	sched->counters.prefix_prompt_tokens += request->rows;
	request->stop_at = found.known > found.pages ? found.known * KERN_PAGE_TOKENS : 0;
	session->reused_tokens = found.pages * KERN_PAGE_TOKENS;
	session->continued = 2 * session->reused_tokens > request->rows;
	if (found.pages == 0)
		return;
	sched_prefix_hold(sched->prefix, found.node);
	session->prefix_node = found.node;
	session->position = request->rows_done = request->rows_reused = session->reused_tokens;
}

void sched_reuse_undo(struct sched *sched, struct sched_request *request)
{
	struct sched_session *session = request->session;

	if (request->rows_reused == 0 || request->rows_done > request->rows_reused)
		return;
	session->position = session->reused_tokens = request->rows_reused = 0;
	sched_blocks_trim(sched, session, 0, 0);
}

/* ---- pages that were computed --------------------------------------------------------- */

static bool all_known(const uint32_t *tokens)
{
	for (uint32_t i = 0; i < KERN_PAGE_TOKENS; i++)
		if (tokens[i] == SCHED_TOKEN_NONE)
			return false;
	return true;
}

static void release(struct sched *sched, const struct sched_prefix_evicted *evicted)
{
	sched_kv_release(sched->kv, evicted->block);
	if (evicted->ahead)
		sched_kv_release(sched->kv, evicted->ahead);
}

/* One that leads to a block of this size; 0: any. */
static bool evict(struct sched *sched, uint64_t bytes)
{
	struct sched_prefix_evicted evicted;

	if (!sched_prefix_evict(sched->prefix, bytes, &evicted))
		return false;
	release(sched, &evicted);
	return true;
}

/* The page behind the session's chain; false: there is no room for it. */
static bool add_page(struct sched *sched, struct sched_session *session, uint32_t index)
{
	const struct sched_prefix_page page = { .tokens = session->tokens + (size_t)index * KERN_PAGE_TOKENS,
		.block = session->blocks[index],
		.bytes = session->take_bytes[index > 0],
		.worth = (double)sched_session_model(sched, session)->info->parameters /
			(double)session->take_bytes[index > 0] };
	const struct sched_prefix_space space = space_of(session);
	bool is_new;
	uint32_t node = sched_prefix_add(sched->prefix, space, session->prefix_node, &page, &is_new);

	if (node == SCHED_PREFIX_NONE && evict(sched, 0))
		node = sched_prefix_add(sched->prefix, space, session->prefix_node, &page, &is_new);
	if (node == SCHED_PREFIX_NONE)
		return false;
	session->prefix_node = node;
	if (is_new) {
		sched_kv_reference(sched->kv, page.block);
	} else if (sched_prefix_block(sched->prefix, node) != page.block) {
		session->blocks[index] = sched_prefix_block(sched->prefix, node);
		sched_kv_reference(sched->kv, session->blocks[index]);
		sched_kv_release(sched->kv, page.block);
	}
	return true;
}

/* The low halves of the page that the node ends with, which the session still has. */
static void keep_ahead_of(struct sched *sched, struct sched_session *session, uint32_t node)
{
	const uint32_t pages = sched_prefix_pages(sched->prefix, node), at = pages - 1 + KERN_KV_AHEAD;

	if (pages < 2 || at >= session->block_count || sched_prefix_ahead(sched->prefix, node))
		return;
	sched_kv_reference(sched->kv, session->blocks[at]);
	sched_prefix_set_ahead(sched->prefix, node, session->blocks[at], session->take_bytes[1]);
}

/* Those of the last full page; where none has begun behind it, of the one before too. */
static void keep_ahead(struct sched *sched, struct sched_session *session, uint32_t pages)
{
	if (pages < 2 || sched_prefix_pages(sched->prefix, session->prefix_node) != pages)
		return;
	keep_ahead_of(sched, session, session->prefix_node);
	if (session->position % KERN_PAGE_TOKENS == 0)
		keep_ahead_of(sched, session, sched_prefix_parent(sched->prefix, session->prefix_node));
}

static void offer(struct sched *sched, struct sched_session *session)
{
	const uint32_t pages = session->position / KERN_PAGE_TOKENS;
	const struct model *file = sched_session_model(sched, session)->file;
	uint32_t have = sched_prefix_pages(sched->prefix, session->prefix_node);

	if (session->apart || (have == pages && !kern_kv_has_low(&session->kv)) || (file && model_damaged(file)))
		return;
	while (have < pages && all_known(session->tokens + (size_t)have * KERN_PAGE_TOKENS) && add_page(sched, session, have))
		have++;
	if (kern_kv_has_low(&session->kv))
		keep_ahead(sched, session, pages);
}

void sched_reuse_landed(struct sched *sched, struct sched_session *session, const struct sched_request *request)
{
	if (!sched->prefix || session->kind != ATTND_SESSION_MODEL)
		return;
	if (!kern_kv_has_low(&session->kv) || session->position == request->stop_at)
		offer(sched, session);
}

/* Not after single rows: a block ahead that is kept has to be copied before the page that comes to lie there is written, and who
 * sends row after row is in a hurry. */
void sched_reuse_ended(struct sched *sched, struct sched_session *session, const struct sched_request *request)
{
	if (request->rows > 1 && kern_kv_has_low(&session->kv))
		sched_reuse_left(sched, session);
}

void sched_reuse_left(struct sched *sched, struct sched_session *session)
{
	if (sched->prefix && session->kind == ATTND_SESSION_MODEL)
		offer(sched, session);
}

/* A page that is cut in two is about to be written to, and would have to be copied first; what it held is a mixture that nobody
 * asks for. */
void sched_reuse_trim(struct sched *sched, struct sched_session *session, uint32_t tokens)
{
	const uint32_t keep = tokens / KERN_PAGE_TOKENS, node = session->prefix_node;
	const uint32_t pages = sched_prefix_pages(sched->prefix, node);
	struct sched_prefix_evicted forgotten;

	if (pages <= keep)
		return;
	session->prefix_node = sched_prefix_drop(sched->prefix, node, keep, session->continued);
	if (tokens % KERN_PAGE_TOKENS != 0 && pages == keep + 1 && sched_prefix_forget(sched->prefix, node, &forgotten))
		release(sched, &forgotten);
}

void sched_reuse_fork(struct sched *sched, struct sched_session *child, const struct sched_session *parent)
{
	uint32_t node = parent->prefix_node;

	while (sched_prefix_pages(sched->prefix, node) > child->position / KERN_PAGE_TOKENS)
		node = sched_prefix_parent(sched->prefix, node);
	sched_prefix_hold(sched->prefix, node);
	child->prefix_node = node;
	child->continued = parent->continued;
}

/* ---- room ----------------------------------------------------------------------------- */

/* Where no page of a size that lacks may go, others do, as far as an extent; whoever still waits when that was zeroed comes again. */
static bool evict_for(struct sched *sched, const size_t bytes[2], uint32_t lacking)
{
	return (lacking & 2 && evict(sched, bytes[1])) || (lacking & 1 && evict(sched, bytes[0])) ||
		(sched_kv_dirty_bytes(sched->kv) < sched_kv_extent_bytes(sched->kv) && evict(sched, 0));
}

void sched_reuse_make_room(struct sched *sched, const size_t bytes[2], const uint32_t counts[2])
{
	uint32_t lacking;

	for (uint32_t made = 0; sched->prefix && (made < MADE || sched_kv_dirty_bytes(sched->kv) == 0); made++) {
		lacking = sched_kv_lacks(sched->kv, bytes, counts);
		if (lacking == 0 || !evict_for(sched, bytes, lacking))
			return;
	}
}

int sched_reuse_relieve(struct sched *sched)
{
	uint32_t at = 0;
	int evicted = 0;
	size_t bytes;

	if (!sched->prefix || sched_prefix_counters(sched->prefix)->idle_bytes == 0)
		return 0;
	/* A size that had to give one up is asked again. */
	while (evicted < RELIEVED && (bytes = sched_kv_short(sched->kv, SCHED_ROOM_PART, true, &at)) > 0) {
		if (!evict(sched, bytes))
			continue;
		evicted++;
		at--;
	}
	return evicted;
}
