/*
 * Synchronous helpers: one request, waited for, its input copied into the arena and its output
 * out of it. For convenience, not for speed; the zero-copy way is attnd_loan and attnd_submit.
 * Client's thread.
 */
#include <errno.h>
#include <string.h>

#include "base/base_error.h"
#include "client-lib/attnd_client.h"

enum { PARTS_MAX = 4 };

/* A piece of input; each begins at a multiple of `align` (a power of two). bytes 0: left out. */
struct part { const void *memory; uint64_t bytes, align; };

/* ---- the call -------------------------------------------------------------------------------- */

/* Waits for the final completion of a request, handing its stream to each; others are dropped. */
typedef int stream_fn(void *context, const struct attnd_completion *completion);

static int wait_final(struct attnd_client *client, uint64_t request_id, struct attnd_completion *completion,
	stream_fn *each, void *context)
{
	for (;;) {
		int taken = attnd_wait(client, completion, 1, -1);

		if (taken < 0)
			return taken;
		if (taken == 0 || completion->request_id != request_id)
			continue;
		if (completion->flags & ATTND_CPL_FINAL)
			return 0;
		taken = each ? each(context, completion) : 0;
		if (taken)
			return taken;
	}
}

static int judge(const struct attnd_request *request, const struct attnd_completion *completion)
{
	if (completion->status == ATTND_OK)
		return 0;
	return base_fail(EIO, "%s: %s: %s", attnd_op_name(request->op), attnd_status_name(completion->status),
		attnd_status_text(completion->status));
}

static int submit_alone(struct attnd_client *client, const struct attnd_request *request)
{
	int taken;

	if (client->gone)
		return base_fail(ENOTCONN, "%s: the daemon is gone; reconnect", attnd_op_name(request->op));
	if (client->in_flight)
		return base_fail(EBUSY, "%u requests are in flight; synchronous helpers want none",
			client->in_flight);
	taken = attnd_submit(client, request, 1);
	return taken < 0 ? base_fail(-taken, "%s: not submitted", attnd_op_name(request->op)) : 0;
}

int attnd_call(struct attnd_client *client, const struct attnd_request *request,
	struct attnd_completion *completion)
{
	int error = submit_alone(client, request);

	if (!error)
		error = wait_final(client, request->request_id, &client->last, NULL, NULL);
	if (error)
		return error;
	if (completion)
		*completion = client->last;
	return judge(request, &client->last);
}

const struct attnd_completion *attnd_last_completion(const struct attnd_client *client)
{
	return &client->last;
}

/* ---- input and output ------------------------------------------------------------------------ */

static uint64_t align_up(uint64_t value, uint64_t align)
{
	return (value + align - 1) & ~(align - 1);
}

/* Copies the parts into a loan and names it in the request. NULL loan when there is nothing to
 * copy. */
static int input_loan(struct attnd_client *client, struct attnd_request *request, const struct part *parts,
	unsigned count, void **loan)
{
	uint64_t offsets[PARTS_MAX], bytes = 0;

	*loan = NULL;
	for (unsigned i = 0; i < count; i++) {
		offsets[i] = parts[i].bytes ? align_up(bytes, parts[i].align) : bytes;
		if (parts[i].bytes > UINT32_MAX - offsets[i])
			return base_fail(E2BIG, "%s: input above 4 GiB", attnd_op_name(request->op));
		bytes = offsets[i] + parts[i].bytes;
	}
	if (!bytes)
		return 0;
	*loan = attnd_loan(client, bytes);
	if (!*loan)
		return base_fail(ENOMEM, "%s: the arena has no room for %llu bytes of input",
			attnd_op_name(request->op), (unsigned long long)bytes);
	for (unsigned i = 0; i < count; i++)
		if (parts[i].bytes)
			memcpy((unsigned char *)*loan + offsets[i], parts[i].memory, parts[i].bytes);
	request->in_offset = attnd_offset(client, *loan);
	request->in_bytes = (uint32_t)bytes;
	return 0;
}

