/*
 * Every status that the scheduler can answer with, produced by a request that deserves it, and that
 * a refused request changes nothing.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/base_rand.h"
#include "sched/sched_handle.h"
#include "tests/unit/sched_rig.h"

static struct rig rig;
static uint64_t seen[ATTND_STATUS_END];

static void stop(void)
{
	struct sched_counters counters;

	for (uint32_t c = 0; c < RIG_CLIENTS; c++)
		if (rig.arenas[c])
			rig_message(&rig, SCHED_CLIENT_GONE, c, 0, 0);
	rig_run(&rig);
	sched_counters_read(rig.sched, &counters);
	for (uint32_t s = 0; s < ATTND_STATUS_END; s++)
		seen[s] += counters.by_status[s];
	rig_stop(&rig);
}

/* The status of a request that is sent by client 0 with an input of 64 KiB that holds `bytes`
 * first, and an output of 4 KiB. */
static struct attnd_completion ask(struct attnd_request record, const void *bytes, size_t count)
{
	unsigned char *in, *out;

	rig_rewind(&rig, 0);
	in = rig_loan(&rig, 0, 64 << 10);
	out = rig_loan(&rig, 0, 4 << 10);
	memset(in, 0, 64 << 10);
	if (count)
		memcpy(in, bytes, count);
	return rig_call(&rig, 0, record, in, out);
}

static void wrong_records(void **state)
{
	const struct attnd_request good = { .op = ATTND_OP_NOP };
	struct attnd_request record;

	(void)state;
	rig_start_plain(&rig);
	record = good, record.version = 2;
	assert_int_equal(ask(record, NULL, 0).status, ATTND_BAD_RECORD);
	record = good, record.reserved = 1;
	assert_int_equal(ask(record, NULL, 0).status, ATTND_BAD_RECORD);
	record = good, record.flags = 0x80;
	assert_int_equal(ask(record, NULL, 0).status, ATTND_BAD_RECORD);
	record = good, record.priority_class = ATTND_CLASS_END;
	assert_int_equal(ask(record, NULL, 0).status, ATTND_BAD_RECORD);
	record = good, record.op = ATTND_OP_END;
	assert_int_equal(ask(record, NULL, 0).status, ATTND_BAD_OP);
	record.op = 255;
	assert_int_equal(ask(record, NULL, 0).status, ATTND_BAD_OP);
	record.op = 0;
	assert_int_equal(ask(record, NULL, 0).status, ATTND_BAD_OP);
	record = good, record.in_bytes = record.out_capacity = 8;
	assert_int_equal(rig_call(&rig, 0, record, NULL, NULL).status, ATTND_BAD_RANGE);
	record.op = ATTND_OP_STEP;
	assert_int_equal(rig_call(&rig, 0, record, NULL, NULL).status, ATTND_BAD_RANGE);
	record = good, record.in_bytes = record.out_capacity = (1 << 20) + 1;
	assert_int_equal(ask(record, NULL, 0).status, ATTND_TOO_LARGE);
	record = (struct attnd_request){ .op = ATTND_OP_TOKENIZE };
	assert_int_equal(ask(record, NULL, 0).status, ATTND_UNSUPPORTED);
	record.op = ATTND_OP_DETOKENIZE;
	assert_int_equal(ask(record, NULL, 0).status, ATTND_UNSUPPORTED);
	stop();
}

