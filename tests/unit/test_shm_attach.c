/*
 * The handshake, both halves against each other and against peers that do it wrong.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base_clock.h"
#include "base/base_error.h"
#include "base/base_rand.h"
#include "shm-ipc/shm_attach.h"
#include "shm-ipc/shm_bell.h"

static const int64_t second = 1000000000;
static char folder[64], path[80];
static const struct shm_hello sizes = { .arena_bytes = 1 << 20, .submission_slots = 64, .completion_slots = 256 };
static const struct shm_hello good_hello = { .magic = SHM_MAGIC, .version = SHM_VERSION, .struct_bytes = 64,
	.arena_bytes = 1 << 20, .submission_slots = 64, .completion_slots = 256 };

static int setup(void **state)
{
	(void)state;
	snprintf(folder, sizeof(folder), "/tmp/attnd-test-XXXXXX");
	if (!mkdtemp(folder))
		return -1;
	snprintf(path, sizeof(path), "%s/attnd.sock", folder);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	unlink(path);
	return rmdir(folder);
}

static unsigned count_fds(void)
{
	DIR *fds = opendir("/proc/self/fd");
	unsigned count = 0;

	assert_non_null(fds);
	while (readdir(fds))
		count++;
	closedir(fds);
	return count;
}

/* ---- a daemon of one client, and a client ---------------------------------------------------- */

enum behaviour { WELCOME, REFUSE, CLOSE_AT_ONCE, SAY_NOTHING, OTHER_VERSION, SHORT_ANSWER, NO_DESCRIPTORS,
	TOO_MANY_DESCRIPTORS, WRONG_SIZE, NO_SEALS, WRONG_HEAD, BLOCKING_BELL, BEHAVIOURS };

struct host {
	int listen_fd;
	enum behaviour behaviour;
	struct shm_peer peer;
	struct shm_hello hello;
	struct shm_segment segment;
	int socket, bell_fd, result;
};

static int wait_for(int fd)
{
	struct pollfd wanted = { .fd = fd, .events = POLLIN };

	return poll(&wanted, 1, 10000);
}

/* A welcome made by hand, with whatever descriptors. */
static void send_welcome(int socket, const struct shm_welcome *welcome, size_t bytes, const int *fds, unsigned count)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(16 * sizeof(int))];
	} control = { .bytes = { 0 } };
	struct iovec part = { .iov_base = (void *)(uintptr_t)welcome, .iov_len = bytes };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };

	if (count) {
		message.msg_control = control.bytes;
		message.msg_controllen = CMSG_SPACE(count * sizeof(int));
		CMSG_FIRSTHDR(&message)->cmsg_level = SOL_SOCKET;
		CMSG_FIRSTHDR(&message)->cmsg_type = SCM_RIGHTS;
		CMSG_FIRSTHDR(&message)->cmsg_len = CMSG_LEN(count * sizeof(int));
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&message)), fds, count * sizeof(int));
	}
	(void)!sendmsg(socket, &message, MSG_NOSIGNAL);
}

static void answer(struct host *host)
{
	struct shm_segment *segment = &host->segment;
	struct shm_welcome welcome = { .magic = SHM_MAGIC, .version = SHM_VERSION, .struct_bytes = sizeof(welcome),
		.head = segment->head };
	int fds[12] = { segment->write_fd, segment->read_fd, host->bell_fd };

	switch (host->behaviour) {
	case WELCOME:
		host->result = shm_attach_welcome(host->socket, segment, host->bell_fd);
		return;
	case REFUSE:
		shm_attach_refuse(host->socket, EDQUOT, "too many clients of this user");
		return;
	case CLOSE_AT_ONCE:
		close(host->socket);
		host->socket = -1;
		return;
	case OTHER_VERSION:
		welcome.version = 9;
		break;
	case NO_DESCRIPTORS:
		send_welcome(host->socket, &welcome, sizeof(welcome), fds, 0);
		return;
	case TOO_MANY_DESCRIPTORS:
		for (unsigned i = 3; i < 12; i++)
			fds[i] = host->bell_fd;
		send_welcome(host->socket, &welcome, sizeof(welcome), fds, 12);
		return;
	case SHORT_ANSWER:
		send_welcome(host->socket, &welcome, 20, fds, 3);
		return;
	case WRONG_SIZE:
		fds[0] = segment->read_fd;
		break;
	case NO_SEALS:
		fds[0] = memfd_create("unsealed", MFD_CLOEXEC);
		if (ftruncate(fds[0], (off_t)segment->head.write_bytes))
			host->result = -1;
		break;
	case WRONG_HEAD:
		welcome.head.arena_offset = welcome.head.write_bytes;
		break;
	case BLOCKING_BELL:
		fcntl(host->bell_fd, F_SETFL, 0);
		break;
	default:
		return;
	}
	send_welcome(host->socket, &welcome, sizeof(welcome), fds, 3);
	if (host->behaviour == NO_SEALS)
		close(fds[0]);
}

