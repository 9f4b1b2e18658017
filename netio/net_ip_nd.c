/*
 * Neighbour discovery (RFC 4861, 7; RFC 4862, 5.4.3), the host's part without routers: solicitations for us are answered, advertisements
 * read. Nothing from beyond the link gets here: the hop limit has to be 255.
 */
#include "netio/net_ip_private.h"

enum { TARGET_AT = 8, SOURCE_OPTION = 1, TARGET_OPTION = 2, OPTION_UNIT = 8, OPTIONS_MAX = 16 };
enum { IS_SOLICITED = 0x40, OVERRIDES = 0x20 };

static const struct net_ip_address all_nodes = { { 0xff, 2, [15] = 1 } }, nobody;

/* The address in a solicitation or an advertisement, and whose hardware address comes with it. */
struct nd {
	struct net_ip_address target;
	uint8_t flags;
	bool has_mac;
	unsigned char mac[NET_MAC_BYTES];
};

/* ---- out -------------------------------------------------------------------------------------------------- */

/* The group's hardware address (RFC 2464, 7). */
static void group_mac(const struct net_ip_address *group, unsigned char mac[NET_MAC_BYTES])
{
	mac[0] = mac[1] = 0x33;
	memcpy(mac + 2, group->bytes + 12, 4);
}

/* The group that solicitations for an address go to (RFC 4291, 2.7.1). */
static struct net_ip_address solicited_group(const struct net_ip_address *address)
{
	struct net_ip_address group = { { 0xff, 2, [11] = 1, [12] = 0xff } };

	memcpy(group.bytes + 13, address->bytes + 13, 3);
	return group;
}

/* A solicitation or an advertisement with our hardware address in it. */
static bool put(struct net_ip *ip, const unsigned char *mac, uint32_t local, const struct net_ip_address *to, uint8_t type, uint8_t flags,
	const struct net_ip_address *target)
{
	enum { BYTES = NET_ND_BYTES + NET_ND_OPTION_BYTES };
	const struct net_ip_local *from = &ip->locals[local];
	unsigned char *packet = net_ip_own_put(ip, mac, from->vlan, NET_TYPE_IP6, NET_IP6_BYTES + BYTES), *nd;

	if (!packet)
		return false;
	nd = packet + NET_IP6_BYTES;
	net_ip6_put_head(packet, &from->address, to, NET_IP_ICMP6, BYTES, NET_IP_ND_HOPS);
	memset(nd, 0, BYTES);
	nd[0] = type;
	nd[4] = flags;
	memcpy(nd + TARGET_AT, target->bytes, sizeof(target->bytes));
	nd[NET_ND_BYTES] = type == NET_ICMP6_SOLICIT ? SOURCE_OPTION : TARGET_OPTION;
	nd[NET_ND_BYTES + 1] = 1;
	memcpy(nd + NET_ND_BYTES + 2, ip->mac, NET_MAC_BYTES);
	net_sum_store(nd + 2, net_sum_fold(net_sum_add(net_ip_pseudo_sum(&from->address, to, NET_IP_ICMP6, BYTES), nd, BYTES)));
	return true;
}

void net_ip_nd_ask(struct net_ip *ip, uint32_t local, const struct net_ip_address *whom, const unsigned char *mac)
{
	const struct net_ip_address group = solicited_group(whom);
	unsigned char to[NET_MAC_BYTES];

	if (mac)
		memcpy(to, mac, sizeof(to));
	else
		group_mac(&group, to);
	if (put(ip, to, local, mac ? whom : &group, NET_ICMP6_SOLICIT, 0, whom))
		net_port_count(&ip->counters.out.nd_questions, 1);
}

/* To whom asks; to all, where he has no address yet. */
static void answer(struct net_ip *ip, const struct net_ip_in *in, uint32_t local)
{
	const bool is_probe = net_ip_is_equal(&in->from, &nobody);
	const struct net_ip_address *to = is_probe ? &all_nodes : &in->from;
	unsigned char mac[NET_MAC_BYTES];

	if (!net_limit_take(&ip->answers, in->now_ns)) {
		net_port_count(&ip->counters.out.answers_limited, 1);
		return;
	}
	if (is_probe)
		group_mac(to, mac);
	else
		memcpy(mac, in->mac, sizeof(mac));
	if (put(ip, mac, local, to, NET_ICMP6_ADVERT, is_probe ? OVERRIDES : IS_SOLICITED | OVERRIDES, &ip->locals[local].address))
		net_port_count(&ip->counters.out.nd_answers, 1);
}

/* ---- in --------------------------------------------------------------------------------------------------- */

/* Walks over the options. false: one of them has no length or is cut, or there are more than any message has. */
static bool read_options(const unsigned char *at, size_t bytes, uint8_t wanted, struct nd *nd)
{
	for (uint32_t i = 0; bytes > 0; i++) {
		uint8_t type;
		size_t length;

		if (bytes < OPTION_UNIT || i == OPTIONS_MAX)
			return false;
		type = at[0];
		length = at[1] * (size_t)OPTION_UNIT;
		if (length == 0 || length > bytes)
			return false;
		if (type == wanted && length == NET_ND_OPTION_BYTES) {
			nd->has_mac = true;
			memcpy(nd->mac, at + 2, sizeof(nd->mac));
		}
		at += length;
		bytes -= length;
	}
	return true;
}

