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

static void run_quantize(struct kern_cpu *cpu, uint32_t tile, struct cpu_participant *self)
{
	const struct cpu_workspace *workspace = workspace_at_hand(cpu);
	const struct cpu_stage *stage = &cpu->stage;
	const uint32_t row = tile * stage->tile_rows, left = stage->rows - row;
	const uint8_t slot = stage->op->src;

	(void)self;
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

/* ---- cutting ------------------------------------------------------------------------------------------------------ */

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

/* Groups of a tile: no less than CPU_TILE_NS takes, and as many tiles for everyone. */
static uint32_t product_tile_groups(const struct kern_cpu *cpu, const struct kern_weight *weight, uint32_t tile_rows)
{
	const uint32_t unit = cpu_products_of(cpu, weight)->tile_groups, participants = cpu->worker_count + 1;
	const double unit_ns = product_ns(cpu, weight, tile_rows, unit);
	const uint32_t least = unit_ns < CPU_TILE_NS ? unit * (uint32_t)(CPU_TILE_NS / unit_ns) : unit;
	const uint32_t tiles = divide_up(divide_up(weight->groups, least), participants) * participants;

	return divide_up(divide_up(weight->groups, tiles), unit) * unit;
}

/* Cuts the products of `rows` rows whose weights are set. */
static void cut_products(const struct kern_cpu *cpu, struct cpu_stage *stage, uint32_t rows)
{
	double ns = 0.0;

	for (uint32_t i = 0; i < stage->product_count; i++)
		ns += product_ns(cpu, stage->products[i].product.weight, rows, stage->products[i].product.weight->groups);
	stage->rows = rows;
	stage->tiles = 0;
	for (uint32_t i = 0; i < stage->product_count; i++) {
		struct cpu_stage_product *cut = &stage->products[i];
		const struct kern_weight *weight = cut->product.weight;
		const bool whole = rows <= CPU_PRODUCT_ROWS && ns < CPU_SHARE_NS;

		cut->tile_rows = whole ? rows : product_tile_rows(cpu, weight, rows);
		cut->tile_groups = whole ? weight->groups : product_tile_groups(cpu, weight, cut->tile_rows);
		cut->group_tiles = divide_up(weight->groups, cut->tile_groups);
		cut->tiles = divide_up(rows, cut->tile_rows) * cut->group_tiles;
		stage->tiles += cut->tiles;
	}
	stage->tile_ns = cpu_stage_cost_ns(ns / stage->tiles);
}

/* Which of the stage's products a tile is of; the tile becomes its number there. */
static const struct cpu_stage_product *product_of_tile(const struct cpu_stage *stage, uint32_t *tile)
{
	const struct cpu_stage_product *cut = stage->products;

	while (*tile >= cut->tiles)
		*tile -= (cut++)->tiles;
	return cut;
}

/* Which rows and groups a tile is. Tiles that follow each other share weights: ROW_TILES tiles of rows take turns on the same
 * groups before the next groups come, so that weights are read from memory once for all of these rows, while their x stays
 * in the second-level cache. */
enum { ROW_TILES = 4 };

static void tile_place(const struct cpu_stage_product *cut, uint32_t rows, uint32_t tile, uint32_t *row, uint32_t *group)
{
	const uint32_t row_tiles = divide_up(rows, cut->tile_rows), first = tile / (ROW_TILES * cut->group_tiles) * ROW_TILES;
	const uint32_t turns = row_tiles - first < ROW_TILES ? row_tiles - first : ROW_TILES;

	tile %= ROW_TILES * cut->group_tiles;
	*row = (first + tile % turns) * cut->tile_rows;
	*group = tile / turns * cut->tile_groups;
}

/* ---- products ----------------------------------------------------------------------------------------------------- */

struct span {
	const unsigned char *at;
	size_t bytes;
};

/* The weights of a tile. */
static struct span tile_span(const struct cpu_stage *stage, uint32_t tile)
{
	const struct cpu_stage_product *cut = product_of_tile(stage, &tile);
	const struct kern_weight *weight = cut->product.weight;
	uint32_t row, group, groups;

	tile_place(cut, stage->rows, tile, &row, &group);
	groups = weight->groups - group < cut->tile_groups ? weight->groups - group : cut->tile_groups;
	return (struct span){ cpu_weight_group(weight, group), groups * weight->group_bytes };
}

/* What self asks for while it runs a tile: the weights of its next one, unless they are the same, and in the end those of the
 * next stage. */
static void want_next(const struct kern_cpu *cpu, uint32_t tile, struct cpu_participant *self)
{
	struct span next;

	if (self->next_tile == CPU_NO_TILE) {
		cpu_share_want(cpu, self);
		return;
	}
	next = tile_span(&cpu->stage, self->next_tile);
	if (next.at != tile_span(&cpu->stage, tile).at)
		cpu_ahead_want_one(&self->ahead, next.at, next.bytes);
}

static void run_product(struct kern_cpu *cpu, uint32_t tile, struct cpu_participant *self)
{
	const struct cpu_stage *stage = &cpu->stage;
	const struct cpu_stage_product *cut;
	uint32_t row, group, groups;

	want_next(cpu, tile, self);
	cut = product_of_tile(stage, &tile);
	groups = cut->product.weight->groups;
	tile_place(cut, stage->rows, tile, &row, &group);
	cpu_products_of(cpu, cut->product.weight)->run(&cut->product, row,
		stage->rows - row < cut->tile_rows ? stage->rows - row : cut->tile_rows,
		group, groups - group < cut->tile_groups ? groups - group : cut->tile_groups, &self->ahead, self->scratch);
}

/* Whether the second one may run while the first does: both read the same rows in the same form, which no product writes (see
 * cpu_program.c), and neither writes where the other does. */
static bool independent(const struct kern_op *a, const struct kern_op *b)
{
	return b->kind == KERN_OP_MATMUL && a->src == b->src && a->weight->integers == b->weight->integers &&
		(a->dst != b->dst || a->u0 + a->weight->n <= b->u0 || b->u0 + b->weight->n <= a->u0);
}

/* The product at ops[0] and those behind it that may run with it. */
static uint32_t products_together(const struct kern_op *ops, uint32_t count)
{
	uint32_t together = 1;

	while (together < count && together < CPU_STAGE_PRODUCTS) {
		for (uint32_t i = 0; i < together; i++)
			if (!independent(&ops[i], &ops[together]))
				return together;
		together++;
	}
	return together;
}

uint32_t cpu_stage_matmul(struct kern_cpu *cpu, const struct kern_op *ops, uint32_t count)
{
	const struct cpu_workspace *workspace = workspace_at_hand(cpu);
	struct cpu_stage *stage = &cpu->stage;

	stage->product_count = products_together(ops, count);
	/* After SELECT there may be no row left: a step that only appends has no outputs. */
	if (cpu->step_rows == 0)
		return stage->product_count;
	stage->run = run_product;
	for (uint32_t i = 0; i < stage->product_count; i++)
		stage->products[i].product = (struct cpu_product){
			.weight = ops[i].weight,
			.x = workspace->slots[ops[i].src],
			.x_stride = workspace->stride[ops[i].src],
			.rows8 = workspace->rows8,
			.y = workspace->slots[ops[i].dst] + ops[i].u0,
			.y_stride = workspace->stride[ops[i].dst],
			.bias = ops[i].bias,
			.add = ops[i].add,
		};
	cut_products(cpu, stage, cpu->step_rows);
	return stage->product_count;
}

void cpu_stage_logits(struct kern_cpu *cpu, const struct kern_op *op)
{
	const struct cpu_workspace *workspace = workspace_at_hand(cpu);
	const struct kern_step *step = step_at_hand(cpu);

	if (!logits_wanted(step) || cpu->step_rows == 0)
		return;
	cpu->stage.run = run_product;
	cpu->stage.product_count = 1;
	cpu->stage.products[0].product = (struct cpu_product){
		.weight = op->weight,
		.x = workspace->slots[op->src],
		.x_stride = workspace->stride[op->src],
		.rows8 = workspace->rows8,
		.outs = step->outs,
		.bias = op->bias,
	};
	cut_products(cpu, &cpu->stage, cpu->step_rows);
}

/* ---- what comes next ---------------------------------------------------------------------------------------------- */

/* The next product from the cursor on, around the end: as a rule the same program runs again. NULL: it has none. left: how many
 * operations there are from it on. */
static const struct kern_op *next_product(const struct kern_cpu *cpu, const struct kern_program *program, uint32_t *left)
{
	for (uint32_t i = 0; i < program->op_count; i++) {
		const uint32_t at = (cpu->cursor + i) % program->op_count;

		*left = program->op_count - at;
		if (program->ops[at].kind == KERN_OP_MATMUL || program->ops[at].kind == KERN_OP_LOGITS)
			return &program->ops[at];
	}
	return NULL;
}

void cpu_stage_ahead(struct kern_cpu *cpu)
{
	const struct kern_work *work = cpu_work_at_hand(cpu);
	struct cpu_stage next;
	const struct kern_op *op;
	uint32_t left;

	if (work->kind != KERN_WORK_STEP || cpu->step_rows == 0)
		return;
	op = next_product(cpu, work->step.program, &left);
	if (!op)
		return;
	next.product_count = op->kind == KERN_OP_MATMUL ? products_together(op, left) : 1;
	for (uint32_t i = 0; i < next.product_count; i++)
		next.products[i].product.weight = op[i].weight;
	cut_products(cpu, &next, cpu->step_rows);
	for (uint32_t s = 0; s < cpu->share_count; s++) {
		const struct span first = tile_span(&next, cpu_share_first(next.tiles, s, cpu->share_count));

		/* Relaxed: nothing hangs on them but what a cache holds. */
		atomic_store_explicit(&cpu->shares[s].ahead_bytes, first.bytes, memory_order_relaxed);
		atomic_store_explicit(&cpu->shares[s].ahead, (uintptr_t)first.at, memory_order_relaxed);
	}
}
