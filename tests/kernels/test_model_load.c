/*
 * Loading models that are wrong: missing, misshapen and surplus tensors, absurd hyper-parameters, files cut short. Each is
 * refused with its own message and leaves nothing behind. And variants that are right: matrices of q, k and v in different
 * types, a tied output matrix, scaled rotations.
 *
 * Each file is the tiny model that attnquant makes, with one edit.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base_error.h"
#include "model/model_gguf_write.h"
#include "tests/kernels/model_rig.h"

/* What is different from the tiny model. Names are whole, or their last parts ("attn_v.weight" means every layer's). */
struct edit {
	const char *drop_key, *drop_tensor;
	const char *u32_key; uint32_t u32;
	const char *f32_key; float f32;
	const char *text_key, *text;
	const char *shape_tensor; uint64_t columns; /* this tensor has so many columns */
	const char *type_tensor; enum kern_type type;
	const char *new_vector; uint64_t new_count; float new_value;
};

static bool ends_with(struct model_text name, const char *end)
{
	size_t before = end && name.len >= strlen(end) ? name.len - strlen(end) : 0;

	return end && name.len >= strlen(end) && memcmp(name.bytes + before, end, strlen(end)) == 0 &&
		(before == 0 || name.bytes[before - 1] == '.');
}

static struct model_text text_of(const char *text)
{
	return (struct model_text){ text, strlen(text) };
}

static bool key_is_replaced(const struct edit *edit, struct model_text name)
{
	return ends_with(name, edit->drop_key) || ends_with(name, edit->u32_key) || ends_with(name, edit->f32_key) ||
		ends_with(name, edit->text_key);
}

static void put_edited_keys(const struct model_gguf *gguf, const struct edit *edit, struct model_gguf_writer *writer)
{
	char name[64];

	for (uint64_t i = 0; i < model_gguf_key_count(gguf); i++)
		if (!key_is_replaced(edit, model_gguf_key_at(gguf, i)->name))
			model_gguf_put_key(writer, model_gguf_key_at(gguf, i));
	if (edit->u32_key) {
		snprintf(name, sizeof(name), "llama.%s", edit->u32_key);
		model_gguf_put_u32(writer, name, edit->u32);
	}
	if (edit->f32_key) {
		snprintf(name, sizeof(name), "llama.%s", edit->f32_key);
		model_gguf_put_f32(writer, name, edit->f32);
	}
	if (edit->text_key)
		model_gguf_put_text(writer, edit->text_key, edit->text, strlen(edit->text));
}

/* The tensor as it will be: dims, type and bytes. */
static struct model_gguf_tensor edited(const struct model_gguf_tensor *tensor, const struct edit *edit)
{
	struct model_gguf_tensor made = *tensor;

	if (ends_with(tensor->name, edit->shape_tensor))
		made.dim[0] = edit->columns;
	if (ends_with(tensor->name, edit->type_tensor))
		made.type = edit->type;
	made.size_bytes = kern_row_bytes(made.type, made.dim[0]) * made.dim[1];
	return made;
}

static void put_edited_data(const struct model_gguf_tensor *tensor, const struct model_gguf_tensor *made,
	struct model_gguf_writer *writer)
{
	size_t from_bytes = kern_row_bytes(tensor->type, tensor->dim[0]), to_bytes = kern_row_bytes(made->type, made->dim[0]);
	unsigned char *row = calloc(1, to_bytes + from_bytes);

	assert_non_null(row);
	for (uint64_t r = 0; r < made->dim[1]; r++) {
		const unsigned char *from = (const unsigned char *)tensor->data + r * from_bytes;

		if (made->type != tensor->type)
			assert_int_equal(kern_quantize_row(made->type, (const float *)(const void *)from, row, made->dim[0]), 0);
		else
			memcpy(row, from, from_bytes < to_bytes ? from_bytes : to_bytes);
		assert_int_equal(model_gguf_writer_data(writer, row, to_bytes), 0);
	}
	free(row);
}

