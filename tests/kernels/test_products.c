/*
 * Matrix products: every type on every instruction set of this machine, against float64 with an error gate, against the
 * documented order of operations bit by bit, and against themselves for every number of rows and every tile. Unreadable pages
 * lie behind weights, rows, bias and results. For integer weights the oracle multiplies what x was quantized to, and
 * the quantization is compared with its own definition.
 *
 * The order is emulated here element by element, so that a path which sums in another order is found, and a test shows that
 * the inputs do tell orders apart.
 * Time limit: 400 s (with sanitizers).
 */
#include <errno.h>
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base_rand.h"
#include "kernels/cpu/cpu_products.h"
#include "kernels/ref/ref_products.h"
#include "tests/kernels/attention_rig.h"

/* Error over the sum of |x w| and, for formats with an offset, of what cancels: chains of 32 and then of blocks. */
static const double error_gate = 2e-6;

static const enum kern_type all_types[] = {KERN_F32, KERN_F16, KERN_BF16, KERN_Q8_0, KERN_Q4_0, KERN_Q4_1, KERN_Q5_0,
	KERN_Q5_1, KERN_IQ4_NL, KERN_Q2_K, KERN_Q3_K, KERN_Q4_K, KERN_Q5_K, KERN_Q6_K, KERN_IQ4_XS};
enum { TYPES = sizeof(all_types) / sizeof(all_types[0]) };

/* Whether the table is for weights of this type. */
static bool takes(const struct cpu_products *products, enum kern_type type)
{
	return cpu_weight_integers(type) == (products->quantize != NULL);
}

/* A matrix in file format, repacked, and as floats. */
struct matrix {
	struct kern_weight weight;
	unsigned char *source;
	size_t source_bytes;
	float *values;
};

/* Random blocks. Formats without a quantizer get random bytes with tame scales. */
static void make_source(enum kern_type type, uint32_t n, uint32_t k, struct matrix *matrix)
{
	const struct kern_type_info *info = kern_type_info(type);
	const size_t row_bytes = kern_row_bytes(type, k);
	float *row = new_zeroed(k * sizeof(float));
	uint64_t random = 77 + n * 1000 + k;

	matrix->source_bytes = n * row_bytes;
	matrix->source = guarded_alloc(matrix->source_bytes);
	for (uint32_t i = 0; i < n; i++) {
		unsigned char *to = matrix->source + i * row_bytes;

		fill_normal(row, k, i * 31 + k);
		/* Every other row of the types with super-blocks, or levels, has any codes and any scales there are. */
		if (i % 2 == 0 || type == KERN_Q6_K || (info->block_elements < 256 && type != KERN_IQ4_NL)) {
			assert_int_equal(kern_quantize_row(type, row, to, k), 0);
			continue;
		}
		for (size_t b = 0; b < row_bytes; b++)
			to[b] = (unsigned char)base_rand_next(&random);
		for (size_t b = 0; b < row_bytes; b += info->block_bytes) {
			const uint16_t halves[2] = {(uint16_t)(0x1c00 + base_rand_below(&random, 0x400)),
				(uint16_t)(0x1c00 + base_rand_below(&random, 0x400))};

			/* Where the scales of a block lie. */
			switch (type) {
			case KERN_Q2_K:
				memcpy(to + b + 80, halves, 4);
				break;
			case KERN_Q3_K:
				memcpy(to + b + 108, halves, 2);
				break;
			case KERN_IQ4_NL:
			case KERN_IQ4_XS:
				memcpy(to + b, halves, 2);
				break;
			default:
				memcpy(to + b, halves, 4);
				break;
			}
		}
	}
	free(row);
}

static void matrix_open(struct matrix *matrix, enum kern_type type, uint32_t n, uint32_t k, uint32_t lanes)
{
	make_source(type, n, k, matrix);
	assert_int_equal(cpu_weight_shape(&matrix->weight, type, n, k, lanes), 0);
	matrix->weight.data = guarded_alloc(cpu_weight_bytes(&matrix->weight));
	cpu_weight_pack(&matrix->weight, matrix->source);
	matrix->values = new_zeroed((size_t)n * k * sizeof(float));
	for (uint32_t i = 0; i < n; i++)
		assert_int_equal(kern_dequantize_row(type, matrix->source + i * kern_row_bytes(type, k),
			matrix->values + (size_t)i * k, k), 0);
}

