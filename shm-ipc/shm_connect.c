/*
 * The client's half of the handshake, and of the mapping. The daemon is trusted with our
 * requests, not with our address space: sizes, seals and layout are checked before anything is
 * believed.
 */
#include "shm-ipc/shm_attach.h"

#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/base_clock.h"
#include "base/base_error.h"
#include "shm-ipc/shm_memory.h"

enum { FDS = 3, FDS_ROOM = 8, CONNECT_RETRY_NS = 1000000, ERRNO_MAX = 4095 };

/* ---- the socket ------------------------------------------------------------------------------ */

static int socket_connect(const char *path, int64_t deadline_ns)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	const struct timespec pause = { .tv_nsec = CONNECT_RETRY_NS };
	int fd, error;

	if (strlen(path) >= sizeof(address.sun_path))
		return base_fail(ENAMETOOLONG, "socket %s: a socket's path has at most %zu characters", path,
			sizeof(address.sun_path) - 1);
	memcpy(address.sun_path, path, strlen(path) + 1);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return base_fail(errno, "socket: %s", strerror(errno));
	/* EAGAIN: the daemon's queue of new clients is full for the moment. */
	while (connect(fd, (const struct sockaddr *)&address, sizeof(address))) {
		error = errno == EAGAIN && base_monotonic_ns() >= deadline_ns ? ETIMEDOUT : errno;
		if (error != EAGAIN && error != EINTR) {
			close(fd);
			return base_fail(error, "connecting to %s: %s%s", path, strerror(error),
				error == ENOENT || error == ECONNREFUSED ? " (is attnd running?)" : "");
		}
		nanosleep(&pause, NULL);
	}
	return fd;
}

static int wait_readable(int fd, int64_t deadline_ns)
{
	struct pollfd wanted = { .fd = fd, .events = POLLIN };

	for (;;) {
		int64_t left_ns = deadline_ns - base_monotonic_ns();
		struct timespec left = { .tv_sec = (time_t)(left_ns / 1000000000),
			.tv_nsec = (long)(left_ns % 1000000000) };
		int ready;

		if (left_ns <= 0)
			return base_fail(ETIMEDOUT, "the daemon accepted the connection and did not answer in time");
		ready = ppoll(&wanted, 1, &left, NULL);
		if (ready > 0)
			return 0;
		if (ready < 0 && errno != EINTR)
			return base_fail(errno, "waiting for the daemon's answer: %s", strerror(errno));
	}
}

static void close_all(const int *fds, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		close(fds[i]);
}

/* Collects the descriptors of a message; there may be more than are wanted, and all must be
 * closed then. */
static unsigned collect_fds(struct msghdr *message, int fds[FDS_ROOM])
{
	unsigned count = 0;

	for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header; header = CMSG_NXTHDR(message, header)) {
		size_t size;

		if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
			continue;
		size = header->cmsg_len - CMSG_LEN(0);
		if (size > (FDS_ROOM - count) * sizeof(int))
			size = (FDS_ROOM - count) * sizeof(int);
		memcpy(fds + count, CMSG_DATA(header), size);
		count += (unsigned)(size / sizeof(int));
	}
	return count;
}

static int welcome_check(struct shm_welcome *welcome, size_t size_bytes, unsigned fd_count)
{
	if (size_bytes < offsetof(struct shm_welcome, status) || welcome->magic != SHM_MAGIC)
		return base_fail(EPROTO, "whoever answers at this address is not attnd");
	if (welcome->version != SHM_VERSION)
		return base_fail(EPROTO, "the daemon speaks version %u of the protocol, this library %d",
			welcome->version, SHM_VERSION);
	if (size_bytes != sizeof(*welcome) || welcome->struct_bytes != sizeof(*welcome))
		return base_fail(EPROTO, "the daemon's answer has %zu bytes; version %d has %zu", size_bytes,
			SHM_VERSION, sizeof(*welcome));
	welcome->reason[SHM_REASON_BYTES - 1] = 0;
	if (welcome->status < 0 || welcome->status > ERRNO_MAX)
		return base_fail(EPROTO, "the daemon's answer has status %d", welcome->status);
	if (welcome->status)
		return base_fail(welcome->status, "the daemon refused: %s", welcome->reason);
	if (fd_count != FDS)
		return base_fail(EPROTO, "the daemon sent %u descriptors instead of %d", fd_count, FDS);
	return shm_head_check(&welcome->head);
}

