/*
 * Clients of the network front that a test moves by hand. See net_front_rig.h.
 */
#include <stdlib.h>
#include <string.h>

#include "base/base_assert.h"
#include "base/base_rand.h"
#include "tests/unit/net_front_rig.h"

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

static uint32_t power_of_two(uint32_t least)
{
	uint32_t power = 1;

	while (power < least)
		power *= 2;
	return power;
}

/* ---- connecting ------------------------------------------------------------------------------------------- */

void front_new_way(struct front_client *client)
{
	struct front_rig *rig = client->rig;
	const uint32_t listener = client->peer.cipher == NET_CIPHER_PLAIN ? FRONT_PLAIN : FRONT_SEALED;

	if (client->peer.way.stream == NET_NO_STREAM)
		client->peer.way = fake_way(listener, ++rig->last_address);
	else
		fake_connect(&rig->fake, listener, &client->peer.way);
}

bool front_half_open(struct front_client *client)
{
	int kind;

	front_new_way(client);
	net_guest_make_hello(&client->peer);
	net_guest_say_hello(&client->peer);
	front_poll(client->rig);
	kind = net_guest_hear(&client->peer);
	if (kind == NET_COOKIE) {
		net_guest_make_hello(&client->peer);
		net_guest_say_hello(&client->peer);
		front_poll(client->rig);
		kind = net_guest_hear(&client->peer);
	}
	return kind == NET_WELCOME;
}

void front_forget(struct front_client *client)
{
	const uint32_t requests = client->peer.welcome.max_in_flight, replies = requests + client->peer.welcome.stream_credits;

	front_client_free(client);
	BASE_ASSERT(net_inbox_create(&client->inbox, power_of_two(replies), client->peer.welcome.message_bytes, &blocks, NULL) == 0);
	BASE_ASSERT(net_outbox_create(&client->outbox, power_of_two(requests), UINT64_MAX / 2, &blocks, NULL) == 0);
	client->unfinished = client->consumed = 0;
	net_outbox_limit(client->outbox, client->peer.welcome.features & NET_FEATURE_HAVE);
}

static bool confirm(struct front_client *client)
{
	client->closed = client->pong_came = false;
	net_guest_ping(&client->peer);
	front_poll(client->rig);
	front_hear(client);
	return client->pong_came && !client->closed;
}

bool front_connect(struct front_rig *rig, struct front_client *client, bool datagram, enum net_cipher cipher, uint32_t tenant)
{
	unsigned char key[NET_KEY_BYTES];

	memset(client, 0, sizeof(*client));
	memset(key, (int)tenant + 1, sizeof(key));
	client->rig = rig;
	net_guest_init(&client->peer, &rig->fake, cipher, key, base_rand_next(&rig->seed));
	client->peer.way.stream = datagram ? NET_NO_STREAM : 0;
	if (!front_half_open(client))
		return false;
	front_forget(client);
	return confirm(client);
}

bool front_resume(struct front_client *client)
{
	memcpy(client->peer.hello.resume, client->peer.welcome.token, NET_NAME_BYTES);
	return front_half_open(client) && client->peer.welcome.flags & NET_RESUMED && confirm(client);
}

void front_break(struct front_client *client)
{
	fake_end(&client->rig->fake, &client->peer.way);
	front_poll(client->rig);
}

void front_client_free(struct front_client *client)
{
	net_inbox_destroy(client->inbox);
	net_outbox_destroy(client->outbox);
	client->inbox = NULL;
	client->outbox = NULL;
}

/* ---- saying ----------------------------------------------------------------------------------------------- */

uint32_t front_request(struct front_client *client, struct attnd_request record, uint32_t in_bytes)
{
	unsigned char *payload = in_bytes > 0 ? malloc(in_bytes) : NULL;

	record.version = record.version ? record.version : ATTND_VERSION;
	record.op = record.op ? record.op : ATTND_OP_NOP;
	record.in_bytes = in_bytes;
	for (uint32_t i = 0; i < in_bytes; i++)
		payload[i] = front_byte(record.session, i);
	client->unfinished++;
	return net_outbox_add(client->outbox, &record, payload, in_bytes);
}

static void put_ack(struct front_client *client, uint8_t flags, struct net_writer *body)
{
	struct net_come come;

	net_inbox_come(client->inbox, &come);
	come.credits = client->consumed;
	BASE_ASSERT(net_come_put(body, NET_ACK, flags, &come));
}

/* What has come of replies that are not whole, and that the rest is wanted; where the daemon takes it. */
static void put_haves(struct front_client *client, struct net_writer *body)
{
	struct net_have have;
	uint32_t ahead = 0;

	while (client->peer.welcome.features & NET_FEATURE_HAVE && net_inbox_have(client->inbox, &ahead, &have))
		if (!net_have_put(body, NET_HAVE_AGAIN, &have))
			return;
}

