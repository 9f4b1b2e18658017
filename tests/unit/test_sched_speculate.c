/*
 * Streams that guess ahead say what they would say without, token by token, in every format and over every boundary; nothing that
 * was wrong is left in a session, a fork or the prefix cache; and they guess only where that pays, in time, for nobody's credit
 * and nobody's deadline.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/base_rand.h"
#include "model/model_sample.h"
#include "tests/unit/sched_rig.h"

static struct rig rig;

static const struct attnd_sampling WARM = {
	.seed = 42, .temperature = 0.05f, .top_p = 1.0f, .repeat_penalty = 1.02f, .repeat_window = 20
};

/* What should be drawn after this history. */
static uint32_t drawn(const struct attnd_sampling *sampling, const uint32_t *history, uint32_t count)
{
	static unsigned char scratch[1 << 16];
	const uint64_t hash =
		sim_regular_hash(sim_row_hash(history, count), count, rig.device_options.regular_permille);
	const struct model_sampling to = { .seed = sampling->seed,
		.temperature = sampling->temperature,
		.top_p = sampling->top_p,
		.repeat_penalty = sampling->repeat_penalty,
		.repeat_window = sampling->repeat_window };
	const uint32_t window = to.repeat_window < count ? to.repeat_window : count;
	float logits[RIG_VOCAB];

	if (to.top_p == 0.0f)
		return sim_argmax(hash, RIG_VOCAB);
	for (uint32_t i = 0; i < RIG_VOCAB; i++)
		logits[i] = sim_logit(hash, i);
	return model_sample(&to, logits, RIG_VOCAB, history + count - window, window, count, scratch);
}

static uint32_t take_tokens(uint64_t id, const struct attnd_sampling *sampling, uint32_t *history, uint32_t total,
	uint32_t first, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		struct attnd_completion completion = rig_take(&rig, id);

		assert_int_equal(completion.status, ATTND_OK);
		assert_int_equal(completion.flags, 0);
		assert_int_equal(completion.sequence, first + i);
		assert_int_equal(completion.position, total);
		assert_int_equal(completion.value, drawn(sampling, history, total));
		history[total++] = (uint32_t)completion.value;
	}
	return total;
}

static void take_final(uint64_t id, enum attnd_status status, uint32_t sequence, uint32_t position, uint64_t value)
{
	struct attnd_completion completion = rig_take(&rig, id);

	assert_int_equal(completion.status, status);
	assert_int_equal(completion.flags & ATTND_CPL_FINAL, ATTND_CPL_FINAL);
	assert_int_equal(completion.sequence, sequence);
	assert_int_equal(completion.position, position);
	assert_int_equal(completion.value, value);
	assert_false(rig_has(&rig, id));
}

static struct sched_counters counters_now(void)
{
	struct sched_counters counters;

	sched_counters_read(rig.sched, &counters);
	return counters;
}

/* A device whose rows are cheap beside its steps, and that says nearly the same again and again. */
static void init(uint32_t speculate, uint32_t regular_permille)
{
	rig_init(&rig);
	rig.device_options.work_ns = 100000;
	rig.device_options.regular_permille = regular_permille;
	rig.options.speculate = speculate;
	rig.options.prefix_cache = true;
}

static void start(uint32_t speculate, uint32_t regular_permille)
{
	init(speculate, regular_permille);
	rig_start(&rig);
	rig_add(&rig, 0, 0, 100000);
	rig_add(&rig, 1, 0, 100000);
}

/* ---- what is said --------------------------------------------------------------------- */

