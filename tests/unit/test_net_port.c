/*
 * The transports over the kernel's network: each test runs over each of them. Contents and order, slow readers, ends of all kinds, sizes,
 * sleeping.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base_clock.h"
#include "base/base_rand.h"
#include "tests/unit/net_port_rig.h"

static struct rig rig;

static int teardown(void **state)
{
	(void)state;
	port_rig_stop(&rig);
	return 0;
}

/* ---- contents and order ----------------------------------------------------------------------------------- */

static void test_all_listeners(void **state)
{
	const bool six = port_rig_has_ipv6();
	int fds[8], count = 0;

	port_rig_listen(&rig, NET_PORT_TCP, "127.0.0.1");
	port_rig_listen(&rig, NET_PORT_UNIX, "/echo.sock");
	port_rig_listen(&rig, NET_PORT_UDP, "127.0.0.1");
	if (six) {
		port_rig_listen(&rig, NET_PORT_TCP, "::1");
		port_rig_listen(&rig, NET_PORT_TCP, "::");
		port_rig_listen(&rig, NET_PORT_UDP, "::1");
		port_rig_listen(&rig, NET_PORT_UDP, "::");
	}
	port_rig_start_or_skip(&rig, *state, 16);
	fds[count++] = port_rig_connect(&rig, 0, NULL);
	fds[count++] = port_rig_connect(&rig, 1, NULL);
	if (six) {
		fds[count++] = port_rig_connect(&rig, 3, NULL);
		fds[count++] = port_rig_connect(&rig, 4, "::1");
		fds[count++] = port_rig_connect(&rig, 4, "127.0.0.1");
	}
	for (int i = 0; i < 50 * count; i++)
		port_rig_echo(&rig, fds[i % count], (size_t)(1 + i * 37 % 5000), (uint64_t)i);
	for (int i = 0; i < count; i++)
		close(fds[i]);
	port_rig_until_gone(&rig, (uint32_t)count);

	count = 0;
	fds[count++] = port_rig_connect(&rig, 2, NULL);
	if (six) {
		fds[count++] = port_rig_connect(&rig, 5, NULL);
		fds[count++] = port_rig_connect(&rig, 6, "::1");
		fds[count++] = port_rig_connect(&rig, 6, "127.0.0.1");
	}
	for (int i = 0; i < 50 * count; i++)
		port_rig_echo_datagram(&rig, fds[i % count], (size_t)(1 + i * 37 % 5000), (uint64_t)i);
	for (int i = 0; i < count; i++)
		close(fds[i]);
	assert_int_equal(rig.wrong, 0);
}

/* Who is at the other end: the same for each of a client's datagrams, another one for another client. */
static void test_ways(void **state)
{
	struct ucred who;
	int a, b;

	port_rig_listen(&rig, NET_PORT_TCP, "127.0.0.1");
	port_rig_listen(&rig, NET_PORT_UNIX, "/echo.sock");
	port_rig_start_or_skip(&rig, *state, 4);
	a = port_rig_connect(&rig, 0, NULL);
	b = port_rig_connect(&rig, 1, NULL);
	assert_int_equal(rig.streams[0].way.listener, 0);
	assert_int_equal(rig.streams[1].way.listener, 1);
	assert_int_not_equal(rig.streams[0].way.stream, rig.streams[1].way.stream);
	memcpy(&who, rig.streams[1].way.address + 4, sizeof(who));
	if (who.pid != 0) {
		assert_int_equal(who.pid, getpid());
		assert_int_equal(who.uid, getuid());
	}
	close(a);
	close(b);
}

static void test_large_small_reads(void **state)
{
	enum { BYTES = 1 << 20 };
	unsigned char *sent = malloc(BYTES), *got = malloc(BYTES);
	size_t at = 0;

	port_rig_fill(sent, BYTES, 1);
	port_rig_listen(&rig, NET_PORT_TCP, "127.0.0.1");
	port_rig_listen(&rig, NET_PORT_UNIX, "/echo.sock");
	port_rig_start_or_skip(&rig, *state, 4);
	for (uint32_t kind = 0; kind < 2; kind++) {
		int fd = port_rig_connect(&rig, kind, NULL);

		port_rig_send(&rig, fd, sent, BYTES);
		for (at = 0; at < BYTES; at += 777)
			port_rig_receive(&rig, fd, got + at, BYTES - at < 777 ? BYTES - at : 777);
		assert_memory_equal(sent, got, BYTES);
		close(fd);
	}
	free(sent);
	free(got);
}

