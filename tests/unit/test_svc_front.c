/*
 * The front by itself: a client's rings on one side, a device's queues on the other, both played by
 * the test.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base_error.h"
#include "service/svc_front.h"
#include "shm-ipc/shm_attach.h"
#include "shm-ipc/shm_bell.h"
#include "shm-ipc/shm_view.h"

enum { QUEUE = 1024, SLOTS = 16, IN_FLIGHT = 8 };

struct rig {
	struct base_clock clock;
	struct base_spsc to_device, from_device, to_text, from_text, commands, events;
	struct svc_front *front;
	struct svc_rings *rings;
	struct shm_client_end end;
};

static int set_up(void **state)
{
	struct rig *rig = calloc(1, sizeof(*rig));
	struct svc_front_options options = { .clock = &rig->clock, .clients_max = 4, .device_count = 1 };
	const struct shm_segment_options segment = { .submission_slots = 2 * SLOTS,
		.completion_slots = SLOTS,
		.arena_bytes = 1 << 16,
		.max_in_flight = IN_FLIGHT,
		.node = -1,
		.devices = 1,
		.timelines = 8 };

	base_clock_init_fake(&rig->clock, 1000);
	assert_int_equal(base_spsc_create(&rig->to_device, QUEUE, sizeof(struct sched_message)), 0);
	assert_int_equal(base_spsc_create(&rig->from_device, QUEUE, sizeof(struct sched_reply)), 0);
	assert_int_equal(base_spsc_create(&rig->to_text, QUEUE, sizeof(struct sched_message)), 0);
	assert_int_equal(base_spsc_create(&rig->from_text, QUEUE, sizeof(struct sched_reply)), 0);
	assert_int_equal(base_spsc_create(&rig->commands, 16, sizeof(struct svc_command)), 0);
	assert_int_equal(base_spsc_create(&rig->events, 16, sizeof(struct svc_event)), 0);
	options.to_device[0] = &rig->to_device;
	options.from_device[0] = &rig->from_device;
	options.to_text = &rig->to_text;
	options.from_text = &rig->from_text;
	options.commands = &rig->commands;
	options.events = &rig->events;
	assert_int_equal(svc_front_create(&rig->front, &options), 0);
	rig->rings = calloc(1, sizeof(*rig->rings));
	assert_int_equal(shm_segment_create(&rig->rings->segment, &segment), 0);
	assert_int_equal(shm_daemon_end_create(&rig->rings->end, &rig->rings->segment, 0, 0), 0);
	const struct shm_connection connection = { .socket = -1,
		.bell_fd = -1,
		.write_memory = rig->rings->segment.write_memory,
		.read_memory = rig->rings->segment.read_memory,
		.head = rig->rings->segment.head };
	const struct svc_command add = { .kind = SVC_CLIENT_ADD, .client = 0, .rings = rig->rings };

	shm_client_end_init(&rig->end, &connection);
	base_spsc_push(&rig->commands, &add);
	svc_front_poll(rig->front);
	*state = rig;
	return 0;
}

static int tear_down(void **state)
{
	struct rig *rig = *state;

	svc_front_destroy(rig->front);
	shm_daemon_end_destroy(&rig->rings->end);
	shm_segment_destroy(&rig->rings->segment);
	base_spsc_destroy(&rig->events);
	base_spsc_destroy(&rig->commands);
	base_spsc_destroy(&rig->from_text);
	base_spsc_destroy(&rig->to_text);
	base_spsc_destroy(&rig->from_device);
	base_spsc_destroy(&rig->to_device);
	free(rig->rings);
	free(rig);
	return 0;
}

/* The next message of this kind that the front sent to a queue; false: none. */
static bool next_message(struct base_spsc *queue, uint32_t kind, struct sched_message *message)
{
	const struct sched_message *at;
	bool found = false;

	while (!found && (at = base_spsc_peek(queue))) {
		*message = *at;
		found = at->kind == kind;
		base_spsc_release(queue);
	}
	return found;
}

static void send(struct rig *rig, struct attnd_request request)
{
	request.version = request.version ? request.version : ATTND_VERSION;
	assert_true(shm_sub_put(&rig->end, &request));
}

static void reply(struct base_spsc *queue, uint64_t id, bool final)
{
	const struct sched_reply element = { .kind = SCHED_COMPLETION,
		.completion = { .request_id = id, .flags = final ? ATTND_CPL_FINAL : 0 } };

	assert_true(base_spsc_push(queue, &element));
}

/* The scheduler learns where the client sees its requests; the text role, which shows none, does not. */
static void test_timelines(void **state)
{
	struct rig *rig = *state;
	struct sched_message message;

	assert_true(next_message(&rig->to_device, SCHED_CLIENT_ADD, &message));
	assert_ptr_equal(message.out, shm_view_own_device(rig->rings->segment.view, 0));
	assert_int_equal(message.slots, 8);
	assert_int_equal(message.credits, rig->rings->end.streams_max);
	assert_true(next_message(&rig->to_text, SCHED_CLIENT_ADD, &message));
	assert_null(message.out);
}

/* Consumed streams that the look before a sleep has reclaimed become credits all the same: without
 * them the client's next stream would park for ever, and the front would never sleep. */
