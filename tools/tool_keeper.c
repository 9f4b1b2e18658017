/*
 * The keeper of a private daemon. See tool_keeper.h.
 */
#include "tools/tool_keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/tool_spawn.h"

enum { DAEMON_READY_FD = 3, CANNOT_EXEC = 127 };

static void redirect(int fd, const char *path, int flags)
{
	int opened = open(path, flags | O_CLOEXEC, 0600);

	if (opened >= 0) {
		dup2(opened, fd);
		close(opened);
	}
}

/* The daemon's side of the fork. Its standard error, the log, is a file in the folder unless the
 * caller watches. */
static void become_daemon(const struct tool_keeper *keeper)
{
	const char *argv[2 * TOOL_SPAWN_OPTIONS_MAX + 8];
	char runtime[TOOL_SPAWN_PATH_BYTES + 32], log[TOOL_SPAWN_PATH_BYTES + 8];
	size_t argc = 0;

	prctl(PR_SET_PDEATHSIG, SIGTERM);
	snprintf(runtime, sizeof(runtime), "daemon.runtime_dir=%s", keeper->folder);
	snprintf(log, sizeof(log), "%s/log", keeper->folder);
	if (!keeper->verbose)
		redirect(STDERR_FILENO, log, O_WRONLY | O_CREAT | O_TRUNC);
	if (keeper->ready_fd == DAEMON_READY_FD)
		fcntl(DAEMON_READY_FD, F_SETFD, 0);
	else
		dup2(keeper->ready_fd, DAEMON_READY_FD);

	argv[argc++] = keeper->program;
	/* A private daemon reads nobody's configuration file. */
	argv[argc++] = "-c";
	argv[argc++] = "/dev/null";
	argv[argc++] = "--ready-fd";
	argv[argc++] = "3";
	argv[argc++] = "-o";
	argv[argc++] = runtime;
	for (size_t i = 0; i < keeper->option_count; i++) {
		argv[argc++] = "-o";
		argv[argc++] = keeper->options[i];
	}
	argv[argc] = NULL;
	execv(keeper->program, (char *const *)(const void *)argv);
	dprintf(DAEMON_READY_FD, "failed: cannot run %s: %s\n", keeper->program, strerror(errno));
	_exit(CANNOT_EXEC);
}

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *where)
{
	(void)info;
	(void)kind;
	(void)where;
	remove(path);
	return 0;
}

void tool_keeper_remove(const char *folder)
{
	nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* True when fd became readable or hung up within the bound; negative bound: no bound. */
static bool await(int fd, int bound_ms)
{
	struct pollfd wanted = { .fd = fd, .events = POLLIN };
	int got;

	do
		got = poll(&wanted, 1, bound_ms);
	while (got < 0 && errno == EINTR);
	return got > 0;
}

static void await_stopped(pid_t daemon)
{
	siginfo_t info;

	/* Also returns when the daemon is dead; that stays waitable. */
	waitid(P_PID, (id_t)daemon, &info, WSTOPPED | WEXITED | WNOWAIT);
}

static void obey(int socket, pid_t daemon)
{
	char what;

	while (recv(socket, &what, 1, 0) == 1) {
		kill(daemon, what == TOOL_KEEPER_PAUSE ? SIGSTOP : SIGCONT);
		if (what == TOOL_KEEPER_PAUSE)
			await_stopped(daemon);
		send(socket, &what, 1, MSG_NOSIGNAL);
	}
}

/* The daemon is waited for last, so its process id stays its own until then. */
static int take_down(pid_t daemon)
{
	int status = 0;
	int pidfd = (int)syscall(SYS_pidfd_open, daemon, 0);

	kill(daemon, SIGTERM);
	kill(daemon, SIGCONT);
	if (pidfd < 0 || !await(pidfd, TOOL_SPAWN_STOP_MS))
		kill(daemon, SIGKILL);
	while (waitpid(daemon, &status, 0) < 0 && errno == EINTR)
		continue;
	return status;
}

/* The tool's own descriptors must not stay open in here. Standard error stays: the daemon may be
 * writing to it. */
static void close_others(int keep)
{
	if (keep > 3)
		close_range(3, (unsigned)keep - 1, 0);
	close_range((unsigned)keep + 1, ~0u, 0);
}

void tool_keeper_run(const struct tool_keeper *keeper)
{
	static const int deadly[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE };
	int status = W_EXITCODE(CANNOT_EXEC, 0);

	setpgid(0, 0);
	redirect(STDIN_FILENO, "/dev/null", O_RDONLY);
	redirect(STDOUT_FILENO, "/dev/null", O_WRONLY);
	pid_t daemon = fork();

	if (daemon == 0)
		become_daemon(keeper);
	for (size_t i = 0; i < sizeof(deadly) / sizeof(deadly[0]); i++)
		signal(deadly[i], SIG_IGN);
	if (!keeper->verbose)
		redirect(STDERR_FILENO, "/dev/null", O_WRONLY);
	close_others(keeper->socket);
	if (daemon > 0) {
		obey(keeper->socket, daemon);
		status = take_down(daemon);
	}
	/* The tool reads the status, shows the log if it must, and closes; a dead tool has
	 * closed already. */
	send(keeper->socket, &status, sizeof(status), MSG_NOSIGNAL);
	struct pollfd closed = { .fd = keeper->socket, .events = 0 };

	poll(&closed, 1, TOOL_SPAWN_STOP_MS);
	tool_keeper_remove(keeper->folder);
	_exit(0);
}
