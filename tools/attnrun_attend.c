/*
 * The raw attention mode: K and V go into a session of their own, Q asks, O comes back.
 *
 * Large tensors travel in parts that fit the arena; the answer does not depend on the cuts.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"
#include "tools/attnrun.h"
#include "tools/attnrun_check.h"
#include "tools/attnrun_tensor.h"
#include "tools/tool_table.h"
#include "tools/tool_text.h"

enum {
	PART_BYTES = 2 << 20
}; /* of one tensor in one request; the default arena has room for four */

struct attend_run {
	struct attnd_client *client;
	struct attnrun_options *options;
	struct attnrun_tensor q, k, v, o;
	struct attnd_open_params shape;
	uint64_t session;
	int64_t append_ns, attend_ns, device_ns;
};

/* A file's shape is the truth; without one the flags say how to cut it. rows is set, heads may
 * be. */
static void load(struct attnrun_tensor *tensor, const char *path, const char *name, uint32_t *rows,
	uint32_t *heads, uint32_t *head_dim)
{
	if (attnrun_tensor_read(tensor, path))
		tool_die(TOOL_FAILED, "%s", base_error_message());
	if (tensor->dims == 3) {
		if (tensor->shape[0] > 1 << 24 || tensor->shape[1] > ATTND_HEADS_MAX ||
			tensor->shape[2] > ATTND_HEAD_DIM_MAX)
			tool_die(TOOL_FAILED, "%s of %s is larger than the daemon takes", name,
				path);
		*rows = (uint32_t)tensor->shape[0];
		*heads = (uint32_t)tensor->shape[1];
		*head_dim = (uint32_t)tensor->shape[2];
		return;
	}
	size_t row = (size_t)*heads * *head_dim;

	if (tensor->dims || tensor->count % row || tensor->count / row > 1 << 24)
		tool_die(TOOL_FAILED, "%s: %s must be [rows][%u][%u], but has %zu numbers", path,
			name, *heads, *head_dim, tensor->count);
	*rows = (uint32_t)(tensor->count / row);
}

static void fill(struct attnrun_tensor *tensor, size_t count, uint64_t seed)
{
	if (attnrun_tensor_random(tensor, count, seed))
		tool_die(TOOL_FAILED, "%s", base_error_message());
}

static void make_tensors(struct attend_run *run)
{
	struct attnrun_options *options = run->options;
	uint32_t dim = options->head_dim, rows = options->kv_rows, heads = options->kv_heads;

	if (!options->k_file != !options->v_file)
		tool_die(TOOL_USAGE, "--k and --v come together");
	if (options->q_file)
		load(&run->q, options->q_file, "Q", &options->q_rows, &options->heads,
			&options->head_dim);
	if (options->k_file) {
		if (!options->q_file)
			options->head_dim = dim;
		dim = options->head_dim;
		load(&run->k, options->k_file, "K", &options->kv_rows, &options->kv_heads, &dim);
		rows = options->kv_rows;
		heads = options->kv_heads;
		if (!options->q_file)
			options->head_dim = dim;
		load(&run->v, options->v_file, "V", &rows, &heads, &dim);
	}
	dim = options->k_file ? dim : options->head_dim;
	if (dim != options->head_dim || rows != options->kv_rows || heads != options->kv_heads)
		tool_die(TOOL_FAILED, "the shapes of Q, K and V do not fit together");
	if (!options->q_file)
		fill(&run->q, (size_t)options->q_rows * options->heads * dim,
			options->seed * 3 + 1);
	if (!options->k_file) {
		fill(&run->k, (size_t)options->kv_rows * options->kv_heads * dim,
			options->seed * 3 + 2);
		fill(&run->v, (size_t)options->kv_rows * options->kv_heads * dim,
			options->seed * 3 + 3);
	}
	if (options->heads % options->kv_heads)
		tool_die(TOOL_FAILED, "%u heads cannot share %u heads of keys and values",
			options->heads, options->kv_heads);
	if (!options->dense && options->q_rows > options->kv_rows)
		tool_die(TOOL_FAILED,
			"causal attention of %u queries needs as many keys, not %u; or --dense",
			options->q_rows, options->kv_rows);
}

static int open_session(struct attend_run *run)
{
	const struct attnrun_options *options = run->options;

	attnd_open_defaults(&run->shape);
	run->shape.kind = ATTND_SESSION_ATTENTION;
	run->shape.kv_k = run->shape.kv_v = (uint8_t)options->kv;
	run->shape.layers = 1;
	run->shape.heads = options->heads;
	run->shape.kv_heads = options->kv_heads;
	run->shape.head_dim = options->head_dim;
	run->shape.window = options->window;
	run->shape.scale = (float)options->scale;
	run->shape.soft_cap = (float)options->soft_cap;
	run->shape.max_tokens = options->kv_rows;
	int err = attnd_session_open(run->client, &run->shape, &run->session);

	return err ? tool_daemon_failed(err, "opening a session") : TOOL_OK;
}