static void write_new_vector(const struct edit *edit, struct model_gguf_writer *writer)
{
	for (uint64_t i = 0; edit->new_vector && i < edit->new_count; i++)
		assert_int_equal(model_gguf_writer_data(writer, &edit->new_value, sizeof(edit->new_value)), 0);
}

/* The tiny model (float32 throughout) with an edit, as a file. */
static const char *make(const struct edit *edit)
{
	const char *tiny = model_rig_path("tiny.gguf"), *out = model_rig_path("edited.gguf");
	struct model_gguf_writer *writer;
	struct model_gguf *gguf;

	if (access(tiny, R_OK) != 0)
		assert_int_equal(model_rig_attnquant("make-tiny", "-o", tiny, NULL), 0);
	assert_int_equal(model_gguf_open(&gguf, tiny), 0);
	assert_int_equal(model_gguf_writer_create(&writer, out), 0);
	put_edited_keys(gguf, edit, writer);
	for (uint64_t i = 0; i < model_gguf_tensor_count(gguf); i++) {
		struct model_gguf_tensor tensor = edited(model_gguf_tensor_at(gguf, i), edit);

		if (!ends_with(tensor.name, edit->drop_tensor))
			model_gguf_put_tensor(writer, tensor.name, tensor.type, tensor.dims, tensor.dim);
	}
	if (edit->new_vector)
		model_gguf_put_tensor(writer, text_of(edit->new_vector), KERN_F32, 1, &edit->new_count);
	assert_int_equal(model_gguf_writer_begin(writer), 0);
	for (uint64_t i = 0; i < model_gguf_tensor_count(gguf); i++) {
		struct model_gguf_tensor tensor = edited(model_gguf_tensor_at(gguf, i), edit);

		if (!ends_with(tensor.name, edit->drop_tensor))
			put_edited_data(model_gguf_tensor_at(gguf, i), &tensor, writer);
	}
	write_new_vector(edit, writer);
	assert_int_equal(model_gguf_writer_finish(writer), 0);
	model_gguf_writer_destroy(writer);
	model_gguf_close(gguf);
	return out;
}

/* ---- what is refused ---------------------------------------------------------------------------------------- */

static int load(const char *path, struct model **model, struct kern_backend **backend)
{
	const struct kern_cpu_options cpu = { .struct_bytes = sizeof(cpu), .node = -1 };
	const struct model_options options = { .struct_bytes = sizeof(options), .max_rows = 8, .max_out_rows = 8 };

	assert_int_equal(kern_cpu_create(backend, &cpu), 0);
	return model_load(model, path, *backend, &options);
}

static void refused(const struct edit *edit, int code, const char *part)
{
	struct kern_backend *backend;
	struct model *model = NULL;
	int rc;

	base_error_clear();
	rc = load(make(edit), &model, &backend);
	if (rc != code || !strstr(base_error_message(), part))
		fail_msg("%d '%s' where %d '...%s...' belongs", rc, base_error_message(), code, part);
	backend->ops->destroy(backend);
}

