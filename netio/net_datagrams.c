/*
 * Datagrams through plain calls. See net_datagrams.h.
 */
#include "netio/net_datagrams.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "base/base_arena.h"
#include "base/base_error.h"

enum {
	RECEIVED_MAX = 16,      /* by one call */
	SENT_MAX = 64,          /* put and not yet sent */
	DATAGRAM_BYTES = 16448, /* NET_ROOM_BYTES_MAX in whole cache lines */
};

_Static_assert(DATAGRAM_BYTES - (int)NET_ROOM_BYTES_MAX >= 0 && DATAGRAM_BYTES % 64 == 0, "a buffer takes the longest datagram");

/* Headers that the kernel reads and fills, and what they point at. */
struct vector {
	struct mmsghdr *headers;
	struct iovec *parts;
	unsigned char (*addresses)[NET_ADDRESS_BYTES];
	unsigned char *bytes;
};

struct net_datagrams {
	struct vector received, sending;
	uint32_t sending_first, sending_end; /* those that were put and not yet sent */
	uint8_t listeners[SENT_MAX];         /* of those */
	uint8_t wanted[NET_LISTENERS_MAX];   /* datagrams to ask for, by listener */
	int fds[NET_LISTENERS_MAX];
	struct base_region memory;
};

/* ---- receiving -------------------------------------------------------------------------------------------- */

static void tell(struct net_datagrams *datagrams, uint32_t i, struct net_way *way, const struct net_above *above,
	struct net_port_counters *counters)
{
	struct mmsghdr *header = &datagrams->received.headers[i];

	header->msg_hdr.msg_namelen = NET_ADDRESS_BYTES;
	if (header->msg_hdr.msg_flags & MSG_TRUNC) {
		net_port_count(&counters->received_cut, 1);
		return;
	}
	net_port_count(&counters->received, 1);
	net_port_count(&counters->received_bytes, header->msg_len);
	memcpy(way->address, datagrams->received.addresses[i], NET_ADDRESS_BYTES);
	above->datagram(above->context, way, datagrams->received.parts[i].iov_base, header->msg_len);
}

/* What recvmmsg does, for one datagram and quicker: a datagram and its answer take half a microsecond less this way. */
static int receive_one(struct net_datagrams *datagrams, int fd)
{
	struct mmsghdr *header = &datagrams->received.headers[0];
	/* Where it is cut, this flag makes the length tell. */
	const ssize_t bytes = recvfrom(fd, datagrams->received.bytes, NET_ROOM_BYTES_MAX, MSG_DONTWAIT | MSG_TRUNC,
		(struct sockaddr *)header->msg_hdr.msg_name, &header->msg_hdr.msg_namelen);

	header->msg_len = (unsigned)bytes;
	header->msg_hdr.msg_flags = bytes > NET_ROOM_BYTES_MAX ? MSG_TRUNC : 0;
	return bytes < 0 ? -1 : 1;
}

/* A call that asks for several and finds one looks into an empty queue at its end: so one is asked for until there are more. */
int net_datagrams_receive(struct net_datagrams *datagrams, uint32_t listener, const struct net_above *above,
	struct net_port_counters *counters)
{
	const uint8_t wanted = datagrams->wanted[listener];
	struct net_way way = { .listener = listener, .stream = NET_NO_STREAM };
	int count = wanted == 1 ? receive_one(datagrams, datagrams->fds[listener]) :
				  recvmmsg(datagrams->fds[listener], datagrams->received.headers, wanted, MSG_DONTWAIT, NULL);

	net_port_count(&counters->system_calls, 1);
	if (count <= 0) {
		datagrams->wanted[listener] = 1;
		return 0;
	}
	if (count == wanted)
		datagrams->wanted[listener] = wanted * 2 < RECEIVED_MAX ? (uint8_t)(wanted * 2) : RECEIVED_MAX;
	else
		datagrams->wanted[listener] = (uint8_t)count;
	for (uint32_t i = 0; i < (uint32_t)count; i++)
		tell(datagrams, i, &way, above, counters);
	return count;
}

/* ---- sending ---------------------------------------------------------------------------------------------- */

/* What sendmmsg does, for one datagram; see receive_one. */
static int send_one(struct net_datagrams *datagrams, int fd, uint32_t i)
{
	const struct iovec *part = &datagrams->sending.parts[i];
	const ssize_t bytes = sendto(fd, part->iov_base, part->iov_len, MSG_DONTWAIT | MSG_NOSIGNAL,
		(const struct sockaddr *)(const void *)datagrams->sending.addresses[i], NET_ADDRESS_BYTES);

	datagrams->sending.headers[i].msg_len = (unsigned)part->iov_len;
	return bytes < 0 ? -1 : 1;
}

