/*
 * Fuzzes what a stranger's packet may hold: chunks of every kind, and messages out of their parts. What is delivered is read to its last
 * byte, in blocks of exactly the size that was asked for.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "netio/net_inbox.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { WINDOW = 8, MESSAGE_MAX = 5000 };

static volatile unsigned char seen; /* keeps the reads from being optimized away */

static void touch(const void *bytes, size_t size)
{
	const unsigned char *at = bytes;
	unsigned char all = 0;

	for (size_t i = 0; i < size; i++)
		all ^= at[i];
	seen = all;
}

static void *take(void *context, uint32_t bytes)
{
	(void)context;
	return calloc(1, bytes);
}

static void give(void *context, void *block)
{
	(void)context;
	free(block);
}

static void read_part(struct net_inbox *inbox, const struct net_chunk *chunk)
{
	struct net_inbox_message message;
	struct net_part part;
	struct net_come come;
	struct net_have have;
	uint32_t ahead = 0;

	if (net_part_read(chunk, &part) != 0)
		return;
	(void)net_inbox_part(inbox, &part);
	while (net_inbox_have(inbox, &ahead, &have))
		touch(have.bitmap, have.words * sizeof(*have.bitmap));
	net_inbox_come(inbox, &come);
	touch(come.bitmap, come.words * sizeof(*come.bitmap));
	while (net_inbox_next(inbox, &message)) {
		touch(message.record, sizeof(message.record));
		touch(message.payload, message.bytes);
		free(message.payload);
	}
}

static void read_chunk(struct net_inbox *inbox, const struct net_chunk *chunk)
{
	struct net_times times;
	struct net_have have;
	struct net_come come;

	touch(chunk->content, chunk->bytes);
	switch (chunk->kind) {
	case NET_ACK:
	case NET_TAKEN:
		if (net_come_read(chunk, &come) == 0)
			touch(come.bitmap, come.words * sizeof(*come.bitmap));
		break;
	case NET_PING:
	case NET_PONG:
		if (net_times_read(chunk, &times) == 0)
			touch(&times, sizeof(times));
		break;
	case NET_HAVE:
		if (net_have_read(chunk, &have) == 0)
			touch(have.bitmap, have.words * sizeof(*have.bitmap));
		break;
	case NET_CLOSE:
		break;
	default:
		read_part(inbox, chunk);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct net_blocks blocks = { NULL, take, give };
	unsigned char *body = malloc(size + (size == 0));
	struct net_reader reader = { body, body + size };
	struct net_chunk chunk;
	struct net_inbox *inbox;

	memcpy(body, data, size);
	if (net_inbox_create(&inbox, WINDOW, MESSAGE_MAX, &blocks, NULL) != 0)
		abort();
	while (net_chunk_next(&reader, &chunk) == 1)
		read_chunk(inbox, &chunk);
	net_inbox_destroy(inbox);
	free(body);
	return 0;
}
