/*
 * Handshakes and links of the daemon's side: who is let in, who is refused and why, what strangers can make it do, and what time does. Each
 * rejection is counted under its own name, and no stranger gets more than he sent: the fake port looks.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/net_host_rig.h"

enum { HEAD = NET_DATAGRAM_HEAD_BYTES, STREAM_HEAD = NET_STREAM_HEAD_BYTES };

/* ---- who is let in ---------------------------------------------------------------------------------------- */

static void let_in(struct host_rig *rig, bool datagram, enum net_cipher cipher)
{
	struct net_guest peer;

	host_rig_peer(rig, &peer, datagram, cipher, cipher ? 2 : 0);
	peer.hello.resume[3] = 9;
	peer.hello.replies = 77;
	net_guest_make_hello(&peer);
	net_guest_say_hello(&peer);
	host_rig_poll(rig);
	assert_int_equal(net_guest_hear(&peer), NET_WELCOME);
	assert_int_equal(net_guest_hear(&peer), 0);
	assert_int_equal(peer.welcome.boot_id, 4711);
	assert_int_equal(peer.welcome.clock_ns, peer.hello.clock_ns);
	assert_int_equal(peer.welcome.now_ns, rig->clock.fake_ns);
	assert_int_equal(peer.welcome.datagram_bytes, datagram ? 1400 : 0);
	assert_int_not_equal(peer.welcome.name, 0);
	assert_int_equal(host_rig_last(rig)->tenant, cipher ? 2 : 5);
	assert_int_equal(host_rig_last(rig)->hello.resume[3], 9);
	assert_int_equal(host_rig_last(rig)->hello.replies, 77);
	assert_false(host_rig_last(rig)->confirmed);
	net_guest_ping(&peer);
	host_rig_poll(rig);
	assert_true(host_rig_last(rig)->confirmed);
	assert_int_equal(host_rig_last(rig)->chunks, 1);
	assert_int_equal(net_host_is_datagram(rig->host, host_rig_last(rig)->link), datagram);
}

static void welcomes(void **state)
{
	struct host_rig *rig = host_rig_create(NULL);
	uint64_t count = 0;

	(void)state;
	for (int datagram = 0; datagram < 2; datagram++)
		for (enum net_cipher cipher = NET_CIPHER_PLAIN; cipher < NET_CIPHER_END; cipher++) {
			if (cipher && !net_cipher_here(cipher))
				continue;
			let_in(rig, datagram, cipher);
			count++;
			assert_int_equal(RIG_COUNTER(rig, welcomed), count);
			assert_int_equal(RIG_COUNTER(rig, confirmed), count);
		}
	assert_int_equal(net_host_links(rig->host), count);
	host_rig_destroy(rig);
}

/* The least of what both said, and never less than every way carries. */
static void datagram_sizes(void **state)
{
	static const uint32_t sizes[][2] = {
		{ 0, 1232 }, { 1231, 1232 }, { 1500, 1500 }, { 16424, 16424 }, { 16425, 16424 }, { UINT32_MAX, 16424 } };
	struct host_rig *rig = host_rig_create(NULL);
	struct net_guest peer;

	(void)state;
	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		host_rig_peer(rig, &peer, true, NET_CIPHER_CHACHA, 1);
		peer.hello.datagram_bytes = sizes[i][0];
		net_guest_make_hello(&peer);
		net_guest_say_hello(&peer);
		host_rig_poll(rig);
		/* Half of the places are taken by now. */
		if (net_guest_hear(&peer) == NET_COOKIE) {
			net_guest_make_hello(&peer);
			net_guest_say_hello(&peer);
			host_rig_poll(rig);
			assert_int_equal(net_guest_hear(&peer), NET_WELCOME);
		}
		assert_int_equal(peer.welcome.datagram_bytes, sizes[i][1]);
	}
	host_rig_destroy(rig);
}

/* ---- who is refused --------------------------------------------------------------------------------------- */

