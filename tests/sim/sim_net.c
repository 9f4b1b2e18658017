/*
 * See sim_net.h.
 */
#include "tests/sim/sim_net.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_assert.h"
#include "base/base_error.h"
#include "base/base_rand.h"
#include "netio/net_caller.h"

enum { PACKETS_MAX = 4096, ROOM_BYTES = 64 * 1024, TENANTS = 1 };

#define TRIP_NS INT64_C(50000)
#define LATE_NS INT64_C(3000000)
#define RESUME_NS INT64_C(5000000000)

struct packet {
	int64_t at_ns;
	size_t bytes;
	unsigned char *data;
};

/* One way of a link: what is on it, in any order. */
struct way {
	struct packet packets[PACKETS_MAX];
	uint32_t count;
	int64_t last_ns; /* streams: nothing overtakes */
};

/* A client's end, and its socket. */
struct link {
	struct svc_rings *rings; /* NULL: nobody */
	struct net_caller *caller;
	struct way there, back;
	uint32_t name;           /* the front's, of the stream */
	bool accepted;           /* the front knows of the stream */
	bool closing;            /* the front has closed it; what was sent still arrives */
	bool wants_room;
	int64_t connects_ns;     /* when its next socket reaches the front; INT64_MAX: none on the way */
	int64_t broken_until_ns; /* no new socket before */
	struct attnd_completion held; /* a completion for which its ring had no room */
	bool holds;
};

struct sim_net {
	struct sim_net_options options;
	uint64_t random;
	struct svc_net *net;
	struct net_pool *in, *out, *parts;
	struct net_above above;
	struct net_port port;
	struct link *links; /* [clients_max] */
	unsigned char room[ROOM_BYTES];
	struct sim_net_totals totals;
};

static uint64_t below(struct sim_net *net, uint64_t n)
{
	return base_rand_below(&net->random, n);
}

static bool happens(struct sim_net *net, uint32_t permille, uint64_t *count)
{
	const bool does = below(net, 1000) < permille;

	*count += does;
	return does;
}

/* ---- ways ------------------------------------------------------------------------------------------------- */

static void way_clear(struct way *way)
{
	for (uint32_t i = 0; i < way->count; i++)
		free(way->packets[i].data);
	way->count = 0;
	way->last_ns = 0;
}

static void way_add(struct way *way, int64_t at_ns, const unsigned char *data, size_t bytes)
{
	struct packet *packet = &way->packets[way->count];

	BASE_ASSERT(way->count < PACKETS_MAX);
	*packet = (struct packet){ .at_ns = at_ns, .bytes = bytes, .data = malloc(bytes) };
	BASE_ASSERT(packet->data);
	memcpy(packet->data, data, bytes);
	way->count++;
}

/* The next packet that has arrived, out of the way and the caller's to free; false: none has. */
static bool way_take(struct way *way, int64_t now_ns, struct packet *packet)
{
	uint32_t first = way->count;

	for (uint32_t i = 0; i < way->count; i++)
		if (way->packets[i].at_ns <= now_ns && (first == way->count || way->packets[i].at_ns < way->packets[first].at_ns))
			first = i;
	if (first == way->count)
		return false;
	*packet = way->packets[first];
	memmove(&way->packets[first], &way->packets[first + 1], (--way->count - first) * sizeof(*packet));
	return true;
}

static int64_t way_next_ns(const struct way *way)
{
	int64_t next_ns = INT64_MAX;

	for (uint32_t i = 0; i < way->count; i++)
		next_ns = way->packets[i].at_ns < next_ns ? way->packets[i].at_ns : next_ns;
	return next_ns;
}

