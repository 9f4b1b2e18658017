/*
 * Finding and checking the memory that shows what the daemon does: what was made is found, and whatever else a daemon hands out is
 * refused, never read past its end.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base_rand.h"
#include "shm-ipc/shm_segment.h"
#include "shm-ipc/shm_view.h"

enum { ALL_SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL | F_SEAL_FUTURE_WRITE };

static const struct shm_segment_options usual = { .submission_slots = 64, .completion_slots = 128, .arena_bytes = 1 << 16,
	.max_in_flight = 32, .node = -1, .devices = 3, .timelines = 8 };

/* ---- a client's own -------------------------------------------------------------------------- */

static void what_was_made_is_found(void **state)
{
	struct shm_segment segment;
	struct shm_view_own own;

	(void)state;
	assert_int_equal(shm_segment_create(&segment, &usual), 0);
	assert_int_equal(shm_head_check(&segment.head), 0);
	assert_int_equal(shm_segment_cost(&usual), segment.head.write_bytes + segment.head.read_bytes);
	assert_int_equal(shm_view_own_find(&own, segment.read_memory, &segment.head), 0);
	assert_int_equal(own.devices, 3);
	assert_int_equal(own.timelines, 8);
	for (uint32_t d = 0; d < 3; d++) {
		const struct base_view_own_device *at = shm_view_own_at(&own, d);

		assert_ptr_equal(at, shm_view_own_device(segment.view, d));
		assert_true((uintptr_t)at % 64 == 0);
		assert_true((const unsigned char *)&at->timelines[8] <= segment.read_memory + segment.head.read_bytes);
		assert_true((const unsigned char *)at >=
			segment.read_memory + segment.head.completion_offset + 128 * sizeof(struct shm_slot));
	}
	shm_segment_destroy(&segment);
}

static void none_and_wrong_ones(void **state)
{
	struct shm_segment_options options = usual;
	struct shm_segment segment;
	struct shm_view_own own;

	(void)state;
	options.timelines = 0;
	assert_int_equal(shm_segment_create(&segment, &options), 0);
	assert_null(segment.view);
	assert_int_equal(shm_view_own_find(&own, segment.read_memory, &segment.head), -ENOTSUP);
	assert_null(own.first);
	shm_segment_destroy(&segment);
	options.timelines = 12;
	assert_int_equal(shm_segment_create(&segment, &options), -EINVAL);
	options.timelines = 2 * SHM_SLOTS_MAX;
	assert_int_equal(shm_segment_create(&segment, &options), -EINVAL);
	options.timelines = 8;
	options.devices = SHM_VIEW_DEVICES_MAX + 1;
	assert_int_equal(shm_segment_create(&segment, &options), -EINVAL);
}

/* Any word of it replaced by any other: refused, or inside the segment. */
static void a_wrong_one_is_refused(void **state)
{
	struct shm_segment segment;
	struct shm_counters *counters;
	struct base_view_own_head good;
	uint64_t random = 5, offset;
	unsigned refused = 0;

	(void)state;
	assert_int_equal(shm_segment_create(&segment, &usual), 0);
	counters = (struct shm_counters *)(void *)(segment.read_memory + segment.head.counters_offset);
	offset = atomic_load(&counters->view_offset);
	good = *segment.view;
	for (unsigned i = 0; i < 100000; i++) {
		const unsigned at = (unsigned)base_rand_below(&random, 32 / 4 + 1);
		const uint32_t value = (uint32_t)base_rand_next(&random) >> base_rand_below(&random, 32);
		struct shm_view_own own;

		if (at < 32 / 4)
			memcpy((unsigned char *)segment.view + at * 4, &value, 4);
		else
			atomic_store(&counters->view_offset, value);
		if (shm_view_own_find(&own, segment.read_memory, &segment.head)) {
			refused++;
			assert_null(own.first);
		} else {
			assert_true(own.first >= segment.read_memory && own.first + own.devices * own.device_bytes <=
				segment.read_memory + segment.head.read_bytes);
			assert_true(own.devices > 0 && own.timelines > 0 && (own.timelines & (own.timelines - 1)) == 0);
		}
		*segment.view = good;
		atomic_store(&counters->view_offset, offset);
	}
	assert_true(refused > 50000);
	shm_segment_destroy(&segment);
}

/* ---- the operators' -------------------------------------------------------------------------- */

/* A control socket that hands out whatever it is given, once. */
struct server {
	char folder[32], path[64];
	int listen_fd, fd;
	const char *text;
	pthread_t thread;
};

