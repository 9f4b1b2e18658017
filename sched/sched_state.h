/*
 * What the scheduler is made of: requests, sessions, clients, works in the air, and the whole. Seen by the files of sched/ alone, through
 * sched_private.h, which says what each of them does.
 */
#ifndef SCHED_STATE_H
#define SCHED_STATE_H

#include <stdalign.h>
#include <stdatomic.h>
#include <string.h>

#include "base/base_assert.h"
#include "model/model_sample.h"
#include "sched/sched.h"
#include "sched/sched_cost.h"
#include "sched/sched_draft.h"
#include "sched/sched_handle.h"
#include "sched/sched_kv.h"
#include "sched/sched_prefix.h"
#include "sched/sched_view.h"

enum {
	SCHED_FLIGHTS = 2, /* works in the air; the backend takes at least two */
	SCHED_MESSAGES_PER_POLL =
		32, /* of all lanes, so that a flood of messages does not keep the device waiting */
	SCHED_LANE_ROOM = 32, /* a full lane has so many free slots again when its streams go on; once all are promised it has 64 */
	SCHED_STARTS_PER_POLL = 32,
	SCHED_SESSION_REQUESTS_MAX = 256,
	SCHED_ROOM_PART = 16,  /* so manieth of the blocks of each size is kept free of cached pages */
	SCHED_CLEAN_PART = 32, /* with less than that of a size clean, blocks are zeroed while steps run */
	SCHED_SPANS =
		128, /* blocks of one COPY or ZERO; one request copies 4096 / 64 + 1 at most */
	SCHED_ATTENDS = 64,         /* items of one ATTEND */
	SCHED_ZERO_BYTES = 1 << 20, /* of one ZERO at least, on a device however slow */
	SCHED_NOP_BYTES_MAX = 1 << 20,
	SCHED_NOP_BYTES_SMALL = 1 << 16, /* a larger one ends the poll that answers it */
	SCHED_FINISH_LOGITS =
		1 << 16,           /* logits looked at in one poll, so that others wait little */
	SCHED_ATTEND_NS = 2000000, /* raw attention is cut into works of about this length */
	SCHED_AGED_NS = 250000000, /* who waits longer comes first, one per step: nobody starves */
	SCHED_AGED_PART = 8, /* with so manieth of its rows: nor does it break what was promised */
	SCHED_EXPIRY_NS = 50000,   /* deadlines are looked for no more often than this */
	SCHED_DOUBT_NS = 1000000000, /* what was last measured longer ago refuses nobody for good */
	SCHED_RECENT_S = 60,         /* how long a tenant is expected to go on as it did, and as long again */
	SCHED_CROWD_NS = 1000000000, /* what comes within this comes together */
	SCHED_MISFITS = 64, /* so many candidates that do not fit end the forming of a step */
	SCHED_SLICE_ROWS_MIN =
		16, /* a prefill chunk is not cut below this for a neighbour's deadline */
};

static const int64_t SCHED_RECENT_NS = SCHED_RECENT_S * INT64_C(1000000000);

/* In a session's token history: this row came as an embedding. */
#define SCHED_TOKEN_NONE UINT32_MAX

/* ---- lists ---------------------------------------------------------------------------- */

struct sched_list {
	struct sched_list *next, *previous;
};

static inline void sched_list_init(struct sched_list *list)
{
	list->next = list->previous = list;
}

static inline bool sched_list_empty(const struct sched_list *list)
{
	return list->next == list;
}

/* A link outside every list points to itself, so that leaving twice is harmless. */
static inline void sched_list_leave(struct sched_list *link)
{
	link->previous->next = link->next;
	link->next->previous = link->previous;
	sched_list_init(link);
}

static inline void sched_list_append(struct sched_list *list, struct sched_list *link)
{
	link->previous = list->previous;
	link->next = list;
	list->previous->next = link;
	list->previous = link;
}

/* ---- requests ------------------------------------------------------------------------- */

enum sched_request_state { REQUEST_FREE, REQUEST_QUEUED, REQUEST_ACTIVE, REQUEST_RUNNING };

