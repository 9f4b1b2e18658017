/*
 * Who is there for the network front: who comes, breaks off and comes back, is replaced, forgotten, let go of, or breaks the protocol.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base_bytes.h"
#include "tests/unit/net_front_rig.h"

static void expect_closed(struct front_client *client, uint32_t why)
{
	front_hear(client);
	assert_true(client->closed);
	assert_int_equal(client->why, why);
	if (client->peer.way.stream != NET_NO_STREAM)
		assert_true(fake_is_closed(&client->rig->fake, &client->peer.way));
}

static void note_all(struct front_rig *rig)
{
	struct front_call call;

	for (uint32_t i = 0; i < FRONT_QUEUES; i++)
		while (front_next(rig, i, &call))
			;
	front_poll(rig);
}

/* ---- places ----------------------------------------------------------------------------------------------- */

static void tenants_places(void **state)
{
	struct front_limits limits = front_usual;
	struct front_rig *rig;
	struct front_client clients[4], one;

	(void)state;
	limits.tenant_clients[0] = 2;
	rig = front_rig_create(&limits);
	assert_true(front_connect(rig, &clients[0], false, NET_CIPHER_CHACHA, 0));
	assert_true(front_connect(rig, &clients[1], true, NET_CIPHER_CHACHA, 0));
	for (int datagram = 0; datagram < 2; datagram++) {
		assert_false(front_connect(rig, &one, datagram, NET_CIPHER_CHACHA, 0));
		assert_int_equal(one.peer.refused.why, NET_WHY_FULL);
	}
	assert_true(front_connect(rig, &clients[2], true, NET_CIPHER_CHACHA, 1));
	assert_true(front_connect(rig, &clients[3], true, NET_CIPHER_PLAIN, 2));
	/* Nobody's places but everybody's. */
	assert_false(front_connect(rig, &one, true, NET_CIPHER_CHACHA, 1));
	assert_int_equal(one.peer.refused.why, NET_WHY_FULL);
	assert_int_equal(FRONT_COUNTER(rig, clients), 4);
	front_bye(&clients[0]);
	front_poll(rig);
	note_all(rig);
	assert_int_equal(FRONT_COUNTER(rig, clients), 3);
	front_client_free(&clients[0]);
	assert_true(front_connect(rig, &clients[0], false, NET_CIPHER_CHACHA, 0));
	for (int i = 0; i < 4; i++)
		front_client_free(&clients[i]);
	front_rig_destroy(rig);
}

/* Who is half open has a place, which is free again when he does not come, and does not count among his tenant's: a HELLO that was
 * overheard and is said again keeps nobody out. Where all places are promised, whose is the oldest makes room; of those who come at the
 * same time the last ones find no place. */
static void promised_places(void **state)
{
	struct front_limits limits = front_usual;
	struct front_client first = { .rig = NULL }, second, third;
	struct front_rig *rig;
	struct front_call call;

	(void)state;
	limits.clients = 2;
	limits.tenant_clients[2] = 1;
	rig = front_rig_create(&limits);
	first.rig = rig;
	net_guest_init(&first.peer, &rig->fake, NET_CIPHER_PLAIN, NULL, 1);
	first.peer.way.stream = NET_NO_STREAM;
	assert_true(front_half_open(&first));
	assert_false(front_next(rig, 0, &call));
	assert_false(rig->knows[0][0].there); /* the devices hear of nobody who is not sure to be there */
	assert_true(front_connect(rig, &second, true, NET_CIPHER_PLAIN, 2));
	net_guest_ping(&first.peer);
	front_poll(rig);
	expect_closed(&first, NET_WHY_FULL);
	third = (struct front_client){ .rig = rig };
	net_guest_init(&third.peer, &rig->fake, NET_CIPHER_CHACHA, (unsigned char[NET_KEY_BYTES]){ 0 }, 2);
	memset(third.peer.key, 1, sizeof(third.peer.key));
	for (int datagram = 0; datagram < 2; datagram++) {
		third.peer.way.stream = datagram ? NET_NO_STREAM : 0;
		for (uint32_t i = 0; i < 5; i++)
			assert_true(front_half_open(&third));
	}
	assert_int_equal(FRONT_HOST_COUNTER(rig, pushed_out), 9);
	assert_true(front_connect(rig, &third, true, NET_CIPHER_CHACHA, 0));
	assert_int_equal(FRONT_HOST_COUNTER(rig, pushed_out), 10);
	assert_false(front_connect(rig, &first, true, NET_CIPHER_CHACHA, 1));
	assert_int_equal(first.peer.refused.why, NET_WHY_FULL); /* to those who are there */
	front_bye(&third);
	front_poll(rig);
	note_all(rig);
	front_client_free(&third);
	third.peer.cipher = NET_CIPHER_CHACHA;
	assert_true(front_half_open(&third));
	front_wait(rig, limits.hello_ns);
	assert_int_equal(FRONT_HOST_COUNTER(rig, timed_out), 1);
	assert_true(front_connect(rig, &third, true, NET_CIPHER_CHACHA, 0));
	front_client_free(&third);
	front_client_free(&second);
	front_rig_destroy(rig);
}