/* Says what lies in peer->packet and expects REFUSED, counted, with nothing left of it. */
static void expect_refused(struct host_rig *rig, struct net_guest *peer, uint32_t why)
{
	const uint64_t before = RIG_COUNTER(rig, refused[why]);
	const uint32_t links = net_host_links(rig->host) - (peer->way.stream != NET_NO_STREAM);

	net_guest_say_hello(peer);
	host_rig_poll(rig);
	assert_int_equal(net_guest_hear(peer), NET_REFUSED);
	assert_int_equal(peer->refused.why, why);
	assert_int_equal(peer->refused.version, 1);
	assert_int_equal(peer->refused.ciphers & 1, peer->way.listener == RIG_PLAIN);
	assert_true(peer->refused.ciphers & 4);
	assert_int_equal(!!(peer->refused.ciphers & 2), net_cipher_here(NET_CIPHER_AESGCM));
	assert_int_equal(net_guest_hear(peer), 0);
	assert_int_equal(RIG_COUNTER(rig, refused[why]), before + 1);
	assert_int_equal(net_host_links(rig->host), links);
	if (peer->way.stream != NET_NO_STREAM)
		assert_true(fake_is_closed(&rig->fake, &peer->way));
	assert_int_equal(rig->owner_count, 0);
}

/* A peer whose stream is open. */
static void begin_peer(struct host_rig *rig, struct net_guest *peer, bool datagram, enum net_cipher cipher, uint32_t tenant)
{
	host_rig_peer(rig, peer, datagram, cipher, tenant);
	host_rig_poll(rig);
}

/* What is changed of a HELLO, at which offset of its body. */
static void refused_changed(struct host_rig *rig, bool datagram, enum net_cipher cipher, size_t at, uint32_t why)
{
	struct net_guest peer;

	begin_peer(rig, &peer, datagram, cipher, cipher ? 1 : 0);
	peer.packet[(datagram ? HEAD : STREAM_HEAD) + at] ^= 0x40;
	expect_refused(rig, &peer, why);
}

static void refusals(void **state)
{
	struct host_rig *rig = host_rig_create(NULL);
	struct net_guest peer;

	(void)state;
	for (int datagram = 0; datagram < 2; datagram++) {
		refused_changed(rig, datagram, NET_CIPHER_CHACHA, 0, NET_WHY_PROTOCOL);  /* magic */
		refused_changed(rig, datagram, NET_CIPHER_CHACHA, 8, NET_WHY_VERSION);
		refused_changed(rig, datagram, NET_CIPHER_CHACHA, 9, NET_WHY_VERSION);
		refused_changed(rig, datagram, NET_CIPHER_CHACHA, 10, NET_WHY_CIPHER);   /* one of another time */
		refused_changed(rig, datagram, NET_CIPHER_CHACHA, 11, NET_WHY_PROTOCOL); /* flags */
		refused_changed(rig, datagram, NET_CIPHER_CHACHA, 13, NET_WHY_PROTOCOL); /* reserved */
		refused_changed(rig, datagram, NET_CIPHER_CHACHA, 20, NET_WHY_KEY);      /* the key's name */
		refused_changed(rig, datagram, NET_CIPHER_CHACHA, 40, NET_WHY_KEY);      /* a cookie that was not sealed with */
		refused_changed(rig, datagram, NET_CIPHER_CHACHA, 64, NET_WHY_KEY);      /* the ephemeral key */
		refused_changed(rig, datagram, NET_CIPHER_CHACHA, 96, NET_WHY_KEY);      /* what is sealed */
		refused_changed(rig, datagram, NET_CIPHER_CHACHA, 151, NET_WHY_KEY);     /* the tag */
		refused_changed(rig, datagram, NET_CIPHER_PLAIN, 16, NET_WHY_PROTOCOL);  /* a key where none is needed */
		/* A key that nobody has. */
		begin_peer(rig, &peer, datagram, NET_CIPHER_CHACHA, 3);
		expect_refused(rig, &peer, NET_WHY_KEY);
		/* Plain where it is not taken. */
		begin_peer(rig, &peer, datagram, NET_CIPHER_CHACHA, 1);
		peer.cipher = NET_CIPHER_PLAIN;
		net_guest_make_hello(&peer);
		expect_refused(rig, &peer, NET_WHY_KEY);
	}
	host_rig_destroy(rig);
}

/* The name of one tenant's key, and sealed with another's. */
static void another_tenants_name(void **state)
{
	struct host_rig *rig = host_rig_create(NULL);
	struct net_guest peer, other;

	(void)state;
	begin_peer(rig, &peer, true, NET_CIPHER_CHACHA, 1);
	host_rig_peer(rig, &other, true, NET_CIPHER_CHACHA, 2);
	memcpy(peer.packet + HEAD + 16, other.packet + HEAD + 16, NET_NAME_BYTES);
	expect_refused(rig, &peer, NET_WHY_KEY);
	host_rig_destroy(rig);
}

