/*
 * Sessions and steps of the scheduler: results against the history, outputs, chunk boundaries,
 * fork, truncate, copy before write, and that neighbours do not matter.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/sched_rig.h"

static struct rig rig;

static void nop_is_answered_in_the_poll_that_takes_it(void **state)
{
	unsigned char *in, *out;
	struct attnd_completion completion;
	uint64_t id;

	(void)state;
	rig_start_plain(&rig);
	rig_settle(&rig);
	in = rig_loan(&rig, 0, 100);
	out = rig_loan(&rig, 0, 100);
	memset(in, 7, 100);
	memset(out, 0, 100);
	id = rig_send(&rig, 0,
		(struct attnd_request){ .op = ATTND_OP_NOP, .in_bytes = 100, .out_capacity = 60 },
		in, out);
	rig_poll(&rig);
	completion = rig_take(&rig, id);
	assert_int_equal(completion.status, ATTND_OK);
	assert_int_equal(completion.flags, ATTND_CPL_FINAL);
	assert_int_equal(completion.result_bytes, 60);
	assert_int_equal(out[59], 7);
	assert_int_equal(out[60], 0);
	assert_true(completion.received_ns > 0 &&
		completion.admitted_ns >= completion.received_ns &&
		completion.done_ns >= completion.admitted_ns);
	rig_stop(&rig);
}

static void steps_continue_a_session(void **state)
{
	uint32_t history[300];
	uint64_t session;
	uint32_t total = 0;

	(void)state;
	rig_start_plain(&rig);
	rig_tokens(history, 300, 1);
	session = rig_open(&rig, 0, 0);
	for (uint32_t count = 1; total + count <= 300; count = count * 3 % 100 + 1) {
		total += count;
		rig_step_check(&rig, 0, session, history, total, count);
	}
	assert_true(total > 200);
	assert_true(sim_device_stats(rig.device)->most_rows <= rig.options.prefill_chunk);
	rig_stop(&rig);
}

/* What a STEP of `total` tokens in one request answers, for one way of selecting and one kind of
 * output. */
static struct attnd_completion step_with(uint64_t session, const uint32_t *tokens, uint32_t total,
	struct attnd_step_args args, const uint32_t *chosen, void *out, uint32_t capacity)
{
	struct attnd_request record = rig_step_record(session, total, ATTND_OUT_NONE);
	uint32_t *in = rig_loan(&rig, 0, sizeof(*in) * (total + args.select_count + 1));

	memcpy(in, tokens, sizeof(*in) * total);
	if (args.select_count)
		memcpy(in + total, chosen, sizeof(*in) * args.select_count);
	record.in_bytes = (uint32_t)sizeof(*in) * (total + args.select_count);
	record.out_capacity = capacity;
	memcpy(&record.args, &args, sizeof(args));
	return rig_call(&rig, 0, record, in, out);
}

