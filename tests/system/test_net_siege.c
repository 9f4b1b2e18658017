/*
 * Time limit: 300 s
 *
 * The network front stands a siege. Thousands of connections are held (ATTND_SIEGE_IDLE says how many, up to 10,000), six citizens
 * work over TCP, UDP and a Unix socket all the time, and one after the other come: slow readers, half-open floods, frames that are too
 * long, wrong keys, repeated packets, truncated handshakes, garbage, packets for nobody, and packets that come byte by byte. Each is
 * counted under its own name, as often as it came, and nothing else is; every answer that a citizen gets is the right one, and nobody's
 * connection breaks; the daemon's memory stays what it was given; and whoever comes afterwards is let in.
 */
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base_bytes.h"
#include "base/base_rand.h"
#include "tests/system/sys_siege.h"

enum {
	ENEMIES = 128, SOCKETS = 512, /* at most, at a time */
	BURST = 32,                   /* datagrams until it is waited for them to be counted: none is lost in the kernel */
	READERS = 64, DATAGRAM_READERS = 8, /* whose windows are twice as much as there is memory for results */
	ASKED_BYTES = 60 << 10,       /* a block of 64 KiB, of a request as of a result */
	READER_BYTES = 4096,          /* of a slow reader's in the kernel */
	STREAM_BYTES = 40 << 10,      /* the daemon's buffer of a stream that is not read, which is not of [net] memory */
	SILENT = 400, HELLOS = 100,
	LONG_FRAMES = 60, LONG_DATAGRAMS = 30,
	WRONG_KEYS = 150,
	REPEATED = 300, HELLOS_REPEATED = 50, STREAMS_REPEATED = 40,
	TRUNCATED = 100,
	GARBAGE = 2000, GARBAGE_HELLOS = 50, GARBAGE_STREAMS = 50,
	UNKNOWN = 300, ANSWER_BYTES = 40,
	TRICKLES = 48, STRANGE_TRICKLES = 30, TRICKLED_BYTES = 20,
	HELLO_BYTES = 156, WELCOME_BYTES = 140, /* on a stream, sealed, with their heads */
};

#define ANY INFINITY

static struct sys_siege siege;
static struct siege_enemy enemies[ENEMIES];
static int sockets[SOCKETS];
static uint32_t enemy_count, socket_count;
static uint64_t seed = 1;

/* ---- tools of war ------------------------------------------------------------------------------------------- */

static struct siege_enemy *enemy_open(const struct siege_target *target, int receive_bytes)
{
	struct siege_enemy *enemy = &enemies[enemy_count];

	assert_true(enemy_count < ENEMIES);
	assert_int_equal(siege_enemy_open(enemy, target, receive_bytes), 0);
	enemy_count++;
	return enemy;
}

/* One that makes packets, for sockets which are not his. */
static struct siege_enemy *enemy_make(const struct siege_target *target)
{
	struct siege_enemy *enemy = &enemies[enemy_count];

	assert_true(enemy_count < ENEMIES);
	assert_int_equal(siege_enemy_make(enemy, target), 0);
	enemy_count++;
	return enemy;
}

static struct siege_enemy *enemy_enter(const struct siege_target *target, int receive_bytes)
{
	struct siege_enemy *enemy = enemy_open(target, receive_bytes);

	assert_int_equal(siege_enemy_enter(enemy), 0);
	return enemy;
}

static int socket_open(const struct siege_target *target)
{
	assert_true(socket_count < SOCKETS);
	sockets[socket_count] = siege_connect(target, 0);
	assert_true(sockets[socket_count] >= 0);
	return sockets[socket_count++];
}

static void let_go(void)
{
	while (enemy_count > 0)
		siege_enemy_close(&enemies[--enemy_count]);
	while (socket_count > 0)
		close(sockets[--socket_count]);
}

static void say(int fd, const void *bytes, size_t count)
{
	assert_int_equal(siege_send(fd, bytes, count), 0);
}

#define AWAIT(least, ...) sys_siege_await(&siege, least, (const char *const[]){ __VA_ARGS__, NULL })

static void make_random(unsigned char *bytes, size_t count)
{
	for (size_t i = 0; i < count; i++)
		bytes[i] = (unsigned char)base_rand_next(&seed);
}

/* An attack, while the town goes on; then what it came to. */
static void besiege(void (*attack)(void), uint64_t more_bytes, const struct sys_siege_expected *expected)
{
	sys_siege_note(&siege);
	attack();
	sys_siege_alive(&siege);
	sys_siege_memory(&siege, more_bytes);
	let_go();
	for (const struct sys_siege_expected *one = expected; one->name; one++)
		AWAIT(one->least, one->name);
	sys_siege_await_peace(&siege);
	sys_siege_expect(&siege, expected);
	sys_siege_newcomers(&siege);
	sys_siege_await_peace(&siege);
	assert_true(sys_daemon_alive(&siege.net.daemon));
}

