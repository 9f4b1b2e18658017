/*
 * Prompts that begin as earlier ones did: what is computed and what is found, for each KV format; who may find what; what room
 * cached pages take. The device says for every result whether the blocks that it was given hold just the session's tokens.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/base_rand.h"
#include "tests/unit/sched_rig.h"

static struct rig rig;
static uint32_t text[4][1024];

static struct sched_counters counters(void)
{
	struct sched_counters now;

	sched_counters_read(rig.sched, &now);
	return now;
}

static void prepare(void)
{
	rig_init(&rig);
	rig.options.prefix_cache = true;
	rig.options.secret[0] = 1;
	for (uint32_t i = 0; i < 4; i++)
		rig_tokens(text[i], 1024, 100 + i);
}

static void begin(void)
{
	rig_start(&rig);
	for (uint32_t c = 0; c < 4; c++)
		rig_add(&rig, c, c, 1000);
	rig_add(&rig, 4, 0, 1000);
}

static struct attnd_open_params open_params(enum attnd_kv format)
{
	struct attnd_open_params params = rig_open_params(0);

	params.kv_k = params.kv_v = (uint8_t)format;
	return params;
}

static void close_session(uint32_t client, uint64_t session)
{
	assert_int_equal(rig_call(&rig, client, rig_session_record(ATTND_OP_CLOSE, session, 0), NULL, NULL).status, ATTND_OK);
}

/* Rows that the device computes for a prompt in a new session, which is checked and left open. */
static uint64_t rows_of(uint32_t client, enum attnd_kv format, const uint32_t *tokens, uint32_t count, uint64_t *session)
{
	const struct attnd_open_params params = open_params(format);
	const uint64_t before = counters().step_rows;

	*session = rig_open_with(&rig, client, &params);
	rig_step_check(&rig, client, *session, tokens, count, count);
	rig_rewind(&rig, client);
	return counters().step_rows - before;
}

/* The same, closed at once. */
static uint64_t rows_once(uint32_t client, enum attnd_kv format, const uint32_t *tokens, uint32_t count)
{
	uint64_t session, rows = rows_of(client, format, tokens, count, &session);

	close_session(client, session);
	return rows;
}

/* ---- what is found -------------------------------------------------------------------- */

static const enum attnd_kv FORMATS[] = { ATTND_KV_F32, ATTND_KV_BF16, ATTND_KV_INT8, ATTND_KV_F16, ATTND_KV_FP8, ATTND_KV_INT4 };

static void a_prompt_again_is_its_last_page(void **state)
{
	(void)state;
	for (uint32_t f = 0; f < sizeof(FORMATS) / sizeof(*FORMATS); f++) {
		/* The last but one page of the 640 has no low halves kept. */
		const uint32_t last = FORMATS[f] == ATTND_KV_INT4 ? 256 : 576;

		prepare();
		begin();
		assert_int_equal(rows_once(0, FORMATS[f], text[0], 300), 300);
		assert_int_equal(rows_once(0, FORMATS[f], text[0], 300), 300 - 256);
		assert_int_equal(rows_once(4, FORMATS[f], text[0], 700), 700 - 256); /* a client of the same tenant */
		assert_int_equal(rows_once(0, FORMATS[f], text[0], 641), 1);
		assert_int_equal(rows_once(0, FORMATS[f], text[0], 640), 640 - last); /* a row is always computed */
		assert_int_equal(rows_once(0, FORMATS[f], text[0], 64), 64);
		assert_int_equal(counters().prefix_lookups, 6);
		assert_int_equal(counters().prefix_hits, 4);
		assert_int_equal(counters().prefix_tokens, 256 + 256 + 640 + last);
		rig_stop(&rig);
	}
}

