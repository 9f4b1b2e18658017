/*
 * Results of steps: positions advance, what the host computes from logits goes to the client's
 * output, tokens are drawn and streamed, and requests end or go on. Scheduler's thread. A client's
 * output is written, never read back.
 */
#include "sched/sched_private.h"

/* Of a history, one token takes about as long to be looked at as so many logits. */
enum { FOLLOW_LOGITS = 32 };

enum {
	AHEAD = 4,       /* members whose memory is asked for before their turn comes */
	STAMP_ROWS = 16, /* so many replies are stamped with one time at most, and of so many logits: within a microsecond */
	STAMP_LOGITS = 1 << 12
};

/* ---- what follows for a request ------------------------------------------------------- */

static void end_on_time(struct sched *sched, struct sched_request *request)
{
	request->missed = request->deadline_ns < sched->now_ns;
	sched_request_complete(sched, request, ATTND_OK);
}

/* Some rows are done, more are to come. */
static void go_on(struct sched *sched, struct sched_request *request)
{
	if (request->deadline_ns <= sched->now_ns)
		sched_request_complete(sched, request, ATTND_EXPIRED);
	else
		sched_request_proceed(sched, request);
}

/* ---- drawing -------------------------------------------------------------------------- */

static uint32_t draw(struct sched *sched, const struct sched_session *session,
	const struct model_sampling *sampling, const float *logits, uint32_t position)
{
	uint32_t window = sampling->repeat_window < position ? sampling->repeat_window : position,
		 count = 0;

	/* The tokens before this position, without the rows that came as embeddings. */
	for (uint32_t i = position - window; i < position; i++)
		if (session->tokens[i] != SCHED_TOKEN_NONE)
			sched->recent[count++] = session->tokens[i];
	return model_sample(sampling, logits, sched->models[session->model].program->vocab,
		sched->recent, count, position, sched->sample_scratch);
}

/* ---- STEP ----------------------------------------------------------------------------- */

static void put(struct sched_request *request, const void *from, uint32_t bytes)
{
	memcpy(request->out + request->result_bytes, from, bytes);
	request->result_bytes += bytes;
}

static void put_top(
	struct sched *sched, struct sched_request *request, const float *logits, uint32_t vocab)
{
	_Static_assert(sizeof(struct model_top) == sizeof(struct attnd_top), "one is the other");
	model_top(logits, vocab, request->step.top_k, sched->top, sched->sample_scratch);
	put(request, sched->top, (uint32_t)(sizeof(*sched->top) * request->step.top_k));
}

/* One selected row: the token at `position` was its input. */
static void put_row(struct sched *sched, struct sched_request *request, const struct kern_out *out,
	uint32_t position)
{
	const struct kern_program *program = sched->models[request->session->model].program;
	uint32_t id;

	switch ((enum attnd_output)request->step.output) {
	case ATTND_OUT_LOGITS: /* the device wrote them there */
		request->result_bytes += (uint32_t)sizeof(float) * program->vocab;
		return;
	case ATTND_OUT_HIDDEN:
		request->result_bytes += (uint32_t)sizeof(float) * program->width;
		return;
	case ATTND_OUT_TOP: put_top(sched, request, out->logits, program->vocab); return;
	case ATTND_OUT_ARGMAX: id = model_argmax(out->logits, program->vocab); break;
	case ATTND_OUT_SAMPLED:
		id = draw(sched, request->session, &request->session->sampling, out->logits,
			position + 1);
		break;
	case ATTND_OUT_NONE:
	case ATTND_OUT_END:
	default: return;
	}
	put(request, &id, sizeof(id));
	request->value = id;
}

/* True when all rows are out, false when this poll has looked at enough logits. */
static bool finish_rows(struct sched *sched, struct sched_flight *flight,
	struct sched_member *member, uint32_t *logits)
{
	struct sched_request *request = member->request;
	uint32_t first = member->session->position - member->rows; /* of the slice */
	bool direct = request->step.output == ATTND_OUT_LOGITS ||
		request->step.output == ATTND_OUT_HIDDEN;

	for (; flight->finished_outs < member->outs; flight->finished_outs++) {
		const struct kern_out *out = &flight->outs[member->out + flight->finished_outs];

		if (*logits >= SCHED_FINISH_LOGITS)
			return false;
		put_row(sched, request, out, first + out->row - member->row);
		*logits += direct ? 0 : sched->models[flight->model].program->vocab;
	}
	return true;
}

