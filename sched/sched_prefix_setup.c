/*
 * The prefix cache: its making, its end, and the check of its books. Owner's thread; cold.
 */
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"
#include "base/base_rand.h"
#include "sched/sched_prefix_internal.h"

enum { GHOSTS_PER_PAGE = 4 };

static int check_options(const struct sched_prefix_options *o)
{
	if (o->pages_max == 0 || o->pages_max > SCHED_PREFIX_PAGES_MAX || o->tenant_count == 0 ||
		o->tenant_count > SCHED_PREFIX_TENANTS_MAX)
		return base_fail(EINVAL, "a prefix cache of %u pages (1 to %d) for %u tenants (1 to %d)", o->pages_max,
			SCHED_PREFIX_PAGES_MAX, o->tenant_count, SCHED_PREFIX_TENANTS_MAX);
	for (uint32_t t = 0; t < o->tenant_count; t++)
		if (o->tenants[t].weight == 0 || o->tenants[t].group >= o->tenant_count)
			return base_fail(EINVAL,
				"prefix cache: tenant %u has weight %u and shares in group %u; weights are at least 1, groups below %u", t,
				o->tenants[t].weight, o->tenants[t].group, o->tenant_count);
	return 0;
}

static uint32_t power_of_two(uint32_t least)
{
	uint32_t power = 1;

	while (power < least)
		power *= 2;
	return power;
}

/* Written now, so that no request pays for a page fault. */
static void *table(size_t count, size_t element_bytes)
{
	void *bytes = count <= SIZE_MAX / element_bytes ? malloc(count * element_bytes) : NULL;

	return bytes ? memset(bytes, 0xff, count * element_bytes) : NULL;
}

static bool tables_create(struct sched_prefix *prefix, uint32_t buckets, uint32_t ghosts)
{
	return (prefix->nodes = table(prefix->pages_max, sizeof(*prefix->nodes))) != NULL &&
		(prefix->tokens = table((size_t)prefix->pages_max * KERN_PAGE_TOKENS, sizeof(*prefix->tokens))) != NULL &&
		(prefix->leaves = table(prefix->pages_max, sizeof(*prefix->leaves))) != NULL &&
		(prefix->buckets = table(buckets, sizeof(*prefix->buckets))) != NULL &&
		(prefix->ghosts = table(ghosts, sizeof(*prefix->ghosts))) != NULL;
}

static void nodes_init(struct sched_prefix *prefix)
{
	for (uint32_t n = 0; n < prefix->pages_max; n++)
		prefix->nodes[n] = (struct prefix_node){ .next = n + 1 < prefix->pages_max ? n + 1 : SCHED_PREFIX_NONE,
			.leaf_at = SCHED_PREFIX_NONE };
	prefix->free_head = 0;
	prefix->felled = SCHED_PREFIX_NONE;
}

int sched_prefix_create(struct sched_prefix **out, const struct sched_prefix_options *o)
{
	struct sched_prefix *prefix;
	uint32_t buckets, ghosts;

	if (check_options(o) < 0)
		return -EINVAL;
	buckets = power_of_two(2 * o->pages_max);
	ghosts = power_of_two(GHOSTS_PER_PAGE * o->pages_max);
	prefix = calloc(1, sizeof(*prefix));
	if (!prefix)
		return base_fail(ENOMEM, "no memory for a prefix cache");
	prefix->pages_max = o->pages_max;
	if (!tables_create(prefix, buckets, ghosts)) {
		sched_prefix_destroy(prefix);
		return base_fail(ENOMEM, "no memory for a prefix cache of %u pages", o->pages_max);
	}
	prefix->bucket_mask = buckets - 1;
	prefix->hash_mask = UINT64_MAX;
	memcpy(prefix->key, o->key, sizeof(prefix->key));
	prefix->draws = base_mix64(o->key[0] ^ o->key[1]);
	prefix->share_bytes = o->share_bytes;
	prefix->least_recent = o->least_recent;
	prefix->tenant_count = o->tenant_count;
	for (uint32_t t = 0; t < o->tenant_count; t++) {
		prefix->tenants[t] = (struct prefix_tenant){ .weight = o->tenants[t].weight,
			.group = o->tenants[t].group,
			.leaf_head = SCHED_PREFIX_NONE };
		prefix->weight_sum += o->tenants[t].weight;
	}
	nodes_init(prefix);
	prefix_rank_init(&prefix->rank, prefix->ghosts, ghosts);
	*out = prefix;
	return 0;
}

