/*
 * Chunks. See net_wire.h.
 */
#include "netio/net_wire.h"

#include <errno.h>
#include <string.h>

#include "base/base_bytes.h"

static uint32_t padded(uint32_t bytes)
{
	return (bytes + 7) / 8 * 8;
}

/* ---- reading ---------------------------------------------------------------------------------------------- */

/* Which flags a kind has; all others are refused, so that they can get a meaning later. */
static uint8_t flags_of(uint8_t kind)
{
	static const uint8_t flags[NET_KIND_END] = { [NET_ACK] = NET_ACK_PROBE, [NET_TAKEN] = NET_TAKEN_AGAIN, [NET_HAVE] = NET_HAVE_AGAIN };

	return flags[kind];
}

int net_chunk_next(struct net_reader *reader, struct net_chunk *chunk)
{
	const size_t left = (size_t)(reader->end - reader->at);
	const unsigned char *at = reader->at;

	if (left == 0)
		return 0;
	if (left < NET_CHUNK_BYTES)
		return -EPROTO;
	*chunk = (struct net_chunk){
		.kind = at[0], .flags = at[1], .bytes = base_load16(at + 2), .number = base_load32(at + 4), .content = at + NET_CHUNK_BYTES };
	if (chunk->kind == 0 || chunk->kind >= NET_KIND_END || chunk->flags & ~flags_of(chunk->kind) ||
			padded(chunk->bytes) > left - NET_CHUNK_BYTES)
		return -EPROTO;
	for (uint32_t i = chunk->bytes; i < padded(chunk->bytes); i++)
		if (chunk->content[i] != 0)
			return -EPROTO;
	reader->at = chunk->content + padded(chunk->bytes);
	return 1;
}

/* Where a record says how long its payload is. */
static uint32_t payload_of(const struct net_chunk *chunk)
{
	return base_load32(chunk->content + (chunk->kind == NET_REQUEST ? offsetof(struct attnd_request, in_bytes) :
		offsetof(struct attnd_completion, result_bytes)));
}

/* Whether it lies within the message, and is made of whole units but for the message's last one. */
static bool fits(const struct net_part *part)
{
	if (part->offset % NET_UNIT_BYTES != 0 || part->offset > part->message_bytes || part->bytes > part->message_bytes - part->offset)
		return false;
	return part->bytes % NET_UNIT_BYTES == 0 || part->offset + part->bytes == part->message_bytes;
}

int net_part_read(const struct net_chunk *chunk, struct net_part *part)
{
	const bool first = chunk->kind == NET_REQUEST || chunk->kind == NET_REPLY;
	const uint32_t before = first ? NET_RECORD_BYTES : NET_OFFSET_BYTES;

	if (chunk->bytes < before)
		return -EPROTO;
	*part = (struct net_part){
		.number = chunk->number,
		.record = first ? chunk->content : NULL,
		.message_bytes = first ? payload_of(chunk) : base_load32(chunk->content + 4),
		.offset = first ? 0 : base_load32(chunk->content),
		.bytes = chunk->bytes - before,
		.payload = chunk->content + before,
	};
	if (!first && (part->offset == 0 || part->bytes == 0))
		return -EPROTO;
	return fits(part) ? 0 : -EPROTO;
}

int net_come_read(const struct net_chunk *chunk, struct net_come *come)
{
	uint32_t words;

	if (chunk->bytes < 8)
		return -EPROTO;
	words = base_load32(chunk->content + 4);
	if (words > NET_BITMAP_WORDS_MAX || chunk->bytes != 8 + words * 8)
		return -EPROTO;
	*come = (struct net_come){ .number = chunk->number, .credits = base_load32(chunk->content), .words = words };
	for (uint32_t i = 0; i < words; i++)
		come->bitmap[i] = base_load64(chunk->content + 8 + (size_t)i * 8);
	return chunk->kind == NET_TAKEN && come->credits != 0 ? -EPROTO : 0;
}

int net_have_read(const struct net_chunk *chunk, struct net_have *have)
{
	uint32_t words;

	if (chunk->bytes < 8)
		return -EPROTO;
	words = base_load32(chunk->content + 4);
	if (words > NET_BITMAP_WORDS_MAX || chunk->bytes != 8 + words * 8)
		return -EPROTO;
	*have = (struct net_have){ .number = chunk->number, .first = base_load32(chunk->content), .words = words };
	for (uint32_t i = 0; i < words; i++)
		have->bitmap[i] = base_load64(chunk->content + 8 + (size_t)i * 8);
	return 0;
}

