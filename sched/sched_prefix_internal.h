/*
 * The prefix cache's books; private to sched_prefix.c, sched_prefix_evict.c and sched_prefix_setup.c.
 *
 * Nodes are numbers into arrays of fixed size. A node is in one bucket of the hash table, or in the list of free ones. Idle nodes
 * without children, which may be evicted, stand in a heap, the one left longest ago on top, and in a list of their tenant's. These,
 * and first pages that nobody holds, whose trees may be evicted as a whole, are in a list of their size's, too.
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
	uint32_t child; /* one of them; NONE: none */
	uint32_t sibling_next, sibling_previous;
	uint32_t root;  /* the first page of the chain, itself perhaps */
	uint32_t tree;  /* of a first page: pages behind it, and itself */
	uint32_t leaf_at; /* in the heap; NONE: may not be evicted */
	uint32_t list_next, list_previous; /* of its tenant's leaves; it is in them while it is in the heap */
	uint32_t size_next, size_previous; /* of its size's, the longest there first */
	uint16_t size;
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

/* Pages whose blocks have one size. */
struct prefix_size {
	uint64_t bytes;
	uint32_t pages; /* 0: the place is free */
	uint32_t head, tail;
};

enum { PREFIX_SIZES = 256 };

struct sched_prefix {
	struct prefix_node *nodes;
	uint32_t *tokens; /* [pages_max][KERN_PAGE_TOKENS] */
	uint32_t *buckets;
	uint64_t bucket_mask, hash_mask; /* hash_mask: of what is kept of a hash */
	uint64_t key[2];
	struct prefix_leaf *leaves;
	uint32_t leaf_count, free_head;
	uint64_t draws; /* of candidates */
	uint32_t felled; /* a page of the tree that is being evicted for its first page; NONE: none */
	uint32_t size_end; /* sizes beyond were never used */
	struct prefix_size sizes[PREFIX_SIZES];
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
/* Nobody holds the node any more; it is held again, or taken out. */
void prefix_size_enter(struct sched_prefix *prefix, uint32_t node);
void prefix_size_leave(struct sched_prefix *prefix, uint32_t node);
/* The place of a size, made where there is none; PREFIX_SIZES: there are too many. */
uint32_t prefix_size_of(struct sched_prefix *prefix, uint64_t bytes);

static inline uint32_t *prefix_tokens(const struct sched_prefix *prefix, uint32_t node)
{
	return prefix->tokens + (uint64_t)node * KERN_PAGE_TOKENS;
}

/* While it is idle: it may be evicted, or all of its tree. */
static inline bool prefix_in_size(const struct prefix_node *node)
{
	return node->users == 0 && (node->children == 0 || node->parent == SCHED_PREFIX_NONE);
}

static inline uint32_t *prefix_bucket(const struct sched_prefix *prefix, uint64_t hash)
{
	return &prefix->buckets[hash & prefix->bucket_mask];
}

#endif
