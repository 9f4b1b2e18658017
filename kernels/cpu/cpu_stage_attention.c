/*
 * Attention as stages: one job per session, run together as a batch. Jobs are built when an operation's first phase is planned,
 * by the holder of the right to advance.
 */
#include "kernels/cpu/cpu_attention_kernels.h"
#include "kernels/cpu/cpu_backend.h"

static void run_units(struct kern_cpu *cpu, uint32_t tile, struct cpu_participant *self)
{
	cpu_attention_batch_run(cpu->batch, tile, self->scratch);
}

/* ---- how long units take ------------------------------------------------------------------------------------------ */

/* Query-key pairs that a job looks at. */
static double visible_pairs(const struct cpu_attention_job *job)
{
	double tokens = job->causal ? job->q_position + job->q_rows / 2.0 : (double)job->kv_position + job->kv_rows;

	if (job->window > 0 && tokens > job->window)
		tokens = job->window;
	return tokens * job->q_rows;
}

/* Time to store an element of K or V, by experience: int4 searches for its scales. */
static double append_element_ns(enum kern_kv format)
{
	return format == KERN_KV_INT4 ? 8.0 : 0.5;
}

/* Rows of K and V that are stored. A page of int4 begins with a look at all of the one before. */
static double append_ns(const struct cpu_attention_job *job)
{
	const struct kern_kv_geometry *kv = job->kv;
	const uint32_t end = job->kv_position + job->kv_rows;
	const uint32_t pages = kern_kv_filled(end) - kern_kv_filled(job->kv_position);
	const double page_begin_ns = kv->k == KERN_KV_INT4 ? 60.0 : 0.0;

	return (double)kv->kv_heads * kv->head_dim *
		(job->kv_rows * (append_element_ns(kv->k) + append_element_ns(kv->v)) + pages * page_begin_ns);
}

/* A unit of ATTEND: so many pairs of a query row and a key, for all heads, and so many tokens read of all KV heads. */
static double attend_ns(const struct kern_cpu *cpu, const struct kern_kv_geometry *kv, double pairs, double tokens)
{
	const double compute_ns = pairs * kv->heads * (2.0 * kv->head_dim + 16.0) * 2.0 * cpu->ns_per_product;
	const double read_ns = tokens * kv->kv_heads * (double)(kv->page_bytes[1] / KERN_PAGE_TOKENS) * cpu->ns_per_byte;

	return compute_ns > read_ns ? compute_ns : read_ns;
}

/* A job's units in the round at hand. */
static double phase_ns(const struct kern_cpu *cpu, const struct cpu_attention_job *job, enum cpu_attention_phase phase)
{
	const struct kern_kv_geometry *kv = job->kv;
	double pairs, whole_units;

	if (phase == CPU_ATTENTION_APPEND)
		return append_ns(job);
	if (phase == CPU_ATTENTION_MERGE)
		return (double)job->q_rows * kv->heads * kv->head_dim;
	pairs = visible_pairs(job);
	whole_units = (double)kv->kv_heads * job->head_parts * job->row_chunks * (job->partial != NULL ? job->splits : 1);
	return attend_ns(cpu, kv, pairs, pairs / job->q_rows) * job->units[phase] / whole_units;
}

/* What several jobs do together, in the round at hand. */
static double together_ns(const struct kern_cpu *cpu)
{
	const struct cpu_attention_batch *batch = cpu->batch;
	double ns = 0.0;

	for (uint32_t i = 0; i < batch->share.group_count; i++) {
		const struct cpu_attention_together *together = &batch->together[i];
		const uint32_t first = batch->share.members[batch->share.groups[i].first].job;
		const double tokens = (double)together->splits * CPU_ATTENTION_SPLIT_TOKENS;

		ns += attend_ns(cpu, batch->jobs[first].kv, tokens * together->rows, tokens);
	}
	return ns;
}

/* ---- phases ------------------------------------------------------------------------------------------------------- */

static void plan_phase(struct kern_cpu *cpu, enum cpu_attention_phase phase)
{
	struct cpu_attention_batch *batch = cpu->batch;
	struct cpu_stage *stage = &cpu->stage;
	double ns = 0.0;

	stage->run = run_units;
	stage->tiles = cpu_attention_batch_phase(batch, phase);
	if (stage->tiles == 0)
		return;
	if (phase == CPU_ATTENTION_ATTEND && batch->shared_units > 0)
		ns = together_ns(cpu);
	for (uint32_t i = 0; i < batch->count; i++)
		if (batch->jobs[i].units[phase] > 0)
			ns += phase_ns(cpu, &batch->jobs[i], phase);
	stage->tile_ns = cpu_stage_cost_ns(ns / stage->tiles);
}

/* The next phase, of this round or the next one, of this slice of the jobs or the next one, that has units. */
static bool next_phase(struct kern_cpu *cpu)
{
	do {
		if (cpu->phase == CPU_ATTENTION_PHASES) {
			cpu->phase = CPU_ATTENTION_ATTEND;
			if (!cpu_attention_batch_next_round(cpu->batch)) {
				cpu->phase = CPU_ATTENTION_APPEND;
				if (!cpu_attention_batch_next_slice(cpu->batch))
					return false;
			}
		}
		plan_phase(cpu, cpu->phase++);
	} while (cpu->stage.tiles == 0);
	return true;
}

