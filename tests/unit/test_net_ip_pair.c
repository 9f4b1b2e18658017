/*
 * Two IP stacks and a wire between them that loses, doubles, delays and changes frames, from a seed: they find each other, and what is
 * delivered is what was sent, by both families, with and without a VLAN.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/base_bytes.h"
#include "base/base_rand.h"
#include "tests/unit/net_ip_host.h"

enum { FRAMES_MAX = 256, FRAME_BYTES = 1600, DATAGRAMS = 200, STEPS_MAX = 200000, PAYLOAD_MAX = 1452 };

static const int64_t step_ns = 1000000;

/* Of 1,000 frames so many. */
struct faults {
	uint32_t lost, doubled, late, changed;
};

struct flying {
	int64_t at_ns;
	uint32_t to, bytes;
	unsigned char frame[FRAME_BYTES];
};

/* Host 0 asks, host 1 answers with the same bytes turned round. */
struct world {
	struct net_ip_host hosts[2];
	struct flying flying[FRAMES_MAX];
	uint32_t count;
	struct faults faults;
	int64_t now_ns;
	uint64_t seed, payload_seed;
	bool is_ip4;
	uint32_t offload;
	uint32_t asked;  /* the datagram that host 0 wants an answer to */
	uint32_t changed_unseen; /* that came with other bytes than were sent: a checksum of 16 bits misses some */
};

static bool happens(struct world *world, uint32_t per_thousand)
{
	return base_rand_below(&world->seed, 1000) < per_thousand;
}

static void fly(struct world *world, uint32_t to, const unsigned char *frame, size_t bytes)
{
	struct flying *flying = &world->flying[world->count];

	if (world->count == FRAMES_MAX || happens(world, world->faults.lost))
		return;
	world->count++;
	flying->at_ns = world->now_ns + (happens(world, world->faults.late) ? (int64_t)base_rand_below(&world->seed, 50) : 1) * step_ns;
	flying->to = to;
	flying->bytes = (uint32_t)bytes;
	memcpy(flying->frame, frame, bytes);
	if (happens(world, world->faults.changed))
		flying->frame[base_rand_below(&world->seed, bytes)] ^= (unsigned char)(1 + base_rand_below(&world->seed, 255));
}

static void put_on_wire(struct world *world, uint32_t from, const unsigned char *frame, size_t bytes)
{
	fly(world, 1 - from, frame, bytes);
	if (happens(world, world->faults.doubled))
		fly(world, 1 - from, frame, bytes);
}

static void send_own(struct world *world, uint32_t from)
{
	unsigned char own[NET_IP_OWN_BYTES];
	size_t bytes;

	while ((bytes = net_ip_next(world->hosts[from].ip, own)) > 0)
		put_on_wire(world, from, own, bytes);
}

/* What a device does to a frame whose sums were left to it. */
static void finish_sums(const struct world *world, const struct net_ip_frame *frame)
{
	unsigned char *packet = frame->at + frame->ethernet_bytes, *udp = packet + frame->ip_bytes;
	const size_t udp_bytes = frame->bytes - frame->ethernet_bytes - frame->ip_bytes;

	if (frame->is_ip4 && world->offload & NET_IP_OFFLOAD_IP4)
		net_store_be16(packet + 10, 0);
	for (uint32_t what = 0; what < 2; what++) {
		unsigned char *bytes = what == 0 ? packet : udp;
		const size_t count = what == 0 ? NET_IP4_BYTES : udp_bytes;
		uint32_t sum = 0;

		if (what == 0 ? !frame->is_ip4 || !(world->offload & NET_IP_OFFLOAD_IP4) : !(world->offload & NET_IP_OFFLOAD_UDP))
			continue;
		for (size_t i = 0; i < count; i += 2)
			sum += (uint32_t)bytes[i] << 8 | (i + 1 < count ? bytes[i + 1] : 0);
		sum = (sum & 0xffff) + (sum >> 16);
		sum = (sum & 0xffff) + (sum >> 16);
		net_store_be16(what == 0 ? packet + 10 : udp + 6, ~sum & 0xffff ? ~sum & 0xffff : 0xffff);
	}
}

static void send_payload(struct world *world, uint32_t from, const struct net_way *way, const unsigned char *payload, size_t bytes)
{
	unsigned char memory[NET_IP_HEADROOM_BYTES + PAYLOAD_MAX];
	struct net_ip_frame frame;

	memcpy(memory + NET_IP_HEADROOM_BYTES, payload, bytes);
	if (net_ip_send(world->hosts[from].ip, way, memory + NET_IP_HEADROOM_BYTES, bytes, world->offload, world->now_ns, &frame) != 0)
		return;
	finish_sums(world, &frame);
	put_on_wire(world, from, frame.at, frame.bytes);
}

/* The bytes of a datagram follow from its number, which stands first; its length, too. */
static size_t make_payload(const struct world *world, uint32_t number, uint32_t side, unsigned char *payload)
{
	uint64_t seed = world->payload_seed + number * UINT64_C(2);
	const size_t bytes = 4 + base_rand_below(&seed, PAYLOAD_MAX - 3);

	seed += side;
	base_store32(payload, number);
	for (size_t i = 4; i < bytes; i++)
		payload[i] = (unsigned char)base_rand_next(&seed);
	return bytes;
}

