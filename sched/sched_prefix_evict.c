/*
 * Which page of the prefix cache goes when a block is wanted. Scheduler's thread; O(1) but for the heap's logarithm.
 *
 * A few pages that may go are drawn, and the one goes whose rank is least: finding the least of all would cost a walk over all,
 * since every rank changes with every tick. The page left longest ago is always among the drawn. Pages of tenants beyond their
 * share go before all others, whatever their rank; they are looked for in those tenants' own lists where the draw met none.
 */
#include "sched/sched_prefix_internal.h"

#include "base/base_assert.h"
#include "base/base_rand.h"

enum { DRAWN = 24 };

/* ---- the heap and the tenants' lists -------------------------------------------------- */

static void put(struct sched_prefix *prefix, uint32_t at, struct prefix_leaf leaf)
{
	prefix->leaves[at] = leaf;
	prefix->nodes[leaf.node].leaf_at = at;
}

static void sift_up(struct sched_prefix *prefix, uint32_t at, struct prefix_leaf leaf)
{
	while (at > 0 && prefix->leaves[(at - 1) / 2].left_tick > leaf.left_tick) {
		put(prefix, at, prefix->leaves[(at - 1) / 2]);
		at = (at - 1) / 2;
	}
	put(prefix, at, leaf);
}

static void sift_down(struct sched_prefix *prefix, uint32_t at, struct prefix_leaf leaf)
{
	for (;;) {
		uint32_t child = 2 * at + 1;

		if (child + 1 < prefix->leaf_count && prefix->leaves[child + 1].left_tick < prefix->leaves[child].left_tick)
			child++;
		if (child >= prefix->leaf_count || prefix->leaves[child].left_tick >= leaf.left_tick)
			break;
		put(prefix, at, prefix->leaves[child]);
		at = child;
	}
	put(prefix, at, leaf);
}

void prefix_leaf_enter(struct sched_prefix *prefix, uint32_t n)
{
	struct prefix_node *node = &prefix->nodes[n];
	struct prefix_tenant *tenant = &prefix->tenants[node->space.tenant];

	sift_up(prefix, prefix->leaf_count++, (struct prefix_leaf){ node->left_tick, n });
	node->list_previous = SCHED_PREFIX_NONE;
	node->list_next = tenant->leaf_head;
	if (tenant->leaf_head != SCHED_PREFIX_NONE)
		prefix->nodes[tenant->leaf_head].list_previous = n;
	tenant->leaf_head = n;
	tenant->leaves++;
}

void prefix_leaf_leave(struct sched_prefix *prefix, uint32_t n)
{
	struct prefix_node *node = &prefix->nodes[n];
	struct prefix_tenant *tenant = &prefix->tenants[node->space.tenant];
	const uint32_t at = node->leaf_at;
	const struct prefix_leaf last = prefix->leaves[--prefix->leaf_count];

	if (last.node != n) {
		sift_down(prefix, at, last);
		if (prefix->nodes[last.node].leaf_at == at)
			sift_up(prefix, at, last);
	}
	node->leaf_at = SCHED_PREFIX_NONE;
	if (node->list_previous != SCHED_PREFIX_NONE)
		prefix->nodes[node->list_previous].list_next = node->list_next;
	else
		tenant->leaf_head = node->list_next;
	if (node->list_next != SCHED_PREFIX_NONE)
		prefix->nodes[node->list_next].list_previous = node->list_previous;
	tenant->leaves--;
}

/* ---- sizes ---------------------------------------------------------------------------- */

uint32_t prefix_size_of(struct sched_prefix *prefix, uint64_t bytes)
{
	uint32_t free = PREFIX_SIZES;

	for (uint32_t s = 0; s < prefix->size_end; s++) {
		if (prefix->sizes[s].pages > 0 && prefix->sizes[s].bytes == bytes)
			return s;
		if (prefix->sizes[s].pages == 0)
			free = s;
	}
	if (free == PREFIX_SIZES && prefix->size_end < PREFIX_SIZES)
		free = prefix->size_end++;
	if (free < PREFIX_SIZES)
		prefix->sizes[free] = (struct prefix_size){ bytes, 0, SCHED_PREFIX_NONE, SCHED_PREFIX_NONE };
	return free;
}

void prefix_size_enter(struct sched_prefix *prefix, uint32_t n)
{
	struct prefix_node *node = &prefix->nodes[n];
	struct prefix_size *size = &prefix->sizes[node->size];

	node->size_next = SCHED_PREFIX_NONE;
	node->size_previous = size->tail;
	if (size->tail != SCHED_PREFIX_NONE)
		prefix->nodes[size->tail].size_next = n;
	else
		size->head = n;
	size->tail = n;
}

void prefix_size_leave(struct sched_prefix *prefix, uint32_t n)
{
	const struct prefix_node *node = &prefix->nodes[n];
	struct prefix_size *size = &prefix->sizes[node->size];

	if (node->size_previous != SCHED_PREFIX_NONE)
		prefix->nodes[node->size_previous].size_next = node->size_next;
	else
		size->head = node->size_next;
	if (node->size_next != SCHED_PREFIX_NONE)
		prefix->nodes[node->size_next].size_previous = node->size_previous;
	else
		size->tail = node->size_previous;
}

