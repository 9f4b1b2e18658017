/*
 * Time limit: 120 s
 *
 * While both sides spin, a request costs no system call on either: strace counts those of the
 * daemon's data thread and of the client during many thousand NOPs and steps. The client looks at
 * its socket a few times a second, to notice a dead daemon; nothing grows with the number of
 * requests.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "attnd/attnd.h"
#include "tests/system/sys_daemon.h"

/* Counted during so many requests, which a loaded machine may take a while for. */
enum { REQUESTS = 20000, WAIT_S = 40, CALLS_MAX = 200, CALLS_PER_S = 50 };

/* The thread of this name, or 0. */
static pid_t thread_by_name(pid_t process, const char *name)
{
	char path[300], comm[32] = "";
	struct dirent *entry;
	pid_t found = 0;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)process);
	DIR *dir = opendir(path);

	while (dir && (entry = readdir(dir))) {
		snprintf(path, sizeof(path), "/proc/%d/task/%s/comm", (int)process, entry->d_name);
		FILE *file = isdigit((unsigned char)entry->d_name[0]) ? fopen(path, "re") : NULL;

		if (file && fgets(comm, sizeof(comm), file) && !strncmp(comm, name, strlen(name)) &&
			comm[strlen(name)] == '\n')
			found = (pid_t)atoi(entry->d_name);
		if (file)
			fclose(file);
	}
	if (dir)
		closedir(dir);
	return found;
}

/* Requests without pause until killed; counts them where the parent can see. */
static void load(const struct sys_daemon *daemon, volatile uint64_t *done, bool sleeps)
{
	const struct attnd_options attach = { .struct_bytes = sizeof(attach),
		.address = daemon->address,
		.arena_bytes = 1 << 20,
		.spin_ns = sleeps ? 1 : -1 };
	struct attnd_client *client;
	struct attnd_open_params open;
	uint32_t id, tokens[1] = { 7 };
	uint64_t session;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	attnd_open_defaults(&open);
	if (attnd_connect(&client, &attach) || attnd_session_open(client, &open, &session))
		_exit(1);
	for (;;) {
		for (int i = 0; i < 50; i++)
			if (attnd_nop(client))
				_exit(1);
		if (attnd_step(client, session, tokens, 1,
			    (struct attnd_step_args){ .output = ATTND_OUT_ARGMAX }, &id, 4) < 0) {
			if (attnd_session_truncate(client, session, 0))
				_exit(1);
		}
		*done += 51;
	}
}

/* Sum of the calls column of strace -c. */
static long count_calls(const char *path)
{
	char line[256], last[64];
	long calls, total = 0;
	FILE *file = fopen(path, "re");

	while (file && fgets(line, sizeof(line), file)) {
		double seconds, percent;
		long usecs;

		if (sscanf(line, "%lf %lf %ld %ld %*[ 0-9]%63s", &percent, &seconds, &usecs, &calls,
			    last) >= 4 &&
			strncmp(last, "total", 5))
			total += calls;
	}
	if (file)
		fclose(file);
	return total;
}

static double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* System calls during so many requests, and how many would be too many in that time. */
static long trace(const struct sys_daemon *daemon, bool sleeps, uint64_t *requests, long *most)
{
	char path[] = "/tmp/attnd-strace-XXXXXX", data[16], client[16];
	volatile uint64_t *done = (volatile uint64_t *)sys_shared_page();
	double begun;
	int fd = mkstemp(path);
	pid_t loader = fork();

	close(fd);
	if (loader == 0)
		load(daemon, done, sleeps);
	snprintf(data, sizeof(data), "%d", (int)thread_by_name(daemon->pid, "device0"));
	snprintf(client, sizeof(client), "%d", (int)loader);
	while (!*done)
		usleep(1000);
	pid_t tracer = fork();

	if (tracer == 0) {
		execlp("strace", "strace", "-c", "-o", path, "-p", data, "-p", client,
			(char *)NULL);
		_exit(127);
	}
	usleep(500000); /* attached by now */
	uint64_t before = *done;

	begun = seconds();
	while (*done - before < REQUESTS && seconds() - begun < WAIT_S)
		usleep(10000);
	*requests = *done - before;
	*most = CALLS_MAX + (long)(CALLS_PER_S * (seconds() - begun));
	kill(tracer, SIGINT);
	waitpid(tracer, NULL, 0);
	kill(loader, SIGKILL);
	waitpid(loader, NULL, 0);
	long calls = count_calls(path);

	unlink(path);
	return calls;
}

static void test_no_system_calls(void **state)
{
	static const char *const options[] = { "placement.idle=spin", "placement.workers=0",
		"placement.front_cpu=0", "kv.pool=64M", "daemon.log_level=error", NULL };
	struct sys_daemon daemon;
	uint64_t requests;
	long calls, most;

	(void)state;
	if (system("command -v strace >/dev/null") || sys_sanitized()) {
		printf("# skip: strace is not here, or a sanitizer is\n");
		skip();
	}
	sys_daemon_start(&daemon, true, options);
	calls = trace(&daemon, false, &requests, &most);

	printf("# %llu requests, %ld system calls of daemon and client together\n",
		(unsigned long long)requests, calls);
	assert_true(requests >= REQUESTS);
	assert_true(calls < most);
	/* The count can see: a client that sleeps costs calls for nearly every request. */
	calls = trace(&daemon, true, &requests, &most);
	printf("# with a client that sleeps: %llu requests, %ld system calls\n",
		(unsigned long long)requests, calls);
	assert_true(calls > most);
	sys_daemon_stop(&daemon);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_no_system_calls) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
