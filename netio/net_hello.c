/*
 * HELLO, WELCOME, REFUSED. See net_hello.h.
 */
#include "netio/net_hello.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

#include <sodium.h>

#include "base/base_bytes.h"

static const unsigned char magic[8] = { 'a', 't', 't', 'n', 'd', 'n', 'e', 't' };

/* ---- keys ------------------------------------------------------------------------------------------------- */

void net_key_name(const unsigned char key[NET_KEY_BYTES], unsigned char name[NET_NAME_BYTES])
{
	static const unsigned char label[] = "attnd key";
	unsigned char hash[crypto_hash_sha256_BYTES];
	crypto_hash_sha256_state state;

	crypto_hash_sha256_init(&state);
	crypto_hash_sha256_update(&state, label, sizeof(label) - 1);
	crypto_hash_sha256_update(&state, key, NET_KEY_BYTES);
	crypto_hash_sha256_final(&state, hash);
	memcpy(name, hash, NET_NAME_BYTES);
}

int net_key_parse(const char *text, unsigned char key[NET_KEY_BYTES])
{
	const char *end;
	size_t bytes;

	while (isspace((unsigned char)*text))
		text++;
	if (sodium_hex2bin(key, NET_KEY_BYTES, text, strlen(text), NULL, &bytes, &end) || bytes != NET_KEY_BYTES)
		return -EINVAL;
	while (isspace((unsigned char)*end))
		end++;
	return *end ? -EINVAL : 0;
}

/* ---- HELLO ------------------------------------------------------------------------------------------------ */

void net_clear_write(unsigned char to[NET_CLEAR_BYTES], const struct net_clear *clear)
{
	memset(to, 0, NET_CLEAR_BYTES);
	memcpy(to, magic, sizeof(magic));
	base_store16(to + 8, NET_VERSION);
	to[10] = clear->cipher;
	memcpy(to + 16, clear->key, NET_NAME_BYTES);
	memcpy(to + 32, clear->cookie, NET_COOKIE_BYTES);
}

int net_clear_read(const unsigned char from[NET_CLEAR_BYTES], struct net_clear *clear)
{
	if (memcmp(from, magic, sizeof(magic)) != 0)
		return -EPROTO;
	if (base_load16(from + 8) != NET_VERSION)
		return -EPROTONOSUPPORT;
	clear->cipher = from[10];
	if (from[11] != 0 || base_load32(from + 12) != 0)
		return -EPROTO;
	memcpy(clear->key, from + 16, NET_NAME_BYTES);
	memcpy(clear->cookie, from + 32, NET_COOKIE_BYTES);
	return clear->cipher == NET_CIPHER_PLAIN && !sodium_is_zero(clear->key, NET_NAME_BYTES) ? -EPROTO : 0;
}

void net_hello_write(unsigned char to[NET_HELLO_BYTES], const struct net_hello *hello)
{
	base_store64(to, hello->features);
	memcpy(to + 8, hello->resume, NET_NAME_BYTES);
	base_store32(to + 24, hello->replies);
	base_store32(to + 28, hello->datagram_bytes);
	base_store64(to + 32, (uint64_t)hello->clock_ns);
}

int net_hello_read(const unsigned char from[NET_HELLO_BYTES], struct net_hello *hello)
{
	hello->features = base_load64(from);
	memcpy(hello->resume, from + 8, NET_NAME_BYTES);
	hello->replies = base_load32(from + 24);
	hello->datagram_bytes = base_load32(from + 28);
	hello->clock_ns = (int64_t)base_load64(from + 32);
	return 0;
}

/* ---- WELCOME ---------------------------------------------------------------------------------------------- */

void net_welcome_write(unsigned char to[NET_WELCOME_BYTES], const struct net_welcome *welcome)
{
	base_store64(to, welcome->features);
	base_store64(to + 8, welcome->boot_id);
	memcpy(to + 16, welcome->token, NET_NAME_BYTES);
	base_store64(to + 32, (uint64_t)welcome->now_ns);
	base_store64(to + 40, (uint64_t)welcome->clock_ns);
	base_store32(to + 48, welcome->max_in_flight);
	base_store32(to + 52, welcome->stream_credits);
	base_store32(to + 56, welcome->window_bytes);
	base_store32(to + 60, welcome->message_bytes);
	base_store32(to + 64, welcome->requests);
	base_store32(to + 68, welcome->resume_ms);
	base_store32(to + 72, welcome->datagram_bytes);
	base_store32(to + 76, welcome->flags);
	base_store64(to + 80, welcome->name);
}

static bool is_window(uint32_t messages)
{
	return messages > 0 && messages <= NET_BITMAP_WORDS_MAX * 64;
}

int net_welcome_read(const unsigned char from[NET_WELCOME_BYTES], struct net_welcome *welcome)
{
	welcome->features = base_load64(from);
	welcome->boot_id = base_load64(from + 8);
	memcpy(welcome->token, from + 16, NET_NAME_BYTES);
	welcome->now_ns = (int64_t)base_load64(from + 32);
	welcome->clock_ns = (int64_t)base_load64(from + 40);
	welcome->max_in_flight = base_load32(from + 48);
	welcome->stream_credits = base_load32(from + 52);
	welcome->window_bytes = base_load32(from + 56);
	welcome->message_bytes = base_load32(from + 60);
	welcome->requests = base_load32(from + 64);
	welcome->resume_ms = base_load32(from + 68);
	welcome->datagram_bytes = base_load32(from + 72);
	welcome->flags = base_load32(from + 76);
	welcome->name = base_load64(from + 80);
	if (welcome->features & ~(uint64_t)NET_FEATURES || welcome->flags & ~(uint32_t)NET_RESUMED)
		return -EPROTO;
	if (!is_window(welcome->max_in_flight) || !is_window(welcome->stream_credits))
		return -EPROTO;
	return is_window(welcome->max_in_flight + welcome->stream_credits) ? 0 : -EPROTO;
}

/* ---- REFUSED ---------------------------------------------------------------------------------------------- */

void net_refused_write(unsigned char to[NET_REFUSED_BYTES], const struct net_refused *refused)
{
	memset(to, 0, NET_REFUSED_BYTES);
	base_store32(to, refused->why);
	base_store32(to + 4, refused->ciphers);
	base_store16(to + 8, refused->version);
}

int net_refused_read(const unsigned char *from, size_t bytes, struct net_refused *refused)
{
	if (bytes < NET_REFUSED_BYTES)
		return -EPROTO;
	*refused = (struct net_refused){
		.why = base_load32(from), .ciphers = base_load32(from + 4), .version = base_load16(from + 8) };
	return 0;
}

const char *net_why_text(uint32_t why)
{
	static const char *const texts[NET_WHY_END] = {
		[NET_WHY_BYE] = "the other side ended the connection",
		[NET_WHY_VERSION] = "the daemon speaks another version of the protocol",
		[NET_WHY_CIPHER] = "the daemon has none of this machine's ciphers",
		[NET_WHY_KEY] = "the daemon does not take this key, or wants one; name the tenant's key file",
		[NET_WHY_FULL] = "the daemon has no place for one more connection of this tenant",
		[NET_WHY_DRAINING] = "the daemon is going down",
		[NET_WHY_PROTOCOL] = "the daemon says that what it got breaks the protocol",
		[NET_WHY_UNKNOWN] = "the daemon does not know this connection any more",
		[NET_WHY_REPLACED] = "the connection was taken over by a newer one",
	};

	return why < NET_WHY_END ? texts[why] : "the daemon ended the connection for a reason unknown to this library";
}
