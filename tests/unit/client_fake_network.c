/*
 * See client_fake_network.h.
 */
#include "tests/unit/client_fake_network.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/base_clock.h"
#include "base/base_error.h"
#include "netio/net_secure.h"
#include "service/svc_net.h"

enum {
	CLIENTS = 4,
	IN_FLIGHT = 64,
	STREAMS = 64,
	WINDOW_BYTES = 1 << 20,
	MEMORY_BYTES = 8 << 20,
	QUEUE = 1024,
	WAITING_MAX = CLIENTS * (IN_FLIGHT + 2),
	IDLE_POLLS = 2000,
	LAST_POLLS = 100,
};

struct fake_network {
	struct svc_net *net;
	struct net_port port;
	struct net_pool *in, *out, *parts;
	struct base_clock clock;
	struct base_spsc to_device, from_device, to_text, from_text;
	uint32_t credits[CLIENTS], answering; /* answering: whose request it is */
	bool gone;                            /* the one whose request is being answered has left */
	/* What came for the device, but for credits: requests, and ends of clients. */
	struct sched_message waiting[WAITING_MAX];
	uint32_t waiting_first, waiting_count;
};

static void need(bool condition, const char *what)
{
	if (condition)
		return;
	fprintf(stderr, "fake network: %s: %s\n", what, base_error_message());
	exit(1);
}

/* ---- as a device ------------------------------------------------------------------------------------------ */

static void reply(struct base_spsc *queue, uint32_t client, uint32_t kind, const struct attnd_completion *completion)
{
	struct sched_reply to = { .kind = kind, .client = client };

	if (completion)
		to.completion = *completion;
	need(base_spsc_push(queue, &to), "no room for a reply");
}

/* Takes what the front has for the device; what is not a request, nor a client's end, is seen to. */
static void pull(struct fake_network *network)
{
	const struct sched_message *message;

	while ((message = base_spsc_peek(&network->to_device))) {
		if (message->kind == SCHED_CLIENT_ADD)
			network->credits[message->client] = message->credits;
		else if (message->kind == SCHED_CREDIT)
			network->credits[message->client] += message->credits;
		else {
			need(network->waiting_count < WAITING_MAX, "more requests than may be in flight");
			network->waiting[(network->waiting_first + network->waiting_count++) % WAITING_MAX] = *message;
			network->gone |= message->kind == SCHED_CLIENT_GONE && message->client == network->answering;
		}
		base_spsc_release(&network->to_device);
	}
}

static void answer(struct fake_daemon *daemon, const struct sched_message *message, struct base_spsc *queue)
{
	const struct attnd_request *request = &message->record;
	struct attnd_completion completion = { .request_id = request->request_id, .flags = ATTND_CPL_FINAL };

	daemon->network->answering = message->client;
	daemon->network->gone = false;
	if (daemon->answer(daemon, request, message->in, message->out, &completion) && !daemon->network->gone)
		reply(queue, message->client, SCHED_COMPLETION, &completion);
}

static void serve(struct fake_daemon *daemon, const struct sched_message *message, struct base_spsc *queue)
{
	if (message->kind == SCHED_REQUEST)
		answer(daemon, message, queue);
	else if (message->kind == SCHED_CLIENT_GONE)
		reply(queue, message->client, SCHED_CLIENT_QUIESCED, NULL);
}

static int serve_all(struct fake_daemon *daemon)
{
	struct fake_network *network = daemon->network;
	struct sched_message message;
	int work = 0;

	pull(network);
	for (; network->waiting_count > 0; work++) {
		message = network->waiting[network->waiting_first];
		network->waiting_first = (network->waiting_first + 1) % WAITING_MAX;
		network->waiting_count--;
		serve(daemon, &message, &network->from_device);
		pull(network);
	}
	for (const struct sched_message *text; (text = base_spsc_peek(&network->to_text)); work++) {
		message = *text;
		base_spsc_release(&network->to_text);
		serve(daemon, &message, &network->from_text);
	}
	return work;
}