static void run_seek(struct kern_cpu *cpu, uint32_t tile, struct cpu_participant *self)
{
	(void)tile;
	(void)self;
	if (cpu_attention_share_advance(&cpu->batch->share))
		cpu->sharing = CPU_SHARING_KNOWN;
}

/* Jobs are built. False: first a slice of the search for what they share must run. */
static bool begin_attention(struct kern_cpu *cpu)
{
	if (cpu->sharing == CPU_SHARING_UNKNOWN)
		cpu->sharing = cpu_attention_batch_seek(cpu->batch) ? CPU_SHARING_SOUGHT : CPU_SHARING_KNOWN;
	if (cpu->sharing == CPU_SHARING_SOUGHT) {
		cpu->stage.run = run_seek;
		cpu_stage_whole(cpu, CPU_ATTENTION_SHARE_NS);
		return false;
	}
	cpu_attention_batch_plan(cpu->batch);
	return true;
}

static void take_jobs(struct kern_cpu *cpu, struct cpu_attention_job *jobs, uint32_t *first_unit, uint32_t count)
{
	cpu->batch->jobs = jobs;
	cpu->batch->first_unit = first_unit;
	cpu->batch->count = count;
	cpu_attention_batch_cut(cpu->batch);
}

/* ---- jobs --------------------------------------------------------------------------------------------------------- */

static void step_job(const struct kern_cpu *cpu, const struct kern_step *step, const struct kern_op *op,
	const struct kern_seq *seq, struct cpu_attention_job *job)
{
	const struct cpu_workspace *workspace = step->program->workspace;
	const struct kern_kv_geometry *kv = seq->kv;
	const size_t stride = workspace->stride[op->src];
	const float *q = workspace->slots[op->src] + seq->row * stride;
	const float *k = q + (size_t)kv->heads * kv->head_dim;

	*job = (struct cpu_attention_job){
		.isa = cpu->isa,
		.amx = cpu->amx,
		.kv = kv,
		.blocks = seq->blocks,
		.layer = op->u0,
		.q_rows = seq->rows,
		.kv_rows = seq->rows,
		.kv_position = seq->position,
		.q_position = seq->position,
		.window = op->window,
		.causal = true,
		.scale = op->f0,
		.soft_cap = op->f1,
		.dtype = KERN_DTYPE_F32,
		.q = q,
		.k = k,
		.v = k + (size_t)kv->kv_heads * kv->head_dim,
		.q_stride = stride,
		.k_stride = stride,
		.v_stride = stride,
		.o = workspace->slots[op->dst] + seq->row * workspace->stride[op->dst],
		.o_stride = workspace->stride[op->dst],
		.sinks = op->sinks,
		.rope = (enum kern_rope)op->u1,
		.rotated = op->u1 != KERN_ROPE_NONE ? op->u2 : 0,
		.rope_cos_sin = op->u1 != KERN_ROPE_NONE ?
			workspace->rope_cos_sin + (size_t)seq->row * workspace->rotated : NULL,
	};
}

static void raw_job(const struct kern_cpu *cpu, const struct kern_attend *item, struct cpu_attention_job *job)
{
	const struct kern_kv_geometry *kv = item->kv;
	const size_t heads = (size_t)kv->heads * kv->head_dim, kv_heads = (size_t)kv->kv_heads * kv->head_dim;

	*job = (struct cpu_attention_job){
		.isa = cpu->isa,
		.amx = cpu->amx,
		.kv = kv,
		.blocks = item->blocks,
		.layer = item->layer,
		.q_rows = item->q_rows,
		.kv_rows = item->kv_rows,
		.kv_position = item->kv_position,
		.q_position = item->q_position,
		.window = item->window,
		.causal = item->causal,
		.scale = item->scale,
		.soft_cap = item->soft_cap,
		.dtype = item->dtype,
		.q = item->q,
		.k = item->k,
		.v = item->v,
		.q_stride = heads,
		.k_stride = kv_heads,
		.v_stride = kv_heads,
		.o = item->o,
		.o_stride = heads,
		.lse = item->lse,
		.lse_stride = kv->heads,
		.sinks = item->sinks,
		.rope = KERN_ROPE_NONE,
	};
}

bool cpu_stage_step_attention(struct kern_cpu *cpu, const struct kern_step *step, const struct kern_op *op)
{
	const struct cpu_workspace *workspace = step->program->workspace;

	if (cpu->phase == CPU_ATTENTION_APPEND) {
		/* While shared blocks are sought, the jobs are there. */
		for (uint32_t i = 0; i < step->seq_count && cpu->sharing != CPU_SHARING_SOUGHT; i++)
			step_job(cpu, step, op, &step->seqs[i], &workspace->jobs[i]);
		if (cpu->sharing != CPU_SHARING_SOUGHT)
			take_jobs(cpu, workspace->jobs, workspace->first_unit, step->seq_count);
		if (!begin_attention(cpu))
			return true;
	}
	return next_phase(cpu);
}

bool cpu_stage_raw_attention(struct kern_cpu *cpu, const struct kern_attend *items, uint32_t count)
{
	if (cpu->phase == CPU_ATTENTION_APPEND) {
		for (uint32_t i = 0; i < count && cpu->sharing != CPU_SHARING_SOUGHT; i++)
			raw_job(cpu, &items[i], &cpu->attend_jobs[i]);
		if (cpu->sharing != CPU_SHARING_SOUGHT)
			take_jobs(cpu, cpu->attend_jobs, cpu->attend_first_unit, count);
		if (!begin_attention(cpu))
			return true;
	}
	return next_phase(cpu);
}
