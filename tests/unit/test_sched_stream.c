/*
 * GENERATE: tokens, stops, sampling, credits and parking, and a reply queue that nobody drains.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "model/model_sample.h"
#include "tests/unit/sched_rig.h"

static struct rig rig;

static const struct attnd_sampling WARM = {
	.seed = 42, .temperature = 1.5f, .top_p = 1.0f, .repeat_penalty = 1.3f, .repeat_window = 20
};

/* What should be drawn after this history. */
static uint32_t drawn(
	const struct attnd_sampling *sampling, const uint32_t *history, uint32_t count)
{
	static unsigned char scratch[1 << 16];
	uint64_t hash = sim_row_hash(history, count);
	struct model_sampling to = { .seed = sampling->seed,
		.temperature = sampling->temperature,
		.top_p = sampling->top_p,
		.min_p = sampling->min_p,
		.repeat_penalty = sampling->repeat_penalty,
		.top_k = sampling->top_k,
		.repeat_window = sampling->repeat_window };
	uint32_t window = to.repeat_window < count ? to.repeat_window : count;
	float logits[RIG_VOCAB];

	if (to.top_p == 0.0f)
		return sim_argmax(hash, RIG_VOCAB);
	assert_true(model_sample_scratch_bytes(RIG_VOCAB) <= sizeof(scratch));
	for (uint32_t i = 0; i < RIG_VOCAB; i++)
		logits[i] = sim_logit(hash, i);
	return model_sample(
		&to, logits, RIG_VOCAB, history + count - window, window, count, scratch);
}

/* Takes `count` stream completions that continue the history, appends them to it, and returns its
 * new length. */
static uint32_t take_tokens(uint64_t id, const struct attnd_sampling *sampling, uint32_t *history,
	uint32_t total, uint32_t first, uint32_t count)
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

static void take_final(
	uint64_t id, enum attnd_status status, uint32_t sequence, uint32_t position, uint64_t value)
{
	struct attnd_completion completion = rig_take(&rig, id);

	assert_int_equal(completion.status, status);
	assert_int_equal(completion.flags & ATTND_CPL_FINAL, ATTND_CPL_FINAL);
	assert_int_equal(completion.sequence, sequence);
	assert_int_equal(completion.position, position);
	assert_int_equal(completion.value, value);
	assert_false(rig_has(&rig, id));
}

static void tokens_and_continuation(void **state)
{
	struct attnd_generate_params params = { .max_tokens = 90 };
	uint32_t history[512], total = 70, *out;
	uint64_t session, id;

	(void)state;
	rig_start_plain(&rig);
	rig_tokens(history, total, 1);
	session = rig_open(&rig, 0, 0);
	out = (uint32_t *)(void *)(rig.arenas[0] + rig.used[0] + 64 +
		64 * 5); /* where the rig will place it */
	id = rig_generate(&rig, 0, session, history, total, params, NULL,
		(struct attnd_request){ .out_capacity = 4 * 80 + 3 });
	rig_run(&rig);
	total = take_tokens(id, &params.sampling, history, total, 0, 90);
	take_final(id, ATTND_OK, 90, 70 + 90 - 1, ATTND_STOP_LENGTH);
	assert_memory_equal(out, history + 70, 4 * 80); /* as far as there was room */
	/* The last token was not fed yet: it comes first now. */
	params.max_tokens = 5;
	id = rig_generate(&rig, 0, session, history + total - 1, 1, params, NULL,
		(struct attnd_request){ 0 });
	rig_run(&rig);
	total = take_tokens(id, &params.sampling, history, total, 0, 5);
	take_final(id, ATTND_OK, 5, total - 1, ATTND_STOP_LENGTH);
	/* and a STEP goes on likewise. */
	rig_step_check(&rig, 0, session, history, total, 1);
	rig_stop(&rig);
}

