/*
 * Streams over io_uring. See net_uring.h.
 *
 * A stream is asked about once, and then gives a completion for each run of bytes. At most one send of it is in the ring, so that its bytes
 * stay in order; what is put meanwhile goes with the next one.
 *
 * Sends copy. A send without copy (IORING_OP_SEND_ZC) keeps the buffer until the other side has acknowledged, so that a stream had no
 * more than its one buffer under way; it costs 300 to 600 ns more, which only 16 KiB and more win back, and 1 us more over loopback.
 *
 *   FREE --accept--> OPEN --end, failure, close--> CLOSING --nothing of it is in the ring--> FREE
 *
 * While CLOSING, what was put is sent where the other side takes it at once; then all requests are cancelled. The place is given to
 * the next stream only when the last completion of everything that was asked for has come: no completion is ever taken for
 * another stream's, nor a descriptor.
 */
#include "netio/net_uring.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/base_assert.h"

enum { LOOKS = 16, PLACES_PASSED = 256 }; /* in one look: streams, and places */

static void list(struct net_uring *uring, uint32_t number)
{
	struct net_uring_stream *stream = &uring->streams[number];

	if (stream->is_listed)
		return;
	stream->is_listed = true;
	uring->todo[uring->todo_count++] = number;
}

static void release_buffer(struct net_uring *uring, struct net_uring_stream *stream)
{
	if (stream->buffer)
		net_slots_give(&uring->free_buffers, (uint32_t)((size_t)(stream->buffer - uring->send_buffers) / NET_URING_SEND_BYTES));
	stream->buffer = NULL;
	stream->begin = stream->end = 0;
}

static void begin_close(struct net_uring *uring, uint32_t number)
{
	uring->streams[number].state = NET_URING_CLOSING;
	uring->streams[number].closing_since = uring->polls;
	list(uring, number);
}

/* ---- what is asked of the kernel -------------------------------------------------------------------------- */

static bool ask_receive(struct net_uring *uring, uint32_t number)
{
	struct net_uring_stream *stream = &uring->streams[number];
	struct io_uring_sqe *sqe = net_uring_sqe(uring);

	if (!sqe)
		return false;
	io_uring_prep_recv_multishot(sqe, stream->fd, NULL, 0, 0);
	sqe->flags |= IOSQE_BUFFER_SELECT;
	sqe->buf_group = uring->stream_buffers.group;
	net_uring_mark(sqe, NET_URING_RECEIVE, number);
	stream->is_receiving = true;
	return true;
}

static bool ask_send(struct net_uring *uring, uint32_t number, int flags)
{
	struct net_uring_stream *stream = &uring->streams[number];
	struct io_uring_sqe *sqe = net_uring_sqe(uring);

	if (!sqe)
		return false;
	io_uring_prep_send(sqe, stream->fd, stream->buffer + stream->begin, stream->end - stream->begin, flags | MSG_NOSIGNAL);
	net_uring_mark(sqe, NET_URING_SEND, number);
	stream->is_sending = true;
	return true;
}

static bool ask_cancel(struct net_uring *uring, uint32_t number)
{
	struct net_uring_stream *stream = &uring->streams[number];
	struct io_uring_sqe *sqe = net_uring_sqe(uring);

	if (!sqe)
		return false;
	io_uring_prep_cancel_fd(sqe, stream->fd, IORING_ASYNC_CANCEL_ALL);
	net_uring_mark(sqe, NET_URING_CANCEL, number);
	stream->is_cancelled = stream->is_cancelling = true;
	return true;
}

/* These say whether the stream has nothing more to ask, until a completion of it comes. */

static bool advance_open(struct net_uring *uring, uint32_t number)
{
	struct net_uring_stream *stream = &uring->streams[number];

	if (!stream->is_receiving && !ask_receive(uring, number))
		return false;
	/* MSG_WAITALL: the kernel waits for the other side by itself, and one completion comes at the end. */
	return stream->is_sending || stream->begin == stream->end || ask_send(uring, number, MSG_WAITALL);
}

static bool finish_close(struct net_uring *uring, uint32_t number)
{
	struct net_uring_stream *stream = &uring->streams[number];

	release_buffer(uring, stream);
	net_port_count(&uring->counters.system_calls, 1);
	close(stream->fd);
	stream->state = NET_URING_FREE;
	net_slots_give(&uring->free_streams, number);
	return true;
}