static void test_datagram_sizes(void **state)
{
	static const unsigned char long_one[60000];
	struct net_port_counters counters;
	int fd;

	port_rig_listen(&rig, NET_PORT_UDP, "127.0.0.1");
	port_rig_start_or_skip(&rig, *state, 0);
	fd = port_rig_connect(&rig, 0, NULL);
	for (size_t bytes = 1; bytes <= NET_ROOM_BYTES_MAX; bytes += bytes < 2000 ? 1 : 37)
		port_rig_echo_datagram(&rig, fd, bytes, bytes);
	port_rig_echo_datagram(&rig, fd, NET_ROOM_BYTES_MAX, 5);
	/* Longer ones are dropped, and do no harm. */
	assert_int_equal(send(fd, long_one, NET_ROOM_BYTES_MAX + 1, 0), NET_ROOM_BYTES_MAX + 1);
	port_rig_echo_datagram(&rig, fd, 100, 6);
	assert_int_equal(send(fd, long_one, sizeof(long_one), 0), sizeof(long_one));
	port_rig_echo_datagram(&rig, fd, NET_ROOM_BYTES_MAX, 7);
	rig.port.counters(rig.port.self, &counters);
	assert_int_equal(counters.received_cut, 2);
	assert_int_equal(counters.send_dropped, 0);
	close(fd);
}

/* More at once than any vector or ring holds, from several clients to several sockets; each client's stay in order. */
static void test_datagram_burst(void **state)
{
	enum { CLIENTS = 8, AT_ONCE = 50, ROUNDS = 20 };
	uint32_t words[250] = { 0 };
	int fds[CLIENTS];

	port_rig_listen(&rig, NET_PORT_UDP, "127.0.0.1");
	port_rig_listen(&rig, NET_PORT_UDP, "127.0.0.1");
	port_rig_start_or_skip(&rig, *state, 0);
	for (uint32_t i = 0; i < CLIENTS; i++)
		fds[i] = port_rig_connect(&rig, i % 2, NULL);
	for (uint32_t round = 0; round < ROUNDS; round++) {
		for (uint32_t i = 0; i < CLIENTS * AT_ONCE; i++) {
			words[0] = words[249] = round * AT_ONCE + i / CLIENTS;
			assert_int_equal(send(fds[i % CLIENTS], words, sizeof(words), 0), sizeof(words));
		}
		for (uint32_t i = 0; i < CLIENTS * AT_ONCE; i++) {
			assert_int_equal(port_rig_receive_datagram(&rig, fds[i % CLIENTS], words, sizeof(words)), sizeof(words));
			assert_int_equal(words[0], round * AT_ONCE + i / CLIENTS);
			assert_int_equal(words[249], words[0]);
		}
	}
	for (uint32_t i = 0; i < CLIENTS; i++)
		close(fds[i]);
}

/* ---- slow readers ----------------------------------------------------------------------------------------- */

static void read_flood(int fd, uint32_t *word, size_t bytes)
{
	uint32_t got[1000], expected[1000];

	for (size_t at = 0; at < bytes; at += sizeof(got)) {
		port_rig_receive(&rig, fd, got, sizeof(got));
		for (size_t i = 0; i < 1000; i++)
			expected[i] = (*word)++ % RIG_FLOOD_PERIOD;
		assert_memory_equal(got, expected, sizeof(got));
	}
}

/* Many who read nothing, more than there are warm buffers; others are served as before, and those find everything when they read. */
static void test_slow_readers(void **state)
{
	enum { SLOW = 120 };
	struct net_port_counters counters;
	uint32_t words[SLOW] = { 0 };
	int slow[SLOW], quick[2];

	port_rig_listen(&rig, NET_PORT_TCP, "127.0.0.1");
	port_rig_listen(&rig, NET_PORT_UNIX, "/echo.sock");
	port_rig_start_or_skip(&rig, *state, SLOW + 2);
	rig.mode = RIG_FLOOD;
	for (uint32_t i = 0; i < SLOW; i++) {
		slow[i] = port_rig_connect(&rig, i % 8 ? 1 : 0, NULL);
		port_rig_send(&rig, slow[i], "go", 2);
	}
	rig.mode = RIG_ECHO;
	for (uint32_t i = 0; i < 2; i++) {
		quick[i] = port_rig_connect(&rig, i, NULL);
		port_rig_echo(&rig, quick[i], 300000, i);
	}
	for (uint32_t i = 0; i < 1000; i++)
		port_rig_echo(&rig, quick[i % 2], 1 + i % 3000, i);
	rig.port.counters(rig.port.self, &counters);
	assert_true(counters.no_room >= SLOW);
	for (uint32_t i = 0; i < SLOW; i++)
		read_flood(slow[i], &words[i], i % 8 ? 400000 : 8000);
	port_rig_echo(&rig, quick[0], 1000, 9);
	assert_true(rig.writable > 0);
	/* They leave while much is unsent. */
	for (uint32_t i = 0; i < SLOW; i++)
		close(slow[i]);
	port_rig_until_gone(&rig, SLOW);
	port_rig_echo(&rig, quick[1], 1000, 10);
	close(quick[0]);
	close(quick[1]);
	assert_int_equal(rig.wrong, 0);
}

