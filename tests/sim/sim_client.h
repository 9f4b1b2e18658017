/*
 * A client of the simulated world: real rings, made-up behaviour, and a memory of what it is owed.
 * It knows the token history of each of its sessions and so what every result must be.
 */
#ifndef SIM_CLIENT_H
#define SIM_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/base_clock.h"
#include "sched/sched.h"
#include "service/svc_front.h"
#include "tests/sim/sim_device.h"

enum { SIM_CLIENTS = 10, SIM_IN_FLIGHT = 24, SIM_SESSIONS = 5 };

struct sim_client;

/* modelled: the modelled device's options, by which results can be foretold; NULL: it is another device. */
struct sim_client *sim_client_create(uint64_t seed, uint32_t place, struct base_clock *clock,
	const struct sched_model *model, const struct sim_device_options *modelled);
void sim_client_destroy(struct sim_client *client);
struct svc_rings *sim_client_rings(struct sim_client *client);

/* When it wants to act next. */
int64_t sim_client_next_ns(const struct sim_client *client);
/* Does one thing. True: it dies now. */
bool sim_client_act(struct sim_client *client);
/* Takes its completions, unless it is stalling (insist: takes them all the same). Returns how many;
 * mixes them into digest. */
int sim_client_consume(struct sim_client *client, bool insist, uint64_t *digest);
/* Requests without their final completion. */
uint32_t sim_client_outstanding(const struct sim_client *client);
/* True when something was wrong; message says what. */
bool sim_client_failure(const struct sim_client *client, char *message, size_t bytes);

#endif
