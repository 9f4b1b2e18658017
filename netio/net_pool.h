/*
 * Blocks for payloads: a power of two each, from 1 KiB up, out of one region taken at creation (the buddy system; Knowlton 1965, Knuth
 * TAOCP 1, 2.5). What is free and how blocks lie is kept beside the region, since others write into it.
 *
 * Pure; one thread. Taking and giving take at most as many steps as there are sizes.
 */
#ifndef NET_POOL_H
#define NET_POOL_H

#include "netio/net_inbox.h"

enum { NET_POOL_LEAST_BYTES = 1024 };

struct net_pool;

/* bytes: rounded up to a power of two, at least 1 KiB and at most 1 TiB. node: of the memory; < 0: any. -EINVAL, -ENOMEM with a message. */
int net_pool_create(struct net_pool **pool, uint64_t bytes, int node);
void net_pool_destroy(struct net_pool *pool);

/* Aligned to its size, up to a page. NULL: no block so large is free. bytes > 0. Contents undefined. */
void *net_pool_take(struct net_pool *pool, uint32_t bytes);
void net_pool_give(struct net_pool *pool, void *block);
/* What the block really has. */
uint64_t net_pool_block_bytes(const struct net_pool *pool, const void *block);
/* Gives back what is behind the first `bytes` of a block, as far as it is blocks. bytes > 0. */
void net_pool_shrink(struct net_pool *pool, void *block, uint32_t bytes);
/* As take and give, for inboxes and outboxes. */
struct net_blocks net_pool_blocks(struct net_pool *pool);

uint64_t net_pool_bytes(const struct net_pool *pool);
uint64_t net_pool_free_bytes(const struct net_pool *pool);
/* Checks every invariant, for tests. 0, or -EINVAL with a message. */
int net_pool_check(const struct net_pool *pool);

#endif
