/*
 * attnquant make-random: a llama of any shape whose matrices are random numbers, already in the format asked for. It
 * says nothing sensible; it costs exactly what a real model of that shape costs, so that speed can be measured, here and
 * by other programs that read GGUF, without a download.
 *
 * One thread. The file is a stream: memory holds a few pools of quantized chunks, and a row at a time. Every row is drawn
 * from the pool of its format and length, chunk by chunk, so that a thousand million weights take a second and not the
 * minutes that drawing and quantizing each would take. Weights have deviation 1/sqrt(columns), which keeps activations
 * of order one.
 */
#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"
#include "base/base_rand.h"
#include "tools/attnquant.h"
#include "tools/tool_args.h"
#include "tools/tool_text.h"

enum {
	SPECIALS = 3,
	BYTES = 256,
	FIRST_TEXT = SPECIALS + BYTES,
	CHUNK_ELEMENTS = 32, /* of formats with smaller blocks; larger blocks are chunks */
	POOL_ELEMENTS = 1 << 18,
	POOLS_MAX = 16, /* formats times lengths of rows: a model has fewer than eight */
	/* The reader's limits, which are far above any real model. */
	LAYERS_MAX = 256,
	HEADS_MAX = 256,
	HEAD_DIM_MAX = 256,
	HEAD_DIM_STEP = 8,
	WIDTH_MAX = 1 << 16,
	FF_WIDTH_MAX = 1 << 18,
	VOCAB_MAX = 1 << 20,
	CONTEXT_MAX = 1 << 24,
};

struct shape {
	const char *name;
	uint32_t layers, width, heads, kv_heads, head_dim, ff_width, vocab, context;
	bool tied; /* the embedding is the output matrix, too */
};

static const struct shape shapes[] = {
	{ "tinyllama-1.1b", 22, 2048, 32, 4, 64, 5632, 32000, 32768, false },
	{ "smollm2-135m", 30, 576, 9, 3, 64, 1536, 49152, 32768, true },
	{ "stories-260k", 5, 64, 8, 4, 8, 172, 512, 2048, true },
};

enum { SHAPES = sizeof(shapes) / sizeof(*shapes) };

/* Chunks of one format, of numbers with the deviation that rows of one length have. */
struct pool {
	enum kern_type type;
	uint64_t columns;
	uint32_t chunk_bytes, chunks;
	unsigned char *bytes;
};

struct maker {
	const char *out;
	uint64_t seed, random;
	enum kern_type type, output_type; /* output_type: KERN_TYPE_END, or what was asked for */
	struct shape shape;
	struct attnquant_vocab vocab;
	struct attnquant_tensors tensors;
	struct pool pools[POOLS_MAX];
	uint32_t pool_count;
	unsigned char *row; /* [the longest] */
};

/* ---- the command line ---------------------------------------------------------------------------------- */

enum random_option { LAYERS = 256, WIDTH, HEADS, KV_HEADS, HEAD_DIM, FF_WIDTH, VOCAB, CONTEXT, OUTPUT_TYPE, TIED };

static const struct argp_option options[] = {
	{ "output", 'o', "OUT.gguf", 0, "the file to write (required)", 0 },
	{ "shape", 's', "NAME", 0, "tinyllama-1.1b (default), smollm2-135m or stories-260k", 0 },
	{ "type", 'T', "TYPE", 0, "the format of the matrices (default Q8_0)", 0 },
	{ "output-type", OUTPUT_TYPE, "TYPE", 0,
		"the format of the output matrix, and of the embedding where they are one (default: TYPE, but no less "
		"than Q6_K)", 0 },
	{ "seed", 'S', "N", 0, "of the random numbers (default 1)", 0 },
	{ 0, 0, 0, 0, "In place of the shape's own:", 1 },
	{ "layers", LAYERS, "N", 0, "layers", 1 },
	{ "width", WIDTH, "N", 0, "elements of a token's vector", 1 },
	{ "heads", HEADS, "N", 0, "query heads", 1 },
	{ "kv-heads", KV_HEADS, "N", 0, "key and value heads; divides the query heads", 1 },
	{ "head-dim", HEAD_DIM, "N", 0, "elements of a head (default: the shape's, or width / heads)", 1 },
	{ "ff", FF_WIDTH, "N", 0, "width of the feed-forward part", 1 },
	{ "vocab", VOCAB, "N", 0, "tokens", 1 },
	{ "context", CONTEXT, "N", 0, "tokens of context that the file promises", 1 },
	{ "tied", TIED, 0, 0, "no output matrix of its own: the embedding serves", 1 },
	{ 0 },
};