static void *serve_one(void *argument)
{
	struct host *host = argument;
	struct shm_segment_options options = { .boot_id = 99, .client = 1, .max_in_flight = 32, .node = -1 };

	host->bell_fd = -1;
	wait_for(host->listen_fd);
	host->socket = shm_attach_accept(host->listen_fd, &host->peer);
	if (host->socket < 0 || host->behaviour == SAY_NOTHING)
		return NULL;
	wait_for(host->socket);
	host->result = shm_attach_receive(host->socket, &host->hello);
	if (host->result != 1) {
		shm_attach_refuse(host->socket, -host->result, base_error_message());
		return NULL;
	}
	options.submission_slots = host->hello.submission_slots;
	options.completion_slots = host->hello.completion_slots;
	options.arena_bytes = host->hello.arena_bytes;
	host->result = shm_segment_create(&host->segment, &options);
	if (host->result)
		return NULL;
	host->bell_fd = shm_bell_create();
	answer(host);
	return NULL;
}

static void host_start(struct host *host, enum behaviour behaviour, pthread_t *thread)
{
	*host = (struct host){ .listen_fd = shm_attach_listen(path, 0600), .behaviour = behaviour,
		.segment = { .write_fd = -1, .read_fd = -1, .fault_handle = -1 } };
	assert_true(host->listen_fd >= 0);
	assert_int_equal(pthread_create(thread, NULL, serve_one, host), 0);
}

static void host_end(struct host *host)
{
	close(host->listen_fd);
	if (host->socket >= 0)
		close(host->socket);
	if (host->peer.pidfd >= 0)
		close(host->peer.pidfd);
	if (host->bell_fd >= 0)
		close(host->bell_fd);
	shm_segment_destroy(&host->segment);
}

static void a_client_attaches(void **state)
{
	struct shm_connection connection;
	struct shm_client_end client;
	struct shm_daemon_end daemon;
	struct attnd_request request = { .op = ATTND_OP_NOP, .request_id = 42 }, copy;
	struct attnd_completion completion = { .request_id = 42, .flags = ATTND_CPL_FINAL }, got;
	struct pollfd watch;
	struct host host;
	pthread_t thread;

	(void)state;
	host_start(&host, WELCOME, &thread);
	assert_int_equal(shm_connect(&connection, path, &sizes, 5 * second), 0);
	pthread_join(thread, NULL);
	assert_int_equal(host.result, 0);
	assert_int_equal(host.peer.pid, getpid());
	assert_int_equal(host.peer.uid, getuid());
	assert_true(host.peer.pidfd >= 0);
	assert_int_equal(connection.head.boot_id, 99);

	assert_int_equal(shm_daemon_end_create(&daemon, &host.segment, 0, 0), 0);
	shm_client_end_init(&client, &connection);
	assert_true(shm_sub_put(&client, &request));
	assert_true(shm_sub_take(&daemon, &copy));
	assert_int_equal(copy.request_id, 42);
	assert_true(shm_cpl_put(&daemon, &completion));
	assert_true(shm_cpl_take(&client, &got));
	assert_int_equal(got.request_id, 42);

	/* Alive until the other side ends; and what the client still sends does not count as an event. */
	watch = (struct pollfd){ .fd = host.socket };
	assert_int_equal(shm_connection_alive(&connection), 0);
	assert_int_equal(send(connection.socket, "x", 1, MSG_NOSIGNAL), -1);
	assert_int_equal(poll(&watch, 1, 0), 0);
	shm_disconnect(&connection);
	assert_int_equal(poll(&watch, 1, 1000), 1);
	assert_true(watch.revents & POLLHUP);
	shm_daemon_end_destroy(&daemon);
	host_end(&host);
}