static void handles(void **state)
{
	struct attnd_request record = { .op = ATTND_OP_STEP };
	uint64_t session;
	uint32_t token = 1;

	(void)state;
	rig_start_plain(&rig);
	session = rig_open(&rig, 0, 0);
	assert_int_equal(ask(record, NULL, 0).status, ATTND_BAD_SESSION); /* 0 */
	record = rig_step_record(session, 1, ATTND_OUT_ARGMAX);
	record.session = session + 1; /* index */
	assert_int_equal(ask(record, &token, 4).status, ATTND_BAD_SESSION);
	record.session = session + (1u << 20); /* generation */
	assert_int_equal(ask(record, &token, 4).status, ATTND_BAD_SESSION);
	record.session = session ^ UINT64_C(1) << 44; /* device */
	assert_int_equal(ask(record, &token, 4).status, ATTND_BAD_SESSION);
	record.session = session ^ UINT64_C(1) << 63; /* boot */
	assert_int_equal(ask(record, &token, 4).status, ATTND_SESSION_LOST);
	record.session = session;
	assert_int_equal(
		rig_call(&rig, 1, record, rig_loan(&rig, 1, 64), rig_loan(&rig, 1, 64)).status,
		ATTND_BAD_SESSION);
	assert_int_equal(ask(record, &token, 4).status, ATTND_OK);
	assert_int_equal(
		ask(rig_session_record(ATTND_OP_CLOSE, session, 0), NULL, 0).status, ATTND_OK);
	assert_int_equal(ask(record, &token, 4).status, ATTND_BAD_SESSION);
	assert_int_equal(ask(rig_session_record(ATTND_OP_CLOSE, session, 0), NULL, 0).status,
		ATTND_BAD_SESSION);
	assert_int_not_equal(rig_open(&rig, 0, 0), session);
	stop();
}

static void life(uint64_t boot_id)
{
	rig_init(&rig);
	rig.options.boot_id = boot_id;
	rig_start(&rig);
	rig_add(&rig, 0, 0, 1000);
}

/* One life in 4,096 has the tag of the one before: even then nobody gets the session of an old handle. */
static void handles_of_another_life(void **state)
{
	const uint64_t one = 77;
	uint64_t other = one + 1, old, new;

	(void)state;
	while (base_mix64(other) >> (64 - SCHED_BOOT_BITS) != base_mix64(one) >> (64 - SCHED_BOOT_BITS))
		other++;
	life(one);
	old = rig_open(&rig, 0, 0);
	stop();
	life(other);
	new = rig_open(&rig, 0, 0);
	assert_true(old >> SCHED_BOOT_AT == new >> SCHED_BOOT_AT);
	assert_int_not_equal(old, new);
	assert_int_equal(ask(rig_session_record(ATTND_OP_CLOSE, old, 0), NULL, 0).status, ATTND_BAD_SESSION);
	assert_int_equal(ask(rig_session_record(ATTND_OP_CLOSE, new, 0), NULL, 0).status, ATTND_OK);
	stop();
}

