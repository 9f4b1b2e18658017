/*
 * The network front in disorder: eight clients over streams that break and datagrams that are lost, doubled and shuffled; they ask,
 * cancel, break off, come back and go; the devices answer in any order, and there is not always enough memory. After every step all
 * invariants hold; in the end every request was executed at most once, and who stayed has every reply once.
 *
 * ATTND_SEEDS: how many runs, from seed 1 on.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base_rand.h"
#include "sched/sched_handle.h"
#include "tests/unit/net_front_rig.h"

enum { ACTORS = 8, REQUESTS_MAX = 20000, CALLS_MAX = 512, STEPS = 1500, CALM_STEPS = 5000, SEEDS = 6, ODDS = 8 };
#define STEP_NS INT64_C(20000000)

static const struct front_limits limits = { .clients = 10,
	.in_flight = 6,
	.streams = 9,
	.window_bytes = 24 << 10,
	.message_bytes = 12 << 10,
	.devices = 2,
	.half_open = 32,
	.in_bytes = 64 << 10,
	.out_bytes = 64 << 10,
	.parts_bytes = 1 << 20,
	.tenant_clients = { 10, 10, 10 },
	.queue = 16,
	.resume_ns = INT64_C(3000000000),
	.slow_ns = INT64_C(2000000000),
	.hello_ns = INT64_C(1000000000),
	.idle_ns = INT64_C(5000000000) };

/* What is known of a request, by its number among all. */
struct asked {
	uint8_t executed, finals;
	bool lost; /* its client's connection is over: nobody waits for it */
	uint32_t streamed, heard;
	uint32_t actor;
	uint64_t id;
};

enum { AWAY, GREETING, THERE };

struct actor {
	struct front_client client;
	uint32_t state, since;
	bool has_session;
	uint32_t asked_from; /* requests of this connection begin there */
	uint64_t again_seen;
};

struct world {
	struct front_rig *rig;
	uint64_t seed;
	struct actor actors[ACTORS];
	struct asked asked[REQUESTS_MAX];
	uint32_t asked_count;
	struct front_call calls[CALLS_MAX];
	uint32_t sequences[CALLS_MAX];
	uint32_t call_count;
	bool is_calm;
	uint32_t resumed, lost, cancelled;
};

static bool one_in(struct world *world, uint32_t odds)
{
	return base_rand_below(&world->seed, odds) == 0;
}

/* ---- devices ---------------------------------------------------------------------------------------------- */

static struct asked *asked_of(struct world *world, const struct front_call *call)
{
	return &world->asked[call->message.record.session & UINT32_MAX];
}

static void take_calls(struct world *world)
{
	struct front_call call;

	for (uint32_t queue = 0; queue < FRONT_QUEUES; queue++)
		while (world->call_count < CALLS_MAX && front_next(world->rig, queue, &call)) {
			asked_of(world, &call)->executed++;
			assert_int_equal(asked_of(world, &call)->executed, 1);
			world->calls[world->call_count] = call;
			world->sequences[world->call_count++] = 0;
		}
}

static void answer_one(struct world *world)
{
	const uint32_t which = (uint32_t)base_rand_below(&world->seed, world->call_count);
	const struct front_call *call = &world->calls[which];
	const uint32_t room = call->message.record.out_capacity;

	if (call->message.record.op == ATTND_OP_GENERATE && !one_in(world, 6)) {
		if (front_stream(world->rig, call, world->sequences[which])) {
			asked_of(world, call)->streamed++;
			world->sequences[which]++;
		}
		return;
	}
	front_final(world->rig, call, ATTND_OK, room && !one_in(world, 4) ? (uint32_t)base_rand_below(&world->seed, room + 1) : 0);
	world->call_count--;
	world->calls[which] = world->calls[world->call_count];
	world->sequences[which] = world->sequences[world->call_count];
}

static void devices_step(struct world *world)
{
	uint32_t answers = (uint32_t)base_rand_below(&world->seed, 8) + (world->is_calm ? 4 : 0);

	if (!world->is_calm && one_in(world, 3))
		return;
	take_calls(world);
	while (answers-- > 0 && world->call_count > 0)
		answer_one(world);
}

/* ---- clients: asking -------------------------------------------------------------------------------------- */

static struct attnd_request some_request(struct world *world, uint32_t number)
{
	static const uint8_t ops[] = {
		ATTND_OP_NOP, ATTND_OP_NOP, ATTND_OP_GENERATE, ATTND_OP_GENERATE, ATTND_OP_TOKENIZE, ATTND_OP_CANCEL, 99 };
	struct attnd_request record = { .op = ops[base_rand_below(&world->seed, sizeof(ops))],
		.request_id = base_rand_next(&world->seed),
		.session = base_rand_below(&world->seed, 2) << SCHED_DEVICE_AT | number,
		.position = number };

	if (one_in(world, 2))
		record.out_capacity = (uint32_t)base_rand_below(&world->seed, world->rig->limits.message_bytes + 1);
	if (record.op == ATTND_OP_CANCEL && world->asked_count > 0) {
		record.args = world->asked[base_rand_below(&world->seed, world->asked_count)].id;
		world->cancelled++;
	}
	return record;
}

