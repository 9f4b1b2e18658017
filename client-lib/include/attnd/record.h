/*
 * The contract: what a request and a completion look like, byte for byte, in a ring slot and in a packet.
 *
 * Valid C and C++. Little-endian, natural alignment, no padding that is not named. Times are nanoseconds of the
 * daemon's CLOCK_MONOTONIC (a local client reads the same clock). Offsets count 64-byte units of the
 * client's arena; lengths count bytes. docs/PROTOCOL.md describes each operation with its bytes.
 */
#ifndef ATTND_RECORD_H
#define ATTND_RECORD_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#define ATTND_STATIC_ASSERT(condition, text) static_assert(condition, text)
#else
#define ATTND_STATIC_ASSERT(condition, text) _Static_assert(condition, text)
#endif

enum { ATTND_VERSION = 1 };

/* ---- operations ---------------------------------------------------------------------------------------- */

enum attnd_op {
	ATTND_OP_NOP = 1,        /* echo: copies input to output, if any; the latency floor */
	ATTND_OP_DESCRIBE = 2,   /* argument: enum attnd_describe; out: the struct of that name */
	ATTND_OP_OPEN = 3,       /* in: attnd_open_params; value: the session's handle */
	ATTND_OP_STEP = 4,       /* in: token ids (or rows); args: attnd_step_args; out: by args.output */
	ATTND_OP_GENERATE = 5,   /* in: attnd_generate_params, prompt ids, stop ids; streams completions */
	ATTND_OP_APPEND = 6,     /* in: attnd_attend_params, K, V */
	ATTND_OP_ATTEND = 7,     /* in: attnd_attend_params, Q, and K, V when kv_rows > 0; out: O, and LSE */
	ATTND_OP_TOKENIZE = 8,   /* argument: model; in: text; out: uint32_t ids; value: how many */
	ATTND_OP_DETOKENIZE = 9, /* argument: model; in: uint32_t ids; out: bytes of text; position 0: the text begins here */
	ATTND_OP_FORK = 10,      /* argument: tokens to keep, 0 = all; value: the new session's handle */
	ATTND_OP_TRUNCATE = 11,  /* argument: tokens to keep */
	ATTND_OP_CLOSE = 12,
	ATTND_OP_CANCEL = 13,    /* args: the request id to cancel (of this client); value: 1 found, 0 not */
	ATTND_OP_END             /* one past the last */
};

/* Classes, most urgent first. */
enum attnd_class { ATTND_CLASS_LATENCY = 0, ATTND_CLASS_INTERACTIVE = 1, ATTND_CLASS_BULK = 2, ATTND_CLASS_END };

/* Request flags. */
enum {
	ATTND_REQ_CHECK_POSITION = 1 << 0, /* refuse (BAD_POSITION) unless the session stands at .position */
	ATTND_REQ_ROWS = 1 << 1,           /* STEP: the input is float32 embedding rows, not token ids */
	ATTND_REQ_SPECIAL = 1 << 2,        /* TOKENIZE: add the model's begin/end tokens; DETOKENIZE: show control tokens */
	ATTND_REQ_PARSE_SPECIAL = 1 << 3,  /* TOKENIZE: text such as <|im_end|> becomes its control token */
	ATTND_REQ_CHAT = 1 << 4,           /* TOKENIZE: the input is attnd_chat_message records; the model's template is applied */
	ATTND_REQ_ALL = (1 << 5) - 1,
};

struct attnd_request {
	uint8_t op;             /* enum attnd_op */
	uint8_t flags;          /* ATTND_REQ_* */
	uint8_t priority_class; /* enum attnd_class */
	uint8_t version;        /* ATTND_VERSION */
	uint16_t lap;           /* the transport's: ring lap, or sequence in a packet; callers leave it 0 */
	uint16_t reserved;      /* 0 */
	uint64_t request_id;    /* the caller's; comes back unchanged */
	uint64_t session;       /* handle, carries a generation; 0 where the op needs none */
	int64_t deadline_ns;    /* absolute; 0 = none. GENERATE: of the first token */
	uint32_t position;      /* expected position, with ATTND_REQ_CHECK_POSITION */
	uint32_t argument;      /* by op; STEP, GENERATE: number of tokens or rows */
	uint32_t in_offset;     /* 64-byte units */
	uint32_t in_bytes;
	uint32_t out_offset;    /* 64-byte units */
	uint32_t out_capacity;  /* bytes */
	uint64_t args;          /* by op; STEP: struct attnd_step_args */
};