static void the_end_of_the_daemon_is_seen(void **state)
{
	struct shm_connection connection;
	struct host host;
	pthread_t thread;

	(void)state;
	host_start(&host, WELCOME, &thread);
	assert_int_equal(shm_connect(&connection, path, &sizes, 5 * second), 0);
	pthread_join(thread, NULL);
	assert_int_equal(shm_connection_alive(&connection), 0);
	host_end(&host);
	assert_int_equal(shm_connection_alive(&connection), -ENOTCONN);
	shm_disconnect(&connection);
}

/* Every way in which an answer can be wrong is an error of its own kind, and leaves no
 * descriptor or mapping. */
static void wrong_answers_are_errors(void **state)
{
	static const int expected[BEHAVIOURS] = { [REFUSE] = -EDQUOT, [CLOSE_AT_ONCE] = -ECONNREFUSED,
		[SAY_NOTHING] = -ETIMEDOUT, [OTHER_VERSION] = -EPROTO, [SHORT_ANSWER] = -EPROTO,
		[NO_DESCRIPTORS] = -EPROTO, [TOO_MANY_DESCRIPTORS] = -EPROTO, [WRONG_SIZE] = -EPROTO,
		[NO_SEALS] = -EPROTO, [WRONG_HEAD] = -EPROTO, [BLOCKING_BELL] = -EPROTO };

	(void)state;
	for (unsigned behaviour = REFUSE; behaviour < BEHAVIOURS; behaviour++) {
		unsigned fds = count_fds();
		struct shm_connection connection;
		struct host host;
		pthread_t thread;
		int error;

		host_start(&host, (enum behaviour)behaviour, &thread);
		error = shm_connect(&connection, path, &sizes, behaviour == SAY_NOTHING ? second / 20 : 5 * second);
		pthread_join(thread, NULL);
		if (error != expected[behaviour])
			fail_msg("behaviour %u: %d instead of %d: %s", behaviour, error, expected[behaviour],
				base_error_message());
		assert_true(base_error_message()[0]);
		host_end(&host);
		assert_int_equal(count_fds(), fds);
	}
}

static void nobody_there(void **state)
{
	struct shm_connection connection;
	char long_path[200];
	int listen_fd;

	(void)state;
	assert_int_equal(shm_connect(&connection, path, &sizes, second), -ENOENT);
	listen_fd = shm_attach_listen(path, 0600);
	assert_true(listen_fd >= 0);
	close(listen_fd);
	assert_int_equal(shm_connect(&connection, path, &sizes, second), -ECONNREFUSED);
	memset(long_path, 'x', sizeof(long_path) - 1);
	long_path[sizeof(long_path) - 1] = 0;
	assert_int_equal(shm_connect(&connection, long_path, &sizes, second), -ENAMETOOLONG);
	assert_int_equal(shm_attach_listen(long_path, 0600), -ENAMETOOLONG);
}

/* ---- listening ------------------------------------------------------------------------------- */

static void a_dead_socket_is_replaced_and_a_live_one_is_not(void **state)
{
	struct shm_peer peer;
	struct stat status;
	int first, second_fd;
	FILE *file;

	(void)state;
	first = shm_attach_listen(path, 0660);
	assert_true(first >= 0);
	assert_int_equal(stat(path, &status), 0);
	assert_int_equal(status.st_mode & 0777, 0660);
	assert_int_equal(shm_attach_listen(path, 0600), -EADDRINUSE);
	/* The look whether it lives left nothing that counts as a client. */
	int waiting = shm_attach_accept(first, &peer);
	if (waiting >= 0) {
		struct shm_hello hello;

		assert_int_equal(shm_attach_receive(waiting, &hello), -ECONNRESET);
		close(waiting);
		if (peer.pidfd >= 0)
			close(peer.pidfd);
	}
	assert_int_equal(shm_attach_accept(first, &peer), -EAGAIN);
	close(first);
	second_fd = shm_attach_listen(path, 0600);
	assert_true(second_fd >= 0);
	close(second_fd);
	/* What is not a socket is never removed. */
	unlink(path);
	file = fopen(path, "w");
	assert_non_null(file);
	fclose(file);
	assert_int_equal(shm_attach_listen(path, 0600), -EADDRINUSE);
	assert_int_equal(stat(path, &status), 0);
}

/* ---- wrong hellos ---------------------------------------------------------------------------- */

