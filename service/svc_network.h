/*
 * The network front as the daemon has it: memory, keys and listeners by the configuration, the transport that the running kernel
 * allows, and the role over them.
 */
#ifndef SVC_NETWORK_H
#define SVC_NETWORK_H

#include "service/svc_config.h"
#include "service/svc_net.h"

struct svc_network {
	struct svc_net *net;
	struct net_port port;
	bool has_port;
	struct net_pool *in, *out, *parts;
	char without[160]; /* why the transport is not the fastest one; "": it is */
};

/* queues: as in svc_net_options, with the wakers, the clock and client_first; the rest is filled in. Listens from now on. -errno with a
 * message; nothing is left behind then. */
int svc_network_create(struct svc_network **network, const struct svc_config *config, uint64_t boot_id, int node,
	const struct svc_net_options *queues);
void svc_network_destroy(struct svc_network *network);

#endif
