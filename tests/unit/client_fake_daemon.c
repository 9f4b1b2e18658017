/*
 * See client_fake_daemon.h. One thread: accept, greet, then poll the ring, and sleep when there
 * is nothing.
 */
#include "tests/unit/client_fake_daemon.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base_clock.h"
#include "base/base_error.h"
#include "shm-ipc/shm_attach.h"
#include "shm-ipc/shm_bell.h"
#include "tests/unit/client_fake_network.h"

enum { IDLE_POLLS = 2000, LOOK_EVERY = 4096 };

static void need(bool condition, const char *what)
{
	if (condition)
		return;
	fprintf(stderr, "fake daemon: %s: %s\n", what, base_error_message());
	exit(1);
}

static bool ended(struct fake_daemon *daemon)
{
	return atomic_load(&daemon->end) != FAKE_RUNS;
}

static bool client_gone(struct fake_daemon *daemon)
{
	struct pollfd watch = { .fd = daemon->socket };

	return poll(&watch, 1, 0) != 0;
}

static void ring(struct fake_daemon *daemon)
{
	struct shm_daemon_end *end = &daemon->ring;

	shm_bell_check_all(&end, 1, base_monotonic_ns());
	shm_bell_retry(end, base_monotonic_ns());
}

bool fake_daemon_stream(struct fake_daemon *daemon, const struct attnd_completion *completion)
{
	if (daemon->network)
		return fake_network_stream(daemon, completion);
	while (!shm_cpl_put(&daemon->ring, completion)) {
		ring(daemon);
		if (ended(daemon) || client_gone(daemon))
			return false;
	}
	ring(daemon);
	return true;
}

bool fake_daemon_cancelled(struct fake_daemon *daemon, uint64_t request_id)
{
	struct attnd_request request;
	struct attnd_completion completion;

	if (daemon->network)
		return fake_network_cancelled(daemon, request_id);
	if (!shm_sub_take(&daemon->ring, &request))
		return false;
	completion = (struct attnd_completion){ .request_id = request.request_id, .flags = ATTND_CPL_FINAL,
		.status = request.op == ATTND_OP_CANCEL ? ATTND_OK : ATTND_BAD_OP,
		.value = request.args == request_id };
	need(shm_cpl_put(&daemon->ring, &completion), "no room for a final completion");
	ring(daemon);
	return request.op == ATTND_OP_CANCEL && request.args == request_id;
}

static bool serve(struct fake_daemon *daemon)
{
	struct attnd_request request;
	bool worked = false;

	while (shm_sub_take(&daemon->ring, &request)) {
		struct attnd_completion completion = { .request_id = request.request_id, .flags = ATTND_CPL_FINAL };
		void *in, *out;

		worked = true;
		if (!shm_arena_range(&daemon->segment, request.in_offset, request.in_bytes, &in) ||
			!shm_arena_range(&daemon->segment, request.out_offset, request.out_capacity, &out))
			completion.status = ATTND_BAD_RANGE;
		else if (request.version != ATTND_VERSION)
			completion.status = ATTND_BAD_RECORD;
		else if (!daemon->answer(daemon, &request, in, out, &completion))
			continue;
		need(shm_cpl_put(&daemon->ring, &completion), "no room for a final completion");
	}
	if (worked)
		ring(daemon);
	return worked;
}

static void sleep_for_work(struct fake_daemon *daemon)
{
	struct shm_daemon_end *end = &daemon->ring;
	struct epoll_event event = { .events = EPOLLIN | EPOLLET };
	int epoll = epoll_create1(EPOLL_CLOEXEC);

	/* A new epoll each time, so that an edge from before is no reason to wake. */
	epoll_ctl(epoll, EPOLL_CTL_ADD, daemon->bell_fd, &event);
	(void)epoll_wait(epoll, &event, 1, 0);
	event.events = EPOLLHUP;
	epoll_ctl(epoll, EPOLL_CTL_ADD, daemon->socket, &event);
	event.events = EPOLLIN;
	epoll_ctl(epoll, EPOLL_CTL_ADD, daemon->stop_fd, &event);
	if (shm_bell_prepare_sleep(&end, 1)) {
		(void)epoll_wait(epoll, &event, 1, 10000);
		shm_bell_awake(&end, 1);
	}
	close(epoll);
}