static void matrix_close(struct matrix *matrix)
{
	free(matrix->values);
	guarded_free(matrix->weight.data, cpu_weight_bytes(&matrix->weight));
	guarded_free(matrix->source, matrix->source_bytes);
}

static float *guarded_normal(size_t count, uint64_t seed)
{
	float *values = guarded_alloc(count * sizeof(float));

	fill_normal(values, count, seed);
	return values;
}

/* x of a product: as it is, and for integer weights quantized with the scale and integers that the definition asks for. */
struct rows {
	const float *x;
	struct cpu_rows8 rows8;
	size_t bytes;
	uint32_t rows, k;
};

static void rows_open(struct rows *rows, const struct cpu_products *products, const float *x, uint32_t count, uint32_t k)
{
	*rows = (struct rows){.x = x, .rows = count, .k = k};
	if (!products->quantize)
		return;
	rows->rows8.row_stride = count < 16 ? count : (count + 15) / 16 * 16;
	rows->rows8.block_bytes = cpu_rows8_block_bytes(rows->rows8.row_stride);
	rows->bytes = k / 32 * rows->rows8.block_bytes;
	rows->rows8.data = guarded_alloc(rows->bytes);
	products->quantize(&rows->rows8, x, k, 0, count, k);
}

static void rows_close(struct rows *rows)
{
	if (rows->bytes > 0)
		guarded_free(rows->rows8.data, rows->bytes);
}

static struct cpu_product product_of(const struct matrix *matrix, const struct rows *rows)
{
	return (struct cpu_product){.weight = &matrix->weight, .x = rows->x, .x_stride = rows->k, .rows8 = rows->rows8};
}

/* Quantization by its definition: b is 0 where the block is not wide. */
struct block32 {
	float a, b;
	int q[32], r[32];
};

static struct block32 quantize_32(const float *x)
{
	struct block32 block = {.a = 0.0f};
	float max = 0.0f;
	int squares = 0;

	for (int i = 0; i < 32; i++)
		max = fabsf(x[i]) > max ? fabsf(x[i]) : max;
	block.a = max / 127.0f;
	for (int i = 0; i < 32 && max > 0.0f; i++) {
		block.q[i] = (int)rintf(x[i] * (1.0f / block.a));
		squares += block.q[i] * block.q[i];
	}
	if (max == 0.0f || squares >= CPU_WIDE_SQUARES)
		return block;
	block.b = block.a / 254.0f;
	for (int i = 0; i < 32; i++) {
		const volatile float whole = (float)block.q[i] * block.a;

		block.r[i] = (int)rintf((x[i] - whole) * (254.0f * (1.0f / block.a)));
	}
	return block;
}

/* Normal values with some that stand out by a factor of 30, so that every fourth block is wide or so. */
static void fill_rows(float *x, size_t count, uint64_t seed)
{
	uint64_t random = seed;

	fill_normal(x, count, seed);
	for (size_t i = 0; i < count; i++)
		if (base_rand_below(&random, 100) == 0)
			x[i] *= 30.0f;
}

static void run_all(const struct cpu_products *products, const struct cpu_product *product, uint32_t rows, void *scratch)
{
	products->run(product, 0, rows, 0, product->weight->groups, &(struct cpu_ahead){.bytes = 0}, scratch);
}

static void *new_scratch(const struct cpu_products *products)
{
	void *scratch = guarded_alloc(products->scratch_bytes);

	/* What a participant's last tile has left behind must not matter. */
	memset(scratch, 0xff, products->scratch_bytes);
	return scratch;
}

static void each_isa(void (*test)(const struct cpu_products *products))
{
	enum base_isa isas[3];
	const uint32_t count = attention_isas(isas);

	for (uint32_t i = 0; i < count; i++) {
		test(cpu_products_float(isas[i]));
		test(isas[i] == BASE_ISA_AVX512 ? &cpu_products_integer_avx512 : cpu_products_integer(isas[i]));
	}
	if (cpu_products_amx())
		test(cpu_products_amx());
}

