/*
 * A client punches a hole into its segment on huge pages, and by then there are no huge pages
 * left: the daemon's next read faults. That must cost this client, and nobody else. Also: with
 * huge pages for one client and not for the next, both are made.
 *
 * Needs root, because it sets vm.nr_hugepages for a moment; it leaves it as it was.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base_error.h"
#include "base/base_fault.h"
#include "shm-ipc/shm_segment.h"

static const char setting[] = "/proc/sys/vm/nr_hugepages";
static const struct shm_segment_options options = { .submission_slots = 16, .completion_slots = 16,
	.arena_bytes = 1 << 20, .max_in_flight = 4, .node = -1, .huge = true };

/* -1 where it cannot be read. */
static long pages_now(void)
{
	FILE *file = fopen(setting, "r");
	long pages = -1;

	if (file && fscanf(file, "%ld", &pages) != 1)
		pages = -1;
	if (file)
		fclose(file);
	return pages;
}

static bool pages_set(long pages)
{
	FILE *file = fopen(setting, "w");
	bool written = file && fprintf(file, "%ld\n", pages) > 0;

	if (file && fclose(file))
		written = false;
	return written && pages_now() == pages;
}

static uint64_t sum(const struct shm_segment *segment)
{
	uint64_t total = 0;

	for (uint64_t i = 0; i < segment->head.arena_bytes; i += 64)
		total += ((volatile unsigned char *)segment->arena)[i];
	return total;
}

static long pages_before;

static int setup(void **state)
{
	(void)state;
	pages_before = pages_now();
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	if (pages_before >= 0 && pages_now() != pages_before)
		pages_set(pages_before);
	return 0;
}

static void a_hole_on_huge_pages_hurts_that_client_alone(void **state)
{
	struct shm_segment victim, other;
	long before = pages_before;

	(void)state;
	if (geteuid() || before < 0 || !pages_set(before + 1)) {
		print_message("# SKIP: cannot set vm.nr_hugepages\n");
		skip();
	}
	assert_int_equal(base_fault_install(), 0);
	assert_int_equal(shm_segment_create(&victim, &options), 0);
	if (!victim.huge) {
		print_message("# SKIP: no huge page to be had: %s\n", victim.huge_why);
		shm_segment_destroy(&victim);
		skip();
	}
	/* Only one was free, so the next client goes without, and is told why. */
	assert_int_equal(shm_segment_create(&other, &options), 0);
	if (before == 0) {
		assert_false(other.huge);
		assert_true(other.huge_why[0]);
	}
	memset(victim.arena, 1, victim.head.arena_bytes);
	memset(other.arena, 2, other.head.arena_bytes);

	assert_int_equal(fallocate(victim.write_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
		(off_t)victim.head.write_bytes), 0);
	assert_true(pages_set(before));
	assert_int_equal(sum(&victim), 0);
	assert_int_equal(sum(&other), other.head.arena_bytes / 64 * 2);
	assert_int_equal(other.faulted, 0);
	assert_memory_equal(victim.read_memory, &victim.head, sizeof(victim.head));
	/* With free pages left over from elsewhere the hole is simply filled; otherwise the fault
	 * was seen. */
	if (before == 0)
		assert_int_equal(victim.faulted, 1);
	shm_segment_destroy(&victim);
	shm_segment_destroy(&other);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_hole_on_huge_pages_hurts_that_client_alone, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