/* The session that computed them need not have ended, nor its prompt. */
static void pages_are_there_when_they_are_full(void **state)
{
	const struct attnd_open_params params = open_params(ATTND_KV_INT8);
	uint64_t first, second, id;

	(void)state;
	prepare();
	begin();
	first = rig_open_with(&rig, 0, &params);
	second = rig_open_with(&rig, 0, &params);
	id = rig_step(&rig, 0, first, text[0], 1000);
	for (uint32_t i = 0; i < 20; i++) {
		rig_settle(&rig);
		rig_land(&rig);
	}
	assert_false(rig_has(&rig, id));
	rig_step_check(&rig, 0, second, text[0], 500, 500);
	assert_true(counters().prefix_tokens >= 448);
	rig_run(&rig);
	rig_take(&rig, id);
	/* Both computed page 0 on; there is one copy of each page but the unfinished ones. */
	assert_int_equal(counters().blocks_used, 16 + 1);
	rig_stop(&rig);
}

static void answers_are_prompts_of_the_next_turn(void **state)
{
	const struct attnd_open_params params = open_params(ATTND_KV_DEFAULT);
	struct attnd_completion completion;
	uint32_t turn[512];
	uint64_t session, id;

	(void)state;
	prepare();
	begin();
	memcpy(turn, text[0], sizeof(turn));
	session = rig_open_with(&rig, 0, &params);
	id = rig_generate(&rig, 0, session, turn, 100, (struct attnd_generate_params){ .max_tokens = 60 }, NULL,
		(struct attnd_request){ 0 });
	rig_run(&rig);
	for (uint32_t i = 0; i < 60; i++) {
		completion = rig_take(&rig, id);
		turn[100 + i] = (uint32_t)completion.value;
	}
	completion = rig_take(&rig, id);
	assert_int_equal(completion.status, ATTND_OK);
	close_session(0, session);
	assert_int_equal(rows_once(0, ATTND_KV_DEFAULT, turn, 400), 400 - 128);
	rig_stop(&rig);
}

/* int4: a page is gone on from only where its low halves were kept. Where prompts part, they are kept when the second one
 * comes by. */
static void low_halves_are_kept_where_prompts_part(void **state)
{
	uint32_t parted[3][512];

	(void)state;
	prepare();
	rig.options.prefill_chunk = 40; /* no chunk ends by itself where they part */
	begin();
	for (uint32_t i = 0; i < 3; i++) {
		memcpy(parted[i], text[0], sizeof(parted[i]));
		memcpy(parted[i] + 200, text[1 + i], sizeof(uint32_t) * 300);
	}
	assert_int_equal(rows_once(0, ATTND_KV_INT4, parted[0], 450), 450);
	assert_int_equal(rows_once(0, ATTND_KV_INT4, parted[1], 450), 450 - 64);
	assert_int_equal(rows_once(0, ATTND_KV_INT4, parted[2], 450), 450 - 192);
	assert_int_equal(rows_once(0, ATTND_KV_INT4, parted[0], 450), 450 - 448);
	/* A prompt of whole pages is found when it comes again. */
	assert_int_equal(rows_once(0, ATTND_KV_INT4, text[3], 512), 512);
	assert_int_equal(rows_once(0, ATTND_KV_INT4, text[3], 512), 64);
	rig_stop(&rig);
}

/* A truncation behind a page's beginning loses low halves: what is computed from there is not what others would compute. */
static void what_lost_its_low_halves_adds_nothing(void **state)
{
	uint32_t other[512];
	uint64_t session;

	(void)state;
	prepare();
	begin();
	memcpy(other, text[0], sizeof(other));
	memcpy(other + 150, text[1], sizeof(uint32_t) * 300);
	rows_of(0, ATTND_KV_INT4, text[0], 400, &session);
	rig_call(&rig, 0, rig_session_record(ATTND_OP_TRUNCATE, session, 150), NULL, NULL);
	rig_step_check(&rig, 0, session, other, 450, 300);
	close_session(0, session);
	assert_int_equal(rows_once(0, ATTND_KV_INT4, other, 450), 450 - 64);
	/* Where the rest is in block 0, nothing was lost. */
	rows_of(4, ATTND_KV_INT4, text[2], 400, &session);
	rig_call(&rig, 4, rig_session_record(ATTND_OP_TRUNCATE, session, 30), NULL, NULL);
	memcpy(other, text[2], sizeof(uint32_t) * 30);
	rig_step_check(&rig, 4, session, other, 450, 420);
	close_session(4, session);
	assert_int_equal(rows_once(0, ATTND_KV_INT4, other, 450), 450 - 448);
	rig_stop(&rig);
}