/* ---- float64 ------------------------------------------------------------------------------------------------------ */

/* What an offset and the codes it cancels against add to the magnitudes that rounding errors grow with. */
static double offset_magnitude(const struct kern_weight *weight, const float *x)
{
	double sum = 0.0;

	const enum kern_scaling scaling = kern_type_scaling(weight->type);

	if (scaling != KERN_SCALING_DM && scaling != KERN_SCALING_SUPER_DM)
		return 0.0;
	for (uint32_t k = 0; k < weight->k; k++)
		sum += fabs((double)x[k]);
	return sum * 8.0;
}

static void check_error(const struct cpu_products *products, enum kern_type type, uint32_t n, uint32_t k, uint32_t m)
{
	struct matrix matrix;
	float *x = guarded_alloc((size_t)m * k * sizeof(float)), *y = guarded_alloc((size_t)m * n * sizeof(float));
	double *expected = new_zeroed(n * sizeof(double)), *scale = new_zeroed(n * sizeof(double));
	void *scratch = new_scratch(products);
	struct cpu_product product;
	struct rows rows;
	uint32_t wide = 0;

	fill_rows(x, (size_t)m * k, m * 7 + k);
	matrix_open(&matrix, type, n, k, products->lanes);
	rows_open(&rows, products, x, m, k);
	product = product_of(&matrix, &rows);
	product.y = y;
	product.y_stride = n;
	run_all(products, &product, m, scratch);
	for (uint32_t r = 0; r < m; r++) {
		const double more = offset_magnitude(&matrix.weight, x + (size_t)r * k);

		/* From here on x is what was multiplied. */
		for (uint32_t b = 0; products->quantize && b < k / 32; b++) {
			float *at = x + (size_t)r * k + b * 32;
			const struct block32 block = quantize_32(at);

			wide += block.b != 0.0f;
			for (int i = 0; i < 32; i++) {
				const float value = block.a * (float)block.q[i] + block.b * (float)block.r[i];

				assert_true(fabsf(at[i] - value) <= (block.b != 0.0f ? block.b : block.a) * 0.501f);
				at[i] = value;
			}
		}
		ref_product(x + (size_t)r * k, matrix.values, n, k, expected, scale);
		for (uint32_t i = 0; i < n; i++) {
			const double error = fabs(y[(size_t)r * n + i] - expected[i]);

			if (!(error <= error_gate * (scale[i] + more)))
				fail_msg("%s %s n %u k %u m %u: [%u][%u] is %g, not %g (error %g of %g)",
					base_isa_name(products->isa), kern_type_info(type)->name, n, k, m, r, i,
					(double)y[(size_t)r * n + i], expected[i], error, scale[i] + more);
		}
	}
	assert_true(!products->quantize || m * k < 8000 || (wide > 0 && wide < m * k / 32 / 2));
	rows_close(&rows);
	matrix_close(&matrix);
	guarded_free(scratch, products->scratch_bytes);
	free(scale);
	free(expected);
	guarded_free(y, (size_t)m * n * sizeof(float));
	guarded_free(x, (size_t)m * k * sizeof(float));
}

static void errors_of(const struct cpu_products *products)
{
	static const uint32_t ns[] = {1, 5, 16, 17, 63, 64, 65, 130}, ms[] = {1, 2, 3, 7, 13, 33, 48, 64};
	static const uint32_t odd_ks[] = {1, 7, 33, 64, 172}, blocks_ks[] = {32, 96, 288}, super_ks[] = {256, 768};

	for (size_t t = 0; t < TYPES; t++) {
		const uint32_t block = kern_type_info(all_types[t])->block_elements;
		if (!takes(products, all_types[t]))
			continue;
		const uint32_t *ks = block == 1 ? odd_ks : block == 32 ? blocks_ks : super_ks;
		const size_t k_count = block == 1 ? 5 : block == 32 ? 3 : 2;

		for (size_t i = 0; i < 8; i++)
			for (size_t j = 0; j < k_count; j++)
				check_error(products, all_types[t], ns[i], ks[j], ms[(i * 3 + j) % 8]);
	}
}

