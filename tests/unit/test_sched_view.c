/*
 * What can be seen of a scheduler without asking it is what happened: every request has one record, with the times of its
 * completion, its steps and its prediction; counts are those of the answers; nobody sees another client's requests.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base_rand.h"
#include "tests/unit/sched_rig.h"

enum { CLIENTS = 3, SESSIONS = 5, ROUNDS = 700, TIMELINES = 4096, TOKENS_MAX = 90 };

static struct rig rig;
static struct base_view_device *device;

static void begin_with(uint32_t timelines, bool prefix_cache)
{
	rig_init(&rig);
	rig.options.prefix_cache = prefix_cache;
	device = calloc(1, sizeof(*device));
	assert_non_null(device);
	rig.options.view = device;
	rig.timelines = timelines;
	rig_start(&rig);
}

static void begin(uint32_t timelines)
{
	begin_with(timelines, false);
}

static void end(void)
{
	rig_stop(&rig);
	free(device);
}

/* What a reader would get of record n, its number included. */
static bool record(uint32_t client, uint64_t number, struct attnd_timeline *timeline)
{
	const struct base_view_own_device *view = rig.views[client];

	if (!base_view_read(timeline, &view->timelines[(number - 1) % rig.timelines], sizeof(*timeline)))
		return false;
	timeline->number >>= 20;
	return timeline->number == number;
}

/* The record of a request, which must be the only one. */
static struct attnd_timeline record_of(uint32_t client, uint64_t request_id)
{
	struct attnd_timeline timeline, found = { 0 };
	uint32_t count = 0;

	for (uint64_t n = 1; n <= rig.views[client]->own.records; n++)
		if (record(client, n, &timeline) && timeline.request_id == request_id) {
			found = timeline;
			count++;
		}
	assert_int_equal(count, 1);
	return found;
}

static struct attnd_view_now now(void)
{
	const bool second = device->now[1].number > device->now[0].number;
	struct attnd_view_now copy;

	assert_true(base_view_read(&copy, &device->now[second], sizeof(copy)));
	return copy;
}

/* ---- one request ------------------------------------------------------------------------------- */

static void a_prompt_step_by_step(void **state)
{
	uint32_t tokens[70];
	int64_t landed_ns[3], sent_ns;
	struct attnd_completion completion;
	struct attnd_timeline timeline;
	uint64_t session, id;

	(void)state;
	begin(16);
	rig_add(&rig, 0, 0, 100);
	session = rig_open(&rig, 0, 0);
	rig_tokens(tokens, 70, 1);
	sent_ns = rig.clock.fake_ns;
	id = rig_step(&rig, 0, session, tokens, 70);
	rig_settle(&rig);
	timeline = record_of(0, id);
	assert_int_equal(timeline.op, ATTND_OP_STEP);
	assert_true(timeline.session == session);
	assert_true(timeline.received_ns == sent_ns && timeline.admitted_ns == sent_ns && timeline.done_ns == 0);
	assert_int_equal(timeline.steps, 0);
	assert_true(timeline.started_ns == sent_ns); /* its first step is in the air */
	assert_int_equal(now().running[0], 1); /* the rig's records are of class 0 */
	assert_int_equal(now().begun_ns, sent_ns);
	for (int i = 0; i < 3; i++) { /* chunks of 32 rows */
		rig_land(&rig);
		landed_ns[i] = rig.clock.fake_ns;
		assert_true(now().busy_ns == (uint64_t)(landed_ns[i] - sent_ns)); /* at once, not when there is nothing else to do */
		rig_settle(&rig);
		timeline = record_of(0, id);
		assert_int_equal(timeline.steps, i + 1);
		assert_int_equal(timeline.rows, i < 2 ? 32 * (i + 1) : 70);
		assert_true(timeline.last_step_ns == landed_ns[i]);
		assert_true((timeline.done_ns != 0) == (i == 2));
	}
	completion = rig_take(&rig, id);
	for (int i = 0; i < 3; i++) {
		assert_true(timeline.step_ns[i] == landed_ns[i]);
		assert_int_equal(timeline.step_rows[i], i < 2 ? 32 : 6);
		assert_int_equal(timeline.step_took_ns[i], landed_ns[i] - (i ? landed_ns[i - 1] : sent_ns));
	}
	assert_true(timeline.started_ns == completion.started_ns && timeline.done_ns == completion.done_ns);
	assert_int_equal(timeline.predicted_ns, 0); /* it has no deadline */
	assert_int_equal(now().running[0], 0);
	assert_int_equal(now().begun_ns, 0);
	assert_true(now().busy_ns == (uint64_t)(landed_ns[2] - sent_ns));
	end();
}

