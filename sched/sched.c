/*
 * The scheduler's poll: messages in, replies out, and the order in which a poll does its work.
 * Scheduler's thread; no allocation, no lock, no system call, and a bounded amount of work per
 * call.
 *
 * The latency floor runs through here: a NOP is answered by the poll that takes it, and touches its
 * message, its client's record, one slot of its lane's `out` and a few counts, nothing else.
 */
#include "sched/sched_private.h"

struct sched_reply *sched_reply_claim(struct sched_lane_use *lane)
{
	struct sched_reply *reply = base_spsc_claim(lane->out);

	/* Every reply's slot was promised before its request was taken. */
	BASE_ASSERT(reply != NULL);
	return reply;
}

void sched_reply_send(struct sched_lane_use *lane)
{
	base_spsc_publish(lane->out);
}

void sched_answer(
	struct sched *sched, const struct sched_message *message, struct sched_answer answer)
{
	struct sched_lane_use *lane = sched->clients[message->client].lane;
	struct sched_reply *reply = sched_reply_claim(lane);
	int64_t now_ns = base_clock_now(sched->clock);

	*reply = (struct sched_reply){
		.kind = SCHED_COMPLETION,
		.client = message->client,
		.completion = {
			.request_id = message->record.request_id,
			.status = (uint8_t)answer.status,
			.flags = ATTND_CPL_FINAL,
			.result_bytes = answer.result_bytes,
			.position = answer.position,
			.received_ns = message->received_ns,
			.admitted_ns = answer.status == ATTND_OK ? now_ns : 0,
			.done_ns = now_ns,
			.value = answer.value,
		},
	};
	sched_view_answered(sched, message, &reply->completion);
	sched_reply_send(lane);
	sched->counters.accepted++;
	sched->counters.completed++;
	sched->counters.by_status[answer.status]++;
	sched->counters.by_op[message->record.op < ATTND_OP_END ? message->record.op : 0]++;
}

static bool nop_plain(const struct attnd_request *record)
{
	return record->op == ATTND_OP_NOP && record->version == ATTND_VERSION &&
		record->reserved == 0 && record->flags == 0 &&
		record->priority_class < ATTND_CLASS_END;
}

static void nop(struct sched *sched, const struct sched_message *message)
{
	const struct attnd_request *record = &message->record;
	uint32_t bytes =
		record->in_bytes < record->out_capacity ? record->in_bytes : record->out_capacity;
	enum attnd_status status = ATTND_OK;

	if (bytes > SCHED_NOP_BYTES_MAX)
		status = ATTND_TOO_LARGE;
	else if (bytes > 0 && (!message->in || !message->out))
		status = ATTND_BAD_RANGE;
	else if (bytes > 0)
		memmove(message->out, message->in, bytes);
	sched_answer(sched, message,
		(struct sched_answer){
			.status = status, .result_bytes = status == ATTND_OK ? bytes : 0 });
}

/* Fronts number their clients. NULL: one that never came by this lane, or that the front said is gone. */
static struct sched_client *sender(struct sched *sched, const struct sched_lane_use *lane, const struct sched_message *message)
{
	struct sched_client *client;

	if (message->client - lane->first >= lane->clients)
		return NULL;
	client = &sched->clients[message->client];
	return client->state == CLIENT_LIVE ? client : NULL;
}

static void take_request(struct sched *sched, const struct sched_message *message, const struct sched_client *client)
{
	if (!client) /* nobody is there to be answered */
		sched->counters.gone++;
	else if (nop_plain(&message->record))
		nop(sched, message);
	else
		sched_request_take(sched, message);
}

static void take(struct sched *sched, const struct sched_lane_use *lane, const struct sched_message *message)
{
	struct sched_client *client = sender(sched, lane, message);

	switch ((enum sched_message_kind)message->kind) {
	case SCHED_REQUEST: take_request(sched, message, client); break;
	case SCHED_CLIENT_ADD: sched_client_add(sched, lane, message); break;
	case SCHED_CLIENT_GONE:
		if (client)
			sched_client_gone(sched, client);
		break;
	case SCHED_CREDIT:
		if (client)
			sched_client_credit(sched, client, message->credits);
		break;
	case SCHED_DRAIN: sched->draining = true; break;
	}
}

