/*
 * Builds the daemon and takes it down. See svc_daemon.h.
 */
#include "service/svc_daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/base_error.h"
#include "base/base_features.h"
#include "base/base_log.h"
#include "base/base_fault.h"
#include "service/svc_calibrate.h"

/* The KV pool when the configuration leaves it to us. */
#define KV_AUTO_MAX_BYTES (INT64_C(1) << 30)
#define KV_AUTO_MIN_BYTES (INT64_C(64) << 20)

void svc_daemon_missing(struct svc_daemon *daemon, const char *what, const char *why)
{
	if (daemon->missing_count == SVC_MISSING_MAX)
		return;
	struct svc_missing *missing = &daemon->missing[daemon->missing_count++];

	snprintf(missing->what, sizeof(missing->what), "%s", what);
	snprintf(missing->why, sizeof(missing->why), "%s", why);
	base_log(BASE_LOG_WARN, "control", "missing", "what=\"%s\" why=\"%s\"", missing->what,
		missing->why);
}

/* ---- lanes ---------------------------------------------------------------------------- */

/* Of one front. */
static uint32_t lane_clients(const struct svc_daemon *daemon, uint32_t lane)
{
	const uint32_t clients[SVC_LANES] = { [SVC_LANE_SHM] = (uint32_t)daemon->config.max_clients,
		[SVC_LANE_NET] = daemon->config.listen_count ? (uint32_t)daemon->config.net_connections : 0 };

	return clients[lane];
}

/* Without listeners the network's lane, the last one, has nobody on it. */
static uint32_t lane_count(const struct svc_daemon *daemon)
{
	return daemon->config.listen_count ? SVC_LANES : SVC_LANE_NET;
}

static int lanes_create(const struct svc_daemon *daemon, struct svc_lane lanes[SVC_LANES])
{
	for (uint32_t i = 0; i < SVC_LANES; i++) {
		size_t queue = (size_t)daemon->config.requests + 2 * (size_t)lane_clients(daemon, i);
		int rc = base_spsc_create(&lanes[i].in, queue, sizeof(struct sched_message));

		if (rc || (rc = base_spsc_create(&lanes[i].out, 2 * queue, sizeof(struct sched_reply))))
			return rc;
	}
	return 0;
}

static void lanes_destroy(struct svc_lane lanes[SVC_LANES])
{
	for (uint32_t i = SVC_LANES; i-- > 0;) {
		base_spsc_destroy(&lanes[i].out);
		base_spsc_destroy(&lanes[i].in);
	}
}

/* What a role is given of its lanes. */
static void lanes_pass(const struct svc_daemon *daemon, struct svc_lane lanes[SVC_LANES], struct sched_lane *to)
{
	for (uint32_t i = 0; i < SVC_LANES; i++)
		to[i] = (struct sched_lane){ &lanes[i].in, &lanes[i].out, lane_clients(daemon, i) };
}

/* Role's thread. */
static bool lanes_waiting(struct svc_lane lanes[SVC_LANES])
{
	for (uint32_t i = 0; i < SVC_LANES; i++)
		if (base_spsc_peek(&lanes[i].in))
			return true;
	return false;
}

/* Role's thread: a front on another one may sleep. */
static void lanes_wake(struct svc_lane lanes[SVC_LANES])
{
	for (uint32_t i = 0; i < SVC_LANES; i++) {
		uint64_t replies = atomic_load_explicit(&lanes[i].out.tail, memory_order_relaxed);

		if (!lanes[i].front || replies == lanes[i].woken_at)
			continue;
		lanes[i].woken_at = replies;
		svc_agent_wake(lanes[i].front);
	}
}

/* ---- devices -------------------------------------------------------------------------- */

struct load_progress {
	const char *name;
	int percent;
};

static void on_load_progress(void *context, uint64_t done_bytes, uint64_t total_bytes)
{
	struct load_progress *progress = context;
	int percent = total_bytes ? (int)(done_bytes * 100 / total_bytes) : 100;

	if (percent / 25 != progress->percent / 25)
		base_log(BASE_LOG_DEBUG, "control", "loading", "model=%s percent=%d",
			progress->name, percent);
	progress->percent = percent;
}

