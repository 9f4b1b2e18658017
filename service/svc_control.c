/*
 * Attach, liveness, signals, control socket. See svc_control.h.
 */
#include "service/svc_control.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base_error.h"
#include "base/base_log.h"
#include "service/svc_notify.h"
#include "service/svc_visit.h"
#include "shm-ipc/shm_attach.h"
#include "shm-ipc/shm_bell.h"

enum {
	GUESTS_MAX = 64,  /* sockets that have not said hello */
	GUESTS_PER_USER = 32, /* so that one user's silence does not keep the others out */
	HELLO_MS = 1000, /* a guest has so long to say hello */
	TICK_MS = 50,     /* how often deadlines and faults are looked at */
	DRAIN_MS = 10000, /* accepted requests have so long to finish on SIGTERM, and to be read */
	UNREAD_MS = 1000, /* what a network client has not read of its answers by then it does not read */
};

/* What an epoll event is about: a kind, and an index in the low half. */
enum watch {
	WATCH_LISTEN,
	WATCH_VISIT,
	WATCH_SIGNAL,
	WATCH_EVENTS,
	WATCH_GUEST,
	WATCH_CLIENT,
	WATCH_PIDFD,
};

struct guest {
	int socket; /* -1: free */
	struct shm_peer peer;
	int64_t deadline_ns;
};

enum client_state { CLIENT_FREE, CLIENT_LIVE, CLIENT_LEAVING };

struct client {
	enum client_state state;
	int socket, bell_fd;
	struct shm_peer peer;
	uint32_t tenant;
	struct svc_rings *rings;
};

struct svc_control {
	struct svc_daemon *daemon;
	const char *config_path;
	const char *const *overrides;
	uint32_t override_count;
	int epoll_fd, listen_fd, signal_fd;
	char listen_path[SVC_PATH_BYTES + 16];
	bool stopping, draining, listening;
	double attach_tokens;
	int64_t attach_refill_ns, tick_ns;
	uint32_t clients_max, client_count;
	struct client *clients; /* [clients_max] */
	struct guest guests[GUESTS_MAX];
	struct svc_visit *visit;
};

/* ---- small helpers -------------------------------------------------------------------- */

static int watch_fd(struct svc_control *control, int op, int fd, uint32_t events, enum watch kind,
	uint32_t index)
{
	struct epoll_event event = { .events = events, .data.u64 = (uint64_t)kind << 32 | index };

	return epoll_ctl(control->epoll_fd, op, fd, &event);
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void command(struct svc_control *control, uint32_t kind, uint32_t client, uint32_t tenant,
	struct svc_rings *rings)
{
	const struct svc_command element = {
		.kind = kind, .client = client, .tenant = tenant, .rings = rings
	};

	/* Never full: it has room for four commands of each client, and each has at most an ADD and
	 * a REMOVE under way. */
	base_spsc_push(&control->daemon->commands, &element);
	svc_agent_wake(&control->daemon->devices[0].agent);
}

/* ---- clients -------------------------------------------------------------------------- */

static void rings_destroy(struct svc_rings *rings)
{
	free(rings->stream_device);
	shm_daemon_end_destroy(&rings->end);
	shm_segment_destroy(&rings->segment);
	free(rings);
}

static uint32_t at_most(uint32_t wanted, int64_t limit)
{
	return wanted < limit ? wanted : (uint32_t)limit;
}

static uint64_t clients_bytes(const struct svc_control *control)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < control->clients_max; i++)
		if (control->clients[i].rings)
			bytes += control->clients[i].rings->segment.head.write_bytes +
				control->clients[i].rings->segment.head.read_bytes;
	return bytes;
}

