/*
 * The prefix cache's tree: lookups, holders, new pages. Scheduler's thread; no allocation.
 */
#include <string.h>

#include "base/base_assert.h"
#include "sched/sched_prefix_internal.h"

/* ---- hashes --------------------------------------------------------------------------- */

/* SipHash-1-3 (Aumasson, Bernstein, 2012), as hash tables take it, over whole words: without the key nobody can make pages that
 * collide, and who could would gain comparisons alone. */
struct sip {
	uint64_t v0, v1, v2, v3;
};

static uint64_t rotate(uint64_t x, unsigned bits)
{
	return x << bits | x >> (64 - bits);
}

static void sip_round(struct sip *s)
{
	s->v0 += s->v1;
	s->v1 = rotate(s->v1, 13) ^ s->v0;
	s->v0 = rotate(s->v0, 32);
	s->v2 += s->v3;
	s->v3 = rotate(s->v3, 16) ^ s->v2;
	s->v0 += s->v3;
	s->v3 = rotate(s->v3, 21) ^ s->v0;
	s->v2 += s->v1;
	s->v1 = rotate(s->v1, 17) ^ s->v2;
	s->v2 = rotate(s->v2, 32);
}

static void sip_word(struct sip *s, uint64_t word)
{
	s->v3 ^= word;
	sip_round(s);
	s->v0 ^= word;
}

static uint64_t sip_end(struct sip *s, uint64_t bytes)
{
	sip_word(s, bytes << 56);
	s->v2 ^= 0xff;
	for (int i = 0; i < 3; i++)
		sip_round(s);
	return s->v0 ^ s->v1 ^ s->v2 ^ s->v3;
}

static struct sip sip_begin(const uint64_t key[2])
{
	return (struct sip){ key[0] ^ 0x736f6d6570736575u, key[1] ^ 0x646f72616e646f6du, key[0] ^ 0x6c7967656e657261u,
		key[1] ^ 0x7465646279746573u };
}

static uint32_t group_of(const struct sched_prefix *prefix, struct sched_prefix_space space)
{
	return prefix->tenants[space.tenant].group;
}

/* The salt of a space: what its first pages are chained to. */
static uint64_t salt_of(const struct sched_prefix *prefix, struct sched_prefix_space space)
{
	struct sip s = sip_begin(prefix->key);

	sip_word(&s, (uint64_t)group_of(prefix, space) << 32 | (uint64_t)space.model << 16 | (uint64_t)space.k << 8 | space.v);
	return sip_end(&s, 8);
}

static uint64_t hash_of(const struct sched_prefix *prefix, uint64_t before, const uint32_t *tokens)
{
	struct sip s = sip_begin(prefix->key);

	sip_word(&s, before);
	for (uint32_t i = 0; i < KERN_PAGE_TOKENS; i += 2)
		sip_word(&s, tokens[i] | (uint64_t)tokens[i + 1] << 32);
	return sip_end(&s, 8 + sizeof(uint32_t) * KERN_PAGE_TOKENS) & prefix->hash_mask;
}

/* ---- lookups -------------------------------------------------------------------------- */

static bool same_space(const struct sched_prefix *prefix, struct sched_prefix_space a, struct sched_prefix_space b)
{
	return group_of(prefix, a) == group_of(prefix, b) && a.model == b.model && a.k == b.k && a.v == b.v;
}

/* The hash finds it; parent, space and tokens say that it is the one. Below a parent the space is the parent's. */
static uint32_t child_of(const struct sched_prefix *prefix, struct sched_prefix_space space, uint32_t parent, uint64_t hash,
	const uint32_t *tokens)
{
	uint32_t n;

	for (n = *prefix_bucket(prefix, hash); n != SCHED_PREFIX_NONE; n = prefix->nodes[n].next) {
		const struct prefix_node *node = &prefix->nodes[n];

		if (node->hash == hash && node->parent == parent &&
			(parent != SCHED_PREFIX_NONE || same_space(prefix, node->space, space)) &&
			memcmp(prefix_tokens(prefix, n), tokens, sizeof(*tokens) * KERN_PAGE_TOKENS) == 0)
			break;
	}
	return n;
}

