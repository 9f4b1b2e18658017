/*
 * DESCRIBE: what a client may know of the daemon, a model, and its own sessions. Scheduler's
 * thread. Each answer is built in private memory and written to the client's once.
 */
#include "sched/sched_private.h"

/* Copies as much of a text as the field holds; the rest of the field is zero already. */
static void put_text(char *field, size_t field_bytes, const char *text)
{
	size_t bytes = text ? strnlen(text, field_bytes - 1) : 0;

	memcpy(field, text ? text : "", bytes);
}

/* Whoever wants them gets them. */
static uint64_t cached_bytes(const struct sched *sched)
{
	return sched->prefix ? sched_prefix_counters(sched->prefix)->idle_bytes : 0;
}

static void describe_daemon(const struct sched *sched, struct attnd_daemon_info *info)
{
	struct sched_kv_usage usage;

	sched_kv_usage(sched->kv, &usage);
	*info = (struct attnd_daemon_info){
		.struct_bytes = sizeof(*info),
		.version = ATTND_VERSION,
		.boot_id = sched->options.boot_id,
		.started_ns = sched->started_ns,
		.models = sched->options.model_count,
		.devices = 1,
		.sessions = sched->counters.sessions,
		.sessions_max = sched->options.sessions_max,
		.kv_bytes = usage.total_bytes,
		.kv_bytes_free = usage.free_bytes + usage.dirty_bytes + cached_bytes(sched),
		.max_in_flight = sched->options.client_requests_max,
		.max_tokens = sched->options.tokens_max,
		.max_step_tokens = sched->options.tokens_max,
		.workers = sched->backend->properties.workers,
	};
	put_text(info->isa, sizeof(info->isa), sched->backend->properties.name);
	put_text(info->build, sizeof(info->build), sched->build);
}

static void describe_model(const struct sched *sched, uint32_t index, struct attnd_model_info *info)
{
	const struct sched_model *model = &sched->models[index];
	const struct model_info *shape = model->info;
	int32_t bos = model->tokenizer ? model_tokenizer_bos(model->tokenizer) : MODEL_TOKEN_NONE;
	int32_t eos = model->tokenizer ? model_tokenizer_eos(model->tokenizer) : MODEL_TOKEN_NONE;

	*info = (struct attnd_model_info){
		.struct_bytes = sizeof(*info),
		.index = index,
		.parameters = shape->parameters,
		.weight_bytes = shape->weight_bytes,
		.vocab = shape->vocab,
		.width = shape->width,
		.layers = shape->layers,
		.heads = shape->heads,
		.kv_heads = shape->kv_heads,
		.head_dim = shape->head_dim,
		.ff_width = shape->ff_width,
		.context = shape->context,
		.bos = bos == MODEL_TOKEN_NONE ? UINT32_MAX : (uint32_t)bos,
		.eos = eos == MODEL_TOKEN_NONE ? UINT32_MAX : (uint32_t)eos,
		.has_tokenizer = model->tokenizer != NULL,
		.has_chat_template = model->tokenizer && model_chat_known(model->tokenizer),
		.state = model->file && model_damaged(model->file),
	};
	put_text(info->name, sizeof(info->name), model->name ? model->name : shape->name);
	put_text(info->architecture, sizeof(info->architecture), shape->architecture);
	put_text(info->weights, sizeof(info->weights), shape->weights);
}

static void describe_session(const struct sched_session *session, struct attnd_session_info *info)
{
	uint32_t blocks = session->block_count;

	*info = (struct attnd_session_info){
		.struct_bytes = sizeof(*info),
		.kind = session->kind,
		.model = session->kind == ATTND_SESSION_MODEL ? session->model : 0,
		.position = session->position,
		.max_tokens = session->max_tokens,
		.pages = blocks,
		.kv_bytes = blocks
			? session->take_bytes[0] + (uint64_t)(blocks - 1) * session->take_bytes[1]
			: 0,
		.kv_k = (uint8_t)session->kv.k,
		.kv_v = (uint8_t)session->kv.v,
		.reused_tokens = session->reused_tokens,
	};
}

void sched_describe(
	struct sched *sched, const struct sched_message *message, struct sched_client *client)
{
	const struct attnd_request *record = &message->record;
	union {
		struct attnd_daemon_info daemon;
		struct attnd_model_info model;
		struct attnd_session_info session;
	} info;
	struct sched_answer answer = { .status = ATTND_OK };
	struct sched_session *session;

	switch (record->argument) {
	case ATTND_DESCRIBE_DAEMON:
		describe_daemon(sched, &info.daemon);
		answer.result_bytes = sizeof(info.daemon);
		break;
	case ATTND_DESCRIBE_MODEL:
		if (record->args >= sched->options.model_count)
			answer.status = ATTND_BAD_MODEL;
		else if (!(sched->tenants[client->tenant].models >> record->args & 1))
			answer.status = ATTND_DENIED;
		else
			describe_model(sched, (uint32_t)record->args, &info.model);
		answer.result_bytes = sizeof(info.model);
		break;
	case ATTND_DESCRIBE_SESSION:
		session = sched_session_find(sched, client, record->session, &answer.status);
		if (session) {
			describe_session(session, &info.session);
			answer.position = session->position;
		}
		answer.result_bytes = sizeof(info.session);
		break;
	default: answer.status = ATTND_BAD_PARAMS;
	}
	if (answer.status == ATTND_OK && record->out_capacity < answer.result_bytes) {
		answer.status = ATTND_NO_OUTPUT_ROOM;
		answer.value = answer.result_bytes;
	}
	if (answer.status != ATTND_OK)
		answer.result_bytes = 0;
	else
		memcpy(message->out, &info, answer.result_bytes);
	sched_answer(sched, message, answer);
}
