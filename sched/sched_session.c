/*
 * Sessions: handles, open, fork, truncate, close, and the place where each stands. Scheduler's
 * thread.
 *
 * A handle that is not a live session of the asking client answers BAD_SESSION, whoever's it is:
 * nobody learns from the answer whether it exists.
 */
#include <math.h>

#include "sched/sched_private.h"

/* ---- handles -------------------------------------------------------------------------- */

uint64_t sched_session_handle(const struct sched *sched, const struct sched_session *session)
{
	return (uint64_t)session->index | (uint64_t)session->generation << SCHED_GENERATION_AT |
		(uint64_t)sched->options.device << SCHED_DEVICE_AT |
		sched->boot_tag << SCHED_BOOT_AT;
}

struct sched_session *sched_session_find(struct sched *sched, const struct sched_client *client,
	uint64_t handle, enum attnd_status *status)
{
	uint32_t index = handle & ((1u << SCHED_INDEX_BITS) - 1);
	struct sched_session *session;

	*status = ATTND_BAD_SESSION;
	if (handle == 0)
		return NULL;
	if (handle >> SCHED_BOOT_AT != sched->boot_tag) {
		*status = ATTND_SESSION_LOST;
		return NULL;
	}
	if (index >= sched->options.sessions_max)
		return NULL;
	session = &sched->sessions[index];
	if (session->client != client || session->closing ||
		sched_session_handle(sched, session) != handle)
		return NULL;
	*status = ATTND_OK;
	return session;
}

/* ---- places --------------------------------------------------------------------------- */

void sched_session_kick(struct sched *sched, struct sched_session *session)
{
	if (!session->closing && session->queued > 0 && !session->busy &&
		session->place == PLACE_NONE && sched_list_empty(&session->of_kicked))
		sched_list_append(&sched->kicked, &session->of_kicked);
}

void sched_session_leave_place(struct sched *sched, struct sched_session *session)
{
	switch ((enum sched_place)session->place) {
	case PLACE_NONE: return;
	case PLACE_READY: sched_session_leave_ready(sched, session); return;
	case PLACE_PARKED: sched_debt_park(sched, session, false); break;
	case PLACE_BLOCKED: break;
	}
	sched_list_leave(&session->of_place);
	session->place = PLACE_NONE;
}

/* Its first session is ready. Who comes back competes from now on: time away is neither saved up nor held against him. */
static void client_enter(struct sched *sched, struct sched_client *client)
{
	struct sched_tenant_use *use = &sched->uses[client->tenant];

	if (client->served < use->turn)
		client->served = use->turn;
	if (sched_list_empty(&use->active))
		sched_share_enter(sched, use);
	sched_list_append(&use->active, &client->of_active);
}

static void enter_ready(struct sched *sched, struct sched_session *session, const struct sched_request *request)
{
	struct sched_client *client = session->client;

	if (sched_list_empty(&client->ready))
		client_enter(sched, client);
	sched_list_append(&client->ready, &session->of_place);
	session->waiting_since_ns = sched->now_ns;
	session->head_deadline_ns = request->deadline_ns;
	session->head_rows = request->rows - request->rows_done;
	session->head_class = request->record.priority_class;
}

void sched_session_enter_place(
	struct sched *sched, struct sched_session *session, enum sched_place place)
{
	struct sched_request *request = sched_session_head(session);

	if (session->place != PLACE_NONE)
		sched_session_leave_place(sched, session);
	session->place = (uint8_t)place;
	switch (place) {
	case PLACE_READY: enter_ready(sched, session, request); break;
	case PLACE_PARKED:
		sched_list_append(&session->client->parked, &session->of_place);
		sched_debt_park(sched, session, true);
		sched->counters.parked++;
		break;
	case PLACE_BLOCKED:
		sched_list_append(&sched->blocked, &session->of_place);
		sched->retry_blocked = true;
		break;
	case PLACE_NONE: return;
	}
	sched_debt_set(sched, request, 0);
}

/* ---- life ----------------------------------------------------------------------------- */

static enum attnd_status session_new(
	struct sched *sched, struct sched_client *client, struct sched_session **out)
{
	struct sched_tenant_use *use = &sched->uses[client->tenant];
	struct sched_session *session;

