/*
 * Repacking of weights into interleaved groups, and the way back for single rows (embeddings). Packing is cold, at load;
 * cpu_weight_row runs on the request path, in any participant, on constant data.
 */
#include "kernels/cpu/cpu_weight.h"

#include <string.h>

#include "base/base_error.h"

/* Far above any model; keeps every product of sizes below 2^63. */
enum { FEATURES_MAX = 1 << 28 };

bool cpu_weight_integers(enum kern_type type)
{
	return kern_type_scaling(type) != KERN_SCALING_NONE;
}

static size_t round_up(size_t value, size_t unit)
{
	return (value + unit - 1) / unit * unit;
}

int cpu_weight_shape(struct kern_weight *weight, enum kern_type type, uint32_t n, uint32_t k, uint32_t lanes)
{
	const struct kern_type_info *info = kern_type_info(type);
	const size_t vector_bytes = (size_t)lanes * 4;

	if (!info || !info->products)
		return base_fail(ENOTSUP, "there are no products with weights of type %s (%u)",
			info ? info->name : "unknown", (unsigned)type);
	if (n == 0 || k == 0 || n > FEATURES_MAX || k > FEATURES_MAX || k % info->block_elements != 0)
		return base_fail(EINVAL, "a matrix of %u x %u does not fit type %s with blocks of %u", n, k,
			info->name, info->block_elements);

	*weight = (struct kern_weight){
		.type = type,
		.integers = cpu_weight_integers(type),
		.n = n,
		.k = k,
		.lanes = lanes,
		.groups = (n + lanes - 1) / lanes,
	};
	if (weight->integers) {
		const struct cpu_format format = cpu_format_of(type);

		weight->chunk_bytes = cpu_chunk_layout(format).vectors * vector_bytes;
		weight->group_bytes = (k + format.chunk - 1) / format.chunk * weight->chunk_bytes;
	} else if (type == KERN_F32) {
		weight->group_bytes = k * vector_bytes;
	} else {
		/* Kernels unpack eight k at a time. */
		weight->group_bytes = round_up(k, 8) * vector_bytes / 2;
	}
	return 0;
}

size_t cpu_weight_bytes(const struct kern_weight *weight)
{
	return weight->groups * weight->group_bytes;
}

/* ---- floats ------------------------------------------------------------------------------------------------------- */

/* Where element k of a lane lies in its group. BF16 puts two k into a word. */
static size_t float_at(const struct kern_weight *weight, size_t k, size_t lane)
{
	const size_t lanes = weight->lanes;

	switch (weight->type) {
	case KERN_F32:
		return (k * lanes + lane) * 4;
	case KERN_F16:
		return (k * lanes + lane) * 2;
	default:
		return (k / 2 * lanes + lane) * 4 + k % 2 * 2;
	}
}

static void pack_floats(const struct kern_weight *weight, const unsigned char *row, unsigned char *group, size_t lane)
{
	const size_t bytes = weight->type == KERN_F32 ? 4 : 2;

	for (size_t k = 0; k < weight->k; k++)
		memcpy(group + float_at(weight, k, lane), row + k * bytes, bytes);
}

static uint16_t get_u16(const unsigned char *from)
{
	uint16_t value;

	memcpy(&value, from, sizeof(value));
	return value;
}

static void row_of_floats(const struct kern_weight *weight, const unsigned char *group, size_t lane, float *to)
{
	for (size_t k = 0; k < weight->k; k++) {
		const unsigned char *from = group + float_at(weight, k, lane);

		if (weight->type == KERN_F32)
			memcpy(to + k, from, 4);
		else
			to[k] = weight->type == KERN_F16 ? kern_f16_to_f32(get_u16(from)) :
				kern_bf16_to_f32(get_u16(from));
	}
}

/* ---- integers ----------------------------------------------------------------------------------------------------- */

/* The bytes of one lane in a chunk. */
struct cell {
	unsigned char *chunk;
	size_t vector_bytes, lane, lanes;
};

/* One of the bytes [index][lanes] from a vector on. */
static unsigned char *lane_byte(const struct cell *cell, size_t vector, size_t index)
{
	return cell->chunk + vector * cell->vector_bytes + index * cell->lanes + cell->lane;
}

