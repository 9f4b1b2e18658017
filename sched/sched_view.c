/*
 * What can be seen of a scheduler without asking it. See the header. Scheduler's thread: plain stores into memory that others can
 * only read; no allocation after create, no lock, no system call, nothing read back.
 *
 * Two kinds of memory. Operators see counts, each stored when it changes, and the state of a moment, of which a copy is
 * published after each step, or, where nothing lands, when a poll finds no work, so that it never delays an answer. A client
 * sees its own requests: a ring of records, each under a number of its own, of which one line is written per step.
 *
 *   record n lies in slot (n - 1) & mask; it is its request's until record n + slots begins. A request that outlives that gets a new
 *   record when it is done.
 */
#include "sched/sched_view.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "base/base_error.h"
#include "sched/sched_private.h"

enum {
	UPDATE_BITS = 20, /* a record's number << UPDATE_BITS, with its updates in between: a sequence that never repeats */
	AHEAD = 4,        /* members of a step */
};

_Static_assert((int)ATTND_OP_END <= (int)ATTND_VIEW_OPS, "there is a place for each operation");
_Static_assert((int)ATTND_STATUS_END <= (int)ATTND_VIEW_STATUSES, "there is a place for each status");
_Static_assert((int)ATTND_CLASS_END <= (int)ATTND_VIEW_CLASSES, "there is a place for each class");
_Static_assert((int)SCHED_COST_MODELS <= (int)ATTND_VIEW_MODELS, "there is a place for each model");

/* ---- records ------------------------------------------------------------------------------------- */

/* Where record n lies; NULL: it is another's by now, or there are none. */
static struct attnd_timeline *record_at(const struct sched_view_client *client, uint64_t number)
{
	return number && client->records - number <= client->mask ? &client->timelines[(number - 1) & client->mask] : NULL;
}

static uint64_t sequence_of(uint64_t number, uint32_t updates)
{
	return number << UPDATE_BITS | ((uint64_t)updates << 1 & ((1u << UPDATE_BITS) - 1));
}

/* A new record, without the times of steps; returns its number. It is there before its number is. */
static uint64_t record_put(struct sched_view_client *client, const struct attnd_timeline *record)
{
	const uint64_t number = ++client->records;
	struct attnd_timeline *to = record_at(client, number);

	base_view_begin(&to->number, sequence_of(number, 0));
	base_view_put_all((base_view_word *)to + 1, (const base_view_word *)record + 1,
		offsetof(struct attnd_timeline, step_ns) - sizeof(to->number));
	base_view_end(&to->number, sequence_of(number, 1));
	__atomic_store_n(&client->own->records, number, __ATOMIC_RELEASE);
	return number;
}

static struct attnd_timeline record_of(const struct sched *sched, const struct attnd_request *from, int64_t received_ns)
{
	return (struct attnd_timeline){ .request_id = from->request_id,
		.op = from->op,
		.priority_class = from->priority_class,
		.device = (uint8_t)sched->options.device,
		.session = from->session,
		.received_ns = received_ns,
		.deadline_ns = from->deadline_ns };
}

/* ---- requests ------------------------------------------------------------------------------------ */

static uint32_t op_of(uint8_t op)
{
	return op < ATTND_OP_END ? op : 0;
}

void sched_view_answered(struct sched *sched, const struct sched_message *message, const struct attnd_completion *completion)
{
	struct sched_view_client *client = &sched->clients[message->client].view;
	struct attnd_view_counts *counts = &sched->view.shared->counts;
	const uint32_t op = op_of(message->record.op);

	base_view_count(&counts->received[op]);
	if (completion->admitted_ns)
		base_view_count(&counts->admitted[op]);
	base_view_count(&counts->ended[op][completion->status]);
	if (!client->timelines)
		return;
	base_view_count(&client->own->ended[completion->status]);
	if (op == ATTND_OP_NOP)
		return;
	struct attnd_timeline record = record_of(sched, &message->record, message->received_ns);

	record.admitted_ns = completion->admitted_ns;
	record.done_ns = completion->done_ns;
	record.status = completion->status;
	record.predicted_ns = completion->status == ATTND_REFUSED_DEADLINE ? (int64_t)completion->value : 0;
	record_put(client, &record);
}

void sched_view_admitted(struct sched *sched, struct sched_request *request, int64_t predicted_ns)
{
	struct sched_view_client *client = &request->client->view;
	const uint32_t op = op_of(request->record.op);

	base_view_count(&sched->view.shared->counts.received[op]);
	base_view_count(&sched->view.shared->counts.admitted[op]);
	sched->view.now.waiting[request->record.priority_class]++;
	request->view = (struct sched_view_request){ .predicted_ns = predicted_ns };
	if (!client->timelines)
		return;
	struct attnd_timeline record = record_of(sched, &request->record, request->received_ns);

	record.admitted_ns = request->admitted_ns;
	record.predicted_ns = predicted_ns;
	request->view.number = record_put(client, &record);
	request->view.updates = 1;
}

