/*
 * attnquant measure attention: every KV format of the kernels, and llama.cpp's beside them, against float64.
 *
 * The kernels run as they do in the daemon: K and V are appended to pages and the last rows attend. llama.cpp's formats
 * are taken at their best: K and V are rounded as it stores them, Q as its CPU code multiplies it, and all the rest is
 * float64.
 */
#include <argp.h>
#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"
#include "tools/attnquant_measure.h"
#include "tools/tool_args.h"
#include "tools/tool_table.h"
#include "tools/tool_text.h"

enum {
	TOKENS = 4096,
	FLAT_TOKENS = 131072,
	TOKENS_LIMIT = 1 << 20,
	RESULTS_MAX = MEASURE_KV_MAX + MEASURE_PEERS,
	FLAT = MEASURE_INPUTS - 1
};

struct attention {
	struct measure_shape shape;
	uint32_t tokens; /* 0: each input's own */
	struct measure_kv_list kv;
	bool json, exact_q, inputs[MEASURE_INPUTS], any_input;

	struct kern_backend *backend;
	uint64_t done, total; /* of the progress: passes over a token */
};

struct result {
	const char *name;
	bool peer;
	double bits;
	struct measure_score score;
};

/* ---- the command line --------------------------------------------------------------------------------- */

enum { OPTION_KV_HEADS = 256, OPTION_KV, OPTION_EXACT_Q };

static const struct argp_option options[] = {
	{ "heads", 'H', "N", 0, "query heads (default 8)", 0 },
	{ "kv-heads", OPTION_KV_HEADS, "N", 0, "KV heads (default 2)", 0 },
	{ "dim", 'd', "N", 0, "numbers in a head (default 128)", 0 },
	{ "tokens", 'n', "N", 0, "tokens in the cache (default 4096; flat 131072)", 0 },
	{ "rows", 'r', "N", 0, "the last N tokens attend (default 8)", 0 },
	{ "kv", OPTION_KV, "LIST", 0, "formats, such as int8,int8/bf16 for K/V (default: all)", 0 },
	{ "input", 'i', "NAME", 0, "only this input; may be given again (default: all)", 0 },
	{ "exact-q", OPTION_EXACT_Q, NULL, 0, "llama.cpp's Q stays float64 too", 0 },
	{ "json", 'j', NULL, 0, "print JSON", 0 },
	{ 0 },
};

static void add_input(struct attention *attention, const char *name)
{
	static const char *const names[] = { "random", "outlier-K", "sink-token", "flat", NULL };

	attention->inputs[tool_args_choice("--input", name, names)] = true;
	attention->any_input = true;
}