static void errors(void **state)
{
	(void)state;
	each_isa(errors_of);
}

/* ---- the order of summation ------------------------------------------------------------------------------------- */

static float fused(const struct cpu_products *products, float a, float b, float c)
{
	volatile float product;

	if (products->isa != BASE_ISA_SCALAR)
		return fmaf(a, b, c);
	product = a * b;
	return product + c;
}

/* One element of a product with float weights as cpu_products.h says; backwards: with k descending, which is what a broken
 * kernel might do. */
static float emulate_floats(const struct cpu_products *products, enum kern_type type, const unsigned char *row,
	const float *x, uint32_t k, bool backwards)
{
	float total = 0.0f, *values = new_zeroed(k * sizeof(float));

	assert_int_equal(kern_dequantize_row(type, row, values, k), 0);
	for (uint32_t first = 0; first < k; first += 32) {
		const uint32_t count = k - first < 32 ? k - first : 32;
		float sum = 0.0f;

		for (uint32_t i = 0; i < count; i++) {
			const uint32_t j = first + (backwards ? count - 1 - i : i);

			sum = fused(products, values[j], x[j], sum);
		}
		total += sum;
	}
	free(values);
	return total;
}

/* Scale and offset of the elements from `first` on. */
static void scales_at(enum kern_type type, const struct kern_block *block, uint32_t inner, float *w, float *m)
{
	const uint32_t sub = inner / kern_type_scale_elements(type);

	*w = kern_f16_to_f32(block->d);
	*m = 0.0f;
	switch (kern_type_scaling(type)) {
	case KERN_SCALING_DM:
		*m = kern_f16_to_f32(block->m);
		break;
	case KERN_SCALING_SUPER:
		*w *= block->s[sub];
		break;
	case KERN_SCALING_SUPER_DM:
		*w *= block->s[sub];
		*m = -(kern_f16_to_f32(block->m) * block->t[sub]);
		break;
	default:
		break;
	}
}

static int products_of(const int *q, const struct kern_block *block, uint32_t first, uint32_t inner, uint32_t unit)
{
	int sum = 0;

	for (uint32_t j = 0; j < unit; j++)
		sum += q[first % 32 + j] * block->q[inner + j];
	return sum;
}

static int sum_of(const int *q, uint32_t first, uint32_t unit)
{
	int sum = 0;

	for (uint32_t j = 0; j < unit; j++)
		sum += q[first % 32 + j];
	return sum;
}

/* One element of a product with integer weights; backwards: blocks in descending order. */
static float emulate_integers(const struct cpu_products *products, enum kern_type type, const unsigned char *row,
	const float *x, uint32_t k, bool backwards)
{
	const struct kern_type_info *info = kern_type_info(type);
	const enum kern_scaling scaling = kern_type_scaling(type);
	const uint32_t unit = kern_type_scale_elements(type);
	struct kern_block block = {.q = {0}};
	float total = 0.0f;

	for (uint32_t i = 0; i < k; i += unit) {
		const uint32_t first = backwards ? k - unit - i : i, inner = first % info->block_elements;
		const struct block32 x32 = quantize_32(x + first / 32 * 32);
		float w, m;

		kern_block_decode(type, row + first / info->block_elements * info->block_bytes, &block);
		scales_at(type, &block, inner, &w, &m);
		total = fused(products, (float)products_of(x32.q, &block, first, inner, unit), w * x32.a, total);
		if (scaling == KERN_SCALING_DM || scaling == KERN_SCALING_SUPER_DM) {
			volatile float sum = x32.a * (float)sum_of(x32.q, first, unit);

			if (x32.b != 0.0f)
				sum += x32.b * (float)sum_of(x32.r, first, unit);
			total = fused(products, m, sum, total);
		}
		/* The second limb comes when all scales of the block of 32 are through. */
		if (x32.b == 0.0f || (first + unit) % 32 != 0)
			continue;
		for (uint32_t at = first + unit - 32; at < first + unit; at += unit) {
			scales_at(type, &block, at % info->block_elements, &w, &m);
			total = fused(products, (float)products_of(x32.r, &block, at, at % info->block_elements, unit), w * x32.b,
				total);
		}
	}
	return total;
}

