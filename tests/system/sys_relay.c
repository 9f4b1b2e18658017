/*
 * See sys_relay.h.
 *
 * The thread sleeps until something comes or is due. What is under way lies in a heap by the time at which it is due, and among equals in
 * the order in which it came, so that nothing is overtaken but by chance of the seed.
 */
#include "tests/system/sys_relay.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base_rand.h"
#include "tests/system/sys_net.h"

enum {
	PACKET_BYTES = 1 << 16,
	QUEUE = 16384,          /* packets under way; more are lost */
	GUESTS = 64,            /* clients of datagrams; a new one takes the place of the oldest */
	ENDS = 1 + GUESTS,
	BURST = 64,             /* packets taken from one end before it is looked at the others */
	BUFFER_BYTES = 4 << 20,
	LOOK_MS = 20,           /* whether it is to stop */
};

struct packet {
	int64_t at_ns;
	uint64_t turn;
	int fd;                    /* where it leaves */
	struct sockaddr_in to;     /* family 0: fd knows */
	uint32_t bytes;
	unsigned char data[];
};

struct sys_relay {
	pthread_t thread;
	_Atomic bool stop;
	pthread_mutex_t lock;      /* faults, seed, counts */
	struct sys_faults faults;
	struct sys_relay_counts counts;
	uint64_t seed;
	int64_t set_ns;
	bool is_tunnel;
	int ends[ENDS];            /* tunnels: two; datagrams: whom clients know, then one per client towards the daemon. -1: none */
	struct sockaddr_in guests[ENDS], daemon;
	unsigned end_count, next_guest;
	struct packet *heap[QUEUE];
	uint32_t heap_count;
	uint64_t turn;
	unsigned char in[PACKET_BYTES];
};

/* ---- what is under way ------------------------------------------------------------------------------------ */

static bool is_before(const struct packet *one, const struct packet *other)
{
	return one->at_ns != other->at_ns ? one->at_ns < other->at_ns : one->turn < other->turn;
}

static void heap_put(struct sys_relay *relay, struct packet *packet)
{
	uint32_t at = relay->heap_count++;

	for (; at > 0 && is_before(packet, relay->heap[(at - 1) / 2]); at = (at - 1) / 2)
		relay->heap[at] = relay->heap[(at - 1) / 2];
	relay->heap[at] = packet;
}

static struct packet *heap_take(struct sys_relay *relay)
{
	struct packet *first = relay->heap[0], *last = relay->heap[--relay->heap_count];
	uint32_t at = 0, child;

	while ((child = 2 * at + 1) < relay->heap_count) {
		child += child + 1 < relay->heap_count && is_before(relay->heap[child + 1], relay->heap[child]);
		if (is_before(last, relay->heap[child]))
			break;
		relay->heap[at] = relay->heap[child];
		at = child;
	}
	relay->heap[at] = last;
	return first;
}

static void send_due(struct sys_relay *relay)
{
	const int64_t now_ns = sys_now_ns();

	while (relay->heap_count > 0 && relay->heap[0]->at_ns <= now_ns) {
		struct packet *packet = heap_take(relay);
		ssize_t sent;

		/* What cannot be sent is lost, as it would be elsewhere. */
		if (packet->to.sin_family)
			sent = sendto(packet->fd, packet->data, packet->bytes, MSG_DONTWAIT, (struct sockaddr *)&packet->to, sizeof(packet->to));
		else
			sent = write(packet->fd, packet->data, packet->bytes);
		(void)sent;
		free(packet);
	}
}

/* ---- faults ----------------------------------------------------------------------------------------------- */

static bool happens(struct sys_relay *relay, uint32_t in_thousand)
{
	return base_rand_below(&relay->seed, 1000) < in_thousand;
}

