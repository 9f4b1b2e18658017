/*
 * The queue between two roles: order, full and empty, and contents across two threads.
 */
#include "base/base_spsc.h"

#include "base/base_error.h"
#include "base/base_rand.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { PASSED = 200000 };

struct element {
	uint64_t number;
	uint64_t check[3];
};

static void test_one_thread(void **state)
{
	struct base_spsc queue;
	uint32_t value = 0;

	(void)state;
	assert_int_equal(base_spsc_create(&queue, 3, sizeof(value)), 0);
	assert_null(base_spsc_peek(&queue));
	for (uint32_t round = 0; round < 10; round++) {
		for (value = 0; value < 4; value++)
			assert_true(base_spsc_push(&queue, &value));
		assert_int_equal(base_spsc_count(&queue), 4);
		assert_false(base_spsc_push(&queue, &value));
		assert_null(base_spsc_claim(&queue));
		for (value = 0; value < 4; value++) {
			uint32_t *seen = base_spsc_peek(&queue);

			assert_non_null(seen);
			assert_int_equal(*seen, value);
			base_spsc_release(&queue);
		}
		assert_null(base_spsc_peek(&queue));
	}
	base_spsc_destroy(&queue);
}

static void test_claim_shows_nothing_before_publish(void **state)
{
	struct base_spsc queue;

	(void)state;
	assert_int_equal(base_spsc_create(&queue, 4, 8), 0);
	assert_non_null(base_spsc_claim(&queue));
	assert_null(base_spsc_peek(&queue));
	base_spsc_publish(&queue);
	assert_non_null(base_spsc_peek(&queue));
	base_spsc_destroy(&queue);
}

static void test_room(void **state)
{
	struct base_spsc queue;
	uint64_t value = 0;

	(void)state;
	assert_int_equal(base_spsc_create(&queue, 4, sizeof(value)), 0);
	assert_true(base_spsc_room(&queue, 4));
	assert_false(base_spsc_room(&queue, 5));
	for (int i = 0; i < 3; i++)
		assert_true(base_spsc_push(&queue, &value));
	assert_true(base_spsc_room(&queue, 1));
	assert_false(base_spsc_room(&queue, 2));
	assert_non_null(base_spsc_peek(&queue));
	base_spsc_release(&queue);
	assert_true(base_spsc_room(&queue, 2));
	assert_false(base_spsc_room(&queue, 3));
	base_spsc_destroy(&queue);
}

static void test_impossible_sizes(void **state)
{
	struct base_spsc queue;

	(void)state;
	assert_int_equal(base_spsc_create(&queue, 0, 8), -EINVAL);
	assert_int_equal(base_spsc_create(&queue, 8, 0), -EINVAL);
	assert_int_equal(base_spsc_create(&queue, SIZE_MAX / 2, 64), -EINVAL);
	base_spsc_destroy(&queue);
}

static struct element make_element(uint64_t number)
{
	uint64_t state = number;
	struct element element = {.number = number};

	for (int i = 0; i < 3; i++)
		element.check[i] = base_rand_next(&state);
	return element;
}

static void *produce(void *argument)
{
	struct base_spsc *queue = argument;

	for (uint64_t i = 0; i < PASSED; i++) {
		struct element element = make_element(i);

		while (!base_spsc_push(queue, &element))
			sched_yield();
	}
	return NULL;
}

static void test_two_threads(void **state)
{
	struct base_spsc queue;
	pthread_t producer;
	uint64_t wrong = 0;

	(void)state;
	assert_int_equal(base_spsc_create(&queue, 64, sizeof(struct element)), 0);
	assert_int_equal(pthread_create(&producer, NULL, produce, &queue), 0);
	for (uint64_t i = 0; i < PASSED; i++) {
		struct element expected = make_element(i), *seen;

		while (!(seen = base_spsc_peek(&queue)))
			sched_yield();
		wrong += memcmp(seen, &expected, sizeof(expected)) != 0;
		base_spsc_release(&queue);
	}
	pthread_join(producer, NULL);
	assert_int_equal(wrong, 0);
	assert_int_equal(base_spsc_count(&queue), 0);
	base_spsc_destroy(&queue);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_one_thread),
		cmocka_unit_test(test_claim_shows_nothing_before_publish),
		cmocka_unit_test(test_room),
		cmocka_unit_test(test_impossible_sizes),
		cmocka_unit_test(test_two_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
