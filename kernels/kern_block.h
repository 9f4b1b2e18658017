/*
 * Inside kernels/: one quantized block taken apart into integer codes and scales. Dequantization (the definition of
 * the formats) and the repacking of weights both start here, so that a format's bit layout is written down once.
 */
#ifndef KERN_BLOCK_H
#define KERN_BLOCK_H

#include "kernels/kern_type.h"

/* How an element's value follows from its code q. */
enum kern_scaling {
	KERN_SCALING_NONE,     /* not quantized */
	KERN_SCALING_D,        /* d q, d per 32 elements */
	KERN_SCALING_DM,       /* d q + m, d and m per 32 elements */
	KERN_SCALING_SUPER,    /* (d s) q, d per 256, s per `scale_elements` */
	KERN_SCALING_SUPER_DM, /* (d s) q - (m t), d and m per 256, s and t per `scale_elements` */
};

enum { KERN_BLOCK_ELEMENTS_MAX = 256, KERN_SUPER_ELEMENTS = 256 };

struct kern_block {
	int8_t q[KERN_BLOCK_ELEMENTS_MAX];
	uint16_t d, m;                /* half precision */
	int8_t s[KERN_BLOCK_ELEMENTS_MAX / 16];
	uint8_t t[KERN_BLOCK_ELEMENTS_MAX / 16];
};

/* The sixteen values that the codes of IQ4_NL and IQ4_XS stand for; kern_block.q holds the values. */
extern const int8_t kern_iq4_values[16];

/* KERN_SCALING_NONE for plain floats and unknown types. */
enum kern_scaling kern_type_scaling(enum kern_type type);
/* Elements under one scale: 16 or 32; 0 for plain floats and unknown types. */
uint32_t kern_type_scale_elements(enum kern_type type);

/* Takes one block apart; only types whose scaling is not NONE. */
void kern_block_decode(enum kern_type type, const unsigned char *from, struct kern_block *block);

#endif
