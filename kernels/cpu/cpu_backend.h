/*
 * Inside the CPU backend: what its files share.
 *
 * How it works. A ticket's work is a sequence of *stages* (an operation is one stage, attention three or more), each cut into
 * *tiles* that are independent of each other. The participants, which are the owner while it is in poll and the workers,
 * run tiles. Whoever finishes the last tile of a stage holds *the right to advance*: it alone plans the next stage,
 * runs it itself where it is small, and publishes it to all where it is large. While nothing is in flight nobody holds
 * that right; submit takes it for the owner. Where the owner's budget ends inside a small stage, the owner keeps the
 * right until its next poll.
 *
 *     idle --submit--> advancing --publish--> shared --last tile--> advancing --no ticket left--> idle
 *
 * So a tiny step costs no atomic operation but those of submit and completion, and a long prefill never keeps the owner
 * in poll for longer than a slice and a tile.
 */
#ifndef CPU_BACKEND_H
#define CPU_BACKEND_H

#include <pthread.h>
#include <stdalign.h>
#include <stdatomic.h>

#include "base/base_arena.h"
#include "kernels/cpu/cpu_attention_batch.h"
#include "kernels/cpu/cpu_products.h"
#include "kernels/cpu/cpu_rows.h"
#include "kernels/kern_backend.h"

enum {
	CPU_TICKETS = 4,                /* in flight or not yet collected by poll; a power of two */
	CPU_WORKERS_MAX = 1024,
	CPU_SLICE_NS = 50 * 1000,       /* of estimated work that one poll does */
	CPU_SHARE_NS = 8 * 1000,        /* stages of less estimated work stay with one participant */
	CPU_TILE_NS = 6 * 1000,         /* tiles are at least so large where there are enough of them */
	CPU_TILE_MAX_NS = 40 * 1000,    /* and no larger than this where they can be cut */
	CPU_PARTIAL_BYTES = 8 << 20,    /* partial results of attention */
	CPU_LINE = 64,
	CPU_STAGE_PRODUCTS = 4,         /* at once */
	CPU_SHARES = 64,
	CPU_NO_TILE = INT32_MAX,
};

struct kern_cpu;
struct cpu_participant;

/* One of the products of a stage, and how it is cut. */
struct cpu_stage_product {
	struct cpu_product product;
	uint32_t tile_rows, tile_groups; /* of a tile */
	uint32_t group_tiles;            /* tiles side by side */
	uint32_t tiles;
};

/* One operation, one phase of attention, or products of the same rows, cut into tiles. */
struct cpu_stage {
	void (*run)(struct kern_cpu *cpu, uint32_t tile, struct cpu_participant *self);
	uint32_t tiles, tile_ns;
	const struct kern_op *op;
	uint32_t rows, tile_rows; /* in all; per tile */
	uint32_t span_pieces;     /* copies: tiles per span */
	uint32_t product_count;
	struct cpu_stage_product products[CPU_STAGE_PRODUCTS];
};

/* What is known of the work at hand's shared blocks: nothing, sought in slices, all. */
enum cpu_sharing { CPU_SHARING_UNKNOWN, CPU_SHARING_SOUGHT, CPU_SHARING_KNOWN };

/* A program's memory. Slots are [max_rows][stride] floats. */
struct cpu_workspace {
	float *slots[KERN_SLOTS_MAX];
	size_t stride[KERN_SLOTS_MAX];
	float *rope_cos_sin; /* [max_rows][rotated/2][2], of the step at hand; NULL: the program rotates nothing */
	uint32_t rotated;
	bool has_attention;
	struct cpu_rows8 rows8;         /* x of products with integer weights, of one slot at a time */
	struct cpu_attention_job *jobs; /* [max_rows] */
	uint32_t *first_unit;           /* [max_rows + 1] */
};

struct cpu_slot {
	struct kern_work work;
	int status; /* of the finished ticket: 1 or a negative errno */
};

/* A run of the published stage's tiles. Its participants take them from the front, so that they read weights on from where
 * they stand; who has none left takes from the back of others. */
