/*
 * The arithmetic of attnbench replay. See attnbench_replay_plan.h.
 */
#include "tools/attnbench_replay_plan.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "base/base_error.h"
#include "base/base_rand.h"
#include "tools/attnsim_prefix.h"

const char *const attnbench_replay_urgencies[] = { "tight", "normal", "none" };

/* What a fit's determinant is at least, relative to its terms: below it all points lie at one length. */
static const double FIT_MIN = 1e-9;

/* ---- lengths and prompts --------------------------------------------------------------------- */

uint32_t attnbench_replay_length(uint32_t tokens, double scale)
{
	const double length = (double)tokens / scale;

	return length < 1.0 ? 1 : (uint32_t)length;
}

static uint32_t total(const struct attnsim_request *request, double scale)
{
	return attnbench_replay_length(request->prompt, scale) + attnbench_replay_length(request->output, scale);
}

static uint32_t longest_at(const struct attnsim_trace *trace, double scale)
{
	uint32_t longest = 0;

	for (size_t i = 0; i < trace->count; i++) {
		uint32_t tokens = total(&trace->requests[i], scale);

		longest = tokens > longest ? tokens : longest;
	}
	return longest;
}

double attnbench_replay_scale(const struct attnsim_trace *trace, uint32_t session_tokens)
{
	/* Lengths are cut down to whole tokens, and what would be none is one: that makes up for no more than was cut. */
	const double scale = (double)attnsim_trace_longest(trace) / session_tokens;

	return scale < 1.0 ? 1.0 : scale;
}

uint32_t attnbench_replay_longest_prompt(const struct attnbench_replay_plan *plan)
{
	uint32_t longest = 0;

	for (size_t i = 0; i < plan->trace->count; i++) {
		uint32_t tokens = attnbench_replay_length(plan->trace->requests[i].prompt, plan->scale);

		longest = tokens > longest ? tokens : longest;
	}
	return longest;
}

static uint32_t shortest_prompt(const struct attnbench_replay_plan *plan)
{
	uint32_t shortest = UINT32_MAX;

	for (size_t i = 0; i < plan->trace->count; i++) {
		uint32_t tokens = attnbench_replay_length(plan->trace->requests[i].prompt, plan->scale);

		shortest = tokens < shortest ? tokens : shortest;
	}
	return shortest;
}

uint32_t attnbench_replay_longest(const struct attnbench_replay_plan *plan)
{
	return longest_at(plan->trace, plan->scale);
}

double attnbench_replay_mean(const struct attnbench_replay_plan *plan, size_t requests)
{
	double sum = 0.0;

	for (size_t i = 0; i < requests; i++)
		sum += total(&plan->trace->requests[i], plan->scale);
	return sum / (double)requests;
}

void attnbench_replay_prompt(const struct attnbench_replay_plan *plan, const struct attnbench_replay_job *job, uint32_t *tokens)
{
	const struct attnsim_request *request = job->named ? &plan->trace->requests[job->request] : NULL;
	const uint64_t own = base_mix64(base_mix64(plan->seed + 1) ^ ~base_mix64(job->request + 1));

	for (uint32_t i = 0; i < job->prompt; i++) {
		/* The block that stood here before all was divided. */
		const double block = floor(i * plan->scale / ATTNSIM_BLOCK_TOKENS);
		const bool has_name = request && block < request->hash_count;
		const uint64_t text = has_name ? base_mix64(plan->trace->hashes[request->hash_first + (size_t)block]) : own;
		uint64_t state = text + i;

		tokens[i] = (uint32_t)base_rand_below(&state, plan->vocab);
	}
}

/* ---- jobs ------------------------------------------------------------------------------------- */

static int jobs_new(struct attnbench_replay_jobs *jobs, size_t count)
{
	jobs->jobs = calloc(count, sizeof(*jobs->jobs));
	jobs->count = 0;
	return jobs->jobs ? 0 : base_fail(ENOMEM, "no memory for %zu requests", count);
}

void attnbench_replay_free(struct attnbench_replay_jobs *jobs)
{
	free(jobs->jobs);
	*jobs = (struct attnbench_replay_jobs){ 0 };
}

static struct attnbench_replay_job *add(struct attnbench_replay_jobs *jobs, const struct attnbench_replay_plan *plan, size_t request)
{
	const struct attnsim_request *from = &plan->trace->requests[request];
	struct attnbench_replay_job *job = &jobs->jobs[jobs->count++];

