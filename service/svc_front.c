/*
 * The front role. See svc_front.h.
 *
 *   rings -> take -> check -> to_device[], to_text           commands <- control
 *   rings <- put  <- from_device[], from_text                events   -> control
 *
 * A client's life: FREE -> LIVE (ADD) -> LEAVING (REMOVE: its ring is not read any more; every
 * device and the text role are told) -> FREE (all have said that they are done with it; control is
 * told).
 */
#include "service/svc_front.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_error.h"
#include "sched/sched_handle.h"
#include "shm-ipc/shm_bell.h"
#include "shm-ipc/shm_view.h"

enum {
	RECORDS_PER_TURN = 32, /* taken from one client before the next one's turn */
	REPLIES_PER_POLL = 512,
	TEXT_OPEN_MAX = 8, /* of one client: the text role takes requests in order */
	COUNTERS_EVERY = 256, /* polls between publishing one client's counters */
};

/* In a device's place: the text role, which makes no streams. */
#define FROM_TEXT UINT32_MAX

enum front_state { FRONT_FREE, FRONT_LIVE, FRONT_LEAVING };

struct front_client {
	struct svc_rings *rings;
	uint8_t state;      /* enum front_state */
	bool touched;       /* in front.touched */
	uint32_t quiet_due; /* devices and text role that have not let go yet */
	uint64_t streams_put, streams_credited;
	uint32_t text_open;   /* text requests under way */
	/* below here is for other threads to look at */
	_Atomic uint64_t requests, completions;
	_Atomic uint32_t in_flight;
};

struct svc_front {
	struct svc_front_options options;
	struct front_client *clients; /* [clients_max] */
	uint32_t *live;               /* [clients_max]: indices of LIVE clients, dense */
	uint32_t live_count, touched_count, first;
	struct front_client **touched; /* [clients_max]: got completions in this poll */
	int64_t now_ns; /* of the last record or reply: close enough for the bells' rate limit */
	uint32_t polls;
	uint32_t open_turn; /* which device the next OPEN goes to */
	struct svc_front_counters counters;
};

static inline void count(_Atomic uint64_t *counter)
{
	/* One writer: a plain increment that other threads may read. */
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + 1,
		memory_order_relaxed);
}

static inline void wake(const struct svc_waker *waker)
{
	if (waker->wake)
		waker->wake(waker->context);
}

/* ---- completions into rings ----------------------------------------------------------- */

static void touch(struct svc_front *front, struct front_client *client)
{
	if (!client->touched) {
		client->touched = true;
		front->touched[front->touched_count++] = client;
	}
}

static void put_completion(struct svc_front *front, struct front_client *client,
	const struct attnd_completion *completion, uint32_t device)
{
	struct svc_rings *rings = client->rings;
	bool final = completion->flags & ATTND_CPL_FINAL;

	if (!final && rings->stream_device)
		rings->stream_device[client->streams_put % (rings->end.completion_mask + 1)] =
			(uint8_t)device;
	if (!shm_cpl_put(&rings->end, completion)) {
		/* Neither can happen while scheduler and front agree on credits; it must not take
		 * the daemon down if they do not. */
		count(&front->counters.unowed);
		return;
	}
	front->now_ns = completion->done_ns;
	client->streams_put += !final;
	count(final ? &front->counters.completions : &front->counters.streams);
	count(&client->completions);
	if (final)
		atomic_store_explicit(&client->in_flight, rings->end.open, memory_order_relaxed);
	touch(front, client);
}

/* ---- a client comes and goes ---------------------------------------------------------- */

/* Room for one more message in each queue? Commands wait until there is. */
static bool devices_have_room(struct svc_front *front)
{
	for (uint32_t i = 0; i < front->options.device_count; i++)
		if (!base_spsc_claim(front->options.to_device[i]))
			return false;
	return true;
}

static bool queues_have_room(struct svc_front *front)
{
	return devices_have_room(front) && base_spsc_claim(front->options.to_text) != NULL;
}

static void put_message(struct base_spsc *queue, const struct svc_waker *waker, const struct sched_message *from)
{
	struct sched_message *message = base_spsc_claim(queue);

	if (!message)
		return;
	*message = *from;
	base_spsc_publish(queue);
	wake(waker);
}

static void tell(struct base_spsc *queue, const struct svc_waker *waker, uint32_t kind,
	uint32_t client, uint32_t argument, uint32_t credits)
{
	put_message(queue, waker,
		&(struct sched_message){ .kind = kind, .client = client, .argument = argument, .credits = credits });
}

