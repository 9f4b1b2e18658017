/*
 * Drafts from a history: what is proposed did follow the last tokens before, on all kinds of histories and whatever was cut from
 * them; nearly whatever could be found is; how good proposals are shows in their chances; and nothing of one session is left for the
 * next.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base_rand.h"
#include "sched/sched_draft.h"

enum { TOKENS = 3000, NONE = -1 };

static uint32_t slots[SCHED_DRAFT_GRAMS * SCHED_DRAFT_SLOTS_MAX], tokens[TOKENS];
static uint64_t random_state;

static uint32_t below(uint32_t n)
{
	return (uint32_t)base_rand_below(&random_state, n);
}

/* The longest run of tokens that ends both before `at` and at the end. */
static uint32_t common(uint32_t count, uint32_t at)
{
	uint32_t length = 0;

	while (length < at && tokens[at - 1 - length] == tokens[count - 1 - length])
		length++;
	return length;
}

/* Whether something follows the last `length` tokens where they stood before that begins with what is proposed. */
static bool followed_before(uint32_t count, const uint32_t *proposed, uint32_t drafts)
{
	for (uint32_t at = 2; at < count; at++) {
		uint32_t same = 0;

		if (common(count, at) < 2)
			continue;
		while (same < drafts &&
			proposed[same] == (at + same < count ? tokens[at + same] : proposed[at + same - count]))
			same++;
		if (same == drafts)
			return true;
	}
	return false;
}

static bool could_be_found(uint32_t count)
{
	for (uint32_t at = 2; at < count; at++)
		if (common(count, at) >= 2)
			return true;
	return false;
}

/* Runs that were there before, with words between them that are new. */
static void fill(uint32_t from, uint32_t vocab)
{
	for (uint32_t i = from; i < TOKENS;) {
		uint32_t run = 1 + below(30), at = below(i + 1);
		const bool again = i > 0 && below(2);

		for (; run > 0 && i < TOKENS; run--, i++, at++)
			tokens[i] = again ? tokens[at] : below(vocab);
	}
}

static void proposals_come_from_the_history(void **state)
{
	uint32_t found = 0, missed = 0, vocab = 0;
	bool small;

	(void)state;
	for (uint64_t seed = 1; seed <= 12; seed++) {
		struct sched_draft draft;
		float chances[SCHED_DRAFT_MOST];
		uint32_t proposed[SCHED_DRAFT_MOST], count = 0;

		random_state = seed;
		vocab = seed % 3 == 0 ? 2 : seed % 3 == 1 ? 50 : 40000;
		small = seed % 2;
		sched_draft_init(&draft, slots, sched_draft_slots(small ? 300 : TOKENS));
		fill(0, vocab);
		for (uint32_t round = 0; round < 600; round++) {
			uint32_t drafts;

			if (below(20) == 0) {
				count = below(count + 1);
				sched_draft_keep(&draft, count);
				fill(count, vocab);
			}
			count += 1 + (below(10) ? 0 : below(60));
			if (count > TOKENS / 2)
				break;
			while (draft.followed < count)
				sched_draft_follow(&draft, tokens, count, 1 + below(40), below(2));
			drafts = sched_draft_chances(&draft, tokens, count, 1 + below(SCHED_DRAFT_MOST), (uint32_t)NONE, chances);
			sched_draft_tokens(&draft, tokens, count, drafts, proposed);
			assert_true(drafts == 0 || followed_before(count, proposed, drafts));
			for (uint32_t i = 0; i < drafts; i++)
				assert_true(chances[i] >= 0.0f && chances[i] <= (i ? chances[i - 1] : 1.0f));
			found += drafts > 0;
			/* Where the index is much smaller than the history it forgets more. */
			missed += !small && drafts == 0 && could_be_found(count);
		}
	}
	print_message("# %u found, %u missed\n", found, missed);
	assert_true(found > 1000 && missed * 10 < found);
}

/* Not before all tokens were looked at, and nothing that is no token. */
static void what_cannot_be_proposed(void **state)
{
	struct sched_draft draft;
	float chances[SCHED_DRAFT_MOST];

	(void)state;
	sched_draft_init(&draft, slots, 64);
	for (uint32_t i = 0; i < 24; i++)
		tokens[i] = i % 12;
	assert_int_equal(sched_draft_follow(&draft, tokens, 24, 20, false), 20);
	assert_int_equal(sched_draft_chances(&draft, tokens, 24, 5, (uint32_t)NONE, chances), 0);
	assert_int_equal(sched_draft_follow(&draft, tokens, 24, 20, false), 4);
	assert_int_equal(sched_draft_chances(&draft, tokens, 24, 5, (uint32_t)NONE, chances), 5);
	assert_int_equal(sched_draft_chances(&draft, tokens, 24, 5, 3, chances), 3);
	sched_draft_keep(&draft, 24);
	assert_int_equal(sched_draft_chances(&draft, tokens, 24, 5, (uint32_t)NONE, chances), 0);
}

static void chances_follow_what_happens(void **state)
{
	struct sched_draft draft;
	float chances[SCHED_DRAFT_MOST], before[SCHED_DRAFT_LENGTHS + 1];

	(void)state;
	random_state = 5;
	sched_draft_init(&draft, slots, 4096);
	for (uint32_t i = 0; i < 1000; i++) {
		tokens[i] = i % 9;
		sched_draft_follow(&draft, tokens, i + 1, 1, true);
	}
	assert_int_equal(sched_draft_chances(&draft, tokens, 1000, SCHED_DRAFT_MOST, (uint32_t)NONE, chances), SCHED_DRAFT_MOST);
	assert_true(chances[SCHED_DRAFT_MOST - 1] > 0.99f);
	/* Two tokens in disorder: whatever was there before says nothing of what comes. */
	for (uint32_t i = 1000; i < 2000; i++) {
		tokens[i] = 10 + below(2);
		sched_draft_follow(&draft, tokens, i + 1, 1, true);
	}
	assert_int_equal(sched_draft_chances(&draft, tokens, 2000, 4, (uint32_t)NONE, chances), 4);
	assert_true(chances[0] > 0.05f && chances[0] < 0.95f && chances[3] < 0.4f);
	/* What was not drawn teaches nothing. */
	memcpy(before, draft.chance, sizeof(before));
	for (uint32_t i = 2000; i < 2500; i++)
		tokens[i] = below(2);
	sched_draft_follow(&draft, tokens, 2500, 500, false);
	assert_memory_equal(before, draft.chance, sizeof(before));
}

static void nothing_is_left_for_the_next(void **state)
{
	struct sched_draft a, b;
	static uint32_t others[SCHED_DRAFT_GRAMS * 4096];

	(void)state;
	random_state = 6;
	fill(0, 20);
	sched_draft_init(&a, slots, 4096);
	sched_draft_follow(&a, tokens, 900, 900, true);
	sched_draft_begin(&a);
	sched_draft_init(&b, others, 4096);
	sched_draft_follow(&a, tokens + 1000, 300, 300, true);
	sched_draft_follow(&b, tokens + 1000, 300, 300, true);
	assert_memory_equal(slots, others, sizeof(others));
	assert_memory_equal(a.chance, b.chance, sizeof(a.chance));
	assert_int_equal(a.match, b.match);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(proposals_come_from_the_history),
		cmocka_unit_test(what_cannot_be_proposed),
		cmocka_unit_test(chances_follow_what_happens),
		cmocka_unit_test(nothing_is_left_for_the_next),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
