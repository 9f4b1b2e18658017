/*
 * Matrix products of float32 rows with repacked weights: y[m][n] = sum over k of x[m][k] w[n][k].
 *
 * Bits: every element is computed by one sequence of operations whatever the number of rows, the tile and the thread, so
 * a row of results is a function of its row of x alone. All multiply-adds are fused where the instruction set has
 * them. Bias and the addition to y come last.
 *
 * Float weights: within a block of 32 elements the products are added with k ascending in one chain that begins at zero;
 * the block's sum is then added to the total.
 *
 * Integer weights: x is quantized first, each block of 32 elements by itself: scale a = max|x| / 127, integers q nearest
 * to x * (1 / a) (Q8_0's rule, with a in float32). A block of nothing above 2^-100 is zero; one with a NaN or infinity has NaN
 * for scale, so that the row's results are NaN. Where one element stands out so far that it leaves the others few bits (sum
 * of q^2 below CPU_WIDE_SQUARES; not with 2^127 or more) the block is *wide*: what is left of x is quantized once more,
 * integers r nearest to (x - a q) * (254 * (1 / a)), with scale b = a / 254. Elements under one scale of the weight are
 * multiplied and added as integers, exactly; then, ascending, block by block,
 *     total = float(sum w q) * (w a) + total
 *     total = m * (a * float(sum q) [+ b * float(sum r)]) + total      where the format has an offset m
 * for each scale of the block, and where the block is wide
 *     total = float(sum w r) * (w b) + total
 * for each scale again; w a, w b, the bracketed sums and what the format says of w and m are each rounded to float32.
 *
 * One source per kind (cpu_products_float.inc, cpu_products_integer.inc) is compiled once per instruction set. Any
 * participant calls run with a scratch of its own; x and weights are constant meanwhile, and tiles do not overlap in y.
 */
#ifndef CPU_PRODUCTS_H
#define CPU_PRODUCTS_H

#include <stdbool.h>
#include <string.h>

#include "base/base_cpu.h"
#include "kernels/cpu/cpu_ahead.h"
#include "kernels/cpu/cpu_weight.h"
#include "kernels/kern_backend.h"

/* Most rows of one tile: bounds the scratch, and what a tile touches for a block of k stays in the first-level cache. */
enum { CPU_PRODUCT_ROWS = 64 };

/* Scratch of products of integers: AMX hands its last rows to AVX-512, so that both make do with the same. */
enum { CPU_INTEGER_SCRATCH_BYTES = 24 * 1024 };

/* Blocks whose integers' squares sum to less are wide: the largest element is more than sqrt(20) times the root mean
 * square. At most few blocks of a normal distribution are; those of trained models that are carry most of the error. */
enum { CPU_WIDE_SQUARES = 32 * 127 * 127 / 20 };

/* Rows of x as integers, by blocks of 32 elements, so that a tile reads a block's rows as one stream. */
struct cpu_rows8 {
	unsigned char *data;  /* [blocks][block_bytes], 64-byte aligned */
	uint32_t row_stride;  /* rows that there is room for: below 16, or a multiple of 16 */
	size_t block_bytes;
};

/* Integers and their scale. */
struct cpu_limb {
	int8_t *q;      /* [rows][32] */
	float *scale;   /* [rows] */
	int32_t *minus; /* [3][rows]: -128 times the sum of q: of all 32, of the first 16, of the others */
};

/* The parts of one block of rows; each array has row_stride entries per index. */
struct cpu_rows8_block {
	struct cpu_limb first, second; /* second: of wide rows only */
	float *sum;                    /* [3][rows]: what multiplies offsets, as minus */
	uint16_t *wide;                /* [rows / 16]: a bit per row */
};

/* Bytes of one row in a limb; of one row in a block without the bits in `wide`. */
enum { CPU_LIMB_BYTES = 32 + 4 + 3 * 4, CPU_ROWS8_BYTES = 2 * CPU_LIMB_BYTES + 3 * 4 };

static inline struct cpu_limb cpu_limb_at(unsigned char *at, size_t stride)
{
	return (struct cpu_limb){
		.q = (int8_t *)at,
		.scale = (float *)(void *)(at + stride * 32),
		.minus = (int32_t *)(void *)(at + stride * 36),
	};
}

