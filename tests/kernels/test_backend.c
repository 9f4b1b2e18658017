/*
 * The CPU backend through its table: a small transformer whose bits must not depend on workers, on neighbours in the
 * batch or on how a prefill is cut; tickets, bounded polls, sleeping workers, errors of a batch, copies, raw attention.
 * Without ATTND_ISA in the environment the program runs itself once per instruction set.
 * Time limit: 400 s (with sanitizers).
 */
#include <errno.h>
#include <math.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base_clock.h"
#include "base/base_cpu.h"
#include "base/base_error.h"
#include "base/base_rand.h"
#include "kernels/kern_backend.h"
#include "kernels/ref/ref_products.h"
#include "tests/kernels/attention_rig.h"

static struct kern_backend *open_backend(uint32_t workers, uint32_t spin_us)
{
	const struct kern_cpu_options options = {
		.struct_bytes = sizeof(options), .workers = workers, .node = -1, .spin_us = spin_us};
	struct kern_backend *backend;

	if (kern_cpu_create(&backend, &options) != 0)
		fail_msg("%s", base_error_message());
	return backend;
}

static int finish(struct kern_backend *backend, kern_ticket ticket)
{
	int result;

	while ((result = backend->ops->poll(backend, ticket)) == 0)
		;
	return result;
}

static int run_work(struct kern_backend *backend, const struct kern_work *work)
{
	kern_ticket ticket;
	int err = backend->ops->submit(backend, work, &ticket);

	return err != 0 ? err : finish(backend, ticket);
}

/* ---- a small transformer ------------------------------------------------------------------------------------------ */

enum {
	VOCAB = 150, LAYERS = 2, HEADS = 4, KV_HEADS = 2, DIM = 32, WIDTH = HEADS * DIM, QKV = (HEADS + 2 * KV_HEADS) * DIM,
	FF = 160, ROWS = 160, TOKENS = 128, BLOCKS = TOKENS / KERN_PAGE_TOKENS + KERN_KV_AHEAD, CHECKED = 75,
	LAYER_OPS = 10, DOWN = 5, OPS_MAX = 40, WEIGHTS_MAX = 16
};

enum { X, NORMED, FUSED, HEADS_OUT, GATE, UP, SLOTS };

struct toy {
	struct kern_backend *backend;
	struct kern_program program;
	struct kern_op ops[OPS_MAX];
	struct kern_weight *weights[WEIGHTS_MAX];
	uint32_t weight_count;
	float *gain, frequencies[DIM / 2];
};

static struct kern_weight *toy_weight(struct toy *toy, enum kern_type type, uint32_t n, uint32_t k)
{
	float *values = new_normal((size_t)n * k, toy->weight_count + 50);
	unsigned char *rows = new_zeroed(n * kern_row_bytes(type, k));
	struct kern_weight **weight = &toy->weights[toy->weight_count++];

	for (uint32_t i = 0; i < n; i++) {
		for (uint32_t j = 0; j < k; j++)
			values[(size_t)i * k + j] /= sqrtf((float)k);
		assert_int_equal(kern_quantize_row(type, values + (size_t)i * k, rows + i * kern_row_bytes(type, k), k), 0);
	}
	assert_int_equal(toy->backend->ops->weight_create(toy->backend, type, n, k, rows, weight), 0);
	free(rows);
	free(values);
	return *weight;
}

static struct kern_op *toy_op(struct toy *toy, enum kern_op_kind kind, uint8_t dst, uint8_t src)
{
	struct kern_op *op = &toy->ops[toy->program.op_count++];

	*op = (struct kern_op){.kind = kind, .dst = dst, .src = src, .f0 = 1e-5f, .gain = toy->gain};
	return op;
}

