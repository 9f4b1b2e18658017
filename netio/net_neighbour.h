/*
 * Who is next to us: which hardware address belongs to an address of IP on a VLAN (RFC 826; the states are those of RFC 4861, 7.3, without
 * its timers: time passes only when an entry is looked at).
 *
 *            use             answer           reachable_ns
 *   (none) ------> ASKED ------------> REACHABLE -----> STALE --- used: asked by unicast ---> REACHABLE
 *                    ^                                   |  ^                    \--- NET_NEIGHBOUR_ASKS unanswered ---> ASKED
 *                    +------- place taken by another ----+  +--- they spoke to us first
 *
 * The table has one size. An address has sixteen places, eight in each of two sets that a keyed hash chooses, so nobody can choose whom he
 * collides with. A new entry takes an empty place, else the place of the one that was of use longest ago; never that of a static entry, nor
 * of one used within in_use_ns: then there is no room, and that is counted. So a flood pushes out what nobody uses, and floods. Two thirds
 * of all places can be in use before that happens to anybody.
 *
 * One thread; nothing is allocated after create. now_ns >= 0 never goes back.
 */
#ifndef NET_NEIGHBOUR_H
#define NET_NEIGHBOUR_H

#include <stdatomic.h>

#include "netio/net_frame.h"

enum {
	NET_NEIGHBOUR_ASKS = 3,         /* unanswered, until a hardware address is given up, or asked for less often */
	NET_NEIGHBOUR_SECRET_BYTES = 16,
	NET_NEIGHBOURS_LEAST = 16,
	NET_NEIGHBOURS_MAX = 1 << 20,
};

struct net_neighbour_counters {
	_Atomic uint64_t learned;       /* new ones, that spoke to us first */
	_Atomic uint64_t asked;         /* new ones, that we have something for */
	_Atomic uint64_t answered;      /* entries that an answer made, or kept, reachable */
	_Atomic uint64_t moved;         /* entries that got another hardware address */
	_Atomic uint64_t unanswered;    /* entries asked NET_NEIGHBOUR_ASKS times in vain */
	_Atomic uint64_t forgotten;     /* of no use for forget_ns, and the place was wanted */
	_Atomic uint64_t pushed_out;    /* not used for in_use_ns, and the place was wanted */
	_Atomic uint64_t no_room;       /* new ones that found all their places static or in use */
	_Atomic uint64_t static_kept;   /* times that somebody said something else about a static entry */
};

struct net_neighbour_options {
	uint32_t count;        /* of places: a power of two, NET_NEIGHBOURS_LEAST to NET_NEIGHBOURS_MAX */
	int64_t reachable_ns;  /* how long an answer is good */
	int64_t in_use_ns;     /* how long after its last use an entry keeps its place whatever comes */
	int64_t forget_ns;     /* after which an entry of no use counts as none */
	int64_t ask_ns;        /* between asking for the same one */
	int64_t ask_slow_ns;   /* after NET_NEIGHBOUR_ASKS times */
	unsigned char secret[NET_NEIGHBOUR_SECRET_BYTES]; /* not to be guessed */
};

struct net_neighbours;

/* -EINVAL, -ENOMEM with a message. */
int net_neighbours_create(struct net_neighbours **neighbours, const struct net_neighbour_options *options);
void net_neighbours_destroy(struct net_neighbours *neighbours);

/* At start: an entry that stays as it is. -EEXIST: there is one; -ENOSPC: its places are taken by other static ones. With a message. */
int net_neighbours_add_static(struct net_neighbours *neighbours, uint16_t vlan, const struct net_ip_address *address,
	const unsigned char *mac);

/* What a sender gets. */
enum { NET_NEIGHBOUR_KNOWN = 1, NET_NEIGHBOUR_ASK = 2 };

/* Something is to be sent there. NET_NEIGHBOUR_KNOWN: mac is set; NET_NEIGHBOUR_ASK: it is time to ask, there if it is known, else
 * everybody; either, both, or none of them. */
int net_neighbours_use(struct net_neighbours *neighbours, uint16_t vlan, const struct net_ip_address *address, int64_t now_ns,
	unsigned char mac[NET_MAC_BYTES]);

/* What somebody says about himself. */
enum net_neighbour_word {
	NET_NEIGHBOUR_ASKS_US,  /* he wants to know of us: he is learned */
	NET_NEIGHBOUR_ANSWERS,  /* to us: makes a known one reachable, if we asked; as NEWS if not */
	NET_NEIGHBOUR_CONFIRMS, /* the same, but does not change a hardware address, only makes one doubtful (RFC 4861: override flag clear) */
	NET_NEIGHBOUR_NEWS,     /* to everybody: changes a known one */
};

/* Whether there is an entry for him now; static ones are not changed. */
bool net_neighbours_hear(struct net_neighbours *neighbours, uint16_t vlan, const struct net_ip_address *address, const unsigned char *mac,
	enum net_neighbour_word word, int64_t now_ns);

const struct net_neighbour_counters *net_neighbour_counters(const struct net_neighbours *neighbours);

#endif
