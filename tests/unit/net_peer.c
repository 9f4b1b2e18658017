/*
 * A daemon of one connection. See net_peer.h.
 */
#include "tests/unit/net_peer.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base_rand.h"

static void *take(void *context, uint32_t bytes)
{
	(void)context;
	return malloc(bytes);
}

static void give(void *context, void *block)
{
	(void)context;
	free(block);
}

static const struct net_blocks blocks = { NULL, take, give };

static void draw(struct net_peer *peer, unsigned char *to, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		to[i] = (unsigned char)base_rand_next(&peer->seed);
}

/* ---- answers ------------------------------------------------------------------------------------------------ */

static void reply(struct net_peer *peer, const struct attnd_request *request, uint8_t status, bool final, uint32_t sequence, uint64_t value,
	const void *result, uint32_t bytes)
{
	const struct attnd_completion completion = { .request_id = request->request_id, .status = status, .flags = final ? ATTND_CPL_FINAL : 0,
		.sequence = sequence, .result_bytes = bytes, .value = value, .done_ns = peer->now_ns + peer->offset_ns };
	void *block = NULL;

	if (bytes > 0) {
		block = malloc(bytes);
		memcpy(block, result, bytes);
	}
	(void)net_outbox_add(peer->outbox, &completion, block, bytes);
}

static void drop_held(struct net_peer *peer, uint32_t which)
{
	peer->held_count--;
	peer->held[which] = peer->held[peer->held_count];
	peer->held_done[which] = peer->held_done[peer->held_count];
}

void net_peer_finish(struct net_peer *peer, uint32_t which)
{
	reply(peer, &peer->held[which], ATTND_OK, true, 0, 77, NULL, 0);
	drop_held(peer, which);
}

static void cancel(struct net_peer *peer, const struct attnd_request *request)
{
	for (uint32_t i = 0; i < peer->held_count; i++)
		if (peer->held[i].request_id == request->args) {
			reply(peer, &peer->held[i], ATTND_CANCELLED, true, peer->held_done[i], 0, NULL, 0);
			drop_held(peer, i);
			reply(peer, request, ATTND_OK, true, 0, 1, NULL, 0);
			return;
		}
	reply(peer, request, ATTND_OK, true, 0, 0, NULL, 0);
}

static void describe(struct net_peer *peer, const struct attnd_request *request)
{
	unsigned char *result = malloc(request->argument + 1u);

	for (uint32_t i = 0; i < request->argument; i++)
		result[i] = (unsigned char)(i * 7 + request->session);
	reply(peer, request, ATTND_OK, true, 0, 0, result, request->argument);
	free(result);
}

static void finish_generate(struct net_peer *peer, uint32_t which)
{
	const struct attnd_request *request = &peer->held[which];
	const uint32_t room = request->out_capacity / 4, count = request->argument < room ? request->argument : room;
	uint32_t *ids = malloc((count + 1) * sizeof(*ids));

	for (uint32_t i = 0; i < count; i++)
		ids[i] = (uint32_t)request->session + i;
	reply(peer, request, ATTND_OK, true, request->argument, ATTND_STOP_LENGTH, ids, count * 4);
	free(ids);
	drop_held(peer, which);
}

/* Tokens of all streams, in turns, as far as there are credits and room in the window. */
static void stream(struct net_peer *peer)
{
	for (uint32_t i = 0; i < peer->held_count; i++) {
		const struct attnd_request *request = &peer->held[i];

		while (request->op == ATTND_OP_GENERATE && peer->held_done[i] < request->argument &&
				peer->streamed - peer->credits < peer->stream_credits && net_outbox_room(peer->outbox, 0)) {
			const uint32_t sequence = peer->held_done[i]++;

			peer->streamed++;
			reply(peer, request, ATTND_OK, false, sequence, request->session + sequence, NULL, 0);
		}
		if (request->op == ATTND_OP_GENERATE && peer->held_done[i] == request->argument && net_outbox_room(peer->outbox, 0)) {
			finish_generate(peer, i);
			i--;
		}
	}
}

static void execute(struct net_peer *peer, const struct net_inbox_message *message)
{
	struct attnd_request request;

	memcpy(&request, message->record, sizeof(request));
	peer->executed++;
	assert_int_equal(request.version, ATTND_VERSION);
	assert_int_equal(request.in_offset, 0);
	assert_int_equal(request.out_offset, 0);
	assert_int_equal(request.lap, 0);
	if (request.op == ATTND_OP_GENERATE || request.op == ATTND_OP_STEP) {
		assert_true(peer->held_count < PEER_HELD_MAX);
		peer->held_done[peer->held_count] = 0;
		peer->held[peer->held_count++] = request;
	} else if (request.op == ATTND_OP_CANCEL) {
		cancel(peer, &request);
	} else if (request.op == ATTND_OP_DESCRIBE) {
		describe(peer, &request);
	} else {
		const uint32_t bytes = message->bytes < request.out_capacity ? message->bytes : request.out_capacity;

		reply(peer, &request, ATTND_OK, true, 0, request.args, message->payload, bytes);
	}
	if (message->payload)
		free(message->payload);
}

