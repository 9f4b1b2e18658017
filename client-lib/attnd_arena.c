/*
 * The loan allocator of a client's arena; the algorithm is named in attnd_client.h. Client's
 * thread; never a system call after create, except page faults of its table.
 *
 *   blocks[i], where a block begins at granule i:   blocks[granules] is a sentinel, always in use
 *   +-------------------+----------------------+
 *   | size and state    | block before this    |   physical neighbours: merging
 *   | next free of list | previous free        |   free blocks only
 *   +-------------------+----------------------+
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "base/base_error.h"
#include "client-lib/attnd_client.h"

/* state is zero where no block begins, which is how a return of anything else is found out. */
enum block_state { BLOCK_NONE = 0, BLOCK_FREE = 1, BLOCK_USED = 2 };

struct client_arena_block {
	uint32_t granules : 30;
	uint32_t state : 2;
	uint32_t before; /* the block that ends here; NONE for the first */
	uint32_t next, previous;
};

enum { GRANULE_SHIFT_MIN = 6, FIT_TRIES = 16 };
#define NONE UINT32_MAX

/* ---- size classes ---------------------------------------------------------------------------- */

static unsigned log2_floor(uint32_t value)
{
	return 31u - (unsigned)__builtin_clz(value);
}

/* Level 0 holds sizes below ARENA_CLASSES one by one; each further level a power of two in
 * ARENA_CLASSES parts. */
static void class_of(uint32_t granules, unsigned *level, unsigned *class)
{
	if (granules < ARENA_CLASSES) {
		*level = 0;
		*class = granules;
		return;
	}
	*level = log2_floor(granules) - ARENA_CLASS_BITS + 1;
	*class = (granules >> (*level - 1)) - ARENA_CLASSES;
}

static void list_add(struct client_arena *arena, uint32_t first)
{
	struct client_arena_block *block = &arena->blocks[first];
	unsigned level, class;

	class_of(block->granules, &level, &class);
	block->previous = NONE;
	block->next = arena->heads[level][class];
	if (block->next != NONE)
		arena->blocks[block->next].previous = first;
	arena->heads[level][class] = first;
	arena->classes[level] |= 1u << class;
	arena->levels |= 1u << level;
}

static void list_remove(struct client_arena *arena, uint32_t first)
{
	struct client_arena_block *block = &arena->blocks[first];
	unsigned level, class;

	class_of(block->granules, &level, &class);
	if (block->next != NONE)
		arena->blocks[block->next].previous = block->previous;
	if (block->previous != NONE) {
		arena->blocks[block->previous].next = block->next;
		return;
	}
	arena->heads[level][class] = block->next;
	if (block->next != NONE)
		return;
	arena->classes[level] &= ~(1u << class);
	if (!arena->classes[level])
		arena->levels &= ~(1u << level);
}

/* A free block of at least this size. Every block of a class above the rounded-up one fits; only
 * when there is none, the size's own class is searched, and not far. */
static uint32_t find_free(const struct client_arena *arena, uint32_t granules)
{
	uint32_t rounded = granules, bits, first;
	unsigned level, class;

	if (granules >= ARENA_CLASSES)
		rounded += (1u << (log2_floor(granules) - ARENA_CLASS_BITS)) - 1;
	class_of(rounded, &level, &class);
	bits = level < ARENA_LEVELS ? arena->classes[level] & (UINT32_MAX << class) : 0;
	if (!bits && level + 1 < ARENA_LEVELS) {
		bits = arena->levels & (UINT32_MAX << (level + 1));
		level = bits ? (unsigned)__builtin_ctz(bits) : level;
		bits = bits ? arena->classes[level] : 0;
	}
	if (bits)
		return arena->heads[level][__builtin_ctz(bits)];
	class_of(granules, &level, &class);
	first = arena->heads[level][class];
	for (unsigned i = 0; first != NONE && i < FIT_TRIES; i++, first = arena->blocks[first].next)
		if (arena->blocks[first].granules >= granules)
			return first;
	return NONE;
}

/* ---- blocks ---------------------------------------------------------------------------------- */

static void block_set(struct client_arena *arena, uint32_t first, uint32_t granules, unsigned state, uint32_t before)
{
	struct client_arena_block *block = &arena->blocks[first];

	block->granules = granules & 0x3fffffffu;
	block->state = state & 3u;
	block->before = before;
	arena->blocks[first + granules].before = first;
}

