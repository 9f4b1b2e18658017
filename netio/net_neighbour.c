/*
 * The table of neighbours. See net_neighbour.h.
 */
#include "netio/net_neighbour.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>

#include "base/base_error.h"
#include "netio/net_port.h"

enum { WAYS = 8, PLACES = 2 * WAYS };

_Static_assert(NET_NEIGHBOUR_SECRET_BYTES == crypto_shorthash_KEYBYTES && crypto_shorthash_BYTES == 8, "SipHash-2-4's key and sum");

enum state { NONE, ASKED, REACHABLE, STALE, STATIC };

struct entry {
	struct net_ip_address address;
	unsigned char mac[NET_MAC_BYTES];
	uint16_t vlan;
	uint8_t state, asks; /* asks: since the last answer */
	int64_t heard_ns, used_ns, asked_ns; /* used_ns: NEVER_NS before the first time */
};

_Static_assert(sizeof(struct entry) <= 64, "an entry is a cache line at most");

/* Long before any time, and far from overflow. */
#define NEVER_NS (INT64_MIN / 2)

struct net_neighbours {
	struct net_neighbour_options options;
	struct entry *entries; /* sets of WAYS */
	uint32_t set_mask;
	struct net_neighbour_counters counters;
};

/* All places that an address may have. */
struct places {
	struct entry *at[PLACES];
};

/* Two sets, never the same one. */
static void places_of(const struct net_neighbours *neighbours, uint16_t vlan, const struct net_ip_address *address, struct places *places)
{
	unsigned char name[sizeof(*address) + sizeof(vlan)];
	uint32_t first, second;
	uint64_t hash;

	memcpy(name, address, sizeof(*address));
	memcpy(name + sizeof(*address), &vlan, sizeof(vlan));
	crypto_shorthash((unsigned char *)&hash, name, sizeof(name), neighbours->options.secret);
	first = (uint32_t)hash & neighbours->set_mask;
	second = (first ^ ((uint32_t)(hash >> 32) | 1)) & neighbours->set_mask;
	for (uint32_t i = 0; i < WAYS; i++) {
		places->at[i] = &neighbours->entries[first * WAYS + i];
		places->at[WAYS + i] = &neighbours->entries[second * WAYS + i];
	}
}

static struct entry *find(const struct places *places, uint16_t vlan, const struct net_ip_address *address)
{
	for (uint32_t i = 0; i < PLACES; i++) {
		struct entry *entry = places->at[i];

		if (entry->state != NONE && entry->vlan == vlan && net_ip_is_equal(&entry->address, address))
			return entry;
	}
	return NULL;
}

static int64_t useful_ns(const struct entry *entry)
{
	return entry->heard_ns > entry->used_ns ? entry->heard_ns : entry->used_ns;
}

static bool is_better_victim(const struct entry *entry, const struct entry *than)
{
	if (than->state == NONE || entry->state == NONE)
		return than->state != NONE;
	return useful_ns(entry) < useful_ns(than);
}

static bool is_kept(const struct net_neighbours *neighbours, const struct entry *entry, int64_t now_ns)
{
	return entry->state == STATIC || (entry->state != NONE && now_ns - entry->used_ns < neighbours->options.in_use_ns);
}

/* The best place of a set that may be taken, or NULL. */
static struct entry *find_victim(const struct net_neighbours *neighbours, struct entry *const set[WAYS], int64_t now_ns, uint32_t *kept)
{
	struct entry *victim = NULL;

	*kept = 0;
	for (uint32_t i = 0; i < WAYS; i++) {
		if (is_kept(neighbours, set[i], now_ns))
			(*kept)++;
		else if (!victim || is_better_victim(set[i], victim))
			victim = set[i];
	}
	return victim;
}

static void count_victim(struct net_neighbours *neighbours, const struct entry *victim, int64_t now_ns)
{
	if (!victim)
		net_port_count(&neighbours->counters.no_room, 1);
	else if (victim->state != NONE && now_ns - useful_ns(victim) >= neighbours->options.forget_ns)
		net_port_count(&neighbours->counters.forgotten, 1);
	else if (victim->state != NONE)
		net_port_count(&neighbours->counters.pushed_out, 1);
}

/* Empties a place for a new entry. NULL: there is none. The set with fewer that are kept is taken, which fills both evenly (Azar et al.,
 * "Balanced allocations", 1994). */
static struct entry *make_place(struct net_neighbours *neighbours, const struct places *places, int64_t now_ns)
{
	uint32_t first_kept, second_kept;
	struct entry *first = find_victim(neighbours, places->at, now_ns, &first_kept);
	struct entry *second = find_victim(neighbours, places->at + WAYS, now_ns, &second_kept);
	struct entry *victim = first;

