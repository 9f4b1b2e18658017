/*
 * Time limit: 240 s
 *
 * The real daemon over each way in: shared memory, Unix sockets, TCP and UDP, plain and sealed. What a client plays, every operation with
 * results of a byte and of megabytes, errors and streams, gives the same bytes over each as over shared memory. What a way does not have it
 * says; what is a client's own stays its own, by whichever way the other one came; and who has gone leaves nothing behind.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "attnd/attnd.h"
#include "attnd/view.h"
#include "base/base_rand.h"
#include "tests/system/sys_net.h"

enum { PROMPT = 150, TOKENS = 40, NOTES_MAX = 256, ROWS = 256, HEADS = 16, KV_HEADS = 4, DIM = 64, REMOTE_SESSIONS = 12, ECHOES = 400 };

static const int64_t second = 1000000000;

static const char *const options[] = { "kv.pool=128M", "limits.tokens=512", "placement.workers=0", "placement.spin_us=50",
	"daemon.log_level=error", "tenant.remote.sessions=12", NULL };

static struct sys_net net;

/* ---- what was answered ------------------------------------------------------------------------------------ */

struct note { const char *what; size_t bytes; void *memory; };
struct notes { struct note note[NOTES_MAX]; uint32_t count; };

/* Over shared memory. */
static struct notes expected;

static void note(struct notes *notes, const char *what, const void *memory, size_t bytes)
{
	struct note *to = &notes->note[notes->count++];

	assert_true(notes->count <= NOTES_MAX);
	*to = (struct note){ what, bytes, malloc(bytes + 1) };
	assert_non_null(to->memory);
	memcpy(to->memory, memory, bytes);
}

static void notes_free(struct notes *notes)
{
	while (notes->count > 0)
		free(notes->note[--notes->count].memory);
}

static void notes_compare(const struct notes *notes, enum sys_way way)
{
	assert_int_equal(notes->count, expected.count);
	for (uint32_t i = 0; i < notes->count; i++) {
		const struct note *is = &notes->note[i], *was = &expected.note[i];

		if (strcmp(is->what, was->what) || is->bytes != was->bytes || memcmp(is->memory, was->memory, is->bytes))
			fail_msg("%s: %s is not what it is over shared memory (%zu bytes, %zu there)", sys_way_name(way), is->what, is->bytes,
				was->bytes);
	}
}

/* Of a completion what does not depend on time. */
static void note_completion(struct notes *notes, const char *what, const struct attnd_client *client)
{
	const struct attnd_completion *last = attnd_last_completion(client);
	const uint32_t words[] = { last->status, last->flags, last->sequence, last->result_bytes, last->position };

	note(notes, what, words, sizeof(words));
}

/* ---- models ----------------------------------------------------------------------------------------------- */

static void fill_tokens(uint32_t *tokens, uint32_t count, uint64_t seed, uint32_t vocab)
{
	for (uint32_t i = 0; i < count; i++)
		tokens[i] = 3 + (uint32_t)base_rand_below(&seed, vocab - 3);
}

static void play_steps(struct attnd_client *client, struct notes *notes, uint64_t session, const struct attnd_model_info *model)
{
	static const uint8_t outputs[] = { ATTND_OUT_LOGITS, ATTND_OUT_TOP, ATTND_OUT_ARGMAX, ATTND_OUT_HIDDEN, ATTND_OUT_SAMPLED,
		ATTND_OUT_NONE };
	static const char *const whats[] = { "logits", "top", "argmax", "hidden", "sampled", "nothing" };
	const size_t room = sizeof(float) * PROMPT * model->vocab;
	uint32_t tokens[PROMPT + 2];
	void *out = malloc(room);

	for (uint32_t i = 0; i < sizeof(outputs); i++)
		for (uint32_t select = 0; select < ATTND_SELECT_END; select++) {
			const struct attnd_step_args args = { .output = outputs[i], .select = (uint8_t)select, .top_k = 5, .select_count = 2 };
			const uint32_t count = select == ATTND_SELECT_ALL && i == 0 ? PROMPT : 7;
			int64_t bytes;

			fill_tokens(tokens, count, i * 8 + select, model->vocab);
			tokens[count] = 1; /* which rows, where they are chosen */
			tokens[count + 1] = 5;
			bytes = attnd_step(client, session, tokens, count, args, out, room);
			assert_true(bytes >= 0);
			note(notes, whats[i], out, (size_t)bytes);
			note_completion(notes, whats[i], client);
		}
	free(out);
}

