/*
 * Stands in for the io_uring transport where the build is without it.
 */
#include "netio/net_port.h"

#include "base/base_error.h"

int net_uring_create(struct net_port *port, const struct net_port_options *options)
{
	(void)port, (void)options;
	return base_fail(ENOSYS, "io_uring: built without it (liburing was not there, or URING=0)");
}