/* ---- slow readers ------------------------------------------------------------------------------------------- */

/* Together they are owed more than there is memory for, and read nothing of it. What they have is wanted by others, who wait no longer than
 * until the first of them is let go of. */
static void read_nothing(void)
{
	for (uint32_t i = 0; i < READERS; i++) {
		struct siege_enemy *enemy = enemy_enter(&siege.tcp, READER_BYTES);

		while (siege_enemy_ask(enemy, ASKED_BYTES) == 0)
			;
		assert_int_equal(siege_enemy_talk(enemy), 0);
	}
	for (uint32_t i = 0; i < DATAGRAM_READERS; i++) {
		struct siege_enemy *enemy = enemy_enter(&siege.udp, 0);

		for (uint32_t j = 0; j < 16; j++)
			assert_int_equal(siege_enemy_ask(enemy, 1000), 0);
		assert_int_equal(siege_enemy_talk(enemy), 0);
	}
	AWAIT(1, "slow");
}

static void slow_readers(void **state)
{
	(void)state;
	besiege(read_nothing, READERS * STREAM_BYTES,
		(const struct sys_siege_expected[]){ { "slow", 1, READERS + DATAGRAM_READERS }, { "port.no_room", 0, ANY },
			{ "expired", 0, READERS + DATAGRAM_READERS }, { "dropped", 0, ANY }, { NULL, 0, 0 } });
}

/* ---- half open ---------------------------------------------------------------------------------------------- */

static void say_nothing(void)
{
	for (uint32_t i = 0; i < SILENT; i++)
		(void)socket_open(&siege.tcp);
	AWAIT(SILENT, "pushed_out", "timed_out");
}

static void half_open_streams(void **state)
{
	(void)state;
	besiege(say_nothing, 0,
		(const struct sys_siege_expected[]){ { "opened", SILENT, SILENT }, { "pushed_out", 1, SILENT - SIEGE_HALF_OPEN },
			{ "timed_out", SIEGE_HALF_OPEN, SILENT - 1 }, { NULL, 0, 0 } });
}

/* Good ones, and no more: beyond a quarter of the places each has to show that it can be reached. Those before are said one by one, because
 * of several in a poll one is answered. */
static void say_hello(void)
{
	for (uint32_t i = 0; i < HELLOS; i++) {
		struct siege_enemy *enemy = enemy_open(&siege.udp, 0);

		siege_enemy_hello(enemy);
		say(enemy->fd, enemy->packet, enemy->bytes);
		if (i <= SIEGE_HALF_OPEN / 4 || i % BURST == BURST - 1)
			AWAIT(i + 1, "welcomed", "cookies");
	}
	AWAIT(HELLOS, "welcomed", "cookies");
}

static void half_open_datagrams(void **state)
{
	(void)state;
	besiege(say_hello, 0,
		(const struct sys_siege_expected[]){ { "cookies", 1, HELLOS - 1 }, { "timed_out", SIEGE_HALF_OPEN / 4 + 1, HELLOS },
			{ NULL, 0, 0 } });
}

/* ---- too long ----------------------------------------------------------------------------------------------- */

static void say_too_much(void)
{
	static const unsigned char frames[][4] = {
		{ 0x11, 0x40, 0, NET_DATA }, { 0xff, 0xff, 0xff, NET_DATA }, { 0xff, 0xff, 0xff, NET_HELLO }, { 0xfd, 1, 0, NET_HELLO } };
	static unsigned char datagram[20000] = { NET_DATA };

	for (uint32_t i = 0; i < LONG_FRAMES; i++) {
		/* The last one is too long for a stranger alone. */
		const bool is_known = i % 5 == 4;
		const int fd = is_known ? enemy_enter(&siege.tcp, 0)->fd : socket_open(&siege.tcp);

		say(fd, frames[is_known ? i % 3 : i % 5], sizeof(frames[0]));
		assert_true(siege_is_closed(fd));
	}
	for (uint32_t i = 0; i < LONG_DATAGRAMS; i++)
		say(i ? sockets[socket_count - 1] : socket_open(&siege.udp), datagram, sizeof(datagram) - i);
}

