/*
 * The one door to compute: a backend is a table of functions (properties, memory, weights, submit, poll), and work is
 * plain structs. The CPU backend (kernels/cpu), later CUDA (kernels/cuda), and the simulator's modelled device
 * (tests) stand behind it; model and sched know nothing else.
 *
 * Thread rule: one thread, the owner, calls all functions of one backend. Work is asynchronous: submit returns a
 * ticket at once, poll makes progress (on the CPU it computes a bounded slice in the caller) and says when it is done.
 * At least two tickets may be in flight; they complete in order of submission.
 *
 * Bits: a row's result depends on that row's session alone (its tokens, its cache) - not on the other rows of the batch, not on
 * how a prefill was cut, not on the number of workers.
 *
 * Errors belong to a batch: poll returns a negative errno for that ticket, and the backend lives on.
 */
#ifndef KERN_BACKEND_H
#define KERN_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/kern_kv.h"
#include "kernels/kern_type.h"

/* ---- programs: a model's forward pass as a flat list of operations ------------------------------------------ */

/* Activations live in numbered slots, each [rows][width] float32, owned by the program's workspace. */
enum { KERN_SLOTS_MAX = 16 };

/* In a step's tokens: the low bits name an output row of the previous step, not a token id. */
#define KERN_TOKEN_FROM_STEP 0x80000000u

enum kern_op_kind {
	KERN_OP_EMBED,    /* dst[r] = row tokens[r] of weight (times f0), or the caller's embedding row */
	KERN_OP_RMSNORM,  /* dst = src * rsqrt(mean(src^2) + f0) * gain */
	KERN_OP_LAYERNORM,/* dst = (src - mean) * rsqrt(var + f0) * gain + bias */
	KERN_OP_MATMUL,   /* dst[u0..u0+n) = src * weight^T (+ bias[n]); add: dst += */
	KERN_OP_HEADNORM, /* in place on src: RMSNORM of each head of u0 elements, heads u1..u1+u2; gain[u0], f0 eps (Qwen3) */
	KERN_OP_ATTENTION,/* src: fused q|k|v rows; rope, append to the cache, attend; dst: heads*head_dim */
	KERN_OP_SILU_MUL, /* dst = silu(src) * src2 */
	KERN_OP_GELU,     /* dst = gelu(src) (exact, erf) */
	KERN_OP_ADD,      /* dst += src */
	KERN_OP_SELECT,   /* keep only the batch's output rows: dst[i] = src[out[i].row]; later ops see out_rows rows */
	KERN_OP_HIDDEN,   /* hand src to the batch's hidden destinations */
	KERN_OP_LOGITS,   /* src * weight^T to the batch's logits destinations */
};

enum kern_rope { KERN_ROPE_NONE, KERN_ROPE_PAIRS, KERN_ROPE_HALVES }; /* (x0,x1) interleaved; (x0,x[d/2]) as in NeoX */

struct kern_weight; /* backend's own: repacked, on its device */

struct kern_op {
	enum kern_op_kind kind;
	uint8_t src, src2, dst; /* slots */
	bool add;
	const struct kern_weight *weight; /* EMBED, MATMUL, LOGITS */
	const float *gain, *bias;         /* backend memory (see table: alloc) */
	uint32_t u0, u1, u2;              /* ATTENTION: u0 layer, u1 enum kern_rope, u2 rotated dims; MATMUL: u0 dst's
	                                   * first column (0, but for q, k, v of different types into one slot) */
	float f0, f1;                     /* ATTENTION: f0 scale, f1 soft cap */
	uint32_t window;                  /* ATTENTION: sliding window, 0 none */
	const float *sinks;               /* ATTENTION: [heads], backend memory, or NULL: see kern_attend */
};

struct kern_program {
	uint32_t op_count, slot_count;
	const struct kern_op *ops;
	uint32_t slot_width[KERN_SLOTS_MAX];
	uint32_t vocab, width;
	struct kern_kv_geometry kv;      /* heads, dims; a session brings its own formats */
	const float *rope_inverse_freq;  /* [rotated/2], host memory of the model; includes scaling of long contexts */
	float rope_magnitude;            /* multiplies cos and sin (YaRN); 1 otherwise */
	uint32_t max_rows, max_out_rows; /* the workspace is sized by these */
	void *workspace;                 /* backend's, from program_prepare */
};

/* ---- a step: one batch through a program ---------------------------------------------------------------------- */

struct kern_seq {
	uint32_t row, rows;     /* its rows in the batch, consecutive */
	uint32_t position;      /* of its first row */
	unsigned char *const *blocks; /* block table, of kern_kv_blocks(kv, position + rows); backend memory */
	const struct kern_kv_geometry *kv;
};

struct kern_out {
	uint32_t row;
	float *logits; /* [vocab]; NULL: not wanted. May be a client's memory: written once, never read back */
	float *hidden; /* [width]; NULL: not wanted */
};

struct kern_step {
	const struct kern_program *program;
	uint32_t rows, seq_count, out_count;
	const uint32_t *tokens;         /* [rows]; already validated. KERN_TOKEN_FROM_STEP | row: the sample that the
	                                 * previous step's output `row` drew, where the backend samples (properties) */
	const float *const *embeddings; /* NULL, or per row a client's embedding row (read once) or NULL */
	const struct kern_seq *seqs;    /* ordered by row, covering all rows */
	const struct kern_out *outs;    /* ordered by row */
};

