/*
 * The other end of a connection. See net_peer.h.
 */
#include "tests/unit/net_peer.h"

#include <errno.h>
#include <string.h>

#include "base/base_assert.h"
#include "base/base_rand.h"

void net_peer_init(struct net_peer *peer, struct fake_port *fake, enum net_cipher cipher, const unsigned char *key, uint64_t seed)
{
	memset(peer, 0, sizeof(*peer));
	peer->fake = fake;
	peer->cipher = cipher;
	peer->seed = seed;
	peer->hello = (struct net_hello){ .datagram_bytes = 1400, .clock_ns = 12345 };
	if (key)
		memcpy(peer->key, key, NET_KEY_BYTES);
}

static bool is_datagram(const struct net_peer *peer)
{
	return peer->way.stream == NET_NO_STREAM;
}

/* ---- handshake -------------------------------------------------------------------------------------------- */

static size_t write_hello(struct net_peer *peer, unsigned char *body)
{
	struct net_clear clear = { .cipher = (uint8_t)peer->cipher };
	unsigned char secret[NET_KEY_BYTES], sealed[NET_HELLO_BYTES];

	memcpy(clear.cookie, peer->cookie, NET_COOKIE_BYTES);
	net_hello_write(sealed, &peer->hello);
	if (peer->cipher == NET_CIPHER_PLAIN) {
		net_clear_write(body, &clear);
		memcpy(body + NET_CLEAR_BYTES, sealed, NET_HELLO_BYTES);
		return NET_CLEAR_BYTES + NET_HELLO_BYTES;
	}
	net_key_name(peer->key, clear.key);
	net_clear_write(body, &clear);
	for (size_t i = 0; i < sizeof(secret); i++)
		secret[i] = (unsigned char)base_rand_next(&peer->seed);
	net_noise_begin(&peer->noise, peer->cipher, true, body, NET_CLEAR_BYTES, peer->key, secret);
	return NET_CLEAR_BYTES + net_noise_write(&peer->noise, sealed, NET_HELLO_BYTES, body + NET_CLEAR_BYTES);
}

void net_peer_make_hello(struct net_peer *peer)
{
	const size_t head_bytes = net_packet_head_bytes(is_datagram(peer));
	size_t bytes;

	memset(peer->packet, 0, sizeof(peer->packet));
	bytes = write_hello(peer, peer->packet + head_bytes);
	if (is_datagram(peer))
		bytes = NET_HELLO_DATAGRAM_BYTES - head_bytes;
	peer->packet_bytes = net_packet_clear(peer->packet, is_datagram(peer), NET_HELLO, 0, bytes);
	peer->welcomed = false;
}

void net_peer_say_hello(struct net_peer *peer)
{
	fake_come(peer->fake, &peer->way, peer->packet, peer->packet_bytes);
}

static int read_welcome(struct net_peer *peer, const unsigned char *body, size_t bytes)
{
	unsigned char sealed[NET_WELCOME_BYTES];
	struct net_noise noise = peer->noise; /* what does not open leaves the handshake as it was */

	if (peer->welcomed)
		return 0;
	peer->packets = (struct net_packets){ .datagram = is_datagram(peer), .plain = peer->cipher == NET_CIPHER_PLAIN };
	if (peer->packets.plain && bytes == NET_WELCOME_BYTES)
		memcpy(sealed, body, NET_WELCOME_BYTES);
	else if (peer->packets.plain || bytes != NET_WELCOME_BYTES + NET_NOISE_BYTES || net_noise_read(&noise, body, bytes, sealed) < 0)
		return -EBADMSG;
	else
		net_noise_split(&noise, &peer->packets.send, &peer->packets.receive);
	if (net_welcome_read(sealed, &peer->welcome))
		return -EBADMSG;
	peer->packets.name = peer->welcome.name;
	peer->welcomed = true;
	return 0;
}

int net_peer_hear(struct net_peer *peer)
{
	const size_t head_bytes = net_packet_head_bytes(is_datagram(peer)), bytes = fake_take(peer->fake, &peer->way, peer->heard);
	const unsigned char *body = peer->heard + head_bytes;
	struct net_packet_head head;
	int rc = 0;

	if (bytes == 0)
		return 0;
	if (is_datagram(peer))
		rc = net_packet_datagram_head(peer->heard, bytes, &head);
	else
		(void)net_packet_stream_head(peer->heard, bytes, &head);
	BASE_ASSERT(rc == 0);
	switch (head.kind) {
	case NET_COOKIE:
		BASE_ASSERT(head.body_bytes == NET_COOKIE_BYTES);
		memcpy(peer->cookie, body, NET_COOKIE_BYTES);
		break;
	case NET_WELCOME: rc = read_welcome(peer, body, head.body_bytes); break;
	case NET_REFUSED: rc = net_refused_read(body, head.body_bytes, &peer->refused); break;
	case NET_DATA: rc = net_packet_open(&peer->packets, peer->heard, &head, &peer->body); break;
	default: rc = -EBADMSG;
	}
	return rc ? rc : head.kind;
}

/* ---- DATA ------------------------------------------------------------------------------------------------- */

void net_peer_begin(struct net_peer *peer, struct net_peer_data *data)
{
	net_packet_begin(&peer->packets, data->packet, is_datagram(peer) ? peer->hello.datagram_bytes : NET_PACKET_BYTES_MAX, &data->body);
}

void net_peer_end(struct net_peer *peer, struct net_peer_data *data, bool send)
{
	data->bytes = net_packet_end(&peer->packets, data->packet, &data->body);
	if (send)
		fake_come(peer->fake, &peer->way, data->packet, data->bytes);
}

void net_peer_say(struct net_peer *peer, const void *chunks, size_t bytes)
{
	struct net_peer_data data;

	net_peer_begin(peer, &data);
	BASE_ASSERT(bytes <= (size_t)(data.body.end - data.body.at));
	memcpy(data.body.at, chunks, bytes);
	data.body.at += bytes;
	net_peer_end(peer, &data, true);
}

void net_peer_ping(struct net_peer *peer)
{
	struct net_peer_data data;

	net_peer_begin(peer, &data);
	BASE_ASSERT(net_times_put(&data.body, NET_PING, &(struct net_times){ .sender_ns = 99 }));
	net_peer_end(peer, &data, true);
}