static void frames_too_long(void **state)
{
	(void)state;
	besiege(say_too_much, 0,
		(const struct sys_siege_expected[]){ { "oversized", LONG_FRAMES, LONG_FRAMES },
			{ "port.received_cut", LONG_DATAGRAMS, LONG_DATAGRAMS }, { "expired", LONG_FRAMES / 5, LONG_FRAMES / 5 }, { NULL, 0, 0 } });
}

/* ---- wrong keys --------------------------------------------------------------------------------------------- */

/* REFUSED, and why. */
static void expect_refused(int fd, bool datagram, uint32_t why)
{
	unsigned char packet[NET_PACKET_BYTES_MAX];
	const size_t head = net_packet_head_bytes(datagram), got = siege_receive(fd, packet, sizeof(packet), SIEGE_WAIT_MS);
	struct net_refused refused;

	assert_int_equal(got, head + NET_REFUSED_BYTES);
	assert_int_equal(net_refused_read(packet + head, NET_REFUSED_BYTES, &refused), 0);
	assert_int_equal(refused.why, why);
}

/* The right name and the wrong key; and, of each third one, a name that nobody has. */
static void wrong_hello(struct siege_enemy *enemy, uint32_t i)
{
	siege_enemy_wrong_hello(enemy);
	if (i % 3 == 0)
		enemy->packet[net_packet_head_bytes(enemy->target->datagram) + 16] ^= 1;
}

static void knock_with_wrong_keys(void)
{
	struct siege_enemy *enemy = enemy_make(&siege.tcp);

	for (uint32_t i = 0; i < WRONG_KEYS; i++) {
		const int fd = socket_open(&siege.tcp);

		wrong_hello(enemy, i);
		say(fd, enemy->packet, enemy->bytes);
		expect_refused(fd, false, NET_WHY_KEY);
		assert_true(siege_is_closed(fd));
	}
	enemy = enemy_open(&siege.udp, 0);
	for (uint32_t i = 0; i < WRONG_KEYS; i++) {
		wrong_hello(enemy, i);
		say(enemy->fd, enemy->packet, enemy->bytes);
		expect_refused(enemy->fd, true, NET_WHY_KEY);
	}
}

static void wrong_keys(void **state)
{
	(void)state;
	besiege(knock_with_wrong_keys, 0,
		(const struct sys_siege_expected[]){ { "refused_key", 2 * WRONG_KEYS, 2 * WRONG_KEYS }, { NULL, 0, 0 } });
}

/* ---- repeated ----------------------------------------------------------------------------------------------- */

/* What a citizen said is said again, from where he is and from elsewhere. */
static void repeat_data(void)
{
	const int elsewhere = socket_open(&siege.udp);
	unsigned char packet[NET_PACKET_BYTES_MAX];
	const size_t bytes = sys_tap_data(&siege.tap, packet);

	assert_true(bytes > 0);
	for (uint32_t i = 0; i < REPEATED; i++) {
		if (i % 3)
			sys_tap_say(&siege.tap, packet, bytes);
		else
			say(elsewhere, packet, bytes);
		if (i % BURST == BURST - 1)
			AWAIT(i + 1, "replays");
	}
	AWAIT(REPEATED, "replays");
	assert_int_equal(siege_receive(elsewhere, packet, sizeof(packet), 0), 0); /* nothing is answered */
}

static void repeat_hello(void)
{
	const int elsewhere = socket_open(&siege.udp);
	unsigned char packet[NET_PACKET_BYTES_MAX];
	const size_t bytes = sys_tap_hello(&siege.tap, packet);

	assert_int_equal(bytes, NET_HELLO_DATAGRAM_BYTES);
	for (uint32_t i = 0; i < HELLOS_REPEATED; i++) {
		if (i % 2)
			sys_tap_say(&siege.tap, packet, bytes);
		else
			say(elsewhere, packet, bytes);
		AWAIT(i + 1, "hellos_again", "welcomed");
	}
}

/* Who repeats another's HELLO is welcomed, and cannot say anything: not even what that one said then. */
static void repeat_streams(void)
{
	struct siege_enemy *enemy = enemy_open(&siege.tcp, 0);
	unsigned char hello[HELLO_BYTES], bytes[512];

	assert_int_equal(siege_enemy_half_enter(enemy), 0);
	assert_int_equal(enemy->bytes, sizeof(hello));
	memcpy(hello, enemy->packet, sizeof(hello));
	assert_true(siege_enemy_next(enemy));
	say(enemy->fd, enemy->packet, enemy->bytes);
	for (uint32_t i = 0; i < STREAMS_REPEATED; i++) {
		const int fd = socket_open(&siege.tcp);

		say(fd, hello, sizeof(hello));
		assert_int_equal(siege_receive(fd, bytes, sizeof(bytes), SIEGE_WAIT_MS), WELCOME_BYTES);
		if (i % 2) {
			say(fd, enemy->packet, enemy->bytes);
			assert_true(siege_is_closed(fd));
		}
		close(fd);
		socket_count--;
	}
}