/* It is counted, and that is all. */
static void a_nop(void **state)
{
	(void)state;
	begin(4);
	rig_add(&rig, 0, 0, 100);
	assert_int_equal(rig_call(&rig, 0, (struct attnd_request){ .op = ATTND_OP_NOP }, NULL, NULL).status, ATTND_OK);
	assert_int_equal(rig.views[0]->own.records, 0);
	assert_int_equal(rig.views[0]->own.ended[ATTND_OK], 1);
	assert_int_equal(device->counts.received[ATTND_OP_NOP], 1);
	assert_int_equal(device->counts.admitted[ATTND_OP_NOP], 1);
	assert_int_equal(device->counts.ended[ATTND_OP_NOP][ATTND_OK], 1);
	end();
}

static void predictions_and_refusals(void **state)
{
	struct attnd_request record_in = { 0 };
	struct attnd_completion completion;
	struct attnd_timeline timeline;
	uint32_t *tokens, *out;
	uint64_t session, id;

	(void)state;
	begin(64);
	rig_add(&rig, 0, 0, 100);
	session = rig_open(&rig, 0, 0);
	tokens = rig_loan(&rig, 0, 4 * 40);
	out = rig_loan(&rig, 0, 64);
	rig_tokens(tokens, 40, 2);
	for (int i = 0; i < 45; i++) { /* until the cost model knows */
		record_in = rig_step_record(session, 20, ATTND_OUT_ARGMAX);
		assert_int_equal(rig_call(&rig, 0, record_in, tokens, out).status, ATTND_OK);
	}
	record_in.deadline_ns = rig.clock.fake_ns + 1000000;
	id = rig_send(&rig, 0, record_in, tokens, out);
	rig_run(&rig);
	assert_int_equal(rig_take(&rig, id).status, ATTND_OK);
	timeline = record_of(0, id);
	assert_true(timeline.deadline_ns == record_in.deadline_ns);
	assert_true(timeline.predicted_ns > timeline.admitted_ns && timeline.predicted_ns <= timeline.deadline_ns);

	record_in.deadline_ns = rig.clock.fake_ns + 5000; /* a step takes 30 us */
	id = rig_send(&rig, 0, record_in, tokens, out);
	rig_run(&rig);
	completion = rig_take(&rig, id);
	assert_int_equal(completion.status, ATTND_REFUSED_DEADLINE);
	timeline = record_of(0, id);
	assert_int_equal(timeline.status, ATTND_REFUSED_DEADLINE);
	assert_true(timeline.predicted_ns == (int64_t)completion.value && timeline.predicted_ns > timeline.deadline_ns);
	assert_true(timeline.admitted_ns == 0 && timeline.started_ns == 0 && timeline.done_ns == completion.done_ns);
	assert_int_equal(device->counts.ended[ATTND_OP_STEP][ATTND_REFUSED_DEADLINE], 1);
	assert_int_equal(device->counts.received[ATTND_OP_STEP], 47);
	assert_int_equal(device->counts.admitted[ATTND_OP_STEP], 46);
	assert_int_equal(rig.views[0]->own.ended[ATTND_REFUSED_DEADLINE], 1);
	assert_int_equal(device->counts.predictions, 46);
	print_message("# off by %.3f, median, and %.3f at most\n", attnd_view_error(&device->counts, 0.5),
		attnd_view_error(&device->counts, 1.0));
	assert_true(attnd_view_error(&device->counts, 0.5) < 0.05); /* the device is what the model expects */
	assert_true(attnd_view_error(&device->counts, 1.0) > 0.05); /* but for the first steps */
	assert_true(device->counts.band[0] >= 1000000 && device->counts.band[1] == 0);
	end();
}

