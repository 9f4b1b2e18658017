/*
 * Handshake and sealing. See net_secure.h.
 */
#include "netio/net_secure.h"

#include <errno.h>
#include <sodium.h>
#include <string.h>

#include "base/base_error.h"

_Static_assert(sizeof(crypto_aead_aes256gcm_state) <= sizeof(((struct net_sealing *)0)->aes), "libsodium's expanded key fits");

static const char *const names[NET_CIPHER_END] = {
	[NET_CIPHER_AESGCM] = "Noise_NNpsk0_25519_AESGCM_SHA256",
	[NET_CIPHER_CHACHA] = "Noise_NNpsk0_25519_ChaChaPoly_SHA256",
};

int net_secure_init(void)
{
	if (sodium_init() < 0)
		return base_fail(ENOTSUP, "libsodium does not start: no source of random numbers?");
	return 0;
}

bool net_cipher_here(enum net_cipher cipher)
{
	return cipher == NET_CIPHER_CHACHA || (cipher == NET_CIPHER_AESGCM && crypto_aead_aes256gcm_is_available());
}

/* ---- one packet under one key ----------------------------------------------------------------------------- */

/* Noise: 32 bits of zeros, then the number, big-endian for AES-GCM, little-endian for ChaCha20-Poly1305. */
static void nonce_of(uint8_t cipher, uint64_t number, unsigned char nonce[12])
{
	memset(nonce, 0, 4);
	for (int i = 0; i < 8; i++)
		nonce[4 + i] = (unsigned char)(number >> 8 * (cipher == NET_CIPHER_AESGCM ? 7 - i : i));
}

static void set_key(struct net_sealing *sealing, const unsigned char key[NET_KEY_BYTES])
{
	memcpy(sealing->key, key, NET_KEY_BYTES);
	if (sealing->cipher == NET_CIPHER_AESGCM)
		crypto_aead_aes256gcm_beforenm((crypto_aead_aes256gcm_state *)(void *)sealing->aes, key);
}

static void encrypt(const struct net_sealing *sealing, uint64_t number, const void *head, size_t head_bytes, unsigned char *body,
	size_t bytes)
{
	unsigned char nonce[12];

	nonce_of(sealing->cipher, number, nonce);
	if (sealing->cipher == NET_CIPHER_AESGCM)
		crypto_aead_aes256gcm_encrypt_detached_afternm(body, body + bytes, NULL, body, bytes, head, head_bytes, NULL, nonce,
			(const crypto_aead_aes256gcm_state *)(const void *)sealing->aes);
	else
		crypto_aead_chacha20poly1305_ietf_encrypt_detached(body, body + bytes, NULL, body, bytes, head, head_bytes, NULL, nonce,
			sealing->key);
}

static bool decrypt(const struct net_sealing *sealing, uint64_t number, const void *head, size_t head_bytes, unsigned char *body,
	size_t bytes)
{
	unsigned char nonce[12];

	nonce_of(sealing->cipher, number, nonce);
	if (sealing->cipher == NET_CIPHER_AESGCM)
		return crypto_aead_aes256gcm_decrypt_detached_afternm(body, NULL, body, bytes, body + bytes, head, head_bytes, nonce,
			(const crypto_aead_aes256gcm_state *)(const void *)sealing->aes) == 0;
	return crypto_aead_chacha20poly1305_ietf_decrypt_detached(body, NULL, body, bytes, body + bytes, head, head_bytes, nonce,
		sealing->key) == 0;
}

/* Noise's REKEY: 32 zeros sealed with the highest number. */
static void next_key(struct net_sealing *sealing)
{
	unsigned char key[NET_KEY_BYTES + NET_TAG_BYTES] = { 0 };

	encrypt(sealing, UINT64_MAX, NULL, 0, key, NET_KEY_BYTES);
	set_key(sealing, key);
	sealing->epoch++;
	sodium_memzero(key, sizeof(key));
}

void net_seal(struct net_sealing *sealing, uint64_t number, const void *head, size_t head_bytes, unsigned char *body, size_t bytes)
{
	while (sealing->epoch < number >> NET_REKEY_SHIFT)
		next_key(sealing);
	encrypt(sealing, number, head, head_bytes, body, bytes);
}

