/*
 * Repeats a talk with Linux: tests/data/net_ip/linux.pcap has the frames that a kernel (6.18) sent to this stack on a TAP device, and those
 * that it got, when each was dealt with. The kernel pinged, sent datagrams, which were echoed, knocked at closed ports, and
 * took all answers. The stack has to say the same again, byte for byte.
 *
 * The file is a pcap of version 2.4 with nanoseconds (draft-ietf-opsawg-pcap), little-endian.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/base_bytes.h"
#include "tests/unit/net_ip_host.h"

enum { FILE_BYTES_MAX = 1 << 20, FILE_HEAD_BYTES = 24, HEAD_BYTES = 16, ETHERNET = 1 };

#define MAGIC_NS UINT32_C(0xa1b23c4d)

struct capture {
	unsigned char bytes[FILE_BYTES_MAX];
	size_t count, at;
};

struct packet {
	const unsigned char *frame;
	size_t bytes;
	int64_t at_ns;
};

static void read_capture(struct capture *capture, const char *path)
{
	FILE *file = fopen(path, "rb");

	assert_non_null(file);
	capture->count = fread(capture->bytes, 1, sizeof(capture->bytes), file);
	fclose(file);
	assert_true(capture->count > FILE_HEAD_BYTES && capture->count < sizeof(capture->bytes));
	assert_true(base_load32(capture->bytes) == MAGIC_NS && base_load32(capture->bytes + 20) == ETHERNET);
	capture->at = FILE_HEAD_BYTES;
}

static bool next_packet(struct capture *capture, struct packet *packet)
{
	const unsigned char *head = capture->bytes + capture->at;

	if (capture->at == capture->count)
		return false;
	assert_true(capture->count - capture->at > HEAD_BYTES);
	packet->at_ns = (int64_t)base_load32(head) * 1000000000 + base_load32(head + 4);
	packet->bytes = base_load32(head + 8);
	packet->frame = head + HEAD_BYTES;
	assert_true(packet->bytes <= capture->count - capture->at - HEAD_BYTES);
	capture->at += HEAD_BYTES + packet->bytes;
	return true;
}

static void assert_next(struct capture *capture, const unsigned char *frame, size_t bytes)
{
	struct packet packet;

	assert_true(next_packet(capture, &packet));
	assert_int_equal(packet.bytes, bytes);
	assert_memory_equal(packet.frame, frame, bytes);
}

static void echo(struct net_ip *ip, struct capture *capture, const struct packet *packet, const struct net_ip_datagram *datagram)
{
	unsigned char memory[NET_IP_HEADROOM_BYTES + NET_IP_MTU_MAX];
	struct net_ip_frame frame;

	memcpy(memory + NET_IP_HEADROOM_BYTES, packet->frame + datagram->offset, datagram->bytes);
	assert_int_equal(net_ip_send(ip, &datagram->way, memory + NET_IP_HEADROOM_BYTES, datagram->bytes, 0, packet->at_ns, &frame), 0);
	assert_next(capture, frame.at, frame.bytes);
}

static uint64_t value(const _Atomic uint64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

static void talk_with_linux(void **state)
{
	static const struct net_ip_verdict unknown = { NET_IP_SUM_UNKNOWN, NET_IP_SUM_UNKNOWN };
	static struct capture capture;
	const struct net_ip_counters *counters;
	unsigned char own[NET_IP_OWN_BYTES];
	struct net_ip_datagram datagram;
	struct net_ip_host host;
	struct packet packet;
	size_t bytes;

	(void)state;
	read_capture(&capture, "tests/data/net_ip/linux.pcap");
	net_ip_host_options(&host, 1, 0);
	net_ip_host_create(&host);
	while (next_packet(&capture, &packet)) {
		if (net_ip_receive(host.ip, packet.frame, packet.bytes, unknown, packet.at_ns, &datagram))
			echo(host.ip, &capture, &packet, &datagram);
		while ((bytes = net_ip_next(host.ip, own)) > 0)
			assert_next(&capture, own, bytes);
	}
	counters = net_ip_counters(host.ip);
	assert_true(value(&counters->in.delivered) >= 13);
	assert_true(value(&counters->in.icmp_echo) >= 11);
	assert_int_equal(value(&counters->in.udp_closed), 2);
	assert_true(value(&counters->in.arp_asked) > 0 && value(&counters->in.nd_asked) > 0);
	assert_true(net_ip_is_counted_once(host.ip));
	net_ip_host_destroy(&host);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(talk_with_linux),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
