/*
 * The buddy system. See net_pool.h.
 *
 * Units of 1 KiB have numbers. A block of order o is 2^o units, and begins at a multiple of that; its buddy is the other half of the block
 * that both were cut from.
 */
#include "netio/net_pool.h"

#include <errno.h>
#include <stdlib.h>

#include "base/base_arena.h"
#include "base/base_error.h"

enum { UNIT_SHIFT = 10, ORDERS = 31 };
#define NONE UINT32_MAX
#define BYTES_MAX (UINT64_C(1) << (ORDERS - 1 + UNIT_SHIFT))
enum { IS_INSIDE = 0, IS_FREE = 1, IS_TAKEN = 2 };

struct unit {
	uint32_t next, before; /* where a free block begins: others of its order */
	uint8_t state, order;  /* where a block begins */
};

struct net_pool {
	struct base_region region;
	unsigned char *memory;
	struct unit *units; /* [1 << top] */
	uint32_t top;       /* the order of the whole */
	uint64_t free_units;
	uint32_t lists[ORDERS + 1]; /* of free blocks, by order */
};

_Static_assert(NET_POOL_LEAST_BYTES == 1 << UNIT_SHIFT, "a unit is the least block");

/* ---- lists ------------------------------------------------------------------------------------------------ */

static void list_add(struct net_pool *pool, uint32_t at, uint32_t order)
{
	struct unit *unit = &pool->units[at];

	*unit = (struct unit){ .next = pool->lists[order], .before = NONE, .state = IS_FREE, .order = (uint8_t)order };
	if (unit->next != NONE)
		pool->units[unit->next].before = at;
	pool->lists[order] = at;
}

static void list_remove(struct net_pool *pool, uint32_t at)
{
	struct unit *unit = &pool->units[at];

	if (unit->before == NONE)
		pool->lists[unit->order] = unit->next;
	else
		pool->units[unit->before].next = unit->next;
	if (unit->next != NONE)
		pool->units[unit->next].before = unit->before;
	unit->state = IS_INSIDE;
}

/* ---- take, give ------------------------------------------------------------------------------------------- */

static uint32_t order_of(uint64_t bytes)
{
	const uint64_t units = (bytes + NET_POOL_LEAST_BYTES - 1) >> UNIT_SHIFT;

	return units <= 1 ? 0 : 64 - (uint32_t)__builtin_clzll(units - 1);
}

void *net_pool_take(struct net_pool *pool, uint32_t bytes)
{
	const uint32_t wanted = order_of(bytes);
	uint32_t order = wanted, at;

	while (order <= pool->top && pool->lists[order] == NONE)
		order++;
	if (order > pool->top)
		return NULL;
	at = pool->lists[order];
	list_remove(pool, at);
	/* The upper halves of what is too large stay free. */
	while (order > wanted) {
		order--;
		list_add(pool, at + (1U << order), order);
	}
	pool->units[at].state = IS_TAKEN;
	pool->units[at].order = (uint8_t)wanted;
	pool->free_units -= 1U << wanted;
	return pool->memory + ((uint64_t)at << UNIT_SHIFT);
}

static uint32_t unit_of(const struct net_pool *pool, const void *block)
{
	return (uint32_t)((uint64_t)((const unsigned char *)block - pool->memory) >> UNIT_SHIFT);
}

uint64_t net_pool_block_bytes(const struct net_pool *pool, const void *block)
{
	return UINT64_C(1) << (pool->units[unit_of(pool, block)].order + UNIT_SHIFT);
}

void net_pool_shrink(struct net_pool *pool, void *block, uint32_t bytes)
{
	struct unit *unit = &pool->units[unit_of(pool, block)];

	while (unit->order > order_of(bytes)) {
		unit->order--;
		list_add(pool, unit_of(pool, block) + (1U << unit->order), unit->order);
		pool->free_units += 1U << unit->order;
	}
}

