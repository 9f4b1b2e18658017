/*
 * Matrix products as a model runs them: programs of one MATMUL after another, each with a matrix of its own, so that
 * weights of one row come from memory and not from a cache. One row and sixteen (decode), 512 (prefill), every weight
 * format. First the result is held against float64. See kernels.h.
 *
 * A sample is one program; samples go round the programs, and all of them together do not fit into a cache.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"
#include "base/base_rand.h"
#include "kernels/ref/ref_products.h"
#include "tests/bench/kernels.h"

enum {
	COLUMNS = 2048,
	KINDS_OF_ROW = 61,   /* different rows of a matrix; prime, so that they fall on all places of a tile */
	KINDS_OF_INPUT = 16, /* different rows of activations */
	BATCH_MAX = 512,
	MATRICES_MAX = 256,
	MATRICES_OF_PROGRAM = 8, /* with one of 512 rows it is one */
	PROGRAMS_MAX = MATRICES_MAX / MATRICES_OF_PROGRAM,
	MEMORY_BYTES = 256 << 20, /* of all matrices of one program: beyond the last cache */
};

/* Activations may be quantized to 8 bits per row. */
static const double error_max = 0.02;

struct products {
	enum kern_type type;
	uint32_t n, rows;
	unsigned char *source; /* one matrix in file format */
	double *wanted;        /* [KINDS_OF_INPUT][KINDS_OF_ROW] */
	float *x, *y;          /* [KINDS_OF_INPUT][COLUMNS], [BATCH_MAX][n] */
	const float *embeddings[BATCH_MAX];
	struct kern_weight *weights[MATRICES_MAX];
	uint32_t count;
	struct program {
		struct kern_program program;
		struct kern_op ops[MATRICES_OF_PROGRAM + 1];
	} programs[PROGRAMS_MAX];
	uint32_t program_count, turn;
};

static void fail(const char *what)
{
	fprintf(stderr, "bench_kernels: %s: %s\n", what, base_error_message());
	exit(1);
}

/* ---- matrices ---------------------------------------------------------------------------------------------------- */

/* Formats without a quantizer: random bytes, with halves of a tame size where a block has its scales. */
static void random_row(enum kern_type type, unsigned char *to, uint64_t seed)
{
	const struct kern_type_info *info = kern_type_info(type);
	size_t bytes = kern_row_bytes(type, COLUMNS), at = type == KERN_Q2_K ? 80 : type == KERN_Q3_K ? 108 : 0;
	const uint16_t scale = 0x1c00;

	for (size_t i = 0; i < bytes; i++)
		to[i] = (unsigned char)base_rand_next(&seed);
	for (size_t block = 0; block < bytes; block += info->block_bytes) {
		memcpy(to + block + at, &scale, sizeof(scale));
		if (type == KERN_Q2_K || type == KERN_Q4_K || type == KERN_Q5_K)
			memcpy(to + block + at + 2, &scale, sizeof(scale));
	}
}

static void make_rows(struct products *p)
{
	size_t bytes = kern_row_bytes(p->type, COLUMNS);
	float *row = kernels_alloc(COLUMNS * sizeof(*row)), *back = kernels_alloc(KINDS_OF_ROW * COLUMNS * sizeof(*back));

	p->source = kernels_alloc(p->n * bytes);
	for (uint32_t i = 0; i < KINDS_OF_ROW; i++) {
		unsigned char *to = p->source + i * bytes;

		kernels_normal(row, COLUMNS, 100 + i);
		for (uint32_t j = 0; j < COLUMNS; j++)
			row[j] /= 45; /* sqrt(COLUMNS) */
		if (kern_quantize_row(p->type, row, to, COLUMNS) < 0)
			random_row(p->type, to, i);
		if (kern_dequantize_row(p->type, to, back + (size_t)i * COLUMNS, COLUMNS) < 0)
			fail("a row cannot be read back");
	}
	for (uint32_t i = KINDS_OF_ROW; i < p->n; i++)
		memcpy(p->source + i * bytes, p->source + i % KINDS_OF_ROW * bytes, bytes);
	p->wanted = kernels_alloc((size_t)KINDS_OF_INPUT * KINDS_OF_ROW * sizeof(*p->wanted));
	for (uint32_t i = 0; i < KINDS_OF_INPUT; i++)
		ref_product(p->x + (size_t)i * COLUMNS, back, KINDS_OF_ROW, COLUMNS, p->wanted + (size_t)i * KINDS_OF_ROW,
			NULL);
	free(back);
	free(row);
}

