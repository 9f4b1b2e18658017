/*
 * Plain non-blocking sockets of the network transport: packets out in batches, bytes in. Client's thread; receive and send are on the path
 * of a request: one system call each, no allocation.
 */
#include "client-lib/attnd_net.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/base_error.h"

#define SECOND_NS INT64_C(1000000000)

enum {
	IP4_HEADS = 20 + 8, IP6_HEADS = 40 + 8, /* IP's and UDP's */
	BUFFER_BYTES = 4 << 20,                 /* of the kernel, which gives what it may */
	SLOT_BYTES = 16448,                     /* a datagram, aligned for the next */
	SEND_ROUNDS = 2,                        /* an error that an earlier datagram met is told once */
};

_Static_assert((int)SLOT_BYTES > (int)NET_PACKET_BYTES_MAX && SLOT_BYTES % 64 == 0, "a datagram that is too long is seen");

/* ---- life ---------------------------------------------------------------------------------------------------- */

int client_socket_create(struct client_socket *socket)
{
	const size_t bytes = (CLIENT_SOCKET_BATCH + 1) * (size_t)SLOT_BYTES;

	*socket = (struct client_socket){ .fd = -1, .last_fd = -1 };
	socket->in = aligned_alloc(64, bytes);
	socket->out = aligned_alloc(64, bytes);
	if (socket->in && socket->out)
		return 0;
	client_socket_destroy(socket);
	return base_fail(ENOMEM, "no memory for a connection's packets");
}

void client_socket_close(struct client_socket *socket)
{
	if (socket->fd >= 0)
		close(socket->fd);
	socket->fd = -1;
	socket->out_begin = socket->out_end = 0;
	socket->out_first = socket->out_count = 0;
}

void client_socket_destroy(struct client_socket *socket)
{
	client_socket_close(socket);
	free(socket->in);
	free(socket->out);
	socket->in = socket->out = NULL;
}

/* None of these decides whether it works. */
static void set_options(const struct client_socket *socket)
{
	static const int yes = 1, buffer = BUFFER_BYTES, discover4 = IP_PMTUDISC_DO, discover6 = IPV6_PMTUDISC_DO;

	if (socket->kind == CLIENT_PLACE_TCP)
		(void)setsockopt(socket->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
	if (socket->kind != CLIENT_PLACE_UDP)
		return;
	(void)setsockopt(socket->fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof(buffer));
	(void)setsockopt(socket->fd, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof(buffer));
	if (socket->family == AF_INET6)
		(void)setsockopt(socket->fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, &discover6, sizeof(discover6));
	else
		(void)setsockopt(socket->fd, IPPROTO_IP, IP_MTU_DISCOVER, &discover4, sizeof(discover4));
}

/* A socket whose number is not the last one's. -1 with errno. */
static int open_anew(int family, int type, int last_fd)
{
	int fd = socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), other, error;

	if (fd < 0 || fd != last_fd)
		return fd;
	other = fcntl(fd, F_DUPFD_CLOEXEC, fd + 1);
	error = errno;
	close(fd);
	errno = error;
	return other;
}

int client_socket_open(struct client_socket *socket_, const struct client_place *place, unsigned which)
{
	const struct sockaddr *address = (const struct sockaddr *)&place->at[which].address;
	const int type = place->kind == CLIENT_PLACE_UDP ? SOCK_DGRAM : SOCK_STREAM;

	client_socket_close(socket_);
	socket_->kind = place->kind;
	socket_->family = address->sa_family;
	socket_->fd = open_anew(address->sa_family, type, socket_->last_fd);
	if (socket_->fd < 0)
		return base_fail(errno, "socket: %s", strerror(errno));
	socket_->last_fd = socket_->fd;
	set_options(socket_);
	/* Until it is connected nothing can be sent, and then it turns out whether it is. */
	if (connect(socket_->fd, address, place->at[which].bytes) && errno != EINPROGRESS) {
		const int error = errno;

		client_socket_close(socket_);
		return base_fail(error, "connecting: %s", strerror(error));
	}
	return 0;
}

uint32_t client_socket_datagram_bytes(const struct client_socket *socket)
{
	const bool is_ip6 = socket->family == AF_INET6;
	int mtu = 0, heads = is_ip6 ? IP6_HEADS : IP4_HEADS;
	socklen_t bytes = sizeof(mtu);

	if (socket->kind != CLIENT_PLACE_UDP)
		return 0;
	if (getsockopt(socket->fd, is_ip6 ? IPPROTO_IPV6 : IPPROTO_IP, is_ip6 ? IPV6_MTU : IP_MTU, &mtu, &bytes) ||
			mtu < NET_DATAGRAM_BYTES_LEAST + heads)
		return NET_DATAGRAM_BYTES_LEAST;
	return mtu - heads < NET_PACKET_BYTES_MAX ? (uint32_t)(mtu - heads) : NET_PACKET_BYTES_MAX;
}

/* ---- sending ------------------------------------------------------------------------------------------------- */

