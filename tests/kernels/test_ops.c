/*
 * Operations on rows, on every instruction set of this machine: against float64 with an error gate, in place, at every
 * width around a vector, with unreadable pages behind the rows, and at the ends of the range of numbers.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/cpu/cpu_rows.h"
#include "kernels/ref/ref_products.h"
#include "tests/kernels/attention_rig.h"

enum { WIDTH_MAX = 600 };

static const uint32_t widths[] = {1, 2, 3, 4, 5, 8, 15, 16, 17, 31, 33, 64, 65, 100, 127, 288, 576, 599};
enum { WIDTHS = sizeof(widths) / sizeof(widths[0]) };

static void each(void (*test)(const struct cpu_rows *rows, uint32_t width))
{
	enum base_isa isas[3];
	const uint32_t count = attention_isas(isas);

	for (uint32_t i = 0; i < count; i++) {
		const struct cpu_rows *rows = cpu_rows_for(isas[i]);

		assert_int_equal(rows->isa, isas[i]);
		for (size_t w = 0; w < WIDTHS; w++)
			test(rows, widths[w]);
	}
}

static float *guarded_normal(size_t count, uint64_t seed)
{
	float *values = guarded_alloc(count * sizeof(float));

	fill_normal(values, count, seed);
	return values;
}

static void near(const char *what, const struct cpu_rows *rows, const float *got, const double *expected, uint32_t width,
	double relative, double absolute)
{
	for (uint32_t i = 0; i < width; i++)
		if (!(fabs(got[i] - expected[i]) <= relative * fabs(expected[i]) + absolute))
			fail_msg("%s %s width %u: [%u] is %.9g, not %.9g", what, base_isa_name(rows->isa), width, i,
				(double)got[i], expected[i]);
}

static void norms_of(const struct cpu_rows *rows, uint32_t width)
{
	const size_t bytes = width * sizeof(float);
	float *x = guarded_normal(width, width), *gain = guarded_normal(width, 2), *bias = guarded_normal(width, 3);
	float *y = guarded_alloc(bytes), *place = guarded_alloc(bytes);
	double expected[WIDTH_MAX] = {0};

	rows->rmsnorm(y, x, gain, width, 1e-5f);
	ref_rmsnorm(x, gain, width, (double)1e-5f, expected);
	near("rmsnorm", rows, y, expected, width, 1e-6, 0.0);
	memcpy(place, x, bytes);
	rows->rmsnorm(place, place, gain, width, 1e-5f);
	assert_memory_equal(place, y, bytes);

	/* A mean that is large beside the deviations is what layer norms meet. */
	for (uint32_t i = 0; i < width; i++)
		x[i] += 3.0f;
	rows->layernorm(y, x, gain, bias, width, 1e-5f);
	ref_layernorm(x, gain, bias, width, (double)1e-5f, expected);
	near("layernorm", rows, y, expected, width, 2e-5, width > 1 ? 5e-6 : 1e-3);
	memcpy(place, x, bytes);
	rows->layernorm(place, place, gain, bias, width, 1e-5f);
	assert_memory_equal(place, y, bytes);
	rows->layernorm(y, x, gain, NULL, width, 1e-5f);
	ref_layernorm(x, gain, NULL, width, (double)1e-5f, expected);
	near("layernorm without bias", rows, y, expected, width, 2e-5, width > 1 ? 5e-6 : 1e-3);

	guarded_free(place, bytes);
	guarded_free(y, bytes);
	guarded_free(bias, bytes);
	guarded_free(gain, bytes);
	guarded_free(x, bytes);
}

static void norms(void **state)
{
	(void)state;
	each(norms_of);
}

static void activations_of(const struct cpu_rows *rows, uint32_t width)
{
	const size_t bytes = width * sizeof(float);
	float *x = guarded_normal(width, width), *up = guarded_normal(width, 2), *y = guarded_alloc(bytes);
	double expected[WIDTH_MAX] = {0};

	for (uint32_t i = 0; i < width; i++) {
		x[i] *= 8.0f;
		expected[i] = ref_silu(x[i]) * up[i];
	}
	rows->silu_mul(y, x, up, width);
	near("silu_mul", rows, y, expected, width, 1e-6, 1e-30);
	for (uint32_t i = 0; i < width; i++)
		expected[i] = (double)y[i] + x[i];
	rows->add(y, x, width);
	near("add", rows, y, expected, width, 1e-6, 1e-6);
	for (uint32_t i = 0; i < width; i++)
		expected[i] = ref_gelu(x[i]);
	rows->gelu(y, x, width);
	near("gelu", rows, y, expected, width, 2e-6, 1e-6);
	memcpy(y, x, bytes);
	rows->silu_mul(y, y, up, width);
	for (uint32_t i = 0; i < width; i++)
		expected[i] = ref_silu(x[i]) * up[i];
	near("silu_mul in place", rows, y, expected, width, 1e-6, 1e-30);

	guarded_free(y, bytes);
	guarded_free(up, bytes);
	guarded_free(x, bytes);
}

static void activations(void **state)
{
	(void)state;
	each(activations_of);
}

/* An element's bits do not depend on where in a row it stands. */
static void place_of(const struct cpu_rows *rows, uint32_t width)
{
	float *x = new_normal(width + 20, 1), *up = new_normal(width + 20, 2), *y = new_zeroed((width + 20) * sizeof(float));
	float one;

	rows->silu_mul(y, x, up, width);
	for (uint32_t i = 0; i < width; i++) {
		rows->silu_mul(&one, x + i, up + i, 1);
		assert_memory_equal(&one, y + i, sizeof(one));
	}
	free(y);
	free(up);
	free(x);
}

static void place(void **state)
{
	(void)state;
	each(place_of);
}

static void ends_of(const struct cpu_rows *rows, uint32_t width)
{
	static const float ends[] = {0.0f, -0.0f, 100.0f, -100.0f, 87.5f, -88.5f, 1e30f, -1e30f, 1e-30f, -20.0f, -87.0f};
	float x[WIDTH_MAX] = {0}, up[WIDTH_MAX] = {0}, y[WIDTH_MAX];

	for (uint32_t i = 0; i < width; i++) {
		x[i] = ends[i % 11];
		up[i] = 1.0f;
	}
	rows->silu_mul(y, x, up, width);
	for (uint32_t i = 0; i < width; i++) {
		/* From -87 down the exponential is held at its end, where the result is next to zero anyway. */
		const double allowed = x[i] < -87.0f ? fabs((double)x[i]) * 2e-38 : fabs((double)x[i]) * 1e-6;

		assert_true(fabs(y[i] - ref_silu(x[i])) <= allowed);
	}
	x[0] = NAN;
	rows->silu_mul(y, x, up, width);
	assert_true(isnan(y[0]));
	rows->rmsnorm(y, x, up, width, 1e-5f);
	assert_true(isnan(y[0]));
	memset(x, 0, sizeof(x));
	rows->rmsnorm(y, x, up, width, 1e-5f);
	assert_true(y[0] == 0.0f);
}

static void ends(void **state)
{
	(void)state;
	each(ends_of);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(norms),
		cmocka_unit_test(activations),
		cmocka_unit_test(place),
		cmocka_unit_test(ends),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