static void make_weights(struct kernels *kernels, struct products *p)
{
	size_t bytes = p->n * kern_row_bytes(p->type, COLUMNS);

	p->count = (uint32_t)(MEMORY_BYTES / bytes) + 1;
	if (p->count > MATRICES_MAX)
		p->count = MATRICES_MAX;
	for (uint32_t i = 0; i < p->count; i++)
		if (kernels->backend->ops->weight_create(kernels->backend, p->type, p->n, COLUMNS, p->source,
				&p->weights[i]) != 0)
			fail("weights");
}

static void free_all(struct kernels *kernels, struct products *p)
{
	for (uint32_t i = 0; i < p->count; i++)
		kernels->backend->ops->weight_destroy(kernels->backend, p->weights[i]);
	free(p->wanted);
	free(p->source);
}

/* ---- programs ---------------------------------------------------------------------------------------------------- */

static struct kern_op *add(struct program *to, enum kern_op_kind kind, uint8_t src, uint8_t dst)
{
	struct kern_op *op = &to->ops[to->program.op_count++];

	*op = (struct kern_op){ .kind = kind, .src = src, .dst = dst, .f0 = 1 };
	return op;
}

/* Slot 0 has the activations, slot 1 the results, slot 2 is for SELECT. */
static void begin(const struct products *p, struct program *program, uint32_t width_2)
{
	program->program = (struct kern_program){ .ops = program->ops, .slot_count = 3, .vocab = p->n, .width = COLUMNS,
		.slot_width = { COLUMNS, p->n, width_2 }, .max_rows = p->rows, .max_out_rows = p->rows };
	add(program, KERN_OP_EMBED, 0, 0);
}

static void prepare(struct kernels *kernels, struct program *program)
{
	if (kernels->backend->ops->program_prepare(kernels->backend, &program->program) != 0)
		fail("a program");
}

static void release(struct kernels *kernels, struct program *program)
{
	kernels->backend->ops->program_release(kernels->backend, &program->program);
}

static void step(struct kernels *kernels, const struct products *p, const struct program *program,
	const struct kern_out *outs, uint32_t out_count)
{
	static const uint32_t tokens[BATCH_MAX];
	const struct kern_work work = { .kind = KERN_WORK_STEP, .step = { .program = &program->program, .rows = p->rows,
		.tokens = tokens, .embeddings = p->embeddings, .outs = outs, .out_count = out_count } };

	kernels_run(kernels, &work);
}

static void run(struct kernels *kernels, void *context)
{
	struct products *p = context;

	step(kernels, p, &p->programs[p->turn++ % p->program_count], NULL, 0);
}

/* A square matrix through MATMUL, a taller one, which HIDDEN does not give out, through LOGITS. */
static void check(struct kernels *kernels, struct products *p)
{
	static struct kern_out outs[BATCH_MAX];
	struct program *program = &p->programs[0];
	const struct kern_weight *weight = p->weights[p->count - 1];
	bool square = p->n == COLUMNS;
	double *wanted = kernels_alloc((size_t)p->rows * p->n * sizeof(*wanted));
	char what[96];

	begin(p, program, COLUMNS);
	if (square)
		add(program, KERN_OP_MATMUL, 0, 1)->weight = weight;
	add(program, KERN_OP_SELECT, square, 2);
	add(program, square ? KERN_OP_HIDDEN : KERN_OP_LOGITS, 2, 2)->weight = weight;
	prepare(kernels, program);
	for (uint32_t r = 0; r < p->rows; r++) {
		float *to = p->y + (size_t)r * p->n;

		outs[r] = (struct kern_out){ .row = r, .hidden = square ? to : NULL, .logits = square ? NULL : to };
		for (uint32_t i = 0; i < p->n; i++)
			wanted[(size_t)r * p->n + i] = p->wanted[r % KINDS_OF_INPUT * KINDS_OF_ROW + i % KINDS_OF_ROW];
	}
	step(kernels, p, program, outs, p->rows);
	snprintf(what, sizeof(what), "%s %ux%u, %u rows", kern_type_info(p->type)->name, p->n, COLUMNS, p->rows);
	kernels_check(kernels, what, p->y, wanted, (size_t)p->rows * p->n, error_max);
	release(kernels, program);
	free(wanted);
}

