/*
 * See lossy_work.h.
 */
#include "tests/system/lossy_work.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attnd/attnd.h"
#include "base/base_rand.h"

enum kind { KIND_ATTENTION, KIND_STEPS, KIND_STREAMS, KIND_ECHO };
enum { HEADS = 4, KV_HEADS = 2, DIM = 64, TOP = 128, STREAM_TOKENS = 6, COMPLETIONS = 16 };
#define HANG_NS INT64_C(20000000000)
#define LOOK_NS INT64_C(100000000)
#define LAST_LOOK_NS INT64_C(3000000)

static const enum kind kinds[LOSSY_SESSIONS] = { KIND_ATTENTION, KIND_ATTENTION, KIND_STEPS, KIND_STREAMS };

/* A place for a request in flight. */
struct slot {
	bool used;
	uint64_t id;
	enum kind kind;
	uint32_t session, step, bytes, streamed;
	unsigned char *in, *out;
};

struct round {
	struct lossy_work *work;
	struct slot slots[LOSSY_IN_FLIGHT];
	uint64_t sessions[LOSSY_SESSIONS], ids;
	uint32_t next[LOSSY_SESSIONS], echoes; /* the step to be submitted next; echoes submitted */
	uint32_t in_flight;
	int64_t moved_ns;
	unsigned char *memory;
};

static bool complain(struct lossy_work *work, const char *what, uint64_t value, uint64_t instead_of)
{
	if (!work->wrong[0])
		snprintf(work->wrong, sizeof(work->wrong), "%s: %llu, not %llu (%s)", what, (unsigned long long)value,
			(unsigned long long)instead_of, attnd_error());
	return false;
}

static uint32_t steps_of(uint32_t session)
{
	return kinds[session] == KIND_STREAMS ? LOSSY_STEPS / 4 : LOSSY_STEPS;
}

uint32_t lossy_work_requests(void)
{
	uint32_t requests = LOSSY_ECHOES;

	for (uint32_t i = 0; i < LOSSY_SESSIONS; i++)
		requests += steps_of(i);
	return requests;
}

/* ---- requests --------------------------------------------------------------------------------------------- */

/* What goes into a step: the same whenever it is asked for. */
static uint64_t seed_of(const struct lossy_work *work, uint32_t session, uint32_t step)
{
	return base_mix64(work->seed ^ base_mix64((uint64_t)session << 32 | step));
}

static void make_attention(const struct lossy_work *work, struct slot *slot, struct attnd_request *request)
{
	const uint32_t count = (HEADS + 2 * KV_HEADS) * DIM;
	uint64_t seed = seed_of(work, slot->session, slot->step);
	struct attnd_attend_params params;
	float *values = (float *)(void *)(slot->in + sizeof(params));

	attnd_attend_defaults(&params);
	params.flags = ATTND_ATTEND_CAUSAL;
	params.q_rows = params.kv_rows = 1;
	memcpy(slot->in, &params, sizeof(params));
	for (uint32_t i = 0; i < count; i++)
		values[i] = (float)base_rand_below(&seed, 1 << 20) / (1 << 18) - 2.0f;
	request->op = ATTND_OP_ATTEND;
	request->in_bytes = (uint32_t)sizeof(params) + count * 4;
	request->out_capacity = HEADS * DIM * 4;
}

static uint32_t make_tokens(const struct lossy_work *work, const struct slot *slot, uint32_t *tokens)
{
	uint64_t seed = seed_of(work, slot->session, slot->step);
	const uint32_t count = 1 + (uint32_t)base_rand_below(&seed, 3);

	for (uint32_t i = 0; i < count; i++)
		tokens[i] = 3 + (uint32_t)base_rand_below(&seed, work->model->vocab - 3);
	return count;
}

static void make_step(const struct lossy_work *work, struct slot *slot, struct attnd_request *request)
{
	const struct attnd_step_args args = { .output = ATTND_OUT_TOP, .top_k = TOP };

	request->op = ATTND_OP_STEP;
	request->argument = make_tokens(work, slot, (uint32_t *)(void *)slot->in);
	request->in_bytes = request->argument * 4;
	request->out_capacity = TOP * sizeof(struct attnd_top);
	memcpy(&request->args, &args, sizeof(args));
}

static void make_stream(const struct lossy_work *work, struct slot *slot, struct attnd_request *request)
{
	struct attnd_generate_params params;

	attnd_generate_defaults(&params);
	params.max_tokens = STREAM_TOKENS;
	params.sampling.temperature = 4;
	params.sampling.seed = seed_of(work, slot->session, slot->step);
	memcpy(slot->in, &params, sizeof(params));
	request->op = ATTND_OP_GENERATE;
	request->argument = make_tokens(work, slot, (uint32_t *)(void *)(slot->in + sizeof(params)));
	request->in_bytes = (uint32_t)sizeof(params) + request->argument * 4;
	request->out_capacity = STREAM_TOKENS * 4;
}

