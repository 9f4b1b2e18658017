/*
 * What the two halves of the GGUF reader share: model_gguf.c takes a file apart, model_gguf_value.c reads values.
 */
#ifndef MODEL_GGUF_INTERNAL_H
#define MODEL_GGUF_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "model/model_gguf.h"

/* Bytes not read yet. Every read checks what is left, again at each visit: a mapped file may change under us. */
struct model_gguf_cursor { const unsigned char *at, *end; };

static inline size_t model_gguf_left(const struct model_gguf_cursor *cursor)
{
	return (size_t)(cursor->end - cursor->at);
}

static inline bool model_gguf_take(struct model_gguf_cursor *cursor, void *to, size_t size_bytes)
{
	if (size_bytes > model_gguf_left(cursor))
		return false;
	memcpy(to, cursor->at, size_bytes);
	cursor->at += size_bytes;
	return true;
}

static inline bool model_gguf_skip(struct model_gguf_cursor *cursor, uint64_t size_bytes)
{
	if (size_bytes > model_gguf_left(cursor))
		return false;
	cursor->at += size_bytes;
	return true;
}

static inline bool model_gguf_take_text(struct model_gguf_cursor *cursor, struct model_text *text)
{
	uint64_t len;

	if (!model_gguf_take(cursor, &len, sizeof(len)))
		return false;
	text->bytes = (const char *)cursor->at;
	text->len = (size_t)len;
	return model_gguf_skip(cursor, len);
}

/* Bytes of one element; 0 for strings, arrays and unknown types. */
size_t model_gguf_value_bytes(uint32_t type);
/* The type's name for messages; "type 77" style names are the caller's affair: "unknown" here. */
const char *model_gguf_value_name(uint32_t type);
/* NULL when there is none. */
const struct model_gguf_key *model_gguf_key(const struct model_gguf *gguf, const char *name);

#endif
