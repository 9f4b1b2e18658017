/*
 * Memory that shows what the daemon does. See the header. Control role, and readers; cold.
 */
#include "shm-ipc/shm_view.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/base_error.h"
#include "shm-ipc/shm_memory.h"

/* ---- a client's own ------------------------------------------------------------------------------ */

static uint64_t own_device_bytes(uint32_t timelines)
{
	return sizeof(struct attnd_view_own) + (uint64_t)timelines * sizeof(struct attnd_timeline);
}

uint64_t shm_view_own_bytes(uint32_t devices, uint32_t timelines)
{
	return devices && timelines ? sizeof(struct base_view_own_head) + devices * own_device_bytes(timelines) : 0;
}

void shm_view_own_init(struct base_view_own_head *head, uint32_t devices, uint32_t timelines)
{
	*head = (struct base_view_own_head){ .magic = BASE_VIEW_MAGIC,
		.version = BASE_VIEW_VERSION,
		.devices = devices,
		.slots = timelines,
		.device_bytes = own_device_bytes(timelines) };
}

int shm_view_own_find(struct shm_view_own *own, const unsigned char *read_memory, const struct shm_daemon_head *head)
{
	const struct shm_counters *counters = (const struct shm_counters *)(const void *)(read_memory + head->counters_offset);
	const uint64_t offset = atomic_load_explicit(&counters->view_offset, memory_order_relaxed);
	struct base_view_own_head view;

	*own = (struct shm_view_own){ 0 };
	if (offset == 0)
		return base_fail(ENOTSUP, "this daemon keeps no timelines: it is too old, or [shm] timelines is 0");
	if (offset % 64 || offset > head->read_bytes || head->read_bytes - offset < sizeof(view))
		return base_fail(EPROTO, "the daemon's timelines lie outside their segment");
	memcpy(&view, read_memory + offset, sizeof(view));
	if (view.magic != BASE_VIEW_MAGIC || view.version != BASE_VIEW_VERSION)
		return base_fail(ENOTSUP, "the daemon's timelines have version %u; this library reads %d", view.version,
			BASE_VIEW_VERSION);
	if (view.devices == 0 || view.devices > SHM_VIEW_DEVICES_MAX || view.slots == 0 || view.slots > SHM_SLOTS_MAX ||
		(view.slots & (view.slots - 1)) || view.device_bytes != own_device_bytes(view.slots) ||
		head->read_bytes - offset < shm_view_own_bytes(view.devices, view.slots))
		return base_fail(EPROTO, "the daemon's timelines are %u on each of %u devices, and do not lie in their segment",
			view.slots, view.devices);
	*own = (struct shm_view_own){ .first = read_memory + offset + sizeof(view),
		.devices = view.devices,
		.timelines = view.slots,
		.device_bytes = view.device_bytes };
	return 0;
}

/* ---- the operators': made ------------------------------------------------------------------------ */

int shm_view_create(struct shm_view *view, uint32_t devices)
{
	const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	const uint64_t bytes = sizeof(struct base_view_head) + devices * sizeof(struct base_view_device);
	unsigned char *memory;
	int error;

	*view = (struct shm_view){ .bytes = (bytes + page - 1) / page * page, .devices = devices, .read_fd = -1 };
	view->read_fd = shm_memory_create(&memory, view->bytes, false, 0400, -1);
	if (view->read_fd < 0)
		return view->read_fd;
	view->head = (struct base_view_head *)(void *)memory;
	view->head->magic = BASE_VIEW_MAGIC;
	view->head->version = BASE_VIEW_VERSION;
	view->head->devices = devices;
	view->head->bytes = view->bytes;
	view->head->device_bytes = sizeof(struct base_view_device);
	error = shm_memory_seal(view->read_fd, F_SEAL_FUTURE_WRITE);
	if (!error) {
		view->read_fd = shm_memory_read_only(view->read_fd);
		error = view->read_fd < 0 ? view->read_fd : 0;
	}
	if (error)
		shm_view_destroy(view);
	return error;
}

void shm_view_destroy(struct shm_view *view)
{
	if (view->head)
		munmap(view->head, view->bytes);
	if (view->read_fd >= 0)
		close(view->read_fd);
	*view = (struct shm_view){ .read_fd = -1 };
}

