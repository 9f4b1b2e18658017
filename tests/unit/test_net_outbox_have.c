/*
 * Long messages whose parts may get lost: no more is under way than is allowed, only what is missing is sent again, short messages pass
 * by, and nothing is left behind whatever the other side says.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base_rand.h"
#include "netio/net_outbox.h"

enum { WINDOW = 16, UNITS = 2000, LIMIT_FIRST = 64, LIMIT_LEAST = 16, LIMIT_MOST = 1024 };

static uint32_t blocks_out;

static void *take(void *context, uint32_t bytes)
{
	(void)context;
	blocks_out++;
	return malloc(bytes);
}

static void give(void *context, void *block)
{
	(void)context;
	blocks_out--;
	free(block);
}

static const struct net_blocks blocks = { NULL, take, give };

static struct net_outbox *outbox;
static uint32_t sent[WINDOW + 1][UNITS]; /* how often each unit of a message was */
static uint32_t records[WINDOW + 1];

static void start(bool limited)
{
	memset(sent, 0, sizeof(sent));
	memset(records, 0, sizeof(records));
	assert_int_equal(net_outbox_create(&outbox, WINDOW, UINT64_MAX, &blocks, NULL), 0);
	net_outbox_limit(outbox, limited);
}

static void stop(void)
{
	net_outbox_destroy(outbox);
	assert_int_equal(blocks_out, 0);
}

static uint32_t add(uint32_t units)
{
	const struct attnd_completion record = { .result_bytes = units * NET_UNIT_BYTES };

	return net_outbox_add(outbox, &record, units > 0 ? memset(take(NULL, units * NET_UNIT_BYTES), 1, units * NET_UNIT_BYTES) : NULL,
		units * NET_UNIT_BYTES);
}

/* A packet's worth. How many units it had; those up to lose_to, from lose_from on, of every message, do not count. */
static uint32_t send_one(size_t room)
{
	static _Alignas(8) unsigned char body[NET_BODY_BYTES_MAX];
	struct net_writer writer = { body, body + room };
	struct net_reader reader = { body, body };
	struct net_chunk chunk;
	struct net_part part;
	uint32_t units = 0;

	(void)net_outbox_fill(outbox, NET_REPLY, &writer);
	reader.end = writer.at;
	while (net_chunk_next(&reader, &chunk) == 1) {
		assert_int_equal(net_part_read(&chunk, &part), 0);
		records[part.number] += part.record != NULL;
		for (uint32_t at = 0; at < part.bytes; at += NET_UNIT_BYTES, units++)
			sent[part.number][(part.offset + at) / NET_UNIT_BYTES]++;
	}
	return units;
}

static uint32_t send_all(size_t room)
{
	uint32_t units = 0;

	while (net_outbox_waiting(outbox))
		units += send_one(room);
	assert_int_equal(send_one(room), 0);
	return units;
}

static int have(uint32_t number, uint32_t first, uint64_t bits)
{
	const struct net_have said = { .number = number, .first = first, .words = bits ? 1 : 0, .bitmap = { bits } };

	return net_outbox_have(outbox, &said);
}

static int come(uint32_t number)
{
	return net_outbox_come(outbox, &(struct net_come){ .number = number });
}

/* ---- how much is under way ---------------------------------------------------------------------------------- */

static void without_a_limit_all_goes_out(void **state)
{
	(void)state;
	start(false);
	add(UNITS);
	assert_int_equal(send_all(NET_BODY_BYTES_LEAST), UNITS);
	stop();
}

static void it_grows_while_nothing_is_lost(void **state)
{
	uint32_t all = 0;

	(void)state;
	start(true);
	add(UNITS);
	for (uint32_t limit = LIMIT_FIRST; all < UNITS; limit = 2 * limit < LIMIT_MOST ? 2 * limit : LIMIT_MOST) {
		const uint32_t units = send_all(NET_BODY_BYTES_LEAST);

		assert_int_equal(units, limit < UNITS - all ? limit : UNITS - all);
		all += units;
		if (all < UNITS)
			assert_int_equal(have(1, all, 0), NET_HAVE_MORE);
	}
	for (uint32_t i = 0; i < UNITS; i++)
		assert_int_equal(sent[1][i], 1);
	assert_int_equal(come(1), 0);
	stop();
}

