/*
 * APPEND and ATTEND at the head of their session: the parameter block is copied and checked, and
 * becomes one item for the backend. Q, K and V stay in the client's memory, where the kernels read
 * each element once. Scheduler's thread.
 */
#include <math.h>

#include "sched/sched_private.h"

static uint64_t round_up(uint64_t bytes)
{
	return (bytes + ATTND_UNIT_BYTES - 1) / ATTND_UNIT_BYTES * ATTND_UNIT_BYTES;
}

static uint64_t element_bytes(uint8_t dtype)
{
	return dtype == ATTND_F32 ? 4 : 2;
}

static unsigned check_params(
	const struct sched_request *request, const struct attnd_attend_params *params)
{
	static const uint32_t NOTHING[8];
	bool append = request->record.op == ATTND_OP_APPEND;

	if (params->struct_bytes != sizeof(*params) ||
		params->layer >= request->session->kv.layers || params->dtype >= ATTND_DTYPE_END ||
		(params->flags & ~(ATTND_ATTEND_CAUSAL | ATTND_ATTEND_LSE)) != 0 ||
		!isfinite(params->scale) || !isfinite(params->soft_cap) ||
		memcmp(params->reserved, NOTHING, sizeof(NOTHING)) != 0)
		return ATTND_BAD_PARAMS;
	if (params->q_rows > ATTND_ATTEND_ROWS_MAX || params->kv_rows > ATTND_ATTEND_ROWS_MAX)
		return ATTND_TOO_LARGE;
	if (append ? params->q_rows != 0 || params->kv_rows == 0 : params->q_rows == 0)
		return ATTND_BAD_SHAPE;
	return ATTND_OK;
}

/* Where the query rows stand; false when there is nothing for one of them to see. */
static bool place_queries(
	const struct attnd_attend_params *params, uint32_t total, uint32_t *q_position)
{
	if (params->q_rows == 0)
		return true;
	if (total == 0)
		return false;
	if (!(params->flags & ATTND_ATTEND_CAUSAL)) {
		*q_position = 0; /* every row sees the same keys, wherever it stands */
		return params->q_position != UINT32_MAX || params->q_rows <= total;
	}
	*q_position =
		params->q_position == UINT32_MAX ? total - params->q_rows : params->q_position;
	/* A causal row looks back from its own position, which must exist. */
	return params->q_rows <= total && *q_position <= total - params->q_rows;
}

static void fill_settings(struct kern_attend *item, const struct sched_session *session,
	const struct attnd_attend_params *params)
{
	item->causal = params->flags & ATTND_ATTEND_CAUSAL;
	item->window = params->window == UINT32_MAX ? session->window : params->window;
	item->scale = params->scale != 0.0f ? params->scale : session->scale;
	if (item->scale == 0.0f)
		item->scale = 1.0f / sqrtf((float)session->kv.head_dim);
	item->soft_cap = params->soft_cap < 0.0f ? session->soft_cap : params->soft_cap;
	item->dtype = (enum kern_dtype)params->dtype;
}

/* Q, K, V in the input, O and LSE in the output: ATTND_OK, or what does not fit. */
static unsigned place_payload(
	struct sched_request *request, const struct attnd_attend_params *params)
{
	const struct sched_session *session = request->session;
	struct kern_attend *item = &request->attend.item;
	uint64_t element = element_bytes(params->dtype);
	uint64_t q_bytes =
		params->q_rows * (uint64_t)session->kv.heads * session->kv.head_dim * element;
	uint64_t kv_bytes =
		params->kv_rows * (uint64_t)session->kv.kv_heads * session->kv.head_dim * element;
	uint64_t k_at = sizeof(*params) + round_up(q_bytes), v_at = k_at + round_up(kv_bytes);
	uint64_t end = params->kv_rows ? v_at + kv_bytes : sizeof(*params) + q_bytes;
	uint64_t lse_at = round_up(q_bytes);
	bool lse = (params->flags & ATTND_ATTEND_LSE) && params->q_rows > 0;
	uint64_t needed = lse
		? lse_at + params->q_rows * (uint64_t)session->kv.heads * sizeof(float)
		: q_bytes;

	/* The last block may or may not be padded to its multiple of 64. */
	if (request->record.in_bytes < end || request->record.in_bytes > round_up(end))
		return ATTND_BAD_SHAPE;
	if (needed > request->record.out_capacity) {
		request->value = needed;
		return ATTND_NO_OUTPUT_ROOM;
	}
	item->q = params->q_rows ? request->in + sizeof(*params) : NULL;
	item->k = params->kv_rows ? request->in + k_at : NULL;
	item->v = params->kv_rows ? request->in + v_at : NULL;
	item->o = params->q_rows ? request->out : NULL;
	item->lse = lse ? (float *)(void *)(request->out + lse_at) : NULL;
	return ATTND_OK;
}

