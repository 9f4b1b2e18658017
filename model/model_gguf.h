/*
 * A hardened reader of GGUF files (versions 2 and 3): every count, length, offset and product is checked against the
 * file's size before it is used; holes are tolerated only as alignment padding; overlapping or out-of-order tensors,
 * duplicate names and keys, unknown types, nested arrays and absurd counts are refused with a message that names the
 * offending key or tensor. Names are printable ASCII, so that a message can quote them. The file is mapped read-only
 * and its mapping is registered with base_fault, so that a later truncation fails this model alone.
 *
 * Control thread, at load. The mapping is constant afterwards (any thread may read).
 */
#ifndef MODEL_GGUF_H
#define MODEL_GGUF_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/kern_type.h"

enum {
	MODEL_GGUF_TENSORS_MAX = 65536, MODEL_GGUF_KEYS_MAX = 65536, MODEL_GGUF_NAME_MAX = 255, MODEL_GGUF_DIMS_MAX = 4
};

enum model_gguf_value {
	MODEL_GGUF_U8, MODEL_GGUF_I8, MODEL_GGUF_U16, MODEL_GGUF_I16, MODEL_GGUF_U32, MODEL_GGUF_I32, MODEL_GGUF_F32,
	MODEL_GGUF_BOOL, MODEL_GGUF_STRING, MODEL_GGUF_ARRAY, MODEL_GGUF_U64, MODEL_GGUF_I64, MODEL_GGUF_F64
};

struct model_text { const char *bytes; size_t len; }; /* not NUL-terminated */

struct model_gguf_tensor {
	struct model_text name;
	enum kern_type type;
	uint32_t dims;
	uint64_t dim[MODEL_GGUF_DIMS_MAX]; /* dim[0] is the contiguous one */
	const void *data;
	size_t size_bytes;
};

struct model_gguf;

/* -errno with a message (-EBADMSG for a malformed file). */
int model_gguf_open(struct model_gguf **gguf, const char *path);
/* The same over memory (fuzzing, tests); the memory must outlive it. */
int model_gguf_open_memory(struct model_gguf **gguf, const void *memory, size_t size_bytes);
void model_gguf_close(struct model_gguf *gguf);
/* True once the file has lost bytes under the mapping: what was read since is zeros. */
bool model_gguf_damaged(const struct model_gguf *gguf);

uint64_t model_gguf_tensor_count(const struct model_gguf *gguf);
const struct model_gguf_tensor *model_gguf_tensor_at(const struct model_gguf *gguf, uint64_t index);
/* NULL when there is none. One probe of a table made at open. */
const struct model_gguf_tensor *model_gguf_tensor(const struct model_gguf *gguf, const char *name);

/* A key as it stands in the file: for copying and listing. raw is the value's bytes, of an array with its head. */
struct model_gguf_key {
	struct model_text name;
	enum model_gguf_value type, element_type; /* element_type and count: of an array */
	uint64_t count;
	struct model_text raw;
};

uint64_t model_gguf_key_count(const struct model_gguf *gguf);
const struct model_gguf_key *model_gguf_key_at(const struct model_gguf *gguf, uint64_t index);

/* Scalars: any integer type that fits; 0 found, -ENOENT absent, -EBADMSG wrong type or range, with a message. */
int model_gguf_u32(const struct model_gguf *gguf, const char *key, uint32_t *value);
int model_gguf_f32(const struct model_gguf *gguf, const char *key, float *value);
int model_gguf_bool(const struct model_gguf *gguf, const char *key, bool *value);
int model_gguf_text(const struct model_gguf *gguf, const char *key, struct model_text *value);

/* Arrays: element type and count; then elements. -ENOENT, -EBADMSG. */
int model_gguf_array(const struct model_gguf *gguf, const char *key, enum model_gguf_value *type, uint64_t *count);
/* Walks an array of strings in order: begin with *cursor = 0; 1 = one more in *text, 0 = at the end. */
int model_gguf_array_text(const struct model_gguf *gguf, const char *key, uint64_t *cursor, struct model_text *text);
/* Copies a numeric array, converting; -ERANGE when count differs from the array's; -EBADMSG when it is not numeric or
 * a value does not fit. */
int model_gguf_array_i32(const struct model_gguf *gguf, const char *key, int32_t *values, uint64_t count);
int model_gguf_array_f32(const struct model_gguf *gguf, const char *key, float *values, uint64_t count);

#endif