/* More has come than the transport has buffers for, on many streams, before it looks. */
static void test_all_at_once(void **state)
{
	enum { STREAMS = 40, BYTES = 150000 };
	unsigned char *sent = malloc(BYTES), *got = malloc(BYTES);
	int fds[STREAMS];

	port_rig_fill(sent, BYTES, 1);
	port_rig_listen(&rig, NET_PORT_UNIX, "/echo.sock");
	port_rig_start_or_skip(&rig, *state, STREAMS);
	for (uint32_t i = 0; i < STREAMS; i++)
		fds[i] = port_rig_connect(&rig, 0, NULL);
	for (uint32_t i = 0; i < STREAMS; i++)
		assert_int_equal(send(fds[i], sent, BYTES, 0), BYTES);
	for (uint32_t i = 0; i < STREAMS; i++) {
		port_rig_receive(&rig, fds[i], got, BYTES);
		assert_memory_equal(sent, got, BYTES);
		close(fds[i]);
	}
	free(sent);
	free(got);
}

/* ---- ends ------------------------------------------------------------------------------------------------- */

static void reset(int fd)
{
	const struct linger linger = { .l_onoff = 1, .l_linger = 0 };

	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)), 0);
	close(fd);
}

static void test_reset(void **state)
{
	int fd;

	port_rig_listen(&rig, NET_PORT_TCP, "127.0.0.1");
	port_rig_start_or_skip(&rig, *state, 2);
	for (uint32_t i = 0; i < 50; i++) {
		rig.mode = i % 2 ? RIG_FLOOD : RIG_ECHO;
		fd = port_rig_connect(&rig, 0, NULL);
		port_rig_send(&rig, fd, "hello", 5);
		port_rig_steps(&rig, i % 5);
		reset(fd);
		port_rig_until_gone(&rig, i + 1);
	}
	rig.mode = RIG_ECHO;
	fd = port_rig_connect(&rig, 0, NULL);
	port_rig_echo(&rig, fd, 1000, 1);
	close(fd);
	assert_int_equal(rig.wrong, 0);
}

/* The other side says all and then reads: it gets all of it. */
static void test_half_close(void **state)
{
	unsigned char sent[20000], got[20001];

	port_rig_fill(sent, sizeof(sent), 3);
	port_rig_listen(&rig, NET_PORT_TCP, "127.0.0.1");
	port_rig_listen(&rig, NET_PORT_UNIX, "/echo.sock");
	port_rig_start_or_skip(&rig, *state, 2);
	for (uint32_t i = 0; i < 20; i++) {
		int fd = port_rig_connect(&rig, i % 2, NULL);

		assert_int_equal(send(fd, sent, sizeof(sent), 0), sizeof(sent));
		assert_int_equal(shutdown(fd, SHUT_WR), 0);
		assert_int_equal(port_rig_receive_end(&rig, fd, got, sizeof(got)), sizeof(sent));
		assert_memory_equal(sent, got, sizeof(sent));
		close(fd);
		port_rig_until_gone(&rig, i + 1);
	}
	assert_int_equal(rig.wrong, 0);
}

/* Above ends a stream; what it put before is sent. */
static void test_closed_by_above(void **state)
{
	unsigned char got[100];

	port_rig_listen(&rig, NET_PORT_TCP, "127.0.0.1");
	port_rig_listen(&rig, NET_PORT_UNIX, "/echo.sock");
	port_rig_start_or_skip(&rig, *state, 2);
	for (uint32_t i = 0; i < 200; i++) {
		int fd;

		rig.mode = i % 4 < 2 ? RIG_QUIT : RIG_CLOSE;
		fd = port_rig_connect(&rig, i % 2, NULL);
		port_rig_send(&rig, fd, "farewell", 8);
		assert_int_equal(port_rig_receive_end(&rig, fd, got, sizeof(got)), 8);
		assert_memory_equal(got, "farewell", 8);
		close(fd);
	}
	assert_int_equal(rig.gone, 0);
	assert_int_equal(rig.wrong, 0);
}

