/*
 * A bare echo of datagrams over io_uring, as few calls as it can have: see attnbench_bare.h.
 *
 * One request receives all datagrams, into buffers that the kernel takes from a ring; that something has come shows in a word of shared
 * memory; the answer is given to the kernel by the call that also lets it do its work. Server's thread, which is the ring's only issuer.
 */
#include "tools/attnbench_bare.h"

#include <errno.h>
#include <liburing.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"

enum { REQUESTS = 64, BUFFERS = 16, GROUP = 0, RECEIVE = 1, SEND = 2, PAGE_BYTES = 4096 };

struct uring_echo {
	struct io_uring ring;
	struct msghdr header; /* how what comes is laid out */
	struct io_uring_buf_ring *buffers;
	unsigned char *bytes; /* [BUFFERS] of each_bytes */
	size_t each_bytes;
};

static void give(struct uring_echo *echo, unsigned number)
{
	io_uring_buf_ring_add(echo->buffers, echo->bytes + number * echo->each_bytes, (unsigned)echo->each_bytes, (unsigned short)number,
		BUFFERS - 1, 0);
	io_uring_buf_ring_advance(echo->buffers, 1);
}

static void arm(struct uring_echo *echo)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&echo->ring);

	io_uring_prep_recvmsg_multishot(sqe, 0, &echo->header, 0);
	sqe->flags |= IOSQE_BUFFER_SELECT | IOSQE_FIXED_FILE;
	sqe->buf_group = GROUP;
	sqe->user_data = RECEIVE;
}

/* The buffer is the kernel's again once the answer is sent. */
static void answer(struct uring_echo *echo, const struct io_uring_cqe *cqe)
{
	const unsigned number = cqe->flags >> IORING_CQE_BUFFER_SHIFT;
	unsigned char *buffer = echo->bytes + number * echo->each_bytes;
	struct io_uring_recvmsg_out *out = io_uring_recvmsg_validate(buffer, cqe->res, &echo->header);
	struct io_uring_sqe *sqe = io_uring_get_sqe(&echo->ring);

	if (!out || !sqe) {
		give(echo, number);
		return;
	}
	io_uring_prep_send(sqe, 0, io_uring_recvmsg_payload(out, &echo->header),
		io_uring_recvmsg_payload_length(out, cqe->res, &echo->header), MSG_NOSIGNAL);
	io_uring_prep_send_set_addr(sqe, io_uring_recvmsg_name(out), sizeof(struct sockaddr_in));
	sqe->flags |= IOSQE_FIXED_FILE;
	sqe->user_data = (uint64_t)number << 8 | SEND;
}

/* How many; -errno with a message: receiving failed. */
static int complete(struct uring_echo *echo)
{
	struct io_uring_cqe *cqe;
	unsigned head, count = 0;

	io_uring_for_each_cqe(&echo->ring, head, cqe) {
		count++;
		if ((cqe->user_data & 0xff) == SEND)
			give(echo, (unsigned)(cqe->user_data >> 8));
		else if (cqe->flags & IORING_CQE_F_BUFFER)
			answer(echo, cqe);
		else if (cqe->res < 0 && cqe->res != -ENOBUFS)
			return base_fail(-cqe->res, "io_uring: receiving: %s", strerror(-cqe->res));
		if ((cqe->user_data & 0xff) == RECEIVE && !(cqe->flags & IORING_CQE_F_MORE))
			arm(echo);
	}
	io_uring_cq_advance(&echo->ring, count);
	return (int)count;
}

static int serve(struct uring_echo *echo, const _Atomic bool *stop)
{
	int count;

	arm(echo);
	(void)io_uring_submit_and_get_events(&echo->ring);
	while (!atomic_load_explicit(stop, memory_order_relaxed)) {
		count = complete(echo);
		if (count < 0)
			return count;
		if (io_uring_sq_ready(&echo->ring) > 0 || IO_URING_READ_ONCE(*echo->ring.sq.kflags) & IORING_SQ_TASKRUN)
			(void)io_uring_submit_and_get_events(&echo->ring);
	}
	return 0;
}

static int set_up(struct uring_echo *echo, int fd)
{
	struct io_uring_buf_reg reg = { .ring_entries = BUFFERS, .bgid = GROUP };
	int err = io_uring_register_files(&echo->ring, &fd, 1);

	if (err)
		return base_fail(-err, "io_uring: registering a socket: %s", strerror(-err));
	reg.ring_addr = (uintptr_t)echo->buffers;
	err = io_uring_register_buf_ring(&echo->ring, &reg, 0);
	if (err)
		return base_fail(-err, "io_uring: registering buffers: %s", strerror(-err));
	io_uring_buf_ring_init(echo->buffers);
	for (unsigned i = 0; i < BUFFERS; i++)
		give(echo, i);
	return 0;
}

int attnbench_bare_uring(int fd, uint32_t message_bytes, _Atomic bool *ready, const _Atomic bool *stop)
{
	struct io_uring_params params = { .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG };
	struct uring_echo echo = { .header = { .msg_namelen = sizeof(struct sockaddr_in) } };
	int err = io_uring_queue_init_params(REQUESTS, &echo.ring, &params);

	if (err)
		return base_fail(-err, "io_uring: %s", strerror(-err));
	echo.each_bytes = (sizeof(struct io_uring_recvmsg_out) + sizeof(struct sockaddr_in) + message_bytes + 63) / 64 * 64;
	echo.buffers = aligned_alloc(PAGE_BYTES, PAGE_BYTES);
	echo.bytes = aligned_alloc(64, BUFFERS * echo.each_bytes);
	err = echo.buffers && echo.bytes ? set_up(&echo, fd) : base_fail(ENOMEM, "no memory for the bare echo");
	atomic_store(ready, !err);
	if (!err)
		err = serve(&echo, stop);
	io_uring_queue_exit(&echo.ring);
	free(echo.bytes);
	free(echo.buffers);
	return err;
}