static int output_loan(struct attnd_client *client, struct attnd_request *request, uint64_t bytes, void **loan)
{
	*loan = NULL;
	if (!bytes)
		return 0;
	if (bytes > UINT32_MAX)
		return base_fail(E2BIG, "%s: output above 4 GiB", attnd_op_name(request->op));
	*loan = attnd_loan(client, bytes);
	if (!*loan)
		return base_fail(ENOMEM, "%s: the arena has no room for %llu bytes of output",
			attnd_op_name(request->op), (unsigned long long)bytes);
	request->out_offset = attnd_offset(client, *loan);
	request->out_capacity = (uint32_t)bytes;
	return 0;
}

/* One call with input and output; what came back is at most out_bytes. Returns 0, or as attnd_call. */
static int call_with(struct attnd_client *client, struct attnd_request *request, const struct part *parts,
	unsigned count, void *out, uint64_t out_bytes)
{
	void *in_loan, *out_loan = NULL;
	uint64_t came;
	int error;

	request->request_id = ++client->next_id;
	error = input_loan(client, request, parts, count, &in_loan);
	if (!error)
		error = output_loan(client, request, out_bytes, &out_loan);
	if (!error)
		error = attnd_call(client, request, NULL);
	if (!error && out_loan) {
		came = client->last.result_bytes < out_bytes ? client->last.result_bytes : out_bytes;
		memcpy(out, out_loan, came);
	}
	/* A connection that broke took the arena's contents with it, not its bookkeeping: loans
	 * still go back. */
	attnd_return(client, out_loan);
	attnd_return(client, in_loan);
	return error;
}

/* ---- small ones ------------------------------------------------------------------------------ */

int attnd_nop(struct attnd_client *client)
{
	struct attnd_request request = { .op = ATTND_OP_NOP };

	return call_with(client, &request, NULL, 0, NULL, 0);
}

static int describe(struct attnd_client *client, uint32_t what, uint64_t session, uint64_t index, void *info,
	size_t info_bytes)
{
	struct attnd_request request = { .op = ATTND_OP_DESCRIBE, .argument = what, .session = session,
		.args = index };

	memset(info, 0, info_bytes);
	return call_with(client, &request, NULL, 0, info, info_bytes);
}

int attnd_describe_daemon(struct attnd_client *client, struct attnd_daemon_info *info)
{
	return describe(client, ATTND_DESCRIBE_DAEMON, 0, 0, info, sizeof(*info));
}

int attnd_describe_model(struct attnd_client *client, uint32_t index, struct attnd_model_info *info)
{
	return describe(client, ATTND_DESCRIBE_MODEL, 0, index, info, sizeof(*info));
}

int attnd_describe_session(struct attnd_client *client, uint64_t session, struct attnd_session_info *info)
{
	return describe(client, ATTND_DESCRIBE_SESSION, session, 0, info, sizeof(*info));
}

int attnd_model_by_name(struct attnd_client *client, const char *name)
{
	struct attnd_daemon_info daemon;
	struct attnd_model_info model;
	int error = attnd_describe_daemon(client, &daemon);

	for (uint32_t i = 0; !error && i < daemon.models; i++) {
		error = attnd_describe_model(client, i, &model);
		if (!error && strncmp(model.name, name, sizeof(model.name)) == 0)
			return (int)i;
	}
	return error ? error : base_fail(ENOENT, "the daemon has no model named \"%s\"", name);
}

static const struct attnd_sampling greedy = { .top_p = 1, .repeat_penalty = 1 };

void attnd_open_defaults(struct attnd_open_params *params)
{
	*params = (struct attnd_open_params){ .struct_bytes = sizeof(*params), .kind = ATTND_SESSION_MODEL,
		.sampling = greedy };
}

void attnd_generate_defaults(struct attnd_generate_params *params)
{
	*params = (struct attnd_generate_params){ .struct_bytes = sizeof(*params), .max_tokens = 256,
		.sampling = greedy };
}

void attnd_attend_defaults(struct attnd_attend_params *params)
{
	*params = (struct attnd_attend_params){ .struct_bytes = sizeof(*params), .dtype = ATTND_F32,
		.flags = ATTND_ATTEND_CAUSAL, .q_position = UINT32_MAX, .window = UINT32_MAX, .soft_cap = -1 };
}

