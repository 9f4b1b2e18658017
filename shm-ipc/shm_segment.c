/*
 * Makes and unmakes a client's segments; the daemon's control role.
 *
 * The order matters, see shm_memory.h.
 */
#include "shm-ipc/shm_segment.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/base_error.h"
#include "base/base_fault.h"
#include "shm-ipc/shm_bell.h"
#include "shm-ipc/shm_memory.h"
#include "shm-ipc/shm_view.h"

enum {
	HUGE_BYTES = 2 << 20,
	WAKES_PER_SECOND = 100000,
	WAKES_BURST = 64,
};

/* ---- layout ---------------------------------------------------------------------------------- */

static uint64_t round_up(uint64_t value, uint64_t unit)
{
	return (value + unit - 1) / unit * unit;
}

static bool slots_ok(uint32_t slots)
{
	return slots >= SHM_SLOTS_MIN && slots <= SHM_SLOTS_MAX && (slots & (slots - 1)) == 0;
}

static bool arena_ok(uint64_t bytes)
{
	return bytes >= SHM_ARENA_BYTES_MIN && bytes <= SHM_ARENA_BYTES_MAX;
}

static int options_check(const struct shm_segment_options *options)
{
	if (!slots_ok(options->submission_slots) || !slots_ok(options->completion_slots))
		return base_fail(EINVAL, "ring of %u submissions and %u completions: both must be a power "
			"of two from %d to %d", options->submission_slots, options->completion_slots,
			SHM_SLOTS_MIN, SHM_SLOTS_MAX);
	if (!arena_ok(options->arena_bytes))
		return base_fail(EINVAL, "arena of %llu bytes: must be from %d to %llu",
			(unsigned long long)options->arena_bytes, SHM_ARENA_BYTES_MIN,
			(unsigned long long)SHM_ARENA_BYTES_MAX);
	if (options->max_in_flight == 0)
		return base_fail(EINVAL, "a client needs at least one request in flight");
	if (options->timelines > SHM_SLOTS_MAX || (options->timelines & (options->timelines - 1)) != 0 ||
		options->devices > SHM_VIEW_DEVICES_MAX)
		return base_fail(EINVAL, "%u timelines on each of %u devices: none, or a power of two up to %d; at most %d devices",
			options->timelines, options->devices, SHM_SLOTS_MAX, SHM_VIEW_DEVICES_MAX);
	return 0;
}

/* What the client sees of its requests stands behind the completions; the head, which older libraries know, says nothing of it. */
static uint64_t view_offset(const struct shm_daemon_head *head)
{
	return head->completion_offset + (uint64_t)head->completion_slots * sizeof(struct shm_slot);
}

/* The layout for pages of this size; what rounding adds to W goes to the arena. */
static void layout(struct shm_daemon_head *head, const struct shm_segment_options *options,
	uint64_t page_bytes)
{
	uint64_t small = (uint64_t)sysconf(_SC_PAGESIZE);

	*head = (struct shm_daemon_head){
		.magic = SHM_MAGIC,
		.version = SHM_VERSION,
		.struct_bytes = sizeof(*head),
		.boot_id = options->boot_id,
		.client = options->client,
		.max_in_flight = options->max_in_flight,
		.submission_slots = options->submission_slots,
		.completion_slots = options->completion_slots,
		.submission_offset = round_up(sizeof(struct shm_client_line), 128),
		.line_offset = round_up(sizeof(struct shm_daemon_head), 128),
	};
	if (head->max_in_flight > head->completion_slots / 2)
		head->max_in_flight = head->completion_slots / 2;
	head->arena_offset = round_up(head->submission_offset +
		(uint64_t)head->submission_slots * sizeof(struct shm_slot), small);
	head->write_bytes = round_up(head->arena_offset + options->arena_bytes, page_bytes);
	head->arena_bytes = head->write_bytes - head->arena_offset;
	if (head->arena_bytes > SHM_ARENA_BYTES_MAX)
		head->arena_bytes = SHM_ARENA_BYTES_MAX;
	head->counters_offset = head->line_offset + sizeof(struct shm_daemon_line);
	head->completion_offset = head->counters_offset + sizeof(struct shm_counters);
	head->read_bytes = round_up(view_offset(head) + shm_view_own_bytes(options->devices, options->timelines), small);
}