static void ask(struct world *world, struct actor *actor)
{
	const uint32_t number = world->asked_count, most = world->rig->limits.message_bytes;
	struct attnd_request record;

	if (number == REQUESTS_MAX || actor->client.unfinished >= limits.in_flight || !net_outbox_room(actor->client.outbox, 1))
		return;
	record = some_request(world, number);
	world->asked[number] = (struct asked){ .actor = (uint32_t)(actor - world->actors), .id = record.request_id };
	world->asked_count++;
	front_request(&actor->client, record, one_in(world, 2) ? (uint32_t)base_rand_below(&world->seed, most + 1) : 0);
}

/* The connection is over, and another one begins: nobody waits any more for what was asked. */
static void lose_session(struct world *world, struct actor *actor)
{
	for (uint32_t i = 0; i < world->asked_count; i++)
		if (world->asked[i].actor == actor - world->actors && i >= actor->asked_from)
			world->asked[i].lost |= world->asked[i].finals == 0;
	actor->asked_from = world->asked_count;
	world->lost += actor->has_session;
	actor->has_session = false;
}

/* ---- clients: hearing ------------------------------------------------------------------------------------- */

/* What the front answers itself tells only by the caller's own number whose it is. */
static struct asked *asked_by_id(struct world *world, struct actor *actor, uint64_t id)
{
	for (uint32_t i = world->asked_count; i-- > actor->asked_from;)
		if (world->asked[i].id == id && world->asked[i].actor == actor - world->actors)
			return &world->asked[i];
	fail_msg("a reply to what was never asked");
	return NULL;
}

static void take_replies(struct world *world, struct actor *actor)
{
	struct attnd_completion completion;

	while (front_reply(&actor->client, &completion)) {
		struct asked *asked = asked_by_id(world, actor, completion.request_id);

		assert_int_equal(asked->finals, 0);
		if (completion.flags & ATTND_CPL_FINAL) {
			asked->finals++;
			assert_int_equal(asked->heard, asked->streamed);
		} else {
			assert_int_equal(completion.sequence, asked->heard);
			asked->heard++;
		}
	}
}

static void go_away(struct actor *actor)
{
	if (actor->client.peer.way.stream != NET_NO_STREAM && actor->state != AWAY)
		fake_end(&actor->client.rig->fake, &actor->client.peer.way);
	actor->state = AWAY;
}

static void welcomed(struct world *world, struct actor *actor)
{
	struct front_client *client = &actor->client;

	if (actor->state != GREETING)
		return;
	if (actor->has_session && client->peer.welcome.flags & NET_RESUMED) {
		world->resumed++;
	} else {
		lose_session(world, actor);
		front_forget(client);
	}
	actor->has_session = true;
	actor->state = THERE;
	client->closed = client->pong_came = false;
}

static void hear(struct world *world, struct actor *actor)
{
	struct net_guest *peer = &actor->client.peer;
	int kind;

	if (actor->state == AWAY)
		return;
	while ((kind = net_guest_hear(peer)) != 0)
		switch (kind) {
		case NET_WELCOME: welcomed(world, actor); break;
		case NET_COOKIE:
			net_guest_make_hello(peer);
			net_guest_say_hello(peer);
			break;
		case NET_DATA: front_hear_body(&actor->client); break;
		case NET_REFUSED: go_away(actor); return;
		default: assert_int_equal(peer->way.stream, NET_NO_STREAM); /* what is late or twice */
		}
	if (actor->has_session)
		take_replies(world, actor);
	if (actor->client.closed) {
		lose_session(world, actor);
		actor->client.closed = false;
		go_away(actor);
	} else if (actor->state != AWAY && peer->way.stream != NET_NO_STREAM && fake_is_closed(&world->rig->fake, &peer->way)) {
		go_away(actor);
	}
}

/* ---- clients: moving -------------------------------------------------------------------------------------- */

static void greet(struct actor *actor)
{
	struct net_guest *peer = &actor->client.peer;

	memset(peer->hello.resume, 0, NET_NAME_BYTES);
	if (actor->has_session)
		memcpy(peer->hello.resume, peer->welcome.token, NET_NAME_BYTES);
	front_new_way(&actor->client);
	net_guest_make_hello(peer);
	net_guest_say_hello(peer);
	actor->state = GREETING;
	actor->since = 0;
}

static void greet_again(struct world *world, struct actor *actor)
{
	if (++actor->since % 4 == 0 && actor->client.peer.way.stream == NET_NO_STREAM)
		net_guest_say_hello(&actor->client.peer);
	if (actor->since > 30 || (!world->is_calm && one_in(world, 50)))
		go_away(actor);
}