int net_times_read(const struct net_chunk *chunk, struct net_times *times)
{
	const bool pong = chunk->kind == NET_PONG;

	if (chunk->number != 0 || chunk->bytes != (pong ? 24 : 8))
		return -EPROTO;
	*times = (struct net_times){ .sender_ns = (int64_t)base_load64(chunk->content) };
	if (pong) {
		times->received_ns = (int64_t)base_load64(chunk->content + 8);
		times->sent_ns = (int64_t)base_load64(chunk->content + 16);
	}
	return 0;
}

/* ---- writing ---------------------------------------------------------------------------------------------- */

/* Begins a chunk of so much content, and returns where that goes; NULL: no room. Padding is zeroed. */
static unsigned char *begin(struct net_writer *writer, uint8_t kind, uint8_t flags, uint32_t number, uint32_t bytes)
{
	unsigned char *at = writer->at;

	if ((size_t)(writer->end - at) < NET_CHUNK_BYTES + padded(bytes))
		return NULL;
	at[0] = kind;
	at[1] = flags;
	at[2] = (unsigned char)bytes;
	at[3] = (unsigned char)(bytes >> 8);
	base_store32(at + 4, number);
	writer->at = at + NET_CHUNK_BYTES + padded(bytes);
	memset(at + NET_CHUNK_BYTES + bytes, 0, padded(bytes) - bytes);
	return at + NET_CHUNK_BYTES;
}

/* Of `left` bytes of payload as many as fit behind `before` bytes of content: all, or whole units. */
static uint32_t payload_fitting(const struct net_writer *writer, uint32_t before, uint32_t left)
{
	const size_t room = (size_t)(writer->end - writer->at);
	uint32_t most;

	if (room < NET_CHUNK_BYTES + before)
		return 0;
	most = (uint32_t)(room < NET_BODY_BYTES_MAX ? room : NET_BODY_BYTES_MAX) - NET_CHUNK_BYTES - before;
	return left <= most && padded(left) <= most ? left : most / NET_UNIT_BYTES * NET_UNIT_BYTES;
}

bool net_part_put(struct net_writer *writer, enum net_kind first_kind, uint32_t number, const void *record, const void *payload,
	uint32_t message_bytes, uint32_t offset, uint32_t *taken)
{
	const bool first = offset == 0;
	const uint32_t before = first ? NET_RECORD_BYTES : NET_OFFSET_BYTES;
	const uint32_t bytes = payload_fitting(writer, before, message_bytes - offset);
	unsigned char *to;

	if (bytes == 0 && message_bytes > offset)
		return false;
	to = begin(writer, (uint8_t)(first ? first_kind : first_kind + 1), 0, number, before + bytes);
	if (!to)
		return false;
	if (first) {
		memcpy(to, record, NET_RECORD_BYTES);
	} else {
		base_store32(to, offset);
		base_store32(to + 4, message_bytes);
	}
	if (bytes > 0)
		memcpy(to + before, (const unsigned char *)payload + offset, bytes);
	*taken = bytes;
	return true;
}

/* A number, another one, and a bitmap. */
static bool bitmap_put(struct net_writer *writer, enum net_kind kind, uint8_t flags, uint32_t number, uint32_t other, uint32_t words,
	const uint64_t *bitmap)
{
	unsigned char *to = begin(writer, (uint8_t)kind, flags, number, 8 + words * 8);

	if (!to)
		return false;
	base_store32(to, other);
	base_store32(to + 4, words);
	for (uint32_t i = 0; i < words; i++)
		base_store64(to + 8 + (size_t)i * 8, bitmap[i]);
	return true;
}

bool net_come_put(struct net_writer *writer, enum net_kind kind, uint8_t flags, const struct net_come *come)
{
	return bitmap_put(writer, kind, flags, come->number, come->credits, come->words, come->bitmap);
}

bool net_have_put(struct net_writer *writer, uint8_t flags, const struct net_have *have)
{
	return bitmap_put(writer, NET_HAVE, flags, have->number, have->first, have->words, have->bitmap);
}

bool net_times_put(struct net_writer *writer, enum net_kind kind, const struct net_times *times)
{
	unsigned char *to = begin(writer, (uint8_t)kind, 0, 0, kind == NET_PONG ? 24 : 8);

	if (!to)
		return false;
	base_store64(to, (uint64_t)times->sender_ns);
	if (kind == NET_PONG) {
		base_store64(to + 8, (uint64_t)times->received_ns);
		base_store64(to + 16, (uint64_t)times->sent_ns);
	}
	return true;
}

bool net_close_put(struct net_writer *writer, uint32_t why)
{
	return begin(writer, NET_CLOSE, 0, why, 0) != NULL;
}