/* Row after row, and a truncation to the middle of a page: nothing is copied, although pages are in the cache. */
static void who_is_in_a_hurry_waits_for_no_copy(void **state)
{
	uint64_t session;

	(void)state;
	for (uint32_t f = 0; f < sizeof(FORMATS) / sizeof(*FORMATS); f++) {
		prepare();
		begin();
		rows_of(0, FORMATS[f], text[0], 1, &session);
		for (uint32_t count = 2; count <= 400; count++) {
			rig_step_check(&rig, 0, session, text[0], count, 1);
			rig_rewind(&rig, 0);
		}
		for (uint32_t i = 0; i < 10; i++) {
			rig_call(&rig, 0, rig_session_record(ATTND_OP_TRUNCATE, session, 390), NULL, NULL);
			rig_step_check(&rig, 0, session, text[0], 450, 60);
			rig_rewind(&rig, 0);
		}
		if (FORMATS[f] != ATTND_KV_INT4)
			assert_int_equal(sim_device_stats(rig.device)->works[KERN_WORK_COPY], 0);
		close_session(0, session);
		assert_int_equal(rows_once(0, FORMATS[f], text[0], 500),
			FORMATS[f] == ATTND_KV_INT4 ? 500 - 64 : 500 - 448);
		rig_stop(&rig);
	}
}

/* ---- what has to be computed ---------------------------------------------------------- */

static void rows_to_be_output_are_computed(void **state)
{
	const struct attnd_step_args all = { .output = ATTND_OUT_ARGMAX, .select = ATTND_SELECT_ALL };
	const struct attnd_step_args some = { .output = ATTND_OUT_ARGMAX, .select = ATTND_SELECT_CHOSEN, .select_count = 2 };
	uint64_t session, before;
	struct attnd_request record;
	uint32_t *in, *out;

	(void)state;
	prepare();
	begin();
	rows_once(0, ATTND_KV_DEFAULT, text[0], 300);
	for (uint32_t i = 0; i < 2; i++) {
		in = rig_loan(&rig, 0, sizeof(uint32_t) * 302);
		out = rig_loan(&rig, 0, sizeof(uint32_t) * 300);
		memcpy(in, text[0], sizeof(uint32_t) * 300);
		in[300] = 140;
		in[301] = 299;
		session = rig_open(&rig, 0, 0);
		record = rig_step_record(session, 300, ATTND_OUT_ARGMAX);
		memcpy(&record.args, i ? &some : &all, sizeof(all));
		record.in_bytes = sizeof(uint32_t) * (i ? 302 : 300);
		record.out_capacity = sizeof(uint32_t) * 300;
		before = counters().step_rows;
		assert_int_equal(rig_call(&rig, 0, record, in, out).status, ATTND_OK);
		assert_int_equal(counters().step_rows - before, i ? 300 - 128 : 300);
		assert_int_equal(out[0], sim_argmax(sim_row_hash(text[0], i ? 141 : 1), RIG_VOCAB));
		assert_int_equal(out[1], sim_argmax(sim_row_hash(text[0], i ? 300 : 2), RIG_VOCAB));
		close_session(0, session);
	}
	rig_stop(&rig);
}

