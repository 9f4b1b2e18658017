/*
 * Speculation: which streams guess ahead in a step, and how far. Scheduler's thread, while a step is formed.
 *
 * Behind a stream's row come rows of the tokens that it probably says next (sched_draft.c). When the step lands, each row's token
 * is drawn as ever, from (seed, position), and the next row counts only if it is that token's (sched_finish.c). So what a client
 * gets is what it would get without, and what is stored too:
 *
 *   - A draft lies on the page of the row before it. So it needs no block and writes to none that is shared; no page of a format
 *     with low halves begins and takes those of an earlier one; and what a wrong draft leaves lies behind the session's position, as
 *     after a TRUNCATE on that page, where the next row overwrites it. Block 0's mean is computed anew with its 64th token.
 *   - A session's position moves behind a draft only when it was right; pages are added to the prefix cache up to there.
 *
 * Nobody else pays. Drafts join a step that carries all who wait, a row each, and only while every deadline in it is kept; they
 * take credits and reply slots that nobody else is about to need; and they are charged as rows are. They have to pay by the cost
 * model: tokens expected for the time predicted must become more. Those who guess nothing are held up by an eighth of the step at
 * most.
 *
 * How far: the cost model speaks of rows, not of whose they are, so all drafts of a step above some chance are taken, and the
 * chance that brings most tokens for the time is sought among nine. The chances are the sessions' own, and go on being measured where
 * nothing is guessed; the cost model learns from steps with drafts alone, so if it is against them, now and then some go through.
 */
#include "sched/sched_private.h"

enum {
	BINS = 10, /* of chances */
	FOLLOW_MOST = 512, /* tokens of a history that are looked at in one go */
	DELAY_PART = 8,
	PROBE_STEPS = 256,
	CROWD = 8 /* with so many members it is asked first whether anything could pay at all */
};

/* What a step gains must be more than this, or the next one might undo it. */
static const double GAIN_LEAST = 1.02;

/* What there is to be had, by chance. */
struct wishes {
	struct {
		uint64_t visits, kv_bytes;
		double tokens; /* expected */
		uint32_t rows, streams; /* streams: whose first draft this is */
	} bins[BINS];
};

static uint32_t bin_of(float chance)
{
	const uint32_t bin = (uint32_t)(chance * BINS);

	return bin < BINS ? bin : BINS - 1;
}

