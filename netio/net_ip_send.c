/*
 * Datagrams out: heads before payloads that lie in the owner's memory. See net_ip.h.
 */
#include "netio/net_ip_private.h"

#include <errno.h>

/* ---- headers ---------------------------------------------------------------------------------------------- */

/* An IPv4 address counts as it is: what stands before it in a mapped one sums to 0xffff, which is nothing. */
uint64_t net_ip_pseudo_sum(const struct net_ip_address *from, const struct net_ip_address *to, uint8_t protocol, size_t bytes)
{
	uint64_t sum = net_sum_add(0, from->bytes, sizeof(from->bytes));

	sum = net_sum_add(sum, to->bytes, sizeof(to->bytes));
	return net_sum_add_be16(net_sum_add_be16(sum, (uint32_t)bytes), protocol);
}

/* Never to be cut on the way, so it needs no identification (RFC 6864, 4.1). */
void net_ip4_put_head(unsigned char *at, const struct net_ip_address *from, const struct net_ip_address *to, uint8_t protocol, size_t bytes,
	bool has_sum)
{
	enum { VERSION_AND_WORDS = 0x45, DO_NOT_FRAGMENT = 0x40 };
	const unsigned char begin[12] = { [0] = VERSION_AND_WORDS, [6] = DO_NOT_FRAGMENT, [8] = NET_IP_HOPS, [9] = protocol };

	memcpy(at, begin, sizeof(begin));
	net_store_be16(at + 2, (uint32_t)bytes + NET_IP4_BYTES);
	memcpy(at + 12, from->bytes + NET_IP4_AT, 4);
	memcpy(at + 16, to->bytes + NET_IP4_AT, 4);
	if (has_sum)
		net_sum_store(at + 10, net_sum_fold(net_sum_add(0, at, NET_IP4_BYTES)));
}

void net_ip6_put_head(unsigned char *at, const struct net_ip_address *from, const struct net_ip_address *to, uint8_t protocol, size_t bytes,
	uint8_t hops)
{
	enum { VERSION = 0x60 };
	const unsigned char begin[8] = { [0] = VERSION, [6] = protocol, [7] = hops };

	memcpy(at, begin, sizeof(begin));
	net_store_be16(at + 4, (uint32_t)bytes);
	memcpy(at + 8, from->bytes, sizeof(from->bytes));
	memcpy(at + 24, to->bytes, sizeof(to->bytes));
}

/* ---- UDP -------------------------------------------------------------------------------------------------- */

/* One that comes to 0 is sent as its other form: 0 says that there is none. */
static void put_sum(unsigned char *udp, uint64_t pseudo_sum, size_t bytes, bool is_left_to_device)
{
	uint16_t folded = net_sum_fold(pseudo_sum);

	if (is_left_to_device) {
		memcpy(udp + 6, &folded, sizeof(folded));
		return;
	}
	folded = net_sum_fold(net_sum_add(pseudo_sum, udp, bytes));
	net_sum_store(udp + 6, folded == UINT16_MAX ? 0 : folded);
}

static void put_udp(const struct net_ip *ip, const struct net_way *way, const struct net_ip_blob *blob, unsigned char *udp, size_t bytes,
	uint32_t offload)
{
	const struct net_ip_address *from = &ip->locals[blob->local].address;
	const bool is_left_to_device = offload & NET_IP_OFFLOAD_UDP;

	net_store_be16(udp, ip->listeners[way->listener].port);
	net_store_be16(udp + 2, blob->port);
	net_store_be16(udp + 4, (uint32_t)bytes);
	net_store_be16(udp + 6, 0);
	put_sum(udp, net_ip_pseudo_sum(from, &blob->peer, NET_IP_UDP, bytes), bytes, is_left_to_device);
}

/* ---- whom to ---------------------------------------------------------------------------------------------- */

/* Whether it is somebody else's address. */
static bool is_other(const struct net_ip *ip, uint32_t local, const struct net_ip_address *peer)
{
	return !net_ip_is_nobody(&ip->locals[local], peer) && net_ip_local_find(ip, ip->locals[local].vlan, peer) < 0 &&
		net_ip_is_4(peer) == net_ip_is_4(&ip->locals[local].address);
}

static bool has_hop(const struct net_ip_local *local, const struct net_ip_address *peer)
{
	return local->has_gateway || net_ip_is_on_link(local, peer);
}

/* Whether the way's bytes are of this stack: they are the owner's to keep, and a stack may have been made anew meanwhile. */
static bool read_way(const struct net_ip *ip, const struct net_way *way, struct net_ip_blob *blob)
{
	memcpy(blob, way->address, sizeof(*blob));
	if (way->listener >= ip->listener_count || blob->local >= ip->local_count || blob->port == 0)
		return false;
	/* Who spoke to us was looked at then. */
	if (!net_mac_is_none(blob->mac))
		return net_ip_is_4(&blob->peer) == net_ip_is_4(&ip->locals[blob->local].address);
	return is_other(ip, blob->local, &blob->peer) && has_hop(&ip->locals[blob->local], &blob->peer);
}