struct sched_generate {
	struct model_sampling sampling;
	uint32_t generated;
	struct attnd_generate_params params;
	uint32_t stop[ATTND_STOP_IDS_MAX];
};

/* Work of one request or of many, in steps that are filled: device time of its rows, and these. */
struct sched_work {
	int64_t ns, rows;
	int64_t streams; /* so many of them are streams afterwards */
};

/* Bounded, so that sums of all requests there can be stay in range. */
static inline int64_t sched_work_ns(double ns)
{
	return ns < 1e14 ? (int64_t)ns : (int64_t)1e14;
}

static inline struct sched_work sched_work_sum(struct sched_work a, struct sched_work b)
{
	return (struct sched_work){ a.ns + b.ns, a.rows + b.rows, a.streams + b.streams };
}

enum sched_debt_kind { DEBT_NONE, DEBT_PROMISED, DEBT_FREE, DEBT_STREAM };

/* What a request still asks of the device. The links and what is below are of its tenant's tree, if it is promised. */
struct sched_debt {
	uint64_t visits, kv_bytes; /* of a stream */
	uint32_t tokens;           /* that it may still draw, whatever its kind */
	uint8_t class, kind;
	/* so far for streams */
	uint32_t height;           /* random: the heap's order in the tree */
	struct sched_debt *left, *right;
	struct sched_work own, below;
	int64_t deadline_ns;
	/* If the device did nothing but what is below, in order, it would have to begin by all_by_ns for all of it to be in time, and
	 * by any_by_ns for any of it. */
	int64_t all_by_ns, any_by_ns;
};

/* What the requests of a session still ask for. */
struct sched_asked {
	struct sched_work promised[ATTND_CLASS_END], free[ATTND_CLASS_END];
	int64_t latest_ns[ATTND_CLASS_END]; /* no deadline of a promised one is later, if there is one */
};

/* Streams are rows of every step. */
struct sched_streams {
	uint64_t count, visits, kv_bytes;
};

/* In cache lines: a row touches the first three and one of its debt, and a stream's the first one of `generate`. */
struct sched_request {
	alignas(64) struct attnd_request record;
	struct sched_session *session;
	struct sched_client *client;
	unsigned char *out;
	uint8_t state;      /* enum sched_request_state */
	uint8_t end_status; /* RUNNING and already ended: what it completes with when its flight
			       lands */
	bool missed;
	uint8_t streams; /* stream completions that its flight was promised */
	uint32_t rows, rows_done;         /* of the input; query rows of ATTEND */
	uint32_t result_bytes, sequence;
	uint32_t block_first, block_rows; /* positions that its blocks must cover */
	uint32_t stop_at;                 /* a chunk ends at this position; 0: none has to */
	int64_t deadline_ns;              /* of what it does next; INT64_MAX: none */
	int64_t received_ns, admitted_ns, started_ns;
	struct sched_view_request view;
	/* so far */
	struct sched_list of_session; /* in the session's queue, oldest first */
	struct sched_list of_client;  /* in the client's requests; in the pool when free */
	struct sched_list of_timed;   /* in sched.timed when it has a deadline */
	const unsigned char *in;
	uint64_t value;
	int64_t crowd_at_ns, crowd_ns;    /* what it counts for in its tenant's crowd, and in which; 0: nothing */
	uint32_t rows_reused;             /* of rows_done: found in the prefix cache */
	uint32_t selected_done;           /* output rows delivered */
	uint32_t layer;                   /* APPEND, ATTEND: UINT32_MAX until it is known */
	alignas(64) struct sched_debt debt;
	alignas(64) union {
		struct attnd_step_args step;
		struct sched_generate generate;
		struct sched_attend {
			struct attnd_attend_params params;
			struct kern_attend item; /* of the whole request; a work takes a slice of
						    its query rows */
		} attend;
	};
};
_Static_assert(offsetof(struct sched_request, session) == 64 && offsetof(struct sched_request, received_ns) == 128 &&
		offsetof(struct sched_request, of_session) == 192, "the first three lines");
