/*
 * Loads a model: reads the file's shape, repacks every weight onto the backend, writes the program, makes the tokenizer.
 * Control thread; the owner of the backend while it loads.
 *
 * Nothing of the file is used in place: once a model is loaded its file is closed, and may be cut or replaced.
 */
#include "model/model.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"
#include "model/model_gguf.h"
#include "model/model_internal.h"

/* ---- tensors ---------------------------------------------------------------------------------------------- */

const struct model_gguf_tensor *model_take_tensor(struct model_loader *loader, const char *name)
{
	const struct model_gguf_tensor *tensor = model_gguf_tensor(loader->gguf, name);

	if (tensor)
		loader->used[tensor - model_gguf_tensor_at(loader->gguf, 0)] = true;
	return tensor;
}

/* columns 0: a vector of n. */
static int take_checked(struct model_loader *loader, const struct model_part *part, uint32_t columns,
	const struct model_gguf_tensor **tensor)
{
	const struct model_gguf_tensor *found = model_take_tensor(loader, part->name);
	bool fits;

	if (!found)
		return base_fail(EBADMSG, "tensor '%s' is missing", part->name);
	if (columns > 0)
		fits = found->dims == 2 && found->dim[0] == columns && found->dim[1] == part->n;
	else
		fits = found->dims == 1 && found->dim[0] == part->n;
	if (!fits)
		return base_fail(EBADMSG, "tensor '%s' is %" PRIu64 " x %" PRIu64 " where %" PRIu32 " x %" PRIu32
			" is needed", part->name, found->dim[0], found->dim[1], columns ? columns : part->n,
			columns ? part->n : 1);
	*tensor = found;
	return 0;
}

static void tell_progress(struct model_loader *loader, uint64_t bytes)
{
	loader->done_bytes += bytes;
	if (loader->options->progress)
		loader->options->progress(loader->options->context, loader->done_bytes, loader->total_bytes);
}

/* The list with room for one more entry of `size` bytes; NULL when there is no memory (the list stays as it is). */
static void *list_with_room(void *list, uint32_t count, uint32_t *room, size_t size)
{
	uint32_t wanted = *room ? 2 * *room : 64;
	void *grown;

	if (count < *room)
		return list;
	grown = realloc(list, wanted * size);
	if (grown)
		*room = wanted;
	return grown;
}

static int create_weight(struct model_loader *loader, enum kern_type type, uint32_t n, uint32_t k, const void *source,
	const struct kern_weight **weight)
{
	struct model *model = loader->model;
	struct kern_weight **list = list_with_room(model->weights, model->weight_count, &model->weight_room,
		sizeof(*list));
	struct kern_weight *made;
	int rc;

	if (!list)
		return base_fail(ENOMEM, "no memory for the list of weights");
	model->weights = list;
	rc = model->backend->ops->weight_create(model->backend, type, n, k, source, &made);
	if (rc < 0)
		return rc;
	model->weights[model->weight_count++] = made;
	*weight = made;
	return 0;
}

/* Rows of the parts, one after the other, in memory of their own. */
static unsigned char *join(const struct model_gguf_tensor *const *tensors, uint32_t count, size_t bytes)
{
	unsigned char *joined = malloc(bytes), *at = joined;

	for (uint32_t i = 0; joined && i < count; i++) {
		memcpy(at, tensors[i]->data, tensors[i]->size_bytes);
		at += tensors[i]->size_bytes;
	}
	return joined;
}

int model_load_matrix(struct model_loader *loader, const struct model_part *parts, uint32_t count, uint32_t k,
	const struct kern_weight **weight)
{
	const struct model_gguf_tensor *tensors[3];
	unsigned char *joined = NULL;
	size_t bytes = 0;
	uint32_t n = 0;
	int rc = 0;

	for (uint32_t i = 0; rc == 0 && i < count; i++) {
		rc = take_checked(loader, &parts[i], k, &tensors[i]);
		if (rc < 0)
			return rc;
		n += parts[i].n;
		bytes += tensors[i]->size_bytes;
	}
	if (count > 1) {
		joined = join(tensors, count, bytes);
		if (!joined)
			return base_fail(ENOMEM, "no memory to join %" PRIu32 " matrices of %zu bytes", count, bytes);
	}
	rc = create_weight(loader, tensors[0]->type, n, k, joined ? joined : tensors[0]->data, weight);
	free(joined);
	if (rc < 0)
		return base_fail_within(-rc, "tensor '%s'", parts[0].name);
	tell_progress(loader, bytes);
	return 0;
}