static uint32_t part_rows(uint32_t left, size_t row_numbers)
{
	size_t rows = PART_BYTES / (row_numbers * sizeof(float));

	rows = rows < 1 ? 1 : rows > ATTND_ATTEND_ROWS_MAX ? ATTND_ATTEND_ROWS_MAX : rows;
	return rows < left ? (uint32_t)rows : left;
}

static int append(struct attend_run *run)
{
	size_t row = (size_t)run->options->kv_heads * run->options->head_dim;
	int64_t begin_ns = attnd_now_ns(run->client);
	uint32_t part;

	for (uint32_t at = 0; at < run->options->kv_rows && !attnrun_interrupted; at += part) {
		struct attnd_attend_params params;

		part = part_rows(run->options->kv_rows - at, row);
		attnd_attend_defaults(&params);
		params.kv_rows = part;
		int err = attnd_attend(run->client, run->session, &run->shape, &params, NULL,
			run->k.data + at * row, run->v.data + at * row, NULL, NULL);

		if (err < 0)
			return tool_daemon_failed(err, "appending K and V");
	}
	run->append_ns = attnd_now_ns(run->client) - begin_ns;
	return TOOL_OK;
}

static int ask(struct attend_run *run)
{
	const struct attnrun_options *options = run->options;
	size_t row = (size_t)options->heads * options->head_dim;
	int64_t begin_ns = attnd_now_ns(run->client);
	uint32_t part,
		before =
			options->kv_rows > options->q_rows ? options->kv_rows - options->q_rows : 0;

	for (uint32_t at = 0; at < options->q_rows && !attnrun_interrupted; at += part) {
		struct attnd_attend_params params;

		part = part_rows(options->q_rows - at, row);
		attnd_attend_defaults(&params);
		params.q_rows = part;
		params.q_position = before + at;
		params.flags = options->dense ? 0 : ATTND_ATTEND_CAUSAL;
		int err = attnd_attend(run->client, run->session, &run->shape, &params,
			run->q.data + at * row, NULL, NULL, run->o.data + at * row, NULL);

		if (err < 0)
			return tool_daemon_failed(err, "attending");
		const struct attnd_completion *last = attnd_last_completion(run->client);

		run->device_ns += last->done_ns - last->started_ns;
	}
	run->attend_ns = attnd_now_ns(run->client) - begin_ns;
	return TOOL_OK;
}

static uint64_t checksum(const float *data, size_t count)
{
	const unsigned char *bytes = (const unsigned char *)data;
	uint64_t hash = UINT64_C(0xcbf29ce484222325); /* FNV-1a */

	for (size_t i = 0; i < count * sizeof(float); i++)
		hash = (hash ^ bytes[i]) * UINT64_C(0x100000001b3);
	return hash;
}

static void summarize(const struct attend_run *run)
{
	const struct attnrun_options *options = run->options;
	char appended[TOOL_NUMBER_BYTES], attended[TOOL_NUMBER_BYTES], device[TOOL_NUMBER_BYTES];
	double sum = 0, squares = 0, largest = 0;

	for (size_t i = 0; i < run->o.count; i++) {
		double value = run->o.data[i];

		sum += value;
		squares += value * value;
		largest = fmax(largest, fabs(value));
	}
	double count = (double)run->o.count;

	printf("O [%u][%u][%u]: mean %.6g, rms %.6g, largest %.6g, checksum %016llx\n",
		options->q_rows, options->heads, options->head_dim, sum / count,
		sqrt(squares / count), largest,
		(unsigned long long)checksum(run->o.data, run->o.count));
	if (options->stats)
		fprintf(stderr, "append %s, attend %s, of which on the device %s\n",
			tool_duration(appended, run->append_ns),
			tool_duration(attended, run->attend_ns),
			tool_duration(device, run->device_ns));
}

static int conclude(struct attend_run *run)
{
	const struct attnrun_options *options = run->options;

	run->o.dims = 3;
	run->o.shape[0] = options->q_rows;
	run->o.shape[1] = options->heads;
	run->o.shape[2] = options->head_dim;
	if (options->out_file && attnrun_tensor_write(&run->o, options->out_file)) {
		tool_say("%s", base_error_message());
		return TOOL_FAILED;
	}
	summarize(run);
	if (!options->check)
		return TOOL_OK;
	return attnrun_check(options, run->q.data, run->k.data, run->v.data, run->o.data) ?
		TOOL_OK :
		TOOL_FAILED;
}

int attnrun_attend(struct attnd_client *client, struct attnrun_options *options)
{
	struct attend_run run = { .client = client, .options = options };

	make_tensors(&run);
	run.o.count = run.q.count;
	run.o.data = calloc(run.o.count, sizeof(float));
	if (!run.o.data)
		tool_die(TOOL_FAILED, "out of memory");
	attnrun_catch_interrupt();
	int status = open_session(&run);

	if (status == TOOL_OK)
		status = append(&run);
	if (status == TOOL_OK)
		status = ask(&run);
	if (attnrun_interrupted)
		status = TOOL_INTERRUPTED;
	else if (status == TOOL_OK)
		status = conclude(&run);
	attnrun_tensor_free(&run.q);
	attnrun_tensor_free(&run.k);
	attnrun_tensor_free(&run.v);
	attnrun_tensor_free(&run.o);
	return status;
}
