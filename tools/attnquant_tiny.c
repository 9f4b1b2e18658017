/*
 * attnquant make-tiny: a small llama (or qwen2, qwen3) model made of random numbers, the same
 * for the same seed, so that everything can be shown and tested without a download. One thread.
 *
 * It is not quite random: the output matrix answers each word of a fixed sentence with the next
 * one, so that greedy generation recites the sentence. Every other token is embedded near one
 * shared direction, which the output matrix answers with the first word. The layers in between
 * add noise that is too small to change the words, but large enough that every operation shows
 * in the logits.
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
	WIDTH = 128,
	LAYERS = 4,
	HEADS = 4,
	KV_HEADS = 2,
	HEAD_DIM = 32,
	FF_WIDTH = 384,
	CONTEXT = 2048,
	SPECIALS = 3,
	BYTES = 256,
	FIRST_TEXT = SPECIALS + BYTES
};

static const char *const sentence[] = {
	"This",
	"small",
	"model",
	"was",
	"made",
	"by",
	"attnquant",
	"from",
	"random",
	"numbers;",
	"it",
	"knows",
	"only",
	"one",
	"sentence,",
	"yet",
	"every",
	"part",
	"of",
	"the",
	"machine",
	"works",
	"to",
	"say",
	"it.",
};

enum { WORDS = sizeof(sentence) / sizeof(sentence[0]) };

static const char *const architectures[] = { "llama", "qwen2", "qwen3", NULL };

struct tiny {
	const char *out;
	uint64_t seed;
	const char *architecture;
	enum kern_type type;
	struct attnquant_vocab vocab;
	uint32_t word_ids[WORDS];
	uint64_t random;
	struct attnquant_tensors tensors;
};

static const struct argp_option options[] = {
	{ "output", 'o', "OUT.gguf", 0, "the file to write (required)", 0 },
	{ "seed", 's', "N", 0, "of the random numbers (default 1)", 0 },
	{ "architecture", 'a', "NAME", 0, "llama (default), qwen2 or qwen3", 0 },
	{ "type", 'T', "TYPE", 0, "store matrices as TYPE (default F32)", 0 },
	{ 0 },
};

static error_t parse(int key, char *value, struct argp_state *state)
{
	struct tiny *tiny = state->input;

	switch (key) {
	case 'o':
		tiny->out = value;
		return 0;
	case 's':
		tiny->seed = tool_args_u64("--seed", value, 0, UINT64_MAX);
		return 0;
	case 'a':
		tiny->architecture =
			architectures[tool_args_choice("--architecture", value, architectures)];
		return 0;
	case 'T':
		tiny->type = attnquant_type_argument(value);
		return 0;
	case ARGP_KEY_END:
		if (!tiny->out)
			argp_error(state, "make-tiny needs -o OUT.gguf");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* ---- its words ----------------------------------------------------------------------------------------- */

/* The id of a piece, which is added where it is new. Earlier pieces have better scores. */
static int piece(struct attnquant_vocab *vocab, const char *bytes, size_t len, uint32_t *id)
{
	int rc;

	for (*id = FIRST_TEXT; *id < vocab->count; ++*id)
		if (vocab->tokens[*id].len == len &&
			memcmp(vocab->tokens[*id].bytes, bytes, len) == 0)
			return 0;
	rc = attnquant_vocab_grow(vocab, *id + 1);
	if (rc < 0)
		return rc;
	return attnquant_vocab_set(
		vocab, *id, bytes, len, -(float)(*id - FIRST_TEXT), TOKEN_NORMAL);
}

/* SentencePiece merges neighbours, so a word is reached through all its beginnings. */
static int add_word(struct tiny *tiny, uint32_t word)
{
	char text[64];
	int len = snprintf(text, sizeof(text), "\xe2\x96\x81%s", sentence[word]), rc = 0;

	for (int part = 3; rc == 0 && part <= len; part++)
		rc = piece(&tiny->vocab, text, (size_t)part, &tiny->word_ids[word]);
	return rc;
}

static int make_vocab(struct tiny *tiny)
{
	struct attnquant_vocab *vocab = &tiny->vocab;
	char name[8];
	int rc;

	attnquant_vocab_init(vocab, "llama", "default");
	rc = attnquant_vocab_grow(vocab, FIRST_TEXT);
	if (rc < 0)
		return rc;
	attnquant_vocab_set(vocab, 0, "<unk>", 5, 0, TOKEN_UNKNOWN);
	attnquant_vocab_set(vocab, 1, "<s>", 3, 0, TOKEN_CONTROL);
	attnquant_vocab_set(vocab, 2, "</s>", 4, 0, TOKEN_CONTROL);
	for (uint32_t byte = 0; byte < BYTES; byte++) {
		snprintf(name, sizeof(name), "<0x%02X>", byte);
		attnquant_vocab_set(vocab, SPECIALS + byte, name, 6, 0, TOKEN_BYTE);
	}
	for (uint32_t word = 0; rc == 0 && word < WORDS; word++)
		rc = add_word(tiny, word);
	vocab->unknown = 0;
	vocab->bos = 1;
	vocab->eos = 2;
	vocab->add_bos = true;
	vocab->add_space_prefix = true;
	return rc;
}

