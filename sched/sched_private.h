/*
 * What the files of sched/ do for each other, seen by nobody else. The state (sched_state.h) belongs to the thread that calls sched_poll,
 * and is taken once, in sched_create.
 *
 *   sched.c           messages in, replies out, the poll
 *   sched_request.c   a request's way: accept, start, block, park, complete
 *   sched_session.c   sessions: handles, open, fork, truncate, close; their blocks
 *   sched_client.c    clients: arrival, credits, cancel, death
 *   sched_describe.c  DESCRIBE
 *   sched_blocks.c    a session's KV blocks: take, copy before a write, share, release
 *   sched_debt.c      what accepted requests still ask of the device, as sums
 *   sched_reuse.c     a session's pages in the prefix cache (sched_prefix*.c)
 *   sched_predict.c   when a request that arrives now would finish, and whether it breaks an earlier promise
 *   sched_share.c     tenants: whose turn it is, who pays for a step, quotas of device time
 *   sched_start.c     validation of STEP and GENERATE;   sched_attend.c: of APPEND and ATTEND
 *   sched_turns.c     who is ready, in order;   sched_step.c: a work formed of them
 *   sched_flight.c    works on the device: submit, poll, and what follows from copies and zeroing
 *   sched_finish.c    results of steps
 *   sched_speculate.c which streams guess ahead in a step, and how far;   sched_draft.c: what they guess
 *   sched_cost.c      how long a step will take;   sched_calibrate.c: what it learns before the first one
 *   sched_view.c      what others see without asking
 *   sched_setup.c     create and destroy;   sched_check.c: invariants, views (cold)
 *
 * Where a session stands (the place of its head request):
 *
 *   (queue) --kick--> start --blocks there--> READY --step formed--> flight --rows left--> READY
 *                       |                      ^  ^                    |
 *                       +--no clean block--> BLOCKED  PARKED <--no credit
 */
#ifndef SCHED_PRIVATE_H
#define SCHED_PRIVATE_H

#include "sched/sched_state.h"

/* ---- sched.c -------------------------------------------------------------------------- */

/* An answer to a message that never became a request of the pool. */
struct sched_answer {
	enum attnd_status status;
	uint32_t position, result_bytes;
	uint64_t value;
};
void sched_answer(
	struct sched *sched, const struct sched_message *message, struct sched_answer answer);
/* A slot of the lane's `out` that was promised: never NULL; all of it is to be written. */
struct sched_reply *sched_reply_claim(struct sched_lane_use *lane);
void sched_reply_send(struct sched_lane_use *lane);
/* Room for so many replies beyond those that were promised? */
static inline bool sched_lane_room(const struct sched_lane_use *lane, uint64_t slots)
{
	return base_spsc_room(lane->out, lane->promised + slots);
}
static inline uint32_t sched_lane_bit(const struct sched *sched, const struct sched_lane_use *lane)
{
	return 1u << (lane - sched->lanes);
}

/* ---- sched_request.c ------------------------------------------------------------------ */

/* Takes any request but NOP, and answers, queues or refuses it. */
void sched_request_take(struct sched *sched, const struct sched_message *message);
/* The one way out: unlinks, counts, replies (unless the client is leaving), returns it to the pool,
 * kicks its session. */
void sched_request_complete(
	struct sched *sched, struct sched_request *request, enum attnd_status status);
/* Ends a request that may be anywhere: at once, or when its flight lands. */
void sched_request_end(
	struct sched *sched, struct sched_request *request, enum attnd_status status);
/* One stream completion, out of what its flight was promised. */
void sched_request_stream(struct sched *sched, struct sched_request *request, uint32_t token);
/* The same for stream completions whose tokens are not to come. */
void sched_request_release(struct sched *sched, struct sched_request *request);
static inline void sched_request_unpromise(struct sched *sched, struct sched_request *request)
{
	if (request->streams > 0)
		sched_request_release(sched, request);
}
/* Starts what was kicked; tries again what waited for blocks. Return the work done. */
int sched_requests_start(struct sched *sched);
int sched_requests_unblock(struct sched *sched);
/* Ends what is past its deadline and not in flight. */
int sched_requests_expire(struct sched *sched);
/* ACTIVE and its flight landed, or just started: goes where it can next make progress. */
void sched_request_proceed(struct sched *sched, struct sched_request *request);
/* What it does next is to be done by then; INT64_MAX: whenever. */
void sched_request_time(struct sched *sched, struct sched_request *request, int64_t deadline_ns);
static inline void sched_request_deadline(struct sched *sched, struct sched_request *request, int64_t deadline_ns)
{
	if (deadline_ns != INT64_MAX || request->deadline_ns != INT64_MAX)
		sched_request_time(sched, request, deadline_ns);
}
/* It is in a work that is about to be launched. */
static inline void sched_request_run(struct sched *sched, struct sched_request *request)
{
	request->state = REQUEST_RUNNING;
	if (request->started_ns != 0)
		return;
	request->started_ns = sched->now_ns;
	sched_view_started(sched, request);
}

