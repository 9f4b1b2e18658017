/*
 * The handshake on a Unix SOCK_SEQPACKET socket, one message each way:
 *
 *   client                    daemon
 *   connect     ------------> shm_attach_accept (who is it: SO_PEERCRED, pidfd)
 *   shm_hello   ------------> shm_attach_receive; the caller checks its policy, makes segments
 *               <------------ shm_attach_welcome: shm_welcome, and {W, R, eventfd}
 *               <------------ or shm_attach_refuse: a status and a sentence, no descriptors
 *   ... the socket stays open; its end is the end of the client (EPOLLHUP), and of the daemon ...
 *
 * Magic and version stand first in both messages in every version, so that any two versions can
 * say that they differ.
 *
 * Daemon functions: control role; none blocks, each handles one message of fixed size, nothing
 * is believed: a short or long message is an error, and descriptors that a client attaches are
 * never installed. The caller bounds how many sockets are half attached and for how long.
 */
#ifndef SHM_ATTACH_H
#define SHM_ATTACH_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "shm-ipc/shm_layout.h"
#include "shm-ipc/shm_ring.h"
#include "shm-ipc/shm_segment.h"

struct shm_hello { /* 64 bytes */
	uint64_t magic;        /* SHM_MAGIC */
	uint32_t version;      /* SHM_VERSION */
	uint32_t struct_bytes; /* 64 */
	uint64_t arena_bytes;
	uint32_t submission_slots, completion_slots;
	uint32_t flags;        /* 0 */
	uint32_t reserved[7];  /* 0 */
};
_Static_assert(sizeof(struct shm_hello) == 64, "struct shm_hello has another size");

enum { SHM_REASON_BYTES = 160 };

struct shm_welcome { /* 288 bytes */
	uint64_t magic;
	uint32_t version;
	uint32_t struct_bytes;
	int32_t status;        /* 0, or a positive errno */
	uint32_t reserved;     /* 0 */
	char reason[SHM_REASON_BYTES]; /* NUL-terminated; "" when status is 0 */
	struct shm_daemon_head head;   /* zero unless status is 0 */
};
_Static_assert(sizeof(struct shm_daemon_head) == 104, "struct shm_daemon_head has another size");
_Static_assert(sizeof(struct shm_welcome) == 288, "struct shm_welcome has another size");

struct shm_peer {
	pid_t pid;
	uid_t uid;
	gid_t gid;
	int pidfd; /* readable when the process has died; -1: none, the socket alone tells */
};

/* ---- daemon ---------------------------------------------------------------------------------- */

/* A listening socket at path, non-blocking, close-on-exec. A socket left behind by a dead daemon
 * is replaced; a live one is -EADDRINUSE. mode: who may connect (0600, 0660, 0666). -errno with
 * a message. */
int shm_attach_listen(const char *path, mode_t mode);
/* The next connection: its socket (>= 0, non-blocking), -EAGAIN when there is none, -errno with
 * a message. */
int shm_attach_accept(int listen_fd, struct shm_peer *peer);
/* Reads the hello. 1: *hello is well-formed (policy is still the caller's); 0: not there yet;
 * -EPROTO: malformed or of another version; -ECONNRESET: gone. After a negative answer: refuse
 * (harmless when gone) and close. */
int shm_attach_receive(int socket, struct shm_hello *hello);
/* Checks the bytes of a hello. 0 or -EPROTO with a message. */
int shm_hello_check(const void *bytes, size_t size_bytes, struct shm_hello *hello);
/* Sends {W, R, eventfd}, and stops receiving on the socket: from now on only its end is of
 * interest; watch it with events 0 (EPOLLHUP always comes). -errno with a message. */
int shm_attach_welcome(int socket, const struct shm_segment *segment, int bell_fd);
/* Tells why not, best effort; err is a positive errno, reason a sentence without names, keys or
 * addresses. The caller closes. */
void shm_attach_refuse(int socket, int err, const char *reason);

/* ---- client ---------------------------------------------------------------------------------- */

struct shm_connection {
	int socket, bell_fd;
	unsigned char *write_memory, *read_memory; /* W read-write, R read-only */
	struct shm_daemon_head head;
};

/* Connects, greets, and maps what it is given after checking all of it (versions, sizes, seals,
 * layout). hello: sizes filled in, the rest is ours. -ENOENT, -ECONNREFUSED: no daemon there;
 * -EACCES; -EPROTO: another version; -ETIMEDOUT; or the daemon's refusal; with a message. */
int shm_connect(struct shm_connection *connection, const char *path, const struct shm_hello *hello,
	int64_t timeout_ns);
void shm_disconnect(struct shm_connection *connection);
/* One look at the socket, without waiting: 0 the daemon holds it, -ENOTCONN it does not. */
int shm_connection_alive(const struct shm_connection *connection);
void shm_client_end_init(struct shm_client_end *end, const struct shm_connection *connection);

#endif
