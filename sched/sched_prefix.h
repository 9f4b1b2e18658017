/*
 * The prefix cache: which full pages of tokens are in KV blocks already, whoever computed them.
 *
 * A tree whose nodes are pages of 64 tokens, each below the page that came before it, found by a hash that is chained from page to
 * page and keyed with a secret. What a hash finds is compared token by token: a collision costs a comparison, never a wrong
 * page. Pages belong to a *space* (who may see them, model, KV formats); each space has a hash of its own to start from, and the
 * first page of a chain names its space, so that no lookup in one space ever meets a page of another.
 *
 *   not there -> add -> held by sessions <-> idle (cached) -> evicted, when its block is wanted
 *
 * Only idle pages without children are evicted, so whatever is there can be reached. Which of them: by how likely they are
 * wanted again soon, learned from what becomes of pages like it (sched_prefix_rank.h); but first those of tenants that have more
 * than their share, so that a flood of one cannot take what another has within his. Blocks of one size do not stand in for
 * those of another, and first pages have a size of their own, so who wants a block says of which size: for that of a first
 * page a whole tree goes, from its ends.
 *
 * Knows no session, no pool and no clock; blocks are addresses that it keeps for the caller. The scheduler's thread; nothing is
 * allocated after create; a lookup is O(pages of the prompt), an eviction O(1), but for the way into the tree that it begins on.
 */
#ifndef SCHED_PREFIX_H
#define SCHED_PREFIX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/kern_kv.h"

#define SCHED_PREFIX_NONE UINT32_MAX

enum { SCHED_PREFIX_PAGES_MAX = 1 << 18, SCHED_PREFIX_TENANTS_MAX = 64 };

struct sched_prefix;

/* A tenant's weight decides its share of share_bytes. Tenants of one group, which is a number below tenant_count, see each
 * other's pages. */
struct sched_prefix_tenant {
	uint32_t weight, group;
};

struct sched_prefix_options {
	uint32_t pages_max; /* <= SCHED_PREFIX_PAGES_MAX */
	uint64_t share_bytes;
	const struct sched_prefix_tenant *tenants;
	uint32_t tenant_count;
	uint64_t key[2];  /* secret, and drawn anew at every start */
	bool least_recent; /* evict what was used least recently, of anybody: to be compared with */
};

/* -EINVAL, -ENOMEM with a message. */
int sched_prefix_create(struct sched_prefix **prefix, const struct sched_prefix_options *options);
void sched_prefix_destroy(struct sched_prefix *prefix);

/* Whose pages, of what. */
struct sched_prefix_space {
	uint32_t tenant; /* stands for its group */
	uint16_t model;
	uint8_t k, v; /* enum kern_kv */
};

struct sched_prefix_found {
	uint32_t node, pages; /* the deepest page at which a session may go on: SCHED_PREFIX_NONE, 0: none */
	uint32_t known;       /* pages that are there */
};
/* The longest chain of these pages. With `ahead` only pages that have a block ahead end it, or the first one. Changes nothing. */
struct sched_prefix_found sched_prefix_find(const struct sched_prefix *prefix, struct sched_prefix_space space,
	const uint32_t *tokens, uint32_t pages, bool ahead);

/* One more session holds the node and all before it. */
void sched_prefix_hold(struct sched_prefix *prefix, uint32_t node);

/* The page behind `parent` (NONE: the first one). The caller holds parent; he holds the returned node too, which is new and has
 * his block and its reference, or was there with a block of its own, of which he then takes a reference. NONE: no room. */
struct sched_prefix_page {
	const uint32_t *tokens; /* [KERN_PAGE_TOKENS] */
	unsigned char *block;
	uint64_t bytes; /* of the block */
	double worth;   /* what computing the page again costs, by byte */
};
uint32_t sched_prefix_add(struct sched_prefix *prefix, struct sched_prefix_space space, uint32_t parent,
	const struct sched_prefix_page *page, bool *is_new);

/* The holder of `node` goes back to its first `keep` pages; returns the last of these. continued: most of its first prompt was
 * found here. */
uint32_t sched_prefix_drop(struct sched_prefix *prefix, uint32_t node, uint32_t keep, bool continued);

/* Takes the least useful idle page out: of any size for 0 bytes; else one with a block of this size, or the end of a tree that begins
 * with one, and in calls that follow what is left of that tree, until its first page goes. The references of its blocks are the
 * caller's then. False: there is none. */
struct sched_prefix_evicted {
	unsigned char *block, *ahead; /* ahead: NULL if it has none */
};
bool sched_prefix_evict(struct sched_prefix *prefix, uint64_t bytes, struct sched_prefix_evicted *evicted);

/* The same of this page, if nobody holds it and nothing is behind it: it is of no use any more. */
bool sched_prefix_forget(struct sched_prefix *prefix, uint32_t node, struct sched_prefix_evicted *evicted);

unsigned char *sched_prefix_block(const struct sched_prefix *prefix, uint32_t node);
uint32_t sched_prefix_parent(const struct sched_prefix *prefix, uint32_t node);
uint32_t sched_prefix_pages(const struct sched_prefix *prefix, uint32_t node); /* of the chain that it ends */
/* A block that a session needs besides the chain to go on behind node; set once. */
unsigned char *sched_prefix_ahead(const struct sched_prefix *prefix, uint32_t node);
void sched_prefix_set_ahead(struct sched_prefix *prefix, uint32_t node, unsigned char *block, uint64_t bytes);

struct sched_prefix_counters {
	uint64_t lookups, hits;           /* of sessions; hits: that found something */
	uint64_t pages_found, pages_added, pages_evicted, pages_forgotten;
	uint64_t bytes, idle_bytes;       /* now; idle: held by nobody, the blocks ahead of idle pages too */
	uint32_t pages, idle_pages;
};
const struct sched_prefix_counters *sched_prefix_counters(const struct sched_prefix *prefix);
/* A session has asked: for the counters. */
void sched_prefix_asked(struct sched_prefix *prefix, uint32_t pages_found);
/* Bytes of pages that the tenant added, and whether they are more than its share. */
uint64_t sched_prefix_tenant_bytes(const struct sched_prefix *prefix, uint32_t tenant);
bool sched_prefix_over_share(const struct sched_prefix *prefix, uint32_t tenant);

/* ---- for checks: cold ------------------------------------------------------------------ */

/* Visits all pages. */
struct sched_prefix_view {
	uint32_t node, users;
	unsigned char *block, *ahead;
};
uint32_t sched_prefix_limit(const struct sched_prefix *prefix); /* above every node's number */
uint32_t sched_prefix_next(const struct sched_prefix *prefix, uint32_t from, struct sched_prefix_view *view);
/* 0, or -EINVAL with a message that says what broke. */
int sched_prefix_check(const struct sched_prefix *prefix);
/* As if every page had the same hash. Before the first page, for tests. */
void sched_prefix_collide(struct sched_prefix *prefix);

#endif