static uint32_t least(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

uint32_t sched_speculate_follow(struct sched *sched, struct sched_session *session, uint32_t count, bool drawn)
{
	return sched->draft_slots ? sched_draft_follow(&session->draft, session->tokens, count, FOLLOW_MOST, drawn) : 0;
}

/* Drafts that the stream may have behind its row, whatever they cost. */
static uint32_t room(struct sched *sched, const struct sched_member *member)
{
	const struct sched_request *request = member->request;
	const struct sched_session *session = member->session;
	const struct sched_client *client = request->client;
	uint32_t most = sched->options.speculate;

	if (request->record.op != ATTND_OP_GENERATE || request->generate.generated == 0 ||
		client->credits < client->session_count)
		return 0;
	most = least(most, KERN_PAGE_TOKENS - 1 - session->position % KERN_PAGE_TOKENS);
	most = least(most, session->max_tokens - 1 - session->position);
	most = least(most, request->generate.params.max_tokens - 1 - request->generate.generated);
	/* Its other sessions may want one each. */
	most = least(most, client->credits - client->session_count);
	return sched_lane_room(client->lane, most + SCHED_MESSAGES_PER_POLL) ? most : 0;
}

static uint32_t chances_of(struct sched *sched, const struct sched_member *member, float chances[SCHED_DRAFT_MOST])
{
	const struct sched_session *session = member->session;
	const uint32_t most = room(sched, member);

	return most == 0 ? 0 : sched_draft_chances(&session->draft, session->tokens, session->position + 1, most, SCHED_TOKEN_NONE, chances);
}

/* Behind the row of a session, drafts first .. end. */
static struct sched_load load_of(const struct sched_session *session, uint32_t first, uint32_t end)
{
	struct sched_load load = { .rows = end - first, .outs = end - first };

	for (uint32_t i = first; i < end; i++)
		load.visits += (uint64_t)session->position + i + 2;
	load.kv_bytes = sched_session_bytes(session, end - first);
	return load;
}

/* False: nobody has anything that is not more likely wrong than worth a thought. */
static bool gather(struct sched *sched, const struct sched_flight *flight, struct wishes *wishes)
{
	bool any = false;

	for (uint32_t m = 0; m < flight->member_count; m++) {
		const struct sched_member *member = &flight->members[m];
		float chances[SCHED_DRAFT_MOST];
		const uint32_t count = chances_of(sched, member, chances);

		for (uint32_t i = 0; i < count && bin_of(chances[i]) > 0; i++) {
			const struct sched_load load = load_of(member->session, i, i + 1);
			const uint32_t bin = bin_of(chances[i]);

			wishes->bins[bin].rows++;
			wishes->bins[bin].tokens += (double)chances[i];
			wishes->bins[bin].visits += load.visits;
			wishes->bins[bin].kv_bytes += load.kv_bytes;
			wishes->bins[bin].streams += i == 0;
			any = true;
		}
	}
	return any;
}

/* Deadlines are not for trying out how long a step of that size takes. */
static bool in_time(const struct sched *sched, const struct sched_flight *flight, const struct sched_load *load, int64_t ns,
	int64_t until_ns)
{
	return until_ns == INT64_MAX ||
		(ns <= until_ns - sched->now_ns && sched_cost_learnt(&sched->cost, flight->model, load));
}

/* The least chance that is worth a row, as a bin; BINS: none is. */
static uint32_t choose(struct sched *sched, const struct sched_flight *flight, const struct sched_spare *spare,
	const struct wishes *wishes)
{
	const int64_t plain_ns = flight->predicted_ns;
	const uint32_t room_rows = least(spare->rows, spare->outs);
	double tokens = flight->member_count, best = tokens / (double)plain_ns * GAIN_LEAST;
	uint32_t streams = 0, chosen = BINS, possible = BINS;
	struct sched_load load = flight->load;

	for (uint32_t bin = BINS - 1; bin > 0; bin--) {
		int64_t ns;

		if (wishes->bins[bin].rows == 0)
			continue;
		sched_load_add(&load, &(struct sched_load){ .rows = wishes->bins[bin].rows,
			.outs = wishes->bins[bin].rows,
			.visits = wishes->bins[bin].visits,
			.kv_bytes = wishes->bins[bin].kv_bytes });
		tokens += wishes->bins[bin].tokens;
		streams += wishes->bins[bin].streams;
		ns = sched_cost_predict(&sched->cost, flight->model, &load);
		if (load.rows - flight->load.rows > room_rows || !in_time(sched, flight, &load, ns, spare->until_ns))
			break;
		/* Later bins may bring in those who are held up. */
		if (streams < flight->member_count && ns - plain_ns > plain_ns / DELAY_PART)
			continue;
		possible = possible == BINS ? bin : possible;
		if (tokens / (double)ns > best) {
			best = tokens / (double)ns;
			chosen = bin;
		}
	}
	if (chosen != BINS || possible == BINS) {
		sched->unspeculated[flight->model] = 0;
	} else if (++sched->unspeculated[flight->model] >= PROBE_STEPS) {
		sched->unspeculated[flight->model] = 0;
		chosen = possible;
	}
	return chosen;
}

/* Of a crowd that fills the device no guess pays, however good. */
static bool may_pay(const struct sched *sched, const struct sched_flight *flight)
{
	struct sched_load load = flight->load;

	if (flight->member_count < CROWD)
		return true;
	sched_load_add(&load, &(struct sched_load){ .rows = flight->member_count, .outs = flight->member_count, .visits = load.visits });
	return 2.0 / (double)sched_cost_predict(&sched->cost, flight->model, &load) > GAIN_LEAST / (double)flight->predicted_ns;
}

/* The stream's drafts of this chance or more become rows. */
static void draft(struct sched *sched, struct sched_flight *flight, struct sched_member *member, uint32_t bin)
{
	struct sched_client *client = member->request->client;
	float chances[SCHED_DRAFT_MOST];
	const uint32_t count = chances_of(sched, member, chances);
	struct sched_load load;
	uint32_t drafts = 0;

	while (drafts < count && bin_of(chances[drafts]) >= bin)
		drafts++;
	if (drafts == 0)
		return;
	client->credits -= drafts;
	client->promised += drafts;
	client->lane->promised += drafts;
	member->request->streams += (uint8_t)drafts;
	member->rows += drafts;
	member->outs += drafts;
	member->drafts = drafts;
	load = load_of(member->session, 0, drafts);
	sched_load_add(&flight->load, &load);
	sched_load_add(&flight->parts[client->tenant].load, &load);
	sched->counters.draft_rows += drafts;
}

bool sched_speculate(struct sched *sched, struct sched_flight *flight, const struct sched_spare *spare)
{
	struct wishes wishes = { 0 };
	uint32_t bin;

	flight->predicted_ns = sched_cost_predict(&sched->cost, flight->model, &flight->load);
	if (spare->rows == 0 || spare->outs == 0 || !may_pay(sched, flight) || !gather(sched, flight, &wishes))
		return false;
	bin = choose(sched, flight, spare, &wishes);
	for (uint32_t m = 0; bin < BINS && m < flight->member_count; m++)
		draft(sched, flight, &flight->members[m], bin);
	return bin < BINS;
}
