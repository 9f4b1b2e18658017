/*
 * Segments: their layout and checks, what a holder of the descriptors can and cannot do to them
 * (as root, as another user, and as the owner without privileges), and that nothing is left
 * behind.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base_error.h"
#include "base/base_fault.h"
#include "base/base_rand.h"
#include "shm-ipc/shm_segment.h"

enum { NOBODY = 65534 };

static const struct shm_segment_options usual = { .submission_slots = 256, .completion_slots = 1024,
	.arena_bytes = 1 << 20, .boot_id = 77, .client = 5, .max_in_flight = 100, .node = -1 };

/* ---- layout ---------------------------------------------------------------------------------- */

static void the_head_says_where_things_are(void **state)
{
	struct shm_segment segment;

	(void)state;
	assert_int_equal(shm_segment_create(&segment, &usual), 0);
	const struct shm_daemon_head *head = &segment.head;
	assert_int_equal(shm_head_check(head), 0);
	assert_memory_equal(segment.read_memory, head, sizeof(*head));
	assert_int_equal(head->boot_id, 77);
	assert_int_equal(head->client, 5);
	assert_int_equal(head->max_in_flight, 100);
	assert_true(head->arena_bytes >= 1 << 20);
	assert_int_equal(head->arena_offset % 4096, 0);
	assert_true(segment.arena == segment.write_memory + head->arena_offset);
	assert_int_equal(shm_segment_cost(&usual), head->write_bytes + head->read_bytes);
	shm_segment_destroy(&segment);
}

static void options_out_of_range_are_refused(void **state)
{
	struct shm_segment_options bad[9];
	struct shm_segment segment;

	(void)state;
	for (unsigned i = 0; i < 9; i++)
		bad[i] = usual;
	bad[0].submission_slots = 0;
	bad[1].submission_slots = 8;
	bad[2].submission_slots = 100;
	bad[3].completion_slots = SHM_SLOTS_MAX * 2;
	bad[4].completion_slots = UINT32_MAX;
	bad[5].arena_bytes = SHM_ARENA_BYTES_MIN - 1;
	bad[6].arena_bytes = SHM_ARENA_BYTES_MAX + 1;
	bad[7].arena_bytes = UINT64_MAX;
	bad[8].max_in_flight = 0;
	for (unsigned i = 0; i < 9; i++) {
		assert_int_equal(shm_segment_create(&segment, &bad[i]), -EINVAL);
		assert_int_equal(shm_segment_cost(&bad[i]), 0);
		assert_true(base_error_message()[0]);
	}
}

/* Any word of a good head, replaced by any other value, is refused or still describes parts
 * inside their segments. */
static void a_wrong_head_is_refused(void **state)
{
	struct shm_segment segment;
	uint64_t random = 3;
	unsigned refused = 0;

	(void)state;
	assert_int_equal(shm_segment_create(&segment, &usual), 0);
	for (unsigned i = 0; i < 200000; i++) {
		struct shm_daemon_head head = segment.head;
		unsigned at = (unsigned)base_rand_below(&random, sizeof(head) / 4);
		uint32_t value = (uint32_t)base_rand_next(&random) >> base_rand_below(&random, 32);

		memcpy((unsigned char *)&head + at * 4, &value, 4);
		if (shm_head_check(&head)) {
			refused++;
			continue;
		}
		assert_true(head.submission_offset + head.submission_slots * UINT64_C(64) <= head.arena_offset);
		assert_true(head.arena_offset + head.arena_bytes <= head.write_bytes);
		assert_true(head.completion_offset + head.completion_slots * UINT64_C(64) <= head.read_bytes);
		assert_true(head.counters_offset + sizeof(struct shm_counters) <= head.completion_offset);
	}
	assert_true(refused > 100000);
	shm_segment_destroy(&segment);
}

