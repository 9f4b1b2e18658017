/*
 * The least that an echo over a socket costs: a server of a few lines on the daemon's processor, messages of the same size, and a client
 * that spins as the library does.
 *
 *   epoll         asks epoll without waiting, then receives and sends
 *   sleeping      the same, and blocks in epoll_wait
 *   non-blocking  receives over and over, without asking: nothing made of these calls is faster
 *   io_uring      datagrams only: one request to receive for all, buffers that the kernel takes from a ring, no call while nothing comes
 *
 * The calling thread is the client. A thread on the other processor is made and joined by each call. No state is kept.
 */
#ifndef ATTNBENCH_BARE_H
#define ATTNBENCH_BARE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/base_hist.h"
#include "tools/tool_transport.h"

enum attnbench_bare_server { ATTNBENCH_BARE_EPOLL, ATTNBENCH_BARE_SLEEPING, ATTNBENCH_BARE_NONBLOCKING, ATTNBENCH_BARE_URING };

enum {
	ATTNBENCH_BARE_BYTES_MAX = 60000, /* a datagram's, and what fits into a socket's buffer without anybody reading */
};

struct attnbench_bare {
	enum tool_transport_kind transport; /* not shm */
	enum attnbench_bare_server server;
	uint32_t message_bytes; /* at most ATTNBENCH_BARE_BYTES_MAX */
	int other_cpu;          /* -1: wherever */
};

extern const char *const attnbench_bare_names[]; /* by server */

/* Runs for span_ns and adds the round trips to hist. 0, or -errno with a message; -ENOSYS, -EPERM: there is no such server here. */
int attnbench_bare(const struct attnbench_bare *bare, int64_t span_ns, struct base_hist *hist);

/* ---- one of the servers, in a file of its own because of its library ----------------------------------------- */

/* Echoes the datagrams of a socket. Stores true to *ready once it does, and returns 0 when *stop is true; -errno with a message. */
int attnbench_bare_uring(int fd, uint32_t message_bytes, _Atomic bool *ready, const _Atomic bool *stop);

#endif