/* A stream outlives the ring: what overwrote it stays whole, and it gets one new record when it is done. */
static void a_record_that_was_overwritten(void **state)
{
	const struct attnd_generate_params params = { .max_tokens = 20 };
	struct attnd_timeline timeline;
	uint64_t session, id, other, last = 0;
	uint32_t prompt[3];

	(void)state;
	begin(4);
	rig_add(&rig, 0, 0, 100);
	session = rig_open(&rig, 0, 0);
	other = rig_open(&rig, 0, 0);
	rig_tokens(prompt, 3, 3);
	id = rig_generate(&rig, 0, session, prompt, 3, params, NULL, (struct attnd_request){ 0 });
	for (int i = 0; i < 9; i++) {
		last = rig_send(&rig, 0, rig_session_record(ATTND_OP_TRUNCATE, other, 0), NULL, NULL);
		rig_settle(&rig);
		if (i != 3)
			continue;
		/* As many as the ring holds: the last one lies where the stream's record was, and the stream's next step leaves it alone. */
		assert_true(record(0, 7, &timeline) && timeline.request_id == last);
		rig_land(&rig);
		assert_true(record(0, 7, &timeline));
		assert_true(timeline.request_id == last && timeline.steps == 0 && timeline.last_step_ns == 0);
	}
	rig_run(&rig);
	timeline = record_of(0, id);
	assert_int_equal(timeline.flags, ATTND_TIMELINE_CUT);
	assert_int_equal(timeline.steps, 20);
	assert_int_equal(timeline.rows, 22);
	assert_int_equal(timeline.tokens, 20);
	assert_int_equal(timeline.number, 2 + 1 + 9 + 1);
	assert_true(timeline.received_ns && timeline.admitted_ns && timeline.last_step_ns <= timeline.done_ns);
	assert_int_equal(record_of(0, last).flags, 0);
	assert_int_equal(rig.views[0]->own.records, 13);
	end();
}

static void queues_by_class(void **state)
{
	uint64_t sessions[4];
	uint32_t tokens[64];

	(void)state;
	begin(16);
	rig_add(&rig, 0, 0, 100);
	rig_tokens(tokens, 64, 5);
	for (int i = 0; i < 4; i++)
		sessions[i] = rig_open(&rig, 0, 0);
	for (int i = 0; i < 4; i++) {
		struct attnd_request request = rig_step_record(sessions[i], 64, ATTND_OUT_ARGMAX);
		uint32_t *in = rig_loan(&rig, 0, sizeof(tokens));

		memcpy(in, tokens, sizeof(tokens));
		request.priority_class = i == 3 ? ATTND_CLASS_BULK : ATTND_CLASS_LATENCY;
		rig_send(&rig, 0, request, in, rig_loan(&rig, 0, 64));
	}
	rig_settle(&rig);
	/* A step has 64 rows, a chunk of one session 32: two of them run. */
	assert_int_equal(now().waiting[ATTND_CLASS_LATENCY], 1);
	assert_int_equal(now().running[ATTND_CLASS_LATENCY], 2);
	assert_int_equal(now().waiting[ATTND_CLASS_BULK], 1);
	assert_int_equal(now().running[ATTND_CLASS_BULK], 0);
	rig_run(&rig);
	assert_int_equal(now().waiting[ATTND_CLASS_LATENCY] + now().waiting[ATTND_CLASS_BULK], 0);
	assert_int_equal(now().running[ATTND_CLASS_LATENCY] + now().running[ATTND_CLASS_BULK], 0);
	end();
}

/* ---- many -------------------------------------------------------------------------------------- */

/* A request that was sent, and what became of it. */
struct sent {
	uint64_t id;
	uint32_t client, streamed;
	uint8_t op;
	bool ended;
	struct attnd_completion completion;
};

static struct sent sent[ROUNDS * 2 + CLIENTS * SESSIONS];
static uint32_t sent_count;
static uint64_t sessions[CLIENTS][SESSIONS];

static void note(uint32_t client, uint8_t op, uint64_t id)
{
	sent[sent_count++] = (struct sent){ .id = id, .client = client, .op = op };
}

static void collect(void)
{
	for (uint32_t i = 0; i < rig.reply_count; i++) {
		const struct attnd_completion *completion = &rig.replies[i].completion;

		for (uint32_t s = 0; s < sent_count; s++) {
			if (sent[s].id != completion->request_id)
				continue;
			assert_false(sent[s].ended);
			sent[s].ended = completion->flags & ATTND_CPL_FINAL;
			sent[s].streamed += !sent[s].ended;
			sent[s].completion = *completion;
		}
	}
	rig.reply_count = 0;
}