static void ranges_are_checked_without_overflow(void **state)
{
	struct shm_segment segment;
	void *memory;

	(void)state;
	assert_int_equal(shm_segment_create(&segment, &usual), 0);
	uint32_t units = (uint32_t)(segment.head.arena_bytes / 64);
	assert_true(shm_arena_range(&segment, 0, 0, &memory) && !memory);
	assert_true(shm_arena_range(&segment, UINT32_MAX, 0, &memory) && !memory);
	assert_true(shm_arena_range(&segment, 1, 64, &memory) && memory == segment.arena + 64);
	assert_true(shm_arena_range(&segment, 0, (uint32_t)segment.head.arena_bytes, &memory));
	assert_true(shm_arena_range(&segment, units - 1, 64, &memory));
	assert_false(shm_arena_range(&segment, units - 1, 65, &memory));
	assert_false(shm_arena_range(&segment, units, 1, &memory));
	assert_false(shm_arena_range(&segment, UINT32_MAX, UINT32_MAX, &memory));
	assert_false(shm_arena_range(&segment, 0, UINT32_MAX, &memory));
	shm_segment_destroy(&segment);
}

static void huge_pages_or_the_reason_why_not(void **state)
{
	struct shm_segment_options options = usual;
	struct shm_segment segment;

	(void)state;
	options.huge = true;
	assert_int_equal(shm_segment_create(&segment, &options), 0);
	if (segment.huge)
		assert_int_equal(segment.head.write_bytes % (2 << 20), 0);
	else
		assert_true(segment.huge_why[0]);
	print_message("# huge pages: %s\n", segment.huge ? "used" : segment.huge_why);
	memset(segment.arena, 1, segment.head.arena_bytes);
	assert_int_equal(shm_head_check(&segment.head), 0);
	shm_segment_destroy(&segment);
}

/* ---- attacks --------------------------------------------------------------------------------- */

/* What the attacker found possible, as bits; 0 is what we want. The attacker is a process of its
 * own that has only what a client has: the two descriptors and a read-only mapping. */
enum breach {
	SHRANK_W = 1 << 0, GREW_W = 1 << 1, SHRANK_R = 1 << 2, GREW_R = 1 << 3, SEALED = 1 << 4,
	WROTE_R = 1 << 5, PUNCHED_R = 1 << 6, MAPPED_R = 1 << 7, PROTECTED_R = 1 << 8, REOPENED_R = 1 << 9,
	WROTE_REOPENED = 1 << 10, MAPPED_REOPENED = 1 << 11, PUNCHED_REOPENED = 1 << 12, REMOVED_R = 1 << 13,
	COPIED_R = 1 << 14,
};

static unsigned when(bool happened, unsigned breach)
{
	return happened ? breach : 0;
}

/* Everything one can try to write through a descriptor. */
static unsigned attack_fd(int fd, unsigned wrote, unsigned mapped, unsigned punched)
{
	void *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	unsigned breaches = when(memory != MAP_FAILED, mapped);

	breaches |= when(pwrite(fd, "x", 1, 0) == 1, wrote);
	breaches |= when(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) == 0, punched);
	breaches |= when(fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 0, 4096) == 0, punched);
	return breaches;
}

