/*
 * Time limit: 240 s
 *
 * The real daemon and the real library over a bad network: datagrams are lost, doubled, overtaken and changed, each by itself and all
 * together, plain and sealed; TCP's packets are late and lost. Each request completes exactly once with the right bytes; no step of a
 * session is lost or done twice; outputs are, bit for bit, those over shared memory; nothing hangs. What came through a second is printed.
 *
 * Three bad ways: datagrams through a relay of the test, which works everywhere; IP packets through the same between two network
 * namespaces; and the kernel's own, where it has netem. ATTND_LOSSY_REQUESTS=1000000 for so many requests in all, ATTND_LOSSY_SEED for
 * others, ATTND_TEST_FILTER="packets: udp*" for some of it.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "attnd/attnd.h"
#include "tests/system/lossy_work.h"
#include "tests/system/sys_relay.h"
#include "tests/system/sys_spaces.h"

enum { CONNECTIONS = 3, BAD_PORT = 7750, CASES_MAX = 64, CASES_USUAL = 28, REQUESTS = 20000 };
#define MS INT64_C(1000000)
#define SECOND (1000 * MS)

enum bad_way { BY_DATAGRAMS, BY_PACKETS, BY_NETEM, BAD_WAYS };
static const char *const bad_names[BAD_WAYS] = { "datagrams", "packets", "netem" };

struct weather {
	const char *name, *netem;
	struct sys_faults faults;
};

#define LATE 250, .late_ns = 3 * MS
static const struct weather udp_weather[] = {
	{ "loss", "loss 10%", { .lost = 100 } },
	{ "duplication", "duplicate 5%", { .doubled = 50 } },
	{ "reordering", "delay 1ms reorder 75%", { .late = LATE } },
	{ "corruption", "corrupt 1%", { .changed = 10 } },
	{ "all of it", "delay 1ms loss 10% duplicate 5% reorder 75% corrupt 1%",
		{ .lost = 100, .doubled = 50, .late = LATE, .changed = 10, .delay_ns = MS / 2 } },
};
/* So long that connections count as over, at half of dead_after_ns, and go on over new sockets before all of it has passed. The new ones'
 * handshakes have it as bad. */
static const struct weather dark_weather = { "all of it, and nothing for a while", NULL,
	{ .lost = 100, .doubled = 50, .late = LATE, .changed = 10, .delay_ns = MS / 2, .dark_from_ns = 50 * MS, .dark_ns = 2000 * MS } };
/* A net in between takes no long packets, and does not say so. */
static const struct weather narrow_weather = { "long packets vanish", NULL, { .longest = 1400, .delay_ns = MS / 2 } };
static const struct weather tcp_weather[] = {
	{ "delay and loss", "delay 2ms loss 1%", { .lost = 10, .delay_ns = 2 * MS } },
};

struct test_case {
	enum bad_way by;
	enum sys_way way;
	const struct weather *weather;
	char name[96];
};

static struct sys_net net;
static struct sys_spaces spaces;
static struct sys_relay *relay;
static struct attnd_model_info model;
static struct lossy_answers answers[CONNECTIONS];
static bool is_there; /* the bad way of this group */

static uint64_t number_of(const char *variable, uint64_t otherwise)
{
	const char *text = getenv(variable);

	return text && *text ? strtoull(text, NULL, 0) : otherwise;
}

/* ---- connections ------------------------------------------------------------------------------------------ */

struct connection {
	struct lossy_work work;
	const struct test_case *test;
	struct attnd_options options;
	pthread_t thread;
	uint64_t rounds;
};

static void *work(void *argument)
{
	struct connection *connection = argument;
	struct lossy_work *work = &connection->work;

	if (connection->test->by != BY_DATAGRAMS && !sys_spaces_step_over(&spaces)) {
		snprintf(work->wrong, sizeof(work->wrong), "the other namespace: %s", strerror(errno));
		return NULL;
	}
	if (attnd_connect(&work->client, &connection->options)) {
		snprintf(work->wrong, sizeof(work->wrong), "no connection: %s", attnd_error());
		return NULL;
	}
	for (uint64_t i = 0; i < connection->rounds && lossy_work_round(work); i++)
		;
	attnd_disconnect(work->client);
	return NULL;
}

