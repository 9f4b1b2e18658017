/*
 * The parts of the io_uring transport, which know each other: the ring (net_uring.c), streams (net_uring_stream.c), datagrams
 * (net_uring_datagram.c). Nobody else includes this; the transport is made through net_port.h.
 *
 * One thread: the one that polls. It is the ring's only issuer, so that the kernel does the ring's work (IORING_SETUP_DEFER_TASKRUN) in
 * that thread's calls alone and needs no locks and no interrupts for it. That there is work shows in a word of shared memory: a poll that
 * has nothing to do makes no system call.
 */
#ifndef NET_URING_H
#define NET_URING_H

#include <liburing.h>

#include "base/base_arena.h"
#include "netio/net_listen.h"
#include "netio/net_port.h"
#include "netio/net_slots.h"

/* What a completion belongs to: the lowest byte of its user_data; a number is above it. */
enum net_uring_what {
	NET_URING_ACCEPT,           /* of a listener */
	NET_URING_RECEIVE,          /* of a stream */
	NET_URING_SEND,
	NET_URING_CANCEL,
	NET_URING_RECEIVE_DATAGRAM, /* of a listener */
	NET_URING_SEND_DATAGRAM,    /* of a buffer */
	NET_URING_WATCH,            /* the descriptor of whatever else its thread waits for is readable */
};

/* Buffers that the kernel takes for what comes, in order, and that are given back. */
struct net_uring_buffers {
	struct io_uring_buf_ring *ring; /* [count] */
	unsigned char *bytes;           /* [count] of `each` */
	uint32_t count, each;
	uint16_t group;
};

struct net_uring_stream {
	int fd;
	uint32_t name;
	unsigned char *buffer;     /* NULL: nothing is put or being sent */
	uint32_t begin, end;       /* what is being sent, or is to be, in it */
	uint8_t state;             /* enum net_uring_state */
	bool is_receiving, is_sending, is_cancelling; /* has a request of this kind in the ring */
	bool is_cancelled, is_last_try;               /* closing: what was done for it */
	bool wants_room, is_failed;
	bool is_listed;            /* in `todo` */
	bool is_suspect;           /* it was found ended, and nothing has come of it since */
	uint64_t closing_since;    /* poll */
};

struct net_uring_datagram {
	_Alignas(64) unsigned char bytes[NET_ROOM_BYTES_MAX];
	unsigned char address[NET_ADDRESS_BYTES];
};

struct net_uring {
	struct io_uring ring;
	bool is_enabled;
	bool is_watching;                 /* has a request for that descriptor in the ring */
	uint64_t polls;
	bool has_slept;                   /* since the last poll */
	int64_t look_ns;                  /* when streams were looked at last */
	uint32_t look_next;               /* the number from which on they are next */
	struct net_above above;
	struct net_port_counters counters;
	/* Streams: those in `todo` have something to ask of the kernel. */
	struct net_uring_stream *streams; /* [streams_max] */
	uint32_t *todo, todo_count;
	struct net_slots free_streams, free_buffers;
	unsigned char *send_buffers;      /* [streams_max] of NET_URING_SEND_BYTES */
	struct net_uring_buffers stream_buffers;
	/* Datagrams. */
	struct net_uring_buffers datagram_buffers;
	struct net_uring_datagram *datagrams;
	struct net_slots free_datagrams;
	struct msghdr datagram_header;    /* how those that come are laid out */
	/* Listeners. */
	uint32_t unarmed;                 /* those that the kernel was not asked about: bits */
	int64_t paused_until_ns;          /* 0: accepting is not paused */
	/* below here is not touched per request */
	uint32_t streams_max, listener_count;
	bool has_ring;
	struct base_region memory;        /* rings, buffers, datagrams */
	size_t send_bytes;                /* of send_buffers */
	struct net_listening listening[NET_LISTENERS_MAX];
};

enum net_uring_state { NET_URING_FREE, NET_URING_OPEN, NET_URING_CLOSING };

enum { NET_URING_SEND_BYTES = 36 * 1024 }; /* of a stream: two of the longest packets */

/* After what else is said of the request. */
static inline void net_uring_mark(struct io_uring_sqe *sqe, enum net_uring_what what, uint32_t number)
{
	sqe->user_data = (uint64_t)number << 8 | what;
}

/* Place for one more request; where there is none, the kernel is given those that are there. NULL: it takes none for now, ask in a later
 * poll. */
struct io_uring_sqe *net_uring_sqe(struct net_uring *uring);
/* Gives the kernel all requests, and lets it do what work it has. */
void net_uring_enter(struct net_uring *uring);

static inline unsigned char *net_uring_buffer(const struct net_uring_buffers *buffers, const struct io_uring_cqe *cqe)
{
	return buffers->bytes + (size_t)(cqe->flags >> IORING_CQE_BUFFER_SHIFT) * buffers->each;
}

/* Gives the buffer that a completion names back to the kernel. */
static inline void net_uring_give(struct net_uring_buffers *buffers, const struct io_uring_cqe *cqe)
{
	const unsigned short number = (unsigned short)(cqe->flags >> IORING_CQE_BUFFER_SHIFT);

	io_uring_buf_ring_add(buffers->ring, net_uring_buffer(buffers, cqe), buffers->each, number, (int)buffers->count - 1, 0);
	io_uring_buf_ring_advance(buffers->ring, 1);
}

/* Streams. */
void net_uring_accept(struct net_uring *uring, uint32_t listener, int fd);
void net_uring_received(struct net_uring *uring, uint32_t number, const struct io_uring_cqe *cqe);
void net_uring_sent(struct net_uring *uring, uint32_t number, int result);
void net_uring_cancelled(struct net_uring *uring, uint32_t number);
unsigned char *net_uring_stream_room(struct net_uring *uring, uint32_t number, size_t least, size_t *bytes);
void net_uring_stream_put(struct net_uring *uring, uint32_t number, size_t bytes);
void net_uring_stream_close(struct net_uring *uring, uint32_t number);
/* Looks at a few of the streams whether they have ended, untold. */
void net_uring_streams_look(struct net_uring *uring);
/* Asks the kernel for what streams want of it. */
void net_uring_streams_advance(struct net_uring *uring);

/* Datagrams. */
void net_uring_datagram_received(struct net_uring *uring, uint32_t listener, const struct io_uring_cqe *cqe);
void net_uring_datagram_sent(struct net_uring *uring, uint32_t number, int result);
unsigned char *net_uring_datagram_room(struct net_uring *uring);
void net_uring_datagram_put(struct net_uring *uring, const struct net_way *way, size_t bytes);

#endif