static void opening(void **state)
{
	struct attnd_open_params good = rig_open_params(0), params;
	struct attnd_request record = { .op = ATTND_OP_OPEN, .in_bytes = sizeof(good) - 1 };

	(void)state;
	rig_init(&rig);
	rig.options.sessions_max = 5;
	rig.tenants[1].models = 2;
	rig.tenants[1].attention = false;
	rig.tenants[1].sessions_max = 2;
	rig_start(&rig);
	rig_add(&rig, 0, 0, 10);
	rig_add(&rig, 1, 1, 10);
	assert_int_equal(ask(record, &good, sizeof(good)).status, ATTND_BAD_PARAMS);
	params = good, params.struct_bytes--;
	assert_int_equal(rig_try_open(&rig, 0, &params).status, ATTND_BAD_PARAMS);
	params = good, params.kind = 3;
	assert_int_equal(rig_try_open(&rig, 0, &params).status, ATTND_BAD_PARAMS);
	params = good, params.kv_k = ATTND_KV_END;
	assert_int_equal(rig_try_open(&rig, 0, &params).status, ATTND_BAD_PARAMS);
	params = good, params.reserved[3] = 1;
	assert_int_equal(rig_try_open(&rig, 0, &params).status, ATTND_BAD_PARAMS);
	params = good, params.sampling.temperature = NAN;
	assert_int_equal(rig_try_open(&rig, 0, &params).status, ATTND_BAD_PARAMS);
	params = good, params.sampling.temperature = 1.0f; /* and top_p 0 */
	assert_int_equal(rig_try_open(&rig, 0, &params).status, ATTND_BAD_PARAMS);
	params.sampling.top_p = 1.0f, params.sampling.repeat_penalty = 1.0f;
	params.sampling.repeat_window = ATTND_REPEAT_WINDOW_MAX + 1;
	assert_int_equal(rig_try_open(&rig, 0, &params).status, ATTND_BAD_PARAMS);
	params = good, params.model = RIG_MODELS;
	assert_int_equal(rig_try_open(&rig, 0, &params).status, ATTND_BAD_MODEL);
	params = good, params.max_tokens = rig.options.tokens_max + 1;
	assert_int_equal(rig_try_open(&rig, 0, &params).status, ATTND_TOO_LARGE);
	params = rig_attention_params(1, 4, 3, 64);
	assert_int_equal(rig_try_open(&rig, 0, &params).status, ATTND_BAD_PARAMS);
	params = rig_attention_params(1, 4, 2, 60);
	assert_int_equal(rig_try_open(&rig, 0, &params).status, ATTND_BAD_PARAMS);
	params = rig_attention_params(ATTND_LAYERS_MAX + 1, 4, 2, 64);
	assert_int_equal(rig_try_open(&rig, 0, &params).status, ATTND_BAD_PARAMS);
	params = rig_attention_params(1, 4, 2, 64), params.scale = INFINITY;
	assert_int_equal(rig_try_open(&rig, 0, &params).status, ATTND_BAD_PARAMS);
	params = rig_attention_params(
		ATTND_LAYERS_MAX, 256, 256, 256); /* a block larger than an extent */
	assert_int_equal(rig_try_open(&rig, 0, &params).status, ATTND_TOO_LARGE);
	assert_int_equal(rig_try_open(&rig, 1, &good).status, ATTND_DENIED);
	params = rig_attention_params(1, 1, 1, 64);
	assert_int_equal(rig_try_open(&rig, 1, &params).status, ATTND_DENIED);
	rig_open(&rig, 1, 1);
	rig_open(&rig, 1, 1);
	params = rig_open_params(1);
	assert_int_equal(rig_try_open(&rig, 1, &params).status, ATTND_OVER_QUOTA);
	for (int i = 0; i < 3; i++)
		rig_open(&rig, 0, 0);
	assert_int_equal(rig_try_open(&rig, 0, &good).status, ATTND_NO_SESSIONS);
	stop();
}

static struct attnd_request step_record(
	uint64_t session, uint32_t count, struct attnd_step_args args)
{
	struct attnd_request record = rig_step_record(session, count, ATTND_OUT_NONE);

	record.in_bytes += args.select_count * 4;
	record.out_capacity = 4096;
	memcpy(&record.args, &args, sizeof(args));
	return record;
}

