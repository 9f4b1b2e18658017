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
	bool fits;
	double rank;
};

static void consider(const struct sched_prefix *prefix, struct choice *choice, uint32_t n, uint64_t preferred_bytes)
{
	const struct prefix_node *node = &prefix->nodes[n];
	const bool fits = node->bytes == preferred_bytes;
	const double rank = prefix_rank_of(&prefix->rank, node->kind, node->left_tick) * node->worth;

	if (choice->node != SCHED_PREFIX_NONE &&
		(fits != choice->fits ? !fits
				      : rank > choice->rank ||
					(rank == choice->rank &&
						node->left_tick >= prefix->nodes[choice->node].left_tick)))
		return;
	*choice = (struct choice){ n, fits, rank };
}

static uint32_t choose(struct sched_prefix *prefix, uint64_t preferred_bytes)
{
	const uint32_t over = most_over(prefix);
	struct choice choice = { .node = SCHED_PREFIX_NONE };

	for (uint32_t i = 0; i < DRAWN; i++) {
		const uint32_t at = i ? (uint32_t)base_rand_below(&prefix->draws, prefix->leaf_count) : 0;
		const uint32_t n = prefix->leaves[at].node;

		if (over == SCHED_PREFIX_NONE || sched_prefix_over_share(prefix, prefix->nodes[n].space.tenant))
			consider(prefix, &choice, n, preferred_bytes);
	}
	if (choice.node != SCHED_PREFIX_NONE)
		return choice.node;
	for (uint32_t i = 0, n = prefix->tenants[over].leaf_head; i < DRAWN && n != SCHED_PREFIX_NONE; i++) {
		consider(prefix, &choice, n, preferred_bytes);
		n = prefix->nodes[n].list_next;
	}
	return choice.node;
}

/* ---- out ------------------------------------------------------------------------------ */

static void unlink_hash(struct sched_prefix *prefix, uint32_t n)
{
	uint32_t *link = prefix_bucket(prefix, prefix->nodes[n].hash);

	while (*link != n)
		link = &prefix->nodes[*link].next;
	*link = prefix->nodes[n].next;
}

static struct sched_prefix_evicted take_out(struct sched_prefix *prefix, uint32_t n)
{
	struct prefix_node *node = &prefix->nodes[n];
	const uint64_t bytes = node->bytes + node->ahead_bytes;
	const struct sched_prefix_evicted evicted = { node->block, node->ahead };

	BASE_ASSERT(node->users == 0 && node->children == 0);
	prefix_leaf_leave(prefix, n);
	unlink_hash(prefix, n);
	if (node->parent != SCHED_PREFIX_NONE) {
		struct prefix_node *parent = &prefix->nodes[node->parent];

		if (--parent->children == 0 && parent->users == 0)
			prefix_leaf_enter(prefix, node->parent);
	}
	prefix->tenants[node->space.tenant].bytes -= bytes;
	prefix->counters.bytes -= bytes;
	prefix->counters.idle_bytes -= bytes;
	prefix->counters.pages--;
	prefix->counters.idle_pages--;
	*node = (struct prefix_node){ .next = prefix->free_head, .leaf_at = SCHED_PREFIX_NONE };
	prefix->free_head = n;
	return evicted;
}

bool sched_prefix_evict(struct sched_prefix *prefix, uint64_t preferred_bytes, struct sched_prefix_evicted *evicted)
{
	const struct prefix_node *node;
	uint32_t n;

	if (prefix->leaf_count == 0)
		return false;
	n = prefix->least_recent ? prefix->leaves[0].node : choose(prefix, preferred_bytes);
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