static void stop_ids(void **state)
{
	struct attnd_generate_params params = { .max_tokens = 100 };
	uint32_t history[512], total = 3, stops[2] = { 0, 1u << 30 };
	uint64_t session, id;
	uint32_t expected;

	(void)state;
	rig_start_plain(&rig);
	rig_tokens(history, total, 2);
	for (expected = 0; expected < 6; expected++)
		history[total + expected] = drawn(&params.sampling, history, total + expected);
	stops[0] = history[total + 5];
	for (expected = 0; history[total + expected] != stops[0]; expected++)
		;
	session = rig_open(&rig, 0, 0);
	params.stop_count = 2;
	id = rig_generate(
		&rig, 0, session, history, total, params, stops, (struct attnd_request){ 0 });
	rig_run(&rig);
	take_tokens(id, &params.sampling, history, total, 0, expected + 1);
	take_final(id, ATTND_OK, expected + 1, total + expected, ATTND_STOP_TOKEN);
	rig_stop(&rig);
}

static void context_ends_a_stream(void **state)
{
	struct attnd_open_params open = rig_open_params(0);
	struct attnd_generate_params params = { .max_tokens = 100 };
	uint32_t history[512], total = 10;
	uint64_t session, id;

	(void)state;
	rig_start_plain(&rig);
	rig_tokens(history, total, 3);
	open.max_tokens = 20;
	session = rig_open_with(&rig, 0, &open);
	id = rig_generate(
		&rig, 0, session, history, total, params, NULL, (struct attnd_request){ 0 });
	rig_run(&rig);
	take_tokens(id, &params.sampling, history, total, 0, 11);
	take_final(id, ATTND_OK, 11, 20, ATTND_STOP_CONTEXT);
	id = rig_generate(&rig, 0, session, history, 1, params, NULL, (struct attnd_request){ 0 });
	rig_run(&rig);
	take_final(id, ATTND_CONTEXT_FULL, 0, 20, 0);
	rig_stop(&rig);
}

static void pool_ends_a_stream(void **state)
{
	struct attnd_generate_params params = { .max_tokens = 1000 };
	uint32_t history[1100], total = 10;
	struct attnd_completion completion;
	uint64_t session, id;

	(void)state;
	rig_init(&rig);
	rig.options.kv_extent_bytes = 16 << 10;
	rig.options.kv_bytes = 48 << 10;
	rig_start(&rig);
	rig_add(&rig, 0, 0, 2000);
	rig_tokens(history, total, 4);
	session = rig_open(&rig, 0, 0);
	id = rig_generate(
		&rig, 0, session, history, total, params, NULL, (struct attnd_request){ 0 });
	rig_run(&rig);
	for (;;) {
		completion = rig_take(&rig, id);
		if (completion.flags & ATTND_CPL_FINAL)
			break;
		assert_int_equal(completion.value, drawn(&params.sampling, history, total));
		history[total++] = (uint32_t)completion.value;
	}
	assert_int_equal(completion.status, ATTND_NO_PAGES);
	assert_int_equal(completion.position, total - 1);
	assert_int_equal(completion.position % 64, 0);
	rig_stop(&rig);
}

/* Sampled streams, alone and among others that do other things, with other chunks: the same tokens.
 */
static void sampling_depends_on_seed_and_position(void **state)
{
	struct attnd_generate_params params = { .max_tokens = 60, .sampling = WARM };
	uint32_t history[512], noise[512], total;
	uint64_t session, id;

	(void)state;
	for (uint32_t round = 0; round < 3; round++) {
		rig_init(&rig);
		rig.options.prefill_chunk = round == 1 ? 7 : 64;
		rig_start(&rig);
		rig_add(&rig, 0, 0, 1000);
		rig_add(&rig, 1, 1, 100000);
		rig_tokens(history, 100, 5);
		rig_tokens(noise, 512, 6);
		for (uint32_t i = 0; i < 10 && round == 2; i++)
			rig_generate(&rig, 1, rig_open_now(&rig, 1, i % 2), noise + i, 40 + i,
				params, NULL, (struct attnd_request){ 0 });
		session = rig_open_now(&rig, 0, 0);
		id = rig_generate(
			&rig, 0, session, history, 100, params, NULL, (struct attnd_request){ 0 });
		rig_run(&rig);
		total = take_tokens(id, &WARM, history, 100, 0, 60);
		take_final(id, ATTND_OK, 60, total - 1, ATTND_STOP_LENGTH);
		rig_stop(&rig);
	}
}

