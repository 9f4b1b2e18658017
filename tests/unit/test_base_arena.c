/*
 * Regions and arenas: zeroed, writable, aligned, bounded.
 */
#include "base/base_arena.h"

#include "base/base_error.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void check_region(size_t size_bytes, int node, bool prefault)
{
	size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE);
	struct base_region region;
	unsigned char *bytes;

	assert_int_equal(base_region_create(&region, size_bytes, node, prefault), 0);
	bytes = region.memory;
	assert_true(region.size_bytes >= size_bytes);
	assert_int_equal((uintptr_t)bytes % page_bytes, 0);
	assert_int_equal(region.size_bytes % page_bytes, 0);
	for (size_t i = 0; i < region.size_bytes; i += 1024)
		assert_int_equal(bytes[i], 0);
	memset(bytes, 0xa5, region.size_bytes);
	base_region_destroy(&region);
	assert_null(region.memory);
	base_region_destroy(&region);
}

static void test_regions(void **state)
{
	(void)state;
	check_region(1, -1, false);
	check_region(5000, -1, true);
	check_region(3 << 20, -1, true);
	check_region(3 << 20, 0, false);
	/* A node that does not exist is a preference that cannot be kept. */
	check_region(1 << 20, 63, true);
	check_region(1 << 20, 1 << 20, true);
}

static void test_impossible_regions(void **state)
{
	struct base_region region;

	(void)state;
	assert_int_equal(base_region_create(&region, 0, -1, false), -EINVAL);
	assert_null(region.memory);
	assert_int_equal(base_region_create(&region, SIZE_MAX, -1, false), -ENOMEM);
	assert_int_equal(base_region_create(&region, SIZE_MAX / 4, -1, false), -ENOMEM);
	assert_true(strlen(base_error_message()) > 0);
}

static void test_arena(void **state)
{
	static _Alignas(64) unsigned char memory[256];
	struct base_arena arena;

	(void)state;
	base_arena_init(&arena, memory, sizeof(memory));
	assert_ptr_equal(base_arena_take(&arena, 3, 1), memory);
	assert_ptr_equal(base_arena_take(&arena, 8, 8), memory + 8);
	assert_ptr_equal(base_arena_take(&arena, 1, 64), memory + 64);
	assert_null(base_arena_take(&arena, 256, 1));
	assert_null(base_arena_take(&arena, SIZE_MAX, 64));
	assert_ptr_equal(base_arena_take(&arena, 191, 1), memory + 65);
	assert_null(base_arena_take(&arena, 1, 1));
	assert_non_null(base_arena_take(&arena, 0, 1));
	assert_int_equal(arena.used_bytes, sizeof(memory));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_regions),
		cmocka_unit_test(test_impossible_regions),
		cmocka_unit_test(test_arena),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