/* What both kinds have to keep to (RFC 4861, 7.1). NULL: they do. */
static net_ip_outcome *read_message(struct net_ip *ip, const struct net_ip_in *in, uint8_t type, uint8_t code, struct nd *nd)
{
	*nd = (struct nd){ 0 };
	if (code != 0 || in->bytes < NET_ND_BYTES)
		return &ip->counters.in.nd_malformed;
	nd->flags = in->at[4];
	nd->target = net_ip6_address(in->at + TARGET_AT);
	if (!read_options(in->at + NET_ND_BYTES, in->bytes - NET_ND_BYTES, type == NET_ICMP6_SOLICIT ? SOURCE_OPTION : TARGET_OPTION, nd))
		return &ip->counters.in.nd_malformed;
	if (net_ip_is_4(&nd->target) || net_ip_is_nobody(NULL, &nd->target))
		return &ip->counters.in.nd_target;
	return nd->has_mac && !net_mac_is_equal(nd->mac, in->mac) ? &ip->counters.in.nd_sender : NULL;
}

static bool is_to_group(const struct net_ip_in *in)
{
	return in->to.bytes[0] == 0xff;
}

/* RFC 4861, 7.1.1: who has no address says no hardware address, and asks the group of the one that he wants. */
static bool is_probe_right(const struct net_ip_in *in, const struct nd *nd)
{
	const struct net_ip_address group = solicited_group(&nd->target);

	return !nd->has_mac && net_ip_is_equal(&in->to, &group);
}

static net_ip_outcome *read_solicitation(struct net_ip *ip, const struct net_ip_in *in, const struct nd *nd)
{
	const bool is_probe = net_ip_is_equal(&in->from, &nobody);
	int local;

	if (is_probe && !is_probe_right(in, nd))
		return &ip->counters.in.nd_malformed;
	local = net_ip_local_find(ip, in->vlan, &nd->target);
	if (local < 0)
		return &ip->counters.in.nd_not_us;
	if (nd->has_mac && net_ip_is_on_link(&ip->locals[local], &in->from))
		net_neighbours_hear(ip->neighbours, in->vlan, &in->from, nd->mac, NET_NEIGHBOUR_ASKS_US, in->now_ns);
	answer(ip, in, (uint32_t)local);
	return is_probe ? &ip->counters.in.nd_probe : &ip->counters.in.nd_asked;
}

/* To us: an answer. An advertisement without a hardware address says only that its sender is there, which we do not ask. */
static net_ip_outcome *read_answer(struct net_ip *ip, const struct net_ip_in *in, const struct nd *nd)
{
	const enum net_neighbour_word word = nd->flags & OVERRIDES ? NET_NEIGHBOUR_ANSWERS : NET_NEIGHBOUR_CONFIRMS;
	const bool is_known = nd->has_mac && nd->flags & IS_SOLICITED &&
		net_neighbours_hear(ip->neighbours, in->vlan, &nd->target, nd->mac, word, in->now_ns);

	return is_known ? &ip->counters.in.nd_answered : &ip->counters.in.nd_unasked;
}

static net_ip_outcome *read_advertisement(struct net_ip *ip, const struct net_ip_in *in, const struct nd *nd)
{
	const bool is_solicited = nd->flags & IS_SOLICITED;

	/* RFC 4861, 7.1.2. */
	if ((is_solicited && is_to_group(in)) || net_ip_is_equal(&in->from, &nobody))
		return &ip->counters.in.nd_malformed;
	if (net_ip_local_find(ip, in->vlan, &nd->target) >= 0)
		return &ip->counters.in.nd_conflict;
	if (is_solicited)
		return read_answer(ip, in, nd);
	if (!net_limit_take(&ip->news, in->now_ns))
		return &ip->counters.in.nd_news_limited;
	if (nd->has_mac && nd->flags & OVERRIDES)
		net_neighbours_hear(ip->neighbours, in->vlan, &nd->target, nd->mac, NET_NEIGHBOUR_NEWS, in->now_ns);
	return &ip->counters.in.nd_news;
}

net_ip_outcome *net_ip_nd(struct net_ip *ip, struct net_ip_in *in, uint8_t type, uint8_t code)
{
	struct nd nd;
	net_ip_outcome *outcome;

	if (in->hops != NET_IP_ND_HOPS)
		return &ip->counters.in.nd_hop_limit;
	if (type != NET_ICMP6_SOLICIT && type != NET_ICMP6_ADVERT)
		return &ip->counters.in.nd_router;
	outcome = read_message(ip, in, type, code, &nd);
	if (outcome)
		return outcome;
	return type == NET_ICMP6_SOLICIT ? read_solicitation(ip, in, &nd) : read_advertisement(ip, in, &nd);
}
