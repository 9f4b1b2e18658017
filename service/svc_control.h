/*
 * The control role: attach, liveness, signals, and the control socket. It runs in the main thread,
 * sleeps in epoll, and is never on a request's path. It is the only one that takes memory from the
 * system after start: a client's segments, under configured caps.
 *
 * A client here:  FREE -> LIVE (hello accepted, segments made, front told) -> LEAVING (its process
 * died, its socket closed, its memory faulted, or the daemon goes down: front told) -> FREE (the
 * front said that nothing touches its memory any more: unmapped). Before the hello it is a guest: a
 * socket with a deadline, of which there are few.
 */
#ifndef SVC_CONTROL_H
#define SVC_CONTROL_H

#include "service/svc_daemon.h"

struct svc_control;

/* Makes both sockets in the runtime folder. -errno with a message. config_path and overrides are
 * read again on SIGHUP; NULL where there are none. */
int svc_control_create(struct svc_control **control, struct svc_daemon *daemon,
	const char *config_path, const char *const *overrides, uint32_t override_count);
/* Serves until SIGTERM or SIGINT, drains, and returns. */
int svc_control_run(struct svc_control *control);
void svc_control_destroy(struct svc_control *control);

/* ---- for svc_status ------------------------------------------------------------------- */

struct svc_client_view {
	uint32_t id, uid, pid, tenant;
	bool leaving;
	uint64_t arena_bytes;
	bool huge;
};

struct svc_daemon *svc_control_daemon(struct svc_control *control);
/* Live and leaving clients. */
uint32_t svc_control_clients(
	const struct svc_control *control, struct svc_client_view *views, uint32_t capacity);
int svc_control_reload(struct svc_control *control);
void svc_control_drain(struct svc_control *control);
/* To readers of the operators' memory, at every tick. */
void svc_control_say_alive(struct svc_control *control);

#endif