static void toy_layer(struct toy *toy, uint32_t layer, enum kern_type type)
{
	struct kern_op *op;

	toy_op(toy, KERN_OP_RMSNORM, NORMED, X);
	toy_op(toy, KERN_OP_MATMUL, FUSED, NORMED)->weight = toy_weight(toy, type, QKV, WIDTH);
	op = toy_op(toy, KERN_OP_HEADNORM, FUSED, FUSED);
	op->u0 = DIM;
	op->u2 = HEADS + KV_HEADS;
	op = toy_op(toy, KERN_OP_ATTENTION, HEADS_OUT, FUSED);
	op->u0 = layer;
	op->u1 = KERN_ROPE_HALVES;
	op->u2 = DIM;
	op->f0 = 0.17f;
	op = toy_op(toy, KERN_OP_MATMUL, X, HEADS_OUT);
	op->weight = toy_weight(toy, type, WIDTH, WIDTH);
	op->add = true;
	toy_op(toy, KERN_OP_RMSNORM, NORMED, X);
	toy_op(toy, KERN_OP_MATMUL, GATE, NORMED)->weight = toy_weight(toy, type, FF, WIDTH);
	toy_op(toy, KERN_OP_MATMUL, UP, NORMED)->weight = toy_weight(toy, type, FF, WIDTH);
	toy_op(toy, KERN_OP_SILU_MUL, GATE, GATE)->src2 = UP;
	op = toy_op(toy, KERN_OP_MATMUL, X, GATE);
	op->weight = toy_weight(toy, type, WIDTH, FF);
	op->add = true;
}

static void toy_open(struct toy *toy, struct kern_backend *backend, enum kern_type type, enum kern_kv kv)
{
	struct kern_program *program = &toy->program;
	struct kern_op *op;

	memset(toy, 0, sizeof(*toy));
	toy->backend = backend;
	toy->gain = backend->ops->alloc(backend, WIDTH * sizeof(float), "a test");
	assert_non_null(toy->gain);
	for (int i = 0; i < WIDTH; i++)
		toy->gain[i] = 1.0f + (float)(i % 7) / 16.0f;
	for (int i = 0; i < DIM / 2; i++)
		toy->frequencies[i] = powf(10000.0f, -2.0f * (float)i / DIM);

	toy_op(toy, KERN_OP_EMBED, X, X)->weight = toy_weight(toy, type, VOCAB, WIDTH);
	toy->ops[0].f0 = 0.0f;
	for (uint32_t layer = 0; layer < LAYERS; layer++)
		toy_layer(toy, layer, type);
	toy_op(toy, KERN_OP_SELECT, X, X);
	toy_op(toy, KERN_OP_RMSNORM, NORMED, X);
	toy_op(toy, KERN_OP_HIDDEN, X, NORMED);
	op = toy_op(toy, KERN_OP_LOGITS, X, NORMED);
	op->weight = toy->weights[0];

	program->ops = toy->ops;
	program->slot_count = SLOTS;
	program->slot_width[X] = program->slot_width[NORMED] = program->slot_width[HEADS_OUT] = WIDTH;
	program->slot_width[FUSED] = QKV;
	program->slot_width[GATE] = program->slot_width[UP] = FF;
	program->vocab = VOCAB;
	program->width = WIDTH;
	program->kv = (struct kern_kv_geometry){
		.layers = LAYERS, .heads = HEADS, .kv_heads = KV_HEADS, .head_dim = DIM, .k = kv, .v = kv};
	assert_int_equal(kern_kv_init(&program->kv), 0);
	program->rope_inverse_freq = toy->frequencies;
	program->rope_magnitude = 1.0f;
	program->max_rows = ROWS;
	program->max_out_rows = ROWS;
	if (backend->ops->program_prepare(backend, program) != 0)
		fail_msg("%s", base_error_message());
}

static void toy_close(struct toy *toy)
{
	toy->backend->ops->program_release(toy->backend, &toy->program);
	for (uint32_t i = 0; i < toy->weight_count; i++)
		toy->backend->ops->weight_destroy(toy->backend, toy->weights[i]);
	toy->backend->ops->free(toy->backend, toy->gain);
	toy->backend->ops->destroy(toy->backend);
}

/* ---- sessions ----------------------------------------------------------------------------------------------------- */

struct session {
	unsigned char *blocks[BLOCKS];
	uint32_t tokens[TOKENS], position;
	float logits[TOKENS][VOCAB];
};

