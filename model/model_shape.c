/*
 * The hyper-parameters of a model file, checked against limits, and the frequencies of its rotation with the scalings
 * for long contexts: linear, Llama 3's factors (a tensor), YaRN (Peng et al. 2023). Control thread, at load.
 */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/base_error.h"
#include "model/model_internal.h"

static const struct architecture { const char *name; enum kern_rope rope; } ARCHITECTURES[] = {
	{ "llama", KERN_ROPE_PAIRS },
	{ "mistral", KERN_ROPE_PAIRS },
	{ "qwen2", KERN_ROPE_HALVES },
	{ "qwen3", KERN_ROPE_HALVES },
};

/* ---- keys ------------------------------------------------------------------------------------------------- */

static const char *full_name(char *out, size_t size, const char *architecture, const char *name)
{
	snprintf(out, size, "%s.%s", architecture, name);
	return out;
}

static int absent_is_fine(int rc)
{
	return rc == -ENOENT ? 0 : rc;
}

int model_key_u32(const struct model_gguf *gguf, const char *architecture, const char *name, uint32_t *value)
{
	char key[128];

	return absent_is_fine(model_gguf_u32(gguf, full_name(key, sizeof(key), architecture, name), value));
}

int model_key_f32(const struct model_gguf *gguf, const char *architecture, const char *name, float *value)
{
	char key[128];

	return absent_is_fine(model_gguf_f32(gguf, full_name(key, sizeof(key), architecture, name), value));
}

/* A size within [1, high]; *value is what an absent key means, 0: it must be there. */
static int read_size(const struct model_gguf *gguf, const char *architecture, const char *name, uint32_t high,
	uint32_t *value)
{
	int rc = model_key_u32(gguf, architecture, name, value);

	if (rc < 0)
		return rc;
	if (*value == 0)
		return base_fail(EBADMSG, "key '%s.%s' is missing or 0", architecture, name);
	if (*value > high)
		return base_fail(EBADMSG, "key '%s.%s' is %" PRIu32 ", at most %" PRIu32 " is possible", architecture,
			name, *value, high);
	return 0;
}

/* ---- the shape -------------------------------------------------------------------------------------------- */

static int read_architecture(struct model_loader *loader)
{
	struct model_info *info = &loader->model->info;
	struct model_text text;
	int rc = model_gguf_text(loader->gguf, "general.architecture", &text);

	if (rc < 0)
		return rc == -ENOENT ? base_fail(EBADMSG, "key 'general.architecture' is missing") : rc;
	for (size_t i = 0; i < sizeof(ARCHITECTURES) / sizeof(*ARCHITECTURES); i++) {
		const struct architecture *known = &ARCHITECTURES[i];

		if (text.len != strlen(known->name) || memcmp(text.bytes, known->name, text.len) != 0)
			continue;
		snprintf(info->architecture, sizeof(info->architecture), "%s", known->name);
		loader->model->shape.rope = known->rope;
		return 0;
	}
	return base_fail(ENOTSUP, "the architecture '%.*s' is not served; llama, mistral, qwen2 and qwen3 are",
		text.len < 32 ? (int)text.len : 32, text.bytes);
}

static int read_heads(const struct model_gguf *gguf, const char *architecture, struct model_shape *shape)
{
	uint32_t value_dim;
	int rc;

	if ((rc = read_size(gguf, architecture, "attention.head_count", MODEL_HEADS_MAX, &shape->heads)) < 0)
		return rc;
	shape->kv_heads = shape->heads;
	if ((rc = read_size(gguf, architecture, "attention.head_count_kv", shape->heads, &shape->kv_heads)) < 0)
		return rc;
	shape->head_dim = shape->width / shape->heads;
	if ((rc = read_size(gguf, architecture, "attention.key_length", MODEL_HEAD_DIM_MAX, &shape->head_dim)) < 0)
		return rc;
	value_dim = shape->head_dim;
	if ((rc = read_size(gguf, architecture, "attention.value_length", MODEL_HEAD_DIM_MAX, &value_dim)) < 0)
		return rc;
	if (shape->heads % shape->kv_heads != 0)
		return base_fail(EBADMSG, "%" PRIu32 " heads do not divide among %" PRIu32 " KV heads", shape->heads,
			shape->kv_heads);
	if (shape->head_dim > MODEL_HEAD_DIM_MAX || shape->head_dim % MODEL_HEAD_DIM_STEP != 0)
		return base_fail(ENOTSUP, "heads of %" PRIu32 " elements; multiples of %d up to %d are possible",
			shape->head_dim, MODEL_HEAD_DIM_STEP, MODEL_HEAD_DIM_MAX);
	if (value_dim != shape->head_dim)
		return base_fail(ENOTSUP, "heads whose keys have %" PRIu32 " and whose values have %" PRIu32
			" elements; they must be equal", shape->head_dim, value_dim);
	return 0;
}