/* ---- sessions -------------------------------------------------------------------------------- */

int attnd_session_open(struct attnd_client *client, const struct attnd_open_params *params, uint64_t *session)
{
	struct attnd_request request = { .op = ATTND_OP_OPEN };
	const struct part in = { params, sizeof(*params), 1 };
	int error = call_with(client, &request, &in, 1, NULL, 0);

	if (!error)
		*session = client->last.value;
	return error;
}

static int session_call(struct attnd_client *client, unsigned op, uint64_t session, uint32_t argument)
{
	struct attnd_request request = { .op = (uint8_t)op, .session = session, .argument = argument };

	return call_with(client, &request, NULL, 0, NULL, 0);
}

int attnd_session_close(struct attnd_client *client, uint64_t session)
{
	return session_call(client, ATTND_OP_CLOSE, session, 0);
}

int attnd_session_fork(struct attnd_client *client, uint64_t session, uint32_t keep, uint64_t *fork)
{
	int error = session_call(client, ATTND_OP_FORK, session, keep);

	if (!error)
		*fork = client->last.value;
	return error;
}

int attnd_session_truncate(struct attnd_client *client, uint64_t session, uint32_t keep)
{
	return session_call(client, ATTND_OP_TRUNCATE, session, keep);
}

/* ---- work on a session ----------------------------------------------------------------------- */

int64_t attnd_step(struct attnd_client *client, uint64_t session, const uint32_t *tokens, uint32_t count,
	struct attnd_step_args args, void *out, size_t out_bytes)
{
	struct attnd_request request = { .op = ATTND_OP_STEP, .session = session, .argument = count };
	uint64_t words = (uint64_t)count + (args.select == ATTND_SELECT_CHOSEN ? args.select_count : 0);
	const struct part in = { tokens, words * sizeof(uint32_t), 1 };
	int error;

	memcpy(&request.args, &args, sizeof(args));
	error = call_with(client, &request, &in, 1, out, out_bytes);
	return error ? error : (int64_t)client->last.result_bytes;
}

struct generation {
	struct attnd_client *client;
	attnd_token_fn *on_token;
	void *context;
	uint64_t session, request_id, cancel_id; /* cancel_id 0: not cancelled */
	int64_t tokens;
};

static int on_stream(void *context, const struct attnd_completion *completion)
{
	struct generation *generation = context;
	struct attnd_request cancel = { .op = ATTND_OP_CANCEL, .session = generation->session,
		.args = generation->request_id };

	generation->tokens++;
	if (generation->cancel_id || !generation->on_token ||
		!generation->on_token(generation->context, (uint32_t)completion->value, completion))
		return 0;
	cancel.request_id = ++generation->client->next_id;
	/* With no room for the cancellation the next token tries again. */
	if (attnd_submit(generation->client, &cancel, 1) == 1)
		generation->cancel_id = cancel.request_id;
	return 0;
}

/* Takes completions until nothing is in flight: the answer to a cancellation may come before or
 * after what it ended. */
static int drain(struct attnd_client *client)
{
	struct attnd_completion unwanted;

	while (client->in_flight) {
		int taken = attnd_wait(client, &unwanted, 1, -1);

		if (taken < 0)
			return taken;
	}
	return 0;
}

int64_t attnd_generate(struct attnd_client *client, uint64_t session, const struct attnd_generate_params *params,
	const uint32_t *prompt, uint32_t prompt_count, const uint32_t *stops, attnd_token_fn *on_token, void *context,
	uint32_t *stop)
{
	struct attnd_request request = { .op = ATTND_OP_GENERATE, .session = session, .argument = prompt_count,
		.request_id = ++client->next_id };
	const struct part in[] = {
		{ params, sizeof(*params), 1 },
		{ prompt, (uint64_t)prompt_count * sizeof(uint32_t), 1 },
		{ stops, stops ? (uint64_t)params->stop_count * sizeof(uint32_t) : 0, 1 },
	};
	struct generation generation = { .client = client, .on_token = on_token, .context = context,
		.session = session, .request_id = request.request_id };
	void *loan;
	int error = input_loan(client, &request, in, 3, &loan);

	if (stop)
		*stop = 0;
	if (!error)
		error = submit_alone(client, &request);
	if (!error)
		error = wait_final(client, request.request_id, &client->last, on_stream, &generation);
	if (!error)
		error = drain(client);
	attnd_return(client, loan);
	if (error)
		return error;
	if (client->last.status == ATTND_OK && stop)
		*stop = (uint32_t)client->last.value;
	if (client->last.status == ATTND_CANCELLED && generation.cancel_id)
		return generation.tokens;
	error = judge(&request, &client->last);
	return error ? error : generation.tokens;
}