static int device_load(struct svc_daemon *daemon, struct svc_device *device)
{
	const struct svc_config *config = &daemon->config;

	for (uint32_t i = 0; i < config->model_count; i++) {
		struct load_progress progress = { .name = config->models[i].name };
		const struct model_options options = {
			.struct_bytes = sizeof(options),
			.max_rows = (uint32_t)config->step_rows,
			.max_out_rows = (uint32_t)config->out_rows,
			.progress = on_load_progress,
			.context = &progress,
		};
		int64_t begin_ns = base_monotonic_ns();
		int rc = model_load(
			&device->models[i], config->models[i].path, device->backend, &options);

		if (rc)
			return base_fail_within(-rc, "[model %s]", config->models[i].name);
		const struct model_info *info = model_info(device->models[i]);

		base_log(BASE_LOG_INFO, "control", "loaded",
			"model=%s architecture=%s weights=%s parameters=%llu megabytes=%llu "
			"milliseconds=%lld",
			config->models[i].name, info->architecture, info->weights,
			(unsigned long long)info->parameters,
			(unsigned long long)(info->weight_bytes >> 20),
			(long long)(base_monotonic_ns() - begin_ns) / 1000000);
	}
	return 0;
}

static uint64_t kv_pool_bytes(const struct svc_daemon *daemon, uint32_t node)
{
	int64_t bytes = daemon->config.kv_pool_bytes;

	if (bytes != SVC_AUTO)
		return (uint64_t)bytes;
	bytes = (int64_t)(daemon->topo->nodes[node].memory_bytes / 4);
	if (bytes > KV_AUTO_MAX_BYTES)
		bytes = KV_AUTO_MAX_BYTES;
	return (uint64_t)(bytes < KV_AUTO_MIN_BYTES ? KV_AUTO_MIN_BYTES : bytes);
}

static int device_sched(
	struct svc_daemon *daemon, struct svc_device *device, uint32_t index, uint32_t node)
{
	const struct svc_config *config = &daemon->config;
	struct sched_model *models = device->sched_models;

	for (uint32_t i = 0; i < config->model_count; i++)
		models[i] = (struct sched_model){
			.program = model_program(device->models[i]),
			.info = model_info(device->models[i]),
			.tokenizer = model_tokenizer(device->models[i]),
			.file = device->models[i],
			.name = config->models[i].name,
		};
	struct sched_options options = {
		.struct_bytes = sizeof(options),
		.clock = &device->agent.clock,
		.backend = device->backend,
		.lane_count = lane_count(daemon),
		.models = models,
		.model_count = config->model_count,
		.tenants = daemon->tenants,
		.tenant_count = daemon->tenant_count,
		.device = index,
		.boot_id = daemon->boot_id,
		.kv_default = (enum kern_kv)config->kv_default,
		.kv_bytes = kv_pool_bytes(daemon, node),
		.sessions_max = (uint32_t)config->sessions,
		.requests_max = (uint32_t)config->requests,
		.client_requests_max = (uint32_t)config->client_requests,
		.tokens_max = (uint32_t)config->tokens,
		.step_rows_max = (uint32_t)config->step_rows,
		.prefill_chunk = (uint32_t)config->prefill_chunk,
		.out_rows_max = (uint32_t)config->out_rows,
		.speculate = (uint32_t)config->speculate,
		.build = BASE_VERSION,
		.prefix_cache = config->prefix_cache,
		.secret = { daemon->secret[0], daemon->secret[1] },
		.view = shm_view_device(&daemon->view, index),
	};

	lanes_pass(daemon, device->lanes, options.lanes);
	device->model_count = config->model_count;
	device->calibrate_ns = config->calibrate_ms * 1000000;
	return sched_create(&device->sched, &options);
}

static int device_create(struct svc_daemon *daemon, uint32_t index)
{
	const struct svc_config *config = &daemon->config;
	const struct svc_place_device *place = &daemon->place.devices[index];
	struct svc_device *device = &daemon->devices[index];
	char name[16];
	const struct kern_cpu_options cpu = {
		.struct_bytes = sizeof(cpu),
		.workers = place->worker_count,
		.worker_pus = daemon->topo->is_this_machine ? place->worker_cpus : NULL,
		.node = daemon->topo->numa ? (int)daemon->topo->nodes[place->node].os_index : -1,
		.spin_us = config->idle == SVC_IDLE_SLEEP ? 0 : (uint32_t)config->spin_us,
		.fixed_priority = config->fifo,
		.measure = true,
	};

	snprintf(name, sizeof(name), "device%u", index);
	int rc = svc_agent_create(
		&device->agent, name, (enum svc_idle)config->idle, config->spin_us * 1000);

	if (rc)
		return rc;
	device->agent.cpu = daemon->topo->is_this_machine ? place->data_cpu : -1;
	device->agent.topo = daemon->topo;
	device->agent.fifo = config->fifo;
	if ((rc = lanes_create(daemon, device->lanes)) ||
		(rc = kern_cpu_create(&device->backend, &cpu)) ||
		(rc = device_load(daemon, device)) ||
		(rc = device_sched(daemon, device, index, place->node)))
		return rc;
	device->probe = calloc(1, sizeof(*device->probe));
	if (!device->probe)
		return base_fail(ENOMEM, "device %u: out of memory", index);
	device->probe->sched = device->sched;
	device->probe->agent = &device->agent;
	return 0;
}