	job->prompt = attnbench_replay_length(from->prompt, plan->scale);
	job->output = attnbench_replay_length(from->output, plan->scale);
	job->request = request;
	job->urgency = ATTNBENCH_REPLAY_NONE;
	return job;
}

int attnbench_replay_probes(const struct attnbench_replay_plan *plan, unsigned points, unsigned repeats, uint32_t output,
	uint32_t session_tokens, struct attnbench_replay_jobs *jobs)
{
	const double shortest = shortest_prompt(plan), longest = attnbench_replay_longest_prompt(plan);
	const size_t count = 1 + (size_t)points * repeats;

	if (jobs_new(jobs, count) < 0)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++) {
		/* The one for warming up is of the longest, too. */
		const size_t point = i == 0 ? points - 1 : (i - 1) % points;
		const double along = points > 1 ? (double)point / (points - 1) : 1.0;
		const uint32_t prompt = (uint32_t)lround(shortest * pow(longest / shortest, along));
		const uint32_t room = session_tokens > prompt ? session_tokens - prompt : 1;

		/* Numbers that no request has: what was computed for probes helps nobody. */
		jobs->jobs[jobs->count++] = (struct attnbench_replay_job){ .prompt = prompt,
			.output = output < room ? output : room,
			.request = ATTNSIM_REQUESTS_MAX + i,
			.urgency = ATTNBENCH_REPLAY_NONE };
	}
	return 0;
}

int attnbench_replay_sample(const struct attnbench_replay_plan *plan, size_t most, struct attnbench_replay_jobs *jobs)
{
	const size_t step = (plan->trace->count + most - 1) / most;

	if (jobs_new(jobs, plan->trace->count / step + 1) < 0)
		return -ENOMEM;
	for (size_t i = 0; i < plan->trace->count; i += step)
		/* A prompt of its own, too, so that the replay does not find it in the cache. */
		add(jobs, plan, i)->request = 2 * (size_t)ATTNSIM_REQUESTS_MAX + i;
	return 0;
}

static enum attnbench_replay_urgency urgency_of(const struct attnbench_replay_plan *plan, size_t index)
{
	const double u = base_rand_at(plan->seed ^ 0x75726765u, index);

	if (u < plan->share[ATTNBENCH_REPLAY_TIGHT])
		return ATTNBENCH_REPLAY_TIGHT;
	return u < plan->share[ATTNBENCH_REPLAY_TIGHT] + plan->share[ATTNBENCH_REPLAY_NORMAL] ? ATTNBENCH_REPLAY_NORMAL :
											       ATTNBENCH_REPLAY_NONE;
}

/* How many of the first requests are the work of plan->seconds at this load. */
static size_t requests_for(const struct attnbench_replay_plan *plan, double capacity_tokens_s, double rps)
{
	const double wanted = plan->load * plan->seconds * (rps > 0.0 ? rps : capacity_tokens_s);
	double have = 0.0;
	size_t count = 0;

	while (count < plan->trace->count && have < wanted) {
		have += rps > 0.0 ? 1.0 : total(&plan->trace->requests[count], plan->scale);
		count++;
	}
	return count ? count : 1;
}

int attnbench_replay_make(
	const struct attnbench_replay_plan *plan, double capacity_tokens_s, double *rps, struct attnbench_replay_jobs *jobs)
{
	const size_t count = requests_for(plan, capacity_tokens_s, *rps);
	struct attnsim_trace first = *plan->trace;
	double stretch;

	if (jobs_new(jobs, count) < 0)
		return -ENOMEM;
	if (*rps <= 0.0)
		*rps = capacity_tokens_s / attnbench_replay_mean(plan, count);
	/* The rate of these requests, which a file's beginning may have higher or lower than its whole. */
	first.count = count;
	stretch = attnsim_trace_rate(&first) / (plan->load * *rps);
	for (size_t i = 0; i < count; i++) {
		struct attnbench_replay_job *job = add(jobs, plan, i);
		const double ideal_ns = plan->ideal.fixed_ns + plan->ideal.token_ns * job->prompt;

		job->named = true;
		job->urgency = urgency_of(plan, i);
		job->arrival_ns = (int64_t)((double)plan->trace->requests[i].arrival_ns * stretch);
		if (job->urgency != ATTNBENCH_REPLAY_NONE)
			job->deadline_ns = job->arrival_ns + (int64_t)(plan->slack[job->urgency] * ideal_ns);
	}
	return 0;
}