_Static_assert(offsetof(struct sched_generate, params.reserved2) == 64, "what each token looks at is in one line");

/* ---- sessions ------------------------------------------------------------------------- */

enum sched_place { PLACE_NONE, PLACE_READY, PLACE_PARKED, PLACE_BLOCKED };

struct sched_session {
	/* While it is ready, all that its turn depends on: with a thousand of them, a cache line each is looked at for a step. */
	alignas(64) struct sched_list of_place;
	struct sched_list queue; /* its requests, in order */
	int64_t waiting_since_ns;
	int64_t head_deadline_ns; /* these three: of its head request */
	uint32_t head_rows;       /* left */
	uint8_t head_class;
	uint8_t place;     /* enum sched_place */
	bool busy;         /* in a flight */
	bool closing;      /* its handle is dead; freed when its flight lands */
	uint32_t model;    /* ATTENTION: model_count */
	uint32_t position; /* tokens in the cache; ATTENTION: the most of any layer */
	/* so far; and another one for those that are taken */
	struct sched_client *client; /* NULL: free */
	unsigned char **blocks; /* [blocks_max] */
	uint32_t *tokens;       /* [tokens_max] history; beyond position: of the active request */
	uint64_t token_bytes;   /* of the cache, what a token takes */
	uint64_t tokens_asked;  /* that its GENERATEs may still draw */
	uint32_t block_count;
	uint32_t max_tokens;
	uint32_t queued;
	uint32_t own_until;   /* rows behind its position, up to this one, go to blocks that nobody shares; 0: who knows */
	uint32_t prefix_node; /* the last page that it holds in the prefix cache: its blocks up to there are the cache's */
	uint8_t kind;         /* enum attnd_session_kind */
	bool continued;       /* reused_tokens were most of its first prompt */
	bool apart;           /* what it computes may not be what others would: it adds no pages to the cache */
	/* so far */
	struct sched_draft draft;    /* where the scheduler speculates */
	struct sched_list of_client; /* in the client's sessions; in the free ones */
	struct sched_list of_kicked;
	uint32_t reused_tokens; /* that were found when its first prompt came */
	uint64_t *chosen;       /* [tokens_max] bits: rows that the active STEP chose */
	uint32_t *layers;       /* [ATTND_LAYERS_MAX] positions, ATTENTION */
	struct kern_kv_geometry kv;
	size_t take_bytes[2]; /* of block 0, of later ones, as asked from the pool */
	struct model_sampling sampling;
	uint32_t window;       /* ATTENTION */
	float scale, soft_cap; /* ATTENTION */
	uint32_t index, generation;
	struct sched_asked asked;
};
_Static_assert(offsetof(struct sched_session, client) == 64 && offsetof(struct sched_session, draft) == 128,
	"two lines of each session, and one where it speculates");

/* ---- clients -------------------------------------------------------------------------- */

enum sched_client_state { CLIENT_FREE, CLIENT_LIVE, CLIENT_LEAVING };

/* A front's queues, and what its clients are owed by way of them. */
struct sched_lane_use {
	struct base_spsc *in, *out;
	uint32_t first, clients; /* its clients' numbers */
	uint64_t promised;       /* slots of `out`: final completions, quiescences, streams in flight */
};

struct sched_client {
	struct sched_lane_use *lane;
	uint32_t state; /* enum sched_client_state */
	uint32_t number, tenant;
	uint32_t request_count, session_count;
	struct sched_list requests, sessions; /* all of them */
	struct sched_list ready, parked;      /* sessions by place */
	struct sched_list of_active;          /* in its tenant's active while ready is not empty */
	uint64_t served;                      /* turns inside its tenant: rows it was given */
	uint32_t credits, promised;           /* promised: credits held by flights */
	uint64_t credits_given, credits_spent;
	struct sched_view_client view;
};

/* What a tenant has and had. Virtual time is nanoseconds of device time divided by the weight; sched_share.c says how it
 * advances. */