static void test_wrong_tensors(void **state)
{
	(void)state;
	refused(&(struct edit){ .drop_tensor = "token_embd.weight" }, -EBADMSG, "'token_embd.weight' is missing");
	refused(&(struct edit){ .drop_tensor = "blk.2.ffn_up.weight" }, -EBADMSG, "'blk.2.ffn_up.weight' is missing");
	refused(&(struct edit){ .drop_tensor = "blk.3.attn_k.weight" }, -EBADMSG, "'blk.3.attn_k.weight' is missing");
	refused(&(struct edit){ .drop_tensor = "output_norm.weight" }, -EBADMSG, "'output_norm.weight' is missing");
	refused(&(struct edit){ .shape_tensor = "blk.1.attn_v.weight", .columns = 96 }, -EBADMSG,
		"'blk.1.attn_v.weight' is 96 x 64 where 128 x 64 is needed");
	refused(&(struct edit){ .shape_tensor = "blk.0.attn_norm.weight", .columns = 64 }, -EBADMSG,
		"'blk.0.attn_norm.weight' is 64 x 1 where 128 x 1 is needed");
	refused(&(struct edit){ .shape_tensor = "token_embd.weight", .columns = 64 }, -EBADMSG,
		"'token_embd.weight' is 64 x");
	refused(&(struct edit){ .new_vector = "blk.0.surprise.weight", .new_count = 4 }, -ENOTSUP,
		"'blk.0.surprise.weight' has no place");
	refused(&(struct edit){ .new_vector = "blk.1.attn_q.bias", .new_count = 128 }, -EBADMSG,
		"'blk.1.attn_k.bias' is missing");
}

static void test_wrong_numbers(void **state)
{
	(void)state;
	refused(&(struct edit){ .drop_key = "block_count" }, -EBADMSG, "'llama.block_count' is missing or 0");
	refused(&(struct edit){ .u32_key = "block_count", .u32 = 257 }, -EBADMSG, "is 257, at most 256");
	refused(&(struct edit){ .u32_key = "block_count", .u32 = UINT32_MAX }, -EBADMSG, "is 4294967295, at most 256");
	refused(&(struct edit){ .u32_key = "block_count", .u32 = 3 }, -ENOTSUP, "'blk.3.attn_norm.weight' has no place");
	refused(&(struct edit){ .u32_key = "block_count", .u32 = 5 }, -EBADMSG, "'blk.4.attn_norm.weight' is missing");
	refused(&(struct edit){ .u32_key = "embedding_length", .u32 = 1 << 20 }, -EBADMSG, "at most 65536");
	refused(&(struct edit){ .u32_key = "embedding_length", .u32 = 64 }, -EBADMSG, "'token_embd.weight' is 128 x");
	refused(&(struct edit){ .u32_key = "feed_forward_length", .u32 = 0 }, -EBADMSG, "missing or 0");
	refused(&(struct edit){ .u32_key = "attention.head_count", .u32 = 3 }, -EBADMSG, "3 heads do not divide among 2");
	refused(&(struct edit){ .u32_key = "attention.head_count_kv", .u32 = 8 }, -EBADMSG, "is 8, at most 4");
	refused(&(struct edit){ .u32_key = "attention.key_length", .u32 = 12 }, -ENOTSUP, "heads of 12 elements");
	refused(&(struct edit){ .u32_key = "attention.key_length", .u32 = 512 }, -EBADMSG, "is 512, at most 256");
	refused(&(struct edit){ .u32_key = "attention.value_length", .u32 = 64 }, -ENOTSUP, "they must be equal");
	refused(&(struct edit){ .u32_key = "rope.dimension_count", .u32 = 31 }, -EBADMSG, "a rotation of 31 dimensions");
	refused(&(struct edit){ .u32_key = "rope.dimension_count", .u32 = 64 }, -EBADMSG, "is 64, at most 32");
	refused(&(struct edit){ .f32_key = "rope.freq_base", .f32 = -1 }, -EBADMSG, "the base -1 makes no sense");
	refused(&(struct edit){ .f32_key = "attention.layer_norm_rms_epsilon", .f32 = 0 }, -EBADMSG, "epsilon");
	refused(&(struct edit){ .f32_key = "attention.layer_norm_rms_epsilon", .f32 = NAN }, -EBADMSG, "not a finite");
	refused(&(struct edit){ .u32_key = "expert_count", .u32 = 8 }, -ENOTSUP, "a mixture of 8 experts");
	refused(&(struct edit){ .f32_key = "rope.scaling.factor", .f32 = 1e9f }, -EBADMSG, "scaled by 1e+09");
	refused(&(struct edit){ .f32_key = "rope.scaling.factor", .f32 = 2, .text_key = "llama.rope.scaling.type",
		.text = "longrope" }, -ENOTSUP, "scaled by 'longrope'");
	refused(&(struct edit){ .new_vector = "rope_freqs.weight", .new_count = 15, .new_value = 1 }, -EBADMSG,
		"no vector of 16");
	refused(&(struct edit){ .new_vector = "rope_freqs.weight", .new_count = 16, .new_value = 0 }, -EBADMSG,
		"a factor that makes no sense");
}