/* A client's number is used again only when all devices and the text role have let go of it, and its memory is kept until then. */
static void quiescence(void **state)
{
	struct front_limits limits = front_usual;
	struct front_client client, next;
	struct front_rig *rig;
	struct front_call call, late;

	(void)state;
	limits.devices = 2;
	limits.clients = 1;
	rig = front_rig_create(&limits);
	assert_true(front_connect(rig, &client, false, NET_CIPHER_CHACHA, 0));
	front_request(&client, (struct attnd_request){ .request_id = 1, .out_capacity = 5000 }, 5000);
	front_request(&client, (struct attnd_request){ .request_id = 2, .out_capacity = 5000 }, 5000);
	front_send(&client, 0);
	front_poll(rig);
	assert_true(front_next(rig, 0, &call) && front_next(rig, 0, &late));
	front_bye(&client);
	front_poll(rig);
	assert_true(fake_is_closed(&rig->fake, &client.peer.way));
	front_final(rig, &late, ATTND_OK, 5000); /* before it hears of it */
	front_poll(rig);
	assert_int_equal(FRONT_COUNTER(rig, dropped), 1);
	assert_int_equal(FRONT_COUNTER(rig, in_flight), 0);
	rig->no_quiet = true;
	note_all(rig);
	assert_int_equal(rig->quiet_due_count, 3);
	memset(call.message.out, 1, 5000); /* the device is still at it */
	while (rig->quiet_due_count > 0) {
		const struct sched_reply quiet = { .kind = SCHED_CLIENT_QUIESCED, .client = FRONT_CLIENT_FIRST };

		assert_true(net_pool_free_bytes(rig->out) < net_pool_bytes(rig->out));
		assert_false(front_connect(rig, &next, true, NET_CIPHER_CHACHA, 0));
		base_spsc_push(&rig->from[rig->quiet_due[--rig->quiet_due_count].queue], &quiet);
		front_poll(rig);
	}
	rig->no_quiet = false;
	assert_int_equal(net_pool_free_bytes(rig->out), net_pool_bytes(rig->out));
	assert_int_equal(net_pool_free_bytes(rig->in), net_pool_bytes(rig->in));
	assert_true(front_connect(rig, &next, true, NET_CIPHER_CHACHA, 0));
	front_client_free(&next);
	front_client_free(&client);
	front_rig_destroy(rig);
}

/* ---- breaking off and coming back ------------------------------------------------------------------------- */

