/*
 * Tenants' shares of device time: whose turn it is, who pays for a step, and quotas. Scheduler's thread; every function is a
 * few operations for each tenant, of which there are SCHED_TENANTS_MAX at most.
 *
 * Each tenant has a virtual time: the device time of its works, divided by its weight. Whose virtual time is least goes
 * first. That is start-time fair queueing (Goyal, Vin, Cheng: "Start-time Fair Queuing", SIGCOMM 1996), with device time in
 * place of bytes, and a batch in place of a packet: what Sheng et al. do with tokens ("Fairness in Serving Large Language
 * Models", OSDI 2024: a virtual token counter). A tenant is *backlogged* while a session of it is ready and was not taken;
 * one that was away, or whose every session was taken, begins again at the least virtual time of those that are
 * backlogged, or, when none is, at the greatest of all: nothing is saved up, and nobody waits for what others had without him.
 *
 * A step's time is divided by the terms of the cost model: overhead equally among its sessions, reading the weights (or
 * multiplying the rows, where that takes longer) by rows, attention by visits, outputs by outputs, the cache by its bytes.
 * It is charged as predicted when the step is formed, and put right by what it took when it lands; a stall of the machine counts
 * as far as the cost model believes it. The charges of a step add up to its time. Copies before a write and zeroing are nobody's.
 *
 * How far apart backlogged tenants can drift. Let L be the time of the longest work, as predicted or as it was, and n the
 * works that may be in the air at once (1 where host and device are one). Let Vi be the virtual time of tenant i. While i
 * and j are both backlogged,
 *
 *   Vi - Vj  <=  (n + 1) L/wi + n L/wj,  and so, of what they get from any moment of that time to any other,
 *   | Wi/wi - Wj/wj |  <=  (2 n + 1) L (1/wi + 1/wj).
 *
 *   Vi grows beyond Vj only by works that have members of i and leave sessions of j behind, and by putting charges right.
 *   sched_step.c takes a member of i only while i, with about what it has in the work so far, stands no further than j with
 *   what j has in it, which counts as L at most; or, where sessions of j do not fit into this work at all, no further than
 *   the largest work of late beyond j. So before the work Vi <= Vj + max(L/wj, L/wi). It adds L/wi at most, as predicted
 *   and as it turns out. n - 1 other works are in the air; putting these right moves Vi up by (n - 1) L/wi and Vj down by
 *   (n - 1) L/wj at most. The sum is the first line. Who becomes backlogged begins at the least virtual time of those that
 *   are, for which the line holds, or further, where he stood when he was last taken, for which it holds by the same
 *   argument. While both are backlogged nothing but charges moves them, so Wi/wi - Wj/wj is the change of Vi - Vj, which
 *   stays between the first line and its mirror image: the second line.
 *
 * sched_check holds every poll of every test against the first, test_sched_fair random schedules against the second.
 *
 * A quota of device time is a leaky bucket, kept as the moment when all that was used will have been paid for (the virtual
 * scheduling form of ATM's generic cell rate algorithm, ITU-T I.371). A tenant over its quota is not taken, even by an idle
 * device: what an operator caps stays capped. It is exceeded by one work at most, which the next ones pay for.
 */
#include <math.h>

#include "sched/sched_private.h"

static const double QUOTA_WAIT_NS_MOST = 1e17; /* three years, so that times stay in range */

/* ---- virtual time --------------------------------------------------------------------- */

/* ns may be negative: a work took less than was predicted. */
static void advance(struct sched_tenant_use *use, int64_t weight, int64_t ns)
{
	int64_t whole = use->rest + ns, rest = whole % weight;

	if (rest < 0)
		rest += weight;
	use->virtual_ns += (whole - rest) / weight;
	use->rest = rest;
}

int64_t sched_share_least(const struct sched *sched)
{
	int64_t least_ns = INT64_MAX;

	for (const struct sched_list *link = sched->active.next; link != &sched->active; link = link->next) {
		const struct sched_tenant_use *use = sched_use_of_active(link);

		if (!use->held && use->virtual_ns < least_ns)
			least_ns = use->virtual_ns;
	}
	return least_ns;
}

