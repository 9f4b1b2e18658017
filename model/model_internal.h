/*
 * What the parts of the model loader share: model.c takes a file to a loaded model, model_shape.c reads and checks the
 * hyper-parameters, model_llama.c writes the forward pass.
 *
 * Control thread, at load.
 */
#ifndef MODEL_INTERNAL_H
#define MODEL_INTERNAL_H

#include "model/model.h"

/* Limits on what a file may ask for; each is far above the models that this program is for. */
enum {
	MODEL_LAYERS_MAX = 256,
	MODEL_HEADS_MAX = 256,
	MODEL_HEAD_DIM_MAX = 256, /* the attention kernels' largest */
	MODEL_HEAD_DIM_STEP = 8,
	MODEL_WIDTH_MAX = 1 << 16,
	MODEL_FF_WIDTH_MAX = 1 << 18,
	MODEL_VOCAB_MAX = 1 << 20,
	MODEL_CONTEXT_MAX = 1 << 24,
};

struct model_shape {
	uint32_t width, ff_width, layers, heads, kv_heads, head_dim, vocab, context;
	uint32_t window;        /* sliding window of every layer; 0: none */
	uint32_t rotated;       /* dimensions of a head that are rotated */
	enum kern_rope rope;
	float epsilon, attention_scale;
	float rope_magnitude;
	float inverse_freq[MODEL_HEAD_DIM_MAX / 2];
};

struct model {
	struct model_info info;
	struct model_shape shape;
	struct kern_program program;
	struct kern_backend *backend;
	struct model_tokenizer *tokenizer;
	struct kern_op *ops;
	struct kern_weight **weights;
	uint32_t weight_count, weight_room;
	float **vectors; /* in backend memory */
	uint32_t vector_count, vector_room;
};

/* What lives during a load only. */
struct model_loader {
	const struct model_gguf *gguf;
	const struct model_options *options;
	struct model *model;
	bool *used; /* [tensors]: every tensor must find its place */
	uint64_t done_bytes, total_bytes;
};

/* Keys, by their names without the architecture's prefix; *value stays as it is where the file lacks the key. */
int model_key_u32(const struct model_gguf *gguf, const char *architecture, const char *name, uint32_t *value);
int model_key_f32(const struct model_gguf *gguf, const char *architecture, const char *name, float *value);

/* Fills info.architecture and the shape; -EBADMSG, -ENOTSUP with a message. */
int model_shape_read(struct model_loader *loader);

/* A tensor by name, marked as used; NULL when there is none. */
const struct model_gguf_tensor *model_take_tensor(struct model_loader *loader, const char *name);

/* The forward pass: loads all weights and fills the program's operations. */
int model_llama_build(struct model_loader *loader);

/* ---- for model_llama.c: each fails with a message that names the tensor ------------------------------------- */

/* A matrix [n][k]; several parts of one type and k become one, their rows one after the other. */
struct model_part { char name[64]; uint32_t n; };

int model_load_matrix(struct model_loader *loader, const struct model_part *parts, uint32_t count, uint32_t k,
	const struct kern_weight **weight);
/* Float32 vectors, one after the other, in backend memory. */
int model_load_vector(struct model_loader *loader, const struct model_part *parts, uint32_t count,
	const float **vector);

#endif