void sched_view_started(struct sched *sched, struct sched_request *request)
{
	struct sched_view_request *view = &request->view;
	struct attnd_timeline *to = record_at(&request->client->view, view->number);

	sched->view.now.waiting[request->record.priority_class]--;
	sched->view.now.running[request->record.priority_class]++;
	if (!to)
		return;
	base_view_begin(&to->number, sequence_of(view->number, view->updates));
	base_view_put_time(&to->started_ns, request->started_ns);
	base_view_end(&to->number, sequence_of(view->number, ++view->updates));
}

static uint32_t took_ns(const struct sched_flight *flight)
{
	const int64_t ns = flight->landed_ns - flight->submitted_ns;

	return ns < 0 ? 0 : ns < UINT32_MAX ? (uint32_t)ns : UINT32_MAX;
}

static void step(const struct sched_flight *flight, const struct sched_member *member)
{
	struct sched_request *request = member->request;
	struct sched_view_request *view = &request->view;
	struct attnd_timeline *to = record_at(&request->client->view, view->number);
	const uint32_t at = view->steps++;

	view->rows += member->rows;
	view->last_step_ns = flight->landed_ns;
	if (!to)
		return;
	base_view_begin(&to->number, sequence_of(view->number, view->updates));
	base_view_put_time(&to->last_step_ns, flight->landed_ns);
	base_view_put_half(&to->steps, view->steps);
	base_view_put_half(&to->rows, view->rows);
	if (at < ATTND_TIMELINE_STEPS) {
		base_view_put_time(&to->step_ns[at], flight->landed_ns);
		base_view_put_half(&to->step_took_ns[at], took_ns(flight));
		base_view_put_half(&to->step_rows[at], member->rows);
	}
	base_view_end(&to->number, sequence_of(view->number, ++view->updates));
}

static void count_prediction(struct sched *sched, const struct sched_flight *flight, int64_t actual_ns)
{
	const uint32_t model = sched_flight_cost_model(flight);
	struct attnd_view_counts *counts = &sched->view.shared->counts;
	const double ratio = (double)(actual_ns > 0 ? actual_ns : 1) / (double)(flight->predicted_ns > 0 ? flight->predicted_ns : 1),
		     at = nearbyint(log2(ratio) * ATTND_VIEW_ERRORS_PER_DOUBLING) + ATTND_VIEW_ERRORS_ZERO, last = ATTND_VIEW_ERRORS - 1;

	base_view_count(&counts->errors[(uint32_t)(at < 0.0 ? 0.0 : at > last ? last : at)]);
	base_view_count(&counts->predictions);
	base_view_put(&counts->band[model], (uint64_t)(sched_cost_band(&sched->cost, model, 1.0) * 1e6));
}

/* A step has hundreds of members, whose requests and records no cache may hold any more. */
static void look_ahead(const struct sched_flight *flight, uint32_t member)
{
	if (member + 2 * AHEAD < flight->member_count)
		__builtin_prefetch(&flight->members[member + 2 * AHEAD].request->view, 1);
	if (member + AHEAD < flight->member_count) {
		const struct sched_request *request = flight->members[member + AHEAD].request;

		__builtin_prefetch(record_at(&request->client->view, request->view.number), 1);
	}
}

void sched_view_landed(struct sched *sched, const struct sched_flight *flight, int64_t actual_ns)
{
	sched->view.due = SCHED_VIEW_POLLS;
	count_prediction(sched, flight, actual_ns);
	for (uint32_t i = 0; i < flight->member_count; i++) {
		look_ahead(flight, i);
		step(flight, &flight->members[i]);
	}
}

/* Its record was given to another while it ran: what is still known of it goes into a new one. */
static void record_again(struct sched *sched, struct sched_request *request, enum attnd_status status, int64_t done_ns)
{
	struct sched_view_client *client = &request->client->view;
	struct attnd_timeline record = record_of(sched, &request->record, request->received_ns);

	record.last_step_ns = request->view.last_step_ns;
	record.steps = request->view.steps;
	record.rows = request->view.rows;
	record.started_ns = request->started_ns;
	record.done_ns = done_ns;
	record.status = (uint8_t)status;
	record.flags = (uint8_t)(ATTND_TIMELINE_CUT | (request->missed ? ATTND_TIMELINE_MISSED : 0));
	record.tokens = request->sequence;
	record.admitted_ns = request->admitted_ns;
	record.predicted_ns = request->view.predicted_ns;
	record_put(client, &record);
}