static int attend_check(const struct attnd_open_params *shape, const struct attnd_attend_params *params)
{
	if (shape->heads > ATTND_HEADS_MAX || shape->kv_heads > ATTND_HEADS_MAX ||
		shape->head_dim > ATTND_HEAD_DIM_MAX || params->q_rows > ATTND_ATTEND_ROWS_MAX ||
		params->kv_rows > ATTND_ATTEND_ROWS_MAX || params->dtype >= ATTND_DTYPE_END)
		return base_fail(EINVAL, "attend: %u heads, %u KV heads, dimension %u, %u and %u rows, type %u: above "
			"the limits in attnd/record.h", shape->heads, shape->kv_heads, shape->head_dim,
			params->q_rows, params->kv_rows, params->dtype);
	return 0;
}

int attnd_attend(struct attnd_client *client, uint64_t session, const struct attnd_open_params *shape,
	const struct attnd_attend_params *params, const void *q, const void *k, const void *v, void *o, float *lse)
{
	struct attnd_request request = { .op = params->q_rows ? ATTND_OP_ATTEND : ATTND_OP_APPEND,
		.session = session };
	uint64_t element = params->dtype == ATTND_F32 ? 4 : 2;
	uint64_t q_bytes = (uint64_t)params->q_rows * shape->heads * shape->head_dim * element;
	uint64_t kv_bytes = (uint64_t)params->kv_rows * shape->kv_heads * shape->head_dim * element;
	uint64_t lse_bytes = params->flags & ATTND_ATTEND_LSE ?
		(uint64_t)params->q_rows * shape->heads * sizeof(float) : 0;
	uint64_t lse_offset = align_up(q_bytes, ATTND_UNIT_BYTES);
	const struct part in[] = {
		{ params, sizeof(*params), ATTND_UNIT_BYTES }, { q, q_bytes, ATTND_UNIT_BYTES },
		{ k, kv_bytes, ATTND_UNIT_BYTES }, { v, kv_bytes, ATTND_UNIT_BYTES },
	};
	void *in_loan, *out_loan = NULL;
	int error = attend_check(shape, params);

	if (error)
		return error;
	request.request_id = ++client->next_id;
	error = input_loan(client, &request, in, 4, &in_loan);
	if (!error)
		error = output_loan(client, &request, lse_bytes ? lse_offset + lse_bytes : q_bytes, &out_loan);
	if (!error)
		error = attnd_call(client, &request, NULL);
	if (!error && q_bytes)
		memcpy(o, out_loan, q_bytes);
	if (!error && lse_bytes && lse)
		memcpy(lse, (unsigned char *)out_loan + lse_offset, lse_bytes);
	attnd_return(client, out_loan);
	attnd_return(client, in_loan);
	return error;
}

/* ---- text ------------------------------------------------------------------------------------ */

/* A call whose output has a size that only the daemon knows: once with what the caller has room
 * for, and once more with what the daemon says it needs, of which the caller gets as much as
 * fits. Returns the elements that there are. */