static void device_destroy(struct svc_daemon *daemon, struct svc_device *device)
{
	free(device->probe);
	if (device->sched)
		sched_destroy(device->sched);
	for (uint32_t i = 0; i < daemon->config.model_count; i++)
		if (device->models[i])
			model_destroy(device->models[i]);
	if (device->backend)
		device->backend->ops->destroy(device->backend);
	lanes_destroy(device->lanes);
}

/* ---- tenants -------------------------------------------------------------------------- */

static uint64_t models_allowed(const struct svc_config *config, const char *words)
{
	uint64_t allowed = 0;

	if (!strcmp(words, "*"))
		return UINT64_MAX;
	while (*(words += strspn(words, " ,"))) {
		size_t length = strcspn(words, " ,");

		for (uint32_t i = 0; i < config->model_count; i++)
			if (strlen(config->models[i].name) == length &&
				!strncmp(config->models[i].name, words, length))
				allowed |= UINT64_C(1) << i;
		words += length;
	}
	return allowed;
}

/* The number of the first tenant with the same group; 0: it is in none. */
static uint32_t prefix_group(const struct svc_config *config, uint32_t tenant)
{
	uint32_t first = 0;

	if (!config->tenants[tenant].group[0])
		return 0;
	while (strcmp(config->tenants[first].group, config->tenants[tenant].group))
		first++;
	return first + 1;
}

static void tenants_create(struct svc_daemon *daemon)
{
	const struct svc_config *config = &daemon->config;

	daemon->tenants[0] = (struct sched_tenant){ .models = UINT64_MAX,
		.attention = true,
		.sessions_max = UINT32_MAX,
		.kv_bytes_max = UINT64_MAX,
		.weight = 1 };
	daemon->tenant_count = config->tenant_count ? config->tenant_count : 1;
	for (uint32_t i = 0; i < config->tenant_count; i++) {
		const struct svc_tenant_config *from = &config->tenants[i];

		daemon->tenants[i] =
			(struct sched_tenant){ .models = models_allowed(config, from->models),
				.attention = from->attention,
				.sessions_max = (uint32_t)from->sessions,
				.kv_bytes_max = (uint64_t)from->kv_bytes,
				.weight = (uint32_t)from->weight,
				.requests_max = (uint32_t)from->requests,
				.device_ns_per_s = (uint64_t)from->device_ms * 1000000,
				.device_burst_ns = (uint64_t)from->device_burst_ms * 1000000,
				.prefix_group = prefix_group(config, i) };
	}
	for (uint32_t i = 0; i < daemon->tenant_count; i++)
		daemon->tenant_models[i] = daemon->tenants[i].models;
}

/* ---- roles that every device shares --------------------------------------------------- */

static int text_create(struct svc_daemon *daemon)
{
	enum svc_idle idle =
		daemon->config.idle == SVC_IDLE_SLEEP ? SVC_IDLE_SLEEP : SVC_IDLE_ADAPTIVE;
	/* It spins briefly at most: it has no core of its own. */
	int rc = svc_agent_create(&daemon->text_agent, "text", idle, 20000);

	for (uint32_t i = 0; i < daemon->config.model_count; i++)
		daemon->tokenizers[i] = model_tokenizer(daemon->devices[0].models[i]);
	struct svc_text_options options = {
		.clock = &daemon->text_agent.clock,
		.lane_count = lane_count(daemon),
		.tokenizers = daemon->tokenizers,
		.model_count = daemon->config.model_count,
		.tenant_models = daemon->tenant_models,
		.tenant_count = daemon->tenant_count,
	};

	lanes_pass(daemon, daemon->text_lanes, options.lanes);
	return rc ? rc : svc_text_create(&daemon->text, &options);
}