/* One of the halves [index][lanes] from a vector on. */
static unsigned char *lane_half(const struct cell *cell, size_t vector, size_t index)
{
	return cell->chunk + vector * cell->vector_bytes + (index * cell->lanes + cell->lane) * 2;
}

static uint32_t spread(uint32_t width)
{
	return ((1u << width) - 1) * 0x01010101u; /* the low bits of each byte */
}

static uint32_t load_word(const void *from)
{
	uint32_t word;

	memcpy(&word, from, sizeof(word));
	return word;
}

/* Where the lane's word of a block's vector lies. */
static unsigned char *lane_word(const struct cell *cell, size_t vector)
{
	return cell->chunk + vector * cell->vector_bytes + cell->lane * 4;
}

/* A block of 32 stored codes into its planes, the largest first, which holds the low bits. */
static void put_codes(const struct cell *cell, uint32_t bits, size_t block, const uint8_t *codes)
{
	size_t vector = block * bits;

	for (uint32_t width = 8, from = 0; width > 0; width /= 2) {
		if (!(bits & width))
			continue;
		for (uint32_t quad = 0; quad < CPU_WEIGHT_QUADS; vector++) {
			uint32_t word = 0;

			for (uint32_t at = 0; at < 8; at += width, quad++)
				word |= (load_word(codes + 4 * quad) >> from & spread(width)) << at;
			memcpy(lane_word(cell, vector), &word, sizeof(word));
		}
		from += width;
	}
}

static void get_codes(const struct cell *cell, uint32_t bits, size_t block, uint8_t *codes)
{
	size_t vector = block * bits;

	memset(codes, 0, CPU_WEIGHT_BLOCK);
	for (uint32_t width = 8, from = 0; width > 0; width /= 2) {
		if (!(bits & width))
			continue;
		for (uint32_t quad = 0; quad < CPU_WEIGHT_QUADS; vector++) {
			const uint32_t word = load_word(lane_word(cell, vector));

			for (uint32_t at = 0; at < 8; at += width, quad++) {
				const uint32_t four = load_word(codes + 4 * quad) | (word >> at & spread(width)) << from;

				memcpy(codes + 4 * quad, &four, sizeof(four));
			}
		}
		from += width;
	}
}

static uint8_t table_index(int8_t value)
{
	uint8_t index = 0;

	while (index < 15 && kern_iq4_values[index] != value)
		index++;
	return index;
}

/* Codes count from zero up: the zero point before the shift is added. */
static uint8_t stored_code(const struct cpu_format *format, int8_t q)
{
	if (format->table)
		return table_index(q);
	return (uint8_t)(q + (format->zero_point ? 128 >> format->shift : 0));
}

static int meant_code(const struct cpu_format *format, uint8_t code)
{
	if (format->table)
		return kern_iq4_values[code];
	return code - (format->zero_point ? 128 >> format->shift : 0);
}

static void pack_scales(const struct cpu_format *format, const struct kern_block *block, const struct cell *cell, size_t k)
{
	const struct cpu_chunk_layout at = cpu_chunk_layout(*format);
	const bool super = format->scaling == KERN_SCALING_SUPER || format->scaling == KERN_SCALING_SUPER_DM;
	const size_t index = super ? 0 : k % format->chunk / CPU_WEIGHT_BLOCK;

	memcpy(lane_half(cell, at.d, index), &block->d, 2);
	if (format->scaling == KERN_SCALING_DM)
		memcpy(lane_half(cell, at.m, index), &block->m, 2);
	if (format->scaling == KERN_SCALING_SUPER_DM)
		memcpy(lane_half(cell, at.m, 1), &block->m, 2);
	for (size_t i = 0; super && i < format->chunk / format->sub; i++) {
		*lane_byte(cell, at.s, i) = (unsigned char)block->s[i];
		if (format->scaling == KERN_SCALING_SUPER_DM)
			*lane_byte(cell, at.t, i) = block->t[i];
	}
}

static struct cell cell_of(const struct kern_weight *weight, unsigned char *group, size_t lane, size_t chunk)
{
	return (struct cell){group + chunk * weight->chunk_bytes, (size_t)weight->lanes * 4, lane, weight->lanes};
}

