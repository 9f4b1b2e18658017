/*
 * Datagrams through plain calls: several are received by one, and all that a poll has to send goes by one for each socket.
 *
 * One thread. All memory is taken at creation. Nothing waits.
 */
#ifndef NET_DATAGRAMS_H
#define NET_DATAGRAMS_H

#include "netio/net_port.h"

struct net_datagrams;

/* -ENOMEM with a message. fds: of the listeners, by number. */
int net_datagrams_create(struct net_datagrams **datagrams, const int *fds, uint32_t count);
void net_datagrams_destroy(struct net_datagrams *datagrams);

/* Tells above what has come to a listener's socket, one call's worth. How many. */
int net_datagrams_receive(struct net_datagrams *datagrams, uint32_t listener, const struct net_above *above,
	struct net_port_counters *counters);

/* As in struct net_port. */
unsigned char *net_datagrams_room(struct net_datagrams *datagrams, struct net_port_counters *counters);
void net_datagrams_put(struct net_datagrams *datagrams, const struct net_way *way, size_t bytes);

/* Gives the kernel what was put. false: it did not take all for now; the rest is kept, in order. */
bool net_datagrams_flush(struct net_datagrams *datagrams, struct net_port_counters *counters);

#endif