static void tell_all(struct svc_front *front, uint32_t kind, uint32_t client, uint32_t argument,
	uint32_t credits)
{
	for (uint32_t i = 0; i < front->options.device_count; i++)
		tell(front->options.to_device[i], &front->options.device_waker[i], kind, client,
			argument, credits);
	tell(front->options.to_text, &front->options.text_waker, kind, client, argument, 0);
}

static void client_add(struct svc_front *front, const struct svc_command *command)
{
	struct front_client *client = &front->clients[command->client];
	uint32_t devices = front->options.device_count;

	memset(client, 0, sizeof(*client));
	client->rings = command->rings;
	client->state = FRONT_LIVE;
	front->live[front->live_count++] = command->client;
	struct base_view_own_head *view = command->rings->segment.view;

	for (uint32_t i = 0; i < devices; i++)
		put_message(front->options.to_device[i], &front->options.device_waker[i],
			&(struct sched_message){ .kind = SCHED_CLIENT_ADD,
				.client = command->client,
				.argument = command->tenant,
				.credits = command->rings->end.streams_max / devices,
				.out = view ? shm_view_own_device(view, i) : NULL,
				.slots = view ? view->slots : 0 });
	tell(front->options.to_text, &front->options.text_waker, SCHED_CLIENT_ADD, command->client, command->tenant, 0);
}

static void client_remove(struct svc_front *front, uint32_t index)
{
	struct front_client *client = &front->clients[index];

	if (client->state != FRONT_LIVE)
		return;
	for (uint32_t i = 0; i < front->live_count; i++)
		if (front->live[i] == index) {
			front->live[i] = front->live[--front->live_count];
			break;
		}
	client->state = FRONT_LEAVING;
	client->quiet_due = front->options.device_count + 1;
	tell_all(front, SCHED_CLIENT_GONE, index, 0, 0);
}

static void client_quiet(struct svc_front *front, uint32_t index)
{
	struct front_client *client = &front->clients[index];
	const struct svc_event event = { .client = index };

	if (client->state != FRONT_LEAVING || --client->quiet_due)
		return;
	client->state = FRONT_FREE;
	client->rings = NULL;
	base_spsc_push(front->options.events,
		&event); /* as many elements as there are clients: never full */
	wake(&front->options.control_waker);
}

static int take_commands(struct svc_front *front)
{
	const struct svc_command *command = base_spsc_peek(front->options.commands);

	if (!command || !queues_have_room(front))
		return 0;
	switch (command->kind) {
	case SVC_CLIENT_ADD: client_add(front, command); break;
	case SVC_CLIENT_REMOVE: client_remove(front, command->client); break;
	case SVC_DRAIN: tell_all(front, SCHED_DRAIN, 0, 0, 0); break;
	}
	base_spsc_release(front->options.commands);
	return 1;
}

/* ---- replies -------------------------------------------------------------------------- */

static int take_replies(struct svc_front *front, struct base_spsc *queue, uint32_t device)
{
	const struct sched_reply *reply;
	int taken = 0;

	while (taken < REPLIES_PER_POLL && (reply = base_spsc_peek(queue))) {
		struct front_client *client = &front->clients[reply->client];

		if (reply->kind == SCHED_CLIENT_QUIESCED)
			client_quiet(front, reply->client);
		else if (client->state != FRONT_LIVE)
			count(&front->counters.dropped);
		else {
			client->text_open -= device == FROM_TEXT;
			put_completion(front, client, &reply->completion, device);
		}
		base_spsc_release(queue);
		taken++;
	}
	return taken;
}

/* ---- records -------------------------------------------------------------------------- */

/* What is wrong with a record by itself: a status, or ATTND_OK. */
static enum attnd_status check_record(struct svc_front *front, const struct attnd_request *record)
{
	if (record->version != ATTND_VERSION || record->reserved ||
		record->flags & ~ATTND_REQ_ALL || record->priority_class >= ATTND_CLASS_END) {
		count(&front->counters.bad_record);
		return ATTND_BAD_RECORD;
	}
	if (record->op == 0 || record->op >= ATTND_OP_END) {
		count(&front->counters.bad_op);
		return ATTND_BAD_OP;
	}
	return ATTND_OK;
}

