/*
 * A private daemon for the duration of one tool: the tool's side. See tool_spawn.h.
 */
#include "tools/tool_spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base_error.h"
#include "tools/tool_keeper.h"
#include "tools/tool_text.h"

enum { LOG_LINES_SHOWN = 15 };

/* Beside the tool (a build folder), in ../sbin (an installation), or wherever PATH says. */
static int find_daemon(char *path, size_t path_bytes)
{
	static const char *const places[] = { "attnd", "../sbin/attnd" };
	char self[PATH_MAX];
	ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (length > 0) {
		self[length] = '\0';
		*strrchr(self, '/') = '\0';
		for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
			if ((size_t)snprintf(path, path_bytes, "%s/%s", self, places[i]) <
					path_bytes &&
				access(path, X_OK) == 0)
				return 0;
		}
	}
	const char *list = getenv("PATH");

	while (list && *list) {
		size_t part = strcspn(list, ":");

		if ((size_t)snprintf(path, path_bytes, "%.*s/attnd", (int)part, list) <
				path_bytes &&
			access(path, X_OK) == 0)
			return 0;
		list += part + (list[part] == ':');
	}
	return base_fail(ENOENT,
		"found no attnd beside this program, in ../sbin or in PATH; build or install it");
}

/* The runtime folder goes where this user's runtime files go, as long as the sockets' paths stay
 * short enough. */
static int make_folder(char *folder)
{
	const char *places[] = { getenv("XDG_RUNTIME_DIR"), getenv("TMPDIR"), "/tmp" };

	for (size_t i = 0; i < 3; i++) {
		if (!places[i] || places[i][0] != '/' ||
			strlen(places[i]) > TOOL_SPAWN_PATH_BYTES - 32)
			continue;
		snprintf(folder, TOOL_SPAWN_PATH_BYTES, "%s/attnd-XXXXXX", places[i]);
		if (mkdtemp(folder))
			return 0;
	}
	return base_fail(errno, "cannot make a runtime folder in /tmp: %s", strerror(errno));
}

/* Waits for the daemon's one line. */
static int await_ready(int ready_fd)
{
	char line[256];
	size_t length = 0;
	struct pollfd poll_ready = { .fd = ready_fd, .events = POLLIN };

	while (length < sizeof(line) - 1 && !memchr(line, '\n', length)) {
		int got = poll(&poll_ready, 1, TOOL_SPAWN_READY_MS);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return base_fail(ETIMEDOUT, "attnd did not get ready within %d s",
				TOOL_SPAWN_READY_MS / 1000);

		ssize_t part = read(ready_fd, line + length, sizeof(line) - 1 - length);

		if (part <= 0)
			break;
		length += (size_t)part;
	}
	line[length] = '\0';
	line[strcspn(line, "\n")] = '\0';
	if (strcmp(line, "ready") == 0)
		return 0;
	/* Somebody may have taken a port that was free a moment ago: that is worth another try. */
	if (strncmp(line, "failed: ", 8) == 0)
		return base_fail(strstr(line, strerror(EADDRINUSE)) ? EADDRINUSE : ECANCELED,
			"attnd cannot serve: %s", line + 8);
	return base_fail(ECANCELED, "attnd ended before it was ready%s%s", *line ? ": " : "", line);
}

/* Everything after the folder exists; on failure the keeper (if there is one) removes the folder
 * with itself. */
static int start_keeper(struct tool_spawn *spawn, struct tool_keeper *keeper)
{
	int ready[2], pair[2];

	if (pipe2(ready, O_CLOEXEC))
		return base_fail(errno, "no pipe for attnd: %s", strerror(errno));
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair)) {
		int err = errno;

		close(ready[0]);
		close(ready[1]);
		return base_fail(err, "no socket pair for attnd: %s", strerror(err));
	}
	fflush(NULL);
	spawn->keeper = fork();
	if (spawn->keeper == 0) {
		close(ready[0]);
		close(pair[0]);
		keeper->socket = pair[1];
		keeper->ready_fd = ready[1];
		tool_keeper_run(keeper);
	}
	int err = errno;

	close(ready[1]);
	close(pair[1]);
	if (spawn->keeper < 0) {
		spawn->keeper = 0;
		close(ready[0]);
		close(pair[0]);
		return base_fail(err, "cannot fork for attnd: %s", strerror(err));
	}
	spawn->socket = pair[0];
	int status = await_ready(ready[0]);

	close(ready[0]);
	return status;
}