	if (use->sessions >= sched->tenants[client->tenant].sessions_max)
		return ATTND_OVER_QUOTA;
	if (sched_list_empty(&sched->free_sessions))
		return ATTND_NO_SESSIONS;
	session = sched_session_of_client(sched->free_sessions.next);
	sched_list_leave(&session->of_client);
	sched_list_append(&client->sessions, &session->of_client);
	session->client = client;
	session->queued = 0;
	session->place = PLACE_NONE;
	session->busy = session->closing = false;
	session->position = session->block_count = session->own_until = 0;
	session->prefix_node = SCHED_PREFIX_NONE;
	session->reused_tokens = 0;
	session->continued = session->apart = false;
	if (sched->draft_slots)
		sched_draft_begin(&session->draft);
	client->session_count++;
	use->sessions++;
	sched->counters.sessions++;
	*out = session;
	return ATTND_OK;
}

void sched_session_settle(struct sched *sched, struct sched_session *session)
{
	struct sched_client *client = session->client;

	if (!client || !session->closing || session->busy || session->queued > 0)
		return;
	sched_session_leave_place(sched, session);
	sched_list_leave(&session->of_kicked);
	sched_reuse_left(sched, session);
	sched_blocks_trim(sched, session, 0, 0);
	sched_list_leave(&session->of_client);
	sched_list_append(&sched->free_sessions, &session->of_client);
	session->client = NULL;
	client->session_count--;
	sched->uses[client->tenant].sessions--;
	sched->counters.sessions--;
	sched_client_settle(sched, client);
}

void sched_session_close(
	struct sched *sched, struct sched_session *session, enum attnd_status status)
{
	struct sched_list *link, *next;

	if (!session->client || session->closing)
		return;
	session->closing = true;
	session->generation = (session->generation + 1) & ((1u << SCHED_GENERATION_BITS) - 1);
	if (session->generation == 0)
		session->generation = 1;
	sched_list_leave(&session->of_kicked);
	if (session->queued == 0) {
		sched_session_settle(sched, session);
		return;
	}
	/* The last one to complete settles the session. */
	for (link = session->queue.next; link != &session->queue; link = next) {
		next = link->next;
		sched_request_end(sched, sched_request_of_session(link), status);
	}
}

/* ---- OPEN ----------------------------------------------------------------------------- */

static bool in_range(float value, float least, float most)
{
	return isfinite(value) && value >= least && value <= most;
}

bool sched_sampling_copy(struct model_sampling *to, const struct attnd_sampling *from)
{
	static const struct attnd_sampling NOTHING;

	*to = (struct model_sampling){ .top_p = 1.0f, .repeat_penalty = 1.0f };
	if (memcmp(from, &NOTHING, sizeof(NOTHING)) == 0)
		return true;
	if (!in_range(from->temperature, 0.0f, 1e6f) || !in_range(from->top_p, 0.0f, 1.0f) ||
		from->top_p == 0.0f || !in_range(from->min_p, 0.0f, 1.0f) ||
		!in_range(from->repeat_penalty, 0.0f, 1e6f) || from->repeat_penalty == 0.0f ||
		from->repeat_window > ATTND_REPEAT_WINDOW_MAX)
		return false;
	*to = (struct model_sampling){
		.seed = from->seed,
		.temperature = from->temperature,
		.top_p = from->top_p,
		.min_p = from->min_p,
		.repeat_penalty = from->repeat_penalty,
		.top_k = from->top_k,
		.repeat_window = from->repeat_window,
	};
	return true;
}

/* What an OPEN asks for, checked, before a session is taken for it. */
struct opening {
	struct attnd_open_params params;
	struct kern_kv_geometry kv;
	struct model_sampling sampling;
	uint32_t max_tokens;
	size_t take_bytes[2];
};

static bool kv_format(const struct sched *sched, uint8_t wanted, enum kern_kv *format)
{
	*format = wanted == ATTND_KV_DEFAULT ? sched->options.kv_default : (enum kern_kv)wanted;
	return wanted < ATTND_KV_END;
}

/* Blocks of raw sessions come in any size: rounded up to a quarter of a power of two, so that few
 * sizes share the pool's extents. */
