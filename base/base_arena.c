/*
 * Regions and the bump allocator. Cold: regions are made at start, at attach and when a model is loaded.
 *
 * A region prefers its node and is never bound to it strictly: where a node has run out of memory, or of huge
 * pages, a strict binding turns into SIGBUS at the first touch, a preference into memory that is farther away
 * (base_topo_pages shows where it went).
 */
#include "base/base_arena.h"

#include "base/base_assert.h"
#include "base/base_error.h"

#include <linux/mempolicy.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { HUGE_PAGE_BYTES = 2 << 20, NODES_MAX = 1024 };

/* Linux 5.14; older headers lack it, and older kernels answer EINVAL. */
enum { POPULATE_WRITE = 23 };

/* MAP_HUGE_2MB, which Linux defines as the page size's logarithm above bit 26. */
enum { HUGE_2MB_FLAG = 21 << 26 };

/* Takes the first error as "anywhere is fine": a kernel without NUMA has one node anyway. */
static void prefer_node(void *memory, size_t size_bytes, int node)
{
	unsigned long mask[NODES_MAX / (8 * sizeof(unsigned long))] = {0};
	const int bits = 8 * (int)sizeof(unsigned long);

	if (node < 0 || node >= NODES_MAX)
		return;
	mask[node / bits] = 1ul << (node % bits);
	(void)syscall(SYS_mbind, memory, size_bytes, MPOL_PREFERRED, mask, (unsigned long)NODES_MAX, 0u);
}

/* Touches every page for writing. 0 or -errno, without a message. */
static int populate(void *memory, size_t size_bytes, size_t page_bytes)
{
	volatile unsigned char *bytes = memory;

	if (madvise(memory, size_bytes, POPULATE_WRITE) == 0)
		return 0;
	if (errno != EINVAL)
		return -errno;
	for (size_t at = 0; at < size_bytes; at += page_bytes)
		bytes[at] = 0;
	return 0;
}

/* Huge pages are always populated here: the kernel promises them at mmap, but a control group or a node's
 * empty pool may break the promise, and madvise says so with an error where a touch would say SIGBUS. */
static int create_huge(struct base_region *region, size_t size_bytes, int node)
{
	void *memory = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | HUGE_2MB_FLAG, -1, 0);

	if (memory == MAP_FAILED)
		return -errno;
	prefer_node(memory, size_bytes, node);
	if (madvise(memory, size_bytes, POPULATE_WRITE) != 0) {
		int err = errno;

		munmap(memory, size_bytes);
		return -err;
	}
	*region = (struct base_region){.memory = memory, .size_bytes = size_bytes, .huge = true};
	return 0;
}

static int create_ordinary(struct base_region *region, size_t size_bytes, size_t page_bytes, int node,
	bool prefault)
{
	int err;
	void *memory = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		return -errno;
	prefer_node(memory, size_bytes, node);
	/* Transparent huge pages are a gift where the kernel gives them. */
	if (size_bytes >= HUGE_PAGE_BYTES)
		(void)madvise(memory, size_bytes, MADV_HUGEPAGE);
	err = prefault ? populate(memory, size_bytes, page_bytes) : 0;
	if (err != 0) {
		munmap(memory, size_bytes);
		return err;
	}
	*region = (struct base_region){.memory = memory, .size_bytes = size_bytes};
	return 0;
}

static size_t round_up(size_t size_bytes, size_t unit_bytes)
{
	return (size_bytes + unit_bytes - 1) & ~(unit_bytes - 1);
}

int base_region_create(struct base_region *region, size_t size_bytes, int node, bool prefault)
{
	size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE);
	int err;

	*region = (struct base_region){0};
	if (size_bytes == 0)
		return base_fail(EINVAL, "a region of 0 bytes was asked for");
	if (size_bytes > SIZE_MAX / 2)
		return base_fail(ENOMEM, "a region of %zu bytes is more than any machine has", size_bytes);
	if (size_bytes >= HUGE_PAGE_BYTES &&
		create_huge(region, round_up(size_bytes, HUGE_PAGE_BYTES), node) == 0)
		return 0;
	err = create_ordinary(region, round_up(size_bytes, page_bytes), page_bytes, node, prefault);
	if (err != 0)
		return base_fail(ENOMEM, "no memory for a region of %zu bytes (errno %d): configure less, or "
			"give the process more", size_bytes, -err);
	return 0;
}

void base_region_destroy(struct base_region *region)
{
	if (region->memory)
		munmap(region->memory, region->size_bytes);
	*region = (struct base_region){0};
}

void base_arena_init(struct base_arena *arena, void *memory, size_t size_bytes)
{
	*arena = (struct base_arena){.memory = memory, .size_bytes = size_bytes};
}

void *base_arena_take(struct base_arena *arena, size_t size_bytes, size_t align)
{
	uintptr_t free_at = (uintptr_t)arena->memory + arena->used_bytes;
	size_t free_bytes = arena->size_bytes - arena->used_bytes;
	size_t padding;

	BASE_ASSERT(align != 0 && (align & (align - 1)) == 0);
	padding = (size_t)(-free_at & (align - 1));
	if (padding > free_bytes || size_bytes > free_bytes - padding)
		return NULL;
	arena->used_bytes += padding + size_bytes;
	return (void *)(free_at + padding);
}
