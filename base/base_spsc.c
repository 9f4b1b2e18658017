/*
 * Memory of the queue between two roles. Made and destroyed by the thread that starts both; the operations
 * themselves are in the header.
 */
#include "base/base_spsc.h"

#include "base/base_error.h"

#include <stdlib.h>

/* Elements start on a cache line pair of their own. */
enum { ELEMENTS_ALIGN = 128 };

int base_spsc_create(struct base_spsc *queue, size_t capacity, size_t element_bytes)
{
	size_t slots = 1, size_bytes;

	memset(queue, 0, sizeof(*queue));
	if (capacity == 0 || element_bytes == 0 || capacity > SIZE_MAX / 4 / element_bytes)
		return base_fail(EINVAL, "a queue of %zu elements of %zu bytes cannot be made", capacity,
			element_bytes);
	while (slots < capacity)
		slots *= 2;
	size_bytes = (slots * element_bytes + ELEMENTS_ALIGN - 1) & ~(size_t)(ELEMENTS_ALIGN - 1);
	queue->elements = aligned_alloc(ELEMENTS_ALIGN, size_bytes);
	if (!queue->elements)
		return base_fail(ENOMEM, "no memory for a queue of %zu elements of %zu bytes", slots,
			element_bytes);
	/* Touched now, so that no request pays for a page fault. */
	memset(queue->elements, 0, size_bytes);
	queue->capacity_mask = slots - 1;
	queue->element_bytes = element_bytes;
	return 0;
}

void base_spsc_destroy(struct base_spsc *queue)
{
	free(queue->elements);
	memset(queue, 0, sizeof(*queue));
}