void sched_prefix_destroy(struct sched_prefix *prefix)
{
	if (!prefix)
		return;
	free(prefix->ghosts);
	free(prefix->buckets);
	free(prefix->leaves);
	free(prefix->tokens);
	free(prefix->nodes);
	free(prefix);
}

void sched_prefix_collide(struct sched_prefix *prefix)
{
	prefix->hash_mask = 0;
}

/* ---- checks --------------------------------------------------------------------------- */

uint32_t sched_prefix_limit(const struct sched_prefix *prefix)
{
	return prefix->pages_max;
}

uint32_t sched_prefix_next(const struct sched_prefix *prefix, uint32_t from, struct sched_prefix_view *view)
{
	for (uint32_t n = from; n < prefix->pages_max; n++) {
		const struct prefix_node *node = &prefix->nodes[n];

		if (node->pages == 0)
			continue;
		*view = (struct sched_prefix_view){ n, node->users, node->block, node->ahead };
		return n + 1;
	}
	return 0;
}

struct tally {
	struct sched_prefix_counters counters;
	uint32_t leaves, sized, free;
	uint64_t tenant_bytes[SCHED_PREFIX_TENANTS_MAX];
};

/* Trees: whose root, and how many. */
static int check_links(const struct sched_prefix *prefix, uint32_t n, const uint32_t *trees)
{
	const struct prefix_node *node = &prefix->nodes[n];
	const bool first = node->parent == SCHED_PREFIX_NONE;
	uint32_t listed = 0, previous = SCHED_PREFIX_NONE;

	for (uint32_t c = node->child; c != SCHED_PREFIX_NONE && listed <= node->children; c = prefix->nodes[c].sibling_next) {
		if (prefix->nodes[c].parent != n || prefix->nodes[c].sibling_previous != previous)
			return base_fail(EINVAL, "prefix page %u is listed below %u", c, n);
		previous = c;
		listed++;
	}
	if (listed != node->children)
		return base_fail(EINVAL, "prefix page %u counts %u children and lists %u", n, node->children, listed);
	if (node->root != (first ? n : prefix->nodes[node->parent].root) || (first && node->tree != trees[n]))
		return base_fail(EINVAL, "prefix page %u: root %u, %u pages in its tree, which has %u", n, node->root, node->tree, trees[n]);
	return 0;
}

static int check_node(const struct sched_prefix *prefix, uint32_t n, const uint32_t *children, struct tally *tally)
{
	const struct prefix_node *node = &prefix->nodes[n];
	const struct prefix_node *parent = node->parent == SCHED_PREFIX_NONE ? NULL : &prefix->nodes[node->parent];
	const bool leaf = node->users == 0 && node->children == 0;
	uint32_t found = *prefix_bucket(prefix, node->hash);

	while (found != SCHED_PREFIX_NONE && found != n)
		found = prefix->nodes[found].next;
	if (found == SCHED_PREFIX_NONE)
		return base_fail(EINVAL, "prefix page %u is not where its hash says", n);
	if (node->pages != (parent ? parent->pages + 1 : 1) || (parent && parent->users < node->users))
		return base_fail(EINVAL, "prefix page %u with %u holders is the %uth of its chain, below one with %u", n, node->users,
			node->pages, parent ? parent->users : 0);
	if (children[n] != node->children)
		return base_fail(EINVAL, "prefix page %u counts %u children and has %u", n, node->children, children[n]);
	if (leaf != (node->leaf_at != SCHED_PREFIX_NONE) || (leaf && prefix->leaves[node->leaf_at].node != n))
		return base_fail(EINVAL, "prefix page %u: %u holders, %u children, place %u in the heap", n, node->users,
			node->children, node->leaf_at);
	if (leaf && node->leaf_at > 0 && prefix->leaves[(node->leaf_at - 1) / 2].left_tick > node->left_tick)
		return base_fail(EINVAL, "prefix page %u stands below a younger one", n);
	tally->counters.pages++;
	tally->counters.bytes += node->bytes + node->ahead_bytes;
	tally->counters.idle_pages += node->users == 0;
	tally->counters.idle_bytes += node->users == 0 ? node->bytes + node->ahead_bytes : 0;
	tally->leaves += leaf;
	tally->sized += prefix_in_size(node);
	tally->tenant_bytes[node->space.tenant] += node->bytes + node->ahead_bytes;
	return 0;
}

