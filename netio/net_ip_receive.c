/*
 * Frames in: Ethernet II and one VLAN tag. See net_ip.h.
 */
#include "netio/net_ip_private.h"

static const unsigned char everybody[NET_MAC_BYTES] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };

/* To all, or to a group of IPv6 (RFC 2464, 7). Which one is seen by the address. */
static bool is_our_group(const unsigned char *mac)
{
	return (mac[0] == 0x33 && mac[1] == 0x33) || net_mac_is_equal(mac, everybody);
}

static bool has_vlan(const struct net_ip *ip, uint16_t vlan)
{
	for (uint32_t i = 0; i < ip->local_count; i++) {
		if (ip->vlans[i] == vlan)
			return true;
	}
	return false;
}

/* Whom it is from and for. NULL: it is for us. */
static net_ip_outcome *read_macs(struct net_ip *ip, struct net_ip_in *in)
{
	unsigned char to[NET_MAC_BYTES];

	memcpy(to, in->frame, sizeof(to));
	memcpy(in->mac, in->frame + NET_MAC_BYTES, sizeof(in->mac));
	if (net_mac_is_group(in->mac) || net_mac_is_none(in->mac))
		return &ip->counters.in.eth_source;
	if (net_mac_is_equal(in->mac, ip->mac))
		return &ip->counters.in.eth_own;
	in->is_group = net_mac_is_group(to);
	if (in->is_group ? !is_our_group(to) : !net_mac_is_equal(to, ip->mac))
		return &ip->counters.in.eth_not_us;
	return NULL;
}

/* Goes behind a tag, where there is one. NULL: it is on a VLAN of ours. */
static net_ip_outcome *read_vlan(struct net_ip *ip, struct net_ip_in *in, uint16_t *type)
{
	if (*type == NET_TYPE_VLAN) {
		if (in->bytes < NET_VLAN_BYTES)
			return &ip->counters.in.eth_short;
		in->vlan = net_load_be16(in->at) & NET_VLAN_MASK;
		*type = net_load_be16(in->at + 2);
		in->at += NET_VLAN_BYTES;
		in->bytes -= NET_VLAN_BYTES;
		if (*type == NET_TYPE_VLAN)
			return &ip->counters.in.vlan_nested;
	}
	if (*type == NET_TYPE_SERVICE_VLAN)
		return &ip->counters.in.vlan_nested;
	return has_vlan(ip, in->vlan) ? NULL : &ip->counters.in.vlan_unknown;
}

static net_ip_outcome *read_type(struct net_ip *ip, struct net_ip_in *in, uint16_t type, struct net_ip_datagram *datagram)
{
	switch (type) {
	case NET_TYPE_IP4:
		return net_ip4(ip, in, datagram);
	case NET_TYPE_IP6:
		return net_ip6(ip, in, datagram);
	case NET_TYPE_ARP:
		return net_ip_arp(ip, in);
	default:
		return type < NET_TYPE_LEAST ? &ip->counters.in.eth_length : &ip->counters.in.eth_type;
	}
}

static net_ip_outcome *read_frame(struct net_ip *ip, struct net_ip_in *in, struct net_ip_datagram *datagram)
{
	net_ip_outcome *outcome;
	uint16_t type;

	if (in->bytes < NET_ETH_BYTES)
		return &ip->counters.in.eth_short;
	type = net_load_be16(in->frame + 2 * NET_MAC_BYTES);
	in->at = in->frame + NET_ETH_BYTES;
	in->bytes -= NET_ETH_BYTES;
	outcome = read_macs(ip, in);
	if (!outcome)
		outcome = read_vlan(ip, in, &type);
	return outcome ? outcome : read_type(ip, in, type, datagram);
}

bool net_ip_receive(struct net_ip *ip, const unsigned char *frame, size_t bytes, struct net_ip_verdict verdict, int64_t now_ns,
	struct net_ip_datagram *datagram)
{
	struct net_ip_in in = { .frame = frame, .bytes = bytes, .verdict = verdict, .now_ns = now_ns };
	net_ip_outcome *outcome = read_frame(ip, &in, datagram);

	net_port_count(&ip->counters.frames, 1);
	net_port_count(outcome, 1);
	if (outcome != &ip->counters.in.delivered)
		return false;
	net_port_count(&ip->counters.delivered_bytes, datagram->bytes);
	return true;
}