static void put(struct sys_relay *relay, uint32_t bytes, int fd, const struct sockaddr_in *to)
{
	const bool is_late = happens(relay, relay->faults.late);
	struct packet *packet;

	if (relay->heap_count == QUEUE) {
		relay->counts.overflowed++;
		return;
	}
	packet = malloc(sizeof(*packet) + bytes);
	assert_non_null(packet);
	*packet = (struct packet){ .at_ns = sys_now_ns() + relay->faults.delay_ns, .turn = relay->turn++, .fd = fd, .bytes = bytes };
	if (to)
		packet->to = *to;
	memcpy(packet->data, relay->in, bytes);
	if (is_late)
		packet->at_ns += (int64_t)base_rand_below(&relay->seed, (uint64_t)relay->faults.late_ns + 1);
	relay->counts.late += is_late;
	heap_put(relay, packet);
}

/* One bit; of an IP packet behind its first twenty bytes, so that it still arrives where it is to be looked at. */
static void change(struct sys_relay *relay, uint32_t bytes)
{
	const uint32_t from = relay->is_tunnel ? 20 : 0;

	if (bytes > from)
		relay->in[from + base_rand_below(&relay->seed, bytes - from)] ^= (unsigned char)(1u << base_rand_below(&relay->seed, 8));
}

static bool is_dark(const struct sys_relay *relay)
{
	const int64_t since_ns = sys_now_ns() - relay->set_ns - relay->faults.dark_from_ns;

	return since_ns >= 0 && since_ns < relay->faults.dark_ns;
}

/* What has come is in relay->in. */
static void carry(struct sys_relay *relay, uint32_t bytes, int fd, const struct sockaddr_in *to)
{
	bool is_lost, is_changed;

	pthread_mutex_lock(&relay->lock);
	is_lost = happens(relay, relay->faults.lost) || is_dark(relay) || (relay->faults.longest && bytes > relay->faults.longest);
	is_changed = happens(relay, relay->faults.changed);
	relay->counts.packets++;
	relay->counts.lost += is_lost;
	relay->counts.changed += !is_lost && is_changed;
	if (is_changed)
		change(relay, bytes);
	if (!is_lost && !(is_changed && relay->faults.drops_changed)) {
		put(relay, bytes, fd, to);
		if (happens(relay, relay->faults.doubled)) {
			relay->counts.doubled++;
			put(relay, bytes, fd, to);
		}
	}
	pthread_mutex_unlock(&relay->lock);
}

/* ---- ends ------------------------------------------------------------------------------------------------- */

static void enlarge(int fd)
{
	static const int bytes = BUFFER_BYTES;

	/* As far as it is allowed. */
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes)))
		(void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
	if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes)))
		(void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
}

static int datagram_socket(void)
{
	const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	enlarge(fd);
	return fd;
}

/* The end towards the daemon that speaks for a client. */
static int end_of_guest(struct sys_relay *relay, const struct sockaddr_in *guest)
{
	unsigned at;

	for (at = 1; at < relay->end_count; at++)
		if (relay->guests[at].sin_port == guest->sin_port && relay->guests[at].sin_addr.s_addr == guest->sin_addr.s_addr)
			return relay->ends[at];
	at = 1 + relay->next_guest++ % GUESTS;
	if (at < relay->end_count)
		close(relay->ends[at]);
	else
		relay->end_count = at + 1;
	relay->guests[at] = *guest;
	relay->ends[at] = datagram_socket();
	assert_int_equal(connect(relay->ends[at], (struct sockaddr *)&relay->daemon, sizeof(relay->daemon)), 0);
	return relay->ends[at];
}

/* One packet. false: there is none. */
static bool take_from(struct sys_relay *relay, unsigned end)
{
	struct sockaddr_in from = { .sin_family = 0 };
	socklen_t from_bytes = sizeof(from);
	ssize_t bytes;

	if (relay->is_tunnel) {
		bytes = read(relay->ends[end], relay->in, sizeof(relay->in));
		if (bytes > 0)
			carry(relay, (uint32_t)bytes, relay->ends[1 - end], NULL);
		return bytes > 0;
	}
	bytes = recvfrom(relay->ends[end], relay->in, sizeof(relay->in), MSG_DONTWAIT, (struct sockaddr *)&from, &from_bytes);
	if (bytes < 0)
		return errno == ECONNREFUSED; /* of an earlier one: the daemon is gone */
	if (end == 0)
		carry(relay, (uint32_t)bytes, end_of_guest(relay, &from), NULL);
	else
		carry(relay, (uint32_t)bytes, relay->ends[0], &relay->guests[end]);
	return true;
}

