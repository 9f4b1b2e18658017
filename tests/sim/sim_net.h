/*
 * A network between the simulated clients and the network front: the front's transport, the wires, and at each client's end the library's
 * side of a connection (net_caller), which takes the client's records from its rings and puts completions there as svc_front would. So the
 * same clients, with the same memory of what they are owed, live over a network that loses, doubles, delays, shuffles and changes what it
 * carries, and that breaks.
 *
 * A function of its seed and of the clock.
 */
#ifndef SIM_NET_H
#define SIM_NET_H

#include "service/svc_front.h"
#include "service/svc_net.h"

enum { SIM_NET_KEY_BYTE = 0x5a };

/* Of a thousand packets so many; a stream only breaks, and its packets are cut anywhere. */
struct sim_net_faults { uint32_t lost, doubled, late, changed, broken; };

struct sim_net_options {
	struct base_clock *clock;
	uint64_t seed;
	bool datagrams, plain;
	struct sim_net_faults faults;
	uint32_t clients_max, in_flight, streams;
	uint64_t memory_bytes; /* of each pool */
	struct base_spsc *to_device, *from_device, *to_text, *from_text;
};

struct sim_net_totals {
	uint64_t packets, lost, doubled, late, changed, broken, resumed;
};

struct sim_net;

struct sim_net *sim_net_create(const struct sim_net_options *options);
/* Asserts that every block was given back. */
void sim_net_destroy(struct sim_net *net);

/* The client at a place, free before, speaks through its rings from now on. */
void sim_net_plug(struct sim_net *net, uint32_t place, struct svc_rings *rings);
/* It is dead: its memory is not touched any more. Says goodbye, or nothing. */
void sim_net_unplug(struct sim_net *net, uint32_t place);

/* Everything that can happen now. How much did. */
int sim_net_poll(struct sim_net *net);
/* When something happens by itself. */
int64_t sim_net_next_ns(struct sim_net *net);
/* Whether the front has no client left. */
bool sim_net_empty(const struct sim_net *net);
/* 0, or -EINVAL with a message. */
int sim_net_check(struct sim_net *net);
const struct sim_net_totals *sim_net_totals(const struct sim_net *net);
const struct svc_net_counters *sim_net_counters(const struct sim_net *net);

#endif