static void sampled_steps(void **state)
{
	struct attnd_open_params open = rig_open_params(0);
	uint32_t history[64], *out;
	struct attnd_step_args args = { .output = ATTND_OUT_SAMPLED, .select = ATTND_SELECT_ALL };
	struct attnd_request record;
	uint64_t session;

	(void)state;
	rig_start_plain(&rig);
	open.sampling = WARM;
	session = rig_open_with(&rig, 0, &open);
	rig_tokens(history, 64, 7);
	record = rig_step_record(session, 64, ATTND_OUT_NONE);
	memcpy(&record.args, &args, sizeof(args));
	record.out_capacity = 256;
	out = rig_loan(&rig, 0, 256);
	assert_int_equal(
		rig_call(&rig, 0, record, memcpy(rig_loan(&rig, 0, 256), history, 256), out).status,
		ATTND_OK);
	for (uint32_t i = 0; i < 64; i++)
		assert_int_equal(out[i], drawn(&WARM, history, i + 1));
	rig_stop(&rig);
}

static void streams_park_without_credit(void **state)
{
	struct attnd_generate_params params = { .max_tokens = 10 };
	uint32_t a[512], b[512], total_a = 50, total_b = 20;
	uint64_t id_a, id_b;
	struct sched_counters counters;

	(void)state;
	rig_init(&rig);
	rig_start(&rig);
	rig_add(&rig, 0, 0, 4);
	rig_add(&rig, 1, 0, 100);
	rig_tokens(a, total_a, 8);
	rig_tokens(b, total_b, 9);
	id_a = rig_generate(&rig, 0, rig_open(&rig, 0, 0), a, total_a, params, NULL,
		(struct attnd_request){ 0 });
	id_b = rig_generate(&rig, 1, rig_open(&rig, 1, 0), b, total_b, params, NULL,
		(struct attnd_request){ 0 });
	rig_run(&rig);
	/* The other client's stream ran to its end. */
	take_tokens(id_b, &params.sampling, b, total_b, 0, 10);
	take_final(id_b, ATTND_OK, 10, total_b + 9, ATTND_STOP_LENGTH);
	total_a = take_tokens(id_a, &params.sampling, a, total_a, 0, 4);
	assert_false(rig_has(&rig, id_a));
	sched_counters_read(rig.sched, &counters);
	assert_int_equal(counters.parked, 1);
	rig_message(&rig, SCHED_CREDIT, 0, 0, 1);
	rig_run(&rig);
	total_a = take_tokens(id_a, &params.sampling, a, total_a, 4, 1);
	assert_false(rig_has(&rig, id_a));
	rig_message(&rig, SCHED_CREDIT, 0, 0, 5);
	rig_run(&rig);
	total_a = take_tokens(id_a, &params.sampling, a, total_a, 5, 5);
	take_final(
		id_a, ATTND_OK, 10, total_a - 1, ATTND_STOP_LENGTH); /* the final one needs none */
	rig_stop(&rig);
}

/* The deadline between tokens is the daemon's: a client that is slow to consume does not let it pass. */
static void waiting_for_credit_is_no_delay(void **state)
{
	struct attnd_generate_params params = { .max_tokens = 10, .between_ns = 100000 };
	uint32_t history[512], total = 50;
	uint64_t id;

	(void)state;
	rig_init(&rig);
	rig_start(&rig);
	rig_add(&rig, 0, 0, 4);
	rig_tokens(history, total, 8);
	id = rig_generate(&rig, 0, rig_open(&rig, 0, 0), history, total, params, NULL,
		(struct attnd_request){ 0 });
	rig_run(&rig);
	total = take_tokens(id, &params.sampling, history, total, 0, 4);
	rig.clock.fake_ns += 10000000;
	rig_run(&rig);
	assert_false(rig_has(&rig, id)); /* it waits, and has not expired */
	rig_message(&rig, SCHED_CREDIT, 0, 0, 6);
	rig_run(&rig);
	total = take_tokens(id, &params.sampling, history, total, 4, 6);
	take_final(id, ATTND_OK, 10, total - 1, ATTND_STOP_LENGTH);
	rig_stop(&rig);
}