static void wrong_steps(void **state)
{
	uint32_t tokens[60] = { 1, 2, 3, RIG_VOCAB, 4 };
	struct attnd_open_params params = rig_open_params(0);
	struct attnd_completion completion;
	struct attnd_request record;
	uint64_t session;

	(void)state;
	rig_start_plain(&rig);
	params.max_tokens = 50;
	session = rig_open_with(&rig, 0, &params);
	assert_int_equal(
		ask(step_record(session, 1, (struct attnd_step_args){ .output = ATTND_OUT_END }),
			tokens, 240)
			.status,
		ATTND_BAD_PARAMS);
	assert_int_equal(
		ask(step_record(session, 1, (struct attnd_step_args){ .select = ATTND_SELECT_END }),
			tokens, 240)
			.status,
		ATTND_BAD_PARAMS);
	assert_int_equal(
		ask(step_record(session, 1, (struct attnd_step_args){ .output = ATTND_OUT_TOP }),
			tokens, 240)
			.status,
		ATTND_BAD_PARAMS);
	assert_int_equal(ask(step_record(session, 1,
				     (struct attnd_step_args){
					     .output = ATTND_OUT_TOP, .top_k = RIG_VOCAB + 1 }),
				 tokens, 240)
				 .status,
		ATTND_BAD_PARAMS);
	assert_int_equal(
		ask(step_record(session, 0, (struct attnd_step_args){ 0 }), tokens, 240).status,
		ATTND_BAD_SHAPE);
	assert_int_equal(ask(step_record(session, 2,
				     (struct attnd_step_args){ .output = 1,
					     .select = ATTND_SELECT_CHOSEN,
					     .select_count = 3 }),
				 tokens, 240)
				 .status,
		ATTND_BAD_SHAPE);
	/* 2 is not below 2; then 1, 1 does not ascend */
	completion = ask(
		step_record(session, 2,
			(struct attnd_step_args){ .output = 3, .select = 2, .select_count = 1 }),
		tokens + 0, 240);
	assert_int_equal(completion.status, ATTND_BAD_PARAMS);
	completion = ask(
		step_record(session, 2,
			(struct attnd_step_args){ .output = 3, .select = 2, .select_count = 2 }),
		(const uint32_t[]){ 5, 5, 1, 1 }, 16);
	assert_int_equal(completion.status, ATTND_BAD_PARAMS);
	assert_int_equal(completion.value, 1);
	record = step_record(session, 3, (struct attnd_step_args){ .output = ATTND_OUT_ARGMAX });
	record.in_bytes++;
	assert_int_equal(ask(record, tokens, 240).status, ATTND_BAD_SHAPE);
	completion =
		ask(step_record(session, 5, (struct attnd_step_args){ .output = ATTND_OUT_ARGMAX }),
			tokens, 240);
	assert_int_equal(completion.status, ATTND_BAD_TOKEN);
	assert_int_equal(completion.value, 3);
	record = step_record(session, 3,
		(struct attnd_step_args){ .output = ATTND_OUT_LOGITS, .select = ATTND_SELECT_ALL });
	record.out_capacity = 3 * RIG_VOCAB * 4 - 1;
	completion = ask(record, tokens, 240);
	assert_int_equal(completion.status, ATTND_NO_OUTPUT_ROOM);
	assert_int_equal(completion.value, 3 * RIG_VOCAB * 4);
	completion = ask(step_record(session, 51, (struct attnd_step_args){ 0 }), tokens, 240);
	assert_int_equal(completion.status, ATTND_CONTEXT_FULL);
	assert_int_equal(completion.position, 0);
	record = step_record(session, 1, (struct attnd_step_args){ .output = ATTND_OUT_ARGMAX });
	record.flags = ATTND_REQ_CHECK_POSITION;
	record.position = 1;
	assert_int_equal(ask(record, tokens, 240).status, ATTND_BAD_POSITION);
	record.argument = UINT32_MAX;
	record.position = 0;
	assert_int_equal(ask(record, tokens, 240).status, ATTND_BAD_SHAPE);
	/* None of these changed anything. */
	rig_rewind(&rig, 0);
	rig_step_check(&rig, 0, session, tokens, 3, 3);
	record = rig_session_record(ATTND_OP_APPEND, session, 0);
	assert_int_equal(ask(record, NULL, 0).status, ATTND_UNSUPPORTED);
	assert_int_equal(ask(rig_session_record(ATTND_OP_FORK, session, 4), NULL, 0).status,
		ATTND_BAD_POSITION);
	completion = ask(rig_session_record(ATTND_OP_TRUNCATE, session, 4), NULL, 0);
	assert_true(completion.status == ATTND_BAD_POSITION && completion.position == 3);
	stop();
}