/* Through the backend's own copying, because its memory need not be the host's. */
static int copy_to_backend(struct kern_backend *backend, void *to, const void *from, size_t bytes)
{
	struct kern_span span = { to, from, bytes };
	struct kern_work work = { .kind = KERN_WORK_COPY, .copy = { &span, 1 } };
	kern_ticket ticket;
	int rc = backend->ops->submit(backend, &work, &ticket);

	if (rc < 0)
		return base_fail(-rc, "the backend took no copy: %s", strerror(-rc));
	do
		rc = backend->ops->poll(backend, ticket);
	while (rc == 0);
	return rc < 0 ? base_fail(-rc, "the backend failed to copy: %s", strerror(-rc)) : 0;
}

static int store_vector(struct model_loader *loader, const float *values, size_t bytes, const float **vector)
{
	struct model *model = loader->model;
	float **list = list_with_room(model->vectors, model->vector_count, &model->vector_room, sizeof(*list));
	float *memory;

	if (!list)
		return base_fail(ENOMEM, "no memory for the list of vectors");
	model->vectors = list;
	memory = model->backend->ops->alloc(model->backend, bytes, "norms and biases");
	if (!memory)
		return -ENOMEM;
	model->vectors[model->vector_count++] = memory;
	*vector = memory;
	return copy_to_backend(model->backend, memory, values, bytes);
}

int model_load_vector(struct model_loader *loader, const struct model_part *parts, uint32_t count,
	const float **vector)
{
	const struct model_gguf_tensor *tensor;
	float *values;
	uint32_t n = 0, at = 0;
	int rc = 0;

	for (uint32_t i = 0; i < count; i++)
		n += parts[i].n;
	values = malloc(n * sizeof(*values));
	if (!values)
		return base_fail(ENOMEM, "no memory for a vector of %" PRIu32 " numbers", n);
	for (uint32_t i = 0; rc == 0 && i < count; at += parts[i++].n) {
		rc = take_checked(loader, &parts[i], 0, &tensor);
		if (rc == 0)
			rc = kern_dequantize_row(tensor->type, tensor->data, values + at, parts[i].n);
		if (rc == -ENOTSUP)
			rc = base_fail(ENOTSUP, "tensor '%s' has a type that is not read", parts[i].name);
		if (rc == 0)
			tell_progress(loader, tensor->size_bytes);
	}
	if (rc == 0)
		rc = store_vector(loader, values, n * sizeof(*values), vector);
	free(values);
	return rc;
}

/* A tensor that has no place means an architecture that is not quite the one that was computed. */
static int check_all_used(const struct model_loader *loader)
{
	for (uint64_t i = 0; i < model_gguf_tensor_count(loader->gguf); i++) {
		struct model_text name = model_gguf_tensor_at(loader->gguf, i)->name;

		if (!loader->used[i])
			return base_fail(ENOTSUP, "tensor '%.*s' has no place in the architecture '%s'", (int)name.len, name.bytes,
				loader->model->info.architecture);
	}
	return 0;
}

/* ---- the model -------------------------------------------------------------------------------------------- */

static void add_up(struct model_loader *loader)
{
	struct model_info *info = &loader->model->info;
	uint64_t bytes[KERN_TYPE_END] = { 0 };
	uint32_t commonest = 0;

	for (uint64_t i = 0; i < model_gguf_tensor_count(loader->gguf); i++) {
		const struct model_gguf_tensor *tensor = model_gguf_tensor_at(loader->gguf, i);

		info->parameters += tensor->dim[0] * tensor->dim[1] * tensor->dim[2] * tensor->dim[3];
		info->weight_bytes += tensor->size_bytes;
		bytes[tensor->type] += tensor->size_bytes;
	}
	loader->total_bytes = info->weight_bytes;
	for (uint32_t type = 0; type < KERN_TYPE_END; type++)
		if (bytes[type] > bytes[commonest])
			commonest = type;
	snprintf(info->weights, sizeof(info->weights), "%s", kern_type_info(commonest)->name);
}

/* The name is shown to people: bytes that are no plain text are left out. */
static void set_name(struct model_loader *loader, const char *path)
{
	struct model_info *info = &loader->model->info;
	const char *slash = strrchr(path, '/');
	struct model_text text = { slash ? slash + 1 : path, strlen(slash ? slash + 1 : path) };
	struct model_text said;
	size_t at = 0;

	if (model_gguf_text(loader->gguf, "general.name", &said) == 0 && said.len > 0)
		text = said;
	for (size_t i = 0; i < text.len && at + 1 < sizeof(info->name); i++)
		if ((unsigned char)text.bytes[i] >= 0x20 && (unsigned char)text.bytes[i] < 0x7f)
			info->name[at++] = text.bytes[i];
	info->name[at] = '\0';
}