/* ---- how fast it is ----------------------------------------------------------------------------- */

/*
 * Least squares of (fixed + token * n) / time - 1. Short prompts count as much as long ones, because deadlines are multiples of the
 * time. Where the line would begin below 0, it begins at 0; where it would fall, it is level.
 */
struct attnbench_replay_line attnbench_replay_fit(const double *tokens, const double *times_ns, unsigned count)
{
	double uu = 0.0, uv = 0.0, vv = 0.0, u = 0.0, v = 0.0, det;
	struct attnbench_replay_line line = { 0 };

	for (unsigned i = 0; i < count; i++) {
		const double one = 1.0 / times_ns[i], many = tokens[i] / times_ns[i];

		uu += one * one;
		uv += one * many;
		vv += many * many;
		u += one;
		v += many;
	}
	det = uu * vv - uv * uv;
	if (det > FIT_MIN * uu * vv) {
		line.fixed_ns = (u * vv - v * uv) / det;
		line.token_ns = (v * uu - u * uv) / det;
	}
	if (line.token_ns < 0.0)
		return (struct attnbench_replay_line){ .fixed_ns = u / uu };
	if (line.fixed_ns < 0.0 || det <= FIT_MIN * uu * vv)
		return (struct attnbench_replay_line){ .token_ns = v / vv };
	return line;
}

static int by_value(const void *left, const void *right)
{
	const int64_t *a = left, *b = right;

	return (*a > *b) - (*a < *b);
}

static int by_time(const void *left, const void *right)
{
	const double *a = left, *b = right;

	return (*a > *b) - (*a < *b);
}

int attnbench_replay_ideal(const struct attnbench_replay_jobs *probes, unsigned points, struct attnbench_replay_line *line)
{
	const unsigned repeats = (unsigned)(probes->count - 1) / points;
	double *tokens = calloc(2 * (size_t)points + repeats, sizeof(*tokens));
	double *medians = tokens + points, *times = medians + points;

	if (!tokens)
		return base_fail(ENOMEM, "no memory for %u points", points);
	for (unsigned point = 0; point < points; point++) {
		for (unsigned i = 0; i < repeats; i++) {
			const struct attnbench_replay_job *job = &probes->jobs[1 + point + (size_t)i * points];

			if (job->first_ns <= job->sent_ns) {
				free(tokens);
				return base_fail(EIO, "an idle daemon gave no token for a prompt of %u", job->prompt);
			}
			times[i] = (double)(job->first_ns - job->sent_ns);
			tokens[point] = job->prompt;
		}
		qsort(times, repeats, sizeof(*times), by_time);
		medians[point] = (times[(repeats - 1) / 2] + times[repeats / 2]) / 2;
	}
	*line = attnbench_replay_fit(tokens, medians, points);
	free(tokens);
	return 0;
}

double attnbench_replay_between_ns(const struct attnbench_replay_jobs *jobs)
{
	double sum_ns = 0.0, gaps = 0.0;

	for (size_t i = 0; i < jobs->count; i++) {
		const struct attnbench_replay_job *job = &jobs->jobs[i];

		if (job->tokens < 2)
			continue;
		sum_ns += (double)(job->last_ns - job->first_ns);
		gaps += job->tokens - 1;
	}
	return gaps > 0.0 ? sum_ns / gaps : 0.0;
}

static int by_end(const void *left, const void *right)
{
	const struct attnbench_replay_job *const *a = left, *const *b = right;

	return ((*a)->last_ns > (*b)->last_ns) - ((*a)->last_ns < (*b)->last_ns);
}