/* ---- whose, and which ----------------------------------------------------------------- */

bool sched_prefix_over_share(const struct sched_prefix *prefix, uint32_t t)
{
	const struct prefix_tenant *tenant = &prefix->tenants[t];

	return (double)tenant->bytes * (double)prefix->weight_sum > (double)prefix->share_bytes * tenant->weight;
}

/* Who is most beyond its share of those that have something to evict; NONE: nobody is. */
static uint32_t most_over(const struct sched_prefix *prefix)
{
	uint32_t most = SCHED_PREFIX_NONE;
	double most_bytes = 0.0;

	for (uint32_t t = 0; t < prefix->tenant_count; t++) {
		const double bytes = (double)prefix->tenants[t].bytes / prefix->tenants[t].weight;

		if (prefix->tenants[t].leaves == 0 || bytes <= most_bytes || !sched_prefix_over_share(prefix, t))
			continue;
		most = t;
		most_bytes = bytes;
	}
	return most;
}

struct choice {
	uint32_t node; /* NONE: none so far */
	bool shares;   /* somebody is beyond his: */
	bool over;     /* its tenant is */
	double loss;
};

static bool tree_gives(const struct sched_prefix *prefix, const struct prefix_node *node, uint64_t bytes)
{
	const struct prefix_node *root = &prefix->nodes[node->root];

	return root->users == 0 && root->bytes == bytes;
}

static double loss_of(const struct sched_prefix *prefix, const struct prefix_node *node)
{
	return prefix_rank_of(&prefix->rank, node->kind, node->left_tick) * node->worth;
}

/* Of all pages of its tree: guessed from the first one and this end, since to look at each would cost too much. */
static double tree_loss(const struct sched_prefix *prefix, const struct prefix_node *node)
{
	const struct prefix_node *root = &prefix->nodes[node->root];

	return (loss_of(prefix, node) + loss_of(prefix, root)) * 0.5 * root->tree;
}

/* A leaf, or a first page, that nobody holds. */
static void consider(const struct sched_prefix *prefix, struct choice *choice, uint32_t n, uint64_t bytes)
{
	const struct prefix_node *node = &prefix->nodes[n];
	const bool alone = node->children == 0 && (bytes == 0 || node->bytes == bytes);
	double loss;
	bool over;

	if (!alone && !tree_gives(prefix, node, bytes))
		return;
	over = choice->shares && sched_prefix_over_share(prefix, prefix->nodes[alone ? n : node->root].space.tenant);
	loss = alone ? loss_of(prefix, node) : tree_loss(prefix, node);
	if (choice->node != SCHED_PREFIX_NONE &&
		(over != choice->over
				? !over
				: loss > choice->loss ||
					(loss == choice->loss && node->left_tick >= prefix->nodes[choice->node].left_tick)))
		return;
	*choice = (struct choice){ n, choice->shares, over, loss };
}

static uint32_t choose(struct sched_prefix *prefix, uint64_t bytes)
{
	const uint32_t over = most_over(prefix);
	struct choice choice = { .node = SCHED_PREFIX_NONE, .shares = over != SCHED_PREFIX_NONE };

	for (uint32_t i = 0; i < DRAWN; i++) {
		const uint32_t at = i ? (uint32_t)base_rand_below(&prefix->draws, prefix->leaf_count) : 0;

		consider(prefix, &choice, prefix->leaves[at].node, bytes);
	}
	if (over == SCHED_PREFIX_NONE || (choice.node != SCHED_PREFIX_NONE && choice.over))
		return choice.node;
	for (uint32_t i = 0, n = prefix->tenants[over].leaf_head; i < DRAWN && n != SCHED_PREFIX_NONE; i++) {
		consider(prefix, &choice, n, bytes);
		n = prefix->nodes[n].list_next;
	}
	return choice.node;
}

/* Whatever leads to a block of this size is in its list. */
static uint32_t first_of_size(const struct sched_prefix *prefix, uint64_t bytes)
{
	for (uint32_t s = 0; s < prefix->size_end; s++)
		if (prefix->sizes[s].pages > 0 && prefix->sizes[s].bytes == bytes)
			return prefix->sizes[s].head;
	return SCHED_PREFIX_NONE;
}

/* Where few of all pages do. */
static uint32_t choose_listed(const struct sched_prefix *prefix, uint32_t first, uint64_t bytes)
{
	struct choice choice = { .node = SCHED_PREFIX_NONE, .shares = true };

	for (uint32_t i = 0, n = first; i < DRAWN && n != SCHED_PREFIX_NONE; i++) {
		consider(prefix, &choice, n, bytes);
		n = prefix->nodes[n].size_next;
	}
	return choice.node;
}

/* The one left longest ago, if it is one. */
static uint32_t choose_oldest(const struct sched_prefix *prefix, uint64_t bytes)
{
	struct choice choice = { .node = SCHED_PREFIX_NONE };

	consider(prefix, &choice, prefix->leaves[0].node, bytes);
	return choice.node;
}