struct heard { uint32_t ids[TOKENS], positions[TOKENS], count, stop_at; };

static int hear(void *context, uint32_t id, const struct attnd_completion *completion)
{
	struct heard *heard = context;

	assert_int_equal(completion->sequence, heard->count);
	heard->ids[heard->count] = id;
	heard->positions[heard->count++] = completion->position;
	return heard->count == heard->stop_at;
}

static void play_streams(struct attnd_client *client, struct notes *notes, uint64_t session, const struct attnd_model_info *model)
{
	struct attnd_generate_params params;
	uint32_t prompt[PROMPT], stop;

	attnd_generate_defaults(&params);
	params.max_tokens = TOKENS;
	params.sampling.temperature = 1.5f;
	for (uint32_t i = 0; i < 3; i++) {
		struct heard heard = { .count = 0, .stop_at = i == 2 ? 5 : 0 };
		uint32_t tokens;

		params.sampling.seed = i;
		fill_tokens(prompt, 20, 100 + i, model->vocab);
		assert_true(attnd_generate(client, session, &params, prompt, 20, NULL, hear, &heard, &stop) >= 0);
		/* One that is cancelled goes on for as long as the cancellation is on its way, maybe to its end. */
		tokens = heard.stop_at ? heard.stop_at : heard.count;
		note(notes, "stream", heard.ids, tokens * sizeof(uint32_t));
		note(notes, "positions", heard.positions, tokens * sizeof(uint32_t));
		if (!heard.stop_at)
			note(notes, "stop", &stop, sizeof(stop));
	}
}

static void play_forks(struct attnd_client *client, struct notes *notes, uint64_t session, const struct attnd_model_info *model)
{
	const struct attnd_step_args args = { .output = ATTND_OUT_LOGITS };
	const size_t bytes = sizeof(float) * model->vocab;
	struct attnd_session_info info;
	uint64_t fork;
	uint32_t token = 9;
	float *out = malloc(bytes);

	assert_int_equal(attnd_session_fork(client, session, 100, &fork), 0);
	assert_int_equal(attnd_step(client, fork, &token, 1, args, out, bytes), bytes);
	note(notes, "fork", out, bytes);
	assert_int_equal(attnd_session_truncate(client, fork, 70), 0);
	assert_int_equal(attnd_step(client, fork, &token, 1, args, out, bytes), bytes);
	note(notes, "truncated", out, bytes);
	assert_int_equal(attnd_describe_session(client, fork, &info), 0);
	note(notes, "session", &info, sizeof(info));
	assert_int_equal(attnd_session_close(client, fork), 0);
	free(out);
}

static void play_text(struct attnd_client *client, struct notes *notes)
{
	const struct attnd_message messages[] = { { ATTND_ROLE_SYSTEM, "Be brief." }, { ATTND_ROLE_USER, "Why is the sky blue?" } };
	uint32_t ids[4096];
	char *text = malloc(20000), back[20000];
	int64_t count;

	for (uint32_t i = 0; i < 3000; i++)
		text[i] = "the quick brown fox "[i % 20];
	count = attnd_tokenize(client, 0, text, 3000, 0, ids, 4096);
	assert_true(count > 0 && count <= 4096);
	note(notes, "ids", ids, (size_t)count * sizeof(*ids));
	count = attnd_detokenize(client, 0, ids, (size_t)count, 0, back, sizeof(back));
	assert_true(count > 0);
	note(notes, "text", back, (size_t)count);
	assert_int_equal(attnd_tokenize(client, 0, text, 3000, 0, ids, 2), attnd_tokenize(client, 0, text, 3000, 0, NULL, 0));
	count = attnd_chat_tokenize(client, 0, messages, 2, ids, 4096);
	note(notes, "chat", &count, sizeof(count));
	note_completion(notes, "chat", client);
	free(text);
}