/* What is behind a HELLO is zeros in a datagram, and nothing on a stream; shorter it does not come. */
static void lengths(void **state)
{
	struct host_rig *rig = host_rig_create(NULL);
	struct net_guest peer;

	(void)state;
	for (enum net_cipher cipher = NET_CIPHER_PLAIN; cipher <= NET_CIPHER_CHACHA; cipher += NET_CIPHER_CHACHA) {
		const size_t bytes = cipher ? 152 : 104;

		for (size_t cut = 0; cut <= bytes + 1; cut += cut < 62 || cut + 3 >= bytes ? 1 : 7) {
			if (cut == bytes)
				continue;
			begin_peer(rig, &peer, false, cipher, cipher ? 1 : 0);
			assert_int_equal(peer.packet_bytes, STREAM_HEAD + bytes);
			peer.packet_bytes = net_packet_clear(peer.packet, false, NET_HELLO, 0, cut);
			expect_refused(rig, &peer, NET_WHY_PROTOCOL);
		}
		begin_peer(rig, &peer, true, cipher, cipher ? 1 : 0);
		peer.packet[NET_HELLO_DATAGRAM_BYTES - 1] = 1;
		expect_refused(rig, &peer, NET_WHY_PROTOCOL);
		begin_peer(rig, &peer, true, cipher, cipher ? 1 : 0);
		peer.packet[HEAD + bytes] = 1;
		expect_refused(rig, &peer, NET_WHY_PROTOCOL);
	}
	host_rig_destroy(rig);
}

/* A datagram HELLO of another length than 512 is not even refused. */
static void short_datagrams(void **state)
{
	struct host_rig *rig = host_rig_create(NULL);
	struct net_guest peer;
	uint64_t malformed = 0;

	(void)state;
	host_rig_peer(rig, &peer, true, NET_CIPHER_CHACHA, 1);
	for (peer.packet_bytes = 0; peer.packet_bytes < NET_HELLO_DATAGRAM_BYTES; peer.packet_bytes++) {
		net_guest_say_hello(&peer);
		host_rig_poll(rig);
		assert_int_equal(RIG_COUNTER(rig, malformed), ++malformed);
	}
	assert_int_equal(rig->fake.puts, 0);
	net_guest_say_hello(&peer);
	host_rig_poll(rig);
	assert_int_equal(net_guest_hear(&peer), NET_WELCOME);
	host_rig_destroy(rig);
}

static void owner_refuses(void **state)
{
	struct host_rig *rig = host_rig_create(NULL);
	struct net_guest peer;

	(void)state;
	rig->welcome_why = NET_WHY_FULL;
	for (int datagram = 0; datagram < 2; datagram++) {
		begin_peer(rig, &peer, datagram, NET_CIPHER_CHACHA, 1);
		expect_refused(rig, &peer, NET_WHY_FULL);
	}
	rig->welcome_why = NET_WHY_BYE;
	net_host_refuse_all(rig->host, NET_WHY_DRAINING);
	for (int datagram = 0; datagram < 2; datagram++) {
		begin_peer(rig, &peer, datagram, NET_CIPHER_CHACHA, 1);
		expect_refused(rig, &peer, NET_WHY_DRAINING);
	}
	assert_int_equal(RIG_COUNTER(rig, welcomed), 0);
	host_rig_destroy(rig);
}

/* ---- HELLO again ------------------------------------------------------------------------------------------ */

static void repeated(void **state)
{
	struct host_rig *rig = host_rig_create(NULL);
	unsigned char first[NET_PACKET_BYTES_MAX];
	struct net_guest peer;
	size_t bytes;

	(void)state;
	host_rig_peer(rig, &peer, true, NET_CIPHER_CHACHA, 1);
	net_guest_say_hello(&peer);
	host_rig_poll(rig);
	bytes = fake_take(&rig->fake, &peer.way, first);
	for (int i = 0; i < 3; i++) {
		net_guest_say_hello(&peer);
		host_rig_wait(rig, RIG_HELLO_NS / 5);
		assert_int_equal(net_guest_hear(&peer), NET_WELCOME);
		assert_memory_equal(peer.heard, first, bytes);
	}
	assert_int_equal(RIG_COUNTER(rig, welcomed), 1);
	assert_int_equal(RIG_COUNTER(rig, hellos_again), 3);
	assert_int_equal(net_host_links(rig->host), 1);
	net_guest_ping(&peer);
	host_rig_poll(rig);
	assert_true(host_rig_last(rig)->confirmed);
	/* From another address it is somebody else. */
	host_rig_peer(rig, &peer, true, NET_CIPHER_CHACHA, 1);
	net_guest_say_hello(&peer);
	host_rig_poll(rig);
	peer.way = fake_way(RIG_SEALED, 99999);
	net_guest_say_hello(&peer);
	host_rig_poll(rig);
	assert_int_equal(RIG_COUNTER(rig, welcomed), 3);
	assert_int_equal(net_guest_hear(&peer), NET_WELCOME);
	assert_int_not_equal(net_guest_hear(&peer), NET_WELCOME);
	host_rig_destroy(rig);
}

