/*
 * IPv4 in: the header (RFC 791, RFC 1122 3.2.1). Options are passed over; fragments are refused, so nothing is kept of half a packet.
 */
#include "netio/net_ip_private.h"

enum { FRAGMENT_MASK = 0x3fff, VERSION = 4, WORD = 4, GROUPS_BEGIN = 0xe0000000u >> 24 };

/* The header's length is right, and the packet's: what lies behind it is the frame's padding. */
static net_ip_outcome *read_lengths(struct net_ip *ip, struct net_ip_in *in, uint32_t *header_bytes)
{
	uint32_t total_bytes;
	uint8_t first;

	if (in->bytes < NET_IP4_BYTES)
		return &ip->counters.in.ip4_short;
	first = in->at[0];
	*header_bytes = (first & 15u) * WORD;
	if (first >> 4 != VERSION)
		return &ip->counters.in.ip4_version;
	if (*header_bytes < NET_IP4_BYTES)
		return &ip->counters.in.ip4_header;
	if (*header_bytes > in->bytes)
		return &ip->counters.in.ip4_short;
	total_bytes = net_load_be16(in->at + 2);
	if (total_bytes < *header_bytes || total_bytes > in->bytes)
		return &ip->counters.in.ip4_length;
	in->bytes = total_bytes;
	return NULL;
}

static bool is_sum_right(const struct net_ip_in *in, uint32_t header_bytes)
{
	if (in->verdict.ip4 == NET_IP_SUM_UNKNOWN)
		return net_sum_fold(net_sum_add(0, in->at, header_bytes)) == UINT16_MAX;
	return in->verdict.ip4 == NET_IP_SUM_GOOD;
}

static bool is_end(const struct net_ip_ends *ends, uint32_t number)
{
	return number == ends->first || number == ends->last;
}

/* To somebody that we are not: which kind of somebody. */
static net_ip_outcome *not_us(struct net_ip *ip, const struct net_ip_in *in, const struct net_ip_address *to)
{
	const uint32_t number = net_ip4_number(to);

	if (in->is_group || number >> 24 >= GROUPS_BEGIN)
		return &ip->counters.in.ip4_group;
	for (uint32_t i = 0; i < ip->local_count; i++) {
		if (ip->vlans[i] == in->vlan && is_end(&ip->ends[i], number))
			return &ip->counters.in.ip4_group;
	}
	return &ip->counters.in.ip4_not_us;
}

static bool is_source_bad(const struct net_ip *ip, const struct net_ip_in *in, int local)
{
	const uint32_t number = net_ip4_number(&in->from);

	return net_ip4_is_nobody(number) || (local >= 0 && is_end(&ip->ends[local], number)) ||
		net_ip_local_find(ip, in->vlan, &in->from) >= 0;
}

/* Who it is from, and which of our addresses it is for. NULL: both are good. */
static net_ip_outcome *read_addresses(struct net_ip *ip, struct net_ip_in *in)
{
	const struct net_ip_address to = net_ip4_address(in->at + 16);
	const int local = net_ip_local_find(ip, in->vlan, &to);

	in->from = net_ip4_address(in->at + 12);
	if (is_source_bad(ip, in, local))
		return &ip->counters.in.ip4_source;
	if (local < 0)
		return not_us(ip, in, &to);
	/* RFC 1122, 3.3.6: what was sent to all on the link is for nobody's own address. */
	if (in->is_group)
		return &ip->counters.in.ip4_group;
	in->local = (uint8_t)local;
	return NULL;
}

static net_ip_outcome *read_header(struct net_ip *ip, struct net_ip_in *in, uint32_t header_bytes, uint8_t *protocol)
{
	const uint16_t fragment = net_load_be16(in->at + 6);
	net_ip_outcome *outcome;

	in->hops = in->at[8];
	*protocol = in->at[9];
	if (!is_sum_right(in, header_bytes))
		return &ip->counters.in.ip4_checksum;
	outcome = read_addresses(ip, in);
	if (outcome)
		return outcome;
	if (in->hops == 0)
		return &ip->counters.in.ip4_ttl;
	return fragment & FRAGMENT_MASK ? &ip->counters.in.ip4_fragment : NULL;
}

net_ip_outcome *net_ip4(struct net_ip *ip, struct net_ip_in *in, struct net_ip_datagram *datagram)
{
	uint32_t header_bytes;
	uint8_t protocol;
	net_ip_outcome *outcome = read_lengths(ip, in, &header_bytes);

	if (!outcome)
		outcome = read_header(ip, in, header_bytes, &protocol);
	if (outcome)
		return outcome;
	in->is_ip4 = true;
	in->packet = in->at;
	in->at += header_bytes;
	in->bytes -= header_bytes;
	if (protocol == NET_IP_UDP)
		return net_ip_udp(ip, in, datagram);
	return protocol == NET_IP_ICMP4 ? net_ip_icmp4(ip, in) : &ip->counters.in.ip4_protocol;
}
