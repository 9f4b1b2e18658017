/*
 * The attacker of `attnbench siege`. See attnbench_siege_raid.h.
 */
#include "tools/attnbench_siege_raid.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/base_error.h"
#include "base/base_rand.h"

enum {
	RING = 64,              /* sockets that an attack has at a time; the oldest makes room */
	READERS = 32,
	READER_BYTES = 4096,    /* of what is not read, in a reader's kernel */
	READER_ASKS = 16 << 10, /* by a stream; by datagrams, what goes into one: */
	READER_ASKS_DATAGRAM = 1000,
	NICE = 10,
	BURST_NS = 1000000,     /* between two bursts */
	BURST_MAX = 256,        /* what was put off for longer is not made up for */
	WAIT_NS = 1000000,
	GARBAGE_BYTES = 1200,
	HELLO_BYTES_MAX = NET_HELLO_DATAGRAM_BYTES,
};

const char *const siege_attack_names[] = { "hello-flood", "wrong-key", "garbage", "slow-reader", "replay", "all", NULL };

/* What tool and attacker share. */
struct page {
	_Atomic bool is_armed;
	_Atomic uint32_t wanted, doing; /* enum siege_attack; SIEGE_ATTACKS: none */
	_Atomic bool cannot;
	_Atomic uint64_t sent, failed;
	/* written before is_armed */
	struct siege_target target;
	double rate;
};

struct siege_raid {
	pid_t pid;
	struct page *page;
};

/* The attacker's own. */
struct raider {
	struct page *page;
	const struct siege_target *target;
	struct siege_enemy maker;            /* has no socket */
	struct siege_enemy readers[READERS]; /* those that took part in a conversation; of a replay the first one */
	int ring[RING];                      /* -1: none */
	uint32_t turn;
	uint64_t random;
	size_t hello_bytes, data_bytes;
	unsigned char hello[HELLO_BYTES_MAX], data[NET_PACKET_BYTES_MAX];
};

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static void sleep_ns(long ns)
{
	const struct timespec time = { .tv_nsec = ns };

	nanosleep(&time, NULL);
}

/* ---- sockets ------------------------------------------------------------------------------------------------ */

static void ring_close(struct raider *raider)
{
	for (uint32_t i = 0; i < RING; i++) {
		if (raider->ring[i] >= 0)
			close(raider->ring[i]);
		raider->ring[i] = -1;
	}
}

