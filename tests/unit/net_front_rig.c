/*
 * The network front between fakes. See net_front_rig.h.
 */
#include "tests/unit/net_front_rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_assert.h"
#include "base/base_error.h"
#include "base/base_rand.h"

const struct front_limits front_usual = { .clients = 4,
	.in_flight = 8,
	.streams = 8,
	.window_bytes = 64 << 10,
	.message_bytes = 32 << 10,
	.devices = 1,
	.half_open = 8,
	.in_bytes = 256 << 10,
	.out_bytes = 256 << 10,
	.parts_bytes = 256 << 10,
	.tenant_clients = { 4, 4, 4 },
	.queue = 64,
	.resume_ns = INT64_C(10000000000),
	.slow_ns = INT64_C(5000000000),
	.hello_ns = INT64_C(2000000000),
	.idle_ns = INT64_C(300000000000) };

/* ---- making ----------------------------------------------------------------------------------------------- */

static void some_bytes(void *context, void *to, size_t bytes)
{
	struct front_rig *rig = context;

	for (size_t i = 0; i < bytes; i++)
		((unsigned char *)to)[i] = (unsigned char)base_rand_next(&rig->seed);
}

static void key_of(uint32_t tenant, unsigned char key[NET_KEY_BYTES])
{
	memset(key, (int)tenant + 1, NET_KEY_BYTES);
}

static void queues_create(struct front_rig *rig, struct svc_net_options *options)
{
	const uint32_t places = rig->limits.queue + 2 * rig->limits.clients;

	for (uint32_t i = 0; i < FRONT_QUEUES; i++) {
		if (i >= rig->limits.devices && i != FRONT_TEXT)
			continue;
		BASE_ASSERT(base_spsc_create(&rig->to[i], places, sizeof(struct sched_message)) == 0);
		BASE_ASSERT(base_spsc_create(&rig->from[i], 1024, sizeof(struct sched_reply)) == 0);
	}
	for (uint32_t i = 0; i < rig->limits.devices; i++) {
		options->to_device[i] = &rig->to[i];
		options->from_device[i] = &rig->from[i];
	}
	options->to_text = &rig->to[FRONT_TEXT];
	options->from_text = &rig->from[FRONT_TEXT];
}

static void net_create(struct front_rig *rig)
{
	static const struct net_host_listener listeners[FRONT_LISTENERS] = { [FRONT_PLAIN] = { .plain = true, .tenant = 2 } };
	const struct front_limits *limits = &rig->limits;
	struct net_host_key keys[2] = { { .tenant = 0 }, { .tenant = 1 } };
	struct svc_net_options options = { .clock = &rig->clock,
		.boot_id = 4711,
		.clients_max = limits->clients,
		.client_first = FRONT_CLIENT_FIRST,
		.in_flight = limits->in_flight,
		.streams = limits->streams,
		.window_bytes = limits->window_bytes,
		.message_bytes = limits->message_bytes,
		.resume_ns = limits->resume_ns,
		.slow_ns = limits->slow_ns,
		.in = rig->in,
		.out = rig->out,
		.parts = rig->parts,
		.tenant_clients_max = limits->tenant_clients,
		.tenant_count = FRONT_TENANTS,
		.device_count = limits->devices };

	key_of(0, keys[0].key);
	key_of(1, keys[1].key);
	options.host = (struct net_host_options){ .random = some_bytes,
		.random_context = rig,
		.keys = keys,
		.key_count = 2,
		.listeners = listeners,
		.listener_count = FRONT_LISTENERS,
		.half_open_max = limits->half_open,
		.hello_ns = limits->hello_ns,
		.idle_ns = limits->idle_ns };
	queues_create(rig, &options);
	BASE_ASSERT(svc_net_create(&rig->net, &options) == 0);
	rig->fake.above = svc_net_above(rig->net);
	svc_net_attach(rig->net, &rig->fake.port);
}

