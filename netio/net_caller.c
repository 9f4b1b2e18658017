/*
 * The client's side of a connection once it is open. See net_caller.h.
 */
#include "netio/net_caller_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"

enum {
	TRIPS_TO_WAIT = 4,  /* round trips before something counts as lost */
	PINGS_TO_DEATH = 4, /* unanswered ones before the connection does */
	ACK_SHARE = 2,      /* of the window and of the credits: what is not acknowledged longer */
	ACK_BYTES_SHARE = 4,
	HAVES_MAX = 4,      /* in a packet: the oldest messages */
	UNITS_UNSAID = 8,   /* of long replies; a window has 16 at least */
};
#define AGAIN_LEAST_NS INT64_C(2000000)
#define AGAIN_MOST_NS INT64_C(100000000)
#define STREAM_AGAIN_NS INT64_C(1000000000) /* streams lose nothing: a last resort */
#define STREAM_AGAIN_MOST_NS INT64_C(8000000000)
#define UNKNOWN_LEAST_NS INT64_C(10000000)
#define MEASURE_NS INT64_C(100000000)
#define MEASURE_AGAIN_NS INT64_C(1000000000)
#define ACK_AFTER_NS INT64_C(1000000) /* what no other packet has taken along by then goes alone */

/* ---- time --------------------------------------------------------------------------------------------------- */

static int64_t wait_ns(const struct net_caller *caller)
{
	const int64_t trips_ns = TRIPS_TO_WAIT * caller->pace.trip_ns;

	if (!caller->options.datagram)
		return STREAM_AGAIN_NS;
	return trips_ns > AGAIN_LEAST_NS ? trips_ns : AGAIN_LEAST_NS;
}

static int64_t wait_most_ns(const struct net_caller *caller)
{
	return caller->options.datagram ? AGAIN_MOST_NS : STREAM_AGAIN_MOST_NS;
}

static int64_t ping_every_ns(const struct net_caller *caller)
{
	return caller->options.dead_after_ns / PINGS_TO_DEATH;
}

static int64_t earlier(int64_t one_ns, int64_t other_ns)
{
	return one_ns < other_ns ? one_ns : other_ns;
}

/* A word of the daemon's own has come. */
static void heard(struct net_caller *caller, int64_t now_ns)
{
	caller->heard_ns = now_ns;
	caller->asked_ns = caller->unknown_ns = NET_NEVER;
}

/* Somebody who asks and hears nothing is alone. Who has not looked for a while has not asked, either. */
static int64_t death_ns(const struct net_caller *caller)
{
	const int64_t silent_ns = caller->options.dead_after_ns - ping_every_ns(caller);

	return caller->asked_ns == NET_NEVER ? NET_NEVER : caller->asked_ns + silent_ns;
}

/* A PING that only measures the way does not put off the one that asks whether anybody is there. */
static int64_t ping_ns(const struct net_caller *caller)
{
	const bool is_asking = caller->asked_ns != NET_NEVER && caller->pinged_ns > caller->heard_ns;

	return (is_asking ? caller->pinged_ns : caller->heard_ns) + ping_every_ns(caller);
}

static void ask(struct net_caller *caller, int64_t now_ns)
{
	caller->ping_due = true;
	caller->asked_ns = earlier(caller->asked_ns, now_ns);
}

void net_caller_pass(struct net_caller *caller, int64_t now_ns)
{
	if (caller->state != NET_CALLER_OPEN)
		return;
	if (now_ns >= death_ns(caller) || now_ns >= caller->unknown_ns) {
		caller->state = NET_CALLER_LOST;
		return;
	}
	if (net_again_due(&caller->resend, now_ns, wait_ns(caller), wait_most_ns(caller))) {
		net_outbox_resend(caller->outbox);
		caller->counts.resends++;
		caller_way_look(caller, now_ns);
	}
	if (net_again_due(&caller->probe, now_ns, wait_ns(caller), wait_most_ns(caller)))
		caller->probe_due = true;
	if (now_ns >= caller->ack_ns)
		caller->ack_due = true;
	if (now_ns >= ping_ns(caller))
		ask(caller, now_ns);
}

