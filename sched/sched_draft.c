/*
 * Prompt lookup. See the header; whoever owns the history.
 */
#include "sched/sched_draft.h"

#include <stddef.h>
#include <string.h>

#include "base/base_assert.h"
#include "base/base_rand.h"

/* Tokens of the n-grams, the longer ones first: what they find is more often right. */
static const uint32_t GRAMS[SCHED_DRAFT_GRAMS] = { 4, 2 };

/* Before anything is known of a session, by length of match; and the part of what is known that one token changes. */
static const float CHANCES[SCHED_DRAFT_LENGTHS + 1] = { 0.0f, 0.0f, 0.3f, 0.45f, 0.6f, 0.7f, 0.75f, 0.8f, 0.85f };
static const float LEARNT = 1.0f / 16;

uint32_t sched_draft_slots(uint32_t tokens_max)
{
	uint32_t slots = 1;

	while (slots < tokens_max && slots < SCHED_DRAFT_SLOTS_MAX)
		slots *= 2;
	return slots;
}

void sched_draft_init(struct sched_draft *draft, uint32_t *slots, uint32_t slot_count)
{
	*draft = (struct sched_draft){ .slots = slots, .mask = slot_count - 1 };
	sched_draft_begin(draft);
}

void sched_draft_begin(struct sched_draft *draft)
{
	sched_draft_keep(draft, 0);
	memcpy(draft->chance, CHANCES, sizeof(draft->chance));
}

void sched_draft_keep(struct sched_draft *draft, uint32_t count)
{
	if (draft->followed > count)
		draft->followed = count;
	draft->match = draft->length = 0;
}

/* ---- the index ------------------------------------------------------------------------ */

/* The slot of the n-gram that ends a history of `count` tokens. */
static uint32_t *slot_of(const struct sched_draft *draft, const uint32_t *tokens, uint32_t count, uint32_t gram)
{
	uint64_t hash = gram;

	for (uint32_t i = count - GRAMS[gram]; i < count; i++)
		hash = base_mix64(hash ^ tokens[i]);
	return &draft->slots[(size_t)gram * (draft->mask + 1) + (hash & draft->mask)];
}

/* How many tokens before `at` are the last ones of the history. */
static uint32_t match_length(const uint32_t *tokens, uint32_t count, uint32_t at)
{
	uint32_t length = 0;

	while (length < SCHED_DRAFT_LENGTHS && length < at && tokens[at - 1 - length] == tokens[count - 1 - length])
		length++;
	return length;
}

static void find(struct sched_draft *draft, const uint32_t *tokens, uint32_t count)
{
	for (uint32_t gram = 0; gram < SCHED_DRAFT_GRAMS && draft->match == 0; gram++) {
		uint32_t at, length;

		if (count < GRAMS[gram])
			continue;
		/* From before a history was cut it may lie anywhere. */
		at = *slot_of(draft, tokens, count, gram);
		if (at == 0 || at >= count)
			continue;
		length = match_length(tokens, count, at);
		if (length < GRAMS[gram])
			continue;
		draft->match = at;
		draft->length = length;
	}
}

static void enter(struct sched_draft *draft, const uint32_t *tokens, uint32_t count)
{
	for (uint32_t gram = 0; gram < SCHED_DRAFT_GRAMS; gram++)
		if (count >= GRAMS[gram])
			*slot_of(draft, tokens, count, gram) = count;
}

/* ---- following ------------------------------------------------------------------------ */

static void follow_match(struct sched_draft *draft, uint32_t expected, uint32_t token, bool drawn)
{
	const bool hit = expected == token;
	float *chance = &draft->chance[draft->length];

	if (drawn)
		*chance += LEARNT * ((hit ? 1.0f : 0.0f) - *chance);
	draft->match = hit ? draft->match + 1 : 0;
	draft->length = !hit ? 0 : draft->length < SCHED_DRAFT_LENGTHS ? draft->length + 1 : SCHED_DRAFT_LENGTHS;
}

uint32_t sched_draft_follow(struct sched_draft *draft, const uint32_t *tokens, uint32_t count, uint32_t most, bool drawn)
{
	const uint32_t first = draft->followed, end = count - first < most ? count : first + most;

	BASE_ASSERT(first <= count && most > 0);
	/* What another session left here is nobody's business. */
	if (first == 0)
		memset(draft->slots, 0, sizeof(*draft->slots) * SCHED_DRAFT_GRAMS * ((size_t)draft->mask + 1));
	for (uint32_t i = first; i < end; i++) {
		/* It always stands before the token that it is compared with. */
		if (draft->match > 0)
			follow_match(draft, tokens[draft->match], tokens[i], drawn && i + 1 == count);
		if (draft->match == 0)
			find(draft, tokens, i + 1);
		enter(draft, tokens, i + 1);
	}
	draft->followed = end;
	return end - first;
}

/* ---- proposing ------------------------------------------------------------------------ */

uint32_t sched_draft_chances(const struct sched_draft *draft, const uint32_t *tokens, uint32_t count, uint32_t most, uint32_t none,
	float chances[SCHED_DRAFT_MOST])
{
	float chance = 1.0f;

	if (draft->match == 0 || draft->followed != count)
		return 0;
	for (uint32_t i = 0; i < most; i++) {
		const uint32_t length = draft->length + i;

		/* Behind the history's end the proposal goes on as it began. */
		if (draft->match + i < count && tokens[draft->match + i] == none)
			return i;
		chance *= draft->chance[length < SCHED_DRAFT_LENGTHS ? length : SCHED_DRAFT_LENGTHS];
		chances[i] = chance;
	}
	return most;
}

void sched_draft_tokens(const struct sched_draft *draft, const uint32_t *tokens, uint32_t count, uint32_t drafts, uint32_t *out)
{
	for (uint32_t i = 0; i < drafts; i++) {
		const uint32_t at = draft->match + i;

		out[i] = at < count ? tokens[at] : out[at - count];
	}
}