/* One session's stream, and what a STEP and a fork say behind it, for prompts and lengths that begin and end anywhere. */
static void play(enum attnd_kv kv, uint64_t seed, struct sched_counters *sum)
{
	static const struct attnd_sampling COLD;
	const struct attnd_sampling *sampling = seed % 2 ? &COLD : &WARM;
	struct attnd_open_params open = rig_open_params(0);
	struct attnd_generate_params params = { .sampling = *sampling };
	uint32_t history[1024], total, tokens, counted;
	struct attnd_completion fork;
	uint64_t session, id;

	start((uint32_t)(1 + seed % 15), seed % 3 == 2 ? 995 : 900);
	open.kv_k = open.kv_v = (uint8_t)kv;
	total = 1 + (uint32_t)base_rand_below(&seed, 150);
	tokens = params.max_tokens = 40 + (uint32_t)base_rand_below(&seed, 300);
	rig_tokens(history, total, seed);
	session = rig_open_with(&rig, 0, &open);
	id = rig_generate(&rig, 0, session, history, total, params, NULL, (struct attnd_request){ 0 });
	rig_run(&rig);
	total = take_tokens(id, sampling, history, total, 0, tokens);
	take_final(id, ATTND_OK, tokens, total - 1, ATTND_STOP_LENGTH);
	sum->draft_rows += counters_now().draft_rows;
	sum->drafts_accepted += counters_now().drafts_accepted;
	sum->steps += counters_now().steps;
	fork = rig_call(&rig, 0, rig_session_record(ATTND_OP_FORK, session, 0), NULL, NULL);
	assert_int_equal(fork.status, ATTND_OK);
	rig_step_check(&rig, 0, session, history, total, 1);
	rig_step_check(&rig, 0, fork.value, history, total, 1);
	/* The same words in a new session find what this one left in the cache. */
	counted = (uint32_t)counters_now().prefix_tokens;
	session = rig_open_with(&rig, 1, &open);
	rig_step_check(&rig, 1, session, history, total, total);
	if (total > 2 * 64 && kv != ATTND_KV_INT4)
		assert_true(counters_now().prefix_tokens > counted);
	rig_stop(&rig);
}

static void streams_say_the_same(void **state)
{
	static const enum attnd_kv formats[] = { ATTND_KV_F32, ATTND_KV_INT8, ATTND_KV_INT4 };
	struct sched_counters sum = { 0 };

	(void)state;
	for (uint32_t f = 0; f < 3; f++)
		for (uint64_t seed = 1; seed <= 30; seed++)
			play(formats[f], seed, &sum);
	print_message("# %llu steps, %llu tokens guessed, %llu right\n", (unsigned long long)sum.steps,
		(unsigned long long)sum.draft_rows, (unsigned long long)sum.drafts_accepted);
	assert_true(sum.drafts_accepted > 3000 && sum.draft_rows > sum.drafts_accepted + 1000);
}

/* A text that is known by heart takes few steps. */
static void guesses_save_steps(void **state)
{
	struct attnd_generate_params params = { .max_tokens = 400 };
	uint32_t history[512], total = 3;
	uint64_t id;

	(void)state;
	start(7, 1000);
	rig_tokens(history, total, 2);
	id = rig_generate(&rig, 0, rig_open(&rig, 0, 0), history, total, params, NULL, (struct attnd_request){ 0 });
	rig_run(&rig);
	take_tokens(id, &params.sampling, history, total, 0, 400);
	take_final(id, ATTND_OK, 400, 402, ATTND_STOP_LENGTH);
	assert_true(counters_now().steps < 110);
	assert_int_equal(counters_now().drafts_accepted, counters_now().draft_rows);
	assert_int_equal(counters_now().decode_rows + counters_now().prefill_rows + counters_now().drafts_accepted, 402);
	rig_stop(&rig);
}

/* The word that ends a stream is followed by nothing, wherever it stands among guesses. */
static void stops_among_guesses(void **state)
{
	(void)state;
	for (uint32_t at = 40; at < 72; at++) {
		struct attnd_generate_params params = { .max_tokens = at };
		uint32_t history[512], total = 3, stop;
		uint64_t session, id;

		start(15, 1000);
		rig_tokens(history, total, 3);
		session = rig_open(&rig, 0, 0);
		id = rig_generate(&rig, 0, session, history, total, params, NULL, (struct attnd_request){ 0 });
		rig_run(&rig);
		total = take_tokens(id, &params.sampling, history, total, 0, at);
		take_final(id, ATTND_OK, at, total - 1, ATTND_STOP_LENGTH);
		/* It goes on, up to a word that is no longer away than one guess reaches. */
		stop = drawn(&params.sampling, history, total);
		params.max_tokens = 100;
		params.stop_count = 1;
		id = rig_generate(&rig, 0, session, history + total - 1, 1, params, &stop, (struct attnd_request){ 0 });
		rig_run(&rig);
		for (uint32_t i = 0; history[total - 1] != stop || i == 0; i++)
			total = take_tokens(id, &params.sampling, history, total, i, 1);
		assert_int_equal(rig_take(&rig, id).value, ATTND_STOP_TOKEN);
		rig_step_check(&rig, 0, session, history, total, 1);
		rig_stop(&rig);
	}
}

