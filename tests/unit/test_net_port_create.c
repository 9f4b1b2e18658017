/*
 * What a transport over the kernel's network needs to be made, what it says when it cannot, and what it leaves behind: each test runs over
 * each of them.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base_error.h"
#include "base/base_features.h"
#include "tests/unit/net_port_rig.h"

static struct rig rig;

static int teardown(void **state)
{
	(void)state;
	port_rig_stop(&rig);
	return 0;
}

/* One listener that fails, behind one that does not: nothing is left of either. */
static void check_fails(void **state, enum net_port_kind kind, const char *place, uint16_t port, int error, const char *says)
{
	const struct port_rig_transport *transport = *state;
	const unsigned descriptors_before = port_rig_descriptors();
	char first[NET_PLACE_BYTES];

	rig.listener_count = 0;
	port_rig_listen(&rig, NET_PORT_UNIX, "/first.sock");
	memcpy(first, rig.listeners[0].place, sizeof(first));
	port_rig_listen(&rig, kind, place);
	rig.listeners[1].port = port;
	assert_int_equal(port_rig_start(&rig, transport->create, 4), -error);
	assert_null(rig.port.self);
	if (!strstr(base_error_message(), says))
		fail_msg("\"%s\" does not say \"%s\"", base_error_message(), says);
	assert_int_equal(access(first, F_OK), -1);
	assert_int_equal(port_rig_descriptors(), descriptors_before);
}

static void test_fails(void **state)
{
	const struct port_rig_transport *transport = *state;
	struct rig other = { .opened = 0 };
	char long_path[NET_PLACE_BYTES];

	memset(long_path, 'x', sizeof(long_path));
	long_path[0] = '/';
	long_path[100] = '\0';
	if (transport->is_missing)
		skip();
	check_fails(state, NET_PORT_TCP, "300.1.2.3", 0, EINVAL, "300.1.2.3");
	check_fails(state, NET_PORT_UDP, "", 0, EINVAL, "not an address");
	check_fails(state, NET_PORT_TCP, "localhost", 0, EINVAL, "localhost");
	check_fails(state, NET_PORT_UDP, "192.0.2.1", 0, EADDRNOTAVAIL, "UDP 192.0.2.1");
	check_fails(state, NET_PORT_UNIX, long_path, 0, ENAMETOOLONG, "at most 107 characters");
	check_fails(state, NET_PORT_UNIX, "/no/folder.sock", 0, ENOENT, "/no/folder.sock");
	check_fails(state, (enum net_port_kind)7, "127.0.0.1", 0, EINVAL, "unknown kind 7");

	port_rig_listen(&other, NET_PORT_TCP, "127.0.0.1");
	port_rig_listen(&other, NET_PORT_UDP, "127.0.0.1");
	assert_int_equal(port_rig_start(&other, transport->create, 4), 0);
	check_fails(state, NET_PORT_TCP, "127.0.0.1", other.port.port_of(other.port.self, 0), EADDRINUSE, "TCP 127.0.0.1 port");
	check_fails(state, NET_PORT_UDP, "127.0.0.1", other.port.port_of(other.port.self, 1), EADDRINUSE, "UDP 127.0.0.1 port");
	port_rig_stop(&other);

	rig.listener_count = 0;
	assert_int_equal(port_rig_start(&rig, transport->create, 4), -EINVAL);
	port_rig_listen(&rig, NET_PORT_UNIX, "/echo.sock");
	assert_int_equal(port_rig_start(&rig, transport->create, NET_STREAMS_MAX + 1), -EINVAL);
	assert_null(rig.port.self);
}

static int bound_socket(const char *path, int backlog)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(fd, backlog), 0);
	return fd;
}

/* A Unix socket that is served is left alone, as is a file of another kind; what a dead process left is removed, and at the end only
 * what is still ours. */
