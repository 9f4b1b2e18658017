/*
 * Stages: the next operation of the work at hand, cut into tiles, and the code of the tiles. Planning is done by the
 * holder of the right to advance; tiles run in any participant. No allocation, no lock, no system call.
 *
 * How an operation is cut depends on its cost and on the number of workers, and never shows in its results.
 */
#include <errno.h>
#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu_backend.h"

enum { SPAN_PIECE_BYTES = 256 << 10 };

static uint32_t divide_up(uint32_t value, uint32_t unit)
{
	return (value + unit - 1) / unit;
}

uint32_t cpu_stage_cost_ns(double ns)
{
	return ns < 1.0 ? 1 : ns > 1e9 ? (uint32_t)1e9 : (uint32_t)ns;
}

static float *row_of(const struct cpu_workspace *workspace, uint8_t slot, uint32_t row)
{
	return workspace->slots[slot] + row * workspace->stride[slot];
}

/* The rows of a tile: first..end. */
static uint32_t tile_rows(const struct cpu_stage *stage, uint32_t tile, uint32_t *end)
{
	const uint32_t first = tile * stage->tile_rows;

	*end = stage->rows - first < stage->tile_rows ? stage->rows : first + stage->tile_rows;
	return first;
}

void cpu_stage_whole(struct kern_cpu *cpu, double ns)
{
	cpu->stage.tiles = 1;
	cpu->stage.tile_ns = cpu_stage_cost_ns(ns);
}

void cpu_stage_cut_rows(struct kern_cpu *cpu, uint32_t rows, double row_ns)
{
	struct cpu_stage *stage = &cpu->stage;

	stage->rows = rows;
	stage->tile_rows = rows;
	if (rows > 1 && row_ns * rows > CPU_TILE_NS)
		stage->tile_rows = row_ns < CPU_TILE_NS ? (uint32_t)(CPU_TILE_NS / row_ns) : 1;
	stage->tiles = rows > 0 ? divide_up(rows, stage->tile_rows) : 0;
	stage->tile_ns = cpu_stage_cost_ns(row_ns * stage->tile_rows);
}

/* ---- operations on rows ------------------------------------------------------------------------------------------- */

static const struct kern_step *step_at_hand(struct kern_cpu *cpu)
{
	return &cpu_work_at_hand(cpu)->step;
}

static const struct cpu_workspace *workspace_at_hand(struct kern_cpu *cpu)
{
	return step_at_hand(cpu)->program->workspace;
}

static uint32_t dst_width(struct kern_cpu *cpu)
{
	return step_at_hand(cpu)->program->slot_width[cpu->stage.op->dst];
}

static void run_embed(struct kern_cpu *cpu, uint32_t tile, struct cpu_participant *self)
{
	const struct kern_step *step = step_at_hand(cpu);
	const struct kern_op *op = cpu->stage.op;
	const uint32_t width = dst_width(cpu);
	uint32_t end;

	(void)self;
	for (uint32_t r = tile_rows(&cpu->stage, tile, &end); r < end; r++) {
		float *to = row_of(workspace_at_hand(cpu), op->dst, r);

		if (step->embeddings && step->embeddings[r]) {
			memcpy(to, step->embeddings[r], width * sizeof(float));
		} else if (op->weight && step->tokens && step->tokens[r] < op->weight->n) {
			cpu_weight_row(op->weight, step->tokens[r], to);
			if (op->f0 != 0.0f && op->f0 != 1.0f)
				for (uint32_t i = 0; i < width; i++)
					to[i] *= op->f0;
		} else {
			memset(to, 0, width * sizeof(float));
			cpu_fail(cpu, EINVAL);
		}
	}
}

static void run_norm(struct kern_cpu *cpu, uint32_t tile, struct cpu_participant *self)
{
	const struct cpu_workspace *workspace = workspace_at_hand(cpu);
	const struct kern_op *op = cpu->stage.op;
	const uint32_t width = dst_width(cpu);
	uint32_t end;

	(void)self;
	for (uint32_t r = tile_rows(&cpu->stage, tile, &end); r < end; r++) {
		float *to = row_of(workspace, op->dst, r);
		const float *from = row_of(workspace, op->src, r);

		if (op->kind == KERN_OP_RMSNORM)
			cpu->row_ops->rmsnorm(to, from, op->gain, width, op->f0);
		else
			cpu->row_ops->layernorm(to, from, op->gain, op->bias, width, op->f0);
	}
}

static void run_headnorm(struct kern_cpu *cpu, uint32_t tile, struct cpu_participant *self)
{
	const struct cpu_workspace *workspace = workspace_at_hand(cpu);
	const struct kern_op *op = cpu->stage.op;
	uint32_t end;

	(void)self;
	for (uint32_t r = tile_rows(&cpu->stage, tile, &end); r < end; r++)
		for (uint32_t head = op->u1; head < op->u1 + op->u2; head++) {
			float *at = row_of(workspace, op->src, r) + (size_t)head * op->u0;

			cpu->row_ops->rmsnorm(at, at, op->gain, op->u0, op->f0);
		}
}