/* Waits for an answer to what has been sent. */
static void wait_for_answers(struct net_caller *caller, int64_t now_ns)
{
	/* A stream loses nothing; what was dropped at its end is asked for by AGAIN. */
	if (caller->options.datagram && caller->resend.at_ns == NET_NEVER && net_outbox_kept(caller->outbox) > 0)
		net_again_start(&caller->resend, now_ns, wait_ns(caller));
	if (caller->probe.at_ns == NET_NEVER && net_calls_count(caller->calls) > 0)
		net_again_start(&caller->probe, now_ns, wait_ns(caller));
}

int64_t net_caller_event_ns(const struct net_caller *caller)
{
	int64_t event_ns;

	if (caller->state == NET_CALLER_SHAKING)
		return caller_hello_event_ns(caller);
	if (caller->close_due)
		return 0;
	if (caller->state != NET_CALLER_OPEN)
		return NET_NEVER;
	if (caller->ack_due || caller->probe_due || caller->ping_due || caller->pong_due || net_outbox_waiting(caller->outbox))
		return 0;
	event_ns = earlier(caller->resend.at_ns, caller->probe.at_ns);
	event_ns = earlier(event_ns, earlier(death_ns(caller), caller->unknown_ns));
	return earlier(event_ns, earlier(ping_ns(caller), caller->ack_ns));
}

/* ---- what is to be said ------------------------------------------------------------------------------------- */

/* What has come of replies that are not whole. */
static void put_haves(struct net_caller *caller, int64_t now_ns, struct net_writer *body)
{
	struct net_have have;
	uint32_t ahead = 0;

	for (uint32_t i = 0; i < HAVES_MAX && caller->haves && net_inbox_have(caller->inbox, &ahead, &have); i++)
		if (!net_have_put(body, caller->again_due && have.words > 0 ? NET_HAVE_AGAIN : 0, &have))
			break;
	if (caller->again_due)
		caller->probed_ns = now_ns;
	caller->again_due = false;
	caller->units_unsaid = 0;
}

/* Acknowledges all that has come. */
static void put_ack(struct net_caller *caller, int64_t now_ns, struct net_writer *body)
{
	struct net_come come;

	put_haves(caller, now_ns, body); /* before a PROBE, which is about what is missing */
	net_inbox_come(caller->inbox, &come);
	come.credits = caller->credits;
	if (!net_come_put(body, NET_ACK, caller->probe_due ? NET_ACK_PROBE : 0, &come))
		return;
	if (caller->probe_due) {
		caller->probed_ns = now_ns;
		caller->counts.probes++;
	}
	caller->acked = come.number;
	caller->credits_acked = come.credits;
	caller->unacked_bytes = 0;
	caller->ack_ns = NET_NEVER;
	caller->ack_due = caller->probe_due = false;
}

static void put_ping(struct net_caller *caller, int64_t now_ns, struct net_writer *body)
{
	const struct net_times times = { .sender_ns = now_ns };

	if (!net_times_put(body, NET_PING, &times))
		return;
	caller->counts.pings++;
	caller->ping_due = false;
	caller->ping_open = true;
	caller->pinged_ns = now_ns;
}

static void put_pong(struct net_caller *caller, int64_t now_ns, struct net_writer *body)
{
	caller->pong.sent_ns = now_ns;
	caller->pong_due = !net_times_put(body, NET_PONG, &caller->pong);
}

/* Replies delivered and not acknowledged. An ACK may have been ahead of it: it is about what has come. */
static uint32_t replies_unacknowledged(const struct net_caller *caller)
{
	const uint32_t replies = caller->delivered - caller->acked;

	return replies <= NET_WINDOW_MAX ? replies : 0;
}

static bool is_unacknowledged(const struct net_caller *caller)
{
	return replies_unacknowledged(caller) > 0 || caller->credits_acked != caller->credits || caller->units_unsaid > 0;
}

/* How long the way is decides what counts as late, so that a busy connection measures it all the time. A PING that has no PONG yet may
 * still get one. */
static bool measures(const struct net_caller *caller, int64_t now_ns)
{
	return caller->options.datagram && (caller->ack_due || caller->probe_due || net_outbox_waiting(caller->outbox)) &&
		now_ns - caller->pinged_ns >= (caller->ping_open ? MEASURE_AGAIN_NS : MEASURE_NS);
}

