/*
 * A transport in memory. See net_fake_port.h.
 */
#include "tests/unit/net_fake_port.h"

#include <stdlib.h>
#include <string.h>

#include "base/base_assert.h"
#include "base/base_rand.h"

enum { TELL_OPENED, TELL_BYTES, TELL_GONE, TELL_WRITABLE, TELL_DATAGRAM };

/* ---- lists ------------------------------------------------------------------------------------------------ */

static struct fake_message *list_add(struct fake_list *list, int kind, const struct net_way *way, const void *bytes, size_t count)
{
	struct fake_message *message = malloc(sizeof(*message) + count);

	BASE_ASSERT(message);
	message->next = NULL;
	message->kind = kind;
	message->way = *way;
	message->bytes = count;
	if (count > 0)
		memcpy(message->data, bytes, count);
	*list->end = message;
	list->end = &message->next;
	return message;
}

/* Takes out what `at` points to. */
static void list_drop(struct fake_list *list, struct fake_message **at)
{
	struct fake_message *message = *at;

	*at = message->next;
	if (!*at)
		list->end = at;
	free(message);
}

static void list_clear(struct fake_list *list)
{
	while (list->first)
		list_drop(list, &list->first);
}

/* ---- what comes ------------------------------------------------------------------------------------------- */

struct net_way fake_way(uint32_t listener, uint32_t from)
{
	struct net_way way = { .listener = listener, .stream = NET_NO_STREAM };

	memcpy(way.address, &from, sizeof(from));
	return way;
}

void fake_connect(struct fake_port *fake, uint32_t listener, struct net_way *way)
{
	uint32_t stream = 0;

	while (stream < FAKE_STREAMS && fake->streams[stream].state != FAKE_FREE)
		stream++;
	BASE_ASSERT(stream < FAKE_STREAMS);
	*way = (struct net_way){ .listener = listener, .stream = stream };
	fake->streams[stream] = (struct fake_stream){ .state = FAKE_OPEN };
	fake->streams_end = stream < fake->streams_end ? fake->streams_end : stream + 1;
	list_add(&fake->coming, TELL_OPENED, way, NULL, 0);
}

void fake_come(struct fake_port *fake, const struct net_way *way, const void *bytes, size_t count)
{
	list_add(&fake->coming, way->stream == NET_NO_STREAM ? TELL_DATAGRAM : TELL_BYTES, way, bytes, count);
}

void fake_end(struct fake_port *fake, const struct net_way *way)
{
	list_add(&fake->coming, TELL_GONE, way, NULL, 0);
}

void fake_block(struct fake_port *fake, const struct net_way *way, bool blocked)
{
	struct fake_stream *stream = &fake->streams[way->stream];

	stream->blocked = blocked;
	if (!blocked && stream->wants_room)
		list_add(&fake->coming, TELL_WRITABLE, way, NULL, 0);
}

bool fake_is_closed(const struct fake_port *fake, const struct net_way *way)
{
	return fake->streams[way->stream].state != FAKE_OPEN;
}

/* ---- telling ---------------------------------------------------------------------------------------------- */

static void tell_bytes(struct fake_port *fake, struct fake_stream *stream, const struct fake_message *message)
{
	unsigned char *bytes = malloc(message->bytes + (message->bytes == 0));

	BASE_ASSERT(bytes);
	memcpy(bytes, message->data, message->bytes);
	if (!fake->above.received(fake->above.context, stream->name, bytes, message->bytes))
		stream->state = FAKE_CLOSED;
	free(bytes);
}

static void tell_stream(struct fake_port *fake, const struct fake_message *message)
{
	struct fake_stream *stream = &fake->streams[message->way.stream];

	if (stream->state == FAKE_CLOSED && message->kind == TELL_GONE) {
		free(stream->out);
		*stream = (struct fake_stream){ .state = FAKE_FREE };
	}
	if (stream->state != FAKE_OPEN)
		return;
	switch (message->kind) {
	case TELL_OPENED:
		stream->told = fake->above.opened(fake->above.context, &message->way, &stream->name);
		stream->state = stream->told ? FAKE_OPEN : FAKE_CLOSED;
		fake->refused += !stream->told;
		break;
	case TELL_BYTES: tell_bytes(fake, stream, message); break;
	case TELL_WRITABLE:
		stream->wants_room = false;
		fake->above.writable(fake->above.context, stream->name);
		break;
	case TELL_GONE:
		fake->above.gone(fake->above.context, stream->name);
		free(stream->out);
		*stream = (struct fake_stream){ .state = FAKE_FREE };
	}
}

