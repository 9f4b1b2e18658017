/*
 * The prefix cache's books; private to sched_prefix.c, sched_prefix_evict.c and sched_prefix_setup.c.
 *
 * Nodes are numbers into arrays of fixed size. A node is in one bucket of the hash table, or in the list of free ones. Idle nodes
 * without children, which may be evicted, stand in a heap, the one left longest ago on top, and in a list of their tenant's.
 */
#ifndef SCHED_PREFIX_INTERNAL_H
#define SCHED_PREFIX_INTERNAL_H

#include "sched/sched_prefix.h"
#include "sched/sched_prefix_rank.h"

struct prefix_node {
	uint64_t hash;
	uint32_t next;   /* in its bucket, or in the free list */
	uint32_t parent; /* NONE: a first page */
	uint32_t pages;  /* in the chain that it ends; 0: the node is free */
	uint32_t users, children;
	uint32_t leaf_at; /* in the heap; NONE: may not be evicted */
	uint32_t list_next, list_previous; /* of its tenant's leaves; it is in them while it is in the heap */
	struct sched_prefix_space space;   /* as it was added; the tenant is who added it */
	uint8_t kind; /* while nobody holds it */
	bool again;   /* it was wanted again */
	uint64_t left_tick;
	unsigned char *block, *ahead;
	uint64_t bytes, ahead_bytes;
	double worth;
};

struct prefix_leaf {
	uint64_t left_tick;
	uint32_t node;
};

struct prefix_tenant {
	uint32_t weight, group;
	uint32_t leaves, leaf_head; /* those that may be evicted */
	uint64_t bytes;
};

struct sched_prefix {
	struct prefix_node *nodes;
	uint32_t *tokens; /* [pages_max][KERN_PAGE_TOKENS] */
	uint32_t *buckets;
	uint64_t bucket_mask, hash_mask; /* hash_mask: of what is kept of a hash */
	uint64_t key[2];
	struct prefix_leaf *leaves;
	uint32_t leaf_count, free_head;
	uint64_t draws; /* of candidates */
	struct prefix_rank rank;
	struct prefix_tenant tenants[SCHED_PREFIX_TENANTS_MAX];
	struct sched_prefix_counters counters;
	/* below here is constant */
	uint64_t share_bytes, weight_sum;
	uint32_t pages_max, tenant_count;
	bool least_recent;
	struct prefix_ghost *ghosts;
};

/* The node may be evicted from now on, or no longer. */
void prefix_leaf_enter(struct sched_prefix *prefix, uint32_t node);
void prefix_leaf_leave(struct sched_prefix *prefix, uint32_t node);

static inline uint32_t *prefix_tokens(const struct sched_prefix *prefix, uint32_t node)
{
	return prefix->tokens + (uint64_t)node * KERN_PAGE_TOKENS;
}

static inline uint32_t *prefix_bucket(const struct sched_prefix *prefix, uint64_t hash)
{
	return &prefix->buckets[hash & prefix->bucket_mask];
}

#endif
