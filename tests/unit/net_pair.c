/*
 * A caller, a daemon, and the way between. See net_pair.h.
 */
#include "tests/unit/net_pair.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base_rand.h"

#define MINUTE_NS INT64_C(60000000000)

/* ---- blocks, random bytes ----------------------------------------------------------------------------------- */

static void *take(void *context, uint32_t bytes)
{
	struct net_pair *pair = context;

	if (pair->blocks_max > 0 && pair->blocks == pair->blocks_max)
		return NULL;
	pair->blocks++;
	return malloc(bytes);
}

static void give(void *context, void *block)
{
	struct net_pair *pair = context;

	pair->blocks--;
	free(block);
}

static void draw(void *context, void *to, size_t bytes)
{
	struct net_pair *pair = context;

	for (size_t i = 0; i < bytes; i++)
		((unsigned char *)to)[i] = (unsigned char)base_rand_next(&pair->seed);
}

static bool happens(struct net_pair *pair, uint32_t of_1000)
{
	return of_1000 > 0 && base_rand_below(&pair->seed, 1000) < of_1000;
}

/* ---- ways --------------------------------------------------------------------------------------------------- */

static void put(struct net_pair *pair, struct pair_way *way, const unsigned char *packet, size_t bytes)
{
	int64_t at_ns = pair->now_ns + pair->trip_ns / 2;

	if (happens(pair, pair->faults.late))
		at_ns += (int64_t)base_rand_below(&pair->seed, (uint64_t)pair->trip_ns * 6);
	if (!pair->options.datagram && at_ns < way->last_ns)
		at_ns = way->last_ns;
	if (way->count == PAIR_PACKETS)
		return; /* as queues do */
	way->last_ns = at_ns;
	way->packets[way->count].at_ns = at_ns;
	way->packets[way->count].bytes = bytes;
	way->packets[way->count].packet = malloc(bytes);
	memcpy(way->packets[way->count].packet, packet, bytes);
	if (happens(pair, pair->faults.changed))
		way->packets[way->count].packet[base_rand_below(&pair->seed, bytes)] ^= (unsigned char)(1 << base_rand_below(&pair->seed, 8));
	way->count++;
}

static void send_packet(struct net_pair *pair, struct pair_way *way, const unsigned char *packet, size_t bytes)
{
	const uint32_t longest = way == &pair->there ? pair->faults.longest_there : pair->faults.longest_back;

	way->sent++;
	if (!pair->options.datagram) {
		/* Cut anywhere. */
		for (size_t at = 0, piece; at < bytes; at += piece) {
			piece = 1 + base_rand_below(&pair->seed, bytes - at);
			assert_true(way->count < PAIR_PACKETS);
			put(pair, way, packet + at, piece);
		}
		return;
	}
	if (pair->cut || (longest && bytes > longest) || happens(pair, pair->faults.lost))
		return;
	put(pair, way, packet, bytes);
	if (happens(pair, pair->faults.doubled))
		put(pair, way, packet, bytes);
}

static int64_t arrival_ns(const struct pair_way *way)
{
	int64_t first_ns = NET_NEVER;

	for (uint32_t i = 0; i < way->count; i++)
		first_ns = way->packets[i].at_ns < first_ns ? way->packets[i].at_ns : first_ns;
	return first_ns;
}

/* The first one that has arrived, and of these the first one that was sent. */
static unsigned char *arrived(struct pair_way *way, int64_t now_ns, size_t *bytes)
{
	const int64_t first_ns = arrival_ns(way);
	unsigned char *packet;
	uint32_t i = 0;

	if (first_ns > now_ns)
		return NULL;
	while (way->packets[i].at_ns != first_ns)
		i++;
	packet = way->packets[i].packet;
	*bytes = way->packets[i].bytes;
	way->count--;
	memmove(&way->packets[i], &way->packets[i + 1], (way->count - i) * sizeof(way->packets[0]));
	return packet;
}

static void clear(struct pair_way *way)
{
	while (way->count > 0)
		free(way->packets[--way->count].packet);
	way->last_ns = 0;
}

/* ---- time --------------------------------------------------------------------------------------------------- */

void net_pair_inject(struct net_pair *pair, const unsigned char *bytes, size_t count)
{
	unsigned char *copy = malloc(count + (count == 0));

	memcpy(copy, bytes, count);
	net_caller_packet(pair->caller, pair->now_ns, copy, count);
	free(copy);
}