static void ask(struct net_ip *ip, uint32_t local, const struct net_ip_address *whom, const unsigned char *mac, int64_t now_ns)
{
	if (!net_limit_take(&ip->questions, now_ns))
		net_port_count(&ip->counters.out.questions_limited, 1);
	else if (net_ip_is_4(whom))
		net_ip_arp_ask(ip, local, whom, mac);
	else
		net_ip_nd_ask(ip, local, whom, mac);
}

/* The hardware address of the next hop. false: it is not known yet. */
static bool resolve(struct net_ip *ip, struct net_ip_blob *blob, int64_t now_ns)
{
	const struct net_ip_local *local = &ip->locals[blob->local];
	const struct net_ip_address *hop;
	int answer;

	if (!net_mac_is_none(blob->mac))
		return true;
	hop = net_ip_is_on_link(local, &blob->peer) ? &blob->peer : &local->gateway;
	answer = net_neighbours_use(ip->neighbours, local->vlan, hop, now_ns, blob->mac);
	if (answer & NET_NEIGHBOUR_ASK)
		ask(ip, blob->local, hop, answer & NET_NEIGHBOUR_KNOWN ? blob->mac : NULL, now_ns);
	return answer & NET_NEIGHBOUR_KNOWN;
}

int net_ip_way(const struct net_ip *ip, uint32_t listener, uint32_t local, const struct net_ip_address *peer, uint16_t port,
	struct net_way *way)
{
	const struct net_ip_blob blob = { .local = (uint8_t)local, .port = port, .peer = *peer };

	if (listener >= ip->listener_count || local >= ip->local_count || port == 0 || !is_other(ip, local, peer))
		return -EINVAL;
	if (ip->listeners[listener].local != NET_IP_ANY && ip->listeners[listener].local != local)
		return -EINVAL;
	if (!has_hop(&ip->locals[local], peer))
		return -ENETUNREACH;
	*way = (struct net_way){ .listener = listener, .stream = NET_NO_STREAM };
	memcpy(way->address, &blob, sizeof(blob));
	return 0;
}

/* ---- the whole of it -------------------------------------------------------------------------------------- */

static uint32_t ip_bytes_of(const struct net_ip_blob *blob)
{
	return net_ip_is_4(&blob->peer) ? NET_IP4_BYTES : NET_IP6_BYTES;
}

uint32_t net_ip_payload_max(const struct net_ip *ip, const struct net_way *way)
{
	struct net_ip_blob blob;

	memcpy(&blob, way->address, sizeof(blob));
	return ip->mtu - ip_bytes_of(&blob) - NET_UDP_BYTES;
}

static void put_frame(const struct net_ip *ip, const struct net_ip_blob *blob, unsigned char *udp, size_t udp_bytes, uint32_t offload,
	struct net_ip_frame *frame)
{
	const struct net_ip_local *local = &ip->locals[blob->local];
	unsigned char *packet;

	frame->is_ip4 = net_ip_is_4(&blob->peer);
	frame->ip_bytes = (uint8_t)ip_bytes_of(blob);
	frame->ethernet_bytes = local->vlan == 0 ? NET_ETH_BYTES : NET_ETH_BYTES + NET_VLAN_BYTES;
	packet = udp - frame->ip_bytes;
	if (frame->is_ip4)
		net_ip4_put_head(packet, &local->address, &blob->peer, NET_IP_UDP, udp_bytes, !(offload & NET_IP_OFFLOAD_IP4));
	else
		net_ip6_put_head(packet, &local->address, &blob->peer, NET_IP_UDP, udp_bytes, NET_IP_HOPS);
	frame->at = packet - frame->ethernet_bytes;
	net_ip_put_ethernet(frame->at, blob->mac, ip->mac, local->vlan, frame->is_ip4 ? NET_TYPE_IP4 : NET_TYPE_IP6);
	frame->bytes = (uint32_t)(udp - frame->at) + (uint32_t)udp_bytes;
}

int net_ip_send(struct net_ip *ip, const struct net_way *way, unsigned char *payload, size_t bytes, uint32_t offload, int64_t now_ns,
	struct net_ip_frame *frame)
{
	unsigned char *udp = payload - NET_UDP_BYTES;
	struct net_ip_blob blob;

	if (!read_way(ip, way, &blob)) {
		net_port_count(&ip->counters.out.no_way, 1);
		return -EINVAL;
	}
	if (bytes > ip->mtu - ip_bytes_of(&blob) - NET_UDP_BYTES) {
		net_port_count(&ip->counters.out.too_long, 1);
		return -EMSGSIZE;
	}
	if (!resolve(ip, &blob, now_ns)) {
		net_port_count(&ip->counters.out.no_neighbour, 1);
		return -EHOSTUNREACH;
	}
	put_udp(ip, way, &blob, udp, NET_UDP_BYTES + bytes, offload);
	put_frame(ip, &blob, udp, NET_UDP_BYTES + bytes, offload, frame);
	net_port_count(&ip->counters.out.sent, 1);
	net_port_count(&ip->counters.out.sent_bytes, bytes);
	return 0;
}
