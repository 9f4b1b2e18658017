/*
 * What each instruction set brings to attention: a table of small functions over rows and pages, called by
 * cpu_attention.c and cpu_attention_append.c on whichever thread runs a unit. They touch what they are given, and
 * keep no state.
 *
 * Bits. A query vector's result must not depend on which other vectors share a call. So every function that takes
 * several vectors does, for each, the same operations in the same order whatever their number: sums over channels
 * go in ascending order with one lane per token, sums over tokens in ascending order with one lane per channel, and
 * the sum of a page's probabilities is a fixed tree over its 64 lanes, in which invisible tokens are exact zeros.
 *
 * Integers. Against int8 K a query is a scale and integers of 15 bits (+-16256), and in front of int8 V the weights of a
 * page (probability times v_scale) are a power of two and integers of 15 bits, so that their rounding is far below that
 * of K and V; products are sums of integers, exact, and the same on every instruction set. Tokens that are not seen
 * weigh exactly 0 whatever their page holds.
 *
 * Logits are kept in units of log 2, so that a probability is a power of two.
 */
#ifndef CPU_ATTENTION_KERNELS_H
#define CPU_ATTENTION_KERNELS_H

#include "kernels/cpu/cpu_ahead.h"
#include "kernels/cpu/cpu_attention.h"

enum {
	CPU_ATTENTION_VECTORS = 64, /* query vectors (row, head) that a unit handles at most */
	CPU_ATTENTION_BLOCK = 16,   /* of these, as many as AMX takes at once */
	CPU_ATTENTION_ROOM = CPU_ATTENTION_VECTORS + CPU_ATTENTION_BLOCK, /* in arrays of which it takes whole blocks from any vector on */
	CPU_ATTENTION_FEW = 4,
	CPU_ATTENTION_DIM_MAX = 256,
	CPU_ATTENTION_TILE_TOKENS = 16, /* neighbours in a transposed page */
	CPU_ATTENTION_SPLIT_TOKENS = 512, /* KV is split at multiples of this; part of the definition of the result */
	CPU_ATTENTION_QUERY_LIMIT = 127 * 128,
	CPU_ATTENTION_WEIGHT_BITS = 15,
	CPU_ATTENTION_APPEND_FLOATS = CPU_ATTENTION_DIM_MAX * (1 + KERN_PAGE_TOKENS / 4), /* a row, and bytes of a page */
	CPU_ATTENTION_GROUPS = CPU_ATTENTION_DIM_MAX / KERN_KV_GROUP,
};

/* State of a query vector's softmax: sum of 2^(logit - max) over the keys seen so far. */
struct cpu_attention_state { float max, sum; };

/* The int8 K of a page. */
struct cpu_attention_int8 {
	const int8_t *k;
	const float *scale;
	const int32_t *sum;
};

/* Query vectors ready for int8 K: [vectors] scales and q.mean, and integers in the table's own packing. */
struct cpu_attention_query8 {
	const void *packed; /* [vectors][head_dim] of 2 bytes each */
	const float *scale, *mean_product;
};

/* The int4 K of a page, unpacked as int8 lies: [dim/4][64][4], levels with 64 added. */
struct cpu_attention_int4 {
	const uint8_t *k;
	const uint16_t *scale; /* [groups][64] bf16 */
};

/* Query vectors ready for int4 K: a scale and integers of 8 bits, whose rounding is far below that of K. */
struct cpu_attention_query4 {
	const int8_t *packed;  /* [vectors][head_dim], rotated */
	const int32_t *sums;   /* [vectors][CPU_ATTENTION_GROUPS]: of each group's integers */
	const float *scale, *mean_product;
};

/* K as the float32 functions take it: float32, bf16, f16, or fp8 with what makes it whole again. */
struct cpu_attention_plain {
	const void *k;
	enum kern_kv format;
	const float *scale, *mean, *width; /* fp8 only: [64], [dim], [dim] */
};

/* Weights of a page's tokens ready for int8 V: [vectors] scales, and integers in the table's own packing. int4 V has weights
 * for each group of channels, as its scales are in them; groups is 1 for int8. */
struct cpu_attention_weights8 {
	void *packed; /* [vectors][groups][64] of 2 bytes each */
	float *scale;
	uint32_t groups;
};

/* How raw products become probabilities, the same for all vectors of a call. */
struct cpu_attention_softmax {
	float scale;         /* of products: to logits, or with a cap to logits / cap */
	float cap;           /* of logits; 0 off */
	const uint64_t *visible; /* [vectors]: bit t says whether token t of the page is seen; NULL: all are, by all */
	enum kern_kv v_format;
	const void *v_scale; /* of the page: float32 [64] where V is int8 or fp8, bf16 [groups][64] where it is int4 */
};

/* The running states of some vectors, and the factor by which the last page has shrunk what they held before. */
struct cpu_attention_running { float *max, *sum, *factor; };

