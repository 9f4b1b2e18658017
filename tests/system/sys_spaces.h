/*
 * Two network namespaces with a way between them, made by the test and gone with it: nothing is left even if it is killed. The process
 * lives in the first one from then on, and so does what it starts; a thread steps over to the other one by itself.
 *
 * The way is a pair of tunnels, whose packets a relay (sys_relay.h) takes from one to the other; or a pair of Ethernet devices that the
 * kernel spoils by itself (tc, netem).
 */
#ifndef SYS_SPACES_H
#define SYS_SPACES_H

#include <stdbool.h>

#define SYS_SPACES_HERE "10.77.0.1"
#define SYS_SPACES_THERE "10.77.0.2"
enum { SYS_SPACES_MTU = 1500 };

struct sys_spaces {
	int here_fd, there_fd; /* the namespaces */
	int tunnels[2];        /* -1: there are none */
	int home_fd;           /* where the process was before */
	char why_not[200];
};

/* false: it may not be had here; why_not says why. Before any thread is made. */
bool sys_spaces_tunnels(struct sys_spaces *spaces);
bool sys_spaces_netem(struct sys_spaces *spaces);
/* What tc's netem understands, as "loss 10% delay 1ms", each way. Fails the running test. */
void sys_spaces_netem_set(const struct sys_spaces *spaces, const char *faults);
/* The calling thread is in the other one from now on. */
bool sys_spaces_step_over(const struct sys_spaces *spaces);
/* The process is back where it was, if it was root there. */
void sys_spaces_end(struct sys_spaces *spaces);

#endif