static bool advance_closing(struct net_uring *uring, uint32_t number)
{
	struct net_uring_stream *stream = &uring->streams[number];

	/* The completion of a send that ended at once is taken by the next poll. One that has not ended then waits for a slow reader. */
	if (stream->is_sending && !stream->is_cancelled && uring->polls <= stream->closing_since + 1)
		return false;
	if (!stream->is_sending && stream->begin < stream->end && !stream->is_last_try) {
		stream->is_last_try = ask_send(uring, number, MSG_DONTWAIT);
		stream->closing_since = uring->polls;
		return false;
	}
	if (!stream->is_receiving && !stream->is_sending && !stream->is_cancelling)
		return finish_close(uring, number);
	return stream->is_cancelled || ask_cancel(uring, number);
}

void net_uring_streams_advance(struct net_uring *uring)
{
	for (uint32_t i = uring->todo_count; i-- > 0;) {
		const uint32_t number = uring->todo[i];
		struct net_uring_stream *stream = &uring->streams[number];

		if (stream->state == NET_URING_OPEN ? !advance_open(uring, number) : !advance_closing(uring, number))
			continue;
		stream->is_listed = false;
		uring->todo[i] = uring->todo[--uring->todo_count];
	}
}

/* ---- what comes ------------------------------------------------------------------------------------------- */

void net_uring_accept(struct net_uring *uring, uint32_t listener, int fd)
{
	struct net_way way = { .listener = listener };
	struct net_uring_stream *stream;

	if (!net_slots_take(&uring->free_streams, &way.stream)) {
		net_port_count(&uring->counters.refused, 1);
		close(fd);
		return;
	}
	net_port_count(&uring->counters.system_calls, 1);
	net_listen_peer(fd, uring->listening[listener].kind, way.address);
	stream = &uring->streams[way.stream];
	*stream = (struct net_uring_stream){ .fd = fd, .state = NET_URING_OPEN };
	list(uring, way.stream);
	if (uring->above.opened(uring->above.context, &way, &stream->name)) {
		net_port_count(&uring->counters.accepted, 1);
		return;
	}
	net_port_count(&uring->counters.refused, 1);
	net_uring_stream_close(uring, way.stream);
}

/* Whether a result is no end of the stream, but of the question alone: no buffer was free, or the kernel asks for patience. */
static bool is_passing(int result)
{
	return result > 0 || result == -ENOBUFS || result == -EAGAIN || result == -EINTR;
}

void net_uring_received(struct net_uring *uring, uint32_t number, const struct io_uring_cqe *cqe)
{
	struct net_uring_stream *stream = &uring->streams[number];
	const struct net_above *above = &uring->above;

	stream->is_suspect = false;
	if (!(cqe->flags & IORING_CQE_F_MORE)) {
		stream->is_receiving = false;
		list(uring, number);
	}
	if (stream->state == NET_URING_OPEN && cqe->res > 0) {
		net_port_count(&uring->counters.received, 1);
		net_port_count(&uring->counters.received_bytes, (uint64_t)cqe->res);
		if (!above->received(above->context, stream->name, net_uring_buffer(&uring->stream_buffers, cqe), (size_t)cqe->res))
			net_uring_stream_close(uring, number);
	} else if (stream->state == NET_URING_OPEN && !is_passing(cqe->res)) {
		begin_close(uring, number);
		above->gone(above->context, stream->name);
	}
	if (cqe->flags & IORING_CQE_F_BUFFER)
		net_uring_give(&uring->stream_buffers, cqe);
}

/* Nobody is told here: the question about the stream's bytes ends with it. */
static void fail_stream(struct net_uring *uring, struct net_uring_stream *stream)
{
	stream->is_failed = true;
	stream->begin = stream->end;
	net_port_count(&uring->counters.system_calls, 1);
	(void)shutdown(stream->fd, SHUT_RDWR);
}