/* ---- completions --------------------------------------------------------------------------------------- */

enum attnd_status {
	ATTND_OK = 0,
	/* the three late answers (docs/PROTOCOL.md, "Deadlines") */
	ATTND_REFUSED_DEADLINE = 1, /* not executed, state unchanged; value: predicted finish, ns */
	ATTND_EXPIRED = 2,          /* stopped at .position */
	/* ended early */
	ATTND_CANCELLED = 3,        /* stopped at .position */
	ATTND_CLIENT_GONE = 4,      /* never seen by a client; counted */
	ATTND_DRAINING = 5,         /* the daemon is going down; nothing executed */
	/* the request is wrong */
	ATTND_BAD_RECORD = 16,   /* version, flags or reserved bits unknown */
	ATTND_BAD_OP = 17,
	ATTND_BAD_RANGE = 18,    /* input or output range outside the arena */
	ATTND_BAD_PARAMS = 19,   /* a parameter block too short, or a value out of its range */
	ATTND_BAD_SHAPE = 20,    /* input length does not match the counts */
	ATTND_BAD_TOKEN = 21,    /* a token id not below the vocabulary's size; value: its index */
	ATTND_BAD_POSITION = 22, /* the session stands elsewhere; .position says where */
	ATTND_BAD_SESSION = 23,  /* unknown or closed handle */
	ATTND_SESSION_LOST = 24, /* a handle of an earlier life of the daemon */
	ATTND_BAD_MODEL = 25,    /* no such model, or it failed */
	ATTND_BAD_TEXT = 26,     /* chat messages malformed, or the model has no tokenizer or template for it */
	ATTND_UNSUPPORTED = 27,  /* valid, but not for this kind of session or model */
	ATTND_DENIED = 28,       /* this tenant may not */
	/* there is no room */
	ATTND_NO_OUTPUT_ROOM = 32, /* output range too small; value: bytes needed */
	ATTND_CONTEXT_FULL = 33,   /* the session's max_tokens reached; .position says where it stands */
	ATTND_NO_PAGES = 34,       /* the KV pool is empty */
	ATTND_NO_SESSIONS = 35,
	ATTND_OVER_QUOTA = 36,     /* the tenant's sessions, bytes of cache or unfinished requests */
	ATTND_TOO_LARGE = 37,      /* above a stated limit */
	ATTND_QUEUE_FULL = 38,     /* the session's or the daemon's bounded queue is full; nothing executed */
	/* ours */
	ATTND_DEVICE_FAILED = 48, /* the batch failed on its device; the session is closed */
	ATTND_STATUS_END
};

/* Completion flags. */
enum {
	ATTND_CPL_FINAL = 1 << 0,  /* the last completion of its request */
	ATTND_CPL_MISSED = 1 << 1, /* executed after its deadline; the result is valid */
};

/* Why a GENERATE ended: the value of its final completion. */
enum attnd_stop { ATTND_STOP_LENGTH = 1, ATTND_STOP_TOKEN = 2, ATTND_STOP_CONTEXT = 3 };

struct attnd_completion {
	uint64_t request_id;
	uint8_t status;         /* enum attnd_status */
	uint8_t flags;          /* ATTND_CPL_* */
	uint16_t lap;           /* the transport's */
	uint32_t sequence;      /* of this completion in its stream, from 0 */
	uint32_t result_bytes;  /* written at the output range so far */
	uint32_t position;      /* where the session stands now */
	int64_t received_ns;    /* the front saw the record */
	int64_t admitted_ns;    /* the scheduler took it; 0 = it never did */
	int64_t started_ns;     /* its first work was submitted to the device; 0 = it never was */
	int64_t done_ns;        /* its result was complete */
	uint64_t value;         /* by op and status */
};

