/*
 * net_host between two fakes. See net_host_rig.h.
 */
#include "tests/unit/net_host_rig.h"

#include <stdlib.h>
#include <string.h>

#include "base/base_assert.h"
#include "base/base_rand.h"

const unsigned char *host_rig_key(uint32_t tenant)
{
	static unsigned char keys[4][NET_KEY_BYTES];

	memset(keys[tenant], (int)tenant, NET_KEY_BYTES);
	return keys[tenant];
}

/* ---- the owner of clients --------------------------------------------------------------------------------- */

static uint32_t on_welcome(void *context, uint32_t link, uint32_t tenant, const struct net_hello *hello, struct net_welcome *welcome,
	uint32_t *owner)
{
	struct host_rig *rig = context;

	if (rig->welcome_why != NET_WHY_BYE)
		return rig->welcome_why;
	BASE_ASSERT(rig->owner_count < RIG_OWNERS);
	*owner = rig->owner_count++;
	rig->owners[*owner] = (struct rig_owner){ .link = link, .tenant = tenant, .hello = *hello };
	welcome->boot_id = 4711;
	welcome->max_in_flight = 8;
	welcome->stream_credits = 8;
	welcome->window_bytes = 1 << 20;
	welcome->message_bytes = 1 << 20;
	return NET_WHY_BYE;
}

static struct rig_owner *owner_of(struct host_rig *rig, uint32_t owner, uint32_t link)
{
	BASE_ASSERT(owner < rig->owner_count && rig->owners[owner].link == link && !rig->owners[owner].gone);
	return &rig->owners[owner];
}

static void on_confirmed(void *context, uint32_t owner, uint32_t link, uint64_t features)
{
	struct host_rig *rig = context;

	(void)features;
	BASE_ASSERT(!owner_of(rig, owner, link)->confirmed);
	rig->owners[owner].confirmed = true;
	if (rig->close_on_confirm != UINT32_MAX)
		net_host_close(rig->host, rig->close_on_confirm, NET_WHY_REPLACED);
}

static uint32_t on_body(void *context, uint32_t owner, uint32_t link, struct net_reader *chunks)
{
	struct host_rig *rig = context;
	struct rig_owner *one = owner_of(rig, owner, link);
	struct net_chunk chunk;
	int rc;

	BASE_ASSERT(one->confirmed);
	one->bodies++;
	while ((rc = net_chunk_next(chunks, &chunk)) > 0)
		one->chunks++;
	return rc < 0 ? NET_WHY_PROTOCOL : rig->body_why;
}

static void on_gone(void *context, uint32_t owner, uint32_t link)
{
	owner_of(context, owner, link)->gone = true;
}

static void on_writable(void *context, uint32_t owner, uint32_t link)
{
	owner_of(context, owner, link)->writables++;
}

/* ---- making ----------------------------------------------------------------------------------------------- */

static void some_bytes(void *context, void *to, size_t bytes)
{
	struct host_rig *rig = context;

	for (size_t i = 0; i < bytes; i++)
		((unsigned char *)to)[i] = (unsigned char)base_rand_next(&rig->seed);
}

struct host_rig *host_rig_create(void (*change)(struct net_host_options *options))
{
	static const struct net_host_listener listeners[RIG_LISTENERS] = { [RIG_PLAIN] = { .plain = true, .tenant = 5 } };
	struct host_rig *rig = calloc(1, sizeof(*rig));
	struct net_host_key keys[2] = { { .tenant = 1 }, { .tenant = 2 } };
	struct net_host_options options = { .clock = &rig->clock,
		.random = some_bytes,
		.random_context = rig,
		.keys = keys,
		.key_count = 2,
		.listeners = listeners,
		.listener_count = RIG_LISTENERS,
		.links_max = RIG_LINKS,
		.half_open_max = RIG_HALF_OPEN,
		.hello_ns = RIG_HELLO_NS,
		.idle_ns = RIG_IDLE_NS };

	BASE_ASSERT(rig && net_secure_init() == 0);
	for (uint32_t i = 0; i < 2; i++)
		memcpy(keys[i].key, host_rig_key(i + 1), NET_KEY_BYTES);
	rig->close_on_confirm = UINT32_MAX;
	base_clock_init_fake(&rig->clock, 1000);
	fake_port_init(&rig->fake);
	BASE_ASSERT(net_pool_create(&rig->parts, RIG_PARTS_BYTES, -1) == 0);
	options.blocks = net_pool_blocks(rig->parts);
	options.above = (struct net_host_above){ rig, on_welcome, on_confirmed, on_body, on_gone, on_writable };
	if (change)
		change(&options);
	BASE_ASSERT(net_host_create(&rig->host, &options) == 0);
	rig->fake.above = net_host_above(rig->host);
	net_host_attach(rig->host, &rig->fake.port);
	return rig;
}

void host_rig_destroy(struct host_rig *rig)
{
	host_rig_poll(rig);
	net_host_destroy(rig->host);
	BASE_ASSERT(net_pool_free_bytes(rig->parts) == RIG_PARTS_BYTES);
	net_pool_destroy(rig->parts);
	fake_port_free(&rig->fake);
	free(rig);
}

void host_rig_poll(struct host_rig *rig)
{
	uint32_t there = 0;

	net_host_poll(rig->host);
	for (uint32_t i = 0; i < rig->owner_count; i++)
		there += !rig->owners[i].gone;
	BASE_ASSERT(rig->fake.amplified == 0);
	BASE_ASSERT(net_host_links(rig->host) <= RIG_LINKS);
	BASE_ASSERT(net_pool_check(rig->parts) == 0);
	BASE_ASSERT(there <= net_host_links(rig->host) || rig->close_on_confirm != UINT32_MAX);
}

void host_rig_wait(struct host_rig *rig, int64_t ns)
{
	rig->clock.fake_ns += ns;
	host_rig_poll(rig);
}

/* ---- peers ------------------------------------------------------------------------------------------------ */

void host_rig_peer(struct host_rig *rig, struct net_guest *peer, bool datagram, enum net_cipher cipher, uint32_t tenant)
{
	const uint32_t listener = cipher == NET_CIPHER_PLAIN ? RIG_PLAIN : RIG_SEALED;
	static uint32_t last_address;

	net_guest_init(peer, &rig->fake, cipher, tenant ? host_rig_key(tenant) : NULL, base_rand_next(&rig->seed));
	if (datagram)
		peer->way = fake_way(listener, ++last_address);
	else
		fake_connect(&rig->fake, listener, &peer->way);
	net_guest_make_hello(peer);
}

void host_rig_welcome(struct host_rig *rig, struct net_guest *peer, bool datagram, enum net_cipher cipher)
{
	host_rig_peer(rig, peer, datagram, cipher, cipher == NET_CIPHER_PLAIN ? 0 : 1);
	net_guest_say_hello(peer);
	host_rig_poll(rig);
	BASE_ASSERT(net_guest_hear(peer) == NET_WELCOME);
}

void host_rig_confirm(struct host_rig *rig, struct net_guest *peer, bool datagram, enum net_cipher cipher)
{
	host_rig_welcome(rig, peer, datagram, cipher);
	net_guest_ping(peer);
	host_rig_poll(rig);
	BASE_ASSERT(host_rig_last(rig)->confirmed);
}

struct rig_owner *host_rig_last(struct host_rig *rig)
{
	return &rig->owners[rig->owner_count - 1];
}