struct sched_tenant_use {
	/* All that another tenant's prediction depends on: with many of them, two cache lines each. */
	struct sched_list of_active; /* in sched.active while there are clients with ready sessions */
	int64_t virtual_ns;
	uint32_t weight;             /* of the configuration, at least 1 */
	bool held;                   /* over its quota of device time when a step was last formed */
	bool capped;                 /* has such a quota */
	bool came;                   /* some work of it, ever */
	int64_t crowds_at_ns, crowds_ns[2]; /* the largest crowds, in this window of SCHED_RECENT_NS and in the last one */
	int64_t crowd_at_ns, crowd_ns; /* the last one: work that came within SCHED_CROWD_NS */
	struct sched_work waiting;   /* of all its requests, what has rows, but for sessions that are parked */
	/* so far */
	struct sched_list active;    /* its clients with ready sessions */
	int64_t rest;                /* of the division by the weight, so that nothing is lost */
	int64_t paid_until_ns;       /* quota of device time: when what it used will be paid for */
	struct sched_work free[ATTND_CLASS_END]; /* of that, what has no deadline */
	struct sched_debt *promised; /* what has one, of parked sessions too, in order */
	uint32_t promised_models;    /* a bit for each model with such, and so many of each: */
	uint32_t promised_of[SCHED_COST_MODELS];
	struct sched_streams streams;
	uint64_t turn;               /* virtual time of its clients */
	uint64_t used_ns;            /* device time of all its works that landed */
	uint64_t backlogs;           /* times that its work ran out or was held up by its quota */
	uint32_t sessions, requests;
	uint64_t kv_bytes;
};

/* ---- works on the device -------------------------------------------------------------- */

struct sched_member { /* one request's part of a flight */
	struct sched_session *session;
	struct sched_request *request;
	uint32_t row, rows;
	uint32_t out, outs;
	uint32_t drafts; /* of its rows the last ones: tokens that were guessed */
};

struct sched_part { /* of a work, a tenant's; empty without members */
	struct sched_load load;
	uint32_t members;
	double fraction;    /* of the work's time, as it was divided */
	int64_t charged_ns; /* of what was predicted; put right when the work lands */
};

enum sched_flight_state { FLIGHT_FREE, FLIGHT_FORMED, FLIGHT_FLYING, FLIGHT_LANDED };

struct sched_flight {
	uint32_t state; /* enum sched_flight_state */
	int result;
	kern_ticket ticket;
	struct kern_work work;
	uint32_t model;                  /* STEP; ATTEND: model_count */
	struct sched_load load;          /* STEP, ATTEND: what was predicted */
	uint32_t member_count, finished; /* finished: members whose results are out */
	uint32_t finished_outs;          /* output rows of the next one that are out */
	bool begun;                      /* the next one's session has advanced */
	uint32_t span_count;
	int64_t submitted_ns, predicted_ns, landed_ns;
	struct sched_part parts[SCHED_TENANTS_MAX];
	struct sched_member *members; /* [step_rows_max or more] */
	uint32_t *tokens;             /* [step_rows_max] */
	const float **embeddings;     /* [step_rows_max] */
	struct kern_seq *seqs;        /* [step_rows_max] */
	struct kern_out *outs;        /* [out_rows_max] */
	float *logits;                /* [out_rows_max][largest vocabulary] */
	struct kern_attend attends[SCHED_ATTENDS];
	struct kern_span spans[SCHED_SPANS];
	unsigned char *replaced[SCHED_SPANS]; /* COPY: blocks whose reference goes when it lands */
};

struct sched_candidate {
	struct sched_session *session;
	int64_t deadline_ns;
	uint64_t fair; /* its turn inside its tenant */
	uint16_t model;
	uint8_t class;
	bool decode; /* a single row */
};

/* The most urgent one is the first. */
struct sched_heap {
	struct sched_candidate *at;
	uint32_t count;
	bool ordered; /* so are all others: who is taken is left behind, and nothing moves */
};

