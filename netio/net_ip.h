/*
 * A small IP stack for a port that has no kernel behind it: frames in, datagrams of UDP out, and the other way round. It answers ARP,
 * neighbour solicitations and pings, and says that a port is closed; it forwards nothing, and has no fragments, no TCP and no router's
 * part. For the byte layouts and their RFCs see net_frame.h; what hosts must do is RFC 1122, 8504 and, for IPv4's identification, 6864.
 *
 * Pure: no device, no socket, no clock. The owner hands in frames and the time, takes frames of the stack's own out of a queue, and
 * has heads written before his payloads. One thread owns a stack (a port's queue); nothing is allocated after create.
 *
 * A frame comes from anybody. Lengths are checked before what they measure is read; each field that decides something is read once, and
 * what a checksum reads a second time decides nothing else. No branch depends on payload.
 *
 * Whoever asks is answered along the way that he came: his hardware address and VLAN are part of struct net_way's address, so a reply
 * needs no table. Only who is addressed first by us (net_ip_way) is looked up among the neighbours, or behind a gateway.
 */
#ifndef NET_IP_H
#define NET_IP_H

#include "netio/net_ip_counters.h"
#include "netio/net_neighbour.h"
#include "netio/net_port.h"

enum {
	NET_IP_LOCALS_MAX = 8,
	NET_IP_STATICS_MAX = 256,
	NET_IP_MTU_LEAST = 1280, /* IPv6's (RFC 8200, 5) */
	NET_IP_MTU_MAX = 9216,
	NET_IP_HEADROOM_BYTES = NET_ETH_BYTES + NET_VLAN_BYTES + NET_IP6_BYTES + NET_UDP_BYTES, /* that a payload needs before it */
	NET_IP_QUOTE_BYTES = NET_IP_MTU_LEAST - NET_IP6_BYTES - NET_ICMP_BYTES, /* that are echoed, or quoted in an error, at most */
	NET_IP_OWN_BYTES = NET_ETH_BYTES + NET_VLAN_BYTES + NET_IP_MTU_LEAST,   /* a frame of the stack's own, at most */
	NET_IP_ANY = 0xff,       /* a listener on all local addresses */
};

/* An address of this machine. A frame for it has to come on its VLAN. */
struct net_ip_local {
	struct net_ip_address address;
	uint8_t prefix_bits;  /* who is on the same link: of IPv4 1 to 32, of IPv6 1 to 128 (and fe80::/10) */
	bool has_gateway;     /* for everybody else whose hardware address is not known */
	uint16_t vlan;        /* 0: without a tag, or with one that only says a priority; at most 4094 */
	struct net_ip_address gateway; /* on the same link */
};

struct net_ip_listener {
	uint16_t port;
	uint8_t local; /* its number, or NET_IP_ANY */
};

/* A neighbour whose hardware address is written down: nothing changes it. */
struct net_ip_static {
	struct net_ip_address address;
	uint16_t vlan;
	unsigned char mac[NET_MAC_BYTES];
};

/* So many a second, and so many at once. per_second = 0: none at all. */
struct net_ip_rate {
	uint32_t per_second, burst;
};

struct net_ip_options {
	unsigned char mac[NET_MAC_BYTES];
	uint32_t mtu; /* the longest packet of IP that the link takes */
	const struct net_ip_local *locals; /* [local_count], copied */
	uint32_t local_count;
	const struct net_ip_listener *listeners; /* [listener_count], copied; struct net_way numbers them */
	uint32_t listener_count;
	const struct net_ip_static *statics; /* [static_count], copied */
	uint32_t static_count;
	uint32_t neighbour_count;  /* places, as in net_neighbour.h */
	struct net_ip_rate answers;     /* to ARP requests and neighbour solicitations */
	struct net_ip_rate questions;   /* of ours */
	struct net_ip_rate echoes;
	struct net_ip_rate unreachable;
	struct net_ip_rate news;        /* gratuitous ARP and unsolicited advertisements that are looked at */
	void (*random)(void *context, void *to, size_t bytes); /* not to be guessed; called by create alone */
	void *random_context;
};