/* ---- attention -------------------------------------------------------------------------------------------- */

static float *noise(size_t count, uint64_t seed)
{
	float *x = malloc(count * sizeof(*x));

	assert_non_null(x);
	for (size_t i = 0; i < count; i++)
		x[i] = (float)base_rand_below(&seed, 1 << 20) / (1 << 18) - 2.0f;
	return x;
}

/* Megabytes each way: Q is one, K and V a quarter of it. */
static void play_attention(struct attnd_client *client, struct notes *notes)
{
	const size_t count = (size_t)ROWS * HEADS * DIM, kv_count = (size_t)ROWS * KV_HEADS * DIM;
	float *q = noise(count, 1), *k = noise(kv_count, 2), *v = noise(kv_count, 3), *o = malloc(count * sizeof(*o)), lse[ROWS * HEADS];
	struct attnd_attend_params params;
	struct attnd_open_params open;
	uint64_t session;

	attnd_open_defaults(&open);
	open.kind = ATTND_SESSION_ATTENTION;
	open.layers = 2;
	open.heads = HEADS;
	open.kv_heads = KV_HEADS;
	open.head_dim = DIM;
	open.kv_k = open.kv_v = ATTND_KV_INT8;
	assert_int_equal(attnd_session_open(client, &open, &session), 0);
	attnd_attend_defaults(&params);
	params.flags = ATTND_ATTEND_CAUSAL | ATTND_ATTEND_LSE;
	params.q_rows = params.kv_rows = ROWS;
	assert_int_equal(attnd_attend(client, session, &open, &params, q, k, v, o, lse), 0);
	note(notes, "attend", o, count * sizeof(*o));
	note(notes, "log-sum-exp", lse, sizeof(lse));
	params.layer = 1;
	params.q_rows = 0;
	params.flags = 0;
	assert_int_equal(attnd_attend(client, session, &open, &params, NULL, k, v, NULL, NULL), 0);
	params.q_rows = 3;
	params.kv_rows = 0;
	assert_int_equal(attnd_attend(client, session, &open, &params, q, NULL, NULL, o, NULL), 0);
	note(notes, "attend after append", o, (size_t)3 * HEADS * DIM * sizeof(*o));
	assert_int_equal(attnd_session_close(client, session), 0);
	free(q), free(k), free(v), free(o);
}

/* ---- errors ----------------------------------------------------------------------------------------------- */

static void refused(struct attnd_client *client, struct notes *notes, struct attnd_request request, enum attnd_status status)
{
	assert_int_equal(attnd_call(client, &request, NULL), -EIO);
	assert_int_equal(attnd_last_completion(client)->status, status);
	note_completion(notes, attnd_status_name(status), client);
	if (status != ATTND_REFUSED_DEADLINE) /* that one's value is a time */
		note(notes, "value", &attnd_last_completion(client)->value, sizeof(uint64_t));
}

static void play_errors(struct attnd_client *client, struct notes *notes, uint64_t session, const struct attnd_model_info *model)
{
	uint32_t *tokens = attnd_loan(client, 4096);
	struct attnd_request step = { .op = ATTND_OP_STEP, .session = session, .argument = 3, .in_bytes = 12,
		.in_offset = attnd_offset(client, tokens) };
	struct attnd_request other = step;

	tokens[0] = tokens[1] = 5;
	tokens[2] = model->vocab;
	refused(client, notes, step, ATTND_BAD_TOKEN);
	tokens[2] = 5;
	other.in_bytes = 8;
	refused(client, notes, other, ATTND_BAD_SHAPE);
	other = step;
	other.flags = ATTND_REQ_CHECK_POSITION;
	refused(client, notes, other, ATTND_BAD_POSITION);
	other = step;
	other.session = session ^ 1 << 19; /* of this daemon, and nobody's */
	refused(client, notes, other, ATTND_BAD_SESSION);
	other = step;
	other.args = ATTND_OUT_LOGITS; /* without room */
	refused(client, notes, other, ATTND_NO_OUTPUT_ROOM);
	other = step;
	other.deadline_ns = 1;
	refused(client, notes, other, ATTND_REFUSED_DEADLINE);
	other = step;
	other.reserved = 1;
	refused(client, notes, other, ATTND_BAD_RECORD);
	other = step;
	other.op = ATTND_OP_END;
	refused(client, notes, other, ATTND_BAD_OP);
	other = step;
	other.in_offset = UINT32_MAX;
	refused(client, notes, other, ATTND_BAD_RANGE);
	other = (struct attnd_request){ .op = ATTND_OP_DESCRIBE, .argument = ATTND_DESCRIBE_MODEL, .args = 99 };
	refused(client, notes, other, ATTND_BAD_MODEL);
	attnd_return(client, tokens);
}

