/*
 * The transport of io_uring: the ring, and what comes of it. See net_port.h and net_uring.h.
 *
 * Made by any thread, and switched on by the first poll, whose thread is the ring's owner from then on. Where the kernel lacks memory for
 * that, nobody is heard until it has some.
 *
 * Sleeping is one more call into the ring, which gives the kernel what is to be sent, does what work there is, and looks for completions
 * before it sleeps: nothing is lost. What else the thread waits for is a descriptor that the ring watches.
 *
 * Descriptors are plain ones. Fixed ones cost 60 ns less per send. But before Linux 6.13 the kernel does not free one while any older
 * request waits, and an idle stream's waits for days.
 *
 * Busy polling of network devices through the ring (IORING_REGISTER_NAPI) is not used: the kernel does it only in calls that wait, and
 * who is in a hurry does not sleep.
 */
#include "netio/net_uring.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/base_assert.h"
#include "base/base_clock.h"
#include "base/base_error.h"

enum {
	REQUESTS_MAX = 512,        /* not yet given to the kernel; more only cost a call in between */
	COMPLETIONS_MAX = 8192,    /* more than all buffers below and some sends; beyond it the kernel keeps them in memory of its own */
	STREAM_BUFFERS = 128,      /* powers of two */
	STREAM_BUFFER_BYTES = 16 * 1024,
	DATAGRAM_BUFFERS = 64,
	DATAGRAM_BUFFER_BYTES = 16512, /* a head, an address and the longest datagram, in whole cache lines */
	DATAGRAMS_SENT_MAX = 64,   /* put and not yet with the device */
	SEND_BUFFERS_WARM = 32,    /* touched at start: 1 MiB */
	ACCEPT_PAUSE_NS = 50000000,
	LOOK_NS = 10000000,
	POLLS_PER_CLOCK = 1024,    /* of those that do not sleep; a power of two */
};

_Static_assert(DATAGRAM_BUFFER_BYTES % 64 == 0 && DATAGRAM_BUFFER_BYTES - (int)NET_ROOM_BYTES_MAX - NET_ADDRESS_BYTES -
	(int)sizeof(struct io_uring_recvmsg_out) >= 0, "a buffer takes the longest datagram");
_Static_assert(NET_URING_SEND_BYTES - (int)NET_ROOM_BYTES_MAX >= 0, "a buffer takes the longest packet");

/* ---- the ring --------------------------------------------------------------------------------------------- */

void net_uring_enter(struct net_uring *uring)
{
	net_port_count(&uring->counters.system_calls, 1);
	(void)io_uring_submit_and_get_events(&uring->ring); /* what it did not take stays, and is given again by the next poll */
}

struct io_uring_sqe *net_uring_sqe(struct net_uring *uring)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&uring->ring);

	if (sqe)
		return sqe;
	net_uring_enter(uring);
	return io_uring_get_sqe(&uring->ring);
}

/* The kernel has work that it does only when called, or completions that did not fit. */
static bool wants_call(const struct net_uring *uring)
{
	return IO_URING_READ_ONCE(*uring->ring.sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW);
}

/* ---- listeners -------------------------------------------------------------------------------------------- */

/* Memory or descriptors are lacking: whoever wants in waits in the kernel's queue for a while. */
static void pause_accepting(struct net_uring *uring)
{
	net_port_count(&uring->counters.accept_paused, 1);
	uring->paused_until_ns = base_monotonic_ns() + ACCEPT_PAUSE_NS;
}

static bool is_paused(struct net_uring *uring)
{
	if (uring->paused_until_ns != 0 && base_monotonic_ns() >= uring->paused_until_ns)
		uring->paused_until_ns = 0;
	return uring->paused_until_ns != 0;
}

