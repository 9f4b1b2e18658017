/*
 * The least that an echo over a socket costs. See attnbench_bare.h.
 */
#include "tools/attnbench_bare.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/base_clock.h"
#include "base/base_error.h"
#include "tools/tool_cpu.h"

enum { MISSES_PER_CLOCK = 1 << 16 };
#define LOST_NS INT64_C(1000000000) /* nothing on this machine takes so long: the message is lost */

const char *const attnbench_bare_names[] = { "epoll", "epoll, sleeping", "non-blocking calls", "io_uring" };

/* What client and server share. */
struct pair {
	const struct attnbench_bare *bare;
	int client, server; /* sockets */
	int wake;           /* an eventfd: the end, for a server that sleeps */
	_Atomic bool ready, stop, failed;
	char why[160];
	int error;
};

/* ---- servers ------------------------------------------------------------------------------------------------- */

/* Sends back what one call receives. */
static void echo_stream(int fd, char *message)
{
	ssize_t count = recv(fd, message, ATTNBENCH_BARE_BYTES_MAX, MSG_DONTWAIT), sent = 0;

	while (sent < count) {
		ssize_t part = send(fd, message + sent, (size_t)(count - sent), MSG_DONTWAIT | MSG_NOSIGNAL);

		if (part < 0 && errno != EAGAIN)
			return;
		sent += part > 0 ? part : 0;
	}
}

static void echo_datagram(int fd, char *message)
{
	struct sockaddr_storage from;
	socklen_t from_bytes = sizeof(from);
	ssize_t count = recvfrom(fd, message, ATTNBENCH_BARE_BYTES_MAX, MSG_DONTWAIT, (struct sockaddr *)&from, &from_bytes);

	if (count > 0)
		(void)sendto(fd, message, (size_t)count, MSG_DONTWAIT | MSG_NOSIGNAL, (struct sockaddr *)&from, from_bytes);
}

static void echo(const struct pair *pair, char *message)
{
	if (pair->bare->transport == TOOL_TRANSPORT_UDP)
		echo_datagram(pair->server, message);
	else
		echo_stream(pair->server, message);
}

static int serve_nonblocking(struct pair *pair)
{
	static char message[ATTNBENCH_BARE_BYTES_MAX];

	atomic_store(&pair->ready, true);
	while (!atomic_load_explicit(&pair->stop, memory_order_relaxed))
		echo(pair, message);
	return 0;
}

static int serve_epoll(struct pair *pair)
{
	static char message[ATTNBENCH_BARE_BYTES_MAX];
	struct epoll_event asked = { .events = EPOLLIN }, events[2];
	const int wait_ms = pair->bare->server == ATTNBENCH_BARE_SLEEPING ? -1 : 0;
	int epoll = epoll_create1(EPOLL_CLOEXEC);

	if (epoll < 0)
		return base_fail(errno, "no epoll: %s", strerror(errno));
	asked.data.fd = pair->server;
	(void)epoll_ctl(epoll, EPOLL_CTL_ADD, pair->server, &asked);
	asked.data.fd = pair->wake;
	(void)epoll_ctl(epoll, EPOLL_CTL_ADD, pair->wake, &asked);
	atomic_store(&pair->ready, true);
	while (!atomic_load_explicit(&pair->stop, memory_order_relaxed)) {
		int count = epoll_wait(epoll, events, 2, wait_ms);

		for (int i = 0; i < count; i++)
			if (events[i].data.fd == pair->server)
				echo(pair, message);
	}
	close(epoll);
	return 0;
}

static void *serve(void *context)
{
	struct pair *pair = context;

	if (pair->bare->other_cpu >= 0)
		tool_cpu_pin(pair->bare->other_cpu);
	if (pair->bare->server == ATTNBENCH_BARE_URING)
		pair->error = attnbench_bare_uring(pair->server, pair->bare->message_bytes, &pair->ready, &pair->stop);
	else if (pair->bare->server == ATTNBENCH_BARE_NONBLOCKING)
		pair->error = serve_nonblocking(pair);
	else
		pair->error = serve_epoll(pair);
	if (pair->error)
		snprintf(pair->why, sizeof(pair->why), "%s", base_error_message());
	atomic_store(&pair->failed, pair->error != 0);
	return NULL;
}

/* ---- the client ---------------------------------------------------------------------------------------------- */

