/*
 * The load generator. See attnbench_load.h.
 */
#include "tools/attnbench_load.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "base/base_error.h"
#include "base/base_rand.h"

/* An intended send is missed when it is noticed later than a twentieth of the interval, within
 * these bounds. */
enum { TOLERANCE_MIN_NS = 2000, TOLERANCE_MAX_NS = 50000, COMPLETIONS = 64 };
/* Requests that go before another one carry this bit; their answers are not measured. */
#define LEADS (UINT64_C(1) << 63)
/* After the span is over, answers may take this long. */
#define DRAIN_NS INT64_C(10000000000)

struct loop {
	struct attnd_client *client;
	struct base_clock *clock;
	const struct attnbench_target *target;
	struct attnbench_result *result;
	uint32_t free_slots[ATTNBENCH_SLOTS_MAX], free_count;
	uint32_t out; /* requests not answered, leading ones included */
	bool full;    /* a send had to wait for room in the ring */
	int64_t ahead_ns; /* the daemon's clock */
	int64_t intended_ns[ATTNBENCH_SLOTS_MAX], sent_ns[ATTNBENCH_SLOTS_MAX];
};

/* ---- pace ----------------------------------------------------------------------------------- */

void attnbench_pace_start(
	struct attnbench_pace *pace, double rate, bool poisson, uint64_t seed, int64_t start_ns)
{
	double twentieth = 1e9 / rate / 20;

	*pace = (struct attnbench_pace){ .interval_ns = 1e9 / rate,
		.poisson = poisson,
		.random = seed,
		.next_ns = (double)start_ns };
	pace->tolerance_ns = twentieth < TOLERANCE_MIN_NS ? TOLERANCE_MIN_NS :
		twentieth > TOLERANCE_MAX_NS              ? TOLERANCE_MAX_NS :
							    (int64_t)twentieth;
}

bool attnbench_pace_due(struct attnbench_pace *pace, int64_t now_ns)
{
	int64_t intended_ns = (int64_t)pace->next_ns;

	if (now_ns < intended_ns)
		return false;
	if (!pace->looked) {
		pace->looked = true;
		pace->missed +=
			intended_ns > pace->excused_ns && now_ns - intended_ns > pace->tolerance_ns;
	}
	return true;
}

void attnbench_pace_blocked(struct attnbench_pace *pace, int64_t now_ns)
{
	pace->excused_ns = now_ns;
	pace->held_back += !pace->blocked;
	pace->blocked = true;
}

int64_t attnbench_pace_take(struct attnbench_pace *pace)
{
	int64_t intended_ns = (int64_t)pace->next_ns;
	double interval_ns = pace->interval_ns;

	if (pace->poisson)
		interval_ns *= -log(1 - (double)(base_rand_next(&pace->random) >> 11) * 0x1p-53);
	pace->next_ns += interval_ns;
	pace->looked = pace->blocked = false;
	pace->scheduled++;
	return intended_ns;
}

/* ---- results -------------------------------------------------------------------------------- */

void attnbench_result_clear(struct attnbench_result *result)
{
	memset(result, 0, sizeof(*result));
	base_hist_clear(&result->latency);
	base_hist_clear(&result->between);
	base_hist_clear(&result->whole);
	for (int i = 0; i < ATTNBENCH_PARTS; i++)
		base_hist_clear(&result->parts[i]);
}

void attnbench_result_merge(struct attnbench_result *into, const struct attnbench_result *from)
{
	into->answered += from->answered;
	into->late += from->late;
	for (int i = 0; i < ATTND_STATUS_END; i++)
		into->failed[i] += from->failed[i];
	into->scheduled += from->scheduled;
	into->missed += from->missed;
	into->held_back += from->held_back;
	into->span_ns += from->span_ns;
	base_hist_merge(&into->latency, &from->latency);
	base_hist_merge(&into->between, &from->between);
	base_hist_merge(&into->whole, &from->whole);
	into->tokens += from->tokens;
	for (int i = 0; i < ATTNBENCH_PARTS; i++)
		base_hist_merge(&into->parts[i], &from->parts[i]);
}

bool attnbench_result_void(const struct attnbench_result *result)
{
	return result->missed * 1000 > result->scheduled;
}

int64_t attnbench_clock_ahead_ns(const struct attnd_client *client, struct base_clock *clock)
{
	return attnd_clock_error_ns(client) > 0 ? attnd_now_ns(client) - base_clock_now(clock) : 0;
}

void attnbench_result_add(struct attnbench_result *result, const struct attnd_completion *completion, int64_t intended_ns, int64_t sent_ns,
	int64_t seen_ns, int64_t ahead_ns)
{
	const int64_t times[ATTNBENCH_PARTS + 1] = { sent_ns + ahead_ns, completion->received_ns, completion->admitted_ns,
		completion->started_ns, completion->done_ns, seen_ns + ahead_ns };

	result->answered++;
	result->late += (completion->flags & ATTND_CPL_MISSED) != 0;
	base_hist_add(&result->latency, seen_ns - intended_ns);
	for (int i = 0; i < ATTNBENCH_PARTS; i++) {
		/* The two clocks are read on two processors: a few nanoseconds below 0 are 0. */
		if (times[i] && times[i + 1])
			base_hist_add(&result->parts[i], times[i + 1] > times[i] ? times[i + 1] - times[i] : 0);
	}
}