/* A stream takes one. */
static void twice_on_a_stream(void **state)
{
	struct host_rig *rig = host_rig_create(NULL);
	struct net_guest peer;

	(void)state;
	host_rig_welcome(rig, &peer, false, NET_CIPHER_CHACHA);
	net_guest_say_hello(&peer);
	host_rig_poll(rig);
	assert_true(fake_is_closed(&rig->fake, &peer.way));
	assert_int_equal(RIG_COUNTER(rig, malformed), 1);
	assert_true(host_rig_last(rig)->gone);
	assert_int_equal(net_host_links(rig->host), 0);
	host_rig_destroy(rig);
}

/* A stream that has no room at first is welcomed once it has. */
static void welcome_later(void **state)
{
	struct host_rig *rig = host_rig_create(NULL);
	struct net_guest peer;

	(void)state;
	host_rig_peer(rig, &peer, false, NET_CIPHER_CHACHA, 1);
	fake_block(&rig->fake, &peer.way, true);
	net_guest_say_hello(&peer);
	host_rig_poll(rig);
	assert_int_equal(net_guest_hear(&peer), 0);
	fake_block(&rig->fake, &peer.way, false);
	host_rig_poll(rig);
	assert_int_equal(net_guest_hear(&peer), NET_WELCOME);
	assert_int_equal(net_guest_hear(&peer), 0);
	/* A datagram's is lost, and comes with the next HELLO. */
	host_rig_peer(rig, &peer, true, NET_CIPHER_CHACHA, 1);
	rig->fake.rooms_refused = 1;
	net_guest_say_hello(&peer);
	host_rig_poll(rig);
	assert_int_equal(net_guest_hear(&peer), 0);
	net_guest_say_hello(&peer);
	host_rig_poll(rig);
	assert_int_equal(net_guest_hear(&peer), NET_WELCOME);
	assert_int_equal(RIG_COUNTER(rig, welcomed), 2);
	host_rig_destroy(rig);
}

/* ---- cookies ---------------------------------------------------------------------------------------------- */

static void always_cookies(struct net_host_options *options)
{
	options->cookies = true;
}

static void cookies(void **state)
{
	struct host_rig *rig = host_rig_create(always_cookies);
	struct net_guest peer, other;

	(void)state;
	host_rig_peer(rig, &peer, true, NET_CIPHER_CHACHA, 1);
	net_guest_say_hello(&peer);
	host_rig_poll(rig);
	assert_int_equal(net_guest_hear(&peer), NET_COOKIE);
	assert_int_equal(RIG_COUNTER(rig, cookies), 1);
	assert_int_equal(net_host_links(rig->host), 0);
	/* Somebody else has no use for it; who is told another one. */
	host_rig_peer(rig, &other, true, NET_CIPHER_CHACHA, 1);
	memcpy(other.cookie, peer.cookie, NET_COOKIE_BYTES);
	net_guest_make_hello(&other);
	net_guest_say_hello(&other);
	host_rig_poll(rig);
	assert_int_equal(net_guest_hear(&other), NET_COOKIE);
	assert_memory_not_equal(other.cookie, peer.cookie, NET_COOKIE_BYTES);
	/* Nor at another listener. */
	other = peer;
	other.way.listener = RIG_PLAIN;
	net_guest_make_hello(&other);
	net_guest_say_hello(&other);
	host_rig_poll(rig);
	assert_int_equal(net_guest_hear(&other), NET_COOKIE);
	net_guest_make_hello(&peer);
	net_guest_say_hello(&peer);
	host_rig_poll(rig);
	assert_int_equal(net_guest_hear(&peer), NET_WELCOME);
	assert_int_equal(RIG_COUNTER(rig, cookies), 3);
	host_rig_destroy(rig);
}

