/*
 * Making and filling the hash tables of a tokenizer. Control thread, at load.
 */
#include "model/model_token_table.h"

#include <stdlib.h>
#include <sys/random.h>

#include "base/base_error.h"
#include "base/base_rand.h"

static uint64_t secret(const void *fallback)
{
	uint64_t value;

	if (getrandom(&value, sizeof(value), GRND_NONBLOCK) != sizeof(value))
		value = base_mix64((uintptr_t)fallback);
	return value;
}

static uint64_t slots_for(uint32_t count)
{
	uint64_t slots = 16;

	while (slots < 2 * (uint64_t)count)
		slots *= 2;
	return slots;
}

/* ---- texts ----------------------------------------------------------------------------------- */

int model_token_index_create(struct model_token_index *index, uint32_t count, const char *bytes,
	const uint32_t *starts)
{
	uint64_t slots = slots_for(count), i;

	index->slots = malloc(slots * sizeof(index->slots[0]));
	if (!index->slots)
		return base_fail(ENOMEM, "no memory for a vocabulary of %u tokens", count);
	for (i = 0; i < slots; i++)
		index->slots[i].id = MODEL_TOKEN_ABSENT;
	index->mask = slots - 1;
	index->bytes = bytes;
	index->starts = starts;
	index->base = secret(index->slots) % (MODEL_TOKEN_HASH_PRIME - 1000) + 500;
	return 0;
}

void model_token_index_destroy(struct model_token_index *index)
{
	free(index->slots);
	index->slots = NULL;
}

uint32_t model_token_index_add(struct model_token_index *index, uint32_t id)
{
	const char *text = index->bytes + index->starts[id];
	size_t len = index->starts[id + 1] - index->starts[id];
	uint64_t hash = model_token_hash(index, text, len);
	uint64_t at = model_token_index_slot(index, hash, text, len);
	uint32_t there = index->slots[at].id;

	if (there == MODEL_TOKEN_ABSENT) {
		index->slots[at].id = id;
		index->slots[at].tag = (uint32_t)(base_mix64(hash) >> 32);
	}
	return there;
}

/* ---- pairs ----------------------------------------------------------------------------------- */

int model_token_pairs_create(struct model_token_pairs *pairs, uint32_t count)
{
	uint64_t slots = slots_for(count), i;

	pairs->slots = malloc(slots * sizeof(pairs->slots[0]));
	if (!pairs->slots)
		return base_fail(ENOMEM, "no memory for %u merges", count);
	for (i = 0; i < slots; i++)
		pairs->slots[i].left = MODEL_TOKEN_ABSENT;
	pairs->mask = slots - 1;
	pairs->key = secret(pairs->slots);
	return 0;
}

void model_token_pairs_destroy(struct model_token_pairs *pairs)
{
	free(pairs->slots);
	pairs->slots = NULL;
}

void model_token_pairs_add(struct model_token_pairs *pairs, struct model_token_pair pair)
{
	struct model_token_pair *slot = model_token_pairs_slot(pairs, pair.left, pair.right);

	if (slot->left == MODEL_TOKEN_ABSENT)
		*slot = pair;
}