struct cpu_attention_kernels {
	/* ---- rows ------------------------------------------------------------------------------------------ */

	/* Between client memory and float32; each element is read or written once. */
	void (*load)(float *to, const void *from, uint32_t n, enum kern_dtype dtype);
	void (*store)(void *to, const float *from, uint32_t n, enum kern_dtype dtype);
	/* Rotates x in place; cos_sin [rotated/2][2]. */
	void (*rope)(float *x, const float *cos_sin, enum kern_rope rope, uint32_t rotated);
	/* x = (x - mean) / width, exactly so: widths are powers of two. */
	void (*smooth)(float *x, const float *mean, const float *width, uint32_t n);
	/* x to integers of +-127; returns the scale, and their sum if `sum` is not NULL. A row with a NaN or infinity
	 * becomes zeros with a NaN for scale, so that whoever sees the token gets NaN, as with float32. */
	float (*quantize)(int8_t *to, const float *x, uint32_t n, int32_t *sum);
	/* The same as e4m3: one code a byte, and as f16 whose upper bits they are. */
	float (*quantize_fp8)(uint8_t *to, const float *x, uint32_t n);
	/* The same as codes of 4 bits, one a byte, and their low halves, with a bf16 scale for each group. All scales are NaN
	 * where one would be. */
	void (*quantize_int4)(uint8_t *to, uint8_t *low, uint16_t *scales, const float *x, uint32_t n);
	/* From the mean of an int4 page of K to that of the next, by the page's unpacked codes. */
	void (*follow)(float *mean, const float *width, const uint8_t *codes, const uint16_t *scales, uint32_t dim);
	/* The rotation of int4, its own inverse. */
	void (*rotate)(float *x, uint32_t n);
	/* Puts n codes of `bits` bits 4 bytes apart, `shift` bits up in each word whose other bits belong to other tokens. */
	void (*interleave)(void *to, const void *from, uint32_t n, uint32_t bits, uint32_t shift);
	/* What 64 rows of float32 or bf16 say about each channel, but for its two largest and two smallest elements: the
	 * mean (0 where it is not finite), and how much wider it is than the average channel, as a power of two >= 1, or
	 * the square root of that where K is rotated afterwards. */
	void (*survey)(float *mean, float *width, const void *rows, enum kern_kv format, uint32_t dim, bool rotated);
	float (*dot)(const float *a, const float *b, uint32_t n);
	/* Products of q [vectors][n] with one vector. */
	void (*dots)(float *products, const float *q, uint32_t vectors, const float *b, uint32_t n);
	/* Packs q * width for `product_int8`; returns its scale. NaN as in quantize. */
	float (*quantize_query)(void *packed, const float *q, const float *width, uint32_t n);
	/* The same for `product_int4`, of q * width that was rotated. */
	float (*quantize_query4)(int8_t *packed, int32_t *sums, const float *q, uint32_t n);
	/* Adds a later part to (state, o). The parts of a row are added in ascending order of position. */
	void (*fold)(struct cpu_attention_state *state, float *o, const struct cpu_attention_state *part,
		const float *part_o, uint32_t dim);
	void (*multiply)(float *x, float factor, uint32_t n);

	/* Before the first and after the last page function of a unit, where not NULL. */
	void (*begin)(enum kern_kv k_format, uint32_t dim);
	void (*end)(void);

	/* ---- pages ----------------------------------------------------------------------------------------- */

