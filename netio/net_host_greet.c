/*
 * Handshakes: HELLO to WELCOME, COOKIE or REFUSED. See net_host.h, and docs/PROTOCOL.md.
 *
 * Nothing costly is computed before the first message of a handshake has opened under a tenant's key; nothing is remembered of a datagram
 * before that, and no answer is longer than what it answers.
 */
#include <errno.h>
#include <string.h>

#include <sodium.h>

#include "base/base_bytes.h"
#include "netio/net_host_internal.h"

enum {
	COOKIE_SLOT_SHIFT = 33,  /* a cookie lives for 8.6 to 17 s */
	HELLO_SLOT_SHIFT = 30,   /* 1.07 s, in which so many datagrams' HELLOs are opened without a cookie: */
	HELLOS_PER_SLOT = 512,
	ANSWERS_PER_POLL = 64,   /* to strangers */
	WAITING_PER_GREET = 64,  /* one HELLO is answered in a poll, and one more for so many that wait */
	SEALED_HELLO_BYTES = NET_CLEAR_BYTES + NET_NOISE_BYTES + NET_HELLO_BYTES,
	PLAIN_HELLO_BYTES = NET_CLEAR_BYTES + NET_HELLO_BYTES,
	HELLO_DATAGRAM_BODY_BYTES = NET_HELLO_DATAGRAM_BYTES - NET_DATAGRAM_HEAD_BYTES,
};

/* ---- small answers ---------------------------------------------------------------------------------------- */

static bool send_packet(struct net_host *host, const struct net_way *way, const unsigned char *packet, size_t bytes)
{
	size_t room;
	unsigned char *to = host->port->room(host->port->self, way, bytes, &room);

	if (!to || room < bytes)
		return false;
	memcpy(to, packet, bytes);
	host->port->put(host->port->self, way, bytes);
	return true;
}

static bool is_datagram(const struct net_way *way)
{
	return way->stream == NET_NO_STREAM;
}

static void say_refused(struct net_host *host, const struct net_way *way, uint32_t why)
{
	struct net_refused refused = { .why = why, .version = NET_VERSION };
	unsigned char packet[NET_DATAGRAM_HEAD_BYTES + NET_REFUSED_BYTES];

	for (enum net_cipher cipher = NET_CIPHER_PLAIN; cipher < NET_CIPHER_END; cipher++)
		if (cipher == NET_CIPHER_PLAIN ? host->listeners[way->listener].plain : net_cipher_here(cipher))
			refused.ciphers |= UINT32_C(1) << cipher;
	net_refused_write(packet + net_packet_head_bytes(is_datagram(way)), &refused);
	(void)send_packet(host, way, packet, net_packet_clear(packet, is_datagram(way), NET_REFUSED, 0, NET_REFUSED_BYTES));
}

/* Whether a stranger's datagram is answered: not all that may come in a poll. */
static bool may_answer(struct net_host *host)
{
	if (host->answers++ < ANSWERS_PER_POLL)
		return true;
	net_count(&host->counters.unanswered);
	return false;
}

void net_host_refuse_datagram(struct net_host *host, const struct net_way *way, uint32_t why)
{
	net_count(&host->counters.refused[why]);
	if (may_answer(host))
		say_refused(host, way, why);
}

/* ---- cookies ---------------------------------------------------------------------------------------------- */

static void cookie_of(const struct net_host *host, const struct net_way *way, int64_t slot, unsigned char cookie[NET_COOKIE_BYTES])
{
	unsigned char from[sizeof(uint32_t) + sizeof(int64_t) + NET_ADDRESS_BYTES];

	base_store32(from, way->listener);
	base_store64(from + 4, (uint64_t)slot);
	memcpy(from + 12, way->address, NET_ADDRESS_BYTES);
	crypto_generichash(cookie, NET_COOKIE_BYTES, from, sizeof(from), host->secret, sizeof(host->secret));
}