	if (second_kept < first_kept || (second_kept == first_kept && first && is_better_victim(second, first)))
		victim = second;
	count_victim(neighbours, victim, now_ns);
	return victim;
}

static void set_mac(struct entry *entry, const unsigned char *mac)
{
	memcpy(entry->mac, mac, NET_MAC_BYTES);
}

/* ---- sending there ---------------------------------------------------------------------------------------- */

/* Who was asked often enough in vain is not where he was: everybody is asked from now on. */
static void give_up(struct net_neighbours *neighbours, struct entry *entry)
{
	net_port_count(&neighbours->counters.unanswered, 1);
	if (entry->state == STALE) {
		entry->state = ASKED;
		entry->asks = 0;
		memset(entry->mac, 0, NET_MAC_BYTES);
	}
}

/* Whether it is time to ask for it (again). */
static bool is_ask_due(struct net_neighbours *neighbours, struct entry *entry, int64_t now_ns)
{
	const struct net_neighbour_options *options = &neighbours->options;
	const bool is_slow = entry->state == ASKED && entry->asks == NET_NEIGHBOUR_ASKS;

	if (entry->asks > 0 && now_ns - entry->asked_ns < (is_slow ? options->ask_slow_ns : options->ask_ns))
		return false;
	if (entry->asks == NET_NEIGHBOUR_ASKS)
		give_up(neighbours, entry);
	if (entry->asks < NET_NEIGHBOUR_ASKS)
		entry->asks++;
	entry->asked_ns = now_ns;
	return true;
}

static struct entry *begin_asking(struct net_neighbours *neighbours, const struct places *places, uint16_t vlan,
	const struct net_ip_address *address, int64_t now_ns)
{
	struct entry *entry = make_place(neighbours, places, now_ns);

	if (!entry)
		return NULL;
	*entry = (struct entry){ .address = *address, .vlan = vlan, .state = ASKED, .heard_ns = NEVER_NS };
	net_port_count(&neighbours->counters.asked, 1);
	return entry;
}

int net_neighbours_use(struct net_neighbours *neighbours, uint16_t vlan, const struct net_ip_address *address, int64_t now_ns,
	unsigned char mac[NET_MAC_BYTES])
{
	struct places places;
	struct entry *entry;
	int answer = 0;

	places_of(neighbours, vlan, address, &places);
	entry = find(&places, vlan, address);
	if (!entry)
		entry = begin_asking(neighbours, &places, vlan, address, now_ns);
	if (!entry)
		return 0;
	entry->used_ns = now_ns;
	if (entry->state == REACHABLE && now_ns - entry->heard_ns >= neighbours->options.reachable_ns)
		entry->state = STALE;
	if (entry->state < REACHABLE || entry->state == STALE)
		answer = is_ask_due(neighbours, entry, now_ns) ? NET_NEIGHBOUR_ASK : 0;
	if (entry->state == ASKED)
		return answer;
	memcpy(mac, entry->mac, NET_MAC_BYTES);
	return answer | NET_NEIGHBOUR_KNOWN;
}

/* ---- hearing of it ---------------------------------------------------------------------------------------- */

static bool learn(struct net_neighbours *neighbours, const struct places *places, uint16_t vlan, const struct net_ip_address *address,
	const unsigned char *mac, int64_t now_ns)
{
	struct entry *entry = make_place(neighbours, places, now_ns);

	if (!entry)
		return false;
	*entry = (struct entry){ .address = *address, .vlan = vlan, .state = STALE, .heard_ns = now_ns, .used_ns = NEVER_NS };
	set_mac(entry, mac);
	net_port_count(&neighbours->counters.learned, 1);
	return true;
}

static void hear_static(struct net_neighbours *neighbours, const struct entry *entry, const unsigned char *mac)
{
	if (!net_mac_is_equal(entry->mac, mac))
		net_port_count(&neighbours->counters.static_kept, 1);
}

/* Of an entry whose hardware address is known: whether it stays as it is. */
static bool moves(struct net_neighbours *neighbours, struct entry *entry, const unsigned char *mac)
{
	if (entry->state == ASKED || net_mac_is_equal(entry->mac, mac))
		return false;
	net_port_count(&neighbours->counters.moved, 1);
	return true;
}

static void hear_answer(struct net_neighbours *neighbours, struct entry *entry, const unsigned char *mac, int64_t now_ns)
{
	moves(neighbours, entry, mac);
	set_mac(entry, mac);
	entry->state = REACHABLE;
	entry->asks = 0;
	entry->heard_ns = now_ns;
	net_port_count(&neighbours->counters.answered, 1);
}

