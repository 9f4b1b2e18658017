/*
 * How long datagrams may be on the way to the daemon and back. The kernel knows what its own interface takes, and learns of narrower nets
 * behind it where routers say so; where they say nothing, long datagrams are lost every time and short ones arrive (RFC 8899, 1.1). A way
 * that lets nothing through but short ones is used with the shortest that every way takes, for which the connection is resumed: the daemon
 * hears of it in HELLO.
 */
#include "netio/net_caller_private.h"

/* So long ago, and a round trip, something came: the way is not broken. PINGs measure it every 100 ms. */
#define HEARD_NS INT64_C(150000000)
enum {
	TRIES_MAX = 8, /* requests that were sent again so often in vain, some 0.3 s */
	GAPS_MAX = 8,  /* numbers left out, and asked for, so often in vain */
};

/* The connection is lost, and the next one has short datagrams. */
static void narrow(struct net_caller *caller)
{
	if (!caller->options.datagram || caller->datagram_bytes <= NET_DATAGRAM_BYTES_LEAST)
		return;
	caller->way.is_narrow = true;
	net_caller_broke(caller);
}

void caller_way_open(struct net_caller *caller)
{
	caller->way.is_open = true;
	caller->way.has_moved = false;
	caller->way.gaps = 0;
}

void caller_way_moved(struct net_caller *caller)
{
	caller->way.has_moved = true;
	caller->way.gaps = 0;
}

void caller_way_gap(struct net_caller *caller)
{
	if (++caller->way.gaps >= GAPS_MAX)
		narrow(caller);
}

void caller_way_look(struct net_caller *caller, int64_t now_ns)
{
	if (caller->resend.tries >= TRIES_MAX && now_ns - caller->heard_ns <= HEARD_NS + caller->pace.trip_ns)
		narrow(caller);
}

void caller_way_start(struct net_caller *caller, bool resume, uint32_t datagram_bytes)
{
	/* It was open, something was wanted of it, and nothing came through but the handshake. */
	const bool was_mute = caller->way.is_open && !caller->way.has_moved && net_calls_count(caller->calls) > 0;

	caller->way.is_narrow = resume && (caller->way.is_narrow || was_mute);
	caller->way.is_open = false;
	caller->datagram_bytes = datagram_bytes;
	if (caller->way.is_narrow && datagram_bytes > NET_DATAGRAM_BYTES_LEAST) {
		caller->datagram_bytes = NET_DATAGRAM_BYTES_LEAST;
		caller->counts.narrowed++;
	}
}

void net_caller_shorten(struct net_caller *caller, uint32_t datagram_bytes)
{
	if (datagram_bytes < NET_DATAGRAM_BYTES_LEAST)
		datagram_bytes = NET_DATAGRAM_BYTES_LEAST;
	if (datagram_bytes < caller->datagram_bytes)
		caller->datagram_bytes = datagram_bytes;
}