static void wake_agent(void *context)
{
	svc_agent_wake(context);
}

static void wake_control(void *context)
{
	struct svc_daemon *daemon = context;
	uint64_t one = 1;

	(void)!write(daemon->events_fd, &one, sizeof(one));
}

static int front_create(struct svc_daemon *daemon)
{
	struct svc_front_options options = {
		.clock = &daemon->devices[0].agent.clock,
		.clients_max = lane_clients(daemon, SVC_LANE_SHM),
		.device_count = daemon->device_count,
		.to_text = &daemon->text_lanes[SVC_LANE_SHM].in,
		.from_text = &daemon->text_lanes[SVC_LANE_SHM].out,
		.commands = &daemon->commands,
		.events = &daemon->events,
		.text_waker = { wake_agent, &daemon->text_agent },
		.control_waker = { wake_control, daemon },
	};

	for (uint32_t i = 0; i < daemon->device_count; i++) {
		struct svc_device *device = &daemon->devices[i];
		struct svc_lane *lane = &device->lanes[SVC_LANE_SHM];

		options.to_device[i] = &lane->in;
		options.from_device[i] = &lane->out;
		if (i == 0) /* the front's own device shares its thread */
			continue;
		lane->front = &daemon->devices[0].agent;
		options.device_waker[i] = (struct svc_waker){ wake_agent, &device->agent };
	}
	daemon->text_lanes[SVC_LANE_SHM].front = &daemon->devices[0].agent;
	return svc_front_create(&daemon->front, &options);
}

/* It shares the thread of the first device, as the other front does: what comes is executed, and goes, without another thread. */
static int network_create(struct svc_daemon *daemon)
{
	struct svc_agent *agent = &daemon->devices[0].agent;
	struct svc_net_options queues = {
		.clock = &agent->clock,
		.client_first = lane_clients(daemon, SVC_LANE_SHM),
		.device_count = daemon->device_count,
		.to_text = &daemon->text_lanes[SVC_LANE_NET].in,
		.from_text = &daemon->text_lanes[SVC_LANE_NET].out,
		.text_waker = { wake_agent, &daemon->text_agent },
	};
	struct epoll_event readable = { .events = EPOLLIN };
	const uint32_t node = daemon->place.devices[0].node;
	int rc;

	if (!daemon->config.listen_count)
		return 0;
	for (uint32_t i = 0; i < daemon->device_count; i++) {
		struct svc_lane *lane = &daemon->devices[i].lanes[SVC_LANE_NET];

		queues.to_device[i] = &lane->in;
		queues.from_device[i] = &lane->out;
		if (i == 0)
			continue;
		lane->front = agent;
		queues.device_waker[i] = (struct svc_waker){ wake_agent, &daemon->devices[i].agent };
	}
	daemon->text_lanes[SVC_LANE_NET].front = agent;
	rc = svc_network_create(&daemon->network, &daemon->config, daemon->boot_id,
		daemon->topo->numa ? (int)daemon->topo->nodes[node].os_index : -1, &queues);
	if (rc)
		return rc;
	if (daemon->network->without[0])
		svc_daemon_missing(daemon, "io_uring", daemon->network->without);
	if (daemon->network->port.wait_fd >= 0 &&
		epoll_ctl(agent->epoll_fd, EPOLL_CTL_ADD, daemon->network->port.wait_fd, &readable))
		return base_fail(errno, "net: epoll_ctl: %s", strerror(errno));
	return 0;
}

/* ---- roles' view of their agents ------------------------------------------------------ */

static void role_sched_begin(void *self)
{
	struct svc_device *device = self;

	svc_calibrate(device->sched, device->sched_models, device->model_count, device->calibrate_ns, device->agent.name);
}

static int role_sched_poll(void *self)
{
	struct svc_device *device = self;
	int work = sched_poll(device->sched);

	lanes_wake(device->lanes);
	return work;
}

static int64_t role_sched_next(void *self)
{
	struct svc_device *device = self;

	return lanes_waiting(device->lanes) ? 0 : sched_next_event_ns(device->sched);
}

static bool role_sched_sleep(void *self)
{
	return lanes_waiting(((struct svc_device *)self)->lanes);
}

static bool role_probe_sleep(void *self)
{
	return atomic_load_explicit(&((struct svc_probe *)self)->state, memory_order_relaxed) ==
		SVC_PROBE_ASKED;
}