static error_t parse(int key, char *value, struct argp_state *state)
{
	struct attention *attention = state->input;

	switch (key) {
	case 'H':
		attention->shape.heads = (uint32_t)tool_args_u64("--heads", value, 1, 1024);
		return 0;
	case OPTION_KV_HEADS:
		attention->shape.kv_heads = (uint32_t)tool_args_u64("--kv-heads", value, 1, 1024);
		return 0;
	case 'd':
		attention->shape.head_dim = (uint32_t)tool_args_u64("--dim", value, 8, 256);
		return 0;
	case 'n':
		attention->tokens = (uint32_t)tool_args_u64("--tokens", value, 1, TOKENS_LIMIT);
		return 0;
	case 'r':
		attention->shape.rows = (uint32_t)tool_args_u64("--rows", value, 1, 4096);
		return 0;
	case OPTION_KV:
		measure_kv_argument(&attention->kv, value);
		return 0;
	case 'i':
		add_input(attention, value);
		return 0;
	case OPTION_EXACT_Q:
		attention->exact_q = true;
		return 0;
	case 'j':
		attention->json = true;
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "what is '%s'?", value);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static uint32_t tokens_of(const struct attention *attention, uint32_t input)
{
	if (attention->tokens > 0)
		return attention->tokens;
	return input == FLAT ? FLAT_TOKENS : TOKENS;
}

/* ---- running ------------------------------------------------------------------------------------------ */

static void tick(struct attention *attention, uint32_t input, const char *what)
{
	measure_progress(attention->done, attention->total, "%s, %s", measure_input_names[input], what);
	attention->done += tokens_of(attention, input);
}

/* Pages for all tokens, one behind the other. */
static unsigned char **cache_create(
	struct kern_backend *backend, const struct kern_kv_geometry *kv, uint32_t tokens)
{
	const uint32_t count = kern_kv_blocks(kv, tokens);
	const size_t bytes = kv->block_bytes[0] + (count - 1) * kv->block_bytes[1];
	unsigned char *memory = backend->ops->alloc(backend, bytes, "KV cache to be measured");
	unsigned char **blocks = measure_alloc(count, sizeof(*blocks));

	if (!memory)
		tool_die(TOOL_FAILED, "%s", base_error_message());
	for (uint32_t i = 0; i < count; i++)
		blocks[i] = i == 0 ? memory :
				     memory + kv->block_bytes[0] + (i - 1) * kv->block_bytes[1];
	return blocks;
}

static double run_kernels(
	struct kern_backend *backend, const struct measure_kv *format, const struct measure_input *input, double *o)
{
	const struct measure_shape *shape = &input->shape;
	struct kern_kv_geometry kv = { .layers = 1, .heads = shape->heads, .kv_heads = shape->kv_heads,
		.head_dim = shape->head_dim, .k = format->k, .v = format->v };
	float *narrow = measure_alloc(measure_q_count(input), sizeof(*narrow));
	struct kern_attend item = { .kv = &kv, .q_rows = shape->rows, .kv_rows = input->tokens,
		.q_position = input->tokens - shape->rows, .causal = true,
		.scale = (float)(1 / sqrt((double)shape->head_dim)), .dtype = KERN_DTYPE_F32,
		.q = input->q, .k = input->k, .v = input->v, .o = narrow };
	const struct kern_work work = { .kind = KERN_WORK_ATTEND, .attend = { .items = &item, .count = 1 } };
	unsigned char **blocks;
	int rc = kern_kv_init(&kv);

	if (rc < 0)
		tool_die(TOOL_USAGE, "%s", base_error_message());
	item.blocks = blocks = cache_create(backend, &kv, input->tokens);
	rc = measure_run(backend, &work);
	if (rc < 0)
		tool_die(TOOL_FAILED, "attention with a cache of %s failed: %s", format->name, strerror(-rc));
	for (size_t i = 0; i < measure_q_count(input); i++)
		o[i] = (double)narrow[i];
	backend->ops->free(backend, blocks[0]);
	free(blocks);
	free(narrow);
	return measure_kv_bits(&kv);
}

/* Fills results, returns how many. */
static uint32_t run_input(struct attention *attention, uint32_t index, struct result *results)
{
	const struct measure_shape *shape = &attention->shape;
	const size_t vectors = (size_t)shape->rows * shape->heads;
	struct measure_input input;
	double *exact, *o;
	uint32_t count = 0;

	tick(attention, index, "float64");
	measure_input_make(&input, shape, index, tokens_of(attention, index));
	exact = measure_alloc(measure_q_count(&input), sizeof(*exact));
	o = measure_alloc(measure_q_count(&input), sizeof(*o));
	measure_exact(&input, exact);
	for (uint32_t i = 0; i < attention->kv.count; i++) {
		const struct measure_kv *kv = &attention->kv.list[i];
		struct result *result = &results[count++];

		tick(attention, index, kv->name);
		*result = (struct result){ .name = kv->name };
		result->bits = run_kernels(attention->backend, kv, &input, o);
		result->score = measure_compare(o, exact, vectors, shape->head_dim);
	}
	for (uint32_t i = 0; i < MEASURE_PEERS && measure_peer_fits(shape); i++) {
		const struct measure_peer *peer = &measure_peers[i];
		struct result *result = &results[count++];

		tick(attention, index, peer->name);
		*result = (struct result){ .name = peer->name, .peer = true, .bits = peer->bits };
		measure_peer_run(peer, &input, attention->exact_q, o);
		result->score = measure_compare(o, exact, vectors, shape->head_dim);
	}
	free(exact);
	free(o);
	measure_input_free(&input);
	return count;
}

/* ---- showing ------------------------------------------------------------------------------------------ */

static void print_table(const struct attention *attention, uint32_t input, const struct result *results, uint32_t count)
{
	struct tool_table *table =
		tool_table_new("cache|>bits|>cosine, mean|>least|>relative RMSE|>max error");
	char tokens[TOOL_NUMBER_BYTES];

	tool_table_title(stdout, "%s, %s tokens: %s", measure_input_names[input],
		tool_count(tokens, tokens_of(attention, input)), measure_input_texts[input]);
	for (uint32_t i = 0; i < count; i++) {
		const struct result *result = &results[i];

		tool_table_row(table);
		tool_table_cell(table, "%s", result->name);
		tool_table_cell(table, "%.2f", result->bits);
		tool_table_cell(table, "%.7f", result->score.cosine);
		tool_table_cell(table, "%.7f", result->score.cosine_least);
		tool_table_cell(table, "%.2e", result->score.rmse);
		tool_table_cell(table, "%.2e", result->score.max_error);
		if (result->peer)
			tool_table_colour(table, "dim");
	}
	tool_table_print(table, stdout);
	putchar('\n');
}

static void add_json(
	cJSON *list, const struct attention *attention, uint32_t input, const struct result *results, uint32_t count)
{
	cJSON *item = cJSON_CreateObject(), *formats;

	cJSON_AddStringToObject(item, "input", measure_input_names[input]);
	cJSON_AddNumberToObject(item, "tokens", tokens_of(attention, input));
	formats = cJSON_AddArrayToObject(item, "formats");
	for (uint32_t i = 0; i < count; i++) {
		const struct result *result = &results[i];
		cJSON *row = cJSON_CreateObject();

		cJSON_AddStringToObject(row, "name", result->name);
		cJSON_AddBoolToObject(row, "peer", result->peer);
		cJSON_AddNumberToObject(row, "bits", result->bits);
		cJSON_AddNumberToObject(row, "cosine", result->score.cosine);
		cJSON_AddNumberToObject(row, "cosine_least", result->score.cosine_least);
		cJSON_AddNumberToObject(row, "rmse", result->score.rmse);
		cJSON_AddNumberToObject(row, "max_error", result->score.max_error);
		cJSON_AddItemToArray(formats, row);
	}
	cJSON_AddItemToArray(list, item);
}

static cJSON *json_root(const struct attention *attention)
{
	cJSON *root = cJSON_CreateObject();

	cJSON_AddStringToObject(root, "backend", attention->backend->properties.name);
	cJSON_AddNumberToObject(root, "heads", attention->shape.heads);
	cJSON_AddNumberToObject(root, "kv_heads", attention->shape.kv_heads);
	cJSON_AddNumberToObject(root, "head_dim", attention->shape.head_dim);
	cJSON_AddNumberToObject(root, "rows", attention->shape.rows);
	return root;
}

static void measure(struct attention *attention)
{
	cJSON *root = json_root(attention), *list = cJSON_AddArrayToObject(root, "inputs");
	char *text;

	if (!attention->json)
		printf("Against float64, %s; %u heads over %u of %u numbers, the last %u tokens attend.\n\n",
			attention->backend->properties.name, attention->shape.heads, attention->shape.kv_heads,
			attention->shape.head_dim, attention->shape.rows);
	for (uint32_t input = 0; input < MEASURE_INPUTS; input++) {
		struct result results[RESULTS_MAX];
		uint32_t count;

		if (attention->any_input && !attention->inputs[input])
			continue;
		count = run_input(attention, input, results);
		measure_progress_end();
		if (attention->json)
			add_json(list, attention, input, results, count);
		else
			print_table(attention, input, results, count);
	}
	text = attention->json ? cJSON_Print(root) : NULL;
	if (text)
		puts(text);
	cJSON_free(text);
	cJSON_Delete(root);
}

/* What kern_kv_init and the tokens allow, before anything is computed. */
static void check(struct attention *attention)
{
	struct kern_kv_geometry kv = { .layers = 1, .heads = attention->shape.heads,
		.kv_heads = attention->shape.kv_heads, .head_dim = attention->shape.head_dim,
		.k = KERN_KV_F32, .v = KERN_KV_F32 };
	const uint32_t passes = 1 + attention->kv.count +
		(measure_peer_fits(&attention->shape) ? (uint32_t)MEASURE_PEERS : 0);

	if (kern_kv_init(&kv) < 0)
		tool_die(TOOL_USAGE, "%s", base_error_message());
	for (uint32_t i = 0; i < MEASURE_INPUTS; i++) {
		if (attention->any_input && !attention->inputs[i])
			continue;
		if (tokens_of(attention, i) < attention->shape.rows)
			tool_die(TOOL_USAGE, "%u rows cannot attend where there are %u tokens",
				attention->shape.rows, tokens_of(attention, i));
		attention->total += (uint64_t)passes * tokens_of(attention, i);
	}
}

static const struct argp attention_argp = {
	.options = options,
	.parser = parse,
	.doc = "Measures the KV formats against attention in float64: cosine, relative error, largest error.\v"
	       "Inputs: random, outlier-K, sink-token, flat. Beside the formats of the kernels stand llama.cpp's q8_0 and "
	       "q4_0, with and without a rotation by a Hadamard matrix: their K and V are rounded as it stores them, Q "
	       "to q8_0 as its CPU code does (but not with --exact-q), all else is float64.",
};

int attnquant_measure_attention_command(int argc, char **argv)
{
	struct attention attention = { .shape = { .heads = 8, .kv_heads = 2, .head_dim = 128, .rows = 8 } };

	measure_kv_all(&attention.kv);
	tool_args_parse(&attention_argp, argc, argv, &attention);
	check(&attention);
	attention.backend = measure_backend();
	measure(&attention);
	attention.backend->ops->destroy(attention.backend);
	return TOOL_OK;
}