int net_open(struct net_sealing *sealing, uint64_t number, const void *head, size_t head_bytes, unsigned char *body,
	size_t sealed_bytes)
{
	const uint64_t epoch = number >> NET_REKEY_SHIFT;
	struct net_sealing ahead;

	if (sealed_bytes < NET_TAG_BYTES || epoch < sealing->epoch || epoch > sealing->epoch + 1)
		return -EBADMSG;
	if (epoch == sealing->epoch)
		return decrypt(sealing, number, head, head_bytes, body, sealed_bytes - NET_TAG_BYTES) ?
			(int)(sealed_bytes - NET_TAG_BYTES) : -EBADMSG;
	ahead = *sealing;
	next_key(&ahead);
	if (!decrypt(&ahead, number, head, head_bytes, body, sealed_bytes - NET_TAG_BYTES))
		return -EBADMSG;
	*sealing = ahead;
	return (int)(sealed_bytes - NET_TAG_BYTES);
}

/* ---- handshake -------------------------------------------------------------------------------------------- */

static void hmac(const unsigned char key[NET_HASH_BYTES], const void *first, size_t first_bytes, const void *second, size_t second_bytes,
	unsigned char to[NET_HASH_BYTES])
{
	crypto_auth_hmacsha256_state state;

	crypto_auth_hmacsha256_init(&state, key, NET_HASH_BYTES);
	crypto_auth_hmacsha256_update(&state, first, first_bytes);
	crypto_auth_hmacsha256_update(&state, second, second_bytes);
	crypto_auth_hmacsha256_final(&state, to);
}

/* HKDF of the chaining key (RFC 5869, salt: the chain): the new chain, and one or two outputs. */
static void derive(unsigned char chain[NET_HASH_BYTES], const unsigned char *input, size_t bytes, unsigned char *second,
	unsigned char *third)
{
	static const unsigned char numbers[3] = { 1, 2, 3 };
	unsigned char extracted[NET_HASH_BYTES];

	hmac(chain, input, bytes, NULL, 0, extracted);
	hmac(extracted, numbers, 1, NULL, 0, chain);
	hmac(extracted, chain, NET_HASH_BYTES, numbers + 1, 1, second);
	if (third)
		hmac(extracted, second, NET_HASH_BYTES, numbers + 2, 1, third);
	sodium_memzero(extracted, sizeof(extracted));
}

static void mix_hash(struct net_noise *noise, const void *data, size_t bytes)
{
	crypto_hash_sha256_state state;

	crypto_hash_sha256_init(&state);
	crypto_hash_sha256_update(&state, noise->hash, NET_HASH_BYTES);
	crypto_hash_sha256_update(&state, data, bytes);
	crypto_hash_sha256_final(&state, noise->hash);
}

static void mix_key(struct net_noise *noise, const unsigned char *input)
{
	derive(noise->chain, input, NET_KEY_BYTES, noise->key, NULL);
	noise->number = 0;
}

static void mix_psk(struct net_noise *noise, const unsigned char psk[NET_KEY_BYTES])
{
	unsigned char mixed[NET_HASH_BYTES];

	derive(noise->chain, psk, NET_KEY_BYTES, mixed, noise->key);
	mix_hash(noise, mixed, sizeof(mixed));
	noise->number = 0;
	sodium_memzero(mixed, sizeof(mixed));
}

void net_noise_begin(struct net_noise *noise, enum net_cipher cipher, bool initiator, const void *clear, size_t clear_bytes,
	const unsigned char psk[NET_KEY_BYTES], const unsigned char secret[NET_KEY_BYTES])
{
	const size_t name_bytes = strlen(names[cipher]);

	*noise = (struct net_noise){ .cipher = (uint8_t)cipher, .initiator = initiator };
	memcpy(noise->secret, secret, NET_KEY_BYTES);
	if (name_bytes <= NET_HASH_BYTES)
		memcpy(noise->hash, names[cipher], name_bytes);
	else
		crypto_hash_sha256(noise->hash, (const unsigned char *)names[cipher], name_bytes);
	memcpy(noise->chain, noise->hash, NET_HASH_BYTES);
	mix_hash(noise, clear, clear_bytes);
	mix_psk(noise, psk);
}

/* An ephemeral key on its way, in either direction; the second one makes the shared secret. false: the other's key is one of the few that
 * make it known to all. */