/* Adds to *taken. False: no lane's turn comes after this one. */
static bool take_from(struct sched *sched, struct sched_lane_use *lane, int *taken)
{
	for (uint32_t i = 0; i < sched->lane_messages; i++) {
		const struct sched_message *message = base_spsc_peek(lane->in);

		/* One slot beyond all that were promised: whatever this message leads to can be
		 * answered. */
		if (!message || !sched_lane_room(lane, 1))
			break;
		bool large = message->kind == SCHED_REQUEST &&
			message->record.op == ATTND_OP_NOP &&
			message->record.in_bytes > SCHED_NOP_BYTES_SMALL;

		take(sched, lane, message);
		base_spsc_release(lane->in);
		++*taken;
		if (large) /* its copy was this poll's share */
			return false;
	}
	return true;
}

/* Each lane has its share of every poll. Who is first moves on, since a large message ends the taking for all. */
static int take_messages(struct sched *sched)
{
	uint32_t at = sched->lane_first;
	int taken = 0;

	sched->lane_first = at + 1 == sched->lane_count ? 0 : at + 1;
	for (uint32_t i = 0; i < sched->lane_count && take_from(sched, &sched->lanes[at], &taken); i++)
		at = at + 1 == sched->lane_count ? 0 : at + 1;
	return taken;
}

/* Streams that were parked because their lane had no room go on once it has some for several of them. Rare: a front that drains
 * never lets its lane become full. */
static int lanes_resume(struct sched *sched)
{
	int resumed = 0;

	for (uint32_t i = 0; sched->lanes_full >> i > 0; i++) {
		const struct sched_lane_use *lane = &sched->lanes[i];

		if (!(sched->lanes_full >> i & 1) || !sched_lane_room(lane, SCHED_LANE_ROOM))
			continue;
		sched->lanes_full &= ~(1u << i);
		for (uint32_t c = 0; c < lane->clients; c++)
			sched_client_unpark(sched, &sched->clients[lane->first + c]);
		resumed++;
	}
	return resumed;
}

/* Nothing of what a poll does beyond messages could find work: the idle case costs a few loads and
 * no clock. */
static bool quiet(const struct sched *sched)
{
	return sched->flight_count == 0 && sched->lanes_full == 0 && sched_list_empty(&sched->kicked) &&
		sched_list_empty(&sched->active) && sched_list_empty(&sched->blocked) &&
		sched->next_expiry_ns == INT64_MAX && sched_kv_dirty_bytes(sched->kv) == 0;
}

int sched_poll(struct sched *sched)
{
	int work = take_messages(sched);

	if (quiet(sched)) {
		sched_view_poll(sched, work);
		return work;
	}
	sched->now_ns = base_clock_now(sched->clock);
	work += lanes_resume(sched);
	work += sched_requests_expire(sched);
	work += sched_requests_start(sched);
	work += sched_requests_unblock(sched);
	work += sched_step_form(sched);
	work += sched_reuse_relieve(sched);
	work += sched_zero_form(sched);
	work += sched_flights_poll(sched);
	sched_view_poll(sched, work);
	return work;
}

bool sched_idle(const struct sched *sched)
{
	for (uint32_t i = 0; i < sched->lane_count; i++)
		if (base_spsc_count(sched->lanes[i].in) > 0)
			return false;
	return quiet(sched) && sched->counters.requests == 0;
}

int64_t sched_next_event_ns(const struct sched *sched)
{
	bool busy = sched->flight_count > 0 || sched->lanes_full || !sched_list_empty(&sched->kicked) ||
		!sched_list_empty(&sched->blocked) || sched_kv_dirty_bytes(sched->kv) > 0;
	int64_t now_ns, next_ns = sched->next_expiry_ns;

	if (busy)
		return 0;
	if (sched_list_empty(&sched->active))
		return next_ns;
	/* Who is ready and has used up its device time waits for the clock. */
	now_ns = base_clock_now(sched->clock);
	for (const struct sched_list *link = sched->active.next; link != &sched->active; link = link->next) {
		int64_t free_ns = sched_share_free_ns(sched, sched_use_of_active(link));

		if (free_ns <= now_ns)
			return 0;
		if (free_ns < next_ns)
			next_ns = free_ns;
	}
	return next_ns;
}