/* A tenant's candidates while a work is formed. */
struct sched_turn {
	struct sched_tenant_use *use;
	struct sched_heap decodes, prefills; /* all of them among the decodes at first */
	bool alike; /* these are single rows of one model */
	uint32_t tenant, oldest;
	int64_t oldest_ns; /* since then candidate `oldest` waits */
	int64_t virtual_ns; /* when they were gathered */
	double spent_ns;    /* about what those that were taken will be charged */
	uint8_t free_class; /* added to the class of what has no deadline, where promises cannot wait for it */
};

/* ---- all of it ------------------------------------------------------------------------ */

struct sched {
	struct sched_lane_use lanes[SCHED_LANES_MAX];
	uint32_t lane_count, lane_first; /* lane_first: whose messages this poll takes first */
	uint32_t lane_messages;          /* taken of one lane by one poll */
	uint32_t lanes_full;             /* a bit for each whose streams are parked until its `out` has room again */
	struct base_clock *clock;
	struct kern_backend *backend;
	struct sched_client *clients; /* [clients_max] */
	int64_t now_ns; /* of this poll */
	int64_t stamp_ns; /* what replies are stamped with; 0: with the time */
	int64_t next_expiry_ns; /* no deadline passes earlier */
	int64_t last_landed_ns;
	uint32_t flight_first, flight_count;
	bool draining;
	bool retry_blocked;        /* something landed: who waits for blocks may try again */
	bool want_zero;            /* somebody waits for clean blocks */
	struct sched_list kicked;  /* sessions whose next request may start */
	struct sched_list blocked; /* sessions that wait for clean blocks or a copy */
	struct sched_list active;  /* tenants with ready sessions */
	struct sched_list timed;   /* requests with a deadline */
	struct sched_list free_requests, free_sessions;
	struct sched_turn turns[SCHED_TENANTS_MAX]; /* while a work is formed */
	uint32_t turn_count;
	int64_t slack_ns;   /* what the largest step of late was predicted to take */
	int64_t largest_ns; /* the longest work so far, as predicted or as measured */
	uint64_t charged_ns; /* to all tenants, for works that landed */
	struct sched_kv *kv;
	struct sched_prefix *prefix; /* NULL: none is kept */
	struct sched_counters counters;
	struct sched_view view;
	struct sched_flight flights[SCHED_FLIGHTS];
	struct sched_candidate *decodes, *prefills; /* [sessions_max] */
	struct sched_cost cost;
	struct sched_cost_units units[SCHED_COST_MODELS]; /* of full steps */
	struct sched_streams streams[SCHED_MODELS_MAX];
	uint64_t weights;        /* of all tenants */
	uint64_t waiting_weight; /* of tenants with work that waits, and all of that: */
	int64_t waiting_ns;
	uint64_t debts;          /* so many times was a tree added to */
	int64_t learnt_ns[SCHED_COST_MODELS]; /* when a work of the model was last measured */
	struct sched_request *tries[SCHED_COST_MODELS]; /* was let through for that, and has not ended */
	uint32_t unspeculated[SCHED_MODELS_MAX]; /* steps in a row whose guesses only the cost model was against */
	void *sample_scratch;
	uint32_t recent[ATTND_REPEAT_WINDOW_MAX];
	struct model_top top[ATTND_TOP_MAX];
	/* below here is not written after create */
	struct sched_request *requests; /* [requests_max] */
	struct sched_session *sessions; /* [sessions_max] */
	struct sched_tenant_use *uses;  /* [tenant_count] */
	struct sched_tenant tenants[SCHED_TENANTS_MAX];
	struct sched_model models[SCHED_MODELS_MAX];
	struct sched_options options;
	uint32_t clients_max; /* of all lanes */
	uint32_t blocks_max;  /* of one session */
	uint32_t members_max;
	uint32_t computes_max; /* STEP and ATTEND works in the air at once */
	uint64_t boot_tag;
	int64_t started_ns;
	char build[64];
	unsigned char **block_tables; /* of all sessions; so are these: */
	uint32_t *histories;
	uint64_t *choices;
	uint32_t *layer_tables;
	uint32_t *draft_slots; /* NULL: nothing is guessed */
};

