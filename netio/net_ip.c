/*
 * The IP stack as a whole: what it is made of, and what kinds of addresses there are. See net_ip.h.
 */
#include "netio/net_ip_private.h"

#include <errno.h>
#include <stdlib.h>

#include "base/base_error.h"

#define SECOND_NS INT64_C(1000000000)

enum { IP4_MAPPED_BITS = 96, VLAN_MAX = 4094 };

/* ---- kinds of addresses ----------------------------------------------------------------------------------- */

/* Whether the first bits are the same. */
static bool has_prefix(const struct net_ip_address *address, const struct net_ip_address *other, uint32_t bits)
{
	const uint32_t bytes = bits / 8, rest = bits % 8;

	if (memcmp(address->bytes, other->bytes, bytes) != 0)
		return false;
	return rest == 0 || (address->bytes[bytes] ^ other->bytes[bytes]) >> (8 - rest) == 0;
}

static uint32_t prefix_bits(const struct net_ip_local *local)
{
	return local->prefix_bits + (net_ip_is_4(&local->address) ? (uint32_t)IP4_MAPPED_BITS : 0);
}

bool net_ip_is_on_link(const struct net_ip_local *local, const struct net_ip_address *address)
{
	return has_prefix(&local->address, address, prefix_bits(local)) ||
		(!net_ip_is_4(&local->address) && net_ip6_is_link_local(address));
}

/* A net of only two addresses has none to spare (RFC 3021), and one of one has none either. */
static struct net_ip_ends ends_of(const struct net_ip_local *local)
{
	const bool has_ends = net_ip_is_4(&local->address) && local->prefix_bits <= 30;
	const uint32_t hosts = has_ends ? UINT32_MAX >> local->prefix_bits : 0, number = net_ip4_number(&local->address);

	return has_ends ? (struct net_ip_ends){ number & ~hosts, number | hosts } : (struct net_ip_ends){ 0, 0 };
}

static bool is_nobody4(const struct net_ip_local *local, const struct net_ip_address *address)
{
	const uint32_t number = net_ip4_number(address);
	struct net_ip_ends ends;

	if (net_ip4_is_nobody(number) || !local)
		return net_ip4_is_nobody(number);
	ends = ends_of(local);
	return number == ends.first || number == ends.last;
}

bool net_ip_is_nobody(const struct net_ip_local *local, const struct net_ip_address *address)
{
	static const unsigned char zeros[15];

	if (net_ip_is_4(address))
		return is_nobody4(local, address);
	/* Groups; nobody, and oneself: :: and ::1. */
	return address->bytes[0] == 0xff || (memcmp(address->bytes, zeros, sizeof(zeros)) == 0 && address->bytes[15] <= 1);
}

/* ---- options ---------------------------------------------------------------------------------------------- */

void net_ip_defaults(struct net_ip_options *options)
{
	*options = (struct net_ip_options){
		.mtu = 1500,
		.neighbour_count = 1024,
		.answers = { 1000, 64 },
		.questions = { 100, 16 },
		.echoes = { 100, 16 },
		.unreachable = { 100, 16 },
		.news = { 100, 16 },
	};
}

static int check_local(const struct net_ip_options *options, uint32_t i)
{
	const struct net_ip_local *local = &options->locals[i];
	const uint32_t bits = net_ip_is_4(&local->address) ? 32 : 128;

	if (local->prefix_bits == 0 || local->prefix_bits > bits || local->vlan > VLAN_MAX)
		return base_fail(EINVAL, "ip: address %u: a prefix of 1 to %u bits and a VLAN of at most %d are wanted", i, bits, VLAN_MAX);
	if (net_ip_is_nobody(local, &local->address))
		return base_fail(EINVAL, "ip: address %u is none that a machine can have", i);
	if (local->has_gateway && (net_ip_is_4(&local->gateway) != net_ip_is_4(&local->address) ||
		net_ip_is_nobody(local, &local->gateway) || !net_ip_is_on_link(local, &local->gateway) ||
		net_ip_is_equal(&local->gateway, &local->address)))
		return base_fail(EINVAL, "ip: the gateway of address %u is not another machine on its link", i);
	for (uint32_t j = 0; j < i; j++) {
		if (options->locals[j].vlan == local->vlan && net_ip_is_equal(&options->locals[j].address, &local->address))
			return base_fail(EINVAL, "ip: addresses %u and %u are the same", j, i);
	}
	return 0;
}

static int check_listener(const struct net_ip_options *options, uint32_t i)
{
	const struct net_ip_listener *listener = &options->listeners[i];

	if (listener->port == 0 || (listener->local != NET_IP_ANY && listener->local >= options->local_count))
		return base_fail(EINVAL, "ip: listener %u: port 0, or an address that is not there", i);
	for (uint32_t j = 0; j < i; j++) {
		const struct net_ip_listener *other = &options->listeners[j];

		if (other->port == listener->port &&
			(other->local == NET_IP_ANY || listener->local == NET_IP_ANY || other->local == listener->local))
			return base_fail(EINVAL, "ip: listeners %u and %u have the same port", j, i);
	}
	return 0;
}