static void test_wrong_kinds(void **state)
{
	(void)state;
	refused(&(struct edit){ .drop_key = "general.architecture" }, -EBADMSG, "'general.architecture' is missing");
	refused(&(struct edit){ .text_key = "general.architecture", .text = "gpt2" }, -ENOTSUP, "'gpt2' is not served");
	refused(&(struct edit){ .text_key = "general.architecture", .text = "" }, -ENOTSUP, "'' is not served");
	refused(&(struct edit){ .text_key = "tokenizer.ggml.model", .text = "rwkv" }, -ENOTSUP, "rwkv");
	refused(&(struct edit){ .text_key = "tokenizer.ggml.tokens", .text = "none" }, -EBADMSG, "tokenizer.ggml.tokens");
}

/* Cut anywhere, the file is refused; what it had taken until then is given back (the leak checker looks on). */
static void test_cut_short(void **state)
{
	const char *path = make(&(struct edit){ 0 });
	struct kern_backend *backend;
	struct model *model = NULL;
	long sizes[] = { 3000000, 1000000, 20000, 100, 23, 0 };

	(void)state;
	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		assert_int_equal(truncate(path, sizes[i]), 0);
		assert_int_equal(load(path, &model, &backend), -EBADMSG);
		assert_non_null(strstr(base_error_message(), path));
		backend->ops->destroy(backend);
	}
}

/* ---- what is right ------------------------------------------------------------------------------------------ */

enum { TOKENS = 12 };

static void logits_of(const struct edit *edit, float **logits, uint32_t *vocab)
{
	uint32_t tokens[TOKENS];
	struct model_rig rig;

	model_rig_open(&rig, make(edit), KERN_KV_F32, 0);
	*vocab = rig.vocab;
	*logits = malloc(sizeof(float) * TOKENS * rig.vocab);
	assert_non_null(*logits);
	for (uint32_t i = 0; i < TOKENS; i++)
		tokens[i] = (i * 29 + 1) % rig.vocab;
	model_rig_step(&rig, tokens, TOKENS, false, *logits);
	model_rig_close(&rig);
}

/* The largest difference that an edit makes to the logits. */
static double difference(const struct edit *edit)
{
	float *plain, *other;
	uint32_t vocab, other_vocab;
	double largest = 0;

	logits_of(&(struct edit){ 0 }, &plain, &vocab);
	logits_of(edit, &other, &other_vocab);
	assert_int_equal(vocab, other_vocab);
	for (uint32_t i = 0; i < TOKENS * vocab; i++) {
		assert_true(isfinite(other[i]));
		largest = fmax(largest, fabs((double)plain[i] - (double)other[i]));
	}
	free(plain);
	free(other);
	return largest;
}

/* Three products instead of one: the bits of float32 parts stay, those in F16 come near. */
static void test_mixed_types(void **state)
{
	double far;

	(void)state;
	far = difference(&(struct edit){ .type_tensor = "attn_v.weight", .type = KERN_F16 });
	assert_true(far > 0 && far < 2e-2);
	far = difference(&(struct edit){ .type_tensor = "attn_k.weight", .type = KERN_Q8_0 });
	assert_true(far > 0 && far < 0.2);
	far = difference(&(struct edit){ .type_tensor = "attn_q.weight", .type = KERN_BF16 });
	assert_true(far > 0 && far < 0.2);
}

