/*
 * Raw attention sessions: positions per layer, payload layout, slices of long requests, batches,
 * fork, truncate, and every refusal.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base_rand.h"
#include "tests/unit/sched_rig.h"

static struct rig rig;

enum { HEADS = 4, KV_HEADS = 2, DIM = 16, KEYS_MAX = 600 };

/* A layer as the test knows it: the chain after each key. */
struct layer {
	uint64_t chains[KEYS_MAX];
	uint32_t count;
};

static size_t round_up(size_t bytes)
{
	return (bytes + 63) / 64 * 64;
}

static struct attnd_attend_params plain(uint32_t layer, uint32_t q_rows, uint32_t kv_rows)
{
	return (struct attnd_attend_params){ .struct_bytes = sizeof(struct attnd_attend_params),
		.layer = (uint16_t)layer,
		.q_rows = q_rows,
		.kv_rows = kv_rows,
		.q_position = UINT32_MAX,
		.window = UINT32_MAX,
		.soft_cap = -1.0f,
		.flags = ATTND_ATTEND_CAUSAL };
}

struct call {
	uint64_t id;
	unsigned char *in, *out;
	struct attnd_attend_params params;
	size_t element;
};

/* Sends an APPEND or ATTEND with random payload. */
static struct call send(uint32_t client, uint64_t session, struct attnd_attend_params params,
	struct attnd_request record)
{
	struct call call = { .params = params, .element = params.dtype == ATTND_F32 ? 4 : 2 };
	size_t q_bytes = (size_t)params.q_rows * HEADS * DIM * call.element;
	size_t k_bytes = (size_t)params.kv_rows * KV_HEADS * DIM * call.element;
	size_t in_bytes = params.kv_rows ? 64 + round_up(q_bytes) + round_up(k_bytes) + k_bytes
					 : 64 + q_bytes;
	static uint64_t seed;

	if (record.op == 0)
		record.op = params.q_rows ? ATTND_OP_ATTEND : ATTND_OP_APPEND;
	record.session = session;
	record.in_bytes += (uint32_t)in_bytes;
	call.in = rig_loan(&rig, client, in_bytes + 64);
	for (size_t i = 64; i < in_bytes; i++)
		call.in[i] = (unsigned char)base_rand_next(&seed);
	memcpy(call.in, &params, sizeof(params));
	if (record.out_capacity == 0)
		record.out_capacity =
			(uint32_t)(round_up(q_bytes) + (size_t)params.q_rows * HEADS * 4);
	call.out = rig_loan(&rig, client, record.out_capacity ? record.out_capacity : 1);
	memset(call.out, 0x55, record.out_capacity);
	call.id = rig_send(&rig, client, record, call.in, call.out);
	return call;
}

static void extend(struct layer *layer, const struct call *call)
{
	size_t row = (size_t)KV_HEADS * DIM * call->element;
	size_t k_at = 64 + round_up((size_t)call->params.q_rows * HEADS * DIM * call->element);
	size_t v_at = k_at + round_up(row * call->params.kv_rows);

	for (uint32_t r = 0; r < call->params.kv_rows; r++) {
		uint64_t before = layer->count ? layer->chains[layer->count - 1] : 0;

		assert_true(layer->count < KEYS_MAX);
		layer->chains[layer->count] = sim_key_chain(before, call->in + k_at + r * row,
			call->in + v_at + r * row, row, layer->count);
		layer->count++;
	}
}

/* Elements of 16 bits have the upper half of the value that the device computed. */
static bool element_is(const struct call *call, size_t i, float value)
{
	uint32_t bits;

	if (call->params.dtype == ATTND_F32)
		return ((const float *)(const void *)call->out)[i] == value;
	memcpy(&bits, &value, sizeof(bits));
	return ((const uint16_t *)(const void *)call->out)[i] == bits >> 16;
}

