/*
 * The transport of plain calls: sockets that do not wait, and one epoll. See net_port.h.
 *
 * Receiving. Streams are read into one buffer, from which above takes all at once. Those few that had something of late are read without
 * asking epoll first, so that a question and its answer cost one call each; epoll is asked when they have nothing, and now and then
 * while they have.
 *
 * Sending. A stream has a buffer only while it has something unsent: from `room` to the next flush, or, where the other side is slow, until
 * the kernel takes the rest. There is a buffer for each stream, so that slow ones take nothing from others; they are taken from the
 * warm end, and memory that was never needed is never touched.
 *
 *   FREE --accept--> OPEN <--all is sent-- BLOCKED     no room: the kernel did not take all, EPOLLOUT is waited for
 *                     | \--------flush------> |
 *                     +-------> FAILED <------+         no room: sending failed; the next poll tells `gone`
 */
#include "netio/net_port.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/base_assert.h"
#include "base/base_clock.h"
#include "base/base_error.h"
#include "netio/net_datagrams.h"
#include "netio/net_listen.h"
#include "netio/net_slots.h"

enum {
	RECEIVE_BYTES = 64 * 1024,  /* from one stream, by one call */
	SEND_BYTES = 36 * 1024,     /* of one stream, unsent at most: two of the longest packets, so that they share a call */
	SEND_BUFFERS_WARM = 32,     /* touched at start: 1 MiB */
	EVENTS_MAX = 64,            /* sources that one question to epoll may name; the others are named by the next */
	ACCEPTED_MAX = 16,          /* streams by one event of a listener */
	DIRECT_MAX = 4,             /* sources that are read without asking */
	DIRECT_MISSES_MAX = 1000,   /* polls in which such a source had nothing, until it is no longer one: about half a millisecond */
	DIRECT_POLLS = 8,           /* polls until the others are looked at, however much the direct ones have */
	ACCEPT_PAUSE_NS = 50000000, /* where descriptors are lacking */
};

_Static_assert(SEND_BYTES - (int)NET_ROOM_BYTES_MAX >= 0, "a buffer takes the longest packet");

/* What epoll names, and what is read directly: listeners come first, then streams. */
enum { SOURCE_STREAMS = NET_LISTENERS_MAX };

enum state { FREE, OPEN, BLOCKED, FAILED };

struct stream {
	int fd;
	uint32_t name;
	unsigned char *buffer; /* NULL: nothing is unsent */
	uint32_t begin, end;   /* what is unsent in it */
	uint32_t unsent_at;    /* its place in `unsent`, while is_unsent */
	uint8_t state;         /* enum state */
	bool is_unsent;
	bool wants_room;       /* to be told when it has some */
};

struct direct {
	uint32_t source, misses;
};

struct net_sockets {
	int epoll_fd;
	uint32_t direct_count, direct_polls;
	struct direct direct[DIRECT_MAX];
	int64_t paused_until_ns;        /* 0: accepting is not paused */
	struct net_above above;
	struct net_port_counters counters;
	struct stream *streams;         /* [streams_max] */
	uint32_t *unsent, unsent_count; /* streams that were put something since the last flush */
	struct net_slots free_streams, free_buffers;
	unsigned char *buffers;         /* [streams_max] of SEND_BYTES */
	unsigned char *received;        /* [RECEIVE_BYTES] */
	struct net_datagrams *datagrams;
	/* below here is not touched per request */
	uint32_t streams_max, listener_count;
	size_t memory_bytes;            /* of buffers and received, which lies behind them */
	struct net_listening listening[NET_LISTENERS_MAX];
};

static int watch(struct net_sockets *sockets, int operation, int fd, uint32_t events, uint32_t source)
{
	struct epoll_event event = { .events = events, .data.u32 = source };

	net_port_count(&sockets->counters.system_calls, 1);
	return epoll_ctl(sockets->epoll_fd, operation, fd, &event);
}

/* ---- sources that are read without asking ----------------------------------------------------------------- */

static void direct_add(struct net_sockets *sockets, uint32_t source)
{
	for (uint32_t i = 0; i < sockets->direct_count; i++)
		if (sockets->direct[i].source == source)
			return;
	if (sockets->direct_count < DIRECT_MAX)
		sockets->direct[sockets->direct_count++] = (struct direct){ source, 0 };
}

