/*
 * The daemon starts while the kernel refuses it one thing: the first system call of those below, then the second, and so on, until it
 * starts as if nothing were. Each time it either serves (without what it lacks) or says why not and leaves nothing behind; it never
 * crashes, hangs, or ends without a word. What serves has to end when it is asked to.
 *
 * The calls are failed from outside: a seccomp filter hands them to this process (SECCOMP_RET_USER_NOTIF), which lets all but one go on.
 * Skipped where that is forbidden. Time limit: 600 s (with sanitizers).
 */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base_clock.h"

enum { READY_FD = 3, LINES_BYTES = 1 << 16, CALLS_MAX = 2000, STEP_SANITIZED = 5 };
#define PATIENCE_NS INT64_C(60000000000) /* nothing that goes on takes so long, also on a busy machine */

/* What is refused, and how. mmap: of no file, and at least so many bytes, since the loader and the C library live on others; sanitizers,
 * which die of any that fails, are spared. */
static const struct { int call, error; } refused[] = {
	{ SYS_socket, EMFILE }, { SYS_bind, EADDRINUSE }, { SYS_listen, EADDRINUSE }, { SYS_epoll_create1, EMFILE }, { SYS_epoll_ctl, ENOMEM },
	{ SYS_eventfd2, EMFILE }, { SYS_memfd_create, EMFILE }, { SYS_ftruncate, ENOSPC }, { SYS_io_uring_setup, ENOMEM },
	{ SYS_io_uring_register, ENOMEM }, { SYS_clone3, EAGAIN }, { SYS_signalfd4, EMFILE }, { SYS_setsockopt, ENOMEM },
	{ SYS_sched_setaffinity, EINVAL }, { SYS_mkdir, ENOSPC }, { SYS_chmod, EPERM }, { SYS_fcntl, EINVAL }, { SYS_getsockname, ENOBUFS },
	{ SYS_madvise, ENOMEM }, { SYS_mbind, EPERM },
};
enum { REFUSED = sizeof(refused) / sizeof(refused[0]), MMAP_BYTES_LEAST = 1 << 20 };

struct start {
	pid_t pid;
	int listener, ready, errors; /* of the filter; of READY_FD; of stderr */
	uint32_t fail, calls;        /* which is refused, from 1; how many there were */
	int failed_call;             /* which that was; -1: none */
	char said[LINES_BYTES], logged[LINES_BYTES];
	size_t said_bytes, logged_bytes;
	char folder[64];
};

static bool is_sanitized(void)
{
	const char *suite = getenv("ATTND_SUITE");

	return suite && strcmp(suite, "plain") != 0;
}

/* ---- in the child -------------------------------------------------------------------------------------------- */

/* Returns the filter's descriptor. */
static int filter_install(void)
{
	struct sock_filter code[10 + REFUSED];
	unsigned at = 0;

	code[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	for (unsigned i = 0; i < REFUSED; i++)
		code[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)refused[i].call, (uint8_t)(REFUSED - i + 5), 0);
	/* A large mmap of no file asks, too; all else may. */
	code[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, is_sanitized() ? UINT32_MAX : SYS_mmap, 0, 4);
	code[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[4]));
	code[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, UINT32_MAX, 0, 2);
	code[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1]));
	code[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, MMAP_BYTES_LEAST, 1, 0);
	code[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	code[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF);
	const struct sock_fprog program = { .len = (unsigned short)at, .filter = code };

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
}

/* The filter's descriptor stays here until the parent has taken it; exec closes it. */
static void become_daemon(const struct start *start, int ready, int errors, int tell, int go)
{
	char path[256], runtime[128], unix_place[160];
	int listener;
	char byte;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	dup2(errors, STDERR_FILENO);
	dup2(ready, READY_FD);
	listener = filter_install();
	if (write(tell, &listener, sizeof(listener)) != sizeof(listener) || read(go, &byte, 1) != 1)
		_exit(99);
	snprintf(path, sizeof(path), "%s/attnd", getenv("ATTND_BUILD"));
	snprintf(runtime, sizeof(runtime), "daemon.runtime_dir=%s", start->folder);
	snprintf(unix_place, sizeof(unix_place), "listen.c.address=unix:%s/net.sock", start->folder);
	execl(path, "attnd", "-c", "/dev/null", "--ready-fd", "3", "-o", runtime, "-o", "kv.pool=16m", "-o", "limits.requests=64",
		"-o", "net.memory=16m", "-o", "net.message=1m", "-o", "net.connections=16",
		"-o", "listen.a.address=tcp:127.0.0.1:0", "-o", "listen.a.plain=yes",
		"-o", "listen.b.address=udp:127.0.0.1:0", "-o", "listen.b.plain=yes",
		"-o", unix_place, "-o", "listen.c.plain=yes", (char *)NULL);
	_exit(98);
}

/* ---- here ---------------------------------------------------------------------------------------------------- */

static bool start_daemon(struct start *start)
{
	int ready[2], errors[2], tell[2], go[2], listener = -1, pidfd;

	if (pipe(ready) || pipe(errors) || pipe(tell) || pipe(go))
		return false;
	start->pid = fork();
	if (start->pid == 0)
		become_daemon(start, ready[1], errors[1], tell[1], go[0]);
	close(ready[1]);
	close(errors[1]);
	close(tell[1]);
	close(go[0]);
	start->ready = ready[0];
	start->errors = errors[0];
	if (read(tell[0], &listener, sizeof(listener)) != sizeof(listener))
		listener = -1;
	pidfd = (int)syscall(SYS_pidfd_open, start->pid, 0);
	start->listener = listener < 0 || pidfd < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, pidfd, listener, 0);
	(void)!write(go[1], "", 1);
	close(pidfd);
	close(tell[0]);
	close(go[1]);
	return start->listener >= 0;
}