static void context_ends_among_guesses(void **state)
{
	(void)state;
	for (uint32_t context = 90; context < 140; context++) {
		struct attnd_open_params open = rig_open_params(0);
		struct attnd_generate_params params = { .max_tokens = 1000 };
		uint32_t history[512], total = 10;
		uint64_t id;

		start(15, 1000);
		rig_tokens(history, total, 4);
		open.max_tokens = context;
		id = rig_generate(&rig, 0, rig_open_with(&rig, 0, &open), history, total, params, NULL,
			(struct attnd_request){ 0 });
		rig_run(&rig);
		take_tokens(id, &params.sampling, history, total, 0, context - 9);
		take_final(id, ATTND_OK, context - 9, context, ATTND_STOP_CONTEXT);
		/* No guess had no place. */
		assert_int_equal(counters_now().draft_rows, counters_now().drafts_accepted);
		rig_stop(&rig);
	}
}

/* A cancel, or the client's end, at any moment; with a vocabulary so large that one step's tokens go out over several polls. */
static void ends_at_any_moment(void **state)
{
	uint32_t midway = 0;

	(void)state;
	for (uint32_t polls = 5; polls < 130; polls++) {
		struct attnd_generate_params params = { .max_tokens = 300 };
		struct attnd_completion completion;
		uint32_t history[512], total = 10, taken = 0;
		uint64_t session, id;

		init(15, 990);
		rig.vocab = 40000;
		rig_start(&rig);
		rig_add(&rig, 0, 0, 100000);
		rig_tokens(history, total, 5);
		session = rig_open(&rig, 0, 0);
		id = rig_generate(&rig, 0, session, history, total, params, NULL, (struct attnd_request){ 0 });
		for (uint32_t i = 0; i < polls; i++) {
			if (rig_poll(&rig) == 0 || sim_device_next_ns(rig.device) == INT64_MAX)
				continue;
			if (rig.clock.fake_ns < sim_device_next_ns(rig.device))
				rig.clock.fake_ns = sim_device_next_ns(rig.device);
		}
		taken = rig.reply_count;
		if (polls % 3 == 0)
			rig_message(&rig, SCHED_CLIENT_GONE, 0, 0, 0);
		else
			rig_send(&rig, 0, (struct attnd_request){ .op = ATTND_OP_CANCEL, .args = id }, NULL, NULL);
		rig_run(&rig);
		if (polls % 3 != 0) {
			while (!((completion = rig_take(&rig, id)).flags & ATTND_CPL_FINAL)) {
				assert_int_equal(completion.position, total);
				history[total++] = (uint32_t)completion.value;
			}
			assert_int_equal(completion.status, ATTND_CANCELLED);
			assert_true(completion.position == total || completion.position + 1 == total || total == 10);
			midway += taken > 12;
			/* What is in the cache now is what was said. */
			if (completion.position + 1 == total)
				rig_step_check(&rig, 0, session, history, total, 1);
		}
		rig_stop(&rig);
	}
	assert_true(midway > 20);
}

/* ---- when ----------------------------------------------------------------------------- */

static void stream(uint64_t seed, int64_t between_ns, uint32_t tokens)
{
	struct attnd_generate_params params = { .max_tokens = tokens, .between_ns = between_ns };
	uint32_t history[1024], total = 10;
	uint64_t id;

	rig_tokens(history, total, seed);
	id = rig_generate(&rig, 0, rig_open(&rig, 0, 0), history, total, params, NULL, (struct attnd_request){ 0 });
	rig_run(&rig);
	total = take_tokens(id, &params.sampling, history, total, 0, tokens);
	take_final(id, ATTND_OK, tokens, total - 1, ATTND_STOP_LENGTH);
}