static struct session *session_open(const struct toy *toy, uint64_t seed)
{
	struct session *session = new_zeroed(sizeof(*session));

	for (uint32_t i = 0; i < BLOCKS; i++)
		session->blocks[i] = toy->backend->ops->alloc(toy->backend, toy->program.kv.block_bytes[i > 0], "a block");
	for (uint32_t i = 0; i < TOKENS; i++)
		session->tokens[i] = (uint32_t)((seed * 7919 + i * 104729 + i * i) % VOCAB);
	return session;
}

static void session_close(const struct toy *toy, struct session *session)
{
	for (uint32_t i = 0; i < BLOCKS; i++)
		toy->backend->ops->free(toy->backend, session->blocks[i]);
	free(session);
}

/* One step of several sessions, `rows` each; logits of every row. */
static void step(struct toy *toy, struct session *const *sessions, uint32_t count, uint32_t rows)
{
	static uint32_t tokens[ROWS];
	static struct kern_seq seqs[ROWS];
	static struct kern_out outs[ROWS];
	const struct kern_work work = {.kind = KERN_WORK_STEP, .step = {.program = &toy->program, .rows = count * rows,
		.seq_count = count, .out_count = count * rows, .tokens = tokens, .seqs = seqs, .outs = outs}};

	assert_true(count * rows <= ROWS);
	for (uint32_t s = 0; s < count; s++) {
		struct session *session = sessions[s];

		seqs[s] = (struct kern_seq){.row = s * rows, .rows = rows, .position = session->position,
			.blocks = session->blocks, .kv = &toy->program.kv};
		for (uint32_t r = 0; r < rows; r++) {
			tokens[s * rows + r] = session->tokens[session->position + r];
			outs[s * rows + r] = (struct kern_out){
				.row = s * rows + r, .logits = session->logits[session->position + r]};
		}
		session->position += rows;
	}
	assert_int_equal(run_work(toy->backend, &work), 1);
}

/* The logits of a session that is decoded token by token, alone, without workers: what all others must equal. */
static struct session *baseline(enum kern_type type, enum kern_kv kv, uint32_t tokens)
{
	struct toy toy;
	struct session *session, *copy = new_zeroed(sizeof(*copy));

	toy_open(&toy, open_backend(0, 0), type, kv);
	session = session_open(&toy, 1);
	for (uint32_t i = 0; i < tokens; i++)
		step(&toy, &session, 1, 1);
	memcpy(copy, session, sizeof(*copy));
	session_close(&toy, session);
	toy_close(&toy);
	return copy;
}

static void check_same(const struct session *got, const struct session *expected, uint32_t tokens)
{
	for (uint32_t i = 0; i < tokens; i++)
		for (uint32_t v = 0; v < VOCAB; v++) {
			assert_true(isfinite(got->logits[i][v]));
			if (memcmp(&got->logits[i][v], &expected->logits[i][v], sizeof(float)) != 0)
				fail_msg("token %u logit %u is %a, alone %a", i, v, (double)got->logits[i][v],
					(double)expected->logits[i][v]);
		}
}

static void same_bits_with(uint32_t workers, enum kern_type type, enum kern_kv kv, const struct session *expected)
{
	static const uint32_t chunks[] = {CHECKED, 37, 64};
	struct session *sessions[32];
	struct toy toy;

	toy_open(&toy, open_backend(workers, 100), type, kv);
	for (int c = 0; c < 3; c++) {
		sessions[0] = session_open(&toy, 1);
		while (sessions[0]->position < CHECKED)
			step(&toy, sessions, 1, CHECKED - sessions[0]->position < chunks[c] ?
				CHECKED - sessions[0]->position : chunks[c]);
		check_same(sessions[0], expected, CHECKED);
		session_close(&toy, sessions[0]);
	}
	/* Among 31 others, by fives and then token by token. */
	for (uint32_t s = 0; s < 32; s++)
		sessions[s] = session_open(&toy, s == 17 ? 1 : 100 + s);
	for (int i = 0; i < 14; i++)
		step(&toy, sessions, 32, 5);
	for (int i = 0; i < CHECKED - 70; i++)
		step(&toy, sessions, 32, 1);
	check_same(sessions[17], expected, CHECKED);
	for (uint32_t s = 0; s < 32; s++)
		session_close(&toy, sessions[s]);
	toy_close(&toy);
}