static int rings_create(struct svc_control *control, struct svc_rings **rings_out,
	const struct shm_hello *hello, uint32_t index)
{
	struct svc_daemon *daemon = control->daemon;
	const struct svc_config *config = &daemon->config;
	const struct shm_segment_options options = {
		.submission_slots = at_most(hello->submission_slots, config->submission_slots),
		.completion_slots = at_most(hello->completion_slots, config->completion_slots),
		.arena_bytes = hello->arena_bytes < (uint64_t)config->arena_max_bytes
			? hello->arena_bytes
			: (uint64_t)config->arena_max_bytes,
		.boot_id = daemon->boot_id,
		.client = index,
		.max_in_flight = (uint32_t)config->client_requests,
		.node = daemon->topo->numa
			? (int)daemon->topo->nodes[daemon->place.devices[0].node].os_index
			: -1,
		.huge = config->huge_pages != SVC_HUGE_NO,
		.devices = daemon->device_count,
		.timelines = (uint32_t)config->timelines,
	};
	if (clients_bytes(control) + shm_segment_cost(&options) > (uint64_t)config->clients_bytes_max)
		return base_fail(ENOMEM, "all memory for clients ([shm] clients_memory) is taken");
	struct svc_rings *rings = calloc(1, sizeof(*rings));

	if (!rings)
		return base_fail(ENOMEM, "out of memory");
	int rc = shm_segment_create(&rings->segment, &options);

	if (rc) {
		free(rings);
		return rc;
	}
	if (config->huge_pages == SVC_HUGE_YES && !rings->segment.huge)
		rc = base_fail(ENOMEM, "the configuration asks for huge pages and there are none");
	if (!rc && daemon->device_count > 1 &&
		!(rings->stream_device = calloc(options.completion_slots, 1)))
		rc = base_fail(ENOMEM, "out of memory");
	if (!rc)
		rc = shm_daemon_end_create(&rings->end, &rings->segment, 0, 0);
	if (!rc && rings->end.streams_max < daemon->device_count) {
		shm_daemon_end_destroy(&rings->end);
		rc = base_fail(EINVAL, "a completion ring of %u slots is too small for %u devices",
			options.completion_slots, daemon->device_count);
	}
	if (rc) {
		free(rings->stream_device);
		shm_segment_destroy(&rings->segment);
		free(rings);
		return rc;
	}
	*rings_out = rings;
	return 0;
}

static uint32_t tenant_clients(const struct svc_control *control, uint32_t tenant)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < control->clients_max; i++)
		count += control->clients[i].state != CLIENT_FREE &&
			control->clients[i].tenant == tenant;
	return count;
}

/* Who it is decides as what it is let in. The tenant's index, or -errno with a message that a
 * stranger may read. */
static int admit(struct svc_control *control, const struct shm_peer *peer)
{
	const struct svc_config *config = &control->daemon->config;
	int tenant = svc_config_tenant(config, peer->uid, peer->gid);

	if (control->draining)
		return base_fail(EAGAIN, "the daemon is going down");
	if (tenant < 0)
		return base_fail(
			EPERM, "no tenant of the configuration covers this user and group");
	if (control->client_count == control->clients_max)
		return base_fail(EAGAIN, "all places for clients are taken");
	if (config->tenant_count &&
		tenant_clients(control, (uint32_t)tenant) >= config->tenants[tenant].clients)
		return base_fail(EAGAIN, "this tenant has as many clients as it may have");
	return tenant;
}

static int client_watch(struct svc_control *control, uint32_t index)
{
	struct client *client = &control->clients[index];
	struct epoll_event edge = { .events = EPOLLIN | EPOLLET, .data.u64 = index };

	/* Of the socket only its end is of interest (EPOLLHUP needs no asking for). Not EPOLLRDHUP:
	 * the welcome shuts our reading side, which would raise it at once. */
	if (epoll_ctl(control->daemon->devices[0].agent.epoll_fd, EPOLL_CTL_ADD, client->bell_fd,
		    &edge) ||
		watch_fd(control, EPOLL_CTL_ADD, client->socket, 0, WATCH_CLIENT, index) ||
		(client->peer.pidfd >= 0 &&
			watch_fd(control, EPOLL_CTL_ADD, client->peer.pidfd, EPOLLIN, WATCH_PIDFD,
				index)))
		return base_fail(errno, "epoll_ctl: %s", strerror(errno));
	return 0;
}