static void carry_datagram(struct sim_net *net, struct way *way, const unsigned char *data, size_t bytes)
{
	const struct sim_net_faults *faults = &net->options.faults;
	const uint32_t copies = happens(net, faults->lost, &net->totals.lost) ? 0 : 1 + happens(net, faults->doubled, &net->totals.doubled);

	for (uint32_t i = 0; i < copies && way->count < PACKETS_MAX; i++) {
		const int64_t late_ns = happens(net, faults->late, &net->totals.late) ? (int64_t)below(net, LATE_NS) : 0;

		way_add(way, net->options.clock->fake_ns + TRIP_NS + late_ns, data, bytes);
		/* Who speaks plain is not looked after: there is no tag. */
		if (!net->options.plain && happens(net, faults->changed, &net->totals.changed))
			way->packets[way->count - 1].data[below(net, bytes)] ^= (unsigned char)(1 + below(net, 255));
	}
}

static void carry_stream(struct sim_net *net, struct way *way, const unsigned char *data, size_t bytes)
{
	const int64_t at_ns = net->options.clock->fake_ns + TRIP_NS + (int64_t)below(net, TRIP_NS);

	way->last_ns = at_ns > way->last_ns ? at_ns : way->last_ns;
	/* In two pieces, cut anywhere; nothing overtakes. */
	const size_t cut = below(net, bytes + 1);

	if (cut > 0)
		way_add(way, way->last_ns, data, cut);
	if (cut < bytes)
		way_add(way, ++way->last_ns, data + cut, bytes - cut);
}

static void carry(struct sim_net *net, struct way *way, const unsigned char *data, size_t bytes)
{
	net->totals.packets++;
	if (net->options.datagrams)
		carry_datagram(net, way, data, bytes);
	else
		carry_stream(net, way, data, bytes);
}

/* ---- sockets ---------------------------------------------------------------------------------------------- */

static struct net_way way_of(const struct sim_net *net, const struct link *link)
{
	const uint32_t place = (uint32_t)(link - net->links);
	struct net_way way = { .stream = net->options.datagrams ? NET_NO_STREAM : place };

	memcpy(way.address, &place, sizeof(place));
	return way;
}

/* Both ends find the socket gone. */
static void socket_break(struct sim_net *net, struct link *link)
{
	const bool was_accepted = link->accepted && !link->closing;

	way_clear(&link->there);
	way_clear(&link->back);
	link->accepted = link->closing = link->wants_room = false;
	link->connects_ns = INT64_MAX;
	link->broken_until_ns = net->options.clock->fake_ns + 1000 + (int64_t)below(net, 20 * TRIP_NS);
	if (was_accepted)
		net->above.gone(net->above.context, link->name);
	if (link->caller)
		net_caller_broke(link->caller);
}

static void socket_connect(struct sim_net *net, struct link *link, bool resume)
{
	const int64_t now_ns = net->options.clock->fake_ns;

	net_caller_start(link->caller, now_ns, resume, net->options.datagrams ? 1400 : 0);
	link->connects_ns = net->options.datagrams ? INT64_MAX : now_ns + TRIP_NS;
	net->totals.resumed += resume;
}

/* ---- the front's transport -------------------------------------------------------------------------------- */

static void deliver_stream(struct sim_net *net, struct link *link, struct packet *packet)
{
	/* What arrives before the connection does cannot be; what arrives after the front has closed it goes nowhere. */
	if (link->closing)
		return;
	if (!net->above.received(net->above.context, link->name, packet->data, packet->bytes)) {
		link->closing = true;
		link->accepted = false;
	}
}

static int port_poll_link(struct sim_net *net, struct link *link)
{
	const int64_t now_ns = net->options.clock->fake_ns;
	const struct net_way way = way_of(net, link);
	struct packet packet;
	int work = 0;

	if (link->connects_ns <= now_ns) {
		link->connects_ns = INT64_MAX;
		link->accepted = net->above.opened(net->above.context, &way, &link->name);
		link->closing = !link->accepted;
		work++;
	}
	if (link->accepted && link->wants_room && below(net, 4)) {
		link->wants_room = false;
		net->above.writable(net->above.context, link->name);
		work++;
	}
	while ((net->options.datagrams || link->accepted || link->closing) && way_take(&link->there, now_ns, &packet)) {
		if (net->options.datagrams)
			net->above.datagram(net->above.context, &way, packet.data, packet.bytes);
		else
			deliver_stream(net, link, &packet);
		free(packet.data);
		work++;
	}
	/* A stream that the front has closed: the client notices when what was sent has arrived. */
	if (link->closing && link->back.count == 0 && link->caller) {
		socket_break(net, link);
		work++;
	}
	return work;
}

