/*
 * Attention as stages: one job per session, the units of all jobs in a row as tiles. Jobs are built when the first phase
 * is planned, by the holder of the right to advance.
 */
#include "kernels/cpu/cpu_backend.h"

static void run_units(struct kern_cpu *cpu, uint32_t tile, void *scratch)
{
	const struct cpu_stage *stage = &cpu->stage;
	uint32_t low = 0, high = stage->job_count;

	/* The last job whose first unit is not behind the tile. */
	while (high - low > 1) {
		const uint32_t middle = low + (high - low) / 2;

		if (stage->first_unit[middle] <= tile)
			low = middle;
		else
			high = middle;
	}
	cpu_attention_run(&stage->jobs[low], stage->phase, tile - stage->first_unit[low], scratch);
}

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

static double phase_ns(const struct kern_cpu *cpu, const struct cpu_attention_job *job, enum cpu_attention_phase phase)
{
	const struct kern_kv_geometry *kv = job->kv;
	double pairs, compute_ns, read_ns;

	if (phase == CPU_ATTENTION_APPEND)
		return (double)job->kv_rows * kv->kv_heads * kv->head_dim * (append_element_ns(kv->k) + append_element_ns(kv->v));
	if (phase == CPU_ATTENTION_MERGE)
		return (double)job->q_rows * kv->heads * kv->head_dim;
	pairs = visible_pairs(job);
	compute_ns = pairs * kv->heads * (2.0 * kv->head_dim + 16.0) * 2.0 * cpu->ns_per_product;
	read_ns = pairs / job->q_rows * kv->kv_heads * (double)(kv->page_bytes[1] / KERN_PAGE_TOKENS) * cpu->ns_per_byte;
	return compute_ns > read_ns ? compute_ns : read_ns;
}

static void plan_phase(struct kern_cpu *cpu, struct cpu_attention_job *jobs, uint32_t count, uint32_t *first_unit,
	enum cpu_attention_phase phase)
{
	struct cpu_stage *stage = &cpu->stage;
	double ns = 0.0;

	first_unit[0] = 0;
	for (uint32_t i = 0; i < count; i++) {
		first_unit[i + 1] = first_unit[i] + jobs[i].units[phase];
		if (jobs[i].units[phase] > 0)
			ns += phase_ns(cpu, &jobs[i], phase);
	}
	stage->run = run_units;
	stage->jobs = jobs;
	stage->job_count = count;
	stage->first_unit = first_unit;
	stage->phase = phase;
	stage->tiles = first_unit[count];
	if (stage->tiles > 0) {
		ns /= stage->tiles;
		stage->tile_ns = ns < 1.0 ? 1 : ns > 1e9 ? (uint32_t)1e9 : (uint32_t)ns;
	}
}

/* Cuts the jobs; room for partial results goes to those who come first. */
static void plan_jobs(struct kern_cpu *cpu, struct cpu_attention_job *jobs, uint32_t count)
{
	unsigned char *partial = cpu->partial;
	size_t left_bytes = CPU_PARTIAL_BYTES;

	for (uint32_t i = 0; i < count; i++) {
		const size_t taken = cpu_attention_plan(&jobs[i], cpu->worker_count + 1, partial, left_bytes);

		partial += taken;
		left_bytes -= taken;
	}
}

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

void cpu_stage_step_attention(struct kern_cpu *cpu, const struct kern_step *step, const struct kern_op *op,
	enum cpu_attention_phase phase)
{
	const struct cpu_workspace *workspace = step->program->workspace;

	if (phase == CPU_ATTENTION_APPEND) {
		for (uint32_t i = 0; i < step->seq_count; i++)
			step_job(cpu, step, op, &step->seqs[i], &workspace->jobs[i]);
		plan_jobs(cpu, workspace->jobs, step->seq_count);
	}
	plan_phase(cpu, workspace->jobs, step->seq_count, workspace->first_unit, phase);
}

void cpu_stage_raw_attention(struct kern_cpu *cpu, const struct kern_attend *items, uint32_t count,
	enum cpu_attention_phase phase)
{
	if (phase == CPU_ATTENTION_APPEND) {
		for (uint32_t i = 0; i < count; i++)
			raw_job(cpu, &items[i], &cpu->attend_jobs[i]);
		plan_jobs(cpu, cpu->attend_jobs, count);
	}
	plan_phase(cpu, cpu->attend_jobs, count, cpu->attend_first_unit, phase);
}