int client_arena_create(struct client_arena *arena, void *memory, uint64_t bytes)
{
	void *table;

	*arena = (struct client_arena){ .memory = memory, .bytes = bytes, .granule_shift = GRANULE_SHIFT_MIN };
	/* One less than 2^24, so that the largest block still has a level of its own. */
	while (bytes >> arena->granule_shift >= 1u << ARENA_GRANULES_BITS)
		arena->granule_shift++;
	arena->granules = (uint32_t)(bytes >> arena->granule_shift);
	memset(arena->heads, 0xff, sizeof(arena->heads));
	table = mmap(NULL, (arena->granules + 1) * sizeof(*arena->blocks), PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (table == MAP_FAILED)
		return base_fail(ENOMEM, "no memory for the bookkeeping of an arena of %llu bytes",
			(unsigned long long)bytes);
	arena->blocks = table;
	arena->blocks[arena->granules].state = BLOCK_USED;
	block_set(arena, 0, arena->granules, BLOCK_FREE, NONE);
	arena->free_granules = arena->granules;
	list_add(arena, 0);
	return 0;
}

void client_arena_destroy(struct client_arena *arena)
{
	if (arena->blocks)
		munmap(arena->blocks, (arena->granules + 1) * sizeof(*arena->blocks));
	*arena = (struct client_arena){ 0 };
}

void *client_arena_take(struct client_arena *arena, size_t bytes)
{
	uint64_t wanted = bytes ? ((uint64_t)(bytes - 1) >> arena->granule_shift) + 1 : 1;
	uint32_t first, granules, rest;

	if (!arena->blocks || wanted > arena->free_granules)
		return NULL;
	granules = (uint32_t)wanted;
	first = find_free(arena, granules);
	if (first == NONE)
		return NULL;
	list_remove(arena, first);
	rest = arena->blocks[first].granules - granules;
	block_set(arena, first, granules, BLOCK_USED, arena->blocks[first].before);
	if (rest) {
		block_set(arena, first + granules, rest, BLOCK_FREE, first);
		list_add(arena, first + granules);
	}
	arena->free_granules -= granules;
	return arena->memory + ((uint64_t)first << arena->granule_shift);
}

int client_arena_give(struct client_arena *arena, void *loan)
{
	uint64_t offset = (uint64_t)((uintptr_t)loan - (uintptr_t)arena->memory);
	uint32_t first, granules, before, after;

	if (!arena->blocks || offset >= arena->bytes || offset & ((UINT64_C(1) << arena->granule_shift) - 1) ||
		offset >> arena->granule_shift >= arena->granules ||
		arena->blocks[offset >> arena->granule_shift].state != BLOCK_USED)
		return base_fail(EINVAL, "returning what is not a loan of this arena (returned twice?)");
	first = (uint32_t)(offset >> arena->granule_shift);
	granules = arena->blocks[first].granules;
	before = arena->blocks[first].before;
	after = first + granules;
	arena->free_granules += granules;
	if (arena->blocks[after].state == BLOCK_FREE) {
		list_remove(arena, after);
		granules += arena->blocks[after].granules;
		arena->blocks[after].state = BLOCK_NONE;
	}
	if (before != NONE && arena->blocks[before].state == BLOCK_FREE) {
		list_remove(arena, before);
		granules += arena->blocks[before].granules;
		arena->blocks[first].state = BLOCK_NONE;
		first = before;
	}
	block_set(arena, first, granules, BLOCK_FREE, arena->blocks[first].before);
	list_add(arena, first);
	return 0;
}

/* ---- check ----------------------------------------------------------------------------------- */

static bool is_listed(const struct client_arena *arena, uint32_t first)
{
	unsigned level, class;
	uint32_t i;

	class_of(arena->blocks[first].granules, &level, &class);
	if (!(arena->levels >> level & 1) || !(arena->classes[level] >> class & 1))
		return false;
	for (i = arena->heads[level][class]; i != NONE && i != first; i = arena->blocks[i].next)
		;
	return i == first;
}

int client_arena_check(const struct client_arena *arena)
{
	uint32_t before = NONE, free_granules = 0, i;

	for (i = 0; i < arena->granules; i += arena->blocks[i].granules) {
		const struct client_arena_block *block = &arena->blocks[i];

		if (block->state == BLOCK_NONE || block->granules == 0 || block->before != before)
			return base_fail(EINVAL, "block %u is broken", i);
		if (block->state == BLOCK_FREE) {
			free_granules += block->granules;
			if (before != NONE && arena->blocks[before].state == BLOCK_FREE)
				return base_fail(EINVAL, "blocks %u and %u are free neighbours", before, i);
			if (!is_listed(arena, i))
				return base_fail(EINVAL, "free block %u is in no list", i);
		}
		before = i;
	}
	if (i != arena->granules || arena->blocks[i].before != before)
		return base_fail(EINVAL, "the blocks end at %u of %u", i, arena->granules);
	if (free_granules != arena->free_granules)
		return base_fail(EINVAL, "%u granules are free, %u counted", free_granules, arena->free_granules);
	return 0;
}

/* ---- public ---------------------------------------------------------------------------------- */

void *attnd_loan(struct attnd_client *client, size_t bytes)
{
	return client_arena_take(&client->arena, bytes);
}

void attnd_return(struct attnd_client *client, void *loan)
{
	if (loan)
		(void)client_arena_give(&client->arena, loan);
}

size_t attnd_arena_free_bytes(const struct attnd_client *client)
{
	return (size_t)client->arena.free_granules << client->arena.granule_shift;
}

uint32_t attnd_offset(const struct attnd_client *client, const void *memory)
{
	const uintptr_t offset = (uintptr_t)memory - (uintptr_t)client->arena_memory;

	if (offset % ATTND_UNIT_BYTES != 0 || offset / ATTND_UNIT_BYTES > UINT32_MAX)
		return UINT32_MAX;
	return (uint32_t)(offset / ATTND_UNIT_BYTES);
}