/* What everybody is to hear, over shared memory; twice, so that it is known to be always the same. */
static void learn(void)
{
	struct attnd_client *client = sys_net_connect(&net, SYS_SHM);

	assert_int_equal(attnd_describe_model(client, 0, &model), 0);
	for (unsigned i = 0; i < 2 * CONNECTIONS; i++) {
		struct lossy_work work = { .client = client, .model = &model, .answers = &answers[i / 2], .learns = i % 2 == 0,
			.seed = i / 2, .random = i };

		if (!lossy_work_round(&work))
			fail_msg("over shared memory: %s", work.wrong);
	}
	attnd_disconnect(client);
}

/* ---- a case ----------------------------------------------------------------------------------------------- */

static void address_of(const struct test_case *test, char *address, size_t bytes)
{
	const char *const udp = sys_way_is_udp(test->way) ? "+udp" : "";

	if (test->by == BY_DATAGRAMS)
		snprintf(address, bytes, "attnd%s://%s:%d", udp, net.host, sys_relay_port(relay));
	else
		snprintf(address, bytes, "attnd%s://%s:%d", udp, SYS_SPACES_HERE, BAD_PORT);
}

static void spoil(const struct test_case *test)
{
	struct sys_faults faults = test->weather->faults;

	/* Behind a socket there are no checksums any more: what they would throw away is thrown away here. */
	faults.drops_changed = test->by == BY_DATAGRAMS && !sys_way_is_sealed(test->way);
	if (test->by == BY_NETEM)
		sys_spaces_netem_set(&spaces, test->weather->netem);
	else
		sys_relay_set(relay, &faults, number_of("ATTND_LOSSY_SEED", 1));
}

/* What was to happen did; the smallest of these is expected eight times or so. */
static void expect_faults(const struct test_case *test)
{
	const struct sys_faults *faults = &test->weather->faults;
	struct sys_relay_counts counts;

	if (test->by == BY_NETEM)
		return;
	counts = sys_relay_counts(relay);
	assert_true(!(faults->lost || faults->longest) || counts.lost > 0);
	assert_true(!faults->doubled || counts.doubled > 0);
	assert_true(!faults->late || counts.late > 0);
	assert_true(!faults->changed || counts.changed > 0);
}

/* What the daemon has counted. */
struct daemon_counts { double requests, completions, streams, broken, unowed, resumed, replays, bad_packets; };

static struct daemon_counts daemon_counts(void)
{
	return (struct daemon_counts){ .requests = sys_net_number(&net, "requests"),
		.completions = sys_net_number(&net, "completions"),
		.streams = sys_net_number(&net, "streams"),
		.broken = sys_net_number(&net, "broken"),
		.unowed = sys_net_number(&net, "unowed"),
		.resumed = sys_net_number(&net, "resumed"),
		.replays = sys_net_number(&net, "replays"),
		.bad_packets = sys_net_number(&net, "bad_packets") };
}

/* It has seen each request once, and answered each once; what was doubled or changed on the way it has noticed. */
static void expect_counts(const struct test_case *test, const struct daemon_counts *before, uint64_t requests, uint64_t tokens)
{
	const struct sys_faults *faults = &test->weather->faults;
	const struct daemon_counts now = daemon_counts();

	assert_int_equal((uint64_t)(now.requests - before->requests), requests);
	assert_int_equal((uint64_t)(now.completions - before->completions), requests);
	assert_int_equal((uint64_t)(now.streams - before->streams), tokens);
	assert_true(now.broken == before->broken && now.unowed == 0);
	assert_true((faults->dark_ns == 0 && faults->longest == 0) || now.resumed > before->resumed);
	if (faults->dark_ns == 0 && faults->longest == 0 && now.resumed > before->resumed)
		printf("# %s: resumed %.0f times\n", test->name, now.resumed - before->resumed);
	/* What is changed may look like a replay: its number may be another's. */
	if (test->by != BY_NETEM && sys_way_is_sealed(test->way) && !(faults->changed && !faults->doubled))
		assert_int_equal(now.replays > before->replays, faults->doubled > 0);
	if (test->by == BY_DATAGRAMS && sys_way_is_sealed(test->way))
		assert_int_equal(now.bad_packets > before->bad_packets, faults->changed > 0);
}