/* One call each where the message goes at once and comes whole. False: the other side is gone. */
static bool round_trip(const struct pair *pair, struct base_clock *clock, char *message)
{
	const uint32_t bytes = pair->bare->message_bytes;
	uint32_t sent = 0, got = 0, misses = 0;
	int64_t begin_ns = 0;

	while (got < bytes) {
		ssize_t part = sent < bytes ? send(pair->client, message + sent, bytes - sent, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;

		sent += part > 0 ? (uint32_t)part : 0;
		part = recv(pair->client, message + got, bytes - got, MSG_DONTWAIT);
		if (part > 0)
			got += (uint32_t)part;
		else if (part == 0 || (errno != EAGAIN && errno != EINTR))
			return false;
		else if (++misses % MISSES_PER_CLOCK == 0 && begin_ns == 0)
			begin_ns = base_clock_now(clock);
		else if (misses % MISSES_PER_CLOCK == 0 && base_clock_now(clock) - begin_ns > LOST_NS)
			return false;
	}
	return true;
}

static int ask(struct pair *pair, int64_t span_ns, struct base_hist *hist)
{
	static char message[ATTNBENCH_BARE_BYTES_MAX];
	struct base_clock clock;
	int64_t begin_ns, now_ns, end_ns;

	base_clock_init(&clock);
	while (!atomic_load(&pair->ready) && !atomic_load(&pair->failed))
		sched_yield();
	for (now_ns = base_clock_now(&clock), end_ns = now_ns + span_ns; !atomic_load(&pair->failed) && now_ns < end_ns;) {
		begin_ns = base_clock_now(&clock);
		if (!round_trip(pair, &clock, message))
			return base_fail(EPIPE, "the bare echo (%s) broke", attnbench_bare_names[pair->bare->server]);
		now_ns = base_clock_now(&clock);
		base_hist_add(hist, now_ns - begin_ns);
	}
	return 0;
}

static int run(struct pair *pair, int64_t span_ns, struct base_hist *hist)
{
	const uint64_t one = 1;
	pthread_t thread;
	int err = pthread_create(&thread, NULL, serve, pair);

	if (err)
		return base_fail(err, "no thread for the bare echo: %s", strerror(err));
	err = ask(pair, span_ns, hist);
	atomic_store(&pair->stop, true);
	(void)!write(pair->wake, &one, sizeof(one));
	pthread_join(thread, NULL);
	return pair->error ? base_fail(-pair->error, "%s", pair->why) : err;
}

/* ---- sockets ------------------------------------------------------------------------------------------------- */

static bool bind_loopback(int fd, struct sockaddr_in *address)
{
	socklen_t bytes = sizeof(*address);

	*address = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	return bind(fd, (struct sockaddr *)address, sizeof(*address)) == 0 && getsockname(fd, (struct sockaddr *)address, &bytes) == 0;
}

static bool connect_datagrams(struct pair *pair)
{
	struct sockaddr_in address;

	pair->server = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	pair->client = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	return pair->server >= 0 && pair->client >= 0 && bind_loopback(pair->server, &address) &&
		connect(pair->client, (struct sockaddr *)&address, sizeof(address)) == 0;
}

static bool connect_tcp(struct pair *pair)
{
	struct sockaddr_in address;
	const int yes = 1;
	int listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	pair->client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (listening >= 0 && pair->client >= 0 && bind_loopback(listening, &address) && listen(listening, 1) == 0 &&
			connect(pair->client, (struct sockaddr *)&address, sizeof(address)) == 0)
		pair->server = accept4(listening, NULL, NULL, SOCK_CLOEXEC);
	if (listening >= 0)
		close(listening);
	return pair->server >= 0 && setsockopt(pair->server, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes)) == 0 &&
		setsockopt(pair->client, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes)) == 0;
}

static bool connect_unix(struct pair *pair)
{
	int sockets[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets))
		return false;
	pair->client = sockets[0];
	pair->server = sockets[1];
	return true;
}

static bool connect_pair(struct pair *pair)
{
	pair->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (pair->wake < 0)
		return false;
	if (pair->bare->transport == TOOL_TRANSPORT_UDP)
		return connect_datagrams(pair);
	return pair->bare->transport == TOOL_TRANSPORT_TCP ? connect_tcp(pair) : connect_unix(pair);
}

int attnbench_bare(const struct attnbench_bare *bare, int64_t span_ns, struct base_hist *hist)
{
	struct pair pair = { .bare = bare, .client = -1, .server = -1, .wake = -1 };
	int err = connect_pair(&pair) ? 0 : base_fail(errno, "no sockets for the bare echo: %s", strerror(errno));

	if (!err)
		err = run(&pair, span_ns, hist);
	if (pair.client >= 0)
		close(pair.client);
	if (pair.server >= 0)
		close(pair.server);
	if (pair.wake >= 0)
		close(pair.wake);
	return err;
}