static void fill(struct net_caller *caller, int64_t now_ns, struct net_writer *body)
{
	const bool pings = caller->ping_due || measures(caller, now_ns);

	if (pings)
		put_ping(caller, now_ns, body);
	if (caller->pong_due)
		put_pong(caller, now_ns, body);
	/* Whatever goes out takes it along. */
	if (caller->ack_due || caller->probe_due || (is_unacknowledged(caller) && (pings || net_outbox_waiting(caller->outbox))))
		put_ack(caller, now_ns, body);
	net_outbox_fill(caller->outbox, NET_REQUEST, body);
}

/* The last word: it goes out once, and is not said again. */
static void put_close(struct net_caller *caller, struct net_writer *body)
{
	caller->close_due = false;
	(void)net_close_put(body, caller->why);
}

static size_t data_packet(struct net_caller *caller, int64_t now_ns, unsigned char *packet)
{
	struct net_writer body;
	unsigned char *begin;

	net_packet_begin(&caller->packets, packet, caller->options.datagram ? caller->datagram_bytes : NET_PACKET_BYTES_MAX, &body);
	begin = body.at;
	if (caller->close_due)
		put_close(caller, &body);
	else
		fill(caller, now_ns, &body);
	if (body.at == begin)
		return 0;
	caller->counts.packets_out++;
	return net_packet_end(&caller->packets, packet, &body);
}

size_t net_caller_next_packet(struct net_caller *caller, int64_t now_ns, unsigned char *packet)
{
	size_t bytes = 0;

	if (caller->state == NET_CALLER_SHAKING)
		return caller_hello_next(caller, now_ns, packet);
	net_caller_pass(caller, now_ns);
	if (caller->state == NET_CALLER_OPEN || caller->close_due)
		bytes = data_packet(caller, now_ns, packet);
	wait_for_answers(caller, now_ns);
	return bytes;
}

/* ---- what is heard ------------------------------------------------------------------------------------------ */

void caller_broken(struct net_caller *caller)
{
	net_caller_end(caller, NET_WHY_PROTOCOL);
}

/* The daemon sends no more of long replies than what it hears to have come allows. */
static void note_units(struct net_caller *caller, int64_t now_ns, uint32_t bytes)
{
	if (!caller->haves)
		return;
	caller->units_unsaid += (bytes + NET_UNIT_BYTES - 1) / NET_UNIT_BYTES;
	caller->ack_ns = earlier(caller->ack_ns, now_ns + ACK_AFTER_NS);
	if (caller->units_unsaid >= UNITS_UNSAID)
		caller->ack_due = true;
}

/* A part of a reply. */
static int read_part(struct net_caller *caller, int64_t now_ns, const struct net_chunk *chunk)
{
	struct net_part part;
	int fate = net_part_read(chunk, &part);

	if (fate == 0)
		fate = net_inbox_part(caller->inbox, &part);
	if (fate == NET_PART_NO_BLOCK) {
		caller->starved = true;
		caller->counts.no_block++;
	} else if (fate == NET_PART_KEPT) {
		note_units(caller, now_ns, part.bytes);
		caller_way_moved(caller);
		if (caller->probe.at_ns != NET_NEVER)
			net_again_start(&caller->probe, now_ns, wait_ns(caller));
	} else if (fate == NET_PART_AGAIN) {
		caller->ack_due = true; /* the daemon does not know that it came */
	}
	return fate < 0 ? fate : 0;
}

/* Requests up to `come` were taken. What still waits has a new chance to come without being sent again. */
static int note_taken(struct net_caller *caller, int64_t now_ns, const struct net_come *come)
{
	const uint32_t kept = net_outbox_kept(caller->outbox);

	if (net_outbox_come(caller->outbox, come) != 0)
		return -EPROTO;
	if (net_outbox_kept(caller->outbox) < kept)
		caller_way_moved(caller);
	if (net_outbox_kept(caller->outbox) == 0)
		net_again_stop(&caller->resend);
	else if (caller->resend.at_ns != NET_NEVER && net_outbox_kept(caller->outbox) < kept)
		net_again_start(&caller->resend, now_ns, wait_ns(caller));
	return 0;
}

static int read_taken(struct net_caller *caller, int64_t now_ns, const struct net_chunk *chunk)
{
	struct net_come come;

	if (net_come_read(chunk, &come) != 0 || note_taken(caller, now_ns, &come) != 0)
		return -EPROTO;
	if (chunk->flags & NET_TAKEN_AGAIN) {
		net_outbox_resend(caller->outbox);
		caller->counts.resends++;
	}
	return 0;
}

