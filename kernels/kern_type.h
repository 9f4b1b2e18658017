/*
 * Element formats: of weights (the numbers are GGUF's tensor types), and of KV pages.
 */
#ifndef KERN_TYPE_H
#define KERN_TYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum kern_type {
	KERN_F32 = 0,
	KERN_F16 = 1,
	KERN_Q4_0 = 2,
	KERN_Q4_1 = 3,
	KERN_Q5_0 = 6,
	KERN_Q5_1 = 7,
	KERN_Q8_0 = 8,
	KERN_Q2_K = 10,
	KERN_Q3_K = 11,
	KERN_Q4_K = 12,
	KERN_Q5_K = 13,
	KERN_Q6_K = 14,
	KERN_IQ4_NL = 20,
	KERN_IQ4_XS = 23,
	KERN_BF16 = 30,
	KERN_TYPE_END = 40
};

/* What is known of a type: NULL for one that this build does not know. block_elements divides every row. */
struct kern_type_info {
	const char *name; /* "Q4_1" */
	uint32_t block_elements, block_bytes;
	bool products; /* kern_backend.weight_create takes it */
	bool quantize; /* kern_quantize_row writes it */
};

const struct kern_type_info *kern_type_info(uint32_t type);
/* By name, any case. KERN_TYPE_END when unknown. */
enum kern_type kern_type_by_name(const char *name);
/* Bytes of a row of `elements`; 0 when the type is unknown, elements is no multiple of the block, or it overflows. */
size_t kern_row_bytes(enum kern_type type, uint64_t elements);

/* One row to float32 (the definition of the format; every other code is tested against it). -ENOTSUP. */
int kern_dequantize_row(enum kern_type type, const void *from, float *to, size_t elements);
/* One row from float32, round to nearest; -ENOTSUP where info.quantize is false. */
int kern_quantize_row(enum kern_type type, const float *from, void *to, size_t elements);

float kern_f16_to_f32(uint16_t half);
uint16_t kern_f32_to_f16(float value);   /* nearest even */
float kern_bf16_to_f32(uint16_t brain);
uint16_t kern_f32_to_bf16(float value);  /* nearest even; NaN stays NaN */

#endif
