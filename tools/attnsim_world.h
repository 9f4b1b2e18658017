/*
 * The parts of a replay: its requests, its devices with their schedulers, and what is counted. Seen by
 * attnsim_run.c, which moves it, and attnsim_world.c, which makes it and looks back on it.
 */
#ifndef ATTNSIM_WORLD_H
#define ATTNSIM_WORLD_H

#include "sched/sched.h"
#include "tools/attnsim_run.h"

enum attnsim_job_state { JOB_HELD, JOB_OPENING, JOB_RUNNING, JOB_CLOSING, JOB_DONE };

struct attnsim_job {
	int64_t arrival_ns, deadline_ns; /* deadline 0: none */
	int64_t first_ns, last_ns;       /* of its tokens; 0: none yet */
	int64_t prefill_ns;              /* alone on an idle device */
	uint64_t session, cache_bytes;
	uint32_t prompt, output, generated;
	uint32_t device, tenant;
	enum attnsim_urgency urgency;
	enum attnsim_job_state state;
	uint8_t status;
	bool waited, cancelled;
	unsigned char *in; /* of its GENERATE */
	struct attnd_open_params open;
};

/* A device, its scheduler, and what was put there. */
struct attnsim_node {
	struct attnsim_device *device;
	struct sched *sched;
	struct base_spsc in, out;
	uint32_t sessions;
	uint64_t cache_bytes; /* of all sessions, to the end of their answers */
	int64_t ahead_ns;     /* predicted work */
	bool due;             /* a message waits */
};

/* How far one tenant's device time was ahead of another's since both wait. */
struct attnsim_pair {
	bool both;
	int64_t least_ns, most_ns;
};

struct attnsim_world {
	const struct attnsim_setup *setup;
	struct attnsim_result *result;
	struct base_clock clock;
	struct kern_program program;
	struct model_info info;
	struct attnsim_job *jobs;   /* [count], by arrival */
	size_t count, next, done;   /* next: to arrive */
	size_t waiting_first;       /* all before it are done */
	uint32_t *held, held_count; /* a heap of jobs */
	struct attnsim_node *nodes; /* [devices] */
	uint64_t cache_bytes;       /* of one device */
	uint64_t tokens;
	int64_t token_ns;           /* predicted work of a token to be generated */
	int64_t start_ns, end_ns;   /* the trace's time */
	uint32_t waiting[ATTNSIM_TENANTS_MAX];
	struct attnsim_pair pairs[ATTNSIM_TENANTS_MAX][ATTNSIM_TENANTS_MAX];
	int64_t drift_ns;
	int broken; /* -errno, with a message */
};

/* The program, and memory for jobs, devices and what is held. -errno with a message. */
int attnsim_world_tables(struct attnsim_world *world);
/* Devices and schedulers; start_ns and end_ns are known. */
int attnsim_world_nodes(struct attnsim_world *world);
int attnsim_world_result(struct attnsim_world *world);
/* Also after a failure of the others. */
void attnsim_world_free(struct attnsim_world *world);

#endif
