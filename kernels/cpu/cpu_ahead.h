/*
 * Asking for memory before it is read.
 *
 * A core gets from memory what it has lines in flight for. Its own prefetching follows each stream of reads by some 20 lines, and
 * only to the end of a page of 4096 bytes; so one stream leaves a third of what memory would give to that core (Sapphire
 * Rapids: 12 of 18 GB/s). Who goes through weights or a cache in order therefore asks meanwhile for what it will read next, in
 * several *runs* side by side, each in pages of its own.
 *
 * It goes to the second-level cache: what is wanted next and what is being read must fit in there together. Asking never
 * faults, and no result depends on it. One thread uses an ahead at a time.
 */
#ifndef CPU_AHEAD_H
#define CPU_AHEAD_H

#include <stddef.h>
#include <stdint.h>

enum {
	CPU_AHEAD_RUNS = 8,
	CPU_AHEAD_BYTES = 256 << 10, /* wanted at once, at most */
	CPU_AHEAD_LINE = 64,
	CPU_AHEAD_STEP = 256,        /* bytes asked of a run before the next one's turn */
	CPU_AHEAD_STEP_LINES = CPU_AHEAD_STEP / CPU_AHEAD_LINE,
};

/* All zero: nothing is wanted. */
struct cpu_ahead {
	const unsigned char *runs[CPU_AHEAD_RUNS];
	uint32_t count;
	uint32_t bytes; /* of each run, a multiple of a step */
	uint32_t asked; /* of each run whose turn it has been */
	uint32_t turn;
	uint32_t lines; /* still to be asked for: less than a step */
};

/* What is wanted is `count` pieces of so many bytes, each in one run or several, `runs` in all, at most CPU_AHEAD_RUNS. More pieces than
 * runs: the first ones. */
static inline void cpu_ahead_want(struct cpu_ahead *ahead, const unsigned char *const *pieces, uint32_t count, uint32_t runs,
	size_t bytes)
{
	const size_t steps = (bytes + CPU_AHEAD_STEP - 1) / CPU_AHEAD_STEP;
	const uint32_t most = count == 0 || count >= runs ? 1 : runs / count;
	const size_t run = (steps + most - 1) / most;
	/* No run begins behind its piece's end. */
	const uint32_t each = run > 0 ? (uint32_t)((steps + run - 1) / run) : 1;

	ahead->count = 0;
	for (uint32_t i = 0; i < count && ahead->count + each <= runs; i++)
		for (uint32_t part = 0; part < each; part++)
			ahead->runs[ahead->count++] = pieces[i] + part * run * CPU_AHEAD_STEP;
	ahead->bytes = ahead->count > 0 ? (uint32_t)(run * CPU_AHEAD_STEP) : 0;
	ahead->asked = ahead->turn = ahead->lines = 0;
}

/* The same of one piece, or of its beginning. */
static inline void cpu_ahead_want_one(struct cpu_ahead *ahead, const void *piece, size_t bytes)
{
	const unsigned char *const pieces[] = {piece};

	cpu_ahead_want(ahead, pieces, 1, CPU_AHEAD_RUNS, bytes < CPU_AHEAD_BYTES ? bytes : CPU_AHEAD_BYTES);
}

static inline int cpu_ahead_left(const struct cpu_ahead *ahead)
{
	return ahead->asked < ahead->bytes;
}

/* Asks for one step of the run whose turn it is. */
static inline void cpu_ahead_step(struct cpu_ahead *ahead)
{
	const unsigned char *at;

	if (!cpu_ahead_left(ahead))
		return;
	at = ahead->runs[ahead->turn] + ahead->asked;
	for (uint32_t i = 0; i < CPU_AHEAD_STEP; i += CPU_AHEAD_LINE)
		__builtin_prefetch(at + i, 0, 2);
	if (++ahead->turn == ahead->count) {
		ahead->turn = 0;
		ahead->asked += CPU_AHEAD_STEP;
	}
}

/* Asks for so many lines more: in steps, so that less than one of them may be left to the next call. */
static inline void cpu_ahead_ask(struct cpu_ahead *ahead, uint32_t lines)
{
	if (!cpu_ahead_left(ahead))
		return;
	for (lines += ahead->lines; lines >= CPU_AHEAD_STEP_LINES; lines -= CPU_AHEAD_STEP_LINES)
		cpu_ahead_step(ahead);
	ahead->lines = lines;
}

/* Of every CPU_AHEAD_STEP bytes that are read `part` bytes at a time, the last part's reader asks for as many. i counts parts. */
static inline void cpu_ahead_part(struct cpu_ahead *ahead, uint32_t i, uint32_t part)
{
	if (i % (CPU_AHEAD_STEP / part) == CPU_AHEAD_STEP / part - 1)
		cpu_ahead_step(ahead);
}

#endif