static void run_elementwise(struct kern_cpu *cpu, uint32_t tile, struct cpu_participant *self)
{
	const struct cpu_workspace *workspace = workspace_at_hand(cpu);
	const struct kern_op *op = cpu->stage.op;
	const uint32_t width = dst_width(cpu);
	uint32_t end;

	(void)self;
	for (uint32_t r = tile_rows(&cpu->stage, tile, &end); r < end; r++) {
		float *to = row_of(workspace, op->dst, r);
		const float *from = row_of(workspace, op->src, r);

		if (op->kind == KERN_OP_SILU_MUL)
			cpu->row_ops->silu_mul(to, from, row_of(workspace, op->src2, r), width);
		else if (op->kind == KERN_OP_GELU)
			cpu->row_ops->gelu(to, from, width);
		else
			cpu->row_ops->add(to, from, width);
	}
}

/* One tile: rows move down in place, in ascending order, since outs are ordered by row. */
static void run_select(struct kern_cpu *cpu, uint32_t tile, struct cpu_participant *self)
{
	const struct cpu_workspace *workspace = workspace_at_hand(cpu);
	const struct kern_step *step = step_at_hand(cpu);
	const struct kern_op *op = cpu->stage.op;
	const size_t bytes = dst_width(cpu) * sizeof(float);

	(void)tile;
	(void)self;
	for (uint32_t i = 0; i < step->out_count; i++) {
		float *to = row_of(workspace, op->dst, i);
		const float *from = row_of(workspace, op->src, step->outs[i].row);

		if (to != from)
			memcpy(to, from, bytes);
	}
}

static void run_hidden(struct kern_cpu *cpu, uint32_t tile, struct cpu_participant *self)
{
	const struct cpu_workspace *workspace = workspace_at_hand(cpu);
	const struct kern_step *step = step_at_hand(cpu);
	uint32_t end;

	(void)self;
	for (uint32_t i = tile_rows(&cpu->stage, tile, &end); i < end; i++)
		if (step->outs[i].hidden)
			memcpy(step->outs[i].hidden, row_of(workspace, cpu->stage.op->src, i),
				step->program->width * sizeof(float));
}

/* Angles as the models were trained with them: position times frequency in float32. */
static void run_rope(struct kern_cpu *cpu, uint32_t tile, struct cpu_participant *self)
{
	const struct kern_step *step = step_at_hand(cpu);
	const struct kern_program *program = step->program;
	const struct cpu_workspace *workspace = program->workspace;
	uint32_t end, seq = 0;
	uint32_t row = tile_rows(&cpu->stage, tile, &end);

	(void)self;
	for (; row < end; row++) {
		float *to = workspace->rope_cos_sin + (size_t)row * workspace->rotated;
		float position;

		while (row >= step->seqs[seq].row + step->seqs[seq].rows)
			seq++;
		position = (float)(step->seqs[seq].position + (row - step->seqs[seq].row));
		for (uint32_t i = 0; i < workspace->rotated / 2; i++) {
			const float angle = position * program->rope_inverse_freq[i];

			to[2 * i] = cosf(angle) * program->rope_magnitude;
			to[2 * i + 1] = sinf(angle) * program->rope_magnitude;
		}
	}
}

/* ---- the sequence of stages --------------------------------------------------------------------------------------- */

/* Estimated time per element, by experience; only the size of tiles hangs on it. */
static void plan_rows(struct kern_cpu *cpu, void (*run)(struct kern_cpu *, uint32_t, struct cpu_participant *), double element_ns)
{
	cpu->stage.run = run;
	cpu_stage_cut_rows(cpu, cpu->step_rows, element_ns * dst_width(cpu));
}

/* Plans one operation; it may turn out to have nothing to do (no tiles). */
static void plan_op(struct kern_cpu *cpu, const struct kern_op *op)
{
	cpu->stage.op = op;
	switch (op->kind) {
	case KERN_OP_EMBED:
		plan_rows(cpu, run_embed, 1.5);
		break;
	case KERN_OP_RMSNORM:
	case KERN_OP_LAYERNORM:
		plan_rows(cpu, run_norm, 0.2);
		break;
	case KERN_OP_HEADNORM:
		cpu->stage.run = run_headnorm;
		cpu_stage_cut_rows(cpu, cpu->step_rows, 0.3 * op->u0 * op->u2);
		break;
	case KERN_OP_SILU_MUL:
		plan_rows(cpu, run_elementwise, 0.5);
		break;
	case KERN_OP_GELU:
		plan_rows(cpu, run_elementwise, 10.0);
		break;
	case KERN_OP_ADD:
		plan_rows(cpu, run_elementwise, 0.2);
		break;
	case KERN_OP_MATMUL: /* may take its neighbours along, see step_next */
		break;
	case KERN_OP_LOGITS:
		cpu_stage_logits(cpu, op);
		break;
	case KERN_OP_SELECT:
		cpu->step_rows = step_at_hand(cpu)->out_count;
		cpu->stage.run = run_select;
		if (cpu->step_rows > 0)
			cpu_stage_whole(cpu, 0.1 * dst_width(cpu) * cpu->step_rows);
		break;
	case KERN_OP_HIDDEN:
		cpu->stage.run = run_hidden;
		cpu_stage_cut_rows(cpu, cpu->step_rows, 0.2 * step_at_hand(cpu)->program->width);
		break;
	case KERN_OP_ATTENTION: /* has several stages, see step_next */
		break;
	}
}

