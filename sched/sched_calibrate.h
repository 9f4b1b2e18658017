/*
 * What a scheduler does with its device before it serves: a handful of works of several sizes, measured, so that the cost model
 * (sched_cost.h) begins with what this device takes and not with a guess of its rates. Without it the first deadlines after a start
 * would be promised, or refused, by a guess.
 *
 *   sched_create -> sched_calibrate_create -> poll, poll ... 0 -> destroy -> the first sched_poll
 *
 * The owner's thread. It takes KV blocks and gives them back zeroed; sessions, requests, counters, shares and cached prefixes never see
 * it. A device that fails ends the calibration of that model, and nothing else.
 */
#ifndef SCHED_CALIBRATE_H
#define SCHED_CALIBRATE_H

#include "sched/sched.h"

struct sched_calibrate;

/* What became of a model, or of raw attention. */
struct sched_calibrated {
	bool wanted;    /* somebody may use it */
	int error;      /* 0, or a negative errno that ended it: -ENOMEM where the cache has no room, else the device's */
	uint32_t works; /* that were learnt from; 0: the cost model still guesses */
	uint32_t depth; /* tokens in the deepest context that was tried */
	int64_t took_ns;
	/* As predicted now: tokens a second of one stream, and of a prompt in whole chunks. Raw attention: rows, deep and shallow. */
	double decode_per_s, prefill_per_s;
	double band; /* sched_cost_band of a single work */
};

/* Each model, and raw attention, gets so much time, and no work is begun that would not end within it, going by those before it.
 * -ENOMEM with a message. */
int sched_calibrate_create(struct sched_calibrate **calibrate, struct sched *sched, int64_t budget_ns);
/* Makes progress; 0: all is done. Never blocks: under a clock that its owner moves, it is to be moved between two calls. */
int sched_calibrate_poll(struct sched_calibrate *calibrate);
/* By model; model_count: raw attention. Complete once poll has said 0. */
const struct sched_calibrated *sched_calibrate_result(const struct sched_calibrate *calibrate, uint32_t model);
/* After poll has said 0. */
void sched_calibrate_destroy(struct sched_calibrate *calibrate);

#endif