static float emulate(const struct cpu_products *products, enum kern_type type, const unsigned char *row, const float *x,
	uint32_t k, bool backwards)
{
	return products->quantize ? emulate_integers(products, type, row, x, k, backwards) :
		emulate_floats(products, type, row, x, k, backwards);
}

/* Every third feature, in the documented order; counts where the other order gives something else. */
static uint32_t emulate_all(const struct cpu_products *products, enum kern_type type, const struct matrix *matrix,
	const float *x, uint32_t rows, float *expected)
{
	const uint32_t n = matrix->weight.n, k = matrix->weight.k;
	uint32_t told_apart = 0;

	for (uint32_t r = 0; r < rows; r++)
		for (uint32_t i = 0; i < n; i += 3) {
			const unsigned char *row = matrix->source + i * kern_row_bytes(type, k);
			const float *xr = x + (size_t)r * k;

			expected[r * n + i] = emulate(products, type, row, xr, k, false);
			told_apart += emulate(products, type, row, xr, k, true) != expected[r * n + i];
		}
	return told_apart;
}

static void order_of(const struct cpu_products *products)
{
	enum { N = 70, M = 35 };
	void *scratch = new_scratch(products);
	static float y[M][N], expected[M][N];

	for (size_t t = 0; t < TYPES; t++) {
		const uint32_t k = kern_type_info(all_types[t])->block_elements == 1 ? 172 : 512;
		float *x = guarded_alloc((size_t)M * k * sizeof(float));
		struct matrix matrix;
		struct cpu_product product;
		struct rows quantized;

		if (!takes(products, all_types[t])) {
			guarded_free(x, (size_t)M * k * sizeof(float));
			continue;
		}
		fill_rows(x, (size_t)M * k, 3 + t);
		matrix_open(&matrix, all_types[t], N, k, products->lanes);
		rows_open(&quantized, products, x, M, k);
		product = product_of(&matrix, &quantized);
		product.y = y[0];
		product.y_stride = N;
		/* The inputs do tell orders apart. */
		assert_true(emulate_all(products, all_types[t], &matrix, x, M, expected[0]) > M * N / 3 / 2);
		for (uint32_t rows = 1; rows <= M; rows++) {
			run_all(products, &product, rows, scratch);
			const float *got = &y[0][0], *wanted = &expected[0][0];

			for (uint32_t i = 0; i < rows * N; i++)
				if (i % N % 3 == 0 && memcmp(&got[i], &wanted[i], sizeof(float)) != 0)
					fail_msg("%s %s m %u: [%u][%u] is %a, in the documented order %a",
						base_isa_name(products->isa), kern_type_info(all_types[t])->name, rows, i / N,
						i % N, (double)got[i], (double)wanted[i]);
		}
		rows_close(&quantized);
		matrix_close(&matrix);
		guarded_free(x, (size_t)M * k * sizeof(float));
	}
	guarded_free(scratch, products->scratch_bytes);
}

static void order(void **state)
{
	(void)state;
	each_isa(order_of);
}

/* ---- the same bits for any number of rows and any tile -------------------------------------------------------- */

static void check_tiles(const struct cpu_products *products, const struct cpu_product *whole, uint32_t rows, uint32_t n,
	const float *expected, void *scratch)
{
	float *y = guarded_alloc((size_t)rows * n * sizeof(float));
	struct cpu_product product = *whole;
	uint64_t random = rows * 100 + n;
	const uint32_t groups = whole->weight->groups;

	product.y = y;
	for (uint32_t row = 0, high; row < rows; row += high) {
		high = 1 + (uint32_t)base_rand_below(&random, rows - row);
		for (uint32_t group = 0, wide; group < groups; group += wide) {
			wide = 1 + (uint32_t)base_rand_below(&random, groups - group);
			products->run(&product, row, high, group, wide, &(struct cpu_ahead){.bytes = 0}, scratch);
		}
	}
	assert_memory_equal(y, expected, (size_t)rows * n * sizeof(float));
	guarded_free(y, (size_t)rows * n * sizeof(float));
}