/* Requests in flight go on, replies are kept, numbers go on. */
static void resuming(void **state)
{
	(void)state;
	for (int datagram = 0; datagram < 2; datagram++) {
		struct front_rig *rig = front_rig_create(&front_usual);
		struct front_client client;
		struct front_call done, running, more;

		assert_true(front_connect(rig, &client, datagram, NET_CIPHER_CHACHA, 0));
		front_request(&client, (struct attnd_request){ .request_id = 1, .position = 1, .out_capacity = 3000 }, 10);
		front_request(&client, (struct attnd_request){ .request_id = 2, .position = 2, .out_capacity = 3000 }, 10);
		front_send(&client, 0);
		front_poll(rig);
		assert_true(front_next(rig, 0, &done) && front_next(rig, 0, &running));
		front_final(rig, &done, ATTND_OK, 3000);
		front_poll(rig);
		fake_take_all(&rig->fake); /* lost */
		if (!datagram)
			front_break(&client);
		front_wait(rig, front_usual.resume_ns - 1);
		front_final(rig, &running, ATTND_OK, 2000);
		front_poll(rig);
		assert_true(front_resume(&client));
		assert_int_equal(client.peer.welcome.requests, 2);
		assert_int_equal(FRONT_COUNTER(rig, resumed), 1);
		assert_int_equal(FRONT_COUNTER(rig, expired), 0);
		front_ack(&client, NET_ACK_PROBE);
		front_poll(rig);
		front_expect(&client, 1, ATTND_OK, 3000);
		front_expect(&client, 2, ATTND_OK, 2000);
		front_request(&client, (struct attnd_request){ .request_id = 3 }, 10);
		front_send(&client, 0);
		front_poll(rig);
		assert_true(front_next(rig, 0, &more));
		assert_int_equal(more.message.client, done.message.client);
		assert_int_equal(FRONT_COUNTER(rig, requests), 3);
		front_client_free(&client);
		front_rig_destroy(rig);
	}
}

/* While the new link has not shown that it is alive, the old one goes on; then it hears that it is replaced. */
static void replacing(void **state)
{
	(void)state;
	for (int datagram = 0; datagram < 2; datagram++) {
		struct front_rig *rig = front_rig_create(&front_usual);
		struct front_client client, old;
		struct front_call call;

		assert_true(front_connect(rig, &client, datagram, NET_CIPHER_CHACHA, 0));
		old = client;
		memcpy(client.peer.hello.resume, client.peer.welcome.token, NET_NAME_BYTES);
		assert_true(front_half_open(&client));
		assert_int_equal(client.peer.welcome.flags, NET_RESUMED);
		assert_memory_equal(client.peer.welcome.token, old.peer.welcome.token, NET_NAME_BYTES);
		front_request(&old, (struct attnd_request){ .request_id = 1 }, 10);
		front_send(&old, 0);
		front_poll(rig);
		assert_true(front_next(rig, 0, &call));
		front_final(rig, &call, ATTND_OK, 0);
		front_poll(rig);
		front_expect(&old, 1, ATTND_OK, 0);
		net_guest_ping(&client.peer);
		front_poll(rig);
		expect_closed(&old, NET_WHY_REPLACED);
		front_ack(&client, 0);
		front_poll(rig);
		front_hear(&client);
		assert_true(client.pong_came);
		assert_false(client.closed);
		/* A datagram of the old link finds nobody. */
		if (datagram) {
			net_guest_ping(&old.peer);
			front_poll(rig);
			assert_int_equal(net_guest_hear(&old.peer), NET_REFUSED);
		}
		assert_int_equal(FRONT_COUNTER(rig, clients), 1);
		front_client_free(&client);
		front_rig_destroy(rig);
	}
}

/* A resume that never comes to life changes nothing, however often. */
static void resuming_in_vain(void **state)
{
	struct front_rig *rig = front_rig_create(&front_usual);
	struct front_client client, other;

	(void)state;
	assert_true(front_connect(rig, &client, false, NET_CIPHER_CHACHA, 0));
	other = client;
	memcpy(other.peer.hello.resume, client.peer.welcome.token, NET_NAME_BYTES);
	for (int i = 0; i < 20; i++)
		assert_true(front_half_open(&other));
	front_wait(rig, front_usual.hello_ns);
	front_ack(&client, NET_ACK_PROBE);
	front_poll(rig);
	front_hear(&client);
	assert_false(client.closed);
	assert_true(client.takens > 0);
	assert_int_equal(FRONT_COUNTER(rig, resumed), 0);
	front_client_free(&client);
	front_rig_destroy(rig);
}