static bool is_cookie(const struct net_host *host, const struct net_way *way, const unsigned char given[NET_COOKIE_BYTES])
{
	const int64_t slot = host->now_ns >> COOKIE_SLOT_SHIFT;
	unsigned char cookie[NET_COOKIE_BYTES];

	cookie_of(host, way, slot, cookie);
	if (sodium_memcmp(cookie, given, NET_COOKIE_BYTES) == 0)
		return true;
	cookie_of(host, way, slot - 1, cookie);
	return sodium_memcmp(cookie, given, NET_COOKIE_BYTES) == 0;
}

/* Opening a HELLO takes some microseconds, of whoever sends it from wherever. */
static bool are_too_many(struct net_host *host)
{
	const int64_t slot = host->now_ns >> HELLO_SLOT_SHIFT;

	if (slot != host->hello_slot)
		host->hellos = 0;
	host->hello_slot = slot;
	return host->hellos++ >= HELLOS_PER_SLOT;
}

static bool wants_cookies(struct net_host *host)
{
	return are_too_many(host) || host->options.cookies || host->half_open.count + host->waiting.count > host->options.half_open_max / 4;
}

static void send_cookie(struct net_host *host, const struct net_way *way)
{
	unsigned char packet[NET_DATAGRAM_HEAD_BYTES + NET_COOKIE_BYTES];

	if (!may_answer(host))
		return;
	cookie_of(host, way, host->now_ns >> COOKIE_SLOT_SHIFT, packet + NET_DATAGRAM_HEAD_BYTES);
	net_count(&host->counters.cookies);
	(void)send_packet(host, way, packet, net_packet_clear(packet, true, NET_COOKIE, 0, NET_COOKIE_BYTES));
}

/* ---- who it is -------------------------------------------------------------------------------------------- */

struct greeting {
	struct net_clear clear;
	struct net_hello hello;
	struct net_noise noise; /* where not plain */
	uint32_t tenant;
};

static const struct net_host_key *key_of(const struct net_host *host, const unsigned char name[NET_NAME_BYTES])
{
	for (uint32_t i = 0; i < host->options.key_count; i++)
		if (memcmp(host->key_names[i], name, NET_NAME_BYTES) == 0)
			return &host->keys[i];
	return NULL;
}

/* What stands behind a HELLO in a datagram is zeros; on a stream nothing does. */
static bool is_whole(const struct net_way *way, const unsigned char *body, size_t bytes, size_t hello_bytes)
{
	return bytes >= hello_bytes && (is_datagram(way) ? sodium_is_zero(body + hello_bytes, bytes - hello_bytes) : bytes == hello_bytes);
}

static uint32_t open_sealed(struct net_host *host, const struct net_way *way, const unsigned char *body, size_t bytes,
	struct greeting *greeting)
{
	const struct net_host_key *key = key_of(host, greeting->clear.key);
	unsigned char secret[NET_KEY_BYTES], sealed[NET_HELLO_BYTES];
	int rc;

	if (!net_cipher_here(greeting->clear.cipher))
		return NET_WHY_CIPHER;
	if (!is_whole(way, body, bytes, SEALED_HELLO_BYTES))
		return NET_WHY_PROTOCOL;
	if (!key)
		return NET_WHY_KEY;
	host->options.random(host->options.random_context, secret, sizeof(secret));
	net_noise_begin(&greeting->noise, greeting->clear.cipher, false, body, NET_CLEAR_BYTES, key->key, secret);
	sodium_memzero(secret, sizeof(secret));
	rc = net_noise_read(&greeting->noise, body + NET_CLEAR_BYTES, NET_NOISE_BYTES + NET_HELLO_BYTES, sealed);
	greeting->tenant = key->tenant;
	return rc < 0 ? NET_WHY_KEY : net_hello_read(sealed, &greeting->hello) ? NET_WHY_PROTOCOL : NET_WHY_BYE;
}