int64_t sched_share_start(const struct sched *sched, const struct sched_tenant_use *use)
{
	int64_t least_ns = INT64_MAX, most_ns = use->virtual_ns;

	for (const struct sched_list *link = sched->active.next; link != &sched->active; link = link->next) {
		const struct sched_tenant_use *other = sched_use_of_active(link);

		if (other == use && !use->held)
			return use->virtual_ns;
		if (!other->held && other->virtual_ns < least_ns)
			least_ns = other->virtual_ns;
	}
	for (uint32_t t = 0; least_ns == INT64_MAX && t < sched->options.tenant_count; t++)
		if (sched->uses[t].virtual_ns > most_ns)
			most_ns = sched->uses[t].virtual_ns;
	if (least_ns == INT64_MAX)
		return most_ns;
	return least_ns > use->virtual_ns ? least_ns : use->virtual_ns;
}

void sched_share_enter(struct sched *sched, struct sched_tenant_use *use)
{
	use->virtual_ns = sched_share_start(sched, use);
	use->held = sched_share_free_ns(sched, use) > sched->now_ns;
	sched_list_append(&sched->active, &use->of_active);
}

void sched_share_leave(struct sched_tenant_use *use)
{
	sched_list_leave(&use->of_active);
	use->backlogs += !use->held;
	use->held = false;
}

/* ---- quotas of device time ------------------------------------------------------------ */

static const struct sched_tenant *tenant_of(const struct sched *sched, const struct sched_tenant_use *use)
{
	return &sched->tenants[use - sched->uses];
}

/* How long a tenant's quota takes to pay for so much. */
static int64_t pay_ns(const struct sched_tenant *tenant, int64_t ns)
{
	const double wait_ns = (double)ns * 1e9 / (double)tenant->device_ns_per_s;

	return (int64_t)fmax(fmin(wait_ns, QUOTA_WAIT_NS_MOST), -QUOTA_WAIT_NS_MOST);
}

int64_t sched_share_free_ns(const struct sched *sched, const struct sched_tenant_use *use)
{
	const struct sched_tenant *tenant = tenant_of(sched, use);
	const uint64_t most = INT64_MAX;
	uint64_t burst_ns = tenant->device_burst_ns ? tenant->device_burst_ns : tenant->device_ns_per_s / 10;

	/* On the way down accepted work just finishes. */
	if (tenant->device_ns_per_s == 0 || sched->draining)
		return INT64_MIN;
	return use->paid_until_ns - pay_ns(tenant, (int64_t)(burst_ns < most ? burst_ns : most));
}

static void pay(const struct sched *sched, struct sched_tenant_use *use, int64_t ns)
{
	const struct sched_tenant *tenant = tenant_of(sched, use);

	if (tenant->device_ns_per_s > 0)
		use->paid_until_ns += pay_ns(tenant, ns);
}

bool sched_share_may(struct sched *sched, struct sched_tenant_use *use)
{
	const bool held = sched_share_free_ns(sched, use) > sched->now_ns;

	if (use->held && !held)
		use->virtual_ns = sched_share_start(sched, use);
	use->backlogs += held && !use->held;
	use->held = held;
	return !held;
}

/* ---- who pays for a work -------------------------------------------------------------- */

static double share_of(double whole_ns, double part, double whole, double otherwise)
{
	return whole_ns * (whole > 0.0 ? part / whole : otherwise);
}

static double part_ns(const struct sched_flight *flight, const struct sched_part *part,
	const double terms[SCHED_COST_TERMS])
{
	const struct sched_load *all = &flight->load, *own = &part->load;
	const double members = (double)part->members / flight->member_count;

	return terms[0] * members + share_of(terms[1], own->rows, all->rows, members) +
		share_of(terms[2], (double)own->visits, (double)all->visits, members) +
		share_of(terms[3], own->outs, all->outs, members) +
		share_of(terms[4], (double)own->kv_bytes, (double)all->kv_bytes, members);
}

/* So much of a work's time is the part's; the last part takes what rounding leaves. */
static int64_t portion(const struct sched_part *part, int64_t work_ns, int64_t left_ns, uint32_t members_left)
{
	const int64_t ns = (int64_t)((double)work_ns * part->fraction);

	return members_left == 0 || ns > left_ns ? left_ns : ns;
}