static void pack_integers(const struct kern_weight *weight, const unsigned char *row, unsigned char *group, size_t lane)
{
	const struct kern_type_info *info = kern_type_info(weight->type);
	const struct cpu_format format = cpu_format_of(weight->type);
	struct kern_block block;

	for (size_t k = 0; k < weight->k; k += info->block_elements, row += info->block_bytes) {
		const struct cell cell = cell_of(weight, group, lane, k / format.chunk);

		kern_block_decode(weight->type, row, &block);
		for (size_t first = 0; first < info->block_elements; first += CPU_WEIGHT_BLOCK) {
			uint8_t codes[CPU_WEIGHT_BLOCK];

			for (size_t i = 0; i < CPU_WEIGHT_BLOCK; i++)
				codes[i] = stored_code(&format, block.q[first + i]);
			put_codes(&cell, format.bits, (k + first) % format.chunk / CPU_WEIGHT_BLOCK, codes);
		}
		pack_scales(&format, &block, &cell, k);
	}
}

/* Scale and offset of element k of the chunk. */
static void scales_of(const struct cpu_format *format, const struct cell *cell, size_t k, float *scale, float *offset)
{
	const struct cpu_chunk_layout at = cpu_chunk_layout(*format);
	const size_t block = k / CPU_WEIGHT_BLOCK, sub = k / format->sub;

	*offset = -0.0f; /* adding this changes nothing, not even the sign of a zero */
	switch (format->scaling) {
	case KERN_SCALING_DM:
		*offset = kern_f16_to_f32(get_u16(lane_half(cell, at.m, block)));
		*scale = kern_f16_to_f32(get_u16(lane_half(cell, at.d, block)));
		break;
	case KERN_SCALING_SUPER:
		*scale = kern_f16_to_f32(get_u16(lane_half(cell, at.d, 0))) * (int8_t)*lane_byte(cell, at.s, sub);
		break;
	case KERN_SCALING_SUPER_DM:
		*scale = kern_f16_to_f32(get_u16(lane_half(cell, at.d, 0))) * *lane_byte(cell, at.s, sub);
		*offset = -(kern_f16_to_f32(get_u16(lane_half(cell, at.m, 1))) * *lane_byte(cell, at.t, sub));
		break;
	default:
		*scale = kern_f16_to_f32(get_u16(lane_half(cell, at.d, block)));
		break;
	}
}

static void row_of_integers(const struct kern_weight *weight, unsigned char *group, size_t lane, float *to)
{
	const struct cpu_format format = cpu_format_of(weight->type);

	for (size_t first = 0; first < weight->k; first += CPU_WEIGHT_BLOCK) {
		const struct cell cell = cell_of(weight, group, lane, first / format.chunk);
		uint8_t codes[CPU_WEIGHT_BLOCK];
		float scale = 0.0f, offset = 0.0f;

		get_codes(&cell, format.bits, first % format.chunk / CPU_WEIGHT_BLOCK, codes);
		for (size_t i = 0; i < CPU_WEIGHT_BLOCK; i++) {
			if (i % format.sub == 0)
				scales_of(&format, &cell, (first + i) % format.chunk, &scale, &offset);
			to[first + i] = scale * (float)meant_code(&format, codes[i]) + offset;
		}
	}
}

/* ---- both --------------------------------------------------------------------------------------------------------- */

void cpu_weight_pack(struct kern_weight *weight, const void *source)
{
	const size_t row_bytes = kern_row_bytes(weight->type, weight->k);
	const unsigned char *row = source;

	for (uint32_t n = 0; n < weight->n; n++, row += row_bytes) {
		unsigned char *group = weight->data + n / weight->lanes * weight->group_bytes;

		if (weight->integers)
			pack_integers(weight, row, group, n % weight->lanes);
		else
			pack_floats(weight, row, group, n % weight->lanes);
	}
}

void cpu_weight_row(const struct kern_weight *weight, uint32_t row, float *to)
{
	unsigned char *group = weight->data + row / weight->lanes * weight->group_bytes;

	if (weight->integers)
		row_of_integers(weight, group, row % weight->lanes, to);
	else
		row_of_floats(weight, group, row % weight->lanes, to);
}