static void test_unix_path(void **state)
{
	const char *path = rig.listeners[0].place;
	struct stat status;
	int live, fd;

	port_rig_listen(&rig, NET_PORT_UNIX, "/echo.sock");
	live = bound_socket(path, 1);
	if (((const struct port_rig_transport *)*state)->is_missing) {
		close(live);
		unlink(path);
		skip();
	}
	assert_int_equal(port_rig_start(&rig, ((const struct port_rig_transport *)*state)->create, 4), -EADDRINUSE);
	assert_non_null(strstr(base_error_message(), "another process serves it"));
	assert_int_equal(access(path, F_OK), 0);
	close(live);
	port_rig_start_or_skip(&rig, *state, 4);
	assert_int_equal(stat(path, &status), 0);
	assert_int_equal(status.st_mode & 0777, 0600);
	fd = port_rig_connect(&rig, 0, NULL);
	port_rig_echo(&rig, fd, 100, 1);
	close(fd);

	/* Somebody took it away and made his own. */
	unlink(path);
	live = bound_socket(path, 1);
	rig.port.destroy(rig.port.self);
	rig.port.self = NULL;
	assert_int_equal(access(path, F_OK), 0);
	close(live);
	unlink(path);

	fd = creat(path, 0600);
	close(fd);
	assert_int_equal(port_rig_start(&rig, ((const struct port_rig_transport *)*state)->create, 4), -EADDRINUSE);
	assert_int_equal(access(path, F_OK), 0);
	unlink(path);
	rig.listeners[0].mode = 0666;
	port_rig_start_or_skip(&rig, *state, 4);
	assert_int_equal(stat(path, &status), 0);
	assert_int_equal(status.st_mode & 0777, 0666);
}

static void *poll_a_little(void *context)
{
	(void)context;
	port_rig_steps(&rig, 10);
	return NULL;
}

/* A port is free again when its transport is gone, whatever was under way, and whichever thread polled. */
static void test_again(void **state)
{
	uint16_t ports[2] = { 0, 0 };

	for (uint32_t i = 0; i < 20; i++) {
		pthread_t thread;
		int fd, datagrams;

		port_rig_listen(&rig, NET_PORT_TCP, "127.0.0.1");
		port_rig_listen(&rig, NET_PORT_UDP, "127.0.0.1");
		rig.listeners[0].port = ports[0];
		rig.listeners[1].port = ports[1];
		port_rig_start_or_skip(&rig, *state, 4);
		rig.mode = i % 2 ? RIG_FLOOD : RIG_ECHO;
		fd = port_rig_connect(&rig, 0, NULL);
		datagrams = port_rig_connect(&rig, 1, NULL);
		port_rig_send(&rig, fd, "hello", 5);
		port_rig_echo_datagram(&rig, datagrams, 100, i);
		ports[0] = rig.port.port_of(rig.port.self, 0);
		ports[1] = rig.port.port_of(rig.port.self, 1);
		close(fd);
		close(datagrams);
		port_rig_stop(&rig);
		/* The same ports, polled elsewhere. */
		port_rig_listen(&rig, NET_PORT_TCP, "127.0.0.1");
		port_rig_listen(&rig, NET_PORT_UDP, "127.0.0.1");
		rig.listeners[0].port = ports[0];
		rig.listeners[1].port = ports[1];
		port_rig_start_or_skip(&rig, *state, 4);
		pthread_create(&thread, NULL, poll_a_little, NULL);
		pthread_join(thread, NULL);
		port_rig_stop(&rig);
	}
}

/* Has the kernel answer io_uring_setup with an error. false: this kernel cannot. */
static bool forbid_uring(int error)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t)error),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	const struct sock_fprog program = { .len = 4, .filter = filter };

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

/* In a process of its own, because filters stay. */
static void check_forbidden(int error, int expected, const char *says)
{
	int status;
	pid_t child = fork();

	if (child == 0) {
		int rc;

		if (!forbid_uring(error))
			_exit(77);
		rc = port_rig_start(&rig, net_uring_create, 4);
		_exit(rc == -expected && strstr(base_error_message(), says) && !rig.port.self ? 0 : 1);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		skip();
	assert_int_equal(WEXITSTATUS(status), 0);
	assert_int_equal(access(rig.listeners[0].place, F_OK), -1);
}

/* Where io_uring may not be used, whoever wanted it learns why, and can take the other transport. */
static void test_forbidden(void **state)
{
	if (!BASE_HAVE_URING) {
		assert_int_equal(port_rig_start(&rig, net_uring_create, 4), -ENOSYS);
		assert_non_null(strstr(base_error_message(), "built without"));
		return;
	}
	(void)state;
	port_rig_listen(&rig, NET_PORT_UNIX, "/echo.sock");
	check_forbidden(EPERM, EPERM, "kernel.io_uring_disabled");
	check_forbidden(ENOSYS, ENOSYS, "built without");
	check_forbidden(EINVAL, EOPNOTSUPP, "6.1");
	assert_int_equal(port_rig_start(&rig, net_sockets_create, 4), 0);
}

#define TEST(function) { #function, function, NULL, teardown, NULL }

int main(void)
{
	static const struct CMUnitTest each[] = { TEST(test_fails), TEST(test_unix_path), TEST(test_again) }, once[] = { TEST(test_forbidden) };
	const int failed = port_rig_run(each, sizeof(each) / sizeof(each[0]));

	return cmocka_run_group_tests(once, NULL, NULL) + failed;
}
