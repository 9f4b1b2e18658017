/*
 * What attnctl shows of the network front. See svc_status_net.h.
 */
#include "service/svc_status_net.h"

struct named_count {
	const char *name;
	const _Atomic uint64_t *value;
};

static void add_counts(cJSON *object, const struct named_count *counts, size_t count)
{
	for (size_t i = 0; i < count; i++)
		cJSON_AddNumberToObject(object, counts[i].name, (double)atomic_load_explicit(counts[i].value, memory_order_relaxed));
}

static void add_front(cJSON *object, const struct svc_net_counters *c)
{
	const struct named_count counts[] = {
		{ "clients", &c->clients },
		{ "in_flight", &c->in_flight },
		{ "kept", &c->kept },
		{ "requests", &c->requests },
		{ "completions", &c->completions },
		{ "streams", &c->streams },
		{ "bad_record", &c->bad_record },
		{ "bad_op", &c->bad_op },
		{ "bad_range", &c->bad_range },
		{ "too_large", &c->too_large },
		{ "queue_full", &c->queue_full },
		{ "again", &c->again },
		{ "no_memory", &c->no_memory },
		{ "probes", &c->probes },
		{ "resumed", &c->resumed },
		{ "expired", &c->expired },
		{ "slow", &c->slow },
		{ "dropped", &c->dropped },
		{ "unowed", &c->unowed },
	};

	add_counts(object, counts, sizeof(counts) / sizeof(counts[0]));
}

static void add_links(cJSON *object, const struct net_host_counters *c)
{
	const struct named_count counts[] = {
		{ "opened", &c->opened },
		{ "welcomed", &c->welcomed },
		{ "confirmed", &c->confirmed },
		{ "refused_version", &c->refused[NET_WHY_VERSION] },
		{ "refused_cipher", &c->refused[NET_WHY_CIPHER] },
		{ "refused_key", &c->refused[NET_WHY_KEY] },
		{ "refused_full", &c->refused[NET_WHY_FULL] },
		{ "refused_draining", &c->refused[NET_WHY_DRAINING] },
		{ "refused_protocol", &c->refused[NET_WHY_PROTOCOL] },
		{ "refused_unknown", &c->refused[NET_WHY_UNKNOWN] },
		{ "cookies", &c->cookies },
		{ "hellos_again", &c->hellos_again },
		{ "hellos_waited", &c->hellos_waited },
		{ "unanswered", &c->unanswered },
		{ "timed_out", &c->timed_out },
		{ "pushed_out", &c->pushed_out },
		{ "idle", &c->idle },
		{ "bad_packets", &c->bad_packets },
		{ "replays", &c->replays },
		{ "moves_asked", &c->moves_asked },
		{ "moves", &c->moves },
		{ "malformed", &c->malformed },
		{ "oversized", &c->oversized },
		{ "broken", &c->broken },
		{ "truncated", &c->truncated },
		{ "abandoned", &c->abandoned },
		{ "no_memory_for_packets", &c->no_memory },
	};

	add_counts(object, counts, sizeof(counts) / sizeof(counts[0]));
}

/* What the transport does for it. */
static void add_port(cJSON *object, const struct net_port *port)
{
	struct net_port_counters c;
	const struct named_count counts[] = {
		{ "accepted", &c.accepted },
		{ "refused", &c.refused },
		{ "accept_paused", &c.accept_paused },
		{ "received", &c.received },
		{ "sent", &c.sent },
		{ "received_bytes", &c.received_bytes },
		{ "sent_bytes", &c.sent_bytes },
		{ "received_cut", &c.received_cut },
		{ "send_dropped", &c.send_dropped },
		{ "no_room", &c.no_room },
		{ "ended_untold", &c.ended_untold },
		{ "system_calls", &c.system_calls },
	};

	port->counters(port->self, &c);
	add_counts(cJSON_AddObjectToObject(object, "port"), counts, sizeof(counts) / sizeof(counts[0]));
}

void svc_status_add_network(cJSON *root, const struct svc_daemon *daemon)
{
	const struct svc_network *network = daemon->network;
	cJSON *object;

	if (!network)
		return;
	object = cJSON_AddObjectToObject(root, "network");
	cJSON_AddStringToObject(object, "transport", network->port.name);
	add_front(object, svc_net_counters(network->net));
	add_links(object, svc_net_host_counters(network->net));
	add_port(object, &network->port);
}
