/*
 * See sim_world.h. A failure is recorded once, with the round it came in; everything is a function
 * of the seed.
 */
#include "tests/sim/sim_world.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_assert.h"
#include "base/base_error.h"
#include "base/base_rand.h"
#include "sched/sched_calibrate.h"
#include "sched/sched_private.h"
#include "service/svc_front.h"
#include "service/svc_text.h"
#include "tests/sim/sim_client.h"
#include "tests/sim/sim_device.h"
#include "tests/sim/sim_net.h"

#define CALIBRATE_NS INT64_C(300000000)
enum { ROWS_MAX = 64, OUT_ROWS_MAX = 16, POLLS_MAX = 100000, QUIET_POLLS = 4 };
/* Over a network the front still knows clients whom it waits for while others have taken their places. */
enum { CLIENTS_MAX = 2 * SIM_CLIENTS };

struct world {
	const struct sim_world_options *options;
	struct sim_world_report *report;
	struct base_clock clock;
	uint64_t random;
	struct sim_device_options device_options;
	struct sim_device *device; /* NULL: it is the CPU */
	struct kern_backend *backend;
	struct model *model;
	struct kern_program program;
	struct model_info info;
	struct sched_model sched_model;
	struct sched_tenant tenant;
	const struct model_tokenizer *tokenizer;
	uint64_t tenant_models;
	struct base_spsc in, out, replies, to_text, from_text, commands, events;
	struct sched *sched;
	struct svc_front *front;
	struct sim_net *net; /* in its place */
	struct svc_text *text;
	struct sim_client *clients[SIM_CLIENTS]; /* NULL: the place is free */
	bool leaving[SIM_CLIENTS];
	int64_t born_ns[SIM_CLIENTS]; /* when a free place is taken again */
	bool planted;
};

