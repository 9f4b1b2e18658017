/*
 * What two threads on two processors can do at all, measured the way the daemon is measured:
 * one round trip after another, a time stamp between them.
 *
 *   cache line   each side spins on a line that the other writes: the limit of any shared memory
 *   futex        each side sleeps until the other wakes it
 *   unix socket  64 bytes on a stream socket, both sides blocking
 *
 * The calling thread is one side; a thread on the other processor is made and joined by each
 * call.
 */
#ifndef ATTNBENCH_PINGPONG_H
#define ATTNBENCH_PINGPONG_H

#include <stdint.h>

#include "base/base_hist.h"

enum attnbench_pair { ATTNBENCH_LINE, ATTNBENCH_FUTEX, ATTNBENCH_UNIX };

/* Runs for span_ns with the other side on other_cpu (-1: wherever) and adds the round trips to
 * hist. 0, or -errno with a message. */
int attnbench_pingpong(
	enum attnbench_pair pair, int other_cpu, int64_t span_ns, struct base_hist *hist);

#endif
