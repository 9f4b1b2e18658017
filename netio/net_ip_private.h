/*
 * The parts of the IP stack among themselves. Not for others: see net_ip.h.
 *
 *   net_ip.c          create; the table of neighbours and everything's limits
 *   net_ip_receive.c  Ethernet, VLAN: which protocol
 *   net_ip4.c, net_ip6.c  headers of packets: which local address, who sent it
 *   net_ip_udp.c      datagrams in
 *   net_ip_icmp.c     echoes, errors
 *   net_ip_arp.c, net_ip_nd.c  neighbours
 *   net_ip_send.c     datagrams out, the heads of packets
 *   net_ip_own.c      the queue of the stack's own frames
 */
#ifndef NET_IP_PRIVATE_H
#define NET_IP_PRIVATE_H

#include "netio/net_ip.h"
#include "netio/net_limit.h"
#include "netio/net_sum.h"

enum {
	NET_IP_OWN_FRAMES = 64, /* in the queue: what a burst of frames calls for */
	NET_IP_HOPS = 64,       /* of what we send; RFC 1700's default */
	NET_IP_ND_HOPS = 255,
};

_Static_assert((NET_IP_OWN_FRAMES & (NET_IP_OWN_FRAMES - 1)) == 0, "a power of two");

/* The address of a way: how somebody is answered. Not on any wire. */
struct net_ip_blob {
	uint8_t local;     /* ours */
	uint8_t zeros[3];
	uint16_t port;     /* his, of UDP */
	unsigned char mac[NET_MAC_BYTES]; /* his, or his router's; zeros: to be looked up */
	unsigned char zeros_too[4];
	struct net_ip_address peer;
};

_Static_assert(sizeof(struct net_ip_blob) == NET_ADDRESS_BYTES, "fills a way's address, so that all its bytes are defined");

/* The first and the last address of a local IPv4 net, which are the net and all of it. 0, where there are none: an address that nobody has
 * anyway. */
struct net_ip_ends {
	uint32_t first, last;
};

struct net_ip_own_frame {
	uint32_t bytes;
	unsigned char frame[NET_IP_OWN_BYTES];
};

struct net_ip {
	/* Looked at for every frame. */
	unsigned char mac[NET_MAC_BYTES];
	uint16_t vlans[NET_IP_LOCALS_MAX]; /* [local_count], by local */
	struct net_ip_ends ends[NET_IP_LOCALS_MAX];
	uint32_t local_count, listener_count;
	struct net_ip_listener listeners[NET_LISTENERS_MAX];
	struct net_ip_local locals[NET_IP_LOCALS_MAX];
	struct net_ip_counters counters;
	/* Below here is what only own frames and new neighbours need. */
	uint32_t mtu;
	struct net_neighbours *neighbours;
	struct net_limit answers, questions, echoes, unreachable, news;
	uint32_t own_first, own_end; /* of the queue; they wrap */
	struct net_ip_own_frame own[NET_IP_OWN_FRAMES];
};

/* A frame on its way in. */
struct net_ip_in {
	const unsigned char *frame;
	const unsigned char *at;   /* behind the Ethernet head; later, behind the header of IP */
	size_t bytes;              /* from there to the end; later, of what IP carries */
	const unsigned char *packet; /* the header of IP */
	unsigned char mac[NET_MAC_BYTES]; /* whom it is from */
	bool is_group;             /* its frame is for many */
	bool is_ip4;
	uint8_t hops;
	uint8_t local;             /* ours that it is for */
	uint16_t vlan;
	struct net_ip_verdict verdict;
	struct net_ip_address from, to; /* to: of IPv6 groups alone */
	int64_t now_ns;
};

/* Each says what became of the frame: the counter to count it by. */
typedef _Atomic uint64_t net_ip_outcome;

net_ip_outcome *net_ip_arp(struct net_ip *ip, struct net_ip_in *in);
net_ip_outcome *net_ip4(struct net_ip *ip, struct net_ip_in *in, struct net_ip_datagram *datagram);
net_ip_outcome *net_ip6(struct net_ip *ip, struct net_ip_in *in, struct net_ip_datagram *datagram);
net_ip_outcome *net_ip_udp(struct net_ip *ip, struct net_ip_in *in, struct net_ip_datagram *datagram);
net_ip_outcome *net_ip_icmp4(struct net_ip *ip, struct net_ip_in *in);
net_ip_outcome *net_ip_icmp6(struct net_ip *ip, struct net_ip_in *in);
/* The sum of ICMPv6 was right; it is 8 bytes at least. */
net_ip_outcome *net_ip_nd(struct net_ip *ip, struct net_ip_in *in, uint8_t type, uint8_t code);

/* The number of our address on a VLAN, or -1. */
static inline int net_ip_local_find(const struct net_ip *ip, uint16_t vlan, const struct net_ip_address *address)
{
	for (uint32_t i = 0; i < ip->local_count; i++) {
		if (ip->vlans[i] == vlan && net_ip_is_equal(&ip->locals[i].address, address))
			return (int)i;
	}
	return -1;
}

/* Whether somebody is on the link that one of our addresses is on. */
bool net_ip_is_on_link(const struct net_ip_local *local, const struct net_ip_address *address);
/* Whether it is nobody's: of a group, of all, of oneself, of no one. local: may be NULL; its link's broadcast address is refused, too. */
bool net_ip_is_nobody(const struct net_ip_local *local, const struct net_ip_address *address);

/* A frame of our own, headed for Ethernet: where its packet of `bytes` is to be written, all of it, before anything else is called. NULL:
 * no room, which is counted. */
unsigned char *net_ip_own_put(struct net_ip *ip, const unsigned char *mac, uint16_t vlan, uint16_t type, size_t bytes);

/* Asks for a neighbour's hardware address: everybody, or (mac not NULL) the one who had it. */
void net_ip_arp_ask(struct net_ip *ip, uint32_t local, const struct net_ip_address *whom, const unsigned char *mac);
void net_ip_nd_ask(struct net_ip *ip, uint32_t local, const struct net_ip_address *whom, const unsigned char *mac);

/* Nobody listens: says so to whom a datagram is from. in->at, in->bytes: the datagram. */
void net_ip_icmp_closed(struct net_ip *ip, const struct net_ip_in *in);

/* Writes an Ethernet head; returns its bytes. */
static inline uint32_t net_ip_put_ethernet(unsigned char *at, const unsigned char *to, const unsigned char *from, uint16_t vlan,
	uint32_t type)
{
	memcpy(at, to, NET_MAC_BYTES);
	memcpy(at + 6, from, NET_MAC_BYTES);
	if (vlan == 0) {
		net_store_be16(at + 12, type);
		return NET_ETH_BYTES;
	}
	net_store_be16(at + 12, NET_TYPE_VLAN);
	net_store_be16(at + 14, vlan);
	net_store_be16(at + 16, type);
	return NET_ETH_BYTES + NET_VLAN_BYTES;
}

/* Headers of packets that carry `bytes`; has_sum: IPv4's checksum is computed. */
void net_ip4_put_head(unsigned char *at, const struct net_ip_address *from, const struct net_ip_address *to, uint8_t protocol, size_t bytes,
	bool has_sum);
void net_ip6_put_head(unsigned char *at, const struct net_ip_address *from, const struct net_ip_address *to, uint8_t protocol, size_t bytes,
	uint8_t hops);
/* The sum of a pseudo-header (RFC 768; RFC 8200, 8.1). */
uint64_t net_ip_pseudo_sum(const struct net_ip_address *from, const struct net_ip_address *to, uint8_t protocol, size_t bytes);

#endif
