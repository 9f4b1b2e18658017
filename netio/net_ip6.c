/*
 * IPv6 in: the header (RFC 8200). Of extension headers one is passed over: a hop-by-hop header of eight bytes that holds nothing but
 * padding. All others are refused, so the way to what is carried is never longer than 48 bytes.
 */
#include "netio/net_ip_private.h"

enum { VERSION = 6, HOP_BY_HOP_BYTES = 8, PADDING_BYTES = HOP_BY_HOP_BYTES - 2, PAD_1 = 0, PAD_N = 1 };

static net_ip_outcome *read_lengths(struct net_ip *ip, struct net_ip_in *in)
{
	uint32_t bytes;

	if (in->bytes < NET_IP6_BYTES)
		return &ip->counters.in.ip6_short;
	if (in->at[0] >> 4 != VERSION)
		return &ip->counters.in.ip6_version;
	bytes = net_load_be16(in->at + 4);
	/* No bytes, and some: a jumbogram (RFC 2675). */
	if (bytes > in->bytes - NET_IP6_BYTES || bytes == 0)
		return &ip->counters.in.ip6_length;
	in->bytes = bytes;
	return NULL;
}

static bool is_group(const struct net_ip_address *address)
{
	return address->bytes[0] == 0xff;
}

/* Groups that carry what we look at: all nodes of the link, and those that solicitations for our addresses go to (RFC 4291, 2.7.1). */
static bool is_our_group(const struct net_ip *ip, const struct net_ip_in *in, const struct net_ip_address *to)
{
	static const unsigned char all_nodes[16] = { 0xff, 2, [15] = 1 }, solicited[13] = { 0xff, 2, [11] = 1, [12] = 0xff };

	if (memcmp(to, all_nodes, sizeof(all_nodes)) == 0)
		return true;
	if (memcmp(to, solicited, sizeof(solicited)) != 0)
		return false;
	for (uint32_t i = 0; i < ip->local_count; i++) {
		const struct net_ip_local *local = &ip->locals[i];

		if (local->vlan == in->vlan && !net_ip_is_4(&local->address) && memcmp(to->bytes + 13, local->address.bytes + 13, 3) == 0)
			return true;
	}
	return false;
}

/* Nobody: who asks whether an address is taken has none yet (RFC 4862, 5.4.2). */
static bool is_unspecified(const struct net_ip_address *address)
{
	static const struct net_ip_address unspecified;

	return net_ip_is_equal(address, &unspecified);
}

static bool is_source_bad(const struct net_ip *ip, const struct net_ip_in *in, uint8_t protocol)
{
	if (is_unspecified(&in->from))
		return protocol != NET_IP_ICMP6 || !is_group(&in->to);
	return net_ip_is_4(&in->from) || net_ip_is_nobody(NULL, &in->from) || net_ip_local_find(ip, in->vlan, &in->from) >= 0;
}

/* NULL: it is for an address of ours, or for one of our groups. */
static net_ip_outcome *read_addresses(struct net_ip *ip, struct net_ip_in *in, uint8_t protocol)
{
	int local;

	in->from = net_ip6_address(in->packet + 8);
	in->to = net_ip6_address(in->packet + 24);
	if (is_source_bad(ip, in, protocol))
		return &ip->counters.in.ip6_source;
	if (is_group(&in->to))
		return protocol == NET_IP_ICMP6 && is_our_group(ip, in, &in->to) ? NULL : &ip->counters.in.ip6_group;
	local = net_ip_local_find(ip, in->vlan, &in->to);
	if (local < 0 || net_ip_is_4(&in->to))
		return &ip->counters.in.ip6_not_us;
	if (in->is_group)
		return &ip->counters.in.ip6_group;
	in->local = (uint8_t)local;
	return NULL;
}

/* Single bytes of padding, then at most one run of it. The header's own length is 0: eight bytes. */
static bool is_padding(const unsigned char *bytes)
{
	uint32_t i = 0;

	while (i < PADDING_BYTES && bytes[i] == PAD_1)
		i++;
	return i == PADDING_BYTES || (i + 2 <= PADDING_BYTES && bytes[i] == PAD_N && i + 2u + bytes[i + 1] == PADDING_BYTES);
}

/* NULL: there was none, or it was passed over. */
static net_ip_outcome *read_hop_by_hop(struct net_ip *ip, struct net_ip_in *in, uint8_t *protocol)
{
	unsigned char header[HOP_BY_HOP_BYTES];

	if (*protocol != NET_IP_HOP_BY_HOP)
		return NULL;
	if (in->bytes < HOP_BY_HOP_BYTES)
		return &ip->counters.in.ip6_hop_by_hop;
	memcpy(header, in->at, sizeof(header));
	if (header[1] != 0 || !is_padding(header + 2))
		return &ip->counters.in.ip6_hop_by_hop;
	*protocol = header[0];
	in->at += HOP_BY_HOP_BYTES;
	in->bytes -= HOP_BY_HOP_BYTES;
	return NULL;
}

static net_ip_outcome *refuse(struct net_ip *ip, uint8_t protocol)
{
	switch (protocol) {
	case NET_IP_FRAGMENT:
		return &ip->counters.in.ip6_fragment;
	case NET_IP_HOP_BY_HOP: /* a second one */
	case NET_IP_ROUTING:
	case NET_IP_OPTIONS:
	case NET_IP_ESP:
	case NET_IP_AH:
	case NET_IP_MOBILITY:
	case NET_IP_HIP:
	case NET_IP_SHIM:
		return &ip->counters.in.ip6_extension;
	default:
		return &ip->counters.in.ip6_protocol;
	}
}

/* What carries the packet decides who may have sent it, so a hop-by-hop header is passed over first. */
net_ip_outcome *net_ip6(struct net_ip *ip, struct net_ip_in *in, struct net_ip_datagram *datagram)
{
	net_ip_outcome *outcome = read_lengths(ip, in);
	uint8_t protocol;

	if (outcome)
		return outcome;
	in->packet = in->at;
	in->at += NET_IP6_BYTES;
	protocol = in->packet[6];
	in->hops = in->packet[7];
	outcome = read_hop_by_hop(ip, in, &protocol);
	if (!outcome)
		outcome = read_addresses(ip, in, protocol);
	if (outcome)
		return outcome;
	if (in->hops == 0)
		return &ip->counters.in.ip6_hop_limit;
	if (protocol == NET_IP_UDP)
		return net_ip_udp(ip, in, datagram);
	return protocol == NET_IP_ICMP6 ? net_ip_icmp6(ip, in) : refuse(ip, protocol);
}