/* ---- sched_start.c, sched_attend.c ---------------------------------------------------- */

/* Validate, copy what indexes or sizes, and set up rows; SCHED_STARTED or the status that ends the
 * request. */
unsigned sched_start_step(struct sched *sched, struct sched_request *request);
unsigned sched_start_generate(struct sched *sched, struct sched_request *request);
unsigned sched_start_attend(struct sched *sched, struct sched_request *request);
/* Whether row (of the request's input) is to be output. */
bool sched_row_selected(const struct sched_request *request, uint32_t row);
/* Whether no row but the last one ever is. */
static inline bool sched_last_only(const struct sched_request *request)
{
	return request->record.op == ATTND_OP_GENERATE ||
		(request->step.select == ATTND_SELECT_LAST && request->step.output != ATTND_OUT_NONE);
}
/* All zero means greedy. False for a value out of its range. */
bool sched_sampling_copy(struct model_sampling *to, const struct attnd_sampling *from);

/* ---- sched_share.c: see there ---------------------------------------------------------- */

/* The tenant got its first ready session, or lost its last one. */
void sched_share_enter(struct sched *sched, struct sched_tenant_use *use);
void sched_share_leave(struct sched_tenant_use *use);
/* Whether its quota of device time lets it run now; who was held up competes anew. */
bool sched_share_may(struct sched *sched, struct sched_tenant_use *use);
/* When its quota lets it run again; in the past: now. */
int64_t sched_share_free_ns(const struct sched *sched, const struct sched_tenant_use *use);
/* The least virtual time of those that are backlogged; INT64_MAX: none is. */
int64_t sched_share_least(const struct sched *sched);
/* Where in virtual time a tenant would stand whose work arrived now. */
int64_t sched_share_start(const struct sched *sched, const struct sched_tenant_use *use);
/* The flight's predicted time is charged to its tenants; when it lands, what it took instead. */
void sched_share_charge(struct sched *sched, struct sched_flight *flight);
void sched_share_settle(struct sched *sched, struct sched_flight *flight, int64_t actual_ns);
/* A tenant's request can run; it ended before anything of it did. */
void sched_share_arrived(struct sched_tenant_use *use, struct sched_request *request, int64_t now_ns);
void sched_share_withdrawn(struct sched_tenant_use *use, const struct sched_request *request);
/* What other tenants than this one may have of the device until its last chunk is next: what waits, and as much as came of late when
 * the most came, but no more than their shares and quotas. */
struct sched_rivalry {
	double virtual_ns; /* where this one stands then */
	double least_ns;   /* where one would begin that comes back */
	double step_ns;    /* a full step: one that is let go first may end up so far ahead */
	double horizon_ns; /* from now until then, about */
	int64_t now_ns;
};
double sched_share_rivals(const struct sched *sched, const struct sched_tenant_use *use, const struct sched_rivalry *rivalry);
/* How far apart backlogged tenants are now, and may ever be, in nanoseconds divided by weight. */
int64_t sched_share_drift(const struct sched *sched);
int64_t sched_share_bound(const struct sched *sched);

/* ---- sched_session.c ------------------------------------------------------------------ */

uint64_t sched_session_handle(const struct sched *sched, const struct sched_session *session);
/* NULL and a status unless it is a live session of this client. */
struct sched_session *sched_session_find(struct sched *sched, const struct sched_client *client,
	uint64_t handle, enum attnd_status *status);
void sched_session_open(
	struct sched *sched, const struct sched_message *message, struct sched_client *client);
unsigned sched_start_fork(struct sched *sched, struct sched_request *request);
unsigned sched_start_truncate(struct sched *sched, struct sched_request *request);
/* Its handle dies now; what is queued ends with this status; freed now or when its flight lands. */
void sched_session_close(
	struct sched *sched, struct sched_session *session, enum attnd_status status);
/* Frees a closing session that is no longer in flight. */
void sched_session_settle(struct sched *sched, struct sched_session *session);
void sched_session_leave_place(struct sched *sched, struct sched_session *session);
/* The same of one that is ready. */
static inline void sched_session_leave_ready(struct sched *sched, struct sched_session *session)
{
	struct sched_client *client = session->client;
	struct sched_tenant_use *use = &sched->uses[client->tenant];

	sched_list_leave(&session->of_place);
	session->place = PLACE_NONE;
	if (!sched_list_empty(&client->ready))
		return;
	sched_list_leave(&client->of_active);
	if (sched_list_empty(&use->active))
		sched_share_leave(use);
}
void sched_session_enter_place(
	struct sched *sched, struct sched_session *session, enum sched_place place);