static bool arm(struct net_uring *uring, uint32_t listener)
{
	const bool is_stream = uring->listening[listener].kind != NET_PORT_UDP;
	struct io_uring_sqe *sqe;

	if (is_stream && uring->paused_until_ns != 0)
		return false;
	sqe = net_uring_sqe(uring);
	if (!sqe)
		return false;
	if (is_stream) {
		io_uring_prep_multishot_accept(sqe, uring->listening[listener].fd, NULL, NULL, SOCK_CLOEXEC);
	} else {
		io_uring_prep_recvmsg_multishot(sqe, uring->listening[listener].fd, &uring->datagram_header, 0);
		sqe->flags |= IOSQE_BUFFER_SELECT;
		sqe->buf_group = uring->datagram_buffers.group;
	}
	net_uring_mark(sqe, is_stream ? NET_URING_ACCEPT : NET_URING_RECEIVE_DATAGRAM, listener);
	return true;
}

static void arm_all(struct net_uring *uring)
{
	(void)is_paused(uring);
	for (uint32_t i = 0; i < uring->listener_count; i++)
		if (uring->unarmed & 1u << i && arm(uring, i))
			uring->unarmed &= ~(1u << i);
}

static void accepted(struct net_uring *uring, uint32_t listener, const struct io_uring_cqe *cqe)
{
	const int error = -cqe->res;

	if (!(cqe->flags & IORING_CQE_F_MORE))
		uring->unarmed |= 1u << listener;
	if (cqe->res >= 0) {
		net_uring_accept(uring, listener, cqe->res);
	} else if (error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM) {
		pause_accepting(uring);
	}
}

/* ---- polling ---------------------------------------------------------------------------------------------- */

static void complete(struct net_uring *uring, const struct io_uring_cqe *cqe)
{
	const uint32_t number = (uint32_t)(cqe->user_data >> 8);

	switch ((enum net_uring_what)(cqe->user_data & 0xff)) {
	case NET_URING_ACCEPT: accepted(uring, number, cqe); break;
	case NET_URING_RECEIVE: net_uring_received(uring, number, cqe); break;
	case NET_URING_SEND: net_uring_sent(uring, number, cqe->res); break;
	case NET_URING_CANCEL: net_uring_cancelled(uring, number); break;
	case NET_URING_RECEIVE_DATAGRAM: net_uring_datagram_received(uring, number, cqe); break;
	case NET_URING_SEND_DATAGRAM: net_uring_datagram_sent(uring, number, cqe->res); break;
	case NET_URING_WATCH: uring->is_watching = false; break;
	}
}

static int complete_all(struct net_uring *uring)
{
	struct io_uring_cqe *cqe;
	unsigned head, count = 0;

	io_uring_for_each_cqe(&uring->ring, head, cqe) {
		complete(uring, cqe);
		count++;
	}
	io_uring_cq_advance(&uring->ring, count);
	return (int)count;
}

/* False: not now. */
static bool enable(struct net_uring *uring)
{
	if (is_paused(uring))
		return false;
	/* io_uring_enable_rings is in liburing's header and, in version 2.3, not in its shared object. */
	if (syscall(SYS_io_uring_register, uring->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0)) {
		pause_accepting(uring);
		return false;
	}
	uring->is_enabled = true;
	arm_all(uring);
	return true;
}

static void look_if_due(struct net_uring *uring)
{
	const int64_t now_ns = base_monotonic_ns();

	uring->has_slept = false;
	if (now_ns - uring->look_ns < LOOK_NS)
		return;
	uring->look_ns = now_ns;
	net_uring_streams_look(uring);
}

static int uring_poll(void *self)
{
	struct net_uring *uring = self;
	int work;

	if (!uring->is_enabled && !enable(uring))
		return 0;
	if (++uring->polls % POLLS_PER_CLOCK == 0 || uring->has_slept)
		look_if_due(uring);
	if (uring->todo_count > 0)
		net_uring_streams_advance(uring);
	if (wants_call(uring) || io_uring_sq_ready(&uring->ring) > 0)
		net_uring_enter(uring);
	work = complete_all(uring);
	if (uring->unarmed)
		arm_all(uring);
	return work;
}

