/*
 * Products of the same rows that run at once: where they are independent the results are there, and where one adds to what the
 * other wrote it comes after it. Against float64, and bit by bit with any number of workers, time and again.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base_error.h"
#include "kernels/kern_backend.h"
#include "kernels/ref/ref_products.h"
#include "tests/kernels/attention_rig.h"

/* Large enough for each product to be worth sharing. */
enum { WIDTH = 320, ROWS = 3, WEIGHTS = 6, OPS = 9, RUNS = 100 };

struct together {
	struct kern_backend *backend;
	struct kern_program program;
	struct kern_op ops[OPS];
	struct kern_weight *weights[WEIGHTS];
	float *values[WEIGHTS];
};

static struct kern_op product(const struct together *t, uint8_t dst, uint8_t src, int weight)
{
	return (struct kern_op){.kind = KERN_OP_MATMUL, .dst = dst, .src = src, .weight = t->weights[weight]};
}

/* y = W5 (W4 (W2 x, W3 x) + (W0 x + W1 x)); the second into slot 1 adds to the first. */
static void together_open(struct together *t, uint32_t workers)
{
	const struct kern_cpu_options options = {
		.struct_bytes = sizeof(options), .workers = workers, .node = -1, .spin_us = 20};

	*t = (struct together){.backend = NULL};
	if (kern_cpu_create(&t->backend, &options) != 0)
		fail_msg("%s", base_error_message());
	for (uint32_t i = 0; i < WEIGHTS; i++) {
		const uint32_t k = i == 4 ? 2 * WIDTH : WIDTH;

		t->values[i] = new_normal((size_t)WIDTH * k, 50 + i);
		assert_int_equal(t->backend->ops->weight_create(t->backend, KERN_F32, WIDTH, k, t->values[i], &t->weights[i]), 0);
	}
	t->ops[0] = (struct kern_op){.kind = KERN_OP_EMBED, .dst = 0};
	t->ops[1] = product(t, 1, 0, 0);
	t->ops[2] = product(t, 1, 0, 1);
	t->ops[2].add = true;
	t->ops[3] = product(t, 2, 0, 2);
	t->ops[4] = product(t, 2, 0, 3);
	t->ops[4].u0 = WIDTH;
	t->ops[5] = product(t, 3, 2, 4);
	t->ops[6] = (struct kern_op){.kind = KERN_OP_ADD, .dst = 3, .src = 1};
	t->ops[7] = (struct kern_op){.kind = KERN_OP_SELECT, .src = 3, .dst = 3};
	t->ops[8] = (struct kern_op){.kind = KERN_OP_LOGITS, .src = 3, .weight = t->weights[5]};
	t->program = (struct kern_program){.op_count = OPS, .slot_count = 4, .ops = t->ops,
		.slot_width = {WIDTH, WIDTH, 2 * WIDTH, WIDTH}, .vocab = WIDTH, .width = WIDTH, .max_rows = ROWS, .max_out_rows = ROWS};
	if (t->backend->ops->program_prepare(t->backend, &t->program) != 0)
		fail_msg("%s", base_error_message());
}

static void together_close(struct together *t)
{
	t->backend->ops->program_release(t->backend, &t->program);
	for (int i = 0; i < WEIGHTS; i++) {
		t->backend->ops->weight_destroy(t->backend, t->weights[i]);
		free(t->values[i]);
	}
	t->backend->ops->destroy(t->backend);
}

static void together_run(struct together *t, const float *x, float y[ROWS][WIDTH])
{
	const float *embeddings[ROWS];
	struct kern_out outs[ROWS];
	const struct kern_work work = {.kind = KERN_WORK_STEP, .step = {.program = &t->program, .rows = ROWS, .out_count = ROWS,
		.embeddings = embeddings, .outs = outs}};
	kern_ticket ticket;
	int result;

	for (uint32_t r = 0; r < ROWS; r++) {
		embeddings[r] = x + r * WIDTH;
		outs[r] = (struct kern_out){.row = r, .logits = y[r]};
	}
	assert_int_equal(t->backend->ops->submit(t->backend, &work, &ticket), 0);
	while ((result = t->backend->ops->poll(t->backend, ticket)) == 0)
		;
	assert_int_equal(result, 1);
}

static void multiply(const float *w, const float *x, uint32_t k, float *y)
{
	double wide[WIDTH];

	ref_product(x, w, WIDTH, k, wide, NULL);
	for (int i = 0; i < WIDTH; i++)
		y[i] = (float)wide[i];
}

static void check_values(const struct together *t, const float *x, float y[ROWS][WIDTH])
{
	float parts[2][WIDTH], both[2 * WIDTH], sum[WIDTH], expected[WIDTH];

	for (int r = 0; r < ROWS; r++) {
		for (int i = 0; i < 2; i++) {
			multiply(t->values[i], x + r * WIDTH, WIDTH, parts[i]);
			multiply(t->values[2 + i], x + r * WIDTH, WIDTH, both + i * WIDTH);
		}
		multiply(t->values[4], both, 2 * WIDTH, sum);
		for (int i = 0; i < WIDTH; i++)
			sum[i] += parts[0][i] + parts[1][i];
		multiply(t->values[5], sum, WIDTH, expected);
		/* Without the part that is added, results are off by several hundred. */
		for (int i = 0; i < WIDTH; i++)
			assert_true(fabsf(y[r][i] - expected[i]) < 1.0f);
	}
}

static void same_with_any_workers(void **state)
{
	float *x = new_normal(ROWS * WIDTH, 7);
	float first[ROWS][WIDTH], y[ROWS][WIDTH];

	(void)state;
	for (uint32_t workers = 0; workers <= 3; workers++) {
		struct together t;

		together_open(&t, workers);
		for (int run = 0; run < RUNS; run++) {
			together_run(&t, x, workers == 0 && run == 0 ? first : y);
			if (workers == 0 && run == 0)
				check_values(&t, x, first);
			else
				assert_memory_equal(y, first, sizeof(first));
		}
		together_close(&t);
	}
	free(x);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(same_with_any_workers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
