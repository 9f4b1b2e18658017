/*
 * A relay of datagrams, in which one client is overheard. See sys_siege.h.
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

static void overhear(struct sys_relay *relay, const unsigned char *packet, size_t bytes)
{
	pthread_mutex_lock(&relay->lock);
	if (packet[0] == NET_HELLO) {
		memcpy(relay->hello, packet, bytes);
		relay->hello_bytes = bytes;
	} else if (packet[0] == NET_DATA) {
		memcpy(relay->data, packet, bytes);
		relay->data_bytes = bytes;
	}
	pthread_mutex_unlock(&relay->lock);
}

static void to_daemon(struct sys_relay *relay)
{
	unsigned char packet[NET_PACKET_BYTES_MAX];
	ssize_t bytes;

	relay->client_bytes = sizeof(relay->client);
	bytes = recvfrom(relay->front, packet, sizeof(packet), MSG_DONTWAIT, (struct sockaddr *)&relay->client, &relay->client_bytes);
	if (bytes <= 0)
		return;
	overhear(relay, packet, (size_t)bytes);
	(void)!send(relay->back, packet, (size_t)bytes, 0);
}

static void to_client(struct sys_relay *relay)
{
	unsigned char packet[NET_PACKET_BYTES_MAX];
	const ssize_t bytes = recv(relay->back, packet, sizeof(packet), MSG_DONTWAIT);

	if (bytes > 0 && relay->client_bytes > 0)
		(void)!sendto(relay->front, packet, (size_t)bytes, 0, (const struct sockaddr *)&relay->client, relay->client_bytes);
}

static void *run(void *context)
{
	struct sys_relay *relay = context;
	struct pollfd both[2] = { { .fd = relay->front, .events = POLLIN }, { .fd = relay->back, .events = POLLIN } };

	while (!relay->stop) {
		if (poll(both, 2, POLL_MS) <= 0)
			continue;
		if (both[0].revents)
			to_daemon(relay);
		if (both[1].revents)
			to_client(relay);
	}
	return NULL;
}

void sys_relay_start(struct sys_relay *relay, const struct siege_target *target)
{
	struct sockaddr_in address;
	socklen_t bytes = sizeof(address);

	memset(relay, 0, sizeof(*relay));
	assert_int_equal(pthread_mutex_init(&relay->lock, NULL), 0);
	relay->back = siege_connect(target, 0);
	relay->front = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	assert_true(relay->back >= 0 && relay->front >= 0);
	memcpy(&address, &target->address, sizeof(address));
	address.sin_port = 0;
	assert_int_equal(bind(relay->front, (const struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(getsockname(relay->front, (struct sockaddr *)&address, &bytes), 0);
	relay->port = ntohs(address.sin_port);
	assert_int_equal(pthread_create(&relay->thread, NULL, run, relay), 0);
}

void sys_relay_stop(struct sys_relay *relay)
{
	relay->stop = true;
	pthread_join(relay->thread, NULL);
	close(relay->front);
	close(relay->back);
	pthread_mutex_destroy(&relay->lock);
}

size_t sys_relay_hello(struct sys_relay *relay, unsigned char packet[NET_PACKET_BYTES_MAX])
{
	size_t bytes;

	pthread_mutex_lock(&relay->lock);
	bytes = relay->hello_bytes;
	memcpy(packet, relay->hello, bytes);
	pthread_mutex_unlock(&relay->lock);
	return bytes;
}

size_t sys_relay_data(struct sys_relay *relay, unsigned char packet[NET_PACKET_BYTES_MAX])
{
	size_t bytes;

	pthread_mutex_lock(&relay->lock);
	bytes = relay->data_bytes;
	memcpy(packet, relay->data, bytes);
	pthread_mutex_unlock(&relay->lock);
	return bytes;
}

void sys_relay_say(struct sys_relay *relay, const void *packet, size_t bytes)
{
	assert_int_equal(send(relay->back, packet, bytes, 0), bytes);
}
