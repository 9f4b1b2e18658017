/*
 * Clients: arrival, credits, cancel, and death. Scheduler's thread.
 *
 * Death, as an argument: GONE ends every request that is not in flight and closes every session, so
 * nothing new of the client can be submitted; what is in flight lands within the device's time, and
 * its landing ends its request and frees its session. When both counts are zero no work refers to
 * the client's memory any more, and QUIESCED says so, once.
 */
#include "sched/sched_private.h"

void sched_client_add(struct sched *sched, const struct sched_lane_use *lane, const struct sched_message *message)
{
	struct sched_client *client = &sched->clients[message->client];

	/* The front numbers its clients, and uses a number again only after QUIESCED. */
	BASE_ASSERT(message->client < sched->clients_max && client->lane == lane &&
		message->argument < sched->options.tenant_count && client->state == CLIENT_FREE);
	client->state = CLIENT_LIVE;
	client->tenant = message->argument;
	client->credits = message->credits;
	client->promised = 0;
	client->credits_given = message->credits;
	client->credits_spent = 0;
	client->served = sched->uses[client->tenant].turn;
	sched_view_client_add(client, message);
	client->lane->promised++; /* the slot of its QUIESCED */
	sched->counters.clients++;
}

void sched_client_settle(struct sched *sched, struct sched_client *client)
{
	if (client->state != CLIENT_LEAVING || client->request_count > 0 ||
		client->session_count > 0)
		return;
	client->state = CLIENT_FREE;
	sched->counters.clients--;
	*sched_reply_claim(client->lane) = (struct sched_reply){ .kind = SCHED_CLIENT_QUIESCED, .client = client->number };
	client->lane->promised--;
	sched_reply_send(client->lane);
}

void sched_client_gone(struct sched *sched, struct sched_client *client)
{
	struct sched_list *link, *next;

	client->state = CLIENT_LEAVING;
	/* One too many to settle before both walks are over. */
	client->session_count++;
	for (link = client->requests.next; link != &client->requests; link = next) {
		next = link->next;
		sched_request_end(sched, sched_request_of_client(link), ATTND_CLIENT_GONE);
	}
	for (link = client->sessions.next; link != &client->sessions; link = next) {
		next = link->next;
		sched_session_close(sched, sched_session_of_client(link), ATTND_CLIENT_GONE);
	}
	client->session_count--;
	sched_client_settle(sched, client);
}

void sched_client_unpark(struct sched *sched, struct sched_client *client)
{
	uint32_t credits = sched->lanes_full & sched_lane_bit(sched, client->lane) ? 0 : client->credits;

	while (credits > 0 && !sched_list_empty(&client->parked)) {
		struct sched_session *session = sched_session_of_place(client->parked.next);
		struct sched_request *request = sched_session_head(session);

		/* Waiting for the client's own credit, or for its front, does not count against the time
		 * between tokens. */
		if (request->generate.generated > 0 && request->generate.params.between_ns > 0)
			sched_request_deadline(sched, request,
				sched->now_ns + request->generate.params.between_ns);
		sched_session_enter_place(sched, session, PLACE_READY);
		credits--;
	}
}

void sched_client_credit(struct sched *sched, struct sched_client *client, uint32_t credits)
{
	if (credits > UINT32_MAX - client->credits - client->promised)
		credits = UINT32_MAX - client->credits - client->promised;
	client->credits += credits;
	client->credits_given += credits;
	sched->now_ns = base_clock_now(sched->clock);
	sched_client_unpark(sched, client);
}

void sched_client_cancel(
	struct sched *sched, const struct sched_message *message, struct sched_client *client)
{
	struct sched_list *link;

	for (link = client->requests.next; link != &client->requests; link = link->next) {
		struct sched_request *request = sched_request_of_client(link);

		if (request->record.request_id == message->record.args &&
			request->end_status == 0) {
			sched_request_end(sched, request, ATTND_CANCELLED);
			sched_answer(sched, message, (struct sched_answer){ ATTND_OK, .value = 1 });
			return;
		}
	}
	sched_answer(sched, message, (struct sched_answer){ ATTND_OK, .value = 0 });
}
