/*
 * Converts llama2.c checkpoints (the legacy format: seven int32, then float32 arrays one after
 * the other). One thread. The header is not trusted: the file's size must be exactly what it
 * implies.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"
#include "tools/attnquant.h"
#include "tools/tool_text.h"

enum {
	LAYERS_MAX = 256,
	DIM_MAX = 1 << 16,
	VOCAB_MAX = 1 << 20,
	SEQUENCE_MAX = 1 << 24,
	MAGIC_V1 = 0x616b3432
};

struct shape {
	int32_t dim, hidden, layers, heads, kv_heads, vocab, sequence;
};

struct checkpoint {
	struct attnquant_file file;
	struct shape shape;
	bool tied;
	size_t at; /* of the next array */
};

static int check_range(const char *what, int32_t value, int32_t high)
{
	if (value < 1 || value > high)
		return base_fail(EBADMSG, "not a llama2.c checkpoint: %s is %" PRId32, what, value);
	return 0;
}

static int read_shape(struct checkpoint *checkpoint)
{
	struct shape *shape = &checkpoint->shape;
	int rc = 0;

	if (checkpoint->file.size < sizeof(*shape))
		return base_fail(EBADMSG, "too short for a llama2.c checkpoint");
	memcpy(shape, checkpoint->file.bytes, sizeof(*shape));
	checkpoint->at = sizeof(*shape);
	if (shape->dim == MAGIC_V1)
		return base_fail(ENOTSUP,
			"a llama2.c checkpoint of a newer version; export it with --version 0");
	checkpoint->tied = shape->vocab > 0;
	if (shape->vocab < 0 && shape->vocab > INT32_MIN)
		shape->vocab = -shape->vocab;
	if ((rc = check_range("the width", shape->dim, DIM_MAX)) < 0 ||
		(rc = check_range("the feed-forward width", shape->hidden, DIM_MAX)) < 0 ||
		(rc = check_range("the number of layers", shape->layers, LAYERS_MAX)) < 0 ||
		(rc = check_range("the number of heads", shape->heads, shape->dim)) < 0 ||
		(rc = check_range("the number of KV heads", shape->kv_heads, shape->heads)) < 0 ||
		(rc = check_range("the vocabulary", shape->vocab, VOCAB_MAX)) < 0 ||
		(rc = check_range("the context length", shape->sequence, SEQUENCE_MAX)) < 0)
		return rc;
	if (shape->dim % shape->heads != 0 || shape->heads % shape->kv_heads != 0 ||
		shape->dim / shape->heads % 2 != 0)
		return base_fail(EBADMSG,
			"not a llama2.c checkpoint: %" PRId32 " wide with %" PRId32
			" heads and %" PRId32 " KV heads",
			shape->dim, shape->heads, shape->kv_heads);
	return 0;
}

static uint64_t head_dim(const struct shape *shape)
{
	return (uint64_t)(shape->dim / shape->heads);
}

static uint64_t expected_bytes(const struct checkpoint *checkpoint)
{
	const struct shape *shape = &checkpoint->shape;
	uint64_t dim = (uint64_t)shape->dim, hidden = (uint64_t)shape->hidden;
	uint64_t kv = head_dim(shape) * (uint64_t)shape->kv_heads;
	uint64_t per_layer = 2 * dim + 2 * dim * dim + 2 * dim * kv + 3 * dim * hidden;
	uint64_t floats = (uint64_t)shape->vocab * dim * (checkpoint->tied ? 1 : 2) +
		(uint64_t)shape->layers * per_layer + dim +
		(uint64_t)shape->sequence * head_dim(shape);

	return sizeof(*shape) + 4 * floats;
}

/* The next array is one matrix (or vector: columns 0) for each of `count` layers. name has %d
 * where a layer goes. */
static void take(struct checkpoint *checkpoint, struct attnquant_tensors *tensors, const char *name,
	int32_t count, uint64_t rows, uint64_t columns)
{
	size_t bytes = 4 * rows * (columns ? columns : 1);

	for (int32_t layer = 0; layer < count; layer++) {
		struct attnquant_tensor *tensor = attnquant_tensors_add(tensors);

		if (count > 1 || strncmp(name, "attn", 4) == 0 || strncmp(name, "ffn", 3) == 0)
			snprintf(tensor->name, sizeof(tensor->name), "blk.%" PRId32 ".%s.weight",
				layer, name);
		else
			snprintf(tensor->name, sizeof(tensor->name), "%s.weight", name);
		tensor->dims = columns ? 2 : 1;
		tensor->dim[0] = columns ? columns : rows;
		tensor->dim[1] = rows;
		tensor->from = KERN_F32;
		tensor->data = checkpoint->file.bytes + checkpoint->at;
		checkpoint->at += bytes;
	}
}

static void take_all(struct checkpoint *checkpoint, struct attnquant_tensors *tensors)
{
	const struct shape *shape = &checkpoint->shape;
	uint64_t dim = (uint64_t)shape->dim, hidden = (uint64_t)shape->hidden,
		 vocab = (uint64_t)shape->vocab;
	uint64_t kv = head_dim(shape) * (uint64_t)shape->kv_heads;

	take(checkpoint, tensors, "token_embd", 1, vocab, dim);
	take(checkpoint, tensors, "attn_norm", shape->layers, dim, 0);
	take(checkpoint, tensors, "attn_q", shape->layers, dim, dim);
	take(checkpoint, tensors, "attn_k", shape->layers, kv, dim);
	take(checkpoint, tensors, "attn_v", shape->layers, kv, dim);
	take(checkpoint, tensors, "attn_output", shape->layers, dim, dim);
	take(checkpoint, tensors, "ffn_norm", shape->layers, dim, 0);
	take(checkpoint, tensors, "ffn_gate", shape->layers, hidden, dim);
	take(checkpoint, tensors, "ffn_down", shape->layers, dim, hidden);
	take(checkpoint, tensors, "ffn_up", shape->layers, hidden, dim);
	take(checkpoint, tensors, "output_norm", 1, dim, 0);
	checkpoint->at +=
		4 * (uint64_t)shape->sequence * head_dim(shape); /* tables of sines and cosines */
	if (!checkpoint->tied)
		take(checkpoint, tensors, "output", 1, vocab, dim);
}

