/*
 * See sys_net.h.
 */
#include "tests/system/sys_net.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static const char *const names[SYS_WAYS] = { "shm", "unix", "unix, sealed", "tcp", "tcp, sealed", "udp", "udp, sealed" };

const char *sys_way_name(enum sys_way way)
{
	return names[way];
}

bool sys_way_is_sealed(enum sys_way way)
{
	return way == SYS_UNIX_SEALED || way == SYS_TCP_SEALED || way == SYS_UDP_SEALED;
}

bool sys_way_is_udp(enum sys_way way)
{
	return way == SYS_UDP || way == SYS_UDP_SEALED;
}

int64_t sys_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

void sys_sleep_ms(int ms)
{
	const struct timespec time = { .tv_sec = ms / 1000, .tv_nsec = (ms % 1000) * 1000000L };

	nanosleep(&time, NULL);
}

/* ---- the daemon ------------------------------------------------------------------------------------------- */

static void write_key(const char *path, unsigned digit)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(dprintf(fd, "%064u\n", digit), 65);
	close(fd);
}

static void name_addresses(struct sys_net *net)
{
	static int started; /* a daemon that a failed test has left is in nobody's way */
	const int port = SYS_PORT + started++;

	/* No two processes have the same number, and 127.0.x.x is left to everybody else. */
	snprintf(net->host, sizeof(net->host), "127.%u.%u.%u", 1 + ((unsigned)getpid() >> 16) % 250, (unsigned)getpid() >> 8 & 255,
		(unsigned)getpid() & 255);
	snprintf(net->unix_path, sizeof(net->unix_path), "%s/net.sock", net->folder);
	for (enum sys_way way = SYS_UNIX; way < SYS_WAYS; way++) {
		if (way == SYS_UNIX || way == SYS_UNIX_SEALED)
			snprintf(net->addresses[way], sizeof(net->addresses[way]), "attnd+unix://%s", net->unix_path);
		else
			snprintf(net->addresses[way], sizeof(net->addresses[way]), "attnd%s://%s:%d", sys_way_is_udp(way) ? "+udp" : "",
				net->host, port);
	}
	net->port = port;
}

static void set_options(struct sys_net *net, const char *const *options)
{
	static const char *const fixed[] = { "tenant.local.weight=1", "listen.tcp.plain=yes",
		"listen.udp.plain=yes", "listen.unix.plain=yes", "listen.tcp.tenant=local", "listen.udp.tenant=local",
		"listen.unix.tenant=local" };
	const char *transport = getenv("ATTND_TEST_TRANSPORT");
	uint32_t count = 0, made = 0;

	snprintf(net->settings[made++], sizeof(net->settings[0]), "tenant.remote.key_file=%s", net->key_file);
	snprintf(net->settings[made++], sizeof(net->settings[0]), "listen.tcp.address=tcp:%s:%d", net->host, net->port);
	snprintf(net->settings[made++], sizeof(net->settings[0]), "listen.udp.address=udp:%s:%d", net->host, net->port);
	snprintf(net->settings[made++], sizeof(net->settings[0]), "listen.unix.address=unix:%s", net->unix_path);
	snprintf(net->settings[made++], sizeof(net->settings[0]), "net.transport=%s", transport ? transport : "auto");
	for (uint32_t i = 0; i < made; i++)
		net->options[count++] = net->settings[i];
	for (size_t i = 0; i < sizeof(fixed) / sizeof(fixed[0]); i++)
		net->options[count++] = fixed[i];
	for (; options && *options; options++) {
		assert_true(count < SYS_NET_OPTIONS_MAX - 1);
		net->options[count++] = *options;
	}
	net->options[count] = NULL;
}

void sys_net_start(struct sys_net *net, const char *const *options)
{
	memset(net, 0, sizeof(*net));
	strcpy(net->folder, "/tmp/attnd-test-XXXXXX");
	assert_non_null(mkdtemp(net->folder));
	snprintf(net->key_file, sizeof(net->key_file), "%s/key", net->folder);
	snprintf(net->wrong_key_file, sizeof(net->wrong_key_file), "%s/wrong", net->folder);
	write_key(net->key_file, 7747);
	write_key(net->wrong_key_file, 7748);
	name_addresses(net);
	set_options(net, options);
	sys_daemon_start(&net->daemon, true, net->options);
	snprintf(net->addresses[SYS_SHM], sizeof(net->addresses[SYS_SHM]), "%s", net->daemon.address);
}

void sys_net_remove(struct sys_net *net)
{
	unlink(net->key_file);
	unlink(net->wrong_key_file);
	unlink(net->unix_path);
	rmdir(net->folder);
}

void sys_net_stop(struct sys_net *net)
{
	sys_daemon_stop(&net->daemon);
	assert_int_equal(access(net->unix_path, F_OK), -1); /* it takes its socket along */
	sys_net_remove(net);
}

double sys_net_number(const struct sys_net *net, const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "network.%s", name);
	return sys_daemon_number(&net->daemon, path);
}

/* ---- clients ---------------------------------------------------------------------------------------------- */

struct attnd_options sys_net_options(const struct sys_net *net, enum sys_way way)
{
	return (struct attnd_options){ .struct_bytes = sizeof(struct attnd_options),
		.address = net->addresses[way],
		.arena_bytes = 16 << 20,
		.spin_ns = 20000,
		.key_file = sys_way_is_sealed(way) ? net->key_file : NULL };
}

struct attnd_client *sys_net_connect(const struct sys_net *net, enum sys_way way)
{
	const struct attnd_options options = sys_net_options(net, way);
	struct attnd_client *client;

	if (attnd_connect(&client, &options))
		fail_msg("%s", attnd_error());
	return client;
}

struct attnd_client *sys_net_connect_or_exit(const struct sys_net *net, enum sys_way way)
{
	const struct attnd_options options = sys_net_options(net, way);
	struct attnd_client *client;

	if (attnd_connect(&client, &options) == 0)
		return client;
	fprintf(stderr, "%s\n", attnd_error());
	_exit(1);
}

/* ---- tests ------------------------------------------------------------------------------------------------ */

int sys_net_run_over_ways(const struct CMUnitTest *tests, unsigned count, enum sys_way first, int (*setup)(void **),
	int (*teardown)(void **))
{
	static enum sys_way ways[SYS_WAYS];
	static struct CMUnitTest each[SYS_NET_TESTS_MAX];
	static char titles[SYS_NET_TESTS_MAX][96];
	unsigned made = 0;

	for (enum sys_way way = first; way < SYS_WAYS; way++)
		for (unsigned i = 0; i < count && made < SYS_NET_TESTS_MAX; i++, made++) {
			ways[way] = way;
			snprintf(titles[made], sizeof(titles[made]), "%s: %s", names[way], tests[i].name);
			each[made] = tests[i];
			each[made].name = titles[made];
			each[made].initial_state = &ways[way];
		}
	if (getenv("ATTND_TEST_FILTER"))
		cmocka_set_test_filter(getenv("ATTND_TEST_FILTER"));
	/* Entries without a function do not count. */
	return cmocka_run_group_tests_name("ways", each, setup, teardown);
}
