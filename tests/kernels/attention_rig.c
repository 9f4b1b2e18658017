/*
 * Pages, jobs and inputs for the tests of attention. See attention_rig.h.
 */
#include "tests/kernels/attention_rig.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/base_assert.h"
#include "kernels/cpu/cpu_products.h"

enum { GUARD_BYTES = 4096 };

static size_t pages_of(size_t bytes)
{
	return (bytes + GUARD_BYTES - 1) / GUARD_BYTES * GUARD_BYTES;
}

void *guarded_alloc(size_t bytes)
{
	size_t whole = pages_of(bytes);
	unsigned char *memory = mmap(NULL, whole + GUARD_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	BASE_ASSERT(memory != MAP_FAILED);
	BASE_ASSERT(mprotect(memory + whole, GUARD_BYTES, PROT_NONE) == 0);
	return memory + whole - bytes;
}

void guarded_free(void *memory, size_t bytes)
{
	size_t whole = pages_of(bytes);

	munmap((unsigned char *)memory + bytes - whole, whole + GUARD_BYTES);
}

static uint64_t next_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

void fill_normal(float *to, size_t n, uint64_t seed)
{
	uint64_t state = seed;

	for (size_t i = 0; i < n; i++) {
		double u = ((double)(next_random(&state) >> 11) + 0.5) * 0x1p-53;
		double angle = (double)(next_random(&state) >> 11) * 0x1p-53 * 6.283185307179586;

		to[i] = (float)(sqrt(-2 * log(u)) * cos(angle));
	}
}

void *new_zeroed(size_t bytes)
{
	void *memory = calloc(1, bytes);

	BASE_ASSERT(memory != NULL);
	return memory;
}

float *new_normal(size_t n, uint64_t seed)
{
	float *values = new_zeroed(n * sizeof(*values));

	fill_normal(values, n, seed);
	return values;
}

uint32_t attention_isas(enum base_isa isas[3])
{
	const struct base_cpu *cpu = base_cpu();
	uint32_t count = 0;

	isas[count++] = BASE_ISA_SCALAR;
	if (cpu->isa >= BASE_ISA_AVX2)
		isas[count++] = BASE_ISA_AVX2;
	if (cpu->isa >= BASE_ISA_AVX512 && cpu->avx512_vnni)
		isas[count++] = BASE_ISA_AVX512;
	return count;
}

void attention_rig_open(struct attention_rig *rig, struct attention_shape shape, uint32_t layers, uint32_t max_tokens)
{
	*rig = (struct attention_rig){
		.isa = base_cpu()->isa,
		.amx = cpu_products_amx() != NULL,
		.participants = 1,
		.causal = true,
		.scale = 1.0f / sqrtf((float)shape.head_dim),
		.partial_bytes = 32u << 20,
		.kv = {
			.layers = layers, .heads = shape.heads, .kv_heads = shape.kv_heads, .head_dim = shape.head_dim,
			.k = shape.k, .v = shape.v,
		},
	};
	BASE_ASSERT(kern_kv_init(&rig->kv) == 0);
	rig->block_count = kern_kv_blocks(&rig->kv, max_tokens + 1);
	rig->blocks = new_zeroed(rig->block_count * sizeof(*rig->blocks));
	for (uint32_t i = 0; i < rig->block_count; i++)
		rig->blocks[i] = guarded_alloc(rig->kv.block_bytes[i > 0]);
	rig->scratch = guarded_alloc(cpu_attention_scratch_bytes());
	rig->partial = guarded_alloc(rig->partial_bytes);
}

void attention_rig_close(struct attention_rig *rig)
{
	for (uint32_t i = 0; i < rig->block_count; i++)
		guarded_free(rig->blocks[i], rig->kv.block_bytes[i > 0]);
	guarded_free(rig->scratch, cpu_attention_scratch_bytes());
	guarded_free(rig->partial, 32u << 20);
	free(rig->blocks);
}

/* Every unit once: in turn for seed 0, else shuffled. */
static void run_phase(const struct attention_rig *rig, const struct cpu_attention_job *job,
	enum cpu_attention_phase phase)
{
	const uint32_t units = job->units[phase];
	uint32_t *order = new_zeroed((units + 1) * sizeof(*order));
	uint64_t state = rig->order;

	for (uint32_t i = 0; i < units; i++)
		order[i] = i;
	for (uint32_t i = units; rig->order != 0 && i > 1; i--) {
		uint32_t other = (uint32_t)(next_random(&state) % i), last = order[i - 1];

		order[i - 1] = order[other];
		order[other] = last;
	}
	for (uint32_t i = 0; i < units; i++)
		cpu_attention_run(job, phase, order[i], rig->scratch);
	free(order);
}

void attention_rig_run(const struct attention_rig *rig, uint32_t kv_position, uint32_t kv_rows, const void *k,
	const void *v, uint32_t q_position, uint32_t q_rows, const void *q, void *o, float *lse)
{
	const size_t q_width = (size_t)rig->kv.heads * rig->kv.head_dim, kv_width = (size_t)rig->kv.kv_heads * rig->kv.head_dim;
	struct cpu_attention_job job = {
		.isa = rig->isa, .amx = rig->amx, .kv = &rig->kv, .blocks = rig->blocks, .layer = rig->layer,
		.q_rows = q_rows, .kv_rows = kv_rows, .kv_position = kv_position, .q_position = q_position,
		.window = rig->window, .causal = rig->causal, .scale = rig->scale, .soft_cap = rig->soft_cap, .sinks = rig->sinks,
		.dtype = rig->dtype, .q = q, .k = k, .v = v,
		.q_stride = q_width, .k_stride = kv_width, .v_stride = kv_width,
		.o = o, .o_stride = q_width, .lse = lse, .lse_stride = rig->kv.heads,
		.rope = rig->rope, .rotated = rig->rotated,
		.rope_cos_sin = rig->rope_cos_sin == NULL ? NULL : rig->rope_cos_sin + (size_t)q_position * rig->rotated,
	};

	cpu_attention_slice(&job);
	do {
		size_t taken = cpu_attention_plan(&job, rig->participants, rig->partial, rig->partial_bytes);

		BASE_ASSERT(taken <= rig->partial_bytes && taken % 64 == 0);
		for (enum cpu_attention_phase phase = 0; phase < CPU_ATTENTION_PHASES; phase++) {
			if (phase == CPU_ATTENTION_MERGE && rig->before_merge != NULL)
				rig->before_merge(&job);
			run_phase(rig, &job, phase);
		}
	} while (cpu_attention_slice_next(&job));
}

void attention_rig_step(const struct attention_rig *rig, uint32_t position, uint32_t rows, const float *q,
	const float *k, const float *v, float *o, float *lse)
{
	const size_t q_width = (size_t)rig->kv.heads * rig->kv.head_dim, kv_width = (size_t)rig->kv.kv_heads * rig->kv.head_dim;

	attention_rig_run(rig, position, rows, k + position * kv_width, v + position * kv_width, position, rows,
		q + position * q_width, o + position * q_width, lse == NULL ? NULL : lse + (size_t)position * rig->kv.heads);
}