bool fake_network_stream(struct fake_daemon *daemon, const struct attnd_completion *completion)
{
	struct fake_network *network = daemon->network;

	for (;;) {
		pull(network);
		if (network->gone || atomic_load(&daemon->end) != FAKE_RUNS)
			return false;
		if (network->credits[network->answering] > 0)
			break;
		svc_net_poll(network->net);
	}
	network->credits[network->answering]--;
	reply(&network->from_device, network->answering, SCHED_COMPLETION, completion);
	svc_net_poll(network->net);
	return true;
}

bool fake_network_cancelled(struct fake_daemon *daemon, uint64_t request_id)
{
	struct fake_network *network = daemon->network;
	const struct sched_message *message = &network->waiting[network->waiting_first];
	struct attnd_completion completion;
	bool cancelled;

	pull(network);
	if (network->waiting_count == 0 || message->kind != SCHED_REQUEST)
		return false;
	cancelled = message->record.op == ATTND_OP_CANCEL && message->record.args == request_id;
	completion = (struct attnd_completion){ .request_id = message->record.request_id,
		.flags = ATTND_CPL_FINAL,
		.status = message->record.op == ATTND_OP_CANCEL ? ATTND_OK : ATTND_BAD_OP,
		.value = cancelled };
	reply(&network->from_device, message->client, SCHED_COMPLETION, &completion);
	network->waiting_first = (network->waiting_first + 1) % WAITING_MAX;
	network->waiting_count--;
	return cancelled;
}

/* ---- the thread ------------------------------------------------------------------------------------------- */

static void sleep_for_work(struct fake_daemon *daemon)
{
	struct fake_network *network = daemon->network;
	const int64_t wait_ns = svc_net_next_event_ns(network->net) - base_clock_now(&network->clock);
	const int wait_ms = wait_ns < INT64_C(1000000000) ? (int)(wait_ns / 1000000) : 1000;
	struct pollfd watch[] = { { .fd = network->port.wait_fd, .events = POLLIN }, { .fd = daemon->stop_fd, .events = POLLIN } };

	if (wait_ns <= 0 || svc_net_sleep_begin(network->net))
		return;
	if (network->port.sleep)
		(void)svc_net_sleep(network->net, daemon->stop_fd, wait_ms);
	else
		(void)poll(watch, 2, wait_ms);
}

void *fake_network_run(void *argument)
{
	struct fake_daemon *daemon = argument;
	struct fake_network *network = daemon->network;

	for (unsigned idle = 0; atomic_load(&daemon->end) == FAKE_RUNS;) {
		idle = svc_net_poll(network->net) + serve_all(daemon) > 0 ? 0 : idle + 1;
		if (idle >= IDLE_POLLS && !daemon->spins) {
			sleep_for_work(daemon);
			idle = 0;
		}
	}
	if (atomic_load(&daemon->end) == FAKE_CLOSES)
		svc_net_drain(network->net, true);
	for (unsigned i = 0; i < LAST_POLLS && atomic_load(&daemon->end) == FAKE_CLOSES; i++) {
		svc_net_poll(network->net);
		serve_all(daemon);
	}
	return NULL;
}

/* ---- making and unmaking ---------------------------------------------------------------------------------- */

static void random_bytes(void *context, void *to, size_t bytes)
{
	(void)context;
	need(getrandom(to, bytes, 0) == (ssize_t)bytes, "getrandom");
}

static void read_key(const char *path, struct net_host_key *key)
{
	char text[128] = "";
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	*key = (struct net_host_key){ .tenant = 0 };
	need(fd >= 0 && read(fd, text, sizeof(text) - 1) > 0 && net_key_parse(text, key->key) == 0, "key");
	close(fd);
}

