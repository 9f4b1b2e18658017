/*
 * STEP and GENERATE at the head of their session: everything that indexes, sizes or selects is
 * copied out of the client's memory once, and the copy is checked; numeric rows stay where they
 * are. Scheduler's thread.
 *
 * Token ids go straight to the session's private history, at the position where they will stand. If
 * the request is refused there, nothing has changed: what lies beyond a session's position means
 * nothing.
 */
#include <math.h>

#include "sched/sched_private.h"

static uint32_t vocab_of(const struct sched *sched, const struct sched_session *session)
{
	return sched_session_model(sched, session)->program->vocab;
}

/* Token ids from the input to the history. */
static unsigned copy_tokens(struct sched *sched, struct sched_request *request,
	const unsigned char *from, uint32_t count)
{
	struct sched_session *session = request->session;
	uint32_t *tokens = session->tokens + session->position;
	uint32_t vocab = vocab_of(sched, session);

	sched_draft_keep(&session->draft, session->position);
	sched_copy_in(tokens, from, sizeof(*tokens) * count);
	for (uint32_t i = 0; i < count; i++) {
		if (tokens[i] >= vocab) {
			request->value = i;
			return ATTND_BAD_TOKEN;
		}
	}
	return ATTND_OK;
}

static bool room_for(const struct sched_session *session, uint32_t count)
{
	return count <= session->max_tokens - session->position;
}

static bool damaged(const struct sched *sched, const struct sched_session *session)
{
	const struct sched_model *model = sched_session_model(sched, session);

	return model->file && model_damaged(model->file);
}

/* ---- STEP ----------------------------------------------------------------------------- */

static uint64_t output_bytes(const struct sched *sched, const struct sched_request *request)
{
	const struct kern_program *program = sched_session_model(sched, request->session)->program;

	switch ((enum attnd_output)request->step.output) {
	case ATTND_OUT_LOGITS: return sizeof(float) * (uint64_t)program->vocab;
	case ATTND_OUT_HIDDEN: return sizeof(float) * (uint64_t)program->width;
	case ATTND_OUT_TOP: return sizeof(struct attnd_top) * (uint64_t)request->step.top_k;
	case ATTND_OUT_ARGMAX:
	case ATTND_OUT_SAMPLED: return sizeof(uint32_t);
	case ATTND_OUT_NONE:
	case ATTND_OUT_END: break;
	}
	return 0;
}

static uint32_t selected_count(const struct sched_request *request)
{
	if (request->step.output == ATTND_OUT_NONE)
		return 0;
	if (request->step.select == ATTND_SELECT_ALL)
		return request->rows;
	return request->step.select == ATTND_SELECT_CHOSEN ? request->step.select_count : 1;
}

static unsigned check_step_args(const struct sched *sched, const struct sched_request *request)
{
	const struct attnd_step_args *args = &request->step;

	if (args->output >= ATTND_OUT_END || args->select >= ATTND_SELECT_END)
		return ATTND_BAD_PARAMS;
	if (args->output == ATTND_OUT_TOP &&
		(args->top_k == 0 || args->top_k > ATTND_TOP_MAX ||
			args->top_k > vocab_of(sched, request->session)))
		return ATTND_BAD_PARAMS;
	if (args->select == ATTND_SELECT_CHOSEN &&
		(args->select_count == 0 || args->select_count > request->record.argument))
		return ATTND_BAD_SHAPE;
	return ATTND_OK;
}

static unsigned copy_chosen(struct sched_request *request, const unsigned char *from)
{
	struct sched_session *session = request->session;
	uint64_t next = 0; /* the least index that may come */

	memset(session->chosen, 0, sizeof(*session->chosen) * ((request->rows + 63) / 64));
	for (uint32_t i = 0; i < request->step.select_count; i++) {
		uint32_t row;

		sched_copy_in(&row, from + sizeof(row) * i, sizeof(row));
		if (row < next || row >= request->rows) {
			request->value = i;
			return ATTND_BAD_PARAMS;
		}
		session->chosen[row / 64] |= (uint64_t)1 << row % 64;
		next = (uint64_t)row + 1;
	}
	return ATTND_OK;
}

static unsigned copy_input(struct sched *sched, struct sched_request *request, uint64_t input_bytes)
{
	struct sched_session *session = request->session;

	if (request->record.flags & ATTND_REQ_ROWS) {
		sched_draft_keep(&session->draft, session->position);
		for (uint32_t i = 0; i < request->rows; i++)
			session->tokens[session->position + i] = SCHED_TOKEN_NONE;
	} else {
		unsigned status = copy_tokens(sched, request, request->in, request->rows);

		if (status != ATTND_OK)
			return status;
	}
	return request->step.select == ATTND_SELECT_CHOSEN
		? copy_chosen(request, request->in + input_bytes)
		: ATTND_OK;
}