static bool attach(struct fake_daemon *daemon)
{
	struct shm_segment_options options = { .boot_id = daemon->boot_id, .node = -1,
		.max_in_flight = daemon->max_in_flight ? daemon->max_in_flight : SHM_SLOTS_MAX };
	struct pollfd watch = { .fd = daemon->socket, .events = POLLIN };
	struct shm_hello hello;

	if (poll(&watch, 1, 5000) != 1 || shm_attach_receive(daemon->socket, &hello) != 1) {
		shm_attach_refuse(daemon->socket, EPROTO, base_error_message());
		return false;
	}
	options.submission_slots = hello.submission_slots;
	options.completion_slots = hello.completion_slots;
	options.arena_bytes = hello.arena_bytes;
	if (shm_segment_create(&daemon->segment, &options)) {
		shm_attach_refuse(daemon->socket, EINVAL, base_error_message());
		return false;
	}
	need(shm_daemon_end_create(&daemon->ring, &daemon->segment, 0, 0) == 0, "ring");
	daemon->bell_fd = shm_bell_create();
	need(daemon->bell_fd >= 0, "bell");
	return shm_attach_welcome(daemon->socket, &daemon->segment, daemon->bell_fd) == 0;
}

static void detach(struct fake_daemon *daemon)
{
	if (atomic_load(&daemon->end) == FAKE_CLOSES && daemon->ring.line)
		shm_daemon_end_state(&daemon->ring, SHM_CLOSED);
	close(daemon->socket);
	if (daemon->bell_fd >= 0)
		close(daemon->bell_fd);
	shm_daemon_end_destroy(&daemon->ring);
	shm_segment_destroy(&daemon->segment);
	daemon->ring.line = NULL;
	daemon->bell_fd = -1;
}

static void *run(void *argument)
{
	struct fake_daemon *daemon = argument;
	struct shm_peer peer;

	while (!ended(daemon)) {
		struct pollfd watch[] = { { .fd = daemon->listen_fd, .events = POLLIN },
			{ .fd = daemon->stop_fd, .events = POLLIN } };
		unsigned idle = 0;

		(void)poll(watch, 2, -1);
		daemon->socket = shm_attach_accept(daemon->listen_fd, &peer);
		if (daemon->socket < 0)
			continue;
		if (peer.pidfd >= 0)
			close(peer.pidfd);
		for (bool attached = attach(daemon); attached && !ended(daemon);) {
			if (serve(daemon))
				idle = 0;
			else if (++idle >= IDLE_POLLS && !daemon->spins)
				sleep_for_work(daemon), idle = 0;
			if (idle % LOOK_EVERY == 0 && client_gone(daemon))
				break;
		}
		detach(daemon);
	}
	return NULL;
}

/* A name of its own the first time; the same one in a later life. */
static void make_folder(struct fake_daemon *daemon)
{
	if (daemon->folder[0]) {
		need(mkdir(daemon->folder, 0700) == 0, "folder");
		return;
	}
	snprintf(daemon->folder, sizeof(daemon->folder), "/tmp/attnd-test-XXXXXX");
	need(mkdtemp(daemon->folder) != NULL, "folder");
}

void fake_daemon_start(struct fake_daemon *daemon)
{
	make_folder(daemon);
	snprintf(daemon->path, sizeof(daemon->path), "%s/attnd.sock", daemon->folder);
	daemon->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	need(daemon->stop_fd >= 0, "eventfd");
	daemon->listen_fd = daemon->socket = daemon->bell_fd = -1;
	daemon->segment = (struct shm_segment){ .write_fd = -1, .read_fd = -1, .fault_handle = -1 };
	atomic_store(&daemon->end, FAKE_RUNS);
	if (daemon->way == FAKE_SHM) {
		snprintf(daemon->address, sizeof(daemon->address), "shm:%s", daemon->path);
		daemon->listen_fd = shm_attach_listen(daemon->path, 0600);
		need(daemon->listen_fd >= 0, "socket");
	} else {
		fake_network_create(daemon);
	}
	need(pthread_create(&daemon->thread, NULL, daemon->network ? fake_network_run : run, daemon) == 0, "thread");
}

void fake_daemon_end(struct fake_daemon *daemon, enum fake_end end)
{
	uint64_t one = 1;

	atomic_store(&daemon->end, end);
	need(write(daemon->stop_fd, &one, sizeof(one)) == sizeof(one), "stop");
	pthread_join(daemon->thread, NULL);
	if (daemon->network)
		fake_network_destroy(daemon);
	if (daemon->listen_fd >= 0)
		close(daemon->listen_fd);
	close(daemon->stop_fd);
	unlink(daemon->path);
	rmdir(daemon->folder);
}
