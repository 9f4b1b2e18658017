/*
 * What comes out of the attach socket, on either side: a hello as the daemon reads it, and a
 * head as the client does. The first byte picks; the rest are the bytes. Whatever is accepted
 * must keep its promises.
 */
#include <stdlib.h>
#include <string.h>

#include "shm-ipc/shm_attach.h"
#include "shm-ipc/shm_segment.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int condition)
{
	if (!condition)
		abort();
}

static int inside(uint64_t offset, uint64_t bytes, uint64_t segment_bytes)
{
	return offset <= segment_bytes && bytes <= segment_bytes - offset;
}

static void fuzz_hello(const uint8_t *data, size_t size)
{
	struct shm_segment_options options = { .max_in_flight = 1, .node = -1 };
	struct shm_hello hello;

	if (shm_hello_check(data, size, &hello))
		return;
	require(size == sizeof(hello) && memcmp(&hello, data, size) == 0);
	require(hello.magic == SHM_MAGIC && hello.version == SHM_VERSION && hello.flags == 0);
	/* Policy is the caller's, but the cost of what is asked for never overflows. */
	options.submission_slots = hello.submission_slots;
	options.completion_slots = hello.completion_slots;
	options.arena_bytes = hello.arena_bytes;
	uint64_t cost = shm_segment_cost(&options);
	require(cost == 0 || (cost > hello.arena_bytes && cost < 2 * SHM_ARENA_BYTES_MAX));
}

static void fuzz_head(const uint8_t *data, size_t size)
{
	struct shm_daemon_head head;

	if (size != sizeof(head))
		return;
	memcpy(&head, data, sizeof(head));
	if (shm_head_check(&head))
		return;
	require(inside(head.submission_offset, head.submission_slots * UINT64_C(64), head.write_bytes));
	require(inside(head.arena_offset, head.arena_bytes, head.write_bytes));
	require(inside(head.line_offset, sizeof(struct shm_daemon_line), head.read_bytes));
	require(inside(head.counters_offset, sizeof(struct shm_counters), head.read_bytes));
	require(inside(head.completion_offset, head.completion_slots * UINT64_C(64), head.read_bytes));
	require((head.submission_slots & (head.submission_slots - 1)) == 0 && head.submission_slots > 0);
	require((head.completion_slots & (head.completion_slots - 1)) == 0 && head.completion_slots > 0);
	require(head.submission_offset % 128 == 0 && head.completion_offset % 128 == 0);
	require(head.max_in_flight > 0 && head.max_in_flight <= head.completion_slots / 2);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	if (data[0] & 1)
		fuzz_head(data + 1, size - 1);
	else
		fuzz_hello(data + 1, size - 1);
	return 0;
}