/* The result after it has landed, against the layer, with the settings that the session had. */
static void check(struct layer *layer, const struct call *call, uint32_t window, float scale)
{
	struct attnd_completion completion = rig_take(&rig, call->id);
	const struct attnd_attend_params *params = &call->params;
	size_t row = (size_t)HEADS * DIM;
	const float *lse =
		(const void *)(call->out + round_up(row * call->element * params->q_rows));
	struct kern_attend item = {
		.causal = params->flags & ATTND_ATTEND_CAUSAL, .window = window, .scale = scale
	};
	uint32_t first;

	extend(layer, call);
	assert_int_equal(completion.status, ATTND_OK);
	assert_int_equal(completion.position, layer->count);
	first = params->q_position == UINT32_MAX ? layer->count - params->q_rows
						 : params->q_position;
	for (uint32_t r = 0; r < params->q_rows; r++) {
		uint64_t seen = layer->chains[item.causal ? first + r : layer->count - 1];
		const unsigned char *q = call->in + 64 + row * call->element * r;

		for (uint32_t i = 0; i < row; i++)
			assert_true(element_is(call, row * r + i,
				sim_attend_value(seen, q, row * call->element, &item, i)));
		for (uint32_t h = 0; h < HEADS && (params->flags & ATTND_ATTEND_LSE); h++)
			assert_true(lse[r * HEADS + h] ==
				sim_attend_value(~seen, q, row * call->element, &item, h));
	}
}

static uint64_t open_raw(uint32_t client, uint32_t layers)
{
	struct attnd_open_params params = rig_attention_params(layers, HEADS, KV_HEADS, DIM);

	return rig_open_with(&rig, client, &params);
}

static void appends_and_attends(void **state)
{
	static struct layer layers[3];
	struct attnd_session_info *info;
	uint64_t session;

	(void)state;
	memset(layers, 0, sizeof(layers));
	rig_start_plain(&rig);
	session = open_raw(0, 3);
	for (uint32_t i = 0; i < 60; i++) {
		struct attnd_attend_params params =
			plain(i % 3, i % 4 ? 1 + i % 5 : 0, i % 4 != 1 ? 1 + i * 7 % 30 : 0);
		struct call call;

		if (params.q_rows > layers[i % 3].count + params.kv_rows)
			params.q_rows = layers[i % 3].count + params.kv_rows;
		if (params.q_rows + params.kv_rows == 0)
			continue;
		params.dtype = (uint8_t)(i % 3);
		if (i % 7 == 0 && params.q_rows)
			params.flags |= ATTND_ATTEND_LSE;
		if (i % 11 == 0)
			params.flags &= (uint8_t)~ATTND_ATTEND_CAUSAL;
		rig_rewind(&rig, 0);
		call = send(0, session, params, (struct attnd_request){ 0 });
		rig_run(&rig);
		check(&layers[i % 3], &call, 0, 0.25f);
	}
	info = rig_loan(&rig, 0, sizeof(*info));
	assert_int_equal(rig_call(&rig, 0,
				 (struct attnd_request){ .op = ATTND_OP_DESCRIBE,
					 .argument = ATTND_DESCRIBE_SESSION,
					 .session = session,
					 .out_capacity = sizeof(*info) },
				 NULL, info)
				 .status,
		ATTND_OK);
	assert_int_equal(info->kind, ATTND_SESSION_ATTENTION);
	assert_true(info->position >= layers[0].count && info->position >= layers[1].count &&
		info->position >= layers[2].count);
	rig_stop(&rig);
}

static void settings_of_session_and_request(void **state)
{
	static struct layer layer;
	struct attnd_open_params params = rig_attention_params(1, HEADS, KV_HEADS, DIM);
	struct attnd_attend_params attend = plain(0, 3, 20);
	uint64_t session;
	struct call call;

	(void)state;
	memset(&layer, 0, sizeof(layer));
	rig_start_plain(&rig);
	params.window = 7;
	params.scale = 0.5f;
	session = rig_open_with(&rig, 0, &params);
	call = send(0, session, attend, (struct attnd_request){ 0 });
	rig_run(&rig);
	check(&layer, &call, 7, 0.5f);
	attend.window = 0;
	attend.scale = 2.0f;
	attend.q_position = 4;
	call = send(0, session, attend, (struct attnd_request){ 0 });
	rig_run(&rig);
	check(&layer, &call, 0, 2.0f);
	rig_stop(&rig);
}

/* A request far longer than one work may be is cut by query rows; a short one of another session
 * does not wait for it. */