static void book(struct loop *loop, const struct attnd_completion *completion, int64_t seen_ns)
{
	uint32_t slot = (uint32_t)completion->request_id;

	if (!(completion->flags & ATTND_CPL_FINAL))
		return;
	loop->out--;
	if (completion->request_id & LEADS) {
		loop->result->failed[completion->status] += completion->status != ATTND_OK;
		return;
	}
	loop->free_slots[loop->free_count++] = slot;
	if (completion->status != ATTND_OK) {
		loop->result->failed[completion->status]++;
		return;
	}
	attnbench_result_add(loop->result, completion, loop->intended_ns[slot], loop->sent_ns[slot], seen_ns, loop->ahead_ns);
}

/* ---- the two loops -------------------------------------------------------------------------- */

static void start(struct loop *loop, struct attnd_client *client, struct base_clock *clock,
	const struct attnbench_target *target, struct attnbench_result *result)
{
	loop->client = client;
	loop->clock = clock;
	loop->target = target;
	loop->result = result;
	loop->out = 0;
	loop->ahead_ns = attnbench_clock_ahead_ns(client, clock);
	loop->free_count =
		target->slots < ATTNBENCH_SLOTS_MAX ? target->slots : ATTNBENCH_SLOTS_MAX;
	for (uint32_t i = 0; i < loop->free_count; i++)
		loop->free_slots[i] = loop->free_count - 1 - i;
}

/* Takes what has come. Returns how many, or -errno. */
static int collect(struct loop *loop)
{
	struct attnd_completion completions[COMPLETIONS];
	int got = attnd_poll(loop->client, completions, COMPLETIONS);

	if (got <= 0)
		return got;
	int64_t seen_ns = base_clock_now(loop->clock);

	for (int i = 0; i < got; i++)
		book(loop, &completions[i], seen_ns);
	return got;
}

/* Sends one from a free slot, of which there is one; waits where the ring has no room.
 * intended_ns 0: now. 0, or the connection's error. */
static int send_one(struct loop *loop, int64_t intended_ns)
{
	struct attnd_request requests[2];
	uint32_t slot = loop->free_slots[--loop->free_count];
	unsigned count = loop->target->fill(loop->target->context, slot, requests), sent = 0;

	requests[0].request_id = LEADS;
	requests[count - 1].request_id = slot;
	requests[count - 1].priority_class = loop->target->priority_class;
	loop->sent_ns[slot] = base_clock_now(loop->clock);
	loop->intended_ns[slot] = intended_ns ? intended_ns : loop->sent_ns[slot];
	if (loop->target->deadline_ns)
		requests[count - 1].deadline_ns =
			loop->intended_ns[slot] + loop->target->deadline_ns + loop->ahead_ns;
	while (sent < count) {
		int taken = attnd_submit(loop->client, requests + sent, count - sent);

		if (taken > 0) {
			sent += (unsigned)taken;
			loop->out += (unsigned)taken;
			continue;
		}
		if (taken != -EAGAIN)
			return taken;
		loop->full = true;
		int got = collect(loop);

		if (got < 0)
			return got;
	}
	return 0;
}

static int drain(struct loop *loop)
{
	int64_t until_ns = base_clock_now(loop->clock) + DRAIN_NS;

	while (loop->out > 0) {
		int got = collect(loop);

		if (got < 0)
			return got;
		if (got == 0 && base_clock_now(loop->clock) > until_ns)
			return base_fail(ETIMEDOUT,
				"%u requests are still unanswered 10 s after the last", loop->out);
	}
	return 0;
}

int attnbench_closed(struct attnd_client *client, struct base_clock *clock,
	const struct attnbench_target *target, uint32_t in_flight, int64_t span_ns,
	struct attnbench_result *result)
{
	static struct loop loop;
	int64_t begin_ns = base_clock_now(clock);
	int err = 0;

	start(&loop, client, clock, target, result);
	uint32_t spare = in_flight < loop.free_count ? loop.free_count - in_flight : 0;

	while (!err && base_clock_now(clock) < begin_ns + span_ns) {
		while (!err && loop.free_count > spare)
			err = send_one(&loop, 0);
		int got = 0;

		while (!err && (got = collect(&loop)) == 0)
			continue;
		err = got < 0 ? got : err;
	}
	result->span_ns += base_clock_now(clock) - begin_ns;
	return err ? err : drain(&loop);
}

/* Everything whose time has come, as long as there are slots. */
static int send_due(struct loop *loop, struct attnbench_pace *pace, int64_t end_ns)
{
	int64_t now_ns = base_clock_now(loop->clock);
	int err = 0;

	while (!err && pace->next_ns < (double)end_ns && attnbench_pace_due(pace, now_ns)) {
		if (loop->free_count == 0) {
			attnbench_pace_blocked(pace, now_ns);
			break;
		}
		loop->full = false;
		err = send_one(loop, attnbench_pace_take(pace));
		if (loop->full)
			pace->excused_ns = base_clock_now(loop->clock);
	}
	return err;
}

int attnbench_open(struct attnd_client *client, struct base_clock *clock,
	const struct attnbench_target *target, struct attnbench_pace *pace, int64_t span_ns,
	struct attnbench_result *result)
{
	static struct loop loop;
	int64_t begin_ns = base_clock_now(clock);
	int err = 0;

	start(&loop, client, clock, target, result);
	pace->next_ns = (double)begin_ns;
	while (!err && pace->next_ns < (double)(begin_ns + span_ns)) {
		err = send_due(&loop, pace, begin_ns + span_ns);
		int got = err ? 0 : collect(&loop);

		err = got < 0 ? got : err;
	}
	if (!err)
		err = drain(&loop);
	result->span_ns += base_clock_now(clock) - begin_ns;
	result->scheduled += pace->scheduled;
	result->missed += pace->missed;
	result->held_back += pace->held_back;
	return err;
}
