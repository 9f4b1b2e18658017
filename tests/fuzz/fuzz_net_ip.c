/*
 * Fuzzes the IP stack. An input is a list of records: an op, how (what the device says of the sums), two bytes of a number, and, of frames,
 * so many bytes. Frames come as they are, or with their sums put right, so that changes get further than the first checksum; time passes;
 * answers and datagrams of our own go out.
 *
 * After each frame: it was counted once; what was delivered lies in the frame. All that the stack sends is read by another stack, the one
 * that it is for: it finds nothing wrong with it.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/net_ip_host.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { RECORD_BYTES = 4, FRAME_MAX = 2048, PAYLOAD_MAX = 1600, RECORDS_MAX = 512 };
enum op { RAW, MENDED, PASS, ANSWER, ASK, OPS };
enum { KEEPS_OWN = 0x80, OFFLOADS = 3, OTHER_WAY = 4 }; /* in a record's second byte */

struct fuzz {
	struct net_ip_host host;
	int64_t now_ns;
	bool has_way;
	struct net_way way;
};

static volatile unsigned char seen; /* keeps the reads from being optimized away */

static void wrong(const char *what, const unsigned char *frame, size_t bytes)
{
	fprintf(stderr, "%s: ", what);
	for (size_t i = 0; i < bytes; i++)
		fprintf(stderr, "%02x", frame[i]);
	fprintf(stderr, "\n");
	abort();
}

/* ---- what the stack sends ----------------------------------------------------------------------------------- */

/* What the one whom a frame is for may say to it. */
static bool is_fine(const char *outcome)
{
	static const char *const fine[] = { "in.arp_asked", "in.arp_unasked", "in.icmp_other", "in.icmp_error", "in.nd_asked", "in.nd_unasked",
		"in.nd_news" };

	for (size_t i = 0; i < sizeof(fine) / sizeof(fine[0]); i++) {
		if (strcmp(outcome, fine[i]) == 0)
			return true;
	}
	return false;
}

/* An answer to who asks whether an address is taken is for 0.0.0.0, which no machine has. */
static bool is_answer_to_probe(const unsigned char *frame)
{
	const unsigned char *arp = frame + NET_ETH_BYTES + (net_load_be16(frame + 12) == NET_TYPE_VLAN ? NET_VLAN_BYTES : 0);

	return net_load_be16(arp - 2) == NET_TYPE_ARP && net_load_be32(arp + 24) == 0;
}

static void read_own(struct fuzz *fuzz)
{
	unsigned char own[NET_IP_OWN_BYTES];
	size_t bytes;

	while ((bytes = net_ip_next(fuzz->host.ip, own)) > 0) {
		unsigned char *exact = malloc(bytes);
		const char *outcome;

		memcpy(exact, own, bytes);
		if (bytes < NET_ETH_BYTES_LEAST || memcmp(own + NET_MAC_BYTES, fuzz->host.options.mac, NET_MAC_BYTES) != 0)
			wrong("own frame", own, bytes);
		outcome = net_ip_mirror(exact, bytes, NULL);
		if (!is_fine(outcome) && !(strcmp(outcome, "none") == 0 && is_answer_to_probe(own)))
			wrong(outcome, own, bytes);
		free(exact);
	}
}

/* The memory has just the room that is asked for. is_right: a way of this stack's, and sums are not left to a device. */
static void send_along(struct fuzz *fuzz, const struct net_way *way, size_t count, uint32_t offload, bool is_right)
{
	unsigned char *memory = malloc(NET_IP_HEADROOM_BYTES + count), *payload = memory + NET_IP_HEADROOM_BYTES;
	struct net_ip_datagram datagram;
	struct net_ip_frame frame;
	const char *outcome;

	memset(memory, (int)count, NET_IP_HEADROOM_BYTES + count);
	if (net_ip_send(fuzz->host.ip, way, payload, count, offload, fuzz->now_ns, &frame) == 0) {
		if (frame.at < memory || frame.at + frame.bytes != payload + count)
			wrong("out of bounds", payload, count);
		outcome = is_right ? net_ip_mirror(frame.at, frame.bytes, &datagram) : "none";
		if (is_right && strcmp(outcome, "in.delivered") != 0)
			wrong(outcome, frame.at, frame.bytes);
		if (is_right && (datagram.bytes != count || frame.at + datagram.offset != payload))
			wrong("other payload", frame.at, frame.bytes);
	}
	free(memory);
	read_own(fuzz);
}