/* What is read always comes first. */
static inline struct cpu_rows8_block cpu_rows8_block(const struct cpu_rows8 *rows, size_t block)
{
	unsigned char *at = rows->data + block * rows->block_bytes;
	const size_t stride = rows->row_stride;

	return (struct cpu_rows8_block){
		.first = cpu_limb_at(at, stride),
		.sum = (float *)(void *)(at + stride * CPU_LIMB_BYTES),
		.second = cpu_limb_at(at + stride * (CPU_LIMB_BYTES + 12), stride),
		.wide = (uint16_t *)(void *)(at + stride * CPU_ROWS8_BYTES),
	};
}

static inline size_t cpu_rows8_block_bytes(uint32_t rows)
{
	return ((size_t)rows * CPU_ROWS8_BYTES + (rows + 15) / 16 * 2 + 63) / 64 * 64;
}

struct cpu_product {
	const struct kern_weight *weight;
	const float *x;              /* float weights */
	size_t x_stride;             /* elements from row to row */
	struct cpu_rows8 rows8;      /* integer weights: x quantized */
	float *y;                    /* written; read only where add is set */
	size_t y_stride;
	const struct kern_out *outs; /* not NULL: row m goes to outs[m].logits instead, where that is not NULL */
	const float *bias;           /* [n], or NULL */
	bool add;                    /* y += */
};

struct cpu_products {
	const char *name;
	enum base_isa isa;
	uint32_t lanes;       /* of the weights */
	uint32_t tile_groups; /* groups of features that are best computed together */
	uint32_t tile_rows;   /* the same for rows */
	size_t scratch_bytes; /* per participant, 64-byte aligned */
	/* Rows row..row+rows (at most CPU_PRODUCT_ROWS) and groups group..group+groups. ahead: asked for on the way, as many bytes as
	 * the groups have. */
	void (*run)(const struct cpu_product *product, uint32_t row, uint32_t rows, uint32_t group, uint32_t groups,
		struct cpu_ahead *ahead, void *scratch);
	/* Integer weights: rows row..row+rows of x, k elements each; row is a multiple of 16. NULL for floats. */
	void (*quantize)(const struct cpu_rows8 *to, const float *x, size_t x_stride, uint32_t row, uint32_t rows,
		uint32_t k);
};

/* What this machine's instruction set (base_cpu(), or less in tests) is best served with. Both may have other lanes. */
const struct cpu_products *cpu_products_float(enum base_isa isa);
const struct cpu_products *cpu_products_integer(enum base_isa isa);
/* AMX, which takes the weights of AVX-512 and gives its bits; NULL where there is none, or the kernel does not allow it. */
const struct cpu_products *cpu_products_amx(void);

extern const struct cpu_products cpu_products_float_scalar, cpu_products_integer_scalar;
#if defined(__x86_64__)
extern const struct cpu_products cpu_products_float_avx2, cpu_products_float_avx512;
extern const struct cpu_products cpu_products_integer_avx2, cpu_products_integer_avx512, cpu_products_integer_amx;
#endif

/* Totals of a tile, [rows][stride], to where the product wants features first..first+count of its rows. */
static inline void cpu_product_finish(const struct cpu_product *product, uint32_t row, uint32_t rows, uint32_t first,
	uint32_t count, const float *totals, size_t stride)
{
	const float *bias = product->bias ? product->bias + first : NULL;

	for (uint32_t r = 0; r < rows; r++, totals += stride) {
		float *y = product->outs ? product->outs[row + r].logits : product->y + (row + r) * product->y_stride;

		if (!y)
			continue;
		y += first;
		if (bias && product->add)
			for (uint32_t i = 0; i < count; i++)
				y[i] += totals[i] + bias[i];
		else if (bias)
			for (uint32_t i = 0; i < count; i++)
				y[i] = totals[i] + bias[i];
		else if (product->add)
			for (uint32_t i = 0; i < count; i++)
				y[i] += totals[i];
		else
			memcpy(y, totals, count * sizeof(float));
	}
}

#endif
