/*
 * What may run: programs are checked and given their workspace once, at load; every piece of work is checked at submit
 * (in the owner's thread, a few comparisons per session and output), so that the kernels stay inside their memory.
 */
#include <errno.h>
#include <string.h>

#include "base/base_error.h"
#include "kernels/cpu/cpu_backend.h"

enum { ROWS_MAX = 1 << 16, WIDTH_MAX = 1 << 24, LINE_FLOATS = CPU_LINE / 4, ALIAS_FLOATS = 256 };

/* What the checks carry from one operation to the next. */
struct check {
	const struct kern_program *program;
	struct cpu_workspace *workspace;
	uint32_t index;
	bool selected, rotates;
};

static int wrong(const struct check *check, const char *what)
{
	return base_fail(EINVAL, "operation %u of the program (kind %d): %s", check->index,
		(int)check->program->ops[check->index].kind, what);
}

static uint32_t width(const struct check *check, uint8_t slot)
{
	return check->program->slot_width[slot];
}

static int check_weight(const struct check *check, const struct kern_op *op, uint32_t n, uint32_t k)
{
	if (!op->weight)
		return wrong(check, "has no weight");
	if (op->weight->n != n || op->weight->k != k)
		return base_fail(EINVAL, "operation %u of the program: a weight of %u x %u where %u x %u is needed",
			check->index, op->weight->n, op->weight->k, n, k);
	return 0;
}

static int check_attention(struct check *check, const struct kern_op *op)
{
	const struct kern_kv_geometry *kv = &check->program->kv;

	if (kv->kv_heads == 0 || kv->heads % kv->kv_heads != 0 || kv->head_dim == 0)
		return wrong(check, "the program has no KV geometry");
	if (op->u0 >= kv->layers)
		return wrong(check, "its layer is not in the KV geometry");
	if (width(check, op->src) != (uint64_t)(kv->heads + 2 * kv->kv_heads) * kv->head_dim ||
		width(check, op->dst) != (uint64_t)kv->heads * kv->head_dim || op->src == op->dst)
		return wrong(check, "its slots do not have the widths of q|k|v and of the heads");
	if (check->selected)
		return wrong(check, "attention after SELECT");
	check->workspace->has_attention = true;
	if (op->u1 == KERN_ROPE_NONE)
		return 0;
	if (op->u1 > KERN_ROPE_HALVES || op->u2 == 0 || op->u2 % 2 != 0 || op->u2 > kv->head_dim ||
		!check->program->rope_inverse_freq)
		return wrong(check, "its rotation is not one of the known, or lacks its frequencies");
	if (check->rotates && check->workspace->rotated != op->u2)
		return wrong(check, "rotates other dimensions than an operation before it");
	check->rotates = true;
	check->workspace->rotated = op->u2;
	return 0;
}

static int check_op(struct check *check, const struct kern_op *op)
{
	const struct kern_program *program = check->program;

	if (op->src >= program->slot_count || op->src2 >= program->slot_count || op->dst >= program->slot_count)
		return wrong(check, "names a slot that is not there");
	switch (op->kind) {
	case KERN_OP_EMBED:
		if (check->selected || width(check, op->dst) != program->width)
			return wrong(check, "embeds after SELECT, or into a slot of another width than the model's");
		return op->weight ? check_weight(check, op, op->weight->n, program->width) : 0;
	case KERN_OP_RMSNORM:
	case KERN_OP_LAYERNORM:
		if (!op->gain || width(check, op->src) != width(check, op->dst))
			return wrong(check, "has no gain, or slots of different widths");
		return 0;
	case KERN_OP_MATMUL:
		if (op->src == op->dst)
			return wrong(check, "multiplies in place");
		if (!op->weight || (uint64_t)op->u0 + op->weight->n > width(check, op->dst))
			return wrong(check, "has no weight, or columns outside its slot");
		return check_weight(check, op, op->weight->n, width(check, op->src));
	case KERN_OP_HEADNORM:
		if (!op->gain || op->u0 == 0 || ((uint64_t)op->u1 + op->u2) * op->u0 > width(check, op->src))
			return wrong(check, "has no gain, or heads outside its slot");
		return 0;
	case KERN_OP_ATTENTION:
		return check_attention(check, op);
	case KERN_OP_SILU_MUL:
		if (width(check, op->src) != width(check, op->dst) || width(check, op->src2) != width(check, op->dst))
			return wrong(check, "has slots of different widths");
		return 0;
	case KERN_OP_GELU:
	case KERN_OP_ADD:
		if (width(check, op->src) != width(check, op->dst))
			return wrong(check, "has slots of different widths");
		return 0;
	case KERN_OP_SELECT:
		if (check->selected || width(check, op->src) != width(check, op->dst))
			return wrong(check, "selects twice, or has slots of different widths");
		check->selected = true;
		return 0;
	case KERN_OP_HIDDEN:
		if (!check->selected || width(check, op->src) != program->width)
			return wrong(check, "stands before SELECT, or its slot is not of the model's width");
		return 0;
	case KERN_OP_LOGITS:
		if (!check->selected)
			return wrong(check, "stands before SELECT");
		return check_weight(check, op, program->vocab, width(check, op->src));
	}
	return wrong(check, "is of an unknown kind");
}

