/*
 * What both sides say first: HELLO, WELCOME, REFUSED. docs/PROTOCOL.md, Network, has the bytes.
 *
 * Pure: structs to bytes and back. What is read comes from anybody: readers return 0 or -EPROTO, and check that reserved fields are zero;
 * but not those of REFUSED, which has to be understood whatever version said it.
 */
#ifndef NET_HELLO_H
#define NET_HELLO_H

#include "netio/net_packet.h"

enum {
	NET_VERSION = 1,
	NET_NAME_BYTES = 16,   /* of a key; of a token to resume with */
	NET_COOKIE_BYTES = 32,
	NET_CLEAR_BYTES = 64,  /* HELLO's clear part, the prologue of the handshake */
	NET_HELLO_BYTES = 40,  /* HELLO's sealed part */
	NET_WELCOME_BYTES = 88,
	NET_REFUSED_BYTES = 16,
	NET_NOISE_BYTES = NET_KEY_BYTES + NET_TAG_BYTES, /* around what a message of the handshake seals */
	NET_HELLO_DATAGRAM_BYTES = 512, /* a HELLO is padded to it, so that no answer is longer */
};

/* Why a connection is not made, or ended: in REFUSED and CLOSE. */
enum net_why {
	NET_WHY_BYE = 0,     /* the other side has no more to say; what it had is forgotten */
	NET_WHY_VERSION = 1,
	NET_WHY_CIPHER,      /* `ciphers` says which would do */
	NET_WHY_KEY,         /* unknown, or not the one it says, or plain where that is not taken */
	NET_WHY_FULL,        /* no place for a connection, of this tenant or at all */
	NET_WHY_DRAINING,
	NET_WHY_PROTOCOL,
	NET_WHY_UNKNOWN,     /* no such connection here: say HELLO, with the token */
	NET_WHY_REPLACED,    /* its token was used for a new one */
	NET_WHY_END
};

/* What HELLO offers and WELCOME takes. */
enum {
	NET_FEATURE_HAVE = 1, /* datagrams: long messages bit by bit, so that only what is lost of them is sent again */
	NET_FEATURES = NET_FEATURE_HAVE,
};

/* In WELCOME's flags. */
enum { NET_RESUMED = 1 };

struct net_clear {
	uint8_t cipher; /* enum net_cipher, or one that is not known here */
	unsigned char key[NET_NAME_BYTES];
	unsigned char cookie[NET_COOKIE_BYTES]; /* zeros: none */
};

struct net_hello {
	uint64_t features;                    /* what the client offers; what is not known here is no mistake */
	unsigned char resume[NET_NAME_BYTES]; /* zeros: a new connection */
	uint32_t replies;                     /* come so far; 0 */
	uint32_t datagram_bytes;              /* the longest that the way to the sender takes; streams: 0 */
	int64_t clock_ns;
};

struct net_welcome {
	uint64_t features, boot_id;             /* of the features offered those that hold */
	unsigned char token[NET_NAME_BYTES];
	int64_t now_ns, clock_ns;               /* the daemon's clock; HELLO's, as it came */
	uint32_t max_in_flight, stream_credits; /* requests; completions without FINAL that may be on their way */
	uint32_t window_bytes, message_bytes;   /* of replies kept; of one message, either way */
	uint32_t requests;                      /* taken so far */
	uint32_t resume_ms;
	uint32_t datagram_bytes;                /* the longest that the daemon takes, or sends */
	uint32_t flags;
	uint64_t name;                          /* the connection's, as in the heads of datagrams */
};

struct net_refused {
	uint32_t why;     /* enum net_why */
	uint32_t ciphers; /* bit by enum net_cipher */
	uint16_t version;
};

/* The name of a key: what SHA-256 of "attnd key" and the key begins with. */
void net_key_name(const unsigned char key[NET_KEY_BYTES], unsigned char name[NET_NAME_BYTES]);
/* A key as people keep it: 64 hexadecimal digits, blanks and line ends around them. 0 or -EINVAL. */
int net_key_parse(const char *text, unsigned char key[NET_KEY_BYTES]);

void net_clear_write(unsigned char to[NET_CLEAR_BYTES], const struct net_clear *clear);
/* -EPROTO: not this protocol; -EPROTONOSUPPORT: another version. */
int net_clear_read(const unsigned char from[NET_CLEAR_BYTES], struct net_clear *clear);
void net_hello_write(unsigned char to[NET_HELLO_BYTES], const struct net_hello *hello);
int net_hello_read(const unsigned char from[NET_HELLO_BYTES], struct net_hello *hello);
void net_welcome_write(unsigned char to[NET_WELCOME_BYTES], const struct net_welcome *welcome);
int net_welcome_read(const unsigned char from[NET_WELCOME_BYTES], struct net_welcome *welcome);
void net_refused_write(unsigned char to[NET_REFUSED_BYTES], const struct net_refused *refused);
int net_refused_read(const unsigned char *from, size_t bytes, struct net_refused *refused);

/* A sentence's end about a net_why: "the key is not known there". Never NULL. */
const char *net_why_text(uint32_t why);

#endif
