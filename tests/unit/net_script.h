/*
 * Packet scripts: text that says which frames an IP stack gets, and what becomes of them. For tests.
 *
 * A line is a command; one that begins with a blank goes on with the last one; from # on it is a comment. Frames and payloads are in hex.
 * First the stack, then `start`, then what happens:
 *
 *   mac MAC                               default 02:00:00:00:00:01
 *   mtu N, neighbours N
 *   local IP/BITS [vlan N] [gateway IP]
 *   listen PORT [local N]
 *   static IP MAC [vlan N]
 *   rate answers|questions|echoes|unreachable|news PER_SECOND BURST
 *   start
 *
 *   receive HEX         a frame comes in
 *   verdict WHAT WHAT   what the device says of the sums of IPv4 and UDP from now on: unknown, good, bad
 *   is NAME             the last frame was counted as in.NAME, and as nothing else
 *   payload [HEX]       it was delivered, with this in it
 *   listener N          to this listener
 *   own HEX             the next frame of the stack's own
 *   nothing             there is none
 *   way LISTENER LOCAL IP PORT    to whom `send` sends; without it, whoever was delivered last
 *   send [HEX]          a payload goes out
 *   offload N           bits of NET_IP_OFFLOAD_ for `send` from now on
 *   sent HEX            the frame that the last `send` made
 *   unsent ERRNO        it made none; EHOSTUNREACH, EMSGSIZE, EINVAL
 *   advance N s|ms|ns   time passes
 *   counter NAME N      frames, in.NAME, out.NAME, near.NAME (of neighbours)
 */
#ifndef NET_SCRIPT_H
#define NET_SCRIPT_H

#include <stdbool.h>

#include "netio/net_ip.h"

/* Which outcomes scripts have had, by the place in net_ip_counter_names. */
struct net_script_seen {
	bool outcomes[NET_IP_COUNTERS];
};

/* false: something else happened, and the file, the line and what happened were printed. */
bool net_script_run(const char *path, struct net_script_seen *seen);

#endif