static void wrong_generates(void **state)
{
	const uint32_t prompt[2] = { 1, RIG_VOCAB };
	const struct attnd_generate_params good = { .max_tokens = 1 };
	struct attnd_generate_params params;
	struct attnd_request record = { 0 };
	uint64_t session, ids[8];
	const uint8_t expected[8] = { ATTND_BAD_PARAMS, ATTND_BAD_PARAMS, ATTND_BAD_PARAMS,
		ATTND_BAD_PARAMS, ATTND_BAD_SHAPE, ATTND_BAD_TOKEN, ATTND_UNSUPPORTED,
		ATTND_BAD_PARAMS };

	(void)state;
	rig_start_plain(&rig);
	session = rig_open(&rig, 0, 0);
	params = good, params.max_tokens = 0;
	ids[0] = rig_generate(&rig, 0, session, prompt, 1, params, NULL, record);
	params = good, params.reserved = 1;
	ids[1] = rig_generate(&rig, 0, session, prompt, 1, params, NULL, record);
	params = good, params.between_ns = -1;
	ids[2] = rig_generate(&rig, 0, session, prompt, 1, params, NULL, record);
	params = good, params.sampling.temperature = -1.0f;
	ids[3] = rig_generate(&rig, 0, session, prompt, 1, params, NULL, record);
	ids[4] = rig_generate(&rig, 0, session, prompt, 0, good, NULL, record);
	ids[5] = rig_generate(&rig, 0, session, prompt, 2, good, NULL, record);
	record.flags = ATTND_REQ_ROWS;
	ids[6] = rig_generate(&rig, 0, session, prompt, 1, good, NULL, record);
	ids[7] = rig_send(&rig, 0,
		(struct attnd_request){
			.op = ATTND_OP_GENERATE, .session = session, .in_bytes = 63 },
		rig_loan(&rig, 0, 64), NULL);
	rig_run(&rig);
	for (int i = 0; i < 8; i++)
		assert_int_equal(rig_take(&rig, ids[i]).status, expected[i]);
	params = good, params.stop_count = ATTND_STOP_IDS_MAX + 1;
	ids[0] = rig_generate(&rig, 0, session, prompt, 1, params,
		(const uint32_t[ATTND_STOP_IDS_MAX + 1]){ 0 }, (struct attnd_request){ 0 });
	rig_run(&rig);
	assert_int_equal(rig_take(&rig, ids[0]).status, ATTND_BAD_PARAMS);
	stop();
}

/* How many of these were answered so far, all of them with QUEUE_FULL. */
static uint32_t count_full(const uint64_t *ids, uint32_t count)
{
	uint32_t full = 0;

	for (uint32_t i = 0; i < count; i++) {
		if (!rig_has(&rig, ids[i]))
			continue;
		assert_int_equal(rig_take(&rig, ids[i]).status, ATTND_QUEUE_FULL);
		full++;
	}
	return full;
}

static void full_queues(void **state)
{
	struct attnd_request record;
	uint32_t token = 1;
	uint64_t session, ids[260];

	(void)state;
	rig_init(&rig);
	rig.options.client_requests_max = 300;
	rig.options.requests_max = 290;
	rig_start(&rig);
	rig_add(&rig, 0, 0, 10);
	rig_add(&rig, 1, 0, 10);
	session = rig_open(&rig, 0, 0);
	record = rig_step_record(session, 1, ATTND_OUT_NONE);
	/* The session's queue holds 256 and its head is in the air. */
	for (uint32_t i = 0; i < 260; i++)
		ids[i] = rig_send(&rig, 0, record, memcpy(rig_loan(&rig, 0, 64), &token, 4),
			rig_loan(&rig, 0, 64));
	rig_settle(&rig);
	assert_int_equal(count_full(ids, 260), 4);
	/* The pool of all clients has 34 left. */
	for (uint32_t i = 0; i < 40; i++)
		ids[i] = rig_step(&rig, 1, rig_open_now(&rig, 1, 0), &token, 1);
	rig_settle(&rig);
	assert_int_equal(count_full(ids, 40), 6);
	rig_run(&rig);
	stop();
}

static void client_limit(void **state)
{
	uint64_t sessions[10], ids[10];
	uint32_t token = 1, refused = 0;

	(void)state;
	rig_init(&rig);
	rig.options.client_requests_max = 4;
	rig_start(&rig);
	rig_add(&rig, 0, 0, 10);
	for (uint32_t i = 0; i < 10; i++)
		sessions[i] = rig_open(&rig, 0, 0);
	for (uint32_t i = 0; i < 10; i++)
		ids[i] = rig_step(&rig, 0, sessions[i], &token, 1);
	rig_run(&rig);
	for (uint32_t i = 0; i < 10; i++)
		refused += rig_take(&rig, ids[i]).status == ATTND_QUEUE_FULL;
	assert_int_equal(refused, 6);
	stop();
}