static size_t round_to_class(size_t bytes)
{
	size_t power = (size_t)1 << (63 - __builtin_clzll((unsigned long long)bytes));
	size_t step = power / 4 > 4096 ? power / 4 : 4096;

	return (bytes + step - 1) / step * step;
}

static enum attnd_status check_model(
	const struct sched *sched, const struct sched_tenant *tenant, struct opening *opening)
{
	const struct attnd_open_params *params = &opening->params;
	const struct sched_model *model;
	uint32_t context;

	if (params->model >= sched->options.model_count)
		return ATTND_BAD_MODEL;
	if (!(tenant->models >> params->model & 1))
		return ATTND_DENIED;
	model = &sched->models[params->model];
	if (model->file && model_damaged(model->file))
		return ATTND_BAD_MODEL;
	if (params->layers || params->heads || params->kv_heads || params->head_dim ||
		params->window)
		return ATTND_BAD_PARAMS;
	opening->kv.layers = model->program->kv.layers;
	opening->kv.heads = model->program->kv.heads;
	opening->kv.kv_heads = model->program->kv.kv_heads;
	opening->kv.head_dim = model->program->kv.head_dim;
	context = model->info->context;
	if (params->max_tokens > context)
		return ATTND_TOO_LARGE;
	opening->max_tokens = params->max_tokens ? params->max_tokens : context;
	return ATTND_OK;
}

static enum attnd_status check_attention(const struct sched_tenant *tenant, struct opening *opening)
{
	const struct attnd_open_params *params = &opening->params;

	if (!tenant->attention)
		return ATTND_DENIED;
	if (params->model != 0 || params->layers == 0 || params->layers > ATTND_LAYERS_MAX ||
		params->heads == 0 || params->heads > ATTND_HEADS_MAX || params->kv_heads == 0 ||
		params->heads % params->kv_heads != 0 || params->head_dim == 0 ||
		params->head_dim % 8 != 0 || params->head_dim > ATTND_HEAD_DIM_MAX)
		return ATTND_BAD_PARAMS;
	if (!in_range(params->scale, -1e6f, 1e6f) || !in_range(params->soft_cap, 0.0f, 1e9f))
		return ATTND_BAD_PARAMS;
	opening->kv.layers = params->layers;
	opening->kv.heads = params->heads;
	opening->kv.kv_heads = params->kv_heads;
	opening->kv.head_dim = params->head_dim;
	opening->max_tokens = params->max_tokens;
	return ATTND_OK;
}

static enum attnd_status check_open(const struct sched *sched, const struct sched_message *message,
	const struct sched_client *client, struct opening *opening)
{
	static const uint8_t NOTHING[6];
	const struct sched_tenant *tenant = &sched->tenants[client->tenant];
	const struct attnd_open_params *params = &opening->params;
	enum attnd_status status;

	if (message->record.in_bytes < sizeof(opening->params))
		return ATTND_BAD_PARAMS;
	sched_copy_in(&opening->params, message->in, sizeof(opening->params));
	if (params->struct_bytes != sizeof(*params) || params->reserved2 != 0 ||
		memcmp(params->reserved, NOTHING, sizeof(NOTHING)) != 0 ||
		!kv_format(sched, params->kv_k, &opening->kv.k) ||
		!kv_format(sched, params->kv_v, &opening->kv.v) ||
		!sched_sampling_copy(&opening->sampling, &params->sampling))
		return ATTND_BAD_PARAMS;
	if (params->kind == ATTND_SESSION_MODEL)
		status = check_model(sched, tenant, opening);
	else if (params->kind == ATTND_SESSION_ATTENTION)
		status = check_attention(tenant, opening);
	else
		status = ATTND_BAD_PARAMS;
	if (status != ATTND_OK)
		return status;
	if (params->max_tokens > sched->options.tokens_max)
		return ATTND_TOO_LARGE;
	if (opening->max_tokens == 0 || opening->max_tokens > sched->options.tokens_max)
		opening->max_tokens = sched->options.tokens_max;
	if (kern_kv_init(&opening->kv) < 0)
		return ATTND_UNSUPPORTED;
	for (uint32_t later = 0; later < 2; later++) {
		size_t bytes = opening->kv.block_bytes[later];

		opening->take_bytes[later] =
			params->kind == ATTND_SESSION_ATTENTION ? round_to_class(bytes) : bytes;
		if (opening->take_bytes[later] > sched_kv_extent_bytes(sched->kv))
			return ATTND_TOO_LARGE;
	}
	return ATTND_OK;
}