static void follow_rows(struct sched *sched, struct sched_member *member)
{
	struct sched_request *request = member->request;

	member->session->busy = false;
	if (request->rows_done == request->rows) {
		end_on_time(sched, request);
		return;
	}
	request->block_first = member->session->position;
	request->block_rows = request->rows - request->rows_done;
	go_on(sched, request);
}

/* ---- GENERATE ------------------------------------------------------------------------- */

static bool stops(const struct sched *sched, const struct sched_request *request, uint32_t token)
{
	const struct sched_generate *generate = &request->generate;
	const struct model_tokenizer *tokenizer = sched->models[request->session->model].tokenizer;

	for (uint32_t i = 0; i < generate->params.stop_count; i++)
		if (generate->stop[i] == token)
			return true;
	return tokenizer && model_tokenizer_is_end(tokenizer, token);
}

static enum attnd_stop why_stop(
	const struct sched *sched, const struct sched_request *request, uint32_t token)
{
	if (stops(sched, request, token))
		return ATTND_STOP_TOKEN;
	if (request->generate.generated == request->generate.params.max_tokens)
		return ATTND_STOP_LENGTH;
	if (request->session->position == request->session->max_tokens)
		return ATTND_STOP_CONTEXT;
	return 0;
}

/* False: it was the last one, and the request is no more. */
static bool deliver_token(struct sched *sched, struct sched_request *request, uint32_t token)
{
	struct sched_session *session = request->session;
	struct sched_generate *generate = &request->generate;
	enum attnd_stop stop;

	if (request->record.out_capacity - request->result_bytes >= sizeof(token))
		put(request, &token, sizeof(token));
	sched_request_stream(sched, request, token);
	generate->generated++;
	stop = why_stop(sched, request, token);
	if (stop) {
		request->value = stop;
		session->busy = false;
		sched_request_complete(sched, request, ATTND_OK);
		return false;
	}
	/* It becomes the next row, and stands in the history where it will stand in the cache. */
	session->tokens[session->position] = token;
	request->rows++;
	sched_request_deadline(sched, request,
		generate->params.between_ns ? sched->now_ns + generate->params.between_ns
					    : INT64_MAX);
	sched_speculate_follow(sched, session, session->position + 1, true);
	return true;
}

/* The next row was a guess, and a right one: it is what this token's row would have been. */
static void accept_draft(struct sched *sched, struct sched_request *request)
{
	struct sched_session *session = request->session;

	session->position++;
	request->rows_done++;
	sched->counters.drafts_accepted++;
	/* Only with its last token is a page full. */
	if (session->position % KERN_PAGE_TOKENS == 0)
		sched_reuse_landed(sched, session, request);
}

/* Draws what follows the last row of those that had to be, and what follows each draft behind it as long as it is the token that was
 * drawn. False when this poll has looked at enough logits. */
static bool finish_tokens(struct sched *sched, struct sched_flight *flight, struct sched_member *member, uint32_t *logits)
{
	struct sched_request *request = member->request;
	struct sched_session *session = member->session;
	const uint32_t *drafts = flight->tokens + member->row + member->rows - member->drafts;
	bool right;

	do {
		const uint32_t i = flight->finished_outs;
		uint32_t token;

		if (*logits >= SCHED_FINISH_LOGITS)
			return false;
		token = draw(sched, session, &request->generate.sampling, flight->outs[member->out + i].logits, session->position);
		*logits += sched->models[flight->model].program->vocab;
		if (!deliver_token(sched, request, token))
			return true;
		flight->finished_outs++;
		right = i < member->drafts && drafts[i] == token;
		if (right)
			accept_draft(sched, request);
	} while (right);
	session->busy = false;
	sched_request_unpromise(sched, request);
	request->block_first = session->position;
	request->block_rows = 1;
	sched_request_proceed(sched, request);
	return true;
}

/* True when all tokens are out, false when this poll has done enough. */
static bool finish_generate(struct sched *sched, struct sched_flight *flight, struct sched_member *member, uint32_t *logits)
{
	struct sched_request *request = member->request;
	struct sched_session *session = member->session;

	/* Its prompt is looked at in step with it. */
	if (request->generate.generated == 0)
		*logits += FOLLOW_LOGITS * sched_speculate_follow(sched, session, session->position + request->rows - request->rows_done, false);
	if (request->rows_done == request->rows)
		return finish_tokens(sched, flight, member, logits);
	session->busy = false;
	request->block_first = session->position;
	request->block_rows = request->rows - request->rows_done;
	go_on(sched, request);
	return true;
}