static void fill_info(struct model *model)
{
	struct model_info *info = &model->info;
	const struct model_shape *shape = &model->shape;

	info->vocab = shape->vocab;
	info->width = shape->width;
	info->layers = shape->layers;
	info->heads = shape->heads;
	info->kv_heads = shape->kv_heads;
	info->head_dim = shape->head_dim;
	info->ff_width = shape->ff_width;
	info->context = shape->context;
}

static int prepare_program(struct model *model, const struct model_options *options)
{
	struct kern_program *program = &model->program;
	const struct model_shape *shape = &model->shape;
	int rc;

	program->vocab = shape->vocab;
	program->width = shape->width;
	program->kv = (struct kern_kv_geometry){ .layers = shape->layers, .heads = shape->heads,
		.kv_heads = shape->kv_heads, .head_dim = shape->head_dim, .k = KERN_KV_F32, .v = KERN_KV_F32 };
	program->rope_inverse_freq = shape->inverse_freq;
	program->rope_magnitude = shape->rope_magnitude;
	program->max_rows = options->max_rows;
	program->max_out_rows = options->max_out_rows;
	rc = kern_kv_init(&program->kv);
	return rc < 0 ? rc : model->backend->ops->program_prepare(model->backend, program);
}

/* A file without a tokenizer serves token ids; one whose tokenizer cannot be read is refused. */
static int make_tokenizer(struct model_loader *loader)
{
	struct model *model = loader->model;
	int rc = model_tokenizer_create(&model->tokenizer, loader->gguf);

	if (rc == -ENOENT) {
		model->tokenizer = NULL;
		return 0;
	}
	if (rc == 0 && model_tokenizer_size(model->tokenizer) > model->shape.vocab)
		return base_fail(EBADMSG, "the tokenizer has %" PRIu32 " tokens, the model %" PRIu32,
			model_tokenizer_size(model->tokenizer), model->shape.vocab);
	return rc;
}

static int load_all(struct model_loader *loader, const char *path)
{
	struct model *model = loader->model;
	int rc;

	if (model_gguf_tensor_count(loader->gguf) == 0)
		return base_fail(EBADMSG, "the file has no tensors: it is a vocabulary only");
	loader->used = calloc(model_gguf_tensor_count(loader->gguf), sizeof(*loader->used));
	if (!loader->used)
		return base_fail(ENOMEM, "no memory for the list of tensors");
	set_name(loader, path);
	add_up(loader);
	if ((rc = model_shape_read(loader)) < 0 || (rc = make_tokenizer(loader)) < 0 ||
			(rc = model_llama_build(loader)) < 0 || (rc = check_all_used(loader)) < 0)
		return rc;
	fill_info(model);
	if (model_gguf_damaged(loader->gguf))
		return base_fail(EBADMSG, "the file was truncated while it was read");
	return prepare_program(model, loader->options);
}

int model_load(struct model **model, const char *path, struct kern_backend *backend,
	const struct model_options *options)
{
	struct model *made = calloc(1, sizeof(*made));
	struct model_loader loader = { .options = options, .model = made };
	struct model_gguf *gguf;
	int rc;

	if (!made)
		return base_fail(ENOMEM, "no memory for a model");
	made->backend = backend;
	rc = model_gguf_open(&gguf, path);
	if (rc < 0) {
		free(made);
		return rc;
	}
	loader.gguf = gguf;
	rc = load_all(&loader, path);
	free(loader.used);
	model_gguf_close(gguf);
	if (rc < 0) {
		model_destroy(made);
		return base_fail_within(-rc, "%s", path);
	}
	*model = made;
	return 0;
}

void model_destroy(struct model *model)
{
	if (!model)
		return;
	if (model->program.workspace)
		model->backend->ops->program_release(model->backend, &model->program);
	model_tokenizer_destroy(model->tokenizer);
	for (uint32_t i = model->vector_count; i-- > 0;)
		model->backend->ops->free(model->backend, model->vectors[i]);
	for (uint32_t i = model->weight_count; i-- > 0;)
		model->backend->ops->weight_destroy(model->backend, model->weights[i]);
	free(model->vectors);
	free(model->weights);
	free(model->ops);
	free(model);
}

const struct model_info *model_info(const struct model *model)
{
	return &model->info;
}

const struct kern_program *model_program(const struct model *model)
{
	return &model->program;
}

const struct model_tokenizer *model_tokenizer(const struct model *model)
{
	return model->tokenizer;
}

bool model_damaged(const struct model *model)
{
	(void)model; /* its file is closed: nothing is left that could be damaged */
	return false;
}
