/*
 * How likely a page that nobody holds is wanted again soon, by byte and time: learned from what became of pages like it.
 *
 * Pages are divided into kinds by what is known of them when their last holder leaves. For each kind a histogram says after how
 * many ticks (pages that were asked for since) such pages were wanted again, evicted ones included: their hashes are remembered
 * for a while. The rank of a page of age a is the best rate of return that keeping it can have,
 *
 *   max over h of P(wanted within h more ticks | not within a) / E[ticks that it takes its place until then],
 *
 * the Gittins index. Nothing is remembered for ever, so the distribution is estimated from those that were still in
 * sight at an age (Kaplan and Meier, 1958). For a distribution that is known, evicting the least index is what pays best
 * where pages do not depend on each other; what is learned here is that distribution. LRU is the special case of rates
 * that only fall with age, the same for all.
 *
 * Scheduler's thread. O(1) per event, and a kind's ranks anew now and then, some microseconds.
 */
#ifndef SCHED_PREFIX_RANK_H
#define SCHED_PREFIX_RANK_H

#include <stdbool.h>
#include <stdint.h>

enum { PREFIX_KINDS = 16, PREFIX_AGES = 48 };

struct prefix_kind {
	double wanted[PREFIX_AGES]; /* again, at that age */
	double lost[PREFIX_AGES];   /* sight of, at that age */
	double rank[PREFIX_AGES];
};

struct prefix_ghost { /* an evicted page; kind PREFIX_KINDS: none */
	uint64_t left_tick;
	uint32_t tag;
	uint32_t kind;
};

struct prefix_rank {
	struct prefix_kind kinds[PREFIX_KINDS];
	uint64_t tick, next_tick; /* next: a kind's ranks are due */
	uint64_t horizon;         /* ticks after which nobody is expected back */
	uint32_t due, sweep;
	uint32_t ghost_mask;
	struct prefix_ghost *ghosts; /* [ghost_mask + 1], the owner's */
};

/* ghosts: a power of two of them. */
void prefix_rank_init(struct prefix_rank *rank, struct prefix_ghost *ghosts, uint32_t count);

/* Which kind: it was wanted again before; so many pages before its holder's last one; most of its holder's prompt was found. */
uint32_t prefix_kind_of(bool again, uint32_t pages_to_end, bool continued);
double prefix_rank_of(const struct prefix_rank *rank, uint32_t kind, uint64_t left_tick);

/* Time goes on by a page; pages: how many there are. */
void prefix_rank_tick(struct prefix_rank *rank, uint32_t pages);
/* An idle page is wanted again; it was evicted; a page comes that may have been here before. */
void prefix_rank_wanted(struct prefix_rank *rank, uint32_t kind, uint64_t left_tick);
void prefix_rank_evicted(struct prefix_rank *rank, uint64_t hash, uint32_t kind, uint64_t left_tick);
void prefix_rank_returned(struct prefix_rank *rank, uint64_t hash);

#endif