/* The client holds a copy of the eventfd, so closing ours would leave it in the agent's set, to be
 * rung for ever. */
static void bell_unwatch(struct svc_control *control, struct client *client)
{
	if (client->bell_fd >= 0)
		epoll_ctl(control->daemon->devices[0].agent.epoll_fd, EPOLL_CTL_DEL,
			client->bell_fd, NULL);
	close_fd(&client->bell_fd);
}

static void client_free(struct svc_control *control, uint32_t index)
{
	struct client *client = &control->clients[index];

	bell_unwatch(control, client);
	close_fd(&client->socket);
	close_fd(&client->peer.pidfd);
	if (client->rings)
		rings_destroy(client->rings);
	client->rings = NULL;
	client->state = CLIENT_FREE;
	control->client_count--;
}

static void client_leave(struct svc_control *control, uint32_t index, const char *why)
{
	struct client *client = &control->clients[index];

	if (client->state != CLIENT_LIVE)
		return;
	base_log(BASE_LOG_DEBUG, "control", "leaving", "client=%u pid=%d why=\"%s\"", index,
		(int)client->peer.pid, why);
	client->state = CLIENT_LEAVING;
	bell_unwatch(control, client);
	shm_daemon_end_state(&client->rings->end, SHM_CLOSED);
	close_fd(&client->socket); /* a client that still lives learns that it is out */
	close_fd(&client->peer.pidfd);
	command(control, SVC_CLIENT_REMOVE, index, 0, NULL);
}

/* From a guest with a good hello to a client. The guest's descriptors become the client's. */
static int client_create(
	struct svc_control *control, struct guest *guest, const struct shm_hello *hello)
{
	int tenant = admit(control, &guest->peer);
	uint32_t index = 0;

	if (tenant < 0)
		return tenant;
	while (control->clients[index].state != CLIENT_FREE)
		index++;
	struct client *client = &control->clients[index];
	struct svc_rings *rings = NULL;
	int rc = rings_create(control, &rings, hello, index);

	if (rc)
		return rc;
	*client = (struct client){ .state = CLIENT_LIVE,
		.socket = guest->socket,
		.bell_fd = shm_bell_create(),
		.peer = guest->peer,
		.tenant = (uint32_t)tenant,
		.rings = rings };
	guest->socket = guest->peer.pidfd = -1;
	control->client_count++;
	rc = client->bell_fd < 0 ? client->bell_fd : 0;
	if (!rc)
		rc = client_watch(control, index);
	if (rc) {
		shm_attach_refuse(client->socket, -rc, base_error_message());
		client_free(control, index);
		return 0;
	}
	/* The front looks at the ring from now on; the client learns of it only by the welcome. */
	command(control, SVC_CLIENT_ADD, index, (uint32_t)tenant, rings);
	if (shm_attach_welcome(client->socket, &rings->segment, client->bell_fd)) {
		client_leave(control, index, base_error_message());
	}
	shm_segment_close_fds(&rings->segment);
	base_log(BASE_LOG_DEBUG, "control", "attached",
		"client=%u pid=%d uid=%u tenant=%d arena=%llu huge=%d", index,
		(int)client->peer.pid, (unsigned)client->peer.uid, tenant,
		(unsigned long long)rings->segment.head.arena_bytes, rings->segment.huge);
	return 0;
}

static void take_events(struct svc_control *control)
{
	const struct svc_event *event;
	uint64_t value;

	(void)!read(control->daemon->events_fd, &value, sizeof(value));
	while ((event = base_spsc_peek(&control->daemon->events))) {
		client_free(control, event->client);
		base_spsc_release(&control->daemon->events);
	}
}

/* ---- guests --------------------------------------------------------------------------- */