	/* The first `tokens` rows of K (rounded up to 16) to float32 [64/16][dim][16]. */
	void (*transpose)(float *tile, const struct cpu_attention_plain *k, uint32_t tokens, uint32_t dim);
	/* Raw products of q [vectors][dim] with the first `tokens` (rounded up to 16) of a tile: [vectors][64]. */
	void (*product)(float *products, const float *tile, const float *q, uint32_t vectors, uint32_t tokens,
		uint32_t dim);
	/* ahead: asked for on the way, as much as there is of K; the same below with V. */
	void (*product_int8)(float *products, const struct cpu_attention_int8 *k,
		const struct cpu_attention_query8 *q, uint32_t vectors, uint32_t dim, struct cpu_ahead *ahead);
	/* int4 codes to what they stand for, one a byte, as int8 lies: of K with 64 added. */
	void (*unpack_k)(uint8_t *to, const uint8_t *from, uint32_t dim, struct cpu_ahead *ahead);
	void (*unpack_v)(uint8_t *to, const uint8_t *from, uint32_t dim, struct cpu_ahead *ahead);
	/* Adds low halves to them: `pairs` of quads, each of `quad` bytes. */
	void (*add_low)(uint8_t *to, const uint8_t *low, uint32_t quad, uint32_t pairs);
	void (*product_int4)(float *products, const struct cpu_attention_int4 *k, const struct cpu_attention_query4 *q,
		uint32_t vectors, uint32_t dim);
	/* NULL, or the same of up to CPU_ATTENTION_FEW vectors with codes as they lie in the page, [dim/8][64][4]. */
	void (*product_codes)(float *products, const struct cpu_attention_int4 *k, const struct cpu_attention_query4 *q,
		uint32_t vectors, uint32_t dim, struct cpu_ahead *ahead);
	/* n elements of V, not float32, to float32, for use by many vectors. n: a multiple of 64. */
	void (*widen)(float *to, const void *v, enum kern_kv format, uint32_t n);
	/* Products [vectors][64] become weights of V, in place, v_scale included; the states move on. */
	void (*softmax)(float *products, uint32_t vectors, const struct cpu_attention_softmax *how,
		const struct cpu_attention_running *running);
	/* The same for int8 and int4 V, with weights as integers; products are overwritten. */
	void (*softmax_int8)(const struct cpu_attention_weights8 *weights, float *products, uint32_t vectors,
		const struct cpu_attention_softmax *how, const struct cpu_attention_running *running);
	/* o [vectors][dim] += weights [vectors][64] * V, tokens begin <= t < end only: others may be NaN. */
	void (*accumulate)(float *o, const float *weights, uint32_t vectors, const void *v, enum kern_kv format,
		uint32_t begin, uint32_t end, uint32_t dim);
	/* o [vectors][dim] = o * factor [vectors] + weights * V. */
	void (*accumulate_int8)(float *o, const float *factor, const struct cpu_attention_weights8 *weights, uint32_t vectors,
		const int8_t *v, uint32_t dim, struct cpu_ahead *ahead);
	/* NULL, or the same of int4 for up to CPU_ATTENTION_FEW vectors with codes as they lie in the page, [64/8][dim][4]. */
	void (*accumulate_codes)(float *o, const float *factor, const struct cpu_attention_weights8 *weights, uint32_t vectors,
		const uint8_t *v, uint32_t dim, struct cpu_ahead *ahead);
};

extern const struct cpu_attention_kernels cpu_attention_scalar, cpu_attention_avx2, cpu_attention_avx512, cpu_attention_amx;

/* AVX-512's table is put together from several files. */
void cpu_attention_rotate_avx512(float *x, uint32_t n);
void cpu_attention_dots_avx512(float *products, const float *q, uint32_t vectors, const float *b, uint32_t n);
void cpu_attention_unpack_k_avx512(uint8_t *to, const uint8_t *from, uint32_t dim, struct cpu_ahead *ahead);
void cpu_attention_unpack_v_avx512(uint8_t *to, const uint8_t *from, uint32_t dim, struct cpu_ahead *ahead);
void cpu_attention_product_codes_avx512(float *products, const struct cpu_attention_int4 *k,
	const struct cpu_attention_query4 *q, uint32_t vectors, uint32_t dim, struct cpu_ahead *ahead);
void cpu_attention_accumulate_codes_avx512(float *o, const float *factor, const struct cpu_attention_weights8 *weights,
	uint32_t vectors, const uint8_t *v, uint32_t dim, struct cpu_ahead *ahead);
void cpu_attention_softmax_avx512(float *products, uint32_t vectors, const struct cpu_attention_softmax *how,
	const struct cpu_attention_running *running);
void cpu_attention_softmax_int8_avx512(const struct cpu_attention_weights8 *weights, float *products, uint32_t vectors,
	const struct cpu_attention_softmax *how, const struct cpu_attention_running *running);

/* What is AMX's own in its table; the rest is AVX-512's. Heads are of a multiple of CPU_ATTENTION_AMX_DIM channels, arrays of queries,
 * products and weights as long as whole blocks; products of vectors beyond those asked for are overwritten. */
enum { CPU_ATTENTION_AMX_DIM = 16 };
void cpu_attention_begin_amx(enum kern_kv k_format, uint32_t dim);
void cpu_attention_end_amx(void);
float cpu_attention_quantize_query_amx(void *packed, const float *q, const float *width, uint32_t n);
void cpu_attention_product_int8_amx(float *products, const struct cpu_attention_int8 *k, const struct cpu_attention_query8 *q,
	uint32_t vectors, uint32_t dim, struct cpu_ahead *ahead);
void cpu_attention_product_int4_amx(float *products, const struct cpu_attention_int4 *k, const struct cpu_attention_query4 *q,
	uint32_t vectors, uint32_t dim);
void cpu_attention_accumulate_int8_amx(float *o, const float *factor, const struct cpu_attention_weights8 *weights, uint32_t vectors,
	const int8_t *v, uint32_t dim, struct cpu_ahead *ahead);

/* isa must be one that plan has left in a job. */
const struct cpu_attention_kernels *cpu_attention_kernels(enum base_isa isa);

/* The APPEND phase of one KV head, rows begin <= row < end. scratch: CPU_ATTENTION_APPEND_FLOATS. */
void cpu_attention_append(const struct cpu_attention_job *job, uint32_t kv_head, uint32_t begin, uint32_t end,
	float *scratch);

#endif
