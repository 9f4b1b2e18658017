/*
 * UDP in (RFC 768; RFC 8200, 8.1). See net_ip.h.
 */
#include "netio/net_ip_private.h"

struct head {
	uint16_t from, to, bytes, sum;
};

static net_ip_outcome *read_head(struct net_ip *ip, const struct net_ip_in *in, struct head *head)
{
	if (in->bytes < NET_UDP_BYTES)
		return &ip->counters.in.udp_short;
	*head = (struct head){ net_load_be16(in->at), net_load_be16(in->at + 2), net_load_be16(in->at + 4), net_load_be16(in->at + 6) };
	if (head->bytes < NET_UDP_BYTES || head->bytes > in->bytes)
		return &ip->counters.in.udp_length;
	return head->from == 0 ? &ip->counters.in.udp_source : NULL;
}

static bool is_sum_computed_right(const struct net_ip *ip, const struct net_ip_in *in, uint16_t bytes)
{
	const uint64_t sum = net_ip_pseudo_sum(&in->from, &ip->locals[in->local].address, NET_IP_UDP, bytes);

	return net_sum_fold(net_sum_add(sum, in->at, bytes)) == UINT16_MAX;
}

/* NULL: it is right, or there is none and need not be. The device's word is no help where there is none. */
static net_ip_outcome *check_sum(struct net_ip *ip, const struct net_ip_in *in, const struct head *head)
{
	bool is_right = in->verdict.udp == NET_IP_SUM_GOOD;

	if (head->sum == 0)
		return in->is_ip4 ? NULL : &ip->counters.in.udp_no_checksum;
	if (in->verdict.udp == NET_IP_SUM_UNKNOWN)
		is_right = is_sum_computed_right(ip, in, head->bytes);
	return is_right ? NULL : &ip->counters.in.udp_checksum;
}

/* The number of the listener, or -1. */
static int find_listener(const struct net_ip *ip, uint16_t port, uint8_t local)
{
	for (uint32_t i = 0; i < ip->listener_count; i++) {
		const struct net_ip_listener *listener = &ip->listeners[i];

		if (listener->port == port && (listener->local == local || listener->local == NET_IP_ANY))
			return (int)i;
	}
	return -1;
}

static void deliver(const struct net_ip_in *in, uint32_t listener, const struct head *head, struct net_ip_datagram *datagram)
{
	struct net_ip_blob blob = { .local = in->local, .port = head->from, .peer = in->from };

	memcpy(blob.mac, in->mac, sizeof(blob.mac));
	datagram->way.listener = listener;
	datagram->way.stream = NET_NO_STREAM;
	memcpy(datagram->way.address, &blob, sizeof(blob));
	datagram->offset = (uint32_t)(in->at - in->frame) + NET_UDP_BYTES;
	datagram->bytes = head->bytes - (uint32_t)NET_UDP_BYTES;
}

net_ip_outcome *net_ip_udp(struct net_ip *ip, struct net_ip_in *in, struct net_ip_datagram *datagram)
{
	struct head head;
	net_ip_outcome *outcome = read_head(ip, in, &head);
	int listener;

	if (!outcome)
		outcome = check_sum(ip, in, &head);
	if (outcome)
		return outcome;
	listener = find_listener(ip, head.to, in->local);
	if (listener < 0) {
		net_ip_icmp_closed(ip, in);
		return &ip->counters.in.udp_closed;
	}
	deliver(in, (uint32_t)listener, &head, datagram);
	return &ip->counters.in.delivered;
}