static void repeat_all(void)
{
	repeat_data();
	repeat_hello();
	repeat_streams();
}

static void repeated(void **state)
{
	(void)state;
	besiege(repeat_all, 0,
		/* A HELLO that is repeated for longer than somebody may be half open is a new one. */
		(const struct sys_siege_expected[]){ { "replays", REPEATED, REPEATED },
			{ "hellos_again", HELLOS_REPEATED / 2, HELLOS_REPEATED - 2 }, { "timed_out", 2, HELLOS_REPEATED / 2 },
			{ "bad_packets", STREAMS_REPEATED / 2, STREAMS_REPEATED / 2 }, { "abandoned", STREAMS_REPEATED / 2, STREAMS_REPEATED / 2 },
			{ "expired", 1, 1 }, { NULL, 0, 0 } });
}

/* ---- truncated ---------------------------------------------------------------------------------------------- */

static void say_half(void)
{
	const struct linger reset = { .l_onoff = 1 };
	struct siege_enemy *enemy = enemy_make(&siege.tcp);

	siege_enemy_hello(enemy);
	for (uint32_t i = 0; i < TRUNCATED; i++) {
		const int fd = socket_open(&siege.tcp);

		say(fd, enemy->packet, enemy->bytes * (i % 10) / 10);
		if (i % 2)
			assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)), 0);
		close(fd);
		socket_count--;
		if (i % BURST == BURST - 1)
			AWAIT(i + 1, "truncated", "timed_out");
	}
	AWAIT(TRUNCATED, "truncated", "timed_out");
	enemy = enemy_open(&siege.udp, 0);
	siege_enemy_hello(enemy);
	for (uint32_t i = 0; i < TRUNCATED; i++) {
		say(enemy->fd, enemy->packet, enemy->bytes - 1 - i);
		if (i % BURST == BURST - 1)
			AWAIT(i + 1, "malformed");
	}
	AWAIT(TRUNCATED, "malformed");
}

static void truncated(void **state)
{
	(void)state;
	besiege(say_half, 0,
		/* Over io_uring, while the daemon sleeps, the kernel does not tell of one in a thousand streams that are reset just after they were
		 * accepted: silence may be noticed before they are looked at (net_uring_streams_look). Those that end in order never are. */
		(const struct sys_siege_expected[]){ { "truncated", TRUNCATED * 9 / 10, TRUNCATED }, { "timed_out", 0, TRUNCATED / 10 },
			{ "malformed", TRUNCATED, TRUNCATED }, { NULL, 0, 0 } });
}

/* ---- garbage ------------------------------------------------------------------------------------------------ */

static void throw_garbage(void)
{
	static const char http[] = "GET / HTTP/1.1\r\nHost: here\r\n\r\n";
	const int fd = socket_open(&siege.udp);
	unsigned char packet[1400];

	for (uint32_t i = 0; i < GARBAGE; i++) {
		make_random(packet, sizeof(packet));
		say(fd, packet, base_rand_below(&seed, sizeof(packet)));
		if (i % BURST == BURST - 1)
			AWAIT(i + 1, "malformed");
	}
	AWAIT(GARBAGE, "malformed");
	/* In the shape of a HELLO. */
	for (uint32_t i = 0; i < GARBAGE_HELLOS; i++) {
		make_random(packet, sizeof(packet));
		net_packet_clear(packet, true, NET_HELLO, 0, 0);
		say(fd, packet, NET_HELLO_DATAGRAM_BYTES);
		expect_refused(fd, true, NET_WHY_PROTOCOL);
	}
	for (uint32_t i = 0; i < GARBAGE_STREAMS; i++) {
		const int stream = socket_open(&siege.tcp);

		say(stream, http, sizeof(http) - 1);
		assert_true(siege_is_closed(stream));
	}
}

static void garbage(void **state)
{
	(void)state;
	besiege(throw_garbage, 0,
		(const struct sys_siege_expected[]){ { "malformed", GARBAGE + GARBAGE_STREAMS, GARBAGE + GARBAGE_STREAMS },
			{ "refused_protocol", GARBAGE_HELLOS, GARBAGE_HELLOS }, { NULL, 0, 0 } });
}

/* ---- to nobody ---------------------------------------------------------------------------------------------- */

