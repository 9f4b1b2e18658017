/*
 * Which jobs of a batch read the same blocks. Sessions that were forked have the same blocks at the beginning of their
 * lists; what they all see of these is read once for all of them (cpu_attention_batch.h).
 *
 * The block lists are put into a tree, split by split: a node is a run of splits whose blocks are the same for all jobs below
 * it. Blocks are compared by their addresses, every one of them, and from the first on; nothing is assumed about how lists come
 * about. It is done once for a step, whatever the number of layers, and in slices: jobs times blocks may be many.
 *
 * Whoever plans the batch calls this; one thread at a time. No allocation, no lock. The jobs and their block lists stay as they
 * are from begin to the last slice.
 */
#ifndef CPU_ATTENTION_SHARE_H
#define CPU_ATTENTION_SHARE_H

#include "kernels/cpu/cpu_attention.h"

enum {
	CPU_ATTENTION_SHARERS = 512, /* jobs that are looked at; those behind them are attended to by themselves */
	CPU_ATTENTION_SHARE_NODES = 2 * CPU_ATTENTION_SHARERS + 1,
	CPU_ATTENTION_SHARE_TABLE = 4 * CPU_ATTENTION_SHARERS, /* a power of two */
	CPU_ATTENTION_SHARE_NS = 10 * 1000, /* about what a slice takes */
};

/* Members share the blocks of splits begin <= split < end, and those of all splits before. */
struct cpu_attention_group { uint32_t first, count, begin, end; };

struct cpu_attention_member {
	uint32_t job;
	uint32_t rows_before; /* query rows of the members before it */
	uint32_t shared_end;  /* it shares the splits before this one; 0: none */
};

struct cpu_attention_share_node {
	uint32_t parent, begin, end;
	uint32_t candidate; /* whose blocks they are */
	uint32_t child, sibling, ended; /* for the walk: nodes below, candidates that end here */
	uint32_t first, count;          /* of the members */
};

struct cpu_attention_share {
	/* The result. A group's members follow each other, from `first` on. There is one member more than member_count says, for
	 * its rows_before. */
	uint32_t group_count, member_count;
	struct cpu_attention_group groups[CPU_ATTENTION_SHARERS];
	struct cpu_attention_member members[CPU_ATTENTION_SHARERS + 1];

	/* Below here: how it is found. */
	const struct cpu_attention_job *jobs;
	uint32_t candidate_count, node_count;
	struct { uint32_t job, splits, node, next; } candidates[CPU_ATTENTION_SHARERS];
	struct cpu_attention_share_node nodes[CPU_ATTENTION_SHARE_NODES];
	uint16_t table[CPU_ATTENTION_SHARE_TABLE]; /* nodes by their parent and first blocks; 0: none */
	/* The candidate at hand has gone down to `at`, below `node`, and maybe into `edge`, which the table has in `slot`. */
	uint32_t at_hand, node, edge, slot, at;
};

/* The jobs are cut. False: none can share anything, and the result is there. */
bool cpu_attention_share_begin(struct cpu_attention_share *share, const struct cpu_attention_job *jobs, uint32_t count);

/* One slice. True: that was the last one. */
bool cpu_attention_share_advance(struct cpu_attention_share *share);

#endif