static void *serve(void *context)
{
	struct server *server = context;
	char line[16], control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec part = { .iov_base = (void *)(uintptr_t)server->text, .iov_len = strlen(server->text) };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
	int socket = accept(server->listen_fd, NULL, NULL);

	(void)!read(socket, line, sizeof(line));
	if (server->fd >= 0) {
		message.msg_control = control;
		message.msg_controllen = sizeof(control);
		struct cmsghdr *header = CMSG_FIRSTHDR(&message);

		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(header), &server->fd, sizeof(int));
	}
	if (part.iov_len)
		(void)!sendmsg(socket, &message, MSG_NOSIGNAL);
	close(socket);
	return NULL;
}

/* What shm_view_connect makes of it; consumes fd. */
static int connect_to(int fd, const char *text, struct shm_view *view)
{
	struct server server = { .folder = "/tmp/attnd-view-XXXXXX", .fd = fd, .text = text };
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int error;

	assert_non_null(mkdtemp(server.folder));
	snprintf(server.path, sizeof(server.path), "%s/attnd.ctl", server.folder);
	memcpy(address.sun_path, server.path, sizeof(server.path));
	server.listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(server.listen_fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(server.listen_fd, 1), 0);
	assert_int_equal(pthread_create(&server.thread, NULL, serve, &server), 0);
	error = shm_view_connect(view, server.path, 2000000000);
	pthread_join(server.thread, NULL);
	close(server.listen_fd);
	unlink(server.path);
	rmdir(server.folder);
	if (fd >= 0)
		close(fd);
	return error;
}

/* A file with this head and size. */
static int file_of(const struct base_view_head *head, size_t bytes, int seals)
{
	int fd = memfd_create("view", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
	assert_int_equal(pwrite(fd, head, bytes < sizeof(*head) ? bytes : sizeof(*head), 0),
		bytes < sizeof(*head) ? bytes : sizeof(*head));
	assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
	return fd;
}

static void operators_find_what_was_made(void **state)
{
	struct shm_view made, found;

	(void)state;
	assert_int_equal(shm_view_create(&made, 2), 0);
	base_view_put(&shm_view_device(&made, 1)->counts.received[3], 77);
	assert_int_equal(connect_to(dup(made.read_fd), "{}", &found), 0);
	assert_int_equal(found.devices, 2);
	assert_int_equal(base_view_get(&shm_view_device(&found, 1)->counts.received[3]), 77);
	base_view_count(&shm_view_device(&made, 1)->counts.received[3]);
	assert_int_equal(base_view_get(&shm_view_device(&found, 1)->counts.received[3]), 78);
	shm_view_destroy(&made);
	assert_int_equal(base_view_get(&shm_view_device(&found, 1)->counts.received[3]), 78); /* it outlives who made it */
	shm_view_destroy(&found);
}

static void operators_refuse_the_rest(void **state)
{
	struct base_view_head good = { .magic = BASE_VIEW_MAGIC, .version = BASE_VIEW_VERSION, .devices = 1, .bytes = 16384,
		.device_bytes = sizeof(struct base_view_device) }, bad;
	struct shm_view view;

	(void)state;
	assert_int_equal(connect_to(file_of(&good, 16384, ALL_SEALS), "{}", &view), 0);
	shm_view_destroy(&view);
	assert_int_equal(connect_to(-1, "{\"error\":\"unknown command\"}", &view), -ENOTSUP);
	assert_int_equal(connect_to(-1, "", &view), -EPROTO);
	assert_int_equal(connect_to(file_of(&good, 16384, F_SEAL_GROW), "{}", &view), -EPROTO);
	assert_int_equal(connect_to(file_of(&good, 100, ALL_SEALS), "{}", &view), -EPROTO);
	assert_int_equal(connect_to(file_of(&good, 8192, ALL_SEALS), "{}", &view), -EPROTO);
	bad = good, bad.magic++;
	assert_int_equal(connect_to(file_of(&bad, 16384, ALL_SEALS), "{}", &view), -ENOTSUP);
	bad = good, bad.version++;
	assert_int_equal(connect_to(file_of(&bad, 16384, ALL_SEALS), "{}", &view), -ENOTSUP);
	bad = good, bad.devices = 2;
	assert_int_equal(connect_to(file_of(&bad, 16384, ALL_SEALS), "{}", &view), -EPROTO);
	bad = good, bad.devices = 0;
	assert_int_equal(connect_to(file_of(&bad, 16384, ALL_SEALS), "{}", &view), -EPROTO);
	bad = good, bad.device_bytes += 128;
	assert_int_equal(connect_to(file_of(&bad, 16384, ALL_SEALS), "{}", &view), -EPROTO);
	assert_null(view.head);
	assert_int_equal(shm_view_connect(&view, "/nowhere/attnd.ctl", 1000000000), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_made_is_found),
		cmocka_unit_test(none_and_wrong_ones),
		cmocka_unit_test(a_wrong_one_is_refused),
		cmocka_unit_test(operators_find_what_was_made),
		cmocka_unit_test(operators_refuse_the_rest),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