static void guest_close(struct guest *guest)
{
	close_fd(&guest->socket);
	close_fd(&guest->peer.pidfd);
}

static void guest_hello(struct svc_control *control, uint32_t index)
{
	struct guest *guest = &control->guests[index];
	struct shm_hello hello;

	if (guest->socket < 0)
		return;
	int rc = shm_attach_receive(guest->socket, &hello);

	if (rc == 0)
		return;
	/* It leaves the guests either way; as a client its socket is watched anew. */
	epoll_ctl(control->epoll_fd, EPOLL_CTL_DEL, guest->socket, NULL);
	if (rc > 0)
		rc = client_create(control, guest, &hello);
	if (rc < 0) {
		base_log(BASE_LOG_INFO, "control", "refused", "pid=%d uid=%u reason=\"%s\"",
			(int)guest->peer.pid, (unsigned)guest->peer.uid, base_error_message());
		shm_attach_refuse(guest->socket, -rc, base_error_message());
		guest_close(guest);
	}
}

static struct guest *guest_place(struct svc_control *control)
{
	for (uint32_t i = 0; i < GUESTS_MAX; i++)
		if (control->guests[i].socket < 0)
			return &control->guests[i];
	return NULL;
}

static void listen_on(struct svc_control *control, bool on)
{
	if (control->listening == on)
		return;
	control->listening = on;
	watch_fd(control, EPOLL_CTL_MOD, control->listen_fd, on ? EPOLLIN : 0, WATCH_LISTEN, 0);
}

static void attach_refill(struct svc_control *control, int64_t now_ns)
{
	double rate = (double)control->daemon->config.attach_per_second;

	control->attach_tokens += (double)(now_ns - control->attach_refill_ns) * 1e-9 * rate;
	if (control->attach_tokens > rate / 10 + 1)
		control->attach_tokens = rate / 10 + 1; /* a tenth of a second's worth at once */
	control->attach_refill_ns = now_ns;
}

static uint32_t guests_of(const struct svc_control *control, uid_t uid)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < GUESTS_MAX; i++)
		count += control->guests[i].socket >= 0 && control->guests[i].peer.uid == uid;
	return count;
}

static void accept_guests(struct svc_control *control)
{
	attach_refill(control, base_monotonic_ns());
	for (;;) {
		struct guest *guest = guest_place(control);

		if (!guest || control->attach_tokens < 1) {
			listen_on(control, false); /* the tick opens it again */
			return;
		}
		int socket = shm_attach_accept(control->listen_fd, &guest->peer);

		if (socket == -EAGAIN)
			return;
		if (socket < 0) {
			base_log(BASE_LOG_WARN, "control", "accept-failed", "reason=\"%s\"",
				base_error_message());
			listen_on(control, false);
			return;
		}
		control->attach_tokens -= 1;
		if (guests_of(control, guest->peer.uid) >= GUESTS_PER_USER) {
			shm_attach_refuse(socket, EAGAIN, "this user has too many half-made connections");
			close(socket);
			close_fd(&guest->peer.pidfd);
			continue;
		}
		guest->socket = socket;
		guest->deadline_ns = base_monotonic_ns() + HELLO_MS * INT64_C(1000000);
		if (watch_fd(control, EPOLL_CTL_ADD, socket, EPOLLIN | EPOLLRDHUP, WATCH_GUEST,
			    (uint32_t)(guest - control->guests)))
			guest_close(guest);
	}
}

/* ---- signals, ticks ------------------------------------------------------------------- */

