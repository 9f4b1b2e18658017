/*
 * Names and sentences of operations and statuses; constant tables, any thread.
 */
#include "attnd/attnd.h"

static const char *const op_names[ATTND_OP_END] = {
	[ATTND_OP_NOP] = "nop",
	[ATTND_OP_DESCRIBE] = "describe",
	[ATTND_OP_OPEN] = "open",
	[ATTND_OP_STEP] = "step",
	[ATTND_OP_GENERATE] = "generate",
	[ATTND_OP_APPEND] = "append",
	[ATTND_OP_ATTEND] = "attend",
	[ATTND_OP_TOKENIZE] = "tokenize",
	[ATTND_OP_DETOKENIZE] = "detokenize",
	[ATTND_OP_FORK] = "fork",
	[ATTND_OP_TRUNCATE] = "truncate",
	[ATTND_OP_CLOSE] = "close",
	[ATTND_OP_CANCEL] = "cancel",
};

struct status_entry { const char *name, *text; };

static const struct status_entry statuses[ATTND_STATUS_END] = {
	[ATTND_OK] = { "ok", "The request was executed." },
	[ATTND_REFUSED_DEADLINE] = { "refused-deadline",
		"The deadline could not be met, so nothing was executed; the value is the predicted finish." },
	[ATTND_EXPIRED] = { "expired", "The deadline passed and the work stopped at the position given." },
	[ATTND_CANCELLED] = { "cancelled", "The request was cancelled and stopped at the position given." },
	[ATTND_CLIENT_GONE] = { "client-gone", "The client left before the request was complete." },
	[ATTND_DRAINING] = { "draining", "The daemon is going down; nothing was executed. Reconnect later." },
	[ATTND_BAD_RECORD] = { "bad-record", "The record's version, flags, class or reserved bits are unknown." },
	[ATTND_BAD_OP] = { "bad-op", "The daemon does not know this operation." },
	[ATTND_BAD_RANGE] = { "bad-range", "The input or output range does not lie in the arena." },
	[ATTND_BAD_PARAMS] = { "bad-params",
		"The parameter block is too short, or one of its values is out of range." },
	[ATTND_BAD_SHAPE] = { "bad-shape", "The input's length does not match the counts that were given." },
	[ATTND_BAD_TOKEN] = { "bad-token",
		"A token id is not below the vocabulary's size; the value is its index in the input." },
	[ATTND_BAD_POSITION] = { "bad-position",
		"The session does not stand at the expected position; the completion says where it stands." },
	[ATTND_BAD_SESSION] = { "bad-session", "The session's handle is unknown, closed or another client's." },
	[ATTND_SESSION_LOST] = { "session-lost",
		"The handle is from before the daemon's restart. Open a new session and push its tokens again." },
	[ATTND_BAD_MODEL] = { "bad-model", "There is no such model, or it has failed." },
	[ATTND_BAD_TEXT] = { "bad-text",
		"The messages are malformed, or the model has no tokenizer or chat template for them." },
	[ATTND_UNSUPPORTED] = { "unsupported", "Valid, but not for this kind of session or model." },
	[ATTND_DENIED] = { "denied", "The configuration does not allow this to this tenant." },
	[ATTND_NO_OUTPUT_ROOM] = { "no-output-room",
		"The output range is too small; the value is how many bytes are needed." },
	[ATTND_CONTEXT_FULL] = { "context-full",
		"The session's token limit is reached; truncate it or open a larger one." },
	[ATTND_NO_PAGES] = { "no-pages", "The pool of KV memory is empty; close sessions or try again later." },
	[ATTND_NO_SESSIONS] = { "no-sessions", "The daemon has no session left; close one or try again later." },
	[ATTND_OVER_QUOTA] = { "over-quota", "This tenant's quota is used up." },
	[ATTND_TOO_LARGE] = { "too-large", "A count or length is above the stated limit." },
	[ATTND_QUEUE_FULL] = { "queue-full",
		"A bounded queue is full and nothing was executed; wait for completions and submit again." },
	[ATTND_DEVICE_FAILED] = { "device-failed",
		"The batch failed on its device and the session was closed; open a new one." },
};

const char *attnd_op_name(unsigned op)
{
	return op < ATTND_OP_END && op_names[op] ? op_names[op] : "unknown-op";
}

const char *attnd_status_name(unsigned status)
{
	return status < ATTND_STATUS_END && statuses[status].name ? statuses[status].name : "unknown-status";
}

const char *attnd_status_text(unsigned status)
{
	return status < ATTND_STATUS_END && statuses[status].text ? statuses[status].text :
		"A status that this version of the library does not know.";
}
