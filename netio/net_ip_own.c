/*
 * The queue of the stack's own frames: answers and questions, until the owner takes them. See net_ip.h.
 */
#include "netio/net_ip_private.h"

unsigned char *net_ip_own_put(struct net_ip *ip, const unsigned char *mac, uint16_t vlan, uint16_t type, size_t bytes)
{
	struct net_ip_own_frame *own = &ip->own[ip->own_end % NET_IP_OWN_FRAMES];
	uint32_t head_bytes;

	if (ip->own_end - ip->own_first == NET_IP_OWN_FRAMES) {
		net_port_count(&ip->counters.out.queue_full, 1);
		return NULL;
	}
	ip->own_end++;
	head_bytes = net_ip_put_ethernet(own->frame, mac, ip->mac, vlan, type);
	own->bytes = head_bytes + (uint32_t)bytes;
	return own->frame + head_bytes;
}

size_t net_ip_next(struct net_ip *ip, unsigned char frame[NET_IP_OWN_BYTES])
{
	const struct net_ip_own_frame *own = &ip->own[ip->own_first % NET_IP_OWN_FRAMES];
	size_t bytes;

	if (ip->own_first == ip->own_end)
		return 0;
	ip->own_first++;
	bytes = own->bytes;
	memcpy(frame, own->frame, bytes);
	if (bytes >= NET_ETH_BYTES_LEAST)
		return bytes;
	/* Not the last frame's bytes, which were for somebody else. */
	memset(frame + bytes, 0, NET_ETH_BYTES_LEAST - bytes);
	return NET_ETH_BYTES_LEAST;
}
