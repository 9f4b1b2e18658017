/*
 * net_host between a fake port and a fake owner of clients, for its tests.
 */
#ifndef NET_HOST_RIG_H
#define NET_HOST_RIG_H

#include "netio/net_host.h"
#include "netio/net_pool.h"
#include "tests/unit/net_guest.h"

enum { RIG_OWNERS = 1024, RIG_HALF_OPEN = 8, RIG_LINKS = 24, RIG_PARTS_BYTES = 128 << 10 };
/* Listeners: one takes plain connections (as tenant 5), one does not. Keys are of tenants 1 and 2. */
enum { RIG_SEALED, RIG_PLAIN, RIG_LISTENERS };
#define RIG_HELLO_NS INT64_C(2000000000)
#define RIG_IDLE_NS INT64_C(300000000000)

/* What the fake owner was told of one of those that it welcomed. */
struct rig_owner {
	uint32_t link, tenant;
	bool confirmed, gone;
	struct net_hello hello;
	uint32_t bodies, chunks, writables;
};

struct host_rig {
	struct base_clock clock;
	struct fake_port fake;
	struct net_pool *parts;
	struct net_host *host;
	uint64_t seed; /* of its randomness */
	struct rig_owner owners[RIG_OWNERS];
	uint32_t owner_count;
	uint32_t welcome_why, body_why; /* its answers */
	uint32_t close_on_confirm;      /* a link to close when another is confirmed; UINT32_MAX: none */
};

/* change: what is to be different from the usual options; NULL: nothing. */
struct host_rig *host_rig_create(void (*change)(struct net_host_options *options));
void host_rig_destroy(struct host_rig *rig);
/* A poll, with checks that always hold. */
void host_rig_poll(struct host_rig *rig);
void host_rig_wait(struct host_rig *rig, int64_t ns);

/* A peer that knows tenant `tenant`'s key (0: none), over a new stream or from a new address. */
void host_rig_peer(struct host_rig *rig, struct net_guest *peer, bool datagram, enum net_cipher cipher, uint32_t tenant);
/* ... which has been welcomed; and confirmed. */
void host_rig_welcome(struct host_rig *rig, struct net_guest *peer, bool datagram, enum net_cipher cipher);
void host_rig_confirm(struct host_rig *rig, struct net_guest *peer, bool datagram, enum net_cipher cipher);
/* The last one that was welcomed. */
struct rig_owner *host_rig_last(struct host_rig *rig);

/* The key of a tenant. */
const unsigned char *host_rig_key(uint32_t tenant);
#define RIG_COUNTER(rig, name) atomic_load(&net_host_counters((rig)->host)->name)

#endif
