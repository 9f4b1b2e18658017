/*
 * Streams by credits, of one device and of two; CANCEL, which names requests as devices do; and which device gets what.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "sched/sched_handle.h"
#include "tests/unit/net_front_rig.h"

/* ---- streams ---------------------------------------------------------------------------------------------- */

static uint32_t consume(struct front_client *client, uint64_t id)
{
	struct attnd_completion completion;
	uint32_t count = 0;

	front_hear(client);
	while (front_reply(client, &completion)) {
		assert_int_equal(completion.request_id, id);
		assert_int_equal(completion.flags, 0);
		assert_int_equal(completion.result_bytes, 0); /* what there is comes with the last one */
		count++;
	}
	return count;
}

static void credits(void **state)
{
	struct front_rig *rig = front_rig_create(&front_usual);
	struct front_client client;
	struct front_call call, none;
	uint32_t sequence = 0;

	(void)state;
	assert_true(front_connect(rig, &client, false, NET_CIPHER_CHACHA, 0));
	front_request(&client, (struct attnd_request){ .op = ATTND_OP_GENERATE, .request_id = 5, .position = 3, .out_capacity = 1000 }, 0);
	front_send(&client, 0);
	front_poll(rig);
	assert_true(front_next(rig, 0, &call));
	for (uint32_t round = 0; round < 10; round++) {
		while (front_stream(rig, &call, sequence))
			sequence++;
		front_poll(rig);
		assert_int_equal(sequence, 8 * (round + 1));
		assert_int_equal(consume(&client, 5), 8);
		assert_false(front_next(rig, 0, &none));
		assert_int_equal(rig->knows[0][0].credits, 0);
		front_ack(&client, 0);
		front_poll(rig);
		assert_false(front_next(rig, 0, &none));
		assert_int_equal(rig->knows[0][0].credits, 8);
	}
	front_final(rig, &call, ATTND_OK, 1000);
	front_poll(rig);
	front_expect(&client, 5, ATTND_OK, 1000);
	assert_int_equal(FRONT_COUNTER(rig, streams), 80);
	front_client_free(&client);
	front_rig_destroy(rig);
}

/* Each device gets back what it has spent. */
static void credits_of_two(void **state)
{
	struct front_limits limits = front_usual;
	struct front_rig *rig;
	struct front_client client;
	struct front_call calls[2], none;

	(void)state;
	limits.devices = 2;
	limits.streams = 9; /* four each, and one that nobody has */
	rig = front_rig_create(&limits);
	assert_true(front_connect(rig, &client, true, NET_CIPHER_CHACHA, 0));
	for (uint64_t i = 0; i < 2; i++)
		front_request(&client, (struct attnd_request){ .op = ATTND_OP_GENERATE, .request_id = 5, .session = i << SCHED_DEVICE_AT | 1 }, 0);
	front_send(&client, 0);
	front_poll(rig);
	assert_true(front_next(rig, 0, &calls[0]) && front_next(rig, 1, &calls[1]));
	assert_true(rig->knows[0][0].credits == 4 && rig->knows[1][0].credits == 4);
	for (uint32_t round = 0; round < 50; round++) {
		const uint32_t first = round % 5, second = round * 3 % 5;

		for (uint32_t i = 0; i < 4; i++) {
			if (i < first)
				assert_true(front_stream(rig, &calls[0], i));
			if (i < second)
				assert_true(front_stream(rig, &calls[1], i));
			if (round % 2)
				front_poll(rig);
		}
		front_poll(rig);
		assert_int_equal(consume(&client, 5), first + second);
		front_ack(&client, 0);
		front_poll(rig);
		assert_false(front_next(rig, 0, &none) || front_next(rig, 1, &none));
		assert_true(rig->knows[0][0].credits == 4 && rig->knows[1][0].credits == 4);
	}
	front_client_free(&client);
	front_rig_destroy(rig);
}

/* Credits that find a device's queue full are given when it is not, though nobody says anything more. */
static void credits_and_full_queues(void **state)
{
	struct front_limits limits = front_usual;
	struct front_rig *rig;
	struct front_client client, other;
	struct front_call call, first;

	(void)state;
	limits.in_flight = 64;
	limits.queue = 24;
	rig = front_rig_create(&limits);
	assert_true(front_connect(rig, &client, false, NET_CIPHER_CHACHA, 0));
	assert_true(front_connect(rig, &other, false, NET_CIPHER_CHACHA, 0));
	front_request(&client, (struct attnd_request){ .op = ATTND_OP_GENERATE, .request_id = 5 }, 0);
	front_send(&client, 0);
	front_poll(rig);
	assert_true(front_next(rig, 0, &first));
	while (front_stream(rig, &first, 0))
		;
	front_poll(rig);
	assert_int_equal(consume(&client, 5), 8);
	for (uint32_t i = 0; i < 30; i++)
		front_request(&other, (struct attnd_request){ .request_id = i }, 0);
	front_send(&other, 0);
	front_poll(rig);
	front_ack(&client, 0);
	front_poll(rig);
	while (front_next(rig, 0, &call))
		;
	assert_int_equal(rig->knows[0][0].credits, 0);
	front_poll(rig);
	assert_false(front_next(rig, 0, &call));
	assert_int_equal(rig->knows[0][0].credits, 8);
	front_client_free(&other);
	front_client_free(&client);
	front_rig_destroy(rig);
}