static unsigned attack(const struct shm_segment *segment)
{
	off_t write_bytes = (off_t)segment->head.write_bytes, read_bytes = (off_t)segment->head.read_bytes;
	int write_fd = segment->write_fd, read_fd = segment->read_fd, reopened, source;
	void *memory;
	char path[32];
	unsigned breaches = 0;

	breaches |= when(ftruncate(write_fd, write_bytes - 4096) == 0, SHRANK_W);
	breaches |= when(ftruncate(write_fd, write_bytes + 4096) == 0, GREW_W);
	breaches |= when(fallocate(write_fd, 0, 0, write_bytes + 4096) == 0, GREW_W);
	breaches |= when(pwrite(write_fd, "x", 1, write_bytes) == 1, GREW_W);
	breaches |= when(fallocate(write_fd, FALLOC_FL_COLLAPSE_RANGE, 0, 4096) == 0, SHRANK_W);
	breaches |= when(ftruncate(read_fd, read_bytes - 4096) == 0, SHRANK_R);
	breaches |= when(ftruncate(read_fd, read_bytes + 4096) == 0, GREW_R);
	breaches |= when(fcntl(write_fd, F_ADD_SEALS, F_SEAL_WRITE) == 0, SEALED);
	breaches |= when(fcntl(read_fd, F_ADD_SEALS, F_SEAL_WRITE) == 0, SEALED);
	breaches |= attack_fd(read_fd, WROTE_R, MAPPED_R, PUNCHED_R);

	memory = mmap(NULL, 4096, PROT_READ, MAP_SHARED, read_fd, 0);
	if (memory != MAP_FAILED) {
		breaches |= when(mprotect(memory, 4096, PROT_READ | PROT_WRITE) == 0, PROTECTED_R);
		breaches |= when(madvise(memory, 4096, MADV_REMOVE) == 0, REMOVED_R);
	}
	/* The owner of a file may change its mode; nobody else, and it must not help. */
	fchmod(read_fd, 0666);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", read_fd);
	reopened = open(path, O_RDWR);
	breaches |= when(reopened >= 0, REOPENED_R);
	if (reopened >= 0) {
		breaches |= attack_fd(reopened, WROTE_REOPENED, MAPPED_REOPENED, PUNCHED_REOPENED);
		breaches |= when(ftruncate(reopened, 4096) == 0, SHRANK_R);
		breaches |= when(fcntl(reopened, F_ADD_SEALS, F_SEAL_WRITE) == 0, SEALED);
		source = memfd_create("source", 0);
		if (source >= 0 && write(source, "x", 1) == 1) {
			off_t from = 0, to = 0;

			breaches |= when(copy_file_range(source, &from, reopened, &to, 1, 0) == 1, COPIED_R);
		}
		memory = mmap(NULL, 4096, PROT_READ, MAP_SHARED, reopened, 0);
		if (memory != MAP_FAILED)
			breaches |= when(mprotect(memory, 4096, PROT_READ | PROT_WRITE) == 0, PROTECTED_R);
	}
	return breaches;
}

/* Runs the attack in a child as this user (0: as we are); creates the segment there too when `own`. */
static unsigned attack_as(uid_t user, bool own)
{
	struct shm_segment segment;
	unsigned breaches = UINT32_MAX;
	int report[2], status;
	pid_t child;

	if (!own)
		assert_int_equal(shm_segment_create(&segment, &usual), 0);
	assert_int_equal(pipe(report), 0);
	child = fork();
	if (child == 0) {
		if (user && (setgroups(0, NULL) || setgid(user) || setuid(user)))
			_exit(1);
		if (own && shm_segment_create(&segment, &usual))
			_exit(2);
		breaches = attack(&segment);
		_exit(write(report[1], &breaches, sizeof(breaches)) != sizeof(breaches));
	}
	close(report[1]);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	assert_int_equal(read(report[0], &breaches, sizeof(breaches)), sizeof(breaches));
	close(report[0]);
	if (!own) {
		/* R still says what the daemon wrote. */
		assert_memory_equal(segment.read_memory, &segment.head, sizeof(segment.head));
		shm_segment_destroy(&segment);
	}
	return breaches;
}

/* Root may open what it likes; what it then holds must be as useless. */
static void root_can_break_nothing(void **state)
{
	(void)state;
	if (geteuid())
		skip();
	assert_int_equal(attack_as(0, false) & ~(unsigned)REOPENED_R, 0);
}

static void another_user_can_break_nothing(void **state)
{
	(void)state;
	if (geteuid())
		skip();
	assert_int_equal(attack_as(NOBODY, false), 0);
}

/* Daemon and client of one ordinary user: the client may reopen its user's files, to no avail. */
static void the_owner_can_break_nothing(void **state)
{
	(void)state;
	assert_int_equal(attack_as(geteuid() ? 0 : NOBODY, true) & ~(unsigned)REOPENED_R, 0);
}