static int port_poll(void *self)
{
	struct sim_net *net = self;
	int work = 0;

	for (uint32_t i = 0; i < net->options.clients_max; i++)
		work += port_poll_link(net, &net->links[i]);
	return work;
}

static struct link *link_of(struct sim_net *net, const struct net_way *way)
{
	uint32_t place;

	memcpy(&place, way->address, sizeof(place));
	BASE_ASSERT(place < net->options.clients_max);
	return &net->links[place];
}

static unsigned char *port_room(void *self, const struct net_way *way, size_t least, size_t *bytes)
{
	struct sim_net *net = self;

	if (below(net, 16) == 0) {
		link_of(net, way)->wants_room = !net->options.datagrams;
		return NULL;
	}
	*bytes = least + below(net, ROOM_BYTES - least + 1);
	return net->room;
}

static void port_put(void *self, const struct net_way *way, size_t bytes)
{
	struct sim_net *net = self;
	struct link *link = link_of(net, way);

	if (bytes > 0 && link->caller)
		carry(net, &link->back, net->room, bytes);
}

static void port_flush(void *self)
{
	(void)self;
}

static void port_close(void *self, uint32_t stream)
{
	struct sim_net *net = self;
	struct link *link = &net->links[stream];

	BASE_ASSERT(link->accepted);
	link->accepted = false;
	link->closing = true;
}

static bool port_sleep_begin(void *self)
{
	(void)self;
	return false;
}

/* ---- clients' ends ---------------------------------------------------------------------------------------- */

static void answer(struct link *link, const struct attnd_request *record, enum attnd_status status, int64_t now_ns)
{
	const struct attnd_completion completion = { .request_id = record->request_id, .status = (uint8_t)status,
		.flags = ATTND_CPL_FINAL, .received_ns = now_ns, .done_ns = now_ns };

	BASE_ASSERT(shm_cpl_put(&link->rings->end, &completion));
}

static int take_records(struct sim_net *net, struct link *link)
{
	const struct shm_segment *segment = &link->rings->segment;
	struct attnd_request record;
	void *in, *out;
	int taken = 0, rc;

	while (net_caller_state(link->caller) == NET_CALLER_OPEN && shm_sub_take(&link->rings->end, &record)) {
		taken++;
		if (!shm_arena_range(segment, record.in_offset, record.in_bytes, &in) ||
			!shm_arena_range(segment, record.out_offset, record.out_capacity, &out)) {
			answer(link, &record, ATTND_BAD_RANGE, net->options.clock->fake_ns);
			continue;
		}
		rc = net_caller_send(link->caller, &record, in, out);
		if (rc == -EMSGSIZE)
			answer(link, &record, ATTND_TOO_LARGE, net->options.clock->fake_ns);
		else
			BASE_ASSERT(rc == 0);
	}
	return taken;
}

static int put_completions(struct link *link)
{
	int put = 0;

	while (link->holds || net_caller_receive(link->caller, &link->held)) {
		link->holds = !shm_cpl_put(&link->rings->end, &link->held);
		if (link->holds)
			break;
		put++;
	}
	return put;
}

static int exchange(struct sim_net *net, struct link *link)
{
	const int64_t now_ns = net->options.clock->fake_ns;
	unsigned char bytes[NET_PACKET_BYTES_MAX];
	struct packet packet;
	size_t count;
	int work = 0;

	while (way_take(&link->back, now_ns, &packet)) {
		net_caller_packet(link->caller, now_ns, packet.data, packet.bytes);
		free(packet.data);
		work++;
	}
	while ((count = net_caller_next_packet(link->caller, now_ns, bytes)) > 0) {
		carry(net, &link->there, bytes, count);
		work++;
	}
	return work;
}

