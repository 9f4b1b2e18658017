/*
 * The text role between two fronts: replies come by their clients' lanes, in turns, and a front that does not drain holds up nobody
 * else. What it does with texts is tested with the tokenizers and the daemon.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "service/svc_text.h"

enum { QUEUE = 16, LANES = 2, EACH = 2 };

struct rig {
	struct base_clock clock;
	struct base_spsc in[LANES], out[LANES];
	uint64_t tenant_models[2];
	struct svc_text *text;
};

static int set_up(void **state)
{
	struct rig *rig = calloc(1, sizeof(*rig));
	struct svc_text_options options = {
		.clock = &rig->clock, .lane_count = LANES, .tenant_models = rig->tenant_models, .tenant_count = 2
	};

	base_clock_init_fake(&rig->clock, 1000);
	for (uint32_t i = 0; i < LANES; i++) {
		assert_int_equal(base_spsc_create(&rig->in[i], 4 * QUEUE, sizeof(struct sched_message)), 0);
		assert_int_equal(base_spsc_create(&rig->out[i], QUEUE, sizeof(struct sched_reply)), 0);
		options.lanes[i] = (struct sched_lane){ &rig->in[i], &rig->out[i], EACH };
	}
	assert_int_equal(svc_text_create(&rig->text, &options), 0);
	*state = rig;
	return 0;
}

static int tear_down(void **state)
{
	struct rig *rig = *state;

	svc_text_destroy(rig->text);
	for (uint32_t i = 0; i < LANES; i++) {
		base_spsc_destroy(&rig->out[i]);
		base_spsc_destroy(&rig->in[i]);
	}
	free(rig);
	return 0;
}

static void say(struct rig *rig, uint32_t lane, uint32_t kind, uint32_t client, uint64_t id)
{
	const struct sched_message message = { .kind = kind, .client = client, .record = { .op = ATTND_OP_TOKENIZE, .request_id = id } };

	assert_true(base_spsc_push(&rig->in[lane], &message));
}

/* The lane's next reply has this id, and there is one. */
static void hear(struct rig *rig, uint32_t lane, uint32_t kind, uint32_t client, uint64_t id)
{
	const struct sched_reply *reply = base_spsc_peek(&rig->out[lane]);

	assert_non_null(reply);
	assert_int_equal(reply->kind, kind);
	assert_int_equal(reply->client, client);
	assert_int_equal(reply->completion.request_id, id);
	base_spsc_release(&rig->out[lane]);
}

static uint32_t settle(struct rig *rig)
{
	uint32_t polls = 0;

	while (svc_text_poll(rig->text))
		polls++;
	return polls;
}

static void replies_come_by_their_clients_lane(void **state)
{
	struct rig *rig = *state;

	for (uint32_t c = 0; c < LANES * EACH; c++)
		say(rig, c / EACH, SCHED_CLIENT_ADD, c, 0);
	for (uint32_t c = 0; c < LANES * EACH; c++)
		say(rig, c / EACH, SCHED_REQUEST, c, 100 + c);
	for (uint32_t c = 0; c < LANES * EACH; c++)
		say(rig, c / EACH, SCHED_CLIENT_GONE, c, 0);
	assert_int_equal(settle(rig), 3 * LANES * EACH);
	for (uint32_t c = 0; c < LANES * EACH; c++)
		hear(rig, c / EACH, SCHED_COMPLETION, c, 100 + c);
	for (uint32_t c = 0; c < LANES * EACH; c++)
		hear(rig, c / EACH, SCHED_CLIENT_QUIESCED, c, 0);
	assert_int_equal(base_spsc_count(&rig->out[0]) + base_spsc_count(&rig->out[1]), 0);
}

static void lanes_take_turns(void **state)
{
	struct rig *rig = *state;

	for (uint32_t i = 0; i < QUEUE; i++)
		say(rig, 0, SCHED_REQUEST, 0, i);
	svc_text_poll(rig->text);
	for (uint32_t i = 0; i < 3; i++)
		say(rig, 1, SCHED_REQUEST, EACH, i);
	for (uint32_t i = 0; i < 6; i++)
		svc_text_poll(rig->text);
	assert_int_equal(base_spsc_count(&rig->out[1]), 3);
	assert_int_equal(base_spsc_count(&rig->out[0]), 4);
}

static void an_undrained_lane_waits_alone(void **state)
{
	struct rig *rig = *state;

	for (uint32_t i = 0; i < 2 * QUEUE; i++)
		say(rig, 0, SCHED_REQUEST, 0, i);
	settle(rig);
	assert_int_equal(base_spsc_count(&rig->in[0]), QUEUE);
	for (uint32_t i = 0; i < 2 * QUEUE; i++) {
		say(rig, 1, SCHED_REQUEST, EACH, i);
		settle(rig);
		hear(rig, 1, SCHED_COMPLETION, EACH, i);
	}
	for (uint32_t i = 0; i < 2 * QUEUE; i++) {
		hear(rig, 0, SCHED_COMPLETION, 0, i);
		settle(rig);
	}
	assert_int_equal(base_spsc_count(&rig->in[0]) + base_spsc_count(&rig->out[0]), 0);
}

static void no_lane_speaks_for_anothers_clients(void **state)
{
	static const uint32_t strangers[] = { EACH, LANES * EACH, UINT32_MAX };
	struct rig *rig = *state;

	for (uint32_t i = 0; i < 3; i++) {
		say(rig, 0, SCHED_CLIENT_ADD, strangers[i], 0);
		say(rig, 0, SCHED_REQUEST, strangers[i], 7);
		say(rig, 0, SCHED_CLIENT_GONE, strangers[i], 0);
	}
	say(rig, 1, SCHED_REQUEST, 0, 7);
	assert_int_equal(settle(rig), 10);
	assert_int_equal(base_spsc_count(&rig->out[0]) + base_spsc_count(&rig->out[1]), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(replies_come_by_their_clients_lane, set_up, tear_down),
		cmocka_unit_test_setup_teardown(lanes_take_turns, set_up, tear_down),
		cmocka_unit_test_setup_teardown(an_undrained_lane_waits_alone, set_up, tear_down),
		cmocka_unit_test_setup_teardown(no_lane_speaks_for_anothers_clients, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