/* What has come of a long request. A hole is filled once in a round trip. */
static int read_have(struct net_caller *caller, int64_t now_ns, const struct net_chunk *chunk)
{
	struct net_have have;
	int told;

	if (!caller->haves || net_have_read(chunk, &have) != 0)
		return -EPROTO;
	told = net_outbox_have(caller->outbox, &have);
	if (told < 0)
		return -EPROTO;
	if (told & NET_HAVE_MORE)
		caller_way_moved(caller);
	if (told & NET_HAVE_MORE && caller->resend.at_ns != NET_NEVER)
		net_again_start(&caller->resend, now_ns, wait_ns(caller));
	if (told & NET_HAVE_HOLES && (now_ns - caller->holes_ns >= caller->pace.trip_ns || now_ns == caller->holes_ns)) {
		net_outbox_again(caller->outbox, have.number);
		caller->holes_ns = now_ns;
		caller->counts.resends++;
	}
	return 0;
}

static int read_times(struct net_caller *caller, int64_t now_ns, const struct net_chunk *chunk)
{
	struct net_times times;

	if (net_times_read(chunk, &times) != 0)
		return -EPROTO;
	if (chunk->kind == NET_PING) {
		caller->pong = (struct net_times){ .sender_ns = times.sender_ns, .received_ns = now_ns };
		caller->pong_due = true;
	} else if (times.sender_ns == caller->pinged_ns && caller->ping_open) {
		(void)net_pace_sample(&caller->pace, now_ns, &times, false);
		caller->ping_open = false;
	}
	return 0;
}

static int read_close(struct net_caller *caller, const struct net_chunk *chunk)
{
	if (chunk->bytes != 0)
		return -EPROTO;
	caller->why = chunk->number;
	caller->state = chunk->number == NET_WHY_UNKNOWN ? NET_CALLER_LOST : NET_CALLER_ENDED;
	return 0;
}

static int read_chunk(struct net_caller *caller, int64_t now_ns, const struct net_chunk *chunk)
{
	switch (chunk->kind) {
	case NET_REPLY:
	case NET_REPLY_MORE:
		return read_part(caller, now_ns, chunk);
	case NET_TAKEN:
		return read_taken(caller, now_ns, chunk);
	case NET_PING:
	case NET_PONG:
		return read_times(caller, now_ns, chunk);
	case NET_HAVE:
		return read_have(caller, now_ns, chunk);
	case NET_CLOSE:
		return read_close(caller, chunk);
	default:
		return -EPROTO;
	}
}

static void read_body(struct net_caller *caller, int64_t now_ns, struct net_reader *body)
{
	struct net_chunk chunk;
	int more = 0;

	while (caller->state == NET_CALLER_OPEN && (more = net_chunk_next(body, &chunk)) == 1) {
		more = read_chunk(caller, now_ns, &chunk);
		if (more < 0)
			break;
	}
	if (more < 0)
		caller_broken(caller);
}

/* ---- packets ------------------------------------------------------------------------------------------------ */

/* Whether a number was left out: a packet is lost, or late. */
static bool is_gap(struct net_caller *caller, uint64_t number)
{
	const uint64_t expected = caller->numbers_end;

	if (number >= expected)
		caller->numbers_end = number + 1;
	caller->counts.gaps += number > expected;
	return number > expected;
}

static bool has_holes(const struct net_caller *caller)
{
	struct net_have have = { .words = 0 };
	uint32_t ahead = 0;

	while (have.words == 0 && net_inbox_have(caller->inbox, &ahead, &have))
		;
	return have.words > 0;
}

/* What a lost packet held is asked for, once in a round trip. Where it was a piece of a long reply, only that is. */
static void ask_for_lost(struct net_caller *caller, int64_t now_ns)
{
	if (now_ns - caller->probed_ns < caller->pace.trip_ns)
		return;
	caller_way_gap(caller);
	if (caller->haves && !net_inbox_misses(caller->inbox) && has_holes(caller))
		caller->again_due = caller->ack_due = true;
	else
		caller->probe_due = true;
}