int svc_control_reload(struct svc_control *control)
{
	struct svc_config *fresh = malloc(sizeof(*fresh)), *config = &control->daemon->config;
	enum base_log_level level;
	int rc = 0;

	if (!fresh)
		return base_fail(ENOMEM, "out of memory");
	svc_config_defaults(fresh);
	if (control->config_path)
		rc = svc_config_file(fresh, control->config_path);
	for (uint32_t i = 0; !rc && i < control->override_count; i++)
		rc = svc_config_set(fresh, control->overrides[i]);
	if (!rc)
		rc = svc_config_check(fresh);
	if (!rc) {
		/* What can change while serving; the rest was fixed when memory was taken and
		 * threads were placed. */
		memcpy(config->log_level, fresh->log_level, sizeof(config->log_level));
		config->attach_per_second = fresh->attach_per_second;
		config->arena_max_bytes = fresh->arena_max_bytes;
		base_log_level_parse(config->log_level, &level);
		base_log_set_level(level);
	}
	free(fresh);
	if (rc)
		base_log(BASE_LOG_ERROR, "control", "reload-failed", "reason=\"%s\"",
			base_error_message());
	else
		base_log(BASE_LOG_INFO, "control", "reloaded",
			"took=log_level,attach_per_second,arena_max");
	return rc;
}

void svc_control_drain(struct svc_control *control)
{
	control->stopping = true;
}

static void take_signal(struct svc_control *control)
{
	struct signalfd_siginfo info;

	if (read(control->signal_fd, &info, sizeof(info)) != sizeof(info))
		return;
	if (info.ssi_signo == SIGHUP) {
		svc_notify("RELOADING=1");
		svc_control_reload(control);
		svc_notify("READY=1");
		return;
	}
	base_log(BASE_LOG_INFO, "control", "signal", "name=%s", strsignal((int)info.ssi_signo));
	control->stopping = true;
}

void svc_control_say_alive(struct svc_control *control)
{
	svc_daemon_say_alive(control->daemon, control->client_count);
}

static void tick(struct svc_control *control)
{
	int64_t now_ns = base_monotonic_ns();

	if (now_ns - control->tick_ns < TICK_MS * INT64_C(1000000))
		return;
	control->tick_ns = now_ns;
	svc_control_say_alive(control);
	for (uint32_t i = 0; i < GUESTS_MAX; i++)
		if (control->guests[i].socket >= 0 && now_ns > control->guests[i].deadline_ns) {
			guest_hello(control, i); /* it may have spoken while we were busy */
			guest_close(&control->guests[i]);
		}
	svc_visit_expire(control->visit, now_ns);
	for (uint32_t i = 0; i < control->clients_max; i++) {
		struct client *client = &control->clients[i];

		if (client->state == CLIENT_LIVE &&
			atomic_load_explicit(
				&client->rings->segment.faulted, memory_order_relaxed)) {
			base_log(BASE_LOG_WARN, "control", "faulted",
				"client=%u pid=%d what=\"its memory lost pages: it punched a hole\"",
				i, (int)client->peer.pid);
			client_leave(control, i, "its memory faulted");
		}
	}
	attach_refill(control, now_ns);
	if (!control->draining && control->attach_tokens >= 1 && guest_place(control))
		listen_on(control, true);
}

static void handle(struct svc_control *control, const struct epoll_event *event)
{
	uint32_t index = (uint32_t)event->data.u64;

	switch ((enum watch)(event->data.u64 >> 32)) {
	case WATCH_LISTEN: accept_guests(control); break;
	case WATCH_VISIT: svc_visit_poll(control->visit); break;
	case WATCH_SIGNAL: take_signal(control); break;
	case WATCH_EVENTS: break; /* after the batch, in turn() */
	case WATCH_GUEST: guest_hello(control, index); break;
	case WATCH_CLIENT:
	case WATCH_PIDFD:
		client_leave(control, index, "its process ended or let go of its socket");
		break;
	}
}

static void turn(struct svc_control *control)
{
	struct epoll_event events[64];
	int count = epoll_wait(control->epoll_fd, events, 64, TICK_MS);

	for (int i = 0; i < count; i++)
		handle(control, &events[i]);
	/* Only now may a place become free: a later event of the batch (a client has two, of its
	 * socket and of its pidfd) would name whoever took it meanwhile. */
	take_events(control);
	tick(control);
}