static void stale_cookies(void **state)
{
	struct host_rig *rig = host_rig_create(always_cookies);
	struct net_guest peer;

	(void)state;
	for (int64_t age_ns = INT64_C(8) << 30; age_ns <= INT64_C(24) << 30; age_ns += INT64_C(8) << 30) {
		host_rig_peer(rig, &peer, true, NET_CIPHER_CHACHA, 1);
		net_guest_say_hello(&peer);
		host_rig_poll(rig);
		assert_int_equal(net_guest_hear(&peer), NET_COOKIE);
		net_guest_make_hello(&peer);
		net_guest_say_hello(&peer);
		host_rig_wait(rig, age_ns);
		/* Between 8.6 and 17.2 s. */
		assert_int_equal(net_guest_hear(&peer), age_ns < INT64_C(10) << 30 ? NET_WELCOME : age_ns > INT64_C(20) << 30 ? NET_COOKIE :
			peer.welcomed ? NET_WELCOME : NET_COOKIE);
	}
	host_rig_destroy(rig);
}

/* A stream has shown where it is by being one. */
static void no_cookies_on_streams(void **state)
{
	struct host_rig *rig = host_rig_create(always_cookies);
	struct net_guest peer;

	(void)state;
	host_rig_welcome(rig, &peer, false, NET_CIPHER_CHACHA);
	assert_int_equal(RIG_COUNTER(rig, cookies), 0);
	host_rig_destroy(rig);
}

/* ---- floods ----------------------------------------------------------------------------------------------- */

/* Who comes with keys, from everywhere, and never again: a quarter of the places, then only who can be reached. */
static void flood_of_datagrams(void **state)
{
	struct host_rig *rig = host_rig_create(NULL);
	struct net_guest peer;

	(void)state;
	for (uint32_t i = 0; i < 500; i++) {
		host_rig_peer(rig, &peer, true, NET_CIPHER_CHACHA, 1);
		net_guest_say_hello(&peer);
		if (i % 10 == 0)
			host_rig_poll(rig);
	}
	host_rig_poll(rig);
	assert_int_equal(net_host_links(rig->host), RIG_HALF_OPEN / 4 + 1);
	/* One is answered in a poll, those who came beside it are not; later all are asked for a cookie. */
	assert_true(RIG_COUNTER(rig, unanswered) > 0);
	assert_int_equal(RIG_COUNTER(rig, cookies) + RIG_COUNTER(rig, unanswered), 500 - RIG_HALF_OPEN / 4 - 1);
	assert_int_equal(RIG_COUNTER(rig, pushed_out), 0);
	/* In between somebody who answers comes in. */
	assert_int_equal(net_guest_hear(&peer), NET_COOKIE);
	net_guest_make_hello(&peer);
	net_guest_say_hello(&peer);
	host_rig_poll(rig);
	assert_int_equal(net_guest_hear(&peer), NET_WELCOME);
	fake_take_all(&rig->fake);
	host_rig_destroy(rig);
}

static void flood_of_streams(void **state)
{
	struct host_rig *rig = host_rig_create(NULL);
	struct net_guest peers[100];

	(void)state;
	for (uint32_t i = 0; i < 100; i++) {
		host_rig_peer(rig, &peers[i], false, NET_CIPHER_CHACHA, 1);
		host_rig_wait(rig, 1000);
		assert_true(net_host_links(rig->host) <= RIG_HALF_OPEN);
	}
	assert_int_equal(RIG_COUNTER(rig, opened), 100);
	assert_int_equal(RIG_COUNTER(rig, pushed_out), 100 - RIG_HALF_OPEN);
	/* The oldest go first. */
	for (uint32_t i = 0; i < 100; i++)
		assert_int_equal(fake_is_closed(&rig->fake, &peers[i].way), i < 100 - RIG_HALF_OPEN);
	net_guest_say_hello(&peers[99]);
	host_rig_poll(rig);
	assert_int_equal(net_guest_hear(&peers[99]), NET_WELCOME);
	host_rig_destroy(rig);
}

