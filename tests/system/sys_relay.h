/*
 * A bad way between clients and a daemon: packets that come to one end leave at the other, but for those that are lost; some twice, some
 * late, some with a bit changed, as a seed wants it. It is a thread of the test.
 *
 * There are two kinds of ends. Sockets for datagrams can be had everywhere. Two tunnels (sys_spaces.h) carry whole IP packets, TCP's, too;
 * checksums are real there.
 */
#ifndef SYS_RELAY_H
#define SYS_RELAY_H

#include <stdbool.h>
#include <stdint.h>

/* Of 1,000 packets so many, each way. */
struct sys_faults {
	uint32_t lost, doubled, late, changed;
	uint32_t longest; /* longer ones do not arrive; 0: any do */
	int64_t delay_ns, late_ns; /* of every packet; of a late one on top of it, at most */
	int64_t dark_from_ns, dark_ns; /* from then on, and for so long, nothing arrives at all */
	/* A changed packet does not arrive: without a checksum of its own, whoever is behind a socket never sees one either. */
	bool drops_changed;
};

struct sys_relay_counts { uint64_t packets, lost, doubled, late, changed, overflowed; };

struct sys_relay;

/* Datagrams from clients to a daemon's port at the same address. Fails the running test where it cannot. */
struct sys_relay *sys_relay_datagrams(const char *host, int port);
/* IP packets between two tunnels, which stay the caller's. */
struct sys_relay *sys_relay_tunnels(int one_fd, int other_fd);
/* Where clients of datagrams find it. */
int sys_relay_port(const struct sys_relay *relay);
/* From now on; counts begin with 0. */
void sys_relay_set(struct sys_relay *relay, const struct sys_faults *faults, uint64_t seed);
struct sys_relay_counts sys_relay_counts(struct sys_relay *relay);
/* NULL is fine. */
void sys_relay_stop(struct sys_relay *relay);

#endif