unsigned char *client_socket_room(struct client_socket *socket)
{
	if (socket->kind == CLIENT_PLACE_UDP) {
		const unsigned next = socket->out_first + socket->out_count;

		return next < CLIENT_SOCKET_BATCH ? socket->out + next * (size_t)SLOT_BYTES : NULL;
	}
	return socket->out_end < CLIENT_SOCKET_OUT_BYTES ? socket->out + socket->out_end : NULL;
}

void client_socket_put(struct client_socket *socket, size_t bytes)
{
	if (socket->kind == CLIENT_PLACE_UDP)
		socket->lengths[socket->out_first + socket->out_count++] = (uint32_t)bytes;
	else
		socket->out_end += bytes;
}

static void drop_datagrams(struct client_socket *socket, unsigned count)
{
	socket->out_first += count;
	socket->out_count -= count;
	if (socket->out_count == 0)
		socket->out_first = 0;
}

static int send_datagrams(struct client_socket *socket)
{
	struct mmsghdr messages[CLIENT_SOCKET_BATCH];
	struct iovec pieces[CLIENT_SOCKET_BATCH];
	int sent;

	for (unsigned i = 0; i < socket->out_count; i++) {
		pieces[i] = (struct iovec){ socket->out + (socket->out_first + i) * (size_t)SLOT_BYTES, socket->lengths[socket->out_first + i] };
		messages[i] = (struct mmsghdr){ .msg_hdr = { .msg_iov = &pieces[i], .msg_iovlen = 1 } };
	}
	sent = sendmmsg(socket->fd, messages, socket->out_count, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (sent < 0)
		return errno == EINTR ? -EAGAIN : -errno;
	drop_datagrams(socket, (unsigned)sent);
	return 0;
}

static int send_stream(struct client_socket *socket)
{
	const ssize_t sent = send(socket->fd, socket->out + socket->out_begin, socket->out_end - socket->out_begin,
		MSG_DONTWAIT | MSG_NOSIGNAL);

	if (sent < 0)
		return errno == EINTR ? 0 : -errno;
	socket->out_begin += (size_t)sent;
	if (socket->out_begin == socket->out_end)
		socket->out_begin = socket->out_end = 0;
	return 0;
}

int client_socket_send(struct client_socket *socket)
{
	int rc = 0;

	if (socket->kind != CLIENT_PLACE_UDP) {
		if (client_socket_is_full(socket))
			rc = send_stream(socket);
		return rc ? rc : client_socket_is_full(socket) ? -EAGAIN : 0;
	}
	for (unsigned round = 0; round < SEND_ROUNDS && socket->out_count > 0; round++)
		rc = send_datagrams(socket);
	if (rc == -EMSGSIZE || rc == -ENOBUFS || rc == -EPERM)
		drop_datagrams(socket, 1); /* ENOBUFS, EPERM: as if lost on the way */
	else if (rc == 0 && socket->out_count > 0)
		rc = -EAGAIN;
	return rc == -ENOBUFS || rc == -EPERM ? 0 : rc;
}

/* ---- receiving ----------------------------------------------------------------------------------------------- */

static int receive_datagrams(struct client_socket *socket)
{
	struct mmsghdr messages[CLIENT_SOCKET_BATCH];
	struct iovec pieces[CLIENT_SOCKET_BATCH];
	int count;

	for (unsigned i = 0; i < CLIENT_SOCKET_BATCH; i++) {
		pieces[i] = (struct iovec){ socket->in + i * (size_t)SLOT_BYTES, SLOT_BYTES };
		messages[i] = (struct mmsghdr){ .msg_hdr = { .msg_iov = &pieces[i], .msg_iovlen = 1 } };
	}
	count = recvmmsg(socket->fd, messages, CLIENT_SOCKET_BATCH, MSG_DONTWAIT, NULL);
	if (count < 0)
		return -errno;
	for (int i = 0; i < count; i++)
		socket->runs[i] = (struct client_run){ pieces[i].iov_base, messages[i].msg_len };
	return count;
}

static int receive_stream(struct client_socket *socket)
{
	const ssize_t count = recv(socket->fd, socket->in, CLIENT_SOCKET_IN_BYTES, MSG_DONTWAIT);

	if (count == 0)
		return -ECONNRESET;
	if (count < 0)
		return -errno;
	socket->runs[0] = (struct client_run){ socket->in, (size_t)count };
	return 1;
}

int client_socket_receive(struct client_socket *socket)
{
	const int rc = socket->kind == CLIENT_PLACE_UDP ? receive_datagrams(socket) : receive_stream(socket);

	return rc == -EAGAIN || rc == -EINTR ? 0 : rc;
}

void client_socket_wait(const struct client_socket *socket, int64_t wait_ns)
{
	struct pollfd what = { .fd = socket->fd, .events = (short)(POLLIN | (client_socket_is_full(socket) ? POLLOUT : 0)) };
	const struct timespec timeout = { .tv_sec = wait_ns / SECOND_NS, .tv_nsec = wait_ns % SECOND_NS };

	if (wait_ns > 0)
		(void)ppoll(&what, 1, &timeout, NULL);
}
