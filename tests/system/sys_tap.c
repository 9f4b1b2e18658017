/*
 * A relay of datagrams: a tap on one line, on which one client is overheard. See sys_siege.h.
 */
#include <arpa/inet.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/system/sys_siege.h"

enum { POLL_MS = 20 };

static void overhear(struct sys_tap *tap, const unsigned char *packet, size_t bytes)
{
	pthread_mutex_lock(&tap->lock);
	if (packet[0] == NET_HELLO) {
		memcpy(tap->hello, packet, bytes);
		tap->hello_bytes = bytes;
	} else if (packet[0] == NET_DATA) {
		memcpy(tap->data, packet, bytes);
		tap->data_bytes = bytes;
	}
	pthread_mutex_unlock(&tap->lock);
}

static void to_daemon(struct sys_tap *tap)
{
	unsigned char packet[NET_PACKET_BYTES_MAX];
	ssize_t bytes;

	tap->client_bytes = sizeof(tap->client);
	bytes = recvfrom(tap->front, packet, sizeof(packet), MSG_DONTWAIT, (struct sockaddr *)&tap->client, &tap->client_bytes);
	if (bytes <= 0)
		return;
	overhear(tap, packet, (size_t)bytes);
	(void)!send(tap->back, packet, (size_t)bytes, 0);
}

static void to_client(struct sys_tap *tap)
{
	unsigned char packet[NET_PACKET_BYTES_MAX];
	const ssize_t bytes = recv(tap->back, packet, sizeof(packet), MSG_DONTWAIT);

	if (bytes > 0 && tap->client_bytes > 0)
		(void)!sendto(tap->front, packet, (size_t)bytes, 0, (const struct sockaddr *)&tap->client, tap->client_bytes);
}

static void *run(void *context)
{
	struct sys_tap *tap = context;
	struct pollfd both[2] = { { .fd = tap->front, .events = POLLIN }, { .fd = tap->back, .events = POLLIN } };

	while (!tap->stop) {
		if (poll(both, 2, POLL_MS) <= 0)
			continue;
		if (both[0].revents)
			to_daemon(tap);
		if (both[1].revents)
			to_client(tap);
	}
	return NULL;
}

void sys_tap_start(struct sys_tap *tap, const struct siege_target *target)
{
	struct sockaddr_in address;
	socklen_t bytes = sizeof(address);

	memset(tap, 0, sizeof(*tap));
	assert_int_equal(pthread_mutex_init(&tap->lock, NULL), 0);
	tap->back = siege_connect(target, 0);
	tap->front = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	assert_true(tap->back >= 0 && tap->front >= 0);
	memcpy(&address, &target->address, sizeof(address));
	address.sin_port = 0;
	assert_int_equal(bind(tap->front, (const struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(getsockname(tap->front, (struct sockaddr *)&address, &bytes), 0);
	tap->port = ntohs(address.sin_port);
	assert_int_equal(pthread_create(&tap->thread, NULL, run, tap), 0);
}

void sys_tap_stop(struct sys_tap *tap)
{
	tap->stop = true;
	pthread_join(tap->thread, NULL);
	close(tap->front);
	close(tap->back);
	pthread_mutex_destroy(&tap->lock);
}

size_t sys_tap_hello(struct sys_tap *tap, unsigned char packet[NET_PACKET_BYTES_MAX])
{
	size_t bytes;

	pthread_mutex_lock(&tap->lock);
	bytes = tap->hello_bytes;
	memcpy(packet, tap->hello, bytes);
	pthread_mutex_unlock(&tap->lock);
	return bytes;
}

size_t sys_tap_data(struct sys_tap *tap, unsigned char packet[NET_PACKET_BYTES_MAX])
{
	size_t bytes;

	pthread_mutex_lock(&tap->lock);
	bytes = tap->data_bytes;
	memcpy(packet, tap->data, bytes);
	pthread_mutex_unlock(&tap->lock);
	return bytes;
}

void sys_tap_say(struct sys_tap *tap, const void *packet, size_t bytes)
{
	assert_int_equal(send(tap->back, packet, bytes, 0), bytes);
}