static void rows_without_ids_are_not_kept(void **state)
{
	static float rows[128 * RIG_WIDTH];
	struct attnd_request record;
	uint64_t session;
	float *in;

	(void)state;
	prepare();
	begin();
	session = rig_open(&rig, 0, 0);
	in = rig_loan(&rig, 0, sizeof(rows));
	memcpy(in, rows, sizeof(rows));
	record = rig_step_record(session, 128, ATTND_OUT_NONE);
	record.flags = ATTND_REQ_ROWS;
	record.in_bytes = sizeof(rows);
	record.out_capacity = 0;
	assert_int_equal(rig_call(&rig, 0, record, in, NULL).status, ATTND_OK);
	assert_int_equal(counters().prefix_pages, 0);
	/* And what follows them is not the prefix of anything. */
	in = rig_loan(&rig, 0, sizeof(uint32_t) * 128);
	memcpy(in, text[0], sizeof(uint32_t) * 128);
	record = rig_step_record(session, 128, ATTND_OUT_NONE);
	record.out_capacity = 0;
	assert_int_equal(rig_call(&rig, 0, record, in, NULL).status, ATTND_OK);
	assert_int_equal(counters().prefix_pages, 0);
	rig_stop(&rig);
}

/* A request that ends before it computed anything leaves its session as it was. */
static void what_was_found_is_given_back(void **state)
{
	const struct attnd_open_params params = open_params(ATTND_KV_INT8);
	struct attnd_completion completion;
	uint64_t session, other, id;

	(void)state;
	prepare();
	rig.tenants[0].kv_bytes_max = 60 << 10;
	begin();
	rows_once(0, ATTND_KV_INT8, text[0], 300);
	session = rig_open_with(&rig, 0, &params);
	id = rig_step(&rig, 0, session, text[0], 1024);
	rig_run(&rig);
	completion = rig_take(&rig, id);
	assert_int_equal(completion.status, ATTND_OVER_QUOTA);
	assert_int_equal(completion.position, 0);
	/* Cancelled while another's step is in the air. */
	other = rig_open(&rig, 1, 0);
	rig_step(&rig, 1, other, text[1], 10);
	rig_settle(&rig);
	id = rig_step(&rig, 0, session, text[0], 300);
	rig_settle(&rig);
	assert_int_equal(counters().prefix_hits, 2);
	rig_send(&rig, 0, (struct attnd_request){ .op = ATTND_OP_CANCEL, .args = id }, NULL, NULL);
	rig_run(&rig);
	completion = rig_take(&rig, id);
	assert_int_equal(completion.status, ATTND_CANCELLED);
	assert_int_equal(completion.position, 0);
	rig_step_check(&rig, 0, session, text[0], 300, 300);
	assert_int_equal(counters().prefix_hits, 3);
	rig_stop(&rig);
}

/* ---- whose ---------------------------------------------------------------------------- */

static void tenants_find_their_own(void **state)
{
	(void)state;
	prepare();
	rig.tenants[2].prefix_group = rig.tenants[3].prefix_group = 7;
	begin();
	assert_int_equal(rows_once(0, ATTND_KV_INT8, text[0], 300), 300);
	assert_int_equal(rows_once(1, ATTND_KV_INT8, text[0], 300), 300);
	assert_int_equal(rows_once(2, ATTND_KV_INT8, text[0], 300), 300);
	assert_int_equal(rows_once(3, ATTND_KV_INT8, text[0], 300), 44);
	assert_int_equal(rows_once(1, ATTND_KV_INT8, text[0], 300), 44);
	assert_int_equal(rows_once(0, ATTND_KV_BF16, text[0], 300), 300);
	rig_stop(&rig);
}

/* ---- room ----------------------------------------------------------------------------- */