static void tell_datagram(struct fake_port *fake, const struct fake_message *message)
{
	unsigned char *bytes = malloc(message->bytes + (message->bytes == 0));

	BASE_ASSERT(bytes);
	memcpy(bytes, message->data, message->bytes);
	fake->told_bytes = message->bytes;
	fake->answered = 0;
	fake->above.datagram(fake->above.context, &message->way, bytes, message->bytes);
	fake->told_bytes = 0;
	free(bytes);
}

static int fake_poll(void *self)
{
	struct fake_port *fake = self;
	int told = 0;

	while (fake->coming.first) {
		if (fake->coming.first->kind == TELL_DATAGRAM)
			tell_datagram(fake, fake->coming.first);
		else
			tell_stream(fake, fake->coming.first);
		list_drop(&fake->coming, &fake->coming.first);
		told++;
	}
	return told;
}

/* ---- what is sent ----------------------------------------------------------------------------------------- */

static bool has_room(struct fake_port *fake, const struct net_way *way)
{
	struct fake_stream *stream = way->stream == NET_NO_STREAM ? NULL : &fake->streams[way->stream];
	bool refused = fake->no_room || (stream && stream->blocked);

	if (!refused && fake->rooms_refused > 0) {
		fake->rooms_refused--;
		refused = true;
	}
	if (refused && stream && !stream->wants_room) {
		stream->wants_room = true;
		if (!stream->blocked)
			list_add(&fake->coming, TELL_WRITABLE, way, NULL, 0);
	}
	return !refused;
}

static unsigned char *fake_room(void *self, const struct net_way *way, size_t least, size_t *bytes)
{
	struct fake_port *fake = self;

	BASE_ASSERT(least > 0 && least <= NET_ROOM_BYTES_MAX);
	BASE_ASSERT(way->stream == NET_NO_STREAM || fake->streams[way->stream].state == FAKE_OPEN);
	if (!has_room(fake, way))
		return NULL;
	free(fake->room); /* asked for, and never put */
	*bytes = way->stream == NET_NO_STREAM || fake->room_bytes < least ? least : fake->room_bytes;
	fake->room = malloc(*bytes);
	fake->room_has = *bytes;
	BASE_ASSERT(fake->room);
	return fake->room;
}

/* Nobody is sent more than he sent who has not proved who he is. */
static void watch(struct fake_port *fake, const unsigned char *packet, size_t bytes)
{
	if (packet[0] == NET_DATA)
		return;
	fake->answered += bytes;
	fake->amplified += fake->answered > fake->told_bytes;
}

static void fake_put(void *self, const struct net_way *way, size_t bytes)
{
	struct fake_port *fake = self;

	BASE_ASSERT(fake->room && bytes <= fake->room_has);
	if (bytes > 0 && way->stream == NET_NO_STREAM) {
		watch(fake, fake->room, bytes);
		list_add(&fake->datagrams, TELL_DATAGRAM, way, fake->room, bytes);
		fake->datagram_count++;
	} else if (bytes > 0) {
		struct fake_stream *stream = &fake->streams[way->stream];

		BASE_ASSERT(stream->state == FAKE_OPEN);
		stream->out = realloc(stream->out, stream->out_bytes + bytes);
		BASE_ASSERT(stream->out);
		memcpy(stream->out + stream->out_bytes, fake->room, bytes);
		stream->out_bytes += bytes;
	}
	fake->puts += bytes > 0;
	free(fake->room);
	fake->room = NULL;
}

static void fake_flush(void *self)
{
	((struct fake_port *)self)->flushes++;
}

static void fake_close(void *self, uint32_t stream)
{
	struct fake_port *fake = self;

	BASE_ASSERT(fake->streams[stream].state == FAKE_OPEN && fake->streams[stream].told);
	fake->streams[stream].state = FAKE_CLOSED;
}

static bool fake_sleep_begin(void *self)
{
	return ((struct fake_port *)self)->coming.first != NULL;
}

/* ---- for the test ----------------------------------------------------------------------------------------- */