/* An end of the tree that the page belongs to, below it. */
static uint32_t end_of(const struct sched_prefix *prefix, uint32_t n)
{
	while (prefix->nodes[n].child != SCHED_PREFIX_NONE)
		n = prefix->nodes[n].child;
	return n;
}

/* What was begun for a first page's block goes on, so that the way into a tree is gone once. */
static uint32_t go_on(const struct sched_prefix *prefix, uint64_t bytes)
{
	const uint32_t n = prefix->felled;

	return n != SCHED_PREFIX_NONE && tree_gives(prefix, &prefix->nodes[n], bytes) ? end_of(prefix, n) : SCHED_PREFIX_NONE;
}

static uint32_t next_out(struct sched_prefix *prefix, uint64_t bytes)
{
	const uint32_t first = bytes > 0 ? first_of_size(prefix, bytes) : SCHED_PREFIX_NONE;
	uint32_t n = go_on(prefix, bytes);

	/* From here on, not from a fork above it again. */
	if (n != SCHED_PREFIX_NONE)
		return prefix->felled = n;
	if (bytes > 0 && first == SCHED_PREFIX_NONE)
		return SCHED_PREFIX_NONE;
	n = prefix->least_recent ? choose_oldest(prefix, bytes) : choose(prefix, bytes);
	if (n == SCHED_PREFIX_NONE)
		n = prefix->least_recent ? first : choose_listed(prefix, first, bytes);
	n = end_of(prefix, n);
	if (bytes > 0 && prefix->nodes[n].bytes != bytes)
		prefix->felled = n;
	return n;
}

/* ---- out ------------------------------------------------------------------------------ */

static void unlink_hash(struct sched_prefix *prefix, uint32_t n)
{
	uint32_t *link = prefix_bucket(prefix, prefix->nodes[n].hash);

	while (*link != n)
		link = &prefix->nodes[*link].next;
	*link = prefix->nodes[n].next;
}

/* Out of its tree. What is left of that, when its first page is wanted, is where this one was. */
static void cut_off(struct sched_prefix *prefix, uint32_t n)
{
	const struct prefix_node *node = &prefix->nodes[n];
	struct prefix_node *parent;

	if (prefix->felled == n)
		prefix->felled = node->parent;
	prefix->nodes[node->root].tree--;
	if (node->parent == SCHED_PREFIX_NONE)
		return;
	parent = &prefix->nodes[node->parent];
	if (node->sibling_previous != SCHED_PREFIX_NONE)
		prefix->nodes[node->sibling_previous].sibling_next = node->sibling_next;
	else
		parent->child = node->sibling_next;
	if (node->sibling_next != SCHED_PREFIX_NONE)
		prefix->nodes[node->sibling_next].sibling_previous = node->sibling_previous;
	if (--parent->children > 0 || parent->users > 0)
		return;
	prefix_leaf_enter(prefix, node->parent);
	if (parent->parent != SCHED_PREFIX_NONE)
		prefix_size_enter(prefix, node->parent);
}

static struct sched_prefix_evicted take_out(struct sched_prefix *prefix, uint32_t n)
{
	struct prefix_node *node = &prefix->nodes[n];
	const uint64_t bytes = node->bytes + node->ahead_bytes;
	const struct sched_prefix_evicted evicted = { node->block, node->ahead };

	BASE_ASSERT(node->users == 0 && node->children == 0);
	prefix_leaf_leave(prefix, n);
	unlink_hash(prefix, n);
	prefix_size_leave(prefix, n);
	cut_off(prefix, n);
	prefix->sizes[node->size].pages--;
	prefix->tenants[node->space.tenant].bytes -= bytes;
	prefix->counters.bytes -= bytes;
	prefix->counters.idle_bytes -= bytes;
	prefix->counters.pages--;
	prefix->counters.idle_pages--;
	*node = (struct prefix_node){ .next = prefix->free_head, .leaf_at = SCHED_PREFIX_NONE };
	prefix->free_head = n;
	return evicted;
}

bool sched_prefix_evict(struct sched_prefix *prefix, uint64_t bytes, struct sched_prefix_evicted *evicted)
{
	const struct prefix_node *node;
	uint32_t n;

	if (prefix->leaf_count == 0)
		return false;
	n = next_out(prefix, bytes);
	if (n == SCHED_PREFIX_NONE)
		return false;
	node = &prefix->nodes[n];
	prefix_rank_evicted(&prefix->rank, node->hash, node->kind, node->left_tick);
	*evicted = take_out(prefix, n);
	prefix->counters.pages_evicted++;
	return true;
}

bool sched_prefix_forget(struct sched_prefix *prefix, uint32_t node, struct sched_prefix_evicted *evicted)
{
	if (prefix->nodes[node].leaf_at == SCHED_PREFIX_NONE)
		return false;
	*evicted = take_out(prefix, node);
	prefix->counters.pages_forgotten++;
	return true;
}
