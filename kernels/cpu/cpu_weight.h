/*
 * Weights as the CPU's product kernels want them: output features side by side in groups of `lanes` (the width of a
 * vector register in words), so that a lane is a feature; the last group is padded with zeros.
 *
 * Floats, inside a group: F32 [k][lanes] float; F16 [k][lanes] half; BF16 [k/2][lanes] words, the even k in the low half.
 *
 * Integers. A group is one stream of *chunks*, in the order in which a product reads them; a chunk holds 256 elements of
 * k where the format has super-blocks, else 64, with all that belongs to them:
 *   codes   per block of 32: *planes* of 8, 4, 2 or 1 bits that make up the format's bits. A vector (4 bytes per lane)
 *           holds *quads*, four neighbours in k per lane: one quad in plane 8; in plane 4 an even and an odd one, the even
 *           one in the low nibbles; in plane 2 four, in plane 1 all eight, ascending from the low bits.
 *   scales  D: half d [2][lanes]; DM: then half m [2][lanes]; SUPER: half d [lanes], int8 s [256/sub][lanes]; SUPER_DM:
 *           half d, m [lanes], uint8 s, t [256/sub][lanes].
 * Every part and every chunk begins at a multiple of a vector (4 * lanes bytes).
 *
 * Codes are stored unsigned. A product sees them shifted to the top of a byte where a format's codes have a zero point,
 * which makes the zero point 128 for all of these; the scale makes up for the shift, exactly but for subnormal numbers.
 *
 * Made at load by any one thread, constant afterwards.
 */
#ifndef CPU_WEIGHT_H
#define CPU_WEIGHT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/kern_block.h"

enum { CPU_WEIGHT_BLOCK = 32, CPU_WEIGHT_QUADS = CPU_WEIGHT_BLOCK / 4 };

/* What the kernels must know of an integer format; every field is a constant where the type is one. */
struct cpu_format {
	uint32_t bits;    /* of a stored code: the planes of 8, 4, 2 and 1 that add up to it */
	uint32_t shift;   /* of the code in its byte, where it has a zero point */
	bool zero_point;  /* at 128 after the shift */
	bool table;       /* the code is an index into kern_iq4_values */
	enum kern_scaling scaling;
	uint32_t sub;     /* elements under one scale: 16 or 32 */
	uint32_t chunk;   /* elements of a chunk */
	float factor;     /* of the scale: 2^-shift */
};

static inline __attribute__((always_inline)) struct cpu_format cpu_format_of(const enum kern_type type)
{
	switch (type) {
	case KERN_Q4_0:
		return (struct cpu_format){4, 4, true, false, KERN_SCALING_D, 32, 64, 0x1p-4f};
	case KERN_Q4_1:
		return (struct cpu_format){4, 0, false, false, KERN_SCALING_DM, 32, 64, 1.0f};
	case KERN_Q5_0:
		return (struct cpu_format){5, 3, true, false, KERN_SCALING_D, 32, 64, 0x1p-3f};
	case KERN_Q5_1:
		return (struct cpu_format){5, 0, false, false, KERN_SCALING_DM, 32, 64, 1.0f};
	case KERN_IQ4_NL:
		return (struct cpu_format){4, 0, true, true, KERN_SCALING_D, 32, 64, 1.0f};
	case KERN_Q2_K:
		return (struct cpu_format){2, 0, false, false, KERN_SCALING_SUPER_DM, 16, 256, 1.0f};
	case KERN_Q3_K:
		return (struct cpu_format){3, 5, true, false, KERN_SCALING_SUPER, 16, 256, 0x1p-5f};
	case KERN_Q4_K:
		return (struct cpu_format){4, 0, false, false, KERN_SCALING_SUPER_DM, 32, 256, 1.0f};
	case KERN_Q5_K:
		return (struct cpu_format){5, 0, false, false, KERN_SCALING_SUPER_DM, 32, 256, 1.0f};
	case KERN_Q6_K:
		return (struct cpu_format){6, 2, true, false, KERN_SCALING_SUPER, 16, 256, 0x1p-2f};
	case KERN_IQ4_XS:
		return (struct cpu_format){4, 0, true, true, KERN_SCALING_SUPER, 32, 256, 1.0f};
	default: /* Q8_0 */
		return (struct cpu_format){8, 0, true, false, KERN_SCALING_D, 32, 64, 1.0f};
	}
}

/* Where the parts of a chunk begin, in vectors of 4 * lanes bytes. */
struct cpu_chunk_layout { uint32_t d, m, s, t, vectors; };

static inline __attribute__((always_inline)) struct cpu_chunk_layout cpu_chunk_layout(const struct cpu_format format)
{
	const uint32_t codes = format.chunk / CPU_WEIGHT_BLOCK * format.bits, subs = format.chunk / format.sub / 4;

	switch (format.scaling) {
	case KERN_SCALING_D: /* two blocks of halves fill a vector */
		return (struct cpu_chunk_layout){.d = codes, .vectors = codes + 1};
	case KERN_SCALING_DM:
		return (struct cpu_chunk_layout){.d = codes, .m = codes + 1, .vectors = codes + 2};
	case KERN_SCALING_SUPER: /* d fills half a vector */
		return (struct cpu_chunk_layout){.d = codes, .s = codes + 1, .vectors = codes + 1 + subs};
	default: /* SUPER_DM: m is in d's other half */
		return (struct cpu_chunk_layout){.d = codes, .m = codes, .s = codes + 1, .t = codes + 1 + subs,
			.vectors = codes + 1 + 2 * subs};
	}
}

struct kern_weight {
	enum kern_type type;
	bool integers;        /* multiplied as integers; else as floats */
	uint32_t n, k;
	uint32_t lanes, groups;
	size_t group_bytes;
	size_t chunk_bytes;   /* integers */
	unsigned char *data;  /* [groups][group_bytes], 64-byte aligned */
};

/* Whether products of this type are sums of integers; float types are multiplied as floats. */
bool cpu_weight_integers(enum kern_type type);

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