static void answer(struct svc_front *front, struct front_client *client,
	const struct attnd_request *record, enum attnd_status status, int64_t now_ns)
{
	const struct attnd_completion completion = {
		.request_id = record->request_id,
		.status = (uint8_t)status,
		.flags = ATTND_CPL_FINAL,
		.received_ns = now_ns,
		.done_ns = now_ns,
	};

	put_completion(front, client, &completion, 0);
}

static uint32_t device_of(struct svc_front *front, const struct attnd_request *record)
{
	uint32_t devices = front->options.device_count;

	if (devices == 1)
		return 0;
	if (record->op == ATTND_OP_OPEN)
		return front->open_turn++ % devices;
	/* A wrong device number only finds no session there. */
	return record->session ? sched_handle_device(record->session) % devices : 0;
}

static void dispatch(
	struct svc_front *front, uint32_t index, const struct attnd_request *record, int64_t now_ns)
{
	struct front_client *client = &front->clients[index];
	bool text = record->op == ATTND_OP_TOKENIZE || record->op == ATTND_OP_DETOKENIZE;
	enum attnd_status status = check_record(front, record);
	void *in, *out;

	if (status != ATTND_OK) {
		answer(front, client, record, status, now_ns);
		return;
	}
	if (!shm_arena_range(&client->rings->segment, record->in_offset, record->in_bytes, &in) ||
		!shm_arena_range(
			&client->rings->segment, record->out_offset, record->out_capacity, &out)) {
		count(&front->counters.bad_range);
		answer(front, client, record, ATTND_BAD_RANGE, now_ns);
		return;
	}
	uint32_t device = text ? 0 : device_of(front, record);
	struct base_spsc *queue = text ? front->options.to_text : front->options.to_device[device];
	/* The last places are for clients that come and go: requests must not shut them out. */
	bool room = base_spsc_room(queue, 2 * (uint64_t)front->options.clients_max + 1) &&
		!(text && client->text_open >= TEXT_OPEN_MAX);
	struct sched_message *message = room ? base_spsc_claim(queue) : NULL;

	if (!message) {
		count(&front->counters.queue_full);
		answer(front, client, record, ATTND_QUEUE_FULL, now_ns);
		return;
	}
	message->record = *record;
	message->kind = SCHED_REQUEST;
	message->client = index;
	message->argument = message->credits = 0;
	message->received_ns = now_ns;
	message->in = in;
	message->out = out;
	base_spsc_publish(queue);
	client->text_open += text;
	wake(text ? &front->options.text_waker : &front->options.device_waker[device]);
}

/* Hands consumed stream slots back to the devices that filled them. */
static void return_credits(struct svc_front *front, uint32_t index)
{
	struct front_client *client = &front->clients[index];
	struct svc_rings *rings = client->rings;

	if (!devices_have_room(front))
		return;
	uint32_t credits = shm_cpl_credits(&rings->end);

	if (!credits)
		return;
	if (!rings->stream_device) {
		tell(front->options.to_device[0], &front->options.device_waker[0], SCHED_CREDIT,
			index, 0, credits);
		return;
	}
	uint32_t by_device[SVC_DEVICES_MAX] = { 0 };

	for (uint32_t i = 0; i < credits; i++)
		by_device[rings->stream_device[client->streams_credited++ %
			(rings->end.completion_mask + 1)]]++;
	for (uint32_t i = 0; i < front->options.device_count; i++)
		if (by_device[i])
			tell(front->options.to_device[i], &front->options.device_waker[i],
				SCHED_CREDIT, index, 0, by_device[i]);
}

static int take_records(struct svc_front *front, uint32_t index)
{
	struct front_client *client = &front->clients[index];
	struct shm_daemon_end *end = &client->rings->end;
	struct attnd_request record;
	int taken = 0;

	/* Also what shm_sub_room or the second look before a sleep has reclaimed already. */
	if (end->streams_unread || end->credits_due)
		return_credits(front, index);
	if (!shm_sub_take(end, &record))
		return 0;
	int64_t now_ns = base_clock_now(front->options.clock);

	do {
		count(&front->counters.records);
		count(&client->requests);
		dispatch(front, index, &record, now_ns);
	} while (++taken < RECORDS_PER_TURN && shm_sub_take(end, &record));
	atomic_store_explicit(&client->in_flight, end->open, memory_order_relaxed);
	return taken;
}

/* ---- the role ------------------------------------------------------------------------- */

