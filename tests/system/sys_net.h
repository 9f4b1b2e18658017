/*
 * A daemon for system tests that listens in every way, plain and sealed on the same sockets, and how to come in by each.
 *
 * It has two tenants: "local", everybody without a key; "remote", who has the key. Its address is one of its own out of 127.0.0.0/8, so
 * that nobody else's ports are in the way and it is found again after a restart.
 */
#ifndef SYS_NET_H
#define SYS_NET_H

#include "attnd/attnd.h"
#include "tests/system/sys_daemon.h"

enum sys_way { SYS_SHM, SYS_UNIX, SYS_UNIX_SEALED, SYS_TCP, SYS_TCP_SEALED, SYS_UDP, SYS_UDP_SEALED, SYS_WAYS };

enum { SYS_NET_SETTINGS = 12, SYS_NET_OPTIONS_MAX = 48, SYS_NET_TESTS_MAX = 64, SYS_PORT = 7747 };

struct sys_net {
	struct sys_daemon daemon;
	char host[24];
	int port;
	char folder[64];                           /* of keys; the daemon's own goes with it */
	char key_file[80], wrong_key_file[80];     /* the remote tenant's; nobody's */
	char unix_path[96];
	char addresses[SYS_WAYS][128];
	char settings[SYS_NET_SETTINGS][160];
	const char *options[SYS_NET_OPTIONS_MAX];
};

/* options: more settings, as for sys_daemon_start; they must stay. A tiny model is served. Fails the running test where it cannot. */
void sys_net_start(struct sys_net *net, const char *const *options);
/* The daemon ends, with status 0. */
void sys_net_stop(struct sys_net *net);
/* What is left of one that has ended already. */
void sys_net_remove(struct sys_net *net);

const char *sys_way_name(enum sys_way way);
bool sys_way_is_sealed(enum sys_way way);
bool sys_way_is_udp(enum sys_way way);

/* How to come in: an arena of 16 MiB, little spinning; to be changed before use. */
struct attnd_options sys_net_options(const struct sys_net *net, enum sys_way way);
/* Fails the running test where it cannot. */
struct attnd_client *sys_net_connect(const struct sys_net *net, enum sys_way way);
/* The same for a process that is no test: ends it. */
struct attnd_client *sys_net_connect_or_exit(const struct sys_net *net, enum sys_way way);

/* "network.NAME" of its status. */
double sys_net_number(const struct sys_net *net, const char *name);

int64_t sys_now_ns(void);
void sys_sleep_ms(int ms);

struct CMUnitTest;
/* Runs each of the tests over each way from `first` on, named after both; *state of a test is its `enum sys_way *`. As
 * cmocka_run_group_tests. ATTND_TEST_FILTER="tcp:*" picks some. */
int sys_net_run_over_ways(const struct CMUnitTest *tests, unsigned count, enum sys_way first, int (*setup)(void **),
	int (*teardown)(void **));

#endif
