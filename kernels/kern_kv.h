/*
 * The paged KV cache: geometry, formats, and the layout of a page.
 *
 * A *block* holds 64 consecutive tokens of one session for all layers and KV heads; inside it each (layer, KV head)
 * has its own contiguous *page*. A session's block table lists its blocks in order of position.
 *
 * Formats. f32 and bf16 store K and V as they come. int8 stores, for each token and head, 8-bit integers and
 * one float32 scale; K is smoothed first: the session's mean of K per layer, head and channel is subtracted, which
 * softmax cannot see once q.mean is added back to those logits, and each channel is divided by a width, a power of two >= 1 that
 * tames channels much wider than the others (q is multiplied by it before the product).
 *
 * Where the mean comes from: block 0 of a session is kept in bf16 (f32 sessions: f32) whatever the format; when its 64th
 * token arrives the mean and the widths of its 64 K rows are computed and stored in block 0, beside the page; every later
 * token is smoothed by them. So the stored bits depend on tokens and positions only: not on how a prefill was cut, not on
 * neighbours, and TRUNCATE and FORK need nothing rebuilt (a truncation below 64 makes the mean be computed again). The
 * attention sink and the start of the prompt stay exact as a side effect.
 *
 * Page layouts (T = 64 tokens, D = head_dim):
 *   f32, bf16: K [T][D], V [T][D]; block 0 then float32 mean[D], float32 width[D].
 *   int8: K and V interleaved for the dot product unit, four channels of a token, and four tokens of a channel, side by
 *         side: K [D/4][T][4], V [T/4][D][4]; float32 k_scale[T], v_scale[T]; int32 k_sum[T] (sum of the token's quantized
 *         K: lets an unsigned-by-signed dot product take Q offset by 128).
 * Every array starts at a multiple of 64 bytes. K and V may have different formats: the K part comes first.
 */
#ifndef KERN_KV_H
#define KERN_KV_H

#include <stddef.h>
#include <stdint.h>

enum kern_kv { KERN_KV_F32 = 1, KERN_KV_BF16 = 2, KERN_KV_INT8 = 3 }; /* the contract's numbers */

enum { KERN_PAGE_TOKENS = 64 };

/* Geometry of a session's cache. Filled by kern_kv_init from the first six fields. */
struct kern_kv_geometry {
	uint32_t layers, heads, kv_heads, head_dim; /* head_dim: multiple of 8, 8..256 */
	enum kern_kv k, v;
	size_t page_bytes[2];  /* [0]: in block 0; [1]: in later blocks */
	size_t block_bytes[2]; /* layers * kv_heads pages, multiple of 4096 */
};

/* -EINVAL with a message for a geometry that the kernels do not take. */
int kern_kv_init(struct kern_kv_geometry *geometry);

/* Where the arrays of a page begin, in bytes from its start; 0 for what this page has not (only k is really at 0). */
struct kern_kv_layout {
	enum kern_kv k_format, v_format; /* of this page: block 0 never holds int8 */
	size_t k, k_scale, k_sum;
	size_t v, v_scale;
	size_t mean, width; /* block 0 only; filled when K is int8 */
	size_t bytes;
};

struct kern_kv_layout kern_kv_layout(const struct kern_kv_geometry *geometry, uint32_t block_index);

static inline unsigned char *kern_kv_page(const struct kern_kv_geometry *g, unsigned char *block,
	uint32_t block_index, uint32_t layer, uint32_t kv_head)
{
	size_t page_bytes = g->page_bytes[block_index > 0];

	return block + ((size_t)layer * g->kv_heads + kv_head) * page_bytes;
}

#endif
