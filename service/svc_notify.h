/*
 * Readiness, told to the service manager (sd_notify's protocol: a datagram to $NOTIFY_SOCKET) and
 * to whoever passed --ready-fd.
 */
#ifndef SVC_NOTIFY_H
#define SVC_NOTIFY_H

/* "READY=1", "STOPPING=1", "RELOADING=1", "STATUS=...". Silent where there is no service manager.
 */
void svc_notify(const char *state);
/* Writes one line and closes the descriptor; fd < 0: nothing. */
void svc_notify_fd(int fd, const char *line);

#endif
