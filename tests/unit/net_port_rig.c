/*
 * A transport with an echo above it. See net_port_rig.h.
 */
#include "tests/unit/net_port_rig.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base_clock.h"
#include "base/base_error.h"
#include "base/base_rand.h"

/* A bound for what hangs, far above what a loaded machine takes. */
static const int64_t patience_ns = INT64_C(30000000000);

static void check_deadline(int64_t begun_ns, const char *what)
{
	if (base_monotonic_ns() - begun_ns > patience_ns)
		fail_msg("waited too long for %s", what);
}

/* ---- above ------------------------------------------------------------------------------------------------ */

static void keep(struct port_rig_stream *stream, const unsigned char *bytes, size_t count)
{
	if (stream->queue_bytes + count > stream->queue_max) {
		stream->queue_max = 2 * (stream->queue_bytes + count);
		stream->queue = realloc(stream->queue, stream->queue_max);
		assert_non_null(stream->queue);
	}
	memcpy(stream->queue + stream->queue_bytes, bytes, count);
	stream->queue_bytes += count;
}

static void send_queue(struct rig *rig, struct port_rig_stream *stream)
{
	size_t sent = 0, room;

	while (sent < stream->queue_bytes) {
		const size_t left = stream->queue_bytes - sent;
		const size_t least = left < NET_ROOM_BYTES_MAX ? left : NET_ROOM_BYTES_MAX;
		unsigned char *to = rig->port.room(rig->port.self, &stream->way, least, &room);

		stream->is_waiting = !to;
		if (!to)
			break;
		assert_true(room >= least);
		room = room < left ? room : left;
		memcpy(to, stream->queue + sent, room);
		rig->port.put(rig->port.self, &stream->way, room);
		sent += room;
	}
	memmove(stream->queue, stream->queue + sent, stream->queue_bytes - sent);
	stream->queue_bytes -= sent;
}

/* Until there is no room. */
static void flood(struct rig *rig, struct port_rig_stream *stream)
{
	uint32_t words[RIG_FLOOD_PERIOD];
	unsigned char *to;
	size_t room;

	for (uint32_t i = 0; i < RIG_FLOOD_PERIOD; i++)
		words[i] = i;
	while ((to = rig->port.room(rig->port.self, &stream->way, sizeof(words), &room))) {
		assert_true(room >= sizeof(words));
		memcpy(to, words, sizeof(words));
		rig->port.put(rig->port.self, &stream->way, sizeof(words));
	}
	stream->is_waiting = true;
}

static bool opened(void *context, const struct net_way *way, uint32_t *name)
{
	struct rig *rig = context;

	if (rig->mode == RIG_REFUSE)
		return false;
	for (uint32_t i = 0; i < RIG_STREAMS_MAX; i++) {
		struct port_rig_stream *stream = &rig->streams[i];

		if (stream->is_open)
			continue;
		stream->way = *way;
		stream->name = *name = i;
		stream->mode = rig->mode;
		stream->is_open = true;
		stream->is_waiting = false;
		stream->queue_bytes = 0;
		stream->first = -1;
		rig->opened++;
		return true;
	}
	fail_msg("more streams than were to be");
	return false;
}

/* Whether all bytes of a stream are the same: none is another one's. */
static void check_same(struct rig *rig, struct port_rig_stream *stream, const unsigned char *bytes, size_t count)
{
	if (stream->first < 0)
		stream->first = bytes[0];
	for (size_t i = 0; i < count; i++)
		rig->wrong += bytes[i] != stream->first;
}