static void test_refused(void **state)
{
	struct net_port_counters counters;
	unsigned char got[10];
	int fds[4];

	port_rig_listen(&rig, NET_PORT_UNIX, "/echo.sock");
	port_rig_start_or_skip(&rig, *state, 3);
	rig.mode = RIG_REFUSE;
	fds[0] = port_rig_connect(&rig, 0, NULL);
	assert_int_equal(port_rig_receive_end(&rig, fds[0], got, sizeof(got)), 0);
	close(fds[0]);
	rig.mode = RIG_ECHO;
	for (uint32_t i = 0; i < 3; i++)
		fds[i] = port_rig_connect(&rig, 0, NULL);
	/* All places are taken. */
	rig.mode = RIG_REFUSE;
	fds[3] = port_rig_connect(&rig, 0, NULL);
	assert_int_equal(port_rig_receive_end(&rig, fds[3], got, sizeof(got)), 0);
	close(fds[3]);
	rig.mode = RIG_ECHO;
	rig.port.counters(rig.port.self, &counters);
	assert_int_equal(counters.accepted, 3);
	assert_int_equal(counters.refused, 2);
	close(fds[0]);
	port_rig_until_gone(&rig, 1);
	fds[0] = port_rig_connect(&rig, 0, NULL);
	for (uint32_t i = 0; i < 3; i++) {
		port_rig_echo(&rig, fds[i], 100, i);
		close(fds[i]);
	}
}

/* ---- many ------------------------------------------------------------------------------------------------- */

