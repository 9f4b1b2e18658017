/*
 * The writer of GGUF files: the head grows in two buffers (keys, tensor descriptions) until begin; then data goes
 * straight to the file. One thread, cold paths only.
 */
#include "model/model_gguf_write.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base_error.h"

enum { ALIGNMENT = 32, VERSION = 3 };

struct buffer {
	unsigned char *bytes;
	size_t used_bytes, size_bytes;
};

struct model_gguf_writer {
	int rc; /* the first error */
	char *path, *part_path;
	FILE *file;
	struct buffer keys, infos;
	uint64_t key_count, tensor_count;
	uint64_t elements_missing;   /* of an array of strings begun */
	uint64_t *tensor_bytes;      /* [tensor_count] */
	uint64_t data_bytes;         /* end of the last tensor named */
	uint64_t tensor, tensor_left; /* being written, and what it lacks */
	bool begun;
};

static void fail(struct model_gguf_writer *writer, int rc)
{
	if (writer->rc == 0)
		writer->rc = rc;
}

static void put(struct model_gguf_writer *writer, struct buffer *buffer, const void *bytes, size_t size_bytes)
{
	if (writer->rc < 0 || size_bytes == 0)
		return;
	if (size_bytes > buffer->size_bytes - buffer->used_bytes) {
		size_t wanted = 2 * buffer->size_bytes + size_bytes + 4096;
		unsigned char *grown = realloc(buffer->bytes, wanted);

		if (!grown) {
			fail(writer, base_fail(ENOMEM, "no memory for the head of %s", writer->path));
			return;
		}
		buffer->bytes = grown;
		buffer->size_bytes = wanted;
	}
	memcpy(buffer->bytes + buffer->used_bytes, bytes, size_bytes);
	buffer->used_bytes += size_bytes;
}

static void put_string(struct model_gguf_writer *writer, struct buffer *buffer, const char *bytes, size_t len)
{
	uint64_t stored = len;

	put(writer, buffer, &stored, sizeof(stored));
	put(writer, buffer, bytes, len);
}

static void put_head(struct model_gguf_writer *writer, const char *key, size_t len, enum model_gguf_value type)
{
	uint32_t stored = (uint32_t)type;

	if (writer->elements_missing > 0)
		fail(writer, base_fail(EINVAL, "key '%.*s' begins while an array lacks %" PRIu64 " elements", (int)len,
			key, writer->elements_missing));
	put_string(writer, &writer->keys, key, len);
	put(writer, &writer->keys, &stored, sizeof(stored));
	writer->key_count++;
}

int model_gguf_writer_create(struct model_gguf_writer **writer, const char *path)
{
	struct model_gguf_writer *made = calloc(1, sizeof(*made));

	if (!made)
		return base_fail(ENOMEM, "no memory to write %s", path);
	made->path = strdup(path);
	if (!made->path || asprintf(&made->part_path, "%s.part", path) < 0) {
		made->part_path = NULL;
		model_gguf_writer_destroy(made);
		return base_fail(ENOMEM, "no memory to write %s", path);
	}
	made->file = fopen(made->part_path, "wbe");
	if (!made->file) {
		int rc = base_fail(errno, "%s: %s", made->part_path, strerror(errno));

		model_gguf_writer_destroy(made);
		return rc;
	}
	*writer = made;
	return 0;
}

void model_gguf_writer_destroy(struct model_gguf_writer *writer)
{
	if (!writer)
		return;
	if (writer->file) {
		fclose(writer->file);
		unlink(writer->part_path);
	}
	free(writer->tensor_bytes);
	free(writer->infos.bytes);
	free(writer->keys.bytes);
	free(writer->part_path);
	free(writer->path);
	free(writer);
}

/* ---- keys ------------------------------------------------------------------------------------------------- */

void model_gguf_put_u32(struct model_gguf_writer *writer, const char *key, uint32_t value)
{
	put_head(writer, key, strlen(key), MODEL_GGUF_U32);
	put(writer, &writer->keys, &value, sizeof(value));
}