static bool step_next(struct kern_cpu *cpu)
{
	const struct kern_step *step = step_at_hand(cpu);
	const struct kern_program *program = step->program;
	const struct cpu_workspace *workspace = program->workspace;

	if (!cpu->rope_ready) {
		cpu->rope_ready = true;
		if (workspace->rope_cos_sin) {
			cpu->stage.run = run_rope;
			cpu_stage_cut_rows(cpu, step->rows, 10.0 * workspace->rotated);
			return true;
		}
	}
	while (cpu->cursor < program->op_count) {
		const struct kern_op *op = &program->ops[cpu->cursor];

		cpu->stage.tiles = 0;
		if (cpu_stage_quantize(cpu, op))
			return true;
		cpu_stage_forget_quantized(cpu, op);
		if (op->kind == KERN_OP_ATTENTION && cpu_stage_step_attention(cpu, step, op))
			return true;
		if (op->kind == KERN_OP_MATMUL) {
			cpu->stage.op = op;
			cpu->cursor += cpu_stage_matmul(cpu, op, program->op_count - cpu->cursor);
		} else {
			cpu->cursor++;
			plan_op(cpu, op);
		}
		if (cpu->stage.tiles > 0)
			return true;
	}
	return false;
}

static bool attend_next(struct kern_cpu *cpu)
{
	const struct kern_work *work = cpu_work_at_hand(cpu);

	if (cpu->cursor == 0 && work->attend.count > 0 &&
			cpu_stage_raw_attention(cpu, work->attend.items, work->attend.count))
		return true;
	cpu->cursor = 1;
	return false;
}

static void run_spans(struct kern_cpu *cpu, uint32_t tile, struct cpu_participant *self)
{
	const struct kern_work *work = cpu_work_at_hand(cpu);
	const struct kern_span *span = &work->copy.spans[tile / cpu->stage.span_pieces];
	const size_t first = (size_t)(tile % cpu->stage.span_pieces) * SPAN_PIECE_BYTES;
	size_t bytes;

	(void)self;
	if (first >= span->bytes)
		return;
	bytes = span->bytes - first < SPAN_PIECE_BYTES ? span->bytes - first : SPAN_PIECE_BYTES;
	if (work->kind == KERN_WORK_ZERO)
		memset(span->to + first, 0, bytes);
	else
		memcpy(span->to + first, span->from + first, bytes);
}

/* Every span is cut as the longest one, since spans are pages of one size nearly always. */
static bool spans_next(struct kern_cpu *cpu)
{
	const struct kern_work *work = cpu_work_at_hand(cpu);
	size_t longest = 0, pieces;

	if (cpu->cursor++ > 0)
		return false;
	for (uint32_t i = 0; i < work->copy.count; i++)
		longest = work->copy.spans[i].bytes > longest ? work->copy.spans[i].bytes : longest;
	pieces = (longest + SPAN_PIECE_BYTES - 1) / SPAN_PIECE_BYTES;
	if (pieces * work->copy.count > UINT32_MAX) {
		cpu_fail(cpu, EINVAL);
		return false;
	}
	cpu->stage.run = run_spans;
	cpu->stage.span_pieces = (uint32_t)pieces;
	cpu->stage.tiles = (uint32_t)pieces * work->copy.count;
	cpu->stage.tile_ns = cpu_stage_cost_ns((double)(longest < SPAN_PIECE_BYTES ? longest : SPAN_PIECE_BYTES) * cpu->ns_per_byte);
	return cpu->stage.tiles > 0;
}

void cpu_stage_begin(struct kern_cpu *cpu)
{
	const struct kern_work *work = cpu_work_at_hand(cpu);

	cpu->cursor = 0;
	cpu->phase = CPU_ATTENTION_APPEND;
	cpu->sharing = CPU_SHARING_UNKNOWN;
	cpu->rope_ready = false;
	cpu->quantized = NULL;
	cpu->step_rows = work->kind == KERN_WORK_STEP ? work->step.rows : 0;
}

bool cpu_stage_next(struct kern_cpu *cpu)
{
	switch (cpu_work_at_hand(cpu)->kind) {
	case KERN_WORK_STEP:
		return step_next(cpu);
	case KERN_WORK_ATTEND:
		return attend_next(cpu);
	default:
		return spans_next(cpu);
	}
}