struct front_rig *front_rig_create(const struct front_limits *limits)
{
	struct front_rig *rig = calloc(1, sizeof(*rig));

	BASE_ASSERT(rig && net_secure_init() == 0 && limits->clients <= FRONT_CLIENTS_MAX);
	rig->limits = *limits;
	base_clock_init_fake(&rig->clock, 1000);
	fake_port_init(&rig->fake);
	BASE_ASSERT(net_pool_create(&rig->in, limits->in_bytes, -1) == 0);
	BASE_ASSERT(net_pool_create(&rig->out, limits->out_bytes, -1) == 0);
	BASE_ASSERT(net_pool_create(&rig->parts, limits->parts_bytes, -1) == 0);
	net_create(rig);
	return rig;
}

static void check_all_back(struct front_rig *rig)
{
	BASE_ASSERT(FRONT_COUNTER(rig, clients) == 0 && FRONT_COUNTER(rig, in_flight) == 0);
	BASE_ASSERT(net_pool_free_bytes(rig->in) == net_pool_bytes(rig->in));
	BASE_ASSERT(net_pool_free_bytes(rig->out) == net_pool_bytes(rig->out));
}

void front_rig_destroy(struct front_rig *rig)
{
	struct front_call call;

	svc_net_drain(rig->net, true);
	rig->no_quiet = false;
	front_quiet(rig);
	for (int i = 0; i < 3; i++) {
		front_wait(rig, rig->limits.hello_ns);
		for (uint32_t queue = 0; queue < FRONT_QUEUES; queue++)
			while (front_next(rig, queue, &call))
				;
	}
	check_all_back(rig);
	svc_net_destroy(rig->net);
	BASE_ASSERT(net_pool_free_bytes(rig->parts) == net_pool_bytes(rig->parts));
	net_pool_destroy(rig->parts);
	net_pool_destroy(rig->out);
	net_pool_destroy(rig->in);
	for (uint32_t i = 0; i < FRONT_QUEUES; i++) {
		base_spsc_destroy(&rig->from[i]);
		base_spsc_destroy(&rig->to[i]);
	}
	fake_port_free(&rig->fake);
	free(rig);
}

void front_poll(struct front_rig *rig)
{
	svc_net_poll(rig->net);
	if (svc_net_check(rig->net))
		fprintf(stderr, "%s\n", base_error_message());
	BASE_ASSERT(svc_net_check(rig->net) == 0);
	BASE_ASSERT(net_pool_check(rig->in) == 0 && net_pool_check(rig->out) == 0 && net_pool_check(rig->parts) == 0);
	BASE_ASSERT(FRONT_COUNTER(rig, unowed) == 0);
	BASE_ASSERT(rig->fake.amplified == 0);
}

void front_wait(struct front_rig *rig, int64_t ns)
{
	rig->clock.fake_ns += ns;
	front_poll(rig);
}

/* ---- devices ---------------------------------------------------------------------------------------------- */

unsigned char front_byte(uint64_t seed, uint32_t at)
{
	return (unsigned char)(seed * 31 + at * 7 + (at >> 8));
}

static void push_reply(struct front_rig *rig, uint32_t queue, const struct sched_reply *reply)
{
	BASE_ASSERT(base_spsc_push(&rig->from[queue], reply));
}

static void say_quiet(struct front_rig *rig, uint32_t queue, uint32_t client)
{
	const struct sched_reply quiet = { .kind = SCHED_CLIENT_QUIESCED, .client = FRONT_CLIENT_FIRST + client };

	push_reply(rig, queue, &quiet);
}

void front_quiet(struct front_rig *rig)
{
	while (rig->quiet_due_count > 0) {
		rig->quiet_due_count--;
		say_quiet(rig, rig->quiet_due[rig->quiet_due_count].queue, rig->quiet_due[rig->quiet_due_count].client);
	}
}

