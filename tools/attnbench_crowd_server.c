/*
 * The baseline's server: an echo with one thread and one epoll, as simple as it can be without being slow. See attnbench_crowd.h.
 *
 * Its own process; it ends by a signal.
 */
#include "tools/attnbench_crowd.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 256, DATAGRAMS = 64, RECEIVE_BYTES = 256 << 10 };

struct server {
	const struct attnbench_crowd_bare *bare;
	int epoll, listening;
	uint32_t accepted, packet_bytes;
	int *fds;
	uint32_t *have;       /* bytes of a packet that has not come whole */
	unsigned char *parts; /* of packet_bytes */
	unsigned char *bytes; /* [RECEIVE_BYTES] */
};

/* ---- streams ------------------------------------------------------------------------------------------------- */

static void drop(struct server *server, uint32_t number)
{
	close(server->fds[number]);
	server->fds[number] = -1;
}

static void accept_one(struct server *server)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u32 = server->accepted };
	const int fd = accept4(server->listening, NULL, NULL, SOCK_CLOEXEC), one = 1;

	if (fd < 0)
		return;
	if (server->accepted == server->bare->count || epoll_ctl(server->epoll, EPOLL_CTL_ADD, fd, &event)) {
		close(fd);
		return;
	}
	if (server->bare->transport == TOOL_TRANSPORT_TCP)
		(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	server->fds[server->accepted++] = fd;
}

/* Each client reads what it asked for: a socket that is full is so for a moment. */
static bool send_all(int fd, const unsigned char *bytes, size_t count)
{
	struct pollfd what = { .fd = fd, .events = POLLOUT };
	size_t sent = 0;

	while (sent < count) {
		const ssize_t part = send(fd, bytes + sent, count - sent, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (part < 0 && errno != EAGAIN)
			return false;
		if (part < 0)
			(void)poll(&what, 1, -1);
		else
			sent += (size_t)part;
	}
	return true;
}

static void echo_stream(struct server *server, uint32_t number)
{
	unsigned char *part = server->parts + (size_t)number * server->packet_bytes;
	const uint32_t have = server->have[number];
	const ssize_t count = recv(server->fds[number], server->bytes + have, RECEIVE_BYTES - have, MSG_DONTWAIT);
	int64_t whole;

	if (count < 0 && errno == EAGAIN)
		return;
	if (count <= 0) {
		drop(server, number);
		return;
	}
	memcpy(server->bytes, part, have);
	whole = attnbench_crowd_whole(server->bytes, have + (size_t)count, server->packet_bytes);
	if (whole < 0 || !send_all(server->fds[number], server->bytes, (size_t)whole)) {
		drop(server, number);
		return;
	}
	server->have[number] = have + (uint32_t)(count - whole);
	memcpy(part, server->bytes + whole, server->have[number]);
}

/* ---- datagrams ----------------------------------------------------------------------------------------------- */

/* As many as one call brings go back by one. */
static void echo_datagrams(struct server *server)
{
	struct mmsghdr headers[DATAGRAMS];
	struct iovec pieces[DATAGRAMS];
	struct sockaddr_in addresses[DATAGRAMS];
	int count, sent = 0;

	for (int i = 0; i < DATAGRAMS; i++) {
		pieces[i] = (struct iovec){ server->bytes + (size_t)i * server->packet_bytes, server->packet_bytes };
		headers[i] = (struct mmsghdr){ .msg_hdr = { .msg_name = &addresses[i], .msg_namelen = sizeof(addresses[i]),
			.msg_iov = &pieces[i], .msg_iovlen = 1 } };
	}
	count = recvmmsg(server->listening, headers, DATAGRAMS, MSG_DONTWAIT, NULL);
	while (sent < count) {
		const int part = sendmmsg(server->listening, headers + sent, (unsigned)(count - sent), 0);

		sent += part > 0 ? part : 1;
	}
}

/* ---- the process --------------------------------------------------------------------------------------------- */

void attnbench_crowd_serve(const struct attnbench_crowd_bare *bare, int fd)
{
	struct server server = { .bare = bare, .listening = fd, .packet_bytes = bare->packet_bytes };
	struct epoll_event asked = { .events = EPOLLIN, .data.u32 = UINT32_MAX }, events[EVENTS];
	const bool datagrams = bare->transport == TOOL_TRANSPORT_UDP;

	server.epoll = epoll_create1(EPOLL_CLOEXEC);
	server.fds = calloc(bare->count, sizeof(*server.fds));
	server.have = calloc(bare->count, sizeof(*server.have));
	server.parts = calloc(bare->count, server.packet_bytes);
	server.bytes = malloc(datagrams ? (size_t)DATAGRAMS * server.packet_bytes : RECEIVE_BYTES);
	if (server.epoll < 0 || !server.fds || !server.have || !server.parts || !server.bytes ||
			epoll_ctl(server.epoll, EPOLL_CTL_ADD, fd, &asked))
		_exit(1);
	for (;;) {
		const int count = epoll_wait(server.epoll, events, EVENTS, bare->sleeps ? -1 : 0);

		for (int i = 0; i < count; i++) {
			if (events[i].data.u32 != UINT32_MAX)
				echo_stream(&server, events[i].data.u32);
			else if (datagrams)
				echo_datagrams(&server);
			else
				accept_one(&server);
		}
	}
}