/* The lists of sizes hold what they should, and nothing else. */
static int check_sizes(const struct sched_prefix *prefix, const struct tally *tally)
{
	uint32_t pages = 0, listed = 0;

	for (uint32_t s = 0; s < prefix->size_end; s++) {
		pages += prefix->sizes[s].pages;
		for (uint32_t n = prefix->sizes[s].pages ? prefix->sizes[s].head : SCHED_PREFIX_NONE; n != SCHED_PREFIX_NONE;
			n = prefix->nodes[n].size_next) {
			const struct prefix_node *node = &prefix->nodes[n];

			if (node->pages == 0 || node->size != s || node->bytes != prefix->sizes[s].bytes || !prefix_in_size(node) ||
				++listed > tally->sized)
				return base_fail(EINVAL, "prefix page %u stands in the list of size %u", n, s);
		}
	}
	if (pages != tally->counters.pages || listed != tally->sized)
		return base_fail(EINVAL, "prefix cache: %u pages of all sizes and %u listed, but %u and %u are there", pages, listed,
			tally->counters.pages, tally->sized);
	if (prefix->felled != SCHED_PREFIX_NONE && prefix->nodes[prefix->felled].pages == 0)
		return base_fail(EINVAL, "prefix page %u is being felled and is not there", prefix->felled);
	return 0;
}

static int check_totals(const struct sched_prefix *prefix, const struct tally *tally)
{
	const struct sched_prefix_counters *c = &prefix->counters;
	uint32_t listed = 0;

	for (uint32_t t = 0; t < prefix->tenant_count; t++) {
		listed += prefix->tenants[t].leaves;
		if (tally->tenant_bytes[t] != prefix->tenants[t].bytes)
			return base_fail(EINVAL, "prefix cache: tenant %u has %llu bytes, counted %llu", t,
				(unsigned long long)tally->tenant_bytes[t], (unsigned long long)prefix->tenants[t].bytes);
	}
	if (tally->leaves != prefix->leaf_count || listed != prefix->leaf_count)
		return base_fail(EINVAL, "prefix cache: %u pages may be evicted, %u in the heap, %u listed", tally->leaves,
			prefix->leaf_count, listed);
	if (tally->counters.pages != c->pages || tally->counters.bytes != c->bytes ||
		tally->counters.idle_pages != c->idle_pages || tally->counters.idle_bytes != c->idle_bytes ||
		c->pages_added - c->pages_evicted - c->pages_forgotten != c->pages)
		return base_fail(EINVAL, "prefix cache: %u pages, %llu bytes, %u idle, %llu bytes; counted %u, %llu, %u, %llu",
			tally->counters.pages, (unsigned long long)tally->counters.bytes, tally->counters.idle_pages,
			(unsigned long long)tally->counters.idle_bytes, c->pages, (unsigned long long)c->bytes, c->idle_pages,
			(unsigned long long)c->idle_bytes);
	return 0;
}

int sched_prefix_check(const struct sched_prefix *prefix)
{
	uint32_t *children = calloc(2 * (size_t)prefix->pages_max, sizeof(*children)), *trees = children ? children + prefix->pages_max : NULL;
	struct tally tally = { 0 };
	int rc = children ? 0 : base_fail(ENOMEM, "no memory to check the prefix cache");

	for (uint32_t n = 0; rc == 0 && n < prefix->pages_max; n++) {
		if (prefix->nodes[n].pages > 0 && prefix->nodes[n].parent != SCHED_PREFIX_NONE)
			children[prefix->nodes[n].parent]++;
		if (prefix->nodes[n].pages > 0)
			trees[prefix->nodes[n].root]++;
	}
	for (uint32_t n = 0; rc == 0 && n < prefix->pages_max; n++) {
		if (prefix->nodes[n].pages > 0)
			rc = check_node(prefix, n, children, &tally);
		if (rc == 0 && prefix->nodes[n].pages > 0)
			rc = check_links(prefix, n, trees);
	}
	if (rc == 0)
		rc = check_totals(prefix, &tally);
	if (rc == 0)
		rc = check_sizes(prefix, &tally);
	for (uint32_t n = prefix->free_head; rc == 0 && n != SCHED_PREFIX_NONE; n = prefix->nodes[n].next)
		tally.free++;
	if (rc == 0 && tally.free + tally.counters.pages != prefix->pages_max)
		rc = base_fail(EINVAL, "prefix cache: %u pages and %u free ones of %u", tally.counters.pages, tally.free,
			prefix->pages_max);
	free(children);
	return rc;
}