/* Without the changed mode, an ordinary owner cannot even reopen R for writing. */
static void the_read_only_segment_has_no_writable_mode(void **state)
{
	struct shm_segment segment;
	struct stat status;

	(void)state;
	assert_int_equal(shm_segment_create(&segment, &usual), 0);
	assert_int_equal(fstat(segment.read_fd, &status), 0);
	assert_int_equal(status.st_mode & 0777, 0400);
	assert_int_equal(fcntl(segment.read_fd, F_GETFL) & O_ACCMODE, O_RDONLY);
	assert_int_equal(fstat(segment.write_fd, &status), 0);
	assert_int_equal(status.st_mode & 0777, 0600);
	shm_segment_destroy(&segment);
}

/* A hole in ordinary pages reads as zeros; the daemon goes on. (On huge pages it may fault:
 * base_fault's tests.) */
static void a_hole_in_the_writable_segment_hurts_nobody_else(void **state)
{
	struct shm_segment segment;
	unsigned sum = 0;

	(void)state;
	assert_int_equal(base_fault_install(), 0);
	assert_int_equal(shm_segment_create(&segment, &usual), 0);
	memset(segment.arena, 1, segment.head.arena_bytes);
	assert_int_equal(fallocate(segment.write_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
		(off_t)segment.head.write_bytes), 0);
	for (uint64_t i = 0; i < segment.head.arena_bytes; i++)
		sum += segment.arena[i];
	assert_int_equal(sum, 0);
	assert_memory_equal(segment.read_memory, &segment.head, sizeof(segment.head));
	shm_segment_destroy(&segment);
}

/* ---- nothing is left ------------------------------------------------------------------------- */

static unsigned count_fds(void)
{
	DIR *folder = opendir("/proc/self/fd");
	unsigned count = 0;

	assert_non_null(folder);
	while (readdir(folder))
		count++;
	closedir(folder);
	return count;
}

static unsigned count_mappings(void)
{
	FILE *file = fopen("/proc/self/maps", "r");
	unsigned count = 0;
	char line[512];

	assert_non_null(file);
	while (fgets(line, sizeof(line), file))
		count += strstr(line, "memfd:attnd") != NULL;
	fclose(file);
	return count;
}

static void nothing_is_left_behind(void **state)
{
	unsigned fds = count_fds();
	struct shm_segment segment;

	(void)state;
	assert_int_equal(count_mappings(), 0);
	for (unsigned i = 0; i < 200; i++) {
		assert_int_equal(shm_segment_create(&segment, &usual), 0);
		if (i % 2)
			shm_segment_close_fds(&segment);
		shm_segment_destroy(&segment);
	}
	assert_int_equal(count_fds(), fds);
	assert_int_equal(count_mappings(), 0);
}

/* Whichever step fails for want of a descriptor cleans up after the ones before it. */
static void a_failed_step_undoes_the_others(void **state)
{
	struct rlimit before, limit;
	struct shm_segment segment;
	unsigned fds = count_fds(), failures = 0;
	int lowest = dup(0);

	(void)state;
	close(lowest);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	for (int room = 0; room < 4; room++) {
		int error;

		limit = before;
		limit.rlim_cur = (rlim_t)(lowest + room);
		assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
		error = shm_segment_create(&segment, &usual);
		assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
		if (error) {
			assert_int_equal(error, -EMFILE);
			failures++;
		} else {
			shm_segment_destroy(&segment);
		}
		assert_int_equal(count_fds(), fds);
		assert_int_equal(count_mappings(), 0);
	}
	assert_int_equal(failures, 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_head_says_where_things_are),
		cmocka_unit_test(options_out_of_range_are_refused),
		cmocka_unit_test(a_wrong_head_is_refused),
		cmocka_unit_test(ranges_are_checked_without_overflow),
		cmocka_unit_test(huge_pages_or_the_reason_why_not),
		cmocka_unit_test(root_can_break_nothing),
		cmocka_unit_test(another_user_can_break_nothing),
		cmocka_unit_test(the_owner_can_break_nothing),
		cmocka_unit_test(the_read_only_segment_has_no_writable_mode),
		cmocka_unit_test(a_hole_in_the_writable_segment_hurts_nobody_else),
		cmocka_unit_test(nothing_is_left_behind),
		cmocka_unit_test(a_failed_step_undoes_the_others),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