/* mtu 1500, 1024 neighbours, rates that a small network never meets; everything else 0. */
void net_ip_defaults(struct net_ip_options *options);

struct net_ip;

/* -EINVAL (the message says what), -EEXIST, -ENOSPC (static neighbours), -ENOMEM. */
int net_ip_create(struct net_ip **ip, const struct net_ip_options *options);
void net_ip_destroy(struct net_ip *ip);

/* ---- receiving -------------------------------------------------------------------------------------------- */

/* What the device says of a checksum. GOOD is believed, UNKNOWN looked at, BAD refused. */
enum net_ip_sum { NET_IP_SUM_UNKNOWN, NET_IP_SUM_GOOD, NET_IP_SUM_BAD };

struct net_ip_verdict {
	uint8_t ip4; /* enum net_ip_sum: IPv4's header */
	uint8_t udp; /* of UDP alone; those of ICMP are always looked at */
};

/* A datagram in a frame. */
struct net_ip_datagram {
	struct net_way way; /* stream: NET_NO_STREAM; address: see above. Zeros where nothing is said. */
	uint32_t offset, bytes; /* of the payload in the frame; bytes may be 0 */
};

/* A frame of any length that the device has received, in one piece, tags left in, without its check sequence. true: a datagram for a
 * listener. Each frame is counted under exactly one name in struct net_ip_in_counters. The frame is not written to. What it calls for is in
 * the queue. */
bool net_ip_receive(struct net_ip *ip, const unsigned char *frame, size_t bytes, struct net_ip_verdict verdict, int64_t now_ns,
	struct net_ip_datagram *datagram);

/* ---- sending ---------------------------------------------------------------------------------------------- */

/* What is left to the device. */
enum {
	NET_IP_OFFLOAD_IP4 = 1, /* the header's checksum is 0 */
	NET_IP_OFFLOAD_UDP = 2, /* the checksum is the sum of the pseudo-header, not complemented */
};

/* Where the frame around a payload lies, and what a device wants to know to finish it. */
struct net_ip_frame {
	unsigned char *at;
	uint32_t bytes;
	uint8_t ethernet_bytes, ip_bytes;
	bool is_ip4;
};

/* The way to somebody who has not spoken to us. listener: for our port; local: our address. -EINVAL: no such numbers, port 0, or nobody
 * else has that address; -ENETUNREACH: he is not on the link, and there is no gateway. */
int net_ip_way(const struct net_ip *ip, uint32_t listener, uint32_t local, const struct net_ip_address *peer, uint16_t port,
	struct net_way *way);

/* The longest payload that goes along a way: what is longer is not sent. */
uint32_t net_ip_payload_max(const struct net_ip *ip, const struct net_way *way);

/* Writes the heads in front of a payload that has NET_IP_HEADROOM_BYTES of memory before it. The device brings short frames to 60 bytes. 0;
 * -EINVAL: no way of this stack's; -EMSGSIZE; -EHOSTUNREACH: no hardware address is known, and it is being asked for: try again later. What
 * is not sent is counted, and nothing is written then. */
int net_ip_send(struct net_ip *ip, const struct net_way *way, unsigned char *payload, size_t bytes, uint32_t offload, int64_t now_ns,
	struct net_ip_frame *frame);

/* The next frame of the stack's own: checksums computed, 60 to NET_IP_OWN_BYTES bytes. 0: none. */
size_t net_ip_next(struct net_ip *ip, unsigned char frame[NET_IP_OWN_BYTES]);

/* Any thread may look, until the stack is destroyed. */
const struct net_ip_counters *net_ip_counters(const struct net_ip *ip);
const struct net_neighbour_counters *net_ip_neighbour_counters(const struct net_ip *ip);

#endif