static void read_data(struct net_caller *caller, int64_t now_ns, unsigned char *packet, const struct net_packet_head *head)
{
	struct net_reader body;
	bool gap;
	int error;

	if (caller->options.datagram && head->name != caller->packets.name) {
		caller->counts.not_ours++;
		return;
	}
	error = net_packet_open(&caller->packets, packet, head, &body);
	if (error == -EALREADY) {
		caller->counts.replayed++;
		return;
	}
	if (error) {
		caller->counts.not_opened++;
		if (!caller->options.datagram)
			caller->state = NET_CALLER_LOST;
		return;
	}
	caller->counts.packets_in++;
	caller->answered = true;
	heard(caller, now_ns);
	gap = caller->options.datagram && is_gap(caller, head->number);
	read_body(caller, now_ns, &body);
	if (gap)
		ask_for_lost(caller, now_ns);
}

/* Anybody may say so on a datagram socket: it counts if nothing else is heard now. */
static void read_late_refusal(struct net_caller *caller, int64_t now_ns, const unsigned char *body, size_t bytes)
{
	const int64_t trips_ns = TRIPS_TO_WAIT * caller->pace.trip_ns;
	struct net_refused refused;

	if (net_refused_read(body, bytes, &refused) != 0 || refused.why != NET_WHY_UNKNOWN || caller->unknown_ns != NET_NEVER)
		return;
	caller->unknown_ns = now_ns + (trips_ns > UNKNOWN_LEAST_NS ? trips_ns : UNKNOWN_LEAST_NS);
	ask(caller, now_ns);
}

static void read_packet(struct net_caller *caller, int64_t now_ns, unsigned char *packet, const struct net_packet_head *head)
{
	const unsigned char *body = packet + net_packet_head_bytes(caller->options.datagram);

	if (caller->state == NET_CALLER_SHAKING)
		caller_hello_packet(caller, now_ns, head, body);
	else if (caller->state != NET_CALLER_OPEN)
		caller->counts.not_ours++;
	else if (head->kind == NET_DATA)
		read_data(caller, now_ns, packet, head);
	else if (!caller->options.datagram)
		caller_broken(caller);
	else if (head->kind == NET_REFUSED)
		read_late_refusal(caller, now_ns, body, head->body_bytes);
	else
		caller->counts.not_ours++; /* an answer to the HELLO that was said twice */
}

/* Of a stream's bytes as many as the packet at hand lacks, or its head. How many; the packet may be whole then. */
static size_t take_partial(struct net_caller *caller, const unsigned char *bytes, size_t count, size_t wanted)
{
	const size_t lacking = wanted - caller->partial_bytes, taken = lacking < count ? lacking : count;

	memcpy(caller->partial + caller->partial_bytes, bytes, taken);
	caller->partial_bytes += taken;
	return taken;
}

/* The next packet of a stream: where it is whole, in place if it can be. How many bytes were taken; 0: the stream is broken. */
static size_t read_stream(struct net_caller *caller, int64_t now_ns, unsigned char *bytes, size_t count)
{
	struct net_packet_head head;
	size_t taken = 0;
	int got;

	if (caller->partial_bytes == 0) {
		got = net_packet_stream_head(bytes, count, &head);
		if (got == 1 && head.body_bytes <= count - NET_STREAM_HEAD_BYTES) {
			read_packet(caller, now_ns, bytes, &head);
			return NET_STREAM_HEAD_BYTES + head.body_bytes;
		}
	}
	if (caller->partial_bytes < NET_STREAM_HEAD_BYTES)
		taken = take_partial(caller, bytes, count, NET_STREAM_HEAD_BYTES);
	got = net_packet_stream_head(caller->partial, caller->partial_bytes, &head);
	if (got < 0)
		return 0;
	if (got == 0)
		return taken;
	taken += take_partial(caller, bytes + taken, count - taken, NET_STREAM_HEAD_BYTES + head.body_bytes);
	if (caller->partial_bytes == NET_STREAM_HEAD_BYTES + head.body_bytes) {
		caller->partial_bytes = 0;
		read_packet(caller, now_ns, caller->partial, &head);
	}
	return taken;
}

static bool is_listening(const struct net_caller *caller)
{
	return caller->state == NET_CALLER_SHAKING || caller->state == NET_CALLER_OPEN;
}

void net_caller_packet(struct net_caller *caller, int64_t now_ns, unsigned char *bytes, size_t count)
{
	struct net_packet_head head;
	size_t taken;

	if (caller->options.datagram) {
		if (net_packet_datagram_head(bytes, count, &head) == 0)
			read_packet(caller, now_ns, bytes, &head);
		else
			caller->counts.bad_head++;
		return;
	}
	for (size_t at = 0; at < count && is_listening(caller); at += taken) {
		taken = read_stream(caller, now_ns, bytes + at, count - at);
		if (taken == 0) {
			caller->counts.bad_head++;
			net_caller_broke(caller);
			return;
		}
	}
}

