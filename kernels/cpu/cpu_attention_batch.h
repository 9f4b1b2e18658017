/*
 * Jobs of attention that run together: their units side by side, phase by phase, and the splits that several of them share.
 *
 * Sharing. A split whose blocks are the same for several jobs (cpu_attention_share.h), and that all their rows see to its ends,
 * is attended to for all of them at once: a tile holds the query vectors of several jobs, and each job gets its partial
 * results from it. A query vector's bits do not depend on which others are in its tile, and a job merges its parts in the same
 * order as ever; so sharing is never seen in a result.
 *
 * Rounds. A job's partial results need room for every split. Where there is not enough, all jobs go through their splits in
 * rounds of as many as there is room for: APPEND, then ATTEND and MERGE for each round.
 *
 * Slices. Jobs whose rows go page by page (cpu_attention.h) have theirs in turn, each with all phases of all rounds. Jobs share
 * in the first one alone; only those with many rows have others.
 *
 * Use, by whoever holds the right to plan: fill in the jobs; cut; once for a step seek what they share; then plan, and go through
 * the phases of each round: all units of a phase are run, on any threads, before the next one begins. No allocation, no lock.
 * Planning takes time by the number of jobs and groups alone.
 */
#ifndef CPU_ATTENTION_BATCH_H
#define CPU_ATTENTION_BATCH_H

#include "kernels/cpu/cpu_attention_share.h"

/* The units in which a group's members attend to what they share, in the round at hand. */
struct cpu_attention_together {
	uint32_t first_unit;
	uint32_t begin, splits;
	uint32_t rows, chunk_rows, chunks; /* query rows of all members; of a tile; tiles side by side */
};

struct cpu_attention_batch {
	/* Given once. */
	unsigned char *partial; /* room for partial results, 64-byte aligned */
	size_t partial_bytes;
	uint32_t participants; /* threads that may share the work, at least 1 */

	/* Given for each batch. */
	struct cpu_attention_job *jobs;
	uint32_t *first_unit; /* room for [count + 1] */
	uint32_t count;
	bool later_slice; /* than the first */

	/* Found once for a batch; see cpu_attention_batch_seek. */
	struct cpu_attention_share share;

	/* The round and the phase at hand. */
	enum cpu_attention_phase phase;
	uint32_t round_end, round_splits; /* round_splits: UINT32_MAX where all fit into one */
	uint32_t shared_units;            /* of the phase; the jobs' own follow */
	struct cpu_attention_together together[CPU_ATTENTION_SHARERS]; /* [share.group_count] */

	/* Pages of a KV head that units of ATTEND go through at most, of all rounds up to this one: what is read where no cache
	 * helps. */
	uint64_t page_visits;
};

/* Cuts the jobs, or their first slices. */
void cpu_attention_batch_cut(struct cpu_attention_batch *batch);

/* What the jobs share. It stays as it is for further batches of the same jobs in other layers: sessions, rows and positions. False:
 * there is nothing to be found, else slices of batch.share follow. */
bool cpu_attention_batch_seek(struct cpu_attention_batch *batch);

/* Gives out the room and begins the first round. */
void cpu_attention_batch_plan(struct cpu_attention_batch *batch);

/* Begins the next round; false: that was the last. */
bool cpu_attention_batch_next_round(struct cpu_attention_batch *batch);

/* Goes on to the next slice of the jobs that have one, and begins its first round; false: that was the last. */
bool cpu_attention_batch_next_slice(struct cpu_attention_batch *batch);

/* Begins a phase of the round; returns its units. The first round has all phases, others ATTEND and MERGE. */
uint32_t cpu_attention_batch_phase(struct cpu_attention_batch *batch, enum cpu_attention_phase phase);

/* Runs unit 0 <= unit < what batch_phase said. scratch: as cpu_attention_run. */
void cpu_attention_batch_run(const struct cpu_attention_batch *batch, uint32_t unit, void *scratch);

#endif