static unsigned char *uring_room(void *self, const struct net_way *way, size_t least, size_t *bytes)
{
	struct net_uring *uring = self;

	BASE_ASSERT(least <= NET_ROOM_BYTES_MAX);
	if (way->stream != NET_NO_STREAM)
		return net_uring_stream_room(uring, way->stream, least, bytes);
	*bytes = NET_ROOM_BYTES_MAX;
	return net_uring_datagram_room(uring);
}

static void uring_put(void *self, const struct net_way *way, size_t bytes)
{
	if (way->stream != NET_NO_STREAM)
		net_uring_stream_put(self, way->stream, bytes);
	else
		net_uring_datagram_put(self, way, bytes);
}

static void uring_flush(void *self)
{
	struct net_uring *uring = self;

	if (uring->todo_count > 0)
		net_uring_streams_advance(uring);
	if (io_uring_sq_ready(&uring->ring) > 0)
		net_uring_enter(uring);
}

static void uring_close(void *self, uint32_t stream)
{
	net_uring_stream_close(self, stream);
}

static bool uring_sleep_begin(void *self)
{
	struct net_uring *uring = self;

	if (!uring->is_enabled)
		return uring->paused_until_ns == 0; /* nobody has polled yet, or it was refused */
	if (uring->todo_count > 0)
		net_uring_streams_advance(uring);
	return uring->todo_count > 0 || (uring->unarmed && uring->paused_until_ns == 0) || wants_call(uring) ||
		io_uring_cq_ready(&uring->ring) > 0;
}

static bool watch(struct net_uring *uring, int fd)
{
	struct io_uring_sqe *sqe = net_uring_sqe(uring);

	if (!sqe)
		return false;
	io_uring_prep_poll_add(sqe, fd, POLLIN);
	net_uring_mark(sqe, NET_URING_WATCH, 0);
	uring->is_watching = true;
	return true;
}

static bool uring_sleep(void *self, int others, int ms)
{
	struct net_uring *uring = self;
	const int64_t ns = uring->paused_until_ns && ms * INT64_C(1000000) > ACCEPT_PAUSE_NS ? ACCEPT_PAUSE_NS : ms * INT64_C(1000000);
	struct __kernel_timespec time = { .tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000 };
	struct io_uring_cqe *cqe;
	struct pollfd other = { .fd = others, .events = POLLIN };
	bool others_too = false;
	unsigned head;

	if (!uring->is_enabled)
		return poll(&other, 1, (int)(ns / 1000000)) > 0;
	if (!uring->is_watching && !watch(uring, others))
		return false;
	net_port_count(&uring->counters.system_calls, 1);
	(void)io_uring_submit_and_wait_timeout(&uring->ring, &cqe, 1, &time, NULL);
	io_uring_for_each_cqe(&uring->ring, head, cqe)
		others_too |= (cqe->user_data & 0xff) == NET_URING_WATCH;
	uring->has_slept = true;
	return others_too;
}

static void uring_counters(const void *self, struct net_port_counters *counters)
{
	net_port_counters_copy(counters, &((const struct net_uring *)self)->counters);
}

static uint16_t uring_port_of(const void *self, uint32_t listener)
{
	return ((const struct net_uring *)self)->listening[listener].port;
}

/* ---- making and taking apart ------------------------------------------------------------------------------ */

/* Requests hold their sockets, and the kernel ends them only some time after the ring was closed: a port is free then. */
static void close_listeners(struct net_uring *uring)
{
	for (uint32_t i = 0; i < uring->listener_count; i++) {
		const struct net_listening was = uring->listening[i];

		net_listen_end(&uring->listening[i]);
		if (uring->is_enabled)
			net_listen_wait_free(&was);
	}
}

/* Takes apart what was made so far. */
static void uring_destroy(void *self)
{
	struct net_uring *uring = self;

	for (uint32_t i = 0; uring->streams && i < uring->streams_max; i++)
		if (uring->streams[i].state != NET_URING_FREE)
			close(uring->streams[i].fd);
	if (uring->has_ring)
		io_uring_queue_exit(&uring->ring);
	close_listeners(uring);
	if (uring->send_buffers)
		munmap(uring->send_buffers, uring->send_bytes);
	base_region_destroy(&uring->memory);
	net_slots_destroy(&uring->free_datagrams);
	net_slots_destroy(&uring->free_buffers);
	net_slots_destroy(&uring->free_streams);
	free(uring->todo);
	free(uring->streams);
	free(uring);
}

