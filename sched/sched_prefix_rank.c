/*
 * Learning how soon idle pages are wanted again. Scheduler's thread; see the header.
 */
#include "sched/sched_prefix_rank.h"

enum {
	LEARNT_MIN = 20,    /* fewer pages of a kind say nothing */
	ROUND_TICKS = 8192, /* all ranks are anew after about so many at least */
	HORIZON_PAGES = 4,  /* the horizon, in numbers of pages that fit */
	HORIZON_MIN = 4096,
	SWEEP = 2,          /* ghosts looked at in a tick */
};
/* What remains of what was learned in each round. */
static const double FADE = 0.95;

/* Ages are counted in halves of an octave: 1, 1.5, 2, 3, 4, 6, ... */
static uint32_t age_of(uint64_t ticks)
{
	uint32_t octave, age;

	if (ticks <= 1)
		return 0;
	octave = 63 - (uint32_t)__builtin_clzll(ticks);
	age = 2 * octave + (uint32_t)(ticks >> (octave - 1) & 1);
	return age < PREFIX_AGES ? age : PREFIX_AGES - 1;
}

static double age_begin(uint32_t age)
{
	return (double)((uint64_t)1 << age / 2) * (age % 2 ? 1.5 : 1.0);
}

void prefix_rank_init(struct prefix_rank *rank, struct prefix_ghost *ghosts, uint32_t count)
{
	*rank = (struct prefix_rank){ .ghosts = ghosts, .ghost_mask = count - 1, .horizon = HORIZON_MIN };
	for (uint32_t i = 0; i < count; i++)
		ghosts[i].kind = PREFIX_KINDS;
	/* Until something was learned: the older, the worse. */
	for (uint32_t k = 0; k < PREFIX_KINDS; k++)
		for (uint32_t age = 0; age < PREFIX_AGES; age++)
			rank->kinds[k].rank[age] = 1.0 / age_begin(age);
}

/* The end of a conversation is what its next turn is most likely to find changed, and its early pages what others share. */
uint32_t prefix_kind_of(bool again, uint32_t pages_to_end, bool continued)
{
	uint32_t place = pages_to_end <= 8 ? 0 : pages_to_end <= 24 ? 1 : pages_to_end <= 64 ? 2 : 3;

	return place + (continued ? 4u : 0u) + (again ? 8u : 0u);
}

double prefix_rank_of(const struct prefix_rank *rank, uint32_t kind, uint64_t left_tick)
{
	return rank->kinds[kind].rank[age_of(rank->tick - left_tick)];
}

/* Of those in sight at an age, the share that was wanted at that age. */
static void hazards(const struct prefix_kind *kind, double hazard[PREFIX_AGES], double seen)
{
	for (uint32_t age = 0; age < PREFIX_AGES; age++) {
		const double at_risk = seen - 0.5 * kind->lost[age];

		hazard[age] = kind->wanted[age] > 0.0 ? kind->wanted[age] / at_risk : 0.0;
		seen -= kind->wanted[age] + kind->lost[age];
	}
}

/* The best that holding on for some while longer brings, by time. */
static double best_rate(const double hazard[PREFIX_AGES], uint32_t age)
{
	double alive = 1.0, wanted = 0.0, time = 0.0, best_wanted = 0.0, best_time = 1.0;

	for (uint32_t a = age; a < PREFIX_AGES; a++) {
		const double leave = alive * hazard[a];

		wanted += leave;
		time += (alive - 0.5 * leave) * (age_begin(a + 1) - age_begin(a));
		alive -= leave;
		if (wanted * best_time > best_wanted * time) {
			best_wanted = wanted;
			best_time = time;
		}
	}
	return best_wanted / best_time;
}

static void learn(struct prefix_kind *kind)
{
	double seen = 0.0, hazard[PREFIX_AGES];

	for (uint32_t age = 0; age < PREFIX_AGES; age++)
		seen += kind->wanted[age] + kind->lost[age];
	if (seen < LEARNT_MIN)
		return;
	hazards(kind, hazard, seen);
	for (uint32_t age = 0; age < PREFIX_AGES; age++) {
		kind->rank[age] = best_rate(hazard, age);
		kind->wanted[age] *= FADE;
		kind->lost[age] *= FADE;
	}
}

static void give_up(struct prefix_rank *rank, struct prefix_ghost *ghost)
{
	if (ghost->kind != PREFIX_KINDS)
		rank->kinds[ghost->kind].lost[age_of(rank->tick - ghost->left_tick)] += 1.0;
	ghost->kind = PREFIX_KINDS;
}

/* Ghosts that nobody asked for in all the time are given up. */
static void sweep(struct prefix_rank *rank)
{
	for (uint32_t i = 0; i < SWEEP; i++) {
		struct prefix_ghost *ghost = &rank->ghosts[rank->sweep++ & rank->ghost_mask];

		if (ghost->kind != PREFIX_KINDS && rank->tick - ghost->left_tick > rank->horizon)
			give_up(rank, ghost);
	}
}

void prefix_rank_tick(struct prefix_rank *rank, uint32_t pages)
{
	const uint64_t round = pages / 4 > ROUND_TICKS ? pages / 4 : ROUND_TICKS;

	rank->tick++;
	if ((uint64_t)pages * HORIZON_PAGES > rank->horizon)
		rank->horizon = (uint64_t)pages * HORIZON_PAGES;
	sweep(rank);
	if (rank->tick < rank->next_tick)
		return;
	learn(&rank->kinds[rank->due]);
	rank->due = (rank->due + 1) % PREFIX_KINDS;
	rank->next_tick = rank->tick + round / PREFIX_KINDS;
}

void prefix_rank_wanted(struct prefix_rank *rank, uint32_t kind, uint64_t left_tick)
{
	rank->kinds[kind].wanted[age_of(rank->tick - left_tick)] += 1.0;
}

void prefix_rank_evicted(struct prefix_rank *rank, uint64_t hash, uint32_t kind, uint64_t left_tick)
{
	struct prefix_ghost *ghost = &rank->ghosts[hash & rank->ghost_mask];

	give_up(rank, ghost);
	*ghost = (struct prefix_ghost){ .left_tick = left_tick, .tag = (uint32_t)(hash >> 32), .kind = kind };
}

void prefix_rank_returned(struct prefix_rank *rank, uint64_t hash)
{
	struct prefix_ghost *ghost = &rank->ghosts[hash & rank->ghost_mask];

	if (ghost->kind == PREFIX_KINDS || ghost->tag != (uint32_t)(hash >> 32))
		return;
	prefix_rank_wanted(rank, ghost->kind, ghost->left_tick);
	ghost->kind = PREFIX_KINDS;
}