static void it_halves_where_something_is(void **state)
{
	static const uint32_t limits[] = { 64, 32, 16, 16, 16 };

	(void)state;
	start(true);
	add(UNITS);
	for (size_t i = 0; i < sizeof(limits) / sizeof(*limits); i++) {
		assert_int_equal(send_all(NET_BODY_BYTES_LEAST), limits[i]);
		net_outbox_resend(outbox);
	}
	/* And grows by little then. */
	for (uint32_t i = 0, first = 0; i < 10; i++) {
		const uint32_t units = send_all(NET_BODY_BYTES_LEAST);

		assert_in_range(units, LIMIT_LEAST + 8 * i, LIMIT_LEAST + 8 * (i + 1));
		first += units;
		assert_int_equal(have(1, first, 0), NET_HAVE_MORE);
	}
	stop();
}

static void short_ones_pass_by(void **state)
{
	(void)state;
	start(true);
	add(500);
	assert_int_equal(send_all(NET_BODY_BYTES_LEAST), LIMIT_FIRST);
	assert_false(net_outbox_waiting(outbox));
	add(0);
	add(1);
	add(300);
	assert_true(net_outbox_waiting(outbox));
	assert_int_equal(send_all(NET_BODY_BYTES_LEAST), 2); /* of the long one what lies in its first packet */
	assert_int_equal(records[2] + records[3] + records[4], 3);
	/* Room for one is room for the others. */
	assert_int_equal(net_outbox_come(outbox, &(struct net_come){ .number = 0, .words = 1, .bitmap = { 2 | 4 } }), 0);
	assert_int_equal(have(1, 64, 0), NET_HAVE_MORE);
	assert_true(send_all(NET_BODY_BYTES_LEAST) >= 64);
	assert_true(sent[4][20] == 1 && sent[1][80] == 1);
	assert_int_equal(come(4), 0);
	stop();
}

/* ---- holes -------------------------------------------------------------------------------------------------- */

static void only_holes_are_filled(void **state)
{
	(void)state;
	start(true);
	add(60);
	assert_int_equal(send_all(NET_BODY_BYTES_MAX), 60);
	/* 10, 12 and 13 are lost, and from 40 on it is not known. */
	assert_int_equal(have(1, 10, ((UINT64_C(1) << 29) - 1) & ~UINT64_C(6)), NET_HAVE_MORE | NET_HAVE_HOLES);
	assert_false(net_outbox_waiting(outbox));
	net_outbox_again(outbox, 1);
	assert_int_equal(send_all(NET_BODY_BYTES_MAX), 3);
	for (uint32_t i = 0; i < 60; i++)
		assert_int_equal(sent[1][i], i == 10 || i == 12 || i == 13 ? 2 : 1);
	assert_int_equal(have(1, 40, 0), NET_HAVE_MORE);
	net_outbox_again(outbox, 1); /* there are none */
	assert_false(net_outbox_waiting(outbox));
	/* All that is missing. */
	net_outbox_resend(outbox);
	assert_int_equal(send_all(NET_BODY_BYTES_MAX), 20);
	assert_int_equal(records[1], 1);
	assert_int_equal(come(1), 0);
	stop();
}

/* Holes do not wait for what is under way, and behind them it goes on where it was. */
static void it_goes_on_behind_the_holes(void **state)
{
	(void)state;
	start(true);
	add(200);
	assert_int_equal(send_all(NET_BODY_BYTES_LEAST), LIMIT_FIRST);
	assert_int_equal(have(1, 0, 6), NET_HAVE_MORE | NET_HAVE_HOLES); /* 2 and 3: 62 may be under way */
	net_outbox_again(outbox, 1);
	assert_int_equal(send_all(NET_BODY_BYTES_LEAST), 2); /* 0 and 1; the limit is 33 now */
	assert_int_equal(records[1], 2);
	assert_int_equal(have(1, 60, 0), NET_HAVE_MORE);
	assert_true(send_all(NET_BODY_BYTES_LEAST) > 20);
	assert_int_equal(sent[1][63], 1);
	assert_int_equal(sent[1][64], 1);
	assert_int_equal(come(1), 0);
	stop();
}

/* What was missing turns out to have been late. */
static void holes_that_are_none_any_more(void **state)
{
	(void)state;
	start(true);
	add(200);
	assert_int_equal(send_all(NET_BODY_BYTES_LEAST), LIMIT_FIRST);
	assert_int_equal(have(1, 2, 4), NET_HAVE_MORE | NET_HAVE_HOLES);
	net_outbox_again(outbox, 1);
	assert_int_equal(have(1, 60, 0), NET_HAVE_MORE); /* far behind where they ended */
	assert_true(send_all(NET_BODY_BYTES_LEAST) > 0);
	for (uint32_t i = 0; i < 70; i++)
		assert_int_equal(sent[1][i], 1);
	assert_int_equal(come(1), 0);
	stop();
}

