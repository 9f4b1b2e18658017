/*
 * What an IP stack counts. Its thread counts; any thread may look.
 */
#ifndef NET_IP_COUNTERS_H
#define NET_IP_COUNTERS_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

/* What became of each frame that was received: exactly one of these. */
struct net_ip_in_counters {
	_Atomic uint64_t delivered;
	/* Ethernet. */
	_Atomic uint64_t eth_short;        /* ends within its head */
	_Atomic uint64_t eth_source;       /* comes from a group, or from nobody */
	_Atomic uint64_t eth_own;          /* comes from our own hardware address: a loop, or a thief */
	_Atomic uint64_t eth_not_us;       /* for another machine, or a group that we are not of */
	_Atomic uint64_t eth_length;       /* 802.3: a length where the type should be */
	_Atomic uint64_t eth_type;         /* nothing we speak */
	_Atomic uint64_t vlan_nested;      /* a tag within a tag, or a provider's */
	_Atomic uint64_t vlan_unknown;     /* none of our addresses is there */
	/* ARP. */
	_Atomic uint64_t arp_short;
	_Atomic uint64_t arp_malformed;    /* not Ethernet and IPv4, or neither request nor reply */
	_Atomic uint64_t arp_sender;       /* not who the frame is from, or nobody's address */
	_Atomic uint64_t arp_conflict;     /* somebody else says that he has our address */
	_Atomic uint64_t arp_not_us;       /* about others */
	_Atomic uint64_t arp_asked;        /* asks for us */
	_Atomic uint64_t arp_answered;     /* answers to us, about a neighbour in the table */
	_Atomic uint64_t arp_unasked;      /* answers to us, about anybody else */
	_Atomic uint64_t arp_news;         /* gratuitous, and looked at */
	_Atomic uint64_t arp_news_limited; /* gratuitous, and too many */
	/* IPv4. */
	_Atomic uint64_t ip4_short;        /* the frame ends within its header */
	_Atomic uint64_t ip4_version;
	_Atomic uint64_t ip4_header;       /* a header shorter than any */
	_Atomic uint64_t ip4_length;       /* longer than the frame, or shorter than the header */
	_Atomic uint64_t ip4_checksum;
	_Atomic uint64_t ip4_ttl;          /* 0 */
	_Atomic uint64_t ip4_source;       /* group, broadcast, loopback, nobody, or us */
	_Atomic uint64_t ip4_group;        /* to a group or to all, by its address or its frame's */
	_Atomic uint64_t ip4_not_us;
	_Atomic uint64_t ip4_fragment;
	_Atomic uint64_t ip4_protocol;     /* neither UDP nor ICMP */
	/* IPv6. */
	_Atomic uint64_t ip6_short;
	_Atomic uint64_t ip6_version;
	_Atomic uint64_t ip6_length;       /* longer than the frame, or a jumbogram */
	_Atomic uint64_t ip6_hop_limit;    /* 0 */
	_Atomic uint64_t ip6_source;
	_Atomic uint64_t ip6_group;        /* to a group, and nothing that we listen to there */
	_Atomic uint64_t ip6_not_us;
	_Atomic uint64_t ip6_fragment;
	_Atomic uint64_t ip6_hop_by_hop;   /* one that is not empty */
	_Atomic uint64_t ip6_extension;    /* any other */
	_Atomic uint64_t ip6_protocol;     /* neither UDP nor ICMPv6 */
	/* UDP. */
	_Atomic uint64_t udp_short;
	_Atomic uint64_t udp_length;       /* longer than its packet, or shorter than its head */
	_Atomic uint64_t udp_source;       /* from port 0: there is no answering it */
	_Atomic uint64_t udp_checksum;
	_Atomic uint64_t udp_no_checksum;  /* IPv6 wants one */
	_Atomic uint64_t udp_closed;       /* nobody listens at the port */
	/* ICMP, both. */
	_Atomic uint64_t icmp_short;
	_Atomic uint64_t icmp_checksum;
	_Atomic uint64_t icmp_echo;        /* asks for an echo */
	_Atomic uint64_t icmp_echo_long;   /* of more than NET_IP_QUOTE_BYTES */
	_Atomic uint64_t icmp_error;       /* says that something of ours did not arrive; nobody is told */
	_Atomic uint64_t icmp_other;
	/* Neighbour discovery. */
	_Atomic uint64_t nd_router;        /* a router's, or to one */
	_Atomic uint64_t nd_hop_limit;     /* not 255: it comes from beyond the link */
	_Atomic uint64_t nd_malformed;     /* code, length, an option, or a combination that may not be */
	_Atomic uint64_t nd_target;        /* a group, or nobody */
	_Atomic uint64_t nd_sender;        /* the option is not who the frame is from */
	_Atomic uint64_t nd_conflict;      /* somebody else says that he has our address */
	_Atomic uint64_t nd_not_us;        /* asks for others */
	_Atomic uint64_t nd_asked;         /* asks for us */
	_Atomic uint64_t nd_probe;         /* asks whether anybody has an address, and it is ours */
	_Atomic uint64_t nd_answered;      /* answers to us, about a neighbour in the table */
	_Atomic uint64_t nd_unasked;       /* answers to us, about anybody else */
	_Atomic uint64_t nd_news;          /* to everybody, and looked at */
	_Atomic uint64_t nd_news_limited;  /* to everybody, and too many */
};

struct net_ip_out_counters {
	_Atomic uint64_t sent, sent_bytes;     /* datagrams; their payloads */
	_Atomic uint64_t no_way;               /* datagrams not sent: a way that this stack has not got */
	_Atomic uint64_t too_long;             /* datagrams not sent: longer than the link takes */
	_Atomic uint64_t no_neighbour;         /* datagrams not sent: no hardware address yet */
	_Atomic uint64_t arp_answers, arp_questions, nd_answers, nd_questions, echoes, unreachable; /* put into the queue */
	_Atomic uint64_t answers_limited, questions_limited, echoes_limited, unreachable_limited;   /* not: too many */
	_Atomic uint64_t queue_full;           /* not: nobody takes them */
};

struct net_ip_counters {
	_Atomic uint64_t frames, delivered_bytes; /* received; payloads of those delivered */
	struct net_ip_in_counters in;
	struct net_ip_out_counters out;
};

/* Each counter by its name, "in.udp_closed", and where it lies in struct net_ip_counters. Any thread. */
struct net_ip_counter_name {
	const char *name;
	size_t offset;
};
enum { NET_IP_COUNTERS = sizeof(struct net_ip_counters) / sizeof(_Atomic uint64_t) };
extern const struct net_ip_counter_name net_ip_counter_names[NET_IP_COUNTERS];

#endif