static void send_one(uint64_t *seed)
{
	const uint32_t client = (uint32_t)base_rand_below(seed, CLIENTS), count = 1 + (uint32_t)base_rand_below(seed, TOKENS_MAX - 1);
	const uint64_t session = sessions[client][base_rand_below(seed, SESSIONS)];
	struct attnd_request request = { .priority_class = (uint8_t)base_rand_below(seed, 3) };
	struct attnd_generate_params params = { .max_tokens = 1 + (uint32_t)base_rand_below(seed, 12) };
	uint32_t tokens[TOKENS_MAX];

	if (base_rand_below(seed, 3) == 0)
		request.deadline_ns = rig.clock.fake_ns + 1 + (int64_t)base_rand_below(seed, 600000);
	rig_tokens(tokens, count, base_rand_next(seed));
	if (rig.used[client] > RIG_ARENA_BYTES / 2) { /* nobody looks at results here, but inputs have to stay */
		rig_run(&rig);
		collect();
		rig_rewind(&rig, client);
	}
	switch (base_rand_below(seed, 6)) {
	case 0:
		note(client, ATTND_OP_GENERATE, rig_generate(&rig, client, session, tokens, count, params, NULL, request));
		break;
	case 1: note(client, ATTND_OP_TRUNCATE, rig_send(&rig, client, rig_session_record(ATTND_OP_TRUNCATE, session, 0), NULL, NULL)); break;
	case 2:
		request.op = ATTND_OP_CANCEL;
		request.deadline_ns = 0;
		request.args = sent[sent_count - 1 - base_rand_below(seed, sent_count < 9 ? 1 : 9)].id;
		note(client, ATTND_OP_CANCEL, rig_send(&rig, client, request, NULL, NULL));
		break;
	case 3: /* no such session */
		request = rig_step_record(session + (1u << 20), 1, ATTND_OUT_NONE);
		note(client, ATTND_OP_STEP, rig_send(&rig, client, request, rig_loan(&rig, client, 64), rig_loan(&rig, client, 64)));
		break;
	default: {
		struct attnd_request step = rig_step_record(session, count, ATTND_OUT_ARGMAX);
		uint32_t *in = rig_loan(&rig, client, sizeof(tokens));

		memcpy(in, tokens, sizeof(tokens));
		step.priority_class = request.priority_class;
		step.deadline_ns = request.deadline_ns;
		note(client, ATTND_OP_STEP, rig_send(&rig, client, step, in, rig_loan(&rig, client, 64)));
	}
	}
}

static void check_one(const struct sent *one)
{
	const struct attnd_completion *completion = &one->completion;
	const struct attnd_timeline timeline = record_of(one->client, one->id);
	int64_t before_ns = timeline.started_ns;

	assert_true(one->ended);
	assert_int_equal(timeline.op, one->op);
	assert_int_equal(timeline.status, completion->status);
	assert_int_equal((timeline.flags & ATTND_TIMELINE_MISSED) != 0, (completion->flags & ATTND_CPL_MISSED) != 0);
	assert_int_equal(timeline.tokens, one->streamed);
	assert_true(timeline.received_ns == completion->received_ns && timeline.admitted_ns == completion->admitted_ns);
	assert_true(timeline.started_ns == completion->started_ns && timeline.done_ns == completion->done_ns);
	assert_true(timeline.received_ns <= timeline.done_ns);
	if (timeline.started_ns)
		assert_true(timeline.received_ns <= timeline.admitted_ns && timeline.admitted_ns <= timeline.started_ns);
	if (timeline.admitted_ns && one->op != ATTND_OP_CANCEL)
		assert_true((timeline.deadline_ns != 0) == (timeline.predicted_ns != 0));
	if (timeline.status == ATTND_OK && (one->op == ATTND_OP_STEP || one->op == ATTND_OP_GENERATE))
		assert_true(timeline.steps > 0 && timeline.rows > 0);
	for (uint32_t s = 0; s < timeline.steps && s < ATTND_TIMELINE_STEPS; s++) {
		assert_true(timeline.step_ns[s] > before_ns && timeline.step_took_ns[s] > 0 && timeline.step_rows[s] > 0);
		before_ns = timeline.step_ns[s];
	}
	assert_true(timeline.last_step_ns >= before_ns || timeline.steps == 0);
	assert_true(timeline.last_step_ns <= timeline.done_ns);
}

