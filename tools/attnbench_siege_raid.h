/*
 * The attacker of `attnbench siege`: a process of its own, niced, that sends so many hostile packets a second in bursts and sleeps between
 * them. It is made before there is a daemon, so that it has none of the tool's connections, and then told whom to attack and how.
 *
 *   tool: make -> arm -> (begin -> end)* -> destroy
 *
 * What both look at is a page that they share. The tool waits for the attacker here; the attacker for nobody.
 */
#ifndef ATTNBENCH_SIEGE_RAID_H
#define ATTNBENCH_SIEGE_RAID_H

#include "tools/attnbench_siege_enemy.h"

enum siege_attack {
	SIEGE_HELLO_FLOOD, /* HELLOs that open, and not a word more */
	SIEGE_WRONG_KEY,   /* HELLOs with the key's name, and not sealed by it */
	SIEGE_GARBAGE,     /* random bytes */
	SIEGE_SLOW_READER, /* connections that ask for more and read nothing */
	SIEGE_REPLAY,      /* packets that have come before: DATA and HELLO by UDP, HELLO by TCP */
	SIEGE_ATTACKS
};

extern const char *const siege_attack_names[]; /* NULL-terminated; behind those above "all" */

struct siege_raid;

/* Forks. -errno with a message. */
int siege_raid_make(struct siege_raid **raid);
void siege_raid_arm(struct siege_raid *raid, const struct siege_target *target, double rate);
/* Returns when it has begun, or has ended. -EIO with a message: the attacker cannot, or is dead. */
int siege_raid_begin(struct siege_raid *raid, enum siege_attack attack);
int siege_raid_end(struct siege_raid *raid);
/* Packets sent since it was made; those that could not be. */
uint64_t siege_raid_sent(const struct siege_raid *raid);
uint64_t siege_raid_failed(const struct siege_raid *raid);
void siege_raid_destroy(struct siege_raid *raid);

#endif