static void create_front(struct fake_daemon *daemon, struct fake_network *network)
{
	static const uint32_t unlimited[1] = { UINT32_MAX };
	const struct net_host_listener listener = { .plain = !daemon->key_file };
	struct net_host_key key;
	struct svc_net_options options = { .host = { .random = random_bytes,
		.listeners = &listener, .listener_count = 1, .half_open_max = CLIENTS, .hello_ns = INT64_C(2000000000),
		.idle_ns = INT64_C(60000000000) },
		.clock = &network->clock, .boot_id = daemon->boot_id, .clients_max = CLIENTS,
		.in_flight = daemon->max_in_flight ? daemon->max_in_flight : IN_FLIGHT, .streams = STREAMS, .window_bytes = WINDOW_BYTES,
		.message_bytes = WINDOW_BYTES, .resume_ns = INT64_C(5000000000), .slow_ns = INT64_C(5000000000),
		.tenant_clients_max = unlimited, .tenant_count = 1, .device_count = 1,
		.to_device = { &network->to_device }, .from_device = { &network->from_device },
		.to_text = &network->to_text, .from_text = &network->from_text };

	if (daemon->key_file) {
		read_key(daemon->key_file, &key);
		options.host.keys = &key;
		options.host.key_count = 1;
	}
	need(!base_spsc_create(&network->to_device, QUEUE, sizeof(struct sched_message)) &&
		!base_spsc_create(&network->to_text, QUEUE, sizeof(struct sched_message)) &&
		!base_spsc_create(&network->from_device, QUEUE, sizeof(struct sched_reply)) &&
		!base_spsc_create(&network->from_text, QUEUE, sizeof(struct sched_reply)), "queues");
	need(!net_pool_create(&network->in, MEMORY_BYTES, -1) && !net_pool_create(&network->out, MEMORY_BYTES, -1) &&
		!net_pool_create(&network->parts, MEMORY_BYTES, -1), "pools");
	options.in = network->in;
	options.out = network->out;
	options.parts = network->parts;
	need(!svc_net_create(&network->net, &options), "front");
}

static void listen_on(struct fake_daemon *daemon, struct fake_network *network)
{
	static const uint8_t kinds[] = { [FAKE_UNIX] = NET_PORT_UNIX, [FAKE_TCP] = NET_PORT_TCP, [FAKE_UDP] = NET_PORT_UDP };
	const char *port = strrchr(daemon->address, ':');
	struct net_listener listener = { .kind = kinds[daemon->way] };
	const struct net_port_options options = { .listeners = &listener, .listener_count = 1, .streams_max = 2 * CLIENTS,
		.above = svc_net_above(network->net) };

	/* The port of an earlier life. */
	if (daemon->way != FAKE_UNIX && port)
		listener.port = (uint16_t)strtoul(port + 1, NULL, 10);
	snprintf(listener.place, sizeof(listener.place), "%s", daemon->way == FAKE_UNIX ? daemon->path : "127.0.0.1");
	need(!net_sockets_create(&network->port, &options), "sockets");
	svc_net_attach(network->net, &network->port);
	if (daemon->way == FAKE_UNIX)
		snprintf(daemon->address, sizeof(daemon->address), "attnd+unix://%s", daemon->path);
	else
		snprintf(daemon->address, sizeof(daemon->address), "attnd%s://127.0.0.1:%u", daemon->way == FAKE_UDP ? "+udp" : "",
			network->port.port_of(network->port.self, 0));
}

void fake_network_create(struct fake_daemon *daemon)
{
	struct fake_network *network = calloc(1, sizeof(*network));

	need(network && !net_secure_init(), "memory");
	base_clock_init(&network->clock);
	create_front(daemon, network);
	listen_on(daemon, network);
	daemon->network = network;
}

void fake_network_destroy(struct fake_daemon *daemon)
{
	struct fake_network *network = daemon->network;

	need(svc_net_check(network->net) == 0, "check");
	svc_net_destroy(network->net);
	network->port.destroy(network->port.self);
	net_pool_destroy(network->parts);
	net_pool_destroy(network->out);
	net_pool_destroy(network->in);
	base_spsc_destroy(&network->from_text);
	base_spsc_destroy(&network->to_text);
	base_spsc_destroy(&network->from_device);
	base_spsc_destroy(&network->to_device);
	free(network);
	daemon->network = NULL;
}