void sched_session_open(
	struct sched *sched, const struct sched_message *message, struct sched_client *client)
{
	struct opening opening = { 0 };
	enum attnd_status status = check_open(sched, message, client, &opening);
	const struct attnd_open_params *params = &opening.params;
	struct sched_session *session = NULL;

	if (status == ATTND_OK)
		status = session_new(sched, client, &session);
	if (status != ATTND_OK) {
		sched_answer(sched, message, (struct sched_answer){ .status = status });
		return;
	}
	session->kind = (uint8_t)params->kind;
	session->model =
		params->kind == ATTND_SESSION_MODEL ? params->model : sched->options.model_count;
	session->max_tokens = opening.max_tokens;
	session->kv = opening.kv;
	memcpy(session->take_bytes, opening.take_bytes, sizeof(session->take_bytes));
	session->token_bytes = opening.kv.block_bytes[1] / KERN_PAGE_TOKENS;
	session->sampling = opening.sampling;
	session->window = params->window;
	session->scale = params->scale;
	session->soft_cap = params->soft_cap;
	memset(session->layers, 0, sizeof(*session->layers) * opening.kv.layers);
	sched_answer(sched, message,
		(struct sched_answer){ ATTND_OK, .value = sched_session_handle(sched, session) });
}

/* ---- FORK, TRUNCATE ------------------------------------------------------------------- */

/* A session with so many of the parent's (or its own) tokens: behind the end of a page the low halves of the last ones are gone. */
static bool loses_low(const struct sched_session *session, uint32_t keep)
{
	return kern_kv_has_low(&session->kv) && kern_kv_filled(keep) > 1 &&
		(session->apart || kern_kv_filled(keep) < kern_kv_filled(session->position));
}

unsigned sched_start_fork(struct sched *sched, struct sched_request *request)
{
	struct sched_session *parent = request->session;
	uint32_t keep = request->record.argument ? request->record.argument : parent->position;
	struct sched_session *child;
	enum attnd_status status;

	if (keep > parent->position)
		return ATTND_BAD_POSITION;
	status = session_new(sched, request->client, &child);
	if (status != ATTND_OK)
		return status;
	child->kind = parent->kind;
	child->model = parent->model;
	child->max_tokens = parent->max_tokens;
	child->kv = parent->kv;
	memcpy(child->take_bytes, parent->take_bytes, sizeof(child->take_bytes));
	child->token_bytes = parent->token_bytes;
	child->sampling = parent->sampling;
	child->window = parent->window;
	child->scale = parent->scale;
	child->soft_cap = parent->soft_cap;
	child->position = keep;
	if (parent->kind == ATTND_SESSION_MODEL)
		memcpy(child->tokens, parent->tokens, sizeof(*child->tokens) * keep);
	memcpy(child->draft.chance, parent->draft.chance, sizeof(child->draft.chance));
	for (uint32_t layer = 0;
		layer < parent->kv.layers && parent->kind == ATTND_SESSION_ATTENTION; layer++)
		child->layers[layer] = parent->layers[layer] < keep ? parent->layers[layer] : keep;
	if (!sched_blocks_share(sched, child, parent, keep)) {
		child->position = 0;
		sched_session_close(sched, child, ATTND_OVER_QUOTA);
		return ATTND_OVER_QUOTA;
	}
	child->apart = loses_low(parent, keep);
	if (sched->prefix)
		sched_reuse_fork(sched, child, parent);
	request->value = sched_session_handle(sched, child);
	return ATTND_OK;
}

unsigned sched_start_truncate(struct sched *sched, struct sched_request *request)
{
	struct sched_session *session = request->session;
	uint32_t keep = request->record.argument, reached = session->position;

	if (keep > reached)
		return ATTND_BAD_POSITION;
	session->apart = loses_low(session, keep);
	session->position = keep;
	for (uint32_t layer = 0;
		layer < session->kv.layers && session->kind == ATTND_SESSION_ATTENTION; layer++)
		if (session->layers[layer] > keep)
			session->layers[layer] = keep;
	sched_blocks_trim(sched, session, keep, reached);
	return ATTND_OK;
}