static void no_pages(void **state)
{
	static const uint32_t tokens[1024];
	uint64_t sessions[20], id;
	struct sched_counters counters;
	struct attnd_completion completion;
	uint32_t failed = 0;

	(void)state;
	rig_init(&rig);
	rig.options.kv_bytes = 1 << 20; /* about 100 blocks of 8 or 12 KiB */
	rig_start(&rig);
	rig_add(&rig, 0, 0, 10);
	for (uint32_t i = 0; i < 20; i++) {
		sessions[i] = rig_open(&rig, 0, 0);
		rig_rewind(&rig, 0);
		id = rig_step(&rig, 0, sessions[i], tokens, 1024);
		rig_run(&rig);
		completion = rig_take(&rig, id);
		assert_true(completion.status == ATTND_OK || completion.status == ATTND_NO_PAGES);
		if (completion.status == ATTND_NO_PAGES)
			failed++;
	}
	assert_true(failed > 5 && failed < 20);
	sched_counters_read(rig.sched, &counters);
	/* All or nothing: whoever was refused holds no block. */
	assert_int_equal(counters.blocks_used, 16 * (20 - failed));
	/* Blocks come back, zeroed, to who waits for them. */
	for (uint32_t i = 0; i < 20; i++)
		rig_send(&rig, 0, rig_session_record(ATTND_OP_CLOSE, sessions[i], 0), NULL, NULL);
	rig_rewind(&rig, 0);
	sessions[0] = 0;
	rig_settle(&rig);
	sessions[0] = rig_open(&rig, 0, 0);
	rig_step_check(&rig, 0, sessions[0], tokens, 1024, 1024);
	stop();
}

static void quota_of_kv(void **state)
{
	static const uint32_t tokens[1024];
	uint64_t first, second, id;

	(void)state;
	rig_init(&rig);
	rig.tenants[0].kv_bytes_max = 60 << 10;
	rig_start(&rig);
	rig_add(&rig, 0, 0, 10);
	rig_add(&rig, 1, 1, 10);
	first = rig_open(&rig, 0, 0);
	rig_step_check(&rig, 0, first, tokens, 500, 500);
	id = rig_step(&rig, 0, first, tokens, 500);
	rig_run(&rig);
	assert_int_equal(rig_take(&rig, id).status, ATTND_OVER_QUOTA);
	assert_int_equal(
		rig_call(&rig, 0, rig_session_record(ATTND_OP_FORK, first, 0), NULL, NULL).status,
		ATTND_OVER_QUOTA);
	rig_rewind(&rig, 0);
	rig_step_check(&rig, 0, first, tokens, 510, 10); /* within the last block */
	second = rig_open(&rig, 1, 0);
	rig_step_check(&rig, 1, second, tokens, 1024, 1024); /* another tenant's is his own */
	stop();
}

static void draining(void **state)
{
	uint32_t tokens[4] = { 1, 2, 3, 4 };
	struct attnd_open_params params = rig_open_params(0);
	uint64_t session, before, after;

	(void)state;
	rig_start_plain(&rig);
	session = rig_open(&rig, 0, 0);
	before = rig_step(&rig, 0, session, tokens, 4);
	rig_message(&rig, SCHED_DRAIN, 0, 0, 0);
	after = rig_step(&rig, 0, session, tokens, 4);
	rig_run(&rig);
	assert_int_equal(rig_take(&rig, before).status, ATTND_OK);
	assert_int_equal(rig_take(&rig, after).status, ATTND_DRAINING);
	assert_int_equal(rig_try_open(&rig, 0, &params).status, ATTND_DRAINING);
	assert_int_equal(
		rig_call(&rig, 0, rig_session_record(ATTND_OP_FORK, session, 0), NULL, NULL).status,
		ATTND_DRAINING);
	assert_int_equal(
		ask((struct attnd_request){ .op = ATTND_OP_NOP }, NULL, 0).status, ATTND_OK);
	assert_int_equal(
		ask((struct attnd_request){ .op = ATTND_OP_CANCEL }, NULL, 0).status, ATTND_OK);
	assert_int_equal(
		ask((struct attnd_request){ .op = ATTND_OP_DESCRIBE, .out_capacity = 256 }, NULL, 0)
			.status,
		ATTND_OK);
	assert_int_equal(
		ask(rig_session_record(ATTND_OP_CLOSE, session, 0), NULL, 0).status, ATTND_OK);
	stop();
}