static void note_drift(struct sched *sched)
{
	const int64_t drift_ns = sched_share_drift(sched);

	if ((uint64_t)drift_ns > sched->counters.fair_drift_ns)
		sched->counters.fair_drift_ns = (uint64_t)drift_ns;
}

static void find_fractions(struct sched *sched, struct sched_flight *flight)
{
	double terms[SCHED_COST_TERMS], sum = 0.0;

	sched_cost_terms(&sched->cost, sched_flight_cost_model(flight), &flight->load, terms);
	for (uint32_t t = 0; t < sched->options.tenant_count; t++)
		if (flight->parts[t].members > 0)
			sum += flight->parts[t].fraction = part_ns(flight, &flight->parts[t], terms);
	for (uint32_t t = 0; t < sched->options.tenant_count; t++) {
		struct sched_part *part = &flight->parts[t];

		part->fraction = sum > 0.0 ? part->fraction / sum : (double)part->members / flight->member_count;
	}
}

void sched_share_charge(struct sched *sched, struct sched_flight *flight)
{
	int64_t left_ns = flight->predicted_ns;
	uint32_t members_left = flight->member_count;

	find_fractions(sched, flight);
	for (uint32_t t = 0; members_left > 0; t++) {
		struct sched_part *part = &flight->parts[t];

		if (part->members == 0)
			continue;
		members_left -= part->members;
		part->charged_ns = portion(part, flight->predicted_ns, left_ns, members_left);
		left_ns -= part->charged_ns;
		advance(&sched->uses[t], sched->uses[t].weight, part->charged_ns);
		/* What was saved up longer ago than now is not kept; later it is put right from here. */
		if (sched->uses[t].paid_until_ns < sched->now_ns)
			sched->uses[t].paid_until_ns = sched->now_ns;
		pay(sched, &sched->uses[t], part->charged_ns);
	}
	if (flight->predicted_ns > sched->largest_ns)
		sched->largest_ns = flight->predicted_ns;
	sched->slack_ns -= sched->slack_ns / 64;
	if (flight->predicted_ns > sched->slack_ns)
		sched->slack_ns = flight->predicted_ns;
	note_drift(sched);
}

/* The last crowd is over: of the largest ones. Windows, so that no exponential is asked for each tenant and request. */
static void keep_crowd(struct sched_tenant_use *use)
{
	const int64_t windows = (use->crowd_at_ns - use->crowds_at_ns) / SCHED_RECENT_NS;

	if (windows > 0) {
		use->crowds_ns[1] = windows == 1 ? use->crowds_ns[0] : 0;
		use->crowds_ns[0] = 0;
		use->crowds_at_ns += windows * SCHED_RECENT_NS;
	}
	if (use->crowd_ns > use->crowds_ns[0])
		use->crowds_ns[0] = use->crowd_ns;
}

void sched_share_arrived(struct sched_tenant_use *use, struct sched_request *request, int64_t now_ns)
{
	if (use->came && now_ns - use->crowd_at_ns >= SCHED_CROWD_NS)
		keep_crowd(use);
	if (!use->came || now_ns - use->crowd_at_ns >= SCHED_CROWD_NS) {
		use->crowd_at_ns = now_ns;
		use->crowd_ns = 0;
	}
	use->came = true;
	use->crowd_ns += request->debt.own.ns;
	request->crowd_at_ns = use->crowd_at_ns;
	request->crowd_ns = request->debt.own.ns;
}

void sched_share_withdrawn(struct sched_tenant_use *use, const struct sched_request *request)
{
	if (request->crowd_at_ns == use->crowd_at_ns)
		use->crowd_ns -= request->crowd_ns;
}

/* ---- what others may have ------------------------------------------------------------- */

/* What waits, and the largest crowd of late, so many times. */
static double expected_ns(const struct sched_tenant_use *use, int64_t now_ns, double times)
{
	const int64_t age_ns = now_ns - use->crowds_at_ns;
	int64_t crowd_ns = now_ns - use->crowd_at_ns < 2 * SCHED_RECENT_NS ? use->crowd_ns : 0;

	if (age_ns < SCHED_RECENT_NS && use->crowds_ns[1] > crowd_ns)
		crowd_ns = use->crowds_ns[1];
	if (age_ns < 2 * SCHED_RECENT_NS && use->crowds_ns[0] > crowd_ns)
		crowd_ns = use->crowds_ns[0];
	return (double)use->waiting.ns + (double)crowd_ns * times;
}

