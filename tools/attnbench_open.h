/*
 * The usual measurement of work that computes: first a closed loop, which finds out how fast
 * the daemon can be, then an open loop at a rate that it can hold. `step` and `attend` share
 * it.
 */
#ifndef ATTNBENCH_OPEN_H
#define ATTNBENCH_OPEN_H

#include "tools/attnbench_frame.h"

struct attnbench_work {
	struct attnbench_target target;
	const char *command; /* "step" */
	char title[160];
	/* below here: what was found */
	double capacity; /* answers per second of the closed loop */
	double rate;     /* of the open loop */
};

/* Measures, prints, writes --out. An exit code. */
int attnbench_work_measure(struct attnbench_work *work, struct attnbench_frame *frame);

/* More members for the JSON object, by the command; NULL: none. */
struct attnbench_extra {
	void (*json)(void *context, cJSON *object, const struct attnbench_work *work);
	void (*text)(void *context, const struct attnbench_work *work,
		const struct attnbench_frame *frame);
	void *context;
};
int attnbench_work_report(struct attnbench_work *work, struct attnbench_frame *frame,
	const struct attnbench_extra *extra);

#endif