static void test_early_credits(void **state)
{
	struct rig *rig = *state;
	struct attnd_completion completion;
	struct sched_message message;
	uint32_t streams = rig->rings->end.streams_max, taken = 0;

	send(rig, (struct attnd_request){ .op = ATTND_OP_GENERATE, .request_id = 1 });
	svc_front_poll(rig->front);
	assert_true(next_message(&rig->to_device, SCHED_REQUEST, &message));
	for (uint32_t i = 0; i < streams; i++)
		reply(&rig->from_device, 1, false);
	svc_front_poll(rig->front);
	while (shm_cpl_take(&rig->end, &completion))
		taken++;
	assert_int_equal(taken, streams);
	shm_client_publish(&rig->end);
	assert_true(svc_front_sleep_begin(rig->front)); /* it sees them, and does not sleep */
	svc_front_sleep_end(rig->front);
	svc_front_poll(rig->front);
	assert_true(next_message(&rig->to_device, SCHED_CREDIT, &message));
	assert_int_equal(message.credits, streams);
	assert_false(svc_front_sleep_begin(rig->front));
	svc_front_sleep_end(rig->front);
}

/* One client's texts do not fill the queue that all share. */
static void test_text_is_bounded(void **state)
{
	struct rig *rig = *state;
	struct sched_message message;
	struct attnd_completion completion;
	uint32_t sent = IN_FLIGHT, passed = 0, refused = 0;

	for (int round = 0; round < 3; round++) {
		for (uint32_t i = 0; i < sent; i++)
			send(rig, (struct attnd_request){ .op = ATTND_OP_TOKENIZE, .request_id = i });
		svc_front_poll(rig->front);
		svc_front_poll(rig->front);
		while (next_message(&rig->to_text, SCHED_REQUEST, &message))
			passed++;
		while (shm_cpl_take(&rig->end, &completion))
			refused += completion.status == ATTND_QUEUE_FULL;
		shm_client_publish(&rig->end);
		sent = refused ? 0 : 1;
	}
	assert_int_equal(passed, 8);
	for (uint32_t i = 0; i < passed; i++)
		reply(&rig->from_text, i, true);
	svc_front_poll(rig->front);
	while (shm_cpl_take(&rig->end, &completion))
		assert_int_equal(completion.status, ATTND_OK);
	shm_client_publish(&rig->end);
	send(rig, (struct attnd_request){ .op = ATTND_OP_TOKENIZE, .request_id = 9 });
	svc_front_poll(rig->front);
	assert_true(next_message(&rig->to_text, SCHED_REQUEST, &message)); /* there is room again */
}

static void expect_refusal(struct rig *rig, struct attnd_request request, unsigned status)
{
	struct attnd_completion completion;
	struct sched_message message;

	request.request_id = 77;
	send(rig, request);
	svc_front_poll(rig->front);
	assert_true(shm_cpl_take(&rig->end, &completion));
	assert_int_equal(completion.status, status);
	assert_int_equal(completion.request_id, 77);
	assert_int_equal(completion.flags, ATTND_CPL_FINAL);
	assert_false(next_message(&rig->to_device, SCHED_REQUEST, &message));
	shm_client_publish(&rig->end);
}

static void test_bad_records(void **state)
{
	struct rig *rig = *state;

	expect_refusal(rig, (struct attnd_request){ .op = ATTND_OP_NOP, .version = 9 }, ATTND_BAD_RECORD);
	expect_refusal(rig, (struct attnd_request){ .op = ATTND_OP_NOP, .reserved = 1 }, ATTND_BAD_RECORD);
	expect_refusal(rig, (struct attnd_request){ .op = ATTND_OP_NOP, .flags = 0x80 }, ATTND_BAD_RECORD);
	expect_refusal(rig, (struct attnd_request){ .op = ATTND_OP_NOP, .priority_class = 3 },
		ATTND_BAD_RECORD);
	expect_refusal(rig, (struct attnd_request){ .op = 0 }, ATTND_BAD_OP);
	expect_refusal(rig, (struct attnd_request){ .op = ATTND_OP_END }, ATTND_BAD_OP);
	expect_refusal(rig,
		(struct attnd_request){ .op = ATTND_OP_NOP, .in_offset = UINT32_MAX, .in_bytes = 1 },
		ATTND_BAD_RANGE);
	expect_refusal(rig,
		(struct attnd_request){ .op = ATTND_OP_NOP, .out_offset = 1, .out_capacity = 1 << 16 },
		ATTND_BAD_RANGE);
}

/* A client that leaves is quiet only when the device and the text role have both let go. */
static void test_leaving(void **state)
{
	struct rig *rig = *state;
	const struct svc_command leave = { .kind = SVC_CLIENT_REMOVE, .client = 0 };
	const struct sched_reply quiet = { .kind = SCHED_CLIENT_QUIESCED, .client = 0 };
	struct sched_message message;

	base_spsc_push(&rig->commands, &leave);
	svc_front_poll(rig->front);
	assert_true(next_message(&rig->to_device, SCHED_CLIENT_GONE, &message));
	assert_true(next_message(&rig->to_text, SCHED_CLIENT_GONE, &message));
	base_spsc_push(&rig->from_device, &quiet);
	reply(&rig->from_text, 5, true); /* too late: dropped, and counted */
	svc_front_poll(rig->front);
	assert_null(base_spsc_peek(&rig->events));
	base_spsc_push(&rig->from_text, &quiet);
	svc_front_poll(rig->front);
	assert_non_null(base_spsc_peek(&rig->events));
	assert_int_equal(atomic_load(&svc_front_counters(rig->front)->dropped), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_timelines, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_early_credits, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_text_is_bounded, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_bad_records, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_leaving, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
