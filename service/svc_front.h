/*
 * The front role: takes records out of the clients' rings, checks them, hands them to the scheduler
 * of their device (or to the text role), and puts what comes back into the clients' completion
 * rings.
 *
 * Pure over its clock, the rings' memory and the bell, so that the simulator runs it over plain
 * memory. One thread polls it; the control thread talks to it by commands and events. Nothing is
 * allocated after create.
 *
 * Completions never wait for room: shm_ring.h takes a record only while its final completion has a
 * slot, and the scheduler sends a stream completion only for a credit, which is a slot of the
 * ring's other part.
 */
#ifndef SVC_FRONT_H
#define SVC_FRONT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/base_clock.h"
#include "base/base_spsc.h"
#include "sched/sched.h"
#include "service/svc_place.h"
#include "shm-ipc/shm_ring.h"
#include "shm-ipc/shm_segment.h"

/* ---- control to front, and back ------------------------------------------------------- */

enum svc_command_kind { SVC_CLIENT_ADD, SVC_CLIENT_REMOVE, SVC_DRAIN };

/* One client's memory. Control made it and keeps it until the front says that it is quiet. */
struct svc_rings {
	struct shm_daemon_end end;
	struct shm_segment segment;
	uint8_t *stream_device; /* [completion slots]: which device made each stream completion;
				   NULL with one device */
};

struct svc_command {
	uint32_t kind, client, tenant;
	struct svc_rings *rings; /* SVC_CLIENT_ADD */
};

/* Nothing of the daemon touches this client's memory any more. */
struct svc_event {
	uint32_t client;
};

/* ---- the role ------------------------------------------------------------------------- */

struct svc_front_counters {
	_Atomic uint64_t records, completions, streams;
	_Atomic uint64_t bad_record, bad_op, bad_range,
		queue_full;       /* answered by the front itself */
	_Atomic uint64_t dropped; /* completions of clients that were gone */
	_Atomic uint64_t unowed;  /* completions that nobody was owed: must stay 0 */
};

/* Wakes the reader of a queue after a push; wake is NULL where the same thread polls both ends. */
struct svc_waker {
	void (*wake)(void *context);
	void *context;
};

struct svc_front_options {
	struct base_clock *clock;
	uint32_t clients_max;
	uint32_t device_count;
	struct base_spsc *to_device[SVC_DEVICES_MAX], *from_device[SVC_DEVICES_MAX];
	struct base_spsc *to_text, *from_text;
	struct base_spsc *commands, *events;
	struct svc_waker device_waker[SVC_DEVICES_MAX], text_waker, control_waker;
};

struct svc_front;

int svc_front_create(struct svc_front **front, const struct svc_front_options *options);
int svc_front_poll(void *front);
bool svc_front_sleep_begin(void *front);
void svc_front_sleep_end(void *front);
int64_t svc_front_next_event_ns(void *front);
void svc_front_destroy(struct svc_front *front);

const struct svc_front_counters *svc_front_counters(const struct svc_front *front);
/* Of one client: requests taken, completions put, and the difference; any thread, a hint. */
struct svc_front_view {
	uint64_t requests, completions;
	uint32_t in_flight;
};
void svc_front_view(const struct svc_front *front, uint32_t client, struct svc_front_view *view);

#endif