static void check_counts(void)
{
	struct attnd_view_counts expected = { 0 };
	uint64_t own[CLIENTS][ATTND_VIEW_STATUSES] = { { 0 } }, errors = 0;
	struct sched_counters counters;

	for (uint32_t s = 0; s < sent_count; s++) {
		const struct attnd_completion *completion = &sent[s].completion;

		expected.received[sent[s].op]++;
		expected.admitted[sent[s].op] += completion->admitted_ns != 0;
		expected.ended[sent[s].op][completion->status]++;
		own[sent[s].client][completion->status]++;
	}
	assert_memory_equal(device->counts.received, expected.received, sizeof(expected.received));
	assert_memory_equal(device->counts.admitted, expected.admitted, sizeof(expected.admitted));
	assert_memory_equal(device->counts.ended, expected.ended, sizeof(expected.ended));
	for (uint32_t c = 0; c < CLIENTS; c++)
		assert_memory_equal(rig.views[c]->own.ended, own[c], sizeof(own[c]));
	sched_counters_read(rig.sched, &counters);
	assert_true(now().busy_ns == counters.busy_ns && now().steps == counters.steps && now().step_rows == counters.step_rows);
	assert_true(now().predicted_ns == counters.predicted_ns && now().actual_ns == counters.actual_ns);
	assert_true(now().kv_used == counters.kv_bytes_used && now().kv_free == counters.kv_bytes_free &&
		now().kv_cached == counters.kv_bytes_cached && now().kv_dirty == counters.kv_bytes_dirty);
	assert_true(now().kv_cached > 0 && now().prefix_lookups == counters.prefix_lookups);
	assert_true(now().kv_bytes == now().kv_used + now().kv_cached + now().kv_dirty + now().kv_free);
	assert_true(now().stream_completions == counters.stream_completions && now().sessions == counters.sessions);
	assert_int_equal(now().clients, CLIENTS);
	assert_int_equal(now().begun_ns, 0);
	for (uint32_t c = 0; c < ATTND_VIEW_CLASSES; c++)
		assert_int_equal(now().waiting[c] + now().running[c], 0);
	for (uint32_t i = 0; i < ATTND_VIEW_ERRORS; i++)
		errors += device->counts.errors[i];
	assert_true(errors == device->counts.predictions && errors == counters.steps);
}

static void what_is_seen_is_what_happened(void **state)
{
	uint64_t seed = 11, refused = 0, expired = 0, cancelled = 0, records = 0;

	(void)state;
	begin_with(TIMELINES, true);
	sent_count = 0;
	for (uint32_t c = 0; c < CLIENTS; c++)
		rig_add(&rig, c, c % 2, 1000);
	for (uint32_t c = 0; c < CLIENTS; c++)
		for (uint32_t s = 0; s < SESSIONS; s++) {
			struct attnd_open_params params = rig_open_params(0);
			const struct attnd_request request = { .op = ATTND_OP_OPEN, .in_bytes = sizeof(params) };
			const uint64_t id = rig_send(&rig, c, request, &params, NULL);

			note(c, ATTND_OP_OPEN, id);
			rig_run(&rig);
			collect();
			sessions[c][s] = sent[sent_count - 1].completion.value;
		}
	for (int i = 0; i < ROUNDS; i++) {
		send_one(&seed);
		for (uint64_t n = base_rand_below(&seed, 4); n > 0; n--)
			rig_poll(&rig);
		rig.clock.fake_ns += (int64_t)base_rand_below(&seed, 15000);
		for (uint32_t c = 0; c < CLIENTS; c++)
			rig_message(&rig, SCHED_CREDIT, c, 0, 5);
		collect();
	}
	rig_run(&rig);
	collect();
	for (uint32_t s = 0; s < sent_count; s++) {
		check_one(&sent[s]);
		refused += sent[s].completion.status == ATTND_REFUSED_DEADLINE;
		expired += sent[s].completion.status == ATTND_EXPIRED;
		cancelled += sent[s].completion.status == ATTND_CANCELLED;
	}
	check_counts();
	for (uint32_t c = 0; c < CLIENTS; c++)
		records += rig.views[c]->own.records;
	assert_int_equal(records, sent_count); /* each once, and nobody has another's */
	print_message("# %u requests: %u refused for their deadline, %u expired, %u cancelled\n", sent_count, (unsigned)refused,
		(unsigned)expired, (unsigned)cancelled);
	assert_true(refused > 10 && cancelled > 10);
	end();
}

/* A scheduler that nobody looks at, and clients that see nothing, work as before. */
static void nobody_looks(void **state)
{
	uint32_t tokens[8];
	uint64_t session;

	(void)state;
	rig_start_plain(&rig);
	rig_tokens(tokens, 8, 1);
	session = rig_open(&rig, 0, 0);
	rig_step_check(&rig, 0, session, tokens, 8, 8);
	rig_stop(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_prompt_step_by_step),
		cmocka_unit_test(a_nop),
		cmocka_unit_test(predictions_and_refusals),
		cmocka_unit_test(a_record_that_was_overwritten),
		cmocka_unit_test(queues_by_class),
		cmocka_unit_test(what_is_seen_is_what_happened),
		cmocka_unit_test(nobody_looks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
