/*
 * The network front: connections as clients of the schedulers. It takes requests out of what net_host brings, hands them to their device or
 * to the text role, and sends back what comes of them. At most once: see docs/PROTOCOL.md, Network.
 *
 *   net_port -> net_host -> chunks -> inbox -> check -> to_device[], to_text
 *            <- net_host <- chunks <- outbox <------- from_device[], from_text
 *
 * A client's life: FREE -> PROMISED (its WELCOME is on the way) -> LIVE, with a link or, for resume_ns, without -> LEAVING (the devices and
 * the text role are told) -> FREE (all have said that they are done with it).
 *
 * Pure over clock, randomness, transport and queues. One thread polls it. Nothing is allocated after create.
 */
#ifndef SVC_NET_H
#define SVC_NET_H

#include "netio/net_host.h"
#include "netio/net_pool.h"
#include "service/svc_front.h"

struct svc_net_counters {
	_Atomic uint64_t requests, completions, streams; /* taken; FINAL; without FINAL */
	_Atomic uint64_t bad_record, bad_op, bad_range, too_large, queue_full; /* answered by the front itself */
	_Atomic uint64_t again;      /* parts of requests that had been taken already, or had come */
	_Atomic uint64_t no_memory;  /* parts dropped for want of memory */
	_Atomic uint64_t probes;     /* clients that asked for what they miss */
	_Atomic uint64_t resumed, expired; /* connections that went on by another link; that nobody came back to */
	_Atomic uint64_t slow;       /* connections ended because they held memory that others wanted, and took nothing */
	_Atomic uint64_t dropped;    /* completions of clients that were gone */
	_Atomic uint64_t unowed;     /* completions that nobody was owed: must stay 0 */
	_Atomic uint64_t clients, in_flight; /* now */
	_Atomic uint64_t kept;       /* now: replies that their clients have not said to have come */
};

struct svc_net_options {
	struct net_host_options host; /* all but above, clock, blocks, links_max */
	struct base_clock *clock;
	uint64_t boot_id;
	int node; /* where its memory is to be; -1: anywhere */
	uint32_t clients_max;
	uint32_t client_first; /* the schedulers' number of the first one */
	uint32_t in_flight;    /* requests of one client; with streams at most 1,024 */
	uint32_t streams;      /* completions without FINAL under way to one client, at least one per device */
	uint32_t window_bytes; /* of a client's requests, and of its replies, in memory at once; one always may be, and the next request */
	uint32_t message_bytes;
	int64_t resume_ns, slow_ns;
	/* For requests' payloads; for results; for packets that come in pieces. Its alone from now on, not its to destroy. */
	struct net_pool *in, *out, *parts;
	const uint32_t *tenant_clients_max; /* [tenant_count], copied */
	uint32_t tenant_count;
	uint32_t device_count;
	struct base_spsc *to_device[SVC_DEVICES_MAX], *from_device[SVC_DEVICES_MAX];
	struct base_spsc *to_text, *from_text;
	struct svc_waker device_waker[SVC_DEVICES_MAX], text_waker;
};

struct svc_net;

/* -EINVAL, -ENOMEM with a message. */
int svc_net_create(struct svc_net **net, const struct svc_net_options *options);
/* Whom the transport is to tell; then the transport, which stays the caller's and goes after the role. */
struct net_above svc_net_above(struct svc_net *net);
void svc_net_attach(struct svc_net *net, const struct net_port *port);
void svc_net_destroy(struct svc_net *net);

/* As a role of an agent. */
int svc_net_poll(void *net);
int64_t svc_net_next_event_ns(void *net);
bool svc_net_sleep_begin(void *net);
/* Only where the transport has a sleep. */
bool svc_net_sleep(void *net, int others, int ms);

/* Any thread; the role is to be woken then. Nobody new is let in; with `close`, whoever is there is told and let go of. */
void svc_net_drain(struct svc_net *net, bool close);

const struct svc_net_counters *svc_net_counters(const struct svc_net *net);
const struct net_host_counters *svc_net_host_counters(const struct svc_net *net);
/* Checks every invariant, for tests. 0, or -EINVAL with a message. */
int svc_net_check(const struct svc_net *net);

#endif