/* One fence and one look at each client's sleep flag for all completions of this poll. */
static void ring_bells(struct svc_front *front)
{
	if (!front->touched_count)
		return;
	shm_fence(); /* W1 */
	for (uint32_t i = 0; i < front->touched_count; i++) {
		shm_bell_check(&front->touched[i]->rings->end, front->now_ns); /* W2 */
		front->touched[i]->touched = false;
	}
	front->touched_count = 0;
}

static void publish_counters(struct svc_front *front)
{
	uint32_t turn = front->polls++;

	if (turn % COUNTERS_EVERY || !front->live_count)
		return;
	struct shm_daemon_end *end =
		&front->clients[front->live[turn / COUNTERS_EVERY % front->live_count]].rings->end;

	shm_counters_publish(end);
	if (end->wake_held)
		shm_bell_retry(end, base_clock_now(front->options.clock));
}

int svc_front_poll(void *self)
{
	struct svc_front *front = self;
	int work = take_commands(front);

	for (uint32_t i = 0; i < front->options.device_count; i++)
		work += take_replies(front, front->options.from_device[i], i);
	work += take_replies(front, front->options.from_text, FROM_TEXT);
	/* Who is looked at first moves on, so that no client is always last. */
	uint32_t live = front->live_count, at = live ? front->first++ % live : 0;

	for (uint32_t i = 0; i < live; i++) {
		work += take_records(front, front->live[at]);
		at = at + 1 == live ? 0 : at + 1;
	}
	ring_bells(front);
	publish_counters(front);
	return work;
}

bool svc_front_sleep_begin(void *self)
{
	struct svc_front *front = self;
	bool work =
		base_spsc_peek(front->options.commands) || base_spsc_peek(front->options.from_text);

	for (uint32_t i = 0; i < front->live_count; i++)
		shm_bell_sleep_intend(&front->clients[front->live[i]].rings->end); /* S1 */
	shm_fence();
	for (uint32_t i = 0; i < front->live_count; i++) {
		struct shm_daemon_end *end = &front->clients[front->live[i]].rings->end;

		shm_counters_publish(end);
		work |= shm_daemon_has_work(end); /* S2 */
	}
	for (uint32_t i = 0; i < front->options.device_count; i++)
		work |= base_spsc_peek(front->options.from_device[i]) != NULL;
	return work;
}

void svc_front_sleep_end(void *self)
{
	struct svc_front *front = self;

	for (uint32_t i = 0; i < front->live_count; i++)
		shm_bell_sleep_awake(&front->clients[front->live[i]].rings->end);
}

int64_t svc_front_next_event_ns(void *self)
{
	struct svc_front *front = self;
	int64_t next_ns = INT64_MAX;

	for (uint32_t i = 0; i < front->live_count; i++) {
		struct shm_daemon_end *end = &front->clients[front->live[i]].rings->end;

		if (!end->wake_held)
			continue;
		shm_bell_retry(end, base_clock_now(front->options.clock));
		if (shm_bell_retry_ns(end) < next_ns)
			next_ns = shm_bell_retry_ns(end);
	}
	return next_ns;
}

const struct svc_front_counters *svc_front_counters(const struct svc_front *front)
{
	return &front->counters;
}

void svc_front_view(const struct svc_front *front, uint32_t index, struct svc_front_view *view)
{
	const struct front_client *client = &front->clients[index];

	view->requests = atomic_load_explicit(&client->requests, memory_order_relaxed);
	view->completions = atomic_load_explicit(&client->completions, memory_order_relaxed);
	view->in_flight = atomic_load_explicit(&client->in_flight, memory_order_relaxed);
}

int svc_front_create(struct svc_front **front_out, const struct svc_front_options *options)
{
	struct svc_front *front = calloc(1, sizeof(*front));

	if (!front)
		return base_fail(ENOMEM, "front: out of memory");
	front->options = *options;
	front->clients = calloc(options->clients_max, sizeof(*front->clients));
	front->live = calloc(options->clients_max, sizeof(*front->live));
	front->touched = calloc(options->clients_max, sizeof(struct front_client *));
	if (!front->clients || !front->live || !front->touched) {
		svc_front_destroy(front);
		return base_fail(ENOMEM,
			"front: out of memory for %u clients; lower [shm] max_clients",
			options->clients_max);
	}
	*front_out = front;
	return 0;
}

void svc_front_destroy(struct svc_front *front)
{
	if (!front)
		return;
	free(front->touched);
	free(front->live);
	free(front->clients);
	free(front);
}