/* Of a stream of so many tokens, on a device where a row takes row_ns. */
static struct sched_counters counters_on(int64_t row_ns, uint32_t regular_permille, uint32_t tokens)
{
	struct sched_counters counters;

	init(7, regular_permille);
	rig.device_options.row_ns = row_ns;
	rig_start(&rig);
	rig_add(&rig, 0, 0, 100000);
	stream(6, 0, tokens);
	counters = counters_now();
	rig_stop(&rig);
	return counters;
}

static void only_where_it_pays(void **state)
{
	struct sched_counters cheap, dear, random;

	(void)state;
	cheap = counters_on(1000, 1000, 900);
	dear = counters_on(1000000, 1000, 900);
	random = counters_on(1000, 0, 900);
	print_message("# rows drafted where they are cheap %llu, dear %llu, wrong %llu\n", (unsigned long long)cheap.draft_rows,
		(unsigned long long)dear.draft_rows, (unsigned long long)random.draft_rows);
	assert_true(cheap.drafts_accepted > 600);
	/* Where a row takes as long as a step a guess that is right gains nothing: some to learn that, and one now and then. */
	assert_true(dear.draft_rows < 90);
	assert_true(random.draft_rows < 90);
}

/* Guesses are made as far as the time between tokens allows, and nobody is late for them: not even while nobody knows yet how long
 * steps with guesses take. */
static void deadlines_come_first(void **state)
{
	uint64_t before;

	(void)state;
	for (uint32_t known = 0; known < 2; known++) {
		init(7, 1000);
		rig.device_options.row_ns = 20000;
		rig_start(&rig);
		rig_add(&rig, 0, 0, 100000);
		if (known)
			stream(6, 0, 300);
		before = counters_now().drafts_accepted;
		stream(7, 300000, 300); /* eight rows take 260 us and something */
		assert_true(known ? counters_now().drafts_accepted > before + 100 : counters_now().draft_rows == 0);
		before = counters_now().draft_rows;
		stream(8, 125000, 300); /* one takes 120 */
		assert_int_equal(counters_now().draft_rows, before);
		rig_stop(&rig);
	}
}

/* While prompts are computed, however long, no stream guesses; and it never makes others wait. */
static void never_beside_prompts(void **state)
{
	struct attnd_generate_params params = { .max_tokens = 900 };
	uint32_t history[600], prompt[600], together = 0;
	const struct sim_device_step *step;
	uint64_t before;

	(void)state;
	start(2, 1000); /* so few would be cheap enough */
	rig_tokens(history, 10, 7);
	rig_tokens(prompt, 600, 8);
	rig_generate(&rig, 0, rig_open(&rig, 0, 0), history, 10, params, NULL, (struct attnd_request){ 0 });
	while (counters_now().drafts_accepted < 50)
		rig_poll(&rig), rig.clock.fake_ns += 60000;
	before = counters_now().drafts_accepted;
	rig_step(&rig, 1, rig_open_now(&rig, 1, 0), prompt, 600);
	for (uint32_t i = 0; i < 60; i++) {
		rig_poll(&rig);
		rig.clock.fake_ns += 30000;
		step = sim_device_last_step(rig.device);
		if (step->seq_count == 2 && step->seqs[0].rows + step->seqs[1].rows > 9) {
			assert_true(step->seqs[0].rows == 1 || step->seqs[1].rows == 1);
			together++;
		}
	}
	assert_true(together > 5);
	rig_run(&rig);
	assert_true(counters_now().drafts_accepted > before + 50);
	rig.reply_count = 0;
	rig_stop(&rig);
}