/* ---- its numbers --------------------------------------------------------------------------------------- */

/* About normal with deviation 1: twelve uniform numbers, less their mean. */
static float normal(struct tiny *tiny)
{
	double sum = -6;

	for (int i = 0; i < 12; i++)
		sum += (double)(base_rand_next(&tiny->random) >> 11) * 0x1p-53;
	return (float)sum;
}

/* layer < 0: not of a layer. rows 0: a vector. */
static float *add_tensor(
	struct tiny *tiny, int layer, const char *name, uint64_t columns, uint64_t rows)
{
	struct attnquant_tensor *tensor = attnquant_tensors_add(&tiny->tensors);
	float *data = malloc(columns * (rows ? rows : 1) * sizeof(*data));

	if (!data)
		tool_die(TOOL_FAILED, "out of memory");
	if (layer >= 0)
		snprintf(tensor->name, sizeof(tensor->name), "blk.%d.%s", layer, name);
	else
		snprintf(tensor->name, sizeof(tensor->name), "%s", name);
	tensor->dims = rows ? 2 : 1;
	tensor->dim[0] = columns;
	tensor->dim[1] = rows;
	tensor->from = KERN_F32;
	tensor->data = data;
	return data;
}

static void add_noise(
	struct tiny *tiny, int layer, const char *name, uint64_t columns, uint64_t rows, float size)
{
	float *data = add_tensor(tiny, layer, name, columns, rows);

	for (uint64_t i = 0; i < columns * (rows ? rows : 1); i++)
		data[i] = size * normal(tiny);
}

static void add_gain(struct tiny *tiny, int layer, const char *name, uint64_t count)
{
	float *data = add_tensor(tiny, layer, name, count, 0);

	for (uint64_t i = 0; i < count; i++)
		data[i] = 1 + 0.1f * normal(tiny);
}

static void add_layer(struct tiny *tiny, int layer)
{
	float in_size = 1 / sqrtf(WIDTH), ff_size = 1 / sqrtf(FF_WIDTH);

	add_gain(tiny, layer, "attn_norm.weight", WIDTH);
	add_noise(tiny, layer, "attn_q.weight", WIDTH, HEADS * HEAD_DIM, in_size);
	add_noise(tiny, layer, "attn_k.weight", WIDTH, KV_HEADS * HEAD_DIM, in_size);
	add_noise(tiny, layer, "attn_v.weight", WIDTH, KV_HEADS * HEAD_DIM, in_size);
	if (strcmp(tiny->architecture, "qwen2") == 0) {
		add_noise(tiny, layer, "attn_q.bias", HEADS * HEAD_DIM, 0, 0.5f);
		add_noise(tiny, layer, "attn_k.bias", KV_HEADS * HEAD_DIM, 0, 0.5f);
		add_noise(tiny, layer, "attn_v.bias", KV_HEADS * HEAD_DIM, 0, 0.1f);
	}
	if (strcmp(tiny->architecture, "qwen3") == 0) {
		add_gain(tiny, layer, "attn_q_norm.weight", HEAD_DIM);
		add_gain(tiny, layer, "attn_k_norm.weight", HEAD_DIM);
	}
	add_noise(tiny, layer, "attn_output.weight", HEADS * HEAD_DIM, WIDTH, 0.15f * in_size);
	add_gain(tiny, layer, "ffn_norm.weight", WIDTH);
	add_noise(tiny, layer, "ffn_gate.weight", WIDTH, FF_WIDTH, in_size);
	add_noise(tiny, layer, "ffn_up.weight", WIDTH, FF_WIDTH, in_size);
	add_noise(tiny, layer, "ffn_down.weight", FF_WIDTH, WIDTH, 0.15f * ff_size);
}

static void add_row(float *to, const float *from, float factor)
{
	for (int i = 0; i < WIDTH; i++)
		to[i] += factor * from[i];
}