static int check_program(const struct kern_program *program, struct cpu_workspace *workspace)
{
	struct check check = {.program = program, .workspace = workspace};

	if (program->max_rows == 0 || program->max_rows > ROWS_MAX || program->max_out_rows > program->max_rows)
		return base_fail(EINVAL, "a program for %u rows and %u output rows: at most %d rows, and no more outputs "
			"than rows", program->max_rows, program->max_out_rows, ROWS_MAX);
	if (program->slot_count == 0 || program->slot_count > KERN_SLOTS_MAX)
		return base_fail(EINVAL, "a program with %u slots: 1 to %d are possible", program->slot_count,
			KERN_SLOTS_MAX);
	for (uint32_t i = 0; i < program->slot_count; i++)
		if (program->slot_width[i] == 0 || program->slot_width[i] > WIDTH_MAX)
			return base_fail(EINVAL, "slot %u of the program is %u wide: 1 to %d are possible", i,
				program->slot_width[i], WIDTH_MAX);
	for (check.index = 0; check.index < program->op_count; check.index++) {
		int err = check_op(&check, &program->ops[check.index]);

		if (err != 0)
			return err;
	}
	return 0;
}

/* Rows begin on a line, and not at a multiple of 1 KiB from each other: rows of a tile would fall into one cache set. */
static size_t row_stride(uint32_t elements)
{
	size_t stride = (elements + (size_t)LINE_FLOATS - 1) / LINE_FLOATS * LINE_FLOATS;

	return stride % ALIAS_FLOATS == 0 ? stride + LINE_FLOATS : stride;
}

/* Room for the widest x of a product with integer weights. */
static bool take_rows8(struct kern_backend *backend, const struct kern_program *program, struct cpu_workspace *workspace)
{
	uint32_t k = 0, rows = program->max_rows;

	for (uint32_t i = 0; i < program->op_count; i++) {
		const struct kern_op *op = &program->ops[i];

		if ((op->kind == KERN_OP_MATMUL || op->kind == KERN_OP_LOGITS) && op->weight->integers && op->weight->k > k)
			k = op->weight->k;
	}
	if (k == 0)
		return true;
	/* Rows are rounded up to whole tiles of sixteen. */
	rows = rows < 16 ? rows : (rows + 15) / 16 * 16;
	workspace->rows8.data = cpu_alloc(backend, k / 32 * cpu_rows8_block_bytes(rows), "quantized activations");
	return workspace->rows8.data != NULL;
}

static bool take_workspace(struct kern_backend *backend, const struct kern_program *program,
	struct cpu_workspace *workspace)
{
	const size_t rows = program->max_rows;