static size_t take_datagram(struct fake_port *fake, const struct net_way *way, unsigned char *packet)
{
	for (struct fake_message **at = &fake->datagrams.first; *at; at = &(*at)->next) {
		const size_t bytes = (*at)->bytes;

		if (memcmp(&(*at)->way, way, sizeof(*way)) != 0)
			continue;
		memcpy(packet, (*at)->data, bytes);
		list_drop(&fake->datagrams, at);
		fake->datagram_count--;
		return bytes;
	}
	return 0;
}

size_t fake_take(struct fake_port *fake, const struct net_way *way, unsigned char packet[NET_PACKET_BYTES_MAX])
{
	struct fake_stream *stream;
	struct net_packet_head head;
	size_t bytes;

	if (way->stream == NET_NO_STREAM)
		return take_datagram(fake, way, packet);
	stream = &fake->streams[way->stream];
	if (stream->out_bytes == 0)
		return 0;
	/* Only whole packets are put. */
	BASE_ASSERT(net_packet_stream_head(stream->out, stream->out_bytes, &head) == 1);
	bytes = NET_STREAM_HEAD_BYTES + head.body_bytes;
	BASE_ASSERT(bytes <= stream->out_bytes);
	memcpy(packet, stream->out, bytes);
	memmove(stream->out, stream->out + bytes, stream->out_bytes - bytes);
	stream->out_bytes -= bytes;
	return bytes;
}

/* Takes the datagrams out, but for those that are lost. */
static struct fake_message **take_out(struct fake_list *list, uint64_t *seed, uint32_t odds, uint32_t *count)
{
	struct fake_message **taken = malloc(sizeof(struct fake_message *)), **at = &list->first;

	*count = 0;
	while (*at) {
		struct fake_message *message = *at;

		if (message->kind != TELL_DATAGRAM) {
			at = &message->next;
		} else if (base_rand_below(seed, odds) == 0) {
			list_drop(list, at);
		} else {
			*at = message->next;
			taken = realloc(taken, (*count + 1) * sizeof(struct fake_message *));
			BASE_ASSERT(taken);
			taken[(*count)++] = message;
		}
	}
	list->end = at;
	return taken;
}

static void disturb_list(struct fake_list *list, uint64_t *seed, uint32_t odds)
{
	uint32_t count;
	struct fake_message **taken = take_out(list, seed, odds, &count);

	for (uint32_t i = count; i-- > 0;) {
		const uint32_t other = base_rand_below(seed, odds) == 0 ? (uint32_t)base_rand_below(seed, i + 1) : i;
		struct fake_message *message = taken[other];

		taken[other] = taken[i];
		taken[i] = message;
	}
	for (uint32_t i = 0; i < count; i++)
		for (uint64_t copies = base_rand_below(seed, odds) == 0 ? 2 : 1; copies > 0; copies--)
			list_add(list, TELL_DATAGRAM, &taken[i]->way, taken[i]->data, taken[i]->bytes);
	for (uint32_t i = 0; i < count; i++)
		free(taken[i]);
	free(taken);
}

void fake_disturb(struct fake_port *fake, uint64_t *seed, uint32_t odds)
{
	disturb_list(&fake->coming, seed, odds);
	disturb_list(&fake->datagrams, seed, odds);
}

void fake_take_all(struct fake_port *fake)
{
	list_clear(&fake->datagrams);
	fake->datagram_count = 0;
	for (uint32_t i = 0; i < fake->streams_end; i++)
		fake->streams[i].out_bytes = 0;
}

void fake_port_init(struct fake_port *fake)
{
	memset(fake, 0, sizeof(*fake));
	fake->coming.end = &fake->coming.first;
	fake->datagrams.end = &fake->datagrams.first;
	fake->port = (struct net_port){ .name = "fake",
		.self = fake,
		.poll = fake_poll,
		.room = fake_room,
		.put = fake_put,
		.flush = fake_flush,
		.close = fake_close,
		.sleep_begin = fake_sleep_begin,
		.wait_fd = -1 };
}

void fake_port_free(struct fake_port *fake)
{
	list_clear(&fake->coming);
	list_clear(&fake->datagrams);
	for (uint32_t i = 0; i < fake->streams_end; i++)
		free(fake->streams[i].out);
	free(fake->room);
}
