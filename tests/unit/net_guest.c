/*
 * The other end of a connection. See net_guest.h.
 */
#include "tests/unit/net_guest.h"

#include <errno.h>
#include <string.h>

#include "base/base_assert.h"
#include "base/base_rand.h"

void net_guest_init(struct net_guest *guest, struct fake_port *fake, enum net_cipher cipher, const unsigned char *key, uint64_t seed)
{
	memset(guest, 0, sizeof(*guest));
	guest->fake = fake;
	guest->cipher = cipher;
	guest->seed = seed;
	guest->hello = (struct net_hello){ .datagram_bytes = 1400, .clock_ns = 12345 };
	if (key)
		memcpy(guest->key, key, NET_KEY_BYTES);
}

static bool is_datagram(const struct net_guest *guest)
{
	return guest->way.stream == NET_NO_STREAM;
}

/* ---- handshake -------------------------------------------------------------------------------------------- */

static size_t write_hello(struct net_guest *guest, unsigned char *body)
{
	struct net_clear clear = { .cipher = (uint8_t)guest->cipher };
	unsigned char secret[NET_KEY_BYTES], sealed[NET_HELLO_BYTES];

	memcpy(clear.cookie, guest->cookie, NET_COOKIE_BYTES);
	net_hello_write(sealed, &guest->hello);
	if (guest->cipher == NET_CIPHER_PLAIN) {
		net_clear_write(body, &clear);
		memcpy(body + NET_CLEAR_BYTES, sealed, NET_HELLO_BYTES);
		return NET_CLEAR_BYTES + NET_HELLO_BYTES;
	}
	net_key_name(guest->key, clear.key);
	net_clear_write(body, &clear);
	for (size_t i = 0; i < sizeof(secret); i++)
		secret[i] = (unsigned char)base_rand_next(&guest->seed);
	net_noise_begin(&guest->noise, guest->cipher, true, body, NET_CLEAR_BYTES, guest->key, secret);
	return NET_CLEAR_BYTES + net_noise_write(&guest->noise, sealed, NET_HELLO_BYTES, body + NET_CLEAR_BYTES);
}

void net_guest_make_hello(struct net_guest *guest)
{
	const size_t head_bytes = net_packet_head_bytes(is_datagram(guest));
	size_t bytes;

	memset(guest->packet, 0, sizeof(guest->packet));
	bytes = write_hello(guest, guest->packet + head_bytes);
	if (is_datagram(guest))
		bytes = NET_HELLO_DATAGRAM_BYTES - head_bytes;
	guest->packet_bytes = net_packet_clear(guest->packet, is_datagram(guest), NET_HELLO, 0, bytes);
	guest->welcomed = false;
}

void net_guest_say_hello(struct net_guest *guest)
{
	fake_come(guest->fake, &guest->way, guest->packet, guest->packet_bytes);
}

static int read_welcome(struct net_guest *guest, const unsigned char *body, size_t bytes)
{
	unsigned char sealed[NET_WELCOME_BYTES];
	struct net_noise noise = guest->noise; /* what does not open leaves the handshake as it was */

	if (guest->welcomed)
		return 0;
	guest->packets = (struct net_packets){ .datagram = is_datagram(guest), .plain = guest->cipher == NET_CIPHER_PLAIN };
	if (guest->packets.plain && bytes == NET_WELCOME_BYTES)
		memcpy(sealed, body, NET_WELCOME_BYTES);
	else if (guest->packets.plain || bytes != NET_WELCOME_BYTES + NET_NOISE_BYTES || net_noise_read(&noise, body, bytes, sealed) < 0)
		return -EBADMSG;
	else
		net_noise_split(&noise, &guest->packets.send, &guest->packets.receive);
	if (net_welcome_read(sealed, &guest->welcome))
		return -EBADMSG;
	guest->packets.name = guest->welcome.name;
	guest->welcomed = true;
	return 0;
}

int net_guest_hear(struct net_guest *guest)
{
	const size_t head_bytes = net_packet_head_bytes(is_datagram(guest)), bytes = fake_take(guest->fake, &guest->way, guest->heard);
	const unsigned char *body = guest->heard + head_bytes;
	struct net_packet_head head;
	int rc = 0;

	if (bytes == 0)
		return 0;
	if (is_datagram(guest))
		rc = net_packet_datagram_head(guest->heard, bytes, &head);
	else
		(void)net_packet_stream_head(guest->heard, bytes, &head);
	BASE_ASSERT(rc == 0);
	switch (head.kind) {
	case NET_COOKIE:
		BASE_ASSERT(head.body_bytes == NET_COOKIE_BYTES);
		memcpy(guest->cookie, body, NET_COOKIE_BYTES);
		break;
	case NET_WELCOME: rc = read_welcome(guest, body, head.body_bytes); break;
	case NET_REFUSED: rc = net_refused_read(body, head.body_bytes, &guest->refused); break;
	case NET_DATA: rc = net_packet_open(&guest->packets, guest->heard, &head, &guest->body); break;
	default: rc = -EBADMSG;
	}
	return rc ? rc : head.kind;
}

/* ---- DATA ------------------------------------------------------------------------------------------------- */

void net_guest_begin(struct net_guest *guest, struct net_guest_data *data)
{
	net_packet_begin(&guest->packets, data->packet, is_datagram(guest) ? guest->hello.datagram_bytes : NET_PACKET_BYTES_MAX, &data->body);
}

void net_guest_end(struct net_guest *guest, struct net_guest_data *data, bool send)
{
	data->bytes = net_packet_end(&guest->packets, data->packet, &data->body);
	if (send)
		fake_come(guest->fake, &guest->way, data->packet, data->bytes);
}

void net_guest_say(struct net_guest *guest, const void *chunks, size_t bytes)
{
	struct net_guest_data data;

	net_guest_begin(guest, &data);
	BASE_ASSERT(bytes <= (size_t)(data.body.end - data.body.at));
	memcpy(data.body.at, chunks, bytes);
	data.body.at += bytes;
	net_guest_end(guest, &data, true);
}

void net_guest_ping(struct net_guest *guest)
{
	struct net_guest_data data;

	net_guest_begin(guest, &data);
	BASE_ASSERT(net_times_put(&data.body, NET_PING, &(struct net_times){ .sender_ns = 99 }));
	net_guest_end(guest, &data, true);
}