static void same_bits_of(const struct cpu_products *products)
{
	enum { N = 150, M = 64 };
	void *scratch = new_scratch(products);

	for (size_t t = 0; t < TYPES; t++) {
		const uint32_t k = kern_type_info(all_types[t])->block_elements == 1 ? 100 : 512;
		float *x = guarded_alloc((size_t)M * k * sizeof(float)), *one = new_zeroed(M * N * sizeof(float));
		float *many = guarded_alloc(M * N * sizeof(float));
		struct matrix matrix;
		struct cpu_product product;
		struct rows quantized;

		if (!takes(products, all_types[t])) {
			guarded_free(many, M * N * sizeof(float));
			free(one);
			guarded_free(x, (size_t)M * k * sizeof(float));
			continue;
		}
		fill_rows(x, (size_t)M * k, 11 + t);
		matrix_open(&matrix, all_types[t], N, k, products->lanes);
		rows_open(&quantized, products, x, M, k);
		product = product_of(&matrix, &quantized);
		product.y_stride = N;
		product.y = one;
		for (uint32_t r = 0; r < M; r++)
			products->run(&product, r, 1, 0, matrix.weight.groups, &(struct cpu_ahead){.bytes = 0}, scratch);
		product.y = many;
		for (uint32_t rows = 1; rows <= M; rows += rows < 20 ? 1 : 11) {
			run_all(products, &product, rows, scratch);
			assert_memory_equal(many, one, rows * N * sizeof(float));
			check_tiles(products, &product, rows, N, one, scratch);
		}
		rows_close(&quantized);
		matrix_close(&matrix);
		guarded_free(many, M * N * sizeof(float));
		free(one);
		guarded_free(x, (size_t)M * k * sizeof(float));
	}
	guarded_free(scratch, products->scratch_bytes);
}

static void same_bits(void **state)
{
	(void)state;
	each_isa(same_bits_of);
}

/* ---- results ------------------------------------------------------------------------------------------------------ */

/* Bias and addition come last, and rows nobody asked for are not written. */
static void results_of(const struct cpu_products *products)
{
	enum { N = 37, K = 64, M = 19 };
	float *x = guarded_normal(M * K, 21), *bias = guarded_normal(N, 22), *y = guarded_alloc(M * N * sizeof(float));
	float plain[M][N], before[M][N];
	struct kern_out outs[M] = {{.row = 0}};
	void *scratch = new_scratch(products);
	struct matrix matrix;
	struct cpu_product product;
	struct rows quantized;

	matrix_open(&matrix, products->quantize ? KERN_Q8_0 : KERN_F16, N, K, products->lanes);
	rows_open(&quantized, products, x, M, K);
	product = product_of(&matrix, &quantized);
	product.y = plain[0];
	product.y_stride = N;
	run_all(products, &product, M, scratch);
	product.y = y;
	for (int variant = 1; variant < 4; variant++) {
		product.bias = variant & 1 ? bias : NULL;
		product.add = variant & 2;
		fill_normal(y, M * N, 23);
		memcpy(before, y, sizeof(before));
		run_all(products, &product, M, scratch);
		for (int r = 0; r < M; r++)
			for (int n = 0; n < N; n++) {
				const float result = product.bias ? plain[r][n] + bias[n] : plain[r][n];

				assert_true(y[r * N + n] == (product.add ? before[r][n] + result : result));
			}
	}
	product.bias = NULL;
	product.add = false;
	product.outs = outs;
	memset(y, 0, M * N * sizeof(float));
	for (int r = 0; r < M; r += 2)
		outs[r].logits = y + r * N;
	run_all(products, &product, M, scratch);
	for (int i = 0; i < M * N; i++)
		assert_true(y[i] == (i / N % 2 == 0 ? plain[i / N][i % N] : 0.0f));
	rows_close(&quantized);
	matrix_close(&matrix);
	guarded_free(scratch, products->scratch_bytes);
	guarded_free(y, M * N * sizeof(float));
	guarded_free(bias, N * sizeof(float));
	guarded_free(x, M * K * sizeof(float));
}