/* ---- going down ----------------------------------------------------------------------- */

/* All zero without a network. */
static const struct svc_net_counters *network_counters(const struct svc_control *control)
{
	static const struct svc_net_counters none;

	return control->daemon->network ? svc_net_counters(control->daemon->network->net) : &none;
}

static uint64_t now_of(const _Atomic uint64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

static void network_drain(struct svc_control *control, bool close)
{
	if (!control->daemon->network)
		return;
	svc_net_drain(control->daemon->network->net, close);
	svc_agent_wake(&control->daemon->devices[0].agent);
}

static bool all_idle(struct svc_control *control)
{
	if (now_of(&network_counters(control)->in_flight))
		return false;
	for (uint32_t i = 0; i < control->daemon->device_count; i++) {
		struct svc_probe *probe = control->daemon->devices[i].probe;

		if (svc_probe_ask(probe) || !probe->idle)
			return false;
	}
	/* The text role's requests, and replies that the front has yet to put. */
	for (uint32_t i = 0; i < control->clients_max; i++) {
		struct svc_front_view view;

		if (control->clients[i].state != CLIENT_LIVE)
			continue;
		svc_front_view(control->daemon->front, i, &view);
		if (view.in_flight)
			return false;
	}
	return true;
}

/* What a client over shared memory has not read stays in its memory; over the network it is here alone. It is waited for as long as there
 * gets to be less of it. */
static void wait_read(struct svc_control *control, int64_t until_ns)
{
	const _Atomic uint64_t *kept = &network_counters(control)->kept;
	uint64_t least = UINT64_MAX, now;
	int64_t since_ns = 0;

	while (!control->stopping && (now = now_of(kept)) > 0 && base_monotonic_ns() < until_ns) {
		if (now < least) {
			least = now;
			since_ns = base_monotonic_ns();
		} else if (base_monotonic_ns() - since_ns > UNREAD_MS * INT64_C(1000000)) {
			return;
		}
		turn(control);
	}
}

static void drain(struct svc_control *control)
{
	int64_t until_ns = base_monotonic_ns() + DRAIN_MS * INT64_C(1000000);

	svc_notify("STOPPING=1");
	control->draining = true;
	control->stopping = false; /* a second signal cuts it short */
	listen_on(control, false);
	for (uint32_t i = 0; i < control->clients_max; i++)
		if (control->clients[i].state == CLIENT_LIVE)
			shm_daemon_end_state(&control->clients[i].rings->end, SHM_DRAINING);
	network_drain(control, false);
	command(control, SVC_DRAIN, 0, 0, NULL);
	base_log(BASE_LOG_INFO, "control", "draining", "clients=%u", control->client_count);
	while (!control->stopping && base_monotonic_ns() < until_ns && !all_idle(control))
		turn(control);
	wait_read(control, until_ns);
	for (uint32_t i = 0; i < control->clients_max; i++)
		client_leave(control, i, "the daemon goes down");
	network_drain(control, true);
	until_ns = base_monotonic_ns() + 1000000000;
	while ((control->client_count || now_of(&network_counters(control)->clients)) && base_monotonic_ns() < until_ns)
		turn(control);
}

int svc_control_run(struct svc_control *control)
{
	while (!control->stopping)
		turn(control);
	drain(control);
	base_log(BASE_LOG_INFO, "control", "stopped", "clients_left=%u", control->client_count);
	return 0;
}

/* ---- making and unmaking -------------------------------------------------------------- */

static int listen_all(struct svc_control *control)
{
	const struct svc_config *config = &control->daemon->config;
	char visit_path[SVC_PATH_BYTES + 16];

	if (mkdir(config->runtime_dir, 0755) && errno != EEXIST)
		return base_fail(errno, "[daemon] runtime_dir %s: %s; create it, or choose another",
			config->runtime_dir, strerror(errno));
	snprintf(control->listen_path, sizeof(control->listen_path), "%s/attnd.sock",
		config->runtime_dir);
	snprintf(visit_path, sizeof(visit_path), "%s/attnd.ctl", config->runtime_dir);
	control->listen_fd =
		shm_attach_listen(control->listen_path, (mode_t)svc_config_socket_mode(config));
	if (control->listen_fd < 0)
		return control->listen_fd;
	return svc_visit_create(&control->visit, control, visit_path);
}

static int watch_all(struct svc_control *control)
{
	sigset_t signals;

	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGHUP);
	control->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	control->signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
	control->listening = true;
	if (control->epoll_fd < 0 || control->signal_fd < 0 ||
		watch_fd(control, EPOLL_CTL_ADD, control->listen_fd, EPOLLIN, WATCH_LISTEN, 0) ||
		watch_fd(control, EPOLL_CTL_ADD, svc_visit_fd(control->visit), EPOLLIN, WATCH_VISIT, 0) ||
		watch_fd(control, EPOLL_CTL_ADD, control->signal_fd, EPOLLIN, WATCH_SIGNAL, 0) ||
		watch_fd(control, EPOLL_CTL_ADD, control->daemon->events_fd, EPOLLIN, WATCH_EVENTS,
			0))
		return base_fail(errno, "control: %s", strerror(errno));
	return 0;
}