static bool received(void *context, uint32_t name, unsigned char *bytes, size_t count)
{
	struct rig *rig = context;
	struct port_rig_stream *stream = &rig->streams[name];

	rig->received++;
	rig->wrong += !stream->is_open || count == 0;
	if (rig->check_same)
		check_same(rig, stream, bytes, count);
	if (stream->mode == RIG_FLOOD)
		flood(rig, stream);
	if (stream->mode == RIG_FLOOD || stream->mode == RIG_HUSH)
		return true;
	keep(stream, bytes, count);
	memset(bytes, 0xee, count); /* it may be changed */
	if (!stream->is_waiting)
		send_queue(rig, stream);
	if (stream->mode == RIG_QUIT || stream->mode == RIG_CLOSE)
		stream->is_open = false;
	if (stream->mode == RIG_CLOSE)
		rig->port.close(rig->port.self, stream->way.stream);
	return stream->mode != RIG_QUIT;
}

static void gone(void *context, uint32_t name)
{
	struct rig *rig = context;

	rig->gone++;
	rig->wrong += !rig->streams[name].is_open;
	rig->streams[name].is_open = false;
}

static void writable(void *context, uint32_t name)
{
	struct rig *rig = context;
	struct port_rig_stream *stream = &rig->streams[name];

	rig->writable++;
	rig->wrong += !stream->is_open || !stream->is_waiting;
	stream->is_waiting = false;
	if (stream->mode == RIG_FLOOD)
		flood(rig, stream);
	else
		send_queue(rig, stream);
}

static void datagram(void *context, const struct net_way *way, unsigned char *bytes, size_t count)
{
	struct rig *rig = context;
	size_t room;
	unsigned char *to = rig->port.room(rig->port.self, way, count, &room);

	rig->received++;
	rig->wrong += way->stream != NET_NO_STREAM;
	if (!to)
		return;
	assert_true(room >= count);
	memcpy(to, bytes, count);
	rig->port.put(rig->port.self, way, count);
}

/* ---- the transport ---------------------------------------------------------------------------------------- */

uint32_t port_rig_listen(struct rig *rig, enum net_port_kind kind, const char *place)
{
	struct net_listener *listener = &rig->listeners[rig->listener_count];

	if (!rig->folder[0]) {
		snprintf(rig->folder, sizeof(rig->folder), "/tmp/attnd-test-XXXXXX");
		assert_non_null(mkdtemp(rig->folder));
	}
	*listener = (struct net_listener){ .kind = (uint8_t)kind };
	snprintf(listener->place, sizeof(listener->place), "%s%s", place[0] == '/' ? rig->folder : "", place);
	return rig->listener_count++;
}

int port_rig_start(struct rig *rig, port_rig_create_function *create, uint32_t streams_max)
{
	const struct net_port_options options = { .listeners = rig->listeners, .listener_count = rig->listener_count,
		.streams_max = streams_max, .above = { rig, opened, received, gone, writable, datagram } };

	return create(&rig->port, &options);
}

void port_rig_stop(struct rig *rig)
{
	if (rig->port.self)
		rig->port.destroy(rig->port.self);
	for (uint32_t i = 0; i < RIG_STREAMS_MAX; i++)
		free(rig->streams[i].queue);
	if (rig->folder[0])
		assert_int_equal(rmdir(rig->folder), 0); /* empty, because the transport removed its sockets */
	*rig = (struct rig){ .opened = 0 };
}

int port_rig_step(struct rig *rig)
{
	int work = rig->port.poll(rig->port.self);

	rig->port.flush(rig->port.self);
	return work;
}

void port_rig_steps(struct rig *rig, unsigned count)
{
	while (count-- > 0)
		port_rig_step(rig);
}

void port_rig_until_gone(struct rig *rig, uint32_t count)
{
	const int64_t begun_ns = base_monotonic_ns();

	while (rig->gone < count) {
		port_rig_step(rig);
		check_deadline(begun_ns, "a stream to be gone");
	}
}

void port_rig_until_opened(struct rig *rig, uint32_t count)
{
	const int64_t begun_ns = base_monotonic_ns();

	while (rig->opened < count) {
		port_rig_step(rig);
		check_deadline(begun_ns, "a stream to be accepted");
	}
}

/* ---- clients ---------------------------------------------------------------------------------------------- */