/* The answer is a REFUSED, never longer than the question; what is shorter gets none. */
static void ask_nobody(void)
{
	const int fd = socket_open(&siege.udp);
	unsigned char packet[1400], answer[NET_PACKET_BYTES_MAX];

	for (uint32_t i = 0; i < UNKNOWN; i++) {
		make_random(packet, sizeof(packet));
		net_packet_clear(packet, true, NET_DATA, base_rand_next(&seed), 0);
		base_store64(packet + 16, i);
		say(fd, packet, ANSWER_BYTES + i * 4);
		assert_int_equal(siege_receive(fd, answer, sizeof(answer), SIEGE_WAIT_MS), ANSWER_BYTES);
		say(fd, packet, ANSWER_BYTES - 1 - i % 16);
	}
	AWAIT(UNKNOWN, "malformed");
	assert_int_equal(siege_receive(fd, answer, sizeof(answer), 0), 0);
}

static void unknown_names(void **state)
{
	(void)state;
	besiege(ask_nobody, 0,
		(const struct sys_siege_expected[]){ { "refused_unknown", UNKNOWN, UNKNOWN }, { "malformed", UNKNOWN, UNKNOWN }, { NULL, 0, 0 } });
}

/* ---- byte by byte ------------------------------------------------------------------------------------------- */

/* More of them than there is memory for packets in pieces: who began first makes room, also for a citizen whose packets come in pieces. And
 * strangers, for whom there is none of that memory. */
static void trickle(void)
{
	static const unsigned char head[4] = { 0x10, 0x40, 0, NET_DATA };
	struct siege_enemy *stranger = enemy_make(&siege.tcp);
	int strange[STRANGE_TRICKLES], fds[TRICKLES];

	siege_enemy_hello(stranger);
	for (uint32_t i = 0; i < TRICKLES; i++) {
		fds[i] = enemy_enter(&siege.tcp, 0)->fd;
		say(fds[i], head, sizeof(head));
	}
	for (uint32_t i = 0; i < STRANGE_TRICKLES; i++)
		strange[i] = socket_open(&siege.tcp);
	for (uint32_t at = 0; at < TRICKLED_BYTES; at++) {
		/* Some are closed by now, and some of the strangers will be. */
		for (uint32_t i = 0; i < TRICKLES; i++)
			(void)!send(fds[i], &stranger->packet[at], 1, MSG_NOSIGNAL);
		for (uint32_t i = 0; i < STRANGE_TRICKLES; i++)
			(void)!send(strange[i], &stranger->packet[at], 1, MSG_NOSIGNAL);
		sys_sleep_ms(1);
	}
	AWAIT(TRICKLES - SIEGE_PARTS, "no_memory_for_packets");
	sys_siege_alive(&siege);
	sys_siege_memory(&siege, 0);
	let_go();
	AWAIT(TRICKLES + STRANGE_TRICKLES, "no_memory_for_packets", "truncated", "timed_out");
}

static void byte_by_byte(void **state)
{
	(void)state;
	besiege(trickle, 0,
		(const struct sys_siege_expected[]){ { "no_memory_for_packets", TRICKLES - SIEGE_PARTS, TRICKLES },
			{ "truncated", 0, TRICKLES + STRANGE_TRICKLES }, { "timed_out", 0, STRANGE_TRICKLES },
			{ "expired", TRICKLES, TRICKLES }, { NULL, 0, 0 } });
}

/* ---- all of it ---------------------------------------------------------------------------------------------- */

static int begin(void **state)
{
	(void)state;
	sys_siege_start(&siege);
	return 0;
}

static int end(void **state)
{
	(void)state;
	let_go();
	sys_siege_stop(&siege);
	return 0;
}

/* What an attack that failed has left is not to be in the next one's way. */
static int clean(void **state)
{
	(void)state;
	let_go();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(slow_readers, clean),
		cmocka_unit_test_teardown(half_open_streams, clean),
		cmocka_unit_test_teardown(half_open_datagrams, clean),
		cmocka_unit_test_teardown(frames_too_long, clean),
		cmocka_unit_test_teardown(wrong_keys, clean),
		cmocka_unit_test_teardown(repeated, clean),
		cmocka_unit_test_teardown(truncated, clean),
		cmocka_unit_test_teardown(garbage, clean),
		cmocka_unit_test_teardown(unknown_names, clean),
		cmocka_unit_test_teardown(byte_by_byte, clean),
	};

	if (getenv("ATTND_TEST_FILTER"))
		cmocka_set_test_filter(getenv("ATTND_TEST_FILTER"));
	return cmocka_run_group_tests(tests, begin, end);
}
