/*
 * Messages out of parts: whatever comes late, twice or not at all for a while, each message comes out whole, once, and in order.
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
#include "netio/net_inbox.h"

enum { WINDOW = 16, MESSAGE_MAX = 20000 };

static uint32_t blocks_out, blocks_most;

static void *take(void *context, uint32_t bytes)
{
	(void)context;
	if (blocks_out == blocks_most)
		return NULL;
	blocks_out++;
	return malloc(bytes);
}

static void give(void *context, void *block)
{
	(void)context;
	blocks_out--;
	free(block);
}

static struct net_inbox *inbox;

static void start(void)
{
	const struct net_blocks blocks = { NULL, take, give };

	blocks_out = 0;
	blocks_most = UINT32_MAX;
	assert_int_equal(net_inbox_create(&inbox, WINDOW, MESSAGE_MAX, &blocks, NULL), 0);
}

static void stop(void)
{
	net_inbox_destroy(inbox);
	assert_int_equal(blocks_out, 0);
}

/* Message n has bytes and contents that follow from n. */
static uint32_t bytes_of(uint32_t number)
{
	uint64_t seed = number;

	return base_rand_next(&seed) % 4 == 0 ? 0 : (uint32_t)(base_rand_next(&seed) % MESSAGE_MAX);
}

static void contents_of(uint32_t number, unsigned char *to)
{
	uint64_t seed = number * UINT64_C(77) + 1;

	for (uint32_t i = 0; i < bytes_of(number); i++)
		to[i] = (unsigned char)base_rand_next(&seed);
}

static uint32_t parts_of(uint32_t number)
{
	return bytes_of(number) / NET_UNIT_BYTES + 1;
}

/* Part i of a message: the record and nothing else, or a unit. */
static int put(uint32_t number, uint32_t i)
{
	static unsigned char record[NET_RECORD_BYTES], contents[MESSAGE_MAX];
	struct net_part part = { .number = number, .message_bytes = bytes_of(number) };

	contents_of(number, contents);
	memset(record, (int)number, sizeof(record));
	if (i == 0 || part.message_bytes == 0) {
		part.record = record;
		part.bytes = part.message_bytes < NET_UNIT_BYTES ? part.message_bytes : NET_UNIT_BYTES;
	} else {
		part.offset = i * NET_UNIT_BYTES;
		part.bytes = part.message_bytes - part.offset < NET_UNIT_BYTES ? part.message_bytes - part.offset : NET_UNIT_BYTES;
	}
	part.payload = contents + part.offset;
	return part.bytes == 0 && i > 0 ? NET_PART_AGAIN : net_inbox_part(inbox, &part);
}

static void check_next(uint32_t number)
{
	static unsigned char contents[MESSAGE_MAX];
	struct net_inbox_message message;

	assert_true(net_inbox_next(inbox, &message));
	assert_int_equal(message.number, number);
	assert_int_equal(message.bytes, bytes_of(number));
	assert_int_equal(message.record[63], number & 255);
	contents_of(number, contents);
	if (message.bytes > 0) {
		assert_memory_equal(message.payload, contents, message.bytes);
		give(NULL, message.payload);
	} else {
		assert_null(message.payload);
	}
}

static bool says(const struct net_come *come, uint32_t number)
{
	const uint32_t bit = number - come->number - 1;

	return number - 1 < come->number || (bit / 64 < come->words && come->bitmap[bit / 64] >> bit % 64 & 1);
}

/* Of message n these parts have come. */
typedef bool come_parts[WINDOW][MESSAGE_MAX / NET_UNIT_BYTES + 1];

/* What is said of messages that are not whole, against what has come. */
static void check_haves(uint32_t next, come_parts come)
{
	struct net_have have;
	uint32_t ahead = 0;

	for (uint32_t n = next; n < next + WINDOW; n++) {
		const uint32_t units = (bytes_of(n) + NET_UNIT_BYTES - 1) / NET_UNIT_BYTES;
		uint32_t count = 0;

		for (uint32_t i = 0; i < units; i++)
			count += come[n % WINDOW][i];
		if (count == 0 || count == units)
			continue;
		assert_true(net_inbox_have(inbox, &ahead, &have));
		assert_int_equal(have.number, n);
		for (uint32_t i = 0; i < units; i++) {
			const uint32_t bit = i - have.first - 1;
			const bool said = i < have.first ||
				(i > have.first && bit / 64 < have.words && have.bitmap[bit / 64] >> bit % 64 & 1);

			assert_int_equal(said, come[n % WINDOW][i]);
		}
	}
	assert_false(net_inbox_have(inbox, &ahead, &have));
}

