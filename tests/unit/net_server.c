/*
 * A daemon behind a socket. See net_server.h.
 */
#include "tests/unit/net_server.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base_clock.h"

/* ---- the thread --------------------------------------------------------------------------------------------- */

static void drop_stream(struct net_server *server)
{
	if (server->kind != SERVER_UDP && server->fd >= 0)
		close(server->fd);
	if (server->kind != SERVER_UDP)
		server->fd = -1;
	server->out_begin = server->out_end = 0;
}

static void accept_stream(struct net_server *server)
{
	const int fd = accept4(server->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd < 0)
		return;
	drop_stream(server);
	server->fd = fd;
	net_peer_socket(&server->peer);
}

static void receive(struct net_server *server)
{
	static _Thread_local unsigned char bytes[65536];
	socklen_t from_bytes = sizeof(server->from);
	ssize_t count;

	while (server->fd >= 0) {
		if (server->kind == SERVER_UDP) {
			count = recvfrom(server->fd, bytes, sizeof(bytes), MSG_DONTWAIT, (struct sockaddr *)server->from, &from_bytes);
			server->from_bytes = count >= 0 ? from_bytes : server->from_bytes;
		} else {
			count = recv(server->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
		}
		if (count < 0 && (errno == EAGAIN || server->kind == SERVER_UDP))
			return;
		if (count <= 0)
			drop_stream(server);
		else
			net_peer_packet(&server->peer, base_monotonic_ns(), bytes, (size_t)count);
	}
}

static bool send_one(struct net_server *server)
{
	ssize_t sent;

	if (server->out_begin == server->out_end) {
		server->out_begin = 0;
		server->out_end = net_peer_next_packet(&server->peer, base_monotonic_ns(), server->out);
	}
	if (server->out_end == 0 || server->fd < 0)
		return false;
	if (server->kind == SERVER_UDP) {
		(void)sendto(server->fd, server->out, server->out_end, MSG_DONTWAIT, (struct sockaddr *)server->from, server->from_bytes);
		server->out_end = 0;
		return true;
	}
	sent = send(server->fd, server->out + server->out_begin, server->out_end - server->out_begin, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (sent < 0 && errno == EAGAIN)
		return false;
	if (sent < 0)
		drop_stream(server);
	else
		server->out_begin += (size_t)sent;
	return true;
}

static void count(struct net_server *server)
{
	server->executed = server->peer.executed;
	server->resumed = server->peer.resumed;
	server->closes = server->peer.closes;
	server->hellos = server->peer.hellos;
	server->repeated = server->peer.repeated;
}

static void *serve(void *argument)
{
	struct net_server *server = argument;

	while (!server->stops) {
		struct pollfd what[2] = { { .fd = server->listen_fd, .events = POLLIN },
			{ .fd = server->fd, .events = (short)(POLLIN | (server->out_end ? POLLOUT : 0)) } };

		(void)poll(what, 2, 1);
		if (atomic_exchange(&server->breaks, false))
			drop_stream(server);
		server->peer.deaf = server->deaf;
		server->peer.forgets = server->forgets;
		if (atomic_exchange(&server->finishes, false))
			while (server->peer.held_count > 0)
				net_peer_finish(&server->peer, 0);
		if (server->kind != SERVER_UDP)
			accept_stream(server);
		receive(server);
		while (send_one(server))
			;
		count(server);
	}
	return NULL;
}

/* ---- life --------------------------------------------------------------------------------------------------- */

static void write_key(struct net_server *server)
{
	FILE *file;

	snprintf(server->key_file, sizeof(server->key_file), "%s/key", server->folder);
	file = fopen(server->key_file, "w");
	assert_non_null(file);
	for (unsigned i = 0; i < NET_KEY_BYTES; i++) {
		server->peer.key[i] = (unsigned char)(i * 5 + 2);
		fprintf(file, "%02x", server->peer.key[i]);
	}
	fprintf(file, "\n");
	fclose(file);
	assert_int_equal(chmod(server->key_file, 0600), 0);
}

/* A server that was there before has left its port. */
static void listen_unix(struct net_server *server)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	snprintf(server->path, sizeof(server->path), "%s/socket", server->folder);
	snprintf(server->address, sizeof(server->address), "attnd+unix://%s", server->path);
	strcpy(address.sun_path, server->path);
	(void)unlink(server->path);
	server->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
	assert_int_equal(bind(server->listen_fd, (struct sockaddr *)&address, sizeof(address)), 0);
}

static void listen_host(struct net_server *server)
{
	const bool udp = server->kind == SERVER_UDP;
	struct sockaddr_in6 ip6 = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	struct sockaddr_in ip4 = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct sockaddr *address = server->ip6 ? (struct sockaddr *)&ip6 : (struct sockaddr *)&ip4;
	socklen_t bytes = server->ip6 ? sizeof(ip6) : sizeof(ip4);
	static const int yes = 1, large = 4 << 20;
	int fd = socket(address->sa_family, (udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_NONBLOCK, 0);

	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &large, sizeof(large));
	assert_int_equal(bind(fd, address, bytes), 0);
	assert_int_equal(getsockname(fd, address, &bytes), 0);
	snprintf(server->address, sizeof(server->address), "attnd%s://%s:%u", udp ? "+udp" : "", server->ip6 ? "[::1]" : "127.0.0.1",
		ntohs(server->ip6 ? ip6.sin6_port : ip4.sin_port));
	if (udp)
		server->fd = fd;
	else
		server->listen_fd = fd;
}

void net_server_start(struct net_server *server)
{
	server->listen_fd = server->fd = -1;
	strcpy(server->folder, "/tmp/attnd-net-XXXXXX");
	assert_non_null(mkdtemp(server->folder));
	write_key(server);
	if (server->kind == SERVER_UNIX)
		listen_unix(server);
	else
		listen_host(server);
	if (server->listen_fd >= 0)
		assert_int_equal(listen(server->listen_fd, 16), 0);
	server->peer.datagram = server->kind == SERVER_UDP;
	net_peer_start(&server->peer);
	assert_int_equal(pthread_create(&server->thread, NULL, serve, server), 0);
}

void net_server_stop(struct net_server *server)
{
	server->stops = true;
	pthread_join(server->thread, NULL);
	if (server->fd >= 0)
		close(server->fd);
	if (server->listen_fd >= 0)
		close(server->listen_fd);
	net_peer_stop(&server->peer);
	(void)unlink(server->key_file);
	if (server->kind == SERVER_UNIX)
		(void)unlink(server->path);
	(void)rmdir(server->folder);
}
