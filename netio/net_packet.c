/*
 * Packets. See net_packet.h.
 */
#include "netio/net_packet.h"

#include <errno.h>
#include <string.h>

#include "base/base_bytes.h"

enum { KIND_SHIFT = 24, LENGTH_MASK = (1 << KIND_SHIFT) - 1, SEALED_BYTES_MAX = NET_BODY_BYTES_MAX + NET_TAG_BYTES };

static bool is_kind(uint8_t kind)
{
	return kind > 0 && kind < NET_PACKET_KIND_END;
}

size_t net_packet_head_bytes(bool datagram)
{
	return datagram ? NET_DATAGRAM_HEAD_BYTES : NET_STREAM_HEAD_BYTES;
}

/* ---- heads ------------------------------------------------------------------------------------------------ */

int net_packet_stream_head(const unsigned char *bytes, size_t count, struct net_packet_head *head)
{
	uint32_t word;

	if (count < NET_STREAM_HEAD_BYTES)
		return 0;
	word = base_load32(bytes);
	*head = (struct net_packet_head){ .kind = (uint8_t)(word >> KIND_SHIFT), .body_bytes = word & LENGTH_MASK };
	if (!is_kind(head->kind))
		return -EPROTO;
	return head->body_bytes <= SEALED_BYTES_MAX ? 1 : -EMSGSIZE;
}

/* Only DATA has a number, and whoever has no name yet says 0. */
static bool has_zeros(const struct net_packet_head *head)
{
	return head->kind == NET_DATA || (head->number == 0 && (head->kind == NET_WELCOME || head->name == 0));
}

int net_packet_datagram_head(const unsigned char *bytes, size_t count, struct net_packet_head *head)
{
	if (count < NET_DATAGRAM_HEAD_BYTES || count > NET_PACKET_BYTES_MAX)
		return -EPROTO;
	*head = (struct net_packet_head){ .kind = bytes[0],
		.body_bytes = (uint32_t)(count - NET_DATAGRAM_HEAD_BYTES),
		.name = base_load64(bytes + 8),
		.number = base_load64(bytes + 16) };
	/* The kind's byte and zeros. */
	return is_kind(head->kind) && base_load64(bytes) == head->kind && has_zeros(head) ? 0 : -EPROTO;
}

static void put_head(unsigned char *packet, bool datagram, enum net_packet_kind kind, uint64_t name, uint64_t number, size_t body_bytes)
{
	if (!datagram) {
		base_store32(packet, (uint32_t)kind << KIND_SHIFT | (uint32_t)body_bytes);
		return;
	}
	base_store64(packet, kind);
	base_store64(packet + 8, name);
	base_store64(packet + 16, number);
}

size_t net_packet_clear(unsigned char *packet, bool datagram, enum net_packet_kind kind, uint64_t name, size_t body_bytes)
{
	put_head(packet, datagram, kind, name, 0, body_bytes);
	return net_packet_head_bytes(datagram) + body_bytes;
}

/* ---- DATA ------------------------------------------------------------------------------------------------- */

static size_t tag_bytes(const struct net_packets *packets)
{
	return packets->plain ? 0 : NET_TAG_BYTES;
}

void net_packet_begin(const struct net_packets *packets, unsigned char *packet, size_t bytes, struct net_writer *body)
{
	const size_t around = net_packet_head_bytes(packets->datagram) + tag_bytes(packets), room = bytes - around;

	body->at = packet + net_packet_head_bytes(packets->datagram);
	body->end = body->at + (room < NET_BODY_BYTES_MAX ? room : NET_BODY_BYTES_MAX);
}

size_t net_packet_end(struct net_packets *packets, unsigned char *packet, const struct net_writer *body)
{
	const size_t head_bytes = net_packet_head_bytes(packets->datagram);
	const size_t bytes = (size_t)(body->at - packet) - head_bytes, sealed_bytes = bytes + tag_bytes(packets);
	const uint64_t number = packets->sent++;

	put_head(packet, packets->datagram, NET_DATA, packets->name, number, sealed_bytes);
	if (!packets->plain)
		net_seal(&packets->send, number, packet, head_bytes, packet + head_bytes, bytes);
	return head_bytes + sealed_bytes;
}

int net_packet_open(struct net_packets *packets, unsigned char *packet, const struct net_packet_head *head, struct net_reader *body)
{
	const size_t head_bytes = net_packet_head_bytes(packets->datagram);
	const uint64_t number = packets->datagram ? head->number : packets->received;
	/* Who may say anything may also say it twice: what is plain is not looked after here, but number by number of its messages. */
	const bool is_guarded = packets->datagram && !packets->plain;
	unsigned char *at = packet + head_bytes;
	int bytes = (int)head->body_bytes;

	if (is_guarded && !net_replay_is_new(&packets->replay, number))
		return -EALREADY;
	if (!packets->plain)
		bytes = net_open(&packets->receive, number, packet, head_bytes, at, head->body_bytes);
	if (bytes < 0 || bytes > NET_BODY_BYTES_MAX)
		return -EBADMSG;
	if (is_guarded)
		net_replay_note(&packets->replay, number);
	packets->received++;
	*body = (struct net_reader){ at, at + bytes };
	return 0;
}