void front_ack(struct front_client *client, uint8_t flags)
{
	struct net_guest_data data;

	net_guest_begin(&client->peer, &data);
	put_ack(client, flags, &data.body);
	put_haves(client, &data.body);
	net_guest_end(&client->peer, &data, true);
}

uint32_t front_pack(struct front_client *client, struct net_guest_data *packets, uint32_t packets_max)
{
	uint32_t count = 0;

	while (net_outbox_waiting(client->outbox) && count < packets_max) {
		net_guest_begin(&client->peer, &packets[count]);
		(void)net_outbox_fill(client->outbox, NET_REQUEST, &packets[count].body);
		net_guest_end(&client->peer, &packets[count], false);
		count++;
	}
	return count;
}

void front_send(struct front_client *client, uint8_t ack_flags)
{
	struct net_guest_data data;
	bool more = true;

	while (more) {
		net_guest_begin(&client->peer, &data);
		more = net_outbox_fill(client->outbox, NET_REQUEST, &data.body);
		if (data.body.at != data.packet + net_packet_head_bytes(client->peer.packets.datagram))
			net_guest_end(&client->peer, &data, true);
	}
	front_ack(client, ack_flags);
}

void front_bye(struct front_client *client)
{
	struct net_guest_data data;

	net_guest_begin(&client->peer, &data);
	(void)net_close_put(&data.body, NET_WHY_BYE);
	net_guest_end(&client->peer, &data, true);
}

/* ---- hearing ---------------------------------------------------------------------------------------------- */

static void hear_taken(struct front_client *client, const struct net_chunk *chunk)
{
	BASE_ASSERT(net_come_read(chunk, &client->taken) == 0);
	BASE_ASSERT(net_outbox_come(client->outbox, &client->taken) == 0);
	client->takens++;
	client->again |= chunk->flags & NET_TAKEN_AGAIN;
}

static void hear_part(struct front_client *client, const struct net_chunk *chunk)
{
	struct net_part part;
	int fate;

	BASE_ASSERT(net_part_read(chunk, &part) == 0);
	fate = net_inbox_part(client->inbox, &part);
	BASE_ASSERT(fate >= 0);
	client->replies_parts++;
}

/* What is missing goes with what is sent next. */
static void hear_have(struct front_client *client, const struct net_chunk *chunk)
{
	struct net_have have;
	int told;

	BASE_ASSERT(client->peer.welcome.features & NET_FEATURE_HAVE);
	BASE_ASSERT(net_have_read(chunk, &have) == 0);
	told = net_outbox_have(client->outbox, &have);
	BASE_ASSERT(told >= 0);
	if (told & NET_HAVE_HOLES)
		net_outbox_again(client->outbox, have.number);
	client->haves++;
}

static void hear_chunk(struct front_client *client, const struct net_chunk *chunk)
{
	switch (chunk->kind) {
	case NET_REPLY:
	case NET_REPLY_MORE: hear_part(client, chunk); break;
	case NET_TAKEN: hear_taken(client, chunk); break;
	case NET_PONG:
		BASE_ASSERT(net_times_read(chunk, &client->pong) == 0);
		client->pong_came = true;
		break;
	case NET_HAVE: hear_have(client, chunk); break;
	default:
		BASE_ASSERT(chunk->kind == NET_CLOSE);
		client->closed = true;
		client->why = chunk->number;
	}
}

void front_hear_body(struct front_client *client)
{
	struct net_chunk chunk;
	int more;

	while ((more = net_chunk_next(&client->peer.body, &chunk)) > 0)
		hear_chunk(client, &chunk);
	BASE_ASSERT(more == 0);
}

void front_hear(struct front_client *client)
{
	int kind;

	while ((kind = net_guest_hear(&client->peer)) > 0)
		if (kind == NET_DATA)
			front_hear_body(client);
	BASE_ASSERT(kind == 0);
}

bool front_reply(struct front_client *client, struct attnd_completion *completion)
{
	struct net_inbox_message message;

	if (!net_inbox_next(client->inbox, &message))
		return false;
	memcpy(completion, message.record, sizeof(*completion));
	BASE_ASSERT(completion->result_bytes == message.bytes);
	for (uint32_t i = 0; i < message.bytes; i++)
		BASE_ASSERT(message.payload[i] == front_byte(completion->position, i));
	free(message.payload);
	if (completion->flags & ATTND_CPL_FINAL)
		client->unfinished--;
	else
		client->consumed++;
	return true;
}

void front_expect(struct front_client *client, uint64_t id, enum attnd_status status, uint32_t result_bytes)
{
	struct attnd_completion completion;

	front_hear(client);
	BASE_ASSERT(front_reply(client, &completion));
	BASE_ASSERT(completion.request_id == id && completion.status == status);
	BASE_ASSERT(completion.flags == ATTND_CPL_FINAL && completion.result_bytes == result_bytes);
}
