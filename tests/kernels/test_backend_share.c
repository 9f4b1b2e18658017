/*
 * Shared blocks through the backend's table: steps of a model and attention as an operation give the bits that the same
 * sessions have with blocks of their own, with any number of workers; and both really go through shared pages together.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"
#include "kernels/cpu/cpu_backend.h"
#include "tests/kernels/attention_rig.h"

enum {
	LAYERS = 2, HEADS = 4, KV_HEADS = 2, DIM = 32, WIDTH = HEADS * DIM, QKV = (HEADS + 2 * KV_HEADS) * DIM,
	SESSIONS = 12, PREFIX = 1100, SHARED_SPLITS = 2, TOKENS = PREFIX + 140, BLOCKS = TOKENS / KERN_PAGE_TOKENS + 1 + KERN_KV_AHEAD,
	ROWS = 256, ROWS_EACH = 3, WINDOW = 700, STEPS = 3,
};

struct model {
	struct kern_backend *backend;
	struct kern_program program;
	struct kern_op ops[8];
	struct kern_weight *weight;
	float frequencies[DIM / 2], *sinks, *x;
	uint32_t positions[SESSIONS];
	unsigned char *shared[SESSIONS][BLOCKS], *own[SESSIONS][BLOCKS], *alone[SESSIONS][BLOCKS];
};

static void *alloc(const struct model *m, size_t bytes)
{
	void *memory = m->backend->ops->alloc(m->backend, bytes, "a test");

	assert_non_null(memory);
	return memory;
}

static int run_work(const struct model *m, const struct kern_work *work)
{
	kern_ticket ticket;
	int result = m->backend->ops->submit(m->backend, work, &ticket);

	assert_int_equal(result, 0);
	while ((result = m->backend->ops->poll(m->backend, ticket)) == 0)
		;
	return result;
}

/* q, k and v come as they are; two layers of attention, the second with a window; what they give is mixed by a matrix. */
static void make_program(struct model *m, enum kern_kv format)
{
	struct kern_program *p = &m->program;
	float *values = new_normal(QKV * WIDTH, 3);

	for (uint32_t i = 0; i < QKV * WIDTH; i++)
		values[i] /= sqrtf(WIDTH);
	assert_int_equal(m->backend->ops->weight_create(m->backend, KERN_F32, QKV, WIDTH, values, &m->weight), 0);
	free(values);
	for (uint32_t i = 0; i < DIM / 2; i++)
		m->frequencies[i] = powf(10000.0f, -2.0f * (float)i / DIM);
	m->sinks = alloc(m, HEADS * sizeof(float));
	fill_normal(m->sinks, HEADS, 4);
	m->ops[0] = (struct kern_op){ .kind = KERN_OP_EMBED, .dst = 0 };
	m->ops[1] = (struct kern_op){ .kind = KERN_OP_ATTENTION, .src = 0, .dst = 1, .u0 = 0, .u1 = KERN_ROPE_HALVES, .u2 = DIM,
		.f0 = 0.3f, .sinks = m->sinks };
	m->ops[2] = (struct kern_op){ .kind = KERN_OP_MATMUL, .src = 1, .dst = 2, .weight = m->weight };
	m->ops[3] = m->ops[1];
	m->ops[3].u0 = 1;
	m->ops[3].src = 2;
	m->ops[3].window = WINDOW;
	m->ops[3].f1 = 5;
	m->ops[4] = m->ops[2];
	m->ops[5] = (struct kern_op){ .kind = KERN_OP_SELECT, .src = 2, .dst = 2 };
	m->ops[6] = (struct kern_op){ .kind = KERN_OP_HIDDEN, .src = 2 };
	*p = (struct kern_program){ .op_count = 7, .slot_count = 3, .ops = m->ops, .slot_width = { QKV, WIDTH, QKV }, .width = QKV,
		.kv = { .layers = LAYERS, .heads = HEADS, .kv_heads = KV_HEADS, .head_dim = DIM, .k = format, .v = format },
		.rope_inverse_freq = m->frequencies, .rope_magnitude = 1, .max_rows = ROWS, .max_out_rows = ROWS };
	assert_int_equal(kern_kv_init(&p->kv), 0);
	if (m->backend->ops->program_prepare(m->backend, p) != 0)
		fail_msg("%s", base_error_message());
}