static void check_misses(uint32_t next, come_parts come)
{
	bool begun_later = false, misses = false;

	for (uint32_t n = next + WINDOW; n-- > next;) {
		bool begun = false;

		for (uint32_t i = 0; i < parts_of(n); i++)
			begun |= come[n % WINDOW][i] && (i == 0 || i * NET_UNIT_BYTES != bytes_of(n));
		misses |= !begun && begun_later;
		begun_later |= begun;
	}
	assert_int_equal(net_inbox_misses(inbox), misses);
}

static void a_random_walk(void **state)
{
	enum { MESSAGES = 2000 };
	uint64_t seed = 3;
	uint32_t next = 1, steps = 0;
	static come_parts come;

	(void)state;
	start();
	while (next <= MESSAGES) {
		const uint32_t number = next + (uint32_t)(base_rand_next(&seed) % WINDOW);
		const uint32_t i = (uint32_t)(base_rand_next(&seed) % parts_of(number));
		bool *had = &come[number % WINDOW][i], whole = true;
		struct net_inbox_message message;
		struct net_come said;
		int fate = put(number, i);

		if (i > 0 && i * NET_UNIT_BYTES == bytes_of(number))
			*had = true; /* no such part */
		else
			assert_int_equal(fate, *had ? NET_PART_AGAIN : NET_PART_KEPT);
		*had = true;
		net_inbox_come(inbox, &said);
		if (steps++ % 16 == 0) {
			check_haves(next, come);
			check_misses(next, come);
		}
		for (uint32_t n = next; n < next + WINDOW; n++) {
			bool all = true;

			for (uint32_t p = 0; p < parts_of(n); p++)
				all = all && (come[n % WINDOW][p] || (p > 0 && p * NET_UNIT_BYTES == bytes_of(n)));
			assert_int_equal(says(&said, n), all);
			whole = whole && (n > next || all);
		}
		if (!whole) {
			assert_false(net_inbox_next(inbox, &message));
			continue;
		}
		check_next(next);
		memset(come[next % WINDOW], 0, sizeof(come[0]));
		assert_int_equal(put(next, 0), NET_PART_AGAIN); /* delivered already */
		next++;
	}
	stop();
}

static void beyond_the_window(void **state)
{
	(void)state;
	start();
	assert_int_equal(put(WINDOW, 0), NET_PART_KEPT);
	assert_int_equal(put(WINDOW + 1, 0), -EPROTO);
	assert_int_equal(put(0, 0), NET_PART_AGAIN); /* one before the first */
	stop();
}

static void another_message_of_the_same_number(void **state)
{
	unsigned char bytes[NET_UNIT_BYTES] = { 0 };
	struct net_part part = { .number = 1, .record = bytes, .message_bytes = 3000, .bytes = 1024, .payload = bytes };

	(void)state;
	start();
	assert_int_equal(net_inbox_part(inbox, &part), NET_PART_KEPT);
	part.message_bytes = 3001;
	assert_int_equal(net_inbox_part(inbox, &part), -EPROTO);
	part.number = 2;
	part.message_bytes = MESSAGE_MAX + 1;
	assert_int_equal(net_inbox_part(inbox, &part), -EMSGSIZE);
	stop();
}

static void no_blocks_for_a_while(void **state)
{
	uint32_t number = 1;

	(void)state;
	start();
	for (; bytes_of(number) <= NET_UNIT_BYTES; number++) {
		put(number, 0);
		check_next(number);
	}
	blocks_most = blocks_out;
	assert_int_equal(put(number, 1), NET_PART_NO_BLOCK);
	blocks_most++;
	for (uint32_t i = 0; i < parts_of(number); i++)
		put(number, i);
	check_next(number);
	stop();
}

static void reset_gives_everything_back(void **state)
{
	(void)state;
	start();
	for (uint32_t n = 1; n <= WINDOW; n++)
		put(n, 0);
	net_inbox_reset(inbox);
	assert_int_equal(blocks_out, 0);
	assert_int_equal(put(1, 0), NET_PART_KEPT);
	stop();
}

static void refused_options(void **state)
{
	const struct net_blocks blocks = { NULL, take, give };

	(void)state;
	assert_int_equal(net_inbox_create(&inbox, 0, 100, &blocks, NULL), -EINVAL);
	assert_int_equal(net_inbox_create(&inbox, 12, 100, &blocks, NULL), -EINVAL);
	assert_int_equal(net_inbox_create(&inbox, 2 * NET_WINDOW_MAX, 100, &blocks, NULL), -EINVAL);
	assert_int_equal(net_inbox_create(&inbox, 16, NET_MESSAGE_BYTES_MAX + 1u, &blocks, NULL), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_random_walk),
		cmocka_unit_test(beyond_the_window),
		cmocka_unit_test(another_message_of_the_same_number),
		cmocka_unit_test(no_blocks_for_a_while),
		cmocka_unit_test(reset_gives_everything_back),
		cmocka_unit_test(refused_options),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