void sched_session_kick(struct sched *sched, struct sched_session *session);

/* ---- sched_blocks.c: a session's blocks ----------------------------------------------- */

enum sched_blocks { BLOCKS_THERE, BLOCKS_COPYING, BLOCKS_WAIT, BLOCKS_NONE, BLOCKS_OVER_QUOTA };
/* Takes blocks for positions first .. first+rows, all or nothing; shared ones among them are
 * replaced by copies, which `copy` (a formed flight, or NULL: none to be had now) is to fill. */
enum sched_blocks sched_blocks_take(struct sched *sched, struct sched_session *session,
	uint32_t first, uint32_t rows, struct sched_flight *copy);
/* Releases the blocks beyond `tokens`; those ahead of them too where tokens up to `reached`, on a
 * later page, were held. */
void sched_blocks_trim(
	struct sched *sched, struct sched_session *session, uint32_t tokens, uint32_t reached);
/* How many blocks two sessions share, counted from the first: those of forks are the same up to some
 * place, but where layers stand at different positions a copied one may lie before. An estimate. */
uint32_t sched_blocks_common(const struct sched_session *a, const struct sched_session *b);
/* The child refers to the parent's blocks below `tokens`, and to those ahead where it stands on the
 * same page; false: over quota. */
bool sched_blocks_share(struct sched *sched, struct sched_session *child,
	struct sched_session *parent, uint32_t tokens);

/* ---- sched_reuse.c: see there --------------------------------------------------------- */

/* A prompt was copied and checked: its session goes on from where a cached prefix ends. Undone where the request ends before it
 * computed anything. */
void sched_reuse_prompt(struct sched *sched, struct sched_request *request);
/* Rows of a STEP or GENERATE that arrives that its session would find in the cache if it were started now; 0 where it could not be. */
uint32_t sched_reuse_expected(struct sched *sched, const struct sched_message *message, struct sched_session *session);
void sched_reuse_undo(struct sched *sched, struct sched_request *request);
/* Rows landed; a request ended; the session is about to be freed: full pages may be added to the cache. */
void sched_reuse_landed(struct sched *sched, struct sched_session *session, const struct sched_request *request);
void sched_reuse_ended(struct sched *sched, struct sched_session *session, const struct sched_request *request);
void sched_reuse_left(struct sched *sched, struct sched_session *session);
/* The session goes back to so many tokens; a fork stands at its position. Only where there is a cache. */
void sched_reuse_trim(struct sched *sched, struct sched_session *session, uint32_t tokens);
void sched_reuse_fork(struct sched *sched, struct sched_session *child, const struct sched_session *parent);
/* Evicts idle pages until these blocks can be had when all that waits was zeroed; a few, where blocks of a size run short. */
void sched_reuse_make_room(struct sched *sched, const size_t bytes[2], const uint32_t counts[2]);
int sched_reuse_relieve(struct sched *sched);

/* ---- sched_client.c, sched_describe.c ------------------------------------------------- */

void sched_client_add(struct sched *sched, const struct sched_lane_use *lane, const struct sched_message *message);
void sched_client_gone(struct sched *sched, struct sched_client *client);
void sched_client_credit(struct sched *sched, struct sched_client *client, uint32_t credits);
/* Says that a leaving client is quiet, once it is. */
void sched_client_settle(struct sched *sched, struct sched_client *client);
/* Lets as many parked streams go on as there are credits, unless the client's lane is full. */
void sched_client_unpark(struct sched *sched, struct sched_client *client);
void sched_client_cancel(
	struct sched *sched, const struct sched_message *message, struct sched_client *client);
void sched_describe(
	struct sched *sched, const struct sched_message *message, struct sched_client *client);

/* ---- sched_turns.c -------------------------------------------------------------------- */

/* All candidates into sched.turns, among the decodes for now; those of a tenant over its quota are none. What is past its deadline
 * ends. */
void sched_turns_gather(struct sched *sched);
/* Of the most urgent one of the tenant whose turn it is first. There are some. */
uint32_t sched_turns_model(struct sched *sched);
/* Keeps those of one model: decodes stay, prefills move beside. True: others are left behind. */
bool sched_turn_divide(struct sched_turn *turn, uint32_t model, bool attends);
const struct sched_candidate *sched_heap_pop_moving(struct sched_heap *heap);
/* What is popped stays where it is until the next one is. */
static inline const struct sched_candidate *sched_heap_pop(struct sched_heap *heap)
{
	if (!heap->ordered)
		return sched_heap_pop_moving(heap);
	heap->count--;
	return heap->at++;
}

/* ---- sched_step.c, sched_flight.c, sched_finish.c ------------------------------------- */