/* ---- requests ----------------------------------------------------------------------------------------------- */

/* What is under way stays within what the daemon keeps memory for; alone, any request may. */
static bool fits_window(const struct net_caller *caller, uint32_t bytes)
{
	const uint64_t under_way = net_calls_in_bytes(caller->calls);

	return bytes == 0 || under_way == 0 || under_way + bytes <= caller->welcome.window_bytes;
}

int net_caller_send(struct net_caller *caller, const struct attnd_request *request, void *in, void *out)
{
	struct attnd_request record = *request;
	uint32_t number;

	if (caller->window == 0 || caller->state == NET_CALLER_REFUSED || caller->state == NET_CALLER_ENDED)
		return -ENOTCONN;
	if (record.in_bytes > caller->welcome.message_bytes)
		return -EMSGSIZE;
	/* A request that is answered was taken, so that no more are kept than are unfinished. */
	if (net_calls_count(caller->calls) >= caller->welcome.max_in_flight || !fits_window(caller, record.in_bytes))
		return -EAGAIN;
	if (record.out_capacity > caller->welcome.message_bytes)
		record.out_capacity = caller->welcome.message_bytes;
	number = net_outbox_next(caller->outbox);
	net_calls_add(caller->calls, &record, out, number);
	(void)net_outbox_add(caller->outbox, &record, record.in_bytes > 0 ? in : NULL, record.in_bytes);
	/* Somebody who asks anew waits anew. */
	net_again_stop(&caller->probe);
	return 0;
}

/* Whether so much is not acknowledged that the daemon should hear of it: it may have no room to take requests before. */
static bool is_much_unacknowledged(const struct net_caller *caller)
{
	return replies_unacknowledged(caller) * ACK_SHARE >= caller->window ||
		caller->unacked_bytes > caller->welcome.window_bytes / ACK_BYTES_SHARE ||
		(caller->unacked_bytes > 0 && net_outbox_kept(caller->outbox) > 0) ||
		(caller->credits - caller->credits_acked) * ACK_SHARE >= caller->welcome.stream_credits;
}

static void note_delivered(struct net_caller *caller, const struct net_inbox_message *reply, bool final)
{
	caller->delivered = reply->number;
	caller->credits += !final;
	caller->unacked_bytes += reply->bytes;
	caller->ack_ns = earlier(caller->ack_ns, caller->heard_ns + ACK_AFTER_NS);
	if (is_much_unacknowledged(caller))
		caller->ack_due = true;
	if (net_calls_count(caller->calls) == 0)
		net_again_stop(&caller->probe);
	if (caller->starved) {
		caller->starved = false;
		caller->probe_due = true;
	}
}

bool net_caller_receive(struct net_caller *caller, struct attnd_completion *completion)
{
	struct net_inbox_message reply;
	struct net_come taken = { .words = 0 };
	int error;

	if (!net_inbox_next(caller->inbox, &reply))
		return false;
	error = net_calls_answer(caller->calls, &reply, completion, &taken.number);
	if (reply.payload)
		caller->options.blocks.give(caller->options.blocks.context, reply.payload);
	/* Requests are taken in order: with this one all before it were. */
	if (!error)
		error = note_taken(caller, caller->heard_ns, &taken);
	if (error) {
		caller_broken(caller);
		return false;
	}
	note_delivered(caller, &reply, completion->flags & ATTND_CPL_FINAL);
	return true;
}

bool net_caller_ready(const struct net_caller *caller)
{
	return net_inbox_peek(caller->inbox) != NULL;
}

void net_caller_rest(struct net_caller *caller)
{
	if (caller->state == NET_CALLER_OPEN && is_unacknowledged(caller))
		caller->ack_due = true;
}

/* ---- connection --------------------------------------------------------------------------------------------- */

