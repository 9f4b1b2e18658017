/*
 * Weights as the CPU's product kernels want them: output features side by side in groups of `lanes` (the width of a
 * vector register), so that a lane is a feature and k runs sequentially; the last group is padded with zeros.
 *
 * Inside a group, in this order, each part at a multiple of 64 bytes:
 *   codes   F32 [k][lanes] float; F16 [k][lanes] half; BF16 [k/2][lanes] words, the even k in the low half;
 *           INT8 [k][lanes]; NIBBLES [k/8][lanes] words, element k in bits 4*(k%8)
 *   scale   D, DM: half [k/32][lanes]; SUPER: int8 [k/16][lanes]; SUPER_DM: uint8 [k/32][lanes]
 *   offset  DM: half [k/32][lanes]; SUPER_DM: uint8 [k/32][lanes]
 *   super   SUPER, SUPER_DM: half d [k/256][lanes], then SUPER_DM: half m
 *
 * Made at load by any one thread, constant afterwards.
 */
#ifndef CPU_WEIGHT_H
#define CPU_WEIGHT_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/kern_block.h"

enum cpu_coding {
	CPU_CODING_F32,
	CPU_CODING_F16,
	CPU_CODING_BF16,
	CPU_CODING_INT8,
	CPU_CODING_NIBBLES,   /* 0..15 */
	CPU_CODING_NIBBLES_8, /* stored 0..15, meaning -8..7 */
	CPU_CODINGS
};

struct kern_weight {
	enum kern_type type;
	enum cpu_coding coding;
	enum kern_scaling scaling;
	uint32_t n, k;
	uint32_t lanes, groups;
	uint32_t block;     /* elements under one scale: products sum so many before they scale */
	size_t group_bytes;
	size_t scale_at, offset_at, super_at, super_offset_at; /* inside a group */
	unsigned char *data; /* [groups][group_bytes], 64-byte aligned */
};

/* Fills everything but data for a matrix of n features by k. -ENOTSUP, -EINVAL with a message. */
int cpu_weight_shape(struct kern_weight *weight, enum kern_type type, uint32_t n, uint32_t k, uint32_t lanes);

/* Bytes that data must have. */
size_t cpu_weight_bytes(const struct kern_weight *weight);

/* Repacks source, [n] rows in file format, into zeroed data. */
void cpu_weight_pack(struct kern_weight *weight, const void *source);

/* Feature `row` as float32, as kern_dequantize_row gives it. */
void cpu_weight_row(const struct kern_weight *weight, uint32_t row, float *to);

static inline const unsigned char *cpu_weight_group(const struct kern_weight *weight, uint32_t group)
{
	return weight->data + group * weight->group_bytes;
}

#endif
