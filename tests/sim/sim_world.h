/*
 * The whole service on one thread, under a fake clock, from a seed: clients with real rings, the
 * front, the scheduler, the text role, and a device. Clients open sessions, step, generate, fork,
 * truncate, flood, cancel, stall, send rubbish, and die. After every round of polls every request,
 * block and credit is accounted for, and every result is compared with what the session's history
 * demands.
 */
#ifndef SIM_WORLD_H
#define SIM_WORLD_H

#include <stdbool.h>
#include <stdint.h>

enum sim_plant {
	SIM_PLANT_NOTHING,
	SIM_PLANT_DOUBLE_COMPLETION,
	SIM_PLANT_LOST_COMPLETION,
	SIM_PLANT_PAGE_LEAK
};

/* How clients reach the service: by their rings, or over a network that breaks, and for datagrams does everything else too. */
enum sim_way { SIM_WAY_SHM, SIM_WAY_STREAM, SIM_WAY_DATAGRAM, SIM_WAY_PLAIN_DATAGRAM };

struct sim_world_options {
	uint64_t seed;
	int64_t duration_ns;  /* simulated */
	enum sim_plant plant; /* a bug to put in, once, about half-way */
	bool cpu; /* the real inline CPU backend on a tiny model instead of the modelled device */
	const char *model_path; /* with cpu */
	enum sim_way way;
};

struct sim_world_report {
	bool failed;
	char message[512];    /* what broke */
	uint64_t rounds;      /* of polls, until the end or the failure */
	int64_t failed_at_ns; /* simulated */
	uint64_t accepted, completed, streams, deaths, steps, drafts, drafts_accepted;
	uint64_t by_status[64];
	uint64_t packets, lost, doubled, late, changed, broken, resumed; /* over a network */
	uint64_t digest; /* of every completion seen, in order: equal for equal seeds */
};

void sim_world_run(const struct sim_world_options *options, struct sim_world_report *report);

#endif