static const struct shape *shape_named(const char *name)
{
	const char *names[SHAPES + 1] = { 0 };

	for (int i = 0; i < SHAPES; i++)
		names[i] = shapes[i].name;
	return &shapes[tool_args_choice("--shape", name, names)];
}

/* Options that replace a part of the shape: each is a number with limits. */
static bool parse_size(struct shape *shape, int key, const char *value)
{
	const struct {
		int key;
		const char *name;
		uint32_t low, high, *to;
	} sizes[] = {
		{ LAYERS, "--layers", 1, LAYERS_MAX, &shape->layers },
		{ WIDTH, "--width", 8, WIDTH_MAX, &shape->width },
		{ HEADS, "--heads", 1, HEADS_MAX, &shape->heads },
		{ KV_HEADS, "--kv-heads", 1, HEADS_MAX, &shape->kv_heads },
		{ HEAD_DIM, "--head-dim", HEAD_DIM_STEP, HEAD_DIM_MAX, &shape->head_dim },
		{ FF_WIDTH, "--ff", 1, FF_WIDTH_MAX, &shape->ff_width },
		{ VOCAB, "--vocab", FIRST_TEXT, VOCAB_MAX, &shape->vocab },
		{ CONTEXT, "--context", 1, CONTEXT_MAX, &shape->context },
	};

	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++)
		if (sizes[i].key == key) {
			*sizes[i].to = (uint32_t)tool_args_u64(sizes[i].name, value, sizes[i].low, sizes[i].high);
			return true;
		}
	return false;
}

/* What was asked for lies over the named shape; zeros stand for what was not. */
struct request {
	struct maker *maker;
	const struct shape *base;
	struct shape given;
};

static void apply(struct request *request, struct argp_state *state)
{
	const struct shape *given = &request->given, *base = request->base;
	struct shape *shape = &request->maker->shape;
	bool free_heads = given->width || given->heads;

	shape->name = memcmp(given, &(struct shape){ 0 }, sizeof(*given)) == 0 ? base->name : "free";
	shape->layers = given->layers ? given->layers : base->layers;
	shape->width = given->width ? given->width : base->width;
	shape->heads = given->heads ? given->heads : base->heads;
	shape->kv_heads = given->kv_heads ? given->kv_heads : base->kv_heads;
	shape->head_dim = given->head_dim ? given->head_dim : free_heads ? shape->width / shape->heads : base->head_dim;
	shape->ff_width = given->ff_width ? given->ff_width : base->ff_width;
	shape->vocab = given->vocab ? given->vocab : base->vocab;
	shape->context = given->context ? given->context : base->context;
	shape->tied = given->tied || base->tied;
	if (shape->heads % shape->kv_heads != 0)
		argp_error(state, "%" PRIu32 " query heads do not divide among %" PRIu32 " key heads; give --kv-heads",
			shape->heads, shape->kv_heads);
	if (shape->head_dim == 0 || shape->head_dim % HEAD_DIM_STEP != 0 || shape->head_dim > HEAD_DIM_MAX)
		argp_error(state, "heads of %" PRIu32 " elements; they have a multiple of %d, at most %d: give --head-dim",
			shape->head_dim, HEAD_DIM_STEP, HEAD_DIM_MAX);
}

static error_t parse(int key, char *value, struct argp_state *state)
{
	struct request *request = state->input;
	struct maker *maker = request->maker;

	switch (key) {
	case 'o':
		maker->out = value;
		return 0;
	case 's':
		request->base = shape_named(value);
		return 0;
	case 'S':
		maker->seed = tool_args_u64("--seed", value, 0, UINT64_MAX);
		return 0;
	case 'T':
		maker->type = attnquant_type_argument(value);
		return 0;
	case OUTPUT_TYPE:
		maker->output_type = attnquant_type_argument(value);
		return 0;
	case TIED:
		request->given.tied = true;
		return 0;
	case ARGP_KEY_END:
		if (!maker->out)
			argp_error(state, "make-random needs -o OUT.gguf");
		apply(request, state);
		return 0;
	default:
		return parse_size(&request->given, key, value) ? 0 : ARGP_ERR_UNKNOWN;
	}
}

/* ---- its words ----------------------------------------------------------------------------------------- */

/* U+2581 and a number in letters: each token has a text of its own, as readers demand. */
static int word(char *text, size_t room, uint32_t number)
{
	char letters[8];
	int count = 0;

	do {
		letters[count++] = (char)('a' + number % 26);
		number /= 26;
	} while (number-- > 0);
	return snprintf(text, room, "\xe2\x96\x81%.*s", count, letters);
}