/* Streams come and go in any order and place; no byte goes astray, and nothing is left behind. */
static void test_churn(void **state)
{
	enum { PLACES = 40, CONNECTIONS = 2000 };
	const unsigned descriptors_before = port_rig_descriptors();
	int fds[PLACES];
	unsigned char bytes[3000], got[3000];
	struct net_port_counters counters;
	uint64_t seed = 7;

	port_rig_listen(&rig, NET_PORT_TCP, "127.0.0.1");
	port_rig_listen(&rig, NET_PORT_UNIX, "/echo.sock");
	port_rig_start_or_skip(&rig, *state, PLACES + 8); /* those that left and are not noticed yet */
	rig.check_same = true;
	memset(fds, -1, sizeof(fds));
	for (uint32_t i = 0; i < CONNECTIONS; i++) {
		int *fd = &fds[base_rand_next(&seed) % PLACES];
		const size_t count = 1 + base_rand_next(&seed) % sizeof(bytes);
		const bool is_unix = base_rand_next(&seed) % 2;

		if (*fd >= 0 && !is_unix && i % 3 == 0)
			reset(*fd);
		else if (*fd >= 0)
			close(*fd);
		rig.mode = base_rand_next(&seed) % 8 == 0 ? RIG_FLOOD : RIG_ECHO;
		*fd = port_rig_connect(&rig, is_unix, NULL);
		memset(bytes, (int)(i % 251), count);
		port_rig_send(&rig, *fd, bytes, count);
		if (rig.mode == RIG_ECHO && i % 4) {
			port_rig_receive(&rig, *fd, got, count);
			assert_memory_equal(bytes, got, count);
		}
	}
	for (uint32_t i = 0; i < PLACES; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	port_rig_until_gone(&rig, CONNECTIONS);
	assert_int_equal(rig.wrong, 0);
	rig.port.counters(rig.port.self, &counters);
	assert_int_equal(counters.accepted, CONNECTIONS);
	/* All places are free again. */
	rig.mode = RIG_ECHO;
	for (uint32_t i = 0; i < PLACES; i++)
		fds[i] = port_rig_connect(&rig, i % 2, NULL);
	for (uint32_t i = 0; i < PLACES; i++) {
		port_rig_echo(&rig, fds[i], 10, i);
		close(fds[i]);
	}
	port_rig_stop(&rig);
	assert_int_equal(port_rig_descriptors(), descriptors_before);
}

/* Above closes streams while their clients send on, and others take their places at once. */
static void test_closed_in_the_middle(void **state)
{
	unsigned char bytes[5000];
	int old, fd;

	port_rig_listen(&rig, NET_PORT_TCP, "127.0.0.1");
	port_rig_listen(&rig, NET_PORT_UNIX, "/echo.sock");
	port_rig_start_or_skip(&rig, *state, 4);
	rig.check_same = true;
	for (uint32_t i = 0; i < 500; i++) {
		old = port_rig_connect(&rig, i % 2, NULL);
		memset(bytes, 1, sizeof(bytes));
		for (uint32_t j = 0; j < i % 7; j++)
			(void)!send(old, bytes, sizeof(bytes), MSG_NOSIGNAL);
		port_rig_steps(&rig, i % 3);
		rig.port.close(rig.port.self, rig.streams[0].way.stream);
		rig.streams[0].is_open = false;
		fd = port_rig_connect(&rig, (i / 2) % 2, NULL);
		memset(bytes, 2, sizeof(bytes));
		port_rig_send(&rig, fd, bytes, 100);
		(void)!send(old, bytes, sizeof(bytes), MSG_NOSIGNAL);
		port_rig_receive(&rig, fd, bytes, 100);
		close(old);
		close(fd);
		port_rig_until_gone(&rig, i + 1);
	}
	assert_int_equal(rig.wrong, 0);
}

/* Where descriptors are lacking, nothing spins and nobody is thrown out; who came meanwhile is let in afterwards. */
static void test_no_descriptors(void **state)
{
	struct rlimit limit, none;
	struct net_port_counters counters;
	const struct timespec pause = { .tv_nsec = 1000000 };
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	unsigned work = 0;
	int fd, first;

	port_rig_listen(&rig, NET_PORT_UNIX, "/echo.sock");
	port_rig_start_or_skip(&rig, *state, 4);
	first = port_rig_connect(&rig, 0, NULL);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	memcpy(address.sun_path, rig.listeners[0].place, sizeof(address.sun_path));
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	none = (struct rlimit){ .rlim_cur = (rlim_t)fd, .rlim_max = limit.rlim_max };
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	for (int i = 0; i < 20; i++) {
		work += (unsigned)port_rig_step(&rig);
		nanosleep(&pause, NULL);
	}
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	rig.port.counters(rig.port.self, &counters);
	assert_true(work <= 2);
	assert_true(counters.accept_paused > 0 || counters.accepted == 2);
	port_rig_echo(&rig, first, 100, 1);
	port_rig_echo(&rig, fd, 100, 2);
	close(first);
	close(fd);
}

/* ---- sleeping --------------------------------------------------------------------------------------------- */

struct sleeper {
	_Atomic bool stop;
	_Atomic uint64_t sleeps, lost;
};

/* Longer than any client waits on purpose, also on a machine that is busy. */
#define SLEEP_MS 20000

/* Whether nothing woke it. */
static bool sleep_once(int epoll_fd)
{
	const int64_t since_ns = base_monotonic_ns();
	struct epoll_event event;

	if (!rig.port.sleep)
		return epoll_wait(epoll_fd, &event, 1, SLEEP_MS) == 0;
	(void)rig.port.sleep(rig.port.self, epoll_fd, SLEEP_MS);
	return base_monotonic_ns() - since_ns >= SLEEP_MS * INT64_C(990000);
}

/* As svc_agent does. */
static void *sleep_and_serve(void *context)
{
	struct sleeper *sleeper = context;
	struct epoll_event event = { .events = EPOLLIN };
	int epoll_fd = epoll_create1(EPOLL_CLOEXEC);

	if (rig.port.wait_fd >= 0)
		epoll_ctl(epoll_fd, EPOLL_CTL_ADD, rig.port.wait_fd, &event);
	while (!sleeper->stop) {
		while (port_rig_step(&rig) > 0)
			;
		/* Whoever says stop sends something then: it is either still to come, or stop is seen here. */
		if (!rig.port.sleep_begin(rig.port.self) && !sleeper->stop) {
			sleeper->sleeps++;
			sleeper->lost += sleep_once(epoll_fd);
		}
	}
	close(epoll_fd);
	return NULL;
}

/* A client's request at any moment of the other side's falling asleep. */
static void test_sleep(void **state)
{
	enum { ROUNDS = 10000 };
	struct sleeper sleeper = { .stop = false };
	pthread_t thread;
	uint64_t seed = 3;
	uint32_t got;
	ssize_t count;
	int fds[4];

	port_rig_listen(&rig, NET_PORT_TCP, "127.0.0.1");
	port_rig_listen(&rig, NET_PORT_UNIX, "/echo.sock");
	port_rig_listen(&rig, NET_PORT_UDP, "127.0.0.1");
	port_rig_start_or_skip(&rig, *state, 8);
	pthread_create(&thread, NULL, sleep_and_serve, &sleeper);
	for (uint32_t i = 0; i < 3; i++)
		fds[i] = port_rig_connect_waiting(&rig, i);
	for (uint32_t i = 0; i < ROUNDS && !sleeper.lost; i++) {
		const int fd = fds[base_rand_next(&seed) % 3];

		for (volatile uint64_t pause = base_rand_next(&seed) % (i % 16 ? 2000 : 40000); pause > 0; pause--)
			;
		if (i % 256 == 0) {
			fds[3] = port_rig_connect_waiting(&rig, i / 256 % 2);
			close(fds[3]);
		}
		assert_int_equal(send(fd, &i, sizeof(i), MSG_NOSIGNAL), sizeof(i));
		/* The end of an earlier ring may interrupt the thread that made it. */
		while ((count = recv(fd, &got, sizeof(got), MSG_WAITALL)) < 0 && errno == EINTR)
			;
		assert_int_equal(count, sizeof(got));
		assert_int_equal(got, i);
	}
	sleeper.stop = true;
	(void)!send(fds[0], &got, sizeof(got), MSG_NOSIGNAL);
	pthread_join(thread, NULL);
	for (uint32_t i = 0; i < 3; i++)
		close(fds[i]);
	assert_int_equal(sleeper.lost, 0);
	assert_true(sleeper.sleeps > ROUNDS / 100);
	assert_int_equal(rig.wrong, 0);
}

/* Says a byte and is gone, at any moment of the other side's falling asleep. */
static void *come_and_go(void *context)
{
	uint64_t seed = 5;

	for (uint32_t i = 0; i < *(const uint32_t *)context; i++) {
		const int fd = port_rig_connect_waiting(&rig, 0);

		for (volatile uint64_t pause = base_rand_next(&seed) % 100000; pause > 0; pause--)
			;
		(void)!send(fd, "x", 1, MSG_NOSIGNAL);
		reset(fd);
		for (volatile uint64_t pause = i % 3 ? 0 : 300000; pause > 0; pause--)
			;
	}
	return NULL;
}

/* Of each reset those above hear: of some only since streams are looked at now and then (net_uring_streams_look). */
static void test_reset_at_once(void **state)
{
	uint32_t streams = 3000;
	struct epoll_event event = { .events = EPOLLIN };
	const int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	const int64_t until_ns = base_monotonic_ns() + INT64_C(60000000000);
	pthread_t thread;

	port_rig_listen(&rig, NET_PORT_TCP, "127.0.0.1");
	port_rig_start_or_skip(&rig, *state, 256);
	rig.mode = RIG_HUSH;
	if (rig.port.wait_fd >= 0)
		epoll_ctl(epoll_fd, EPOLL_CTL_ADD, rig.port.wait_fd, &event);
	pthread_create(&thread, NULL, come_and_go, &streams);
	while (rig.gone < streams && base_monotonic_ns() < until_ns) {
		while (port_rig_step(&rig) > 0)
			;
		if (rig.port.sleep_begin(rig.port.self))
			continue;
		if (rig.port.sleep)
			(void)rig.port.sleep(rig.port.self, epoll_fd, 20);
		else
			(void)epoll_wait(epoll_fd, &event, 1, 20);
	}
	pthread_join(thread, NULL);
	close(epoll_fd);
	assert_int_equal(rig.gone, streams);
	assert_int_equal(rig.wrong, 0);
}

#define TEST(function) { #function, function, NULL, teardown, NULL }

int main(void)
{
	static const struct CMUnitTest each[] = {
		TEST(test_all_listeners), TEST(test_ways), TEST(test_large_small_reads), TEST(test_datagram_sizes), TEST(test_datagram_burst),
		TEST(test_slow_readers), TEST(test_all_at_once), TEST(test_reset), TEST(test_half_close), TEST(test_closed_by_above),
		TEST(test_refused), TEST(test_churn), TEST(test_closed_in_the_middle), TEST(test_no_descriptors), TEST(test_sleep),
		TEST(test_reset_at_once),
	};

	return port_rig_run(each, sizeof(each) / sizeof(each[0]));
}
