/*
 * Inside kernels/: what the quantizers share. Pure functions, any thread; no value of x, NaN and infinities included, leads out
 * of a code's range.
 */
#ifndef KERN_QUANTIZE_H
#define KERN_QUANTIZE_H

#include "kernels/kern_type.h"

/* Scales below this are zero: their reciprocal would overflow. */
#define KERN_SCALE_LEAST 1e-15f

/* To nearest even, clamped; NaN becomes low. */
int kern_code_nearest(float value, int low, int high);

/* The element of the largest magnitude, with its sign. */
float kern_signed_max(const float *from, size_t count);

void kern_write_u16(unsigned char *to, uint16_t value);

/* One block of Q2_K, Q3_K, Q4_K, Q5_K, IQ4_NL or IQ4_XS. */
void kern_quantize_super(enum kern_type type, const float *from, unsigned char *to);

#endif
