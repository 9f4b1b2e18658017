/*
 * The sender of attnbench replay. See attnbench_replay_run.h.
 */
#include "tools/attnbench_replay_run.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "attnd/view.h"
#include "base/base_error.h"
#include "tools/tool_daemon.h"
#include "tools/tool_text.h"

enum { COMPLETIONS = 64, UNIT = ATTND_UNIT_BYTES };
/* The answer of a TRUNCATE, whose number is its slot's. */
#define EMPTIES (UINT64_C(1) << 63)
/* The first request is that far away when the clock starts. */
static const int64_t LEAD_NS = 20000000;
/* How long this thread sleeps at most: to try a connection again that was full, and to show how far it is. */
static const int64_t AGAIN_NS = 1000000, LOOK_NS = 200000000;
/* A send is late when it is noticed later than a twentieth of the mean interval, within these bounds: a sleeper wakes late by tens of
 * microseconds, and by a scheduler's slice where all processors compute. */
static const int64_t TOLERANCE_MIN_NS = 100000, TOLERANCE_MAX_NS = 5000000;

int64_t attnbench_replay_now_ns(const struct attnbench_replay_sender *sender)
{
	return attnd_now_ns(sender->client) - sender->start_ns;
}

/* ---- sessions --------------------------------------------------------------------------------- */

static size_t input_bytes(uint32_t prompt)
{
	const size_t bytes = sizeof(struct attnd_generate_params) + sizeof(uint32_t) * (size_t)prompt;

	return (bytes + UNIT - 1) / UNIT * UNIT;
}

uint64_t attnbench_replay_arena_bytes(uint32_t sessions, uint32_t longest_prompt)
{
	/* And some for what the library itself loans for its synchronous calls. */
	return (uint64_t)sessions * (input_bytes(longest_prompt) + UNIT) + (4 << 20);
}

int attnbench_replay_open(struct attnbench_replay_sender *sender, struct attnd_client *client, uint32_t model, uint32_t sessions,
	uint32_t session_tokens, uint32_t longest_prompt)
{
	struct attnd_open_params params;

	attnd_open_defaults(&params);
	params.kind = ATTND_SESSION_MODEL;
	params.model = model;
	params.max_tokens = session_tokens;
	sender->client = client;
	for (uint32_t i = 0; i < sessions; i++) {
		struct attnbench_replay_slot *slot = &sender->slots[i];
		int err = attnd_session_open(client, &params, &slot->session);

		if (err)
			return tool_daemon_failed(err, "opening a session");
		slot->input = attnd_loan(client, input_bytes(longest_prompt));
		if (!slot->input) {
			tool_say("%u prompts of %u tokens do not fit into the arena", sessions, longest_prompt);
			return TOOL_FAILED;
		}
		/* The first one is taken first. */
		sender->free_slots[sessions - 1 - i] = i;
		sender->slot_count = sender->free_count = i + 1;
	}
	return TOOL_OK;
}

/* Whether there is a session for the job: one without a deadline leaves some to those with one. */
static bool has_room(const struct attnbench_replay_sender *sender, const struct attnbench_replay_job *job)
{
	const uint32_t used = sender->slot_count - sender->free_count;
	const bool is_modest = sender->tells && job->deadline_ns == 0;

	return sender->free_count > 0 && used < sender->limit - (is_modest ? sender->limit / 4 : 0);
}

/* ---- what waits here --------------------------------------------------------------------------- */

static void queue_push(struct attnbench_replay_queue *queue, size_t job)
{
	queue->jobs[(queue->first + queue->count++) % queue->room] = job;
}

static void queue_pop(struct attnbench_replay_queue *queue)
{
	queue->first = (queue->first + 1) % queue->room;
	queue->count--;
}

static struct attnbench_replay_job *queue_head(const struct attnbench_replay_sender *sender, const struct attnbench_replay_queue *queue)
{
	return &sender->jobs->jobs[queue->jobs[queue->first]];
}

/* ---- sending ------------------------------------------------------------------------------------ */

/* 1 where the connection took it, 0 where it has no room now, -errno. */
static int submit(struct attnbench_replay_sender *sender, const struct attnd_request *request)
{
	int taken = attnd_submit(sender->client, request, 1);

	if (taken == -EAGAIN || taken == 0) {
		sender->is_blocked = true;
		sender->excused_ns = attnbench_replay_now_ns(sender);
		return 0;
	}
	return taken;
}