/* Rows of some sessions from their positions on, in one step; hidden may be NULL. */
static void step(struct model *m, unsigned char *lists[][BLOCKS], uint32_t first, uint32_t count, uint32_t rows,
	const uint32_t *positions, float *hidden)
{
	const float *embeddings[ROWS];
	struct kern_seq seqs[SESSIONS];
	struct kern_out outs[ROWS];
	const struct kern_work work = { .kind = KERN_WORK_STEP, .step = { .program = &m->program, .rows = count * rows,
		.seq_count = count, .out_count = hidden != NULL ? count * rows : 0, .embeddings = embeddings, .seqs = seqs,
		.outs = outs } };

	for (uint32_t s = 0; s < count; s++) {
		seqs[s] = (struct kern_seq){ .row = s * rows, .rows = rows, .position = positions[s], .blocks = lists[first + s],
			.kv = &m->program.kv };
		for (uint32_t r = 0; r < rows; r++) {
			embeddings[s * rows + r] = m->x + (size_t)((positions[s] + r) * 31 + first + s) % TOKENS * QKV;
			outs[s * rows + r] = (struct kern_out){ .row = s * rows + r,
				.hidden = hidden != NULL ? hidden + (size_t)(s * rows + r) * QKV : NULL };
		}
	}
	assert_int_equal(run_work(m, &work), 1);
}

static void fill(struct model *m, uint32_t s, uint32_t begin, uint32_t end)
{
	for (uint32_t rows; begin < end; begin += rows) {
		rows = end - begin < ROWS ? end - begin : ROWS;
		step(m, m->shared, s, 1, rows, &begin, NULL);
	}
}

static struct model *model_open(enum kern_kv format, uint32_t workers)
{
	const struct kern_cpu_options options = { .struct_bytes = sizeof(options), .workers = workers, .node = -1, .spin_us = 50 };
	struct model *m = new_zeroed(sizeof(*m));

	if (kern_cpu_create(&m->backend, &options) != 0)
		fail_msg("%s", base_error_message());
	make_program(m, format);
	m->x = new_normal((size_t)TOKENS * QKV, 7);
	for (uint32_t s = 0; s < SESSIONS; s++) {
		m->positions[s] = PREFIX + 7 * s;
		for (uint32_t i = 0; i < BLOCKS; i++)
			m->shared[s][i] = s > 0 && i < PREFIX / KERN_PAGE_TOKENS ? m->shared[0][i] :
				alloc(m, m->program.kv.block_bytes[i > 0]);
		if (s > 0)
			memcpy(m->shared[s][PREFIX / KERN_PAGE_TOKENS], m->shared[0][PREFIX / KERN_PAGE_TOKENS], m->program.kv.block_bytes[1]);
		fill(m, s, s > 0 ? PREFIX : 0, m->positions[s]);
		for (uint32_t i = 0; i < BLOCKS; i++) {
			m->own[s][i] = alloc(m, m->program.kv.block_bytes[i > 0]);
			memcpy(m->own[s][i], m->shared[s][i], m->program.kv.block_bytes[i > 0]);
			m->alone[s][i] = alloc(m, m->program.kv.block_bytes[i > 0]);
			memcpy(m->alone[s][i], m->shared[s][i], m->program.kv.block_bytes[i > 0]);
		}
	}
	return m;
}

static void model_close(struct model *m)
{
	for (uint32_t s = SESSIONS; s-- > 0;)
		for (uint32_t i = 0; i < BLOCKS; i++) {
			m->backend->ops->free(m->backend, m->own[s][i]);
			m->backend->ops->free(m->backend, m->alone[s][i]);
			if (s == 0 || i >= PREFIX / KERN_PAGE_TOKENS)
				m->backend->ops->free(m->backend, m->shared[s][i]);
		}
	m->backend->ops->program_release(m->backend, &m->program);
	m->backend->ops->weight_destroy(m->backend, m->weight);
	m->backend->ops->free(m->backend, m->sinks);
	free(m->x);
	m->backend->ops->destroy(m->backend);
	free(m);
}

/* Of the last layer that was run: all sessions share the first splits, or nobody shares anything. */
static void check_plan(const struct model *m, bool shared)
{
	const struct cpu_attention_batch *batch = cpu_of(m->backend)->batch;

	assert_int_equal(batch->share.group_count, shared);
	if (!shared)
		return;
	assert_int_equal(batch->share.groups[0].begin, 0);
	assert_int_equal(batch->share.groups[0].end, SHARED_SPLITS);
	assert_int_equal(batch->share.groups[0].count, SESSIONS);
	assert_true(batch->together[0].splits > 0);
}