static void report(const struct test_case *test, const struct lossy_work *sum, double seconds)
{
	struct sys_relay_counts counts;

	printf("# %s: %llu requests, %.0f a second, goodput %.1f MB/s, longest pause %.0f ms", test->name, (unsigned long long)sum->requests,
		(double)sum->requests / seconds, (double)sum->bytes / seconds / 1e6, (double)sum->pause_ns / 1e6);
	if (test->by != BY_NETEM) {
		counts = sys_relay_counts(relay);
		printf("; packets %llu, lost %llu, doubled %llu, late %llu, changed %llu, overflowed %llu", (unsigned long long)counts.packets,
			(unsigned long long)counts.lost, (unsigned long long)counts.doubled, (unsigned long long)counts.late,
			(unsigned long long)counts.changed, (unsigned long long)counts.overflowed);
	}
	printf("\n");
}

static void connection_start(struct connection *connection, unsigned which, const struct test_case *test, const char *address)
{
	const uint64_t each = (uint64_t)lossy_work_requests() * CONNECTIONS * CASES_USUAL;

	connection->test = test;
	connection->rounds = (number_of("ATTND_LOSSY_REQUESTS", REQUESTS) + each - 1) / each;
	connection->options = sys_net_options(&net, test->way);
	connection->options.address = address;
	connection->options.connect_timeout_ns = 20 * SECOND;
	connection->options.dead_after_ns = sys_way_is_udp(test->way) ? 3 * SECOND : 20 * SECOND; /* TCP takes its time */
	connection->work = (struct lossy_work){ .model = &model, .answers = &answers[which], .seed = which,
		.random = number_of("ATTND_LOSSY_SEED", 1) * CONNECTIONS + which };
	assert_int_equal(pthread_create(&connection->thread, NULL, work, connection), 0);
}

static void add_up(struct lossy_work *sum, const struct lossy_work *work)
{
	sum->requests += work->requests;
	sum->tokens += work->tokens;
	sum->bytes += work->bytes;
	sum->pause_ns = work->pause_ns > sum->pause_ns ? work->pause_ns : sum->pause_ns;
}

static void is_right(void **state)
{
	const struct test_case *test = *state;
	struct connection connections[CONNECTIONS] = { { .rounds = 0 } };
	struct lossy_work sum = { .requests = 0 };
	struct daemon_counts before;
	char address[64];
	int64_t begin_ns;

	if (!is_there)
		skip();
	address_of(test, address, sizeof(address));
	before = daemon_counts();
	spoil(test);
	begin_ns = sys_now_ns();
	for (unsigned i = 0; i < CONNECTIONS; i++)
		connection_start(&connections[i], i, test, address);
	for (unsigned i = 0; i < CONNECTIONS; i++) {
		pthread_join(connections[i].thread, NULL);
		add_up(&sum, &connections[i].work);
	}
	report(test, &sum, (double)(sys_now_ns() - begin_ns) / 1e9);
	for (unsigned i = 0; i < CONNECTIONS; i++)
		if (connections[i].work.wrong[0])
			fail_msg("%s", connections[i].work.wrong);
	expect_faults(test);
	expect_counts(test, &before, sum.requests, sum.tokens);
}

/* ---- groups ----------------------------------------------------------------------------------------------- */

#define USUAL "kv.pool=64M", "limits.tokens=512", "placement.workers=0", "placement.spin_us=50", "net.resume_ms=30000", \
	"daemon.log_level=error"
static const char *const usual[] = { USUAL, NULL };
/* The namespaces' way is nobody else's. */
static const char *const with_spaces[] = { USUAL, "listen.badtcp.address=tcp:" SYS_SPACES_HERE ":7750", "listen.badtcp.plain=yes",
	"listen.badtcp.trusted=yes", "listen.badtcp.tenant=local", "listen.badudp.address=udp:" SYS_SPACES_HERE ":7750",
	"listen.badudp.plain=yes", "listen.badudp.trusted=yes", "listen.badudp.tenant=local", NULL };

