/*
 * The bare echo of datagrams where this was built without liburing: there is none. See attnbench_bare.h.
 */
#include "tools/attnbench_bare.h"

#include <errno.h>

#include "base/base_error.h"

int attnbench_bare_uring(int fd, uint32_t message_bytes, _Atomic bool *ready, const _Atomic bool *stop)
{
	(void)fd;
	(void)message_bytes;
	(void)ready;
	(void)stop;
	return base_fail(ENOSYS, "built without liburing");
}
