/*
 * Time limit: 120 s
 *
 * What a tenant can tell of another's cached prefixes by its own answers' times: nothing. A victim prompts with a secret or with
 * some other text; the attacker then prompts with the secret, and guesses by how long that took. The area under the curve of
 * all guesses is 0.5; within a sharing group, where the attacker is meant to find it, it is 1.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/base_rand.h"
#include "tests/unit/sched_rig.h"

enum { TRIALS = 8000, TRIALS_OF_GROUP = 400, PROMPT = 136 };

static struct rig rig;

struct guess {
	int64_t ns;
	bool cached; /* the victim had prompted with it */
};

static int by_time(const void *left, const void *right)
{
	const struct guess *a = left, *b = right;

	return (a->ns > b->ns) - (a->ns < b->ns);
}

/* That a time with a cached secret is shorter than one without; equal ones count half (Mann and Whitney). */
static double area(struct guess *guesses, uint32_t count)
{
	double cached = 0.0, pairs = 0.0, with = 0.0, without = 0.0;

	qsort(guesses, count, sizeof(*guesses), by_time);
	for (uint32_t i = 0, end; i < count; i = end) {
		double some = 0.0, others = 0.0;

		for (end = i; end < count && guesses[end].ns == guesses[i].ns; end++) {
			some += guesses[end].cached;
			others += !guesses[end].cached;
		}
		pairs += others * (cached + 0.5 * some);
		cached += some;
	}
	for (uint32_t i = 0; i < count; i++) {
		with += guesses[i].cached;
		without += !guesses[i].cached;
	}
	return pairs / (with * without);
}

static int64_t prompt(uint32_t client, const uint32_t *tokens)
{
	const uint64_t session = rig_open(&rig, client, 0);
	const uint64_t id = rig_step(&rig, client, session, tokens, PROMPT);
	struct attnd_completion completion;

	rig_run(&rig);
	completion = rig_take(&rig, id);
	assert_int_equal(completion.status, ATTND_OK);
	rig_call(&rig, client, rig_session_record(ATTND_OP_CLOSE, session, 0), NULL, NULL);
	rig_rewind(&rig, client);
	return completion.done_ns - completion.received_ns;
}

static double measure(uint32_t trials, uint32_t group)
{
	static struct guess guesses[TRIALS];
	uint32_t secret[PROMPT], other[PROMPT];
	struct sched_counters counters;
	uint64_t seed = 3;

	rig_init(&rig);
	rig.options.prefix_cache = true;
	rig.options.secret[0] = 99;
	rig.options.kv_bytes = 3 * rig.options.kv_extent_bytes; /* so small that pages are evicted */
	rig.options.sessions_max = 4;
	rig.options.requests_max = 16;
	rig.options.lanes[0].clients = 2;
	rig.device_options.jitter_permille = 100;
	rig.tenants[0].prefix_group = rig.tenants[1].prefix_group = group;
	rig_start(&rig);
	rig_add(&rig, 0, 0, 100);
	rig_add(&rig, 1, 1, 100);
	for (uint32_t i = 0; i < trials; i++) {
		guesses[i].cached = base_rand_below(&seed, 2);
		rig_tokens(secret, PROMPT, 2 * i);
		rig_tokens(other, PROMPT, 2 * i + 1);
		prompt(0, guesses[i].cached ? secret : other);
		guesses[i].ns = prompt(1, secret);
	}
	sched_counters_read(rig.sched, &counters);
	assert_true(group ? counters.prefix_hits > trials / 3 : counters.prefix_hits == 0);
	assert_true(counters.prefix_evictions > trials / 2);
	rig_stop(&rig);
	return area(guesses, trials);
}

static void others_prefixes_do_not_show(void **state)
{
	double auc;

	(void)state;
	auc = measure(TRIALS, 0);
	print_message("# %d guesses: area under the curve %.4f\n", TRIALS, auc);
	assert_true(auc > 0.48 && auc < 0.52);
}

static void a_groups_prefixes_show(void **state)
{
	double auc;

	(void)state;
	auc = measure(TRIALS_OF_GROUP, 1);
	print_message("# %d guesses within a group: area under the curve %.4f\n", TRIALS_OF_GROUP, auc);
	assert_true(auc > 0.99);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(others_prefixes_do_not_show),
		cmocka_unit_test(a_groups_prefixes_show),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
