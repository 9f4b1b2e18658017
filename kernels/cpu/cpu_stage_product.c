/*
 * Products as stages: x is quantized where the weights are integers, then rows by groups of features are cut into tiles. Planning is
 * done by the holder of the right to advance; tiles run in any participant. No allocation, no lock, no system call.
 */
#include "kernels/cpu/cpu_backend.h"

static uint32_t divide_up(uint32_t value, uint32_t unit)
{
	return (value + unit - 1) / unit;
}

static const struct kern_step *step_at_hand(struct kern_cpu *cpu)
{
	return &cpu_work_at_hand(cpu)->step;
}

static struct cpu_workspace *workspace_at_hand(struct kern_cpu *cpu)
{
	return step_at_hand(cpu)->program->workspace;
}

/* ---- quantizing x -------------------------------------------------------------------------------------------------- */

static void run_quantize(struct kern_cpu *cpu, uint32_t tile, void *scratch)
{
	const struct cpu_workspace *workspace = workspace_at_hand(cpu);
	const struct cpu_stage *stage = &cpu->stage;
	const uint32_t row = tile * stage->tile_rows, left = stage->rows - row;
	const uint8_t slot = stage->op->src;

	(void)scratch;
	cpu->integer_products->quantize(&workspace->rows8, workspace->slots[slot], workspace->stride[slot], row,
		left < stage->tile_rows ? left : stage->tile_rows, stage->op->weight->k);
}

static bool logits_wanted(const struct kern_step *step)
{
	bool wanted = false;

	for (uint32_t i = 0; i < step->out_count; i++)
		wanted |= step->outs[i].logits != NULL;
	return wanted;
}

bool cpu_stage_quantize(struct kern_cpu *cpu, const struct kern_op *op)
{
	/* Estimated, by experience; only the size of tiles hangs on it. */
	const double element_ns = 0.3;
	struct cpu_workspace *workspace = workspace_at_hand(cpu);

	if ((op->kind != KERN_OP_MATMUL && op->kind != KERN_OP_LOGITS) || !op->weight->integers || cpu->step_rows == 0 ||
		cpu->quantized == workspace->slots[op->src] ||
		(op->kind == KERN_OP_LOGITS && !logits_wanted(step_at_hand(cpu))))
		return false;
	workspace->rows8.row_stride = cpu->step_rows < 16 ? cpu->step_rows : divide_up(cpu->step_rows, 16) * 16;
	workspace->rows8.block_bytes = cpu_rows8_block_bytes(workspace->rows8.row_stride);
	cpu->quantized = workspace->slots[op->src];
	cpu->stage.op = op;
	cpu->stage.run = run_quantize;
	cpu_stage_cut_rows(cpu, cpu->step_rows, element_ns * op->weight->k);
	/* Sixteen rows share a word of marks. */
	if (cpu->stage.tiles > 1) {
		cpu->stage.tile_rows = divide_up(cpu->stage.tile_rows, 16) * 16;
		cpu->stage.tiles = divide_up(cpu->step_rows, cpu->stage.tile_rows);
		cpu->stage.tile_ns = cpu_stage_cost_ns(element_ns * op->weight->k * cpu->stage.tile_rows);
	}
	return true;
}

void cpu_stage_forget_quantized(struct kern_cpu *cpu, const struct kern_op *op)
{
	const struct cpu_workspace *workspace = workspace_at_hand(cpu);

	if (cpu->quantized == workspace->slots[op->dst] || op->kind == KERN_OP_SELECT ||
		(op->kind == KERN_OP_HEADNORM && cpu->quantized == workspace->slots[op->src]))
		cpu->quantized = NULL;
}

/* ---- products ----------------------------------------------------------------------------------------------------- */

/* Which rows and groups a tile is. Tiles that follow each other share weights: ROW_TILES tiles of rows take turns on the same
 * groups before the next groups come, so that weights are read from memory once for all of these rows, while their x stays
 * in the second-level cache. */
enum { ROW_TILES = 4 };

static void tile_place(const struct cpu_stage *stage, uint32_t tile, uint32_t *row_tile, uint32_t *group_tile)
{
	const uint32_t row_tiles = divide_up(stage->rows, stage->tile_rows), first = tile / (ROW_TILES * stage->group_tiles) * ROW_TILES;
	const uint32_t turns = row_tiles - first < ROW_TILES ? row_tiles - first : ROW_TILES;

	tile %= ROW_TILES * stage->group_tiles;
	*row_tile = first + tile % turns;
	*group_tile = tile / turns;
}