/* ---- the same over every way ------------------------------------------------------------------------------ */

static void play(struct attnd_client *client, struct notes *notes)
{
	struct attnd_model_info model;
	struct attnd_open_params open;
	uint64_t session;

	assert_int_equal(attnd_describe_model(client, 0, &model), 0);
	note(notes, "model", &model, sizeof(model));
	assert_int_equal(attnd_model_by_name(client, model.name), 0);
	attnd_open_defaults(&open);
	open.sampling.temperature = 2;
	open.sampling.seed = 5;
	assert_int_equal(attnd_session_open(client, &open, &session), 0);
	play_steps(client, notes, session, &model);
	play_forks(client, notes, session, &model);
	play_errors(client, notes, session, &model);
	play_streams(client, notes, session, &model);
	play_text(client, notes);
	play_attention(client, notes);
	assert_int_equal(attnd_session_close(client, session), 0);
}

static void the_same_bytes(void **state)
{
	const enum sys_way way = *(enum sys_way *)*state;
	struct attnd_client *client = sys_net_connect(&net, way);
	struct notes notes = { .count = 0 };

	if (way == SYS_SHM) {
		play(client, &expected);
	} else {
		play(client, &notes);
		notes_compare(&notes, way);
		notes_free(&notes);
	}
	attnd_disconnect(client);
}

/* NOPs whose input comes back, of lengths about every boundary, as many at a time as may be. */
static void echoes(void **state)
{
	static const uint32_t lengths[] = { 0, 1, 63, 64, 65, 1023, 1024, 1025, 1200, 1500, 16383, 16384, 16385, 40000, 200000 };
	enum { KINDS = sizeof(lengths) / sizeof(lengths[0]), AT_ONCE = 15, MOST = 200000 };
	struct attnd_client *client = sys_net_connect(&net, *(enum sys_way *)*state);
	unsigned char *in[AT_ONCE], *out[AT_ONCE];
	uint32_t next = 0, done = 0;

	for (uint32_t i = 0; i < AT_ONCE; i++) {
		in[i] = attnd_loan(client, MOST);
		out[i] = attnd_loan(client, MOST);
		assert_true(in[i] && out[i]);
	}
	while (done < ECHOES) {
		struct attnd_completion completion;

		while (next < ECHOES && next - done < AT_ONCE) {
			const uint32_t bytes = lengths[next % KINDS];
			struct attnd_request request = { .op = ATTND_OP_NOP, .request_id = next, .in_bytes = bytes, .out_capacity = bytes,
				.in_offset = attnd_offset(client, in[next % AT_ONCE]), .out_offset = attnd_offset(client, out[next % AT_ONCE]) };

			for (uint32_t b = 0; b < bytes; b++)
				in[next % AT_ONCE][b] = (unsigned char)(b + next + (b >> 8));
			memset(out[next % AT_ONCE], 0xee, bytes);
			assert_int_equal(attnd_submit(client, &request, 1), 1);
			next++;
		}
		assert_int_equal(attnd_wait(client, &completion, 1, 20 * second), 1);
		assert_int_equal(completion.status, ATTND_OK);
		assert_int_equal(completion.request_id, done);
		assert_int_equal(completion.result_bytes, lengths[done % KINDS]);
		assert_memory_equal(in[done % AT_ONCE], out[done % AT_ONCE], completion.result_bytes);
		done++;
	}
	attnd_disconnect(client);
}

