/*
 * Who is there, and sealed packets: Noise_NNpsk0_25519_AESGCM_SHA256 or ..._ChaChaPoly_SHA256 (Perrin, "The Noise Protocol
 * Framework", revision 34), with libsodium's primitives. docs/PROTOCOL.md, Network, says what the messages hold.
 *
 * The key of a tenant, 32 random bytes that both sides have, proves each to the other; the ephemeral keys keep what was said
 * secret if it leaks later.
 *
 * Pure: randomness is given. One thread per object. Nothing is allocated. Results that secrets depend on are compared in constant time.
 */
#ifndef NET_SECURE_H
#define NET_SECURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum net_cipher { NET_CIPHER_PLAIN, NET_CIPHER_AESGCM, NET_CIPHER_CHACHA, NET_CIPHER_END };

enum {
	NET_KEY_BYTES = 32,
	NET_TAG_BYTES = 16,
	NET_HASH_BYTES = 32,
	NET_REKEY_SHIFT = 24,  /* packets under one key: 2^24 */
	NET_REPLAY_BITS = 1024, /* how far behind the newest a datagram may come */
};

/* Once per process, before anything else here; any thread. 0, or -ENOTSUP with a message. */
int net_secure_init(void);
/* Whether this machine has it: AES-GCM wants AES instructions. */
bool net_cipher_here(enum net_cipher cipher);

/* ---- handshake -------------------------------------------------------------------------------------------- */

struct net_noise {
	uint8_t cipher;
	bool initiator;
	unsigned char chain[NET_HASH_BYTES], hash[NET_HASH_BYTES], key[NET_KEY_BYTES];
	unsigned char secret[NET_KEY_BYTES], other[NET_KEY_BYTES]; /* ephemeral: ours; theirs */
	uint64_t number; /* of the next payload under `key` */
};

/* clear: what both sides know before: HELLO's clear part. secret: 32 random bytes, used for nothing else. */
void net_noise_begin(struct net_noise *noise, enum net_cipher cipher, bool initiator, const void *clear, size_t clear_bytes,
	const unsigned char psk[NET_KEY_BYTES], const unsigned char secret[NET_KEY_BYTES]);

/* A message is a public key and the sealed payload. The initiator writes first, then the other side. Returns its bytes: 32 + bytes + 16. */
size_t net_noise_write(struct net_noise *noise, const void *payload, size_t bytes, unsigned char *message);
/* The other side's message; payload: room for message_bytes - 48. The payload's bytes, or -EBADMSG: not the same key, or not unchanged; the
 * handshake is of no further use then. */
int net_noise_read(struct net_noise *noise, const unsigned char *message, size_t message_bytes, void *payload);

/* ---- packets ---------------------------------------------------------------------------------------------- */

/* One direction. */
struct net_sealing {
	_Alignas(16) unsigned char aes[512]; /* libsodium's expanded key */
	unsigned char key[NET_KEY_BYTES];
	uint64_t epoch; /* of key: packet number >> NET_REKEY_SHIFT */
	uint8_t cipher;
};

/* After both messages: the keys of both directions. Wipes the handshake. */
void net_noise_split(struct net_noise *noise, struct net_sealing *to_send, struct net_sealing *to_receive);

/* Seals `bytes` of body in place, and puts the tag behind; head is authenticated beside it. Numbers ascend. */
void net_seal(struct net_sealing *sealing, uint64_t number, const void *head, size_t head_bytes, unsigned char *body, size_t bytes);
/* Opens in place; sealed_bytes: with the tag. The body's bytes, or -EBADMSG. Epochs go forward: one that is more than the
 * next is refused before anything is computed, and the key moves on only when a packet has proved the epoch. The last
 * epoch's packets are no longer read then. */
int net_open(struct net_sealing *sealing, uint64_t number, const void *head, size_t head_bytes, unsigned char *body,
	size_t sealed_bytes);

/* ---- replays ---------------------------------------------------------------------------------------------- */

/* Numbers of datagrams that have come (RFC 6479's bitmap). All zero: none. */
struct net_replay {
	uint64_t end; /* one more than the highest */
	uint64_t bits[NET_REPLAY_BITS / 64 + 1]; /* one word more: the newest is seldom full */
};

/* Whether it is new: ask before opening; note after. */
bool net_replay_is_new(const struct net_replay *replay, uint64_t number);
void net_replay_note(struct net_replay *replay, uint64_t number);

#endif