/* What is no request. */
static void note(struct front_rig *rig, uint32_t queue, const struct sched_message *message)
{
	const uint32_t client = message->client - FRONT_CLIENT_FIRST;
	struct front_knows *knows = &rig->knows[queue][client];

	BASE_ASSERT(knows->there == (message->kind != SCHED_CLIENT_ADD));
	switch (message->kind) {
	case SCHED_CLIENT_ADD:
		*knows = (struct front_knows){
			.there = true, .life = knows->life + 1, .tenant = message->argument, .credits = message->credits };
		break;
	case SCHED_CREDIT: knows->credits += message->credits; break;
	default:
		BASE_ASSERT(message->kind == SCHED_CLIENT_GONE);
		knows->there = false;
		knows->life++;
		if (!rig->no_quiet) {
			say_quiet(rig, queue, client);
			return;
		}
		rig->quiet_due[rig->quiet_due_count].queue = queue;
		rig->quiet_due[rig->quiet_due_count++].client = client;
	}
}

/* Input is whole and right when it comes to a device. */
static void check_input(const struct front_rig *rig, const struct sched_message *message)
{
	const unsigned char *in = message->in;

	BASE_ASSERT((in != NULL) == (message->record.in_bytes > 0));
	for (uint32_t i = 0; i < message->record.in_bytes; i++)
		BASE_ASSERT(in[i] == front_byte(message->record.session, i) || rig->any_input);
	BASE_ASSERT((message->out != NULL) == (message->record.out_capacity > 0));
	if (message->out)
		memset(message->out, 0xdd, message->record.out_capacity);
}

bool front_next(struct front_rig *rig, uint32_t queue, struct front_call *call)
{
	const struct sched_message *message;

	while ((message = base_spsc_peek(&rig->to[queue]))) {
		const uint32_t client = message->client - FRONT_CLIENT_FIRST;

		BASE_ASSERT(client < rig->limits.clients);
		if (message->kind == SCHED_REQUEST) {
			BASE_ASSERT(rig->knows[queue][client].there);
			*call = (struct front_call){ *message, queue, rig->knows[queue][client].life };
			check_input(rig, message);
			base_spsc_release(&rig->to[queue]);
			return true;
		}
		note(rig, queue, message);
		base_spsc_release(&rig->to[queue]);
	}
	return false;
}

static struct front_knows *knows_of(struct front_rig *rig, const struct front_call *call)
{
	struct front_knows *knows = &rig->knows[call->queue][call->message.client - FRONT_CLIENT_FIRST];

	return knows->there && knows->life == call->life ? knows : NULL;
}

/* By `position` the client knows what the result is made of. */
static struct sched_reply reply_to(const struct front_call *call)
{
	return (struct sched_reply){ .kind = SCHED_COMPLETION,
		.client = call->message.client,
		.completion = { .request_id = call->message.record.request_id, .position = call->message.record.position } };
}

void front_final(struct front_rig *rig, const struct front_call *call, enum attnd_status status, uint32_t result_bytes)
{
	struct sched_reply reply = reply_to(call);

	if (!knows_of(rig, call))
		return;
	BASE_ASSERT(result_bytes <= call->message.record.out_capacity);
	reply.completion.status = (uint8_t)status;
	reply.completion.flags = ATTND_CPL_FINAL;
	reply.completion.result_bytes = result_bytes;
	for (uint32_t i = 0; i < result_bytes; i++)
		((unsigned char *)call->message.out)[i] = front_byte(call->message.record.position, i);
	push_reply(rig, call->queue, &reply);
}

bool front_stream(struct front_rig *rig, const struct front_call *call, uint32_t sequence)
{
	struct front_knows *knows = knows_of(rig, call);
	struct sched_reply reply = reply_to(call);

	if (!knows || knows->credits == 0)
		return false;
	knows->credits--;
	reply.completion.sequence = sequence;
	reply.completion.result_bytes = 4 * (sequence + 1); /* so far */
	push_reply(rig, call->queue, &reply);
	return true;
}