/* A client's own requests are seen over shared memory alone. */
static void what_is_seen(void **state)
{
	const enum sys_way way = *(enum sys_way *)*state;
	const int wanted = way == SYS_SHM ? 0 : -ENOTSUP;
	struct attnd_client *client = sys_net_connect(&net, way);
	struct attnd_timeline timeline;
	struct attnd_view_own own;
	struct attnd_view *view;

	assert_int_equal(attnd_nop(client), 0);
	assert_int_equal(attnd_view_read_own(client, &own), wanted);
	assert_int_equal(attnd_view_timelines(client, &timeline, 1), wanted);
	assert_int_equal(attnd_view_timeline(client, 12345, &timeline), way == SYS_SHM ? -ENOENT : -ENOTSUP);
	assert_int_equal(attnd_view_open(&view, net.addresses[way]), wanted);
	if (way == SYS_SHM)
		attnd_view_close(view);
	attnd_disconnect(client);
}

/* Deadlines are on the daemon's clock, which is this machine's. */
static void the_clock(void **state)
{
	const enum sys_way way = *(enum sys_way *)*state;
	struct attnd_client *client = sys_net_connect(&net, way);
	int64_t before_ns, now_ns, after_ns, error_ns;

	for (int i = 0; i < 50; i++)
		assert_int_equal(attnd_nop(client), 0);
	before_ns = sys_now_ns();
	now_ns = attnd_now_ns(client);
	after_ns = sys_now_ns();
	error_ns = attnd_clock_error_ns(client);
	assert_true(way == SYS_SHM ? error_ns == 0 : error_ns > 0 && error_ns < second);
	assert_in_range(now_ns, before_ns - error_ns - 50000, after_ns + error_ns + 50000);
	attnd_disconnect(client);
}

/* A handle is worth something to its client alone; the tenant is whose key it was; with a client its sessions go. */
static void whose_it_is(void **state)
{
	const enum sys_way way = *(enum sys_way *)*state;
	struct attnd_client *client = sys_net_connect(&net, way), *local = sys_net_connect(&net, SYS_SHM);
	const struct attnd_step_args args = { .output = ATTND_OUT_NONE };
	struct attnd_open_params open;
	uint64_t session = 0, theirs;
	uint32_t token = 5;
	int rc = 0;

	attnd_open_defaults(&open);
	assert_int_equal(attnd_session_open(local, &open, &theirs), 0);
	for (uint32_t i = 0; i < REMOTE_SESSIONS; i++)
		assert_int_equal(attnd_session_open(client, &open, &session), 0);
	assert_int_equal(attnd_step(client, theirs, &token, 1, args, NULL, 0), -EIO);
	assert_int_equal(attnd_last_completion(client)->status, ATTND_BAD_SESSION);
	assert_int_equal(attnd_step(local, session, &token, 1, args, NULL, 0), -EIO);
	assert_int_equal(attnd_last_completion(local)->status, ATTND_BAD_SESSION);
	rc = attnd_session_open(client, &open, &session);
	assert_int_equal(rc, sys_way_is_sealed(way) ? -EIO : 0);
	if (rc)
		assert_int_equal(attnd_last_completion(client)->status, ATTND_OVER_QUOTA);
	attnd_disconnect(local);
	attnd_disconnect(client);
	assert_true(sys_daemon_wait_number(&net.daemon, "counters.sessions", 0, 5000));
}

/* ---- all of it -------------------------------------------------------------------------------------------- */

static int setup(void **state)
{
	(void)state;
	sys_net_start(&net, options);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	notes_free(&expected);
	assert_true(sys_daemon_wait_number(&net.daemon, "counters.clients", 0, 5000));
	assert_int_equal((int)sys_net_number(&net, "clients"), 0);
	assert_int_equal((int)sys_net_number(&net, "in_flight"), 0);
	assert_int_equal((int)sys_net_number(&net, "unowed"), 0);
	sys_net_stop(&net);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_same_bytes),
		cmocka_unit_test(echoes),
		cmocka_unit_test(what_is_seen),
		cmocka_unit_test(the_clock),
		cmocka_unit_test(whose_it_is),
	};

	return sys_net_run_over_ways(tests, sizeof(tests) / sizeof(tests[0]), SYS_SHM, setup, teardown);
}