static bool mix_ephemeral(struct net_noise *noise, const unsigned char *sent, bool second)
{
	unsigned char shared[NET_KEY_BYTES];
	bool good = true;

	mix_hash(noise, sent, NET_KEY_BYTES);
	mix_key(noise, sent);
	if (second) {
		good = crypto_scalarmult_curve25519(shared, noise->secret, noise->other) == 0;
		mix_key(noise, shared);
		sodium_memzero(shared, sizeof(shared));
	}
	return good;
}

/* The key at hand, as for a packet. */
static void sealing_of(const struct net_noise *noise, struct net_sealing *sealing)
{
	*sealing = (struct net_sealing){ .cipher = noise->cipher };
	set_key(sealing, noise->key);
}

size_t net_noise_write(struct net_noise *noise, const void *payload, size_t bytes, unsigned char *message)
{
	unsigned char *sealed = message + NET_KEY_BYTES;
	struct net_sealing sealing;

	crypto_scalarmult_curve25519_base(message, noise->secret);
	(void)mix_ephemeral(noise, message, !noise->initiator);
	sealing_of(noise, &sealing);
	memcpy(sealed, payload, bytes);
	encrypt(&sealing, noise->number++, noise->hash, NET_HASH_BYTES, sealed, bytes);
	mix_hash(noise, sealed, bytes + NET_TAG_BYTES);
	sodium_memzero(&sealing, sizeof(sealing));
	return NET_KEY_BYTES + bytes + NET_TAG_BYTES;
}

int net_noise_read(struct net_noise *noise, const unsigned char *message, size_t message_bytes, void *payload)
{
	const unsigned char *sealed = message + NET_KEY_BYTES;
	unsigned char nonce[12];
	size_t bytes;
	bool good;

	if (message_bytes < NET_KEY_BYTES + NET_TAG_BYTES)
		return -EBADMSG;
	bytes = message_bytes - NET_KEY_BYTES - NET_TAG_BYTES;
	memcpy(noise->other, message, NET_KEY_BYTES);
	good = mix_ephemeral(noise, message, noise->initiator);
	nonce_of(noise->cipher, noise->number++, nonce);
	if (noise->cipher == NET_CIPHER_AESGCM)
		good = crypto_aead_aes256gcm_decrypt_detached(payload, NULL, sealed, bytes, sealed + bytes, noise->hash, NET_HASH_BYTES, nonce,
			noise->key) == 0 && good;
	else
		good = crypto_aead_chacha20poly1305_ietf_decrypt_detached(payload, NULL, sealed, bytes, sealed + bytes, noise->hash, NET_HASH_BYTES,
			nonce, noise->key) == 0 && good;
	mix_hash(noise, sealed, bytes + NET_TAG_BYTES);
	return good ? (int)bytes : -EBADMSG;
}

void net_noise_split(struct net_noise *noise, struct net_sealing *to_send, struct net_sealing *to_receive)
{
	unsigned char second[NET_KEY_BYTES];

	derive(noise->chain, NULL, 0, second, NULL);
	*to_send = (struct net_sealing){ .cipher = noise->cipher };
	*to_receive = (struct net_sealing){ .cipher = noise->cipher };
	set_key(noise->initiator ? to_send : to_receive, noise->chain);
	set_key(noise->initiator ? to_receive : to_send, second);
	sodium_memzero(second, sizeof(second));
	sodium_memzero(noise, sizeof(*noise));
}

/* ---- replays ---------------------------------------------------------------------------------------------- */

bool net_replay_is_new(const struct net_replay *replay, uint64_t number)
{
	if (number >= replay->end)
		return true;
	if (replay->end - number > NET_REPLAY_BITS)
		return false;
	return !(replay->bits[number / 64 % (NET_REPLAY_BITS / 64 + 1)] >> number % 64 & 1);
}

void net_replay_note(struct net_replay *replay, uint64_t number)
{
	const uint64_t words = NET_REPLAY_BITS / 64 + 1;

	if (number >= replay->end) {
		/* The words that the window moves on to are of numbers long past. */
		const uint64_t last = replay->end > 0 ? (replay->end - 1) / 64 : 0, now = number / 64;

		for (uint64_t word = last + 1; word <= now && word <= last + words; word++)
			replay->bits[word % words] = 0;
		replay->end = number + 1;
	}
	replay->bits[number / 64 % words] |= UINT64_C(1) << number % 64;
}