static int role_text_poll(void *self)
{
	struct svc_daemon *daemon = self;
	int work = svc_text_poll(daemon->text);

	lanes_wake(daemon->text_lanes);
	return work;
}

static bool role_text_sleep(void *self)
{
	return lanes_waiting(((struct svc_daemon *)self)->text_lanes);
}

static void add_roles(struct svc_daemon *daemon)
{
	svc_agent_add(&daemon->devices[0].agent,
		(struct svc_role){ .name = "front",
			.self = daemon->front,
			.poll = svc_front_poll,
			.next_event_ns = svc_front_next_event_ns,
			.sleep_begin = svc_front_sleep_begin,
			.sleep_end = svc_front_sleep_end });
	if (daemon->network)
		svc_agent_add(&daemon->devices[0].agent,
			(struct svc_role){ .name = "net",
				.self = daemon->network->net,
				.poll = svc_net_poll,
				.next_event_ns = svc_net_next_event_ns,
				.sleep_begin = svc_net_sleep_begin,
				.sleep = daemon->network->port.sleep ? svc_net_sleep : NULL });
	for (uint32_t i = 0; i < daemon->device_count; i++) {
		struct svc_device *device = &daemon->devices[i];

		svc_agent_add(&device->agent,
			(struct svc_role){ .name = "sched",
				.self = device,
				.begin = role_sched_begin,
				.poll = role_sched_poll,
				.next_event_ns = role_sched_next,
				.sleep_begin = role_sched_sleep });
		svc_agent_add(&device->agent,
			(struct svc_role){
				.name = "probe", .self = device->probe, .poll = svc_probe_poll,
				.sleep_begin = role_probe_sleep });
	}
	svc_agent_add(&daemon->text_agent,
		(struct svc_role){ .name = "text",
			.self = daemon,
			.poll = role_text_poll,
			.sleep_begin = role_text_sleep });
}

/* ---- the whole ------------------------------------------------------------------------ */

/* Asks the kernel to keep the processors out of deep idle states: waking from one costs 25 to 70
 * us. Held while we serve. */
static void hold_dma_latency(struct svc_daemon *daemon)
{
	int32_t zero = 0;

	daemon->dma_latency_fd = -1;
	if (!daemon->config.cpu_dma_latency)
		return;
	daemon->dma_latency_fd = open("/dev/cpu_dma_latency", O_WRONLY | O_CLOEXEC);
	if (daemon->dma_latency_fd < 0)
		svc_daemon_missing(daemon, "cpu_dma_latency",
			"cannot open /dev/cpu_dma_latency: a sleeping thread wakes in 25 to 70 us "
			"instead of 5; run as root, or let the group have it");
	else if (write(daemon->dma_latency_fd, &zero, sizeof(zero)) != sizeof(zero))
		svc_daemon_missing(
			daemon, "cpu_dma_latency", "the kernel refused the latency request");
}

static void note_missing(struct svc_daemon *daemon)
{
	if (daemon->config.huge_pages != SVC_HUGE_NO && !daemon->topo->huge_2m_free)
		svc_daemon_missing(daemon, "huge pages",
			"no free 2 MB pages: arenas and caches lie on 4 KB pages; "
			"set vm.nr_hugepages to have them");
	if (!daemon->topo->is_this_machine)
		svc_daemon_missing(daemon, "binding",
			"the topology is not this machine's (HWLOC_SYNTHETIC or HWLOC_XMLFILE): nothing is bound");
}

static int create_parts(struct svc_daemon *daemon)
{
	const struct svc_config *config = &daemon->config;
	size_t clients = (size_t)config->max_clients;
	int rc;

	daemon->events_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (daemon->events_fd < 0)
		return base_fail(errno, "eventfd: %s", strerror(errno));
	if ((rc = lanes_create(daemon, daemon->text_lanes)) ||
		(rc = base_spsc_create(
			 &daemon->commands, 4 * clients, sizeof(struct svc_command))) ||
		(rc = base_spsc_create(&daemon->events, 2 * clients, sizeof(struct svc_event))))
		return rc;
	if ((rc = shm_view_create(&daemon->view, daemon->place.device_count)))
		return rc;
	for (uint32_t i = 0; i < daemon->place.device_count; i++) {
		daemon->device_count++;
		rc = device_create(daemon, i);
		if (rc)
			return rc;
	}
	if ((rc = text_create(daemon)) || (rc = front_create(daemon)) || (rc = network_create(daemon)))
		return rc;
	add_roles(daemon);
	return 0;
}

