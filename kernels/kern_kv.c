/*
 * The geometry of a KV cache: which shapes and formats the kernels take, and where things lie in a page.
 *
 * Any thread; pure functions. A geometry comes from a client or a model file, so every field of it is doubted.
 */
#include "kernels/kern_kv.h"

#include <stdbool.h>

#include "base/base_error.h"

/* Far above any known model, and small enough that no product below overflows 64 bits. */
enum { LAYERS_MAX = 4096, HEADS_MAX = 4096, HEAD_DIM_MAX = 256, HEAD_DIM_STEP = 8 };

enum { ARRAY_ALIGN = 64, BLOCK_ALIGN = 4096 };

static size_t round_up(size_t bytes, size_t align)
{
	return (bytes + align - 1) / align * align;
}

static bool known_format(enum kern_kv format)
{
	return format == KERN_KV_F32 || format == KERN_KV_BF16 || format == KERN_KV_INT8;
}

static enum kern_kv format_in(enum kern_kv format, uint32_t block_index)
{
	return block_index == 0 && format == KERN_KV_INT8 ? KERN_KV_BF16 : format;
}

/* Hands out the next array of a page. */
static size_t take(size_t *end, size_t bytes)
{
	size_t begin = *end;

	*end = round_up(begin + bytes, ARRAY_ALIGN);
	return begin;
}

static size_t element_bytes(enum kern_kv format)
{
	switch (format) {
	case KERN_KV_F32:
		return 4;
	case KERN_KV_BF16:
		return 2;
	case KERN_KV_INT8:
		break;
	}
	return 1;
}

struct kern_kv_layout kern_kv_layout(const struct kern_kv_geometry *geometry, uint32_t block_index)
{
	struct kern_kv_layout layout = {
		.k_format = format_in(geometry->k, block_index),
		.v_format = format_in(geometry->v, block_index),
	};
	const size_t elements = (size_t)KERN_PAGE_TOKENS * geometry->head_dim;

	layout.k = take(&layout.bytes, elements * element_bytes(layout.k_format));
	if (layout.k_format == KERN_KV_INT8) {
		layout.k_scale = take(&layout.bytes, KERN_PAGE_TOKENS * sizeof(float));
		layout.k_sum = take(&layout.bytes, KERN_PAGE_TOKENS * sizeof(int32_t));
	}
	layout.v = take(&layout.bytes, elements * element_bytes(layout.v_format));
	if (layout.v_format == KERN_KV_INT8)
		layout.v_scale = take(&layout.bytes, KERN_PAGE_TOKENS * sizeof(float));
	if (block_index == 0) {
		layout.mean = take(&layout.bytes, geometry->head_dim * sizeof(float));
		layout.width = take(&layout.bytes, geometry->head_dim * sizeof(float));
	}
	return layout;
}

int kern_kv_init(struct kern_kv_geometry *geometry)
{
	if (geometry->layers == 0 || geometry->layers > LAYERS_MAX)
		return base_fail(EINVAL, "KV cache of %u layers: 1 to %d are possible", geometry->layers, LAYERS_MAX);
	if (geometry->heads == 0 || geometry->heads > HEADS_MAX)
		return base_fail(EINVAL, "attention with %u heads: 1 to %d are possible", geometry->heads, HEADS_MAX);
	if (geometry->kv_heads == 0 || geometry->heads % geometry->kv_heads != 0)
		return base_fail(EINVAL, "%u KV heads for %u heads: the first must divide the second",
			geometry->kv_heads, geometry->heads);
	if (geometry->head_dim == 0 || geometry->head_dim > HEAD_DIM_MAX || geometry->head_dim % HEAD_DIM_STEP != 0)
		return base_fail(EINVAL, "head dimension %u: multiples of %d up to %d are possible", geometry->head_dim,
			HEAD_DIM_STEP, HEAD_DIM_MAX);
	if (!known_format(geometry->k) || !known_format(geometry->v))
		return base_fail(EINVAL, "KV formats %u, %u: known are 1 (f32), 2 (bf16), 3 (int8)",
			(unsigned)geometry->k, (unsigned)geometry->v);
	for (uint32_t later = 0; later < 2; later++) {
		size_t page = kern_kv_layout(geometry, later).bytes;

		geometry->page_bytes[later] = page;
		geometry->block_bytes[later] = round_up((size_t)geometry->layers * geometry->kv_heads * page, BLOCK_ALIGN);
	}
	return 0;
}
