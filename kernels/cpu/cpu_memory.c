/*
 * Memory of the CPU backend, on its NUMA node: large requests get a region (huge pages where there are any) of their
 * own, small ones share regions. Every allocation is 64-byte aligned, zeroed and touched, so that no request pays for a page
 * fault. Owner's thread, at start and load only.
 *
 * A shared region is given back when its last allocation is freed; space inside it is not used again before that.
 */
#include <string.h>

#include "base/base_error.h"
#include "kernels/cpu/cpu_backend.h"

enum { CHUNK_BYTES = 2 << 20, SHARED_BYTES_MAX = 256 << 10 };

/* At the start of its region. */
struct cpu_chunk {
	struct base_region region;
	size_t used_bytes;
	uint32_t live;
	struct cpu_chunk *next, *previous; /* of all */
};

/* Before every allocation, one line long. */
struct allocation {
	struct cpu_chunk *chunk;
	unsigned char pad[CPU_LINE - sizeof(struct cpu_chunk *)];
};

_Static_assert(sizeof(struct cpu_chunk) <= CPU_LINE, "the first allocation begins on the second line");

static size_t round_up(size_t bytes)
{
	return (bytes + CPU_LINE - 1) / CPU_LINE * CPU_LINE;
}

static struct cpu_chunk *chunk_create(struct kern_cpu *cpu, size_t bytes)
{
	struct base_region region;
	struct cpu_chunk *chunk;

	if (base_region_create(&region, bytes, cpu->node, true) != 0)
		return NULL;
	chunk = region.memory;
	*chunk = (struct cpu_chunk){.region = region, .used_bytes = CPU_LINE, .next = cpu->chunks};
	if (cpu->chunks)
		cpu->chunks->previous = chunk;
	cpu->chunks = chunk;
	return chunk;
}

static void chunk_drop(struct kern_cpu *cpu, struct cpu_chunk *chunk)
{
	struct base_region region;

	if (--chunk->live > 0)
		return;
	if (chunk == cpu->chunk)
		cpu->chunk = NULL;
	if (chunk->next)
		chunk->next->previous = chunk->previous;
	if (chunk->previous)
		chunk->previous->next = chunk->next;
	else
		cpu->chunks = chunk->next;
	region = chunk->region;
	base_region_destroy(&region);
}

void *cpu_alloc(struct kern_backend *backend, size_t bytes, const char *what)
{
	struct kern_cpu *cpu = cpu_of(backend);
	struct allocation *allocation;
	struct cpu_chunk *chunk;
	size_t need;

	if (bytes == 0 || bytes > SIZE_MAX / 4) {
		base_fail(EINVAL, "%s: a request for %zu bytes of memory", what, bytes);
		return NULL;
	}
	need = sizeof(*allocation) + round_up(bytes);
	chunk = cpu->chunk;
	if (need > SHARED_BYTES_MAX) {
		chunk = chunk_create(cpu, CPU_LINE + need);
	} else if (!chunk || chunk->region.size_bytes - chunk->used_bytes < need) {
		chunk = chunk_create(cpu, CHUNK_BYTES);
		if (chunk)
			cpu->chunk = chunk;
	}
	if (!chunk) {
		base_fail_within(ENOMEM, "%s", what);
		return NULL;
	}
	allocation = (struct allocation *)(void *)((unsigned char *)chunk + chunk->used_bytes);
	allocation->chunk = chunk;
	chunk->used_bytes += need;
	chunk->live++;
	return allocation + 1;
}

void cpu_free(struct kern_backend *backend, void *memory)
{
	if (memory)
		chunk_drop(cpu_of(backend), ((struct allocation *)memory - 1)->chunk);
}

void cpu_memory_visit(struct kern_backend *backend,
	void (*visit)(void *context, const void *memory, size_t bytes, bool huge), void *context)
{
	for (const struct cpu_chunk *chunk = cpu_of(backend)->chunks; chunk; chunk = chunk->next)
		visit(context, chunk->region.memory, chunk->region.size_bytes, chunk->region.huge);
}

int cpu_weight_create(struct kern_backend *backend, enum kern_type type, uint32_t n, uint32_t k, const void *source,
	struct kern_weight **weight)
{
	const struct kern_cpu *cpu = cpu_of(backend);
	const struct cpu_products *products = cpu_weight_integers(type) ? cpu->integer_products : cpu->float_products;
	struct kern_weight shape;
	int err = cpu_weight_shape(&shape, type, n, k, products->lanes);

	if (err != 0)
		return err;
	*weight = cpu_alloc(backend, sizeof(shape), "a weight");
	if (!*weight)
		return -ENOMEM;
	shape.data = cpu_alloc(backend, cpu_weight_bytes(&shape), "a weight");
	if (!shape.data) {
		cpu_free(backend, *weight);
		*weight = NULL;
		return -ENOMEM;
	}
	cpu_weight_pack(&shape, source);
	**weight = shape;
	return 0;
}

void cpu_weight_destroy(struct kern_backend *backend, struct kern_weight *weight)
{
	if (!weight)
		return;
	cpu_free(backend, weight->data);
	cpu_free(backend, weight);
}