static int64_t call_growing(struct attnd_client *client, const struct attnd_request *like, const struct part *in,
	void *out, uint64_t capacity_bytes, uint64_t element_bytes)
{
	struct attnd_request request = *like;
	void *in_loan, *out_loan = NULL;
	uint64_t room = capacity_bytes, came;
	int error = input_loan(client, &request, in, 1, &in_loan);

	for (unsigned attempt = 0; !error && attempt < 2; attempt++) {
		request.request_id = ++client->next_id;
		error = output_loan(client, &request, room, &out_loan);
		if (!error)
			error = attnd_call(client, &request, NULL);
		if (error != -EIO || client->last.status != ATTND_NO_OUTPUT_ROOM || attempt > 0)
			break;
		attnd_return(client, out_loan);
		out_loan = NULL;
		room = client->last.value;
		error = 0;
	}
	if (!error && out_loan && capacity_bytes) {
		came = client->last.result_bytes < room ? client->last.result_bytes : room;
		memcpy(out, out_loan, came < capacity_bytes ? came : capacity_bytes);
	}
	attnd_return(client, out_loan);
	attnd_return(client, in_loan);
	return error ? error : (int64_t)(client->last.result_bytes / element_bytes);
}

int64_t attnd_tokenize(struct attnd_client *client, uint32_t model, const char *text, size_t text_bytes,
	unsigned flags, uint32_t *ids, size_t capacity)
{
	const struct attnd_request request = { .op = ATTND_OP_TOKENIZE, .flags = (uint8_t)flags, .argument = model };
	const struct part in = { text, text_bytes, 1 };

	if (capacity > ATTND_TEXT_BYTES_MAX)
		capacity = ATTND_TEXT_BYTES_MAX;
	return call_growing(client, &request, &in, ids, capacity * sizeof(*ids), sizeof(*ids));
}

int64_t attnd_detokenize(struct attnd_client *client, uint32_t model, const uint32_t *ids, size_t count,
	unsigned flags, char *text, size_t capacity)
{
	const struct attnd_request request = { .op = ATTND_OP_DETOKENIZE, .flags = (uint8_t)flags,
		.argument = model };
	const struct part in = { ids, (uint64_t)count * sizeof(*ids), 1 };

	if (capacity > ATTND_TEXT_BYTES_MAX)
		capacity = ATTND_TEXT_BYTES_MAX;
	return call_growing(client, &request, &in, text, capacity, 1);
}

/* Writes the messages as records; with `to` NULL only counts the bytes. */
static uint64_t chat_write(unsigned char *to, const struct attnd_message *messages, size_t count)
{
	uint64_t at = 0;

	for (size_t i = 0; i < count; i++) {
		uint64_t text_bytes = strlen(messages[i].text);
		uint64_t padded = align_up(text_bytes, 8);
		const struct attnd_chat_message header = { messages[i].role, (uint32_t)text_bytes };

		if (to) {
			memcpy(to + at, &header, sizeof(header));
			memset(to + at + sizeof(header), 0, padded);
			memcpy(to + at + sizeof(header), messages[i].text, text_bytes);
		}
		at += sizeof(header) + padded;
	}
	return at;
}

int64_t attnd_chat_tokenize(struct attnd_client *client, uint32_t model, const struct attnd_message *messages,
	size_t count, uint32_t *ids, size_t capacity)
{
	struct attnd_request request = { .op = ATTND_OP_TOKENIZE, .flags = ATTND_REQ_CHAT, .argument = model };
	const struct part none = { NULL, 0, 1 };
	uint64_t bytes = chat_write(NULL, messages, count);
	void *loan;
	int64_t result;

	if (bytes > ATTND_TEXT_BYTES_MAX)
		return base_fail(E2BIG, "chat messages of %llu bytes; at most %d", (unsigned long long)bytes,
			ATTND_TEXT_BYTES_MAX);
	if (capacity > ATTND_TEXT_BYTES_MAX)
		capacity = ATTND_TEXT_BYTES_MAX;
	loan = attnd_loan(client, bytes);
	if (!loan)
		return base_fail(ENOMEM, "the arena has no room for chat messages of %llu bytes",
			(unsigned long long)bytes);
	chat_write(loan, messages, count);
	request.in_offset = attnd_offset(client, loan);
	request.in_bytes = (uint32_t)bytes;
	result = call_growing(client, &request, &none, ids, capacity * sizeof(*ids), sizeof(*ids));
	attnd_return(client, loan);
	return result;
}