struct cpu_share {
	/* Tiles that nobody has claimed yet: the first in the low half, the end in the high one. */
	alignas(CPU_LINE) _Atomic uint64_t tiles;
	/* Of the weights that come next: the first tile's, or 0. Only ever asked for, never read. */
	_Atomic uintptr_t ahead;
	_Atomic size_t ahead_bytes;
};

/* Where a share begins among `tiles`. */
static inline uint32_t cpu_share_first(uint32_t tiles, uint32_t share, uint32_t share_count)
{
	return (uint32_t)((uint64_t)tiles * share / share_count);
}

struct cpu_participant {
	alignas(CPU_LINE) struct kern_cpu *cpu;
	uint32_t share;
	uint32_t next_tile;     /* of the stage, that it is likely to run next; CPU_NO_TILE */
	uintptr_t share_ahead;  /* what of its share's `ahead` it has taken up */
	struct cpu_ahead ahead;
	void *scratch;
	int64_t budget_ns; /* the owner's runs out, a worker's does not */
	pthread_t thread;
};

struct cpu_chunk;

struct kern_cpu {
	struct kern_backend backend;
	const struct cpu_products *float_products, *integer_products;
	const struct cpu_rows *row_ops;
	enum base_isa isa;
	bool amx;
	double ns_per_byte, ns_per_product, ns_per_integer_product; /* of one participant */
	uint32_t worker_count, workers_started;
	uint32_t share_count; /* one per participant, as far as there are so many */
	uint64_t spin_ns;

	/* Counts published stages: what sleeping and spinning workers look at. */
	alignas(CPU_LINE) _Atomic uint32_t generation;
	struct cpu_share shares[CPU_SHARES];
	/* Tiles of the published stage that are not finished. */
	alignas(CPU_LINE) _Atomic uint32_t unfinished;
	alignas(CPU_LINE) _Atomic uint32_t sleepers;
	_Atomic bool stopping;
	/* Tickets that are submitted and not done; the number of the last one that is done. */
	alignas(CPU_LINE) _Atomic uint32_t pending;
	_Atomic uint64_t done;
	_Atomic int failure; /* of the ticket at hand: 0 or a negative errno */

	/* Belongs to the holder of the right to advance. */
	alignas(CPU_LINE) struct cpu_stage stage;
	uint32_t next_tile;
	bool active;            /* a ticket is at hand: number `done` + 1 */
	uint32_t cursor;        /* next operation */
	enum cpu_attention_phase phase; /* next one of attention */
	enum cpu_sharing sharing;
	struct cpu_attention_batch *batch;
	uint32_t step_rows;     /* rows that operations see: all, or the outputs after SELECT */
	bool rope_ready;
	const float *quantized; /* the slot whose rows the workspace holds as integers, or NULL */

	/* Belongs to the owner. */
	alignas(CPU_LINE) bool held; /* the owner holds the right to advance */
	uint64_t submitted, collected;
	struct cpu_slot slots[CPU_TICKETS];

	/* Below here is not touched per tile. */
	struct cpu_participant *participants; /* [0] is the owner */
	struct cpu_attention_job *attend_jobs; /* [KERN_ATTEND_MAX] */
	uint32_t *attend_first_unit;
	struct cpu_chunk *chunk; /* where small allocations come from */
	struct cpu_chunk *chunks; /* all */
	int node;
	size_t region_bytes; /* of the region that holds this struct */
	bool region_huge;
};

static inline struct kern_cpu *cpu_of(struct kern_backend *backend)
{
	return (struct kern_cpu *)backend;
}

static inline struct kern_work *cpu_work_at_hand(struct kern_cpu *cpu)
{
	uint64_t ticket = atomic_load_explicit(&cpu->done, memory_order_relaxed) + 1;

	return &cpu->slots[ticket % CPU_TICKETS].work;
}

static inline const struct cpu_products *cpu_products_of(const struct kern_cpu *cpu, const struct kern_weight *weight)
{
	return weight->integers ? cpu->integer_products : cpu->float_products;
}