/* A pool of a few prompts serves any number of them: no request ends for cached pages' sake. */
static void cached_pages_make_room(void **state)
{
	static const enum attnd_kv formats[] = { ATTND_KV_F32, ATTND_KV_INT8, ATTND_KV_INT4 };
	uint32_t tokens[512];

	(void)state;
	prepare();
	rig.options.kv_extent_bytes = 64 << 10;
	rig.options.kv_bytes = 3 * rig.options.kv_extent_bytes;
	begin();
	for (uint32_t i = 0; i < 100; i++) {
		rig_tokens(tokens, 512, 1000 + i);
		assert_int_equal(rows_once(0, formats[i / 3 % 3], tokens, 100 + i * 4), 100 + i * 4);
	}
	assert_true(counters().prefix_evictions > 100);
	assert_true(counters().kv_bytes_cached > 0);
	assert_int_equal(counters().kv_bytes_used, 0);
	rig_stop(&rig);
}

/* Whatever the cache holds, a new session's blocks are clean when it comes, the large first one too: its step goes to an idle device at
 * once, and behind no zeroing. Short prompts, which want as many large blocks as small ones, come when the pool is full of long ones. */
static void clean_blocks_of_each_size_are_there(void **state)
{
	static const enum attnd_kv formats[] = { ATTND_KV_BF16, ATTND_KV_INT8, ATTND_KV_INT4 };
	enum { OPEN = 32 };
	uint64_t open[OPEN];
	uint32_t tokens[512];

	(void)state;
	for (uint32_t f = 0; f < sizeof(formats) / sizeof(*formats); f++) {
		const struct attnd_open_params params = open_params(formats[f]);

		prepare();
		rig.head_dim = 64; /* large enough for a session's first block to be larger than the others */
		rig.options.kv_extent_bytes = 256 << 10;
		rig.options.kv_bytes = 24 * rig.options.kv_extent_bytes;
		begin();
		for (uint32_t i = 0; i < 200; i++) {
			const uint32_t count = (i < 100 ? 449 : 65) + (uint32_t)(base_mix64(i) % 64);
			const uint64_t session = rig_open_with(&rig, 0, &params), steps = counters().steps;
			uint64_t id;

			rig_tokens(tokens, count, 3000 + i);
			id = rig_step(&rig, 0, session, tokens, count);
			rig_settle(&rig);
			assert_int_equal(counters().steps, steps + 1);
			rig_run(&rig);
			assert_int_equal(rig_take(&rig, id).status, ATTND_OK);
			if (i >= OPEN)
				close_session(0, open[i % OPEN]);
			open[i % OPEN] = session;
			rig_rewind(&rig, 0);
		}
		assert_true(counters().prefix_evictions > 50);
		/* Room was made for what came, and the rest of the pool is put to use. */
		assert_true(counters().kv_bytes_cached > rig.options.kv_bytes / 3);
		rig_stop(&rig);
	}
}

/* A size that the pool has no blocks of waits for a whole extent, and pages lie anywhere in many: they go an extent's worth at a time,
 * not all at once. */
static void a_new_size_leaves_most_pages(void **state)
{
	enum { SESSIONS = 16, PARTS = 8, EXTENT = 1 << 20, EXTENTS = 10 };
	struct attnd_open_params params = open_params(ATTND_KV_INT8);
	uint32_t tokens[KERN_PAGE_TOKENS];
	uint64_t session, id, cached;

	(void)state;
	prepare();
	rig.options.kv_extent_bytes = EXTENT;
	rig.options.kv_bytes = EXTENTS * EXTENT;
	begin();
	for (uint32_t i = 0; i < 28; i++) {
		uint64_t sessions[SESSIONS];

		for (uint32_t s = 0; s < SESSIONS; s++)
			sessions[s] = rig_open_with(&rig, 0, &params);
		for (uint32_t at = 0; at < PARTS * SESSIONS; at++) {
			rig_tokens(tokens, KERN_PAGE_TOKENS, 3000 + i * 1000 + at);
			id = rig_step(&rig, 0, sessions[at % SESSIONS], tokens, KERN_PAGE_TOKENS);
			rig_run(&rig);
			assert_int_equal(rig_take(&rig, id).status, ATTND_OK);
			rig_rewind(&rig, 0);
		}
		for (uint32_t s = 0; s < SESSIONS; s++)
			close_session(0, sessions[s]);
	}
	cached = counters().kv_bytes_cached;
	assert_true(cached > (EXTENTS - 1) * (uint64_t)EXTENT);
	params = open_params(ATTND_KV_F32);
	session = rig_open_with(&rig, 0, &params);
	id = rig_step(&rig, 0, session, tokens, 40);
	rig_run(&rig);
	assert_int_equal(rig_take(&rig, id).status, ATTND_OK);
	assert_true(counters().kv_bytes_cached + 3 * (uint64_t)EXTENT > cached);
	rig_stop(&rig);
}