/* Tokens of nobody, of another tenant, and of who has gone: a new connection. */
static void other_tokens(void **state)
{
	struct front_rig *rig = front_rig_create(&front_usual);
	struct front_client client, other;

	(void)state;
	assert_true(front_connect(rig, &client, true, NET_CIPHER_CHACHA, 0));
	assert_true(front_connect(rig, &other, true, NET_CIPHER_CHACHA, 1));
	memcpy(other.peer.hello.resume, client.peer.welcome.token, NET_NAME_BYTES);
	assert_true(front_half_open(&other));
	assert_int_equal(other.peer.welcome.flags, 0);
	for (uint32_t i = 0; i < NET_NAME_BYTES; i++) {
		memcpy(client.peer.hello.resume, client.peer.welcome.token, NET_NAME_BYTES);
		client.peer.hello.resume[i] ^= 1;
		net_guest_make_hello(&client.peer);
		net_guest_say_hello(&client.peer);
		front_poll(rig);
		front_wait(rig, front_usual.hello_ns);
	}
	assert_int_equal(FRONT_COUNTER(rig, resumed), 0);
	assert_int_equal(FRONT_COUNTER(rig, clients), 2);
	front_client_free(&other);
	front_client_free(&client);
	front_rig_destroy(rig);
}

/*
 * A link that was welcomed to go on with a connection, and comes to life when that is over and its place somebody else's, of another tenant
 * even: it gets nothing of his.
 */
static void resuming_too_late(void **state)
{
	struct front_limits limits = front_usual;
	struct front_client late, old, victim;
	struct front_rig *rig;

	(void)state;
	limits.clients = 1;
	rig = front_rig_create(&limits);
	assert_true(front_connect(rig, &late, true, NET_CIPHER_CHACHA, 0));
	old = late;
	memcpy(late.peer.hello.resume, late.peer.welcome.token, NET_NAME_BYTES);
	assert_true(front_half_open(&late));
	front_bye(&old);
	front_poll(rig);
	note_all(rig);
	assert_true(front_connect(rig, &victim, true, NET_CIPHER_CHACHA, 1));
	net_guest_ping(&late.peer);
	front_poll(rig);
	expect_closed(&late, NET_WHY_UNKNOWN);
	front_ack(&victim, NET_ACK_PROBE);
	front_poll(rig);
	front_hear(&victim);
	assert_false(victim.closed);
	assert_true(victim.takens > 0);
	note_all(rig);
	assert_int_equal(rig->knows[0][0].tenant, 1);
	assert_int_equal(FRONT_COUNTER(rig, resumed), 0);
	front_client_free(&victim);
	front_client_free(&late);
	front_rig_destroy(rig);
}

/* The same, where the place is only promised to somebody yet. */
static void resuming_what_is_promised(void **state)
{
	struct front_limits limits = front_usual;
	struct front_client late, old, victim;
	struct front_rig *rig;

	(void)state;
	limits.clients = 1;
	rig = front_rig_create(&limits);
	assert_true(front_connect(rig, &late, true, NET_CIPHER_CHACHA, 0));
	old = late;
	memcpy(late.peer.hello.resume, late.peer.welcome.token, NET_NAME_BYTES);
	assert_true(front_half_open(&late));
	front_bye(&old);
	front_poll(rig);
	note_all(rig);
	victim = (struct front_client){ .rig = rig };
	net_guest_init(&victim.peer, &rig->fake, NET_CIPHER_PLAIN, NULL, 1);
	victim.peer.way.stream = NET_NO_STREAM;
	assert_true(front_half_open(&victim));
	net_guest_ping(&late.peer);
	front_poll(rig);
	expect_closed(&late, NET_WHY_UNKNOWN);
	net_guest_ping(&victim.peer);
	front_poll(rig);
	front_hear(&victim);
	assert_true(victim.pong_came);
	note_all(rig);
	assert_int_equal(rig->knows[0][0].tenant, 2);
	front_client_free(&late);
	front_rig_destroy(rig);
}