/* Most are short, and some as long as they may be. */
static void make_echo(struct lossy_work *work, struct slot *slot, struct attnd_request *request)
{
	const uint32_t limits[] = { 100, 2000, 2000, 8000, LOSSY_ECHO_BYTES };
	uint64_t seed = slot->id;

	slot->bytes = (uint32_t)base_rand_below(&work->random, limits[base_rand_below(&work->random, 5)] + 1);
	for (uint32_t at = 0; at < slot->bytes; at += 8) {
		const uint64_t word = base_rand_next(&seed);

		memcpy(slot->in + at, &word, 8);
	}
	request->op = ATTND_OP_NOP;
	request->in_bytes = request->out_capacity = slot->bytes;
}

static void make(struct round *round, struct slot *slot, struct attnd_request *request)
{
	struct attnd_client *client = round->work->client;

	*request = (struct attnd_request){ .request_id = slot->id };
	switch (slot->kind) {
	case KIND_ATTENTION: make_attention(round->work, slot, request); break;
	case KIND_STEPS: make_step(round->work, slot, request); break;
	case KIND_STREAMS: make_stream(round->work, slot, request); break;
	case KIND_ECHO: make_echo(round->work, slot, request); break;
	}
	if (slot->kind != KIND_ECHO)
		request->session = round->sessions[slot->session];
	request->in_offset = attnd_offset(client, slot->in);
	request->out_offset = attnd_offset(client, slot->out);
	memset(slot->out, 0xee, request->out_capacity);
}

/* ---- submitting ------------------------------------------------------------------------------------------- */

static uint32_t left_of(const struct round *round)
{
	uint32_t left = LOSSY_ECHOES - round->echoes;

	for (uint32_t i = 0; i < LOSSY_SESSIONS; i++)
		left += steps_of(i) - round->next[i];
	return left;
}

/* Anything that is left, as likely as anything else. */
static void choose(struct round *round, struct slot *slot)
{
	uint32_t at = (uint32_t)base_rand_below(&round->work->random, left_of(round));

	slot->kind = KIND_ECHO;
	slot->streamed = 0;
	if (at < LOSSY_ECHOES - round->echoes)
		return;
	at -= LOSSY_ECHOES - round->echoes;
	for (slot->session = 0; at >= steps_of(slot->session) - round->next[slot->session]; slot->session++)
		at -= steps_of(slot->session) - round->next[slot->session];
	slot->kind = kinds[slot->session];
	slot->step = round->next[slot->session];
}

/* false: nothing more is taken now. */
static bool submit_one(struct round *round, struct slot *slot)
{
	struct attnd_request request;
	int rc;

	slot->id = (++round->ids << 8) | (uint64_t)(slot - round->slots);
	choose(round, slot);
	make(round, slot, &request);
	rc = attnd_submit(round->work->client, &request, 1);
	if (rc < 0 && rc != -EAGAIN)
		return complain(round->work, "submit", (uint64_t)-rc, 1);
	if (rc != 1)
		return false;
	slot->used = true;
	round->in_flight++;
	round->work->requests++;
	round->work->bytes += request.in_bytes;
	if (slot->kind == KIND_ECHO)
		round->echoes++;
	else
		round->next[slot->session]++;
	return true;
}

static void submit_all(struct round *round)
{
	for (uint32_t i = 0; i < LOSSY_IN_FLIGHT; i++)
		if (!round->slots[i].used && left_of(round) > 0 && !submit_one(round, &round->slots[i]))
			break;
}

/* ---- completions ------------------------------------------------------------------------------------------ */

static bool check_echo(struct lossy_work *work, const struct slot *slot, const struct attnd_completion *completion)
{
	if (completion->result_bytes != slot->bytes)
		return complain(work, "an echo has another length", completion->result_bytes, slot->bytes);
	return memcmp(slot->in, slot->out, slot->bytes) == 0 ? true : complain(work, "an echo has other bytes", slot->bytes, 0);
}

static bool check_answer(struct lossy_work *work, const struct slot *slot, const struct attnd_completion *completion)
{
	struct lossy_answer *answer = &work->answers->steps[slot->session][slot->step];

	if (slot->kind == KIND_STREAMS && slot->streamed * 4 != completion->result_bytes)
		return complain(work, "tokens of a stream", slot->streamed, completion->result_bytes / 4);
	if (work->learns) {
		answer->position = completion->position;
		answer->bytes = completion->result_bytes;
		memcpy(answer->out, slot->out, completion->result_bytes);
		return true;
	}
	if (completion->position != answer->position)
		return complain(work, "a step ends elsewhere", completion->position, answer->position);
	if (completion->result_bytes != answer->bytes)
		return complain(work, "a step's result has another length", completion->result_bytes, answer->bytes);
	return memcmp(answer->out, slot->out, answer->bytes) == 0 ? true :
		complain(work, "a step has another result; it is number", slot->step, slot->session);
}