static uint32_t open_plain(const struct net_host *host, const struct net_way *way, const unsigned char *body, size_t bytes,
	struct greeting *greeting)
{
	if (!host->listeners[way->listener].plain)
		return NET_WHY_KEY;
	if (!is_whole(way, body, bytes, PLAIN_HELLO_BYTES))
		return NET_WHY_PROTOCOL;
	greeting->tenant = host->listeners[way->listener].tenant;
	return net_hello_read(body + NET_CLEAR_BYTES, &greeting->hello) ? NET_WHY_PROTOCOL : NET_WHY_BYE;
}

/* Reads a HELLO as far as it can be read without remembering anything. */
static uint32_t open_hello(struct net_host *host, const struct net_way *way, const unsigned char *body, size_t bytes,
	struct greeting *greeting)
{
	int rc;

	if (bytes < NET_CLEAR_BYTES)
		return NET_WHY_PROTOCOL;
	rc = net_clear_read(body, &greeting->clear);
	if (rc)
		return rc == -EPROTONOSUPPORT ? NET_WHY_VERSION : NET_WHY_PROTOCOL;
	if (host->refuse_why != NET_WHY_BYE)
		return host->refuse_why;
	return greeting->clear.cipher == NET_CIPHER_PLAIN ? open_plain(host, way, body, bytes, greeting) :
		open_sealed(host, way, body, bytes, greeting);
}

/* ---- WELCOME ---------------------------------------------------------------------------------------------- */

static uint64_t name_of(struct net_host *host, const struct link *link)
{
	uint32_t random;

	host->options.random(host->options.random_context, &random, sizeof(random));
	/* 0 is nobody's. */
	return (uint64_t)(random | 1) << 32 | (uint32_t)(link - host->links);
}

static uint16_t datagram_bytes_of(const struct net_hello *hello)
{
	const uint32_t said = hello->datagram_bytes > NET_DATAGRAM_BYTES_LEAST ? hello->datagram_bytes : NET_DATAGRAM_BYTES_LEAST;

	return (uint16_t)(said < NET_PACKET_BYTES_MAX ? said : NET_PACKET_BYTES_MAX);
}

/* The whole packet, into the link. */
static void write_welcome(struct net_host *host, struct link *link, struct greeting *greeting, struct net_welcome *welcome)
{
	unsigned char *body = link->welcome + net_packet_head_bytes(link->packets.datagram), clear[NET_WELCOME_BYTES];
	size_t bytes = NET_WELCOME_BYTES;

	link->features = link->packets.datagram ? greeting->hello.features & NET_FEATURE_HAVE : 0;
	welcome->features = link->features;
	welcome->now_ns = base_clock_now(host->options.clock); /* not the poll's time, which may be before HELLO was sent */
	welcome->clock_ns = greeting->hello.clock_ns;
	welcome->datagram_bytes = link->datagram_bytes;
	welcome->name = link->packets.name;
	net_welcome_write(clear, welcome);
	if (link->packets.plain) {
		memcpy(body, clear, bytes);
	} else {
		bytes = net_noise_write(&greeting->noise, clear, bytes, body);
		net_noise_split(&greeting->noise, &link->packets.send, &link->packets.receive);
	}
	link->welcome_bytes = (uint32_t)net_packet_clear(link->welcome, link->packets.datagram, NET_WELCOME, link->packets.name, bytes);
}

void net_host_say_welcome(struct net_host *host, struct link *link)
{
	/* A stream says when it has room; who sends datagrams asks again. */
	link->welcome_waits = !send_packet(host, &link->way, link->welcome, link->welcome_bytes);
}

static uint32_t welcome_link(struct net_host *host, struct link *link, struct greeting *greeting)
{
	const struct net_host_above *above = &host->options.above;
	const uint32_t index = (uint32_t)(link - host->links);
	struct net_welcome welcome = { .features = 0 };
	uint32_t why = above->welcome(above->context, index, greeting->tenant, &greeting->hello, &welcome, &link->owner);

	if (why != NET_WHY_BYE)
		return why;
	net_count(&host->counters.welcomed);
	link->packets = (struct net_packets){ .datagram = is_datagram(&link->way), .plain = greeting->clear.cipher == NET_CIPHER_PLAIN };
	link->packets.name = name_of(host, link);
	link->datagram_bytes = link->packets.datagram ? datagram_bytes_of(&greeting->hello) : 0;
	link->state = LINK_WELCOMED;
	write_welcome(host, link, greeting, &welcome);
	net_host_say_welcome(host, link);
	return NET_WHY_BYE;
}

