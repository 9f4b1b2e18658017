/*
 * Sockets that listen. See net_listen.h.
 */
#include "netio/net_listen.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/base_error.h"

enum {
	LISTEN_BACKLOG = 1024,
	DATAGRAM_BUFFER_BYTES = 4 << 20, /* in the kernel: what comes and goes while this thread does something else */
	UNIX_MODE = 0600,
	KEEPALIVE_S = 60, /* of silence, until it is asked; as long again, and it is gone */
	KEEPALIVE_PROBES = 4,
	FREE_PAUSE_NS = 1000000,
	FREE_PAUSES_MAX = 1000,
};

/* What is being made, and what its messages are about. */
struct making {
	const struct net_listener *listener;
	struct net_listening *listening;
};

static int fail(const struct making *making, int err, const char *what)
{
	static const char *const kinds[] = { "TCP", "UDP", "Unix socket" };
	const struct net_listener *listener = making->listener;

	if (listener->kind == NET_PORT_UNIX)
		return base_fail(err, "listening on %s %s: %s: %s%s", kinds[listener->kind], listener->place, what, strerror(err),
			err == EADDRINUSE ? " (another process serves it)" : "");
	return base_fail(err, "listening on %s %s port %u: %s: %s", kinds[listener->kind], listener->place, listener->port, what,
		strerror(err));
}

/* ---- Unix ------------------------------------------------------------------------------------------------- */

/* Whether nobody listens on the socket at this address: its owner died without removing it. */
static bool is_stale(const struct sockaddr_un *address)
{
	struct stat status;
	bool refused;
	int fd;

	if (lstat(address->sun_path, &status) || !S_ISSOCK(status.st_mode))
		return false;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return false;
	refused = connect(fd, (const struct sockaddr *)address, sizeof(*address)) && errno == ECONNREFUSED;
	close(fd);
	return refused;
}

static int bind_unix(int fd, const struct sockaddr_un *address, mode_t mode)
{
	const struct sockaddr *generic = (const struct sockaddr *)address;

	/* The mode before the bind, so that the socket is at no moment open to more than it allows; once more after it, because
	 * the process's umask was taken off. */
	if (fchmod(fd, mode))
		return -1;
	if (bind(fd, generic, sizeof(*address))) {
		if (errno != EADDRINUSE)
			return -1;
		if (!is_stale(address)) {
			errno = EADDRINUSE;
			return -1;
		}
		if (unlink(address->sun_path) || bind(fd, generic, sizeof(*address)))
			return -1;
	}
	return chmod(address->sun_path, mode);
}

static int listen_unix(const struct making *making)
{
	const struct net_listener *listener = making->listener;
	struct net_listening *listening = making->listening;
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct stat status;

	if (strlen(listener->place) >= sizeof(address.sun_path))
		return base_fail(ENAMETOOLONG, "listening on Unix socket %s: a socket's path has at most %zu characters", listener->place,
			sizeof(address.sun_path) - 1);
	if (listener->place[0] == '\0')
		return base_fail(EINVAL, "a Unix socket to listen on has no path");
	memcpy(address.sun_path, listener->place, strlen(listener->place) + 1);
	listening->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (listening->fd < 0)
		return fail(making, errno, "socket");
	if (bind_unix(listening->fd, &address, listener->mode ? listener->mode : UNIX_MODE))
		return fail(making, errno, "bind");
	if (lstat(listener->place, &status))
		return fail(making, errno, "stat");
	listening->device = status.st_dev;
	listening->inode = status.st_ino;
	listening->has_file = true;
	if (listen(listening->fd, LISTEN_BACKLOG))
		return fail(making, errno, "listen");
	return 0;
}

/* ---- IP --------------------------------------------------------------------------------------------------- */

static int set(int fd, int level, int option, int value)
{
	return setsockopt(fd, level, option, &value, sizeof(value));
}

/* Streams that are accepted inherit what is set here. Who is silent is asked whether he lives, so that a machine that vanished keeps no
 * place for ever. */
static int set_stream_options(int fd)
{
	return set(fd, SOL_SOCKET, SO_REUSEADDR, 1) || set(fd, IPPROTO_TCP, TCP_NODELAY, 1) || set(fd, SOL_SOCKET, SO_KEEPALIVE, 1) ||
		set(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_S) || set(fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_S / KEEPALIVE_PROBES) ||
		set(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_PROBES);
}

/* As much as there may be: more than the administrator's limit where this process has the right to it. */
static void set_buffer(int fd, int forced, int asked)
{
	if (set(fd, SOL_SOCKET, forced, DATAGRAM_BUFFER_BYTES))
		(void)set(fd, SOL_SOCKET, asked, DATAGRAM_BUFFER_BYTES);
}

/* No SO_REUSEADDR: with it a second process could take a port that is served, and half of its datagrams. */
static int set_datagram_options(int fd, int family)
{
	set_buffer(fd, SO_RCVBUFFORCE, SO_RCVBUF);
	set_buffer(fd, SO_SNDBUFFORCE, SO_SNDBUF);
	/* A socket of IPv6 that takes both sends IPv4 by the first of these. */
	if (set(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO))
		return -1;
	return family == AF_INET6 ? set(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO) : 0;
}

