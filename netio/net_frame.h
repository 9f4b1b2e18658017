/*
 * What stands where in a frame, and big-endian numbers of any alignment: Ethernet II (IEEE 802.3, 802.1Q), ARP (RFC 826), IPv4 (RFC 791),
 * IPv6 (RFC 8200), UDP (RFC 768), ICMP (RFC 792, 4443), neighbour discovery (RFC 4861).
 */
#ifndef NET_FRAME_H
#define NET_FRAME_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum {
	NET_MAC_BYTES = 6,
	NET_ETH_BYTES = 14,
	NET_VLAN_BYTES = 4,
	NET_VLAN_MASK = 0xfff, /* of a tag; above it priority and drop eligibility, which are not looked at */
	NET_ARP_BYTES = 28,
	NET_IP4_BYTES = 20, /* without options */
	NET_IP6_BYTES = 40,
	NET_UDP_BYTES = 8,
	NET_ICMP_BYTES = 8,
	NET_ND_BYTES = 24,        /* a solicitation or an advertisement, before its options */
	NET_ND_OPTION_BYTES = 8,  /* a link-layer address */
	NET_ETH_BYTES_LEAST = 60, /* of a whole frame, without its check sequence */
};

enum { NET_TYPE_LEAST = 0x600, NET_TYPE_IP4 = 0x0800, NET_TYPE_ARP = 0x0806, NET_TYPE_VLAN = 0x8100, NET_TYPE_IP6 = 0x86dd,
	NET_TYPE_SERVICE_VLAN = 0x88a8 };

enum { NET_IP_HOP_BY_HOP = 0, NET_IP_ICMP4 = 1, NET_IP_UDP = 17, NET_IP_ROUTING = 43, NET_IP_FRAGMENT = 44, NET_IP_ESP = 50, NET_IP_AH = 51,
	NET_IP_ICMP6 = 58, NET_IP_OPTIONS = 60, NET_IP_MOBILITY = 135, NET_IP_HIP = 139, NET_IP_SHIM = 140 };

enum { NET_ICMP4_ECHO_REPLY = 0, NET_ICMP4_UNREACHABLE = 3, NET_ICMP4_QUENCH = 4, NET_ICMP4_REDIRECT = 5, NET_ICMP4_ECHO = 8,
	NET_ICMP4_EXCEEDED = 11, NET_ICMP4_PARAMETER = 12, NET_ICMP4_CODE_PORT = 3 };

enum { NET_ICMP6_UNREACHABLE = 1, NET_ICMP6_CODE_PORT = 4, NET_ICMP6_ERROR_END = 128, NET_ICMP6_ECHO = 128, NET_ICMP6_ECHO_REPLY = 129,
	NET_ICMP6_ROUTER_SOLICIT = 133, NET_ICMP6_ROUTER_ADVERT = 134, NET_ICMP6_SOLICIT = 135, NET_ICMP6_ADVERT = 136,
	NET_ICMP6_REDIRECT = 137 };

/* An IPv6 address, or an IPv4 one as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2), in the order of the wire: equal where the bytes are equal. On the
 * wire such an IPv6 address is refused, so that nobody is taken for somebody of the other family. */
struct net_ip_address {
	unsigned char bytes[16];
};

enum { NET_IP4_AT = 12 }; /* where the four bytes of an IPv4 address lie */

static inline uint16_t net_load_be16(const unsigned char *from)
{
	return (uint16_t)(from[0] << 8 | from[1]);
}

static inline uint32_t net_load_be32(const unsigned char *from)
{
	return (uint32_t)net_load_be16(from) << 16 | net_load_be16(from + 2);
}

static inline void net_store_be16(unsigned char *to, uint32_t value)
{
	to[0] = (unsigned char)(value >> 8);
	to[1] = (unsigned char)value;
}

static inline void net_store_be32(unsigned char *to, uint32_t value)
{
	net_store_be16(to, value >> 16);
	net_store_be16(to + 2, value);
}

static inline bool net_mac_is_group(const unsigned char *mac)
{
	return mac[0] & 1;
}

static inline bool net_mac_is_equal(const unsigned char *one, const unsigned char *other)
{
	return memcmp(one, other, NET_MAC_BYTES) == 0;
}

static inline bool net_mac_is_none(const unsigned char *mac)
{
	return (mac[0] | mac[1] | mac[2] | mac[3] | mac[4] | mac[5]) == 0;
}

static inline bool net_ip_is_equal(const struct net_ip_address *one, const struct net_ip_address *other)
{
	return memcmp(one, other, sizeof(*one)) == 0;
}

static inline struct net_ip_address net_ip4_address(const unsigned char *four)
{
	struct net_ip_address address = { .bytes = { [10] = 0xff, [11] = 0xff } };

	memcpy(address.bytes + NET_IP4_AT, four, 4);
	return address;
}

static inline struct net_ip_address net_ip6_address(const unsigned char *sixteen)
{
	struct net_ip_address address;

	memcpy(address.bytes, sixteen, sizeof(address.bytes));
	return address;
}

static inline bool net_ip_is_4(const struct net_ip_address *address)
{
	static const unsigned char mapped[NET_IP4_AT] = { [10] = 0xff, [11] = 0xff };

	return memcmp(address->bytes, mapped, sizeof(mapped)) == 0;
}

static inline uint32_t net_ip4_number(const struct net_ip_address *address)
{
	return net_load_be32(address->bytes + NET_IP4_AT);
}

/* This net, loopback, groups, and what is above them with the broadcast address (RFC 6890). */
static inline bool net_ip4_is_nobody(uint32_t number)
{
	enum { THIS_NET = 0, LOOPBACK = 127, GROUPS = 224 };
	const uint32_t first = number >> 24;

	return first == THIS_NET || first == LOOPBACK || first >= GROUPS;
}

static inline bool net_ip6_is_link_local(const struct net_ip_address *address)
{
	return address->bytes[0] == 0xfe && (address->bytes[1] & 0xc0) == 0x80;
}

#endif
