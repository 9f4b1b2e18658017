/*
 * The hot path of a client: submit, poll, wait. Client's thread. No allocation, no lock; a
 * system call only to wake a daemon that sleeps, to sleep, and to look after the daemon when
 * nothing has come for a while.
 */
#include <errno.h>

#include "client-lib/attnd_client.h"

enum { SPIN_POLLS = 32 }; /* between two looks at the clock */

int attnd_submit(struct attnd_client *client, const struct attnd_request *requests, unsigned count)
{
	unsigned room, taken;

	if (client->gone)
		return -ENOTCONN;
	if (count == 0)
		return 0;
	room = client->max_in_flight - client->in_flight;
	taken = room ? client->transport->submit(client->link, requests, count < room ? count : room) : 0;
	client->in_flight += taken;
	return taken ? (int)taken : -EAGAIN;
}

static unsigned take(struct attnd_client *client, struct attnd_completion *completions, unsigned max)
{
	unsigned taken = client->transport->poll(client->link, completions, max);

	for (unsigned i = 0; i < taken; i++)
		if (completions[i].flags & ATTND_CPL_FINAL && client->in_flight > 0)
			client->in_flight--;
	return taken;
}

/* Whoever waits on a descriptor polls rarely, and is to hear of the end at once; beside a poll's system call it costs nothing. */
static bool is_look_due(struct attnd_client *client)
{
	return ++client->failed_polls % ATTND_LIVENESS_POLLS == 0 ||
		(client->transport->fd && client->transport->said_closed(client->link));
}

int attnd_poll(struct attnd_client *client, struct attnd_completion *completions, unsigned max)
{
	unsigned taken;

	if (client->gone)
		return -ENOTCONN;
	taken = take(client, completions, max);
	if (taken) {
		client->failed_polls = 0;
		return (int)taken;
	}
	return is_look_due(client) ? client_look(client) : 0;
}

/* Polls until something comes or until_ns has passed; *now_ns is kept current. */
static int spin(struct attnd_client *client, struct attnd_completion *completions, unsigned max, int64_t until_ns,
	int64_t *now_ns)
{
	do {
		for (unsigned i = 0; i < SPIN_POLLS; i++) {
			int taken = attnd_poll(client, completions, max);

			if (taken)
				return taken;
		}
		*now_ns = base_clock_now(client->clock);
	} while (*now_ns < until_ns);
	return 0;
}

int attnd_wait(struct attnd_client *client, struct attnd_completion *completions, unsigned max, int64_t timeout_ns)
{
	int taken = attnd_poll(client, completions, max);
	int64_t now_ns, end_ns, spin_end_ns;

	if (taken || timeout_ns == 0 || max == 0)
		return taken;
	now_ns = base_clock_now(client->clock);
	end_ns = timeout_ns < 0 || timeout_ns > INT64_MAX - now_ns ? INT64_MAX : now_ns + timeout_ns;
	spin_end_ns = client->spin_ns < 0 || client->spin_ns > end_ns - now_ns ? end_ns : now_ns + client->spin_ns;
	taken = spin(client, completions, max, spin_end_ns, &now_ns);
	while (!taken && now_ns < end_ns) {
		int64_t slice_ns = client->dead_after_ns / 2;

		client->transport->sleep(client->link, slice_ns < end_ns - now_ns ? slice_ns : end_ns - now_ns);
		taken = (int)take(client, completions, max);
		if (!taken)
			taken = client_look(client);
		now_ns = base_clock_now(client->clock);
	}
	return taken;
}

unsigned attnd_in_flight(const struct attnd_client *client)
{
	return client->in_flight;
}
