/*
 * Machines for tests of the IP stack. See net_ip_host.h.
 */
#include "tests/unit/net_ip_host.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/base_error.h"

static void fixed_random(void *context, void *to, size_t bytes)
{
	(void)context;
	memset(to, 0x33, bytes);
}

struct net_ip_address net_ip_host_address(uint8_t number, bool is_ip4)
{
	const unsigned char four[4] = { 192, 0, 2, number };
	const struct net_ip_address six = { { 0x20, 1, 0x0d, 0xb8, [15] = number } };

	return is_ip4 ? net_ip4_address(four) : six;
}

void net_ip_host_options(struct net_ip_host *host, uint8_t number, uint16_t vlan)
{
	const struct net_ip_address link_local = { { 0xfe, 0x80, [15] = number } };

	*host = (struct net_ip_host){ .listeners = { { HOST_PORT, NET_IP_ANY } } };
	host->locals[HOST_LOCAL4] = (struct net_ip_local){ .address = net_ip_host_address(number, true), .prefix_bits = 24, .vlan = vlan,
		.has_gateway = true, .gateway = net_ip_host_address(254, true) };
	host->locals[HOST_LOCAL6] = (struct net_ip_local){ .address = net_ip_host_address(number, false), .prefix_bits = 64, .vlan = vlan,
		.has_gateway = true, .gateway = net_ip_host_address(254, false) };
	host->locals[2] = (struct net_ip_local){ .address = link_local, .prefix_bits = 64, .vlan = vlan };
	net_ip_defaults(&host->options);
	host->options.mac[0] = 2;
	host->options.mac[5] = number;
	host->options.locals = host->locals;
	host->options.local_count = HOST_LOCALS;
	host->options.listeners = host->listeners;
	host->options.listener_count = 1;
	host->options.random = fixed_random;
}

void net_ip_host_create(struct net_ip_host *host)
{
	if (net_ip_create(&host->ip, &host->options) == 0)
		return;
	fprintf(stderr, "%s\n", base_error_message());
	abort();
}

void net_ip_host_destroy(struct net_ip_host *host)
{
	net_ip_destroy(host->ip);
}

/* ---- counters --------------------------------------------------------------------------------------------- */

static bool is_outcome(uint32_t i)
{
	return strncmp(net_ip_counter_names[i].name, "in.", 3) == 0;
}

static uint64_t value_at(const struct net_ip *ip, uint32_t i)
{
	const char *counters = (const char *)net_ip_counters(ip);

	return atomic_load_explicit((const _Atomic uint64_t *)(const void *)(counters + net_ip_counter_names[i].offset), memory_order_relaxed);
}

bool net_ip_is_counted_once(const struct net_ip *ip)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < NET_IP_COUNTERS; i++)
		sum += is_outcome(i) ? value_at(ip, i) : 0;
	return sum == atomic_load_explicit(&net_ip_counters(ip)->frames, memory_order_relaxed);
}

/* ---- mirrors ---------------------------------------------------------------------------------------------- */

/* Whom a frame is for, by a reader of its own that trusts it. */
struct target {
	unsigned char mac[NET_MAC_BYTES];
	uint16_t vlan, port;
	struct net_ip_address address;
};

static void read_target6(const unsigned char *packet, struct target *target)
{
	target->address = net_ip6_address(packet + 24);
	target->port = net_load_be16(packet + NET_IP6_BYTES + 2);
	if (packet[6] == NET_IP_ICMP6 && packet[NET_IP6_BYTES] == NET_ICMP6_SOLICIT)
		target->address = net_ip6_address(packet + NET_IP6_BYTES + 8);
	else if (target->address.bytes[0] == 0xff)
		target->address = net_ip_host_address(77, false);
}

static void read_target(const unsigned char *frame, struct target *target)
{
	static const unsigned char anybody[NET_MAC_BYTES] = { 2, 0, 0, 0, 0, 77 };
	const unsigned char *packet = frame + NET_ETH_BYTES;
	uint16_t type = net_load_be16(frame + 12);

	memcpy(target->mac, net_mac_is_group(frame) ? anybody : frame, NET_MAC_BYTES);
	target->vlan = 0;
	target->port = 1;
	if (type == NET_TYPE_VLAN) {
		target->vlan = net_load_be16(packet) & NET_VLAN_MASK;
		type = net_load_be16(packet + 2);
		packet += NET_VLAN_BYTES;
	}
	if (type == NET_TYPE_ARP) {
		target->address = net_ip4_address(packet + 24);
	} else if (type == NET_TYPE_IP4) {
		target->address = net_ip4_address(packet + 16);
		target->port = net_load_be16(packet + NET_IP4_BYTES + 2);
	} else {
		read_target6(packet, target);
	}
}

static struct net_ip *make_mirror(const struct target *target)
{
	const struct net_ip_local local = { .address = target->address, .prefix_bits = net_ip_is_4(&target->address) ? 32 : 128,
		.vlan = target->vlan };
	const struct net_ip_listener listener = { target->port > 0 ? target->port : 1, 0 };
	struct net_ip_options options;
	struct net_ip *ip;

	net_ip_defaults(&options);
	memcpy(options.mac, target->mac, NET_MAC_BYTES);
	options.mtu = NET_IP_MTU_MAX;
	options.locals = &local;
	options.listeners = &listener;
	options.local_count = options.listener_count = 1;
	options.neighbour_count = NET_NEIGHBOURS_LEAST;
	options.random = fixed_random;
	return net_ip_create(&ip, &options) == 0 ? ip : NULL;
}

const char *net_ip_mirror(const unsigned char *frame, size_t bytes, struct net_ip_datagram *datagram)
{
	const struct net_ip_verdict unknown = { NET_IP_SUM_UNKNOWN, NET_IP_SUM_UNKNOWN };
	struct net_ip_datagram unseen;
	struct target target;
	const char *name = "none";
	struct net_ip *ip;

	read_target(frame, &target);
	ip = make_mirror(&target);
	if (!ip)
		return name;
	net_ip_receive(ip, frame, bytes, unknown, 0, datagram ? datagram : &unseen);
	for (uint32_t i = 0; i < NET_IP_COUNTERS; i++) {
		if (is_outcome(i) && value_at(ip, i) == 1)
			name = net_ip_counter_names[i].name;
	}
	net_ip_destroy(ip);
	return name;
}
