/*
 * What is asked for ahead: all of what is wanted, each line once, no more than a step beyond it, from several places in turn.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/cpu/cpu_ahead.h"

enum { MEMORY = 1 << 20, MOST_STEPS = MEMORY / CPU_AHEAD_STEP };

static unsigned char memory[MEMORY];
static unsigned times[MEMORY / CPU_AHEAD_LINE]; /* that each line was asked for */

/* Asks in portions of `lines` until nothing is left, and notes what for. */
static void ask_all(struct cpu_ahead *ahead, uint32_t lines)
{
	memset(times, 0, sizeof(times));
	for (uint32_t calls = 0; cpu_ahead_left(ahead); calls++) {
		struct cpu_ahead next = *ahead;

		assert_true(calls < MOST_STEPS * CPU_AHEAD_STEP_LINES);
		cpu_ahead_ask(&next, lines);
		/* The same steps one by one. */
		while (ahead->turn != next.turn || ahead->asked != next.asked) {
			const size_t line = (size_t)(ahead->runs[ahead->turn] + ahead->asked - memory) / CPU_AHEAD_LINE;

			for (uint32_t i = 0; i < CPU_AHEAD_STEP_LINES; i++)
				times[line + i]++;
			cpu_ahead_step(ahead);
		}
		*ahead = next;
	}
}

/* Every line of a piece has been asked for once. */
static void check_piece(const unsigned char *piece, size_t bytes)
{
	const size_t first = (size_t)(piece - memory) / CPU_AHEAD_LINE;

	for (size_t i = 0; i < bytes / CPU_AHEAD_LINE; i++)
		assert_int_equal(times[first + i], 1);
}

static uint32_t asked_in_all(void)
{
	uint32_t sum = 0;

	for (size_t i = 0; i < MEMORY / CPU_AHEAD_LINE; i++)
		sum += times[i];
	return sum;
}

static void one_piece(void **state)
{
	static const size_t sizes[] = {1, 64, 256, 4096, 8448, 34816, 69632, 191488, CPU_AHEAD_BYTES};

	(void)state;
	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++)
		for (uint32_t lines = 1; lines <= 17; lines += 4) {
			struct cpu_ahead ahead;

			cpu_ahead_want_one(&ahead, memory + 4096, sizes[i]);
			/* Several runs, unless there is too little; each begins before the end. */
			assert_true(ahead.count > CPU_AHEAD_RUNS / 2 || (sizes[i] <= CPU_AHEAD_STEP && ahead.count == 1));
			assert_true(ahead.runs[ahead.count - 1] < memory + 4096 + sizes[i]);
			ask_all(&ahead, lines);
			check_piece(memory + 4096, sizes[i]);
			assert_in_range(asked_in_all(), sizes[i] / CPU_AHEAD_LINE,
				(sizes[i] + CPU_AHEAD_RUNS * CPU_AHEAD_STEP) / CPU_AHEAD_LINE);
		}
}

static void more_than_is_wanted_at_once(void **state)
{
	struct cpu_ahead ahead;

	(void)state;
	cpu_ahead_want_one(&ahead, memory, 2 * CPU_AHEAD_BYTES);
	ask_all(&ahead, 4);
	assert_int_equal(asked_in_all(), CPU_AHEAD_BYTES / CPU_AHEAD_LINE);
}

static void several_pieces(void **state)
{
	enum { BYTES = 8448, APART = 65536 };
	const unsigned char *pieces[CPU_AHEAD_RUNS];

	(void)state;
	for (uint32_t i = 0; i < CPU_AHEAD_RUNS; i++)
		pieces[i] = memory + (CPU_AHEAD_RUNS - 1 - i) * APART;
	for (uint32_t count = 1; count <= CPU_AHEAD_RUNS; count++) {
		struct cpu_ahead ahead;

		cpu_ahead_want(&ahead, pieces, count, CPU_AHEAD_RUNS, BYTES);
		assert_true(ahead.count >= count && ahead.count > CPU_AHEAD_RUNS / 2);
		ask_all(&ahead, 5);
		for (uint32_t i = 0; i < count; i++)
			check_piece(pieces[i], BYTES);
	}
}

static void fewer_runs(void **state)
{
	enum { BYTES = 8448, APART = 65536 };
	const unsigned char *pieces[CPU_AHEAD_RUNS];

	(void)state;
	for (uint32_t i = 0; i < CPU_AHEAD_RUNS; i++)
		pieces[i] = memory + i * APART;
	for (uint32_t runs = 1; runs <= CPU_AHEAD_RUNS; runs++)
		for (uint32_t count = 1; count <= runs; count++) {
			struct cpu_ahead ahead;

			cpu_ahead_want(&ahead, pieces, count, runs, BYTES);
			assert_in_range(ahead.count, count, runs);
			ask_all(&ahead, 5);
			for (uint32_t i = 0; i < count; i++)
				check_piece(pieces[i], BYTES);
		}
}

static void takes_turns(void **state)
{
	struct cpu_ahead ahead;

	(void)state;
	cpu_ahead_want_one(&ahead, memory, 65536);
	for (uint32_t step = 0; step < 2 * CPU_AHEAD_RUNS; step++) {
		assert_int_equal(ahead.turn, step % CPU_AHEAD_RUNS);
		assert_int_equal(ahead.asked, step / CPU_AHEAD_RUNS * CPU_AHEAD_STEP);
		cpu_ahead_ask(&ahead, CPU_AHEAD_STEP_LINES);
	}
}

static void nothing(void **state)
{
	struct cpu_ahead ahead = {.bytes = 0};

	(void)state;
	cpu_ahead_step(&ahead);
	cpu_ahead_ask(&ahead, 100);
	assert_false(cpu_ahead_left(&ahead));
	cpu_ahead_want(&ahead, NULL, 0, CPU_AHEAD_RUNS, 4096);
	assert_false(cpu_ahead_left(&ahead));
	cpu_ahead_want_one(&ahead, memory, 0);
	assert_false(cpu_ahead_left(&ahead));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_piece),
		cmocka_unit_test(more_than_is_wanted_at_once),
		cmocka_unit_test(several_pieces),
		cmocka_unit_test(fewer_runs),
		cmocka_unit_test(takes_turns),
		cmocka_unit_test(nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