static enum kernels_peak peak_of(enum kern_type type)
{
	return type == KERN_BF16 ? KERNELS_BF16 : type == KERN_F32 || type == KERN_F16 ? KERNELS_F32 : KERNELS_INT8;
}

static void measure(struct kernels *kernels, struct products *p)
{
	uint32_t each = p->rows == BATCH_MAX ? 1 : p->count < MATRICES_OF_PROGRAM ? p->count : MATRICES_OF_PROGRAM;
	double matrix = (double)p->n * COLUMNS;
	struct kernels_row row = { .name = "product" };
	struct kernels_cost cost = { .bytes = each * (double)p->n * (double)kern_row_bytes(p->type, COLUMNS),
		.operations = each * 2 * matrix * p->rows, .peak = peak_of(p->type) };

	check(kernels, p);
	p->program_count = p->rows == BATCH_MAX ? 2 : p->count / each;
	for (uint32_t i = 0; i < p->program_count; i++) {
		begin(p, &p->programs[i], COLUMNS);
		for (uint32_t j = 0; j < each; j++)
			add(&p->programs[i], KERN_OP_MATMUL, 0, 1)->weight = p->weights[i * each + j];
		prepare(kernels, &p->programs[i]);
	}
	snprintf(row.shape, sizeof(row.shape), "%ux%u, %u row%s", p->n, COLUMNS, p->rows, p->rows == 1 ? "" : "s");
	snprintf(row.format, sizeof(row.format), "%s", kern_type_info(p->type)->name);
	kernels_measure(kernels, &row, &cost, run, p);
	for (uint32_t i = 0; i < p->program_count; i++)
		release(kernels, &p->programs[i]);
}

/* One format and height, all batches. */
static void measure_all(struct kernels *kernels, struct products *p)
{
	static const uint32_t batches[] = { 1, 16, BATCH_MAX };

	if (!kernels_have_time(kernels))
		return;
	make_rows(p);
	make_weights(kernels, p);
	for (size_t i = 0; i < sizeof(batches) / sizeof(*batches); i++) {
		p->rows = batches[i];
		measure(kernels, p);
	}
	free_all(kernels, p);
}

void kernels_products(struct kernels *kernels)
{
	static const uint32_t heights[] = { 2048, 5632 };
	static struct products products;
	struct products *p = &products;

	p->x = kernels_alloc(KINDS_OF_INPUT * COLUMNS * sizeof(*p->x));
	p->y = kernels_alloc((size_t)BATCH_MAX * heights[1] * sizeof(*p->y));
	kernels_normal(p->x, KINDS_OF_INPUT * COLUMNS, 1);
	for (uint32_t i = 0; i < BATCH_MAX; i++)
		p->embeddings[i] = p->x + i % KINDS_OF_INPUT * COLUMNS;
	for (int height = 0; height < (kernels->quick ? 1 : 2); height++)
		for (uint32_t type = 0; type < KERN_TYPE_END; type++) {
			if (!kern_type_info(type) || !kern_type_info(type)->products)
				continue;
			p->type = type;
			p->n = heights[height];
			measure_all(kernels, p);
		}
	free(p->y);
	free(p->x);
}