/* cpu_memory.c: memory and weights. */
void *cpu_alloc(struct kern_backend *backend, size_t bytes, const char *what);
void cpu_memory_visit(struct kern_backend *backend,
	void (*visit)(void *context, const void *memory, size_t bytes, bool huge), void *context);
void cpu_free(struct kern_backend *backend, void *memory);
int cpu_weight_create(struct kern_backend *backend, enum kern_type type, uint32_t n, uint32_t k, const void *source,
	struct kern_weight **weight);
void cpu_weight_destroy(struct kern_backend *backend, struct kern_weight *weight);

/* cpu_program.c: what may run at all. */
int cpu_program_prepare(struct kern_backend *backend, struct kern_program *program);
void cpu_program_release(struct kern_backend *backend, struct kern_program *program);
/* -EINVAL for work that would leave the memory it was given. */
int cpu_work_check(const struct kern_work *work);

/* cpu_stage.c: fills cpu->stage with the next stage of the work at hand that has tiles; false when there is none. */
void cpu_stage_begin(struct kern_cpu *cpu);
bool cpu_stage_next(struct kern_cpu *cpu);
/* Cuts `rows` into tiles of whole rows. */
void cpu_stage_cut_rows(struct kern_cpu *cpu, uint32_t rows, double row_ns);
/* A stage that is one tile. */
void cpu_stage_whole(struct kern_cpu *cpu, double ns);

/* cpu_stage_product.c: a product of step_rows rows; first x is quantized where the weight wants that and nobody did. */
/* The first of `count` operations, and those behind it that may run at once; returns how many. */
uint32_t cpu_stage_matmul(struct kern_cpu *cpu, const struct kern_op *ops, uint32_t count);
void cpu_stage_logits(struct kern_cpu *cpu, const struct kern_op *op);
/* Whether the operation must wait for its x to be quantized; then that is the stage. */
bool cpu_stage_quantize(struct kern_cpu *cpu, const struct kern_op *op);
/* The operation is about to be planned: what it writes is no longer what was quantized. */
void cpu_stage_forget_quantized(struct kern_cpu *cpu, const struct kern_op *op);
/* Tells each share where the weights begin that it will read in the next stage of products. */
void cpu_stage_ahead(struct kern_cpu *cpu);
uint32_t cpu_stage_cost_ns(double ns);

/* cpu_stage_attention.c: the next phase of attention that has tiles, or a slice of the search for shared blocks; false: the
 * operation has no further stage. */
bool cpu_stage_step_attention(struct kern_cpu *cpu, const struct kern_step *step, const struct kern_op *op);
bool cpu_stage_raw_attention(struct kern_cpu *cpu, const struct kern_attend *items, uint32_t count);

/* From here on self asks for the first weights that its share will read in the next stage of products. */
static inline void cpu_share_want(const struct kern_cpu *cpu, struct cpu_participant *self)
{
	const struct cpu_share *share = &cpu->shares[self->share];
	const uintptr_t ahead = atomic_load_explicit(&share->ahead, memory_order_relaxed);

	if (self->share_ahead == ahead)
		return;
	self->share_ahead = ahead;
	cpu_ahead_want_one(&self->ahead, (const void *)ahead,
		ahead == 0 ? 0 : atomic_load_explicit(&share->ahead_bytes, memory_order_relaxed));
}

/* cpu_execute.c */
int cpu_submit(struct kern_backend *backend, const struct kern_work *work, kern_ticket *ticket);
int cpu_poll(struct kern_backend *backend, kern_ticket ticket);
int cpu_workers_start(struct kern_cpu *cpu, const struct kern_cpu_options *options);
void cpu_workers_stop(struct kern_cpu *cpu);

/* A tile that cannot do its work fails its batch. */
static inline void cpu_fail(struct kern_cpu *cpu, int err)
{
	/* Relaxed: the completion of the tile orders it before the holder's read in ticket_finish. */
	atomic_store_explicit(&cpu->failure, -err, memory_order_relaxed);
}

#endif
