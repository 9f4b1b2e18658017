/*
 * The names of an IP stack's counters. See net_ip_counters.h.
 */
#include "netio/net_ip_counters.h"

/* What is not listed would be left out silently: a test compares this with the struct. */
#define AT(name) { #name, offsetof(struct net_ip_counters, name) }

const struct net_ip_counter_name net_ip_counter_names[NET_IP_COUNTERS] = {
	AT(frames), AT(delivered_bytes), AT(in.delivered), AT(in.eth_short), AT(in.eth_source), AT(in.eth_own), AT(in.eth_not_us),
	AT(in.eth_length), AT(in.eth_type), AT(in.vlan_nested), AT(in.vlan_unknown), AT(in.arp_short), AT(in.arp_malformed),
	AT(in.arp_sender), AT(in.arp_conflict), AT(in.arp_not_us), AT(in.arp_asked), AT(in.arp_answered), AT(in.arp_unasked),
	AT(in.arp_news), AT(in.arp_news_limited), AT(in.ip4_short), AT(in.ip4_version), AT(in.ip4_header), AT(in.ip4_length),
	AT(in.ip4_checksum), AT(in.ip4_ttl), AT(in.ip4_source), AT(in.ip4_group), AT(in.ip4_not_us), AT(in.ip4_fragment),
	AT(in.ip4_protocol), AT(in.ip6_short), AT(in.ip6_version), AT(in.ip6_length), AT(in.ip6_hop_limit), AT(in.ip6_source),
	AT(in.ip6_group), AT(in.ip6_not_us), AT(in.ip6_fragment), AT(in.ip6_hop_by_hop), AT(in.ip6_extension), AT(in.ip6_protocol),
	AT(in.udp_short), AT(in.udp_length), AT(in.udp_source), AT(in.udp_checksum), AT(in.udp_no_checksum), AT(in.udp_closed),
	AT(in.icmp_short), AT(in.icmp_checksum), AT(in.icmp_echo), AT(in.icmp_echo_long), AT(in.icmp_error), AT(in.icmp_other),
	AT(in.nd_router), AT(in.nd_hop_limit), AT(in.nd_malformed), AT(in.nd_target), AT(in.nd_sender), AT(in.nd_conflict), AT(in.nd_not_us),
	AT(in.nd_asked), AT(in.nd_probe), AT(in.nd_answered), AT(in.nd_unasked), AT(in.nd_news), AT(in.nd_news_limited), AT(out.sent),
	AT(out.sent_bytes), AT(out.no_way), AT(out.too_long), AT(out.no_neighbour), AT(out.arp_answers), AT(out.arp_questions),
	AT(out.nd_answers), AT(out.nd_questions), AT(out.echoes), AT(out.unreachable), AT(out.answers_limited), AT(out.questions_limited),
	AT(out.echoes_limited), AT(out.unreachable_limited), AT(out.queue_full),
};
