/*
 * The two hash tables of a tokenizer: texts to token ids, and pairs of ids to merges. Filled at load, constant
 * afterwards; any thread may look up. Sizes follow from the number of entries announced at creation. Hashes are
 * keyed with a random number, so that a vocabulary cannot be made to collide; results do not depend on it.
 */
#ifndef MODEL_TOKEN_TABLE_H
#define MODEL_TOKEN_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MODEL_TOKEN_ABSENT = UINT32_MAX >> 1 }; /* no id: above every id there can be */

/* ---- texts ----------------------------------------------------------------------------------- */

#define MODEL_TOKEN_HASH_PRIME ((1ull << 61) - 1)

/*
 * A text's hash is a polynomial in a secret base modulo 2^61 - 1, so that the hash of any part of a text follows
 * from the hashes of its prefixes: that is what makes looking up all the ways to cut a token cheap.
 */
struct model_token_index {
	uint64_t base;
	uint64_t mask;
	struct { uint32_t tag, id; } *slots;
	const char *bytes;      /* the texts one after another, */
	const uint32_t *starts; /* text i is [starts[i], starts[i + 1]) */
};

/* At most `count` entries. bytes and starts belong to the caller and stay. -ENOMEM with a message. */
int model_token_index_create(struct model_token_index *index, uint32_t count, const char *bytes,
	const uint32_t *starts);
void model_token_index_destroy(struct model_token_index *index);

uint64_t model_token_hash_extend(const struct model_token_index *index, uint64_t hash, unsigned char byte);
/* The hash of what follows the prefix, given the hashes of prefix and whole and the base's power (see above). */
uint64_t model_token_hash_rest(uint64_t whole, uint64_t prefix, uint64_t base_power);
uint64_t model_token_hash_times(uint64_t a, uint64_t b);
uint64_t model_token_hash(const struct model_token_index *index, const char *text, size_t len);

/* MODEL_TOKEN_ABSENT when there is none; `hash` is the hash of the text. */
uint32_t model_token_index_find_hashed(const struct model_token_index *index, uint64_t hash, const char *text,
	size_t len);
uint32_t model_token_index_find(const struct model_token_index *index, const char *text, size_t len);
/* The slot that has the text, or the empty one where it would go. */
uint64_t model_token_index_slot(const struct model_token_index *index, uint64_t hash, const char *text, size_t len);
/* Adds text `id`; returns the id that has the same text already, or MODEL_TOKEN_ABSENT. */
uint32_t model_token_index_add(struct model_token_index *index, uint32_t id);

/* ---- pairs ----------------------------------------------------------------------------------- */

/* What two neighbours become, and how soon: lower ranks first. */
struct model_token_pair { uint32_t left, right, rank, merged; };

struct model_token_pairs {
	uint64_t key;
	uint64_t mask;
	struct model_token_pair *slots; /* left is MODEL_TOKEN_ABSENT in an empty one */
};

/* At most `count` entries. -ENOMEM with a message. */
int model_token_pairs_create(struct model_token_pairs *pairs, uint32_t count);
void model_token_pairs_destroy(struct model_token_pairs *pairs);
/* The first entry for a pair stays. */
void model_token_pairs_add(struct model_token_pairs *pairs, struct model_token_pair pair);
/* The slot that has the pair, or the empty one where it would go. */
struct model_token_pair *model_token_pairs_slot(const struct model_token_pairs *pairs, uint32_t left, uint32_t right);
/* NULL when the two do not merge. Ids that are MODEL_TOKEN_ABSENT never do. */
const struct model_token_pair *model_token_pairs_find(const struct model_token_pairs *pairs, uint32_t left,
	uint32_t right);

#endif