static int check_static(const struct net_ip_options *options, uint32_t i)
{
	const struct net_ip_static *fixed = &options->statics[i];

	if (net_ip_is_nobody(NULL, &fixed->address) || net_mac_is_group(fixed->mac) || net_mac_is_none(fixed->mac) || fixed->vlan > VLAN_MAX)
		return base_fail(EINVAL, "ip: static neighbour %u is none that a machine can be", i);
	return 0;
}

static int check_numbers(const struct net_ip_options *options)
{
	if (net_mac_is_group(options->mac) || net_mac_is_none(options->mac))
		return base_fail(EINVAL, "ip: the hardware address is none that a machine can have");
	if (options->mtu < NET_IP_MTU_LEAST || options->mtu > NET_IP_MTU_MAX)
		return base_fail(EINVAL, "ip: an MTU of %u; %d to %d is wanted", options->mtu, NET_IP_MTU_LEAST, NET_IP_MTU_MAX);
	if (options->local_count == 0 || options->local_count > NET_IP_LOCALS_MAX)
		return base_fail(EINVAL, "ip: %u addresses; 1 to %d are wanted", options->local_count, NET_IP_LOCALS_MAX);
	if (options->listener_count > NET_LISTENERS_MAX || options->static_count > NET_IP_STATICS_MAX)
		return base_fail(EINVAL, "ip: at most %d listeners and %d static neighbours", NET_LISTENERS_MAX, NET_IP_STATICS_MAX);
	return options->random ? 0 : base_fail(EINVAL, "ip: no randomness");
}

static int check(const struct net_ip_options *options)
{
	int rc = check_numbers(options);

	for (uint32_t i = 0; rc == 0 && i < options->local_count; i++)
		rc = check_local(options, i);
	for (uint32_t i = 0; rc == 0 && i < options->listener_count; i++)
		rc = check_listener(options, i);
	for (uint32_t i = 0; rc == 0 && i < options->static_count; i++)
		rc = check_static(options, i);
	return rc;
}

/* ---- life ------------------------------------------------------------------------------------------------- */

static int create_neighbours(struct net_ip *ip, const struct net_ip_options *options)
{
	struct net_neighbour_options wanted = { .count = options->neighbour_count,
		/* RFC 4861, 10: REACHABLE_TIME, RETRANS_TIMER. */
		.reachable_ns = 30 * SECOND_NS, .ask_ns = SECOND_NS,
		.ask_slow_ns = 10 * SECOND_NS, .in_use_ns = 10 * SECOND_NS, .forget_ns = 600 * SECOND_NS };
	int rc;

	options->random(options->random_context, wanted.secret, sizeof(wanted.secret));
	rc = net_neighbours_create(&ip->neighbours, &wanted);
	for (uint32_t i = 0; rc == 0 && i < options->static_count; i++) {
		const struct net_ip_static *fixed = &options->statics[i];

		rc = net_neighbours_add_static(ip->neighbours, fixed->vlan, &fixed->address, fixed->mac);
	}
	return rc;
}

static void copy_options(struct net_ip *ip, const struct net_ip_options *options)
{
	memcpy(ip->mac, options->mac, sizeof(ip->mac));
	ip->mtu = options->mtu;
	ip->local_count = options->local_count;
	ip->listener_count = options->listener_count;
	for (uint32_t i = 0; i < options->local_count; i++) {
		ip->locals[i] = options->locals[i];
		ip->vlans[i] = options->locals[i].vlan;
		ip->ends[i] = ends_of(&options->locals[i]);
	}
	for (uint32_t i = 0; i < options->listener_count; i++)
		ip->listeners[i] = options->listeners[i];
	net_limit_init(&ip->answers, options->answers.per_second, options->answers.burst);
	net_limit_init(&ip->questions, options->questions.per_second, options->questions.burst);
	net_limit_init(&ip->echoes, options->echoes.per_second, options->echoes.burst);
	net_limit_init(&ip->unreachable, options->unreachable.per_second, options->unreachable.burst);
	net_limit_init(&ip->news, options->news.per_second, options->news.burst);
}

int net_ip_create(struct net_ip **out, const struct net_ip_options *options)
{
	int rc = check(options);
	struct net_ip *ip;

	if (rc)
		return rc;
	ip = calloc(1, sizeof(*ip));
	if (!ip)
		return base_fail(ENOMEM, "ip: out of memory");
	copy_options(ip, options);
	rc = create_neighbours(ip, options);
	if (rc) {
		net_ip_destroy(ip);
		return rc;
	}
	*out = ip;
	return 0;
}

void net_ip_destroy(struct net_ip *ip)
{
	if (!ip)
		return;
	net_neighbours_destroy(ip->neighbours);
	free(ip);
}

const struct net_ip_counters *net_ip_counters(const struct net_ip *ip)
{
	return &ip->counters;
}

const struct net_neighbour_counters *net_ip_neighbour_counters(const struct net_ip *ip)
{
	return net_neighbour_counters(ip->neighbours);
}
