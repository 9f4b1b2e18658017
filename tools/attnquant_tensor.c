/*
 * The tensors that attnquant writes: which format each gets, and the conversion row by row
 * through float32. One thread; memory for two rows.
 */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"
#include "tools/attnquant.h"
#include "tools/tool_text.h"

struct attnquant_tensor *attnquant_tensors_add(struct attnquant_tensors *tensors)
{
	if (tensors->count == tensors->room) {
		tensors->room = tensors->room ? 2 * tensors->room : 64;
		tensors->list = realloc(tensors->list, tensors->room * sizeof(*tensors->list));
		if (!tensors->list)
			tool_die(TOOL_FAILED, "out of memory");
	}
	tensors->list[tensors->count] = (struct attnquant_tensor){ .to = KERN_TYPE_END };
	return &tensors->list[tensors->count++];
}

void attnquant_tensors_free(struct attnquant_tensors *tensors)
{
	free(tensors->list);
	*tensors = (struct attnquant_tensors){ 0 };
}

/* ---- formats ------------------------------------------------------------------------------------------- */

static const struct {
	enum kern_type type;
	uint32_t file_type;
} FILE_TYPES[] = {
	{ KERN_F32, 0 },
	{ KERN_F16, 1 },
	{ KERN_Q4_0, 2 },
	{ KERN_Q4_1, 3 },
	{ KERN_Q8_0, 7 },
	{ KERN_Q5_0, 8 },
	{ KERN_Q5_1, 9 },
	{ KERN_Q2_K, 10 },
	{ KERN_Q3_K, 11 },
	{ KERN_Q4_K, 14 },
	{ KERN_Q5_K, 16 },
	{ KERN_Q6_K, 18 },
	{ KERN_IQ4_NL, 25 },
	{ KERN_IQ4_XS, 30 },
	{ KERN_BF16, 32 },
};

uint32_t attnquant_file_type(enum kern_type type)
{
	for (size_t i = 0; i < sizeof(FILE_TYPES) / sizeof(*FILE_TYPES); i++)
		if (FILE_TYPES[i].type == type)
			return FILE_TYPES[i].file_type;
	return 1024; /* "guessed", as llama.cpp has it */
}

enum kern_type attnquant_type_argument(const char *name)
{
	enum kern_type type = kern_type_by_name(name);
	const struct kern_type_info *info = kern_type_info(type);
	char names[256] = "";

	if (info && info->quantize)
		return type;
	for (uint32_t i = 0; i < KERN_TYPE_END; i++) {
		info = kern_type_info(i);
		if (info && info->quantize &&
			strlen(names) + strlen(info->name) + 2 < sizeof(names))
			strcat(strcat(names, " "), info->name);
	}
	tool_die(TOOL_USAGE, "no type '%s' that can be written; there are:%s", name, names);
}

static bool is_table_of_tokens(const char *name)
{
	return strcmp(name, "token_embd.weight") == 0 || strcmp(name, "output.weight") == 0;
}

/* For rows that are no whole super-blocks: blocks of 32 with at least as many bits. */
static enum kern_type in_small_blocks(enum kern_type type)
{
	switch (type) {
	case KERN_Q2_K:
	case KERN_Q3_K:
	case KERN_IQ4_XS:
		return KERN_IQ4_NL;
	case KERN_Q4_K:
		return KERN_Q5_0;
	case KERN_Q5_K:
		return KERN_Q5_1;
	default:
		return KERN_Q8_0;
	}
}

static enum kern_type choose(const struct attnquant_tensor *tensor, enum kern_type type)
{
	if (tensor->dims == 1)
		return KERN_F32;
	if (type == KERN_TYPE_END)
		return tensor->from;
	if (is_table_of_tokens(tensor->name) &&
		kern_row_bytes(type, 256) < kern_row_bytes(KERN_Q6_K, 256))
		type = KERN_Q8_0;
	if (kern_row_bytes(type, tensor->dim[0]) == 0)
		type = in_small_blocks(type);
	return kern_row_bytes(type, tensor->dim[0]) > 0 ? type : KERN_F16;
}

void attnquant_tensors_choose(struct attnquant_tensors *tensors, enum kern_type type)
{
	for (uint32_t i = 0; i < tensors->count; i++)
		tensors->list[i].to = choose(&tensors->list[i], type);
}

void attnquant_tensors_put(
	const struct attnquant_tensors *tensors, struct model_gguf_writer *writer)
{
	for (uint32_t i = 0; i < tensors->count; i++) {
		const struct attnquant_tensor *tensor = &tensors->list[i];
		struct model_text name = { tensor->name, strlen(tensor->name) };

		model_gguf_put_tensor(writer, name, tensor->to, tensor->dims, tensor->dim);
	}
}

/* ---- conversion ---------------------------------------------------------------------------------------- */

struct conversion {
	struct model_gguf_writer *writer;
	float *row, *back; /* [elements of the longest row] */
	unsigned char *coded;
	double error, power; /* sums of squares */
};

static uint64_t rows_of(const struct attnquant_tensor *tensor)
{
	/* A vector whose rows are to be permuted is a column. */
	if (tensor->dims == 1)
		return tensor->pairs_of_heads ? tensor->dim[0] : 1;
	return tensor->dim[1] * (tensor->dims > 2 ? tensor->dim[2] : 1) *
		(tensor->dims > 3 ? tensor->dim[3] : 1);
}

static uint64_t columns_of(const struct attnquant_tensor *tensor)
{
	return tensor->dims == 1 && tensor->pairs_of_heads ? 1 : tensor->dim[0];
}

