/*
 * ARP (RFC 826, RFC 5227). Learned is who asks for us and is on our link; changed is who was asked, or is in the table and says so
 * unasked; the latter only so often.
 */
#include "netio/net_ip_private.h"

enum { HARDWARE_ETHERNET = 1, REQUEST = 1, REPLY = 2 };
enum { OPERATION_AT = 6, SENDER_MAC_AT = 8, SENDER_AT = 14, TARGET_MAC_AT = 18, TARGET_AT = 24 };

struct arp {
	uint16_t operation;
	unsigned char mac[NET_MAC_BYTES];
	struct net_ip_address sender, target;
};

/* ---- out -------------------------------------------------------------------------------------------------- */

static bool put(struct net_ip *ip, const unsigned char *to, uint16_t operation, uint32_t local, const unsigned char *target_mac,
	const struct net_ip_address *target)
{
	static const unsigned char begin[OPERATION_AT] = { 0, HARDWARE_ETHERNET, NET_TYPE_IP4 >> 8, NET_TYPE_IP4 & 0xff, NET_MAC_BYTES, 4 };
	unsigned char *arp = net_ip_own_put(ip, to, ip->locals[local].vlan, NET_TYPE_ARP, NET_ARP_BYTES);

	if (!arp)
		return false;
	memcpy(arp, begin, sizeof(begin));
	net_store_be16(arp + OPERATION_AT, operation);
	memcpy(arp + SENDER_MAC_AT, ip->mac, NET_MAC_BYTES);
	memcpy(arp + SENDER_AT, ip->locals[local].address.bytes + NET_IP4_AT, 4);
	memcpy(arp + TARGET_MAC_AT, target_mac, NET_MAC_BYTES);
	memcpy(arp + TARGET_AT, target->bytes + NET_IP4_AT, 4);
	return true;
}

void net_ip_arp_ask(struct net_ip *ip, uint32_t local, const struct net_ip_address *whom, const unsigned char *mac)
{
	static const unsigned char everybody[NET_MAC_BYTES] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff }, unknown[NET_MAC_BYTES];

	if (put(ip, mac ? mac : everybody, REQUEST, local, unknown, whom))
		net_port_count(&ip->counters.out.arp_questions, 1);
}

static void answer(struct net_ip *ip, const struct net_ip_in *in, uint32_t local, const struct arp *arp)
{
	if (!net_limit_take(&ip->answers, in->now_ns))
		net_port_count(&ip->counters.out.answers_limited, 1);
	else if (put(ip, in->mac, REPLY, local, arp->mac, &arp->sender))
		net_port_count(&ip->counters.out.arp_answers, 1);
}

/* ---- in --------------------------------------------------------------------------------------------------- */

/* Who asks whether an address is taken, ours, has none yet (RFC 5227, 1.1). */
static bool is_probe(const struct arp *arp)
{
	return arp->operation == REQUEST && net_ip4_number(&arp->sender) == 0;
}

static net_ip_outcome *read_arp(struct net_ip *ip, const struct net_ip_in *in, struct arp *arp)
{
	if (in->bytes < NET_ARP_BYTES)
		return &ip->counters.in.arp_short;
	arp->operation = net_load_be16(in->at + OPERATION_AT);
	memcpy(arp->mac, in->at + SENDER_MAC_AT, sizeof(arp->mac));
	arp->sender = net_ip4_address(in->at + SENDER_AT);
	arp->target = net_ip4_address(in->at + TARGET_AT);
	if (net_load_be16(in->at) != HARDWARE_ETHERNET || net_load_be16(in->at + 2) != NET_TYPE_IP4 || in->at[4] != NET_MAC_BYTES ||
		in->at[5] != 4 || (arp->operation != REQUEST && arp->operation != REPLY))
		return &ip->counters.in.arp_malformed;
	if (!net_mac_is_equal(arp->mac, in->mac) || (net_ip_is_nobody(NULL, &arp->sender) && !is_probe(arp)))
		return &ip->counters.in.arp_sender;
	return net_ip_local_find(ip, in->vlan, &arp->sender) >= 0 ? &ip->counters.in.arp_conflict : NULL;
}

static bool hear(struct net_ip *ip, const struct net_ip_in *in, const struct arp *arp, enum net_neighbour_word word)
{
	return net_neighbours_hear(ip->neighbours, in->vlan, &arp->sender, arp->mac, word, in->now_ns);
}

/* For us: a question, or an answer. */
static net_ip_outcome *read_ours(struct net_ip *ip, const struct net_ip_in *in, uint32_t local, const struct arp *arp)
{
	/* Who is not in the table is not asked for either, so an answer needs no looking whether it comes from the link. */
	if (arp->operation == REPLY)
		return hear(ip, in, arp, NET_NEIGHBOUR_ANSWERS) ? &ip->counters.in.arp_answered : &ip->counters.in.arp_unasked;
	if (net_ip_is_on_link(&ip->locals[local], &arp->sender) && !net_ip_is_nobody(&ip->locals[local], &arp->sender))
		hear(ip, in, arp, NET_NEIGHBOUR_ASKS_US);
	answer(ip, in, local, arp);
	return &ip->counters.in.arp_asked;
}

net_ip_outcome *net_ip_arp(struct net_ip *ip, struct net_ip_in *in)
{
	struct arp arp;
	net_ip_outcome *outcome = read_arp(ip, in, &arp);
	int local;

	if (outcome)
		return outcome;
	local = net_ip_local_find(ip, in->vlan, &arp.target);
	if (local >= 0)
		return read_ours(ip, in, (uint32_t)local, &arp);
	if (!net_ip_is_equal(&arp.sender, &arp.target))
		return &ip->counters.in.arp_not_us;
	if (!net_limit_take(&ip->news, in->now_ns))
		return &ip->counters.in.arp_news_limited;
	hear(ip, in, &arp, NET_NEIGHBOUR_NEWS);
	return &ip->counters.in.arp_news;
}