/* It is taken to be there, and asked when it is used. What changes nothing proves nothing either. */
static void hear_news(struct net_neighbours *neighbours, struct entry *entry, const unsigned char *mac, int64_t now_ns)
{
	if (entry->state != ASKED && !moves(neighbours, entry, mac))
		return;
	set_mac(entry, mac);
	entry->state = STALE;
	entry->asks = 0;
	entry->heard_ns = now_ns;
}

/* RFC 4861, 7.2.5: without the override flag another hardware address only makes doubtful what is known. */
static void hear_confirmation(struct net_neighbours *neighbours, struct entry *entry, const unsigned char *mac, int64_t now_ns)
{
	const bool is_same = entry->state == ASKED || net_mac_is_equal(entry->mac, mac);

	if (is_same && entry->asks > 0)
		hear_answer(neighbours, entry, mac, now_ns);
	else if (!is_same && entry->state == REACHABLE)
		entry->state = STALE;
}

bool net_neighbours_hear(struct net_neighbours *neighbours, uint16_t vlan, const struct net_ip_address *address, const unsigned char *mac,
	enum net_neighbour_word word, int64_t now_ns)
{
	struct places places;
	struct entry *entry;

	places_of(neighbours, vlan, address, &places);
	entry = find(&places, vlan, address);
	if (!entry)
		return word == NET_NEIGHBOUR_ASKS_US && learn(neighbours, &places, vlan, address, mac, now_ns);
	if (entry->state == STATIC)
		hear_static(neighbours, entry, mac);
	else if (word == NET_NEIGHBOUR_ANSWERS && entry->asks > 0)
		hear_answer(neighbours, entry, mac, now_ns);
	else if (word == NET_NEIGHBOUR_CONFIRMS)
		hear_confirmation(neighbours, entry, mac, now_ns);
	else
		hear_news(neighbours, entry, mac, now_ns);
	return true;
}

/* ---- the whole of it -------------------------------------------------------------------------------------- */

int net_neighbours_add_static(struct net_neighbours *neighbours, uint16_t vlan, const struct net_ip_address *address,
	const unsigned char *mac)
{
	struct places places;
	struct entry *entry;

	places_of(neighbours, vlan, address, &places);
	if (find(&places, vlan, address))
		return base_fail(EEXIST, "neighbours: an address is there twice");
	entry = make_place(neighbours, &places, 0);
	if (!entry)
		return base_fail(ENOSPC, "neighbours: too many static ones for a table of %u; make it larger", neighbours->options.count);
	*entry = (struct entry){ .address = *address, .vlan = vlan, .state = STATIC };
	set_mac(entry, mac);
	return 0;
}

static int check(const struct net_neighbour_options *options)
{
	const uint32_t count = options->count;

	if (count < NET_NEIGHBOURS_LEAST || count > NET_NEIGHBOURS_MAX || (count & (count - 1)) != 0)
		return base_fail(EINVAL, "neighbours: %u places; a power of two from %d to %d is wanted", count, NET_NEIGHBOURS_LEAST,
			NET_NEIGHBOURS_MAX);
	if (options->reachable_ns <= 0 || options->in_use_ns <= 0 || options->forget_ns < options->in_use_ns || options->ask_ns <= 0 ||
		options->ask_slow_ns < options->ask_ns)
		return base_fail(EINVAL, "neighbours: times are not positive, or not in order");
	return 0;
}

int net_neighbours_create(struct net_neighbours **out, const struct net_neighbour_options *options)
{
	int rc = check(options);
	struct net_neighbours *neighbours;

	if (rc)
		return rc;
	neighbours = calloc(1, sizeof(*neighbours));
	if (neighbours)
		neighbours->entries = calloc(options->count, sizeof(*neighbours->entries));
	if (!neighbours || !neighbours->entries) {
		free(neighbours);
		return base_fail(ENOMEM, "neighbours: out of memory");
	}
	neighbours->options = *options;
	neighbours->set_mask = options->count / WAYS - 1;
	*out = neighbours;
	return 0;
}

void net_neighbours_destroy(struct net_neighbours *neighbours)
{
	if (!neighbours)
		return;
	sodium_memzero(neighbours->options.secret, sizeof(neighbours->options.secret));
	free(neighbours->entries);
	free(neighbours);
}

const struct net_neighbour_counters *net_neighbour_counters(const struct net_neighbours *neighbours)
{
	return &neighbours->counters;
}