static void same_bits(void **state)
{
	static const struct { enum kern_type type; enum kern_kv kv; } cases[] = {
		{KERN_F32, KERN_KV_F32}, {KERN_Q4_1, KERN_KV_INT8}, {KERN_Q8_0, KERN_KV_BF16}};

	(void)state;
	for (int i = 0; i < 3; i++) {
		struct session *expected = baseline(cases[i].type, cases[i].kv, CHECKED);

		/* Sessions quantize alike whoever computes them: once is enough. */
		for (uint32_t workers = i == 0 ? 0 : 2; workers <= 2; workers++)
			same_bits_with(workers, cases[i].type, cases[i].kv, expected);
		free(expected);
	}
}

/* ---- tickets ------------------------------------------------------------------------------------------------------ */

/* A program of one product, for everything that needs no model. */
struct product {
	struct kern_backend *backend;
	struct kern_program program;
	struct kern_op op[3];
	struct kern_weight *weight;
	float *y;
	uint32_t rows, n;
};

static void product_open(struct product *p, struct kern_backend *backend, uint32_t rows, uint32_t n, uint32_t k)
{
	float *values = new_normal((size_t)n * k, 9);

	*p = (struct product){.backend = backend, .rows = rows, .n = n, .y = new_zeroed((size_t)rows * n * sizeof(float))};
	assert_int_equal(backend->ops->weight_create(backend, KERN_F32, n, k, values, &p->weight), 0);
	free(values);
	p->op[0] = (struct kern_op){.kind = KERN_OP_EMBED, .dst = 0};
	p->op[1] = (struct kern_op){.kind = KERN_OP_SELECT, .src = 0, .dst = 0};
	p->op[2] = (struct kern_op){.kind = KERN_OP_LOGITS, .src = 0, .weight = p->weight};
	p->program = (struct kern_program){.op_count = 3, .slot_count = 1, .ops = p->op, .slot_width = {k}, .vocab = n,
		.width = k, .max_rows = rows, .max_out_rows = rows};
	if (backend->ops->program_prepare(backend, &p->program) != 0)
		fail_msg("%s", base_error_message());
}

static void product_close(struct product *p)
{
	p->backend->ops->program_release(p->backend, &p->program);
	p->backend->ops->weight_destroy(p->backend, p->weight);
	free(p->y);
}

static struct kern_work product_work(const struct product *p, const float *const *embeddings, struct kern_out *outs)
{
	for (uint32_t i = 0; i < p->rows; i++)
		outs[i] = (struct kern_out){.row = i, .logits = p->y + (size_t)i * p->n};
	return (struct kern_work){.kind = KERN_WORK_STEP, .step = {.program = &p->program, .rows = p->rows,
		.out_count = p->rows, .embeddings = embeddings, .outs = outs}};
}

/* Four tickets fit, the fifth does not; all complete, in order, whether or not they are polled one by one. */
static void tickets(void **state)
{
	(void)state;
	for (uint32_t workers = 0; workers <= 2; workers++) {
		struct kern_backend *backend = open_backend(workers, 20);
		struct product p;
		float *x = new_normal(64 * 256, 4);
		const float *rows[64];
		struct kern_out outs[64];
		struct kern_work work;
		kern_ticket ticket[5];

		product_open(&p, backend, 64, 200, 256);
		for (int i = 0; i < 64; i++)
			rows[i] = x + i * 256;
		work = product_work(&p, rows, outs);
		for (int round = 0; round < 20; round++) {
			for (int i = 0; i < 4; i++)
				assert_int_equal(backend->ops->submit(backend, &work, &ticket[i]), 0);
			assert_int_equal(backend->ops->submit(backend, &work, &ticket[4]), -EAGAIN);
			if (round % 2 == 0)
				assert_int_equal(finish(backend, ticket[0]), 1);
			assert_int_equal(finish(backend, ticket[3]), 1);
			assert_int_equal(backend->ops->poll(backend, ticket[1]), 1);
		}
		assert_int_equal(backend->ops->poll(backend, 0), -EINVAL);
		assert_int_equal(backend->ops->poll(backend, ticket[3] + 1), -EINVAL);
		for (uint32_t r = 0; r < 64; r += 21) {
			double expected[200];
			float *values = new_normal(200 * 256, 9);

			ref_product(rows[r], values, 200, 256, expected, NULL);
			for (int i = 0; i < 200; i++)
				assert_true(fabs(p.y[r * 200 + (uint32_t)i] - expected[i]) < 1e-3);
			free(values);
		}
		product_close(&p);
		free(x);
		backend->ops->destroy(backend);
	}
}