/* ---- parameter blocks (at the start of the input range) ---------------------------------------------- */

enum attnd_kv {
	ATTND_KV_DEFAULT = 0, ATTND_KV_F32 = 1, ATTND_KV_BF16 = 2, ATTND_KV_INT8 = 3, ATTND_KV_F16 = 4, ATTND_KV_FP8 = 5,
	ATTND_KV_INT4 = 6, ATTND_KV_END
};

enum attnd_session_kind { ATTND_SESSION_MODEL = 1, ATTND_SESSION_ATTENTION = 2 };

/* All zero: greedy. */
struct attnd_sampling {
	uint64_t seed;          /* a draw is a function of (seed, position) alone */
	float temperature;      /* 0 = greedy */
	float top_p;            /* (0, 1]; 1 = off */
	float min_p;            /* [0, 1]; 0 = off */
	float repeat_penalty;   /* 1 = off; > 0 */
	uint32_t top_k;         /* 0 = off */
	uint32_t repeat_window; /* the last so many tokens are penalised; at most ATTND_REPEAT_WINDOW_MAX */
};

struct attnd_open_params { /* 88 bytes */
	uint32_t struct_bytes; /* sizeof(struct attnd_open_params) */
	uint32_t kind;         /* enum attnd_session_kind */
	uint32_t model;        /* index; ATTENTION sessions: 0 */
	uint32_t max_tokens;   /* 0 = the model's context length, cut to the daemon's limit */
	uint8_t kv_k, kv_v;    /* enum attnd_kv */
	uint8_t reserved[6];   /* 0 */
	/* ATTENTION sessions only */
	uint32_t layers, heads, kv_heads, head_dim;
	uint32_t window;       /* sliding window in tokens; 0 = none */
	float scale;           /* 0 = 1/sqrt(head_dim) */
	float soft_cap;        /* logits become cap*tanh(logit/cap); 0 = off */
	uint32_t reserved2;    /* 0 */
	struct attnd_sampling sampling; /* for STEP with ATTND_OUT_SAMPLED */
};

enum attnd_output {
	ATTND_OUT_NONE = 0,    /* only append to the cache */
	ATTND_OUT_LOGITS = 1,  /* float32 [selected][vocab] */
	ATTND_OUT_TOP = 2,     /* struct attnd_top [selected][top_k], best first */
	ATTND_OUT_ARGMAX = 3,  /* uint32_t [selected]; value: the last one */
	ATTND_OUT_HIDDEN = 4,  /* float32 [selected][width], after the final norm */
	ATTND_OUT_SAMPLED = 5, /* uint32_t [selected], by the session's sampling; value: the last one */
	ATTND_OUT_END
};

enum attnd_select {
	ATTND_SELECT_LAST = 0,
	ATTND_SELECT_ALL = 1,
	ATTND_SELECT_CHOSEN = 2, /* select_count ascending uint32_t row indices follow the tokens or rows in the input */
	ATTND_SELECT_END
};

struct attnd_step_args { /* the args word of STEP */
	uint8_t output;        /* enum attnd_output */
	uint8_t select;        /* enum attnd_select */
	uint16_t top_k;        /* with ATTND_OUT_TOP: 1 .. ATTND_TOP_MAX */
	uint32_t select_count; /* with ATTND_SELECT_CHOSEN */
};

struct attnd_top { uint32_t id; float logit; float log_probability; };

struct attnd_generate_params { /* 64 bytes; then uint32_t prompt[argument], then uint32_t stop[stop_count] */
	uint32_t struct_bytes;
	uint32_t max_tokens;     /* stop after so many generated ones; > 0 */
	uint32_t stop_count;     /* at most ATTND_STOP_IDS_MAX */
	uint32_t reserved;       /* 0 */
	int64_t between_ns;      /* deadline between tokens, relative; 0 = none */
	int64_t reserved2;       /* 0 */
	struct attnd_sampling sampling;
};
/* A token is a completion: value its id, sequence from 0, position where it will stand: the tokens in the cache when it
 * was drawn. The ids are also written to the output range as far as it has room. The final completion carries enum
 * attnd_stop. A stop id is delivered. The end-of-text token of the model always stops.
 *
 * Afterwards the cache holds the prompt and every delivered token but the last, and .position counts these: the last one
 * was drawn and not yet fed. To go on, pass it as the first of the next prompt. A prompt has at least one token. A stream
 * without a credit waits; that wait does not count against between_ns. NO_PAGES may end a stream midway. */