int tool_spawn_prepare(struct tool_spawn *spawn)
{
	memset(spawn, 0, sizeof(*spawn));
	return make_folder(spawn->folder);
}

/* There is no keeper that would do it. */
static void abandon(struct tool_spawn *spawn)
{
	if (spawn->folder[0])
		tool_keeper_remove(spawn->folder);
	spawn->folder[0] = '\0';
}

int tool_spawn_start(
	struct tool_spawn *spawn, const char *const *options, size_t count, bool verbose)
{
	char program[PATH_MAX];
	struct tool_keeper keeper = { .options = options,
		.option_count = count,
		.program = program,
		.folder = spawn->folder,
		.verbose = verbose };
	int err = find_daemon(program, sizeof(program));

	if (!err && count > TOOL_SPAWN_OPTIONS_MAX)
		err = base_fail(E2BIG, "more than %d daemon options", TOOL_SPAWN_OPTIONS_MAX);
	if (!err)
		err = start_keeper(spawn, &keeper);
	if (!err)
		return 0;
	if (!verbose && spawn->keeper && err != -EADDRINUSE)
		tool_spawn_show_log(spawn);
	if (spawn->keeper) {
		close(spawn->socket);
		waitpid(spawn->keeper, NULL, 0);
		spawn->keeper = 0;
		spawn->folder[0] = '\0'; /* the keeper has removed it */
	} else {
		abandon(spawn);
	}
	return err;
}

static int order(struct tool_spawn *spawn, char what)
{
	char answer;

	if (send(spawn->socket, &what, 1, MSG_NOSIGNAL) == 1 &&
		recv(spawn->socket, &answer, 1, 0) == 1)
		return 0;
	return base_fail(EPIPE, "the daemon's keeper is gone");
}

int tool_spawn_pause(struct tool_spawn *spawn)
{
	return order(spawn, TOOL_KEEPER_PAUSE);
}

int tool_spawn_resume(struct tool_spawn *spawn)
{
	return order(spawn, TOOL_KEEPER_RESUME);
}

void tool_spawn_show_log(const struct tool_spawn *spawn)
{
	char path[TOOL_SPAWN_PATH_BYTES + 8], line[512];
	unsigned lines = 0;

	snprintf(path, sizeof(path), "%s/log", spawn->folder);
	FILE *log = fopen(path, "re");

	if (!log)
		return;
	while (fgets(line, sizeof(line), log))
		lines++;
	rewind(log);
	for (unsigned at = 0; fgets(line, sizeof(line), log); at++) {
		if (at + LOG_LINES_SHOWN >= lines)
			fprintf(stderr, "attnd | %s%s", line, strchr(line, '\n') ? "" : "\n");
	}
	fclose(log);
}

int tool_spawn_stop(struct tool_spawn *spawn)
{
	int status = 0;

	if (!spawn->keeper) {
		abandon(spawn);
		return 0;
	}
	shutdown(spawn->socket, SHUT_WR);
	if (recv(spawn->socket, &status, sizeof(status), 0) == sizeof(status) && status)
		tool_spawn_show_log(spawn);
	close(spawn->socket);
	waitpid(spawn->keeper, NULL, 0);
	spawn->keeper = 0;
	spawn->folder[0] = '\0'; /* the keeper has removed it */
	if (!status)
		return 0;
	if (WIFSIGNALED(status))
		return base_fail(EIO, "attnd was ended by signal %d (%s)", WTERMSIG(status),
			strsignal(WTERMSIG(status)));
	return base_fail(EIO, "attnd ended with status %d", WEXITSTATUS(status));
}