static void results(void **state)
{
	(void)state;
	each_isa(results_of);
}

/* A feature of the repacked matrix is, bit by bit, what the format's definition says. */
static void rows_of(const struct cpu_products *products)
{
	enum { N = 19 };

	for (size_t t = 0; t < TYPES; t++) {
		const uint32_t k = kern_type_info(all_types[t])->block_elements == 1 ? 45 : 512;
		float *row = guarded_alloc(k * sizeof(float));
		struct matrix matrix;

		if (!takes(products, all_types[t])) {
			guarded_free(row, k * sizeof(float));
			continue;
		}
		matrix_open(&matrix, all_types[t], N, k, products->lanes);
		for (uint32_t n = 0; n < N; n++) {
			cpu_weight_row(&matrix.weight, n, row);
			assert_memory_equal(row, matrix.values + (size_t)n * k, k * sizeof(float));
		}
		matrix_close(&matrix);
		guarded_free(row, k * sizeof(float));
	}
}

static void rows(void **state)
{
	(void)state;
	each_isa(rows_of);
}

/* A block that holds something which is no number makes its row's results NaN, and no other row's. */
static void not_numbers_of(const struct cpu_products *products)
{
	enum { N = 20, K = 96, M = 20 };
	static const float odd[] = {NAN, INFINITY, -INFINITY};
	float *x = guarded_normal(M * K, 31), y[M][N];
	void *scratch = new_scratch(products);
	struct matrix matrix;
	struct cpu_product product;
	struct rows quantized;

	for (int i = 0; i < 3; i++)
		x[(3 * i + 1) * K + 40 + i] = odd[i];
	memset(x + 11 * K, 0, K * sizeof(float));
	for (int i = 0; i < K; i++) {
		x[12 * K + i] = 1e-42f;
		/* Alone in their blocks, and the largest there are. */
		x[13 * K + i] = i == 5 ? FLT_MAX : i == 70 ? -FLT_MAX : 0.0f;
	}
	matrix_open(&matrix, products->quantize ? KERN_Q4_1 : KERN_BF16, N, K, products->lanes);
	rows_open(&quantized, products, x, M, K);
	product = product_of(&matrix, &quantized);
	product.y = y[0];
	product.y_stride = N;
	run_all(products, &product, M, scratch);
	for (int r = 0; r < M; r++)
		for (int n = 0; n < N; n++) {
			assert_true(r == 13 || !isfinite(y[r][n]) == (r == 1 || r == 4 || r == 7));
			assert_true((r != 11 && (r != 12 || !products->quantize)) || y[r][n] == 0.0f);
		}
	rows_close(&quantized);
	matrix_close(&matrix);
	guarded_free(scratch, products->scratch_bytes);
	guarded_free(x, M * K * sizeof(float));
}

static void not_numbers(void **state)
{
	(void)state;
	each_isa(not_numbers_of);
}

static void refusals(void **state)
{
	struct kern_weight weight;

	(void)state;
	assert_int_equal(cpu_weight_shape(&weight, (enum kern_type)9, 4, 256, 16), -ENOTSUP);
	assert_int_equal(cpu_weight_shape(&weight, (enum kern_type)99, 4, 256, 16), -ENOTSUP);
	assert_int_equal(cpu_weight_shape(&weight, KERN_Q4_0, 4, 33, 16), -EINVAL);
	assert_int_equal(cpu_weight_shape(&weight, KERN_F32, 0, 32, 16), -EINVAL);
	assert_int_equal(cpu_weight_shape(&weight, KERN_F32, UINT32_MAX, UINT32_MAX, 16), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(errors),
		cmocka_unit_test(order),
		cmocka_unit_test(same_bits),
		cmocka_unit_test(results),
		cmocka_unit_test(rows),
		cmocka_unit_test(not_numbers),
		cmocka_unit_test(refusals),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
