/*
 * Time limit: 60 s
 *
 * Readers that look while a writer writes as fast as it can: what they get is of one moment, or they are told that it is
 * not. Every word that is written depends on the number it is written under, so a copy of two moments shows. The same reader over a
 * writer that does not keep to the protocol must find such copies, or this test could not tell. A writer that died in between hangs
 * nobody.
 */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/base_clock.h"
#include "base/base_view.h"

enum { WORDS = 32, READERS = 2, YIELD_EVERY = 1024 };

static const int64_t RUN_NS = 1500000000, LONGEST_NS = 30000000000;

struct record { uint64_t word[WORDS]; };

struct run {
	_Alignas(128) struct record shared;
	_Alignas(128) _Atomic uint32_t stop;
	bool careless; /* the writer leaves the number alone until it is done */
	uint64_t written;
};

struct reader {
	struct run *run;
	pthread_t thread;
	uint64_t read, torn, busy, backwards;
};

static uint64_t value_of(uint64_t number, unsigned word)
{
	return number * 0x9e3779b97f4a7c15u + word;
}

static void write_once(struct run *run, uint64_t number)
{
	struct record next;

	for (unsigned i = 1; i < WORDS; i++)
		next.word[i] = value_of(number, i);
	if (!run->careless)
		base_view_begin(&run->shared.word[0], number);
	base_view_put_all(&run->shared.word[1], &next.word[1], sizeof(next) - sizeof(next.word[0]));
	base_view_end(&run->shared.word[0], number);
}

static void *write_all(void *context)
{
	struct run *run = context;
	uint64_t number = 0;

	while (!atomic_load_explicit(&run->stop, memory_order_relaxed)) {
		number += 2;
		write_once(run, number);
		if (number % YIELD_EVERY == 0)
			sched_yield();
	}
	run->written = number / 2;
	return NULL;
}

static void *read_all(void *context)
{
	struct reader *reader = context;
	struct record copy;
	uint64_t last = 0;

	while (!atomic_load_explicit(&reader->run->stop, memory_order_relaxed)) {
		bool torn = false;

		if (!base_view_read(&copy, &reader->run->shared, sizeof(copy))) {
			reader->busy++;
			sched_yield();
			continue;
		}
		reader->read++;
		if (copy.word[0] == 0)
			continue;
		for (unsigned i = 1; i < WORDS; i++)
			torn |= copy.word[i] != value_of(copy.word[0], i);
		reader->torn += torn;
		reader->backwards += copy.word[0] < last;
		last = copy.word[0];
		if (reader->read % YIELD_EVERY == 0)
			sched_yield();
	}
	return NULL;
}

/* Runs for a while, or until something torn was seen where that is what is wanted. */
static struct reader run_once(bool careless, int64_t longest_ns)
{
	static struct run run;
	struct reader readers[READERS], sum = { 0 };
	const int64_t until_ns = base_monotonic_ns() + longest_ns;
	pthread_t writer;

	memset(&run, 0, sizeof(run));
	run.careless = careless;
	assert_int_equal(pthread_create(&writer, NULL, write_all, &run), 0);
	for (unsigned i = 0; i < READERS; i++) {
		readers[i] = (struct reader){ .run = &run };
		assert_int_equal(pthread_create(&readers[i].thread, NULL, read_all, &readers[i]), 0);
	}
	while (base_monotonic_ns() < until_ns)
		sched_yield();
	atomic_store(&run.stop, 1);
	pthread_join(writer, NULL);
	for (unsigned i = 0; i < READERS; i++) {
		pthread_join(readers[i].thread, NULL);
		sum.read += readers[i].read;
		sum.torn += readers[i].torn;
		sum.busy += readers[i].busy;
		sum.backwards += readers[i].backwards;
	}
	print_message("# %s: %llu written, %llu read, %llu torn, %llu times too busy\n", careless ? "careless" : "careful",
		(unsigned long long)run.written, (unsigned long long)sum.read, (unsigned long long)sum.torn,
		(unsigned long long)sum.busy);
	return sum;
}

static void copies_are_of_one_moment(void **state)
{
	const struct reader sum = run_once(false, RUN_NS);

	(void)state;
	assert_true(sum.read > 1000);
	assert_int_equal(sum.torn, 0);
	assert_int_equal(sum.backwards, 0);
}

static void a_careless_writer_is_found_out(void **state)
{
	uint64_t torn = 0;

	(void)state;
	for (int64_t spent_ns = 0; torn == 0 && spent_ns < LONGEST_NS; spent_ns += RUN_NS / 4)
		torn = run_once(true, RUN_NS / 4).torn;
	assert_true(torn > 0);
}

static void a_writer_that_died_hangs_nobody(void **state)
{
	struct run run = { .careless = false };
	struct record copy;

	(void)state;
	write_once(&run, 8);
	assert_true(base_view_read(&copy, &run.shared, sizeof(copy)));
	assert_int_equal(copy.word[0], 8);
	base_view_begin(&run.shared.word[0], 10);
	assert_false(base_view_read(&copy, &run.shared, sizeof(copy)));
	base_view_end(&run.shared.word[0], 10);
	assert_true(base_view_read(&copy, &run.shared, sizeof(copy)));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(copies_are_of_one_moment),
		cmocka_unit_test(a_careless_writer_is_found_out),
		cmocka_unit_test(a_writer_that_died_hangs_nobody),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