static void test_scaled_rotations(void **state)
{
	double factors, linear, yarn;

	(void)state;
	/* Factors of 4 as a tensor and linear scaling by 4 are one and the same. */
	factors = difference(&(struct edit){ .new_vector = "rope_freqs.weight", .new_count = 16, .new_value = 4 });
	linear = difference(&(struct edit){ .f32_key = "rope.scaling.factor", .f32 = 4, .text_key = "llama.rope.scaling.type",
		.text = "linear" });
	yarn = difference(&(struct edit){ .f32_key = "rope.scaling.factor", .f32 = 4, .text_key = "llama.rope.scaling.type",
		.text = "yarn" });
	assert_true(factors > 1e-4);
	assert_true(factors == linear);
	assert_true(yarn > 1e-4 && yarn != linear);
	assert_true(difference(&(struct edit){ .f32_key = "rope.scaling.factor", .f32 = 4, .text_key =
		"llama.rope.scaling.type", .text = "none" }) == 0);
}

static void test_tied_output(void **state)
{
	(void)state;
	assert_true(difference(&(struct edit){ .drop_tensor = "output.weight" }) > 1);
}

static void test_sliding_window(void **state)
{
	(void)state;
	assert_true(difference(&(struct edit){ .u32_key = "attention.sliding_window", .u32 = 4 }) > 1e-4);
	assert_true(difference(&(struct edit){ .u32_key = "attention.sliding_window", .u32 = TOKENS }) == 0);
	assert_true(difference(&(struct edit){ .u32_key = "attention.sliding_window", .u32 = 100000 }) == 0);
}

static void count_calls(void *context, uint64_t done_bytes, uint64_t total_bytes)
{
	uint64_t *last = context;

	assert_true(done_bytes > *last && done_bytes <= total_bytes);
	*last = done_bytes;
}

static void test_info_and_progress(void **state)
{
	const struct kern_cpu_options cpu = { .struct_bytes = sizeof(cpu), .node = -1 };
	uint64_t done = 0;
	const struct model_options options = { .struct_bytes = sizeof(options), .max_rows = 8, .max_out_rows = 8,
		.progress = count_calls, .context = &done };
	struct kern_backend *backend;
	struct model *model;
	const struct model_info *info;

	(void)state;
	assert_int_equal(kern_cpu_create(&backend, &cpu), 0);
	assert_int_equal(model_load(&model, make(&(struct edit){ .text_key = "general.name", .text = "a\033[31mb" }), backend,
		&options), 0);
	info = model_info(model);
	assert_string_equal(info->name, "a[31mb");
	assert_string_equal(info->weights, "F32");
	assert_int_equal(info->width, 128);
	assert_int_equal(info->layers, 4);
	assert_int_equal(info->heads, 4);
	assert_int_equal(info->kv_heads, 2);
	assert_int_equal(info->head_dim, 32);
	assert_int_equal(info->context, 2048);
	assert_int_equal(info->weight_bytes, 4 * info->parameters);
	assert_int_equal(done, info->weight_bytes);
	assert_int_equal(model_tokenizer_size(model_tokenizer(model)), info->vocab);
	assert_false(model_damaged(model));
	model_destroy(model);
	/* Without a tokenizer a model serves ids. */
	done = 0;
	assert_int_equal(model_load(&model, make(&(struct edit){ .drop_key = "tokenizer.ggml.model" }), backend, &options), 0);
	assert_null(model_tokenizer(model));
	model_destroy(model);
	backend->ops->destroy(backend);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_wrong_tensors),
		cmocka_unit_test(test_wrong_numbers),
		cmocka_unit_test(test_wrong_kinds),
		cmocka_unit_test(test_cut_short),
		cmocka_unit_test(test_mixed_types),
		cmocka_unit_test(test_scaled_rotations),
		cmocka_unit_test(test_tied_output),
		cmocka_unit_test(test_sliding_window),
		cmocka_unit_test(test_info_and_progress),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