struct sched_prefix_found sched_prefix_find(const struct sched_prefix *prefix, struct sched_prefix_space space,
	const uint32_t *tokens, uint32_t pages, bool ahead)
{
	struct sched_prefix_found found = { .node = SCHED_PREFIX_NONE };
	uint32_t node = SCHED_PREFIX_NONE;
	uint64_t hash = salt_of(prefix, space);

	for (uint32_t p = 0; p < pages; p++) {
		hash = hash_of(prefix, hash, tokens + (size_t)p * KERN_PAGE_TOKENS);
		node = child_of(prefix, space, node, hash, tokens + (size_t)p * KERN_PAGE_TOKENS);
		if (node == SCHED_PREFIX_NONE)
			break;
		found.known = p + 1;
		if (!ahead || p == 0 || prefix->nodes[node].ahead) {
			found.node = node;
			found.pages = p + 1;
		}
	}
	return found;
}

/* ---- holders -------------------------------------------------------------------------- */

static void become_idle(struct sched_prefix *prefix, uint32_t n, uint32_t to_end, bool continued)
{
	struct prefix_node *node = &prefix->nodes[n];

	node->left_tick = prefix->rank.tick;
	node->kind = (uint8_t)prefix_kind_of(node->again, to_end, continued);
	prefix->counters.idle_pages++;
	prefix->counters.idle_bytes += node->bytes + node->ahead_bytes;
	if (node->children == 0)
		prefix_leaf_enter(prefix, n);
	if (prefix_in_size(node))
		prefix_size_enter(prefix, n);
}

/* Its holder is counted already. */
static void stop_idling(struct sched_prefix *prefix, uint32_t n)
{
	struct prefix_node *node = &prefix->nodes[n];

	prefix_rank_wanted(&prefix->rank, node->kind, node->left_tick);
	prefix->counters.idle_pages--;
	prefix->counters.idle_bytes -= node->bytes + node->ahead_bytes;
	if (node->leaf_at != SCHED_PREFIX_NONE)
		prefix_leaf_leave(prefix, n);
	if (node->children == 0 || node->parent == SCHED_PREFIX_NONE)
		prefix_size_leave(prefix, n);
	/* A tree that is wanted again stays, as far as it is there. */
	if (node->parent == SCHED_PREFIX_NONE && prefix->felled != SCHED_PREFIX_NONE && prefix->nodes[prefix->felled].root == n)
		prefix->felled = SCHED_PREFIX_NONE;
}

void sched_prefix_hold(struct sched_prefix *prefix, uint32_t node)
{
	for (uint32_t n = node; n != SCHED_PREFIX_NONE; n = prefix->nodes[n].parent) {
		if (prefix->nodes[n].users++ == 0)
			stop_idling(prefix, n);
		prefix->nodes[n].again = true;
		prefix_rank_tick(&prefix->rank, prefix->counters.pages);
	}
}

uint32_t sched_prefix_drop(struct sched_prefix *prefix, uint32_t node, uint32_t keep, bool continued)
{
	const uint32_t end = node == SCHED_PREFIX_NONE ? 0 : prefix->nodes[node].pages;

	while (node != SCHED_PREFIX_NONE && prefix->nodes[node].pages > keep) {
		struct prefix_node *n = &prefix->nodes[node];

		BASE_ASSERT(n->users > 0);
		if (--n->users == 0)
			become_idle(prefix, node, end - n->pages + 1, continued);
		node = n->parent;
	}
	return node;
}

/* ---- new pages ------------------------------------------------------------------------ */

