/*
 * A crowd of bare clients, and the life of their server. See attnbench_crowd.h.
 */
#include "tools/attnbench_crowd.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base_error.h"
#include "tools/tool_cpu.h"

enum {
	STREAM_BYTES = 4 + 8 + 64,    /* heads of the library's packet and chunk, and the record */
	DATAGRAM_BYTES = 24 + 8 + 64,
	RECEIVE_BYTES = ATTNBENCH_CROWD_BATCH * (DATAGRAM_BYTES + ATTNBENCH_CROWD_BARE_BYTES_MAX),
	BACKLOG = 4096,
	BUFFER_BYTES = 4 << 20,
	SERVER_FD = 3,
};

/* ---- packets ------------------------------------------------------------------------------------------------- */

uint32_t attnbench_crowd_packet_bytes(enum tool_transport_kind transport, uint32_t size_bytes)
{
	return (transport == TOOL_TRANSPORT_UDP ? DATAGRAM_BYTES : STREAM_BYTES) + size_bytes;
}

int64_t attnbench_crowd_whole(const unsigned char *bytes, size_t count, uint32_t packet_bytes)
{
	size_t at = 0;
	uint32_t length;

	while (count - at >= sizeof(length)) {
		memcpy(&length, bytes + at, sizeof(length));
		if (length != packet_bytes - sizeof(length))
			return -EPROTO;
		if (count - at < packet_bytes)
			break;
		at += packet_bytes;
	}
	return (int64_t)at;
}

static bool is_stream(const struct attnbench_crowd_bare *bare)
{
	return bare->transport != TOOL_TRANSPORT_UDP;
}

/* Where a packet's number is. */
static size_t number_at(const struct attnbench_crowd_bare *bare)
{
	return is_stream(bare) ? ATTNBENCH_BARE_LENGTH_BYTES : 0;
}

/* ---- the table ----------------------------------------------------------------------------------------------- */

static int bare_fd(void *self, uint32_t number)
{
	const struct attnbench_crowd_bare *bare = self;

	return bare->fds[number];
}

/* By one call, unless the socket is full. What is begun is ended. */
static int send_stream(const struct attnbench_crowd_bare *bare, uint32_t number, unsigned count)
{
	const size_t bytes = (size_t)count * bare->packet_bytes;
	size_t sent = 0;

	while (sent < bytes) {
		const ssize_t part = send(bare->fds[number], bare->batch + sent, bytes - sent, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (part < 0 && (errno != EAGAIN || sent == 0))
			return -errno;
		sent += part > 0 ? (size_t)part : 0;
	}
	return (int)count;
}

static int send_datagrams(const struct attnbench_crowd_bare *bare, uint32_t number, unsigned count)
{
	struct mmsghdr headers[ATTNBENCH_CROWD_BATCH];
	struct iovec pieces[ATTNBENCH_CROWD_BATCH];
	int sent;

	for (unsigned i = 0; i < count; i++) {
		pieces[i] = (struct iovec){ bare->batch + (size_t)i * bare->packet_bytes, bare->packet_bytes };
		headers[i] = (struct mmsghdr){ .msg_hdr = { .msg_iov = &pieces[i], .msg_iovlen = 1 } };
	}
	sent = sendmmsg(bare->fds[number], headers, count, MSG_DONTWAIT | MSG_NOSIGNAL);
	return sent < 0 ? -errno : sent;
}

static int bare_send(void *self, uint32_t number, const uint32_t *ids, const int64_t *intended_ns, unsigned count)
{
	const struct attnbench_crowd_bare *bare = self;
	const uint32_t length = bare->packet_bytes - ATTNBENCH_BARE_LENGTH_BYTES;
	int sent;

	(void)intended_ns;
	for (unsigned i = 0; i < count; i++) {
		unsigned char *packet = bare->batch + (size_t)i * bare->packet_bytes;

		memcpy(packet, &length, sizeof(length));
		memcpy(packet + number_at(bare), &ids[i], sizeof(ids[i]));
	}
	sent = is_stream(bare) ? send_stream(bare, number, count) : send_datagrams(bare, number, count);
	if (sent < 0 && sent != -EAGAIN)
		return base_fail(-sent, "the baseline: sending: %s", strerror(-sent));
	return sent > 0 ? sent : 0;
}

static void answered(const struct attnbench_crowd_bare *bare, const unsigned char *packet, struct attnd_completion *completion)
{
	uint32_t id;

	memcpy(&id, packet + number_at(bare), sizeof(id));
	*completion = (struct attnd_completion){ .request_id = id, .status = ATTND_OK, .flags = ATTND_CPL_FINAL };
}

/* What one call brings. */
static int bare_receive(void *self, uint32_t number, struct attnd_completion *completions, unsigned max)
{
	static unsigned char bytes[RECEIVE_BYTES];
	const struct attnbench_crowd_bare *bare = self;
	unsigned char *part = bare->parts + (size_t)number * bare->packet_bytes;
	const uint32_t have = bare->have[number];
	const ssize_t count = recv(bare->fds[number], bytes + have, sizeof(bytes) - have, MSG_DONTWAIT);
	unsigned taken = 0;
	int64_t whole;

	if (count < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (count <= 0)
		return base_fail(EPIPE, "the baseline's server is gone");
	memcpy(bytes, part, have);
	whole = is_stream(bare) ? attnbench_crowd_whole(bytes, have + (size_t)count, bare->packet_bytes) : count;
	if (whole < 0 || whole / bare->packet_bytes > max)
		return base_fail(EPROTO, "the baseline's server sends what nobody asked for");
	for (int64_t at = 0; at + bare->packet_bytes <= whole; at += bare->packet_bytes)
		answered(bare, bytes + at, &completions[taken++]);
	bare->have[number] = have + (uint32_t)(count - whole);
	memcpy(part, bytes + whole, bare->have[number]);
	return (int)taken;
}

const struct attnbench_crowd_way attnbench_crowd_bare_way = { .fd = bare_fd, .send = bare_send, .receive = bare_receive };

/* ---- life ---------------------------------------------------------------------------------------------------- */

union address {
	struct sockaddr any;
	struct sockaddr_in ip;
	struct sockaddr_un local;
};

static int open_socket(const struct attnbench_crowd_bare *bare)
{
	const int family = bare->transport == TOOL_TRANSPORT_UNIX ? AF_UNIX : AF_INET, one = 1, buffer = BUFFER_BYTES;
	int fd = socket(family, (is_stream(bare) ? SOCK_STREAM : SOCK_DGRAM) | SOCK_CLOEXEC, 0);

	if (fd >= 0 && bare->transport == TOOL_TRANSPORT_TCP)
		(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (fd >= 0 && !is_stream(bare) && setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof(buffer)))
		(void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof(buffer));
	return fd;
}

/* Where the kernel finds a place: a port of the loopback address, or a Unix socket without a file. */
static bool bind_anywhere(int fd, enum tool_transport_kind transport, union address *address, socklen_t *bytes)
{
	*address = (union address){ .ip = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) } };
	*bytes = sizeof(address->ip);
	if (transport == TOOL_TRANSPORT_UNIX) {
		*address = (union address){ .local = { .sun_family = AF_UNIX } };
		*bytes = offsetof(struct sockaddr_un, sun_path);
	}
	if (bind(fd, &address->any, *bytes))
		return false;
	*bytes = sizeof(*address);
	return getsockname(fd, &address->any, bytes) == 0;
}

