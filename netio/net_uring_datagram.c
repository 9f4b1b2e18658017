/*
 * Datagrams over io_uring. See net_uring.h.
 *
 * A socket is asked about once, and then gives a completion for each datagram, in a buffer that holds the source's address and the bytes.
 * What is sent lies in buffers of its own until its completion.
 */
#include "netio/net_uring.h"

#include <string.h>
#include <sys/socket.h>

void net_uring_datagram_received(struct net_uring *uring, uint32_t listener, const struct io_uring_cqe *cqe)
{
	struct net_way way = { .listener = listener, .stream = NET_NO_STREAM };
	const struct io_uring_recvmsg_out *out;
	unsigned char *bytes;

	if (!(cqe->flags & IORING_CQE_F_MORE))
		uring->unarmed |= 1u << listener;
	if (!(cqe->flags & IORING_CQE_F_BUFFER))
		return;
	bytes = net_uring_buffer(&uring->datagram_buffers, cqe);
	out = io_uring_recvmsg_validate(bytes, cqe->res, &uring->datagram_header);
	if (out && ((out->flags & MSG_TRUNC) || out->payloadlen > NET_ROOM_BYTES_MAX)) {
		net_port_count(&uring->counters.received_cut, 1);
	} else if (out) {
		memcpy(way.address, out + 1, out->namelen < NET_ADDRESS_BYTES ? out->namelen : NET_ADDRESS_BYTES);
		net_port_count(&uring->counters.received, 1);
		net_port_count(&uring->counters.received_bytes, out->payloadlen);
		uring->above.datagram(uring->above.context, &way, bytes + sizeof(*out) + NET_ADDRESS_BYTES, out->payloadlen);
	}
	net_uring_give(&uring->datagram_buffers, cqe);
}

void net_uring_datagram_sent(struct net_uring *uring, uint32_t number, int result)
{
	if (result >= 0) {
		net_port_count(&uring->counters.sent, 1);
		net_port_count(&uring->counters.sent_bytes, (uint64_t)result);
	} else {
		net_port_count(&uring->counters.send_dropped, 1);
	}
	net_slots_give(&uring->free_datagrams, number);
}

unsigned char *net_uring_datagram_room(struct net_uring *uring)
{
	const struct net_slots *slots = &uring->free_datagrams;

	return slots->count > 0 ? uring->datagrams[slots->numbers[slots->count - 1]].bytes : NULL;
}

void net_uring_datagram_put(struct net_uring *uring, const struct net_way *way, size_t bytes)
{
	struct net_uring_datagram *datagram;
	struct io_uring_sqe *sqe;
	uint32_t number;

	if (bytes == 0 || !net_slots_take(&uring->free_datagrams, &number))
		return;
	datagram = &uring->datagrams[number];
	sqe = net_uring_sqe(uring);
	if (!sqe) {
		net_port_count(&uring->counters.send_dropped, 1);
		net_slots_give(&uring->free_datagrams, number);
		return;
	}
	memcpy(datagram->address, way->address, NET_ADDRESS_BYTES);
	io_uring_prep_send(sqe, uring->listening[way->listener].fd, datagram->bytes, bytes, MSG_NOSIGNAL);
	io_uring_prep_send_set_addr(sqe, (const struct sockaddr *)(const void *)datagram->address, NET_ADDRESS_BYTES);
	net_uring_mark(sqe, NET_URING_SEND_DATAGRAM, number);
}
