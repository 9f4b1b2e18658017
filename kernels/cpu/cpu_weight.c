/*
 * Repacking of weights into interleaved groups, and the way back for single rows (embeddings). Packing is cold, at load;
 * cpu_weight_row runs on the request path, in any participant, on constant data.
 */
#include "kernels/cpu/cpu_weight.h"

#include <string.h>

#include "base/base_error.h"

/* Far above any model; keeps every product of sizes below 2^63. */
enum { FEATURES_MAX = 1 << 28 };

static enum cpu_coding coding_of(enum kern_type type)
{
	switch (type) {
	case KERN_F32:
		return CPU_CODING_F32;
	case KERN_F16:
		return CPU_CODING_F16;
	case KERN_BF16:
		return CPU_CODING_BF16;
	case KERN_Q4_0:
		return CPU_CODING_NIBBLES_8;
	case KERN_Q4_1:
	case KERN_Q4_K:
		return CPU_CODING_NIBBLES;
	default:
		return CPU_CODING_INT8;
	}
}

static size_t round_up(size_t value, size_t unit)
{
	return (value + unit - 1) / unit * unit;
}

/* Hands out the next part of a group. */
static size_t take(size_t *end, size_t bytes)
{
	size_t begin = *end;

	*end = round_up(begin + bytes, 64);
	return begin;
}

static size_t code_bytes(enum cpu_coding coding, size_t k, size_t lanes)
{
	switch (coding) {
	case CPU_CODING_F32:
		return k * lanes * 4;
	case CPU_CODING_F16:
	case CPU_CODING_BF16:
		/* Kernels unpack eight k at a time. */
		return round_up(k, 8) * lanes * 2;
	case CPU_CODING_INT8:
		return k * lanes;
	default:
		return k / 2 * lanes;
	}
}

int cpu_weight_shape(struct kern_weight *weight, enum kern_type type, uint32_t n, uint32_t k, uint32_t lanes)
{
	const struct kern_type_info *info = kern_type_info(type);
	const size_t halves = (size_t)lanes * 2;
	size_t end = 0;

	if (!info || !info->products)
		return base_fail(ENOTSUP, "there are no products with weights of type %s (%u)",
			info ? info->name : "unknown", (unsigned)type);
	if (n == 0 || k == 0 || n > FEATURES_MAX || k > FEATURES_MAX || k % info->block_elements != 0)
		return base_fail(EINVAL, "a matrix of %u x %u does not fit type %s with blocks of %u", n, k,
			info->name, info->block_elements);

	*weight = (struct kern_weight){
		.type = type,
		.coding = coding_of(type),
		.scaling = kern_type_scaling(type),
		.n = n,
		.k = k,
		.lanes = lanes,
		.groups = (n + lanes - 1) / lanes,
		.block = kern_type_scaling(type) == KERN_SCALING_SUPER ? 16 : 32,
	};
	(void)take(&end, code_bytes(weight->coding, k, lanes));
	switch (weight->scaling) {
	case KERN_SCALING_NONE:
		break;
	case KERN_SCALING_D:
		weight->scale_at = take(&end, k / 32 * halves);
		break;
	case KERN_SCALING_DM:
		weight->scale_at = take(&end, k / 32 * halves);
		weight->offset_at = take(&end, k / 32 * halves);
		break;
	case KERN_SCALING_SUPER:
		weight->scale_at = take(&end, k / 16 * lanes);
		weight->super_at = take(&end, k / 256 * halves);
		break;
	case KERN_SCALING_SUPER_DM:
		weight->scale_at = take(&end, k / 32 * lanes);
		weight->offset_at = take(&end, k / 32 * lanes);
		weight->super_at = take(&end, k / 256 * halves);
		weight->super_offset_at = take(&end, k / 256 * halves);
		break;
	}
	weight->group_bytes = end;
	return 0;
}

size_t cpu_weight_bytes(const struct kern_weight *weight)
{
	return weight->groups * weight->group_bytes;
}

/* One element of 16 or 32 bits per (k, lane); BF16 puts two k into a word. */
static void pack_floats(const struct kern_weight *weight, const void *row, unsigned char *group, uint32_t lane)
{
	const size_t lanes = weight->lanes;
	const unsigned char *from = row;

	for (size_t k = 0; k < weight->k; k++) {
		if (weight->coding == CPU_CODING_F32)
			memcpy(group + (k * lanes + lane) * 4, from + k * 4, 4);
		else if (weight->coding == CPU_CODING_F16)
			memcpy(group + (k * lanes + lane) * 2, from + k * 2, 2);
		else
			memcpy(group + (k / 2 * lanes + lane) * 4 + k % 2 * 2, from + k * 2, 2);
	}
}

static void pack_codes(const struct kern_weight *weight, const struct kern_block *block, size_t first,
	size_t elements, unsigned char *group, uint32_t lane)
{
	const size_t lanes = weight->lanes;
	const int offset = weight->coding == CPU_CODING_NIBBLES_8 ? 8 : 0;

	if (weight->coding == CPU_CODING_INT8) {
		for (size_t i = 0; i < elements; i++)
			group[(first + i) * lanes + lane] = (unsigned char)block->q[i];
		return;
	}
	for (size_t i = 0; i < elements; i += 8) {
		uint32_t word = 0;

		for (size_t j = 0; j < 8; j++)
			word |= (uint32_t)((block->q[i + j] + offset) & 15) << (4 * j);
		memcpy(group + ((first + i) / 8 * lanes + lane) * 4, &word, 4);
	}
}