static int daemon_start(const char *const *options)
{
	sys_net_start(&net, options);
	learn();
	is_there = true;
	return 0;
}

/* Everything was executed and answered; nobody is left. */
static int daemon_stop(void **state)
{
	(void)state;
	if (!is_there)
		return 0;
	is_there = false;
	if (relay)
		sys_relay_set(relay, &(struct sys_faults){ .lost = 0 }, 0);
	assert_true(sys_daemon_wait_number(&net.daemon, "counters.completed", sys_daemon_number(&net.daemon, "counters.accepted"), 10000));
	sys_net_stop(&net);
	sys_relay_stop(relay);
	relay = NULL;
	return 0;
}

static int datagrams_start(void **state)
{
	(void)state;
	daemon_start(usual);
	relay = sys_relay_datagrams(net.host, net.port);
	return 0;
}

static int packets_start(void **state)
{
	(void)state;
	if (!sys_spaces_tunnels(&spaces)) {
		printf("# skip: %s\n", spaces.why_not);
		return 0;
	}
	relay = sys_relay_tunnels(spaces.tunnels[0], spaces.tunnels[1]);
	return daemon_start(with_spaces);
}

static int netem_start(void **state)
{
	(void)state;
	if (!sys_spaces_netem(&spaces)) {
		printf("# skip: %s\n", spaces.why_not);
		return 0;
	}
	return daemon_start(with_spaces);
}

static int spaces_stop(void **state)
{
	const bool was_there = is_there;

	daemon_stop(state);
	if (was_there)
		sys_spaces_end(&spaces);
	return 0;
}

static unsigned add(struct CMUnitTest *tests, unsigned count, enum bad_way by, enum sys_way way, const struct weather *weather)
{
	static struct test_case cases[CASES_MAX];
	static unsigned used;
	struct test_case *test = &cases[used++];

	*test = (struct test_case){ .by = by, .way = way, .weather = weather };
	snprintf(test->name, sizeof(test->name), "%s: %s: %s", bad_names[by], sys_way_name(way), weather->name);
	tests[count] = (struct CMUnitTest){ .name = test->name, .test_func = is_right, .initial_state = test };
	return count + 1;
}

static int run_by(enum bad_way by, int (*setup)(void **), int (*teardown)(void **))
{
	static struct CMUnitTest tests[CASES_MAX];
	unsigned count = 0;

	memset(tests, 0, sizeof(tests)); /* entries without a function do not count */
	for (enum sys_way way = SYS_UDP; way <= SYS_UDP_SEALED; way++)
		for (size_t i = 0; i < sizeof(udp_weather) / sizeof(udp_weather[0]); i++)
			count = add(tests, count, by, way, &udp_weather[i]);
	for (enum sys_way way = SYS_UDP; way <= SYS_UDP_SEALED && by != BY_NETEM; way++)
		count = add(tests, count, by, way, &dark_weather);
	for (enum sys_way way = SYS_UDP; way <= SYS_UDP_SEALED && by == BY_DATAGRAMS; way++)
		count = add(tests, count, by, way, &narrow_weather);
	for (enum sys_way way = SYS_TCP; way <= SYS_TCP_SEALED && by != BY_DATAGRAMS; way++)
		for (size_t i = 0; i < sizeof(tcp_weather) / sizeof(tcp_weather[0]); i++)
			count = add(tests, count, by, way, &tcp_weather[i]);
	return cmocka_run_group_tests_name(bad_names[by], tests, setup, teardown);
}

int main(void)
{
	int failed;

	if (getenv("ATTND_TEST_FILTER"))
		cmocka_set_test_filter(getenv("ATTND_TEST_FILTER"));
	failed = run_by(BY_DATAGRAMS, datagrams_start, daemon_stop);
	failed += run_by(BY_PACKETS, packets_start, spaces_stop);
	failed += run_by(BY_NETEM, netem_start, spaces_stop);
	return failed;
}