static void expiry(void **state)
{
	struct front_rig *rig = front_rig_create(&front_usual);
	struct front_client clients[3];
	struct front_call call;

	(void)state;
	for (int i = 0; i < 3; i++) {
		assert_true(front_connect(rig, &clients[i], i == 1, NET_CIPHER_CHACHA, 0));
		front_request(&clients[i], (struct attnd_request){ .request_id = 1, .out_capacity = 100 }, 100);
		front_send(&clients[i], 0);
		front_poll(rig);
	}
	note_all(rig);
	front_break(&clients[2]);
	front_wait(rig, 1000);
	front_break(&clients[0]);
	assert_true(svc_net_next_event_ns(rig->net) <= rig->clock.fake_ns - 1000 + front_usual.resume_ns);
	front_wait(rig, front_usual.resume_ns - 1000);
	assert_int_equal(FRONT_COUNTER(rig, expired), 1);
	front_wait(rig, 1000);
	assert_int_equal(FRONT_COUNTER(rig, expired), 2);
	assert_int_equal(FRONT_COUNTER(rig, clients), 1);
	assert_false(front_resume(&clients[0]));
	/* Silence ends a datagram link, and after that time goes on as for a stream that broke. */
	front_wait(rig, front_usual.idle_ns);
	assert_int_equal(FRONT_HOST_COUNTER(rig, idle), 1);
	assert_int_equal(FRONT_COUNTER(rig, expired), 2);
	front_wait(rig, front_usual.resume_ns);
	assert_int_equal(FRONT_COUNTER(rig, expired), 3);
	while (front_next(rig, 0, &call))
		;
	assert_false(rig->knows[0][0].there || rig->knows[0][1].there || rig->knows[0][2].there);
	for (int i = 0; i < 3; i++)
		front_client_free(&clients[i]);
	front_rig_destroy(rig);
}

/* Where nothing is kept, who breaks off is gone. */
static void no_resuming(void **state)
{
	struct front_limits limits = front_usual;
	struct front_rig *rig;
	struct front_client client;

	(void)state;
	limits.resume_ns = 0;
	rig = front_rig_create(&limits);
	assert_true(front_connect(rig, &client, false, NET_CIPHER_CHACHA, 0));
	assert_int_equal(client.peer.welcome.resume_ms, 0);
	front_break(&client);
	assert_int_equal(FRONT_COUNTER(rig, clients), 0);
	front_client_free(&client);
	front_rig_destroy(rig);
}

/* ---- going down ------------------------------------------------------------------------------------------- */

/* Nobody new; those who are there go on, and come back where they break off. */
static void draining(void **state)
{
	struct front_rig *rig = front_rig_create(&front_usual);
	struct front_client client, new;
	struct front_call call;

	(void)state;
	assert_true(front_connect(rig, &client, false, NET_CIPHER_CHACHA, 0));
	front_request(&client, (struct attnd_request){ .request_id = 1 }, 100);
	front_send(&client, 0);
	front_poll(rig);
	assert_true(front_next(rig, 0, &call));
	assert_false(svc_net_sleep_begin(rig->net));
	svc_net_drain(rig->net, false);
	assert_true(svc_net_sleep_begin(rig->net));
	front_poll(rig);
	for (int datagram = 0; datagram < 2; datagram++) {
		assert_false(front_connect(rig, &new, datagram, NET_CIPHER_CHACHA, 0));
		assert_int_equal(new.peer.refused.why, NET_WHY_DRAINING);
	}
	front_break(&client);
	front_final(rig, &call, ATTND_OK, 0);
	assert_true(front_resume(&client));
	front_ack(&client, NET_ACK_PROBE);
	front_poll(rig);
	front_expect(&client, 1, ATTND_OK, 0);
	svc_net_drain(rig->net, true);
	front_poll(rig);
	expect_closed(&client, NET_WHY_DRAINING);
	assert_false(front_resume(&client));
	assert_int_equal(client.peer.refused.why, NET_WHY_DRAINING);
	note_all(rig);
	assert_int_equal(FRONT_COUNTER(rig, clients), 0);
	front_client_free(&client);
	front_rig_destroy(rig);
}

