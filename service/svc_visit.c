/*
 * See svc_visit.h.
 */
#include "service/svc_visit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/base_clock.h"
#include "base/base_error.h"
#include "service/svc_status.h"

enum { VISITORS_MAX = 8, LINE_BYTES = 128, VISIT_MS = 5000, LISTENER = VISITORS_MAX };

struct visitor {
	int socket; /* -1: free */
	int fd;     /* the daemon's, goes with the first byte of the answer; -1: none */
	int64_t deadline_ns;
	size_t line_bytes, answer_bytes, sent_bytes;
	char line[LINE_BYTES];
	char *answer;
};

struct svc_visit {
	struct svc_control *control;
	int epoll_fd, listen_fd;
	struct visitor visitors[VISITORS_MAX];
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
};

static int watch(struct svc_visit *visit, int op, int fd, uint32_t events, uint32_t index)
{
	struct epoll_event event = { .events = events, .data.u32 = index };

	return epoll_ctl(visit->epoll_fd, op, fd, &event);
}

static void visitor_close(struct visitor *visitor)
{
	if (visitor->socket >= 0)
		close(visitor->socket);
	free(visitor->answer);
	memset(visitor, 0, sizeof(*visitor));
	visitor->socket = visitor->fd = -1;
}

static ssize_t send_some(struct visitor *visitor)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { .bytes = { 0 } };
	struct iovec part = { .iov_base = visitor->answer + visitor->sent_bytes,
		.iov_len = visitor->answer_bytes - visitor->sent_bytes };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };

	if (visitor->fd >= 0 && visitor->sent_bytes == 0) {
		message.msg_control = control.bytes;
		message.msg_controllen = sizeof(control.bytes);
		control.align = (struct cmsghdr){ .cmsg_level = SOL_SOCKET,
			.cmsg_type = SCM_RIGHTS,
			.cmsg_len = CMSG_LEN(sizeof(int)) };
		memcpy(CMSG_DATA(&control.align), &visitor->fd, sizeof(int));
	}
	return sendmsg(visitor->socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void visitor_send(struct visitor *visitor)
{
	ssize_t sent = send_some(visitor);

	if (sent > 0)
		visitor->sent_bytes += (size_t)sent;
	if ((sent < 0 && errno != EAGAIN) || visitor->sent_bytes == visitor->answer_bytes)
		visitor_close(visitor);
}

static void visitor_answer(struct svc_visit *visit, uint32_t index)
{
	struct visitor *visitor = &visit->visitors[index];

	visitor->answer = svc_status_answer(visit->control, visitor->line, &visitor->fd);
	if (!visitor->answer) {
		visitor_close(visitor);
		return;
	}
	visitor->answer_bytes = strlen(visitor->answer);
	/* At once, because after `drain` there may be no next turn. */
	visitor_send(visitor);
	if (visitor->answer)
		watch(visit, EPOLL_CTL_MOD, visitor->socket, EPOLLOUT, index);
}

static void visitor_read(struct svc_visit *visit, uint32_t index)
{
	struct visitor *visitor = &visit->visitors[index];
	ssize_t got = recv(visitor->socket, visitor->line + visitor->line_bytes,
		LINE_BYTES - 1 - visitor->line_bytes, MSG_DONTWAIT);

	if (got < 0 && errno == EAGAIN)
		return;
	if (got > 0)
		visitor->line_bytes += (size_t)got;
	char *end = memchr(visitor->line, '\n', visitor->line_bytes);

	if (!end && got > 0 && visitor->line_bytes < LINE_BYTES - 1)
		return;
	if (!end) {
		visitor_close(visitor);
		return;
	}
	*end = 0;
	visitor_answer(visit, index);
}

static void accept_visitor(struct svc_visit *visit)
{
	int socket = accept4(visit->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (socket < 0)
		return;
	for (uint32_t i = 0; i < VISITORS_MAX; i++) {
		struct visitor *visitor = &visit->visitors[i];

		if (visitor->socket >= 0)
			continue;
		visitor->socket = socket;
		visitor->deadline_ns = base_monotonic_ns() + VISIT_MS * INT64_C(1000000);
		if (watch(visit, EPOLL_CTL_ADD, socket, EPOLLIN, i))
			visitor_close(visitor);
		return;
	}
	close(socket);
}

int svc_visit_fd(const struct svc_visit *visit)
{
	return visit->epoll_fd;
}

void svc_visit_poll(struct svc_visit *visit)
{
	struct epoll_event events[VISITORS_MAX + 1];
	int count = epoll_wait(visit->epoll_fd, events, VISITORS_MAX + 1, 0);

	for (int i = 0; i < count; i++) {
		uint32_t index = events[i].data.u32;

		if (index == LISTENER)
			accept_visitor(visit);
		else if (visit->visitors[index].socket >= 0 && visit->visitors[index].answer)
			visitor_send(&visit->visitors[index]);
		else if (visit->visitors[index].socket >= 0)
			visitor_read(visit, index);
	}
}

void svc_visit_expire(struct svc_visit *visit, int64_t now_ns)
{
	for (uint32_t i = 0; i < VISITORS_MAX; i++)
		if (visit->visitors[i].socket >= 0 && now_ns > visit->visitors[i].deadline_ns)
			visitor_close(&visit->visitors[i]);
}

/* The path is ours: whoever may write the runtime folder is trusted. */
static int listen_at(struct svc_visit *visit, const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	if (strlen(path) >= sizeof(address.sun_path))
		return base_fail(ENAMETOOLONG,
			"%s: longer than a socket's path may be; choose a shorter runtime_dir", path);
	memcpy(address.sun_path, path, strlen(path));
	visit->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	unlink(path);
	if (visit->listen_fd < 0 ||
		bind(visit->listen_fd, (struct sockaddr *)&address, sizeof(address)))
		return base_fail(errno, "%s: %s", path, strerror(errno));
	memcpy(visit->path, path, strlen(path));
	if (chmod(path, 0600) || listen(visit->listen_fd, VISITORS_MAX))
		return base_fail(errno, "%s: %s", path, strerror(errno));
	return 0;
}

int svc_visit_create(struct svc_visit **visit_out, struct svc_control *control, const char *path)
{
	struct svc_visit *visit = calloc(1, sizeof(*visit));

	if (!visit)
		return base_fail(ENOMEM, "control socket: out of memory");
	visit->control = control;
	visit->listen_fd = -1;
	for (uint32_t i = 0; i < VISITORS_MAX; i++)
		visit->visitors[i].socket = visit->visitors[i].fd = -1;
	visit->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	int rc = visit->epoll_fd < 0 ? base_fail(errno, "epoll_create1: %s", strerror(errno))
				     : listen_at(visit, path);

	if (!rc && watch(visit, EPOLL_CTL_ADD, visit->listen_fd, EPOLLIN, LISTENER))
		rc = base_fail(errno, "epoll_ctl: %s", strerror(errno));
	if (rc) {
		svc_visit_destroy(visit);
		return rc;
	}
	*visit_out = visit;
	return 0;
}

void svc_visit_destroy(struct svc_visit *visit)
{
	if (!visit)
		return;
	for (uint32_t i = 0; i < VISITORS_MAX; i++)
		visitor_close(&visit->visitors[i]);
	if (visit->path[0])
		unlink(visit->path);
	if (visit->listen_fd >= 0)
		close(visit->listen_fd);
	if (visit->epoll_fd >= 0)
		close(visit->epoll_fd);
	free(visit);
}