/* The vocabulary is as large as the table of embeddings; its own key is only advice. */
static int read_vocab(const struct model_gguf *gguf, struct model_shape *shape)
{
	const struct model_gguf_tensor *table = model_gguf_tensor(gguf, "token_embd.weight");

	if (!table)
		return base_fail(EBADMSG, "tensor 'token_embd.weight' is missing");
	if (table->dims != 2 || table->dim[0] != shape->width || table->dim[1] > MODEL_VOCAB_MAX)
		return base_fail(EBADMSG, "tensor 'token_embd.weight' is %" PRIu64 " x %" PRIu64 "; %" PRIu32
			" columns and at most %d rows are possible", table->dim[0], table->dim[1], shape->width,
			MODEL_VOCAB_MAX);
	shape->vocab = (uint32_t)table->dim[1];
	return 0;
}

static int read_factors(const struct model_gguf *gguf, const char *architecture, struct model_shape *shape)
{
	uint32_t experts = 0;
	int rc;

	shape->epsilon = 0;
	shape->attention_scale = 1 / sqrtf((float)shape->head_dim);
	if ((rc = model_key_f32(gguf, architecture, "attention.layer_norm_rms_epsilon", &shape->epsilon)) < 0 ||
			(rc = model_key_f32(gguf, architecture, "attention.scale", &shape->attention_scale)) < 0 ||
			(rc = model_key_u32(gguf, architecture, "attention.sliding_window", &shape->window)) < 0 ||
			(rc = model_key_u32(gguf, architecture, "expert_count", &experts)) < 0)
		return rc;
	if (!(shape->epsilon > 0) || shape->epsilon > 1)
		return base_fail(EBADMSG, "key '%s.attention.layer_norm_rms_epsilon' is missing or makes no sense",
			architecture);
	if (experts > 0)
		return base_fail(ENOTSUP, "a mixture of %" PRIu32 " experts, which is not served", experts);
	if (shape->window >= shape->context)
		shape->window = 0;
	return 0;
}

/* ---- the rotation ----------------------------------------------------------------------------------------- */

static bool text_is(struct model_text text, const char *word)
{
	return text.len == strlen(word) && memcmp(text.bytes, word, text.len) == 0;
}

/* Divisors of the frequencies, as a tensor: Llama 3.1 and later. */
static int apply_factors(struct model_loader *loader, struct model_shape *shape)
{
	const struct model_gguf_tensor *tensor = model_take_tensor(loader, "rope_freqs.weight");
	float factors[MODEL_HEAD_DIM_MAX / 2];

	if (!tensor)
		return 0;
	if (tensor->type != KERN_F32 || tensor->dims != 1 || tensor->dim[0] != shape->rotated / 2)
		return base_fail(EBADMSG, "tensor 'rope_freqs.weight' is no vector of %" PRIu32 " numbers in F32",
			shape->rotated / 2);
	memcpy(factors, tensor->data, tensor->size_bytes);
	for (uint32_t i = 0; i < shape->rotated / 2; i++) {
		if (!(factors[i] > 0) || isinf(factors[i]))
			return base_fail(EBADMSG, "tensor 'rope_freqs.weight' holds a factor that makes no sense");
		shape->inverse_freq[i] /= factors[i];
	}
	return 0;
}

/* The pair of dimensions that turns `turns` times in the original context. */
static double yarn_pair(double turns, double base, double original, uint32_t rotated)
{
	return rotated * log(original / (turns * 2 * M_PI)) / (2 * log(base));
}