double attnbench_replay_tokens_s(const struct attnbench_replay_jobs *jobs)
{
	const struct attnbench_replay_job **ends = calloc(jobs->count + 1, sizeof(*ends));
	size_t count = 0, from, to;
	int64_t from_ns = 0, to_ns;
	double sum = 0.0;

	for (size_t i = 0; ends && i < jobs->count; i++)
		if (jobs->jobs[i].ended && jobs->jobs[i].status == ATTND_OK && jobs->jobs[i].last_ns)
			ends[count++] = &jobs->jobs[i];
	if (count == 0) {
		free(ends);
		return 0.0;
	}
	qsort(ends, count, sizeof(*ends), by_end);
	from = count / 5;
	to = count - 1 - count / 5;
	/* Too few to tell: all of them, from the start. */
	if (to <= from || ends[to]->last_ns == ends[from]->last_ns) {
		to = count - 1;
		from = SIZE_MAX;
	} else {
		from_ns = ends[from]->last_ns;
	}
	/* As many tokens as were asked for, which is what the replay asks for, too, and where answers end early as well. */
	for (size_t i = from + 1; i <= to; i++)
		sum += ends[i]->prompt + ends[i]->output;
	to_ns = ends[to]->last_ns;
	free(ends);
	return to_ns > from_ns ? sum * 1e9 / (double)(to_ns - from_ns) : 0.0;
}

/* ---- what came out ------------------------------------------------------------------------------ */

/* Nearest rank, of sorted values, as in attnsim. */
static int64_t quantile(const int64_t *values, size_t count, double at)
{
	size_t rank = (size_t)(at * (double)count);

	return count == 0 ? 0 : values[rank < count ? rank : count - 1];
}

int64_t attnbench_replay_end_ns(const struct attnbench_replay_jobs *jobs)
{
	int64_t end_ns = jobs->jobs[jobs->count - 1].arrival_ns;

	for (size_t i = 0; i < jobs->count && jobs->jobs[jobs->count - 1].arrival_ns == 0; i++)
		end_ns = jobs->jobs[i].last_ns > end_ns ? jobs->jobs[i].last_ns : end_ns;
	return end_ns;
}

static void count_job(const struct attnbench_replay_job *job, int64_t end_ns, int64_t now_ns, struct attnbench_replay_group *group)
{
	const bool is_refused = job->ended && !job->admitted && job->tokens == 0;
	/* Without a token yet, it is missed as soon as its deadline is over. */
	const int64_t first_ns = job->first_ns ? job->first_ns : job->ended ? INT64_MAX : now_ns;
	const int64_t seen_ns = job->seen_ns ? job->seen_ns : first_ns;
	const bool is_missed = job->deadline_ns && first_ns > job->deadline_ns;

	group->offered++;
	if (is_refused) {
		group->refused++;
		return;
	}
	group->admitted++;
	group->missed += is_missed;
	group->missed_seen += job->deadline_ns && seen_ns > job->deadline_ns;
	group->unanswered += !job->ended;
	group->failed += job->ended && job->status != ATTND_OK && job->status != ATTND_EXPIRED;
	group->good += job->ended && job->status == ATTND_OK && !is_missed && (job->deadline_ns || job->last_ns <= end_ns);
}

int attnbench_replay_judge(
	const struct attnbench_replay_jobs *jobs, unsigned urgency, int64_t now_ns, struct attnbench_replay_group *group)
{
	const int64_t end_ns = attnbench_replay_end_ns(jobs);
	int64_t *first_ns = calloc(jobs->count, sizeof(*first_ns));
	size_t count = 0;

	*group = (struct attnbench_replay_group){ 0 };
	if (!first_ns)
		return base_fail(ENOMEM, "no memory to sort %zu times", jobs->count);
	for (size_t i = 0; i < jobs->count; i++) {
		const struct attnbench_replay_job *job = &jobs->jobs[i];

		if (urgency != ATTNBENCH_REPLAY_URGENCIES && job->urgency != (enum attnbench_replay_urgency)urgency)
			continue;
		count_job(job, end_ns, now_ns, group);
		if (job->seen_ns)
			first_ns[count++] = job->seen_ns - job->arrival_ns;
	}
	qsort(first_ns, count, sizeof(*first_ns), by_value);
	group->ttft_p50_ns = quantile(first_ns, count, 0.5);
	group->ttft_p99_ns = quantile(first_ns, count, 0.99);
	free(first_ns);
	return 0;
}

void attnbench_replay_refusals(const struct attnbench_replay_jobs *jobs, uint64_t refused[ATTND_STATUS_END])
{
	for (unsigned i = 0; i < ATTND_STATUS_END; i++)
		refused[i] = 0;
	for (size_t i = 0; i < jobs->count; i++) {
		const struct attnbench_replay_job *job = &jobs->jobs[i];

		if (job->ended && !job->admitted && job->tokens == 0 && job->status < ATTND_STATUS_END)
			refused[job->status]++;
	}
}