/* The next socket: a new stream, whose end leaves no port taken; or a datagram socket, of which each has its turn. -errno. */
static int ring_next(struct raider *raider)
{
	const struct linger reset = { .l_onoff = 1 };
	int *fd = &raider->ring[raider->turn++ % RING];

	if (*fd >= 0 && raider->target->datagram)
		return *fd;
	if (*fd >= 0)
		close(*fd);
	*fd = siege_connect(raider->target, 0);
	if (*fd < 0)
		return *fd;
	(void)setsockopt(*fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	return *fd;
}

static int strike_with(struct raider *raider, const void *packet, size_t bytes)
{
	const int fd = ring_next(raider);

	return fd < 0 ? fd : siege_send(fd, packet, bytes);
}

/* ---- the attacks: what each begins with, and one packet of it ----------------------------------------------- */

static int nothing(struct raider *raider)
{
	(void)raider;
	return 0;
}

static int say_hello(struct raider *raider)
{
	siege_enemy_hello(&raider->maker);
	return strike_with(raider, raider->maker.packet, raider->maker.bytes);
}

static int make_wrong_hello(struct raider *raider)
{
	siege_enemy_wrong_hello(&raider->maker);
	return 0;
}

static int say_wrong_hello(struct raider *raider)
{
	return strike_with(raider, raider->maker.packet, raider->maker.bytes);
}

static int say_garbage(struct raider *raider)
{
	unsigned char bytes[GARBAGE_BYTES];

	for (size_t i = 0; i < sizeof(bytes); i += sizeof(uint64_t)) {
		const uint64_t word = base_rand_next(&raider->random);

		memcpy(bytes + i, &word, sizeof(word));
	}
	return strike_with(raider, bytes, 1 + base_rand_below(&raider->random, sizeof(bytes)));
}

static int readers_enter(struct raider *raider, uint32_t count, int receive_bytes)
{
	int rc = 0;

	for (uint32_t i = 0; i < count && rc == 0; i++) {
		rc = siege_enemy_open(&raider->readers[i], raider->target, receive_bytes);
		if (rc == 0)
			rc = siege_enemy_enter(&raider->readers[i]);
	}
	return rc;
}

static int begin_reading(struct raider *raider)
{
	return readers_enter(raider, READERS, READER_BYTES);
}

/* Where the window is full the packet only asks what has become of it. */
static int ask_more(struct raider *raider)
{
	struct siege_enemy *reader = &raider->readers[raider->turn++ % READERS];

	(void)siege_enemy_ask(reader, raider->target->datagram ? READER_ASKS_DATAGRAM : READER_ASKS);
	return siege_enemy_next(reader) ? siege_send(reader->fd, reader->packet, reader->bytes) : -EAGAIN;
}

static int overhear(struct raider *raider)
{
	struct siege_enemy *one = &raider->readers[0];
	int rc = siege_enemy_open(one, raider->target, 0);

	if (rc || (rc = siege_enemy_half_enter(one)))
		return rc;
	/* Another one, which somebody of this tenant said and which did not arrive: that it comes for the first time makes no difference. */
	siege_enemy_hello(&raider->maker);
	memcpy(raider->hello, raider->maker.packet, raider->maker.bytes);
	raider->hello_bytes = raider->maker.bytes;
	if (!siege_enemy_next(one))
		return -EIO;
	memcpy(raider->data, one->packet, one->bytes);
	raider->data_bytes = one->bytes;
	return siege_send(one->fd, one->packet, one->bytes);
}

/* By UDP DATA and HELLO by turns, from the address that it came from and from others. */
static int say_again(struct raider *raider)
{
	if (!raider->target->datagram || raider->turn % 2)
		return strike_with(raider, raider->hello, raider->hello_bytes);
	raider->turn++;
	return siege_send(raider->readers[0].fd, raider->data, raider->data_bytes);
}

static const struct {
	int (*begin)(struct raider *raider);
	int (*strike)(struct raider *raider);
} tactics[SIEGE_ATTACKS] = {
	[SIEGE_HELLO_FLOOD] = { nothing, say_hello },
	[SIEGE_WRONG_KEY] = { make_wrong_hello, say_wrong_hello },
	[SIEGE_GARBAGE] = { nothing, say_garbage },
	[SIEGE_SLOW_READER] = { begin_reading, ask_more },
	[SIEGE_REPLAY] = { overhear, say_again },
};

/* ---- the process -------------------------------------------------------------------------------------------- */

/* What has become due goes at once; then it sleeps. */
static void strike(struct raider *raider, uint32_t attack)
{
	struct page *page = raider->page;
	double due = 0;
	int64_t last_ns = now_ns();

	while (page->wanted == attack) {
		const int64_t at_ns = now_ns();

		due += page->rate * (double)(at_ns - last_ns) / 1e9;
		due = due < BURST_MAX ? due : BURST_MAX;
		last_ns = at_ns;
		for (; due >= 1; due--) {
			if (tactics[attack].strike(raider) == 0)
				page->sent++;
			else
				page->failed++;
		}
		sleep_ns(BURST_NS);
	}
}

static void fight(struct raider *raider, uint32_t attack)
{
	struct page *page = raider->page;

	if (siege_enemy_make(&raider->maker, raider->target) == 0 && tactics[attack].begin(raider) == 0) {
		page->doing = attack;
		strike(raider, attack);
	} else {
		page->cannot = true;
	}
	ring_close(raider);
	for (uint32_t i = 0; i < READERS; i++)
		siege_enemy_close(&raider->readers[i]);
	siege_enemy_close(&raider->maker);
}

static void become_raider(struct page *page) __attribute__((noreturn));

static void become_raider(struct page *page)
{
	static struct raider raider;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	(void)!nice(NICE);
	raider.page = page;
	raider.target = &page->target;
	raider.random = 1;
	memset(raider.ring, 0xff, sizeof(raider.ring)); /* -1 */
	while (!page->is_armed)
		sleep_ns(WAIT_NS);
	for (;;) {
		const uint32_t attack = page->wanted;

		if (attack < SIEGE_ATTACKS && !page->cannot)
			fight(&raider, attack);
		page->doing = SIEGE_ATTACKS;
		sleep_ns(WAIT_NS);
	}
}

/* ---- the tool's side ---------------------------------------------------------------------------------------- */

int siege_raid_make(struct siege_raid **raid_out)
{
	struct siege_raid *raid = calloc(1, sizeof(*raid));

	if (!raid)
		return base_fail(ENOMEM, "no memory for an attacker");
	raid->page = mmap(NULL, sizeof(*raid->page), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (raid->page == MAP_FAILED) {
		free(raid);
		return base_fail(ENOMEM, "no memory to share with an attacker");
	}
	raid->page->wanted = raid->page->doing = SIEGE_ATTACKS;
	raid->pid = fork();
	if (raid->pid == 0)
		become_raider(raid->page);
	*raid_out = raid;
	if (raid->pid > 0)
		return 0;
	siege_raid_destroy(raid);
	return base_fail(EAGAIN, "cannot fork an attacker");
}

void siege_raid_arm(struct siege_raid *raid, const struct siege_target *target, double rate)
{
	raid->page->target = *target;
	raid->page->rate = rate;
	raid->page->is_armed = true;
}

/* Until it does so. */
static int await(struct siege_raid *raid, uint32_t doing)
{
	while (raid->page->doing != doing) {
		if (raid->page->cannot)
			return base_fail(EIO, "the attacker cannot do what it is to do: is the daemon full?");
		if (waitpid(raid->pid, NULL, WNOHANG) == raid->pid) {
			raid->pid = 0;
			return base_fail(EIO, "the attacker has died");
		}
		sleep_ns(WAIT_NS);
	}
	return 0;
}

int siege_raid_begin(struct siege_raid *raid, enum siege_attack attack)
{
	raid->page->wanted = attack;
	return await(raid, attack);
}

int siege_raid_end(struct siege_raid *raid)
{
	raid->page->wanted = SIEGE_ATTACKS;
	return await(raid, SIEGE_ATTACKS);
}

uint64_t siege_raid_sent(const struct siege_raid *raid)
{
	return raid->page->sent;
}

uint64_t siege_raid_failed(const struct siege_raid *raid)
{
	return raid->page->failed;
}

void siege_raid_destroy(struct siege_raid *raid)
{
	if (!raid)
		return;
	if (raid->pid > 0) {
		kill(raid->pid, SIGKILL);
		waitpid(raid->pid, NULL, 0);
	}
	explicit_bzero(&raid->page->target, sizeof(raid->page->target));
	munmap(raid->page, sizeof(*raid->page));
	free(raid);
}