/* Frequencies below YaRN's band are divided by the factor, those above stay, those within are blended. */
static int apply_yarn(struct model_loader *loader, struct model_shape *shape, float base, float factor)
{
	const char *architecture = loader->model->info.architecture;
	uint32_t original = shape->context;
	float attention = 1;
	double low, high;
	int rc = model_key_u32(loader->gguf, architecture, "rope.scaling.original_context_length", &original);

	if (rc == 0)
		rc = model_key_f32(loader->gguf, architecture, "rope.scaling.attn_factor", &attention);
	if (rc < 0)
		return rc;
	if (original == 0 || !(attention > 0) || !(base > 1))
		return base_fail(EBADMSG, "the scaling of the rotation makes no sense");
	low = fmax(floor(yarn_pair(32, (double)base, original, shape->rotated)), 0);
	high = fmin(ceil(yarn_pair(1, (double)base, original, shape->rotated)), shape->rotated - 1);
	for (uint32_t i = 0; i < shape->rotated / 2; i++) {
		double kept = 1 - fmin(fmax((i - low) / fmax(high - low, 0.001), 0), 1);

		shape->inverse_freq[i] = (float)((double)shape->inverse_freq[i] * (kept + (1 - kept) / (double)factor));
	}
	shape->rope_magnitude = attention * (float)(1 + 0.1 * log((double)factor));
	return 0;
}

static int apply_scaling(struct model_loader *loader, struct model_shape *shape, float base)
{
	const char *architecture = loader->model->info.architecture;
	struct model_text type = { "linear", 6 };
	char key[128];
	float factor = 1;
	int rc = model_key_f32(loader->gguf, architecture, "rope.scale_linear", &factor);

	if (rc == 0)
		rc = model_key_f32(loader->gguf, architecture, "rope.scaling.factor", &factor);
	if (rc == 0)
		rc = absent_is_fine(model_gguf_text(loader->gguf,
			full_name(key, sizeof(key), architecture, "rope.scaling.type"), &type));
	if (rc < 0)
		return rc;
	if (!(factor >= 1) || factor > 4096)
		return base_fail(EBADMSG, "the rotation is scaled by %g, which makes no sense", (double)factor);
	if (text_is(type, "none") || factor == 1)
		return 0;
	if (text_is(type, "yarn"))
		return apply_yarn(loader, shape, base, factor);
	if (!text_is(type, "linear"))
		return base_fail(ENOTSUP, "the rotation is scaled by '%.*s'; none, linear and yarn are served",
			type.len < 32 ? (int)type.len : 32, type.bytes);
	for (uint32_t i = 0; i < shape->rotated / 2; i++)
		shape->inverse_freq[i] /= factor;
	return 0;
}

static int read_rotation(struct model_loader *loader, struct model_shape *shape)
{
	const char *architecture = loader->model->info.architecture;
	float base = 10000;
	int rc;

	shape->rotated = shape->head_dim;
	shape->rope_magnitude = 1;
	rc = read_size(loader->gguf, architecture, "rope.dimension_count", shape->head_dim, &shape->rotated);
	if (rc == 0)
		rc = model_key_f32(loader->gguf, architecture, "rope.freq_base", &base);
	if (rc < 0)
		return rc;
	if (shape->rotated % 2 != 0 || !(base > 0))
		return base_fail(EBADMSG, "a rotation of %" PRIu32 " dimensions on the base %g makes no sense",
			shape->rotated, (double)base);
	for (uint32_t i = 0; i < shape->rotated / 2; i++)
		shape->inverse_freq[i] = (float)pow((double)base, -2.0 * i / shape->rotated);
	rc = apply_scaling(loader, shape, base);
	return rc == 0 ? apply_factors(loader, shape) : rc;
}

int model_shape_read(struct model_loader *loader)
{
	struct model_shape *shape = &loader->model->shape;
	const char *architecture = loader->model->info.architecture;
	int rc;

	if ((rc = read_architecture(loader)) < 0 ||
			(rc = read_size(loader->gguf, architecture, "embedding_length", MODEL_WIDTH_MAX, &shape->width)) < 0 ||
			(rc = read_size(loader->gguf, architecture, "feed_forward_length", MODEL_FF_WIDTH_MAX,
				&shape->ff_width)) < 0 ||
			(rc = read_size(loader->gguf, architecture, "block_count", MODEL_LAYERS_MAX, &shape->layers)) < 0 ||
			(rc = read_size(loader->gguf, architecture, "context_length", MODEL_CONTEXT_MAX,
				&shape->context)) < 0 ||
			(rc = read_heads(loader->gguf, architecture, shape)) < 0 ||
			(rc = read_vocab(loader->gguf, shape)) < 0 ||
			(rc = read_factors(loader->gguf, architecture, shape)) < 0)
		return rc;
	return read_rotation(loader, shape);
}