static void put_keys(const struct checkpoint *checkpoint, const struct attnquant_convert *convert,
	struct model_gguf_writer *writer)
{
	const struct shape *shape = &checkpoint->shape;
	const char *name = convert->name ? convert->name : "llama2.c model";
	enum kern_type type = convert->type == KERN_TYPE_END ? KERN_F32 : convert->type;

	model_gguf_put_text(writer, "general.architecture", "llama", 5);
	model_gguf_put_text(writer, "general.name", name, strlen(name));
	model_gguf_put_u32(writer, "general.file_type", attnquant_file_type(type));
	model_gguf_put_u32(writer, "general.quantization_version", 2);
	model_gguf_put_u32(writer, "llama.vocab_size", (uint32_t)shape->vocab);
	model_gguf_put_u32(writer, "llama.context_length", (uint32_t)shape->sequence);
	model_gguf_put_u32(writer, "llama.embedding_length", (uint32_t)shape->dim);
	model_gguf_put_u32(writer, "llama.block_count", (uint32_t)shape->layers);
	model_gguf_put_u32(writer, "llama.feed_forward_length", (uint32_t)shape->hidden);
	model_gguf_put_u32(writer, "llama.attention.head_count", (uint32_t)shape->heads);
	model_gguf_put_u32(writer, "llama.attention.head_count_kv", (uint32_t)shape->kv_heads);
	model_gguf_put_f32(writer, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
	model_gguf_put_u32(writer, "llama.rope.dimension_count", (uint32_t)head_dim(shape));
	model_gguf_put_f32(writer, "llama.rope.freq_base", 10000.0f);
}

/* Given, or beside the checkpoint under a usual name, or none. */
static int find_tokenizer(const struct attnquant_convert *convert, struct attnquant_vocab *vocab)
{
	static const char *const usual[] = { "tokenizer.model", "tokenizer.bin" };
	char *folder;
	int rc = 0;

	if (convert->tokenizer)
		return attnquant_vocab_read(vocab, convert->tokenizer);
	folder = strdup(convert->in);
	if (!folder)
		tool_die(TOOL_FAILED, "out of memory");
	if (strrchr(folder, '/'))
		*strrchr(folder, '/') = '\0';
	else
		strcpy(folder, ".");
	for (size_t i = 0; rc == 0 && !vocab->model && i < sizeof(usual) / sizeof(*usual); i++) {
		char *path = attnquant_join(folder, usual[i]);

		if (attnquant_exists(path))
			rc = attnquant_vocab_read(vocab, path);
		free(path);
	}
	free(folder);
	if (rc == 0 && !vocab->model)
		tool_say(
			"no tokenizer given (--tokenizer), none beside the checkpoint: the file will take token ids only");
	return rc;
}

static int write_checkpoint(struct checkpoint *checkpoint, const struct attnquant_convert *convert,
	const struct attnquant_vocab *vocab)
{
	struct attnquant_tensors tensors = { 0 };
	struct model_gguf_writer *writer;
	int rc = model_gguf_writer_create(&writer, convert->out);

	if (rc < 0)
		return rc;
	take_all(checkpoint, &tensors);
	attnquant_tensors_choose(&tensors, convert->type);
	put_keys(checkpoint, convert, writer);
	attnquant_vocab_put(vocab, writer);
	attnquant_tensors_put(&tensors, writer);
	rc = attnquant_finish(writer, &tensors, convert->out);
	attnquant_tensors_free(&tensors);
	model_gguf_writer_destroy(writer);
	return rc;
}

int attnquant_convert_llama2c(const struct attnquant_convert *convert)
{
	struct checkpoint checkpoint = { 0 };
	struct attnquant_vocab vocab = { 0 };
	int rc = attnquant_file_open(&checkpoint.file, convert->in);

	if (rc < 0)
		return rc;
	rc = read_shape(&checkpoint);
	if (rc == 0 && checkpoint.file.size != expected_bytes(&checkpoint))
		rc = base_fail(EBADMSG,
			"not a llama2.c checkpoint: its header asks for %" PRIu64
			" bytes, it has %zu",
			expected_bytes(&checkpoint), checkpoint.file.size);
	if (rc < 0)
		rc = base_fail_within(-rc, "%s", convert->in);
	if (rc == 0)
		rc = find_tokenizer(convert, &vocab);
	if (rc == 0 && vocab.model && vocab.count != (uint32_t)checkpoint.shape.vocab)
		rc = base_fail(EINVAL,
			"the tokenizer has %" PRIu32 " tokens, the model %" PRId32
			": they do not belong "
			"together",
			vocab.count, checkpoint.shape.vocab);
	if (rc == 0)
		rc = write_checkpoint(&checkpoint, convert, &vocab);
	attnquant_vocab_free(&vocab);
	attnquant_file_close(&checkpoint.file);
	return rc;
}