/* ---- frames ----------------------------------------------------------------------------------------------- */

static uint16_t slow_sum(const unsigned char *bytes, size_t count, uint32_t sum)
{
	for (size_t i = 0; i < count; i++)
		sum += i % 2 ? bytes[i] : (uint32_t)bytes[i] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

/* Of UDP, ICMP, ICMPv6, where all of it is there. begin: the pseudo-header's sum. */
static void mend_payload(unsigned char *at, size_t bytes, uint8_t protocol, uint32_t begin)
{
	const size_t place = protocol == NET_IP_UDP ? 6 : 2;
	uint16_t sum;

	if (bytes < 8 || (protocol != NET_IP_UDP && protocol != NET_IP_ICMP4 && protocol != NET_IP_ICMP6))
		return;
	if (protocol == NET_IP_UDP && net_load_be16(at + 4) >= 8 && net_load_be16(at + 4) < bytes)
		bytes = net_load_be16(at + 4);
	net_store_be16(at + place, 0);
	sum = slow_sum(at, bytes, protocol == NET_IP_ICMP4 ? 0 : begin + protocol + (uint32_t)bytes);
	net_store_be16(at + place, sum == 0 ? 0xffff : sum);
}

static uint32_t sum_of(const unsigned char *bytes, size_t count)
{
	return (uint16_t)~slow_sum(bytes, count, 0);
}

static void mend4(unsigned char *packet, size_t bytes)
{
	const size_t header_bytes = bytes > 0 ? (packet[0] & 15) * 4u : 0;
	size_t total_bytes;

	if (bytes < NET_IP4_BYTES || header_bytes < NET_IP4_BYTES || header_bytes > bytes)
		return;
	total_bytes = net_load_be16(packet + 2);
	if (total_bytes >= header_bytes && total_bytes <= bytes)
		mend_payload(packet + header_bytes, total_bytes - header_bytes, packet[9], sum_of(packet + 12, 8));
	net_store_be16(packet + 10, 0);
	net_store_be16(packet + 10, slow_sum(packet, header_bytes, 0));
}

static void mend6(unsigned char *packet, size_t bytes)
{
	size_t payload_bytes, skip;

	if (bytes < NET_IP6_BYTES)
		return;
	payload_bytes = net_load_be16(packet + 4);
	skip = packet[6] == NET_IP_HOP_BY_HOP ? 8 : 0;
	if (payload_bytes <= bytes - NET_IP6_BYTES && skip < payload_bytes)
		mend_payload(packet + NET_IP6_BYTES + skip, payload_bytes - skip, skip ? packet[NET_IP6_BYTES] : packet[6], sum_of(packet + 8, 32));
}

/* Makes the sums right, by a reader of its own. */
static void mend(unsigned char *frame, size_t bytes)
{
	size_t at = NET_ETH_BYTES;

	if (bytes < NET_ETH_BYTES + NET_VLAN_BYTES)
		return;
	if (net_load_be16(frame + 12) == NET_TYPE_VLAN)
		at += NET_VLAN_BYTES;
	if (net_load_be16(frame + at - 2) == NET_TYPE_IP4)
		mend4(frame + at, bytes - at);
	else if (net_load_be16(frame + at - 2) == NET_TYPE_IP6)
		mend6(frame + at, bytes - at);
}

static void receive(struct fuzz *fuzz, const uint8_t *bytes, size_t count, uint8_t verdicts, bool is_mended)
{
	const struct net_ip_verdict verdict = { verdicts % 3, verdicts / 3 % 3 };
	unsigned char *frame = malloc(count + (count == 0));
	struct net_ip_datagram datagram;

	memcpy(frame, bytes, count);
	if (is_mended)
		mend(frame, count);
	if (net_ip_receive(fuzz->host.ip, frame, count, verdict, fuzz->now_ns, &datagram)) {
		if (datagram.offset > count || datagram.bytes > count - datagram.offset)
			wrong("out of bounds", frame, count);
		for (uint32_t i = 0; i < datagram.bytes; i++)
			seen = (unsigned char)(seen ^ frame[datagram.offset + i]);
		fuzz->way = datagram.way;
		fuzz->has_way = true;
		send_along(fuzz, &datagram.way, datagram.bytes % (net_ip_payload_max(fuzz->host.ip, &datagram.way) + 1), 0, true);
	}
	free(frame);
	if (!(verdicts & KEEPS_OWN))
		read_own(fuzz);
	if (!net_ip_is_counted_once(fuzz->host.ip))
		wrong("not counted once", bytes, count);
}

/* ---- records ---------------------------------------------------------------------------------------------- */

static void ask(struct fuzz *fuzz, uint16_t number)
{
	const bool is_ip4 = number & 1;
	const struct net_ip_address peer = net_ip_host_address((uint8_t)(number >> 8), is_ip4);
	struct net_way way;

	if (net_ip_way(fuzz->host.ip, 0, is_ip4 ? HOST_LOCAL4 : HOST_LOCAL6, &peer, (uint16_t)(number | 1), &way) == 0)
		send_along(fuzz, &way, number % PAYLOAD_MAX, 0, true);
}

/* Along the way that somebody came, or one with a byte changed. */
static void answer(struct fuzz *fuzz, uint8_t how, uint16_t number)
{
	struct net_way way = fuzz->way;

	if (!fuzz->has_way)
		return;
	if (how & OTHER_WAY)
		way.address[number % NET_ADDRESS_BYTES] ^= (unsigned char)(number >> 8);
	send_along(fuzz, &way, number % PAYLOAD_MAX, how & OFFLOADS, how == 0);
}

/* One record. Returns how many bytes it had; frames are cut where the input ends. */
static size_t run_record(struct fuzz *fuzz, const uint8_t *at, size_t left)
{
	const uint16_t number = (uint16_t)(at[2] | at[3] << 8);
	const size_t rest = left - RECORD_BYTES;
	const size_t wanted = number % FRAME_MAX, count = wanted < rest ? wanted : rest;
	const enum op op = (enum op)(at[0] % OPS);

	switch (op) {
	case PASS:
		fuzz->now_ns += number * INT64_C(10000000);
		return RECORD_BYTES;
	case ANSWER:
		answer(fuzz, at[1], number);
		return RECORD_BYTES;
	case ASK:
		ask(fuzz, number);
		return RECORD_BYTES;
	default:
		receive(fuzz, at + RECORD_BYTES, count, at[1], op == MENDED);
		return RECORD_BYTES + count;
	}
}

/* Host 1, as in the packet scripts, and the same on VLAN 5; few neighbours and low rates, so that they are met. */
static void begin(struct fuzz *fuzz)
{
	static struct net_ip_local locals[HOST_LOCALS + 1];
	static struct net_ip_static fixed;

	net_ip_host_options(&fuzz->host, 1, 0);
	memcpy(locals, fuzz->host.locals, sizeof(fuzz->host.locals));
	locals[HOST_LOCALS] = locals[0];
	locals[HOST_LOCALS].vlan = 5;
	fixed = (struct net_ip_static){ .address = net_ip_host_address(12, true), .mac = { 2, 0, 0, 0, 0, 12 } };
	fuzz->host.options.locals = locals;
	fuzz->host.options.local_count = HOST_LOCALS + 1;
	fuzz->host.options.statics = &fixed;
	fuzz->host.options.static_count = 1;
	fuzz->host.options.neighbour_count = NET_NEIGHBOURS_LEAST;
	fuzz->host.options.answers = (struct net_ip_rate){ 1000, 70 };
	fuzz->host.options.questions = fuzz->host.options.echoes = fuzz->host.options.unreachable = (struct net_ip_rate){ 10, 5 };
	fuzz->host.options.news = (struct net_ip_rate){ 10, 3 };
	net_ip_host_create(&fuzz->host);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz fuzz = { .now_ns = 0 };

	begin(&fuzz);
	for (uint32_t i = 0; i < RECORDS_MAX && size >= RECORD_BYTES; i++) {
		const size_t used = run_record(&fuzz, data, size);

		data += used;
		size -= used;
	}
	net_ip_host_destroy(&fuzz.host);
	return 0;
}