void net_uring_sent(struct net_uring *uring, uint32_t number, int result)
{
	struct net_uring_stream *stream = &uring->streams[number];
	const struct net_above *above = &uring->above;

	stream->is_sending = false;
	if (result >= 0) {
		net_port_count(&uring->counters.sent, 1);
		net_port_count(&uring->counters.sent_bytes, (uint64_t)result);
		stream->begin += (uint32_t)result;
	} else if (stream->state == NET_URING_OPEN && result != -EAGAIN && result != -EINTR) {
		fail_stream(uring, stream);
	}
	if (stream->begin == stream->end)
		release_buffer(uring, stream);
	if (stream->state == NET_URING_CLOSING || stream->begin < stream->end)
		list(uring, number);
	if (stream->state == NET_URING_OPEN && !stream->is_failed && !stream->buffer && stream->wants_room) {
		stream->wants_room = false;
		above->writable(above->context, stream->name);
	}
}

void net_uring_cancelled(struct net_uring *uring, uint32_t number)
{
	uring->streams[number].is_cancelling = false;
	list(uring, number);
}

/* ---- ends that the kernel does not tell of ---------------------------------------------------------------- */

/* Some that are open, in turns. How many. */
static uint32_t choose(struct net_uring *uring, struct pollfd sockets[LOOKS], uint32_t numbers[LOOKS])
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < PLACES_PASSED && i < uring->streams_max && count < LOOKS; i++) {
		const uint32_t number = uring->look_next;

		uring->look_next = number + 1 < uring->streams_max ? number + 1 : 0;
		if (uring->streams[number].state != NET_URING_OPEN)
			continue;
		sockets[count] = (struct pollfd){ .fd = uring->streams[number].fd }; /* asks for nothing, and is told of resets */
		numbers[count++] = number;
	}
	return count;
}

/* A repeating receive of Linux 6.18 misses a reset now and then: of streams that are reset right after their first bytes, while the thread
 * sleeps in the ring, one in a thousand. Nothing would ever come of them. What is only late has come when a stream is looked at again. */
void net_uring_streams_look(struct net_uring *uring)
{
	struct pollfd sockets[LOOKS];
	uint32_t numbers[LOOKS];
	const uint32_t count = choose(uring, sockets, numbers);

	if (count == 0)
		return;
	net_port_count(&uring->counters.system_calls, 1);
	if (poll(sockets, count, 0) <= 0)
		return;
	for (uint32_t i = 0; i < count; i++) {
		struct net_uring_stream *stream = &uring->streams[numbers[i]];

		if (!(sockets[i].revents & (POLLHUP | POLLERR)) || stream->state != NET_URING_OPEN)
			continue;
		if (!stream->is_suspect) {
			stream->is_suspect = true;
			continue;
		}
		net_port_count(&uring->counters.ended_untold, 1);
		begin_close(uring, numbers[i]);
		uring->above.gone(uring->above.context, stream->name);
	}
}

/* ---- what above asks for ---------------------------------------------------------------------------------- */

unsigned char *net_uring_stream_room(struct net_uring *uring, uint32_t number, size_t least, size_t *bytes)
{
	struct net_uring_stream *stream = &uring->streams[number];
	uint32_t buffer;

	if (stream->state != NET_URING_OPEN || stream->is_failed || NET_URING_SEND_BYTES - stream->end < least) {
		net_port_count(&uring->counters.no_room, !stream->wants_room);
		stream->wants_room = true;
		return NULL;
	}
	if (!stream->buffer) {
		const bool taken = net_slots_take(&uring->free_buffers, &buffer);

		BASE_ASSERT(taken); /* a stream has one at most, and there is one for each */
		stream->buffer = uring->send_buffers + (size_t)buffer * NET_URING_SEND_BYTES;
	}
	*bytes = NET_URING_SEND_BYTES - stream->end;
	return stream->buffer + stream->end;
}

void net_uring_stream_put(struct net_uring *uring, uint32_t number, size_t bytes)
{
	struct net_uring_stream *stream = &uring->streams[number];

	stream->end += (uint32_t)bytes;
	if (stream->end == 0)
		release_buffer(uring, stream);
	else if (bytes > 0)
		list(uring, number);
}

void net_uring_stream_close(struct net_uring *uring, uint32_t number)
{
	if (uring->streams[number].state == NET_URING_OPEN)
		begin_close(uring, number);
}