/* The buffers are an address range: pages of those that are never needed are never there. */
static int create_send_buffers(struct net_uring *uring)
{
	const uint32_t warm = uring->streams_max < SEND_BUFFERS_WARM ? uring->streams_max : SEND_BUFFERS_WARM;
	void *memory;

	uring->send_bytes = ((size_t)uring->streams_max + 1) * NET_URING_SEND_BYTES;
	memory = mmap(NULL, uring->send_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED)
		return -1;
	uring->send_buffers = memory;
	memset(memory, 0, (size_t)warm * NET_URING_SEND_BYTES);
	return 0;
}

static int create_memory(struct net_uring *uring)
{
	uring->streams = calloc((size_t)uring->streams_max + 1, sizeof(*uring->streams));
	uring->todo = calloc((size_t)uring->streams_max + 1, sizeof(*uring->todo));
	if (net_slots_create(&uring->free_streams, uring->streams_max) || net_slots_create(&uring->free_buffers, uring->streams_max) ||
		net_slots_create(&uring->free_datagrams, DATAGRAMS_SENT_MAX))
		return -1;
	return uring->streams && uring->todo ? create_send_buffers(uring) : -1;
}

/* What the kernel lacks, in words. */
static int fail_ring(int error)
{
	if (error == ENOSYS)
		return base_fail(ENOSYS, "io_uring: this kernel was built without it");
	if (error == EPERM || error == EACCES)
		return base_fail(EPERM, "io_uring: forbidden, by the sysctl kernel.io_uring_disabled or a filter of system calls");
	if (error == EINVAL)
		return base_fail(EOPNOTSUPP, "io_uring: this kernel has no IORING_SETUP_DEFER_TASKRUN; Linux 6.1 has it");
	return base_fail(error, "io_uring: io_uring_setup: %s", strerror(error));
}

static int check_requests(struct net_uring *uring)
{
	static const struct {
		int code;
		const char *name;
	} needed[] = { { IORING_OP_ACCEPT, "accept" }, { IORING_OP_RECV, "recv" }, { IORING_OP_RECVMSG, "recvmsg" }, { IORING_OP_SEND, "send" },
		{ IORING_OP_ASYNC_CANCEL, "cancel" }, { IORING_OP_SEND_ZC, "send_zc, which came together with repeating recv" } };
	struct io_uring_probe *probe = io_uring_get_probe_ring(&uring->ring);
	const char *lacking = probe ? NULL : "probe";

	for (size_t i = 0; probe && i < sizeof(needed) / sizeof(needed[0]); i++)
		if (!io_uring_opcode_supported(probe, needed[i].code))
			lacking = needed[i].name;
	if (probe)
		io_uring_free_probe(probe);
	return lacking ? base_fail(EOPNOTSUPP, "io_uring: this kernel has no %s", lacking) : 0;
}

static int create_ring(struct net_uring *uring)
{
	struct io_uring_params params = { .cq_entries = COMPLETIONS_MAX,
		.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_R_DISABLED |
			IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP };
	int rc = io_uring_queue_init_params(REQUESTS_MAX, &uring->ring, &params);

	if (rc)
		return fail_ring(-rc);
	uring->has_ring = true;
	return check_requests(uring);
}