static bool check_token(struct lossy_work *work, struct slot *slot, const struct attnd_completion *completion)
{
	const struct lossy_answer *answer = &work->answers->steps[slot->session][slot->step];
	uint32_t token;

	if (slot->kind != KIND_STREAMS || completion->sequence != slot->streamed || slot->streamed == STREAM_TOKENS)
		return complain(work, "a token out of turn", completion->sequence, slot->streamed);
	memcpy(&token, answer->out + (size_t)slot->streamed * 4, 4);
	if (!work->learns && completion->value != token)
		return complain(work, "another token", completion->value, token);
	slot->streamed++;
	work->tokens++;
	return true;
}

static bool take(struct round *round, const struct attnd_completion *completion)
{
	struct lossy_work *work = round->work;
	const uint64_t at = completion->request_id & 255;
	struct slot *slot = &round->slots[at < LOSSY_IN_FLIGHT ? at : 0];
	bool good;

	if (!slot->used || slot->id != completion->request_id)
		return complain(work, "nobody, or no longer, waits for this one", completion->request_id, slot->id);
	if (completion->status != ATTND_OK)
		return complain(work, attnd_status_name(completion->status), completion->status, ATTND_OK);
	if (!(completion->flags & ATTND_CPL_FINAL))
		return check_token(work, slot, completion);
	good = slot->kind == KIND_ECHO ? check_echo(work, slot, completion) : check_answer(work, slot, completion);
	work->bytes += completion->result_bytes;
	slot->used = false;
	round->in_flight--;
	return good;
}

static bool take_all(struct round *round, int64_t timeout_ns)
{
	struct attnd_completion completions[COMPLETIONS];
	const int count = attnd_wait(round->work->client, completions, COMPLETIONS, timeout_ns);

	if (count < 0)
		return complain(round->work, "wait", (uint64_t)-count, 0);
	if (sys_now_ns() - round->moved_ns > round->work->pause_ns && round->in_flight > 0)
		round->work->pause_ns = sys_now_ns() - round->moved_ns;
	if (count > 0)
		round->moved_ns = sys_now_ns();
	for (int i = 0; i < count; i++)
		if (!take(round, &completions[i]))
			return false;
	if (round->in_flight > 0 && sys_now_ns() - round->moved_ns > HANG_NS)
		return complain(round->work, "it hangs; in flight", round->in_flight, 0);
	return true;
}

/* ---- a round ---------------------------------------------------------------------------------------------- */

static bool open_sessions(struct round *round)
{
	struct attnd_open_params open;

	for (uint32_t i = 0; i < LOSSY_SESSIONS; i++) {
		int rc;

		attnd_open_defaults(&open);
		if (kinds[i] == KIND_ATTENTION) {
			open.kind = ATTND_SESSION_ATTENTION;
			open.layers = 1;
			open.heads = HEADS;
			open.kv_heads = KV_HEADS;
			open.head_dim = DIM;
		}
		rc = attnd_session_open(round->work->client, &open, &round->sessions[i]);
		round->work->requests++;
		if (rc)
			return complain(round->work, "open", (uint64_t)-rc, 0);
	}
	return true;
}

/* Where each stands in the end: where its last step left it, and that is as many as there were. */
static bool close_sessions(struct round *round)
{
	struct lossy_work *work = round->work;

	for (uint32_t i = 0; i < LOSSY_SESSIONS; i++) {
		const uint32_t expected = kinds[i] == KIND_ATTENTION ? LOSSY_STEPS : work->answers->steps[i][steps_of(i) - 1].position;
		struct attnd_session_info info;
		int rc = attnd_describe_session(work->client, round->sessions[i], &info);

		if (rc)
			return complain(work, "describe", (uint64_t)-rc, 0);
		if (info.position != expected)
			return complain(work, "a session stands elsewhere", info.position, expected);
		rc = attnd_session_close(work->client, round->sessions[i]);
		if (rc)
			return complain(work, "close", (uint64_t)-rc, 0);
		work->requests += 2;
	}
	return true;
}

static bool go(struct round *round)
{
	if (!open_sessions(round))
		return false;
	round->moved_ns = sys_now_ns();
	while (left_of(round) > 0 || round->in_flight > 0) {
		submit_all(round);
		if (round->work->wrong[0] || !take_all(round, LOOK_NS))
			return false;
	}
	return take_all(round, LAST_LOOK_NS) && close_sessions(round);
}

bool lossy_work_round(struct lossy_work *work)
{
	const size_t slot_bytes = LOSSY_ECHO_BYTES; /* a step's input, and what it answers, is shorter */
	struct round round = { .work = work };
	bool good;

	round.memory = attnd_loan(work->client, 2 * LOSSY_IN_FLIGHT * slot_bytes);
	if (!round.memory)
		return complain(work, "no memory", 0, 1);
	for (uint32_t i = 0; i < LOSSY_IN_FLIGHT; i++) {
		round.slots[i].in = round.memory + 2 * i * slot_bytes;
		round.slots[i].out = round.slots[i].in + slot_bytes;
	}
	good = go(&round);
	attnd_return(work->client, round.memory);
	return good;
}