int svc_daemon_create(struct svc_daemon *daemon, const struct svc_config *config)
{
	int rc;

	memset(daemon, 0, sizeof(*daemon));
	daemon->events_fd = daemon->dma_latency_fd = daemon->view.read_fd = -1;
	daemon->config = *config;
	daemon->started_ns = base_monotonic_ns();
	if (getrandom(&daemon->boot_id, sizeof(daemon->boot_id), 0) != sizeof(daemon->boot_id))
		return base_fail(EIO, "getrandom: no random boot id");
	if (getrandom(daemon->secret, sizeof(daemon->secret), 0) != sizeof(daemon->secret))
		return base_fail(EIO, "getrandom: no secret for the scheduler");
	daemon->topo = calloc(1, sizeof(*daemon->topo));
	if (!daemon->topo)
		return base_fail(ENOMEM, "out of memory");
	tenants_create(daemon);
	if ((rc = base_fault_install()) || (rc = base_topo_read(daemon->topo)) ||
		(rc = svc_place(&daemon->place, daemon->topo, config)) ||
		(rc = create_parts(daemon))) {
		svc_daemon_destroy(daemon);
		return rc;
	}
	note_missing(daemon);
	hold_dma_latency(daemon);
	return 0;
}

int svc_daemon_start(struct svc_daemon *daemon)
{
	int rc = svc_agent_start(&daemon->text_agent);

	for (uint32_t i = 0; !rc && i < daemon->device_count; i++)
		rc = svc_agent_start(&daemon->devices[i].agent);
	/* Devices calibrate side by side: each has its own cores and memory. */
	for (uint32_t i = 0; !rc && i < daemon->device_count; i++)
		svc_agent_await(&daemon->devices[i].agent);
	return rc;
}

void svc_daemon_stop(struct svc_daemon *daemon)
{
	for (uint32_t i = 0; i < daemon->device_count; i++)
		svc_agent_destroy(&daemon->devices[i].agent);
	svc_agent_destroy(&daemon->text_agent);
	/* Workers read and write clients' arenas until their ticket is done. */
	for (uint32_t i = 0; i < daemon->device_count; i++)
		if (daemon->devices[i].sched)
			sched_flights_wait(daemon->devices[i].sched);
}

void svc_daemon_destroy(struct svc_daemon *daemon)
{
	svc_daemon_stop(daemon);
	if (daemon->dma_latency_fd >= 0)
		close(daemon->dma_latency_fd);
	svc_network_destroy(daemon->network);
	svc_front_destroy(daemon->front);
	svc_text_destroy(daemon->text);
	for (uint32_t i = daemon->device_count; i-- > 0;)
		device_destroy(daemon, &daemon->devices[i]);
	shm_view_destroy(&daemon->view);
	base_spsc_destroy(&daemon->events);
	base_spsc_destroy(&daemon->commands);
	lanes_destroy(daemon->text_lanes);
	if (daemon->events_fd >= 0)
		close(daemon->events_fd);
	free(daemon->topo);
	memset(daemon, 0, sizeof(*daemon));
	daemon->events_fd = daemon->dma_latency_fd = daemon->view.read_fd = -1;
}

void svc_daemon_say_alive(struct svc_daemon *daemon, uint32_t clients)
{
	const struct svc_front_counters *c = svc_front_counters(daemon->front);
	struct attnd_view_daemon *to = &daemon->view.head->daemon;
	const struct {
		const _Atomic uint64_t *from;
		uint64_t *to;
	} counts[] = {
		{ &c->records, &to->records },
		{ &c->completions, &to->completions },
		{ &c->streams, &to->stream_completions },
		{ &c->bad_record, &to->bad_record },
		{ &c->bad_op, &to->bad_op },
		{ &c->bad_range, &to->bad_range },
		{ &c->queue_full, &to->queue_full },
		{ &c->dropped, &to->dropped },
	};

	for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++)
		base_view_put(counts[i].to, atomic_load_explicit(counts[i].from, memory_order_relaxed));
	base_view_put(&to->boot_id, daemon->boot_id);
	base_view_put_time(&to->started_ns, daemon->started_ns);
	base_view_put_half(&to->pid, (uint32_t)getpid());
	base_view_put_half(&to->devices, daemon->device_count);
	base_view_put(&to->clients, clients);
	base_view_put_time(&to->alive_ns, base_monotonic_ns());
}
