/*
 * A client that does not behave. See attnbench_siege_enemy.h.
 */
#include "tools/attnbench_siege_enemy.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "base/base_error.h"

#define MESSAGE_BYTES (16u << 20)
#define DEAD_NS INT64_C(3600000000000) /* whom it does not listen to is not dead */

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* ---- targets ------------------------------------------------------------------------------------------------ */

static int read_key(const char *path, unsigned char key[NET_KEY_BYTES])
{
	char text[256];
	FILE *file = fopen(path, "re");
	size_t bytes = file ? fread(text, 1, sizeof(text) - 1, file) : 0;

	if (file)
		fclose(file);
	text[bytes] = '\0';
	return net_key_parse(text, key) ? base_fail(EINVAL, "%s holds no key", path) : 0;
}

int siege_target_set(struct siege_target *target, const char *host, uint16_t port, bool datagram, const char *key_file)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(port) };

	*target = (struct siege_target){ .datagram = datagram, .address_bytes = sizeof(address) };
	if (inet_pton(AF_INET, host, &address.sin_addr) != 1)
		return base_fail(EINVAL, "%s is no address of IPv4", host);
	memcpy(&target->address, &address, sizeof(address));
	return read_key(key_file, target->key);
}

/* ---- sockets ------------------------------------------------------------------------------------------------ */

/* Whether the socket is ready for it. */
static bool await(int fd, short events, int wait_ms)
{
	struct pollfd one = { .fd = fd, .events = events };

	return poll(&one, 1, wait_ms) == 1;
}

static int connected(int fd)
{
	int error = 0;
	socklen_t bytes = sizeof(error);

	if (!await(fd, POLLOUT, SIEGE_WAIT_MS))
		return ETIMEDOUT;
	return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &bytes) ? errno : error;
}

int siege_connect(const struct siege_target *target, int receive_bytes)
{
	const int type = target->datagram ? SOCK_DGRAM : SOCK_STREAM;
	int fd = socket(target->address.ss_family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), error = 0;

	if (fd < 0)
		return base_fail(errno, "socket: %s", strerror(errno));
	if (receive_bytes)
		(void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof(receive_bytes));
	if (connect(fd, (const struct sockaddr *)&target->address, target->address_bytes))
		error = errno == EINPROGRESS ? connected(fd) : errno;
	if (!error)
		return fd;
	close(fd);
	return base_fail(error, "connect: %s", strerror(error));
}

int siege_send(int fd, const void *bytes, size_t count)
{
	const unsigned char *at = bytes;
	size_t left = count;

	do {
		const ssize_t sent = send(fd, at, left, MSG_NOSIGNAL);

		if (sent < 0 && errno != EAGAIN)
			return -errno;
		if (sent < 0 && !await(fd, POLLOUT, SIEGE_WAIT_MS))
			return -ETIMEDOUT;
		at += sent > 0 ? sent : 0;
		left -= sent > 0 ? (size_t)sent : 0;
	} while (left > 0);
	return 0;
}

size_t siege_receive(int fd, void *bytes, size_t room, int wait_ms)
{
	const ssize_t got = await(fd, POLLIN, wait_ms) ? recv(fd, bytes, room, 0) : 0;

	return got > 0 ? (size_t)got : 0;
}

bool siege_is_closed(int fd)
{
	unsigned char bytes[4096];
	ssize_t got = 1;

	while (got > 0 && await(fd, POLLIN, SIEGE_WAIT_MS))
		got = recv(fd, bytes, sizeof(bytes), 0);
	return got == 0 || (got < 0 && errno != EAGAIN);
}

/* ---- life --------------------------------------------------------------------------------------------------- */

static void random_bytes(void *context, void *to, size_t bytes)
{
	(void)context;
	if (getrandom(to, bytes, 0) != (ssize_t)bytes)
		abort(); /* up to 256 bytes come whole */
}

static void *take(void *context, uint32_t bytes)
{
	(void)context;
	return malloc(bytes);
}

static void give(void *context, void *block)
{
	(void)context;
	free(block);
}

