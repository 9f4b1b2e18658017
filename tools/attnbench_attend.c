/*
 * attnbench attend: raw attention, each request a few queries over a KV cache that the daemon
 * holds.
 */
#include <stdio.h>
#include <string.h>

#include "base/base_rand.h"
#include "tools/attnbench_open.h"
#include "tools/tool_args.h"
#include "tools/tool_control.h"
#include "tools/tool_text.h"

enum { SLOTS = 16, APPEND_BYTES = 4 << 20 };

struct attend {
	struct attnbench_options options;
	struct attnbench_work work;
	struct attnd_client *client;
	struct attnd_open_params shape;
	uint64_t session;
	uint32_t context, q_rows, append, position, limit;
	void *in[SLOTS], *out[SLOTS];
	uint32_t in_bytes, out_bytes;
	uint64_t random;
};

enum {
	KEY_CONTEXT = 0x300,
	KEY_HEADS,
	KEY_KV_HEADS,
	KEY_HEAD_DIM,
	KEY_Q_ROWS,
	KEY_APPEND,
	KEY_WINDOW,
	KEY_KV
};

static const struct argp_option option_table[] = {
	{ "context", KEY_CONTEXT, "N", 0, "keys and values in the cache (4096)", 1 },
	{ "heads", KEY_HEADS, "N", 0, "of the queries (32)", 1 },
	{ "kv-heads", KEY_KV_HEADS, "N", 0, "of keys and values (8)", 1 },
	{ "head-dim", KEY_HEAD_DIM, "N", 0, "(128)", 1 },
	{ "q-rows", KEY_Q_ROWS, "N", 0, "queries in one request (1)", 1 },
	{ "append", KEY_APPEND, "N", 0, "keys and values that each request adds first (0)", 1 },
	{ "window", KEY_WINDOW, "N", 0, "each query sees the last N keys alone (0: all)", 1 },
	{ "kv", KEY_KV, "FORMAT", 0, "of the KV cache: f32, bf16, int8, f16, fp8, int4, or the daemon's default",
		1 },
	{ 0 },
};

static uint32_t u32(const char *name, const char *value, uint64_t low, uint64_t high)
{
	return (uint32_t)tool_args_u64(name, value, low, high);
}

