/*
 * Fuzzes what a daemon may send to a client: packets before and after the handshake, of streams and datagrams, with requests of every kind
 * in flight whose output ranges have exactly their sizes. Nothing is sealed, so that what is mutated is what is read.
 *
 * The first byte says what it is about: 1 datagrams; 2 the handshake is to be had from the input; 4 bodies, around which heads are put
 * here. Then come packets: a length of two bytes and so much, until the input ends.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_bytes.h"
#include "netio/net_caller.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { IS_DATAGRAM = 1, IS_SHAKING = 2, IS_BODY = 4, REQUESTS = 4, OUT_BYTES = 3000, BLOCKS_MAX = 64, COMPLETIONS_MAX = 4096 };

#define CONNECTION UINT64_C(0x1122334455667788)

struct target {
	struct net_caller *caller;
	bool is_datagram;
	unsigned char *outs[REQUESTS];
	uint64_t numbers;
	unsigned blocks, completions;
	int64_t now_ns;
	bool has_asked;
};

static void *take(void *context, uint32_t bytes)
{
	struct target *target = context;

	if (target->blocks == BLOCKS_MAX)
		return NULL;
	target->blocks++;
	return malloc(bytes);
}

static void give(void *context, void *block)
{
	struct target *target = context;

	target->blocks--;
	free(block);
}

static void draw(void *context, void *to, size_t bytes)
{
	(void)context;
	memset(to, 7, bytes);
}

/* In a block of its own, so that what is read beyond its end is found. */
static void packet(struct target *target, const uint8_t *bytes, size_t count)
{
	unsigned char *copy = malloc(count + (count == 0));

	memcpy(copy, bytes, count);
	net_caller_packet(target->caller, target->now_ns, copy, count);
	free(copy);
}

static void welcome(struct target *target)
{
	const struct net_welcome welcome = { .boot_id = 1, .clock_ns = target->now_ns, .max_in_flight = REQUESTS, .stream_credits = 4,
		.window_bytes = 10000, .message_bytes = OUT_BYTES, .datagram_bytes = NET_DATAGRAM_BYTES_LEAST, .name = CONNECTION };
	unsigned char bytes[NET_DATAGRAM_HEAD_BYTES + NET_WELCOME_BYTES];

	net_welcome_write(bytes + net_packet_head_bytes(target->is_datagram), &welcome);
	packet(target, bytes, net_packet_clear(bytes, target->is_datagram, NET_WELCOME, CONNECTION, NET_WELCOME_BYTES));
}

static void body(struct target *target, const uint8_t *bytes, size_t count)
{
	unsigned char whole[NET_PACKET_BYTES_MAX];
	const size_t head_bytes = net_packet_head_bytes(target->is_datagram);

	count = count < NET_BODY_BYTES_MAX ? count : NET_BODY_BYTES_MAX;
	memcpy(whole + head_bytes, bytes, count);
	count = net_packet_clear(whole, target->is_datagram, NET_DATA, CONNECTION, count);
	if (target->is_datagram)
		base_store64(whole + 16, target->numbers++);
	packet(target, whole, count);
}

static void requests(struct target *target)
{
	static const uint8_t ops[REQUESTS] = { ATTND_OP_NOP, ATTND_OP_GENERATE, ATTND_OP_STEP, ATTND_OP_CANCEL };
	static unsigned char in[OUT_BYTES];

	for (unsigned i = 0; i < REQUESTS; i++) {
		const struct attnd_request request = { .op = ops[i], .request_id = i, .args = 2, .in_bytes = i == 0 ? OUT_BYTES : 0,
			.out_capacity = i * OUT_BYTES / REQUESTS };

		target->has_asked = true;
		target->outs[i] = malloc(request.out_capacity + (i == 0));
		(void)net_caller_send(target->caller, &request, in, i == 0 ? NULL : target->outs[i]);
	}
}

/* All that an owner does after each packet. */
static void serve(struct target *target)
{
	unsigned char bytes[NET_PACKET_BYTES_MAX];
	struct attnd_completion completion;

	if (!target->has_asked && net_caller_state(target->caller) == NET_CALLER_OPEN)
		requests(target);
	while (target->completions < COMPLETIONS_MAX && net_caller_receive(target->caller, &completion))
		target->completions++;
	net_caller_rest(target->caller);
	while (net_caller_next_packet(target->caller, target->now_ns, bytes) > 0)
		;
	target->now_ns += 300000;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct target target = { .is_datagram = size > 0 && data[0] & IS_DATAGRAM, .now_ns = 1000 };
	const uint8_t about = size > 0 ? data[0] : 0;
	const struct net_caller_options options = { .datagram = target.is_datagram, .plain = true, .message_bytes_max = OUT_BYTES,
		.dead_after_ns = 1000000000, .blocks = { &target, take, give }, .random = draw };

	if (net_caller_create(&target.caller, &options) != 0)
		abort();
	net_caller_start(target.caller, target.now_ns, false, target.is_datagram ? NET_DATAGRAM_BYTES_LEAST : 0);
	if (!(about & IS_SHAKING))
		welcome(&target);
	serve(&target);
	for (size_t at = 1; at + 2 <= size;) {
		const size_t left = size - at - 2, said = base_load16(data + at), count = said < left ? said : left;

		if (about & IS_BODY)
			body(&target, data + at + 2, count);
		else
			packet(&target, data + at + 2, count);
		serve(&target);
		at += 2 + count;
	}
	net_caller_destroy(target.caller);
	for (unsigned i = 0; i < REQUESTS; i++)
		free(target.outs[i]);
	return 0;
}