unsigned sched_start_attend(struct sched *sched, struct sched_request *request)
{
	struct sched_session *session = request->session;
	struct attnd_attend_params *params = &request->attend.params;
	struct kern_attend *item = &request->attend.item;
	uint32_t position;
	unsigned status;

	(void)sched;
	*item = (struct kern_attend){ .kv = &session->kv, .blocks = session->blocks };
	if (request->record.in_bytes < sizeof(*params))
		return ATTND_BAD_PARAMS;
	sched_copy_in(params, request->in, sizeof(*params));
	status = check_params(request, params);
	if (status != ATTND_OK)
		return status;
	position = session->layers[params->layer];
	item->layer = request->layer = params->layer;
	if ((request->record.flags & ATTND_REQ_CHECK_POSITION) &&
		request->record.position != position)
		return ATTND_BAD_POSITION;
	status = place_payload(request, params);
	if (status != ATTND_OK)
		return status;
	if (params->kv_rows > session->max_tokens - position)
		return ATTND_CONTEXT_FULL;
	if (!place_queries(params, position + params->kv_rows, &item->q_position))
		return ATTND_BAD_POSITION;
	fill_settings(item, session, params);
	item->q_rows = params->q_rows;
	item->kv_rows = params->kv_rows;
	item->kv_position = position;
	request->rows = params->q_rows;
	request->block_first = position;
	request->block_rows = params->kv_rows;
	return SCHED_STARTED;
}

uint32_t sched_attend_result_bytes(const struct sched_request *request)
{
	const struct kern_attend *item = &request->attend.item;
	uint64_t o_bytes = item->q_rows * (uint64_t)item->kv->heads * item->kv->head_dim *
		element_bytes((uint8_t)item->dtype);

	return (uint32_t)(item->lse ? round_up(o_bytes) +
				item->q_rows * (uint64_t)item->kv->heads * sizeof(float)
				    : o_bytes);
}

uint32_t sched_attend_appended(const struct sched_request *request, uint32_t rows)
{
	const struct kern_attend *item = &request->attend.item;
	uint32_t page_end;

	if (rows == item->q_rows)
		return item->kv_rows;
	if (rows == 0)
		return 0;
	if (!item->causal || !kern_kv_has_low(item->kv))
		return item->kv_rows;
	page_end = kern_kv_filled(item->q_position + rows) * KERN_PAGE_TOKENS;
	if (page_end <= item->kv_position)
		return 0;
	return page_end - item->kv_position < item->kv_rows ? page_end - item->kv_position
							    : item->kv_rows;
}

struct kern_attend sched_attend_slice(
	const struct sched_request *request, uint32_t from, uint32_t rows)
{
	struct kern_attend item = request->attend.item;
	const struct kern_kv_geometry *kv = item.kv;
	uint64_t element = element_bytes((uint8_t)item.dtype);
	uint64_t row_bytes = (uint64_t)kv->heads * kv->head_dim * element,
		 kv_row_bytes = (uint64_t)kv->kv_heads * kv->head_dim * element;
	uint32_t before = from > 0 ? sched_attend_appended(request, from) : 0;

	if (item.q_rows > 0) {
		item.q = (const unsigned char *)item.q + from * row_bytes;
		item.o = (unsigned char *)item.o + from * row_bytes;
		item.q_position += from;
		item.q_rows = rows;
	}
	if (item.lse)
		item.lse += (uint64_t)from * kv->heads;
	item.kv_position += before;
	item.kv_rows = sched_attend_appended(request, from + rows) - before;
	if (item.kv_rows == 0) {
		item.k = item.v = NULL;
	} else {
		item.k = (const unsigned char *)item.k + before * kv_row_bytes;
		item.v = (const unsigned char *)item.v + before * kv_row_bytes;
	}
	return item;
}

struct sched_load sched_attend_load(const struct kern_attend *item, uint32_t from, uint32_t rows)
{
	const struct kern_kv_geometry *kv = item->kv;
	uint64_t keys = (uint64_t)item->kv_position + item->kv_rows;
	uint64_t products;

	if (item->window > 0 && item->window < keys)
		keys = item->window;
	products = 2 * rows * keys * kv->heads * kv->head_dim;
	if (from == 0)
		products += (uint64_t)item->kv_rows * kv->kv_heads * kv->head_dim;
	return (struct sched_load){
		.rows = (uint32_t)(products >> 16) + 1,
		.visits = products,
		.kv_bytes = sched_kv_bytes(kv, keys) / kv->layers,
	};
}
