/*
 * What the daemon shows without being asked: copies out of memory that it writes meanwhile (base/base_view.h says how that stays
 * consistent). Nothing in there is believed further than it is used: places were checked when it was mapped, numbers only count.
 *
 * A client's functions belong to its thread; a view's to any.
 */
#include "attnd/view.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"
#include "client-lib/attnd_client.h"

#define VIEW_CONNECT_NS INT64_C(5000000000)

enum { NUMBER_SHIFT = 20, READ_TRIES = 50 }; /* a record's sequence is its number, and below that its updates */

/* ---- a client's own ------------------------------------------------------------------------------ */

static int view_of(const struct attnd_client *client, struct client_view *view)
{
	if (!client->link)
		return base_fail(ENOTCONN, "this client is not connected");
	return client->transport->view ? client->transport->view(client->link, view)
				       : base_fail(ENOTSUP, "nothing is seen this way to the daemon");
}

static bool is_gone(const struct attnd_client *client)
{
	return client->gone || client->transport->said_closed(client->link) || client->transport->alive(client->link);
}

int attnd_view_read_own(const struct attnd_client *client, struct attnd_view_own *own)
{
	struct client_view view;
	int error = view_of(client, &view);

	*own = (struct attnd_view_own){ 0 };
	if (error)
		return error;
	for (uint32_t d = 0; d < view.own.devices; d++) {
		const struct attnd_view_own *from = &shm_view_own_at(&view.own, d)->own;

		own->records += base_view_get(&from->records);
		for (uint32_t i = 0; i < ATTND_VIEW_STATUSES; i++)
			own->ended[i] += base_view_get(&from->ended[i]);
	}
	own->requests = atomic_load_explicit(&view.counters->requests, memory_order_relaxed);
	own->completions = atomic_load_explicit(&view.counters->completions, memory_order_relaxed);
	own->stream_completions = atomic_load_explicit(&view.counters->stream_completions, memory_order_relaxed);
	own->parked = atomic_load_explicit(&view.counters->parked, memory_order_relaxed);
	own->stale = is_gone(client);
	return 0;
}

/* Record n of a device, if it is still there, whole. */
static bool record_read(const struct client_view *view, uint32_t device, uint64_t number, struct attnd_timeline *timeline)
{
	const struct base_view_own_device *from = shm_view_own_at(&view->own, device);

	if (!base_view_read(timeline, &from->timelines[(number - 1) & (view->own.timelines - 1)], sizeof(*timeline)) ||
		timeline->number >> NUMBER_SHIFT != number)
		return false;
	timeline->number = number;
	return true;
}

/* The numbers of the records that are there: after `*first`, up to the returned one. */
static uint64_t records_of(const struct client_view *view, uint32_t device, uint64_t *first)
{
	/* Acquire: a record is there before its number is; pairs with the release in the scheduler's record_put. */
	const uint64_t last = __atomic_load_n(&shm_view_own_at(&view->own, device)->own.records, __ATOMIC_ACQUIRE);

	*first = last > view->own.timelines ? last - view->own.timelines : 0;
	return last;
}

/* Puts it where it belongs among those that are there, oldest first; drops the oldest when there is no room. */
static unsigned insert(struct attnd_timeline *timelines, unsigned count, unsigned max, const struct attnd_timeline *timeline)
{
	unsigned at = count;

	while (at > 0 && timelines[at - 1].received_ns > timeline->received_ns)
		at--;
	if (count == max) {
		if (at == 0)
			return count;
		memmove(timelines, timelines + 1, sizeof(*timelines) * --at);
	} else {
		memmove(timelines + at + 1, timelines + at, sizeof(*timelines) * (count - at));
		count++;
	}
	timelines[at] = *timeline;
	return count;
}

int attnd_view_timelines(const struct attnd_client *client, struct attnd_timeline *timelines, unsigned max)
{
	struct client_view view;
	struct attnd_timeline timeline;
	int error = view_of(client, &view);
	unsigned count = 0;

	if (error)
		return error;
	for (uint32_t d = 0; d < view.own.devices && max > 0; d++) {
		uint64_t first, last = records_of(&view, d, &first);

		if (last - first > max)
			first = last - max;
		for (uint64_t number = first + 1; number <= last; number++)
			if (record_read(&view, d, number, &timeline))
				count = insert(timelines, count, max, &timeline);
	}
	return (int)count;
}

int attnd_view_timeline(const struct attnd_client *client, uint64_t request_id, struct attnd_timeline *timeline)
{
	struct client_view view;
	struct attnd_timeline found;
	bool any = false;
	int error = view_of(client, &view);

	if (error)
		return error;
	for (uint32_t d = 0; d < view.own.devices; d++) {
		uint64_t first, last = records_of(&view, d, &first);

		for (; last > first; last--)
			if (record_read(&view, d, last, &found) && found.request_id == request_id &&
				(!any || found.received_ns > timeline->received_ns)) {
				*timeline = found;
				any = true;
			}
	}
	return any ? 0 : base_fail(ENOENT, "no record of request %llu is kept (any more)", (unsigned long long)request_id);
}

