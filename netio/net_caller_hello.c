/*
 * The handshake of net_caller: HELLO, and what answers it. On a datagram socket anybody can answer, so that what does not open there, or
 * refuses, does not end anything by itself; on a stream it does.
 *
 * Each HELLO that is not the same bytes again has a new ephemeral key: two messages under one key and one number would give it away.
 */
#include "netio/net_caller_private.h"

#include <errno.h>
#include <string.h>

#define HELLO_AGAIN_NS INT64_C(20000000)
#define HELLO_AGAIN_MOST_NS INT64_C(200000000)
#define REFUSED_AFTER_NS INT64_C(200000000) /* a WELCOME may still come */
enum { REFUSALS = 3 };                      /* so many, in answer to so many HELLOs, are believed */

static bool is_datagram(const struct net_caller *caller)
{
	return caller->options.datagram;
}

/* ---- HELLO -------------------------------------------------------------------------------------------------- */

/* A stream loses nothing. */
static uint64_t offered(const struct net_caller *caller)
{
	return is_datagram(caller) ? NET_FEATURE_HAVE : 0;
}

/* Clear part and sealed part; caller->hello says with what. */
static void write_body(struct net_caller *caller, int64_t now_ns)
{
	struct caller_hello *hello = &caller->hello;
	struct net_clear clear = { .cipher = hello->cipher };
	struct net_hello said = { .features = offered(caller), .datagram_bytes = caller->datagram_bytes, .clock_ns = now_ns };
	unsigned char sealed[NET_HELLO_BYTES], secret[NET_KEY_BYTES];
	struct net_come come;

	net_inbox_come(caller->inbox, &come);
	if (hello->resume) {
		memcpy(said.resume, caller->welcome.token, sizeof(said.resume));
		said.replies = come.number;
	}
	memcpy(clear.cookie, hello->cookie, sizeof(clear.cookie));
	memset(hello->body, 0, sizeof(hello->body));
	if (!caller->options.plain)
		net_key_name(caller->options.key, clear.key);
	net_clear_write(hello->body, &clear);
	net_hello_write(sealed, &said);
	hello->bytes = NET_CLEAR_BYTES + NET_HELLO_BYTES;
	if (caller->options.plain) {
		memcpy(hello->body + NET_CLEAR_BYTES, sealed, NET_HELLO_BYTES);
	} else {
		caller->options.random(caller->options.random_context, secret, sizeof(secret));
		net_noise_begin(&hello->noise, (enum net_cipher)hello->cipher, true, hello->body, NET_CLEAR_BYTES, caller->options.key, secret);
		hello->bytes = NET_CLEAR_BYTES + net_noise_write(&hello->noise, sealed, NET_HELLO_BYTES, hello->body + NET_CLEAR_BYTES);
	}
	if (is_datagram(caller))
		hello->bytes = NET_HELLO_DATAGRAM_BYTES - NET_DATAGRAM_HEAD_BYTES;
	hello->clock_ns = now_ns;
}

static void say(struct net_caller *caller, int64_t now_ns)
{
	write_body(caller, now_ns);
	caller->hello.said = false;
	net_again_start(&caller->hello.again, now_ns, HELLO_AGAIN_NS);
}

void caller_hello_start(struct net_caller *caller, int64_t now_ns, bool resume)
{
	caller->hello = (struct caller_hello){ .resume = resume, .refused_ns = NET_NEVER };
	caller->hello.cipher = net_cipher_here(NET_CIPHER_AESGCM) ? NET_CIPHER_AESGCM : NET_CIPHER_CHACHA;
	if (caller->options.plain)
		caller->hello.cipher = NET_CIPHER_PLAIN;
	caller->state = NET_CALLER_SHAKING;
	say(caller, now_ns);
}