static void long_requests_are_cut(void **state)
{
	static struct layer layer, other;
	struct attnd_attend_params params = plain(0, 400, 500);
	uint64_t session, second;
	struct call call, quick;

	(void)state;
	memset(&layer, 0, sizeof(layer));
	memset(&other, 0, sizeof(other));
	rig_init(&rig);
	rig.device_options.row_ns = 50000;
	rig_start(&rig);
	rig_add(&rig, 0, 0, 10);
	rig_add(&rig, 1, 0, 10);
	session = open_raw(0, 1);
	second = open_raw(1, 1);
	for (uint32_t i = 0; i < 20; i++) { /* the cost model learns */
		call = send(0, session, plain(0, 1, 1), (struct attnd_request){ 0 });
		rig_run(&rig);
		check(&layer, &call, 0, 0.25f);
	}
	rig_rewind(&rig, 0);
	params.flags |= ATTND_ATTEND_LSE;
	call = send(0, session, params, (struct attnd_request){ 0 });
	rig_settle(&rig);
	quick = send(1, second, plain(0, 1, 1),
		(struct attnd_request){ .priority_class = ATTND_CLASS_LATENCY });
	rig_settle(&rig);
	for (uint32_t i = 0; i < 3 && !rig_has(&rig, quick.id); i++) {
		rig_land(&rig);
		rig_settle(&rig);
	}
	assert_true(rig_has(&rig, quick.id));
	assert_false(rig_has(&rig, call.id));
	rig_run(&rig);
	check(&layer, &call, 0, 0.25f);
	check(&other, &quick, 0, 0.25f);
	rig_stop(&rig);
}

static void many_sessions_in_one_work(void **state)
{
	static struct layer layers[20];
	uint64_t sessions[20], works;
	struct call calls[20];

	(void)state;
	memset(layers, 0, sizeof(layers));
	rig_start_plain(&rig);
	for (uint32_t i = 0; i < 20; i++)
		sessions[i] = open_raw(i % 2, 1);
	works = sim_device_stats(rig.device)->works[KERN_WORK_ATTEND];
	for (uint32_t i = 0; i < 20; i++)
		calls[i] = send(i % 2, sessions[i], plain(0, 1, 1), (struct attnd_request){ 0 });
	rig_run(&rig);
	for (uint32_t i = 0; i < 20; i++)
		check(&layers[i], &calls[i], 0, 0.25f);
	assert_true(sim_device_stats(rig.device)->works[KERN_WORK_ATTEND] - works <= 2);
	rig_stop(&rig);
}

/* How many works one row of each session takes, all asked for at once. */
static uint64_t works_for(const uint64_t *sessions, struct layer *layers, uint32_t count)
{
	uint64_t before = sim_device_stats(rig.device)->works[KERN_WORK_ATTEND];
	struct call calls[12];

	for (uint32_t i = 0; i < count; i++)
		calls[i] = send(0, sessions[i], plain(0, 1, 0), (struct attnd_request){ 0 });
	rig_run(&rig);
	for (uint32_t i = 0; i < count; i++)
		check(&layers[i], &calls[i], 0, 0.25f);
	rig_rewind(&rig, 0);
	return sim_device_stats(rig.device)->works[KERN_WORK_ATTEND] - before;
}

/* Works have a length. Backends read the blocks of forks once, so that more forks go into one. */
static void forks_fill_a_work(void **state)
{
	static struct layer layers[12], apart[12];
	uint64_t sessions[12], others[12];
	struct attnd_completion completion;
	struct call call;

	(void)state;
	memset(layers, 0, sizeof(layers));
	memset(apart, 0, sizeof(apart));
	rig_init(&rig);
	rig.device_options.visit_ps = 1600000; /* 0.8 ms for 500 keys */
	rig_start(&rig);
	rig_add(&rig, 0, 0, 1000);
	for (uint32_t i = 0; i < 12; i++) {
		others[i] = open_raw(0, 1);
		call = send(0, others[i], plain(0, 0, 500), (struct attnd_request){ 0 });
		rig_run(&rig);
		check(&apart[i], &call, 0, 0.25f);
		rig_rewind(&rig, 0);
	}
	sessions[0] = open_raw(0, 1);
	call = send(0, sessions[0], plain(0, 0, 500), (struct attnd_request){ 0 });
	rig_run(&rig);
	check(&layers[0], &call, 0, 0.25f);
	for (uint32_t i = 1; i < 12; i++) {
		completion = rig_call(
			&rig, 0, rig_session_record(ATTND_OP_FORK, sessions[0], 500), NULL, NULL);
		assert_int_equal(completion.status, ATTND_OK);
		sessions[i] = completion.value;
		layers[i] = layers[0];
	}
	for (uint32_t i = 0; i < 60; i++) /* the cost model learns */
		assert_int_equal(works_for(others, apart, 1), 1);
	/* This device does not really read them once, and the cost model begins to see that. */
	assert_int_equal(works_for(sessions, layers, 12), 5);
	assert_int_equal(works_for(others, apart, 12), 6);
	rig_stop(&rig);
}