static void device_errors(void **state)
{
	uint32_t tokens[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };
	uint64_t broken[3], healthy, ids[6];

	(void)state;
	rig_start_plain(&rig);
	for (int i = 0; i < 3; i++)
		broken[i] = rig_open(&rig, i % 2, 0);
	healthy = rig_open(&rig, 0, 0);
	rig_step_check(&rig, 0, healthy, tokens, 4, 4);
	sim_device_fail(rig.device, KERN_WORK_STEP, 1);
	for (int i = 0; i < 3; i++)
		ids[i] = rig_step(&rig, i % 2, broken[i], tokens, 4);
	ids[3] = rig_step(&rig, 0, broken[0], tokens, 4); /* behind it */
	rig_run(&rig);
	for (int i = 0; i < 3; i++)
		assert_int_equal(rig_take(&rig, ids[i]).status, ATTND_DEVICE_FAILED);
	assert_int_equal(rig_take(&rig, ids[3]).status, ATTND_BAD_SESSION);
	ids[4] = rig_step(&rig, 1, broken[1], tokens, 4);
	rig_run(&rig);
	assert_int_equal(rig_take(&rig, ids[4]).status, ATTND_BAD_SESSION);
	rig_step_check(&rig, 0, healthy, tokens, 8, 4);
	/* A failed copy ends the session that needed it; a failed zeroing is done again. */
	ids[5] = rig_call(&rig, 0, rig_session_record(ATTND_OP_FORK, healthy, 0), NULL, NULL).value;
	sim_device_fail(rig.device, KERN_WORK_COPY, 1);
	ids[0] = rig_step(&rig, 0, ids[5], tokens, 4);
	rig_run(&rig);
	assert_int_equal(rig_take(&rig, ids[0]).status, ATTND_DEVICE_FAILED);
	sim_device_fail(rig.device, KERN_WORK_ZERO, 5);
	assert_int_equal(
		ask(rig_session_record(ATTND_OP_CLOSE, healthy, 0), NULL, 0).status, ATTND_OK);
	rig_run(&rig);
	assert_true(sched_idle(rig.sched));
	stop();
}

static void every_status_was_seen(void **state)
{
	(void)state;
	for (uint32_t s = 0; s < ATTND_STATUS_END; s++) {
		bool elsewhere = s == ATTND_BAD_TEXT || /* the text role's */
			s == ATTND_REFUSED_DEADLINE || s == ATTND_EXPIRED || s == ATTND_CANCELLED ||
			s == ATTND_CLIENT_GONE; /* other tests */
		bool exists = s <= ATTND_DRAINING || (s >= ATTND_BAD_RECORD && s <= ATTND_DENIED) ||
			(s >= ATTND_NO_OUTPUT_ROOM && s <= ATTND_QUEUE_FULL) ||
			s == ATTND_DEVICE_FAILED;

		if (exists && !elsewhere && seen[s] == 0)
			fail_msg("status %u was never answered", s);
		if (!exists && seen[s] > 0)
			fail_msg("status %u does not exist and was answered", s);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(wrong_records),
		cmocka_unit_test(handles),
		cmocka_unit_test(handles_of_another_life),
		cmocka_unit_test(opening),
		cmocka_unit_test(wrong_steps),
		cmocka_unit_test(wrong_generates),
		cmocka_unit_test(full_queues),
		cmocka_unit_test(client_limit),
		cmocka_unit_test(no_pages),
		cmocka_unit_test(quota_of_kv),
		cmocka_unit_test(draining),
		cmocka_unit_test(device_errors),
		cmocka_unit_test(every_status_was_seen),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