static int connect_to(int fd, const struct sockaddr *address, socklen_t bytes)
{
	const int rc = connect(fd, address, bytes);

	assert_true(rc == 0 || errno == EINPROGRESS);
	return fd;
}

static int connect_unix(int flags, const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	return connect_to(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0), (struct sockaddr *)&address, sizeof(address));
}

static int connect_ip(int type, int flags, const char *place, uint16_t port)
{
	struct sockaddr_in four = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct sockaddr_in6 six = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	const bool is_six = strchr(place, ':');
	const int one = 1;
	int fd = socket(is_six ? AF_INET6 : AF_INET, type | SOCK_CLOEXEC | flags, 0);

	assert_true(fd >= 0);
	assert_int_equal(inet_pton(is_six ? AF_INET6 : AF_INET, place, is_six ? (void *)&six.sin6_addr : (void *)&four.sin_addr), 1);
	if (type == SOCK_STREAM)
		assert_int_equal(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)), 0);
	return is_six ? connect_to(fd, (struct sockaddr *)&six, sizeof(six)) : connect_to(fd, (struct sockaddr *)&four, sizeof(four));
}

static int connect_client(struct rig *rig, uint32_t listener, const char *address, int flags)
{
	const struct net_listener *to = &rig->listeners[listener];
	const char *place = address ? address : to->place;

	if (to->kind == NET_PORT_UNIX)
		return connect_unix(flags, place);
	return connect_ip(to->kind == NET_PORT_UDP ? SOCK_DGRAM : SOCK_STREAM, flags, place, rig->port.port_of(rig->port.self, listener));
}

int port_rig_connect(struct rig *rig, uint32_t listener, const char *address)
{
	const uint32_t opened_before = rig->opened;
	int fd = connect_client(rig, listener, address, SOCK_NONBLOCK);

	if (rig->listeners[listener].kind != NET_PORT_UDP && rig->mode != RIG_REFUSE)
		port_rig_until_opened(rig, opened_before + 1);
	return fd;
}

int port_rig_connect_waiting(struct rig *rig, uint32_t listener)
{
	const struct timeval patience = { .tv_sec = 15 };
	int fd = connect_client(rig, listener, NULL, 0);

	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)), 0);
	return fd;
}

void port_rig_send(struct rig *rig, int fd, const void *bytes, size_t count)
{
	const int64_t begun_ns = base_monotonic_ns();
	size_t sent = 0;

	while (sent < count) {
		ssize_t rc = send(fd, (const char *)bytes + sent, count - sent, MSG_NOSIGNAL);

		if (rc < 0)
			assert_true(errno == EAGAIN);
		else
			sent += (size_t)rc;
		port_rig_step(rig);
		check_deadline(begun_ns, "a client's bytes to be taken");
	}
}

void port_rig_receive(struct rig *rig, int fd, void *bytes, size_t count)
{
	const int64_t begun_ns = base_monotonic_ns();
	size_t got = 0;

	while (got < count) {
		ssize_t rc = recv(fd, (char *)bytes + got, count - got, 0);

		assert_int_not_equal(rc, 0);
		if (rc < 0)
			assert_int_equal(errno, EAGAIN);
		else
			got += (size_t)rc;
		port_rig_step(rig);
		check_deadline(begun_ns, "bytes to come back");
	}
}

size_t port_rig_receive_datagram(struct rig *rig, int fd, void *bytes, size_t most)
{
	const int64_t begun_ns = base_monotonic_ns();
	ssize_t rc;

	while ((rc = recv(fd, bytes, most, 0)) < 0) {
		assert_int_equal(errno, EAGAIN);
		port_rig_step(rig);
		check_deadline(begun_ns, "a datagram to come back");
	}
	return (size_t)rc;
}