static void fail(struct world *world, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

static void fail(struct world *world, const char *format, ...)
{
	va_list arguments;

	if (world->report->failed)
		return;
	world->report->failed = true;
	world->report->failed_at_ns = world->clock.fake_ns;
	va_start(arguments, format);
	vsnprintf(world->report->message, sizeof(world->report->message), format, arguments);
	va_end(arguments);
}

/* ---- making and unmaking -------------------------------------------------------------- */

static void make_device(struct world *world)
{
	uint64_t seed = world->options->seed;

	world->device_options = (struct sim_device_options){ .clock = &world->clock,
		.work_ns = 20000,
		.row_ns = 3000,
		.visit_ps = 2000,
		.kib_ns = 20,
		.host_memory = seed % 2,
		.seed = seed,
		.errors_per_million = seed % 3 == 0 ? 300 : 0,
		.regular_permille = seed % 2 ? 900 : 0 };
	world->device = sim_device_create(&world->device_options);
	world->backend = sim_device_backend(world->device);
	sim_program_init(&world->program, 97, 8, ROWS_MAX, OUT_ROWS_MAX);
	BASE_ASSERT(!world->backend->ops->program_prepare(world->backend, &world->program));
	world->info = (struct model_info){ .name = "sim",
		.vocab = 97,
		.width = 8,
		.layers = world->program.kv.layers,
		.heads = world->program.kv.heads,
		.kv_heads = world->program.kv.kv_heads,
		.head_dim = world->program.kv.head_dim,
		.context = 4096 };
	world->sched_model =
		(struct sched_model){ .program = &world->program, .info = &world->info };
}

static void make_cpu(struct world *world)
{
	const struct kern_cpu_options cpu = { .struct_bytes = sizeof(cpu), .node = -1 };
	const struct model_options load = {
		.struct_bytes = sizeof(load), .max_rows = ROWS_MAX, .max_out_rows = OUT_ROWS_MAX
	};

	BASE_ASSERT(!kern_cpu_create(&world->backend, &cpu));
	BASE_ASSERT(!model_load(&world->model, world->options->model_path, world->backend, &load));
	world->tokenizer = model_tokenizer(world->model);
	world->sched_model = (struct sched_model){ .program = model_program(world->model),
		.info = model_info(world->model) };
}

static void make_net(struct world *world)
{
	const enum sim_way way = world->options->way;
	const bool rough = world->options->seed % 4 != 0;
	const struct sim_net_options options = { .clock = &world->clock,
		.seed = world->options->seed,
		.datagrams = way != SIM_WAY_STREAM,
		.plain = way == SIM_WAY_PLAIN_DATAGRAM,
		.faults = { .lost = rough ? 100 : 0, .doubled = rough ? 50 : 0, .late = rough ? 100 : 0, .changed = rough ? 10 : 0,
			.broken = rough ? 1 : 0 },
		.clients_max = SIM_CLIENTS,
		.in_flight = SIM_IN_FLIGHT,
		.streams = 24,
		.memory_bytes = world->options->seed % 2 ? 4 << 20 : 1 << 18,
		.to_device = &world->in,
		.from_device = &world->replies,
		.to_text = &world->to_text,
		.from_text = &world->from_text };

	world->net = sim_net_create(&options);
}

static void make_roles(struct world *world)
{
	const struct sched_options sched = { .struct_bytes = sizeof(sched),
		.clock = &world->clock,
		.backend = world->backend,
		.lanes = { { &world->in, &world->out, CLIENTS_MAX } },
		.lane_count = 1,
		.models = &world->sched_model,
		.model_count = 1,
		.tenants = &world->tenant,
		.tenant_count = 1,
		.boot_id = world->options->seed,
		.kv_default = KERN_KV_BF16,
		.kv_bytes = world->options->cpu ? 8 << 20 : world->options->seed % 4 ? 3 << 20 : 1 << 20,
		.sessions_max = 64,
		.requests_max = 256,
		.client_requests_max = SIM_IN_FLIGHT,
		.tokens_max = 512,
		.step_rows_max = ROWS_MAX,
		.prefill_chunk = 24,
		.out_rows_max = OUT_ROWS_MAX,
		.build = "sim",
		.speculate = world->options->seed % 5 ? (uint32_t)(world->options->seed % 16) : 0,
		.prefix_cache = world->options->seed % 3 != 0,
		.secret = { world->options->seed } };
	struct svc_front_options front = { .clock = &world->clock,
		.clients_max = SIM_CLIENTS,
		.device_count = 1,
		.to_text = &world->to_text,
		.from_text = &world->from_text,
		.commands = &world->commands,
		.events = &world->events };
	const struct svc_text_options text = { .clock = &world->clock,
		.lanes = { { &world->to_text, &world->from_text, CLIENTS_MAX } },
		.lane_count = 1,
		.tokenizers = &world->tokenizer,
		.model_count = 1,
		.tenant_models = &world->tenant_models,
		.tenant_count = 1 };

	front.to_device[0] = &world->in;
	front.from_device[0] =
		&world->replies; /* between them, a place to plant a doubled or lost reply */
	if (sched_create(&world->sched, &sched) || svc_text_create(&world->text, &text) ||
		(world->options->way == SIM_WAY_SHM && svc_front_create(&world->front, &front)))
		fail(world, "creation: %s", base_error_message());
	if (world->options->way != SIM_WAY_SHM)
		make_net(world);
}

/* As a daemon does before it serves; half of the worlds learn from their requests alone. On the CPU backend no time passes, as always
 * here. */
static void calibrate(struct world *world)
{
	struct sched_calibrate *calibrate;

	if (sched_calibrate_create(&calibrate, world->sched, CALIBRATE_NS)) {
		fail(world, "calibration: %s", base_error_message());
		return;
	}
	while (sched_calibrate_poll(calibrate)) {
		const int64_t next_ns = world->device ? sim_device_next_ns(world->device) : INT64_MAX;

		if (next_ns != INT64_MAX && next_ns > world->clock.fake_ns)
			world->clock.fake_ns = next_ns;
	}
	sched_calibrate_destroy(calibrate);
	if (sched_check(world->sched))
		fail(world, "after calibration: %s", base_error_message());
}

static void world_create(struct world *world)
{
	base_clock_init_fake(&world->clock, 1000000000);
	world->random = world->options->seed * 2 + 1;
	world->tenant = (struct sched_tenant){ .models = 1,
		.attention = true,
		.sessions_max = 1000,
		.kv_bytes_max = UINT64_MAX,
		.weight = 1 };
	world->tenant_models = 1;
	BASE_ASSERT(!base_spsc_create(&world->in, 1024, sizeof(struct sched_message)));
	BASE_ASSERT(!base_spsc_create(&world->out, 1024, sizeof(struct sched_reply)));
	BASE_ASSERT(!base_spsc_create(&world->replies, 1024, sizeof(struct sched_reply)));
	BASE_ASSERT(!base_spsc_create(&world->to_text, 1024, sizeof(struct sched_message)));
	BASE_ASSERT(!base_spsc_create(&world->from_text, 1024, sizeof(struct sched_reply)));
	BASE_ASSERT(!base_spsc_create(&world->commands, 64, sizeof(struct svc_command)));
	BASE_ASSERT(!base_spsc_create(&world->events, 64, sizeof(struct svc_event)));
	if (world->options->cpu)
		make_cpu(world);
	else
		make_device(world);
	make_roles(world);
	if (world->options->seed % 4 < 2)
		calibrate(world);
}

static void world_destroy(struct world *world)
{
	for (uint32_t i = 0; i < SIM_CLIENTS; i++)
		if (world->clients[i])
			sim_client_destroy(world->clients[i]);
	svc_text_destroy(world->text);
	svc_front_destroy(world->front);
	if (world->net)
		sim_net_destroy(world->net);
	sched_destroy(world->sched);
	if (world->model)
		model_destroy(world->model);
	if (world->device) {
		world->backend->ops->program_release(world->backend, &world->program);
		sim_device_destroy(world->device);
	} else {
		world->backend->ops->destroy(world->backend);
	}
	base_spsc_destroy(&world->events);
	base_spsc_destroy(&world->commands);
	base_spsc_destroy(&world->from_text);
	base_spsc_destroy(&world->to_text);
	base_spsc_destroy(&world->replies);
	base_spsc_destroy(&world->out);
	base_spsc_destroy(&world->in);
}

/* ---- planted bugs --------------------------------------------------------------------- */

static bool plant_due(const struct world *world, enum sim_plant plant)
{
	return world->options->plant == plant && !world->planted &&
		world->clock.fake_ns > world->options->duration_ns / 2;
}

/* From the scheduler to the front; here a reply can be doubled or lost. */
static int carry_replies(struct world *world)
{
	struct sched_reply *reply;
	int carried = 0;

	while ((reply = base_spsc_peek(&world->out))) {
		bool final = reply->kind == SCHED_COMPLETION &&
			reply->completion.flags & ATTND_CPL_FINAL;

		if (final && plant_due(world, SIM_PLANT_LOST_COMPLETION)) {
			world->planted = true;
			base_spsc_release(&world->out);
			continue;
		}
		if (!base_spsc_push(&world->replies, reply))
			break;
		if (final && plant_due(world, SIM_PLANT_DOUBLE_COMPLETION)) {
			world->planted = true;
			base_spsc_push(&world->replies, reply);
		}
		base_spsc_release(&world->out);
		carried++;
	}
	return carried;
}

static void plant_leak(struct world *world)
{
	if (!plant_due(world, SIM_PLANT_PAGE_LEAK))
		return;
	for (uint32_t i = 0; i < world->sched->options.sessions_max; i++) {
		const struct sched_session *session = &world->sched->sessions[i];

		if (session->client && session->block_count > 0) {
			sched_kv_reference(world->sched->kv, session->blocks[0]);
			world->planted = true;
			return;
		}
	}
}

/* ---- checks --------------------------------------------------------------------------- */

static void check(struct world *world)
{
	const struct svc_front_counters *front;

	if (sched_check(world->sched))
		fail(world, "scheduler: %s", base_error_message());
	if (world->net) {
		if (sim_net_check(world->net))
			fail(world, "%s", base_error_message());
		return;
	}
	front = svc_front_counters(world->front);
	if (atomic_load(&front->unowed))
		fail(world, "front: a completion that nobody was owed");
	if (atomic_load(&front->queue_full))
		fail(world, "front: a queue was full");
}

/* ---- a round -------------------------------------------------------------------------- */

/* Until nothing moves any more. A scheduler with work on the modelled device never rests, but
 * without time nothing comes of it; with work on the real one, polling is what computes. */
static void poll_all(struct world *world)
{
	for (int i = 0, quiet = 0; i < POLLS_MAX; i++) {
		int moved = world->net ? sim_net_poll(world->net) : svc_front_poll(world->front), polled = sched_poll(world->sched);

		moved += carry_replies(world) + svc_text_poll(world->text) +
			(world->device ? 0 : polled);
		world->report->rounds++;
		quiet = moved ? 0 : quiet + 1;
		if (quiet == QUIET_POLLS)
			return;
	}
	fail(world, "the roles never came to rest at one moment of time");
}

static void place_is_free(struct world *world, uint32_t place)
{
	sim_client_destroy(world->clients[place]);
	world->clients[place] = NULL;
	world->leaving[place] = false;
	world->born_ns[place] = world->clock.fake_ns + (int64_t)base_rand_below(&world->random, 500000000);
}

static void take_events(struct world *world)
{
	const struct svc_event *event;

	while ((event = base_spsc_peek(&world->events))) {
		uint32_t place = event->client;

		if (!world->leaving[place])
			fail(world, "front: client %u quiet without having left", place);
		place_is_free(world, place);
		base_spsc_release(&world->events);
	}
}

static void client_dies(struct world *world, uint32_t place)
{
	const struct svc_command command = { .kind = SVC_CLIENT_REMOVE, .client = place };

	if (world->net) {
		/* Nobody else touches its memory. */
		world->report->deaths++;
		sim_net_unplug(world->net, place);
		place_is_free(world, place);
		return;
	}
	world->leaving[place] = true;
	world->report->deaths++;
	BASE_ASSERT(base_spsc_push(&world->commands, &command));
}

static void client_is_born(struct world *world, uint32_t place)
{
	struct sim_client *client = sim_client_create(base_rand_next(&world->random), place,
		&world->clock, &world->sched_model, world->device ? &world->device_options : NULL);
	const struct svc_command command = {
		.kind = SVC_CLIENT_ADD, .client = place, .rings = sim_client_rings(client)
	};

	world->clients[place] = client;
	if (world->net) {
		sim_net_plug(world->net, place, sim_client_rings(client));
		return;
	}
	BASE_ASSERT(base_spsc_push(&world->commands, &command));
}

/* Lets every client whose time has come do something. acting: false while the world winds down.
 * True when anybody did. */
static bool clients_act(struct world *world, bool acting)
{
	int64_t now_ns = world->clock.fake_ns;
	bool any = false;

	for (uint32_t i = 0; i < SIM_CLIENTS; i++) {
		struct sim_client *client = world->clients[i];
		char message[256];

		if (world->leaving[i])
			continue;
		if (!client) {
			if (acting && now_ns >= world->born_ns[i]) {
				client_is_born(world, i);
				any = true;
			}
			continue;
		}
		any |= sim_client_consume(client, !acting, &world->report->digest) > 0;
		if (acting && now_ns >= sim_client_next_ns(client)) {
			any = true;
			if (sim_client_act(client))
				client_dies(world, i);
		}
		if (world->clients[i] && sim_client_failure(client, message, sizeof(message)))
			fail(world, "client %u: %s", i, message);
	}
	return any;
}

static void sooner(int64_t *next_ns, int64_t candidate_ns, int64_t now_ns)
{
	if (candidate_ns > now_ns && candidate_ns < *next_ns)
		*next_ns = candidate_ns;
}

/* The next moment at which something can happen; INT64_MAX: never again by itself. */
static int64_t next_moment(struct world *world, bool acting)
{
	int64_t now_ns = world->clock.fake_ns, next_ns = INT64_MAX;

	sooner(&next_ns, sched_next_event_ns(world->sched), now_ns);
	if (world->device)
		sooner(&next_ns, sim_device_next_ns(world->device), now_ns);
	if (world->net)
		sooner(&next_ns, sim_net_next_ns(world->net), now_ns);
	for (uint32_t i = 0; acting && i < SIM_CLIENTS; i++)
		if (!world->leaving[i])
			sooner(&next_ns,
				world->clients[i] ? sim_client_next_ns(world->clients[i])
						  : world->born_ns[i],
				now_ns);
	return next_ns;
}

static void run_until(struct world *world, int64_t end_ns, bool acting)
{
	while (!world->report->failed && world->clock.fake_ns < end_ns) {
		poll_all(world);
		plant_leak(world);
		take_events(world);
		check(world);
		if (clients_act(world, acting))
			continue;
		int64_t next_ns = next_moment(world, acting);

		if (next_ns == INT64_MAX)
			return; /* nothing will ever happen again by itself */
		world->clock.fake_ns = next_ns;
	}
}

/* Connections never rest: they ask each other whether they live. */
static int64_t end_of_winding_down(const struct world *world)
{
	return world->net ? world->clock.fake_ns + INT64_C(60) * 1000000000 : INT64_MAX;
}

/* Everybody stops asking; what is owed must come. Then everybody leaves; nothing may be left. */
static void wind_down(struct world *world)
{
	struct sched_counters counters;

	run_until(world, end_of_winding_down(world), false);
	for (uint32_t i = 0; i < SIM_CLIENTS && !world->report->failed; i++)
		if (world->clients[i] && sim_client_outstanding(world->clients[i]))
			fail(world, "client %u: %u requests were never completed", i,
				sim_client_outstanding(world->clients[i]));
	for (uint32_t i = 0; i < SIM_CLIENTS; i++)
		if (world->clients[i] && !world->leaving[i])
			client_dies(world, i);
	run_until(world, end_of_winding_down(world), false);
	sched_counters_read(world->sched, &counters);
	if (!sched_idle(world->sched) || counters.accepted != counters.completed ||
		counters.sessions || counters.requests || counters.clients ||
		counters.kv_bytes_used || counters.kv_bytes_dirty)
		fail(world,
			"at the end: accepted %llu, completed %llu, sessions %u, requests %u, clients %u, KV bytes %llu used, %llu dirty",
			(unsigned long long)counters.accepted,
			(unsigned long long)counters.completed, counters.sessions,
			counters.requests, counters.clients,
			(unsigned long long)counters.kv_bytes_used,
			(unsigned long long)counters.kv_bytes_dirty);
	if (world->net) {
		const struct sim_net_totals *totals = sim_net_totals(world->net);

		world->report->packets = totals->packets;
		world->report->lost = totals->lost;
		world->report->doubled = totals->doubled;
		world->report->late = totals->late;
		world->report->changed = totals->changed;
		world->report->broken = totals->broken;
		world->report->resumed = totals->resumed;
		if (!sim_net_empty(world->net))
			fail(world, "at the end: the network front still has clients");
	}
	world->report->accepted = counters.accepted;
	world->report->completed = counters.completed;
	world->report->streams = counters.stream_completions;
	world->report->steps = counters.steps;
	world->report->drafts = counters.draft_rows;
	world->report->drafts_accepted = counters.drafts_accepted;
	for (unsigned i = 0; i < ATTND_STATUS_END && i < 64; i++)
		world->report->by_status[i] = counters.by_status[i];
}

void sim_world_run(const struct sim_world_options *options, struct sim_world_report *report)
{
	struct world *world = calloc(1, sizeof(*world));

	BASE_ASSERT(world);
	memset(report, 0, sizeof(*report));
	world->options = options;
	world->report = report;
	world_create(world);
	run_until(world, world->clock.fake_ns + options->duration_ns, true);
	if (!report->failed)
		wind_down(world);
	world_destroy(world);
	free(world);
}