void sched_view_completed(struct sched *sched, struct sched_request *request, enum attnd_status status, int64_t done_ns)
{
	struct sched_view_client *client = &request->client->view;
	struct attnd_timeline *to = record_at(client, request->view.number);

	base_view_count(&sched->view.shared->counts.ended[op_of(request->record.op)][status]);
	if (request->started_ns)
		sched->view.now.running[request->record.priority_class]--;
	else
		sched->view.now.waiting[request->record.priority_class]--;
	if (!client->timelines)
		return;
	base_view_count(&client->own->ended[status]);
	if (!to) {
		record_again(sched, request, status, done_ns);
		return;
	}
	base_view_begin(&to->number, sequence_of(request->view.number, request->view.updates));
	base_view_put_time(&to->done_ns, done_ns);
	__atomic_store_n(&to->status, (uint8_t)status, __ATOMIC_RELAXED);
	__atomic_store_n(&to->flags, request->missed ? ATTND_TIMELINE_MISSED : 0, __ATOMIC_RELAXED);
	base_view_put_half(&to->tokens, request->sequence);
	base_view_end(&to->number, sequence_of(request->view.number, request->view.updates + 1));
}

/* ---- this moment --------------------------------------------------------------------------------- */

/* Since when the device works on what it has; 0: it has nothing. */
static int64_t begun_ns(const struct sched *sched)
{
	const struct sched_flight *flight = &sched->flights[sched->flight_first];

	if (sched->flight_count == 0 || flight->state != FLIGHT_FLYING)
		return 0;
	return flight->submitted_ns > sched->last_landed_ns ? flight->submitted_ns : sched->last_landed_ns;
}

static void note_memory(const struct sched *sched, struct attnd_view_now *now)
{
	struct sched_kv_usage usage;

	sched_kv_usage(sched->kv, &usage);
	now->kv_bytes = usage.total_bytes;
	now->kv_used = usage.used_bytes;
	now->kv_dirty = usage.dirty_bytes;
	now->kv_free = usage.free_bytes;
	now->kv_blocks = usage.blocks_used;
	now->kv_cached = 0;
	if (!sched->prefix)
		return;
	const struct sched_prefix_counters *prefix = sched_prefix_counters(sched->prefix);

	now->kv_cached = prefix->idle_bytes;
	now->kv_used -= prefix->idle_bytes;
	now->prefix_lookups = prefix->lookups;
	now->prefix_hits = prefix->hits;
	now->prefix_tokens = (uint64_t)prefix->pages_found * KERN_PAGE_TOKENS;
	now->prefix_evictions = prefix->pages_evicted;
	now->prefix_pages = prefix->pages;
}

static void note_counters(const struct sched *sched, struct attnd_view_now *now)
{
	const struct sched_counters *c = &sched->counters;

	now->busy_ns = c->busy_ns;
	now->begun_ns = begun_ns(sched);
	now->predicted_ns = c->predicted_ns;
	now->actual_ns = c->actual_ns;
	now->steps = c->steps;
	now->step_rows = c->step_rows;
	now->decode_rows = c->decode_rows;
	now->prefill_rows = c->prefill_rows;
	now->step_sequences = c->step_seqs;
	now->attends = c->attends;
	now->stream_completions = c->stream_completions;
	now->parked = c->parked;
	now->gone = c->gone;
	now->clients = c->clients;
	now->sessions = c->sessions;
	now->prefix_prompt_tokens = c->prefix_prompt_tokens;
	now->fair_drift_ns = c->fair_drift_ns;
}

static void publish(struct sched *sched)
{
	struct attnd_view_now *now = &sched->view.now, *to;

	sched->view.due = 0;
	note_counters(sched, now);
	note_memory(sched, now);
	now->published_ns = base_clock_now(sched->clock);
	now->number += 2;
	to = &sched->view.shared->now[now->number / 2 % 2];
	base_view_begin(&to->number, now->number);
	base_view_put_all((base_view_word *)to + 1, (const base_view_word *)now + 1,
		offsetof(struct attnd_view_now, reserved) - sizeof(to->number));
	base_view_end(&to->number, now->number);
}

void sched_view_poll(struct sched *sched, int work)
{
	if (work && ++sched->view.due < SCHED_VIEW_POLLS)
		return;
	if (sched->view.due)
		publish(sched);
}

/* ---- coming and going ---------------------------------------------------------------------------- */

void sched_view_client_add(struct sched_client *client, const struct sched_message *message)
{
	struct base_view_own_device *shared = message->out;

	client->view = (struct sched_view_client){ 0 };
	if (!shared)
		return;
	client->view.own = &shared->own;
	client->view.timelines = shared->timelines;
	client->view.mask = message->slots - 1;
}

int sched_view_create(struct sched *sched)
{
	struct sched_view *view = &sched->view;

	view->shared = sched->options.view;
	if (!view->shared) {
		view->own = calloc(1, sizeof(*view->own));
		if (!view->own)
			return base_fail(ENOMEM, "no memory for the scheduler's counts");
		view->shared = view->own;
	}
	view->now.started_ns = sched->started_ns;
	publish(sched);
	return 0;
}

void sched_view_destroy(struct sched *sched)
{
	free(sched->view.own);
}