/* ---- raw attention --------------------------------------------------------------------------------------------- */

enum kern_dtype { KERN_DTYPE_F32 = 0, KERN_DTYPE_F16 = 1, KERN_DTYPE_BF16 = 2 }; /* the contract's numbers */

struct kern_attend {
	const struct kern_kv_geometry *kv;
	unsigned char *const *blocks; /* as in kern_seq; those ahead of all tokens may be NULL where nothing is appended */
	uint32_t layer;
	uint32_t q_rows, kv_rows;
	uint32_t kv_position;  /* where the new K, V rows go; the layer holds kv_position + kv_rows tokens afterwards */
	uint32_t q_position;
	bool causal;
	uint32_t window;       /* 0 none */
	float scale, soft_cap; /* soft_cap 0: off */
	enum kern_dtype dtype;
	const void *q, *k, *v; /* a client's memory: each element is read once, any bit pattern is safe */
	void *o;               /* a client's memory: written, never read */
	float *lse;            /* NULL: not wanted */
	const float *sinks;    /* [heads] or NULL: attention sinks, a learned logit per head that belongs to no key and takes
	                        * its share of the softmax (Agarwal et al., gpt-oss, 2025); lse includes them */
};

/* ---- the table --------------------------------------------------------------------------------------------------- */

enum kern_work_kind { KERN_WORK_STEP, KERN_WORK_ATTEND, KERN_WORK_ZERO, KERN_WORK_COPY };

struct kern_span { unsigned char *to; const unsigned char *from; size_t bytes; };

/* Most items of one KERN_WORK_ATTEND. */
enum { KERN_ATTEND_MAX = 512 };

/* Everything a work struct points to stays valid until its ticket is done. */
struct kern_work {
	enum kern_work_kind kind;
	union {
		struct kern_step step;
		struct { const struct kern_attend *items; uint32_t count; } attend; /* different sessions */
		struct { const struct kern_span *spans; uint32_t count; } copy;     /* ZERO ignores from */
	};
};

struct kern_properties {
	const char *name;       /* "cpu avx512", ... for people */
	uint32_t workers;       /* besides the caller of poll */
	bool samples_on_device; /* understands KERN_TOKEN_FROM_STEP */
	bool host_memory;       /* its memory can be read and written by the host */
	/* First guesses for cost prediction, measured at start; integer products are those with quantized weights, 0: as others. */
	double bytes_per_second, products_per_second, integer_products_per_second;
};

typedef uint64_t kern_ticket;

struct kern_backend {
	const struct kern_backend_ops *ops;
	struct kern_properties properties;
};

struct kern_backend_ops {
	/* Device memory on the backend's node, zeroed. NULL with a message. Start and load only. */
	void *(*alloc)(struct kern_backend *, size_t bytes, const char *what);
	void (*free)(struct kern_backend *, void *memory);
	/* Shows every region that alloc has taken from the system (weights, caches, workspaces), to verify on which
	 * node it lies. Constant while nothing is allocated; any thread then. NULL where memory is not the host's. */
	void (*memory_visit)(struct kern_backend *, void (*visit)(void *context, const void *memory, size_t bytes, bool huge),
		void *context);
	/* Makes client memory reachable for the device's copy engines. 0 where nothing is needed. */
	int (*register_memory)(struct kern_backend *, void *memory, size_t bytes);
	void (*unregister_memory)(struct kern_backend *, void *memory);

	/* A matrix [n][k] in file format, n output features: repacked for this device. -ENOTSUP, -ENOMEM with a message. The
	 * source may be released afterwards. */
	int (*weight_create)(struct kern_backend *, enum kern_type type, uint32_t n, uint32_t k, const void *source,
		struct kern_weight **weight);
	void (*weight_destroy)(struct kern_backend *, struct kern_weight *weight);

	/* Checks the program (slots, widths, shapes) and takes its workspace. -EINVAL, -ENOMEM with a message. */
	int (*program_prepare)(struct kern_backend *, struct kern_program *program);
	void (*program_release)(struct kern_backend *, struct kern_program *program);

	/* -EAGAIN when too many are in flight. No allocation, no lock, no system call besides waking sleeping workers. */
	int (*submit)(struct kern_backend *, const struct kern_work *work, kern_ticket *ticket);
	/* Makes bounded progress (at most about 50 us of compute) and returns 1: done, 0: not yet, < 0: the batch failed. */
	int (*poll)(struct kern_backend *, kern_ticket ticket);

	void (*destroy)(struct kern_backend *);
};

/* ---- the CPU backend ---------------------------------------------------------------------------------------------- */

struct kern_cpu_options {
	size_t struct_bytes;
	uint32_t workers;           /* threads besides the caller of poll; 0: all inline */
	const uint32_t *worker_pus; /* [workers] processors to bind to, or NULL: unbound */
	int node;                   /* NUMA node of memory; -1 any */
	uint32_t spin_us;           /* a worker spins so long before it sleeps */
	bool fixed_priority;        /* SCHED_FIFO for workers where allowed */
	bool measure;               /* measure properties' rates (about 20 ms) */
};

/* *backend is freed by ops->destroy. -errno with a message. */
int kern_cpu_create(struct kern_backend **backend, const struct kern_cpu_options *options);

#endif