/* ---- the operators': read ------------------------------------------------------------------------ */

static int dial(const char *path, int64_t timeout_ns)
{
	const struct timeval bound = { .tv_sec = (time_t)(timeout_ns / 1000000000),
		.tv_usec = (suseconds_t)(timeout_ns % 1000000000 / 1000) };
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd, error;

	if (strlen(path) >= sizeof(address.sun_path))
		return base_fail(ENAMETOOLONG, "socket %s: a socket's path has at most %zu characters", path,
			sizeof(address.sun_path) - 1);
	memcpy(address.sun_path, path, strlen(path) + 1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return base_fail(errno, "socket: %s", strerror(errno));
	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof(bound)) == 0 &&
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &bound, sizeof(bound)) == 0 &&
		connect(fd, (const struct sockaddr *)&address, sizeof(address)) == 0)
		return fd;
	error = errno;
	close(fd);
	return base_fail(error, "connecting to %s: %s%s", path, strerror(error),
		error == ENOENT || error == ECONNREFUSED ? " (is attnd running?)"
			: error == EACCES ? " (it is for the daemon's user and root alone)" : "");
}

/* The descriptor beside the first byte of the answer. */
static int receive(int socket)
{
	char text[256];
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec part = { .iov_base = text, .iov_len = sizeof(text) };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes) };
	const ssize_t size = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
	const struct cmsghdr *header = size > 0 ? CMSG_FIRSTHDR(&message) : NULL;
	int fd;

	if (size < 0)
		return base_fail(errno == EAGAIN ? ETIMEDOUT : errno, "the control socket did not answer: %s", strerror(errno));
	if (size == 0)
		return base_fail(EPROTO, "the daemon closed the connection without an answer");
	if (!header || header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS || header->cmsg_len != CMSG_LEN(sizeof(fd)))
		return base_fail(ENOTSUP, "this daemon does not show what it does without being asked; it is too old");
	memcpy(&fd, CMSG_DATA(header), sizeof(fd));
	return fd;
}

static int map(struct shm_view *view, int fd)
{
	const int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL | F_SEAL_FUTURE_WRITE;
	struct base_view_head head;
	unsigned char *memory;
	struct stat status;
	int error;

	if (fstat(fd, &status) || status.st_size < (off_t)sizeof(head))
		return base_fail(EPROTO, "what the daemon handed out is too short");
	error = shm_memory_map(&memory, fd, (uint64_t)status.st_size, seals, PROT_READ);
	if (error)
		return error;
	*view = (struct shm_view){ .head = (struct base_view_head *)(void *)memory, .bytes = (uint64_t)status.st_size, .read_fd = -1 };
	memcpy(&head, memory, offsetof(struct base_view_head, daemon));
	if (head.magic != BASE_VIEW_MAGIC || head.version != BASE_VIEW_VERSION)
		error = base_fail(ENOTSUP, "what the daemon shows has version %u; this library reads %d", head.version, BASE_VIEW_VERSION);
	else if (head.bytes != view->bytes || head.device_bytes != sizeof(struct base_view_device) || head.devices == 0 ||
		head.devices > SHM_VIEW_DEVICES_MAX || (view->bytes - sizeof(head)) / sizeof(struct base_view_device) < head.devices)
		error = base_fail(EPROTO, "what the daemon shows does not lie in its segment");
	view->devices = head.devices;
	if (error)
		shm_view_destroy(view);
	return error;
}

int shm_view_connect(struct shm_view *view, const char *path, int64_t timeout_ns)
{
	static const char word[] = "view\n";
	int socket = dial(path, timeout_ns), fd, error;

	*view = (struct shm_view){ .read_fd = -1 };
	if (socket < 0)
		return socket;
	if (send(socket, word, sizeof(word) - 1, MSG_NOSIGNAL) != (ssize_t)sizeof(word) - 1)
		fd = base_fail(EPIPE, "the daemon at %s hung up", path);
	else
		fd = receive(socket);
	close(socket);
	if (fd < 0)
		return fd;
	error = map(view, fd);
	close(fd);
	return error;
}