static uint16_t port_of(int fd)
{
	union {
		struct sockaddr any;
		struct sockaddr_in four;
		struct sockaddr_in6 six;
	} address = { .any.sa_family = AF_UNSPEC };
	socklen_t bytes = sizeof(address);

	if (getsockname(fd, &address.any, &bytes))
		return 0;
	return ntohs(address.any.sa_family == AF_INET6 ? address.six.sin6_port : address.four.sin_port);
}

static int listen_address(const struct making *making, const struct addrinfo *address)
{
	struct net_listening *listening = making->listening;
	const bool is_stream = making->listener->kind == NET_PORT_TCP;
	const int type = is_stream ? SOCK_STREAM : SOCK_DGRAM;
	int fd = socket(address->ai_family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	listening->fd = fd;
	if (fd < 0)
		return fail(making, errno, "socket");
	if (is_stream ? set_stream_options(fd) : set_datagram_options(fd, address->ai_family))
		return fail(making, errno, "setsockopt");
	if (address->ai_family == AF_INET6 && set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0))
		return fail(making, errno, "IPV6_V6ONLY");
	if (bind(fd, address->ai_addr, address->ai_addrlen))
		return fail(making, errno, "bind");
	if (is_stream && listen(fd, LISTEN_BACKLOG))
		return fail(making, errno, "listen");
	listening->port = port_of(fd);
	return 0;
}

static int listen_ip(const struct making *making)
{
	const struct net_listener *listener = making->listener;
	const struct addrinfo wanted = { .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE, .ai_socktype = SOCK_STREAM };
	struct addrinfo *address = NULL;
	char port[8];
	int rc;

	snprintf(port, sizeof(port), "%u", listener->port);
	rc = listener->place[0] ? getaddrinfo(listener->place, port, &wanted, &address) : EAI_NONAME;
	if (rc)
		return base_fail(EINVAL, "listening on port %u: \"%s\" is not an address of IPv4 or IPv6 (%s)", listener->port, listener->place,
			gai_strerror(rc));
	rc = listen_address(making, address);
	freeaddrinfo(address);
	return rc;
}

/* ---- all of them ------------------------------------------------------------------------------------------ */

int net_listen(struct net_listening *listening, const struct net_listener *listener)
{
	const struct making making = { listener, listening };
	int rc;

	*listening = (struct net_listening){ .fd = -1, .kind = listener->kind };
	if (!memchr(listener->place, '\0', sizeof(listener->place)))
		return base_fail(ENAMETOOLONG, "a place to listen has at most %d characters", NET_PLACE_BYTES - 1);
	if (listener->kind > NET_PORT_UNIX)
		return base_fail(EINVAL, "listening on %s: unknown kind %u", listener->place, listener->kind);
	memcpy(listening->place, listener->place, sizeof(listening->place));
	rc = listener->kind == NET_PORT_UNIX ? listen_unix(&making) : listen_ip(&making);
	if (rc)
		net_listen_end(listening);
	return rc;
}

void net_listen_end(struct net_listening *listening)
{
	struct stat status;

	if (listening->has_file && lstat(listening->place, &status) == 0 && status.st_dev == listening->device &&
		status.st_ino == listening->inode)
		(void)unlink(listening->place);
	if (listening->fd >= 0)
		close(listening->fd);
	*listening = (struct net_listening){ .fd = -1 };
}

void net_listen_wait_free(const struct net_listening *was)
{
	const struct timespec pause = { .tv_nsec = FREE_PAUSE_NS };
	struct net_listener listener = { .kind = was->kind, .port = was->port };
	struct net_listening again;

	if (was->kind == NET_PORT_UNIX)
		return;
	memcpy(listener.place, was->place, sizeof(listener.place));
	for (int i = 0; i < FREE_PAUSES_MAX; i++) {
		const int rc = net_listen(&again, &listener);

		net_listen_end(&again);
		base_error_clear();
		if (rc != -EADDRINUSE)
			return;
		nanosleep(&pause, NULL);
	}
}

int net_listen_all(struct net_listening *listening, const struct net_port_options *options)
{
	if (options->listener_count == 0 || options->listener_count > NET_LISTENERS_MAX)
		return base_fail(EINVAL, "a transport has 1 to %d listeners, not %u", NET_LISTENERS_MAX, options->listener_count);
	if (options->streams_max > NET_STREAMS_MAX)
		return base_fail(EINVAL, "a transport has at most %d streams, not %u", NET_STREAMS_MAX, options->streams_max);
	for (uint32_t i = 0; i < options->listener_count; i++) {
		int rc = net_listen(&listening[i], &options->listeners[i]);

		if (rc == 0)
			continue;
		while (i > 0)
			net_listen_end(&listening[--i]);
		return rc;
	}
	return 0;
}

void net_listen_peer(int fd, uint8_t kind, unsigned char address[NET_ADDRESS_BYTES])
{
	const sa_family_t family = AF_UNIX;
	struct ucred credentials;
	socklen_t bytes = NET_ADDRESS_BYTES;

	memset(address, 0, NET_ADDRESS_BYTES);
	if (kind == NET_PORT_TCP) {
		(void)getpeername(fd, (struct sockaddr *)(void *)address, &bytes);
		return;
	}
	bytes = sizeof(credentials);
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &bytes))
		return;
	memcpy(address, &family, sizeof(family));
	memcpy(address + 4, &credentials, sizeof(credentials));
}