int svc_control_create(struct svc_control **control_out, struct svc_daemon *daemon,
	const char *config_path, const char *const *overrides, uint32_t override_count)
{
	struct svc_control *control = calloc(1, sizeof(*control));

	if (!control)
		return base_fail(ENOMEM, "control: out of memory");
	control->daemon = daemon;
	control->config_path = config_path;
	control->overrides = overrides;
	control->override_count = override_count;
	control->clients_max = (uint32_t)daemon->config.max_clients;
	control->epoll_fd = control->listen_fd = control->signal_fd = -1;
	control->attach_refill_ns = control->tick_ns = base_monotonic_ns();
	for (uint32_t i = 0; i < GUESTS_MAX; i++)
		control->guests[i].socket = control->guests[i].peer.pidfd = -1;
	control->clients = calloc(control->clients_max, sizeof(*control->clients));
	int rc = control->clients ? listen_all(control)
				  : base_fail(ENOMEM, "control: out of memory");

	if (!rc)
		rc = watch_all(control);
	if (rc) {
		svc_control_destroy(control);
		return rc;
	}
	*control_out = control;
	return 0;
}

/* The agents are stopped by now, or were never started: no client's memory is in use. */
void svc_control_destroy(struct svc_control *control)
{
	if (!control)
		return;
	for (uint32_t i = 0; control->clients && i < control->clients_max; i++)
		if (control->clients[i].state != CLIENT_FREE)
			client_free(control, i);
	for (uint32_t i = 0; i < GUESTS_MAX; i++)
		guest_close(&control->guests[i]);
	svc_visit_destroy(control->visit);
	if (control->listen_fd >= 0)
		unlink(control->listen_path);
	close_fd(&control->listen_fd);
	close_fd(&control->signal_fd);
	close_fd(&control->epoll_fd);
	free(control->clients);
	free(control);
}

/* ---- for svc_status ------------------------------------------------------------------- */

struct svc_daemon *svc_control_daemon(struct svc_control *control)
{
	return control->daemon;
}

uint32_t svc_control_clients(
	const struct svc_control *control, struct svc_client_view *views, uint32_t capacity)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < control->clients_max && count < capacity; i++) {
		const struct client *client = &control->clients[i];

		if (client->state != CLIENT_FREE)
			views[count++] = (struct svc_client_view){ .id = i,
				.uid = client->peer.uid,
				.pid = (uint32_t)client->peer.pid,
				.tenant = client->tenant,
				.leaving = client->state == CLIENT_LEAVING,
				.arena_bytes = client->rings->segment.head.arena_bytes,
				.huge = client->rings->segment.huge };
	}
	return count;
}