/* Requests that are whole, while there is room for what they may bring. */
static void take_requests(struct net_peer *peer)
{
	struct net_inbox_message message;

	/* A CANCEL brings two replies. */
	while (net_outbox_kept(peer->outbox) + 2 <= peer->window && net_outbox_room(peer->outbox, peer->message_bytes) &&
			net_inbox_next(peer->inbox, &message))
		execute(peer, &message);
	stream(peer);
}

/* ---- chunks ------------------------------------------------------------------------------------------------- */

static int read_part(struct net_peer *peer, const struct net_chunk *chunk)
{
	struct net_part part;
	int fate = net_part_read(chunk, &part);

	if (fate == 0)
		fate = net_inbox_part(peer->inbox, &part);
	peer->repeated += fate == NET_PART_AGAIN;
	peer->taken_due = peer->have_due = true;
	return fate < 0 ? fate : 0;
}

static int read_ack(struct net_peer *peer, const struct net_chunk *chunk)
{
	struct net_come come;

	if (net_come_read(chunk, &come) != 0 || net_outbox_come(peer->outbox, &come) != 0 || come.credits > peer->streamed)
		return -EPROTO;
	if (come.credits > peer->credits)
		peer->credits = come.credits;
	peer->acks++;
	if (chunk->flags & NET_ACK_PROBE) {
		peer->probes++;
		peer->taken_due = peer->have_due = true;
		net_outbox_resend(peer->outbox);
	}
	return 0;
}

static int read_have(struct net_peer *peer, const struct net_chunk *chunk)
{
	struct net_have have;

	if (!peer->says_have || net_have_read(chunk, &have) != 0 || net_outbox_have(peer->outbox, &have) < 0)
		return -EPROTO;
	peer->haves++;
	if (chunk->flags & NET_HAVE_AGAIN) {
		peer->holes++;
		net_outbox_again(peer->outbox, have.number);
	}
	return 0;
}

static int read_chunk(struct net_peer *peer, const struct net_chunk *chunk)
{
	switch (chunk->kind) {
	case NET_REQUEST:
	case NET_REQUEST_MORE:
		return read_part(peer, chunk);
	case NET_ACK:
		return read_ack(peer, chunk);
	case NET_HAVE:
		return read_have(peer, chunk);
	case NET_PING:
		peer->pong_due = true;
		if (net_times_read(chunk, &peer->pong) != 0)
			return -EPROTO;
		peer->pong.received_ns = peer->now_ns + peer->offset_ns;
		return 0;
	case NET_CLOSE:
		peer->closes++;
		peer->close_why = chunk->number;
		return 0;
	default:
		return chunk->kind == NET_PONG ? 0 : -EPROTO;
	}
}

static void read_data(struct net_peer *peer, unsigned char *packet, const struct net_packet_head *head)
{
	struct net_reader body;
	struct net_chunk chunk;
	int more;

	if (!peer->open || (peer->datagram && head->name != peer->packets.name) || net_packet_open(&peer->packets, packet, head, &body) != 0)
		return;
	peer->confirmed = true;
	while ((more = net_chunk_next(&body, &chunk)) == 1)
		if (read_chunk(peer, &chunk) != 0)
			more = -1, peer->errors++;
	peer->errors += more < 0;
	take_requests(peer);
}

/* ---- handshake ---------------------------------------------------------------------------------------------- */

static void say_refused(struct net_peer *peer, uint32_t why)
{
	unsigned char *body = peer->answer + net_packet_head_bytes(peer->datagram);

	net_refused_write(body, &(struct net_refused){ .why = why, .ciphers = peer->ciphers, .version = NET_VERSION });
	peer->answer_bytes = net_packet_clear(peer->answer, peer->datagram, NET_REFUSED, 0, NET_REFUSED_BYTES);
	peer->answer_due = true;
}

static void say_cookie(struct net_peer *peer)
{
	memcpy(peer->answer + net_packet_head_bytes(peer->datagram), peer->cookie, NET_COOKIE_BYTES);
	peer->answer_bytes = net_packet_clear(peer->answer, peer->datagram, NET_COOKIE, 0, NET_COOKIE_BYTES);
	peer->answer_due = true;
}

/* A connection that nobody resumes is a new one. */
static bool resumes(struct net_peer *peer)
{
	static const unsigned char none[NET_NAME_BYTES];

	if (!peer->forgets && memcmp(peer->hello.resume, none, sizeof(none)) != 0 && memcmp(peer->hello.resume, peer->token, sizeof(none)) == 0)
		return true;
	net_inbox_reset(peer->inbox);
	net_outbox_reset(peer->outbox);
	peer->credits = peer->streamed = peer->held_count = 0;
	draw(peer, peer->token, sizeof(peer->token));
	return false;
}