/* Where output row `row` lies in the source. Hugging Face keeps a head's rotated pairs as two
 * halves, (i, i + d/2); GGUF's llama has them side by side, (2i, 2i + 1). */
static uint64_t source_row(const struct attnquant_tensor *tensor, uint64_t row)
{
	uint64_t head_dim, head, within;

	if (tensor->pairs_of_heads == 0)
		return row;
	head_dim = rows_of(tensor) / tensor->pairs_of_heads;
	head = row / head_dim;
	within = row % head_dim;
	return head * head_dim + within % 2 * (head_dim / 2) + within / 2;
}

static bool is_lossy(const struct attnquant_tensor *tensor)
{
	return tensor->to != tensor->from && tensor->to != KERN_F32;
}

static void measure(
	struct conversion *conversion, const struct attnquant_tensor *tensor, uint64_t columns)
{
	if (kern_dequantize_row(tensor->to, conversion->coded, conversion->back, columns) < 0)
		return;
	for (uint64_t i = 0; i < columns; i++) {
		double value = (double)conversion->row[i],
		       difference = value - (double)conversion->back[i];

		conversion->error += difference * difference;
		conversion->power += value * value;
	}
}

static int write_row(
	struct conversion *conversion, const struct attnquant_tensor *tensor, uint64_t row)
{
	uint64_t columns = columns_of(tensor);
	size_t from_bytes = kern_row_bytes(tensor->from, columns),
	       to_bytes = kern_row_bytes(tensor->to, columns);
	const unsigned char *source =
		(const unsigned char *)tensor->data + source_row(tensor, row) * from_bytes;
	int rc;

	if (tensor->from == tensor->to)
		return model_gguf_writer_data(conversion->writer, source, from_bytes);
	rc = kern_dequantize_row(tensor->from, source, conversion->row, columns);
	for (uint64_t i = 0; rc == 0 && i < columns; i++)
		if (!isfinite(conversion->row[i]))
			return base_fail(EBADMSG,
				"tensor '%s' holds a value that is not finite, in row %" PRIu64,
				tensor->name, row);
	if (rc == 0)
		rc = kern_quantize_row(tensor->to, conversion->row, conversion->coded, columns);
	if (rc < 0)
		return base_fail(-rc, "tensor '%s' cannot be converted from %s to %s", tensor->name,
			kern_type_info(tensor->from)->name, kern_type_info(tensor->to)->name);
	if (is_lossy(tensor))
		measure(conversion, tensor, columns);
	return model_gguf_writer_data(conversion->writer, conversion->coded, to_bytes);
}

static int write_all(const struct attnquant_tensors *tensors, struct conversion *conversion)
{
	struct attnquant_progress progress;
	uint64_t total = 0, done = 0;
	int rc = 0;

	for (uint32_t i = 0; i < tensors->count; i++)
		total += rows_of(&tensors->list[i]) *
			kern_row_bytes(tensors->list[i].to, columns_of(&tensors->list[i]));
	attnquant_progress_begin(&progress, "writing", total);
	for (uint32_t i = 0; rc == 0 && i < tensors->count; i++) {
		const struct attnquant_tensor *tensor = &tensors->list[i];
		uint64_t rows = rows_of(tensor),
			 row_bytes = kern_row_bytes(tensor->to, columns_of(tensor));

		for (uint64_t row = 0; rc == 0 && row < rows; row++) {
			rc = write_row(conversion, tensor, row);
			done += row_bytes;
			attnquant_progress_at(&progress, done);
		}
	}
	attnquant_progress_end(&progress);
	return rc;
}

int attnquant_tensors_write(
	const struct attnquant_tensors *tensors, struct model_gguf_writer *writer, double *error)
{
	struct conversion conversion = { .writer = writer };
	uint64_t longest = 1;
	int rc;

	for (uint32_t i = 0; i < tensors->count; i++)
		longest = columns_of(&tensors->list[i]) > longest ? columns_of(&tensors->list[i]) :
								    longest;
	conversion.row = malloc(longest * sizeof(float));
	conversion.back = malloc(longest * sizeof(float));
	conversion.coded = malloc(longest * sizeof(float) + 256);
	rc = conversion.row && conversion.back && conversion.coded ?
		write_all(tensors, &conversion) :
		base_fail(ENOMEM, "no memory for rows of %" PRIu64 " elements", longest);
	*error = conversion.power > 0 ? sqrt(conversion.error / conversion.power) : 0;
	free(conversion.row);
	free(conversion.back);
	free(conversion.coded);
	return rc;
}

int attnquant_save(
	struct model_gguf_writer *writer, const struct attnquant_tensors *tensors, double *error)
{
	int rc = model_gguf_writer_begin(writer);

	*error = 0;
	if (rc == 0)
		rc = attnquant_tensors_write(tensors, writer, error);
	return rc == 0 ? model_gguf_writer_finish(writer) : rc;
}

int attnquant_finish(
	struct model_gguf_writer *writer, const struct attnquant_tensors *tensors, const char *path)
{
	struct attnquant_file written;
	char size[TOOL_NUMBER_BYTES];
	double error;
	int rc = attnquant_save(writer, tensors, &error);

	if (rc == 0)
		rc = attnquant_file_open(&written, path);
	if (rc < 0)
		return rc;
	printf("%s: %" PRIu32 " tensors, %s", path, tensors->count, tool_bytes(size, written.size));
	if (error > 0)
		printf(", relative error of the converted weights %.2g", error);
	printf("\n");
	attnquant_file_close(&written);
	return 0;
}
