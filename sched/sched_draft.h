/*
 * A session's own words as a guess of what it says next: prompt lookup (Saxena, "Prompt lookup decoding", 2023), a draft without
 * a model. Where the last tokens of a history stood before, what followed them then is proposed now.
 *
 * Pure: it knows a history and some memory for its index, and is asked by the thread that owns both. Nothing is allocated, and
 * following a token takes constant time. The index may forget and may be wrong about nothing: what it finds is compared with the
 * history before it is believed, so stale entries only find less.
 *
 * How likely a proposal is comes from the history itself: for each length of match, how often of late the token behind a match
 * was the one that came. That is counted for every token, proposed or not, so a text that begins to repeat itself is noticed
 * though nothing is proposed.
 */
#ifndef SCHED_DRAFT_H
#define SCHED_DRAFT_H

#include <stdbool.h>
#include <stdint.h>

enum {
	SCHED_DRAFT_MOST = 15,   /* tokens of one proposal: with the row before them a tile of 16 */
	SCHED_DRAFT_LENGTHS = 8, /* longer matches count as this long */
	SCHED_DRAFT_GRAMS = 2,   /* sizes of n-grams that are looked up: four tokens, else two */
	SCHED_DRAFT_SLOTS_MAX = 4096, /* of each: 32 KiB for a session */
};

struct sched_draft {
	uint32_t *slots; /* [SCHED_DRAFT_GRAMS][mask + 1]: where the token behind an n-gram stands; 0: nowhere */
	uint32_t mask;
	uint32_t followed; /* tokens of the history that were seen */
	uint32_t match;    /* where the token stands that would come next; 0: no match */
	uint32_t length;   /* of the match, tokens */
	float chance[SCHED_DRAFT_LENGTHS + 1]; /* by length */
};

/* Slots of each size of n-gram for histories of so many tokens. */
uint32_t sched_draft_slots(uint32_t tokens_max);
/* Memory: SCHED_DRAFT_GRAMS times slot_count (a power of two) words. */
void sched_draft_init(struct sched_draft *draft, uint32_t *slots, uint32_t slot_count);
/* Another history. */
void sched_draft_begin(struct sched_draft *draft);
/* The history keeps its first `count` tokens; what comes behind them is to be followed anew. */
void sched_draft_keep(struct sched_draft *draft, uint32_t count);
/* The history has `count` tokens now; of those not yet seen at most `most` are looked at. drawn: the last one is what the session
 * said, and tells how good matches are. Returns how many were looked at. */
uint32_t sched_draft_follow(struct sched_draft *draft, const uint32_t *tokens, uint32_t count, uint32_t most, bool drawn);
/* How many tokens, at most `most`, can be proposed behind a history of `count` tokens, all of them followed; chances[i]: that the
 * first i + 1 of them all come. A token `none` in the history is never proposed. */
uint32_t sched_draft_chances(const struct sched_draft *draft, const uint32_t *tokens, uint32_t count, uint32_t most, uint32_t none,
	float chances[SCHED_DRAFT_MOST]);
/* The first so many of these tokens. */
void sched_draft_tokens(const struct sched_draft *draft, const uint32_t *tokens, uint32_t count, uint32_t drafts, uint32_t *out);

#endif
