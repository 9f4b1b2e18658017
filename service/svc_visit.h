/*
 * Visitors: attnctl's connections to the control socket. One line in, one JSON object out, and the
 * connection is closed. Control thread; nothing here waits: it has an epoll set of its own, which
 * the control role watches like any other descriptor.
 *
 * Few at a time, each with a deadline, for the daemon's own user and root.
 */
#ifndef SVC_VISIT_H
#define SVC_VISIT_H

#include <stdint.h>

struct svc_control;
struct svc_visit;

/* Makes the socket at path (mode 0600). -errno with a message. */
int svc_visit_create(struct svc_visit **visit, struct svc_control *control, const char *path);
/* Readable when svc_visit_poll has something to do. */
int svc_visit_fd(const struct svc_visit *visit);
void svc_visit_poll(struct svc_visit *visit);
/* Closes the connections whose time is over. */
void svc_visit_expire(struct svc_visit *visit, int64_t now_ns);
void svc_visit_destroy(struct svc_visit *visit);

#endif