/* Who was half open when all had to go does not stay. */
static void half_open_when_all_go(void **state)
{
	(void)state;
	for (int datagram = 0; datagram < 2; datagram++) {
		struct front_rig *rig = front_rig_create(&front_usual);
		struct front_client client = { .rig = rig };

		net_guest_init(&client.peer, &rig->fake, NET_CIPHER_PLAIN, NULL, 1);
		client.peer.way.stream = datagram ? NET_NO_STREAM : 0;
		assert_true(front_half_open(&client));
		svc_net_drain(rig->net, true);
		front_poll(rig);
		net_guest_ping(&client.peer);
		front_poll(rig);
		expect_closed(&client, NET_WHY_DRAINING);
		assert_int_equal(FRONT_COUNTER(rig, clients), 0);
		front_rig_destroy(rig);
	}
}

/* ---- memory that others want ------------------------------------------------------------------------------ */

/* A client with a result of so many bytes that it does not acknowledge. */
static void hold(struct front_rig *rig, struct front_client *client, uint32_t bytes)
{
	struct front_call call;

	assert_true(front_connect(rig, client, false, NET_CIPHER_CHACHA, 0));
	front_request(client, (struct attnd_request){ .request_id = 1, .out_capacity = bytes }, 0);
	front_send(client, 0);
	front_poll(rig);
	assert_true(front_next(rig, 0, &call));
	front_final(rig, &call, ATTND_OK, bytes);
	front_poll(rig);
	front_expect(client, 1, ATTND_OK, bytes);
}

static void slow_clients(void **state)
{
	struct front_limits limits = front_usual;
	struct front_client slow, wanting, idle;
	struct front_rig *rig;

	(void)state;
	limits.out_bytes = 32 << 10;
	rig = front_rig_create(&limits);
	hold(rig, &slow, 20 << 10);
	hold(rig, &idle, 0); /* keeps a reply, and no memory */
	/* Nobody is slow whom nobody waits for. */
	front_wait(rig, 10 * limits.slow_ns);
	assert_int_equal(FRONT_COUNTER(rig, slow), 0);
	assert_true(front_connect(rig, &wanting, true, NET_CIPHER_CHACHA, 1));
	front_request(&wanting, (struct attnd_request){ .request_id = 2, .out_capacity = 20 << 10 }, 10);
	front_send(&wanting, 0);
	front_poll(rig);
	note_all(rig);
	front_wait(rig, INT64_C(250000000));
	assert_int_equal(FRONT_COUNTER(rig, slow), 1);
	expect_closed(&slow, NET_WHY_FULL);
	note_all(rig);
	assert_int_equal(FRONT_COUNTER(rig, in_flight), 1);
	front_wait(rig, 10 * limits.slow_ns);
	front_hear(&idle);
	front_hear(&wanting);
	assert_false(idle.closed || wanting.closed);
	assert_int_equal(FRONT_COUNTER(rig, slow), 1);
	front_client_free(&idle);
	front_client_free(&wanting);
	front_client_free(&slow);
	front_rig_destroy(rig);
}

/* Who has the most goes first, and nobody else where that will do: not who has yet to say that a small result has come. */
static void the_slowest_goes(void **state)
{
	struct front_limits limits = front_usual;
	struct front_client small, slow, wanting;
	struct front_rig *rig;

	(void)state;
	limits.out_bytes = 32 << 10;
	rig = front_rig_create(&limits);
	hold(rig, &small, 100);
	hold(rig, &slow, 12 << 10);
	front_wait(rig, limits.slow_ns);
	assert_true(front_connect(rig, &wanting, true, NET_CIPHER_CHACHA, 1));
	front_request(&wanting, (struct attnd_request){ .request_id = 2, .out_capacity = 16 << 10 }, 10);
	front_send(&wanting, 0);
	front_poll(rig);
	note_all(rig);
	for (int i = 0; i < 4; i++) {
		front_wait(rig, INT64_C(250000000));
		note_all(rig);
	}
	assert_int_equal(FRONT_COUNTER(rig, slow), 1);
	expect_closed(&slow, NET_WHY_FULL);
	front_hear(&small);
	assert_false(small.closed);
	assert_int_equal(FRONT_COUNTER(rig, in_flight), 1);
	front_client_free(&wanting);
	front_client_free(&slow);
	front_client_free(&small);
	front_rig_destroy(rig);
}