static void direct_remove(struct net_sockets *sockets, uint32_t source)
{
	for (uint32_t i = 0; i < sockets->direct_count; i++)
		if (sockets->direct[i].source == source) {
			sockets->direct[i] = sockets->direct[--sockets->direct_count];
			return;
		}
}

/* ---- sending ---------------------------------------------------------------------------------------------- */

static void release_buffer(struct net_sockets *sockets, struct stream *stream)
{
	if (stream->buffer)
		net_slots_give(&sockets->free_buffers, (uint32_t)((size_t)(stream->buffer - sockets->buffers) / SEND_BYTES));
	stream->buffer = NULL;
	stream->begin = stream->end = 0;
}

static uint32_t source_of(const struct net_sockets *sockets, const struct stream *stream)
{
	return SOURCE_STREAMS + (uint32_t)(stream - sockets->streams);
}

static void block(struct net_sockets *sockets, struct stream *stream)
{
	stream->state = BLOCKED;
	(void)watch(sockets, EPOLL_CTL_MOD, stream->fd, EPOLLIN | EPOLLOUT, source_of(sockets, stream));
}

/* Nobody is told here, because nobody expects it outside of a poll: the next one finds the stream at its end. */
static void fail_stream(struct net_sockets *sockets, struct stream *stream)
{
	release_buffer(sockets, stream);
	stream->state = FAILED;
	net_port_count(&sockets->counters.system_calls, 1);
	(void)shutdown(stream->fd, SHUT_RDWR);
}

/* Gives the kernel what an open or blocked stream has unsent. */
static void send_stream(struct net_sockets *sockets, struct stream *stream)
{
	ssize_t count = send(stream->fd, stream->buffer + stream->begin, stream->end - stream->begin, MSG_DONTWAIT | MSG_NOSIGNAL);

	net_port_count(&sockets->counters.system_calls, 1);
	if (count < 0 && errno != EAGAIN && errno != EINTR) {
		fail_stream(sockets, stream);
		return;
	}
	if (count > 0) {
		net_port_count(&sockets->counters.sent, 1);
		net_port_count(&sockets->counters.sent_bytes, (uint64_t)count);
		stream->begin += (uint32_t)count;
	}
	if (stream->begin == stream->end)
		release_buffer(sockets, stream);
	else if (stream->state == OPEN)
		block(sockets, stream);
}

/* The other side takes again. Whether it was work. */
static int unblock(struct net_sockets *sockets, struct stream *stream)
{
	if (stream->state != BLOCKED)
		return 0;
	send_stream(sockets, stream);
	if (stream->state != BLOCKED || stream->buffer)
		return 1;
	stream->state = OPEN;
	(void)watch(sockets, EPOLL_CTL_MOD, stream->fd, EPOLLIN, source_of(sockets, stream));
	if (stream->wants_room) {
		stream->wants_room = false;
		sockets->above.writable(sockets->above.context, stream->name);
	}
	return 1;
}

static unsigned char *stream_room(struct net_sockets *sockets, struct stream *stream, size_t least, size_t *bytes)
{
	uint32_t number;

	if (stream->state == OPEN && SEND_BYTES - stream->end < least)
		send_stream(sockets, stream);
	if (stream->state != OPEN) {
		net_port_count(&sockets->counters.no_room, !stream->wants_room);
		stream->wants_room = true;
		return NULL;
	}
	if (!stream->buffer) {
		const bool taken = net_slots_take(&sockets->free_buffers, &number);

		BASE_ASSERT(taken); /* a stream has one at most, and there is one for each */
		stream->buffer = sockets->buffers + (size_t)number * SEND_BYTES;
	}
	*bytes = SEND_BYTES - stream->end;
	return stream->buffer + stream->end;
}

static unsigned char *sockets_room(void *self, const struct net_way *way, size_t least, size_t *bytes)
{
	struct net_sockets *sockets = self;

	BASE_ASSERT(least <= NET_ROOM_BYTES_MAX);
	if (way->stream != NET_NO_STREAM)
		return stream_room(sockets, &sockets->streams[way->stream], least, bytes);
	*bytes = NET_ROOM_BYTES_MAX;
	return net_datagrams_room(sockets->datagrams, &sockets->counters);
}