void net_pool_give(struct net_pool *pool, void *block)
{
	uint32_t at = unit_of(pool, block);
	uint32_t order = pool->units[at].order;

	pool->free_units += 1U << order;
	pool->units[at].state = IS_INSIDE;
	while (order < pool->top) {
		const uint32_t buddy = at ^ 1U << order;

		if (pool->units[buddy].state != IS_FREE || pool->units[buddy].order != order)
			break;
		list_remove(pool, buddy);
		at &= ~(1U << order++);
	}
	list_add(pool, at, order);
}

static void *blocks_take(void *context, uint32_t bytes)
{
	return net_pool_take(context, bytes);
}

static void blocks_give(void *context, void *block)
{
	net_pool_give(context, block);
}

struct net_blocks net_pool_blocks(struct net_pool *pool)
{
	return (struct net_blocks){ .context = pool, .take = blocks_take, .give = blocks_give };
}

/* ---- the whole of it -------------------------------------------------------------------------------------- */

uint64_t net_pool_bytes(const struct net_pool *pool)
{
	return (uint64_t)1 << (pool->top + UNIT_SHIFT);
}

uint64_t net_pool_free_bytes(const struct net_pool *pool)
{
	return pool->free_units << UNIT_SHIFT;
}

int net_pool_check(const struct net_pool *pool)
{
	uint64_t free_units = 0, listed = 0;

	for (uint32_t at = 0; at < 1U << pool->top;) {
		const struct unit *unit = &pool->units[at];

		if (unit->state == IS_INSIDE || unit->order > pool->top || at % (1U << unit->order))
			return base_fail(EINVAL, "pool: no block begins at unit %u", at);
		if (unit->state == IS_FREE) {
			const struct unit *buddy = &pool->units[at ^ 1U << unit->order];

			free_units += 1U << unit->order;
			if (unit->order < pool->top && buddy->state == IS_FREE && buddy->order == unit->order)
				return base_fail(EINVAL, "pool: the free buddies at unit %u are not one block", at);
		}
		at += 1U << unit->order;
	}
	for (uint32_t order = 0; order <= pool->top; order++)
		for (uint32_t at = pool->lists[order]; at != NONE; at = pool->units[at].next) {
			if (pool->units[at].state != IS_FREE || pool->units[at].order != order)
				return base_fail(EINVAL, "pool: unit %u is in the list of order %u, and is no such free block", at, order);
			listed += 1U << order;
		}
	return free_units == pool->free_units && listed == free_units ? 0 :
		base_fail(EINVAL, "pool: %llu units are free, %llu listed, %llu counted", (unsigned long long)free_units,
			(unsigned long long)listed, (unsigned long long)pool->free_units);
}

int net_pool_create(struct net_pool **pool_out, uint64_t bytes, int node)
{
	const uint32_t top = order_of(bytes);
	struct net_pool *pool;
	int rc;

	if (bytes == 0 || bytes > BYTES_MAX)
		return base_fail(EINVAL, "pool: %llu bytes are not between 1 and 2^40", (unsigned long long)bytes);
	pool = calloc(1, sizeof(*pool));
	if (!pool)
		return base_fail(ENOMEM, "pool: out of memory");
	pool->top = top;
	pool->units = calloc((size_t)1 << top, sizeof(*pool->units));
	rc = pool->units ? base_region_create(&pool->region, (size_t)net_pool_bytes(pool), node, false) :
		base_fail(ENOMEM, "pool: out of memory for %llu blocks", 1ULL << top);
	if (rc) {
		free(pool->units);
		free(pool);
		return rc;
	}
	pool->memory = pool->region.memory;
	for (uint32_t order = 0; order <= ORDERS; order++)
		pool->lists[order] = NONE;
	list_add(pool, 0, top);
	pool->free_units = (uint64_t)1 << top;
	*pool_out = pool;
	return 0;
}

void net_pool_destroy(struct net_pool *pool)
{
	if (!pool)
		return;
	base_region_destroy(&pool->region);
	free(pool->units);
	free(pool);
}