static void outputs_of_all_rows(void **state)
{
	enum { TOTAL = 100 };
	uint32_t tokens[TOTAL];
	const uint32_t bytes[ATTND_OUT_END] = { 0, 4 * RIG_VOCAB, 12 * 5, 4, 4 * RIG_WIDTH, 4 };

	(void)state;
	rig_start_plain(&rig);
	rig_tokens(tokens, TOTAL, 2);
	for (uint32_t output = 0; output < ATTND_OUT_END; output++) {
		struct attnd_step_args args = { .output = (uint8_t)output,
			.select = ATTND_SELECT_ALL,
			.top_k = output == ATTND_OUT_TOP ? 5 : 0 };
		uint32_t capacity = bytes[output] * TOTAL;
		unsigned char *out;
		struct attnd_completion completion;
		uint64_t session = rig_open(&rig, 0, 0);

		rig_rewind(&rig, 0);
		out = rig_loan(&rig, 0, capacity + 1);
		completion = step_with(session, tokens, TOTAL, args, NULL, out, capacity);
		assert_int_equal(completion.status, ATTND_OK);
		assert_int_equal(completion.result_bytes, capacity);
		for (uint32_t r = 0; r < TOTAL && output != ATTND_OUT_NONE; r++) {
			uint64_t hash = sim_row_hash(tokens, r + 1);
			const unsigned char *row = out + (size_t)bytes[output] * r;
			const struct attnd_top *top = (const void *)row;
			uint32_t best = sim_argmax(hash, RIG_VOCAB);

			if (output == ATTND_OUT_LOGITS)
				assert_true(((const float *)(const void *)row)[r % RIG_VOCAB] ==
					sim_logit(hash, r % RIG_VOCAB));
			else if (output == ATTND_OUT_HIDDEN)
				assert_true(((const float *)(const void *)row)[r % RIG_WIDTH] ==
					sim_hidden(hash, r % RIG_WIDTH));
			else if (output == ATTND_OUT_TOP)
				assert_true(top[0].id == best &&
					top[0].logit == sim_logit(hash, best) &&
					top[1].logit < top[0].logit &&
					top[0].log_probability < 0.0f);
			else /* greedy sampling, as the session says nothing else */
				assert_int_equal(*(const uint32_t *)(const void *)row, best);
		}
	}
	/* Out rows per step were limited, so these took several. */
	assert_true(sim_device_stats(rig.device)->most_outs <= rig.options.out_rows_max);
	rig_stop(&rig);
}

static void outputs_of_chosen_rows(void **state)
{
	enum { TOTAL = 150 };
	const uint32_t chosen[] = { 0, 31, 32, 33, 64, 149 };
	uint32_t tokens[TOTAL], *out;
	struct attnd_step_args args = {
		.output = ATTND_OUT_ARGMAX, .select = ATTND_SELECT_CHOSEN, .select_count = 6
	};
	struct attnd_completion completion;

	(void)state;
	rig_start_plain(&rig);
	rig_tokens(tokens, TOTAL, 3);
	out = rig_loan(&rig, 0, 6 * sizeof(*out));
	completion = step_with(rig_open(&rig, 0, 0), tokens, TOTAL, args, chosen, out, 24);
	assert_int_equal(completion.status, ATTND_OK);
	assert_int_equal(completion.result_bytes, 24);
	for (uint32_t i = 0; i < 6; i++)
		assert_int_equal(
			out[i], sim_argmax(sim_row_hash(tokens, chosen[i] + 1), RIG_VOCAB));
	assert_int_equal(completion.value, out[5]);
	rig_stop(&rig);
}

static void embedding_rows(void **state)
{
	enum { TOTAL = 40 };
	uint32_t tokens[TOTAL + 1];
	struct attnd_request record;
	struct attnd_completion completion;
	uint64_t session;
	float *in;

	(void)state;
	rig_start_plain(&rig);
	session = rig_open(&rig, 0, 0);
	in = rig_loan(&rig, 0, sizeof(*in) * RIG_WIDTH * TOTAL);
	for (uint32_t i = 0; i < RIG_WIDTH * TOTAL; i++)
		in[i] = (float)i;
	for (uint32_t r = 0; r < TOTAL; r++)
		tokens[r] = sim_embedding_token(in + r * RIG_WIDTH, RIG_WIDTH);
	record = rig_step_record(session, TOTAL, ATTND_OUT_ARGMAX);
	record.flags = ATTND_REQ_ROWS;
	record.in_bytes = (uint32_t)sizeof(*in) * RIG_WIDTH * TOTAL;
	completion = rig_call(&rig, 0, record, in, rig_loan(&rig, 0, 64));
	assert_int_equal(completion.status, ATTND_OK);
	assert_int_equal(completion.value, sim_argmax(sim_row_hash(tokens, TOTAL), RIG_VOCAB));
	tokens[TOTAL] = 5;
	rig_step_check(&rig, 0, session, tokens, TOTAL + 1, 1);
	record.in_bytes -= 4;
	assert_int_equal(rig_call(&rig, 0, record, in, in).status, ATTND_BAD_SHAPE);
	rig_stop(&rig);
}

