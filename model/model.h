/*
 * A whole model, loaded: its shape, its tokenizer, and its forward pass as a program for one backend.
 *
 * Control thread, at load; constant afterwards, but for the program's workspace, which belongs to the backend's owner.
 */
#ifndef MODEL_H
#define MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/kern_backend.h"
#include "model/model_token.h"

struct model_info {
	char name[64];         /* general.name, else the file's name */
	char architecture[16]; /* "llama", "qwen2", "qwen3", "mistral" */
	char weights[16];      /* the commonest tensor type by bytes, "Q4_1" */
	uint64_t parameters, weight_bytes;
	uint32_t vocab, width, layers, heads, kv_heads, head_dim, ff_width, context;
};

struct model_options {
	size_t struct_bytes;
	uint32_t max_rows;     /* rows of one step; sizes the workspace */
	uint32_t max_out_rows; /* output rows of one step */
	/* Called now and then while weights are repacked; may be NULL. */
	void (*progress)(void *context, uint64_t done_bytes, uint64_t total_bytes);
	void *context;
};

struct model;

/* Reads, checks and repacks a GGUF file onto the backend. -errno with a message; nothing is left behind on failure. */
int model_load(struct model **model, const char *path, struct kern_backend *backend,
	const struct model_options *options);
void model_destroy(struct model *model);

const struct model_info *model_info(const struct model *model);
const struct kern_program *model_program(const struct model *model);
const struct model_tokenizer *model_tokenizer(const struct model *model); /* NULL: none in the file */
/* True once its file was damaged while mapped (only where weights are used in place). */
bool model_damaged(const struct model *model);

#endif