static int make_vocab(struct maker *maker)
{
	struct attnquant_vocab *vocab = &maker->vocab;
	char text[32];
	int rc;

	attnquant_vocab_init(vocab, "llama", "default");
	rc = attnquant_vocab_grow(vocab, maker->shape.vocab);
	if (rc == 0)
		rc = attnquant_vocab_set(vocab, 0, "<unk>", 5, 0, TOKEN_UNKNOWN);
	if (rc == 0)
		rc = attnquant_vocab_set(vocab, 1, "<s>", 3, 0, TOKEN_CONTROL);
	if (rc == 0)
		rc = attnquant_vocab_set(vocab, 2, "</s>", 4, 0, TOKEN_CONTROL);
	for (uint32_t byte = 0; rc == 0 && byte < BYTES; byte++) {
		snprintf(text, sizeof(text), "<0x%02X>", byte);
		rc = attnquant_vocab_set(vocab, SPECIALS + byte, text, 6, 0, TOKEN_BYTE);
	}
	for (uint32_t id = FIRST_TEXT; rc == 0 && id < vocab->count; id++) {
		int len = word(text, sizeof(text), id - FIRST_TEXT);

		rc = attnquant_vocab_set(
			vocab, id, text, (size_t)len, -(float)(id - FIRST_TEXT), TOKEN_NORMAL);
	}
	vocab->unknown = 0;
	vocab->bos = 1;
	vocab->eos = 2;
	vocab->add_bos = true;
	vocab->add_space_prefix = true;
	return rc;
}

/* ---- its numbers --------------------------------------------------------------------------------------- */

/* About normal with deviation 1: four uniform 16-bit numbers of one draw, less their mean. */
static float normal(uint64_t *random)
{
	uint64_t bits = base_rand_next(random);
	float sum = (float)(bits & 0xffff) + (float)(bits >> 16 & 0xffff) + (float)(bits >> 32 & 0xffff) +
		(float)(bits >> 48);

	return (sum / 65536 - 2) * 1.7320508f;
}

static uint32_t chunk_elements(enum kern_type type)
{
	uint32_t block = kern_type_info(type)->block_elements;

	return block > CHUNK_ELEMENTS ? block : CHUNK_ELEMENTS;
}

static int fill_pool(struct maker *maker, struct pool *pool, enum kern_type type, uint64_t columns)
{
	uint32_t elements = chunk_elements(type);
	float size = 1 / sqrtf((float)columns), values[256];
	int rc = 0;

	*pool = (struct pool){ .type = type, .columns = columns, .chunks = POOL_ELEMENTS / elements };
	pool->chunk_bytes = (uint32_t)kern_row_bytes(type, elements);
	pool->bytes = malloc((size_t)pool->chunks * pool->chunk_bytes);
	if (!pool->bytes)
		return base_fail(ENOMEM, "no memory for a pool of random weights");
	for (uint32_t chunk = 0; rc == 0 && chunk < pool->chunks; chunk++) {
		for (uint32_t i = 0; i < elements; i++)
			values[i] = size * normal(&maker->random);
		rc = kern_quantize_row(type, values, pool->bytes + (size_t)chunk * pool->chunk_bytes, elements);
	}
	return rc < 0 ? base_fail(-rc, "random weights cannot become %s", kern_type_info(type)->name) : 0;
}

/* *found: the pool for rows of this kind, made where there is none yet. */
static int find_pool(struct maker *maker, enum kern_type type, uint64_t columns, const struct pool **found)
{
	struct pool *pool;
	int rc;

	for (uint32_t i = 0; i < maker->pool_count; i++)
		if (maker->pools[i].type == type && maker->pools[i].columns == columns) {
			*found = &maker->pools[i];
			return 0;
		}
	if (maker->pool_count == POOLS_MAX)
		return base_fail(ENOSPC, "more than %d kinds of rows", POOLS_MAX);
	pool = &maker->pools[maker->pool_count++];
	rc = fill_pool(maker, pool, type, columns);
	*found = pool;
	return rc;
}

/* Only formats without blocks have rows that end inside a chunk. */
static void draw_row(struct maker *maker, const struct pool *pool, size_t row_bytes)
{
	for (size_t at = 0; at < row_bytes; at += pool->chunk_bytes) {
		uint64_t chunk = base_rand_below(&maker->random, pool->chunks);
		size_t left = row_bytes - at;

		memcpy(maker->row + at, pool->bytes + chunk * pool->chunk_bytes,
			left < pool->chunk_bytes ? left : pool->chunk_bytes);
	}
}