	for (uint32_t i = 0; i < program->slot_count; i++) {
		workspace->stride[i] = row_stride(program->slot_width[i]);
		workspace->slots[i] = cpu_alloc(backend, rows * workspace->stride[i] * sizeof(float), "activations");
		if (!workspace->slots[i])
			return false;
	}
	if (!take_rows8(backend, program, workspace))
		return false;
	if (!workspace->has_attention)
		return true;
	workspace->jobs = cpu_alloc(backend, rows * sizeof(*workspace->jobs), "attention jobs");
	workspace->first_unit = cpu_alloc(backend, (rows + 1) * sizeof(uint32_t), "attention jobs");
	if (!workspace->jobs || !workspace->first_unit)
		return false;
	if (workspace->rotated > 0) {
		workspace->rope_cos_sin = cpu_alloc(backend, rows * workspace->rotated * sizeof(float), "rotations");
		return workspace->rope_cos_sin != NULL;
	}
	return true;
}

int cpu_program_prepare(struct kern_backend *backend, struct kern_program *program)
{
	struct cpu_workspace *workspace = cpu_alloc(backend, sizeof(*workspace), "a workspace");
	int err;

	program->workspace = NULL;
	if (!workspace)
		return -ENOMEM;
	err = check_program(program, workspace);
	program->workspace = workspace;
	if (err == 0 && !take_workspace(backend, program, workspace))
		err = -ENOMEM;
	if (err != 0)
		cpu_program_release(backend, program);
	return err;
}

void cpu_program_release(struct kern_backend *backend, struct kern_program *program)
{
	struct cpu_workspace *workspace = program->workspace;

	if (!workspace)
		return;
	cpu_free(backend, workspace->rows8.data);
	cpu_free(backend, workspace->rope_cos_sin);
	cpu_free(backend, workspace->first_unit);
	cpu_free(backend, workspace->jobs);
	for (uint32_t i = 0; i < KERN_SLOTS_MAX; i++)
		cpu_free(backend, workspace->slots[i]);
	cpu_free(backend, workspace);
	program->workspace = NULL;
}

/* ---- work --------------------------------------------------------------------------------------------------------- */

static bool same_shape(const struct kern_kv_geometry *a, const struct kern_kv_geometry *b)
{
	return a->layers == b->layers && a->heads == b->heads && a->kv_heads == b->kv_heads && a->head_dim == b->head_dim;
}

/* Sessions cover the rows in order, without gaps. */
static bool seqs_fit(const struct kern_step *step)
{
	uint32_t row = 0;

	for (uint32_t i = 0; i < step->seq_count; i++) {
		const struct kern_seq *seq = &step->seqs[i];

		if (seq->row != row || seq->rows == 0 || seq->rows > step->rows - row || !seq->kv ||
			!same_shape(seq->kv, &step->program->kv) || seq->position > UINT32_MAX / 2)
			return false;
		row += seq->rows;
	}
	return row == step->rows;
}

static bool outs_fit(const struct kern_step *step)
{
	for (uint32_t i = 0; i < step->out_count; i++)
		if (step->outs[i].row >= step->rows || (i > 0 && step->outs[i].row <= step->outs[i - 1].row))
			return false;
	return true;
}

static bool step_fits(const struct kern_step *step)
{
	const struct kern_program *program = step->program;
	const struct cpu_workspace *workspace = program->workspace;

	if (!workspace || step->rows == 0 || step->rows > program->max_rows || step->out_count > program->max_out_rows)
		return false;
	return outs_fit(step) && (!workspace->has_attention || seqs_fit(step));
}

static bool attend_fits(const struct kern_attend *item)
{
	return item->kv && item->layer < item->kv->layers && (item->q_rows > 0 || item->kv_rows > 0) &&
		(item->q_rows == 0 || (item->q && item->o)) && (item->kv_rows == 0 || (item->k && item->v)) &&
		(uint64_t)item->kv_position + item->kv_rows <= UINT32_MAX &&
		(uint64_t)item->q_position + item->q_rows <= UINT32_MAX;
}

int cpu_work_check(const struct kern_work *work)
{
	switch (work->kind) {
	case KERN_WORK_STEP:
		return step_fits(&work->step) ? 0 : -EINVAL;
	case KERN_WORK_ATTEND:
		if (work->attend.count > KERN_ATTEND_MAX)
			return -EINVAL;
		for (uint32_t i = 0; i < work->attend.count; i++)
			if (!attend_fits(&work->attend.items[i]))
				return -EINVAL;
		return 0;
	case KERN_WORK_ZERO:
	case KERN_WORK_COPY:
		return 0;
	}
	return -EINVAL;
}