/* More tiles of rows than take turns on the same weights: every row and feature is computed, by whomever. */
static void many_rows(void **state)
{
	enum { MOST = 330, N = 200, K = 256 };
	static const uint32_t row_counts[] = {MOST, 257, 64};
	float *x = new_normal(MOST * K, 4), *values = new_normal(N * K, 9);
	const float *rows[MOST];
	double expected[N];
	static struct kern_out outs[MOST];

	(void)state;
	for (uint32_t i = 0; i < MOST; i++)
		rows[i] = x + i * K;
	for (uint32_t workers = 0; workers <= 2; workers += 2)
		for (int i = 0; i < 3; i++) {
			struct kern_backend *backend = open_backend(workers, 20);
			struct product p;
			struct kern_work work;
			kern_ticket ticket;

			product_open(&p, backend, row_counts[i], N, K);
			work = product_work(&p, rows, outs);
			assert_int_equal(backend->ops->submit(backend, &work, &ticket), 0);
			assert_int_equal(finish(backend, ticket), 1);
			for (uint32_t r = 0; r < row_counts[i]; r++) {
				ref_product(rows[r], values, N, K, expected, NULL);
				for (uint32_t n = 0; n < N; n++)
					assert_true(fabs(p.y[r * N + n] - expected[n]) < 1e-3);
			}
			product_close(&p);
			backend->ops->destroy(backend);
		}
	free(values);
	free(x);
}

/* A poll returns long before a large batch is done, and destroy waits for what is in flight. */
static void bounded_polls(void **state)
{
	(void)state;
	for (uint32_t workers = 0; workers <= 1; workers++) {
		struct kern_backend *backend = open_backend(workers, 20);
		struct product p;
		float *x = new_normal(256 * 1024, 4);
		const float *rows[256];
		struct kern_out outs[256];
		struct kern_work work;
		kern_ticket ticket;
		uint32_t polls = 0;

		product_open(&p, backend, 256, 1024, 1024);
		for (int i = 0; i < 256; i++)
			rows[i] = x + i * 1024;
		work = product_work(&p, rows, outs);
		/* 268 million products are milliseconds for any machine of today. A worker does nearly all of them where this thread
		 * happens to wait for a processor: that is not so time and again. */
		for (int i = 0; i < 20 && polls < 10; i++) {
			polls = 0;
			assert_int_equal(backend->ops->submit(backend, &work, &ticket), 0);
			while (backend->ops->poll(backend, ticket) == 0)
				polls++;
		}
		assert_true(polls >= 10);
		assert_int_equal(backend->ops->submit(backend, &work, &ticket), 0);
		(void)backend->ops->poll(backend, ticket);
		(void)finish(backend, ticket);
		product_close(&p);
		free(x);
		backend->ops->destroy(backend);
	}
}

/* Workers that sleep almost at once, and one stage of work that comes about then. The owner does its first slice and stays
 * away, so the rest waits for the workers: a lost wake-up leaves it undone. */