static void fork_and_truncate(void **state)
{
	static struct layer a[2], b[2];
	struct attnd_completion completion;
	uint64_t session, child;
	struct call call;

	(void)state;
	memset(a, 0, sizeof(a));
	rig_start_plain(&rig);
	session = open_raw(0, 2);
	for (uint32_t l = 0; l < 2; l++) { /* layer 0: 200, layer 1: 90 */
		call = send(0, session, plain(l, 1, l ? 90 : 200), (struct attnd_request){ 0 });
		rig_run(&rig);
		check(&a[l], &call, 0, 0.25f);
	}
	completion = rig_call(&rig, 0, rig_session_record(ATTND_OP_FORK, session, 150), NULL, NULL);
	assert_int_equal(completion.status, ATTND_OK);
	child = completion.value;
	memcpy(b, a, sizeof(b));
	b[0].count = 150;
	/* Layer 1 of both writes into shared blocks in the middle. */
	for (uint32_t round = 0; round < 2; round++) {
		for (uint32_t l = 0; l < 2; l++) {
			rig_rewind(&rig, 0);
			call = send(0, child, plain(l, 2, 60), (struct attnd_request){ 0 });
			rig_run(&rig);
			check(&b[l], &call, 0, 0.25f);
			call = send(0, session, plain(l, 2, 55), (struct attnd_request){ 0 });
			rig_run(&rig);
			check(&a[l], &call, 0, 0.25f);
		}
	}
	assert_int_equal(
		rig_call(&rig, 0, rig_session_record(ATTND_OP_TRUNCATE, session, 100), NULL, NULL)
			.status,
		ATTND_OK);
	a[0].count = a[1].count = 100;
	call = send(0, session, plain(1, 100, 1),
		(struct attnd_request){ .position = 100, .flags = ATTND_REQ_CHECK_POSITION });
	rig_run(&rig);
	check(&a[1], &call, 0, 0.25f);
	rig_stop(&rig);
}

static void refused(uint64_t session, struct attnd_attend_params params,
	struct attnd_request record, enum attnd_status status)
{
	struct call call;

	rig_rewind(&rig, 0);
	call = send(0, session, params, record);
	rig_run(&rig);
	assert_int_equal(rig_take(&rig, call.id).status, status);
}

