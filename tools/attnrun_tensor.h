/*
 * Small float32 tensors in files: NumPy's .npy (versions 1 and 2, little-endian f4 or f8, C
 * order), or raw float32 without a header.
 */
#ifndef ATTNRUN_TENSOR_H
#define ATTNRUN_TENSOR_H

#include <stddef.h>
#include <stdint.h>

enum { ATTNRUN_TENSOR_DIMS = 4 };
#define ATTNRUN_TENSOR_BYTES_MAX (UINT64_C(1) << 34)

struct attnrun_tensor {
	float *data;
	size_t count;
	unsigned dims; /* 0: raw, the file says nothing of its shape */
	size_t shape[ATTNRUN_TENSOR_DIMS];
};

/* 0, or -errno with a message. */
int attnrun_tensor_read(struct attnrun_tensor *tensor, const char *path);
/* .npy when the path ends so, else raw. */
int attnrun_tensor_write(const struct attnrun_tensor *tensor, const char *path);
/* Normally distributed, a function of the seed. */
int attnrun_tensor_random(struct attnrun_tensor *tensor, size_t count, uint64_t seed);
void attnrun_tensor_free(struct attnrun_tensor *tensor);

#endif
