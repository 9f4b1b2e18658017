/*
 * A caller and a daemon of its own on two ways between them, and a clock that goes from event to event: what happens follows from a seed.
 * A way may lose, double, delay, shuffle and change packets; a stream's way only cuts them anywhere.
 */
#ifndef NET_PAIR_H
#define NET_PAIR_H

#include "netio/net_caller.h"
#include "tests/unit/net_peer.h"

enum { PAIR_PACKETS = 512 };

/* Of 1,000 packets so many; and of datagrams there, or back, all that are longer than this, but for 0. */
struct net_faults { uint32_t lost, doubled, late, changed, longest_there, longest_back; };

struct pair_way {
	struct { int64_t at_ns; size_t bytes; unsigned char *packet; } packets[PAIR_PACKETS];
	uint32_t count;
	int64_t last_ns; /* streams: nothing overtakes */
	uint64_t sent;
};

struct net_pair {
	struct net_caller_options options;
	struct net_caller *caller;
	struct net_peer peer;
	struct pair_way there, back;
	struct net_faults faults;
	int64_t now_ns, trip_ns;
	uint64_t seed;
	uint32_t datagram_bytes;
	uint32_t blocks, blocks_max; /* of the caller; 0: any number */
	bool cut;                    /* both ways: nothing arrives any more */
};

/* The test sets options.datagram, options.plain, peer's fields, faults, before; what is 0 becomes usual. Keys agree. */
void net_pair_create(struct net_pair *pair);
void net_pair_destroy(struct net_pair *pair);
/* Says HELLO over a new socket; nothing of the old one arrives. */
void net_pair_start(struct net_pair *pair, bool resume);
/* Starts, and goes on until it is open. */
void net_pair_open(struct net_pair *pair);

/* Sends what there is to send, goes to the next event and delivers; never beyond until_ns. False: that is reached. */
bool net_pair_step(struct net_pair *pair, int64_t until_ns);
/* Time passes. */
void net_pair_pass(struct net_pair *pair, int64_t for_ns);
/* Until a completion comes, at most a minute. */
struct attnd_completion net_pair_receive(struct net_pair *pair);
/* Bytes that the test has made, straight to the caller. */
void net_pair_inject(struct net_pair *pair, const unsigned char *bytes, size_t count);

#endif