static int poll_client(struct sim_net *net, struct link *link)
{
	const int64_t now_ns = net->options.clock->fake_ns;
	int work = take_records(net, link) + put_completions(link);

	if (work == 0)
		net_caller_rest(link->caller);
	work += exchange(net, link);
	if (net_caller_state(link->caller) == NET_CALLER_OPEN && work > 0 &&
		happens(net, net->options.faults.broken, &net->totals.broken))
		socket_break(net, link);
	if (net_caller_state(link->caller) == NET_CALLER_LOST && now_ns >= link->broken_until_ns) {
		socket_break(net, link);
		link->broken_until_ns = 0;
		socket_connect(net, link, true);
		work++;
	}
	return work;
}

/* ---- life ------------------------------------------------------------------------------------------------- */

static void random_bytes(void *context, void *to, size_t bytes)
{
	struct sim_net *net = context;

	for (size_t i = 0; i < bytes; i++)
		((unsigned char *)to)[i] = (unsigned char)base_rand_next(&net->random);
}

static void *block_take(void *context, uint32_t bytes)
{
	(void)context;
	return malloc(bytes);
}

static void block_give(void *context, void *block)
{
	(void)context;
	free(block);
}

void sim_net_plug(struct sim_net *net, uint32_t place, struct svc_rings *rings)
{
	struct link *link = &net->links[place];
	struct net_caller_options options = { .datagram = net->options.datagrams,
		.plain = net->options.plain,
		.message_bytes_max = 1 << 20,
		.dead_after_ns = RESUME_NS,
		.blocks = { NULL, block_take, block_give },
		.random_context = net,
		.random = random_bytes };

	memset(options.key, SIM_NET_KEY_BYTE, sizeof(options.key));
	BASE_ASSERT(!link->rings && !net_caller_create(&link->caller, &options));
	way_clear(&link->back);
	if (!net->options.datagrams)
		way_clear(&link->there);
	link->rings = rings;
	link->holds = false;
	socket_connect(net, link, false);
}

void sim_net_unplug(struct sim_net *net, uint32_t place)
{
	struct link *link = &net->links[place];

	const bool says_bye = below(net, 2);

	if (says_bye) {
		net_caller_end(link->caller, NET_WHY_BYE);
		(void)exchange(net, link);
	}
	net_caller_destroy(link->caller);
	link->caller = NULL;
	link->rings = NULL;
	/* What it said last still arrives; a stream's end does too, behind it. */
	if (!says_bye || !net->options.datagrams)
		socket_break(net, link);
}

int sim_net_poll(struct sim_net *net)
{
	int work = 0;

	for (uint32_t i = 0; i < net->options.clients_max; i++)
		if (net->links[i].rings)
			work += poll_client(net, &net->links[i]);
	return work + svc_net_poll(net->net);
}

static int64_t sooner(int64_t a_ns, int64_t b_ns)
{
	return a_ns < b_ns ? a_ns : b_ns;
}

int64_t sim_net_next_ns(struct sim_net *net)
{
	int64_t next_ns = svc_net_next_event_ns(net->net);

	for (uint32_t i = 0; i < net->options.clients_max; i++) {
		const struct link *link = &net->links[i];

		next_ns = sooner(next_ns, sooner(way_next_ns(&link->there), way_next_ns(&link->back)));
		next_ns = sooner(next_ns, link->connects_ns);
		if (!link->caller)
			continue;
		if (net_caller_state(link->caller) == NET_CALLER_LOST)
			next_ns = sooner(next_ns, link->broken_until_ns);
		else
			next_ns = sooner(next_ns, net_caller_event_ns(link->caller));
	}
	return next_ns;
}

bool sim_net_empty(const struct sim_net *net)
{
	return atomic_load(&svc_net_counters(net->net)->clients) == 0;
}