static void say_welcome(struct net_peer *peer, struct net_noise *noise)
{
	const bool resumed = resumes(peer);
	struct net_welcome welcome = { .features = peer->no_haves ? 0 : peer->hello.features & NET_FEATURES,
		.boot_id = peer->boot_id, .now_ns = peer->now_ns + peer->offset_ns, .clock_ns = peer->hello.clock_ns,
		.max_in_flight = peer->max_in_flight, .stream_credits = peer->stream_credits, .window_bytes = peer->window_bytes,
		.message_bytes = peer->message_bytes, .resume_ms = 1000, .datagram_bytes = peer->datagram ? peer->datagram_bytes : 0,
		.flags = resumed ? NET_RESUMED : 0, .name = base_rand_next(&peer->seed) };
	unsigned char clear[NET_WELCOME_BYTES], *body = peer->answer + net_packet_head_bytes(peer->datagram);
	size_t bytes = NET_WELCOME_BYTES;
	struct net_come come;

	net_inbox_come(peer->inbox, &come);
	welcome.requests = come.number;
	memcpy(welcome.token, peer->token, sizeof(welcome.token));
	net_welcome_write(clear, &welcome);
	peer->says_have = welcome.features & NET_FEATURE_HAVE;
	net_outbox_limit(peer->outbox, peer->says_have);
	peer->packets = (struct net_packets){ .datagram = peer->datagram, .plain = !noise, .name = welcome.name };
	if (noise) {
		bytes = net_noise_write(noise, clear, NET_WELCOME_BYTES, body);
		net_noise_split(noise, &peer->packets.send, &peer->packets.receive);
	} else {
		memcpy(body, clear, NET_WELCOME_BYTES);
	}
	peer->answer_bytes = net_packet_clear(peer->answer, peer->datagram, NET_WELCOME, welcome.name, bytes);
	peer->answer_due = peer->open = true;
	peer->confirmed = false;
	peer->resumed += resumed;
}

static void read_hello(struct net_peer *peer, const unsigned char *body, size_t bytes)
{
	unsigned char sealed[NET_HELLO_BYTES], secret[NET_KEY_BYTES];
	struct net_noise noise;
	struct net_clear clear;

	peer->hellos++;
	assert_true(bytes >= NET_CLEAR_BYTES + NET_HELLO_BYTES);
	assert_int_equal(net_clear_read(body, &clear), 0);
	if (peer->open && peer->datagram && memcmp(peer->hello_body, body, sizeof(peer->hello_body)) == 0) {
		peer->answer_due |= !peer->confirmed; /* the same once more, or late */
		return;
	}
	memcpy(peer->hello_body, body, sizeof(peer->hello_body));
	if (peer->datagram && peer->wants_cookie && memcmp(clear.cookie, peer->cookie, NET_COOKIE_BYTES) != 0) {
		say_cookie(peer);
	} else if (peer->refuses) {
		say_refused(peer, peer->refuses);
	} else if (clear.cipher == NET_CIPHER_PLAIN) {
		assert_int_equal(net_hello_read(body + NET_CLEAR_BYTES, &peer->hello), 0);
		if (peer->plain)
			say_welcome(peer, NULL);
		else
			say_refused(peer, NET_WHY_KEY);
	} else if (!(peer->ciphers >> clear.cipher & 1)) {
		say_refused(peer, NET_WHY_CIPHER);
	} else {
		draw(peer, secret, sizeof(secret));
		net_noise_begin(&noise, (enum net_cipher)clear.cipher, false, body, NET_CLEAR_BYTES, peer->key, secret);
		if (net_noise_read(&noise, body + NET_CLEAR_BYTES, NET_HELLO_BYTES + NET_NOISE_BYTES, sealed) != NET_HELLO_BYTES) {
			say_refused(peer, NET_WHY_KEY);
			return;
		}
		assert_int_equal(net_hello_read(sealed, &peer->hello), 0);
		say_welcome(peer, &noise);
	}
}

/* ---- packets ------------------------------------------------------------------------------------------------ */

static void read_packet(struct net_peer *peer, unsigned char *packet, const struct net_packet_head *head)
{
	if (head->kind == NET_HELLO)
		read_hello(peer, packet + net_packet_head_bytes(peer->datagram), head->body_bytes);
	else if (head->kind == NET_DATA)
		read_data(peer, packet, head);
	else
		peer->errors++;
}

static void read_datagram(struct net_peer *peer, const unsigned char *bytes, size_t count)
{
	_Alignas(8) unsigned char packet[NET_PACKET_BYTES_MAX];
	struct net_packet_head head;

	if (net_packet_datagram_head(bytes, count, &head) != 0)
		return;
	memcpy(packet, bytes, count);
	read_packet(peer, packet, &head);
}

