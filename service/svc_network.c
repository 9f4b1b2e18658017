/*
 * The network front by the configuration. See svc_network.h.
 */
#include "service/svc_network.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/base_assert.h"
#include "base/base_error.h"
#include "base/base_log.h"
#include "service/svc_config_net.h"

#define MILLISECOND INT64_C(1000000)

/* Memory for packets in pieces: of that for results, and at least so much, since one takes up to 32 KiB. */
enum { PARTS_SHARE = 8, PARTS_BYTES_LEAST = 1 << 20 };

static void random_bytes(void *context, void *to, size_t bytes)
{
	(void)context;
	/* Up to 256 bytes come whole, once the kernel has started. */
	BASE_ASSERT(bytes <= 256 && getrandom(to, bytes, 0) == (ssize_t)bytes);
}

static int keys_read(const struct svc_config *config, struct net_host_key *keys, uint32_t *count)
{
	int rc = 0;

	*count = 0;
	for (uint32_t i = 0; i < config->tenant_count && !rc; i++) {
		if (!config->tenants[i].key_file[0])
			continue;
		rc = svc_config_key(&config->tenants[i], keys[*count].key);
		keys[(*count)++].tenant = i;
	}
	return rc;
}

static int pools_create(struct svc_network *network, const struct svc_config *config, int node)
{
	const uint64_t half = (uint64_t)config->net_memory_bytes / 2;
	int rc;

	if ((rc = net_pool_create(&network->in, half, node)) || (rc = net_pool_create(&network->out, half, node)))
		return rc;
	return net_pool_create(&network->parts, half / PARTS_SHARE > PARTS_BYTES_LEAST ? half / PARTS_SHARE : PARTS_BYTES_LEAST, node);
}

static int role_create(struct svc_network *network, const struct svc_config *config, uint64_t boot_id, int node,
	const struct svc_net_options *queues)
{
	struct net_host_listener listeners[NET_LISTENERS_MAX];
	struct net_host_key keys[NET_KEYS_MAX];
	uint32_t tenant_clients[SCHED_TENANTS_MAX], key_count;
	struct svc_net_options options = *queues;
	int rc = keys_read(config, keys, &key_count);

	if (rc) {
		explicit_bzero(keys, sizeof(keys));
		return rc;
	}
	for (uint32_t i = 0; i < config->listen_count; i++)
		listeners[i] = (struct net_host_listener){ .plain = config->listens[i].plain,
			.tenant = svc_config_listen_tenant(config, &config->listens[i]) };
	tenant_clients[0] = UINT32_MAX;
	for (uint32_t i = 0; i < config->tenant_count; i++)
		tenant_clients[i] = (uint32_t)config->tenants[i].clients;
	options.host = (struct net_host_options){ .random = random_bytes,
		.keys = keys,
		.key_count = key_count,
		.listeners = listeners,
		.listener_count = config->listen_count,
		.half_open_max = (uint32_t)config->net_half_open,
		.hello_ns = config->net_hello_ms * MILLISECOND,
		.idle_ns = config->net_idle_s * 1000 * MILLISECOND,
		.cookies = config->net_cookies };
	options.boot_id = boot_id;
	options.node = node;
	options.clients_max = (uint32_t)config->net_connections;
	options.in_flight = (uint32_t)config->net_in_flight;
	options.streams = (uint32_t)config->net_streams;
	options.window_bytes = (uint32_t)config->net_window_bytes;
	options.message_bytes = (uint32_t)config->net_message_bytes;
	options.resume_ns = config->net_resume_ms * MILLISECOND;
	options.slow_ns = config->net_slow_s * 1000 * MILLISECOND;
	options.in = network->in;
	options.out = network->out;
	options.parts = network->parts;
	options.tenant_clients_max = tenant_clients;
	options.tenant_count = config->tenant_count ? config->tenant_count : 1;
	rc = svc_net_create(&network->net, &options);
	explicit_bzero(keys, sizeof(keys));
	return rc;
}

/* io_uring where the configuration and the kernel let us; otherwise plain calls, and why. */
static int port_create(struct svc_network *network, const struct svc_config *config, const struct net_port_options *options)
{
	int rc = -ENOSYS;

	if (config->net_transport != SVC_NET_SOCKETS)
		rc = net_uring_create(&network->port, options);
	if (rc == -ENOSYS || rc == -EPERM || rc == -EOPNOTSUPP) {
		if (config->net_transport == SVC_NET_URING)
			return rc;
		if (config->net_transport == SVC_NET_AUTO)
			snprintf(network->without, sizeof(network->without), "%s", base_error_message());
		rc = net_sockets_create(&network->port, options);
	}
	network->has_port = rc == 0;
	return rc;
}

static int listen_all(struct svc_network *network, const struct svc_config *config)
{
	static const char *const kinds[] = { [NET_PORT_TCP] = "tcp", [NET_PORT_UDP] = "udp", [NET_PORT_UNIX] = "unix" };
	struct net_listener listeners[NET_LISTENERS_MAX];
	const struct net_port_options options = { .listeners = listeners,
		.listener_count = config->listen_count,
		.streams_max = (uint32_t)(config->net_connections + config->net_half_open),
		.above = svc_net_above(network->net) };
	int rc;

	for (uint32_t i = 0; i < config->listen_count; i++)
		listeners[i] = config->listens[i].at;
	rc = port_create(network, config, &options);
	if (rc)
		return rc;
	svc_net_attach(network->net, &network->port);
	for (uint32_t i = 0; i < config->listen_count; i++)
		base_log(BASE_LOG_INFO, "control", "listening", "listener=%s kind=%s place=%s port=%u transport=%s plain=%d",
			config->listens[i].name, kinds[listeners[i].kind], listeners[i].place,
			network->port.port_of(network->port.self, i), network->port.name, config->listens[i].plain);
	return 0;
}

int svc_network_create(struct svc_network **network_out, const struct svc_config *config, uint64_t boot_id, int node,
	const struct svc_net_options *queues)
{
	struct svc_network *network = calloc(1, sizeof(*network));
	int rc;

	if (!network)
		return base_fail(ENOMEM, "net: out of memory");
	if ((rc = net_secure_init()) || (rc = pools_create(network, config, node)) ||
		(rc = role_create(network, config, boot_id, node, queues)) ||
		(rc = listen_all(network, config))) {
		svc_network_destroy(network);
		return rc;
	}
	*network_out = network;
	return 0;
}

void svc_network_destroy(struct svc_network *network)
{
	if (!network)
		return;
	svc_net_destroy(network->net);
	if (network->has_port)
		network->port.destroy(network->port.self);
	net_pool_destroy(network->parts);
	net_pool_destroy(network->out);
	net_pool_destroy(network->in);
	free(network);
}