static void sleep_until_due(struct sys_relay *relay, struct pollfd *ends)
{
	int64_t wait_ns = LOOK_MS * INT64_C(1000000);
	struct timespec timeout = { .tv_sec = 0 };

	if (relay->heap_count > 0 && relay->heap[0]->at_ns - sys_now_ns() < wait_ns)
		wait_ns = relay->heap[0]->at_ns - sys_now_ns();
	timeout.tv_nsec = wait_ns > 0 ? wait_ns : 0;
	for (unsigned i = 0; i < relay->end_count; i++)
		ends[i] = (struct pollfd){ .fd = relay->ends[i], .events = POLLIN };
	(void)ppoll(ends, relay->end_count, &timeout, NULL);
}

static void *run(void *argument)
{
	struct sys_relay *relay = argument;
	struct pollfd ends[ENDS];

	while (!relay->stop) {
		const unsigned count = relay->end_count; /* those that come meanwhile are looked at next time */

		sleep_until_due(relay, ends);
		for (unsigned i = 0; i < count; i++)
			for (unsigned burst = 0; ends[i].revents && burst < BURST && take_from(relay, i); burst++)
				;
		send_due(relay);
	}
	return NULL;
}

/* ---- life ------------------------------------------------------------------------------------------------- */

static struct sys_relay *start(struct sys_relay *relay)
{
	pthread_mutex_init(&relay->lock, NULL);
	assert_int_equal(pthread_create(&relay->thread, NULL, run, relay), 0);
	return relay;
}

struct sys_relay *sys_relay_datagrams(const char *host, int port)
{
	struct sys_relay *relay = calloc(1, sizeof(*relay));
	struct sockaddr_in here = { .sin_family = AF_INET };

	assert_non_null(relay);
	assert_int_equal(inet_pton(AF_INET, host, &here.sin_addr), 1);
	relay->daemon = here;
	relay->daemon.sin_port = htons((uint16_t)port);
	relay->ends[0] = datagram_socket();
	relay->end_count = 1;
	assert_int_equal(bind(relay->ends[0], (struct sockaddr *)&here, sizeof(here)), 0);
	return start(relay);
}

struct sys_relay *sys_relay_tunnels(int one_fd, int other_fd)
{
	struct sys_relay *relay = calloc(1, sizeof(*relay));

	assert_non_null(relay);
	relay->is_tunnel = true;
	relay->ends[0] = one_fd;
	relay->ends[1] = other_fd;
	relay->end_count = 2;
	return start(relay);
}

int sys_relay_port(const struct sys_relay *relay)
{
	struct sockaddr_in here;
	socklen_t bytes = sizeof(here);

	assert_int_equal(getsockname(relay->ends[0], (struct sockaddr *)&here, &bytes), 0);
	return ntohs(here.sin_port);
}

void sys_relay_set(struct sys_relay *relay, const struct sys_faults *faults, uint64_t seed)
{
	pthread_mutex_lock(&relay->lock);
	relay->faults = *faults;
	relay->counts = (struct sys_relay_counts){ .packets = 0 };
	relay->seed = seed;
	relay->set_ns = sys_now_ns();
	pthread_mutex_unlock(&relay->lock);
}

struct sys_relay_counts sys_relay_counts(struct sys_relay *relay)
{
	struct sys_relay_counts counts;

	pthread_mutex_lock(&relay->lock);
	counts = relay->counts;
	pthread_mutex_unlock(&relay->lock);
	return counts;
}

void sys_relay_stop(struct sys_relay *relay)
{
	if (!relay)
		return;
	relay->stop = true;
	pthread_join(relay->thread, NULL);
	while (relay->heap_count > 0)
		free(heap_take(relay));
	for (unsigned i = 0; i < relay->end_count && !relay->is_tunnel; i++)
		close(relay->ends[i]);
	pthread_mutex_destroy(&relay->lock);
	free(relay);
}
