/*
 * Work for a connection whose answers are known beforehand: echoes of random bytes of many sizes, and sessions that take step after step,
 * several at once in any order among each other. Each request is to complete exactly once with the right bytes; what a step answers depends
 * on all steps before it, so that one that is lost, or done twice, shows at once.
 */
#ifndef LOSSY_WORK_H
#define LOSSY_WORK_H

#include "tests/system/sys_net.h"

enum {
	LOSSY_SESSIONS = 4,   /* two of attention, one of steps of a model, one of streams */
	LOSSY_STEPS = 40,     /* of a session in a round; of streams a quarter as many */
	LOSSY_ECHOES = 60,
	LOSSY_IN_FLIGHT = 24,
	LOSSY_OUT_BYTES = 4096,
	LOSSY_ECHO_BYTES = 64 << 10,
};

/* What a step answers over a good way. */
struct lossy_answer { uint32_t position, bytes; unsigned char out[LOSSY_OUT_BYTES]; };
struct lossy_answers { struct lossy_answer steps[LOSSY_SESSIONS][LOSSY_STEPS]; };

/* One connection's part. */
struct lossy_work {
	struct attnd_client *client;
	const struct attnd_model_info *model;
	struct lossy_answers *answers;
	bool learns;            /* fills answers in, instead of comparing with them */
	uint64_t seed, random;  /* of inputs: the same for the same answers; of the order */
	uint64_t requests, tokens, bytes; /* so far; bytes: of payload, both ways */
	int64_t pause_ns;       /* the longest time in which nothing came of what was in flight */
	char wrong[240];        /* "": nothing */
};

/* All of it once, in sessions of its own. false: work->wrong says what was. */
bool lossy_work_round(struct lossy_work *work);
/* How many requests a round has, beside those that open, look at and close sessions. */
uint32_t lossy_work_requests(void);

#endif