void net_peer_packet(struct net_peer *peer, int64_t now_ns, const unsigned char *bytes, size_t count)
{
	struct net_packet_head head;

	peer->now_ns = now_ns;
	if (peer->deaf)
		return;
	if (peer->datagram) {
		read_datagram(peer, bytes, count);
		return;
	}
	for (size_t i = 0; i < count; i++) {
		peer->partial[peer->partial_bytes++] = bytes[i];
		if (net_packet_stream_head(peer->partial, peer->partial_bytes, &head) == 1 &&
				peer->partial_bytes == NET_STREAM_HEAD_BYTES + head.body_bytes) {
			peer->partial_bytes = 0;
			read_packet(peer, peer->partial, &head);
		}
	}
}

void net_peer_begin(struct net_peer *peer, unsigned char *packet, struct net_writer *body)
{
	const uint32_t agreed = peer->hello.datagram_bytes < peer->datagram_bytes ? peer->hello.datagram_bytes : peer->datagram_bytes;

	net_packet_begin(&peer->packets, packet, peer->datagram ? agreed : NET_PACKET_BYTES_MAX, body);
}

size_t net_peer_end(struct net_peer *peer, unsigned char *packet, const struct net_writer *body)
{
	return net_packet_end(&peer->packets, packet, body);
}

static void put_haves(const struct net_peer *peer, struct net_writer *body)
{
	struct net_have have;
	uint32_t ahead = 0;

	for (uint32_t i = 0; i < 4 && net_inbox_have(peer->inbox, &ahead, &have); i++)
		if (!net_have_put(body, 0, &have))
			return;
}

static void fill(struct net_peer *peer, struct net_writer *body)
{
	struct net_come come;

	if (peer->pong_due) {
		peer->pong.sent_ns = peer->now_ns + peer->offset_ns;
		peer->pong_due = !net_times_put(body, NET_PONG, &peer->pong);
	}
	if (peer->taken_due) {
		net_inbox_come(peer->inbox, &come);
		peer->taken_due = !net_come_put(body, NET_TAKEN, 0, &come);
	}
	if (peer->have_due && peer->says_have)
		put_haves(peer, body);
	peer->have_due = false;
	net_outbox_fill(peer->outbox, NET_REPLY, body);
}

size_t net_peer_next_packet(struct net_peer *peer, int64_t now_ns, unsigned char *packet)
{
	struct net_writer body;
	unsigned char *begin;

	peer->now_ns = now_ns;
	if (peer->deaf)
		return 0;
	if (peer->answer_due) {
		peer->answer_due = false;
		memcpy(packet, peer->answer, peer->answer_bytes);
		return peer->answer_bytes;
	}
	if (!peer->open || !peer->confirmed)
		return 0;
	take_requests(peer);
	net_peer_begin(peer, packet, &body);
	begin = body.at;
	fill(peer, &body);
	return body.at > begin ? net_peer_end(peer, packet, &body) : 0;
}

/* ---- life --------------------------------------------------------------------------------------------------- */

static uint32_t power(uint32_t messages)
{
	uint32_t window = 1;

	while (window < messages)
		window *= 2;
	return window;
}

static void set_default(uint32_t *value, uint32_t usual)
{
	*value = *value ? *value : usual;
}

void net_peer_start(struct net_peer *peer)
{
	set_default(&peer->ciphers, 1u << NET_CIPHER_CHACHA | 1u << NET_CIPHER_AESGCM);
	set_default(&peer->max_in_flight, 16);
	set_default(&peer->stream_credits, 16);
	set_default(&peer->window_bytes, 1 << 20);
	set_default(&peer->message_bytes, 1 << 18);
	set_default(&peer->datagram_bytes, NET_PACKET_BYTES_MAX);
	peer->boot_id = peer->boot_id ? peer->boot_id : 99;
	peer->seed = 5;
	draw(peer, peer->cookie, sizeof(peer->cookie));
	assert_int_equal(net_inbox_create(&peer->inbox, power(peer->max_in_flight), peer->message_bytes, &blocks, NULL), 0);
	peer->window = power(peer->max_in_flight + peer->stream_credits);
	assert_int_equal(net_outbox_create(&peer->outbox, peer->window, peer->window_bytes, &blocks, NULL), 0);
	net_peer_socket(peer);
}

void net_peer_socket(struct net_peer *peer)
{
	peer->open = peer->confirmed = peer->answer_due = peer->taken_due = peer->pong_due = false;
	peer->partial_bytes = 0;
}

void net_peer_stop(struct net_peer *peer)
{
	net_inbox_destroy(peer->inbox);
	net_outbox_destroy(peer->outbox);
}
