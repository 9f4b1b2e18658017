/*
 * ICMP (RFC 792) and ICMPv6 (RFC 4443): pings are answered, closed ports are told, both so many a second. Nothing is ever said about an
 * error, or to many (RFC 1122, 3.2.2; RFC 4443, 2.4): what was sent to a group has been refused before it comes here.
 */
#include "netio/net_ip_private.h"

enum {
	ERROR4_BYTES = 576, /* the longest error over IPv4 (RFC 1812, 4.3.2.3) */
	QUOTE4_BYTES = ERROR4_BYTES - NET_IP4_BYTES - NET_ICMP_BYTES,
};

/* ---- answers ---------------------------------------------------------------------------------------------- */

/* A packet of ICMP to whom a frame is from, with `bytes` behind its first eight; its head is written. NULL: no room. */
static unsigned char *begin_answer(struct net_ip *ip, const struct net_ip_in *in, size_t bytes)
{
	const struct net_ip_address *local = &ip->locals[in->local].address;
	const size_t icmp_bytes = NET_ICMP_BYTES + bytes;
	unsigned char *packet;

	if (in->is_ip4) {
		packet = net_ip_own_put(ip, in->mac, in->vlan, NET_TYPE_IP4, NET_IP4_BYTES + icmp_bytes);
		if (!packet)
			return NULL;
		net_ip4_put_head(packet, local, &in->from, NET_IP_ICMP4, icmp_bytes, true);
		return packet + NET_IP4_BYTES;
	}
	packet = net_ip_own_put(ip, in->mac, in->vlan, NET_TYPE_IP6, NET_IP6_BYTES + icmp_bytes);
	if (!packet)
		return NULL;
	net_ip6_put_head(packet, local, &in->from, NET_IP_ICMP6, icmp_bytes, NET_IP_HOPS);
	return packet + NET_IP6_BYTES;
}

/* ICMP sums itself alone, ICMPv6 the addresses, too. */
static uint64_t begin_sum(const struct net_ip *ip, const struct net_ip_in *in, size_t icmp_bytes)
{
	return in->is_ip4 ? 0 : net_ip_pseudo_sum(&ip->locals[in->local].address, &in->from, NET_IP_ICMP6, icmp_bytes);
}

/* Type, code, what the next four bytes are, and what is behind them. false: no room. */
static bool put_answer(struct net_ip *ip, const struct net_ip_in *in, const unsigned char head[NET_ICMP_BYTES], const unsigned char *rest,
	size_t bytes)
{
	unsigned char *icmp = begin_answer(ip, in, bytes);
	uint64_t sum;

	if (!icmp)
		return false;
	memcpy(icmp, head, NET_ICMP_BYTES);
	memcpy(icmp + NET_ICMP_BYTES, rest, bytes);
	sum = begin_sum(ip, in, NET_ICMP_BYTES + bytes);
	net_sum_store(icmp + 2, net_sum_fold(net_sum_add(sum, icmp, NET_ICMP_BYTES + bytes)));
	return true;
}

static net_ip_outcome *echo(struct net_ip *ip, const struct net_ip_in *in, uint8_t type)
{
	const size_t bytes = in->bytes - NET_ICMP_BYTES;
	unsigned char head[NET_ICMP_BYTES] = { type };

	if (bytes > NET_IP_QUOTE_BYTES)
		return &ip->counters.in.icmp_echo_long;
	memcpy(head + 4, in->at + 4, 4); /* identifier and sequence number */
	if (!net_limit_take(&ip->echoes, in->now_ns))
		net_port_count(&ip->counters.out.echoes_limited, 1);
	else if (put_answer(ip, in, head, in->at + NET_ICMP_BYTES, bytes))
		net_port_count(&ip->counters.out.echoes, 1);
	return &ip->counters.in.icmp_echo;
}

void net_ip_icmp_closed(struct net_ip *ip, const struct net_ip_in *in)
{
	const unsigned char head4[NET_ICMP_BYTES] = { NET_ICMP4_UNREACHABLE, NET_ICMP4_CODE_PORT };
	const unsigned char head6[NET_ICMP_BYTES] = { NET_ICMP6_UNREACHABLE, NET_ICMP6_CODE_PORT };
	const size_t most = in->is_ip4 ? QUOTE4_BYTES : NET_IP_QUOTE_BYTES, whole = (size_t)(in->at - in->packet) + in->bytes;

	if (!net_limit_take(&ip->unreachable, in->now_ns))
		net_port_count(&ip->counters.out.unreachable_limited, 1);
	else if (put_answer(ip, in, in->is_ip4 ? head4 : head6, in->packet, whole < most ? whole : most))
		net_port_count(&ip->counters.out.unreachable, 1);
}

/* ---- what comes in ---------------------------------------------------------------------------------------- */

static bool is_error4(uint8_t type)
{
	return type == NET_ICMP4_UNREACHABLE || type == NET_ICMP4_QUENCH || type == NET_ICMP4_REDIRECT || type == NET_ICMP4_EXCEEDED ||
		type == NET_ICMP4_PARAMETER;
}

net_ip_outcome *net_ip_icmp4(struct net_ip *ip, struct net_ip_in *in)
{
	uint8_t type, code;

	if (in->bytes < NET_ICMP_BYTES)
		return &ip->counters.in.icmp_short;
	type = in->at[0];
	code = in->at[1];
	if (net_sum_fold(net_sum_add(0, in->at, in->bytes)) != UINT16_MAX)
		return &ip->counters.in.icmp_checksum;
	if (type == NET_ICMP4_ECHO && code == 0)
		return echo(ip, in, NET_ICMP4_ECHO_REPLY);
	return is_error4(type) ? &ip->counters.in.icmp_error : &ip->counters.in.icmp_other;
}

static net_ip_outcome *read_icmp6(struct net_ip *ip, struct net_ip_in *in, uint8_t type, uint8_t code)
{
	const bool is_group = in->to.bytes[0] == 0xff;

	if (type >= NET_ICMP6_ROUTER_SOLICIT && type <= NET_ICMP6_REDIRECT)
		return net_ip_nd(ip, in, type, code);
	if (is_group)
		return &ip->counters.in.ip6_group;
	if (type == NET_ICMP6_ECHO && code == 0)
		return echo(ip, in, NET_ICMP6_ECHO_REPLY);
	return type < NET_ICMP6_ERROR_END ? &ip->counters.in.icmp_error : &ip->counters.in.icmp_other;
}

net_ip_outcome *net_ip_icmp6(struct net_ip *ip, struct net_ip_in *in)
{
	uint8_t type, code;
	uint64_t sum;

	if (in->bytes < NET_ICMP_BYTES)
		return &ip->counters.in.icmp_short;
	type = in->at[0];
	code = in->at[1];
	sum = net_ip_pseudo_sum(&in->from, &in->to, NET_IP_ICMP6, in->bytes);
	if (net_sum_fold(net_sum_add(sum, in->at, in->bytes)) != UINT16_MAX)
		return &ip->counters.in.icmp_checksum;
	return read_icmp6(ip, in, type, code);
}
