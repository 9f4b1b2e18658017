/*
 * A daemon for system tests: the real program, in a folder of its own, started and stopped as a
 * person would, and looked at from outside.
 */
#ifndef SYS_DAEMON_H
#define SYS_DAEMON_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct sys_daemon {
	pid_t pid;
	char folder[64];  /* temporary runtime folder */
	char address[96]; /* "shm:<folder>/attnd.sock" */
	char model[160];  /* the tiny model, "" without one */
	const char *const *options; /* the caller's, for its next life */
};

/* Starts build/attnd with `-o OPTION` for each of options (NULL-terminated), on a tiny model where
 * with_model. Fails the running cmocka test when it does not come up. */
void sys_daemon_start(struct sys_daemon *daemon, bool with_model, const char *const *options);
/* SIGTERM, and waits; fails the test unless it ends with status 0 within ten seconds. Removes the
 * folder. */
void sys_daemon_stop(struct sys_daemon *daemon);
/* SIGKILL, as if it had crashed; removes the folder. */
void sys_daemon_kill(struct sys_daemon *daemon);
/* SIGKILL, and the next life in the same folder, with the same model and options, which must still be there. */
void sys_daemon_crash(struct sys_daemon *daemon);
void sys_daemon_again(struct sys_daemon *daemon);
/* Once it has ended by itself, or by another's SIGTERM: its status; the folder stays. -1: not within timeout_ms. */
int sys_daemon_wait_end(struct sys_daemon *daemon, int timeout_ms);
/* True while the process lives. */
bool sys_daemon_alive(const struct sys_daemon *daemon);

/* The answer of the control socket to a command, as text (free it). */
char *sys_daemon_ask(const struct sys_daemon *daemon, const char *command);
/* One number of `status`, by a path such as "kv.used" or "counters.requests". Fails the test when
 * it is not there. */
double sys_daemon_number(const struct sys_daemon *daemon, const char *path);
/* Waits until the number has the value, at most so long. */
bool sys_daemon_wait_number(
	const struct sys_daemon *daemon, const char *path, double value, int timeout_ms);

/* What the process holds: from /proc. */
struct sys_usage {
	uint32_t fds, maps;
	uint64_t rss_bytes;
};
void sys_daemon_usage(const struct sys_daemon *daemon, struct sys_usage *usage);

/* A zeroed page that children share; never freed. */
void *sys_shared_page(void);

/* True in a sanitizer build: such tests are scaled down. */
bool sys_sanitized(void);

#endif