/* A session's results alone, and amid 31 others of both models that work at the same time. */
static void neighbours_do_not_matter(void **state)
{
	enum { OTHERS = 31, TOTAL = 130 };
	uint32_t histories[OTHERS + 1][TOTAL];
	uint64_t sessions[OTHERS + 1], ids[OTHERS + 1];

	(void)state;
	rig_start_plain(&rig);
	for (uint32_t s = 0; s <= OTHERS; s++) {
		rig_tokens(histories[s], TOTAL, 100 + s);
		sessions[s] = rig_open(&rig, s % 2, s % 3 == 0);
	}
	for (uint32_t from = 0, count = 1; from < TOTAL;
		from += count, count = count * 5 % 37 + 1) {
		if (count > TOTAL - from)
			count = TOTAL - from;
		rig_rewind(&rig, 0);
		rig_rewind(&rig, 1);
		for (uint32_t s = 0; s <= OTHERS; s++)
			ids[s] = rig_step(&rig, s % 2, sessions[s], histories[s] + from, count);
		rig_run(&rig);
		for (uint32_t s = 0; s <= OTHERS; s++) {
			struct attnd_completion completion = rig_take(&rig, ids[s]);

			assert_int_equal(completion.status, ATTND_OK);
			assert_int_equal(completion.value,
				sim_argmax(sim_row_hash(histories[s], from + count), RIG_VOCAB));
		}
	}
	assert_true(sim_device_stats(rig.device)->most_seqs >= 10);
	rig_stop(&rig);
}

static void requests_of_a_session_run_in_order(void **state)
{
	uint32_t history[200];
	uint64_t session, ids[20];

	(void)state;
	rig_start_plain(&rig);
	rig_tokens(history, 200, 4);
	session = rig_open(&rig, 0, 1);
	for (uint32_t i = 0; i < 20; i++)
		ids[i] = rig_step(&rig, 0, session, history + 10 * i, 10);
	rig_run(&rig);
	for (uint32_t i = 0; i < 20; i++) {
		struct attnd_completion completion = rig_take(&rig, ids[i]);

		assert_int_equal(completion.position, 10 * (i + 1));
		assert_int_equal(completion.value,
			sim_argmax(sim_row_hash(history, 10 * (i + 1)), RIG_VOCAB));
	}
	rig_stop(&rig);
}

static uint64_t fork_of(uint64_t session, uint32_t keep)
{
	struct attnd_completion completion =
		rig_call(&rig, 0, rig_session_record(ATTND_OP_FORK, session, keep), NULL, NULL);

	assert_int_equal(completion.status, ATTND_OK);
	return completion.value;
}

static void forks_share_and_copy(void **state)
{
	uint32_t a[200], b[200], c[200];
	uint64_t first, second, third, copies;
	struct sched_counters before, after;

	(void)state;
	rig_start_plain(&rig);
	rig_tokens(a, 200, 5);
	first = rig_open(&rig, 0, 0);
	rig_step_check(&rig, 0, first, a, 100, 100);
	sched_counters_read(rig.sched, &before);
	second = fork_of(first, 0);
	third = fork_of(first, 70);
	sched_counters_read(rig.sched, &after);
	assert_int_equal(after.blocks_used, before.blocks_used); /* shared */
	copies = sim_device_stats(rig.device)->works[KERN_WORK_COPY];
	memcpy(b, a, sizeof(b));
	memcpy(c, a, sizeof(c));
	rig_tokens(b + 100, 100, 6);
	rig_tokens(c + 70, 130, 7);
	/* All three write to the block that holds 64 .. 127: two copies, the last owner keeps it.
	 */
	rig_step_check(&rig, 0, second, b, 120, 20);
	rig_step_check(&rig, 0, third, c, 90, 20);
	rig_step_check(&rig, 0, first, a, 150, 50);
	assert_int_equal(sim_device_stats(rig.device)->works[KERN_WORK_COPY] - copies, 2);
	rig_step_check(&rig, 0, second, b, 200, 80);
	rig_step_check(&rig, 0, third, c, 200, 110);
	rig_step_check(&rig, 0, first, a, 200, 50);
	/* A fork outlives its parent. */
	assert_int_equal(
		rig_call(&rig, 0, rig_session_record(ATTND_OP_CLOSE, first, 0), NULL, NULL).status,
		ATTND_OK);
	rig_tokens(b + 100, 1, 8);
	assert_int_equal(
		rig_call(&rig, 0, rig_session_record(ATTND_OP_TRUNCATE, second, 100), NULL, NULL)
			.position,
		100);
	rig_step_check(&rig, 0, second, b, 101, 1);
	rig_stop(&rig);
}