static void refusals(void **state)
{
	static struct layer layer;
	struct attnd_open_params open = rig_attention_params(2, HEADS, KV_HEADS, DIM);
	struct attnd_attend_params params;
	const struct attnd_request none = { 0 };
	struct attnd_completion completion;
	uint64_t session, model;
	struct call call;

	(void)state;
	memset(&layer, 0, sizeof(layer));
	rig_start_plain(&rig);
	open.max_tokens = 100;
	session = rig_open_with(&rig, 0, &open);
	model = rig_open(&rig, 0, 0);
	params = plain(0, 1, 1), params.struct_bytes = 60;
	refused(session, params, none, ATTND_BAD_PARAMS);
	refused(session, plain(2, 1, 1), none, ATTND_BAD_PARAMS);
	params = plain(0, 1, 1), params.dtype = ATTND_DTYPE_END;
	refused(session, params, none, ATTND_BAD_PARAMS);
	params = plain(0, 1, 1), params.flags = 4;
	refused(session, params, none, ATTND_BAD_PARAMS);
	params = plain(0, 1, 1), params.scale = NAN;
	refused(session, params, none, ATTND_BAD_PARAMS);
	params = plain(0, 1, 1), params.soft_cap = INFINITY;
	refused(session, params, none, ATTND_BAD_PARAMS);
	params = plain(0, 1, 1), params.reserved[7] = 1;
	refused(session, params, none, ATTND_BAD_PARAMS);
	refused(session, plain(0, 0, 1), (struct attnd_request){ .op = ATTND_OP_ATTEND },
		ATTND_BAD_SHAPE);
	refused(session, plain(0, 1, 1), (struct attnd_request){ .op = ATTND_OP_APPEND },
		ATTND_BAD_SHAPE);
	refused(session, plain(0, 0, 0), (struct attnd_request){ .op = ATTND_OP_APPEND },
		ATTND_BAD_SHAPE);
	refused(session, plain(0, 1, 1), (struct attnd_request){ .in_bytes = 64 }, ATTND_BAD_SHAPE);
	refused(session, plain(0, 1, 1), (struct attnd_request){ .in_bytes = UINT32_MAX - 1 },
		ATTND_BAD_SHAPE);
	refused(session, plain(0, 1, 1),
		(struct attnd_request){ .out_capacity = HEADS * DIM * 4 - 1 },
		ATTND_NO_OUTPUT_ROOM);
	refused(session, plain(0, 1, 101), none, ATTND_CONTEXT_FULL);
	refused(session, plain(0, 1, 0), none, ATTND_BAD_POSITION); /* nothing to see */
	refused(session, plain(0, 3, 2), none, ATTND_BAD_POSITION);
	params = plain(0, 2, 2), params.q_position = 1;
	refused(session, params, none, ATTND_BAD_POSITION);
	params.q_position = UINT32_MAX - 1;
	refused(session, params, none, ATTND_BAD_POSITION);
	refused(session, plain(0, 1, 1),
		(struct attnd_request){ .flags = ATTND_REQ_CHECK_POSITION, .position = 1 },
		ATTND_BAD_POSITION);
	refused(model, plain(0, 1, 1), none, ATTND_UNSUPPORTED);
	refused(session, (struct attnd_attend_params){ 0 },
		(struct attnd_request){ .op = ATTND_OP_STEP }, ATTND_UNSUPPORTED);
	/* 4097 rows: the head alone is sent, since nothing else is looked at. */
	params = plain(0, ATTND_ATTEND_ROWS_MAX + 1, 0);
	rig_rewind(&rig, 0);
	call.in = memcpy(rig_loan(&rig, 0, 64), &params, sizeof(params));
	assert_int_equal(
		rig_call(&rig, 0,
			(struct attnd_request){
				.op = ATTND_OP_ATTEND, .session = session, .in_bytes = 64 },
			call.in, NULL)
			.status,
		ATTND_TOO_LARGE);
	assert_int_equal(
		rig_call(&rig, 0,
			(struct attnd_request){
				.op = ATTND_OP_ATTEND, .session = session, .in_bytes = 63 },
			call.in, NULL)
			.status,
		ATTND_BAD_PARAMS);
	/* After all that the session is as new. */
	rig_rewind(&rig, 0);
	call = send(0, session, plain(0, 1, 100), none);
	rig_run(&rig);
	check(&layer, &call, 0, 0.25f);
	params = plain(0, 2, 0), params.flags = 0,
	params.q_position = UINT32_MAX - 1; /* no matter where */
	call = send(0, session, params, none);
	rig_run(&rig);
	check(&layer, &call, 0, 0.25f);
	rig_rewind(&rig, 0);
	call = send(0, session, plain(0, 1, 1), none);
	rig_run(&rig);
	completion = rig_take(&rig, call.id);
	assert_int_equal(completion.status, ATTND_CONTEXT_FULL);
	assert_int_equal(completion.position, 100);
	rig_stop(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(appends_and_attends),
		cmocka_unit_test(settings_of_session_and_request),
		cmocka_unit_test(long_requests_are_cut),
		cmocka_unit_test(many_sessions_in_one_work),
		cmocka_unit_test(forks_fill_a_work),
		cmocka_unit_test(fork_and_truncate),
		cmocka_unit_test(refusals),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