static void sleeping_workers(void **state)
{
	enum { BYTES = 2 << 20, ROUNDS = 2000, LIMIT_NS = 2000000000 };
	struct kern_backend *backend = open_backend(1, 0);
	unsigned char *bytes = backend->ops->alloc(backend, BYTES, "a test");
	const struct kern_span span = {.to = bytes, .bytes = BYTES};
	const struct kern_work work = {.kind = KERN_WORK_ZERO, .copy = {.spans = &span, .count = 1}};
	const volatile unsigned char *last = bytes + BYTES - 1;
	uint64_t random = 1;

	(void)state;
	for (int round = 0; round < ROUNDS; round++) {
		const int64_t begin_ns = base_monotonic_ns() + (int64_t)base_rand_below(&random, 12000);
		kern_ticket ticket;

		bytes[BYTES - 1] = 1;
		while (base_monotonic_ns() < begin_ns)
			;
		assert_int_equal(backend->ops->submit(backend, &work, &ticket), 0);
		(void)backend->ops->poll(backend, ticket);
		while (*last != 0) {
			if (base_monotonic_ns() > begin_ns + LIMIT_NS)
				fail_msg("round %d: the worker slept through a published stage", round);
			sched_yield();
		}
		assert_int_equal(finish(backend, ticket), 1);
	}
	backend->ops->free(backend, bytes);
	backend->ops->destroy(backend);
}

/* ---- errors ------------------------------------------------------------------------------------------------------- */

/* A bad token fails its batch alone, and the backend lives on. */
static void failed_batch(void **state)
{
	struct toy toy;
	struct session *session;
	uint32_t tokens[2] = {1, VOCAB};
	struct kern_seq seq = {.rows = 2};
	float logits[VOCAB], hidden[WIDTH];
	struct kern_out out = {.row = 1, .logits = logits, .hidden = hidden};
	struct kern_work work = {.kind = KERN_WORK_STEP};

	(void)state;
	toy_open(&toy, open_backend(1, 50), KERN_Q8_0, KERN_KV_F32);
	session = session_open(&toy, 1);
	seq.blocks = session->blocks;
	seq.kv = &toy.program.kv;
	work.step = (struct kern_step){.program = &toy.program, .rows = 2, .seq_count = 1, .out_count = 1,
		.tokens = tokens, .seqs = &seq, .outs = &out};
	assert_int_equal(run_work(toy.backend, &work), -EINVAL);
	tokens[1] = KERN_TOKEN_FROM_STEP | 0;
	assert_int_equal(run_work(toy.backend, &work), -EINVAL);
	tokens[1] = 2;
	assert_int_equal(run_work(toy.backend, &work), 1);
	for (int i = 0; i < VOCAB; i++)
		assert_true(isfinite(logits[i]));
	for (int i = 0; i < WIDTH; i++)
		assert_true(isfinite(hidden[i]));

	work.step.rows = ROWS + 1;
	assert_int_equal(run_work(toy.backend, &work), -EINVAL);
	work.step.rows = 3;
	assert_int_equal(run_work(toy.backend, &work), -EINVAL);
	work.step.rows = 2;
	out.row = 2;
	assert_int_equal(run_work(toy.backend, &work), -EINVAL);
	out.row = 1;
	work.step.out_count = 0;
	assert_int_equal(run_work(toy.backend, &work), 1);
	session_close(&toy, session);
	toy_close(&toy);
}

static void expect_refused(struct toy *toy)
{
	struct kern_program copy = toy->program;

	assert_int_equal(toy->backend->ops->program_prepare(toy->backend, &copy), -EINVAL);
	assert_true(strlen(base_error_message()) > 10);
	assert_null(copy.workspace);
}

