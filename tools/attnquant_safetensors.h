/*
 * Safetensors: the tensors of a Hugging Face folder, from one file or from shards. One thread.
 * The files are not trusted: shapes, offsets and sizes are checked, and holes and overlaps
 * refused.
 */
#ifndef ATTNQUANT_SAFETENSORS_H
#define ATTNQUANT_SAFETENSORS_H

#include "tools/attnquant.h"

struct attnquant_safetensor {
	char *name;
	enum kern_type type; /* F32, F16, BF16 */
	uint32_t dims;
	uint64_t shape[4]; /* as in the file: the last one is contiguous */
	const unsigned char *data;
	uint64_t begin, end; /* in its file's data */
	bool used;
};

struct attnquant_safetensors {
	struct attnquant_file *files;
	uint32_t file_count, count;
	struct attnquant_safetensor *tensors; /* sorted by name */
};

/* model.safetensors, or the shards that model.safetensors.index.json names. */
int attnquant_safetensors_open(struct attnquant_safetensors *all, const char *folder);
void attnquant_safetensors_close(struct attnquant_safetensors *all);
/* NULL when there is none; marks it used. */
struct attnquant_safetensor *attnquant_safetensors_find(
	struct attnquant_safetensors *all, const char *name);

#endif