static void stream_put(struct net_sockets *sockets, struct stream *stream, size_t bytes)
{
	stream->end += (uint32_t)bytes;
	if (stream->end == 0) {
		release_buffer(sockets, stream);
	} else if (!stream->is_unsent) {
		stream->is_unsent = true;
		stream->unsent_at = sockets->unsent_count;
		sockets->unsent[sockets->unsent_count++] = (uint32_t)(stream - sockets->streams);
	}
}

static void sockets_put(void *self, const struct net_way *way, size_t bytes)
{
	struct net_sockets *sockets = self;

	if (way->stream != NET_NO_STREAM)
		stream_put(sockets, &sockets->streams[way->stream], bytes);
	else
		net_datagrams_put(sockets->datagrams, way, bytes);
}

static void sockets_flush(void *self)
{
	struct net_sockets *sockets = self;

	for (uint32_t i = 0; i < sockets->unsent_count; i++) {
		struct stream *stream = &sockets->streams[sockets->unsent[i]];

		stream->is_unsent = false;
		if (stream->state == OPEN && stream->buffer)
			send_stream(sockets, stream);
	}
	sockets->unsent_count = 0;
	(void)net_datagrams_flush(sockets->datagrams, &sockets->counters);
}

/* ---- the life of a stream --------------------------------------------------------------------------------- */

/* What was put goes on its way, as far as the kernel takes it. */
static void end_stream(struct net_sockets *sockets, uint32_t number)
{
	struct stream *stream = &sockets->streams[number];

	if (stream->state == OPEN && stream->buffer)
		send_stream(sockets, stream);
	release_buffer(sockets, stream);
	if (stream->is_unsent) {
		const uint32_t last = sockets->unsent[--sockets->unsent_count];

		sockets->unsent[stream->unsent_at] = last;
		sockets->streams[last].unsent_at = stream->unsent_at;
	}
	direct_remove(sockets, SOURCE_STREAMS + number);
	net_port_count(&sockets->counters.system_calls, 1);
	close(stream->fd);
	*stream = (struct stream){ .fd = -1 };
	net_slots_give(&sockets->free_streams, number);
}

static void sockets_close(void *self, uint32_t number)
{
	struct net_sockets *sockets = self;

	if (sockets->streams[number].state != FREE)
		end_stream(sockets, number);
}

/* false: it was refused, and is closed. */
static bool open_stream(struct net_sockets *sockets, uint32_t listener, int fd)
{
	struct net_way way = { .listener = listener };
	struct stream *stream;

	if (!net_slots_take(&sockets->free_streams, &way.stream)) {
		close(fd);
		return false;
	}
	stream = &sockets->streams[way.stream];
	net_port_count(&sockets->counters.system_calls, 1);
	net_listen_peer(fd, sockets->listening[listener].kind, way.address);
	*stream = (struct stream){ .fd = fd, .state = OPEN };
	if (watch(sockets, EPOLL_CTL_ADD, fd, EPOLLIN, SOURCE_STREAMS + way.stream) == 0 &&
		sockets->above.opened(sockets->above.context, &way, &stream->name))
		return true;
	sockets_close(sockets, way.stream);
	return false;
}

/* Whoever wants in waits in the kernel's queue meanwhile. */
static void pause_accepting(struct net_sockets *sockets, bool paused)
{
	for (uint32_t i = 0; i < sockets->listener_count; i++)
		if (sockets->listening[i].kind != NET_PORT_UDP)
			(void)watch(sockets, EPOLL_CTL_MOD, sockets->listening[i].fd, paused ? 0 : EPOLLIN, i);
	net_port_count(&sockets->counters.accept_paused, paused);
	sockets->paused_until_ns = paused ? base_monotonic_ns() + ACCEPT_PAUSE_NS : 0;
}