static void deliver(struct net_pair *pair)
{
	unsigned char *packet;
	size_t bytes;

	while ((packet = arrived(&pair->there, pair->now_ns, &bytes))) {
		if (!pair->cut)
			net_peer_packet(&pair->peer, pair->now_ns, packet, bytes);
		free(packet);
	}
	while ((packet = arrived(&pair->back, pair->now_ns, &bytes))) {
		if (!pair->cut)
			net_caller_packet(pair->caller, pair->now_ns, packet, bytes);
		free(packet);
	}
}

bool net_pair_step(struct net_pair *pair, int64_t until_ns)
{
	static _Alignas(8) unsigned char packet[NET_PACKET_BYTES_MAX];
	int64_t next_ns;
	size_t bytes;

	while ((bytes = net_caller_next_packet(pair->caller, pair->now_ns, packet)) > 0)
		send_packet(pair, &pair->there, packet, bytes);
	while ((bytes = net_peer_next_packet(&pair->peer, pair->now_ns, packet)) > 0)
		send_packet(pair, &pair->back, packet, bytes);
	next_ns = net_caller_event_ns(pair->caller);
	assert_true(next_ns > pair->now_ns); /* or time would stand still */
	next_ns = arrival_ns(&pair->there) < next_ns ? arrival_ns(&pair->there) : next_ns;
	next_ns = arrival_ns(&pair->back) < next_ns ? arrival_ns(&pair->back) : next_ns;
	if (next_ns >= until_ns) {
		pair->now_ns = until_ns;
		return false;
	}
	pair->now_ns = next_ns > pair->now_ns ? next_ns : pair->now_ns;
	deliver(pair);
	return true;
}

void net_pair_pass(struct net_pair *pair, int64_t for_ns)
{
	const int64_t until_ns = pair->now_ns + for_ns;

	while (net_pair_step(pair, until_ns))
		;
}

struct attnd_completion net_pair_receive(struct net_pair *pair)
{
	const int64_t until_ns = pair->now_ns + MINUTE_NS;
	struct attnd_completion completion;

	while (!net_caller_receive(pair->caller, &completion))
		if (!net_pair_step(pair, until_ns))
			fail_msg("no completion came");
	return completion;
}

/* ---- life --------------------------------------------------------------------------------------------------- */

void net_pair_create(struct net_pair *pair)
{
	pair->seed += 77;
	pair->trip_ns = pair->trip_ns ? pair->trip_ns : 50000;
	pair->now_ns = pair->now_ns ? pair->now_ns : 1000000000;
	pair->options.message_bytes_max = pair->options.message_bytes_max ? pair->options.message_bytes_max : 1 << 18;
	pair->options.dead_after_ns = pair->options.dead_after_ns ? pair->options.dead_after_ns : 1000000000;
	pair->options.blocks = (struct net_blocks){ pair, take, give };
	pair->options.random_context = pair;
	pair->options.random = draw;
	if (pair->options.datagram && !pair->datagram_bytes)
		pair->datagram_bytes = NET_DATAGRAM_BYTES_LEAST;
	for (unsigned i = 0; i < NET_KEY_BYTES; i++)
		pair->options.key[i] = pair->peer.key[i] = (unsigned char)(i * 3 + 1);
	pair->peer.datagram = pair->options.datagram;
	pair->peer.offset_ns = pair->peer.offset_ns ? pair->peer.offset_ns : INT64_C(123456789012345);
	assert_int_equal(net_caller_create(&pair->caller, &pair->options), 0);
	net_peer_start(&pair->peer);
}

void net_pair_destroy(struct net_pair *pair)
{
	net_caller_destroy(pair->caller);
	net_peer_stop(&pair->peer);
	clear(&pair->there);
	clear(&pair->back);
	assert_int_equal(pair->blocks, 0);
}

void net_pair_start(struct net_pair *pair, bool resume)
{
	clear(&pair->there);
	clear(&pair->back);
	pair->cut = false;
	net_peer_socket(&pair->peer);
	net_caller_start(pair->caller, pair->now_ns, resume, pair->datagram_bytes);
}

void net_pair_open(struct net_pair *pair)
{
	const int64_t until_ns = pair->now_ns + MINUTE_NS;

	net_pair_start(pair, false);
	while (net_caller_state(pair->caller) == NET_CALLER_SHAKING)
		assert_true(net_pair_step(pair, until_ns));
	assert_int_equal(net_caller_state(pair->caller), NET_CALLER_OPEN);
}