/* Many streams of one client share few credits: each token spends one. */
static void credits_are_shared(void **state)
{
	enum { STREAMS = 20, TOKENS = 6 };
	struct attnd_generate_params params = { .max_tokens = TOKENS };
	uint32_t history[20], tokens = 0;

	(void)state;
	rig_init(&rig);
	rig_start(&rig);
	rig_add(&rig, 0, 0, 0);
	rig_tokens(history, 20, 10);
	for (uint32_t i = 0; i < STREAMS; i++)
		rig_generate(&rig, 0, rig_open_now(&rig, 0, i % 2), history, 1 + i % 5, params,
			NULL, (struct attnd_request){ 0 });
	rig_run(&rig);
	assert_int_equal(rig.reply_count, 0);
	for (uint32_t round = 1; round <= STREAMS * TOKENS; round++) {
		rig_message(&rig, SCHED_CREDIT, 0, 0, 1);
		rig_run(&rig);
		tokens = 0;
		for (uint32_t i = 0; i < rig.reply_count; i++)
			tokens += !(rig.replies[i].completion.flags & ATTND_CPL_FINAL);
		assert_int_equal(tokens, round);
	}
	assert_int_equal(rig.reply_count, STREAMS * TOKENS + STREAMS);
	rig_stop(&rig);
}

/* A stream that was given the only credit and is cancelled before it could use it leaves it to the
 * next. */
static void a_cancelled_stream_leaves_its_credit(void **state)
{
	struct attnd_generate_params params = { .max_tokens = 6 };
	uint32_t history[20];
	uint64_t ids[2];

	(void)state;
	rig_init(&rig);
	rig_start(&rig);
	rig_add(&rig, 0, 0, 0);
	rig_tokens(history, 3, 11);
	for (uint32_t i = 0; i < 2; i++) {
		ids[i] = rig_generate(&rig, 0, rig_open(&rig, 0, 0), history, 3, params, NULL,
			(struct attnd_request){ 0 });
		rig_run(&rig);
	}
	rig_message(&rig, SCHED_CREDIT, 0, 0, 1);
	rig_send(&rig, 0, (struct attnd_request){ .op = ATTND_OP_CANCEL, .args = ids[0] }, NULL,
		NULL);
	rig_run(&rig);
	take_final(ids[0], ATTND_CANCELLED, 0, 0, 0);
	take_tokens(ids[1], &params.sampling, history, 3, 0, 1);
	rig_stop(&rig);
}

/* A front that does not drain: nothing is dropped, streams wait, and all arrives once it drains
 * again. */
static void undrained_replies(void **state)
{
	struct attnd_generate_params params = { .max_tokens = 200 };
	uint32_t histories[4][512], total = 5;
	uint64_t ids[4], nops[600];

	(void)state;
	rig_init(&rig);
	rig.options.requests_max = 64;
	rig_start(&rig);
	rig_add(&rig, 0, 0, 100000);
	for (uint32_t i = 0; i < 4; i++) {
		rig_tokens(histories[i], total, 20 + i);
		ids[i] = rig_generate(&rig, 0, rig_open_now(&rig, 0, 0), histories[i], total,
			params, NULL, (struct attnd_request){ 0 });
	}
	rig.stop_draining[0] = true;
	for (uint32_t i = 0; i < 600; i++)
		nops[i] =
			rig_send(&rig, 0, (struct attnd_request){ .op = ATTND_OP_NOP }, NULL, NULL);
	for (uint32_t i = 0; i < 1000; i++) {
		rig_poll(&rig);
		rig.clock.fake_ns += 20000;
	}
	assert_true(base_spsc_count(&rig.in[0]) > 0);
	assert_int_equal(rig.reply_count, 0);
	rig.stop_draining[0] = false;
	rig_run(&rig);
	for (uint32_t i = 0; i < 600; i++)
		assert_int_equal(rig_take(&rig, nops[i]).status, ATTND_OK);
	for (uint32_t i = 0; i < 4; i++) {
		take_tokens(ids[i], &params.sampling, histories[i], total, 0, 200);
		take_final(ids[i], ATTND_OK, 200, total + 199, ATTND_STOP_LENGTH);
	}
	rig_stop(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tokens_and_continuation),
		cmocka_unit_test(stop_ids),
		cmocka_unit_test(context_ends_a_stream),
		cmocka_unit_test(pool_ends_a_stream),
		cmocka_unit_test(sampling_depends_on_seed_and_position),
		cmocka_unit_test(sampled_steps),
		cmocka_unit_test(streams_park_without_credit),
		cmocka_unit_test(waiting_for_credit_is_no_delay),
		cmocka_unit_test(credits_are_shared),
		cmocka_unit_test(a_cancelled_stream_leaves_its_credit),
		cmocka_unit_test(undrained_replies),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