void model_gguf_put_f32(struct model_gguf_writer *writer, const char *key, float value)
{
	put_head(writer, key, strlen(key), MODEL_GGUF_F32);
	put(writer, &writer->keys, &value, sizeof(value));
}

void model_gguf_put_bool(struct model_gguf_writer *writer, const char *key, bool value)
{
	unsigned char stored = value;

	put_head(writer, key, strlen(key), MODEL_GGUF_BOOL);
	put(writer, &writer->keys, &stored, sizeof(stored));
}

void model_gguf_put_text(struct model_gguf_writer *writer, const char *key, const char *bytes, size_t len)
{
	put_head(writer, key, strlen(key), MODEL_GGUF_STRING);
	put_string(writer, &writer->keys, bytes, len);
}

static void put_array_head(struct model_gguf_writer *writer, const char *key, enum model_gguf_value type,
	uint64_t count)
{
	uint32_t stored = (uint32_t)type;

	put_head(writer, key, strlen(key), MODEL_GGUF_ARRAY);
	put(writer, &writer->keys, &stored, sizeof(stored));
	put(writer, &writer->keys, &count, sizeof(count));
}

void model_gguf_put_array_i32(struct model_gguf_writer *writer, const char *key, const int32_t *values,
	uint64_t count)
{
	put_array_head(writer, key, MODEL_GGUF_I32, count);
	put(writer, &writer->keys, values, count * sizeof(*values));
}

void model_gguf_put_array_f32(struct model_gguf_writer *writer, const char *key, const float *values,
	uint64_t count)
{
	put_array_head(writer, key, MODEL_GGUF_F32, count);
	put(writer, &writer->keys, values, count * sizeof(*values));
}

void model_gguf_put_array_text(struct model_gguf_writer *writer, const char *key, uint64_t count)
{
	put_array_head(writer, key, MODEL_GGUF_STRING, count);
	writer->elements_missing = count;
}

void model_gguf_put_element(struct model_gguf_writer *writer, const char *bytes, size_t len)
{
	if (writer->elements_missing == 0) {
		fail(writer, base_fail(EINVAL, "more strings than the array was begun with"));
		return;
	}
	writer->elements_missing--;
	put_string(writer, &writer->keys, bytes, len);
}

void model_gguf_put_key(struct model_gguf_writer *writer, const struct model_gguf_key *key)
{
	put_head(writer, key->name.bytes, key->name.len, key->type);
	put(writer, &writer->keys, key->raw.bytes, key->raw.len);
}

/* ---- tensors ---------------------------------------------------------------------------------------------- */