/* The tree has a new page. */
static void grow(struct sched_prefix *prefix, uint32_t n)
{
	struct prefix_node *node = &prefix->nodes[n], *above;

	node->child = node->sibling_next = node->sibling_previous = SCHED_PREFIX_NONE;
	node->root = n;
	if (node->parent != SCHED_PREFIX_NONE) {
		above = &prefix->nodes[node->parent];
		node->root = above->root;
		node->sibling_next = above->child;
		if (above->child != SCHED_PREFIX_NONE)
			prefix->nodes[above->child].sibling_previous = n;
		above->child = n;
		above->children++;
	}
	prefix->nodes[node->root].tree++;
}

uint32_t sched_prefix_add(struct sched_prefix *prefix, struct sched_prefix_space space, uint32_t parent,
	const struct sched_prefix_page *page, bool *is_new)
{
	struct prefix_node *above = parent == SCHED_PREFIX_NONE ? NULL : &prefix->nodes[parent];
	const uint64_t hash = hash_of(prefix, above ? above->hash : salt_of(prefix, space), page->tokens);
	uint32_t n = child_of(prefix, space, parent, hash, page->tokens);
	uint32_t *bucket = prefix_bucket(prefix, hash), size;

	*is_new = false;
	if (n != SCHED_PREFIX_NONE) {
		if (prefix->nodes[n].users++ == 0)
			stop_idling(prefix, n);
		return n;
	}
	n = prefix->free_head;
	if (n == SCHED_PREFIX_NONE || (size = prefix_size_of(prefix, page->bytes)) == PREFIX_SIZES)
		return SCHED_PREFIX_NONE;
	*is_new = true;
	prefix->sizes[size].pages++;
	prefix->free_head = prefix->nodes[n].next;
	prefix->nodes[n] = (struct prefix_node){ .hash = hash,
		.next = *bucket,
		.parent = parent,
		.pages = above ? above->pages + 1 : 1,
		.users = 1,
		.leaf_at = SCHED_PREFIX_NONE,
		.size = (uint16_t)size,
		.space = space,
		.block = page->block,
		.bytes = page->bytes,
		.worth = page->worth };
	*bucket = n;
	memcpy(prefix_tokens(prefix, n), page->tokens, sizeof(*page->tokens) * KERN_PAGE_TOKENS);
	grow(prefix, n);
	prefix->tenants[space.tenant].bytes += page->bytes;
	prefix->counters.bytes += page->bytes;
	prefix->counters.pages++;
	prefix->counters.pages_added++;
	prefix_rank_returned(&prefix->rank, hash);
	prefix_rank_tick(&prefix->rank, prefix->counters.pages);
	return n;
}

void sched_prefix_set_ahead(struct sched_prefix *prefix, uint32_t node, unsigned char *block, uint64_t bytes)
{
	struct prefix_node *n = &prefix->nodes[node];

	BASE_ASSERT(!n->ahead && n->users > 0);
	n->ahead = block;
	n->ahead_bytes = bytes;
	prefix->tenants[n->space.tenant].bytes += bytes;
	prefix->counters.bytes += bytes;
}

/* ---- what is in it -------------------------------------------------------------------- */

unsigned char *sched_prefix_block(const struct sched_prefix *prefix, uint32_t node)
{
	return prefix->nodes[node].block;
}

unsigned char *sched_prefix_ahead(const struct sched_prefix *prefix, uint32_t node)
{
	return prefix->nodes[node].ahead;
}

uint32_t sched_prefix_parent(const struct sched_prefix *prefix, uint32_t node)
{
	return prefix->nodes[node].parent;
}

uint32_t sched_prefix_pages(const struct sched_prefix *prefix, uint32_t node)
{
	return node == SCHED_PREFIX_NONE ? 0 : prefix->nodes[node].pages;
}

void sched_prefix_asked(struct sched_prefix *prefix, uint32_t pages_found)
{
	prefix->counters.lookups++;
	prefix->counters.hits += pages_found > 0;
	prefix->counters.pages_found += pages_found;
}

const struct sched_prefix_counters *sched_prefix_counters(const struct sched_prefix *prefix)
{
	return &prefix->counters;
}

uint64_t sched_prefix_tenant_bytes(const struct sched_prefix *prefix, uint32_t tenant)
{
	return prefix->tenants[tenant].bytes;
}