/* Steps of one row, then of some: with blocks of their own, with shared ones, and each session alone. */
static void check_steps(enum kern_kv format, uint32_t workers)
{
	enum { MOST = SESSIONS * ROWS_EACH * QKV };
	struct model *m = model_open(format, workers);
	float *own = new_zeroed(MOST * sizeof(float)), *shared = new_zeroed(MOST * sizeof(float)), *alone = new_zeroed(MOST * sizeof(float));

	for (uint32_t i = 0; i < STEPS; i++) {
		const uint32_t rows = i < STEPS - 1 ? 1 : ROWS_EACH;
		const size_t each = (size_t)rows * QKV;

		step(m, m->own, 0, SESSIONS, rows, m->positions, own);
		check_plan(m, false);
		step(m, m->shared, 0, SESSIONS, rows, m->positions, shared);
		check_plan(m, true);
		for (uint32_t s = 0; s < SESSIONS; s++)
			step(m, m->alone, s, 1, rows, &m->positions[s], alone + s * each);
		check_plan(m, false);
		for (uint32_t s = 0; s < SESSIONS; s++) {
			assert_memory_equal(own + s * each, shared + s * each, each * sizeof(float));
			assert_memory_equal(own + s * each, alone + s * each, each * sizeof(float));
			assert_true(s == 0 || memcmp(own, own + s * each, each * sizeof(float)) != 0);
			m->positions[s] += rows;
		}
	}
	free(own);
	free(shared);
	free(alone);
	model_close(m);
}

static void steps_of_a_model(void **state)
{
	static const enum kern_kv formats[] = { KERN_KV_INT8, KERN_KV_F32, KERN_KV_INT4, KERN_KV_BF16 };

	(void)state;
	for (uint32_t workers = 0; workers < 4; workers++)
		check_steps(formats[workers], workers);
}

/* Requests of both layers in one work, of other scales too: those that are alike are attended to together. */
static void attention_as_an_operation(void **state)
{
	enum { ITEMS = 2 * SESSIONS, ROW = HEADS * DIM };
	float *o[2], *lse[2];

	(void)state;
	for (uint32_t i = 0; i < 2; i++) {
		o[i] = new_zeroed(ITEMS * ROW * sizeof(float));
		lse[i] = new_zeroed(ITEMS * HEADS * sizeof(float));
	}
	for (uint32_t workers = 0; workers < 4; workers++) {
		struct model *m = model_open(KERN_KV_INT8, workers);
		const struct cpu_attention_batch *batch = cpu_of(m->backend)->batch;
		struct kern_attend items[ITEMS];
		const struct kern_work work = { .kind = KERN_WORK_ATTEND, .attend = { .items = items, .count = ITEMS } };

		for (uint32_t shared = 0; shared < 2; shared++) {
			for (uint32_t i = 0; i < ITEMS; i++) {
				const uint32_t s = i % SESSIONS;

				items[i] = (struct kern_attend){ .kv = &m->program.kv, .blocks = shared ? m->shared[s] : m->own[s],
					.layer = i / SESSIONS, .q_rows = 1, .kv_position = m->positions[s], .q_position = m->positions[s] - 1,
					.causal = true, .scale = s == 3 ? 0.5f : 0.2f, .q = m->x + (size_t)i * QKV, .o = o[shared] + (size_t)i * ROW,
					.lse = lse[shared] + (size_t)i * HEADS };
			}
			assert_int_equal(run_work(m, &work), 1);
			assert_int_equal(batch->share.group_count, shared ? 2 : 0);
		}
		assert_int_equal(batch->share.groups[0].count, SESSIONS - 1);
		assert_int_equal(batch->share.groups[1].count, SESSIONS - 1);
		assert_memory_equal(o[0], o[1], ITEMS * ROW * sizeof(float));
		assert_memory_equal(lse[0], lse[1], ITEMS * HEADS * sizeof(float));
		model_close(m);
	}
	for (uint32_t i = 0; i < 2; i++) {
		free(o[i]);
		free(lse[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(steps_of_a_model),
		cmocka_unit_test(attention_as_an_operation),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