static void refused_programs(void **state)
{
	struct kern_backend *backend;
	const struct kern_cpu_options small = {.struct_bytes = 4};
	struct toy toy;
	struct kern_op *op;
	struct kern_op saved;

	(void)state;
	assert_int_equal(kern_cpu_create(&backend, &small), -EINVAL);
	toy_open(&toy, open_backend(0, 0), KERN_F32, KERN_KV_F32);
	for (uint32_t i = 0; i < toy.program.op_count; i += i == LAYER_OPS ? 1 + LAYER_OPS : 1) {
		op = &toy.ops[i];
		saved = *op;
		op->src = SLOTS;
		expect_refused(&toy);
		*op = saved;
		op->kind = (enum kern_op_kind)77;
		expect_refused(&toy);
		*op = saved;
		if (op->kind == KERN_OP_MATMUL || op->kind == KERN_OP_LOGITS) {
			op->weight = NULL;
			expect_refused(&toy);
			/* The first layer's last product is the one that takes rows of another width. */
			op->weight = toy.weights[saved.weight == toy.weights[DOWN] ? DOWN - 1 : DOWN];
			expect_refused(&toy);
		}
		*op = saved;
		if (op->kind == KERN_OP_MATMUL) {
			op->u0 = 1;
			expect_refused(&toy);
			op->u0 = UINT32_MAX;
			expect_refused(&toy);
		}
		*op = saved;
		if (op->kind == KERN_OP_ATTENTION) {
			op->u0 = LAYERS;
			expect_refused(&toy);
			*op = saved;
			op->u2 = DIM + 2;
			expect_refused(&toy);
			*op = saved;
			op->dst = GATE;
			expect_refused(&toy);
		}
		if (op->kind == KERN_OP_HEADNORM) {
			op->u1 = UINT32_MAX;
			expect_refused(&toy);
		}
		*op = saved;
	}
	toy.program.max_rows = 0;
	expect_refused(&toy);
	toy_close(&toy);
}

/* ---- everything else the table does ------------------------------------------------------------------------------- */

static void copies(void **state)
{
	enum { BYTES = 700 * 1000 };

	(void)state;
	for (uint32_t workers = 0; workers <= 1; workers++) {
		struct kern_backend *backend = open_backend(workers, 20);
		unsigned char *a = guarded_alloc(BYTES), *b = guarded_alloc(BYTES);
		struct kern_span spans[2] = {{.to = b, .from = a, .bytes = BYTES / 2},
			{.to = b + BYTES / 2, .from = a + BYTES / 2, .bytes = BYTES - BYTES / 2}};
		const struct kern_span part = {.to = b + 1, .bytes = 1000};
		struct kern_work work = {.kind = KERN_WORK_COPY, .copy = {.spans = spans, .count = 2}};

		for (int i = 0; i < BYTES; i++)
			a[i] = (unsigned char)(i * 7 + i / 256);
		assert_int_equal(run_work(backend, &work), 1);
		assert_memory_equal(a, b, BYTES);
		work = (struct kern_work){.kind = KERN_WORK_ZERO, .copy = {.spans = &part, .count = 1}};
		assert_int_equal(run_work(backend, &work), 1);
		assert_true(b[0] == a[0] && b[1] == 0 && b[1000] == 0);
		assert_memory_equal(a + 1001, b + 1001, BYTES - 1001);
		work.copy.count = 0;
		assert_int_equal(run_work(backend, &work), 1);
		guarded_free(b, BYTES);
		guarded_free(a, BYTES);
		backend->ops->destroy(backend);
	}
}

/* One key: attention gives its value back, whatever the query. */
static void raw_attention(void **state)
{
	enum { N = 64, HEAD = 64 };
	struct kern_backend *backend = open_backend(1, 20);
	struct kern_kv_geometry kv = {.layers = 1, .heads = 2, .kv_heads = 1, .head_dim = HEAD, .k = KERN_KV_F32,
		.v = KERN_KV_F32};
	unsigned char *blocks[N];
	struct kern_attend items[N];
	float *q = new_normal(2 * HEAD, 1), *k = new_normal(HEAD, 2), *v = new_normal(N * HEAD, 3);
	float *o = new_zeroed(N * 2 * HEAD * sizeof(float)), lse[2];
	struct kern_work work = {.kind = KERN_WORK_ATTEND, .attend = {.items = items, .count = N}};

	(void)state;
	assert_int_equal(kern_kv_init(&kv), 0);
	for (int i = 0; i < N; i++) {
		blocks[i] = backend->ops->alloc(backend, kv.block_bytes[0], "a block");
		items[i] = (struct kern_attend){.kv = &kv, .blocks = &blocks[i], .q_rows = 1, .kv_rows = 1, .causal = true,
			.scale = 0.125f, .q = q, .k = k, .v = v + i * HEAD, .o = o + i * 2 * HEAD, .lse = i == 5 ? lse : NULL};
	}
	assert_int_equal(run_work(backend, &work), 1);
	for (int i = 0; i < N; i++)
		for (int d = 0; d < 2 * HEAD; d++)
			assert_true(fabsf(o[i * 2 * HEAD + d] - v[i * HEAD + d % HEAD]) < 1e-6f);
	assert_true(isfinite(lse[0]) && isfinite(lse[1]));
	work.attend.count = KERN_ATTEND_MAX + 1;
	assert_int_equal(run_work(backend, &work), -EINVAL);
	work.attend.count = 1;
	items[0].layer = 1;
	assert_int_equal(run_work(backend, &work), -EINVAL);
	for (int i = 0; i < N; i++)
		backend->ops->free(backend, blocks[i]);
	free(o);
	free(v);
	free(k);
	free(q);
	backend->ops->destroy(backend);
}