static int accept_streams(struct net_sockets *sockets, uint32_t listener)
{
	int count = 0;

	for (int i = 0; i < ACCEPTED_MAX; i++) {
		int fd = accept4(sockets->listening[listener].fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		net_port_count(&sockets->counters.system_calls, 1);
		if (fd < 0) {
			if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
				pause_accepting(sockets, true);
			break;
		}
		count++;
		if (open_stream(sockets, listener, fd))
			net_port_count(&sockets->counters.accepted, 1);
		else
			net_port_count(&sockets->counters.refused, 1);
	}
	return count;
}

/* ---- receiving -------------------------------------------------------------------------------------------- */

static int receive_stream(struct net_sockets *sockets, uint32_t number)
{
	struct stream *stream = &sockets->streams[number];
	const struct net_above *above = &sockets->above;
	ssize_t count = recv(stream->fd, sockets->received, RECEIVE_BYTES, MSG_DONTWAIT);
	uint32_t name;

	net_port_count(&sockets->counters.system_calls, 1);
	if (count > 0) {
		net_port_count(&sockets->counters.received, 1);
		net_port_count(&sockets->counters.received_bytes, (uint64_t)count);
		if (!above->received(above->context, stream->name, sockets->received, (size_t)count))
			sockets_close(sockets, number);
		return 1;
	}
	if (count < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	name = stream->name;
	end_stream(sockets, number);
	above->gone(above->context, name);
	return 1;
}

static int receive(struct net_sockets *sockets, uint32_t source)
{
	return source < SOURCE_STREAMS ? net_datagrams_receive(sockets->datagrams, source, &sockets->above, &sockets->counters) :
					 receive_stream(sockets, source - SOURCE_STREAMS);
}

static int poll_direct(struct net_sockets *sockets)
{
	int work = 0;

	/* From the end: what is told may close streams, and the last one then fills the gap. */
	for (uint32_t i = sockets->direct_count; i-- > 0;) {
		struct direct *direct = &sockets->direct[i];
		int count;

		if (i >= sockets->direct_count)
			continue;
		count = receive(sockets, direct->source);
		work += count;
		direct->misses = count ? 0 : direct->misses + 1;
		if (direct->misses > DIRECT_MISSES_MAX)
			direct_remove(sockets, direct->source);
	}
	return work;
}

/* Events may be of a stream that was closed since, or of the next one in its place: nothing is believed but what the calls say. */
static int handle(struct net_sockets *sockets, uint32_t source, uint32_t events)
{
	struct stream *stream = source < SOURCE_STREAMS ? NULL : &sockets->streams[source - SOURCE_STREAMS];
	int work = 0;

	if (!stream && sockets->listening[source].kind != NET_PORT_UDP)
		return accept_streams(sockets, source);
	if (stream && events & EPOLLOUT)
		work += unblock(sockets, stream);
	if ((stream && stream->state == FREE) || !(events & ~(uint32_t)EPOLLOUT))
		return work;
	direct_add(sockets, source);
	return work + receive(sockets, source);
}

static int poll_events(struct net_sockets *sockets)
{
	struct epoll_event events[EVENTS_MAX];
	int work = 0, count = epoll_wait(sockets->epoll_fd, events, EVENTS_MAX, 0);

	net_port_count(&sockets->counters.system_calls, 1);
	for (int i = 0; i < count; i++)
		work += handle(sockets, events[i].data.u32, events[i].events);
	return work;
}

static int sockets_poll(void *self)
{
	struct net_sockets *sockets = self;
	int work;

	sockets_flush(sockets);
	work = poll_direct(sockets);
	if (work == 0 || ++sockets->direct_polls >= DIRECT_POLLS) {
		sockets->direct_polls = 0;
		work += poll_events(sockets);
	}
	if (sockets->paused_until_ns != 0 && base_monotonic_ns() >= sockets->paused_until_ns)
		pause_accepting(sockets, false);
	return work;
}

/* Epoll is level-triggered and names all sources, the direct ones too: nothing that comes can be missed. But datagrams that the kernel
 * did not take have no event of their own. */
static bool sockets_sleep_begin(void *self)
{
	struct net_sockets *sockets = self;

	sockets_flush(sockets);
	return !net_datagrams_flush(sockets->datagrams, &sockets->counters);
}

/* ---- the whole of it -------------------------------------------------------------------------------------- */

static void sockets_counters(const void *self, struct net_port_counters *counters)
{
	net_port_counters_copy(counters, &((const struct net_sockets *)self)->counters);
}

static uint16_t sockets_port_of(const void *self, uint32_t listener)
{
	return ((const struct net_sockets *)self)->listening[listener].port;
}

/* Takes apart what was made so far. */
static void sockets_destroy(void *self)
{
	struct net_sockets *sockets = self;

	for (uint32_t i = 0; sockets->streams && i < sockets->streams_max; i++)
		sockets_close(sockets, i);
	for (uint32_t i = 0; i < sockets->listener_count; i++)
		net_listen_end(&sockets->listening[i]);
	if (sockets->epoll_fd >= 0)
		close(sockets->epoll_fd);
	net_datagrams_destroy(sockets->datagrams);
	if (sockets->buffers)
		munmap(sockets->buffers, sockets->memory_bytes);
	net_slots_destroy(&sockets->free_buffers);
	net_slots_destroy(&sockets->free_streams);
	free(sockets->unsent);
	free(sockets->streams);
	free(sockets);
}

/* The buffers are an address range: pages of those that are never needed are never there. */
static int create_memory(struct net_sockets *sockets)
{
	const size_t warm_bytes = (size_t)(sockets->streams_max < SEND_BUFFERS_WARM ? sockets->streams_max : SEND_BUFFERS_WARM) * SEND_BYTES;
	const size_t buffers_bytes = (size_t)sockets->streams_max * SEND_BYTES;
	void *memory;

	sockets->memory_bytes = buffers_bytes + RECEIVE_BYTES;
	memory = mmap(NULL, sockets->memory_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED)
		return -1;
	sockets->buffers = memory;
	sockets->received = sockets->buffers + buffers_bytes;
	memset(sockets->buffers, 0, warm_bytes);
	memset(sockets->received, 0, RECEIVE_BYTES);
	sockets->streams = calloc(sockets->streams_max + 1, sizeof(*sockets->streams));
	sockets->unsent = calloc(sockets->streams_max + 1, sizeof(*sockets->unsent));
	if (net_slots_create(&sockets->free_streams, sockets->streams_max) || net_slots_create(&sockets->free_buffers, sockets->streams_max))
		return -1;
	return sockets->streams && sockets->unsent ? 0 : -1;
}

static int create_epoll(struct net_sockets *sockets)
{
	sockets->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (sockets->epoll_fd < 0)
		return base_fail(errno, "sockets: epoll_create1: %s", strerror(errno));
	for (uint32_t i = 0; i < sockets->listener_count; i++)
		if (watch(sockets, EPOLL_CTL_ADD, sockets->listening[i].fd, EPOLLIN, i))
			return base_fail(errno, "sockets: epoll_ctl: %s", strerror(errno));
	return 0;
}

static int create_all(struct net_sockets *sockets, const struct net_port_options *options)
{
	int fds[NET_LISTENERS_MAX], rc = net_listen_all(sockets->listening, options);

	if (rc)
		return rc;
	sockets->listener_count = options->listener_count;
	for (uint32_t i = 0; i < sockets->listener_count; i++)
		fds[i] = sockets->listening[i].fd;
	if (create_memory(sockets))
		return base_fail(ENOMEM, "sockets: out of memory for %u streams", sockets->streams_max);
	rc = net_datagrams_create(&sockets->datagrams, fds, sockets->listener_count);
	return rc ? rc : create_epoll(sockets);
}

int net_sockets_create(struct net_port *port, const struct net_port_options *options)
{
	struct net_sockets *sockets = calloc(1, sizeof(*sockets));
	int rc;

	if (!sockets)
		return base_fail(ENOMEM, "sockets: out of memory");
	sockets->epoll_fd = -1;
	sockets->above = options->above;
	sockets->streams_max = options->streams_max;
	rc = create_all(sockets, options);
	if (rc) {
		sockets_destroy(sockets);
		return rc;
	}
	*port = (struct net_port){ .name = "sockets", .self = sockets, .poll = sockets_poll, .room = sockets_room, .put = sockets_put,
		.flush = sockets_flush, .close = sockets_close, .sleep_begin = sockets_sleep_begin,
		.wait_fd = sockets->epoll_fd, .counters = sockets_counters, .port_of = sockets_port_of, .destroy = sockets_destroy };
	return 0;
}