/* Forms and submits the next compute work, if there is one. */
int sched_step_form(struct sched *sched);
/* What a slice of a raw request's item costs, and the item for the backend; from: query rows already done. */
struct sched_load sched_attend_load(const struct kern_attend *item, uint32_t from, uint32_t rows);
uint32_t sched_attend_result_bytes(const struct sched_request *request);
/* Rows of K and V that are appended before the request's query row number `rows`, or with it: all of them at once, but where pages
 * have low halves (kern_kv.h) no page further than what the query rows so far see. */
uint32_t sched_attend_appended(const struct sched_request *request, uint32_t rows);
struct kern_attend sched_attend_slice(
	const struct sched_request *request, uint32_t from, uint32_t rows);
/* An empty flight to fill, or NULL; launching it is what takes it. */
struct sched_flight *sched_flight_free(struct sched *sched);
/* Whether another STEP or ATTEND may go into the air. */
bool sched_flight_computes_free(const struct sched *sched);
/* Whether a work of this kind is in the air. Of copies, and of clearing, there is one at most: a step finds its place between them. */
bool sched_flight_has(const struct sched *sched, enum kern_work_kind kind);
/* Who the cost model takes it for. */
static inline uint32_t sched_flight_cost_model(const struct sched_flight *flight)
{
	return flight->work.kind == KERN_WORK_STEP ? flight->model : SCHED_COST_MODELS - 1;
}
void sched_flight_launch(struct sched *sched, struct sched_flight *flight);
int sched_flights_poll(struct sched *sched);
int sched_zero_form(struct sched *sched);
/* ns until what is in the air has landed, as predicted; most_ns: if it takes the band longer than that, of its whole time. */
int64_t sched_flights_remaining_ns(const struct sched *sched, int64_t now_ns, double band, int64_t *most_ns);
/* Delivers a landed step's results, so many that one poll stays short. True when all are out. */
bool sched_finish_step(struct sched *sched, struct sched_flight *flight);
bool sched_finish_attend(struct sched *sched, struct sched_flight *flight);
void sched_finish_failed(struct sched *sched, struct sched_flight *flight);

/* ---- sched_speculate.c: see there ------------------------------------------------------ */

/* Room that a step has left, and when it has to have ended as predicted. */
struct sched_spare {
	uint32_t rows, outs;
	int64_t until_ns;
};
/* A step that carries all who wait, a row each, is formed: adds drafts where they pay. True: then its rows need new places. */
bool sched_speculate(struct sched *sched, struct sched_flight *flight, const struct sched_spare *spare);
/* The session's history has grown; drawn: by one token that it said. Returns how many tokens were looked at. */
uint32_t sched_speculate_follow(struct sched *sched, struct sched_session *session, uint32_t count, bool drawn);

/* ---- sched_debt.c --------------------------------------------------------------------- */

/* Counts what the request asks for from now on; flying: rows of it that are in the air. */
void sched_debt_set(struct sched *sched, struct sched_request *request, uint32_t flying);
void sched_debt_drop(struct sched *sched, struct sched_request *request);
/* The session goes into PLACE_PARKED or out of it: what it asks for keeps its place among its tenant's promises, and counts as work that
 * waits only while it can run. */
void sched_debt_park(struct sched *sched, const struct sched_session *session, bool parks);
/* Rows that a STEP or GENERATE may turn out to have: no more than its input has room for ids, whatever the record says. */
uint64_t sched_rows_asked(const struct sched_session *session, const struct attnd_request *record);
struct sched_work sched_work_of_rows(
	const struct sched *sched, const struct sched_session *session, uint64_t position, uint64_t rows);
struct sched_work sched_work_of_attend(
	const struct sched *sched, const struct sched_session *session, const void *in, uint32_t in_bytes);
/* Of the tenant's promises, those of more urgent classes, and of this one up to the deadline. */
struct sched_work sched_debts_before(const struct sched_tenant_use *use, uint8_t class, int64_t deadline_ns);

/* ---- sched_predict.c ------------------------------------------------------------------ */

struct sched_forecast {
	int64_t finish_ns;
	bool breaks;   /* somebody who was promised a deadline would miss it */
	bool doubtful; /* even alone it would be late, going by what was measured so far */
};

/* Of a request that arrives now; reused: rows of it that need not be computed. */
struct sched_forecast sched_predict(const struct sched *sched, const struct sched_message *message, const struct sched_session *session,
	uint32_t reused);
/* Tenants with work that is ready, a bit for each: would another step of its work without a deadline break a promise of it? */
uint64_t sched_promises_tight(const struct sched *sched);
/* Rows that one who waited too long gets of a step before all others. */
static inline uint32_t sched_aged_rows(const struct sched *sched)
{
	const uint32_t rows = sched->options.step_rows_max / SCHED_AGED_PART;

	return rows ? rows : 1;
}

#endif
