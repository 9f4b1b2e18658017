/*
 * The forward pass of the llama family as a program: Llama, SmolLM2, Mistral, Qwen2 (biases on q, k, v), Qwen3 (norms on
 * each head of q and k). What a file's tensors say beyond the architecture's name is followed: biases and norms are
 * used where they are. Control thread, at load.
 *
 *   x = embedding
 *   each layer:  q|k|v = norm(x) Wqkv;  x += attention(q|k|v) Wo;  x += (silu(norm(x) Wgate) * norm(x) Wup) Wdown
 *   hidden = norm(x);  logits = hidden Wout
 *
 * Only output rows are of interest after the last attention, so SELECT stands before the last feed-forward part.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_assert.h"
#include "base/base_error.h"
#include "model/model_internal.h"

enum slot { SLOT_X, SLOT_NORMED, SLOT_QKV, SLOT_HEADS, SLOT_GATE, SLOT_UP, SLOT_OUT, SLOT_COUNT };

enum { OPS_PER_LAYER_MAX = 14, OPS_AROUND = 6 };

struct builder {
	struct model_loader *loader;
	const struct model_shape *shape;
	struct kern_op *ops;
	uint32_t op_count, op_room;
	uint8_t x; /* the slot of the residual stream: SLOT_X, after SELECT SLOT_OUT */
};

static struct kern_op *add(struct builder *builder, enum kern_op_kind kind, uint8_t src, uint8_t dst)
{
	struct kern_op *op = &builder->ops[builder->op_count++];

	BASE_ASSERT(builder->op_count <= builder->op_room);
	*op = (struct kern_op){ .kind = kind, .src = src, .dst = dst };
	return op;
}

/* layer < 0: a name outside of the layers. */
static struct model_part part(int layer, const char *name, uint32_t n)
{
	struct model_part made = { .n = n };

	if (layer < 0)
		snprintf(made.name, sizeof(made.name), "%s", name);
	else
		snprintf(made.name, sizeof(made.name), "blk.%d.%s", layer, name);
	return made;
}

static bool has(const struct builder *builder, int layer, const char *name)
{
	return model_gguf_tensor(builder->loader->gguf, part(layer, name, 0).name) != NULL;
}

static int add_norm(struct builder *builder, int layer, const char *name, uint8_t src, uint8_t dst)
{
	struct model_part gain = part(layer, name, builder->shape->width);
	struct kern_op *op = add(builder, KERN_OP_RMSNORM, src, dst);

	op->f0 = builder->shape->epsilon;
	return model_load_vector(builder->loader, &gain, 1, &op->gain);
}

static int add_matmul(struct builder *builder, int layer, const char *name, uint32_t n, uint32_t k, uint8_t src,
	uint8_t dst)
{
	struct model_part matrix = part(layer, name, n);
	struct kern_op *op = add(builder, KERN_OP_MATMUL, src, dst);

	return model_load_matrix(builder->loader, &matrix, 1, k, &op->weight);
}

/* ---- attention -------------------------------------------------------------------------------------------- */

static void qkv_parts(const struct builder *builder, int layer, const char *kind, struct model_part parts[3])
{
	static const char *const letters[3] = { "q", "k", "v" };
	const struct model_shape *shape = builder->shape;

	for (int i = 0; i < 3; i++) {
		char name[32];

		snprintf(name, sizeof(name), "attn_%s.%s", letters[i], kind);
		parts[i] = part(layer, name, (i == 0 ? shape->heads : shape->kv_heads) * shape->head_dim);
	}
}

static bool same_types(const struct builder *builder, const struct model_part parts[3])
{
	const struct model_gguf_tensor *first = model_gguf_tensor(builder->loader->gguf, parts[0].name);

	for (int i = 1; i < 3; i++) {
		const struct model_gguf_tensor *other = model_gguf_tensor(builder->loader->gguf, parts[i].name);

		if (first && other && other->type != first->type)
			return false;
	}
	return true;
}

/* One product into q|k|v where the three matrices have one type; else three, each to its columns. */
static int add_qkv(struct builder *builder, int layer)
{
	struct model_part weights[3], biases[3];
	const float *bias = NULL;
	bool fused;
	int rc = 0;

	qkv_parts(builder, layer, "weight", weights);
	qkv_parts(builder, layer, "bias", biases);
	if (has(builder, layer, "attn_q.bias") || strcmp(builder->loader->model->info.architecture, "qwen2") == 0)
		rc = model_load_vector(builder->loader, biases, 3, &bias);
	fused = same_types(builder, weights);
	for (uint32_t i = 0, column = 0; rc == 0 && i < (fused ? 1 : 3); column += weights[i++].n) {
		struct kern_op *op = add(builder, KERN_OP_MATMUL, SLOT_NORMED, SLOT_QKV);

		op->u0 = column;
		op->bias = bias ? bias + column : NULL;
		rc = model_load_matrix(builder->loader, &weights[i], fused ? 3 : 1, builder->shape->width, &op->weight);
	}
	return rc;
}

/* Qwen3: each head of q, then each head of k. */
static int add_head_norms(struct builder *builder, int layer)
{
	const struct model_shape *shape = builder->shape;
	const struct { const char *name; uint32_t first, count; } norms[2] = {
		{ "attn_q_norm.weight", 0, shape->heads },
		{ "attn_k_norm.weight", shape->heads, shape->kv_heads },
	};
	int rc = 0;

	if (!has(builder, layer, norms[0].name) && strcmp(builder->loader->model->info.architecture, "qwen3") != 0)
		return 0;
	for (int i = 0; rc == 0 && i < 2; i++) {
		struct model_part gain = part(layer, norms[i].name, shape->head_dim);
		struct kern_op *op = add(builder, KERN_OP_HEADNORM, SLOT_QKV, SLOT_QKV);

		op->u0 = shape->head_dim;
		op->u1 = norms[i].first;
		op->u2 = norms[i].count;
		op->f0 = shape->epsilon;
		rc = model_load_vector(builder->loader, &gain, 1, &op->gain);
	}
	return rc;
}