/* What its quota lets it have, and one work more unless that is nothing. */
static double allowed_ns(const struct sched *sched, const struct sched_tenant_use *use, const struct sched_rivalry *rivalry)
{
	const double until_ns = (double)rivalry->now_ns + rivalry->horizon_ns;
	double free_ns = (double)sched_share_free_ns(sched, use);

	/* What was saved up longer ago than the burst is long is not kept. */
	if (use->paid_until_ns < rivalry->now_ns)
		free_ns += (double)(rivalry->now_ns - use->paid_until_ns);
	return until_ns <= free_ns ? 0.0
				   : (until_ns - free_ns) * (double)tenant_of(sched, use)->device_ns_per_s * 1e-9 + rivalry->step_ns;
}

double sched_share_rivals(const struct sched *sched, const struct sched_tenant_use *use, const struct sched_rivalry *rivalry)
{
	const double times = rivalry->horizon_ns > SCHED_CROWD_NS ? rivalry->horizon_ns / SCHED_CROWD_NS : 1.0;
	double sum_ns = 0.0;

	for (uint32_t t = 0; t < sched->options.tenant_count; t++) {
		const struct sched_tenant_use *other = &sched->uses[t];
		const bool away = sched_list_empty(&other->of_active) || other->held;
		double ns, most_ns, from_ns = (double)other->virtual_ns;

		if (other == use || (other->waiting.rows == 0 && !other->came))
			continue;
		if (away && from_ns < rivalry->least_ns)
			from_ns = rivalry->least_ns;
		ns = (rivalry->virtual_ns - from_ns) * other->weight;
		/* What is charged as predicted may be put right by a part of a step. */
		if (ns < -0.25 * rivalry->step_ns)
			continue;
		ns = (ns > 0.0 ? ns : 0.0) + rivalry->step_ns;
		most_ns = expected_ns(other, rivalry->now_ns, times);
		if (other->capped && !sched->draining) {
			const double quota_ns = allowed_ns(sched, other, rivalry);

			most_ns = quota_ns < most_ns ? quota_ns : most_ns;
		}
		sum_ns += ns < most_ns ? ns : most_ns;
	}
	return sum_ns;
}

void sched_share_settle(struct sched *sched, struct sched_flight *flight, int64_t actual_ns)
{
	int64_t left_ns = actual_ns;
	uint32_t members_left = flight->member_count;

	for (uint32_t t = 0; members_left > 0; t++) {
		const struct sched_part *part = &flight->parts[t];
		struct sched_tenant_use *use = &sched->uses[t];
		int64_t ns;

		if (part->members == 0)
			continue;
		members_left -= part->members;
		ns = portion(part, actual_ns, left_ns, members_left);
		left_ns -= ns;
		advance(use, use->weight, ns - part->charged_ns);
		pay(sched, use, ns - part->charged_ns);
		use->used_ns += (uint64_t)ns;
	}
	sched->charged_ns += (uint64_t)actual_ns;
	if (actual_ns > sched->largest_ns)
		sched->largest_ns = actual_ns;
	note_drift(sched);
}

/* ---- how far apart -------------------------------------------------------------------- */

int64_t sched_share_drift(const struct sched *sched)
{
	int64_t least_ns = INT64_MAX, most_ns = INT64_MIN;

	for (const struct sched_list *link = sched->active.next; link != &sched->active; link = link->next) {
		const struct sched_tenant_use *use = sched_use_of_active(link);

		if (use->held)
			continue;
		if (use->virtual_ns < least_ns)
			least_ns = use->virtual_ns;
		if (use->virtual_ns > most_ns)
			most_ns = use->virtual_ns;
	}
	return least_ns < most_ns ? most_ns - least_ns : 0;
}

int64_t sched_share_bound(const struct sched *sched)
{
	uint32_t weight = UINT32_MAX;

	for (uint32_t t = 0; t < sched->options.tenant_count; t++)
		if (sched->uses[t].weight < weight)
			weight = sched->uses[t].weight;
	return (2 * (int64_t)sched->computes_max + 1) * sched->largest_ns / weight;
}
