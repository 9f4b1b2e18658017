/*
 * The KV blocks of a session: taken for a request, all of them or none; copied before a write when
 * they are shared; shared with a fork; released. Scheduler's thread.
 *
 * Quotas count a block once for every session that refers to it, so that a tenant's use does not
 * change when a relative goes.
 *
 * Where the KV format has low halves (kern_kv.h), blocks ahead of the tokens hold them. Tokens beyond those that are kept have
 * their codes there: the blocks ahead go with such tokens, and come back zeroed.
 */
#include "sched/sched_private.h"

static uint64_t *use_of(struct sched *sched, const struct sched_session *session)
{
	return &sched->uses[session->client->tenant].kv_bytes;
}

/* Whether rows first .. end write to the block: as their page, or as the low halves of one. */
static bool writes(const struct sched_session *session, uint32_t first, uint32_t end, uint32_t index)
{
	const uint32_t begin_page = first / KERN_PAGE_TOKENS, end_page = kern_kv_filled(end);

	if (index >= begin_page && index < end_page)
		return true;
	return kern_kv_has_low(&session->kv) && index > KERN_KV_AHEAD && index - KERN_KV_AHEAD >= begin_page &&
		index - KERN_KV_AHEAD < end_page;
}

/* What a request needs: fresh blocks at the end, and copies of shared ones that it writes to. */
struct need {
	uint32_t first, last; /* rows */
	uint32_t begin, end, copies, counts[2];
	uint64_t fresh_bytes;
};

static bool copied(
	const struct sched *sched, const struct sched_session *session, const struct need *need, uint32_t index)
{
	return writes(session, need->first, need->last, index) &&
		sched_kv_references(sched->kv, session->blocks[index]) > 1;
}

static void count_need(const struct sched *sched, const struct sched_session *session,
	uint32_t first, uint32_t rows, struct need *need)
{
	need->first = first;
	need->last = first + rows;
	need->begin = first / KERN_PAGE_TOKENS;
	need->end = kern_kv_blocks(&session->kv, first + rows);
	/* A layer may stand before the last one's end, but never beyond it by more than it appends.
	 */
	if (need->begin > session->block_count)
		need->begin = session->block_count;
	for (uint32_t i = need->begin; i < need->end; i++) {
		bool fresh = i >= session->block_count;

		if (!fresh && !copied(sched, session, need, i))
			continue;
		need->counts[i > 0]++;
		need->copies += !fresh;
		need->fresh_bytes += fresh ? session->take_bytes[i > 0] : 0;
	}
}

static void replace(struct sched *sched, struct sched_session *session, uint32_t index,
	struct sched_flight *copy)
{
	unsigned char *old = session->blocks[index];
	unsigned char *new = sched_kv_take(sched->kv, session->take_bytes[index > 0]);

	BASE_ASSERT(new != NULL);
	copy->spans[copy->span_count] =
		(struct kern_span){ new, old, session->kv.block_bytes[index > 0] };
	/* The old block stays ours until the copy has landed. */
	copy->replaced[copy->span_count++] = old;
	session->blocks[index] = new;
}

/* Rows first .. end have blocks of the session's own. What lies behind its position on the same page stays so until it is shared or
 * trimmed, so that this need not be looked up for every row. */
static enum sched_blocks there(struct sched_session *session, uint32_t end)
{
	if (session->kind == ATTND_SESSION_MODEL && !kern_kv_has_low(&session->kv))
		session->own_until = kern_kv_filled(end) * KERN_PAGE_TOKENS;
	return BLOCKS_THERE;
}

enum sched_blocks sched_blocks_take(struct sched *sched, struct sched_session *session,
	uint32_t first, uint32_t rows, struct sched_flight *copy)
{
	struct need need = { 0 };
	uint64_t *used = use_of(sched, session);

	if (rows == 0 || first + rows <= session->own_until)
		return BLOCKS_THERE;
	count_need(sched, session, first, rows, &need);
	if (need.counts[0] + need.counts[1] == 0)
		return there(session, first + rows);
	if (*used + need.fresh_bytes > sched->tenants[session->client->tenant].kv_bytes_max)
		return BLOCKS_OVER_QUOTA;
	if (!sched_kv_fits(sched->kv, session->take_bytes, need.counts)) {
		sched_reuse_make_room(sched, session->take_bytes, need.counts);
		if (sched_kv_dirty_bytes(sched->kv) == 0)
			return BLOCKS_NONE;
		sched->want_zero = true;
		return BLOCKS_WAIT;
	}
	if (need.copies > 0 &&
		(!copy || copy->span_count + need.copies > SCHED_SPANS ||
			copy->member_count == sched->members_max))
		return BLOCKS_WAIT;
	for (uint32_t i = need.begin; i < need.end; i++) {
		if (i >= session->block_count) {
			session->blocks[i] = sched_kv_take(sched->kv, session->take_bytes[i > 0]);
			BASE_ASSERT(session->blocks[i] != NULL && i == session->block_count);
			session->block_count++;
		} else if (copied(sched, session, &need, i)) {
			replace(sched, session, i, copy);
		}
	}
	*used += need.fresh_bytes;
	return need.copies > 0 ? BLOCKS_COPYING : there(session, first + rows);
}

void sched_blocks_trim(
	struct sched *sched, struct sched_session *session, uint32_t tokens, uint32_t reached)
{
	uint32_t keep = kern_kv_filled(reached) > kern_kv_filled(tokens)
		? kern_kv_filled(tokens)
		: kern_kv_blocks(&session->kv, tokens);

	session->own_until = 0;
	if (sched->prefix)
		sched_reuse_trim(sched, session, tokens);
	while (session->block_count > keep) {
		uint32_t i = --session->block_count;

		sched_kv_release(sched->kv, session->blocks[i]);
		session->blocks[i] = NULL;
		*use_of(sched, session) -= session->take_bytes[i > 0];
	}
}

uint32_t sched_blocks_common(const struct sched_session *a, const struct sched_session *b)
{
	uint32_t low = 0, high = a->block_count < b->block_count ? a->block_count : b->block_count;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (a->blocks[middle] == b->blocks[middle])
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

bool sched_blocks_share(struct sched *sched, struct sched_session *child,
	struct sched_session *parent, uint32_t tokens)
{
	uint32_t filled = kern_kv_filled(tokens);
	uint32_t count = filled == kern_kv_filled(parent->position) ? parent->block_count : filled;
	uint64_t bytes =
		count ? child->take_bytes[0] + (uint64_t)(count - 1) * child->take_bytes[1] : 0;

	if (*use_of(sched, child) + bytes > sched->tenants[child->client->tenant].kv_bytes_max)
		return false;
	for (uint32_t i = 0; i < count; i++) {
		sched_kv_reference(sched->kv, parent->blocks[i]);
		child->blocks[i] = parent->blocks[i];
	}
	child->block_count = count;
	parent->own_until = 0;
	*use_of(sched, child) += bytes;
	return true;
}
