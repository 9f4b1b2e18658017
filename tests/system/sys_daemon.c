/*
 * See sys_daemon.h.
 */
#include "tests/system/sys_daemon.h"

#include <cjson/cJSON.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum { START_MS = 60000, STOP_MS = 30000, ARGUMENTS_MAX = 128 };

static const char *build_folder(void)
{
	const char *folder = getenv("ATTND_BUILD");

	return folder ? folder : "build";
}

bool sys_sanitized(void)
{
	const char *suite = getenv("ATTND_SUITE");

	return suite && strcmp(suite, "plain");
}

void *sys_shared_page(void)
{
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	assert_true(page != MAP_FAILED);
	return page;
}

static void sleep_ms(int ms)
{
	const struct timespec time = { .tv_sec = ms / 1000, .tv_nsec = (ms % 1000) * 1000000L };

	nanosleep(&time, NULL);
}

static int run(char *const *arguments)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		execv(arguments[0], arguments);
		_exit(127);
	}
	return pid > 0 && waitpid(pid, &status, 0) == pid ? status : -1;
}

static void make_model(struct sys_daemon *daemon)
{
	char program[256];
	char *const arguments[] = { program, (char *)"make-tiny", (char *)"-o", daemon->model,
		NULL };

	snprintf(program, sizeof(program), "%s/attnquant", build_folder());
	snprintf(daemon->model, sizeof(daemon->model), "%s/tiny.gguf", daemon->folder);
	if (run(arguments))
		fail_msg("%s make-tiny failed", program);
}

static void child(struct sys_daemon *daemon, int ready_fd)
{
	static char program[256], runtime[96], model[200], ready[16];
	const char *arguments[ARGUMENTS_MAX];
	int count = 0;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	snprintf(program, sizeof(program), "%s/attnd", build_folder());
	snprintf(runtime, sizeof(runtime), "daemon.runtime_dir=%s", daemon->folder);
	snprintf(model, sizeof(model), "model.tiny.path=%s", daemon->model);
	snprintf(ready, sizeof(ready), "%d", ready_fd);
	arguments[count++] = program;
	arguments[count++] = "-c";
	arguments[count++] = "/dev/null";
	arguments[count++] = "--ready-fd";
	arguments[count++] = ready;
	arguments[count++] = "-o";
	arguments[count++] = runtime;
	if (daemon->model[0]) {
		arguments[count++] = "-o";
		arguments[count++] = model;
	}
	for (int i = 0; daemon->options && daemon->options[i] && count < ARGUMENTS_MAX - 3; i++) {
		arguments[count++] = "-o";
		arguments[count++] = daemon->options[i];
	}
	arguments[count] = NULL;
	execv(program, (char *const *)(uintptr_t)arguments);
	_exit(127);
}

static void wait_ready(int fd)
{
	char line[256] = "";
	size_t have = 0;
	ssize_t got;

	while (have < sizeof(line) - 1 &&
		(got = read(fd, line + have, sizeof(line) - 1 - have)) > 0)
		have += (size_t)got;
	close(fd);
	if (strcmp(line, "ready\n"))
		fail_msg("the daemon did not start: %s", have ? line : "it ended without a word");
}

void sys_daemon_start(struct sys_daemon *daemon, bool with_model, const char *const *options)
{
	memset(daemon, 0, sizeof(*daemon));
	daemon->options = options;
	strcpy(daemon->folder, "/tmp/attnd-test-XXXXXX");
	assert_non_null(mkdtemp(daemon->folder));
	snprintf(daemon->address, sizeof(daemon->address), "shm:%s/attnd.sock", daemon->folder);
	if (with_model)
		make_model(daemon);
	sys_daemon_again(daemon);
}

void sys_daemon_again(struct sys_daemon *daemon)
{
	int ready[2];

	assert_int_equal(pipe(ready), 0);
	fcntl(ready[0], F_SETFD, FD_CLOEXEC);
	daemon->pid = fork();
	assert_true(daemon->pid >= 0);
	if (daemon->pid == 0)
		child(daemon, ready[1]);
	close(ready[1]);
	wait_ready(ready[0]);
}

static void remove_folder(const char *folder)
{
	DIR *dir = opendir(folder);
	struct dirent *entry;

	while (dir && (entry = readdir(dir)))
		if (entry->d_name[0] != '.')
			unlinkat(dirfd(dir), entry->d_name, 0);
	if (dir)
		closedir(dir);
	rmdir(folder);
}