size_t caller_hello_next(struct net_caller *caller, int64_t now_ns, unsigned char *packet)
{
	struct caller_hello *hello = &caller->hello;

	if (now_ns >= hello->refused_ns) {
		caller->state = NET_CALLER_REFUSED;
		return 0;
	}
	if (hello->said && !(is_datagram(caller) && net_again_due(&hello->again, now_ns, HELLO_AGAIN_NS, HELLO_AGAIN_MOST_NS)))
		return 0;
	hello->said = true;
	caller->counts.hellos++;
	memcpy(packet + net_packet_head_bytes(is_datagram(caller)), hello->body, hello->bytes);
	return net_packet_clear(packet, is_datagram(caller), NET_HELLO, 0, hello->bytes);
}

int64_t caller_hello_event_ns(const struct net_caller *caller)
{
	const struct caller_hello *hello = &caller->hello;

	if (!hello->said)
		return 0;
	if (!is_datagram(caller))
		return NET_NEVER;
	return hello->again.at_ns < hello->refused_ns ? hello->again.at_ns : hello->refused_ns;
}

/* ---- answers ------------------------------------------------------------------------------------------------ */

static void refuse(struct net_caller *caller, uint32_t why)
{
	caller->state = NET_CALLER_REFUSED;
	caller->why = why;
}

/* What cannot be an answer: on a datagram socket anybody's, and on a stream the end. */
static void bad_answer(struct net_caller *caller, uint64_t *count)
{
	++*count;
	if (!is_datagram(caller))
		refuse(caller, NET_WHY_PROTOCOL);
}

static void read_refused(struct net_caller *caller, int64_t now_ns, const unsigned char *body, size_t bytes)
{
	struct caller_hello *hello = &caller->hello;
	struct net_refused refused;

	if (net_refused_read(body, bytes, &refused) != 0) {
		bad_answer(caller, &caller->counts.bad_head);
		return;
	}
	/* One step, and only to what is as good: nobody talks us into speaking openly. */
	if (refused.why == NET_WHY_CIPHER && hello->cipher == NET_CIPHER_AESGCM && refused.ciphers >> NET_CIPHER_CHACHA & 1) {
		hello->cipher = NET_CIPHER_CHACHA;
		say(caller, now_ns);
		return;
	}
	if (!is_datagram(caller)) {
		refuse(caller, refused.why);
		return;
	}
	/* One HELLO may have been changed on the way, and so be no HELLO. */
	caller->why = refused.why;
	if (hello->refusals++ == 0)
		hello->refused_first_ns = now_ns;
	if (hello->refusals >= REFUSALS && hello->refused_ns == NET_NEVER)
		hello->refused_ns = hello->refused_first_ns + REFUSED_AFTER_NS;
}

static void read_cookie(struct net_caller *caller, int64_t now_ns, const unsigned char *body, size_t bytes)
{
	struct caller_hello *hello = &caller->hello;

	if (!is_datagram(caller) || bytes != NET_COOKIE_BYTES) {
		bad_answer(caller, &caller->counts.not_ours);
		return;
	}
	/* The answer to a HELLO that was said twice comes twice. */
	if (memcmp(hello->cookie, body, NET_COOKIE_BYTES) == 0)
		return;
	memcpy(hello->cookie, body, NET_COOKIE_BYTES);
	say(caller, now_ns);
}

/* The least power of two that so many fit into. */
static uint32_t window_of(uint32_t messages)
{
	uint32_t window = 1;

	while (window < messages)
		window *= 2;
	return window;
}

/* Whether it says what was agreed on before. */
static bool is_as_before(const struct net_caller *caller, const struct net_welcome *welcome)
{
	const struct net_welcome *before = &caller->welcome;

	return welcome->boot_id == before->boot_id && welcome->features == before->features &&
		welcome->max_in_flight == before->max_in_flight && welcome->stream_credits == before->stream_credits &&
		welcome->window_bytes == before->window_bytes && welcome->message_bytes == before->message_bytes;
}

