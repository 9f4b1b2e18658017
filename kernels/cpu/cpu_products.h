/*
 * Matrix products of float32 rows with repacked weights: y[m][n] = sum over k of x[m][k] w[n][k].
 *
 * Bits: every element is summed in one order whatever the number of rows, the tile and the thread. Within a block (the
 * elements under one scale; 32 where there is none) the codes are summed with k ascending in one chain that begins
 * at zero; the block's sum is then scaled and added to the total, and where the format has an offset, offset times the
 * block's sum of x. All steps are fused multiply-adds where the instruction set has them. Bias and the addition to y come
 * last. A row of results is a function of its row of x alone.
 *
 * One source (cpu_products.inc) is compiled once per instruction set. Any participant calls run with a scratch of its own;
 * x and weights are constant meanwhile, and tiles do not overlap in y.
 */
#ifndef CPU_PRODUCTS_H
#define CPU_PRODUCTS_H

#include <stdbool.h>

#include "base/base_cpu.h"
#include "kernels/cpu/cpu_weight.h"
#include "kernels/kern_backend.h"

/* Most rows of one tile: bounds the scratch. */
enum { CPU_PRODUCT_ROWS = 96 };

struct cpu_product {
	const struct kern_weight *weight;
	const float *x;
	size_t x_stride;             /* elements from row to row */
	float *y;                    /* written; read only where add is set */
	size_t y_stride;
	const struct kern_out *outs; /* not NULL: row m goes to outs[m].logits instead, where that is not NULL */
	const float *bias;           /* [n], or NULL */
	bool add;                    /* y += */
};

struct cpu_products {
	enum base_isa isa;
	uint32_t lanes;       /* of the weights */
	uint32_t tile_groups; /* groups of features that are best computed together */
	uint32_t tile_rows;   /* the same for rows */
	size_t scratch_bytes; /* per participant, 64-byte aligned */
	/* Rows row..row+rows (at most CPU_PRODUCT_ROWS) and groups group..group+groups. */
	void (*run)(const struct cpu_product *product, uint32_t row, uint32_t rows, uint32_t group, uint32_t groups,
		void *scratch);
};

extern const struct cpu_products cpu_products_scalar;
#if defined(__x86_64__)
extern const struct cpu_products cpu_products_avx2, cpu_products_avx512;
#endif

/* The best that isa (base_cpu()->isa, or lower in tests) allows. */
const struct cpu_products *cpu_products_for(enum base_isa isa);

#endif