/* A HELLO under a key costs a curve operation, so that one is answered in a poll and the others wait: in order, and none for good. */
static void in_turn(void **state)
{
	struct host_rig *rig = host_rig_create(NULL);
	struct net_guest peers[5], plain;

	(void)state;
	for (uint32_t i = 0; i < 5; i++) {
		host_rig_peer(rig, &peers[i], false, NET_CIPHER_CHACHA, 1);
		net_guest_say_hello(&peers[i]);
	}
	host_rig_peer(rig, &plain, false, NET_CIPHER_PLAIN, 0);
	net_guest_say_hello(&plain);
	host_rig_poll(rig);
	assert_int_equal(RIG_COUNTER(rig, hellos_waited), 4);
	assert_int_equal(net_guest_hear(&peers[0]), NET_WELCOME);
	assert_int_equal(net_guest_hear(&plain), NET_WELCOME);
	assert_int_equal(net_guest_hear(&peers[1]), 0);
	assert_true(net_host_next_event_ns(rig->host) <= base_clock_now(&rig->clock));
	/* Who cannot wait is out, who goes is gone. */
	net_guest_say_hello(&peers[2]);
	fake_end(&rig->fake, &peers[3].way);
	host_rig_poll(rig);
	assert_int_equal(net_guest_hear(&peers[1]), NET_WELCOME);
	assert_true(fake_is_closed(&rig->fake, &peers[2].way));
	assert_int_equal(RIG_COUNTER(rig, malformed), 1);
	assert_int_equal(RIG_COUNTER(rig, abandoned), 1);
	host_rig_poll(rig);
	assert_int_equal(net_guest_hear(&peers[4]), NET_WELCOME);
	assert_int_equal(RIG_COUNTER(rig, welcomed), 4);
	/* What one says goes on as ever. */
	for (uint32_t i = 0; i < 5; i += 4) {
		net_guest_ping(&peers[i]);
		host_rig_poll(rig);
	}
	assert_int_equal(RIG_COUNTER(rig, confirmed), 2);
	assert_int_equal(net_host_links(rig->host), 4);
	host_rig_destroy(rig);
}

/* Who waits has a place like others that are half open. */
static void waiting_is_half_open(void **state)
{
	struct host_rig *rig = host_rig_create(NULL);
	struct net_guest peers[3 * RIG_HALF_OPEN];
	uint32_t welcomed = 0, closed = 0;

	(void)state;
	for (uint32_t i = 0; i < 3 * RIG_HALF_OPEN; i++) {
		host_rig_peer(rig, &peers[i], false, NET_CIPHER_CHACHA, 1);
		net_guest_say_hello(&peers[i]);
	}
	host_rig_poll(rig);
	assert_int_equal(net_host_links(rig->host), RIG_HALF_OPEN);
	assert_int_equal(RIG_COUNTER(rig, pushed_out), 2 * RIG_HALF_OPEN);
	/* So late that none may be half open any longer: those that had no turn have timed out, too. */
	host_rig_wait(rig, 2 * RIG_HELLO_NS);
	assert_int_equal(net_host_links(rig->host), 1);
	host_rig_poll(rig);
	for (uint32_t i = 0; i < 3 * RIG_HALF_OPEN; i++) {
		welcomed += net_guest_hear(&peers[i]) == NET_WELCOME;
		closed += fake_is_closed(&rig->fake, &peers[i].way);
	}
	assert_int_equal(welcomed, RIG_COUNTER(rig, welcomed));
	assert_int_equal(closed, RIG_COUNTER(rig, pushed_out) + RIG_COUNTER(rig, timed_out));
	assert_int_equal(RIG_COUNTER(rig, timed_out), RIG_HALF_OPEN - 1);
	host_rig_destroy(rig);
}

/* Strangers who say nothing push out one another, and nobody who has shown a key. */
static void flood_of_silence(void **state)
{
	struct host_rig *rig = host_rig_create(NULL);
	struct net_guest good[RIG_HALF_OPEN], silent;

	(void)state;
	for (int i = 0; i < RIG_HALF_OPEN / 2; i++)
		host_rig_welcome(rig, &good[i], false, NET_CIPHER_CHACHA);
	for (int i = 0; i < 50; i++) {
		host_rig_peer(rig, &silent, false, NET_CIPHER_CHACHA, 1);
		host_rig_poll(rig);
	}
	assert_int_equal(RIG_COUNTER(rig, pushed_out), 50 - RIG_HALF_OPEN / 2);
	for (int i = 0; i < RIG_HALF_OPEN / 2; i++) {
		net_guest_ping(&good[i]);
		host_rig_poll(rig);
		assert_true(rig->owners[i].confirmed);
	}
	/* Where all have, it is the oldest. */
	for (int i = 0; i <= RIG_HALF_OPEN; i++)
		host_rig_welcome(rig, &good[0], false, NET_CIPHER_CHACHA);
	assert_false(rig->owners[RIG_HALF_OPEN / 2 + RIG_HALF_OPEN].gone);
	assert_true(rig->owners[RIG_HALF_OPEN / 2].gone);
	assert_false(rig->owners[RIG_HALF_OPEN / 2 + 1].gone);
	host_rig_destroy(rig);
}

