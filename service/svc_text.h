/*
 * The text role: TOKENIZE and DETOKENIZE, off the data path, so that a megabyte of text never
 * delays a step. It has an agent of its own.
 *
 * Untrusted text is copied out of the client's arena once, and the copy is worked on. Each poll
 * serves one message, of the lanes in turn; a lane whose `out` is full waits alone. Nothing is
 * allocated after create.
 */
#ifndef SVC_TEXT_H
#define SVC_TEXT_H

#include <stdint.h>

#include "base/base_clock.h"
#include "base/base_spsc.h"
#include "model/model_token.h"
#include "sched/sched.h"

struct svc_text_options {
	struct base_clock *clock;
	struct sched_lane lanes[SCHED_LANES_MAX]; /* as the scheduler's, with queues of their own */
	uint32_t lane_count;
	const struct model_tokenizer *const
		*tokenizers; /* [model_count]; NULL: the model has none */
	uint32_t model_count;
	const uint64_t *tenant_models; /* [tenants]: bit i = may use model i */
	uint32_t tenant_count;
};

struct svc_text;

int svc_text_create(struct svc_text **text, const struct svc_text_options *options);
int svc_text_poll(void *text);
void svc_text_destroy(struct svc_text *text);

#endif