unsigned sched_start_step(struct sched *sched, struct sched_request *request)
{
	const struct attnd_request *record = &request->record;
	struct sched_session *session = request->session;
	bool rows = record->flags & ATTND_REQ_ROWS;
	uint64_t input_bytes, chosen_bytes = 0, needed;
	unsigned status;

	if (damaged(sched, session))
		return ATTND_BAD_MODEL;
	memcpy(&request->step, &record->args, sizeof(request->step));
	request->rows = record->argument;
	status = check_step_args(sched, request);
	if (status != ATTND_OK)
		return status;
	input_bytes = (rows ? sizeof(float) *
					      (uint64_t)sched_session_model(sched, session)
						      ->program->width
			    : sizeof(uint32_t)) *
		record->argument;
	if (request->step.select == ATTND_SELECT_CHOSEN)
		chosen_bytes = sizeof(uint32_t) * (uint64_t)request->step.select_count;
	if (record->argument == 0 || record->in_bytes != input_bytes + chosen_bytes)
		return ATTND_BAD_SHAPE;
	if (!room_for(session, record->argument))
		return ATTND_CONTEXT_FULL;
	needed = output_bytes(sched, request) * selected_count(request);
	if (needed > record->out_capacity) {
		request->value = needed;
		return ATTND_NO_OUTPUT_ROOM;
	}
	status = copy_input(sched, request, input_bytes);
	if (status != ATTND_OK)
		return status;
	sched_reuse_prompt(sched, request);
	request->block_first = session->position;
	request->block_rows = request->rows - request->rows_done;
	return SCHED_STARTED;
}

bool sched_row_selected(const struct sched_request *request, uint32_t row)
{
	if (request->record.op == ATTND_OP_GENERATE)
		return row + 1 == request->rows;
	if (request->step.output == ATTND_OUT_NONE)
		return false;
	switch ((enum attnd_select)request->step.select) {
	case ATTND_SELECT_ALL: return true;
	case ATTND_SELECT_CHOSEN: return request->session->chosen[row / 64] >> row % 64 & 1;
	case ATTND_SELECT_LAST:
	case ATTND_SELECT_END: break;
	}
	return row + 1 == request->rows;
}

/* ---- GENERATE ------------------------------------------------------------------------- */

/*
 * What a GENERATE leaves behind: the cache holds the prompt and every delivered token but the last,
 * and the completion's position counts exactly these. The last token was drawn and not yet fed; a
 * caller who goes on passes it as the first of the next prompt. So nothing is remembered between
 * requests, and a session's bits depend on what was passed in alone. For the same reason a prompt
 * must not be empty: there would be no logits to draw from.
 */
unsigned sched_start_generate(struct sched *sched, struct sched_request *request)
{
	const struct attnd_request *record = &request->record;
	struct sched_generate *generate = &request->generate;
	const struct attnd_generate_params *params = &generate->params;
	struct sched_session *session = request->session;
	uint64_t prompt_bytes = sizeof(uint32_t) * (uint64_t)record->argument;
	unsigned status;

	if (damaged(sched, session))
		return ATTND_BAD_MODEL;
	if (record->in_bytes < sizeof(*params))
		return ATTND_BAD_PARAMS;
	sched_copy_in(&generate->params, request->in, sizeof(generate->params));
	if (params->struct_bytes != sizeof(*params) || params->max_tokens == 0 ||
		params->stop_count > ATTND_STOP_IDS_MAX || params->reserved != 0 ||
		params->reserved2 != 0 || params->between_ns < 0 ||
		params->between_ns > INT64_MAX / 4 ||
		!sched_sampling_copy(&generate->sampling, &params->sampling))
		return ATTND_BAD_PARAMS;
	if (record->argument == 0 ||
		record->in_bytes !=
			sizeof(*params) + prompt_bytes +
				sizeof(uint32_t) * (uint64_t)params->stop_count)
		return ATTND_BAD_SHAPE;
	if (!room_for(session, record->argument))
		return ATTND_CONTEXT_FULL;
	status = copy_tokens(sched, request, request->in + sizeof(*params), record->argument);
	if (status != ATTND_OK)
		return status;
	/* Compared with drawn tokens only: an id that no token has stops nothing. */
	sched_copy_in(generate->stop, request->in + sizeof(*params) + prompt_bytes,
		sizeof(uint32_t) * params->stop_count);
	generate->generated = 0;
	request->rows = record->argument;
	sched_reuse_prompt(sched, request);
	request->block_first = session->position;
	request->block_rows = request->rows - request->rows_done;
	return SCHED_STARTED;
}