size_t port_rig_receive_end(struct rig *rig, int fd, void *bytes, size_t most)
{
	const int64_t begun_ns = base_monotonic_ns();
	size_t got = 0;
	ssize_t rc;

	while ((rc = recv(fd, (char *)bytes + got, most - got, 0)) != 0) {
		if (rc < 0 && errno == ECONNRESET)
			break;
		if (rc < 0)
			assert_int_equal(errno, EAGAIN);
		else
			got += (size_t)rc;
		assert_true(got < most);
		port_rig_step(rig);
		check_deadline(begun_ns, "the end");
	}
	return got;
}

void port_rig_fill(unsigned char *bytes, size_t count, uint64_t seed)
{
	for (size_t i = 0; i < count; i += 8) {
		const uint64_t word = base_rand_next(&seed);

		memcpy(bytes + i, &word, count - i < 8 ? count - i : 8);
	}
}

void port_rig_echo(struct rig *rig, int fd, size_t count, uint64_t seed)
{
	unsigned char *sent = malloc(count), *got = malloc(count);

	port_rig_fill(sent, count, seed);
	port_rig_send(rig, fd, sent, count);
	port_rig_receive(rig, fd, got, count);
	assert_memory_equal(sent, got, count);
	free(sent);
	free(got);
}

void port_rig_echo_datagram(struct rig *rig, int fd, size_t count, uint64_t seed)
{
	unsigned char sent[NET_ROOM_BYTES_MAX], got[NET_ROOM_BYTES_MAX + 1];

	port_rig_fill(sent, count, seed);
	assert_int_equal(send(fd, sent, count, 0), count);
	assert_int_equal(port_rig_receive_datagram(rig, fd, got, sizeof(got)), count);
	assert_memory_equal(sent, got, count);
}

/* ---- all transports --------------------------------------------------------------------------------------- */

static struct port_rig_transport transports[] = {
	{ "sockets", net_sockets_create, false },
	{ "uring", net_uring_create, false },
};

enum { TRANSPORTS = sizeof(transports) / sizeof(transports[0]), TESTS_MAX = 32 };

/* Whether this machine has it; where not, why. */
static void look(struct port_rig_transport *transport)
{
	static struct rig rig;
	int rc;

	port_rig_listen(&rig, NET_PORT_TCP, "127.0.0.1");
	rc = port_rig_start(&rig, transport->create, 1);
	transport->is_missing = rc == -ENOSYS || rc == -EPERM || rc == -EOPNOTSUPP;
	if (transport->is_missing)
		printf("# skip: %s\n", base_error_message());
	port_rig_stop(&rig);
}

void port_rig_start_or_skip(struct rig *rig, const struct port_rig_transport *transport, uint32_t streams_max)
{
	if (transport->is_missing)
		skip();
	assert_int_equal(port_rig_start(rig, transport->create, streams_max), 0);
}

int port_rig_run(const struct CMUnitTest *each, unsigned count)
{
	static char names[TRANSPORTS * TESTS_MAX][64];
	struct CMUnitTest tests[TRANSPORTS * TESTS_MAX];

	assert_true(count <= TESTS_MAX);
	for (unsigned i = 0; i < TRANSPORTS; i++)
		look(&transports[i]);
	for (unsigned i = 0; i < TRANSPORTS * count; i++) {
		tests[i] = each[i % count];
		tests[i].initial_state = &transports[i / count];
		snprintf(names[i], sizeof(names[i]), "%s: %s", transports[i / count].name, each[i % count].name);
		tests[i].name = names[i];
	}
	return _cmocka_run_group_tests("transports", tests, TRANSPORTS * count, NULL, NULL);
}

/* ---- the machine ------------------------------------------------------------------------------------------ */

bool port_rig_has_ipv6(void)
{
	const struct sockaddr_in6 address = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	bool has = fd >= 0 && bind(fd, (const struct sockaddr *)&address, sizeof(address)) == 0;

	if (fd >= 0)
		close(fd);
	return has;
}

unsigned port_rig_descriptors(void)
{
	DIR *fds = opendir("/proc/self/fd");
	unsigned count = 0;

	assert_non_null(fds);
	while (readdir(fds))
		count++;
	closedir(fds);
	return count;
}