static error_t parse(int key, char *value, struct argp_state *state)
{
	struct attend *attend = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &attend->options;
		return 0;
	case KEY_CONTEXT:
		attend->context = u32("--context", value, 1, 1 << 24);
		return 0;
	case KEY_HEADS:
		attend->shape.heads = u32("--heads", value, 1, ATTND_HEADS_MAX);
		return 0;
	case KEY_KV_HEADS:
		attend->shape.kv_heads = u32("--kv-heads", value, 1, ATTND_HEADS_MAX);
		return 0;
	case KEY_HEAD_DIM:
		attend->shape.head_dim = u32("--head-dim", value, 1, ATTND_HEAD_DIM_MAX);
		return 0;
	case KEY_Q_ROWS:
		attend->q_rows = u32("--q-rows", value, 1, 512);
		return 0;
	case KEY_APPEND:
		attend->append = u32("--append", value, 0, 512);
		return 0;
	case KEY_WINDOW:
		attend->shape.window = u32("--window", value, 0, UINT32_MAX - 1);
		return 0;
	case KEY_KV:
		attend->shape.kv_k = attend->shape.kv_v =
			(uint8_t)tool_args_choice("--kv", value, tool_args_kv);
		return 0;
	case ARGP_KEY_END:
		if (attend->shape.heads % attend->shape.kv_heads)
			argp_error(state, "--heads must be a multiple of --kv-heads");
		if (attend->q_rows > attend->context)
			argp_error(state, "--q-rows exceeds --context");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_child children[] = { { &attnbench_argp, 0, NULL, 0 }, { 0 } };
static const struct argp argp = { .options = option_table,
	.parser = parse,
	.children = children,
	.doc = "Raw attention: each request a few queries over the KV cache of a session." };

static size_t to_unit(size_t bytes)
{
	return (bytes + ATTND_UNIT_BYTES - 1) / ATTND_UNIT_BYTES * ATTND_UNIT_BYTES;
}

static size_t row_bytes(uint32_t heads, uint32_t head_dim)
{
	return (size_t)heads * head_dim * sizeof(float);
}

static unsigned fill(void *context, uint32_t slot, struct attnd_request requests[2])
{
	struct attend *attend = context;
	unsigned count = 0;

	if (attend->position + attend->append > attend->limit) {
		requests[count++] = (struct attnd_request){ .op = ATTND_OP_TRUNCATE,
			.session = attend->session,
			.argument = attend->context };
		attend->position = attend->context;
	}
	attend->position += attend->append;
	requests[count++] = (struct attnd_request){
		.op = ATTND_OP_ATTEND,
		.session = attend->session,
		.in_offset = attnd_offset(attend->client, attend->in[slot]),
		.in_bytes = attend->in_bytes,
		.out_offset = attnd_offset(attend->client, attend->out[slot]),
		.out_capacity = attend->out_bytes,
	};
	return count;
}

/* Between -1 and 1; the shape of the distribution does not matter for time. */
static void random_numbers(struct attend *attend, float *data, size_t count)
{
	for (size_t i = 0; i < count; i++)
		data[i] = (float)((double)(base_rand_next(&attend->random) >> 11) * 0x1p-52 - 1);
}

/* Parameters and numbers stay in each slot's memory; only the record changes from request to
 * request. */
static int make_slots(struct attend *attend)
{
	size_t q = row_bytes(attend->shape.heads, attend->shape.head_dim) * attend->q_rows;
	size_t kv = row_bytes(attend->shape.kv_heads, attend->shape.head_dim) * attend->append;
	struct attnd_attend_params params;

	attnd_attend_defaults(&params);
	params.q_rows = attend->q_rows;
	params.kv_rows = attend->append;
	params.flags = ATTND_ATTEND_CAUSAL;
	attend->in_bytes =
		(uint32_t)(sizeof(params) + to_unit(q) + (attend->append ? to_unit(kv) + kv : 0));
	attend->out_bytes = (uint32_t)q;
	for (uint32_t i = 0; i < SLOTS; i++) {
		attend->in[i] = attnd_loan(attend->client, attend->in_bytes);
		attend->out[i] = attnd_loan(attend->client, attend->out_bytes);
		if (!attend->in[i] || !attend->out[i]) {
			tool_say("the arena has no room for %d requests of %u bytes", SLOTS,
				attend->in_bytes);
			return TOOL_FAILED;
		}
		memcpy(attend->in[i], &params, sizeof(params));
		random_numbers(attend, (float *)((char *)attend->in[i] + sizeof(params)),
			(attend->in_bytes - sizeof(params)) / sizeof(float));
	}
	return TOOL_OK;
}

static int fill_cache(struct attend *attend)
{
	static float data[APPEND_BYTES / sizeof(float)];
	size_t row = (size_t)attend->shape.kv_heads * attend->shape.head_dim;
	uint32_t most = (uint32_t)(APPEND_BYTES / 2 / (row * sizeof(float)));

	most = most < ATTND_ATTEND_ROWS_MAX ? most : ATTND_ATTEND_ROWS_MAX;
	for (uint32_t part; attend->position < attend->context; attend->position += part) {
		struct attnd_attend_params params;

		part = attend->context - attend->position;
		part = part < most ? part : most;
		attnd_attend_defaults(&params);
		params.kv_rows = part;
		random_numbers(attend, data, 2 * part * row);
		int err = attnd_attend(attend->client, attend->session, &attend->shape, &params,
			NULL, data, data + part * row, NULL, NULL);

		if (err < 0)
			return tool_daemon_failed(err, "filling the cache");
	}
	return TOOL_OK;
}

static int prepare(struct attend *attend, struct attnbench_frame *frame)
{
	attend->client = frame->client;
	attend->limit = attend->context + 64 * attend->append;
	attend->shape.max_tokens = attend->limit;
	int err = attnd_session_open(attend->client, &attend->shape, &attend->session);

	if (err)
		return tool_daemon_failed(err, "opening a session");
	snprintf(attend->work.title, sizeof(attend->work.title),
		"Attention of %u quer%s, %u heads over %u, dim %u, %u keys, cache %s",
		attend->q_rows, attend->q_rows == 1 ? "y" : "ies", attend->shape.heads,
		attend->shape.kv_heads, attend->shape.head_dim, attend->context,
		tool_args_kv[attend->shape.kv_k]);
	int status = fill_cache(attend);

	return status == TOOL_OK ? make_slots(attend) : status;
}

/* What one request reads of the cache, by the session's own count of its bytes. */
static double cache_bytes(const struct attend *attend)
{
	struct attnd_session_info info;

	if (attnd_describe_session(attend->client, attend->session, &info) || info.position == 0)
		return 0;
	double seen = attend->shape.window && attend->shape.window < attend->context ?
		attend->shape.window :
		attend->context;

	return (double)info.kv_bytes * seen / info.position;
}

static void add_json(void *context, cJSON *object, const struct attnbench_work *work)
{
	const struct attend *attend = context;

	tool_json_add(object, "context", attend->context, 0);
	tool_json_add(object, "heads", attend->shape.heads, 0);
	tool_json_add(object, "kv_heads", attend->shape.kv_heads, 0);
	tool_json_add(object, "head_dim", attend->shape.head_dim, 0);
	tool_json_add(object, "q_rows", attend->q_rows, 0);
	tool_json_add(object, "append", attend->append, 0);
	tool_json_add(object, "window", attend->shape.window, 0);
	cJSON_AddStringToObject(object, "kv", tool_args_kv[attend->shape.kv_k]);
	tool_json_add(object, "cache_bytes_per_s", work->capacity * cache_bytes(attend), 0);
}

static void add_text(
	void *context, const struct attnbench_work *work, const struct attnbench_frame *frame)
{
	const struct attend *attend = context;
	char rate[TOOL_NUMBER_BYTES], bytes[TOOL_NUMBER_BYTES];
	double read = cache_bytes(attend);

	(void)frame;
	printf("  closed loop: %.0f/s, each over %s of cache: %s/s\n", work->capacity,
		tool_bytes(bytes, (uint64_t)read),
		tool_bytes(rate, (uint64_t)(work->capacity * read)));
}

int attnbench_attend(int argc, char **argv)
{
	static struct attend attend = { .context = 4096, .q_rows = 1 };
	const struct attnbench_extra extra = { add_json, add_text, &attend };

	attnbench_defaults(&attend.options);
	attnd_open_defaults(&attend.shape);
	attend.shape.kind = ATTND_SESSION_ATTENTION;
	attend.shape.layers = 1;
	attend.shape.heads = 32;
	attend.shape.kv_heads = 8;
	attend.shape.head_dim = 128;
	tool_args_parse(&argp, argc, argv, &attend);
	attend.random = attend.options.seed;
	attend.work.command = "attend";
	attend.work.target =
		(struct attnbench_target){ .context = &attend, .slots = SLOTS, .fill = fill };

	struct attnbench_frame *frame = attnbench_frame_open(&attend.options);
	int status = prepare(&attend, frame);

	if (status == TOOL_OK)
		status = attnbench_work_measure(&attend.work, frame);
	if (status == TOOL_OK)
		status = attnbench_work_report(&attend.work, frame, &extra);
	return attnbench_frame_close(frame, status);
}
