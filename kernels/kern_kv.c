/*
 * The geometry of a KV cache: which shapes and formats the kernels take, and where things lie in a page.
 *
 * Any thread; pure functions. A geometry comes from a client or a model file, so every field of it is doubted.
 */
#include "kernels/kern_kv.h"

#include <string.h>

#include "base/base_error.h"

/* Far above any known model, and small enough that no product below overflows 64 bits. */
enum { LAYERS_MAX = 4096, HEADS_MAX = 4096, HEAD_DIM_MAX = 256, HEAD_DIM_STEP = 8 };

enum { ARRAY_ALIGN = 64, BLOCK_ALIGN = 4096 };

static size_t round_up(size_t bytes, size_t align)
{
	return (bytes + align - 1) / align * align;
}

static const char *const names[KERN_KV_END] = {
	[KERN_KV_F32] = "f32", [KERN_KV_BF16] = "bf16", [KERN_KV_INT8] = "int8", [KERN_KV_F16] = "f16", [KERN_KV_FP8] = "fp8",
	[KERN_KV_INT4] = "int4",
};

const char *kern_kv_name(enum kern_kv format)
{
	return (unsigned)format < KERN_KV_END ? names[format] : NULL;
}

enum kern_kv kern_kv_by_name(const char *name, size_t len)
{
	for (unsigned i = KERN_KV_F32; i < KERN_KV_END; i++) {
		if (strlen(names[i]) == len && memcmp(names[i], name, len) == 0)
			return (enum kern_kv)i;
	}
	return (enum kern_kv)0;
}

static enum kern_kv format_in(enum kern_kv format, uint32_t block_index)
{
	return block_index == 0 && kern_kv_is_smoothed(format) ? KERN_KV_BF16 : format;
}

/* Hands out the next array of a page. */
static size_t take(size_t *end, size_t bytes)
{
	size_t begin = *end;

	*end = round_up(begin + bytes, ARRAY_ALIGN);
	return begin;
}

static size_t element_bits(enum kern_kv format)
{
	switch (format) {
	case KERN_KV_F32:
		return 32;
	case KERN_KV_BF16:
	case KERN_KV_F16:
		return 16;
	case KERN_KV_INT8:
	case KERN_KV_FP8:
		return 8;
	case KERN_KV_INT4:
	case KERN_KV_END:
		break;
	}
	return 4;
}

static size_t scale_bytes(enum kern_kv format, uint32_t dim)
{
	if (format == KERN_KV_INT4)
		return (size_t)KERN_PAGE_TOKENS * kern_kv_groups(dim) * sizeof(uint16_t);
	return KERN_PAGE_TOKENS * sizeof(float);
}

static struct kern_kv_layout layout_of(const struct kern_kv_geometry *geometry, uint32_t block_index)
{
	struct kern_kv_layout layout = {
		.k_format = format_in(geometry->k, block_index),
		.v_format = format_in(geometry->v, block_index),
	};
	const size_t elements = (size_t)KERN_PAGE_TOKENS * geometry->head_dim;

	layout.k = take(&layout.bytes, elements * element_bits(layout.k_format) / 8);
	if (kern_kv_is_smoothed(layout.k_format))
		layout.k_scale = take(&layout.bytes, scale_bytes(layout.k_format, geometry->head_dim));
	if (layout.k_format == KERN_KV_INT8)
		layout.k_sum = take(&layout.bytes, KERN_PAGE_TOKENS * sizeof(int32_t));
	if (layout.k_format == KERN_KV_INT4)
		layout.k_mean = take(&layout.bytes, geometry->head_dim * sizeof(uint16_t));
	layout.v = take(&layout.bytes, elements * element_bits(layout.v_format) / 8);
	if (kern_kv_is_smoothed(layout.v_format))
		layout.v_scale = take(&layout.bytes, scale_bytes(layout.v_format, geometry->head_dim));
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
	if (kern_kv_name(geometry->k) == NULL || kern_kv_name(geometry->v) == NULL)
		return base_fail(EINVAL, "KV formats %u, %u: known are 1 (f32), 2 (bf16), 3 (int8), 4 (f16), 5 (fp8), 6 (int4)",
			(unsigned)geometry->k, (unsigned)geometry->v);
	for (uint32_t later = 0; later < 2; later++) {
		const struct kern_kv_layout layout = layout_of(geometry, later);

		geometry->layout[later] = layout;
		geometry->page_bytes[later] = layout.bytes;
		geometry->block_bytes[later] = round_up((size_t)geometry->layers * geometry->kv_heads * layout.bytes, BLOCK_ALIGN);
	}
	return 0;
}
