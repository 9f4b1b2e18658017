/*
 * The daemon's half of the handshake; control role. Every call is bounded: one message, one
 * socket, no wait. Nothing in here says more about a failure than the client needs: no names,
 * keys or addresses.
 */
#include "shm-ipc/shm_attach.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/base_error.h"

enum {
	LISTEN_BACKLOG = 128,
	OPTION_PEERPIDFD = 77, /* SO_PEERPIDFD, Linux 6.5 */
};

/* ---- listening ------------------------------------------------------------------------------- */

/* Whether nobody listens on the socket at this address: its owner died without removing it. */
static bool is_stale(const struct sockaddr_un *address)
{
	struct stat status;
	bool refused;
	int fd;

	if (lstat(address->sun_path, &status) || !S_ISSOCK(status.st_mode))
		return false;
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return false;
	refused = connect(fd, (const struct sockaddr *)address, sizeof(*address)) &&
		errno == ECONNREFUSED;
	close(fd);
	return refused;
}

static int bind_to(int fd, const struct sockaddr_un *address, mode_t mode)
{
	const struct sockaddr *generic = (const struct sockaddr *)address;

	/* The mode before the bind, so that the socket is at no moment open to more than it allows;
	 * once more after it, because the process's umask was taken off. */
	if (fchmod(fd, mode))
		return -1;
	if (bind(fd, generic, sizeof(*address))) {
		if (errno != EADDRINUSE || !is_stale(address))
			return -1;
		if (unlink(address->sun_path) || bind(fd, generic, sizeof(*address)))
			return -1;
	}
	return chmod(address->sun_path, mode);
}

int shm_attach_listen(const char *path, mode_t mode)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd, error;

	if (strlen(path) >= sizeof(address.sun_path))
		return base_fail(ENAMETOOLONG, "socket %s: a socket's path has at most %zu characters", path,
			sizeof(address.sun_path) - 1);
	memcpy(address.sun_path, path, strlen(path) + 1);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return base_fail(errno, "socket: %s", strerror(errno));
	if (bind_to(fd, &address, mode) == 0 && listen(fd, LISTEN_BACKLOG) == 0)
		return fd;
	error = errno;
	close(fd);
	return base_fail(error, "listening on %s: %s%s", path, strerror(error),
		error == EADDRINUSE ? " (another daemon serves it)" : "");
}

/* ---- one connection -------------------------------------------------------------------------- */

/* A descriptor of the process at the other end. SO_PEERPIDFD names the process that connected
 * whatever happened since; pidfd_open goes by its number, and the socket's end covers what that
 * could miss. */
static int peer_pidfd(int socket, pid_t pid)
{
	socklen_t size = sizeof(int);
	int pidfd = -1;

	if (getsockopt(socket, SOL_SOCKET, OPTION_PEERPIDFD, &pidfd, &size) == 0)
		return pidfd;
	return (int)syscall(SYS_pidfd_open, pid, 0);
}

int shm_attach_accept(int listen_fd, struct shm_peer *peer)
{
	struct ucred credentials;
	socklen_t size = sizeof(credentials);
	int error, fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0) {
		/* One that gave up while it waited in the queue is no failure of ours. */
		if (errno == EAGAIN || errno == ECONNABORTED || errno == EINTR)
			return -EAGAIN;
		return base_fail(errno, "accepting a client: %s", strerror(errno));
	}
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size)) {
		error = errno;
		close(fd);
		return base_fail(error, "asking who a client is: %s", strerror(error));
	}
	peer->pid = credentials.pid;
	peer->uid = credentials.uid;
	peer->gid = credentials.gid;
	peer->pidfd = peer_pidfd(fd, credentials.pid);
	return fd;
}

int shm_hello_check(const void *bytes, size_t size_bytes, struct shm_hello *hello)
{
	/* What every version has. */
	if (size_bytes < offsetof(struct shm_hello, arena_bytes))
		return base_fail(EPROTO, "a hello of %zu bytes is too short", size_bytes);
	*hello = (struct shm_hello){ 0 };
	memcpy(hello, bytes, size_bytes < sizeof(*hello) ? size_bytes : sizeof(*hello));
	if (hello->magic != SHM_MAGIC)
		return base_fail(EPROTO, "the hello is not of this protocol");
	if (hello->version != SHM_VERSION)
		return base_fail(EPROTO, "the client speaks version %u of the protocol, this daemon %d",
			hello->version, SHM_VERSION);
	if (size_bytes != sizeof(*hello) || hello->struct_bytes != sizeof(*hello))
		return base_fail(EPROTO, "a hello of %zu bytes that claims %u; version %d has %zu",
			size_bytes, hello->struct_bytes, SHM_VERSION, sizeof(*hello));
	if (hello->flags)
		return base_fail(EPROTO, "the hello has unknown flags %#x", hello->flags);
	for (unsigned i = 0; i < sizeof(hello->reserved) / sizeof(hello->reserved[0]); i++)
		if (hello->reserved[i])
			return base_fail(EPROTO, "the hello's reserved word %u is not 0", i);
	return 0;
}

int shm_attach_receive(int socket, struct shm_hello *hello)
{
	unsigned char bytes[sizeof(struct shm_hello)];
	struct iovec part = { .iov_base = bytes, .iov_len = sizeof(bytes) };
	/* Without room for control data the kernel drops any descriptor that the client attached,
	 * and says so. */
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
	ssize_t size = recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	int error;

	if (size < 0) {
		if (errno == EAGAIN || errno == EINTR)
			return 0;
		return base_fail(ECONNRESET, "reading a hello: %s", strerror(errno));
	}
	if (size == 0)
		return base_fail(ECONNRESET, "the client left before it said hello");
	if (message.msg_flags & MSG_CTRUNC)
		return base_fail(EPROTO, "the hello came with descriptors");
	if (message.msg_flags & MSG_TRUNC)
		return base_fail(EPROTO, "the hello is longer than %zu bytes", sizeof(bytes));
	error = shm_hello_check(bytes, (size_t)size, hello);
	return error ? error : 1;
}

/* ---- the answer ------------------------------------------------------------------------------ */

int shm_attach_welcome(int socket, const struct shm_segment *segment, int bell_fd)
{
	const int fds[] = { segment->write_fd, segment->read_fd, bell_fd };
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(fds))];
	} control = { .bytes = { 0 } };
	struct shm_welcome welcome = { .magic = SHM_MAGIC, .version = SHM_VERSION,
		.struct_bytes = sizeof(welcome), .head = segment->head };
	struct iovec part = { .iov_base = &welcome, .iov_len = sizeof(welcome) };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes) };
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(fds));
	memcpy(CMSG_DATA(header), fds, sizeof(fds));
	if (sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)sizeof(welcome))
		return base_fail(errno, "welcoming a client: %s", strerror(errno));
	/* The client can send nothing more, so nothing of its can pile up here. */
	if (shutdown(socket, SHUT_RD))
		return base_fail(errno, "welcoming a client: %s", strerror(errno));
	return 0;
}

void shm_attach_refuse(int socket, int err, const char *reason)
{
	struct shm_welcome welcome = { .magic = SHM_MAGIC, .version = SHM_VERSION,
		.struct_bytes = sizeof(welcome), .status = err };

	snprintf(welcome.reason, sizeof(welcome.reason), "%s", reason);
	(void)!send(socket, &welcome, sizeof(welcome), MSG_DONTWAIT | MSG_NOSIGNAL);
}