enum attnd_dtype { ATTND_F32 = 0, ATTND_F16 = 1, ATTND_BF16 = 2, ATTND_DTYPE_END };

enum { ATTND_ATTEND_CAUSAL = 1 << 0, ATTND_ATTEND_LSE = 1 << 1 };

struct attnd_attend_params { /* 64 bytes; the payload follows */
	uint32_t struct_bytes;
	uint16_t layer;
	uint8_t dtype;        /* enum attnd_dtype, of Q, K, V and O; the log-sum-exp is always float32 */
	uint8_t flags;        /* ATTND_ATTEND_* */
	uint32_t q_rows;      /* 0 for APPEND */
	uint32_t kv_rows;     /* appended to this layer first */
	uint32_t q_position;  /* position of the first query row, for CAUSAL and the window; see below */
	uint32_t window;      /* UINT32_MAX = the session's */
	float scale;          /* 0 = the session's */
	float soft_cap;       /* < 0 = the session's */
	uint32_t reserved[8]; /* 0 */
};
/* Payload, contiguous, each block beginning at a multiple of 64 bytes:
 *   Q [q_rows][heads][head_dim], K [kv_rows][kv_heads][head_dim], V [kv_rows][kv_heads][head_dim].
 * Output: O [q_rows][heads][head_dim], then (multiple of 64) float32 LSE [q_rows][heads] when asked.
 * q_position UINT32_MAX: the query rows are the last q_rows of the layer (after the append). Query row r sees keys
 * at positions <= q_position + r (CAUSAL) or all; with a window w only the last w of these. */

struct attnd_chat_message { /* followed by text[text_bytes], padded to a multiple of 8 */
	uint32_t role;       /* enum attnd_role */
	uint32_t text_bytes;
};

enum attnd_role { ATTND_ROLE_SYSTEM = 0, ATTND_ROLE_USER = 1, ATTND_ROLE_ASSISTANT = 2, ATTND_ROLE_END };

/* ---- descriptions ---------------------------------------------------------------------------------------- */

enum attnd_describe { ATTND_DESCRIBE_DAEMON = 0, ATTND_DESCRIBE_MODEL = 1, /* args: index */
	ATTND_DESCRIBE_SESSION = 2, ATTND_DESCRIBE_END };

struct attnd_daemon_info { /* 256 bytes */
	uint32_t struct_bytes, version;
	uint64_t boot_id;
	int64_t started_ns;
	uint32_t models, devices;
	uint32_t sessions, sessions_max;
	uint64_t kv_bytes, kv_bytes_free;
	uint32_t max_in_flight;   /* requests of one client accepted and not completed */
	uint32_t max_tokens;      /* per session */
	uint32_t max_step_tokens; /* per STEP request */
	uint32_t workers;
	char isa[16];
	char build[64];
	uint8_t reserved[104];
};

struct attnd_model_info { /* 256 bytes */
	uint32_t struct_bytes, index;
	char name[64];
	char architecture[16];
	char weights[16]; /* the commonest tensor type */
	uint64_t parameters, weight_bytes;
	uint32_t vocab, width, layers, heads, kv_heads, head_dim, ff_width, context;
	uint32_t bos, eos; /* UINT32_MAX: none */
	uint32_t has_tokenizer, has_chat_template;
	uint32_t state; /* 0 serving, else failed */
	uint8_t reserved[84];
};

struct attnd_session_info { /* 64 bytes */
	uint32_t struct_bytes, kind, model, position;
	uint32_t max_tokens, pages;
	uint64_t kv_bytes;
	uint8_t kv_k, kv_v;
	uint8_t reserved[2];
	uint32_t reused_tokens; /* of its first prompt, found in the cache of prefixes and not computed again */
	uint8_t reserved2[24];
};