static uint64_t align_up(uint64_t value)
{
	return (value + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* 0 where the shape or type makes no sense. */
static uint64_t size_of_tensor(enum kern_type type, uint32_t dims, const uint64_t *dim)
{
	uint64_t size_bytes;

	if (dims < 1 || dims > MODEL_GGUF_DIMS_MAX)
		return 0;
	size_bytes = kern_row_bytes(type, dim[0]);
	for (uint32_t i = 1; i < dims; i++)
		if (__builtin_mul_overflow(size_bytes, dim[i], &size_bytes))
			return 0;
	return size_bytes;
}

/* Remembers the tensor's size for the checks of data. */
static bool note_tensor(struct model_gguf_writer *writer, uint64_t size_bytes)
{
	uint64_t *grown = realloc(writer->tensor_bytes, (writer->tensor_count + 1) * sizeof(*grown));

	if (!grown)
		return false;
	writer->tensor_bytes = grown;
	grown[writer->tensor_count++] = size_bytes;
	return true;
}

void model_gguf_put_tensor(struct model_gguf_writer *writer, struct model_text name, enum kern_type type,
	uint32_t dims, const uint64_t *dim)
{
	uint64_t size_bytes = size_of_tensor(type, dims, dim);
	uint64_t offset = align_up(writer->data_bytes);
	uint32_t stored_type = (uint32_t)type;

	if (writer->rc < 0)
		return;
	if (size_bytes == 0 || writer->begun) {
		fail(writer, base_fail(EINVAL, "tensor '%.*s' has a shape that its type cannot hold, or comes too late",
			(int)name.len, name.bytes));
		return;
	}
	if (!note_tensor(writer, size_bytes)) {
		fail(writer, base_fail(ENOMEM, "no memory for the head of %s", writer->path));
		return;
	}
	put_string(writer, &writer->infos, name.bytes, name.len);
	put(writer, &writer->infos, &dims, sizeof(dims));
	put(writer, &writer->infos, dim, dims * sizeof(*dim));
	put(writer, &writer->infos, &stored_type, sizeof(stored_type));
	put(writer, &writer->infos, &offset, sizeof(offset));
	writer->data_bytes = offset + size_bytes;
}

/* ---- the file --------------------------------------------------------------------------------------------- */

static void write_out(struct model_gguf_writer *writer, const void *bytes, size_t size_bytes)
{
	if (writer->rc == 0 && size_bytes > 0 && fwrite(bytes, 1, size_bytes, writer->file) != size_bytes)
		fail(writer, base_fail(errno, "writing %s: %s", writer->part_path, strerror(errno)));
}

static void write_padding(struct model_gguf_writer *writer, uint64_t position)
{
	static const unsigned char zeros[ALIGNMENT];

	write_out(writer, zeros, align_up(position) - position);
}

int model_gguf_writer_begin(struct model_gguf_writer *writer)
{
	uint32_t version = VERSION;

	if (writer->elements_missing > 0)
		fail(writer, base_fail(EINVAL, "an array lacks %" PRIu64 " strings", writer->elements_missing));
	if (writer->begun)
		fail(writer, base_fail(EINVAL, "%s was begun already", writer->path));
	write_out(writer, "GGUF", 4);
	write_out(writer, &version, sizeof(version));
	write_out(writer, &writer->tensor_count, sizeof(writer->tensor_count));
	write_out(writer, &writer->key_count, sizeof(writer->key_count));
	write_out(writer, writer->keys.bytes, writer->keys.used_bytes);
	write_out(writer, writer->infos.bytes, writer->infos.used_bytes);
	write_padding(writer, 24 + writer->keys.used_bytes + writer->infos.used_bytes);
	writer->begun = true;
	writer->tensor_left = writer->tensor_count > 0 ? writer->tensor_bytes[0] : 0;
	return writer->rc;
}

/* After the last byte of a tensor: padding, and on to the next. */
static void end_tensor(struct model_gguf_writer *writer)
{
	write_padding(writer, writer->tensor_bytes[writer->tensor]);
	writer->tensor++;
	writer->tensor_left = writer->tensor < writer->tensor_count ? writer->tensor_bytes[writer->tensor] : 0;
}

int model_gguf_writer_data(struct model_gguf_writer *writer, const void *bytes, size_t size_bytes)
{
	if (writer->rc == 0 && (!writer->begun || size_bytes > writer->tensor_left))
		fail(writer, base_fail(EINVAL, "%zu bytes of data where tensor %" PRIu64 " lacks %" PRIu64, size_bytes,
			writer->tensor, writer->tensor_left));
	write_out(writer, bytes, size_bytes);
	if (writer->rc < 0)
		return writer->rc;
	writer->tensor_left -= size_bytes;
	if (writer->tensor_left == 0 && size_bytes > 0)
		end_tensor(writer);
	return writer->rc;
}

int model_gguf_writer_finish(struct model_gguf_writer *writer)
{
	if (writer->rc == 0 && (!writer->begun || writer->tensor < writer->tensor_count))
		fail(writer, base_fail(EINVAL, "%s ends before the data of tensor %" PRIu64 " of %" PRIu64,
			writer->path, writer->tensor, writer->tensor_count));
	if (writer->rc < 0)
		return writer->rc;
	if (fflush(writer->file) != 0 || fsync(fileno(writer->file)) < 0)
		fail(writer, base_fail(errno, "writing %s: %s", writer->part_path, strerror(errno)));
	if (writer->rc == 0 && rename(writer->part_path, writer->path) < 0)
		fail(writer, base_fail(errno, "naming %s: %s", writer->path, strerror(errno)));
	if (writer->rc < 0)
		return writer->rc;
	fclose(writer->file);
	writer->file = NULL;
	return 0;
}