/* HELLOs that do not open cost as much as those that do: beyond so many in a second only who can be reached is listened to. */
static void flood_of_bad_hellos(void **state)
{
	struct host_rig *rig = host_rig_create(NULL);
	struct net_guest bad, good;

	(void)state;
	host_rig_peer(rig, &bad, true, NET_CIPHER_CHACHA, 1);
	bad.packet[NET_DATAGRAM_HEAD_BYTES + 100] ^= 1;
	for (int i = 0; i < 600; i++) {
		net_guest_say_hello(&bad);
		host_rig_poll(rig);
	}
	assert_int_equal(RIG_COUNTER(rig, refused[NET_WHY_KEY]), 512);
	assert_int_equal(RIG_COUNTER(rig, cookies), 88);
	host_rig_peer(rig, &good, true, NET_CIPHER_CHACHA, 1);
	net_guest_say_hello(&good);
	host_rig_poll(rig);
	assert_int_equal(net_guest_hear(&good), NET_COOKIE);
	net_guest_make_hello(&good);
	net_guest_say_hello(&good);
	host_rig_poll(rig);
	assert_int_equal(net_guest_hear(&good), NET_WELCOME);
	host_rig_wait(rig, INT64_C(1) << 30);
	host_rig_welcome(rig, &good, true, NET_CIPHER_CHACHA);
	fake_take_all(&rig->fake);
	host_rig_destroy(rig);
}

/* Those who are confirmed are never pushed out; where they have all places, the next one is refused. */
static void all_places_taken(void **state)
{
	struct host_rig *rig = host_rig_create(NULL);
	struct net_guest peers[RIG_LINKS], one;

	(void)state;
	for (uint32_t i = 0; i < RIG_LINKS; i++)
		host_rig_confirm(rig, &peers[i], i % 2, NET_CIPHER_CHACHA);
	assert_int_equal(net_host_links(rig->host), RIG_LINKS);
	fake_connect(&rig->fake, RIG_SEALED, &one.way);
	host_rig_poll(rig);
	assert_true(fake_is_closed(&rig->fake, &one.way));
	assert_int_equal(rig->fake.refused, 1);
	assert_int_equal(RIG_COUNTER(rig, refused[NET_WHY_FULL]), 1);
	host_rig_peer(rig, &one, true, NET_CIPHER_CHACHA, 1);
	net_guest_say_hello(&one);
	host_rig_poll(rig);
	assert_int_equal(net_guest_hear(&one), NET_REFUSED);
	assert_int_equal(one.refused.why, NET_WHY_FULL);
	assert_int_equal(RIG_COUNTER(rig, refused[NET_WHY_FULL]), 2);
	assert_int_equal(RIG_COUNTER(rig, pushed_out), 0);
	fake_end(&rig->fake, &peers[0].way);
	host_rig_poll(rig);
	assert_true(rig->owners[0].gone);
	net_guest_say_hello(&one);
	host_rig_poll(rig);
	assert_int_equal(net_guest_hear(&one), NET_WELCOME);
	host_rig_destroy(rig);
}

/* ---- time ------------------------------------------------------------------------------------------------- */