int siege_enemy_make(struct siege_enemy *enemy, const struct siege_target *target)
{
	struct net_caller_options options = { .datagram = target->datagram, .message_bytes_max = MESSAGE_BYTES, .dead_after_ns = DEAD_NS,
		.blocks = { .take = take, .give = give }, .random = random_bytes };
	int rc;

	*enemy = (struct siege_enemy){ .target = target, .fd = -1 };
	memcpy(options.key, target->key, sizeof(options.key));
	rc = net_caller_create(&enemy->caller, &options);
	explicit_bzero(options.key, sizeof(options.key));
	return rc;
}

int siege_enemy_open(struct siege_enemy *enemy, const struct siege_target *target, int receive_bytes)
{
	int rc = siege_enemy_make(enemy, target);

	if (rc)
		return rc;
	enemy->fd = siege_connect(target, receive_bytes);
	if (enemy->fd >= 0)
		return 0;
	rc = enemy->fd;
	siege_enemy_close(enemy);
	return rc;
}

void siege_enemy_close(struct siege_enemy *enemy)
{
	if (!enemy->target)
		return;
	if (enemy->fd >= 0 && enemy->target->datagram && net_caller_state(enemy->caller) == NET_CALLER_OPEN) {
		net_caller_end(enemy->caller, NET_WHY_BYE);
		(void)siege_enemy_talk(enemy);
	}
	if (enemy->fd >= 0)
		close(enemy->fd);
	net_caller_destroy(enemy->caller);
	*enemy = (struct siege_enemy){ .fd = -1 };
}

/* ---- packets ------------------------------------------------------------------------------------------------ */

bool siege_enemy_next(struct siege_enemy *enemy)
{
	enemy->bytes = net_caller_next_packet(enemy->caller, now_ns(), enemy->packet);
	return enemy->bytes > 0;
}

int siege_enemy_talk(struct siege_enemy *enemy)
{
	int rc = 0;

	while (rc == 0 && siege_enemy_next(enemy))
		rc = siege_send(enemy->fd, enemy->packet, enemy->bytes);
	return rc;
}

void siege_enemy_hello(struct siege_enemy *enemy)
{
	net_caller_start(enemy->caller, now_ns(), false, enemy->target->datagram ? SIEGE_DATAGRAM_BYTES : 0);
	(void)siege_enemy_next(enemy);
}

void siege_enemy_wrong_hello(struct siege_enemy *enemy)
{
	siege_enemy_hello(enemy);
	/* The last byte of what is sealed. */
	enemy->packet[net_packet_head_bytes(enemy->target->datagram) + NET_CLEAR_BYTES + NET_NOISE_BYTES + NET_HELLO_BYTES - 1] ^= 1;
}

/* Hears what there is until it is welcomed; answers COOKIE. */
static int hear_welcome(struct siege_enemy *enemy)
{
	unsigned char bytes[NET_PACKET_BYTES_MAX];
	int rc = 0;

	while (rc == 0 && net_caller_state(enemy->caller) == NET_CALLER_SHAKING) {
		const size_t got = siege_receive(enemy->fd, bytes, sizeof(bytes), SIEGE_WAIT_MS);

		if (got == 0)
			return -ETIMEDOUT;
		net_caller_packet(enemy->caller, now_ns(), bytes, got);
		if (net_caller_state(enemy->caller) == NET_CALLER_SHAKING)
			rc = siege_enemy_talk(enemy);
	}
	if (rc == 0 && net_caller_state(enemy->caller) != NET_CALLER_OPEN)
		rc = -EACCES;
	return rc;
}

int siege_enemy_half_enter(struct siege_enemy *enemy)
{
	int rc;

	siege_enemy_hello(enemy);
	rc = siege_send(enemy->fd, enemy->packet, enemy->bytes);
	return rc ? rc : hear_welcome(enemy);
}

int siege_enemy_enter(struct siege_enemy *enemy)
{
	const int rc = siege_enemy_half_enter(enemy);

	return rc ? rc : siege_enemy_talk(enemy);
}

int siege_enemy_ask(struct siege_enemy *enemy, uint32_t bytes)
{
	/* Nobody looks at what is asked, nor at what comes of it. */
	static unsigned char in[SIEGE_ASK_BYTES_MAX], out[SIEGE_ASK_BYTES_MAX];
	const struct attnd_request request = { .op = ATTND_OP_NOP, .version = ATTND_VERSION, .request_id = ++enemy->asked, .in_bytes = bytes,
		.out_capacity = bytes };

	return net_caller_send(enemy->caller, &request, in, out);
}