/* One token each of eight sessions behind 320 tokens, forks of one or each with its own blocks: for
 * how long the step is predicted, with the same past either way. */
static uint64_t predicted_ns(bool forks)
{
	enum { COUNT = 8, TOKENS = 320 };
	struct sched_counters before, after;
	uint64_t apart[COUNT], together[COUNT], ids[COUNT];
	uint32_t tokens[TOKENS + COUNT];

	rig_start_plain(&rig);
	rig_tokens(tokens, TOKENS + COUNT, 3);
	for (uint32_t i = 0; i < COUNT; i++) {
		apart[i] = rig_open(&rig, 0, 0);
		rig_step_check(&rig, 0, apart[i], tokens, TOKENS, TOKENS);
		together[i] = fork_of(apart[0], 0);
	}
	sched_counters_read(rig.sched, &before);
	for (uint32_t i = 0; i < COUNT; i++)
		ids[i] = rig_step(&rig, 0, forks ? together[i] : apart[i], tokens + TOKENS + i, 1);
	rig_run(&rig);
	for (uint32_t i = 0; i < COUNT; i++)
		assert_int_equal(rig_take(&rig, ids[i]).status, ATTND_OK);
	sched_counters_read(rig.sched, &after);
	assert_int_equal(after.steps - before.steps, 1);
	rig_stop(&rig);
	return after.predicted_ns - before.predicted_ns;
}

static void shared_blocks_are_read_once(void **state)
{
	(void)state;
	assert_true(predicted_ns(true) < predicted_ns(false));
}

static void many_forks_write_at_once(void **state)
{
	enum { FORKS = 30 };
	uint32_t history[FORKS][40];
	uint64_t parent, forks[FORKS], ids[FORKS];

	(void)state;
	rig_start_plain(&rig);
	rig_tokens(history[0], 30, 9);
	parent = rig_open(&rig, 0, 0);
	rig_step_check(&rig, 0, parent, history[0], 30, 30);
	for (uint32_t f = 0; f < FORKS; f++) {
		memcpy(history[f], history[0], sizeof(*history[0]) * 30);
		rig_tokens(history[f] + 30, 10, 1000 + f);
		forks[f] = fork_of(parent, 0);
	}
	for (uint32_t f = 0; f < FORKS; f++)
		ids[f] = rig_step(&rig, 0, forks[f], history[f] + 30, 10);
	rig_run(&rig);
	for (uint32_t f = 0; f < FORKS; f++) {
		struct attnd_completion completion = rig_take(&rig, ids[f]);

		assert_int_equal(completion.status, ATTND_OK);
		assert_int_equal(
			completion.value, sim_argmax(sim_row_hash(history[f], 40), RIG_VOCAB));
	}
	rig_stop(&rig);
}

static void truncate_goes_back(void **state)
{
	uint32_t history[300];
	struct sched_counters counters;
	uint64_t session;

	(void)state;
	rig_start_plain(&rig);
	rig_tokens(history, 300, 10);
	session = rig_open(&rig, 0, 0);
	rig_step_check(&rig, 0, session, history, 300, 300);
	for (uint32_t keep = 299; keep > 0; keep = keep * 2 / 3) {
		struct attnd_completion completion = rig_call(
			&rig, 0, rig_session_record(ATTND_OP_TRUNCATE, session, keep), NULL, NULL);

		assert_int_equal(completion.status, ATTND_OK);
		assert_int_equal(completion.position, keep);
		sched_counters_read(rig.sched, &counters);
		assert_int_equal(counters.blocks_used, (keep + 63) / 64);
		rig_tokens(history + keep, 1, keep);
		rig_step_check(&rig, 0, session, history, keep + 1, 1);
	}
	assert_int_equal(
		rig_call(&rig, 0, rig_session_record(ATTND_OP_TRUNCATE, session, 0), NULL, NULL)
			.status,
		ATTND_OK);
	rig_step_check(&rig, 0, session, history, 5, 5);
	rig_stop(&rig);
}