static void ask(struct world *world)
{
	const struct net_ip_address peer = net_ip_host_address(11, world->is_ip4);
	unsigned char payload[PAYLOAD_MAX];
	struct net_way way;
	const size_t bytes = make_payload(world, world->asked, 0, payload);

	assert_int_equal(net_ip_way(world->hosts[0].ip, 0, world->is_ip4 ? HOST_LOCAL4 : HOST_LOCAL6, &peer, HOST_PORT, &way), 0);
	send_payload(world, 0, &way, payload, bytes);
}

static void delivered(struct world *world, uint32_t to, const struct net_ip_datagram *datagram, const unsigned char *payload)
{
	unsigned char wanted[PAYLOAD_MAX];
	const uint32_t number = datagram->bytes >= 4 ? base_load32(payload) : UINT32_MAX;

	if (number >= DATAGRAMS || make_payload(world, number, 1 - to == 0 ? 0 : 1, wanted) != datagram->bytes ||
		memcmp(payload, wanted, datagram->bytes) != 0) {
		world->changed_unseen++;
		return;
	}
	if (to == 1) {
		const size_t bytes = make_payload(world, number, 1, wanted);

		send_payload(world, 1, &datagram->way, wanted, bytes);
	} else if (number == world->asked) {
		world->asked++;
		ask(world);
	}
}

static void arrive(struct world *world, uint32_t i)
{
	static const struct net_ip_verdict unknown = { NET_IP_SUM_UNKNOWN, NET_IP_SUM_UNKNOWN };
	const struct flying flying = world->flying[i];
	struct net_ip_datagram datagram;

	world->flying[i] = world->flying[--world->count];
	if (net_ip_receive(world->hosts[flying.to].ip, flying.frame, flying.bytes, unknown, world->now_ns, &datagram)) {
		assert_true(datagram.offset + datagram.bytes <= flying.bytes);
		delivered(world, flying.to, &datagram, flying.frame + datagram.offset);
	}
	send_own(world, flying.to);
}

static void step(struct world *world)
{
	world->now_ns += step_ns;
	for (uint32_t i = 0; i < world->count; i++) {
		if (world->flying[i].at_ns <= world->now_ns)
			arrive(world, i--);
	}
}

static void run(struct world *world, uint16_t vlan)
{
	uint32_t steps = 0;

	for (uint32_t i = 0; i < 2; i++) {
		net_ip_host_options(&world->hosts[i], (uint8_t)(10 + i), vlan);
		net_ip_host_create(&world->hosts[i]);
	}
	for (; world->asked < DATAGRAMS && steps < STEPS_MAX; steps++) {
		/* Nothing but asking again helps against a wire like this. */
		if (steps % 20 == 0)
			ask(world);
		send_own(world, 0);
		step(world);
	}
	assert_int_equal(world->asked, DATAGRAMS);
	for (uint32_t i = 0; i < 2; i++) {
		assert_true(net_ip_is_counted_once(world->hosts[i].ip));
		net_ip_host_destroy(&world->hosts[i]);
	}
}

static uint64_t value(const _Atomic uint64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

/* On a good wire nothing is lost but what waited for the first answer, and one question does. */
static void good_wire(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 16; i++) {
		static struct world world;

		world = (struct world){ .is_ip4 = i & 1, .offload = i >> 2 & 3, .seed = i, .payload_seed = i };
		run(&world, i & 2 ? 42 : 0);
		assert_int_equal(world.changed_unseen, 0);
	}
}

static void only_one_question(void **state)
{
	static struct world world;
	const struct net_ip_counters *counters;

	(void)state;
	world = (struct world){ .is_ip4 = true };
	for (uint32_t i = 0; i < 2; i++) {
		net_ip_host_options(&world.hosts[i], (uint8_t)(10 + i), 0);
		net_ip_host_create(&world.hosts[i]);
	}
	ask(&world);
	for (uint32_t i = 0; i < 5; i++) {
		send_own(&world, 0);
		step(&world);
	}
	ask(&world);
	for (uint32_t i = 0; i < 1000; i++)
		step(&world);
	counters = net_ip_counters(world.hosts[0].ip);
	assert_int_equal(world.asked, DATAGRAMS);
	assert_int_equal(value(&counters->out.arp_questions), 1);
	assert_int_equal(value(&counters->out.no_neighbour), 1);
	assert_int_equal(value(&counters->in.delivered), DATAGRAMS);
	/* The other one learned from being asked. */
	assert_int_equal(value(&net_ip_counters(world.hosts[1].ip)->out.arp_questions), 0);
	for (uint32_t i = 0; i < 2; i++)
		net_ip_host_destroy(&world.hosts[i]);
}

static void bad_wire(void **state)
{
	uint32_t changed_unseen = 0;

	(void)state;
	for (uint32_t i = 0; i < 24; i++) {
		static struct world world;

		world = (struct world){ .is_ip4 = i & 1, .offload = i >> 2 & 3, .seed = 100 + i, .payload_seed = i,
			.faults = { .lost = 200, .doubled = 100, .late = 200, .changed = 50 } };
		run(&world, i & 2 ? 42 : 0);
		changed_unseen += world.changed_unseen;
	}
	/* One byte changed is always seen by the sums; but not in a hardware address, which they do not cover, and which changes no payload. */
	assert_int_equal(changed_unseen, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(good_wire),
		cmocka_unit_test(only_one_question),
		cmocka_unit_test(bad_wire),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