/* ---- its tensors --------------------------------------------------------------------------------------- */

static void add_tensor(struct maker *maker, int layer, const char *name, enum kern_type type, uint64_t columns,
	uint64_t rows)
{
	struct attnquant_tensor *tensor = attnquant_tensors_add(&maker->tensors);

	if (layer >= 0)
		snprintf(tensor->name, sizeof(tensor->name), "blk.%d.%s", layer, name);
	else
		snprintf(tensor->name, sizeof(tensor->name), "%s", name);
	tensor->dims = rows ? 2 : 1;
	tensor->dim[0] = columns;
	tensor->dim[1] = rows;
	if (kern_row_bytes(type, columns) == 0)
		type = kern_row_bytes(KERN_Q8_0, columns) > 0 ? KERN_Q8_0 : KERN_F16;
	tensor->from = tensor->to = rows ? type : KERN_F32;
}

static enum kern_type output_type(const struct maker *maker)
{
	if (maker->output_type != KERN_TYPE_END)
		return maker->output_type;
	return kern_row_bytes(maker->type, 256) < kern_row_bytes(KERN_Q6_K, 256) ? KERN_Q6_K : maker->type;
}

static void add_tensors(struct maker *maker)
{
	const struct shape *shape = &maker->shape;
	uint64_t width = shape->width, ff = shape->ff_width;
	uint64_t q_width = (uint64_t)shape->heads * shape->head_dim, kv_width = (uint64_t)shape->kv_heads * shape->head_dim;

	add_tensor(maker, -1, "token_embd.weight", shape->tied ? output_type(maker) : maker->type, width, shape->vocab);
	for (int layer = 0; layer < (int)shape->layers; layer++) {
		add_tensor(maker, layer, "attn_norm.weight", KERN_F32, width, 0);
		add_tensor(maker, layer, "attn_q.weight", maker->type, width, q_width);
		add_tensor(maker, layer, "attn_k.weight", maker->type, width, kv_width);
		add_tensor(maker, layer, "attn_v.weight", maker->type, width, kv_width);
		add_tensor(maker, layer, "attn_output.weight", maker->type, q_width, width);
		add_tensor(maker, layer, "ffn_norm.weight", KERN_F32, width, 0);
		add_tensor(maker, layer, "ffn_gate.weight", maker->type, width, ff);
		add_tensor(maker, layer, "ffn_up.weight", maker->type, width, ff);
		add_tensor(maker, layer, "ffn_down.weight", maker->type, ff, width);
	}
	add_tensor(maker, -1, "output_norm.weight", KERN_F32, width, 0);
	if (!shape->tied)
		add_tensor(maker, -1, "output.weight", output_type(maker), width, shape->vocab);
}

/* Norms: gains around one. */
static int write_gain(struct maker *maker, struct model_gguf_writer *writer, uint64_t count)
{
	float *gain = (float *)(void *)maker->row;

	for (uint64_t i = 0; i < count; i++)
		gain[i] = 1 + 0.1f * normal(&maker->random);
	return model_gguf_writer_data(writer, gain, count * sizeof(*gain));
}

static int write_tensor(struct maker *maker, const struct attnquant_tensor *tensor, struct model_gguf_writer *writer,
	struct attnquant_progress *progress, uint64_t *done)
{
	size_t row_bytes = kern_row_bytes(tensor->to, tensor->dim[0]);
	const struct pool *pool = NULL;
	int rc;

	if (tensor->dims == 1)
		return write_gain(maker, writer, tensor->dim[0]);
	rc = find_pool(maker, tensor->to, tensor->dim[0], &pool);
	for (uint64_t row = 0; rc == 0 && row < tensor->dim[1]; row++) {
		draw_row(maker, pool, row_bytes);
		rc = model_gguf_writer_data(writer, maker->row, row_bytes);
		*done += row_bytes;
		attnquant_progress_at(progress, *done);
	}
	return rc;
}

static uint64_t total_bytes(const struct attnquant_tensors *tensors)
{
	uint64_t total = 0;

	for (uint32_t i = 0; i < tensors->count; i++)
		total += kern_row_bytes(tensors->list[i].to, tensors->list[i].dim[0]) *
			(tensors->list[i].dims == 1 ? 1 : tensors->list[i].dim[1]);
	return total;
}

