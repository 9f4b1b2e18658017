/*
 * Memory taken once, at start: page-aligned regions on a chosen NUMA node (huge pages where there are any,
 * ordinary ones otherwise), and a bump allocator over a region.
 *
 * Any thread may create one; afterwards it belongs to its creator.
 */
#ifndef BASE_ARENA_H
#define BASE_ARENA_H

#include <stdbool.h>
#include <stddef.h>

struct base_region {
	void *memory;      /* zeroed, page aligned */
	size_t size_bytes; /* rounded up to the page size in use */
	bool huge;         /* on huge pages */
};

/* node < 0: anywhere. prefault: touch every page now, so that no request pays for a page fault.
 * -ENOMEM with a message. */
int base_region_create(struct base_region *region, size_t size_bytes, int node, bool prefault);
void base_region_destroy(struct base_region *region);

struct base_arena {
	unsigned char *memory;
	size_t size_bytes;
	size_t used_bytes;
};

void base_arena_init(struct base_arena *arena, void *memory, size_t size_bytes);
/* align is a power of two. NULL when the arena is full. Memory is not zeroed by this call. */
void *base_arena_take(struct base_arena *arena, size_t size_bytes, size_t align);

#endif
