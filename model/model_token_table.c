/*
 * The hash tables of a tokenizer: open addressing, at most half full. Filled by the control thread at load.
 */
#include "model/model_token_table.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/base_error.h"
#include "base/base_rand.h"

static const uint64_t PRIME = (1ull << 61) - 1;

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

/* ---- texts -------------------------------------------------------------------------------------------------- */

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
	index->base = secret(index->slots) % (PRIME - 1000) + 500;
	return 0;
}

void model_token_index_destroy(struct model_token_index *index)
{
	free(index->slots);
	index->slots = NULL;
}

static uint64_t reduce(uint64_t value)
{
	value = (value & PRIME) + (value >> 61);
	return value >= PRIME ? value - PRIME : value;
}

uint64_t model_token_hash_times(uint64_t a, uint64_t b)
{
	base_u128 product = (base_u128)a * b;

	return reduce(((uint64_t)product & PRIME) + (uint64_t)(product >> 61));
}

uint64_t model_token_hash_extend(const struct model_token_index *index, uint64_t hash, unsigned char byte)
{
	/* One more than the byte: zeros at the beginning count as well. */
	return reduce(model_token_hash_times(hash, index->base) + byte + 1);
}

uint64_t model_token_hash_rest(uint64_t whole, uint64_t prefix, uint64_t base_power)
{
	return reduce(whole + PRIME - model_token_hash_times(prefix, base_power));
}

uint64_t model_token_hash(const struct model_token_index *index, const char *text, size_t len)
{
	uint64_t hash = 0;
	size_t i;

	for (i = 0; i < len; i++)
		hash = model_token_hash_extend(index, hash, (unsigned char)text[i]);
	return hash;
}

static bool text_is(const struct model_token_index *index, uint32_t id, const char *text, size_t len)
{
	uint32_t start = index->starts[id];

	return index->starts[id + 1] - start == len && memcmp(index->bytes + start, text, len) == 0;
}

/* The slot that has the text, or the empty one where it would go. */
static uint64_t slot_of(const struct model_token_index *index, uint64_t hash, const char *text, size_t len)
{
	uint64_t mixed = base_mix64(hash), at = mixed & index->mask;
	uint32_t tag = (uint32_t)(mixed >> 32);

	while (index->slots[at].id != MODEL_TOKEN_ABSENT) {
		if (index->slots[at].tag == tag && text_is(index, index->slots[at].id, text, len))
			break;
		at = (at + 1) & index->mask;
	}
	return at;
}

uint32_t model_token_index_find_hashed(const struct model_token_index *index, uint64_t hash, const char *text,
	size_t len)
{
	return index->slots[slot_of(index, hash, text, len)].id;
}

uint32_t model_token_index_find(const struct model_token_index *index, const char *text, size_t len)
{
	return model_token_index_find_hashed(index, model_token_hash(index, text, len), text, len);
}

uint32_t model_token_index_add(struct model_token_index *index, uint32_t id)
{
	const char *text = index->bytes + index->starts[id];
	size_t len = index->starts[id + 1] - index->starts[id];
	uint64_t hash = model_token_hash(index, text, len);
	uint64_t at = slot_of(index, hash, text, len);
	uint32_t there = index->slots[at].id;

	if (there == MODEL_TOKEN_ABSENT) {
		index->slots[at].id = id;
		index->slots[at].tag = (uint32_t)(base_mix64(hash) >> 32);
	}
	return there;
}

/* ---- pairs -------------------------------------------------------------------------------------------------- */

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

static struct model_token_pair *pair_slot(const struct model_token_pairs *pairs, uint32_t left, uint32_t right)
{
	uint64_t at = base_mix64(((uint64_t)left << 32 | right) ^ pairs->key) & pairs->mask;

	while (pairs->slots[at].left != MODEL_TOKEN_ABSENT) {
		if (pairs->slots[at].left == left && pairs->slots[at].right == right)
			break;
		at = (at + 1) & pairs->mask;
	}
	return &pairs->slots[at];
}

void model_token_pairs_add(struct model_token_pairs *pairs, struct model_token_pair pair)
{
	struct model_token_pair *slot = pair_slot(pairs, pair.left, pair.right);

	if (slot->left == MODEL_TOKEN_ABSENT)
		*slot = pair;
}

const struct model_token_pair *model_token_pairs_find(const struct model_token_pairs *pairs, uint32_t left,
	uint32_t right)
{
	const struct model_token_pair *slot = pair_slot(pairs, left, right);

	return slot->left == MODEL_TOKEN_ABSENT ? NULL : slot;
}