/* ---- operators' ---------------------------------------------------------------------------------- */

struct attnd_view {
	struct shm_view view;
};

/* The control socket lies beside the data socket. */
static int control_path(char *path, size_t room, const char *address)
{
	const char *slash = strrchr(address, '/');
	int length;

	if (strncmp(address, "attnd:", 6) == 0 || strncmp(address, "attnd+", 6) == 0)
		return base_fail(ENOTSUP, "address \"%s\": what all do is read from memory, on the daemon's machine: shm:/path/of/the/socket",
			address);
	if (strncmp(address, "shm:", 4) == 0)
		address += 4;
	length = slash ? snprintf(path, room, "%.*s/attnd.ctl", (int)(slash - address), address) : snprintf(path, room, "attnd.ctl");
	return length < (int)room ? 0 : base_fail(ENAMETOOLONG, "an address has at most %zu characters", room - 16);
}

static int open_at(struct shm_view *view, const char *address)
{
	char path[ATTND_ADDRESS_BYTES];
	int error = control_path(path, sizeof(path), address);

	return error ? error : shm_view_connect(view, path, VIEW_CONNECT_NS);
}

/* The usual places, as attnd_connect has them. */
static int open_default(struct shm_view *view)
{
	const char *named = getenv("ATTND_ADDRESS"), *folder = getenv("XDG_RUNTIME_DIR");
	char address[ATTND_ADDRESS_BYTES];
	int error;

	if (named && named[0])
		return open_at(view, named);
	if (folder && folder[0] == '/' &&
		snprintf(address, sizeof(address), "%s/attnd/attnd.sock", folder) < (int)sizeof(address)) {
		error = open_at(view, address);
		if (error != -ENOENT && error != -ECONNREFUSED)
			return error;
	}
	return open_at(view, "/run/attnd/attnd.sock");
}

int attnd_view_open(struct attnd_view **view, const char *address)
{
	struct attnd_view *new = calloc(1, sizeof(*new));
	int error;

	*view = NULL;
	if (!new)
		return base_fail(ENOMEM, "no memory for a view");
	error = address ? open_at(&new->view, address) : open_default(&new->view);
	if (error) {
		free(new);
		return error;
	}
	*view = new;
	return 0;
}

void attnd_view_close(struct attnd_view *view)
{
	if (!view)
		return;
	shm_view_destroy(&view->view);
	free(view);
}

int attnd_view_read_daemon(const struct attnd_view *view, struct attnd_view_daemon *daemon)
{
	base_view_get_all(daemon, &view->view.head->daemon, sizeof(*daemon));
	daemon->read_ns = base_monotonic_ns();
	daemon->stale = daemon->read_ns - daemon->alive_ns > ATTND_VIEW_STALE_NS;
	return 0;
}

/* The later of the two publications that can be read: the daemon writes them in turns, so at most one is being written, or was when
 * the daemon died. */
static bool now_read(const struct base_view_device *from, struct attnd_view_now *now)
{
	for (int i = 0; i < READ_TRIES; i++) {
		const bool first = (base_view_get(&from->now[0].number) | 1) > (base_view_get(&from->now[1].number) | 1);

		if (base_view_read(now, &from->now[!first], sizeof(*now)) || base_view_read(now, &from->now[first], sizeof(*now)))
			return true;
	}
	return false;
}

int attnd_view_read_device(const struct attnd_view *view, uint32_t device, struct attnd_view_device *out)
{
	const struct base_view_device *from;

	if (device >= view->view.devices)
		return base_fail(EINVAL, "device %u: there are %u", device, view->view.devices);
	from = shm_view_device(&view->view, device);
	if (!now_read(from, &out->now))
		return base_fail(EAGAIN, "device %u is writing all the time; read again", device);
	out->now.number /= 2;
	base_view_get_all(&out->counts, &from->counts, sizeof(out->counts));
	return 0;
}

double attnd_view_error(const struct attnd_view_counts *counts, double share)
{
	uint64_t total = 0, seen = 0;

	for (int i = 0; i < ATTND_VIEW_ERRORS; i++)
		total += counts->errors[i];
	/* Classes above and below zero together, outwards, to their outer edge. */
	for (int d = 0; d <= ATTND_VIEW_ERRORS_ZERO && total > 0; d++) {
		seen += counts->errors[ATTND_VIEW_ERRORS_ZERO + d] + (d > 0 ? counts->errors[ATTND_VIEW_ERRORS_ZERO - d] : 0);
		if ((double)seen >= share * (double)total)
			return exp2((d + 0.5) / ATTND_VIEW_ERRORS_PER_DOUBLING) - 1.0;
	}
	return 0.0;
}