static int add_attention(struct builder *builder, int layer)
{
	const struct model_shape *shape = builder->shape;
	struct kern_op *op;
	int rc = add_norm(builder, layer, "attn_norm.weight", SLOT_X, SLOT_NORMED);

	if (rc == 0)
		rc = add_qkv(builder, layer);
	if (rc == 0)
		rc = add_head_norms(builder, layer);
	if (rc < 0)
		return rc;
	op = add(builder, KERN_OP_ATTENTION, SLOT_QKV, SLOT_HEADS);
	op->u0 = (uint32_t)layer;
	op->u1 = shape->rope;
	op->u2 = shape->rotated;
	op->f0 = shape->attention_scale;
	op->window = shape->window;
	rc = add_matmul(builder, layer, "attn_output.weight", shape->width, shape->heads * shape->head_dim, SLOT_HEADS,
		SLOT_X);
	op = &builder->ops[builder->op_count - 1];
	op->add = true;
	if (rc == 0 && has(builder, layer, "attn_output.bias")) {
		struct model_part bias = part(layer, "attn_output.bias", shape->width);

		rc = model_load_vector(builder->loader, &bias, 1, &op->bias);
	}
	return rc;
}

/* ---- the rest --------------------------------------------------------------------------------------------- */

static int add_feed_forward(struct builder *builder, int layer)
{
	const struct model_shape *shape = builder->shape;
	int rc = add_norm(builder, layer, "ffn_norm.weight", builder->x, SLOT_NORMED);

	if (rc == 0)
		rc = add_matmul(builder, layer, "ffn_gate.weight", shape->ff_width, shape->width, SLOT_NORMED, SLOT_GATE);
	if (rc == 0)
		rc = add_matmul(builder, layer, "ffn_up.weight", shape->ff_width, shape->width, SLOT_NORMED, SLOT_UP);
	if (rc < 0)
		return rc;
	add(builder, KERN_OP_SILU_MUL, SLOT_GATE, SLOT_GATE)->src2 = SLOT_UP;
	rc = add_matmul(builder, layer, "ffn_down.weight", shape->width, shape->ff_width, SLOT_GATE, builder->x);
	builder->ops[builder->op_count - 1].add = true;
	return rc;
}

static int add_layer(struct builder *builder, uint32_t layer)
{
	int rc = add_attention(builder, (int)layer);

	if (rc < 0)
		return rc;
	if (layer + 1 == builder->shape->layers) {
		add(builder, KERN_OP_SELECT, SLOT_X, SLOT_OUT);
		builder->x = SLOT_OUT;
	}
	return add_feed_forward(builder, (int)layer);
}

static int add_all(struct builder *builder)
{
	const struct model_shape *shape = builder->shape;
	struct model_part table = part(-1, "token_embd.weight", shape->vocab);
	struct model_part output = part(-1, "output.weight", shape->vocab);
	struct kern_op *embed = add(builder, KERN_OP_EMBED, SLOT_X, SLOT_X), *logits;
	int rc = model_load_matrix(builder->loader, &table, 1, shape->width, &embed->weight);

	embed->f0 = 1;
	for (uint32_t layer = 0; rc == 0 && layer < shape->layers; layer++)
		rc = add_layer(builder, layer);
	if (rc == 0)
		rc = add_norm(builder, -1, "output_norm.weight", builder->x, SLOT_NORMED);
	if (rc < 0)
		return rc;
	add(builder, KERN_OP_HIDDEN, SLOT_NORMED, SLOT_NORMED);
	logits = add(builder, KERN_OP_LOGITS, SLOT_NORMED, SLOT_NORMED);
	logits->weight = embed->weight; /* tied, unless the file has a matrix of its own for the output */
	return has(builder, -1, output.name) ?
		model_load_matrix(builder->loader, &output, 1, shape->width, &logits->weight) : 0;
}

int model_llama_build(struct model_loader *loader)
{
	struct model *model = loader->model;
	const struct model_shape *shape = &model->shape;
	struct kern_program *program = &model->program;
	struct builder builder = { .loader = loader, .shape = shape, .x = SLOT_X };
	uint32_t heads_width = shape->heads * shape->head_dim;
	int rc;

	builder.op_room = shape->layers * OPS_PER_LAYER_MAX + OPS_AROUND;
	builder.ops = model->ops = calloc(builder.op_room, sizeof(*model->ops));
	if (!model->ops)
		return base_fail(ENOMEM, "no memory for a program of %" PRIu32 " layers", shape->layers);
	program->slot_count = SLOT_COUNT;
	program->slot_width[SLOT_X] = shape->width;
	program->slot_width[SLOT_NORMED] = shape->width;
	program->slot_width[SLOT_QKV] = heads_width + 2 * shape->kv_heads * shape->head_dim;
	program->slot_width[SLOT_HEADS] = heads_width;
	program->slot_width[SLOT_GATE] = shape->ff_width;
	program->slot_width[SLOT_UP] = shape->ff_width;
	program->slot_width[SLOT_OUT] = shape->width;
	rc = add_all(&builder);
	program->ops = model->ops;
	program->op_count = builder.op_count;
	return rc;
}
