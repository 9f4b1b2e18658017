/*
 * The loan allocator: against a model of what is on loan, its own invariants, and wrong returns.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base_error.h"
#include "base/base_rand.h"
#include "client-lib/attnd_client.h"

enum { ARENA_BYTES = 1 << 20, LOANS = 300 };

static unsigned char *memory;

static int setup(void **state)
{
	static struct client_arena arena;

	memory = aligned_alloc(4096, ARENA_BYTES);
	*state = &arena;
	return !memory || client_arena_create(&arena, memory, ARENA_BYTES) ? -1 : 0;
}

static int teardown(void **state)
{
	client_arena_destroy(*state);
	free(memory);
	return 0;
}

static void sound(const struct client_arena *arena)
{
	if (client_arena_check(arena))
		fail_msg("%s", base_error_message());
}

struct loan { unsigned char *memory; size_t bytes; unsigned char mark; };

static void loans_never_overlap(void **state)
{
	struct client_arena *arena = *state;
	struct loan loans[LOANS] = { 0 };
	uint64_t random = 11;
	unsigned refused = 0, taken = 0;

	for (unsigned i = 0; i < 60000; i++) {
		struct loan *loan = &loans[base_rand_below(&random, LOANS)];

		if (loan->memory) {
			for (size_t k = 0; k < loan->bytes; k += 61)
				assert_int_equal(loan->memory[k], loan->mark);
			assert_int_equal(loan->memory[loan->bytes - 1], loan->mark);
			assert_int_equal(client_arena_give(arena, loan->memory), 0);
			loan->memory = NULL;
		} else {
			loan->bytes = 1 + base_rand_below(&random, UINT64_C(1) << base_rand_below(&random, 17));
			loan->mark = (unsigned char)i;
			loan->memory = client_arena_take(arena, loan->bytes);
			if (!loan->memory) {
				refused++;
				continue;
			}
			taken++;
			assert_int_equal((uintptr_t)loan->memory % 64, 0);
			assert_true(loan->memory >= memory && loan->memory + loan->bytes <= memory + ARENA_BYTES);
			memset(loan->memory, loan->mark, loan->bytes);
		}
		if (i % 64 == 0)
			sound(arena);
	}
	assert_true(taken > 20000 && refused > 0);
	for (unsigned i = 0; i < LOANS; i++)
		if (loans[i].memory)
			assert_int_equal(client_arena_give(arena, loans[i].memory), 0);
	sound(arena);
	assert_int_equal(arena->free_granules, ARENA_BYTES / 64);
	/* Everything has merged: the whole arena can be had at once. */
	assert_ptr_equal(client_arena_take(arena, ARENA_BYTES), memory);
	assert_null(client_arena_take(arena, 1));
	assert_int_equal(client_arena_give(arena, memory), 0);
}

static void an_exact_fit_is_found(void **state)
{
	struct client_arena *arena = *state;

	for (size_t bytes = 64; bytes < ARENA_BYTES / 2; bytes += bytes / 3 / 64 * 64 + 64) {
		void *hole = client_arena_take(arena, bytes), *fence = client_arena_take(arena, 64);
		void *rest = client_arena_take(arena, (size_t)arena->free_granules * 64);

		assert_true(hole && fence && rest);
		assert_int_equal(client_arena_give(arena, hole), 0);
		assert_ptr_equal(client_arena_take(arena, bytes), hole);
		assert_int_equal(client_arena_give(arena, hole), 0);
		assert_int_equal(client_arena_give(arena, fence), 0);
		assert_int_equal(client_arena_give(arena, rest), 0);
		sound(arena);
	}
}

static void wrong_returns_change_nothing(void **state)
{
	struct client_arena *arena = *state;
	unsigned char *first = client_arena_take(arena, 1000), *second = client_arena_take(arena, 1000);
	unsigned char elsewhere[64];

	assert_int_equal(client_arena_give(arena, elsewhere), -EINVAL);
	assert_int_equal(client_arena_give(arena, first + 1), -EINVAL);
	assert_int_equal(client_arena_give(arena, first + 64), -EINVAL);
	assert_int_equal(client_arena_give(arena, memory + ARENA_BYTES), -EINVAL);
	assert_int_equal(client_arena_give(arena, memory - 64), -EINVAL);
	assert_int_equal(client_arena_give(arena, first), 0);
	assert_int_equal(client_arena_give(arena, first), -EINVAL);
	sound(arena);
	assert_int_equal(client_arena_give(arena, second), 0);
	assert_int_equal(client_arena_give(arena, second), -EINVAL);
	sound(arena);
}

static void sizes_at_the_edges(void **state)
{
	struct client_arena *arena = *state;
	void *nothing = client_arena_take(arena, 0);

	assert_non_null(nothing); /* as malloc: an address of its own */
	assert_int_equal(client_arena_give(arena, nothing), 0);
	assert_null(client_arena_take(arena, ARENA_BYTES + 1));
	assert_null(client_arena_take(arena, SIZE_MAX));
	assert_null(client_arena_take(arena, SIZE_MAX - 62));
	assert_null(client_arena_take(arena, (size_t)1 << 38));
	sound(arena);
}

/* Arenas up to the largest, whose memory is never touched here. */
static void large_arenas_have_larger_granules(void **state)
{
	(void)state;
	for (unsigned shift = 16; shift <= 36; shift++) {
		struct client_arena arena;
		unsigned char *base = (unsigned char *)(uintptr_t)0x100000000000;
		uint64_t bytes = UINT64_C(1) << shift;
		void *half, *one;

		assert_int_equal(client_arena_create(&arena, base, bytes - 4096 * (shift % 2)), 0);
		assert_true(arena.granules < 1u << ARENA_GRANULES_BITS);
		half = client_arena_take(&arena, bytes / 2);
		one = client_arena_take(&arena, 1);
		assert_ptr_equal(half, base);
		assert_ptr_equal(one, base + bytes / 2);
		assert_null(client_arena_take(&arena, bytes / 2));
		sound(&arena);
		assert_int_equal(client_arena_give(&arena, half), 0);
		assert_int_equal(client_arena_give(&arena, one), 0);
		sound(&arena);
		assert_ptr_equal(client_arena_take(&arena, (size_t)arena.granules << arena.granule_shift), base);
		client_arena_destroy(&arena);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(loans_never_overlap, setup, teardown),
		cmocka_unit_test_setup_teardown(an_exact_fit_is_found, setup, teardown),
		cmocka_unit_test_setup_teardown(wrong_returns_change_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(sizes_at_the_edges, setup, teardown),
		cmocka_unit_test(large_arenas_have_larger_granules),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