int sim_net_check(struct sim_net *net)
{
	int rc = svc_net_check(net->net);

	if (!rc && atomic_load(&svc_net_counters(net->net)->unowed))
		rc = base_fail(EINVAL, "network front: a completion that nobody was owed");
	for (uint32_t i = 0; i < net->options.clients_max && !rc; i++) {
		const struct link *link = &net->links[i];

		if (link->caller && (net_caller_state(link->caller) == NET_CALLER_ENDED || net_caller_state(link->caller) == NET_CALLER_REFUSED))
			rc = base_fail(EINVAL, "the connection of client %u has ended: %s", i, net_why_text(net_caller_why(link->caller)));
	}
	return rc;
}

const struct sim_net_totals *sim_net_totals(const struct sim_net *net)
{
	return &net->totals;
}

const struct svc_net_counters *sim_net_counters(const struct sim_net *net)
{
	return svc_net_counters(net->net);
}

static struct svc_net *role_create(struct sim_net *net)
{
	const struct net_host_listener listener = { .plain = net->options.plain };
	const uint32_t tenant_clients[TENANTS] = { UINT32_MAX };
	struct net_host_key key = { .tenant = 0 };
	struct svc_net_options options = { .host = { .random = random_bytes,
			.random_context = net,
			.keys = &key,
			.key_count = 1,
			.listeners = &listener,
			.listener_count = 1,
			.half_open_max = net->options.clients_max,
			.hello_ns = 2000000000,
			.idle_ns = INT64_C(20) * 1000000000 },
		.clock = net->options.clock,
		.boot_id = net->options.seed,
		.clients_max = 2 * net->options.clients_max,
		.in_flight = net->options.in_flight,
		.streams = net->options.streams,
		.window_bytes = 1 << 18,
		.message_bytes = 1 << 16,
		.resume_ns = RESUME_NS,
		.slow_ns = RESUME_NS,
		.in = net->in,
		.out = net->out,
		.parts = net->parts,
		.tenant_clients_max = tenant_clients,
		.tenant_count = TENANTS,
		.device_count = 1,
		.to_device = { net->options.to_device },
		.from_device = { net->options.from_device },
		.to_text = net->options.to_text,
		.from_text = net->options.from_text };
	struct svc_net *role = NULL;

	memset(key.key, SIM_NET_KEY_BYTE, sizeof(key.key));
	BASE_ASSERT(!svc_net_create(&role, &options));
	return role;
}

struct sim_net *sim_net_create(const struct sim_net_options *options)
{
	struct sim_net *net = calloc(1, sizeof(*net));

	BASE_ASSERT(net && !net_secure_init());
	net->options = *options;
	net->random = options->seed * 3 + 7;
	net->links = calloc(options->clients_max, sizeof(*net->links));
	BASE_ASSERT(net->links && !net_pool_create(&net->in, options->memory_bytes, -1) &&
		!net_pool_create(&net->out, options->memory_bytes, -1) && !net_pool_create(&net->parts, options->memory_bytes, -1));
	for (uint32_t i = 0; i < options->clients_max; i++)
		net->links[i].connects_ns = INT64_MAX;
	net->net = role_create(net);
	net->above = svc_net_above(net->net);
	net->port = (struct net_port){ .name = "simulated", .self = net, .poll = port_poll, .room = port_room, .put = port_put,
		.flush = port_flush, .close = port_close, .sleep_begin = port_sleep_begin, .wait_fd = -1 };
	svc_net_attach(net->net, &net->port);
	return net;
}

static void pool_end(struct net_pool *pool)
{
	BASE_ASSERT(!net_pool_check(pool) && net_pool_free_bytes(pool) == net_pool_bytes(pool));
	net_pool_destroy(pool);
}

void sim_net_destroy(struct sim_net *net)
{
	for (uint32_t i = 0; i < net->options.clients_max; i++) {
		way_clear(&net->links[i].there);
		way_clear(&net->links[i].back);
		net_caller_destroy(net->links[i].caller);
	}
	svc_net_destroy(net->net);
	pool_end(net->in);
	pool_end(net->out);
	pool_end(net->parts);
	free(net->links);
	free(net);
}