static uint32_t blocks_used(void)
{
	struct sched_counters counters;

	sched_counters_read(rig.sched, &counters);
	return counters.blocks_used;
}

/* int4 keeps low halves of its last pages in two blocks ahead. These stay while the tokens end on the same page, and come back
 * zeroed else; the device checks what it finds there. */
static void blocks_ahead(void **state)
{
	static const struct { uint32_t tokens, blocks; } grown[] = { { 64, 1 }, { 65, 4 }, { 128, 4 }, { 300, 7 } };
	struct attnd_open_params params = rig_open_params(0);
	uint32_t history[400], forked[400], at = 0;
	uint64_t session, child;

	(void)state;
	rig_start_plain(&rig);
	rig_tokens(history, 400, 12);
	params.kv_k = ATTND_KV_INT8;
	params.kv_v = ATTND_KV_INT4;
	session = rig_open_with(&rig, 0, &params);
	for (uint32_t i = 0; i < 4; at = grown[i++].tokens) {
		rig_step_check(&rig, 0, session, history, grown[i].tokens, grown[i].tokens - at);
		assert_int_equal(blocks_used(), grown[i].blocks);
	}
	rig_call(&rig, 0, rig_session_record(ATTND_OP_TRUNCATE, session, 290), NULL, NULL);
	assert_int_equal(blocks_used(), 7);
	rig_step_check(&rig, 0, session, history, 300, 10);
	child = fork_of(session, 290); /* shares all, then writes to the last block and its low halves, two ahead */
	memcpy(forked, history, sizeof(forked));
	rig_tokens(forked + 290, 110, 13);
	assert_int_equal(blocks_used(), 7);
	rig_step_check(&rig, 0, child, forked, 310, 20);
	assert_int_equal(blocks_used(), 9);
	rig_step_check(&rig, 0, session, history, 310, 10);
	rig_call(&rig, 0, rig_session_record(ATTND_OP_CLOSE, child, 0), NULL, NULL);
	assert_int_equal(blocks_used(), 7);
	child = fork_of(session, 256); /* another page */
	assert_int_equal(blocks_used(), 7);
	rig_step_check(&rig, 0, child, history, 257, 1);
	assert_int_equal(blocks_used(), 10);
	rig_call(&rig, 0, rig_session_record(ATTND_OP_CLOSE, child, 0), NULL, NULL);
	rig_call(&rig, 0, rig_session_record(ATTND_OP_TRUNCATE, session, 200), NULL, NULL);
	assert_int_equal(blocks_used(), 4);
	rig_call(&rig, 0, rig_session_record(ATTND_OP_TRUNCATE, session, 190), NULL, NULL);
	assert_int_equal(blocks_used(), 3);
	rig_step_check(&rig, 0, session, history, 400, 210);
	assert_int_equal(blocks_used(), 9);
	rig_stop(&rig);
}