uint64_t shm_segment_cost(const struct shm_segment_options *options)
{
	struct shm_daemon_head head;

	if (options_check(options))
		return 0;
	layout(&head, options, options->huge ? HUGE_BYTES : (uint64_t)sysconf(_SC_PAGESIZE));
	return head.write_bytes + head.read_bytes;
}

struct part { uint64_t offset, bytes; };

/* Whether the parts lie in the segment, aligned, in this order, without overlap. */
static bool parts_ok(const struct part *parts, unsigned count, uint64_t segment_bytes)
{
	uint64_t end = 0;

	for (unsigned i = 0; i < count; i++) {
		if (parts[i].offset % 128 || parts[i].offset < end || parts[i].offset > segment_bytes ||
			parts[i].bytes > segment_bytes - parts[i].offset)
			return false;
		end = parts[i].offset + parts[i].bytes;
	}
	return true;
}

int shm_head_check(const struct shm_daemon_head *head)
{
	if (head->magic != SHM_MAGIC)
		return base_fail(EPROTO, "the daemon's head does not begin with this protocol's magic");
	if (head->version != SHM_VERSION || head->struct_bytes != sizeof(*head))
		return base_fail(EPROTO, "the daemon's head has version %u and %u bytes; this side has %d "
			"and %zu", head->version, head->struct_bytes, SHM_VERSION, sizeof(*head));
	if (!slots_ok(head->submission_slots) || !slots_ok(head->completion_slots) ||
		!arena_ok(head->arena_bytes) || head->max_in_flight == 0 ||
		head->max_in_flight > head->completion_slots / 2)
		return base_fail(EPROTO, "the daemon's head has sizes out of range: %u and %u slots, %llu "
			"bytes of arena, %u in flight", head->submission_slots, head->completion_slots,
			(unsigned long long)head->arena_bytes, head->max_in_flight);

	const struct part write_parts[] = {
		{ 0, sizeof(struct shm_client_line) },
		{ head->submission_offset, (uint64_t)head->submission_slots * sizeof(struct shm_slot) },
		{ head->arena_offset, head->arena_bytes },
	};
	const struct part read_parts[] = {
		{ 0, sizeof(struct shm_daemon_head) },
		{ head->line_offset, sizeof(struct shm_daemon_line) },
		{ head->counters_offset, sizeof(struct shm_counters) },
		{ head->completion_offset, (uint64_t)head->completion_slots * sizeof(struct shm_slot) },
	};
	if (!parts_ok(write_parts, 3, head->write_bytes) || !parts_ok(read_parts, 4, head->read_bytes))
		return base_fail(EPROTO, "the daemon's head describes parts outside their segments");
	return 0;
}

/* ---- W and R --------------------------------------------------------------------------------- */

static int write_create(struct shm_segment *segment, const struct shm_segment_options *options)
{
	int fd = -1, error;

	if (options->huge) {
		layout(&segment->head, options, HUGE_BYTES);
		fd = shm_memory_create(&segment->write_memory, segment->head.write_bytes, true, 0600,
			options->node);
		segment->huge = fd >= 0;
		if (fd < 0)
			snprintf(segment->huge_why, sizeof(segment->huge_why), "%.*s",
				(int)sizeof(segment->huge_why) - 1, base_error_message());
	}
	if (fd < 0) {
		layout(&segment->head, options, (uint64_t)sysconf(_SC_PAGESIZE));
		fd = shm_memory_create(&segment->write_memory, segment->head.write_bytes, false, 0600,
			options->node);
	}
	if (fd < 0)
		return fd;
	segment->write_fd = fd;
	segment->arena = segment->write_memory + segment->head.arena_offset;
	error = shm_memory_seal(fd, 0);
	if (error)
		return error;
	segment->fault_handle = base_fault_add(segment->write_memory, segment->head.write_bytes,
		&segment->faulted);
	return segment->fault_handle < 0 ? segment->fault_handle : 0;
}