/* Embeddings of length about sqrt(WIDTH); the output matrix answers each with what follows it. */
static void add_tables(struct tiny *tiny)
{
	uint32_t count = tiny->vocab.count;
	float *embedding = add_tensor(tiny, -1, "token_embd.weight", WIDTH, count);
	float *output = add_tensor(tiny, -1, "output.weight", WIDTH, count);
	float shared[WIDTH], answer = 24.0f / WIDTH;

	for (int i = 0; i < WIDTH; i++)
		shared[i] = normal(tiny);
	for (uint64_t i = 0; i < (uint64_t)count * WIDTH; i++) {
		embedding[i] = 0.5f * normal(tiny);
		output[i] = 0.02f * normal(tiny);
	}
	for (uint32_t id = 0; id < count; id++)
		add_row(embedding + (size_t)id * WIDTH, shared, 0.85f);
	for (uint32_t word = 0; word < WORDS; word++) {
		float *row = embedding + (size_t)tiny->word_ids[word] * WIDTH;
		uint32_t next =
			word + 1 < WORDS ? tiny->word_ids[word + 1] : (uint32_t)tiny->vocab.eos;

		for (int i = 0; i < WIDTH; i++)
			row[i] = normal(tiny);
		add_row(output + (size_t)next * WIDTH, row, answer);
	}
	add_row(output + (size_t)tiny->word_ids[0] * WIDTH, shared, answer);
}

/* ---- the file ------------------------------------------------------------------------------------------ */

static void put_u32(
	struct tiny *tiny, struct model_gguf_writer *writer, const char *name, uint32_t value)
{
	char key[96];

	snprintf(key, sizeof(key), "%s.%s", tiny->architecture, name);
	model_gguf_put_u32(writer, key, value);
}

static void put_f32(
	struct tiny *tiny, struct model_gguf_writer *writer, const char *name, float value)
{
	char key[96];

	snprintf(key, sizeof(key), "%s.%s", tiny->architecture, name);
	model_gguf_put_f32(writer, key, value);
}

static void put_keys(struct tiny *tiny, struct model_gguf_writer *writer)
{
	char name[64];
	int len = snprintf(name, sizeof(name), "tiny-%s-%" PRIu64, tiny->architecture, tiny->seed);

	model_gguf_put_text(
		writer, "general.architecture", tiny->architecture, strlen(tiny->architecture));
	model_gguf_put_text(writer, "general.name", name, (size_t)len);
	model_gguf_put_u32(writer, "general.file_type",
		attnquant_file_type(tiny->type == KERN_TYPE_END ? KERN_F32 : tiny->type));
	model_gguf_put_u32(writer, "general.quantization_version", 2);
	put_u32(tiny, writer, "vocab_size", tiny->vocab.count);
	put_u32(tiny, writer, "context_length", CONTEXT);
	put_u32(tiny, writer, "embedding_length", WIDTH);
	put_u32(tiny, writer, "block_count", LAYERS);
	put_u32(tiny, writer, "feed_forward_length", FF_WIDTH);
	put_u32(tiny, writer, "attention.head_count", HEADS);
	put_u32(tiny, writer, "attention.head_count_kv", KV_HEADS);
	put_u32(tiny, writer, "attention.key_length", HEAD_DIM);
	put_u32(tiny, writer, "attention.value_length", HEAD_DIM);
	put_f32(tiny, writer, "attention.layer_norm_rms_epsilon", 1e-5f);
	put_u32(tiny, writer, "rope.dimension_count", HEAD_DIM);
	put_f32(tiny, writer, "rope.freq_base", 10000);
	attnquant_vocab_put(&tiny->vocab, writer);
}

static int write_tiny(struct tiny *tiny)
{
	struct model_gguf_writer *writer;
	int rc = model_gguf_writer_create(&writer, tiny->out);

	if (rc < 0)
		return rc;
	add_tables(tiny);
	for (int layer = 0; layer < LAYERS; layer++)
		add_layer(tiny, layer);
	add_gain(tiny, -1, "output_norm.weight", WIDTH);
	attnquant_tensors_choose(&tiny->tensors, tiny->type);
	put_keys(tiny, writer);
	attnquant_tensors_put(&tiny->tensors, writer);
	rc = attnquant_finish(writer, &tiny->tensors, tiny->out);
	for (uint32_t i = 0; i < tiny->tensors.count; i++)
		free((void *)(uintptr_t)tiny->tensors.list[i].data);
	attnquant_tensors_free(&tiny->tensors);
	model_gguf_writer_destroy(writer);
	return rc;
}

static const struct argp tiny_argp = {
	.options = options,
	.parser = parse,
	.doc = "Makes a tiny model of random numbers, with a tokenizer, for demonstrations and tests without a download. "
	       "It recites one sentence.",
};

int attnquant_tiny_command(int argc, char **argv)
{
	struct tiny tiny = { .seed = 1, .architecture = "llama", .type = KERN_TYPE_END };
	int rc;

	tool_args_parse(&tiny_argp, argc, argv, &tiny);
	tiny.random = base_mix64(tiny.seed + 1);
	rc = make_vocab(&tiny);
	if (rc == 0)
		rc = write_tiny(&tiny);
	attnquant_vocab_free(&tiny.vocab);
	if (rc < 0)
		tool_die(TOOL_FAILED, "%s", base_error_message());
	return TOOL_OK;
}
