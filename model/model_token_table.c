/*
 * The hash tables of a tokenizer: open addressing, at most half full. Looking up: any thread.
 */
#include "model/model_token_table.h"

#include <string.h>

#include "base/base_rand.h"

static const uint64_t PRIME = MODEL_TOKEN_HASH_PRIME;

/* ---- texts ----------------------------------------------------------------------------------- */

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

uint64_t model_token_index_slot(const struct model_token_index *index, uint64_t hash, const char *text, size_t len)
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
	return index->slots[model_token_index_slot(index, hash, text, len)].id;
}

uint32_t model_token_index_find(const struct model_token_index *index, const char *text, size_t len)
{
	return model_token_index_find_hashed(index, model_token_hash(index, text, len), text, len);
}

/* ---- pairs ----------------------------------------------------------------------------------- */

struct model_token_pair *model_token_pairs_slot(const struct model_token_pairs *pairs, uint32_t left, uint32_t right)
{
	uint64_t at = base_mix64(((uint64_t)left << 32 | right) ^ pairs->key) & pairs->mask;

	while (pairs->slots[at].left != MODEL_TOKEN_ABSENT) {
		if (pairs->slots[at].left == left && pairs->slots[at].right == right)
			break;
		at = (at + 1) & pairs->mask;
	}
	return &pairs->slots[at];
}

const struct model_token_pair *model_token_pairs_find(const struct model_token_pairs *pairs, uint32_t left,
	uint32_t right)
{
	const struct model_token_pair *slot = model_token_pairs_slot(pairs, left, right);

	return slot->left == MODEL_TOKEN_ABSENT ? NULL : slot;
}