/* Who reads nothing, and goes on asking, is slow all the same. */
static void asking_is_not_taking(void **state)
{
	struct front_limits limits = front_usual;
	struct front_client slow, wanting;
	struct net_guest_data packet;
	struct front_rig *rig;
	struct front_call call;

	(void)state;
	limits.out_bytes = 32 << 10;
	rig = front_rig_create(&limits);
	hold(rig, &slow, 20 << 10);
	assert_true(front_connect(rig, &wanting, true, NET_CIPHER_CHACHA, 1));
	front_request(&wanting, (struct attnd_request){ .request_id = 2, .out_capacity = 20 << 10 }, 10);
	front_send(&wanting, 0);
	front_poll(rig);
	for (uint32_t i = 0; i < 8 && FRONT_COUNTER(rig, slow) == 0; i++) {
		front_request(&slow, (struct attnd_request){ .request_id = 10 + i, .out_capacity = 16 }, 10);
		assert_int_equal(front_pack(&slow, &packet, 1), 1);
		fake_come(&rig->fake, &slow.peer.way, packet.packet, packet.bytes);
		front_poll(rig);
		if (front_next(rig, 0, &call))
			front_final(rig, &call, ATTND_OK, 0);
		front_wait(rig, limits.slow_ns / 4);
	}
	assert_int_equal(FRONT_COUNTER(rig, slow), 1);
	front_client_free(&wanting);
	front_client_free(&slow);
	front_rig_destroy(rig);
}

/* Who waits because his own window is full wants nothing of others. */
static void windows_of_ones_own(void **state)
{
	struct front_limits limits = front_usual;
	struct front_client holding, waiting;
	struct front_rig *rig;

	(void)state;
	limits.window_bytes = 32 << 10;
	limits.in_bytes = 1 << 20;
	rig = front_rig_create(&limits);
	hold(rig, &holding, 20 << 10);
	assert_true(front_connect(rig, &waiting, false, NET_CIPHER_CHACHA, 1));
	for (int i = 0; i < 3; i++)
		front_request(&waiting, (struct attnd_request){ .request_id = 2 }, 30 << 10);
	front_send(&waiting, 0);
	front_poll(rig);
	note_all(rig);
	assert_true(FRONT_COUNTER(rig, no_memory) > 0);
	for (int i = 0; i < 4; i++)
		front_wait(rig, limits.slow_ns);
	assert_int_equal(FRONT_COUNTER(rig, slow), 0);
	front_client_free(&waiting);
	front_client_free(&holding);
	front_rig_destroy(rig);
}

/* ---- those who break the protocol ------------------------------------------------------------------------- */

static void put_chunk(unsigned char *to, uint8_t kind, uint8_t flags, uint16_t bytes, uint32_t number)
{
	memset(to, 0, 256);
	to[0] = kind;
	to[1] = flags;
	base_store16(to + 2, bytes);
	base_store32(to + 4, number);
}

static void breaks(const unsigned char *chunks, size_t bytes)
{
	for (int datagram = 0; datagram < 2; datagram++) {
		struct front_rig *rig = front_rig_create(&front_usual);
		struct front_client client;

		assert_true(front_connect(rig, &client, datagram, NET_CIPHER_CHACHA, 0));
		front_request(&client, (struct attnd_request){ .request_id = 1, .out_capacity = 100 }, 3000);
		front_send(&client, 0);
		front_poll(rig);
		net_guest_say(&client.peer, chunks, bytes);
		front_poll(rig);
		expect_closed(&client, NET_WHY_PROTOCOL);
		assert_int_equal(FRONT_HOST_COUNTER(rig, broken), 1);
		assert_int_equal(FRONT_COUNTER(rig, clients), 0);
		front_client_free(&client);
		front_rig_destroy(rig);
	}
}