/* Guesses take no credit that another session of the client may want, and give back what they did not use. */
static void credits_are_nobody_elses(void **state)
{
	struct attnd_generate_params params = { .max_tokens = 60 };
	uint32_t histories[3][512], totals[3], got[3] = { 0 };
	uint64_t ids[3];

	(void)state;
	init(15, 1000);
	rig_start(&rig);
	rig_add(&rig, 0, 0, 0);
	for (uint32_t s = 0; s < 3; s++) {
		totals[s] = 20;
		rig_tokens(histories[s], 20, s);
		ids[s] = rig_generate(&rig, 0, rig_open_now(&rig, 0, 0), histories[s], 20, params, NULL,
			(struct attnd_request){ 0 });
	}
	for (uint32_t given = 0, tokens = 0; given < 180; given += 9) {
		rig_message(&rig, SCHED_CREDIT, 0, 0, 9);
		rig_run(&rig);
		tokens = 0;
		for (uint32_t i = 0; i < rig.reply_count; i++)
			tokens += !(rig.replies[i].completion.flags & ATTND_CPL_FINAL);
		assert_int_equal(tokens, given + 9);
	}
	for (uint32_t s = 0; s < 3; s++) {
		take_tokens(ids[s], &params.sampling, histories[s], totals[s], got[s], 60);
		take_final(ids[s], ATTND_OK, 60, 79, ATTND_STOP_LENGTH);
	}
	assert_true(counters_now().drafts_accepted > 0);
	rig_stop(&rig);
}

/* Streams of several tenants, some of which know their text by heart and some none: each says what it says alone, and the
 * device's time is theirs by what they had of it. */
static void crowds(void **state)
{
	enum { STREAMS = 24, TOKENS = 200 };
	struct attnd_generate_params params = { .max_tokens = TOKENS, .sampling = WARM };
	static uint32_t histories[STREAMS][512];
	uint64_t ids[STREAMS];

	(void)state;
	init(7, 960);
	rig_start(&rig);
	for (uint32_t c = 0; c < 4; c++)
		rig_add(&rig, c, c, 100000);
	for (uint32_t s = 0; s < STREAMS; s++) {
		rig_tokens(histories[s], 30, s);
		ids[s] = rig_generate(&rig, s % 4, rig_open_now(&rig, s % 4, 0), histories[s], 30, params, NULL,
			(struct attnd_request){ 0 });
	}
	rig_run(&rig);
	for (uint32_t s = 0; s < STREAMS; s++) {
		take_tokens(ids[s], &params.sampling, histories[s], 30, 0, TOKENS);
		take_final(ids[s], ATTND_OK, TOKENS, 30 + TOKENS - 1, ATTND_STOP_LENGTH);
	}
	print_message("# %llu steps, %llu tokens guessed, %llu right\n", (unsigned long long)counters_now().steps,
		(unsigned long long)counters_now().draft_rows, (unsigned long long)counters_now().drafts_accepted);
	assert_true(counters_now().drafts_accepted > 100);
	rig_stop(&rig);
}

/* A step that failed ends its sessions; others go on guessing. */
static void a_failed_step(void **state)
{
	struct attnd_generate_params params = { .max_tokens = 200 };
	uint32_t history[512];
	uint64_t id;

	(void)state;
	start(7, 1000);
	rig_tokens(history, 10, 9);
	id = rig_generate(&rig, 0, rig_open(&rig, 0, 0), history, 10, params, NULL, (struct attnd_request){ 0 });
	for (uint32_t i = 0; i < 100; i++)
		rig_poll(&rig), rig.clock.fake_ns += 60000;
	assert_true(counters_now().drafts_accepted > 30);
	sim_device_fail(rig.device, KERN_WORK_STEP, 1);
	rig_run(&rig);
	while (rig_has(&rig, id))
		if (rig_take(&rig, id).flags & ATTND_CPL_FINAL)
			break;
	assert_int_equal(counters_now().by_status[ATTND_DEVICE_FAILED], 1);
	assert_false(rig_has(&rig, id));
	rig_stop(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(streams_say_the_same),
		cmocka_unit_test(guesses_save_steps),
		cmocka_unit_test(stops_among_guesses),
		cmocka_unit_test(context_ends_among_guesses),
		cmocka_unit_test(ends_at_any_moment),
		cmocka_unit_test(only_where_it_pays),
		cmocka_unit_test(deadlines_come_first),
		cmocka_unit_test(never_beside_prompts),
		cmocka_unit_test(credits_are_nobody_elses),
		cmocka_unit_test(crowds),
		cmocka_unit_test(a_failed_step),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