/* More long messages than can be remembered: the others are sent again as a whole, from what is missing on. */
static void more_than_can_be_remembered(void **state)
{
	(void)state;
	start(false);
	for (uint32_t number = 1; number <= WINDOW; number++)
		assert_int_equal(add(100), number);
	send_all(NET_BODY_BYTES_MAX);
	for (uint32_t number = 1; number <= WINDOW; number++)
		assert_true(have(number, 50, UINT64_C(1) << 20) >= 0);
	for (uint32_t number = 1; number <= WINDOW; number++)
		net_outbox_again(outbox, number);
	send_all(NET_BODY_BYTES_MAX);
	net_outbox_resend(outbox);
	send_all(NET_BODY_BYTES_MAX);
	for (uint32_t number = 1; number <= WINDOW; number++) {
		assert_int_equal(sent[number][49], 1);
		assert_true(sent[number][50] >= 2);
		assert_true(sent[number][99] >= 2);
	}
	assert_int_equal(come(WINDOW), 0);
	stop();
}

static void words_for_what_was_never_there(void **state)
{
	(void)state;
	start(true);
	assert_int_equal(have(1, 0, 0), -EPROTO);
	add(10);
	add(0);
	assert_int_equal(have(1, 10, 0), -EPROTO);
	assert_int_equal(have(1, UINT32_MAX, UINT64_MAX), -EPROTO);
	assert_int_equal(have(2, 0, 0), -EPROTO); /* it has nothing to be missing */
	assert_int_equal(have(3, 0, 0), -EPROTO);
	assert_int_equal(have(0, 0, 0), 0); /* one that is gone */
	net_outbox_again(outbox, 7);
	send_all(NET_BODY_BYTES_MAX);
	assert_int_equal(have(1, 8, UINT64_MAX), NET_HAVE_MORE | NET_HAVE_HOLES); /* beyond its end, too */
	net_outbox_again(outbox, 1);
	send_all(NET_BODY_BYTES_MAX);
	assert_int_equal(have(1, 4, 0), 0); /* said before that */
	/* Units that were never sent. */
	assert_int_equal(add(500), 3);
	send_one(NET_BODY_BYTES_LEAST);
	assert_true(have(3, 400, UINT64_C(1) << 50) >= 0);
	net_outbox_again(outbox, 3);
	send_all(NET_BODY_BYTES_LEAST);
	net_outbox_resend(outbox);
	send_all(NET_BODY_BYTES_LEAST);
	assert_int_equal(sent[3][300], 0);
	assert_true(sent[3][400] > 0);
	assert_int_equal(come(3), 0);
	assert_int_equal(have(3, 1, 0), 0);
	stop();
}

/* Whatever is said, in any order, sending comes to an end, and what is not known to have come is sent again by resend. */
static void anything_may_be_said(void **state)
{
	uint64_t seed = 3;

	(void)state;
	for (int round = 0; round < 200; round++) {
		uint32_t first = 1;

		start(round % 2);
		for (uint32_t i = 0; i < WINDOW; i++)
			add((uint32_t)base_rand_below(&seed, 300));
		for (int step = 0; step < 300; step++) {
			struct net_have said = { .number = first + (uint32_t)base_rand_below(&seed, WINDOW + 2),
				.first = (uint32_t)base_rand_below(&seed, 300), .words = (uint32_t)base_rand_below(&seed, 6) };

			for (uint32_t i = 0; i < said.words; i++)
				said.bitmap[i] = base_rand_next(&seed) & base_rand_next(&seed);
			switch (base_rand_below(&seed, 6)) {
			case 0: (void)net_outbox_have(outbox, &said); break;
			case 1: net_outbox_again(outbox, said.number); break;
			case 2: net_outbox_resend(outbox); break;
			case 3:
				if (base_rand_below(&seed, 10) == 0 && first <= WINDOW)
					assert_int_equal(come(first++), 0);
				break;
			default: (void)send_one(NET_BODY_BYTES_LEAST + base_rand_below(&seed, 10000));
			}
		}
		send_all(NET_BODY_BYTES_MAX);
		assert_int_equal(come(WINDOW), 0);
		assert_false(net_outbox_waiting(outbox));
		stop();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(without_a_limit_all_goes_out),
		cmocka_unit_test(it_grows_while_nothing_is_lost),
		cmocka_unit_test(it_halves_where_something_is),
		cmocka_unit_test(short_ones_pass_by),
		cmocka_unit_test(only_holes_are_filled),
		cmocka_unit_test(it_goes_on_behind_the_holes),
		cmocka_unit_test(holes_that_are_none_any_more),
		cmocka_unit_test(more_than_can_be_remembered),
		cmocka_unit_test(words_for_what_was_never_there),
		cmocka_unit_test(anything_may_be_said),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