static void bad_chunks(void **state)
{
	unsigned char chunk[256];

	(void)state;
	for (uint32_t kind = 0; kind < 12; kind++) {
		/* No such kind, the daemon's own kinds, and contents that are too short. */
		put_chunk(chunk, (uint8_t)kind, 0, 0, 1);
		if (kind != NET_CLOSE)
			breaks(chunk, 8);
		put_chunk(chunk, (uint8_t)kind, 0, 3, 1);
		breaks(chunk, 16);
		put_chunk(chunk, (uint8_t)kind, 0x40, 24, 1);
		breaks(chunk, 32);
		breaks(chunk, 24); /* cut */
	}
	put_chunk(chunk, NET_CLOSE, 0, 8, 0);
	breaks(chunk, 16);
	put_chunk(chunk, NET_ACK, 0, 8, 1); /* of a reply that was never sent */
	breaks(chunk, 16);
	put_chunk(chunk, NET_ACK, 0, 16, 0); /* beyond */
	base_store32(chunk + 12, 1);
	chunk[16] = 1;
	breaks(chunk, 24);
	put_chunk(chunk, NET_ACK, 0, 8, 0); /* more words than there are */
	base_store32(chunk + 12, 1);
	breaks(chunk, 16);
	put_chunk(chunk, NET_PING, 0, 8, 1); /* PINGs have no number */
	breaks(chunk, 16);
	put_chunk(chunk, NET_REQUEST, 0, 64, 10); /* outside of the window: 2 to 9 */
	breaks(chunk, 72);
	put_chunk(chunk, NET_REQUEST_MORE, 0, 9, 2); /* no whole unit, and not the end */
	base_store32(chunk + 8, 1024);
	base_store32(chunk + 12, 1030);
	breaks(chunk, 24);
	put_chunk(chunk, NET_REQUEST_MORE, 0, 14, 2); /* longer than anything */
	base_store32(chunk + 8, 1 << 20);
	base_store32(chunk + 12, (1 << 20) + 6);
	breaks(chunk, 24);
	put_chunk(chunk, NET_REQUEST, 0, 64, 2);
	base_store32(chunk + 8 + offsetof(struct attnd_request, in_bytes), UINT32_MAX);
	breaks(chunk, 72);
}

/* Parts of what pretends to be one message, and is not. */
static void bad_parts(void **state)
{
	unsigned char chunks[48];

	(void)state;
	memset(chunks, 0, sizeof(chunks));
	chunks[0] = chunks[24] = NET_REQUEST_MORE;
	chunks[2] = 8 + 4;
	chunks[26] = 8 + 5;
	base_store32(chunks + 4, 2);
	base_store32(chunks + 28, 2);
	base_store32(chunks + 8, 1024);
	base_store32(chunks + 12, 1028);
	base_store32(chunks + 32, 1024);
	base_store32(chunks + 36, 1029);
	breaks(chunks, 48);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tenants_places),
		cmocka_unit_test(promised_places),
		cmocka_unit_test(quiescence),
		cmocka_unit_test(resuming),
		cmocka_unit_test(replacing),
		cmocka_unit_test(resuming_in_vain),
		cmocka_unit_test(other_tokens),
		cmocka_unit_test(resuming_too_late),
		cmocka_unit_test(resuming_what_is_promised),
		cmocka_unit_test(expiry),
		cmocka_unit_test(no_resuming),
		cmocka_unit_test(draining),
		cmocka_unit_test(half_open_when_all_go),
		cmocka_unit_test(slow_clients),
		cmocka_unit_test(the_slowest_goes),
		cmocka_unit_test(asking_is_not_taking),
		cmocka_unit_test(windows_of_ones_own),
		cmocka_unit_test(bad_chunks),
		cmocka_unit_test(bad_parts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