/* What a session holds stays. */
static void held_pages_are_not_evicted(void **state)
{
	uint64_t holder, hit;
	uint32_t tokens[512];

	(void)state;
	prepare();
	rig.options.kv_extent_bytes = 64 << 10;
	rig.options.kv_bytes = 3 * rig.options.kv_extent_bytes;
	begin();
	rows_of(0, ATTND_KV_INT8, text[0], 300, &holder);
	for (uint32_t i = 0; i < 50; i++) {
		rig_tokens(tokens, 512, 2000 + i);
		rows_once(1, ATTND_KV_INT8, tokens, 512);
	}
	assert_true(counters().prefix_evictions > 50);
	assert_int_equal(rows_of(0, ATTND_KV_INT8, text[0], 300, &hit), 44);
	rig_step_check(&rig, 0, holder, text[0], 310, 10);
	rig_stop(&rig);
}

/* A fork and its parent, and both beside the cache: each goes its own way. */
static void forks_hold_what_they_share(void **state)
{
	struct attnd_completion completion;
	uint32_t forked[512];
	uint64_t session;

	(void)state;
	for (uint32_t f = 0; f < sizeof(FORMATS) / sizeof(*FORMATS); f++) {
		prepare();
		begin();
		memcpy(forked, text[0], sizeof(forked));
		memcpy(forked + 200, text[1], sizeof(uint32_t) * 300);
		rows_of(0, FORMATS[f], text[0], 300, &session);
		completion = rig_call(&rig, 0, rig_session_record(ATTND_OP_FORK, session, 200), NULL, NULL);
		assert_int_equal(completion.status, ATTND_OK);
		rig_step_check(&rig, 0, completion.value, forked, 500, 300);
		rig_call(&rig, 0, rig_session_record(ATTND_OP_TRUNCATE, session, 70), NULL, NULL);
		memcpy(forked + 70, text[2], sizeof(uint32_t) * 300);
		rig_step_check(&rig, 0, session, forked, 370, 300);
		close_session(0, session);
		assert_int_equal(rows_once(0, FORMATS[f], text[0], 300), 44);
		rig_stop(&rig);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_prompt_again_is_its_last_page),
		cmocka_unit_test(pages_are_there_when_they_are_full),
		cmocka_unit_test(answers_are_prompts_of_the_next_turn),
		cmocka_unit_test(low_halves_are_kept_where_prompts_part),
		cmocka_unit_test(what_lost_its_low_halves_adds_nothing),
		cmocka_unit_test(who_is_in_a_hurry_waits_for_no_copy),
		cmocka_unit_test(rows_to_be_output_are_computed),
		cmocka_unit_test(rows_without_ids_are_not_kept),
		cmocka_unit_test(what_was_found_is_given_back),
		cmocka_unit_test(tenants_find_their_own),
		cmocka_unit_test(cached_pages_make_room),
		cmocka_unit_test(clean_blocks_of_each_size_are_there),
		cmocka_unit_test(a_new_size_leaves_most_pages),
		cmocka_unit_test(held_pages_are_not_evicted),
		cmocka_unit_test(forks_hold_what_they_share),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