static int error_of(int call)
{
	for (unsigned i = 0; i < REFUSED; i++)
		if (refused[i].call == call)
			return refused[i].error;
	return ENOMEM;
}

/* One call that waits for our word. */
static void judge(struct start *start)
{
	struct seccomp_notif notice = { .id = 0 };
	struct seccomp_notif_resp word = { .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE };

	if (ioctl(start->listener, SECCOMP_IOCTL_NOTIF_RECV, &notice))
		return; /* a signal, or who asked is gone */
	word.id = notice.id;
	if (++start->calls == start->fail) {
		start->failed_call = notice.data.nr;
		word.flags = 0;
		word.error = -error_of(notice.data.nr);
	}
	(void)ioctl(start->listener, SECCOMP_IOCTL_NOTIF_SEND, &word);
}

static void read_some(int fd, char *text, size_t *bytes)
{
	const ssize_t count = read(fd, text + *bytes, LINES_BYTES - 1 - *bytes);

	*bytes += count > 0 ? (size_t)count : 0;
	text[*bytes] = '\0';
}

static bool has_ended(const struct start *start)
{
	siginfo_t info = { .si_pid = 0 };

	return waitid(P_PID, (id_t)start->pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == start->pid;
}

/* Serves its questions until it has ended, or said that it serves. False: it does neither. */
static bool follow(struct start *start, bool to_the_end)
{
	const int64_t until_ns = base_monotonic_ns() + PATIENCE_NS;

	while (base_monotonic_ns() < until_ns) {
		struct pollfd what[] = { { start->listener, POLLIN, 0 }, { start->ready, POLLIN, 0 }, { start->errors, POLLIN, 0 } };

		if (poll(what, 3, 10) > 0) {
			if (what[0].revents & POLLIN)
				judge(start);
			if (what[1].revents & POLLIN)
				read_some(start->ready, start->said, &start->said_bytes);
			if (what[2].revents & POLLIN)
				read_some(start->errors, start->logged, &start->logged_bytes);
		}
		if (has_ended(start) && !(what[1].revents & POLLIN) && !(what[2].revents & POLLIN))
			return true;
		if (!to_the_end && strchr(start->said, '\n'))
			return true;
	}
	return false;
}

/* To whom started it, and who reads its log; a wrong command line is told to a person. */
static bool says_why(const struct start *start, int status)
{
	const bool told = strncmp(start->said, "failed: ", 8) == 0 && strlen(start->said) > 10;

	return start->logged_bytes > 0 && ((status == 1 && told) || status == 2);
}

static bool holds_socket(const struct start *start)
{
	char path[96];

	snprintf(path, sizeof(path), "%s/net.sock", start->folder);
	return access(path, F_OK) == 0;
}

static void remove_folder(const struct start *start)
{
	char command[96];

	snprintf(command, sizeof(command), "rm -rf %s", start->folder);
	(void)!system(command);
}

/* One life, in which the call `fail` is refused. What is wrong with it, or NULL. */
static const char *live(struct start *start, uint32_t fail)
{
	const char *wrong = NULL;
	int status = 0;

	*start = (struct start){ .fail = fail, .failed_call = -1, .folder = "/tmp/attnd-test-XXXXXX" };
	if (!mkdtemp(start->folder) || !start_daemon(start))
		return "it could not be watched";
	if (!follow(start, false))
		wrong = "it neither serves nor ends";
	if (!wrong && strncmp(start->said, "ready", 5) == 0) {
		kill(start->pid, SIGTERM);
		if (!follow(start, true))
			wrong = "it does not end when it is asked to";
	} else if (!wrong && !follow(start, true)) {
		wrong = "it does not end, though it cannot serve";
	}
	if (wrong)
		kill(start->pid, SIGKILL);
	waitpid(start->pid, &status, 0);
	if (!wrong && !WIFEXITED(status))
		wrong = "it crashed";
	else if (!wrong && strncmp(start->said, "ready", 5) == 0 && WEXITSTATUS(status) != 0)
		wrong = "it served, and did not end well";
	else if (!wrong && strncmp(start->said, "ready", 5) != 0 && !says_why(start, WEXITSTATUS(status)))
		wrong = "it ended without a word";
	else if (!wrong && holds_socket(start))
		wrong = "it left its socket behind";
	close(start->listener);
	close(start->ready);
	close(start->errors);
	remove_folder(start);
	return wrong;
}

static void each_refusal_in_turn(void **state)
{
	static struct start start;
	uint32_t served = 0, ended = 0, total;
	const char *wrong = live(&start, 0);

	(void)state;
	if (wrong && start.listener < 0) {
		print_message("# SKIP system calls cannot be watched here: %s\n", strerror(errno));
		skip();
	}
	if (wrong)
		fail_msg("with nothing refused: %s\n%s\n%s", wrong, start.said, start.logged);
	total = start.calls;
	assert_in_range(total, 50, CALLS_MAX);
	for (uint32_t fail = 1; fail <= total + 5; fail += is_sanitized() ? STEP_SANITIZED : 1) {
		wrong = live(&start, fail);
		if (wrong)
			fail_msg("call %u (number %d) refused: %s\n%s\n%s", fail, start.failed_call, wrong, start.said, start.logged);
		served += strncmp(start.said, "ready", 5) == 0;
		ended += strncmp(start.said, "ready", 5) != 0;
	}
	print_message("# of %u calls of a start and an end: without one of them %u lives served, %u said why not\n", total, served, ended);
	assert_true(served > 0 && ended > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(each_refusal_in_turn) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