/* ---- flights -------------------------------------------------------------------------- */

static void begin_member(struct sched *sched, struct sched_flight *flight, struct sched_member *member)
{
	if (flight->begun)
		return;
	flight->begun = true;
	member->session->position += member->rows - member->drafts;
	member->request->rows_done += member->rows - member->drafts;
	sched_reuse_landed(sched, member->session, member->request);
}

/* A step has hundreds of members, whose requests no cache may hold any more. */
static void look_ahead(const struct sched_flight *flight)
{
	if (flight->finished + 2 * AHEAD < flight->member_count) {
		__builtin_prefetch(&flight->members[flight->finished + 2 * AHEAD].session->of_place, 1);
		__builtin_prefetch(&flight->members[flight->finished + 2 * AHEAD].session->client, 1);
	}
	if (flight->finished + AHEAD < flight->member_count) {
		const struct sched_member *member = &flight->members[flight->finished + AHEAD];

		sched_request_prefetch(member->request);
		__builtin_prefetch(member->session->tokens + member->session->position + 1, 1);
	}
}

/* To ask for the time takes as long as half of what is done for a token, so some replies have it in common. */
static uint32_t stamp_rows(const struct sched *sched, const struct sched_flight *flight)
{
	const uint32_t rows = STAMP_LOGITS / sched->models[flight->model].program->vocab;

	return rows > STAMP_ROWS ? STAMP_ROWS : rows > 0 ? rows : 1;
}

static bool finish_members(struct sched *sched, struct sched_flight *flight)
{
	const uint32_t stamped = stamp_rows(sched, flight);
	uint32_t logits = 0;

	sched->stamp_ns = base_clock_now(sched->clock);
	while (flight->finished < flight->member_count) {
		struct sched_member *member = &flight->members[flight->finished];
		struct sched_request *request = member->request;

		if (logits >= SCHED_FINISH_LOGITS)
			return false;
		if (flight->finished % stamped == 0)
			sched->stamp_ns = base_clock_now(sched->clock);
		look_ahead(flight);
		begin_member(sched, flight, member);
		if (request->end_status) {
			member->session->busy = false;
			sched_request_complete(
				sched, request, (enum attnd_status)request->end_status);
		} else if (request->record.op == ATTND_OP_GENERATE) {
			if (!finish_generate(sched, flight, member, &logits))
				return false;
		} else {
			if (!finish_rows(sched, flight, member, &logits))
				return false;
			follow_rows(sched, member);
		}
		flight->finished++;
		flight->finished_outs = 0;
		flight->begun = false;
	}
	return true;
}

bool sched_finish_step(struct sched *sched, struct sched_flight *flight)
{
	const bool done = finish_members(sched, flight);

	sched->stamp_ns = 0;
	return done;
}

bool sched_finish_attend(struct sched *sched, struct sched_flight *flight)
{
	while (flight->finished < flight->member_count) {
		struct sched_member *member = &flight->members[flight->finished++];
		struct sched_request *request = member->request;
		struct sched_session *session = member->session;
		uint32_t *layer = &session->layers[request->layer];

		session->busy = false;
		request->rows_done += member->rows;
		*layer = request->attend.item.kv_position +
			sched_attend_appended(request, request->rows_done);
		if (session->position < *layer)
			session->position = *layer;
		request->block_first = *layer;
		request->block_rows = request->attend.item.kv_position +
			request->attend.item.kv_rows - *layer;
		if (request->end_status) {
			sched_request_complete(
				sched, request, (enum attnd_status)request->end_status);
		} else if (request->rows_done == request->rows) {
			request->result_bytes = sched_attend_result_bytes(request);
			end_on_time(sched, request);
		} else {
			go_on(sched, request);
		}
	}
	return true;
}

void sched_finish_failed(struct sched *sched, struct sched_flight *flight)
{
	/* Nothing is known of what the batch did to its sessions' caches: they end with it. */
	for (; flight->finished < flight->member_count; flight->finished++) {
		struct sched_member *member = &flight->members[flight->finished];
		struct sched_request *request = member->request;

		member->session->busy = false;
		member->session->apart = true;
		sched_request_complete(sched, request,
			request->end_status == ATTND_CLIENT_GONE ? ATTND_CLIENT_GONE
								 : ATTND_DEVICE_FAILED);
		sched_session_close(sched, member->session, ATTND_BAD_SESSION);
	}
}
