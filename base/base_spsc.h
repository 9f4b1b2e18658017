/*
 * The queue between two roles of the daemon: single producer, single consumer, fixed-size elements, in memory
 * that only the daemon sees. Where both roles are polled by one thread it is simply a queue.
 *
 * Both indices are monotonic 64-bit counts, each on its own pair of cache lines; each side keeps a copy of
 * the other's index and re-reads it only when the queue looks full (or empty).
 */
#ifndef BASE_SPSC_H
#define BASE_SPSC_H

#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct base_spsc {
	alignas(128) _Atomic uint64_t tail; /* written by the producer */
	uint64_t head_seen;                 /* the producer's copy of head */
	alignas(128) _Atomic uint64_t head; /* written by the consumer */
	uint64_t tail_seen;                 /* the consumer's copy of tail */
	alignas(128) unsigned char *elements;
	uint64_t capacity_mask;
	size_t element_bytes;
};

/* capacity is rounded up to a power of two. -ENOMEM with a message when memory is short. */
int base_spsc_create(struct base_spsc *queue, size_t capacity, size_t element_bytes);
void base_spsc_destroy(struct base_spsc *queue);

/* Producer: the slot to fill, or NULL when full. Nothing is visible before base_spsc_publish. */
static inline void *base_spsc_claim(struct base_spsc *queue)
{
	uint64_t tail = atomic_load_explicit(&queue->tail, memory_order_relaxed);

	if (tail - queue->head_seen > queue->capacity_mask) {
		/* A2: the consumer is done with the slots below head; pairs with R2 in base_spsc_release. */
		queue->head_seen = atomic_load_explicit(&queue->head, memory_order_acquire);
		if (tail - queue->head_seen > queue->capacity_mask)
			return NULL;
	}
	return queue->elements + (tail & queue->capacity_mask) * queue->element_bytes;
}

/* Producer: whether so many slots can be claimed, one after the other. */
static inline bool base_spsc_room(struct base_spsc *queue, uint64_t slots)
{
	uint64_t tail = atomic_load_explicit(&queue->tail, memory_order_relaxed);
	uint64_t capacity = queue->capacity_mask + 1;

	if (tail - queue->head_seen + slots > capacity)
		/* A2 again: pairs with R2 in base_spsc_release. */
		queue->head_seen = atomic_load_explicit(&queue->head, memory_order_acquire);
	return tail - queue->head_seen + slots <= capacity;
}

static inline void base_spsc_publish(struct base_spsc *queue)
{
	uint64_t tail = atomic_load_explicit(&queue->tail, memory_order_relaxed);

	/* R1: publishes the filled slot; pairs with A1 in base_spsc_peek. */
	atomic_store_explicit(&queue->tail, tail + 1, memory_order_release);
}

/* Consumer: the oldest element, or NULL when empty. It stays valid until base_spsc_release. */
static inline void *base_spsc_peek(struct base_spsc *queue)
{
	uint64_t head = atomic_load_explicit(&queue->head, memory_order_relaxed);

	if (head == queue->tail_seen) {
		/* A1: sees the slot's contents; pairs with R1 in base_spsc_publish. */
		queue->tail_seen = atomic_load_explicit(&queue->tail, memory_order_acquire);
		if (head == queue->tail_seen)
			return NULL;
	}
	return queue->elements + (head & queue->capacity_mask) * queue->element_bytes;
}

static inline void base_spsc_release(struct base_spsc *queue)
{
	uint64_t head = atomic_load_explicit(&queue->head, memory_order_relaxed);

	/* R2: gives the slot back; pairs with A2 in base_spsc_claim. */
	atomic_store_explicit(&queue->head, head + 1, memory_order_release);
}

static inline bool base_spsc_push(struct base_spsc *queue, const void *element)
{
	void *slot = base_spsc_claim(queue);

	if (!slot)
		return false;
	memcpy(slot, element, queue->element_bytes);
	base_spsc_publish(queue);
	return true;
}

/* Elements waiting, as seen by either side; exact only for that side's own progress. */
static inline uint64_t base_spsc_count(struct base_spsc *queue)
{
	return atomic_load_explicit(&queue->tail, memory_order_acquire) -
		atomic_load_explicit(&queue->head, memory_order_acquire);
}

#endif