/* Sends those from `first` on that go to the same socket. How many are done with; 0: none for now. */
static uint32_t send_run(struct net_datagrams *datagrams, struct net_port_counters *counters)
{
	const uint32_t first = datagrams->sending_first;
	const uint8_t listener = datagrams->listeners[first];
	struct mmsghdr *headers = &datagrams->sending.headers[first];
	uint32_t length = 1;
	int count;

	while (first + length < datagrams->sending_end && datagrams->listeners[first + length] == listener)
		length++;
	if (length == 1)
		count = send_one(datagrams, datagrams->fds[listener], first);
	else
		count = sendmmsg(datagrams->fds[listener], headers, length, MSG_DONTWAIT | MSG_NOSIGNAL);
	net_port_count(&counters->system_calls, 1);
	if (count < 0) {
		if (errno == EAGAIN || errno == EINTR)
			return 0;
		/* The first one cannot be sent: too long for the way, no route, forbidden. The next call tries the others. */
		net_port_count(&counters->send_dropped, 1);
		return 1;
	}
	net_port_count(&counters->sent, (uint32_t)count);
	for (int i = 0; i < count; i++)
		net_port_count(&counters->sent_bytes, headers[i].msg_len);
	return (uint32_t)count;
}

bool net_datagrams_flush(struct net_datagrams *datagrams, struct net_port_counters *counters)
{
	while (datagrams->sending_first < datagrams->sending_end) {
		const uint32_t done = send_run(datagrams, counters);

		if (done == 0)
			return false;
		datagrams->sending_first += done;
	}
	datagrams->sending_first = datagrams->sending_end = 0;
	return true;
}

unsigned char *net_datagrams_room(struct net_datagrams *datagrams, struct net_port_counters *counters)
{
	if (datagrams->sending_end == SENT_MAX && !net_datagrams_flush(datagrams, counters))
		return NULL;
	return datagrams->sending.parts[datagrams->sending_end].iov_base;
}

void net_datagrams_put(struct net_datagrams *datagrams, const struct net_way *way, size_t bytes)
{
	const uint32_t i = datagrams->sending_end;

	if (bytes == 0)
		return;
	datagrams->sending.parts[i].iov_len = bytes;
	memcpy(datagrams->sending.addresses[i], way->address, NET_ADDRESS_BYTES);
	datagrams->listeners[i] = (uint8_t)way->listener;
	datagrams->sending_end++;
}

/* ---- the whole of it -------------------------------------------------------------------------------------- */

static size_t vector_bytes(uint32_t count)
{
	return count * (sizeof(struct mmsghdr) + sizeof(struct iovec) + NET_ADDRESS_BYTES + DATAGRAM_BYTES) + 4 * 64;
}

static void take_vector(struct vector *vector, struct base_arena *arena, uint32_t count)
{
	vector->headers = base_arena_take(arena, count * sizeof(*vector->headers), 64);
	vector->parts = base_arena_take(arena, count * sizeof(*vector->parts), 64);
	vector->addresses = base_arena_take(arena, count * sizeof(*vector->addresses), 64);
	vector->bytes = base_arena_take(arena, (size_t)count * DATAGRAM_BYTES, 64);
	for (uint32_t i = 0; i < count; i++) {
		vector->parts[i] = (struct iovec){ vector->bytes + (size_t)i * DATAGRAM_BYTES, NET_ROOM_BYTES_MAX };
		vector->headers[i].msg_hdr = (struct msghdr){ .msg_name = vector->addresses[i], .msg_namelen = NET_ADDRESS_BYTES,
			.msg_iov = &vector->parts[i], .msg_iovlen = 1 };
	}
}

int net_datagrams_create(struct net_datagrams **out, const int *fds, uint32_t count)
{
	struct net_datagrams *datagrams = calloc(1, sizeof(*datagrams));
	struct base_arena arena;
	int rc;

	if (!datagrams)
		return base_fail(ENOMEM, "datagrams: out of memory");
	rc = base_region_create(&datagrams->memory, vector_bytes(RECEIVED_MAX) + vector_bytes(SENT_MAX), -1, true);
	if (rc) {
		free(datagrams);
		return rc;
	}
	base_arena_init(&arena, datagrams->memory.memory, datagrams->memory.size_bytes);
	take_vector(&datagrams->received, &arena, RECEIVED_MAX);
	take_vector(&datagrams->sending, &arena, SENT_MAX);
	memcpy(datagrams->fds, fds, count * sizeof(*fds));
	memset(datagrams->wanted, 1, sizeof(datagrams->wanted));
	*out = datagrams;
	return 0;
}

void net_datagrams_destroy(struct net_datagrams *datagrams)
{
	if (!datagrams)
		return;
	base_region_destroy(&datagrams->memory);
	free(datagrams);
}