static int read_create(struct shm_segment *segment, const struct shm_segment_options *options)
{
	int fd = shm_memory_create(&segment->read_memory, segment->head.read_bytes, false, 0400,
		options->node);
	struct shm_daemon_line *line;
	int error;

	if (fd < 0)
		return fd;
	segment->read_fd = fd;
	memcpy(segment->read_memory, &segment->head, sizeof(segment->head));
	line = (struct shm_daemon_line *)(void *)(segment->read_memory + segment->head.line_offset);
	atomic_store_explicit(&line->state, SHM_SERVING, memory_order_relaxed);
	if (shm_view_own_bytes(options->devices, options->timelines) > 0) {
		struct shm_counters *counters = (struct shm_counters *)(void *)(segment->read_memory + segment->head.counters_offset);

		segment->view = (struct base_view_own_head *)(void *)(segment->read_memory + view_offset(&segment->head));
		shm_view_own_init(segment->view, options->devices, options->timelines);
		atomic_store_explicit(&counters->view_offset, view_offset(&segment->head), memory_order_relaxed);
	}
	error = shm_memory_seal(fd, F_SEAL_FUTURE_WRITE);
	if (error)
		return error;
	segment->read_fd = shm_memory_read_only(fd);
	return segment->read_fd < 0 ? segment->read_fd : 0;
}

int shm_segment_create(struct shm_segment *segment, const struct shm_segment_options *options)
{
	int error = options_check(options);

	if (error)
		return error;
	*segment = (struct shm_segment){ .write_fd = -1, .read_fd = -1, .fault_handle = -1 };
	error = write_create(segment, options);
	if (!error)
		error = read_create(segment, options);
	if (!error)
		error = shm_head_check(&segment->head);
	if (error)
		shm_segment_destroy(segment);
	return error;
}

void shm_segment_close_fds(struct shm_segment *segment)
{
	if (segment->write_fd >= 0)
		close(segment->write_fd);
	if (segment->read_fd >= 0)
		close(segment->read_fd);
	segment->write_fd = segment->read_fd = -1;
}

void shm_segment_destroy(struct shm_segment *segment)
{
	shm_segment_close_fds(segment);
	if (segment->read_memory)
		munmap(segment->read_memory, segment->head.read_bytes);
	if (segment->fault_handle >= 0)
		base_fault_remove(segment->fault_handle);
	if (segment->write_memory) {
		/* A client that keeps its mapping or its descriptor must not keep our memory: what it
		 * touches from here on is its own. Fails harmlessly where SIGBUS was contained. */
		(void)madvise(segment->write_memory, segment->head.write_bytes, MADV_REMOVE);
		munmap(segment->write_memory, segment->head.write_bytes);
	}
	segment->read_memory = segment->write_memory = segment->arena = NULL;
	segment->fault_handle = -1;
}

/* ---- the daemon's end ------------------------------------------------------------------------ */

int shm_daemon_end_create(struct shm_daemon_end *end, const struct shm_segment *segment,
	uint32_t wakes_per_second, uint32_t wakes_burst)
{
	const struct shm_daemon_head *head = &segment->head;
	unsigned char *write_memory = segment->write_memory, *read_memory = segment->read_memory;
	int64_t period_ns = 1000000000 / (wakes_per_second ? wakes_per_second : WAKES_PER_SECOND);

	*end = (struct shm_daemon_end){
		.submissions = (const struct shm_slot *)(void *)(write_memory + head->submission_offset),
		.submission_mask = head->submission_slots - 1,
		.submission_lap = shm_lap(0, head->submission_slots),
		.max_in_flight = head->max_in_flight,
		.finals_max = head->max_in_flight + head->completion_slots / 4,
		.completions = (struct shm_slot *)(void *)(read_memory + head->completion_offset),
		.completion_mask = head->completion_slots - 1,
		.completion_lap = shm_lap(0, head->completion_slots),
		.wake_rate = { .period_ns = period_ns,
			.burst_ns = period_ns * ((wakes_burst ? wakes_burst : WAKES_BURST) - 1) },
		.line = (struct shm_daemon_line *)(void *)(read_memory + head->line_offset),
		.client_line = (const struct shm_client_line *)(void *)write_memory,
		.counters = (struct shm_counters *)(void *)(read_memory + head->counters_offset),
	};
	end->streams_max = head->completion_slots - end->finals_max;
	end->finals = calloc((head->completion_slots + 63) / 64, sizeof(uint64_t));
	if (!end->finals)
		return base_fail(ENOMEM, "no memory for the bookkeeping of a client's ring");
	return 0;
}

void shm_daemon_end_destroy(struct shm_daemon_end *end)
{
	free(end->finals);
	end->finals = NULL;
}
