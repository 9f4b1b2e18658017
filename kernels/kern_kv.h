/*
 * The paged KV cache: geometry, formats, and the layout of a page.
 *
 * A *block* holds 64 consecutive tokens of one session for all layers and KV heads; inside it each (layer, KV head)
 * has its own contiguous *page*. A session's block table lists its blocks in order of position.
 *
 * Formats. f32, bf16 and f16 store K and V as they come (f16 has nothing beyond 65504 but infinity). The *smoothed* formats
 * store codes and scales, and subtract from K first the session's mean of K per layer, head and channel, which softmax
 * cannot see once q.mean is added back to those logits, and divide each channel by a width, a power of two >= 1 that tames
 * channels much wider than the others (q is multiplied by it before the product):
 *   int8  integers of +-127, one float32 scale for each token and head;
 *   fp8   e4m3 without infinities, one float32 scale for each token and head;
 *   int4  codes of 4 bits that stand for sixteen levels, one bf16 scale for each token, head and *group* of 64 channels (the
 *         last group may be smaller), chosen to make the squared error small. K, after smoothing, and V are *rotated* before: an
 *         orthonormal Hadamard transform of each run of as many channels as the largest power of two that divides D, and
 *         where there are several runs a reflection that mixes them. Where V is int4, block 0 holds rotated V too; the
 *         output is rotated back at the end.
 *
 * int4's levels are +-3, 8, 13, 19, 26, 33, 42, 56 times the scale, close to what errs least for a normal distribution, which
 * a rotation leaves of nearly anything. With a *low half*, four more bits, an element is a whole number of 7 bits: a level
 * plus -8 .. 7. The two last pages of a session have low halves, so that a token is seen more precisely by its neighbours, where
 * most of the attention goes. They lie where the codes of the second page after theirs will lie: KERN_KV_AHEAD blocks more than
 * the tokens need belong to a session, and a page's low halves are gone when that later page begins. What a query sees is a
 * matter of positions: rows that are appended and attend in one call see the pages as if they had come one by one; queries of
 * pages before that of the first appended row see them as they are before. Only a
 * truncation, or a fork, that goes back behind a page's beginning leaves the tokens it keeps of the last pages without low
 * halves.
 *
 * Where the mean comes from: block 0 of a session is kept in bf16 where the format is a smoothed one; when its 64th
 * token arrives the mean and the widths of its 64 K rows are computed and stored in block 0, beside the page, without
 * the two largest and the two smallest elements of a channel; every later token is smoothed by them. So the stored
 * bits depend on tokens and positions only: not on how a prefill was cut, not on neighbours, and TRUNCATE and FORK
 * need nothing rebuilt (a truncation below 64 makes the mean be computed again). The attention sink and the start of
 * the prompt stay in 16 bits as a side effect.
 * K of int4 takes widths by the square root, and follows the mean: each of its pages has a mean of its own, in bf16, that is
 * half way from the one before to that page's tokens, as their codes have them.
 *
 * Page layouts (T = 64 tokens, D = head_dim):
 *   f32, bf16, f16: K [T][D], V [T][D]; block 0 then float32 mean[D], float32 width[D].
 *   int8: K and V interleaved for the dot product unit, four channels of a token, and four tokens of a channel, side by
 *         side: K [D/4][T][4], V [T/4][D][4]; float32 k_scale[T], v_scale[T]; int32 k_sum[T] (sum of the token's quantized
 *         K: lets an unsigned-by-signed dot product take Q offset by 128).
 *   fp8: K [T/16][D][16], V [T][D]; float32 k_scale[T], v_scale[T], of the codes as the upper bits of f16.
 *   int4: as int8, with quads in pairs: K [D/8][T][4], V [T/8][D][4], the low nibbles being the first quad and the high
 *         ones the second; bf16 k_scale[groups][T], v_scale[groups][T]; bf16 k_mean[D]. Low halves lie as codes do.
 * Every array starts at a multiple of 64 bytes. K and V may have different formats: the K part comes first.
 */
#ifndef KERN_KV_H
#define KERN_KV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The contract's numbers. */
enum kern_kv {
	KERN_KV_F32 = 1, KERN_KV_BF16 = 2, KERN_KV_INT8 = 3, KERN_KV_F16 = 4, KERN_KV_FP8 = 5, KERN_KV_INT4 = 6, KERN_KV_END
};

enum { KERN_PAGE_TOKENS = 64, KERN_KV_GROUP = 64, KERN_KV_AHEAD = 2 };

/* Where the arrays of a page begin, in bytes from its start; 0 for what this page has not (only k is really at 0). */
struct kern_kv_layout {
	enum kern_kv k_format, v_format; /* of this page: block 0 never holds a smoothed format */
	size_t k, k_scale, k_sum, k_mean;
	size_t v, v_scale;
	size_t mean, width; /* block 0 only; filled when K is smoothed */
	size_t bytes;
};

/* Geometry of a session's cache. Filled by kern_kv_init from the first six fields. */
struct kern_kv_geometry {
	uint32_t layers, heads, kv_heads, head_dim; /* head_dim: multiple of 8, 8..256 */
	enum kern_kv k, v;
	/* [0]: of block 0; [1]: of later blocks */
	struct kern_kv_layout layout[2];
	size_t page_bytes[2];
	size_t block_bytes[2]; /* layers * kv_heads pages, multiple of 4096 */
};

/* -EINVAL with a message for a geometry that the kernels do not take. */
int kern_kv_init(struct kern_kv_geometry *geometry);

/* "int8" and so on; NULL for a number that is no format. */
const char *kern_kv_name(enum kern_kv format);

/* The format of a name of `len` bytes; 0 for none. */
enum kern_kv kern_kv_by_name(const char *name, size_t len);

/* Whether the format needs the mean and the widths of block 0 for K. */
static inline bool kern_kv_is_smoothed(enum kern_kv format)
{
	return format == KERN_KV_INT8 || format == KERN_KV_FP8 || format == KERN_KV_INT4;
}

static inline uint32_t kern_kv_groups(uint32_t head_dim)
{
	return (head_dim + KERN_KV_GROUP - 1) / KERN_KV_GROUP;
}

/* Whether a session's last pages have low halves, in blocks ahead of its tokens. */
static inline bool kern_kv_has_low(const struct kern_kv_geometry *geometry)
{
	return geometry->k == KERN_KV_INT4 || geometry->v == KERN_KV_INT4;
}

/* Blocks that so many tokens fill, and blocks that a session with so many tokens has: those ahead too. Block 0 has no low
 * halves. */
static inline uint32_t kern_kv_filled(uint32_t tokens)
{
	return tokens / KERN_PAGE_TOKENS + (tokens % KERN_PAGE_TOKENS != 0);
}

static inline uint32_t kern_kv_blocks(const struct kern_kv_geometry *geometry, uint32_t tokens)
{
	const uint32_t filled = kern_kv_filled(tokens);

	return filled > 1 && kern_kv_has_low(geometry) ? filled + KERN_KV_AHEAD : filled;
}

static inline const struct kern_kv_layout *kern_kv_layout(const struct kern_kv_geometry *geometry, uint32_t block_index)
{
	return &geometry->layout[block_index > 0];
}

static inline unsigned char *kern_kv_page(const struct kern_kv_geometry *g, unsigned char *block,
	uint32_t block_index, uint32_t layer, uint32_t kv_head)
{
	size_t page_bytes = g->page_bytes[block_index > 0];

	return block + ((size_t)layer * g->kv_heads + kv_head) * page_bytes;
}

#endif