/* Receives the welcome; on success fds holds W, R and the eventfd. */
static int receive_welcome(int socket, struct shm_welcome *welcome, int fds[FDS_ROOM])
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(FDS_ROOM * sizeof(int))];
	} control;
	struct iovec part = { .iov_base = welcome, .iov_len = sizeof(*welcome) };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes) };
	ssize_t size = recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	unsigned count;
	int error;

	if (size < 0)
		return base_fail(errno == ECONNRESET ? ECONNREFUSED : errno, "reading the daemon's answer: %s",
			strerror(errno));
	count = collect_fds(&message, fds);
	if (size == 0)
		error = base_fail(ECONNREFUSED, "the daemon closed the connection without an answer");
	else if (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
		error = base_fail(EPROTO, "the daemon's answer is longer than %zu bytes and %d descriptors",
			sizeof(*welcome), FDS);
	else
		error = welcome_check(welcome, (size_t)size, count);
	if (error)
		close_all(fds, count);
	return error;
}

/* ---- the memory ------------------------------------------------------------------------------ */

static int map_both(struct shm_connection *connection, const int fds[FDS])
{
	const int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
	const struct shm_daemon_head *head = &connection->head;
	int error, flags = fcntl(fds[2], F_GETFL);

	if (flags < 0 || !(flags & O_NONBLOCK))
		return base_fail(EPROTO, "the daemon's doorbell could block");
	error = shm_memory_map(&connection->write_memory, fds[0], head->write_bytes, seals,
		PROT_READ | PROT_WRITE);
	if (error)
		return error;
	error = shm_memory_map(&connection->read_memory, fds[1], head->read_bytes,
		seals | F_SEAL_FUTURE_WRITE, PROT_READ);
	if (error)
		munmap(connection->write_memory, head->write_bytes);
	return error;
}

/* ---- connecting ------------------------------------------------------------------------------ */

static int greet(struct shm_connection *connection, const struct shm_hello *sizes, int64_t deadline_ns)
{
	struct shm_hello hello = { .magic = SHM_MAGIC, .version = SHM_VERSION, .struct_bytes = sizeof(hello),
		.arena_bytes = sizes->arena_bytes, .submission_slots = sizes->submission_slots,
		.completion_slots = sizes->completion_slots };
	struct shm_welcome welcome = { 0 };
	int fds[FDS_ROOM];
	int error;

	if (send(connection->socket, &hello, sizeof(hello), MSG_NOSIGNAL) != (ssize_t)sizeof(hello))
		return base_fail(errno, "greeting the daemon: %s", strerror(errno));
	error = wait_readable(connection->socket, deadline_ns);
	if (!error)
		error = receive_welcome(connection->socket, &welcome, fds);
	if (error)
		return error;
	connection->head = welcome.head;
	error = map_both(connection, fds);
	close(fds[0]);
	close(fds[1]);
	if (error)
		close(fds[2]);
	else
		connection->bell_fd = fds[2];
	return error;
}

int shm_connect(struct shm_connection *connection, const char *path, const struct shm_hello *hello,
	int64_t timeout_ns)
{
	int64_t deadline_ns = base_monotonic_ns() + timeout_ns;
	int error;

	*connection = (struct shm_connection){ .socket = -1, .bell_fd = -1 };
	connection->socket = socket_connect(path, deadline_ns);
	if (connection->socket < 0)
		return connection->socket;
	error = greet(connection, hello, deadline_ns);
	if (error) {
		close(connection->socket);
		connection->socket = -1;
	}
	return error;
}

void shm_disconnect(struct shm_connection *connection)
{
	if (connection->socket < 0)
		return;
	munmap(connection->read_memory, connection->head.read_bytes);
	munmap(connection->write_memory, connection->head.write_bytes);
	close(connection->bell_fd);
	close(connection->socket);
	*connection = (struct shm_connection){ .socket = -1, .bell_fd = -1 };
}

int shm_connection_alive(const struct shm_connection *connection)
{
	char byte;
	ssize_t size = recv(connection->socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT);

	return size < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -ENOTCONN;
}

void shm_client_end_init(struct shm_client_end *end, const struct shm_connection *connection)
{
	const struct shm_daemon_head *head = &connection->head;
	unsigned char *write_memory = connection->write_memory, *read_memory = connection->read_memory;

	*end = (struct shm_client_end){
		.submissions = (struct shm_slot *)(void *)(write_memory + head->submission_offset),
		.submission_mask = head->submission_slots - 1,
		.submission_lap = shm_lap(0, head->submission_slots),
		.completions = (const struct shm_slot *)(void *)(read_memory + head->completion_offset),
		.completion_mask = head->completion_slots - 1,
		.completion_lap = shm_lap(0, head->completion_slots),
		.bell_fd = connection->bell_fd,
		.line = (struct shm_client_line *)(void *)write_memory,
		.daemon_line = (const struct shm_daemon_line *)(void *)(read_memory + head->line_offset),
	};
}
