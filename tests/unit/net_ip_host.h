/*
 * Machines for tests of the IP stack: numbered ones on a small net, and the one that a given frame is for. No cmocka: fuzzers have them,
 * too.
 */
#ifndef NET_IP_HOST_H
#define NET_IP_HOST_H

#include "netio/net_ip.h"

enum { HOST_PORT = 7747, HOST_LOCAL4 = 0, HOST_LOCAL6 = 1, HOST_LOCALS = 3 };

/* 192.0.2.N/24, 2001:db8::N/64 and fe80::N at 02:00:00:00:00:N, and a listener on all of them; gateways are number 254. */
struct net_ip_host {
	struct net_ip_local locals[HOST_LOCALS];
	struct net_ip_listener listeners[1];
	struct net_ip_options options;
	struct net_ip *ip;
};

void net_ip_host_options(struct net_ip_host *host, uint8_t number, uint16_t vlan);
/* With `options` as they are then. */
void net_ip_host_create(struct net_ip_host *host);
void net_ip_host_destroy(struct net_ip_host *host);
struct net_ip_address net_ip_host_address(uint8_t number, bool is_ip4);

/* What a right stack says to a frame that is for it: one is made that has the hardware address, the VLAN, the address of IP (or, of ARP and
 * solicitations, the one that is asked for) and the port that the frame is for. The name of the outcome, "in.delivered"; "none" where no
 * machine can have such an address. datagram: may be NULL. */
const char *net_ip_mirror(const unsigned char *frame, size_t bytes, struct net_ip_datagram *datagram);

/* Frames are counted once: the sum of all outcomes is how many there were. */
bool net_ip_is_counted_once(const struct net_ip *ip);

#endif