/* What a client may do in a step that does not go away. */
static void go_on(struct world *world, struct actor *actor)
{
	struct front_client *client = &actor->client;
	const bool resends = client->again || one_in(world, world->is_calm ? 4 : 10);

	if (!client->pong_came) {
		net_guest_ping(&client->peer);
		return;
	}
	for (uint64_t i = base_rand_below(&world->seed, 4); i > 0 && !world->is_calm; i--)
		ask(world, actor);
	if (resends)
		net_outbox_resend(client->outbox);
	client->again = false;
	if (one_in(world, 2) || resends)
		front_send(client, resends && one_in(world, 2) ? NET_ACK_PROBE : 0);
	else if (one_in(world, 4))
		front_ack(client, NET_ACK_PROBE);
}

static void actor_step(struct world *world, struct actor *actor)
{
	hear(world, actor);
	if (actor->state == AWAY) {
		if (world->is_calm || one_in(world, actor->has_session ? 20 : 5))
			greet(actor);
	} else if (actor->state == GREETING) {
		greet_again(world, actor);
	} else if (world->is_calm || !one_in(world, 60)) {
		go_on(world, actor);
	} else if (one_in(world, 4)) {
		front_bye(&actor->client);
		lose_session(world, actor);
		go_away(actor);
	} else if (actor->client.peer.way.stream == NET_NO_STREAM && one_in(world, 2)) {
		greet(actor); /* from another address, while the old link still is */
	} else {
		go_away(actor);
	}
}

/* ---- the whole of it -------------------------------------------------------------------------------------- */

static void step(struct world *world)
{
	for (uint32_t i = 0; i < ACTORS; i++)
		actor_step(world, &world->actors[i]);
	if (!world->is_calm)
		fake_disturb(&world->rig->fake, &world->seed, ODDS);
	if (!world->is_calm && one_in(world, 5))
		world->rig->fake.rooms_refused = (uint32_t)base_rand_below(&world->seed, 5);
	devices_step(world);
	front_wait(world->rig, !world->is_calm && one_in(world, 200) ? limits.resume_ns : STEP_NS);
}

static bool is_done(const struct world *world)
{
	for (uint32_t i = 0; i < ACTORS; i++)
		if (world->actors[i].state != THERE || world->actors[i].client.unfinished > 0 || !world->actors[i].client.pong_came)
			return false;
	return true;
}

static void check_asked(const struct world *world)
{
	for (uint32_t i = 0; i < world->asked_count; i++) {
		assert_true(world->asked[i].executed <= 1);
		assert_int_equal(world->asked[i].finals, world->asked[i].lost ? 0 : 1);
	}
}

static struct world *world_create(uint64_t seed)
{
	struct world *world = calloc(1, sizeof(*world));
	struct front_limits some = limits;

	if (seed % 2)
		some.in_bytes = some.out_bytes = 4 << 20; /* enough for all */
	if (seed % 3 == 0)
		some.message_bytes = some.window_bytes = 32 << 10; /* of more units than may be under way */
	world->rig = front_rig_create(&some);
	world->seed = seed;
	for (uint32_t i = 0; i < ACTORS; i++) {
		struct front_client *client = &world->actors[i].client;
		const uint32_t tenant = i % FRONT_TENANTS;
		unsigned char key[NET_KEY_BYTES];

		memset(key, (int)tenant + 1, sizeof(key));
		client->rig = world->rig;
		net_guest_init(&client->peer, &world->rig->fake, tenant == 2 ? NET_CIPHER_PLAIN : NET_CIPHER_CHACHA, key, seed * ACTORS + i);
		client->peer.way.stream = i % 4 == 3 ? 0 : NET_NO_STREAM;
		client->peer.hello.features = i % 2 ? NET_FEATURE_HAVE : 0;
	}
	return world;
}

static void world_destroy(struct world *world)
{
	front_rig_destroy(world->rig);
	for (uint32_t i = 0; i < ACTORS; i++)
		front_client_free(&world->actors[i].client);
	free(world);
}

static void run(uint64_t seed)
{
	struct world *world = world_create(seed);
	uint32_t calm = 0;

	for (uint32_t i = 0; i < STEPS; i++)
		step(world);
	world->is_calm = true;
	world->rig->fake.rooms_refused = 0;
	while (!is_done(world)) {
		step(world);
		if (++calm > CALM_STEPS)
			fail_msg("seed %llu: not everybody is done", (unsigned long long)seed);
	}
	check_asked(world);
	printf("# seed %llu: %u asked, %u resumed, %u connections lost, again %llu, no memory %llu, slow %llu, queue full %llu, dropped %llu\n",
		(unsigned long long)seed, world->asked_count, world->resumed, world->lost, (unsigned long long)FRONT_COUNTER(world->rig, again),
		(unsigned long long)FRONT_COUNTER(world->rig, no_memory), (unsigned long long)FRONT_COUNTER(world->rig, slow),
		(unsigned long long)FRONT_COUNTER(world->rig, queue_full), (unsigned long long)FRONT_COUNTER(world->rig, dropped));
	if (seed % 2)
		assert_int_equal(FRONT_COUNTER(world->rig, slow), 0);
	world_destroy(world);
}

static void disorder(void **state)
{
	const char *seeds = getenv("ATTND_SEEDS");

	(void)state;
	for (uint64_t seed = 1; seed <= (seeds ? strtoull(seeds, NULL, 0) : SEEDS); seed++)
		run(seed);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(disorder),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