/* Who claims to have consumed what was never sent. */
static void credits_of_nothing(void **state)
{
	struct front_rig *rig = front_rig_create(&front_usual);
	struct front_client client;

	(void)state;
	assert_true(front_connect(rig, &client, true, NET_CIPHER_CHACHA, 0));
	client.consumed = UINT32_MAX; /* less than nothing: overtaken */
	front_ack(&client, 0);
	front_poll(rig);
	front_hear(&client);
	assert_false(client.closed);
	client.consumed = 1;
	front_ack(&client, 0);
	front_poll(rig);
	front_hear(&client);
	assert_true(client.closed);
	assert_int_equal(client.why, NET_WHY_PROTOCOL);
	assert_int_equal(FRONT_HOST_COUNTER(rig, broken), 1);
	front_client_free(&client);
	front_rig_destroy(rig);
}

/* ---- CANCEL, devices -------------------------------------------------------------------------------------- */

/* Devices know requests by the numbers of their calls. */
static void cancels(void **state)
{
	struct front_rig *rig = front_rig_create(&front_usual);
	struct front_client client;
	struct front_call calls[3], cancel;

	(void)state;
	assert_true(front_connect(rig, &client, false, NET_CIPHER_CHACHA, 0));
	for (uint64_t i = 0; i < 3; i++)
		front_request(&client, (struct attnd_request){ .request_id = 1000 + i }, 0);
	front_request(&client, (struct attnd_request){ .op = ATTND_OP_CANCEL, .request_id = 7, .args = 1001 }, 0);
	front_request(&client, (struct attnd_request){ .op = ATTND_OP_CANCEL, .request_id = 8, .args = 1 }, 0);
	front_send(&client, 0);
	front_poll(rig);
	for (uint32_t i = 0; i < 3; i++)
		assert_true(front_next(rig, 0, &calls[i]));
	assert_true(front_next(rig, 0, &cancel));
	assert_int_equal(cancel.message.record.args, calls[1].message.record.request_id);
	front_final(rig, &cancel, ATTND_OK, 0);
	assert_true(front_next(rig, 0, &cancel));
	assert_int_equal(cancel.message.record.args, UINT64_MAX);
	front_final(rig, &cancel, ATTND_OK, 0);
	front_final(rig, &calls[1], ATTND_CANCELLED, 0);
	front_poll(rig);
	front_expect(&client, 7, ATTND_OK, 0);
	front_expect(&client, 8, ATTND_OK, 0);
	front_expect(&client, 1001, ATTND_CANCELLED, 0);
	/* What is done is not there any more. */
	front_request(&client, (struct attnd_request){ .op = ATTND_OP_CANCEL, .request_id = 9, .args = 1001 }, 0);
	front_send(&client, 0);
	front_poll(rig);
	assert_true(front_next(rig, 0, &cancel));
	assert_int_equal(cancel.message.record.args, UINT64_MAX);
	front_client_free(&client);
	front_rig_destroy(rig);
}

static void goes_to_device(struct front_rig *rig, struct front_client *client, struct attnd_request record, uint32_t queue)
{
	struct front_call call;

	front_request(client, record, 0);
	front_send(client, 0);
	front_poll(rig);
	for (uint32_t i = 0; i < FRONT_QUEUES; i++)
		if (i != queue)
			assert_false(front_next(rig, i, &call));
	assert_true(front_next(rig, queue, &call));
	front_final(rig, &call, ATTND_OK, 0);
	front_poll(rig);
	front_expect(client, record.request_id, ATTND_OK, 0);
}

static void devices(void **state)
{
	struct front_limits limits = front_usual;
	struct front_rig *rig;
	struct front_client client;

	(void)state;
	limits.devices = 2;
	rig = front_rig_create(&limits);
	assert_true(front_connect(rig, &client, false, NET_CIPHER_CHACHA, 0));
	goes_to_device(rig, &client, (struct attnd_request){ .op = ATTND_OP_OPEN }, 0);
	goes_to_device(rig, &client, (struct attnd_request){ .op = ATTND_OP_OPEN }, 1);
	goes_to_device(rig, &client, (struct attnd_request){ .op = ATTND_OP_OPEN }, 0);
	goes_to_device(rig, &client, (struct attnd_request){ .op = ATTND_OP_NOP }, 0);
	goes_to_device(rig, &client, (struct attnd_request){ .op = ATTND_OP_STEP, .session = UINT64_C(1) << SCHED_DEVICE_AT }, 1);
	goes_to_device(rig, &client, (struct attnd_request){ .op = ATTND_OP_CANCEL, .session = UINT64_C(1) << SCHED_DEVICE_AT }, 1);
	goes_to_device(rig, &client, (struct attnd_request){ .op = ATTND_OP_STEP, .session = UINT64_MAX }, 1);
	goes_to_device(rig, &client, (struct attnd_request){ .op = ATTND_OP_DETOKENIZE, .session = UINT64_MAX }, FRONT_TEXT);
	front_client_free(&client);
	front_rig_destroy(rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(credits),
		cmocka_unit_test(credits_of_two),
		cmocka_unit_test(credits_and_full_queues),
		cmocka_unit_test(credits_of_nothing),
		cmocka_unit_test(cancels),
		cmocka_unit_test(devices),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
