/*
 * The transport on io_uring. See net_port.h.
 */
#include <errno.h>

#include "base/base_error.h"
#include "netio/net_port.h"

int net_uring_create(struct net_port *port, const struct net_port_options *options)
{
	(void)port;
	(void)options;
	return base_fail(ENOSYS, "io_uring: this build has none");
}