/* The answer to a sealed HELLO takes some 50 us, for which everybody else waits: so few of them in a poll. */
void net_host_greet_budget(struct net_host *host)
{
	host->greets = 1 + host->waiting.count / WAITING_PER_GREET;
}

static bool may_greet(struct net_host *host, const struct greeting *greeting)
{
	if (greeting->clear.cipher == NET_CIPHER_PLAIN)
		return true;
	if (host->greets == 0)
		return false;
	host->greets--;
	return true;
}

/* Keeps the HELLO until a later poll. Who seals cannot say more before WELCOME has come. */
static void wait_for_turn(struct net_host *host, struct link *link, const unsigned char *body, size_t bytes)
{
	memmove(link->hello, body, bytes);
	link->hello_bytes = (uint32_t)bytes;
	net_count(&host->counters.hellos_waited);
	net_host_link_turn(host, link, LINK_WAITING);
}

bool net_host_greet_stream(struct net_host *host, struct link *link, const unsigned char *body, size_t bytes)
{
	struct greeting greeting;
	uint32_t why = open_hello(host, &link->way, body, bytes, &greeting);

	if (why == NET_WHY_BYE && may_greet(host, &greeting))
		why = welcome_link(host, link, &greeting);
	else if (why == NET_WHY_BYE)
		wait_for_turn(host, link, body, bytes);
	sodium_memzero(&greeting.noise, sizeof(greeting.noise));
	if (why == NET_WHY_BYE)
		return true;
	net_count(&host->counters.refused[why]);
	say_refused(host, &link->way, why);
	return false;
}

/* Who sends the same HELLO again has not heard our WELCOME. */
static struct link *link_of_hello(const struct net_host *host, const struct net_way *way, const unsigned char *id)
{
	for (uint32_t i = host->half_open.first; i != NET_NO_LINK; i = host->links[i].next) {
		struct link *link = &host->links[i];

		if (link->state == LINK_WELCOMED && memcmp(link->hello_id, id, NET_HELLO_ID_BYTES) == 0 &&
			memcmp(&link->way, way, sizeof(*way)) == 0)
			return link;
	}
	return NULL;
}

void net_host_greet_datagram(struct net_host *host, const struct net_way *way, const unsigned char *body, size_t bytes)
{
	const unsigned char *id = body + NET_CLEAR_BYTES;
	struct greeting greeting;
	struct link *link;
	uint32_t why;
	bool is_late;

	if (bytes != HELLO_DATAGRAM_BODY_BYTES) {
		net_count(&host->counters.malformed);
		return;
	}
	link = link_of_hello(host, way, id);
	if (link) {
		net_count(&host->counters.hellos_again);
		net_host_say_welcome(host, link);
		return;
	}
	if (wants_cookies(host) && !is_cookie(host, way, body + NET_CLEAR_BYTES - NET_COOKIE_BYTES)) {
		send_cookie(host, way);
		return;
	}
	why = open_hello(host, way, body, bytes, &greeting);
	is_late = why == NET_WHY_BYE && !may_greet(host, &greeting);
	link = why == NET_WHY_BYE && !is_late ? net_host_link_take(host, way) : NULL;
	if (is_late) {
		net_count(&host->counters.unanswered); /* it is sent again */
	} else if (link) {
		memcpy(link->hello_id, id, NET_HELLO_ID_BYTES);
		why = welcome_link(host, link, &greeting);
		if (why != NET_WHY_BYE)
			net_host_link_free(host, link);
	} else if (why == NET_WHY_BYE) {
		why = NET_WHY_FULL;
	}
	sodium_memzero(&greeting.noise, sizeof(greeting.noise));
	if (why != NET_WHY_BYE && !is_late)
		net_host_refuse_datagram(host, way, why);
}
