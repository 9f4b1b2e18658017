/*
 * Writes GGUF files (version 3), for attnquant and tests. Tensor data is streamed: nothing but the head is held in
 * memory. The file is written beside its destination and renamed when it is complete, so that nobody sees half a
 * file.
 *
 * One thread. The order of calls: create; keys and tensors in any order; begin; data of the tensors in the order in
 * which they were named; finish. The first error sticks: later calls do nothing, begin, data and finish return it.
 */
#ifndef MODEL_GGUF_WRITE_H
#define MODEL_GGUF_WRITE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/kern_type.h"
#include "model/model_gguf.h"

struct model_gguf_writer;

/* -errno with a message. */
int model_gguf_writer_create(struct model_gguf_writer **writer, const char *path);
/* Removes what was written unless finish succeeded. */
void model_gguf_writer_destroy(struct model_gguf_writer *writer);

void model_gguf_put_u32(struct model_gguf_writer *writer, const char *key, uint32_t value);
void model_gguf_put_f32(struct model_gguf_writer *writer, const char *key, float value);
void model_gguf_put_bool(struct model_gguf_writer *writer, const char *key, bool value);
void model_gguf_put_text(struct model_gguf_writer *writer, const char *key, const char *bytes, size_t len);
void model_gguf_put_array_i32(struct model_gguf_writer *writer, const char *key, const int32_t *values,
	uint64_t count);
void model_gguf_put_array_f32(struct model_gguf_writer *writer, const char *key, const float *values,
	uint64_t count);
/* An array of strings: begin with its count, then exactly as many elements. */
void model_gguf_put_array_text(struct model_gguf_writer *writer, const char *key, uint64_t count);
void model_gguf_put_element(struct model_gguf_writer *writer, const char *bytes, size_t len);
/* As it stands in another file. */
void model_gguf_put_key(struct model_gguf_writer *writer, const struct model_gguf_key *key);

/* dim[0] is the contiguous one and divides into whole blocks of the type. */
void model_gguf_put_tensor(struct model_gguf_writer *writer, struct model_text name, enum kern_type type,
	uint32_t dims, const uint64_t *dim);

int model_gguf_writer_begin(struct model_gguf_writer *writer);
/* The next bytes of the current tensor; padding is added at its end. -EINVAL when they exceed it. */
int model_gguf_writer_data(struct model_gguf_writer *writer, const void *bytes, size_t size_bytes);
/* -EINVAL when data is missing; -errno when the file cannot be completed. Then the file is in its place. */
int model_gguf_writer_finish(struct model_gguf_writer *writer);

#endif