/* A request that runs no row leaves the blocks ahead as they are. */
static void refused_rows_leave_blocks_ahead(void **state)
{
	struct attnd_open_params params = rig_open_params(0);
	uint32_t history[1000], before, refused = 0;
	uint64_t session;

	(void)state;
	rig_init(&rig);
	rig.tenants[0].kv_bytes_max = 45056;
	rig_start(&rig);
	rig_add(&rig, 0, 0, 1000);
	rig_tokens(history, 1000, 12);
	params.kv_k = params.kv_v = ATTND_KV_INT4;
	session = rig_open_with(&rig, 0, &params);
	rig_step_check(&rig, 0, session, history, 200, 200);
	before = blocks_used();
	for (uint32_t rows = 100; rows <= 800 && refused == 0; rows += 100) {
		const uint64_t id = rig_step(&rig, 0, session, history + 200, rows);
		struct attnd_completion completion;

		rig_run(&rig);
		completion = rig_take(&rig, id);
		if (completion.status == ATTND_OK) {
			rig_call(&rig, 0, rig_session_record(ATTND_OP_TRUNCATE, session, 0), NULL, NULL);
			rig_step_check(&rig, 0, session, history, 200, 200);
			continue;
		}
		assert_int_equal(completion.status, ATTND_OVER_QUOTA);
		assert_int_equal(blocks_used(), before);
		refused++;
	}
	assert_int_equal(refused, 1);
	rig_stop(&rig);
}

static void descriptions(void **state)
{
	struct attnd_daemon_info *daemon;
	struct attnd_model_info *model;
	struct attnd_session_info *info;
	struct attnd_request record = { .op = ATTND_OP_DESCRIBE, .out_capacity = 256 };
	struct attnd_completion completion;
	uint32_t tokens[70];

	(void)state;
	rig_start_plain(&rig);
	rig_tokens(tokens, 70, 11);
	record.session = rig_open(&rig, 0, 1);
	rig_step_check(&rig, 0, record.session, tokens, 70, 70);
	daemon = rig_loan(&rig, 0, sizeof(*daemon));
	assert_int_equal(rig_call(&rig, 0, record, NULL, daemon).result_bytes, sizeof(*daemon));
	assert_true(daemon->models == RIG_MODELS && daemon->sessions == 1 &&
		strcmp(daemon->build, "rig") == 0 && daemon->boot_id == rig.options.boot_id);
	model = rig_loan(&rig, 0, sizeof(*model));
	record.argument = ATTND_DESCRIBE_MODEL;
	record.args = 1;
	assert_int_equal(rig_call(&rig, 0, record, NULL, model).status, ATTND_OK);
	assert_true(model->vocab == RIG_VOCAB && model->bos == UINT32_MAX &&
		strcmp(model->name, "rig") == 0);
	record.args = 2;
	assert_int_equal(rig_call(&rig, 0, record, NULL, model).status, ATTND_BAD_MODEL);
	info = rig_loan(&rig, 0, sizeof(*info));
	record.argument = ATTND_DESCRIBE_SESSION;
	record.out_capacity = sizeof(*info);
	completion = rig_call(&rig, 0, record, NULL, info);
	assert_true(completion.status == ATTND_OK && completion.position == 70);
	assert_true(info->position == 70 && info->pages == 2 && info->model == 1 &&
		info->kv_k == ATTND_KV_F32);
	record.out_capacity--;
	completion = rig_call(&rig, 0, record, NULL, info);
	assert_true(completion.status == ATTND_NO_OUTPUT_ROOM && completion.value == sizeof(*info));
	record.argument = ATTND_DESCRIBE_END;
	assert_int_equal(rig_call(&rig, 0, record, NULL, info).status, ATTND_BAD_PARAMS);
	rig_stop(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nop_is_answered_in_the_poll_that_takes_it),
		cmocka_unit_test(steps_continue_a_session),
		cmocka_unit_test(outputs_of_all_rows),
		cmocka_unit_test(outputs_of_chosen_rows),
		cmocka_unit_test(embedding_rows),
		cmocka_unit_test(neighbours_do_not_matter),
		cmocka_unit_test(requests_of_a_session_run_in_order),
		cmocka_unit_test(forks_share_and_copy),
		cmocka_unit_test(shared_blocks_are_read_once),
		cmocka_unit_test(many_forks_write_at_once),
		cmocka_unit_test(truncate_goes_back),
		cmocka_unit_test(blocks_ahead),
		cmocka_unit_test(refused_rows_leave_blocks_ahead),
		cmocka_unit_test(descriptions),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