void caller_open(struct net_caller *caller, int64_t now_ns)
{
	const struct net_come taken = { .number = caller->welcome.requests };

	explicit_bzero(&caller->hello.noise, sizeof(caller->hello.noise)); /* its secret is of no more use */
	caller->state = NET_CALLER_OPEN;
	caller->why = NET_WHY_BYE;
	caller_way_open(caller);
	heard(caller, now_ns);
	ask(caller, now_ns); /* the first word, by which the daemon knows that WELCOME came */
	caller->pinged_ns = caller->probed_ns = now_ns;
	caller->numbers_end = 0;
	caller->haves = caller->welcome.features & NET_FEATURE_HAVE;
	net_outbox_limit(caller->outbox, caller->haves);
	net_outbox_resend(caller->outbox); /* what went over the old socket, if there was one */
	if (!(caller->welcome.flags & NET_RESUMED))
		return;
	caller->counts.resumes++;
	if (note_taken(caller, now_ns, &taken) != 0) {
		caller_broken(caller);
		return;
	}
	caller->probe_due = true; /* replies that went over it */
}

static void forget(struct net_caller *caller)
{
	net_inbox_reset(caller->inbox);
	net_outbox_reset(caller->outbox);
	net_calls_reset(caller->calls);
	caller->acked = caller->delivered = caller->credits_acked = caller->credits = caller->window = 0;
	caller->unacked_bytes = 0;
	caller->units_unsaid = 0;
	caller->starved = caller->answered = false;
	caller->pace = (struct net_pace){ .trip_ns = 0 };
	caller->welcome = (struct net_welcome){ .features = 0 };
}

void net_caller_start(struct net_caller *caller, int64_t now_ns, bool resume, uint32_t datagram_bytes)
{
	if (!resume)
		forget(caller);
	caller_way_start(caller, resume, datagram_bytes);
	caller->partial_bytes = 0;
	caller->ack_due = caller->again_due = caller->probe_due = caller->ping_due = caller->pong_due = caller->close_due = false;
	caller->ping_open = false;
	caller->asked_ns = caller->unknown_ns = caller->ack_ns = NET_NEVER;
	net_again_stop(&caller->resend);
	net_again_stop(&caller->probe);
	caller->why = NET_WHY_BYE;
	caller_hello_start(caller, now_ns, resume);
}

void net_caller_broke(struct net_caller *caller)
{
	if (is_listening(caller))
		caller->state = NET_CALLER_LOST;
}

void net_caller_end(struct net_caller *caller, enum net_why why)
{
	caller->close_due = caller->state == NET_CALLER_OPEN;
	caller->state = NET_CALLER_ENDED;
	caller->why = why;
}

enum net_caller_state net_caller_state(const struct net_caller *caller)
{
	return caller->state;
}

uint32_t net_caller_why(const struct net_caller *caller)
{
	return caller->why;
}

const struct net_welcome *net_caller_welcome(const struct net_caller *caller)
{
	return &caller->welcome;
}

const struct net_caller_counts *net_caller_counts(const struct net_caller *caller)
{
	return &caller->counts;
}

const struct net_pace *net_caller_pace(const struct net_caller *caller)
{
	return &caller->pace;
}

/* ---- life --------------------------------------------------------------------------------------------------- */

static void keep(void *context, void *block)
{
	(void)context;
	(void)block;
}

int net_caller_create(struct net_caller **caller_out, const struct net_caller_options *options)
{
	/* Inputs of requests are the caller's, and stay there. */
	const struct net_blocks kept = { .give = keep };
	struct net_caller *caller;
	int error = net_secure_init();

	if (error)
		return error;
	caller = aligned_alloc(_Alignof(struct net_caller), sizeof(*caller));
	if (!caller)
		return base_fail(ENOMEM, "no memory for a connection");
	*caller = (struct net_caller){ .options = *options, .state = NET_CALLER_LOST };
	error = net_inbox_create(&caller->inbox, NET_WINDOW_MAX, options->message_bytes_max, &options->blocks, NULL);
	if (!error)
		error = net_outbox_create(&caller->outbox, NET_WINDOW_MAX, UINT64_MAX, &kept, NULL);
	if (!error)
		error = net_calls_create(&caller->calls, NET_WINDOW_MAX);
	if (error) {
		net_caller_destroy(caller);
		return error;
	}
	*caller_out = caller;
	return 0;
}

void net_caller_destroy(struct net_caller *caller)
{
	if (!caller)
		return;
	net_calls_destroy(caller->calls);
	net_outbox_destroy(caller->outbox);
	net_inbox_destroy(caller->inbox);
	explicit_bzero(caller, sizeof(*caller)); /* keys */
	free(caller);
}