/* ---- limits ------------------------------------------------------------------------------------------------ */

enum {
	ATTND_UNIT_BYTES = 64,
	ATTND_PAGE_TOKENS = 64,
	ATTND_TOP_MAX = 256,
	ATTND_STOP_IDS_MAX = 16,
	ATTND_REPEAT_WINDOW_MAX = 256,
	ATTND_TEXT_BYTES_MAX = 1 << 20, /* per TOKENIZE or DETOKENIZE */
	ATTND_HEAD_DIM_MAX = 256,
	ATTND_HEADS_MAX = 256,
	ATTND_LAYERS_MAX = 256,
	ATTND_ATTEND_ROWS_MAX = 4096,   /* query or key rows of one request */
};

#define ATTND_SIZE(type, bytes) ATTND_STATIC_ASSERT(sizeof(type) == (bytes), #type " has another size")
#define ATTND_AT(type, field, at) ATTND_STATIC_ASSERT(offsetof(type, field) == (at), #type "." #field " moved")

ATTND_SIZE(struct attnd_request, 64);
ATTND_AT(struct attnd_request, op, 0);
ATTND_AT(struct attnd_request, flags, 1);
ATTND_AT(struct attnd_request, priority_class, 2);
ATTND_AT(struct attnd_request, version, 3);
ATTND_AT(struct attnd_request, lap, 4);
ATTND_AT(struct attnd_request, reserved, 6);
ATTND_AT(struct attnd_request, request_id, 8);
ATTND_AT(struct attnd_request, session, 16);
ATTND_AT(struct attnd_request, deadline_ns, 24);
ATTND_AT(struct attnd_request, position, 32);
ATTND_AT(struct attnd_request, argument, 36);
ATTND_AT(struct attnd_request, in_offset, 40);
ATTND_AT(struct attnd_request, in_bytes, 44);
ATTND_AT(struct attnd_request, out_offset, 48);
ATTND_AT(struct attnd_request, out_capacity, 52);
ATTND_AT(struct attnd_request, args, 56);

ATTND_SIZE(struct attnd_completion, 64);
ATTND_AT(struct attnd_completion, request_id, 0);
ATTND_AT(struct attnd_completion, status, 8);
ATTND_AT(struct attnd_completion, flags, 9);
ATTND_AT(struct attnd_completion, lap, 10);
ATTND_AT(struct attnd_completion, sequence, 12);
ATTND_AT(struct attnd_completion, result_bytes, 16);
ATTND_AT(struct attnd_completion, position, 20);
ATTND_AT(struct attnd_completion, received_ns, 24);
ATTND_AT(struct attnd_completion, admitted_ns, 32);
ATTND_AT(struct attnd_completion, started_ns, 40);
ATTND_AT(struct attnd_completion, done_ns, 48);
ATTND_AT(struct attnd_completion, value, 56);

ATTND_SIZE(struct attnd_sampling, 32);
ATTND_SIZE(struct attnd_open_params, 88);
ATTND_AT(struct attnd_open_params, layers, 24);
ATTND_AT(struct attnd_open_params, sampling, 56);
ATTND_SIZE(struct attnd_step_args, 8);
ATTND_SIZE(struct attnd_top, 12);
ATTND_SIZE(struct attnd_generate_params, 64);
ATTND_AT(struct attnd_generate_params, between_ns, 16);
ATTND_AT(struct attnd_generate_params, sampling, 32);
ATTND_SIZE(struct attnd_attend_params, 64);
ATTND_AT(struct attnd_attend_params, layer, 4);
ATTND_AT(struct attnd_attend_params, q_rows, 8);
ATTND_AT(struct attnd_attend_params, scale, 24);
ATTND_SIZE(struct attnd_chat_message, 8);
ATTND_SIZE(struct attnd_daemon_info, 256);
ATTND_SIZE(struct attnd_model_info, 256);
ATTND_SIZE(struct attnd_session_info, 64);

#ifdef __cplusplus
}
#endif

#endif