static void half_open_for_too_long(void **state)
{
	struct host_rig *rig = host_rig_create(NULL);
	struct net_guest silent, stream, datagram, done;

	(void)state;
	assert_int_equal(net_host_next_event_ns(rig->host), INT64_MAX);
	host_rig_confirm(rig, &done, false, NET_CIPHER_CHACHA);
	assert_int_equal(net_host_next_event_ns(rig->host), INT64_MAX);
	host_rig_peer(rig, &silent, false, NET_CIPHER_CHACHA, 1);
	host_rig_poll(rig);
	assert_int_equal(net_host_next_event_ns(rig->host), rig->clock.fake_ns + RIG_HELLO_NS);
	host_rig_welcome(rig, &stream, false, NET_CIPHER_CHACHA);
	host_rig_welcome(rig, &datagram, true, NET_CIPHER_CHACHA);
	host_rig_wait(rig, RIG_HELLO_NS - 1);
	assert_int_equal(RIG_COUNTER(rig, timed_out), 0);
	host_rig_wait(rig, 1);
	assert_int_equal(RIG_COUNTER(rig, timed_out), 3);
	assert_int_equal(net_host_links(rig->host), 1);
	assert_true(fake_is_closed(&rig->fake, &silent.way) && fake_is_closed(&rig->fake, &stream.way));
	assert_true(rig->owners[1].gone && rig->owners[2].gone && !rig->owners[0].gone);
	assert_false(fake_is_closed(&rig->fake, &done.way));
	/* Its name is nobody's any more. */
	net_guest_ping(&datagram);
	host_rig_poll(rig);
	assert_int_equal(net_guest_hear(&datagram), NET_REFUSED);
	assert_int_equal(datagram.refused.why, NET_WHY_UNKNOWN);
	host_rig_destroy(rig);
}

static void idle(void **state)
{
	struct host_rig *rig = host_rig_create(NULL);
	struct net_guest first, second, stream;

	(void)state;
	host_rig_confirm(rig, &first, true, NET_CIPHER_CHACHA);
	host_rig_confirm(rig, &second, true, NET_CIPHER_PLAIN);
	host_rig_confirm(rig, &stream, false, NET_CIPHER_CHACHA);
	assert_int_equal(net_host_next_event_ns(rig->host), rig->clock.fake_ns + RIG_IDLE_NS);
	host_rig_wait(rig, RIG_IDLE_NS - 1);
	net_guest_ping(&first);
	host_rig_poll(rig);
	host_rig_wait(rig, 1);
	assert_int_equal(RIG_COUNTER(rig, idle), 1);
	assert_true(!rig->owners[0].gone && rig->owners[1].gone && !rig->owners[2].gone);
	/* What does not open keeps nobody alive. */
	host_rig_wait(rig, RIG_IDLE_NS - 2);
	first.packets.send.key[0] ^= 1;
	net_guest_ping(&first);
	host_rig_poll(rig);
	assert_int_equal(RIG_COUNTER(rig, bad_packets), 1);
	host_rig_wait(rig, 1);
	assert_int_equal(RIG_COUNTER(rig, idle), 2);
	assert_int_equal(RIG_COUNTER(rig, timed_out), 0);
	assert_int_equal(net_host_links(rig->host), 1);
	host_rig_destroy(rig);
}

static void options(void **state)
{
	struct net_host_options options = { .links_max = 1, .half_open_max = 1, .key_count = NET_KEYS_MAX + 1 };
	struct net_host *host;

	(void)state;
	assert_int_equal(net_host_create(&host, &options), -EINVAL);
	options = (struct net_host_options){ .links_max = 1, .half_open_max = 1, .listener_count = NET_LISTENERS_MAX + 1 };
	assert_int_equal(net_host_create(&host, &options), -EINVAL);
	options = (struct net_host_options){ .half_open_max = 1 };
	assert_int_equal(net_host_create(&host, &options), -EINVAL);
	options = (struct net_host_options){ .links_max = 1 };
	assert_int_equal(net_host_create(&host, &options), -EINVAL);
	net_host_destroy(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(welcomes),
		cmocka_unit_test(datagram_sizes),
		cmocka_unit_test(refusals),
		cmocka_unit_test(another_tenants_name),
		cmocka_unit_test(lengths),
		cmocka_unit_test(short_datagrams),
		cmocka_unit_test(owner_refuses),
		cmocka_unit_test(repeated),
		cmocka_unit_test(twice_on_a_stream),
		cmocka_unit_test(welcome_later),
		cmocka_unit_test(cookies),
		cmocka_unit_test(stale_cookies),
		cmocka_unit_test(no_cookies_on_streams),
		cmocka_unit_test(flood_of_datagrams),
		cmocka_unit_test(flood_of_streams),
		cmocka_unit_test(in_turn),
		cmocka_unit_test(waiting_is_half_open),
		cmocka_unit_test(flood_of_silence),
		cmocka_unit_test(flood_of_bad_hellos),
		cmocka_unit_test(all_places_taken),
		cmocka_unit_test(half_open_for_too_long),
		cmocka_unit_test(idle),
		cmocka_unit_test(options),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
