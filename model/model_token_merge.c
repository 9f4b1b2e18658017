/*
 * Merging: of all neighbours that make a token, the two of lowest rank merge first, the leftmost of equals; then
 * the new neighbours are looked at. Any thread, on its own scratch.
 *
 * A heap holds rank and left symbol, nothing else. An entry is out of date when the left symbol has gone or now
 * has another rank with its next; such entries are dropped when they come up. (Another pair of the same rank at the
 * same place is as good: it would be the next to merge in any case.)
 *
 * The heap never holds more than two entries for each symbol there was at the beginning: n - 1 at first, and every
 * merge, of which there are at most n - 1, takes one and adds at most two. So n symbols take O(n log n).
 */
#include "model/model_token_internal.h"

struct heap { uint64_t *keys; size_t count; };

static void heap_push(struct heap *heap, uint64_t key)
{
	size_t at = heap->count++;

	while (at > 0 && heap->keys[(at - 1) / 2] > key) {
		heap->keys[at] = heap->keys[(at - 1) / 2];
		at = (at - 1) / 2;
	}
	heap->keys[at] = key;
}

static uint64_t heap_pop(struct heap *heap)
{
	uint64_t least = heap->keys[0], key = heap->keys[--heap->count];
	size_t at = 0, child;

	while ((child = 2 * at + 1) < heap->count) {
		if (child + 1 < heap->count && heap->keys[child + 1] < heap->keys[child])
			child++;
		if (heap->keys[child] >= key)
			break;
		heap->keys[at] = heap->keys[child];
		at = child;
	}
	heap->keys[at] = key;
	return least;
}

/* Looks at symbol i and its next. */
static void look(const struct model_token_pairs *pairs, struct model_token_symbol *symbols, uint32_t i,
	struct heap *heap)
{
	const struct model_token_pair *pair = NULL;

	if (symbols[i].next != MODEL_TOKEN_ABSENT)
		pair = model_token_pairs_find(pairs, symbols[i].id, symbols[symbols[i].next].id);
	symbols[i].rank = pair ? pair->rank : MODEL_TOKEN_ABSENT;
	if (!pair)
		return;
	symbols[i].merged = pair->merged;
	heap_push(heap, (uint64_t)pair->rank << 32 | i);
}

static void merge_with_next(const struct model_token_pairs *pairs, struct model_token_symbol *symbols, uint32_t i,
	struct heap *heap)
{
	uint32_t gone = symbols[i].next, next = symbols[gone].next;

	symbols[i].id = symbols[i].merged;
	symbols[i].next = next;
	symbols[gone].rank = MODEL_TOKEN_ABSENT;
	if (next != MODEL_TOKEN_ABSENT)
		symbols[next].prev = i;
	look(pairs, symbols, i, heap);
	if (symbols[i].prev != MODEL_TOKEN_ABSENT)
		look(pairs, symbols, symbols[i].prev, heap);
}

void model_token_merge(const struct model_token_pairs *pairs, struct model_token_symbol *symbols, uint32_t count,
	uint64_t *keys)
{
	struct heap heap = { .keys = keys };
	uint32_t i;

	for (i = 0; i < count; i++) {
		symbols[i].prev = i > 0 ? i - 1 : MODEL_TOKEN_ABSENT;
		symbols[i].next = i + 1 < count ? i + 1 : MODEL_TOKEN_ABSENT;
	}
	for (i = 0; i < count; i++)
		look(pairs, symbols, i, &heap);
	while (heap.count > 0) {
		uint64_t key = heap_pop(&heap);

		i = (uint32_t)key;
		if (symbols[i].rank == key >> 32)
			merge_with_next(pairs, symbols, i, &heap);
	}
}