static int greet(const void *bytes, size_t size, const int *fds, unsigned fd_count)
{
	int pair[2], result;
	struct shm_hello hello;

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	send_welcome(pair[0], bytes, size, fds, fd_count);
	result = shm_attach_receive(pair[1], &hello);
	if (result == 1)
		assert_memory_equal(&hello, bytes, sizeof(hello));
	close(pair[0]);
	close(pair[1]);
	return result;
}

static void wrong_hellos_are_refused(void **state)
{
	unsigned fds_before = count_fds();
	unsigned char longer[4096] = { 0 };
	struct shm_hello bad;
	int fds[12], pair[2];

	(void)state;
	assert_int_equal(greet(&good_hello, sizeof(good_hello), NULL, 0), 1);
	for (size_t size = 1; size < sizeof(good_hello); size++)
		assert_int_equal(greet(&good_hello, size, NULL, 0), -EPROTO);
	memcpy(longer, &good_hello, sizeof(good_hello));
	assert_int_equal(greet(longer, sizeof(good_hello) + 1, NULL, 0), -EPROTO);
	assert_int_equal(greet(longer, sizeof(longer), NULL, 0), -EPROTO);
	for (unsigned i = 0; i < 12; i++)
		fds[i] = 0;
	assert_int_equal(greet(&good_hello, sizeof(good_hello), fds, 1), -EPROTO);
	assert_int_equal(greet(&good_hello, sizeof(good_hello), fds, 12), -EPROTO);
	for (unsigned i = 0; i < 4; i++) {
		bad = good_hello;
		*(i == 0 ? &bad.version : i == 1 ? &bad.struct_bytes : i == 2 ? &bad.flags : &bad.reserved[6]) = 65;
		assert_int_equal(greet(&bad, sizeof(bad), NULL, 0), -EPROTO);
	}
	bad = good_hello;
	bad.magic ^= 1;
	assert_int_equal(greet(&bad, sizeof(bad), NULL, 0), -EPROTO);

	/* Nothing yet is not an error; gone is one. */
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(shm_attach_receive(pair[1], &bad), 0);
	close(pair[0]);
	assert_int_equal(shm_attach_receive(pair[1], &bad), -ECONNRESET);
	shm_attach_refuse(pair[1], EPROTO, "nobody listens");
	close(pair[1]);
	assert_int_equal(count_fds(), fds_before);
}

/* The process behind a client is known, and its death is seen twice: on the pidfd and on the
 * socket. */
static void the_death_of_a_client_is_seen(void **state)
{
	int listen_fd = shm_attach_listen(path, 0600), ready[2], client, status;
	struct pollfd watch;
	struct shm_peer peer;
	char byte;
	pid_t child;

	(void)state;
	assert_true(listen_fd >= 0);
	assert_int_equal(pipe(ready), 0);
	child = fork();
	if (child == 0) {
		struct sockaddr_un address = { .sun_family = AF_UNIX };
		int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);

		memcpy(address.sun_path, path, strlen(path) + 1);
		if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) ||
			write(ready[1], "x", 1) != 1)
			_exit(1);
		pause();
		_exit(0);
	}
	assert_int_equal(read(ready[0], &byte, 1), 1);
	client = shm_attach_accept(listen_fd, &peer);
	assert_true(client >= 0);
	assert_int_equal(peer.pid, child);
	watch = (struct pollfd){ .fd = peer.pidfd, .events = POLLIN };
	assert_int_equal(poll(&watch, 1, 0), 0);
	kill(child, SIGKILL);
	assert_int_equal(poll(&watch, 1, 5000), 1);
	watch = (struct pollfd){ .fd = client };
	assert_int_equal(poll(&watch, 1, 5000), 1);
	assert_int_equal(waitpid(child, &status, 0), child);
	close(client);
	close(peer.pidfd);
	close(listen_fd);
	close(ready[0]);
	close(ready[1]);
}

#define ATTACH_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ATTACH_TEST(a_client_attaches),
		ATTACH_TEST(the_end_of_the_daemon_is_seen),
		ATTACH_TEST(wrong_answers_are_errors),
		ATTACH_TEST(nobody_there),
		ATTACH_TEST(a_dead_socket_is_replaced_and_a_live_one_is_not),
		ATTACH_TEST(wrong_hellos_are_refused),
		ATTACH_TEST(the_death_of_a_client_is_seen),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