int sys_daemon_wait_end(struct sys_daemon *daemon, int timeout_ms)
{
	int status = -1;

	for (int waited_ms = 0; waitpid(daemon->pid, &status, WNOHANG) == 0; waited_ms += 10) {
		if (waited_ms > timeout_ms)
			return -1;
		sleep_ms(10);
	}
	return status;
}

void sys_daemon_stop(struct sys_daemon *daemon)
{
	int status;

	kill(daemon->pid, SIGTERM);
	status = sys_daemon_wait_end(daemon, STOP_MS);
	if (status < 0) {
		kill(daemon->pid, SIGKILL);
		waitpid(daemon->pid, &status, 0);
		fail_msg("the daemon did not stop within %d ms of SIGTERM", STOP_MS);
	}
	remove_folder(daemon->folder);
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		fail_msg("the daemon ended with status %#x", (unsigned)status);
}

void sys_daemon_kill(struct sys_daemon *daemon)
{
	sys_daemon_crash(daemon);
	remove_folder(daemon->folder);
}

void sys_daemon_crash(struct sys_daemon *daemon)
{
	int status = 0;

	kill(daemon->pid, SIGKILL);
	waitpid(daemon->pid, &status, 0);
	if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
		fail_msg("the daemon had ended before it was killed, with status %#x", (unsigned)status);
}

bool sys_daemon_alive(const struct sys_daemon *daemon)
{
	return waitpid(daemon->pid, NULL, WNOHANG | WNOWAIT) == 0 || kill(daemon->pid, 0) == 0;
}

/* ---- looking -------------------------------------------------------------------------- */

char *sys_daemon_ask(const struct sys_daemon *daemon, const char *command)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	size_t size = 1 << 22, have = 0;
	char *text = malloc(size);
	ssize_t got;

	assert_non_null(text);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/attnd.ctl", daemon->folder);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)))
		fail_msg("control socket %s: %s", address.sun_path, strerror(errno));
	dprintf(fd, "%s\n", command);
	while (have < size - 1 && (got = read(fd, text + have, size - 1 - have)) > 0)
		have += (size_t)got;
	text[have] = 0;
	close(fd);
	return text;
}

static bool number_of(const struct sys_daemon *daemon, const char *path, double *number)
{
	char *text = sys_daemon_ask(daemon, "status"), key[64];
	cJSON *root = cJSON_Parse(text), *at = root;

	while (at && *path) {
		size_t length = strcspn(path, ".");

		snprintf(key, sizeof(key), "%.*s", (int)length, path);
		at = cJSON_GetObjectItem(at, key);
		path += length;
		path += *path == '.';
	}
	bool found = cJSON_IsNumber(at);

	if (found)
		*number = at->valuedouble;
	cJSON_Delete(root);
	free(text);
	return found;
}

double sys_daemon_number(const struct sys_daemon *daemon, const char *path)
{
	double number = 0;

	if (!number_of(daemon, path, &number))
		fail_msg("status has no number %s", path);
	return number;
}

bool sys_daemon_wait_number(
	const struct sys_daemon *daemon, const char *path, double value, int timeout_ms)
{
	for (int waited_ms = 0; waited_ms <= timeout_ms; waited_ms += 20) {
		if (sys_daemon_number(daemon, path) == value)
			return true;
		sleep_ms(20);
	}
	return false;
}

static uint32_t count_entries(const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *entry;
	uint32_t count = 0;

	while (dir && (entry = readdir(dir)))
		count += entry->d_name[0] != '.';
	if (dir)
		closedir(dir);
	return count;
}

void sys_daemon_usage(const struct sys_daemon *daemon, struct sys_usage *usage)
{
	char path[64], line[512];
	unsigned long size, resident;

	memset(usage, 0, sizeof(*usage));
	snprintf(path, sizeof(path), "/proc/%d/fd", (int)daemon->pid);
	usage->fds = count_entries(path);
	snprintf(path, sizeof(path), "/proc/%d/maps", (int)daemon->pid);
	FILE *file = fopen(path, "re");

	while (file && fgets(line, sizeof(line), file))
		usage->maps++;
	if (file)
		fclose(file);
	snprintf(path, sizeof(path), "/proc/%d/statm", (int)daemon->pid);
	file = fopen(path, "re");
	if (file && fscanf(file, "%lu %lu", &size, &resident) == 2)
		usage->rss_bytes = resident * (uint64_t)sysconf(_SC_PAGESIZE);
	if (file)
		fclose(file);
}