static void put_half(unsigned char *part, size_t index, uint16_t value)
{
	memcpy(part + index * 2, &value, 2);
}

static void pack_scales(const struct kern_weight *weight, const struct kern_block *block, size_t first,
	size_t elements, unsigned char *group, uint32_t lane)
{
	const size_t lanes = weight->lanes;
	const bool has_super = weight->super_at != 0;

	if (!has_super) {
		put_half(group + weight->scale_at, first / 32 * lanes + lane, block->d);
		if (weight->scaling == KERN_SCALING_DM)
			put_half(group + weight->offset_at, first / 32 * lanes + lane, block->m);
		return;
	}
	put_half(group + weight->super_at, first / 256 * lanes + lane, block->d);
	for (size_t i = 0; i < elements / weight->block; i++)
		group[weight->scale_at + (first / weight->block + i) * lanes + lane] = (unsigned char)block->s[i];
	if (weight->scaling != KERN_SCALING_SUPER_DM)
		return;
	put_half(group + weight->super_offset_at, first / 256 * lanes + lane, block->m);
	for (size_t i = 0; i < elements / weight->block; i++)
		group[weight->offset_at + (first / weight->block + i) * lanes + lane] = block->t[i];
}

void cpu_weight_pack(struct kern_weight *weight, const void *source)
{
	const struct kern_type_info *info = kern_type_info(weight->type);
	const size_t row_bytes = kern_row_bytes(weight->type, weight->k);
	const unsigned char *row = source;
	struct kern_block block;

	for (uint32_t n = 0; n < weight->n; n++, row += row_bytes) {
		unsigned char *group = weight->data + n / weight->lanes * weight->group_bytes;
		uint32_t lane = n % weight->lanes;

		if (weight->scaling == KERN_SCALING_NONE) {
			pack_floats(weight, row, group, lane);
			continue;
		}
		for (size_t k = 0; k < weight->k; k += info->block_elements) {
			kern_block_decode(weight->type, row + k / info->block_elements * info->block_bytes, &block);
			pack_codes(weight, &block, k, info->block_elements, group, lane);
			pack_scales(weight, &block, k, info->block_elements, group, lane);
		}
	}
}

static float get_half(const unsigned char *part, size_t index)
{
	uint16_t value;

	memcpy(&value, part + index * 2, 2);
	return kern_f16_to_f32(value);
}

static void row_of_floats(const struct kern_weight *weight, const unsigned char *group, size_t lane, float *to)
{
	const size_t lanes = weight->lanes;
	uint16_t word;

	for (size_t k = 0; k < weight->k; k++) {
		if (weight->coding == CPU_CODING_F32) {
			memcpy(to + k, group + (k * lanes + lane) * 4, 4);
		} else if (weight->coding == CPU_CODING_F16) {
			to[k] = get_half(group, k * lanes + lane);
		} else {
			memcpy(&word, group + (k / 2 * lanes + lane) * 4 + k % 2 * 2, 2);
			to[k] = kern_bf16_to_f32(word);
		}
	}
}

/* Scale and offset of a block of weight->block elements in one lane. */
static void block_scales(const struct kern_weight *weight, const unsigned char *group, size_t lane, size_t block,
	float *scale, float *offset)
{
	const size_t at = block * weight->lanes + lane;
	const size_t super = block * weight->block / KERN_SUPER_ELEMENTS * weight->lanes + lane;

	*offset = -0.0f; /* adding this changes nothing, not even the sign of a zero */
	switch (weight->scaling) {
	case KERN_SCALING_DM:
		*offset = get_half(group + weight->offset_at, at);
		*scale = get_half(group + weight->scale_at, at);
		break;
	case KERN_SCALING_SUPER:
		*scale = get_half(group + weight->super_at, super) * (int8_t)group[weight->scale_at + at];
		break;
	case KERN_SCALING_SUPER_DM:
		*scale = get_half(group + weight->super_at, super) * group[weight->scale_at + at];
		*offset = -(get_half(group + weight->super_offset_at, super) * group[weight->offset_at + at]);
		break;
	default:
		*scale = get_half(group + weight->scale_at, at);
		break;
	}
}

static int code_at(const struct kern_weight *weight, const unsigned char *group, size_t lane, size_t k)
{
	uint32_t word;

	if (weight->coding == CPU_CODING_INT8)
		return (int8_t)group[k * weight->lanes + lane];
	memcpy(&word, group + (k / 8 * weight->lanes + lane) * 4, 4);
	return (int)(word >> (4 * (k % 8)) & 15) - (weight->coding == CPU_CODING_NIBBLES_8 ? 8 : 0);
}

void cpu_weight_row(const struct kern_weight *weight, uint32_t row, float *to)
{
	const unsigned char *group = cpu_weight_group(weight, row / weight->lanes);
	const size_t lane = row % weight->lanes;

	if (weight->scaling == KERN_SCALING_NONE) {
		row_of_floats(weight, group, lane, to);
		return;
	}
	for (size_t first = 0; first < weight->k; first += weight->block) {
		float scale, offset;

		block_scales(weight, group, lane, first / weight->block, &scale, &offset);
		for (size_t k = first; k < first + weight->block; k++)
			to[k] = scale * (float)code_at(weight, group, lane, k) + offset;
	}
}