/* The connection broke before the daemon had heard of it: then it was never confirmed, nothing of it was executed, and all of it may be
 * said to the one that was given in its stead. Had it been confirmed, the daemon would have waited for us for resume_ms. */
static bool was_never_there(const struct net_caller *caller, int64_t now_ns, const struct net_welcome *welcome)
{
	return !caller->answered && is_as_before(caller, welcome) &&
		now_ns - caller->heard_ns < (int64_t)caller->welcome.resume_ms * 1000000;
}

/* Whether it fits what was asked for. */
static bool is_sound(const struct net_caller *caller, const struct net_welcome *welcome)
{
	if (welcome->clock_ns != caller->hello.clock_ns || welcome->features & ~offered(caller) ||
			(is_datagram(caller) && welcome->datagram_bytes < NET_DATAGRAM_BYTES_LEAST))
		return false;
	if (!(welcome->flags & NET_RESUMED))
		return true;
	return caller->hello.resume && is_as_before(caller, welcome);
}

/* Opens it without harm to the handshake: what does not open may be anybody's. 0, or -EBADMSG. */
static int open_welcome(struct net_caller *caller, const unsigned char *body, size_t bytes, unsigned char clear[NET_WELCOME_BYTES])
{
	struct net_noise noise = caller->hello.noise;
	struct net_packets *packets = &caller->packets;
	const size_t wanted = NET_WELCOME_BYTES + (caller->options.plain ? 0 : NET_NOISE_BYTES);

	if (bytes != wanted)
		return -EBADMSG;
	*packets = (struct net_packets){ .datagram = is_datagram(caller), .plain = caller->options.plain };
	if (caller->options.plain)
		memcpy(clear, body, NET_WELCOME_BYTES);
	else if (net_noise_read(&noise, body, bytes, clear) != NET_WELCOME_BYTES)
		return -EBADMSG;
	else
		net_noise_split(&noise, &packets->send, &packets->receive);
	return 0;
}

static void read_welcome(struct net_caller *caller, int64_t now_ns, const unsigned char *body, size_t bytes)
{
	unsigned char clear[NET_WELCOME_BYTES];
	struct net_welcome welcome;

	if (open_welcome(caller, body, bytes, clear) != 0) {
		bad_answer(caller, &caller->counts.not_opened);
		return;
	}
	if (net_welcome_read(clear, &welcome) != 0 || !is_sound(caller, &welcome)) {
		bad_answer(caller, &caller->counts.not_ours);
		return;
	}
	if (caller->hello.resume && !(welcome.flags & NET_RESUMED) && !was_never_there(caller, now_ns, &welcome)) {
		caller->state = NET_CALLER_ENDED;
		caller->why = NET_WHY_UNKNOWN;
		return;
	}
	caller->packets.name = welcome.name;
	if (is_datagram(caller) && welcome.datagram_bytes < caller->datagram_bytes)
		caller->datagram_bytes = welcome.datagram_bytes;
	caller->window = window_of(welcome.max_in_flight + welcome.stream_credits);
	caller->welcome = welcome;
	(void)net_pace_sample(&caller->pace, now_ns,
		&(struct net_times){ .sender_ns = welcome.clock_ns, .received_ns = welcome.now_ns, .sent_ns = welcome.now_ns },
		caller->hello.again.tries > 0);
	caller_open(caller, now_ns);
}

void caller_hello_packet(struct net_caller *caller, int64_t now_ns, const struct net_packet_head *head, const unsigned char *body)
{
	switch (head->kind) {
	case NET_WELCOME:
		read_welcome(caller, now_ns, body, head->body_bytes);
		break;
	case NET_REFUSED:
		read_refused(caller, now_ns, body, head->body_bytes);
		break;
	case NET_COOKIE:
		read_cookie(caller, now_ns, body, head->body_bytes);
		break;
	default:
		bad_answer(caller, &caller->counts.not_ours);
	}
}