static inline void sched_load_add(struct sched_load *to, const struct sched_load *load)
{
	to->rows += load->rows;
	to->outs += load->outs;
	to->visits += load->visits;
	to->kv_bytes += load->kv_bytes;
}

/* Of so many rows that come after `position` others, each of which sees itself too. */
static inline uint64_t sched_visits(uint32_t position, uint32_t rows)
{
	return (uint64_t)rows * position + (uint64_t)rows * (rows + 1) / 2;
}

/* Where a library's function would have to be called for what a NaN does. */
static inline double sched_lesser(double a, double b)
{
	return a < b ? a : b;
}

/* What a start function says besides a status. */
enum { SCHED_STARTED = ATTND_STATUS_END };

/* Copies what is going to be checked and used out of memory that a client may be writing: once. The
 * fence keeps the compiler from reading the source again instead of the copy. */
static inline void sched_copy_in(void *to, const void *from, size_t bytes)
{
	memcpy(to, from, bytes);
	atomic_signal_fence(memory_order_seq_cst);
}

/* What a row of it touches. */
static inline void sched_request_prefetch(const struct sched_request *request)
{
	__builtin_prefetch(&request->record);
	__builtin_prefetch(&request->session, 1);
	__builtin_prefetch(&request->received_ns, 1);
	__builtin_prefetch(&request->debt, 1);
	__builtin_prefetch(&request->generate, 1);
}

static inline struct sched_request *sched_request_of_session(const struct sched_list *link)
{
	return (struct sched_request *)((uintptr_t)link -
		offsetof(struct sched_request, of_session));
}

static inline struct sched_request *sched_request_of_client(const struct sched_list *link)
{
	return (struct sched_request *)((uintptr_t)link -
		offsetof(struct sched_request, of_client));
}

static inline struct sched_request *sched_request_of_debt(const struct sched_debt *debt)
{
	return (struct sched_request *)((uintptr_t)debt - offsetof(struct sched_request, debt));
}

static inline struct sched_request *sched_request_of_timed(const struct sched_list *link)
{
	return (struct sched_request *)((uintptr_t)link - offsetof(struct sched_request, of_timed));
}

static inline struct sched_session *sched_session_of_client(const struct sched_list *link)
{
	return (struct sched_session *)((uintptr_t)link -
		offsetof(struct sched_session, of_client));
}

static inline struct sched_session *sched_session_of_place(const struct sched_list *link)
{
	return (struct sched_session *)((uintptr_t)link - offsetof(struct sched_session, of_place));
}

static inline struct sched_session *sched_session_of_kicked(const struct sched_list *link)
{
	return (struct sched_session *)((uintptr_t)link -
		offsetof(struct sched_session, of_kicked));
}

static inline struct sched_tenant_use *sched_use_of_active(const struct sched_list *link)
{
	return (struct sched_tenant_use *)((uintptr_t)link -
		offsetof(struct sched_tenant_use, of_active));
}

static inline struct sched_client *sched_client_of_active(const struct sched_list *link)
{
	return (struct sched_client *)((uintptr_t)link - offsetof(struct sched_client, of_active));
}

static inline struct sched_request *sched_session_head(const struct sched_session *session)
{
	return sched_list_empty(&session->queue) ? NULL
						 : sched_request_of_session(session->queue.next);
}

/* Of so many of its tokens in the cache, all layers. */
static inline uint64_t sched_session_bytes(const struct sched_session *session, uint64_t tokens)
{
	return tokens * session->token_bytes;
}

/* The same of any geometry. */
static inline uint64_t sched_kv_bytes(const struct kern_kv_geometry *kv, uint64_t tokens)
{
	return tokens * kv->block_bytes[1] / KERN_PAGE_TOKENS;
}

static inline const struct sched_model *sched_session_model(
	const struct sched *sched, const struct sched_session *session)
{
	return &sched->models[session->model];
}

/* Who the cost model takes it for. */
static inline uint32_t sched_session_cost_model(const struct sched_session *session)
{
	return session->kind == ATTND_SESSION_ATTENTION ? SCHED_COST_MODELS - 1 : session->model;
}

#endif