static int send_job(struct attnbench_replay_sender *sender, struct attnbench_replay_job *job)
{
	const uint32_t index = sender->free_slots[sender->free_count - 1];
	struct attnbench_replay_slot *slot = &sender->slots[index];
	struct attnd_generate_params params;
	struct attnd_request request = { .op = ATTND_OP_GENERATE,
		.request_id = index,
		.session = slot->session,
		/* What has no deadline may wait; else the deadline says all. A daemon that is told none knows no difference. */
		.priority_class = sender->tells && job->deadline_ns == 0 ? ATTND_CLASS_BULK : ATTND_CLASS_INTERACTIVE,
		.deadline_ns = sender->tells && job->deadline_ns ? sender->start_ns + job->deadline_ns : 0,
		.argument = job->prompt,
		.in_offset = attnd_offset(sender->client, slot->input),
		.in_bytes = (uint32_t)(sizeof(params) + sizeof(uint32_t) * job->prompt) };
	int taken;

	attnd_generate_defaults(&params);
	params.max_tokens = job->output;
	/* Drawn and not the likeliest: after random prompts those run in circles, which is too easy to guess ahead. */
	params.sampling.temperature = 1;
	params.sampling.seed = sender->plan->seed + job->request;
	memcpy(slot->input, &params, sizeof(params));
	attnbench_replay_prompt(sender->plan, job, slot->input + sizeof(params) / sizeof(uint32_t));
	taken = submit(sender, &request);
	if (taken > 0) {
		sender->free_count--;
		slot->job = job;
		job->sent_ns = attnbench_replay_now_ns(sender);
	}
	return taken;
}

static void end_job(struct attnbench_replay_sender *sender, struct attnbench_replay_job *job, uint8_t status)
{
	job->ended = true;
	job->status = status;
	sender->ended++;
}

/* Everything whose time has come; whether this thread noticed it in time is booked. */
static void arrive(struct attnbench_replay_sender *sender, int64_t now_ns)
{
	for (; sender->next < sender->jobs->count; sender->next++) {
		const struct attnbench_replay_job *job = &sender->jobs->jobs[sender->next];

		if (job->arrival_ns > now_ns)
			return;
		base_hist_add(&sender->lateness, now_ns - job->arrival_ns);
		sender->late += job->arrival_ns > sender->excused_ns && now_ns - job->arrival_ns > sender->tolerance_ns;
		queue_push(sender->tells && job->deadline_ns ? &sender->urgent : &sender->patient, sender->next);
	}
}

/* Sends what there is room for. 0 or -errno. */
static int dispatch(struct attnbench_replay_sender *sender)
{
	struct attnbench_replay_queue *const queues[] = { &sender->urgent, &sender->patient };

	for (unsigned i = 0; i < 2; i++) {
		struct attnbench_replay_queue *queue = queues[i];

		while (queue->count > 0 && !sender->is_blocked) {
			struct attnbench_replay_job *job = queue_head(sender, queue);

			if (has_room(sender, job)) {
				int taken = send_job(sender, job);

				if (taken < 0)
					return taken;
				if (taken == 0)
					break;
			} else if (queue == &sender->urgent) {
				end_job(sender, job, ATTND_NO_SESSIONS);
			} else {
				break;
			}
			queue_pop(queue);
		}
	}
	if (sender->patient.count > sender->waited_most)
		sender->waited_most = sender->patient.count;
	return 0;
}

/* Sessions whose requests are over are emptied for the next. 0 or -errno. */
static int empty(struct attnbench_replay_sender *sender)
{
	while (sender->used_count > 0 && !sender->is_blocked) {
		const uint32_t index = sender->used_slots[sender->used_count - 1];
		const struct attnd_request request = {
			.op = ATTND_OP_TRUNCATE, .request_id = EMPTIES | index, .session = sender->slots[index].session
		};
		int taken = submit(sender, &request);

		if (taken < 0)
			return taken;
		sender->used_count -= taken > 0;
	}
	return 0;
}

/* ---- answers ------------------------------------------------------------------------------------ */

static void book_token(struct attnbench_replay_sender *sender, struct attnbench_replay_job *job,
	const struct attnd_completion *completion, int64_t seen_ns)
{
	job->last_ns = completion->done_ns - sender->start_ns;
	job->admitted = true;
	if (job->tokens++ > 0)
		return;
	job->first_ns = job->last_ns;
	job->seen_ns = seen_ns;
}

/* What the daemon promised, or could have, where its memory shows that: for who looks at single requests. */
static int64_t promised_ns(const struct attnbench_replay_sender *sender, uint64_t request_id)
{
	struct attnd_timeline timeline;

	if (attnd_view_timeline(sender->client, request_id, &timeline) || timeline.predicted_ns == 0)
		return 0;
	return timeline.predicted_ns - sender->start_ns;
}

static void book(struct attnbench_replay_sender *sender, const struct attnd_completion *completion, int64_t seen_ns)
{
	const uint32_t index = (uint32_t)completion->request_id;
	struct attnbench_replay_slot *slot = &sender->slots[index];

	if (completion->request_id & EMPTIES) {
		if (completion->status == ATTND_OK)
			sender->free_slots[sender->free_count++] = index;
		else
			sender->lost++;
		return;
	}
	if (!(completion->flags & ATTND_CPL_FINAL)) {
		book_token(sender, slot->job, completion, seen_ns);
		return;
	}
	slot->job->admitted |= completion->admitted_ns != 0;
	slot->job->predicted_ns = slot->job->deadline_ns && sender->tells ? promised_ns(sender, completion->request_id) : 0;
	end_job(sender, slot->job, completion->status);
	/* What was refused left nothing in its session. */
	if (slot->job->admitted)
		sender->used_slots[sender->used_count++] = index;
	else
		sender->free_slots[sender->free_count++] = index;
	slot->job = NULL;
}