static int write_tensors(struct maker *maker, struct model_gguf_writer *writer)
{
	const struct attnquant_tensors *tensors = &maker->tensors;
	struct attnquant_progress progress;
	uint64_t longest = 1, done = 0;
	int rc = 0;

	for (uint32_t i = 0; i < tensors->count; i++)
		longest = tensors->list[i].dim[0] > longest ? tensors->list[i].dim[0] : longest;
	maker->row = malloc(longest * sizeof(float));
	if (!maker->row)
		return base_fail(ENOMEM, "no memory for rows of %" PRIu64 " elements", longest);
	attnquant_progress_begin(&progress, "writing", total_bytes(tensors));
	for (uint32_t i = 0; rc == 0 && i < tensors->count; i++)
		rc = write_tensor(maker, &tensors->list[i], writer, &progress, &done);
	attnquant_progress_end(&progress);
	return rc;
}

/* ---- the file ------------------------------------------------------------------------------------------ */

static void put_keys(const struct maker *maker, struct model_gguf_writer *writer)
{
	const struct shape *shape = &maker->shape;
	char name[96];
	int len = snprintf(name, sizeof(name), "random-%s-%s-%" PRIu64, shape->name, kern_type_info(maker->type)->name,
		maker->seed);

	model_gguf_put_text(writer, "general.architecture", "llama", 5);
	model_gguf_put_text(writer, "general.name", name, (size_t)len);
	model_gguf_put_u32(writer, "general.file_type", attnquant_file_type(maker->type));
	model_gguf_put_u32(writer, "general.quantization_version", 2);
	model_gguf_put_u32(writer, "llama.vocab_size", shape->vocab);
	model_gguf_put_u32(writer, "llama.context_length", shape->context);
	model_gguf_put_u32(writer, "llama.embedding_length", shape->width);
	model_gguf_put_u32(writer, "llama.block_count", shape->layers);
	model_gguf_put_u32(writer, "llama.feed_forward_length", shape->ff_width);
	model_gguf_put_u32(writer, "llama.attention.head_count", shape->heads);
	model_gguf_put_u32(writer, "llama.attention.head_count_kv", shape->kv_heads);
	model_gguf_put_u32(writer, "llama.attention.key_length", shape->head_dim);
	model_gguf_put_u32(writer, "llama.attention.value_length", shape->head_dim);
	model_gguf_put_f32(writer, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
	model_gguf_put_u32(writer, "llama.rope.dimension_count", shape->head_dim);
	model_gguf_put_f32(writer, "llama.rope.freq_base", 10000);
	attnquant_vocab_put(&maker->vocab, writer);
}

static int write_file(struct maker *maker)
{
	struct model_gguf_writer *writer;
	char size[TOOL_NUMBER_BYTES];
	int rc = model_gguf_writer_create(&writer, maker->out);

	if (rc < 0)
		return rc;
	add_tensors(maker);
	put_keys(maker, writer);
	attnquant_tensors_put(&maker->tensors, writer);
	rc = model_gguf_writer_begin(writer);
	if (rc == 0)
		rc = write_tensors(maker, writer);
	if (rc == 0)
		rc = model_gguf_writer_finish(writer);
	model_gguf_writer_destroy(writer);
	if (rc == 0)
		printf("%s: %" PRIu32 " tensors, %s of weights\n", maker->out, maker->tensors.count,
			tool_bytes(size, total_bytes(&maker->tensors)));
	return rc;
}

static void free_maker(struct maker *maker)
{
	for (uint32_t i = 0; i < maker->pool_count; i++)
		free(maker->pools[i].bytes);
	free(maker->row);
	attnquant_tensors_free(&maker->tensors);
	attnquant_vocab_free(&maker->vocab);
}

static const struct argp random_argp = {
	.options = options,
	.parser = parse,
	.doc = "Makes a llama of random weights in the shape of a known model, to measure speed without a download. Other "
	       "programs that read GGUF take it, too.",
};

int attnquant_random_command(int argc, char **argv)
{
	struct maker maker = { .seed = 1, .type = KERN_Q8_0, .output_type = KERN_TYPE_END };
	struct request request = { .maker = &maker, .base = &shapes[0] };
	int rc;

	tool_args_parse(&random_argp, argc, argv, &request);
	maker.random = base_mix64(maker.seed + 1);
	rc = make_vocab(&maker);
	if (rc == 0)
		rc = write_file(&maker);
	free_maker(&maker);
	if (rc < 0)
		tool_die(TOOL_FAILED, "%s", base_error_message());
	return TOOL_OK;
}