static void run_product(struct kern_cpu *cpu, uint32_t tile, void *scratch)
{
	const struct cpu_stage *stage = &cpu->stage;
	const uint32_t groups = stage->product.weight->groups;
	uint32_t row, group;

	tile_place(stage, tile, &row, &group);
	row *= stage->tile_rows;
	group *= stage->tile_groups;
	cpu_products_of(cpu, stage->product.weight)->run(&stage->product, row,
		stage->rows - row < stage->tile_rows ? stage->rows - row : stage->tile_rows,
		group, groups - group < stage->tile_groups ? groups - group : stage->tile_groups, scratch);
}

/* The time of `rows` by `groups`: computing, or reading the weights. */
static double product_ns(const struct kern_cpu *cpu, const struct kern_weight *weight, uint32_t rows, uint32_t groups)
{
	const double compute_ns = (double)rows * groups * weight->lanes * weight->k *
		(weight->integers ? cpu->ns_per_integer_product : cpu->ns_per_product);
	const double read_ns = (double)groups * (double)weight->group_bytes * cpu->ns_per_byte;

	return compute_ns > read_ns ? compute_ns : read_ns;
}

/* Rows of a tile: all where that is not too long, else equal shares in whole tiles of registers. */
static uint32_t product_tile_rows(const struct kern_cpu *cpu, const struct kern_weight *weight, uint32_t rows)
{
	const uint32_t unit = cpu_products_of(cpu, weight)->tile_rows;
	const double row_ns = product_ns(cpu, weight, unit, cpu_products_of(cpu, weight)->tile_groups) / unit;
	uint32_t most = CPU_PRODUCT_ROWS;

	if (row_ns * most > CPU_TILE_MAX_NS)
		most = row_ns * 4 * unit > CPU_TILE_MAX_NS ? 4 * unit : (uint32_t)(CPU_TILE_MAX_NS / row_ns);
	if (rows <= most)
		return rows;
	return divide_up(divide_up(rows, divide_up(rows, most)), unit) * unit;
}

static void plan_product(struct kern_cpu *cpu, const struct cpu_product *product, uint32_t rows)
{
	const struct kern_weight *weight = product->weight;
	const uint32_t unit = cpu_products_of(cpu, weight)->tile_groups;
	struct cpu_stage *stage = &cpu->stage;
	double unit_ns;

	/* After SELECT there may be no row left: a step that only appends has no outputs. */
	if (rows == 0)
		return;
	stage->run = run_product;
	stage->product = *product;
	stage->rows = rows;
	if (rows <= CPU_PRODUCT_ROWS) {
		const double whole_ns = product_ns(cpu, weight, rows, weight->groups);

		if (whole_ns < CPU_SHARE_NS) {
			stage->tile_rows = rows;
			stage->tile_groups = weight->groups;
			stage->group_tiles = 1;
			stage->tiles = 1;
			stage->tile_ns = cpu_stage_cost_ns(whole_ns);
			return;
		}
	}
	stage->tile_rows = product_tile_rows(cpu, weight, rows);
	stage->tile_groups = unit;
	unit_ns = product_ns(cpu, weight, stage->tile_rows, unit);
	if (unit_ns < CPU_TILE_NS)
		stage->tile_groups = unit * (uint32_t)(CPU_TILE_NS / unit_ns);
	stage->group_tiles = divide_up(weight->groups, stage->tile_groups);
	stage->tiles = divide_up(rows, stage->tile_rows) * stage->group_tiles;
	stage->tile_ns = cpu_stage_cost_ns(unit_ns * stage->tile_groups / unit);
}

void cpu_stage_matmul(struct kern_cpu *cpu, const struct kern_op *op)
{
	const struct cpu_workspace *workspace = workspace_at_hand(cpu);
	const struct cpu_product product = {
		.weight = op->weight,
		.x = workspace->slots[op->src],
		.x_stride = workspace->stride[op->src],
		.rows8 = workspace->rows8,
		.y = workspace->slots[op->dst] + op->u0,
		.y_stride = workspace->stride[op->dst],
		.bias = op->bias,
		.add = op->add,
	};

	plan_product(cpu, &product, cpu->step_rows);
}

void cpu_stage_logits(struct kern_cpu *cpu, const struct kern_op *op)
{
	const struct cpu_workspace *workspace = workspace_at_hand(cpu);
	const struct kern_step *step = step_at_hand(cpu);
	const struct cpu_product product = {
		.weight = op->weight,
		.x = workspace->slots[op->src],
		.x_stride = workspace->stride[op->src],
		.rows8 = workspace->rows8,
		.outs = step->outs,
		.bias = op->bias,
	};

	if (logits_wanted(step))
		plan_product(cpu, &product, cpu->step_rows);
}