/* Sleeps until something comes or the next request is due, and takes all that came. 0 or -errno. */
static int take_answers(struct attnbench_replay_sender *sender)
{
	struct attnd_completion completions[COMPLETIONS];
	int64_t timeout_ns = sender->is_blocked ? AGAIN_NS : LOOK_NS, left_ns;
	int got;

	if (sender->next < sender->jobs->count) {
		left_ns = sender->jobs->jobs[sender->next].arrival_ns - attnbench_replay_now_ns(sender);
		left_ns = left_ns > 0 ? left_ns : 0;
		timeout_ns = left_ns < timeout_ns ? left_ns : timeout_ns;
	}
	sender->is_blocked = false;
	got = attnd_wait(sender->client, completions, COMPLETIONS, timeout_ns);
	while (got > 0) {
		const int64_t seen_ns = attnbench_replay_now_ns(sender);

		for (int i = 0; i < got; i++)
			book(sender, &completions[i], seen_ns);
		got = got == COMPLETIONS ? attnd_poll(sender->client, completions, COMPLETIONS) : 0;
	}
	return got;
}

/* ---- one run ------------------------------------------------------------------------------------ */

static int queue_init(struct attnbench_replay_queue *queue, size_t room)
{
	*queue = (struct attnbench_replay_queue){ .jobs = malloc(sizeof(*queue->jobs) * room), .room = room };
	return queue->jobs ? 0 : base_fail(ENOMEM, "no memory for %zu requests", room);
}

static int64_t tolerance_ns(const struct attnbench_replay_jobs *jobs)
{
	const int64_t twentieth_ns = jobs->jobs[jobs->count - 1].arrival_ns / (int64_t)jobs->count / 20;

	return twentieth_ns < TOLERANCE_MIN_NS ? TOLERANCE_MIN_NS : twentieth_ns > TOLERANCE_MAX_NS ? TOLERANCE_MAX_NS : twentieth_ns;
}

static int begin(struct attnbench_replay_sender *sender, const struct attnbench_replay_plan *plan, struct attnbench_replay_jobs *jobs,
	const struct attnbench_replay_way *way)
{
	int err = queue_init(&sender->urgent, jobs->count);

	if (!err)
		err = queue_init(&sender->patient, jobs->count);
	sender->plan = plan;
	sender->jobs = jobs;
	sender->limit = way->sessions && way->sessions < sender->slot_count ? way->sessions : sender->slot_count;
	sender->tells = way->tells;
	sender->next = sender->ended = sender->waited_most = 0;
	sender->late = 0;
	sender->is_blocked = false;
	sender->tolerance_ns = tolerance_ns(jobs);
	base_hist_clear(&sender->lateness);
	sender->start_ns = attnd_now_ns(sender->client) + LEAD_NS;
	sender->excused_ns = -LEAD_NS;
	return err;
}

/* No more of the jobs: those not sent are left out. */
static void stop(struct attnbench_replay_sender *sender)
{
	while (sender->patient.count > 0) {
		end_job(sender, queue_head(sender, &sender->patient), ATTND_CANCELLED);
		queue_pop(&sender->patient);
	}
}

/* Whether anything is left to be done; sessions are emptied before a run is over, so that the next one has them all. */
static bool goes_on(const struct attnbench_replay_sender *sender)
{
	return sender->ended < sender->jobs->count || sender->used_count > 0 || attnd_in_flight(sender->client) > 0;
}

int attnbench_replay_run(struct attnbench_replay_sender *sender, const struct attnbench_replay_plan *plan,
	struct attnbench_replay_jobs *jobs, const struct attnbench_replay_way *way)
{
	const int64_t over_ns = jobs->jobs[jobs->count - 1].arrival_ns + way->patience_ns;
	int err = begin(sender, plan, jobs, way);
	int64_t now_ns = 0, shown_ns = 0;

	while (!err && goes_on(sender) && now_ns < over_ns) {
		now_ns = attnbench_replay_now_ns(sender);
		arrive(sender, now_ns);
		if (way->stop_ns && now_ns > way->stop_ns)
			stop(sender);
		err = dispatch(sender);
		if (!err)
			err = empty(sender);
		if (!err)
			err = take_answers(sender);
		if (now_ns >= shown_ns) {
			tool_progress("%s: %zu of %zu requests", way->what, sender->ended, jobs->count);
			shown_ns = now_ns + LOOK_NS;
		}
	}
	tool_progress(NULL);
	free(sender->urgent.jobs);
	free(sender->patient.jobs);
	sender->urgent.jobs = sender->patient.jobs = NULL;
	return err;
}
