/*
 * Fuzzes the GGUF reader: any bytes either are refused with a message or make a file whose every key, string and
 * tensor byte can be read. The input is copied to a heap block of exactly its size, so that a sanitizer sees the
 * first byte read past the end.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"
#include "model/model_gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile unsigned char seen; /* keeps the reads from being optimized away */

static void touch(const void *bytes, size_t size)
{
	const unsigned char *at = bytes;

	for (size_t i = 0; i < size; i++)
		seen = (unsigned char)(seen ^ at[i]);
}

static void walk_key(const struct model_gguf *gguf, const struct model_gguf_key *key)
{
	char name[MODEL_GGUF_NAME_MAX + 1];
	struct model_text text;
	enum model_gguf_value type;
	uint64_t count, cursor = 0;
	uint32_t u32;
	float f32, floats[16];
	int32_t ints[16];
	bool truth;

	memcpy(name, key->name.bytes, key->name.len);
	name[key->name.len] = '\0';
	touch(key->raw.bytes, key->raw.len);
	model_gguf_u32(gguf, name, &u32);
	model_gguf_f32(gguf, name, &f32);
	model_gguf_bool(gguf, name, &truth);
	if (model_gguf_text(gguf, name, &text) == 0)
		touch(text.bytes, text.len);
	if (model_gguf_array(gguf, name, &type, &count) < 0)
		return;
	while (model_gguf_array_text(gguf, name, &cursor, &text) == 1)
		touch(text.bytes, text.len);
	if (count <= 16) {
		model_gguf_array_i32(gguf, name, ints, count);
		model_gguf_array_f32(gguf, name, floats, count);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct model_gguf *gguf;
	unsigned char *copy = malloc(size > 0 ? size : 1);

	if (!copy)
		return 0;
	memcpy(copy, data, size);
	base_error_clear();
	if (model_gguf_open_memory(&gguf, copy, size) < 0) {
		if (base_error_message()[0] == '\0')
			abort(); /* refused without a word */
		free(copy);
		return 0;
	}
	for (uint64_t i = 0; i < model_gguf_key_count(gguf); i++)
		walk_key(gguf, model_gguf_key_at(gguf, i));
	for (uint64_t i = 0; i < model_gguf_tensor_count(gguf); i++) {
		const struct model_gguf_tensor *tensor = model_gguf_tensor_at(gguf, i);

		touch(tensor->data, tensor->size_bytes);
	}
	model_gguf_close(gguf);
	free(copy);
	return 0;
}