/* A socket, or -errno with a message. */
static int listen_anywhere(const struct attnbench_crowd_bare *bare, union address *address, socklen_t *bytes)
{
	int fd = open_socket(bare), err = 0;

	if (fd < 0 || !bind_anywhere(fd, bare->transport, address, bytes) || (is_stream(bare) && listen(fd, BACKLOG)))
		err = base_fail(errno, "no socket for the baseline: %s", strerror(errno));
	if (err && fd >= 0)
		close(fd);
	return err ? err : fd;
}

/* The child has nothing of ours but its socket: a tool's end is seen by the end of its sockets, and it goes with its tool. */
static void become_server(const struct attnbench_crowd_bare *bare, int fd)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (fd != SERVER_FD)
		dup2(fd, SERVER_FD);
	close_range(SERVER_FD + 1, ~0u, 0);
	if (bare->cpu >= 0)
		tool_cpu_pin(bare->cpu);
	attnbench_crowd_serve(bare, SERVER_FD);
}

static int connect_all(struct attnbench_crowd_bare *bare, const union address *address, socklen_t bytes)
{
	for (uint32_t i = 0; i < bare->count; i++) {
		bare->fds[i] = open_socket(bare);
		if (bare->fds[i] < 0 || connect(bare->fds[i], &address->any, bytes))
			return base_fail(errno, "connection %u of the baseline: %s", i + 1, strerror(errno));
	}
	return 0;
}

int attnbench_crowd_bare_open(struct attnbench_crowd_bare *bare)
{
	union address address;
	socklen_t bytes;
	int fd = listen_anywhere(bare, &address, &bytes), err;

	if (fd < 0)
		return fd;
	bare->packet_bytes = attnbench_crowd_packet_bytes(bare->transport, bare->size_bytes);
	bare->fds = malloc(bare->count * sizeof(*bare->fds));
	bare->have = calloc(bare->count, sizeof(*bare->have));
	bare->parts = calloc(bare->count, bare->packet_bytes);
	bare->batch = calloc(ATTNBENCH_CROWD_BATCH, bare->packet_bytes);
	if (!bare->fds || !bare->have || !bare->parts || !bare->batch) {
		close(fd);
		return base_fail(ENOMEM, "no memory for the baseline");
	}
	memset(bare->fds, 0xff, bare->count * sizeof(*bare->fds));
	fflush(NULL);
	bare->server = fork();
	if (bare->server == 0)
		become_server(bare, fd);
	err = bare->server < 0 ? base_fail(errno, "cannot fork for the baseline: %s", strerror(errno)) : 0;
	close(fd);
	return err ? err : connect_all(bare, &address, bytes);
}

void attnbench_crowd_bare_run(struct attnbench_crowd_bare *bare, bool runs)
{
	siginfo_t info;

	kill(bare->server, runs ? SIGCONT : SIGSTOP);
	if (!runs)
		waitid(P_PID, (id_t)bare->server, &info, WSTOPPED | WEXITED | WNOWAIT);
}

void attnbench_crowd_bare_close(struct attnbench_crowd_bare *bare)
{
	if (bare->server > 0) {
		kill(bare->server, SIGKILL);
		waitpid(bare->server, NULL, 0);
	}
	for (uint32_t i = 0; bare->fds && i < bare->count; i++)
		if (bare->fds[i] >= 0)
			close(bare->fds[i]);
	free(bare->fds);
	free(bare->have);
	free(bare->parts);
	free(bare->batch);
}