/* Memory is zeroed, aligned, and every allocation its own. */
static void memory(void **state)
{
	static const size_t sizes[] = {1, 64, 100, 5000, 200000, 300000, 3 << 20};
	struct kern_backend *backend = open_backend(0, 0);
	unsigned char *taken[70];

	(void)state;
	for (int i = 0; i < 70; i++) {
		taken[i] = backend->ops->alloc(backend, sizes[i % 7], "a test");
		assert_non_null(taken[i]);
		assert_int_equal((uintptr_t)taken[i] % 64, 0);
		for (size_t b = 0; b < sizes[i % 7]; b++)
			assert_int_equal(taken[i][b], 0);
		memset(taken[i], i + 1, sizes[i % 7]);
	}
	for (int i = 0; i < 70; i++)
		assert_true(taken[i][0] == i + 1 && taken[i][sizes[i % 7] - 1] == i + 1);
	for (int i = 0; i < 70; i++)
		backend->ops->free(backend, taken[(i * 3) % 70]);
	assert_null(backend->ops->alloc(backend, SIZE_MAX, "a test"));
	assert_null(backend->ops->alloc(backend, 0, "a test"));
	backend->ops->free(backend, NULL);
	assert_int_equal(backend->ops->register_memory(backend, taken, 8), 0);
	backend->ops->unregister_memory(backend, taken);
	backend->ops->destroy(backend);
}

static void properties(void **state)
{
	const struct kern_cpu_options options = {.struct_bytes = sizeof(options), .node = -1, .measure = true};
	struct kern_backend *backend;

	(void)state;
	assert_int_equal(kern_cpu_create(&backend, &options), 0);
	assert_string_equal(backend->properties.name + 4, base_isa_name(base_cpu()->isa));
	assert_true(backend->properties.host_memory && !backend->properties.samples_on_device);
	/* Slower than this would be a sanitizer's build on a busy machine at its worst. */
	assert_true(backend->properties.bytes_per_second > 1e6);
	assert_true(backend->properties.products_per_second > 1e6);
	backend->ops->destroy(backend);
}

static int run_here(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(same_bits),
		cmocka_unit_test(tickets),
		cmocka_unit_test(many_rows),
		cmocka_unit_test(bounded_polls),
		cmocka_unit_test(sleeping_workers),
		cmocka_unit_test(failed_batch),
		cmocka_unit_test(refused_programs),
		cmocka_unit_test(copies),
		cmocka_unit_test(raw_attention),
		cmocka_unit_test(memory),
		cmocka_unit_test(properties),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(int argc, char **argv)
{
	enum base_isa isas[3];
	int failed = 0;

	(void)argc;
	if (getenv("ATTND_ISA"))
		return run_here();
	for (uint32_t i = 0, count = attention_isas(isas); i < count; i++) {
		const pid_t child = fork();
		int status = 1;

		if (child == 0) {
			setenv("ATTND_ISA", base_isa_name(isas[i]), 1);
			execv("/proc/self/exe", argv);
			_exit(127);
		}
		if (child < 0 || waitpid(child, &status, 0) != child || status != 0) {
			fprintf(stderr, "failed with ATTND_ISA=%s\n", base_isa_name(isas[i]));
			failed = 1;
		}
	}
	return failed;
}