static int create_buffers(struct net_uring *uring, struct net_uring_buffers *buffers, struct base_arena *arena)
{
	struct io_uring_buf_reg ring = { .ring_entries = buffers->count, .bgid = buffers->group };
	int rc;

	buffers->ring = base_arena_take(arena, buffers->count * sizeof(struct io_uring_buf), 4096);
	buffers->bytes = base_arena_take(arena, (size_t)buffers->count * buffers->each, 64);
	ring.ring_addr = (uintptr_t)buffers->ring;
	rc = io_uring_register_buf_ring(&uring->ring, &ring, 0);
	if (rc == -EINVAL)
		return base_fail(EOPNOTSUPP, "io_uring: this kernel has no rings of buffers");
	if (rc)
		return base_fail(-rc, "io_uring: registering buffers: %s", strerror(-rc));
	io_uring_buf_ring_init(buffers->ring);
	for (uint32_t i = 0; i < buffers->count; i++)
		io_uring_buf_ring_add(buffers->ring, buffers->bytes + (size_t)i * buffers->each, buffers->each, (unsigned short)i,
			(int)buffers->count - 1, (int)i);
	io_uring_buf_ring_advance(buffers->ring, (int)buffers->count);
	return 0;
}

static size_t buffers_bytes(const struct net_uring_buffers *buffers)
{
	return buffers->count * (sizeof(struct io_uring_buf) + buffers->each) + 4096 + 64;
}

static int create_all_buffers(struct net_uring *uring)
{
	struct base_arena arena;
	int rc;

	uring->stream_buffers = (struct net_uring_buffers){ .count = STREAM_BUFFERS, .each = STREAM_BUFFER_BYTES, .group = 0 };
	uring->datagram_buffers = (struct net_uring_buffers){ .count = DATAGRAM_BUFFERS, .each = DATAGRAM_BUFFER_BYTES, .group = 1 };
	uring->datagram_header = (struct msghdr){ .msg_namelen = NET_ADDRESS_BYTES };
	rc = base_region_create(&uring->memory, buffers_bytes(&uring->stream_buffers) + buffers_bytes(&uring->datagram_buffers) +
		DATAGRAMS_SENT_MAX * sizeof(*uring->datagrams) + 64, -1, true);
	if (rc)
		return rc;
	base_arena_init(&arena, uring->memory.memory, uring->memory.size_bytes);
	rc = create_buffers(uring, &uring->stream_buffers, &arena);
	if (rc == 0)
		rc = create_buffers(uring, &uring->datagram_buffers, &arena);
	uring->datagrams = base_arena_take(&arena, DATAGRAMS_SENT_MAX * sizeof(*uring->datagrams), 64);
	return rc;
}

/* The ring waits for its sockets itself, but not for those that are told not to wait. */
static int create_listeners(struct net_uring *uring, const struct net_port_options *options)
{
	int rc = net_listen_all(uring->listening, options);

	if (rc)
		return rc;
	uring->listener_count = options->listener_count;
	uring->unarmed = (1u << options->listener_count) - 1;
	for (uint32_t i = 0; i < uring->listener_count; i++)
		if (fcntl(uring->listening[i].fd, F_SETFL, O_RDWR))
			return base_fail(errno, "io_uring: fcntl: %s", strerror(errno));
	return 0;
}

static int create_all(struct net_uring *uring, const struct net_port_options *options)
{
	int rc = create_listeners(uring, options);

	if (rc == 0 && create_memory(uring))
		rc = base_fail(ENOMEM, "io_uring: out of memory for %u streams", uring->streams_max);
	if (rc == 0)
		rc = create_ring(uring);
	return rc ? rc : create_all_buffers(uring);
}

int net_uring_create(struct net_port *port, const struct net_port_options *options)
{
	struct net_uring *uring = calloc(1, sizeof(*uring));
	int rc;

	if (!uring)
		return base_fail(ENOMEM, "io_uring: out of memory");
	uring->above = options->above;
	uring->streams_max = options->streams_max;
	rc = create_all(uring, options);
	if (rc) {
		uring_destroy(uring);
		return rc;
	}
	*port = (struct net_port){ .name = "io_uring", .self = uring, .poll = uring_poll, .room = uring_room, .put = uring_put,
		.flush = uring_flush, .close = uring_close, .sleep_begin = uring_sleep_begin, .sleep = uring_sleep,
		.wait_fd = -1, .counters = uring_counters, .port_of = uring_port_of, .destroy = uring_destroy };
	return 0;
}
